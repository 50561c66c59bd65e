//! Container logs: stamped chunks in memory, read the way the kubelet reads log files.

use crate::time::{Stamper, now_ns};
use crate::util::lock;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
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

#[derive(Default)]
struct Inner {
    chunks: VecDeque<Chunk>,
    first: u64,
    bytes: u64,
    closed: bool,
}

/// The log of one container.
pub(crate) struct LogBuffer {
    inner: Mutex<Inner>,
    wake: Notify,
    limit: AtomicU64,
}

impl LogBuffer {
    /// An empty log that keeps that many bytes.
    pub(crate) fn new(limit: u64) -> Self {
        LogBuffer { inner: Mutex::default(), wake: Notify::new(), limit: AtomicU64::new(limit) }
    }

    /// Changes how many bytes are kept.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Appends chunks, dropping the oldest ones beyond the limit.
    pub(crate) fn push(&self, chunks: &mut Vec<Chunk>) {
        if chunks.is_empty() {
            return;
        }
        let limit = self.limit.load(Ordering::Relaxed);
        let mut inner = lock(&self.inner);
        inner.bytes += chunks.iter().map(|c| c.data.len() as u64).sum::<u64>();
        inner.chunks.extend(chunks.drain(..));
        while inner.bytes > limit {
            let Some(old) = inner.chunks.pop_front() else {
                break;
            };
            inner.first += 1;
            inner.bytes -= old.data.len() as u64;
        }
        drop(inner);
        self.wake.notify_waiters();
    }

    /// Says that nothing more will come, until it is reopened for a restarted container.
    pub(crate) fn close(&self) {
        lock(&self.inner).closed = true;
        self.wake.notify_waiters();
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
    next: Option<u64>,
    new_line: bool,
    left: Option<u64>,
    stamper: Stamper,
}

impl LogReader {
    /// A reader at the start of a log.
    pub(crate) fn new(options: LogOptions) -> Self {
        LogReader { left: options.limit, options, next: None, new_line: true, stamper: Stamper::default() }
    }

    /// Appends up to about `max` bytes to `out`.
    pub(crate) fn read(&mut self, log: &LogBuffer, out: &mut BytesMut, max: usize) -> Progress {
        let inner = lock(&log.inner);
        let end = inner.first + inner.chunks.len() as u64;
        let tail = self.options.tail;
        let start = self.next.unwrap_or_else(|| tail.map_or(0, |n| end.saturating_sub(n))).max(inner.first);
        let mut at = start;
        let mut done = false;
        for chunk in inner.chunks.range((start - inner.first) as usize..) {
            if out.len() >= max {
                self.next = Some(at);
                return Progress::More;
            }
            at += 1;
            if self.options.since.is_none_or(|s| chunk.stamp >= s) {
                let from = out.len();
                if self.options.timestamps && self.new_line {
                    self.stamper.push(chunk.stamp, out);
                }
                out.extend_from_slice(&chunk.data);
                if let Some(left) = &mut self.left {
                    let wrote = (out.len() - from) as u64;
                    done = wrote >= *left;
                    out.truncate(from + wrote.min(*left) as usize);
                    *left = left.saturating_sub(wrote);
                }
            }
            self.new_line = chunk.data.last() == Some(&b'\n');
            if done {
                break;
            }
        }
        self.next = Some(at);
        if done || inner.closed || !self.options.follow { Progress::End } else { Progress::CaughtUp }
    }

    /// Like [`LogReader::read`], but waits for something to come.
    pub(crate) async fn wait(&mut self, log: &LogBuffer, out: &mut BytesMut, max: usize) -> Progress {
        loop {
            let wake = log.wake.notified();
            tokio::pin!(wake);
            wake.as_mut().enable();
            let progress = self.read(log, out, max);
            if !out.is_empty() || progress == Progress::End {
                return progress;
            }
            wake.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(chunks: &[(i64, &str)]) -> LogBuffer {
        let log = LogBuffer::new(1 << 20);
        let mut list = chunks
            .iter()
            .map(|(s, t)| Chunk { stamp: s * 1_000_000_000, data: Bytes::copy_from_slice(t.as_bytes()) })
            .collect();
        log.push(&mut list);
        log.close();
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
    fn rotation_drops_the_oldest() {
        let log = LogBuffer::new(4);
        let mut list = ["a\n", "b\n", "c\n"].map(|t| Chunk { stamp: 0, data: t.into() }).to_vec();
        log.push(&mut list);
        log.close();
        assert_eq!(read(&log, LogOptions::default()), "b\nc\n");
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
        let log = std::sync::Arc::new(LogBuffer::new(1 << 20));
        let writer = log.clone();
        tokio::spawn(async move {
            for _ in 0..3 {
                tokio::task::yield_now().await;
                writer.push(&mut vec![Chunk { stamp: 0, data: "x\n".into() }]);
            }
            writer.close();
        });
        let mut reader = LogReader::new(LogOptions { follow: true, ..LogOptions::default() });
        let mut all = BytesMut::new();
        let mut out = BytesMut::new();
        while reader.wait(&log, &mut out, 1 << 16).await != Progress::End {
            all.extend_from_slice(&out.split());
        }
        all.extend_from_slice(&out);
        assert_eq!(&all[..], b"x\nx\nx\n");
    }
}
