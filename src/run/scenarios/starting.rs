//! Why a run's container does not start: one scenario for each step of the table of waiting reasons, and when a result
//! may say that nothing of the agent's work had started.

use super::*;
use crate::cluster::WatchKind;
use crate::run::scenarios::fake_cluster::WatchFault;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The status of a pod on a node whose `claude` waits.
fn waiting(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}], "containerStatuses": [
        {"name": "claude", "state": {"waiting": {"reason": reason, "message": message}}}]})
}

fn creating() -> Value {
    waiting("ContainerCreating", "")
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().expect("a list").push(item);
}

/// A pod that has this status and never runs.
fn stuck(status: Value) -> Script {
    Script { stuck_status: Some(status), ..Script::default() }
}

/// The states that a queue gives a Job.
fn suspended(is: bool) -> Value {
    let status = if is { "True" } else { "False" };
    let condition =
        json!({"type": "Suspended", "status": status, "reason": "JobSuspended", "message": "Job suspended"});
    json!({"spec": {"suspend": is}, "status": {"conditions": [condition]}})
}

fn message(result: &Value) -> &str {
    message_of(result)
}

/// Whether the result says that nothing of the agent's work had started.
fn is_proven(result: &Value) -> bool {
    result["executionRecovery"] == json!({"kind": "bootstrap", "providerWorkStarted": false})
}

/// A failed start with this message after this time, and the proof that nothing had started.
async fn assert_fails(scenario: &Scenario, text: &str, after: u64) {
    let (result, took) = scenario.timed_run().await;
    assert_eq!(result["errorCode"], "k8s_pod_schedule_failed", "{result}");
    let message = message(&result);
    assert!(message.starts_with(&format!("Pod scheduling failed: {text}")), "{message}");
    assert!(scenario.host.err().contains(&format!("[paperclip] {message}")));
    assert!(took.as_secs() >= after && took.as_secs() <= after + 8, "{message}: {took:?}");
    let waited: u64 = message
        .rsplit_once("waited ")
        .and_then(|(_, rest)| rest.strip_suffix("s]")?.parse().ok())
        .expect("waited");
    assert!(waited + 8 >= took.as_secs() && waited <= took.as_secs(), "{message}: {took:?}");
    assert!(is_proven(&result), "{result}");
    assert!(scenario.cluster.remaining().is_empty(), "{:?}", scenario.cluster.remaining());
}

in_both_modes!(each_waiting_reason_is_named_after_its_grace);
async fn each_waiting_reason_is_named_after_its_grace(mode: Mode) {
    for (reason, text, after) in [
        ("ErrImagePull", "Image pull failed for \"claude\": the words [image: ErrImagePull", 60),
        ("ImagePullBackOff", "Image pull failed for \"claude\": the words [image: ImagePullBackOff", 60),
        ("ImageInspectError", "Image pull failed for \"claude\": the words [image: ImageInspectError", 60),
        (
            "RegistryUnavailable",
            "Image pull failed for \"claude\": the words [image: RegistryUnavailable",
            60,
        ),
        ("InvalidImageName", "Image pull failed for \"claude\": the words [image: InvalidImageName", 0),
        ("ErrImageNeverPull", "Image pull failed for \"claude\": the words [image: ErrImageNeverPull", 0),
        ("SignatureValidationFailed", "Image pull failed for \"claude\": the words [image: SignatureVal", 0),
        (
            "CreateContainerConfigError",
            "Container \"claude\" cannot be created: the words [container start: Cre",
            60,
        ),
        (
            "CreateContainerError",
            "Container \"claude\" cannot be created: the words [container start: Create",
            60,
        ),
        (
            "PreCreateHookError",
            "Container \"claude\" cannot be created: the words [container start: PreCre",
            60,
        ),
        (
            "RunContainerError",
            "Container \"claude\" cannot be started: the words [container start: RunCo",
            60,
        ),
        (
            "PreStartHookError",
            "Container \"claude\" cannot be started: the words [container start: PreSt",
            60,
        ),
        (
            "PostStartHookError",
            "Container \"claude\" cannot be started: the words [container start: PostSt",
            60,
        ),
        (
            "CrashLoopBackOff",
            "Container \"claude\" crash loop: the words [container start: CrashLoopBackOff",
            0,
        ),
    ] {
        let scenario = Scenario::new(mode).script(stuck(waiting(reason, "the\nwords")));
        assert_fails(&scenario, text, after).await;
    }
}

in_both_modes!(missing_secret_that_comes_in_time_ends_nothing);
async fn missing_secret_that_comes_in_time_ends_nothing(mode: Mode) {
    let scenario = Scenario::new(mode).script(Script {
        early_statuses: vec![(seconds(1), waiting("CreateContainerConfigError", "secret \"x\" not found"))],
        start_at: seconds(45),
        ..success_over(seconds(5))
    });
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
}

