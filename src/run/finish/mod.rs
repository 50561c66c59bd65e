//! From the created Job to everything that the result is chosen from: the pod, the log and how the run ended.
//!
//! `pod_wait` waits for the pod. Then two futures run side by side in one task: the follower reads the log while the
//! watches show how the container is, and `end` waits for the run's end (`cancel` is one of its reasons). They share
//! only the [`ContainerState`](super::job_view::ContainerState) and the follower's progress, from which `keepalive` logs
//! the lines of all runs. `last_read` reads what is
//! left of the log, `exit_status` how the container ended. `pod_end` waits until no CLI of the run can work any more.

mod cancel;
mod end;
mod exit_status;
pub(super) mod keepalive;
mod last_read;
mod namespace;
mod pod_end;
mod pod_wait;
mod start_proof;
mod told;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use self::end::{Followed, JobRecord, LostPod, RunEnd};
use self::pod_wait::{PodStart, StartState};
use super::cleanup::RetainReason;
use super::context::{RunContext, Stop};
use super::job_view::{Observed, watch_container};
use super::log::follow::{Follower, LogEnd};
use super::record::cause_of_pod_read;
use super::{Host, events, isolate, timing};
use crate::cluster::Cluster;
use crate::forensics::{Cause, Disruption, JobState, StartRecord, Vanished, terminated_state};
use crate::manifest::CLAUDE_CONTAINER;
use crate::outcome::{JobEnd, Outcome, Settled};

/// Follows a run from its created Job to its end.
pub(super) async fn follow_to_end<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: Observed<C>,
) -> Result<Settled, Stop> {
    let observed = Arc::new(observed);
    let ended = tokio::select! {
        ended = follow(run, &observed) => ended,
        never = isolate(namespace::watch(run, &observed)) => match never {},
    };
    run.record.see_snapshot(&observed.watched.snapshot());
    Box::pin(namespace::find(run, &observed)).await;
    let (mut settled, start) = ended?;
    settled.ended_by = run.record.cause_of_end(settled.container.as_ref());
    if let Some(mut start) = start {
        settled.nothing_started = Box::pin(start_proof::delete_and_prove(run, &observed, &mut start)).await;
    }
    Ok(settled)
}

/// What is known of a run that has ended, and of its start where no pod of it was seen running.
type Ended = (Settled, Option<StartRecord>);

async fn follow<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Arc<Observed<C>>,
) -> Result<Ended, Stop> {
    // What does not last as long as the run is on the heap while it does.
    let pod = tokio::select! {
        found = Box::pin(find_pod(run, observed)) => found?,
        () = run.cancel.cancelled() => {
            let acknowledged = Box::pin(cancel::before_the_pod_ran(run, observed)).await;
            return Err(Stop::Outcome(Outcome::cancelled(acknowledged)));
        }
    };
    let (id, job) = (&run.request.run_id, &observed.job_name);
    tracing::debug!(run = id, job, pod = pod.name, failed = pod.failed.is_some(), "pod found");
    let running_at = Instant::now();
    let mut follower =
        Follower::new(observed.clone(), pod.name.clone(), run.log.clone(), run.readers.clone());
    if let Some(failed) = &pod.failed {
        Box::pin(read_early_failure(run, observed, &mut follower, failed)).await?;
    }

    let (end, mut record) = follow_and_wait(run, observed, &mut follower).await;
    run.record.see_log(follower.facts());
    if let RunEnd::Unreachable(_) = end {
        run.owned.retain_job(RetainReason::StateMismatch);
    }
    // The follower may have been stopped with lines that it had read but not delivered.
    follower.flush().await;
    let is_cancelled = matches!(end, RunEnd::Cancelled { .. });
    if !is_cancelled {
        Box::pin(last_read::read_the_rest(&run.log, &mut follower, &end)).await;
    }
    follower.finish().await;
    let facts = follower.facts();
    run.record.see_log(facts);
    tracing::debug!(run = id, job, lines = follower.tally.so_far().lines, "log read");
    if let RunEnd::Gone(_) = end {
        run.log
            .out(format!(
                "[paperclip] Job {} was deleted before terminal condition was observed (TTL or external deletion) — proceeding with captured output.",
                observed.job_name
            ))
            .await;
        run.owned.retain_job(RetainReason::Vanished);
        record.gone_at.get_or_insert_with(Instant::now);
    }
    let mut exit = Box::pin(exit_status::find(observed, &mut follower, &end)).await;
    if let Some(suspension) = record.suspension.take()
        && exit.disruption.as_ref().is_none_or(Disruption::is_plain_deletion)
    {
        exit.disruption = Some(suspension);
    }
    let api_outage = run.request.config.api_outage.as_secs();
    // Without a pod that was seen running, nothing may have started.
    let unseen = pod.name.is_empty()
        && follower.tally.so_far().lines == 0
        && !is_cancelled
        && !matches!(end, RunEnd::Unreachable(_));
    let settled = Settled {
        nothing_started: None,
        job: observed.job_name.clone(),
        timed_out: matches!(end, RunEnd::Deadline),
        end: job_end(observed, end, record, running_at, exit.disruption.as_ref(), api_outage),
        timeout_sec: run.request.config.timeout_sec,
        container: exit.container,
        disruption: exit.disruption,
        asked_to_end: exit.asked_to_end,
        log_error: follower.unreadable.map(|error| error.to_string()),
        ended_by: None,
        log_forbidden: facts.forbidden,
        log_has_gaps: facts.gaps > 0,
        captured: follower.tally.finish(),
        account: run.record.account(),
        config_model: run.request.config.model.clone(),
        current_session_id: observed.session.resumed.clone(),
        place: observed.session.place.clone(),
    };
    Ok((settled, unseen.then_some(pod.record)))
}

