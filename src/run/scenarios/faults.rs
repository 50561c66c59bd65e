//! Faults that take minutes: the rows of the fault table (`__test__/faults.test.js`) that need a paused clock.

use super::memory::{CutEvery, LogFault};
use super::*;

fn assert_success(scene: &Scene, result: &Value, lines: &[String]) {
    assert_eq!(result["errorMessage"], Value::Null, "{result}\n{}", scene.ear.out());
    assert_eq!(scene.ear.agent_lines(), lines, "every line, once, in order");
    assert!(scene.cluster.left().is_empty(), "{:?}", scene.cluster.left());
}

fn lines_of(script: &Script) -> Vec<String> {
    script.lines.iter().map(|(_, line)| line.clone()).collect()
}

/// So many lines at a pace, and the result.
fn numbered(lines: u32, pace: Duration) -> Script {
    let mut script = success_over(Duration::ZERO);
    let (_, result) = script.lines.pop().expect("a result");
    script.lines = (0..lines).map(|n| (pace * n, format!("{{\"type\":\"user\",\"n\":{n}}}"))).collect();
    script.lines.push((pace * lines, result));
    script.ends_after = pace * lines + Duration::from_millis(300);
    script
}

/// The phases of a pod whose image cannot be pulled for so long, as a kubelet goes through them: a try at once, the
/// others after 10 s, 20 s and 40 s.
fn pulled_after(failing: Duration) -> Script {
    let status = |reason: &str, message: &str| {
        json!({"phase": "Pending", "containerStatuses": [{"name": "claude",
            "state": {"waiting": {"reason": reason, "message": message}}}]})
    };
    let mut before = Vec::new();
    let mut pause = Duration::from_secs(10);
    let mut tried = Duration::from_secs(1);
    while tried < failing + Duration::from_secs(1) {
        before.push((tried, status("ErrImagePull", "registry is down")));
        before.push((tried + Duration::from_secs(2), status("ImagePullBackOff", "Back-off pulling image")));
        tried += pause;
        pause *= 2;
    }
    Script { start_at: tried + Duration::from_secs(3), before, ..success_over(Duration::from_secs(5)) }
}

in_both_modes!(an_image_that_cannot_be_pulled_for_twenty_seconds_is_waited_for);
async fn an_image_that_cannot_be_pulled_for_twenty_seconds_is_waited_for(mode: Mode) {
    let script = pulled_after(Duration::from_secs(20));
    assert_eq!(script.start_at, Duration::from_secs(34), "after the third try");
    let lines = lines_of(&script);
    let scene = Scene::new(mode).script(script);
    let result = scene.run().await;
    assert_success(&scene, &result, &lines);
    let out = scene.ear.out();
    for told in
        ["phase=Pending, claude: waiting (ErrImagePull)", "phase=Pending, claude: waiting (ImagePullBackOff)"]
    {
        assert!(out.contains(told), "{told}: {out}");
    }
}

in_both_modes!(an_image_that_cannot_be_pulled_at_all_is_waited_for_a_minute);
async fn an_image_that_cannot_be_pulled_at_all_is_waited_for_a_minute(mode: Mode) {
    for (config, patience) in [(json!({}), 60), (json!({"imagePullGraceSec": 0}), 0)] {
        let scene = Scene::new(mode).script(pulled_after(Duration::from_secs(300))).config(config);
        let (result, took) = scene.timed_run().await.expect("resolves");
        assert_eq!(result["errorCode"], "k8s_pod_schedule_failed", "{result}");
        let message = result["errorMessage"].as_str().expect("message");
        assert!(
            message.starts_with("Pod scheduling failed: Image pull failed for \"claude\": "),
            "{message}"
        );
        assert!(scene.ear.err().contains(&format!("[paperclip] {message}")));
        assert!(took.as_secs() >= patience && took.as_secs() <= patience + 5, "{took:?}");
        assert!(scene.ear.agent_lines().is_empty() && scene.cluster.left().is_empty());
    }
}

