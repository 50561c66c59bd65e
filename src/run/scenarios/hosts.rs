//! Several hosts and one agent: whatever the network does, at most one Job of the agent is alive.

use super::*;
use crate::manifest::{COMPONENT_CLAIM, claim_name};

/// A host that stops for a while while it prepares a run, with the agent's claim in its hands.
#[derive(Default)]
struct Halting {
    ear: Ear,
    halt: Duration,
}

impl Host for Halting {
    fn log(&self, channel: Channel, chunk: String, delivery: Delivery) {
        self.ear.log(channel, chunk, delivery);
    }

    async fn meta(&self, meta: Value) -> Result<(), HostError> {
        self.ear.meta(meta).await
    }

    async fn prepare(&self) -> Result<Prepared, HostError> {
        tokio::time::sleep(self.halt).await;
        self.ear.prepare().await
    }

    async fn bundle(&self, order: BundleOrder) -> Result<Bundled, HostError> {
        self.ear.bundle(order).await
    }

    async fn run_status(&self, query: StatusQuery<'_>) -> StatusAnswer {
        self.ear.run_status(query).await
    }
}

/// Another process on the same cluster, with a run of the same agent.
struct Process {
    runner: Runner<OneCluster>,
    host: Arc<Halting>,
    request: String,
    cancel: CancellationToken,
}

impl Process {
    fn new(scene: &Scene, run_id: &str, task: &str, halt: Duration) -> Self {
        let mut request: Value = serde_json::from_str(&scene.request()).expect("a request");
        request["runId"] = json!(run_id);
        request["context"] = json!({"taskId": task});
        Self {
            runner: Runner::new(OneCluster(scene.cluster.clone())),
            host: Arc::new(Halting { halt, ..Halting::default() }),
            request: request.to_string(),
            cancel: CancellationToken::new(),
        }
    }

    async fn run(&self) -> Value {
        let run = self.runner.execute(&self.request, self.host.clone(), self.cancel.clone(), None);
        run.await.expect("the run resolves").to_json()
    }

    fn told(&self) -> String {
        self.host.ear.out() + &self.host.ear.err()
    }
}

in_both_modes!(of_two_hosts_that_start_an_agent_at_once_one_waits_for_the_other);
async fn of_two_hosts_that_start_an_agent_at_once_one_waits_for_the_other(mode: Mode) {
    for (task, code) in [("another", json!("k8s_concurrent_run_blocked")), ("task-1", Value::Null)] {
        let scene = Scene::new(mode).script(success_over(Duration::from_secs(5)));
        let first = Process::new(&scene, "run-a", "task-1", Duration::from_secs(2));
        let second = Process::new(&scene, "run-b", task, Duration::ZERO);
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
                .told()
                .matches(&format!("[paperclip] {waiting} (claim {claim}, Job ac-agent-1-run-a-"))
                .count(),
            1,
            "{}",
            second.told()
        );
        assert_eq!(
            second.told().contains("Reattaching to in-flight K8s Job ac-agent-1-run-a-"),
            code.is_null()
        );
        assert!(!first.told().contains(waiting));
        assert_eq!(scene.cluster.count("create job"), 1);
        assert!(scene.cluster.left().is_empty());
    }
}

in_both_modes!(a_host_that_died_while_it_started_a_run_holds_others_up_for_half_a_minute);
async fn a_host_that_died_while_it_started_a_run_holds_others_up_for_half_a_minute(mode: Mode) {
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(5)));
    let dead = Process::new(&scene, "run-a", "task-1", Duration::from_secs(1 << 30));
    let next = Process::new(&scene, "run-b", "task-2", Duration::ZERO);
    let began = Instant::now();
    let result = tokio::select! {
        _ = dead.run() => unreachable!("it is dead"),
        result = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            next.run().await
        } => result,
    };
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(began.elapsed() > Duration::from_secs(30) && began.elapsed() < Duration::from_secs(60));
    let told = next.told();
    assert!(
        told.contains("has not moved for 30s — its holder is taken for dead and barred from starting"),
        "{told}"
    );
    let left = scene.cluster.left();
    assert!(
        left.len() == 1 && left[0].starts_with("ac-agent-1-run-a-"),
        "what bars the dead host's Job is the cluster's to collect: {left:?}"
    );
    let bar = scene.cluster.labels(&left[0]);
    assert_eq!(bar["app.kubernetes.io/component"], COMPONENT_CLAIM);
}

