//! Waiting until the pod's container runs (contract section 3.9).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::cluster::{ApiError, Cluster};
use crate::forensics::{ContainerPhase, JobState, PodProgress, PodVerdict, container_phase};
use crate::manifest::CLAUDE_CONTAINER;
use crate::request::Config;
use crate::run::job_view::{JobSeen, Observed};
use crate::run::{Log, timing};

/// What the wait for a pod came to.
pub(super) enum Found {
    /// Its container runs, or has run and succeeded.
    Running(Arc<Pod>),
    /// Its container ran and failed before anybody looked; the text is the contract's. What it printed says more.
    Failed(Arc<Pod>, String),
    /// It never came to run, for this reason.
    NotRunning(String),
    /// The Job ended, or was deleted, before its pod was seen running.
    JobIsOver,
}

/// How many looks without a pod before the Job itself is looked at.
const PATIENT_LOOKS: u32 = 3;

/// Waits until the container runs or has run, telling every change.
pub(super) async fn wait<C: Cluster>(observed: &Observed<C>, log: &Log, config: &Config) -> Found {
    let Config { unschedulable_grace, image_pull_grace, .. } = *config;
    let patience = timing::SCHEDULE_LIMIT.max(unschedulable_grace).max(image_pull_grace);
    let deadline = Instant::now() + patience;
    let mut eyes = observed.pod_eyes();
    let mut told_key = String::new();
    let mut without_pod = 0;
    let mut unschedulable_since = None;
    let mut pull_failing_since = None;
    while Instant::now() < deadline {
        let budget = deadline.saturating_duration_since(Instant::now()).min(timing::RECHECK_LIMIT);
        let mut pod = match eyes.poll_once(budget).await {
            Ok(pod) => pod,
            Err(error) => return Found::NotRunning(error.to_string()),
        };
        if pod.is_none() {
            if without_pod == 0 {
                log.out("[paperclip] Waiting for Job controller to create pod...").await;
            }
            without_pod += 1;
            // A pod that was there and is not any more, or none for a while: the Job knows why.
            let patient = told_key.is_empty() && without_pod <= PATIENT_LOOKS;
            match over(observed, patient, without_pod).await {
                Over::No => {}
                Over::Yes => return Found::JobIsOver,
                Over::WithPod(late) => pod = Some(late),
            }
        }
        let Some(pod) = pod else {
            eyes.pause().await;
            continue;
        };
        without_pod = 0;
        let progress = PodProgress::read(&pod);
        if progress.key != told_key {
            log.out(format!("[paperclip] Pod {}: {}", name_of(&pod), progress.line)).await;
            told_key = progress.key;
        }
        match progress.verdict {
            PodVerdict::Ready => return Found::Running(pod),
            PodVerdict::Failed(text) if has_started(&pod) => return Found::Failed(pod, text),
            PodVerdict::Failed(_) if job_was_ended(observed, &pod).await => return Found::JobIsOver,
            PodVerdict::Failed(text) => return Found::NotRunning(text),
            PodVerdict::Unschedulable(text) => {
                let since = *unschedulable_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= unschedulable_grace {
                    return Found::NotRunning(text);
                }
            }
            PodVerdict::PullFailed(text) => {
                // The kubelet goes on trying, and registries fail for a moment.
                let since = *pull_failing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= image_pull_grace {
                    return Found::NotRunning(text);
                }
            }
            PodVerdict::Waiting => (unschedulable_since, pull_failing_since) = (None, None),
        }
        eyes.pause().await;
    }
    // A watch can miss what it cannot read; a run is not given up for that.
    if observed.is_watched()
        && let Ok(Some(pod)) = observed.pod().await
        && PodProgress::read(&pod).verdict == PodVerdict::Ready
    {
        return Found::Running(Arc::new(pod));
    }
    let limit = timing::SCHEDULE_LIMIT.as_secs();
    Found::NotRunning(format!("Timed out waiting for pod to be scheduled ({limit}s)"))
}

/// The pod of a Job that another run created, whatever its phase; a Job that may be too young to have one is given
/// `patience`.
pub(super) async fn appear<C: Cluster>(
    observed: &Observed<C>,
    patience: Duration,
) -> Result<Option<Arc<Pod>>, ApiError> {
    let mut pod = observed.pod_within(timing::SETUP_READ_BUDGET).await?.map(Arc::new);
    let deadline = Instant::now() + patience;
    let mut eyes = observed.pod_eyes();
    while pod.is_none() && Instant::now() < deadline {
        if observed.job_in_sight().is_some_and(|seen| seen.is_over()) {
            return observed.pod_within(timing::SETUP_READ_BUDGET).await.map(|pod| pod.map(Arc::new));
        }
        eyes.pause().await;
        pod = eyes.poll_once(timing::SETUP_READ_BUDGET).await?;
    }
    Ok(pod)
}

/// Whether a Job without a pod is over.
enum Over {
    No,
    Yes,
    /// It is, and the pod that was missing has come into sight.
    WithPod(Arc<Pod>),
}

async fn over<C: Cluster>(observed: &Observed<C>, patient: bool, looks: u32) -> Over {
    if !observed.is_watched() {
        let over = !patient && observed.job().await.is_ok_and(|seen| seen.is_over());
        return if over { Over::Yes } else { Over::No };
    }
    let over = match observed.job_in_sight() {
        Some(seen) => seen.is_over(),
        // A watch that has not even shown the Job may be half-open.
        None => looks > 1 && observed.job().await.is_ok_and(|seen| seen.is_over()),
    };
    if !over {
        return Over::No;
    }
    // Jobs and pods are told by different watches, in no order: its pod may be on the way.
    match observed.pod().await {
        Ok(Some(pod)) => Over::WithPod(Arc::new(pod)),
        Ok(None) => Over::Yes,
        Err(_) => Over::No,
    }
}

/// Whether the pod failed because its Job was deleted or reached its deadline: the Job tells that a moment later.
pub(super) async fn job_was_ended<C: Cluster>(observed: &Observed<C>, pod: &Pod) -> bool {
    if pod.metadata.deletion_timestamp.is_none() {
        return false;
    }
    let patience = Instant::now() + timing::ENDED_JOB_LAG;
    loop {
        let seen = match observed.job_in_sight().filter(|_| observed.is_watched()) {
            Some(seen) => Some(seen),
            None => observed.job().await.ok(),
        };
        match seen {
            Some(JobSeen::Present(job)) => match JobState::read(&job) {
                JobState::Running => {}
                JobState::Failed { reason, .. } => return reason.as_deref() == Some("DeadlineExceeded"),
                _ => return false,
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

/// Whether the agent's container has run, so that some of its work may have been done.
fn has_started(pod: &Pod) -> bool {
    !matches!(container_phase(pod, CLAUDE_CONTAINER), ContainerPhase::Waiting)
}

/// The pod's name, `unknown` for a pod without one.
pub(super) fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("unknown")
}
