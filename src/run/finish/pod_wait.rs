//! Waits until the pod's container runs (`docs/contract.md`, "Waiting for the pod").

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::cluster::{ApiError, Cluster};
use crate::forensics::{ContainerPhase, JobState, PodProgress, PodVerdict, container_phase};
use crate::manifest::CLAUDE_CONTAINER;
use crate::request::Config;
use crate::run::job_view::{JobSeen, Observed};
use crate::run::{LogSink, timing};

/// How the start of a pod ended.
pub(super) enum PodStart {
    /// Its container runs, or has run and succeeded.
    Running(Arc<Pod>),
    /// Its container ran and failed before the run saw it running, for this reason in the contract's words. What the
    /// container printed says more.
    Failed(Arc<Pod>, String),
    /// Its container never ran, for this reason.
    NotRunning(String),
    /// The Job ended or was deleted before the run saw its pod running.
    JobIsOver,
}

/// How many polls may find no pod before the Job itself is checked.
const POLLS_WITHOUT_POD: u32 = 3;

/// Waits until the container runs or has run, and logs every change of the pod.
pub(super) async fn wait_until_running<C: Cluster>(
    observed: &Observed<C>,
    log: &LogSink,
    config: &Config,
) -> PodStart {
    let mut wait = PodWait::new(observed, log, config);
    let limit = timing::SCHEDULE_LIMIT.max(config.unschedulable_grace).max(config.image_pull_grace);
    let deadline = Instant::now() + limit;
    let mut poller = observed.pod_poller();
    while Instant::now() < deadline {
        let budget = deadline.saturating_duration_since(Instant::now()).min(timing::RECHECK_LIMIT);
        let start = match poller.poll_once(budget).await {
            Ok(Some(pod)) => wait.on_pod(pod).await,
            Ok(None) => wait.on_no_pod().await,
            Err(error) => return PodStart::NotRunning(error.to_string()),
        };
        if let Some(start) = start {
            return start;
        }
        poller.pause().await;
    }
    // A watch may have missed an event that it could not read; a run is not given up for that.
    if observed.is_watched()
        && let Ok(Some(pod)) = observed.pod().await
        && PodProgress::read(&pod).verdict == PodVerdict::Ready
    {
        return PodStart::Running(Arc::new(pod));
    }
    let limit = timing::SCHEDULE_LIMIT.as_secs();
    PodStart::NotRunning(format!("Timed out waiting for pod to be scheduled ({limit}s)"))
}

/// The state of a wait for the pod.
struct PodWait<'a, C> {
    observed: &'a Observed<C>,
    log: &'a LogSink,
    unschedulable_grace: Duration,
    image_pull_grace: Duration,
    /// The progress that was logged last; empty before there was a pod.
    logged_key: String,
    /// How many polls in a row found no pod.
    polls_without_pod: u32,
    unschedulable_since: Option<Instant>,
    pull_failing_since: Option<Instant>,
}

impl<'a, C: Cluster> PodWait<'a, C> {
    fn new(observed: &'a Observed<C>, log: &'a LogSink, config: &Config) -> Self {
        Self {
            observed,
            log,
            unschedulable_grace: config.unschedulable_grace,
            image_pull_grace: config.image_pull_grace,
            logged_key: String::new(),
            polls_without_pod: 0,
            unschedulable_since: None,
            pull_failing_since: None,
        }
    }

    async fn on_no_pod(&mut self) -> Option<PodStart> {
        if self.polls_without_pod == 0 {
            self.log.out("[paperclip] Waiting for Job controller to create pod...").await;
        }
        self.polls_without_pod += 1;
        match self.check_job().await {
            JobCheck::Alive => None,
            JobCheck::Over => Some(PodStart::JobIsOver),
            JobCheck::OverWithPod(pod) => self.on_pod(pod).await,
        }
    }

    /// Checks whether a Job without a pod is over.
    async fn check_job(&self) -> JobCheck {
        if !self.observed.is_watched() {
            // The pod existed before and is gone, or has been missing for a while: the Job shows why.
            let due = !self.logged_key.is_empty() || self.polls_without_pod > POLLS_WITHOUT_POD;
            let over = due && self.observed.job().await.is_ok_and(|seen| seen.is_over());
            return if over { JobCheck::Over } else { JobCheck::Alive };
        }
        let over = match self.observed.watched_job() {
            Some(seen) => seen.is_over(),
            // A watch that has not shown even the Job may be half-open.
            None => self.polls_without_pod > 1 && self.observed.job().await.is_ok_and(|seen| seen.is_over()),
        };
        if !over {
            return JobCheck::Alive;
        }
        // Different watches report Jobs and pods, in no order: the event of the pod may be on its way.
        match self.observed.pod().await {
            Ok(Some(pod)) => JobCheck::OverWithPod(Arc::new(pod)),
            Ok(None) => JobCheck::Over,
            Err(_) => JobCheck::Alive,
        }
    }

