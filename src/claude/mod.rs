//! All that knows the Claude CLI: its command line, its stream-json events, and how it says that it failed.
//!
//! Pure: text in, values out. It uses `request`, `stream` and
//! `js_semantics`; `manifest` and `outcome` use it.
//!
//! | a run … | module |
//! |---|---|
//! | starts the CLI | `command`, with the tool output filter of `rtk`, under `supervisor` |
//! | reads a line of its output | `event` |
//! | keeps what its result needs | `tally` |
//! | finds that it failed, and why | `failure`, with the moment of `reset_time` |
//! | finds no result event | `no_result` |

pub(crate) mod command;
mod event;
pub(crate) mod failure;
mod no_result;
mod reset_time;
mod resume;
mod rtk;
mod supervisor;
mod tally;

pub(crate) use failure::{
    BrokenSession, FailureKind, FailureSigns, broken_session, describe_claude_failure, failure_kind,
    is_error_result, is_refusal, login_url,
};
pub(crate) use no_result::{OutputFacts, no_result_error};
pub(crate) use reset_time::{moment, reset_time};
pub(crate) use resume::did_no_work;
pub use rtk::rtk_setup_commands;
pub(crate) use supervisor::EndToken;
pub use tally::{Captured, Rejected, Tally, Usage};

/// Whether a text can be the id of a session: a UUID, as the CLI makes them. It resumes no other.
pub(crate) fn is_session_id(text: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(at, byte)| if hyphens.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() })
}

/// Whether a text may be reported as the id of a session: a short word of letters, digits, `_` and `-` that cannot be taken
/// for an option or a path. 0.1.49 reported any text; only what [`is_session_id`] takes is ever resumed.
pub(crate) fn is_reportable_session_id(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=64).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(is_word)
}

#[cfg(test)]
mod tests {
    use super::is_session_id;

    #[test]
    fn session_id_is_a_uuid() {
        for (text, expected) in [
            ("52f5bda4-560b-4700-9b15-02e72f19ed68", true),
            ("52F5BDA4-560B-4700-9B15-02E72F19ED68", true),
            ("52f5bda4-560b-4700-9b15-02e72f19ed6", false),
            ("52f5bda4-560b-4700-9b15-02e72f19ed680", false),
            ("52f5bda4_560b-4700-9b15-02e72f19ed68", false),
            ("52f5bda4-560b-4700-9b15-02e72f19ed6g", false),
            ("--help", false),
            ("", false),
            ("{52f5bda4-560b-4700-9b15-02e72f19ed68}", false),
            ("urn:uuid:52f5bda4-560b-4700-9b15-02e72f19ed68", false),
            ("52f5bda4560b47009b1502e72f19ed68", false),
            ("52f5bda4-560b-4700-9b15-02e72f19ed68\n", false),
            ("\n52f5bda4-560b-4700-9b15-02e72f19ed6", false),
            ("52f5bda4-560b-4700-9b15-02e72f19ed6\0", false),
            // Hyphens and digits of other scripts, in as many bytes.
            ("52f5bda4\u{2010}560b-4700-9b15-02e72f19ed", false),
            ("52f5bda4-560b-4700-9b15-02e72f19e\u{ff11}", false),
        ] {
            assert_eq!(is_session_id(text), expected, "{text}");
        }
    }
}
