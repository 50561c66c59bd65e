//! Reads the host's own pod, the model of every Job: once per cluster and pod, and again after ten minutes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::cluster::{Cluster, retry};
use crate::manifest::{SelfPod, SelfPodError};
use crate::request::{HostEnv, Request};
use crate::run::{RunError, timing};

/// Where the kubelet writes the pod's namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The own pods that were read, by kubeconfig, namespace and pod name.
#[derive(Default)]
pub(crate) struct SelfPods {
    known: Mutex<HashMap<[String; 3], Arc<Known>>>,
}

/// What is known of one pod. The run that reads it holds the lock, so that runs that start together read it once.
#[derive(Default)]
struct Known {
    pod: tokio::sync::Mutex<Option<(Instant, SelfPod)>>,
    failed_reads: AtomicU64,
}

impl SelfPods {
    /// The own pod, for this request's environment and kubeconfig.
    ///
    /// # Errors
    /// Outside a pod, when the pod cannot be read, or when it cannot serve as a model.
    pub(crate) async fn read<C: Cluster>(&self, cluster: &C, request: &Request) -> Result<SelfPod, RunError> {
        let env = &request.host_env;
        let hostname = env.get("HOSTNAME").filter(|name| !name.is_empty()).ok_or(SelfPodError::NoHostname)?;
        let namespace = namespace_of(env).await;
        let key =
            [request.config.kubeconfig.clone().unwrap_or_default(), namespace.clone(), hostname.to_owned()];
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        let failed_reads = known.failed_reads.load(Ordering::Relaxed);
        let mut last = known.pod.lock().await;
        if let Some((read_at, pod)) = &*last
            && read_at.elapsed() < timing::SELF_POD_TTL
        {
            return Ok(pod.clone());
        }
        // When a read failed while this run waited for the lock, it reads without the lock: the waiting runs would each
        // take the whole budget, one after the other.
        let held = if known.failed_reads.load(Ordering::Relaxed) == failed_reads {
            Some(&mut last)
        } else {
            drop(last);
            None
        };
        let read: Result<SelfPod, RunError> = async {
            let pod = retry::with_budget(timing::SETUP_READ_BUDGET, || cluster.get_pod(&namespace, hostname))
                .await?;
            Ok(SelfPod::read(&pod, hostname, &namespace)?)
        }
        .await;
        match (&read, held) {
            (Ok(pod), Some(last)) => **last = Some((Instant::now(), pod.clone())),
            (Ok(_), None) => {}
            (Err(_), _) => {
                known.failed_reads.fetch_add(1, Ordering::Relaxed);
            }
        }
        read
    }
}

/// `PAPERCLIP_NAMESPACE ?? POD_NAMESPACE`, else the service account's namespace, else `default`.
async fn namespace_of(env: &HostEnv) -> String {
    let configured = env.get("PAPERCLIP_NAMESPACE").or_else(|| env.get("POD_NAMESPACE")).map(str::trim);
    if let Some(name) = configured.filter(|name| !name.is_empty()) {
        return name.to_owned();
    }
    match tokio::fs::read_to_string(NAMESPACE_FILE).await {
        Ok(text) => text.trim().to_owned(),
        Err(_) => "default".to_owned(),
    }
}
