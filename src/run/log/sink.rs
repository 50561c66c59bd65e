//! Between what happens in a run and the host's `onLog`.
//!
//! A chunk is handed over at once, and whoever has one waits for a place: there are few. So when the host is slow, the
//! log's socket is not read, and the kubelet holds the output back. A host that rejects a line ends nothing; it is
//! told once. Nobody is woken when the host has taken a chunk, unless somebody waits for its place.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::outcome::{LogLine, LogStream, Outcome};
use crate::run::{Host, HostError};

/// Which of the host's two streams a line belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// What the agent printed, and progress.
    Stdout,
    /// Warnings and errors of the adapter.
    Stderr,
}

impl Channel {
    /// The name `onLog` knows.
    pub fn as_str(self) -> &'static str {
        match self {
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
        }
    }
}

/// Rooms for chunks that the host has taken, the last used first: it is in the processor's cache still, and was not
/// given back to the system.
static SPARE: Mutex<Vec<String>> = Mutex::new(Vec::new());
const MOST_SPARE: usize = 64;

/// An empty text with room for a chunk.
pub(super) fn fresh() -> String {
    let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    spare.unwrap_or_else(|| String::with_capacity(CHUNK_BYTES))
}

/// Takes back the room of texts that were handed over.
pub fn recycle(texts: impl IntoIterator<Item = String>) {
    let usual = texts.into_iter().filter(|text| text.capacity() == CHUNK_BYTES);
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    for mut text in usual.take(MOST_SPARE - spare.len()) {
        text.clear();
        spare.push(text);
    }
}

/// A chunk for the host ends at this size, unless one line alone is longer. The host keeps the last 8 KiB of a chunk live.
pub(super) const CHUNK_BYTES: usize = 8 * 1024;

/// How many chunks may be with the host, or wait for it.
const PLACES: u32 = 16;

/// The writing end; cheap to clone.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    /// Tells [`Closing`] that somebody may still write.
    _open: mpsc::Sender<Infallible>,
}

struct Shared {
    host: Box<dyn Fn(Channel, String, Delivery) + Send + Sync>,
    places: Arc<Semaphore>,
    told_of_failure: AtomicBool,
}

/// A chunk on its way: dropped once the host's promise has settled, or will not.
#[must_use]
pub struct Delivery {
    shared: Arc<Shared>,
    _place: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Delivery")
    }
}

impl Delivery {
    /// The host's promise has rejected.
    pub fn rejected(self, error: &HostError) {
        if !self.shared.told_of_failure.swap(true, Ordering::Relaxed) {
            let line =
                format!("[paperclip] Warning: onLog failed: {error} — the run goes on, this is said once\n");
            Room(self).take_from(Channel::Stderr, line);
        }
    }
}

/// A place for a chunk.
pub(crate) struct Room(Delivery);

impl Room {
    /// Takes it with whole lines of the agent, as they are.
    pub(crate) fn take(self, text: String) {
        self.take_from(Channel::Stdout, text);
    }

    fn take_from(self, channel: Channel, text: String) {
        let shared = self.0.shared.clone();
        (shared.host)(channel, text, self.0);
    }
}

/// The end of a log.
pub(crate) struct Closing {
    open: mpsc::Receiver<Infallible>,
    places: Arc<Semaphore>,
}

impl Closing {
    /// Waits until every clone of the log is gone and the host has taken all there was; nothing reaches it after that.
    pub(crate) async fn closed(mut self) {
        while self.open.recv().await.is_some() {}
        let _ = self.places.acquire_many(PLACES).await;
    }
}

impl Log {
    /// A log of this host, and its end.
    pub(crate) fn open<H: Host>(host: Arc<H>) -> (Self, Closing) {
        let (sender, open) = mpsc::channel(1);
        let places = Arc::new(Semaphore::new(PLACES as usize));
        let shared = Shared {
            host: Box::new(move |channel, text, taken| host.log(channel, text, taken)),
            places: places.clone(),
            told_of_failure: AtomicBool::new(false),
        };
        (Self { shared: Arc::new(shared), _open: sender }, Closing { open, places })
    }

    /// Waits for a place and holds it.
    pub(crate) async fn room(&self) -> Room {
        // Nobody closes it.
        let place = self.shared.places.clone().acquire_owned().await.expect("an open semaphore");
        self.room_at(place)
    }

    fn room_at(&self, place: OwnedSemaphorePermit) -> Room {
        Room(Delivery { shared: self.shared.clone(), _place: place })
    }

    /// Tells the lines that belong to an outcome, and returns it.
    pub(crate) async fn told(&self, mut outcome: Outcome) -> Outcome {
        for LogLine { stream, text } in std::mem::take(&mut outcome.logs) {
            let channel = match stream {
                LogStream::Stdout => Channel::Stdout,
                LogStream::Stderr => Channel::Stderr,
            };
            self.line(channel, text).await;
        }
        outcome
    }

    /// One line of progress.
    pub(crate) async fn out(&self, line: impl Into<String>) {
        self.line(Channel::Stdout, line.into()).await;
    }

    /// One warning or error.
    pub(crate) async fn err(&self, line: impl Into<String>) {
        self.line(Channel::Stderr, line.into()).await;
    }

    /// One line of progress that is left out when the host is behind: a keep-alive is no use late.
    pub(crate) fn out_if_idle(&self, mut line: String) {
        line.push('\n');
        if let Ok(place) = self.shared.places.clone().try_acquire_owned() {
            self.room_at(place).take(line);
        }
    }

    async fn line(&self, channel: Channel, mut line: String) {
        line.push('\n');
        self.text(channel, line).await;
    }

    /// Whole lines that somebody else has made.
    pub(crate) async fn text(&self, channel: Channel, text: String) {
        self.room().await.take_from(channel, text);
    }
}
