//! Several hosts and one agent: whatever the network delays, at most one Job of the agent is alive.

use super::*;
use crate::manifest::labels::COMPONENT_CLAIM;
use crate::manifest::{Prepared, claim_name};
use crate::outcome::StdStream;
use crate::run::{Delivery, Host, HostError, StatusQuery};

/// A host that pauses while it prepares a run, holding the agent's claim.
#[derive(Default)]
struct PausingHost {
    inner: FakeHost,
    pause: Duration,
}

impl Host for PausingHost {
    fn log(&self, stream: StdStream, chunk: String, delivery: Delivery) {
        self.inner.log(stream, chunk, delivery);
    }

    async fn meta(&self, meta: Value) -> Result<(), HostError> {
        self.inner.meta(meta).await
    }

    fn progress(&self, line: String) {
        self.inner.progress(line);
    }

    async fn event(&self, event: Value) -> Result<bool, HostError> {
        self.inner.event(event).await
    }

    fn note(&self, event: Value) {
        self.inner.note(event);
    }

    async fn prepare(&self) -> Result<Prepared, HostError> {
        tokio::time::sleep(self.pause).await;
        self.inner.prepare().await
    }

    async fn link(&self, source: &str, target: &str) -> Result<(), HostError> {
        self.inner.link(source, target).await
    }

    async fn run_status(&self, query: StatusQuery<'_>) -> StatusAnswer {
        self.inner.run_status(query).await
    }
}

/// Another host process on the same cluster, with a run of the same agent.
struct Process {
    runner: Runner<OneCluster>,
    host: Arc<PausingHost>,
    request: String,
    cancel: CancellationToken,
}

impl Process {
    fn new(scenario: &Scenario, run_id: &str, task: &str, pause: Duration) -> Self {
        let mut request: Value = serde_json::from_str(&scenario.request()).expect("a request");
        request["runId"] = json!(run_id);
        request["context"] = json!({"taskId": task});
        Self {
            runner: Runner::new(OneCluster(scenario.cluster.clone())),
            host: Arc::new(PausingHost { pause, ..PausingHost::default() }),
            request: request.to_string(),
            cancel: CancellationToken::new(),
        }
    }

    async fn run(&self) -> Value {
        let run = self.runner.execute(&self.request, self.host.clone(), self.cancel.clone(), None);
        run.await.to_json(jiff::Timestamp::now())
    }

    fn logged(&self) -> String {
        self.host.inner.out() + &self.host.inner.err()
    }
}

in_both_modes!(second_host_waits_while_the_first_starts_the_agent);
async fn second_host_waits_while_the_first_starts_the_agent(mode: Mode) {
    for (task, code) in [("another", json!("k8s_concurrent_run_blocked")), ("task-1", Value::Null)] {
        let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5)));
        let first = Process::new(&scenario, "run-a", "task-1", Duration::from_secs(2));
        let second = Process::new(&scenario, "run-b", task, Duration::ZERO);
        let (a, b) = tokio::join!(first.run(), async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            second.run().await
        });
        assert_eq!(a["errorMessage"], Value::Null, "{a}");
        assert_eq!(b["errorCode"], code, "{b}");
        let claim = claim_name("agent-1");
        let waiting = "Waiting for another host that is starting a run of this agent";
        assert_eq!(
            second
                .logged()
                .matches(&format!("[paperclip] {waiting} (claim {claim}, Job ac-agent-1-run-a-"))
                .count(),
            1,
            "{}",
            second.logged()
        );
        assert_eq!(
            second.logged().contains("Reattaching to in-flight K8s Job ac-agent-1-run-a-"),
            code.is_null()
        );
        assert!(!first.logged().contains(waiting));
        assert_eq!(scenario.cluster.count("create job"), 1);
        assert!(scenario.cluster.remaining().is_empty());
    }
}

in_both_modes!(dead_host_delays_others_by_half_a_minute);
async fn dead_host_delays_others_by_half_a_minute(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5)));
    let dead = Process::new(&scenario, "run-a", "task-1", Duration::from_secs(1 << 30));
    let next = Process::new(&scenario, "run-b", "task-2", Duration::ZERO);
    let began = Instant::now();
    let result = tokio::select! {
        _ = dead.run() => unreachable!("this host is dead"),
        result = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            next.run().await
        } => result,
    };
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(began.elapsed() > Duration::from_secs(30) && began.elapsed() < Duration::from_secs(60));
    let logged = next.logged();
    assert!(
        logged.contains("has not moved for 30s — its holder is taken for dead and barred from starting"),
        "{logged}"
    );
    let remaining = scenario.cluster.remaining();
    assert!(
        remaining.len() == 1 && remaining[0].starts_with("ac-agent-1-run-a-"),
        "only the barrier is left, for the cluster to collect: {remaining:?}"
    );
    let barrier = scenario.cluster.labels(&remaining[0]);
    assert_eq!(barrier["app.kubernetes.io/component"], COMPONENT_CLAIM);
}

