//! What a Job says about itself, and whether a run may take it over.

use k8s_openapi::api::batch::v1::{Job, JobCondition};

use super::non_empty;
use super::reasons::{Grace, Hold, Step};
use super::words::{one_line, say_more};
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
        let reason = non_empty(&condition.reason).map(|reason| format!("({reason})")).unwrap_or_default();
        format!("{}={}{reason}", condition.type_, condition.status)
    };
    format!("[{}]", conditions.iter().map(one).collect::<Vec<_>>().join(","))
}

/// The message of a condition, one line, unless it only repeats the reason.
pub(super) fn words_of(condition: &JobCondition) -> Option<String> {
    let words = one_line(non_empty(&condition.message)?);
    let reason = condition.reason.as_deref().unwrap_or(&condition.type_);
    Some(words).filter(|words| say_more(words, reason))
}

/// The controller that creates the pods of a Job with this, or no, `managedBy`.
const JOB_CONTROLLER: &str = "kubernetes.io/job-controller";
/// The label that names a Job's queue in Kueue.
const QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";

/// What keeps a Job from getting a pod on purpose: it is suspended, as a queue does until there is room, or left to
/// another controller.
pub(crate) fn queue_hold(job: &Job) -> Option<Hold> {
    let spec = job.spec.as_ref();
    let condition = is_true(job, "Suspended");
    let suspended = match spec.and_then(|spec| spec.suspend) {
        // The condition lags behind.
        Some(suspended) => suspended,
        None => condition.is_some(),
    };
    let other = spec.and_then(|spec| spec.managed_by.as_deref()).filter(|by| *by != JOB_CONTROLLER);
    if !suspended && other.is_none() {
        return None;
    }
    let label = |key: &str| job.metadata.labels.as_ref()?.get(key).map(|value| one_line(value));
    let queue = label(QUEUE_LABEL).map(|queue| format!(" in queue \"{queue}\"")).unwrap_or_default();
    let by = other.map(|by| format!(" (managed by {})", one_line(by))).unwrap_or_default();
    let words = condition.and_then(words_of);
    let state = if suspended { "is suspended" } else { "is left to another controller" };
    let said = words.as_ref().map(|words| format!(": {words}")).unwrap_or_default();
    Some(Hold {
        step: Step::Queue,
        grace: Grace::Queue,
        container: None,
        reason: condition.and_then(|condition| non_empty(&condition.reason)).map(one_line),
        words,
        text: Some(format!("Job {state}{queue}{by}{said}")),
    })
}

/// Reason and message of the condition that says why the Job failed or is about to, one line.
pub(crate) fn failure_words(job: &Job) -> Option<String> {
    let failed = is_true(job, "Failed").or_else(|| is_true(job, "FailureTarget"))?;
    let words = match (non_empty(&failed.reason), non_empty(&failed.message)) {
        (Some(reason), Some(message)) => format!("{reason}: {message}"),
        (Some(text), None) | (None, Some(text)) => text.to_owned(),
        (None, None) => return None,
    };
    Some(one_line(&words))
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
    fn suspended_job_waits_for_its_queue() {
        let suspended = json!([{"type": "Suspended", "status": "True", "reason": "JobSuspended", "message": "Job\nsuspended"}]);
        let held = |spec: Value, conditions: &Value, labels: Value| {
            let mut job = job(conditions.clone());
            job.metadata.labels = serde_json::from_value(labels).unwrap();
            let template = json!({"spec": {"containers": []}});
            let mut spec = spec;
            spec["template"] = template;
            job.spec = serde_json::from_value(spec).unwrap();
            queue_hold(&job).and_then(|hold| hold.text)
        };
        let (none, queue) = (json!({}), json!({"kueue.x-k8s.io/queue-name": "team-a"}));
        assert_eq!(held(json!({}), &json!([]), none.clone()), None);
        assert_eq!(held(json!({"suspend": false}), &suspended, none.clone()), None, "the condition lags");
        assert_eq!(held(json!({}), &suspended, none.clone()).unwrap(), "Job is suspended");
        let evicted = json!([{"type": "Suspended", "status": "True", "reason": "JobSuspended", "message": "evicted by team-b"}]);
        assert_eq!(held(json!({}), &evicted, none.clone()).unwrap(), "Job is suspended: evicted by team-b");
        assert_eq!(
            held(json!({"suspend": true}), &json!([]), queue).unwrap(),
            "Job is suspended in queue \"team-a\""
        );
        let managed = |by: &str| held(json!({"managedBy": by}), &json!([]), none.clone());
        assert_eq!(managed("kubernetes.io/job-controller"), None);
        assert_eq!(
            managed("kueue.x-k8s.io/multikueue").unwrap(),
            "Job is left to another controller (managed by kueue.x-k8s.io/multikueue)"
        );
    }

    #[test]
    fn failure_words_are_reason_and_message() {
        for (conditions, words) in [
            (json!([]), None),
            (json!([{"type": "Failed", "status": "True"}]), None),
            (
                json!([{"type": "Failed", "status": "True", "reason": "PodFailurePolicy"}]),
                Some("PodFailurePolicy"),
            ),
            (
                json!([{"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded", "message": "was\nactive"}]),
                Some("DeadlineExceeded: was active"),
            ),
        ] {
            assert_eq!(failure_words(&job(conditions)).as_deref(), words);
        }
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
