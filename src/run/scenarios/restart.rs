//! A host that shuts down beside its runs, and the next one, which continues with them.

use super::*;

/// The run goes on in a task of its own while its host shuts down after `after`.
async fn shut_down(scenario: &Scenario, after: Duration) -> Value {
    let (request, cancel) = (scenario.request(), scenario.cancel.clone());
    let run = scenario.runner.execute(&request, scenario.host.clone(), cancel, None);
    let (outcome, _) = tokio::join!(run, async {
        tokio::time::sleep(after).await;
        scenario.runner.shutdown().await
    });
    outcome.to_json(jiff::Timestamp::now())
}

fn today() -> FakeHost {
    FakeHost { takes_events: true, ..FakeHost::default() }
}

in_both_modes!(harness_is_named_to_a_host_that_takes_events);
async fn harness_is_named_to_a_host_that_takes_events(mode: Mode) {
    for (config, named) in [(json!({}), 1), (json!({"announceHarness": false}), 0)] {
        let script = success_over(Duration::from_secs(5));
        let scenario = Scenario::new(mode).script(script).host(today()).config(config);
        assert_eq!(scenario.run().await["errorMessage"], Value::Null);
        let events = scenario.host.events.lock().expect("events");
        assert_eq!(events.len(), named);
        let expected = json!({
            "eventType": "adapter.invoke", "stream": "system", "level": "info", "message": "harness invocation",
            "payload": {"adapterType": "claude_local", "command": "claude"},
        });
        assert!(events.iter().all(|event| *event == expected), "{events:?}");
    }
}

in_both_modes!(host_that_refuses_the_event_gets_its_run_all_the_same);
async fn host_that_refuses_the_event_gets_its_run_all_the_same(mode: Mode) {
    for failing in [Failing::Rejects, Failing::Hangs] {
        let host = FakeHost { fails: Some((HostCall::Event, failing)), ..today() };
        let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5))).host(host);
        assert_eq!(scenario.run().await["errorMessage"], Value::Null);
        let warning = "[paperclip] Warning: the host did not take the event that names the CLI: onEvent ";
        assert!(scenario.host.err().contains(warning), "{}", scenario.host.err());
    }
}

in_both_modes!(run_that_lost_its_job_to_the_shutdown_says_so);
async fn run_that_lost_its_job_to_the_shutdown_says_so(mode: Mode) {
    for script in [
        success_over(Duration::from_secs(600)),
        Script { start_at: Duration::from_secs(300), ..success_over(Duration::from_secs(600)) },
        Script { killed_with: Some(143), ..success_over(Duration::from_secs(600)) },
    ] {
        let scenario = Scenario::new(mode).script(script).config(json!({"hostShutdown": "delete"}));
        let result = shut_down(&scenario, Duration::from_secs(20)).await;
        assert_eq!(result["errorCode"], "k8s_host_shutdown", "{result}");
        assert_eq!(message_of(&result), "Paperclip's process shut down");
        assert_eq!(result["resultJson"]["k8s"]["cause"], "host_shutdown");
        assert!(scenario.cluster.remaining().is_empty());
    }
}

