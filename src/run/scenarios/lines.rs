//! Log lines of the contract, to the letter, where no other scenario asserts them.

use super::*;

const JOB: &str = "ac-agent-1-run-1-0ec508";

fn assert_has_line(text: &str, line: &str) {
    assert!(text.lines().any(|logged| logged == line), "{line}\nis not in\n{text}");
}

in_both_modes!(ordinary_run_logs_every_step);
async fn ordinary_run_logs_every_step(mode: Mode) {
    let mut script = success_over(Duration::from_secs(40));
    script.pod_at = Duration::from_secs(3);
    script.start_at = Duration::from_secs(6);
    let scenario = Scenario::new(mode).script(script);
    scenario.run().await;
    let out = scenario.host.out();
    for line in [
        "[paperclip] Skills bundled (0): none".to_owned(),
        format!("[paperclip] Created K8s Job: {JOB} in namespace paperclip (deadline: none)"),
        format!("[paperclip] Waiting for pod to be scheduled (job: {JOB})..."),
        "[paperclip] Waiting for Job controller to create pod...".to_owned(),
        format!("[paperclip] Pod {JOB}-pod: phase=Pending, claude: waiting (PodInitializing)"),
        format!("[paperclip] Pod running: {JOB}-pod"),
    ] {
        assert_has_line(&out, &line);
    }
    let keepalive = format!("[paperclip] keepalive — job {JOB} running (");
    let logged = out.lines().find(|line| line.starts_with(&keepalive)).expect("a keep-alive");
    assert!(logged.ends_with("s since last output)"), "{logged}");
    assert_eq!(scenario.host.err(), "");
}

#[tokio::test(start_paused = true)]
async fn keepalives_of_many_runs_come_at_the_same_moments() {
    let scenario = Scenario::new(Mode::Watched);
    let script = success_over(Duration::from_secs(100));
    let runs = (0..10u32).map(|n| {
        let (agent, host) = (format!("agent-{n}"), Arc::new(FakeHost::default()));
        let (request, scenario) = (scenario.request_of(&agent), &scenario);
        scenario.cluster.script(script.clone());
        async move {
            tokio::time::sleep(Duration::from_millis(90) * n).await;
            scenario.runner.execute(&request, host.clone(), scenario.cancel.clone(), None).await;
            host
        }
    });
    let mut moments = std::collections::BTreeSet::new();
    for host in futures::future::join_all(runs).await {
        let logged = host.logged.lock().expect("lines");
        let at = |text| {
            let of = logged.iter().filter(move |(_, line, _)| line.starts_with(text));
            of.map(|(_, _, at)| *at).collect::<Vec<_>>()
        };
        let ready = at("[paperclip] Pod running")[0];
        let keepalives = at("[paperclip] keepalive — job ");
        assert!(keepalives.len() >= 5, "{keepalives:?}");
        let first = keepalives[0].duration_since(ready);
        assert!(first >= Duration::from_secs(15) && first <= Duration::from_secs(16), "{first:?}");
        assert!(
            keepalives.windows(2).all(|two| two[1] == two[0] + Duration::from_secs(15)),
            "{keepalives:?}"
        );
        moments.extend(keepalives);
    }
    assert!(moments.len() <= 2 * 6, "not {} moments of 10 runs", moments.len());
}

#[tokio::test(start_paused = true)]
async fn silent_run_is_woken_for_its_cancel_poll_only() {
    let mut script = success_over(Duration::from_secs(3_700));
    script.lines.retain(|(at, _)| at.is_zero() || *at > Duration::from_secs(3_600));
    let scenario = Scenario::new(Mode::Watched).script(script);
    let request = scenario.request();
    let run = scenario.runner.execute(&request, scenario.host.clone(), scenario.cancel.clone(), None);
    let (mut run, mut polls) = (std::pin::pin!(run), 0);
    let counted = std::future::poll_fn(|context| {
        polls += 1;
        run.as_mut().poll(context)
    });
    assert!(tokio::time::timeout(Duration::from_secs(3_500), counted).await.is_err(), "it is silent");
    // Four a minute, the start, and a log that is opened again now and then.
    assert!(polls < 58 * 4 + 300, "{polls} in 58 min");
}

#[tokio::test(start_paused = true)]
async fn missing_api_url_disables_cancel_polling() {
    let scenario = Scenario::new(Mode::Watched).script(success_over(Duration::from_secs(40)));
    let request = scenario.request().replace("PAPERCLIP_API_URL", "SOMETHING_ELSE");
    let _ = scenario.runner.execute(&request, scenario.host.clone(), scenario.cancel.clone(), None).await;
    assert_has_line(
        &scenario.host.err(),
        "[paperclip] Warning: PAPERCLIP_API_URL not set — cancel polling disabled",
    );
}

