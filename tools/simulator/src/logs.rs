//! Container logs: stamped chunks in memory, rotated and read the way the kubelet does it with log files.
//!
//! A read gets the current file alone: what was rotated away is on the node and never served. A follower keeps the file
//! that it has open. It only looks for a new one once it has read that to its end, and what the kubelet notices from then
//! on are the creations of files, one by one: a follower that is behind by two gets the current file twice, from its
//! start, and never sees the one between; one that was behind at its first end waits for the next creation. It gets none
//! once the container has ended. All of this is what `ReadLogs` of Kubernetes 1.37 does.

use crate::time::{Stamper, now_ns};
use crate::util::lock;
use bytes::{Bytes, BytesMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The container runtime cuts lines at this many bytes.
pub(crate) const CHUNK: usize = 16 * 1024;

/// A line, or a part of one that was cut.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    /// When it was read.
    pub stamp: i64,
    /// Its bytes, with the newline if the line ends here.
    pub data: Bytes,
}

/// One log file.
type File = Arc<Mutex<Vec<Chunk>>>;

struct Inner {
    file: File,
    bytes: u64,
    /// The number of files before this one.
    rotations: u64,
    checked: Instant,
    closed: bool,
}

/// The log of one container.
pub(crate) struct LogBuffer {
    inner: Mutex<Inner>,
    wake: Notify,
    rotation: Rotation,
}

/// When logs are rotated; it can be changed while they are written.
#[derive(Debug)]
pub(crate) struct Rotation {
    bytes: AtomicU64,
    interval_ms: AtomicU64,
}

impl Rotation {
    /// A file that exceeds `bytes` is rotated; its size is looked at every `interval_ms`.
    pub(crate) fn new(bytes: u64, interval_ms: u64) -> Self {
        Rotation { bytes: AtomicU64::new(bytes), interval_ms: AtomicU64::new(interval_ms) }
    }
}

impl LogBuffer {
    /// An empty log.
    pub(crate) fn new(rotation: Rotation) -> Self {
        let inner =
            Inner { file: File::default(), bytes: 0, rotations: 0, checked: Instant::now(), closed: false };
        LogBuffer { inner: Mutex::new(inner), wake: Notify::new(), rotation }
    }

    /// Changes when it is rotated.
    pub(crate) fn set_rotation(&self, rotation: &Rotation) {
        let copy = |from: &AtomicU64, to: &AtomicU64| {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        copy(&rotation.bytes, &self.rotation.bytes);
        copy(&rotation.interval_ms, &self.rotation.interval_ms);
    }

    /// Appends chunks; a file that has become too long is rotated first.
    pub(crate) fn push(&self, chunks: &mut Vec<Chunk>) {
        if chunks.is_empty() {
            return;
        }
        let mut inner = lock(&self.inner);
        let interval = Duration::from_millis(self.rotation.interval_ms.load(Ordering::Relaxed));
        if inner.checked.elapsed() >= interval {
            inner.checked = Instant::now();
            if inner.bytes > self.rotation.bytes.load(Ordering::Relaxed) {
                inner.file = File::default();
                inner.bytes = 0;
                inner.rotations += 1;
            }
        }
        inner.bytes += chunks.iter().map(|c| c.data.len() as u64).sum::<u64>();
        lock(&inner.file).append(chunks);
        drop(inner);
        self.wake.notify_waiters();
    }

    /// The bytes that its files take on the node, of which the kubelet keeps five.
    pub(crate) fn size(&self) -> u64 {
        let inner = lock(&self.inner);
        inner.bytes + inner.rotations.min(4) * self.rotation.bytes.load(Ordering::Relaxed)
    }

    /// Says that nothing more will come. Readers that wait learn it now, or when they next check.
    pub(crate) fn close(&self, check: Option<Duration>) {
        lock(&self.inner).closed = true;
        if check.is_none() {
            self.wake.notify_waiters();
        }
    }
}

/// Cuts a byte stream into stamped chunks.
#[derive(Default)]
pub(crate) struct Splitter {
    /// Read into here.
    pub buffer: BytesMut,
    scanned: usize,
}

impl Splitter {
    /// Moves what is complete into `out`.
    pub(crate) fn split(&mut self, out: &mut Vec<Chunk>) {
        while let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) {
            let mut len = self.scanned + at + 1;
            self.scanned = 0;
            while len > CHUNK + 1 {
                self.emit(CHUNK, out);
                len -= CHUNK;
            }
            self.emit(len, out);
        }
        self.scanned = self.buffer.len();
        while self.buffer.len() > CHUNK {
            self.emit(CHUNK, out);
            self.scanned = self.buffer.len();
        }
    }

