//! Watches.

use super::body::{Closed, Sender};
use super::{Body, Call};
use crate::kinds::Kind;
use crate::selectors::{FieldSelector, LabelSelector};
use crate::server::Connections;
use crate::status::{ApiError, ApiResult};
use crate::store::{Change, Event, Object};
use crate::util::lock;
use bytes::{BufMut, Bytes, BytesMut};
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Which objects are wanted.
pub(super) struct Filter {
    kind: &'static Kind,
    namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    /// Reads the selectors of a request.
    pub(super) fn read(call: &Call, kind: &'static Kind, namespace: &str) -> ApiResult<Self> {
        let text = |name| call.query.get(name).unwrap_or("");
        Ok(Filter {
            kind,
            namespace: namespace.to_string(),
            labels: LabelSelector::parse(text("labelSelector")).map_err(ApiError::bad_request)?,
            fields: FieldSelector::parse(kind, text("fieldSelector")).map_err(ApiError::bad_request)?,
        })
    }

    /// The namespace asked for, if it is one.
    pub(super) fn namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }

    /// Whether an object is wanted.
    pub(super) fn wants(&self, o: &Object) -> bool {
        (self.namespace.is_empty() || o.namespace == self.namespace)
            && self.labels.matches(&o.value)
            && self.fields.matches(&o.value)
    }

    // What a watcher sees of an event: an object that leaves the selection is deleted for it.
    fn view(&self, e: &Event) -> Option<&'static str> {
        let before = e.before.as_ref().is_some_and(|b| self.wants(b));
        let after = e.change != Change::Deleted && self.wants(&e.object);
        match (before, after) {
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
            (false, false) => None,
        }
    }
}

fn line(kind: &str, object: &[u8], out: &mut BytesMut) {
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}

fn error_line(e: &ApiError, out: &mut BytesMut) {
    line("ERROR", e.status().to_string().as_bytes(), out);
}

fn bookmark(kind: &Kind, version: u64, initial_end: bool, out: &mut BytesMut) {
    let mut meta = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
    if initial_end {
        meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let mut o = json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": meta});
    if matches!(kind.kind, "Pod" | "Job") {
        o["spec"] = json!({"containers": null, "template": {"metadata": {"creationTimestamp": null}, "spec": {"containers": null}}});
        o["status"] = json!({});
    }
    line("BOOKMARK", o.to_string().as_bytes(), out);
}

/// An object no client can decode; `broken` makes it no JSON either.
pub(super) fn garbage(kind: &Kind, broken: bool) -> String {
    if broken {
        return format!("{{\"kind\":\"{}\",\"metadata\":{{\"name\":", kind.kind);
    }
    json!({
        "kind": kind.kind, "apiVersion": kind.api_version(),
        "metadata": {"name": 7, "labels": "none", "resourceVersion": {}}, "spec": "x", "status": 1,
    })
    .to_string()
}

fn too_old(asked: u64, oldest: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {asked} ({oldest})"))
}

/// Answers a watch request.
pub(super) fn answer(call: Call, filter: Filter) -> ApiResult<Response<Body>> {
    let q = &call.query;
    let from: Option<u64> = q.number("resourceVersion")?.filter(|v| *v > 0);
    let timeout: Option<u64> = q.number("timeoutSeconds")?.filter(|t| *t > 0);
    let store = &call.sim.store;
    let initial = q.flag("sendInitialEvents");
    if let Some(v) = from.filter(|v| *v < store.compacted() && !initial) {
        let e = too_old(v, store.compacted());
        if lock(&call.sim.settings).expired_as_status {
            return Err(e);
        }
    }
    let (body, sender) = Body::stream(call.connection.clone(), call.effect.stream);
    let guard = Connections::stream(
        &call.sim,
        json!({
            "type": "watch", "resource": filter.kind.plural, "namespace": filter.namespace,
            "labelSelector": q.get("labelSelector").unwrap_or(""),
            "fieldSelector": q.get("fieldSelector").unwrap_or(""),
            "userAgent": call.info.agent, "user": call.info.user,
        }),
    );
    let timeout = Duration::from_secs(timeout.unwrap_or(2400));
    tokio::spawn(async move {
        let _guard = guard;
        let from = from.filter(|_| !initial);
        let mut stopping = call.sim.stopping.subscribe();
        let work = run(&call, &filter, sender, from, initial, timeout);
        tokio::select! {
            _ = work => {}
            _ = stopping.changed() => {}
        }
    });
    let mut r = Response::new(body);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(r)
}

async fn run(
    call: &Call,
    filter: &Filter,
    mut sender: Sender,
    from: Option<u64>,
    initial: bool,
    timeout: Duration,
) -> Result<(), Closed> {
    let sim = &call.sim;
    let end = Instant::now() + timeout;
    let mut head = sim.store.subscribe();
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let interval = Duration::from_millis(lock(&sim.settings).bookmark_interval_ms);
    let mut next_bookmark = Instant::now() + interval;
    let mut out = BytesMut::new();
    sender.begin().await?;
    let mut seen = match from {
        Some(v) => v,
        None => {
            let (objects, version) = sim.store.list(filter.kind, filter.namespace());
            for o in objects.iter().filter(|o| filter.wants(o)) {
                line("ADDED", &o.full_json(), &mut out);
            }
            if initial && bookmarks {
                bookmark(filter.kind, version, true, &mut out);
            }
            version
        }
    };
    if let Some(broken) = call.effect.garbage {
        line("MODIFIED", garbage(filter.kind, broken).as_bytes(), &mut out);
    }
    let oldest = sim.store.compacted();
    if let Some(v) = from.filter(|v| *v < oldest) {
        error_line(&too_old(v, oldest), &mut out);
        sender.send(out.split().freeze()).await?;
        return Ok(());
    }
    if call.effect.expire_watch {
        error_line(&too_old(seen, sim.store.version()), &mut out);
        sender.send(out.split().freeze()).await?;
        return Ok(());
    }
    // A version of the future is served once it is reached.
    loop {
        head.borrow_and_update();
        match sim.store.since(seen, Some(filter.kind)) {
            Some((events, version)) => {
                for e in events {
                    if let Some(kind) = filter.view(&e) {
                        line(kind, &e.object.full_json(), &mut out);
                    }
                }
                seen = seen.max(version);
            }
            None => {
                error_line(&too_old(seen, sim.store.compacted()), &mut out);
                sender.send(out.split().freeze()).await?;
                return Ok(());
            }
        }
        if !out.is_empty() {
            let piece: Bytes = out.split().freeze();
            sender.send(piece).await?;
        }
        tokio::select! {
            changed = head.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep_until(next_bookmark), if bookmarks => {
                next_bookmark = Instant::now() + interval;
                bookmark(filter.kind, seen, false, &mut out);
            }
            () = tokio::time::sleep_until(end) => {
                if bookmarks {
                    bookmark(filter.kind, seen, false, &mut out);
                    sender.send(out.split().freeze()).await?;
                }
                return Ok(());
            }
            () = sender.closed() => return Ok(()),
        }
    }
}
