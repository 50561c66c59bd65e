//! From the created Job to everything the result is chosen from: the pod, the log, the end (contract sections
//! 3.9 to 3.13).
//!
//! Futures run side by side in one task: the follower reads the log while the watches say how its container is,
//! and another waits for the end. They share only what is known of the container.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::cleanup::RetainReason;
use super::context::{RunContext, Stop};
use super::job_view::{JobSeen, Observed};
use super::log::follow;
use super::log::follow::{Doing, Follower, Life, Progress};
use super::{Host, StatusAnswer, StatusQuery, isolate, timing};
use crate::cluster::watch::Health;
use crate::cluster::{ApiError, Cluster};
use crate::forensics::{
    DetectionPath, Disruption, JobState, TerminatedState, Vanished, conditions_text, disruption, is_terminal,
    should_abort_for_cancellation, terminated_state,
};
use crate::manifest::CLAUDE_CONTAINER;
use crate::outcome::{JobEnd, Outcome, Settled, Workspace};

mod pod_wait;

/// How the wait for a run's end was over.
#[derive(Debug)]
enum End {
    /// The Job has a final condition.
    Job(JobState),
    /// The Job is gone.
    Gone(DetectionPath),
    /// The container ended, the condition did not come within the grace period.
    Grace,
    /// The run's own time limit.
    Deadline,
    /// The control plane or the host cancelled it.
    Cancelled { acknowledged: bool },
    /// The API could not be asked for too long.
    Unreachable(ApiError),
}

/// What was learnt of the Job on the way.
#[derive(Default)]
struct Observations {
    polls: u64,
    conditions: Option<String>,
    gone_at: Option<Instant>,
}

