//! The control API below `/simulator/`.

use super::{Body, Query, failure, value};
use crate::Sim;
use crate::kinds::POD;
use crate::kubelet::End;
use crate::nodes::{collect, disrupt, evict_by_taint, mark_unready};
use crate::ops::{self, DeleteOptions};
use crate::status::{ApiError, ApiResult};
use crate::store::Object;
use crate::util::{int_at, lock, percent_decode, str_at};
use hyper::Response;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Parses a body; an empty one is an empty object.
pub(super) fn parse(body: &[u8]) -> ApiResult<Value> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(json!({}));
    }
    serde_json::from_slice(body).map_err(|e| ApiError::bad_request(format!("malformed JSON: {e}")))
}

/// Answers a control request.
pub(super) fn answer(
    sim: &Arc<Sim>,
    method: &str,
    path: &str,
    query: &Query,
    body: &Value,
) -> Response<Body> {
    let parts: Vec<String> =
        path.trim_matches('/').split('/').skip(1).map(|p| percent_decode(p, false)).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match dispatch(sim, method, &parts, query, body) {
        Ok(v) => value(200, &v),
        Err(e) => failure(&e),
    }
}

fn dispatch(sim: &Arc<Sim>, method: &str, parts: &[&str], query: &Query, body: &Value) -> ApiResult<Value> {
    let ok = || Ok(json!({"ok": true}));
    match (method, parts) {
        ("POST", ["faults"]) => Ok(json!({"id": sim.faults.add(body)?})),
        ("GET", ["faults"]) => Ok(sim.faults.list()),
        ("DELETE", ["faults"]) => {
            sim.faults.clear();
            ok()
        }
        ("DELETE", ["faults", id]) => {
            let id = id.parse().map_err(|_| ApiError::bad_request("not a fault id"))?;
            Ok(json!({"ok": sim.faults.remove(id)}))
        }
        ("POST", ["policies"]) => {
            sim.policies.add(body)?;
            ok()
        }
        ("DELETE", ["policies", name]) => Ok(json!({"ok": sim.policies.remove(name)})),
        ("POST", ["pods", namespace, name, action]) => pod(sim, namespace, name, action, body),
        ("POST", ["jobs", namespace, name, "replace"]) => Ok(ops::replace_job(sim, namespace, name)?.full()),
        ("GET", ["settings"]) => Ok(lock(&sim.settings).to_json()),
        ("POST", ["settings"]) => {
            let mut settings = lock(&sim.settings);
            settings.apply(body)?;
            sim.kubelet.set_log_rotation(&settings.rotation());
            Ok(settings.to_json())
        }
        ("POST", ["kubelet"]) => {
            let paused = body["paused"].as_bool();
            let paused = paused.ok_or_else(|| ApiError::bad_request("paused must be true or false"))?;
            sim.kubelet.set_paused(sim, paused);
            Ok(json!({"paused": paused}))
        }
        ("POST", ["compact"]) => {
            sim.store.compact();
            Ok(json!({"resourceVersion": sim.store.version().to_string()}))
        }
        ("POST", ["restart"]) => {
            let down = body["downMs"].as_u64().unwrap_or(500);
            let sim = sim.clone();
            tokio::spawn(async move {
                // The answer goes out first.
                tokio::time::sleep(Duration::from_millis(30)).await;
                sim.restart.send_replace(down);
            });
            ok()
        }
        ("POST", ["tokens"]) => {
            sim.authz.add(body)?;
            ok()
        }
        ("DELETE", ["tokens", token]) => Ok(json!({"ok": sim.authz.remove(token)})),
        ("DELETE", ["tokens"]) => Ok(json!({"ok": sim.authz.remove(str_at(body, "/token"))})),
        ("GET", ["requests"]) => Ok(sim.requests.to_json(query.number("since")?.unwrap_or(0))),
        ("POST", ["reset-requests"]) => {
            sim.requests.reset();
            ok()
        }
        ("GET", ["load"]) => Ok(sim.load.to_json()),
        ("GET", ["connections"]) => Ok(sim.conns.to_json()),
        ("POST", ["connections", "reset"]) => {
            sim.conns.reset_all();
            ok()
        }
        ("GET", ["processes"]) => Ok(sim.kubelet.processes()),
        _ => Err(ApiError::no_such_path()),
    }
}

