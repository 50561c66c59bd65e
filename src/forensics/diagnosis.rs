//! From what a run saw to the cause of its failure.
//!
//! Types decide where there are types: conditions, reasons, exit codes. The words of a message only tell apart what
//! Kubernetes gives one reason for, such as the ways a pull fails; nothing else is decided on them.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::cause::Cause;
use super::container::{TerminatedState, end_of};
use super::disruption::disruption;
use super::job::{JobState, is_true};
use super::pod::{condition, culprit, is_terminal, shows_it_ran};
use super::reasons::{Role, Row, Source};
use super::record::{Asker, EventSeen, FOREGROUND, ORPHAN, Record};
use super::words::{Words, by_words};

/// The Event of a Job whose pod cannot be created.
const FAILED_CREATE: &str = "FailedCreate";
/// The Event of a pod whose image is being pulled.
const PULLING: &str = "Pulling";
/// Events of a pod whose start gets on.
const PROGRESS: &[&str] = &["Scheduled", PULLING, "Pulled", "Created", "Started"];

const REFUSED_JOB: &Words = &[
    ("exceeded quota", Cause::JobQuotaExceeded),
    ("failed quota", Cause::JobQuotaExceeded),
    ("because it is being terminated", Cause::NamespaceTerminating),
    ("is forbidden: user ", Cause::JobCreateForbidden),
];

const WEBHOOK: &Words = &[
    ("admission webhook", Cause::JobAdmissionRefused),
    ("calling webhook", Cause::JobAdmissionRefused),
    ("admissionpolicy", Cause::JobAdmissionRefused),
];

impl Cause {
    /// Why the API server refused (403) to create a Job, by its words.
    pub(crate) fn of_refused_job(words: &str) -> Self {
        by_words(WEBHOOK, words)
            .or_else(|| by_words(REFUSED_JOB, words))
            .unwrap_or(Cause::JobAdmissionRefused)
    }

    /// Why the API server did not accept a Job's fields, by its words: a webhook may answer with any code.
    pub(crate) fn of_invalid_job(words: &str) -> Self {
        by_words(WEBHOOK, words).unwrap_or(Cause::JobInvalid)
    }

    /// Why the API server failed to create a Job, by its words.
    pub(crate) fn of_failed_create(words: &str) -> Self {
        by_words(WEBHOOK, words).unwrap_or(Cause::JobCreateUnreachable)
    }

    /// How a container ended by itself; `None` for an exit with 0 and for an unknown end.
    fn of_exit(state: &TerminatedState) -> Option<Self> {
        // Another process of it may have been killed at the memory limit.
        if state.exit_code == Some(0) {
            return None;
        }
        if let Some(row) = state.reason.as_deref().and_then(|reason| Row::of(Source::Exit, reason)) {
            return Some(row.cause("", None));
        }
        match state.exit_code? {
            126 | 127 => Some(Cause::CommandNotFound),
            137 => Some(Cause::Killed),
            143 => Some(Cause::Terminated),
            // SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV and SIGSYS.
            131..=136 | 139 | 159 => Some(Cause::Crashed),
            _ => Some(Cause::ExitCode),
        }
    }
}

/// Whether an end like this is how a kubelet ends the containers of a pod that something else ended.
fn is_killed(container: Option<&TerminatedState>) -> bool {
    container.is_none_or(TerminatedState::is_kill)
}

impl Record {
    /// Why a run ended whose container ran; `None` where it ended with 0 or nothing is known. `container`: how `claude`
    /// ended.
    pub(crate) fn cause_of_end(&self, container: Option<&TerminatedState>) -> Option<Cause> {
        let came_first = |requested: Option<Timestamp>| {
            requested.zip(container).is_some_and(|(requested, state)| state.ended_before(requested))
        };
        if let Some(cause) = self.cause_of_request()
            && !came_first(self.request.map(|request| request.at))
        {
            return Some(cause);
        }
        if let Some(pod) = self.pod.as_deref()
            && !came_first(disrupted_at(pod))
            && let Some(cause) = self
                .cause_of_disruption(pod)
                .or_else(|| (is_killed(container) && names_its_end(pod)).then_some(Cause::PodDisrupted))
        {
            return Some(cause);
        }
        if is_killed(container)
            && !came_first(self.pod_deletion)
            && let Some(cause) = self.cause_of_deletion()
        {
            return Some(cause);
        }
        Cause::of_exit(container?)
    }

    /// Our own request to end the run, as a cause.
    pub(crate) fn cause_of_request(&self) -> Option<Cause> {
        Some(match self.request?.by {
            Asker::Host => Cause::CancelledByHost,
            Asker::ControlPlane => Cause::CancelledByControlPlane,
            Asker::TimeLimit => Cause::TimeLimit,
            Asker::Shutdown => Cause::HostShutdown,
            Asker::AfterResult => Cause::HungAfterResult,
        })
    }

