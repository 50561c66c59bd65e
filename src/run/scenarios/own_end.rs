//! The container's own end: what its last line and its status say, and what outranks what.

use super::fake_cluster::TOKEN;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// How long a pod's status lags behind its last line.
const STATUS_LAG: Duration = Duration::from_millis(700);

/// The last line that a pod prints itself.
fn last_line(code: &str, token: &str) -> String {
    format!(r#"{{"type":"system","subtype":"paperclip_end","exit_code":{code},"token":"{token}"}}"#)
}

/// Adds lines to a log, this long after the container's start.
fn print(script: &mut Script, after: Duration, lines: &[&str]) {
    script.lines.extend(lines.iter().map(|line| (after, (*line).to_owned())));
}

/// A pod that says its own end after this time; the cluster says it later, and the Job never has a condition.
fn says_its_end(mut script: Script, after: Duration, exit_code: i32) -> Script {
    print(&mut script, after, &["", &last_line(&exit_code.to_string(), TOKEN)]);
    script.ends_after = after + STATUS_LAG;
    script.condition_lag = None;
    script.exit_code = exit_code;
    script.reason = if exit_code == 0 { "Completed" } else { "Error" };
    script
}

fn success_lines() -> Vec<&'static str> {
    SUCCESS.lines().collect()
}

async fn timed(scenario: &Scenario) -> (Value, Duration) {
    scenario.timed_run().await
}

in_both_modes!(success_told_by_the_pod_resolves_at_once);
async fn success_told_by_the_pod_resolves_at_once(mode: Mode) {
    let scenario = Scenario::new(mode).script(says_its_end(success_over(5 * SECOND), 5 * SECOND, 0));
    let (result, took) = timed(&scenario).await;
    assert_eq!((&result["errorMessage"], &result["exitCode"]), (&Value::Null, &json!(0)), "{result}");
    assert_eq!(scenario.host.agent_lines(), success_lines(), "neither the line nor its newline is delivered");
    let polling = if mode == Mode::Polled { SECOND } else { Duration::ZERO };
    assert!(took < 8 * SECOND + Duration::from_millis(100) + polling, "{took:?}");
    assert!(!scenario.host.out().contains("FAR-23"));
    assert!(scenario.cluster.remaining().is_empty());
    assert_eq!(scenario.cluster.count("delete job"), 1, "its end was seen a moment later");
}

in_both_modes!(empty_lines_of_the_cli_are_delivered);
async fn empty_lines_of_the_cli_are_delivered(mode: Mode) {
    let mut script = success_over(5 * SECOND);
    let (at, result) = script.lines.pop().expect("a result");
    print(&mut script, at, &["", "", "text", "", &result, ""]);
    let lines: Vec<String> = script.lines.iter().map(|(_, line)| line.clone()).collect();
    for (script, told) in [(says_its_end(script.clone(), 5 * SECOND, 0), true), (script, false)] {
        let scenario = Scenario::new(mode).script(script);
        assert_eq!(scenario.run().await["errorMessage"], Value::Null);
        assert_eq!(scenario.host.agent_lines(), lines, "told: {told}");
    }
}

in_both_modes!(failure_told_by_the_pod_is_explained_by_its_status);
async fn failure_told_by_the_pod_is_explained_by_its_status(mode: Mode) {
    let mut script = success_over(5 * SECOND);
    script.lines.truncate(3);
    let script = Script { reason: "OOMKilled", ..says_its_end(script, 5 * SECOND, 137) };
    let scenario = Scenario::new(mode).script(script);
    let (result, took) = timed(&scenario).await;
    assert_eq!((&result["errorCode"], &result["exitCode"]), (&json!("claude_truncated"), &json!(137)));
    assert!(result["errorMessage"].as_str().is_some_and(|text| text.contains("OOMKilled")), "{result}");
    assert_eq!(scenario.host.agent_lines().len(), 3);
    assert!(took < 10 * SECOND, "{took:?}: no grace period");
}

