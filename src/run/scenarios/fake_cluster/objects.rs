//! What the objects of a fake cluster are at any moment, by the script of each Job.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::time::Instant;

/// What a Job's pod does. Times count from the creation of the Job unless a field says otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// When the pod is created.
    pub(crate) pod_at: Duration,
    /// When the container starts.
    pub(crate) start_at: Duration,
    /// What the container prints, and when after its start.
    pub(crate) lines: Vec<(Duration, String)>,
    /// How long the container runs.
    pub(crate) ends_after: Duration,
    /// How it ends.
    pub(crate) exit_code: i32,
    /// The reason in its terminated state.
    pub(crate) reason: &'static str,
    /// The number of its first lines that are rotated away, and when after its start; in order of time.
    pub(crate) rotated: Vec<(Duration, usize)>,
    /// How long after the container's end the Job has its condition; `None`: never.
    pub(crate) condition_lag: Option<Duration>,
    /// When another API client deletes the Job with its pod.
    pub(crate) job_deleted_at: Option<Duration>,
    /// The JSON of the status of a pod that never runs.
    pub(crate) stuck_status: Option<Value>,
    /// The JSON of the pod's status from these times on, until its container starts.
    pub(crate) early_statuses: Vec<(Duration, Value)>,
    /// The JSON that the Job's spec and status are merged with from these times on, whatever its pod does.
    pub(crate) job_states: Vec<(Duration, Value)>,
    /// When the pod vanishes for good while the Job stays.
    pub(crate) no_pod_from: Option<Duration>,
    /// The fields that the pod's spec has.
    pub(crate) pod_spec: Option<Value>,
    /// Events of the Job: when, reason and message.
    pub(crate) job_events: Vec<(Duration, &'static str, &'static str)>,
    /// The same of the pod.
    pub(crate) pod_events: Vec<(Duration, &'static str, &'static str)>,
    /// A container beside `claude` that does not end by itself: the pod stays running.
    pub(crate) sidecar: Option<&'static str>,
    /// When the deletion of the pod is requested.
    pub(crate) pod_deleting_at: Option<Duration>,
    /// When the Job fails whatever its pod does, and for what reason.
    pub(crate) job_failed_at: Option<(Duration, &'static str)>,
    /// When the Job is suspended. Its pod is deleted at once, and gone when its container has ended.
    pub(crate) suspended_at: Option<Duration>,
    /// The exit code in the pod's last object when it is deleted while its container runs.
    pub(crate) killed_with: Option<i32>,
    /// When another API client deletes the pod, and for how long its ended container is shown. The pod stays until its
    /// container ends; the Job has another pod at once, as with Job controllers before 1.25.
    pub(crate) replaced: Option<(Duration, Duration)>,
    /// How long the pod outlives the deletion of its Job: its CLI does not obey.
    pub(crate) lingers: Duration,
    /// Whether the pod stays when its Job is deleted, and is not asked to end.
    pub(crate) orphaned: bool,
    /// From when on the pod's node does not answer: its container never ends, and its log cannot be read.
    pub(crate) node_lost_at: Option<Duration>,
    /// A condition of the Job that is not final: from when on, its type and its reason.
    pub(crate) job_condition: Option<(Duration, &'static str, &'static str)>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            pod_at: Duration::from_millis(500),
            start_at: Duration::from_secs(3),
            lines: Vec::new(),
            ends_after: Duration::from_secs(1),
            exit_code: 0,
            reason: "Completed",
            rotated: Vec::new(),
            condition_lag: Some(Duration::from_secs(1)),
            job_deleted_at: None,
            stuck_status: None,
            early_statuses: Vec::new(),
            job_states: Vec::new(),
            no_pod_from: None,
            pod_spec: None,
            job_events: Vec::new(),
            pod_events: Vec::new(),
            sidecar: None,
            pod_deleting_at: None,
            job_failed_at: None,
            suspended_at: None,
            killed_with: None,
            replaced: None,
            lingers: Duration::ZERO,
            orphaned: false,
            node_lost_at: None,
            job_condition: None,
        }
    }
}

