//! What a run sees of its own Job and pod, in one of two ways: from the shared watches, or by asking for it every
//! [`timing::POLL_INTERVAL`] where they do not work. Which one it is can change at any moment.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::timing;
use crate::cluster::watch::{Health, Seen, Snapshot, Subscription};
use crate::cluster::{ApiError, Cluster, retry};
use crate::forensics::JobState;

/// One look at a Job.
#[derive(Debug, Clone)]
pub(super) enum JobSeen {
    /// It is there.
    Present(Arc<Job>),
    /// It was deleted; as it was last.
    Deleted(Arc<Job>),
    /// A read found that it is not there any more, or that another one has its name.
    Gone,
}

impl JobSeen {
    /// Gone, or with a final condition.
    pub(super) fn is_over(&self) -> bool {
        match self {
            JobSeen::Present(job) => JobState::read(job) != JobState::Running,
            JobSeen::Deleted(_) | JobSeen::Gone => true,
        }
    }

    fn of(sight: &Seen<Job>) -> Option<Self> {
        match sight {
            Seen::Unseen => None,
            Seen::Present(job) => Some(JobSeen::Present(job.clone())),
            Seen::Deleted(job) => Some(JobSeen::Deleted(job.clone())),
        }
    }
}

/// A run's own objects.
pub(super) struct Observed<C> {
    pub(super) cluster: Arc<C>,
    pub(super) namespace: String,
    pub(super) job_name: String,
    pub(super) job_uid: Option<String>,
    /// For a Job of another run: how long to wait for its pod.
    pub(super) reattached: Option<Duration>,
    pub(super) watched: Subscription<C>,
}

impl<C: Cluster> Observed<C> {
    /// The Job now. Another Job under the same name counts as gone: a name is not an identity, a UID is.
    pub(super) async fn job(&self) -> Result<JobSeen, ApiError> {
        match self.cluster.get_job(&self.namespace, &self.job_name).await {
            Ok(job) if self.is_ours(&job) => Ok(JobSeen::Present(Arc::new(job))),
            Ok(_) => Ok(JobSeen::Gone),
            Err(error) if error.is_not_found() => Ok(JobSeen::Gone),
            Err(error) => Err(error),
        }
    }

    fn is_ours(&self, job: &Job) -> bool {
        match (&self.job_uid, &job.metadata.uid) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        }
    }

    /// The Job's pod now, if it has one.
    pub(super) async fn pod(&self) -> Result<Option<Pod>, ApiError> {
        Ok(self.pods().await?.next())
    }

    /// The pod of this name now; any of the Job's for the empty name. Before 1.25 a Job makes another pod as soon as
    /// somebody deletes its pod, so that it has two for a while.
    pub(super) async fn pod_named(&self, name: &str) -> Result<Option<Pod>, ApiError> {
        let is_it = |pod: &Pod| name.is_empty() || pod.metadata.name.as_deref() == Some(name);
        Ok(self.pods().await?.find(is_it))
    }

    async fn pods(&self) -> Result<impl Iterator<Item = Pod>, ApiError> {
        let selector = format!("job-name={}", self.job_name);
        let pods = self.cluster.list_pods(&self.namespace, &selector).await?;
        Ok(pods.into_iter().filter(|pod| self.is_pod_of_ours(pod)))
    }

    /// The pod now, asked again for `budget` while the API does not answer.
    pub(super) async fn pod_within(&self, budget: Duration) -> Result<Option<Pod>, ApiError> {
        retry::with_budget(budget, || self.pod()).await
    }

    fn is_pod_of_ours(&self, pod: &Pod) -> bool {
        let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "Job");
        match (&self.job_uid, owner) {
            (Some(ours), Some(owner)) => *ours == owner.uid,
            _ => true,
        }
    }

    /// Whether what the watches say is the state of things.
    pub(super) fn is_watched(&self) -> bool {
        self.watched.health() == Health::Live
    }

    /// What the watches have brought so far; to be believed in what it shows, whether they work now or not.
    pub(super) fn view(&self) -> Snapshot {
        self.watched.snapshot()
    }

    /// The Job as the watches show it.
    pub(super) fn job_in_sight(&self) -> Option<JobSeen> {
        JobSeen::of(&self.view().job)
    }

    /// Waits a moment for the watches to be opened, so that the first looks need no requests of their own.
    pub(super) async fn begin(&self) -> Health {
        let mut view = self.watched.changes();
        let decided = view.wait_for(|view| view.health != Health::Starting);
        match tokio::time::timeout(timing::WATCH_START_LIMIT, decided).await {
            Ok(Ok(view)) => view.health,
            _ => Health::Starting,
        }
    }

    /// Eyes for the pod.
    pub(super) fn pod_eyes(&self) -> PodEyes<'_, C> {
        let view = self.watched.changes();
        PodEyes { observed: self, view, read_at: Instant::now() + timing::UNSEEN_LIMIT, unreadable: 0 }
    }

    /// The Job, at once and at every change; looked at every [`timing::POLL_INTERVAL`] where it cannot be watched. Never
    /// ends; an error does not end it.
    pub(super) fn jobs(self: Arc<Self>) -> impl Stream<Item = Result<JobSeen, ApiError>> {
        let eyes = JobEyes {
            view: self.watched.changes(),
            told: 0,
            tell_again: false,
            unreadable: 0,
            poll_at: Instant::now(),
            unseen_at: Instant::now() + timing::UNSEEN_LIMIT,
            observed: self,
        };
        futures::stream::unfold(eyes, |mut eyes| async move { Some((eyes.next().await, eyes)) })
    }
}

