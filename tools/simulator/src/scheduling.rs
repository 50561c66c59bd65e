//! Whether a pod fits the node, and which pods have to go so that it does.

use crate::Sim;
use crate::admission::Quantity;
use crate::kinds::{NODE, POD, PVC};
use crate::kubelet::NODE_NAME;
use crate::nodes::disrupt;
use crate::ops::{self, DeleteOptions};
use crate::store::Object;
use crate::util::{int_at, list_at, lock, str_at};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// For how long a pod tolerates a taint: `None`: not at all; `Some(None)`: for good.
pub(crate) fn toleration(pod: &Value, taint: &Value) -> Option<Option<Duration>> {
    let matches = |t: &&Value| {
        let (key, effect) = (str_at(t, "/key"), str_at(t, "/effect"));
        let any_value = str_at(t, "/operator") == "Exists";
        (effect.is_empty() || effect == str_at(taint, "/effect"))
            && (key == str_at(taint, "/key") || key.is_empty() && any_value)
            && (any_value || str_at(t, "/value") == str_at(taint, "/value"))
    };
    let found = list_at(pod, "/spec/tolerations").iter().find(matches)?;
    let seconds = int_at(found, "/tolerationSeconds");
    Some(seconds.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0))))
}

/// What a pod asks of its node: thousandths of CPUs, bytes of memory, and one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amounts {
    cpu: i128,
    memory: i128,
    pods: i128,
}

impl Amounts {
    fn read(v: &Value) -> Self {
        let number = |key: &str| match &v[key] {
            Value::String(text) => Quantity::parse(text).milli(),
            Value::Number(n) => i128::from(n.as_i64().unwrap_or(0)) * 1000,
            _ => 0,
        };
        Amounts { cpu: number("cpu"), memory: number("memory"), pods: number("pods") }
    }

    /// What a pod requests: the sum of its containers, or the largest init container.
    fn of(pod: &Value) -> Self {
        let all = |path: &str| {
            list_at(pod, path).iter().map(|c| Amounts::read(&c["resources"]["requests"])).collect::<Vec<_>>()
        };
        let mut sum = all("/spec/containers").iter().fold(Amounts::default(), |a, b| a.plus(*b));
        for init in all("/spec/initContainers") {
            sum.cpu = sum.cpu.max(init.cpu);
            sum.memory = sum.memory.max(init.memory);
        }
        Amounts { pods: 1000, ..sum }
    }

    fn plus(self, other: Self) -> Self {
        Amounts {
            cpu: self.cpu + other.cpu,
            memory: self.memory + other.memory,
            pods: self.pods + other.pods,
        }
    }

    /// What of a node is not enough, in the scheduler's words.
    fn beyond(self, node: Self) -> Vec<&'static str> {
        let lacking = [
            (self.pods > node.pods, "Too many pods"),
            (self.cpu > node.cpu, "Insufficient cpu"),
            (self.memory > node.memory, "Insufficient memory"),
        ];
        lacking.into_iter().filter(|(lacks, _)| *lacks).map(|(_, text)| text).collect()
    }
}

#[derive(Debug, Clone)]
struct Reservation {
    namespace: String,
    name: String,
    priority: i64,
    amounts: Amounts,
    at: u64,
}

/// What the pods of the node have been given.
#[derive(Default)]
pub(crate) struct Reservations(Mutex<HashMap<String, Reservation>>);

impl Reservations {
    /// A pod was assigned to the node.
    pub(crate) fn add(&self, pod: &Object) {
        let reservation = Reservation {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            priority: int_at(&pod.value, "/spec/priority").unwrap_or(0),
            amounts: Amounts::of(&pod.value),
            at: pod.version,
        };
        lock(&self.0).insert(pod.uid.clone(), reservation);
    }

    /// A pod has ended.
    pub(crate) fn remove(&self, uid: &str) {
        lock(&self.0).remove(uid);
    }

    fn all(&self) -> Vec<(String, Reservation)> {
        lock(&self.0).iter().map(|(uid, r)| (uid.clone(), r.clone())).collect()
    }

    fn lacks(&self, pod: &Value, node: &Value) -> Vec<&'static str> {
        let used = lock(&self.0).values().fold(Amounts::of(pod), |sum, r| sum.plus(r.amounts));
        used.beyond(Amounts::read(&node["status"]["allocatable"]))
    }
}

/// Why a pod cannot be scheduled.
pub(crate) fn unschedulable(sim: &Sim, pod: &Value) -> Option<String> {
    let not_helpful = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let no_victims = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    if lock(&sim.settings).unschedulable {
        return Some(format!("0/1 nodes are available: 1 Insufficient cpu. {no_victims}"));
    }
    if let Some(why) = claim_problem(sim, pod) {
        return Some(format!("0/1 nodes are available: {why}. {not_helpful}"));
    }
    let Some(node) = sim.store.get(&NODE, "", NODE_NAME) else {
        return Some("no nodes available to schedule pods".to_string());
    };
    if let Some(why) = misfit(pod, &node.value) {
        return Some(format!("0/1 nodes are available: 1 {why}. {not_helpful}"));
    }
    let lacks = sim.kubelet.reservations.lacks(pod, &node.value);
    (!lacks.is_empty()).then(|| {
        let list: Vec<String> = lacks.iter().map(|what| format!("1 {what}")).collect();
        format!("0/1 nodes are available: {}. {no_victims}", list.join(", "))
    })
}

