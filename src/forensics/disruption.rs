//! Who ended a pod from outside.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::cause::Cause;
use super::job::{is_true, words_of};
use super::non_empty;
use super::pod::condition;
use super::reasons::{Row, Source};
use crate::js_semantics;

/// The reason of a [`Disruption`] that is known from a deletion timestamp alone.
const DELETED: &str = "Deleted";

/// The reason of a [`Disruption`] of a pod whose Job was suspended.
const SUSPENDED: &str = "JobSuspended";

/// The request to delete a pod, as its object shows it.
///
/// The kubelet's own deletion, once the containers have ended, rewrites the time stamp and sets the grace period to 0. So
/// when the deletion was requested is known from the first object that shows it, and not from the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deletion {
    /// When the grace period ends.
    at: Timestamp,
    grace: SignedDuration,
}

impl Deletion {
    /// The deletion that this object shows.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        let at = pod.metadata.deletion_timestamp.as_ref()?.0;
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        Some(Self { at, grace })
    }

    /// When it was requested; of an object that the kubelet has rewritten, when at the latest.
    pub(crate) fn requested_at(&self) -> Timestamp {
        self.at.checked_sub(self.grace).unwrap_or(self.at)
    }

    fn text(&self) -> String {
        let before = if self.grace.is_zero() { "or before " } else { "" };
        format!("asked at {before}{}", self.requested_at())
    }
}

/// Why a pod was ended from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disruption {
    /// One word: the reason Kubernetes gives, or `Deleted`.
    pub(crate) reason: String,
    /// What Kubernetes says about it, or when the deletion was requested.
    pub(crate) message: Option<String>,
}

impl Disruption {
    /// The pod was deleted, and its object does not say by whom or why.
    pub(crate) fn is_plain_deletion(&self) -> bool {
        self.reason == DELETED
    }

    /// The same behind a message, whose last sentence names this cause: what that sentence says of a suspended Job is not
    /// said twice.
    pub(crate) fn clause(&self, cause: Option<Cause>) -> String {
        if self.reason != SUSPENDED || cause != Some(Cause::JobSuspendedMidRun) {
            return format!("; {}", self.text());
        }
        let said = |words: &String| format!("; the Job's condition says: {words}");
        self.message.as_ref().map(said).unwrap_or_default()
    }

    /// One line for people.
    pub(crate) fn text(&self) -> String {
        let what = match self.reason.as_str() {
            DELETED => "the pod was deleted by an unknown API client",
            SUSPENDED => "its Job was suspended",
            reason => Row::of(Source::End, reason).map_or("the pod was ended", Row::says),
        };
        let reason = if self.is_plain_deletion() { String::new() } else { format!(" [{}]", self.reason) };
        let message = self.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        // The message may have several lines.
        format!("{what}{reason}{message}").replace(['\r', '\n'], " ")
    }
}

/// The end of a pod whose Job is suspended: the Job controller deletes it. `None` for any other Job.
pub(crate) fn suspension(job: &Job) -> Option<Disruption> {
    let condition = is_true(job, "Suspended");
    let is_suspended = job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
    (is_suspended || condition.is_some())
        .then(|| Disruption { reason: SUSPENDED.into(), message: condition.and_then(words_of) })
}

/// What the pod says about who ended it: the condition `DisruptionTarget`, else the reason in its status, else its
/// deletion timestamp. Which client requested a plain deletion is in the audit log of the cluster only.
pub(crate) fn disruption(pod: &Pod) -> Option<Disruption> {
    disruption_since(pod, None)
}

