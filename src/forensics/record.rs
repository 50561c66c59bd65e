//! What a run saw of its Job and pod, kept from the first sight to the last: the evidence is made of it.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::account::Account;
use super::diagnosis::is_suspended;
use super::disruption::disruption;
use super::end::{node_answers, node_is_silent};
use super::event::seen_at;
use super::pod::{container_statuses, init_statuses};
use crate::manifest::labels::CLAUDE_CONTAINER;

/// How many Events of the Job and its pod are kept.
const MAX_EVENTS: usize = 16;

/// Finalizers of a Job that is deleted with a propagation policy of that name.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// Who of ours asked for the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// The host, by its abort signal.
    Host,
    /// The control plane, which answered that the run is cancelled.
    ControlPlane,
    /// The run's own time limit.
    TimeLimit,
    /// The host's process, which shuts down.
    Shutdown,
    /// The run, because the CLI did not exit after its result.
    AfterResult,
}

/// A request of ours to end the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndRequest {
    /// Who asked.
    pub(crate) by: Asker,
    /// When.
    pub(crate) at: Timestamp,
}

/// How the container's log was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogFacts {
    /// Bytes of output, without time stamps.
    pub(crate) bytes: u64,
    /// Lines of output.
    pub(crate) lines: u64,
    /// How often lines were missing.
    pub(crate) gaps: u64,
    /// How often the log was opened again.
    pub(crate) reconnects: u64,
    /// When the container printed its first line.
    pub(crate) first: Option<Timestamp>,
    /// When it printed the last line that was read.
    pub(crate) last: Option<Timestamp>,
    /// Whether the API refused to show the log (403).
    pub(crate) forbidden: bool,
}

/// An Event about the Job or its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventSeen {
    /// The kind of the object that it is about.
    pub(crate) kind: String,
    /// One word, such as `FailedCreate`.
    pub(crate) reason: String,
    /// The cluster's words.
    pub(crate) message: String,
    /// How often it happened.
    pub(crate) count: i32,
    /// When it happened last.
    pub(crate) at: Option<Timestamp>,
}

/// What a run saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// The Job's namespace; empty before it is known.
    pub(crate) namespace: String,
    /// The Job's name; empty before it is known.
    pub(crate) job_name: String,
    /// What the Job says of the account that its CLI uses.
    pub(crate) account: Account,
    /// The Job as it was last seen.
    pub(crate) job: Option<Arc<Job>>,
    /// How the Job is deleted: [`FOREGROUND`] or [`ORPHAN`], as was seen while it still was there.
    pub(crate) job_finalizer: Option<&'static str>,
    /// The Job is gone.
    pub(crate) job_gone: bool,
    /// The pod as it was last seen.
    pub(crate) pod: Option<Arc<Pod>>,
    /// The pod is gone.
    pub(crate) pod_gone: bool,
    /// When the pod's deletion was requested. The kubelet rewrites the stamp as it ends, so the first is kept.
    pub(crate) pod_deletion: Option<Timestamp>,
    /// That time is the one of the kubelet's own deletion, and the request came before it: the first was not seen.
    pub(crate) pod_deletion_is_last: bool,
    /// The Job was suspended while its pod was being deleted; it may have been resumed since.
    pub(crate) pod_suspended: bool,
    /// The cluster had not heard from the pod's node for a while, and has not seen it well since.
    pub(crate) node_silent: bool,
    /// The last words of a failed pull. Between two tries the kubelet says only that it waits.
    pub(crate) pull_words: Option<String>,
    /// Our own request to end the run.
    pub(crate) request: Option<EndRequest>,
    /// Whether the namespace is being deleted; `None` before that was asked.
    pub(crate) namespace_terminating: Option<bool>,
    /// How the log was read; `None` before it was opened.
    pub(crate) log: Option<LogFacts>,
    /// Events of the Job and its pod, oldest first; `None` where they were not read.
    pub(crate) events: Option<Vec<EventSeen>>,
}

