//! Plays a run's stages in their order and cleans up after them.

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock};

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::active::{ActiveJob, ActiveJobs, left_by_host};
use super::card::RunCard;
use super::cleanup::{self, OwnedObjects, RetainReason};
use super::context::{LiveJob, RunContext, Stop};
use super::finish::keepalive::Keepalives;
use super::host::StorableHost;
use super::job_view::Observed;
use super::log::pacing::ReaderCount;
use super::record::RunRecord;
use super::start::Started;
use super::start::announce::{self, Announcement};
use super::start::bundle::BundleError;
use super::start::claim::Claims;
use super::start::plan::Plan;
use super::start::queue::{AgentQueues, Turn};
use super::start::run_secrets::RunSecrets;
use super::start::self_pod::SelfPods;
use super::timing::Grid;
use super::unconfirmed::UnconfirmedEnds;
use super::{Host, HostError, LogSink, afresh, events, finish, isolate, shared, timing};
use crate::cluster::watch::{Health, Watches};
use crate::cluster::{ApiError, ApiErrorKind, Clusters, Gate};
use crate::forensics::{Asker, Creations};
use crate::manifest::{self, SelfPodError};
use crate::outcome::{self, ErrorCode, Outcome, Settled};
use crate::request::{self, Request};

/// How many runs start at once, from their turn until their Job and Secret exist. A start holds manifests, requests and
/// answers; those of thousands at once would be memory that the process keeps in pieces, and they would start no sooner: it
/// is the API server that they wait for. A few more than it gets requests at once.
const MOST_STARTS: usize = 48;

/// An error of a stage before the Job exists, or of a function that the tests of 0.1.49 call by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The cluster cannot be set up, or the host's own pod cannot be read.
    #[error(transparent)]
    Cluster(#[from] ApiError),
    /// The host's own pod cannot serve as the model of a Job.
    #[error(transparent)]
    SelfPod(#[from] SelfPodError),
    /// A helper or callback of the host failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The configuration asks for what the operator does not grant.
    #[error("{0}")]
    NotGranted(String),
    /// The prompt bundle cannot be made.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl RunError {
    /// The result of a run that this ends.
    fn outcome(&self) -> Outcome {
        let text = self.to_string();
        match self {
            RunError::Cluster(error) if error.kind != ApiErrorKind::Setup => Outcome::api_unreachable(&text),
            RunError::Cluster(_) | RunError::SelfPod(_) => Outcome::setup_invalid(&text),
            RunError::NotGranted(_) => Outcome::config_invalid(&text),
            RunError::Host(_) => Outcome::host_failed(&text),
            RunError::Bundle(_) => Outcome::bundle_failed(&text),
        }
    }
}

/// The result of a run that ended on the host's side. `began`: its request may have reached a runner, so that a Job of it
/// can exist.
pub(crate) fn failed_at_the_host(error: &str, began: bool) -> Outcome {
    let outcome = if began { Outcome::internal_error(error) } else { Outcome::host_failed(error) };
    let proof = (!began).then(Creations::default).and_then(Creations::nothing_started);
    RunRecord::default().explain(outcome.proven(proof))
}

/// What a process has alive: all of it is zero when no run is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Vitals {
    /// Jobs on the list of those under way.
    pub(crate) jobs: usize,
    /// Agents whose runs queue for their start.
    pub(crate) queues: usize,
    /// Namespaces that are watched; their watches stay open for a moment after the last run.
    pub(crate) watches: usize,
    /// Subscriptions to them, one per run.
    pub(crate) subscriptions: usize,
}

/// Everything that the runs of one process share.
pub(crate) struct Runner<K: Clusters> {
    pub(crate) clusters: K,
    pub(super) queues: AgentQueues,
    pub(super) active: ActiveJobs<K::Cluster>,
    pub(crate) self_pods: SelfPods,
    pub(super) watches: Watches<K::Cluster>,
    pub(super) claims: Claims<K::Cluster>,
    pub(super) run_secrets: RunSecrets,
    pub(super) readers: ReaderCount,
    keepalives: Keepalives,
    starts: Gate,
    unconfirmed: UnconfirmedEnds,
}

