//! Faults that take minutes: the rows of the fault table (`__test__/embedded/faults.test.js`) that need a paused clock.

use super::fake_cluster::{CutEvery, LogFault};
use super::*;

fn assert_success(scenario: &Scenario, result: &Value, lines: &[String]) {
    assert_eq!(result["errorMessage"], Value::Null, "{result}\n{}", scenario.host.out());
    assert_eq!(scenario.host.agent_lines(), lines, "every line once, in order");
    assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
}

fn lines_of(script: &Script) -> Vec<String> {
    script.lines.iter().map(|(_, line)| line.clone()).collect()
}

/// This many lines, one every `pace`, and the result.
fn numbered(lines: u32, pace: Duration) -> Script {
    let mut script = success_over(Duration::ZERO);
    let (_, result) = script.lines.pop().expect("a result");
    script.lines = (0..lines).map(|n| (pace * n, format!("{{\"type\":\"user\",\"n\":{n}}}"))).collect();
    script.lines.push((pace * lines, result));
    script.ends_after = pace * lines + Duration::from_millis(300);
    script
}

/// The statuses of a pod whose image cannot be pulled for `failing`, as a kubelet reports them: it tries at once, then
/// after 10 s, 20 s and 40 s.
fn pulled_after(failing: Duration) -> Script {
    let status = |reason: &str, message: &str| {
        json!({"phase": "Pending", "containerStatuses": [{"name": "claude",
            "state": {"waiting": {"reason": reason, "message": message}}}]})
    };
    let mut early_statuses = Vec::new();
    let mut pause = Duration::from_secs(10);
    let mut tried = Duration::from_secs(1);
    while tried < failing + Duration::from_secs(1) {
        early_statuses.push((tried, status("ErrImagePull", "registry is down")));
        early_statuses
            .push((tried + Duration::from_secs(2), status("ImagePullBackOff", "Back-off pulling image")));
        tried += pause;
        pause *= 2;
    }
    Script {
        start_at: tried + Duration::from_secs(3),
        early_statuses,
        ..success_over(Duration::from_secs(5))
    }
}

in_both_modes!(image_pull_failing_for_twenty_seconds_is_waited_for);
async fn image_pull_failing_for_twenty_seconds_is_waited_for(mode: Mode) {
    let script = pulled_after(Duration::from_secs(20));
    assert_eq!(script.start_at, Duration::from_secs(34), "after the third try");
    let lines = lines_of(&script);
    let scenario = Scenario::new(mode).script(script);
    let result = scenario.run().await;
    assert_success(&scenario, &result, &lines);
    let out = scenario.host.out();
    for line in
        ["phase=Pending, claude: waiting (ErrImagePull)", "phase=Pending, claude: waiting (ImagePullBackOff)"]
    {
        assert!(out.contains(line), "{line}: {out}");
    }
}

in_both_modes!(image_pull_failing_for_good_ends_after_a_minute);
async fn image_pull_failing_for_good_ends_after_a_minute(mode: Mode) {
    for (config, patience) in [(json!({}), 60), (json!({"imagePullGraceSec": 0}), 0)] {
        let scenario = Scenario::new(mode).script(pulled_after(Duration::from_secs(300))).config(config);
        let (result, took) = scenario.timed_run().await;
        assert_eq!(result["errorCode"], "k8s_pod_schedule_failed", "{result}");
        let message = message_of(&result);
        assert!(
            message.starts_with("Pod scheduling failed: Image pull failed for \"claude\": "),
            "{message}"
        );
        assert!(scenario.host.err().contains(&format!("[paperclip] {message}")));
        assert!(took.as_secs() >= patience && took.as_secs() <= patience + 5, "{took:?}");
        assert!(scenario.host.agent_lines().is_empty() && scenario.cluster.remaining().is_empty());
    }
}