/// The pod to follow.
struct FoundPod {
    /// Its name; empty when the Job was over before the run saw a pod.
    name: String,
    /// Set when its container failed before the run saw it running.
    failed: Option<EarlyFailure>,
    /// What the start showed.
    record: StartRecord,
}

/// What the message of a silent container adds to the contract's words, which say only that no pod could be run.
const ENDED_UNSEEN: &str = "after it was scheduled and started, and before it printed anything";

/// A pod whose container failed before the run saw it running.
struct EarlyFailure {
    pod: Arc<Pod>,
    /// The reason, in the contract's words.
    text: String,
}

/// Finds the pod of the Job, once its container runs. A reattached Job whose container has started is followed at once.
async fn find_pod<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Arc<Observed<C>>,
) -> Result<FoundPod, Stop> {
    let mut event = "Pod running:";
    if let Some(patience) = observed.reattached {
        event = "Reattached to pod";
        let patience = patience.min(timing::pod_start_limit(run.request.config.pod_start_timeout));
        match pod_wait::wait_for_any_pod(observed, patience).await {
            Ok(Some(pod)) if pod_wait::is_pending(&pod) => {}
            Ok(Some(pod)) if pod.metadata.name.is_some() => {
                return Ok(found(run, event, &pod, StartRecord::default()).await);
            }
            Ok(None) if pod_wait::is_queued(observed).await => {}
            Ok(_) => return Err(run.stop(Outcome::reattach_without_pod(&observed.job_name)).await),
            Err(error) => {
                let outcome = Outcome::pod_reattach_failed(&error.to_string());
                return Err(run.stop(outcome.because(cause_of_pod_read(&error))).await);
            }
        }
    }
    run.log.out(format!("[paperclip] Waiting for pod to be scheduled (job: {})...", observed.job_name)).await;
    let mut state = StartState::new();
    let config = &run.request.config;
    let limit = run.time_limit(observed.spent);
    let start = tokio::select! {
        start = pod_wait::wait_until_running(run, observed, &mut state) => Some(start),
        () = timing::until(limit) => None,
        () = cancel::cancelled_by_control_plane(run, observed) => {
            cancel::by_control_plane(run, observed).await;
            return Err(Stop::Outcome(Outcome::cancelled(false)));
        }
    };
    let outcome = match start {
        Some(PodStart::Running(pod)) => return Ok(found(run, event, &pod, state.record).await),
        Some(PodStart::Ended(pod, text)) => {
            let name = pod_wait::name_of(&pod).to_owned();
            let failed = Some(EarlyFailure { pod, text });
            return Ok(FoundPod { name, failed, record: state.record });
        }
        Some(PodStart::JobIsOver) => {
            return Ok(FoundPod { name: String::new(), failed: None, record: state.record });
        }
        Some(PodStart::NotRunning(failure)) => {
            start_failed(observed, &failure.message()).failed_start(*failure)
        }
        Some(PodStart::Unreadable(error)) => {
            start_failed(observed, &error.to_string()).because(cause_of_pod_read(&error))
        }
        None => Outcome::timed_out_before_start(config.timeout_sec, &state.waiting_for()),
    };
    // Logged and explained before the Job is deleted: that takes a while, and then the run's own deletion is seen.
    run.record.see_snapshot(&observed.watched.snapshot());
    let outcome = run.log.log_outcome(run.record.explain(outcome)).await;
    let proof = start_proof::delete_and_prove(run, observed, &mut state.record).await;
    Err(Stop::Outcome(outcome.proven(proof)))
}

async fn found<C, H: Host>(run: &RunContext<C, H>, event: &str, pod: &Pod, record: StartRecord) -> FoundPod {
    let name = pod_wait::name_of(pod).to_owned();
    run.log.out(format!("[paperclip] {event} {name}")).await;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let payload = [("pod", name.clone().into()), ("node", node.into())];
    events::give(run, events::RUNNING, &format!("Claude runs in pod {name}"), payload);
    FoundPod { name, failed: None, record }
}

