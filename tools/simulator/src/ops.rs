//! Creating and deleting objects, for the API and for the controllers.

use crate::Sim;
use crate::kinds::{CONFIG_MAP, JOB, Kind, NAMESPACE, POD, PVC, RESOURCE_QUOTA, SERVICE_ACCOUNT};
use crate::status::{ApiError, ApiResult};
use crate::store::Object;
use crate::util::{int_at, list_at, lock, obj, remove, str_at};
use crate::{admission, time, validate};
use serde_json::{Value, json};
use std::sync::Arc;

/// Holds a deleted object until its dependents are gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Holds a deleted object until its dependents no longer name it.
pub(crate) const ORPHAN: &str = "orphan";

/// What happens to the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

/// Options of a deletion.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    /// Only if it has this UID.
    pub uid: Option<String>,
    /// Only if it has this version.
    pub version: Option<String>,
    /// What happens to dependents; the default depends on the kind.
    pub propagation: Option<Propagation>,
    /// Seconds to wait; the default is the pod's own.
    pub grace: Option<i64>,
}

impl DeleteOptions {
    /// Background deletion of exactly this object.
    pub(crate) fn background(object: &Object) -> Self {
        DeleteOptions {
            uid: Some(object.uid.clone()),
            propagation: Some(Propagation::Background),
            ..DeleteOptions::default()
        }
    }

    /// Reads a `DeleteOptions` body, with the query parameters of the same names taking precedence.
    pub(crate) fn read(body: &Value, query: impl Fn(&str) -> Option<String>) -> ApiResult<Self> {
        let text = |p: &str| body.pointer(p).and_then(Value::as_str).map(str::to_string);
        let policy = query("propagationPolicy").or_else(|| text("/propagationPolicy"));
        let mut propagation = match policy.as_deref() {
            None => None,
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Orphan") => Some(Propagation::Orphan),
            Some(other) => {
                let message = format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                );
                return Err(ApiError::new(422, "Invalid", message));
            }
        };
        let orphan = query("orphanDependents")
            .map(|q| q == "true")
            .or(body.get("orphanDependents").and_then(Value::as_bool));
        if let (None, Some(orphan)) = (propagation, orphan) {
            propagation = Some(if orphan { Propagation::Orphan } else { Propagation::Background });
        }
        let grace = query("gracePeriodSeconds")
            .and_then(|g| g.parse().ok())
            .or_else(|| int_at(body, "/gracePeriodSeconds"));
        Ok(DeleteOptions {
            uid: text("/preconditions/uid"),
            version: text("/preconditions/resourceVersion"),
            propagation,
            grace,
        })
    }
}

