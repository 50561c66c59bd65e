//! One run's life, a room per stage:
//! claim → guard → prepare → create (or reattach) → wait for the pod → follow and settle → explain → clean up.
//!
//! The stages see a cluster through [`Cluster`] and the control plane through [`Host`], so that a whole run can
//! be played in memory under a paused clock.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cluster::watch::{Health, Watches};
use crate::cluster::{ApiError, Clusters};
use crate::manifest::{self, Prepared, PromptBundle};
use crate::outcome::Outcome;
use crate::request::Request;

mod active;
mod cleanup;
mod exported;
mod finish;
mod isolate;
mod job_view;
mod log;
pub mod preflight;
mod start;
mod timing;

#[cfg(test)]
mod scenarios;

use bundle::{BundleOrder, Bundled};
use log::follow;
use start::{claim, create, guard, queue, self_pod};

pub use active::ActiveJob;
pub use exported::LogOrder;
pub use isolate::isolate;
pub(crate) use log::sink::Log;
pub use log::sink::{Channel, Delivery, recycle};
pub use start::bundle;
pub use start::queue::Turn;

/// What a run asks of the control plane.
///
/// Methods resolve when the host's own promise has; an error is the text of its rejection.
pub trait Host: Send + Sync + 'static {
    /// `onLog(stream, chunk)`, after all that were handed over before have settled; the chunk is whole lines. `taken`
    /// is dropped once the host's promise has settled, and told when it rejected; that keeps no other from being
    /// told.
    fn log(&self, channel: Channel, chunk: String, delivery: Delivery);
    /// `onMeta(meta)`; a host without `onMeta` answers at once.
    fn meta(&self, meta: Value) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Asks the host's own helpers for skills, rendered templates and the base environment.
    fn prepare(&self) -> impl Future<Output = Result<Prepared, HostError>> + Send;
    /// Has the host make the prompt bundle of a run.
    fn bundle(&self, order: BundleOrder) -> impl Future<Output = Result<Bundled, HostError>> + Send;
    /// The status of a run in the control plane.
    fn run_status(&self, query: StatusQuery<'_>) -> impl Future<Output = StatusAnswer> + Send;
}

/// A question for the status of a run: `GET {api_url}/api/heartbeat-runs/{run_id}`.
#[derive(Debug, Clone, Copy)]
pub struct StatusQuery<'a> {
    /// `PAPERCLIP_API_URL`.
    pub api_url: &'a str,
    /// The run.
    pub run_id: &'a str,
    /// Bearer token.
    pub token: &'a str,
}

/// What came of a [`StatusQuery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusAnswer {
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
pub struct HostError(pub String);

/// Why `execute` rejects instead of resolving with a result (contract section 3.17).
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The cluster cannot be set up, or the host's own pod cannot be read.
    #[error("{0}")]
    Cluster(#[from] ApiError),
    /// The host's own pod cannot serve as the model of a Job.
    #[error("{0}")]
    SelfPod(String),
    /// A helper or callback of the host failed.
    #[error("{0}")]
    Host(#[from] HostError),
    /// A bug: a stage panicked. What the run created is cleaned up all the same.
    #[error("claude_k8s: internal error: {0}")]
    Panic(String),
}

/// What a process has alive: when no run is under way, all of it comes down to zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vitals {
    /// Jobs on the list of those under way.
    pub jobs: usize,
    /// Agents whose runs queue for their start.
    pub queues: usize,
    /// Namespaces that are watched; their watches go on for a moment after the last run.
    pub watches: usize,
    /// Subscriptions to them, one per run.
    pub subscriptions: usize,
}

/// Everything that runs of one process share.
pub struct Runner<K: Clusters> {
    clusters: K,
    locks: queue::AgentLocks,
    active: active::ActiveJobs<K::Cluster>,
    self_pods: self_pod::SelfPods,
    watches: Watches<K::Cluster>,
    claims: claim::Claims<K::Cluster>,
    readers: follow::Readers,
}

impl<K: Clusters> Runner<K> {
    /// A runner without any run.
    pub fn new(clusters: K) -> Self {
        Self {
            clusters,
            locks: queue::AgentLocks::default(),
            active: active::ActiveJobs::default(),
            self_pods: self_pod::SelfPods::default(),
            watches: Watches::new(manifest::watch_selector()),
            claims: claim::Claims::default(),
            readers: follow::Readers::new(),
        }
    }