in_both_modes!(a_log_that_is_half_open_is_opened_anew_after_ninety_seconds);
async fn a_log_that_is_half_open_is_opened_anew_after_ninety_seconds(mode: Mode) {
    let mut script = success_over(Duration::from_secs(300));
    let lines = lines_of(&script);
    let read: usize = lines[..2].iter().map(|line| line.len() + 32).sum();
    script.condition_lag = Some(Duration::from_secs(2));
    let scene = Scene::new(mode).script(script);
    // Silent after two lines, and once more at once, in the middle of the first line.
    scene.cluster.fault_logs([LogFault::HalfOpen(read), LogFault::HalfOpen(40)]);
    let (result, took) = scene.timed_run().await.expect("resolves");
    assert_success(&scene, &result, &lines);
    assert_eq!(scene.cluster.count("open log"), 3);
    assert_eq!(scene.cluster.logs_open_most(), 1, "the silent one is closed first");
    assert!(took < Duration::from_secs(3 + 300 + 2 + 5), "{took:?}: told to its end as ever");
}

in_both_modes!(a_log_that_is_half_open_as_its_container_ends_holds_nothing_up_for_ever);
async fn a_log_that_is_half_open_as_its_container_ends_holds_nothing_up_for_ever(mode: Mode) {
    let script = success_over(Duration::from_secs(60));
    let lines = lines_of(&script);
    let scene = Scene::new(mode).script(script);
    scene.cluster.fault_logs([LogFault::HalfOpen(40)]);
    let (result, took) = scene.timed_run().await.expect("resolves");
    assert_success(&scene, &result, &lines);
    assert!(took < Duration::from_secs(3 + 60 + 30), "{took:?}");
}

in_both_modes!(an_api_that_is_away_for_less_than_a_minute_ends_nothing);
async fn an_api_that_is_away_for_less_than_a_minute_ends_nothing(mode: Mode) {
    for (after, time) in [(8, 50), (20, 40), (61, 20)] {
        let script = success_over(Duration::from_secs(60));
        let lines = lines_of(&script);
        let scene = Scene::new(mode).script(script);
        scene.cluster.away(Duration::from_secs(after), Duration::from_secs(time));
        let result = scene.run().await;
        assert_success(&scene, &result, &lines);
    }
}

in_both_modes!(an_api_that_is_away_for_longer_leaves_the_job_to_the_next_run);
async fn an_api_that_is_away_for_longer_leaves_the_job_to_the_next_run(mode: Mode) {
    let script = success_over(Duration::from_secs(1800));
    let lines = lines_of(&script);
    let mut scene = Scene::new(mode).script(script);
    scene.cluster.away(Duration::from_secs(20), Duration::from_secs(100));
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_job_state_mismatch", "{result}");
    assert!(
        result["errorMessage"].as_str().is_some_and(|text| text.contains("connection reset")),
        "{result}"
    );
    assert_eq!(scene.cluster.left().len(), 1, "the Job goes on");
    assert!(scene.ear.out().contains("(state mismatch — UI is waiting on it)"));
    let told = scene.ear.agent_lines();
    assert_eq!(told, lines[..told.len()], "what came before, once");

    // The API is back, and the Job still there.
    scene.ear = Arc::default();
    scene.run_id = "run-2";
    let result = scene.run().await;
    assert_success(&scene, &result, &lines);
    assert!(scene.ear.out().contains("[paperclip] Reattaching to in-flight K8s Job "));
}

in_both_modes!(an_api_that_takes_thirty_seconds_for_every_answer_costs_time_only);
async fn an_api_that_takes_thirty_seconds_for_every_answer_costs_time_only(mode: Mode) {
    for length in [5, 300] {
        let script = success_over(Duration::from_secs(length));
        let lines = lines_of(&script);
        let scene = Scene::new(mode).script(script);
        scene.cluster.slow(Duration::from_secs(30));
        let result = scene.run().await;
        assert_success(&scene, &result, &lines);
        assert_eq!(scene.cluster.count("create job"), 1);
        assert_eq!(scene.cluster.logs_open_most(), 1);
    }
}

in_both_modes!(a_condition_may_lag_by_up_to_a_minute);
async fn a_condition_may_lag_by_up_to_a_minute(mode: Mode) {
    for lag in [0, 1, 10, 29, 31, 45, 60] {
        let mut script = success_over(Duration::from_secs(10));
        let lines = lines_of(&script);
        script.condition_lag = Some(Duration::from_secs(lag));
        let scene = Scene::new(mode).script(script);
        let (result, took) = scene.timed_run().await.expect("resolves");
        assert_success(&scene, &result, &lines);
        let late = lag > 30;
        assert_eq!(scene.ear.out().contains("without K8s Job condition update"), late, "{lag} s");
        assert!(took < Duration::from_secs(13 + lag.min(30) + 5), "{lag} s: {took:?}");
    }
}