impl Record {
    /// Keeps a Job that was seen.
    pub(crate) fn see_job(&mut self, job: &Arc<Job>) {
        let has = |name: &&str| job.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == name);
        self.job_finalizer = self.job_finalizer.or_else(|| [FOREGROUND, ORPHAN].into_iter().find(has));
        self.job = Some(job.clone());
        self.note_suspension();
    }

    fn note_suspension(&mut self) {
        let is_deleting = self.pod_gone || self.pod_deletion.is_some();
        self.pod_suspended |= is_deleting && self.job.as_deref().is_some_and(is_suspended);
    }

    /// Keeps a pod that was seen. Another pod of the Job takes the place of one only that has not been started.
    pub(crate) fn see_pod(&mut self, pod: &Arc<Pod>) {
        let is_other = self.pod.as_ref().is_some_and(|known| known.metadata.name != pod.metadata.name);
        if is_other && self.pod.as_ref().is_some_and(|known| has_started(known)) {
            return;
        }
        if is_other {
            (self.pod_deletion, self.pod_gone, self.node_silent) = (None, false, false);
            self.pod_suspended = false;
        }
        if self.pod_deletion.is_none() {
            self.pod_deletion = deletion_requested(&pod.metadata);
            self.pod_deletion_is_last = pod.metadata.deletion_grace_period_seconds.unwrap_or(0) == 0;
        }
        self.node_silent = node_is_silent(pod) || (self.node_silent && !node_answers(pod));
        let claude = container_statuses(pod).iter().filter(|status| status.name == CLAUDE_CONTAINER);
        let pulls = init_statuses(pod).iter().chain(claude).find_map(pull_words);
        self.pull_words = pulls.or_else(|| self.pull_words.take());
        self.pod = Some(pod.clone());
        self.note_suspension();
    }

    /// Whether the Job or its pod was deleted, and neither by this run nor for a reason that its objects say.
    pub(crate) fn is_deleted_by_others(&self) -> bool {
        let is_deleting = |meta: &ObjectMeta| meta.deletion_timestamp.is_some();
        let job = self.job_gone || self.job.as_ref().is_some_and(|job| is_deleting(&job.metadata));
        let pod = self.pod_gone || self.pod.as_ref().is_some_and(|pod| is_deleting(&pod.metadata));
        let by_pod = self.pod.as_deref().and_then(disruption);
        self.request.is_none() && (job || (pod && by_pod.is_none_or(|by| by.is_plain_deletion())))
    }

    /// Whether it is known that the namespace is being deleted.
    pub(crate) fn is_namespace_terminating(&self) -> bool {
        self.namespace_terminating == Some(true)
    }

    /// Keeps the first request of ours to end the run.
    pub(crate) fn ask_to_end(&mut self, by: Asker, at: Timestamp) {
        self.request.get_or_insert(EndRequest { by, at });
    }

    /// Keeps Events along with those that were read before, the newest if there are many.
    pub(crate) fn see_events(&mut self, events: Vec<Event>) {
        let mut seen = self.events.take().unwrap_or_default();
        for event in events.into_iter().map(EventSeen::from) {
            // A later read shows the same Event with a higher count.
            seen.retain(|known| {
                (&known.kind, &known.reason, &known.message) != (&event.kind, &event.reason, &event.message)
            });
            seen.push(event);
        }
        seen.sort_by_key(|event| event.at);
        let first = seen.len().saturating_sub(MAX_EVENTS);
        self.events = Some(seen.split_off(first));
    }

    /// The newest Event with one of these reasons.
    pub(crate) fn event(&self, reasons: &[&str]) -> Option<&EventSeen> {
        self.events.iter().flatten().rev().find(|event| reasons.contains(&event.reason.as_str()))
    }
}

impl From<Event> for EventSeen {
    fn from(event: Event) -> Self {
        let at = seen_at(&event);
        // A scheduler counts the repetitions in a series.
        let repeated = event.series.as_ref().and_then(|series| series.count);
        Self {
            kind: event.involved_object.kind.unwrap_or_default(),
            reason: event.reason.unwrap_or_default(),
            message: event.message.unwrap_or_default(),
            count: event.count.max(repeated).unwrap_or(1).max(1),
            at,
        }
    }
}

/// When the deletion of an object was requested: its stamp is when the grace period ends.
pub(super) fn deletion_requested(meta: &ObjectMeta) -> Option<Timestamp> {
    let ends = meta.deletion_timestamp.as_ref()?.0;
    let grace = jiff::SignedDuration::from_secs(meta.deletion_grace_period_seconds.unwrap_or(0));
    Some(ends.checked_sub(grace).unwrap_or(ends))
}

fn has_started(pod: &Pod) -> bool {
    container_statuses(pod).iter().any(|status| {
        status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    })
}

