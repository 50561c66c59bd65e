//! From a running pod to the result: the log, the end of the container and Job, cancel, cleanup.

use super::*;

in_both_modes!(success_has_every_field_and_leaves_nothing_behind);
async fn success_has_every_field_and_leaves_nothing_behind(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5)));
    let result = scenario.run().await;
    assert_eq!(result["exitCode"], 0);
    assert_eq!(result["errorMessage"], Value::Null);
    assert!(result.get("errorCode").is_none());
    assert_eq!(result["usage"], json!({"inputTokens": 240, "cachedInputTokens": 128, "outputTokens": 84}));
    assert_eq!(result["sessionId"], "52f5bda4-ae87-4cbd-980b-f530fbb3cf90");
    assert_eq!(result["sessionParams"]["sessionId"], result["sessionId"]);
    assert_eq!(result["provider"], "anthropic");
    assert_eq!(result["model"], "claude-opus-4-8[1m]");
    assert_eq!(result["billingType"], "api");
    assert_eq!(result["costUsd"], 0.003364);
    assert_eq!(result["summary"], "All done.");
    assert_eq!(result["resultJson"]["subtype"], "success");
    assert_eq!(result["clearSession"], false);
    assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>(), "every line once, in order");
    assert!(scenario.cluster.remaining().is_empty());
    let meta = &scenario.host.meta.lock().expect("meta")[0];
    assert!(
        meta["command"].as_str().is_some_and(|command| command.starts_with("kubectl job/ac-agent-1-run-1-"))
    );
}

in_both_modes!(run_of_sixty_seconds_with_constant_output_succeeds);
async fn run_of_sixty_seconds_with_constant_output_succeeds(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(60)));
    let began = Instant::now();
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
    assert!(began.elapsed() >= Duration::from_secs(63));
    assert_eq!(scenario.cluster.logs_open_most(), 1, "one log stream at a time");
    assert_eq!(scenario.cluster.count("open log"), 1, "only one in all");
    assert_eq!(scenario.cluster.count("delete job"), 1);
}

in_both_modes!(log_silent_for_an_hour_is_followed_to_its_result);
async fn log_silent_for_an_hour_is_followed_to_its_result(mode: Mode) {
    let mut script = success_over(Duration::from_secs(8));
    for (at, _) in script.lines.iter_mut().skip(3) {
        *at += Duration::from_secs(3600);
    }
    script.ends_after += Duration::from_secs(3600);
    let scenario = Scenario::new(mode).script(script);
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
    let out = scenario.host.out();
    assert!(out.contains("[paperclip] keepalive — job ac-agent-1-run-1-"));
    assert!(!out.contains("reconnecting"), "a silent log is not disconnected");
    assert_eq!(scenario.cluster.count("open log"), 1);
    // After 90, 180 and 360 s, and then every 360 s.
    assert_eq!(scenario.cluster.count("read last log line"), 2 + (3600 - 270) / 360);
}

in_both_modes!(silent_log_whose_last_line_is_not_known_is_opened_again);
async fn silent_log_whose_last_line_is_not_known_is_opened_again(mode: Mode) {
    let mut script = success_over(Duration::from_secs(8));
    for (at, _) in script.lines.iter_mut().skip(3) {
        *at += Duration::from_secs(600);
    }
    script.ends_after += Duration::from_secs(600);
    for fault in [Fault::Answer(403, "no"), Fault::NoAnswer] {
        let scenario = Scenario::new(mode).script(script.clone());
        scenario.cluster.fault("read last log line", std::iter::repeat_n(fault.clone(), 9));
        let (result, took) = scenario.timed_run().await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
        // After 90, 180 and, from line to line, 360 s.
        assert_eq!(scenario.cluster.count("open log"), 1 + 2, "{fault:?}");
        assert!(took < Duration::from_secs(620), "a line does not wait for that answer: {took:?}");
        assert!(!scenario.host.out().contains("reconnecting"));
    }
}

