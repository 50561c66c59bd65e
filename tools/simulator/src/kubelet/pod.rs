//! The life of one pod.

use super::emit::{self, Script};
use super::process::{signal, signal_first};
use super::report::{self, incomplete, unready};
use super::storage::Limits;
use super::{NODE_NAME, bind, env, paths, volumes};
use crate::Sim;
use crate::kinds::POD;
use crate::logs::{Chunk, LogBuffer, Rotation, Splitter};
use crate::ops::{self, DeleteOptions, observe, set_condition};
use crate::scheduling::{preempt, unschedulable};
use crate::status::{ApiError, ApiResult};
use crate::store::Object;
use crate::time;
use crate::util::{hex, int_at, list_at, lock, str_at};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Pods with this annotation run no process.
pub(super) const STATIC_ANNOTATION: &str = "simulator.paperclip.io/static";

/// Why a pod has to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    kind: EndKind,
    grace: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum EndKind {
    /// Its node rejects it: it stays, with this phase reason and message.
    Failed { reason: String, message: String, disrupted: bool },
    /// Its node is lost: nothing is reported any more.
    Lost,
    /// It is being deleted through the API.
    Deleted,
    /// Its object is gone.
    Gone,
}

impl EndKind {
    fn rank(&self) -> u8 {
        match self {
            EndKind::Failed { .. } => 0,
            EndKind::Deleted => 1,
            EndKind::Lost => 2,
            EndKind::Gone => 3,
        }
    }
}

impl End {
    /// The object is gone: kill at once.
    pub(crate) fn gone() -> Self {
        End { kind: EndKind::Gone, grace: Duration::ZERO }
    }

    /// Deletion was asked for.
    pub(crate) fn deleted(grace: Duration) -> Self {
        End { kind: EndKind::Deleted, grace }
    }

    /// The node ends the pod.
    pub(crate) fn failed(reason: &str, message: &str, grace: Duration) -> Self {
        let (reason, message) = (reason.to_string(), message.to_string());
        End { kind: EndKind::Failed { reason, message, disrupted: false }, grace }
    }

    /// The node ends the pod because of its own state: the pod's status says that it was disrupted.
    pub(crate) fn disrupted(reason: &str, message: &str, grace: Duration) -> Self {
        let (reason, message) = (reason.to_string(), message.to_string());
        End { kind: EndKind::Failed { reason, message, disrupted: true }, grace }
    }

    /// The node is lost.
    pub(crate) fn lost() -> Self {
        End { kind: EndKind::Lost, grace: Duration::ZERO }
    }
}

/// A stage was cut short because the pod has to stop.
pub(super) struct Stopped;

/// The conditions of a pod that a kubelet writes.
const KUBELET_CONDITIONS: [&str; 6] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "DisruptionTarget",
];
/// The place of no container.
const NO_CONTAINER: usize = usize::MAX;
/// A sidecar that has run for so long has started: the kubelet looks at it only now and then.
const SIDECAR_STARTED_MS: u64 = 100;
/// What every container has between the request to stop and its kill.
const MINIMUM_GRACE: Duration = Duration::from_secs(2);

pub(super) struct Container {
    pub(super) name: String,
    pub(super) init: bool,
    /// An init container that runs beside the others until they have ended.
    pub(super) sidecar: bool,
    pub(super) image: String,
    pub(super) id: String,
    pub(super) state: Value,
    pub(super) last: Value,
    pub(super) restarts: u64,
    pub(super) ready: bool,
    group: Option<u32>,
    oom: bool,
    started_at: String,
    log: Arc<LogBuffer>,
}

impl Container {
    /// A container that has not begun.
    pub(super) fn waiting(name: &str, init: bool, sidecar: bool, reason: &str) -> Self {
        Container {
            name: name.to_string(),
            init,
            sidecar,
            image: String::new(),
            id: String::new(),
            state: json!({"waiting": {"reason": reason}}),
            last: json!({}),
            restarts: 0,
            ready: false,
            group: None,
            oom: false,
            started_at: String::new(),
            log: Arc::new(LogBuffer::new(Rotation::new(0, 0))),
        }
    }

    /// Where an Event about it points to.
    fn field(&self) -> String {
        format!("spec.{}{{{}}}", if self.init { "initContainers" } else { "containers" }, self.name)
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) containers: Vec<Container>,
    pub(super) sandbox: bool,
    pub(super) initialized: bool,
    pub(super) start_time: String,
    pub(super) address: String,
    pub(super) failed: Option<(String, String)>,
    pub(super) disrupted: bool,
    /// All containers have ended, and none is started again.
    pub(super) closed: bool,
    /// The API knows that all containers have ended.
    pub(super) ends_known: bool,
}

/// A sidecar that goes on beside the other containers.
struct Sidecar {
    index: usize,
    task: tokio::task::JoinHandle<()>,
}

/// One pod on the node.
pub(crate) struct PodRun {
    /// UID of the pod.
    pub uid: String,
    pod: Mutex<Arc<Object>>,
    dir: PathBuf,
    state: Mutex<State>,
    syncing: Mutex<()>,
    changed: Notify,
    end: watch::Sender<Option<End>>,
    /// For how many seconds the pod may be active.
    deadline: watch::Sender<Option<i64>>,
    /// The sidecars from this place on have to stop, because those that they serve have ended.
    over: watch::Sender<Option<usize>>,
    lost: AtomicBool,
}

