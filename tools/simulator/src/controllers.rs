//! The Job controller, the garbage collector, the TTL controller and namespace deletion.

use crate::Sim;
use crate::kinds::{self, JOB, Kind, NAMESPACE, POD, RESOURCE_QUOTA};
use crate::ops::{self, DeleteOptions, FOREGROUND, ORPHAN, Propagation, condition, set_condition};
use crate::store::{Change, Event, Object};
use crate::util::{int_at, list_at, lock, obj, remove, str_at};
use crate::{admission, time, validate};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

type Key = (String, String);

/// Holds a Job's pod until the controller has counted it.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The controller that does what others claim by `spec.managedBy`.
const THIS_CONTROLLER: &str = "kubernetes.io/job-controller";

/// What a Job has to wait for before its next pod.
#[derive(Default)]
struct Backoff {
    /// Pods that failed since one succeeded, and the last of these times.
    failures: u32,
    last: Option<Instant>,
    /// Creations that were refused one after the other, and the last of these times.
    refusals: u32,
    refused: Option<Instant>,
}

impl Backoff {
    /// How long to wait before another pod.
    fn left(&self, base_ms: u64) -> Duration {
        let left = |from: Option<Instant>, first: Duration, times: u32, most: Duration| {
            let wait = (first * (1 << times.saturating_sub(1).min(10))).min(most);
            from.map_or(Duration::ZERO, |at| (at + wait).saturating_duration_since(Instant::now()))
        };
        let failed = left(self.last, Duration::from_millis(base_ms), self.failures, Duration::from_secs(600));
        failed.max(left(self.refused, Duration::from_secs(1), self.refusals, Duration::from_secs(60)))
    }

    /// Notes whether all pods that were needed could be created.
    fn note_creation(&mut self, done: bool) {
        self.refusals = if done { 0 } else { self.refusals + 1 };
        self.refused = (!done).then(Instant::now);
    }
}

/// Keeps Jobs going, as the controller of 1.37 does: it looks at a Job when the Job is created or changed, and one
/// period after the first change of its pods or status.
pub(crate) struct JobController {
    sim: Arc<Sim>,
    due: HashMap<Key, Instant>,
    backoffs: HashMap<String, Backoff>,
}

fn controller_ref(v: &Value) -> Option<&Value> {
    list_at(v, "/metadata/ownerReferences").iter().find(|r| r["kind"] == "Job" && r["controller"] == true)
}

fn is_tracked(pod: &Object) -> bool {
    list_at(&pod.value, "/metadata/finalizers").iter().any(|f| f == TRACKING)
}

fn is_finished(job: &Object) -> bool {
    condition(&job.value, "Complete") || condition(&job.value, "Failed")
}

/// Lets go of a pod that was counted, or that no Job counts.
fn release(sim: &Sim, pod: &Object) {
    let _ = sim.store.update(&POD, &pod.namespace, &pod.name, |v, now| {
        if now.uid == pod.uid
            && let Some(list) = v["metadata"]["finalizers"].as_array_mut()
        {
            list.retain(|f| f != TRACKING);
            if list.is_empty() {
                remove(&mut v["metadata"], "finalizers");
            }
        }
        Ok(())
    });
}

impl JobController {
    /// A controller that has seen nothing yet.
    pub(crate) fn new(sim: Arc<Sim>) -> Self {
        JobController { sim, due: HashMap::new(), backoffs: HashMap::new() }
    }

    fn lag(&self) -> Duration {
        Duration::from_millis(lock(&self.sim.settings).job_condition_lag_ms)
    }

    /// Reconciles every object that is due.
    fn sync_due(&mut self) {
        let now = Instant::now();
        let ready: Vec<Key> = self.due.iter().filter(|(_, at)| **at <= now).map(|(k, _)| k.clone()).collect();
        for key in ready {
            self.due.remove(&key);
            if let Some(next) = self.sync(&key) {
                self.mark(key, next);
            }
        }
    }

    fn mark(&mut self, key: Key, delay: Duration) {
        let at = Instant::now() + delay;
        let slot = self.due.entry(key).or_insert(at);
        *slot = at.min(*slot);
    }

