//! From the request to a running pod: guard, configuration, creation, reattach, scheduling.

use super::*;

in_both_modes!(create_with_lost_answer_makes_one_job_and_one_run);
async fn create_with_lost_answer_makes_one_job_and_one_run(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5)));
    scenario.cluster.fault("create job", [Fault::LostAnswer]);
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.cluster.count("create job"), 2);
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(refused_create_is_reported_and_leaves_nothing);
async fn refused_create_is_reported_and_leaves_nothing(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario.cluster.fault("create job", vec![Fault::Answer(403, "exceeded quota: jobs"); 100]);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_job_create_failed");
    assert_eq!(
        message_of(&result),
        "Failed to create Kubernetes Job: HTTP-Code: 403 Message: exceeded quota: jobs"
    );
    assert_eq!(scenario.cluster.count("create secret"), 0);
    assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
}

in_both_modes!(job_whose_create_never_got_an_answer_is_cleaned_up);
async fn job_whose_create_never_got_an_answer_is_cleaned_up(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario.cluster.fault(
        "create job",
        [
            Fault::LostAnswer,
            Fault::Answer(503, "down"),
            Fault::Answer(503, "down"),
            Fault::Answer(503, "down"),
        ],
    );
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_job_create_failed", "{result}");
    assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
}

in_both_modes!(pod_that_cannot_run_is_explained_and_deleted);
async fn pod_that_cannot_run_is_explained_and_deleted(mode: Mode) {
    let unschedulable = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/3 nodes are available"}]});
    let pull = json!({"phase": "Pending", "containerStatuses": [{"name": "claude",
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}}]});
    let init = json!({"phase": "Pending", "initContainerStatuses": [{"name": "write-prompt", "ready": false,
        "restartCount": 0, "image": "", "imageID": "",
        "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]});
    for (status, message) in [
        (unschedulable, "Pod scheduling failed: Pod unschedulable: 0/3 nodes are available"),
        (pull, "Pod scheduling failed: Image pull failed for \"claude\": Back-off pulling image"),
        (init, "Pod scheduling failed: Init container \"write-prompt\" failed with exit code 1: Error"),
        (json!({"phase": "Pending"}), "Pod scheduling failed: Timed out waiting for pod to be scheduled (66"),
    ] {
        let scenario = Scenario::new(mode).script(Script { stuck_status: Some(status), ..Script::default() });
        let result = scenario.run().await;
        assert_eq!(result["errorCode"], "k8s_pod_schedule_failed");
        assert!(result["errorMessage"].as_str().is_some_and(|text| text.starts_with(message)), "{result}");
        assert!(scenario.host.err().contains(&format!("[paperclip] {message}")));
        assert!(scenario.cluster.remaining().is_empty());
    }
}

in_both_modes!(container_failed_before_first_read_reports_its_output);
async fn container_failed_before_first_read_reports_its_output(mode: Mode) {
    let auth = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tools/simulator/fixtures/claude-cli-2.1.197/auth.jsonl"
    ));
    let script = Script {
        start_at: Duration::from_millis(600),
        lines: auth.lines().map(|line| (Duration::ZERO, line.to_owned())).collect(),
        ends_after: Duration::from_millis(300),
        exit_code: 1,
        reason: "Error",
        ..Script::default()
    };
    let scenario = Scenario::new(mode).script(script.clone());
    let result = scenario.run().await;
    assert_eq!(result["exitCode"], 1);
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("Invalid API key"), "{message}");
    assert_eq!(scenario.host.agent_lines(), auth.lines().collect::<Vec<_>>());

    let scenario = Scenario::new(mode).script(Script { lines: Vec::new(), ..script });
    let result = scenario.run().await;
    if mode == Mode::Watched {
        assert_eq!(result["exitCode"], 1, "a watch shows that it ran: {result}");
        return;
    }
    assert_eq!(result["errorCode"], "k8s_pod_schedule_failed", "the contract's");
    let message = message_of(&result);
    let said = "reached phase=Failed: claude exited 1 (Error), after it was scheduled and started, and before it printed";
    assert!(message.contains(said), "{message}");
    assert_eq!(
        (&result["exitCode"], &result["resultJson"]["k8s"]["cause"]),
        (&json!(1), &json!("exit_code"))
    );
}

in_both_modes!(job_deleted_before_its_pod_ran_is_not_waited_for);
async fn job_deleted_before_its_pod_ran_is_not_waited_for(mode: Mode) {
    let scenario = Scenario::new(mode).script(Script {
        start_at: Duration::from_secs(60),
        job_deleted_at: Some(Duration::from_secs(3)),
        ..Script::default()
    });
    let began = Instant::now();
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
    assert!(began.elapsed() < Duration::from_secs(600 + 20));
}