/// The same of a pod whose deletion was seen before: `first` is the first that was.
pub(crate) fn disruption_since(pod: &Pod, first: Option<Deletion>) -> Option<Disruption> {
    let trimmed = |text: &Option<String>| {
        non_empty(text).map(js_semantics::trim).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    if let Some(target) = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True") {
        let reason = trimmed(&target.reason).unwrap_or_else(|| "DisruptionTarget".into());
        // The kubelet's own words may be in the status only.
        let words = || trimmed(&pod.status.as_ref()?.message);
        return Some(Disruption { reason, message: trimmed(&target.message).or_else(words) });
    }
    let status = pod.status.as_ref();
    if let Some(reason) = status.and_then(|status| trimmed(&status.reason)) {
        return Some(Disruption { reason, message: status.and_then(|status| trimmed(&status.message)) });
    }
    let deletion = first.or_else(|| Deletion::of(pod))?;
    Some(Disruption { reason: DELETED.into(), message: Some(deletion.text()) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::fixtures::pod;
    use super::*;

    #[test]
    fn disruption_is_condition_then_reason_then_deletion() {
        let target = |reason: &str| {
            let condition =
                json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "why"});
            pod(json!({"phase": "Failed", "reason": "Evicted", "conditions": [condition]}))
        };
        for (reason, text) in [
            (
                "PreemptionByScheduler",
                "the scheduler preempted the pod for one of higher priority [PreemptionByScheduler]: why",
            ),
            (
                "EvictionByEvictionAPI",
                "the pod was evicted through the Eviction API [EvictionByEvictionAPI]: why",
            ),
            ("SomethingNew", "the pod was ended [SomethingNew]: why"),
        ] {
            assert_eq!(disruption(&target(reason)).unwrap().text(), text);
        }
        let by_its_node =
            pod(json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low\non memory. "}));
        assert_eq!(
            disruption(&by_its_node).unwrap().text(),
            "the pod was evicted by its node [Evicted]: The node was low on memory."
        );
        let wordless = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low",
            "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}]});
        assert!(
            disruption(&pod(wordless)).unwrap().text().ends_with("[TerminationByKubelet]: The node was low")
        );
        let mut deleted = pod(json!({"phase": "Running"}));
        assert_eq!(disruption(&deleted), None);
        deleted.metadata = serde_json::from_value(
            json!({"deletionTimestamp": "2026-01-02T03:04:35Z", "deletionGracePeriodSeconds": 30}),
        )
        .unwrap();
        let asked = "the pod was deleted by an unknown API client: asked at 2026-01-02T03:04:05Z";
        assert_eq!(disruption(&deleted).unwrap().text(), asked);
        let untouched = json!([{"type": "DisruptionTarget", "status": "False", "reason": "x"}]);
        assert_eq!(disruption(&pod(json!({"conditions": untouched}))), None);
        assert_eq!(disruption(&Pod::default()), None);
    }

    #[test]
    fn deletion_rewritten_by_the_kubelet_keeps_its_first_time() {
        let deleted = |at: &str, grace: i64| {
            let mut pod = pod(json!({"phase": "Running"}));
            pod.metadata =
                serde_json::from_value(json!({"deletionTimestamp": at, "deletionGracePeriodSeconds": grace}))
                    .unwrap();
            pod
        };
        let (first, last) = (deleted("2026-01-02T03:04:35Z", 30), deleted("2026-01-02T03:04:32Z", 0));
        let text = |pod: &Pod, first| disruption_since(pod, first).unwrap().text();
        let asked = "the pod was deleted by an unknown API client: asked at 2026-01-02T03:04:05Z";
        assert_eq!(text(&first, None), asked);
        assert_eq!(text(&last, Deletion::of(&first)), asked);
        assert_eq!(
            text(&last, None),
            "the pod was deleted by an unknown API client: asked at or before 2026-01-02T03:04:32Z"
        );
        assert_eq!(Deletion::of(&Pod::default()), None);
    }

    #[test]
    fn suspended_job_ends_its_pod() {
        let job = |value: serde_json::Value| serde_json::from_value::<Job>(value).unwrap();
        let condition = |words: &str| json!({"type": "Suspended", "status": "True", "reason": "JobSuspended", "message": words});
        let (condition, preempted) = (condition("Job suspended"), condition("quota taken back"));
        let text = "its Job was suspended [JobSuspended]";
        for (given, expected) in [
            (json!({}), None),
            (json!({"spec": {"suspend": false, "template": {}}}), None),
            (json!({"status": {"conditions": [{"type": "Suspended", "status": "False"}]}}), None),
            (json!({"spec": {"suspend": true, "template": {}}}), Some(text.to_owned())),
            (json!({"status": {"conditions": [condition]}}), Some(text.to_owned())),
            (json!({"status": {"conditions": [preempted]}}), Some(format!("{text}: quota taken back"))),
        ] {
            assert_eq!(suspension(&job(given)).map(|found| found.text()), expected);
        }
        let clause = |words: Option<&str>, cause| {
            Disruption { reason: SUSPENDED.into(), message: words.map(str::to_owned) }.clause(cause)
        };
        let named = Some(Cause::JobSuspendedMidRun);
        assert_eq!(clause(None, named), "");
        assert_eq!(clause(Some("w"), named), "; the Job's condition says: w");
        assert_eq!(clause(None, Some(Cause::ExitCode)), format!("; {text}"));
    }

    proptest! {
        #[test]
        fn text_is_always_one_line(reason in any::<String>(), message in any::<Option<String>>()) {
            let text = Disruption { reason, message }.text();
            prop_assert!(!text.is_empty() && !text.contains('\n'));
        }
    }
}
