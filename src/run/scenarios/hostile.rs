//! What an agent prints to harm its host, and a host whose callbacks never settle.

use super::fake_cluster::LogFault;
use super::*;
use crate::run::timing;
use crate::stream::MOST_LINE;

/// The recorded success with this line before its result.
fn success_with(line: String) -> Script {
    let mut script = success_over(Duration::from_secs(20));
    let at = script.lines.len() - 1;
    script.lines.insert(at, (script.lines[at].0, line));
    script
}

/// What a line of this many bytes is followed by, when this many of them are kept.
fn notice(kept: usize, bytes: usize) -> String {
    let left_out = bytes - kept;
    format!("[paperclip] Line too long: its first {kept} bytes are above, {left_out} bytes are left out here")
}

in_both_modes!(line_without_end_is_cut_and_the_run_succeeds);
async fn line_without_end_is_cut_and_the_run_succeeds(mode: Mode) {
    let bytes = MOST_LINE + 5000;
    let scenario = Scenario::new(mode).script(success_with("x".repeat(bytes)));
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null);
    // Of what is kept the stamp and its space are not the line's.
    let kept = MOST_LINE - "2026-01-01T00:00:00.000000000Z ".len();
    let out = scenario.host.out();
    let mut lines = out.lines().skip_while(|line| !line.starts_with("xx"));
    assert_eq!(lines.next().map(str::len), Some(kept));
    assert_eq!(lines.next(), Some(&*notice(kept, bytes)));
    assert_eq!(lines.next(), SUCCESS.lines().last(), "the result comes through");
}

in_both_modes!(cut_line_is_delivered_once_whatever_breaks);
async fn cut_line_is_delivered_once_whatever_breaks(mode: Mode) {
    let bytes = MOST_LINE + 5000;
    let script = success_with("x".repeat(bytes));
    let before: usize =
        script.lines.iter().take(script.lines.len() - 2).map(|(_, line)| line.len() + 32).sum();
    // In the part that is kept, in the part that is not, and right after the line.
    for cut in [before + 1000, before + MOST_LINE + 1000, before + bytes + 32] {
        let scenario = Scenario::new(mode).script(script.clone());
        scenario.cluster.fault_logs([LogFault::Cut(cut)]);
        assert_eq!(scenario.run().await["errorMessage"], Value::Null);
        let out = scenario.host.out();
        assert_eq!(out.lines().filter(|line| line.starts_with("xx")).count(), 1, "{cut}");
        assert_eq!(out.matches("[paperclip] Line too long: ").count(), 1, "{cut}");
        assert_eq!(out.matches("[paperclip] Log gap: ").count(), 0, "{cut}");
    }
}

in_both_modes!(line_that_never_ends_is_cut_at_the_end_of_the_run);
async fn line_that_never_ends_is_cut_at_the_end_of_the_run(mode: Mode) {
    let bytes = MOST_LINE + 5000;
    let mut script = success_over(Duration::from_secs(20));
    script.lines.truncate(2);
    script.lines.push((Duration::from_secs(5), "x".repeat(bytes)));
    (script.exit_code, script.reason) = (1, "Error");
    let before: usize = script.lines.iter().take(2).map(|(_, line)| line.len() + 32).sum();
    let scenario = Scenario::new(mode).script(script);
    scenario.cluster.fault_logs(vec![LogFault::Short(before + 31 + bytes); 20]);
    let result = scenario.run().await;
    assert_eq!(result["exitCode"], 1, "{result}");
    let out = scenario.host.out();
    assert_eq!(out.matches(&notice(MOST_LINE - 31, bytes)).count(), 1);
}

in_both_modes!(bytes_that_are_replaced_take_no_more_than_others);
async fn bytes_that_are_replaced_take_no_more_than_others(mode: Mode) {
    let bytes = MOST_LINE / 2;
    let scenario = Scenario::new(mode).script(success_with("\0".repeat(bytes)));
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    let out = scenario.host.out();
    let line = out.lines().find(|line| line.starts_with('\u{fffd}')).expect("the line");
    let kept = MOST_LINE / 3 * 3;
    assert_eq!(line.len(), kept);
    let left_out = bytes - MOST_LINE / 3;
    assert!(out.contains(&format!("its first {kept} bytes are above, {left_out} bytes are left out here")));
}