    /// Deletes the Jobs and prompt Secrets of all runs that are under way and resolves when that is done.
    /// Runs that say `hostShutdown: leave` or `retainJobs` keep theirs. Returns what was deleted.
    pub async fn shutdown(&self) -> Vec<ActiveJob> {
        let deleted = self.active.delete_all().await;
        self.claims.release_all().await;
        deleted
    }

    /// A place in the queue of an agent's runs: they start one after the other, in the order of these calls.
    pub fn queue(&self, agent_id: &str) -> Turn {
        self.locks.queue(agent_id)
    }

    /// The Jobs of all runs that are under way.
    pub fn active_jobs(&self) -> Vec<ActiveJob> {
        self.active.list()
    }

    /// How much of everything is alive.
    pub fn vitals(&self) -> Vitals {
        let (watches, subscriptions) = self.watches.count();
        Vitals { jobs: self.active.list().len(), queues: self.locks.count(), watches, subscriptions }
    }

    /// One run, from the request to the result.
    ///
    /// `turn` is the run's place among those of its agent, from [`Runner::queue`]; without one it queues when it
    /// gets there. `cancel` is the host's abort signal. All that the run tells goes through `host`; nothing reaches it after
    /// this has resolved.
    ///
    /// # Errors
    /// See [`RunError`]; every failure of the run itself is an [`Outcome`].
    pub async fn execute<H: Host>(
        &self,
        request_json: &str,
        host: Arc<H>,
        cancel: CancellationToken,
        turn: Option<Turn>,
    ) -> Result<Outcome, RunError> {
        let (log, end) = Log::open(host.clone());
        let life = async move {
            match Request::parse(request_json) {
                Ok(request) => self.life(Arc::new(request), host, log, cancel, turn).await,
                Err(error) => Ok(log.told(Outcome::config_invalid(&error.to_string())).await),
            }
        };
        let outcome = life.await;
        end.closed().await;
        outcome
    }

