//! Names the CLI to the host (`docs/decisions/0010-the-event-that-names-the-cli.md`).
//!
//! The host's pages show the first `adapter.invoke` event of a run as its invocation, so the one of `onMeta`, which has the
//! prompt, should come first. But a host that ends before this event was given blocks the task. So the event comes right
//! after `onMeta`, or as soon as the run has waited for a moment, or when the host is asked to end, whichever is first.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::run::context::RunContext;
use crate::run::{Host, timing};

/// Whether the host was given the event that names the CLI.
#[derive(Default)]
pub(crate) struct Announcement {
    given: OnceCell<()>,
    taken: AtomicBool,
}

impl Announcement {
    /// Whether the host has taken the event: it can continue with the task after a restart.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }
}

/// Gives the host the event, once in a run. A host that does not take it is no reason to end the run: it only cannot continue
/// with the task after a restart.
pub(crate) async fn announce<C, H: Host>(run: &RunContext<C, H>) {
    if run.request.config.announce_harness {
        run.announcement.given.get_or_init(|| give(run)).await;
    }
}

async fn give<C, H: Host>(run: &RunContext<C, H>) {
    match run.host.event(event()).await {
        Ok(taken) => run.announcement.taken.store(taken, Ordering::Relaxed),
        Err(error) => {
            let line =
                format!("[paperclip] Warning: the host did not take the event that names the CLI: {error}");
            run.log.err(line).await;
        }
    }
}

/// Starts a run, and gives the host the event meanwhile if the start waits.
pub(crate) async fn while_starting<C, H: Host, T>(
    run: &RunContext<C, H>,
    start: impl Future<Output = T>,
) -> T {
    let waiting = async {
        tokio::time::sleep(timing::ANNOUNCE_AFTER).await;
        announce(run).await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        started = start => started,
        never = waiting => never,
    }
}

/// The host knows by this type of adapter that the CLI's conversation is on disk and can be continued.
fn event() -> Value {
    json!({
        "eventType": "adapter.invoke",
        "stream": "system",
        "level": "info",
        "message": "harness invocation",
        "payload": {"adapterType": "claude_local", "command": "claude"},
    })
}