/// Adds or changes a condition; `lastTransitionTime` moves only when the status does.
pub(crate) fn set_condition(status: &mut Value, kind: &str, value: bool, reason: &str, message: &str) {
    let text = if value { "True" } else { "False" };
    let mut next =
        json!({"type": kind, "status": text, "lastProbeTime": null, "lastTransitionTime": time::now()});
    for (key, v) in [("reason", reason), ("message", message)] {
        if !v.is_empty() {
            next[key] = v.into();
        }
    }
    if !status.is_object() {
        *status = json!({});
    }
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(list) = status["conditions"].as_array_mut() else {
        return;
    };
    match list.iter_mut().find(|c| c["type"] == kind) {
        Some(old) => {
            if old["status"] == next["status"] {
                next["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = next;
        }
        None => list.push(next),
    }
}

/// Notes of a condition of a pod from which generation of the pod it was made.
pub(crate) fn observe(pod: &mut Value, kind: &str) {
    let generation = pod["metadata"]["generation"].clone();
    let conditions = pod["status"]["conditions"].as_array_mut().into_iter().flatten();
    for c in conditions.filter(|c| c["type"] == kind) {
        c["observedGeneration"] = generation.clone();
    }
}

/// Whether a condition is true.
pub(crate) fn condition(v: &Value, kind: &str) -> bool {
    list_at(v, "/status/conditions").iter().any(|c| c["type"] == kind && c["status"] == "True")
}

/// Refuses to create an object in a namespace that does not exist or is being deleted.
fn check_namespace(sim: &Sim, kind: &Kind, namespace: &str, name: &str) -> ApiResult<()> {
    let ns =
        sim.store.get(&NAMESPACE, "", namespace).ok_or_else(|| ApiError::not_found(&NAMESPACE, namespace))?;
    if !ns.deleting() {
        return Ok(());
    }
    let text =
        format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut e = ApiError::forbidden(kind, name, &text);
    e.details["causes"] = json!([{
        "reason": "NamespaceTerminating", "field": "metadata.namespace",
        "message": format!("namespace {namespace} is being terminated"),
    }]);
    Err(e)
}

/// Creates an object as the API does; `dry_run` stops before it is stored.
pub(crate) fn create(
    sim: &Sim,
    kind: &'static Kind,
    namespace: &str,
    v: Value,
    dry_run: bool,
) -> ApiResult<Arc<Object>> {
    create_warned(sim, kind, namespace, v, dry_run, &mut Vec::new())
}

/// Creates an object, and adds what its creator is warned of.
pub(crate) fn create_warned(
    sim: &Sim,
    kind: &'static Kind,
    namespace: &str,
    mut v: Value,
    dry_run: bool,
    warnings: &mut Vec<String>,
) -> ApiResult<Arc<Object>> {
    validate::check_types(kind, &v)?;
    for (key, want) in [("kind", kind.kind.to_string()), ("apiVersion", kind.api_version())] {
        let have = str_at(&v, &format!("/{key}"));
        if !have.is_empty() && have != want {
            return Err(ApiError::bad_request(format!(
                "{} in version \"{}\" cannot be handled as a {}: no kind \"{have}\" is registered",
                kind.kind, kind.version, kind.kind
            )));
        }
    }
    if kind.namespaced {
        let own = str_at(&v, "/metadata/namespace");
        if !own.is_empty() && own != namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    let meta = obj(&mut v, "metadata");
    for key in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "managedFields",
        "selfLink",
    ] {
        remove(meta, key);
    }
    if kind.namespaced {
        meta["namespace"] = namespace.into();
    } else {
        remove(meta, "namespace");
    }
    let generate = str_at(meta, "/generateName").to_string();
    if str_at(meta, "/name").is_empty() && !generate.is_empty() {
        let max = generate.len().min(58);
        let head = generate.get(..max).unwrap_or(&generate);
        meta["name"] = format!("{head}{}", crate::util::name_suffix()).into();
    }
    let name = str_at(meta, "/name").to_string();
    validate::set_defaults(kind, &mut v);
    if kind == &PVC {
        let spec = obj(&mut v, "spec");
        crate::util::default(spec, "volumeName", format!("pvc-{}", crate::util::uuid()));
        let (modes, capacity) = (spec["accessModes"].clone(), spec["resources"]["requests"].clone());
        v["status"] = json!({"phase": "Bound", "accessModes": modes, "capacity": capacity});
    }
    if kind.namespaced {
        check_namespace(sim, kind, namespace, &name)?;
    }
    // A name is generated between the two halves of admission.
    let called = if generate.is_empty() { name.clone() } else { generate };
    admission::mutate(sim, kind, namespace, &called, &mut v)?;
    validate::validate(kind, &v)?;
    admission::check(sim, kind, namespace, &v, warnings)?;
    quota(sim, kind, namespace, &name)?;
    if dry_run {
        if sim.store.get(kind, namespace, &name).is_some() {
            return Err(ApiError::already_exists(kind, &name));
        }
        return crate::store::Store::default().create(kind, v);
    }
    let object = sim.store.create(kind, v)?;
    admission::charge_quota(&sim.store, &object);
    if kind == &NAMESPACE {
        seed_namespace(sim, &object.name);
    }
    if kind == &RESOURCE_QUOTA {
        admission::refresh_quota(&sim.store, &object);
    }
    Ok(object)
}

fn seed_namespace(sim: &Sim, namespace: &str) {
    let _ =
        sim.store.create(&SERVICE_ACCOUNT, json!({"metadata": {"name": "default", "namespace": namespace}}));
    let _ = sim.store.create(
        &CONFIG_MAP,
        json!({
            "metadata": {"name": "kube-root-ca.crt", "namespace": namespace},
            "data": {"ca.crt": sim.ca_pem},
        }),
    );
}

fn quota(sim: &Sim, kind: &Kind, namespace: &str, name: &str) -> ApiResult<()> {
    let limit = {
        let s = lock(&sim.settings);
        if kind == &JOB {
            s.quota_jobs
        } else if kind == &POD {
            s.quota_pods
        } else {
            None
        }
    };
    let Some(limit) = limit else {
        return Ok(());
    };
    let used = sim.store.list(kind, Some(namespace)).0.len() as u64;
    if used < limit {
        return Ok(());
    }
    let what = if kind == &JOB { "count/jobs.batch" } else { "pods" };
    Err(ApiError::forbidden(
        kind,
        name,
        &format!(
            "exceeded quota: embedded-quota, requested: {what}=1, used: {what}={used}, limited: {what}={limit}"
        ),
    ))
}

/// Deletes an object. Returns its state, and whether it is gone already.
pub(crate) fn delete(
    sim: &Sim,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> ApiResult<(Arc<Object>, bool)> {
    let old = sim.store.get(kind, namespace, name).ok_or_else(|| ApiError::not_found(kind, name))?;
    if let Some(uid) = options.uid.as_ref().filter(|u| **u != old.uid) {
        let since = "deleted and then recreated";
        return Err(ApiError::precondition(kind, name, "UID", uid, &old.uid, since));
    }
    let version = old.version.to_string();
    if let Some(want) = options.version.as_ref().filter(|v| **v != version) {
        return Err(ApiError::precondition(kind, name, "ResourceVersion", want, &version, "modified"));
    }
    if kind == &NAMESPACE {
        let object = sim.store.update(kind, "", name, |v, _| {
            let meta = obj(v, "metadata");
            crate::util::default(meta, "deletionTimestamp", time::now());
            meta["finalizers"] = json!(["kubernetes"]);
            v["status"]["phase"] = "Terminating".into();
            Ok(())
        })?;
        return Ok((object.0, false));
    }
    let default = if kind == &JOB { Propagation::Orphan } else { Propagation::Background };
    let propagation = options.propagation.unwrap_or(default);
    // The garbage collector does it, and then removes the finalizer.
    let collected = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    let held = collected.is_some() || !list_at(&old.value, "/metadata/finalizers").is_empty();
    if kind != &POD && !held {
        let gone = sim
            .store
            .remove(kind, namespace, name, Some(&old.uid))
            .ok_or_else(|| ApiError::not_found(kind, name))?;
        return Ok((gone, true));
    }
    let grace = if kind == &POD { pod_grace(&old.value, options.grace) } else { 0 };
    let (object, ()) = sim.store.update(kind, namespace, name, |v, now| {
        if now.uid != old.uid {
            return Err(ApiError::not_found(kind, name));
        }
        let meta = obj(v, "metadata");
        if let Some(finalizer) = collected {
            let mut list = list_at(meta, "/finalizers").to_vec();
            list.retain(|f| f != FOREGROUND && f != ORPHAN);
            list.push(finalizer.into());
            meta["finalizers"] = list.into();
        }
        mark_deleted(meta, grace, options.grace);
        Ok(())
    })?;
    let left = int_at(&object.value, "/metadata/deletionGracePeriodSeconds").unwrap_or(0);
    let gone = left == 0 && list_at(&object.value, "/metadata/finalizers").is_empty();
    Ok((object, gone))
}

/// Sets when an object is to be gone. A later request can only bring that time forward, but not into the past: then
/// it is now, and a second of grace is left unless none was asked for.
fn mark_deleted(meta: &mut Value, grace: i64, asked: Option<i64>) {
    if str_at(meta, "/deletionTimestamp").is_empty() {
        meta["deletionTimestamp"] = time::rfc3339(time::now_secs() + grace).into();
        meta["deletionGracePeriodSeconds"] = grace.into();
        if let Some(n) = int_at(meta, "/generation") {
            meta["generation"] = (n + 1).into();
        }
        return;
    }
    let before = int_at(meta, "/deletionGracePeriodSeconds").unwrap_or(0);
    let Some(asked) = asked.map(positive).filter(|asked| *asked < before) else {
        return;
    };
    let due = time::parse_rfc3339(str_at(meta, "/deletionTimestamp")).unwrap_or(0) - before + asked;
    let now = time::now_secs();
    meta["deletionTimestamp"] = time::rfc3339(due.max(now)).into();
    let grace = if due < now { asked.min(1) } else { asked };
    meta["deletionGracePeriodSeconds"] = grace.into();
}

/// A negative grace period counts as one second.
fn positive(grace: i64) -> i64 {
    if grace < 0 { 1 } else { grace }
}

fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let phase = str_at(pod, "/status/phase");
    if str_at(pod, "/spec/nodeName").is_empty() || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    asked.or_else(|| int_at(pod, "/spec/terminationGracePeriodSeconds")).map_or(30, positive)
}

/// The objects that go with their owner.
pub(crate) fn dependents_of(sim: &Sim, uid: &str) -> Vec<Arc<Object>> {
    let mut all = sim.store.dependents(uid);
    all.retain(|o| o.kind.namespaced && o.kind.kind != "Event");
    all
}

/// Removes one owner from an object.
pub(crate) fn drop_owner(sim: &Sim, object: &Object, uid: &str) {
    let _ = sim.store.update(object.kind, &object.namespace, &object.name, |v, _| {
        if let Some(list) = v["metadata"]["ownerReferences"].as_array_mut() {
            list.retain(|r| r["uid"] != uid);
            if list.is_empty() {
                remove(&mut v["metadata"], "ownerReferences");
            }
        }
        Ok(())
    });
}

/// Deletes a Job and creates one of the same name and specification, with another UID.
pub(crate) fn replace_job(sim: &Sim, namespace: &str, name: &str) -> ApiResult<Arc<Object>> {
    let old = sim.store.remove(&JOB, namespace, name, None).ok_or_else(|| ApiError::not_found(&JOB, name))?;
    let mut v = old.value.clone();
    remove(&mut v, "status");
    let ours =
        ["batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "controller-uid", "job-name"];
    for key in ours {
        remove(&mut v["spec"]["template"]["metadata"]["labels"], key);
    }
    remove(&mut v["metadata"], "finalizers");
    remove(&mut v["spec"], "selector");
    create(sim, &JOB, namespace, v, false)
}