in_both_modes!(log_cut_many_times_loses_and_repeats_no_line);
async fn log_cut_many_times_loses_and_repeats_no_line(mode: Mode) {
    let mut script = success_over(Duration::from_secs(40));
    let numbered: Vec<(Duration, String)> = (0..400u64)
        .map(|n| (Duration::from_millis(n * 97), format!("{{\"type\":\"user\",\"n\":{n}}}")))
        .collect();
    let (_, result) = script.lines.pop().expect("a result");
    script.lines = numbered;
    script.lines.push((Duration::from_secs(40), result));
    script.ends_after = Duration::from_secs(41);
    let expected: Vec<String> = script.lines.iter().map(|(_, line)| line.clone()).collect();
    let scenario = Scenario::new(mode).script(script);
    // Some bodies end before anything new came, the others in the middle of a line or of a stamp.
    scenario.cluster.cut_logs([1, 20, 300].into_iter().chain((0..12).map(|n| 1_800 + n * 211)));
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.host.agent_lines(), expected);
    assert!(scenario.cluster.count("open log") >= 12);
    assert_eq!(scenario.cluster.logs_open_most(), 1);
    assert!(
        scenario.host.out().contains("[paperclip] Log stream disconnected — reconnecting (attempt 1/50)...")
    );
}

in_both_modes!(last_read_after_rotation_starts_over_at_the_beginning);
async fn last_read_after_rotation_starts_over_at_the_beginning(mode: Mode) {
    let mut script = success_over(Duration::from_secs(10));
    let (_, result) = script.lines.pop().expect("a result");
    script.lines.truncate(2);
    script.lines.push((Duration::from_millis(8_500), "printed, then cut off".repeat(20)));
    script.lines.push((Duration::from_millis(9_900), result));
    let read = script.lines[..2].iter().map(|(_, line)| line.len() + 32).sum::<usize>();
    // Nothing that was read is in the log any more, so the next body does not continue what is known.
    script.rotated = vec![(Duration::from_secs(9), 2)];
    let scenario = Scenario::new(mode).script(script);
    scenario.cluster.cut_logs([read + 40]);
    let outcome = scenario.run().await;
    assert_eq!(outcome["errorMessage"], Value::Null, "{outcome}");
    assert_eq!(scenario.host.agent_lines().len(), 4, "{}", scenario.host.out());
    assert!(scenario.host.out().contains("[paperclip] Log gap:"), "{}", scenario.host.out());
}

in_both_modes!(job_without_condition_ends_after_the_grace_period);
async fn job_without_condition_ends_after_the_grace_period(mode: Mode) {
    let mut script = success_over(Duration::from_secs(10));
    (script.condition_lag, script.reason) = (None, "");
    let scenario = Scenario::new(mode).script(script);
    let began = Instant::now();
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "the captured result counts: {result}");
    assert!(scenario.host.out().contains("without K8s Job condition update"), "{}", scenario.host.out());
    assert!(began.elapsed() < Duration::from_secs(60 + 600));
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(condition_within_the_grace_period_is_an_ordinary_success);
async fn condition_within_the_grace_period_is_an_ordinary_success(mode: Mode) {
    let mut script = success_over(Duration::from_secs(10));
    script.condition_lag = Some(Duration::from_secs(25));
    let scenario = Scenario::new(mode).script(script);
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(!scenario.host.out().contains("FAR-23"));
}