in_both_modes!(sidecar_that_runs_does_not_make_a_pod_ready);
async fn sidecar_that_runs_does_not_make_a_pod_ready(mode: Mode) {
    let mut status = waiting("ImagePullBackOff", "Back-off pulling image");
    push(&mut status["containerStatuses"], json!({"name": "proxy", "state": {"running": {}}}));
    let scenario = Scenario::new(mode).script(stuck(status)).config(json!({"imagePullGraceSec": 5}));
    assert_fails(&scenario, "Image pull failed for \"claude\": Back-off pulling image [image: Im", 5).await;
    assert!(!scenario.host.out().contains("Pod running"));
}

in_both_modes!(image_of_another_container_does_not_stop_a_run);
async fn image_of_another_container_does_not_stop_a_run(mode: Mode) {
    let mut status = creating();
    let state = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
    push(&mut status["containerStatuses"], json!({"name": "shipper", "state": state}));
    let scenario = Scenario::new(mode).config(json!({"imagePullGraceSec": 5})).script(Script {
        early_statuses: vec![(seconds(1), status)],
        start_at: seconds(90),
        ..success_over(seconds(5))
    });
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
}

in_both_modes!(native_sidecar_that_fails_once_is_waited_for);
async fn native_sidecar_that_fails_once_is_waited_for(mode: Mode) {
    let status = |state: Value| {
        let mut status = creating();
        status["initContainerStatuses"] = json!([{"name": "proxy", "restartCount": 1, "state": state}]);
        status
    };
    let sidecar = json!({"initContainers": [{"name": "proxy", "restartPolicy": "Always"}]});
    let looping = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
    let scenario = Scenario::new(mode).script(Script {
        early_statuses: vec![
            (seconds(1), status(json!({"terminated": {"exitCode": 1, "reason": "Error"}}))),
            (seconds(4), status(looping.clone())),
        ],
        start_at: seconds(14),
        pod_spec: Some(sidecar.clone()),
        ..success_over(seconds(5))
    });
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);

    // One that never stays up ends the run in the end.
    let script = Script { pod_spec: Some(sidecar), ..stuck(status(looping)) };
    let scenario = Scenario::new(mode).script(script).config(json!({"podStartTimeoutSec": 100}));
    assert_fails(&scenario, "Init container \"proxy\" crash loop: back-off 10s [container start: Crash", 110)
        .await;
}

in_both_modes!(failed_init_container_is_named_with_its_words);
async fn failed_init_container_is_named_with_its_words(mode: Mode) {
    for phase in ["Pending", "Failed"] {
        let failed = json!({"terminated": {"exitCode": 3, "reason": "Error", "message": "no space\nleft"}});
        let status = json!({"phase": phase, "initContainerStatuses": [{"name": "write-prompt", "state": failed}],
            "containerStatuses": [{"name": "claude", "state": {"waiting": {"reason": "PodInitializing"}}}]});
        let scenario = Scenario::new(mode).script(stuck(status));
        let text = "Init container \"write-prompt\" failed with exit code 3: Error: no space left [init container: E";
        assert_fails(&scenario, text, 0).await;
    }
}

in_both_modes!(container_that_cannot_start_is_no_start);
async fn container_that_cannot_start_is_no_start(mode: Mode) {
    let state = json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: \"sh\": not found",
        "startedAt": "1970-01-01T00:00:00Z"}});
    let status = json!({"phase": "Failed", "containerStatuses": [{"name": "claude", "state": state}]});
    let scenario = Scenario::new(mode).script(stuck(status));
    let (result, _) = scenario.timed_run().await;
    assert!(
        message(&result)
            .contains("-pod reached phase=Failed: claude exited 128 (StartError): exec: \"sh\": not found"),
        "{result}"
    );
    assert!(is_proven(&result), "{result}");
}

in_both_modes!(pod_refused_by_its_node_is_named);
async fn pod_refused_by_its_node_is_named(mode: Mode) {
    for reason in ["OutOfcpu", "NodeAffinity", "UnexpectedAdmissionError"] {
        let status = json!({"phase": "Failed", "reason": reason, "message": "Pod was rejected"});
        let scenario = Scenario::new(mode).script(stuck(status));
        let (result, took) = scenario.timed_run().await;
        let text = format!(
            "-pod reached phase=Failed: {reason} (Pod was rejected) [node admission: {reason}, waited "
        );
        assert!(message(&result).contains(&text), "{result}");
        assert!(is_proven(&result), "{result}");
        assert!(took < seconds(8), "{took:?}");
    }
}

