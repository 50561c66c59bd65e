//! The watches of a fake cluster.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::objects::StoredJob;
use super::{State, connection_lost};
use crate::cluster::{ApiError, WatchKind};

/// What a watch does instead of reporting changes.
#[derive(Debug, Clone)]
pub(crate) enum WatchFault {
    /// It reports after this time that its version is too old.
    Expires(Duration),
    /// Its connection breaks after this time.
    Breaks(Duration),
    /// It is silent forever after this time.
    Silent(Duration),
    /// Its first line is this text, which cannot be read.
    Garbage(&'static str),
}

/// The objects of a kind at a moment, by the name of their Job; a replacement pod has its own key.
pub(super) fn snapshot(
    state: &State,
    kind: WatchKind,
    selector: &str,
    at: Instant,
) -> BTreeMap<String, Value> {
    let seen = || state.jobs.iter().filter(|(_, stored)| stored.matches(selector) && stored.created <= at);
    let replacements = seen().filter(|_| kind == WatchKind::Pods).filter_map(|(name, stored)| {
        Some((format!("another {name}"), serde_json::to_value(stored.replacement_at(at)?).ok()?))
    });
    let first = seen().filter_map(|(name, stored)| {
        let object = match kind {
            WatchKind::Jobs if stored.is_gone_at(at) => None,
            WatchKind::Jobs => serde_json::to_value(stored.job_at(at)).ok(),
            WatchKind::Pods => stored.pod_at(at).and_then(|pod| serde_json::to_value(pod).ok()),
        };
        Some((name.clone(), object?))
    });
    let forged =
        seen().filter(|_| kind == WatchKind::Pods).flat_map(|(_, stored)| forged_beside(state, stored));
    first.chain(replacements).chain(forged).collect()
}

/// The pods that another client has made beside a Job, each with a key of its own.
pub(super) fn forged_beside(state: &State, stored: &StoredJob) -> Vec<(String, Value)> {
    let meta = &stored.job.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let of = |(n, pod): (usize, &Value)| {
        let text = pod.to_string().replace("$JOB", name);
        let text = text.replace("$UID", meta.uid.as_deref().unwrap_or_default());
        (format!("forged {n} beside {name}"), serde_json::from_str(&text).expect("JSON"))
    };
    state.forged.iter().enumerate().map(of).collect()
}

/// An open watch: compares what it has reported with what exists.
pub(super) struct OpenWatch {
    pub(super) origin: Instant,
    pub(super) state: Arc<Mutex<State>>,
    pub(super) changes: watch::Receiver<u64>,
    pub(super) kind: WatchKind,
    pub(super) selector: String,
    pub(super) reported: BTreeMap<String, Value>,
    pub(super) ends: Instant,
    pub(super) bookmark: Instant,
    pub(super) fault: Option<WatchFault>,
    pub(super) breaks_at: Option<Instant>,
    pub(super) opened: Instant,
}

impl OpenWatch {
    fn version(&self) -> String {
        // The first nanosecond is 1: 0 would mean any version.
        (self.origin.elapsed().as_nanos() + 1).to_string()
    }

    fn line(&self, kind: &str, mut object: Value) -> String {
        object["metadata"]["resourceVersion"] = json!(self.version());
        format!("{}\n", json!({"type": kind, "object": object}))
    }

    /// The events of what has changed since the last call.
    fn new_events(&mut self) -> String {
        let state = self.state.clone();
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let current = snapshot(&state, self.kind, &self.selector, Instant::now());
        let mut out = String::new();
        for (name, object) in &current {
            match self.reported.get(name) {
                None => out += &self.line("ADDED", object.clone()),
                Some(before) if before != object => out += &self.line("MODIFIED", object.clone()),
                Some(_) => {}
            }
        }
        for name in self.reported.keys().filter(|name| !current.contains_key(*name)) {
            let Some(stored) = state.jobs.get(name) else {
                // A replacement pod keeps its last state.
                out += &self.line("DELETED", self.reported[name].clone());
                continue;
            };
            let last = match self.kind {
                WatchKind::Jobs => serde_json::to_value(stored.job_at(stored.deleted_at().expect("deleted"))),
                WatchKind::Pods => serde_json::to_value(stored.last_pod_object()),
            };
            out += &self.line("DELETED", last.expect("JSON"));
        }
        self.reported = current;
        out
    }

    /// The next chunk of the body; `None` at its end.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, ApiError>> {
        loop {
            if let Some(WatchFault::Garbage(text)) = self.fault {
                self.fault = None;
                return Some(Ok(Bytes::from(format!("{text}\n"))));
            }
            let fault_at = match self.fault {
                Some(WatchFault::Expires(after) | WatchFault::Breaks(after) | WatchFault::Silent(after)) => {
                    Some(self.opened + after)
                }
                _ => None,
            };
            if fault_at.is_some_and(|at| at <= Instant::now()) {
                return match self.fault.take() {
                    Some(WatchFault::Silent(_)) => std::future::pending().await,
                    Some(WatchFault::Expires(_)) => {
                        self.ends = Instant::now();
                        let status = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old",
                            "metadata": {}});
                        Some(Ok(Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": status})))))
                    }
                    _ => Some(Err(connection_lost("watch"))),
                };
            }
            if self.breaks_at.is_some_and(|at| at <= Instant::now()) {
                return Some(Err(connection_lost("watch")));
            }
            let events = self.new_events();
            if !events.is_empty() {
                return Some(Ok(Bytes::from(events)));
            }
            let now = Instant::now();
            if self.ends <= now {
                return None;
            }
            if self.bookmark <= now {
                self.bookmark = now + Duration::from_secs(60);
                return Some(Ok(Bytes::from(self.line("BOOKMARK", json!({"metadata": {}})))));
            }
            let change = {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.jobs.values().flat_map(StoredJob::change_times).filter(|at| *at > now).min()
            };
            let wake = [change, Some(self.ends), Some(self.bookmark), fault_at, self.breaks_at];
            let wake = wake.into_iter().flatten().min();
            tokio::select! {
                _ = self.changes.changed() => {}
                () = tokio::time::sleep_until(wake.unwrap_or(self.ends)) => {}
            }
        }
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).watches_open -= 1;
    }
}
