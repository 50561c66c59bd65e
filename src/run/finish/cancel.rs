//! Ends a run that the host or the control plane cancels.

use tokio::time::Instant;

use super::end::RunEnd;
use crate::cluster::watch::Health;
use crate::cluster::{ApiError, Cluster, retry};
use crate::forensics::should_abort_for_cancellation;
use crate::run::cleanup::RetainReason;
use crate::run::context::RunContext;
use crate::run::job_view::Observed;
use crate::run::{Host, StatusAnswer, StatusQuery, timing};

/// Resolves when the control plane reports that the run was cancelled. Asks every [`timing::KEEPALIVE_INTERVAL`]
/// (`docs/contract.md`, "Keepalive and cancel polling"); never resolves where it has no address or token to ask with.
pub(super) async fn cancelled_by_control_plane<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Observed<C>,
) {
    let request = &run.request;
    let api_url = request.host_env.get("PAPERCLIP_API_URL").unwrap_or_default();
    let token = request.auth_token.as_deref().unwrap_or_default();
    if observed.reattached.is_some() || api_url.is_empty() || token.is_empty() {
        return std::future::pending().await;
    }
    let query = StatusQuery { api_url, run_id: &request.run_id, token };
    let mut suspicious = false;
    loop {
        tokio::time::sleep(timing::KEEPALIVE_INTERVAL).await;
        match run.host.run_status(query).await {
            StatusAnswer::Status(status) => {
                let abort = should_abort_for_cancellation(status.as_deref());
                // One stale read must not end a run: every status but `cancelled` counts when it is read twice in a
                // row.
                if abort && (suspicious || status.as_deref() == Some("cancelled")) {
                    return;
                }
                suspicious = abort;
            }
            StatusAnswer::Refused(code) if code >= 500 => {
                run.log
                    .err(format!(
                        "[paperclip] keepalive: cancel poll returned HTTP {code} — transient, ignoring"
                    ))
                    .await;
            }
            StatusAnswer::Refused(_) | StatusAnswer::Unreachable => {}
        }
    }
}

/// Deletes the Job of a run that the control plane has cancelled.
pub(super) async fn by_control_plane<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Observed<C>,
) -> RunEnd {
    run.log.out(format!("[paperclip] Run cancelled externally — deleting Job {}", observed.job_name)).await;
    let _ = delete_job(observed).await;
    RunEnd::Cancelled { acknowledged: false }
}

/// Deletes the Job of a run that the host has cancelled, and acknowledges the cancel once the pod is gone.
pub(super) async fn by_host<C: Cluster>(observed: &Observed<C>) -> RunEnd {
    let acknowledged = delete_job(observed).await.is_ok() && pod_is_gone(observed).await;
    RunEnd::Cancelled { acknowledged }
}

/// The same while the run still waits for its pod. Returns whether the cancel is acknowledged.
pub(super) async fn before_the_pod_ran<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Observed<C>,
) -> bool {
    let deleted = delete_job(observed).await.is_ok();
    if deleted {
        run.owned.retain_job(RetainReason::AlreadyGone);
    }
    deleted && pod_is_gone(observed).await
}

async fn delete_job<C: Cluster>(observed: &Observed<C>) -> Result<(), ApiError> {
    let deleted = retry::with_budget(timing::CLEANUP_BUDGET, || {
        observed.cluster.delete_job(&observed.namespace, &observed.job_name, observed.job_uid.as_deref())
    })
    .await;
    match deleted {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Whether the pod is gone within the time that the host waits for an acknowledgement.
async fn pod_is_gone<C: Cluster>(observed: &Observed<C>) -> bool {
    let deadline = Instant::now() + timing::CANCEL_CONFIRM_LIMIT;
    let mut changes = observed.watched.changes();
    let mut pause = timing::CANCEL_CONFIRM_FIRST;
    let mut read_at = Instant::now() + timing::UNSEEN_LIMIT;
    while Instant::now() < deadline {
        let snapshot = changes.borrow_and_update().clone();
        let watched = snapshot.health == Health::Live && !snapshot.pods.is_empty();
        if watched && snapshot.pod().is_none() {
            return true;
        }
        if watched && Instant::now() < read_at {
            let _ = tokio::time::timeout_at(read_at, changes.changed()).await;
            continue;
        }
        if matches!(observed.pod().await, Ok(None)) {
            return true;
        }
        read_at = Instant::now() + timing::UNSEEN_LIMIT;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(timing::POLL_INTERVAL);
    }
    false
}
