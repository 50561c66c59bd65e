//! The log bodies of a fake cluster.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{State, connection_lost, stamp};
use crate::cluster::ApiError;

/// What a log body does instead of continuing to its end.
#[derive(Debug, Clone)]
pub(crate) enum LogFault {
    /// It ends after this number of bytes, be it in the middle of a line.
    Cut(usize),
    /// It ends cleanly after this number of bytes, as if that were all, also when the container has ended.
    Short(usize),
    /// After this number of bytes nothing more comes, not even its end.
    HalfOpen(usize),
    /// This text comes instead of the log.
    Text(&'static str),
    /// Each line takes this time.
    Slow(Duration),
    /// The first line takes this time.
    Late(Duration),
    /// Before the line of the first number the body goes back to that of the second, as a kubelet does at a rotation.
    SentAgain(usize, usize),
}

/// Every log body ends early.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CutEvery {
    /// After this number of lines.
    Lines(usize),
    /// After this number of lines that no earlier body had.
    NewLines(usize),
}

/// An open log body, counted as open until it is dropped.
pub(super) struct OpenLog {
    pub(super) origin: Instant,
    pub(super) started: Instant,
    /// When a body that follows the container's log ends.
    pub(super) ends: Instant,
    pub(super) follow: bool,
    pub(super) lines: Arc<[(Duration, String)]>,
    /// Index of the next line.
    pub(super) at: usize,
    /// Index of the line before which this body ends.
    pub(super) end: usize,
    /// Whether there are lines after `end`.
    pub(super) cut: bool,
    pub(super) delivered_lines: Arc<AtomicUsize>,
    /// How many bytes may still come before the fault.
    pub(super) bytes_left: Option<usize>,
    pub(super) fault: Option<LogFault>,
    pub(super) breaks_at: Option<Instant>,
    pub(super) state: Arc<Mutex<State>>,
}

impl OpenLog {
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, ApiError>> {
        match self.breaks_at {
            Some(at) => tokio::select! {
                biased;
                () = tokio::time::sleep_until(at) => {
                    (self.end, self.cut, self.follow, self.breaks_at) = (self.at, false, false, None);
                    Some(Err(connection_lost("read log")))
                }
                chunk = self.chunk() => chunk,
            },
            None => self.chunk().await,
        }
    }

    /// Ends the body early: cleanly while the container runs, with an error once it has ended, when a real kubelet
    /// has no reason left for a clean end before the log's.
    fn cut_off(&mut self) -> Option<Result<Bytes, ApiError>> {
        (self.bytes_left, self.end, self.cut, self.follow) = (None, self.at, false, false);
        let all = matches!(self.fault, Some(LogFault::Short(_)));
        (Instant::now() >= self.ends && !all).then(|| Err(connection_lost("read log")))
    }

    async fn chunk(&mut self) -> Option<Result<Bytes, ApiError>> {
        if let Some(LogFault::Text(text)) = self.fault {
            (self.fault, self.end, self.cut, self.follow) = (None, self.at, false, false);
            return Some(Ok(Bytes::from_static(text.as_bytes())));
        }
        if self.bytes_left == Some(0) {
            if matches!(self.fault, Some(LogFault::HalfOpen(_))) {
                return std::future::pending().await;
            }
            return self.cut_off();
        }
        if self.at >= self.end {
            if self.cut {
                return self.cut_off();
            }
            if self.follow {
                tokio::time::sleep_until(self.ends).await;
            }
            return None;
        }
        if let Some(LogFault::SentAgain(before, from)) = self.fault
            && self.at == before
        {
            (self.fault, self.at) = (None, from);
        }
        if let Some(LogFault::Slow(pause) | LogFault::Late(pause)) = self.fault {
            tokio::time::sleep(pause).await;
        }
        if matches!(self.fault, Some(LogFault::Late(_))) {
            self.fault = None;
        }
        let (offset, text) = &self.lines[self.at];
        let at = self.started + *offset;
        tokio::time::sleep_until(at).await;
        let mut bytes = Bytes::from(format!("{} {text}\n", stamp(self.origin, at)));
        self.at += 1;
        self.delivered_lines.fetch_max(self.at, Ordering::Relaxed);
        if let Some(left) = &mut self.bytes_left {
            bytes.truncate(*left);
            *left -= bytes.len();
        }
        Some(Ok(bytes))
    }
}

impl Drop for OpenLog {
    fn drop(&mut self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).logs_open -= 1;
    }
}
