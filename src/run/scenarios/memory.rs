//! A cluster in memory whose pods follow a script. What an object looks like is computed from the clock at the
//! moment it is read, so that under a paused clock hours pass at once and nothing depends on task order.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::{
    AccessQuestion, ApiError, ApiErrorKind, Cluster, Clusters, LogBody, LogQuery, WatchBody, WatchKind,
    WatchQuery, log_of,
};
use crate::manifest::LABEL_AGENT_ID;

/// Seconds since 1970 of the moment a cluster is made: 2026-01-01T00:00:00Z.
const EPOCH: i64 = 1_767_225_600;

/// What a Job's pod does, in time since the Job was created.
#[derive(Debug, Clone)]
pub(super) struct Script {
    /// When the pod appears.
    pub(super) pod_at: Duration,
    /// When the container starts.
    pub(super) start_at: Duration,
    /// What it prints, and when after its start.
    pub(super) lines: Vec<(Duration, String)>,
    /// When it ends, after its start.
    pub(super) ends_after: Duration,
    /// How.
    pub(super) exit_code: i32,
    /// Reason of the terminated state.
    pub(super) reason: &'static str,
    /// When, after the container's start, so many of its first lines are rotated away; in the order of time.
    pub(super) rotated: Vec<(Duration, usize)>,
    /// How long the Job's condition lags behind; `None`: it never comes.
    pub(super) condition_lag: Option<Duration>,
    /// When somebody deletes the Job with its pod.
    pub(super) job_deleted_at: Option<Duration>,
    /// What keeps the pod from running: the JSON of its status.
    pub(super) stuck: Option<Value>,
    /// The JSON of the pod's status from these times on, until its container starts.
    pub(super) before: Vec<(Duration, Value)>,
    /// When the pod's deletion is asked for.
    pub(super) pod_deleting_at: Option<Duration>,
    /// When the Job has failed whatever its pod does, and for what reason.
    pub(super) job_failed_at: Option<(Duration, &'static str)>,
    /// The exit code in the pod's last object when it is deleted while its container runs.
    pub(super) killed_with: Option<i32>,
    /// When somebody deletes the pod, in time since the Job was created, and for how long its end is shown. It takes
    /// until the container's end to go, and the Job has another one at once, as Job controllers before 1.25 see to it.
    pub(super) replaced: Option<(Duration, Duration)>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            pod_at: Duration::from_millis(500),
            start_at: Duration::from_secs(3),
            lines: Vec::new(),
            ends_after: Duration::from_secs(1),
            exit_code: 0,
            reason: "Completed",
            rotated: Vec::new(),
            condition_lag: Some(Duration::from_secs(1)),
            job_deleted_at: None,
            stuck: None,
            before: Vec::new(),
            pod_deleting_at: None,
            job_failed_at: None,
            killed_with: None,
            replaced: None,
        }
    }
}

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// Nothing, this time.
    Pass,
    /// It is answered like this.
    Answer(u16, &'static str),
    /// It is carried out, and the answer is lost.
    LostAnswer,
}

