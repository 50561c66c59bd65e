//! Runs that end before their pod does, and pods that do not end.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// When the run under test is cancelled.
const CANCEL_AT: Duration = Duration::from_secs(20);

/// A run of ten minutes whose pod outlives its Job by this time.
fn lingering(lingers: Duration) -> Script {
    Script { lingers, ..success_over(600 * SECOND) }
}

fn cancel_later(scenario: &Scenario) {
    let cancel = scenario.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(CANCEL_AT).await;
        cancel.cancel();
    });
}

async fn timed(scenario: &Scenario) -> (Value, Duration) {
    scenario.timed_run().await
}

fn is_acknowledged(result: &Value) -> bool {
    result["resultJson"]["executionCancellation"]["state"] == "acknowledged"
}

in_both_modes!(cancel_is_acknowledged_once_the_cli_has_ended);
async fn cancel_is_acknowledged_once_the_cli_has_ended(mode: Mode) {
    for lingers in [SECOND / 2, 8 * SECOND, 45 * SECOND] {
        let scenario = Scenario::new(mode).script(lingering(lingers));
        cancel_later(&scenario);
        let (result, took) = timed(&scenario).await;
        assert_eq!(result["errorCode"], "cancelled");
        assert!(is_acknowledged(&result), "{result}");
        assert!(took >= CANCEL_AT + lingers, "{took:?}");
        assert!(took <= CANCEL_AT + lingers + 2 * SECOND, "{took:?}");
        assert_eq!(scenario.cluster.count("delete job"), 1);
        assert!(scenario.host.err().is_empty(), "{}", scenario.host.err());
    }
}

in_both_modes!(cancel_that_is_not_confirmed_says_why);
async fn cancel_that_is_not_confirmed_says_why(mode: Mode) {
    let orphaned = Script { orphaned: true, ..success_over(600 * SECOND) };
    let job = "ac-agent-1-run-1-";
    for (script, refused, seconds, reason) in [
        (lingering(3600 * SECOND), None, 55, "was asked to end and has not".to_owned()),
        (orphaned, None, 15, "was not asked to end with its Job".to_owned()),
        (
            lingering(SECOND),
            Some(Fault::Answer(403, "jobs.batch is forbidden")),
            50,
            "could not be deleted: HTTP-Code: 403 Message: jobs.batch is forbidden".to_owned(),
        ),
    ] {
        let scenario = Scenario::new(mode).script(script);
        if let Some(refused) = refused {
            scenario.cluster.fault("delete job", vec![refused; 100]);
        }
        cancel_later(&scenario);
        let (result, took) = timed(&scenario).await;
        assert_eq!(result["errorCode"], "cancelled");
        assert!(!is_acknowledged(&result), "{result}");
        let err = scenario.host.err();
        assert!(err.contains("[paperclip] Warning: the cancel is not confirmed after "), "{err}");
        assert!(err.contains(&reason) && err.contains(job), "{err}");
        let after = took.saturating_sub(CANCEL_AT);
        assert!(after.as_secs() >= seconds && after.as_secs() <= 57, "{after:?}");
    }
}

in_both_modes!(cancel_is_tried_until_it_is_permitted);
async fn cancel_is_tried_until_it_is_permitted(mode: Mode) {
    let scenario = Scenario::new(mode).script(lingering(SECOND));
    scenario.cluster.fault("delete job", vec![Fault::Answer(403, "not yet"); 8]);
    cancel_later(&scenario);
    let (result, took) = timed(&scenario).await;
    assert!(is_acknowledged(&result), "{result}");
    assert!(took < CANCEL_AT + 40 * SECOND, "{took:?}");
}

in_both_modes!(run_ends_no_sooner_than_its_cli);
async fn run_ends_no_sooner_than_its_cli(mode: Mode) {
    let lingers = 8 * SECOND;
    let deleted = || Script { job_deleted_at: Some(20 * SECOND), ..lingering(lingers) };
    let status = |text: &str| StatusAnswer::Status(Some(text.to_owned()));
    for (script, config, cancelled, ends, code) in [
        (deleted(), json!({}), false, 28, "k8s_job_deleted_externally"),
        (lingering(lingers), json!({"timeoutSec": 20, "graceSec": 5}), false, 28 + 8, "timeout"),
        (lingering(lingers), json!({}), true, 18 + 8, "cancelled"),
    ] {
        let statuses = Mutex::new(if cancelled { vec![status("cancelled")] } else { Vec::new() });
        let host = FakeHost { statuses, ..FakeHost::default() };
        let scenario = Scenario::new(mode).script(script).config(config).host(host);
        let (result, took) = timed(&scenario).await;
        assert_eq!(result["errorCode"], code, "{result}");
        assert!(took.as_secs() >= ends && took.as_secs() <= ends + 5, "{code}: {took:?}");
        let said = scenario.host.err();
        assert!(said.lines().all(|line| line.starts_with("[paperclip] Cause ")), "{said}");
        assert!(scenario.cluster.remaining().is_empty());
        let delivered = scenario.host.agent_lines().len();
        assert!(delivered > 0, "{delivered}");
    }
}

