//! What the control plane makes of its node: the node lifecycle controller, taint eviction, and the garbage collector
//! for pods.

use crate::Sim;
use crate::kinds::{NODE, POD};
use crate::kubelet::NODE_NAME;
use crate::ops::{self, DeleteOptions, condition, observe, set_condition};
use crate::scheduling::toleration;
use crate::store::Object;
use crate::time;
use crate::util::{list_at, lock, remove, str_at};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often the node is looked at.
const PERIOD: Duration = Duration::from_millis(200);
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The node as its kubelet registers it. What it offers must not be what ends a run: it has room for every pod that a test
/// or a bench has at once, those included that are still ending.
pub(crate) fn register(sim: &Sim) {
    let size = json!({"cpu": "4096", "memory": "16Ti", "pods": "10000"});
    let node = json!({
        "metadata": {"name": NODE_NAME, "labels": {
            "kubernetes.io/hostname": NODE_NAME, "kubernetes.io/os": "linux",
            "kubernetes.io/arch": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        }},
        "spec": {},
        "status": {
            "capacity": size,
            "allocatable": size,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "nodeInfo": {"kubeletVersion": crate::kinds::VERSION},
        },
    });
    if sim.store.create(&NODE, node).is_ok() {
        set_ready(sim, true);
    }
}

/// Writes whether the node is ready, and the taints that go with it.
fn set_ready(sim: &Sim, ready: bool) {
    let _ = sim.store.update(&NODE, "", NODE_NAME, |v, _| {
        let s = &mut v["status"];
        if ready {
            set_condition(s, "Ready", true, "KubeletReady", "kubelet is posting ready status");
        } else {
            let text = "Kubelet stopped posting node status.";
            set_condition(s, "Ready", false, "NodeStatusUnknown", text);
        }
        let list = s["conditions"].as_array_mut().into_iter().flatten();
        if let Some(c) = list.into_iter().find(|c| c["type"] == "Ready") {
            remove(c, "lastProbeTime");
            c["lastHeartbeatTime"] = time::now().into();
            c["status"] = if ready { "True" } else { "Unknown" }.into();
        }
        let mut taints = list_at(v, "/spec/taints").to_vec();
        taints.retain(|t| t["key"] != UNREACHABLE);
        if !ready {
            // Where no node is ready a cluster evicts nothing, unless the node is left out of that count.
            let counts = v["metadata"]["labels"].get(EXCLUDED).is_none();
            let effects = if counts { &["NoSchedule"][..] } else { &["NoSchedule", "NoExecute"] };
            let taint = |e: &&str| json!({"key": UNREACHABLE, "effect": e, "timeAdded": time::now()});
            taints.extend(effects.iter().map(taint));
        }
        if taints.is_empty() {
            remove(&mut v["spec"], "taints");
        } else {
            v["spec"]["taints"] = taints.into();
        }
        Ok(())
    });
}

/// Marks a pod as ended by something other than itself.
pub(crate) fn disrupt(sim: &Sim, pod: &Object, reason: &str, message: &str) -> crate::status::ApiResult<()> {
    sim.store
        .update(&POD, &pod.namespace, &pod.name, |v, now| {
            if now.uid != pod.uid {
                return Err(crate::status::ApiError::not_found(&POD, &pod.name));
            }
            set_condition(&mut v["status"], "DisruptionTarget", true, reason, message);
            observe(v, "DisruptionTarget");
            Ok(())
        })
        .map(drop)
}

