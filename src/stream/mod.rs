//! From the bytes of a log body to whole lines, each exactly once.
//!
//! ```text
//! bytes → lines (LineSplitter) → stamp (Stamp) → resume (Resume)
//! ```
//!
//! What the lines mean is the business of [`claude`](crate::claude).

pub(crate) mod excerpt;
pub(crate) mod json;
pub mod lines;
pub mod resume;
pub mod stamp;

pub use lines::LineSplitter;
pub use resume::{Resume, Verdict};
pub use stamp::{Stamp, join_pieces, split_stamp};
