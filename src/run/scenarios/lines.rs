//! Log lines of the contract, to the letter, where no other scene tells them.

use super::*;

const JOB: &str = "ac-agent-1-run-1-0ec508";

fn has_line(text: &str, line: &str) {
    assert!(text.lines().any(|told| told == line), "{line}\nis not in\n{text}");
}

in_both_modes!(the_ordinary_steps);
async fn the_ordinary_steps(mode: Mode) {
    let mut script = success_over(Duration::from_secs(40));
    script.pod_at = Duration::from_secs(3);
    script.start_at = Duration::from_secs(6);
    let scene = Scene::new(mode).script(script);
    scene.run().await;
    let out = scene.ear.out();
    for line in [
        "[paperclip] Skills bundled (0): none".to_owned(),
        format!("[paperclip] Created K8s Job: {JOB} in namespace paperclip (deadline: none)"),
        format!("[paperclip] Waiting for pod to be scheduled (job: {JOB})..."),
        "[paperclip] Waiting for Job controller to create pod...".to_owned(),
        format!("[paperclip] Pod {JOB}-pod: phase=Pending, claude: waiting (PodInitializing)"),
        format!("[paperclip] Pod running: {JOB}-pod"),
    ] {
        has_line(&out, &line);
    }
    let keepalive = format!("[paperclip] keepalive — job {JOB} running (");
    let told = out.lines().find(|line| line.starts_with(&keepalive)).expect("a keep-alive");
    assert!(told.ends_with("s since last output)"), "{told}");
    assert_eq!(scene.ear.err(), "");
}

#[tokio::test(start_paused = true)]
async fn a_host_without_the_address_of_its_own_api_cannot_be_asked() {
    let scene = Scene::new(Mode::Watched).script(success_over(Duration::from_secs(40)));
    let request = scene.request().replace("PAPERCLIP_API_URL", "SOMETHING_ELSE");
    scene.runner.execute(&request, scene.ear.clone(), scene.cancel.clone(), None).await.expect("resolves");
    has_line(&scene.ear.err(), "[paperclip] Warning: PAPERCLIP_API_URL not set — cancel polling disabled");
}

in_both_modes!(labels_with_a_reserved_prefix_are_skipped);
async fn labels_with_a_reserved_prefix_are_skipped(mode: Mode) {
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(2))).config(json!({
        "labels": {"paperclip.io/run-id": "mine", "app.kubernetes.io/name": "mine", "team": "a"},
    }));
    scene.run().await;
    has_line(
        &scene.ear.err(),
        "[paperclip] Warning: skipped 2 extra label(s) with reserved prefix: paperclip.io/run-id, app.kubernetes.io/name",
    );
}

in_both_modes!(what_may_not_be_patched_is_warned_about);
async fn what_may_not_be_patched_is_warned_about(mode: Mode) {
    let prompt = Some("x".repeat(120 * 1024));
    let scene = Scene::new(mode)
        .script(success_over(Duration::from_secs(2)))
        .ear(Ear { secret_prompt: prompt, ..Ear::default() });
    scene.cluster.fault("patch secret", [Fault::Answer(403, "secrets is forbidden")]);
    assert_eq!(scene.run().await["errorMessage"], Value::Null);
    has_line(
        &scene.ear.err(),
        "[paperclip] Warning: failed to set ownerReference on prompt Secret: HTTP-Code: 403 Message: secrets is forbidden",
    );
    assert!(scene.cluster.left().is_empty(), "the Secret is deleted by its name all the same");

    let scene = Scene::new(mode);
    scene.cluster.put_job(
        "ac-orphan",
        &[
            ("app.kubernetes.io/managed-by", "paperclip"),
            ("paperclip.io/agent-id", "agent-1"),
            ("paperclip.io/adapter-type", "claude_k8s"),
            ("paperclip.io/task-id", "task-1"),
        ],
        success_over(Duration::from_secs(20)),
    );
    scene.cluster.fault("patch job", [Fault::Answer(403, "jobs.batch is forbidden")]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.run().await["errorMessage"], Value::Null);
    has_line(
        &scene.ear.err(),
        "[paperclip] Warning: failed to relabel reattached Job ac-orphan: HTTP-Code: 403 Message: jobs.batch is forbidden",
    );
    has_line(
        &scene.ear.out(),
        "[paperclip] Reattaching to in-flight K8s Job ac-orphan in namespace paperclip (prior run unknown)",
    );
    has_line(&scene.ear.out(), "[paperclip] Reattached to pod ac-orphan-pod");
}

