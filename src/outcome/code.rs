//! The error codes, and what the host may conclude from each.

use super::Recovery;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal => $recovery:ident,)*) => {
        /// Why a run failed, as the host sees it in `errorCode`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the table.
            #[cfg(test)]
            pub(super) const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code's text.
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// What the host may conclude from the code alone. What depends on the run as well
            /// (`PodScheduleFailed`, `Cancelled`) is `Nothing` here, and the outcome's constructor decides it.
            pub(super) const fn recovery(self) -> Recovery {
                match self {
                    $(Self::$name => Recovery::$recovery,)*
                }
            }
        }
    };
}

// Name, text and recovery. Hosts match the texts: they are a contract (docs/contract.md, "Choosing the result").
// `__test__/unit/codes.test.js` and `__test__/unit/guards.test.js` read this table: one row a line.
error_codes! {
    /// A value of the adapter's configuration cannot be used. Nothing was created.
    ConfigInvalid = "k8s_config_invalid" => Bootstrap,
    /// No label value can be made of the agent's id.
    AgentIdInvalid = "k8s_agent_id_invalid" => Bootstrap,
    /// Another Job of the agent is running.
    ConcurrentRunBlocked = "k8s_concurrent_run_blocked" => Bootstrap,
    /// A Job of the agent is running, and its task or that of this run is not known.
    OrphanTaskUnknown = "k8s_orphan_task_unknown" => Bootstrap,
    /// A Job of the agent is running in another session.
    OrphanSessionMismatch = "k8s_orphan_session_mismatch" => Bootstrap,
    /// The agent's Jobs could not be listed.
    ConcurrencyGuardUnreachable = "k8s_concurrency_guard_unreachable" => Bootstrap,
    /// The Secret for a large prompt could not be created.
    PromptSecretCreateFailed = "k8s_prompt_secret_create_failed" => Bootstrap,
    /// The Job could not be created.
    JobCreateFailed = "k8s_job_create_failed" => Bootstrap,
    /// The Job's pod never got to run.
    PodScheduleFailed = "k8s_pod_schedule_failed" => Nothing,
    /// The Job to take over has no pod.
    PodReattachFailed = "k8s_pod_reattach_failed" => Nothing,
    /// The run was cancelled in the host.
    Cancelled = "cancelled" => Nothing,
    /// It could not be determined how the Job ended; the Job is kept.
    JobStateMismatch = "k8s_job_state_mismatch" => Nothing,
    /// The run took longer than it may.
    Timeout = "timeout" => Nothing,
    /// The session to resume does not exist.
    SessionUnavailable = "session_unavailable" => Nothing,
    /// The Job disappeared, and nothing says how the CLI ended.
    JobDeletedExternally = "k8s_job_deleted_externally" => Nothing,
    /// The model answered with nothing.
    LlmApiError = "llm_api_error" => Nothing,
    /// The CLI ended in the middle of an answer.
    ClaudeTruncated = "claude_truncated" => Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_contract_texts_and_recovery() {
        use Recovery::{Bootstrap, Nothing};
        let table: Vec<_> = ErrorCode::ALL.iter().map(|code| (code.as_str(), code.recovery())).collect();
        assert_eq!(
            table,
            [
                ("k8s_config_invalid", Bootstrap),
                ("k8s_agent_id_invalid", Bootstrap),
                ("k8s_concurrent_run_blocked", Bootstrap),
                ("k8s_orphan_task_unknown", Bootstrap),
                ("k8s_orphan_session_mismatch", Bootstrap),
                ("k8s_concurrency_guard_unreachable", Bootstrap),
                ("k8s_prompt_secret_create_failed", Bootstrap),
                ("k8s_job_create_failed", Bootstrap),
                ("k8s_pod_schedule_failed", Nothing),
                ("k8s_pod_reattach_failed", Nothing),
                ("cancelled", Nothing),
                ("k8s_job_state_mismatch", Nothing),
                ("timeout", Nothing),
                ("session_unavailable", Nothing),
                ("k8s_job_deleted_externally", Nothing),
                ("llm_api_error", Nothing),
                ("claude_truncated", Nothing),
            ]
        );
    }
}
