//! Two things at once.

use super::fake_cluster::LogFault;
use super::starting::put_orphan;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn cancel_at(scenario: &Scenario, at: Duration) {
    let cancel = scenario.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(at).await;
        cancel.cancel();
    });
}

fn suspended(is: bool) -> Value {
    let status = if is { "True" } else { "False" };
    let condition =
        json!({"type": "Suspended", "status": status, "reason": "JobSuspended", "message": "Job suspended"});
    json!({"spec": {"suspend": is}, "status": {"conditions": [condition]}})
}

fn is_acknowledged(result: &Value) -> bool {
    result["resultJson"]["executionCancellation"]["state"] == "acknowledged"
}

in_both_modes!(reattached_log_that_breaks_and_repeats_has_each_line_once);
async fn reattached_log_that_breaks_and_repeats_has_each_line_once(mode: Mode) {
    let scenario = Scenario::new(mode);
    put_orphan(&scenario, success_over(60 * SECOND));
    scenario.cluster.fault_logs([LogFault::Cut(900), LogFault::SentAgain(4, 1), LogFault::Cut(1700)]);
    tokio::time::sleep(30 * SECOND).await;
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
}

in_both_modes!(cancel_of_a_reattached_run_ends_the_orphan);
async fn cancel_of_a_reattached_run_ends_the_orphan(mode: Mode) {
    let scenario = Scenario::new(mode);
    put_orphan(&scenario, success_over(600 * SECOND));
    cancel_at(&scenario, 20 * SECOND);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "cancelled", "{result}");
    assert!(is_acknowledged(&result), "{result}");
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(orphan_in_a_queue_is_waited_for);
async fn orphan_in_a_queue_is_waited_for(mode: Mode) {
    let scenario = Scenario::new(mode);
    let script = Script {
        job_states: vec![(Duration::ZERO, suspended(true)), (300 * SECOND, suspended(false))],
        pod_at: 301 * SECOND,
        start_at: 305 * SECOND,
        ..success_over(10 * SECOND)
    };
    put_orphan(&scenario, script);
    tokio::time::sleep(100 * SECOND).await;
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.cluster.count("create job"), 0);
}

// "Retaining job" was said of a Job that the run itself or another client had deleted.
in_both_modes!(job_that_is_gone_is_not_said_to_be_retained);
async fn job_that_is_gone_is_not_said_to_be_retained(mode: Mode) {
    for cancelled in [true, false] {
        let mut script = success_over(600 * SECOND);
        script.job_deleted_at = (!cancelled).then_some(60 * SECOND);
        let scenario = Scenario::new(mode).script(script).config(json!({"retainJobs": true}));
        if cancelled {
            cancel_at(&scenario, 20 * SECOND);
        }
        let result = scenario.run().await;
        assert!(!result["errorMessage"].is_null());
        assert!(scenario.cluster.remaining().is_empty());
        assert!(!scenario.host.out().contains("Retaining job"), "{}", scenario.host.out());
    }
}

// The Events of a Job were read once, when its queue had just let it go, and then not before the run gave up.
in_both_modes!(pod_refused_after_a_queue_or_late_is_said_at_once);
async fn pod_refused_after_a_queue_or_late_is_said_at_once(mode: Mode) {
    let why = "Error creating: pods \"x\" is forbidden: exceeded quota: compute";
    for (queued, refused) in [(300, 301), (0, 15)] {
        let states = vec![(Duration::ZERO, suspended(true)), (queued * SECOND, suspended(false))];
        let script = Script {
            job_states: if queued > 0 { states } else { Vec::new() },
            pod_at: 3600 * 24 * SECOND,
            start_at: 3601 * 24 * SECOND,
            job_events: vec![(refused * SECOND, "FailedCreate", why)],
            ..success_over(10 * SECOND)
        };
        let scenario = Scenario::new(mode).script(script);
        let (result, took) = scenario.timed_run().await;
        assert_eq!(result["resultJson"]["k8s"]["cause"], "pod_quota_exceeded", "{result}");
        let logged = format!("[paperclip] Job ac-agent-1-run-1-0ec508: No pod was created: {why}");
        assert!(scenario.host.err().contains(&logged), "{}", scenario.host.err());
        let after = took.as_secs() - u64::from(queued);
        assert!((60..110).contains(&after), "{took:?}");
    }
}

in_both_modes!(cancel_while_the_api_is_away_is_not_acknowledged);
async fn cancel_while_the_api_is_away_is_not_acknowledged(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(3600 * SECOND));
    scenario.cluster.make_unreachable(10 * SECOND, 290 * SECOND);
    cancel_at(&scenario, 20 * SECOND);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "cancelled", "{result}");
    assert!(!is_acknowledged(&result) && result.get("executionRecovery").is_none(), "{result}");
    let err = scenario.host.err();
    assert!(err.contains("could not be deleted: request to memory:0 failed"), "{err}");
}

in_both_modes!(time_limit_while_the_api_is_away_ends_the_run);
async fn time_limit_while_the_api_is_away_ends_the_run(mode: Mode) {
    let config = json!({"timeoutSec": 100, "graceSec": 5});
    let scenario = Scenario::new(mode).script(success_over(3600 * SECOND)).config(config);
    scenario.cluster.make_unreachable(50 * SECOND, 350 * SECOND);
    let (result, took) = scenario.timed_run().await;
    assert_eq!((&result["errorCode"], &result["timedOut"]), (&json!("timeout"), &json!(true)), "{result}");
    assert!(took < 260 * SECOND, "{took:?}");
    assert!(scenario.host.err().contains("could not be deleted"), "{}", scenario.host.err());
}