/// A host that takes no log from this call on, with a run that prints much.
fn deaf(mode: Mode, from: usize) -> Scenario {
    let mut script = success_over(Duration::from_secs(3600));
    script.lines.splice(1..1, (0..200).map(|n| (Duration::from_secs(1), format!("{n}").repeat(3000))));
    Scenario::new(mode).script(script).host(FakeHost { log_hangs_from: Some(from), ..FakeHost::default() })
}

/// After how many calls the host takes nothing: none, some of the start, all of it.
const DEAF_FROM: [usize; 3] = [0, 3, 12];

in_both_modes!(cancel_gets_through_a_host_that_takes_no_log);
async fn cancel_gets_through_a_host_that_takes_no_log(mode: Mode) {
    for from in DEAF_FROM {
        let scenario = deaf(mode, from);
        let cancel = scenario.cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(200)).await;
            cancel.cancel();
        });
        let (result, took) = scenario.timed_run().await;
        assert_eq!(result["resultJson"]["executionCancellation"]["state"], "acknowledged", "{result}");
        assert!(took < Duration::from_secs(200) + 3 * timing::LOG_STALL_LIMIT, "{from}: {took:?}");
        assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
    }
}

in_both_modes!(control_plane_cancels_under_a_host_that_takes_no_log);
async fn control_plane_cancels_under_a_host_that_takes_no_log(mode: Mode) {
    for from in DEAF_FROM {
        let scenario = deaf(mode, from);
        let status = |status: &str| StatusAnswer::Status(Some(status.to_owned()));
        scenario.host.statuses.lock().expect("statuses").extend([status("running"), status("cancelled")]);
        let (result, took) = scenario.timed_run().await;
        assert_eq!(result["errorCode"], "cancelled", "{result}");
        assert!(took < Duration::from_secs(300), "{from}: {took:?}");
        assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
    }
}

in_both_modes!(time_limit_gets_through_a_host_that_takes_no_log);
async fn time_limit_gets_through_a_host_that_takes_no_log(mode: Mode) {
    for from in DEAF_FROM {
        let scenario = deaf(mode, from).config(json!({"timeoutSec": 300, "graceSec": 10}));
        let (result, took) = scenario.timed_run().await;
        assert_eq!(result["errorCode"], "timeout", "{result}");
        let most = Duration::from_secs(310) + timing::HOST_ANSWER_LIMIT + 3 * timing::LOG_STALL_LIMIT;
        assert!(took < most, "{from}: {took:?}");
        assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
    }
}

in_both_modes!(run_ends_by_itself_under_a_host_that_takes_no_log);
async fn run_ends_by_itself_under_a_host_that_takes_no_log(mode: Mode) {
    for from in DEAF_FROM {
        let scenario = deaf(mode, from);
        let (result, took) = scenario.timed_run().await;
        assert_eq!(
            result["errorMessage"],
            Value::Null,
            "the result does not depend on who reads it: {result}"
        );
        assert!(took < Duration::from_secs(3600) + 4 * timing::HOST_ANSWER_LIMIT, "{from}: {took:?}");
        assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
    }
}

in_both_modes!(host_that_takes_no_log_holds_sixteen_mib_at_most);
async fn host_that_takes_no_log_holds_sixteen_mib_at_most(mode: Mode) {
    let mut script = success_over(Duration::from_secs(3600));
    let line = "x".repeat(4 << 20);
    script.lines.splice(1..1, (0..10).map(|n| (Duration::from_secs(1 + n), line.clone())));
    let host = FakeHost { log_hangs_from: Some(0), ..FakeHost::default() };
    let scenario = Scenario::new(mode).script(script).host(host);
    let (cluster, cancel) = (scenario.cluster.clone(), scenario.cancel.clone());
    let read = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(400)).await;
        let read = cluster.lines_read();
        cancel.cancel();
        read
    });
    scenario.run().await;
    let read = read.await.expect("no panic");
    // The first is short. One more than four of 4 MiB is read, and waits for its place; the log itself may hold another.
    assert!((2..=7).contains(&read), "{read} lines of 4 MiB were read");
}