in_both_modes!(pending_pod_that_is_deleted_is_named_with_its_job);
async fn pending_pod_that_is_deleted_is_named_with_its_job(mode: Mode) {
    let failed = json!({"status": {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded",
        "message": "Job has reached the specified backoff limit"}]}});
    let mut preempted = creating();
    let target = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": "preempting to accommodate a higher priority pod"});
    push(&mut preempted["conditions"], target);
    let scenario = Scenario::new(mode).script(Script {
        early_statuses: vec![(seconds(1), creating()), (seconds(10), preempted)],
        start_at: seconds(3600),
        no_pod_from: Some(seconds(14)),
        job_states: vec![(seconds(15), failed)],
        ..Script::default()
    });
    let (result, took) = scenario.timed_run().await;
    assert_eq!(result["errorCode"], "k8s_pod_schedule_failed", "{result}");
    assert!(
        message(&result).contains(
            "-pod was gone before its container ran: the scheduler preempted the pod for one of higher priority \
             [PreemptionByScheduler]: preempting to accommodate a higher priority pod; its Job failed: \
             BackoffLimitExceeded: Job has reached"
        ),
        "{result}"
    );
    assert!(is_proven(&result), "{result}");
    assert!(took < seconds(25), "{took:?}");
}

in_both_modes!(unscheduled_pod_is_waited_for_within_its_limits);
async fn unscheduled_pod_is_waited_for_within_its_limits(mode: Mode) {
    let unschedulable = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/3 nodes are available"}]});
    let text = "Pod unschedulable: 0/3 nodes are available [scheduling: Unschedulable";
    assert_fails(&Scenario::new(mode).script(stuck(unschedulable.clone())), text, 0).await;
    let scenario =
        Scenario::new(mode).script(stuck(unschedulable)).config(json!({"unschedulableGraceSec": 900}));
    assert_fails(&scenario, text, 900).await;
    // No scheduler has said anything.
    let scenario = Scenario::new(mode).script(stuck(json!({"phase": "Pending"})));
    assert_fails(&scenario, "Timed out waiting for pod to be scheduled (66", 660).await;
}

#[tokio::test(start_paused = true)]
async fn pod_scheduled_behind_a_silent_watch_is_not_given_up() {
    let unschedulable = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu"}]});
    let scenario = Scenario::new(Mode::Watched).config(json!({"unschedulableGraceSec": 5})).script(Script {
        early_statuses: vec![(Duration::ZERO, unschedulable), (seconds(4), creating())],
        start_at: seconds(8),
        ..success_over(seconds(5))
    });
    scenario.cluster.fault_watch(WatchKind::Pods, [WatchFault::Silent(seconds(3))]);
    assert_eq!(scenario.run().await["errorMessage"], Value::Null, "{}", scenario.host.out());
}

in_both_modes!(healthy_pull_of_ten_minutes_succeeds);
async fn healthy_pull_of_ten_minutes_succeeds(mode: Mode) {
    let scenario = Scenario::new(mode).script(Script {
        early_statuses: vec![(seconds(1), creating())],
        start_at: seconds(630),
        ..success_over(seconds(5))
    });
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
}

in_both_modes!(progress_renews_the_limit_of_a_start);
async fn progress_renews_the_limit_of_a_start(mode: Mode) {
    let with_init = |state: Value| {
        let mut status = creating();
        status["initContainerStatuses"] = json!([{"name": "write-prompt", "state": state}]);
        status
    };
    let pulled = || {
        let mut status = with_init(json!({"terminated": {"exitCode": 0}}));
        status["containerStatuses"][0]["imageID"] = json!("sha256:1");
        status
    };
    let config = json!({"podStartTimeoutSec": 60});
    let statuses = vec![
        (Duration::ZERO, json!({"phase": "Pending"})),
        (seconds(50), with_init(json!({"waiting": {"reason": "PodInitializing"}}))),
        (seconds(105), with_init(json!({"terminated": {"exitCode": 0}}))),
        (seconds(160), pulled()),
    ];
    let scenario = Scenario::new(mode).config(config.clone()).script(Script {
        early_statuses: statuses.clone(),
        start_at: seconds(215),
        ..success_over(seconds(5))
    });
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);

    // Without further progress the limit holds, and the message says where the pod stands.
    let scenario = Scenario::new(mode).config(config).script(Script {
        early_statuses: statuses,
        start_at: seconds(3600),
        ..success_over(seconds(5))
    });
    let (result, took) = scenario.timed_run().await;
    let text = "s: phase=Pending, init/write-prompt: done (exit 0), claude: waiting (ContainerCreating) [container start, waited 22";
    let message = message(&result);
    assert!(message.contains("-pod made no progress for 6") && message.contains(text), "{result}");
    assert!(took >= seconds(226) && took < seconds(235), "{took:?}");
}

