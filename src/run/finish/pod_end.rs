//! Waits until no CLI of a run can work any more (`docs/contract.md`, "The end of the pod").
//!
//! The deletion of a Job only asks its pod to end: the CLI works on for up to its grace period. Until then the agent's
//! next run must not start, so a run that was cancelled, timed out or deleted ends no sooner.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::cluster::watch::{Health, Seen};
use crate::cluster::{ApiError, Cluster};
use crate::forensics::{claude_may_run, has_sidecar, still_running};
use crate::run::cleanup;
use crate::run::context::RunContext;
use crate::run::job_view::Observed;
use crate::run::{Host, timing};

/// What is known of a pod's CLI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PodEnd {
    /// It has ended, or the pod is gone.
    Ended,
    /// It may still run.
    Running {
        /// Whether the deletion of the pod was requested.
        deleting: bool,
        /// Whether another container may keep it. The status of a pod that is being deleted shows no container's end before
        /// all of them have ended.
        shared: bool,
        /// What still runs, for people; empty where no pod was seen.
        what: String,
    },
}

/// A pod whose CLI may still run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stay {
    /// Whether the deletion of the pod was requested.
    pub(super) deleting: bool,
    /// Whether another container may keep it.
    pub(super) shared: bool,
}

/// Waits until no pod of the Job has a CLI that may still run; `while_running` decides until when.
pub(super) async fn wait<C: Cluster>(
    observed: &Observed<C>,
    while_running: impl Fn(Stay) -> Instant,
) -> PodEnd {
    let mut changes = observed.watched.changes();
    let mut pause = timing::POD_END_FIRST;
    let mut read_at = Instant::now() + timing::UNSEEN_LIMIT;
    // Nothing was seen yet: as long as for a pod that is being deleted.
    let mut end = PodEnd::Running { deleting: true, shared: true, what: String::new() };
    loop {
        let snapshot = changes.borrow_and_update().clone();
        let watched = snapshot.health == Health::Live && !snapshot.pods.is_empty();
        let seen = if watched && Instant::now() < read_at {
            Some(judge(snapshot.pods.values().filter_map(|seen| match seen {
                Seen::Present(pod) => Some(pod.as_ref()),
                _ => None,
            })))
        } else {
            read_at = Instant::now() + timing::UNSEEN_LIMIT;
            observed.pods().await.ok().map(|pods| judge(pods.collect::<Vec<_>>().iter()))
        };
        end = seen.unwrap_or(end);
        let PodEnd::Running { deleting, shared, .. } = end else { return end };
        let until = while_running(Stay { deleting, shared });
        if Instant::now() >= until {
            return end;
        }
        if watched {
            let _ = tokio::time::timeout_at(until.min(read_at), changes.changed()).await;
        } else {
            tokio::time::sleep_until(until.min(Instant::now() + pause)).await;
            pause = (pause * 2).min(timing::POLL_INTERVAL);
        }
    }
}

fn judge<'a>(pods: impl Iterator<Item = &'a Pod>) -> PodEnd {
    let running: Vec<&Pod> = pods.filter(|pod| claude_may_run(pod)).collect();
    if running.is_empty() {
        return PodEnd::Ended;
    }
    let deleting = running.iter().all(|pod| pod.metadata.deletion_timestamp.is_some());
    let shared = running.iter().any(|pod| has_sidecar(pod));
    let what = running.into_iter().map(still_running).collect::<Vec<_>>().join("; ");
    PodEnd::Running { deleting, shared, what }
}

/// How long a pod that is asked to end may take: its grace period, and what the kubelet needs beyond it.
pub(super) fn limit<C: Cluster>(observed: &Observed<C>) -> Duration {
    let snapshot = observed.watched.snapshot();
    let pod = snapshot.pod();
    let grace = pod.and_then(|pod| {
        let asked = pod.metadata.deletion_grace_period_seconds;
        asked.or(pod.spec.as_ref()?.termination_grace_period_seconds)
    });
    let grace = grace.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    grace.unwrap_or(timing::DEFAULT_POD_GRACE).min(timing::MAX_POD_GRACE) + timing::POD_END_MARGIN
}

/// Waits for the end of the pod of a run that is over, and says so where it does not come.
pub(super) async fn see_out<C: Cluster, H: Host>(run: &RunContext<C, H>, observed: &Observed<C>) {
    let started = Instant::now();
    let limit = limit(observed);
    let until =
        |Stay { deleting, .. }| started + if deleting { limit } else { limit.min(timing::ORPHAN_LIMIT) };
    let end = wait(observed, until).await;
    tracing::debug!(run = run.request.run_id, job = observed.job_name, ?end, "pod seen out");
    let (job, waited) = (&observed.job_name, started.elapsed().as_secs());
    let line = match end {
        PodEnd::Ended => return,
        PodEnd::Running { deleting: true, what, .. } => format!(
            "[paperclip] Warning: the pod of Job {job} has not ended {waited}s after it was asked to — its agent may still \
             be working{}",
            in_brackets(&what)
        ),
        PodEnd::Running { deleting: false, what, .. } => format!(
            "[paperclip] Warning: the pod of Job {job} was not asked to end with its Job — its agent is still working{}",
            in_brackets(&what)
        ),
    };
    run.log.err(line).await;
}

/// What still runs, behind a sentence about it.
pub(super) fn in_brackets(what: &str) -> String {
    if what.is_empty() { String::new() } else { format!(" ({what})") }
}

/// Deletes the Job as the cleanup does. Returns the error to log.
pub(super) async fn delete_job<C: Cluster>(observed: &Observed<C>) -> Result<(), ApiError> {
    let Observed { cluster, namespace, job_name, job_uid, .. } = observed;
    cleanup::delete_job(cluster.as_ref(), namespace, job_name, job_uid.as_deref()).await
}
