//! Reads the host's own pod, the model of every Job: once per cluster and pod, and again after ten minutes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
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
                find_keys(&mut own, env).await;
                return Ok(own);
            }
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(SelfPodError::NotAPod { namespace: namespace.to_owned(), names: names.to_vec() }.into())
}

/// The most files of a mount whose contents are compared, and the most that one of a Secret may have.
const MOST_FILES: usize = 256;
const MOST_BYTES: u64 = 1 << 20;

/// Notes which mounts hold the server's keys. This process runs in the pod that it reads, so it sees the files of Secrets
/// whose keys the pod does not list, and whether one has the value of a variable that only the server needs.
async fn find_keys(own: &mut SelfPod, env: &HostEnv) {
    let secrets = manifest::secrets_of_server(env);
    let paths: Vec<String> = own.mount_paths().map(str::to_owned).collect();
    for path in paths {
        let mut files = vec![PathBuf::from(&path)];
        if let Ok(mut folder) = tokio::fs::read_dir(&path).await {
            files.clear();
            while let Ok(Some(file)) = folder.next_entry().await {
                files.push(file.path());
            }
        }
        let is_key = |file: &PathBuf| {
            file.file_name().and_then(|name| name.to_str()).is_some_and(manifest::is_key_file)
        };
        let mut holds = files.iter().any(is_key);
        for file in files.iter().take(MOST_FILES) {
            holds = holds || has_one_of(file, &secrets).await;
        }
        if holds {
            own.note_keys(&path);
        }
    }
}

/// Whether a regular file has one of these texts in it.
async fn has_one_of(file: &Path, texts: &[String]) -> bool {
    let small = |meta: std::fs::Metadata| meta.is_file() && meta.len() <= MOST_BYTES;
    if texts.is_empty() || !tokio::fs::metadata(file).await.is_ok_and(small) {
        return false;
    }
    let Ok(bytes) = tokio::fs::read(file).await else { return false };
    let contents = String::from_utf8_lossy(&bytes);
    texts.iter().any(|text| contents.contains(text.as_str()))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn mount_with_a_secret_of_the_server_is_found() {
        let dir = std::env::temp_dir().join(format!("own-mounts-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        for (file, contents) in [
            ("copied/config.ini", "password = p@ss word of the db\n"),
            ("named/tls.key", "-"),
            ("one-file", "signs-all-sessions\n"),
            ("harmless/config.ini", "password = of another db\n"),
            ("short/config.ini", "short"),
        ] {
            let file = dir.join(file);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            std::fs::write(file, contents).expect("written");
        }
        let names = ["copied", "named", "one-file", "harmless", "short", "nowhere"];
        let mounts = names.map(|name| json!({"name": name, "mountPath": dir.join(name)}));
        let volumes = names.map(|name| json!({"name": name, "secret": {"secretName": name}}));
        let pod = json!({"spec": {"volumes": volumes,
            "containers": [{"name": "paperclip", "image": "i", "volumeMounts": mounts}]}});
        let pod = serde_json::from_value(pod).expect("a pod");
        let mut own = SelfPod::read(&pod, "p", "n", &BTreeMap::new()).expect("read");
        let vars = [
            ("DATABASE_URL", "postgres://u:p%40ss%20word%20of%20the%20db@h/p"),
            ("BETTER_AUTH_SECRET", "signs-all-sessions"),
            ("PAPERCLIP_TOOL_OAUTH_CLIENT_SECRET", "short"),
        ];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        find_keys(&mut own, &HostEnv { vars, ..HostEnv::default() }).await;
        let found: Vec<&str> = names.into_iter().filter(|name| own.holds_keys(&dir.join(name))).collect();
        assert_eq!(found, ["copied", "named", "one-file"]);
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
