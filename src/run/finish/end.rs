//! Waits for the first thing that ends a run (`docs/contract.md`, "Waiting for the end").

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::cancel;
use crate::cluster::{ApiError, Cluster};
use crate::forensics::{DetectionPath, Disruption, JobState, conditions_text, suspension};
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
    /// The container ended, and the Job had no condition within the grace period.
    Grace,
    /// The Job was suspended in mid-run, and the container ended because of that.
    Suspended,
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

/// Waits for the first thing that ends the run.
pub(super) async fn wait_for_end<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Arc<Observed<C>>,
    container: &watch::Sender<ContainerState>,
    progress: &Progress,
) -> (RunEnd, JobRecord) {
    let mut wait = EndWait::new(run, observed, progress);
    let mut jobs = pin!(observed.clone().jobs());
    let mut container = container.subscribe();
    wait.on_container_state(&container.borrow_and_update());
    let mut keepalive = keepalive_ticks(wait.started);
    let mut cancelled = pin!(cancel::cancelled_by_control_plane(run, observed));
    let end = loop {
        let end = tokio::select! {
            Some(seen) = jobs.next() => wait.on_job(seen).await,
            Ok(()) = container.changed() => {
                wait.on_container_state(&container.borrow_and_update());
                wait.end_of_suspended()
            }
            () = timing::until(wait.grace_at) => Some(wait.verify_after_grace().await),
            () = timing::until(wait.deadline) => Some(RunEnd::Deadline),
            () = &mut cancelled => Some(cancel::by_control_plane(run, observed).await),
            () = run.cancel.cancelled() => Some(cancel::by_host(observed).await),
            _ = keepalive.tick() => {
                wait.log_keepalive();
                None
            }
        };
        if let Some(end) = end {
            break end;
        }
    };
    (end, wait.record)
}

fn keepalive_ticks(started: Instant) -> Interval {
    let first = started + timing::KEEPALIVE_INTERVAL;
    let mut ticks = tokio::time::interval_at(first, timing::KEEPALIVE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The state of a wait for the end.
struct EndWait<'a, C, H> {
    run: &'a RunContext<C, H>,
    observed: &'a Observed<C>,
    progress: &'a Progress,
    record: JobRecord,
    started: Instant,
    /// When the run's own time limit is over.
    deadline: Option<Instant>,
    /// When the grace period is over; set once the container has ended.
    grace_at: Option<Instant>,
    /// Since when every read of the Job has failed.
    failing_since: Option<Instant>,
}

impl<'a, C: Cluster, H: Host> EndWait<'a, C, H> {
    fn new(run: &'a RunContext<C, H>, observed: &'a Observed<C>, progress: &'a Progress) -> Self {
        let started = Instant::now();
        let config = &run.request.config;
        let deadline = (config.timeout_sec > 0.0)
            .then(|| started + Duration::from_secs_f64(config.timeout_sec + config.grace_sec));
        let record = JobRecord::default();
        Self { run, observed, progress, record, started, deadline, grace_at: None, failing_since: None }
    }

    fn on_container_state(&mut self, container: &ContainerState) {
        if container.is_over() && self.grace_at.is_none() {
            self.grace_at = Some(Instant::now() + timing::COMPLETION_GRACE);
        }
    }

    /// A suspended Job gets no condition when its container has ended: there is nothing to wait for.
    fn end_of_suspended(&self) -> Option<RunEnd> {
        (self.record.suspension.is_some() && self.grace_at.is_some()).then_some(RunEnd::Suspended)
    }

    async fn on_job(&mut self, seen: Result<JobSeen, ApiError>) -> Option<RunEnd> {
        match seen {
            Ok(JobSeen::Present(job)) => {
                self.failing_since = None;
                self.record.polls += 1;
                self.record.conditions = Some(conditions_text(&job));
                self.record.suspension = suspension(&job);
                match JobState::read(&job) {
                    JobState::Running => self.end_of_suspended(),
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

    /// Ends the run when the API has been unreachable for [`timing::RECHECK_LIMIT`].
    async fn on_failed_read(&mut self, error: ApiError) -> Option<RunEnd> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        // Output that keeps coming shows that the run is alive, whatever the API answers.
        let alive_at = self.progress.last_output().max(since);
        if alive_at.elapsed() < timing::RECHECK_LIMIT {
            return None;
        }
        Some(match self.observed.job().await {
            Ok(JobSeen::Gone) => RunEnd::Gone(DetectionPath::RecheckPoll404),
            _ => RunEnd::Unreachable(error),
        })
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

    fn log_keepalive(&self) {
        let quiet = rounded_seconds(self.progress.last_output().elapsed());
        self.run.log.out_if_idle(format!(
            "[paperclip] keepalive — job {} running ({quiet}s since last output)",
            self.observed.job_name
        ));
    }
}

fn rounded_seconds(duration: Duration) -> u64 {
    // Half a second and more rounds up, as JavaScript's Math.round does.
    (duration.as_millis() as u64 + 500) / 1000
}
