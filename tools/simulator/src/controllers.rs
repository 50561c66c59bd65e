//! The Job controller, the garbage collector, the TTL controller and namespace deletion.

use crate::Sim;
use crate::kinds::{self, JOB, Kind, NAMESPACE, POD};
use crate::ops::{self, DeleteOptions, Propagation, condition, set_condition};
use crate::store::{Change, Event, Object};
use crate::util::{int_at, list_at, lock, obj, remove, str_at};
use crate::{time, validate};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

type Key = (String, String);

#[derive(Default)]
struct Tally {
    succeeded: HashSet<String>,
    failed: HashSet<String>,
    last_failure: Option<Instant>,
    decided: Option<Instant>,
}

impl Tally {
    fn count(&mut self, pod: &Object, gone: bool) -> bool {
        if self.succeeded.contains(&pod.uid) || self.failed.contains(&pod.uid) {
            return false;
        }
        match str_at(&pod.value, "/status/phase") {
            "Succeeded" => self.succeeded.insert(pod.uid.clone()),
            "Failed" => self.fail(&pod.uid),
            _ if gone => self.fail(&pod.uid),
            _ => false,
        }
    }

    fn fail(&mut self, uid: &str) -> bool {
        self.last_failure = Some(Instant::now());
        self.failed.insert(uid.to_string())
    }
}

/// Keeps Jobs going.
pub(crate) struct JobController {
    sim: Arc<Sim>,
    due: HashMap<Key, Instant>,
    tallies: HashMap<String, Tally>,
}

fn controller_uid(v: &Value) -> Option<&str> {
    list_at(v, "/metadata/ownerReferences")
        .iter()
        .find(|r| r["kind"] == "Job" && r["controller"] == true)
        .and_then(|r| r["uid"].as_str())
}