in_both_modes!(job_left_by_a_shutdown_is_followed_by_the_next_host);
async fn job_left_by_a_shutdown_is_followed_by_the_next_host(mode: Mode) {
    let mut scenario = Scenario::new(mode).script(success_over(Duration::from_secs(50))).host(today());
    // The host closes its run at once. Whoever asks for it learns that, and the Job must not be deleted for it.
    let closed = |status: &str| StatusAnswer::Status(Some(status.to_owned()));
    scenario.host.statuses.lock().expect("statuses").extend([closed("running"), closed("interrupted")]);
    let (runner, host) = (scenario.runner.clone(), scenario.host.clone());
    let (request, cancel) = (scenario.request(), scenario.cancel.clone());
    let left = tokio::spawn(async move { runner.execute(&request, host, cancel, None).await });
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(scenario.runner.shutdown().await.is_empty());

    // Its run resolves within the time that the host has for that.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let last = scenario.host.clone();
    let left = left.await.expect("no panic").to_json(jiff::Timestamp::now());
    assert_eq!(left["errorCode"], "k8s_host_shutdown", "{left}");
    assert!(message_of(&left).ends_with(" goes on"), "{left}");
    assert_eq!(left["resultJson"]["k8s"]["cause"], "left_by_host");
    assert!(left.get("executionRecovery").is_none(), "the agent is at work: {left}");
    assert!(
        last.out().contains(" to the agent's next run (Paperclip's process shuts down)"),
        "{}",
        last.out()
    );

    scenario.runner = Arc::new(Runner::new(OneCluster(scenario.cluster.clone())));
    (scenario.run_id, scenario.host) = ("run-2", Arc::new(today()));
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>(), "each line once");
    assert!(scenario.host.out().contains("Reattaching to in-flight K8s Job"));
    assert!(scenario.cluster.remaining().is_empty());
    assert_eq!(scenario.cluster.count("create job"), 1);
}

/// What keeps a run from having a Job, and whether it has waited for long.
async fn waiting(mode: Mode) -> Vec<(&'static str, Scenario)> {
    let hangs = |call| Scenario::new(mode).host(FakeHost { fails: Some((call, Failing::Hangs)), ..today() });
    let slow = Scenario::new(mode).host(today());
    slow.cluster.delay_answers(Duration::from_secs(60));
    // The other host is stuck with the agent's claim.
    let claimed = Scenario::new(mode).host(today());
    let mut other: Value = serde_json::from_str(&claimed.request()).expect("a request");
    other["runId"] = json!("run-0");
    let (runner, stuck) = (Runner::new(OneCluster(claimed.cluster.clone())), FakeHost::default());
    let stuck = Arc::new(FakeHost { fails: Some((HostCall::Prepare, Failing::Hangs)), ..stuck });
    tokio::spawn(async move {
        runner.execute(&other.to_string(), stuck, CancellationToken::new(), None).await;
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    vec![
        ("its own pod is read", slow),
        ("another host holds the claim", claimed),
        ("a helper of the host answers late", hangs(HostCall::Prepare)),
        ("onMeta answers late", hangs(HostCall::Meta)),
    ]
}

in_both_modes!(host_that_stops_while_a_run_waits_keeps_the_task);
async fn host_that_stops_while_a_run_waits_keeps_the_task(mode: Mode) {
    for after in [Duration::from_millis(300), Duration::from_secs(5)] {
        for (why, scenario) in waiting(mode).await {
            let began = Instant::now();
            let result = shut_down(&scenario, after).await;
            // The claim of a cluster that answers late is deleted by the shutdown.
            let took = began.elapsed().saturating_sub(after);
            assert!(took < Duration::from_secs(2) || why == "its own pod is read", "{why}: {took:?}");
            assert_eq!(result["errorCode"], "k8s_host_shutdown", "{why}: {result}");
            assert_eq!(result["executionRecovery"]["kind"], "bootstrap", "{why}: {result}");
            assert_eq!(scenario.host.events.lock().expect("events").len(), 1, "{why}: {after:?}");
            assert_eq!(scenario.cluster.count("create job"), 0, "{why}");
        }
    }
}

in_both_modes!(run_that_waits_names_its_harness_at_once);
async fn run_that_waits_names_its_harness_at_once(mode: Mode) {
    for (why, scenario) in waiting(mode).await {
        let (request, cancel) = (scenario.request(), scenario.cancel.clone());
        let (runner, host) = (scenario.runner.clone(), scenario.host.clone());
        let running = tokio::spawn(async move { runner.execute(&request, host, cancel, None).await });
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(scenario.host.events.lock().expect("events").len(), 1, "{why}");
        assert!(scenario.host.meta.lock().expect("meta").is_empty(), "{why}");
        scenario.cancel.cancel();
        running.await.expect("no panic");
        assert_eq!(scenario.host.events.lock().expect("events").len(), 1, "{why}");
    }
}