impl PodRun {
    /// A run that has not begun.
    pub(crate) fn new(sim: &Sim, pod: Arc<Object>) -> Arc<Self> {
        let inits = list_at(&pod.value, "/spec/initContainers");
        let mains = list_at(&pod.value, "/spec/containers");
        let reason = if inits.is_empty() { "ContainerCreating" } else { "PodInitializing" };
        let all = inits.iter().map(|c| (c, true)).chain(mains.iter().map(|c| (c, false)));
        let containers = all
            .map(|(c, init)| Container {
                image: str_at(c, "/image").to_string(),
                log: Arc::new(LogBuffer::new(lock(&sim.settings).rotation())),
                ..Container::waiting(
                    str_at(c, "/name"),
                    init,
                    init && str_at(c, "/restartPolicy") == "Always",
                    reason,
                )
            })
            .collect();
        Arc::new(PodRun {
            uid: pod.uid.clone(),
            deadline: watch::channel(int_at(&pod.value, "/spec/activeDeadlineSeconds")).0,
            dir: sim.kubelet.dir.join("pods").join(&pod.uid),
            pod: Mutex::new(pod),
            state: Mutex::new(State { containers, ..State::default() }),
            syncing: Mutex::new(()),
            changed: Notify::new(),
            end: watch::channel(None).0,
            over: watch::channel(None).0,
            lost: AtomicBool::new(false),
        })
    }

    fn pod(&self) -> Arc<Object> {
        lock(&self.pod).clone()
    }

    /// Asks the pod to stop. A stronger reason replaces a weaker one, and a shorter grace a longer one.
    pub(crate) fn end(&self, end: End) {
        self.lost.fetch_or(end.kind == EndKind::Lost, Ordering::SeqCst);
        self.end.send_if_modified(|now| {
            let wins = now.as_ref().is_none_or(|old| {
                let (a, b) = (old.kind.rank(), end.kind.rank());
                b > a || a == b && end.grace < old.grace
            });
            if wins {
                *now = Some(end);
            }
            wins
        });
    }

    /// The log of a container.
    pub(crate) fn log(&self, container: &str) -> Option<Arc<LogBuffer>> {
        lock(&self.state).containers.iter().find(|c| c.name == container).map(|c| c.log.clone())
    }

    /// Changes when logs are rotated.
    pub(crate) fn set_log_rotation(&self, rotation: &Rotation) {
        for c in &lock(&self.state).containers {
            c.log.set_rotation(rotation);
        }
    }

    /// Live processes.
    pub(crate) fn processes(&self) -> Vec<Value> {
        let pod = self.pod();
        lock(&self.state)
            .containers
            .iter()
            .filter_map(|c| {
                let pid = c.group?;
                Some(json!({
                    "namespace": pod.namespace, "pod": pod.name, "container": c.name,
                    "pid": pid, "processGroup": pid, "startedAt": c.started_at,
                }))
            })
            .collect()
    }

    /// Sends a signal to a running container; the empty name is the first one running.
    pub(crate) fn signal(&self, container: &str, name: Signal, oom: bool) -> Option<String> {
        let mut state = lock(&self.state);
        let c = state
            .containers
            .iter_mut()
            .find(|c| c.group.is_some() && (container.is_empty() || c.name == container))?;
        c.oom |= oom;
        if let Some(group) = c.group {
            signal(group, name);
        }
        Some(c.name.clone())
    }

