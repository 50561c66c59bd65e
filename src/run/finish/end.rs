//! Waits for the first thing that ends a run (`docs/contract.md`, "Waiting for the end").

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::keepalive::Keepalive;
use super::{cancel, pod_end};
use crate::cluster::{ApiError, Cluster};
use crate::forensics::{
    Asker, DetectionPath, Disruption, JobState, Missing, claude_may_run, conditions_text, disruption,
    failing, missing_cause, node_is_silent, node_of, suspension,
};
use crate::run::cleanup::RetainReason;
use crate::run::context::RunContext;
use crate::run::job_view::{ContainerState, JobSeen, Observed};
use crate::run::log::progress::Progress;
use crate::run::{Host, timing};

/// What ended a run.
#[derive(Debug)]
pub(super) enum RunEnd {
    /// The Job has a final condition.
    Job(JobState),
    /// The Job is gone.
    Gone(DetectionPath),
    /// The pod's last line said that the CLI had ended with 0, after its result.
    Told,
    /// The container's own end is known, and its log was read to the end.
    Container,
    /// The container ended, nobody knows how, and the Job had no condition within the grace period.
    Grace,
    /// The Job was suspended in mid-run, and the container ended because of that.
    Suspended,
    /// The CLI did not exit after its result; the Job was deleted.
    Hung,
    /// The deletion of the pod is overdue: its node does not carry it out.
    Lost(LostPod),
    /// The run's own time limit.
    Deadline,
    /// The control plane or the host cancelled the run.
    Cancelled { acknowledged: bool },
    /// The API was unreachable for too long.
    Unreachable(ApiError),
}

/// What a run learned of its Job while it waited.
#[derive(Default)]
pub(super) struct JobRecord {
    /// How often the Job was seen.
    pub(super) polls: u64,
    /// Its conditions when it was last seen.
    pub(super) conditions: Option<String>,
    /// When it was found gone.
    pub(super) gone_at: Option<Instant>,
    /// Set while the Job is suspended: the Job controller ends its pod.
    pub(super) suspension: Option<Disruption>,
}

/// Waits for the first thing that ends the run, and then for the end of its pod where that matters.
pub(super) async fn wait_for_end<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Arc<Observed<C>>,
    followed: Followed<'_>,
) -> (RunEnd, JobRecord) {
    let mut wait = EndWait::new(run, observed, followed.progress);
    let mut jobs = pin!(observed.clone().jobs());
    let mut container = followed.container.subscribe();
    let mut log_is_over = followed.log_is_over.subscribe();
    let mut pods = observed.watched.changes();
    pods.mark_changed();
    wait.on_container_state(&container.borrow_and_update());
    let _lines = Keepalive::start(run, &observed.job_name, followed.pod, followed.progress.clone());
    let mut cancelled = pin!(cancel::cancelled_by_control_plane(run, observed));
    let end = loop {
        let end = tokio::select! {
            Some(seen) = jobs.next() => wait.on_job(seen).await,
            Ok(()) = container.changed() => {
                wait.on_container_state(&container.borrow_and_update());
                wait.end_of_suspended()
            }
            Ok(()) = log_is_over.changed() => None,
            () = followed.progress.result_came() => None,
            Ok(()) = pods.changed() => {
                let pod = pods.borrow_and_update().pods.get(followed.pod).and_then(|seen| seen.last().cloned());
                wait.on_pod(pod).await;
                None
            }
            () = timing::until(wait.grace_at) => Some(Box::pin(wait.on_grace_over()).await),
            () = timing::until(wait.deadline) => {
                run.record.ask_to_end(Asker::TimeLimit);
                Some(Box::pin(wait.end_by(RunEnd::Deadline)).await)
            }
            () = timing::until(wait.cause_at) => Box::pin(wait.on_cause_due(followed.pod)).await,
            () = timing::until(wait.hung_at()) => Box::pin(wait.on_hung()).await,
            () = timing::until(wait.lost_at()) => wait.on_lost(),
            () = &mut cancelled => Some(Box::pin(cancel::by_control_plane(run, observed)).await),
            () = run.cancel.cancelled() => Some(Box::pin(cancel::by_host(run, observed)).await),
            () = timing::until(wait.unseen_at(followed.pod)) => {
                Box::pin(wait.look_at_pod(followed.pod)).await;
                None
            }
        };
        let known = || wait.known_end(*followed.log_is_over.borrow(), &followed.container.borrow());
        if let Some(end) = end.or_else(known) {
            break end;
        }
    };
    let record = wait.record;
    if end.may_leave_its_pod() {
        Box::pin(pod_end::see_out(run, observed)).await;
    }
    (end, record)
}