in_both_modes!(half_open_log_is_reopened_after_ninety_seconds);
async fn half_open_log_is_reopened_after_ninety_seconds(mode: Mode) {
    let mut script = success_over(Duration::from_secs(400));
    let lines = lines_of(&script);
    let read: usize = lines[..2].iter().map(|line| line.len() + 32).sum();
    script.condition_lag = Some(Duration::from_secs(2));
    let scenario = Scenario::new(mode).script(script);
    // The first body falls silent after two lines, the second in the middle of its first line and is given twice the time.
    scenario.cluster.fault_logs([LogFault::HalfOpen(read), LogFault::HalfOpen(40)]);
    let (result, took) = scenario.timed_run().await;
    assert_success(&scenario, &result, &lines);
    assert_eq!(scenario.cluster.count("open log"), 3);
    assert_eq!(scenario.cluster.logs_open_most(), 1, "the silent body is closed first");
    assert!(took < Duration::from_secs(3 + 400 + 2 + 5), "{took:?}: followed to its end as always");
}

in_both_modes!(half_open_log_at_the_containers_end_does_not_block);
async fn half_open_log_at_the_containers_end_does_not_block(mode: Mode) {
    let script = success_over(Duration::from_secs(60));
    let lines = lines_of(&script);
    let scenario = Scenario::new(mode).script(script);
    scenario.cluster.fault_logs([LogFault::HalfOpen(40)]);
    let (result, took) = scenario.timed_run().await;
    assert_success(&scenario, &result, &lines);
    assert!(took < Duration::from_secs(3 + 60 + 30), "{took:?}");
}

in_both_modes!(api_away_for_less_than_a_minute_ends_nothing);
async fn api_away_for_less_than_a_minute_ends_nothing(mode: Mode) {
    for (after, time) in [(8, 50), (20, 40), (61, 20), (62, 50)] {
        let script = success_over(Duration::from_secs(60));
        let lines = lines_of(&script);
        let scenario = Scenario::new(mode).script(script);
        scenario.cluster.make_unreachable(Duration::from_secs(after), Duration::from_secs(time));
        let result = scenario.run().await;
        assert_success(&scenario, &result, &lines);
    }
}

in_both_modes!(api_away_for_longer_leaves_the_job_to_the_next_run);
async fn api_away_for_longer_leaves_the_job_to_the_next_run(mode: Mode) {
    let script = success_over(Duration::from_secs(1800));
    let lines = lines_of(&script);
    let mut scenario = Scenario::new(mode).script(script).config(json!({"apiOutageSec": 60}));
    scenario.cluster.make_unreachable(Duration::from_secs(20), Duration::from_secs(100));
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_job_state_mismatch", "{result}");
    assert!(
        result["errorMessage"].as_str().is_some_and(|text| text.contains("connection reset")),
        "{result}"
    );
    assert_eq!(scenario.cluster.remaining().len(), 2, "the Job is left running, and its Secret with it");
    assert!(scenario.host.out().contains("(state mismatch — UI is waiting on it)"));
    let delivered = scenario.host.agent_lines();
    assert_eq!(delivered, lines[..delivered.len()], "what came before, once");

    // The API is back, and the Job is still there.
    scenario.host = Arc::default();
    scenario.run_id = "run-2";
    let result = scenario.run().await;
    assert_success(&scenario, &result, &lines);
    assert!(scenario.host.out().contains("[paperclip] Reattaching to in-flight K8s Job "));
}

in_both_modes!(api_answering_in_thirty_seconds_costs_only_time);
async fn api_answering_in_thirty_seconds_costs_only_time(mode: Mode) {
    for length in [5, 300] {
        let script = success_over(Duration::from_secs(length));
        let lines = lines_of(&script);
        let scenario = Scenario::new(mode).script(script);
        scenario.cluster.delay_answers(Duration::from_secs(30));
        let result = scenario.run().await;
        assert_success(&scenario, &result, &lines);
        assert_eq!(scenario.cluster.count("create job"), 1);
        assert_eq!(scenario.cluster.logs_open_most(), 1);
    }
}

