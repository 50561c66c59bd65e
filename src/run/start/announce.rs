//! Names the CLI to the host (`docs/decisions/0010-the-event-that-names-the-cli.md`).

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::run::Host;
use crate::run::context::RunContext;

/// Gives the host the event, after `onMeta` and before the Job is created or followed. A host that does not take it is no
/// reason to end the run: it only cannot continue with the task after a restart.
pub(super) async fn announce<C, H: Host>(run: &RunContext<C, H>) {
    if !run.request.config.announce_harness {
        return;
    }
    match run.host.event(event()).await {
        Ok(taken) => run.announced.store(taken, Ordering::Relaxed),
        Err(error) => {
            let line =
                format!("[paperclip] Warning: the host did not take the event that names the CLI: {error}");
            run.log.err(line).await;
        }
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
