//! The reasons for which a container waits and that end a run, as one table: a further reason is a further row.
//!
//! docs/contract.md, "Waiting for the pod". A reason that is not in the table is one that passes, such as
//! `ContainerCreating` and `PodInitializing`.

use k8s_openapi::api::core::v1::ContainerStateWaiting;

use super::PodVerdict;

/// What is wrong: messages differ by it.
#[derive(Clone, Copy)]
enum Problem {
    /// The image of the container cannot be pulled.
    ImagePull,
    /// The container exits again and again.
    CrashLoop,
}

/// How long the run waits for the reason to pass.
#[derive(Clone, Copy)]
enum Grace {
    /// `imagePullGraceSec`: the kubelet tries again, and registries fail for a moment.
    ImagePull,
    /// Not at all.
    None,
}

/// One row.
struct WaitingReason {
    /// `state.waiting.reason` of the container's status.
    reason: &'static str,
    problem: Problem,
    grace: Grace,
}

const REASONS: [WaitingReason; 3] = [
    WaitingReason { reason: "ErrImagePull", problem: Problem::ImagePull, grace: Grace::ImagePull },
    WaitingReason { reason: "ImagePullBackOff", problem: Problem::ImagePull, grace: Grace::ImagePull },
    WaitingReason { reason: "CrashLoopBackOff", problem: Problem::CrashLoop, grace: Grace::None },
];

/// Which of the pod's containers waits.
#[derive(Clone, Copy)]
pub(super) enum Role {
    /// An init container.
    Init,
    /// A container.
    Main,
}

impl Problem {
    fn message(self, role: Role, container: &str, cause: &str) -> String {
        match (self, role) {
            (Self::ImagePull, Role::Init) => {
                format!("Init container \"{container}\" image pull failed: {cause}")
            }
            (Self::ImagePull, Role::Main) => format!("Image pull failed for \"{container}\": {cause}"),
            (Self::CrashLoop, Role::Init) => format!("Init container \"{container}\" crash loop: {cause}"),
            (Self::CrashLoop, Role::Main) => format!("Container \"{container}\" crash loop: {cause}"),
        }
    }
}

/// What the reason means for the pod; `None` for a reason that passes.
pub(super) fn verdict(role: Role, container: &str, waiting: &ContainerStateWaiting) -> Option<PodVerdict> {
    let reason = waiting.reason.as_deref()?;
    let row = REASONS.iter().find(|row| row.reason == reason)?;
    let message = row.problem.message(role, container, waiting.message.as_deref().unwrap_or(reason));
    Some(match row.grace {
        Grace::ImagePull => PodVerdict::PullFailed(message),
        Grace::None => PodVerdict::Failed(message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_verdict_and_message() {
        let failed = |text: &str| Some(PodVerdict::Failed(text.into()));
        let pull_failed = |text: &str| Some(PodVerdict::PullFailed(text.into()));
        for (reason, init, main) in [
            (
                "ErrImagePull",
                pull_failed("Init container \"c\" image pull failed: m"),
                pull_failed("Image pull failed for \"c\": m"),
            ),
            (
                "ImagePullBackOff",
                pull_failed("Init container \"c\" image pull failed: m"),
                pull_failed("Image pull failed for \"c\": m"),
            ),
            (
                "CrashLoopBackOff",
                failed("Init container \"c\" crash loop: m"),
                failed("Container \"c\" crash loop: m"),
            ),
            ("ContainerCreating", None, None),
            ("", None, None),
        ] {
            let waiting = ContainerStateWaiting { reason: Some(reason.into()), message: Some("m".into()) };
            assert_eq!(verdict(Role::Init, "c", &waiting), init, "{reason}");
            assert_eq!(verdict(Role::Main, "c", &waiting), main, "{reason}");
        }
        let bare = ContainerStateWaiting { reason: Some("ErrImagePull".into()), message: None };
        assert_eq!(
            verdict(Role::Main, "c", &bare),
            pull_failed("Image pull failed for \"c\": ErrImagePull"),
            "without a message the reason stands for it"
        );
        assert_eq!(verdict(Role::Main, "c", &ContainerStateWaiting::default()), None);
    }
}
