//! What is known of a run's start: why it failed, and whether anything of the agent's work may have begun.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::pod::{shows_it_ran, shows_nothing_started};
use super::reasons::{Hold, Step};

/// Why a run's container did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartFailure {
    /// Where the Job was on its way.
    step: Step,
    /// The container that it is about.
    container: Option<String>,
    /// The cluster's one word.
    reason: Option<String>,
    /// The cluster's own words, one line.
    words: Option<String>,
    /// How long the run waited for its container.
    waited: Duration,
    /// How long it was held up by this.
    held: Duration,
    /// What happened, as a sentence.
    text: String,
}

impl StartFailure {
    /// The start ended with this hold; `text` says so where the hold itself has no sentence.
    pub(crate) fn new(hold: Hold, waited: Duration, held: Duration, text: impl FnOnce() -> String) -> Self {
        let Hold { step, container, reason, words, text: own, .. } = hold;
        let text = own.unwrap_or_else(text);
        Self { step, container, reason, words, waited, held, text }
    }

    /// The same as data, for the evidence.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "step": self.step.as_str(),
            "container": self.container,
            "reason": self.reason,
            "words": self.words,
            "waitedSec": self.waited.as_secs(),
            "heldSec": self.held.as_secs(),
        })
    }

    /// The message: what happened, then the step, the cluster's one word and how long the run really waited.
    pub(crate) fn message(&self) -> String {
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{} [{}{reason}, waited {}s]", self.text, self.step.as_str(), self.waited.as_secs())
    }
}

/// Proof that none of the agent's work had started: the host may replay the task. Only [`Creations`] and
/// [`StartRecord`] make one, from what was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NothingStarted {
    _observed: (),
}

/// Whether a run's Job can exist, as the answers to its creation tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Creations {
    possible: bool,
}

impl Creations {
    /// A creation was, or may have been, carried out, or a Job of this run is there already.
    pub(crate) fn may_exist(&mut self) {
        self.possible = true;
    }

    /// No creation of a Job of this run can have reached the cluster.
    pub(crate) fn nothing_started(self) -> Option<NothingStarted> {
        (!self.possible).then_some(NothingStarted { _observed: () })
    }
}

/// The most pods of a Job that are told apart. It has one, with old Job controllers two for a while.
const MOST_PODS: usize = 16;

/// What was seen of a Job's pods up to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartRecord {
    /// Each pod by name, and whether its last object shows that nothing was started.
    pods: BTreeMap<String, bool>,
    /// A pod ran `claude`, or there were too many to know.
    may_have_run: bool,
    job_gone: bool,
    pods_gone: bool,
}

impl StartRecord {
    /// A pod as a watch or a read showed it. Of two objects of a pod the later one counts, unless the earlier shows
    /// that `claude` ran.
    pub(crate) fn on_pod(&mut self, pod: &Pod) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let is_one_too_many = self.pods.len() == MOST_PODS && !self.pods.contains_key(&name);
        self.may_have_run |= is_one_too_many || shows_it_ran(pod);
        if !is_one_too_many {
            self.pods.insert(name, shows_nothing_started(pod));
        }
    }

    /// A container of the run was seen running, or nobody could look.
    pub(crate) fn may_have_run(&mut self) {
        self.may_have_run = true;
    }

    /// The Job is confirmed gone.
    pub(crate) fn on_job_gone(&mut self) {
        self.job_gone = true;
    }

    /// No pod of it was there when they were read after that.
    pub(crate) fn on_pods_gone(&mut self) {
        self.pods_gone = true;
    }

    /// The Job and its pods are gone, and the last known object of each shows that `claude` never started.
    pub(crate) fn nothing_started(&self) -> Option<NothingStarted> {
        let nothing = self.job_gone
            && self.pods_gone
            && !self.may_have_run
            && self.pods.values().all(|nothing_started| *nothing_started);
        nothing.then_some(NothingStarted { _observed: () })
    }
}