/// What a watch does instead of its work.
#[derive(Debug, Clone)]
pub(super) enum WatchFault {
    /// It says after a while that its version is too old.
    Expires(Duration),
    /// Its connection breaks after a while.
    Breaks(Duration),
    /// It is silent from then on, for ever.
    Silent(Duration),
    /// It tells so often an object, or a line, that nobody can read.
    Garbage(&'static str),
}

/// What a log does instead of going on to its end.
#[derive(Debug, Clone)]
pub(super) enum LogFault {
    /// It ends after so many bytes, in the middle of whatever is there.
    Cut(usize),
    /// It ends after so many bytes as if that were all, even when the container has ended.
    Short(usize),
    /// After so many bytes nothing comes any more, not even its end.
    HalfOpen(usize),
    /// This text stands in its place.
    Text(&'static str),
    /// Each line takes so long.
    Slow(Duration),
}

/// Every log ends again and again.
#[derive(Debug, Clone, Copy)]
pub(super) enum CutEvery {
    /// After so many lines.
    Lines(usize),
    /// After so many lines that no body had before.
    NewLines(usize),
}

struct StoredJob {
    job: Job,
    created: Instant,
    script: Script,
    /// The script's, shared with every open log.
    lines: Arc<[(Duration, String)]>,
    deleted: Option<Instant>,
    /// How many lines the logs have brought so far.
    brought: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    jobs: BTreeMap<String, StoredJob>,
    secrets: BTreeMap<String, Secret>,
    scripts: VecDeque<Script>,
    faults: HashMap<&'static str, VecDeque<Fault>>,
    log_faults: VecDeque<LogFault>,
    cut_every: Option<CutEvery>,
    /// How long every answer takes.
    slow: Duration,
    /// When nothing is reached.
    away: Option<(Instant, Instant)>,
    watch_faults: HashMap<WatchKind, VecDeque<WatchFault>>,
    watches_open: usize,
    requests: Vec<String>,
    logs_open: usize,
    logs_open_most: usize,
    /// What each log was asked from.
    logs_since: Vec<Option<String>>,
    next_uid: u64,
    travel: Option<Travel>,
    started_beside: Vec<String>,
}

/// How long a request takes to arrive.
pub(super) type Travel = Box<dyn FnMut() -> Duration + Send>;

/// After so long without an answer a request is given up; it goes on to the server all the same.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The cluster.
#[derive(Clone)]
pub(super) struct Memory {
    origin: Instant,
    may_watch: bool,
    state: Arc<Mutex<State>>,
    /// Changes that no script foretold.
    changes: Arc<watch::Sender<u64>>,
}

impl Memory {
    pub(super) fn new(may_watch: bool) -> Self {
        let changes = Arc::new(watch::Sender::new(0));
        Self { origin: Instant::now(), may_watch, state: Arc::default(), changes }
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The next watches of this kind misbehave, one per fault.
    pub(super) fn fault_watch(&self, kind: WatchKind, faults: impl IntoIterator<Item = WatchFault>) -> &Self {
        self.lock().watch_faults.entry(kind).or_default().extend(faults);
        self
    }

    /// How many watches are open now.
    pub(super) fn watches_open(&self) -> usize {
        self.lock().watches_open
    }

    /// All requests but watches and the lists they go on from.
    pub(super) fn own_requests(&self) -> Vec<String> {
        let shared = ["watch jobs", "watch pods", "list for jobs", "list for pods"];
        let state = self.lock();
        state.requests.iter().filter(|made| !shared.contains(&made.as_str())).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next created Job's pod follows this script.
    pub(super) fn script(&self, script: Script) -> &Self {
        self.lock().scripts.push_back(script);
        self
    }

    /// From now on every request for Jobs takes so long to arrive.
    pub(super) fn travel(&self, travel: Travel) -> &Self {
        self.lock().travel = Some(travel);
        self
    }

    /// Jobs that came to be while another one of their agent was alive, each with that other one.
    pub(super) fn started_beside(&self) -> Vec<String> {
        self.lock().started_beside.clone()
    }

    /// A request on its way.
    async fn carry<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let time = self.lock().travel.as_mut().map(|travel| travel());
        let Some(time) = time else { return request.await };
        let task = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            request.await
        });
        match tokio::time::timeout(ANSWER_LIMIT, task).await {
            Ok(answer) => answer.expect("answered"),
            Err(_) => Err(ApiError::local(ApiErrorKind::Timeout, "ask", "no answer within 60 s")),
        }
    }

    /// The next requests of this kind fail, one per fault.
    pub(super) fn fault(&self, request: &'static str, faults: impl IntoIterator<Item = Fault>) -> &Self {
        self.lock().faults.entry(request).or_default().extend(faults);
        self
    }

    /// The next log bodies end after so many bytes, in the middle of whatever is there.
    pub(super) fn cut_logs(&self, after: impl IntoIterator<Item = usize>) -> &Self {
        self.fault_logs(after.into_iter().map(LogFault::Cut))
    }

    /// The next log bodies misbehave, one per fault.
    pub(super) fn fault_logs(&self, faults: impl IntoIterator<Item = LogFault>) -> &Self {
        self.lock().log_faults.extend(faults);
        self
    }

    /// Every log body from now on ends early.
    pub(super) fn cut_every(&self, cut: CutEvery) -> &Self {
        self.lock().cut_every = Some(cut);
        self
    }

    /// Every answer takes so long from now on.
    pub(super) fn slow(&self, answers: Duration) -> &Self {
        self.lock().slow = answers;
        self
    }

    /// From then on nothing is reached for a while, and whatever is open breaks.
    pub(super) fn away(&self, after: Duration, time: Duration) -> &Self {
        let from = Instant::now() + after;
        self.lock().away = Some((from, from + time));
        self
    }

    /// A Job that is there before the run.
    pub(super) fn put_job(&self, name: &str, labels: &[(&str, &str)], script: Script) {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let job = json!({
            "metadata": {"name": name, "namespace": "paperclip", "labels": labels},
            "spec": {"template": {"spec": {"containers": [{"name": "claude", "image": "agent:1"}]}}},
        });
        let job = serde_json::from_value(job).expect("a job");
        self.insert(job, script);
    }