in_both_modes!(slow_host_taken_for_dead_finds_itself_barred);
async fn slow_host_taken_for_dead_finds_itself_barred(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(600)));
    let slow = Process::new(&scenario, "run-a", "task-1", Duration::from_secs(90));
    let next = Process::new(&scenario, "run-b", "task-2", Duration::ZERO);
    let (a, b) = tokio::join!(slow.run(), async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        next.run().await
    });
    assert_eq!(b["errorMessage"], Value::Null, "{b}");
    assert_eq!(a["errorCode"], "k8s_concurrent_run_blocked", "{a}");
    let message = a["errorMessage"].as_str().expect("message");
    assert!(
        message.starts_with(
            "Concurrent run blocked: another host took over this agent before Job ac-agent-1-run-a-"
        ),
        "{message}"
    );
    assert!(
        slow.logged().contains("was barred by another host, which took this run for dead"),
        "{}",
        slow.logged()
    );
    assert_eq!(scenario.cluster.started_beside(), [""; 0]);
}

in_both_modes!(cancel_ends_the_wait_for_another_host);
async fn cancel_ends_the_wait_for_another_host(mode: Mode) {
    let scenario = Scenario::new(mode);
    let holder = Process::new(&scenario, "run-a", "task-1", Duration::from_secs(1 << 30));
    let waiting = Process::new(&scenario, "run-b", "task-2", Duration::ZERO);
    let result = tokio::select! {
        _ = holder.run() => unreachable!("this host never continues"),
        result = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            tokio::join!(waiting.run(), async {
                tokio::time::sleep(Duration::from_secs(3)).await;
                waiting.cancel.cancel();
            }).0
        } => result,
    };
    assert_eq!(result["errorCode"], "cancelled", "{result}");
    assert_eq!(result["resultJson"]["executionCancellation"]["state"], "acknowledged", "{result}");
}

in_both_modes!(refused_claim_is_logged_once_and_leaves_the_guard);
async fn refused_claim_is_logged_once_and_leaves_the_guard(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario.cluster.fault("create claim", vec![Fault::Answer(403, "jobs need an owner label"); 2]);
    let warning = "[paperclip] Warning: cannot claim the start of this agent's runs in namespace paperclip — two \
                   hosts that start one at the same moment would not see each other: HTTP-Code: 403 Message: jobs \
                   need an owner label\n";
    for _ in 0..2 {
        scenario.cluster.script(success_over(Duration::from_secs(5)));
        let result = scenario.run().await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        assert_eq!(scenario.host.err().matches(warning).count(), 1, "{}", scenario.host.err());
    }
    assert_eq!(scenario.cluster.count("delete claim"), 0);
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(undeletable_claim_does_not_stop_the_next_run);
async fn undeletable_claim_does_not_stop_the_next_run(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario.cluster.fault("delete claim", vec![Fault::Answer(403, "jobs.batch is forbidden"); 100]);
    for _ in 0..2 {
        scenario.cluster.script(success_over(Duration::from_secs(5)));
        let result = scenario.run().await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
    }
    assert!(scenario.host.err().contains("[paperclip] Warning: failed to release the claim Job"));
    assert!(scenario.host.err().contains("[paperclip] Warning: cannot claim the start of this agent's runs"));
}

in_both_modes!(last_job_of_a_quota_goes_to_the_run_not_its_claim);
async fn last_job_of_a_quota_goes_to_the_run_not_its_claim(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5)));
    // The quota counts the claim for some seconds after it is gone.
    scenario.cluster.fault("create job", vec![Fault::Answer(403, "exceeded quota: jobs"); 5]);
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scenario.cluster.count("delete claim"), 1);
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(claim_with_lost_answer_is_held);
async fn claim_with_lost_answer_is_held(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5)));
    scenario.cluster.fault("create claim", [Fault::LostAnswer]);
    let result = scenario.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(!scenario.host.out().contains("Waiting for another host"), "{}", scenario.host.out());
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(claim_request_that_keeps_failing_starts_nothing);
async fn claim_request_that_keeps_failing_starts_nothing(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario.cluster.fault("create claim", vec![Fault::Answer(500, "etcd is gone"); 100]);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_concurrency_guard_unreachable", "{result}");
    assert_eq!(scenario.cluster.count("create job"), 0);
}