    /// Works until the cluster stops.
    pub(crate) async fn run(mut self) {
        let mut head = self.sim.store.subscribe();
        let mut stopping = self.sim.stopping.subscribe();
        let mut seen = 0;
        loop {
            if !lock(&self.sim.settings).job_controller_paused {
                seen = self.catch_up(seen);
                self.sync_due();
            }
            let now = Instant::now();
            let next = self.due.values().min().copied();
            let next = next.unwrap_or(now + Duration::from_secs(60)).max(now + Duration::from_millis(1));
            tokio::select! {
                changed = head.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(next) => {}
                _ = stopping.changed() => return,
            }
        }
    }

    fn catch_up(&mut self, seen: u64) -> u64 {
        if let Some((events, version)) = self.sim.store.since(seen, None) {
            for e in events {
                self.note(&e);
            }
            return version;
        }
        let (jobs, version) = self.sim.store.list(&JOB, None);
        for j in jobs {
            self.mark((j.namespace.clone(), j.name.clone()), Duration::ZERO);
        }
        for pod in self.sim.store.list(&POD, None).0 {
            self.note_pod(&pod);
        }
        version
    }

    fn note(&mut self, e: &Event) {
        let o = &e.object;
        if o.kind == &POD {
            if e.change != Change::Deleted {
                return self.note_pod(o);
            }
            let key = controller_ref(&o.value).map(|r| (o.namespace.clone(), str_at(r, "/name").to_string()));
            if let Some(key) = key {
                self.mark(key, self.lag());
            }
            return;
        }
        if o.kind != &JOB {
            return;
        }
        let key = (o.namespace.clone(), o.name.clone());
        if e.change == Change::Deleted {
            self.backoffs.remove(&o.uid);
            for pod in self.sim.store.dependents(&o.uid).iter().filter(|p| is_tracked(p)) {
                release(&self.sim, pod);
            }
            return;
        }
        let generation = |o: &Object| int_at(&o.value, "/metadata/generation");
        let status_only = e.before.as_deref().is_some_and(|old| generation(old) == generation(o));
        let delay = if status_only { self.lag() } else { Duration::ZERO };
        self.mark(key, delay);
    }

    /// A pod has changed: its Job is looked at soon. One that no live Job counts is let go.
    fn note_pod(&mut self, pod: &Object) {
        let reference = controller_ref(&pod.value);
        let job = reference.and_then(|r| {
            let job = self.sim.store.get(&JOB, &pod.namespace, str_at(r, "/name"))?;
            (r["uid"] == job.uid).then_some(job)
        });
        match job {
            Some(job) if !is_finished(&job) => {
                let lag = self.lag();
                self.mark((job.namespace.clone(), job.name.clone()), lag);
            }
            _ if is_tracked(pod) => release(&self.sim, pod),
            _ => {}
        }
    }

    /// Brings one Job forward; returns after which time to sync it again, if there is one.
    fn sync(&mut self, key: &Key) -> Option<Duration> {
        let job = self.sim.store.get(&JOB, &key.0, &key.1)?;
        if is_finished(&job) {
            self.backoffs.remove(&job.uid);
            return if job.deleting() { None } else { self.expire(&job) };
        }
        let manager = str_at(&job.value, "/spec/managedBy");
        if !manager.is_empty() && manager != THIS_CONTROLLER {
            return None;
        }
        let sim = self.sim.clone();
        let mut pods = sim.store.dependents(&job.uid);
        pods.retain(|p| p.kind == &POD && p.namespace == job.namespace && p.controller == job.uid);
        let pods: Vec<&Object> = pods.iter().map(AsRef::as_ref).collect();
        let mut counts = Counts::of(&job, &pods);
        self.note_backoff(&job, &counts);
        let deadline_left = deadline_left(&job);
        let mut verdict = Verdict::of(&job, &counts, deadline_left);
        let mut again = deadline_left
            .filter(|_| verdict.is_none())
            .map(|left| Duration::from_nanos(u64::try_from(left).unwrap_or(0)));
        let active = counts.active.clone();
        if verdict.is_some() {
            counts.close(&active);
            delete_pods(&sim, &job, &active);
        } else {
            if !job.deleting() {
                again = earlier(again, self.manage(&job, &mut counts));
            }
            if counts.reached(&job) {
                verdict = Some(Verdict::reached());
            }
        }
        let deadline = job.value["spec"]["suspend"] != true
            && int_at(&job.value, "/spec/activeDeadlineSeconds").is_some();
        if deadline && str_at(&job.value, "/status/startTime").is_empty() {
            again = earlier(again, Some(Duration::from_millis(10)));
        }
        track(&sim, &job, &pods, &counts, verdict.as_ref());
        again
    }