in_both_modes!(pull_that_the_node_still_works_on_has_a_second_period);
async fn pull_that_the_node_still_works_on_has_a_second_period(mode: Mode) {
    let script = |start_at| Script {
        early_statuses: vec![(seconds(1), creating())],
        pod_events: vec![(seconds(2), "Pulling", "Pulling image \"agent:1\"")],
        start_at,
        ..success_over(seconds(5))
    };
    let config = json!({"podStartTimeoutSec": 100});
    let scenario = Scenario::new(mode).script(script(seconds(200))).config(config.clone());
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    assert!(
        scenario.host.out().contains("-pod: the node still pulls an image — waiting on"),
        "{}",
        scenario.host.out()
    );
    let scenario = Scenario::new(mode).script(script(seconds(3600))).config(config);
    let (result, _) = scenario.timed_run().await;
    assert!(message(&result).contains("-pod made no progress for 11"), "{result}");
    assert!(message(&result).contains(": its node still pulls an image [image, waited 22"), "{result}");
}

in_both_modes!(volume_that_cannot_be_mounted_is_named_by_its_events);
async fn volume_that_cannot_be_mounted_is_named_by_its_events(mode: Mode) {
    let script = || Script {
        pod_events: vec![
            (seconds(9), "FailedMount", "MountVolume.SetUp failed for volume \"data\""),
            (seconds(60), "FailedAttachVolume", "Multi-Attach error for volume \"pvc-1\""),
        ],
        ..stuck(creating())
    };
    let scenario = Scenario::new(mode).script(script()).config(json!({"podStartTimeoutSec": 100}));
    let text =
        "A volume cannot be attached: Multi-Attach error for volume \"pvc-1\" [volumes: FailedAttachVolume";
    assert_fails(&scenario, text, 110).await;
    let said = "-pod: A volume cannot be mounted: MountVolume.SetUp failed for volume \"data\"";
    assert!(scenario.host.out().contains(said), "said at once: {}", scenario.host.out());
    assert_eq!(scenario.cluster.count("list events"), 2, "once, and at the end");
    // Where Events may not be read the pod's own words are what there is.
    let scenario = Scenario::new(mode).script(script()).config(json!({"podStartTimeoutSec": 100}));
    scenario.cluster.fault("list events", [Fault::Answer(403, "events is forbidden")]);
    let (result, _) = scenario.timed_run().await;
    assert!(message(&result).contains("-pod made no progress for 11"), "{result}");
    assert_eq!(scenario.cluster.count("list events"), 1, "a refusal is not tried again");
}

in_both_modes!(refused_pod_is_said_at_once_and_ends_after_a_minute);
async fn refused_pod_is_said_at_once_and_ends_after_a_minute(mode: Mode) {
    let why = "Error creating: pods \"x\" is forbidden: exceeded quota: compute";
    let script = |pod_at| Script {
        pod_at,
        start_at: pod_at + seconds(2),
        job_events: vec![(seconds(1), "FailedCreate", why)],
        ..success_over(seconds(5))
    };
    let scenario = Scenario::new(mode).script(script(seconds(3600)));
    let text = format!("No pod was created: {why} [pod creation: FailedCreate");
    assert_fails(&scenario, &text, 65).await;
    assert!(
        scenario.host.err().contains(&format!(": No pod was created: {why}\n")),
        "{}",
        scenario.host.err()
    );
    assert_eq!(scenario.cluster.count("list events"), 2, "after a few seconds, and at the end");
    // A quota that becomes free in time ends nothing.
    let scenario = Scenario::new(mode).script(script(seconds(50)));
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
}

in_both_modes!(job_without_pod_says_what_to_grant_and_what_was_warned);
async fn job_without_pod_says_what_to_grant_and_what_was_warned(mode: Mode) {
    let never = seconds(3600);
    let scenario = Scenario::new(mode).script(Script { pod_at: never, start_at: never, ..Script::default() });
    scenario.cluster.warn("would violate PodSecurity \"restricted:latest\":\nseccompProfile");
    scenario.cluster.fault("list events", [Fault::Answer(403, "events is forbidden")]);
    assert_fails(&scenario, "No pod was created for Job ac-agent-1-run-1-", 120).await;
    let (out, err) = (scenario.host.out(), scenario.host.err());
    let warned = "would violate PodSecurity \"restricted:latest\": seccompProfile";
    assert!(err.contains("[paperclip] Warning of the API server for Job ac-agent-1-run-1-"), "{err}");
    assert!(err.matches(warned).count() == 2, "at once, and in the message: {err}");
    let grant = "the reason cannot be read: HTTP-Code: 403 Message: events is forbidden (grant the verb list on events to see it)";
    assert_eq!(err.matches(grant).count(), 2, "{err}");
    assert!(err.contains("has no pod yet, and the reason cannot be"), "{err}");
    assert_eq!(out.matches("Waiting for Job controller to create pod").count(), 1);
    assert_eq!(scenario.cluster.count("list events"), 1, "a refusal is not tried again");
}

