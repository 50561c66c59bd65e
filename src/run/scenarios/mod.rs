//! Whole runs in memory, under a paused clock.

/// Plays a scene where the service account may watch, and once more where it may not.
macro_rules! in_both_modes {
    ($scene:ident) => {
        mod $scene {
            use super::Mode;

            #[tokio::test(start_paused = true)]
            async fn watched() {
                super::$scene(Mode::Watched).await;
            }

            #[tokio::test(start_paused = true)]
            async fn polled() {
                super::$scene(Mode::Polled).await;
            }
        }
    };
}

mod faults;
mod hosts;
mod lines;
mod memory;
mod watching;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::memory::{Fault, Memory, OneCluster, Script};
use super::bundle::{BundleOrder, Bundled};
use super::{Channel, Delivery, Host, HostError, RunError, Runner, StatusAnswer, StatusQuery};
use crate::manifest::Prepared;

const SUCCESS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tools/simulator/fixtures/claude-cli-2.1.197/success.jsonl"
));

/// A host that remembers what it was told.
#[derive(Default)]
struct Ear {
    told: Arc<Mutex<Vec<(Channel, String, Instant)>>>,
    meta: Mutex<Vec<Value>>,
    /// How long each `onLog` takes, and when the last of them settles.
    slow: Duration,
    free: Mutex<Option<Instant>>,
    /// Which `onLog` calls reject.
    rejects: bool,
    /// The answers of the control plane, the last one for ever.
    statuses: Mutex<Vec<StatusAnswer>>,
    secret_prompt: Option<String>,
}

impl Ear {
    fn text(&self, channel: Channel) -> String {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().filter(|(on, ..)| *on == channel).map(|(_, text, _)| text.as_str()).collect()
    }

    fn out(&self) -> String {
        self.text(Channel::Stdout)
    }

    fn err(&self) -> String {
        self.text(Channel::Stderr)
    }

    /// What the agent printed: every line that is not ours.
    fn agent_lines(&self) -> Vec<String> {
        self.out().lines().filter(|line| !line.starts_with("[paperclip]")).map(str::to_owned).collect()
    }

    fn calls(&self) -> usize {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Host for Ear {
    fn log(&self, channel: Channel, text: String, delivery: Delivery) {
        assert!(text.ends_with('\n'), "whole lines: {text:?}");
        let rejects = self.rejects;
        let told = self.told.clone();
        let settle = move || {
            told.lock().unwrap_or_else(PoisonError::into_inner).push((channel, text, Instant::now()));
            if rejects {
                delivery.rejected(&HostError("disk full".to_owned()));
            }
        };
        if self.slow.is_zero() {
            return settle();
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let at = free.map_or_else(Instant::now, |free| free.max(Instant::now())) + self.slow;
        *free = Some(at);
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            settle();
        });
    }

    async fn meta(&self, meta: Value) -> Result<(), HostError> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner).push(meta);
        Ok(())
    }

    async fn prepare(&self) -> Result<Prepared, HostError> {
        let prompt = self.secret_prompt.as_deref().unwrap_or("Work.");
        serde_json::from_value(json!({
            "baseEnv": {"PAPERCLIP_AGENT_ID": "agent-1"},
            "bootstrapPrompt": "",
            "heartbeatPrompt": prompt,
            "skills": [],
        }))
        .map_err(|error| HostError(error.to_string()))
    }

    async fn bundle(&self, _: BundleOrder) -> Result<Bundled, HostError> {
        Ok(Bundled::default())
    }

    async fn run_status(&self, query: StatusQuery<'_>) -> StatusAnswer {
        assert_eq!((query.api_url, query.token), ("http://paperclip", "token"));
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        if statuses.len() > 1 {
            statuses.remove(0)
        } else {
            statuses.first().cloned().unwrap_or(StatusAnswer::Unreachable)
        }
    }
}

/// How a run sees its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Watched,
    Polled,
}

/// One scene: a cluster, a host, a request.
struct Scene {
    mode: Mode,
    cluster: Arc<Memory>,
    runner: Arc<Runner<OneCluster>>,
    ear: Arc<Ear>,
    cancel: CancellationToken,
    config: Value,
    context: Value,
    session_id: &'static str,
    agent_id: &'static str,
    run_id: &'static str,
}