/// What the follower of a run's log shares with the wait for its end.
#[derive(Clone, Copy)]
pub(super) struct Followed<'a> {
    /// The name of the pod; empty where the run saw none.
    pub(super) pod: &'a str,
    pub(super) container: &'a watch::Sender<ContainerState>,
    pub(super) progress: &'a Arc<Progress>,
    /// Whether the log was read to its end.
    pub(super) log_is_over: &'a watch::Sender<bool>,
}

/// A pod whose deletion is overdue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LostPod {
    pub(super) node: Option<String>,
    /// For how long, in seconds.
    pub(super) overdue: u64,
    /// The cluster says that the node, or what runs on it, is lost; else only that the deletion is overdue.
    pub(super) with_node: bool,
}

impl RunEnd {
    /// Whether the pod may still be there, with its CLI at work.
    fn may_leave_its_pod(&self) -> bool {
        match self {
            RunEnd::Gone(_) | RunEnd::Deadline | RunEnd::Hung => true,
            // Before Kubernetes 1.31 the condition comes before the end of the pod.
            RunEnd::Job(JobState::Failed { reason }) => reason.as_deref() == Some(DEADLINE),
            _ => false,
        }
    }
}

/// The reason of a Job that reached its deadline.
const DEADLINE: &str = "DeadlineExceeded";

/// The state of a wait for the end.
struct EndWait<'a, C, H> {
    run: &'a RunContext<C, H>,
    observed: &'a Observed<C>,
    progress: &'a Progress,
    record: JobRecord,
    /// When the pod was read last because it printed nothing.
    looked_at: Instant,
    /// When the run's own time limit is over.
    deadline: Option<Instant>,
    /// When the grace period is over; set once the container has ended, until its own end is known.
    grace_at: Option<Instant>,
    /// Since when every read of the Job has failed.
    failing_since: Option<Instant>,
    /// Whether it was logged that the API is away.
    away_logged: bool,
    /// The pod as it was last seen.
    pod: Option<Arc<Pod>>,
    /// Whether the container runs, as far as is known.
    runs: bool,
    /// Whether its own end is known.
    end_is_known: bool,
    /// What the Job is failing for, before its final condition.
    failing: Option<String>,
    /// What is still to be seen of what ended the container, and until when.
    missing: Option<(Missing, Instant)>,
    /// When to look for it next.
    cause_at: Option<Instant>,
    /// When the pod should have been gone, had its node carried out its deletion.
    gone_by: Option<Instant>,
    /// Which transitions of the pod were logged.
    logged: Transitions,
}

/// Transitions of a pod that are logged once.
#[derive(Default)]
struct Transitions {
    being_ended: bool,
    silent_node: bool,
    failing_job: bool,
}

impl<'a, C: Cluster, H: Host> EndWait<'a, C, H> {
    fn new(run: &'a RunContext<C, H>, observed: &'a Observed<C>, progress: &'a Progress) -> Self {
        let deadline = run.time_limit(observed.spent);
        Self {
            run,
            observed,
            progress,
            record: JobRecord::default(),
            looked_at: Instant::now(),
            deadline,
            grace_at: None,
            failing_since: None,
            away_logged: false,
            pod: None,
            runs: true,
            end_is_known: false,
            failing: None,
            missing: None,
            cause_at: None,
            gone_by: None,
            logged: Transitions::default(),
        }
    }

