//! At most one of several hosts starts a container for an agent.
//!
//! Two hosts run side by side during every rolling deploy, and nothing tells them of each other but the cluster. What
//! Kubernetes decides atomically for everybody who may create Jobs is whose object gets a name, and that is all this
//! is built on:
//!
//! 1. Whoever is about to start a run creates the agent's **claim**, an inert Job of a fixed name that names the Job to
//!    come. Only its holder goes on: lists the agent's Jobs (a consistent read), creates its own, deletes the claim.
//! 2. Who finds the claim taken waits. When it stays the same for [`timing::CLAIM_HOLDER_LIMIT`], its holder is taken for
//!    dead, and **barred** before the claim is removed: an inert Job takes the name of the Job that the claim names.
//!    A holder that was only slow finds its name taken and gives up; one that had created its Job is found by the list.
//!
//! So every Job that starts was created by a holder that was not barred, and whoever held the claim after it listed
//! after it: safety rests on names alone, clocks decide only how long a run waits. A Lease would need verbs that
//! existing installations do not grant and fences nothing by itself; a suspended Job of the run needs `patch` to start,
//! which they do not grant either; an ordering of creations lets the loser's container start before it is deleted.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::Instant;

use crate::cluster::{ApiError, ApiErrorKind, Cluster, retry};
use crate::manifest::{self, ClaimFacts};
use crate::outcome::Outcome;
use crate::run::active::ActiveJobs;
use crate::run::context::{Placement, RunContext};
use crate::run::{Host, timing};
use k8s_openapi::api::batch::v1::Job;

/// What became of the wish to start a run.
pub(super) enum Claimed<C: Cluster> {
    /// This run holds the agent's claim.
    Held(Claim<C>),
    /// The cluster takes no claims from us: quota, admission or permissions. The guard alone stands.
    Refused(ApiError),
    /// This run may not start.
    Ended(Outcome),
}

/// The claim, held. Given back by [`Claim::release`]; a claim that is dropped is given back in the background.
pub(super) struct Claim<C: Cluster> {
    id: u64,
    created: Option<Time>,
    claims: Arc<Mutex<HashMap<u64, Held<C>>>>,
}

/// A claim to be given back.
struct Held<C> {
    cluster: Arc<C>,
    namespace: String,
    name: String,
    uid: Option<String>,
}

impl<C: Cluster> Held<C> {
    async fn delete(self) -> Result<(), (String, ApiError)> {
        let deleted = delete(self.cluster.as_ref(), &self.namespace, &self.name, self.uid.as_deref()).await;
        deleted.map_err(|error| (self.name, error))
    }
}

/// The claims that this process holds.
pub(crate) struct Claims<C> {
    held: Arc<Mutex<HashMap<u64, Held<C>>>>,
    /// Kubeconfigs and namespaces that were told of as taking no claims.
    told: Mutex<HashSet<[String; 2]>>,
}

impl<C> Default for Claims<C> {
    fn default() -> Self {
        Self { held: Arc::default(), told: Mutex::default() }
    }
}

impl<C: Cluster> Claims<C> {
    /// True for the first call with this kubeconfig and namespace: a refusal is told once.
    pub(super) fn tell_refusal(&self, kubeconfig: Option<&str>, namespace: &str) -> bool {
        let key = [kubeconfig.unwrap_or_default().to_owned(), namespace.to_owned()];
        lock(&self.told).insert(key)
    }

    /// Gives back all claims, because the host shuts down and nothing is created any more.
    pub(crate) async fn release_all(&self) {
        let held: Vec<Held<C>> = lock(&self.held).drain().map(|(_, held)| held).collect();
        // Failures are for the next host to overrule.
        futures::future::join_all(held.into_iter().map(Held::delete)).await;
    }

