//! Delivers a run's log lines to the host's `onLog`, in order and with back-pressure.
//!
//! A chunk is delivered at once, and a run has only a few slots for chunks that the host has not taken yet. So when the
//! host is slow, the log's socket is not read, and the kubelet holds the output back. A chunk that the host rejects
//! does not end the run; the first rejection is logged. When the host has taken a chunk, only a task that waits for a
//! slot is woken.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::outcome::{LogLine, Outcome, StdStream};
use crate::run::{Host, HostError};

/// A chunk for the host ends at this size, unless one line alone is longer. The host keeps the last 8 KiB of a chunk
/// live.
pub(super) const CHUNK_BYTES: usize = 8 * 1024;

/// How many chunks of a run may be with the host or wait for it.
const SLOTS: u32 = 16;

/// Pool of chunk buffers, last in first out: the most recently used buffer is still cached and mapped.
static POOL: Mutex<Vec<String>> = Mutex::new(Vec::new());
const POOL_LIMIT: usize = 64;

/// An empty chunk buffer, from the pool if it has one.
pub(super) fn chunk_buffer() -> String {
    let pooled = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
    pooled.unwrap_or_else(|| String::with_capacity(CHUNK_BYTES))
}

/// Puts the buffers of delivered chunks back into the pool.
pub(crate) fn recycle(texts: impl IntoIterator<Item = String>) {
    let chunks = texts.into_iter().filter(|text| text.capacity() == CHUNK_BYTES);
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    for mut text in chunks.take(POOL_LIMIT - pool.len()) {
        text.clear();
        pool.push(text);
    }
}

/// The writing end of a run's log; cheap to clone.
#[derive(Clone)]
pub(crate) struct LogSink {
    shared: Arc<Shared>,
    /// Dropped with the last clone, which ends [`LogDrain::drained`].
    _open: mpsc::Sender<Infallible>,
}

struct Shared {
    host: Box<dyn Fn(StdStream, String, Delivery) + Send + Sync>,
    slots: Arc<Semaphore>,
    rejection_logged: AtomicBool,
}

/// A chunk that the host has been given. Dropped once the host's promise has settled, or never will.
#[must_use]
pub(crate) struct Delivery {
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Delivery")
    }
}

impl Delivery {
    /// Reports that the host's promise has rejected; the first rejection of a run is logged.
    pub(crate) fn rejected(self, error: &HostError) {
        if !self.shared.rejection_logged.swap(true, Ordering::Relaxed) {
            let line =
                format!("[paperclip] Warning: onLog failed: {error} — the run goes on, this is said once\n");
            Slot(self).deliver_to(StdStream::Stderr, line);
        }
    }
}

/// A free slot, held for one chunk.
pub(crate) struct Slot(Delivery);

impl Slot {
    /// Delivers whole lines of the agent, as they are.
    pub(super) fn deliver(self, text: String) {
        self.deliver_to(StdStream::Stdout, text);
    }

    fn deliver_to(self, stream: StdStream, text: String) {
        let shared = self.0.shared.clone();
        (shared.host)(stream, text, self.0);
    }
}

/// Waits for the end of a run's log.
pub(crate) struct LogDrain {
    open: mpsc::Receiver<Infallible>,
    slots: Arc<Semaphore>,
}

impl LogDrain {
    /// Resolves when every clone of the sink is dropped and the host has taken every chunk. Nothing reaches the host
    /// after that.
    pub(crate) async fn drained(mut self) {
        while self.open.recv().await.is_some() {}
        let _ = self.slots.acquire_many(SLOTS).await;
    }
}

impl LogSink {
    /// A sink that delivers to this host, and its drain.
    pub(crate) fn open<H: Host>(host: Arc<H>) -> (Self, LogDrain) {
        let (sender, open) = mpsc::channel(1);
        let slots = Arc::new(Semaphore::new(SLOTS as usize));
        let shared = Shared {
            host: Box::new(move |stream, text, delivery| host.log(stream, text, delivery)),
            slots: slots.clone(),
            rejection_logged: AtomicBool::new(false),
        };
        (Self { shared: Arc::new(shared), _open: sender }, LogDrain { open, slots })
    }

    /// Waits for a free slot and holds it.
    pub(super) async fn slot(&self) -> Slot {
        let permit = self.shared.slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        self.slot_of(permit)
    }

    fn slot_of(&self, permit: OwnedSemaphorePermit) -> Slot {
        Slot(Delivery { shared: self.shared.clone(), _slot: permit })
    }

    /// Logs the lines that belong to an outcome, and returns the outcome.
    pub(crate) async fn log_outcome(&self, mut outcome: Outcome) -> Outcome {
        for LogLine { stream, text } in std::mem::take(&mut outcome.logs) {
            self.line(stream, text).await;
        }
        outcome
    }

    /// Logs one line of progress.
    pub(crate) async fn out(&self, line: impl Into<String>) {
        self.line(StdStream::Stdout, line.into()).await;
    }

    /// Logs one warning or error.
    pub(crate) async fn err(&self, line: impl Into<String>) {
        self.line(StdStream::Stderr, line.into()).await;
    }

    /// Logs one line of progress unless all slots are taken: a keep-alive is of no use late.
    pub(crate) fn out_if_idle(&self, mut line: String) {
        line.push('\n');
        if let Ok(permit) = self.shared.slots.clone().try_acquire_owned() {
            self.slot_of(permit).deliver(line);
        }
    }

    async fn line(&self, stream: StdStream, mut line: String) {
        line.push('\n');
        self.text(stream, line).await;
    }

    /// Logs text that already consists of whole lines.
    pub(crate) async fn text(&self, stream: StdStream, text: String) {
        self.slot().await.deliver_to(stream, text);
    }
}
