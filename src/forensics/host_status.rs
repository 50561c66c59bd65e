//! What a run's status in the host asks of the run.

/// Whether the status asks for the end of the Job: any status but none and `running`. A run acts at once on
/// `cancelled` only (docs/contract.md, "Keepalive and cancel polling").
pub(crate) fn should_abort_for_cancellation(status: Option<&str>) -> bool {
    !matches!(status, None | Some("" | "running"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_status_but_running_ends_a_run() {
        for (status, expected) in [
            (None, false),
            (Some(""), false),
            (Some("running"), false),
            (Some("cancelled"), true),
            (Some("failed"), true),
            (Some("completed"), true),
            (Some("unknown"), true),
        ] {
            assert_eq!(should_abort_for_cancellation(status), expected, "{status:?}");
        }
    }
}