    /// Moves an unterminated rest into `out`.
    pub(crate) fn finish(&mut self, out: &mut Vec<Chunk>) {
        self.split(out);
        if !self.buffer.is_empty() {
            self.emit(self.buffer.len(), out);
        }
        self.scanned = 0;
    }

    fn emit(&mut self, len: usize, out: &mut Vec<Chunk>) {
        out.push(Chunk { stamp: now_ns(), data: self.buffer.split_to(len).freeze() });
    }
}

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogOptions {
    /// Go on until the container has ended.
    pub follow: bool,
    /// Stamp every line.
    pub timestamps: bool,
    /// Only chunks stamped at or after this time, in nanoseconds.
    pub since: Option<i64>,
    /// Only the last lines.
    pub tail: Option<u64>,
    /// At most that many bytes.
    pub limit: Option<u64>,
}

/// The result of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There may be more at once.
    More,
    /// Everything so far was read.
    CaughtUp,
    /// Everything was read and nothing will come, or the byte limit is reached.
    End,
}

/// Reads one log from some point on.
pub(crate) struct LogReader {
    options: LogOptions,
    file: Option<File>,
    next: usize,
    /// The creations of files that it has noticed; it notices none before its first end of a file.
    noticed: Option<u64>,
    new_line: bool,
    left: Option<u64>,
    stamper: Stamper,
}

impl LogReader {
    /// A reader at the start of a log.
    pub(crate) fn new(options: LogOptions) -> Self {
        LogReader {
            left: options.limit,
            options,
            file: None,
            next: 0,
            noticed: None,
            new_line: true,
            stamper: Stamper::default(),
        }
    }

    /// Appends up to about `max` bytes to `out`.
    pub(crate) fn read(&mut self, log: &LogBuffer, out: &mut BytesMut, max: usize) -> Progress {
        loop {
            // Before the file is read: what comes later wakes the reader, or is read by the next call.
            let (current, rotations, closed) = {
                let inner = lock(&log.inner);
                (inner.file.clone(), inner.rotations, inner.closed)
            };
            let first = self.file.is_none();
            let file = self.file.get_or_insert_with(|| current.clone()).clone();
            match self.read_file(&file, first, out, max) {
                Progress::CaughtUp => {}
                other => return other,
            }
            if !self.options.follow {
                return Progress::End;
            }
            // Of a container that has ended a kubelet reads the open file to its end, whatever was created meanwhile.
            if closed {
                return Progress::End;
            }
            let noticed = self.noticed.get_or_insert(rotations);
            if *noticed < rotations {
                *noticed += 1;
                self.file = Some(current);
                self.next = 0;
                self.new_line = true;
                continue;
            }
            return Progress::CaughtUp;
        }
    }