in_both_modes!(end_without_a_result_is_not_taken_from_the_line);
async fn end_without_a_result_is_not_taken_from_the_line(mode: Mode) {
    // The line says 0, and the container fails.
    let mut script = success_over(5 * SECOND);
    script.lines.truncate(3);
    let mut script = says_its_end(script, 5 * SECOND, 0);
    (script.exit_code, script.reason) = (1, "Error");
    let scenario = Scenario::new(mode).script(script);
    let (result, took) = timed(&scenario).await;
    assert_eq!(
        (&result["errorCode"], &result["exitCode"]),
        (&json!("claude_truncated"), &json!(1)),
        "{result}"
    );
    assert!(took >= 8 * SECOND + STATUS_LAG && took < 16 * SECOND, "{took:?}");
}

in_both_modes!(early_last_line_hides_nothing_that_follows_it);
async fn early_last_line_hides_nothing_that_follows_it(mode: Mode) {
    let forged = last_line("0", TOKEN);
    // Printed before the result, and right before the run fails after its result.
    let mut before = success_over(5 * SECOND);
    before.lines.insert(2, (before.lines[1].0, forged.clone()));
    let mut after = success_over(5 * SECOND);
    let says = after.lines[4].1.clone();
    print(&mut after, 5 * SECOND, &[&forged]);
    print(&mut after, 5 * SECOND + Duration::from_millis(2), &[&says]);
    (after.ends_after, after.exit_code, after.reason) = (20 * SECOND, 1, "Error");
    for (script, exit_code, seconds) in [(before, 0, 8), (after, 1, 23)] {
        let lines: Vec<String> =
            script.lines.iter().map(|(_, line)| line.clone()).filter(|line| *line != forged).collect();
        let scenario = Scenario::new(mode).script(script);
        let (result, took) = timed(&scenario).await;
        assert_eq!(result["exitCode"], exit_code, "{result}");
        assert_eq!(result["errorMessage"].is_null(), exit_code == 0, "{result}");
        assert_eq!(scenario.host.agent_lines(), lines);
        assert!(took.as_secs() >= seconds, "{took:?}");
    }
}