pub(super) async fn see_through<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: Observed<C>,
) -> Result<Settled, Stop> {
    let observed = Arc::new(observed);
    let pod = tokio::select! {
        found = find_pod(run, &observed) => match found {
            Ok(found) => found,
            Err(stop) => return Err(stop),
        },
        () = run.cancel.cancelled() => {
            let acknowledged = acknowledge(run, &observed).await;
            return Err(Stop::Outcome(Outcome::cancelled(acknowledged)));
        }
    };

    let (id, job) = (&run.request.run_id, &observed.job_name);
    tracing::debug!(run = id, job, pod = pod.name, failed = pod.failed.is_some(), "pod found");
    let running_at = Instant::now();
    let life = Arc::new(watch::channel(Life::Running).0);
    let progress = Arc::new(Progress::new());
    let mut follower = Follower::new(
        observed.clone(),
        pod.name.clone(),
        run.log.clone(),
        life.clone(),
        progress.clone(),
        run.readers.clone(),
    );
    if let Some(failed) = &pod.failed {
        // It ended before it was seen running; what it printed is worth more than that it failed.
        let _ = tokio::time::timeout(timing::DRAIN_GONE_LIMIT, read_patiently(&mut follower)).await;
        let silent = follower.tally.so_far().nonempty_lines == 0;
        if silent && !pod_wait::job_was_ended(&observed, &failed.pod).await {
            let outcome = Outcome::pod_schedule_failed(&failed.text, true);
            return Err(run.stop(outcome).await);
        }
        // Gone with its Job, it may never be seen again.
        follower.last_read.get_or_insert_with(|| Pod::clone(&failed.pod));
    }
    let mut seen = Observations::default();
    let end = {
        let mut following = pin!(async {
            tokio::select! {
                () = follower.run() => {}
                never = isolate(follow::watch_life(&observed, &pod.name, &life)) => match never {},
            }
        });
        let mut waiting = pin!(isolate(wait_for_end(run, &observed, &life, &progress, &mut seen)));
        let mut followed = false;
        let end = loop {
            tokio::select! {
                end = &mut waiting => break end,
                () = &mut following, if !followed => followed = true,
            }
        };
        tracing::debug!(run = id, job, ?end, "ended");
        if !followed {
            drain(&end, &life, &progress, following).await;
        }
        end
    };

    if let End::Cancelled { acknowledged } = end {
        run.owned.retain_job(RetainReason::AlreadyGone);
        return Err(Stop::Outcome(Outcome::cancelled(acknowledged)));
    }
    if let End::Unreachable(_) = &end {
        run.owned.retain_job(RetainReason::StateMismatch);
    }
    // What the follower had read but not handed over when it was stopped.
    follower.flush().await;
    one_shot(run, &mut follower, &life, &progress, &end).await;
    tracing::debug!(run = id, job, lines = follower.tally.so_far().lines, "log read");
    if let End::Gone(_) = end {
        run.log
            .out(format!(
                "[paperclip] Job {} was deleted before terminal condition was observed (TTL or external deletion) — proceeding with captured output.",
                observed.job_name
            ))
            .await;
        run.owned.retain_job(RetainReason::AlreadyGone);
        seen.gone_at.get_or_insert_with(Instant::now);
    }
    let last = final_state(&observed, &pod.name, follower.last_read.take(), &life).await;
    let timed_out = matches!(end, End::Deadline);
    let end = match end {
        End::Job(JobState::Failed { reason, message }) => JobEnd::Failed { reason, message },
        End::Job(_) => JobEnd::Complete,
        End::Gone(path) => JobEnd::Gone(Vanished {
            path,
            job: observed.job_name.clone(),
            namespace: observed.namespace.clone(),
            since_pod_running: seen.gone_at.map(|at| at.saturating_duration_since(running_at)),
            completion_polls: seen.polls,
            last_conditions: seen.conditions.clone(),
            disruption: last.disruption.clone(),
        }),
        End::Grace | End::Deadline | End::Cancelled { .. } => JobEnd::Unconfirmed,
        End::Unreachable(error) => {
            JobEnd::Unreachable { seconds: timing::RECHECK_LIMIT.as_secs(), error: error.to_string() }
        }
    };
    let workspace = |key: &str| run.request.context.workspace_text(key).map(str::to_owned);
    Ok(Settled {
        job: observed.job_name.clone(),
        end,
        timed_out,
        timeout_sec: run.request.config.timeout_sec,
        container: last.container,
        disruption: last.disruption,
        captured: follower.tally.finish(),
        config_model: run.request.config.model.clone(),
        current_session_id: run.request.session_id.clone(),
        workspace: Workspace {
            cwd: workspace("cwd"),
            workspace_id: workspace("workspaceId"),
            repo_url: workspace("repoUrl"),
            repo_ref: workspace("repoRef"),
        },
    })
}

/// The pod to follow.
#[derive(Default)]
struct FoundPod {
    /// Its name; empty when the Job was over before there was a pod to see.
    name: String,
    /// Set when it had failed before it was seen running.
    failed: Option<FailedPod>,
}

struct FailedPod {
    pod: Arc<Pod>,
    /// Why, in the contract's words.
    text: String,
}

/// The pod of the Job, once its container runs; for a reattached Job whatever pod it has.
async fn find_pod<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Observed<C>,
) -> Result<FoundPod, Stop> {
    let (pod, told) = if let Some(patience) = observed.reattached {
        match pod_wait::appear(observed, patience).await {
            Ok(Some(pod)) if pod.metadata.name.is_some() => (pod, "Reattached to pod"),
            Ok(_) => return Err(run.stop(Outcome::reattach_without_pod(&observed.job_name)).await),
            Err(error) => return Err(run.stop(Outcome::pod_reattach_failed(&error.to_string())).await),
        }
    } else {
        run.log
            .out(format!("[paperclip] Waiting for pod to be scheduled (job: {})...", observed.job_name))
            .await;
        match pod_wait::wait(observed, &run.log, &run.request.config).await {
            pod_wait::Found::Running(pod) => (pod, "Pod running:"),
            pod_wait::Found::Failed(pod, text) => {
                let name = pod_wait::name_of(&pod).to_owned();
                return Ok(FoundPod { name, failed: Some(FailedPod { pod, text }) });
            }
            pod_wait::Found::NotRunning(text) => {
                return Err(run.stop(Outcome::pod_schedule_failed(&text, false)).await);
            }
            pod_wait::Found::JobIsOver => return Ok(FoundPod::default()),
        }
    };
    let name = pod_wait::name_of(&pod).to_owned();
    run.log.out(format!("[paperclip] {told} {name}")).await;
    Ok(FoundPod { name, failed: None })
}

