//! A run owns the cleanup of what it creates, whatever happens next: of the Job from the first answer that leaves open
//! whether it exists, of its Secrets where the cluster does not collect them with the Job.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::context::RunContext;
use super::timing;
use crate::cluster::{ApiError, Cluster, retry};
use crate::forensics::{Creations, NothingStarted};

/// Cluster objects this run must delete. Stages register them as they are created.
pub(super) struct OwnedObjects<C> {
    id: u64,
    state: Mutex<State<C>>,
}

struct State<C> {
    job: Option<OwnedJob<C>>,
    /// In the Job's namespace.
    secrets: Vec<String>,
    retain: Option<RetainReason>,
    unfinished: Option<JoinHandle<()>>,
    creations: Creations,
    /// The deletion of the Job was refused for so long already that another attempt is enough.
    was_refused: bool,
}

pub(super) struct OwnedJob<C> {
    pub(super) cluster: Arc<C>,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Only this very Job is deleted; any of that name where the creation's answer was lost.
    pub(super) uid: Option<String>,
}

impl<C> Clone for OwnedJob<C> {
    fn clone(&self) -> Self {
        Self {
            cluster: self.cluster.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }
}

/// Why the cleanup does not delete a Job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetainReason {
    /// How it ended is not known; an operator must look at it.
    StateMismatch,
    /// It is gone already: the run deleted it itself.
    AlreadyGone,
    /// Others deleted it. Where they did so with Orphan, what it owned stays.
    Vanished,
    /// The run ended by a bug, and the Job may be at work: the agent's next run attaches to it.
    Panicked,
    /// The host shuts down: its next process attaches to the Job.
    Left,
}

impl<C> Default for OwnedObjects<C> {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State {
                job: None,
                secrets: Vec::new(),
                retain: None,
                unfinished: None,
                creations: Creations::default(),
                was_refused: false,
            }),
        }
    }
}

impl<C> OwnedObjects<C> {
    /// Distinguishes the runs of a process.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// A Job of this run was or may have been created, by this call of `execute` or another.
    pub(super) fn job_may_exist(&self) {
        self.lock().creations.may_exist();
    }

    /// The proof that no Job of this run can exist, as long as there is none.
    pub(super) fn nothing_created(&self) -> Option<NothingStarted> {
        self.lock().creations.nothing_started()
    }

    pub(super) fn own_job(&self, job: OwnedJob<C>) {
        self.lock().job = Some(job);
    }

    /// A Secret that the run's Job owns.
    pub(super) fn own_secret(&self, name: String) {
        let secrets = &mut self.lock().secrets;
        if !secrets.contains(&name) {
            secrets.push(name);
        }
    }

    /// Work of the run's start that continues beside the run: the cleanup waits for it.
    pub(super) fn await_at_the_end(&self, work: JoinHandle<()>) {
        self.lock().unfinished = Some(work);
    }

    pub(super) fn retain_job(&self, reason: RetainReason) {
        self.lock().retain = Some(reason);
    }

    /// A cancel has tried in vain to delete the Job.
    pub(super) fn note_refused_deletion(&self) {
        self.lock().was_refused = true;
    }

    pub(super) fn job(&self) -> Option<OwnedJob<C>> {
        self.lock().job.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes what the run owns; it may go on with another Job (`docs/contract.md`, "Cleanup").
pub(super) async fn clean_up<C: Cluster, H>(run: &RunContext<C, H>) {
    let (job, secrets, retain, unfinished) = {
        let mut state = run.owned.lock();
        (state.job.take(), std::mem::take(&mut state.secrets), state.retain.take(), state.unfinished.take())
    };
    if let Some(job) = job {
        clean_up_job(run, &job, retain).await;
        // The cluster collects them with the Job: here it stays, may have been orphaned, or is not known to own them. What an
        // operator debugs is not its secrets; a Job whose end is not known may need them yet.
        let may_need_them =
            matches!(retain, Some(RetainReason::StateMismatch | RetainReason::Panicked | RetainReason::Left));
        let stays = run.request.config.retain_jobs && !may_need_them;
        let may_be_orphans = retain == Some(RetainReason::Vanished) || job.uid.is_none();
        for name in secrets.iter().filter(|_| stays || may_be_orphans) {
            let (cluster, namespace) = (&job.cluster, &job.namespace);
            let _ = despite_refusals(|| cluster.delete_secret(namespace, name)).await;
        }
    }
    if let Some(work) = unfinished {
        let _ = work.await;
    }
}

async fn clean_up_job<C: Cluster, H>(
    run: &RunContext<C, H>,
    job: &OwnedJob<C>,
    retain: Option<RetainReason>,
) {
    let name = &job.name;
    if retain == Some(RetainReason::StateMismatch) {
        run.log.out(format!("[paperclip] Retaining job {name} (state mismatch — UI is waiting on it)")).await;
        return;
    }
    if retain == Some(RetainReason::Panicked) {
        run.log
            .out(format!(
                "[paperclip] Retaining job {name} (internal error — the agent's next run attaches to it)"
            ))
            .await;
        return;
    }
    if retain == Some(RetainReason::Left) {
        run.log
            .out(format!(
                "[paperclip] Leaving job {name} to the agent's next run (Paperclip's process shuts down)"
            ))
            .await;
        return;
    }
    if matches!(retain, Some(RetainReason::AlreadyGone | RetainReason::Vanished)) {
        return;
    }
    if run.request.config.retain_jobs {
        run.log.out(format!("[paperclip] Retaining job {name} for debugging (retainJobs=true)")).await;
        if let Some(kept) = run.record.pod_is_kept_by() {
            run.log
                .out(format!(
                    "[paperclip] Job {name} stays active: Claude has ended, and {kept} of its pod runs on"
                ))
                .await;
        }
        return;
    }
    let was_refused = std::mem::take(&mut run.owned.lock().was_refused);
    let refused = if was_refused { Duration::ZERO } else { timing::CLEANUP_REFUSED_LIMIT };
    let delete = || job.cluster.delete_job(&job.namespace, name, job.uid.as_deref());
    let deleted = retry::despite_refusals(timing::CLEANUP_BUDGET, refused, delete).await;
    if let Err(error) = deleted
        && !error.is_gone()
    {
        run.log.err(format!("[paperclip] Warning: failed to cleanup job {name}: {error}")).await;
    }
}

/// Deletes exactly this Job, also where that is refused for a moment; one that is gone, or whose name belongs to another by
/// now, is deleted.
pub(super) async fn delete_job<C: Cluster>(
    cluster: &C,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<(), ApiError> {
    match despite_refusals(|| cluster.delete_job(namespace, name, uid)).await {
        Err(error) if !error.is_gone() => Err(error),
        _ => Ok(()),
    }
}

/// Repeats a deletion while it fails, for [`timing::CLEANUP_BUDGET`] at most.
pub(super) async fn despite_refusals<F>(delete: impl FnMut() -> F) -> Result<(), ApiError>
where
    F: Future<Output = Result<(), ApiError>>,
{
    retry::despite_refusals(timing::CLEANUP_BUDGET, timing::CLEANUP_REFUSED_LIMIT, delete).await
}