in_both_modes!(a_log_that_is_cut_every_fifty_lines_loses_none_of_a_hundred_thousand);
async fn a_log_that_is_cut_every_fifty_lines_loses_none_of_a_hundred_thousand(mode: Mode) {
    for (pace, cut) in [
        // What is repeated counts as well: 10 to 20 lines of every body are not new.
        (Duration::from_millis(100), CutEvery::Lines(50)),
        // Faster than logs can be opened: most of it is read after the container has ended.
        (Duration::from_millis(5), CutEvery::NewLines(50)),
    ] {
        let script = numbered(100_000, pace);
        let lines = lines_of(&script);
        let scene = Scene::new(mode).script(script);
        scene.cluster.cut_every(cut);
        let result = scene.run().await;
        assert_success(&scene, &result, &lines);
        assert!(scene.cluster.count("open log") >= 2_000, "{}", scene.cluster.count("open log"));
        assert!(!scene.ear.out().contains("Log gap"), "nothing was rotated");
    }
}

in_both_modes!(an_error_text_in_place_of_the_log_is_neither_output_nor_its_end);
async fn an_error_text_in_place_of_the_log_is_neither_output_nor_its_end(mode: Mode) {
    let text = "failed to try resolving symlinks in path \"/var/log/pods/x/claude/0.log\": no such file";
    for text in
        [LogFault::Text(text), LogFault::Text("unable to retrieve container logs for containerd://0a1b\n")]
    {
        let script = success_over(Duration::from_secs(30));
        let lines = lines_of(&script);
        let read: usize = lines[..3].iter().map(|line| line.len() + 32).sum();
        let scene = Scene::new(mode).script(script.clone());
        // At the first opening, and where the log was cut.
        let texts = |times| vec![text.clone(); times];
        scene.cluster.fault_logs(texts(3)).cut_logs([read]).fault_logs(texts(2));
        let result = scene.run().await;
        assert_success(&scene, &result, &lines);
        assert_eq!(scene.cluster.count("open log"), 3 + 1 + 2 + 1);
        assert!(!scene.ear.out().contains("Log stream returned empty"), "{}", scene.ear.out());

        // As the container ends: the text is no clean end of its log.
        let scene = Scene::new(mode).script(success_over(Duration::from_secs(1)));
        scene.cluster.fault_logs(texts(8));
        let result = scene.run().await;
        assert_success(&scene, &result, &lines);
        assert!(scene.cluster.count("open log") > 8);
    }
}

in_both_modes!(a_prompt_secret_whose_answer_is_lost_is_there_and_taken);
async fn a_prompt_secret_whose_answer_is_lost_is_there_and_taken(mode: Mode) {
    let ear = || Ear { secret_prompt: Some("x".repeat(120 * 1024)), ..Ear::default() };
    let script = success_over(Duration::from_secs(5));
    let lines = lines_of(&script);
    let scene = Scene::new(mode).script(script).ear(ear());
    scene.cluster.fault("create secret", [Fault::LostAnswer]);
    let result = scene.run().await;
    assert_success(&scene, &result, &lines);
    assert_eq!(scene.cluster.count("create secret"), 2, "the second finds it there");
    assert_eq!(scene.cluster.count("delete secret"), 1);

    // One that was there before the first attempt is nobody knows whose.
    let scene = Scene::new(mode).ear(ear());
    scene.cluster.fault("create secret", [Fault::Answer(409, "secrets \"x\" already exists")]);
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_prompt_secret_create_failed", "{result}");
    assert_eq!(scene.cluster.count("create job"), 0);
}

in_both_modes!(a_job_whose_pod_cannot_be_created_is_given_up_after_two_minutes);
async fn a_job_whose_pod_cannot_be_created_is_given_up_after_two_minutes(mode: Mode) {
    let never = Duration::from_secs(3600);
    let scene = Scene::new(mode).script(Script { pod_at: never, start_at: never, ..Script::default() });
    let (result, took) = scene.timed_run().await.expect("resolves");
    assert_eq!(result["errorCode"], "k8s_pod_schedule_failed", "{result}");
    assert_eq!(
        result["errorMessage"],
        "Pod scheduling failed: Timed out waiting for pod to be scheduled (120s)"
    );
    assert!(took.as_secs() >= 120 && took.as_secs() < 125, "{took:?}");
    assert!(scene.cluster.left().is_empty());
    let waits = scene.ear.out().matches("[paperclip] Waiting for Job controller to create pod...").count();
    assert_eq!(waits, 1, "told once");
}

