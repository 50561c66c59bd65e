//! Resource quotas: what is used of them, and what exceeds them.

use super::quantity::Quantity;
use crate::kinds::{JOB, Kind, POD, RESOURCE_QUOTA};
use crate::store::{Object, Store};
use crate::util::{list_at, str_at};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

type Usage = BTreeMap<String, Quantity>;

/// Resources of pods that every container must name where a quota counts them.
const REQUIRED: [&str; 6] =
    ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

fn hard(quota: &Object) -> Usage {
    let map = quota.value["spec"]["hard"].as_object();
    map.into_iter().flatten().map(|(k, v)| (k.clone(), Quantity::parse(v.as_str().unwrap_or("0")))).collect()
}

/// What an object of a kind counts for.
fn usage(kind: &Kind, v: &Value) -> Usage {
    let mut out = Usage::new();
    let mut one = |name: String| {
        out.insert(name, Quantity::of(1));
    };
    one(format!("count/{}", kind.qualified()));
    if kind != &POD {
        if kind.group.is_empty() {
            one(kind.plural.to_string());
        }
        return out;
    }
    // A pod that has ended uses nothing but its place.
    if matches!(str_at(v, "/status/phase"), "Succeeded" | "Failed") {
        return out;
    }
    one("pods".to_string());
    for resource in ["cpu", "memory"] {
        for (group, names) in [
            ("requests", vec![resource.to_string(), format!("requests.{resource}")]),
            ("limits", vec![format!("limits.{resource}")]),
        ] {
            let amount = of_pod(&v["spec"], group, resource);
            if !amount.is_zero() {
                out.extend(names.into_iter().map(|name| (name, amount)));
            }
        }
    }
    out
}

/// What a pod asks for: its containers and sidecars, or an init container that asks for more.
fn of_pod(spec: &Value, group: &str, resource: &str) -> Quantity {
    let amount = |c: &Value| {
        let text = c.pointer(&format!("/resources/{group}/{resource}")).and_then(Value::as_str);
        Quantity::parse(text.unwrap_or("0"))
    };
    let (mut sidecars, mut peak) = (Quantity::default(), Quantity::default());
    for c in list_at(spec, "/initContainers") {
        if c["restartPolicy"] == "Always" {
            sidecars = sidecars.plus(amount(c));
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.plus(amount(c)));
        }
    }
    list_at(spec, "/containers").iter().fold(sidecars, |sum, c| sum.plus(amount(c))).max(peak)
}

/// What is used of the resources that a quota limits.
fn used(store: &Store, quota: &Object) -> Usage {
    let hard = hard(quota);
    let mut out: Usage = hard.keys().map(|name| (name.clone(), Quantity::default())).collect();
    for kind in crate::kinds::ALL.into_iter().filter(|kind| kind.namespaced && counts(&hard, kind)) {
        for o in store.list(kind, Some(&quota.namespace)).0 {
            for (name, amount) in usage(kind, &o.value) {
                if let Some(sum) = out.get_mut(&name) {
                    *sum = sum.plus(amount);
                }
            }
        }
    }
    out
}

fn counts(hard: &Usage, kind: &Kind) -> bool {
    let own = hard.contains_key(&format!("count/{}", kind.qualified()));
    own || hard.contains_key(kind.plural) || kind == &POD && REQUIRED.iter().any(|r| hard.contains_key(*r))
}

fn shown<'a>(usage: &Usage, names: impl Iterator<Item = &'a String>) -> String {
    let parts: Vec<String> =
        names.map(|n| format!("{n}={}", usage.get(n).copied().unwrap_or_default())).collect();
    parts.join(",")
}

/// What a quota says that is used: what has gone meanwhile is still counted.
fn recorded(quota: &Object) -> Option<Usage> {
    let map = quota.value.pointer("/status/used")?.as_object()?;
    Some(map.iter().map(|(k, v)| (k.clone(), Quantity::parse(v.as_str().unwrap_or("0")))).collect())
}

/// Counts a new object at once, as admission does.
pub(crate) fn charge(store: &Store, object: &Object) {
    let delta = usage(object.kind, &object.value);
    for quota in store.list(&RESOURCE_QUOTA, Some(&object.namespace)).0 {
        if !counts(&hard(&quota), object.kind) {
            continue;
        }
        let _ = store.update(&RESOURCE_QUOTA, &quota.namespace, &quota.name, |v, now| {
            for (name, used) in recorded(now).unwrap_or_default() {
                if let Some(more) = delta.get(&name) {
                    v["status"]["used"][name.as_str()] = used.plus(*more).to_string().into();
                }
            }
            Ok(())
        });
    }
}

/// Why a new object is refused, if it is; `lags` when what is used is what the quota says.
pub(super) fn check(store: &Store, kind: &Kind, namespace: &str, v: &Value, lags: bool) -> Option<String> {
    if kind == &RESOURCE_QUOTA || kind.kind == "Event" {
        return None;
    }
    let delta = usage(kind, v);
    for quota in store.list(&RESOURCE_QUOTA, Some(namespace)).0 {
        let hard = hard(&quota);
        if !counts(&hard, kind) {
            continue;
        }
        if let Some(missing) = unnamed(kind, &hard, v) {
            return Some(format!("failed quota: {}: must specify {missing}", quota.name));
        }
        let used = recorded(&quota).filter(|_| lags).unwrap_or_else(|| used(store, &quota));
        let over: Vec<&String> = hard
            .iter()
            .filter(|(name, limit)| {
                let more = delta.get(*name).copied().unwrap_or_default();
                !more.is_zero() && used.get(*name).copied().unwrap_or_default().plus(more) > **limit
            })
            .map(|(name, _)| name)
            .collect();
        if !over.is_empty() {
            let show = |usage: &Usage| shown(usage, over.iter().copied());
            return Some(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                quota.name,
                show(&delta),
                show(&used),
                show(&hard)
            ));
        }
    }
    None
}