in_both_modes!(labels_with_a_reserved_prefix_are_skipped);
async fn labels_with_a_reserved_prefix_are_skipped(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(2))).config(json!({
        "labels": {"paperclip.io/run-id": "mine", "app.kubernetes.io/name": "mine", "team": "a"},
    }));
    scenario.run().await;
    assert_has_line(
        &scenario.host.err(),
        "[paperclip] Warning: skipped 2 extra label(s) with reserved prefix: paperclip.io/run-id, app.kubernetes.io/name",
    );
}

in_both_modes!(refused_relabelling_is_warned_about);
async fn refused_relabelling_is_warned_about(mode: Mode) {
    let scenario = Scenario::new(mode);
    scenario.cluster.put_job(
        "ac-orphan",
        &[
            ("app.kubernetes.io/managed-by", "paperclip"),
            ("paperclip.io/agent-id", "agent-1"),
            ("paperclip.io/adapter-type", "claude_k8s"),
            ("paperclip.io/task-id", "task-1"),
        ],
        success_over(Duration::from_secs(20)),
    );
    scenario.cluster.fault("patch job", [Fault::Answer(403, "jobs.batch is forbidden")]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    assert_has_line(
        &scenario.host.err(),
        "[paperclip] Warning: failed to relabel reattached Job ac-orphan: HTTP-Code: 403 Message: jobs.batch is forbidden",
    );
    assert_has_line(
        &scenario.host.out(),
        "[paperclip] Reattaching to in-flight K8s Job ac-orphan in namespace paperclip (prior run unknown)",
    );
    assert_has_line(&scenario.host.out(), "[paperclip] Reattached to pod ac-orphan-pod");
}

in_both_modes!(failed_job_deletion_is_warned_about);
async fn failed_job_deletion_is_warned_about(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(2)));
    scenario.cluster.fault("delete job", vec![Fault::Answer(403, "jobs.batch is forbidden"); 100]);
    assert_eq!(scenario.run().await["errorMessage"], Value::Null, "the result is not affected");
    let err = scenario.host.err();
    let warning = format!(
        "[paperclip] Warning: failed to cleanup job {JOB}: HTTP-Code: 403 Message: jobs.batch is forbidden (refused for "
    );
    let seconds = err.lines().find_map(|line| line.strip_prefix(&warning)?.strip_suffix("s)"));
    let seconds: u64 = seconds.and_then(|seconds| seconds.parse().ok()).expect("said for how long");
    assert!((8..=15).contains(&seconds), "{err}");
}

in_both_modes!(missing_condition_logs_how_the_grace_period_ended);
async fn missing_condition_logs_how_the_grace_period_ended(mode: Mode) {
    let endless = || Script { condition_lag: None, reason: "", ..success_over(Duration::from_secs(5)) };
    let scenario = Scenario::new(mode).script(endless());
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    assert_has_line(
        &scenario.host.out(),
        &format!(
            "[paperclip] Log stream exited 30s ago without K8s Job condition update; Job {JOB} still present — proceeding with captured output (FAR-23)"
        ),
    );

    // From the container's end on the Job cannot be read.
    let scenario = Scenario::new(mode).script(endless());
    let cluster = scenario.cluster.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(10)).await;
        cluster.fault("get job", vec![Fault::Answer(500, "etcd is gone"); 40]);
    });
    assert_eq!(scenario.run().await["errorMessage"], Value::Null, "what was captured counts");
    assert_has_line(
        &scenario.host.out(),
        "[paperclip] Log stream exited 30s ago; Job state unverifiable (HTTP-Code: 500 Message: etcd is gone) — proceeding with captured output (FAR-23)",
    );
}

#[tokio::test(start_paused = true)]
async fn job_gone_after_the_grace_period_is_logged() {
    // Its deletion is missed: there is no watch, and every read before the verification fails.
    let mut script = Script { condition_lag: None, reason: "", ..success_over(Duration::from_secs(4)) };
    script.lines.truncate(3);
    script.job_deleted_at = Some(Duration::from_secs(36));
    let scenario = Scenario::new(Mode::Polled).script(script);
    let cluster = scenario.cluster.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(35_500)).await;
        // One read falls between the deletion and the end of the grace period.
        cluster.fault("get job", [Fault::Answer(500, "busy")]);
    });
    let result = scenario.run().await;
    let out = scenario.host.out();
    assert_has_line(
        &out,
        &format!(
            "[paperclip] Log stream exited 30s ago and Job {JOB} is gone (TTL or external deletion) — proceeding with captured output (FAR-23)"
        ),
    );
    assert_has_line(
        &out,
        &format!(
            "[paperclip] Job {JOB} was deleted before terminal condition was observed (TTL or external deletion) — proceeding with captured output."
        ),
    );
    assert!(result["errorMessage"].is_string());
}

