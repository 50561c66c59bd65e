//! The reasons in one word that Kubernetes gives for a pod that does not run, or not any more, as one table: a further
//! reason is a further row, and nothing else knows reasons.
//!
//! docs/contract.md, "Waiting for the pod". A reason that is not in the table is one that passes, such as
//! `ContainerCreating` and `PodInitializing`; [`Grace::PodStart`] bounds it.

use super::Cause;
use super::words::{Words, by_words, one_line};

/// Where a Job is on its way to a running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The Job is suspended, or left to another controller.
    Queue,
    /// The Job has no pod.
    PodCreation,
    /// The pod is held back by a scheduling gate.
    Gate,
    /// The pod has no node.
    Scheduling,
    /// Its volumes are not there.
    Volumes,
    /// An image is not there.
    Image,
    /// Its init containers have not ended.
    InitContainer,
    /// Its container is not running yet.
    ContainerStart,
    /// Its node does not take it, or the pod ended before its container ran.
    Admission,
}

impl Step {
    /// The step in messages.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::PodCreation => "pod creation",
            Self::Gate => "scheduling gate",
            Self::Scheduling => "scheduling",
            Self::Volumes => "volumes",
            Self::Image => "image",
            Self::InitContainer => "init container",
            Self::ContainerStart => "container start",
            Self::Admission => "node admission",
        }
    }
}

/// For how long a reason is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grace {
    /// Not at all: it cannot mend itself.
    Final,
    /// `unschedulableGraceSec`: an autoscaler may add a node.
    Unschedulable,
    /// `imagePullGraceSec`: the kubelet tries again, and registries fail for a moment.
    ImagePull,
    /// A time of its own: the kubelet tries again, and what is missing may be on its way.
    Container,
    /// A time of its own: the Job controller tries again, and a quota may become free.
    PodCreation,
    /// A time of its own: there is no pod, and nothing says why.
    NoPod,
    /// `podStartTimeoutSec`, begun anew by each progress.
    PodStart,
    /// `queueTimeoutSec`; without it for as long as the queue takes.
    Queue,
}

/// Where a reason is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// `state.waiting.reason` of a container's status.
    Container,
    /// `state.terminated.reason` of a container's status.
    Exit,
    /// The reason of the pod's condition `PodScheduled`.
    Scheduled,
    /// The reason in the status of a pod that its node refused.
    Refusal,
    /// The reason of the pod's condition `DisruptionTarget`, or in the status of a pod that was ended from outside.
    End,
    /// An Event of the Job.
    JobEvent,
    /// An Event of the pod.
    PodEvent,
}