in_both_modes!(job_deleted_in_mid_run_is_explained);
async fn job_deleted_in_mid_run_is_explained(mode: Mode) {
    let mut script = success_over(Duration::from_secs(60));
    script.job_deleted_at = Some(Duration::from_secs(20));
    let scenario = Scenario::new(mode).script(script);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
    let message = result["errorMessage"].as_str().expect("message");
    let path = if mode == Mode::Watched { "watch-deleted" } else { "completion-poll-404" };
    assert!(message.starts_with(&format!(
        "K8s Job was deleted externally before Claude could complete [detected_via={path}, job=ac-agent-1-run-1-"
    )), "{message}");
    assert!(message.contains(", ns=paperclip, elapsed_since_pod_running="), "{message}");
    assert!(message.contains("last_job_conditions=none_observed, stdout_bytes="), "{message}");
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(replacement_pod_is_not_taken_for_the_deleted_one);
async fn replacement_pod_is_not_taken_for_the_deleted_one(mode: Mode) {
    let scenario = Scenario::new(mode).script(replaced_pod(Duration::from_secs(3)));
    let result = scenario.run().await;
    assert_names_the_pod_deletion(&result, Some(137));
    // The kubelet's own deletion has rewritten the time since. Where pods are not watched, one that prints nothing is read.
    let asked = "asked at 2026-01-01T00:59:30Z";
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains(asked), "{message}");
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(full_result_is_kept_when_the_job_vanishes_afterwards);
async fn full_result_is_kept_when_the_job_vanishes_afterwards(mode: Mode) {
    let mut script = success_over(Duration::from_secs(10));
    script.condition_lag = None;
    script.job_deleted_at = Some(Duration::from_secs(14));
    let scenario = Scenario::new(mode).script(script);
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(result["summary"], "All done.");
}

in_both_modes!(run_lost_in_a_later_turn_is_not_a_success);
async fn run_lost_in_a_later_turn_is_not_a_success(mode: Mode) {
    let early =
        r#"{"type":"result","subtype":"success","is_error":false,"num_turns":0,"result":"","uuid":"early"}"#;
    for (first, which) in [(early, ""), (SUCCESS.lines().last().expect("a result"), " for its last turn")] {
        let mut script = success_over(Duration::from_secs(40));
        script.lines.pop();
        script.lines.insert(0, (Duration::ZERO, first.to_owned()));
        // The pod is lost: its status never says that the container has ended.
        script.ends_after = Duration::from_secs(3600);
        script.job_failed_at = Some((Duration::from_secs(44), "BackoffLimitExceeded"));
        let scenario = Scenario::new(mode).script(script);
        let result = scenario.run().await;
        assert_eq!(result["errorCode"], "claude_truncated", "{result}");
        let message = result["errorMessage"].as_str().expect("message");
        assert!(message.contains(&format!("but no result event arrived{which}; ")), "{message}");
    }
}

in_both_modes!(nul_reaches_the_host_nowhere);
async fn nul_reaches_the_host_nowhere(mode: Mode) {
    let result = r#"{"type":"result","subtype":"success","session_id":"s\u0000","result":"a\u0000b","\u0000":["\u0000"]}"#;
    for (exit_code, lines) in [
        (0, vec!["printed \0 raw".to_owned(), result.to_owned()]),
        (1, vec![result.replace("success", "error")]),
        (3, vec!["\0 failed \0".to_owned()]),
    ] {
        let mut script = success_over(Duration::from_secs(5));
        script.lines = lines.into_iter().map(|line| (Duration::from_secs(1), line)).collect();
        script.exit_code = exit_code;
        let host = FakeHost { prompt: Some("pro\0mpt".into()), ..FakeHost::default() };
        let scenario = Scenario::new(mode).script(script).host(host);
        let result = scenario.run().await;
        assert!(!result.to_string().contains("\\u0000"), "{result}");
        assert!(result.to_string().contains('\u{fffd}'), "{result}");
        let logged = scenario.host.out() + &scenario.host.err();
        assert!(!logged.contains('\0') && (exit_code == 1 || logged.contains('\u{fffd}')), "{logged}");
        let meta = scenario.host.meta.lock().expect("meta")[0].to_string();
        assert!(meta.contains("pro\u{fffd}mpt") && !meta.contains("\\u0000"), "{meta}");
    }
}

in_both_modes!(success_before_an_eviction_counts);
async fn success_before_an_eviction_counts(mode: Mode) {
    let mut script = success_over(Duration::from_secs(10));
    script.pod_deleting_at = Some(Duration::from_secs(12));
    (script.exit_code, script.reason) = (143, "Error");
    let scenario = Scenario::new(mode).script(script);
    let result = scenario.run().await;
    assert_eq!((&result["errorMessage"], &result["exitCode"]), (&Value::Null, &Value::Null), "{result}");
    assert_eq!(result["summary"], "All done.");
    let line = "[paperclip] Warning: the container was ended after Claude had reported success, which counts: the pod was \
                deleted by an unknown API client";
    assert!(scenario.host.err().contains(line), "{}", scenario.host.err());
}

in_both_modes!(success_before_the_deadline_of_the_job_counts);
async fn success_before_the_deadline_of_the_job_counts(mode: Mode) {
    // A sidecar keeps the Job: it has no condition but that of its deadline.
    let mut script = success_over(Duration::from_secs(5));
    script.condition_lag = None;
    script.job_failed_at = Some((Duration::from_secs(20), "DeadlineExceeded"));
    let scenario = Scenario::new(mode).script(script).config(json!({"timeoutSec": 20}));
    let result = scenario.run().await;
    assert_eq!((&result["errorMessage"], &result["timedOut"]), (&Value::Null, &json!(false)), "{result}");
    assert_eq!((&result["exitCode"], &result["summary"]), (&json!(0), &json!("All done.")));
}

in_both_modes!(job_suspended_in_mid_run_is_named);
async fn job_suspended_in_mid_run_is_named(mode: Mode) {
    let mut script = success_over(Duration::from_secs(60));
    script.lines.truncate(4);
    script.suspended_at = Some(Duration::from_secs(40));
    script.ends_after = Duration::from_secs(42);
    (script.exit_code, script.condition_lag) = (143, None);
    let scenario = Scenario::new(mode).script(script);
    let (result, took) = scenario.timed_run().await;
    let message = message_of(&result);
    assert!(!message.contains("suspended"), "the sentence of the evidence says it: {message}");
    let whole = result["errorMessage"].as_str().expect("message");
    assert_eq!(whole.matches("suspended").count(), 1, "{whole}");
    assert_eq!(result["resultJson"]["k8s"]["cause"], "job_suspended_mid_run");
    assert!(took < Duration::from_secs(45 + 10), "{took:?}: no condition is waited for");
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(oom_kill_is_named);
async fn oom_kill_is_named(mode: Mode) {
    let mut script = success_over(Duration::from_secs(10));
    script.lines.truncate(3);
    script.exit_code = 137;
    script.reason = "OOMKilled";
    let scenario = Scenario::new(mode).script(script);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "claude_truncated", "{result}");
    assert_eq!(result["exitCode"], 137);
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("exit code 137, SIGKILL (commonly OOMKilled), reason=OOMKilled"), "{message}");
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(oom_kill_behind_a_result_is_named);
async fn oom_kill_behind_a_result_is_named(mode: Mode) {
    let mut script = success_over(Duration::from_secs(10));
    (script.exit_code, script.reason) = (137, "OOMKilled");
    let scenario = Scenario::new(mode).script(script);
    let result = scenario.run().await;
    assert_eq!(
        message_of(&result),
        "Claude run failed: the container ended after a result that says success; exit code 137, SIGKILL (commonly \
         OOMKilled), reason=OOMKilled; the container's memory limit is 8Gi"
    );
    assert_eq!(result["resultJson"]["result"], "All done.");
}

in_both_modes!(time_limit_ends_the_run);
async fn time_limit_ends_the_run(mode: Mode) {
    let scenario = Scenario::new(mode)
        .script(success_over(Duration::from_secs(3600)))
        .config(json!({"timeoutSec": 30, "graceSec": 5}));
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "timeout");
    assert_eq!(message_of(&result), "Timed out after 30s");
    assert_eq!(result["timedOut"], true);
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(api_errors_in_mid_run_do_not_end_the_run);
async fn api_errors_in_mid_run_do_not_end_the_run(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(30)));
    let failures =
        |codes: &[u16]| codes.iter().map(|code| Fault::Answer(*code, "overloaded")).collect::<Vec<_>>();
    scenario.cluster.fault("get job", failures(&[500, 503, 429, 500, 401]));
    scenario.cluster.fault("list pods", failures(&[503, 500]));
    scenario.cluster.fault("open log", failures(&[500, 503, 429]));
    scenario.cluster.fault("delete job", failures(&[503]));
    scenario.cluster.fault("list jobs", failures(&[503]));
    for request in ["watch jobs", "watch pods"] {
        scenario.cluster.fault(request, failures(&[503, 429]));
    }
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(rejecting_onlog_ends_nothing_and_is_logged_once);
async fn rejecting_onlog_ends_nothing_and_is_logged_once(mode: Mode) {
    let scenario = Scenario::new(mode)
        .script(success_over(Duration::from_secs(5)))
        .host(FakeHost { rejects: true, ..FakeHost::default() });
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.host.err().matches("onLog failed: disk full").count(), 1);
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(slow_host_gets_every_line_in_order);
async fn slow_host_gets_every_line_in_order(mode: Mode) {
    let scenario = Scenario::new(mode)
        .script(success_over(Duration::from_secs(5)))
        .host(FakeHost { log_delay: Duration::from_secs(1), ..FakeHost::default() });
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
}