    fn hold(&self, cluster: &Arc<C>, namespace: &str, job: Job) -> Claim<C> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let held = Held {
            cluster: cluster.clone(),
            namespace: namespace.to_owned(),
            name: job.metadata.name.unwrap_or_default(),
            uid: job.metadata.uid,
        };
        lock(&self.held).insert(id, held);
        Claim { id, created: job.metadata.creation_timestamp, claims: self.held.clone() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the agent's claim, waiting for other hosts that hold it.
pub(super) async fn take<C: Cluster, H: Host>(
    claims: &Claims<C>,
    active: &ActiveJobs<C>,
    run: &RunContext<C, H>,
    place: &Placement<C>,
) -> Claimed<C> {
    let RunContext { agent_label, log, cancel, .. } = run;
    let Placement { cluster, namespace, job_name, .. } = place;
    let facts = ClaimFacts { job_name: job_name.clone(), holder: unique() };
    let object = manifest::claim(agent_label, &facts, image(run, place));
    let name = manifest::claim_name(agent_label);
    let held = |job: Job| Claimed::Held(claims.hold(cluster, namespace, job));
    let mut seen: Option<(Option<String>, Instant)> = None;
    let mut pause = timing::claim_backoff();
    loop {
        // Held until the claim is on the list of those that a shutdown gives back.
        let Some(creating) = active.may_create().await else {
            return Claimed::Ended(Outcome::cancelled(true));
        };
        let created =
            retry::with_budget(timing::SETUP_READ_BUDGET, || cluster.create_job(namespace, &object)).await;
        match created {
            Ok(job) => return held(job),
            Err(error) if error.kind == ApiErrorKind::AlreadyExists => {}
            Err(error) if refused(&error) => return Claimed::Refused(error),
            Err(error) => return Claimed::Ended(Outcome::guard_unreachable(&error.to_string())),
        }
        let present =
            match retry::with_budget(timing::SETUP_READ_BUDGET, || cluster.get_job(namespace, &name)).await {
                Ok(present) => present,
                Err(error) if error.is_not_found() => continue,
                Err(error) if refused(&error) => return Claimed::Refused(error),
                Err(error) => return Claimed::Ended(Outcome::guard_unreachable(&error.to_string())),
            };
        let theirs = manifest::claim_facts(&present);
        if theirs.as_ref().is_some_and(|theirs| theirs.holder == facts.holder) {
            // The answer to an earlier attempt was lost.
            return held(present);
        }
        drop(creating);
        match &seen {
            Some((uid, since)) if *uid == present.metadata.uid => {
                if since.elapsed() >= timing::CLAIM_HOLDER_LIMIT {
                    match overrule(run, place, &present, theirs.as_ref()).await {
                        Ok(()) => continue,
                        Err(error) if refused(&error) => return Claimed::Refused(error),
                        Err(error) => {
                            return Claimed::Ended(Outcome::guard_unreachable(&error.to_string()));
                        }
                    }
                }
            }
            _ => {
                log.out(format!(
                    "[paperclip] Waiting for another host that is starting a run of this agent (claim {name}, {})",
                    theirs.as_ref().map_or("of unknown origin".to_owned(), |theirs| format!("Job {}", theirs.job_name)),
                ))
                .await;
                seen = Some((present.metadata.uid, Instant::now()));
                pause.reset();
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause.pause(None)) => {}
            () = cancel.cancelled() => return Claimed::Ended(Outcome::cancelled(true)),
        }
    }
}

/// Any image will do: the claim has no pod.
fn image<'a, C, H>(run: &'a RunContext<C, H>, place: &'a Placement<C>) -> &'a str {
    run.request.config.image.as_deref().unwrap_or(&place.self_pod.image)
}

/// Bars the holder of a claim and removes the claim.
async fn overrule<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    place: &Placement<C>,
    claim: &Job,
    theirs: Option<&ClaimFacts>,
) -> Result<(), ApiError> {
    let Placement { namespace, job_name, .. } = place;
    let cluster = place.cluster.as_ref();
    // A run that two hosts start has one Job name, which only one of them gets: nothing is to be barred.
    if let Some(theirs) = theirs.filter(|theirs| theirs.job_name != *job_name) {
        let barrier = manifest::barrier(&theirs.job_name, job_name, &run.agent_label, image(run, place));
        match retry::with_budget(timing::SETUP_READ_BUDGET, || cluster.create_job(namespace, &barrier)).await
        {
            Ok(_) => {}
            // It got there first, or is barred already; the list will tell.
            Err(error) if error.kind == ApiErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    run.log.out(format!(
        "[paperclip] Claim {name} has not moved for {}s — its holder is taken for dead and barred from starting",
        timing::CLAIM_HOLDER_LIMIT.as_secs()
    ))
    .await;
    delete(cluster, namespace, name, claim.metadata.uid.as_deref()).await
}

/// Deletes exactly this claim; one that is gone or another's by now is no failure.
async fn delete<C: Cluster>(
    cluster: &C,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<(), ApiError> {
    match retry::with_budget(timing::CLEANUP_BUDGET, || cluster.delete_job(namespace, name, uid)).await {
        Err(error) if !matches!(error.kind, ApiErrorKind::NotFound | ApiErrorKind::Conflict) => Err(error),
        _ => Ok(()),
    }
}

/// The cluster has answered, and will give the same answer again.
fn refused(error: &ApiError) -> bool {
    matches!(
        error.kind,
        ApiErrorKind::Forbidden
            | ApiErrorKind::Invalid
            | ApiErrorKind::BadRequest
            | ApiErrorKind::NotFound
            | ApiErrorKind::Other
    )
}

impl<C: Cluster> Claim<C> {
    /// Gives the claim back. Returns the warning to tell when that failed.
    pub(super) async fn release(self) -> Option<String> {
        let held = lock(&self.claims).remove(&self.id)?;
        let (name, error) = held.delete().await.err()?;
        Some(format!("[paperclip] Warning: failed to release the claim Job {name}: {error}"))
    }

    /// Whether an object was created no longer than `age` before this claim. Both stamps are the cluster's own, so that
    /// no clock of ours matters; without them it was not.
    pub(super) fn is_younger_than(&self, created: Option<&Time>, age: Duration) -> bool {
        let (Some(now), Some(created)) = (&self.created, created) else { return false };
        now.0.duration_since(created.0).unsigned_abs() <= age
    }

    /// The claim stays: a request to create the run's Job may still be under way, and only a barrier can stop it. The
    /// agent's next run puts that up.
    pub(super) fn leave(&self) {
        lock(&self.claims).remove(&self.id);
    }
}

impl<C: Cluster> Drop for Claim<C> {
    fn drop(&mut self) {
        let Some(held) = lock(&self.claims).remove(&self.id) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(held.delete());
        }
    }
}

/// 128 random bits in hexadecimal.
fn unique() -> String {
    let random = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", random(), random())
}