pub(super) struct StoredJob {
    pub(super) job: Job,
    pub(super) created: Instant,
    pub(super) script: Script,
    /// The lines of the script, shared with every open log.
    pub(super) lines: Arc<[(Duration, String)]>,
    pub(super) deleted: Option<Instant>,
    /// How many lines its logs have delivered so far.
    pub(super) delivered_lines: Arc<AtomicUsize>,
}

impl StoredJob {
    fn at(&self, offset: Duration) -> Instant {
        self.created + offset
    }

    pub(super) fn started(&self) -> Instant {
        self.at(self.script.start_at)
    }

    pub(super) fn ended(&self) -> Instant {
        let never = self.script.node_lost_at.map(|_| Duration::from_secs(1 << 40));
        self.started() + never.unwrap_or(self.script.ends_after)
    }

    pub(super) fn deleted_at(&self) -> Option<Instant> {
        let scripted = self.script.job_deleted_at.map(|offset| self.at(offset));
        match (self.deleted, scripted) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.is_gone_at(Instant::now())
    }

    pub(super) fn is_gone_at(&self, now: Instant) -> bool {
        self.deleted_at().is_some_and(|at| at <= now)
    }

    /// When the pod goes because its Job was deleted.
    pub(super) fn pod_gone_by_deletion(&self) -> Option<Instant> {
        Some(self.deleted_at().filter(|_| !self.script.orphaned)? + self.script.lingers)
    }

    fn is_pod_gone_at(&self, now: Instant) -> bool {
        self.pod_gone_by_deletion().is_some_and(|at| at <= now)
    }

    /// Whether its CLI may be at work.
    pub(super) fn may_work_at(&self, now: Instant) -> bool {
        now < self.ended() && !self.is_pod_gone_at(now)
    }

    fn condition_due(&self) -> Option<Instant> {
        self.script.condition_lag.filter(|_| self.script.stuck_status.is_none()).map(|lag| self.ended() + lag)
    }

    /// The times at which the script changes the Job or its pod.
    pub(super) fn change_times(&self) -> impl Iterator<Item = Instant> {
        let script = &self.script;
        let always = [self.at(script.pod_at), self.started(), self.ended()];
        let lost = script.node_lost_at.into_iter().chain(script.job_condition.map(|(at, ..)| at));
        let always = always.into_iter().chain(lost.map(|at| self.at(at))).chain(self.pod_gone_by_deletion());
        let before = self.script.early_statuses.iter().map(|(offset, _)| self.at(*offset));
        let others =
            self.script.pod_deleting_at.into_iter().chain(self.script.job_failed_at.map(|(at, _)| at));
        let others = others.chain(self.script.suspended_at);
        let script = &self.script;
        let others = others.chain(script.job_states.iter().map(|(at, _)| *at)).chain(script.no_pod_from);
        let before = before.chain(others.map(|offset| self.at(offset)));
        let replaced =
            self.script.replaced.map(|(at, _)| self.at(at)).into_iter().chain(self.replaced_gone_at());
        always.chain(before).chain(self.condition_due()).chain(self.deleted_at()).chain(replaced)
    }

    pub(super) fn job_now(&self) -> Job {
        self.job_at(Instant::now())
    }