/// How a message begins; `{c}` is the container, `{w}` the cluster's words.
#[derive(Clone, Copy)]
enum Says {
    /// Strings of the contract for containers, and for init containers.
    Container(&'static str, &'static str),
    /// The same for all.
    Plain(&'static str),
}

/// Which cause a reason stands for.
#[derive(Clone, Copy)]
enum Names {
    /// This one.
    Always(Cause),
    /// The one that the cluster's words tell, else this one.
    Words(Cause, &'static Words),
    /// The same. Where the words tell nothing, those count that the kubelet said at its last try.
    LastWords(Cause, &'static Words),
}

/// One row.
pub(super) struct Row {
    source: Source,
    /// The reason; one that ends in `*` stands for all that begin with it.
    reason: &'static str,
    pub(super) step: Step,
    pub(super) grace: Grace,
    names: Names,
    says: Says,
}

const PULL: Says =
    Says::Container("Image pull failed for \"{c}\": {w}", "Init container \"{c}\" image pull failed: {w}");
const CRASH: Says =
    Says::Container("Container \"{c}\" crash loop: {w}", "Init container \"{c}\" crash loop: {w}");
const CREATE: Says = Says::Container(
    "Container \"{c}\" cannot be created: {w}",
    "Init container \"{c}\" cannot be created: {w}",
);
const START: Says = Says::Container(
    "Container \"{c}\" cannot be started: {w}",
    "Init container \"{c}\" cannot be started: {w}",
);
const ENDED: Says = Says::Container("Container \"{c}\" ended: {w}", "Init container \"{c}\" ended: {w}");
const NODE: Says = Says::Plain("{w}");
const REFUSED: Says = Says::Plain("No pod was created: {w}");
const MOUNT: Says = Says::Plain("A volume cannot be mounted: {w}");
const ATTACH: Says = Says::Plain("A volume cannot be attached: {w}");
const SANDBOX: Says = Says::Plain("The pod's sandbox cannot be set up: {w}");
const UNSCHEDULABLE: Says = Says::Plain("Pod unschedulable: {w}");
const GATED: Says = Says::Plain("Pod is held back by a scheduling gate: {w}");
const SHUT_DOWN: Says = Says::Plain("the pod's node was shut down");
const PREEMPTED: Says = Says::Plain("the pod's node ended it for a critical pod");

const fn row(
    source: Source,
    reason: &'static str,
    step: Step,
    grace: Grace,
    names: Names,
    says: Says,
) -> Row {
    Row { source, reason, step, grace, names, says }
}

/// The row of a container that waits.
const fn waits(reason: &'static str, step: Step, grace: Grace, names: Names, says: Says) -> Row {
    row(Source::Container, reason, step, grace, names, says)
}

/// The row of a container that ended by itself.
const fn exits(reason: &'static str, cause: Cause) -> Row {
    row(Source::Exit, reason, Step::ContainerStart, Grace::Final, Names::Always(cause), ENDED)
}

/// The row of a pod that its node refused.
const fn refuses(reason: &'static str, cause: Cause) -> Row {
    row(Source::Refusal, reason, Step::Admission, Grace::Final, Names::Always(cause), NODE)
}

/// The row of a pod that was ended from outside.
const fn ends(reason: &'static str, names: Names, says: Says) -> Row {
    row(Source::End, reason, Step::Admission, Grace::Final, names, says)
}

/// The row of an Event of the pod.
const fn event(reason: &'static str, step: Step, names: Names, says: Says) -> Row {
    row(Source::PodEvent, reason, step, Grace::PodStart, names, says)
}

/// The reason of an end that the kubelet made up, because it did not find the container.
pub(super) const NOT_FOUND_BY_KUBELET: &str = "ContainerStatusUnknown";
/// The reason of an end that the container runtime made up, because it lost the container, as by a restart of the node. Its
/// exit code, 255, is made up as well.
pub(super) const LOST_BY_RUNTIME: &str = "Unknown";

use Names::{Always, LastWords, Words as ByWords};

/// Every reason, by where it is read.
#[rustfmt::skip]
const REASONS: &[Row] = &[
    waits("ErrImagePull", Step::Image, Grace::ImagePull, ByWords(Cause::ImagePullFailed, PULL_WORDS), PULL),
    waits("ImagePullBackOff", Step::Image, Grace::ImagePull, LastWords(Cause::ImagePullFailed, PULL_WORDS), PULL),
    waits("ImageInspectError", Step::Image, Grace::ImagePull, Always(Cause::ImageInspectFailed), PULL),
    waits("RegistryUnavailable", Step::Image, Grace::ImagePull, Always(Cause::RegistryUnreachable), PULL),
    waits("InvalidImageName", Step::Image, Grace::Final, Always(Cause::ImageNameInvalid), PULL),
    waits("ErrImageNeverPull", Step::Image, Grace::Final, Always(Cause::ImageNeverPulled), PULL),
    waits("SignatureValidationFailed", Step::Image, Grace::Final, Always(Cause::ImageSignatureInvalid), PULL),
    waits("CreateContainerConfigError", Step::ContainerStart, Grace::Container, ByWords(Cause::ContainerConfigInvalid, CONFIG_WORDS), CREATE),
    waits("CreateContainerError", Step::ContainerStart, Grace::Container, Always(Cause::ContainerCreateFailed), CREATE),
    waits("PreCreateHookError", Step::ContainerStart, Grace::Container, Always(Cause::ContainerHookFailed), CREATE),
    waits("RunContainerError", Step::ContainerStart, Grace::Container, Always(Cause::ContainerRunFailed), START),
    waits("PreStartHookError", Step::ContainerStart, Grace::Container, Always(Cause::ContainerHookFailed), START),
    waits("PostStartHookError", Step::ContainerStart, Grace::Container, Always(Cause::ContainerHookFailed), START),
    waits("StartError", Step::ContainerStart, Grace::Final, Always(Cause::ContainerStartFailed), START),
    waits("ContainerCannotRun", Step::ContainerStart, Grace::Final, Always(Cause::ContainerStartFailed), START),
    waits("CrashLoopBackOff", Step::ContainerStart, Grace::Final, Always(Cause::ContainerCrashLoop), CRASH),
    exits("OOMKilled", Cause::OutOfMemory),
    exits("StartError", Cause::ContainerStartFailed),
    exits("ContainerCannotRun", Cause::ContainerStartFailed),
    exits(NOT_FOUND_BY_KUBELET, Cause::ContainerStatusUnknown),
    exits(LOST_BY_RUNTIME, Cause::ContainerStatusUnknown),
    row(Source::Scheduled, "Unschedulable", Step::Scheduling, Grace::Unschedulable, ByWords(Cause::Unschedulable, UNSCHEDULABLE_WORDS), UNSCHEDULABLE),
    row(Source::Scheduled, "SchedulerError", Step::Scheduling, Grace::Unschedulable, ByWords(Cause::Unschedulable, UNSCHEDULABLE_WORDS), UNSCHEDULABLE),
    row(Source::Scheduled, "SchedulingGated", Step::Gate, Grace::Queue, Always(Cause::SchedulingGated), GATED),
    refuses("OutOfcpu", Cause::NodeOutOfCpu),
    refuses("OutOfmemory", Cause::NodeOutOfMemory),
    refuses("OutOfpods", Cause::NodeOutOfPods),
    refuses("OutOf*", Cause::NodeAdmissionRefused),
    refuses("NodeAffinity", Cause::NodeAffinityRefused),
    refuses("NodeSelectorMismatching", Cause::NodeAffinityRefused),
    refuses("NodePorts", Cause::NodeAdmissionRefused),
    refuses("NodeName", Cause::NodeAdmissionRefused),
    refuses("TaintToleration", Cause::NodeAdmissionRefused),
    refuses("VolumeAttachmentLimitExceeded", Cause::NodeAdmissionRefused),
    refuses("UnexpectedAdmissionError", Cause::NodeAdmissionRefused),
    refuses("TopologyAffinityError", Cause::NodeAdmissionRefused),
    refuses("SysctlForbidden", Cause::NodeAdmissionRefused),
    refuses("AppArmor", Cause::NodeAdmissionRefused),
    refuses("InvalidNodeInfo", Cause::NodeAdmissionRefused),
    refuses("PodOSNotSupported", Cause::NodeAdmissionRefused),
    refuses("PodOSSelectorNodeLabelDoesNotMatch", Cause::NodeAdmissionRefused),
    refuses("InitContainerRestartPolicyForbidden", Cause::NodeAdmissionRefused),
    refuses("SupplementalGroupsPolicyNotSupported", Cause::NodeAdmissionRefused),
    refuses("UnexpectedPredicateFailureType", Cause::NodeAdmissionRefused),
    refuses("UnknownReason", Cause::NodeAdmissionRefused),
    ends("Evicted", ByWords(Cause::EvictedByNode, KUBELET_WORDS), Says::Plain("the pod was evicted by its node")),
    ends("TerminationByKubelet", ByWords(Cause::EvictedByNode, KUBELET_WORDS), Says::Plain("the kubelet ended the pod (node pressure, node shutdown or a critical pod)")),
    ends("Terminated", Always(Cause::NodeShutdown), SHUT_DOWN),
    ends("NodeShutdown", Always(Cause::NodeShutdown), SHUT_DOWN),
    ends("Shutdown", Always(Cause::NodeShutdown), SHUT_DOWN),
    ends("NodeLost", Always(Cause::NodeLost), Says::Plain("the pod's node was lost")),
    ends("DeletionByPodGC", Always(Cause::NodeLost), Says::Plain("the pod was removed because its node is gone")),
    ends("DeletionByTaintManager", Always(Cause::NodeTainted), Says::Plain("the pod was deleted because its node has a taint it does not tolerate")),
    ends("EvictionByEvictionAPI", Always(Cause::EvictedByApi), Says::Plain("the pod was evicted through the Eviction API")),
    ends("PreemptionByScheduler", Always(Cause::Preempted), Says::Plain("the scheduler preempted the pod for one of higher priority")),
    ends("Preempting", Always(Cause::PreemptedByNode), PREEMPTED),
    ends("Preempted", Always(Cause::PreemptedByNode), PREEMPTED),
    ends("DeadlineExceeded", Always(Cause::PodDeadline), Says::Plain("the pod reached its deadline")),
    row(Source::JobEvent, "FailedCreate", Step::PodCreation, Grace::PodCreation, ByWords(Cause::PodRefused, REFUSED_WORDS), REFUSED),
    event("FailedMount", Step::Volumes, ByWords(Cause::VolumeMountFailed, CONFIG_WORDS), MOUNT),
    event("FailedMapVolume", Step::Volumes, ByWords(Cause::VolumeMountFailed, CONFIG_WORDS), MOUNT),
    event("FailedAttachVolume", Step::Volumes, Always(Cause::VolumeAttachFailed), ATTACH),
    event("FailedCreatePodSandBox", Step::ContainerStart, Always(Cause::ContainerCreateFailed), SANDBOX),
    event("FailedCreatePodContainer", Step::ContainerStart, Always(Cause::ContainerCreateFailed), SANDBOX),
    event("NetworkNotReady", Step::ContainerStart, Always(Cause::ContainerCreateFailed), SANDBOX),
    event("FailedPrepareDynamicResources", Step::ContainerStart, Always(Cause::ContainerCreateFailed), SANDBOX),
    event("FailedScheduling", Step::Scheduling, ByWords(Cause::Unschedulable, UNSCHEDULABLE_WORDS), UNSCHEDULABLE),
];

const REFUSED_WORDS: &Words = &[
    // What a webhook or a policy says is its own, whatever it is about.
    ("admission webhook", Cause::PodAdmissionRefused),
    ("calling webhook", Cause::PodAdmissionRefused),
    ("admissionpolicy", Cause::PodAdmissionRefused),
    ("exceeded quota", Cause::PodQuotaExceeded),
    ("failed quota", Cause::PodQuotaExceeded),
    ("violates podsecurity", Cause::PodSecurityRefused),
    ("because it is being terminated", Cause::NamespaceDeleted),
    // Its words are about accounts, too.
    ("security context constraint", Cause::PodAdmissionRefused),
    ("service account ", Cause::ServiceAccountMissing),
    ("serviceaccount \"", Cause::ServiceAccountMissing),
    (" usage per ", Cause::LimitRangeRefused),
    ("limit to request ratio per ", Cause::LimitRangeRefused),
];

const UNSCHEDULABLE_WORDS: &Words = &[
    ("insufficient ", Cause::UnschedulableResources),
    ("too many pods", Cause::UnschedulableResources),
    ("volume", Cause::UnschedulableVolume),
    ("node affinity", Cause::UnschedulableSelector),
    ("node selector", Cause::UnschedulableSelector),
    ("taint", Cause::UnschedulableTaint),
];

const PULL_WORDS: &Words = &[
    ("toomanyrequests", Cause::RegistryRateLimited),
    ("too many requests", Cause::RegistryRateLimited),
    ("x509", Cause::RegistryUntrusted),
    ("tls: ", Cause::RegistryUntrusted),
    ("http response to https client", Cause::RegistryUntrusted),
    // A file of the node may not be written: but for a registry that says it of itself.
    ("denied: permission", Cause::ImageUnauthorized),
    (": permission denied", Cause::ImagePullFailed),
    ("unauthorized", Cause::ImageUnauthorized),
    ("authorization", Cause::ImageUnauthorized),
    ("authentication", Cause::ImageUnauthorized),
    ("denied", Cause::ImageUnauthorized),
    ("forbidden", Cause::ImageUnauthorized),
    ("no basic auth", Cause::ImageUnauthorized),
    ("no such host", Cause::RegistryUnreachable),
    ("dial tcp", Cause::RegistryUnreachable),
    ("connection re", Cause::RegistryUnreachable),
    ("timeout", Cause::RegistryUnreachable),
    ("deadline exceeded", Cause::RegistryUnreachable),
    // The image is there, for other nodes.
    ("no match for platform", Cause::ImagePullFailed),
    ("not found", Cause::ImageNotFound),
    ("manifest unknown", Cause::ImageNotFound),
    ("does not exist", Cause::ImageNotFound),
    ("unexpected status", Cause::RegistryUnreachable),
];

const CONFIG_WORDS: &Words = &[
    ("couldn't find key", Cause::ConfigKeyMissing),
    ("non-existent", Cause::ConfigKeyMissing),
    ("secret \"", Cause::SecretMissing),
    ("configmap \"", Cause::ConfigMapMissing),
];

/// Why a kubelet ends a pod.
const KUBELET_WORDS: &Words = &[
    ("ephemeral local storage usage exceeds", Cause::EvictedForStorageLimit),
    ("exceeded its local ephemeral storage limit", Cause::EvictedForStorageLimit),
    ("usage of emptydir", Cause::EvictedForStorageLimit),
    ("resource: memory", Cause::EvictedForMemory),
    ("resource: ephemeral-storage", Cause::EvictedForDisk),
    ("resource: inodes", Cause::EvictedForDisk),
    // A pod that came to a node that is short already.
    ("memorypressure", Cause::EvictedForMemory),
    ("diskpressure", Cause::EvictedForDisk),
    // Last, because an eviction names containers.
    ("node shutdown", Cause::NodeShutdown),
    ("preempt", Cause::PreemptedByNode),
];

impl Row {
    /// The row of a reason; `None` for a reason that passes.
    pub(super) fn of(source: Source, reason: &str) -> Option<&'static Self> {
        REASONS.iter().find(|row| row.source == source && row.matches(reason))
    }

    fn matches(&self, reason: &str) -> bool {
        match self.reason.strip_suffix('*') {
            Some(beginning) => reason.starts_with(beginning),
            None => self.reason == reason,
        }
    }

    /// The cause that the reason stands for, with the cluster's words. `last`: what the kubelet said at its last try.
    pub(super) fn cause(&self, words: &str, last: Option<&str>) -> Cause {
        match self.names {
            Names::Always(cause) => cause,
            Names::Words(cause, known) => by_words(known, words).unwrap_or(cause),
            Names::LastWords(cause, known) => {
                by_words(known, words).or_else(|| by_words(known, last?)).unwrap_or(cause)
            }
        }
    }

    /// What happened, for a reason that has no words of the cluster in its message.
    pub(super) fn says(&self) -> &'static str {
        match self.says {
            Says::Container(text, _) | Says::Plain(text) => text,
        }
    }
}

/// Which of the pod's containers waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// An init container.
    Init,
    /// A container.
    Main,
}