in_both_modes!(condition_late_by_up_to_a_minute_is_a_success);
async fn condition_late_by_up_to_a_minute_is_a_success(mode: Mode) {
    for lag in [0, 1, 10, 29, 31, 45, 60] {
        let mut script = success_over(Duration::from_secs(10));
        let lines = lines_of(&script);
        // A container without a reason: its kubelet did not see how it ended.
        (script.condition_lag, script.reason) = (Some(Duration::from_secs(lag)), "");
        let scenario = Scenario::new(mode).script(script);
        let (result, took) = scenario.timed_run().await;
        assert_success(&scenario, &result, &lines);
        let late = lag > 30;
        assert_eq!(scenario.host.out().contains("without K8s Job condition update"), late, "{lag} s");
        assert!(took < Duration::from_secs(13 + lag.min(30) + 5), "{lag} s: {took:?}");
    }
}

in_both_modes!(log_cut_every_fifty_lines_loses_none_of_100_000);
async fn log_cut_every_fifty_lines_loses_none_of_100_000(mode: Mode) {
    for (pace, cut) in [
        // Repeated lines count as well: 10 to 20 lines of every body are not new.
        (Duration::from_millis(100), CutEvery::Lines(50)),
        // Lines come faster than logs can be opened: most of them are read after the container has ended.
        (Duration::from_millis(5), CutEvery::NewLines(50)),
    ] {
        let script = numbered(100_000, pace);
        let lines = lines_of(&script);
        let scenario = Scenario::new(mode).script(script);
        scenario.cluster.cut_every(cut);
        let result = scenario.run().await;
        assert_success(&scenario, &result, &lines);
        assert!(scenario.cluster.count("open log") >= 2_000, "{}", scenario.cluster.count("open log"));
        assert!(!scenario.host.out().contains("Log gap"), "nothing was rotated");
    }
}

in_both_modes!(bodies_ending_at_the_same_place_lose_nothing_unsaid);
async fn bodies_ending_at_the_same_place_lose_nothing_unsaid(mode: Mode) {
    // 30 lines a second: only the narrower overlap is shorter than a body.
    let script = numbered(1_500, Duration::from_micros(33_333));
    let lines = lines_of(&script);
    let scenario = Scenario::new(mode).script(script);
    scenario.cluster.cut_every(CutEvery::Lines(50));
    let result = scenario.run().await;
    assert_success(&scenario, &result, &lines);
    assert!(!scenario.host.out().contains("Log gap"), "{}", scenario.host.out());

    // 100 lines a second: a second cannot be read to its end.
    let script = numbered(1_500, Duration::from_millis(10));
    let lines = lines_of(&script);
    let ends = script.start_at + script.ends_after;
    let scenario = Scenario::new(mode).script(script);
    scenario.cluster.cut_every(CutEvery::Lines(50));
    let (_, took) = scenario.timed_run().await;
    assert!(took < ends + Duration::from_secs(120), "{took:?}");
    let gap = "[paperclip] Log gap: the container's log breaks off at the same place each time it is read; lines may be \
               missing here";
    assert!(scenario.host.out().contains(gap), "{}", scenario.host.out());
    let delivered = scenario.host.agent_lines();
    let mut unseen = lines.iter();
    assert!(delivered.iter().all(|line| unseen.any(|known| known == line)), "in order, none twice");
    assert!(delivered.len() >= 500, "{}", delivered.len());
}

in_both_modes!(file_sent_again_while_followed_is_dropped_and_reported);
async fn file_sent_again_while_followed_is_dropped_and_reported(mode: Mode) {
    // From within the window that a resumed body repeats, and from before it.
    for from in [380, 40] {
        let script = numbered(600, Duration::from_millis(10));
        let lines = lines_of(&script);
        let scenario = Scenario::new(mode).script(script);
        scenario.cluster.fault_logs([LogFault::SentAgain(400, from)]);
        let result = scenario.run().await;
        assert_success(&scenario, &result, &lines);
        let gap = "[paperclip] Log gap: the container's log was rotated while it was being followed; lines may be missing here";
        assert_eq!(scenario.host.out().matches(gap).count(), 1, "{}", scenario.host.out());
    }
}