/// Waits for the first thing that ends the run.
async fn wait_for_end<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Arc<Observed<C>>,
    life: &watch::Sender<Life>,
    progress: &Progress,
    seen: &mut Observations,
) -> End {
    let started = Instant::now();
    let config = &run.request.config;
    let deadline = (config.timeout_sec > 0.0)
        .then(|| started + Duration::from_secs_f64(config.timeout_sec + config.grace_sec));
    let mut jobs = pin!(observed.clone().jobs());
    let mut life_changed = life.subscribe();
    let mut grace_at = life_changed.borrow_and_update().is_over().then(|| started + timing::COMPLETION_GRACE);
    let mut failing_since = None;
    let mut keepalive =
        tokio::time::interval_at(started + timing::KEEPALIVE_INTERVAL, timing::KEEPALIVE_INTERVAL);
    keepalive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut cancelled = pin!(cancelled_externally(run, observed));

    loop {
        tokio::select! {
            Some(look) = jobs.next() => match look {
                Ok(JobSeen::Present(job)) => {
                    failing_since = None;
                    seen.polls += 1;
                    seen.conditions = Some(conditions_text(&job));
                    match JobState::read(&job) {
                        JobState::Running => {}
                        state => return End::Job(state),
                    }
                }
                Ok(JobSeen::Deleted(job)) => {
                    // Its final object tells whether it had come to its end before.
                    seen.conditions = Some(conditions_text(&job));
                    seen.gone_at = Some(Instant::now());
                    return match JobState::read(&job) {
                        JobState::Running => End::Gone(DetectionPath::WatchDeleted),
                        state => End::Job(state),
                    };
                }
                Ok(JobSeen::Gone) => {
                    seen.gone_at = Some(Instant::now());
                    return End::Gone(DetectionPath::CompletionPoll404);
                }
                Err(error) => {
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    // Output that keeps coming shows that the run is alive, whatever the API says.
                    let alive = progress.last_output().max(since);
                    if alive.elapsed() >= timing::RECHECK_LIMIT {
                        return match observed.job().await {
                            Ok(JobSeen::Gone) => End::Gone(DetectionPath::RecheckPoll404),
                            _ => End::Unreachable(error),
                        };
                    }
                }
            },
            Ok(()) = life_changed.changed() => {
                if life_changed.borrow_and_update().is_over() && grace_at.is_none() {
                    grace_at = Some(Instant::now() + timing::COMPLETION_GRACE);
                }
            }
            () = until(grace_at) => {
                if let Some(end) = verify_after_grace(run, observed, seen).await {
                    return end;
                }
                grace_at = None;
            }
            () = until(deadline) => return End::Deadline,
            () = &mut cancelled => {
                run.log
                    .out(format!("[paperclip] Run cancelled externally — deleting Job {}", observed.job_name))
                    .await;
                let _ = delete(observed).await;
                return End::Cancelled { acknowledged: false };
            }
            _ = keepalive.tick() => {
                let quiet = rounded_seconds(progress.last_output().elapsed());
                run.log.out_if_idle(format!(
                    "[paperclip] keepalive — job {} running ({quiet}s since last output)",
                    observed.job_name
                ));
            }
            () = run.cancel.cancelled() => {
                let acknowledged = delete(observed).await.is_ok() && pod_is_gone(observed).await;
                return End::Cancelled { acknowledged };
            }
        }
    }
}

