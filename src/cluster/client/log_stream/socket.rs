//! A connection that is looked at when its reader wants to, with or without TLS.
//!
//! A socket that the runtime watches wakes its thread for every packet, also while the reader rests. So a reader that
//! rests takes its socket off the runtime, looks at it when the rest is over, and gives it back only to wait.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::task::{Context, Poll};

use tokio::net::TcpStream;

use super::tls::{Side, Tls};

/// So much is taken from a socket at once.
pub(in crate::cluster::client) const READ_BYTES: usize = 64 * 1024;
/// So long is what TLS may have begun: a record has 16 KiB, a message in many records no more than 64.
const BEGUN_BYTES: usize = 80 * 1024;

thread_local! {
    /// What a look has taken from a socket, before it is handed on: one place for all connections, so that it is in
    /// the processor's cache.
    static TAKEN: RefCell<Box<[u8]>> = RefCell::new(vec![0; BEGUN_BYTES + READ_BYTES].into());
}

/// A connection's two directions. Reading and writing never wait: [`ErrorKind::WouldBlock`].
pub(in crate::cluster::client) trait Wire: Read + Write + Send {
    /// Ready once reading may give something, be it an error.
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<()>;
    /// Ready once writing may succeed, or gives an error.
    fn poll_writable(&mut self, context: &mut Context<'_>) -> Poll<()>;
    /// Until the next of those two calls nobody waits.
    fn pause(&mut self);
}

/// A TCP connection.
#[derive(Debug)]
pub(in crate::cluster::client) enum Socket {
    /// The runtime tells when something arrives.
    Watched(TcpStream),
    /// Nobody tells.
    Apart(std::net::TcpStream),
    /// It could not be moved between the two.
    Lost(io::Error),
}

impl Socket {
    fn change(&mut self, change: impl FnOnce(Self) -> io::Result<Self>) {
        let now = std::mem::replace(self, Socket::Lost(ErrorKind::NotConnected.into()));
        *self = change(now).unwrap_or_else(Socket::Lost);
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        poll: fn(&TcpStream, &mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<()> {
        if matches!(self, Socket::Apart(_)) {
            self.change(|socket| match socket {
                Socket::Apart(socket) => TcpStream::from_std(socket).map(Socket::Watched),
                other => Ok(other),
            });
        }
        match self {
            // An error shows again where the socket is used.
            Socket::Watched(socket) => poll(socket, context).map(drop),
            Socket::Apart(_) | Socket::Lost(_) => Poll::Ready(()),
        }
    }
}

fn lost(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Watched(socket) => socket.try_read(into),
            Socket::Apart(socket) => socket.read(into),
            Socket::Lost(error) => Err(lost(error)),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Watched(socket) => socket.try_write(bytes),
            Socket::Apart(socket) => socket.write(bytes),
            Socket::Lost(error) => Err(lost(error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for Socket {
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.poll(context, TcpStream::poll_read_ready)
    }

    fn poll_writable(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.poll(context, TcpStream::poll_write_ready)
    }

    fn pause(&mut self) {
        if matches!(self, Socket::Watched(_)) {
            self.change(|socket| match socket {
                Socket::Watched(socket) => socket.into_std().map(Socket::Apart),
                other => Ok(other),
            });
        }
    }
}

/// What a look at a connection gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster::client) enum Arrived {
    /// Nothing for now.
    Nothing,
    /// Something, and that was all there was.
    All,
    /// Something, and there may be more.
    Part,
    /// The other side has closed its direction, in order.
    Closed,
}

/// A connection of one request.
pub(in crate::cluster::client) struct Connection<W> {
    pub(in crate::cluster::client) wire: W,
    tls: Option<Box<Tls>>,
    closed: bool,
}

impl<W: Wire> Connection<W> {
    pub(in crate::cluster::client) fn plain(wire: W) -> Self {
        Self { wire, tls: None, closed: false }
    }

    /// A connection with TLS, once the two sides have shaken hands.
    ///
    /// # Errors
    /// The connection broke, or the other side is not who it must be: the source is TLS's error then.
    pub(in crate::cluster::client) async fn secured(wire: W, tls: Tls) -> io::Result<Self> {
        let mut connection = Self { wire, tls: Some(Box::new(tls)), closed: false };
        loop {
            connection.flush().await?;
            if connection.tls.as_ref().is_none_or(|tls| tls.is_open()) {
                return Ok(connection);
            }
            poll_fn(|context| connection.wire.poll_readable(context)).await;
            let mut early = false;
            if connection.try_read(|text| early |= !text.is_empty())? == Arrived::Closed || early {
                let what = if early { "spoke" } else { "closed the connection" };
                let message = format!("the other side {what} before the TLS handshake was over");
                return Err(io::Error::new(ErrorKind::InvalidData, message));
            }
        }
    }

    /// Sends all of it.
    pub(in crate::cluster::client) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.write(bytes)?;
            return self.flush().await;
        }
        while !bytes.is_empty() {
            match self.wire.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll_fn(|context| self.wire.poll_writable(context)).await;
                }
                written => bytes = &bytes[written?..],
            }
        }
        Ok(())
    }

