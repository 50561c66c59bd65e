//! One queue per run between what happens and the host's `onLog`.
//!
//! The queue is short: when the host is slow, `send` waits, the log's socket is not read, and the kubelet holds
//! the output back. What waits is handed over at once, chunk by chunk. A host that rejects a line ends nothing; it is told once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::Host;
use crate::outcome::{LogLine, LogStream, Outcome};

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

/// How many chunks may wait for the host.
const QUEUE: usize = 16;

/// The writing end; cheap to clone.
#[derive(Clone)]
pub(crate) struct Log {
    queue: mpsc::Sender<(Channel, String)>,
}

/// A place in the queue.
pub(crate) struct Room<'a>(mpsc::Permit<'a, (Channel, String)>);

impl Room<'_> {
    /// Takes it with whole lines of the agent, as they are.
    pub(crate) fn take(self, text: String) {
        self.0.send((Channel::Stdout, text));
    }
}

impl Log {
    /// A log and the task that hands its chunks to the host, one after the other. The task ends when every
    /// clone of the log is gone; nothing reaches the host after that.
    pub(crate) fn open<H: Host>(host: Arc<H>) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, mut chunks) = mpsc::channel::<(Channel, String)>(QUEUE);
        let told = AtomicBool::new(false);
        let pump = async move {
            let mut batch = Vec::new();
            while chunks.recv_many(&mut batch, QUEUE).await > 0 {
                let Err(error) = host.log(std::mem::take(&mut batch)).await else { continue };
                if !told.swap(true, Ordering::Relaxed) {
                    let line = format!(
                        "[paperclip] Warning: onLog failed: {error} — the run goes on, this is said once\n"
                    );
                    let _ = host.log(vec![(Channel::Stderr, line)]).await;
                }
            }
        };
        (Self { queue }, pump)
    }

    /// Waits for a place in the queue and holds it; `None` when the host is gone and nobody listens any more.
    pub(crate) async fn room(&self) -> Option<Room<'_>> {
        self.queue.reserve().await.ok().map(Room)
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
        let _ = self.queue.try_send((Channel::Stdout, line));
    }

    async fn line(&self, channel: Channel, mut line: String) {
        line.push('\n');
        self.text(channel, line).await;
    }

    /// Whole lines that somebody else has made.
    pub(crate) async fn text(&self, channel: Channel, text: String) {
        let _ = self.queue.send((channel, text)).await;
    }
}