    fn note_backoff(&mut self, job: &Object, counts: &Counts) {
        let known = self.backoffs.entry(job.uid.clone()).or_default();
        if !counts.new_succeeded.is_empty() {
            (known.failures, known.last) = (0, None);
        }
        let failures = u32::try_from(counts.new_failed.len()).unwrap_or(u32::MAX);
        if failures > 0 {
            known.failures = known.failures.saturating_add(failures);
            known.last = Some(Instant::now());
        }
    }

    /// Deletes the pods of a suspended Job, or creates those that a Job needs; returns when to look again.
    fn manage(&mut self, job: &Object, counts: &mut Counts) -> Option<Duration> {
        if job.value["spec"]["suspend"] == true {
            let active = counts.active.clone();
            for pod in &active {
                release(&self.sim, pod);
            }
            counts.close(&active);
            delete_pods(&self.sim, job, &active);
            return None;
        }
        let missing = spec_number(job, "completions", 1) - counts.succeeded as i64;
        let mut want = spec_number(job, "parallelism", 1).min(missing) - counts.live as i64;
        if str_at(&job.value, "/spec/podReplacementPolicy") == "Failed" {
            want -= counts.closing as i64;
        }
        let want = usize::try_from(want).unwrap_or(0);
        let base = lock(&self.sim.settings).job_backoff_ms;
        let backoff = self.backoffs.entry(job.uid.clone()).or_default();
        let wait = backoff.left(base);
        if want > 0 && !wait.is_zero() {
            return Some(wait);
        }
        let created = create_pods(&self.sim, job, want);
        counts.live += created;
        backoff.note_creation(created == want);
        (created < want).then(|| backoff.left(base))
    }

    fn expire(&self, job: &Object) -> Option<Duration> {
        let ttl = int_at(&job.value, "/spec/ttlSecondsAfterFinished")?;
        let ended = list_at(&job.value, "/status/conditions")
            .iter()
            .filter(|c| matches!(str_at(c, "/type"), "Complete" | "Failed") && c["status"] == "True")
            .find_map(|c| time::parse_rfc3339(str_at(c, "/lastTransitionTime")))?;
        let left = ended + ttl - time::now_secs();
        if left > 0 {
            return Some(Duration::from_secs(u64::try_from(left).unwrap_or(1)));
        }
        let options =
            DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::background(job) };
        let _ = ops::delete(&self.sim, &JOB, &job.namespace, &job.name, &options);
        None
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn earlier(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

fn spec_number(job: &Object, key: &str, default: i64) -> i64 {
    int_at(&job.value["spec"], &format!("/{key}")).unwrap_or(default)
}

/// Nanoseconds that a Job has until its deadline; `None` without one and while it is suspended.
fn deadline_left(job: &Object) -> Option<i64> {
    let deadline = int_at(&job.value, "/spec/activeDeadlineSeconds")?;
    if job.value["spec"]["suspend"] == true {
        return None;
    }
    let started = time::parse_rfc3339(str_at(&job.value, "/status/startTime"));
    let age = started.map_or(0, |t| time::now_ns() - t * 1_000_000_000);
    Some(deadline * 1_000_000_000 - age)
}

/// A Job's pods by what they are doing.
struct Counts<'a> {
    active: Vec<&'a Object>,
    live: usize,
    closing: usize,
    ready: usize,
    succeeded: usize,
    failed: usize,
    new_succeeded: Vec<&'a Object>,
    new_failed: Vec<&'a Object>,
}

impl<'a> Counts<'a> {
    fn of(job: &Object, pods: &[&'a Object]) -> Self {
        let phase = |p: &Object| str_at(&p.value, "/status/phase").to_string();
        let open: Vec<&Object> =
            pods.iter().copied().filter(|p| !matches!(&*phase(p), "Succeeded" | "Failed")).collect();
        let (closing, active): (Vec<&Object>, Vec<&Object>) = open.into_iter().partition(|p| p.deleting());
        // Unless the Job says otherwise, a pod that is being deleted has failed.
        let replace_failed_only = str_at(&job.value, "/spec/podReplacementPolicy") == "Failed";
        let new = |wanted: &dyn Fn(&Object) -> bool| -> Vec<&'a Object> {
            pods.iter().copied().filter(|p| is_tracked(p) && wanted(p)).collect()
        };
        let new_succeeded = new(&|p| phase(p) == "Succeeded");
        let new_failed = new(&|p| match &*phase(p) {
            "Failed" => true,
            "Succeeded" => false,
            // The pods of a Job that is deleted are let go before they are deleted themselves.
            _ => p.deleting() && !replace_failed_only && !job.deleting(),
        });
        let number = |key: &str| {
            let n = int_at(&job.value, &format!("/status/{key}")).unwrap_or(0);
            usize::try_from(n).unwrap_or(0)
        };
        Counts {
            live: active.len(),
            closing: closing.len(),
            ready: ready(&active),
            succeeded: number("succeeded") + new_succeeded.len(),
            failed: number("failed") + new_failed.len(),
            active,
            new_succeeded,
            new_failed,
        }
    }

