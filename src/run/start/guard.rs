//! No other run of the agent may be alive (`docs/contract.md`, "Concurrency guard"). The guard fails closed and changes
//! nothing in the cluster.
//!
//! A Job that is gone or final does not show that its CLI has ended: a pod that is asked to end works on for up to its grace
//! period, and one whose Job was deleted without it works on to its end. So the agent's pods count as well.

use std::time::Duration;

use k8s_openapi::Metadata;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tokio::time::Instant;

use crate::claude::EndToken;
use crate::cluster::{ApiError, Cluster, retry};
use crate::forensics::{self, Account, Expected, claude_may_run, kept_by, node_of, still_running};
use crate::manifest::{self, JobSession, LABEL_COMPANY_ID, LABEL_RUN_ID, agent_selector};
use crate::outcome::Outcome;
use crate::request::{MAX_LABEL_LEN, Request, sanitize_label_value};
use crate::run::card::Waits;
use crate::run::context::{Placement, RunContext, Stop};
use crate::run::record::cause_of_guard;
use crate::run::{Host, timing};

/// A live Job of the same agent, task and session that another run left behind: the one to reattach to.
#[derive(Debug, Clone)]
pub(super) struct Orphan {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: Option<String>,
    prior_run: String,
    pub(super) image: String,
    pub(super) created: Option<Time>,
    pub(super) end_token: Option<EndToken>,
    /// What it says of its session.
    pub(super) session: Option<Box<JobSession>>,
    pub(super) account: Box<Account>,
    /// The Secrets of its run.
    pub(super) secrets: Vec<String>,
}

/// What the guard found.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing of the agent is alive.
    Clear,
    /// A Job to attach to.
    Attach(Box<Orphan>),
    /// Pods without a live Job, whose CLIs may still be at work.
    Wait(Vec<Pod>),
}

/// Checks all live Jobs and pods of the agent. `now`: the cluster's time, where the run knows it.
pub(super) async fn check<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    now: Option<&Time>,
) -> Result<Verdict, Stop> {
    let Placement { cluster, namespace, .. } = placement;
    let selector = agent_selector(&run.agent_label);
    let verdict = match read(cluster.as_ref(), namespace, &selector).await {
        Ok((mut jobs, mut pods)) => {
            let company = sanitize_label_value(&run.request.agent.company_id, MAX_LABEL_LEN);
            jobs.retain(|job| is_of_company(job, company.as_deref()));
            pods.retain(|pod| is_of_company(pod, company.as_deref()));
            // The run's first Job is over, also where it is retained and its condition is still to come.
            jobs.retain(|job| job.metadata.name.as_deref() != run.ended_job.get().map(String::as_str));
            let run_label = run.request.run_label();
            let own = run_label.as_deref();
            if jobs.iter().any(|job| is_of_run(job, own)) || pods.iter().any(|pod| is_of_run(pod, own)) {
                run.owned.job_may_exist();
            }
            let kept = kept_pods(&jobs, &pods);
            let left = left_behind(pods, &jobs);
            let (lost, left): (Vec<Pod>, Vec<Pod>) = left.into_iter().partition(|pod| is_lost(pod, now));
            log_lost(run, &lost).await;
            let judged = judge(&run.request, namespace, jobs);
            if judged.is_err() {
                log_kept(run, kept).await;
            }
            judged.map(|orphan| match orphan {
                _ if !left.is_empty() => Verdict::Wait(left),
                Some(orphan) => Verdict::Attach(Box::new(orphan)),
                None => Verdict::Clear,
            })
        }
        Err(error) => {
            Err(Box::new(Outcome::guard_unreachable(&error.to_string()).because(cause_of_guard(&error))))
        }
    };
    match verdict {
        Ok(verdict) => Ok(verdict),
        Err(outcome) => Err(run.stop(*outcome).await),
    }
}

/// The agent's Jobs and pods.
///
/// The pods are requested once the Jobs are there. Of two lists that are under way at the same time the server may read
/// the pods first: then a Job that gets its pod and is deleted before the Jobs are read (by a cancel, or a host that shuts
/// down) is on neither list, and its CLI works beside the next run's. In this order each Job that exists when the Jobs are
/// read is on the first list, and the pod of each that is gone by then on the second. No Job is added in between, because
/// the run holds the agent's claim.
///
/// What remains: a Job controller that has not seen a deletion yet can create a pod after it. Its owner does not exist from
/// the start, so the garbage collector deletes it, and the Secret that its container needs, before a node has started it.
async fn read<C: Cluster>(
    cluster: &C,
    namespace: &str,
    selector: &str,
) -> Result<(Vec<Job>, Vec<Pod>), ApiError> {
    let budget = timing::SETUP_READ_BUDGET;
    let jobs = retry::with_budget(budget, || cluster.list_jobs(namespace, selector)).await?;
    let pods = retry::with_budget(budget, || cluster.list_pods(namespace, selector)).await?;
    Ok((jobs, pods))
}