    fn stop_requested(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Whether a container has to stop, with its pod or before it.
    fn must_stop(&self, index: usize) -> bool {
        self.stop_requested() || self.is_unneeded(index)
    }

    /// Whether a container is a sidecar of which nobody is left that it serves.
    fn is_unneeded(&self, index: usize) -> bool {
        self.over.borrow().is_some_and(|from| from <= index)
            && lock(&self.state).containers.get(index).is_some_and(|c| c.sidecar)
    }

    async fn pause(&self, ms: u64) -> Result<(), Stopped> {
        self.pause_in(NO_CONTAINER, ms).await
    }

    /// Lets time pass in the life of a container.
    async fn pause_in(&self, index: usize, ms: u64) -> Result<(), Stopped> {
        let (mut end, mut over) = (self.end.subscribe(), self.over.subscribe());
        let until = Instant::now() + Duration::from_millis(ms);
        loop {
            if self.must_stop(index) {
                return Err(Stopped);
            }
            if Instant::now() >= until {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                _ = end.changed() => {}
                _ = over.changed() => {}
            }
        }
    }

    /// Runs the pod until its object is gone.
    pub(crate) async fn life(self: &Arc<Self>, sim: &Arc<Sim>) {
        tokio::select! {
            () = self.live(sim) => {}
            () = self.report_changes(sim) => {}
        }
        self.close_logs(sim);
        let dir = self.dir.clone();
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir)).await;
    }

    /// Writes what has changed when the kubelet next looks at its containers.
    async fn report_changes(&self, sim: &Sim) {
        loop {
            self.changed.notified().await;
            sim.kubelet.next_look(sim).await;
            self.write(sim);
        }
    }

    async fn live(self: &Arc<Self>, sim: &Arc<Sim>) {
        let natural = self.stages(sim).await.is_ok();
        self.close(sim, natural);
        let mut end = self.end.subscribe();
        loop {
            let now = end.borrow_and_update().clone();
            match now {
                None => {}
                Some(e) => match e.kind {
                    EndKind::Failed { .. } => {
                        if !natural {
                            self.note_failure();
                            self.write(sim);
                        }
                    }
                    EndKind::Lost => {}
                    EndKind::Deleted => {
                        sim.kubelet.awake().await;
                        self.write(sim);
                        self.remove(sim);
                    }
                    EndKind::Gone => break,
                },
            }
            if end.changed().await.is_err() {
                break;
            }
        }
    }

    fn note_failure(&self) {
        if let Some(End { kind: EndKind::Failed { reason, message, disrupted }, .. }) = &*self.end.borrow() {
            let mut state = lock(&self.state);
            if state.failed.is_none() {
                state.failed = Some((reason.clone(), message.clone()));
                state.disrupted = *disrupted;
            }
        }
    }

    fn close_logs(&self, sim: &Sim) {
        // The streams of a lost node do not end.
        if !self.lost.load(Ordering::SeqCst) {
            let check = lock(&sim.settings).log_check();
            for c in &lock(&self.state).containers {
                c.log.close(check);
            }
        }
    }

    /// Deletes a pod for good, once nothing of it runs.
    fn remove(&self, sim: &Sim) {
        let pod = self.pod();
        let options = DeleteOptions { grace: Some(0), ..DeleteOptions::background(&pod) };
        let _ = ops::delete(sim, &POD, &pod.namespace, &pod.name, &options);
    }

    fn same(&self, now: &Object) -> ApiResult<()> {
        if now.uid == self.uid { Ok(()) } else { Err(ApiError::not_found(&POD, &now.name)) }
    }

    /// Reports the end of a pod of which no container runs any more.
    fn close(&self, sim: &Sim, natural: bool) {
        if lock(&self.state).start_time.is_empty() {
            return;
        }
        // Why a container waited is forgotten as soon as its pod is ended.
        if !natural && report::forget_reasons(&mut lock(&self.state)) {
            self.write(sim);
        }
        report::close(&mut lock(&self.state));
        // What a pod looks like that is ended is written when its end is.
        if natural {
            self.sync(sim);
        }
    }

    /// Records an Event about the pod.
    fn emit(&self, sim: &Sim, normal: bool, reason: &str, message: &str) {
        sim.store.emit(&self.pod(), normal, reason, message, "kubelet");
    }

    /// Records an Event about one of its containers.
    fn emit_of(&self, sim: &Sim, index: usize, normal: bool, reason: &str, message: &str) {
        let field = lock(&self.state).containers.get(index).map_or_else(String::new, Container::field);
        sim.store.emit_field(&self.pod(), &field, normal, reason, message, "kubelet");
    }

    async fn stages(self: &Arc<Self>, sim: &Arc<Sim>) -> Result<(), Stopped> {
        self.schedule(sim).await?;
        sim.kubelet.awake().await;
        let pod = self.pod();
        {
            let mut state = lock(&self.state);
            state.start_time = time::now();
            state.address = sim.kubelet.address();
        }
        if str_at(
            &pod.value["metadata"]["annotations"],
            &format!("/{}", STATIC_ANNOTATION.replace('/', "~1")),
        ) == "true"
        {
            return self.stand_in(sim).await;
        }
        self.write(sim);
        self.watch_deadline();
        self.watch_storage(sim, &pod.value);
        self.set_up_volumes(sim).await?;
        lock(&self.state).sandbox = true;
        let mut sidecars = Vec::new();
        let outcome = self.containers(sim, &mut sidecars).await;
        self.end_sidecars(sidecars).await;
        outcome
    }

    /// Runs the init containers one after the other, then all others; sidecars go on meanwhile.
    async fn containers(
        self: &Arc<Self>,
        sim: &Arc<Sim>,
        sidecars: &mut Vec<Sidecar>,
    ) -> Result<(), Stopped> {
        let kinds: Vec<(bool, bool)> =
            lock(&self.state).containers.iter().map(|c| (c.init, c.sidecar)).collect();
        for (i, _) in kinds.iter().enumerate().filter(|(_, (init, _))| *init) {
            if kinds[i].1 {
                let (run, sim) = (self.clone(), sim.clone());
                let task = tokio::spawn(async move { run.container(&sim, i).await.map_or((), drop) });
                sidecars.push(Sidecar { index: i, task });
                self.started_sidecar(i).await?;
            } else if self.container(sim, i).await? != 0 {
                self.sync(sim);
                return Ok(());
            }
        }
        lock(&self.state).initialized = true;
        let mut tasks = tokio::task::JoinSet::new();
        for (i, _) in kinds.iter().enumerate().filter(|(_, (init, _))| !*init) {
            let (run, sim) = (self.clone(), sim.clone());
            tasks.spawn(async move { run.container(&sim, i).await.map_err(drop) });
        }
        let mut stopped = false;
        while let Some(done) = tasks.join_next().await {
            stopped |= !matches!(done, Ok(Ok(_)));
        }
        if stopped { Err(Stopped) } else { Ok(()) }
    }

    /// Waits until a sidecar has started, however often it is started again before.
    async fn started_sidecar(&self, index: usize) -> Result<(), Stopped> {
        let id = || {
            let state = lock(&self.state);
            let c = state.containers.get(index)?;
            c.state.get("running").is_some().then(|| c.id.clone())
        };
        loop {
            let before = id();
            self.pause(if before.is_some() { SIDECAR_STARTED_MS } else { 20 }).await?;
            if before.is_some() && before == id() {
                return Ok(());
            }
        }
    }

    /// Ends the sidecars, the last one first.
    async fn end_sidecars(&self, sidecars: Vec<Sidecar>) {
        for Sidecar { index, task } in sidecars.into_iter().rev() {
            self.over.send_replace(Some(index));
            let _ = task.await;
        }
    }

    /// Waits until the pod has no scheduling gate left.
    async fn gates(&self, sim: &Sim) -> Result<(), Stopped> {
        loop {
            let pod = self.pod();
            if list_at(&pod.value, "/spec/schedulingGates").is_empty() {
                return Ok(());
            }
            self.pause(50).await?;
            if let Some(now) = sim.store.get(&POD, &pod.namespace, &pod.name).filter(|p| p.uid == self.uid) {
                *lock(&self.pod) = now;
            }
        }
    }

    async fn schedule(&self, sim: &Sim) -> Result<(), Stopped> {
        let pod = self.pod();
        if !str_at(&pod.value, "/spec/nodeName").is_empty() {
            return Ok(());
        }
        self.gates(sim).await?;
        let delay = lock(&sim.settings).scheduling_delay_ms;
        self.pause(delay).await?;
        let mut reported = String::new();
        loop {
            let problem = unschedulable(sim, &pod.value);
            if problem.as_deref() != Some(reported.as_str()) {
                let bound = bind(sim, &pod, problem.as_deref()).map_err(|_| Stopped)?;
                let (normal, reason, message) = match &problem {
                    None => (
                        true,
                        "Scheduled",
                        format!("Successfully assigned {}/{} to {NODE_NAME}", pod.namespace, pod.name),
                    ),
                    Some(m) => (false, "FailedScheduling", m.clone()),
                };
                sim.store.emit(&pod, normal, reason, &message, "default-scheduler");
                if problem.is_none() {
                    *lock(&self.pod) = bound;
                    return Ok(());
                }
            }
            preempt(sim, &pod);
            reported = problem.unwrap_or_default();
            self.pause(100).await?;
        }
    }

    async fn stand_in(&self, sim: &Sim) -> Result<(), Stopped> {
        {
            let mut state = lock(&self.state);
            state.sandbox = true;
            state.initialized = true;
            for c in &mut state.containers {
                c.id = format!("containerd://{}", hex(64));
                c.ready = true;
                c.state = if c.init {
                    json!({"terminated": {"exitCode": 0, "reason": "Completed", "containerID": c.id,
                        "startedAt": time::now(), "finishedAt": time::now()}})
                } else {
                    json!({"running": {"startedAt": time::now()}})
                };
            }
        }
        self.sync(sim);
        let mut end = self.end.subscribe();
        while !self.stop_requested() {
            if end.changed().await.is_err() {
                break;
            }
        }
        Err(Stopped)
    }

    /// The pod's deadline, as its object has it now: it may be set or brought forward while the pod runs.
    pub(super) fn see_deadline(&self, pod: &Value) {
        let now = int_at(pod, "/spec/activeDeadlineSeconds");
        self.deadline.send_if_modified(|known| std::mem::replace(known, now) != now);
    }

    fn watch_deadline(self: &Arc<Self>) {
        let began = Instant::now();
        let mut deadline = self.deadline.subscribe();
        let run = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                let seconds = deadline.borrow_and_update().map(|seconds| u64::try_from(seconds).unwrap_or(0));
                let over = async {
                    match seconds {
                        Some(seconds) => tokio::time::sleep_until(began + Duration::from_secs(seconds)).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = over => break,
                    changed = deadline.changed() => if changed.is_err() { return },
                }
            }
            if let Some(run) = run.upgrade() {
                run.end(End::failed(
                    "DeadlineExceeded",
                    "Pod was active on the node longer than the specified deadline",
                    Duration::from_secs(30),
                ));
            }
        });
    }

    /// Evicts the pod when it exceeds a limit of local storage. A kubelet says of no such pod that it was disrupted.
    fn watch_storage(self: &Arc<Self>, sim: &Arc<Sim>, pod: &Value) {
        let Some(limits) = Limits::of(pod).map(Arc::new) else { return };
        let (run, sim) = (Arc::downgrade(self), sim.clone());
        tokio::spawn(async move {
            loop {
                let time = lock(&sim.settings).storage_check_ms;
                tokio::time::sleep(Duration::from_millis(time)).await;
                sim.kubelet.awake().await;
                let Some(run) = run.upgrade().filter(|run| !run.stop_requested() && !run.is_over()) else {
                    return;
                };
                let (looking, limits) = (run.clone(), limits.clone());
                let look = move || {
                    let size = |name: &str| looking.log(name).map_or(0, |log| log.size());
                    limits.exceeded(&looking.dir, size)
                };
                let Ok(Some(message)) = tokio::task::spawn_blocking(look).await else { continue };
                run.emit(&sim, false, "Evicted", &message);
                run.end(End::failed("Evicted", &message, Duration::from_secs(1)));
                return;
            }
        });
    }

    /// Whether every container has ended for good.
    fn is_over(&self) -> bool {
        let pod = self.pod();
        let policy = str_at(&pod.value, "/spec/restartPolicy");
        matches!(report::phase(&lock(&self.state), policy, false), "Succeeded" | "Failed")
    }

    async fn set_up_volumes(&self, sim: &Sim) -> Result<(), Stopped> {
        let pod = self.pod();
        let mut reported = String::new();
        loop {
            let done = volumes::set_up(&sim.store, &sim.kubelet.dir, &self.dir, &pod.value);
            match done {
                Ok(()) => return Ok(()),
                Err(why) => {
                    if why != reported {
                        self.emit(sim, false, "FailedMount", &why);
                        reported = why;
                    }
                }
            }
            self.pause(200).await?;
        }
    }

    fn change(&self, sim: &Sim, index: usize, change: impl FnOnce(&mut Container)) {
        if let Some(c) = lock(&self.state).containers.get_mut(index) {
            change(c);
        }
        self.sync(sim);
    }

    fn wait_for(&self, sim: &Sim, index: usize, reason: &str, message: &str) {
        self.change(sim, index, |c| {
            c.state = json!({"waiting": {"reason": reason}});
            if !message.is_empty() {
                c.state["waiting"]["message"] = message.into();
            }
        });
    }

    /// Runs one container to its end, restarting it as the policy says. Returns its last exit code.
    async fn container(&self, sim: &Arc<Sim>, index: usize) -> Result<i32, Stopped> {
        let pod = self.pod();
        let inits = list_at(&pod.value, "/spec/initContainers");
        let spec = inits
            .get(index)
            .or_else(|| list_at(&pod.value, "/spec/containers").get(index - inits.len().min(index)))
            .cloned()
            .unwrap_or(Value::Null);
        let name = str_at(&spec, "/name").to_string();
        let policy = str_at(&pod.value, "/spec/restartPolicy").to_string();
        let init = index < inits.len();
        let sidecar = init && str_at(&spec, "/restartPolicy") == "Always";
        let mut backoff = lock(&sim.settings).crash_loop_backoff_ms;
        loop {
            sim.kubelet.awake().await;
            self.pull(sim, index, &spec).await?;
            let env = self.environment(sim, index, &pod.value, &spec).await?;
            let delay = lock(&sim.settings).pod_start_delay_ms;
            self.pause_in(index, delay).await?;
            let begun = Instant::now();
            let code = self.execute(sim, index, &pod, &spec, env).await;
            if self.must_stop(index) {
                return Err(Stopped);
            }
            let again = match policy.as_str() {
                _ if sidecar => true,
                "Never" => false,
                "Always" => !init || code != 0,
                _ => code != 0,
            };
            if !again {
                return Ok(code);
            }
            // The kubelet forgives a container that ran for ten minutes.
            if begun.elapsed() > Duration::from_secs(600) {
                backoff = lock(&sim.settings).crash_loop_backoff_ms;
            }
            let place = format!("{}_{}({})", pod.name, pod.namespace, pod.uid);
            let message = format!(
                "back-off {}s restarting failed container={name} pod={place}",
                backoff.div_ceil(1000)
            );
            // The first restart comes at once.
            let restarts = lock(&self.state).containers.get(index).map_or(0, |c| c.restarts);
            let last = |c: &mut Container| {
                c.last = c.state.clone();
                c.restarts += 1;
            };
            if restarts > 0 {
                self.change(sim, index, |c| {
                    last(c);
                    c.state = json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}});
                });
                let text = format!("Back-off restarting failed container {name} in pod {place}");
                self.emit_of(sim, index, false, "BackOff", &text);
                self.pause_in(index, backoff).await?;
                backoff = (backoff * 2).min(300_000);
            } else {
                self.change(sim, index, last);
            }
            let rotation = lock(&sim.settings).rotation();
            self.change(sim, index, |c| c.log = Arc::new(LogBuffer::new(rotation)));
        }
    }

    async fn pull(&self, sim: &Sim, index: usize, spec: &Value) -> Result<(), Stopped> {
        let image = str_at(spec, "/image");
        let policy = str_at(spec, "/imagePullPolicy");
        let name = str_at(spec, "/name");
        let broken = || lock(&sim.settings).cannot_pull(image) || sim.kubelet.image_fails(&self.pod(), name);
        // A node has the images that take no time to pull.
        let delay = lock(&sim.settings).image_pull_delay_ms;
        let present = delay == 0 || lock(&sim.kubelet.pulled).contains(image);
        if policy == "Never" && !broken() || present && policy != "Always" && !broken() {
            let text = format!(
                "Container image {image:?} already present on machine and can be accessed by the pod"
            );
            self.emit_of(sim, index, true, "Pulled", &text);
            return Ok(());
        }
        let mut wait = lock(&sim.settings).image_pull_backoff_ms;
        while broken() {
            if policy == "Never" {
                let text = format!("Container image {image:?} is not present with pull policy of Never");
                self.wait_for(sim, index, "ErrImageNeverPull", &text);
                self.emit_of(sim, index, false, "ErrImageNeverPull", &text);
                self.pause_in(index, wait).await?;
                continue;
            }
            self.emit_of(sim, index, true, "Pulling", &format!("Pulling image {image:?}"));
            let delay = lock(&sim.settings).image_pull_delay_ms;
            self.pause_in(index, delay).await?;
            let rpc = pull_error(&full_image(image));
            let text = format!("Failed to pull image {image:?}: {rpc}");
            self.emit_of(sim, index, false, "Failed", &text);
            self.emit_of(sim, index, false, "Failed", "Error: ErrImagePull");
            self.wait_for(sim, index, "ErrImagePull", &rpc);
            self.pause_in(index, (wait / 4).min(2000)).await?;
            let back = format!("Back-off pulling image {image:?}");
            self.emit_of(sim, index, true, "BackOff", &back);
            self.emit_of(sim, index, false, "Failed", "Error: ImagePullBackOff");
            let text = format!("{back}: ErrImagePull: {rpc}");
            self.wait_for(sim, index, "ImagePullBackOff", &text);
            let until = Instant::now() + Duration::from_millis(wait);
            while Instant::now() < until && broken() {
                self.pause_in(index, wait.min(200)).await?;
            }
            wait = (wait * 2).min(300_000);
        }
        self.emit_of(sim, index, true, "Pulling", &format!("Pulling image {image:?}"));
        let delay = if present { 0 } else { lock(&sim.settings).image_pull_delay_ms };
        self.pause_in(index, delay).await?;
        lock(&sim.kubelet.pulled).insert(image.to_string());
        let text = format!(
            "Successfully pulled image {image:?} in {delay}ms ({delay}ms including waiting). Image size: 1000000 bytes."
        );
        self.emit_of(sim, index, true, "Pulled", &text);
        Ok(())
    }

    async fn environment(
        &self,
        sim: &Sim,
        index: usize,
        pod: &Value,
        spec: &Value,
    ) -> Result<env::Env, Stopped> {
        let mut reported = String::new();
        let mut view = pod.clone();
        view["status"]["podIP"] = lock(&self.state).address.as_str().into();
        loop {
            match env::build(&sim.store, &view, spec) {
                Ok(env) => return Ok(env),
                Err(why) => {
                    if reported != why {
                        self.wait_for(sim, index, "CreateContainerConfigError", &why);
                        self.emit_of(sim, index, false, "Failed", &format!("Error: {why}"));
                        reported = why;
                    }
                }
            }
            self.pause_in(index, 200).await?;
        }
    }

    async fn execute(&self, sim: &Sim, index: usize, pod: &Object, spec: &Value, env: env::Env) -> i32 {
        let texts = |p: &str| -> Vec<String> {
            list_at(spec, p).iter().filter_map(|v| v.as_str().map(str::to_string)).collect()
        };
        let mut words = texts("/command");
        words.extend(texts("/args"));
        let name = str_at(spec, "/name");
        let id = format!("containerd://{}", hex(64));
        let log = lock(&self.state).containers.get(index).map(|c| c.log.clone());
        let Some(log) = log else { return 1 };
        self.emit_of(sim, index, true, "Created", "Container created");
        if let Some(script) = emit::of(&pod.value, spec, &words, &env) {
            return match script {
                Ok(script) => self.generate(sim, index, &id, &log, &script).await,
                Err(why) => self.start_failed(sim, index, &id, &why),
            };
        }
        let command = match self.command(sim, pod, spec, &words, env) {
            Ok(c) => c,
            Err(why) => return self.start_failed(sim, index, &id, &why),
        };
        let mut child = match sim.kubelet.spawner.spawn(command).await {
            Ok(c) => c,
            Err(e) => {
                let why = match e.raw_os_error() {
                    Some(nix::libc::E2BIG) => "argument list too long".to_string(),
                    Some(nix::libc::ENOENT) => format!(
                        "exec: {:?}: executable file not found in $PATH",
                        words.first().map_or("", String::as_str)
                    ),
                    Some(nix::libc::EACCES) => {
                        format!("exec: {:?}: permission denied", words.first().map_or("", String::as_str))
                    }
                    _ => e.to_string(),
                };
                return self.start_failed(sim, index, &id, &why);
            }
        };
        let group = child.id().unwrap_or(0);
        let out = child.stdout.take().map(|s| Pump::start(s, log.clone()));
        let err = child.stderr.take().map(|s| Pump::start(s, log.clone()));
        self.started(sim, index, name, &id, Some(group));
        let status = self.attend(sim, index, &mut child, group).await;
        sim.kubelet.spawner.reap(group);
        for pump in [out, err].into_iter().flatten() {
            pump.finish().await;
        }
        let code = status.map_or(137, |s| s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(9)));
        self.ended(sim, index, code, &log);
        code
    }

    fn command(
        &self,
        sim: &Sim,
        pod: &Object,
        spec: &Value,
        words: &[String],
        env: env::Env,
    ) -> Result<std::process::Command, String> {
        let mounts = volumes::mounts(&sim.kubelet.dir, &self.dir, &pod.value, spec, &env);
        let root = self.dir.join("root").join(str_at(spec, "/name"));
        let mut env = env::Env(
            env.0
                .into_iter()
                .map(|(n, v)| {
                    let v = mounts.rewrite_value(&v);
                    (n, v)
                })
                .collect(),
        );
        env.set("PATH", sim.kubelet.path(env.get("PATH")));
        if env.get("HOSTNAME").is_none() {
            // A hostname has at most 63 characters.
            let name: String = pod.name.chars().take(63).collect();
            env.set("HOSTNAME", name.trim_end_matches(['-', '.']).to_string());
        }
        let words: Vec<String> = words.iter().map(|w| env::expand(&mounts.rewrite(w), &env)).collect();
        let (first, rest) = words.split_first().ok_or("no command specified")?;
        let work = str_at(spec, "/workingDir");
        let work = mounts.resolve(work.trim_end_matches('/')).unwrap_or_else(|| paths::below(&root, work));
        std::fs::create_dir_all(&work).map_err(|e| e.to_string())?;
        let mut command = std::process::Command::new(first);
        command.args(rest).env_clear().envs(env.0.iter().map(|(n, v)| (n, v))).current_dir(work);
        Ok(command)
    }

    /// Waits for a container's process, and ends it when its time has come.
    async fn attend(
        &self,
        sim: &Sim,
        index: usize,
        child: &mut tokio::process::Child,
        group: u32,
    ) -> std::io::Result<std::process::ExitStatus> {
        let (mut end, mut over) = (self.end.subscribe(), self.over.subscribe());
        end.mark_changed();
        over.mark_changed();
        let (name, sidecar) = {
            let state = lock(&self.state);
            state.containers.get(index).map_or_else(Default::default, |c| (c.name.clone(), c.sidecar))
        };
        let mut asked = false;
        let mut told = false;
        let mut deadline = None;
        let mut kill_at = None;
        loop {
            let now = tokio::select! {
                status = child.wait() => return status,
                _ = end.changed() => end.borrow_and_update().clone(),
                _ = over.changed() => {
                    over.borrow_and_update();
                    end.borrow().clone()
                }
                () = sleep_until(kill_at) => {
                    signal(group, Signal::SIGKILL);
                    kill_at = None;
                    continue;
                }
            };
            let grace = match &now {
                Some(e) if e.kind == EndKind::Lost => {
                    signal(group, Signal::SIGSTOP);
                    continue;
                }
                Some(e) => Some(e.grace),
                None => self.is_unneeded(index).then(|| self.own_grace()),
            };
            let Some(grace) = grace else { continue };
            let gone = now.is_some_and(|e| e.kind == EndKind::Gone);
            if !told && !gone {
                self.emit_of(sim, index, true, "Killing", &format!("Stopping container {name}"));
                told = true;
            }
            // A sidecar is asked only when those that it serves have ended, and then has two seconds at least.
            let turn = !sidecar || gone || self.is_unneeded(index);
            let now = Instant::now();
            let due = deadline.map_or(now + grace, |at: Instant| at.min(now + grace));
            deadline = Some(due);
            if turn && !asked && !gone {
                signal(group, Signal::SIGCONT);
                if lock(&sim.settings).signals_as_first_process {
                    signal_first(group, Signal::SIGTERM);
                } else {
                    signal(group, Signal::SIGTERM);
                }
                if sidecar {
                    deadline = Some(due.max(now + MINIMUM_GRACE));
                }
            }
            asked |= turn;
            kill_at = deadline.filter(|_| turn);
        }
    }

    /// How long the pod's containers are given to end.
    fn own_grace(&self) -> Duration {
        let secs = int_at(&self.pod().value, "/spec/terminationGracePeriodSeconds").unwrap_or(30);
        Duration::from_secs(u64::try_from(secs).unwrap_or(0))
    }

    async fn generate(&self, sim: &Sim, index: usize, id: &str, log: &LogBuffer, script: &Script) -> i32 {
        self.started(sim, index, "", id, None);
        let (mut end, mut over) = (self.end.subscribe(), self.over.subscribe());
        let stop = async {
            while !self.must_stop(index) {
                tokio::select! {
                    _ = end.changed() => {}
                    _ = over.changed() => {}
                }
            }
        };
        let code = tokio::select! {
            () = script.run(log, &sim.load.lateness) => script.exit_code,
            () = stop => 143,
        };
        if lock(&self.state).containers.get(index).is_some_and(|c| !c.init) {
            sim.load.exited(&self.pod(), code == 0, time::now_ns());
        }
        self.ended(sim, index, code, log);
        code
    }

    fn started(&self, sim: &Sim, index: usize, name: &str, id: &str, group: Option<u32>) {
        self.change(sim, index, |c| {
            c.id = id.to_string();
            c.group = group;
            c.oom = false;
            c.ready = !c.init || c.sidecar;
            c.started_at = time::now();
            c.state = json!({"running": {"startedAt": c.started_at}});
        });
        if !name.is_empty() {
            self.emit_of(sim, index, true, "Started", "Container started");
        }
    }

    fn ended(&self, sim: &Sim, index: usize, code: i32, log: &LogBuffer) {
        self.note_failure();
        self.change(sim, index, |c| {
            let reason = match (c.oom, code) {
                (true, _) => "OOMKilled",
                (false, 0) => "Completed",
                _ => "Error",
            };
            c.ready = c.init && !c.sidecar && code == 0;
            c.group = None;
            c.state = json!({"terminated": {
                "exitCode": code, "reason": reason, "startedAt": c.started_at,
                "finishedAt": time::now(), "containerID": c.id,
            }});
        });
        if !self.lost.load(Ordering::SeqCst) {
            log.close(lock(&sim.settings).log_check());
        }
    }

    fn start_failed(&self, sim: &Sim, index: usize, id: &str, why: &str) -> i32 {
        let message = format!(
            "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: {why}: unknown"
        );
        self.emit_of(sim, index, false, "Failed", &format!("Error: {message}"));
        let mut log = None;
        self.change(sim, index, |c| {
            c.id = id.to_string();
            c.ready = false;
            c.state = json!({"terminated": {
                "exitCode": 128, "reason": "StartError", "message": message,
                "startedAt": "1970-01-01T00:00:00Z", "finishedAt": time::now(), "containerID": id,
            }});
            log = Some(c.log.clone());
        });
        if let Some(log) = log {
            log.close(lock(&sim.settings).log_check());
        }
        128
    }

    /// The pod has changed: its status is written at once, or when the kubelet next looks at its containers. That of a
    /// pod that is being ended is written when nothing of it runs any more.
    fn sync(&self, sim: &Sim) {
        if lock(&sim.settings).kubelet_relist_ms == 0 {
            self.write(sim);
        } else if !self.stop_requested() {
            self.changed.notify_one();
        }
    }

    /// The phase as it is to be written. A final one is written only when no container runs; by a kubelet that looks at
    /// its containers from time to time, only after their ends.
    fn phase_to_write(&self, sim: &Sim, state: &mut State, policy: &str) -> &'static str {
        let ending = self.stop_requested();
        let phase = report::phase(state, policy, ending);
        if matches!(phase, "Pending" | "Running") {
            return phase;
        }
        let runs = state.containers.iter().any(|c| c.state.get("running").is_some());
        if !runs {
            let first = !std::mem::replace(&mut state.ends_known, true);
            if !first || ending || lock(&sim.settings).kubelet_relist_ms == 0 {
                return phase;
            }
            self.changed.notify_one();
        }
        if state.initialized { "Running" } else { "Pending" }
    }

    /// Writes what is known about the pod into its status, unless the kubelet is paused: then it does so when it goes
    /// on. A pod that has not been scheduled is none of its own.
    pub(crate) fn write(&self, sim: &Sim) {
        let _turn = lock(&self.syncing);
        if sim.kubelet.is_paused() || lock(&self.state).start_time.is_empty() {
            return;
        }
        if matches!(&*self.end.borrow(), Some(e) if matches!(e.kind, EndKind::Lost | EndKind::Gone)) {
            return;
        }
        let pod = self.pod();
        let policy = str_at(&pod.value, "/spec/restartPolicy");
        let mut state = lock(&self.state);
        let phase = self.phase_to_write(sim, &mut state, policy);
        let state = state;
        let (init_statuses, statuses) = (report::statuses(&state, true), report::statuses(&state, false));
        let (unready, pending) = (unready(&state), incomplete(&state));
        let ready = phase == "Running" && unready.is_empty();
        let terminal = matches!(phase, "Succeeded" | "Failed");
        if terminal {
            sim.kubelet.reservations.remove(&self.uid);
        }
        let _ = sim.store.update(&POD, &pod.namespace, &pod.name, |v, now| {
            self.same(now)?;
            let s = &mut v["status"];
            s["phase"] = phase.into();
            s["hostIP"] = "127.0.0.1".into();
            s["hostIPs"] = json!([{"ip": "127.0.0.1"}]);
            s["startTime"] = state.start_time.as_str().into();
            if state.sandbox {
                s["podIP"] = state.address.as_str().into();
                s["podIPs"] = json!([{"ip": state.address}]);
            }
            if let Some((reason, message)) = state.failed.as_ref().filter(|_| terminal) {
                if state.disrupted {
                    set_condition(s, "DisruptionTarget", true, "TerminationByKubelet", message);
                }
                s["reason"] = reason.as_str().into();
                s["message"] = message.as_str().into();
            }
            if !init_statuses.is_empty() {
                s["initContainerStatuses"] = init_statuses.into();
            }
            s["containerStatuses"] = statuses.into();
            if state.sandbox && !terminal {
                set_condition(s, "PodReadyToStartContainers", true, "", "");
            } else {
                let text = "pod sandbox is not ready";
                set_condition(s, "PodReadyToStartContainers", false, "PodSandboxNotReady", text);
            }
            let done = if phase == "Succeeded" { "PodCompleted" } else { "" };
            if pending.is_empty() || state.initialized {
                set_condition(s, "Initialized", true, done, "");
            } else {
                let text = format!("containers with incomplete status: [{}]", pending.join(" "));
                set_condition(s, "Initialized", false, "ContainersNotInitialized", &text);
            }
            let text = format!("containers with unready status: [{}]", unready.join(" "));
            for kind in ["Ready", "ContainersReady"] {
                if ready {
                    set_condition(s, kind, true, "", "");
                } else if phase == "Succeeded" {
                    set_condition(s, kind, false, "PodCompleted", "");
                } else if phase == "Failed" {
                    set_condition(s, kind, false, "PodFailed", "");
                } else {
                    set_condition(s, kind, false, "ContainersNotReady", &text);
                }
            }
            set_condition(s, "PodScheduled", true, "", "");
            s["observedGeneration"] = now.value["metadata"]["generation"].clone();
            for kind in KUBELET_CONDITIONS {
                observe(v, kind);
            }
            Ok(())
        });
    }
}

