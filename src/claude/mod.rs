//! All that knows the Claude CLI: its command line, its stream-json events, and how it says that it failed.
//!
//! Pure: text in, values out.

pub(crate) mod command;
pub mod dedup;
mod event;
pub mod failure;
pub mod no_result;
pub(crate) mod rtk;
pub mod tally;

pub use dedup::{LogLineDedupFilter, event_dedup_key};
pub use failure::{
    LoginCheck, ParsedStream, describe_claude_failure, detect_claude_login_required,
    extract_claude_login_url, is_claude_max_turns_result, is_claude_unknown_session_error,
    parse_claude_stream_json,
};
pub use no_result::{PartialFacts, build_partial_run_error, partial_run_error};
pub use rtk::rtk_setup_commands;
pub use tally::{Captured, Tally, Usage};