#[tokio::test(start_paused = true)]
async fn cancel_poll_answered_503_is_logged_and_ignored() {
    let scenario =
        Scenario::new(Mode::Watched).script(success_over(Duration::from_secs(20))).host(FakeHost {
            statuses: Mutex::new(vec![
                StatusAnswer::Refused(503),
                StatusAnswer::Status(Some("running".into())),
            ]),
            ..FakeHost::default()
        });
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    assert_has_line(
        &scenario.host.err(),
        "[paperclip] keepalive: cancel poll returned HTTP 503 — transient, ignoring",
    );
}

in_both_modes!(empty_or_partial_log_is_read_once_more);
async fn empty_or_partial_log_is_read_once_more(mode: Mode) {
    // The last line comes as the container ends; the body is closed a moment before it.
    let mut script = success_over(Duration::from_secs(10));
    let (_, result) = script.lines.pop().expect("a result");
    let read: usize = script.lines.iter().map(|(_, line)| line.len() + 32).sum();
    script.lines.push((Duration::from_millis(8_900), result));
    script.ends_after = Duration::from_secs(9);
    let scenario = Scenario::new(mode).script(script);
    scenario.cluster.cut_logs([read]);
    assert_eq!(scenario.run().await["errorMessage"], Value::Null, "{}", scenario.host.out());
    assert_has_line(
        &scenario.host.out(),
        "[paperclip] Log stream captured partial output — supplemental one-shot read returned more content.",
    );

    let scenario = Scenario::new(mode).script(Script {
        exit_code: 3,
        ends_after: Duration::from_secs(10),
        ..Script::default()
    });
    let result = scenario.run().await;
    assert_has_line(
        &scenario.host.out(),
        "[paperclip] Log stream returned empty — reading pod logs directly...",
    );
    assert_eq!(result["exitCode"], 3, "{result}");
}

in_both_modes!(lines_lost_to_rotation_leave_one_mark);
async fn lines_lost_to_rotation_leave_one_mark(mode: Mode) {
    let mut script = success_over(Duration::from_secs(30));
    script.rotated = vec![(Duration::from_secs(12), 4)];
    let read: usize = script.lines[..2].iter().map(|(_, line)| line.len() + 32).sum();
    let scenario = Scenario::new(mode).script(script);
    // The log body breaks after two lines and cannot be opened until four are gone.
    scenario.cluster.cut_logs([read]);
    scenario.cluster.fault("open log", [Fault::Pass].into_iter().chain(vec![Fault::Answer(503, "busy"); 6]));
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    let out = scenario.host.out();
    assert_eq!(out.matches("[paperclip] Log gap: ").count(), 1, "{out}");
    assert_has_line(
        &out,
        "[paperclip] Log gap: the container's log was rotated while the stream was disconnected; lines are missing here",
    );
}

in_both_modes!(long_line_stamped_in_its_middle_by_kubelet_is_whole);
async fn long_line_stamped_in_its_middle_by_kubelet_is_whole(mode: Mode) {
    let text = format!(r#"{{"type":"system","subtype":"note","text":"{}"}}"#, "é".repeat(20_000));
    let pieces: Vec<&[u8]> = text.as_bytes().chunks(16 * 1024).collect();
    // The pieces end between characters here, because the lines of a script are text.
    assert!(pieces.iter().all(|piece| std::str::from_utf8(piece).is_ok()));
    let stored = String::from_utf8(pieces.join(b"2099-01-02T03:04:05.000000006Z ".as_slice())).expect("text");
    let mut script = success_over(Duration::from_secs(20));
    let (first, _) = script.lines[0];
    script.lines.insert(1, (first, stored));
    let read: usize = script.lines[..2].iter().map(|(_, line)| line.len() + 32).sum();
    let scenario = Scenario::new(mode).script(script);
    scenario.cluster.cut_logs([read]);
    assert_eq!(scenario.run().await["errorMessage"], Value::Null);
    assert_eq!(scenario.host.out().matches(&text).count(), 1);
    assert!(!scenario.host.out().contains("2099-"));
}

#[tokio::test(start_paused = true)]
async fn onlog_rejection_is_logged_in_full() {
    let scenario = Scenario::new(Mode::Watched)
        .script(success_over(Duration::from_secs(2)))
        .host(FakeHost { rejects: true, ..FakeHost::default() });
    scenario.run().await;
    assert_has_line(
        &scenario.host.err(),
        "[paperclip] Warning: onLog failed: disk full — the run goes on, this is said once",
    );
}

#[tokio::test(start_paused = true)]
async fn job_gone_after_an_api_outage_has_its_detection_path() {
    let mut script = success_over(Duration::from_secs(3600));
    script.lines.clear();
    script.job_deleted_at = Some(Duration::from_secs(62));
    let scenario = Scenario::new(Mode::Polled).script(script).config(json!({"apiOutageSec": 60}));
    // One read every two seconds for a minute fails; the next one is answered.
    scenario.cluster.fault("get job", vec![Fault::Answer(500, "etcd is gone"); 31]);
    let result = scenario.run().await;
    assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(
        message.contains(&format!("[detected_via=recheck-poll-404, job={JOB}, ns=paperclip, ")),
        "{message}"
    );
    assert!(message.contains("completion_polls=0, last_job_conditions=none_observed"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn job_gone_at_grace_verification_has_its_detection_path() {
    let mut script = success_over(Duration::from_secs(3600));
    script.lines.truncate(2);
    script.job_deleted_at = Some(Duration::from_secs(9));
    let scenario = Scenario::new(Mode::Polled).script(script);
    let cluster = scenario.cluster.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(8_500)).await;
        // The reads at 10, 12, … 38 s; the pod is seen to be gone at 9 s.
        cluster.fault("get job", vec![Fault::Answer(500, "etcd is gone"); 15]);
    });
    let result = scenario.run().await;
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("[detected_via=grace-period-verify-404, "), "{message}");
}

