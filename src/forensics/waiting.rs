//! The reasons for which a Job's pod does not run, as one table: a further reason is a further row.
//!
//! docs/contract.md, "Waiting for the pod". A reason that is not in the table is one that passes, such as
//! `ContainerCreating` and `PodInitializing`; [`Grace::PodStart`] bounds it.

use super::Cause;
use super::words::one_line;

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
    /// The reason of the pod's condition `PodScheduled`.
    Scheduled,
    /// The reason in the status of a pod that has failed.
    Pod,
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

/// One row.
pub(super) struct Row {
    source: Source,
    reason: &'static str,
    pub(super) step: Step,
    pub(super) grace: Grace,
    pub(super) cause: Cause,
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
const NODE: Says = Says::Plain("{w}");
const REFUSED: Says = Says::Plain("No pod was created: {w}");
const MOUNT: Says = Says::Plain("A volume cannot be mounted: {w}");
const ATTACH: Says = Says::Plain("A volume cannot be attached: {w}");
const SANDBOX: Says = Says::Plain("The pod's sandbox cannot be set up: {w}");
const UNSCHEDULABLE: Says = Says::Plain("Pod unschedulable: {w}");
const GATED: Says = Says::Plain("Pod is held back by a scheduling gate: {w}");

const fn row(
    source: Source,
    reason: &'static str,
    step: Step,
    grace: Grace,
    cause: Cause,
    says: Says,
) -> Row {
    Row { source, reason, step, grace, cause, says }
}

/// Every reason, by where it is read. `src/forensics/waiting.rs` is the only place that knows them.
#[rustfmt::skip]
const REASONS: &[Row] = &[
    row(Source::Container, "ErrImagePull", Step::Image, Grace::ImagePull, Cause::ImagePullFailed, PULL),
    row(Source::Container, "ImagePullBackOff", Step::Image, Grace::ImagePull, Cause::ImagePullFailed, PULL),
    row(Source::Container, "ImageInspectError", Step::Image, Grace::ImagePull, Cause::ImageInspectFailed, PULL),
    row(Source::Container, "RegistryUnavailable", Step::Image, Grace::ImagePull, Cause::RegistryUnreachable, PULL),
    row(Source::Container, "InvalidImageName", Step::Image, Grace::Final, Cause::ImageNameInvalid, PULL),
    row(Source::Container, "ErrImageNeverPull", Step::Image, Grace::Final, Cause::ImageNeverPulled, PULL),
    row(Source::Container, "SignatureValidationFailed", Step::Image, Grace::Final, Cause::ImageSignatureInvalid, PULL),
    row(Source::Container, "CreateContainerConfigError", Step::ContainerStart, Grace::Container, Cause::ContainerConfigInvalid, CREATE),
    row(Source::Container, "CreateContainerError", Step::ContainerStart, Grace::Container, Cause::ContainerCreateFailed, CREATE),
    row(Source::Container, "PreCreateHookError", Step::ContainerStart, Grace::Container, Cause::ContainerHookFailed, CREATE),
    row(Source::Container, "RunContainerError", Step::ContainerStart, Grace::Container, Cause::ContainerRunFailed, START),
    row(Source::Container, "PreStartHookError", Step::ContainerStart, Grace::Container, Cause::ContainerHookFailed, START),
    row(Source::Container, "PostStartHookError", Step::ContainerStart, Grace::Container, Cause::ContainerHookFailed, START),
    row(Source::Container, "StartError", Step::ContainerStart, Grace::Final, Cause::ContainerStartFailed, START),
    row(Source::Container, "ContainerCannotRun", Step::ContainerStart, Grace::Final, Cause::ContainerStartFailed, START),
    row(Source::Container, "CrashLoopBackOff", Step::ContainerStart, Grace::Final, Cause::ContainerCrashLoop, CRASH),
    row(Source::Scheduled, "Unschedulable", Step::Scheduling, Grace::Unschedulable, Cause::Unschedulable, UNSCHEDULABLE),
    row(Source::Scheduled, "SchedulingGated", Step::Gate, Grace::Queue, Cause::SchedulingGated, GATED),
    row(Source::Pod, "OutOfcpu", Step::Admission, Grace::Final, Cause::NodeOutOfCpu, NODE),
    row(Source::Pod, "OutOfmemory", Step::Admission, Grace::Final, Cause::NodeOutOfMemory, NODE),
    row(Source::Pod, "OutOfpods", Step::Admission, Grace::Final, Cause::NodeOutOfPods, NODE),
    row(Source::Pod, "OutOfephemeral-storage", Step::Admission, Grace::Final, Cause::NodeAdmissionRefused, NODE),
    row(Source::Pod, "NodeAffinity", Step::Admission, Grace::Final, Cause::NodeAffinityRefused, NODE),
    row(Source::Pod, "NodeSelectorMismatching", Step::Admission, Grace::Final, Cause::NodeAffinityRefused, NODE),
    row(Source::Pod, "UnexpectedAdmissionError", Step::Admission, Grace::Final, Cause::NodeAdmissionRefused, NODE),
    row(Source::Pod, "TopologyAffinityError", Step::Admission, Grace::Final, Cause::NodeAdmissionRefused, NODE),
    row(Source::Pod, "SysctlForbidden", Step::Admission, Grace::Final, Cause::NodeAdmissionRefused, NODE),
    row(Source::Pod, "PodOSNotSupported", Step::Admission, Grace::Final, Cause::NodeAdmissionRefused, NODE),
    row(Source::Pod, "PodOSSelectorNodeLabelDoesNotMatch", Step::Admission, Grace::Final, Cause::NodeAdmissionRefused, NODE),
    row(Source::JobEvent, "FailedCreate", Step::PodCreation, Grace::PodCreation, Cause::PodRefused, REFUSED),
    row(Source::PodEvent, "FailedMount", Step::Volumes, Grace::PodStart, Cause::VolumeMountFailed, MOUNT),
    row(Source::PodEvent, "FailedMapVolume", Step::Volumes, Grace::PodStart, Cause::VolumeMountFailed, MOUNT),
    row(Source::PodEvent, "FailedAttachVolume", Step::Volumes, Grace::PodStart, Cause::VolumeAttachFailed, ATTACH),
    row(Source::PodEvent, "FailedCreatePodSandBox", Step::ContainerStart, Grace::PodStart, Cause::ContainerCreateFailed, SANDBOX),
    row(Source::PodEvent, "FailedPrepareDynamicResources", Step::ContainerStart, Grace::PodStart, Cause::ContainerCreateFailed, SANDBOX),
    row(Source::PodEvent, "FailedScheduling", Step::Scheduling, Grace::PodStart, Cause::Unschedulable, UNSCHEDULABLE),
];

impl Row {
    /// The row of a reason; `None` for a reason that passes.
    pub(super) fn of(source: Source, reason: &str) -> Option<&'static Self> {
        REASONS.iter().find(|row| row.source == source && row.reason == reason)
    }

