//! What the kubelet reports of a pod: its phase and the states of its containers.

use super::pod::{Container, State, full_image};
use crate::util::int_at;
use serde_json::{Value, json};

/// The exit code of a container that has ended.
fn code(state: &Value) -> Option<i64> {
    int_at(state, "/terminated/exitCode")
}

/// What the kubelet counts before it tells a pod's phase.
#[derive(Default)]
struct Census {
    pending_inits: usize,
    pending_sidecars: usize,
    failed_inits: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    /// Of the stopped ones, those that are not started again.
    over: usize,
    succeeded: usize,
}

impl Census {
    fn of(state: &State, policy: &str) -> Self {
        let mut out = Census::default();
        for c in &state.containers {
            let running = c.state.get("running").is_some();
            // A container that waits for its restart counts by how it ended.
            let end = code(&c.state).or_else(|| code(&c.last).filter(|_| !running));
            match (c.init, c.sidecar) {
                (true, true) if running => out.running += 1,
                (true, true) if end.is_none() => {
                    out.pending_sidecars += 1;
                    out.waiting += 1;
                }
                (true, true) => {}
                (true, false) => match end {
                    Some(0) => {}
                    Some(_) => out.failed_inits += usize::from(policy == "Never"),
                    None => out.pending_inits += 1,
                },
                (false, _) if running => out.running += 1,
                (false, _) => match end {
                    None => out.waiting += 1,
                    Some(code) => {
                        out.stopped += 1;
                        out.succeeded += usize::from(code == 0);
                        out.over += usize::from(policy == "Never" || policy == "OnFailure" && code == 0);
                    }
                },
            }
        }
        out
    }
}

/// The phase of a pod; `ending` when its containers are not started again.
pub(super) fn phase(state: &State, policy: &str, ending: bool) -> &'static str {
    if state.failed.is_some() {
        return "Failed";
    }
    match of_containers(state, policy, ending) {
        // No pod is left without an end.
        "Pending" | "Running" if state.closed => "Failed",
        phase => phase,
    }
}

fn of_containers(state: &State, policy: &str, ending: bool) -> &'static str {
    let n = Census::of(state, policy);
    if n.failed_inits > 0 {
        return "Failed";
    }
    if n.pending_inits > 0 || n.pending_sidecars > 0 && !state.initialized || n.waiting > 0 {
        return "Pending";
    }
    if n.running > 0 {
        return "Running";
    }
    match n.stopped {
        0 => "Pending",
        _ if !ending && n.stopped > n.over => "Running",
        stopped if stopped == n.succeeded => "Succeeded",
        _ => "Failed",
    }
}

/// The containers that keep a pod from being initialized.
pub(super) fn incomplete(state: &State) -> Vec<&str> {
    let complete = |c: &&Container| c.sidecar && c.state.get("running").is_some() || !c.sidecar && c.ready;
    state.containers.iter().filter(|c| c.init && !complete(c)).map(|c| c.name.as_str()).collect()
}

/// The containers that keep a pod from being ready.
pub(super) fn unready(state: &State) -> Vec<&str> {
    let counts = |c: &&Container| (!c.init || c.sidecar) && !c.ready;
    state.containers.iter().filter(counts).map(|c| c.name.as_str()).collect()
}

/// The statuses of the containers: init containers in their order, all others by name.
pub(super) fn statuses(state: &State, init: bool) -> Vec<Value> {
    let mut list: Vec<&Container> = state.containers.iter().filter(|c| c.init == init).collect();
    if !init {
        list.sort_by(|a, b| a.name.cmp(&b.name));
    }
    list.into_iter().map(status_of).collect()
}

fn status_of(c: &Container) -> Value {
    let mut s = json!({
        "name": c.name, "state": c.state, "lastState": c.last, "ready": c.ready,
        "restartCount": c.restarts, "image": c.image, "imageID": "",
        "started": c.state.get("running").is_some(),
    });
    if !c.id.is_empty() {
        s["containerID"] = c.id.as_str().into();
        s["image"] = full_image(&c.image).into();
        s["imageID"] = image_id(&full_image(&c.image)).into();
    }
    s
}

/// The id of an image that was loaded and not pulled: that of its configuration.
fn image_id(image: &str) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let part = |n: u8| {
        let mut hasher = DefaultHasher::new();
        (n, image).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    format!("sha256:{}{}{}{}", part(0), part(1), part(2), part(3))
}

