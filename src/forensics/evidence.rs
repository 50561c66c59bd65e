//! `resultJson.k8s`: the cause of a failure with what the run saw, bounded, and without anything that can hold a secret: no
//! environment, command or annotation.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

use super::cause::{About, Cause, Stage};
use super::container::end_of;
use super::disruption::disruption;
use super::job;
use super::pod::{condition, container_statuses, culprit, init_statuses};
use super::record::{Asker, Record, deletion_requested};
use crate::manifest::labels::CLAUDE_CONTAINER;

/// The most bytes of the evidence as JSON.
pub(crate) const MAX_BYTES: usize = 16 * 1024;
/// The most characters of one message of the cluster.
const MAX_TEXT: usize = 300;
/// The most characters of a name or a reason.
const MAX_NAME: usize = 253;
/// The most conditions, and the most containers.
const MAX_ITEMS: usize = 12;

/// The evidence of a failed run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Evidence {
    /// Why it failed.
    pub(crate) cause: Cause,
    /// What happened, to which object and when; a sentence without its full stop.
    pub(crate) summary: String,
    /// `resultJson.k8s`.
    pub(crate) json: Value,
}

impl Evidence {
    /// The evidence of a run that failed for this cause. `object`: the name of the Job that it is about, where that is not
    /// the run's own; `noticed`: when the run noticed.
    pub(crate) fn new(cause: Cause, record: &Record, object: Option<&str>, noticed: Timestamp) -> Self {
        let summary = summary(cause, record, object, noticed);
        let mut map = Map::new();
        map.insert("cause".into(), cause.code().into());
        map.insert("stage".into(), cause.stage().as_str().into());
        map.insert("summary".into(), summary.clone().into());
        map.insert("hint".into(), cause.hint().into());
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                map.insert(key.to_owned(), value);
            }
        };
        set("message", record.words_of(cause).map(|words| text(&words).into()));
        set("namespace", non_empty(&record.namespace).map(|namespace| name(namespace).into()));
        set("job", object.or(non_empty(&record.job_name)).map(|job| name(job).into()));
        let pod = record.pod.as_deref();
        set("pod", pod.and_then(pod_name).map(|pod| name(pod).into()));
        set("node", pod.and_then(node).map(|node| name(node).into()));
        set("timeline", Some(timeline(record, noticed)));
        set("conditions", list(conditions(record)));
        set("containers", list(pod.map(containers).unwrap_or_default()));
        set("events", record.events.as_ref().map(|_| events(record).into()));
        set("log", record.log.map(|log| {
            json!({"bytes": log.bytes, "lines": log.lines, "gaps": log.gaps, "reconnects": log.reconnects})
        }));
        Self { cause, summary, json: bounded(map) }
    }
}

/// Leaves out what is longest until the evidence is small enough.
fn bounded(mut map: Map<String, Value>) -> Value {
    for key in ["events", "conditions", "containers", "message"] {
        let bytes = serde_json::to_vec(&map).map_or(0, |bytes| bytes.len());
        if bytes <= MAX_BYTES {
            break;
        }
        map.shift_remove(key);
    }
    Value::Object(map)
}

fn non_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn list(items: Vec<Value>) -> Option<Value> {
    (!items.is_empty()).then(|| items.into())
}

/// One line of at most so many characters, without control characters.
fn line(text: &str, limit: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut chars = text.trim().chars().map(clean);
    let mut cut: String = chars.by_ref().take(limit).collect();
    if chars.next().is_some() {
        cut.push('…');
    }
    cut
}

/// The cluster's words.
fn text(words: &str) -> String {
    line(words, MAX_TEXT)
}

/// A name or a reason.
fn name(word: &str) -> String {
    line(word, MAX_NAME)
}

fn pod_name(pod: &Pod) -> Option<&str> {
    pod.metadata.name.as_deref()
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().and_then(non_empty)
}

/// Whole seconds are what Kubernetes has.
fn second(at: Timestamp) -> String {
    let seconds = Timestamp::from_second(at.as_second()).unwrap_or(at);
    seconds.to_string()
}

