//! Watches, logs, permissions and faults, over HTTPS.
#![allow(missing_docs)]

mod common;

use common::{Client, JOBS, PODS, SECRETS, has, job, start};
use serde_json::{Value, json};
use std::time::Duration;

fn secret(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}})
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_resumes_or_expires() {
    let (cluster, c) = start().await;
    c.control("settings", json!({"bookmarkIntervalMs": 100})).await;
    let list = c.get(SECRETS).await;
    let from = list["metadata"]["resourceVersion"].as_str().expect("a version").to_string();
    c.post(SECRETS, secret("a", json!({"x": "1"}))).await;
    let path =
        format!("{SECRETS}?watch=true&labelSelector=x%3D1&allowWatchBookmarks=true&resourceVersion={from}");
    let mut w = c.stream(&path).await;
    let e = w.event().await;
    assert_eq!((&e["type"], &e["object"]["kind"]), (&json!("ADDED"), &json!("Secret")));
    c.call(
        "PATCH",
        &format!("{SECRETS}/a"),
        json!([{"op": "replace", "path": "/metadata/labels/x", "value": "2"}]),
    )
    .await;
    assert_eq!(w.event().await["type"], "DELETED");
    c.call("PATCH", &format!("{SECRETS}/a"), json!({"metadata": {"labels": {"x": "1"}}})).await;
    assert_eq!(w.event().await["type"], "ADDED");
    let mark = w.event().await;
    assert_eq!(mark["type"], "BOOKMARK");
    c.control("compact", json!({})).await;
    // A live watch does not notice.
    c.post(SECRETS, secret("b", json!({"x": "1"}))).await;
    let e = loop {
        let e = w.event().await;
        if e["type"] != "BOOKMARK" {
            break e;
        }
    };
    assert_eq!(e["type"], "ADDED");
    let mut old = c.stream(&path).await;
    let e = old.event().await;
    assert_eq!((old.status, &e["type"], &e["object"]["code"]), (200, &json!("ERROR"), &json!(410)));
    c.control("settings", json!({"expiredAsStatus": true})).await;
    assert_eq!(c.call("GET", &path, Value::Null).await.0, 410);
    let mut timed = c.stream(&format!("{SECRETS}?watch=1&timeoutSeconds=1&resourceVersion=0")).await;
    assert!(!timed.rest().await.is_empty() && !timed.broken);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_list_comes_in_pages() {
    let (cluster, c) = start().await;
    for i in 0..5 {
        c.post(SECRETS, secret(&format!("s{i}"), json!({"p": "1"}))).await;
    }
    let path = format!("{SECRETS}?labelSelector=p%3D1&limit=2");
    let first = c.get(&path).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = c.get(&format!("{path}&continue={token}")).await;
    assert_eq!(second["items"][0]["metadata"]["name"], "s2");
    c.control("compact", json!({})).await;
    let (code, v) = c.call("GET", &format!("{path}&continue={token}"), Value::Null).await;
    assert_eq!((code, &v["reason"]), (410, &json!("Expired")));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_update_conflicts_and_invalid_one_is_refused() {
    let (cluster, c) = start().await;
    let mut s = c.post(SECRETS, secret("a", json!({}))).await;
    let path = format!("{SECRETS}/a");
    c.call("PATCH", &path, json!({"metadata": {"labels": {"y": "1"}}})).await;
    s["data"] = json!({"k": "dg=="});
    let (code, v) = c.call("PUT", &path, s).await;
    assert_eq!((code, &v["reason"]), (409, &json!("Conflict")));
    assert_eq!(c.call("POST", SECRETS, secret("a", json!({}))).await.1["reason"], "AlreadyExists");
    assert_eq!(c.call("POST", SECRETS, secret("A", json!({}))).await.1["reason"], "Invalid");
    let bad = json!([{"op": "replace", "path": "/metadata/labels/none", "value": "1"}]);
    assert_eq!(c.call("PATCH", &path, bad).await.0, 422);
    for (field, value, why) in [
        ("/metadata/annotations", json!({"a": "x".repeat(262_144)}), "template.annotations: Too long"),
        ("/metadata/annotations", json!({"Bad_/a": ""}), "Invalid value: \"bad_/a\""),
        ("/spec/dnsPolicy", json!("Nope"), "dnsPolicy: Unsupported value"),
    ] {
        let mut wrong = job("wrong", "true");
        wrong["spec"]["template"]["metadata"] = json!({});
        let template = &mut wrong["spec"]["template"];
        let (parent, key) = field.rsplit_once('/').expect("a path");
        template.pointer_mut(parent).expect("a parent")[key] = value;
        let (code, v) = c.call("POST", JOBS, wrong).await;
        assert!(code == 422 && v["message"].as_str().is_some_and(|m| m.contains(why)), "{v}");
    }
    let mut pod = json!({"metadata": {"name": "p", "annotations": {"Example.COM/a": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "runtimeClassName": "gvisor"}});
    let (code, v) = c.call("POST", PODS, pod.clone()).await;
    let why = "pod rejected: RuntimeClass \"gvisor\" not found";
    assert!(code == 403 && v["message"].as_str().is_some_and(|m| m.contains(why)), "{v}");
    pod["spec"]["runtimeClassName"] = Value::Null;
    assert_eq!(c.call("POST", PODS, pod).await.0, 201);
    c.post(JOBS, job("j", "true")).await;
    let change = json!({"spec": {"template": {"metadata": {"labels": {"z": "1"}}}}});
    let (code, v) = c.call("PATCH", &format!("{JOBS}/j"), change).await;
    assert!(code == 422 && v["message"].as_str().is_some_and(|m| m.contains("field is immutable")), "{v}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_grants_only_its_rules() {
    let (cluster, c) = start().await;
    c.control(
        "tokens",
        json!({"token": "t", "user": "system:serviceaccount:paperclip:agent", "namespace": "paperclip",
        "rules": [{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}]}),
    )
    .await;
    let u = Client::with_token(&cluster, "t");
    assert_eq!(u.call("GET", PODS, Value::Null).await.0, 200);
    let (code, v) = u.call("POST", JOBS, job("j", "true")).await;
    assert_eq!(code, 403);
    assert_eq!(
        v["message"],
        "jobs.batch is forbidden: User \"system:serviceaccount:paperclip:agent\" cannot create resource \"jobs\" in API group \"batch\" in the namespace \"paperclip\""
    );
    let ask = |resource: &str, verb: &str| {
        json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"resourceAttributes": {"namespace": "paperclip", "resource": resource, "verb": verb}}})
    };
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(u.post(path, ask("pods/log", "get")).await["status"]["allowed"], true);
    assert_eq!(u.post(path, ask("pods", "watch")).await["status"]["allowed"], false);
    assert_eq!(u.call("GET", "/simulator/settings", Value::Null).await.0, 403);
    c.call("DELETE", "/simulator/tokens/t", Value::Null).await;
    assert_eq!(u.call("GET", PODS, Value::Null).await.0, 401);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_faults_act_on_demand() {
    let (cluster, c) = start().await;
    let only = json!({"verb": "list", "resource": "secrets"});
    let many = json!({"match": only, "times": 1, "action": {"status": {"code": 429, "retryAfter": 2}}});
    c.control("faults", many).await;
    let (code, v) = c.call("GET", SECRETS, Value::Null).await;
    assert_eq!(
        (code, &v["reason"], &v["details"]["retryAfterSeconds"]),
        (429, &json!("TooManyRequests"), &json!(2))
    );
    assert_eq!(c.call("GET", SECRETS, Value::Null).await.0, 200);
    c.call("DELETE", "/simulator/faults", Value::Null).await;

    c.fault(only.clone(), json!({"refuse": true})).await;
    assert!(c.try_call("GET", SECRETS, Value::Null).await.is_err());
    c.call("DELETE", "/simulator/faults", Value::Null).await;

    c.fault(only.clone(), json!({"garbage": true})).await;
    assert_eq!(c.get(SECRETS).await["items"][0]["metadata"]["name"], 7);
    c.fault(json!({"verb": "watch"}), json!({"expireWatch": true})).await;
    let mut w = c.stream(&format!("{PODS}?watch=true&resourceVersion=1001")).await;
    assert_eq!(w.event().await["object"]["code"], 410);
    let log = c.get("/simulator/requests?since=0").await;
    assert!(log["counts"]["list secrets"].as_u64() >= Some(4));
    let refused = log["requests"].as_array().expect("a list").iter().any(|r| r["status"] == 0);
    assert!(refused);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_faults_act_on_demand() {
    let (cluster, c) = start().await;
    c.post(JOBS, job("j", "for i in 1 2 3 4 5; do echo line $i; done; sleep 30")).await;
    let path = format!("{}/log?follow=true", c.running("j").await);
    let clear = async || c.call("DELETE", "/simulator/faults", Value::Null).await;
    let logs = json!({"resource": "pods/log"});
    c.fault(logs.clone(), json!({"cut": {"afterLines": 2}})).await;
    let mut s = c.stream(&path).await;
    assert_eq!((s.rest().await, s.broken), (vec!["line 1".to_string(), "line 2".to_string()], false));
    clear().await;
    c.fault(logs.clone(), json!({"cut": {"afterBytes": 10, "reset": true}})).await;
    let mut s = c.stream(&path).await;
    assert_eq!((s.rest().await.len(), s.broken), (2, true));
    clear().await;
    c.fault(logs.clone(), json!({"stall": {"afterLines": 3}})).await;
    let mut s = c.stream(&path).await;
    for _ in 0..3 {
        s.line().await.expect("a line");
    }
    assert!(tokio::time::timeout(Duration::from_millis(200), s.line()).await.is_err());
    clear().await;
    c.fault(logs, json!({"logText": "failed to watch file"})).await;
    assert_eq!(c.get(&path).await, json!("failed to watch file"));
    clear().await;
    let mut s = c.stream(&path).await;
    s.line().await.expect("a line");
    assert_eq!(c.get("/simulator/connections").await["logStreams"].as_array().map(Vec::len), Some(2));
    c.control("restart", json!({"downMs": 200})).await;
    s.rest().await;
    assert!(s.broken);
    assert!(c.try_call("GET", PODS, Value::Null).await.is_err());
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(c.pod_of("j").await["status"]["phase"], "Running");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scripted_pod_serves_log_options() {
    let (cluster, c) = start().await;
    let mut j = job("j", "");
    j["spec"]["template"]["spec"]["containers"][0]["command"] = json!([
        "simulator:emit",
        json!({"lines": 50, "bytes": 20000, "perSecond": 100, "exitCode": 3}).to_string()
    ]);
    c.post(JOBS, j).await;
    let path = c.pod_path("j").await;
    let p = c.until(&path, |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(p["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    c.until(&format!("{JOBS}/j"), |v| has(v, "Failed")).await;
    let mut all = c.stream(&format!("{path}/log?timestamps=true")).await;
    let lines = all.rest().await;
    assert_eq!((lines.len(), lines[0].len()), (50, 31 + 19999));
    // Two chunks per line.
    let mut tail = c.stream(&format!("{path}/log?tailLines=3")).await;
    assert_eq!(tail.rest().await.len(), 2);
    let stamp = lines[49].split(' ').next().expect("a stamp").to_string();
    let mut since = c.stream(&format!("{path}/log?sinceTime={stamp}")).await;
    let count = since.rest().await.len();
    assert!((1..=50).contains(&count), "{count}");
    assert_eq!(c.call("GET", &format!("{path}/log?container=no"), Value::Null).await.0, 400);
    assert_eq!(c.call("GET", &format!("{path}/log?previous=true"), Value::Null).await.0, 400);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variable_scripts_a_pod_with_any_command() {
    let (cluster, c) = start().await;
    let mut j = job("j", "exit 9");
    let script =
        json!({"lines": 3, "text": "{n8}{pad}", "bytes": 12, "last": "end of {n}", "perSecond": 1000});
    let spec = &mut j["spec"]["template"]["spec"];
    let key = json!({"secretKeyRef": {"name": "script", "key": "emit"}});
    spec["containers"][0]["env"] = json!([{"name": "SIMULATOR_EMIT", "valueFrom": key}]);
    spec["initContainers"] = json!([{"name": "i", "image": "busybox", "command": ["sh", "-c", "exit 1"]}]);
    let before = now_us();
    let mut script_secret = secret("script", json!({}));
    script_secret["stringData"] = json!({"emit": script.to_string()});
    c.post(SECRETS, script_secret).await;
    c.post(JOBS, j).await;
    c.until(&format!("{JOBS}/j"), |v| has(v, "Complete")).await;
    let path = c.pod_path("j").await;
    let mut log = c.stream(&format!("{path}/log")).await;
    assert_eq!(log.rest().await, ["00000000xxx", "00000001xxx", "00000002xxx", "end of 3"]);
    let load = c.get("/simulator/load").await;
    assert_eq!(
        (&load["finished"][0]["name"], &load["finished"][0]["succeeded"]),
        (&json!("j"), &json!(true))
    );
    let ended = load["finished"][0]["us"].as_u64().expect("a number");
    assert!((before..=now_us()).contains(&ended));
    assert!(load["emit"]["wakes"].as_u64() > Some(0));
    assert_eq!(c.get("/simulator/connections").await["most"]["logStreams"], 1);
    cluster.shutdown().await;
}

fn now_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_micros() as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_of_a_large_body_reaches_its_sender() {
    let (cluster, c) = start().await;
    let mut large = secret("large", json!({}));
    large["stringData"] = json!({"prompt": "x".repeat(1 << 20)});
    let stranger = Client::with_token(&cluster, "unknown");
    let matching = json!({"verb": "create", "user": "kubernetes-admin"});
    c.fault(matching, json!({"status": {"code": 403, "message": "no"}})).await;
    for _ in 0..5 {
        for (client, expected) in [(&c, 403), (&stranger, 401)] {
            let answer = client.try_call("POST", SECRETS, large.clone()).await;
            assert_eq!(answer.expect("an answer").0, expected);
        }
    }
    cluster.shutdown().await;
}