in_both_modes!(host_abort_deletes_the_job_and_is_acknowledged);
async fn host_abort_deletes_the_job_and_is_acknowledged(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(600)));
    let cancel = scenario.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(20)).await;
        cancel.cancel();
    });
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "cancelled");
    assert_eq!(result["errorMessage"], "Run cancelled");
    assert_eq!(result["resultJson"]["k8s"]["cause"], "cancelled_by_host");
    assert_eq!(result["resultJson"]["executionCancellation"]["state"], "acknowledged", "{result}");
    assert_eq!(result["executionRecovery"]["providerStopped"], true, "{result}");
    assert_eq!(result["resultJson"]["conversationContinuation"], "continue_conversation_v1");
    // What it used until then.
    assert_eq!(result["sessionId"], "52f5bda4-ae87-4cbd-980b-f530fbb3cf90");
    assert_eq!(result["sessionParams"]["sessionId"], result["sessionId"]);
    assert_eq!(result["model"], "claude-opus-4-8[1m]");
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(failure_of_the_cli_has_the_code_that_the_host_knows);
async fn failure_of_the_cli_has_the_code_that_the_host_knows(mode: Mode) {
    let error = |error: &str, text: &str, status: u16| {
        format!(
            "{}\n{}",
            json!({"type": "assistant", "error": error, "message": {"id": "m", "content": []}}),
            json!({"type": "result", "subtype": "success", "is_error": true, "api_error_status": status,
                "result": text})
        )
    };
    let turns = json!({"type": "result", "subtype": "error_max_turns", "is_error": true}).to_string();
    let refusal = json!({"type": "result", "subtype": "success", "stop_reason": "refusal"}).to_string();
    let limit = "You've hit your limit · resets 5pm (America/New_York)";
    for (lines, exit_code, code, family) in [
        (turns, 1, "max_turns_exhausted", None),
        (error("rate_limit", limit, 429), 1, "provider_quota", Some("provider_quota")),
        (error("overloaded", "Overloaded", 529), 1, "claude_transient_upstream", Some("transient_upstream")),
        (error("authentication_failed", "no", 401), 1, "claude_auth_required", None),
        (error("model_not_found", "no", 404), 1, "model_not_found", None),
        (error("billing_error", "Credit balance is too low", 400), 1, "billing_error", None),
        (refusal, 0, "claude_refusal", Some("model_refusal")),
    ] {
        let mut script = success_over(Duration::from_secs(5));
        script.lines = (0u32..)
            .zip(lines.lines())
            .map(|(at, line)| (Duration::from_secs(1) * at, line.to_owned()))
            .collect();
        script.exit_code = exit_code;
        let scenario = Scenario::new(mode).script(script);
        let result = scenario.run().await;
        assert_eq!(result["errorCode"], code, "{result}");
        assert_eq!(result["errorFamily"].as_str(), family, "{result}");
        assert_eq!(result["retryNotBefore"].is_string(), code == "provider_quota", "{result}");
        let continues = result["resultJson"]["conversationContinuation"].is_string();
        assert_eq!(continues, exit_code != 0, "{result}");
        assert!(scenario.cluster.remaining().is_empty());
    }
}

