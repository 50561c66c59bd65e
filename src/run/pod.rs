//! Waiting until the pod's container runs (contract section 3.9).

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::follow::CONTAINER;
use super::observe::Observed;
use super::{Log, timing};
use crate::cluster::Cluster;
use crate::forensics::{ContainerLife, PodProgress, PodVerdict, container_ended};

/// Why a pod did not come to run.
pub(super) struct NotRunning {
    /// The cause in words.
    pub(super) text: String,
    /// Whether the agent's container may have run all the same.
    pub(super) started: bool,
}

/// Waits until the container runs or has run, telling every change, and returns the pod.
///
/// # Errors
/// What keeps the pod from running.
pub(super) async fn wait<C: Cluster>(
    observed: &Observed<C>,
    log: &Log,
    unschedulable_grace: std::time::Duration,
) -> Result<Pod, NotRunning> {
    let job_name = &observed.job_name;
    log.out(format!("[paperclip] Waiting for pod to be scheduled (job: {job_name})...")).await;
    let deadline = Instant::now() + timing::SCHEDULE_LIMIT.max(unschedulable_grace);
    let mut told_key = String::new();
    let mut told_missing = false;
    let mut unschedulable_since = None;
    while Instant::now() < deadline {
        let pod = observed
            .pod_within(deadline.saturating_duration_since(Instant::now()).min(timing::RECHECK_LIMIT))
            .await
            .map_err(|error| NotRunning { text: error.to_string(), started: false })?;
        let Some(pod) = pod else {
            if !told_missing {
                log.out("[paperclip] Waiting for Job controller to create pod...").await;
                told_missing = true;
            }
            tokio::time::sleep(timing::POLL).await;
            continue;
        };
        told_missing = false;
        let progress = PodProgress::read(&pod);
        if progress.key != told_key {
            log.out(format!("[paperclip] Pod {}: {}", name_of(&pod), progress.line)).await;
            told_key = progress.key;
        }
        match progress.verdict {
            PodVerdict::Ready => return Ok(pod),
            PodVerdict::Failed(text) => {
                return Err(NotRunning { text, started: has_started(&pod) });
            }
            PodVerdict::Unschedulable(text) => {
                let since = *unschedulable_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= unschedulable_grace {
                    return Err(NotRunning { text, started: false });
                }
            }
            PodVerdict::Waiting => unschedulable_since = None,
        }
        tokio::time::sleep(timing::POLL).await;
    }
    let limit = timing::SCHEDULE_LIMIT.as_secs();
    Err(NotRunning { text: format!("Timed out waiting for pod to be scheduled ({limit}s)"), started: false })
}

/// Whether the agent's container has run, so that some of its work may have been done.
fn has_started(pod: &Pod) -> bool {
    !matches!(container_ended(pod, CONTAINER), ContainerLife::Waiting)
}

/// The pod's name, `unknown` for a pod without one.
pub(super) fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("unknown")
}
