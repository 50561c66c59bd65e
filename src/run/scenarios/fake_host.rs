//! A host that keeps what it is given.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::manifest::Prepared;
use crate::outcome::StdStream;
use crate::run::{Delivery, Host, HostError, StatusAnswer, StatusQuery};

/// What a run asks of its host, but for `onLog`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostCall {
    Meta,
    Event,
    Prepare,
    RunStatus,
}

/// How a host fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failing {
    Rejects,
    Hangs,
    Panics,
}

/// A host that keeps every log line and answers as a scenario says.
#[derive(Default)]
pub(super) struct FakeHost {
    /// Every `onLog` call, with the time at which it settled.
    pub(super) logged: Arc<Mutex<Vec<(StdStream, String, Instant)>>>,
    pub(super) meta: Mutex<Vec<Value>>,
    /// Every line of the run card.
    pub(super) cards: Mutex<Vec<String>>,
    /// Whether it has `onEvent`.
    pub(super) takes_events: bool,
    pub(super) events: Mutex<Vec<Value>>,
    /// Every event that no run waits for.
    pub(super) notes: Mutex<Vec<Value>>,
    /// How long each `onLog` call takes.
    pub(super) log_delay: Duration,
    /// When the last call settles.
    pub(super) free_at: Mutex<Option<Instant>>,
    /// From which `onLog` call on none settles.
    pub(super) log_hangs_from: Option<usize>,
    /// The calls that never settle.
    pub(super) hung: Arc<Mutex<Vec<Delivery>>>,
    /// Whether every `onLog` call rejects.
    pub(super) rejects: bool,
    /// The answers of the control plane in turn; the last one is repeated forever.
    pub(super) statuses: Mutex<Vec<StatusAnswer>>,
    /// The prompt, if not a short one: a long prompt needs a Secret.
    pub(super) prompt: Option<String>,
    /// Which call fails, and how.
    pub(super) fails: Option<(HostCall, Failing)>,
}

impl FakeHost {
    pub(super) fn text(&self, stream: StdStream) -> String {
        let logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.iter().filter(|(on, ..)| *on == stream).map(|(_, text, _)| text.as_str()).collect()
    }

    pub(super) fn out(&self) -> String {
        self.text(StdStream::Stdout)
    }

    pub(super) fn err(&self) -> String {
        self.text(StdStream::Stderr)
    }

    /// What the agent printed: every line without the prefix of this package.
    pub(super) fn agent_lines(&self) -> Vec<String> {
        self.out().lines().filter(|line| !line.starts_with("[paperclip]")).map(str::to_owned).collect()
    }

    async fn attempt(&self, call: HostCall) -> Result<(), HostError> {
        match self.fails.filter(|(failing, _)| *failing == call) {
            None => Ok(()),
            Some((_, Failing::Rejects)) => Err(HostError("disk full".to_owned())),
            Some((_, Failing::Hangs)) => std::future::pending().await,
            Some((_, Failing::Panics)) => panic!("a bug"),
        }
    }

    pub(super) fn log_calls(&self) -> usize {
        self.logged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Host for FakeHost {
    fn log(&self, stream: StdStream, text: String, delivery: Delivery) {
        assert!(text.ends_with('\n'), "whole lines: {text:?}");
        if self.log_hangs_from.is_some_and(|from| self.log_calls() >= from) {
            self.hung.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
            return;
        }
        let rejects = self.rejects;
        let logged = self.logged.clone();
        let settle = move || {
            logged.lock().unwrap_or_else(PoisonError::into_inner).push((stream, text, Instant::now()));
            if rejects {
                delivery.rejected(&HostError("disk full".to_owned()));
            }
        };
        if self.log_delay.is_zero() {
            return settle();
        }
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let at = free_at.map_or_else(Instant::now, |at| at.max(Instant::now())) + self.log_delay;
        *free_at = Some(at);
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            settle();
        });
    }

    async fn meta(&self, meta: Value) -> Result<(), HostError> {
        self.attempt(HostCall::Meta).await?;
        self.meta.lock().unwrap_or_else(PoisonError::into_inner).push(meta);
        Ok(())
    }

    fn progress(&self, line: String) {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    async fn event(&self, event: Value) -> Result<bool, HostError> {
        self.attempt(HostCall::Event).await?;
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        Ok(self.takes_events)
    }

    fn note(&self, event: Value) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    async fn prepare(&self) -> Result<Prepared, HostError> {
        self.attempt(HostCall::Prepare).await?;
        let prompt = self.prompt.as_deref().unwrap_or("Work.");
        serde_json::from_value(json!({
            "baseEnv": {"PAPERCLIP_AGENT_ID": "agent-1"},
            "bootstrapPrompt": "",
            "heartbeatPrompt": prompt,
            "skills": [],
        }))
        .map_err(|error| HostError(error.to_string()))
    }

    async fn link(&self, _: &str, _: &str) -> Result<(), HostError> {
        Ok(())
    }

    async fn run_status(&self, query: StatusQuery<'_>) -> StatusAnswer {
        let _ = self.attempt(HostCall::RunStatus).await;
        assert_eq!((query.api_url, query.token), ("http://paperclip", "token"));
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        if statuses.len() > 1 {
            statuses.remove(0)
        } else {
            statuses.first().cloned().unwrap_or(StatusAnswer::Unreachable)
        }
    }
}