in_both_modes!(a_shutdown_whose_deletions_are_refused_for_a_moment_deletes_all_the_same);
async fn a_shutdown_whose_deletions_are_refused_for_a_moment_deletes_all_the_same(mode: Mode) {
    let scene = Arc::new(
        Scene::new(mode)
            .script(success_over(Duration::from_secs(600)))
            .ear(Ear { secret_prompt: Some("x".repeat(120 * 1024)), ..Ear::default() }),
    );
    let running = tokio::spawn({
        let scene = scene.clone();
        async move { scene.runner.execute(&scene.request(), scene.ear.clone(), scene.cancel.clone(), None).await }
    });
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(scene.cluster.left().len(), 2);
    for request in ["delete job", "delete secret"] {
        scene.cluster.fault(request, [Fault::Answer(503, "overloaded"), Fault::Answer(429, "later")]);
    }
    assert_eq!(scene.runner.shutdown().await.len(), 1);
    assert!(scene.cluster.left().is_empty(), "{:?}", scene.cluster.left());
    running.abort();
}

in_both_modes!(a_job_that_is_being_created_as_the_host_shuts_down_is_deleted_as_well);
async fn a_job_that_is_being_created_as_the_host_shuts_down_is_deleted_as_well(mode: Mode) {
    let secret_prompt = || Ear { secret_prompt: Some("x".repeat(120 * 1024)), ..Ear::default() };
    // In the middle of every request that a run makes on its way to a Job: pod, claim, guard, Secret, Job, patch.
    for at in [1, 3, 5, 7, 9, 11] {
        let mut scene = Scene::new(mode).script(success_over(Duration::from_secs(600))).ear(secret_prompt());
        scene.cluster.slow(Duration::from_secs(2));
        let (request, ear) = (scene.request(), scene.ear.clone());
        let (runner, cancel) = (scene.runner.clone(), scene.cancel.clone());
        let running = tokio::spawn(async move { runner.execute(&request, ear, cancel, None).await });
        tokio::time::sleep(Duration::from_secs(at)).await;
        scene.runner.shutdown().await;
        assert!(scene.cluster.left().is_empty(), "at {at} s: {:?}", scene.cluster.left());
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(scene.cluster.left().is_empty(), "at {at} s: {:?}", scene.cluster.left());
        let outcome = running.await.expect("no panic").expect("resolves").to_json();
        let created = scene.cluster.count("create job");
        let expected = if created == 0 { "cancelled" } else { "k8s_job_deleted_externally" };
        assert_eq!(outcome["errorCode"], expected, "at {at} s: {outcome}");

        // Nothing is created until the process should be gone; one that is not was not told to go.
        scene.ear = Arc::new(secret_prompt());
        scene.cluster.script(success_over(Duration::from_secs(5)));
        let outcome = scene.run().await;
        assert_eq!(outcome["errorCode"], "cancelled", "{outcome}");
        assert_eq!(outcome["resultJson"]["executionCancellation"]["state"], "acknowledged");
        assert_eq!(scene.cluster.count("create job"), created);
        scene.ear = Arc::new(secret_prompt());
        scene.cluster.slow(Duration::ZERO);
        assert_eq!(scene.run().await["errorMessage"], Value::Null);
    }
}

in_both_modes!(every_gap_is_told_and_counted);
async fn every_gap_is_told_and_counted(mode: Mode) {
    let mut script = success_over(Duration::from_secs(300));
    let lines = numbered(60, Duration::from_secs(5));
    (script.lines, script.ends_after) = (lines.lines, lines.ends_after);
    let all = lines_of(&script);
    script.rotated = vec![(Duration::from_secs(31), 5), (Duration::from_secs(131), 25)];
    let scene = Scene::new(mode).script(script);
    // Cut off before each rotation, and for long enough.
    let bytes = |lines: &[String]| lines.iter().map(|line| line.len() + 32).sum::<usize>();
    let refused = |times| std::iter::repeat_n(Fault::Answer(503, "busy"), times);
    scene.cluster.cut_logs([bytes(&all[..3])]);
    scene.cluster.fault("open log", [Fault::Pass].into_iter().chain(refused(9)));
    scene.cluster.away(Duration::from_secs(100), Duration::from_secs(45));
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    let out = scene.ear.out();
    let gaps: Vec<&str> = out.lines().filter(|line| line.starts_with("[paperclip] Log gap: ")).collect();
    assert_eq!(gaps.len(), 2, "{out}");
    assert!(gaps[0].ends_with("lines are missing here"), "{}", gaps[0]);
    assert!(gaps[1].ends_with("lines are missing here (gap 2 of this run)"), "{}", gaps[1]);
    let told = scene.ear.agent_lines();
    let mut rest = all.iter();
    assert!(told.iter().all(|line| rest.any(|known| known == line)), "in order, none twice");
    assert!(told.len() < all.len() - 2, "{} of {}", told.len(), all.len());
}