in_both_modes!(a_job_that_cannot_be_deleted_is_warned_about);
async fn a_job_that_cannot_be_deleted_is_warned_about(mode: Mode) {
    let scene = Scene::new(mode).script(success_over(Duration::from_secs(2)));
    scene.cluster.fault("delete job", [Fault::Answer(403, "jobs.batch is forbidden")]);
    assert_eq!(scene.run().await["errorMessage"], Value::Null, "the result is not affected");
    has_line(
        &scene.ear.err(),
        &format!(
            "[paperclip] Warning: failed to cleanup job {JOB}: HTTP-Code: 403 Message: jobs.batch is forbidden"
        ),
    );
}

in_both_modes!(the_grace_period_has_three_outcomes);
async fn the_grace_period_has_three_outcomes(mode: Mode) {
    let endless = || Script { condition_lag: None, ..success_over(Duration::from_secs(5)) };
    let scene = Scene::new(mode).script(endless());
    assert_eq!(scene.run().await["errorMessage"], Value::Null);
    has_line(
        &scene.ear.out(),
        &format!(
            "[paperclip] Log stream exited 30s ago without K8s Job condition update; Job {JOB} still present — proceeding with captured output (FAR-23)"
        ),
    );

    // From the container's end on nobody can ask for the Job.
    let scene = Scene::new(mode).script(endless());
    let cluster = scene.cluster.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(10)).await;
        cluster.fault("get job", vec![Fault::Answer(500, "etcd is gone"); 40]);
    });
    assert_eq!(scene.run().await["errorMessage"], Value::Null, "what was captured counts");
    has_line(
        &scene.ear.out(),
        "[paperclip] Log stream exited 30s ago; Job state unverifiable (HTTP-Code: 500 Message: etcd is gone) — proceeding with captured output (FAR-23)",
    );
}

#[tokio::test(start_paused = true)]
async fn a_job_found_gone_after_the_grace_period_is_told_so() {
    // It goes unseen: no watch, and every read before the last look fails.
    let mut script = Script { condition_lag: None, ..success_over(Duration::from_secs(4)) };
    script.lines.truncate(3);
    script.job_deleted_at = Some(Duration::from_secs(36));
    let scene = Scene::new(Mode::Polled).script(script);
    let cluster = scene.cluster.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(35_500)).await;
        // One look falls between the deletion and the end of the grace period.
        cluster.fault("get job", [Fault::Answer(500, "busy")]);
    });
    let result = scene.run().await;
    let out = scene.ear.out();
    has_line(
        &out,
        &format!(
            "[paperclip] Log stream exited 30s ago and Job {JOB} is gone (TTL or external deletion) — proceeding with captured output (FAR-23)"
        ),
    );
    has_line(
        &out,
        &format!(
            "[paperclip] Job {JOB} was deleted before terminal condition was observed (TTL or external deletion) — proceeding with captured output."
        ),
    );
    assert!(result["errorMessage"].is_string());
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_five_hundred_to_the_cancel_poll_is_told_and_ignored() {
    let scene = Scene::new(Mode::Watched).script(success_over(Duration::from_secs(20))).ear(Ear {
        statuses: Mutex::new(vec![StatusAnswer::Refused(503), StatusAnswer::Status(Some("running".into()))]),
        ..Ear::default()
    });
    assert_eq!(scene.run().await["errorMessage"], Value::Null);
    has_line(&scene.ear.err(), "[paperclip] keepalive: cancel poll returned HTTP 503 — transient, ignoring");
}

in_both_modes!(a_log_that_brought_nothing_or_too_little_is_read_once_more);
async fn a_log_that_brought_nothing_or_too_little_is_read_once_more(mode: Mode) {
    // The last line comes as the container ends, and the body is closed a moment before it.
    let mut script = success_over(Duration::from_secs(10));
    let (_, result) = script.lines.pop().expect("a result");
    let read: usize = script.lines.iter().map(|(_, line)| line.len() + 32).sum();
    script.lines.push((Duration::from_millis(8_900), result));
    script.ends_after = Duration::from_secs(9);
    let scene = Scene::new(mode).script(script);
    scene.cluster.cut_logs([read]);
    assert_eq!(scene.run().await["errorMessage"], Value::Null, "{}", scene.ear.out());
    has_line(
        &scene.ear.out(),
        "[paperclip] Log stream captured partial output — supplemental one-shot read returned more content.",
    );

    let scene = Scene::new(mode).script(Script {
        exit_code: 3,
        ends_after: Duration::from_secs(10),
        ..Script::default()
    });
    let result = scene.run().await;
    has_line(&scene.ear.out(), "[paperclip] Log stream returned empty — reading pod logs directly...");
    assert_eq!(result["exitCode"], 3, "{result}");
}

