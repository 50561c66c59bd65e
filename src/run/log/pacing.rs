//! When a followed log is read.
//!
//! A log that trickles is read at common ticks instead of at every packet: one wake-up of the process serves many logs,
//! and the more logs are followed, the more ticks each of them waits.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::{LogBody, ReadResult};
use crate::run::job_view::ContainerState;
use crate::run::timing::{self, Grid};

/// How many logs all runs of the process follow together; it decides when those that trickle are read.
#[derive(Clone)]
pub(crate) struct ReaderCount {
    open: Arc<AtomicU32>,
    /// Reads are due at multiples of [`timing::READ_TICK`], so that many are made at one go.
    grid: Grid,
}

impl ReaderCount {
    pub(crate) fn new(grid: Grid) -> Self {
        Self { open: Arc::default(), grid }
    }

    /// When a log that was read at `last_read` is read again: at a tick that is not over.
    fn next_read(&self, last_read: Instant) -> Instant {
        let ticks = self.open.load(Ordering::Relaxed).div_ceil(timing::LOGS_PER_TICK);
        let pause = timing::READ_TICK * ticks.clamp(1, timing::MAX_TICKS);
        self.grid.next((last_read + pause).max(Instant::now()), timing::READ_TICK)
    }
}

/// Why a reader stopped waiting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// It is time to read again.
    Read,
    /// Nothing came for the limit that was given, or of a container that has ended for
    /// [`timing::LOG_NOTHING_NEW_LIMIT`].
    Idle,
}

/// Reads a log body at a pace.
///
/// Reading from a connection costs more than one line is worth. So after a read that found something the reader pauses
/// until the next tick, and it waits for the next byte only after a read that found nothing, or much.
pub(super) struct PacedReader {
    body: LogBody,
    container: watch::Receiver<ContainerState>,
    readers: ReaderCount,
    /// The last time the log was due to be read.
    last_read: Instant,
    /// How many bytes came since the last wait.
    bytes: usize,
}

impl PacedReader {
    pub(super) fn new(
        body: LogBody,
        container: watch::Receiver<ContainerState>,
        readers: ReaderCount,
    ) -> Self {
        readers.open.fetch_add(1, Ordering::Relaxed);
        Self { body, container, readers, last_read: Instant::now(), bytes: 0 }
    }

    /// Reads what has arrived.
    pub(super) fn try_read(&mut self, mut take: impl FnMut(&[u8])) -> ReadResult {
        self.body.try_read(&mut |bytes| {
            self.bytes += bytes.len();
            take(bytes);
        })
    }

    /// Waits until it is worth reading again, or the log of a container that runs was silent for `idle_limit`.
    pub(super) async fn wait(&mut self, idle_limit: Duration) -> Wake {
        let trickles = (1..timing::BUSY_LOG_BYTES).contains(&std::mem::take(&mut self.bytes));
        let over = self.container.borrow_and_update().is_over();
        if trickles {
            self.body.pause();
            // The run waits for the rest of a container that has ended.
            let next = if over {
                Instant::now() + timing::READ_TICK
            } else {
                self.readers.next_read(self.last_read)
            };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                _ = self.container.changed(), if !over => {}
            }
            // Not the time now, which is a moment later: the next tick would be missed.
            self.last_read = next;
            return Wake::Read;
        }
        let limit = if over { timing::LOG_NOTHING_NEW_LIMIT } else { idle_limit };
        let wake = tokio::select! {
            () = poll_fn(|context| self.body.poll_ready(context)) => Wake::Read,
            // From now on the limit is another one.
            _ = self.container.changed(), if !over => Wake::Read,
            () = tokio::time::sleep(limit) => Wake::Idle,
        };
        self.last_read = Instant::now();
        wake
    }
}

impl Drop for PacedReader {
    fn drop(&mut self) {
        self.readers.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::cluster::log_from_stream;

    /// How often a body of 200 lines, one every 2 ms, is read.
    async fn reads_of_a_trickle(container: ContainerState) -> u32 {
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        tokio::spawn(async move {
            for _ in 0..200 {
                tokio::time::sleep(Duration::from_millis(2)).await;
                let _ = sender.unbounded_send(Ok(Bytes::from_static(b"line\n")));
            }
        });
        let (_container, container) = watch::channel(container);
        let mut reader =
            PacedReader::new(log_from_stream(receiver), container, ReaderCount::new(Grid::new()));
        let (mut reads, mut bytes) = (0, 0);
        loop {
            match reader.try_read(|read| bytes += read.len()) {
                ReadResult::End => break,
                ReadResult::Broken(error) => panic!("{error}"),
                ReadResult::Data { all: false } => {}
                ReadResult::Data { all: true } | ReadResult::Pending => {
                    reads += 1;
                    reader.wait(timing::LOG_IDLE_LIMIT).await;
                }
            }
        }
        assert_eq!(bytes, 200 * 5);
        reads
    }

    #[tokio::test(start_paused = true)]
    async fn trickle_is_read_in_ticks_before_and_after_the_end() {
        for container in [ContainerState::Running, ContainerState::Ended(None), ContainerState::Gone] {
            let reads = reads_of_a_trickle(container.clone()).await;
            assert!(reads < 60, "{container:?}: {reads}");
        }
    }
}
