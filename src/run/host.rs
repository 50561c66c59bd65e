//! The host as a run sees it.

use std::sync::Arc;

use serde_json::Value;

use super::{Delivery, timing};
use crate::manifest::Prepared;
use crate::outcome::StdStream;
use crate::storable;

/// What a run asks of its host and of the control plane.
///
/// A method resolves when the host's own promise has settled; an error is the text of its rejection.
pub(crate) trait Host: Send + Sync + 'static {
    /// `onLog(stream, chunk)`, called in the order of these calls and after all earlier ones have settled. The chunk is
    /// whole lines. `delivery` is dropped once the host's promise has settled; where the promise rejected,
    /// [`Delivery::rejected`] is called. A rejection keeps no later chunk from being delivered.
    fn log(&self, stream: StdStream, chunk: String, delivery: Delivery);
    /// `onMeta(meta)`; a host without `onMeta` resolves at once.
    fn meta(&self, meta: Value) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Shows a line on the host's run card with `onRuntimeProgress`; a host without it ignores it. Never waited for: of lines
    /// that the host does not take in time the last one counts.
    fn progress(&self, line: String);
    /// `onEvent(event)`; false for a host without `onEvent`.
    fn event(&self, event: Value) -> impl Future<Output = Result<bool, HostError>> + Send;
    /// As [`event`](Self::event), and never waited for.
    fn note(&self, event: Value);
    /// Asks the host's own helpers for skills, rendered templates and the base environment.
    fn prepare(&self) -> impl Future<Output = Result<Prepared, HostError>> + Send;
    /// Makes `target` a link to the skill's folder `source` with the host's own helper, unless it is one already.
    fn link(&self, source: &str, target: &str) -> impl Future<Output = Result<(), HostError>> + Send;
    /// The status of a run in the control plane.
    fn run_status(&self, query: StatusQuery<'_>) -> impl Future<Output = StatusAnswer> + Send;
}

/// A host that is given only what it can store (see [`storable`]), and that answers in time.
pub(crate) struct StorableHost<H>(pub(crate) Arc<H>);

impl<H: Host> Host for StorableHost<H> {
    fn log(&self, stream: StdStream, chunk: String, delivery: Delivery) {
        self.0.log(stream, storable::owned(chunk), delivery);
    }

    fn meta(&self, meta: Value) -> impl Future<Output = Result<(), HostError>> + Send {
        answered("onMeta", self.0.meta(storable::value(meta)))
    }

    fn progress(&self, line: String) {
        self.0.progress(storable::owned(line));
    }

    fn event(&self, event: Value) -> impl Future<Output = Result<bool, HostError>> + Send {
        answered("onEvent", self.0.event(storable::value(event)))
    }

    fn note(&self, event: Value) {
        self.0.note(storable::value(event));
    }

    fn prepare(&self) -> impl Future<Output = Result<Prepared, HostError>> + Send {
        answered("a helper of the host", self.0.prepare())
    }

    async fn link(&self, source: &str, target: &str) -> Result<(), HostError> {
        let linked = tokio::time::timeout(timing::HOST_ANSWER_LIMIT, self.0.link(source, target)).await;
        linked.unwrap_or_else(|_| Err(no_answer("the host")))
    }

    fn run_status(&self, query: StatusQuery<'_>) -> impl Future<Output = StatusAnswer> + Send {
        self.0.run_status(query)
    }
}

/// The host's answer, or an error that says who failed or did not answer in time.
async fn answered<T>(who: &str, answer: impl Future<Output = Result<T, HostError>>) -> Result<T, HostError> {
    match tokio::time::timeout(timing::HOST_ANSWER_LIMIT, answer).await {
        Ok(answer) => answer.map_err(|HostError(error)| HostError(format!("{who} failed: {error}"))),
        Err(_) => Err(no_answer(who)),
    }
}

fn no_answer(who: &str) -> HostError {
    HostError(format!("{who} did not answer within {}s", timing::HOST_ANSWER_LIMIT.as_secs()))
}

/// Which run's status to ask for: `GET {api_url}/api/heartbeat-runs/{run_id}`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StatusQuery<'a> {
    /// `PAPERCLIP_API_URL`.
    pub api_url: &'a str,
    /// The run.
    pub run_id: &'a str,
    /// Bearer token.
    pub token: &'a str,
}

/// What came of a [`StatusQuery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StatusAnswer {
    /// 2xx with the value of `status`, when it is a string.
    Status(Option<String>),
    /// Any other HTTP status.
    Refused(u16),
    /// No answer, or one that is not JSON.
    Unreachable,
}

/// A rejected or failed host callback.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HostError(pub String);