in_both_modes!(pod_created_while_the_guard_lists_is_waited_for);
async fn pod_created_while_the_guard_lists_is_waited_for(mode: Mode) {
    let ms = Duration::from_millis;
    let scenario = Scenario::new(mode);
    // Its Job gets its pod, and is deleted, while the list of Jobs is under way: from 500 to 1,000 ms.
    let script =
        Script { pod_at: ms(700), start_at: ms(750), job_deleted_at: Some(ms(900)), ..lingering(8 * SECOND) };
    let labels = [
        ("app.kubernetes.io/managed-by", "paperclip"),
        ("paperclip.io/agent-id", "agent-1"),
        ("paperclip.io/adapter-type", "claude_k8s"),
    ];
    scenario.cluster.put_job("ac-other", &labels, script);
    scenario.cluster.script(success_over(5 * SECOND)).delay_requests(Box::new(move || ms(500)));
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.cluster.started_beside(), [""; 0]);
    let waited = "[paperclip] Waiting for the end of an earlier run of this agent (pod ac-other-pod)";
    let out = scenario.host.out();
    assert!(out.lines().any(|line| line == waited), "{out}");
}

in_both_modes!(pod_that_does_not_end_is_waited_for_and_named);
async fn pod_that_does_not_end_is_waited_for_and_named(mode: Mode) {
    let stays = Script { job_deleted_at: Some(20 * SECOND), ..lingering(3600 * SECOND) };
    let orphaned = Script { job_deleted_at: Some(20 * SECOND), orphaned: true, ..success_over(600 * SECOND) };
    for (script, seconds, text) in [
        (stays, 45, "has not ended 45s after it was asked to — its agent may still be working"),
        (orphaned, 15, "was not asked to end with its Job — its agent is still working"),
    ] {
        let scenario = Scenario::new(mode).script(script);
        let (result, took) = timed(&scenario).await;
        assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
        let err = scenario.host.err();
        assert!(
            err.contains("[paperclip] Warning: the pod of Job ac-agent-1-run-1-") && err.contains(text),
            "{err}"
        );
        assert!(err.contains("-pod on node node-1: container claude still runs)\n"), "{err}");
        assert!(took.as_secs() >= 20 + seconds && took.as_secs() < 20 + seconds + 30, "{took:?}");
        // A Job that is deleted with Orphan leaves its Secret without an owner.
        assert!(scenario.cluster.all_secrets().is_empty(), "{:?}", scenario.cluster.all_secrets());
    }
}

in_both_modes!(deletion_of_the_namespace_is_named);
async fn deletion_of_the_namespace_is_named(mode: Mode) {
    let forbidden = || Fault::Answer(403, "namespaces \"paperclip\" is forbidden");
    let missing = Fault::Answer(404, "namespaces \"paperclip\" not found");
    let job = || Script { job_deleted_at: Some(20 * SECOND), ..lingering(4 * SECOND) };
    let pod = || Script {
        pod_deleting_at: Some(20 * SECOND),
        ends_after: 25 * SECOND,
        exit_code: 143,
        reason: "Error",
        ..success_over(600 * SECOND)
    };
    let mut pod = pod();
    pod.lines.retain(|(at, _)| *at < 20 * SECOND);
    for (script, read, tried, cause) in [
        (job(), forbidden(), Some(Fault::Terminating), "namespace_deleted"),
        (job(), missing.clone(), Some(missing.clone()), "namespace_deleted"),
        (job(), missing, Some(Fault::Pass), "job_deleted"),
        (job(), forbidden(), Some(Fault::Answer(403, "jobs.batch is forbidden")), "job_deleted"),
        (job(), forbidden(), Some(Fault::Pass), "job_deleted"),
        (job(), Fault::Pass, None, "job_deleted"),
        (pod.clone(), forbidden(), Some(Fault::Terminating), "namespace_deleted"),
        (pod.clone(), Fault::Pass, None, "pod_deleted"),
    ] {
        let scenario = Scenario::new(mode).script(script);
        scenario.cluster.fault("get namespace", [read]);
        let tries = usize::from(tried.is_some());
        scenario.cluster.fault("try job", tried);
        let result = scenario.run().await;
        assert_eq!(result["resultJson"]["k8s"]["cause"], cause, "{result}");
        let said = scenario.host.out().matches("[paperclip] Namespace paperclip is being deleted\n").count();
        assert_eq!(said, usize::from(cause == "namespace_deleted"), "{}", scenario.host.out());
        let asked = ["get namespace", "try job"].map(|request| scenario.cluster.count(request));
        assert_eq!(asked, [1, tries], "once");
    }
}