impl Scene {
    fn new(mode: Mode) -> Self {
        let cluster = Arc::new(Memory::new(mode == Mode::Watched));
        Self {
            mode,
            runner: Arc::new(Runner::new(OneCluster(cluster.clone()))),
            cluster,
            ear: Arc::default(),
            cancel: CancellationToken::new(),
            config: json!({}),
            context: json!({"taskId": "task-1"}),
            session_id: "",
            agent_id: "agent-1",
            run_id: "run-1",
        }
    }

    fn script(self, script: Script) -> Self {
        self.cluster.script(script);
        self
    }

    fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    fn ear(mut self, ear: Ear) -> Self {
        self.ear = Arc::new(ear);
        self
    }

    fn request(&self) -> String {
        self.request_of(self.agent_id)
    }

    fn request_of(&self, agent: &str) -> String {
        json!({
            "runId": self.run_id,
            "agent": {"id": agent, "companyId": "company-1", "name": "Ada"},
            "runtime": {"sessionId": self.session_id},
            "config": self.config,
            "context": self.context,
            "authToken": "token",
            "hostEnv": {
                "HOSTNAME": "paperclip-0",
                "PAPERCLIP_NAMESPACE": "paperclip",
                "PAPERCLIP_API_URL": "http://paperclip",
                "PAPERCLIP_HOME": std::env::temp_dir().join("claude-k8s-scenarios").display().to_string(),
            },
        })
        .to_string()
    }

    async fn try_run(&self) -> Result<Value, RunError> {
        Ok(self.timed_run().await?.0)
    }

    /// The result, and how long it took.
    async fn timed_run(&self) -> Result<(Value, Duration), RunError> {
        let began = Instant::now();
        let request = self.request();
        let run = self.runner.execute(&request, self.ear.clone(), self.cancel.clone(), None);
        let outcome = tokio::time::timeout(Duration::from_secs(24 * 3600), run).await.expect("the run ends");
        let took = began.elapsed();
        assert!(self.runner.active_jobs().is_empty(), "no Job stays on the list of active ones");
        let calls = self.ear.calls();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(self.ear.calls(), calls, "nothing is told after the run has resolved");
        assert_eq!(self.cluster.watches_open(), 0, "no watch goes on without a run");
        assert_eq!(self.runner.vitals(), super::Vitals::default(), "nothing is left");
        let created =
            outcome.is_ok() && self.cluster.count("create job") + self.cluster.count("patch job") > 0;
        let refusals = self.ear.out().matches("[paperclip] Watching Jobs and Pods is not permitted").count();
        assert!(refusals <= usize::from(created && self.mode == Mode::Polled), "{refusals}");
        outcome.map(|outcome| (outcome.to_json(), took))
    }

    async fn run(&self) -> Value {
        self.try_run().await.expect("the run resolves")
    }
}

/// The recorded success, its lines spread over a time.
fn success_over(total: Duration) -> Script {
    let lines: Vec<&str> = SUCCESS.lines().collect();
    let step = total / u32::try_from(lines.len()).expect("few");
    Script {
        lines: (0u32..).zip(&lines).map(|(at, line)| (step * at, (*line).to_owned())).collect(),
        ends_after: total,
        ..Script::default()
    }
}

in_both_modes!(a_success_has_every_field_and_leaves_nothing_behind);
async fn a_success_has_every_field_and_leaves_nothing_behind(mode: Mode) {
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(5)));
    let result = scene.run().await;
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
    assert_eq!(scene.ear.agent_lines(), SUCCESS.lines().collect::<Vec<_>>(), "every line, once, in order");
    assert!(scene.cluster.left().is_empty());
    let meta = &scene.ear.meta.lock().expect("meta")[0];
    assert!(
        meta["command"].as_str().is_some_and(|command| command.starts_with("kubectl job/ac-agent-1-run-1-"))
    );
}

in_both_modes!(a_run_of_sixty_seconds_with_output_all_along_is_a_success);
async fn a_run_of_sixty_seconds_with_output_all_along_is_a_success(mode: Mode) {
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(60)));
    let began = Instant::now();
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scene.ear.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
    assert!(began.elapsed() >= Duration::from_secs(63));
    assert_eq!(scene.cluster.logs_open_most(), 1, "one log stream at a time");
    assert_eq!(scene.cluster.count("open log"), 1, "and only one in all");
    assert_eq!(scene.cluster.count("delete job"), 1);
}

