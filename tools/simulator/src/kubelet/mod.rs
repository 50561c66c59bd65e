//! Scheduler and kubelet: pods run as local processes.

mod emit;
mod env;
mod paths;
mod pod;
mod process;
mod report;
mod storage;
mod volumes;

pub(crate) use pod::{End, PodRun};
pub(crate) use volumes::claim_dir;

use crate::Sim;
use crate::kinds::POD;
use crate::ops::{observe, set_condition};
use crate::scheduling::Reservations;
use crate::status::ApiResult;
use crate::store::{Change, Object};
use crate::util::{glob, lock};
use process::Spawner;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Name of the only node.
pub(crate) const NODE_NAME: &str = "embedded-node";

struct ImageFailure {
    namespace: String,
    pod: String,
    container: String,
    until: Instant,
}

/// The node's agent.
pub(crate) struct Kubelet {
    pods: Mutex<HashMap<String, Arc<PodRun>>>,
    pulled: Mutex<HashSet<String>>,
    failures: Mutex<Vec<ImageFailure>>,
    addresses: Mutex<u32>,
    spawner: Spawner,
    /// Everything on disk lives here.
    pub dir: PathBuf,
    bin_dirs: Vec<PathBuf>,
    host_path: String,
    paused: watch::Sender<bool>,
    paused_at: Mutex<Option<Instant>>,
    begun: tokio::time::Instant,
    /// What the pods of the node have been given.
    pub reservations: Reservations,
}

