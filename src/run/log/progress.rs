//! What the follower of a log is doing, for those who wait for it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

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
    activity: AtomicU8,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let activity = AtomicU8::new(Activity::Reading as u8);
        Self { since: Instant::now(), last_output: AtomicU64::new(0), activity }
    }

    /// Records that output came or was delivered now.
    pub(super) fn record_output(&self) {
        let now = self.since.elapsed().as_millis();
        self.last_output.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When output last came from the container or was delivered to the host.
    pub(crate) fn last_output(&self) -> Instant {
        self.since + Duration::from_millis(self.last_output.load(Ordering::Relaxed))
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
