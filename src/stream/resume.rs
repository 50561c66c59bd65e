//! Follows one container's log over any number of bodies and delivers each line exactly once.
//!
//! How the server behaves:
//!
//! - `sinceTime` is cut to whole seconds and is inclusive, so a resumed body repeats lines: the *overlap*.
//! - A body is the log file from some line on, in file order. Lines are only appended; rotation removes a
//!   prefix. So every line before a delivered line has been delivered too, and what follows the last
//!   delivered line is new.
//! - stdout and stderr are stamped by two writers, so stamps can be slightly out of order. A body is requested
//!   from one second (`SLACK`) before the newest delivered stamp, or the server would filter a late line out.
//! - A long line is stored in pieces with a stamp each, and the server filters pieces. The first line of a
//!   resumed body can therefore be the tail of a line, under the stamp of a later piece.
//! - A kubelet that follows a file through its rotation can send the new file again in the same body, and leave out whole
//!   files, without a sign (kubernetes#115701; seen of 1.36 at 10,000 lines a second and files of 1 MiB).
//! - A server can end every body at the same place: after a number of lines, or at a damaged line of the file.
//!
//! [`Resume`] remembers stamp and hash of the lines delivered in the window that the next request covers, in order, and
//! compares the beginning of a new body with them.
//!
//! | line of a resumed body | verdict |
//! |---|---|
//! | is in the overlap | `Duplicate` |
//! | after the last line of the overlap | `Deliver`, whatever its stamp |
//! | first line, not in the overlap | `Refetch`: either it is a tail, or the overlap was rotated away. The next body is requested from the log's beginning, where no filter cuts lines |
//! | the same in a body from the beginning | `Gap`: lines were lost |
//! | in the middle of a body, with a stamp before all that is remembered | `Refetch`, from the log's beginning: the file is sent twice, or the clock was set back. What follows the overlap there is new |
//! | unknown, between two lines of the overlap | the tail of a line whose beginning was filtered out: `Duplicate`; or, where no such line was delivered, a line that an earlier body left out: `Deliver` |
//!
//! A line in the middle of a body that is older than the newest and was delivered begins such a file again: what was
//! delivered of it is `Duplicate`, and the first new line after it a `Gap`, once.
//!
//! Bodies that end three times at the same place without anything new teach [`Resume`] how many lines a body has: the next
//! one is requested from the newest second only where the overlap is not shorter than that, else from the second after
//! it. Then lines may be lost, so the first one is a `Gap`.
//!
//! Two limits. When rotation removed exactly the delivered lines and no other, a gap is reported although
//! nothing is missing: the two cases look the same. And after the node's clock was set back by more than the
//! slack, each resume reads from the beginning.

use std::collections::VecDeque;

use super::stamp::{Stamp, split_stamp};

/// How far stamps may be out of order, in seconds: a resumed body is requested from this long before the second of the
/// newest delivered line.
const SLACK: i64 = 1;

/// Most lines remembered (16 bytes each). Reached only above 130,000 lines per second; then the oldest lines are
/// recognised by their stamp alone.
const MOST_LINES: usize = 1 << 18;

/// How often in a row bodies must end at the same place, without anything new, until the next is requested differently.
const MOST_STUCK: u32 = 3;

/// How many delivered lines in a row that are clearly older end the search for a line among the newest.
const CLEARLY_OLDER: u32 = 16;

/// From how much on a line is clearly older than another, in nanoseconds: the streams' stamps are seldom further out of
/// order.
const JITTER: i64 = 100_000_000;

/// Why lines may be missing before a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Rotation removed lines while no body was open.
    Rotated,
    /// The log was rotated while it was followed: the server sent a file again, or the log was read late by more than the
    /// hole before a line; the server may have left out files.
    RotatedWhileFollowed,
    /// Bodies ended at the same place again and again, so the next one was requested from after it.
    Stuck,
}

