//! The listener, its connections, and how they can be broken.

use crate::Sim;
use crate::util::lock;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

/// One connection.
pub(crate) struct Connection {
    reset: AtomicBool,
    kill: Notify,
    /// How often what was to be written was flushed.
    flushes: watch::Sender<u64>,
    /// That number when the last piece of the answer's body was taken; the largest one while it was not.
    taken_at: AtomicU64,
}

impl Connection {
    fn new() -> Self {
        Connection {
            reset: AtomicBool::new(false),
            kill: Notify::new(),
            flushes: watch::channel(0).0,
            taken_at: AtomicU64::new(u64::MAX),
        }
    }

    /// The body of the answer has something that was not taken yet.
    pub(crate) fn note_sent(&self) {
        self.taken_at.store(u64::MAX, Ordering::SeqCst);
    }

    /// What the body had was taken, and is written before the next flush.
    pub(crate) fn note_taken(&self) {
        self.taken_at.store(*self.flushes.borrow(), Ordering::SeqCst);
    }

    /// Waits until the socket has all that was sent.
    pub(crate) async fn flushed(&self) {
        let mut flushes = self.flushes.subscribe();
        let _ = flushes.wait_for(|n| *n > self.taken_at.load(Ordering::SeqCst)).await;
    }

    /// Ends the connection with a TCP reset.
    pub(crate) fn reset(&self) {
        self.reset.store(true, Ordering::SeqCst);
        self.kill.notify_one();
    }
}

/// What is open.
#[derive(Default)]
pub(crate) struct Connections {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    streams: Mutex<HashMap<u64, Value>>,
    accepted: AtomicU64,
    most: Mutex<Most>,
}

/// The most there was at once.
#[derive(Default)]
struct Most {
    connections: usize,
    watches: usize,
    logs: usize,
}

/// Keeps a stream listed until dropped.
pub(crate) struct StreamGuard {
    id: u64,
    sim: Arc<Sim>,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        lock(&self.sim.conns.streams).remove(&self.id);
    }
}

impl Connections {
    fn add(&self) -> (u64, Arc<Connection>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let c = Arc::new(Connection::new());
        let open = {
            let mut open = lock(&self.open);
            open.insert(id, c.clone());
            open.len()
        };
        let mut most = lock(&self.most);
        most.connections = most.connections.max(open);
        (id, c)
    }

    /// Lists a watch or log stream while it is open.
    pub(crate) fn stream(sim: &Arc<Sim>, about: Value) -> StreamGuard {
        let id = sim.conns.next.fetch_add(1, Ordering::Relaxed);
        let is_log = about["type"] == "log";
        let open = {
            let mut streams = lock(&sim.conns.streams);
            streams.insert(id, about);
            streams.values().filter(|s| (s["type"] == "log") == is_log).count()
        };
        {
            let mut most = lock(&sim.conns.most);
            let slot = if is_log { &mut most.logs } else { &mut most.watches };
            *slot = open.max(*slot);
        }
        StreamGuard { id, sim: sim.clone() }
    }

    /// Resets every connection.
    pub(crate) fn reset_all(&self) {
        for c in lock(&self.open).values() {
            c.reset();
        }
    }

    /// As the control API shows them.
    pub(crate) fn to_json(&self) -> Value {
        let streams = lock(&self.streams);
        let of =
            |kind: &str| -> Vec<Value> { streams.values().filter(|s| s["type"] == kind).cloned().collect() };
        let most = lock(&self.most);
        json!({
            "most": {"connections": most.connections, "watches": most.watches, "logStreams": most.logs},
            "connections": lock(&self.open).len(),
            "accepted": self.accepted.load(Ordering::Relaxed),
            "watches": of("watch"),
            "logStreams": of("log"),
        })
    }
}

struct Stream {
    tcp: TcpStream,
    connection: Arc<Connection>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.connection.reset.load(Ordering::SeqCst) {
            let _ = socket2::SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.tcp).poll_flush(cx);
        if flushed.is_ready() {
            self.connection.flushes.send_modify(|n| *n += 1);
        }
        flushed
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// Opens the listener.
pub(crate) async fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await
}

/// Serves until the cluster stops; a restart closes everything and comes back on the same port.
pub(crate) async fn serve(sim: Arc<Sim>, listener: TcpListener, tls: TlsAcceptor, port: u16) {
    let mut stopping = sim.stopping.subscribe();
    let mut restart = sim.restart.subscribe();
    let mut listener = Some(listener);
    loop {
        let Some(open) = &listener else { return };
        tokio::select! {
            accepted = open.accept() => match accepted {
                Ok((tcp, _)) => {
                    tokio::spawn(connection(sim.clone(), tcp, tls.clone()));
                }
                // Out of file descriptors: wait for some to be closed.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            _ = restart.changed() => {
                let down = Duration::from_millis(*restart.borrow_and_update());
                drop(listener.take());
                sim.conns.reset_all();
                tokio::select! {
                    () = tokio::time::sleep(down) => {}
                    _ = stopping.changed() => return,
                }
                // A real one starts with a list and knows no older events.
                sim.store.compact();
                listener = reopen(port).await;
            }
            _ = stopping.changed() => {
                sim.conns.reset_all();
                return;
            }
        }
    }
}

async fn reopen(port: u16) -> Option<TcpListener> {
    for _ in 0..500 {
        if let Ok(l) = bind(port).await {
            return Some(l);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eprintln!("embedded-cluster: port {port} was taken while the API server was down");
    None
}

async fn connection(sim: Arc<Sim>, tcp: TcpStream, tls: TlsAcceptor) {
    let _ = tcp.set_nodelay(true);
    let (id, connection) = sim.conns.add();
    let stream = Stream { tcp, connection: connection.clone() };
    let work = async {
        let Ok(tls) = tls.accept(stream).await else {
            return;
        };
        let service = service_fn(|request| {
            let (sim, connection) = (sim.clone(), connection.clone());
            async move { Ok::<_, std::convert::Infallible>(crate::http::answer(&sim, &connection, request).await) }
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
    };
    tokio::select! {
        () = work => {}
        () = connection.kill.notified() => {}
    }
    lock(&sim.conns.open).remove(&id);
}
