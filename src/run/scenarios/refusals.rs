//! A server that refuses what it permitted before: one that has just started does not know all Roles yet.

use super::fake_cluster::WatchFault;
use super::*;
use crate::cluster::WatchKind;

/// The authorizer's words.
fn refused(times: usize) -> Vec<Fault> {
    let text = r#"jobs.batch is forbidden: User "u" cannot do this to resource "jobs" in API group "batch""#;
    vec![Fault::Answer(403, text); times]
}

/// Plays a run to its success, in which it logs no warning.
async fn succeeds_quietly(scenario: &Scenario, what: &str) {
    scenario.cluster.script(success_over(Duration::from_secs(5)));
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{what}: {result}");
    assert_eq!(scenario.host.err(), "", "{what}");
    assert!(scenario.cluster.remaining().is_empty(), "{what}");
}

in_both_modes!(job_whose_deletion_is_refused_for_a_moment_is_deleted);
async fn job_whose_deletion_is_refused_for_a_moment_is_deleted(mode: Mode) {
    for refusal in [refused(4), vec![Fault::Answer(403, "an admission policy says no"); 4]] {
        // Deletions were not asked for before in this process: they are repeated all the same.
        let scenario = Scenario::new(mode);
        scenario.cluster.fault("delete job", refusal.clone()).fault("delete claim", refusal);
        succeeds_quietly(&scenario, "deletions").await;
    }
}

in_both_modes!(refusal_of_what_was_permitted_before_is_repeated);
async fn refusal_of_what_was_permitted_before_is_repeated(mode: Mode) {
    for what in ["create claim", "list jobs", "list agent pods", "create job", "create secret", "open log"] {
        let scenario = Scenario::new(mode);
        succeeds_quietly(&scenario, what).await;
        let before = scenario.cluster.count(what);
        scenario.cluster.fault(what, refused(3));
        succeeds_quietly(&scenario, what).await;
        assert!(scenario.cluster.count(what) >= before + 4, "{what}");
    }
}

in_both_modes!(refusal_right_after_an_outage_is_repeated);
async fn refusal_right_after_an_outage_is_repeated(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario
        .cluster
        .fault("create claim", [Fault::Answer(503, "starting")])
        .fault("create claim", refused(2));
    scenario.cluster.fault("list jobs", refused(2));
    succeeds_quietly(&scenario, "after an outage").await;
    assert_eq!((scenario.cluster.count("create claim"), scenario.cluster.count("delete claim")), (4, 1));
}

in_both_modes!(refusal_that_lasts_is_final_and_says_how_long);
async fn refusal_that_lasts_is_final_and_says_how_long(mode: Mode) {
    let mut scenario = Scenario::new(mode);
    // Of what was not permitted before the first one is final.
    scenario.cluster.fault("list jobs", refused(1));
    let (result, took) = scenario.timed_run().await;
    assert_eq!(result["errorCode"], "k8s_concurrency_guard_unreachable", "{result}");
    assert!(!message_of(&result).contains("refused for"), "{result}");
    assert_eq!((took, scenario.cluster.count("list jobs")), (Duration::ZERO, 1));

    scenario.host = Arc::default();
    succeeds_quietly(&scenario, "permitted").await;
    scenario.cluster.fault("list jobs", refused(1_000));
    let (result, took) = scenario.timed_run().await;
    assert_eq!(result["errorCode"], "k8s_concurrency_guard_unreachable", "{result}");
    assert!(message_of(&result).contains(r#"API group "batch" (refused for "#), "{result}");
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn watch_refused_by_a_restarted_server_is_opened_again() {
    let scenario = Scenario::new(Mode::Watched).script(success_over(Duration::from_secs(60)));
    for (kind, watch) in [(WatchKind::Jobs, "watch jobs"), (WatchKind::Pods, "watch pods")] {
        scenario.cluster.fault_watch(kind, [WatchFault::Breaks(Duration::from_secs(10))]);
        scenario.cluster.fault(watch, [Fault::Pass]).fault(watch, refused(2));
    }
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.host.err(), "", "not taken for a Role without the verb");
    for watch in ["watch jobs", "watch pods"] {
        assert_eq!(scenario.cluster.count(watch), 4);
    }
}