in_both_modes!(stderr_inside_a_long_result_is_taken_out);
async fn stderr_inside_a_long_result_is_taken_out(mode: Mode) {
    let result =
        json!({"type": "result", "subtype": "success", "is_error": false, "result": "x".repeat(40_000)})
            .to_string();
    let (first, rest) = result.split_at(16 * 1024);
    let mut script = success_over(Duration::from_secs(4));
    let (at, _) = script.lines.pop().expect("a result");
    script.lines.extend([(at, format!("{first}Warning: a stray line")), (at, rest.to_owned())]);
    let scenario = Scenario::new(mode).script(script);
    let outcome = scenario.run().await;
    assert_eq!(outcome["errorMessage"], Value::Null, "{outcome}");
    let lines = scenario.host.agent_lines();
    assert!(lines.ends_with(&[result, "Warning: a stray line".to_owned()]));
}

/// The names of the events that the run gave its host without waiting.
fn noted(scenario: &Scenario) -> Vec<String> {
    let notes = scenario.host.notes.lock().expect("notes");
    notes
        .iter()
        .map(|note| {
            // A type that the host does not know counts there as work of the agent.
            assert_eq!(note["eventType"], "lifecycle");
            note["payload"]["event"].as_str().expect("a name").to_owned()
        })
        .collect()
}

in_both_modes!(run_gives_its_host_events_of_job_and_pod);
async fn run_gives_its_host_events_of_job_and_pod(mode: Mode) {
    let scenario = Scenario::new(mode).script(success_over(Duration::from_secs(2)));
    scenario.run().await;
    assert_eq!(noted(&scenario), ["k8s.job.created", "k8s.pod.running"]);
    let notes = scenario.host.notes.lock().expect("notes");
    assert_eq!(notes[0]["payload"]["job"], JOB);
    assert_eq!(notes[1]["payload"]["pod"], format!("{JOB}-pod"));
}

in_both_modes!(failed_run_gives_its_host_the_evidence);
async fn failed_run_gives_its_host_the_evidence(mode: Mode) {
    let mut script = success_over(Duration::from_secs(2));
    script.lines.truncate(2);
    script.exit_code = 137;
    script.reason = "OOMKilled";
    let scenario = Scenario::new(mode).script(script);
    let result = scenario.run().await;
    assert_eq!(noted(&scenario), ["k8s.job.created", "k8s.pod.running", "k8s.forensics"]);
    let notes = scenario.host.notes.lock().expect("notes");
    assert_eq!(notes[2]["payload"]["forensics"], result["resultJson"]["k8s"]);
    assert_eq!(notes[2]["level"], "warn");
}

in_both_modes!(silent_run_is_shown_on_its_card_and_not_logged);
async fn silent_run_is_shown_on_its_card_and_not_logged(mode: Mode) {
    let mut script = success_over(Duration::from_secs(90));
    script.lines.retain(|(at, _)| at.is_zero() || *at > Duration::from_secs(80));
    let scenario = Scenario::new(mode).script(script);
    let request = scenario.request().replacen('{', "{\"hasCards\":true,", 1);
    scenario.runner.execute(&request, scenario.host.clone(), scenario.cancel.clone(), None).await;
    assert!(!scenario.host.out().contains("keepalive —"), "{}", scenario.host.out());
    let cards = scenario.host.cards.lock().expect("cards");
    let silent = format!("Running: Claude runs in pod {JOB}-pod, last output ");
    assert!(cards.iter().filter(|card| card.starts_with(&silent)).count() >= 3, "{cards:?}");
}