fn start_failed<C>(observed: &Observed<C>, error: &str) -> Outcome {
    if observed.reattached.is_some() {
        Outcome::pod_reattach_failed(error)
    } else {
        Outcome::pod_schedule_failed(error)
    }
}

/// Reads the log of a container that failed before the run saw it running: what the container printed says more than
/// that it failed. Without any output the run stops here, unless the end of the Job explains the failure. The code is then
/// that of the contract, although the container was scheduled and started; message and cause say how it ended.
async fn read_early_failure<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Observed<C>,
    follower: &mut Follower<C>,
    failed: &EarlyFailure,
) -> Result<(), Stop> {
    let _ = tokio::time::timeout(timing::DRAIN_GONE_LIMIT, last_read::read_with_retries(follower)).await;
    run.record.see_log(follower.facts());
    let silent = follower.tally.so_far().nonempty_lines == 0;
    if silent && !pod_wait::job_was_ended(observed, &failed.pod).await {
        let text = format!("{}, {ENDED_UNSEEN}", failed.text);
        let state = terminated_state(&failed.pod, CLAUDE_CONTAINER);
        let cause = run.record.cause_of_end(state.as_ref()).unwrap_or(Cause::NoResult);
        let outcome = start_failed(observed, &text).because(cause);
        return Err(run.stop(outcome.exited_with(state.and_then(|state| state.exit_code))).await);
    }
    // The pod may be gone with its Job, so that no later read shows it.
    follower.last_pod.get_or_insert_with(|| Pod::clone(&failed.pod));
    Ok(())
}

/// Follows the log while it waits for the run's end, and then drains the log.
async fn follow_and_wait<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Arc<Observed<C>>,
    follower: &mut Follower<C>,
) -> (RunEnd, JobRecord) {
    let (container, progress) = (follower.container.clone(), follower.progress.clone());
    let pod = follower.pod.clone();
    let mut following = pin!(async {
        tokio::select! {
            end = follower.run() => end,
            never = isolate(watch_container(observed, &pod, &container)) => match never {},
        }
    });
    let log_is_over = watch::Sender::new(false);
    let followed =
        Followed { pod: &pod, container: &container, progress: &progress, log_is_over: &log_is_over };
    let mut waiting = pin!(isolate(end::wait_for_end(run, observed, followed)));
    let mut time_limit = pin!(isolate(async {
        timing::until(run.time_limit(observed.spent)).await;
        run.log.end_within(timing::LOG_STALL_LIMIT);
        std::future::pending::<Infallible>().await
    }));
    let (end, record) = loop {
        tokio::select! {
            ended = &mut waiting => break ended,
            never = &mut time_limit => match never {},
            log_end = &mut following, if !*log_is_over.borrow() => {
                log_is_over.send_replace(true);
                if log_end == LogEnd::Told {
                    break (Box::pin(told::confirm(run, observed)).await, JobRecord::default());
                }
            }
        }
    };
    let log_is_over = *log_is_over.borrow();
    run.log.end_within(match end {
        RunEnd::Cancelled { .. } | RunEnd::Deadline => timing::LOG_STALL_LIMIT,
        _ => timing::HOST_ANSWER_LIMIT,
    });
    tracing::debug!(run = run.request.run_id, job = observed.job_name, ?end, "ended");
    if !log_is_over {
        last_read::drain(&end, &container, &progress, following).await;
    }
    (end, record)
}

/// The end as the choice of the result needs it.
fn job_end<C>(
    observed: &Observed<C>,
    end: RunEnd,
    record: JobRecord,
    running_at: Instant,
    disruption: Option<&Disruption>,
    api_outage: u64,
) -> JobEnd {
    match end {
        RunEnd::Job(JobState::Failed { reason }) => JobEnd::Failed { reason },
        RunEnd::Job(_) => JobEnd::Complete,
        RunEnd::Gone(path) => JobEnd::Gone(Vanished {
            path,
            job: observed.job_name.clone(),
            namespace: observed.namespace.clone(),
            since_pod_running: record.gone_at.map(|at| at.saturating_duration_since(running_at)),
            completion_polls: record.polls,
            last_conditions: record.conditions,
            disruption: disruption.cloned(),
        }),
        RunEnd::Told | RunEnd::Container | RunEnd::Grace | RunEnd::Suspended | RunEnd::Deadline => {
            JobEnd::Unconfirmed
        }
        RunEnd::Cancelled { acknowledged } => JobEnd::Cancelled { acknowledged },
        RunEnd::Hung => JobEnd::Hung,
        RunEnd::Lost(LostPod { node, overdue, with_node }) => JobEnd::Lost { node, overdue, with_node },
        RunEnd::Unreachable(error) => JobEnd::Unreachable { seconds: api_outage, error: error.to_string() },
    }
}