in_both_modes!(last_read_lasts_as_long_as_it_brings_lines);
async fn last_read_lasts_as_long_as_it_brings_lines(mode: Mode) {
    let script = numbered(300, Duration::from_millis(5));
    let lines = lines_of(&script);
    let read: usize = lines[..20].iter().map(|line| line.len() + 32).sum();
    let scenario = Scenario::new(mode).script(script);
    // The followed body seems to end with the container. The rest comes line by line, for 140 s.
    scenario.cluster.fault_logs([LogFault::Short(read), LogFault::Slow(Duration::from_millis(500))]);
    let result = scenario.run().await;
    assert_success(&scenario, &result, &lines);
}

in_both_modes!(log_of_a_success_that_comes_late_is_read);
async fn log_of_a_success_that_comes_late_is_read(mode: Mode) {
    let script = success_over(Duration::from_secs(5));
    let lines = lines_of(&script);
    let scenario = Scenario::new(mode).script(script);
    // Nothing comes of the followed log, and the API takes longer for the last read than for one that failed.
    scenario.cluster.fault_logs([LogFault::HalfOpen(0), LogFault::Late(Duration::from_secs(20))]);
    assert_success(&scenario, &scenario.run().await, &lines);
}

in_both_modes!(evicted_pod_without_a_log_ends_the_run_soon);
async fn evicted_pod_without_a_log_ends_the_run_soon(mode: Mode) {
    let mut script = success_over(Duration::from_secs(20));
    script.lines.truncate(3);
    (script.exit_code, script.reason) = (137, "Error");
    let read: usize = script.lines.iter().map(|(_, line)| line.len() + 32).sum();
    let scenario = Scenario::new(mode).script(script);
    // The kubelet removes the containers of an evicted pod, with their logs.
    let gone = LogFault::Text("unable to retrieve container logs for containerd://0a1b\n");
    scenario.cluster.fault_logs([LogFault::Cut(read)]).fault_logs(vec![gone; 200]);
    let (result, took) = scenario.timed_run().await;
    // A run that polls sees it a poll later.
    let seen = if mode == Mode::Polled { 2 } else { 0 };
    assert!(took < Duration::from_secs(3 + 20 + 1 + 5 + seen), "{took:?}");
    let message = message_of(&result);
    let unread = "; the log could not be read: unable to retrieve container logs for containerd://0a1b";
    assert!(message.contains("exit code 137") && message.ends_with(unread), "{message}");
}

in_both_modes!(error_text_instead_of_log_is_not_output_nor_its_end);
async fn error_text_instead_of_log_is_not_output_nor_its_end(mode: Mode) {
    let text = "failed to try resolving symlinks in path \"/var/log/pods/x/claude/0.log\": no such file";
    for text in
        [LogFault::Text(text), LogFault::Text("unable to retrieve container logs for containerd://0a1b\n")]
    {
        let script = success_over(Duration::from_secs(30));
        let lines = lines_of(&script);
        let read: usize = lines[..3].iter().map(|line| line.len() + 32).sum();
        let scenario = Scenario::new(mode).script(script.clone());
        // The text comes at the first opening, and again where the log was cut.
        let texts = |times| vec![text.clone(); times];
        scenario.cluster.fault_logs(texts(3)).cut_logs([read]).fault_logs(texts(2));
        let result = scenario.run().await;
        assert_success(&scenario, &result, &lines);
        assert_eq!(scenario.cluster.count("open log"), 3 + 1 + 2 + 1);
        assert!(!scenario.host.out().contains("Log stream returned empty"), "{}", scenario.host.out());

        // As the container ends, the text is not a clean end of its log.
        let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(1)));
        scenario.cluster.fault_logs(texts(5));
        let result = scenario.run().await;
        assert_success(&scenario, &result, &lines);
        assert!(scenario.cluster.count("open log") > 5);
    }
}