impl<K: Clusters> Runner<K> {
    /// A runner without any run.
    pub(crate) fn new(clusters: K) -> Self {
        let grid = Grid::new();
        Self {
            clusters,
            queues: AgentQueues::default(),
            active: ActiveJobs::default(),
            self_pods: SelfPods::default(),
            watches: Watches::new(manifest::watch_selector()),
            claims: Claims::default(),
            run_secrets: RunSecrets::default(),
            readers: ReaderCount::new(grid),
            keepalives: Keepalives::new(grid),
            starts: Gate::new(MOST_STARTS),
            unconfirmed: UnconfirmedEnds::default(),
        }
    }

    /// The cluster of a request, where the operator grants it.
    ///
    /// # Errors
    /// Of kind [`ApiErrorKind::Setup`].
    pub(crate) async fn cluster(&self, request: &Request) -> Result<Arc<K::Cluster>, ApiError> {
        let kubeconfig = shared::granted_kubeconfig(request).await?;
        self.clusters.cluster(kubeconfig.as_deref(), &request.host_env.vars).await
    }

    /// Deletes the Jobs, and with them the Secrets, of all runs that are under way and resolves when that is done, or after
    /// [`timing::SHUTDOWN_LIMIT`].
    /// Runs that leave theirs to the next host, or retain them, keep them. Returns what was deleted.
    pub(crate) async fn shutdown(&self) -> Vec<ActiveJob> {
        let until = Instant::now() + timing::SHUTDOWN_LIMIT;
        let deleted = self.active.delete_all().await;
        let _ = tokio::time::timeout_at(until, self.claims.release_all()).await;
        deleted
    }

    /// Queues a run of this agent: its runs start one after the other, in the order of these calls.
    pub(crate) fn queue(&self, agent_id: &str) -> Turn {
        self.queues.queue(agent_id)
    }

    /// The Jobs of all runs that are under way.
    pub(crate) fn active_jobs(&self) -> Vec<ActiveJob> {
        self.active.list()
    }

    /// How much of everything is alive.
    pub(crate) fn vitals(&self) -> Vitals {
        let (watches, subscriptions) = self.watches.count();
        Vitals { jobs: self.active.list().len(), queues: self.queues.count(), watches, subscriptions }
    }

