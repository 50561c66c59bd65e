//! Functions that 0.1.49 exports from inside a run and that need a cluster.

use std::collections::BTreeMap;
use std::future::poll_fn;

use crate::cluster::{Cluster, Clusters, LogQuery, ReadResult};
use crate::manifest::{CLAUDE_CONTAINER, SelfPod};
use crate::request::Request;
use crate::run::{RunError, Runner};
use crate::stream::{LineSplitter, split_stamp};

/// Which log to read (`docs/contract.md`, "Exported helpers").
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LogOrder {
    /// Path of a kubeconfig; `None` is the cluster this process runs in.
    pub(super) kubeconfig: Option<String>,
    /// The host's environment.
    pub(super) host_env: BTreeMap<String, String>,
    /// The pod's namespace.
    pub(super) namespace: String,
    /// The pod.
    pub(super) pod: String,
    /// Only lines younger than this.
    pub(super) since_seconds: Option<u32>,
}

impl<K: Clusters> Runner<K> {
    /// The host's own pod, as far as Jobs inherit from it.
    ///
    /// # Errors
    /// Outside a pod, or when it cannot be read.
    pub(super) async fn self_pod(&self, request: &Request) -> Result<SelfPod, RunError> {
        let cluster = self.cluster(request).await?;
        self.self_pods.read(cluster.as_ref(), request).await
    }

    /// Follows the log of a pod's agent container to the end of one body. Calls `text` with whole lines (the last one
    /// may be unfinished) and reads on when it has resolved.
    ///
    /// # Errors
    /// When the log cannot be opened or breaks off.
    pub(super) async fn stream_log_once<F: Future<Output = ()> + Send>(
        &self,
        order: &LogOrder,
        mut text: impl FnMut(String) -> F + Send,
    ) -> Result<(), RunError> {
        let cluster = self.clusters.cluster(order.kubeconfig.as_deref(), &order.host_env).await?;
        let since_time = order.since_seconds.filter(|seconds| *seconds > 0).and_then(|seconds| {
            let from = jiff::Timestamp::now().as_second() - i64::from(seconds);
            Some(jiff::Timestamp::from_second(from).ok()?.to_string())
        });
        let query = LogQuery { follow: true, since_time };
        let mut body = cluster.open_log(&order.namespace, &order.pod, CLAUDE_CONTAINER, &query).await?;
        let mut splitter = LineSplitter::new();
        loop {
            let mut lines = String::new();
            let read = body.try_read(&mut |bytes| {
                splitter.push(bytes, |line, _| {
                    lines.push_str(&unstamped(line));
                    lines.push('\n');
                });
            });
            if !lines.is_empty() {
                text(lines).await;
            }
            match read {
                ReadResult::Pending => poll_fn(|context| body.poll_ready(context)).await,
                ReadResult::Data { .. } => {}
                ReadResult::End => break,
                ReadResult::Broken(error) => return Err(error.into()),
            }
        }
        if let Some((rest, _)) = splitter.take_partial() {
            text(unstamped(&rest)).await;
        }
        Ok(())
    }
}

fn unstamped(line: &[u8]) -> String {
    let text = split_stamp(line).map_or(line, |(_, text)| text);
    String::from_utf8_lossy(text).into_owned()
}
