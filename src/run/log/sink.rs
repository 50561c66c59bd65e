//! Delivers a run's log lines to the host's `onLog`, in order and with back-pressure.
//!
//! A chunk is delivered at once, and a run has only a few slots for chunks that the host has not taken yet. So when the
//! host is slow, the log's socket is not read, and the kubelet holds the output back. A chunk that the host rejects
//! does not end the run; the first rejection is logged. When the host has taken a chunk, only a task that waits for a
//! slot is woken.
//!
//! A promise of the host may never settle. While the run goes on its output waits for that, as it waits for any slow host;
//! a line of this package does not wait longer than for any other answer of the host. Once the run is ending nothing of it
//! waits longer than [`LogSink::end_within`] says: what the host does not take is dropped.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};

use crate::outcome::{LogLine, Outcome, StdStream};
use crate::run::{Host, HostError, timing};

/// A chunk for the host ends at this size, unless one line alone is longer. The host keeps the last 8 KiB of a chunk
/// live.
pub(super) const CHUNK_BYTES: usize = 8 * 1024;

/// How many chunks of a run may be with the host or wait for it.
const SLOTS: u32 = 16;
/// A chunk takes a slot for each part of this size: one line of [`crate::stream::MOST_LINE`] takes them all.
const SLOT_BYTES: usize = 1024 * 1024;

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

/// The slots are inline: a silent run's memory is cold, and each further allocation that its keep-alive line touches costs.
struct Shared {
    host: Arc<dyn TakesLog>,
    slots: Semaphore,
    rejection_logged: AtomicBool,
    /// How long the host may take for a chunk once the run is ending.
    limit: watch::Sender<Option<Duration>>,
    /// How many promises of the host have settled.
    settled: AtomicU64,
    /// How many had when a chunk was dropped last: until there are more, further ones need not wait.
    settled_at_drop: AtomicU64,
}

/// [`Host::log`], of whatever host.
trait TakesLog: Send + Sync {
    fn take(&self, stream: StdStream, text: String, delivery: Delivery);
}

impl<H: Host> TakesLog for H {
    fn take(&self, stream: StdStream, text: String, delivery: Delivery) {
        self.log(stream, text, delivery);
    }
}

impl Shared {
    /// A free slot for this number of bytes; `None` once the host has taken nothing for the limit of a run that is ending, or
    /// for `limit`.
    async fn permit(&self, bytes: usize, limit: Option<Duration>) -> Option<SemaphorePermit<'_>> {
        let slots = u32::try_from(bytes.div_ceil(SLOT_BYTES)).unwrap_or(SLOTS).clamp(1, SLOTS);
        if let Ok(permit) = self.slots.try_acquire_many(slots) {
            return Some(permit);
        }
        tokio::select! {
            biased;
            permit = self.slots.acquire_many(slots) => permit.ok(),
            () = self.stalled(limit) => None,
        }
    }

    /// Resolves once the host has taken nothing for that long.
    async fn stalled(&self, limit: Option<Duration>) {
        let mut ending = self.limit.subscribe();
        loop {
            let limit = [*ending.borrow_and_update(), limit].into_iter().flatten().min();
            let settled = self.settled.load(Ordering::Relaxed);
            if limit.is_some() && self.settled_at_drop.load(Ordering::Relaxed) == settled {
                return;
            }
            let silence = async {
                match limit {
                    Some(limit) => tokio::time::sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = silence => if self.settled.load(Ordering::Relaxed) == settled {
                    self.settled_at_drop.store(settled, Ordering::Relaxed);
                    tracing::debug!(?limit, "the host takes no log");
                    return;
                },
                _ = ending.changed() => {}
            }
        }
    }
}

/// A chunk that the host has been given. Dropped once the host's promise has settled, or never will.
#[must_use]
pub(crate) struct Delivery {
    shared: Arc<Shared>,
    slots: usize,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Delivery")
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.shared.settled.fetch_add(1, Ordering::Relaxed);
        self.shared.slots.add_permits(self.slots);
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
        shared.host.take(stream, text, self.0);
    }
}

/// Waits for the end of a run's log.
pub(crate) struct LogDrain {
    open: mpsc::Receiver<Infallible>,
    shared: Arc<Shared>,
}

impl LogDrain {
    /// Resolves when every clone of the sink is dropped and the host has taken every chunk, or takes nothing any more.
    /// Nothing reaches the host after that.
    pub(crate) async fn drained(mut self) {
        while self.open.recv().await.is_some() {}
        let all = SLOTS as usize * SLOT_BYTES;
        drop(self.shared.permit(all, Some(timing::HOST_ANSWER_LIMIT)).await);
    }
}

impl LogSink {
    /// A sink that delivers to this host, and its drain.
    pub(crate) fn open<H: Host>(host: Arc<H>) -> (Self, LogDrain) {
        let (sender, open) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            host,
            slots: Semaphore::new(SLOTS as usize),
            rejection_logged: AtomicBool::new(false),
            limit: watch::Sender::new(None),
            settled: AtomicU64::new(0),
            settled_at_drop: AtomicU64::new(u64::MAX),
        });
        (Self { shared: shared.clone(), _open: sender }, LogDrain { open, shared })
    }

    /// From now on, because the run is ending, no chunk waits until the host has taken nothing for longer than this.
    pub(crate) fn end_within(&self, limit: Duration) {
        self.shared.limit.send_if_modified(|now| {
            let shorter = now.is_none_or(|now| limit < now);
            if shorter {
                *now = Some(limit);
            }
            shorter
        });
    }

    /// Waits for a free slot for a chunk of the agent and holds it; `None` once the run is ending and the host takes nothing.
    pub(super) async fn slot(&self, bytes: usize) -> Option<Slot> {
        self.shared.permit(bytes, None).await.map(|permit| self.slot_of(permit))
    }

    fn slot_of(&self, permit: SemaphorePermit<'_>) -> Slot {
        let slots = permit.num_permits();
        // A delivery that is dropped gives them back.
        permit.forget();
        Slot(Delivery { shared: self.shared.clone(), slots })
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
        if let Ok(permit) = self.shared.slots.try_acquire() {
            self.slot_of(permit).deliver(line);
        }
    }

    async fn line(&self, stream: StdStream, mut line: String) {
        line.push('\n');
        self.text(stream, line).await;
    }

    /// Logs text that already consists of whole lines; drops it where the host takes nothing.
    pub(crate) async fn text(&self, stream: StdStream, text: String) {
        let permit = self.shared.permit(text.len(), Some(timing::HOST_ANSWER_LIMIT)).await;
        if let Some(permit) = permit {
            self.slot_of(permit).deliver_to(stream, text);
        }
    }
}