    pub(super) fn job_at(&self, now: Instant) -> Job {
        let mut job = self.job.clone();
        if self.is_suspended(now) {
            let condition = json!({"type": "Suspended", "status": "True", "reason": "JobSuspended", "message": "Job suspended"});
            job.status = serde_json::from_value(json!({"conditions": [condition]})).ok();
        } else if let Some((_, reason)) = self.script.job_failed_at.filter(|(at, _)| self.at(*at) <= now) {
            let condition = json!({"type": "Failed", "status": "True", "reason": reason});
            job.status = serde_json::from_value(json!({"conditions": [condition]})).ok();
        } else if self.condition_due().is_some_and(|due| due <= now) {
            let condition = if self.script.exit_code == 0 {
                json!({"type": "Complete", "status": "True"})
            } else {
                json!({"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"})
            };
            job.status = serde_json::from_value(json!({"conditions": [condition]})).ok();
        } else if let Some((_, kind, reason)) =
            self.script.job_condition.filter(|(at, ..)| self.at(*at) <= now)
        {
            let condition = json!({"type": kind, "status": "True", "reason": reason});
            job.status = serde_json::from_value(json!({"conditions": [condition]})).ok();
        }
        let Some((_, state)) = self.script.job_states.iter().rfind(|(offset, _)| self.at(*offset) <= now)
        else {
            return job;
        };
        let mut json = serde_json::to_value(&job).expect("JSON");
        for part in ["spec", "status"] {
            for (key, value) in state[part].as_object().into_iter().flatten() {
                json[part][key] = value.clone();
            }
        }
        serde_json::from_value(json).expect("a job")
    }

    /// The UID of the Job's pod.
    fn pod_uid(&self) -> String {
        format!("pod-of-{}", self.job.metadata.uid.as_deref().unwrap_or_default())
    }

    /// The Events of the Job or of its pod, whichever has this UID.
    pub(super) fn events_of(&self, uid: &str, now: Instant) -> Vec<(Instant, &'static str, &'static str)> {
        let events = if self.job.metadata.uid.as_deref() == Some(uid) {
            &self.script.job_events
        } else if self.pod_uid() == uid {
            &self.script.pod_events
        } else {
            return Vec::new();
        };
        let at = events.iter().map(|(offset, reason, message)| (self.at(*offset), *reason, *message));
        at.filter(|(at, ..)| *at <= now).collect()
    }

    pub(super) fn pod_now(&self) -> Option<Pod> {
        self.pod_at(Instant::now())
    }

    fn is_suspended(&self, now: Instant) -> bool {
        self.script.suspended_at.is_some_and(|at| self.at(at) <= now)
    }

    pub(super) fn pod_at(&self, now: Instant) -> Option<Pod> {
        if self.is_suspended(now) && now >= self.ended() {
            return None;
        }
        let replaced = self.replaced_gone_at().is_some_and(|at| at <= now);
        let vanished = self.script.no_pod_from.is_some_and(|offset| self.at(offset) <= now);
        if now < self.at(self.script.pod_at) || self.is_pod_gone_at(now) || replaced || vanished {
            return None;
        }
        Some(self.build_pod(now))
    }

    /// When a replaced pod is gone.
    fn replaced_gone_at(&self) -> Option<Instant> {
        self.script.replaced.map(|(_, shown)| self.ended() + shown)
    }

    /// The pod that replaces a deleted one.
    pub(super) fn replacement_at(&self, now: Instant) -> Option<Pod> {
        let since = self.at(self.script.replaced?.0);
        if now < since || self.is_gone_at(now) {
            return None;
        }
        let mut pod = self.build_pod(self.started());
        pod.metadata.name = pod.metadata.name.map(|name| format!("another-{name}"));
        pod.metadata.deletion_timestamp = None;
        Some(pod)
    }

    /// The last object of a deleted pod, as its DELETED event has it.
    pub(super) fn last_pod_object(&self) -> Pod {
        let missed_end = self.script.replaced.is_some_and(|(_, shown)| shown.is_zero());
        let missed_end = missed_end.then(|| self.ended() - Duration::from_nanos(1));
        let at = self.pod_gone_by_deletion().or(missed_end).unwrap_or_else(Instant::now);
        let mut pod = self.build_pod(at);
        if let Some(code) = self.script.killed_with
            && at < self.ended()
        {
            let status = pod.status.get_or_insert_default();
            for container in status.container_statuses.iter_mut().flatten() {
                let terminated = json!({"terminated": {"exitCode": code, "reason": "Error"}});
                container.state = serde_json::from_value(terminated).ok();
            }
        }
        pod
    }