in_both_modes!(an_hour_of_silence_before_the_result_is_no_end);
async fn an_hour_of_silence_before_the_result_is_no_end(mode: Mode) {
    let mut script = success_over(Duration::from_secs(8));
    for (at, _) in script.lines.iter_mut().skip(3) {
        *at += Duration::from_secs(3600);
    }
    script.ends_after += Duration::from_secs(3600);
    let scene = Scene::new(mode).script(script);
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scene.ear.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
    assert!(scene.ear.out().contains("[paperclip] keepalive — job ac-agent-1-run-1-"));
}

in_both_modes!(a_log_that_is_cut_again_and_again_loses_and_doubles_nothing);
async fn a_log_that_is_cut_again_and_again_loses_and_doubles_nothing(mode: Mode) {
    let mut script = success_over(Duration::from_secs(40));
    let numbered: Vec<(Duration, String)> = (0..400u64)
        .map(|n| (Duration::from_millis(n * 97), format!("{{\"type\":\"user\",\"n\":{n}}}")))
        .collect();
    let (_, result) = script.lines.pop().expect("a result");
    script.lines = numbered;
    script.lines.push((Duration::from_secs(40), result));
    script.ends_after = Duration::from_secs(41);
    let expected: Vec<String> = script.lines.iter().map(|(_, line)| line.clone()).collect();
    let scene = Scene::new(mode).script(script);
    // Some end before anything new came, the others in the middle of a line or of a stamp.
    scene.cluster.cut_logs([1, 20, 300].into_iter().chain((0..12).map(|n| 1_800 + n * 211)));
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scene.ear.agent_lines(), expected);
    assert!(scene.cluster.count("open log") >= 12);
    assert_eq!(scene.cluster.logs_open_most(), 1);
    assert!(scene.ear.out().contains("[paperclip] Log stream disconnected — reconnecting (attempt 1/50)..."));
}

in_both_modes!(a_last_look_that_must_begin_anew_at_the_logs_beginning_does);
async fn a_last_look_that_must_begin_anew_at_the_logs_beginning_does(mode: Mode) {
    let mut script = success_over(Duration::from_secs(10));
    let (_, result) = script.lines.pop().expect("a result");
    script.lines.truncate(2);
    script.lines.push((Duration::from_millis(8_500), "printed, then cut off".repeat(20)));
    script.lines.push((Duration::from_millis(9_900), result));
    let read = script.lines[..2].iter().map(|(_, line)| line.len() + 32).sum::<usize>();
    // Nothing of what was read is there any more, so that the next body does not fit what is known.
    script.rotated = vec![(Duration::from_secs(9), 2)];
    let scene = Scene::new(mode).script(script);
    scene.cluster.cut_logs([read + 40]);
    let outcome = scene.run().await;
    assert_eq!(outcome["errorMessage"], Value::Null, "{outcome}");
    assert_eq!(scene.ear.agent_lines().len(), 4, "{}", scene.ear.out());
    assert!(scene.ear.out().contains("[paperclip] Log gap:"), "{}", scene.ear.out());
}

in_both_modes!(a_condition_that_never_comes_is_not_waited_for_longer_than_the_grace_period);
async fn a_condition_that_never_comes_is_not_waited_for_longer_than_the_grace_period(mode: Mode) {
    let mut script = success_over(Duration::from_secs(10));
    script.condition_lag = None;
    let scene = Scene::new(mode).script(script);
    let began = Instant::now();
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "the captured result counts: {result}");
    assert!(scene.ear.out().contains("without K8s Job condition update"), "{}", scene.ear.out());
    assert!(began.elapsed() < Duration::from_secs(60 + 600));
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(a_late_condition_within_the_grace_period_is_an_ordinary_success);
async fn a_late_condition_within_the_grace_period_is_an_ordinary_success(mode: Mode) {
    let mut script = success_over(Duration::from_secs(10));
    script.condition_lag = Some(Duration::from_secs(25));
    let scene = Scene::new(mode).script(script);
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(!scene.ear.out().contains("FAR-23"));
}

