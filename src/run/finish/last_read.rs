//! Reads what is left of the log once the end of the run is known.

use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::end::RunEnd;
use crate::cluster::{ApiError, Cluster};
use crate::forensics::JobState;
use crate::run::LogSink;
use crate::run::job_view::ContainerState;
use crate::run::log::follow::{Follower, LogEnd};
use crate::run::log::progress::{Activity, Progress};
use crate::run::timing;

/// How often a log is read again in vain: refused, or without the result that a container that exited with 0 must have
/// printed.
const MAX_FRUITLESS_READS: u32 = 3;

/// Lets the follower read to the end of the log, for as long as that is worth waiting for.
pub(super) async fn drain(
    end: &RunEnd,
    container: &watch::Sender<ContainerState>,
    progress: &Progress,
    mut following: Pin<&mut impl Future<Output = LogEnd>>,
) {
    let limit = match end {
        RunEnd::Job(_) | RunEnd::Container | RunEnd::Grace | RunEnd::Suspended => None,
        RunEnd::Gone(_) | RunEnd::Hung => Some(Instant::now() + timing::DRAIN_GONE_LIMIT),
        RunEnd::Told
        | RunEnd::Deadline
        | RunEnd::Lost(_)
        | RunEnd::Cancelled { .. }
        | RunEnd::Unreachable(_) => return,
    };
    if matches!(end, RunEnd::Job(_)) {
        // A final condition shows that the container has ended; the follower need not find that out again.
        container.send_if_modified(|state| {
            let was_running = !state.is_over();
            if was_running {
                *state = ContainerState::Ended(None);
            }
            was_running
        });
    }
    let started = Instant::now();
    let mut check = tokio::time::interval(timing::DRAIN_CHECK_INTERVAL);
    loop {
        tokio::select! {
            _ = &mut following => return,
            () = timing::until(limit) => return,
            _ = check.tick() => if is_stalled(progress, started) { return },
        }
    }
}

/// Whether nothing has come for so long that nothing more is expected.
fn is_stalled(progress: &Progress, since: Instant) -> bool {
    let patience = match progress.activity() {
        Activity::Reading => timing::DRAIN_STALL_LIMIT,
        Activity::CutOff => timing::RECHECK_LIMIT,
        Activity::Delivering => return false,
    };
    progress.last_output().max(since).elapsed() >= patience
}

/// Reads the log again where no result was found (`docs/contract.md`, "Waiting for the end", the one-shot read).
///
/// A followed body that ended before the container did looks like one that ended with it. So the log is read until
/// nothing new comes: first from where it was left, then from its beginning, because the node's clock may have been set
/// back.
pub(super) async fn read_the_rest<C: Cluster>(log: &LogSink, follower: &mut Follower<C>, end: &RunEnd) {
    if !follower.is_incomplete() {
        return;
    }
    let was_blank = follower.tally.so_far().nonempty_lines == 0;
    if was_blank {
        log.out("[paperclip] Log stream returned empty — reading pod logs directly...").await;
    }
    let lines_before = follower.tally.so_far().lines;
    LastRead::new(follower, end).run().await;
    if !was_blank && follower.tally.so_far().lines > lines_before {
        log.out("[paperclip] Log stream captured partial output — supplemental one-shot read returned more content.")
            .await;
    }
}

/// The state of the last reads of a log.
struct LastRead<'a, C> {
    follower: &'a mut Follower<C>,
    end: &'a RunEnd,
    deadline: Instant,
    /// The next pause before another read; it doubles.
    pause: Duration,
    /// How many reads in a row brought nothing.
    fruitless: u32,
    /// Whether the next read starts at the log's beginning.
    from_beginning: bool,
}

impl<'a, C: Cluster> LastRead<'a, C> {
    fn new(follower: &'a mut Follower<C>, end: &'a RunEnd) -> Self {
        let from_beginning = follower.tally.so_far().lines == 0;
        // The follower has given up on an answer that is no log: once more is enough.
        let fruitless = if follower.is_refused_by_text() { MAX_FRUITLESS_READS } else { 0 };
        let mut last = Self {
            follower,
            end,
            deadline: Instant::now() + timing::DRAIN_GONE_LIMIT,
            pause: timing::RECONNECT_FIRST,
            fruitless,
            from_beginning,
        };
        if last.exited_with_zero() {
            // It has printed a result: an API that is slow to answer does not make that a failure.
            last.deadline = Instant::now() + timing::RECHECK_LIMIT;
        }
        last
    }

