//! A Kubernetes API over HTTPS on loopback, with one node that runs pods as local processes.
//!
//! It serves what clients need to create Jobs, follow logs and watch, with the answers, lags and
//! failures of a real cluster, and a control API (`/simulator/…`) that makes it misbehave on purpose.
//!
//! | module | concern |
//! |---|---|
//! | `server`, `tls` | listener, connections, certificates |
//! | `http` | routing, verbs, watches, log streams, control API, record of requests |
//! | `store`, `kinds`, `ops`, `validate` | objects, versions and history; what is served; create and delete; checks |
//! | `admission` | quotas, limit ranges, pod security, policies |
//! | `events` | Events as a recorder writes them |
//! | `selectors`, `patch`, `authz`, `faults`, `settings` | one concern each, pure |
//! | `controllers` | Jobs, garbage collection, TTL, namespaces |
//! | `nodes`, `scheduling` | a node that is lost, tainted or deleted; what fits it, preemption |
//! | `kubelet`, `logs` | scheduling, containers as processes or scripts, their logs |
//! | `load` | what a load test must know about the cluster itself |
//!
//! `npm run test:cluster` plays the same specs (`__test__/conformance`) here and on a real cluster. Where it differs from a real
//! one:
//!
//! - It behaves as Kubernetes 1.37. Older versions make a new pod for one that is deleted, write no `DisruptionTarget`
//!   and stamp each stored piece of a long log line; the specs that meet this ask for the server's version.
//! - HTTP/1.1 and JSON only: no protobuf, no Tables (kubectl prints NAME and AGE), no OpenAPI.
//! - Containers are processes of this user: no isolation, no `runAsUser`, no resource limits, no read-only mounts,
//!   no probes, no previous logs. An OOM kill is one that the control API asks for.
//! - Mount paths are mapped by rewriting them at path boundaries in commands, and in environment values that are
//!   nothing but such a path or a colon list of them.
//! - A signal goes to the whole process group of a container, or else each test that ends a pod would take that pod's
//!   grace period: the setting `signalsAsFirstProcess` makes it go as on a real node, and the conformance specs use it.
//! - The Job controller lags by 50 ms, for speed; a real one, and the one under the conformance specs, by 1 s.
//! - Local storage is the size of a pod's files and logs, looked at every second; a real kubelet does so every 10 s, and
//!   every minute for volumes. The conformance specs set what a real one has, also for the rotation of logs.
//! - Admission policies are rules of the control API (`/simulator/policies`), without expressions; the token of a service
//!   account that is mounted opens nothing.
//! - A paused kubelet lets log requests wait; a real API server gives up after 10 s.
//! - Strategic merge patches are approximated and server-side apply is a merge; a `continue` token is not a snapshot.
//! - How a container ended is always reported. A busy node may have lost it (`ContainerStatusUnknown`, which before 1.22
//!   is in `lastState` only), which no spec can force: the specs must hold with and without it.
//! - A lost node stops its processes and leaves log streams half-open.

mod admission;
mod authz;
mod controllers;
mod events;
mod faults;
mod http;
mod kinds;
mod kubelet;
mod load;
mod logs;
mod nodes;
mod ops;
mod patch;
mod scheduling;
mod selectors;
mod server;
mod settings;
mod status;
mod store;
mod time;
mod tls;
mod util;
mod validate;

use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// How to start a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Port; 0 takes a free one.
    pub port: u16,
    /// Where everything is kept. A fresh directory, removed at the end, by default.
    pub dir: Option<PathBuf>,
    /// Directories put before `PATH` in every container.
    pub bin_dirs: Vec<PathBuf>,
    /// The namespace that is seeded and current in the kubeconfig.
    pub namespace: String,
    /// How far a Job's status lags behind its pods. A real controller lags by 1000 ms.
    pub condition_lag_ms: u64,
    /// Whether to seed the claim, the Secret and the host's pod.
    pub seed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            port: 0,
            dir: None,
            bin_dirs: Vec::new(),
            namespace: "paperclip".to_string(),
            condition_lag_ms: 50,
            seed: true,
        }
    }
}

/// Everything the parts share.
struct Sim {
    store: store::Store,
    authz: authz::Authz,
    faults: faults::Faults,
    policies: admission::Policies,
    settings: Mutex<settings::Settings>,
    requests: http::RequestLog,
    conns: server::Connections,
    kubelet: kubelet::Kubelet,
    load: load::Load,
    stopping: watch::Sender<bool>,
    restart: watch::Sender<u64>,
    ca_pem: String,
    address: String,
}

/// A running cluster.
pub struct Cluster {
    sim: Arc<Sim>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    own_dir: bool,
    stopped: bool,
    /// `https://127.0.0.1:PORT`.
    pub url: String,
    /// The port.
    pub port: u16,
    /// A token that may do everything.
    pub token: String,
    /// The CA certificate.
    pub ca_pem: String,
    /// The seeded namespace.
    pub namespace: String,
    /// Where everything is kept.
    pub dir: PathBuf,
    /// An administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The CA certificate as a file.
    pub ca_file: PathBuf,
}

