//! Whatever fails, a run has a result: on the host's side, in a stage, by a bug.

use super::*;

/// The result, which must be of this code and say that nothing had started.
async fn refused(scenario: &Scenario, code: &str, message: &str) -> Value {
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], code, "{result}");
    assert!(message_of(&result).starts_with(message), "{result}");
    assert_eq!(result["executionRecovery"], json!({"kind": "bootstrap", "providerWorkStarted": false}));
    assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
    result
}

in_both_modes!(failing_host_helper_or_callback_is_a_result);
async fn failing_host_helper_or_callback_is_a_result(mode: Mode) {
    for (call, message) in [
        (HostCall::Prepare, "Cannot prepare the run: a helper of the host failed: disk full"),
        (HostCall::Meta, "Cannot prepare the run: onMeta failed: disk full"),
    ] {
        let host = FakeHost { fails: Some((call, Failing::Rejects)), ..FakeHost::default() };
        let scenario = Scenario::new(mode).host(host);
        let result = refused(&scenario, "k8s_prepare_failed", message).await;
        assert_eq!(result["resultJson"]["k8s"]["cause"], "host_helper_failed");
        let logged = format!("[paperclip] Cannot create K8s Job: c{}", &message[1..]);
        assert!(scenario.host.err().contains(&logged), "{}", scenario.host.err());
    }
}

in_both_modes!(host_that_never_answers_is_given_up);
async fn host_that_never_answers_is_given_up(mode: Mode) {
    for (call, who) in [(HostCall::Prepare, "a helper of the host"), (HostCall::Meta, "onMeta")] {
        let host = FakeHost { fails: Some((call, Failing::Hangs)), ..FakeHost::default() };
        let scenario = Scenario::new(mode).host(host);
        let message = format!("Cannot prepare the run: {who} did not answer within 120s");
        refused(&scenario, "k8s_prepare_failed", &message).await;
    }
}

in_both_modes!(cancel_while_the_host_is_silent_ends_the_run_at_once);
async fn cancel_while_the_host_is_silent_ends_the_run_at_once(mode: Mode) {
    for call in [HostCall::Prepare, HostCall::Meta] {
        let host = FakeHost { fails: Some((call, Failing::Hangs)), ..FakeHost::default() };
        let scenario = Scenario::new(mode).host(host);
        let cancel = scenario.cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            cancel.cancel();
        });
        let (result, took) = scenario.timed_run().await;
        assert_eq!(result["resultJson"]["executionCancellation"]["state"], "acknowledged", "{result}");
        assert!(took < Duration::from_secs(6), "{took:?}");
        assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
    }
}

in_both_modes!(cancel_in_the_queue_of_an_agent_ends_the_run_at_once);
async fn cancel_in_the_queue_of_an_agent_ends_the_run_at_once(mode: Mode) {
    let scenario = Scenario::new(mode);
    let _held = scenario.runner.queue("agent-1");
    let cancel = scenario.cancel.clone();
    let request = scenario.request();
    let run = scenario.runner.execute(&request, scenario.host.clone(), cancel.clone(), None);
    let (outcome, ()) = tokio::join!(run, async { cancel.cancel() });
    assert_eq!(outcome.to_json(jiff::Timestamp::now())["errorCode"], "cancelled");
    assert!(scenario.cluster.run_requests().is_empty());
}

in_both_modes!(bundle_that_cannot_be_made_is_a_result);
async fn bundle_that_cannot_be_made_is_a_result(mode: Mode) {
    let scenario = Scenario { company_id: "../else", ..Scenario::new(mode) };
    let message = "Cannot prepare the run: Invalid companyId: must not contain path separators";
    let result = refused(&scenario, "k8s_prepare_failed", message).await;
    assert_eq!(result["resultJson"]["k8s"]["cause"], "bundle_failed");
}

in_both_modes!(own_pod_that_cannot_be_read_is_a_result);
async fn own_pod_that_cannot_be_read_is_a_result(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario.cluster.make_unreachable(Duration::ZERO, Duration::from_secs(3600));
    refused(&scenario, "k8s_api_unreachable", "Cannot read Paperclip's own pod: ").await;
}

in_both_modes!(panic_before_the_job_exists_is_a_result);
async fn panic_before_the_job_exists_is_a_result(mode: Mode) {
    for call in [HostCall::Prepare, HostCall::Meta] {
        let host = FakeHost { fails: Some((call, Failing::Panics)), ..FakeHost::default() };
        let scenario = Scenario::new(mode).host(host);
        let result = refused(&scenario, "k8s_internal_error", "claude_k8s: internal error: a bug").await;
        assert_eq!(result["resultJson"]["k8s"]["cause"], "internal_error");
        assert!(scenario.host.err().contains("[paperclip] claude_k8s: internal error: a bug"));
    }
}

in_both_modes!(panic_beside_a_live_job_leaves_it_to_the_next_run);
async fn panic_beside_a_live_job_leaves_it_to_the_next_run(mode: Mode) {
    let statuses = Mutex::new(vec![StatusAnswer::Status(Some("running".to_owned()))]);
    let host = FakeHost {
        fails: Some((HostCall::RunStatus, Failing::Panics)),
        statuses,
        prompt: Some("x".repeat(120 * 1024)),
        ..FakeHost::default()
    };
    let mut scenario = Scenario::new(mode).script(success_over(Duration::from_secs(1200))).host(host);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_internal_error", "{result}");
    assert!(result.get("executionRecovery").is_none(), "the agent is at work: {result}");
    assert!(scenario.host.out().contains("(internal error — the agent's next run attaches to it)"));
    assert_eq!(scenario.cluster.remaining().len(), 2, "Job and Secret: {:?}", scenario.cluster.remaining());

    (scenario.run_id, scenario.host) = ("run-2", Arc::default());
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
    assert_eq!(scenario.cluster.count("create job"), 1, "the first run's");
}