    fn on_container_state(&mut self, container: &ContainerState) {
        if container.is_over() && self.grace_at.is_none() {
            self.runs = false;
            self.end_is_known =
                matches!(container, ContainerState::Ended(Some(state)) if state.is_accounted_for());
            self.grace_at = Some(Instant::now() + timing::COMPLETION_GRACE);
        }
    }

    /// A suspended Job gets no condition when its container has ended: there is nothing to wait for.
    fn end_of_suspended(&self) -> Option<RunEnd> {
        (self.record.suspension.is_some() && self.grace_at.is_some()).then_some(RunEnd::Suspended)
    }

    /// The end of a run whose container's own end is known and whose log was read to the end, once what ended the
    /// container is known as well, or not to be expected any more.
    fn known_end(&mut self, log_is_over: bool, container: &ContainerState) -> Option<RunEnd> {
        let ContainerState::Ended(Some(state)) = container else { return None };
        if !log_is_over || !state.is_accounted_for() {
            return None;
        }
        let has_succeeded = state.exit_code == Some(0) && self.progress.is_result_last();
        if !has_succeeded && self.failing.as_deref() == Some(DEADLINE) {
            return Some(RunEnd::Job(JobState::Failed { reason: self.failing.clone() }));
        }
        let missing = if has_succeeded { None } else { missing_cause(state, self.pod.as_deref()) };
        let Some(missing) = missing.filter(|_| self.failing.is_none()) else {
            return Some(RunEnd::Container);
        };
        let now = Instant::now();
        let until = match &self.missing {
            Some((known, until)) if *known == missing => *until,
            _ => now + if missing == Missing::Job { timing::ENDED_JOB_LAG } else { timing::CAUSE_LAG },
        };
        self.missing = Some((missing, until));
        if now >= until {
            return Some(RunEnd::Container);
        }
        // Where there is a watch it shows what is missing.
        let pause = match (self.observed.is_watched(), &self.pod) {
            (true, _) => until - now,
            (false, None) => Duration::ZERO,
            (false, Some(_)) => timing::ENDED_JOB_INTERVAL,
        };
        self.cause_at = Some(until.min(now + pause));
        None
    }

    async fn on_cause_due(&mut self, pod: &str) -> Option<RunEnd> {
        self.cause_at = None;
        if self.observed.is_watched() {
            return None;
        }
        self.read_pod(pod).await;
        match self.observed.job().await {
            // A failed read shows nothing, and is no sign of an outage.
            Err(_) => None,
            seen => self.on_job(seen).await,
        }
    }

    async fn read_pod(&mut self, pod: &str) {
        if let Ok(Some(pod)) = self.observed.pod_named(pod).await {
            self.on_pod(Some(Arc::new(pod))).await;
        }
    }

    /// Logs what the cluster says of the pod, once for each transition.
    async fn on_pod(&mut self, pod: Option<Arc<Pod>>) {
        let Some(pod) = pod else { return };
        self.pod = Some(pod.clone());
        let pod = &*pod;
        if !self.runs || !claude_may_run(pod) {
            return;
        }
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if node_is_silent(pod) && !std::mem::replace(&mut self.logged.silent_node, true) {
            let node = node_of(pod).unwrap_or("unknown");
            let line = format!("[paperclip] Pod {name}: its node {node} does not answer (Ready=False)");
            self.run.log.out(line).await;
        }
        if let Some(cause) = disruption(pod)
            && !std::mem::replace(&mut self.logged.being_ended, true)
        {
            self.run.log.out(format!("[paperclip] Pod {name} is being ended: {}", cause.text())).await;
        }
        if pod.metadata.deletion_timestamp.is_some() && self.gone_by.is_none() {
            let grace =
                pod.metadata.deletion_grace_period_seconds.and_then(|grace| u64::try_from(grace).ok());
            let grace = grace.map_or(timing::DEFAULT_POD_GRACE, Duration::from_secs);
            self.gone_by = Some(Instant::now() + grace);
        }
    }

    /// When the pod counts as lost, unless its end is seen or it prints something.
    fn lost_at(&self) -> Option<Instant> {
        let gone_by = self.gone_by.filter(|_| self.runs)?;
        Some(gone_by.max(self.progress.last_new()) + timing::LOST_NODE_LIMIT)
    }

