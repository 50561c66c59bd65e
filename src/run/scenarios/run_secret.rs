//! The Secret of a run: created with its owner, collected with its Job, and what a run does where it may not have one.

use super::*;

fn short_run() -> Script {
    success_over(Duration::from_secs(5))
}

fn has_warning(scenario: &Scenario) -> bool {
    let err = scenario.host.err();
    err.contains("[paperclip] Warning: cannot create Secrets in namespace paperclip — ")
        && err.contains(" — variables and prompt of runs stand in their Jobs in clear: HTTP-Code: 403")
}

in_both_modes!(sealed_run_has_one_secret_owned_by_its_job);
async fn sealed_run_has_one_secret_owned_by_its_job(mode: Mode) {
    let scenario = Scenario::new(mode).script(short_run());
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    let requests = scenario.cluster.run_requests();
    let at = |request: &str| requests.iter().position(|made| made == request).expect("made");
    assert_eq!(at("create secret"), at("create job") + 1, "{requests:?}");
    let secrets = scenario.cluster.all_secrets();
    assert_eq!(secrets.len(), 1);
    let owner = &secrets[0].metadata.owner_references.as_ref().expect("an owner")[0];
    assert_eq!((owner.kind.as_str(), owner.name.starts_with("ac-agent-1-run-1-")), ("Job", true));
    assert_eq!(secrets[0].immutable, Some(true));
    assert_eq!(scenario.cluster.count("delete secret"), 0);
    assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
}

in_both_modes!(refused_secret_is_warned_of_once_per_namespace);
async fn refused_secret_is_warned_of_once_per_namespace(mode: Mode) {
    let mut scenario = Scenario::new(mode).script(short_run()).script(short_run());
    scenario.cluster.fault("create secret", [Fault::Answer(403, "secrets is forbidden")]);
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(has_warning(&scenario), "{}", scenario.host.err());
    assert_eq!((scenario.cluster.count("create job"), scenario.cluster.count("create secret")), (2, 1));
    assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());

    // Ten minutes pass after each run of a scenario.
    scenario.run_id = "run-2";
    scenario.host = Arc::default();
    scenario.cluster.script(short_run()).script(short_run());
    scenario.cluster.fault("create secret", [Fault::Answer(403, "secrets is forbidden")]);
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    assert!(!has_warning(&scenario), "{}", scenario.host.err());
    assert_eq!(scenario.cluster.count("create secret"), 2, "tried again later, as the Role may have changed");
}

in_both_modes!(run_without_a_secret_delivers_a_large_prompt);
async fn run_without_a_secret_delivers_a_large_prompt(mode: Mode) {
    let host = || FakeHost { prompt: Some("x".repeat(120 * 1024)), ..FakeHost::default() };
    let off = || Scenario::new(mode).host_env(json!({"PAPERCLIP_K8S_RUN_SECRET": "off"})).script(short_run());
    let scenario = off();
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    assert_eq!(scenario.cluster.count("create secret"), 0);

    let scenario = off().host(host());
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    let out = scenario.host.out();
    assert!(
        out.contains("[paperclip] Created prompt Secret: ac-agent-1-run-1-0ec508-prompt (120 KiB)"),
        "{out}"
    );
    assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
}

in_both_modes!(unknown_mode_of_the_secret_ends_the_run);
async fn unknown_mode_of_the_secret_ends_the_run(mode: Mode) {
    let scenario = Scenario::new(mode).host_env(json!({"PAPERCLIP_K8S_RUN_SECRET": "maybe"}));
    let result = scenario.run().await;
    assert_eq!(result["resultJson"]["k8sErrorCode"], "k8s_config_invalid", "{result}");
    assert!(
        result["errorMessage"].as_str().expect("message").contains("PAPERCLIP_K8S_RUN_SECRET"),
        "{result}"
    );
}

in_both_modes!(retained_job_keeps_no_secret);
async fn retained_job_keeps_no_secret(mode: Mode) {
    let scenario = Scenario::new(mode).script(short_run()).config(json!({"retainJobs": true}));
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    assert_eq!(scenario.cluster.count("delete secret"), 1);
    let remaining = scenario.cluster.remaining();
    assert!(remaining.len() == 1 && !remaining[0].contains("-run-1-0ec508-run-"), "{remaining:?}");
}

in_both_modes!(secret_of_a_retained_orphan_is_deleted);
async fn secret_of_a_retained_orphan_is_deleted(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(60)));
    let first = tokio::spawn({
        let (runner, request) = (scenario.runner.clone(), scenario.request());
        let host = scenario.host.clone();
        async move { runner.execute(&request, host, CancellationToken::new(), None).await }
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    // The host dies: nothing of it runs on.
    first.abort();
    let remaining = scenario.cluster.remaining();
    assert_eq!(
        remaining.iter().filter(|name| name.contains("-run-1-0ec508-run-")).count(),
        1,
        "{remaining:?}"
    );

    let runner = Arc::new(Runner::new(OneCluster(scenario.cluster.clone())));
    let mut next = Scenario { runner, ..Scenario::new(mode) }.config(json!({"retainJobs": true}));
    next.cluster = scenario.cluster.clone();
    next.run_id = "run-2";
    let result = next.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(next.cluster.count("delete secret"), 1);
}

in_both_modes!(own_pod_is_found_by_pod_name_first);
async fn own_pod_is_found_by_pod_name_first(mode: Mode) {
    let scenario = Scenario::new(mode).script(short_run()).host_env(json!({"POD_NAME": "long-name"}));
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    assert_eq!(scenario.cluster.pods_read(), ["long-name"]);

    let scenario = Scenario::new(mode).script(short_run()).host_env(json!({"POD_NAME": "wrong"}));
    scenario.cluster.fault("get pod", [Fault::Answer(404, "pods \"wrong\" not found")]);
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    assert_eq!(scenario.cluster.pods_read(), ["paperclip-0"]);

    let scenario = Scenario::new(mode).host_env(json!({"HOSTNAME": "node-1"}));
    scenario.cluster.fault("get pod", [Fault::Answer(404, "pods \"node-1\" not found")]);
    let result = scenario.run().await;
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("no pod in namespace paperclip is called node-1"), "{message}");
    assert!(message.contains("set POD_NAME"), "{message}");
}
