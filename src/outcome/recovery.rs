//! What the host may do about a failed run by itself: whether a retry helps, and when.
//!
//! That a person or a comment can start the next run is said of every failure (`Outcome::to_json`). Evidence that
//! nothing had started is said by no row here: it needs a proof ([`NothingStarted`](crate::forensics::NothingStarted)).

use jiff::{SignedDuration, Timestamp};

use super::ErrorCode;
use crate::claude::{self, Captured};
use crate::forensics::Cause;

/// Why a retry may end otherwise, in the host's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Something outside of the agent failed for a while.
    TransientUpstream,
    /// The account has used what it may for now.
    ProviderQuota,
    /// The model refused; the host does not repeat that.
    ModelRefusal,
}

impl Family {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::TransientUpstream => "transient_upstream",
            Self::ProviderQuota => "provider_quota",
            Self::ModelRefusal => "model_refusal",
        }
    }
}

/// That a retry helps, and after which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retry {
    /// Why.
    pub(super) family: Family,
    /// After how many seconds; `None` leaves that to the host, or to the account's limit.
    after: Option<u32>,
}

impl Retry {
    const fn after(minutes: u32) -> Self {
        Self { family: Family::TransientUpstream, after: Some(minutes * 60) }
    }

    /// When the host may start the next run at the earliest.
    pub(super) fn not_before(self, limit: Option<&Limit>, now: Timestamp) -> Option<Timestamp> {
        let after = |seconds: i64| now.checked_add(SignedDuration::from_secs(seconds)).ok();
        let at = match self.family {
            Family::ProviderQuota => match limit.and_then(|limit| limit.lifted_at(now)) {
                Some(at) => at.min(after(LONGEST_LIMIT)?),
                None => after(UNKNOWN_LIMIT)?,
            },
            _ => after(self.after?.into())?,
        };
        // A limit that is lifted already is not waited for.
        let at = Timestamp::from_second(at.as_second()).ok()?;
        (at > now).then_some(at)
    }
}

/// For how long an account's limit is waited for that does not say when it is lifted: as long as the host does, in
/// seconds.
const UNKNOWN_LIMIT: i64 = 60 * 60;
/// The longest that one is waited for, in seconds: the longest that Anthropic has is a week. Its time is written in the
/// output, and that is not to be trusted with an agent's whole future.
const LONGEST_LIMIT: i64 = 8 * 24 * 60 * 60;

/// What the output says about an account's limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Limit {
    /// When it is lifted, in seconds since 1970.
    resets_at: Option<f64>,
    /// The CLI's words.
    text: String,
}

impl Limit {
    /// As the output says it; `text` is the CLI's message.
    pub(super) fn of(captured: &Captured, text: &str) -> Self {
        Self {
            resets_at: captured.rejected.and_then(|rejected| rejected.resets_at),
            text: text[..text.floor_char_boundary(2048)].to_owned(),
        }
    }

    fn lifted_at(&self, now: Timestamp) -> Option<Timestamp> {
        let seconds = self.resets_at.filter(|seconds| seconds.is_finite() && *seconds > 0.0);
        seconds
            .and_then(|seconds| claude::moment(seconds as i64))
            .or_else(|| claude::reset_time(&self.text, now))
    }
}

/// Whether a retry helps after a run with this code and cause.
pub(super) fn retry(code: Option<ErrorCode>, cause: Option<Cause>) -> Option<Retry> {
    code.and_then(of_code).or_else(|| cause.and_then(of_cause))
}

/// The code under which the host knows what happened, where that is not our own.
pub(super) const fn host_code(code: ErrorCode) -> &'static str {
    match code {
        // The host then asks the board for a repair, and starts no run that would fail the same.
        ErrorCode::ConfigInvalid => "configuration_incomplete",
        _ => code.as_str(),
    }
}