    fn insert(&self, mut job: Job, script: Script) -> Job {
        let stamp = self.stamp(Instant::now());
        let mut state = self.lock();
        state.next_uid += 1;
        job.metadata.uid = Some(format!("uid-{}", state.next_uid));
        job.metadata.creation_timestamp = serde_json::from_value(json!(format!("{}Z", &stamp[..19]))).ok();
        let name = job.metadata.name.clone().expect("named");
        if !is_inert(&job) {
            let agent = |job: &Job| {
                job.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_AGENT_ID)).cloned()
            };
            let beside = state.jobs.values().filter(|other| {
                let alive = !other.gone() && Instant::now() < other.ended() && !is_inert(&other.job);
                alive && agent(&other.job) == agent(&job) && agent(&job).is_some()
            });
            let beside: Vec<String> = beside.filter_map(|other| other.job.metadata.name.clone()).collect();
            state.started_beside.extend(beside.into_iter().map(|other| format!("{name} beside {other}")));
        }
        assert!(script.lines.is_sorted_by_key(|(at, _)| *at), "a log is in the order of its stamps");
        let stored = StoredJob {
            job: job.clone(),
            created: Instant::now(),
            lines: script.lines.as_slice().into(),
            script,
            deleted: None,
            brought: Arc::default(),
        };
        state.jobs.insert(name, stored);
        drop(state);
        self.changed();
        job
    }

    /// Names of the Jobs and Secrets that are there now.
    pub(super) fn left(&self) -> Vec<String> {
        let state = self.lock();
        let jobs = state.jobs.iter().filter(|(_, stored)| !stored.gone()).map(|(name, _)| name.clone());
        jobs.chain(state.secrets.keys().cloned()).collect()
    }

    /// How often a kind of request was made.
    pub(super) fn count(&self, request: &str) -> usize {
        self.lock().requests.iter().filter(|made| *made == request).count()
    }

    /// How many logs were open at once, at most.
    /// What each log was asked from, `None` for its beginning.
    pub(super) fn logs_since(&self) -> Vec<Option<String>> {
        self.lock().logs_since.clone()
    }

    pub(super) fn logs_open_most(&self) -> usize {
        self.lock().logs_open_most
    }

    /// The labels of a Job.
    pub(super) fn labels(&self, name: &str) -> BTreeMap<String, String> {
        self.lock().jobs[name].job.metadata.labels.clone().unwrap_or_default()
    }

    async fn begin(&self, request: &'static str) -> Result<bool, ApiError> {
        let (fault, slow) = {
            let mut state = self.lock();
            state.requests.push(request.to_owned());
            if state.is_away() {
                return Err(lost(request));
            }
            (state.faults.get_mut(request).and_then(VecDeque::pop_front), state.slow)
        };
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        match fault {
            None | Some(Fault::Pass) => Ok(false),
            Some(Fault::LostAnswer) => Ok(true),
            Some(Fault::Answer(code, message)) => {
                let body = json!({"kind": "Status", "message": message}).to_string();
                Err(ApiError::from_answer(request, code, None, body.as_bytes()))
            }
        }
    }

    fn stamp(&self, at: Instant) -> String {
        stamp(self.origin, at)
    }
}

fn stamp(origin: Instant, at: Instant) -> String {
    let since = at.saturating_duration_since(origin);
    let seconds = EPOCH + i64::try_from(since.as_secs()).expect("time");
    let at = jiff::Timestamp::new(seconds, i32::try_from(since.subsec_nanos()).expect("time"));
    format!("{:.9}", at.expect("time"))
}

impl State {
    fn is_away(&self) -> bool {
        let now = Instant::now();
        self.away.is_some_and(|(from, to)| from <= now && now < to)
    }

    /// When whatever is open now breaks.
    fn breaks_at(&self) -> Option<Instant> {
        self.away.map(|(from, _)| from).filter(|from| *from > Instant::now())
    }
}

impl StoredJob {
    fn at(&self, offset: Duration) -> Instant {
        self.created + offset
    }

    fn started(&self) -> Instant {
        self.at(self.script.start_at)
    }

    fn ended(&self) -> Instant {
        self.started() + self.script.ends_after
    }