/// What keeps a Job's container from running, as it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    /// Where the Job is.
    pub(crate) step: Step,
    /// How long this is waited for.
    pub(crate) grace: Grace,
    /// The container it is about.
    pub(crate) container: Option<String>,
    /// The cluster's one word, such as `ImagePullBackOff`.
    pub(crate) reason: Option<String>,
    /// The cluster's own words, one line.
    pub(crate) words: Option<String>,
    /// What the message begins with; `None` while nothing is wrong.
    pub(crate) text: Option<String>,
}

impl Hold {
    /// There is no pod, and nothing says why.
    pub(crate) fn no_pod() -> Self {
        Self { grace: Grace::NoPod, ..Self::passing(Step::PodCreation) }
    }

    /// The pod is gone, or its Job is over, before its container ran.
    pub(crate) fn lost(reason: Option<String>, words: Option<String>, text: String) -> Self {
        let at = Self::passing(Step::Admission);
        Self { grace: Grace::Final, reason, words, text: Some(text), ..at }
    }

    /// Nothing is wrong: the cluster is at this step.
    pub(super) fn passing(step: Step) -> Self {
        Self { step, grace: Grace::PodStart, container: None, reason: None, words: None, text: None }
    }

    /// A reason of the table.
    pub(super) fn of_row(
        row: &Row,
        container: Option<(Role, &str)>,
        reason: &str,
        message: Option<&str>,
    ) -> Self {
        let words = message.map(one_line).filter(|words| !words.is_empty());
        let shown = words.as_deref().unwrap_or(reason);
        let template = match (row.says, container) {
            (Says::Container(_, init), Some((Role::Init, _))) => init,
            (Says::Container(main, _), _) => main,
            (Says::Plain(text), _) => text,
        };
        let name = container.map(|(_, name)| name);
        let text = template.replace("{c}", name.unwrap_or("unknown")).replace("{w}", shown);
        Self {
            step: row.step,
            grace: row.grace,
            container: name.map(str::to_owned),
            reason: Some(one_line(reason)),
            words,
            text: Some(text),
        }
    }
}