in_both_modes!(a_host_that_was_only_slow_finds_itself_barred);
async fn a_host_that_was_only_slow_finds_itself_barred(mode: Mode) {
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(600)));
    let slow = Process::new(&scene, "run-a", "task-1", Duration::from_secs(90));
    let next = Process::new(&scene, "run-b", "task-2", Duration::ZERO);
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
        slow.told().contains("was barred by another host, which took this run for dead"),
        "{}",
        slow.told()
    );
    assert_eq!(scene.cluster.started_beside(), [""; 0]);
}

in_both_modes!(a_cancel_ends_the_wait_for_another_host);
async fn a_cancel_ends_the_wait_for_another_host(mode: Mode) {
    let scene = Scene::new(mode);
    let holder = Process::new(&scene, "run-a", "task-1", Duration::from_secs(1 << 30));
    let waiting = Process::new(&scene, "run-b", "task-2", Duration::ZERO);
    let result = tokio::select! {
        _ = holder.run() => unreachable!("it stays"),
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

in_both_modes!(a_claim_that_is_refused_is_told_once_and_the_guard_stands_alone);
async fn a_claim_that_is_refused_is_told_once_and_the_guard_stands_alone(mode: Mode) {
    let scene = Scene::new(mode);
    scene.cluster.fault("create claim", vec![Fault::Answer(403, "jobs need an owner label"); 2]);
    let warning = "[paperclip] Warning: cannot claim the start of this agent's runs in namespace paperclip — two \
                   hosts that start one at the same moment would not see each other: HTTP-Code: 403 Message: jobs \
                   need an owner label\n";
    for told in [1, 1] {
        scene.cluster.script(success_over(Duration::from_secs(5)));
        let result = scene.run().await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
        assert_eq!(scene.ear.err().matches(warning).count(), told, "{}", scene.ear.err());
    }
    assert_eq!(scene.cluster.count("delete claim"), 0);
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(a_claim_that_nobody_may_delete_keeps_no_run_from_starting);
async fn a_claim_that_nobody_may_delete_keeps_no_run_from_starting(mode: Mode) {
    let scene = Scene::new(mode);
    scene.cluster.fault("delete claim", vec![Fault::Answer(403, "jobs.batch is forbidden"); 100]);
    for _ in 0..2 {
        scene.cluster.script(success_over(Duration::from_secs(5)));
        let result = scene.run().await;
        assert_eq!(result["errorMessage"], Value::Null, "{result}");
    }
    assert!(scene.ear.err().contains("[paperclip] Warning: failed to release the claim Job"));
    assert!(scene.ear.err().contains("[paperclip] Warning: cannot claim the start of this agent's runs"));
}

in_both_modes!(the_last_job_a_quota_admits_goes_to_the_run_and_not_to_its_claim);
async fn the_last_job_a_quota_admits_goes_to_the_run_and_not_to_its_claim(mode: Mode) {
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(5)));
    scene.cluster.fault("create job", [Fault::Answer(403, "exceeded quota: jobs")]);
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert_eq!(scene.cluster.count("delete claim"), 1);
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(a_claim_whose_answer_is_lost_is_held_all_the_same);
async fn a_claim_whose_answer_is_lost_is_held_all_the_same(mode: Mode) {
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(5)));
    scene.cluster.fault("create claim", [Fault::LostAnswer]);
    let result = scene.run().await;
    assert_eq!(result["errorMessage"], Value::Null, "{result}");
    assert!(!scene.ear.out().contains("Waiting for another host"), "{}", scene.ear.out());
    assert!(scene.cluster.left().is_empty());
}

in_both_modes!(a_cluster_that_cannot_be_asked_for_a_claim_starts_nothing);
async fn a_cluster_that_cannot_be_asked_for_a_claim_starts_nothing(mode: Mode) {
    let scene = Scene::new(mode);
    scene.cluster.fault("create claim", vec![Fault::Answer(500, "etcd is gone"); 100]);
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_concurrency_guard_unreachable", "{result}");
    assert_eq!(scene.cluster.count("create job"), 0);
}