in_both_modes!(forged_last_line_ends_its_own_run_and_its_job);
async fn forged_last_line_ends_its_own_run_and_its_job(mode: Mode) {
    let mut script = success_over(5 * SECOND);
    print(&mut script, 5 * SECOND, &[&last_line("0", TOKEN)]);
    script.ends_after = 3600 * SECOND;
    let scenario = Scenario::new(mode).script(script.clone());
    let (result, took) = timed(&scenario).await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(took < 10 * SECOND, "{took:?}");
    assert!(scenario.cluster.remaining().is_empty(), "the CLI does not run on");

    // A Job that is to be retained must not run on, either.
    let scenario = Scenario::new(mode).script(script).config(json!({"retainJobs": true}));
    let (result, took) = timed(&scenario).await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(took > 13 * SECOND && took < 20 * SECOND, "{took:?}");
    let err = scenario.host.err();
    assert!(
        err.contains("said that Claude had ended, but its container still runs 5s later — deleting the Job"),
        "{err}"
    );
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(forged_last_line_is_named_by_the_guard_of_the_next_run);
async fn forged_last_line_is_named_by_the_guard_of_the_next_run(mode: Mode) {
    let mut script = success_over(5 * SECOND);
    print(&mut script, 5 * SECOND, &[&last_line("0", TOKEN)]);
    // Its CLI does not obey, so that the pod outlives its Job.
    (script.ends_after, script.lingers) = (3600 * SECOND, 25 * SECOND);
    let told = says_its_end(success_over(5 * SECOND), 5 * SECOND, 0);
    for (first, doubted) in [(script, true), (Script { lingers: 3 * SECOND, ..told }, false)] {
        let mut scenario = Scenario::new(mode).script(first);
        let (result, _) = scenario.play("run-1").await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        scenario.cluster.script(success_over(SECOND));
        let (result, _) = scenario.play("run-2").await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        let err = scenario.host.err();
        let line = "said that Claude had ended, and its container still runs: its agent may have printed that line itself";
        assert_eq!(err.matches(line).count(), usize::from(doubted), "{err}");
        assert!(scenario.cluster.started_beside().is_empty());
        // Once by the cleanup, and again where the container still ran 5 s later.
        assert_eq!(scenario.cluster.count("delete job"), 2 + usize::from(doubted));
    }
}

in_both_modes!(sidecar_that_outlives_a_told_run_casts_no_doubt);
async fn sidecar_that_outlives_a_told_run_casts_no_doubt(mode: Mode) {
    // A kubelet shows the end of no container of a pod that is being deleted before all of them have ended.
    let told = says_its_end(success_over(5 * SECOND), 5 * SECOND, 0);
    let kept = Script { ends_after: 3600 * SECOND, ..told };
    for (sidecar, lingers, doubted) in
        [(Some("mesh-proxy"), 8, false), (Some("mesh-proxy"), 40, false), (None, 20, true)]
    {
        let script = Script { sidecar, lingers: lingers * SECOND, ..kept.clone() };
        let mut scenario = Scenario::new(mode).script(script);
        let (result, _) = scenario.play("run-1").await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        scenario.cluster.script(success_over(SECOND));
        let (result, _) = scenario.play("run-2").await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        let err = scenario.host.err();
        assert_eq!(err.contains("may have printed that line itself"), doubted, "{lingers}: {err}");
        // Once by the cleanup of each run, and again where there is a doubt.
        assert_eq!(scenario.cluster.count("delete job"), 2 + usize::from(doubted), "{lingers}");
    }
}

in_both_modes!(cancel_is_acknowledged_with_the_last_line_of_the_pod);
async fn cancel_is_acknowledged_with_the_last_line_of_the_pod(mode: Mode) {
    // The container starts after 3 s, and the cancel comes after 20 s.
    let says = |after: Duration, then: &[&str]| {
        let mut script = success_over(600 * SECOND);
        script.lines.truncate(2);
        script.lines.iter_mut().for_each(|(at, _)| *at = Duration::ZERO);
        print(&mut script, after, &["", &last_line("143", TOKEN)]);
        print(&mut script, after + Duration::from_millis(2), then);
        Script { lingers: 8 * SECOND, ..script }
    };
    let event = r#"{"type":"system","subtype":"hook"}"#;
    let forged = last_line("143", "0123456789abcdef0123456789abcdef");
    let mut foreign = success_over(600 * SECOND);
    foreign.lines.truncate(1);
    print(&mut foreign, 18 * SECOND, &[&forged]);
    foreign.lingers = 8 * SECOND;
    for (script, seconds, why) in [
        (says(18 * SECOND, &[]), 21, "after the request"),
        (says(10 * SECOND, &[]), 28, "before the request"),
        (says(18 * SECOND, &[event]), 28, "not its last word"),
        (foreign, 28, "not of this run"),
    ] {
        let scenario = Scenario::new(mode).script(script);
        let cancel = scenario.cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(20 * SECOND).await;
            cancel.cancel();
        });
        let (result, took) = timed(&scenario).await;
        let state = &result["resultJson"]["executionCancellation"]["state"];
        assert_eq!(state, "acknowledged", "{why}: {result}");
        assert!(took >= seconds * SECOND && took < (seconds + 3) * SECOND, "{why}: {took:?}");
    }
}

in_both_modes!(sidecar_of_a_retained_job_is_named);
async fn sidecar_of_a_retained_job_is_named(mode: Mode) {
    let told = says_its_end(success_over(5 * SECOND), 5 * SECOND, 0);
    for sidecar in [Some("mesh-proxy"), None] {
        let mut scenario = Scenario::new(mode)
            .script(Script { sidecar, ..told.clone() })
            .config(json!({"retainJobs": true}));
        let (result, _) = scenario.play("run-1").await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        let out = scenario.host.out();
        let line = "stays active: Claude has ended, and container mesh-proxy of its pod runs on\n";
        assert_eq!(out.contains(line), sidecar.is_some(), "{out}");
        // The next run of another task is blocked by that Job.
        scenario.context = json!({"taskId": "task-2"});
        let (result, _) = scenario.play("run-2").await;
        if sidecar.is_some() {
            assert_eq!(result["errorCode"], "k8s_concurrent_run_blocked", "{result}");
            let err = scenario.host.err();
            assert!(err.contains("[paperclip] Warning: Claude has ended in Job ac-agent-1-run-1-"), "{err}");
            assert!(err.contains(", and container mesh-proxy of its pod "), "{err}");
            let keeps = " runs on, which keeps the Job alive: delete the Job, or let the sidecar end with it";
            assert!(err.contains(keeps), "{err}");
        }
    }
}