/// What the kubelet says of a pull that failed.
fn pull_words(status: &ContainerStatus) -> Option<String> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let is_pull = matches!(waiting.reason.as_deref(), Some("ErrImagePull" | "RegistryUnavailable"));
    waiting.message.clone().filter(|_| is_pull)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixtures::{container, waiting};
    use super::*;

    fn pod(name: &str, meta: Value, status: Value) -> Arc<Pod> {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": meta, "status": status})).unwrap();
        pod.metadata.name = Some(name.into());
        Arc::new(pod)
    }

    #[test]
    fn first_deletion_of_a_pod_is_kept() {
        let deleted = |at: &str, grace: i64| {
            pod("p", json!({"deletionTimestamp": at, "deletionGracePeriodSeconds": grace}), json!({}))
        };
        let mut record = Record::default();
        record.see_pod(&pod("p", json!({}), json!({})));
        assert_eq!(record.pod_deletion, None);
        record.see_pod(&deleted("2026-01-02T03:04:35Z", 30));
        record.see_pod(&deleted("2026-01-02T03:04:36Z", 0));
        assert_eq!(record.pod_deletion.unwrap().to_string(), "2026-01-02T03:04:05Z");
        assert!(!record.pod_deletion_is_last);
        let mut late = Record::default();
        late.see_pod(&deleted("2026-01-02T03:04:36Z", 0));
        assert!(late.pod_deletion_is_last);
    }

    #[test]
    fn started_pod_is_not_replaced_by_another() {
        let status = |state: Value| json!({"containerStatuses": [container("claude", state)]});
        let mut record = Record::default();
        record.see_pod(&pod("a", json!({}), status(waiting("ContainerCreating", None))));
        record.see_pod(&pod("b", json!({}), status(json!({"running": {}}))));
        record.see_pod(&pod("c", json!({}), json!({})));
        assert_eq!(record.pod.unwrap().metadata.name.as_deref(), Some("b"));
    }

    #[test]
    fn words_of_a_pull_outlast_its_backoff() {
        let status = |reason: &str, words: &str| json!({"containerStatuses": [container("claude", waiting(reason, Some(words)))]});
        let mut record = Record::default();
        record.see_pod(&pod("p", json!({}), status("ErrImagePull", "not found")));
        record.see_pod(&pod("p", json!({}), status("ImagePullBackOff", "Back-off pulling image")));
        assert_eq!(record.pull_words.as_deref(), Some("not found"));
    }

    #[test]
    fn repeated_event_has_the_time_and_count_of_its_series() {
        let event: Event = serde_json::from_value(json!({
            "metadata": {}, "involvedObject": {"kind": "Pod"}, "reason": "FailedScheduling", "message": "m", "count": 0,
            "eventTime": "2026-01-02T03:04:05.000000Z",
            "series": {"count": 7, "lastObservedTime": "2026-01-02T03:09:05.000000Z"},
        }))
        .unwrap();
        let seen = EventSeen::from(event);
        assert_eq!((seen.count, seen.at.unwrap().to_string().as_str()), (7, "2026-01-02T03:09:05Z"));
    }

    #[test]
    fn node_that_is_back_is_not_silent() {
        let ready = |ready: &str, containers: &str| {
            let conditions = json!([{"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": containers}]);
            pod("p", json!({}), json!({"phase": "Running", "conditions": conditions}))
        };
        let mut record = Record::default();
        record.see_pod(&ready("False", "True"));
        assert!(record.node_silent);
        record.see_pod(&ready("False", "False"));
        assert!(record.node_silent, "a pod that ends is not ready, either");
        record.see_pod(&ready("True", "True"));
        assert!(!record.node_silent);
    }

    #[test]
    fn pull_of_another_container_says_nothing_of_claude() {
        let mut record = Record::default();
        let shipper = container("shipper", waiting("ErrImagePull", Some("denied")));
        let claude = container("claude", waiting("ImagePullBackOff", Some("Back-off pulling image")));
        record.see_pod(&pod("p", json!({}), json!({"containerStatuses": [claude, shipper]})));
        assert_eq!(record.pull_words, None);
    }

    #[test]
    fn newest_events_are_kept_in_order() {
        let event = |second: usize| -> Event {
            serde_json::from_value(json!({
                "metadata": {}, "involvedObject": {"kind": "Job"}, "reason": format!("r{second}"), "message": "m",
                "lastTimestamp": format!("2026-01-02T03:04:{second:02}Z"),
            }))
            .unwrap()
        };
        let mut record = Record::default();
        record.see_events((0..20).rev().map(event).collect());
        let events = record.events.clone().unwrap();
        assert_eq!((events.len(), events[0].reason.as_str()), (MAX_EVENTS, "r4"));
        assert_eq!(record.event(&["r5", "r7"]).unwrap().reason, "r7");
        assert_eq!((events[0].kind.as_str(), events[0].count), ("Job", 1));
    }
}
