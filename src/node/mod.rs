//! The Node binding: the only module of the shipped addon that knows napi.
//!
//! It turns a host's context into a [`Request`](crate::request::Request) and its callbacks into a
//! [`Host`](crate::run::Host). Clients and runs are shared by all environments of the process, so they live on a runtime
//! that does not end with any of these.
#![allow(unreachable_pub, reason = "JavaScript reaches these items, no Rust path does")]
#![cfg_attr(test, allow(dead_code, reason = "napi registers nothing in a test build"))]

mod control_plane;
mod host;
mod logging;
mod mailbox;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::FutureExt as _;
use napi::bindgen_prelude::{Object, ToNapiValue};
use napi::{Env, Error};
use napi_derive::napi;
use tokio_util::sync::CancellationToken;

use crate::cluster::client::KubeClusters;
use crate::run::{Runner, Turn, isolate};
use crate::storable;

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            // One thread is enough for all log streams of a host; two would wake each other for every line.
            .worker_threads(1)
            .thread_name("claude-k8s")
            .enable_all()
            .build()
            .expect("the operating system gives this process no threads")
    })
}

pub(crate) fn runner() -> &'static Runner<KubeClusters> {
    static RUNNER: OnceLock<Runner<KubeClusters>> = OnceLock::new();
    RUNNER.get_or_init(|| Runner::new(KubeClusters::default()))
}

/// Runs when a JavaScript environment loads the addon.
#[napi(module_exports)]
pub fn init(_exports: Object<'_>) {
    logging::init();
}

/// The host's handle on one run.
///
/// Node drops it with the environment that created it. A run whose environment is gone is given up, and its Job is left
/// alone for the next host to reattach to.
#[napi]
pub struct RunControl {
    cancel: CancellationToken,
    gone: CancellationToken,
    turn: Mutex<Option<Turn>>,
}

#[napi]
impl RunControl {
    /// A handle on a run that has not started. With an agent's id it also queues the run among those of this agent, from
    /// this call on: they start one after the other.
    #[napi(constructor, catch_unwind)]
    pub fn new(agent_id: Option<String>) -> Self {
        let turn = agent_id.map(|agent| runner().queue(&agent));
        Self { cancel: CancellationToken::new(), gone: CancellationToken::new(), turn: Mutex::new(turn) }
    }

    /// Cancels the run: its Job is deleted, and the run resolves when the pod is gone.
    #[napi(catch_unwind)]
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Must be called after the run has settled: that keeps this object alive until then, and takes a run that never
    /// started out of its queue.
    #[napi(catch_unwind)]
    pub fn release(&self) {
        self.take_turn();
    }
}

impl RunControl {
    fn take_turn(&self) -> Option<Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Resolves when the host cancels or goes away.
    #[cfg(feature = "compat")]
    pub(crate) fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        let (cancel, gone) = (self.cancel.clone(), self.gone.clone());
        async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = gone.cancelled() => {}
            }
        }
    }
}

impl Drop for RunControl {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

/// Starts one agent run. What the host has to do for it comes as messages in the mailbox, under the number `run`; the last
/// of them is how it ended: `result`, with the adapter's result as JSON, or `failed`, with the text of an error.
/// `request` is the JSON of what the host passed.
#[napi(catch_unwind)]
pub fn execute(request: String, control: &RunControl, mailbox: &mailbox::Mailbox, run: u32) {
    let cancel = control.cancel.clone();
    let gone = control.gone.clone();
    let turn = control.take_turn();
    let queue = mailbox.queue();
    let host = Arc::new(host::NodeHost { queue: queue.clone(), run });
    let work = async move {
        tokio::select! {
            outcome = runner().execute(request, host, cancel, turn) => {
                Ok(outcome.to_json(jiff::Timestamp::now()).to_string())
            }
            // The mailbox goes with the environment, so this is not heard.
            () = isolate(gone.cancelled()) => Err("the environment of this run is gone".to_owned()),
        }
    };
    let work = caught(work);
    runtime().spawn(async move {
        let _forgotten = mailbox::Forget { queue: queue.clone(), run };
        let end = match work.await {
            Ok(result) => mailbox::Message::Result(result),
            Err(text) => mailbox::Message::Failed(text),
        };
        queue.end(run, end).await;
    });
}

/// The result of a run that ended on the host's side, as JSON. `began`: it had been given to `execute`, so that a Job of
/// it can exist.
#[napi(catch_unwind)]
pub fn failed_at_the_host(error: String, began: bool) -> String {
    crate::run::failed_at_the_host(&storable::owned(error), began).to_json(jiff::Timestamp::now()).to_string()
}

/// Checks what runs will need; resolves to the list of checks.
#[napi(catch_unwind, ts_return_type = "Promise<object[]>")]
pub fn test_environment(env: &Env, request: String) -> napi::Result<Object<'_>> {
    promise(env, async move {
        let checks = runner().test_environment(&request).await;
        serde_json::to_value(checks).map(storable::value).map_err(|error| error.to_string())
    })
}

