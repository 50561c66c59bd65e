//! The host's own pod, the model of every Job: read once per cluster and pod, again after ten minutes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::{RunError, timing};
use crate::cluster::{Cluster, retry};
use crate::manifest::SelfPod;
use crate::request::{HostEnv, Request};

/// Where a pod learns its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Known self pods, by kubeconfig, namespace and pod name: another pod is another key.
#[derive(Default)]
pub(crate) struct SelfPods {
    known: Mutex<HashMap<[String; 3], (Instant, SelfPod)>>,
}

impl SelfPods {
    /// The self pod of a request.
    ///
    /// # Errors
    /// Outside a pod, when the pod cannot be read, or when it cannot serve as a model.
    pub(crate) async fn read<C: Cluster>(&self, cluster: &C, request: &Request) -> Result<SelfPod, RunError> {
        let env = &request.host_env;
        let hostname = env.get("HOSTNAME").filter(|name| !name.is_empty()).ok_or_else(|| {
            RunError::SelfPod(
                "claude_k8s: HOSTNAME env var not set — cannot introspect running pod".to_owned(),
            )
        })?;
        let namespace = namespace_of(env).await;
        let key =
            [request.config.kubeconfig.clone().unwrap_or_default(), namespace.clone(), hostname.to_owned()];
        if let Some((read_at, pod)) = self.lock().get(&key)
            && read_at.elapsed() < timing::SELF_POD_TTL
        {
            return Ok(pod.clone());
        }
        let pod = retry::read(timing::SETUP_READ_BUDGET, || cluster.get_pod(&namespace, hostname)).await?;
        let pod = SelfPod::read(&pod, hostname, &namespace)
            .map_err(|error| RunError::SelfPod(error.to_string()))?;
        self.lock().insert(key, (Instant::now(), pod.clone()));
        Ok(pod)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[String; 3], (Instant, SelfPod)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `PAPERCLIP_NAMESPACE ?? POD_NAMESPACE`, else what the service account says, else `default`.
async fn namespace_of(env: &HostEnv) -> String {
    let told = env.get("PAPERCLIP_NAMESPACE").or_else(|| env.get("POD_NAMESPACE")).map(str::trim);
    if let Some(told) = told.filter(|name| !name.is_empty()) {
        return told.to_owned();
    }
    match tokio::fs::read_to_string(NAMESPACE_FILE).await {
        Ok(text) => text.trim().to_owned(),
        Err(_) => "default".to_owned(),
    }
}
