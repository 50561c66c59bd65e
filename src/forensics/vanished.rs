//! What is known about a Job that disappeared.

use std::time::Duration;

use super::container::TerminatedState;
use super::disruption::Disruption;

/// How the run noticed that the Job is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DetectionPath {
    /// 404 when the run read the Job again after the end of its output.
    GracePeriodVerify404,
    /// 404 while waiting for its completion.
    CompletionPoll404,
    /// 404 when the run read the Job again after an error.
    RecheckPoll404,
    /// The watch delivered its deletion.
    WatchDeleted,
}

impl DetectionPath {
    /// The path's name in messages.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::GracePeriodVerify404 => "grace-period-verify-404",
            Self::CompletionPoll404 => "completion-poll-404",
            Self::RecheckPoll404 => "recheck-poll-404",
            Self::WatchDeleted => "watch-deleted",
        }
    }
}

/// A Job that disappeared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vanished {
    /// How the run noticed.
    pub(crate) path: DetectionPath,
    /// The Job's name.
    pub(crate) job: String,
    /// The Job's namespace.
    pub(crate) namespace: String,
    /// From the pod running to the disappearance; printed in whole seconds.
    pub(crate) since_pod_running: Option<Duration>,
    /// Successful reads of the Job's conditions.
    pub(crate) completion_polls: u64,
    /// [`super::job::conditions_text`] of the last Job that was read; `None` when none was.
    pub(crate) last_conditions: Option<String>,
    /// What the last pod object that the run read says about who ended it.
    pub(crate) disruption: Option<Disruption>,
}

impl Vanished {
    /// Whether the container ended because of the deletion: a watch delivered the deletion or the pod was deleted as
    /// well, and the container was killed as a kubelet kills those of a deleted pod. In any other case its exit code is
    /// a cause in itself.
    pub(crate) fn explains(&self, container: Option<&TerminatedState>) -> bool {
        let pod_deleted = self.disruption.as_ref().is_some_and(Disruption::is_plain_deletion);
        (self.path == DetectionPath::WatchDeleted || pod_deleted)
            && container.is_some_and(|state| {
                matches!(state.exit_code, Some(137 | 143)) && state.reason.as_deref() != Some("OOMKilled")
            })
    }
}

/// Everything known about it, in one line. The last item, `pod_disruption`, is there only when the pod named a cause.
///
/// `stdout_bytes` counts bytes of output, `stdout_nonempty_lines` its lines with more than white space.
pub(crate) fn vanished_details(vanished: &Vanished, stdout_bytes: u64, stdout_nonempty_lines: u64) -> String {
    let mut details = vec![
        format!("detected_via={}", vanished.path.as_str()),
        format!("job={}", vanished.job),
        format!("ns={}", vanished.namespace),
    ];
    if let Some(elapsed) = vanished.since_pod_running {
        let seconds = elapsed.saturating_add(Duration::from_millis(500)).as_secs();
        details.push(format!("elapsed_since_pod_running={seconds}s"));
    }
    details.push(format!("completion_polls={}", vanished.completion_polls));
    details.push(format!(
        "last_job_conditions={}",
        vanished.last_conditions.as_deref().unwrap_or("none_observed")
    ));
    details.push(format!("stdout_bytes={stdout_bytes}"));
    details.push(format!("stdout_nonempty_lines={stdout_nonempty_lines}"));
    details.extend(vanished.disruption.as_ref().map(|cause| format!("pod_disruption={}", cause.text())));
    details.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_have_their_order_and_defaults() {
        let mut vanished = Vanished {
            path: DetectionPath::CompletionPoll404,
            job: "j".into(),
            namespace: "n".into(),
            since_pod_running: Some(Duration::from_millis(12_500)),
            completion_polls: 3,
            last_conditions: Some("[Suspended=False]".into()),
            disruption: None,
        };
        assert_eq!(
            vanished_details(&vanished, 7, 1),
            "detected_via=completion-poll-404, job=j, ns=n, elapsed_since_pod_running=13s, completion_polls=3, \
             last_job_conditions=[Suspended=False], stdout_bytes=7, stdout_nonempty_lines=1"
        );
        vanished.since_pod_running = None;
        vanished.last_conditions = None;
        vanished.disruption = Some(Disruption { reason: "NodeLost".into(), message: None });
        assert_eq!(
            vanished_details(&vanished, 0, 0),
            "detected_via=completion-poll-404, job=j, ns=n, completion_polls=3, last_job_conditions=none_observed, \
             stdout_bytes=0, stdout_nonempty_lines=0, pod_disruption=the pod's node was lost [NodeLost]"
        );
        vanished.since_pod_running = Some(Duration::MAX);
        assert!(!vanished_details(&vanished, u64::MAX, u64::MAX).is_empty());
    }

    #[test]
    fn detection_paths_have_their_contract_names() {
        for (path, name) in [
            (DetectionPath::GracePeriodVerify404, "grace-period-verify-404"),
            (DetectionPath::CompletionPoll404, "completion-poll-404"),
            (DetectionPath::RecheckPoll404, "recheck-poll-404"),
            (DetectionPath::WatchDeleted, "watch-deleted"),
        ] {
            assert_eq!(path.as_str(), name);
        }
    }
}