    fn deleted_at(&self) -> Option<Instant> {
        let scripted = self.script.job_deleted_at.map(|offset| self.at(offset));
        match (self.deleted, scripted) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn gone(&self) -> bool {
        self.gone_at(Instant::now())
    }

    fn gone_at(&self, now: Instant) -> bool {
        self.deleted_at().is_some_and(|at| at <= now)
    }

    fn condition_due(&self) -> Option<Instant> {
        self.script.condition_lag.filter(|_| self.script.stuck.is_none()).map(|lag| self.ended() + lag)
    }

    /// When its Job or pod looks different from before, as far as the script says.
    fn turns(&self) -> impl Iterator<Item = Instant> {
        let always = [self.at(self.script.pod_at), self.started(), self.ended()];
        let before = self.script.before.iter().map(|(offset, _)| self.at(*offset));
        let others =
            self.script.pod_deleting_at.into_iter().chain(self.script.job_failed_at.map(|(at, _)| at));
        let before = before.chain(others.map(|offset| self.at(offset)));
        let replaced =
            self.script.replaced.map(|(at, _)| self.at(at)).into_iter().chain(self.replaced_goes());
        always.into_iter().chain(before).chain(self.condition_due()).chain(self.deleted_at()).chain(replaced)
    }

    fn now(&self) -> Job {
        self.then(Instant::now())
    }

    fn then(&self, now: Instant) -> Job {
        let mut job = self.job.clone();
        if let Some((_, reason)) = self.script.job_failed_at.filter(|(at, _)| self.at(*at) <= now) {
            let condition = json!({"type": "Failed", "status": "True", "reason": reason});
            job.status = serde_json::from_value(json!({"conditions": [condition]})).ok();
        } else if self.condition_due().is_some_and(|due| due <= now) {
            let condition = if self.script.exit_code == 0 {
                json!({"type": "Complete", "status": "True"})
            } else {
                json!({"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"})
            };
            job.status = serde_json::from_value(json!({"conditions": [condition]})).ok();
        }
        job
    }

    fn pod(&self) -> Option<Pod> {
        self.pod_then(Instant::now())
    }

    fn pod_then(&self, now: Instant) -> Option<Pod> {
        let replaced = self.replaced_goes().is_some_and(|at| at <= now);
        if now < self.at(self.script.pod_at) || self.gone_at(now) || replaced {
            return None;
        }
        Some(self.pod_object(now))
    }

    /// When a pod that is replaced is gone.
    fn replaced_goes(&self) -> Option<Instant> {
        self.script.replaced.map(|(_, shown)| self.ended() + shown)
    }

    /// The pod that takes the place of one that was deleted.
    fn replacement_then(&self, now: Instant) -> Option<Pod> {
        let since = self.at(self.script.replaced?.0);
        if now < since || self.gone_at(now) {
            return None;
        }
        let mut pod = self.pod_object(self.started());
        pod.metadata.name = pod.metadata.name.map(|name| format!("another-{name}"));
        pod.metadata.deletion_timestamp = None;
        Some(pod)
    }

    /// The last object of a pod that is deleted.
    fn last_pod(&self) -> Pod {
        let unshown = self.script.replaced.is_some_and(|(_, shown)| shown.is_zero());
        let unshown = unshown.then(|| self.ended() - Duration::from_nanos(1));
        let at = self.deleted_at().or(unshown).unwrap_or_else(Instant::now);
        let mut pod = self.pod_object(at);
        if let Some(code) = self.script.killed_with
            && at < self.ended()
        {
            let status = pod.status.get_or_insert_default();
            for container in status.container_statuses.iter_mut().flatten() {
                let terminated = json!({"terminated": {"exitCode": code, "reason": "Error"}});
                container.state = serde_json::from_value(terminated).ok();
            }
        }
        pod
    }

    fn pod_object(&self, now: Instant) -> Pod {
        let name = self.job.metadata.name.as_deref().expect("named");
        let status = if let Some(stuck) = &self.script.stuck {
            stuck.clone()
        } else if now < self.started()
            && let Some((_, status)) = self.script.before.iter().rfind(|(offset, _)| self.at(*offset) <= now)
        {
            status.clone()
        } else if now < self.started() {
            json!({"phase": "Pending", "containerStatuses": [
                {"name": "claude", "state": {"waiting": {"reason": "PodInitializing"}}}]})
        } else if now < self.ended() {
            json!({"phase": "Running", "containerStatuses": [
                {"name": "claude", "state": {"running": {}}}]})
        } else {
            let phase = if self.script.exit_code == 0 { "Succeeded" } else { "Failed" };
            json!({"phase": phase, "containerStatuses": [{"name": "claude", "state": {"terminated":
                {"exitCode": self.script.exit_code, "reason": self.script.reason}}}]})
        };
        let mut status = status;
        for container in status["containerStatuses"].as_array_mut().into_iter().flatten() {
            for (key, value) in [
                ("ready", json!(false)),
                ("restartCount", json!(0)),
                ("image", json!("")),
                ("imageID", json!("")),
            ] {
                container[key] = value;
            }
        }
        let mut pod = json!({
            "metadata": {"name": format!("{name}-pod"), "labels": self.job.metadata.labels, "ownerReferences": [{"apiVersion": "batch/v1",
                "kind": "Job", "name": name, "uid": self.job.metadata.uid}]},
            "status": status,
        });
        if self.script.pod_deleting_at.is_some_and(|at| self.at(at) <= now) {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:30Z");
        }
        if self.script.replaced.is_some_and(|(at, _)| self.at(at) <= now) {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        }
        serde_json::from_value(pod).expect("a pod")
    }

    fn matches(&self, selector: &str) -> bool {
        let none = BTreeMap::new();
        let labels = self.job.metadata.labels.as_ref().unwrap_or(&none);
        selector
            .split(',')
            .filter_map(|requirement| requirement.split_once('='))
            .all(|(key, value)| labels.get(key).is_some_and(|is| is == value))
    }
}

/// The objects of a kind as a watch shows them at a moment, by the name of their Job and a number for each Job
/// that had it.
fn snapshot(state: &State, kind: WatchKind, selector: &str, at: Instant) -> BTreeMap<String, Value> {
    let seen = || state.jobs.iter().filter(|(_, stored)| stored.matches(selector) && stored.created <= at);
    let replacements = seen().filter(|_| kind == WatchKind::Pods).filter_map(|(name, stored)| {
        Some((format!("another {name}"), serde_json::to_value(stored.replacement_then(at)?).ok()?))
    });
    let first = seen().filter_map(|(name, stored)| {
        let object = match kind {
            WatchKind::Jobs if stored.gone_at(at) => None,
            WatchKind::Jobs => serde_json::to_value(stored.then(at)).ok(),
            WatchKind::Pods => stored.pod_then(at).and_then(|pod| serde_json::to_value(pod).ok()),
        };
        Some((name.clone(), object?))
    });
    first.chain(replacements).collect()
}

/// One watch of the memory cluster: what it has told, compared with what is there.
struct Watching {
    origin: Instant,
    state: Arc<Mutex<State>>,
    changes: watch::Receiver<u64>,
    kind: WatchKind,
    selector: String,
    told: BTreeMap<String, Value>,
    ends: Instant,
    bookmark: Instant,
    fault: Option<WatchFault>,
    breaks_at: Option<Instant>,
    opened: Instant,
}

impl Watching {
    fn version(&self) -> String {
        // The first nanosecond is 1: 0 would mean any version.
        (self.origin.elapsed().as_nanos() + 1).to_string()
    }

