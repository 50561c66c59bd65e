//! All that knows the Claude CLI: its command line, its stream-json events, and how it says that it failed.
//!
//! Pure: text in, values out. It uses `request`, `stream` and
//! `js_semantics`; `manifest` and `outcome` use it.
//!
//! | a run … | module |
//! |---|---|
//! | starts the CLI | `command`, with the tool output filter of `rtk` |
//! | reads a line of its output | `event` |
//! | keeps what its result needs | `tally` |
//! | finds that the result event is a failure | `failure` |
//! | finds no result event | `no_result` |
//!
//! `dedup`, `login` and `parse` are only for the exported helpers (`docs/contract.md`, "Exported helpers").

pub(crate) mod command;
mod dedup;
mod event;
pub(crate) mod failure;
mod login;
mod no_result;
mod parse;
mod rtk;
mod tally;

// What a run uses.
pub(crate) use failure::{
    describe_claude_failure, is_claude_max_turns_result, is_claude_unknown_session_error,
};
pub(crate) use no_result::{OutputFacts, no_result_error};
pub use rtk::rtk_setup_commands;
pub use tally::{Captured, Tally, Usage};

// What only the exported helpers use.
pub use dedup::{LogLineDedupFilter, event_dedup_key};
pub use login::{LoginCheck, detect_claude_login_required, extract_claude_login_url};
pub use parse::{ParsedStream, build_partial_run_error, parse_claude_stream_json};