in_both_modes!(live_job_of_the_same_task_is_reattached_with_its_log);
async fn live_job_of_the_same_task_is_reattached_with_its_log(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario.cluster.put_job(
        "ac-orphan",
        &[
            ("paperclip.io/agent-id", "agent-1"),
            ("paperclip.io/adapter-type", "claude_k8s"),
            ("app.kubernetes.io/managed-by", "paperclip"),
            ("paperclip.io/run-id", "run-0"),
            ("paperclip.io/task-id", "task-1"),
        ],
        success_over(Duration::from_secs(60)),
    );
    tokio::time::sleep(Duration::from_secs(30)).await;
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(
        scenario.host.agent_lines(),
        SUCCESS.lines().collect::<Vec<_>>(),
        "from the beginning of its log"
    );
    assert!(scenario.host.out().contains(
        "[paperclip] Reattaching to in-flight K8s Job ac-orphan in namespace paperclip (prior run run-0)"
    ));
    assert_eq!(scenario.cluster.count("create job"), 0);
    assert_eq!(scenario.cluster.labels("ac-orphan")["paperclip.io/run-id"], "run-1");
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(guard_blocks_and_changes_nothing);
async fn guard_blocks_and_changes_nothing(mode: Mode) {
    let labels = |run, task, session| {
        let mut labels = vec![
            ("paperclip.io/agent-id", "agent-1"),
            ("paperclip.io/adapter-type", "claude_k8s"),
            ("paperclip.io/run-id", run),
        ];
        labels.extend(Some(("paperclip.io/task-id", task)).filter(|_| !str::is_empty(task)));
        labels.extend(Some(("paperclip.io/session-id", session)).filter(|_| !str::is_empty(session)));
        labels
    };
    for (labels, config, code, message) in [
        (
            labels("run-0", "task-2", ""),
            json!({}),
            "k8s_concurrent_run_blocked",
            "Concurrent run blocked: orphaned Job ac-orphan is running a different task",
        ),
        (
            labels("run-0", "", ""),
            json!({}),
            "k8s_orphan_task_unknown",
            "Concurrent run blocked: orphaned Job ac-orphan has unknown task context",
        ),
        (
            labels("run-0", "task-1", "session-2"),
            json!({}),
            "k8s_orphan_session_mismatch",
            "Concurrent run blocked: orphaned Job ac-orphan has a mismatched session",
        ),
        (
            labels("run-0", "task-1", ""),
            json!({"reattachOrphanedJobs": false}),
            "k8s_concurrent_run_blocked",
            "Concurrent run blocked: orphaned Job(s) still running for this agent (reattach disabled)",
        ),
        (
            labels("run-1", "task-1", ""),
            json!({}),
            "k8s_concurrent_run_blocked",
            "Concurrent run blocked: Job ac-orphan is still running for this agent",
        ),
    ] {
        let scenario = Scenario { session_id: "session-1", ..Scenario::new(mode).config(config) };
        scenario.cluster.put_job("ac-orphan", &labels, success_over(Duration::from_secs(7200)));
        let result = scenario.run().await;
        assert_eq!(result["errorCode"], code);
        assert_eq!(message_of(&result), message);
        assert_eq!(scenario.cluster.remaining(), ["ac-orphan"]);
        assert_eq!(scenario.cluster.count("patch job"), 0);
    }
}

in_both_modes!(agent_id_without_usable_character_makes_no_request);
async fn agent_id_without_usable_character_makes_no_request(mode: Mode) {
    let scenario = Scenario { agent_id: "@@@", ..Scenario::new(mode) };
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_agent_id_invalid");
    assert_eq!(message_of(&result), "Agent ID \"@@@\" cannot be sanitized to a valid Kubernetes label");
    assert_eq!(scenario.cluster.count("get pod") + scenario.cluster.count("list jobs"), 0);
}

in_both_modes!(refused_secret_ends_a_run_that_requires_it);
async fn refused_secret_ends_a_run_that_requires_it(mode: Mode) {
    let scenario = Scenario::new(mode).host_env(json!({"PAPERCLIP_K8S_RUN_SECRET": "require"}));
    scenario.cluster.fault("create secret", [Fault::Answer(403, "secrets is forbidden")]);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_prompt_secret_create_failed");
    assert_eq!(
        message_of(&result),
        "Failed to create prompt Secret: HTTP-Code: 403 Message: secrets is forbidden"
    );
    assert_eq!((scenario.cluster.count("create job"), scenario.cluster.count("delete job")), (1, 1));
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(prompt_secret_refused_for_a_moment_is_created);
async fn prompt_secret_refused_for_a_moment_is_created(mode: Mode) {
    let prompt = "x".repeat(120 * 1024);
    let host = FakeHost { prompt: Some(prompt), ..FakeHost::default() };
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(10))).host(host);
    scenario.cluster.fault("create secret", [Fault::Answer(503, "down"), Fault::Answer(429, "later")]);
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.cluster.count("create secret"), 3);
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(old_job_without_a_pod_fails_reattach_and_is_deleted);
async fn old_job_without_a_pod_fails_reattach_and_is_deleted(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario.cluster.put_job(
        "ac-orphan",
        &[
            ("paperclip.io/agent-id", "agent-1"),
            ("paperclip.io/adapter-type", "claude_k8s"),
            ("paperclip.io/run-id", "run-0"),
            ("paperclip.io/task-id", "task-1"),
        ],
        Script { pod_at: Duration::from_secs(3600), ..success_over(Duration::from_secs(60)) },
    );
    tokio::time::sleep(Duration::from_secs(31)).await;
    let began = Instant::now();
    let result = scenario.run().await;
    assert!(began.elapsed() < Duration::from_secs(601), "the Job is too old to still get a pod");
    assert_eq!(result["errorCode"], "k8s_pod_reattach_failed");
    assert_eq!(message_of(&result), "Pod reattach failed: Reattach target Job ac-orphan has no pod");
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(guard_that_cannot_list_blocks);
async fn guard_that_cannot_list_blocks(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario.cluster.fault("list jobs", [Fault::Answer(403, "jobs.batch is forbidden")]);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_concurrency_guard_unreachable");
    assert_eq!(
        message_of(&result),
        "Concurrency guard unreachable: HTTP-Code: 403 Message: jobs.batch is forbidden"
    );
    assert_eq!(scenario.cluster.count("create job"), 0);
}

in_both_modes!(bad_kubeconfig_is_a_result_and_frees_the_agent);
async fn bad_kubeconfig_is_a_result_and_frees_the_agent(mode: Mode) {
    let mut scenario = Scenario::new(mode).config(json!({"kubeconfig": "missing"}));
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "configuration_incomplete");
    assert_eq!(result["resultJson"]["k8sErrorCode"], "k8s_config_invalid");
    assert_eq!(result["resultJson"]["configurationIncomplete"]["actionUrl"], "/agents/agent-1/runtime");
    assert_eq!(
        message_of(&result),
        "Cannot set up the run: ENOENT: no such file or directory, open 'missing'"
    );
    assert_eq!(result["executionRecovery"]["providerWorkStarted"], false);
    scenario.config = json!({});
    scenario.cluster.script(success_over(Duration::from_secs(5)));
    assert_eq!(scenario.run().await["errorMessage"], Value::Null, "the next run of the agent does not wait");
}