/// Replaces the reasons of waiting containers by the one that they began with; returns whether there were others.
pub(super) fn forget_reasons(state: &mut State) -> bool {
    let inits = state.containers.iter().any(|c| c.init);
    let first = json!({"reason": if inits { "PodInitializing" } else { "ContainerCreating" }});
    let mut found = false;
    for c in state.containers.iter_mut().filter(|c| c.state.get("waiting").is_some_and(|w| *w != first)) {
        c.state = json!({ "waiting": first });
        found = true;
    }
    found
}

/// Ends the report of a pod that is over: a container of which no end is known counts as killed, unless the pod never
/// came to start it.
pub(super) fn close(state: &mut State) {
    let begun = |c: &Container| c.state.get("waiting").is_none() || c.last.get("terminated").is_some();
    let inits = state.containers.iter().filter(|c| c.init).count();
    let last = state.containers.iter().rfind(|c| c.init);
    let initialized = last.is_none_or(|c| {
        c.sidecar && c.state.get("running").is_some()
            || !c.sidecar && (code(&c.state) == Some(0) || code(&c.last) == Some(0))
    }) || state.containers.iter().any(|c| !c.init && begun(c));
    let reached = state.containers.iter().rposition(|c| c.init && begun(c)).map_or(1, |at| at + 1).min(inits);
    for (at, c) in state.containers.iter_mut().enumerate() {
        let counts = if c.init { at < reached } else { initialized };
        if counts && c.state.get("terminated").is_none() {
            c.ready = false;
            c.state = json!({"terminated": {
                "exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": null, "finishedAt": null,
                "message": "The container could not be located when the pod was terminated",
            }});
        }
    }
    state.closed = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(containers: &[(&str, &str)], initialized: bool) -> State {
        let containers = containers
            .iter()
            .map(|(kind, what)| {
                let mut c = Container::waiting(kind, *kind != "main", *kind == "sidecar", "PodInitializing");
                let ended = |code: i64| json!({"terminated": {"exitCode": code}});
                match *what {
                    "waits" => {}
                    "runs" => c.state = json!({"running": {}}),
                    "restarts" => c.last = ended(1),
                    code => c.state = ended(code.parse().expect("a code")),
                }
                c
            })
            .collect();
        State { containers, initialized, ..State::default() }
    }

    #[test]
    fn phase_follows_the_containers() {
        for (containers, initialized, expected) in [
            (vec![("init", "runs"), ("main", "waits")], false, "Pending"),
            (vec![("init", "1"), ("main", "waits")], false, "Failed"),
            (vec![("sidecar", "runs"), ("init", "0"), ("main", "waits")], true, "Pending"),
            (vec![("sidecar", "restarts"), ("main", "runs")], true, "Running"),
            (vec![("sidecar", "restarts"), ("main", "waits")], false, "Pending"),
            (vec![("sidecar", "runs"), ("main", "0")], true, "Running"),
            (vec![("sidecar", "137"), ("main", "0")], true, "Succeeded"),
            // One container runs, and the image of the other is missing.
            (vec![("main", "runs"), ("main", "waits")], true, "Pending"),
            (vec![("main", "0"), ("main", "runs")], true, "Running"),
            (vec![("main", "0"), ("main", "1")], true, "Failed"),
            (vec![("main", "0"), ("main", "0")], true, "Succeeded"),
        ] {
            assert_eq!(phase(&state(&containers, initialized), "Never", false), expected, "{containers:?}");
        }
        let restarting = state(&[("main", "1")], true);
        assert_eq!(phase(&restarting, "OnFailure", false), "Running");
        assert_eq!(phase(&restarting, "OnFailure", true), "Failed");
    }

    #[test]
    fn container_without_a_known_end_counts_as_killed() {
        let mut s = state(&[("init", "0"), ("main", "waits")], true);
        close(&mut s);
        assert_eq!(s.containers[1].state["terminated"]["reason"], "ContainerStatusUnknown");
        let mut s = state(&[("init", "waits"), ("main", "waits")], false);
        close(&mut s);
        assert_eq!(s.containers[0].state["terminated"]["exitCode"], 137);
        assert!(s.containers[1].state.get("waiting").is_some());
    }
}
