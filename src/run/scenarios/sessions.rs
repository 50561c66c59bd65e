//! Which session a run resumes, and what becomes of a run that could not resume it.

use super::*;

const ID: &str = "52f5bda4-ae87-4cbd-980b-f530fbb3cf90";
const UNKNOWN: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tools/simulator/fixtures/claude-cli-2.1.197/unknown-session.jsonl"
));

/// A CLI that ends with this failure as its result.
fn fails_with(error: &str, output_tokens: u32) -> Script {
    let result = json!({"type": "result", "subtype": "error_during_execution", "is_error": true, "num_turns": 1,
        "session_id": ID, "usage": {"output_tokens": output_tokens}, "errors": [error]});
    fails(result.to_string())
}

fn fails(line: String) -> Script {
    Script {
        lines: vec![(Duration::from_millis(100), line)],
        ends_after: Duration::from_millis(300),
        exit_code: 1,
        reason: "Error",
        ..Script::default()
    }
}

fn lost() -> Script {
    fails(UNKNOWN.trim().to_owned())
}

fn resuming(mode: Mode) -> Scenario {
    Scenario { session_id: ID, ..Scenario::new(mode) }
}

in_both_modes!(broken_session_is_followed_by_a_new_one_in_the_run);
async fn broken_session_is_followed_by_a_new_one_in_the_run(mode: Mode) {
    let poisoned = "API Error: 400 messages.1: `tool_use` ids were found without `tool_result` blocks";
    for (first, reason) in [
        (lost(), "is not known to the CLI"),
        (fails_with(poisoned, 0), "is refused by the API"),
        (
            fails_with("API Error: 400 Could not process image", 0),
            "holds an image that the API cannot process",
        ),
    ] {
        let scenario = resuming(mode).script(first.clone()).script(success_over(Duration::from_secs(5)));
        let result = scenario.run().await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        assert_eq!((&result["sessionId"], &result["clearSession"]), (&json!(ID), &json!(false)));
        let expected: Vec<&str> =
            first.lines.iter().map(|(_, line)| line.as_str()).chain(SUCCESS.lines()).collect();
        assert_eq!(scenario.host.agent_lines(), expected, "both logs, in order");
        let said =
            format!("[paperclip] Claude session \"{ID}\" {reason} — starting again with a new session");
        assert_eq!(scenario.host.out().matches(&said).count(), 1, "{}", scenario.host.out());

        let jobs = scenario.cluster.run_jobs();
        assert_eq!(jobs.len(), 2, "{jobs:?}");
        assert_eq!(jobs[1], format!("{}-f", jobs[0]));
        let resumes = |job: &str| scenario.cluster.command(job).contains(&format!("'--resume' '{ID}'"));
        assert_eq!((resumes(&jobs[0]), resumes(&jobs[1])), (true, false));
        assert!(!scenario.cluster.labels(&jobs[1]).contains_key("paperclip.io/session-id"));
        assert_eq!(scenario.host.meta.lock().expect("meta").len(), 2);
        assert_eq!(scenario.cluster.started_beside(), Vec::<String>::new());
        assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
    }
}

in_both_modes!(second_failure_of_that_kind_clears_the_session);
async fn second_failure_of_that_kind_clears_the_session(mode: Mode) {
    let scenario = resuming(mode).script(lost()).script(lost());
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "session_unavailable", "{result}");
    assert_eq!(result["clearSession"], true);
    assert!(result.get("executionRecovery").is_none(), "a CLI had begun: {result}");
    assert_eq!(scenario.cluster.count("create job"), 2, "there is no third");
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(run_that_worked_or_resumed_nothing_is_not_repeated);
async fn run_that_worked_or_resumed_nothing_is_not_repeated(mode: Mode) {
    let image = "API Error: 400 Could not process image";
    for scenario in
        [resuming(mode).script(fails_with(image, 7)), Scenario::new(mode).script(fails_with(image, 0))]
    {
        let result = scenario.run().await;
        assert_eq!(result["exitCode"], 1, "{result}");
        assert_eq!(scenario.cluster.count("create job"), 1);
        assert!(!scenario.host.out().contains("starting again"));
    }
}

in_both_modes!(second_job_has_what_is_left_of_the_time_limit);
async fn second_job_has_what_is_left_of_the_time_limit(mode: Mode) {
    let mut slow = lost();
    (slow.lines[0].0, slow.ends_after) = (Duration::from_secs(60), Duration::from_secs(61));
    let config = json!({"timeoutSec": 100, "graceSec": 0});
    let hang = success_over(Duration::from_secs(3600));
    let scenario = resuming(mode).config(config.clone()).script(slow.clone()).script(hang);
    let (result, took) = scenario.timed_run().await;
    assert_eq!(result["errorCode"], "timeout", "{result}");
    assert_eq!(message_of(&result), "Timed out after 100s");
    assert!(took < Duration::from_secs(125), "one limit for both: {took:?}");
    let jobs = scenario.cluster.run_jobs();
    let deadline = scenario.cluster.deadline(&jobs[1]).expect("a deadline");
    assert!((30..=40).contains(&deadline), "{deadline}");

    slow.ends_after = Duration::from_secs(99);
    slow.lines[0].0 = Duration::from_secs(98);
    let scenario = resuming(mode).config(config).script(slow);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "session_unavailable", "no time is left: {result}");
    assert_eq!(scenario.cluster.count("create job"), 1);
}

