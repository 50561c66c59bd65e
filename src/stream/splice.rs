//! Takes stderr out of a long line of stdout.
//!
//! A container runtime stores a long line in pieces of 16 KiB, and the kubelet ends a line where a stored line ends. What
//! the container wrote to stderr between two pieces so ends the line in the middle, and the rest of it comes as a line of
//! its own (kubernetes/pkg/kubelet/kuberuntime/logs):
//!
//! ```text
//! {"type":"result", … first 16 KiB … Warning: no stdin      ← a piece, and the line of stderr
//!  … the rest"}                                             ← what follows it
//! ```

use std::borrow::Cow;

use super::json::Json;
use super::lines::MOST_LINE;
use super::stamp::PIECE;

/// The most lines of stderr between the pieces of one line.
const MAX_STRAYS: usize = 16;
/// The most bytes of a line that are held back: no longer line is kept whole.
const MAX_HELD: usize = MOST_LINE;
/// What is not UTF-8 is replaced, which takes three times its memory. The CLI prints UTF-8, so a longer line that is not is
/// none of its events.
const MOST_REPLACED: usize = 1024 * 1024;

/// Puts long JSON lines together again. A line is held back only where it is at least a piece long, begins an object and
/// does not end it.
#[derive(Debug, Default)]
pub struct Splice {
    held: Option<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// The pieces so far.
    pieces: Vec<u8>,
    /// What stood between them, one after the other.
    strays: Vec<u8>,
    /// Where each line that came ends in `pieces`, and where in `strays`.
    ends: Vec<(usize, usize)>,
}

impl Splice {
    /// Adds the next line and calls `f` for each line that is known to be whole: the line put together, then what stood in
    /// it.
    pub fn push(&mut self, line: &[u8], mut f: impl FnMut(&[u8])) {
        let Some(held) = &mut self.held else {
            if line.len() >= PIECE && line.starts_with(b"{") && !is_json(line) {
                let mut held = Held::default();
                held.add(line);
                self.held = Some(held);
            } else {
                f(line);
            }
            return;
        };
        let length = held.pieces.len() + line.len();
        // An object that ends does so with a brace: most lines are not worth the search.
        if length <= MAX_HELD && line.trim_ascii_end().ends_with(b"}") {
            held.pieces.extend_from_slice(line);
            if is_json(&held.pieces) {
                f(&held.pieces);
                held.strays().for_each(&mut f);
                self.held = None;
                return;
            }
            held.pieces.truncate(length - line.len());
        }
        // An event of its own is not a piece: stdout is written in order, so the line before it ended as it is.
        let is_event = line.starts_with(b"{") && is_json(line);
        if is_event || held.ends.len() >= MAX_STRAYS || length > MAX_HELD {
            self.finish(&mut f);
            f(line);
        } else {
            held.add(line);
        }
    }

    /// At the end of the log, or before a line that is not the container's: gives what is held back as it came.
    pub fn finish(&mut self, mut f: impl FnMut(&[u8])) {
        if let Some(held) = self.held.take() {
            let mut from = (0, 0);
            for to in held.ends {
                f(&[&held.pieces[from.0..to.0], &held.strays[from.1..to.1]].concat());
                from = to;
            }
        }
    }
}

impl Held {
    fn add(&mut self, line: &[u8]) {
        // A line of stderr is shorter than a piece.
        let (pieces, stray) = line.split_at(line.len() - line.len() % PIECE);
        self.pieces.extend_from_slice(pieces);
        self.strays.extend_from_slice(stray);
        self.ends.push((self.pieces.len(), self.strays.len()));
    }

    fn strays(&self) -> impl Iterator<Item = &[u8]> {
        let from = std::iter::once(0).chain(self.ends.iter().map(|end| end.1));
        from.zip(&self.ends).map(|(from, end)| &self.strays[from..end.1])
    }
}

fn is_json(line: &[u8]) -> bool {
    let text = match std::str::from_utf8(line) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) if line.len() > MOST_REPLACED => return false,
        Err(_) => String::from_utf8_lossy(line),
    };
    let mut json = Json::new(&text);
    json.skip().and_then(|()| json.end()).is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn splice(lines: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut splice = Splice::default();
        let mut out = Vec::new();
        for line in lines {
            splice.push(line, |line| out.push(line.to_vec()));
        }
        splice.finish(|line| out.push(line.to_vec()));
        out
    }

    /// The lines a kubelet makes of a line of stdout with lines of stderr after some of its pieces.
    fn as_sent(line: &[u8], strays: &[(usize, &[u8])]) -> Vec<Vec<u8>> {
        let mut lines = vec![Vec::new()];
        for (number, piece) in line.chunks(PIECE).enumerate() {
            lines.last_mut().unwrap().extend_from_slice(piece);
            for (_, stray) in strays.iter().filter(|(after, _)| *after == number) {
                lines.last_mut().unwrap().extend_from_slice(stray);
                lines.push(Vec::new());
            }
        }
        lines
    }

    fn event(bytes: usize) -> Vec<u8> {
        let text: String = (0..bytes).map(|i| if i % 97 == 0 { 'é' } else { 'x' }).collect();
        serde_json::json!({"type": "result", "result": text}).to_string().into_bytes()
    }

    #[test]
    fn stderr_between_two_pieces_is_taken_out() {
        let event = event(3 * PIECE);
        for strays in [
            vec![(0, b"Warning: no stdin".as_slice())],
            vec![(0, b"one".as_slice()), (0, b"two".as_slice())],
            vec![(0, b"one".as_slice()), (1, b"{two}".as_slice())],
            vec![(2, b"".as_slice())],
        ] {
            let expected: Vec<Vec<u8>> =
                [event.clone()].into_iter().chain(strays.iter().map(|(_, stray)| stray.to_vec())).collect();
            assert!(splice(&as_sent(&event, &strays)) == expected, "{strays:?}");
        }
    }

    #[test]
    fn line_that_was_cut_comes_as_it_is_before_the_next_event() {
        let cut = event(2 * PIECE)[..PIECE + 9].to_vec();
        let next = b"{\"type\":\"system\"}".to_vec();
        let mut splice = Splice::default();
        let mut out = Vec::new();
        splice.push(&cut, |_| panic!("it may go on"));
        splice.push(&next, |line| out.push(line.to_vec()));
        assert_eq!(out, [cut, next]);
    }

    #[test]
    fn lines_without_end_are_held_back_up_to_a_number() {
        let cut = event(2 * PIECE)[..PIECE].to_vec();
        let mut splice = Splice::default();
        let mut out = 0;
        splice.push(&cut, |_| out += 1);
        for _ in 0..MAX_STRAYS {
            splice.push(b"text", |_| out += 1);
        }
        assert_eq!(out, MAX_STRAYS + 1);
    }

    proptest! {
        #[test]
        fn lines_without_a_splice_stay(
            lines in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..40),
                    (PIECE - 40..PIECE + 40).prop_map(event),
                    (0..PIECE * 2).prop_map(|length| vec![b'y'; length]),
                ],
                0..8,
            ),
        ) {
            prop_assert!(splice(&lines) == lines);
        }
    }
}
