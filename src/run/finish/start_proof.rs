//! Finds out whether anything of the agent's work can have begun in a run whose container was never seen running.

use tokio::time::Instant;

use crate::cluster::watch::Seen;
use crate::cluster::{ApiError, Cluster};
use crate::forensics::{NothingStarted, StartRecord};
use crate::run::cleanup::{self, RetainReason};
use crate::run::context::RunContext;
use crate::run::job_view::Observed;
use crate::run::timing;

/// Deletes the run's Job and waits, for a bounded time, until its pods are gone: their last objects are the proof. There
/// is none for a Job that is kept, because it can still start.
pub(super) async fn delete_and_prove<C: Cluster, H>(
    run: &RunContext<C, H>,
    observed: &Observed<C>,
    record: &mut StartRecord,
) -> Option<NothingStarted> {
    // Which pods a Job of another run had before is not known.
    // A run that has had another Job has begun work.
    if run.request.config.retain_jobs || observed.reattached.is_some() || run.ended_job.get().is_some() {
        return None;
    }
    delete_job(observed).await.ok()?;
    run.owned.retain_job(RetainReason::AlreadyGone);
    record.on_job_gone();
    watch_pods_go(observed, record).await;
    record.nothing_started()
}

/// Deletes the Job; one that is gone already is a success.
async fn delete_job<C: Cluster>(observed: &Observed<C>) -> Result<(), ApiError> {
    let Observed { cluster, namespace, job_name, job_uid, .. } = observed;
    let delete = || cluster.delete_job(namespace, job_name, job_uid.as_deref());
    match cleanup::despite_refusals(delete).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Records every object of the Job's pods until there are none.
async fn watch_pods_go<C: Cluster>(observed: &Observed<C>, record: &mut StartRecord) {
    let deadline = Instant::now() + timing::START_PROOF_LIMIT;
    let mut readable_at = Instant::now();
    let mut pause = timing::POD_END_FIRST;
    loop {
        let read = observed.pods().await;
        // Last words of a pod come by the watch alone.
        let seen = observed.watched.snapshot().pods;
        seen.values().filter_map(Seen::last).for_each(|pod| record.on_pod(pod));
        match read {
            Ok(pods) => {
                readable_at = Instant::now();
                let pods: Vec<_> = pods.collect();
                pods.iter().for_each(|pod| record.on_pod(pod));
                let awaited =
                    observed.is_watched() && seen.values().any(|pod| matches!(pod, Seen::Present(_)));
                if pods.is_empty() && !awaited {
                    return record.on_pods_gone();
                }
            }
            Err(error) if !error.is_transient() => return,
            Err(_) if readable_at.elapsed() >= timing::START_PROOF_BUDGET => return,
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(timing::POLL_INTERVAL);
    }
}
