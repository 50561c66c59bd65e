//! Events, as a recorder writes them: one that repeats is counted, and many that are alike are told as one.

use crate::kinds::EVENT;
use crate::store::{Object, Store};
use crate::util::{hex, int_at, lock};
use crate::{kubelet, time};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Mutex;

const EVENT_LIMIT: usize = 5_000;
/// After this many different messages of one kind the recorder writes no more Events of their own.
const ALIKE_LIMIT: usize = 10;

type Key = (String, String);

#[derive(Default)]
struct Inner {
    /// The Events that exist, the oldest first, with what they are known by.
    written: VecDeque<(Key, String)>,
    /// What an Event is known by → its place.
    places: HashMap<String, Key>,
    /// What alike Events are known by → their different messages.
    alike: HashMap<String, HashSet<String>>,
}

/// What the recorders remember.
#[derive(Default)]
pub(crate) struct Recorder {
    inner: Mutex<Inner>,
}

/// One Event to be written.
struct Note<'a> {
    about: &'a Object,
    field: &'a str,
    normal: bool,
    reason: &'a str,
    message: String,
    from: &'a str,
}

impl Store {
    /// Records an Event about an object.
    pub(crate) fn emit(&self, about: &Object, normal: bool, reason: &str, message: &str, from: &str) {
        self.emit_field(about, "", normal, reason, message, from);
    }

    /// Records an Event about a part of an object, such as `spec.containers{claude}`. The oldest Events are dropped, as
    /// a real cluster does after an hour.
    pub(crate) fn emit_field(
        &self,
        about: &Object,
        field: &str,
        normal: bool,
        reason: &str,
        message: &str,
        from: &str,
    ) {
        let mut inner = lock(&self.recorder.inner);
        let group = format!("{}/{normal}/{reason}/{from}", about.uid);
        let messages = inner.alike.entry(group.clone()).or_default();
        let known = !messages.insert(message.to_string()) || from == SCHEDULER;
        let many = !known && messages.len() > ALIKE_LIMIT;
        if many {
            messages.remove(message);
        }
        let message =
            if many { format!("(combined from similar events): {message}") } else { message.to_string() };
        let identity = match (many, from) {
            (true, _) => group,
            // The scheduler's recorder does not look at the message.
            (_, SCHEDULER) => format!("{group}/"),
            _ => format!("{group}/{field}/{message}"),
        };
        let note = Note { about, field, normal, reason, message, from };
        if inner.places.get(&identity).is_some_and(|place| self.repeat(place, &note)) {
            return;
        }
        let Some(place) = self.write(&note) else { return };
        inner.places.insert(identity.clone(), place.clone());
        inner.written.push_back((place, identity));
        if inner.written.len() <= EVENT_LIMIT {
            return;
        }
        if let Some((place, identity)) = inner.written.pop_front() {
            self.remove(&EVENT, &place.0, &place.1, None);
            if inner.places.get(&identity) == Some(&place) {
                inner.places.remove(&identity);
            }
            if inner.alike.len() > EVENT_LIMIT {
                inner.alike.clear();
            }
        }
    }

    /// Counts an Event once more; false if it is gone.
    fn repeat(&self, place: &Key, note: &Note<'_>) -> bool {
        let counted = self.update(&EVENT, &place.0, &place.1, |v, _| {
            if note.from == SCHEDULER {
                let count = int_at(v, "/series/count").unwrap_or(1);
                v["series"] = json!({"count": count + 1, "lastObservedTime": time::now_micro()});
            } else {
                v["count"] = (int_at(v, "/count").unwrap_or(1) + 1).into();
                v["lastTimestamp"] = time::now().into();
                v["message"] = note.message.as_str().into();
            }
            Ok(())
        });
        counted.is_ok()
    }