in_both_modes!(retained_job_of_a_told_success_stays);
async fn retained_job_of_a_told_success_stays(mode: Mode) {
    let scenario = Scenario::new(mode)
        .script(says_its_end(success_over(5 * SECOND), 5 * SECOND, 0))
        .config(json!({"retainJobs": true}));
    let (result, took) = timed(&scenario).await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(took >= 8 * SECOND + STATUS_LAG && took < 12 * SECOND, "{took:?}: once its container has ended");
    assert_eq!(scenario.cluster.remaining().len(), 1);
    assert!(scenario.host.err().is_empty(), "{}", scenario.host.err());
}

in_both_modes!(doubled_cut_or_foreign_last_line_is_harmless);
async fn doubled_cut_or_foreign_last_line_is_harmless(mode: Mode) {
    let whole = last_line("0", TOKEN);
    let cut = &whole[..whole.len() - 2];
    let foreign = last_line("0", "0123456789abcdef0123456789abcdef");
    for (extra, delivered, resolves_at_the_line) in [
        (vec!["", &*whole, "", &*whole], vec![], true),
        (vec!["", cut], vec!["", cut], false),
        (vec!["", &*foreign], vec!["", &*foreign], false),
    ] {
        let mut script = success_over(5 * SECOND);
        print(&mut script, 5 * SECOND, &extra);
        (script.ends_after, script.condition_lag) = (7 * SECOND, None);
        let scenario = Scenario::new(mode).script(script);
        let (result, took) = timed(&scenario).await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        assert_eq!(took < 10 * SECOND, resolves_at_the_line, "{extra:?}: {took:?}");
        // The token of a cut line is that of the Job.
        let lines = scenario.host.agent_lines();
        let said = &lines[success_lines().len()..];
        assert_eq!(said.len(), delivered.len(), "{extra:?}: {said:?}");
        assert_eq!(said.first().map(String::as_str), delivered.first().copied());
    }
}

in_both_modes!(known_end_needs_neither_condition_nor_grace_period);
async fn known_end_needs_neither_condition_nor_grace_period(mode: Mode) {
    for (exit_code, reason) in [(0, "Completed"), (1, "Error"), (137, "OOMKilled"), (137, "Error")] {
        // No last line, and a sidecar keeps the pod: the Job never has a condition.
        let mut script = success_over(5 * SECOND);
        (script.exit_code, script.reason, script.condition_lag) = (exit_code, reason, None);
        if exit_code != 0 {
            script.lines.truncate(3);
        }
        let scenario = Scenario::new(mode).script(script);
        let (result, took) = timed(&scenario).await;
        assert_eq!(result["exitCode"], exit_code, "{result}");
        assert!(took < 8 * SECOND + 3 * SECOND, "{exit_code}: {took:?}");
        assert!(!scenario.host.out().contains("FAR-23"), "{}", scenario.host.out());
        assert!(scenario.cluster.remaining().is_empty());
    }
}

