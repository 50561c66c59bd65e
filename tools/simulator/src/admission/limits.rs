//! What a limit range adds to a pod and what it refuses.

use super::quantity::Quantity;
use crate::store::Object;
use crate::util::{default, list_at, obj, str_at};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Fills in what the server fills in of a limit range.
pub(crate) fn set_defaults(v: &mut Value) {
    for item in v["spec"]["limits"].as_array_mut().into_iter().flatten() {
        if item["type"] != "Container" {
            continue;
        }
        for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
            let found = item[from].as_object().cloned().unwrap_or_default();
            let target = obj(item, to);
            for (key, value) in found {
                default(target, &key, value);
            }
        }
    }
}

fn amounts<'a>(v: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a str)> {
    v.get(key).and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k, v.as_str().unwrap_or("0")))
}

/// Adds the default requests and limits to the containers of a pod.
pub(super) fn apply(ranges: &[Arc<Object>], pod: &mut Value) {
    for range in ranges {
        let mut defaults = [("limits", Map::new()), ("requests", Map::new())];
        for item in list_at(&range.value, "/spec/limits").iter().filter(|i| i["type"] == "Container") {
            for ((_, to), from) in defaults.iter_mut().zip(["default", "defaultRequest"]) {
                to.extend(amounts(item, from).map(|(k, v)| (k.clone(), v.into())));
            }
        }
        let mut told = Vec::new();
        for (group, word) in [("containers", "container"), ("initContainers", "init container")] {
            for c in pod["spec"][group].as_array_mut().into_iter().flatten() {
                let name = str_at(c, "/name").to_string();
                let resources = obj(c, "resources");
                told.extend(defaults.iter().rev().filter_map(|(what, values)| {
                    let set = merge(obj(resources, what), values);
                    let what = what.trim_end_matches('s');
                    (!set.is_empty()).then(|| format!("{} {what} for {word} {name}", set.join(", ")))
                }));
            }
        }
        if !told.is_empty() {
            obj(obj(pod, "metadata"), "annotations")["kubernetes.io/limit-ranger"] =
                format!("LimitRanger plugin set: {}", told.join("; ")).into();
        }
    }
}

/// Adds what is missing; returns its names in order.
fn merge(target: &mut Value, values: &Map<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (key, value) in values {
        if target.get(key).is_none() {
            target[key.as_str()] = value.clone();
            set.push(key.clone());
        }
    }
    set.sort();
    set
}

/// Why a pod is refused, if it is.
pub(super) fn check(ranges: &[Arc<Object>], pod: &Value) -> Option<String> {
    for range in ranges {
        let mut problems: Vec<String> = Vec::new();
        for item in list_at(&range.value, "/spec/limits").iter().filter(|i| i["type"] == "Container") {
            let all = ["containers", "initContainers"].map(|group| list_at(pod, &format!("/spec/{group}")));
            for c in all.into_iter().flatten() {
                let resources = &c["resources"];
                let min = amounts(item, "min").map(|(key, bound)| (key, Quantity::parse(bound)));
                problems.extend(min.filter_map(|(key, bound)| too_little(key, bound, resources)));
                let max = amounts(item, "max").map(|(key, bound)| (key, Quantity::parse(bound)));
                problems.extend(max.filter_map(|(key, bound)| too_much(key, bound, resources)));
            }
        }
        problems.dedup();
        match problems.as_slice() {
            [] => {}
            [one] => return Some(one.clone()),
            many => return Some(format!("[{}]", many.join(", "))),
        }
    }
    None
}

fn given(resources: &Value, group: &str, key: &str) -> Option<Quantity> {
    resources.get(group)?.get(key)?.as_str().map(Quantity::parse)
}

fn too_little(key: &str, bound: Quantity, resources: &Value) -> Option<String> {
    let head = format!("minimum {key} usage per Container is {bound}");
    let Some(request) = given(resources, "requests", key) else {
        return Some(format!("{head}.  No request is specified"));
    };
    if request < bound {
        return Some(format!("{head}, but request is {request}"));
    }
    let limit = given(resources, "limits", key).filter(|limit| *limit < bound)?;
    Some(format!("{head}, but limit is {limit}"))
}

fn too_much(key: &str, bound: Quantity, resources: &Value) -> Option<String> {
    let head = format!("maximum {key} usage per Container is {bound}");
    let Some(limit) = given(resources, "limits", key) else {
        return Some(format!("{head}.  No limit is specified"));
    };
    if limit > bound {
        return Some(format!("{head}, but limit is {limit}"));
    }
    let request = given(resources, "requests", key).filter(|request| *request > bound)?;
    Some(format!("{head}, but request is {request}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::LIMIT_RANGE;
    use crate::store::Store;
    use serde_json::json;

    fn range(limits: Value) -> Vec<Arc<Object>> {
        let mut v = json!({"metadata": {"name": "r", "namespace": "n"}, "spec": {"limits": limits}});
        set_defaults(&mut v);
        vec![Store::default().create(&LIMIT_RANGE, v).expect("created")]
    }

    fn pod() -> Value {
        json!({"spec": {
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "10m"}}}],
        }})
    }

    #[test]
    fn defaults_are_added_and_told() {
        let mut p = pod();
        let limits = json!([{"type": "Container", "default": {"memory": "64Mi"}, "max": {"cpu": "2"}}]);
        apply(&range(limits), &mut p);
        let resources = &p["spec"]["containers"][0]["resources"];
        assert_eq!(resources["limits"], json!({"cpu": "1", "memory": "64Mi"}));
        assert_eq!(resources["requests"], json!({"cpu": "10m", "memory": "64Mi"}));
        assert_eq!(
            p["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
            "LimitRanger plugin set: memory request for container c; memory limit for container c; \
             cpu, memory request for init container i; cpu, memory limit for init container i"
        );
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let why = |limits| check(&range(limits), &pod());
        let max = json!([{"type": "Container", "max": {"cpu": "500m"}}]);
        assert_eq!(
            why(max).as_deref(),
            Some(
                "[maximum cpu usage per Container is 500m, but limit is 1, \
                 maximum cpu usage per Container is 500m.  No limit is specified]"
            )
        );
        let min = json!([{"type": "Container", "min": {"cpu": "5m"}}]);
        assert_eq!(
            why(min).as_deref(),
            Some("minimum cpu usage per Container is 5m.  No request is specified")
        );
    }
}