in_both_modes!(slow_host_gets_every_line);
async fn slow_host_gets_every_line(mode: Mode) {
    let mut script = success_over(Duration::from_secs(20));
    script.lines.splice(1..1, (0..40).map(|n| (Duration::from_secs(1), format!("{n} {}", "y".repeat(8000)))));
    let expected: Vec<String> = script.lines.iter().map(|(_, line)| line.clone()).collect();
    let host = FakeHost { log_delay: Duration::from_secs(60), ..FakeHost::default() };
    let scenario = Scenario::new(mode).script(script).host(host);
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    assert!(scenario.host.agent_lines() == expected);
}

/// What comes of a run whose host shuts down after this time, and how long the shutdown takes.
async fn shut_down(scenario: &Scenario, after: Duration) -> (Value, Duration) {
    let (request, cancel) = (scenario.request(), scenario.cancel.clone());
    let run = scenario.runner.execute(&request, scenario.host.clone(), cancel, None);
    let shutdown = async {
        tokio::time::sleep(after).await;
        let began = Instant::now();
        scenario.runner.shutdown().await;
        began.elapsed()
    };
    let (outcome, took) = tokio::join!(run, shutdown);
    (outcome.to_json(jiff::Timestamp::now()), took)
}

in_both_modes!(shutdown_gets_through_a_host_that_never_answers);
async fn shutdown_gets_through_a_host_that_never_answers(mode: Mode) {
    for call in [HostCall::Prepare, HostCall::Meta, HostCall::Event] {
        let host = FakeHost { fails: Some((call, Failing::Hangs)), ..FakeHost::default() };
        let scenario = Scenario::new(mode).host(host);
        let (result, took) = shut_down(&scenario, Duration::from_secs(5)).await;
        assert_eq!(result["errorCode"], "k8s_host_shutdown", "{call:?}: {result}");
        assert!(took < Duration::from_secs(1), "{call:?}: {took:?}");
        assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
    }
    let scenario = deaf(mode, 0);
    let (_, took) = shut_down(&scenario, Duration::from_secs(200)).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
}

in_both_modes!(shutdown_is_over_in_time_when_the_api_swallows_everything);
async fn shutdown_is_over_in_time_when_the_api_swallows_everything(mode: Mode) {
    // While the Job runs, and while it is being created.
    for after in [Duration::from_secs(60), Duration::from_secs(2)] {
        let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(600)));
        let cluster = scenario.cluster.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after.saturating_sub(Duration::from_millis(1500))).await;
            cluster.delay_answers(Duration::from_secs(3600));
        });
        let shutdown = async {
            tokio::time::sleep(after).await;
            let began = Instant::now();
            scenario.runner.shutdown().await;
            began.elapsed()
        };
        let request = scenario.request();
        let run = scenario.runner.execute(&request, scenario.host.clone(), scenario.cancel.clone(), None);
        let took = tokio::select! {
            _ = run => panic!("the API answers nothing"),
            took = shutdown => took,
        };
        assert!(took <= timing::SHUTDOWN_LIMIT, "{took:?}");
    }
}

in_both_modes!(shutdown_is_over_in_time_at_every_stage);
async fn shutdown_is_over_in_time_at_every_stage(mode: Mode) {
    // Each request takes two seconds. From one of them on the API does not answer; a second later the host is asked to end.
    for stage in 0..14 {
        let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(600)));
        scenario.cluster.delay_answers(Duration::from_secs(2));
        let (request, host) = (scenario.request(), scenario.host.clone());
        let (runner, cancel) = (scenario.runner.clone(), scenario.cancel.clone());
        let running = tokio::spawn(async move { runner.execute(&request, host, cancel, None).await });
        tokio::time::sleep(Duration::from_secs(2 * stage)).await;
        scenario.cluster.delay_answers(Duration::from_secs(3600));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        scenario.runner.shutdown().await;
        let took = began.elapsed();
        assert!(took <= timing::SHUTDOWN_LIMIT, "stage {stage}: {took:?}");
        running.abort();
    }
}
