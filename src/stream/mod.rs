//! From the bytes of a log body to what a run's result needs.
//!
//! ```text
//! bytes → lines → stamp → resume → tally
//!         LineSplitter  Stamp  Resume   Tally (event)  →  Captured
//! ```
//!
//! [`parse`] and [`dedup`] are the helpers exported to JavaScript; [`parse::parse_claude_stream_json`] is a
//! [`tally::Tally`] over a text, so that there is one reading of the CLI's events.

pub mod dedup;
mod event;
mod excerpt;
mod json;
pub mod lines;
pub mod parse;
pub mod resume;
pub mod stamp;
pub mod tally;

pub use dedup::{LogLineDedupFilter, event_dedup_key};
pub use lines::LineSplitter;
pub use parse::{
    LoginCheck, ParsedStream, describe_claude_failure, detect_claude_login_required,
    extract_claude_login_url, is_claude_max_turns_result, is_claude_unknown_session_error,
    parse_claude_stream_json,
};
pub use resume::{Resume, Verdict};
pub use stamp::{Stamp, join_pieces, split_stamp};
pub use tally::{Captured, Tally, Usage};
