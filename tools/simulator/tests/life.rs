//! Jobs and pods from beginning to end, over HTTPS.
#![allow(missing_docs)]

mod common;

use common::{JOBS, PODS, SECRETS, has, job, reason, start};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn job_runs_to_completion() {
    let (cluster, c) = start().await;
    let mut j = job("j", "cat /tmp/prompt/prompt.txt; echo; echo \"$WHERE\"; echo \"$NOTE\"; echo err >&2");
    let spec = &mut j["spec"]["template"]["spec"];
    spec["volumes"] = json!([{"name": "prompt", "emptyDir": {}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "paperclip-data"}}]);
    let mount = json!({"name": "prompt", "mountPath": "/tmp/prompt"});
    spec["initContainers"] = json!([{
        "name": "write-prompt", "image": "busybox:1.36",
        "command": ["sh", "-c", "printf '%s' \"$PROMPT_CONTENT\" > /tmp/prompt/prompt.txt"],
        "env": [{"name": "PROMPT_CONTENT", "value": "see /paperclip"}], "volumeMounts": [mount],
    }]);
    spec["containers"][0]["volumeMounts"] = json!([mount, {"name": "data", "mountPath": "/paperclip"}]);
    spec["containers"][0]["env"] =
        json!([{"name": "WHERE", "value": "/paperclip"}, {"name": "NOTE", "value": "in /paperclip"}]);
    c.post(JOBS, j).await;
    let path = c.pod_path("j").await;
    c.until(&path, |p| p["status"]["containerStatuses"][0]["state"].get("waiting").is_none()).await;
    let mut log = c.stream(&format!("{path}/log?container=claude&follow=true")).await;
    let lines = log.rest().await;
    let claim = cluster.claim_dir("paperclip", "paperclip-data");
    // stdout and stderr are two pipes: their order among each other is chance.
    let (err, out): (Vec<&str>, Vec<&str>) =
        lines.iter().map(String::as_str).partition(|line| *line == "err");
    assert_eq!(out, ["see /paperclip", &claim.to_string_lossy(), "in /paperclip"]);
    assert!(err.len() == 1 && !log.broken);
    let done = c.until(&format!("{JOBS}/j"), |v| has(v, "Complete")).await;
    assert!(has(&done, "SuccessCriteriaMet") && done["status"]["completionTime"].is_string());
    assert_eq!(done["status"]["succeeded"], 1);
    let pod = c.get(&path).await;
    assert_eq!(pod["status"]["phase"], "Succeeded");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let (status, _) =
        c.call("DELETE", &format!("{JOBS}/j"), json!({"propagationPolicy": "Background"})).await;
    assert_eq!(status, 200);
    c.until(&path, |v| v["reason"] == "NotFound").await;
    let dir = cluster.dir.clone();
    cluster.shutdown().await;
    assert!(!dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn job_deleted_without_a_policy_orphans_its_pod() {
    let (cluster, c) = start().await;
    c.post(JOBS, job("j", "sleep 30")).await;
    let path = c.running("j").await;
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(c.call("DELETE", &format!("{JOBS}/j"), wrong).await.0, 409);
    c.call("DELETE", &format!("{JOBS}/j"), Value::Null).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let pod = c.get(&path).await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert!(pod["metadata"].get("ownerReferences").is_none());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreground_deletion_waits_for_the_pod() {
    let (cluster, c) = start().await;
    c.post(JOBS, job("j", "trap '' TERM; sleep 30")).await;
    let path = c.running("j").await;
    let (_, v) = c.call("DELETE", &format!("{JOBS}/j?propagationPolicy=Foreground"), Value::Null).await;
    assert_eq!(v["metadata"]["finalizers"][0], "foregroundDeletion");
    assert_eq!(
        c.until(&path, |p| p["metadata"]["deletionTimestamp"].is_string()).await["metadata"]["deletionGracePeriodSeconds"],
        1
    );
    assert_eq!(c.get(&format!("{JOBS}/j")).await["kind"], "Job");
    c.until(&format!("{JOBS}/j"), |v| v["reason"] == "NotFound").await;
    assert_eq!(c.get(&path).await["reason"], "NotFound");
    assert_eq!(c.get("/simulator/processes").await["processes"], json!([]));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_pod_shows_its_exit_and_fails_the_job() {
    let (cluster, c) = start().await;
    c.post(JOBS, job("j", "sleep 30")).await;
    let path = c.running("j").await;
    let mut watch = c.stream(&format!("{PODS}?watch=true&labelSelector=job-name%3Dj")).await;
    watch.event().await;
    let (code, v) = c.call("DELETE", &path, Value::Null).await;
    assert_eq!((code, &v["kind"]), (200, &json!("Pod")));
    let last = loop {
        let e = watch.event().await;
        if e["type"] == "DELETED" {
            break e["object"].clone();
        }
    };
    assert_eq!(last["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 143);
    assert!(last["metadata"]["deletionTimestamp"].is_string());
    // The kubelet's own delete has no grace period left.
    assert_eq!(last["metadata"]["deletionGracePeriodSeconds"], 0);
    let j = c.until(&format!("{JOBS}/j"), |v| has(v, "Failed")).await;
    assert_eq!(reason(&j, "Failed"), "BackoffLimitExceeded");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_honours_deadline_suspension_and_ttl() {
    let (cluster, c) = start().await;
    let mut j = job("late", "sleep 30");
    j["spec"]["activeDeadlineSeconds"] = json!(1);
    c.post(JOBS, j).await;
    let mut j = job("held", "true");
    j["spec"]["suspend"] = json!(true);
    c.post(JOBS, j).await;
    let mut j = job("brief", "true");
    j["spec"]["ttlSecondsAfterFinished"] = json!(0);
    c.post(JOBS, j).await;
    c.until(&format!("{JOBS}/held"), |v| has(v, "Suspended")).await;
    c.until(&format!("{JOBS}/brief"), |v| v["reason"] == "NotFound").await;
    let late = c.until(&format!("{JOBS}/late"), |v| has(v, "Failed")).await;
    assert_eq!(reason(&late, "FailureTarget"), "DeadlineExceeded");
    assert_eq!(c.get(&format!("{PODS}?labelSelector=job-name%3Dheld")).await["items"], json!([]));
    c.call("PATCH", &format!("{JOBS}/held"), json!({"spec": {"suspend": false}})).await;
    c.until(&format!("{JOBS}/held"), |v| has(v, "Complete")).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_honours_a_deadline_that_is_set_while_it_runs() {
    let (cluster, c) = start().await;
    c.post(JOBS, job("j", "sleep 30")).await;
    let pods = format!("{PODS}?labelSelector=job-name%3Dj");
    let pods = c.until(&pods, |v| v["items"][0]["status"]["phase"] == "Running").await;
    let pod = format!("{PODS}/{}", pods["items"][0]["metadata"]["name"].as_str().unwrap());
    c.call("PATCH", &pod, json!({"spec": {"activeDeadlineSeconds": 1}})).await;
    let pod = c.until(&pod, |v| v["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_pod_is_retried_up_to_the_limit() {
    let (cluster, c) = start().await;
    c.control("settings", json!({"jobBackoffMs": 20, "crashLoopBackoffMs": 20})).await;
    let mut j = job("retry", "exit 3");
    j["spec"]["backoffLimit"] = json!(1);
    c.post(JOBS, j).await;
    let mut j = job("again", "exit 4");
    j["spec"]["backoffLimit"] = json!(2);
    j["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure");
    c.post(JOBS, j).await;
    let done = c.until(&format!("{JOBS}/retry"), |v| has(v, "Failed")).await;
    assert_eq!((&done["status"]["failed"], reason(&done, "Failed")), (&json!(2), "BackoffLimitExceeded"));
    c.until(&format!("{JOBS}/again"), |v| has(v, "Failed")).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn container_that_cannot_start_shows_its_reason() {
    let (cluster, c) = start().await;
    c.control("settings", json!({"imagePullBackoffMs": 100})).await;
    let mut j = job("image", "true");
    j["spec"]["template"]["spec"]["containers"][0]["image"] = json!("missing/x:1");
    c.post(JOBS, j).await;
    let path = c.pod_path("image").await;
    let waiting = |v: &Value| v["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    c.until(&path, |p| waiting(p) == "ErrImagePull").await;
    c.until(&path, |p| waiting(p) == "ImagePullBackOff").await;
    let (code, v) = c.call("GET", &format!("{path}/log"), Value::Null).await;
    assert!(code == 400 && v["message"].as_str().is_some_and(|m| m.contains("is waiting to start")), "{v}");

    let mut j = job("env", "echo $K");
    j["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "K", "valueFrom": {"secretKeyRef": {"name": "later", "key": "k"}}}]);
    c.post(JOBS, j).await;
    let path = c.pod_path("env").await;
    let p = c.until(&path, |p| waiting(p) == "CreateContainerConfigError").await;
    assert_eq!(
        p["status"]["containerStatuses"][0]["state"]["waiting"]["message"],
        "secret \"later\" not found"
    );
    c.post(SECRETS, json!({"metadata": {"name": "later"}, "stringData": {"k": "v"}})).await;
    c.until(&format!("{JOBS}/env"), |v| has(v, "Complete")).await;
    assert_eq!(c.get(&format!("{path}/log")).await, json!("v\n"));

    let mut j = job("volume", "true");
    j["spec"]["template"]["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "nope"}}]);
    c.post(JOBS, j).await;
    let pod = c.pod_of("volume").await;
    let uid = pod["metadata"]["uid"].as_str().expect("a UID");
    let events = format!("/api/v1/namespaces/paperclip/events?fieldSelector=involvedObject.uid%3D{uid}");
    c.until(&events, |v| {
        v["items"].as_array().is_some_and(|l| l.iter().any(|e| e["reason"] == "FailedMount"))
    })
    .await;

    let mut j = job("node", "true");
    j["spec"]["template"]["spec"]["nodeSelector"] = json!({"gpu": "yes"});
    c.post(JOBS, j).await;
    let p = c.pod_path("node").await;
    let p = c.until(&p, |p| reason(p, "PodScheduled") == "Unschedulable").await;
    let text = p["status"]["conditions"][0]["message"].as_str().expect("a message");
    assert!(
        text.starts_with("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.")
    );

    let mut j = job("big", "true");
    j["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "P", "value": "x".repeat(140_000)}]);
    c.post(JOBS, j).await;
    let p = c.pod_path("big").await;
    let p = c.until(&p, |p| p["status"]["phase"] == "Failed").await;
    let end = &p["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&end["reason"], &end["exitCode"]), (&json!("StartError"), &json!(128)));
    assert!(end["message"].as_str().is_some_and(|m| m.contains("argument list too long")));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn container_killed_from_outside_shows_its_end() {
    let (cluster, c) = start().await;
    let exit = |p: &Value| p["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    let mut paths = Vec::new();
    for name in ["oom", "evict", "preempt", "kill", "lost"] {
        c.post(JOBS, job(name, "echo up; sleep 30")).await;
        paths.push(c.running(name).await);
    }
    let name = |i: usize| paths[i].strip_prefix(PODS).expect("a pod path").to_string();
    c.control(&format!("pods/paperclip{}/oom", name(0)), json!({})).await;
    let p = c.until(&paths[0], |p| p["status"]["phase"] == "Failed").await;
    assert_eq!((&exit(&p)["reason"], &exit(&p)["exitCode"]), (&json!("OOMKilled"), &json!(137)));

    c.control(&format!("pods/paperclip{}/evict", name(1)), json!({})).await;
    let p = c.until(&paths[1], |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(
        (&p["status"]["reason"], reason(&p, "DisruptionTarget")),
        (&json!("Evicted"), "TerminationByKubelet")
    );

    let mut watch = c.stream(&format!("{PODS}?watch=true&labelSelector=job-name%3Dpreempt")).await;
    c.control(&format!("pods/paperclip{}/preempt", name(2)), json!({})).await;
    let gone = loop {
        let e = watch.event().await;
        if e["type"] == "DELETED" {
            break e["object"].clone();
        }
    };
    assert_eq!(reason(&gone, "DisruptionTarget"), "PreemptionByScheduler");

    c.control(&format!("pods/paperclip{}/kill", name(3)), json!({"signal": "TERM"})).await;
    let p = c.until(&paths[3], |p| p["status"]["phase"] == "Failed").await;
    assert_eq!((&exit(&p)["reason"], &exit(&p)["exitCode"]), (&json!("Error"), &json!(143)));

    let mut log = c.stream(&format!("{}/log?follow=true", paths[4])).await;
    assert_eq!(log.line().await.as_deref(), Some("up"));
    c.control(&format!("pods/paperclip{}/node-lost", name(4)), json!({"removeAfterMs": 200})).await;
    let p = c.get(&paths[4]).await;
    assert_eq!((&p["status"]["phase"], has(&p, "Ready")), (&json!("Running"), false));
    assert_eq!(reason(&p, "DisruptionTarget"), "DeletionByTaintManager");
    c.until(&paths[4], |p| p["reason"] == "NotFound").await;
    let more = tokio::time::timeout(Duration::from_millis(200), log.line()).await;
    assert!(more.is_err(), "a lost node does not end the stream");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_replacement_quota_and_namespaces_work() {
    let (cluster, c) = start().await;
    let first = c.post(JOBS, job("j", "trap '' TERM; sleep 30")).await;
    let path = c.running("j").await;
    let second = c.control("jobs/paperclip/j/replace", json!({})).await;
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    c.until(&path, |p| p["reason"] == "NotFound").await;
    c.running("j").await;

    c.control("settings", json!({"quota": {"jobs": 1}})).await;
    let (code, v) = c.call("POST", JOBS, job("k", "true")).await;
    assert_eq!(code, 403);
    assert!(v["message"].as_str().is_some_and(|m| m.contains("exceeded quota")), "{v}");
    c.control("settings", json!({"quota": {}})).await;

    let (code, v) = c.call("DELETE", "/api/v1/namespaces/paperclip", Value::Null).await;
    assert_eq!((code, &v["status"]["phase"]), (200, &json!("Terminating")));
    let (code, v) = c.call("POST", JOBS, job("k", "true")).await;
    assert_eq!((code, &v["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
    c.until("/api/v1/namespaces/paperclip", |v| v["reason"] == "NotFound").await;
    assert_eq!(c.get("/simulator/processes").await["processes"], json!([]));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_survives_the_cluster() {
    let (cluster, c) = start().await;
    c.post(JOBS, job("j", "trap '' TERM; sleep 777 & sleep 777")).await;
    c.running("j").await;
    let pid = c.get("/simulator/processes").await["processes"][0]["pid"].as_u64().expect("a pid");
    let alive = || std::path::Path::new(&format!("/proc/{pid}")).exists();
    assert!(alive());
    cluster.shutdown().await;
    assert!(!alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn container_gets_volumes_and_environment() {
    let (cluster, c) = start().await;
    c.post(SECRETS, json!({"metadata": {"name": "s"}, "stringData": {"a": "secret-a", "B": "secret-b"}}))
        .await;
    let maps = "/api/v1/namespaces/paperclip/configmaps";
    c.post(maps, json!({"metadata": {"name": "m"}, "data": {"x": "map-x"}})).await;
    let script = "cat /s/a /m/renamed /p/a /p/name; echo; stat -L -c %a /s/a; cat /one; echo; echo $E_B $NAME $(K) $MISSING; pwd; test -d /paperclip/sub && echo sub";
    let mut j = job("j", script);
    let spec = &mut j["spec"]["template"]["spec"];
    spec["volumes"] = json!([
        {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
        {"name": "m", "configMap": {"name": "m", "items": [{"key": "x", "path": "renamed"}]}},
        {"name": "p", "projected": {"sources": [{"secret": {"name": "s"}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}},
        {"name": "o", "secret": {"secretName": "none", "optional": true}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "paperclip-data"}},
    ]);
    let main = &mut spec["containers"][0];
    main["volumeMounts"] = json!([
        {"name": "s", "mountPath": "/s", "readOnly": true}, {"name": "m", "mountPath": "/m"}, {"name": "p", "mountPath": "/p"},
        {"name": "s", "mountPath": "/one", "subPath": "a"}, {"name": "o", "mountPath": "/o"},
        {"name": "data", "mountPath": "/paperclip/sub", "subPath": "deep"},
    ]);
    main["envFrom"] = json!([{"prefix": "E_", "secretRef": {"name": "s"}}]);
    main["env"] = json!([{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['job-name']"}}},
        {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "x"}}}]);
    main["workingDir"] = json!("/some/place");
    c.post(JOBS, j).await;
    c.until(&format!("{JOBS}/j"), |v| has(v, "Complete")).await;
    let log = c.get(&format!("{}/log", c.pod_path("j").await)).await;
    let lines: Vec<&str> = log.as_str().expect("text").lines().collect();
    assert_eq!(lines[..4], ["secret-amap-xsecret-apaperclip", "400", "secret-a", "secret-b j map-x"]);
    assert!(lines[4].ends_with("/some/place") && lines[4].starts_with(&*cluster.dir.to_string_lossy()));
    assert_eq!(lines[5], "sub");
    assert!(cluster.claim_dir("paperclip", "paperclip-data").join("deep").is_dir());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evictions_status_updates_and_control_api_work() {
    let (cluster, c) = start().await;
    for name in ["a", "b", "d"] {
        c.post(JOBS, job(name, "sleep 30")).await;
    }
    let a = c.running("a").await;
    let mut watch = c.stream(&format!("{PODS}?watch=true&labelSelector=job-name%3Da")).await;
    c.post(&format!("{a}/eviction"), json!({"kind": "Eviction", "apiVersion": "policy/v1"})).await;
    let gone = loop {
        let e = watch.event().await;
        if e["type"] == "DELETED" {
            break e["object"].clone();
        }
    };
    assert_eq!(reason(&gone, "DisruptionTarget"), "EvictionByEvictionAPI");
    let name = |path: &str| path.strip_prefix(PODS).expect("a pod path").to_string();
    let b = c.running("b").await;
    c.control(&format!("pods/paperclip{}/taint", name(&b)), json!({"gracePeriodSeconds": 0})).await;
    // The Job controller lets go of it first.
    c.until(&b, |p| p["reason"] == "NotFound").await;
    let d = c.running("d").await;
    c.control(&format!("pods/paperclip{}/delete", name(&d)), json!({})).await;
    c.until(&d, |p| p["reason"] == "NotFound").await;
    let mut j = c.get(&format!("{JOBS}/d")).await;
    j["status"]["failed"] = json!(77);
    j["spec"]["backoffLimit"] = json!(9);
    j["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    let (code, j) = c.call("PUT", &format!("{JOBS}/d/status"), j).await;
    assert_eq!((code, &j["status"]["failed"], &j["spec"]["backoffLimit"]), (200, &json!(77), &json!(0)));
    let (code, _) = c.call("DELETE", &format!("{JOBS}?labelSelector=app%20in%20(a,b)"), Value::Null).await;
    assert_eq!(code, 200);
    let left = c.get(JOBS).await;
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));

    c.control("pods/paperclip/e-*/fail-image-for", json!({"forMs": 300})).await;
    c.control("settings", json!({"imagePullBackoffMs": 100})).await;
    c.post(JOBS, job("e", "true")).await;
    let e = c.pod_path("e").await;
    c.until(&e, |p| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull")
        .await;
    c.until(&format!("{JOBS}/e"), |v| has(v, "Complete")).await;

    c.fault(json!({"resource": "jobs"}), json!({"delayMs": 200})).await;
    let begun = std::time::Instant::now();
    c.get(JOBS).await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
    c.call("DELETE", "/simulator/faults/1", Value::Null).await;
    assert_eq!(c.get("/simulator/faults").await["faults"], json!([]));
    c.control("settings", json!({"unschedulable": true})).await;
    c.post(JOBS, job("u", "true")).await;
    let u = c.pod_path("u").await;
    c.until(&u, |p| reason(p, "PodScheduled") == "Unschedulable").await;
    c.control("settings", json!({"unschedulable": false})).await;
    c.until(&format!("{JOBS}/u"), |v| has(v, "Complete")).await;
    c.control("reset-requests", json!({})).await;
    assert_eq!(c.get("/simulator/requests?since=0").await["requests"], json!([]));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_kubelet_does_nothing_until_it_is_resumed() {
    let (cluster, c) = start().await;
    c.post(JOBS, job("j", "echo one; sleep 0.5; echo two")).await;
    let path = c.running("j").await;
    let mut log = c.stream(&format!("{path}/log?container=claude&follow=true")).await;
    assert_eq!(log.line().await.as_deref(), Some("one"));
    c.control("kubelet", json!({"paused": true})).await;
    c.post(JOBS, job("later", "echo late")).await;
    let later = c.pod_path("later").await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(c.get(&path).await["status"]["phase"], "Running");
    assert_eq!(c.get(&later).await["status"]["phase"], "Pending");
    assert!(tokio::time::timeout(Duration::from_millis(200), log.line()).await.is_err());
    c.call("DELETE", &later, Value::Null).await;
    assert!(c.get(&later).await["metadata"]["deletionTimestamp"].is_string());
    c.control("kubelet", json!({"paused": false})).await;
    assert_eq!(log.rest().await, ["two"]);
    c.until(&path, |p| p["status"]["phase"] == "Succeeded").await;
    c.until(&later, |p| p["reason"] == "NotFound").await;
    cluster.shutdown().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn first_process_gets_only_signals_that_it_handles() {
    let (cluster, c) = start().await;
    c.control("settings", json!({"signalsAsFirstProcess": true})).await;
    let handler = "trap 'echo heard; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    for (name, script, code) in [("deaf", "echo ready; sleep 30 | cat", 137), ("hears", handler, 7)] {
        let mut j = job(name, script);
        j["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
        c.post(JOBS, j).await;
        let path = c.running(name).await;
        let mut log = c.stream(&format!("{path}/log?container=claude&follow=true")).await;
        assert_eq!(log.line().await.as_deref(), Some("ready"));
        let pod = c.get(&path).await;
        let mut watch = c.stream(&format!("{PODS}?watch=true&labelSelector=job-name%3D{name}")).await;
        c.call("DELETE", &path, Value::Null).await;
        let last = loop {
            let e = watch.event().await;
            if e["type"] == "DELETED" {
                break e["object"].clone();
            }
        };
        assert_eq!(last["metadata"]["uid"], pod["metadata"]["uid"]);
        let ended = &last["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(ended["exitCode"], code, "{name}");
    }
    cluster.shutdown().await;
}
