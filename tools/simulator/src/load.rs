//! What a load test must know of the cluster itself: whether it kept up, and when Jobs ended.

use crate::store::Object;
use crate::util::lock;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Mutex;

/// How many ended Jobs, and how many ended containers, are remembered.
const KEPT: usize = 20_000;
/// Lateness is counted in steps of this many microseconds.
const STEP_US: u64 = 100;
const STEPS: usize = 10_000;

/// How late scripted containers wrote, against their schedule.
pub(crate) struct Lateness(Mutex<Counts>);

struct Counts {
    steps: Vec<u64>,
    total: u64,
    max_us: u64,
}

impl Default for Lateness {
    fn default() -> Self {
        Lateness(Mutex::new(Counts { steps: vec![0; STEPS], total: 0, max_us: 0 }))
    }
}

impl Lateness {
    /// Records that a line was due this many seconds ago.
    pub(crate) fn note(&self, seconds: f64) {
        let us = (seconds.max(0.0) * 1e6) as u64;
        let mut c = lock(&self.0);
        c.steps[((us / STEP_US) as usize).min(STEPS - 1)] += 1;
        c.total += 1;
        c.max_us = c.max_us.max(us);
    }

    fn to_json(&self) -> Value {
        let c = lock(&self.0);
        let want = (c.total * 99).div_ceil(100);
        let mut sum = 0;
        let at = c.steps.iter().position(|n| {
            sum += n;
            sum >= want
        });
        json!({"wakes": c.total, "p99Us": at.unwrap_or(0) as u64 * STEP_US, "maxUs": c.max_us})
    }
}

/// A Job that got its final condition, or a pod whose scripted container ended.
struct Finished {
    namespace: String,
    name: String,
    labels: Value,
    succeeded: bool,
    ns: i64,
}

/// The last of them.
#[derive(Default)]
struct List(Mutex<VecDeque<Finished>>);

impl List {
    fn add(&self, object: &Object, succeeded: bool, ns: i64) {
        let mut list = lock(&self.0);
        list.push_back(Finished {
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            labels: object.value["metadata"]["labels"].clone(),
            succeeded,
            ns,
        });
        if list.len() > KEPT {
            list.pop_front();
        }
    }

    fn to_json(&self) -> Value {
        let list = lock(&self.0);
        let entries = list.iter().map(|f| {
            json!({"namespace": f.namespace, "name": f.name, "labels": f.labels, "succeeded": f.succeeded,
                "us": f.ns / 1000})
        });
        entries.collect()
    }
}

/// Measurements of the cluster's own work.
#[derive(Default)]
pub(crate) struct Load {
    /// Of scripted containers.
    pub lateness: Lateness,
    finished: List,
    exited: List,
}

impl Load {
    /// Notes when a Job got its final condition, in nanoseconds since the epoch.
    pub(crate) fn finished(&self, job: &Object, succeeded: bool, ns: i64) {
        self.finished.add(job, succeeded, ns);
    }

    /// Notes when a pod's scripted container ended, but not an init container, in nanoseconds since the epoch. A client that
    /// has read the container's last line may delete the Job before it gets its condition.
    pub(crate) fn exited(&self, pod: &Object, succeeded: bool, ns: i64) {
        self.exited.add(pod, succeeded, ns);
    }

    /// As the control API shows it. Times are microseconds since the epoch: a condition's own are whole seconds.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "emit": self.lateness.to_json(),
            "finished": self.finished.to_json(),
            "exited": self.exited.to_json(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_counted() {
        let l = Lateness::default();
        (0..100).for_each(|n| l.note(f64::from(n) / 1000.0));
        l.note(-1.0);
        l.note(30.0);
        assert_eq!(l.to_json(), json!({"wakes": 102, "p99Us": 99_000, "maxUs": 30_000_000}));
    }
}