/// A container that was never made has the beginning of the epoch as its times.
fn stamp(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|time| time.0).filter(|time| time.as_second() > 0)
}

/// What happened, to which object, and when.
fn summary(cause: Cause, record: &Record, object: Option<&str>, noticed: Timestamp) -> String {
    let in_namespace = |name: &str| match non_empty(&record.namespace) {
        Some(namespace) => format!("{}/{}", self::name(namespace), self::name(name)),
        None => self::name(name),
    };
    let pod = record.pod.as_deref().filter(|_| cause.about() == About::Pod);
    let job = object.or(non_empty(&record.job_name)).filter(|_| cause.about() != About::Request);
    let object = match (pod.and_then(pod_name), job) {
        (Some(pod_name), _) => {
            let node = pod.and_then(node).map(|node| format!(" on node {}", name(node))).unwrap_or_default();
            format!("Pod {}{node}", in_namespace(pod_name))
        }
        (None, Some(job)) => format!("Job {}", in_namespace(job)),
        (None, None) => "Run".to_owned(),
    };
    let (preposition, at) = match record.time_of(cause) {
        Some(at) if is_lasting(cause) => ("since", at),
        // The kubelet's own deletion is all that was seen of it.
        Some(at) if record.pod_deletion == Some(at) && record.pod_deletion_is_last => ("at or before", at),
        Some(at) => ("at", at),
        None => ("at", noticed),
    };
    format!("{}, {preposition} {}", cause.sentence(&object), second(at))
}

/// Whether a cause is a state that lasts, so that its time is when it began.
fn is_lasting(cause: Cause) -> bool {
    cause.stage() == Stage::Schedule || cause == Cause::JobSuspended
}

