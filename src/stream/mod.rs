//! From the bytes of a log body to whole lines, each exactly once. It knows neither Kubernetes nor the CLI.
//!
//! ```text
//! bytes → lines (LineSplitter) → stamp (Stamp) → resume (Resume) → stderr taken out (Splice)
//! ```
//!
//! What the lines mean is known in [`claude`](crate::claude), which also uses `json` and `excerpt`.

pub(crate) mod excerpt;
pub(crate) mod json;
mod lag;
mod lines;
mod resume;
mod splice;
mod stamp;

pub(crate) use lag::Lag;
pub(crate) use lines::text_of;
pub use lines::{LineSplitter, MOST_LINE};
pub use resume::{Gap, Resume, Verdict};
pub use splice::Splice;
pub use stamp::Stamp;
pub(crate) use stamp::{join_pieces, split_stamp};
