//! The Node binding: the only room that knows napi.
//!
//! It turns a host's context into a [`Request`](crate::request::Request) and its callbacks into a
//! [`Host`](crate::run::Host). Runs live on a runtime of their own: napi's dies with the last environment that
//! uses it, while clients and runs are shared by all environments of the process.
#![allow(unreachable_pub)] // what JavaScript reaches, no Rust path does
#![cfg_attr(test, allow(dead_code))] // napi registers nothing in a test build

mod bundle;
mod desk;
mod host;
mod logging;
mod status;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::FutureExt as _;
use napi::bindgen_prelude::{FnArgs, Object, Promise, PromiseRaw};
use napi::threadsafe_function::ThreadsafeFunction;
use napi::{Env, Error, Status};
use napi_derive::napi;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::desk::Question;
use crate::cluster::client::KubeClusters;
use crate::run::{Runner, Turn, isolate};

/// `ensureSymlink(source, target)`, which resolves to the text of its error, if any. Weak: it does not hold the process
/// open.
type LinkFunction = ThreadsafeFunction<
    FnArgs<(String, String)>,
    Promise<Option<String>>,
    FnArgs<(String, String)>,
    Status,
    /* callee handled */ false,
    /* weak */ true,
>;

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            // One is enough for all log streams of a host, and two would wake each other for every line.
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

/// The host's hold on one run.
///
/// Node drops it with the environment it was made in; a run whose environment is gone is given up, and its Job
/// left alone for the next host to attach to.
#[napi]
pub struct RunControl {
    cancel: CancellationToken,
    gone: CancellationToken,
    turn: Mutex<Option<Turn>>,
}

#[napi]
impl RunControl {
    /// A hold on a run that has not started. With an agent's id it is also a place in the queue of that agent's
    /// runs, from this call on: they start one after the other.
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

    /// To be called after the run has settled: keeps this object alive until then, and gives up the place in the
    /// queue of a run that never started.
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

/// Starts one agent run. `request` is the JSON of what the host passed. What the run asks of JavaScript, its
/// `result` (the adapter's, as JSON) or its `error` at last, waits on the desk under the number `run`.
#[napi(catch_unwind)]
pub fn execute(request: String, control: &RunControl, desk: &desk::Desk, run: u32) {
    let cancel = control.cancel.clone();
    let gone = control.gone.clone();
    let turn = control.take_turn();
    let questions = desk.questions();
    let host = Arc::new(host::NodeHost { questions: questions.clone(), run });
    runtime().spawn(async move {
        let life = AssertUnwindSafe(runner().execute(&request, host, cancel, turn)).catch_unwind();
        let ended = tokio::select! {
            ended = life => match ended {
                Ok(Ok(outcome)) => Ok(outcome.to_json().to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_panic) => Err("claude_k8s: internal error: the run panicked".to_owned()),
            },
            () = isolate(gone.cancelled()) => return,
        };
        questions.tell(run, Question::Done(ended));
    });
}

/// Checks what runs will need; resolves to the list of checks.
#[napi(ts_return_type = "Promise<object[]>")]
pub fn test_environment(env: &Env, request: String) -> napi::Result<PromiseRaw<'_, Value>> {
    env.spawn_future(on_own_runtime(async move {
        let checks = runner().test_environment(&request).await;
        serde_json::to_value(checks).map_err(|error| error.to_string())
    }))
}

/// Deletes the Jobs and prompt Secrets of all runs under way (those that may be); resolves to their Jobs' names.
#[napi(ts_return_type = "Promise<string[]>")]
pub fn shutdown(env: &Env) -> napi::Result<PromiseRaw<'_, Vec<String>>> {
    env.spawn_future(on_own_runtime(async move {
        Ok(runner().shutdown().await.into_iter().map(|job| job.job_name).collect())
    }))
}

/// The names of the Jobs of all runs under way in this process.
#[napi(catch_unwind)]
pub fn active_jobs() -> Vec<String> {
    runner().active_jobs().into_iter().map(|job| job.job_name).collect()
}

/// What this process has alive, for those who look for a leak. When no run is under way all counts come down to zero
/// but that of the tasks: connections are kept for a minute, and each known cluster's client has a few of its own.
/// Watches go on for some 10 s.
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

/// Runs a future on our runtime and turns its error into a JavaScript one.
pub(crate) async fn on_own_runtime<T: Send + 'static>(
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> napi::Result<T> {
    match runtime().spawn(work).await {
        Ok(done) => done.map_err(Error::from_reason),
        Err(error) => Err(Error::from_reason(format!("claude_k8s: internal error: {error}"))),
    }
}
