//! Reads the host's own pod, the model of every Job: once per cluster and pod, and again after ten minutes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::cluster::{Cluster, retry};
use crate::manifest::{self, SelfPod, SelfPodError};
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
        let names = own_names(env);
        if names.is_empty() {
            return Err(SelfPodError::NoHostname.into());
        }
        let namespace = namespace_of(env).await;
        let kubeconfig = request.config.kubeconfig.clone().unwrap_or_default();
        let key = [kubeconfig, namespace.clone(), names.join("/")];
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
        let read = Box::pin(read_first(cluster, &namespace, &names, env)).await;
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

/// What may be the pod's name: `POD_NAME`, which the downward API sets, then `HOSTNAME`, which is cut at 63 characters and
/// on the host's network is the node's.
fn own_names(env: &HostEnv) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in ["POD_NAME", "HOSTNAME"].iter().filter_map(|name| env.get(name)).map(str::trim) {
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// The pod of the first name that is one's.
async fn read_first<C: Cluster>(
    cluster: &C,
    namespace: &str,
    names: &[String],
    env: &HostEnv,
) -> Result<SelfPod, RunError> {
    for name in names {
        match retry::with_budget(timing::SETUP_READ_BUDGET, || cluster.get_pod(namespace, name)).await {
            Ok(pod) => {
                let mut own = SelfPod::read(&pod, name, namespace, &env.vars)?;
                find_keys(&mut own).await;
                return Ok(own);
            }
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(SelfPodError::NotAPod { namespace: namespace.to_owned(), names: names.to_vec() }.into())
}

/// Notes which mounts hold the server's keys. This process runs in the pod that it reads, so it sees the files of Secrets
/// whose keys the pod does not list.
async fn find_keys(own: &mut SelfPod) {
    let paths: Vec<String> = own.mount_paths().map(str::to_owned).collect();
    for path in paths {
        let Ok(mut folder) = tokio::fs::read_dir(&path).await else { continue };
        while let Ok(Some(file)) = folder.next_entry().await {
            if file.file_name().to_str().is_some_and(manifest::is_key_file) {
                own.note_keys(&path);
            }
        }
    }
}

/// `PAPERCLIP_NAMESPACE ?? POD_NAMESPACE`, else the service account's namespace, else `default`.
pub(crate) async fn namespace_of(env: &HostEnv) -> String {
    let configured = env.get("PAPERCLIP_NAMESPACE").or_else(|| env.get("POD_NAMESPACE")).map(str::trim);
    if let Some(name) = configured.filter(|name| !name.is_empty()) {
        return name.to_owned();
    }
    match tokio::fs::read_to_string(NAMESPACE_FILE).await {
        Ok(text) => text.trim().to_owned(),
        Err(_) => "default".to_owned(),
    }
}