in_both_modes!(suspended_job_waits_for_as_long_as_its_queue_takes);
async fn suspended_job_waits_for_as_long_as_its_queue_takes(mode: Mode) {
    let script = || Script {
        pod_at: seconds(7205),
        start_at: seconds(7210),
        job_states: vec![(Duration::ZERO, suspended(true)), (seconds(7200), suspended(false))],
        ..success_over(seconds(5))
    };
    let scenario = Scenario::new(mode).script(script());
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    let line = "[paperclip] Job is suspended — waiting as long as it takes";
    assert_eq!(scenario.host.out().matches(line).count(), 1, "{}", scenario.host.out());

    let scenario = Scenario::new(mode).script(script()).config(json!({"queueTimeoutSec": 300}));
    let (result, took) = scenario.timed_run().await;
    assert!(message(&result).contains("Job is suspended [queue: JobSuspended, waited 3"), "{result}");
    assert!(scenario.host.out().contains("— waiting for at most 300s"));
    assert!(took >= seconds(300) && took < seconds(320), "{took:?}");
    assert!(is_proven(&result), "{result}");
}

in_both_modes!(run_card_shows_what_is_waited_for);
async fn run_card_shows_what_is_waited_for(mode: Mode) {
    let unschedulable = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."}]});
    let scenario = Scenario::new(mode).script(Script {
        pod_at: seconds(205),
        job_states: vec![(Duration::ZERO, suspended(true)), (seconds(200), suspended(false))],
        early_statuses: vec![(seconds(205), unschedulable), (seconds(220), creating())],
        pod_events: vec![(seconds(221), "Pulling", "Pulling image \"agent:1\"")],
        start_at: seconds(400),
        ..success_over(seconds(5))
    });
    let scenario = scenario.config(json!({"unschedulableGraceSec": 60}));
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    let mut cards = scenario.host.cards.lock().unwrap().clone();
    let queued = cards.iter().filter(|card| *card == "Queued: Job is suspended").count();
    assert!((3..=4).contains(&queued), "again while it waits: {cards:?}");
    let pulling = cards.iter().filter(|card| card.starts_with("Pulling: Pod ac-agent-1-run-1-")).count();
    assert!((2..=4).contains(&pulling), "{cards:?}");
    assert!(cards.len() < 16 && cards.iter().all(|card| card.chars().count() <= 180), "{cards:?}");
    cards.dedup_by_key(|card| card.split(':').next().map(str::to_owned));
    let stages: Vec<_> = cards.iter().filter_map(|card| card.split(':').next()).collect();
    let order: Vec<_> = stages.iter().filter(|stage| **stage != "Scheduling").copied().collect();
    assert_eq!(order, ["Queued", "Starting", "Pulling", "Running"], "{cards:?}");
    let line = "Scheduling: Pod unschedulable: 0/1 nodes are available: 1 Insufficient cpu.";
    assert!(cards.iter().any(|card| card == line) || stages.contains(&"Scheduling"), "{cards:?}");
    assert!(
        cards.last().is_some_and(|card| card.starts_with("Running: Claude runs in pod ac-")),
        "{cards:?}"
    );
}

in_both_modes!(job_suspended_again_before_its_pod_ran_is_queued);
async fn job_suspended_again_before_its_pod_ran_is_queued(mode: Mode) {
    let scenario = Scenario::new(mode).script(Script {
        early_statuses: vec![(seconds(1), creating())],
        start_at: seconds(3600),
        no_pod_from: Some(seconds(20)),
        job_states: vec![(seconds(18), suspended(true))],
        ..Script::default()
    });
    let scenario = scenario.config(json!({"queueTimeoutSec": 300}));
    let (result, _) = scenario.timed_run().await;
    assert!(message(&result).contains("Job is suspended [queue: JobSuspended"), "{result}");
    assert_eq!(result["resultJson"]["k8s"]["cause"], "job_suspended", "{result}");
    assert!(is_proven(&result), "{result}");
}

in_both_modes!(pod_evicted_before_its_container_was_made_is_proven);
async fn pod_evicted_before_its_container_was_made_is_proven(mode: Mode) {
    let unmade = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory.",
        "containerStatuses": [{"name": "claude", "state": {"terminated": {"exitCode": 137,
            "reason": "ContainerStatusUnknown"}}}]});
    let scenario = Scenario::new(mode).script(Script {
        early_statuses: vec![(seconds(1), creating()), (seconds(10), unmade)],
        start_at: seconds(3600),
        ..Script::default()
    });
    let (result, took) = scenario.timed_run().await;
    assert!(message(&result).contains("-pod reached phase=Failed: Evicted (The node was low"), "{result}");
    assert_eq!(result["resultJson"]["k8s"]["cause"], "evicted_for_memory", "{result}");
    assert_eq!(result["exitCode"], Value::Null, "{result}");
    assert!(is_proven(&result), "{result}");
    assert!(took < seconds(20), "{took:?}");
}