    /// One run, from the request to the result.
    ///
    /// `turn` is the run's turn among those of its agent, from [`Runner::queue`]; without one the run queues when it
    /// starts. `cancel` is the host's abort signal. Everything the run logs goes through `host`; nothing reaches the
    /// host after this has resolved.
    ///
    /// Every failure is an [`Outcome`], also a panic (`docs/contract.md`, "Every run has a result").
    pub(crate) async fn execute<H: Host>(
        &self,
        request_json: impl AsRef<str>,
        host: Arc<H>,
        cancel: CancellationToken,
        turn: Option<Turn>,
    ) -> Outcome {
        let host = Arc::new(StorableHost(host));
        let (log, drain) = LogSink::open(host.clone());
        // Owns every clone of the log, so that all are dropped before its end is awaited.
        let run = async move {
            let owned = OwnedObjects::default();
            let request = match Request::parse(request_json.as_ref()) {
                Ok(request) => Arc::new(request),
                Err(error) => {
                    let outcome = Outcome::config_invalid(&error.to_string())
                        .proven(owned.nothing_created())
                        .for_agent(&request::agent_id(request_json.as_ref()));
                    let outcome = RunRecord::default().explain(outcome);
                    return log.log_outcome(outcome).await;
                }
            };
            // What a run needs of it is in the request; its text would be kept until the end.
            drop(request_json);
            if request.host_env.get("PAPERCLIP_API_URL").is_none_or(str::is_empty) {
                log.err("[paperclip] Warning: PAPERCLIP_API_URL not set — cancel polling disabled").await;
            }
            let Some(agent_label) = request.agent_label() else {
                let outcome = Outcome::agent_id_invalid(&request.agent.id)
                    .proven(owned.nothing_created())
                    .for_agent(&request.agent.id);
                return log.log_outcome(RunRecord::default().explain(outcome)).await;
            };
            let record = RunRecord::default();
            let card = Arc::new(RunCard::new(host.clone()));
            let run = RunContext {
                request,
                host,
                log,
                cancel,
                agent_label,
                owned,
                card,
                record,
                announcement: Announcement::default(),
                closing: self.active.closing(),
                ended_job: OnceLock::new(),
                readers: self.readers.clone(),
                keepalives: self.keepalives.clone(),
                unconfirmed: self.unconfirmed.clone(),
            };
            self.play(run, turn).await
        };
        let outcome = AssertUnwindSafe(Box::pin(run)).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|panic| failed_at_the_host(&panic_text(panic.as_ref()), true));
        drain.drained().await;
        outcome
    }

    /// The stages, and the cleanup on every way out of them. A panic leaves a Job that is alive to the next run.
    async fn play<H: Host>(&self, run: RunContext<K::Cluster, H>, turn: Option<Turn>) -> Outcome {
        for note in &run.request.config.notes {
            run.log.out(format!("[paperclip] {note}")).await;
        }
        if run.cancel.is_cancelled() {
            return run.record.explain(Outcome::cancelled(true));
        }
        // A stage is on the heap while it lasts: together they would outgrow the stack of a thread in a debug build.
        let stages = AssertUnwindSafe(Box::pin(self.stages(&run, turn))).catch_unwind();
        // What a cancel or a shutdown has to do does not wait for a host that takes no log.
        let hurried = isolate(async {
            tokio::select! {
                () = run.cancel.cancelled() => {}
                () = run.closing.begun() => {}
            }
            run.log.end_within(timing::LOG_STALL_LIMIT);
            std::future::pending::<Infallible>().await
        });
        let ended = tokio::select! {
            ended = stages => ended,
            never = hurried => match never {},
        };
        run.log.end_within(timing::HOST_ANSWER_LIMIT);
        // Chosen and explained by what was seen before the cleanup, and logged after it: the contract has the log lines in
        // this order.
        let outcome = match ended {
            Ok(Ok(settled)) => outcome::classify(settled),
            Ok(Err(Stop::Outcome(outcome))) => outcome,
            Ok(Err(Stop::Error(error))) => error.outcome().proven(run.owned.nothing_created()),
            Err(panic) => {
                run.owned.retain_job(RetainReason::Panicked);
                Outcome::internal_error(&panic_text(panic.as_ref())).proven(run.owned.nothing_created())
            }
        };
        let outcome =
            if run.record.was_ended_by(Asker::Shutdown) { outcome.lost_to_shutdown() } else { outcome };
        let outcome = run.record.explain(outcome);
        events::give_forensics(&run, &outcome);
        let job = run.owned.job().map(|job| job.name);
        cleanup::clean_up(&run).await;
        self.active.remove(&run.owned);
        tracing::debug!(run = run.request.run_id, job, "cleaned up");
        let outcome = run.log.log_outcome(outcome.for_agent(&run.request.agent.id)).await;
        let code = outcome.error_code().map(ErrorCode::as_str);
        tracing::debug!(run = run.request.run_id, code, "resolved");
        outcome
    }

    async fn stages<H: Host>(
        &self,
        run: &RunContext<K::Cluster, H>,
        turn: Option<Turn>,
    ) -> Result<Settled, Stop> {
        let mut turn = turn.unwrap_or_else(|| self.queues.queue(&run.request.agent.id));
        let starting = async {
            run.unless_cancelled(turn.wait()).await?;
            let pass = run.unless_cancelled(self.starts.enter(timing::START_LINE_LIMIT)).await?;
            // Made only now: a run in line has nothing yet of what its start needs.
            pass.hold_during(async { Box::pin(self.start(run, turn, None)).await }).await
        };
        let Started { job, plan } = Box::pin(announce::while_starting(run, starting)).await?;
        let began = Instant::now();
        let resumed = job.session.resumed.clone();
        let settled = Box::pin(self.follow(run, job)).await?;
        match afresh::reason(run, &settled, &resumed, began.elapsed()) {
            None => Ok(settled),
            Some(reason) => {
                Box::pin(self.play_afresh(run, plan.afresh(began.elapsed()), &resumed, reason)).await
            }
        }
    }

    /// Plays the run a second time, without the session that its first Job could not resume: at most once, because a new
    /// session is none that was resumed.
    async fn play_afresh<H: Host>(
        &self,
        run: &RunContext<K::Cluster, H>,
        plan: Plan,
        session: &str,
        reason: &str,
    ) -> Result<Settled, Stop> {
        run.log
            .out(format!(
                "[paperclip] Claude session \"{session}\" {reason} — starting again with a new session"
            ))
            .await;
        if let Some(job) = run.owned.job() {
            let _ = run.ended_job.set(job.name);
        }
        cleanup::clean_up(run).await;
        self.active.remove(&run.owned);
        run.record.begin_anew();
        let mut turn = self.queues.queue(&run.request.agent.id);
        run.unless_cancelled(turn.wait()).await?;
        let Started { job, .. } = Box::pin(self.start(run, turn, Some(plan))).await?;
        let settled = Box::pin(self.follow(run, job)).await?;
        // The first CLI of the run had begun.
        Ok(Settled { nothing_started: None, ..settled })
    }

    /// Follows a Job to its end, or until the host's process leaves it to the next one.
    async fn follow<H: Host>(
        &self,
        run: &RunContext<K::Cluster, H>,
        job: LiveJob<K::Cluster>,
    ) -> Result<Settled, Stop> {
        let name = job.job_name.clone();
        let following = async {
            let observed = self.observe(run, job).await;
            finish::follow_to_end(run, observed).await
        };
        tokio::select! {
            settled = following => settled,
            () = isolate(left_by_host(run)) => {
                run.owned.retain_job(RetainReason::Left);
                Err(Stop::Outcome(Outcome::left_by_host(&name)))
            }
        }
    }

    /// Subscribes to the watches of the Job's namespace.
    async fn observe<H: Host>(
        &self,
        run: &RunContext<K::Cluster, H>,
        job: LiveJob<K::Cluster>,
    ) -> Observed<K::Cluster> {
        let LiveJob {
            cluster,
            namespace,
            job_name,
            job_uid,
            warnings,
            reattached,
            end_token,
            session,
            spent,
        } = job;
        run.record.place(&namespace, &job_name);
        let watched = self.watches.subscribe(&cluster, &namespace, &job_name, job_uid.as_deref());
        let deletions_read = Mutex::default();
        let observed = Observed {
            cluster,
            namespace,
            job_name,
            job_uid,
            warnings,
            reattached,
            end_token,
            session,
            spent,
            end_said: watch::Sender::new(None),
            watched,
            deletions_read,
            own_pods_read: Mutex::default(),
            disruptions_read: Mutex::default(),
            record: run.record.clone(),
        };
        if observed.wait_for_watches().await == Health::Refused
            && self.watches.is_first_refusal(&observed.cluster)
        {
            run.log
                .out(format!(
                    "[paperclip] Watching Jobs and Pods is not permitted in namespace {} — polling every {}s instead \
                     (grant the watch verb to react at once)",
                    observed.namespace,
                    timing::POLL_INTERVAL.as_secs()
                ))
                .await;
        }
        observed
    }
}

/// What a panic said, if it was text.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown").to_owned()
}
