//! What a Job says about itself, and whether a run may take it over.

use k8s_openapi::api::batch::v1::{Job, JobCondition};

use crate::manifest::labels::{LABEL_SESSION_ID, LABEL_TASK_ID};

/// Where a Job stands. Only the final conditions count; a deletion timestamp is another matter (see [`is_live`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobState {
    /// No final condition.
    Running,
    /// Condition `Complete` is true.
    Complete,
    /// Condition `Failed` is true.
    Failed {
        /// Such as `DeadlineExceeded` or `BackoffLimitExceeded`.
        reason: Option<String>,
    },
}

impl JobState {
    /// Reads a Job's conditions.
    pub(crate) fn read(job: &Job) -> Self {
        if is_true(job, "Complete").is_some() {
            return Self::Complete;
        }
        match is_true(job, "Failed") {
            Some(failed) => Self::Failed { reason: failed.reason.clone() },
            None => Self::Running,
        }
    }
}

pub(super) fn conditions(job: &Job) -> &[JobCondition] {
    job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

pub(super) fn is_true<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    conditions(job).iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// The Job's conditions as `[Type=Status(Reason),…]`, or `none_observed`.
pub(crate) fn conditions_text(job: &Job) -> String {
    let conditions = conditions(job);
    if conditions.is_empty() {
        return "none_observed".into();
    }
    let one = |condition: &JobCondition| {
        let reason =
            super::non_empty(&condition.reason).map(|reason| format!("({reason})")).unwrap_or_default();
        format!("{}={}{reason}", condition.type_, condition.status)
    };
    format!("[{}]", conditions.iter().map(one).collect::<Vec<_>>().join(","))
}

/// Whether the Job counts as running for the guard: not being deleted and without a final condition.
pub(crate) fn is_live(job: &Job) -> bool {
    job.metadata.deletion_timestamp.is_none() && JobState::read(job) == JobState::Running
}

/// The task and session of a run, as label values; an empty one counts as none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected<'a> {
    /// Label value of the task.
    pub(crate) task_id: Option<&'a str>,
    /// Label value of the session.
    pub(crate) session_id: Option<&'a str>,
}

/// Whether a run may take over a Job that another run left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OrphanVerdict {
    /// Yes: the same task, and no other session.
    Reattach,
    /// No: the task of the Job or of the run is not known.
    BlockTaskUnknown,
    /// No: it works on another task.
    BlockTaskMismatch,
    /// No: it works in another session.
    BlockSessionMismatch,
}

/// Compares a Job's labels with the task and session of the current run. Does not read the Job's
/// conditions.
pub(crate) fn classify_orphan(job: &Job, expected: &Expected<'_>) -> OrphanVerdict {
    let label = |key: &str| job.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let known = |value: Option<&'_ str>| value.filter(|value| !value.is_empty()).map(str::to_owned);
    let (Some(task), Some(expected_task)) = (known(label(LABEL_TASK_ID)), known(expected.task_id)) else {
        return OrphanVerdict::BlockTaskUnknown;
    };
    if task != expected_task {
        return OrphanVerdict::BlockTaskMismatch;
    }
    match (known(label(LABEL_SESSION_ID)), known(expected.session_id)) {
        (Some(session), Some(expected)) if session != expected => OrphanVerdict::BlockSessionMismatch,
        _ => OrphanVerdict::Reattach,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(conditions: Value) -> Job {
        serde_json::from_value(json!({"metadata": {"name": "j"}, "status": {"conditions": conditions}}))
            .unwrap()
    }

    #[test]
    fn job_has_state_and_text_of_its_conditions() {
        let failed = |reason: Option<&str>| JobState::Failed { reason: reason.map(str::to_owned) };
        for (conditions, state, text) in [
            (json!([]), JobState::Running, "none_observed"),
            (json!(null), JobState::Running, "none_observed"),
            (json!([{"type": "Complete", "status": "True"}]), JobState::Complete, "[Complete=True]"),
            (json!([{"type": "Complete", "status": "False"}]), JobState::Running, "[Complete=False]"),
            (
                json!([{"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"}]),
                JobState::Running,
                "[FailureTarget=True(DeadlineExceeded)]",
            ),
            (
                json!([
                    {"type": "Suspended", "status": "False", "reason": ""},
                    {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"}
                ]),
                failed(Some("BackoffLimitExceeded")),
                "[Suspended=False,Failed=True(BackoffLimitExceeded)]",
            ),
            (json!([{"type": "Failed", "status": "True"}]), failed(None), "[Failed=True]"),
        ] {
            let mut job = job(conditions);
            assert_eq!(JobState::read(&job), state);
            assert_eq!(conditions_text(&job), text);
            assert_eq!(is_live(&job), state == JobState::Running);
            job.metadata =
                serde_json::from_value(json!({"deletionTimestamp": "2026-01-02T03:04:05Z"})).unwrap();
            assert_eq!(JobState::read(&job), state);
            assert!(!is_live(&job));
        }
        assert_eq!(JobState::read(&Job::default()), JobState::Running);
        assert_eq!(conditions_text(&Job::default()), "none_observed");
    }

    #[test]
    fn orphan_is_judged_by_task_then_session() {
        use OrphanVerdict::{BlockSessionMismatch, BlockTaskMismatch, BlockTaskUnknown, Reattach};
        for (task, session, expected_task, expected_session, verdict) in [
            (Some("t"), Some("s"), Some("t"), Some("s"), Reattach),
            (Some("t"), Some("s"), Some("t"), None, Reattach),
            (Some("t"), None, Some("t"), Some("s"), Reattach),
            (Some("t"), None, Some("t"), None, Reattach),
            (Some("t"), Some("s"), Some("t"), Some(""), Reattach),
            (Some("t"), Some("s"), None, Some("s"), BlockTaskUnknown),
            (Some("t"), Some("s"), Some(""), Some("s"), BlockTaskUnknown),
            (None, Some("s"), Some("t"), Some("s"), BlockTaskUnknown),
            (Some(""), Some("s"), Some(""), Some("s"), BlockTaskUnknown),
            (Some("t"), Some("s"), Some("u"), Some("s"), BlockTaskMismatch),
            (Some("t"), Some("s"), Some("t"), Some("r"), BlockSessionMismatch),
        ] {
            let mut labels = serde_json::Map::new();
            labels.extend(task.map(|task| ("paperclip.io/task-id".into(), task.into())));
            labels.extend(session.map(|session| ("paperclip.io/session-id".into(), session.into())));
            let mut job = job(json!([{"type": "Complete", "status": "True"}]));
            job.metadata = serde_json::from_value(json!({"labels": labels})).unwrap();
            let expected = Expected { task_id: expected_task, session_id: expected_session };
            assert_eq!(classify_orphan(&job, &expected), verdict, "{labels:?} {expected:?}");
        }
        let expected = Expected { task_id: Some("t"), session_id: None };
        assert_eq!(classify_orphan(&Job::default(), &expected), BlockTaskUnknown);
    }
}