in_both_modes!(lost_pod_that_no_other_follows_is_said_to_have_been);
async fn lost_pod_that_no_other_follows_is_said_to_have_been(mode: Mode) {
    let scenario = Scenario::new(mode).script(Script {
        early_statuses: vec![(seconds(1), creating())],
        start_at: seconds(3600),
        no_pod_from: Some(seconds(20)),
        ..Script::default()
    });
    let (result, _) = scenario.timed_run().await;
    assert!(message(&result).contains(" is gone, and no other was created within 1"), "{result}");
    assert!(!message(&result).contains("No pod was created"), "{result}");
    assert_eq!(result["resultJson"]["k8s"]["cause"], "pod_deleted", "{result}");
}

in_both_modes!(gated_pod_waits_like_a_queued_job);
async fn gated_pod_waits_like_a_queued_job(mode: Mode) {
    let gated = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates"}]});
    let scenario = Scenario::new(mode).script(Script {
        early_statuses: vec![(seconds(1), gated.clone()), (seconds(5000), creating())],
        start_at: seconds(5010),
        ..success_over(seconds(5))
    });
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    let line = "[paperclip] Pod is held back by a scheduling gate: Scheduling is blocked due to non-empty scheduling gates";
    assert_eq!(scenario.host.out().matches(line).count(), 1, "{}", scenario.host.out());
    let scenario = Scenario::new(mode).script(stuck(gated)).config(json!({"queueTimeoutSec": 30}));
    assert_fails(&scenario, "Pod is held back by a scheduling gate: Scheduling is", 30).await;
}

in_both_modes!(cancel_and_time_limit_reach_a_waiting_run);
async fn cancel_and_time_limit_reach_a_waiting_run(mode: Mode) {
    let queued = || Script {
        pod_at: seconds(9000),
        job_states: vec![(Duration::ZERO, suspended(true))],
        ..Script::default()
    };
    // The run's own limit.
    let scenario = Scenario::new(mode).script(queued()).config(json!({"timeoutSec": 100, "graceSec": 20}));
    let (result, took) = scenario.timed_run().await;
    assert_eq!((&result["errorCode"], &result["timedOut"]), (&json!("timeout"), &json!(true)), "{result}");
    let text = "Timed out after 100s: Job is suspended [queue: JobSuspended, waited 1";
    assert!(message(&result).starts_with(text), "{result}");
    assert!(scenario.host.err().contains("[paperclip] Timed out after 100s: Job is suspended"));
    assert!(took >= seconds(120) && took < seconds(125), "{took:?}");
    assert!(is_proven(&result), "{result}");
    // The control plane.
    let statuses = Mutex::new(vec![
        StatusAnswer::Status(Some("running".into())),
        StatusAnswer::Status(Some("cancelled".into())),
    ]);
    let scenario = Scenario::new(mode).script(queued()).host(FakeHost { statuses, ..FakeHost::default() });
    let (result, took) = scenario.timed_run().await;
    assert_eq!(result["errorCode"], "cancelled", "{result}");
    assert!(took < seconds(40), "{took:?}");
    assert!(scenario.cluster.remaining().is_empty());
    // The host.
    let scenario = Scenario::new(mode).script(queued());
    let cancel = scenario.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(seconds(50)).await;
        cancel.cancel();
    });
    let (result, took) = scenario.timed_run().await;
    assert_eq!(result["executionRecovery"]["kind"], "interrupted", "{result}");
    assert!(took < seconds(60), "{took:?}");
}

/// A Job of an earlier run of the agent, on the same task.
pub(super) fn put_orphan(scenario: &Scenario, script: Script) {
    scenario.cluster.put_job(
        "ac-orphan",
        &[
            ("paperclip.io/agent-id", "agent-1"),
            ("paperclip.io/adapter-type", "claude_k8s"),
            ("app.kubernetes.io/managed-by", "paperclip"),
            ("paperclip.io/run-id", "run-0"),
            ("paperclip.io/task-id", "task-1"),
        ],
        script,
    );
}