in_both_modes!(a_log_that_seems_complete_again_and_again_is_read_until_its_result_is_there);
async fn a_log_that_seems_complete_again_and_again_is_read_until_its_result_is_there(mode: Mode) {
    let script = success_over(Duration::from_secs(8));
    let lines = lines_of(&script);
    let scene = Scene::new(mode).script(script.clone());
    let read: usize = lines[..lines.len() - 1].iter().map(|line| line.len() + 32).sum();
    // Cut just before the container ends, and then three times where it was cut before.
    scene.cluster.fault_logs([read, read, 1, 60].map(LogFault::Short));
    let result = scene.run().await;
    assert_success(&scene, &result, &lines);

    // One that has none to be found is not looked at for ever, and one that failed not again.
    for (exit_code, reads) in [(0, 1 + 4), (1, 1 + 2)] {
        let mut script = Script { exit_code, ..script.clone() };
        script.lines.pop();
        let scene = Scene::new(mode).script(script);
        let (result, took) = scene.timed_run().await.expect("resolves");
        assert_eq!(result["errorCode"], "claude_truncated", "{result}");
        assert_eq!(scene.cluster.count("open log"), reads, "exit code {exit_code}");
        assert!(took < Duration::from_secs(3 + 8 + 1 + 5), "{took:?}");
    }
}

in_both_modes!(the_end_of_a_long_log_that_a_kubelet_left_out_is_asked_for_alone_and_the_whole_while_it_comes);
async fn the_end_of_a_long_log_that_a_kubelet_left_out_is_asked_for_alone_and_the_whole_while_it_comes(
    mode: Mode,
) {
    let script = success_over(Duration::from_secs(8));
    let lines = lines_of(&script);
    let read: usize = lines[..lines.len() - 1].iter().map(|line| line.len() + 32).sum();
    let scene = Scene::new(mode).script(script.clone());
    scene.cluster.fault_logs([LogFault::Short(read)]);
    assert_success(&scene, &scene.run().await, &lines);
    let since = scene.cluster.logs_since();
    assert!(matches!(&since[..], [None, Some(_)]), "{since:?}");

    // All of it takes longer than a log may stand still.
    let scene = Scene::new(mode).script(script);
    let pause = Duration::from_secs(20) / u32::try_from(lines.len()).expect("few");
    scene.cluster.fault_logs([LogFault::Short(read), LogFault::Short(60), LogFault::Slow(pause)]);
    assert_success(&scene, &scene.run().await, &lines);
    let since = scene.cluster.logs_since();
    assert!(matches!(&since[..], [None, Some(_), None]), "{since:?}");
}

in_both_modes!(what_a_run_said_that_failed_before_anybody_looked_is_read_although_the_api_stumbles);
async fn what_a_run_said_that_failed_before_anybody_looked_is_read_although_the_api_stumbles(mode: Mode) {
    let script = Script {
        start_at: Duration::from_millis(600),
        lines: vec![(Duration::ZERO, "no space left on device".to_owned())],
        ends_after: Duration::from_millis(1),
        exit_code: 1,
        reason: "Error",
        ..Script::default()
    };
    for fault in [Fault::Answer(503, "overloaded"), Fault::Answer(403, "not yet")] {
        let scene = Scene::new(mode).script(script.clone());
        scene.cluster.fault("open log", vec![fault; 3]);
        let result = scene.run().await;
        assert_eq!(result["exitCode"], 1, "{result}");
        assert_eq!(scene.ear.agent_lines(), ["no space left on device"]);
        assert!(scene.cluster.left().is_empty());
    }
}