pub(super) fn full_image(image: &str) -> String {
    let first = image.split('/').next().unwrap_or("");
    if image.contains('/') && (first.contains('.') || first.contains(':') || first == "localhost") {
        image.to_string()
    } else if image.contains('/') {
        format!("docker.io/{image}")
    } else {
        format!("docker.io/library/{image}")
    }
}

/// Why an image cannot be pulled: its registry does not have it, or does not answer where it would be on this machine.
fn pull_error(full: &str) -> String {
    let pull = format!("failed to pull and unpack image \"{full}\"");
    match full.split_once('/') {
        Some((registry, path)) if registry.starts_with("127.0.0.1:") => {
            let (repository, tag) = path.rsplit_once(':').unwrap_or((path, "latest"));
            format!(
                "{pull}: failed to resolve image: failed to do request: Head \
                 \"https://{registry}/v2/{repository}/manifests/{tag}\": dial tcp {registry}: connect: connection refused"
            )
        }
        _ => format!(
            "rpc error: code = NotFound desc = {pull}: failed to resolve reference \"{full}\": {full}: not found"
        ),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What reads an output of a container.
struct Pump {
    task: tokio::task::JoinHandle<()>,
    give_up: Arc<Notify>,
}

impl Pump {
    fn start(from: impl tokio::io::AsyncRead + AsFd + Unpin + Send + 'static, log: Arc<LogBuffer>) -> Self {
        let give_up = Arc::new(Notify::new());
        Pump { task: tokio::spawn(pump(from, log, give_up.clone())), give_up }
    }

    /// Waits until the output of a container that has ended was read. A process that left the container's group may hold
    /// it open: after a while what is there is read and no more is waited for. What the container wrote is there by then,
    /// however long this process had no processor to read it.
    async fn finish(mut self) {
        if tokio::time::timeout(Duration::from_secs(2), &mut self.task).await.is_err() {
            self.give_up.notify_one();
            let _ = self.task.await;
        }
    }
}

async fn pump(mut from: impl tokio::io::AsyncRead + AsFd + Unpin, log: Arc<LogBuffer>, give_up: Arc<Notify>) {
    let mut splitter = Splitter::default();
    let mut chunks: Vec<Chunk> = Vec::new();
    loop {
        if splitter.buffer.capacity() - splitter.buffer.len() < 8192 {
            splitter.buffer.reserve(64 * 1024);
        }
        let read = tokio::select! {
            biased;
            read = from.read_buf(&mut splitter.buffer) => read,
            () = give_up.notified() => {
                let mut bytes = [0; 8192];
                // The pipe does not block.
                while let Ok(n @ 1..) = nix::unistd::read(&from, &mut bytes) {
                    splitter.buffer.extend_from_slice(&bytes[..n]);
                }
                splitter.split(&mut chunks);
                break;
            }
        };
        match read {
            Ok(n) if n > 0 => splitter.split(&mut chunks),
            _ => break,
        }
        log.push(&mut chunks);
    }
    splitter.finish(&mut chunks);
    log.push(&mut chunks);
}