impl Record {
    /// When a cause came about, as far as that was seen.
    fn time_of(&self, cause: Cause) -> Option<Timestamp> {
        let pod = self.pod.as_deref();
        let transition = |kind: &str| {
            pod.and_then(|pod| condition(pod, kind)).and_then(|one| stamp(one.last_transition_time.as_ref()))
        };
        let of_job = |kind: &str| {
            self.job
                .as_deref()
                .and_then(|found| job::is_true(found, kind))
                .and_then(|one| stamp(one.last_transition_time.as_ref()))
        };
        match cause.stage() {
            Stage::Ended => self.request.map(|request| request.at).or_else(|| match cause {
                Cause::JobDeadline => {
                    of_job("FailureTarget").or_else(|| of_job("Failed")).or(self.pod_deletion)
                }
                Cause::JobSuspendedMidRun => of_job("Suspended").or(self.pod_deletion),
                _ => self.asked_at().or_else(|| self.ended_at()),
            }),
            Stage::Exit | Stage::Output => self.ended_at(),
            Stage::Schedule => {
                transition("PodScheduled").or_else(|| stamp(pod?.metadata.creation_timestamp.as_ref()))
            }
            Stage::Pod if cause == Cause::JobSuspended => of_job("Suspended"),
            Stage::Pod => self.event(&["FailedCreate"]).and_then(|event| event.at),
            Stage::Start => {
                let (_, status) = culprit(pod?)?;
                stamp(status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
            }
            _ => None,
        }
    }

    /// The cluster's own words about a cause.
    fn words_of(&self, cause: Cause) -> Option<String> {
        let pod = self.pod.as_deref();
        let words = match cause.stage() {
            Stage::Pod if cause != Cause::JobSuspended => self.event(&["FailedCreate"])?.message.clone(),
            Stage::Schedule => condition(pod?, "PodScheduled")?.message.clone()?,
            Stage::Start => self.words_of_start(cause)?,
            Stage::Ended if cause.about() == About::Pod => disruption(pod?)?.message?,
            Stage::Exit => end_of(pod?, CLAUDE_CONTAINER)?.message.clone()?,
            _ => return None,
        };
        Some(words).filter(|words| !words.trim().is_empty())
    }

    fn words_of_start(&self, cause: Cause) -> Option<String> {
        let pod = self.pod.as_deref()?;
        let status = pod.status.as_ref()?;
        let of_container = |status: &ContainerStatus| {
            let state = status.state.as_ref()?;
            let waiting = state.waiting.as_ref().and_then(|waiting| waiting.message.clone());
            waiting.or_else(|| {
                let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
                ended.message.clone().or_else(|| ended.reason.clone())
            })
        };
        let is_of_pull = ["image_", "registry_"].iter().any(|of| cause.code().starts_with(of));
        let pull = || self.pull_words.clone().filter(|_| is_of_pull);
        // What other containers say is not why `claude` does not start.
        let claude = container_statuses(pod).iter().filter(|status| status.name == CLAUDE_CONTAINER);
        let any = || init_statuses(pod).iter().chain(claude).find_map(of_container);
        pull()
            .or_else(|| culprit(pod).and_then(|(_, status)| of_container(status)))
            .or_else(any)
            .or_else(|| self.event_of_start().map(|event| event.message.clone()))
            .or_else(|| status.message.clone())
    }

    /// When the end of the pod was requested, by others.
    fn asked_at(&self) -> Option<Timestamp> {
        let pod = self.pod.as_deref();
        let disrupted = pod
            .and_then(|pod| condition(pod, "DisruptionTarget"))
            .filter(|target| target.status == "True")
            .and_then(|target| stamp(target.last_transition_time.as_ref()));
        let job = self.job.as_deref().and_then(|job| deletion_requested(&job.metadata));
        disrupted.or(self.pod_deletion).or(job)
    }

    /// When the container ended.
    fn ended_at(&self) -> Option<Timestamp> {
        stamp(end_of(self.pod.as_deref()?, CLAUDE_CONTAINER)?.finished_at.as_ref())
    }

    /// Who asked for the end, in a word or two; `None` where nothing did.
    fn asker(&self) -> Option<String> {
        if let Some(request) = self.request {
            let by = match request.by {
                Asker::Host => "the host",
                Asker::ControlPlane => "the control plane",
                Asker::TimeLimit => "the run's time limit",
                Asker::Shutdown => "the host's shutdown",
                Asker::AfterResult => "the run, after its result",
            };
            return Some(by.to_owned());
        }
        let job_deleted = self.job.as_deref().is_some_and(|job| job.metadata.deletion_timestamp.is_some());
        match self.pod.as_deref().and_then(disruption) {
            Some(disruption) if !disruption.is_plain_deletion() => Some(name(&disruption.reason)),
            Some(_) => Some("unknown API client".to_owned()),
            None => (job_deleted || self.pod_deletion.is_some()).then(|| "unknown API client".to_owned()),
        }
    }
}

fn timeline(record: &Record, noticed: Timestamp) -> Value {
    let pod = record.pod.as_deref();
    let claude = pod
        .and_then(|pod| container_statuses(pod).iter().find(|status| status.name == CLAUDE_CONTAINER))
        .and_then(|status| status.state.as_ref());
    let started = claude.and_then(|state| match state {
        ContainerState { running: Some(running), .. } => running.started_at.as_ref(),
        ContainerState { terminated: Some(ended), .. } => ended.started_at.as_ref(),
        _ => None,
    });
    let scheduled = pod
        .and_then(|pod| condition(pod, "PodScheduled"))
        .filter(|scheduled| scheduled.status == "True")
        .and_then(|scheduled| scheduled.last_transition_time.as_ref());
    let created = record.job.as_deref().and_then(|job| job.metadata.creation_timestamp.as_ref());
    let asked = record.asker().map(|by| {
        // A kubelet does not say when it decided to evict a pod.
        match record.request.map(|request| request.at).or_else(|| record.asked_at()) {
            Some(at) => json!({"at": second(at), "by": by}),
            None => json!({"by": by}),
        }
    });
    let mut timeline = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            timeline.insert(key.to_owned(), value);
        }
    };
    let at = |time: Option<Timestamp>| time.map(|time| second(time).into());
    set("created", at(stamp(created)));
    set("scheduled", at(stamp(scheduled)));
    set("pulled", at(record.event(&["Pulled"]).and_then(|event| event.at)));
    // A container that could not be started has the epoch here.
    set("started", at(stamp(started).filter(|at| at.as_second() > 0)));
    set("firstLine", record.log.and_then(|log| log.first).map(|at| at.to_string().into()));
    set("lastLine", record.log.and_then(|log| log.last).map(|at| at.to_string().into()));
    set("askedToEnd", asked);
    set("ended", at(record.ended_at()));
    set("noticed", at(Some(noticed)));
    Value::Object(timeline)
}

