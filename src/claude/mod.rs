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
//! | finds that the result event is a failure | `failure` |
//! | finds no result event | `no_result` |

pub(crate) mod command;
mod event;
pub(crate) mod failure;
mod no_result;
mod rtk;
mod supervisor;
mod tally;

pub(crate) use failure::{
    describe_claude_failure, is_claude_max_turns_result, is_claude_unknown_session_error, is_error_result,
};
pub(crate) use no_result::{OutputFacts, no_result_error};
pub use rtk::rtk_setup_commands;
pub(crate) use supervisor::EndToken;
pub use tally::{Captured, Tally, Usage};