impl Kubelet {
    /// Starts what is needed to run processes.
    pub(crate) fn new(dir: PathBuf, bin_dirs: Vec<PathBuf>) -> std::io::Result<Self> {
        Ok(Kubelet {
            pods: Mutex::default(),
            pulled: Mutex::default(),
            failures: Mutex::default(),
            addresses: Mutex::new(0),
            spawner: Spawner::start(tokio::runtime::Handle::current())?,
            dir,
            bin_dirs,
            host_path: std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_string()),
            paused: watch::channel(false).0,
            paused_at: Mutex::new(None),
            begun: tokio::time::Instant::now(),
            reservations: Reservations::default(),
        })
    }

    fn address(&self) -> String {
        let mut n = lock(&self.addresses);
        *n = n.wrapping_add(1);
        format!("10.244.{}.{}", *n >> 8 & 0xff, *n & 0xff)
    }

    fn path(&self, of_pod: Option<&str>) -> String {
        let mut parts: Vec<String> = self.bin_dirs.iter().map(|d| d.to_string_lossy().into_owned()).collect();
        parts.push(of_pod.unwrap_or(&self.host_path).to_string());
        parts.join(":")
    }

    /// The run of a pod.
    pub(crate) fn run_of(&self, uid: &str) -> Option<Arc<PodRun>> {
        lock(&self.pods).get(uid).cloned()
    }

    /// Lets the images of a pod's container fail for some time; names are globs.
    pub(crate) fn fail_images(&self, namespace: &str, pod: &str, container: &str, time: Duration) {
        lock(&self.failures).push(ImageFailure {
            namespace: namespace.to_string(),
            pod: pod.to_string(),
            container: container.to_string(),
            until: Instant::now() + time,
        });
    }

    fn image_fails(&self, pod: &Object, container: &str) -> bool {
        let now = Instant::now();
        lock(&self.failures).iter().any(|f| {
            now < f.until
                && f.namespace == pod.namespace
                && glob(&f.pod, &pod.name)
                && glob(&f.container, container)
        })
    }

    /// Changes when logs are rotated.
    pub(crate) fn set_log_rotation(&self, rotation: &crate::logs::Rotation) {
        for run in lock(&self.pods).values() {
            run.set_log_rotation(rotation);
        }
    }

    /// Stops the kubelet as SIGSTOP does, or lets it go on. Containers run and fill their logs meanwhile; none is
    /// started or ended, no status is written, and logs are not served.
    pub(crate) fn set_paused(&self, sim: &Sim, paused: bool) {
        self.paused.send_replace(paused);
        let mut since = lock(&self.paused_at);
        *since = if paused { since.or_else(|| Some(Instant::now())) } else { None };
        drop(since);
        if !paused {
            // A node that was deleted meanwhile is registered again.
            crate::nodes::register(sim);
            let runs: Vec<Arc<PodRun>> = lock(&self.pods).values().cloned().collect();
            for run in runs {
                run.write(sim);
            }
        }
    }

    /// For how long the control plane has not heard from the kubelet.
    pub(crate) fn silent_for(&self) -> Option<Duration> {
        lock(&self.paused_at).map(|at| at.elapsed())
    }

    /// Whether the kubelet is stopped.
    pub(crate) fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// Waits until the kubelet is not stopped.
    pub(crate) async fn awake(&self) {
        let _ = self.paused.subscribe().wait_for(|paused| !paused).await;
    }

    /// Waits until the kubelet next looks at what its containers do.
    async fn next_look(&self, sim: &Sim) {
        let period = lock(&sim.settings).kubelet_relist_ms;
        let age = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(0);
        let Some(rounds) = age.checked_div(period) else {
            return;
        };
        // The status is written a while after the look.
        let at = Duration::from_millis((rounds + 1) * period + period / 10);
        tokio::time::sleep_until(self.begun + at).await;
    }

    /// Live container processes.
    pub(crate) fn processes(&self) -> Value {
        let runs: Vec<Arc<PodRun>> = lock(&self.pods).values().cloned().collect();
        let list: Vec<Value> = runs.iter().flat_map(|r| r.processes()).collect();
        json!({ "processes": list })
    }

    /// Kills all containers and waits until they are gone, at most some seconds.
    pub(crate) async fn stop(&self) {
        for run in lock(&self.pods).values() {
            run.end(End::gone());
        }
        for _ in 0..500 {
            let alive = lock(&self.pods).values().any(|r| !r.processes().is_empty());
            if !alive {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.spawner.stop();
    }

    /// Kills without waiting.
    pub(crate) fn abandon(&self) {
        self.spawner.stop();
    }

    /// Starts and stops pods as the store says.
    pub(crate) async fn run(sim: Arc<Sim>) {
        let mut head = sim.store.subscribe();
        let mut stopping = sim.stopping.subscribe();
        let mut seen = 0;
        loop {
            match sim.store.since(seen, Some(&POD)) {
                Some((events, version)) => {
                    seen = version;
                    for e in events {
                        sim.kubelet.react(&sim, e.change, &e.object);
                    }
                }
                None => seen = sim.kubelet.relist(&sim),
            }
            tokio::select! {
                changed = head.changed() => if changed.is_err() { return },
                _ = stopping.changed() => return,
            }
        }
    }

    fn relist(&self, sim: &Arc<Sim>) -> u64 {
        let (pods, version) = sim.store.list(&POD, None);
        let alive: HashSet<&str> = pods.iter().map(|p| p.uid.as_str()).collect();
        for (uid, run) in lock(&self.pods).iter() {
            if !alive.contains(uid.as_str()) {
                run.end(End::gone());
            }
        }
        for pod in &pods {
            self.react(sim, Change::Modified, pod);
        }
        version
    }

    fn react(&self, sim: &Arc<Sim>, change: Change, pod: &Arc<Object>) {
        let known = self.run_of(&pod.uid);
        let end = |run: Arc<PodRun>, end: End| {
            if !self.is_paused() {
                return run.end(end);
            }
            let sim = sim.clone();
            tokio::spawn(async move {
                sim.kubelet.awake().await;
                run.end(end);
            });
        };
        if change == Change::Deleted {
            if let Some(run) = known {
                end(run, End::gone());
            }
            return;
        }
        let run = known.unwrap_or_else(|| {
            let run = PodRun::new(sim, pod.clone());
            lock(&self.pods).insert(pod.uid.clone(), run.clone());
            let (sim, run) = (sim.clone(), run.clone());
            let task = run.clone();
            tokio::spawn(async move {
                task.life(&sim).await;
                lock(&sim.kubelet.pods).remove(&task.uid);
                sim.kubelet.reservations.remove(&task.uid);
            });
            run
        });
        run.see_deadline(&pod.value);
        if pod.deleting() {
            let grace = crate::util::int_at(&pod.value, "/metadata/deletionGracePeriodSeconds").unwrap_or(0);
            let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
            end(run, End::deleted(grace));
        }
    }
}

/// Writes the outcome of scheduling into a pod.
pub(crate) fn bind(sim: &Sim, pod: &Object, problem: Option<&str>) -> ApiResult<Arc<Object>> {
    let update = sim.store.update(&POD, &pod.namespace, &pod.name, |v, now| {
        if now.uid != pod.uid {
            return Err(crate::status::ApiError::not_found(&POD, &pod.name));
        }
        match problem {
            None => {
                v["spec"]["nodeName"] = NODE_NAME.into();
                set_condition(&mut v["status"], "PodScheduled", true, "", "");
            }
            Some(message) => set_condition(&mut v["status"], "PodScheduled", false, "Unschedulable", message),
        }
        observe(v, "PodScheduled");
        Ok(())
    })?;
    if problem.is_none() {
        sim.kubelet.reservations.add(&update.0);
    }
    Ok(update.0)
}