in_both_modes!(prompt_secret_with_lost_answer_is_found_and_used);
async fn prompt_secret_with_lost_answer_is_found_and_used(mode: Mode) {
    let host = || FakeHost { prompt: Some("x".repeat(120 * 1024)), ..FakeHost::default() };
    let script = success_over(Duration::from_secs(5));
    let lines = lines_of(&script);
    let scenario = Scenario::new(mode).script(script).host(host());
    scenario.cluster.fault("create secret", [Fault::LostAnswer]);
    let result = scenario.run().await;
    assert_success(&scenario, &result, &lines);
    assert_eq!(scenario.cluster.count("create secret"), 2, "the second attempt finds the Secret there");
    assert_eq!(scenario.cluster.count("delete secret"), 0, "the cluster collects it with the Job");

    // No other Secret can have its name.
    let scenario = Scenario::new(mode).host(host());
    scenario.cluster.fault("create secret", [Fault::Answer(409, "secrets \"x\" already exists")]);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_prompt_secret_create_failed", "{result}");
    assert!(scenario.cluster.remaining().iter().all(|name| !name.starts_with("ac-")));
}

in_both_modes!(job_without_a_pod_fails_after_two_minutes);
async fn job_without_a_pod_fails_after_two_minutes(mode: Mode) {
    let never = Duration::from_secs(3600);
    let scenario = Scenario::new(mode).script(Script { pod_at: never, start_at: never, ..Script::default() });
    let (result, took) = scenario.timed_run().await;
    assert_eq!(result["errorCode"], "k8s_pod_schedule_failed", "{result}");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(
        message.starts_with("Pod scheduling failed: No pod was created for Job ac-agent-1-run-1-"),
        "{message}"
    );
    assert!(message.contains(" within 12") && message.contains(" [pod creation, waited 12"), "{message}");
    assert!(took.as_secs() >= 120 && took.as_secs() < 125, "{took:?}");
    assert!(scenario.cluster.remaining().is_empty());
    let waits =
        scenario.host.out().matches("[paperclip] Waiting for Job controller to create pod...").count();
    assert_eq!(waits, 1, "logged once");
}

in_both_modes!(shutdown_repeats_refused_deletions);
async fn shutdown_repeats_refused_deletions(mode: Mode) {
    let scenario = Arc::new(
        Scenario::new(mode)
            .script(success_over(Duration::from_secs(600)))
            .host(FakeHost { prompt: Some("x".repeat(120 * 1024)), ..FakeHost::default() }),
    );
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
    assert_eq!(scenario.cluster.remaining().len(), 2);
    let faults = [Fault::Answer(503, "overloaded"), Fault::Answer(429, "later")];
    scenario.cluster.fault("delete job", faults);
    assert_eq!(scenario.runner.shutdown().await.len(), 1);
    assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
    running.abort();
}

in_both_modes!(shutdown_during_creation_deletes_the_job);
async fn shutdown_during_creation_deletes_the_job(mode: Mode) {
    let prompt = || FakeHost { prompt: Some("x".repeat(120 * 1024)), ..FakeHost::default() };
    // The shutdown falls into each request that a run makes on its way to a Job: pod, claim, guard, Job, Secret.
    for at in [1, 3, 5, 7, 9, 11] {
        let mut scenario = Scenario::new(mode).script(success_over(Duration::from_secs(600))).host(prompt());
        scenario.cluster.delay_answers(Duration::from_secs(2));
        let (request, host) = (scenario.request(), scenario.host.clone());
        let (runner, cancel) = (scenario.runner.clone(), scenario.cancel.clone());
        let running = tokio::spawn(async move { runner.execute(&request, host, cancel, None).await });
        tokio::time::sleep(Duration::from_secs(at)).await;
        scenario.runner.shutdown().await;
        assert!(scenario.cluster.remaining().is_empty(), "at {at} s: {:?}", scenario.cluster.remaining());
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(scenario.cluster.remaining().is_empty(), "at {at} s: {:?}", scenario.cluster.remaining());
        let outcome = running.await.expect("no panic").to_json(jiff::Timestamp::now());
        assert_eq!(outcome["errorCode"], "k8s_host_shutdown", "at {at} s: {outcome}");
        let created = scenario.cluster.count("create job");

        // Nothing is created until the process should have exited. One that still runs then has not shut down.
        scenario.host = Arc::new(prompt());
        scenario.cluster.script(success_over(Duration::from_secs(5)));
        let outcome = scenario.run().await;
        assert_eq!(outcome["errorCode"], "k8s_host_shutdown", "{outcome}");
        assert_eq!(outcome["executionRecovery"]["kind"], "bootstrap", "{outcome}");
        assert_eq!(scenario.cluster.count("create job"), created);
        scenario.host = Arc::new(prompt());
        scenario.cluster.delay_answers(Duration::ZERO);
        assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    }
}

