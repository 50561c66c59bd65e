//! Small readings of what APIs say, exported as helpers.

use crate::js_semantics;

/// Whether an error message is that of an HTTP 404 of the Kubernetes API: `HTTP-Code:`, white space, `404`
/// and no further letter or digit.
pub fn is_not_found_message(message: &str) -> bool {
    message.split("HTTP-Code:").skip(1).any(|rest| {
        let after = rest.trim_start_matches(js_semantics::is_space).strip_prefix("404");
        after.is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    })
}

/// Whether a run's status in the host asks for the end of its Job: any status but none and `running`. A run
/// acts at once on `cancelled` only, see the life of a run.
pub fn should_abort_for_cancellation(status: Option<&str>) -> bool {
    !matches!(status, None | Some("" | "running"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_found_is_told_by_the_code() {
        for (message, expected) in [
            ("HTTP-Code: 404\nMessage: Unknown API Status Code!\nBody: x", true),
            ("failed: HTTP-Code:404", true),
            ("HTTP-Code: 500 HTTP-Code:\n404 ", true),
            ("HTTP-Code: 4040", false),
            ("HTTP-Code: 404a", false),
            ("HTTP-Code: 403\nMessage: 404", false),
            ("HTTP-Code: 500", false),
            ("something else", false),
            ("", false),
        ] {
            assert_eq!(is_not_found_message(message), expected, "{message}");
        }
    }

    #[test]
    fn statuses_that_end_a_run() {
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