    fn read_file(&mut self, file: &File, first: bool, out: &mut BytesMut, max: usize) -> Progress {
        let chunks = lock(file);
        if first && let Some(tail) = self.options.tail {
            self.next = chunks.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX));
        }
        while let Some(chunk) = chunks.get(self.next) {
            if out.len() >= max {
                return Progress::More;
            }
            self.next += 1;
            if self.options.since.is_none_or(|s| chunk.stamp >= s) && self.write(chunk, out) {
                return Progress::End;
            }
            self.new_line = chunk.data.last() == Some(&b'\n');
        }
        Progress::CaughtUp
    }

    /// Appends a chunk; whether the byte limit is reached.
    fn write(&mut self, chunk: &Chunk, out: &mut BytesMut) -> bool {
        let from = out.len();
        if self.options.timestamps && self.new_line {
            self.stamper.push(chunk.stamp, out);
        }
        out.extend_from_slice(&chunk.data);
        let Some(left) = &mut self.left else { return false };
        let wrote = (out.len() - from) as u64;
        let done = wrote >= *left;
        out.truncate(from + wrote.min(*left) as usize);
        *left = left.saturating_sub(wrote);
        done
    }

    /// Like [`LogReader::read`], but waits for something to come, and checks in between whether something will.
    pub(crate) async fn wait(
        &mut self,
        log: &LogBuffer,
        out: &mut BytesMut,
        max: usize,
        check: Option<Duration>,
    ) -> Progress {
        loop {
            let wake = log.wake.notified();
            tokio::pin!(wake);
            wake.as_mut().enable();
            let progress = self.read(log, out, max);
            if !out.is_empty() || progress == Progress::End {
                return progress;
            }
            match check {
                Some(period) => drop(tokio::time::timeout(period, wake).await),
                None => wake.await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unrotated() -> LogBuffer {
        LogBuffer::new(Rotation::new(1 << 20, 0))
    }

    /// A log that is rotated before a line if its file has one already.
    fn rotated_at_each_line() -> LogBuffer {
        LogBuffer::new(Rotation::new(0, 0))
    }

    fn add(log: &LogBuffer, text: &'static str) {
        log.push(&mut vec![Chunk { stamp: 0, data: text.into() }]);
    }

    fn log(chunks: &[(i64, &str)]) -> LogBuffer {
        let log = unrotated();
        let mut list = chunks
            .iter()
            .map(|(s, t)| Chunk { stamp: s * 1_000_000_000, data: Bytes::copy_from_slice(t.as_bytes()) })
            .collect();
        log.push(&mut list);
        log.close(None);
        log
    }

    fn read(log: &LogBuffer, options: LogOptions) -> String {
        let mut out = BytesMut::new();
        assert_eq!(LogReader::new(options).read(log, &mut out, usize::MAX), Progress::End);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn since_is_inclusive_and_stamps_are_fixed_width() {
        let log = log(&[(1, "a\n"), (2, "b\n"), (3, "c\n")]);
        let options = LogOptions { since: Some(2_000_000_000), timestamps: true, ..LogOptions::default() };
        assert_eq!(
            read(&log, options),
            "1970-01-01T00:00:02.000000000Z b\n1970-01-01T00:00:03.000000000Z c\n"
        );
    }

    #[test]
    fn partial_chunks_join_after_each_is_filtered() {
        let log = log(&[(1, "aa"), (2, "bb\n"), (3, "c\n")]);
        let whole = LogOptions { timestamps: true, ..LogOptions::default() };
        assert!(read(&log, whole).starts_with("1970-01-01T00:00:01.000000000Z aabb\n"));
        let resumed = LogOptions { timestamps: true, since: Some(2_000_000_000), ..LogOptions::default() };
        assert!(read(&log, resumed).starts_with("bb\n1970-01-01T00:00:03"));
    }

    #[test]
    fn tail_and_limit_cut_the_log() {
        let log = log(&[(1, "a\n"), (2, "b\n"), (3, "c\n")]);
        let options = |tail, limit| LogOptions { tail, limit, ..LogOptions::default() };
        assert_eq!(read(&log, options(Some(2), None)), "b\nc\n");
        assert_eq!(read(&log, options(Some(0), None)), "");
        assert_eq!(read(&log, options(None, Some(3))), "a\nb");
    }

    #[test]
    fn read_gets_the_current_file_alone() {
        let log = rotated_at_each_line();
        for line in ["a\n", "b\n", "c\n"] {
            add(&log, line);
        }
        log.close(None);
        assert_eq!(read(&log, LogOptions::default()), "c\n");
    }

    #[test]
    fn follower_at_the_end_misses_nothing_of_a_rotation() {
        let log = rotated_at_each_line();
        let mut follower = LogReader::new(LogOptions { follow: true, ..LogOptions::default() });
        let mut out = BytesMut::new();
        for line in ["a\n", "b\n", "c\n"] {
            add(&log, line);
            assert_eq!(follower.read(&log, &mut out, usize::MAX), Progress::CaughtUp);
        }
        log.close(None);
        assert_eq!(follower.read(&log, &mut out, usize::MAX), Progress::End);
        assert_eq!(&out[..], b"a\nb\nc\n");
    }

    #[test]
    fn follower_two_files_behind_gets_the_last_one_twice() {
        let log = rotated_at_each_line();
        let mut follower = LogReader::new(LogOptions { follow: true, ..LogOptions::default() });
        let mut out = BytesMut::new();
        add(&log, "a\n");
        follower.read(&log, &mut out, usize::MAX);
        for line in ["b\n", "c\n"] {
            add(&log, line);
        }
        assert_eq!(follower.read(&log, &mut out, usize::MAX), Progress::CaughtUp);
        assert_eq!(&out[..], b"a\nc\nc\n");
    }

    #[test]
    fn follower_of_an_ended_container_gets_no_newer_file() {
        let log = rotated_at_each_line();
        let mut follower = LogReader::new(LogOptions { follow: true, ..LogOptions::default() });
        let mut out = BytesMut::new();
        add(&log, "a\n");
        follower.read(&log, &mut out, usize::MAX);
        add(&log, "b\n");
        log.close(None);
        assert_eq!(follower.read(&log, &mut out, usize::MAX), Progress::End);
        assert_eq!(&out[..], b"a\n");
    }

    #[test]
    fn follower_behind_at_its_first_end_waits_for_the_next_file() {
        let log = rotated_at_each_line();
        let mut follower = LogReader::new(LogOptions { follow: true, ..LogOptions::default() });
        let mut out = BytesMut::new();
        add(&log, "a\n");
        assert_eq!(follower.read(&log, &mut out, 0), Progress::More);
        add(&log, "b\n");
        assert_eq!(follower.read(&log, &mut out, usize::MAX), Progress::CaughtUp);
        assert_eq!(&out[..], b"a\n");
        add(&log, "c\n");
        assert_eq!(follower.read(&log, &mut out, usize::MAX), Progress::CaughtUp);
        assert_eq!(&out[..], b"a\nc\n");
    }

    #[test]
    fn file_is_rotated_at_an_interval_alone() {
        let log = LogBuffer::new(Rotation::new(0, 3_600_000));
        for line in ["a\n", "b\n"] {
            add(&log, line);
        }
        log.close(None);
        assert_eq!(read(&log, LogOptions::default()), "a\nb\n");
    }

    #[test]
    fn output_is_split_at_lines_and_chunk_size() {
        let mut s = Splitter::default();
        let mut out = Vec::new();
        s.buffer.extend_from_slice(b"one\ntw");
        s.split(&mut out);
        s.buffer.extend_from_slice(b"o\n");
        s.split(&mut out);
        s.buffer.extend_from_slice(&[b'x'; CHUNK + 5]);
        s.buffer.extend_from_slice(b"\nrest");
        s.split(&mut out);
        s.finish(&mut out);
        let sizes: Vec<usize> = out.iter().map(|c| c.data.len()).collect();
        assert_eq!(sizes, [4, 4, CHUNK, 6, 4]);
    }

    #[tokio::test]
    async fn follow_ends_when_closed() {
        let log = Arc::new(unrotated());
        let writer = log.clone();
        tokio::spawn(async move {
            for _ in 0..3 {
                tokio::task::yield_now().await;
                writer.push(&mut vec![Chunk { stamp: 0, data: "x\n".into() }]);
            }
            writer.close(None);
        });
        let mut reader = LogReader::new(LogOptions { follow: true, ..LogOptions::default() });
        let mut all = BytesMut::new();
        let mut out = BytesMut::new();
        while reader.wait(&log, &mut out, 1 << 16, None).await != Progress::End {
            all.extend_from_slice(&out.split());
        }
        all.extend_from_slice(&out);
        assert_eq!(&all[..], b"x\nx\nx\n");
    }
}