in_both_modes!(every_log_gap_is_logged_and_counted);
async fn every_log_gap_is_logged_and_counted(mode: Mode) {
    let mut script = success_over(Duration::from_secs(300));
    let lines = numbered(60, Duration::from_secs(5));
    (script.lines, script.ends_after) = (lines.lines, lines.ends_after);
    let all = lines_of(&script);
    script.rotated = vec![(Duration::from_secs(31), 5), (Duration::from_secs(131), 25)];
    let scenario = Scenario::new(mode).script(script);
    // The log is cut before each rotation and stays closed until lines are gone.
    let bytes = |lines: &[String]| lines.iter().map(|line| line.len() + 32).sum::<usize>();
    let refused = |times| std::iter::repeat_n(Fault::Answer(503, "busy"), times);
    scenario.cluster.cut_logs([bytes(&all[..3])]);
    scenario.cluster.fault("open log", [Fault::Pass].into_iter().chain(refused(9)));
    scenario.cluster.make_unreachable(Duration::from_secs(100), Duration::from_secs(45));
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    let out = scenario.host.out();
    let gaps: Vec<&str> = out.lines().filter(|line| line.starts_with("[paperclip] Log gap: ")).collect();
    assert_eq!(gaps.len(), 2, "{out}");
    assert!(gaps[0].ends_with("lines are missing here"), "{}", gaps[0]);
    assert!(gaps[1].ends_with("lines are missing here (gap 2 of this run)"), "{}", gaps[1]);
    let delivered = scenario.host.agent_lines();
    let mut unseen = all.iter();
    assert!(delivered.iter().all(|line| unseen.any(|known| known == line)), "in order, none twice");
    assert!(delivered.len() < all.len() - 2, "{} of {}", delivered.len(), all.len());
}

in_both_modes!(log_that_seems_complete_is_read_until_its_result);
async fn log_that_seems_complete_is_read_until_its_result(mode: Mode) {
    let script = success_over(Duration::from_secs(8));
    let lines = lines_of(&script);
    let scenario = Scenario::new(mode).script(script.clone());
    let read: usize = lines[..lines.len() - 1].iter().map(|line| line.len() + 32).sum();
    // Cut just before the container ends, and then three more times at that byte or earlier.
    scenario.cluster.fault_logs([read, read, 1, 60].map(LogFault::Short));
    let result = scenario.run().await;
    assert_success(&scenario, &result, &lines);

    // A log without a result is read a few times, and only once more when the container failed.
    for (exit_code, reads) in [(0, 1 + 4), (1, 1 + 2)] {
        let mut script = Script { exit_code, ..script.clone() };
        script.lines.pop();
        let scenario = Scenario::new(mode).script(script);
        let (result, took) = scenario.timed_run().await;
        assert_eq!(result["errorCode"], "claude_truncated", "{result}");
        assert_eq!(scenario.cluster.count("open log"), reads, "exit code {exit_code}");
        assert!(took < Duration::from_secs(3 + 8 + 1 + 5), "{took:?}");
    }
}

in_both_modes!(missing_end_of_log_is_read_by_stamp_then_in_whole);
async fn missing_end_of_log_is_read_by_stamp_then_in_whole(mode: Mode) {
    let script = success_over(Duration::from_secs(8));
    let lines = lines_of(&script);
    let read: usize = lines[..lines.len() - 1].iter().map(|line| line.len() + 32).sum();
    let scenario = Scenario::new(mode).script(script.clone());
    scenario.cluster.fault_logs([LogFault::Short(read)]);
    assert_success(&scenario, &scenario.run().await, &lines);
    let since = scenario.cluster.logs_since();
    assert!(matches!(&since[..], [None, Some(_)]), "{since:?}");

    // Reading all of it takes longer than a drain may stall.
    let scenario = Scenario::new(mode).script(script);
    let pause = Duration::from_secs(20) / u32::try_from(lines.len()).expect("few");
    scenario.cluster.fault_logs([LogFault::Short(read), LogFault::Short(60), LogFault::Slow(pause)]);
    assert_success(&scenario, &scenario.run().await, &lines);
    let since = scenario.cluster.logs_since();
    assert!(matches!(&since[..], [None, Some(_), None]), "{since:?}");
}

