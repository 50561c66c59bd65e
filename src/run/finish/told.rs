//! What the pod's own last line is worth.
//!
//! The line resolves a run that succeeded, before the cluster says anything of the container's end. An agent can print
//! it early, so the container must be seen to have ended a moment later; else its Job is deleted.

use std::sync::Arc;

use tokio::time::Instant;

use super::end::RunEnd;
use super::pod_end::{self, PodEnd};
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
    let until = Instant::now() + timing::TOLD_END_LIMIT;
    tokio::spawn(check(observed.clone(), run.unconfirmed.clone(), until));
}

/// Sees to it, beside the run and after its result, that the container of a Job that was deleted has ended.
async fn check<C: Cluster>(observed: Arc<Observed<C>>, unconfirmed: UnconfirmedEnds, until: Instant) {
    let PodEnd::Running { what, .. } = pod_end::wait(&observed, |_| until).await else { return };
    // The run's log is closed by now.
    let (job, namespace, seconds) =
        (&observed.job_name, &observed.namespace, timing::TOLD_END_LIMIT.as_secs());
    unconfirmed.add(job);
    tracing::warn!(
        job,
        namespace,
        what,
        "the last line of the pod said that Claude had ended, but its container still runs {seconds}s later: deleting the Job"
    );
    if let Err(error) = pod_end::delete_job(&observed).await {
        tracing::warn!(job, namespace, %error, "the Job could not be deleted");
    }
}
