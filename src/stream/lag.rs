//! Finds where a kubelet may have left out whole files of a log that is read late.
//!
//! A kubelet follows a log by its current file. When that has been read to its end after two newer files were begun, the
//! kubelet goes on with the newest, and nothing in the body says that the one between was left out
//! (kubernetes/pkg/kubelet/kuberuntime/logs). What shows it: the last line before the hole was read late, by at least the
//! time that the hole covers.

use std::time::Duration;

use super::stamp::Stamp;

/// From how long a hole on one is reported. A kubelet looks at the size of its logs every 10 s unless it is configured
/// otherwise, so that a file covers at least that time; agents are silent for shorter times all the while.
const LEAST_HOLE: Duration = Duration::from_secs(5);

/// How many bytes a log has to have before it can have been rotated twice. The usual limit of a file is 10 MiB.
const LEAST_BYTES: u64 = 1 << 20;

/// How late the lines of a run are read.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    bytes: u64,
    last: Option<Line>,
    /// How late the line was that was read soonest: what is left is the difference of the two clocks.
    least: Option<i128>,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    stamp: Stamp,
    /// How late it was read, in nanoseconds, the difference of the clocks included.
    late: i128,
}

impl Lag {
    /// Takes the next line of a body, read at a time on the reader's clock. Returns whether lines may be missing before
    /// it.
    pub(crate) fn line(&mut self, stamp: Stamp, bytes: usize, read_at: Duration) -> bool {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        let late = read_at.as_nanos() as i128 - i128::from(stamp.nanos());
        let least = self.least.map_or(late, |least| least.min(late));
        self.least = Some(least);
        let last = self.last.replace(Line { stamp, late });
        let Some(last) = last else { return false };
        let hole = i128::from(stamp.nanos()) - i128::from(last.stamp.nanos());
        let behind = last.late - least;
        hole >= LEAST_HOLE.as_nanos() as i128 && behind >= hole && self.bytes >= LEAST_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a hole is seen before the last of these lines: (seconds of its stamp, seconds at which it is read).
    fn hole_before_last(lines: &[(i64, u64)], bytes: usize) -> bool {
        let mut lag = Lag::default();
        lines
            .iter()
            .map(|&(stamp, read)| {
                lag.line(Stamp::from_nanos(stamp * 1_000_000_000), bytes, Duration::from_secs(read))
            })
            .last()
            .expect("a line")
    }

    const LARGE: usize = LEAST_BYTES as usize;

    #[test]
    fn file_that_was_left_out_is_seen() {
        // In the second file of ten seconds the reader is twelve behind, and then gets the fourth.
        assert!(hole_before_last(&[(0, 0), (10, 22), (20, 22)], LARGE));
    }

    #[test]
    fn silence_is_no_hole() {
        assert!(!hole_before_last(&[(0, 0), (10, 10), (60, 60)], LARGE));
        // Read late, but not by as much as the silence.
        assert!(!hole_before_last(&[(0, 0), (10, 22), (40, 45)], LARGE));
    }

    #[test]
    fn short_pause_of_a_late_reader_is_no_hole() {
        assert!(!hole_before_last(&[(0, 0), (10, 30), (14, 30)], LARGE));
    }

    #[test]
    fn log_that_cannot_have_been_rotated_has_no_hole() {
        assert!(!hole_before_last(&[(0, 0), (10, 22), (20, 22)], 100));
    }

    #[test]
    fn clock_of_the_node_does_not_matter() {
        for ahead in [-3_600, 3_600] {
            assert!(!hole_before_last(&[(ahead, 0), (ahead + 10, 10), (ahead + 60, 60)], LARGE));
            assert!(hole_before_last(&[(ahead, 0), (ahead + 10, 22), (ahead + 20, 22)], LARGE));
        }
    }
}