in_both_modes!(cancel_acts_at_once_other_statuses_when_seen_twice);
async fn cancel_acts_at_once_other_statuses_when_seen_twice(mode: Mode) {
    let status = |text: &str| StatusAnswer::Status(Some(text.to_owned()));
    for (statuses, seconds) in [
        (vec![status("running"), status("cancelled")], 30),
        (vec![status("queued"), status("running"), status("failed")], 60),
        (vec![StatusAnswer::Refused(500), status("failed")], 45),
    ] {
        let scenario = Scenario::new(mode)
            .script(success_over(Duration::from_secs(600)))
            .host(FakeHost { statuses: Mutex::new(statuses), ..FakeHost::default() });
        let began = Instant::now();
        let result = scenario.run().await;
        assert_eq!(result["errorCode"], "cancelled");
        let took = began.elapsed().abs_diff(Duration::from_secs(600));
        assert!(took.as_secs() >= seconds && took.as_secs() < seconds + 10, "{took:?}");
        assert!(
            scenario.host.out().contains("[paperclip] Run cancelled externally — deleting Job ac-agent-1")
        );
        assert!(scenario.cluster.remaining().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn job_of_unknown_state_is_an_error_and_stays() {
    let mode = Mode::Polled;
    let mut script = success_over(Duration::from_secs(3600));
    script.lines.clear();
    let scenario = Scenario::new(mode).script(script);
    scenario.cluster.fault("get job", vec![Fault::Answer(500, "etcd is gone"); 500]);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_job_state_mismatch");
    assert!(result["errorMessage"].as_str().is_some_and(|text| text.contains("etcd is gone")), "{result}");
    assert_eq!(
        scenario.cluster.remaining().len(),
        2,
        "an operator must look at it; its Secret stays with it"
    );
    assert!(scenario.host.out().contains("(state mismatch — UI is waiting on it)"));
}

in_both_modes!(retained_job_stays);
async fn retained_job_stays(mode: Mode) {
    let scenario =
        Scenario::new(mode).script(success_over(Duration::from_secs(5))).config(json!({"retainJobs": true}));
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null);
    assert_eq!(scenario.cluster.remaining().len(), 1);
    assert!(scenario.host.out().contains("for debugging (retainJobs=true)"));
}

in_both_modes!(shutdown_deletes_active_jobs_unless_configured_to_stay);
async fn shutdown_deletes_active_jobs_unless_configured_to_stay(mode: Mode) {
    let (older, newer) = (false, true);
    for (config, takes_events, stays) in [
        (json!({}), older, false),
        (json!({"hostShutdown": "leave"}), older, true),
        (json!({"retainJobs": true}), older, true),
        (json!({}), newer, true),
        (json!({"hostShutdown": "delete"}), newer, false),
        (json!({"announceHarness": false}), newer, false),
        (json!({"announceHarness": false, "hostShutdown": "leave"}), newer, true),
    ] {
        let host = FakeHost { takes_events, ..FakeHost::default() };
        let script = success_over(Duration::from_secs(600));
        let scenario = Arc::new(Scenario::new(mode).script(script).config(config).host(host));
        let running = tokio::spawn({
            let scenario = scenario.clone();
            async move {
                scenario
                    .runner
                    .execute(&scenario.request(), scenario.host.clone(), scenario.cancel.clone(), None)
                    .await
            }
        });
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(scenario.runner.active_jobs().len(), 1);
        let deleted = scenario.runner.shutdown().await;
        assert_eq!((deleted.is_empty(), scenario.cluster.remaining().is_empty()), (stays, !stays));
        running.abort();
    }
}
