//! Whoever creates a Job owns its cleanup from that moment, whatever happens next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;

use super::{Log, timing};
use crate::cluster::{ApiErrorKind, Cluster, retry};
use crate::request::Config;

/// What a run has in the cluster. Shared with the stages, which put things on it as they come to be.
pub(super) struct OwnedObjects<C> {
    id: u64,
    things: Mutex<Things<C>>,
}

struct Things<C> {
    job: Option<OwnedJob<C>>,
    secret: Option<(Arc<C>, String, String)>,
    keep: Option<RetainReason>,
    unfinished: Option<JoinHandle<()>>,
}

pub(super) struct OwnedJob<C> {
    pub(super) cluster: Arc<C>,
    pub(super) namespace: String,
    pub(super) name: String,
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

/// Why a Job stays although its run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetainReason {
    /// Its state could not be found out; somebody must look.
    StateMismatch,
    /// It is gone already: the run deleted it itself, or saw it vanish.
    AlreadyGone,
}

impl<C> Default for OwnedObjects<C> {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            things: Mutex::new(Things { job: None, secret: None, keep: None, unfinished: None }),
        }
    }
}

impl<C> OwnedObjects<C> {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn own_job(&self, job: OwnedJob<C>) {
        self.lock().job = Some(job);
    }

    pub(super) fn own_secret(&self, cluster: Arc<C>, namespace: String, name: String) {
        self.lock().secret = Some((cluster, namespace, name));
    }

    /// Work of the run's start that goes on beside the run; it is over before the run is.
    pub(super) fn await_at_the_end(&self, work: JoinHandle<()>) {
        self.lock().unfinished = Some(work);
    }

    pub(super) fn keep(&self, why: RetainReason) {
        self.lock().keep = Some(why);
    }

    pub(super) fn job(&self) -> Option<OwnedJob<C>> {
        self.lock().job.clone()
    }

    pub(super) fn secret_name(&self) -> Option<String> {
        self.lock().secret.as_ref().map(|(_, _, name)| name.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Things<C>> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes what the run owns (contract section 3.14). A Job that is already gone is a success.
pub(super) async fn clean_up<C: Cluster>(owned: &OwnedObjects<C>, config: &Config, log: &Log) {
    let (job, secret, keep, unfinished) = {
        let mut things = owned.lock();
        (things.job.take(), things.secret.take(), things.keep, things.unfinished.take())
    };
    if let Some(job) = job {
        let name = &job.name;
        if keep == Some(RetainReason::StateMismatch) {
            log.out(format!("[paperclip] Retaining job {name} (state mismatch — UI is waiting on it)")).await;
        } else if config.retain_jobs {
            log.out(format!("[paperclip] Retaining job {name} for debugging (retainJobs=true)")).await;
        } else if keep != Some(RetainReason::AlreadyGone) {
            let deleted = retry::with_budget(timing::CLEANUP_BUDGET, || {
                job.cluster.delete_job(&job.namespace, name, job.uid.as_deref())
            })
            .await;
            // A conflict is the UID precondition: the name belongs to another Job by now.
            if let Err(error) = deleted
                && !matches!(error.kind, ApiErrorKind::NotFound | ApiErrorKind::Conflict)
            {
                log.err(format!("[paperclip] Warning: failed to cleanup job {name}: {error}")).await;
            }
        }
    }
    if let Some((cluster, namespace, name)) = secret {
        let _ = retry::with_budget(timing::CLEANUP_BUDGET, || cluster.delete_secret(&namespace, &name)).await;
    }
    if let Some(work) = unfinished {
        let _ = work.await;
    }
}
