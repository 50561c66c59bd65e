//! One line about a Job for operators: `paperclip-adapter-claude-k8s runs`.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use super::job::{JobState, failure_words, queue_hold};
use super::pod::{PodProgress, PodVerdict};
use super::words::one_line;
use super::{container, describe_truncation_cause, disruption, node_of};
use crate::manifest::labels::{
    ANNOTATION_AGENT_NAME, CLAUDE_CONTAINER, LABEL_AGENT_ID, LABEL_RUN_ID, LABEL_TASK_ID,
};

/// How a Job of this adapter stands. Texts are one line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobOverview {
    /// The Job's name.
    pub(crate) job: String,
    /// The agent's id, as a label value.
    pub(crate) agent: Option<String>,
    /// The agent's name, as the host gave it.
    pub(crate) agent_name: Option<String>,
    /// The task's id, as a label value.
    pub(crate) task: Option<String>,
    /// The id of the run that has the Job, as a label value.
    pub(crate) run: Option<String>,
    /// When the Job was created, RFC 3339.
    pub(crate) created_at: Option<String>,
    /// Where it stands.
    pub(crate) state: State,
    /// Its newest pod.
    pub(crate) pod: Option<String>,
    /// That pod's node.
    pub(crate) node: Option<String>,
    /// What keeps it from running, or how it ended other than well.
    pub(crate) cause: Option<String>,
}

/// Where a Job stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It has no pod, or its container has not started.
    Waiting,
    /// Its container runs.
    Running,
    /// Its container has ended, the Job has not.
    Ended,
    /// The Job succeeded.
    Complete,
    /// The Job failed.
    Failed,
    /// The Job is being deleted.
    Deleting,
}

impl JobOverview {
    /// Reads a Job and its pods.
    pub(crate) fn read(job: &Job, pods: &[Pod]) -> Self {
        let text = |values: &Option<std::collections::BTreeMap<String, String>>, key| {
            values.as_ref()?.get(key).map(|value| one_line(value))
        };
        let pod = pods.iter().max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let (labels, annotations) = (&job.metadata.labels, &job.metadata.annotations);
        Self {
            job: job.metadata.name.clone().unwrap_or_default(),
            agent: text(labels, LABEL_AGENT_ID),
            agent_name: text(annotations, ANNOTATION_AGENT_NAME),
            task: text(labels, LABEL_TASK_ID),
            run: text(labels, LABEL_RUN_ID),
            created_at: job.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()),
            state: state(job, pod),
            pod: pod.and_then(|pod| pod.metadata.name.clone()),
            node: pod.and_then(node_of).map(str::to_owned),
            cause: cause(job, pod),
        }
    }
}

fn state(job: &Job, pod: Option<&Pod>) -> State {
    if job.metadata.deletion_timestamp.is_some() {
        return State::Deleting;
    }
    match JobState::read(job) {
        JobState::Complete => State::Complete,
        JobState::Failed { .. } => State::Failed,
        JobState::Running => match pod.map(|pod| container::container_phase(pod, CLAUDE_CONTAINER)) {
            Some(container::ContainerPhase::Running) => State::Running,
            Some(container::ContainerPhase::Terminated(_)) => State::Ended,
            Some(container::ContainerPhase::Waiting) | None => State::Waiting,
        },
    }
}