#[cfg(test)]
impl NothingStarted {
    /// For tests of what follows from a proof.
    pub(crate) fn for_test() -> Self {
        Self { _observed: () }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{container, ended, pod, waiting};
    use super::super::reasons::Grace;
    use super::*;

    fn proves(statuses: &[Value]) -> bool {
        let mut record = StartRecord::default();
        statuses.iter().for_each(|status| record.on_pod(&pod(status.clone())));
        assert_eq!(record.nothing_started(), None, "the Job may be there");
        record.on_job_gone();
        assert_eq!(record.nothing_started(), None, "its pods may be there");
        record.on_pods_gone();
        record.nothing_started().is_some()
    }

    fn claude(phase: &str, state: Value, more: Value) -> Value {
        let mut status = container("claude", state);
        for (key, value) in more.as_object().into_iter().flatten() {
            status[key] = value.clone();
        }
        json!({"phase": phase, "containerStatuses": [status, container("proxy", json!({"running": {}}))]})
    }

    #[test]
    fn last_pod_decides_whether_anything_started() {
        let start_error = |started: &str| json!({"terminated": {"exitCode": 128, "reason": "StartError", "startedAt": started}});
        // As a kubelet ends a container that it never made.
        let unmade = || json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}});
        for (status, proof) in [
            (json!({}), true),
            (json!({"phase": "Pending"}), true),
            (json!({"phase": "Unknown"}), false),
            (claude("Pending", waiting("ImagePullBackOff", None), json!({})), true),
            (claude("Pending", waiting("x", None), json!({"containerID": "containerd://1"})), false),
            (claude("Pending", waiting("x", None), json!({"lastState": ended(1)})), false),
            (claude("Pending", waiting("x", None), json!({"restartCount": 1})), false),
            (claude("Running", json!({"running": {}}), json!({})), false),
            (claude("Failed", ended(137), json!({})), false),
            (claude("Failed", unmade(), json!({})), true),
            (claude("Failed", unmade(), json!({"restartCount": 1})), false),
            (claude("Failed", unmade(), json!({"containerID": "containerd://1"})), false),
            (claude("Failed", unmade(), json!({"lastState": ended(137)})), false),
            (claude("Failed", start_error("1970-01-01T00:00:00Z"), json!({})), true),
            (claude("Failed", start_error("2026-01-01T00:00:00Z"), json!({})), false),
            (json!({"phase": "Failed", "reason": "OutOfcpu"}), true),
            (json!({"phase": "Failed", "reason": "SupplementalGroupsPolicyNotSupported"}), true),
            (json!({"phase": "Failed", "reason": "Evicted"}), false),
            (json!({"phase": "Failed"}), false),
        ] {
            assert_eq!(proves(std::slice::from_ref(&status)), proof, "{status}");
        }
        assert!(proves(&[]), "no pod was there");
        let [before, running] =
            [json!({"phase": "Pending"}), claude("Running", json!({"running": {}}), json!({}))];
        assert!(!proves(&[before.clone(), running.clone()]), "the later object counts");
        assert!(!proves(&[running, before]), "that it ran is never forgotten");
    }

    #[test]
    fn too_many_pods_or_a_running_one_leave_no_proof() {
        let mut record = StartRecord::default();
        record.on_job_gone();
        record.on_pods_gone();
        assert!(record.nothing_started().is_some());
        let mut many = record.clone();
        for n in 0..=MOST_PODS {
            let mut pod = pod(json!({"phase": "Pending"}));
            pod.metadata.name = Some(format!("p{n}"));
            many.on_pod(&pod);
        }
        assert_eq!(many.nothing_started(), None);
        record.may_have_run();
        assert_eq!(record.nothing_started(), None);
    }

    #[test]
    fn creation_that_may_have_been_carried_out_leaves_no_proof() {
        let mut creations = Creations::default();
        assert!(creations.nothing_started().is_some());
        creations.may_exist();
        assert_eq!(creations.nothing_started(), None);
    }

    #[test]
    fn message_names_step_reason_and_real_time() {
        let mut hold = Hold::passing(Step::Scheduling);
        let failure = |hold: &Hold| {
            let (waited, held) = (Duration::from_millis(61_900), Duration::from_secs(5));
            StartFailure::new(hold.clone(), waited, held, || "It did not start".into()).message()
        };
        assert_eq!(failure(&hold), "It did not start [scheduling, waited 61s]");
        hold.reason = Some("Unschedulable".into());
        hold.text = Some("Pod unschedulable: no node".into());
        hold.grace = Grace::Unschedulable;
        assert_eq!(failure(&hold), "Pod unschedulable: no node [scheduling: Unschedulable, waited 61s]");
        let (waited, held) = (Duration::from_millis(61_900), Duration::from_secs(5));
        assert_eq!(
            StartFailure::new(hold, waited, held, String::new).to_json(),
            json!({"step": "scheduling", "container": null, "reason": "Unschedulable", "words": null,
                "waitedSec": 61, "heldSec": 5})
        );
    }
}
