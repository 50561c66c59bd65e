//! Splits chunks of bytes into lines.

use std::borrow::Cow;

use memchr::memchr;

/// Capacity kept for unfinished lines, in bytes: a run with a line of 5 MiB does not hold 5 MiB until its end.
const KEPT_CAPACITY: usize = 64 * 1024;

/// Most bytes of a line that are kept, its stamp included. An agent that prints without a newline must not fill the
/// host's memory, and no JavaScript string can be longer than 512 MiB. The cut is always at the same byte, so a line that is
/// read again looks as it did before.
pub const MOST_LINE: usize = 16 * 1024 * 1024;

/// Splits a stream of byte chunks into lines at `\n`.
///
/// It works on bytes, so a character divided between two chunks stays whole. A line inside one chunk is not copied; only
/// what follows the last newline of a chunk is kept. Of a line longer than [`MOST_LINE`] the beginning is kept, and the rest
/// is counted.
#[derive(Debug)]
pub struct LineSplitter {
    /// The unfinished line.
    carry: Vec<u8>,
    /// How many of its bytes are not in `carry`.
    left_out: u64,
    most: usize,
}

impl Default for LineSplitter {
    fn default() -> Self {
        Self { carry: Vec::new(), left_out: 0, most: MOST_LINE }
    }
}

impl LineSplitter {
    /// An empty splitter, at the start of a line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next chunk and calls `f` for each line that is complete now, without its newline, and with the number of
    /// bytes at its end that were left out.
    pub fn push(&mut self, chunk: &[u8], mut f: impl FnMut(&[u8], u64)) {
        let mut rest = chunk;
        if !self.carry.is_empty() {
            let Some(end) = memchr(b'\n', rest) else {
                self.keep(rest);
                return;
            };
            self.keep(&rest[..end]);
            f(&self.carry, std::mem::take(&mut self.left_out));
            self.carry.clear();
            self.carry.shrink_to(KEPT_CAPACITY);
            rest = &rest[end + 1..];
        }
        while let Some(end) = memchr(b'\n', rest) {
            let kept = end.min(self.most);
            f(&rest[..kept], (end - kept) as u64);
            rest = &rest[end + 1..];
        }
        self.keep(rest);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(self.most - self.carry.len());
        self.carry.extend_from_slice(&bytes[..kept]);
        self.left_out += (bytes.len() - kept) as u64;
    }

    /// At the end of a body: the unfinished last line and the number of its bytes that were left out, `None` when there is
    /// none. The splitter is then ready for another body.
    pub(crate) fn take_partial(&mut self) -> Option<(Vec<u8>, u64)> {
        let left_out = std::mem::take(&mut self.left_out);
        (!self.carry.is_empty()).then(|| (std::mem::take(&mut self.carry), left_out))
    }
}

/// A line as text, with U+FFFD for NUL and for what is not UTF-8, and the number of bytes at its end that were left out:
/// each replaced byte becomes three, so the text of a long line ends where it would be longer than [`MOST_LINE`].
pub(crate) fn text_of(line: &[u8]) -> (Cow<'_, str>, u64) {
    text_within(line, MOST_LINE)
}