    fn line(&self, kind: &str, mut object: Value) -> String {
        object["metadata"]["resourceVersion"] = json!(self.version());
        format!("{}\n", json!({"type": kind, "object": object}))
    }

    /// What has changed since the last call.
    fn news(&mut self) -> String {
        let state = self.state.clone();
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let is = snapshot(&state, self.kind, &self.selector, Instant::now());
        let mut out = String::new();
        for (name, object) in &is {
            match self.told.get(name) {
                None => out += &self.line("ADDED", object.clone()),
                Some(before) if before != object => out += &self.line("MODIFIED", object.clone()),
                Some(_) => {}
            }
        }
        for name in self.told.keys().filter(|name| !is.contains_key(*name)) {
            let Some(stored) = state.jobs.get(name) else {
                // A replacement, which goes as it was.
                out += &self.line("DELETED", self.told[name].clone());
                continue;
            };
            let last = match self.kind {
                WatchKind::Jobs => serde_json::to_value(stored.then(stored.deleted_at().expect("deleted"))),
                WatchKind::Pods => serde_json::to_value(stored.last_pod()),
            };
            out += &self.line("DELETED", last.expect("JSON"));
        }
        self.told = is;
        out
    }

    /// The next piece of the body; `None` at its end.
    async fn next(&mut self) -> Option<Result<Bytes, ApiError>> {
        loop {
            if let Some(WatchFault::Garbage(text)) = self.fault {
                self.fault = None;
                return Some(Ok(Bytes::from(format!("{text}\n"))));
            }
            let spoilt_at = match self.fault {
                Some(WatchFault::Expires(after) | WatchFault::Breaks(after) | WatchFault::Silent(after)) => {
                    Some(self.opened + after)
                }
                _ => None,
            };
            if spoilt_at.is_some_and(|at| at <= Instant::now()) {
                return match self.fault.take() {
                    Some(WatchFault::Silent(_)) => std::future::pending().await,
                    Some(WatchFault::Expires(_)) => {
                        self.ends = Instant::now();
                        let status = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old",
                            "metadata": {}});
                        Some(Ok(Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": status})))))
                    }
                    _ => Some(Err(lost("watch"))),
                };
            }
            if self.breaks_at.is_some_and(|at| at <= Instant::now()) {
                return Some(Err(lost("watch")));
            }
            let news = self.news();
            if !news.is_empty() {
                return Some(Ok(Bytes::from(news)));
            }
            let now = Instant::now();
            if self.ends <= now {
                return None;
            }
            if self.bookmark <= now {
                self.bookmark = now + Duration::from_secs(60);
                return Some(Ok(Bytes::from(self.line("BOOKMARK", json!({"metadata": {}})))));
            }
            let turn = {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.jobs.values().flat_map(StoredJob::turns).filter(|at| *at > now).min()
            };
            let wake = [turn, Some(self.ends), Some(self.bookmark), spoilt_at, self.breaks_at];
            let wake = wake.into_iter().flatten().min();
            tokio::select! {
                _ = self.changes.changed() => {}
                () = tokio::time::sleep_until(wake.unwrap_or(self.ends)) => {}
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).watches_open -= 1;
    }
}

fn not_found(request: &str) -> ApiError {
    ApiError::from_answer(
        request,
        404,
        None,
        br#"{"kind":"Status","message":"not found","reason":"NotFound"}"#,
    )
}

fn lost(request: &str) -> ApiError {
    ApiError::local(ApiErrorKind::Connection, request, "request to memory:0 failed, reason: connection reset")
}

/// A claim or barrier: no pod ever comes of it.
fn is_inert(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| spec.parallelism == Some(0))
}

impl Memory {
    /// Whether a name belongs to a claim, which has requests of its own in the counts and faults.
    fn of_claim(name: &str) -> bool {
        name.contains("-claim-")
    }

