//! The error codes.

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
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
        }
    };
}

// Name and text. Hosts match the texts: they are a contract (docs/contract.md, "Choosing the result").
// `__test__/unit/codes.test.js` and `__test__/unit/guards.test.js` read this table: one row a line.
error_codes! {
    /// A value of the adapter's configuration, or the host's own pod, cannot be used. Nothing was created.
    ConfigInvalid = "k8s_config_invalid",
    /// The API could not be asked before the Job existed.
    ApiUnreachable = "k8s_api_unreachable",
    /// No label value can be made of the agent's id.
    AgentIdInvalid = "k8s_agent_id_invalid",
    /// A helper or callback of the host failed, or the prompt bundle could not be made. Nothing was created.
    PrepareFailed = "k8s_prepare_failed",
    /// A bug of this package ended the run; a Job that is alive is kept.
    InternalError = "k8s_internal_error",
    /// The host's process shut down, and its Job with it.
    HostShutdown = "k8s_host_shutdown",
    /// Another Job of the agent is running.
    ConcurrentRunBlocked = "k8s_concurrent_run_blocked",
    /// A Job of the agent is running, and its task or that of this run is not known.
    OrphanTaskUnknown = "k8s_orphan_task_unknown",
    /// A Job of the agent is running in another session.
    OrphanSessionMismatch = "k8s_orphan_session_mismatch",
    /// The agent's Jobs could not be listed.
    ConcurrencyGuardUnreachable = "k8s_concurrency_guard_unreachable",
    /// The Secret for a large prompt could not be created.
    PromptSecretCreateFailed = "k8s_prompt_secret_create_failed",
    /// The Job could not be created.
    JobCreateFailed = "k8s_job_create_failed",
    /// The Job's pod never got to run.
    PodScheduleFailed = "k8s_pod_schedule_failed",
    /// The Job to take over has no pod.
    PodReattachFailed = "k8s_pod_reattach_failed",
    /// The run was cancelled in the host.
    Cancelled = "cancelled",
    /// It could not be determined how the Job ended; the Job is kept.
    JobStateMismatch = "k8s_job_state_mismatch",
    /// The run took longer than it may.
    Timeout = "timeout",
    /// The session to resume does not exist.
    SessionUnavailable = "session_unavailable",
    /// The Job disappeared, and nothing says how the CLI ended.
    JobDeletedExternally = "k8s_job_deleted_externally",
    /// The model answered with nothing.
    LlmApiError = "llm_api_error",
    /// The CLI ended in the middle of an answer.
    ClaudeTruncated = "claude_truncated",
    /// The CLI took as many turns as it may; the host continues in a new session.
    MaxTurnsExhausted = "max_turns_exhausted",
    /// The account has used what it may for now.
    ProviderQuota = "provider_quota",
    /// The model's API was overloaded, failed or could not be reached.
    ClaudeTransientUpstream = "claude_transient_upstream",
    /// The model's API did not accept the CLI's credential.
    ClaudeAuthRequired = "claude_auth_required",
    /// The model does not exist, or the account may not use it.
    ModelNotFound = "model_not_found",
    /// The account at the model's provider cannot be charged.
    BillingError = "billing_error",
    /// The model refused to answer. The run may have succeeded all the same.
    ClaudeRefusal = "claude_refusal",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_contract_texts() {
        let table: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(
            table,
            [
                "k8s_config_invalid",
                "k8s_api_unreachable",
                "k8s_agent_id_invalid",
                "k8s_prepare_failed",
                "k8s_internal_error",
                "k8s_host_shutdown",
                "k8s_concurrent_run_blocked",
                "k8s_orphan_task_unknown",
                "k8s_orphan_session_mismatch",
                "k8s_concurrency_guard_unreachable",
                "k8s_prompt_secret_create_failed",
                "k8s_job_create_failed",
                "k8s_pod_schedule_failed",
                "k8s_pod_reattach_failed",
                "cancelled",
                "k8s_job_state_mismatch",
                "timeout",
                "session_unavailable",
                "k8s_job_deleted_externally",
                "llm_api_error",
                "claude_truncated",
                "max_turns_exhausted",
                "provider_quota",
                "claude_transient_upstream",
                "claude_auth_required",
                "model_not_found",
                "billing_error",
                "claude_refusal",
            ]
        );
    }
}