in_both_modes!(a_log_that_is_forbidden_for_a_moment_after_its_end_is_read);
async fn a_log_that_is_forbidden_for_a_moment_after_its_end_is_read(mode: Mode) {
    let script = success_over(Duration::from_secs(1));
    let lines = lines_of(&script);
    let scene = Scene::new(mode).script(script.clone());
    scene.cluster.fault("open log", vec![Fault::Answer(403, "the authorizer is away"); 4]);
    let result = scene.run().await;
    assert_success(&scene, &result, &lines);

    // For good.
    let scene = Scene::new(mode).script(script);
    scene.cluster.fault("open log", vec![Fault::Answer(403, "pods/log is forbidden"); 100]);
    let (result, took) = scene.timed_run().await.expect("resolves");
    assert!(result["errorMessage"].is_string(), "{result}");
    assert!(took < Duration::from_secs(15), "{took:?}");
}

/// A pod whose deletion is asked for after 2 s, and one of whose containers is terminated for it.
fn terminated_while_deleted(statuses: &str, container: &str) -> Script {
    let status = json!({"phase": "Failed", statuses: [{"name": container, "ready": false,
        "restartCount": 0, "image": "", "imageID": "",
        "state": {"terminated": {"exitCode": 143, "reason": "Error"}}}]});
    Script {
        start_at: Duration::from_secs(3600),
        before: vec![(Duration::from_secs(2), status)],
        pod_deleting_at: Some(Duration::from_secs(2)),
        ..Script::default()
    }
}

in_both_modes!(a_container_that_is_killed_at_its_start_because_its_job_was_ended_says_what_ended_the_job);
async fn a_container_that_is_killed_at_its_start_because_its_job_was_ended_says_what_ended_the_job(
    mode: Mode,
) {
    let seconds = Duration::from_secs;
    let script = || terminated_while_deleted("containerStatuses", "claude");
    for (script, code, exit_code) in [
        (Script { job_deleted_at: Some(seconds(3)), ..script() }, "k8s_job_deleted_externally", json!(143)),
        (Script { job_failed_at: Some((seconds(3), "DeadlineExceeded")), ..script() }, "timeout", json!(143)),
        // The pod alone was deleted, or ended by itself.
        (
            Script { job_failed_at: Some((seconds(3), "BackoffLimitExceeded")), ..script() },
            "k8s_pod_schedule_failed",
            Value::Null,
        ),
        (Script { pod_deleting_at: None, ..script() }, "k8s_pod_schedule_failed", Value::Null),
    ] {
        let told = format!("{script:?}");
        let scene = Scene::new(mode).script(script).config(json!({"timeoutSec": 600}));
        let (result, took) = scene.timed_run().await.expect("resolves");
        assert_eq!(
            (&result["errorCode"], &result["exitCode"]),
            (&json!(code), &exit_code),
            "{told}: {result}"
        );
        assert!(took < seconds(30), "{took:?}: {told}");
        assert!(scene.ear.agent_lines().is_empty() && scene.cluster.left().is_empty());
    }
}

in_both_modes!(a_pod_that_fails_because_its_job_was_ended_says_what_ended_the_job);
async fn a_pod_that_fails_because_its_job_was_ended_says_what_ended_the_job(mode: Mode) {
    let seconds = Duration::from_secs;
    let script = || terminated_while_deleted("initContainerStatuses", "write-prompt");
    for (script, code) in [
        (Script { job_deleted_at: Some(seconds(3)), ..script() }, "k8s_job_deleted_externally"),
        (Script { job_failed_at: Some((seconds(3), "DeadlineExceeded")), ..script() }, "timeout"),
        // The pod alone was deleted.
        (
            Script { job_failed_at: Some((seconds(3), "BackoffLimitExceeded")), ..script() },
            "k8s_pod_schedule_failed",
        ),
        (script(), "k8s_pod_schedule_failed"),
        // Nobody deleted it: there is nothing to wait for.
        (Script { pod_deleting_at: None, ..script() }, "k8s_pod_schedule_failed"),
    ] {
        let told = format!("{script:?}");
        let scene = Scene::new(mode).script(script).config(json!({"timeoutSec": 600}));
        let (result, took) = scene.timed_run().await.expect("resolves");
        assert_eq!(result["errorCode"], code, "{told}: {result}");
        assert!(took < seconds(20), "{took:?}: {told}");
        assert!(scene.ear.agent_lines().is_empty() && scene.cluster.left().is_empty());
    }
}