    /// Who deleted or stopped the Job or its pod through the API.
    fn cause_of_deletion(&self) -> Option<Cause> {
        let job = self.job.as_deref();
        if job.is_some_and(has_reached_deadline) {
            return Some(Cause::JobDeadline);
        }
        if self.is_namespace_terminating() {
            return Some(Cause::NamespaceDeleted);
        }
        if (job.is_some_and(is_suspended) || self.pod_suspended) && !self.job_gone {
            return Some(Cause::JobSuspendedMidRun);
        }
        let is_deleted = job.is_some_and(|job| job.metadata.deletion_timestamp.is_some());
        if self.job_gone || is_deleted {
            return Some(match () {
                () if self.job_finalizer == Some(FOREGROUND) => Cause::JobDeletedForeground,
                () if self.job_finalizer == Some(ORPHAN) || self.is_orphaned() => Cause::JobOrphaned,
                () => Cause::JobDeleted,
            });
        }
        (self.pod_deletion.is_some() || self.pod_gone).then_some(Cause::PodDeleted)
    }

    /// Whether the pod was not deleted with its Job.
    fn is_orphaned(&self) -> bool {
        let owners = |pod: &Pod| pod.metadata.owner_references.iter().flatten().count();
        self.pod.as_deref().is_some_and(|pod| owners(pod) == 0)
    }

    /// Why a run did not start. `words`: what the run's own verdict says.
    pub(crate) fn cause_of_start(&self, words: &str) -> Cause {
        if let Some(cause) = self.cause_of_request() {
            return cause;
        }
        let job = self.job.as_deref();
        let Some(pod) = self.pod.as_deref().filter(|pod| !self.is_past(pod)) else {
            return match () {
                () if job.is_some_and(is_suspended) => Cause::JobSuspended,
                () if self.job_gone
                    || self.is_namespace_terminating()
                    || job.is_some_and(has_reached_deadline) =>
                {
                    self.cause_of_deletion().unwrap_or(Cause::JobDeleted)
                }
                () => self.cause_of_missing_pod(words),
            };
        };
        let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref()).unwrap_or_default();
        Row::of(Source::Refusal, reason)
            .map(|row| row.cause("", None))
            .or_else(|| self.cause_of_disruption(pod))
            .or_else(|| self.cause_of_containers(pod))
            .or_else(|| disrupted_at(pod).map(|_| Cause::PodDisrupted))
            .or_else(|| (is_terminal(pod) && !reason.is_empty()).then_some(Cause::NodeAdmissionRefused))
            .or_else(|| self.cause_of_deletion())
            .or_else(|| cause_of_scheduling(pod))
            .unwrap_or_else(|| self.cause_of_slow_start())
    }

    /// Whether a pod that never ran is gone, and its Job waits for another: the pod is not what the run waits for.
    fn is_past(&self, pod: &Pod) -> bool {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let is_refused = || self.event(&[FAILED_CREATE]).is_some_and(|event| event.at > created);
        self.pod_gone
            && !self.job_gone
            && !shows_it_ran(pod)
            && (self.job.as_deref().is_some_and(is_suspended) || is_refused())
    }

    /// Why the Job controller creates no pod, by its Event, else by the words of the run's own verdict.
    fn cause_of_missing_pod(&self, words: &str) -> Cause {
        let row = Row::of(Source::JobEvent, FAILED_CREATE);
        let of = |words: &str| row.map_or(Cause::PodRefused, |row| row.cause(words, None));
        match (self.event(&[FAILED_CREATE]), of(words)) {
            (Some(event), _) => of(&event.message),
            (None, Cause::PodRefused) => Cause::PodNotCreated,
            (None, cause) => cause,
        }
    }

    /// Who ended a pod, as its conditions or its reason say; `None` for a plain deletion.
    fn cause_of_disruption(&self, pod: &Pod) -> Option<Cause> {
        let status = pod.status.as_ref()?;
        let of_reason =
            |reason: &str, words: &str| Row::of(Source::End, reason).map(|row| row.cause(words, None));
        let words = status.message.as_deref().unwrap_or_default();
        // The condition says who, and the kubelet's own words may be in the status only.
        let by_condition = disruption(pod).and_then(|by| {
            let said = by.message.as_deref().unwrap_or_default();
            of_reason(&by.reason, &format!("{said} {words}"))
        });
        let by_pod = || status.reason.as_deref().and_then(|reason| of_reason(reason, words));
        let cause = by_condition.or_else(by_pod)?;
        // A node that does not answer gets a taint for that.
        Some(if cause == Cause::NodeTainted && self.node_silent { Cause::NodeLost } else { cause })
    }

    /// Which container of a pod keeps it from starting.
    fn cause_of_containers(&self, pod: &Pod) -> Option<Cause> {
        let (role, status) = culprit(pod)?;
        let waiting = || {
            let waiting = status.state.as_ref()?.waiting.as_ref()?;
            let (reason, words) =
                (waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default());
            Row::of(Source::Container, reason).map(|row| row.cause(words, self.pull_words.as_deref()))
        };
        waiting().or_else(|| match role {
            Role::Init => {
                let end = status.state.as_ref().and_then(|state| state.terminated.as_ref());
                let is_oom = end.is_some_and(|end| end.reason.as_deref() == Some("OOMKilled"));
                Some(if is_oom { Cause::InitContainerOutOfMemory } else { Cause::InitContainerFailed })
            }
            Role::Main => Cause::of_exit(&end_of(pod, &status.name)?.into()),
        })
    }

    /// The last Event of the pod that says how its start gets on.
    pub(super) fn event_of_start(&self) -> Option<&EventSeen> {
        self.events.iter().flatten().rev().find(|event| {
            let reason = event.reason.as_str();
            PROGRESS.contains(&reason) || Row::of(Source::PodEvent, reason).is_some()
        })
    }

    /// Why a pod on a node takes too long, by its Events.
    fn cause_of_slow_start(&self) -> Cause {
        let Some(event) = self.event_of_start() else { return Cause::StartTimeout };
        match Row::of(Source::PodEvent, &event.reason) {
            Some(row) => row.cause(&event.message, None),
            None if event.reason == PULLING => Cause::ImagePullSlow,
            None => Cause::StartTimeout,
        }
    }
}

