//! The record of API requests.

use crate::faults::RequestInfo;
use crate::util::lock;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

const KEPT: usize = 20_000;

struct Entry {
    seq: u64,
    time: String,
    info: RequestInfo,
    status: u16,
}

#[derive(Default)]
struct Inner {
    next: u64,
    ring: VecDeque<Entry>,
    counts: BTreeMap<String, u64>,
}

/// The record.
#[derive(Default)]
pub(crate) struct RequestLog {
    inner: Mutex<Inner>,
}

impl RequestLog {
    /// Notes that a request has come; its status is 0 until it is answered.
    pub(crate) fn begin(&self, info: &RequestInfo) -> u64 {
        let mut inner = lock(&self.inner);
        inner.next += 1;
        let seq = inner.next;
        let what = match (info.resource.as_str(), info.subresource.as_str()) {
            ("", _) => format!("{} {}", info.verb, info.path),
            (r, "") => format!("{} {r}", info.verb),
            (r, s) => format!("{} {r}/{s}", info.verb),
        };
        *inner.counts.entry(what).or_default() += 1;
        inner.ring.push_back(Entry { seq, time: crate::time::now_micro(), info: info.clone(), status: 0 });
        if inner.ring.len() > KEPT {
            inner.ring.pop_front();
        }
        seq
    }

    /// Notes how a request was answered.
    pub(crate) fn end(&self, seq: u64, status: u16) {
        let mut inner = lock(&self.inner);
        let first = inner.ring.front().map_or(0, |e| e.seq);
        let Some(at) = seq.checked_sub(first) else {
            return;
        };
        if let Some(e) = usize::try_from(at).ok().and_then(|i| inner.ring.get_mut(i)) {
            e.status = status;
        }
    }

    /// Forgets everything but the numbering.
    pub(crate) fn reset(&self) {
        let mut inner = lock(&self.inner);
        inner.ring.clear();
        inner.counts.clear();
    }

    /// Requests after a number.
    pub(crate) fn to_json(&self, since: u64) -> Value {
        let inner = lock(&self.inner);
        let list: Vec<Value> = inner
            .ring
            .iter()
            .filter(|e| e.seq > since)
            .map(|e| {
                let i = &e.info;
                json!({
                    "seq": e.seq, "time": e.time, "verb": i.verb, "resource": i.resource,
                    "subresource": i.subresource, "namespace": i.namespace, "name": i.name,
                    "user": i.user, "status": e.status, "userAgent": i.agent, "path": i.path,
                    "query": i.query,
                })
            })
            .collect();
        let counts: Map<String, Value> = inner.counts.iter().map(|(k, n)| (k.clone(), (*n).into())).collect();
        json!({"requests": list, "counts": counts, "last": inner.next})
    }
}