in_both_modes!(reattached_job_with_a_pending_pod_waits_like_a_new_one);
async fn reattached_job_with_a_pending_pod_waits_like_a_new_one(mode: Mode) {
    let scenario = Scenario::new(mode);
    put_orphan(
        &scenario,
        Script {
            early_statuses: vec![(seconds(1), creating())],
            start_at: seconds(200),
            ..success_over(seconds(5))
        },
    );
    tokio::time::sleep(seconds(40)).await;
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    assert!(scenario.host.out().contains("[paperclip] Reattached to pod ac-orphan-pod"));

    let scenario = Scenario::new(mode).config(json!({"imagePullGraceSec": 5}));
    put_orphan(&scenario, stuck(waiting("ErrImagePull", "denied")));
    tokio::time::sleep(seconds(40)).await;
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_pod_reattach_failed", "{result}");
    let text = "Pod reattach failed: Image pull failed for \"claude\": denied [image: ErrImagePull, waited ";
    assert!(message(&result).starts_with(text), "{result}");
    assert!(!is_proven(&result), "what an earlier pod of the Job did is not known: {result}");

    // A queue holds the Job, so that its age says nothing.
    let scenario = Scenario::new(mode);
    put_orphan(
        &scenario,
        Script {
            pod_at: seconds(1000),
            start_at: seconds(1003),
            job_states: vec![(Duration::ZERO, suspended(true)), (seconds(900), suspended(false))],
            ..success_over(seconds(5))
        },
    );
    tokio::time::sleep(seconds(40)).await;
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
}

in_both_modes!(job_deleted_before_its_container_ran_is_proven);
async fn job_deleted_before_its_container_ran_is_proven(mode: Mode) {
    for pod_at in [Duration::from_millis(500), seconds(600)] {
        let scenario = Scenario::new(mode).script(Script {
            pod_at,
            start_at: seconds(700),
            job_deleted_at: Some(seconds(20)),
            ..Script::default()
        });
        let result = scenario.run().await;
        assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
        assert!(is_proven(&result), "{result}");
    }
    // Its container ran.
    let scenario = Scenario::new(mode)
        .script(Script { job_deleted_at: Some(seconds(20)), ..success_over(seconds(600)) });
    let result = scenario.run().await;
    assert!(!is_proven(&result), "{result}");
}

in_both_modes!(pods_that_cannot_be_read_prove_nothing);
async fn pods_that_cannot_be_read_prove_nothing(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(seconds(3600)));
    let refused = || vec![Fault::Answer(503, "down"); 200];
    // The guard has read them before.
    scenario.cluster.fault("list pods", [Fault::Pass]);
    for request in ["list pods", "watch pods", "list for pods"] {
        scenario.cluster.fault(request, refused());
    }
    let (result, _) = scenario.timed_run().await;
    assert_eq!(result["errorCode"], "k8s_pod_schedule_failed", "{result}");
    assert!(!is_proven(&result), "{result}");
    assert!(scenario.cluster.remaining().is_empty());
}

in_both_modes!(creation_that_may_have_been_carried_out_proves_nothing);
async fn creation_that_may_have_been_carried_out_proves_nothing(mode: Mode) {
    for (faults, proven) in [
        (vec![Fault::Answer(422, "invalid")], true),
        (vec![Fault::Answer(403, "exceeded quota"); 100], true),
        (vec![Fault::Answer(429, "later"); 4], true),
        (vec![Fault::Answer(504, "timeout"), Fault::Answer(422, "invalid")], false),
        (vec![Fault::Answer(503, "down"); 4], false),
        (vec![Fault::LostAnswer, Fault::Answer(422, "invalid")], false),
        (vec![Fault::Answer(409, "already exists")], false),
    ] {
        let scenario = Scenario::new(mode);
        scenario.cluster.fault("create job", faults.clone());
        let result = scenario.run().await;
        assert_eq!(result["errorCode"], "k8s_job_create_failed", "{result}");
        assert_eq!(is_proven(&result), proven, "{faults:?}: {result}");
    }
}

in_both_modes!(job_of_this_very_run_leaves_no_proof);
async fn job_of_this_very_run_leaves_no_proof(mode: Mode) {
    let labels = [
        ("paperclip.io/agent-id", "agent-1"),
        ("paperclip.io/adapter-type", "claude_k8s"),
        ("paperclip.io/task-id", "task-1"),
        ("paperclip.io/run-id", "run-1"),
    ];
    let scenario = Scenario::new(mode);
    scenario.cluster.put_job("ac-orphan", &labels, success_over(seconds(7200)));
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_concurrent_run_blocked", "{result}");
    assert!(!is_proven(&result), "{result}");
    // An orphan of another run blocks this run, which has created nothing.
    let scenario = Scenario::new(mode).config(json!({"reattachOrphanedJobs": false}));
    put_orphan(&scenario, success_over(seconds(7200)));
    assert!(is_proven(&scenario.run().await));
}

in_both_modes!(kept_job_can_still_start_and_proves_nothing);
async fn kept_job_can_still_start_and_proves_nothing(mode: Mode) {
    let scenario = Scenario::new(mode)
        .script(stuck(waiting("ErrImageNeverPull", "m")))
        .config(json!({"retainJobs": true}));
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_pod_schedule_failed", "{result}");
    assert!(!is_proven(&result), "{result}");
    assert_eq!(scenario.cluster.remaining().len(), 1);
}