    async fn create_now(&self, job: Job) -> Result<Job, ApiError> {
        let name = job.metadata.name.clone().unwrap_or_default();
        let request = match (Self::of_claim(&name), is_inert(&job)) {
            (true, _) => "create claim",
            (false, true) => "create barrier",
            (false, false) => "create job",
        };
        let answer_lost = self.begin(request).await?;
        if self.lock().jobs.get(&name).is_some_and(|stored| !stored.gone()) {
            let body = br#"{"kind":"Status","message":"already exists","reason":"AlreadyExists"}"#;
            return Err(ApiError::from_answer(request, 409, None, body));
        }
        let script = if is_inert(&job) {
            Script { pod_at: Duration::from_secs(1 << 40), condition_lag: None, ..Script::default() }
        } else {
            self.lock().scripts.pop_front().unwrap_or_default()
        };
        let created = self.insert(job, script);
        if answer_lost { Err(lost(request)) } else { Ok(created) }
    }

    async fn delete_now(&self, name: String, uid: Option<String>) -> Result<(), ApiError> {
        let request = if Self::of_claim(&name) { "delete claim" } else { "delete job" };
        self.begin(request).await?;
        let mut state = self.lock();
        let stored = state.jobs.get_mut(&name).filter(|stored| !stored.gone());
        let stored = stored.ok_or_else(|| not_found(request))?;
        if uid.is_some() && uid != stored.job.metadata.uid {
            return Err(ApiError::from_answer(request, 409, None, b""));
        }
        stored.deleted = Some(Instant::now());
        drop(state);
        self.changed();
        Ok(())
    }

    async fn list_now(&self, selector: String) -> Result<Vec<Job>, ApiError> {
        self.begin("list jobs").await?;
        let state = self.lock();
        let there = state.jobs.values().filter(|stored| !stored.gone() && stored.matches(&selector));
        Ok(there.map(StoredJob::now).collect())
    }

    async fn get_now(&self, name: String) -> Result<Job, ApiError> {
        let request = if Self::of_claim(&name) { "get claim" } else { "get job" };
        self.begin(request).await?;
        let state = self.lock();
        let stored = state.jobs.get(&name).filter(|stored| !stored.gone());
        stored.map(StoredJob::now).ok_or_else(|| not_found(request))
    }
}

impl Cluster for Memory {
    async fn list_jobs(&self, _: &str, selector: &str) -> Result<Vec<Job>, ApiError> {
        let (this, selector) = (self.clone(), selector.to_owned());
        self.carry(async move { this.list_now(selector).await }).await
    }

    async fn get_job(&self, _: &str, name: &str) -> Result<Job, ApiError> {
        let (this, name) = (self.clone(), name.to_owned());
        self.carry(async move { this.get_now(name).await }).await
    }

    async fn create_job(&self, _: &str, job: &Job) -> Result<Job, ApiError> {
        let (this, job) = (self.clone(), job.clone());
        self.carry(async move { this.create_now(job).await }).await
    }

    async fn patch_job(&self, _: &str, name: &str, patch: &Value) -> Result<(), ApiError> {
        self.begin("patch job").await?;
        let mut state = self.lock();
        let stored = state.jobs.get_mut(name).ok_or_else(|| not_found("patch job"))?;
        let labels = stored.job.metadata.labels.get_or_insert_default();
        for step in patch.as_array().expect("a JSON Patch") {
            let path = step["path"].as_str().expect("path");
            let key = path.strip_prefix("/metadata/labels/").expect("a label").replace("~1", "/");
            labels.insert(key, step["value"].as_str().expect("value").to_owned());
        }
        drop(state);
        self.changed();
        Ok(())
    }

    async fn delete_job(&self, _: &str, name: &str, uid: Option<&str>) -> Result<(), ApiError> {
        let (this, name, uid) = (self.clone(), name.to_owned(), uid.map(str::to_owned));
        self.carry(async move { this.delete_now(name, uid).await }).await
    }

    async fn create_secret(&self, _: &str, secret: &Secret) -> Result<(), ApiError> {
        let answer_lost = self.begin("create secret").await?;
        let name = secret.metadata.name.clone().unwrap_or_default();
        if self.lock().secrets.contains_key(&name) {
            let body = br#"{"kind":"Status","message":"already exists","reason":"AlreadyExists"}"#;
            return Err(ApiError::from_answer("create secret", 409, None, body));
        }
        self.lock().secrets.insert(name, secret.clone());
        if answer_lost { Err(lost("create secret")) } else { Ok(()) }
    }

    async fn patch_secret(&self, _: &str, name: &str, _: &Value) -> Result<(), ApiError> {
        self.begin("patch secret").await?;
        self.lock().secrets.contains_key(name).then_some(()).ok_or_else(|| not_found("patch secret"))
    }

