//! Ends a run that the host or the control plane cancels.

use std::sync::Arc;

use tokio::time::Instant;

use super::end::RunEnd;
use super::pod_end::{self, PodEnd, Stay};
use super::told;
use crate::cluster::{ApiError, ApiErrorKind, Cluster};
use crate::forensics::{Asker, should_abort_for_cancellation};
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
        let answer = run.host.run_status(query).await;
        // A host that shuts down closes its runs, and leaves their Jobs to the next one.
        if run.closing.is_closing() {
            suspicious = false;
            continue;
        }
        match answer {
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

/// Ends a run that the control plane has cancelled.
pub(super) async fn by_control_plane<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Arc<Observed<C>>,
) -> RunEnd {
    run.record.ask_to_end(Asker::ControlPlane);
    run.log.end_within(timing::LOG_STALL_LIMIT);
    let line = format!("[paperclip] Run cancelled externally — deleting Job {}", observed.job_name);
    // A host that takes no log must not keep the Job alive.
    tokio::join!(run.log.out(line), end_job(run, observed));
    // The host did not ask, so it gets no acknowledgement.
    RunEnd::Cancelled { acknowledged: false }
}

/// Ends a run that the host has cancelled, and acknowledges the cancel once its CLI has ended.
pub(super) async fn by_host<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Arc<Observed<C>>,
) -> RunEnd {
    run.record.ask_to_end(Asker::Host);
    RunEnd::Cancelled { acknowledged: end_job(run, observed).await }
}

/// The same while the run still waits for its pod. Returns whether the cancel is acknowledged.
pub(super) async fn before_the_pod_ran<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Arc<Observed<C>>,
) -> bool {
    run.record.ask_to_end(Asker::Host);
    end_job(run, observed).await
}

/// Deletes the Job and waits for the end of its CLI, within [`timing::CANCEL_LIMIT`] for both. Returns whether both are
/// confirmed, and says on stderr why not.
///
/// The pod's own last line comes a second before its status says the same. It counts where it comes after the request.
async fn end_job<C: Cluster, H: Host>(run: &RunContext<C, H>, observed: &Arc<Observed<C>>) -> bool {
    let started = Instant::now();
    let deadline = started + timing::CANCEL_LIMIT;
    let reason = match delete_until(observed, deadline).await {
        Err(error) => {
            run.owned.note_refused_deletion();
            format!("Job {} could not be deleted: {error}", observed.job_name)
        }
        Ok(()) => {
            run.owned.retain_job(RetainReason::AlreadyGone);
            let orphaned = deadline.min(Instant::now() + timing::ORPHAN_LIMIT);
            let until = |stay: Stay| if stay.deleting { deadline } else { orphaned };
            let end = tokio::select! {
                end = pod_end::wait(observed, until) => end,
                () = observed.says_its_end_after(started) => {
                    told::check_later(run, observed);
                    PodEnd::Ended
                }
            };
            tracing::debug!(run = run.request.run_id, job = observed.job_name, ?end, "cancel seen out");
            match end {
                PodEnd::Ended => return true,
                PodEnd::Running { deleting: true, what, .. } => {
                    let what = pod_end::in_brackets(&what);
                    format!("the pod of Job {} was asked to end and has not{what}", observed.job_name)
                }
                PodEnd::Running { deleting: false, what, .. } => {
                    let what = pod_end::in_brackets(&what);
                    format!("the pod of Job {} was not asked to end with its Job{what}", observed.job_name)
                }
            }
        }
    };
    let waited = started.elapsed().as_secs();
    run.log.err(format!("[paperclip] Warning: the cancel is not confirmed after {waited}s: {reason}")).await;
    false
}

/// Deletes the Job, whatever the API answers until then: what is forbidden now may be permitted a moment later.
async fn delete_until<C: Cluster>(observed: &Observed<C>, deadline: Instant) -> Result<(), ApiError> {
    let Observed { cluster, namespace, job_name, job_uid, .. } = observed;
    let mut backoff = timing::cancel_backoff();
    loop {
        let asked = cluster.delete_job(namespace, job_name, job_uid.as_deref());
        let error = match tokio::time::timeout_at(deadline, asked).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if error.is_gone() => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => ApiError::local(ApiErrorKind::Timeout, "delete the Job", "no answer in time"),
        };
        let next = Instant::now() + backoff.pause(error.retry_after);
        if next >= deadline {
            return Err(error);
        }
        tokio::time::sleep_until(next).await;
    }
}