/// What the taint eviction controller does with a pod that does not tolerate a taint, or no longer.
pub(crate) fn evict_by_taint(sim: &Sim, pod: &Object, grace: Option<i64>) -> crate::status::ApiResult<()> {
    let event = format!("Marking for deletion Pod {}/{}", pod.namespace, pod.name);
    sim.store.emit(pod, true, "TaintManagerEviction", &event, "taint-eviction-controller");
    disrupt(sim, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")?;
    let options = DeleteOptions { grace, ..DeleteOptions::background(pod) };
    ops::delete(sim, &POD, &pod.namespace, &pod.name, &options).map(drop)
}

/// What the node lifecycle controller does with a pod of a node that does not answer.
pub(crate) fn mark_unready(sim: &Sim, pod: &Object) {
    let _ = sim.store.update(&POD, &pod.namespace, &pod.name, |v, now| {
        let conditions = v["status"]["conditions"].as_array_mut().into_iter().flatten();
        for c in conditions.filter(|c| c["type"] == "Ready" && c["status"] == "True" && now.uid == pod.uid) {
            c["status"] = "False".into();
            c["lastTransitionTime"] = time::now().into();
        }
        Ok(())
    });
    sim.store.emit(pod, false, "NodeNotReady", "Node is not ready", "node-controller");
}

/// What the garbage collector does with a pod whose node will not end it.
pub(crate) fn collect(sim: &Sim, pod: &Object, node_is_gone: bool) {
    let _ = sim.store.update(&POD, &pod.namespace, &pod.name, |v, now| {
        let s = &mut v["status"];
        if now.uid == pod.uid && !matches!(str_at(s, "/phase"), "Succeeded" | "Failed") {
            s["phase"] = "Failed".into();
            if node_is_gone {
                set_condition(s, "DisruptionTarget", true, "DeletionByPodGC", "PodGC: node no longer exists");
                observe(v, "DisruptionTarget");
            }
        }
        Ok(())
    });
    let options = DeleteOptions { grace: Some(0), ..DeleteOptions::background(pod) };
    let _ = ops::delete(sim, &POD, &pod.namespace, &pod.name, &options);
}

fn created(pod: &Object) -> (i64, String) {
    let at = time::parse_rfc3339(str_at(&pod.value, "/metadata/creationTimestamp")).unwrap_or(0);
    (at, pod.name.clone())
}

/// When a pod is to be evicted, by its UID.
#[derive(Clone, Copy)]
struct Eviction {
    decided: Instant,
    due: Instant,
}

/// Watches over the node.
pub(crate) struct NodeController {
    sim: Arc<Sim>,
    evictions: HashMap<String, Eviction>,
    evicted: HashSet<String>,
    missing: Option<Instant>,
}

impl NodeController {
    /// A controller that has seen nothing yet.
    pub(crate) fn new(sim: Arc<Sim>) -> Self {
        NodeController { sim, evictions: HashMap::new(), evicted: HashSet::new(), missing: None }
    }

    /// Works until the cluster stops.
    pub(crate) async fn run(mut self) {
        let mut stopping = self.sim.stopping.subscribe();
        loop {
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                _ = stopping.changed() => return,
            }
            self.ended();
            match self.sim.store.get(&NODE, "", NODE_NAME) {
                Some(node) => {
                    self.missing = None;
                    self.health(&node);
                    self.taints(&node);
                    self.out_of_service(&node);
                }
                None => self.orphans(),
            }
        }
    }

    fn pods(&self) -> Vec<Arc<Object>> {
        let mut pods = self.sim.store.list(&POD, None).0;
        pods.retain(|p| str_at(&p.value, "/spec/nodeName") == NODE_NAME);
        pods
    }

    fn health(&self, node: &Object) {
        let grace = Duration::from_millis(lock(&self.sim.settings).node_monitor_grace_ms);
        let silent = self.sim.kubelet.silent_for();
        let ready = condition(&node.value, "Ready");
        if silent.is_none() && !ready {
            set_ready(&self.sim, true);
        }
        if ready && silent.is_some_and(|time| time >= grace) {
            set_ready(&self.sim, false);
            let text = format!("Node {NODE_NAME} status is now: NodeNotReady");
            self.sim.store.emit(node, true, "NodeNotReady", &text, "node-controller");
            for pod in self.pods() {
                mark_unready(&self.sim, &pod);
            }
        }
    }

    fn taints(&mut self, node: &Object) {
        let taints: Vec<&Value> =
            list_at(&node.value, "/spec/taints").iter().filter(|t| t["effect"] == "NoExecute").collect();
        if taints.is_empty() {
            self.evictions.clear();
            self.evicted.clear();
            return;
        }
        let now = Instant::now();
        for pod in self.pods() {
            if self.evicted.contains(&pod.uid) {
                continue;
            }
            let tolerated: Vec<_> = taints.iter().map(|t| toleration(&pod.value, t)).collect();
            let wait = if tolerated.iter().any(Option::is_none) {
                Some(Duration::ZERO)
            } else {
                tolerated.into_iter().flatten().flatten().min()
            };
            let Some(wait) = wait else {
                self.evictions.remove(&pod.uid);
                continue;
            };
            let fresh = Eviction { decided: now, due: now + wait };
            let eviction = self.evictions.entry(pod.uid.clone()).or_insert(fresh);
            eviction.due = eviction.decided + wait;
            if eviction.due <= now && evict_by_taint(&self.sim, &pod, None).is_ok() {
                self.evicted.insert(pod.uid.clone());
            }
        }
    }

    fn out_of_service(&self, node: &Object) {
        let tainted = list_at(&node.value, "/spec/taints").iter().any(|t| t["key"] == OUT_OF_SERVICE);
        if tainted && !condition(&node.value, "Ready") {
            for pod in self.pods().iter().filter(|p| p.deleting()) {
                collect(&self.sim, pod, false);
            }
        }
    }

    /// Removes the oldest of the pods that have ended, where there are more of them than may be.
    fn ended(&self) {
        let most =
            usize::try_from(lock(&self.sim.settings).terminated_pod_gc_threshold).unwrap_or(usize::MAX);
        let mut pods = self.sim.store.list(&POD, None).0;
        if pods.len() <= most {
            return;
        }
        pods.retain(|p| matches!(str_at(&p.value, "/status/phase"), "Succeeded" | "Failed"));
        let evicted = |p: &Object| str_at(&p.value, "/status/reason") == "Evicted";
        pods.sort_by_key(|p| (!evicted(p), created(p)));
        let many = pods.len().saturating_sub(most);
        for pod in pods.iter().take(many).filter(|p| !p.deleting()) {
            collect(&self.sim, pod, false);
        }
    }

    /// Removes the pods of a node that does not exist, once it has not existed for a while.
    fn orphans(&mut self) {
        let wait = Duration::from_millis(lock(&self.sim.settings).pod_gc_after_ms);
        if self.missing.get_or_insert_with(Instant::now).elapsed() >= wait {
            for pod in self.pods() {
                collect(&self.sim, &pod, true);
            }
        }
    }
}