in_both_modes!(a_job_deleted_in_mid_run_is_explained);
async fn a_job_deleted_in_mid_run_is_explained(mode: Mode) {
    let mut script = success_over(Duration::from_secs(60));
    script.job_deleted_at = Some(Duration::from_secs(20));
    let scene = Scene::new(mode).script(script);
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
    let message = result["errorMessage"].as_str().expect("message");
    let path = if mode == Mode::Watched { "watch-deleted" } else { "completion-poll-404" };
    assert!(message.starts_with(&format!(
        "K8s Job was deleted externally before Claude could complete [detected_via={path}, job=ac-agent-1-run-1-"
    )), "{message}");
    assert!(message.contains(", ns=paperclip, elapsed_since_pod_running="), "{message}");
    assert!(message.contains("last_job_conditions=none_observed, stdout_bytes="), "{message}");
    assert!(scene.cluster.left().is_empty());
}

/// A pod that is deleted after 10 s and ends after 40 s, while an old Job controller has made another one.
fn replaced_pod(end_shown_for: Duration) -> Script {
    let mut script = success_over(Duration::from_secs(3600));
    script.replaced = Some((Duration::from_secs(10), end_shown_for));
    script.ends_after = Duration::from_secs(40);
    script.exit_code = 137;
    script.reason = "Error";
    script.condition_lag = None;
    script
}

fn tells_of_the_deleted_pod(result: &Value, exit_code: Option<i32>) {
    assert_eq!(result["exitCode"], json!(exit_code), "{result}");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("the pod was deleted by an unknown API client"), "{message}");
}

in_both_modes!(a_pod_that_takes_the_place_of_a_deleted_one_is_not_taken_for_it);
async fn a_pod_that_takes_the_place_of_a_deleted_one_is_not_taken_for_it(mode: Mode) {
    let scene = Scene::new(mode).script(replaced_pod(Duration::from_secs(3)));
    tells_of_the_deleted_pod(&scene.run().await, Some(137));
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(a_full_result_is_kept_when_the_job_vanishes_afterwards);
async fn a_full_result_is_kept_when_the_job_vanishes_afterwards(mode: Mode) {
    let mut script = success_over(Duration::from_secs(10));
    script.condition_lag = None;
    script.job_deleted_at = Some(Duration::from_secs(14));
    let scene = Scene::new(mode).script(script);
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(result["summary"], "All done.");
}

in_both_modes!(an_oom_kill_is_named);
async fn an_oom_kill_is_named(mode: Mode) {
    let mut script = success_over(Duration::from_secs(10));
    script.lines.truncate(3);
    script.exit_code = 137;
    script.reason = "OOMKilled";
    let scene = Scene::new(mode).script(script);
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "claude_truncated", "{result}");
    assert_eq!(result["exitCode"], 137);
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("exit code 137, SIGKILL (commonly OOMKilled), reason=OOMKilled"), "{message}");
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(the_time_limit_ends_a_run);
async fn the_time_limit_ends_a_run(mode: Mode) {
    let scene = Scene::new(mode)
        .script(success_over(Duration::from_secs(3600)))
        .config(json!({"timeoutSec": 30, "graceSec": 5}));
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "timeout");
    assert_eq!(result["errorMessage"], "Timed out after 30s");
    assert_eq!(result["timedOut"], true);
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(api_errors_in_mid_run_end_nothing);
async fn api_errors_in_mid_run_end_nothing(mode: Mode) {
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(30)));
    let storm =
        |codes: &[u16]| codes.iter().map(|code| Fault::Answer(*code, "overloaded")).collect::<Vec<_>>();
    scene.cluster.fault("get job", storm(&[500, 503, 429, 500, 401]));
    scene.cluster.fault("list pods", storm(&[503, 500]));
    scene.cluster.fault("open log", storm(&[500, 503, 429]));
    scene.cluster.fault("delete job", storm(&[503]));
    scene.cluster.fault("list jobs", storm(&[503]));
    for request in ["watch jobs", "watch pods"] {
        scene.cluster.fault(request, storm(&[503, 429]));
    }
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scene.ear.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(a_creation_whose_answer_is_lost_makes_one_job_and_one_run);
async fn a_creation_whose_answer_is_lost_makes_one_job_and_one_run(mode: Mode) {
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(5)));
    scene.cluster.fault("create job", [Fault::LostAnswer]);
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scene.cluster.count("create job"), 2);
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(a_refused_creation_is_told_and_takes_its_secret_along);
async fn a_refused_creation_is_told_and_takes_its_secret_along(mode: Mode) {
    let prompt = "x".repeat(120 * 1024);
    let scene = Scene::new(mode).ear(Ear { secret_prompt: Some(prompt), ..Ear::default() });
    scene.cluster.fault("create job", vec![Fault::Answer(403, "exceeded quota: jobs"); 2]);
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_job_create_failed");
    assert_eq!(
        result["errorMessage"],
        "Failed to create Kubernetes Job: HTTP-Code: 403 Message: exceeded quota: jobs"
    );
    assert!(scene.ear.out().contains("[paperclip] Created prompt Secret: ac-agent-1-run-1-"));
    assert!(scene.cluster.left().is_empty(), "{:?}", scene.cluster.left());
}