/// The pods whose CLI may still run although none of the live Jobs has them.
fn left_behind(pods: Vec<Pod>, jobs: &[Job]) -> Vec<Pod> {
    let live: Vec<&str> = jobs
        .iter()
        .filter(|job| forensics::is_live(job))
        .filter_map(|job| job.metadata.name.as_deref())
        .collect();
    let is_left = |pod: &Pod| job_of(pod).is_some_and(|job| !live.contains(&job)) && claude_may_run(pod);
    pods.into_iter().filter(is_left).collect()
}

/// For each live Job whose `claude` has ended, a line that names what keeps its pod, and so the Job.
fn kept_pods(jobs: &[Job], pods: &[Pod]) -> Vec<String> {
    let of = |pod: &Pod| {
        let job = job_of(pod)?;
        let is_live =
            jobs.iter().any(|of| of.metadata.name.as_deref() == Some(job) && forensics::is_live(of));
        let kept = kept_by(pod).filter(|_| is_live)?;
        Some(format!(
            "[paperclip] Warning: Claude has ended in Job {job}, and {kept} of its pod {} runs on, which keeps the Job alive: \
             delete the Job, or let the sidecar end with it",
            pod_name(pod)
        ))
    };
    pods.iter().filter_map(of).collect()
}

async fn log_kept<C: Cluster, H: Host>(run: &RunContext<C, H>, lines: Vec<String>) {
    for line in lines {
        run.log.err(line).await;
    }
}

/// The Job that the Job controller created a pod for, gone or not.
fn job_of(pod: &Pod) -> Option<&str> {
    let labels = pod.metadata.labels.as_ref()?;
    labels.get("job-name").or_else(|| labels.get("batch.kubernetes.io/job-name")).map(String::as_str)
}

/// Whether the deletion of a pod is so long overdue that its node will not carry it out.
fn is_lost(pod: &Pod, now: Option<&Time>) -> bool {
    let (Some(now), Some(due)) = (now, &pod.metadata.deletion_timestamp) else { return false };
    let limit = jiff::SignedDuration::try_from(timing::LOST_NODE_LIMIT).unwrap_or_default();
    now.0.duration_since(due.0) > limit
}

async fn log_lost<C: Cluster, H: Host>(run: &RunContext<C, H>, lost: &[Pod]) {
    for pod in lost {
        let (name, node) = (pod_name(pod), node_of(pod).unwrap_or("unknown"));
        run.log
            .err(format!(
                "[paperclip] Warning: pod {name} of this agent is due to end and does not: its node {node} is taken for lost"
            ))
            .await;
    }
}

/// Waits until the CLIs of these pods have ended: as long as pods that are asked to end may take.
pub(super) async fn wait_for_pods<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    mut left: Vec<Pod>,
) -> Result<(), Stop> {
    let Placement { cluster, namespace, .. } = placement;
    let names: Vec<&str> = left.iter().map(pod_name).collect();
    let line =
        format!("[paperclip] Waiting for the end of an earlier run of this agent (pod {})", names.join(", "));
    run.log.out(line).await;
    let text = format!("waiting for the end of an earlier run of this agent (pod {})", names.join(", "));
    run.card.show(Waits::Queued, &text);
    let known: Vec<Option<String>> = left.iter().map(|pod| pod.metadata.uid.clone()).collect();
    let started = Instant::now();
    let mut pause = timing::pod_end_backoff();
    let selector = agent_selector(&run.agent_label);
    let mut doubted = false;
    loop {
        if !doubted && let Some(pod) = left.iter().find(|pod| is_doubted(run, pod)) {
            doubted = true;
            run.log
                .err(format!(
                    "[paperclip] Warning: the last line of pod {} said that Claude had ended, and its container still runs: \
                     its agent may have printed that line itself",
                    pod_name(pod)
                ))
                .await;
        }
        if started.elapsed() >= patience(&left) {
            for pod in &left {
                run.log.err(format!("[paperclip] Warning: {}", still_running(pod))).await;
            }
            let names: Vec<&str> = left.iter().map(pod_name).collect();
            return Err(run.stop(Outcome::pod_blocked(&names)).await);
        }
        run.unless_cancelled(tokio::time::sleep(pause.pause(None))).await?;
        // A failed read shows no end.
        let Ok(pods) = cluster.list_pods(namespace, &selector).await else { continue };
        left =
            pods.into_iter().filter(|pod| known.contains(&pod.metadata.uid) && claude_may_run(pod)).collect();
        if left.is_empty() {
            return Ok(());
        }
    }
}