fn conditions(record: &Record) -> Vec<Value> {
    struct Row<'a> {
        object: &'static str,
        kind: &'a str,
        status: &'a str,
        reason: Option<&'a str>,
        message: Option<&'a str>,
        at: Option<&'a Time>,
    }
    let of_job = record.job.as_deref().map(job::conditions).unwrap_or_default().iter().map(|one| Row {
        object: "Job",
        kind: &one.type_,
        status: &one.status,
        reason: one.reason.as_deref(),
        message: one.message.as_deref(),
        at: one.last_transition_time.as_ref(),
    });
    let pod = record.pod.as_deref().and_then(|pod| pod.status.as_ref());
    let of_pod =
        pod.and_then(|status| status.conditions.as_deref()).unwrap_or_default().iter().map(|one| Row {
            object: "Pod",
            kind: &one.type_,
            status: &one.status,
            reason: one.reason.as_deref(),
            message: one.message.as_deref(),
            at: one.last_transition_time.as_ref(),
        });
    let row = |row: Row<'_>| {
        let mut item = json!({"object": row.object, "type": name(row.kind), "status": name(row.status)});
        add_words(&mut item, row.reason, row.message);
        if let Some(at) = row.at {
            item["at"] = second(at.0).into();
        }
        item
    };
    of_job.chain(of_pod).take(MAX_ITEMS).map(row).collect()
}

fn add_words(item: &mut Value, reason: Option<&str>, message: Option<&str>) {
    if let Some(reason) = reason.and_then(non_empty) {
        item["reason"] = name(reason).into();
    }
    if let Some(message) = message.and_then(non_empty) {
        item["message"] = text(message).into();
    }
}

fn containers(pod: &Pod) -> Vec<Value> {
    let row = |(status, init): (&ContainerStatus, bool)| {
        let mut item = json!({"name": name(&status.name)});
        if init {
            item["init"] = true.into();
        }
        let state = status.state.clone().unwrap_or_default();
        if let Some(ended) = end_of(pod, &status.name).or(state.terminated.as_ref()) {
            item["state"] = "terminated".into();
            add_words(&mut item, ended.reason.as_deref(), ended.message.as_deref());
            item["exitCode"] = ended.exit_code.into();
        } else if state.running.is_some() {
            item["state"] = "running".into();
        } else {
            item["state"] = "waiting".into();
            let waiting = state.waiting.unwrap_or_default();
            add_words(&mut item, waiting.reason.as_deref(), waiting.message.as_deref());
        }
        if status.restart_count > 0 {
            item["restarts"] = status.restart_count.into();
        }
        item
    };
    let init = init_statuses(pod).iter().map(|status| (status, true));
    let main = container_statuses(pod).iter().map(|status| (status, false));
    init.chain(main).take(MAX_ITEMS).map(row).collect()
}

