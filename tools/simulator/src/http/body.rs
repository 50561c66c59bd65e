//! Answer bodies: a block of bytes, or a stream that may misbehave.

use crate::faults::{StreamEnd, StreamFault};
use crate::server::Connection;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// An answer's body.
pub(crate) enum Body {
    /// All of it.
    Full(Option<Bytes>),
    /// Piece by piece, on this connection.
    Stream(mpsc::Receiver<Bytes>, Arc<Connection>),
}

impl Body {
    /// A body of known length.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        Body::Full(Some(bytes.into()))
    }

    /// A stream and where to write it.
    pub(crate) fn stream(connection: Arc<Connection>, fault: Option<StreamFault>) -> (Self, Sender) {
        let (send, receive) = mpsc::channel(4);
        connection.note_taken();
        let sender = Sender { to: send, connection: connection.clone(), fault, lines: 0, bytes: 0 };
        (Body::Stream(receive, connection), sender)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream(from, connection) => {
                let next = from.poll_recv(cx);
                if next.is_ready() {
                    connection.note_taken();
                }
                next.map(|b| b.map(|b| Ok(Frame::data(b))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Stream(..) => SizeHint::default(),
        }
    }
}

/// The stream has ended, or its reader is gone.
pub(crate) struct Closed;

/// The writing end of a stream.
pub(crate) struct Sender {
    to: mpsc::Sender<Bytes>,
    connection: Arc<Connection>,
    fault: Option<StreamFault>,
    lines: u64,
    bytes: u64,
}

impl Sender {
    /// Resolves when the reader is gone.
    pub(crate) async fn closed(&self) {
        self.to.closed().await;
    }

    /// Sends bytes; a fault may cut them short and end the stream.
    pub(crate) async fn send(&mut self, bytes: Bytes) -> Result<(), Closed> {
        let Some(fault) = self.fault else {
            return self.to.send(bytes).await.map_err(|_| Closed);
        };
        let keep = self.within(&fault, &bytes);
        self.bytes += keep as u64;
        self.lines += memchr::memchr_iter(b'\n', &bytes[..keep]).count() as u64;
        if keep > 0 {
            let part = bytes.slice(..keep);
            self.connection.note_sent();
            self.to.send(part).await.map_err(|_| Closed)?;
        }
        let full = fault.after_lines.is_some_and(|n| self.lines >= n)
            || fault.after_bytes.is_some_and(|n| self.bytes >= n);
        if !full {
            return Ok(());
        }
        self.misbehave(fault.end).await;
        Err(Closed)
    }

    /// Lets a fault strike that waits for no data.
    pub(crate) async fn begin(&mut self) -> Result<(), Closed> {
        match self.fault {
            Some(StreamFault { after_lines: None | Some(0), after_bytes: None | Some(0), end }) => {
                self.misbehave(end).await;
                Err(Closed)
            }
            _ => Ok(()),
        }
    }

    fn within(&self, fault: &StreamFault, bytes: &[u8]) -> usize {
        let mut keep = bytes.len();
        if let Some(n) = fault.after_bytes {
            keep = keep.min(usize::try_from(n.saturating_sub(self.bytes)).unwrap_or(keep));
        }
        if let Some(n) = fault.after_lines {
            let left = usize::try_from(n.saturating_sub(self.lines)).unwrap_or(usize::MAX);
            if left == 0 {
                return 0;
            }
            if let Some(at) = memchr::memchr_iter(b'\n', bytes).nth(left - 1) {
                keep = keep.min(at + 1);
            }
        }
        keep
    }

    async fn misbehave(&self, end: StreamEnd) {
        match end {
            StreamEnd::Clean => {}
            StreamEnd::Stall => self.to.closed().await,
            StreamEnd::Reset => {
                // A reset discards what was not written yet, and perhaps what the other side has not read.
                let sent = tokio::time::timeout(Duration::from_secs(5), self.connection.flushed());
                let _ = sent.await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.connection.reset();
                self.to.closed().await;
            }
        }
    }
}