/// What to do with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// A new line, without its stamp.
    Deliver(&'a [u8]),
    /// A new line, before which lines of the log may be missing: report the gap, then deliver the line.
    Gap(Gap, &'a [u8]),
    /// Delivered before (or the tail of such a line).
    Duplicate,
    /// The unfinished last line of a body: kept for [`Resume::finish_partial`].
    Partial,
    /// A line without a stamp: the kubelet or a proxy wrote it, not the container.
    Noise(&'a [u8]),
    /// Stop reading this body and request another one from [`Resume::since`].
    Refetch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    stamp: Stamp,
    hash: u64,
}

/// A delivered line that a resumed body should repeat.
#[derive(Clone, Copy, Debug)]
struct Expected {
    seen: Seen,
    /// Its index in `delivered` when the body began.
    index: usize,
    /// Right before it are delivered lines that are older than what was requested: their tails may appear.
    tails_before: bool,
}

/// The state of matching the overlap at the beginning of a body.
#[derive(Debug, Default)]
struct Replay {
    expected: Vec<Expected>,
    /// Index into `expected` of the first line of the body, once one was found.
    start: Option<usize>,
    /// Index into `expected` of the next line to come.
    next: usize,
    /// Lowest and highest stamp in `expected`.
    range: Option<(Stamp, Stamp)>,
    /// Number of lines accepted in this body after a gap, while the overlap may still follow.
    after_gap: Option<usize>,
    /// Number of lines inserted into `delivered` before the lines of `expected`.
    shifted: usize,
}

/// The state of following one container's log, see the module.
#[derive(Debug, Default)]
pub struct Resume {
    /// The delivered lines that the next body may repeat, in the order of the log.
    delivered: VecDeque<Seen>,
    newest: Option<Stamp>,
    last: Option<Stamp>,
    /// The newest stamp that was dropped from `delivered`.
    forgotten: Option<Stamp>,
    /// The next body is requested from the beginning of the log.
    from_start: bool,
    /// Where the current body was requested from.
    requested_from: Option<Stamp>,
    replay: Option<Replay>,
    stopped: bool,
    progress: bool,
    /// The line at which the last body was given up, because its stamp jumped back.
    jumped: Option<Seen>,
    /// Why lines may be missing before the next line that is delivered.
    gap: Option<Gap>,
    /// A file that was sent again has been reported.
    rotation_reported: bool,
    /// What the current body has brought, delivered before or not.
    body: Body,
    /// The end of bodies that brought nothing new.
    stuck: Stuck,
    /// How many lines the server's bodies have, where they ended inside the overlap.
    body_limit: Option<usize>,
    /// The next body is requested from after the newest line's second.
    past_the_place: bool,
    partial: Option<(Seen, Vec<u8>)>,
}

/// The lines of a body.
#[derive(Debug, Default)]
struct Body {
    lines: usize,
    last: Option<Seen>,
}

/// Where bodies ended that brought nothing new.
#[derive(Debug, Default)]
struct Stuck {
    last: Option<Seen>,
    /// How many in a row ended there.
    times: u32,
}

impl Resume {
    /// Before the first body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where to request the next body from, a whole second; `None`: from the beginning of the log.
    pub fn since(&self) -> Option<Stamp> {
        let low = self.low()?;
        // A last line older than the window means that the clock was set back. A request from the window on would hide
        // what is written from now on.
        let clock_set_back = self.last.is_some_and(|last| last < low);
        if self.from_start || clock_set_back {
            return None;
        }
        let second = self.newest?.floor_seconds();
        let after = second.back_seconds(-1);
        if self.past_the_place {
            return Some(after);
        }
        let Some(limit) = self.body_limit else { return Some(low) };
        // Each body must have more lines than those that are known.
        let known = |from: Stamp| self.delivered.iter().filter(|seen| seen.stamp >= from).count();
        Some([low, second].into_iter().find(|from| known(*from) < limit).unwrap_or(after))
    }

    /// The stamp of the last line that was delivered.
    pub(crate) fn last(&self) -> Option<Stamp> {
        self.last
    }

    /// Makes the next request one for the whole log: where the clock was set back between two bodies, new lines are
    /// older than what a body would be requested from.
    pub(crate) fn start_over(&mut self) {
        self.from_start = true;
    }

    /// A new body begins, requested from [`Resume::since`].
    pub fn begin_body(&mut self) {
        self.requested_from = self.since();
        self.stopped = false;
        self.progress = false;
        self.partial = None;
        self.body = Body::default();
        if self.newest.is_some_and(|newest| self.requested_from > Some(newest)) {
            self.gap = Some(Gap::Stuck);
        }
        let mut replay = Replay::default();
        let mut tails_before = false;
        for (index, &seen) in self.delivered.iter().enumerate() {
            if self.requested_from.is_some_and(|from| seen.stamp < from) {
                tails_before = true;
                continue;
            }
            let (low, high) = replay.range.unwrap_or((seen.stamp, seen.stamp));
            replay.range = Some((low.min(seen.stamp), high.max(seen.stamp)));
            replay.expected.push(Expected { seen, index, tails_before });
            tails_before = false;
        }
        self.replay = (!replay.expected.is_empty()).then_some(replay);
    }

    /// Judges the next line of the body. `complete`: a newline followed it.
    pub fn line<'a>(&mut self, raw: &'a [u8], complete: bool) -> Verdict<'a> {
        if self.stopped {
            return Verdict::Refetch;
        }
        let stamped = split_stamp(raw);
        if !complete {
            // Inside the overlap an unfinished line is the beginning of a delivered line.
            if let (Some((stamp, text)), None) = (stamped, &self.replay) {
                self.partial = Some((Seen { stamp, hash: hash(text) }, text.to_vec()));
            }
            return Verdict::Partial;
        }
        let Some((stamp, text)) = stamped else {
            return Verdict::Noise(raw);
        };
        let seen = Seen { stamp, hash: hash(text) };
        self.body.lines += 1;
        self.body.last = Some(seen);
        let Some(mut replay) = self.replay.take() else { return self.line_after_overlap(seen, text) };
        let step = match replay.start {
            None => self.find_overlap(&mut replay, seen),
            Some(start) => self.follow_overlap(&mut replay, start, seen),
        };
        if replay.next < replay.expected.len() && step != Step::PastOverlap {
            self.replay = Some(replay);
        } else {
            self.from_start = false;
        }
        match step {
            Step::Known => {
                if self.jumped == Some(seen) {
                    // Not the clock: the file was sent twice.
                    self.jumped = None;
                    self.report_rotation();
                }
                Verdict::Duplicate
            }
            Step::Tail => {
                self.from_start = true;
                self.stopped = true;
                Verdict::Refetch
            }
            Step::Lost => {
                self.gap = Some(Gap::Rotated);
                self.deliver(seen, text)
            }
            Step::New | Step::PastOverlap => self.deliver(seen, text),
            Step::Late => Verdict::Deliver(text),
        }
    }

    /// Judges a line after the overlap.
    fn line_after_overlap<'a>(&mut self, seen: Seen, text: &'a [u8]) -> Verdict<'a> {
        if let Some(again) = self.sent_again(seen) {
            self.replay = (again.next < again.expected.len()).then_some(again);
            return Verdict::Duplicate;
        }
        if self.jumps_back(seen) && self.jumped != Some(seen) {
            self.jumped = Some(seen);
            self.from_start = true;
            self.stopped = true;
            return Verdict::Refetch;
        }
        self.jumped = self.jumped.filter(|jumped| *jumped != seen);
        self.deliver(seen, text)
    }

    fn deliver<'a>(&mut self, seen: Seen, text: &'a [u8]) -> Verdict<'a> {
        self.accept(seen);
        match self.gap.take() {
            Some(gap) => Verdict::Gap(gap, text),
            None => Verdict::Deliver(text),
        }
    }

    /// Whether a line that is older than the newest was delivered: the server sends a file again. What follows the line is
    /// then the overlap.
    fn sent_again(&mut self, seen: Seen) -> Option<Replay> {
        if self.newest.is_none_or(|newest| seen.stamp >= newest) {
            return None;
        }
        let mut older = 0;
        let at = self.delivered.iter().rev().take_while(|known| {
            older = if known.stamp.is_before_by(seen.stamp, JITTER) { older + 1 } else { 0 };
            older < CLEARLY_OLDER
        });
        let at = self.delivered.len() - 1 - at.enumerate().find(|(_, known)| **known == seen)?.0;
        self.report_rotation();
        let delivered = self.delivered.iter().enumerate().skip(at);
        let expected =
            delivered.map(|(index, &seen)| Expected { seen, index, tails_before: false }).collect();
        Some(Replay { expected, start: Some(0), next: 1, ..Replay::default() })
    }

    /// Once: at high rates logs are rotated many times a second.
    fn report_rotation(&mut self) {
        if !std::mem::replace(&mut self.rotation_reported, true) {
            self.gap.get_or_insert(Gap::RotatedWhileFollowed);
        }
    }

    /// The body ended, cleanly or not. True when it brought at least one new line. `cut_off`: it broke off right after
    /// its last line, and not when nothing had come for a while.
    pub fn end_body(&mut self, cut_off: bool) -> bool {
        self.replay = None;
        if std::mem::take(&mut self.progress) {
            if self.body_limit.is_some_and(|limit| self.body.lines > limit) {
                self.body_limit = None;
            }
            self.stuck = Stuck::default();
            self.past_the_place = false;
            return true;
        }
        let Body { lines, last: last @ Some(_) } = self.body else { return false };
        if self.stopped || !cut_off {
            self.stuck = Stuck::default();
            return false;
        }
        let times = if self.stuck.last == last { self.stuck.times + 1 } else { 1 };
        self.stuck = Stuck { last, times };
        if times >= MOST_STUCK {
            self.stuck = Stuck::default();
            self.from_start = false;
            if self.body_limit.is_none_or(|limit| lines < limit) {
                self.body_limit = Some(lines);
            } else {
                self.past_the_place = true;
            }
        }
        false
    }

    /// The text of the unfinished last line of the last body, for a container that has ended and will not finish it.
    pub(crate) fn finish_partial(&mut self) -> Option<Vec<u8>> {
        let (seen, text) = self.partial.take()?;
        self.accept(seen);
        Some(text)
    }

    /// The beginning of the remembered window.
    fn low(&self) -> Option<Stamp> {
        self.newest.map(|newest| newest.floor_seconds().back_seconds(SLACK))
    }

    /// Whether the line's stamp is before the remembered window, and that of the line before it is not.
    fn jumps_back(&self, seen: Seen) -> bool {
        let behind = |stamp: Stamp| self.low().is_some_and(|low| stamp < low);
        behind(seen.stamp) && self.last.is_some_and(|last| !behind(last))
    }

    /// Judges a line before the first line of the overlap was found.
    fn find_overlap(&mut self, replay: &mut Replay, seen: Seen) -> Step {
        let within = replay.range.is_some_and(|(low, high)| (low..=high).contains(&seen.stamp));
        let found =
            within.then(|| replay.expected.iter().position(|expected| expected.seen == seen)).flatten();
        if let Some(found) = found {
            // The lines accepted after a gap come before the overlap in the log.
            if let Some(count) = replay.after_gap.take() {
                self.delivered.rotate_right(count.min(self.delivered.len()));
                replay.shifted += count;
            }
            replay.start = Some(found);
            replay.next = found + 1;
            return Step::Known;
        }
        if let Some(count) = &mut replay.after_gap {
            *count += 1;
            let beyond = replay.range.is_none_or(|(_, high)| seen.stamp > high.back_seconds(-SLACK));
            return if beyond { Step::PastOverlap } else { Step::New };
        }
        let forgotten = self.forgotten.is_some_and(|forgotten| seen.stamp <= forgotten);
        if forgotten || self.requested_from.is_some_and(|from| seen.stamp < from) {
            return Step::Known;
        }
        if self.requested_from.is_some() {
            if self.body_limit.is_some() {
                // The log's beginning leads no further than this.
                replay.after_gap = Some(1);
                return Step::New;
            }
            return Step::Tail;
        }
        replay.after_gap = Some(1);
        self.from_start = false;
        Step::Lost
    }

    /// Judges a line after the first line of the overlap.
    fn follow_overlap(&mut self, replay: &mut Replay, start: usize, seen: Seen) -> Step {
        let expected = &replay.expected;
        let next = expected[replay.next];
        if next.seen == seen {
            replay.next += 1;
            return Step::Known;
        }
        // Equal lines can make the overlap seem to begin too early. Try to match the same lines at a later index.
        let matched = replay.next - start;
        let same = |at: usize| (0..matched).all(|i| expected[at + i].seen == expected[start + i].seen);
        let fits = |at: &usize| {
            let after = expected.get(at + matched);
            after.is_none_or(|after| after.seen == seen) && same(*at)
        };
        if matched > 0
            && let Some(at) = (start + 1..=expected.len() - matched).find(fits)
        {
            replay.start = Some(at);
            replay.next = at + matched;
            if replay.next == expected.len() {
                return Step::PastOverlap;
            }
            replay.next += 1;
            return Step::Known;
        }
        if let Some(skipped) = expected[replay.next..].iter().position(|later| later.seen == seen) {
            let at = replay.next + skipped;
            replay.start = Some(at);
            replay.next = at + 1;
            return Step::Known;
        }
        if next.tails_before {
            return Step::Known;
        }
        if next.seen.stamp == seen.stamp {
            // The same line with other pieces filtered out of it.
            replay.next += 1;
            replay.start = Some(replay.next);
            return Step::Known;
        }
        if let Some(again) = self.sent_again(seen) {
            *replay = again;
            return Step::Known;
        }
        self.delivered.insert((next.index + replay.shifted).min(self.delivered.len()), seen);
        replay.shifted += 1;
        replay.start = Some(replay.next);
        self.progress = true;
        Step::Late
    }

    fn accept(&mut self, seen: Seen) {
        self.progress = true;
        self.last = Some(seen.stamp);
        self.newest = self.newest.max(Some(seen.stamp));
        self.delivered.push_back(seen);
        if self.replay.is_some() {
            return;
        }
        let low = self.low();
        while let Some(front) = self.delivered.front() {
            if self.delivered.len() <= MOST_LINES && low.is_none_or(|low| front.stamp >= low) {
                break;
            }
            self.forgotten = self.forgotten.max(Some(front.stamp));
            self.delivered.pop_front();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Delivered before.
    Known,
    /// New, and the overlap may still follow.
    New,
    /// New, and the overlap has ended.
    PastOverlap,
    /// New, but in the log it is before lines already delivered.
    Late,
    /// New, and lines before it are lost.
    Lost,
    /// Possibly the tail of a line.
    Tail,
}

/// A 64-bit hash of a text. Only lines with equal stamps are compared, so speed matters more than strength: four words at
/// a time, because a multiplication waits for the one before it.
fn hash(text: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: [u8; 8]| {
        let wide = u128::from(hash ^ u64::from_le_bytes(word)) * u128::from(FACTOR);
        (wide as u64) ^ ((wide >> 64) as u64)
    };
    let (words, rest) = text.as_chunks::<8>();
    let (blocks, words) = words.as_chunks::<4>();
    let mut lanes = [1, 2, 3, 4].map(|lane| FACTOR ^ (text.len() as u64).rotate_left(16 * lane));
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block) {
            *lane = mix(*lane, *word);
        }
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let tail = words.iter().chain([&last]).fold(FACTOR, |hash, word| mix(hash, *word));
    lanes.iter().fold(tail, |hash, lane| mix(hash, lane.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::LineSplitter;
    use proptest::prelude::*;

    const MS: i64 = 1_000_000;
    const START: i64 = 1_767_323_045_000 * MS;

    /// A line as the node stores it: pieces with a stamp each.
    #[derive(Clone, Debug)]
    struct Stored(Vec<(i64, String)>);

    impl Stored {
        fn whole(&self) -> String {
            self.0.iter().map(|(_, text)| text.as_str()).collect()
        }
    }

    /// What the kubelet answers: pieces from `since` on, joined, under the stamp of the first.
    fn serve(log: &[Stored], since: Option<Stamp>) -> Vec<u8> {
        let mut body = Vec::new();
        for line in log {
            let mut pieces = line.0.iter().filter(|(at, _)| since.is_none_or(|since| *at >= since.nanos()));
            let Some((at, text)) = pieces.next() else { continue };
            body.extend(format!("{} {text}", Stamp::from_nanos(*at)).bytes());
            pieces.for_each(|(_, text)| body.extend(text.bytes()));
            body.push(b'\n');
        }
        body
    }

    #[derive(Default)]
    struct Reader {
        resume: Resume,
        lines: Vec<String>,
        gaps: Vec<Gap>,
        refetched: usize,
    }

    impl Reader {
        /// Reads a body cut after `cut` bytes. False when the verdict was a refetch.
        fn read(&mut self, body: &[u8], cut: usize) -> bool {
            self.read_ended(body, cut, false)
        }

        /// The same of a body that ends cleanly or breaks off.
        fn read_ended(&mut self, body: &[u8], cut: usize, cut_off: bool) -> bool {
            let Self { resume, lines, gaps, refetched } = self;
            let mut splitter = LineSplitter::new();
            let mut take = |raw: &[u8], complete: bool, resume: &mut Resume| match resume.line(raw, complete)
            {
                Verdict::Deliver(text) => lines.push(String::from_utf8(text.to_vec()).unwrap()),
                Verdict::Gap(gap, text) => {
                    gaps.push(gap);
                    lines.push(String::from_utf8(text.to_vec()).unwrap());
                }
                Verdict::Duplicate | Verdict::Partial | Verdict::Noise(_) | Verdict::Refetch => {}
            };
            resume.begin_body();
            splitter.push(&body[..cut.min(body.len())], |raw, _| take(raw, true, resume));
            if let Some((rest, _)) = splitter.take_partial() {
                take(&rest, false, resume);
            }
            resume.end_body(cut_off);
            *refetched += usize::from(resume.stopped);
            !resume.stopped
        }

        fn read_all(&mut self, log: &[Stored]) {
            while !self.read(&serve(log, self.resume.since()), usize::MAX) {}
        }
    }

    fn lines(log: &[(i64, &str)]) -> Vec<Stored> {
        log.iter().map(|(ms, text)| Stored(vec![(START + ms * MS, text.to_string())])).collect()
    }

    #[test]
    fn start_over_finds_lines_older_than_the_window() {
        let at = |seconds: i64, text: &'static str| (seconds * 1000, text);
        let mut log = lines(&[at(3600, "a"), at(3601, "b"), at(3605, "c")]);
        let mut reader = Reader::default();
        reader.read_all(&log);
        log.extend(lines(&[at(6, "d"), at(7, "e")]));
        reader.read_all(&log);
        assert_eq!(reader.lines, ["a", "b", "c"], "lines older than the window are not requested");
        reader.resume.start_over();
        reader.read_all(&log);
        assert_eq!(
            (reader.lines.as_slice(), reader.gaps.len()),
            (["a", "b", "c", "d", "e"].map(String::from).as_slice(), 0)
        );
        log.extend(lines(&[at(8, "f")]));
        reader.read_all(&log);
        assert_eq!(reader.lines.len(), 6, "the clock is known to be set back from then on");
    }

    #[test]
    fn body_is_requested_from_one_second_before_the_newest_line() {
        let mut resume = Resume::new();
        assert_eq!(resume.since(), None);
        resume.begin_body();
        assert_eq!(resume.line(b"2026-01-02T03:04:07.7Z a", true), Verdict::Deliver(b"a"));
        assert_eq!(resume.line(b"2026-01-02T03:04:07.1Z b", true), Verdict::Deliver(b"b"));
        assert!(resume.end_body(false));
        assert_eq!(resume.since().unwrap().floor_seconds_rfc3339(), "2026-01-02T03:04:06Z");
        resume.begin_body();
        assert!(!resume.end_body(false));
    }

    #[test]
    fn line_without_a_stamp_is_noise() {
        let mut resume = Resume::new();
        resume.begin_body();
        assert_eq!(
            resume.line(b"failed to try resolving symlinks", true),
            Verdict::Noise(b"failed to try resolving symlinks")
        );
        assert_eq!(resume.line(b"unexpected end", false), Verdict::Partial);
        resume.end_body(false);
        assert_eq!(resume.finish_partial(), None);
        assert_eq!(resume.since(), None);
    }

    #[test]
    fn unfinished_last_line_waits_for_the_containers_end() {
        let mut resume = Resume::new();
        resume.begin_body();
        assert_eq!(resume.line(b"2026-01-02T03:04:07Z a", true), Verdict::Deliver(b"a"));
        assert_eq!(resume.line(b"2026-01-02T03:04:07Z bc", false), Verdict::Partial);
        resume.end_body(false);
        // The connection was cut: the line is repeated, whole.
        resume.begin_body();
        assert_eq!(resume.line(b"2026-01-02T03:04:07Z a", false), Verdict::Partial);
        resume.end_body(false);
        assert_eq!(resume.finish_partial(), None, "the beginning of a delivered line");
        resume.begin_body();
        assert_eq!(resume.line(b"2026-01-02T03:04:07Z a", true), Verdict::Duplicate);
        assert_eq!(resume.line(b"2026-01-02T03:04:07Z bcd", false), Verdict::Partial);
        resume.end_body(false);
        assert_eq!(resume.finish_partial(), Some(b"bcd".to_vec()));
        assert_eq!(resume.finish_partial(), None);
    }

    #[test]
    fn equal_lines_with_one_stamp_are_counted() {
        let log = lines(&[(0, "a"), (0, "a"), (0, "b"), (0, "a")]);
        let mut reader = Reader::default();
        for upto in 1..=4 {
            reader.read_all(&log[..upto]);
        }
        assert_eq!(reader.lines, ["a", "a", "b", "a"]);
        assert_eq!((reader.gaps.len(), reader.refetched), (0, 0));
    }

    #[test]
    fn late_stamp_of_the_other_stream_is_not_lost() {
        let log = lines(&[(2100, "out"), (1900, "err"), (1950, "err2"), (2200, "out2")]);
        let mut reader = Reader::default();
        for upto in 1..=4 {
            reader.read_all(&log[..upto]);
        }
        assert_eq!(reader.lines, ["out", "err", "err2", "out2"]);
    }

    #[test]
    fn tail_of_a_delivered_line_leads_to_a_refetch() {
        let mut log = lines(&[(0, "first")]);
        log.push(Stored(vec![(START + 900 * MS, "beginning-".into()), (START + 1100 * MS, "tail".into())]));
        log.extend(lines(&[(2300, "c")]));
        let mut reader = Reader::default();
        reader.read_all(&log);
        log.extend(lines(&[(2500, "d")]));
        reader.read_all(&log);
        assert_eq!(reader.lines, ["first", "beginning-tail", "c", "d"]);
        assert_eq!((reader.gaps.len(), reader.refetched), (0, 1));
    }

    #[test]
    fn tail_inside_the_overlap_is_a_duplicate() {
        // The long line began late (out of order), and its beginning is before what is requested.
        let mut log = lines(&[(1200, "a")]);
        log.push(Stored(vec![(START + 900 * MS, "beginning-".into()), (START + 1300 * MS, "tail".into())]));
        log.extend(lines(&[(2300, "c")]));
        let mut reader = Reader::default();
        reader.read_all(&log);
        log.extend(lines(&[(2400, "d")]));
        reader.read_all(&log);
        assert_eq!(reader.lines, ["a", "beginning-tail", "c", "d"]);
        assert_eq!((reader.gaps.len(), reader.refetched), (0, 0));
    }

    #[test]
    fn rotation_that_keeps_the_overlap_loses_nothing() {
        let log = lines(&[(0, "a"), (100, "b"), (200, "c"), (300, "d")]);
        let mut reader = Reader::default();
        reader.read_all(&log[..3]);
        reader.read_all(&log[2..]);
        assert_eq!(reader.lines, ["a", "b", "c", "d"]);
        assert_eq!((reader.gaps.len(), reader.refetched), (0, 0));
    }

    #[test]
    fn rotation_past_the_overlap_is_one_gap() {
        let log = lines(&[(0, "a"), (0, "b"), (0, "lost"), (0, "d"), (1, "e"), (9000, "f")]);
        let mut reader = Reader::default();
        reader.read_all(&log[..2]);
        reader.read_all(&log[3..5]);
        reader.read_all(&log[3..]);
        assert_eq!(reader.lines, ["a", "b", "d", "e", "f"]);
        assert_eq!((&reader.gaps[..], reader.refetched), (&[Gap::Rotated][..], 1));
    }

    #[test]
    fn file_that_begins_inside_a_line_repeats_only_its_tail() {
        let mut log = vec![Stored(vec![(START, "beginning-".into()), (START + 1, "tail".into())])];
        log.extend(lines(&[(1, "b"), (2, "c")]));
        let mut reader = Reader::default();
        reader.read_all(&log);
        log[0].0.remove(0);
        log.extend(lines(&[(3, "d")]));
        reader.read_all(&log);
        reader.read_all(&log);
        assert_eq!(reader.lines, ["beginning-tail", "b", "c", "tail", "d"]);
        assert_eq!(reader.gaps, [Gap::Rotated]);
    }

    #[test]
    fn line_left_out_by_an_earlier_body_is_delivered_once() {
        let log = lines(&[(0, "a"), (1, "left out"), (2, "b")]);
        let without = [log[0].clone(), log[2].clone()];
        let mut reader = Reader::default();
        reader.read_all(&without);
        reader.read_all(&log);
        reader.read_all(&log);
        assert_eq!(reader.lines, ["a", "b", "left out"]);
        assert_eq!((reader.gaps.len(), reader.refetched), (0, 0));
    }

    #[test]
    fn clock_set_back_reads_from_the_beginning() {
        let log =
            lines(&[(0, "a"), (60_000, "b"), (60_500, "c"), (10_000, "d"), (11_000, "e"), (12_000, "f")]);
        let mut reader = Reader::default();
        reader.read_all(&log[..4]);
        assert_eq!(reader.resume.since(), None);
        reader.read_all(&log);
        assert_eq!(reader.lines, ["a", "b", "c", "d", "e", "f"]);
        assert_eq!(reader.gaps, []);
    }

    #[test]
    fn file_sent_twice_in_one_body_is_delivered_once() {
        let log: Vec<Stored> =
            (0..40).map(|n| Stored(vec![(START + n * 500 * MS, format!("line {n}"))])).collect();
        let mut reader = Reader::default();
        let twice = [serve(&log[..20], None), serve(&log[..30], None)].concat();
        assert!(!reader.read(&twice, usize::MAX));
        // Again, in the body of the refetch.
        assert!(!reader.read(&[serve(&log[..30], None), serve(&log, None)].concat(), usize::MAX));
        reader.read_all(&log);
        assert_eq!(reader.lines, log.iter().map(Stored::whole).collect::<Vec<_>>());
        assert_eq!(
            (&reader.gaps[..], reader.refetched),
            (&[Gap::RotatedWhileFollowed][..], 2),
            "reported once"
        );
    }

    #[test]
    fn file_sent_twice_within_the_window_is_dropped() {
        // 10,000 lines a second: all of it is younger than what a body is requested from.
        let log: Vec<Stored> =
            (0..4000).map(|n| Stored(vec![(START + n * MS / 10, format!("line {n}"))])).collect();
        let mut reader = Reader::default();
        // The file begins again twice, the second time while what was delivered of it is still being sent; lines 1,500 to
        // 2,000 were left out.
        let body = [&log[..1500], &log[2000..2500], &log[2000..2300], &log[2000..4000]]
            .map(|part| serve(part, None));
        assert!(reader.read(&body.concat(), usize::MAX));
        let expected: Vec<_> = log[..1500].iter().chain(&log[2000..]).map(Stored::whole).collect();
        assert_eq!((reader.lines, &reader.gaps[..]), (expected, &[Gap::RotatedWhileFollowed][..]));
    }

    /// Reads a log that grows by some lines between two bodies, until nothing more comes. Each body ends after `limit`
    /// lines.
    fn read_in_bodies_of(limit: usize, log: &[Stored], grow: usize) -> Reader {
        let mut reader = Reader::default();
        let mut written = 0;
        let mut fruitless = 0;
        let mut bodies = 0;
        while fruitless < 12 {
            written = (written + grow).min(log.len());
            let body = serve(&log[..written], reader.resume.since());
            let newlines = body.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            let cut = newlines.map(|(at, _)| at + 1).nth(limit - 1).unwrap_or(body.len());
            let before = reader.lines.len();
            reader.read_ended(&body, cut, true);
            fruitless = if reader.lines.len() > before { 0 } else { fruitless + 1 };
            bodies += 1;
            assert!(bodies < 20 * log.len() + 100, "ends");
        }
        reader
    }

    #[test]
    fn bodies_that_end_at_the_same_place_are_got_past() {
        let log = |per_second: i64| -> Vec<Stored> {
            let step = 1000 * MS / per_second;
            (0..600).map(|n| Stored(vec![(START + n * step, format!("line {n}"))])).collect()
        };
        // More lines a second than half a body has: the overlap is narrowed, and nothing is lost.
        let slow = log(30);
        for grow in [20, 600] {
            let reader = read_in_bodies_of(50, &slow, grow);
            assert_eq!(reader.lines, slow.iter().map(Stored::whole).collect::<Vec<_>>());
            assert_eq!(reader.gaps, []);
        }
        // More lines a second than a body has: half of each second is lost, and reported.
        let fast = log(100);
        let reader = read_in_bodies_of(50, &fast, 600);
        assert_eq!(reader.lines.len(), 300);
        assert_eq!(reader.gaps, [Gap::Stuck; 5]);
    }

    #[test]
    fn damaged_line_is_got_past() {
        let log = lines(&[(0, "a"), (100, "b"), (200, "c"), (1500, "d"), (1600, "e")]);
        let mut reader = Reader::default();
        // Whatever is requested from before the third line ends there.
        let body = |since: Option<Stamp>| match since {
            Some(since) if since.nanos() > START + 200 * MS => serve(&log, Some(since)),
            since => serve(&log[..2], since),
        };
        for _ in 0..=MOST_STUCK {
            reader.read_ended(&body(reader.resume.since()), usize::MAX, true);
        }
        assert_eq!(reader.lines, ["a", "b"]);
        reader.read_ended(&body(reader.resume.since()), usize::MAX, true);
        assert_eq!(
            (reader.lines, reader.gaps),
            (["a", "b", "d", "e"].map(String::from).to_vec(), vec![Gap::Stuck])
        );
    }

    #[test]
    fn silent_log_is_requested_the_same_way_forever() {
        let log = lines(&[(0, "a"), (100, "b")]);
        let mut reader = Reader::default();
        reader.read_all(&log);
        let since = reader.resume.since();
        for _ in 0..50 {
            // The connection is closed when nothing has come for a while.
            reader.read_ended(&serve(&log, since), usize::MAX, false);
            assert_eq!(reader.resume.since(), since);
        }
        // Cut off, but at another line each time.
        let log: Vec<Stored> = (0..40).map(|n| Stored(vec![(START + n * MS, format!("line {n}"))])).collect();
        let mut reader = Reader::default();
        reader.read_all(&log);
        let body = serve(&log, since);
        for cut in (0..body.len()).step_by(body.len() / 40) {
            reader.read_ended(&body, cut, true);
            assert_eq!(reader.resume.since(), since, "{cut}");
        }
    }

    #[test]
    fn clock_set_back_in_one_body_loses_nothing() {
        let log =
            lines(&[(0, "a"), (60_000, "b"), (60_500, "c"), (10_000, "d"), (11_000, "e"), (70_000, "f")]);
        let mut reader = Reader::default();
        reader.read_all(&log);
        assert_eq!(reader.lines, ["a", "b", "c", "d", "e", "f"]);
        assert_eq!((reader.gaps.len(), reader.refetched), (0, 1));
    }

    #[test]
    fn memory_is_bounded() {
        let mut resume = Resume::new();
        resume.begin_body();
        for n in 0..MOST_LINES + 1000 {
            let line = format!("{} {n}", Stamp::from_nanos(START + n as i64));
            assert!(matches!(resume.line(line.as_bytes(), true), Verdict::Deliver(_)));
        }
        assert_eq!(resume.delivered.len(), MOST_LINES);
        resume.begin_body();
        let line = |n: usize| format!("{} {n}", Stamp::from_nanos(START + n as i64));
        assert_eq!(resume.line(line(3).as_bytes(), true), Verdict::Duplicate);
        assert_eq!(resume.line(line(1000).as_bytes(), true), Verdict::Duplicate);
        let mut slow = Resume::new();
        slow.begin_body();
        for n in 0..1000 {
            let line = format!("{} {n}", Stamp::from_nanos(START + n * 1000 * MS));
            slow.line(line.as_bytes(), true);
        }
        assert!(slow.delivered.len() <= 3);
    }

    /// A log: per line the time since the line before it, how late its stamp is (below 1 s), and its pieces. A tail
    /// never has stamp and text of the next line, since the two would be equal.
    fn log() -> impl Strategy<Value = Vec<Stored>> {
        let step = prop_oneof![3 => Just(0), 3 => 0..1000i64, 2 => 0..900 * MS, 1 => 0..4000 * MS];
        let late = prop_oneof![4 => Just(0), 1 => 0..1000 * MS];
        let more = proptest::collection::vec((1..1500 * MS, "[xy]{1,3}"), 0..3);
        let more = prop_oneof![4 => Just(vec![]), 1 => more];
        proptest::collection::vec((step, late, "[ab]{0,2}", more), 1..60).prop_map(|lines| {
            let mut clock = START;
            let mut log = Vec::new();
            for (step, late, text, more) in lines {
                clock += step;
                let mut pieces = vec![(clock - late, text)];
                for (step, text) in more {
                    clock += step;
                    // Pieces of one line come from one stream, so they are in order.
                    pieces.push((clock - late, text));
                }
                clock += i64::from(pieces.len() > 1);
                log.push(Stored(pieces));
            }
            log
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        #[test]
        fn bodies_cut_anywhere_deliver_each_line_once(
            log in log(),
            reads in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..14),
        ) {
            let mut reader = Reader::default();
            let mut written = 0;
            for (grow, cut) in reads {
                written += grow.index(log.len() + 1 - written);
                let body = serve(&log[..written], reader.resume.since());
                reader.read(&body, cut.index(body.len() + 1));
            }
            reader.read_all(&log);
            let whole: Vec<String> = log.iter().map(Stored::whole).collect();
            prop_assert_eq!(reader.lines, whole);
            prop_assert_eq!(reader.gaps, []);
        }

        #[test]
        fn file_sent_again_is_delivered_once(
            log in log(), parts in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
        ) {
            // Every line has a stamp of its own. A piece of a line is never sent without its beginning.
            let log: Vec<Stored> = (0..).zip(log).map(|(n, line)| {
                let (at, text) = &line.0[0];
                Stored(vec![(*at + n, format!("{n}:{text}"))])
            }).collect();
            let mut written = 0;
            let mut body = Vec::new();
            for (grow, from) in parts {
                let sent_to = written;
                written += grow.index(log.len() + 1 - written);
                // The file that is followed now begins with a line that is older than the newest that was sent.
                let from = from.index(sent_to + 1);
                let newest = log[..sent_to].iter().map(|line| line.0[0].0).max();
                let is_older = from < sent_to && Some(log[from].0[0].0) < newest;
                let from = if is_older { from } else { sent_to };
                body.extend(serve(&log[from..written], None));
            }
            let mut reader = Reader::default();
            if !reader.read(&body, usize::MAX) {
                reader.read_all(&log[..written]);
            }
            reader.read_all(&log);
            prop_assert_eq!(reader.lines, log.iter().map(Stored::whole).collect::<Vec<_>>());
            prop_assert!(reader.gaps.len() <= 1, "{:?}", reader.gaps);
        }

        #[test]
        fn short_bodies_end_and_lose_nothing_unsaid(log in log(), limit in 1..20usize, grow in 1..20usize) {
            let log: Vec<Stored> = (0..).zip(log).map(|(n, line)| {
                let (at, text) = &line.0[0];
                Stored(vec![(*at, format!("{n}:{text}"))])
            }).collect();
            let reader = read_in_bodies_of(limit, &log, grow);
            let mut seen = std::collections::HashSet::new();
            prop_assert!(reader.lines.iter().all(|line| seen.insert(line)), "none twice: {:?}", reader.lines);
        }

        #[test]
        fn rotated_prefix_gives_one_gap_per_loss(
            mut log in log(),
            reads in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..10),
        ) {
            // Every line is different, so that the test knows which are lost.
            for (n, line) in log.iter_mut().enumerate() {
                line.0[0].1.insert_str(0, &format!("{n}:"));
            }
            let number = |text: &String| text.split(':').next().unwrap().parse::<usize>().unwrap();
            let mut reader = Reader::default();
            let (mut written, mut rotated, mut losses) = (0, 0, 0);
            let mut reads: Vec<_> = reads.into_iter().map(Some).collect();
            reads.push(None);
            for read in reads {
                if let Some((grow, rotate, _)) = &read {
                    written += grow.index(log.len() + 1 - written);
                    // Rotation keeps the file that is being written, and never cuts inside a line here.
                    rotated += rotate.index(written + 1 - rotated) / 2;
                } else {
                    written = log.len();
                }
                let before = reader.lines.len();
                loop {
                    let body = serve(&log[rotated..written], reader.resume.since());
                    let cut = read.as_ref().map_or(usize::MAX, |(_, _, cut)| cut.index(body.len() + 1));
                    if reader.read(&body, cut) {
                        break;
                    }
                }
                if before > 0 && reader.lines.len() > before && number(&reader.lines[before - 1]) < rotated {
                    losses += 1;
                }
            }
            let numbers: Vec<usize> = reader.lines.iter().map(number).collect();
            prop_assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
            prop_assert!(reader.lines.iter().zip(&numbers).all(|(line, n)| *line == log[*n].whole()));
            let last_lost = numbers.first().copied().unwrap_or(0);
            let missing = (last_lost..log.len()).filter(|n| !numbers.contains(n)).count();
            prop_assert!(missing == 0 || losses > 0);
            prop_assert_eq!(reader.gaps.len(), losses);
        }
    }
}
