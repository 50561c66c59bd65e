//! The Jobs of this adapter in a namespace, for operators.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;

use super::start::self_pod::namespace_of;
use super::{Runner, timing};
use crate::cluster::{ApiError, Cluster, Clusters, retry};
use crate::forensics::JobOverview;
use crate::manifest;
use crate::request::Request;

/// The label by which the Job controller marks a Job's pods, in every version.
const LABEL_JOB_NAME: &str = "job-name";

/// Why the Jobs could not be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OverviewError {
    /// A value of the configuration cannot be used.
    #[error("{0}")]
    Config(#[source] crate::request::RequestError),
    /// The API could not be asked.
    #[error("cannot list the Jobs of namespace {namespace}: {source}")]
    Api {
        /// Where.
        namespace: String,
        /// What the API answered.
        source: ApiError,
    },
}

impl<K: Clusters> Runner<K> {
    /// The Jobs of this adapter, the oldest first, in the configured namespace, else in that of this process's pod.
    /// Two requests.
    ///
    /// # Errors
    /// See [`OverviewError`].
    pub(crate) async fn overview(&self, request_json: &str) -> Result<Vec<JobOverview>, OverviewError> {
        let request = Request::parse(request_json).map_err(OverviewError::Config)?;
        let namespace = match &request.config.namespace {
            Some(namespace) => namespace.clone(),
            None => namespace_of(&request.host_env).await,
        };
        let read = async {
            let cluster = self.cluster(&request).await?;
            let selector = manifest::watch_selector();
            let budget = timing::SETUP_READ_BUDGET;
            let jobs = retry::with_budget(budget, || cluster.list_jobs(&namespace, &selector)).await?;
            let pods = retry::with_budget(budget, || cluster.list_pods(&namespace, &selector)).await?;
            Ok((jobs, pods))
        };
        let (jobs, pods) =
            read.await.map_err(|source| OverviewError::Api { namespace: namespace.clone(), source })?;
        let mut by_job: HashMap<String, Vec<Pod>> = HashMap::new();
        for pod in pods {
            let job = pod.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_JOB_NAME));
            if let Some(job) = job.cloned() {
                by_job.entry(job).or_default().push(pod);
            }
        }
        let pods_of = |job: &str| by_job.get(job).map_or(&[][..], Vec::as_slice);
        let mut rows: Vec<_> = jobs
            .iter()
            .map(|job| JobOverview::read(job, pods_of(job.metadata.name.as_deref().unwrap_or_default())))
            .collect();
        rows.sort_by(|a, b| (&a.created_at, &a.job).cmp(&(&b.created_at, &b.job)));
        Ok(rows)
    }
}