    async fn on_pod(&mut self, pod: Arc<Pod>) -> Option<PodStart> {
        self.polls_without_pod = 0;
        let progress = PodProgress::read(&pod);
        if progress.key != self.logged_key {
            self.log.out(format!("[paperclip] Pod {}: {}", name_of(&pod), progress.line)).await;
            self.logged_key = progress.key;
        }
        match progress.verdict {
            PodVerdict::Ready => Some(PodStart::Running(pod)),
            PodVerdict::Failed(text) if has_started(&pod) => Some(PodStart::Failed(pod, text)),
            PodVerdict::Failed(_) if job_was_ended(self.observed, &pod).await => Some(PodStart::JobIsOver),
            PodVerdict::Failed(text) => Some(PodStart::NotRunning(text)),
            PodVerdict::Unschedulable(text) => {
                let since = *self.unschedulable_since.get_or_insert_with(Instant::now);
                (since.elapsed() >= self.unschedulable_grace).then_some(PodStart::NotRunning(text))
            }
            PodVerdict::PullFailed(text) => {
                // The kubelet tries again, and a registry may fail for a moment only.
                let since = *self.pull_failing_since.get_or_insert_with(Instant::now);
                (since.elapsed() >= self.image_pull_grace).then_some(PodStart::NotRunning(text))
            }
            PodVerdict::Waiting => {
                (self.unschedulable_since, self.pull_failing_since) = (None, None);
                None
            }
        }
    }
}

/// Whether a Job without a pod is over.
enum JobCheck {
    Alive,
    Over,
    /// It is over, and a read found the pod that was missing.
    OverWithPod(Arc<Pod>),
}

/// Waits for the pod of a Job that another run created, whatever its phase. A Job that may be too young to have a pod
/// is given `patience`.
pub(super) async fn wait_for_any_pod<C: Cluster>(
    observed: &Observed<C>,
    patience: Duration,
) -> Result<Option<Arc<Pod>>, ApiError> {
    let mut pod = observed.pod_within(timing::SETUP_READ_BUDGET).await?.map(Arc::new);
    let deadline = Instant::now() + patience;
    let mut poller = observed.pod_poller();
    while pod.is_none() && Instant::now() < deadline {
        if observed.watched_job().is_some_and(|seen| seen.is_over()) {
            return observed.pod_within(timing::SETUP_READ_BUDGET).await.map(|pod| pod.map(Arc::new));
        }
        poller.pause().await;
        pod = poller.poll_once(timing::SETUP_READ_BUDGET).await?;
    }
    Ok(pod)
}

/// Whether the pod failed because its Job was deleted or reached its deadline. The Job shows that a moment later.
pub(super) async fn job_was_ended<C: Cluster>(observed: &Observed<C>, pod: &Pod) -> bool {
    if pod.metadata.deletion_timestamp.is_none() {
        return false;
    }
    let patience = Instant::now() + timing::ENDED_JOB_LAG;
    loop {
        let seen = match observed.watched_job().filter(|_| observed.is_watched()) {
            Some(seen) => Some(seen),
            None => observed.job().await.ok(),
        };
        match seen {
            Some(JobSeen::Present(job)) => match JobState::read(&job) {
                JobState::Running => {}
                JobState::Failed { reason, .. } => return reason.as_deref() == Some("DeadlineExceeded"),
                JobState::Complete => return false,
            },
            Some(JobSeen::Deleted(_) | JobSeen::Gone) => return true,
            None => {}
        }
        if Instant::now() >= patience {
            return false;
        }
        tokio::time::sleep(timing::ENDED_JOB_INTERVAL).await;
    }
}

/// Whether the agent's container has run, so that it may have done some of its work.
fn has_started(pod: &Pod) -> bool {
    !matches!(container_phase(pod, CLAUDE_CONTAINER), ContainerPhase::Waiting)
}

/// The pod's name, `unknown` for a pod without one.
pub(super) fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("unknown")
}