in_both_modes!(a_job_whose_creation_never_got_an_answer_is_still_cleaned_up);
async fn a_job_whose_creation_never_got_an_answer_is_still_cleaned_up(mode: Mode) {
    let scene = Scene::new(mode);
    scene.cluster.fault(
        "create job",
        [
            Fault::LostAnswer,
            Fault::Answer(503, "down"),
            Fault::Answer(503, "down"),
            Fault::Answer(503, "down"),
        ],
    );
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_job_create_failed", "{result}");
    assert!(scene.cluster.left().is_empty(), "{:?}", scene.cluster.left());
}

in_both_modes!(an_onlog_that_rejects_ends_nothing_and_is_told_once);
async fn an_onlog_that_rejects_ends_nothing_and_is_told_once(mode: Mode) {
    let scene = Scene::new(mode)
        .script(success_over(Duration::from_secs(5)))
        .ear(Ear { rejects: true, ..Ear::default() });
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scene.ear.err().matches("onLog failed: disk full").count(), 1);
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(a_slow_host_gets_every_line_in_order);
async fn a_slow_host_gets_every_line_in_order(mode: Mode) {
    let scene = Scene::new(mode)
        .script(success_over(Duration::from_secs(5)))
        .ear(Ear { slow: Duration::from_secs(1), ..Ear::default() });
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scene.ear.agent_lines(), SUCCESS.lines().collect::<Vec<_>>());
}

in_both_modes!(the_hosts_abort_deletes_the_job_and_is_acknowledged);
async fn the_hosts_abort_deletes_the_job_and_is_acknowledged(mode: Mode) {
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(600)));
    let cancel = scene.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(20)).await;
        cancel.cancel();
    });
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "cancelled");
    assert_eq!(result["errorMessage"], "Run cancelled");
    assert_eq!(result["resultJson"]["executionCancellation"]["state"], "acknowledged", "{result}");
    assert_eq!(result["executionRecovery"]["providerStopped"], true, "{result}");
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(a_cancel_in_the_control_plane_acts_at_once_and_another_status_when_seen_twice);
async fn a_cancel_in_the_control_plane_acts_at_once_and_another_status_when_seen_twice(mode: Mode) {
    let status = |text: &str| StatusAnswer::Status(Some(text.to_owned()));
    for (statuses, seconds) in [
        (vec![status("running"), status("cancelled")], 30),
        (vec![status("queued"), status("running"), status("failed")], 60),
        (vec![StatusAnswer::Refused(500), status("failed")], 45),
    ] {
        let scene = Scene::new(mode)
            .script(success_over(Duration::from_secs(600)))
            .ear(Ear { statuses: Mutex::new(statuses), ..Ear::default() });
        let began = Instant::now();
        let result = scene.run().await;
        assert_eq!(result["errorCode"], "cancelled");
        let took = began.elapsed() - Duration::from_secs(600);
        assert!(took.as_secs() >= seconds && took.as_secs() < seconds + 10, "{took:?}");
        assert!(scene.ear.out().contains("[paperclip] Run cancelled externally — deleting Job ac-agent-1"));
        assert!(scene.cluster.left().is_empty());
    }
}

