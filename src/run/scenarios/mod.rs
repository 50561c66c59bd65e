//! Whole runs in memory, under a paused clock.

/// Plays a scenario twice: where the service account may watch, and where it may not.
macro_rules! in_both_modes {
    ($scenario:ident) => {
        mod $scenario {
            use super::Mode;

            #[tokio::test(start_paused = true)]
            async fn watched() {
                super::$scenario(Mode::Watched).await;
            }

            #[tokio::test(start_paused = true)]
            async fn polled() {
                super::$scenario(Mode::Polled).await;
            }
        }
    };
}

mod combined;
mod end;
mod fake_cluster;
mod fake_host;
mod faults;
mod hostile;
mod hosts;
mod lines;
mod own_end;
mod pod_end;
mod refusals;
mod restart;
mod run_secret;
mod sessions;
mod settles;
mod start;
mod starting;
mod trust;
mod watching;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::fake_cluster::{FakeCluster, Fault, OneCluster, Script};
use self::fake_host::{Failing, FakeHost, HostCall};
use super::{Runner, StatusAnswer};

const SUCCESS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tools/simulator/fixtures/claude-cli-2.1.197/success.jsonl"
));

/// How a run observes its Job and pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Watched,
    Polled,
}

/// A fake cluster, a fake host and what to run on them.
struct Scenario {
    mode: Mode,
    cluster: Arc<FakeCluster>,
    runner: Arc<Runner<OneCluster>>,
    host: Arc<FakeHost>,
    cancel: CancellationToken,
    config: Value,
    context: Value,
    session_id: &'static str,
    session_params: Value,
    agent_id: &'static str,
    company_id: &'static str,
    run_id: &'static str,
    /// Further variables of the host's process.
    host_env: Value,
}

impl Scenario {
    fn new(mode: Mode) -> Self {
        let cluster = Arc::new(FakeCluster::new(mode == Mode::Watched));
        Self {
            mode,
            runner: Arc::new(Runner::new(OneCluster(cluster.clone()))),
            cluster,
            host: Arc::default(),
            cancel: CancellationToken::new(),
            config: json!({}),
            context: json!({"taskId": "task-1"}),
            session_id: "",
            session_params: Value::Null,
            agent_id: "agent-1",
            company_id: "company-1",
            run_id: "run-1",
            host_env: json!({}),
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

    fn host(mut self, host: FakeHost) -> Self {
        self.host = Arc::new(host);
        self
    }

    fn request(&self) -> String {
        self.request_of(self.agent_id)
    }

    fn request_of(&self, agent: &str) -> String {
        let mut request = json!({
            "runId": self.run_id,
            "agent": {"id": agent, "companyId": self.company_id, "name": "Ada"},
            "runtime": {"sessionId": self.session_id, "sessionParams": self.session_params},
            "config": self.config,
            "context": self.context,
            "authToken": "token",
            "hostEnv": {
                "HOSTNAME": "paperclip-0",
                "PAPERCLIP_NAMESPACE": "paperclip",
                "PAPERCLIP_API_URL": "http://paperclip",
                "PAPERCLIP_HOME": std::env::temp_dir().join("claude-k8s-scenarios").display().to_string(),
            },
        });
        let env = request["hostEnv"].as_object_mut().expect("an object");
        env.extend(self.host_env.as_object().expect("an object").clone());
        request.to_string()
    }

    fn host_env(mut self, host_env: Value) -> Self {
        self.host_env = host_env;
        self
    }

    /// Plays a run after another; the host has the lines of this run only.
    async fn play(&mut self, run_id: &'static str) -> (Value, Duration) {
        self.host = Arc::default();
        self.run_id = run_id;
        let began = Instant::now();
        let request = self.request();
        let outcome = self.runner.execute(&request, self.host.clone(), self.cancel.clone(), None).await;
        (outcome.to_json(jiff::Timestamp::now()), began.elapsed())
    }

    /// The result, and how long the run took. Checks what holds after every run.
    async fn timed_run(&self) -> (Value, Duration) {
        let began = Instant::now();
        let request = self.request();
        let run = self.runner.execute(&request, self.host.clone(), self.cancel.clone(), None);
        let outcome = tokio::time::timeout(Duration::from_secs(24 * 3600), run).await.expect("the run ends");
        let took = began.elapsed();
        assert!(self.runner.active_jobs().is_empty(), "no Job stays on the list of active Jobs");
        let calls = self.host.log_calls();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(self.host.log_calls(), calls, "nothing is logged after the run has resolved");
        assert_eq!(self.cluster.watches_open(), 0, "no watch is open without a run");
        assert_eq!(
            self.runner.vitals(),
            super::runner::Vitals::default(),
            "no Job, queue, watch or subscription is left"
        );
        let created = self.cluster.count("create job") + self.cluster.count("patch job") > 0;
        let refusals = self.host.out().matches("[paperclip] Watching Jobs and Pods is not permitted").count();
        assert!(refusals <= usize::from(created && self.mode == Mode::Polled), "{refusals}");
        (outcome.to_json(jiff::Timestamp::now()), took)
    }

    async fn run(&self) -> Value {
        self.timed_run().await.0
    }
}

/// The recorded success, its lines spread evenly over `total`.
fn success_over(total: Duration) -> Script {
    let lines: Vec<&str> = SUCCESS.lines().collect();
    let step = total / u32::try_from(lines.len()).expect("few");
    Script {
        lines: (0u32..).zip(&lines).map(|(at, line)| (step * at, (*line).to_owned())).collect(),
        ends_after: total,
        ..Script::default()
    }
}

/// A pod that is deleted after 10 s and ends after 40 s. Meanwhile an old Job controller has created another one.
fn replaced_pod(end_shown_for: Duration) -> Script {
    let mut script = success_over(Duration::from_secs(3600));
    script.replaced = Some((Duration::from_secs(10), end_shown_for));
    script.ends_after = Duration::from_secs(40);
    script.exit_code = 137;
    script.reason = "Error";
    script.condition_lag = None;
    script
}

/// What the message says before the sentence of the evidence, which ends it.
fn message_of(result: &Value) -> &str {
    let message = result["errorMessage"].as_str().expect("message");
    let summary = result["resultJson"]["k8s"]["summary"].as_str().expect("summary");
    let before = message.strip_suffix(summary).and_then(|before| before.strip_suffix("; "));
    before.unwrap_or_else(|| panic!("{message} ends with {summary}"))
}

fn assert_names_the_pod_deletion(result: &Value, exit_code: Option<i32>) {
    assert_eq!(result["exitCode"], json!(exit_code), "{result}");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("the pod was deleted by an unknown API client"), "{message}");
}
