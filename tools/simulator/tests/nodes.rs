//! What happens to pods whose node is tainted, lost, deleted or full.
#![allow(missing_docs)]

mod common;

use common::{Client, JOBS, PODS, has, job, reason, start};
use serde_json::{Value, json};
use std::time::Duration;

const NODE: &str = "/api/v1/nodes/embedded-node";

fn message<'a>(v: &'a Value, condition: &str) -> &'a str {
    let list = v["status"]["conditions"].as_array().into_iter().flatten();
    list.filter(|c| c["type"] == condition).find_map(|c| c["message"].as_str()).unwrap_or_default()
}

async fn patch(c: &Client, path: &str, body: Value) -> Value {
    let (code, v) = c.call("PATCH", path, body).await;
    assert_eq!(code, 200, "{v}");
    v
}

async fn last(watch: &mut common::Stream) -> Value {
    loop {
        let e = watch.event().await;
        if e["type"] == "DELETED" {
            return e["object"].clone();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tainted_node_ends_pods_that_do_not_tolerate_it() {
    let (cluster, c) = start().await;
    for (name, seconds) in [("none", None), ("short", Some(1)), ("long", Some(600))] {
        let mut j = job(name, "sleep 30");
        if let Some(seconds) = seconds {
            j["spec"]["template"]["spec"]["tolerations"] =
                json!([{"key": "broken", "operator": "Exists", "tolerationSeconds": seconds}]);
        }
        c.post(JOBS, j).await;
    }
    let [none, short, long] = [c.running("none").await, c.running("short").await, c.running("long").await];
    let mut watch = c.stream(&format!("{PODS}?watch=true&labelSelector=job-name%3Dnone")).await;
    patch(&c, NODE, json!({"spec": {"taints": [{"key": "broken", "effect": "NoExecute"}]}})).await;
    let gone = last(&mut watch).await;
    assert_eq!(reason(&gone, "DisruptionTarget"), "DeletionByTaintManager");
    assert_eq!(message(&gone, "DisruptionTarget"), "Taint manager: deleting due to NoExecute taint");
    assert_eq!(gone["status"]["phase"], "Failed");
    c.until(&short, |p| p["reason"] == "NotFound").await;
    c.until(&none, |p| p["reason"] == "NotFound").await;
    assert!(c.get(&long).await["metadata"].get("deletionTimestamp").is_none());
    c.post(JOBS, job("next", "true")).await;
    let next = c.pod_path("next").await;
    let p = c.until(&next, |p| reason(p, "PodScheduled") == "Unschedulable").await;
    assert!(message(&p, "PodScheduled").contains("1 node(s) had untolerated taint(s)"));
    patch(&c, NODE, json!({"spec": {"taints": null}})).await;
    c.until(&format!("{JOBS}/next"), |j| has(j, "Complete")).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_of_a_lost_node_stays_until_the_kubelet_is_back() {
    let (cluster, c) = start().await;
    c.control("settings", json!({"nodeMonitorGraceMs": 300, "tolerationSeconds": 1})).await;
    c.post(JOBS, job("j", "trap 'exit 7' TERM; while :; do sleep 0.1; done")).await;
    let path = c.running("j").await;
    patch(&c, NODE, json!({"metadata": {"labels": {"node.kubernetes.io/exclude-disruption": ""}}})).await;
    c.control("kubelet", json!({"paused": true})).await;
    let node = c.until(NODE, |n| !has(n, "Ready")).await;
    assert_eq!(reason(&node, "Ready"), "NodeStatusUnknown");
    let taints = node["spec"]["taints"].as_array().expect("taints");
    assert!(taints.iter().all(|t| t["key"] == "node.kubernetes.io/unreachable") && taints.len() == 2);
    c.until(&path, |p| p["metadata"]["deletionTimestamp"].is_string()).await;
    let j = c.until(&format!("{JOBS}/j"), |j| has(j, "FailureTarget")).await;
    assert_eq!(j["status"]["terminating"], 1);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let p = c.get(&path).await;
    assert_eq!((&p["status"]["phase"], has(&p, "Ready")), (&json!("Running"), false));
    assert_eq!(reason(&p, "DisruptionTarget"), "DeletionByTaintManager");
    assert!(!has(&c.get(&format!("{JOBS}/j")).await, "Failed"));
    c.control("kubelet", json!({"paused": false})).await;
    c.until(NODE, |n| has(n, "Ready") && n["spec"].get("taints").is_none()).await;
    c.until(&path, |p| p["reason"] == "NotFound").await;
    c.until(&format!("{JOBS}/j"), |j| has(j, "Failed")).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_without_a_ready_node_evicts_nothing() {
    let (cluster, c) = start().await;
    c.control("settings", json!({"nodeMonitorGraceMs": 200, "tolerationSeconds": 0})).await;
    c.post(JOBS, job("j", "sleep 30")).await;
    let path = c.running("j").await;
    c.control("kubelet", json!({"paused": true})).await;
    let node = c.until(NODE, |n| !has(n, "Ready")).await;
    assert_eq!(node["spec"]["taints"].as_array().map(Vec::len), Some(1));
    tokio::time::sleep(Duration::from_millis(800)).await;
    let p = c.get(&path).await;
    assert!(p["metadata"].get("deletionTimestamp").is_none() && !has(&p, "Ready"), "{p:#}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_of_a_deleted_node_is_collected() {
    let (cluster, c) = start().await;
    c.control("settings", json!({"podGcAfterMs": 300})).await;
    c.post(JOBS, job("j", "sleep 30")).await;
    c.running("j").await;
    let mut watch = c.stream(&format!("{PODS}?watch=true&labelSelector=job-name%3Dj")).await;
    c.control("kubelet", json!({"paused": true})).await;
    c.call("DELETE", NODE, Value::Null).await;
    let gone = last(&mut watch).await;
    assert_eq!(reason(&gone, "DisruptionTarget"), "DeletionByPodGC");
    assert_eq!(message(&gone, "DisruptionTarget"), "PodGC: node no longer exists");
    assert_eq!(
        (&gone["status"]["phase"], &gone["metadata"]["deletionGracePeriodSeconds"]),
        (&json!("Failed"), &json!(0))
    );
    c.until(&format!("{JOBS}/j"), |j| has(j, "Failed")).await;
    c.post(JOBS, job("next", "true")).await;
    let next = c.pod_path("next").await;
    let p = c.until(&next, |p| reason(p, "PodScheduled") == "Unschedulable").await;
    assert_eq!(message(&p, "PodScheduled"), "no nodes available to schedule pods");
    c.control("kubelet", json!({"paused": false})).await;
    c.until(&format!("{JOBS}/next"), |j| has(j, "Complete")).await;
    assert_eq!(c.get("/simulator/processes").await["processes"], json!([]));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terminating_pod_of_a_node_out_of_service_is_collected() {
    let (cluster, c) = start().await;
    c.control("settings", json!({"nodeMonitorGraceMs": 200})).await;
    c.post(JOBS, job("j", "sleep 30")).await;
    let path = c.running("j").await;
    c.control("kubelet", json!({"paused": true})).await;
    let node = c.until(NODE, |n| !has(n, "Ready")).await;
    c.call("DELETE", &path, Value::Null).await;
    let mut taints = node["spec"]["taints"].as_array().cloned().expect("taints");
    taints.push(json!({"key": "node.kubernetes.io/out-of-service", "value": "x", "effect": "NoExecute"}));
    patch(&c, NODE, json!({"spec": {"taints": taints}})).await;
    c.until(&path, |p| p["reason"] == "NotFound").await;
    c.until(&format!("{JOBS}/j"), |j| has(j, "Failed")).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_of_a_higher_priority_preempts_as_few_as_needed() {
    let (cluster, c) = start().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    c.post(classes, json!({"metadata": {"name": "high"}, "value": 1000})).await;
    let sized = |name: &str, cpu: &str, class: &str| {
        let mut j = job(name, "sleep 30");
        let spec = &mut j["spec"]["template"]["spec"];
        spec["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        if !class.is_empty() {
            spec["priorityClassName"] = json!(class);
        }
        j
    };
    for (name, cpu) in [("first", "1900"), ("second", "1900")] {
        c.post(JOBS, sized(name, cpu, "")).await;
        c.running(name).await;
    }
    c.post(JOBS, sized("equal", "1200", "")).await;
    let equal = c.pod_path("equal").await;
    let p = c.until(&equal, |p| reason(p, "PodScheduled") == "Unschedulable").await;
    assert_eq!(
        message(&p, "PodScheduled"),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    c.call("DELETE", &format!("{JOBS}/equal"), json!({"propagationPolicy": "Background"})).await;
    let mut watch = c.stream(&format!("{PODS}?watch=true&labelSelector=job-name%3Dsecond")).await;
    c.post(JOBS, sized("more", "1200", "high")).await;
    let gone = last(&mut watch).await;
    assert_eq!(reason(&gone, "DisruptionTarget"), "PreemptionByScheduler");
    let text = "default-scheduler: preempting to accommodate a higher priority pod";
    assert_eq!(message(&gone, "DisruptionTarget"), text);
    c.running("more").await;
    c.running("first").await;
    let mut lost = job("lost", "true");
    lost["spec"]["template"]["spec"]["priorityClassName"] = json!("none");
    c.post(JOBS, lost).await;
    assert_eq!(c.get(&format!("{PODS}?labelSelector=job-name%3Dlost")).await["items"], json!([]));
    cluster.shutdown().await;
}