in_both_modes!(a_pod_that_cannot_run_says_why_and_is_deleted);
async fn a_pod_that_cannot_run_says_why_and_is_deleted(mode: Mode) {
    let unschedulable = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/3 nodes are available"}]});
    let pull = json!({"phase": "Pending", "containerStatuses": [{"name": "claude",
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}}]});
    let init = json!({"phase": "Pending", "initContainerStatuses": [{"name": "write-prompt", "ready": false,
        "restartCount": 0, "image": "", "imageID": "",
        "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]});
    for (stuck, message) in [
        (unschedulable, "Pod scheduling failed: Pod unschedulable: 0/3 nodes are available"),
        (pull, "Pod scheduling failed: Image pull failed for \"claude\": Back-off pulling image"),
        (init, "Pod scheduling failed: Init container \"write-prompt\" failed with exit code 1: Error"),
        (
            json!({"phase": "Pending"}),
            "Pod scheduling failed: Timed out waiting for pod to be scheduled (120s)",
        ),
    ] {
        let scene = Scene::new(mode).script(Script { stuck: Some(stuck), ..Script::default() });
        let result = scene.run().await;
        assert_eq!(result["errorCode"], "k8s_pod_schedule_failed");
        assert_eq!(result["errorMessage"], message);
        assert!(scene.ear.err().contains(&format!("[paperclip] {message}")));
        assert!(scene.cluster.left().is_empty());
    }
}

in_both_modes!(a_run_that_failed_before_anybody_looked_says_what_claude_said);
async fn a_run_that_failed_before_anybody_looked_says_what_claude_said(mode: Mode) {
    let auth = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tools/simulator/fixtures/claude-cli-2.1.197/auth.jsonl"
    ));
    let script = Script {
        start_at: Duration::from_millis(600),
        lines: auth.lines().map(|line| (Duration::ZERO, line.to_owned())).collect(),
        ends_after: Duration::from_millis(300),
        exit_code: 1,
        reason: "Error",
        ..Script::default()
    };
    let scene = Scene::new(mode).script(script.clone());
    let result = scene.run().await;
    assert_eq!(result["exitCode"], 1);
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("Invalid API key"), "{message}");
    assert_eq!(scene.ear.agent_lines(), auth.lines().collect::<Vec<_>>());

    let scene = Scene::new(mode).script(Script { lines: Vec::new(), ..script });
    let result = scene.run().await;
    if mode == Mode::Watched {
        assert_eq!(result["exitCode"], 1, "a watch shows that it ran: {result}");
        return;
    }
    assert_eq!(result["errorCode"], "k8s_pod_schedule_failed", "nothing printed, nothing more to say");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.ends_with("reached phase=Failed: claude exited 1 (Error)"), "{message}");
}

in_both_modes!(a_job_that_is_deleted_before_its_pod_ran_is_not_waited_for);
async fn a_job_that_is_deleted_before_its_pod_ran_is_not_waited_for(mode: Mode) {
    let scene = Scene::new(mode).script(Script {
        start_at: Duration::from_secs(60),
        job_deleted_at: Some(Duration::from_secs(3)),
        ..Script::default()
    });
    let began = Instant::now();
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
    assert!(began.elapsed() < Duration::from_secs(600 + 20));
}

