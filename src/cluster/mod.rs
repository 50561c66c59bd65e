//! The only module that talks to Kubernetes.
//!
//! A run reaches a cluster through the trait [`Cluster`], so that tests can play whole runs against an in-memory
//! cluster under a paused clock. `client` (feature `client`) implements the trait over HTTPS; [`watch`] shares
//! watches between runs and depends on the trait alone.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use serde_json::Value;

#[cfg(feature = "client")]
pub(crate) mod client;
mod error;
mod gate;
pub(crate) mod permissions;
pub(crate) mod retry;
pub(crate) mod watch;

pub(crate) use error::{ApiError, ApiErrorKind};
pub(crate) use gate::Gate;

/// Which part of a container's log to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogQuery {
    /// Keep the body open until the container ends.
    pub follow: bool,
    /// RFC 3339, whole seconds, inclusive (the kubelet cuts fractions off). `None`: from the beginning.
    pub since_time: Option<String>,
}

/// A log body: its bytes as they arrive.
///
/// The reader decides when to read, because each read of a connection costs more than a line.
pub(crate) trait LogRead: Send {
    /// Ready once a read may find something.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// Passes on what has arrived, in any number of pieces; never waits.
    fn try_read(&mut self, take: &mut dyn FnMut(&[u8])) -> ReadResult;

    /// Until the next [`LogRead::poll_ready`] the reader does not need wake-ups.
    fn pause(&mut self) {}
}

/// An open log.
pub(crate) type LogBody = Box<dyn LogRead>;

/// What a read of a log found.
#[derive(Debug)]
pub(crate) enum ReadResult {
    /// Nothing has arrived.
    Pending,
    /// Bytes were passed on.
    Data {
        /// Everything that had arrived: another read right away would find nothing.
        all: bool,
    },
    /// The body ended properly.
    End,
    /// The connection broke.
    Broken(ApiError),
}

/// A log body that reads from a stream.
pub(crate) fn log_from_stream(
    stream: impl Stream<Item = Result<Bytes, ApiError>> + Send + 'static,
) -> LogBody {
    Box::new(StreamedLog { stream: Box::pin(stream), next: None })
}

struct StreamedLog {
    stream: BoxStream<'static, Result<Bytes, ApiError>>,
    /// The stream's next item, or its end, where it has arrived and was not read yet.
    next: Option<Option<Result<Bytes, ApiError>>>,
}

impl LogRead for StreamedLog {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.next.is_none() {
            self.next = Some(ready!(self.stream.poll_next_unpin(context)));
        }
        Poll::Ready(())
    }

    fn try_read(&mut self, take: &mut dyn FnMut(&[u8])) -> ReadResult {
        // The next `poll_ready` registers a waker that counts.
        let _ = self.poll_ready(&mut Context::from_waker(Waker::noop()));
        match self.next.take() {
            None => ReadResult::Pending,
            Some(None) => ReadResult::End,
            Some(Some(Err(error))) => ReadResult::Broken(error),
            Some(Some(Ok(bytes))) => {
                take(&bytes);
                ReadResult::Data { all: false }
            }
        }
    }
}

/// The kinds of objects that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WatchKind {
    /// `batch/v1` Jobs.
    Jobs,
    /// `v1` Pods.
    Pods,
}

impl WatchKind {
    /// The name of the resource in paths and messages.
    pub(crate) const fn resource(self) -> &'static str {
        match self {
            WatchKind::Jobs => "jobs",
            WatchKind::Pods => "pods",
        }
    }
}

/// What to watch, and from which version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchQuery {
    /// Label selector.
    pub selector: String,
    /// Changes after this version. `None`: every object as `ADDED`, then the changes.
    pub resource_version: Option<String>,
    /// After which time the server ends the watch.
    pub timeout: Duration,
}

/// The bytes of a watch as they arrive: one JSON event per line.
pub(crate) type WatchBody = Pin<Box<dyn Stream<Item = Result<Bytes, ApiError>> + Send>>;

/// A question to the API server: may this service account do this?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AccessReview<'a> {
    /// API group, `""` for core.
    pub group: &'a str,
    /// Resource, for example `jobs` or `pods/log`.
    pub resource: &'a str,
    /// Verb.
    pub verb: &'a str,
    /// The namespace.
    pub namespace: &'a str,
    /// The one object that is meant; empty for all.
    pub name: &'a str,
}

/// A Job that was created.
#[derive(Debug, Clone)]
pub(crate) struct CreatedJob {
    /// As the server stored it.
    pub job: Job,
    /// What the server warned of, one line each: at most [`MOST_WARNINGS`].
    pub warnings: Vec<String>,
}

