//! What the follower of a log is doing, for those who wait for it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// What a follower is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    /// A body is open; more of it may come at any time.
    Reading,
    /// No body is open: the last one broke, or the API refuses a new one for now.
    CutOff,
    /// The follower waits for the host to take a chunk.
    Delivering,
}

/// When output last came, and what the follower is doing now.
pub(crate) struct Progress {
    since: Instant,
    /// Milliseconds after `since`.
    last_output: AtomicU64,
    /// The same of the last line that was not received before.
    last_new: AtomicU64,
    /// The same of the last event of the CLI.
    last_event: AtomicU64,
    activity: AtomicU8,
    /// Whether the CLI's last word is a result.
    result_is_last: AtomicBool,
    /// Notified when it becomes so.
    result_came: Notify,
    /// Milliseconds after `since`, when the log was read again after it could not be.
    resumed: AtomicU64,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let activity = AtomicU8::new(Activity::Reading as u8);
        Self {
            since: Instant::now(),
            last_output: AtomicU64::new(0),
            last_new: AtomicU64::new(0),
            last_event: AtomicU64::new(0),
            activity,
            result_is_last: AtomicBool::new(false),
            result_came: Notify::new(),
            resumed: AtomicU64::new(0),
        }
    }

    /// Records that output came or was delivered now.
    pub(super) fn record_output(&self) {
        self.last_output.store(self.now(), Ordering::Relaxed);
    }

    /// Records that the log is read again, after a body that broke or a chunk that the host took late: what came meanwhile
    /// was not seen.
    pub(super) fn record_resumed(&self) {
        self.resumed.store(self.now(), Ordering::Relaxed);
    }

    /// Records that new lines came, or were delivered, now.
    pub(super) fn record_new(&self) {
        self.last_new.store(self.now(), Ordering::Relaxed);
    }

    /// Records that an event of the CLI came now.
    pub(super) fn record_event(&self) {
        self.last_event.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, millis: &AtomicU64) -> Instant {
        self.since + Duration::from_millis(millis.load(Ordering::Relaxed))
    }

    pub(super) fn set_result_is_last(&self, is_last: bool) {
        if !self.result_is_last.swap(is_last, Ordering::Relaxed) && is_last {
            self.result_came.notify_one();
        }
    }

    /// Resolves when the CLI's last word becomes a result; one task may wait for it.
    pub(crate) async fn result_came(&self) {
        self.result_came.notified().await;
    }

    /// Whether the CLI's last word so far is a result.
    pub(crate) fn is_result_last(&self) -> bool {
        self.result_is_last.load(Ordering::Relaxed)
    }

    /// Since when the log has been seen to bring no event of the CLI; `None` while it is not being read. A silent body is
    /// opened again, which repeats its last lines, and what the CLI left running may print on.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        (self.activity() == Activity::Reading).then(|| self.at(&self.last_event).max(self.at(&self.resumed)))
    }

    /// When a line last came that was not received before, or was delivered to the host.
    pub(crate) fn last_new(&self) -> Instant {
        self.at(&self.last_new)
    }

    /// When output last came from the container or was delivered to the host.
    pub(crate) fn last_output(&self) -> Instant {
        self.at(&self.last_output)
    }

    pub(super) fn set_activity(&self, activity: Activity) {
        self.activity.store(activity as u8, Ordering::Relaxed);
    }

    pub(crate) fn activity(&self) -> Activity {
        match self.activity.load(Ordering::Relaxed) {
            0 => Activity::Reading,
            1 => Activity::CutOff,
            _ => Activity::Delivering,
        }
    }
}