in_both_modes!(a_live_job_of_the_same_task_is_attached_to_and_its_whole_log_told);
async fn a_live_job_of_the_same_task_is_attached_to_and_its_whole_log_told(mode: Mode) {
    let scene = Scene::new(mode);
    scene.cluster.put_job(
        "ac-orphan",
        &[
            ("paperclip.io/agent-id", "agent-1"),
            ("paperclip.io/adapter-type", "claude_k8s"),
            ("app.kubernetes.io/managed-by", "paperclip"),
            ("paperclip.io/run-id", "run-0"),
            ("paperclip.io/task-id", "task-1"),
        ],
        success_over(Duration::from_secs(60)),
    );
    tokio::time::sleep(Duration::from_secs(30)).await;
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scene.ear.agent_lines(), SUCCESS.lines().collect::<Vec<_>>(), "from the start of its log");
    assert!(scene.ear.out().contains(
        "[paperclip] Reattaching to in-flight K8s Job ac-orphan in namespace paperclip (prior run run-0)"
    ));
    assert_eq!(scene.cluster.count("create job"), 0);
    assert_eq!(scene.cluster.labels("ac-orphan")["paperclip.io/run-id"], "run-1");
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(the_guard_blocks_and_changes_nothing);
async fn the_guard_blocks_and_changes_nothing(mode: Mode) {
    let labels = |run, task, session| {
        let mut labels = vec![
            ("paperclip.io/agent-id", "agent-1"),
            ("paperclip.io/adapter-type", "claude_k8s"),
            ("paperclip.io/run-id", run),
        ];
        labels.extend(Some(("paperclip.io/task-id", task)).filter(|_| !str::is_empty(task)));
        labels.extend(Some(("paperclip.io/session-id", session)).filter(|_| !str::is_empty(session)));
        labels
    };
    for (labels, config, code, message) in [
        (
            labels("run-0", "task-2", ""),
            json!({}),
            "k8s_concurrent_run_blocked",
            "Concurrent run blocked: orphaned Job ac-orphan is running a different task",
        ),
        (
            labels("run-0", "", ""),
            json!({}),
            "k8s_orphan_task_unknown",
            "Concurrent run blocked: orphaned Job ac-orphan has unknown task context",
        ),
        (
            labels("run-0", "task-1", "session-2"),
            json!({}),
            "k8s_orphan_session_mismatch",
            "Concurrent run blocked: orphaned Job ac-orphan has a mismatched session",
        ),
        (
            labels("run-0", "task-1", ""),
            json!({"reattachOrphanedJobs": false}),
            "k8s_concurrent_run_blocked",
            "Concurrent run blocked: orphaned Job(s) still running for this agent (reattach disabled)",
        ),
        (
            labels("run-1", "task-1", ""),
            json!({}),
            "k8s_concurrent_run_blocked",
            "Concurrent run blocked: Job ac-orphan is still running for this agent",
        ),
    ] {
        let scene = Scene { session_id: "session-1", ..Scene::new(mode).config(config) };
        scene.cluster.put_job("ac-orphan", &labels, success_over(Duration::from_secs(7200)));
        let result = scene.run().await;
        assert_eq!(result["errorCode"], code);
        assert_eq!(result["errorMessage"], message);
        assert_eq!(scene.cluster.left(), ["ac-orphan"]);
        assert_eq!(scene.cluster.count("patch job"), 0);
    }
}

in_both_modes!(an_agent_id_without_a_usable_character_is_refused_before_any_request);
async fn an_agent_id_without_a_usable_character_is_refused_before_any_request(mode: Mode) {
    let scene = Scene { agent_id: "@@@", ..Scene::new(mode) };
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_agent_id_invalid");
    assert_eq!(result["errorMessage"], "Agent ID \"@@@\" cannot be sanitized to a valid Kubernetes label");
    assert_eq!(scene.cluster.count("get pod") + scene.cluster.count("list jobs"), 0);
}