in_both_modes!(early_failure_output_is_read_despite_api_errors);
async fn early_failure_output_is_read_despite_api_errors(mode: Mode) {
    let script = Script {
        start_at: Duration::from_millis(600),
        lines: vec![(Duration::ZERO, "no space left on device".to_owned())],
        ends_after: Duration::from_millis(1),
        exit_code: 1,
        reason: "Error",
        ..Script::default()
    };
    for fault in [Fault::Answer(503, "overloaded"), Fault::Answer(403, "not yet")] {
        let scenario = Scenario::new(mode).script(script.clone());
        scenario.cluster.fault("open log", vec![fault; 3]);
        let result = scenario.run().await;
        assert_eq!(result["exitCode"], 1, "{result}");
        assert_eq!(scenario.host.agent_lines(), ["no space left on device"]);
        assert!(scenario.cluster.remaining().is_empty());
    }
}

in_both_modes!(log_forbidden_for_a_moment_after_its_end_is_read);
async fn log_forbidden_for_a_moment_after_its_end_is_read(mode: Mode) {
    let script = success_over(Duration::from_secs(1));
    let lines = lines_of(&script);
    let scenario = Scenario::new(mode).script(script.clone());
    scenario.cluster.fault("open log", vec![Fault::Answer(403, "the authorizer is away"); 4]);
    let result = scenario.run().await;
    assert_success(&scenario, &result, &lines);

    // Forbidden for good.
    let scenario = Scenario::new(mode).script(script);
    scenario.cluster.fault("open log", vec![Fault::Answer(403, "pods/log is forbidden"); 100]);
    let (result, took) = scenario.timed_run().await;
    let refused = "HTTP-Code: 403 Message: pods/log is forbidden";
    assert_eq!(
        message_of(&result),
        format!("Failed to parse Claude JSON output; the log could not be read: {refused}")
    );
    let warning = format!("cannot be opened: {refused} — trying again until the run ends");
    assert_eq!(scenario.host.err().matches(&warning).count(), 1, "{}", scenario.host.err());
    assert!(took < Duration::from_secs(15), "{took:?}");
}

/// A pod whose deletion is requested after 2 s, which terminates one of its containers.
fn terminated_while_deleted(statuses: &str, container: &str) -> Script {
    let status = json!({"phase": "Failed", statuses: [{"name": container, "ready": false,
        "restartCount": 0, "image": "", "imageID": "",
        "state": {"terminated": {"exitCode": 143, "reason": "Error"}}}]});
    Script {
        start_at: Duration::from_secs(3600),
        early_statuses: vec![(Duration::from_secs(2), status)],
        pod_deleting_at: Some(Duration::from_secs(2)),
        ..Script::default()
    }
}

in_both_modes!(container_killed_at_start_reports_what_ended_the_job);
async fn container_killed_at_start_reports_what_ended_the_job(mode: Mode) {
    let seconds = Duration::from_secs;
    let script = || terminated_while_deleted("containerStatuses", "claude");
    for (script, code) in [
        (Script { job_deleted_at: Some(seconds(3)), ..script() }, "k8s_job_deleted_externally"),
        (Script { job_failed_at: Some((seconds(3), "DeadlineExceeded")), ..script() }, "timeout"),
        // Only the pod was deleted, or it ended by itself.
        (
            Script { job_failed_at: Some((seconds(3), "BackoffLimitExceeded")), ..script() },
            "k8s_pod_schedule_failed",
        ),
        (Script { pod_deleting_at: None, ..script() }, "k8s_pod_schedule_failed"),
    ] {
        let description = format!("{script:?}");
        let scenario = Scenario::new(mode).script(script).config(json!({"timeoutSec": 600}));
        let (result, took) = scenario.timed_run().await;
        assert_eq!(
            (&result["errorCode"], &result["exitCode"]),
            (&json!(code), &json!(143)),
            "{description}: {result}"
        );
        assert!(took < seconds(30), "{took:?}: {description}");
        assert!(scenario.host.agent_lines().is_empty() && scenario.cluster.remaining().is_empty());
    }
}

