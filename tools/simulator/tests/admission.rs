//! What refuses, changes or holds back Jobs and their pods, over HTTPS.
#![allow(missing_docs)]

mod common;

use common::{Client, JOBS, PODS, has, job, start};
use serde_json::{Value, json};

/// The message of an Event of a Job, once there is one.
async fn event(c: &Client, job: &str, reason: &str) -> Value {
    let made = c.get(&format!("{JOBS}/{job}")).await;
    let uid = made["metadata"]["uid"].as_str().expect("a uid");
    let path = format!(
        "/api/v1/namespaces/paperclip/events?fieldSelector=involvedObject.uid%3D{uid},reason%3D{reason}&limit=20"
    );
    let list = c.until(&path, |v| v["items"][0].is_object()).await;
    list["items"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_pod_is_told_in_an_event_of_its_job() {
    let (cluster, c) = start().await;
    let mut j = job("j", "true");
    j["spec"]["template"]["spec"]["serviceAccountName"] = json!("nobody");
    c.post(JOBS, j).await;
    let e = event(&c, "j", "FailedCreate").await;
    assert_eq!(
        e["message"],
        "Error creating: pods \"j-\" is forbidden: error looking up service account paperclip/nobody: \
         serviceaccount \"nobody\" not found"
    );
    assert_eq!((&e["type"], &e["source"]["component"]), (&json!("Warning"), &json!("job-controller")));
    assert_eq!(c.get(&format!("{PODS}?labelSelector=job-name%3Dj")).await["items"], json!([]));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_security_warns_of_the_job_and_refuses_the_pod() {
    let (cluster, c) = start().await;
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    c.call("PATCH", "/api/v1/namespaces/paperclip", labels).await;
    let (status, warnings) = c.warnings(JOBS, job("j", "true")).await;
    assert_eq!((status, warnings.len()), (201, 1));
    assert!(
        warnings[0].starts_with(
            "299 - \"would violate PodSecurity \\\"restricted:latest\\\": allowPrivilegeEscalation != false (container \
             \\\"claude\\\" must set"
        ),
        "{warnings:?}"
    );
    let message = event(&c, "j", "FailedCreate").await["message"].clone();
    let message = message.as_str().expect("text");
    assert!(
        message
            .contains("is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation"),
        "{message}"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_counts_what_is_there() {
    let (cluster, c) = start().await;
    let quotas = "/api/v1/namespaces/paperclip/resourcequotas";
    let hard = json!({"count/jobs.batch": "1", "pods": "10"});
    c.post(quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    c.post(JOBS, job("a", "true")).await;
    let (status, v) = c.call("POST", JOBS, job("b", "true")).await;
    assert_eq!((status, &v["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        v["message"],
        "jobs.batch \"b\" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, used: count/jobs.batch=1, \
         limited: count/jobs.batch=1"
    );
    c.until(&format!("{quotas}/q"), |q| q["status"]["used"]["count/jobs.batch"] == "1").await;
    c.call("DELETE", &format!("{JOBS}/a"), json!({"propagationPolicy": "Background"})).await;
    c.until(&format!("{quotas}/q"), |q| q["status"]["used"]["count/jobs.batch"] == "0").await;
    c.post(JOBS, job("b", "true")).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_refuse_and_change_what_they_cover() {
    let (cluster, c) = start().await;
    c.control(
        "policies",
        json!({"name": "no", "resource": "pods", "labels": {"job-name": "a"}, "deny": "not here"}),
    )
    .await;
    let patch = json!([{"op": "add", "path": "/spec/suspend", "value": true}]);
    c.control(
        "policies",
        json!({"name": "hold", "resource": "jobs", "labels": {"app": "b"}, "patch": patch}),
    )
    .await;
    c.post(JOBS, job("a", "true")).await;
    let message = event(&c, "a", "FailedCreate").await["message"].clone();
    let message = message.as_str().expect("text");
    assert!(
        message.ends_with("ValidatingAdmissionPolicy 'no' with binding 'no' denied request: not here"),
        "{message}"
    );
    c.post(JOBS, job("b", "true")).await;
    c.until(&format!("{JOBS}/b"), |v| has(v, "Suspended")).await;
    assert_eq!(c.call("DELETE", "/simulator/policies/no", Value::Null).await.1["ok"], true);
    c.until(&format!("{JOBS}/a"), |v| has(v, "Complete")).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_range_fills_in_what_a_pod_asks_for() {
    let (cluster, c) = start().await;
    let limits = json!([{"type": "Container", "default": {"memory": "64Mi"}, "max": {"cpu": "2"}}]);
    let ranges = "/api/v1/namespaces/paperclip/limitranges";
    c.post(ranges, json!({"metadata": {"name": "r"}, "spec": {"limits": limits}})).await;
    c.post(JOBS, job("j", "true")).await;
    let pod = c.pod_of("j").await;
    let resources = &pod["spec"]["containers"][0]["resources"];
    assert_eq!(resources["requests"], json!({"cpu": "2", "memory": "64Mi"}));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_job_loses_its_pod_and_gets_another() {
    let (cluster, c) = start().await;
    c.post(JOBS, job("j", "sleep 30")).await;
    let first = c.running("j").await;
    let suspend = |on: bool| json!({"spec": {"suspend": on}});
    c.call("PATCH", &format!("{JOBS}/j"), suspend(true)).await;
    let held = c.until(&format!("{JOBS}/j"), |v| has(v, "Suspended")).await;
    assert!(held["status"]["startTime"].is_null());
    c.until(&first, |v| v["reason"] == "NotFound").await;
    let held = c.get(&format!("{JOBS}/j")).await;
    assert!(held["status"]["failed"].is_null() && !has(&held, "FailureTarget"), "{held:#}");
    c.call("PATCH", &format!("{JOBS}/j"), suspend(false)).await;
    let second = c.running("j").await;
    assert_ne!(first, second);
    let goes = c.get(&format!("{JOBS}/j")).await;
    assert!(goes["status"]["startTime"].is_string() && !has(&goes, "Suspended"));
    for reason in ["Suspended", "Resumed"] {
        assert_eq!(event(&c, "j", reason).await["type"], "Normal");
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduling_gate_holds_a_pod_back() {
    let (cluster, c) = start().await;
    let mut j = job("j", "true");
    j["spec"]["template"]["spec"]["schedulingGates"] = json!([{"name": "example.com/gate"}]);
    c.post(JOBS, j).await;
    let path = c.pod_path("j").await;
    let pod = c.get(&path).await;
    let condition = &pod["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("PodScheduled"), &json!("False")));
    assert_eq!(condition["reason"], "SchedulingGated");
    assert_eq!(condition["message"], "Scheduling is blocked due to non-empty scheduling gates");
    c.call("PATCH", &path, json!({"spec": {"schedulingGates": []}})).await;
    c.until(&format!("{JOBS}/j"), |v| has(v, "Complete")).await;
    cluster.shutdown().await;
}