in_both_modes!(a_refused_prompt_secret_ends_the_run_before_its_job);
async fn a_refused_prompt_secret_ends_the_run_before_its_job(mode: Mode) {
    let prompt = "x".repeat(120 * 1024);
    let scene = Scene::new(mode).ear(Ear { secret_prompt: Some(prompt), ..Ear::default() });
    scene.cluster.fault("create secret", [Fault::Answer(403, "secrets is forbidden")]);
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_prompt_secret_create_failed");
    assert_eq!(
        result["errorMessage"],
        "Failed to create prompt Secret: HTTP-Code: 403 Message: secrets is forbidden"
    );
    assert_eq!(scene.cluster.count("create job"), 0);
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(a_prompt_secret_whose_creation_fails_for_a_moment_is_created);
async fn a_prompt_secret_whose_creation_fails_for_a_moment_is_created(mode: Mode) {
    let prompt = "x".repeat(120 * 1024);
    let ear = Ear { secret_prompt: Some(prompt), ..Ear::default() };
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(10))).ear(ear);
    scene.cluster.fault("create secret", [Fault::Answer(503, "down"), Fault::Answer(429, "later")]);
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scene.cluster.count("create secret"), 3);
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(a_live_job_without_a_pod_cannot_be_attached_to_and_is_deleted);
async fn a_live_job_without_a_pod_cannot_be_attached_to_and_is_deleted(mode: Mode) {
    let scene = Scene::new(mode);
    scene.cluster.put_job(
        "ac-orphan",
        &[
            ("paperclip.io/agent-id", "agent-1"),
            ("paperclip.io/adapter-type", "claude_k8s"),
            ("paperclip.io/run-id", "run-0"),
            ("paperclip.io/task-id", "task-1"),
        ],
        Script { pod_at: Duration::from_secs(3600), ..success_over(Duration::from_secs(60)) },
    );
    tokio::time::sleep(Duration::from_secs(31)).await;
    let began = Instant::now();
    let result = scene.run().await;
    assert!(began.elapsed() < Duration::from_secs(601), "it is too old to get one still");
    assert_eq!(result["errorCode"], "k8s_pod_reattach_failed");
    assert_eq!(result["errorMessage"], "Pod reattach failed: Reattach target Job ac-orphan has no pod");
    assert!(scene.cluster.left().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_state_stays_unknown_is_an_error_and_stays() {
    let mode = Mode::Polled;
    let mut script = success_over(Duration::from_secs(3600));
    script.lines.clear();
    let scene = Scene::new(mode).script(script);
    scene.cluster.fault("get job", vec![Fault::Answer(500, "etcd is gone"); 500]);
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_job_state_mismatch");
    assert!(result["errorMessage"].as_str().is_some_and(|text| text.contains("etcd is gone")), "{result}");
    assert_eq!(scene.cluster.left().len(), 1, "somebody must look at it");
    assert!(scene.ear.out().contains("(state mismatch — UI is waiting on it)"));
}

in_both_modes!(a_guard_that_cannot_look_blocks);
async fn a_guard_that_cannot_look_blocks(mode: Mode) {
    let scene = Scene::new(mode);
    scene.cluster.fault("list jobs", [Fault::Answer(403, "jobs.batch is forbidden")]);
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_concurrency_guard_unreachable");
    assert_eq!(
        result["errorMessage"],
        "Concurrency guard unreachable: HTTP-Code: 403 Message: jobs.batch is forbidden"
    );
    assert_eq!(scene.cluster.count("create job"), 0);
}

in_both_modes!(retained_jobs_stay);
async fn retained_jobs_stay(mode: Mode) {
    let scene =
        Scene::new(mode).script(success_over(Duration::from_secs(5))).config(json!({"retainJobs": true}));
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null);
    assert_eq!(scene.cluster.left().len(), 1);
    assert!(scene.ear.out().contains("for debugging (retainJobs=true)"));
}

in_both_modes!(a_cluster_that_cannot_be_set_up_rejects_and_releases_the_agents_lock);
async fn a_cluster_that_cannot_be_set_up_rejects_and_releases_the_agents_lock(mode: Mode) {
    let mut scene = Scene::new(mode).config(json!({"kubeconfig": "missing"}));
    let error = scene.try_run().await.expect_err("rejects").to_string();
    assert!(error.contains("ENOENT"), "{error}");
    scene.config = json!({});
    scene.cluster.script(success_over(Duration::from_secs(5)));
    assert_eq!(scene.run().await["errorMessage"], Value::Null, "the next run of the agent is not held up");
}

in_both_modes!(bad_configuration_is_a_clear_error_before_anything_is_created);
async fn bad_configuration_is_a_clear_error_before_anything_is_created(mode: Mode) {
    let scene = Scene::new(mode).config(json!({"imagePullPolicy": "Sometimes"}));
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_config_invalid");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("imagePullPolicy") && message.contains("Sometimes"), "{message}");
    assert_eq!(scene.cluster.count("create job"), 0);
}

in_both_modes!(a_host_that_shuts_down_deletes_active_jobs_unless_they_are_to_stay);
async fn a_host_that_shuts_down_deletes_active_jobs_unless_they_are_to_stay(mode: Mode) {
    for (config, stays) in
        [(json!({}), false), (json!({"hostShutdown": "leave"}), true), (json!({"retainJobs": true}), true)]
    {
        let scene = Arc::new(Scene::new(mode).script(success_over(Duration::from_secs(600))).config(config));
        let running = tokio::spawn({
            let scene = scene.clone();
            async move {
                scene.runner.execute(&scene.request(), scene.ear.clone(), scene.cancel.clone(), None).await
            }
        });
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(scene.runner.active_jobs().len(), 1);
        let deleted = scene.runner.shutdown().await;
        assert_eq!((deleted.is_empty(), scene.cluster.left().is_empty()), (stays, !stays));
        running.abort();
    }
}