impl JobController {
    /// A controller that has seen nothing yet.
    pub(crate) fn new(sim: Arc<Sim>) -> Self {
        JobController { sim, due: HashMap::new(), tallies: HashMap::new() }
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
            match self.sim.store.since(seen, None) {
                Some((events, version)) => {
                    seen = version;
                    for e in events {
                        self.note(&e);
                    }
                }
                None => {
                    let (jobs, version) = self.sim.store.list(&JOB, None);
                    seen = version;
                    for j in jobs {
                        self.mark((j.namespace.clone(), j.name.clone()), Duration::ZERO);
                    }
                }
            }
            if !lock(&self.sim.settings).job_controller_paused {
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

    fn note(&mut self, e: &Event) {
        let o = &e.object;
        if o.kind == &JOB {
            if e.change == Change::Deleted {
                self.tallies.remove(&o.uid);
                return;
            }
            self.mark((o.namespace.clone(), o.name.clone()), Duration::ZERO);
        } else if o.kind == &POD {
            let Some(uid) = controller_uid(&o.value) else {
                return;
            };
            let name = list_at(&o.value, "/metadata/ownerReferences")
                .iter()
                .find(|r| r["uid"] == uid)
                .map_or("", |r| str_at(r, "/name"));
            let key = (o.namespace.clone(), name.to_string());
            let gone = e.change == Change::Deleted;
            let tally = self.tallies.entry(uid.to_string()).or_default();
            let counted = tally.count(o, gone);
            let delay = if counted || gone { self.lag() } else { Duration::from_millis(1) };
            self.mark(key, delay);
        }
    }

    /// Brings one Job forward; returns after which time to sync it again, if there is one.
    fn sync(&mut self, key: &Key) -> Option<Duration> {
        let job = self.sim.store.get(&JOB, &key.0, &key.1)?;
        if job.deleting() {
            return None;
        }
        if condition(&job.value, "Complete") || condition(&job.value, "Failed") {
            return self.expire(&job);
        }
        let lag = self.lag();
        let sim = self.sim.clone();
        let mut pods = sim.store.dependents(&job.uid);
        pods.retain(|p| p.kind == &POD && p.namespace == job.namespace && p.controller == job.uid);
        let tally = self.tallies.entry(job.uid.clone()).or_default();
        for p in &pods {
            tally.count(p, false);
        }
        let terminal = |p: &Object| matches!(str_at(&p.value, "/status/phase"), "Succeeded" | "Failed");
        let (terminating, active): (Vec<_>, Vec<_>) =
            pods.iter().map(AsRef::as_ref).filter(|p| !terminal(p)).partition(|p: &&Object| p.deleting());
        let suspended = job.value["spec"]["suspend"] == true;
        let deadline_left = deadline_left(&job);
        let verdict = Verdict::of(&job, tally, &active, deadline_left);
        let mut counts = Counts {
            live: active.len(),
            closing: terminating.len(),
            succeeded: tally.succeeded.len(),
            failed: tally.failed.len(),
            ready: active.iter().filter(|p| condition(&p.value, "Ready")).count(),
        };
        let mut again = deadline_left
            .filter(|_| verdict.is_none())
            .map(|left| Duration::from_nanos(u64::try_from(left).unwrap_or(0)));
        let mut to_create = 0;
        if suspended || verdict.is_some() {
            delete_pods(&sim, &job, &active);
            counts.closing += counts.live;
            counts.live = 0;
        } else {
            match pods_to_create(&sim, &job, tally, counts.live) {
                Ok(number) => to_create = number,
                Err(backoff) => again = Some(sooner(again, backoff)),
            }
        }
        let all_ended = counts.closing == 0 && counts.live == 0;
        let mut final_now = false;
        if let Some(at) = tally.decided {
            final_now = all_ended && at.elapsed() >= lag;
            if !final_now && all_ended {
                again = Some(lag.saturating_sub(at.elapsed()));
            }
        } else if verdict.is_some() {
            tally.decided = Some(Instant::now());
            again = Some(lag);
        }
        let created = create_pods(&sim, &job, to_create);
        counts.live += created;
        if created < to_create {
            again = Some(Duration::from_secs(1));
        }
        let before = time::now_ns();
        write_status(&sim, &job, &counts, verdict.as_ref(), final_now);
        if let Some(verdict) = verdict.filter(|_| final_now) {
            verdict.report(&sim, &job, before);
        }
        let deadline = !suspended && int_at(&job.value, "/spec/activeDeadlineSeconds").is_some();
        if deadline && str_at(&job.value, "/status/startTime").is_empty() {
            again = Some(sooner(again, Duration::from_millis(10)));
        }
        again
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

fn sooner(again: Option<Duration>, other: Duration) -> Duration {
    again.map_or(other, |again| again.min(other))
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

    /// The end that a Job has come to, if it has.
    fn of(job: &Object, tally: &Tally, active: &[&Object], deadline_left: Option<i64>) -> Option<Self> {
        if condition(&job.value, "FailureTarget") {
            return list_at(&job.value, "/status/conditions")
                .iter()
                .find(|c| c["type"] == "FailureTarget")
                .map(|c| Verdict::new(false, str_at(c, "/reason"), str_at(c, "/message")));
        }
        let done = tally.succeeded.len() as i64 >= spec_number(job, "completions", 1);
        if done || condition(&job.value, "SuccessCriteriaMet") {
            let message = "Reached expected number of succeeded pods";
            return Some(Verdict::new(true, "CompletionsReached", message));
        }
        if deadline_left.is_some_and(|left| left <= 0) {
            let message = "Job was active longer than specified deadline";
            return Some(Verdict::new(false, "DeadlineExceeded", message));
        }
        let limit = spec_number(job, "backoffLimit", 6);
        if tally.failed.len() as i64 > limit || restarted_too_often(job, active, limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(Verdict::new(false, "BackoffLimitExceeded", message));
        }
        None
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

/// How many pods a Job needs now, or for how long it backs off first.
fn pods_to_create(sim: &Sim, job: &Object, tally: &Tally, live: usize) -> Result<usize, Duration> {
    let missing = spec_number(job, "completions", 1) - tally.succeeded.len() as i64;
    let want = spec_number(job, "parallelism", 1).min(missing) - live as i64;
    let base = lock(&sim.settings).job_backoff_ms;
    let failed = tally.failed.len();
    let backoff = tally.last_failure.filter(|_| failed > 0).map(|at| {
        let exponent = u32::try_from(failed - 1).unwrap_or(0).min(6);
        (at + Duration::from_millis(base << exponent)).saturating_duration_since(Instant::now())
    });
    match backoff.filter(|b| !b.is_zero() && want > 0) {
        Some(wait) => Err(wait),
        None => Ok(usize::try_from(want).unwrap_or(0)),
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

/// A Job's pods by what they are doing.
struct Counts {
    live: usize,
    closing: usize,
    succeeded: usize,
    failed: usize,
    ready: usize,
}

fn write_status(sim: &Sim, job: &Object, counts: &Counts, verdict: Option<&Verdict>, final_now: bool) {
    let suspended = job.value["spec"]["suspend"] == true;
    let was_suspended = condition(&job.value, "Suspended");
    let _ = sim.store.update(&JOB, &job.namespace, &job.name, |v, now| {
        if now.uid != job.uid {
            return Ok(());
        }
        let s = obj(v, "status");
        for (key, n) in [("active", counts.live), ("succeeded", counts.succeeded), ("failed", counts.failed)]
        {
            if n > 0 {
                s[key] = n.into();
            } else {
                remove(s, key);
            }
        }
        s["ready"] = counts.ready.into();
        s["terminating"] = counts.closing.into();
        s["uncountedTerminatedPods"] = json!({});
        if suspended {
            set_condition(s, "Suspended", true, "JobSuspended", "Job suspended");
            remove(s, "startTime");
            return Ok(());
        }
        if was_suspended {
            set_condition(s, "Suspended", false, "JobResumed", "Job resumed");
        }
        if str_at(s, "/startTime").is_empty() {
            s["startTime"] = time::now().into();
        }
        if let Some(Verdict { good, reason, message }) = verdict {
            let early = if *good { "SuccessCriteriaMet" } else { "FailureTarget" };
            set_condition(s, early, true, reason, message);
            if final_now {
                let last = if *good { "Complete" } else { "Failed" };
                set_condition(s, last, true, reason, message);
                if *good {
                    s["completionTime"] = time::now().into();
                }
            }
        }
        Ok(())
    });
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
    validate::check_types(&POD, &pod)?;
    ops::create(sim, &POD, &job.namespace, pod, false).map(|p| p.name.clone())
}

type Held = (&'static Kind, String, String, String);

/// Deletes dependents of deleted objects, and the contents of deleted namespaces.
pub(crate) struct Collector {
    sim: Arc<Sim>,
    foreground: HashSet<(String, Held)>,
    namespaces: HashSet<String>,
}

impl std::hash::Hash for Kind {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.plural.hash(state);
    }
}

impl Collector {
    /// A collector that has seen nothing yet.
    pub(crate) fn new(sim: Arc<Sim>) -> Self {
        Collector { sim, foreground: HashSet::new(), namespaces: HashSet::new() }
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
                _ = stopping.changed() => return,
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
        } else if list_at(&o.value, "/metadata/finalizers").iter().any(|f| f == "foregroundDeletion") {
            let held = (o.kind, o.namespace.clone(), o.name.clone(), o.uid.clone());
            self.foreground.insert((o.uid.clone(), held));
        }
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
        let _ = self.sim.store.update(kind, namespace, name, |v, _| {
            if let Some(list) = v["metadata"]["finalizers"].as_array_mut() {
                list.retain(|f| f != "foregroundDeletion");
            }
            Ok(())
        });
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