    async fn life<H: Host>(
        &self,
        request: Arc<Request>,
        host: Arc<H>,
        log: Log,
        cancel: CancellationToken,
        turn: Option<Turn>,
    ) -> Result<Outcome, RunError> {
        if request.host_env.get("PAPERCLIP_API_URL").is_none_or(str::is_empty) {
            log.err("[paperclip] Warning: PAPERCLIP_API_URL not set — cancel polling disabled").await;
        }
        let Some(agent_label) = request.agent_label() else {
            return Ok(log.told(Outcome::agent_id_invalid(&request.agent.id)).await);
        };
        for note in &request.config.notes {
            log.out(format!("[paperclip] {note}")).await;
        }
        if cancel.is_cancelled() {
            return Ok(Outcome::cancelled(true));
        }

        // Whatever is created from here on is on this list, and cleaned up on every way out.
        let owned = cleanup::Owned::default();
        let stages = self.stages(&request, &host, &log, &cancel, &agent_label, &owned, turn);
        let ended = AssertUnwindSafe(stages).catch_unwind().await;
        cleanup::clean_up(&owned, &request.config, &log).await;
        self.active.remove(&owned);
        match ended {
            Ok(Ok(stage)) => Ok(stage.conclude(&log).await),
            Ok(Err(error)) => Err(error),
            Err(panic) => {
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "unknown".to_owned());
                Err(RunError::Panic(text))
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // what a run is made of, handed on once
    async fn stages<H: Host>(
        &self,
        request: &Arc<Request>,
        host: &Arc<H>,
        log: &Log,
        cancel: &CancellationToken,
        agent_label: &str,
        owned: &cleanup::Owned<K::Cluster>,
        turn: Option<Turn>,
    ) -> Result<Ended, RunError> {
        let mut turn = turn.unwrap_or_else(|| self.locks.queue(&request.agent.id));
        turn.come().await;
        let started = match self.start(request, host, log, cancel, agent_label, owned, turn).await? {
            Started::Early(outcome) => return Ok(Ended::Early(outcome)),
            Started::Job(started) => started,
        };
        let StartedJob { cluster, namespace, job_name, job_uid, reattached } = started;
        let watched = self.watches.subscribe(&cluster, &namespace, &job_name, job_uid.as_deref());
        let observed = job_view::Observed { cluster, namespace, job_name, job_uid, watched };
        if observed.begin().await == Health::Refused && self.watches.tell_refusal(&observed.cluster) {
            log.out(format!(
                "[paperclip] Watching Jobs and Pods is not permitted in namespace {} — polling every {}s instead \
                 (grant the watch verb to react at once)",
                observed.namespace,
                timing::POLL.as_secs()
            ))
            .await;
        }
        let live = Live {
            request: request.clone(),
            log: log.clone(),
            readers: self.readers.clone(),
            cancel: cancel.clone(),
            job_name: observed.job_name.clone(),
            namespace: observed.namespace.clone(),
            reattached,
        };
        finish::see_through(live, observed, host.as_ref(), owned).await
    }

    /// Everything that happens under the agent's lock and claim.
    #[allow(clippy::too_many_arguments)] // as above
    async fn start<H: Host>(
        &self,
        request: &Request,
        host: &Arc<H>,
        log: &Log,
        cancel: &CancellationToken,
        agent_label: &str,
        owned: &cleanup::Owned<K::Cluster>,
        turn: Turn,
    ) -> Result<Started<K::Cluster>, RunError> {
        let config = &request.config;
        let cluster = self.clusters.cluster(config.kubeconfig.as_deref(), &request.host_env.vars).await?;
        let self_pod = self.self_pods.read(cluster.as_ref(), request).await?;
        let namespace = config.namespace.clone().unwrap_or_else(|| self_pod.namespace.clone());
        let job_name = manifest::job_name(&request.agent.id, &request.run_id);
        let image = config.image.as_deref().unwrap_or(&self_pod.image);
        let start = claim::Start { namespace: &namespace, agent_label, job_name: &job_name, image };
        let mut claim = match claim::take(&self.claims, &self.active, &cluster, &start, log, cancel).await {
            claim::Claimed::Held(claim) => Some(claim),
            claim::Claimed::Ended(outcome) => return Ok(Started::Early(log.told(outcome).await)),
            claim::Claimed::Refused(error) => {
                // Without the namespace there is no Job either, and creating it says so.
                if !error.is_not_found() && self.claims.tell_refusal(config.kubeconfig.as_deref(), &namespace)
                {
                    log.err(format!(
                        "[paperclip] Warning: cannot claim the start of this agent's runs in namespace {namespace} \
                         — two hosts that start one at the same moment would not see each other: {error}"
                    ))
                    .await;
                }
                None
            }
        };
        let started = self.start_claimed(
            request,
            host,
            log,
            agent_label,
            owned,
            cluster,
            &self_pod,
            namespace,
            &mut claim,
        );
        let started = started.await;
        let Some(claim) = claim else { return started };
        let log = log.clone();
        let release = async move {
            if let Some(warning) = claim.release().await {
                log.err(warning).await;
            }
            drop(turn);
        };
        if matches!(started, Ok(Started::Job(_))) {
            // The run goes on meanwhile; its cleanup waits for this.
            owned.await_at_the_end(tokio::spawn(release));
        } else {
            release.await;
        }
        started
    }

    #[allow(clippy::too_many_arguments)] // as above
    async fn start_claimed<H: Host>(
        &self,
        request: &Request,
        host: &Arc<H>,
        log: &Log,
        agent_label: &str,
        owned: &cleanup::Owned<K::Cluster>,
        cluster: Arc<K::Cluster>,
        self_pod: &manifest::SelfPod,
        namespace: String,
        claim: &mut Option<claim::Claim<K::Cluster>>,
    ) -> Result<Started<K::Cluster>, RunError> {
        let target = match guard::check(cluster.as_ref(), request, &namespace, agent_label).await {
            guard::Verdict::Clear => None,
            guard::Verdict::Reattach(target) => Some(target),
            guard::Verdict::Blocked(outcome) => return Ok(Started::Early(log.told(outcome).await)),
        };
        let prepared = host.prepare().await?;
        let bundle = prepare_bundle(request, host.as_ref(), log, &prepared).await?;
        let Some(_creating) = self.active.may_create().await else {
            return Ok(Started::Early(Outcome::cancelled(true)));
        };
        let started = match target {
            Some(target) => {
                let attached =
                    create::reattach(cluster, request, host.as_ref(), log, target, owned, claim.as_ref());
                attached.await.map(Started::Job)
            }
            None => {
                create::create(
                    cluster,
                    request,
                    host.as_ref(),
                    log,
                    self_pod,
                    &prepared,
                    &bundle,
                    owned,
                    claim,
                )
                .await
            }
        };
        self.active.add(owned, request);
        started
    }
}

/// A run whose Job exists.
pub(crate) struct Live {
    request: Arc<Request>,
    log: Log,
    readers: follow::Readers,
    cancel: CancellationToken,
    namespace: String,
    job_name: String,
    /// For a Job of another run: how long to wait for its pod.
    reattached: Option<Duration>,
}

/// What came of the stages under the agent's lock and claim.
enum Started<C> {
    Early(Outcome),
    Job(StartedJob<C>),
}

struct StartedJob<C> {
    cluster: Arc<C>,
    namespace: String,
    job_name: String,
    job_uid: Option<String>,
    reattached: Option<Duration>,
}

/// How the stages ended; the result is chosen after the cleanup, as the contract orders it.
enum Ended {
    Early(Outcome),
    Settled(Box<crate::outcome::Settled>),
}

impl Ended {
    async fn conclude(self, log: &Log) -> Outcome {
        match self {
            Ended::Early(outcome) => outcome,
            Ended::Settled(settled) => log.told(crate::outcome::classify(*settled)).await,
        }
    }
}

/// `Skills bundled (n): …` and the agent's instructions, then the bundle (contract section 3.6).
async fn prepare_bundle<H: Host>(
    request: &Request,
    host: &H,
    log: &Log,
    prepared: &Prepared,
) -> Result<PromptBundle, RunError> {
    log.out(format!("[paperclip] Skills bundled {}", skill_summary(prepared))).await;
    let mut instructions = None;
    if let Some(path) = &request.config.instructions_file_path {
        match tokio::fs::read(path).await {
            Ok(bytes) => instructions = Some(with_directive(&String::from_utf8_lossy(&bytes), path)),
            Err(error) => {
                log.err(format!(
                    "[paperclip] Warning: could not read agent instructions file \"{path}\": {}",
                    node_read_error(&error, path)
                ))
                .await;
            }
        }
    }
    let order = BundleOrder {
        company_id: request.agent.company_id.clone(),
        skills: prepared.skills.clone(),
        instructions_contents: instructions,
    };
    let Bundled { bundle, told } = host.bundle(order).await?;
    for (channel, text) in told {
        log.text(channel, text).await;
    }
    Ok(bundle)
}

/// `(2): a, b`, or `(0): none`.
fn skill_summary(prepared: &Prepared) -> String {
    let names: Vec<&str> = prepared.skills.iter().map(|skill| skill.runtime_name.as_str()).collect();
    let listed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("({}): {listed}", names.len())
}

/// The wording Node has for the commonest failure; operators search for it.
fn node_read_error(error: &std::io::Error, path: &str) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("ENOENT: no such file or directory, open '{path}'"),
        std::io::ErrorKind::PermissionDenied => format!("EACCES: permission denied, open '{path}'"),
        _ => error.to_string(),
    }
}

fn with_directive(text: &str, path: &str) -> String {
    let dir = path.rfind('/').map_or("./".to_owned(), |at| path[..=at].to_owned());
    format!(
        "{text}\nThe agent instructions above come from {path}. Resolve every relative file reference in them \
         against {dir}. For sibling instruction files such as ./HEARTBEAT.md, ./SOUL.md and ./TOOLS.md that \
         directory is authoritative: do not look for them in the parent agent directory."
    )
}

/// The object `onMeta` is called with; the host's own context is added to it in JavaScript.
fn meta_of(
    command: &str,
    namespace: &str,
    args: &[String],
    notes: &[String],
    prompt: &str,
    metrics: Option<Value>,
) -> Value {
    let mut meta = json!({
        "adapterType": manifest::ADAPTER_TYPE,
        "command": command,
        "cwd": namespace,
        "commandArgs": args,
        "commandNotes": notes,
        "prompt": prompt,
    });
    if let Some(metrics) = metrics {
        meta["promptMetrics"] = metrics;
    }
    meta
}

/// The timeout as the contract prints it: `60s`.
fn seconds(value: f64) -> String {
    format!("{}s", crate::js_semantics::number(value))
}
