//! What the shared watches are for: reacting at once, asking for little, and losing nothing when they fail.

use super::memory::WatchFault;
use super::*;
use crate::cluster::WatchKind;

const BOTH: [WatchKind; 2] = [WatchKind::Jobs, WatchKind::Pods];

fn assert_success(scene: &Scene, result: &Value) {
    assert_eq!(result["errorMessage"], Value::Null, "{result}\n{}", scene.ear.out());
    assert_eq!(scene.ear.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
    assert!(scene.cluster.left().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_healthy_run_asks_for_little_whatever_its_length() {
    for length in [5, 500] {
        let scene = Scene::new(Mode::Watched).script(success_over(Duration::from_secs(length)));
        let result = scene.run().await;
        assert_success(&scene, &result);
        assert_eq!(
            scene.cluster.own_requests(),
            ["get pod", "create claim", "list jobs", "create job", "delete claim", "open log", "delete job"],
            "nothing is looked at that a watch shows"
        );
        if length < 60 {
            assert_eq!(scene.cluster.count("watch jobs") + scene.cluster.count("watch pods"), 2);
            assert_eq!(scene.cluster.count("list for jobs") + scene.cluster.count("list for pods"), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_step_is_acted_on_at_once() {
    // Odd times, so that no timer happens to fire at the same moment.
    let script = Script {
        pod_at: Duration::from_millis(517),
        start_at: Duration::from_millis(3_331),
        condition_lag: Some(Duration::from_millis(773)),
        ..success_over(Duration::from_millis(8_059))
    };
    let condition = script.start_at + script.ends_after + Duration::from_millis(773);
    let started = Instant::now();
    let scene = Scene::new(Mode::Watched).script(script);
    let (result, took) = scene.timed_run().await.expect("resolves");
    assert_success(&scene, &result);
    assert!(took >= condition && took < condition + Duration::from_millis(50), "{took:?} for {condition:?}");
    let told = scene.ear.told.lock().expect("told");
    let told_at = |line: &str| {
        let (.., at) = told.iter().find(|(_, text, _)| text.contains(line)).expect("told");
        at.duration_since(started)
    };
    for (line, due) in [("phase=Pending", 517), ("[paperclip] Pod running: ", 3_331)] {
        let due = Duration::from_millis(due);
        let at = told_at(line);
        assert!(at >= due && at < due + Duration::from_millis(50), "{line} at {at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_runs_share_two_watches() {
    let scene = Scene::new(Mode::Watched);
    let runs = (0..50u64).map(|n| {
        scene.cluster.script(success_over(Duration::from_secs(5 + n)));
        let request = scene.request_of(&format!("agent-{n}"));
        let (runner, ear) = (scene.runner.clone(), Arc::new(Ear::default()));
        async move {
            let outcome = runner.execute(&request, ear.clone(), CancellationToken::new(), None).await;
            (outcome.expect("resolves").to_json(), ear.agent_lines())
        }
    });
    for (result, lines) in futures::future::join_all(runs).await {
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        assert_eq!(lines, SUCCESS.lines().collect::<Vec<_>>());
    }
    assert_eq!((scene.cluster.count("watch jobs"), scene.cluster.count("watch pods")), (1, 1));
    assert_eq!((scene.cluster.count("get job"), scene.cluster.count("list pods")), (0, 0));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(scene.cluster.watches_open(), 0);
}

#[tokio::test(start_paused = true)]
async fn runs_that_start_together_read_their_own_pod_once() {
    let refused = || Fault::Answer(403, "forbidden for now");
    // After a failure each reads for itself.
    for (faults, reads, failed) in [(vec![], 1, 0), (vec![refused()], 10, 1)] {
        let scene = Scene::new(Mode::Watched);
        scene.cluster.slow(Duration::from_millis(100)).fault("get pod", faults);
        let runs = (0..10u64).map(|n| {
            scene.cluster.script(success_over(Duration::from_secs(5)));
            let request = scene.request_of(&format!("agent-{n}"));
            let (runner, ear) = (scene.runner.clone(), Arc::new(Ear::default()));
            async move { runner.execute(&request, ear, CancellationToken::new(), None).await }
        });
        let ended = futures::future::join_all(runs).await;
        assert_eq!(ended.iter().filter(|end| end.is_err()).count(), failed);
        assert_eq!(scene.cluster.count("get pod"), reads);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_comes_with_the_last_object_of_the_pod() {
    for (code, error) in [(143, "k8s_job_deleted_externally"), (3, "claude_truncated")] {
        let scene = Scene::new(Mode::Watched).script(Script {
            job_deleted_at: Some(Duration::from_millis(20_127)),
            killed_with: Some(code),
            ..success_over(Duration::from_secs(60))
        });
        let (result, took) = scene.timed_run().await.expect("resolves");
        assert_eq!(result["errorCode"], error, "{result}");
        assert_eq!(result["exitCode"], code, "known although the pod is gone");
        assert!(took < Duration::from_millis(20_127 + 50), "{took:?}");
        assert_eq!(scene.cluster.count("get job") + scene.cluster.count("list pods"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_too_old_costs_a_list_and_nothing_else() {
    let scene = Scene::new(Mode::Watched).script(success_over(Duration::from_secs(60)));
    for kind in BOTH {
        scene.cluster.fault_watch(kind, [1, 7, 20].map(|at| WatchFault::Expires(Duration::from_secs(at))));
    }
    scene.cluster.fault("watch jobs", [Fault::Answer(410, "too old")]);
    let result = scene.run().await;
    assert_success(&scene, &result);
    assert_eq!(scene.cluster.count("list for pods"), 3);
    assert_eq!(scene.cluster.count("list for jobs"), 4);
    assert_eq!(scene.cluster.count("get job"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_vanished_while_no_watch_was_open_is_found_by_the_next_list() {
    let scene = Scene::new(Mode::Watched).script(Script {
        job_deleted_at: Some(Duration::from_millis(20_050)),
        ..success_over(Duration::from_secs(60))
    });
    for kind in BOTH {
        // The pause before a watch is opened again is longer than 100 ms.
        scene.cluster.fault_watch(kind, [WatchFault::Expires(Duration::from_secs(20))]);
    }
    let (result, took) = scene.timed_run().await.expect("resolves");
    assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("detected_via=watch-deleted"), "{message}");
    assert!(took < Duration::from_secs(24), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn watches_that_break_are_opened_again_and_meanwhile_there_are_polls() {
    let down = |times| vec![Fault::Answer(503, "overloaded"); times];
    for times in [0, 1, 6, 40] {
        let scene = Scene::new(Mode::Watched).script(success_over(Duration::from_secs(60)));
        for (kind, request) in [(WatchKind::Jobs, "watch jobs"), (WatchKind::Pods, "watch pods")] {
            scene.cluster.fault_watch(kind, [WatchFault::Breaks(Duration::from_secs(5))]);
            scene.cluster.fault(request, down(times));
        }
        let result = scene.run().await;
        assert_success(&scene, &result);
        let polls = scene.cluster.count("get job") + scene.cluster.count("list pods");
        assert_eq!(polls == 0, times == 0, "{polls} polls while the watch was refused {times} times");
        assert!(polls <= 40, "{polls}: no more than every 2 s");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_nobody_can_read_hides_no_other() {
    for garbage in [
        r#"{"type":"MODIFIED","object":{"metadata":{"name":7,"labels":"none","resourceVersion":{}},"spec":"x"}}"#,
        r#"{"type":"ADDED","object":{"metadata":{"na"#,
        "<html>bad gateway</html>",
    ] {
        let scene = Scene::new(Mode::Watched).script(success_over(Duration::from_secs(30)));
        for kind in BOTH {
            scene.cluster.fault_watch(kind, [WatchFault::Garbage(garbage)]);
        }
        let result = scene.run().await;
        assert_success(&scene, &result);
        assert_eq!((scene.cluster.count("watch jobs"), scene.cluster.count("watch pods")), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_falls_silent_costs_time_and_nothing_else() {
    for (quiet, jobs_at, pods_at) in [("jobs", 5, 3600), ("pods", 3600, 5), ("both", 5, 5), ("both", 0, 0)] {
        let scene = Scene::new(Mode::Watched).script(success_over(Duration::from_secs(30)));
        let silent = |at| [WatchFault::Silent(Duration::from_secs(at))];
        scene.cluster.fault_watch(WatchKind::Jobs, silent(jobs_at));
        scene.cluster.fault_watch(WatchKind::Pods, silent(pods_at));
        let (result, took) = scene.timed_run().await.expect("resolves");
        assert_success(&scene, &result);
        // The container's end is noticed at the log's; the Job's, where nobody tells it, after the grace period.
        assert!(took <= Duration::from_secs(34 + 30 + 1), "{quiet}: {took:?}");
        assert!(!scene.ear.out().contains("still present"), "{}", scene.ear.out());
    }
    // A deletion is what only the watch can tell: it is noticed once the silence is too long.
    let scene = Scene::new(Mode::Watched).script(Script {
        job_deleted_at: Some(Duration::from_secs(60)),
        ..success_over(Duration::from_secs(3600))
    });
    for kind in BOTH {
        scene.cluster.fault_watch(kind, [WatchFault::Silent(Duration::from_secs(5))]);
    }
    let (result, took) = scene.timed_run().await.expect("resolves");
    assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
    assert!(took < Duration::from_secs(5 + 180 + 30 + 10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_once_and_tried_again_after_a_while() {
    let scene = Scene::new(Mode::Polled);
    let refusals = || scene.ear.out().matches("[paperclip] Watching Jobs and Pods is not permitted").count();
    let asked = || scene.cluster.count("watch jobs") + scene.cluster.count("watch pods");
    for n in 1..=3 {
        scene.cluster.script(success_over(Duration::from_secs(5)));
        let request = scene.request();
        let outcome = scene.runner.execute(&request, scene.ear.clone(), scene.cancel.clone(), None).await;
        assert_eq!(outcome.expect("resolves").to_json()["errorMessage"], Value::Null);
        assert_eq!((refusals(), asked()), (1, 1), "run {n}");
    }
    assert!(scene.ear.out().contains(
        "[paperclip] Watching Jobs and Pods is not permitted in namespace paperclip — polling every 2s instead \
         (grant the watch verb to react at once)\n"
    ));
    tokio::time::sleep(Duration::from_secs(600)).await;
    scene.cluster.script(success_over(Duration::from_secs(5)));
    scene.run().await;
    assert_eq!((refusals(), asked()), (1, 2), "told once, tried again");
}

#[tokio::test(start_paused = true)]
async fn where_nobody_may_watch_the_rounds_are_those_of_the_contract() {
    let scene = Scene::new(Mode::Polled).script(success_over(Duration::from_secs(10)));
    let result = scene.run().await;
    assert_success(&scene, &result);
    // Until the pod runs at 3 s: looks at 0, 2 and 4 s. Its container ends at 13 s, with its log; the Job is read
    // from 4 s on every 2 s until its condition of 14 s is seen.
    let rounds = (scene.cluster.count("list pods"), scene.cluster.count("get job"));
    assert_eq!(rounds, (3 + 1, 6));
    assert_eq!(scene.cluster.count("open log"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_came_and_went_behind_half_open_watches_is_not_waited_for() {
    let script =
        Script { job_deleted_at: Some(Duration::from_secs(5)), ..success_over(Duration::from_secs(1)) };
    let scene = Scene::new(Mode::Watched).script(script);
    for kind in BOTH {
        scene.cluster.fault_watch(kind, vec![WatchFault::Silent(Duration::ZERO); 8]);
    }
    let (result, took) = scene.timed_run().await.expect("resolves");
    assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
    assert!(took < Duration::from_secs(40), "{took:?}");

    // One that has ended but is still there has a log.
    let scene = Scene::new(Mode::Watched).script(success_over(Duration::from_secs(1)));
    for kind in BOTH {
        scene.cluster.fault_watch(kind, vec![WatchFault::Silent(Duration::ZERO); 8]);
    }
    let result = scene.run().await;
    assert_success(&scene, &result);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_that_nobody_saw_ending_is_told_as_deleted_although_the_job_has_another_one() {
    let scene = Scene::new(Mode::Watched).script(replaced_pod(Duration::ZERO));
    tells_of_the_deleted_pod(&scene.run().await, None);
}

#[tokio::test(start_paused = true)]
async fn who_ended_the_pod_is_told_also_when_only_a_read_showed_it() {
    let script = Script {
        ends_after: Duration::from_secs(40),
        exit_code: 143,
        reason: "Error",
        pod_deleting_at: Some(Duration::from_secs(30)),
        ..success_over(Duration::from_secs(3600))
    };
    let scene = Scene::new(Mode::Watched).script(script);
    // The watch shows the pod running, and then nothing any more.
    let breaks = std::iter::repeat_n(WatchFault::Breaks(Duration::ZERO), 500);
    let faults = std::iter::once(WatchFault::Breaks(Duration::from_secs(10))).chain(breaks);
    scene.cluster.fault_watch(WatchKind::Pods, faults);
    let result = scene.run().await;
    assert_eq!(result["exitCode"], 143, "{result}");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("the pod was deleted by an unknown API client"), "{message}");
}