    async fn run(mut self) {
        while Instant::now() < self.deadline {
            if self.read().await.is_break() || !self.follower.is_incomplete() {
                return;
            }
        }
    }

    /// Reads the log once.
    async fn read(&mut self) -> ControlFlow<()> {
        if self.from_beginning {
            self.follower.start_over();
        }
        let lines_before = self.follower.tally.so_far().lines;
        let progress = self.follower.progress.clone();
        // The log of a container that has ended is finite.
        let over = self.follower.container.borrow().is_over();
        let limit = (!over).then(|| Instant::now() + timing::RECHECK_LIMIT);
        let read = while_output_comes(self.follower.read_once(), &progress, self.deadline, limit).await;
        let is_new = self.follower.tally.so_far().lines > lines_before;
        if is_new && self.follower.container.borrow().is_over() {
            // The log of a container that has ended is finite, however little each read brings.
            self.deadline = Instant::now() + timing::DRAIN_GONE_LIMIT;
            self.pause = timing::RECONNECT_FIRST;
        }
        match read {
            None => {
                self.follower.note_unread_rest();
                ControlFlow::Break(())
            }
            Some(Ok(())) if is_new => {
                self.fruitless = 0;
                ControlFlow::Continue(())
            }
            Some(Ok(())) => self.on_nothing_new().await,
            Some(Err(error)) => self.on_failure(&error).await,
        }
    }

    async fn on_nothing_new(&mut self) -> ControlFlow<()> {
        self.fruitless += 1;
        // A container that exited with 0 has printed a result, so what was read is not all of its log.
        let is_missing = self.exited_with_zero() && self.follower.is_incomplete();
        let was_whole = std::mem::replace(&mut self.from_beginning, true);
        if (was_whole && !is_missing) || self.fruitless > MAX_FRUITLESS_READS {
            return ControlFlow::Break(());
        }
        if was_whole {
            self.pause().await;
        }
        ControlFlow::Continue(())
    }

    async fn on_failure(&mut self, error: &ApiError) -> ControlFlow<()> {
        if !error.is_not_found() {
            self.follower.unreadable.get_or_insert_with(|| error.clone());
        }
        // A 403 can be transient (authorizer caches), so a refusal is retried a few times.
        let is_refused = !error.is_transient() || self.follower.is_refused_by_text();
        self.fruitless += u32::from(is_refused);
        if error.is_not_found() || self.fruitless > MAX_FRUITLESS_READS {
            return ControlFlow::Break(());
        }
        self.pause().await;
        ControlFlow::Continue(())
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause *= 2;
    }

    fn exited_with_zero(&self) -> bool {
        match (&*self.follower.container.borrow(), self.end) {
            (ContainerState::Ended(Some(state)), _) => state.exit_code == Some(0),
            (_, RunEnd::Job(state)) => !matches!(state, JobState::Failed { .. }),
            _ => false,
        }
    }
}

/// Runs a read of a log that may be long: until the deadline, and after it for as long as it brings something, and
/// something new at least every [`timing::LOG_NOTHING_NEW_LIMIT`]. `limit` ends it in any case.
async fn while_output_comes<T>(
    read: impl Future<Output = T>,
    progress: &Progress,
    deadline: Instant,
    limit: Option<Instant>,
) -> Option<T> {
    let started = Instant::now();
    let mut read = pin!(read);
    let mut until = deadline;
    loop {
        tokio::select! {
            read = &mut read => return Some(read),
            () = tokio::time::sleep_until(until) => {}
            () = timing::until(limit) => return None,
        }
        let any = progress.last_output() + timing::DRAIN_GONE_LIMIT;
        let new = progress.last_new().max(started) + timing::LOG_NOTHING_NEW_LIMIT;
        until = any.min(new);
        if until <= Instant::now() {
            return None;
        }
    }
}

/// Reads the log once, and again where that fails.
pub(super) async fn read_with_retries<C: Cluster>(follower: &mut Follower<C>) {
    let mut pause = timing::RECONNECT_FIRST;
    let mut refused = 0;
    while let Err(error) = follower.read_once().await {
        refused += u32::from(!error.is_transient());
        if error.is_not_found() || refused > MAX_FRUITLESS_READS {
            return;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}