    fn on_lost(&mut self) -> Option<RunEnd> {
        let gone_by = self.gone_by.filter(|_| self.lost_at().is_some_and(|at| at <= Instant::now()))?;
        let pod = self.pod.as_deref();
        let node = pod.and_then(node_of).map(str::to_owned);
        let is_disrupted = pod.and_then(disruption).is_some_and(|by| !by.is_plain_deletion());
        let with_node = self.logged.silent_node || is_disrupted || self.failing.is_some();
        Some(RunEnd::Lost(LostPod { node, overdue: gone_by.elapsed().as_secs(), with_node }))
    }

    /// When to look whether a CLI that has printed its result hangs.
    fn hung_at(&self) -> Option<Instant> {
        let is_due = self.runs && self.progress.is_result_last();
        // A log that is not being read now may be soon.
        let later = || Instant::now() + timing::KEEPALIVE_INTERVAL;
        is_due.then(|| self.hangs_from().unwrap_or_else(later))
    }

    /// When such a CLI counts as hung, unless it prints something or exits; `None` while its log is not being read.
    fn hangs_from(&self) -> Option<Instant> {
        Some(self.progress.silent_since()? + self.run.request.config.result_grace)
    }

    async fn on_hung(&mut self) -> Option<RunEnd> {
        let hangs = self.runs && self.progress.is_result_last();
        self.hangs_from().filter(|at| hangs && *at <= Instant::now())?;
        let (seconds, job) = (self.run.request.config.result_grace.as_secs(), &self.observed.job_name);
        let line = format!(
            "[paperclip] Claude printed its result and has not exited for {seconds}s — deleting Job {job}"
        );
        let log = self.run.log.clone();
        self.run.record.ask_to_end(Asker::AfterResult);
        let ((), end) = tokio::join!(log.out(line), self.end_by(RunEnd::Hung));
        Some(end)
    }

    /// Deletes the Job of a run that is over although its CLI is not.
    async fn end_by(&mut self, end: RunEnd) -> RunEnd {
        // A Job that is retained ends by its own deadline.
        if self.run.request.config.retain_jobs && matches!(end, RunEnd::Deadline) {
            return end;
        }
        match pod_end::delete_job(self.observed).await {
            Ok(()) => self.run.owned.retain_job(RetainReason::AlreadyGone),
            Err(error) => {
                let job = &self.observed.job_name;
                let line = format!("[paperclip] Warning: Job {job} could not be deleted: {error}");
                self.run.log.err(line).await;
            }
        }
        end
    }

    /// When the pod is read because it prints nothing and cannot be watched: its node may be lost.
    fn unseen_at(&self, pod: &str) -> Option<Instant> {
        let is_unseen = self.runs && !pod.is_empty() && !self.observed.is_watched();
        is_unseen.then(|| self.looked_at.max(self.progress.last_new()) + timing::KEEPALIVE_INTERVAL)
    }

    async fn look_at_pod(&mut self, pod: &str) {
        if self.unseen_at(pod).is_some_and(|at| at <= Instant::now()) {
            self.looked_at = Instant::now();
            self.read_pod(pod).await;
        }
    }

    /// Logs that the Job is failing, or was suspended, before it has its final condition.
    async fn on_failing(&mut self, job: &Job) {
        let Some((text, reason)) = failing(job) else { return };
        self.failing = Some(reason);
        if self.runs && !std::mem::replace(&mut self.logged.failing_job, true) {
            self.run
                .log
                .out(format!("[paperclip] Job {} is being ended: {text}", self.observed.job_name))
                .await;
        }
    }

