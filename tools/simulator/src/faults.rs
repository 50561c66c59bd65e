//! Scripted misbehaviour of the API server.

use crate::status::ApiError;
use crate::util::{glob, lock};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What is known about a request when its faults are chosen and when it is logged.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestInfo {
    /// API verb, or the lower-case method for other paths.
    pub verb: String,
    /// Resource, or empty.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Object name, or empty.
    pub name: String,
    /// User name.
    pub user: String,
    /// `container` of a log request.
    pub container: String,
    /// Path.
    pub path: String,
    /// Raw query.
    pub query: String,
    /// User-Agent header.
    pub agent: String,
}

/// When a stream misbehaves, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StreamFault {
    /// After that many lines.
    pub after_lines: Option<u64>,
    /// After that many bytes.
    pub after_bytes: Option<u64>,
    /// How.
    pub end: StreamEnd,
}

/// How a stream ends early.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// As if it were complete.
    #[default]
    Clean,
    /// With a TCP reset.
    Reset,
    /// Not at all: nothing more comes.
    Stall,
}

/// What happens to one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Effect {
    /// Wait first.
    pub delay: Duration,
    /// Answer with this.
    pub status: Option<ApiError>,
    /// Reset the connection without an answer.
    pub refuse: bool,
    /// Spoil the stream.
    pub stream: Option<StreamFault>,
    /// Answer a log request with this text.
    pub log_text: Option<String>,
    /// Send a 410 ERROR event.
    pub expire_watch: bool,
    /// Put one malformed object into the answer; the text `json` makes it no JSON at all.
    pub garbage: Option<bool>,
}

struct Fault {
    id: u64,
    spec: Value,
    times: Option<u64>,
    skip: u64,
    from: Instant,
    until: Option<Instant>,
    seen: u64,
    hits: u64,
    effect: Effect,
}

/// All faults.
#[derive(Default)]
pub(crate) struct Faults {
    inner: Mutex<(u64, Vec<Fault>)>,
}

fn default_reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}

fn effect(action: &Value) -> Result<Effect, ApiError> {
    let map = action
        .as_object()
        .filter(|m| !m.is_empty())
        .ok_or_else(|| ApiError::bad_request("action must be an object"))?;
    let mut e = Effect::default();
    for (name, v) in map {
        let number = |key: &str| v.get(key).and_then(Value::as_u64);
        match name.as_str() {
            "delayMs" => e.delay = Duration::from_millis(v.as_u64().unwrap_or(0)),
            "status" => {
                let code = number("code")
                    .and_then(|c| u16::try_from(c).ok())
                    .filter(|c| (100..600).contains(c))
                    .ok_or_else(|| ApiError::bad_request("status needs a code"))?;
                let reason = v.get("reason").and_then(Value::as_str);
                let message = v.get("message").and_then(Value::as_str);
                let mut s = ApiError::new(
                    code,
                    reason.unwrap_or(default_reason(code)),
                    message.unwrap_or("injected by the simulator"),
                );
                s.retry_after = number("retryAfter");
                e.status = Some(s);
            }
            "refuse" => e.refuse = v == true,
            "cut" => {
                e.stream = Some(StreamFault {
                    after_lines: number("afterLines"),
                    after_bytes: number("afterBytes"),
                    end: if v.get("reset").is_some_and(|r| r == true) {
                        StreamEnd::Reset
                    } else {
                        StreamEnd::Clean
                    },
                });
            }
            "stall" => {
                e.stream = Some(StreamFault {
                    after_lines: number("afterLines"),
                    after_bytes: number("afterBytes"),
                    end: StreamEnd::Stall,
                });
            }
            "logText" => e.log_text = v.as_str().map(str::to_string),
            "expireWatch" => e.expire_watch = v == true,
            "garbage" => e.garbage = (v != false).then_some(v == "json"),
            _ => return Err(ApiError::bad_request(format!("unknown action {name}"))),
        }
    }
    Ok(e)
}

const MATCH_KEYS: [&str; 8] =
    ["verb", "resource", "subresource", "name", "namespace", "user", "container", "path"];

fn matches(spec: &Value, r: &RequestInfo) -> bool {
    let full = format!("{}/{}", r.resource, r.subresource);
    MATCH_KEYS.iter().all(|key| {
        let Some(want) = spec.get(key).and_then(Value::as_str) else {
            return true;
        };
        match *key {
            "verb" => glob(want, &r.verb),
            "resource" => glob(want, &r.resource) || want == full,
            "subresource" => glob(want, &r.subresource),
            "name" => glob(want, &r.name),
            "namespace" => glob(want, &r.namespace),
            "user" => glob(want, &r.user),
            "container" => glob(want, &r.container),
            _ => glob(want, &r.path),
        }
    })
}