/// The resources that a quota counts and that containers of a pod do not name.
fn unnamed(kind: &Kind, hard: &Usage, v: &Value) -> Option<String> {
    if kind != &POD {
        return None;
    }
    let mut out = Vec::new();
    for name in REQUIRED.iter().filter(|name| hard.contains_key(**name)) {
        let (group, resource) = name.split_once('.').unwrap_or(("requests", name));
        let mut missing: Vec<&str> = ["containers", "initContainers"]
            .into_iter()
            .flat_map(|key| list_at(&v["spec"], &format!("/{key}")))
            .filter(|c| c.pointer(&format!("/resources/{group}/{resource}")).is_none())
            .map(|c| str_at(c, "/name"))
            .collect();
        missing.sort_unstable();
        if !missing.is_empty() {
            out.push(format!("{name} for: {}", missing.join(",")));
        }
    }
    (!out.is_empty()).then(|| out.join("; "))
}

/// Brings what a quota says of its use up to date.
pub(crate) fn refresh(store: &Store, quota: &Object) {
    let used = used(store, quota);
    let texts: Map<String, Value> =
        used.iter().map(|(name, amount)| (name.clone(), amount.to_string().into())).collect();
    let _ = store.update(&RESOURCE_QUOTA, &quota.namespace, &quota.name, |v, _| {
        let hard = v["spec"]["hard"].clone();
        v["status"]["hard"] = hard;
        v["status"]["used"] = texts.into();
        Ok(())
    });
}

/// Whether a change of an object of this kind changes what is used of quotas.
pub(crate) fn concerns(kind: &Kind) -> bool {
    kind == &POD || kind == &JOB || kind == &RESOURCE_QUOTA
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn store(hard: Value) -> Store {
        let s = Store::default();
        let quota = json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": hard}});
        s.create(&RESOURCE_QUOTA, quota).expect("created");
        s
    }

    fn pod(name: &str, cpu: &str) -> Value {
        let c = |name: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        json!({"metadata": {"name": name, "namespace": "n"}, "spec": {
            "initContainers": [c("i")], "containers": [c("c")]}})
    }

    #[test]
    fn quota_on_pods_refuses_what_exceeds_it() {
        let s = store(json!({"pods": "2", "requests.cpu": "30m"}));
        s.create(&POD, pod("a", "20m")).expect("created");
        assert_eq!(check(&s, &POD, "n", &pod("b", "10m"), false), None);
        assert_eq!(
            check(&s, &POD, "n", &pod("b", "20m"), false).as_deref(),
            Some(
                "exceeded quota: q, requested: requests.cpu=20m, used: requests.cpu=20m, limited: requests.cpu=30m"
            )
        );
        let mut bare = pod("c", "1m");
        bare["spec"]["containers"][0]["resources"] = json!({});
        assert_eq!(
            check(&s, &POD, "n", &bare, false).as_deref(),
            Some("failed quota: q: must specify requests.cpu for: c")
        );
    }

    #[test]
    fn quota_on_jobs_counts_jobs() {
        let s = store(json!({"count/jobs.batch": "0"}));
        let job = json!({"metadata": {"name": "j", "namespace": "n"}});
        assert_eq!(
            check(&s, &JOB, "n", &job, false).as_deref(),
            Some(
                "exceeded quota: q, requested: count/jobs.batch=1, used: count/jobs.batch=0, limited: count/jobs.batch=0"
            )
        );
        assert_eq!(check(&s, &POD, "n", &pod("a", "1m"), false), None);
    }

    #[test]
    fn deleted_job_counts_until_the_quota_is_refreshed() {
        let s = store(json!({"count/jobs.batch": "1"}));
        let job = json!({"metadata": {"name": "j", "namespace": "n"}});
        let quota = || s.get(&RESOURCE_QUOTA, "n", "q").expect("there");
        refresh(&s, &quota());
        let made = s.create(&JOB, job.clone()).expect("created");
        charge(&s, &made);
        assert_eq!(quota().value["status"]["used"]["count/jobs.batch"], "1");
        s.remove(&JOB, "n", "j", None).expect("removed");
        assert!(check(&s, &JOB, "n", &job, true).is_some_and(|why| why.contains("used: count/jobs.batch=1")));
        assert_eq!(check(&s, &JOB, "n", &job, false), None);
        refresh(&s, &quota());
        assert_eq!(check(&s, &JOB, "n", &job, true), None);
    }

    #[test]
    fn ended_pod_uses_no_quota() {
        let s = store(json!({"pods": "1"}));
        let mut p = pod("a", "1m");
        p["status"] = json!({"phase": "Succeeded"});
        s.create(&POD, p).expect("created");
        assert_eq!(check(&s, &POD, "n", &pod("b", "1m"), false), None);
    }
}