in_both_modes!(create_still_under_way_leaves_its_claim_to_overrule);
async fn create_still_under_way_leaves_its_claim_to_overrule(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(5)));
    // The four attempts to create the Job arrive when the run has given them up.
    let mut requests = 0;
    scenario.cluster.delay_requests(Box::new(move || {
        requests += 1;
        Duration::from_secs(if (3..=6).contains(&requests) { 3_000 } else { 0 })
    }));
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_job_create_failed", "{result}");
    assert_eq!(scenario.cluster.remaining(), [claim_name("agent-1")]);
    let next = Process::new(&scenario, "run-b", "task-2", Duration::ZERO);
    assert_eq!(next.run().await["errorMessage"], Value::Null, "{}", next.logged());
    tokio::time::sleep(Duration::from_secs(4_000)).await;
    let remaining = scenario.cluster.remaining();
    assert!(remaining.len() == 1 && remaining[0].starts_with("ac-agent-1-run-1-"), "{remaining:?}");
    assert_eq!(scenario.cluster.labels(&remaining[0])["app.kubernetes.io/component"], COMPONENT_CLAIM);
}

/// Pseudo-random numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// A delay: mostly small, sometimes minutes.
    fn milliseconds(&mut self) -> u64 {
        match self.below(20) {
            0 => self.below(200_000),
            1 | 2 => self.below(5_000),
            _ => self.below(40),
        }
    }
}

/// What happened in a race: how many hosts logged each event.
#[derive(Default)]
struct RaceCounts {
    started: usize,
    waited: usize,
    overruled: usize,
    barred: usize,
}

/// Three hosts with one run each of the same agent, on a network that delays some requests for minutes, longer
/// than a run waits for an answer.
async fn race(seed: u64) -> RaceCounts {
    let mut random = Random(seed);
    let scenario = Scenario::new(Mode::Watched);
    for _ in 0..3 {
        let lives = Duration::from_secs(if random.below(2) == 0 { 10 } else { 100_000 });
        scenario.cluster.script(Script { ends_after: lives, ..Script::default() });
    }
    let mut delays = Random(random.below(u64::MAX));
    scenario.cluster.delay_requests(Box::new(move || Duration::from_millis(delays.milliseconds())));
    let processes: Vec<Process> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            let pause = Duration::from_millis(random.milliseconds());
            Process::new(&scenario, &format!("run-{name}"), &format!("task-{name}"), pause)
        })
        .collect();
    let starts: Vec<Duration> = processes.iter().map(|_| Duration::from_millis(random.below(50))).collect();
    futures::future::join_all(processes.iter().zip(starts).map(|(process, start)| async move {
        tokio::time::sleep(start).await;
        let stop = async {
            tokio::time::sleep(Duration::from_secs(1_500)).await;
            process.cancel.cancel();
        };
        tokio::join!(process.run(), stop).0
    }))
    .await;
    // Requests that are still under way arrive.
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(scenario.cluster.started_beside(), [""; 0], "seed {seed}");
    let logs: Vec<String> = processes.iter().map(Process::logged).collect();
    let count = |text: &str| logs.iter().filter(|log| log.contains(text)).count();
    RaceCounts {
        started: count("Created K8s Job"),
        waited: count("Waiting for another host"),
        overruled: count("taken for dead and barred"),
        barred: count("was barred by another host"),
    }
}

#[tokio::test(start_paused = true)]
async fn delayed_requests_never_start_two_jobs_of_an_agent() {
    let mut all = RaceCounts::default();
    for seed in 0..300 {
        let one = race(seed).await;
        all.started += one.started;
        all.waited += one.waited;
        all.overruled += one.overruled;
        all.barred += one.barred;
    }
    let RaceCounts { started, waited, overruled, barred } = all;
    // The races were real: hosts met, took each other for dead, and some of those were alive.
    assert!(
        started >= 300 && waited >= 200 && overruled >= 10 && barred >= 3,
        "{started} {waited} {overruled} {barred}"
    );
}
