//! What a run sees of its own Job and pod.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::timing;
use crate::cluster::{ApiError, Cluster, retry};
use crate::forensics::JobState;

/// One look at a Job.
#[derive(Debug, Clone)]
pub(super) enum JobSeen {
    /// It is there.
    Present(Box<Job>),
    /// It is not there any more, or another one has its name.
    Gone,
}

impl JobSeen {
    /// Gone, or with a final condition.
    pub(super) fn is_over(&self) -> bool {
        match self {
            JobSeen::Present(job) => JobState::read(job) != JobState::Running,
            JobSeen::Gone => true,
        }
    }
}

/// A run's own objects.
pub(super) struct Observed<C> {
    pub(super) cluster: Arc<C>,
    pub(super) namespace: String,
    pub(super) job_name: String,
    pub(super) job_uid: Option<String>,
}

impl<C: Cluster> Observed<C> {
    /// The Job now. Another Job under the same name counts as gone: a name is not an identity, a UID is.
    pub(super) async fn job(&self) -> Result<JobSeen, ApiError> {
        match self.cluster.get_job(&self.namespace, &self.job_name).await {
            Ok(job) if self.is_ours(&job) => Ok(JobSeen::Present(Box::new(job))),
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
        let selector = format!("job-name={}", self.job_name);
        let pods = self.cluster.list_pods(&self.namespace, &selector).await?;
        Ok(pods.into_iter().find(|pod| self.is_pod_of_ours(pod)))
    }

    /// The pod now, asked again for `budget` while the API does not answer.
    pub(super) async fn pod_within(&self, budget: Duration) -> Result<Option<Pod>, ApiError> {
        retry::read(budget, || self.pod()).await
    }

    fn is_pod_of_ours(&self, pod: &Pod) -> bool {
        let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "Job");
        match (&self.job_uid, owner) {
            (Some(ours), Some(owner)) => *ours == owner.uid,
            _ => true,
        }
    }

    /// Looks at the Job, at once and then every [`timing::POLL`]. Never ends; an error does not end it.
    pub(super) fn jobs(self: Arc<Self>) -> impl Stream<Item = Result<JobSeen, ApiError>> {
        futures::stream::unfold((self, None::<Duration>), |(observed, pause)| async move {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            let seen = observed.job().await;
            let pause = match &seen {
                Err(error) => error.retry_after.unwrap_or(timing::POLL).max(timing::POLL),
                Ok(_) => timing::POLL,
            };
            Some((seen, (observed, Some(pause))))
        })
    }
}