in_both_modes!(retained_first_job_does_not_block_the_second);
async fn retained_first_job_does_not_block_the_second(mode: Mode) {
    let script = Script { condition_lag: Some(Duration::from_secs(20)), ..lost() };
    let config = json!({"retainJobs": true});
    let scenario = resuming(mode).config(config).script(script).script(success_over(Duration::from_secs(5)));
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.cluster.remaining().len(), 2, "{:?}", scenario.cluster.remaining());
}

in_both_modes!(next_host_attaches_to_the_second_job);
async fn next_host_attaches_to_the_second_job(mode: Mode) {
    let mut scenario = resuming(mode).script(lost()).script(success_over(Duration::from_secs(60)));
    {
        let request = scenario.request();
        let run = scenario.runner.execute(&request, scenario.host.clone(), scenario.cancel.clone(), None);
        let killed = tokio::time::timeout(Duration::from_secs(30), run).await;
        assert!(killed.is_err(), "its host is killed beside the second Job");
    }
    scenario.runner = Arc::new(Runner::new(OneCluster(scenario.cluster.clone())));
    (scenario.run_id, scenario.host) = ("run-2", Arc::default());
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.host.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
    assert_eq!(scenario.cluster.count("create job"), 2);
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(cancel_beside_the_second_job_is_acknowledged);
async fn cancel_beside_the_second_job_is_acknowledged(mode: Mode) {
    let scenario = resuming(mode).script(lost()).script(success_over(Duration::from_secs(3600)));
    let cancel = scenario.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        cancel.cancel();
    });
    let result = scenario.run().await;
    assert_eq!(result["resultJson"]["executionCancellation"]["state"], "acknowledged", "{result}");
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(other_run_between_the_jobs_is_not_joined_by_a_second);
async fn other_run_between_the_jobs_is_not_joined_by_a_second(mode: Mode) {
    let scenario = resuming(mode).script(lost());
    let cluster = scenario.cluster.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let labels = [
            ("paperclip.io/agent-id", "agent-1"),
            ("paperclip.io/adapter-type", "claude_k8s"),
            ("paperclip.io/run-id", "run-9"),
            ("paperclip.io/task-id", "task-9"),
        ];
        cluster.put_job("ac-other", &labels, success_over(Duration::from_secs(7200)));
    });
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_concurrent_run_blocked", "{result}");
    assert!(result.get("executionRecovery").is_none(), "a CLI of the run had begun: {result}");
    assert_eq!(scenario.cluster.count("create job"), 1);
}

in_both_modes!(session_that_cannot_work_is_not_resumed);
async fn session_that_cannot_work_is_not_resumed(mode: Mode) {
    for (id, params, reason) in [
        ("session-1", json!({}), "its id is not a UUID"),
        (
            ID,
            json!({"cwd": "/other"}),
            "it was saved for the folder /other, and this run works in /paperclip",
        ),
        (ID, json!({"promptBundleKey": "other"}), "the agent's instructions or skills have changed"),
        (ID, json!({"mcpServerIdentity": "other"}), "the agent's MCP servers have changed"),
        (
            ID,
            json!({"namespace": "other", "volumeClaim": "c"}),
            "it lies on volume claim c in namespace other, and this run has ",
        ),
    ] {
        let mut scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5)));
        (scenario.session_id, scenario.session_params) = (id, params);
        let result = scenario.run().await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        let said = format!("[paperclip] Claude session \"{id}\" is not resumed: {reason}");
        assert_eq!(scenario.host.out().matches(&said).count(), 1, "{}", scenario.host.out());
        let jobs = scenario.cluster.run_jobs();
        assert!(!scenario.cluster.command(&jobs[0]).contains("--resume"));
    }
}

in_both_modes!(stored_session_is_resumed_by_the_next_run);
async fn stored_session_is_resumed_by_the_next_run(mode: Mode) {
    let mut scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5)));
    let params = scenario.run().await["sessionParams"].take();
    assert_eq!((&params["sessionId"], &params["cwd"]), (&json!(ID), &json!("/paperclip")));
    assert_eq!(params["namespace"], "paperclip");
    assert_eq!(params["promptBundleKey"].as_str().map(str::len), Some(64));
    scenario.cluster.script(success_over(Duration::from_secs(5)));
    (scenario.run_id, scenario.session_params) = ("run-2", params);
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    let jobs = scenario.cluster.run_jobs();
    assert!(jobs.iter().any(|job| scenario.cluster.command(job).contains(&format!("'--resume' '{ID}'"))));
    assert!(!scenario.host.out().contains("is not resumed"));
}
