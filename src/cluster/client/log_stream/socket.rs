//! A TCP connection that the runtime watches only while its reader waits for it.
//!
//! A socket that is registered with the runtime's poll wakes its thread for every packet, also while the reader
//! pauses. So a reader that pauses takes its socket off the poll, reads it directly when the pause is over, and
//! registers it again only to wait.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection whose registration with the runtime its reader can end and renew through another handle, while
/// TLS and HTTP own this one.
#[derive(Debug, Clone)]
pub(crate) struct PacedSocket(Arc<Mutex<State>>);

#[derive(Debug)]
enum State {
    /// On the runtime's poll: a waiting task is woken when something arrives.
    Registered(TcpStream),
    /// Off the poll: nothing is woken, reads find what the kernel has. `drained` after a read that left room in its
    /// buffer: the kernel had no more, so the next read is answered without asking it.
    Detached { socket: std::net::TcpStream, drained: bool },
    /// It could not be moved between the two.
    Failed(io::Error),
}

impl PacedSocket {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(State::Registered(socket))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the socket off the poll: until [`PacedSocket::poll_readable`] its reader needs no wake-ups.
    pub(crate) fn detach(&self) {
        self.state().change(|state| match state {
            State::Registered(socket) => {
                socket.into_std().map(|socket| State::Detached { socket, drained: false })
            }
            other => Ok(other),
        });
    }

    /// Ready once a read may find something, an error included. Registers the socket.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        state.change(|state| match state {
            State::Detached { socket, .. } => TcpStream::from_std(socket).map(State::Registered),
            other => Ok(other),
        });
        match &*state {
            // The read that follows meets the same error.
            State::Registered(socket) => socket.poll_read_ready(context).map(drop),
            State::Detached { .. } | State::Failed(_) => Poll::Ready(()),
        }
    }
}

impl State {
    fn change(&mut self, change: impl FnOnce(Self) -> io::Result<Self>) {
        let now = std::mem::replace(self, State::Failed(ErrorKind::NotConnected.into()));
        *self = change(now).unwrap_or_else(State::Failed);
    }
}

fn repeated(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// The outcome of a call on a socket outside the poll; nothing wakes a task that gets `Pending`.
fn outcome<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Poll::Pending,
        result => Poll::Ready(result),
    }
}

impl AsyncRead for PacedSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self.state() {
            State::Registered(socket) => Pin::new(socket).poll_read(context, into),
            State::Detached { socket, drained } => {
                if std::mem::take(drained) {
                    return Poll::Pending;
                }
                let room = into.initialize_unfilled();
                let length = room.len();
                outcome(socket.read(room)).map_ok(|count| {
                    *drained = (1..length).contains(&count);
                    into.advance(count);
                })
            }
            State::Failed(error) => Poll::Ready(Err(repeated(error))),
        }
    }
}

impl AsyncWrite for PacedSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self.state() {
            State::Registered(socket) => Pin::new(socket).poll_write(context, bytes),
            State::Detached { socket, .. } => outcome(socket.write(bytes)),
            State::Failed(error) => Poll::Ready(Err(repeated(error))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.state() {
            State::Registered(socket) => Pin::new(socket).poll_shutdown(context),
            State::Detached { socket, .. } => Poll::Ready(socket.shutdown(std::net::Shutdown::Write)),
            State::Failed(error) => Poll::Ready(Err(repeated(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::{Shutdown, TcpListener};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use super::*;

    /// A connection of this process to itself: our end, and the other's.
    async fn pair() -> (PacedSocket, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let ours = TcpStream::connect(listener.local_addr().expect("its address")).await.expect("connects");
        let (theirs, _) = listener.accept().expect("a connection");
        (PacedSocket::new(ours), theirs)
    }

    /// One read that does not wait: its bytes, or `None` where there are none.
    fn read(socket: &mut PacedSocket, bytes: usize) -> Option<Vec<u8>> {
        let mut room = vec![0; bytes];
        let mut into = ReadBuf::new(&mut room);
        let poll = Pin::new(socket).poll_read(&mut Context::from_waker(Waker::noop()), &mut into);
        poll.is_ready().then(|| into.filled().to_vec())
    }

    async fn readable(socket: &PacedSocket) {
        let ready = poll_fn(|context| socket.poll_readable(context));
        tokio::time::timeout(Duration::from_secs(10), ready).await.expect("something arrives");
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn detached_socket_wakes_nothing_and_keeps_what_came() {
        let (mut ours, mut theirs) = pair().await;
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        for detached in [true, false] {
            let ready = ours.poll_readable(&mut Context::from_waker(&waker));
            assert!(ready.is_pending() || read(&mut ours, 100).is_none());
            assert!(ours.poll_readable(&mut Context::from_waker(&waker)).is_pending());
            if detached {
                ours.detach();
            }
            theirs.write_all(b"line\n").expect("room");
            for _ in 0..1_000 {
                if wakes.0.load(Ordering::Relaxed) > 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(if detached { 0 } else { 10 })).await;
            }
            assert_eq!(wakes.0.load(Ordering::Relaxed) == 0, detached);
            assert_eq!(read(&mut ours, 100).as_deref(), Some(&b"line\n"[..]));
        }
    }

    #[tokio::test]
    async fn waiting_after_a_pause_is_woken() {
        let (mut ours, mut theirs) = pair().await;
        for text in [&b"one"[..], b"two"] {
            ours.detach();
            assert_eq!(read(&mut ours, 100), None);
            let late = async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                theirs.write_all(text).expect("room");
            };
            tokio::join!(readable(&ours), late);
            assert_eq!(read(&mut ours, 100).as_deref(), Some(text));
        }
        // What came during the pause needs no further packet to be noticed.
        ours.detach();
        theirs.write_all(b"three").expect("room");
        readable(&ours).await;
        assert_eq!(read(&mut ours, 100).as_deref(), Some(&b"three"[..]));
    }

    #[tokio::test]
    async fn short_read_answers_the_next_without_the_kernel() {
        let (mut ours, mut theirs) = pair().await;
        ours.detach();
        theirs.write_all(b"12345").expect("room");
        assert_eq!(read(&mut ours, 3).as_deref(), Some(&b"123"[..]));
        assert_eq!(read(&mut ours, 3).as_deref(), Some(&b"45"[..]));
        theirs.write_all(b"6").expect("room");
        assert_eq!(read(&mut ours, 3), None, "the last read left room");
        assert_eq!(read(&mut ours, 3).as_deref(), Some(&b"6"[..]));
    }

    #[tokio::test]
    async fn end_of_a_connection_is_seen_detached_and_stays() {
        let (mut ours, theirs) = pair().await;
        theirs.shutdown(Shutdown::Write).expect("open until now");
        readable(&ours).await;
        ours.detach();
        for _ in 0..2 {
            assert_eq!(read(&mut ours, 100), Some(Vec::new()));
        }
    }
}
