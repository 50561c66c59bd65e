//! What a run sees of its Job and pod: through the shared watches, or by polling every [`timing::POLL_INTERVAL`] where
//! they do not work. A run may change from one to the other at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::Stream;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use tokio::sync::watch;
use tokio::time::Instant;

use super::record::RunRecord;
use super::timing;
use crate::claude::EndToken;
use crate::cluster::watch::{Health, Seen, Snapshot, Subscription};
use crate::cluster::{ApiError, Cluster, retry};
use crate::forensics::{
    ContainerPhase, Deletion, Disruption, JobState, TerminatedState, container_phase, disruption,
};
use crate::manifest::{CLAUDE_CONTAINER, JobSession};

/// What a watch or a read showed of a Job.
#[derive(Debug, Clone)]
pub(super) enum JobSeen {
    /// It exists.
    Present(Arc<Job>),
    /// It was deleted; this is its last object.
    Deleted(Arc<Job>),
    /// A read found that it does not exist any more, or that another Job has its name.
    Gone,
}

impl JobSeen {
    /// Whether it is gone or has a final condition.
    pub(super) fn is_over(&self) -> bool {
        match self {
            JobSeen::Present(job) => JobState::read(job) != JobState::Running,
            JobSeen::Deleted(_) | JobSeen::Gone => true,
        }
    }

    pub(super) fn from_watch(seen: &Seen<Job>) -> Option<Self> {
        match seen {
            Seen::Unseen => None,
            Seen::Present(job) => Some(JobSeen::Present(job.clone())),
            Seen::Deleted(job) => Some(JobSeen::Deleted(job.clone())),
        }
    }
}

/// What a run knows of its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContainerState {
    /// It runs, as far as the run knows.
    Running,
    /// It has terminated; how, if the run saw that.
    Ended(Option<TerminatedState>),
    /// Its pod is gone.
    Gone,
}

impl ContainerState {
    pub(super) fn is_over(&self) -> bool {
        *self != ContainerState::Running
    }

    /// The exit code, once it was seen.
    pub(super) fn exit_code(&self) -> Option<i32> {
        match self {
            ContainerState::Ended(Some(state)) => state.exit_code,
            _ => None,
        }
    }
}