    /// Sends what TLS has to say.
    async fn flush(&mut self) -> io::Result<()> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| !tls.unsent.is_empty()) {
            match send(&mut self.wire, tls) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll_fn(|context| self.wire.poll_writable(context)).await;
                }
                sent => sent?,
            }
        }
        Ok(())
    }

    /// Ready once a look may find something.
    pub(in crate::cluster::client) fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // TLS may say so while the connection below stays open.
        if self.closed { Poll::Ready(()) } else { self.wire.poll_readable(context) }
    }

    /// Takes what has arrived, at most [`READ_BYTES`] of the socket, and hands it on in pieces; never waits.
    ///
    /// # Errors
    /// The connection broke, or was closed without TLS saying so.
    pub(in crate::cluster::client) fn try_read(
        &mut self,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<Arrived> {
        if self.closed {
            return Ok(Arrived::Closed);
        }
        TAKEN.with_borrow_mut(|taken| {
            let begun = self.tls.as_ref().map_or(0, |tls| tls.begun().len());
            if begun > BEGUN_BYTES {
                return Err(io::Error::new(ErrorKind::InvalidData, "a TLS message is too long"));
            }
            let count = match self.wire.read(&mut taken[begun..][..READ_BYTES]) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Ok(Arrived::Nothing);
                }
                count => count?,
            };
            match &mut self.tls {
                None if count > 0 => take(&taken[..count]),
                None => self.closed = true,
                Some(_) if count == 0 => {
                    let message = "the connection was closed without TLS saying so";
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, message));
                }
                Some(tls) => {
                    taken[..begun].copy_from_slice(tls.begun());
                    let side = tls.read(&mut taken[..begun + count], take);
                    // An answer, as to new keys. Where there is no room, it goes with the next look.
                    if !tls.unsent.is_empty() {
                        let _ = send(&mut self.wire, tls);
                    }
                    self.closed = side? == Side::Closed;
                }
            }
            Ok(match count {
                0 => Arrived::Closed,
                _ if count < READ_BYTES && !self.closed => Arrived::All,
                _ => Arrived::Part,
            })
        })
    }
}

/// Sends of what TLS has to say as much as goes without waiting.
fn send(wire: &mut impl Wire, tls: &mut Tls) -> io::Result<()> {
    match wire.write(&tls.unsent)? {
        0 => Err(ErrorKind::WriteZero.into()),
        written => {
            tls.unsent.drain(..written);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::{Shutdown, TcpListener};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use super::*;

    /// A connection to this process itself: our end, and the other's.
    async fn pair() -> (Connection<Socket>, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let ours = TcpStream::connect(listener.local_addr().expect("its address")).await.expect("connects");
        let (theirs, _) = listener.accept().expect("a connection");
        (Connection::plain(Socket::Watched(ours)), theirs)
    }

    fn try_read(connection: &mut Connection<Socket>) -> (io::Result<Arrived>, Vec<u8>) {
        let mut bytes = Vec::new();
        let arrived = connection.try_read(|part| bytes.extend_from_slice(part));
        (arrived, bytes)
    }

    async fn readable(connection: &mut Connection<Socket>) {
        let ready = poll_fn(|context| connection.wire.poll_readable(context));
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
    async fn a_reader_that_rests_is_not_woken_and_finds_what_came_meanwhile() {
        let (mut ours, mut theirs) = pair().await;
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        for rests in [true, false] {
            let ready = ours.wire.poll_readable(&mut Context::from_waker(&waker));
            assert!(
                ready.is_pending() || try_read(&mut ours).0.is_ok_and(|arrived| arrived == Arrived::Nothing)
            );
            assert!(ours.wire.poll_readable(&mut Context::from_waker(&waker)).is_pending());
            if rests {
                ours.wire.pause();
            }
            theirs.write_all(b"line\n").expect("room");
            for _ in 0..1_000 {
                if wakes.0.load(Ordering::Relaxed) > 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(if rests { 0 } else { 10 })).await;
            }
            assert_eq!(wakes.0.load(Ordering::Relaxed) == 0, rests);
            let (arrived, bytes) = try_read(&mut ours);
            assert_eq!((arrived.expect("sound"), &bytes[..]), (Arrived::All, &b"line\n"[..]));
        }
    }

    #[tokio::test]
    async fn whoever_waits_after_a_rest_is_woken() {
        let (mut ours, mut theirs) = pair().await;
        for text in [&b"one"[..], b"two"] {
            ours.wire.pause();
            assert_eq!(try_read(&mut ours).0.expect("sound"), Arrived::Nothing);
            let late = async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                theirs.write_all(text).expect("room");
            };
            tokio::join!(readable(&mut ours), late);
            assert_eq!(try_read(&mut ours).1, text);
        }
        // What came during the rest needs no further packet to be told.
        ours.wire.pause();
        theirs.write_all(b"three").expect("room");
        readable(&mut ours).await;
        assert_eq!(try_read(&mut ours).1, b"three");
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_seen_at_rest_and_stays() {
        let (mut ours, theirs) = pair().await;
        theirs.shutdown(Shutdown::Write).expect("open until now");
        readable(&mut ours).await;
        ours.wire.pause();
        for _ in 0..2 {
            assert_eq!(try_read(&mut ours).0.expect("in order"), Arrived::Closed);
        }
    }

    #[tokio::test]
    async fn more_than_one_look_takes_is_said_to_be_there() {
        let (mut ours, mut theirs) = pair().await;
        let sent = std::thread::spawn(move || theirs.write_all(&vec![b'x'; 3 * READ_BYTES]));
        let mut total = 0;
        let mut parts = 0;
        while total < 3 * READ_BYTES {
            readable(&mut ours).await;
            let (arrived, bytes) = try_read(&mut ours);
            assert!(bytes.len() <= READ_BYTES);
            assert_eq!(arrived.expect("sound") == Arrived::Part, bytes.len() == READ_BYTES);
            parts += usize::from(bytes.len() == READ_BYTES);
            total += bytes.len();
        }
        sent.join().expect("no panic").expect("read to the end");
        assert!(parts <= 3);
    }
}
