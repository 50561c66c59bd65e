//! At most one of several hosts starts a container for an agent.
//!
//! Two hosts run side by side during every rolling deploy, and they know of each other only through the cluster. For
//! everyone who may create Jobs, Kubernetes decides atomically whose object gets a name. The claim is built on this alone:
//!
//! 1. A run that is about to start creates the agent's **claim**, an inert Job of a fixed name that says which Job is to
//!    come. Only the holder of the claim continues: it lists the agent's Jobs (a consistent read), creates its own Job,
//!    and deletes the claim.
//! 2. A run that finds the claim taken waits. When the claim stays the same for [`timing::CLAIM_HOLDER_LIMIT`], its
//!    holder counts as dead, and is **barred** before the claim is removed: an inert Job takes the name of the Job that
//!    the claim announced. A holder that was only slow finds that name taken and gives up; one that had created its Job
//!    is found by the list.
//!
//! So every Job that starts was created by a holder that was not barred, and the next holder of the claim listed after
//! that: safety rests on names alone, clocks only decide how long a run waits. Why not a Lease, a suspended Job or an
//! order of creations: `docs/decisions/0004-claim-of-inert-jobs.md`.

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
use crate::run::card::Waits;
use crate::run::cleanup;
use crate::run::context::{Placement, RunContext, Stop};
use crate::run::{Host, timing};
use k8s_openapi::api::batch::v1::Job;

/// Why a run has no claim.
pub(super) enum NoClaim {
    /// The cluster does not accept claims: quota, admission or permissions. The run starts, and only the guard protects it.
    Refused(ApiError),
    /// This run may not start.
    Ended(Outcome),
    /// The run is over.
    Stopped(Stop),
}

impl From<ApiError> for NoClaim {
    fn from(error: ApiError) -> Self {
        match error.kind {
            // The cluster has answered, and will give the same answer again.
            ApiErrorKind::Forbidden
            | ApiErrorKind::Invalid
            | ApiErrorKind::BadRequest
            | ApiErrorKind::NotFound
            | ApiErrorKind::Other => NoClaim::Refused(error),
            _ => NoClaim::Ended(Outcome::guard_unreachable(&error.to_string())),
        }
    }
}

/// A claim that this run holds. [`Claim::release`] deletes it; a claim that is dropped is deleted in the background.
pub(super) struct Claim<C: Cluster> {
    id: u64,
    created: Option<Time>,
    held: Arc<Mutex<HashMap<u64, ClaimJob<C>>>>,
}

/// The claim as an object of the cluster.
struct ClaimJob<C> {
    cluster: Arc<C>,
    namespace: String,
    name: String,
    uid: Option<String>,
}

impl<C> Clone for ClaimJob<C> {
    fn clone(&self) -> Self {
        let Self { cluster, namespace, name, uid } = self;
        Self { cluster: cluster.clone(), namespace: namespace.clone(), name: name.clone(), uid: uid.clone() }
    }
}

impl<C: Cluster> ClaimJob<C> {
    async fn delete(self) -> Result<(), (String, ApiError)> {
        let Self { cluster, namespace, name, uid } = &self;
        let deleted = cleanup::delete_job(cluster.as_ref(), namespace, name, uid.as_deref()).await;
        deleted.map_err(|error| (self.name, error))
    }
}

/// The claims that this process holds.
pub(crate) struct Claims<C> {
    held: Arc<Mutex<HashMap<u64, ClaimJob<C>>>>,
    /// Kubeconfigs and namespaces that are known to refuse claims.
    refusing: Mutex<HashSet<[String; 2]>>,
}

impl<C> Default for Claims<C> {
    fn default() -> Self {
        Self { held: Arc::default(), refusing: Mutex::default() }
    }
}

impl<C: Cluster> Claims<C> {
    /// Whether this is the first refusal for this kubeconfig and namespace: only that one is logged.
    pub(super) fn is_first_refusal(&self, kubeconfig: Option<&str>, namespace: &str) -> bool {
        let key = [kubeconfig.unwrap_or_default().to_owned(), namespace.to_owned()];
        lock(&self.refusing).insert(key)
    }

    /// Deletes all claims, because the host shuts down and nothing is created any more.
    pub(crate) async fn release_all(&self) {
        let claims: Vec<ClaimJob<C>> = lock(&self.held).drain().map(|(_, claim)| claim).collect();
        // The next host overrules a claim that could not be deleted.
        futures::future::join_all(claims.into_iter().map(ClaimJob::delete)).await;
    }