    /// These pods are being deleted now.
    fn close(&mut self, pods: &[&Object]) {
        self.live -= pods.len();
        self.closing += pods.len();
        self.ready -= ready(pods);
    }

    fn reached(&self, job: &Object) -> bool {
        self.live == 0 && self.succeeded as i64 >= spec_number(job, "completions", 1)
    }
}

fn ready(pods: &[&Object]) -> usize {
    pods.iter().filter(|p| condition(&p.value, "Ready")).count()
}

/// How a Job ends.
struct Verdict {
    good: bool,
    reason: String,
    message: String,
}

impl Verdict {
    fn new(good: bool, reason: &str, message: &str) -> Self {
        Verdict { good, reason: reason.to_string(), message: message.to_string() }
    }

    fn reached() -> Self {
        Verdict::new(true, "CompletionsReached", "Reached expected number of succeeded pods")
    }

    /// The end that a Job was found to have come to, or that its failures or its time make.
    fn of(job: &Object, counts: &Counts, deadline_left: Option<i64>) -> Option<Self> {
        let decided = |kind: &str| {
            list_at(&job.value, "/status/conditions")
                .iter()
                .find(|c| c["type"] == kind && c["status"] == "True")
                .map(|c| Verdict::new(kind != "FailureTarget", str_at(c, "/reason"), str_at(c, "/message")))
        };
        if let Some(verdict) = decided("SuccessCriteriaMet").or_else(|| decided("FailureTarget")) {
            return Some(verdict);
        }
        let limit = spec_number(job, "backoffLimit", 6);
        if counts.failed as i64 > limit || restarted_too_often(job, &counts.active, limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(Verdict::new(false, "BackoffLimitExceeded", message));
        }
        deadline_left.filter(|left| *left <= 0).map(|_| {
            let message = "Job was active longer than specified deadline";
            Verdict::new(false, "DeadlineExceeded", message)
        })
    }

    fn early(&self) -> &'static str {
        if self.good { "SuccessCriteriaMet" } else { "FailureTarget" }
    }

    fn last(&self) -> &'static str {
        if self.good { "Complete" } else { "Failed" }
    }

    fn report(&self, sim: &Sim, job: &Object, at: i64) {
        sim.load.finished(job, self.good, at);
        let (reason, message) =
            if self.good { ("Completed", "Job completed") } else { (&*self.reason, &*self.message) };
        sim.store.emit(job, self.good, reason, message, "job-controller");
    }
}