/// The codes that say themselves whether a retry helps. With the others the cause decides.
const fn of_code(code: ErrorCode) -> Option<Retry> {
    use ErrorCode as C;
    let family = match code {
        C::ProviderQuota => Family::ProviderQuota,
        C::ClaudeTransientUpstream => Family::TransientUpstream,
        C::ClaudeRefusal => Family::ModelRefusal,
        C::ConfigInvalid
        | C::ApiUnreachable
        | C::AgentIdInvalid
        | C::PrepareFailed
        | C::InternalError
        | C::HostShutdown
        | C::ConcurrentRunBlocked
        | C::OrphanTaskUnknown
        | C::OrphanSessionMismatch
        | C::ConcurrencyGuardUnreachable
        | C::PromptSecretCreateFailed
        | C::JobCreateFailed
        | C::PodScheduleFailed
        | C::PodReattachFailed
        | C::Cancelled
        | C::JobStateMismatch
        | C::Timeout
        | C::SessionUnavailable
        | C::JobDeletedExternally
        | C::LlmApiError
        | C::ClaudeTruncated
        | C::MaxTurnsExhausted
        | C::ClaudeAuthRequired
        | C::ModelNotFound
        | C::BillingError => return None,
    };
    Some(Retry { family, after: None })
}

/// Whether a retry helps after this cause. Where a person must change something, it does not.
#[expect(clippy::too_many_lines, reason = "one table")]
const fn of_cause(cause: Cause) -> Option<Retry> {
    use Cause as C;
    match cause {
        // The API is away.
        C::OwnPodUnreadable
        | C::GuardUnreachable
        | C::JobCreateTimeout
        | C::JobCreateUnreachable
        | C::PodUnreadable
        // The host's database or volume is.
        | C::HostHelperFailed
        | C::BundleFailed => Some(Retry::after(1)),
        // Its Job runs on, and the retry takes it over.
        C::ApiUnreachable | C::InternalError => Some(Retry::after(2)),

        // Another Job of the agent has to end.
        C::OtherTaskAlive
        | C::OtherSessionAlive
        | C::UnknownTaskAlive
        | C::ReattachDisabled
        | C::SameRunAlive
        | C::JobOrphaned
        // What the node or the registry has to get over.
        | C::PodNotCreated
        | C::ImageNotFound
        | C::ImageUnauthorized
        | C::RegistryUnreachable
        | C::RegistryUntrusted
        | C::ImagePullFailed
        | C::ImagePullSlow
        | C::ImageInspectFailed
        | C::ContainerCreateFailed
        | C::VolumeAttachFailed
        | C::VolumeMountFailed
        | C::StartTimeout => Some(Retry::after(2)),

        // Room has to become free.
        C::JobQuotaExceeded
        | C::PodQuotaExceeded
        | C::JobSuspended
        | C::SchedulingGated
        | C::RegistryRateLimited
        | C::UnschedulableResources
        | C::UnschedulableTaint
        | C::UnschedulableSelector
        | C::UnschedulableVolume
        | C::Unschedulable
        | C::NotScheduled => Some(Retry::after(5)),

        // Another node may have it right away.
        C::TakenOver
        | C::NodeOutOfCpu
        | C::NodeOutOfMemory
        | C::NodeOutOfPods
        | C::NodeAffinityRefused
        | C::NodeAdmissionRefused
        | C::EvictedByApi
        | C::EvictedForMemory
        | C::EvictedForDisk
        | C::EvictedByNode
        | C::Preempted
        | C::PreemptedByNode
        | C::NodeTainted
        | C::NodeLost
        | C::NodeShutdown
        | C::PodDisrupted
        | C::JobSuspendedMidRun
        | C::ContainerStatusUnknown
        | C::LlmEmptyResponse
        | C::ProviderUnavailable
        // The retry attaches to the Job.
        | C::LeftByHost => Some(Retry { family: Family::TransientUpstream, after: None }),

        C::UsageLimit => Some(Retry { family: Family::ProviderQuota, after: None }),
        C::ModelRefused => Some(Retry { family: Family::ModelRefusal, after: None }),

        // A setting, a right or an account has to be repaired.
        C::ConfigInvalid
        | C::AgentIdInvalid
        | C::GuardForbidden
        | C::JobAdmissionRefused
        | C::JobCreateForbidden
        | C::JobInvalid
        | C::NamespaceMissing
        | C::NamespaceTerminating
        | C::JobCreateFailed
        | C::PromptSecretFailed
        | C::PodSecurityRefused
        | C::LimitRangeRefused
        | C::PodAdmissionRefused
        | C::ServiceAccountMissing
        | C::PodRefused
        | C::ImageNameInvalid
        | C::ImageNeverPulled
        | C::ImageSignatureInvalid
        | C::SecretMissing
        | C::ConfigMapMissing
        | C::ConfigKeyMissing
        | C::ContainerConfigInvalid
        | C::ContainerRunFailed
        | C::ContainerStartFailed
        | C::ContainerHookFailed
        | C::ContainerCrashLoop
        | C::InitContainerFailed
        | C::InitContainerOutOfMemory
        | C::LogForbidden
        | C::PodsForbidden
        | C::AuthRequired
        | C::ModelNotFound
        | C::BillingFailed
        // The agent's own doing, or a person's wish.
        | C::EvictedForStorageLimit
        | C::JobDeleted
        | C::JobDeletedForeground
        | C::PodDeleted
        | C::NamespaceDeleted
        | C::JobDeadline
        | C::PodDeadline
        | C::TimeLimit
        | C::CancelledByHost
        | C::CancelledByControlPlane
        | C::HostShutdown
        | C::OutOfMemory
        | C::Killed
        | C::Terminated
        | C::Crashed
        | C::CommandNotFound
        | C::ExitCode
        | C::CliFailed
        | C::MaxTurns
        | C::SessionUnavailable
        | C::SessionBroken
        | C::Truncated
        | C::NoResult
        | C::HungAfterResult
        | C::LogLost
        | C::LogRotated
        | C::JobTtlTooShort
        | C::LogUnreadable
        | C::ReattachWithoutPod => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claude::Rejected;

    const NOW: &str = "2026-11-29T16:00:00.7Z";

    fn not_before(code: Option<ErrorCode>, cause: Cause, limit: Option<&Limit>) -> Option<String> {
        let retry = retry(code, Some(cause)).expect("a retry helps");
        retry.not_before(limit, NOW.parse().unwrap()).map(|at| at.to_string())
    }

    #[test]
    fn time_of_the_retry_follows_from_the_cause() {
        for (cause, at) in [
            (Cause::ImagePullFailed, Some("2026-11-29T16:02:00Z")),
            (Cause::Unschedulable, Some("2026-11-29T16:05:00Z")),
            (Cause::PodQuotaExceeded, Some("2026-11-29T16:05:00Z")),
            (Cause::OwnPodUnreadable, Some("2026-11-29T16:01:00Z")),
            (Cause::ApiUnreachable, Some("2026-11-29T16:02:00Z")),
            (Cause::Preempted, None),
        ] {
            assert_eq!(not_before(None, cause, None).as_deref(), at, "{cause:?}");
        }
        assert_eq!(retry(Some(ErrorCode::Timeout), Some(Cause::TimeLimit)), None);
        assert_eq!(retry(None, Some(Cause::OutOfMemory)), None);
        assert_eq!(retry(None, None), None);
    }

    #[test]
    fn limit_is_waited_for_until_it_is_lifted() {
        let limit = |resets_at: Option<f64>, text: &str| {
            let mut captured = Captured::default();
            captured.rejected = Some(Rejected { resets_at });
            not_before(Some(ErrorCode::ProviderQuota), Cause::UsageLimit, Some(&Limit::of(&captured, text)))
        };
        let words = "You've hit your limit · resets 5pm (America/New_York)";
        for (resets_at, text, at) in [
            (Some(1_796_000_000.0), words, Some("2026-11-30T00:53:20Z")),
            (Some(1_796_000_000_000.0), words, Some("2026-11-30T00:53:20Z")),
            (None, words, Some("2026-11-29T22:00:00Z")),
            (None, "You've hit your limit", Some("2026-11-29T17:00:00Z")),
            (Some(f64::NAN), words, Some("2026-11-29T22:00:00Z")),
            // One that is over, and one that is too far away.
            (Some(1_700_000_000.0), words, None),
            (Some(1e11), words, Some("2026-12-07T16:00:00Z")),
        ] {
            assert_eq!(limit(resets_at, text).as_deref(), at, "{resets_at:?} {text}");
        }
    }

    #[test]
    fn host_knows_every_code_but_one_as_ours() {
        for code in ErrorCode::ALL {
            let ours = *code != ErrorCode::ConfigInvalid;
            assert_eq!(host_code(*code) == code.as_str(), ours, "{code:?}");
        }
    }
}
