//! A followed log: a response body on a dedicated connection, read in bursts.

mod record_reader;
pub(super) mod request;
mod socket;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Body as _;

pub(super) use self::socket::PacedSocket;
use crate::cluster::{ApiError, LogRead, ReadResult};

/// A read hands on about this many bytes; the next read gets the rest.
const READ_BYTES: usize = 64 * 1024;

/// A log on a dedicated connection.
pub(super) struct FollowedLog {
    body: UnsyncBoxBody<Bytes, ApiError>,
    /// What `body` is read from, below HTTP and TLS.
    socket: PacedSocket,
    /// How the body ended, until a read has reported it.
    end: Option<ReadResult>,
    /// The request, as errors and diagnostics name it.
    attempt: String,
    opened: Instant,
}

impl FollowedLog {
    pub(super) fn new(attempt: String, body: UnsyncBoxBody<Bytes, ApiError>, socket: PacedSocket) -> Self {
        tracing::debug!(request = attempt, "log connection opened");
        Self { body, socket, end: None, attempt, opened: Instant::now() }
    }
}

impl Drop for FollowedLog {
    fn drop(&mut self) {
        let ms = self.opened.elapsed().as_millis();
        // A log that its reader gives up has no end yet.
        tracing::debug!(request = self.attempt, ms, ended = self.end.is_some(), "log connection closed");
    }
}

impl LogRead for FollowedLog {
    /// Waits for the socket alone: a read that finds nothing leaves nothing in the layers above it.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.end.is_some() { Poll::Ready(()) } else { self.socket.poll_readable(context) }
    }

    fn try_read(&mut self, take: &mut dyn FnMut(&[u8])) -> ReadResult {
        let mut bytes = 0;
        while self.end.is_none() && bytes < READ_BYTES {
            // Nothing above the socket needs a waker: see `poll_ready`.
            match Pin::new(&mut self.body).poll_frame(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers say nothing about a log.
                    if let Ok(data) = frame.into_data() {
                        bytes += data.len();
                        take(&data);
                    }
                }
                Poll::Ready(Some(Err(error))) => self.end = Some(ReadResult::Broken(error)),
                Poll::Ready(None) => self.end = Some(ReadResult::End),
                Poll::Pending if bytes > 0 => return ReadResult::Data { all: true },
                Poll::Pending => return ReadResult::Pending,
            }
        }
        if bytes > 0 {
            return ReadResult::Data { all: false };
        }
        // An error is reported once.
        self.end.replace(ReadResult::End).unwrap_or(ReadResult::End)
    }

    fn pause(&mut self) {
        self.socket.detach();
    }
}
