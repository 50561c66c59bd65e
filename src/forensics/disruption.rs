//! Who ended a pod from outside.

use k8s_openapi::api::core::v1::Pod;

use super::non_empty;
use super::pod::condition;
use crate::js_semantics;

/// The reason of a [`Disruption`] that is known from a deletion timestamp alone.
const DELETED: &str = "Deleted";

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

    /// One line for people.
    pub(crate) fn text(&self) -> String {
        let what = match self.reason.as_str() {
            "PreemptionByScheduler" => "the scheduler preempted the pod for one of higher priority",
            "DeletionByTaintManager" => {
                "the pod was deleted because its node has a taint it does not tolerate"
            }
            "EvictionByEvictionAPI" => "the pod was evicted through the Eviction API",
            "DeletionByPodGC" => "the pod was removed because its node is gone",
            "TerminationByKubelet" => {
                "the kubelet ended the pod (node pressure, node shutdown or a critical pod)"
            }
            "Evicted" => "the pod was evicted by its node",
            "Terminated" | "NodeShutdown" => "the pod's node was shut down",
            "NodeLost" => "the pod's node was lost",
            DELETED => "the pod was deleted by an unknown API client",
            "DeadlineExceeded" => "the pod reached its deadline",
            _ => "the pod was ended",
        };
        let reason = if self.is_plain_deletion() { String::new() } else { format!(" [{}]", self.reason) };
        let message = self.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        // The message may have several lines.
        format!("{what}{reason}{message}").replace(['\r', '\n'], " ")
    }
}

/// What the pod says about who ended it: the condition `DisruptionTarget`, else the reason in its status, else its
/// deletion timestamp. Which client requested a plain deletion is in the audit log of the cluster only.
pub(crate) fn disruption(pod: &Pod) -> Option<Disruption> {
    let trimmed = |text: &Option<String>| {
        non_empty(text).map(js_semantics::trim).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    if let Some(target) = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True") {
        let reason = trimmed(&target.reason).unwrap_or_else(|| "DisruptionTarget".into());
        return Some(Disruption { reason, message: trimmed(&target.message) });
    }
    let status = pod.status.as_ref();
    if let Some(reason) = status.and_then(|status| trimmed(&status.reason)) {
        return Some(Disruption { reason, message: status.and_then(|status| trimmed(&status.message)) });
    }
    let deletion = pod.metadata.deletion_timestamp.as_ref()?;
    // The timestamp is when the grace period ends.
    let grace = jiff::SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    let requested = deletion.0.checked_sub(grace).unwrap_or(deletion.0);
    Some(Disruption { reason: DELETED.into(), message: Some(format!("asked at {requested}")) })
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
        let mut deleted = pod(json!({"phase": "Running"}));
        assert_eq!(disruption(&deleted), None);
        deleted.metadata = serde_json::from_value(
            json!({"deletionTimestamp": "2026-01-02T03:04:35Z", "deletionGracePeriodSeconds": 30}),
        )
        .unwrap();
        assert_eq!(
            disruption(&deleted).unwrap().text(),
            "the pod was deleted by an unknown API client: asked at 2026-01-02T03:04:05Z"
        );
        let untouched = json!([{"type": "DisruptionTarget", "status": "False", "reason": "x"}]);
        assert_eq!(disruption(&pod(json!({"conditions": untouched}))), None);
        assert_eq!(disruption(&Pod::default()), None);
    }

    proptest! {
        #[test]
        fn text_is_always_one_line(reason in any::<String>(), message in any::<Option<String>>()) {
            let text = Disruption { reason, message }.text();
            prop_assert!(!text.is_empty() && !text.contains('\n'));
        }
    }
}