/// The Job after the grace period: its condition may have come at the last moment, it may be gone, or nobody
/// knows. The contract's three log lines are told here.
async fn verify_after_grace<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    observed: &Observed<C>,
    seen: &mut Observations,
) -> Option<End> {
    let name = &observed.job_name;
    let seen_now = observed.job().await;
    if seen_now.as_ref().is_ok_and(JobSeen::is_over) {
        // The watch should have told that.
        observed.watched.request_resync();
    }
    match seen_now {
        Ok(JobSeen::Present(job)) => match JobState::read(&job) {
            JobState::Running => {
                run.log
                    .out(format!(
                        "[paperclip] Log stream exited 30s ago without K8s Job condition update; Job {name} still present — proceeding with captured output (FAR-23)"
                    ))
                    .await;
                Some(End::Grace)
            }
            state => Some(End::Job(state)),
        },
        Ok(JobSeen::Deleted(_) | JobSeen::Gone) => {
            seen.gone_at = Some(Instant::now());
            run.log
                .out(format!(
                    "[paperclip] Log stream exited 30s ago and Job {name} is gone (TTL or external deletion) — proceeding with captured output (FAR-23)"
                ))
                .await;
            Some(End::Gone(DetectionPath::GracePeriodVerify404))
        }
        Err(error) => {
            run.log
                .out(format!(
                    "[paperclip] Log stream exited 30s ago; Job state unverifiable ({error}) — proceeding with captured output (FAR-23)"
                ))
                .await;
            Some(End::Grace)
        }
    }
}

