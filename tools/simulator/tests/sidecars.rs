//! Containers beside the agent's, over HTTPS.
#![allow(missing_docs)]

mod common;

use common::{Client, JOBS, has, job, start};
use serde_json::{Value, json};

/// A Job whose pod has a native sidecar before an init container.
fn with_sidecar(name: &str, main: &str, sidecar: &str) -> Value {
    let mut j = job(name, main);
    let c =
        |name: &str, script: &str| json!({"name": name, "image": "agent:1", "command": ["sh", "-c", script]});
    let mut proxy = c("proxy", sidecar);
    proxy["restartPolicy"] = json!("Always");
    j["spec"]["template"]["spec"]["initContainers"] = json!([proxy, c("prepare", "true")]);
    j
}

fn container<'a>(pod: &'a Value, group: &str, name: &str) -> &'a Value {
    let list = pod["status"][group].as_array().into_iter().flatten();
    list.into_iter().find(|c| c["name"] == name).unwrap_or(&Value::Null)
}

async fn reasons(c: &Client, pod: &Value) -> Vec<String> {
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let path = format!("/api/v1/namespaces/paperclip/events?fieldSelector=involvedObject.uid%3D{uid}");
    let list = c.get(&path).await;
    let texts = list["items"].as_array().into_iter().flatten();
    texts.map(|e| format!("{} {}", e["reason"], e["involvedObject"]["fieldPath"]).replace('"', "")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn native_sidecar_ends_after_the_containers_it_serves() {
    let (cluster, c) = start().await;
    c.post(JOBS, with_sidecar("j", "sleep 0.3", "sleep 60")).await;
    let path = c.running("j").await;
    let pod = c.get(&path).await;
    assert_eq!(container(&pod, "initContainerStatuses", "proxy")["ready"], true);
    assert_eq!(container(&pod, "initContainerStatuses", "prepare")["state"]["terminated"]["exitCode"], 0);
    c.until(&format!("{JOBS}/j"), |v| has(v, "Complete")).await;
    let pod = c.get(&path).await;
    assert_eq!(pod["status"]["phase"], "Succeeded");
    assert_eq!(container(&pod, "initContainerStatuses", "proxy")["state"]["terminated"]["exitCode"], 143);
    let told = reasons(&c, &pod).await;
    for expected in [
        "Started spec.initContainers{proxy}",
        "Started spec.containers{claude}",
        "Killing spec.initContainers{proxy}",
    ] {
        assert!(told.iter().any(|t| t == expected), "{expected} in {told:?}");
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native_sidecar_that_fails_is_started_again() {
    let (cluster, c) = start().await;
    let once = "if [ -e \"$HOME/again\" ]; then sleep 60; fi; touch \"$HOME/again\"; exit 3";
    let mut j = with_sidecar("j", "sleep 0.3", once);
    let home = cluster.dir.to_string_lossy().to_string();
    j["spec"]["template"]["spec"]["initContainers"][0]["env"] = json!([{"name": "HOME", "value": home}]);
    c.post(JOBS, j).await;
    c.until(&format!("{JOBS}/j"), |v| has(v, "Complete")).await;
    let pod = c.pod_of("j").await;
    let proxy = container(&pod, "initContainerStatuses", "proxy");
    assert_eq!(proxy["restartCount"], 1);
    assert_eq!(proxy["lastState"]["terminated"]["exitCode"], 3);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native_sidecar_that_keeps_failing_holds_the_pod_back() {
    let (cluster, c) = start().await;
    c.post(JOBS, with_sidecar("j", "true", "exit 1")).await;
    let path = c.pod_path("j").await;
    let waits = |p: &Value| {
        container(p, "initContainerStatuses", "proxy")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    let pod = c.until(&path, waits).await;
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(
        container(&pod, "containerStatuses", "claude")["state"]["waiting"]["reason"],
        "PodInitializing"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_is_pending_while_the_image_of_a_container_is_missing() {
    let (cluster, c) = start().await;
    let mut j = job("j", "sleep 60");
    let spec = &mut j["spec"]["template"]["spec"];
    spec["containers"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"name": "beside", "image": "missing/image:1", "command": ["true"]}));
    c.post(JOBS, j).await;
    let path = c.pod_path("j").await;
    let beside =
        |p: &Value| container(p, "containerStatuses", "beside")["state"]["waiting"]["reason"].clone();
    let pod = c
        .until(&path, |p| {
            container(p, "containerStatuses", "claude")["state"]["running"].is_object()
                && beside(p) == "ImagePullBackOff"
        })
        .await;
    assert_eq!(pod["status"]["phase"], "Pending");
    // By name, not in the order of the pod's specification.
    assert_eq!(pod["status"]["containerStatuses"][0]["name"], "beside");
    c.call("DELETE", &path, Value::Null).await;
    c.until(&path, |v| v["reason"] == "NotFound").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_deleted_before_its_start_is_closed_as_failed() {
    let (cluster, c) = start().await;
    let mut j = job("j", "true");
    j["spec"]["template"]["spec"]["containers"][0]["image"] = json!("missing/image:1");
    c.post(JOBS, j).await;
    let path = c.pod_path("j").await;
    let waits =
        |p: &Value| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff";
    c.until(&path, waits).await;
    let mut watch = c.stream(&format!("{}?watch=true&labelSelector=job-name%3Dj", common::PODS)).await;
    c.call("DELETE", &path, Value::Null).await;
    let last = loop {
        let e = watch.event().await;
        if e["type"] == "DELETED" {
            break e["object"].clone();
        }
    };
    assert_eq!(last["status"]["phase"], "Failed");
    let end = &last["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&end["reason"], &end["exitCode"]), (&json!("ContainerStatusUnknown"), &json!(137)));
    assert!(end["startedAt"].is_null() && last["status"]["containerStatuses"][0]["containerID"].is_null());
    cluster.shutdown().await;
}