in_both_modes!(cli_that_hangs_after_its_result_is_ended);
async fn cli_that_hangs_after_its_result_is_ended(mode: Mode) {
    for (config, grace) in [(json!({}), 60), (json!({"resultGraceSec": 5}), 5)] {
        let mut script = success_over(5 * SECOND);
        script.ends_after = 36_000 * SECOND;
        script.lingers = 2 * SECOND;
        // An event that is not of a turn starts the grace anew.
        let event = r#"{"type":"system","subtype":"hook"}"#.to_owned();
        script.lines.push((7 * SECOND, event));
        // What it left running prints on.
        script.lines.extend((2..12).map(|n| (4 * n * SECOND, "[watch] nothing has changed".to_owned())));
        let scenario = Scenario::new(mode).script(script).config(config);
        let (result, took) = timed(&scenario).await;
        assert_eq!((&result["errorMessage"], &result["exitCode"]), (&Value::Null, &Value::Null), "{result}");
        assert_eq!(result["summary"], "All done.");
        assert!(took.as_secs() >= 10 + grace + 2 && took.as_secs() <= 10 + grace + 20, "{took:?}");
        let line = format!(
            "[paperclip] Claude printed its result and has not exited for {grace}s — deleting Job ac-"
        );
        assert!(scenario.host.out().contains(&line), "{}", scenario.host.out());
        assert!(!scenario.host.err().contains("Warning: the container was ended"), "{}", scenario.host.err());
        assert!(scenario.cluster.remaining().is_empty());
    }
}

in_both_modes!(silence_in_a_later_turn_is_no_hang);
async fn silence_in_a_later_turn_is_no_hang(mode: Mode) {
    let mut script = success_over(5 * SECOND);
    let (_, result) = script.lines.last().expect("a result").clone();
    let says = script.lines[4].1.clone();
    script.lines.extend([(6 * SECOND, says), (600 * SECOND, result)]);
    script.ends_after = 601 * SECOND;
    let scenario = Scenario::new(mode).script(script);
    let (result, took) = timed(&scenario).await;
    assert_eq!((&result["errorMessage"], &result["exitCode"]), (&Value::Null, &json!(0)), "{result}");
    assert!(took > 600 * SECOND, "{took:?}");
}

in_both_modes!(hung_job_that_cannot_be_deleted_ends_the_run);
async fn hung_job_that_cannot_be_deleted_ends_the_run(mode: Mode) {
    let script = Script { ends_after: 36_000 * SECOND, ..success_over(5 * SECOND) };
    let scenario = Scenario::new(mode).script(script);
    scenario.cluster.fault("delete job", vec![Fault::Answer(403, "jobs.batch is forbidden"); 100]);
    let (result, took) = timed(&scenario).await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(took < 180 * SECOND, "{took:?}");
    let err = scenario.host.err();
    assert!(err.contains(" could not be deleted: HTTP-Code: 403 Message: jobs.batch is forbidden"), "{err}");
}