in_both_modes!(a_creation_that_may_still_be_under_way_leaves_its_claim_to_be_overruled);
async fn a_creation_that_may_still_be_under_way_leaves_its_claim_to_be_overruled(mode: Mode) {
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(5)));
    // The four attempts to create the Job arrive when nobody waits for them any more.
    let mut requests = 0;
    scene.cluster.travel(Box::new(move || {
        requests += 1;
        Duration::from_secs(if (3..=6).contains(&requests) { 3_000 } else { 0 })
    }));
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_job_create_failed", "{result}");
    assert_eq!(scene.cluster.left(), [claim_name("agent-1")]);
    let next = Process::new(&scene, "run-b", "task-2", Duration::ZERO);
    assert_eq!(next.run().await["errorMessage"], Value::Null, "{}", next.told());
    tokio::time::sleep(Duration::from_secs(4_000)).await;
    let left = scene.cluster.left();
    assert!(left.len() == 1 && left[0].starts_with("ac-agent-1-run-1-"), "{left:?}");
    assert_eq!(scene.cluster.labels(&left[0])["app.kubernetes.io/component"], COMPONENT_CLAIM);
}

/// Numbers that follow from a seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Mostly little, sometimes much.
    fn milliseconds(&mut self) -> u64 {
        match self.below(20) {
            0 => self.below(200_000),
            1 | 2 => self.below(5_000),
            _ => self.below(40),
        }
    }
}

/// What a race came to.
#[derive(Default)]
struct Tally {
    started: usize,
    waited: usize,
    overruled: usize,
    barred: usize,
}

/// Three hosts with one run each of the same agent, on a network that delays some requests for minutes, longer
/// than anybody waits for an answer.
async fn race(seed: u64) -> Tally {
    let mut numbers = Numbers(seed);
    let scene = Scene::new(Mode::Watched);
    for _ in 0..3 {
        let lives = Duration::from_secs(if numbers.below(2) == 0 { 10 } else { 100_000 });
        scene.cluster.script(Script { ends_after: lives, ..Script::default() });
    }
    let mut on_the_way = Numbers(numbers.below(u64::MAX));
    scene.cluster.travel(Box::new(move || Duration::from_millis(on_the_way.milliseconds())));
    let processes: Vec<Process> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            let halt = Duration::from_millis(numbers.milliseconds());
            Process::new(&scene, &format!("run-{name}"), &format!("task-{name}"), halt)
        })
        .collect();
    let starts: Vec<Duration> = processes.iter().map(|_| Duration::from_millis(numbers.below(50))).collect();
    futures::future::join_all(processes.iter().zip(starts).map(|(process, start)| async move {
        tokio::time::sleep(start).await;
        let stop = async {
            tokio::time::sleep(Duration::from_secs(1_500)).await;
            process.cancel.cancel();
        };
        tokio::join!(process.run(), stop).0
    }))
    .await;
    // What is still under way arrives.
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(scene.cluster.started_beside(), [""; 0], "seed {seed}");
    let told: Vec<String> = processes.iter().map(Process::told).collect();
    let count = |text: &str| told.iter().filter(|told| told.contains(text)).count();
    Tally {
        started: count("Created K8s Job"),
        waited: count("Waiting for another host"),
        overruled: count("taken for dead and barred"),
        barred: count("was barred by another host"),
    }
}

#[tokio::test(start_paused = true)]
async fn no_delay_of_any_request_lets_two_hosts_run_an_agent_at_once() {
    let mut all = Tally::default();
    for seed in 0..300 {
        let one = race(seed).await;
        all.started += one.started;
        all.waited += one.waited;
        all.overruled += one.overruled;
        all.barred += one.barred;
    }
    let Tally { started, waited, overruled, barred } = all;
    // The races were races: hosts met, took each other for dead, and were wrong.
    assert!(
        started >= 300 && waited >= 200 && overruled >= 10 && barred >= 3,
        "{started} {waited} {overruled} {barred}"
    );
}
