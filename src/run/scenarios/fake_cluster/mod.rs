//! A cluster in memory whose pods follow a script. Each object is computed from the clock at the moment it is read, so
//! that under a paused clock hours pass at once and nothing depends on the order of tasks.

mod logs;
mod objects;
mod watches;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use self::logs::OpenLog;
pub(crate) use self::logs::{CutEvery, LogFault};
pub(crate) use self::objects::Script;
use self::objects::{StoredJob, is_inert};
pub(crate) use self::watches::WatchFault;
use self::watches::{OpenWatch, snapshot};
use crate::cluster::permissions::Permissions;
use crate::cluster::{
    AccessReview, ApiError, ApiErrorKind, Cluster, Clusters, CreatedJob, LogBody, LogQuery, WatchBody,
    WatchKind, WatchQuery, log_from_stream,
};
use crate::manifest::{self, LABEL_AGENT_ID};

/// Stands in a script for the token of its Job's last line.
pub(crate) const TOKEN: &str = "{token}";

/// When every fake cluster is created, in seconds since 1970: 2026-01-01T00:00:00Z.
const EPOCH: i64 = 1_767_225_600;

/// What happens to a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It succeeds.
    Pass,
    /// It gets this status and message.
    Answer(u16, &'static str),
    /// The namespace takes nothing new, because it is being deleted.
    Terminating,
    /// It is carried out, and the answer is lost.
    LostAnswer,
    /// Nothing comes back.
    NoAnswer,
}

#[derive(Default)]
struct State {
    jobs: BTreeMap<String, StoredJob>,
    secrets: BTreeMap<String, Secret>,
    pods_read: Vec<String>,
    scripts: VecDeque<Script>,
    faults: HashMap<&'static str, VecDeque<Fault>>,
    log_faults: VecDeque<LogFault>,
    cut_every: Option<CutEvery>,
    /// How long every answer takes.
    answer_delay: Duration,
    /// From when to when the API server is unreachable.
    unreachable: Option<(Instant, Instant)>,
    watch_faults: HashMap<WatchKind, VecDeque<WatchFault>>,
    watches_open: usize,
    requests: Vec<String>,
    logs_open: usize,
    logs_open_most: usize,
    /// The `sinceTime` of each log request.
    logs_since: Vec<Option<String>>,
    /// What the server warns of when it accepts a Job.
    warnings: Vec<String>,
    next_uid: u64,
    request_delay: Option<RequestDelay>,
    started_beside: Vec<String>,
    /// Pods that others made, with the labels of any Job.
    forged: Vec<Value>,
}

/// How long the next request takes to arrive.
pub(crate) type RequestDelay = Box<dyn FnMut() -> Duration + Send>;

/// How long a client waits for an answer. A request given up still reaches the server.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A cluster in memory; clones share it.
#[derive(Clone)]
pub(crate) struct FakeCluster {
    origin: Instant,
    may_watch: bool,
    state: Arc<Mutex<State>>,
    /// Counts changes that are in no script.
    changes: Arc<watch::Sender<u64>>,
    permissions: Arc<Permissions>,
}

impl FakeCluster {
    pub(crate) fn new(may_watch: bool) -> Self {
        let changes = Arc::new(watch::Sender::new(0));
        Self {
            origin: Instant::now(),
            may_watch,
            state: Arc::default(),
            changes,
            permissions: Arc::default(),
        }
    }

