//! What the pod's own last line is worth.
//!
//! The line resolves a run that succeeded, before the cluster says anything of the container's end. An agent can print
//! it early, so the container must be seen to have ended a moment later; else its Job is deleted.

use std::sync::Arc;

use tokio::time::Instant;

use super::end::RunEnd;
use super::pod_end::{self, PodEnd, Stay};
use crate::cluster::Cluster;
use crate::forensics::Asker;
use crate::run::cleanup::RetainReason;
use crate::run::context::RunContext;
use crate::run::job_view::Observed;
use crate::run::unconfirmed::UnconfirmedEnds;
use crate::run::{Host, timing};

/// The end of a run whose pod has said that its CLI had succeeded.
///
/// The cleanup deletes the Job at once, and so ends a CLI that runs on. A Job that is to be retained stays, so there the
/// container's end is awaited first.
pub(super) async fn confirm<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Arc<Observed<C>>,
) -> RunEnd {
    let until = Instant::now() + timing::TOLD_END_LIMIT;
    if !run.request.config.retain_jobs {
        check_later(run, observed);
        return RunEnd::Told;
    }
    if pod_end::wait(observed, |_| until).await == PodEnd::Ended {
        return RunEnd::Told;
    }
    let (job, seconds) = (&observed.job_name, timing::TOLD_END_LIMIT.as_secs());
    run.unconfirmed.add(job);
    run.record.ask_to_end(Asker::AfterResult);
    run.log
        .err(format!(
            "[paperclip] Warning: the last line of Job {job} said that Claude had ended, but its container still runs \
             {seconds}s later — deleting the Job"
        ))
        .await;
    match pod_end::delete_job(observed).await {
        Ok(()) => run.owned.retain_job(RetainReason::AlreadyGone),
        Err(error) => {
            run.log.err(format!("[paperclip] Warning: Job {job} could not be deleted: {error}")).await;
        }
    }
    RunEnd::Told
}

/// Checks beside the run, and after its result, that the container has ended.
pub(super) fn check_later<C: Cluster, H>(run: &RunContext<C, H>, observed: &Arc<Observed<C>>) {
    tokio::spawn(check(observed.clone(), run.unconfirmed.clone(), Instant::now()));
}

/// Sees to it, beside the run and after its result, that the container of a Job that was deleted has ended.
///
/// A pod that is being deleted and has a sidecar shows no end of `claude` before the sidecar has ended, too: it gets its
/// grace period.
async fn check<C: Cluster>(observed: Arc<Observed<C>>, unconfirmed: UnconfirmedEnds, told_at: Instant) {
    let until = |stay: Stay| {
        let kept = stay.deleting && stay.shared;
        told_at + if kept { pod_end::limit(&observed) } else { timing::TOLD_END_LIMIT }
    };
    let PodEnd::Running { deleting, what, .. } = pod_end::wait(&observed, until).await else { return };
    let (job, namespace, seconds) = (&observed.job_name, &observed.namespace, told_at.elapsed().as_secs());
    // The run's log is closed by now.
    if what.is_empty() {
        tracing::warn!(job, namespace, "the pod could not be read after its last line, {seconds}s ago");
    } else {
        unconfirmed.add(job);
        let seen = if deleting { "the pod has not ended" } else { "its container still runs" };
        tracing::warn!(
            job,
            namespace,
            what,
            "the last line of the pod said that Claude had ended, but {seen} {seconds}s later: deleting the Job"
        );
    }
    if let Err(error) = pod_end::delete_job(&observed).await {
        tracing::warn!(job, namespace, %error, "the Job could not be deleted");
    }
}
