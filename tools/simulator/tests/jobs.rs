//! What the Job controller and the garbage collector write, and in which order.
#![allow(missing_docs)]

mod common;

use common::{Client, JOBS, PODS, has, job, reason, start};
use serde_json::{Value, json};

/// The Job's true conditions and its numbers of active, terminating, succeeded and failed pods.
fn status(job: &Value) -> (Vec<String>, [u64; 4]) {
    let s = &job["status"];
    let conditions = s["conditions"].as_array().into_iter().flatten();
    let text = |c: &Value| c["type"].as_str().unwrap_or_default().to_string();
    let number = |key: &str| s[key].as_u64().unwrap_or(0);
    (
        conditions.filter(|c| c["status"] == "True").map(text).collect(),
        ["active", "terminating", "succeeded", "failed"].map(number),
    )
}

/// Every version of a Job up to its final condition or its end, without repetitions.
async fn history(c: &Client, name: &str) -> Vec<(Vec<String>, [u64; 4])> {
    let mut watch = c.stream(&format!("{JOBS}?watch=true&fieldSelector=metadata.name%3D{name}")).await;
    let mut seen = Vec::new();
    loop {
        let event = watch.event().await;
        let now = status(&event["object"]);
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        let object = &event["object"];
        if event["type"] == "DELETED" || has(object, "Complete") || has(object, "Failed") {
            return seen;
        }
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

async fn pods(c: &Client, job: &str) -> Vec<Value> {
    let list = c.get(&format!("{PODS}?labelSelector=job-name%3D{job}")).await;
    list["items"].as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn succeeded_job_meets_its_criteria_before_it_completes() {
    let (cluster, c) = start().await;
    let seen = {
        let watch = history(&c, "j");
        let (seen, _) = tokio::join!(watch, c.post(JOBS, job("j", "true")));
        seen
    };
    let met = words(&["SuccessCriteriaMet"]);
    let all = words(&["SuccessCriteriaMet", "Complete"]);
    assert!(seen.contains(&(vec![], [1, 0, 0, 0])), "{seen:?}");
    assert_eq!(seen[seen.len() - 2..], [(met, [0, 0, 0, 0]), (all, [0, 0, 1, 0])]);
    let pod = &pods(&c, "j").await[0];
    assert!(pod["metadata"].get("finalizers").is_none(), "a counted pod is let go: {pod:#}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_pod_fails_its_job_once_it_has_ended() {
    let (cluster, c) = start().await;
    c.post(JOBS, job("j", "trap '' TERM; sleep 30")).await;
    let path = c.running("j").await;
    assert_eq!(c.get(&path).await["metadata"]["finalizers"], json!(["batch.kubernetes.io/job-tracking"]));
    let seen = {
        let watch = history(&c, "j");
        let delete = async {
            c.call("DELETE", &path, Value::Null).await;
            let j = c.until(&format!("{JOBS}/j"), |j| has(j, "FailureTarget")).await;
            assert_eq!(reason(&j, "FailureTarget"), "BackoffLimitExceeded");
            assert_eq!(pods(&c, "j").await.len(), 1, "no other pod beside it");
        };
        tokio::join!(watch, delete).0
    };
    let (target, failed) = (words(&["FailureTarget"]), words(&["FailureTarget", "Failed"]));
    assert_eq!(seen.last(), Some(&(failed, [0, 0, 0, 1])));
    assert!(seen.contains(&(target, [0, 1, 0, 1])), "{seen:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replacement_policy_decides_when_a_pod_is_replaced() {
    let (cluster, c) = start().await;
    c.control("settings", json!({"jobBackoffMs": 20})).await;
    for (name, policy) in [("beside", "TerminatingOrFailed"), ("after", "Failed")] {
        let mut j = job(name, "trap '' TERM; sleep 30");
        j["spec"]["backoffLimit"] = json!(3);
        j["spec"]["podReplacementPolicy"] = json!(policy);
        c.post(JOBS, j).await;
        let path = c.running(name).await;
        c.call("DELETE", &path, Value::Null).await;
        let job = format!("{JOBS}/{name}");
        if name == "beside" {
            c.until(&job, |j| status(j).1 == [1, 1, 0, 1]).await;
        } else {
            c.until(&job, |j| status(j).1 == [0, 1, 0, 0]).await;
        }
        c.until(&job, |j| status(j).1 == [1, 0, 0, 1]).await;
        c.call("DELETE", &job, json!({"propagationPolicy": "Background"})).await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_is_told_before_its_pod_has_ended() {
    let (cluster, c) = start().await;
    let mut j = job("late", "trap '' TERM; sleep 30");
    j["spec"]["activeDeadlineSeconds"] = json!(1);
    let seen = tokio::join!(history(&c, "late"), c.post(JOBS, j)).0;
    assert!(seen.contains(&(words(&["FailureTarget"]), [0, 1, 0, 1])), "{seen:?}");
    assert_eq!(seen.last(), Some(&(words(&["FailureTarget", "Failed"]), [0, 0, 0, 1])));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_of_another_controller_is_left_alone() {
    let (cluster, c) = start().await;
    let mut j = job("theirs", "true");
    j["spec"]["managedBy"] = json!("example.com/queue");
    c.post(JOBS, j).await;
    c.post(JOBS, job("ours", "true")).await;
    c.until(&format!("{JOBS}/ours"), |j| has(j, "Complete")).await;
    assert_eq!(c.get(&format!("{JOBS}/theirs")).await["status"], json!({}));
    assert_eq!(pods(&c, "theirs").await.len(), 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn later_deletion_only_shortens_the_grace_period() {
    let (cluster, c) = start().await;
    let mut j = job("j", "trap '' TERM; sleep 30");
    j["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(60);
    c.post(JOBS, j).await;
    let path = c.running("j").await;
    let grace = |p: &Value| p["metadata"]["deletionGracePeriodSeconds"].clone();
    c.call("DELETE", &path, Value::Null).await;
    let first = c.get(&path).await;
    assert_eq!(grace(&first), 60);
    for (asked, left) in [(json!({"gracePeriodSeconds": 90}), 60), (Value::Null, 60)] {
        c.call("DELETE", &path, asked).await;
        assert_eq!(grace(&c.get(&path).await), left);
    }
    c.call("DELETE", &path, json!({"gracePeriodSeconds": 40})).await;
    let second = c.get(&path).await;
    assert_eq!(grace(&second), 40);
    assert_ne!(first["metadata"]["deletionTimestamp"], second["metadata"]["deletionTimestamp"]);
    c.call("DELETE", &path, json!({"gracePeriodSeconds": 0})).await;
    c.until(&path, |p| p["reason"] == "NotFound").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphaned_pod_is_let_go_and_lives() {
    let (cluster, c) = start().await;
    c.post(JOBS, job("j", "sleep 30")).await;
    let path = c.running("j").await;
    let (_, answer) = c.call("DELETE", &format!("{JOBS}/j"), json!({"propagationPolicy": "Orphan"})).await;
    assert_eq!(answer["metadata"]["finalizers"], json!(["orphan"]));
    c.until(&format!("{JOBS}/j"), |j| j["reason"] == "NotFound").await;
    let pod = c.until(&path, |p| p["metadata"].get("finalizers").is_none()).await;
    assert!(pod["metadata"].get("ownerReferences").is_none());
    assert_eq!(pod["status"]["phase"], "Running");
    cluster.shutdown().await;
}