fn events(record: &Record) -> Vec<Value> {
    let row = |event: &super::record::EventSeen| {
        let mut item = json!({"object": name(&event.kind), "count": event.count});
        add_words(&mut item, Some(&event.reason), Some(&event.message));
        if let Some(at) = event.at {
            item["at"] = second(at).into();
        }
        item
    };
    record.events.iter().flatten().map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::record::LogFacts;
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const NOTICED: &str = "2026-01-02T03:05:00.25Z";

    /// A run whose container was evicted.
    fn evicted() -> Record {
        let mut record = Record { namespace: "n".into(), job_name: "j".into(), ..Record::default() };
        record.see_job(&Arc::new(
            serde_json::from_value(json!({"metadata": {"creationTimestamp": "2026-01-02T03:04:00Z"}}))
                .unwrap(),
        ));
        record.see_pod(&Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "p", "annotations": {"a": "secret"}},
                "spec": {"nodeName": "node-1", "containers": [
                    {"name": "claude", "command": ["secret"], "env": [{"name": "A", "value": "secret"}]}]},
                "status": {
                    "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory.",
                    "conditions": [
                        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-02T03:04:01Z"},
                        {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
                            "message": "The node was low on resource: memory.",
                            "lastTransitionTime": "2026-01-02T03:04:30Z"}],
                    "initContainerStatuses": [{"name": "write-prompt", "image": "i", "imageID": "", "ready": true,
                        "restartCount": 1, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}],
                    "containerStatuses": [{"name": "claude", "image": "i", "imageID": "", "ready": false,
                        "restartCount": 0, "state": {"terminated": {"exitCode": 137, "reason": "Error", "message": "m\n2",
                            "startedAt": "2026-01-02T03:04:02Z", "finishedAt": "2026-01-02T03:04:32Z"}}}]
                }
            }))
            .unwrap(),
        ));
        record.log = Some(LogFacts {
            bytes: 10,
            lines: 2,
            gaps: 1,
            reconnects: 3,
            first: Some(at("2026-01-02T03:04:03.5Z")),
            last: Some(at("2026-01-02T03:04:04Z")),
            forbidden: false,
        });
        record
    }

    #[test]
    fn evidence_has_cause_sentence_times_and_objects() {
        let record = evicted();
        let cause = record.cause_of_end(None).unwrap();
        let evidence = Evidence::new(cause, &record, None, at(NOTICED));
        assert_eq!(
            evidence.json,
            json!({
                "cause": "evicted_for_memory",
                "stage": "ended",
                "summary": "Pod n/p on node node-1: its node was short of memory and evicted it, at 2026-01-02T03:04:30Z",
                "hint": Cause::EvictedForMemory.hint(),
                "message": "The node was low on resource: memory.",
                "namespace": "n",
                "job": "j",
                "pod": "p",
                "node": "node-1",
                "timeline": {
                    "created": "2026-01-02T03:04:00Z",
                    "scheduled": "2026-01-02T03:04:01Z",
                    "started": "2026-01-02T03:04:02Z",
                    "firstLine": "2026-01-02T03:04:03.5Z",
                    "lastLine": "2026-01-02T03:04:04Z",
                    "askedToEnd": {"at": "2026-01-02T03:04:30Z", "by": "TerminationByKubelet"},
                    "ended": "2026-01-02T03:04:32Z",
                    "noticed": "2026-01-02T03:05:00Z"
                },
                "conditions": [
                    {"object": "Pod", "type": "PodScheduled", "status": "True", "at": "2026-01-02T03:04:01Z"},
                    {"object": "Pod", "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
                        "message": "The node was low on resource: memory.", "at": "2026-01-02T03:04:30Z"}],
                "containers": [
                    {"name": "write-prompt", "init": true, "state": "terminated", "reason": "Completed", "exitCode": 0,
                        "restarts": 1},
                    {"name": "claude", "state": "terminated", "reason": "Error", "message": "m 2", "exitCode": 137}],
                "log": {"bytes": 10, "lines": 2, "gaps": 1, "reconnects": 3}
            })
        );
        assert!(!evidence.json.to_string().contains("secret"));
    }

    #[test]
    fn sentence_names_the_object_that_is_known() {
        let record = evicted();
        let sentence =
            |cause, record: &Record, object| Evidence::new(cause, record, object, at(NOTICED)).summary;
        assert_eq!(
            sentence(Cause::EvictedByApi, &record, None),
            "Pod n/p on node node-1 was evicted through the Eviction API, as a drain does, at 2026-01-02T03:04:30Z"
        );
        assert_eq!(
            sentence(Cause::OtherTaskAlive, &record, Some("k")),
            "Job n/k belongs to another run of the agent, for another task, and is alive, at 2026-01-02T03:05:00Z"
        );
        assert_eq!(
            sentence(Cause::ConfigInvalid, &Record::default(), None),
            "Run: a value of the adapter's configuration cannot be used, at 2026-01-02T03:05:00Z"
        );
        let pending = Record { pod: None, job: None, ..record };
        assert_eq!(
            sentence(Cause::PodDeleted, &pending, None),
            "Job n/j was deleted by an unknown API client, at 2026-01-02T03:05:00Z"
        );
        let mut unscheduled = Record::default();
        unscheduled.see_pod(&Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-02T03:04:00Z"}}),
            )
            .unwrap(),
        ));
        assert_eq!(
            sentence(Cause::NotScheduled, &unscheduled, None),
            "Pod p: no scheduler took it, since 2026-01-02T03:04:00Z"
        );
    }

    #[test]
    fn eviction_without_a_time_is_not_dated() {
        let mut record = Record { namespace: "n".into(), job_name: "j".into(), ..Record::default() };
        record.see_pod(&Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {
                "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory.",
                "containerStatuses": [{"name": "claude", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": 137, "finishedAt": "2026-01-02T03:04:32Z"}}}]}}))
            .unwrap(),
        ));
        let evidence = Evidence::new(Cause::EvictedForMemory, &record, None, at(NOTICED));
        assert_eq!(evidence.json["timeline"]["askedToEnd"], json!({"by": "Evicted"}));
        assert!(evidence.summary.ends_with("at 2026-01-02T03:04:32Z"), "{}", evidence.summary);
    }

    #[test]
    fn start_is_explained_by_the_container_that_failed() {
        let status = |name: &str, state: Value| {
            json!({"name": name, "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "state": state})
        };
        let end = |code: i32, reason: &str, message: &str, at: &str| json!({"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": at}});
        let mut record = Record::default();
        record.see_pod(&Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "p"},
                "spec": {"containers": [], "initContainers": [{"name": "mesh", "restartPolicy": "Always"}]},
                "status": {"phase": "Failed",
                    "initContainerStatuses": [status("mesh", end(143, "Error", "drained", "2026-01-02T03:04:40Z"))],
                    "containerStatuses": [
                        status("auth-proxy", end(2, "Error", "no key", "2026-01-02T03:04:20Z")),
                        status("claude", end(128, "StartError", "no sh", "2026-01-02T03:04:30Z"))]}
            }))
            .unwrap(),
        ));
        let cause = record.cause_of_start("");
        assert_eq!(cause, Cause::ContainerStartFailed);
        let evidence = Evidence::new(cause, &record, None, at(NOTICED));
        assert_eq!(evidence.json["message"], "no sh");
        assert!(evidence.summary.ends_with("at 2026-01-02T03:04:30Z"), "{}", evidence.summary);
    }

    #[test]
    fn own_request_is_named_with_its_time() {
        let mut record = evicted();
        record.ask_to_end(Asker::TimeLimit, at("2026-01-02T03:04:10Z"));
        let evidence = Evidence::new(Cause::TimeLimit, &record, None, at(NOTICED));
        assert_eq!(evidence.summary, "Job n/j: the run took longer than it may, at 2026-01-02T03:04:10Z");
        assert_eq!(
            evidence.json["timeline"]["askedToEnd"],
            json!({"at": "2026-01-02T03:04:10Z", "by": "the run's time limit"})
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn evidence_is_bounded_whatever_the_cluster_says(
            words in "\\PC{0,2000}", count in 0..60usize, control in any::<String>(),
        ) {
            let message = format!("{}{control}", words.repeat(3));
            let condition = json!({"type": words, "status": "True", "reason": message, "message": message});
            let status = json!({"name": words, "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 1, "reason": message, "message": message}}});
            let mut record = Record { namespace: message.clone(), job_name: message.clone(), ..Record::default() };
            record.see_pod(&Arc::new(serde_json::from_value(json!({
                "metadata": {"name": message}, "spec": {"nodeName": message, "containers": []},
                "status": {"conditions": vec![condition; count], "containerStatuses": vec![status; count]}
            })).unwrap()));
            record.see_events(vec![serde_json::from_value(json!({
                "metadata": {}, "involvedObject": {"kind": message}, "reason": message, "message": message
            })).unwrap(); count]);
            let evidence = Evidence::new(Cause::ExitCode, &record, None, at(NOTICED));
            let bytes = evidence.json.to_string().len();
            prop_assert!(bytes <= MAX_BYTES, "{bytes}");
            prop_assert!(!evidence.summary.contains(['\n', '\0']));
        }
    }
}