impl Cluster {
    /// Starts a cluster on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// When the port is taken, or the cluster's folder cannot be written.
    pub async fn start(options: Options) -> io::Result<Cluster> {
        raise_file_limit();
        let listener = server::bind(options.port).await?;
        let port = listener.local_addr()?.port();
        let own_dir = options.dir.is_none();
        let dir = options
            .dir
            .unwrap_or_else(|| std::env::temp_dir().join(format!("embedded-cluster-{}", util::hex(10))));
        std::fs::create_dir_all(&dir)?;
        let dir = dir.canonicalize()?;
        let (ca_pem, acceptor) = tls::make()?;
        let url = format!("https://127.0.0.1:{port}");
        let token = format!("admin-{}", util::hex(32));
        let sim = Arc::new(Sim {
            store: store::Store::default(),
            authz: authz::Authz::default(),
            faults: faults::Faults::default(),
            policies: admission::Policies::default(),
            settings: Mutex::new(settings::Settings {
                job_condition_lag_ms: options.condition_lag_ms,
                ..settings::Settings::default()
            }),
            requests: http::RequestLog::default(),
            conns: server::Connections::default(),
            kubelet: kubelet::Kubelet::new(dir.clone(), options.bin_dirs)?,
            load: load::Load::default(),
            stopping: watch::channel(false).0,
            restart: watch::channel(0).0,
            ca_pem: ca_pem.clone(),
            address: format!("127.0.0.1:{port}"),
        });
        sim.authz.add_admin(&token);
        let tasks = vec![
            tokio::spawn(kubelet::Kubelet::run(sim.clone())),
            tokio::spawn(controllers::JobController::new(sim.clone()).run()),
            tokio::spawn(controllers::Collector::new(sim.clone()).run()),
            tokio::spawn(nodes::NodeController::new(sim.clone()).run()),
            tokio::spawn(server::serve(sim.clone(), listener, acceptor, port)),
        ];
        seed_base(&sim, &options.namespace);
        if options.seed {
            seed(&sim, &options.namespace);
        }
        let claim = kubelet::claim_dir(&dir, &options.namespace, "paperclip-data");
        std::fs::create_dir_all(claim)?;
        let ca_file = dir.join("ca.crt");
        std::fs::write(&ca_file, &ca_pem)?;
        let kubeconfig = dir.join("kubeconfig");
        write_kubeconfig(&kubeconfig, &url, &ca_pem, &token, &options.namespace)?;
        Ok(Cluster {
            sim,
            tasks,
            own_dir,
            stopped: false,
            url,
            port,
            token,
            ca_pem,
            namespace: options.namespace,
            dir,
            kubeconfig,
            ca_file,
        })
    }

    /// The directory that stands for a claim.
    pub fn claim_dir(&self, namespace: &str, claim: &str) -> PathBuf {
        kubelet::claim_dir(&self.dir, namespace, claim)
    }

    /// Ends all containers and connections, and removes the directory if it was made here.
    pub async fn shutdown(mut self) {
        self.stopped = true;
        self.sim.stopping.send_replace(true);
        self.sim.kubelet.stop().await;
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
        if self.own_dir {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        self.sim.stopping.send_replace(true);
        self.sim.kubelet.abandon();
        for task in &self.tasks {
            task.abort();
        }
        if self.own_dir {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

// Every container holds two pipes and every stream a socket.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard);
    }
}

fn seed_base(sim: &Sim, namespace: &str) {
    let mut namespaces = vec!["default", "kube-system"];
    if !namespaces.contains(&namespace) {
        namespaces.push(namespace);
    }
    for name in namespaces {
        let _ = ops::create(sim, &kinds::NAMESPACE, "", json!({"metadata": {"name": name}}), false);
    }
    nodes::register(sim);
}

fn seed(sim: &Sim, namespace: &str) {
    let make = |kind: &'static kinds::Kind, v: Value| {
        let _ = ops::create(sim, kind, namespace, v, false);
    };
    make(
        &kinds::PVC,
        json!({
            "metadata": {"name": "paperclip-data"},
            "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "embedded",
                "resources": {"requests": {"storage": "10Gi"}}},
        }),
    );
    make(
        &kinds::SECRET,
        json!({
            "metadata": {"name": "paperclip-secrets"},
            "stringData": {"ANTHROPIC_API_KEY": "sk-ant-embedded"},
        }),
    );
    make(
        &kinds::POD,
        json!({
            "metadata": {"name": "paperclip-0", "labels": {"app": "paperclip"},
                "annotations": {"simulator.paperclip.io/static": "true"}},
            "spec": {
                "containers": [{
                    "name": "paperclip", "image": "paperclip/agent:embedded",
                    "env": [
                        {"name": "PAPERCLIP_API_URL", "value": "http://127.0.0.1:3100"},
                        {"name": "ANTHROPIC_API_KEY", "valueFrom": {"secretKeyRef": {
                            "name": "paperclip-secrets", "key": "ANTHROPIC_API_KEY"}}},
                    ],
                    "volumeMounts": [{"name": "data", "mountPath": "/paperclip"}],
                }],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "paperclip-data"}}],
                "tolerations": [{"operator": "Exists"}],
            },
        }),
    );
}

fn write_kubeconfig(path: &Path, url: &str, ca: &str, token: &str, namespace: &str) -> io::Result<()> {
    use base64::Engine;
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    let text = format!(
        "apiVersion: v1
kind: Config
clusters:
- name: embedded
  cluster:
    server: {url}
    certificate-authority-data: {ca}
users:
- name: admin
  user:
    token: {token}
contexts:
- name: embedded
  context:
    cluster: embedded
    user: admin
    namespace: {namespace}
current-context: embedded
"
    );
    // Readable by its owner only, as clients expect of a file with a token.
    let _ = std::fs::remove_file(path);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}