fn has_reached_deadline(job: &Job) -> bool {
    let deadline = |reason: Option<&str>| reason == Some("DeadlineExceeded");
    let target = is_true(job, "FailureTarget").and_then(|condition| condition.reason.as_deref());
    match JobState::read(job) {
        JobState::Failed { reason } => deadline(reason.as_deref()),
        _ => deadline(target),
    }
}

/// When the pod's condition says that something ends it.
fn disrupted_at(pod: &Pod) -> Option<Timestamp> {
    let target = condition(pod, "DisruptionTarget").filter(|target| target.status == "True")?;
    Some(target.last_transition_time.as_ref().map_or(Timestamp::MAX, |time| time.0))
}

/// Whether the pod says why it was ended, in whatever words.
fn names_its_end(pod: &Pod) -> bool {
    disruption(pod).is_some_and(|by| !by.is_plain_deletion())
}

pub(super) fn is_suspended(job: &Job) -> bool {
    is_true(job, "Suspended").is_some() || job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true))
}

/// Why a pod has no node.
fn cause_of_scheduling(pod: &Pod) -> Option<Cause> {
    let scheduled = condition(pod, "PodScheduled");
    if let Some(condition) = scheduled.filter(|condition| condition.status == "False") {
        let words = condition.message.as_deref().unwrap_or_default();
        let row = condition.reason.as_deref().and_then(|reason| Row::of(Source::Scheduled, reason));
        return Some(row.map_or(Cause::Unschedulable, |row| row.cause(words, None)));
    }
    let has_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let is_scheduled = scheduled.is_some() || has_node;
    (!is_scheduled).then_some(Cause::NotScheduled)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::{Value, json};

    use super::super::fixtures::{container, ended, pod, waiting};
    use super::*;

    fn record(status: Value) -> Record {
        let mut record = Record::default();
        record.see_pod(&Arc::new(pod(status)));
        record
    }

    fn job(object: Value) -> Arc<Job> {
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn exit(code: i32, reason: &str) -> TerminatedState {
        TerminatedState { exit_code: Some(code), reason: Some(reason.into()), ..Default::default() }
    }

    #[test]
    fn refused_job_is_told_apart_by_its_words() {
        for (words, cause) in [
            (
                "jobs.batch \"j\" is forbidden: exceeded quota: q, requested: count/jobs.batch=1",
                Cause::JobQuotaExceeded,
            ),
            (
                "jobs.batch \"j\" is forbidden: unable to create new content in namespace n because it is being terminated",
                Cause::NamespaceTerminating,
            ),
            (
                "jobs.batch is forbidden: User \"u\" cannot create resource \"jobs\"",
                Cause::JobCreateForbidden,
            ),
            ("admission webhook \"w\" denied the request: no", Cause::JobAdmissionRefused),
            ("admission webhook \"w\" denied the request: exceeded quota", Cause::JobAdmissionRefused),
        ] {
            assert_eq!(Cause::of_refused_job(words), cause, "{words}");
        }
    }

    #[test]
    fn refused_pod_is_told_apart_by_its_words() {
        for (words, cause) in [
            ("pods \"p\" is forbidden: exceeded quota: q, requested: pods=1", Cause::PodQuotaExceeded),
            ("pods \"p\" is forbidden: failed quota: q: must specify limits.cpu", Cause::PodQuotaExceeded),
            (
                "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": x",
                Cause::PodSecurityRefused,
            ),
            (
                "pods \"p\" is forbidden: error looking up service account n/s: serviceaccount \"s\" not found",
                Cause::ServiceAccountMissing,
            ),
            (
                "pods \"p\" is forbidden: maximum cpu usage per Container is 1, but limit is 2",
                Cause::LimitRangeRefused,
            ),
            ("admission webhook \"w\" denied the request: no", Cause::PodAdmissionRefused),
            (
                "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'x' with binding 'y' denied request: no",
                Cause::PodAdmissionRefused,
            ),
            ("Internal error occurred: failed calling webhook \"w\": no route", Cause::PodAdmissionRefused),
            (
                "admission webhook \"w\" denied the request: serviceaccount \"s\" has exceeded quota",
                Cause::PodAdmissionRefused,
            ),
            // OpenShift's words are about accounts, too.
            (
                "pods \"p\" is forbidden: unable to validate against any security context constraint: [provider \"anyuid\": \
                 Forbidden: not usable by user or serviceaccount, provider restricted-v2: .spec.securityContext.fsGroup: \
                 Invalid value: []int64{1000}: 1000 is not an allowed group]",
                Cause::PodAdmissionRefused,
            ),
            (
                "pods is forbidden: User \"system:serviceaccount:kube-system:job-controller\" cannot create resource",
                Cause::PodNotCreated,
            ),
            (
                "pods \"p\" is forbidden: service account n/s was not found, retry after it is created",
                Cause::ServiceAccountMissing,
            ),
            ("pods \"p\" is forbidden: no PriorityClass with name x was found", Cause::PodNotCreated),
            ("something new", Cause::PodNotCreated),
        ] {
            assert_eq!(Record::default().cause_of_missing_pod(words), cause, "{words}");
        }
    }

    #[test]
    fn unschedulable_pod_is_told_apart_by_its_words() {
        let tail = " preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling, insufficient x.";
        for (words, cause) in [
            ("0/3 nodes are available: 3 Insufficient cpu.", Cause::UnschedulableResources),
            ("0/3 nodes are available: 3 Too many pods.", Cause::UnschedulableResources),
            ("0/3 nodes are available: 3 node(s) had untolerated taint {a: b}.", Cause::UnschedulableTaint),
            (
                "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
                Cause::UnschedulableSelector,
            ),
            // The taint's own name tells nothing.
            (
                "0/3 nodes are available: 3 node(s) had untolerated taint {volume/insufficient : x}.",
                Cause::UnschedulableTaint,
            ),
            (
                "0/3 nodes are available: 1 node(s) had volume node affinity conflict, 2 node(s) had untolerated taint {a: b}.",
                Cause::UnschedulableVolume,
            ),
            ("0/1 nodes are available: 1 node(s) were unschedulable.", Cause::Unschedulable),
            (
                "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints.",
                Cause::Unschedulable,
            ),
            ("pod has unbound immediate PersistentVolumeClaims.", Cause::UnschedulableVolume),
            ("persistentvolumeclaim \"c\" not found.", Cause::UnschedulableVolume),
            ("no nodes available", Cause::Unschedulable),
        ] {
            let row = Row::of(Source::Scheduled, "Unschedulable").unwrap();
            assert_eq!(row.cause(&format!("{words}{tail}"), None), cause, "{words}");
        }
    }

    #[test]
    fn failed_pull_is_named_by_its_words() {
        for (words, cause) in [
            ("failed to resolve reference \"x\": x: not found", Cause::ImageNotFound),
            (
                "pull access denied, repository does not exist or may require authorization",
                Cause::ImageUnauthorized,
            ),
            ("dial tcp: lookup r on 10.0.0.1:53: no such host", Cause::RegistryUnreachable),
            ("no space left on device", Cause::ImagePullFailed),
            // The registry was reached.
            (
                "failed to do request: Head \"https://r/v2/x\": tls: failed to verify certificate: x509: certificate signed by \
                 unknown authority",
                Cause::RegistryUntrusted,
            ),
            ("remote error: tls: handshake failure", Cause::RegistryUntrusted),
            (
                "Head \"https://r:5000/v2/x\": http: server gave HTTP response to HTTPS client",
                Cause::RegistryUntrusted,
            ),
            ("net/http: TLS handshake timeout", Cause::RegistryUnreachable),
            (
                "unexpected status code https://registry-1.docker.io/v2/x: 429 Too Many Requests - Server message: \
                 toomanyrequests: You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit",
                Cause::RegistryRateLimited,
            ),
            ("unexpected status from HEAD request: 503 Service Unavailable", Cause::RegistryUnreachable),
            // What an image is called tells nothing.
            (
                "failed to resolve reference \"r.io/denied/authentication-agent:1\": r.io/denied/authentication-agent:1: not found",
                Cause::ImageNotFound,
            ),
            ("manifest for r.io/timeout/forbidden:1 not found: manifest unknown", Cause::ImageNotFound),
            (
                "unexpected status from HEAD request to https://r.io/v2/authentication/manifests/1: 404 Not Found",
                Cause::ImageNotFound,
            ),
            // The node's own disk, and a registry.
            ("mkdir /var/lib/containerd/x: permission denied: unknown", Cause::ImagePullFailed),
            (
                "denied: Permission \"artifactregistry.repositories.downloadArtifacts\" denied on resource \"x\"",
                Cause::ImageUnauthorized,
            ),
            ("denied: Permission denied for \"1\" from request \"/v2/x\"", Cause::ImageUnauthorized),
            ("no match for platform in manifest: not found", Cause::ImagePullFailed),
        ] {
            let row = Row::of(Source::Container, "ErrImagePull").unwrap();
            assert_eq!(row.cause(words, None), cause, "{words}");
        }
    }

    #[test]
    fn waiting_container_is_told_apart_by_reason_and_words() {
        for (reason, words, cause) in [
            ("ErrImagePull", "failed to resolve reference \"x\": x: not found", Cause::ImageNotFound),
            ("ImagePullBackOff", "Back-off pulling image \"x\"", Cause::ImageNotFound),
            (
                "ImagePullBackOff",
                "Back-off pulling image \"x\": ErrImagePull: 401 Unauthorized",
                Cause::ImageUnauthorized,
            ),
            ("RegistryUnavailable", "", Cause::RegistryUnreachable),
            ("InvalidImageName", "", Cause::ImageNameInvalid),
            ("ErrImageNeverPull", "", Cause::ImageNeverPulled),
            ("ImageInspectError", "", Cause::ImageInspectFailed),
            ("SignatureValidationFailed", "", Cause::ImageSignatureInvalid),
            ("CreateContainerConfigError", "secret \"s\" not found", Cause::SecretMissing),
            ("CreateContainerConfigError", "configmap \"c\" not found", Cause::ConfigMapMissing),
            ("CreateContainerConfigError", "couldn't find key k in Secret n/s", Cause::ConfigKeyMissing),
            ("CreateContainerConfigError", "container has runAsNonRoot", Cause::ContainerConfigInvalid),
            ("CreateContainerError", "", Cause::ContainerCreateFailed),
            ("RunContainerError", "", Cause::ContainerRunFailed),
            ("StartError", "", Cause::ContainerStartFailed),
            ("PostStartHookError", "", Cause::ContainerHookFailed),
            ("CrashLoopBackOff", "", Cause::ContainerCrashLoop),
        ] {
            let row = Row::of(Source::Container, reason).unwrap();
            assert_eq!(row.cause(words, Some("x: not found")), cause, "{reason}: {words}");
        }
        assert!(Row::of(Source::Container, "ContainerCreating").is_none());
    }

    #[test]
    fn disrupted_pod_names_who_ended_it() {
        let target = |reason: &str, message: &str| json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}]});
        let reason =
            |reason: &str, message: &str| json!({"phase": "Failed", "reason": reason, "message": message});
        let both = |of_pod: &str, of_condition: &str, message: &str| {
            let mut status = reason(of_pod, message);
            status["conditions"] = target(of_condition, "")["conditions"].clone();
            status
        };
        for (status, cause) in [
            (target("PreemptionByScheduler", ""), Cause::Preempted),
            (target("DeletionByTaintManager", ""), Cause::NodeTainted),
            (target("EvictionByEvictionAPI", ""), Cause::EvictedByApi),
            (target("DeletionByPodGC", ""), Cause::NodeLost),
            (
                target("TerminationByKubelet", "The node was low on resource: memory."),
                Cause::EvictedForMemory,
            ),
            (
                target("TerminationByKubelet", "Preempted in order to admit critical pod"),
                Cause::PreemptedByNode,
            ),
            (target("TerminationByKubelet", "imminent node shutdown"), Cause::NodeShutdown),
            (reason("Evicted", "The node was low on resource: ephemeral-storage."), Cause::EvictedForDisk),
            (
                reason(
                    "Evicted",
                    "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.",
                ),
                Cause::EvictedForStorageLimit,
            ),
            (reason("Evicted", "The node had condition: [PIDPressure]."), Cause::EvictedByNode),
            (reason("Evicted", "The node had condition: [DiskPressure]."), Cause::EvictedForDisk),
            (
                reason("Terminated", "Pod was terminated in response to imminent node shutdown."),
                Cause::NodeShutdown,
            ),
            // The name of a container tells nothing.
            (
                reason(
                    "Evicted",
                    "The node was low on resource: memory. Container preempt-watcher was using 8Gi, request is 0.",
                ),
                Cause::EvictedForMemory,
            ),
            (
                reason("DeadlineExceeded", "Pod was active on the node longer than the specified deadline"),
                Cause::PodDeadline,
            ),
            (reason("NodeLost", ""), Cause::NodeLost),
            (both("Preempted", "PreemptionByScheduler", ""), Cause::Preempted),
            (
                both("Evicted", "TerminationByKubelet", "The node was low on resource: memory."),
                Cause::EvictedForMemory,
            ),
            (
                both("Evicted", "SomethingNew", "The node was low on resource: memory."),
                Cause::EvictedForMemory,
            ),
        ] {
            let record = record(status.clone());
            assert_eq!(record.cause_of_end(Some(&exit(137, "Error"))), Some(cause), "{status}");
        }
    }

    #[test]
    fn disruption_for_an_unknown_reason_is_one_all_the_same() {
        let condition = json!({"phase": "Running", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "SpotReclaim", "message": "2 minutes left"}]});
        let status = json!({"phase": "Failed", "reason": "SpotReclaim"});
        for seen in [condition, status] {
            let mut record = record(seen);
            record.pod_deletion = Some(Timestamp::UNIX_EPOCH);
            assert_eq!(record.cause_of_end(Some(&exit(143, "Error"))), Some(Cause::PodDisrupted));
            assert_eq!(record.cause_of_end(None), Some(Cause::PodDisrupted));
            assert_eq!(record.cause_of_end(Some(&exit(1, "Error"))), Some(Cause::ExitCode));
        }
        let refused = record(json!({"phase": "Failed", "reason": "NewAdmission", "message": "no"}));
        assert_eq!(refused.cause_of_start(""), Cause::NodeAdmissionRefused);
        let pending = record(json!({"phase": "Pending", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "SpotReclaim"}]}));
        assert_eq!(pending.cause_of_start(""), Cause::PodDisrupted);
    }

    #[test]
    fn what_came_after_the_end_of_the_container_is_not_its_cause() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let drained = json!({"phase": "Running", "conditions": [{"type": "DisruptionTarget", "status": "True",
            "reason": "EvictionByEvictionAPI", "lastTransitionTime": "1970-01-01T00:02:00Z"}]});
        let end =
            |code, reason, second| TerminatedState { finished_at: Some(at(second)), ..exit(code, reason) };
        for (state, cause) in [
            (end(1, "Error", 110), Some(Cause::ExitCode)),
            (end(137, "OOMKilled", 110), Some(Cause::OutOfMemory)),
            (end(0, "Completed", 110), None),
            (end(1, "Error", 121), Some(Cause::EvictedByApi)),
            (end(143, "Error", 121), Some(Cause::EvictedByApi)),
            // The clock of its node is behind.
            (end(143, "Error", 110), Some(Cause::EvictedByApi)),
        ] {
            let mut record = record(drained.clone());
            assert_eq!(record.cause_of_end(Some(&state)), cause, "{state:?}");
            record.ask_to_end(Asker::TimeLimit, at(120));
            let cause = if cause == Some(Cause::EvictedByApi) { Some(Cause::TimeLimit) } else { cause };
            assert_eq!(record.cause_of_end(Some(&state)), cause, "{state:?}");
        }
        let mut deleted = record(json!({"phase": "Running"}));
        deleted.pod_deletion = Some(at(600));
        assert_eq!(deleted.cause_of_end(Some(&end(137, "Error", 110))), Some(Cause::Killed));
        assert_eq!(deleted.cause_of_end(Some(&end(137, "Error", 601))), Some(Cause::PodDeleted));
    }

    #[test]
    fn pod_that_is_gone_does_not_hide_why_there_is_no_other() {
        let pod = |record: &mut Record| {
            let status = json!({"phase": "Pending"});
            let meta = json!({"name": "p", "creationTimestamp": "2026-01-02T03:04:05Z"});
            record.see_pod(&Arc::new(
                serde_json::from_value(json!({"metadata": meta, "status": status})).unwrap(),
            ));
            record.pod_gone = true;
        };
        let refused = |at: &str| -> Vec<k8s_openapi::api::core::v1::Event> {
            let event = json!({"metadata": {}, "involvedObject": {"kind": "Job"}, "reason": "FailedCreate",
                "message": "exceeded quota: q", "lastTimestamp": at});
            vec![serde_json::from_value(event).unwrap()]
        };
        let mut record = Record::default();
        pod(&mut record);
        record.see_events(refused("2026-01-02T03:04:01Z"));
        assert_eq!(record.cause_of_start(""), Cause::PodDeleted, "that was before the pod");
        record.see_events(refused("2026-01-02T03:04:10Z"));
        assert_eq!(record.cause_of_start(""), Cause::PodQuotaExceeded);
        record.see_job(&job(json!({"spec": {"suspend": true, "template": {}}})));
        assert_eq!(record.cause_of_start(""), Cause::JobSuspended, "it did not run");
    }

    #[test]
    fn taint_of_a_silent_node_is_its_loss() {
        let tainted =
            json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"});
        let conditions = |containers: &str| json!({"conditions": [tainted, {"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": containers}]});
        let mut record = record(conditions("True"));
        assert_eq!(record.cause_of_end(None), Some(Cause::NodeLost));
        // The kubelet is back: that the node was lost is not forgotten.
        record.see_pod(&Arc::new(pod(conditions("False"))));
        assert_eq!(record.cause_of_end(Some(&exit(143, "Error"))), Some(Cause::NodeLost));
        let record = super::tests::record(conditions("False"));
        assert_eq!(record.cause_of_end(Some(&exit(143, "Error"))), Some(Cause::NodeTainted));
    }

    #[test]
    fn end_of_the_container_is_a_cause_of_its_own() {
        for (state, cause) in [
            (exit(137, "OOMKilled"), Some(Cause::OutOfMemory)),
            (exit(137, "Error"), Some(Cause::Killed)),
            (exit(143, "Error"), Some(Cause::Terminated)),
            (exit(139, "Error"), Some(Cause::Crashed)),
            (exit(134, "Error"), Some(Cause::Crashed)),
            // An interrupt is not a crash.
            (exit(130, "Error"), Some(Cause::ExitCode)),
            (exit(141, "Error"), Some(Cause::ExitCode)),
            (exit(127, "Error"), Some(Cause::CommandNotFound)),
            (exit(128, "StartError"), Some(Cause::ContainerStartFailed)),
            (exit(137, "ContainerStatusUnknown"), Some(Cause::ContainerStatusUnknown)),
            // The runtime has lost it, as by a restart of its node.
            (exit(255, "Unknown"), Some(Cause::ContainerStatusUnknown)),
            (exit(255, "Error"), Some(Cause::ExitCode)),
            (exit(3, "Error"), Some(Cause::ExitCode)),
            (exit(0, "Completed"), None),
            // Another process of the container was killed.
            (exit(0, "OOMKilled"), None),
        ] {
            assert_eq!(record(json!({})).cause_of_end(Some(&state)), cause, "{state:?}");
        }
        assert_eq!(record(json!({})).cause_of_end(None), None);
    }

    #[test]
    fn deletion_is_the_cause_of_a_kill_but_of_no_other_exit() {
        let gone = Record { job_gone: true, ..record(json!({})) };
        for (object, cause) in [
            (json!({"metadata": {"finalizers": ["foregroundDeletion"]}}), Cause::JobDeletedForeground),
            (json!({"metadata": {"finalizers": ["orphan"]}}), Cause::JobOrphaned),
            (
                json!({"metadata": {}, "status": {"conditions": [
                {"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"}]}}),
                Cause::JobDeadline,
            ),
        ] {
            let mut gone = gone.clone();
            gone.see_job(&job(object));
            // The last object has no finalizer any more.
            gone.job =
                gone.job.map(|job| Arc::new(Job { metadata: ObjectMeta::default(), ..Job::clone(&job) }));
            assert_eq!(gone.cause_of_end(Some(&exit(143, "Error"))), Some(cause));
        }
        let mut gone = record(json!({}));
        gone.job_gone = true;
        gone.see_job(&job(json!({"metadata": {}})));
        assert_eq!(gone.cause_of_end(Some(&exit(1, "Error"))), Some(Cause::ExitCode));
        assert_eq!(gone.cause_of_end(Some(&exit(137, "OOMKilled"))), Some(Cause::OutOfMemory));
        gone.namespace_terminating = Some(true);
        assert_eq!(gone.cause_of_end(None), Some(Cause::NamespaceDeleted));

        let mut suspended = record(json!({}));
        suspended.see_job(&job(json!({"spec": {"suspend": true, "template": {}}})));
        assert_eq!(suspended.cause_of_end(Some(&exit(143, "Error"))), Some(Cause::JobSuspendedMidRun));

        // It was resumed since, for another pod.
        suspended.pod_deletion = Some(jiff::Timestamp::UNIX_EPOCH);
        suspended.see_job(&job(json!({"spec": {"suspend": true, "template": {}}})));
        suspended.see_job(&job(json!({"spec": {"suspend": false, "template": {}}})));
        assert_eq!(suspended.cause_of_end(Some(&exit(143, "Error"))), Some(Cause::JobSuspendedMidRun));

        let mut deleted = record(json!({}));
        deleted.pod_deletion = Some(jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(deleted.cause_of_end(Some(&exit(143, "Error"))), Some(Cause::PodDeleted));
        assert_eq!(deleted.cause_of_end(Some(&exit(255, "Unknown"))), Some(Cause::PodDeleted));
        deleted.ask_to_end(Asker::TimeLimit, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(deleted.cause_of_end(Some(&exit(143, "Error"))), Some(Cause::TimeLimit));
    }

    #[test]
    fn start_failure_is_read_from_the_last_pod() {
        let scheduled = |reason: &str, message: &str| json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}]});
        let on_node = || json!({"type": "PodScheduled", "status": "True"});
        for (status, cause) in [
            (scheduled("SchedulingGated", "gated"), Cause::SchedulingGated),
            (scheduled("Unschedulable", "3 Insufficient memory"), Cause::UnschedulableResources),
            (json!({"phase": "Pending"}), Cause::NotScheduled),
            (json!({"conditions": [on_node()]}), Cause::StartTimeout),
            (json!({"phase": "Failed", "reason": "OutOfcpu"}), Cause::NodeOutOfCpu),
            (json!({"phase": "Failed", "reason": "OutOfmemory"}), Cause::NodeOutOfMemory),
            (json!({"phase": "Failed", "reason": "OutOfpods"}), Cause::NodeOutOfPods),
            (json!({"phase": "Failed", "reason": "OutOfnvidia.com/gpu"}), Cause::NodeAdmissionRefused),
            (json!({"phase": "Failed", "reason": "NodeAffinity"}), Cause::NodeAffinityRefused),
            (json!({"phase": "Failed", "reason": "UnexpectedAdmissionError"}), Cause::NodeAdmissionRefused),
            (
                json!({"initContainerStatuses": [container("write-prompt", ended(1))],
                    "containerStatuses": [container("claude", waiting("PodInitializing", None))]}),
                Cause::InitContainerFailed,
            ),
            (
                json!({"phase": "Failed",
                    "initContainerStatuses": [container("mesh", json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))],
                    "containerStatuses": [container("claude", waiting("PodInitializing", None))]}),
                Cause::InitContainerOutOfMemory,
            ),
            (json!({"phase": "Failed", "reason": "DeadlineExceeded"}), Cause::PodDeadline),
            (
                json!({"phase": "Failed", "reason": "SupplementalGroupsPolicyNotSupported"}),
                Cause::NodeAdmissionRefused,
            ),
            (
                json!({"conditions": [on_node()], "containerStatuses": [container("claude",
                    json!({"terminated": {"exitCode": 128, "reason": "StartError"}}))]}),
                Cause::ContainerStartFailed,
            ),
        ] {
            assert_eq!(record(status.clone()).cause_of_start(""), cause, "{status}");
        }
    }

    #[test]
    fn slow_start_is_read_from_events() {
        let event = |reason: &str, message: &str| -> Record {
            let mut record = record(json!({"conditions": [{"type": "PodScheduled", "status": "True"}]}));
            record.see_events(vec![
                serde_json::from_value(
                    json!({"metadata": {}, "involvedObject": {}, "reason": reason, "message": message}),
                )
                .unwrap(),
            ]);
            record
        };
        for (reason, message, cause) in [
            ("FailedMount", "MountVolume.SetUp failed for volume \"v\": timed out", Cause::VolumeMountFailed),
            (
                "FailedMount",
                "MountVolume.SetUp failed for volume \"v\": secret \"s\" not found",
                Cause::SecretMissing,
            ),
            ("FailedAttachVolume", "Multi-Attach error", Cause::VolumeAttachFailed),
            (
                "NetworkNotReady",
                "network is not ready: cni plugin not initialized",
                Cause::ContainerCreateFailed,
            ),
            ("Pulling", "Pulling image \"x\"", Cause::ImagePullSlow),
            ("Started", "Started container", Cause::StartTimeout),
        ] {
            assert_eq!(event(reason, message).cause_of_start(""), cause, "{reason}: {message}");
        }
    }

    #[test]
    fn missing_pod_is_read_from_the_job_and_its_events() {
        let mut record = Record::default();
        assert_eq!(record.cause_of_start("Timed out"), Cause::PodNotCreated);
        assert_eq!(record.cause_of_start("exceeded quota: q"), Cause::PodQuotaExceeded);
        record.see_job(&job(json!({"status": {"conditions": [{"type": "Suspended", "status": "True"}]}})));
        assert_eq!(record.cause_of_start(""), Cause::JobSuspended);
        record.see_job(&job(json!({"metadata": {}})));
        record.see_events(vec![
            serde_json::from_value(
                json!({"metadata": {}, "involvedObject": {"kind": "Job"}, "reason": "FailedCreate",
                "message": "Error creating: violates PodSecurity \"restricted\""}),
            )
            .unwrap(),
        ]);
        assert_eq!(record.cause_of_start(""), Cause::PodSecurityRefused);
        record.job_gone = true;
        assert_eq!(record.cause_of_start(""), Cause::JobDeleted);
    }
}