in_both_modes!(lines_lost_to_rotation_leave_one_mark);
async fn lines_lost_to_rotation_leave_one_mark(mode: Mode) {
    let mut script = success_over(Duration::from_secs(30));
    script.rotated = vec![(Duration::from_secs(12), 4)];
    let read: usize = script.lines[..2].iter().map(|(_, line)| line.len() + 32).sum();
    let scene = Scene::new(mode).script(script);
    // The stream breaks after two lines and cannot be opened until four are gone.
    scene.cluster.cut_logs([read]);
    scene.cluster.fault("open log", [Fault::Pass].into_iter().chain(vec![Fault::Answer(503, "busy"); 6]));
    assert_eq!(scene.run().await["errorMessage"], Value::Null);
    let out = scene.ear.out();
    assert_eq!(out.matches("[paperclip] Log gap: ").count(), 1, "{out}");
    has_line(
        &out,
        "[paperclip] Log gap: the container's log was rotated while the stream was disconnected; lines are missing here",
    );
}

in_both_modes!(a_long_line_that_an_old_kubelet_stamped_in_its_middle_is_whole);
async fn a_long_line_that_an_old_kubelet_stamped_in_its_middle_is_whole(mode: Mode) {
    let text = format!(r#"{{"type":"system","subtype":"note","text":"{}"}}"#, "é".repeat(20_000));
    let pieces: Vec<&[u8]> = text.as_bytes().chunks(16 * 1024).collect();
    // The pieces end between characters here: the lines of a script are text.
    assert!(pieces.iter().all(|piece| std::str::from_utf8(piece).is_ok()));
    let stored = String::from_utf8(pieces.join(b"2099-01-02T03:04:05.000000006Z ".as_slice())).expect("text");
    let mut script = success_over(Duration::from_secs(20));
    let (first, _) = script.lines[0];
    script.lines.insert(1, (first, stored));
    let read: usize = script.lines[..2].iter().map(|(_, line)| line.len() + 32).sum();
    let scene = Scene::new(mode).script(script);
    scene.cluster.cut_logs([read]);
    assert_eq!(scene.run().await["errorMessage"], Value::Null);
    assert_eq!(scene.ear.out().matches(&text).count(), 1);
    assert!(!scene.ear.out().contains("2099-"));
}

#[tokio::test(start_paused = true)]
async fn an_onlog_that_rejects_is_told_in_full() {
    let scene = Scene::new(Mode::Watched)
        .script(success_over(Duration::from_secs(2)))
        .ear(Ear { rejects: true, ..Ear::default() });
    scene.run().await;
    has_line(
        &scene.ear.err(),
        "[paperclip] Warning: onLog failed: disk full — the run goes on, this is said once",
    );
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_down_for_a_minute_and_then_has_no_job_is_its_own_detection_path() {
    let mut script = success_over(Duration::from_secs(3600));
    script.lines.clear();
    script.job_deleted_at = Some(Duration::from_secs(62));
    let scene = Scene::new(Mode::Polled).script(script);
    // One read every two seconds for a minute; the one after that is answered.
    scene.cluster.fault("get job", vec![Fault::Answer(500, "etcd is gone"); 31]);
    let result = scene.run().await;
    assert_eq!(result["errorCode"], "k8s_job_deleted_externally", "{result}");
    let message = result["errorMessage"].as_str().expect("message");
    assert!(
        message.contains(&format!("[detected_via=recheck-poll-404, job={JOB}, ns=paperclip, ")),
        "{message}"
    );
    assert!(message.contains("completion_polls=0, last_job_conditions=none_observed"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_loss_is_found_by_the_last_look_of_the_grace_period_says_so() {
    let mut script = success_over(Duration::from_secs(3600));
    script.lines.truncate(2);
    script.job_deleted_at = Some(Duration::from_secs(9));
    let scene = Scene::new(Mode::Polled).script(script);
    let cluster = scene.cluster.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(8_500)).await;
        // The reads at 10, 12, … 38 s; the pod is seen to be gone at 9 s.
        cluster.fault("get job", vec![Fault::Answer(500, "etcd is gone"); 15]);
    });
    let result = scene.run().await;
    let message = result["errorMessage"].as_str().expect("message");
    assert!(message.contains("[detected_via=grace-period-verify-404, "), "{message}");
}