fn text_within(line: &[u8], most: usize) -> (Cow<'_, str>, u64) {
    if line.len() <= most
        && let Ok(text) = std::str::from_utf8(line)
        && memchr(0, line).is_none()
    {
        return (Cow::Borrowed(text), 0);
    }
    let mut text = String::with_capacity(line.len().min(most));
    let mut read = 0;
    let mut replace = |text: &mut String, bytes: usize| {
        let fits = text.len() + char::REPLACEMENT_CHARACTER.len_utf8() <= most;
        if fits {
            text.push(char::REPLACEMENT_CHARACTER);
            read += bytes;
        }
        fits
    };
    let mut valid = 0;
    'whole: for chunk in line.utf8_chunks() {
        for (number, piece) in chunk.valid().split('\0').enumerate() {
            if number > 0 && !replace(&mut text, 1) {
                break 'whole;
            }
            let kept = piece.floor_char_boundary(most - text.len());
            text.push_str(&piece[..kept]);
            valid += kept;
            if kept < piece.len() {
                break 'whole;
            }
        }
        let invalid = chunk.invalid().len();
        if invalid > 0 && !replace(&mut text, invalid) {
            break;
        }
    }
    (Cow::Owned(text), (line.len() - read - valid) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
        let mut splitter = LineSplitter::new();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |line, _| lines.push(line.to_vec()));
        }
        (lines, splitter.take_partial().map(|(line, _)| line))
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
            splitter.push(&[b'x'; 65_536], |line, _| lengths.push(line.len()));
        }
        assert_eq!(splitter.carry.len(), 5 << 20);
        splitter.push(b"\ny\n", |line, _| lengths.push(line.len()));
        assert_eq!(lengths, [5 << 20, 1]);
        assert!(splitter.carry.capacity() <= KEPT_CAPACITY);
    }

    #[test]
    fn taking_the_unfinished_line_empties_the_splitter() {
        let mut splitter = LineSplitter::new();
        splitter.push(b"half", |_, _| panic!("no line is complete"));
        assert_eq!(splitter.take_partial(), Some((b"half".to_vec(), 0)));
        assert_eq!(splitter.take_partial(), None);
    }

    #[test]
    fn line_without_end_takes_bounded_memory_and_is_counted() {
        let mut splitter = LineSplitter::new();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..600 {
            splitter.push(&piece, |_, _| panic!("no line is complete"));
        }
        assert!(splitter.carry.capacity() <= 2 * MOST_LINE, "{}", splitter.carry.capacity());
        let mut lines = Vec::new();
        splitter.push(b"end\nnext\n", |line, left_out| lines.push((line.len(), left_out)));
        assert_eq!(lines, [(MOST_LINE, (600 << 20) + 3 - MOST_LINE as u64), (4, 0)]);
        assert!(splitter.carry.capacity() <= KEPT_CAPACITY);
    }

    #[test]
    fn text_of_a_line_is_bounded_whatever_it_replaces() {
        for (line, most, text, left_out) in [
            (&b"abc"[..], 3, "abc", 0),
            (b"abcd", 3, "abc", 1),
            (b"\xff\xff\xff", 6, "\u{fffd}\u{fffd}", 1),
            (b"\0\0a", 7, "\u{fffd}\u{fffd}a", 0),
            (b"a\0b\0c", 7, "a\u{fffd}b", 2),
            (b"ab\xc3\xa9", 3, "ab", 2),
            (b"\xf0\x9f\x92", 5, "\u{fffd}", 0),
            (b"", 5, "", 0),
        ] {
            assert_eq!(text_within(line, most), (text.into(), left_out), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn text_is_that_of_the_standard_library_up_to_the_cut(
            line in proptest::collection::vec(prop_oneof![Just(0u8), Just(b'a'), any::<u8>()], 0..60),
            most in 0usize..80,
        ) {
            let whole = String::from_utf8_lossy(&line).replace('\0', "\u{fffd}");
            let (text, left_out) = text_within(&line, most);
            prop_assert!(text.len() <= most && whole.starts_with(&*text));
            prop_assert_eq!(left_out == 0, whole.len() <= most);
            prop_assert!(text.len() + 4 > most.min(whole.len()), "not more than a character too short");
        }

        #[test]
        fn cut_lines_are_the_beginnings_of_the_whole_lines(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..400),
            piece in 1usize..60,
            most in 1usize..30,
        ) {
            let mut splitter = LineSplitter { most, ..LineSplitter::new() };
            let mut lines = Vec::new();
            for chunk in bytes.chunks(piece) {
                splitter.push(chunk, |line, left_out| lines.push((line.to_vec(), left_out)));
            }
            lines.extend(splitter.take_partial());
            let mut whole: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
            whole.pop_if(|line| line.is_empty());
            let cut = |line: &[u8]| (line[..line.len().min(most)].to_vec(), line.len().saturating_sub(most) as u64);
            prop_assert_eq!(lines, whole.into_iter().map(cut).collect::<Vec<_>>());
        }

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