    /// Whether a pod with this reason was never started by its node.
    pub(super) fn is_refusal(&self) -> bool {
        self.source == Source::Pod && self.step == Step::Admission
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
    /// The row of the table of causes.
    pub(crate) cause: Cause,
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
        Self { grace: Grace::NoPod, ..Self::passing(Step::PodCreation, Cause::PodNotCreated) }
    }

    /// The pod is gone, or its Job is over, before its container ran.
    pub(crate) fn lost(cause: Cause, reason: Option<String>, words: Option<String>, text: String) -> Self {
        let at = Self::passing(Step::Admission, cause);
        Self { grace: Grace::Final, reason, words, text: Some(text), ..at }
    }

    /// Nothing is wrong: the cluster is at this step.
    pub(super) fn passing(step: Step, cause: Cause) -> Self {
        Self { step, grace: Grace::PodStart, cause, container: None, reason: None, words: None, text: None }
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
            cause: row.cause,
            container: name.map(str::to_owned),
            reason: Some(one_line(reason)),
            words,
            text: Some(text),
        }
    }
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
            let image = [
                Cause::ImagePullFailed,
                Cause::ImageInspectFailed,
                Cause::RegistryUnreachable,
                Cause::ImageNameInvalid,
                Cause::ImageNeverPulled,
                Cause::ImageSignatureInvalid,
            ];
            assert_eq!(row.step == Step::Image, image.contains(&row.cause), "{}", row.reason);
            assert_eq!(row.is_refusal(), row.source == Source::Pod, "{}", row.reason);
        }
    }
}
