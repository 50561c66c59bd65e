//! Reads a connection by whole TLS records, and holds memory only while something waits in it.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// This much is read from a socket at once: a whole TLS record. rustls by itself asks for 4 KiB at a time.
const READ_BYTES: usize = 16 * 1024;
/// Buffers that are not in use, for all connections: few are read at the same moment.
static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());
const POOL_LIMIT: usize = 16;

/// A buffered connection. Thousands of silent logs share a few buffers, because only one that has bytes left holds one.
pub(super) struct RecordReader<I> {
    io: I,
    /// What was read and not handed on yet.
    rest: Option<Rest>,
}

struct Rest {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
}

fn take_buffer() -> Box<[u8]> {
    let pooled = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
    pooled.unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if pool.len() < POOL_LIMIT {
        pool.push(buffer);
    }
}

impl<I> RecordReader<I> {
    pub(super) fn new(io: I) -> Self {
        Self { io, rest: None }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for RecordReader<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.rest.is_none() {
            if into.remaining() >= READ_BYTES {
                return Pin::new(&mut self.io).poll_read(context, into);
            }
            let mut buffer = take_buffer();
            let mut read = ReadBuf::new(&mut buffer);
            let outcome = Pin::new(&mut self.io).poll_read(context, &mut read);
            let to = read.filled().len();
            if !matches!(outcome, Poll::Ready(Ok(()))) || to == 0 {
                give_back(buffer);
                return outcome;
            }
            ready!(outcome)?;
            self.rest = Some(Rest { buffer, from: 0, to });
        }
        if let Some(mut rest) = self.rest.take() {
            let count = into.remaining().min(rest.to - rest.from);
            into.put_slice(&rest.buffer[rest.from..rest.from + count]);
            rest.from += count;
            if rest.from == rest.to {
                give_back(rest.buffer);
            } else {
                self.rest = Some(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for RecordReader<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn bytes_come_in_order_whatever_is_asked_for_at_once() {
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        for at_once in [1, 5, 4096, READ_BYTES - 1, READ_BYTES, 50_000] {
            let (ours, mut theirs) = tokio::io::duplex(20_000);
            let mut reader = RecordReader::new(ours);
            let send = async {
                theirs.write_all(&sent).await.expect("open");
                drop(theirs);
            };
            let receive = async {
                let (mut all, mut some) = (Vec::new(), vec![0; at_once]);
                loop {
                    let count = reader.read(&mut some).await.expect("no error");
                    if count == 0 {
                        return all;
                    }
                    all.extend_from_slice(&some[..count]);
                }
            };
            let ((), all) = tokio::join!(send, receive);
            assert!(all == sent, "{at_once}: {} bytes of {}", all.len(), sent.len());
            assert!(reader.rest.is_none());
        }
    }

    #[tokio::test]
    async fn silent_connection_holds_no_buffer() {
        let (ours, mut theirs) = tokio::io::duplex(1_000);
        let mut reader = RecordReader::new(ours);
        theirs.write_all(b"a line").await.expect("open");
        let mut some = [0; 4];
        assert_eq!(reader.read(&mut some).await.expect("no error"), 4);
        assert!(reader.rest.is_some(), "two bytes wait");
        assert_eq!(reader.read(&mut some).await.expect("no error"), 2);
        assert!(reader.rest.is_none());
        let mut into = ReadBuf::new(&mut some);
        let poll =
            Pin::new(&mut reader).poll_read(&mut Context::from_waker(std::task::Waker::noop()), &mut into);
        assert!(poll.is_pending() && reader.rest.is_none());
    }
}