/// The Jobs of this adapter in a namespace, for operators; resolves to a list, the oldest first.
#[napi(catch_unwind, ts_return_type = "Promise<object[]>")]
pub fn overview(env: &Env, request: String) -> napi::Result<Object<'_>> {
    promise(env, async move {
        let rows = runner().overview(&request).await.map_err(|error| error.to_string())?;
        serde_json::to_value(rows).map(storable::value).map_err(|error| error.to_string())
    })
}

/// Deletes the Jobs and prompt Secrets of all runs under way (those that may be); resolves to their Jobs' names.
#[napi(catch_unwind, ts_return_type = "Promise<string[]>")]
pub fn shutdown(env: &Env) -> napi::Result<Object<'_>> {
    promise(env, async {
        Ok(runner().shutdown().await.into_iter().map(|job| job.job_name).collect::<Vec<_>>())
    })
}

/// The names of the Jobs of all runs under way in this process.
#[napi(catch_unwind)]
pub fn active_jobs() -> Vec<String> {
    runner().active_jobs().into_iter().map(|job| job.job_name).collect()
}

/// What this process has alive, for tests that look for a leak. When no run is under way all counts fall to zero except
/// that of the tasks: connections are kept for a minute, and each known cluster's client has a few tasks of its own.
/// Watches stay open for some 10 s.
#[napi(object)]
pub struct Vitals {
    /// Tasks of the native runtime.
    pub tasks: u32,
    /// Jobs under way.
    pub jobs: u32,
    /// Agents whose runs queue for their start.
    pub queues: u32,
    /// Namespaces that are watched.
    pub watches: u32,
    /// Subscriptions to them, one per run.
    pub subscriptions: u32,
}

/// See `Vitals`.
#[napi(catch_unwind)]
pub fn vitals() -> Vitals {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let run = runner().vitals();
    Vitals {
        tasks: count(runtime().metrics().num_alive_tasks()),
        jobs: count(run.jobs),
        queues: count(run.queues),
        watches: count(run.watches),
        subscriptions: count(run.subscriptions),
    }
}

/// A promise that settles as `work` does, which runs on our runtime. An error is the text of the rejection.
pub(crate) fn promise<T: ToNapiValue + Send + 'static>(
    env: &Env,
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> napi::Result<Object<'_>> {
    let (deferred, promise) = env.create_deferred()?;
    let work = caught(work);
    runtime().spawn(async move {
        match work.await {
            Ok(value) => deferred.resolve(move |_| Ok(value)),
            Err(text) => deferred.reject(Error::from_reason(text)),
        }
    });
    Ok(promise)
}

/// The same work, whose panic is an error. On the heap: a task would keep room for it twice.
fn caught<T>(
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Pin<Box<impl Future<Output = Result<T, String>> + Send>> {
    Box::pin(AssertUnwindSafe(work).catch_unwind().map(|ended| {
        ended.unwrap_or_else(|_panic| Err("claude_k8s: internal error: a task panicked".to_owned()))
    }))
}