impl Faults {
    /// Adds a fault from its JSON form and returns its number.
    pub(crate) fn add(&self, spec: &Value) -> Result<u64, ApiError> {
        if let Some(m) = spec.get("match").and_then(Value::as_object)
            && let Some(k) = m.keys().find(|k| !MATCH_KEYS.contains(&k.as_str()))
        {
            return Err(ApiError::bad_request(format!("unknown match key {k}")));
        }
        let effect = effect(&spec["action"])?;
        let number = |key: &str| spec.get(key).and_then(Value::as_u64);
        let from = Instant::now() + Duration::from_millis(number("afterMs").unwrap_or(0));
        let mut inner = lock(&self.inner);
        inner.0 += 1;
        let id = inner.0;
        inner.1.push(Fault {
            id,
            spec: spec.clone(),
            times: number("times"),
            skip: number("skip").unwrap_or(0),
            from,
            until: number("forMs").map(|ms| from + Duration::from_millis(ms)),
            seen: 0,
            hits: 0,
            effect,
        });
        Ok(id)
    }

    /// All faults with their counts.
    pub(crate) fn list(&self) -> Value {
        let items = lock(&self.inner)
            .1
            .iter()
            .map(|f| json!({"id": f.id, "spec": f.spec, "seen": f.seen, "hits": f.hits}))
            .collect::<Vec<_>>();
        json!({ "faults": items })
    }

    /// Removes one fault.
    pub(crate) fn remove(&self, id: u64) -> bool {
        let mut inner = lock(&self.inner);
        let before = inner.1.len();
        inner.1.retain(|f| f.id != id);
        inner.1.len() < before
    }

    /// Removes all faults.
    pub(crate) fn clear(&self) {
        lock(&self.inner).1.clear();
    }

    /// What happens to this request: all pure delays that match, and the first other fault.
    pub(crate) fn pick(&self, request: &RequestInfo) -> Effect {
        let now = Instant::now();
        let mut out = Effect::default();
        for f in &mut lock(&self.inner).1 {
            let open = now >= f.from && f.until.is_none_or(|u| now < u);
            let none = Value::Null;
            if !open || !matches(f.spec.get("match").unwrap_or(&none), request) {
                continue;
            }
            f.seen += 1;
            if f.seen <= f.skip || f.times.is_some_and(|t| f.hits >= t) {
                continue;
            }
            f.hits += 1;
            let delay = out.delay + f.effect.delay;
            let only_delay = f
                .spec
                .get("action")
                .and_then(Value::as_object)
                .is_some_and(|a| a.keys().all(|k| k == "delayMs"));
            if only_delay {
                out.delay = delay;
                continue;
            }
            out = f.effect.clone();
            out.delay = delay;
            break;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> RequestInfo {
        RequestInfo {
            verb: "get".into(),
            resource: "pods".into(),
            subresource: "log".into(),
            name: "ac-1".into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn fault_honours_skip_times_and_globs() {
        let f = Faults::default();
        f.add(&json!({"match": {"resource": "pods/log", "name": "ac-*"}, "skip": 1, "times": 1,
            "action": {"status": {"code": 503}}}))
            .expect("valid");
        let codes: Vec<_> = (0..3).map(|_| f.pick(&request()).status.map(|s| s.code)).collect();
        assert_eq!(codes, [None, Some(503), None]);
        assert_eq!(f.list()["faults"][0]["hits"], 1);
    }

    #[test]
    fn delays_add_up() {
        let f = Faults::default();
        f.add(&json!({"action": {"delayMs": 5}})).expect("valid");
        f.add(&json!({"action": {"refuse": true, "delayMs": 7}})).expect("valid");
        let e = f.pick(&request());
        assert!(e.refuse && e.delay == Duration::from_millis(12));
    }

    #[test]
    fn fault_acts_only_in_its_time_window() {
        let f = Faults::default();
        let refuse = json!({"refuse": true});
        f.add(&json!({"afterMs": 60_000, "action": refuse})).expect("valid");
        f.add(&json!({"forMs": 0, "action": refuse})).expect("valid");
        assert!(!f.pick(&request()).refuse);
        f.add(&json!({"forMs": 60_000, "action": refuse})).expect("valid");
        assert!(f.pick(&request()).refuse);
    }

    #[test]
    fn malformed_fault_is_refused() {
        let f = Faults::default();
        assert!(f.add(&json!({"action": {"explode": true}})).is_err());
        assert!(f.add(&json!({"match": {"verbs": "x"}, "action": {"refuse": true}})).is_err());
        assert!(f.add(&json!({})).is_err());
    }
}