    async fn delete_secret(&self, _: &str, name: &str) -> Result<(), ApiError> {
        self.begin("delete secret").await?;
        self.lock().secrets.remove(name).map(drop).ok_or_else(|| not_found("delete secret"))
    }

    async fn get_pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError> {
        self.begin("get pod").await?;
        let pod = json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"containers": [{"name": "paperclip", "image": "agent:1"}]},
        });
        Ok(serde_json::from_value(pod).expect("a pod"))
    }

    async fn list_pods(&self, _: &str, selector: &str) -> Result<Vec<Pod>, ApiError> {
        self.begin("list pods").await?;
        let name = selector.strip_prefix("job-name=").expect("selects a Job's pods");
        let state = self.lock();
        let job = state.jobs.get(name);
        let replacement = job.and_then(|job| job.replacement_then(Instant::now()));
        Ok(replacement.into_iter().chain(job.and_then(StoredJob::pod)).collect())
    }

    async fn list_for_watch(&self, kind: WatchKind, _: &str, selector: &str) -> Result<Vec<u8>, ApiError> {
        self.begin(if kind == WatchKind::Jobs { "list for jobs" } else { "list for pods" }).await?;
        let objects = snapshot(&self.lock(), kind, selector, Instant::now());
        let version = (self.origin.elapsed().as_nanos() + 1).to_string();
        let items: Vec<Value> = objects.into_values().collect();
        Ok(json!({"metadata": {"resourceVersion": version}, "items": items}).to_string().into_bytes())
    }

    async fn watch(&self, kind: WatchKind, _: &str, query: &WatchQuery) -> Result<WatchBody, ApiError> {
        self.begin(if kind == WatchKind::Jobs { "watch jobs" } else { "watch pods" }).await?;
        if !self.may_watch {
            return Err(ApiError::from_answer("watch", 403, None, b"cannot watch"));
        }
        assert!(query.timeout < Duration::from_secs(200));
        let now = Instant::now();
        let mut state = self.lock();
        // What happened at the very moment of the version is told again rather than not at all.
        let told = query.resource_version.as_ref().map_or_else(BTreeMap::new, |version| {
            let nanos: u64 = version.parse().expect("a version of ours");
            match nanos.checked_sub(2) {
                Some(before) => {
                    snapshot(&state, kind, &query.selector, self.origin + Duration::from_nanos(before))
                }
                None => BTreeMap::new(),
            }
        });
        state.watches_open += 1;
        let fault = state.watch_faults.get_mut(&kind).and_then(VecDeque::pop_front);
        let breaks_at = state.breaks_at();
        drop(state);
        let watching = Watching {
            origin: self.origin,
            state: self.state.clone(),
            changes: self.changes.subscribe(),
            kind,
            selector: query.selector.clone(),
            told,
            ends: now + query.timeout,
            bookmark: now + Duration::from_secs(60),
            fault,
            breaks_at,
            opened: now,
        };
        let body = futures::stream::unfold(watching, |mut watching| async move {
            let piece = watching.next().await?;
            Some((piece, watching))
        });
        Ok(body.boxed())
    }

    async fn open_log(
        &self,
        _: &str,
        pod: &str,
        container: &str,
        query: &LogQuery,
    ) -> Result<LogBody, ApiError> {
        assert_eq!(container, "claude");
        self.begin("open log").await?;
        let job = pod.strip_suffix("-pod").expect("a pod of ours");
        let mut state = self.lock();
        let stored = state.jobs.get(job).filter(|stored| stored.pod().is_some());
        let stored = stored.ok_or_else(|| not_found("open log"))?;
        let now = Instant::now();
        if now < stored.started() {
            let text = b"is waiting to start: PodInitializing";
            return Err(ApiError::from_answer("open log", 400, None, text));
        }
        let started = stored.started();
        let ends = stored.deleted_at().map_or(stored.ended(), |at| at.min(stored.ended()));
        let since = query.since_time.clone().unwrap_or_default();
        assert!(since.is_empty() || since.len() == 20, "whole seconds: {since}");
        let lines = stored.lines.clone();
        let rotated = stored.script.rotated.iter().rfind(|(at, _)| now >= started + *at);
        let asked = lines.partition_point(|(offset, _)| {
            !since.is_empty() && self.stamp(started + *offset)[..19] < since[..19]
        });
        let until = if query.follow { ends } else { ends.min(now) };
        let at = asked.max(rotated.map_or(0, |(_, lines)| *lines));
        let end = lines.partition_point(|(offset, _)| started + *offset <= until);
        let brought = stored.brought.clone();
        let most = match state.cut_every {
            Some(CutEvery::Lines(lines)) => at + lines,
            Some(CutEvery::NewLines(lines)) => brought.load(Ordering::Relaxed).max(at) + lines,
            None => usize::MAX,
        };
        let fault = state.log_faults.pop_front();
        let breaks_at = state.breaks_at();
        state.logs_since.push(query.since_time.clone());
        state.logs_open += 1;
        state.logs_open_most = state.logs_open_most.max(state.logs_open);
        drop(state);
        let body = OpenLog {
            origin: self.origin,
            started,
            ends,
            follow: query.follow,
            lines,
            at,
            end: end.min(most),
            cut: most < end,
            brought,
            left: match fault {
                Some(LogFault::Cut(bytes) | LogFault::Short(bytes) | LogFault::HalfOpen(bytes)) => {
                    Some(bytes)
                }
                _ => None,
            },
            fault,
            breaks_at,
            state: self.state.clone(),
        };
        let body = futures::stream::unfold(body, |mut body| async move {
            let piece = body.next().await?;
            Some((piece, body))
        });
        Ok(log_of(body))
    }

    async fn get_namespace(&self, _: &str) -> Result<(), ApiError> {
        self.begin("get namespace").await.map(drop)
    }

    async fn get_secret(&self, _: &str, _: &str) -> Result<(), ApiError> {
        self.begin("get secret").await.map(drop)
    }

    async fn claim_access_modes(&self, _: &str, _: &str) -> Result<Vec<String>, ApiError> {
        self.begin("get claim").await?;
        Ok(vec!["ReadWriteMany".to_owned()])
    }

    async fn can_i(&self, question: AccessQuestion<'_>) -> Result<bool, ApiError> {
        self.begin("review access").await?;
        Ok(question.verb != "patch")
    }
}