    fn notify_change(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The next watches of this kind have these faults, one each.
    pub(crate) fn fault_watch(&self, kind: WatchKind, faults: impl IntoIterator<Item = WatchFault>) -> &Self {
        self.lock().watch_faults.entry(kind).or_default().extend(faults);
        self
    }

    /// How many watches are open now.
    pub(crate) fn watches_open(&self) -> usize {
        self.lock().watches_open
    }

    /// The requests of the runs themselves: all but the shared watches and the lists they start from.
    pub(crate) fn run_requests(&self) -> Vec<String> {
        let shared = ["watch jobs", "watch pods", "list for jobs", "list for pods"];
        let state = self.lock();
        state.requests.iter().filter(|made| !shared.contains(&made.as_str())).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next created Job's pod follows this script.
    pub(crate) fn script(&self, script: Script) -> &Self {
        self.lock().scripts.push_back(script);
        self
    }

    /// How many lines of all scripts were read by now.
    pub(crate) fn lines_read(&self) -> usize {
        self.lock().jobs.values().map(|stored| stored.delivered_lines.load(Ordering::Relaxed)).sum()
    }

    /// Another client makes such a pod as soon as there is a Job: in this JSON `$JOB` is that Job's name and `$UID` its UID.
    pub(crate) fn forge_pod(&self, pod: Value) {
        self.lock().forged.push(pod);
    }

    /// From now on every request for Jobs takes this time to arrive.
    pub(crate) fn delay_requests(&self, delay: RequestDelay) -> &Self {
        self.lock().request_delay = Some(delay);
        self
    }

    /// Jobs that were created while the CLI of another Job of their agent may have been at work, each with that other Job.
    pub(crate) fn started_beside(&self) -> Vec<String> {
        self.lock().started_beside.clone()
    }

    /// Sends a request: it arrives after the delay and is carried out even when the client gives it up.
    async fn send<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let delay = self.lock().request_delay.as_mut().map(|delay| delay());
        let Some(delay) = delay else { return request.await };
        let task = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            request.await
        });
        match tokio::time::timeout(ANSWER_LIMIT, task).await {
            Ok(answer) => answer.expect("answered"),
            Err(_) => Err(ApiError::local(ApiErrorKind::Timeout, "ask", "no answer within 60 s")),
        }
    }

    /// What the server warns of whenever it accepts a Job from now on.
    pub(crate) fn warn(&self, warning: &str) -> &Self {
        self.lock().warnings.push(warning.to_owned());
        self
    }

    /// The next requests of this kind have these faults, one each.
    pub(crate) fn fault(&self, request: &'static str, faults: impl IntoIterator<Item = Fault>) -> &Self {
        self.lock().faults.entry(request).or_default().extend(faults);
        self
    }

    /// The next log bodies end after these numbers of bytes, be it in the middle of a line.
    pub(crate) fn cut_logs(&self, after: impl IntoIterator<Item = usize>) -> &Self {
        self.fault_logs(after.into_iter().map(LogFault::Cut))
    }

    /// The next log bodies have these faults, one each.
    pub(crate) fn fault_logs(&self, faults: impl IntoIterator<Item = LogFault>) -> &Self {
        self.lock().log_faults.extend(faults);
        self
    }

    /// Every log body from now on ends early.
    pub(crate) fn cut_every(&self, cut: CutEvery) -> &Self {
        self.lock().cut_every = Some(cut);
        self
    }

    /// Every answer takes this time from now on.
    pub(crate) fn delay_answers(&self, delay: Duration) -> &Self {
        self.lock().answer_delay = delay;
        self
    }

    /// After `after` the API server is unreachable for `time`; open watches and logs break.
    pub(crate) fn make_unreachable(&self, after: Duration, time: Duration) -> &Self {
        let from = Instant::now() + after;
        self.lock().unreachable = Some((from, from + time));
        self
    }

    /// Adds a Job that exists before the run.
    pub(crate) fn put_job(&self, name: &str, labels: &[(&str, &str)], script: Script) {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let job = json!({
            "metadata": {"name": name, "namespace": "paperclip", "labels": labels},
            "spec": {"template": {"spec": {"containers": [{"name": "claude", "image": "agent:1"}]}}},
        });
        let job = serde_json::from_value(job).expect("a job");
        self.insert(job, script);
    }

    /// Annotates a Job.
    pub(crate) fn annotate(&self, name: &str, key: &str, value: &str) {
        let mut state = self.lock();
        let job = &mut state.jobs.get_mut(name).expect("a Job").job;
        job.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    }

    fn insert(&self, mut job: Job, mut script: Script) -> Job {
        if let Some(token) = manifest::end_token(&job) {
            script.lines.iter_mut().for_each(|(_, line)| *line = line.replace(TOKEN, token.as_str()));
        }
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
                let alive = other.may_work_at(Instant::now()) && !is_inert(&other.job);
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
            delivered_lines: Arc::default(),
        };
        state.jobs.insert(name, stored);
        drop(state);
        self.notify_change();
        job
    }

    /// All Secrets that were created and not deleted by a request.
    pub(crate) fn all_secrets(&self) -> Vec<Secret> {
        self.lock().secrets.values().cloned().collect()
    }

    /// The names of the pods that were read one by one.
    pub(crate) fn pods_read(&self) -> Vec<String> {
        self.lock().pods_read.clone()
    }

    /// Names of the Jobs and Secrets that exist now.
    pub(crate) fn remaining(&self) -> Vec<String> {
        let state = self.lock();
        let jobs = state.jobs.iter().filter(|(_, stored)| !stored.is_gone()).map(|(name, _)| name.clone());
        // The garbage collector removes what only a Job that is gone owned.
        let is_owned_by = |uid: &str| {
            state.jobs.values().any(|job| !job.is_gone() && job.job.metadata.uid.as_deref() == Some(uid))
        };
        let secrets = state.secrets.iter().filter(|(_, secret)| {
            let owners = secret.metadata.owner_references.as_deref().unwrap_or_default();
            owners.is_empty() || owners.iter().any(|owner| is_owned_by(&owner.uid))
        });
        jobs.chain(secrets.map(|(name, _)| name.clone())).collect()
    }

    /// How many requests of this kind were made.
    pub(crate) fn count(&self, request: &str) -> usize {
        self.lock().requests.iter().filter(|made| *made == request).count()
    }

    /// The `sinceTime` of each log request, `None` for the log's beginning.
    pub(crate) fn logs_since(&self) -> Vec<Option<String>> {
        self.lock().logs_since.clone()
    }

    /// The largest number of logs that were open at once.
    pub(crate) fn logs_open_most(&self) -> usize {
        self.lock().logs_open_most
    }

    /// The labels of a Job.
    pub(crate) fn labels(&self, name: &str) -> BTreeMap<String, String> {
        self.lock().jobs[name].job.metadata.labels.clone().unwrap_or_default()
    }

    /// Names of the Jobs of runs that there were, gone or not, in the order of their names.
    pub(crate) fn run_jobs(&self) -> Vec<String> {
        let state = self.lock();
        state.jobs.iter().filter(|(_, stored)| !is_inert(&stored.job)).map(|(name, _)| name.clone()).collect()
    }

    /// What the container of a Job runs.
    pub(crate) fn command(&self, name: &str) -> String {
        let state = self.lock();
        let pod = state.jobs[name].job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        pod.and_then(|pod| pod.containers[0].command.clone()).unwrap_or_default().join(" ")
    }

    /// The deadline of a Job, in seconds.
    pub(crate) fn deadline(&self, name: &str) -> Option<i64> {
        self.lock().jobs[name].job.spec.as_ref()?.active_deadline_seconds
    }

    /// Counts a request and applies its fault. `Ok(true)`: carry it out, and lose the answer.
    async fn receive(&self, request: &'static str) -> Result<bool, ApiError> {
        let answer = self.answer(request).await;
        self.permissions.judge(request, answer)
    }

    async fn answer(&self, request: &'static str) -> Result<bool, ApiError> {
        let (fault, delay) = {
            let mut state = self.lock();
            state.requests.push(request.to_owned());
            if state.is_unreachable() {
                return Err(connection_lost(request));
            }
            (state.faults.get_mut(request).and_then(VecDeque::pop_front), state.answer_delay)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match fault {
            None | Some(Fault::Pass) => Ok(false),
            Some(Fault::LostAnswer) => Ok(true),
            Some(Fault::NoAnswer) => {
                tokio::time::sleep(ANSWER_LIMIT).await;
                Err(ApiError::local(ApiErrorKind::Timeout, request, "no answer within 60 s"))
            }
            Some(Fault::Terminating) => {
                let message =
                    "unable to create new content in namespace paperclip because it is being terminated";
                let causes = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]);
                let body = json!({"kind": "Status", "message": message, "reason": "Forbidden", "details": {"causes": causes}});
                Err(ApiError::from_answer(request, 403, None, body.to_string().as_bytes()))
            }
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
    fn is_unreachable(&self) -> bool {
        let now = Instant::now();
        self.unreachable.is_some_and(|(from, to)| from <= now && now < to)
    }

    /// When everything that is open now breaks.
    fn breaks_at(&self) -> Option<Instant> {
        self.unreachable.map(|(from, _)| from).filter(|from| *from > Instant::now())
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

fn connection_lost(request: &str) -> ApiError {
    ApiError::local(ApiErrorKind::Connection, request, "request to memory:0 failed, reason: connection reset")
}

impl FakeCluster {
    /// Whether a name is that of a claim. Requests for claims are counted and get faults under their own names.
    fn is_claim(name: &str) -> bool {
        name.contains("-claim-")
    }

    async fn create_now(&self, job: Job) -> Result<Job, ApiError> {
        let name = job.metadata.name.clone().unwrap_or_default();
        let request = match (Self::is_claim(&name), is_inert(&job)) {
            (true, _) => "create claim",
            (false, true) => "create barrier",
            (false, false) => "create job",
        };
        let answer_lost = self.receive(request).await?;
        if self.lock().jobs.get(&name).is_some_and(|stored| !stored.is_gone()) {
            let body = br#"{"kind":"Status","message":"already exists","reason":"AlreadyExists"}"#;
            return Err(ApiError::from_answer(request, 409, None, body));
        }
        let script = if is_inert(&job) {
            Script { pod_at: Duration::from_secs(1 << 40), condition_lag: None, ..Script::default() }
        } else {
            self.next_script(&name)
        };
        let created = self.insert(job, script);
        if answer_lost { Err(connection_lost(request)) } else { Ok(created) }
    }

    /// What the pod of a new Job does. As with the Job controller of Kubernetes 1.34, a Job has none for five minutes whose
    /// name a moment ago belonged to another that was deleted while its own pod was being created.
    fn next_script(&self, name: &str) -> Script {
        let moment = Duration::from_secs(1);
        let mut state = self.lock();
        let mut script = state.scripts.pop_front().unwrap_or_default();
        let is_confused = state.jobs.get(name).is_some_and(|before| {
            before.deleted_at().is_some_and(|at| at < before.created + moment && at.elapsed() < moment)
        });
        if is_confused {
            let wait = Duration::from_secs(300);
            script.pod_at += wait;
            script.start_at += wait;
        }
        script
    }

    async fn delete_now(&self, name: String, uid: Option<String>) -> Result<(), ApiError> {
        let request = if Self::is_claim(&name) { "delete claim" } else { "delete job" };
        self.receive(request).await?;
        let mut state = self.lock();
        let stored = state.jobs.get_mut(&name).filter(|stored| !stored.is_gone());
        let stored = stored.ok_or_else(|| not_found(request))?;
        if uid.is_some() && uid != stored.job.metadata.uid {
            return Err(ApiError::from_answer(request, 409, None, b""));
        }
        stored.deleted = Some(Instant::now());
        drop(state);
        self.notify_change();
        Ok(())
    }

    async fn list_now(&self, selector: String) -> Result<Vec<Job>, ApiError> {
        self.receive("list jobs").await?;
        let state = self.lock();
        let there = state.jobs.values().filter(|stored| !stored.is_gone() && stored.matches(&selector));
        Ok(there.map(StoredJob::job_now).collect())
    }

    async fn get_now(&self, name: String) -> Result<Job, ApiError> {
        let request = if Self::is_claim(&name) { "get claim" } else { "get job" };
        self.receive(request).await?;
        let state = self.lock();
        let stored = state.jobs.get(&name).filter(|stored| !stored.is_gone());
        stored.map(StoredJob::job_now).ok_or_else(|| not_found(request))
    }
}

impl Cluster for FakeCluster {
    async fn list_jobs(&self, _: &str, selector: &str) -> Result<Vec<Job>, ApiError> {
        let (this, selector) = (self.clone(), selector.to_owned());
        self.send(async move { this.list_now(selector).await }).await
    }

    async fn get_job(&self, _: &str, name: &str) -> Result<Job, ApiError> {
        let (this, name) = (self.clone(), name.to_owned());
        self.send(async move { this.get_now(name).await }).await
    }

    async fn create_job(&self, _: &str, job: &Job) -> Result<CreatedJob, ApiError> {
        let (this, job) = (self.clone(), job.clone());
        let job = self.send(async move { this.create_now(job).await }).await?;
        let warnings = if is_inert(&job) { Vec::new() } else { self.lock().warnings.clone() };
        Ok(CreatedJob { job, warnings })
    }

    async fn try_job(&self, _: &str, job: &Job) -> Result<Vec<String>, ApiError> {
        self.receive("try job").await?;
        let warnings = self.lock().warnings.clone();
        Ok(if is_inert(job) { Vec::new() } else { warnings })
    }

    async fn try_pod(&self, _: &str, _: &Pod) -> Result<(), ApiError> {
        self.receive("try pod").await.map(drop)
    }

    async fn patch_job(&self, _: &str, name: &str, patch: &Value) -> Result<(), ApiError> {
        self.receive("patch job").await?;
        let mut state = self.lock();
        let stored = state.jobs.get_mut(name).ok_or_else(|| not_found("patch job"))?;
        let labels = stored.job.metadata.labels.get_or_insert_default();
        for step in patch.as_array().expect("a JSON Patch") {
            let path = step["path"].as_str().expect("path");
            let key = path.strip_prefix("/metadata/labels/").expect("a label").replace("~1", "/");
            labels.insert(key, step["value"].as_str().expect("value").to_owned());
        }
        drop(state);
        self.notify_change();
        Ok(())
    }

    async fn delete_job(&self, _: &str, name: &str, uid: Option<&str>) -> Result<(), ApiError> {
        let (this, name, uid) = (self.clone(), name.to_owned(), uid.map(str::to_owned));
        self.send(async move { this.delete_now(name, uid).await }).await
    }

    async fn create_secret(&self, _: &str, secret: &Secret) -> Result<(), ApiError> {
        let answer_lost = self.receive("create secret").await?;
        let name = secret.metadata.name.clone().unwrap_or_default();
        if self.lock().secrets.contains_key(&name) {
            let body = br#"{"kind":"Status","message":"already exists","reason":"AlreadyExists"}"#;
            return Err(ApiError::from_answer("create secret", 409, None, body));
        }
        self.lock().secrets.insert(name, secret.clone());
        if answer_lost { Err(connection_lost("create secret")) } else { Ok(()) }
    }

    async fn delete_secret(&self, _: &str, name: &str) -> Result<(), ApiError> {
        self.receive("delete secret").await?;
        self.lock().secrets.remove(name).map(drop).ok_or_else(|| not_found("delete secret"))
    }

    async fn get_pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError> {
        self.receive("get pod").await?;
        self.lock().pods_read.push(name.to_owned());
        let pod = json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "serviceAccountName": "paperclip-host",
                "containers": [{"name": "paperclip", "image": "agent:1",
                    "volumeMounts": [{"name": "home", "mountPath": "/paperclip"}]}],
                "volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": "home"}}]
            },
        });
        Ok(serde_json::from_value(pod).expect("a pod"))
    }

    async fn list_pods(&self, _: &str, selector: &str) -> Result<Vec<Pod>, ApiError> {
        let Some(name) = selector.strip_prefix("job-name=") else {
            self.receive("list agent pods").await?;
            let state = self.lock();
            let jobs = state.jobs.values().filter(|stored| stored.matches(selector));
            return Ok(jobs.filter_map(StoredJob::pod_now).collect());
        };
        self.receive("list pods").await?;
        let state = self.lock();
        let job = state.jobs.get(name);
        let replacement = job.and_then(|job| job.replacement_at(Instant::now()));
        let own = replacement.into_iter().chain(job.and_then(StoredJob::pod_now));
        let forged = job.into_iter().flat_map(|job| watches::forged_beside(&state, job)).map(|(_, pod)| pod);
        let forged = forged.map(|pod| serde_json::from_value(pod).expect("a pod"));
        Ok(forged.chain(own).collect())
    }

    async fn list_events(&self, _: &str, uid: &str) -> Result<Vec<Event>, ApiError> {
        self.receive("list events").await?;
        let state = self.lock();
        let stored = state.jobs.values();
        let of_object = stored.flat_map(|stored| stored.events_of(uid, Instant::now()));
        Ok(of_object
            .map(|(at, reason, message)| {
                let event = json!({"metadata": {"name": "e"}, "involvedObject": {"uid": uid}, "type": "Warning",
                    "reason": reason, "message": message, "lastTimestamp": self.stamp(at)});
                serde_json::from_value(event).expect("an event")
            })
            .collect())
    }

    async fn list_for_watch(&self, kind: WatchKind, _: &str, selector: &str) -> Result<Vec<u8>, ApiError> {
        self.receive(if kind == WatchKind::Jobs { "list for jobs" } else { "list for pods" }).await?;
        let objects = snapshot(&self.lock(), kind, selector, Instant::now());
        let version = (self.origin.elapsed().as_nanos() + 1).to_string();
        let items: Vec<Value> = objects.into_values().collect();
        Ok(json!({"metadata": {"resourceVersion": version}, "items": items}).to_string().into_bytes())
    }

    async fn watch(&self, kind: WatchKind, _: &str, query: &WatchQuery) -> Result<WatchBody, ApiError> {
        self.receive(if kind == WatchKind::Jobs { "watch jobs" } else { "watch pods" }).await?;
        if !self.may_watch {
            return Err(ApiError::from_answer("watch", 403, None, b"cannot watch"));
        }
        assert!(query.timeout < Duration::from_secs(200));
        let now = Instant::now();
        let mut state = self.lock();
        // A change at the exact moment of the version is reported twice rather than never.
        let reported = query.resource_version.as_ref().map_or_else(BTreeMap::new, |version| {
            let nanos: u64 = version.parse().expect("a version of this cluster");
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
        let watching = OpenWatch {
            origin: self.origin,
            state: self.state.clone(),
            changes: self.changes.subscribe(),
            kind,
            selector: query.selector.clone(),
            reported,
            ends: now + query.timeout,
            bookmark: now + Duration::from_secs(60),
            fault,
            breaks_at,
            opened: now,
        };
        let body = futures::stream::unfold(watching, |mut watching| async move {
            let chunk = watching.next().await?;
            Some((chunk, watching))
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
        self.receive("open log").await?;
        let job = pod.strip_suffix("-pod").expect("a pod of this cluster");
        let mut state = self.lock();
        let stored = state.jobs.get(job).filter(|stored| stored.pod_now().is_some());
        let stored = stored.ok_or_else(|| not_found("open log"))?;
        let now = Instant::now();
        if now < stored.started() {
            let text = b"is waiting to start: PodInitializing";
            return Err(ApiError::from_answer("open log", 400, None, text));
        }
        let started = stored.started();
        if stored.script.node_lost_at.is_some_and(|at| stored.created + at <= now) {
            return Err(ApiError::from_answer("open log", 502, None, b"dial tcp: no route to host"));
        }
        let ends = stored.pod_gone_by_deletion().map_or(stored.ended(), |at| at.min(stored.ended()));
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
        let delivered_lines = stored.delivered_lines.clone();
        let stored_lost_at = stored.script.node_lost_at.map(|at| stored.created + at);
        let most = match state.cut_every {
            Some(CutEvery::Lines(lines)) => at + lines,
            Some(CutEvery::NewLines(lines)) => delivered_lines.load(Ordering::Relaxed).max(at) + lines,
            None => usize::MAX,
        };
        let fault = state.log_faults.pop_front();
        let lost = stored_lost_at.filter(|at| *at > now);
        let breaks_at = state.breaks_at().into_iter().chain(lost).min();
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
            delivered_lines,
            bytes_left: match fault {
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
            let chunk = body.next().await?;
            Some((chunk, body))
        });
        Ok(log_from_stream(body))
    }

    async fn last_log_line(&self, _: &str, pod: &str, _: &str) -> Result<Vec<u8>, ApiError> {
        self.receive("read last log line").await?;
        let job = pod.strip_suffix("-pod").expect("a pod of this cluster");
        let state = self.lock();
        let stored = state.jobs.get(job).filter(|stored| stored.pod_now().is_some());
        let stored = stored.ok_or_else(|| not_found("read last log line"))?;
        let (now, started) = (Instant::now(), stored.started());
        let printed = stored.lines.partition_point(|(offset, _)| started + *offset <= now);
        let last = printed.checked_sub(1).map(|at| started + stored.lines[at].0);
        Ok(last.map_or_else(Vec::new, |at| format!("{} \n", self.stamp(at)).into_bytes()))
    }

    async fn get_namespace(&self, _: &str) -> Result<bool, ApiError> {
        self.receive("get namespace").await.map(|_| false)
    }

    async fn get_secret(&self, _: &str, _: &str) -> Result<(), ApiError> {
        self.receive("get secret").await.map(drop)
    }

    async fn claim_access_modes(&self, _: &str, _: &str) -> Result<Vec<String>, ApiError> {
        self.receive("get claim").await?;
        Ok(vec!["ReadWriteMany".to_owned()])
    }

    async fn can_i(&self, question: AccessReview<'_>) -> Result<bool, ApiError> {
        self.receive("review access").await?;
        Ok(question.verb != "patch")
    }
}

/// The same cluster for every kubeconfig.
pub(crate) struct OneCluster(pub(crate) Arc<FakeCluster>);

impl Clusters for OneCluster {
    type Cluster = FakeCluster;

    async fn cluster(
        &self,
        _: Option<&str>,
        _: &BTreeMap<String, String>,
    ) -> Result<Arc<FakeCluster>, ApiError> {
        Ok(self.0.clone())
    }
}
