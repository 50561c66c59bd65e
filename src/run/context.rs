//! What the stages of one run share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::active::Closing;
use super::card::RunCard;
use super::cleanup::OwnedObjects;
use super::finish::keepalive::Keepalives;
use super::log::pacing::ReaderCount;
use super::record::RunRecord;
use super::start::announce::{Announcement, announce};
use super::unconfirmed::UnconfirmedEnds;
use super::{Host, LogSink, RunError, timing};
use crate::claude::EndToken;
use crate::forensics::Asker;
use crate::manifest::{JobSession, SelfPod};
use crate::outcome::Outcome;
use crate::request::Request;

/// What every stage of one run needs.
pub(crate) struct RunContext<C, H> {
    pub(crate) request: Arc<Request>,
    pub(crate) host: Arc<H>,
    pub(crate) log: LogSink,
    /// The host's abort signal.
    pub(crate) cancel: CancellationToken,
    /// The agent's id in the form a label can have.
    pub(crate) agent_label: String,
    /// Cluster objects this run must delete.
    pub(crate) owned: OwnedObjects<C>,
    /// What the host shows while the run waits.
    pub(crate) card: Arc<RunCard>,
    /// What the run has seen so far.
    pub(crate) record: RunRecord,
    /// The event that names the CLI to the host.
    pub(crate) announcement: Announcement,
    /// Whether the host's process shuts down.
    pub(crate) closing: Closing,
    /// The run's first Job, once that is over and the run starts a second one.
    pub(crate) ended_job: OnceLock<String>,
    /// Counts the logs that all runs of the process follow, for their pace.
    pub(crate) readers: ReaderCount,
    /// Logs the keep-alive lines of all runs of the process.
    pub(crate) keepalives: Keepalives,
    /// Jobs of all runs of the process whose pod may have told its own end falsely.
    pub(crate) unconfirmed: UnconfirmedEnds,
}

impl<C, H> RunContext<C, H> {
    /// Ends the run with this outcome: its log lines are written now, before anything is cleaned up. While no Job of the
    /// run can exist, the outcome has the proof that nothing of the agent's work had started.
    pub(crate) async fn stop(&self, outcome: Outcome) -> Stop {
        let outcome = outcome.proven(self.owned.nothing_created());
        Stop::Outcome(self.log.log_outcome(outcome).await)
    }

    /// When the run's own time limit is over, of which a Job before has taken this much.
    pub(crate) fn time_limit(&self, spent: Duration) -> Option<Instant> {
        let config = &self.request.config;
        (config.timeout_sec > 0.0).then(|| timing::deadline(config.timeout_sec + config.grace_sec, spent))
    }
}

impl<C, H: Host> RunContext<C, H> {
    /// Work during which nothing of this run is in the cluster: a cancel ends the run at once, and so does the end of the
    /// host's process, which waits for its runs.
    pub(crate) async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.cancel.cancelled() => Err(Stop::Outcome(Outcome::cancelled(true))),
            stop = async { self.closing.begun().await; self.lost_host().await } => Err(stop),
        }
    }

    /// Ends a run that has no Job yet, because its host's process ends.
    pub(crate) async fn lost_host(&self) -> Stop {
        let _ = tokio::time::timeout(timing::ANNOUNCE_LIMIT, announce(self)).await;
        self.record.ask_to_end(Asker::Shutdown);
        self.stop(Outcome::host_shutdown()).await
    }
}

/// Why a run stops before its end could be observed.
pub(crate) enum Stop {
    /// It has a result already.
    Outcome(Outcome),
    /// A stage before the Job's creation failed.
    Error(RunError),
}

impl<E: Into<RunError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Error(error.into())
    }
}

/// Where a run's Job is to be created.
pub(crate) struct Placement<C> {
    pub(crate) cluster: Arc<C>,
    pub(crate) namespace: String,
    pub(crate) job_name: String,
    /// The host's own pod, the model of the Job.
    pub(crate) self_pod: Box<SelfPod>,
}

/// A run's Job, created or reattached to.
pub(crate) struct LiveJob<C> {
    pub(crate) cluster: Arc<C>,
    pub(crate) namespace: String,
    pub(crate) job_name: String,
    pub(crate) job_uid: Option<String>,
    /// What the API server warned of when it accepted the Job, one line each.
    pub(crate) warnings: Vec<String>,
    /// For a Job of another run: how long to wait for its pod.
    pub(crate) reattached: Option<Duration>,
    /// The token of the pod's last line; `None` where the pod prints none.
    pub(crate) end_token: Option<EndToken>,
    /// Its session.
    pub(crate) session: JobSession,
    /// How much of the run's time an earlier Job has taken.
    pub(crate) spent: Duration,
}