/// Looks at a Job.
struct JobEyes<C> {
    observed: Arc<Observed<C>>,
    view: watch::Receiver<Snapshot>,
    /// How many of the view's events were told.
    told: u64,
    /// Once there is a watch again, what it shows is told again: it ends a row of errors.
    tell_again: bool,
    unreadable: u64,
    /// The next look where there is no watch.
    poll_at: Instant,
    /// When to look although there is a watch, because it has not shown the Job.
    unseen_at: Instant,
}

impl<C: Cluster> JobEyes<C> {
    async fn next(&mut self) -> Result<JobSeen, ApiError> {
        loop {
            let view = self.view.borrow_and_update().clone();
            // What was seen is seen, whether the watch works now or not.
            let again = self.tell_again && view.health == Health::Live;
            if (view.job_events > self.told || again)
                && let Some(seen) = JobSeen::of(&view.job)
            {
                self.told = view.job_events;
                self.tell_again = false;
                return Ok(seen);
            }
            let read_at = match view.health {
                Health::Live if view.unreadable > self.unreadable => {
                    self.unreadable = view.unreadable;
                    Some(Instant::now())
                }
                Health::Live => (view.job_events == 0).then_some(self.unseen_at),
                Health::Starting | Health::Broken | Health::Refused => Some(self.poll_at),
            };
            let due = async {
                match read_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Ok(()) = self.view.changed() => {}
                () = due => return self.read(view.health).await,
            }
        }
    }

    async fn read(&mut self, health: Health) -> Result<JobSeen, ApiError> {
        let seen = self.observed.job().await;
        let pause = match &seen {
            Err(error) => error.retry_after.unwrap_or(timing::POLL_INTERVAL).max(timing::POLL_INTERVAL),
            Ok(_) => timing::POLL_INTERVAL,
        };
        self.poll_at = Instant::now() + pause;
        self.unseen_at = Instant::now() + timing::UNSEEN_LIMIT;
        self.tell_again |= health != Health::Live;
        if health == Health::Live && seen.is_ok() && self.view.borrow().job_events == 0 {
            // There or gone: the watch should have told that.
            self.observed.watched.request_resync();
        }
        seen
    }
}

/// Looks at the pod.
pub(super) struct PodEyes<'a, C> {
    observed: &'a Observed<C>,
    view: watch::Receiver<Snapshot>,
    /// When to ask for it although there is a watch, because it shows none.
    read_at: Instant,
    unreadable: u64,
}

impl<C: Cluster> PodEyes<'_, C> {
    /// The pod now, if it has one; where it must be asked for, again for `budget` while the API does not answer.
    pub(super) async fn poll_once(&mut self, budget: Duration) -> Result<Option<Arc<Pod>>, ApiError> {
        let view = self.view.borrow_and_update().clone();
        if view.health == Health::Live && view.unreadable == self.unreadable {
            if let Some(pod) = view.pod() {
                return Ok(Some(pod.clone()));
            }
            if Instant::now() < self.read_at {
                return Ok(None);
            }
        }
        self.unreadable = view.unreadable;
        self.read_at = Instant::now() + timing::UNSEEN_LIMIT;
        let pod = self.observed.pod_within(budget).await?;
        if pod.is_some() && view.health == Health::Live && self.view.borrow().pods.is_empty() {
            // The watch should have told that.
            self.observed.watched.request_resync();
        }
        Ok(pod.map(Arc::new))
    }

    /// Until there may be something new to see: the next change where there is a watch, at most
    /// [`timing::POLL_INTERVAL`].
    pub(super) async fn pause(&mut self) {
        if self.view.borrow().health == Health::Live {
            let _ = tokio::time::timeout(timing::POLL_INTERVAL, self.view.changed()).await;
        } else {
            tokio::time::sleep(timing::POLL_INTERVAL).await;
        }
    }
}