    fn build_pod(&self, now: Instant) -> Pod {
        let name = self.job.metadata.name.as_deref().expect("named");
        let status = if let Some(stuck) = &self.script.stuck_status {
            stuck.clone()
        } else if now < self.started()
            && let Some((_, status)) =
                self.script.early_statuses.iter().rfind(|(offset, _)| self.at(*offset) <= now)
        {
            status.clone()
        } else if now < self.started() {
            json!({"phase": "Pending", "containerStatuses": [
                {"name": "claude", "state": {"waiting": {"reason": "PodInitializing"}}}]})
        } else if now < self.ended() {
            json!({"phase": "Running", "containerStatuses": [
                {"name": "claude", "state": {"running": {}}}]})
        } else {
            let phase = if self.script.exit_code == 0 { "Succeeded" } else { "Failed" };
            let reason = Some(self.script.reason).filter(|reason| !reason.is_empty());
            json!({"phase": phase, "containerStatuses": [{"name": "claude", "state": {"terminated":
                {"exitCode": self.script.exit_code, "reason": reason}}}]})
        };
        let mut status = status;
        if let Some(name) = self.script.sidecar.filter(|_| now >= self.started()) {
            status["phase"] = json!("Running");
            let beside = json!({"name": name, "state": {"running": {}}});
            status["containerStatuses"].as_array_mut().expect("statuses").push(beside);
        }
        if self.script.node_lost_at.is_some_and(|at| self.at(at) <= now) {
            status["conditions"] =
                json!([{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]);
        }
        for kind in ["containerStatuses", "initContainerStatuses"] {
            for container in status.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
                for (key, value) in [
                    ("ready", json!(false)),
                    ("restartCount", json!(0)),
                    ("image", json!("")),
                    ("imageID", json!("")),
                ] {
                    container.as_object_mut().expect("an object").entry(key).or_insert(value);
                }
            }
        }
        let has_node = status.get("containerStatuses").is_some();
        let mut pod = json!({
            "metadata": {"name": format!("{name}-pod"), "uid": self.pod_uid(), "labels": self.job.metadata.labels, "ownerReferences": [{"apiVersion": "batch/v1",
                "kind": "Job", "name": name, "uid": self.job.metadata.uid}]},
            "status": status,
        });
        pod["metadata"]["labels"]["job-name"] = json!(name);
        pod["spec"] = json!({"nodeName": has_node.then_some("node-1"), "containers": []});
        if let Some(spec) = &self.script.pod_spec {
            pod["spec"] = spec.clone();
            pod["spec"]["containers"] = json!([]);
        }
        if self.script.orphaned && self.is_gone_at(now) {
            pod["metadata"]["ownerReferences"] = json!([]);
        }
        if !self.script.orphaned && self.is_gone_at(now) && self.script.pod_deleting_at.is_none() {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        }
        if self.is_suspended(now) || self.script.pod_deleting_at.is_some_and(|at| self.at(at) <= now) {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:30Z");
        }
        if self.script.replaced.is_some_and(|(at, _)| self.at(at) <= now) {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
            if now >= self.ended() {
                // The kubelet's own deletion.
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:10Z");
                pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            }
        }
        serde_json::from_value(pod).expect("a pod")
    }

    /// Whether the Job's labels match a selector of equalities.
    pub(super) fn matches(&self, selector: &str) -> bool {
        let none = BTreeMap::new();
        let labels = self.job.metadata.labels.as_ref().unwrap_or(&none);
        selector
            .split(',')
            .filter_map(|requirement| requirement.split_once('='))
            .all(|(key, value)| labels.get(key).is_some_and(|label| label == value))
    }
}

/// Whether a Job is a claim or barrier, which never has a pod.
pub(super) fn is_inert(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| spec.parallelism == Some(0))
}