    fn hold(&self, cluster: &Arc<C>, namespace: &str, job: Job) -> Claim<C> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let claim = ClaimJob {
            cluster: cluster.clone(),
            namespace: namespace.to_owned(),
            name: job.metadata.name.unwrap_or_default(),
            uid: job.metadata.uid,
        };
        lock(&self.held).insert(id, claim);
        Claim { id, created: job.metadata.creation_timestamp, held: self.held.clone() }
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
    placement: &Placement<C>,
) -> Result<Claim<C>, NoClaim> {
    let Placement { cluster, namespace, job_name, .. } = placement;
    let facts = ClaimFacts { job_name: job_name.clone(), holder: unique() };
    let object = manifest::claim(&run.agent_label, &facts, image(run, placement));
    let mut rival: Option<Rival> = None;
    let mut pause = timing::claim_backoff();
    loop {
        // Held until the claim is on the list of those that a shutdown deletes.
        let Some(creating) = active.may_create().await else {
            return Err(NoClaim::Stopped(run.lost_host().await));
        };
        let present = match create(cluster.as_ref(), namespace, &object).await? {
            Creation::Created(job) => return Ok(claims.hold(cluster, namespace, job)),
            Creation::Released => continue,
            Creation::Taken(present) => present,
        };
        let theirs = manifest::claim_facts(&present);
        if theirs.as_ref().is_some_and(|theirs| theirs.holder == facts.holder) {
            // The answer to an earlier attempt was lost.
            return Ok(claims.hold(cluster, namespace, present));
        }
        drop(creating);
        match rival.as_ref().filter(|rival| rival.uid == present.metadata.uid) {
            Some(rival) if rival.since.elapsed() >= timing::CLAIM_HOLDER_LIMIT => {
                overrule(run, placement, &present, theirs.as_ref()).await?;
                continue;
            }
            Some(_) => {}
            None => {
                log_wait(run, theirs.as_ref()).await;
                rival = Some(Rival { uid: present.metadata.uid, since: Instant::now() });
                pause.reset();
            }
        }
        run.unless_cancelled(tokio::time::sleep(pause.pause(None))).await.map_err(NoClaim::Stopped)?;
    }
}

/// A claim of another host, and since when it has been there.
struct Rival {
    uid: Option<String>,
    since: Instant,
}

/// What came of one attempt to create the claim.
enum Creation {
    Created(Job),
    /// There is one already.
    Taken(Job),
    /// There was one, and it is gone by now.
    Released,
}

async fn create<C: Cluster>(cluster: &C, namespace: &str, object: &Job) -> Result<Creation, ApiError> {
    let budget = timing::SETUP_READ_BUDGET;
    match retry::with_budget(budget, || cluster.create_job(namespace, object)).await {
        Ok(created) => return Ok(Creation::Created(created.job)),
        Err(error) if error.kind == ApiErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let name = object.metadata.name.as_deref().unwrap_or_default();
    match retry::with_budget(budget, || cluster.get_job(namespace, name)).await {
        Ok(present) => Ok(Creation::Taken(present)),
        Err(error) if error.is_not_found() => Ok(Creation::Released),
        Err(error) => Err(error),
    }
}

async fn log_wait<C, H>(run: &RunContext<C, H>, theirs: Option<&ClaimFacts>) {
    let name = manifest::claim_name(&run.agent_label);
    run.card.show(Waits::Queued, "another host is starting a run of this agent");
    let origin = theirs.map_or("of unknown origin".to_owned(), |theirs| format!("Job {}", theirs.job_name));
    run.log.out(format!(
        "[paperclip] Waiting for another host that is starting a run of this agent (claim {name}, {origin})"
    ))
    .await;
}

/// Any image will do: the claim has no pod.
fn image<'a, C, H>(run: &'a RunContext<C, H>, placement: &'a Placement<C>) -> &'a str {
    run.request.config.image.as_deref().unwrap_or(&placement.self_pod.image)
}

/// Bars the holder of a claim and removes the claim.
async fn overrule<C: Cluster, H: Host>(
    run: &RunContext<C, H>,
    placement: &Placement<C>,
    claim: &Job,
    theirs: Option<&ClaimFacts>,
) -> Result<(), ApiError> {
    let Placement { namespace, job_name, .. } = placement;
    let cluster = placement.cluster.as_ref();
    // A run that two hosts start has the same Job name on both, which only one of them gets: there is nothing to bar.
    if let Some(theirs) = theirs.filter(|theirs| theirs.job_name != *job_name) {
        let barrier = manifest::barrier(&theirs.job_name, job_name, &run.agent_label, image(run, placement));
        match retry::with_budget(timing::SETUP_READ_BUDGET, || cluster.create_job(namespace, &barrier)).await
        {
            Ok(_) => {}
            // The holder was faster, or is barred already; the guard's list shows which.
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
    cleanup::delete_job(cluster, namespace, name, claim.metadata.uid.as_deref()).await
}

impl<C: Cluster> Claim<C> {
    /// Deletes the claim. Returns the warning to log when that failed.
    pub(super) async fn release(self) -> Option<String> {
        // On the list until it is gone: a host that shuts down waits for it.
        let claim = lock(&self.held).get(&self.id).cloned()?;
        let deleted = claim.delete().await;
        lock(&self.held).remove(&self.id);
        let (name, error) = deleted.err()?;
        Some(format!("[paperclip] Warning: failed to release the claim Job {name}: {error}"))
    }

    /// When the cluster created it.
    pub(super) fn created(&self) -> Option<&Time> {
        self.created.as_ref()
    }

    /// Whether an object was created at most `age` before this claim; `false` where a stamp is missing. Both stamps are
    /// the cluster's, so that the host's clock does not matter.
    pub(super) fn is_younger_than(&self, created: Option<&Time>, age: Duration) -> bool {
        let (Some(now), Some(created)) = (&self.created, created) else { return false };
        now.0.duration_since(created.0).unsigned_abs() <= age
    }

    /// Leaves the claim in the cluster: a request to create the run's Job may still be under way, and only a barrier can
    /// stop it. The agent's next run creates the barrier.
    pub(super) fn leave(&self) {
        lock(&self.held).remove(&self.id);
    }
}

impl<C: Cluster> Drop for Claim<C> {
    fn drop(&mut self) {
        let Some(claim) = lock(&self.held).remove(&self.id) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(claim.delete());
        }
    }
}

/// 128 random bits in hexadecimal.
pub(in crate::run) fn unique() -> String {
    let random = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", random(), random())
}