/// What is nearest to the container comes first: the Job only repeats it.
fn cause(job: &Job, pod: Option<&Pod>) -> Option<String> {
    let of_pod = |pod: &Pod| {
        let end = container::terminated_state(pod, CLAUDE_CONTAINER).filter(|end| end.exit_code != Some(0));
        let ended = end.map(|end| format!("claude ended: {}", describe_truncation_cause(Some(&end))));
        let disrupted = || disruption(pod).map(|disruption| disruption.text());
        let held = || match PodProgress::read(pod).verdict {
            PodVerdict::Held(hold) => hold.text,
            PodVerdict::Ready | PodVerdict::Ended(_) => None,
        };
        ended.or_else(disrupted).or_else(held)
    };
    let of_queue = || queue_hold(job).and_then(|hold| hold.text);
    let cause = pod.and_then(of_pod).or_else(|| failure_words(job)).or_else(of_queue);
    cause.map(|cause| one_line(&cause))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn overview(job: Value, pods: Value) -> JobOverview {
        let job = serde_json::from_value(job).unwrap();
        let pods: Vec<Pod> = serde_json::from_value(pods).unwrap();
        JobOverview::read(&job, &pods)
    }

    fn job(status: Value) -> Value {
        json!({"metadata": {"name": "ac-1", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"paperclip.io/agent-id": "a1", "paperclip.io/run-id": "r1", "paperclip.io/task-id": "t1"},
            "annotations": {"paperclip.io/agent-name": "Ada\nLovelace"}}, "status": status})
    }

    fn pod(name: &str, created: &str, status: Value) -> Value {
        json!({"metadata": {"name": name, "creationTimestamp": created}, "spec": {"containers": [], "nodeName": "n1"},
            "status": status})
    }

    #[test]
    fn a_running_job_names_its_agent_task_and_node() {
        let running = json!({"phase": "Running", "containerStatuses": [{"name": "claude", "ready": true,
            "restartCount": 0, "image": "i", "imageID": "", "state": {"running": {}}}]});
        let seen = overview(job(json!({})), json!([pod("p1", "2026-01-01T00:00:01Z", running)]));
        assert_eq!(
            serde_json::to_value(&seen).unwrap(),
            json!({"job": "ac-1", "agent": "a1", "agentName": "Ada Lovelace", "task": "t1", "run": "r1",
                "createdAt": "2026-01-01T00:00:00Z", "state": "running", "pod": "p1", "node": "n1", "cause": null})
        );
    }

    #[test]
    fn a_waiting_job_names_what_holds_it() {
        let pulling = json!({"phase": "Pending", "containerStatuses": [{"name": "claude", "ready": false,
            "restartCount": 0, "image": "i", "imageID": "",
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]});
        let seen = overview(job(json!({})), json!([pod("p1", "2026-01-01T00:00:01Z", pulling)]));
        assert_eq!(seen.state, State::Waiting);
        assert_eq!(seen.cause.as_deref(), Some("Image pull failed for \"claude\": no such image"));
    }

    #[test]
    fn a_failed_job_names_the_end_of_its_container() {
        let failed =
            json!({"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]});
        let killed = json!({"phase": "Failed", "containerStatuses": [{"name": "claude", "ready": false,
            "restartCount": 0, "image": "i", "imageID": "",
            "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]});
        let seen = overview(job(failed.clone()), json!([pod("p1", "2026-01-01T00:00:01Z", killed)]));
        assert_eq!(seen.state, State::Failed);
        let cause = seen.cause.unwrap();
        assert!(cause.starts_with("claude ended: exit code 137") && cause.contains("OOMKilled"), "{cause}");
        assert_eq!(overview(job(failed), json!([])).cause.as_deref(), Some("BackoffLimitExceeded"));
    }

    #[test]
    fn of_several_pods_the_newest_counts() {
        let pods = json!([
            pod("new", "2026-01-01T00:00:02Z", json!({"phase": "Pending"})),
            pod("old", "2026-01-01T00:00:01Z", json!({"phase": "Failed", "reason": "Evicted"})),
        ]);
        assert_eq!(overview(job(json!({})), pods).pod.as_deref(), Some("new"));
    }

    #[test]
    fn a_suspended_job_says_so() {
        let suspended = json!({"metadata": {"name": "ac-1"}, "spec": {"suspend": true,
            "template": {"spec": {"containers": []}}}});
        let seen = overview(suspended, json!([]));
        assert_eq!((seen.state, seen.cause.as_deref()), (State::Waiting, Some("Job is suspended")));
    }
}