    fn write(&self, note: &Note<'_>) -> Option<Key> {
        let about = note.about;
        let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
        let mut event = json!({
            "metadata": {"name": format!("{}.{}", about.name, hex(16)), "namespace": namespace},
            "involvedObject": {
                "kind": about.kind.kind, "apiVersion": about.kind.api_version(),
                "namespace": about.namespace, "name": about.name, "uid": about.uid,
                "resourceVersion": about.version.to_string(),
            },
            "type": if note.normal { "Normal" } else { "Warning" },
            "reason": note.reason, "message": note.message,
        });
        if !note.field.is_empty() {
            event["involvedObject"]["fieldPath"] = note.field.into();
        }
        sign(&mut event, note.from, note.reason);
        let made = self.create(&EVENT, event).ok()?;
        Some((made.namespace.clone(), made.name.clone()))
    }
}

const SCHEDULER: &str = "default-scheduler";

/// Adds who wrote an Event and when. The scheduler writes them by the newer API.
fn sign(event: &mut Value, from: &str, reason: &str) {
    let now = time::now();
    event["reportingComponent"] = from.into();
    if from == SCHEDULER {
        event["source"] = json!({});
        event["eventTime"] = time::now_micro().into();
        event["firstTimestamp"] = Value::Null;
        event["lastTimestamp"] = Value::Null;
        event["action"] = match reason {
            "Scheduled" => "Binding",
            "Preempted" => "Preempting",
            _ => "Scheduling",
        }
        .into();
        event["reportingInstance"] = format!("{SCHEDULER}-{}", kubelet::NODE_NAME).into();
        return;
    }
    event["source"] = json!({"component": from});
    event["reportingInstance"] = "".into();
    if from == "kubelet" {
        event["source"]["host"] = kubelet::NODE_NAME.into();
        event["reportingInstance"] = kubelet::NODE_NAME.into();
    }
    event["eventTime"] = Value::Null;
    event["firstTimestamp"] = now.as_str().into();
    event["lastTimestamp"] = now.into();
    event["count"] = 1.into();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::POD;

    fn events(store: &Store) -> Vec<(String, i64)> {
        let (list, _) = store.list(&EVENT, None);
        list.iter()
            .map(|e| {
                let message = e.value["message"].as_str().unwrap_or("").to_string();
                (message, int_at(&e.value, "/count").unwrap_or(0))
            })
            .collect()
    }

    #[test]
    fn repeated_event_is_counted() {
        let s = Store::default();
        let pod = s.create(&POD, json!({"metadata": {"name": "p", "namespace": "n"}})).expect("created");
        for field in ["", "", "spec.containers{a}"] {
            s.emit_field(&pod, field, false, "Failed", "no", "kubelet");
        }
        let mut counts: Vec<_> = events(&s).into_iter().map(|(_, n)| n).collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 2]);
    }

    #[test]
    fn many_alike_events_become_one() {
        let s = Store::default();
        let pod = s.create(&POD, json!({"metadata": {"name": "p", "namespace": "n"}})).expect("created");
        for n in 0..14 {
            s.emit(&pod, false, "FailedCreate", &format!("no {n}"), "job-controller");
        }
        let all = events(&s);
        assert_eq!(all.len(), 11);
        let combined = ("(combined from similar events): no 13".to_string(), 4);
        assert!(all.contains(&combined), "{all:?}");
    }

    #[test]
    fn scheduler_events_carry_a_series() {
        let s = Store::default();
        let pod = s.create(&POD, json!({"metadata": {"name": "p", "namespace": "n"}})).expect("created");
        s.emit(&pod, false, "FailedScheduling", "0/1", SCHEDULER);
        s.emit(&pod, false, "FailedScheduling", "0/1", SCHEDULER);
        let (list, _) = s.list(&EVENT, None);
        assert_eq!(list.len(), 1);
        let v = &list[0].value;
        assert!(v["firstTimestamp"].is_null() && v["eventTime"].is_string());
        assert_eq!((&v["series"]["count"], &v["action"]), (&json!(2), &json!("Scheduling")));
    }
}