    async fn on_job(&mut self, seen: Result<JobSeen, ApiError>) -> Option<RunEnd> {
        match seen {
            Ok(JobSeen::Present(job)) => {
                self.on_answer().await;
                self.record.polls += 1;
                self.record.conditions = Some(conditions_text(&job));
                // A Job that is resumed at once has lost its pod all the same.
                let is_deleting = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
                let lost_pod = self.pod.as_deref().is_some_and(is_deleting);
                let before = self.record.suspension.take().filter(|_| lost_pod);
                self.record.suspension = suspension(&job).or(before);
                match JobState::read(&job) {
                    JobState::Running => {
                        self.on_failing(&job).await;
                        self.end_of_suspended()
                    }
                    state => Some(RunEnd::Job(state)),
                }
            }
            Ok(JobSeen::Deleted(job)) => {
                // The last object shows whether the Job had ended before its deletion.
                self.record.conditions = Some(conditions_text(&job));
                self.record.gone_at = Some(Instant::now());
                Some(match JobState::read(&job) {
                    JobState::Running => RunEnd::Gone(DetectionPath::WatchDeleted),
                    state => RunEnd::Job(state),
                })
            }
            Ok(JobSeen::Gone) => {
                self.record.gone_at = Some(Instant::now());
                Some(RunEnd::Gone(DetectionPath::CompletionPoll404))
            }
            Err(error) => self.on_failed_read(error).await,
        }
    }

    async fn on_answer(&mut self) {
        let Some(since) = self.failing_since.take() else { return };
        if std::mem::take(&mut self.away_logged) {
            let seconds = since.elapsed().as_secs();
            self.run.log.out(format!("[paperclip] The Kubernetes API answers again after {seconds}s")).await;
        }
    }

    /// Ends the run when the API has been away for `apiOutageSec`.
    async fn on_failed_read(&mut self, error: ApiError) -> Option<RunEnd> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let limit = self.run.request.config.api_outage;
        // Output that keeps coming shows that the run is alive, whatever the API answers.
        let alive_at = self.progress.last_new().max(since);
        if alive_at.elapsed() < limit {
            let due = since.elapsed() >= timing::API_AWAY_NOTICE;
            if due && !std::mem::replace(&mut self.away_logged, true) {
                let seconds = limit.as_secs();
                let line = format!(
                    "[paperclip] The Kubernetes API does not answer — waiting up to {seconds}s for it ({error})"
                );
                self.run.log.out(line).await;
            }
            return None;
        }
        Some(match self.observed.job().await {
            Ok(JobSeen::Gone) => RunEnd::Gone(DetectionPath::RecheckPoll404),
            _ => RunEnd::Unreachable(error),
        })
    }

    /// Ends the run after the grace period, unless its container's own end is known: then only its log is not over, and
    /// the rest of it is read.
    async fn on_grace_over(&mut self) -> RunEnd {
        if self.end_is_known { RunEnd::Container } else { self.verify_after_grace().await }
    }

    /// Reads the Job after the grace period: its condition may have come at the last moment, it may be gone, or its
    /// state cannot be read. Each but the first is logged.
    async fn verify_after_grace(&mut self) -> RunEnd {
        let name = &self.observed.job_name;
        let seen = self.observed.job().await;
        if seen.as_ref().is_ok_and(JobSeen::is_over) {
            // The watch should have shown that.
            self.observed.watched.request_resync();
        }
        let (line, end) = match seen {
            Ok(JobSeen::Present(job)) => match JobState::read(&job) {
                JobState::Running => (
                    format!(
                        "[paperclip] Log stream exited 30s ago without K8s Job condition update; Job {name} still present — proceeding with captured output (FAR-23)"
                    ),
                    RunEnd::Grace,
                ),
                state => return RunEnd::Job(state),
            },
            Ok(JobSeen::Deleted(_) | JobSeen::Gone) => {
                self.record.gone_at = Some(Instant::now());
                (
                    format!(
                        "[paperclip] Log stream exited 30s ago and Job {name} is gone (TTL or external deletion) — proceeding with captured output (FAR-23)"
                    ),
                    RunEnd::Gone(DetectionPath::GracePeriodVerify404),
                )
            }
            Err(error) => (
                format!(
                    "[paperclip] Log stream exited 30s ago; Job state unverifiable ({error}) — proceeding with captured output (FAR-23)"
                ),
                RunEnd::Grace,
            ),
        };
        self.run.log.out(line).await;
        end
    }
}