/// Restarts of containers count towards the limit where the pods restart them themselves.
fn restarted_too_often(job: &Object, active: &[&Object], limit: i64) -> bool {
    let restarts: i64 = active
        .iter()
        .flat_map(|p| {
            ["initContainerStatuses", "containerStatuses"]
                .into_iter()
                .flat_map(|k| list_at(&p.value["status"], &format!("/{k}")))
        })
        .filter_map(|c| c["restartCount"].as_i64())
        .sum();
    str_at(&job.value, "/spec/template/spec/restartPolicy") == "OnFailure"
        && if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn delete_pods(sim: &Sim, job: &Object, pods: &[&Object]) {
    for p in pods {
        let _ = ops::delete(sim, &POD, &p.namespace, &p.name, &DeleteOptions::background(p));
        let text = format!("Deleted pod: {}", p.name);
        sim.store.emit(job, true, "SuccessfulDelete", &text, "job-controller");
    }
}

/// Creates pods for a Job; returns how many of them could be created.
fn create_pods(sim: &Sim, job: &Object, number: usize) -> usize {
    let mut created = 0;
    let mut failure = None;
    for _ in 0..number {
        match create_pod(sim, job) {
            Ok(name) => {
                created += 1;
                let text = format!("Created pod: {name}");
                sim.store.emit(job, true, "SuccessfulCreate", &text, "job-controller");
            }
            Err(e) => failure = Some(e.message),
        }
    }
    if let Some(why) = failure {
        let text = format!("Error creating: {why}");
        sim.store.emit(job, false, "FailedCreate", &text, "job-controller");
    }
    created
}

/// Writes a Job's status in the steps of the real controller: first the pods that are to be counted, with the interim
/// condition; then these pods are let go; then their numbers, with the final condition once all pods have ended.
fn track(sim: &Sim, job: &Object, pods: &[&Object], counts: &Counts, verdict: Option<&Verdict>) {
    if verdict.is_none() {
        tell_suspension(sim, job);
    }
    let failing = verdict.is_some_and(|v| !v.good);
    let (mut let_go, mut good, mut bad) = (Vec::new(), Vec::new(), Vec::new());
    for pod in pods.iter().copied().filter(|p| is_tracked(p)) {
        let has = |list: &[&Object]| list.iter().any(|p| p.uid == pod.uid);
        let (succeeded, failed) = (has(&counts.new_succeeded), has(&counts.new_failed));
        if !(succeeded || failed || verdict.is_some() || job.deleting()) {
            continue;
        }
        let_go.push(pod);
        if succeeded {
            good.push(pod.uid.clone());
        } else if failed || failing {
            // Once the Job has failed, every pod that has not ended has failed.
            bad.push(pod.uid.clone());
        }
    }
    write_status(sim, job, |s| {
        write_counts(s, job, counts);
        if !good.is_empty() || !bad.is_empty() {
            s["uncountedTerminatedPods"] = json!({});
            for (key, uids) in [("succeeded", &good), ("failed", &bad)] {
                if !uids.is_empty() {
                    s["uncountedTerminatedPods"][key] = uids.clone().into();
                }
            }
        }
        if let Some(v) = verdict {
            add_condition(s, v.early(), v);
        }
    });
    for pod in let_go {
        release(sim, pod);
    }
    let finished = verdict.filter(|_| counts.closing == 0);
    let before = time::now_ns();
    write_status(sim, job, |s| {
        for (key, uids) in [("succeeded", &good), ("failed", &bad)] {
            let n = int_at(s, &format!("/{key}")).unwrap_or(0) + uids.len() as i64;
            if n > 0 {
                s[key] = n.into();
            }
        }
        s["uncountedTerminatedPods"] = json!({});
        if let Some(v) = finished {
            add_condition(s, v.last(), v);
            if v.good {
                s["completionTime"] = time::now().into();
            }
        }
    });
    if let Some(verdict) = finished {
        verdict.report(sim, job, before);
    }
}

fn add_condition(status: &mut Value, kind: &str, verdict: &Verdict) {
    let there = list_at(status, "/conditions").iter().any(|c| c["type"] == kind);
    if !there {
        set_condition(status, kind, true, &verdict.reason, &verdict.message);
        if let Some(condition) = status["conditions"].as_array_mut().and_then(|l| l.last_mut()) {
            condition["lastProbeTime"] = condition["lastTransitionTime"].clone();
        }
    }
}

fn write_status(sim: &Sim, job: &Object, change: impl FnOnce(&mut Value)) {
    let _ = sim.store.update(&JOB, &job.namespace, &job.name, |v, now| {
        if now.uid == job.uid {
            change(obj(v, "status"));
        }
        Ok(())
    });
}

/// Records the Event of a Job that is suspended or resumed now.
fn tell_suspension(sim: &Sim, job: &Object) {
    match (job.value["spec"]["suspend"] == true, condition(&job.value, "Suspended")) {
        (true, false) => sim.store.emit(job, true, "Suspended", "Job suspended", "job-controller"),
        (false, true) => sim.store.emit(job, true, "Resumed", "Job resumed", "job-controller"),
        _ => {}
    }
}

fn write_counts(s: &mut Value, job: &Object, counts: &Counts) {
    if counts.live > 0 {
        s["active"] = counts.live.into();
    } else {
        remove(s, "active");
    }
    s["ready"] = counts.ready.into();
    s["terminating"] = counts.closing.into();
    crate::util::default(s, "uncountedTerminatedPods", json!({}));
    if job.value["spec"]["suspend"] == true {
        set_condition(s, "Suspended", true, "JobSuspended", "Job suspended");
        remove(s, "startTime");
        return;
    }
    if condition(&job.value, "Suspended") {
        set_condition(s, "Suspended", false, "JobResumed", "Job resumed");
    }
    if str_at(s, "/startTime").is_empty() {
        s["startTime"] = time::now().into();
    }
}

fn create_pod(sim: &Sim, job: &Object) -> Result<String, crate::status::ApiError> {
    let template = &job.value["spec"]["template"];
    let mut pod = json!({"metadata": template["metadata"], "spec": template["spec"]});
    let meta = obj(&mut pod, "metadata");
    meta["name"] = Value::Null;
    let head = job.name.get(..job.name.len().min(57)).unwrap_or(&job.name);
    meta["generateName"] = format!("{head}-").into();
    meta["ownerReferences"] = json!([{
        "apiVersion": "batch/v1", "kind": "Job", "name": job.name, "uid": job.uid,
        "controller": true, "blockOwnerDeletion": true,
    }]);
    let mut finalizers = list_at(meta, "/finalizers").to_vec();
    if !finalizers.iter().any(|f| f == TRACKING) {
        finalizers.push(TRACKING.into());
    }
    meta["finalizers"] = finalizers.into();
    validate::check_types(&POD, &pod)?;
    ops::create(sim, &POD, &job.namespace, pod, false).map(|p| p.name.clone())
}

type Held = (&'static Kind, String, String, String);

/// Deletes dependents of deleted objects, and the contents of deleted namespaces; keeps count for quotas.
pub(crate) struct Collector {
    sim: Arc<Sim>,
    foreground: HashSet<(String, Held)>,
    namespaces: HashSet<String>,
    /// Namespaces in which something changed that quotas count, and when they are counted anew.
    counted: HashMap<String, Instant>,
}

impl std::hash::Hash for Kind {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.plural.hash(state);
    }
}

impl Collector {
    /// A collector that has seen nothing yet.
    pub(crate) fn new(sim: Arc<Sim>) -> Self {
        Collector { sim, foreground: HashSet::new(), namespaces: HashSet::new(), counted: HashMap::new() }
    }

    /// Works until the cluster stops.
    pub(crate) async fn run(mut self) {
        let mut head = self.sim.store.subscribe();
        let mut stopping = self.sim.stopping.subscribe();
        let mut seen = 0;
        loop {
            match self.sim.store.since(seen, None) {
                Some((events, version)) => {
                    seen = version;
                    for e in &events {
                        self.note(e);
                    }
                }
                None => seen = self.relist(),
            }
            self.count();
            for item in self.foreground.clone() {
                if self.finish_foreground(&item.1) {
                    self.foreground.remove(&item);
                }
            }
            for ns in self.namespaces.clone() {
                if self.empty_namespace(&ns) {
                    self.namespaces.remove(&ns);
                }
            }
            tokio::select! {
                changed = head.changed() => if changed.is_err() { return },
                () = until(self.counted.values().min().copied()) => {}
                _ = stopping.changed() => return,
            }
        }
    }

    /// Counts anew what quotas limit, where that is due.
    fn count(&mut self) {
        let now = Instant::now();
        let due: Vec<String> =
            self.counted.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for namespace in due {
            self.counted.remove(&namespace);
            for quota in self.sim.store.list(&RESOURCE_QUOTA, Some(&namespace)).0 {
                admission::refresh_quota(&self.sim.store, &quota);
            }
        }
    }

    /// The history was compacted: every object is checked.
    fn relist(&mut self) -> u64 {
        let version = self.sim.store.version();
        for kind in kinds::ALL.into_iter().filter(|k| !k.is_review() && k.kind != "Event") {
            for o in self.sim.store.list(kind, None).0 {
                self.check_owners(&o);
                self.note_deletion(&o);
            }
        }
        version
    }

    fn note(&mut self, e: &Event) {
        let o = &e.object;
        // A quota of which only the count has changed needs no other.
        let same_limits = o.kind == &RESOURCE_QUOTA
            && e.before.as_ref().is_some_and(|before| before.value["spec"] == o.value["spec"]);
        if admission::concerns_quota(o.kind) && !same_limits {
            let lag = if o.kind == &RESOURCE_QUOTA { 0 } else { lock(&self.sim.settings).quota_lag_ms };
            let at = Instant::now() + Duration::from_millis(lag);
            let due = self.counted.entry(o.namespace.clone()).or_insert(at);
            *due = at.min(*due);
        }
        if e.change == Change::Deleted {
            if o.kind.kind != "Event" {
                self.collect(&o.uid);
            }
            return;
        }
        if e.change == Change::Added {
            self.check_owners(o);
        }
        self.note_deletion(o);
    }

    fn note_deletion(&mut self, o: &Object) {
        if !o.deleting() {
            return;
        }
        if o.kind == &NAMESPACE {
            self.namespaces.insert(o.name.clone());
            return;
        }
        let has = |name: &str| list_at(&o.value, "/metadata/finalizers").iter().any(|f| f == name);
        if has(FOREGROUND) {
            let held = (o.kind, o.namespace.clone(), o.name.clone(), o.uid.clone());
            self.foreground.insert((o.uid.clone(), held));
        }
        if has(ORPHAN) {
            for d in ops::dependents_of(&self.sim, &o.uid) {
                ops::drop_owner(&self.sim, &d, &o.uid);
            }
            self.drop_finalizer(o.kind, &o.namespace, &o.name, ORPHAN);
        }
    }

    fn drop_finalizer(&self, kind: &'static Kind, namespace: &str, name: &str, finalizer: &str) {
        let _ = self.sim.store.update(kind, namespace, name, |v, _| {
            if let Some(list) = v["metadata"]["finalizers"].as_array_mut() {
                list.retain(|f| f != finalizer);
            }
            Ok(())
        });
    }

    fn delete(&self, o: &Object) {
        let _ = ops::delete(&self.sim, o.kind, &o.namespace, &o.name, &DeleteOptions::background(o));
    }

    fn collect(&self, uid: &str) {
        for d in ops::dependents_of(&self.sim, uid) {
            let others = list_at(&d.value, "/metadata/ownerReferences")
                .iter()
                .any(|r| r["uid"] != uid && self.exists(&d.namespace, r));
            if others {
                ops::drop_owner(&self.sim, &d, uid);
            } else if !d.deleting() {
                self.delete(&d);
            }
        }
    }

    fn exists(&self, namespace: &str, r: &Value) -> bool {
        // Owners of kinds that are not served are taken on trust.
        let Some(kind) = kinds::by_kind(str_at(r, "/apiVersion"), str_at(r, "/kind")) else {
            return true;
        };
        let namespace = if kind.namespaced { namespace } else { "" };
        self.sim.store.get(kind, namespace, str_at(r, "/name")).is_some_and(|o| r["uid"] == o.uid)
    }

    fn check_owners(&self, o: &Object) {
        let owners = list_at(&o.value, "/metadata/ownerReferences");
        if !o.deleting() && !owners.is_empty() && !owners.iter().any(|r| self.exists(&o.namespace, r)) {
            self.delete(o);
        }
    }

    fn finish_foreground(&self, (kind, namespace, name, uid): &Held) -> bool {
        let still = self.sim.store.get(kind, namespace, name);
        if still.is_none_or(|o| o.uid != *uid) {
            return true;
        }
        let dependents = ops::dependents_of(&self.sim, uid);
        for d in dependents.iter().filter(|d| !d.deleting()) {
            self.delete(d);
        }
        let blocked = ops::dependents_of(&self.sim, uid).iter().any(|d| {
            list_at(&d.value, "/metadata/ownerReferences")
                .iter()
                .any(|r| r["uid"] == *uid && r["blockOwnerDeletion"] == true)
        });
        if blocked {
            return false;
        }
        self.drop_finalizer(kind, namespace, name, FOREGROUND);
        true
    }

    fn empty_namespace(&self, namespace: &str) -> bool {
        let mut left = 0;
        for kind in kinds::ALL.into_iter().filter(|k| k.namespaced) {
            for o in self.sim.store.list(kind, Some(namespace)).0 {
                if !o.deleting() {
                    self.delete(&o);
                }
                left += usize::from(self.sim.store.get(kind, namespace, &o.name).is_some());
            }
        }
        if left > 0 {
            return false;
        }
        self.sim.store.remove(&NAMESPACE, "", namespace, None);
        true
    }
}