in_both_modes!(pod_lost_with_its_node_ends_the_run);
async fn pod_lost_with_its_node_ends_the_run(mode: Mode) {
    let script = Script {
        node_lost_at: Some(20 * SECOND),
        pod_deleting_at: Some(60 * SECOND),
        job_condition: Some((60 * SECOND, "FailureTarget", "PodFailurePolicy")),
        condition_lag: None,
        ..success_over(600 * SECOND)
    };
    let scenario = Scenario::new(mode).script(script);
    let (result, took) = timed(&scenario).await;
    let message = result["errorMessage"].as_str().expect("message");
    assert!(
        message.contains("; the pod was lost with its node node-1: its deletion is overdue by 12"),
        "{message}"
    );
    assert_eq!(result["exitCode"], Value::Null);
    assert!(took.as_secs() >= 60 + 30 + 120 && took.as_secs() < 300, "{took:?}");
    let out = scenario.host.out();
    for line in [
        "-pod: its node node-1 does not answer (Ready=False)",
        "-pod is being ended: the pod was deleted by an unknown API client",
        " is being ended: it has failed [PodFailurePolicy]",
    ] {
        assert_eq!(out.matches(line).count(), 1, "{line}: {out}");
    }
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(pod_whose_node_is_well_is_not_said_to_be_lost_with_it);
async fn pod_whose_node_is_well_is_not_said_to_be_lost_with_it(mode: Mode) {
    // Its container does not end, and nothing says that anything is wrong with the node.
    let script = Script {
        pod_deleting_at: Some(60 * SECOND),
        condition_lag: None,
        lines: success_over(5 * SECOND).lines[..3].to_vec(),
        ends_after: 36_000 * SECOND,
        ..Script::default()
    };
    let (result, took) = timed(&Scenario::new(mode).script(script)).await;
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("s: its node node-1 does not carry it out"), "{message}");
    assert!(!message.contains("lost"), "{message}");
    assert_eq!(result["resultJson"]["k8s"]["cause"], "pod_deleted", "{result}");
    assert!(took.as_secs() < 300, "{took:?}");
}

in_both_modes!(lines_that_are_sent_again_are_no_sign_of_life);
async fn lines_that_are_sent_again_are_no_sign_of_life(mode: Mode) {
    // A silent log is opened again after 90 s, and begins with the lines of its last second.
    let mut script = success_over(5 * SECOND);
    script.lines.truncate(4);
    script.lines.iter_mut().for_each(|(at, _)| *at = SECOND);
    (script.ends_after, script.lingers, script.condition_lag) = (36_000 * SECOND, 36_000 * SECOND, None);
    script.pod_deleting_at = Some(10 * SECOND);
    let scenario = Scenario::new(mode).script(script);
    let (result, took) = timed(&scenario).await;
    assert_eq!(result["resultJson"]["k8s"]["cause"], "pod_deleted", "{result}");
    assert!(took < 240 * SECOND, "{took:?}");
    let out = scenario.host.out();
    let counted = (100..140).any(|seconds| out.contains(&format!("({seconds}s since last output)")));
    assert!(counted, "{out}");

    let mut script = success_over(5 * SECOND);
    (script.ends_after, script.lingers) = (36_000 * SECOND, SECOND);
    let scenario = Scenario::new(mode).script(script).config(json!({"resultGraceSec": 200}));
    let (result, took) = timed(&scenario).await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(took >= 200 * SECOND && took < 260 * SECOND, "{took:?}");
}

in_both_modes!(output_keeps_a_pod_from_counting_as_lost);
async fn output_keeps_a_pod_from_counting_as_lost(mode: Mode) {
    let mut script = Script { pod_deleting_at: Some(10 * SECOND), ..success_over(600 * SECOND) };
    script.ends_after = 530 * SECOND;
    let scenario = Scenario::new(mode).script(script);
    let result = scenario.run().await;
    assert_eq!((&result["errorMessage"], &result["exitCode"]), (&Value::Null, &json!(0)), "{result}");
}

in_both_modes!(api_away_for_minutes_is_waited_for_and_logged_once);
async fn api_away_for_minutes_is_waited_for_and_logged_once(mode: Mode) {
    for (away, limit, survives) in [(300, 600, true), (5, 600, true), (300, 120, false)] {
        let scenario =
            Scenario::new(mode).script(success_over(600 * SECOND)).config(json!({"apiOutageSec": limit}));
        scenario.cluster.make_unreachable(20 * SECOND, away * SECOND);
        let result = scenario.run().await;
        assert_eq!(result["errorMessage"].is_null(), survives, "{result}");
        let out = scenario.host.out();
        let gone =
            format!("[paperclip] The Kubernetes API does not answer — waiting up to {limit}s for it (");
        assert_eq!(out.matches(&gone).count(), usize::from(away > 10), "{out}");
        let back = "[paperclip] The Kubernetes API answers again after ";
        assert_eq!(out.matches(back).count(), usize::from(away > 10 && survives), "{out}");
        if !survives {
            let message = result["errorMessage"].as_str().expect("message");
            assert!(message.contains("could not be read for 120s"), "{message}");
        }
    }
}