/// A log body, counted as open until it is dropped.
struct OpenLog {
    origin: Instant,
    started: Instant,
    /// When a body that follows the container ends.
    ends: Instant,
    follow: bool,
    lines: Arc<[(Duration, String)]>,
    /// The next line.
    at: usize,
    /// The line before which this ends.
    end: usize,
    /// There are more lines than that.
    cut: bool,
    brought: Arc<AtomicUsize>,
    /// How many bytes may still come.
    left: Option<usize>,
    fault: Option<LogFault>,
    breaks_at: Option<Instant>,
    state: Arc<Mutex<State>>,
}

impl OpenLog {
    async fn next(&mut self) -> Option<Result<Bytes, ApiError>> {
        match self.breaks_at {
            Some(at) => tokio::select! {
                biased;
                () = tokio::time::sleep_until(at) => {
                    (self.end, self.cut, self.follow, self.breaks_at) = (self.at, false, false, None);
                    Some(Err(lost("read log")))
                }
                piece = self.piece() => piece,
            },
            None => self.piece().await,
        }
    }

    /// A container that has ended has no reason left for a clean end in the middle.
    fn broken_off(&mut self) -> Option<Result<Bytes, ApiError>> {
        (self.left, self.end, self.cut, self.follow) = (None, self.at, false, false);
        let all = matches!(self.fault, Some(LogFault::Short(_)));
        (Instant::now() >= self.ends && !all).then(|| Err(lost("read log")))
    }

    async fn piece(&mut self) -> Option<Result<Bytes, ApiError>> {
        if let Some(LogFault::Text(text)) = self.fault {
            (self.fault, self.end, self.cut, self.follow) = (None, self.at, false, false);
            return Some(Ok(Bytes::from_static(text.as_bytes())));
        }
        if self.left == Some(0) {
            if matches!(self.fault, Some(LogFault::HalfOpen(_))) {
                return std::future::pending().await;
            }
            return self.broken_off();
        }
        if self.at >= self.end {
            if self.cut {
                return self.broken_off();
            }
            if self.follow {
                tokio::time::sleep_until(self.ends).await;
            }
            return None;
        }
        if let Some(LogFault::Slow(pause)) = self.fault {
            tokio::time::sleep(pause).await;
        }
        let (offset, text) = &self.lines[self.at];
        let at = self.started + *offset;
        tokio::time::sleep_until(at).await;
        let mut bytes = Bytes::from(format!("{} {text}\n", stamp(self.origin, at)));
        self.at += 1;
        self.brought.fetch_max(self.at, Ordering::Relaxed);
        if let Some(left) = &mut self.left {
            bytes.truncate(*left);
            *left -= bytes.len();
        }
        Some(Ok(bytes))
    }
}

impl Drop for OpenLog {
    fn drop(&mut self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).logs_open -= 1;
    }
}

/// One cluster for every kubeconfig.
pub(super) struct OneCluster(pub(super) Arc<Memory>);

impl Clusters for OneCluster {
    type Cluster = Memory;

    async fn cluster(
        &self,
        kubeconfig: Option<&str>,
        _: &BTreeMap<String, String>,
    ) -> Result<Arc<Memory>, ApiError> {
        match kubeconfig {
            Some("missing") => {
                Err(ApiError::local(ApiErrorKind::Setup, "read the kubeconfig", "ENOENT: no such file"))
            }
            _ => Ok(self.0.clone()),
        }
    }
}
