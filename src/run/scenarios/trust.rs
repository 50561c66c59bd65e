//! What others in the namespace, and an agent's own configuration, try with a run.

use super::*;

in_both_modes!(pod_with_copied_labels_is_not_followed);
async fn pod_with_copied_labels_is_not_followed(mode: Mode) {
    let owner = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "batch/v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
    // By whom they say that they are owned: nothing, a Job of this name that was, another Job, and what is not a Job.
    let owners = [
        json!([]),
        owner("Job", "$JOB", "another-uid"),
        owner("Job", "another-job", "another-uid"),
        owner("ReplicaSet", "$JOB", "$UID"),
        owner("Job", "$JOB", ""),
    ];
    for owners in owners {
        let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(20)));
        scenario.cluster.forge_pod(json!({
            "metadata": {"name": "a-forged-pod", "uid": "forged", "ownerReferences": owners, "labels": {
                "paperclip.io/agent-id": "agent-1", "paperclip.io/adapter-type": "claude_k8s", "paperclip.io/company-id": "company-1",
                "app.kubernetes.io/managed-by": "paperclip", "job-name": "$JOB", "batch.kubernetes.io/job-name": "$JOB",
                "controller-uid": "$UID", "batch.kubernetes.io/controller-uid": "$UID"}},
            "spec": {"containers": []},
            "status": {"phase": "Failed", "containerStatuses": [{
                "name": "claude", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                "state": {"terminated": {"exitCode": 7, "reason": "Forged"}}}]},
        }));
        let result = scenario.run().await;
        let ended = (&result["errorMessage"], &result["exitCode"]);
        assert_eq!(ended, (&Value::Null, &json!(0)), "{owners}: {result}");
        assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>(), "{owners}");
    }
}

in_both_modes!(job_of_another_company_is_neither_attached_to_nor_waited_for);
async fn job_of_another_company_is_neither_attached_to_nor_waited_for(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5)));
    scenario.cluster.put_job(
        "ac-forged",
        &[
            ("paperclip.io/agent-id", "agent-1"),
            ("paperclip.io/adapter-type", "claude_k8s"),
            ("app.kubernetes.io/managed-by", "paperclip"),
            ("paperclip.io/company-id", "company-2"),
            ("paperclip.io/run-id", "run-0"),
            ("paperclip.io/task-id", "task-1"),
        ],
        success_over(Duration::from_secs(3600)),
    );
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(!scenario.host.out().contains("Reattaching"), "{}", scenario.host.out());
}

in_both_modes!(job_with_copied_labels_is_not_the_run_s_own);
async fn job_with_copied_labels_is_not_the_run_s_own(mode: Mode) {
    // What it copies, and whether the run of the agent ends because of it: another agent's labels never matter, and a Job
    // that says it is of this agent holds it back, but is neither followed nor deleted.
    for (labels, holds_back) in [
        ([("paperclip.io/agent-id", "agent-2"), ("paperclip.io/company-id", "company-1")], false),
        ([("paperclip.io/agent-id", "agent-2"), ("paperclip.io/run-id", "run-1")], false),
        ([("paperclip.io/agent-id", "agent-1"), ("paperclip.io/company-id", "company-2")], false),
        ([("paperclip.io/agent-id", "agent-1"), ("paperclip.io/company-id", "company-1")], true),
        ([("paperclip.io/agent-id", "agent-1"), ("paperclip.io/task-id", "another-task")], true),
        ([("paperclip.io/agent-id", "agent-1"), ("paperclip.io/run-id", "run-1")], true),
    ] {
        let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5)));
        let kind =
            [("paperclip.io/adapter-type", "claude_k8s"), ("app.kubernetes.io/managed-by", "paperclip")];
        let labels: Vec<_> = labels.into_iter().chain(kind).collect();
        scenario.cluster.put_job("ac-forged", &labels, success_over(Duration::from_secs(3600)));
        let result = scenario.run().await;
        assert_eq!(result["errorMessage"] != Value::Null, holds_back, "{labels:?}: {result}");
        let lines = if holds_back { Vec::new() } else { SUCCESS.lines().collect::<Vec<_>>() };
        assert_eq!(scenario.host.agent_lines(), lines, "{labels:?}");
        assert!(scenario.cluster.remaining().contains(&"ac-forged".to_owned()), "{labels:?}");
    }
}

in_both_modes!(configuration_that_asks_for_more_ends_before_any_creation);
async fn configuration_that_asks_for_more_ends_before_any_creation(mode: Mode) {
    let home = std::env::temp_dir().join("claude-k8s-scenarios");
    std::fs::create_dir_all(&home).expect("made");
    let inside = home.join("kubeconfig-of-an-agent");
    std::fs::write(&inside, "apiVersion: v1").expect("written");
    for (config, words) in [
        (json!({"kubeconfig": inside}), "where agents can write"),
        (json!({"instructionsFilePath": "/dev/zero"}), "is not below PAPERCLIP_HOME"),
        (json!({"podTemplate": {"spec": {"hostPID": true}}}), "podTemplate.spec.hostPID"),
        (json!({"serviceAccountName": "paperclip-host"}), "is the account of Paperclip's own pod"),
    ] {
        let scenario = Scenario::new(mode).config(config.clone());
        let result = scenario.run().await;
        assert_eq!(result["resultJson"]["k8sErrorCode"], "k8s_config_invalid", "{config}: {result}");
        assert!(message_of(&result).contains(words), "{result}");
        assert!(scenario.cluster.remaining().is_empty());
    }
}
