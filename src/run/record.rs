//! What one run has seen so far, shared by its stages: the evidence of a failure is made of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use tokio::sync::Notify;

use super::job_view::JobSeen;
use crate::cluster::watch::{Seen, Snapshot};
use crate::cluster::{ApiError, ApiErrorKind};
use crate::forensics::{Account, Asker, Cause, Evidence, LogFacts, Record, TerminatedState, kept_by};
use crate::outcome::{ErrorCode, Outcome};

/// The record of one run; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunRecord(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    record: Mutex<Record>,
    /// Notified whenever the record shows a deletion by others.
    deleted: Notify,
}

impl RunRecord {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is kept of the Job and its pods.
    fn update(&self, change: impl FnOnce(&mut Record)) {
        let mut record = self.lock();
        change(&mut record);
        if record.is_deleted_by_others() {
            self.0.deleted.notify_one();
        }
    }

    /// Where the run's Job is, or is to be created.
    pub(super) fn place(&self, namespace: &str, job_name: &str) {
        let mut record = self.lock();
        (record.namespace, record.job_name) = (namespace.to_owned(), job_name.to_owned());
    }

    /// Forgets the run's first Job: what comes is about its second.
    pub(super) fn begin_anew(&self) {
        *self.lock() = Record::default();
    }

    /// Keeps what was seen of the Job.
    pub(super) fn see_job(&self, seen: &JobSeen) {
        self.update(|record| match seen {
            JobSeen::Present(job) => record.see_job(job),
            JobSeen::Deleted(job) => {
                record.see_job(job);
                record.job_gone = true;
            }
            JobSeen::Gone => record.job_gone = true,
        });
    }

    /// Keeps what was seen of the pod.
    pub(super) fn see_pod(&self, pod: &Arc<Pod>) {
        self.update(|record| record.see_pod(pod));
    }

    /// Keeps what the watches showed last.
    pub(super) fn see_snapshot(&self, snapshot: &Snapshot) {
        if let Some(seen) = JobSeen::from_watch(&snapshot.job) {
            self.see_job(&seen);
        }
        for seen in snapshot.pods.values() {
            self.see_watched_pod(seen);
        }
    }

    /// Keeps what a watch showed of a pod.
    pub(super) fn see_watched_pod(&self, seen: &Seen<Pod>) {
        let Some(pod) = seen.last() else { return };
        self.update(|record| {
            record.see_pod(pod);
            let is_known = record.pod.as_ref().is_some_and(|known| known.metadata.name == pod.metadata.name);
            record.pod_gone |= is_known && matches!(seen, Seen::Deleted(_));
        });
    }

    /// Keeps all pods that the Job has.
    pub(super) fn see_pods(&self, pods: &[Pod]) {
        self.update(|record| {
            for pod in pods {
                record.see_pod(&Arc::new(pod.clone()));
            }
            if let Some(known) = &record.pod {
                record.pod_gone = pods.iter().all(|pod| pod.metadata.name != known.metadata.name);
            }
        });
    }

    /// Keeps Events of the Job or its pod.
    pub(super) fn see_events(&self, events: Vec<Event>) {
        self.lock().see_events(events);
    }

    /// Whether the Job or its pod was deleted, and neither by this run nor for a reason that its objects say.
    pub(super) fn is_deleted_by_others(&self) -> bool {
        self.lock().is_deleted_by_others()
    }

    /// Resolves when something that was seen shows such a deletion. One task may wait for it.
    pub(super) async fn deleted_by_others(&self) {
        while !self.is_deleted_by_others() {
            self.0.deleted.notified().await;
        }
    }

    /// Keeps whether the Job's namespace is being deleted.
    pub(super) fn see_namespace(&self, terminating: bool) {
        self.lock().namespace_terminating = Some(terminating);
    }

    /// Whether the cluster was asked for that.
    pub(super) fn is_namespace_read(&self) -> bool {
        self.lock().namespace_terminating.is_some()
    }

    /// The containers that keep the pod although its `claude` has ended.
    pub(super) fn pod_is_kept_by(&self) -> Option<String> {
        let record = self.lock();
        record.pod.as_deref().filter(|_| !record.pod_gone).and_then(kept_by)
    }

    /// Keeps our own request to end the run.
    pub(super) fn ask_to_end(&self, by: Asker) {
        self.lock().ask_to_end(by, Timestamp::now());
    }

    /// Whether this one of ours asked for the end of the run first.
    pub(super) fn was_ended_by(&self, by: Asker) -> bool {
        self.lock().request.is_some_and(|request| request.by == by)
    }

    /// Keeps how the log was read.
    pub(super) fn see_log(&self, log: LogFacts) {
        self.lock().log = Some(log);
    }

    /// Keeps what the Job says of the account that its CLI uses. A Job that is watched does not show it.
    pub(super) fn set_account(&self, account: Account) {
        self.lock().account = account;
    }

    /// What the Job says of the account.
    pub(super) fn account(&self) -> Account {
        self.lock().account.clone()
    }

    /// Why the run ended, as far as its objects show; see [`Record::cause_of_end`].
    pub(super) fn cause_of_end(&self, container: Option<&TerminatedState>) -> Option<Cause> {
        self.lock().cause_of_end(container)
    }

    /// The outcome with its evidence; as it is where there is nothing to say.
    pub(super) fn explain(&self, outcome: Outcome) -> Outcome {
        if outcome.has_evidence() {
            return outcome;
        }
        let because = outcome.known_cause();
        if !outcome.is_failure() && because.is_none() {
            return outcome;
        }
        let record = self.lock();
        let requested =
            record.cause_of_request().filter(|_| outcome.error_code() == Some(ErrorCode::Cancelled));
        let cause = requested.or_else(|| because.map(|because| because.cause));
        let cause =
            cause.unwrap_or_else(|| record.cause_of_start(outcome.error_message().unwrap_or_default()));
        let job = because.and_then(|because| because.job.as_deref());
        let evidence = Evidence::new(cause, &record, job, Timestamp::now());
        outcome.with_evidence(evidence)
    }
}

/// Why the agent's Jobs could not be listed.
pub(super) fn cause_of_guard(error: &ApiError) -> Cause {
    match error.kind {
        ApiErrorKind::Forbidden => Cause::GuardForbidden,
        _ => Cause::GuardUnreachable,
    }
}

/// Why the Job could not be created.
pub(super) fn cause_of_create(error: &ApiError) -> Cause {
    match error.kind {
        _ if error.namespace_terminating => Cause::NamespaceTerminating,
        ApiErrorKind::Forbidden => Cause::of_refused_job(&error.message),
        ApiErrorKind::Invalid | ApiErrorKind::BadRequest => Cause::of_invalid_job(&error.message),
        ApiErrorKind::NotFound => Cause::NamespaceMissing,
        ApiErrorKind::Timeout => Cause::JobCreateTimeout,
        ApiErrorKind::Server if error.code == Some(504) => Cause::JobCreateTimeout,
        ApiErrorKind::Connection | ApiErrorKind::Server | ApiErrorKind::TooManyRequests => {
            Cause::of_failed_create(&error.message)
        }
        _ => Cause::JobCreateFailed,
    }
}

/// Why the pod could not be read.
pub(super) fn cause_of_pod_read(error: &ApiError) -> Cause {
    match error.kind {
        ApiErrorKind::Forbidden => Cause::PodsForbidden,
        _ => Cause::PodUnreadable,
    }
}
