//! The Jobs that this process's runs have under way: what a host that shuts down has to delete.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::time::Instant;

use super::cleanup::OwnedObjects;
use super::record::RunRecord;
use super::timing;
use crate::cluster::{Cluster, retry};
use crate::forensics::Asker;
use crate::request::{HostShutdown, Request};

/// A Job under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActiveJob {
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
    record: RunRecord,
}

impl<C: Cluster> Entry<C> {
    async fn delete(self) -> ActiveJob {
        let Entry { cluster, uid, job, record } = self;
        record.ask_to_end(Asker::Shutdown);
        let ActiveJob { namespace, job_name, .. } = &job;
        let budget = timing::SHUTDOWN_BUDGET;
        let _ = retry::with_budget(budget, || cluster.delete_job(namespace, job_name, uid.as_deref())).await;
        if let Some(secret) = &job.prompt_secret {
            let _ = retry::with_budget(budget, || cluster.delete_secret(namespace, secret)).await;
        }
        job
    }
}

/// All Jobs under way, by the id of the [`OwnedObjects`] they belong to.
pub(crate) struct ActiveJobs<C> {
    entries: Mutex<HashMap<u64, Entry<C>>>,
    /// Held for reading while a Job or claim is being created that is not on a list yet.
    creating: RwLock<()>,
    /// Nothing may be created until then, because the host shuts down.
    closed_until: Mutex<Option<Instant>>,
}

impl<C> Default for ActiveJobs<C> {
    fn default() -> Self {
        Self { entries: Mutex::default(), creating: RwLock::default(), closed_until: Mutex::default() }
    }
}

impl<C: Cluster> ActiveJobs<C> {
    /// Puts the run's Job on the list, if it has one.
    pub(super) fn add(&self, owned: &OwnedObjects<C>, request: &Request, record: &RunRecord) {
        let Some(job) = owned.job() else { return };
        let config = &request.config;
        let entry = Entry {
            cluster: job.cluster,
            uid: job.uid,
            record: record.clone(),
            job: ActiveJob {
                namespace: job.namespace,
                job_name: job.name,
                prompt_secret: owned.secret_name(),
                deleted_on_shutdown: config.host_shutdown == HostShutdown::Delete && !config.retain_jobs,
            },
        };
        self.lock().insert(owned.id(), entry);
    }

    /// A permit to create a Job, to be held until the Job is on the list; `None` when the host shuts down.
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

    /// Deletes the Job and then the Secret of every entry that says so, and returns these entries. Waits for what is being
    /// created, and lets nothing be created for a while. Transient errors are retried, others ignored: the Job's TTL and
    /// the Secret's owner reference are the net below.
    pub(super) async fn delete_all(&self) -> Vec<ActiveJob> {
        *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now() + timing::SHUTDOWN_CLOSED);
        let _ = tokio::time::timeout(timing::SHUTDOWN_BUDGET, self.creating.write()).await;
        let entries = self.take_deletable();
        futures::future::join_all(entries.into_iter().map(Entry::delete)).await
    }

    fn take_deletable(&self) -> Vec<Entry<C>> {
        self.lock().extract_if(|_, entry| entry.job.deleted_on_shutdown).map(|(_, entry)| entry).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry<C>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