/// Resolves when the control plane says that the run was cancelled, asking every [`timing::KEEPALIVE_INTERVAL`]
/// (contract section 3.11, point 3). Never resolves where it may not ask.
async fn cancelled_externally<C: Cluster, H: Host>(run: &RunContext<C, H>, observed: &Observed<C>) {
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
                // One stale read must not kill a run: all but `cancelled` count when seen twice in a row.
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

async fn delete<C: Cluster>(observed: &Observed<C>) -> Result<(), ApiError> {
    let gone = crate::cluster::retry::with_budget(timing::CLEANUP_BUDGET, || {
        observed.cluster.delete_job(&observed.namespace, &observed.job_name, observed.job_uid.as_deref())
    })
    .await;
    match gone {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// After a cancel while the pod was still awaited: delete the Job and see its pod go.
async fn acknowledge<C: Cluster, H: Host>(run: &RunContext<C, H>, observed: &Observed<C>) -> bool {
    let deleted = delete(observed).await.is_ok();
    if deleted {
        run.owned.retain_job(RetainReason::AlreadyGone);
    }
    deleted && pod_is_gone(observed).await
}

/// Whether the pod went within the time the host waits for an acknowledgement.
async fn pod_is_gone<C: Cluster>(observed: &Observed<C>) -> bool {
    let deadline = Instant::now() + timing::CANCEL_CONFIRM_LIMIT;
    let mut changes = observed.watched.changes();
    let mut pause = timing::CANCEL_CONFIRM_FIRST;
    let mut read_at = Instant::now() + timing::UNSEEN_LIMIT;
    while Instant::now() < deadline {
        let view = changes.borrow_and_update().clone();
        let told = view.health == Health::Live && !view.pods.is_empty();
        if told && view.pod().is_none() {
            return true;
        }
        if told && Instant::now() < read_at {
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

/// Lets the follower read what is left once the end is known.
async fn drain(
    end: &End,
    life: &watch::Sender<Life>,
    progress: &Progress,
    mut following: std::pin::Pin<&mut impl Future<Output = ()>>,
) {
    let limit = match end {
        End::Job(_) | End::Grace => None,
        End::Gone(_) => Some(Instant::now() + timing::DRAIN_GONE_LIMIT),
        End::Deadline | End::Cancelled { .. } | End::Unreachable(_) => return,
    };
    if matches!(end, End::Job(_)) {
        // A final condition means that the container has ended; the follower need not find that out again.
        life.send_if_modified(|life| {
            let running = *life == Life::Running;
            if running {
                *life = Life::Ended(None);
            }
            running
        });
    }
    let from = Instant::now();
    let mut look = tokio::time::interval(timing::DRAIN_CHECK_INTERVAL);
    loop {
        tokio::select! {
            () = &mut following => return,
            () = until(limit) => return,
            _ = look.tick() => {
                let stalled = progress.last_output().max(from).elapsed();
                let patience = match progress.doing() {
                    Doing::Reading => timing::DRAIN_STALL_LIMIT,
                    Doing::CutOff => timing::RECHECK_LIMIT,
                    Doing::Delivering => continue,
                };
                if stalled >= patience {
                    return;
                }
            }
        }
    }
}

/// The one-shot read of the contract (3.13, point 4): only where no result was found. A follow stream that ended
/// before the container did looks like one that ended with it, so the log is read until nothing new comes out: from
/// where it was left, and after that from its beginning, because the node's clock may have been set back.
async fn one_shot<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    follower: &mut Follower<C>,
    life: &watch::Sender<Life>,
    progress: &Progress,
    end: &End,
) {
    if !follower.needs_another_look() {
        return;
    }
    let was_blank = follower.tally.so_far().nonempty_lines == 0;
    if was_blank {
        run.log.out("[paperclip] Log stream returned empty — reading pod logs directly...").await;
    }
    let before = follower.tally.so_far().lines;
    let mut deadline = Instant::now() + timing::DRAIN_GONE_LIMIT;
    let mut pause = timing::RECONNECT_FIRST;
    let mut fruitless = 0;
    let mut from_the_beginning = before == 0;
    while Instant::now() < deadline {
        if from_the_beginning {
            follower.start_over();
        }
        let lines = follower.tally.so_far().lines;
        let read = while_it_comes(follower.read_once(), progress, deadline).await;
        let is_new = follower.tally.so_far().lines > lines;
        // What a container that has ended left behind comes to an end, however small the pieces are.
        if is_new && life.borrow().is_over() {
            deadline = Instant::now() + timing::DRAIN_GONE_LIMIT;
            pause = timing::RECONNECT_FIRST;
        }
        match read {
            Some(Ok(())) if is_new => fruitless = 0,
            Some(Ok(())) => {
                fruitless += 1;
                // A container that ended well has printed a result: what was read is not all of it.
                let missing = ended_well(life, end) && follower.needs_another_look();
                let all = std::mem::replace(&mut from_the_beginning, true);
                if (all && !missing) || fruitless > MOST_FRUITLESS_READS {
                    break;
                }
                if all {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
            Some(Err(error)) if error.is_not_found() => break,
            Some(Err(error)) => {
                // Who may do what is not always known to an API server, either.
                fruitless += u32::from(!error.is_transient());
                if fruitless > MOST_FRUITLESS_READS {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            None => break,
        }
        if !follower.needs_another_look() {
            break;
        }
    }
    if !was_blank && follower.tally.so_far().lines > before {
        run.log
            .out("[paperclip] Log stream captured partial output — supplemental one-shot read returned more content.")
            .await;
    }
}

/// A read of a log that may be long: it has until the deadline, and for as long as something comes, but not for ever.
async fn while_it_comes<T>(
    read: impl Future<Output = T>,
    progress: &Progress,
    deadline: Instant,
) -> Option<T> {
    let most = Instant::now() + timing::RECHECK_LIMIT;
    let mut read = pin!(read);
    let mut until = deadline;
    loop {
        tokio::select! {
            read = &mut read => return Some(read),
            () = tokio::time::sleep_until(until.min(most)) => {}
        }
        let next = progress.last_output() + timing::DRAIN_GONE_LIMIT;
        if next <= Instant::now() || most <= Instant::now() {
            return None;
        }
        until = next;
    }
}

/// Reads what a container has printed, again where that fails.
async fn read_patiently<C: Cluster>(follower: &mut Follower<C>) {
    let mut pause = timing::RECONNECT_FIRST;
    let mut refused = 0;
    while let Err(error) = follower.read_once().await {
        refused += u32::from(!error.is_transient());
        if error.is_not_found() || refused > MOST_FRUITLESS_READS {
            return;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// How often a log is read again in vain: refused, or without the result that a container that ended well must have
/// printed.
const MOST_FRUITLESS_READS: u32 = 3;

fn ended_well(life: &watch::Sender<Life>, end: &End) -> bool {
    match (&*life.borrow(), end) {
        (Life::Ended(Some(state)), _) => state.exit_code == Some(0),
        (_, End::Job(state)) => !matches!(state, JobState::Failed { .. }),
        _ => false,
    }
}

/// What is known of the container's end.
#[derive(Default)]
struct Last {
    container: Option<TerminatedState>,
    disruption: Option<Disruption>,
}

impl Last {
    fn of(pod: &Pod) -> Self {
        Self { container: terminated_state(pod, CLAUDE_CONTAINER), disruption: disruption(pod) }
    }
}

/// How the container ended: from what was seen, be the pod gone by now, or from the pod, asked again while its
/// status lags. A failing read loses the exit code, never the run.
async fn final_state<C: Cluster>(
    observed: &Observed<C>,
    pod: &str,
    last_read: Option<Pod>,
    life: &watch::Sender<Life>,
) -> Last {
    let patience = Instant::now() + timing::EXIT_STATUS_LAG;
    let mut changes = observed.watched.changes();
    let known = loop {
        let view = changes.borrow_and_update().clone();
        let seen = view.last_pod(pod).map(AsRef::as_ref).or(last_read.as_ref());
        let mut last = seen.map(Last::of).unwrap_or_default();
        if let Life::Ended(Some(state)) = &*life.borrow() {
            last.container.get_or_insert_with(|| state.clone());
        }
        // A watch that fell behind does not show what was read since.
        last.disruption = last.disruption.or_else(|| disruption(last_read.as_ref()?));
        let Some(seen) = seen.filter(|_| view.health == Health::Live) else {
            if last.container.is_some() {
                return last;
            }
            break last;
        };
        let lagging = is_terminal(seen) || life.borrow().is_over();
        if last.container.is_some() || !lagging || view.pod().is_none() {
            return last;
        }
        if tokio::time::timeout_at(patience, changes.changed()).await.is_err() {
            break last;
        }
    };
    let read = read_final_state(observed, pod, life).await;
    Last { container: read.container.or(known.container), disruption: read.disruption.or(known.disruption) }
}

async fn read_final_state<C: Cluster>(observed: &Observed<C>, pod: &str, life: &watch::Sender<Life>) -> Last {
    let mut last = Last::default();
    let patience = Instant::now() + timing::EXIT_STATUS_LAG;
    loop {
        match observed.pod_named(pod).await {
            Ok(Some(pod)) => {
                last = Last::of(&pod);
                let lagging = is_terminal(&pod) || life.borrow().is_over();
                if last.container.is_some() || !lagging {
                    return last;
                }
            }
            Ok(None) => return last,
            Err(error) if !error.is_transient() => return last,
            Err(_) => {}
        }
        if Instant::now() >= patience {
            return last;
        }
        tokio::time::sleep(timing::EXIT_STATUS_INTERVAL).await;
    }
}

fn rounded_seconds(duration: Duration) -> u64 {
    // Half a second and more rounds up, as JavaScript's Math.round does.
    (duration.as_millis() as u64 + 500) / 1000
}

/// Sleeps until then; for ever without a time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
