//! Admission: what a new object must pass before it is stored, in the order of the API server's plugins.

mod limits;
mod pod_security;
mod policies;
mod priority;
mod quantity;
mod quota;

pub(crate) use limits::set_defaults as limit_range_defaults;
pub(crate) use policies::Policies;
pub(crate) use quantity::Quantity;
pub(crate) use quota::{charge as charge_quota, concerns as concerns_quota, refresh as refresh_quota};

use crate::Sim;
use crate::kinds::{JOB, Kind, LIMIT_RANGE, NAMESPACE, POD, SERVICE_ACCOUNT};
use crate::status::{ApiError, ApiResult};
use crate::util::{list_at, lock, name_suffix, str_at};
use crate::validate;
use serde_json::{Value, json};

/// Changes a new object as plugins and policies do; `name` is what a refusal calls it.
pub(crate) fn mutate(
    sim: &Sim,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    v: &mut Value,
) -> ApiResult<()> {
    if kind == &POD {
        limits::apply(&sim.store.list(&LIMIT_RANGE, Some(namespace)).0, v);
        check_account(sim, namespace, name, v)?;
        mount_token(sim, namespace, v);
        priority::set_priority(sim, name, &mut v["spec"])?;
        priority::refuse_runtime_class(name, &v["spec"])?;
        priority::add_tolerations(sim, &mut v["spec"]);
    }
    if sim.policies.mutate(kind, namespace, v)? {
        validate::check_types(kind, v)?;
        validate::set_defaults(kind, v);
    }
    Ok(())
}

fn check_account(sim: &Sim, namespace: &str, name: &str, pod: &Value) -> ApiResult<()> {
    let account = str_at(pod, "/spec/serviceAccountName");
    if sim.store.get(&SERVICE_ACCOUNT, namespace, account).is_some() {
        return Ok(());
    }
    let why = format!(
        "error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
    );
    Err(ApiError::forbidden(&POD, name, &why))
}

/// Where the token of a service account is.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Mounts the token of a pod's service account, unless pod or account say otherwise.
fn mount_token(sim: &Sim, namespace: &str, pod: &mut Value) {
    let account = sim.store.get(&SERVICE_ACCOUNT, namespace, str_at(pod, "/spec/serviceAccountName"));
    let of_account = account.and_then(|a| a.value["automountServiceAccountToken"].as_bool());
    let spec = &mut pod["spec"];
    if !spec["automountServiceAccountToken"].as_bool().or(of_account).unwrap_or(true) {
        return;
    }
    let name = format!("kube-api-access-{}", name_suffix());
    let mount = json!({"name": name, "mountPath": TOKEN_PATH, "readOnly": true});
    for key in ["initContainers", "containers"] {
        for c in spec[key].as_array_mut().into_iter().flatten() {
            if !list_at(c, "/volumeMounts").iter().any(|m| m["mountPath"] == TOKEN_PATH) {
                push(c, "volumeMounts", mount.clone());
            }
        }
    }
    push(
        spec,
        "volumes",
        json!({"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}),
    );
}

fn push(to: &mut Value, key: &str, item: Value) {
    match to[key].as_array_mut() {
        Some(list) => list.push(item),
        None => to[key] = json!([item]),
    }
}

/// Refuses what a plugin or policy refuses; adds what the creator is warned of.
pub(crate) fn check(
    sim: &Sim,
    kind: &'static Kind,
    namespace: &str,
    v: &Value,
    warnings: &mut Vec<String>,
) -> ApiResult<()> {
    let name = str_at(v, "/metadata/name");
    let forbidden = |why: String| ApiError::forbidden(kind, name, &why);
    if kind == &POD
        && let Some(why) = limits::check(&sim.store.list(&LIMIT_RANGE, Some(namespace)).0, v)
    {
        return Err(forbidden(why));
    }
    if kind == &POD || kind == &JOB {
        check_pod_security(sim, kind, namespace, v, warnings)?;
    }
    if let Some(e) = sim.policies.refusal(kind, name, namespace, v) {
        return Err(e);
    }
    let lags = lock(&sim.settings).quota_lag_ms > 0;
    match quota::check(&sim.store, kind, namespace, v, lags) {
        Some(why) => Err(forbidden(why)),
        None => Ok(()),
    }
}

fn check_pod_security(
    sim: &Sim,
    kind: &'static Kind,
    namespace: &str,
    v: &Value,
    warnings: &mut Vec<String>,
) -> ApiResult<()> {
    let Some(namespace) = sim.store.get(&NAMESPACE, "", namespace) else { return Ok(()) };
    let spec = v.pointer(&format!("{}/spec", validate::pod_template(kind))).unwrap_or(&Value::Null);
    if kind == &POD
        && let Some(why) = pod_security::refusal(&namespace.value, spec)
    {
        return Err(ApiError::forbidden(kind, str_at(v, "/metadata/name"), &why));
    }
    warnings.extend(pod_security::warning(&namespace.value, spec));
    Ok(())
}