/// The most warnings of an answer that are kept.
pub(crate) const MOST_WARNINGS: usize = 8;
/// The most Events that are read at once.
pub(crate) const MOST_EVENTS: usize = 50;
/// The most objects of one list. An account that may create Jobs in a namespace could fill the host's memory with small ones.
pub(crate) const MOST_OBJECTS: usize = 10_000;
/// The most objects of one kind that are watched in a namespace; of these only a part is kept. Where there are more, runs
/// poll their own.
pub(crate) const MOST_WATCHED: usize = 20_000;

/// The requests a run needs of a cluster.
///
/// Every method is one request. Errors are typed. No method retries; see [`retry`].
pub(crate) trait Cluster: Send + Sync + 'static {
    /// Jobs that match a label selector, in the server's order.
    fn list_jobs(
        &self,
        namespace: &str,
        selector: &str,
    ) -> impl Future<Output = Result<Vec<Job>, ApiError>> + Send;
    /// One Job.
    fn get_job(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Job, ApiError>> + Send;
    /// Creates a Job and returns it as the server stored it, with the server's warnings.
    fn create_job(
        &self,
        namespace: &str,
        job: &Job,
    ) -> impl Future<Output = Result<CreatedJob, ApiError>> + Send;
    /// The server's warnings when it would create this Job; creates none.
    fn try_job(
        &self,
        namespace: &str,
        job: &Job,
    ) -> impl Future<Output = Result<Vec<String>, ApiError>> + Send;
    /// Whether the server would create this pod; creates none.
    fn try_pod(&self, namespace: &str, pod: &Pod) -> impl Future<Output = Result<(), ApiError>> + Send;
    /// Applies a JSON Patch to a Job.
    fn patch_job(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;
    /// Deletes a Job with its pods (Background), only if it still has this UID when one is given.
    fn delete_job(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;
    /// Creates a Secret.
    fn create_secret(
        &self,
        namespace: &str,
        secret: &Secret,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;
    /// Deletes a Secret.
    fn delete_secret(&self, namespace: &str, name: &str)
    -> impl Future<Output = Result<(), ApiError>> + Send;
    /// One pod.
    fn get_pod(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Pod, ApiError>> + Send;
    /// Pods that match a label selector.
    fn list_pods(
        &self,
        namespace: &str,
        selector: &str,
    ) -> impl Future<Output = Result<Vec<Pod>, ApiError>> + Send;
    /// The first Events, at most [`MOST_EVENTS`], of the object with this UID.
    fn list_events(
        &self,
        namespace: &str,
        uid: &str,
    ) -> impl Future<Output = Result<Vec<Event>, ApiError>> + Send;
    /// The list from which a watch continues: the JSON of a whole list object, undecoded, because one bad item
    /// must not hide the others.
    fn list_for_watch(
        &self,
        kind: WatchKind,
        namespace: &str,
        selector: &str,
    ) -> impl Future<Output = Result<Vec<u8>, ApiError>> + Send;
    /// Opens a watch, with bookmarks. Resolves at the response headers; the events follow.
    fn watch(
        &self,
        kind: WatchKind,
        namespace: &str,
        query: &WatchQuery,
    ) -> impl Future<Output = Result<WatchBody, ApiError>> + Send;
    /// Opens a container's log, always with timestamps. Resolves at the response headers; the body follows.
    fn open_log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &LogQuery,
    ) -> impl Future<Output = Result<LogBody, ApiError>> + Send;
    /// The beginning of the last line of a container's log, with its timestamp; empty where the log is. Resolves at the end
    /// of the answer.
    fn last_log_line(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> impl Future<Output = Result<Vec<u8>, ApiError>> + Send;
    /// Reads a namespace: whether it is being deleted.
    fn get_namespace(&self, name: &str) -> impl Future<Output = Result<bool, ApiError>> + Send;
    /// Succeeds when the Secret can be read.
    fn get_secret(&self, namespace: &str, name: &str) -> impl Future<Output = Result<(), ApiError>> + Send;
    /// The access modes of a PersistentVolumeClaim.
    fn claim_access_modes(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Vec<String>, ApiError>> + Send;
    /// Whether the service account may do something (SelfSubjectAccessReview).
    fn can_i(&self, review: AccessReview<'_>) -> impl Future<Output = Result<bool, ApiError>> + Send;
}

/// The clusters of a process, by kubeconfig path.
pub(crate) trait Clusters: Send + Sync + 'static {
    /// The implementation.
    type Cluster: Cluster;

    /// The cluster of a kubeconfig file (its current context), or the one this process runs in. There is one client
    /// per cluster, which is kept. `env` is the host's environment at the time of the call.
    ///
    /// # Errors
    /// [`ApiErrorKind::Setup`] when the file cannot be read or used, or outside a cluster.
    fn cluster(
        &self,
        kubeconfig: Option<&str>,
        env: &BTreeMap<String, String>,
    ) -> impl Future<Output = Result<Arc<Self::Cluster>, ApiError>> + Send;
}
