//! Splits chunks of bytes into lines.

use memchr::memchr;

/// Capacity kept for unfinished lines, in bytes: a run with a line of 5 MiB does not hold 5 MiB until its end.
const KEPT_CAPACITY: usize = 64 * 1024;

/// Splits a stream of byte chunks into lines at `\n`.
///
/// It works on bytes, so a character divided between two chunks stays whole. A line inside one chunk is not copied; only
/// what follows the last newline of a chunk is kept. Lines may have any length.
#[derive(Debug, Default)]
pub struct LineSplitter {
    /// The unfinished line.
    carry: Vec<u8>,
}

impl LineSplitter {
    /// An empty splitter, at the start of a line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next chunk and calls `f` for each line that is complete now, without its newline.
    pub fn push(&mut self, chunk: &[u8], mut f: impl FnMut(&[u8])) {
        let mut rest = chunk;
        if !self.carry.is_empty() {
            let Some(end) = memchr(b'\n', rest) else {
                self.carry.extend_from_slice(rest);
                return;
            };
            self.carry.extend_from_slice(&rest[..end]);
            f(&self.carry);
            self.carry.clear();
            self.carry.shrink_to(KEPT_CAPACITY);
            rest = &rest[end + 1..];
        }
        while let Some(end) = memchr(b'\n', rest) {
            f(&rest[..end]);
            rest = &rest[end + 1..];
        }
        self.carry.extend_from_slice(rest);
    }

    /// At the end of a body: the unfinished last line, `None` when there is none. The splitter is then ready for another
    /// body.
    pub(crate) fn take_partial(&mut self) -> Option<Vec<u8>> {
        (!self.carry.is_empty()).then(|| std::mem::take(&mut self.carry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
        let mut splitter = LineSplitter::new();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |line| lines.push(line.to_vec()));
        }
        (lines, splitter.take_partial())
    }

    #[test]
    fn character_divided_between_chunks_stays_whole() {
        let (lines, rest) = split(&[b"caf\xc3", b"\xa9\n", b"", b"\n\nx"]);
        assert_eq!(lines, ["café".as_bytes(), b"", b""]);
        assert_eq!(rest.as_deref(), Some(&b"x"[..]));
    }

    #[test]
    fn long_line_passes_and_its_memory_is_released() {
        let mut splitter = LineSplitter::new();
        let mut lengths = Vec::new();
        for _ in 0..80 {
            splitter.push(&[b'x'; 65_536], |line| lengths.push(line.len()));
        }
        assert_eq!(splitter.carry.len(), 5 << 20);
        splitter.push(b"\ny\n", |line| lengths.push(line.len()));
        assert_eq!(lengths, [5 << 20, 1]);
        assert!(splitter.carry.capacity() <= KEPT_CAPACITY);
    }

    #[test]
    fn taking_the_unfinished_line_empties_the_splitter() {
        let mut splitter = LineSplitter::new();
        splitter.push(b"half", |_| panic!("no line is complete"));
        assert_eq!(splitter.take_partial(), Some(b"half".to_vec()));
        assert_eq!(splitter.take_partial(), None);
    }

    proptest! {
        #[test]
        fn any_chunks_give_the_lines_of_the_whole(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..400),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let (lines, rest) = split(&chunks);
            let mut whole: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            let last = whole.pop().filter(|line| !line.is_empty());
            prop_assert_eq!(lines, whole);
            prop_assert_eq!(rest, last);
        }
    }
}