in_both_modes!(own_pod_that_cannot_be_read_is_a_result);
async fn own_pod_that_cannot_be_read_is_a_result(mode: Mode) {
    for (code, text) in [(403, "pods is forbidden"), (503, "down")] {
        let scenario = Scenario::new(mode);
        scenario.cluster.fault("get pod", vec![Fault::Answer(code, text); 40]);
        let result = scenario.run().await;
        assert_eq!(result["errorCode"], "k8s_api_unreachable", "{result}");
        assert_eq!(
            message(&result),
            format!("Cannot read Paperclip's own pod: HTTP-Code: {code} Message: {text}")
        );
        let logged =
            format!("[paperclip] Cannot create K8s Job: cannot read Paperclip's own pod: HTTP-Code: {code}");
        assert!(scenario.host.err().contains(&logged), "{}", scenario.host.err());
        assert!(is_proven(&result), "{result}");
        assert_eq!(scenario.cluster.count("create job"), 0);
    }
}

in_both_modes!(test_job_that_does_not_start_is_bounded_and_deleted);
async fn test_job_that_does_not_start_is_bounded_and_deleted(mode: Mode) {
    let never = seconds(3600);
    let without_pod = Script { pod_at: never, start_at: never, ..success_over(seconds(1)) };
    let creating = Script {
        early_statuses: vec![(Duration::ZERO, creating())],
        start_at: never,
        ..success_over(seconds(1))
    };
    for (script, limit, text) in [
        (without_pod, 30, "The pod of the test did not start: its Job has no pod"),
        (creating, 125, "The pod of the test did not start within 120 s: "),
    ] {
        let scenario = Scenario::new(mode).script(script).config(json!({"testWithJob": true}));
        let began = Instant::now();
        let checks = scenario.runner.test_environment(&scenario.request()).await;
        assert!(began.elapsed() < seconds(limit), "{:?}", began.elapsed());
        let last = checks.last().expect("checks");
        assert_eq!(last.code, "k8s_hello_failed", "{checks:?}");
        assert!(last.message.starts_with(text), "{}", last.message);
        assert!(scenario.cluster.remaining().is_empty());
    }
}

in_both_modes!(environment_test_runs_no_job_unless_asked_to);
async fn environment_test_runs_no_job_unless_asked_to(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario.runner.test_environment(&scenario.request()).await;
    let made = ["create job", "try job", "try pod"].map(|request| scenario.cluster.count(request));
    assert_eq!(made, [0, 1, 1]);
}

in_both_modes!(each_wait_for_the_start_obeys_the_configured_limit);
async fn each_wait_for_the_start_obeys_the_configured_limit(mode: Mode) {
    let never = seconds(3600);
    let without_pod = || Script { pod_at: never, start_at: never, ..Script::default() };
    let refused = (seconds(1), "FailedCreate", "Error creating: pods \"p\" is forbidden: exceeded quota: q");
    for (script, text) in [
        (without_pod(), "No pod was created for Job ac-agent-1-run-1-"),
        (Script { job_events: vec![refused], ..without_pod() }, "No pod was created: Error creating: pods "),
        (stuck(waiting("ErrImagePull", "denied")), "Image pull failed for \"claude\": denied"),
        (stuck(waiting("CreateContainerConfigError", "w")), "Container \"claude\" cannot be created: w"),
        (stuck(waiting("RunContainerError", "w")), "Container \"claude\" cannot be started: w"),
        (stuck(creating()), "Pod ac-agent-1-run-1-"),
        (stuck(json!({"phase": "Pending"})), "Timed out waiting for pod to be scheduled ("),
    ] {
        let scenario = Scenario::new(mode).script(script).config(json!({"podStartTimeoutSec": 5}));
        assert_fails(&scenario, text, 5).await;
    }
    // What has a key of its own obeys that.
    let scenario = Scenario::new(mode).script(stuck(waiting("ErrImagePull", "denied")));
    let scenario = scenario.config(json!({"podStartTimeoutSec": 5, "imagePullGraceSec": 30}));
    assert_fails(&scenario, "Image pull failed for \"claude\": denied", 30).await;
}

in_both_modes!(waiting_reason_of_no_table_is_named_with_its_words);
async fn waiting_reason_of_no_table_is_named_with_its_words(mode: Mode) {
    let scenario = Scenario::new(mode).script(stuck(waiting("BrandNewError", "the words\nof it")));
    let (result, _) = scenario.config(json!({"podStartTimeoutSec": 5})).timed_run().await;
    let message = message(&result);
    let said = ": phase=Pending, claude: waiting (BrandNewError): the words of it [container start: BrandNewError, waited ";
    assert!(message.contains(said), "{message}");
    assert_eq!(result["resultJson"]["k8s"]["start"]["words"], "the words of it", "{result}");
}
