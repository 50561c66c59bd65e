//! What others in the namespace, and an agent's own configuration, try with a run.

use super::*;

in_both_modes!(pod_with_copied_labels_is_not_followed);
async fn pod_with_copied_labels_is_not_followed(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(20)));
    let forged = json!({
        "metadata": {"name": "a-forged-pod", "uid": "forged", "labels": {"paperclip.io/agent-id": "agent-1"}},
        "spec": {"containers": []},
        "status": {"phase": "Failed", "containerStatuses": [{
            "name": "claude", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"terminated": {"exitCode": 7, "reason": "Forged"}}}]},
    });
    scenario.cluster.forge_pod(serde_json::from_value(forged).expect("a pod"));
    let result = scenario.run().await;
    assert_eq!((&result["errorMessage"], &result["exitCode"]), (&Value::Null, &json!(0)), "{result}");
    assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
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
