//! The Jobs that runs of this process have under way: what a host that shuts down must think of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::time::Instant;

use super::cleanup::OwnedObjects;
use super::timing;
use crate::cluster::{Cluster, retry};
use crate::request::{HostShutdown, Request};

/// A Job under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveJob {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub job_name: String,
    /// The prompt Secret that belongs to it.
    pub prompt_secret: Option<String>,
    /// Whether a host that shuts down deletes it.
    pub deleted_on_shutdown: bool,
}

struct Entry<C> {
    cluster: Arc<C>,
    uid: Option<String>,
    job: ActiveJob,
}

/// All Jobs under way, by an id of their owner.
pub(crate) struct ActiveJobs<C> {
    entries: Mutex<HashMap<u64, Entry<C>>>,
    /// Held for reading while something is being created that is not on the list yet.
    creating: RwLock<()>,
    /// Nothing is created until then, because the host shuts down.
    closed_until: Mutex<Option<Instant>>,
}

impl<C> Default for ActiveJobs<C> {
    fn default() -> Self {
        Self { entries: Mutex::default(), creating: RwLock::default(), closed_until: Mutex::default() }
    }
}

impl<C: Cluster> ActiveJobs<C> {
    pub(super) fn add(&self, owned: &OwnedObjects<C>, request: &Request) {
        let Some(job) = owned.job() else { return };
        let config = &request.config;
        let entry = Entry {
            cluster: job.cluster,
            uid: job.uid,
            job: ActiveJob {
                namespace: job.namespace,
                job_name: job.name,
                prompt_secret: owned.secret_name(),
                deleted_on_shutdown: config.host_shutdown == HostShutdown::Delete && !config.retain_jobs,
            },
        };
        self.lock().insert(owned.id(), entry);
    }

    /// Leave to create a Job, to be held until it is on the list; none when the host shuts down.
    pub(super) async fn may_create(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let creating = self.creating.read().await;
        let closed = *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        closed.is_none_or(|until| until <= Instant::now()).then_some(creating)
    }

    pub(super) fn remove(&self, owned: &OwnedObjects<C>) {
        self.lock().remove(&owned.id());
    }

    pub(super) fn list(&self) -> Vec<ActiveJob> {
        self.lock().values().map(|entry| entry.job.clone()).collect()
    }

    /// Deletes every entry's Job, then its Secret, again where that fails for a moment; other errors are ignored, the
    /// Job's TTL and the Secret's owner reference are the net below. What is being created is waited for, and nothing
    /// new is created for a while.
    pub(super) async fn delete_all(&self) -> Vec<ActiveJob> {
        *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now() + timing::SHUTDOWN_CLOSED);
        let _ = tokio::time::timeout(timing::SHUTDOWN_BUDGET, self.creating.write()).await;
        let doomed: Vec<Entry<C>> = {
            let mut entries = self.lock();
            let ids: Vec<u64> = entries
                .iter()
                .filter(|(_, entry)| entry.job.deleted_on_shutdown)
                .map(|(id, _)| *id)
                .collect();
            ids.into_iter().filter_map(|id| entries.remove(&id)).collect()
        };
        futures::future::join_all(doomed.into_iter().map(|entry| async move {
            let Entry { cluster, uid, job } = entry;
            let budget = timing::SHUTDOWN_BUDGET;
            let _ = retry::with_budget(budget, || {
                cluster.delete_job(&job.namespace, &job.job_name, uid.as_deref())
            })
            .await;
            if let Some(secret) = &job.prompt_secret {
                let _ = retry::with_budget(budget, || cluster.delete_secret(&job.namespace, secret)).await;
            }
            job
        }))
        .await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry<C>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
