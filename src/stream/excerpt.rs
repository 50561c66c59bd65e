//! A bounded copy of a run's output.

use std::collections::VecDeque;

/// Bytes kept from the beginning.
const HEAD: usize = 32 * 1024;
/// Bytes kept from the end; a power of two, like the capacity of the deque.
const TAIL: usize = 128 * 1024;

/// Keeps the first lines and the last lines of a text, and counts those between.
#[derive(Debug, Default)]
pub(crate) struct Excerpt {
    head: String,
    /// A line did not fit into the head: all further lines go to the tail.
    head_full: bool,
    tail: VecDeque<u8>,
    /// Lengths of the lines in `tail`, with their newlines.
    lengths: VecDeque<usize>,
    left_out_bytes: u64,
    left_out_lines: u64,
}

impl Excerpt {
    /// Adds a line, given without its newline.
    pub(crate) fn push(&mut self, line: &str) {
        let length = line.len() + 1;
        if !self.head_full && self.head.len() + length <= HEAD {
            self.head.push_str(line);
            self.head.push('\n');
            return;
        }
        self.head_full = true;
        while self.tail.len() + length > TAIL {
            let Some(first) = self.lengths.pop_front() else {
                // The line is longer than the whole tail.
                self.leave_out(length);
                return;
            };
            self.tail.drain(..first);
            self.leave_out(first);
        }
        self.tail.extend(line.as_bytes());
        self.tail.push_back(b'\n');
        self.lengths.push_back(length);
    }

    fn leave_out(&mut self, length: usize) {
        self.left_out_bytes += length as u64;
        self.left_out_lines += 1;
    }

    /// The text, with one line in the middle that says how much was left out, if anything was.
    pub(crate) fn finish(self) -> String {
        let mut text = self.head;
        if self.left_out_lines > 0 {
            let (bytes, lines) = (self.left_out_bytes, self.left_out_lines);
            text.push_str(&format!("[paperclip] {bytes} bytes in {lines} line(s) of output left out here\n"));
        }
        // Lines enter and leave the tail whole, so it is valid UTF-8.
        text.push_str(&String::from_utf8_lossy(&Vec::from(self.tail)));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(lines: impl IntoIterator<Item = String>) -> String {
        let mut excerpt = Excerpt::default();
        lines.into_iter().for_each(|line| excerpt.push(&line));
        assert!(excerpt.head.len() <= HEAD && excerpt.tail.len() <= TAIL);
        excerpt.finish()
    }

    #[test]
    fn short_output_is_kept_whole() {
        assert_eq!(excerpt([]), "");
        assert_eq!(excerpt(["a".into(), String::new(), "é".into()]), "a\n\né\n");
        let lines: Vec<String> = (0..1000).map(|n| format!("{n:0120}")).collect();
        assert_eq!(excerpt(lines.clone()), lines.join("\n") + "\n");
    }

    #[test]
    fn long_output_loses_its_middle_and_says_how_much() {
        let lines: Vec<String> = (0..100_000).map(|n| format!("line {n}")).collect();
        let total: usize = lines.iter().map(|line| line.len() + 1).sum();
        let text = excerpt(lines);
        assert!(text.len() <= HEAD + TAIL + 100);
        assert!(text.starts_with("line 0\nline 1\n") && text.ends_with("line 99998\nline 99999\n"));
        let notices: Vec<&str> = text.lines().filter(|line| line.starts_with('[')).collect();
        let [notice] = notices[..] else { panic!("{notices:?}") };
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with('[')).collect();
        let kept_bytes: usize = kept.iter().map(|line| line.len() + 1).sum();
        let (bytes, lines) = (total - kept_bytes, 100_000 - kept.len());
        assert_eq!(notice, format!("[paperclip] {bytes} bytes in {lines} line(s) of output left out here"));
    }

    #[test]
    fn line_longer_than_the_tail_is_left_out() {
        let text = excerpt(["a".into(), "x".repeat(HEAD + TAIL), "b".into()]);
        assert_eq!(text, "a\n[paperclip] 163841 bytes in 1 line(s) of output left out here\nb\n");
        let text = excerpt(["x".repeat(HEAD), "b".into()]);
        assert_eq!(text.len(), HEAD + 3);
    }
}