fn claim_problem(sim: &Sim, pod: &Value) -> Option<String> {
    let namespace = str_at(pod, "/metadata/namespace");
    for v in list_at(pod, "/spec/volumes") {
        let claim = str_at(v, "/persistentVolumeClaim/claimName");
        if claim.is_empty() {
            continue;
        }
        match sim.store.get(&PVC, namespace, claim) {
            None => return Some(format!("persistentvolumeclaim \"{claim}\" not found")),
            Some(c) if str_at(&c.value, "/status/phase") != "Bound" => {
                return Some("pod has unbound immediate PersistentVolumeClaims".to_string());
            }
            Some(_) => {}
        }
    }
    None
}

/// Why no preemption would make a pod fit the node.
fn misfit(pod: &Value, node: &Value) -> Option<&'static str> {
    if node["spec"]["unschedulable"] == true {
        return Some("node(s) were unschedulable");
    }
    let kept_out = list_at(node, "/spec/taints")
        .iter()
        .filter(|t| matches!(str_at(t, "/effect"), "NoSchedule" | "NoExecute"))
        .any(|t| toleration(pod, t).is_none());
    if kept_out {
        return Some("node(s) had untolerated taint(s)");
    }
    let labels = &node["metadata"]["labels"];
    let fits = pod["spec"]["nodeSelector"]
        .as_object()
        .is_none_or(|m| m.iter().all(|(k, v)| labels.get(k) == Some(v)));
    (!fits).then_some("node(s) didn't match Pod's node affinity/selector")
}

/// Deletes pods of a lower priority, as few as possible, so that this one fits.
pub(crate) fn preempt(sim: &Sim, pod: &Object) {
    let Some(node) = sim.store.get(&NODE, "", NODE_NAME) else {
        return;
    };
    if misfit(&pod.value, &node.value).is_some() || str_at(&pod.value, "/spec/preemptionPolicy") == "Never" {
        return;
    }
    let priority = int_at(&pod.value, "/spec/priority").unwrap_or(0);
    let (mut lower, others): (Vec<_>, Vec<_>) =
        sim.kubelet.reservations.all().into_iter().partition(|(_, r)| r.priority < priority);
    let of = |r: &Reservation| sim.store.get(&POD, &r.namespace, &r.name);
    // Pods that are going already make room.
    if lower.is_empty() || lower.iter().any(|(_, r)| of(r).is_some_and(|p| p.deleting())) {
        return;
    }
    let room = Amounts::read(&node.value["status"]["allocatable"]);
    let mut used = others.iter().fold(Amounts::of(&pod.value), |sum, (_, r)| sum.plus(r.amounts));
    if !used.beyond(room).is_empty() {
        return;
    }
    // The most important ones stay if they can, and of these those that have been there longest.
    lower.sort_by_key(|(_, r)| (-r.priority, r.at));
    for (uid, r) in lower {
        let with = used.plus(r.amounts);
        if with.beyond(room).is_empty() {
            used = with;
        } else if let Some(victim) = of(&r).filter(|p| p.uid == uid) {
            let text = "default-scheduler: preempting to accommodate a higher priority pod";
            let _ = disrupt(sim, &victim, "PreemptionByScheduler", text);
            let event = format!("Preempted by pod {} on node {NODE_NAME}", pod.uid);
            sim.store.emit(&victim, true, "Preempted", &event, "default-scheduler");
            let options = DeleteOptions::background(&victim);
            let _ = ops::delete(sim, &POD, &victim.namespace, &victim.name, &options);
        }
    }
    let _ = sim.store.update(&POD, &pod.namespace, &pod.name, |v, _| {
        v["status"]["nominatedNodeName"] = NODE_NAME.into();
        Ok(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn taint_is_tolerated_by_key_value_and_effect() {
        let taint = json!({"key": "a", "value": "1", "effect": "NoExecute"});
        let pod = |t: Value| json!({"spec": {"tolerations": [t]}});
        let of = |t: Value| toleration(&pod(t), &taint);
        assert_eq!(of(json!({"operator": "Exists"})), Some(None));
        assert_eq!(of(json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"})), None);
        assert_eq!(of(json!({"key": "a", "value": "2"})), None);
        let timed = json!({"key": "a", "value": "1", "tolerationSeconds": 3});
        assert_eq!(of(timed), Some(Some(Duration::from_secs(3))));
        assert_eq!(toleration(&json!({"spec": {}}), &taint), None);
    }

    #[test]
    fn pod_requests_the_larger_of_its_phases() {
        let c = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}});
        let pod = json!({"spec": {"containers": [c("100m"), c("1")], "initContainers": [c("2")]}});
        let sum = Amounts::of(&pod);
        assert_eq!((sum.cpu, sum.memory, sum.pods), (2000, 2 * 1024 * 1024 * 1000, 1000));
        let node = Amounts::read(&json!({"cpu": "1500m", "memory": "1Gi", "pods": "10"}));
        assert_eq!(sum.beyond(node), ["Insufficient cpu"]);
    }
}
