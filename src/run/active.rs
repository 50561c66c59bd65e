//! The Jobs that this process's runs have under way: what a host that shuts down has to delete.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{RwLock, RwLockReadGuard, watch};
use tokio::time::Instant;

use super::cleanup::OwnedObjects;
use super::context::RunContext;
use super::record::RunRecord;
use super::timing;
use crate::cluster::{Cluster, retry};
use crate::forensics::Asker;
use crate::request::HostShutdown;

/// A Job under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActiveJob {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub job_name: String,
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
        let delete = || cluster.delete_job(namespace, job_name, uid.as_deref());
        let deleted = retry::despite_refusals(budget, budget, delete);
        let _ = tokio::time::timeout(budget, deleted).await;
        job
    }
}

fn is_ahead(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() < until)
}

/// Resolves when the host shuts down and leaves the run's Job to its next process. A run that is about to end gets a moment
/// for that; the host waits some seconds for the results of its runs.
pub(super) async fn left_by_host<C, H>(run: &RunContext<C, H>) {
    run.closing.begun().await;
    if is_deleted_on_shutdown(run) {
        return std::future::pending().await;
    }
    tokio::time::sleep(timing::LEAVE_AFTER).await;
}

/// Whether a host that shuts down deletes the run's Job. Where nothing is configured, it is left to a host that can
/// continue with the task.
fn is_deleted_on_shutdown<C, H>(run: &RunContext<C, H>) -> bool {
    let config = &run.request.config;
    let deleted = match config.host_shutdown {
        Some(configured) => configured == HostShutdown::Delete,
        None => !run.announcement.is_taken(),
    };
    deleted && !config.retain_jobs
}

/// All Jobs under way, by the id of the [`OwnedObjects`] they belong to.
pub(crate) struct ActiveJobs<C> {
    entries: Mutex<HashMap<u64, Entry<C>>>,
    /// Held for reading while a Job or claim is being created that is not on a list yet.
    creating: RwLock<()>,
    /// Nothing may be created until then, because the host shuts down.
    closing: Closing,
}

/// Whether the host's process shuts down; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Closing(Arc<watch::Sender<Option<Instant>>>);

impl Closing {
    /// Whether the host was asked to end, and may do so at any moment.
    pub(super) fn is_closing(&self) -> bool {
        is_ahead(*self.0.borrow())
    }

    fn begin(&self) {
        self.0.send_replace(Some(Instant::now() + timing::SHUTDOWN_CLOSED));
    }

    /// Resolves once the host is asked to end.
    pub(super) async fn begun(&self) {
        let mut changes = self.0.subscribe();
        let _ = changes.wait_for(|until| is_ahead(*until)).await;
    }
}

impl<C> Default for ActiveJobs<C> {
    fn default() -> Self {
        Self { entries: Mutex::default(), creating: RwLock::default(), closing: Closing::default() }
    }
}

impl<C: Cluster> ActiveJobs<C> {
    /// Puts the run's Job on the list, if it has one.
    pub(super) fn add<H>(&self, run: &RunContext<C, H>) {
        let RunContext { owned, record, .. } = run;
        let Some(job) = owned.job() else { return };
        let entry = Entry {
            cluster: job.cluster,
            uid: job.uid,
            record: record.clone(),
            job: ActiveJob {
                namespace: job.namespace,
                job_name: job.name,
                deleted_on_shutdown: is_deleted_on_shutdown(run),
            },
        };
        self.lock().insert(owned.id(), entry);
    }

    /// A permit to create a Job, to be held until the Job is on the list; `None` when the host shuts down.
    pub(super) async fn may_create(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let creating = self.creating.read().await;
        (!self.closing.is_closing()).then_some(creating)
    }

    /// Whether the host's process shuts down.
    pub(super) fn closing(&self) -> Closing {
        self.closing.clone()
    }

    pub(super) fn remove(&self, owned: &OwnedObjects<C>) {
        self.lock().remove(&owned.id());
    }

    pub(super) fn list(&self) -> Vec<ActiveJob> {
        self.lock().values().map(|entry| entry.job.clone()).collect()
    }

    /// Deletes the Job of every entry that says so, and returns these entries. Waits for what is being
    /// created, and lets nothing be created for a while. Transient errors are retried, others ignored: the Job's TTL is
    /// the net below, and the cluster collects the Secrets with the Job.
    pub(super) async fn delete_all(&self) -> Vec<ActiveJob> {
        self.closing.begin();
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