/// Publishes that the container of this pod is over as soon as a watch shows it.
pub(super) async fn watch_container<C: Cluster>(
    observed: &Observed<C>,
    pod: &str,
    container: &watch::Sender<ContainerState>,
) -> Infallible {
    let mut changes = observed.watched.changes();
    loop {
        let seen = changes.borrow_and_update().pods.get(pod).cloned();
        if let Some(seen) = &seen {
            observed.record.see_watched_pod(seen);
        }
        let over = match &seen {
            Some(Seen::Present(pod)) => match container_phase(pod, CLAUDE_CONTAINER) {
                ContainerPhase::Terminated(state) => Some(ContainerState::Ended(Some(state))),
                ContainerPhase::Waiting | ContainerPhase::Running => None,
            },
            Some(Seen::Deleted(_)) => Some(ContainerState::Gone),
            Some(Seen::Unseen) | None => None,
        };
        if let Some(over) = over {
            container.send_if_modified(|state| {
                let was_running = !state.is_over();
                if was_running {
                    *state = over;
                }
                was_running
            });
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// A run's Job and pod, and the watches that show them.
pub(super) struct Observed<C> {
    pub(super) cluster: Arc<C>,
    pub(super) namespace: String,
    pub(super) job_name: String,
    pub(super) job_uid: Option<String>,
    /// What the API server warned of when it accepted the Job, one line each.
    pub(super) warnings: Vec<String>,
    /// For a Job of another run: how long to wait for its pod.
    pub(super) reattached: Option<Duration>,
    /// The token of the pod's last line; `None` where the pod prints none.
    pub(super) end_token: Option<EndToken>,
    /// The Job's session.
    pub(super) session: JobSession,
    /// How much of the run's time an earlier Job has taken.
    pub(super) spent: Duration,
    /// When the pod's last line was read that says its own end, while nothing follows it.
    pub(super) end_said: watch::Sender<Option<Instant>>,
    pub(super) watched: Subscription<C>,
    /// The first deletion that a read showed, of each pod by name: see [`Observed::deletion`].
    pub(super) deletions_read: Mutex<BTreeMap<String, Deletion>>,
    /// The UIDs of pods that a read showed as the Job's own.
    pub(super) own_pods_read: Mutex<BTreeSet<String>>,
    /// What ended each pod by name, where a read showed that: see [`Observed::disruption`].
    pub(super) disruptions_read: Mutex<BTreeMap<String, Disruption>>,
    /// Keeps what is seen here.
    pub(super) record: RunRecord,
}

impl<C: Cluster> Observed<C> {
    /// Reads the Job. Another Job of the same name counts as gone: a UID is an identity, a name is not.
    pub(super) async fn job(&self) -> Result<JobSeen, ApiError> {
        let seen = match self.cluster.get_job(&self.namespace, &self.job_name).await {
            Ok(job) if self.is_own_job(&job) => JobSeen::Present(Arc::new(job)),
            Ok(_) => JobSeen::Gone,
            Err(error) if error.is_not_found() => JobSeen::Gone,
            Err(error) => return Err(error),
        };
        self.record.see_job(&seen);
        Ok(seen)
    }

    fn is_own_job(&self, job: &Job) -> bool {
        match (&self.job_uid, &job.metadata.uid) {
            (Some(own), Some(read)) => own == read,
            _ => true,
        }
    }

    /// Reads the Job's pod, if it has one.
    pub(super) async fn pod(&self) -> Result<Option<Pod>, ApiError> {
        Ok(self.pods().await?.next())
    }

    /// Reads the pod of this name, or any pod of the Job for the empty name. Before Kubernetes 1.25 the Job controller
    /// creates another pod as soon as the deletion of the first is requested, so that a Job has two for a while.
    pub(super) async fn pod_named(&self, name: &str) -> Result<Option<Pod>, ApiError> {
        let has_name = |pod: &Pod| name.is_empty() || pod.metadata.name.as_deref() == Some(name);
        Ok(self.pods().await?.find(has_name))
    }

    /// Reads all pods of the Job.
    pub(super) async fn pods(&self) -> Result<impl Iterator<Item = Pod>, ApiError> {
        let selector = format!("job-name={}", self.job_name);
        let mut pods = self.cluster.list_pods(&self.namespace, &selector).await?;
        pods.retain(|pod| self.is_own_pod(pod));
        let mut deletions = self.deletions_read.lock().unwrap_or_else(PoisonError::into_inner);
        for pod in &pods {
            if let (Some(name), Some(deletion)) = (&pod.metadata.name, Deletion::of(pod)) {
                deletions.entry(name.clone()).or_insert(deletion);
            }
        }
        drop(deletions);
        self.see_disruptions(&pods);
        self.record.see_pods(&pods);
        Ok(pods.into_iter())
    }

    /// The first deletion that was seen of the pod of this name: the kubelet's own deletion rewrites its time later.
    pub(super) fn deletion(&self, pod: &str) -> Option<Deletion> {
        let deletions = self.deletions_read.lock().unwrap_or_else(PoisonError::into_inner);
        let read = deletions.get(pod).copied();
        let watched = self.watched.snapshot().deleting.get(pod).and_then(|pod| Deletion::of(pod));
        [read, watched].into_iter().flatten().min_by_key(Deletion::requested_at)
    }

    fn see_disruptions(&self, pods: &[Pod]) {
        let mut disruptions = self.disruptions_read.lock().unwrap_or_else(PoisonError::into_inner);
        for pod in pods {
            let seen = disruption(pod).filter(|seen| !seen.is_plain_deletion());
            if let (Some(name), Some(seen)) = (&pod.metadata.name, seen) {
                disruptions.insert(name.clone(), seen);
            }
        }
    }

    /// What ended the pod of this name, where a read showed more than that it was deleted: a pod that is gone by now, or an
    /// older object of it, no longer says.
    pub(super) fn disruption(&self, pod: &str) -> Option<Disruption> {
        self.disruptions_read.lock().unwrap_or_else(PoisonError::into_inner).get(pod).cloned()
    }

    /// Reads the Events of the object with this UID.
    pub(super) async fn events(&self, uid: &str) -> Result<Vec<Event>, ApiError> {
        let list = || self.cluster.list_events(&self.namespace, uid);
        let events = retry::with_budget(timing::EVENTS_BUDGET, list).await?;
        self.record.see_events(events.clone());
        Ok(events)
    }

    /// Reads the pod, repeating a failing request for `budget`.
    pub(super) async fn pod_within(&self, budget: Duration) -> Result<Option<Pod>, ApiError> {
        retry::with_budget(budget, || self.pod()).await
    }

    /// Whether the Job owns the pod, or owned it when it was last read or watched: where a Job is deleted as an orphan its
    /// pod works on, and has no owner any more. Where the Job's UID is known nothing else shows that: anyone who may create
    /// pods can copy labels, and print a result.
    fn is_own_pod(&self, pod: &Pod) -> bool {
        let Some(own) = &self.job_uid else { return true };
        let mut owners = pod.metadata.owner_references.iter().flatten().filter(|owner| owner.kind == "Job");
        let Some(uid) = &pod.metadata.uid else { return owners.any(|owner| *own == owner.uid) };
        let mut read = self.own_pods_read.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.any(|owner| *own == owner.uid) {
            read.insert(uid.clone());
        }
        let watched = self.watched.snapshot();
        let mut watched = watched.pods.values().filter_map(Seen::last);
        read.contains(uid) || watched.any(|pod| pod.metadata.uid.as_ref() == Some(uid))
    }

    /// Resolves once the pod has said its own end, after this moment and as its last word. The agent can print that line,
    /// too.
    pub(super) async fn says_its_end_after(&self, moment: Instant) {
        let mut said = self.end_said.subscribe();
        let _ = said.wait_for(|at| at.is_some_and(|at| at >= moment)).await;
    }

    /// Whether the watches are up to date.
    pub(super) fn is_watched(&self) -> bool {
        self.watched.health() == Health::Live
    }

    /// The Job as the watches show it; `None` before they have shown it.
    pub(super) fn watched_job(&self) -> Option<JobSeen> {
        JobSeen::from_watch(&self.watched.snapshot().job)
    }

    /// Waits a moment for the watches to open, so that the first reads need no dedicated requests.
    pub(super) async fn wait_for_watches(&self) -> Health {
        let mut changes = self.watched.changes();
        let decided = changes.wait_for(|snapshot| snapshot.health != Health::Starting);
        match tokio::time::timeout(timing::WATCH_START_LIMIT, decided).await {
            Ok(Ok(snapshot)) => snapshot.health,
            _ => Health::Starting,
        }
    }

    /// A poller of the pod.
    pub(super) fn pod_poller(&self) -> PodPoller<'_, C> {
        let changes = self.watched.changes();
        PodPoller { observed: self, changes, read_at: Instant::now() + timing::UNSEEN_LIMIT, unreadable: 0 }
    }

    /// The Job, at once and at every change, or every [`timing::POLL_INTERVAL`] where it cannot be watched. The stream
    /// never ends, not even with an error.
    pub(super) fn jobs(self: Arc<Self>) -> impl Stream<Item = Result<JobSeen, ApiError>> {
        let poller = JobPoller {
            changes: self.watched.changes(),
            returned_events: 0,
            return_again: false,
            unreadable: 0,
            poll_at: Instant::now(),
            unseen_at: Instant::now() + timing::UNSEEN_LIMIT,
            left_watch: false,
            observed: self,
        };
        futures::stream::unfold(poller, |mut poller| async move {
            let seen = poller.next().await;
            if let Ok(seen) = &seen {
                poller.observed.record.see_job(seen);
            }
            Some((seen, poller))
        })
    }
}

/// Gives a Job's changes from the watch, or polls it.
struct JobPoller<C> {
    observed: Arc<Observed<C>>,
    changes: watch::Receiver<Snapshot>,
    /// How many of the watch's events were returned.
    returned_events: u64,
    /// Whether to return the watched Job once more when the watch works again: that ends a series of errors.
    return_again: bool,
    unreadable: u64,
    /// When to read next where there is no watch.
    poll_at: Instant,
    /// When to read although there is a watch, because it has not shown the Job.
    unseen_at: Instant,
    /// The Job is not watched any more and exists: it is polled.
    left_watch: bool,
}

impl<C: Cluster> JobPoller<C> {
    async fn next(&mut self) -> Result<JobSeen, ApiError> {
        loop {
            let snapshot = self.changes.borrow_and_update().clone();
            // What the watch has shown is true, whether it works now or not.
            let again = self.return_again && snapshot.health == Health::Live;
            if (snapshot.job_events > self.returned_events || again)
                && !self.left_watch
                && let Some(seen) = JobSeen::from_watch(&snapshot.job)
            {
                self.returned_events = snapshot.job_events;
                self.return_again = false;
                if matches!(seen, JobSeen::Deleted(_)) && self.is_still_there().await {
                    self.left_watch = true;
                    continue;
                }
                return Ok(seen);
            }
            let read_at = match snapshot.health {
                _ if self.left_watch => Some(self.poll_at),
                Health::Live if snapshot.unreadable > self.unreadable => {
                    self.unreadable = snapshot.unreadable;
                    Some(Instant::now())
                }
                Health::Live => (snapshot.job_events == 0).then_some(self.unseen_at),
                Health::Starting | Health::Broken | Health::Refused => Some(self.poll_at),
            };
            tokio::select! {
                biased;
                Ok(()) = self.changes.changed() => {}
                () = timing::until(read_at) => return self.read(snapshot.health).await,
            }
        }
    }

    /// Whether a Job exists that a watch says is deleted: it says so, too, when another client takes away the labels by which
    /// the Job is watched.
    async fn is_still_there(&self) -> bool {
        let observed = &self.observed;
        let read = observed.cluster.get_job(&observed.namespace, &observed.job_name).await;
        read.is_ok_and(|job| observed.is_own_job(&job) && job.metadata.deletion_timestamp.is_none())
    }

    async fn read(&mut self, health: Health) -> Result<JobSeen, ApiError> {
        let seen = self.observed.job().await;
        let pause = match &seen {
            Err(error) => error.retry_after.unwrap_or(timing::POLL_INTERVAL).max(timing::POLL_INTERVAL),
            Ok(_) => timing::POLL_INTERVAL,
        };
        self.poll_at = Instant::now() + pause;
        self.unseen_at = Instant::now() + timing::UNSEEN_LIMIT;
        self.return_again |= health != Health::Live;
        if health == Health::Live && seen.is_ok() && self.changes.borrow().job_events == 0 {
            // Whether it exists or not, the watch should have shown that.
            self.observed.watched.request_resync();
        }
        seen
    }
}

/// Gives the pod from the watch, or polls it.
pub(super) struct PodPoller<'a, C> {
    observed: &'a Observed<C>,
    changes: watch::Receiver<Snapshot>,
    /// When to read although there is a watch, because it shows no pod.
    read_at: Instant,
    unreadable: u64,
}

impl<C: Cluster> PodPoller<'_, C> {
    /// The Job's pod now, if it has one. Where it must be read, a failing request is repeated for `budget`.
    pub(super) async fn poll_once(&mut self, budget: Duration) -> Result<Option<Arc<Pod>>, ApiError> {
        let snapshot = self.changes.borrow_and_update().clone();
        if snapshot.health == Health::Live && snapshot.unreadable == self.unreadable {
            if let Some(pod) = snapshot.pod() {
                self.observed.record.see_pod(pod);
                return Ok(Some(pod.clone()));
            }
            if Instant::now() < self.read_at {
                return Ok(None);
            }
        }
        self.unreadable = snapshot.unreadable;
        self.read_at = Instant::now() + timing::UNSEEN_LIMIT;
        let pod = self.observed.pod_within(budget).await?;
        if pod.is_some() && snapshot.health == Health::Live && self.changes.borrow().pods.is_empty() {
            // The watch should have shown that.
            self.observed.watched.request_resync();
        }
        Ok(pod.map(Arc::new))
    }

    /// Waits until the pod may have changed: for the next event where there is a watch, at most
    /// [`timing::POLL_INTERVAL`].
    pub(super) async fn pause(&mut self) {
        if self.changes.borrow().health == Health::Live {
            let _ = tokio::time::timeout(timing::POLL_INTERVAL, self.changes.changed()).await;
        } else {
            tokio::time::sleep(timing::POLL_INTERVAL).await;
        }
    }
}
