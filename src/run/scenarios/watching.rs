//! What the shared watches are for: reacting at once, making few requests, and losing nothing when they fail.

use super::fake_cluster::WatchFault;
use super::*;
use crate::cluster::WatchKind;
use crate::outcome::ErrorCode;

const BOTH: [WatchKind; 2] = [WatchKind::Jobs, WatchKind::Pods];

fn assert_success(scenario: &Scenario, result: &Value) {
    assert_eq!(result["errorMessage"], Value::Null, "{result}\n{}", scenario.host.out());
    assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
    assert!(scenario.cluster.remaining().is_empty());
}

#[tokio::test(start_paused = true)]
async fn healthy_watched_run_makes_seven_requests() {
    for length in [5, 500] {
        let scenario = Scenario::new(Mode::Watched).script(success_over(Duration::from_secs(length)));
        let result = scenario.run().await;
        assert_success(&scenario, &result);
        assert_eq!(
            scenario.cluster.run_requests(),
            [
                "get pod",
                "create claim",
                "list jobs",
                "list agent pods",
                "create job",
                "create secret",
                "delete claim",
                "open log",
                "delete job"
            ],
            "nothing is read that a watch shows"
        );
        let uncounted = ["get pod", "open log"];
        let made = scenario.cluster.run_requests();
        let counted = made.iter().filter(|made| !uncounted.contains(&made.as_str())).count();
        assert_eq!(counted, 7, "beside the log, and the own pod, which is read once in ten minutes");
        if length < 60 {
            assert_eq!(scenario.cluster.count("watch jobs") + scenario.cluster.count("watch pods"), 2);
            assert_eq!(scenario.cluster.count("list for jobs") + scenario.cluster.count("list for pods"), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn job_is_created_after_three_round_trips() {
    let scenario = Scenario::new(Mode::Watched);
    scenario.cluster.delay_answers(Duration::from_secs(1));
    // The first run of a process reads the own pod, too.
    for first in [&["get pod"][..], &[]] {
        scenario.cluster.script(success_over(Duration::from_secs(5)));
        let (began, before) = (Instant::now(), scenario.cluster.run_requests().len());
        let (request, cancel) = (scenario.request(), scenario.cancel.clone());
        let (runner, host) = (scenario.runner.clone(), scenario.host.clone());
        let run = tokio::spawn(async move { runner.execute(&request, host, cancel, None).await });
        let created = scenario.cluster.count("create job");
        while scenario.cluster.count("create job") == created {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let trips = [first, &["create claim", "list jobs", "list agent pods"]].concat();
        let made = scenario.cluster.run_requests();
        assert_eq!(made[before..made.len() - 1], trips, "and then the Job");
        assert_eq!(began.elapsed().as_secs(), trips.len() as u64, "one after the other");
        assert_eq!(run.await.expect("no panic").error_code(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn watched_changes_are_acted_on_at_once() {
    // Odd times, so that no timer fires at the same moment by chance.
    let script = Script {
        pod_at: Duration::from_millis(517),
        start_at: Duration::from_millis(3_331),
        ..success_over(Duration::from_millis(8_059))
    };
    let ended = script.start_at + script.ends_after;
    let started = Instant::now();
    let scenario = Scenario::new(Mode::Watched).script(script);
    let (result, took) = scenario.timed_run().await;
    assert_success(&scenario, &result);
    assert!(took >= ended && took < ended + Duration::from_millis(50), "{took:?} for {ended:?}");
    let logged = scenario.host.logged.lock().expect("logged");
    let logged_at = |line: &str| {
        let (.., at) = logged.iter().find(|(_, text, _)| text.contains(line)).expect("logged");
        at.duration_since(started)
    };
    for (line, due) in [("phase=Pending", 517), ("[paperclip] Pod running: ", 3_331)] {
        let due = Duration::from_millis(due);
        let at = logged_at(line);
        assert!(at >= due && at < due + Duration::from_millis(50), "{line} at {at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_runs_share_two_watches() {
    let scenario = Scenario::new(Mode::Watched);
    let runs = (0..50u64).map(|n| {
        scenario.cluster.script(success_over(Duration::from_secs(5 + n)));
        let request = scenario.request_of(&format!("agent-{n}"));
        let (runner, host) = (scenario.runner.clone(), Arc::new(FakeHost::default()));
        async move {
            let outcome = runner.execute(&request, host.clone(), CancellationToken::new(), None).await;
            (outcome.to_json(jiff::Timestamp::now()), host.agent_lines())
        }
    });
    for (result, lines) in futures::future::join_all(runs).await {
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        assert_eq!(lines, SUCCESS.lines().collect::<Vec<_>>());
    }
    assert_eq!((scenario.cluster.count("watch jobs"), scenario.cluster.count("watch pods")), (1, 1));
    assert_eq!((scenario.cluster.count("get job"), scenario.cluster.count("list pods")), (0, 0));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(scenario.cluster.watches_open(), 0);
}

#[tokio::test(start_paused = true)]
async fn concurrent_runs_read_their_own_pod_once() {
    let refused = || Fault::Answer(403, "forbidden for now");
    // After a failed shared read each run reads for itself.
    for (faults, reads, failed) in [(vec![], 1, 0), (vec![refused()], 10, 1)] {
        let scenario = Scenario::new(Mode::Watched);
        scenario.cluster.delay_answers(Duration::from_millis(100)).fault("get pod", faults);
        let runs = (0..10u64).map(|n| {
            scenario.cluster.script(success_over(Duration::from_secs(5)));
            let request = scenario.request_of(&format!("agent-{n}"));
            let (runner, host) = (scenario.runner.clone(), Arc::new(FakeHost::default()));
            async move { runner.execute(&request, host, CancellationToken::new(), None).await }
        });
        let ended = futures::future::join_all(runs).await;
        let unreachable = ended.iter().filter(|end| end.error_code() == Some(ErrorCode::ApiUnreachable));
        assert_eq!(unreachable.count(), failed);
        assert_eq!(scenario.cluster.count("get pod"), reads);
    }
}

#[tokio::test(start_paused = true)]
async fn deletion_event_brings_the_last_object_of_the_pod() {
    for (code, error) in [(143, "k8s_job_deleted_externally"), (3, "claude_truncated")] {
        let scenario = Scenario::new(Mode::Watched).script(Script {
            job_deleted_at: Some(Duration::from_millis(20_127)),
            killed_with: Some(code),
            ..success_over(Duration::from_secs(60))
        });
        let (result, took) = scenario.timed_run().await;
        assert_eq!(result["errorCode"], error, "{result}");
        assert_eq!(result["exitCode"], code, "the exit code is known although the pod is gone");
        assert!(took < Duration::from_millis(20_127 + 50), "{took:?}");
        assert_eq!(scenario.cluster.count("list pods"), 0);
        assert_eq!(scenario.cluster.count("get job"), 1, "whether it is gone, or has lost its labels");
    }
}

#[tokio::test(start_paused = true)]
async fn expired_watch_version_costs_one_list() {
    let scenario = Scenario::new(Mode::Watched).script(success_over(Duration::from_secs(60)));
    for kind in BOTH {
        scenario.cluster.fault_watch(kind, [1, 7, 20].map(|at| WatchFault::Expires(Duration::from_secs(at))));
    }
    scenario.cluster.fault("watch jobs", [Fault::Answer(410, "too old")]);
    let result = scenario.run().await;
    assert_success(&scenario, &result);
    assert_eq!(scenario.cluster.count("list for pods"), 3);
    assert_eq!(scenario.cluster.count("list for jobs"), 4);
    assert_eq!(scenario.cluster.count("get job"), 0);
}

#[tokio::test(start_paused = true)]
async fn deletion_while_no_watch_is_open_is_found_by_the_list() {
    let scenario = Scenario::new(Mode::Watched).script(Script {
        job_deleted_at: Some(Duration::from_millis(20_050)),
        ..success_over(Duration::from_secs(60))
    });
    for kind in BOTH {
        // The pause before a watch is opened again is longer than 100 ms.
        scenario.cluster.fault_watch(kind, [WatchFault::Expires(Duration::from_secs(20))]);
    }
    let (result, took) = scenario.timed_run().await;
    assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("detected_via=watch-deleted"), "{message}");
    assert!(took < Duration::from_secs(24), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn broken_watches_reopen_and_runs_poll_meanwhile() {
    let down = |times| vec![Fault::Answer(503, "overloaded"); times];
    for times in [0, 1, 6, 40] {
        let scenario = Scenario::new(Mode::Watched).script(success_over(Duration::from_secs(60)));
        for (kind, request) in [(WatchKind::Jobs, "watch jobs"), (WatchKind::Pods, "watch pods")] {
            scenario.cluster.fault_watch(kind, [WatchFault::Breaks(Duration::from_secs(5))]);
            scenario.cluster.fault(request, down(times));
        }
        let result = scenario.run().await;
        assert_success(&scenario, &result);
        let polls = scenario.cluster.count("get job") + scenario.cluster.count("list pods");
        assert_eq!(polls == 0, times == 0, "{polls} polls while the watch was refused {times} times");
        assert!(polls <= 40, "{polls}: no more than every 2 s");
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_object_does_not_hide_others() {
    for garbage in [
        r#"{"type":"MODIFIED","object":{"metadata":{"name":7,"labels":"none","resourceVersion":{}},"spec":"x"}}"#,
        r#"{"type":"ADDED","object":{"metadata":{"na"#,
        "<html>bad gateway</html>",
    ] {
        let scenario = Scenario::new(Mode::Watched).script(success_over(Duration::from_secs(30)));
        for kind in BOTH {
            scenario.cluster.fault_watch(kind, [WatchFault::Garbage(garbage)]);
        }
        let result = scenario.run().await;
        assert_success(&scenario, &result);
        assert_eq!((scenario.cluster.count("watch jobs"), scenario.cluster.count("watch pods")), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn silent_watch_only_costs_time() {
    for (quiet, jobs_at, pods_at) in [("jobs", 5, 3600), ("pods", 3600, 5), ("both", 5, 5), ("both", 0, 0)] {
        let scenario = Scenario::new(Mode::Watched).script(success_over(Duration::from_secs(30)));
        let silent = |at| [WatchFault::Silent(Duration::from_secs(at))];
        scenario.cluster.fault_watch(WatchKind::Jobs, silent(jobs_at));
        scenario.cluster.fault_watch(WatchKind::Pods, silent(pods_at));
        let (result, took) = scenario.timed_run().await;
        assert_success(&scenario, &result);
        // The log's end shows that of the container. The Job's end, which no watch reports, is read after the grace
        // period.
        assert!(took <= Duration::from_secs(34 + 30 + 1), "{quiet}: {took:?}");
        assert!(!scenario.host.out().contains("still present"), "{}", scenario.host.out());
    }
    // Only the watch shows a deletion: it is noticed once the watch has been silent for too long.
    let scenario = Scenario::new(Mode::Watched).script(Script {
        job_deleted_at: Some(Duration::from_secs(60)),
        ..success_over(Duration::from_secs(3600))
    });
    for kind in BOTH {
        scenario.cluster.fault_watch(kind, [WatchFault::Silent(Duration::from_secs(5))]);
    }
    let (result, took) = scenario.timed_run().await;
    assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
    assert!(took < Duration::from_secs(5 + 180 + 30 + 10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn watch_refusal_is_logged_once_and_retried_later() {
    let scenario = Scenario::new(Mode::Polled);
    let refusals =
        || scenario.host.out().matches("[paperclip] Watching Jobs and Pods is not permitted").count();
    let asked = || scenario.cluster.count("watch jobs") + scenario.cluster.count("watch pods");
    for n in 1..=3 {
        scenario.cluster.script(success_over(Duration::from_secs(5)));
        let request = scenario.request();
        let outcome =
            scenario.runner.execute(&request, scenario.host.clone(), scenario.cancel.clone(), None).await;
        assert_eq!(outcome.to_json(jiff::Timestamp::now())["errorMessage"], Value::Null);
        assert_eq!((refusals(), asked()), (1, 1), "run {n}");
    }
    assert!(scenario.host.out().contains(
        "[paperclip] Watching Jobs and Pods is not permitted in namespace paperclip — polling every 2s instead \
         (grant the watch verb to react at once)\n"
    ));
    tokio::time::sleep(Duration::from_secs(600)).await;
    scenario.cluster.script(success_over(Duration::from_secs(5)));
    scenario.run().await;
    assert_eq!((refusals(), asked()), (1, 2), "logged once, tried again");
}

#[tokio::test(start_paused = true)]
async fn without_watch_permission_polls_every_two_seconds() {
    let scenario = Scenario::new(Mode::Polled).script(success_over(Duration::from_secs(10)));
    let result = scenario.run().await;
    assert_success(&scenario, &result);
    // Until the pod runs at 3 s it is read at 0, 2 and 4 s. Its container ends at 13 s, with its log; the Job is read
    // from 4 s on every 2 s until then.
    let reads = (scenario.cluster.count("list pods"), scenario.cluster.count("get job"));
    assert_eq!(reads, (3 + 1, 5));
    assert_eq!(scenario.cluster.count("open log"), 1);
}

#[tokio::test(start_paused = true)]
async fn job_gone_behind_half_open_watches_is_not_waited_for() {
    let script =
        Script { job_deleted_at: Some(Duration::from_secs(5)), ..success_over(Duration::from_secs(1)) };
    let scenario = Scenario::new(Mode::Watched).script(script);
    for kind in BOTH {
        scenario.cluster.fault_watch(kind, vec![WatchFault::Silent(Duration::ZERO); 8]);
    }
    let (result, took) = scenario.timed_run().await;
    assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
    assert!(took < Duration::from_secs(40), "{took:?}");

    // A Job that has ended but is still there has a log.
    let scenario = Scenario::new(Mode::Watched).script(success_over(Duration::from_secs(1)));
    for kind in BOTH {
        scenario.cluster.fault_watch(kind, vec![WatchFault::Silent(Duration::ZERO); 8]);
    }
    let result = scenario.run().await;
    assert_success(&scenario, &result);
}

#[tokio::test(start_paused = true)]
async fn replaced_pod_whose_end_was_missed_counts_as_deleted() {
    let scenario = Scenario::new(Mode::Watched).script(replaced_pod(Duration::ZERO));
    assert_names_the_pod_deletion(&scenario.run().await, None);
}

#[tokio::test(start_paused = true)]
async fn pod_deletion_seen_only_by_a_read_is_reported() {
    let script = Script {
        ends_after: Duration::from_secs(40),
        exit_code: 143,
        reason: "Error",
        pod_deleting_at: Some(Duration::from_secs(30)),
        ..success_over(Duration::from_secs(3600))
    };
    let scenario = Scenario::new(Mode::Watched).script(script);
    // The watch shows the pod running, and then nothing more.
    let breaks = std::iter::repeat_n(WatchFault::Breaks(Duration::ZERO), 500);
    let faults = std::iter::once(WatchFault::Breaks(Duration::from_secs(10))).chain(breaks);
    scenario.cluster.fault_watch(WatchKind::Pods, faults);
    let result = scenario.run().await;
    assert_eq!(result["exitCode"], 143, "{result}");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("the pod was deleted by an unknown API client"), "{message}");
}