in_both_modes!(pod_failed_with_its_job_reports_what_ended_the_job);
async fn pod_failed_with_its_job_reports_what_ended_the_job(mode: Mode) {
    let seconds = Duration::from_secs;
    let script = || terminated_while_deleted("initContainerStatuses", "write-prompt");
    for (script, code) in [
        (Script { job_deleted_at: Some(seconds(3)), ..script() }, "k8s_job_deleted_externally"),
        (Script { job_failed_at: Some((seconds(3), "DeadlineExceeded")), ..script() }, "timeout"),
        // Only the pod was deleted.
        (
            Script { job_failed_at: Some((seconds(3), "BackoffLimitExceeded")), ..script() },
            "k8s_pod_schedule_failed",
        ),
        (script(), "k8s_pod_schedule_failed"),
        // Nothing was deleted, so there is nothing to wait for.
        (Script { pod_deleting_at: None, ..script() }, "k8s_pod_schedule_failed"),
    ] {
        let description = format!("{script:?}");
        let scenario = Scenario::new(mode).script(script).config(json!({"timeoutSec": 600}));
        let (result, took) = scenario.timed_run().await;
        assert_eq!(result["errorCode"], code, "{description}: {result}");
        assert!(took < seconds(20), "{took:?}: {description}");
        assert!(scenario.host.agent_lines().is_empty() && scenario.cluster.remaining().is_empty());
    }
}

in_both_modes!(log_whose_bodies_all_break_is_named_as_the_cause);
async fn log_whose_bodies_all_break_is_named_as_the_cause(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5)));
    scenario.cluster.cut_logs(vec![0; 1_000]);
    let result = scenario.run().await;
    let message = message_of(&result);
    assert!(message.contains("; the log could not be read: "), "{message}");
    assert_eq!(result["resultJson"]["k8s"]["cause"], "log_unreadable", "{result}");
}

in_both_modes!(log_that_was_not_read_to_its_end_is_named);
async fn log_that_was_not_read_to_its_end_is_named(mode: Mode) {
    // Within one second, which is how precisely the rest of a log can be asked for.
    let script = success_over(Duration::from_millis(500));
    let read: usize = lines_of(&script)[..3].iter().map(|line| line.len() + 32).sum();
    // Each body brings the same lines: of the rest nothing comes, not even an end; or it breaks off.
    for faults in [vec![LogFault::HalfOpen(read); 50], vec![LogFault::Cut(read); 1_000]] {
        let description = format!("{:?}", faults[0]);
        let scenario = Scenario::new(mode).script(script.clone());
        scenario.cluster.fault_logs(faults);
        let result = scenario.run().await;
        let message = message_of(&result);
        assert!(message.contains("; the log could not be read: "), "{description}: {message}");
        assert_eq!(result["resultJson"]["k8s"]["cause"], "log_unreadable", "{description}: {result}");
    }
}

in_both_modes!(log_that_was_read_to_its_end_at_last_is_not_called_unread);
async fn log_that_was_read_to_its_end_at_last_is_not_called_unread(mode: Mode) {
    let mut script = success_over(Duration::from_secs(5));
    script.lines.truncate(3);
    let read: usize = lines_of(&script)[..2].iter().map(|line| line.len() + 32).sum();
    for faults in [vec![LogFault::HalfOpen(read); 1], vec![LogFault::Cut(read); 2]] {
        let description = format!("{:?}", faults[0]);
        let scenario = Scenario::new(mode).script(script.clone());
        scenario.cluster.fault_logs(faults);
        let result = scenario.run().await;
        assert_eq!(result["resultJson"]["k8s"]["cause"], "no_result", "{description}: {result}");
    }
}