/// Waiting reasons of a container that is on its way.
const ON_THE_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// A waiting reason that is in no table, with its words: nothing says that it is wrong, so it is waited for like a step.
pub(super) fn unknown_wait(step: Step, container: &str, reason: &str, message: Option<&str>) -> Option<Hold> {
    if reason.is_empty() || ON_THE_WAY.contains(&reason) {
        return None;
    }
    let words = message.map(one_line).filter(|words| !words.is_empty());
    let (container, reason) = (Some(container.to_owned()), Some(one_line(reason)));
    Some(Hold { container, reason, words, ..Hold::passing(step) })
}

/// What a container's waiting reason means; `None` for a reason that passes.
pub(super) fn of_container(
    role: Role,
    container: &str,
    reason: Option<&str>,
    message: Option<&str>,
) -> Option<Hold> {
    let reason = reason?;
    let row = Row::of(Source::Container, reason)?;
    Some(Hold::of_row(row, Some((role, container)), reason, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(role: Role, reason: &str) -> Option<(Grace, String)> {
        let hold = of_container(role, "c", Some(reason), Some("m\nn"))?;
        Some((hold.grace, hold.text.unwrap_or_default()))
    }

    #[test]
    fn each_waiting_reason_has_its_grace_and_message() {
        for (reason, grace, init, main) in [
            (
                "ErrImagePull",
                Grace::ImagePull,
                "Init container \"c\" image pull failed: m n",
                "Image pull failed for \"c\": m n",
            ),
            (
                "ImagePullBackOff",
                Grace::ImagePull,
                "Init container \"c\" image pull failed: m n",
                "Image pull failed for \"c\": m n",
            ),
            (
                "InvalidImageName",
                Grace::Final,
                "Init container \"c\" image pull failed: m n",
                "Image pull failed for \"c\": m n",
            ),
            (
                "CrashLoopBackOff",
                Grace::Final,
                "Init container \"c\" crash loop: m n",
                "Container \"c\" crash loop: m n",
            ),
            (
                "CreateContainerConfigError",
                Grace::Container,
                "Init container \"c\" cannot be created: m n",
                "Container \"c\" cannot be created: m n",
            ),
            (
                "RunContainerError",
                Grace::Container,
                "Init container \"c\" cannot be started: m n",
                "Container \"c\" cannot be started: m n",
            ),
        ] {
            assert_eq!(held(Role::Init, reason), Some((grace, init.to_owned())), "{reason}");
            assert_eq!(held(Role::Main, reason), Some((grace, main.to_owned())), "{reason}");
        }
        for passing in ["ContainerCreating", "PodInitializing", ""] {
            assert_eq!(held(Role::Main, passing), None, "{passing}");
        }
        let bare = of_container(Role::Main, "c", Some("ErrImagePull"), None).and_then(|hold| hold.text);
        assert_eq!(
            bare.as_deref(),
            Some("Image pull failed for \"c\": ErrImagePull"),
            "the reason stands for it"
        );
        assert_eq!(of_container(Role::Main, "c", None, Some("m")), None);
    }

    #[test]
    fn each_reason_stands_once_and_in_its_step() {
        for (at, row) in REASONS.iter().enumerate() {
            let again =
                REASONS[..at].iter().any(|other| (other.source, other.reason) == (row.source, row.reason));
            assert!(!again, "{} stands twice", row.reason);
            let hidden =
                REASONS[..at].iter().any(|other| other.source == row.source && other.matches(row.reason));
            assert!(!hidden, "{} is hidden by a row before it", row.reason);
            let of_image =
                row.cause("", None).code().contains("image") || row.reason == "RegistryUnavailable";
            assert_eq!(row.step == Step::Image, of_image, "{}", row.reason);
        }
    }
}