in_both_modes!(deadline_is_named_although_the_container_ended_first);
async fn deadline_is_named_although_the_container_ended_first(mode: Mode) {
    let killed = Script {
        exit_code: 143,
        reason: "Error",
        ends_after: 7 * SECOND + Duration::from_millis(500),
        lines: success_over(5 * SECOND).lines[..3].to_vec(),
        pod_deleting_at: Some(10 * SECOND),
        condition_lag: None,
        ..Script::default()
    };
    for script in [
        Script { job_condition: Some((10 * SECOND, "FailureTarget", "DeadlineExceeded")), ..killed.clone() },
        Script { job_failed_at: Some((13 * SECOND, "DeadlineExceeded")), ..killed },
    ] {
        let scenario = Scenario::new(mode).script(script).config(json!({"timeoutSec": 10}));
        let (result, took) = timed(&scenario).await;
        assert_eq!(
            (&result["errorCode"], &result["timedOut"]),
            (&json!("timeout"), &json!(true)),
            "{result}"
        );
        assert!(took < 16 * SECOND, "{took:?}");
    }
}

in_both_modes!(success_beside_a_killed_process_has_no_cause);
async fn success_beside_a_killed_process_has_no_cause(mode: Mode) {
    // Containerd calls a container OOMKilled in which any process was.
    let script = Script { reason: "OOMKilled", ..success_over(5 * SECOND) };
    let result = Scenario::new(mode).script(script).run().await;
    assert_eq!((&result["errorMessage"], &result["exitCode"]), (&Value::Null, &json!(0)), "{result}");
    assert_eq!(result["resultJson"].get("k8s"), None, "{result}");
}

/// Where nothing is watched the deletion of the pod may be read after the Job was resumed; then nothing says why.
#[tokio::test(start_paused = true)]
async fn job_suspended_and_resumed_says_that_it_was() {
    let suspended = |is: bool| {
        let condition = json!({"type": "Suspended", "status": if is { "True" } else { "False" }, "reason": "JobSuspended"});
        json!({"spec": {"suspend": is}, "status": {"conditions": [condition]}})
    };
    let script = Script {
        exit_code: 143,
        reason: "Error",
        ends_after: 20 * SECOND,
        lines: success_over(5 * SECOND).lines[..3].to_vec(),
        pod_deleting_at: Some(10 * SECOND),
        job_states: vec![(10 * SECOND, suspended(true)), (15 * SECOND, suspended(false))],
        condition_lag: None,
        ..Script::default()
    };
    let result = Scenario::new(Mode::Watched).script(script).run().await;
    assert_eq!(result["resultJson"]["k8s"]["cause"], "job_suspended_mid_run", "{result}");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(!message.contains("unknown API client"), "{message}");
}

in_both_modes!(own_success_outranks_the_deadline);
async fn own_success_outranks_the_deadline(mode: Mode) {
    let mut script = success_over(5 * SECOND);
    script.job_failed_at = Some((8 * SECOND, "DeadlineExceeded"));
    let scenario = Scenario::new(mode).script(script).config(json!({"timeoutSec": 5}));
    let result = scenario.run().await;
    assert_eq!((&result["errorMessage"], &result["timedOut"]), (&Value::Null, &json!(false)), "{result}");
}

in_both_modes!(reattached_run_knows_the_token_of_its_job);
async fn reattached_run_knows_the_token_of_its_job(mode: Mode) {
    let labels = [
        ("paperclip.io/agent-id", "agent-1"),
        ("paperclip.io/adapter-type", "claude_k8s"),
        ("app.kubernetes.io/managed-by", "paperclip"),
        ("paperclip.io/run-id", "run-0"),
        ("paperclip.io/task-id", "task-1"),
    ];
    let token = "0123456789abcdef0123456789abcdef";
    for known in [true, false] {
        let mut script = success_over(5 * SECOND);
        print(&mut script, 5 * SECOND, &["", &last_line("0", token)]);
        (script.ends_after, script.condition_lag) = (7 * SECOND, None);
        let scenario = Scenario::new(mode);
        scenario.cluster.put_job("ac-orphan", &labels, script);
        if known {
            scenario.cluster.annotate("ac-orphan", "paperclip.io/end-token", token);
        }
        let (result, took) = timed(&scenario).await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        assert_eq!(took < 10 * SECOND, known, "{took:?}");
        // A Job of an older version is followed as ever.
        assert_eq!(scenario.host.agent_lines().len(), success_lines().len() + if known { 0 } else { 2 });
    }
}
