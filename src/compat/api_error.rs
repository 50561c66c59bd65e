//! Reads an API error by its message, as no run does.

use crate::js_semantics;

/// Whether an error message is that of an HTTP 404 of the Kubernetes API: `HTTP-Code:`, white space, `404`
/// and no further letter or digit.
pub(super) fn is_not_found_message(message: &str) -> bool {
    message.split("HTTP-Code:").skip(1).any(|rest| {
        let after = rest.trim_start_matches(js_semantics::is_space).strip_prefix("404");
        after.is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_not_found_by_its_http_code() {
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
}