fn signal_of(v: &Value) -> ApiResult<Signal> {
    if let Some(n) = v.as_i64() {
        let n = i32::try_from(n).ok().and_then(|n| Signal::try_from(n).ok());
        return n.ok_or_else(|| ApiError::bad_request("no such signal"));
    }
    let name = v.as_str().unwrap_or("SIGKILL");
    let name = if name.starts_with("SIG") { name.to_string() } else { format!("SIG{name}") };
    name.parse().map_err(|_| ApiError::bad_request(format!("no such signal: {name}")))
}

fn pod(sim: &Arc<Sim>, namespace: &str, name: &str, action: &str, body: &Value) -> ApiResult<Value> {
    let container = str_at(body, "/container");
    if action == "fail-image-for" {
        let time = Duration::from_millis(body["forMs"].as_u64().unwrap_or(u64::from(u32::MAX)));
        let container = if container.is_empty() { "*" } else { container };
        sim.kubelet.fail_images(namespace, name, container, time);
        return Ok(json!({"ok": true}));
    }
    let pod = sim.store.get(&POD, namespace, name).ok_or_else(|| ApiError::not_found(&POD, name))?;
    let run = sim.kubelet.run_of(&pod.uid);
    let idle = || ApiError::new(409, "Conflict", "no process is running in that pod");
    let message = |default: &str| {
        let own = str_at(body, "/message");
        if own.is_empty() { default.to_string() } else { own.to_string() }
    };
    let grace = body["graceMs"].as_u64().map(Duration::from_millis);
    match action {
        "oom" | "kill" => {
            let oom = action == "oom";
            let signal = if oom { Signal::SIGKILL } else { signal_of(&body["signal"])? };
            let hit = run.and_then(|r| r.signal(container, signal, oom)).ok_or_else(idle)?;
            if oom && let Some(node) = sim.store.get(&crate::kinds::NODE, "", crate::kubelet::NODE_NAME) {
                let text = "System OOM encountered, victim process: claude, pid: 1";
                sim.store.emit(&node, false, "SystemOOM", text, "kubelet");
            }
            Ok(json!({"ok": true, "container": hit}))
        }
        "evict" => {
            let text = message(
                "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. ",
            );
            // A kubelet ends pods this way for other reasons, too: `Terminated` as it shuts down, `Preempting`.
            let reason =
                Some(str_at(body, "/reason")).filter(|reason| !reason.is_empty()).unwrap_or("Evicted");
            sim.store.emit(&pod, false, reason, &text, "kubelet");
            // A threshold that leaves the pod its own time: how it ends does not depend on how soon it is scheduled.
            let own = int_at(&pod.value, "/spec/terminationGracePeriodSeconds").unwrap_or(30);
            let own = Duration::from_secs(u64::try_from(own).unwrap_or(0));
            run.ok_or_else(idle)?.end(End::disrupted(reason, &text, grace.unwrap_or(own)));
            Ok(json!({"ok": true}))
        }
        "preempt" => {
            let text = message("default-scheduler: preempting to accommodate a higher priority pod");
            disrupt(sim, &pod, "PreemptionByScheduler", &text)?;
            let event = "Preempted by pod on node embedded-node";
            sim.store.emit(&pod, true, "Preempted", event, "default-scheduler");
            delete(sim, &pod, body)
        }
        "taint" => {
            evict_by_taint(sim, &pod, int_at(body, "/gracePeriodSeconds"))?;
            Ok(json!({"ok": true}))
        }
        "delete" => delete(sim, &pod, body),
        "node-lost" => {
            if let Some(run) = run {
                run.end(End::lost());
            }
            lose_node(sim, &pod, body["removeAfterMs"].as_u64().map(Duration::from_millis))
        }
        _ => Err(ApiError::no_such_path()),
    }
}

/// What the cluster does with a pod whose node is lost: it stays, to be deleted by its kubelet, unless the node itself
/// is deleted.
fn lose_node(sim: &Arc<Sim>, pod: &Arc<Object>, node_deleted_after: Option<Duration>) -> ApiResult<Value> {
    mark_unready(sim, pod);
    evict_by_taint(sim, pod, None)?;
    if let Some(after) = node_deleted_after {
        let (sim, pod) = (sim.clone(), pod.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            collect(&sim, &pod, true);
        });
    }
    Ok(json!({"ok": true}))
}

fn delete(sim: &Sim, pod: &Object, body: &Value) -> ApiResult<Value> {
    let options =
        DeleteOptions { grace: int_at(body, "/gracePeriodSeconds"), ..DeleteOptions::background(pod) };
    ops::delete(sim, &POD, &pod.namespace, &pod.name, &options)?;
    Ok(json!({"ok": true}))
}