/// Whether the pod said its own end, and its container was not seen to end.
fn is_doubted<C, H>(run: &RunContext<C, H>, pod: &Pod) -> bool {
    job_of(pod).is_some_and(|job| run.unconfirmed.contains(job))
}

/// How long the ends of these pods are waited for.
fn patience(pods: &[Pod]) -> Duration {
    let of = |pod: &Pod| {
        if pod.metadata.deletion_timestamp.is_none() {
            return timing::ORPHAN_LIMIT;
        }
        let grace = pod.metadata.deletion_grace_period_seconds.and_then(|grace| u64::try_from(grace).ok());
        let grace = grace.map_or(timing::DEFAULT_POD_GRACE, Duration::from_secs);
        grace.min(timing::MAX_POD_GRACE) + timing::POD_END_MARGIN
    };
    pods.iter().map(of).max().unwrap_or_default()
}

fn pod_name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("unknown")
}

/// The Job to reattach to, if any; an outcome when the run may not start.
fn judge(request: &Request, namespace: &str, jobs: Vec<Job>) -> Result<Option<Orphan>, Box<Outcome>> {
    let run_label = request.run_label();
    // Both sides in the one form a label can have: a raw run id never equals its own label.
    let (same_run, mut orphans): (Vec<Job>, Vec<Job>) =
        jobs.into_iter().filter(forensics::is_live).partition(|job| is_of_run(job, run_label.as_deref()));

    let mut newest = None;
    if !orphans.is_empty() {
        if !request.config.reattach_orphaned_jobs {
            return Err(Box::new(Outcome::reattach_disabled(&names(&orphans))));
        }
        orphans.sort_by_key(|job| {
            std::cmp::Reverse(
                job.metadata.creation_timestamp.as_ref().map_or(i128::MIN, |time| time.0.as_nanosecond()),
            )
        });
        let (task, session) = (request.task_label(), request.session_label());
        let expected = Expected { task_id: task.as_deref(), session_id: session.as_deref() };
        for orphan in &orphans {
            let verdict = forensics::classify_orphan(orphan, &expected);
            if let Some(outcome) = Outcome::orphan_blocked(verdict, orphan.metadata.name.as_deref()) {
                return Err(Box::new(outcome));
            }
            newest.get_or_insert_with(|| Orphan::of(orphan, namespace));
        }
    }
    if !same_run.is_empty() {
        return Err(Box::new(Outcome::same_run_blocked(&names(&same_run))));
    }
    Ok(newest)
}

impl Orphan {
    /// The run it belongs to, as its label says.
    pub(super) fn prior_run(&self) -> &str {
        if self.prior_run.is_empty() { "unknown" } else { &self.prior_run }
    }

    fn of(job: &Job, namespace: &str) -> Self {
        let image = job
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.as_ref())
            .and_then(|pod| pod.containers.first())
            .and_then(|container| container.image.clone());
        Self {
            name: name(job).to_owned(),
            namespace: job.metadata.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
            uid: job.metadata.uid.clone(),
            prior_run: label(job, LABEL_RUN_ID).unwrap_or_default().to_owned(),
            image: image.unwrap_or_else(|| "unknown".to_owned()),
            created: job.metadata.creation_timestamp.clone(),
            end_token: manifest::end_token(job),
            session: JobSession::of_job(job).map(Box::new),
            account: Account::of(job).into(),
            secrets: manifest::secrets_of(job),
        }
    }
}

/// Whether an object with the agent's label is not one of another company.
fn is_of_company(object: &impl Metadata<Ty = ObjectMeta>, company: Option<&str>) -> bool {
    match (label(object, LABEL_COMPANY_ID), company) {
        (Some(theirs), Some(ours)) => theirs == ours,
        _ => true,
    }
}

fn is_of_run(object: &impl Metadata<Ty = ObjectMeta>, run_label: Option<&str>) -> bool {
    run_label.is_some() && label(object, LABEL_RUN_ID) == run_label
}

fn label<'a>(object: &'a impl Metadata<Ty = ObjectMeta>, key: &str) -> Option<&'a str> {
    object.metadata().labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str)
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or("unknown")
}

fn names(jobs: &[Job]) -> Vec<&str> {
    jobs.iter().map(name).collect()
}