in_both_modes!(next_run_waits_for_the_cli_of_the_last_one);
async fn next_run_waits_for_the_cli_of_the_last_one(mode: Mode) {
    // The pod takes a moment to be seen to have ended, and is then there without its Job for a while.
    let token = super::fake_cluster::TOKEN;
    let told = format!(r#"{{"type":"system","subtype":"paperclip_end","exit_code":0,"token":"{token}"}}"#);
    let mut first = success_over(5 * SECOND);
    first.lines.extend([(5 * SECOND, String::new()), (5 * SECOND, told)]);
    (first.ends_after, first.lingers) = (6 * SECOND, 20 * SECOND);
    let mut scenario = Scenario::new(mode).script(first);
    let (result, took) = scenario.play("run-1").await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(took < 9 * SECOND + SECOND, "{took:?}");
    scenario.cluster.script(success_over(SECOND));
    let (result, took) = scenario.play("run-2").await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(took < 8 * SECOND, "{took:?}");
    let line = "[paperclip] Waiting for the end of an earlier run of this agent (pod ac-agent-1-run-1-";
    assert_eq!(scenario.host.out().matches(line).count(), 1, "{}", scenario.host.out());
    assert!(scenario.cluster.started_beside().is_empty(), "{:?}", scenario.cluster.started_beside());
}

in_both_modes!(pod_without_its_job_holds_back_the_next_run);
async fn pod_without_its_job_holds_back_the_next_run(mode: Mode) {
    let deleted = Script { job_deleted_at: Some(20 * SECOND), ..success_over(600 * SECOND) };
    for (first, waits, starts) in [
        // Asked to end, and takes longer than the run before waited for it.
        (Script { lingers: 60 * SECOND, ..deleted.clone() }, 10, true),
        (Script { lingers: 3600 * SECOND, ..deleted.clone() }, 45, false),
        (Script { orphaned: true, ..deleted.clone() }, 15, false),
    ] {
        let mut scenario = Scenario::new(mode).script(first);
        let (result, _) = scenario.play("run-1").await;
        assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
        scenario.cluster.script(success_over(SECOND));
        let (result, took) = scenario.play("run-2").await;
        assert_eq!(result["errorMessage"].is_null(), starts, "{result}");
        assert!(took.as_secs() >= waits && took.as_secs() < waits + 12, "{took:?}");
        if !starts {
            assert_eq!(result["errorCode"], "k8s_concurrent_run_blocked");
            let err = scenario.host.err();
            let line =
                "[paperclip] Concurrent run blocked: pod(s) of earlier runs still running: ac-agent-1-run-1-";
            assert!(err.contains(line), "{err}");
            assert!(err.contains("-pod on node node-1: container claude still runs\n"), "{err}");
        }
        assert!(scenario.cluster.started_beside().is_empty(), "{:?}", scenario.cluster.started_beside());
        assert_eq!(scenario.cluster.count("create claim"), scenario.cluster.count("delete claim"));
    }
}

in_both_modes!(wait_for_an_earlier_run_can_be_cancelled);
async fn wait_for_an_earlier_run_can_be_cancelled(mode: Mode) {
    let first = Script { job_deleted_at: Some(5 * SECOND), orphaned: true, ..success_over(600 * SECOND) };
    let mut scenario = Scenario::new(mode).script(first);
    scenario.play("run-1").await;
    let cancel = scenario.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(3 * SECOND).await;
        cancel.cancel();
    });
    let (result, took) = scenario.play("run-2").await;
    assert!(is_acknowledged(&result), "{result}");
    assert!(took < 5 * SECOND, "{took:?}");
}

in_both_modes!(pod_on_a_lost_node_does_not_block_its_agent_forever);
async fn pod_on_a_lost_node_does_not_block_its_agent_forever(mode: Mode) {
    let first = Script {
        node_lost_at: Some(20 * SECOND),
        pod_deleting_at: Some(30 * SECOND),
        lingers: 36_000 * SECOND,
        condition_lag: None,
        ..success_over(600 * SECOND)
    };
    let mut scenario = Scenario::new(mode).script(first);
    let (result, _) = scenario.play("run-1").await;
    assert!(
        result["errorMessage"].as_str().is_some_and(|text| text.contains("lost with its node")),
        "{result}"
    );
    scenario.cluster.script(success_over(SECOND));
    let (result, _) = scenario.play("run-2").await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    let line = "-pod of this agent is due to end and does not: its node node-1 is taken for lost";
    assert!(scenario.host.err().contains(line), "{}", scenario.host.err());
}

in_both_modes!(guard_that_cannot_list_pods_fails_closed);
async fn guard_that_cannot_list_pods_fails_closed(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario.cluster.fault("list agent pods", vec![Fault::Answer(403, "pods is forbidden"); 9]);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_concurrency_guard_unreachable", "{result}");
    assert_eq!(scenario.cluster.count("create job"), 0);
}
