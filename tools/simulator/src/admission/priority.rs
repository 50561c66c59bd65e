//! The plugins `Priority`, `RuntimeClass` and `DefaultTolerationSeconds`.

use crate::Sim;
use crate::kinds::{POD, PRIORITY_CLASS};
use crate::status::{ApiError, ApiResult};
use crate::util::{int_at, list_at, lock, str_at};
use serde_json::{Value, json};

/// Gives a pod the priority of its class.
pub(super) fn set_priority(sim: &Sim, pod: &str, spec: &mut Value) -> ApiResult<()> {
    let class = str_at(spec, "/priorityClassName").to_string();
    if class.is_empty() {
        return Ok(());
    }
    let built_in = match class.as_str() {
        "system-cluster-critical" => Some(2_000_000_000),
        "system-node-critical" => Some(2_000_001_000),
        _ => None,
    };
    let known = sim.store.get(&PRIORITY_CLASS, "", &class);
    let priority = built_in.or_else(|| known.as_ref().and_then(|c| int_at(&c.value, "/value")));
    let Some(priority) = priority else {
        let why = format!("no PriorityClass with name {class} was found");
        return Err(ApiError::forbidden(&POD, pod, &why));
    };
    spec["priority"] = priority.into();
    let policy = known.as_ref().map_or("", |c| str_at(&c.value, "/preemptionPolicy"));
    spec["preemptionPolicy"] = if policy.is_empty() { "PreemptLowerPriority" } else { policy }.into();
    Ok(())
}

/// The plugin `RuntimeClass`: this cluster has none.
pub(super) fn refuse_runtime_class(pod: &str, spec: &Value) -> ApiResult<()> {
    match str_at(spec, "/runtimeClassName") {
        "" => Ok(()),
        class => {
            let why = format!("pod rejected: RuntimeClass \"{class}\" not found");
            Err(ApiError::forbidden(&POD, pod, &why))
        }
    }
}

/// Lets a pod stay for a while on a node that is lost, unless it says itself for how long.
pub(super) fn add_tolerations(sim: &Sim, spec: &mut Value) {
    let seconds = lock(&sim.settings).toleration_seconds;
    let mut list = list_at(spec, "/tolerations").to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let told = list.iter().any(|t| {
            let (own, effect) = (str_at(t, "/key"), str_at(t, "/effect"));
            (own == key || own.is_empty()) && (effect.is_empty() || effect == "NoExecute")
        });
        if !told {
            list.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
            }));
        }
    }
    spec["tolerations"] = list.into();
}
