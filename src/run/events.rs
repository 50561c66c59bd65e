//! What a run gives its host as data, through `onEvent`, beside the lines of its log.
//!
//! The host counts events of a type that it does not know as work of the agent, so these have its own type for what happens
//! to a run. Their names are in the payload.

use serde_json::{Map, Value, json};

use super::Host;
use super::context::RunContext;
use crate::outcome::Outcome;

/// The host's type of events about a run itself.
const EVENT_TYPE: &str = "lifecycle";

/// The Job of the run was created.
pub(super) const JOB: &str = "k8s.job.created";
/// A Job of an earlier run was taken over.
pub(super) const REATTACHED: &str = "k8s.job.reattached";
/// The CLI runs in its pod.
pub(super) const RUNNING: &str = "k8s.pod.running";
/// Why a run failed, as `resultJson.k8s` has it.
pub(super) const FORENSICS: &str = "k8s.forensics";

/// Gives the host an event. Never waited for: the log says the same.
pub(super) fn give<C, H: Host>(
    run: &RunContext<C, H>,
    name: &str,
    message: &str,
    payload: impl IntoIterator<Item = (&'static str, Value)>,
) {
    let mut with_name = Map::new();
    with_name.insert("event".to_owned(), name.into());
    with_name.extend(payload.into_iter().map(|(key, value)| (key.to_owned(), value)));
    let level = if name == FORENSICS { "warn" } else { "info" };
    run.host.note(json!({
        "eventType": EVENT_TYPE,
        "stream": "system",
        "level": level,
        "message": message,
        "payload": with_name,
    }));
}

/// Gives the host what is known of why the run failed.
pub(super) fn give_forensics<C, H: Host>(run: &RunContext<C, H>, outcome: &Outcome) {
    if let Some((summary, evidence)) = outcome.evidence() {
        give(run, FORENSICS, summary, [("forensics", evidence.clone())]);
    }
}