in_both_modes!(bad_configuration_is_reported_before_any_creation);
async fn bad_configuration_is_reported_before_any_creation(mode: Mode) {
    let scenario = Scenario::new(mode).config(json!({"imagePullPolicy": "Sometimes"}));
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "configuration_incomplete");
    assert_eq!(result["resultJson"]["k8sErrorCode"], "k8s_config_invalid");
    assert_eq!(result["resultJson"]["configurationIncomplete"]["actionUrl"], "/agents/agent-1/runtime");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("imagePullPolicy") && message.contains("Sometimes"), "{message}");
    assert_eq!(scenario.cluster.count("create job"), 0);
}

#[tokio::test(start_paused = true)]
async fn runs_that_start_at_once_start_in_line_and_wait_for_none_that_hangs() {
    let scenario = Scenario::new(Mode::Watched);
    scenario.cluster.delay_answers(Duration::from_millis(100));
    // As many as may start at once get no answer to their first list.
    scenario.cluster.fault("list jobs", std::iter::repeat_n(Fault::NoAnswer, 48));
    let runs = (0..150u32).map(|n| {
        scenario.cluster.script(success_over(Duration::from_secs(5)));
        let (request, scenario) = (scenario.request_of(&format!("agent-{n}")), &scenario);
        async move {
            let host = Arc::new(FakeHost::default());
            let outcome = scenario.runner.execute(&request, host, scenario.cancel.clone(), None).await;
            outcome.error_code().is_none()
        }
    });
    let created = async {
        let mut created = Vec::new();
        for _ in 0..80 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            created.push(scenario.cluster.count("create job"));
        }
        created
    };
    let (succeeded, created) = futures::future::join(futures::future::join_all(runs), created).await;
    assert!(created.windows(2).all(|two| two[1] - two[0] <= 48), "{created:?}");
    assert_eq!(created.last(), Some(&102), "all but those that hang: {created:?}");
    assert_eq!(succeeded.iter().filter(|succeeded| **succeeded).count(), 102);
}
