//! The Job of the environment test, by choice (`testWithJob`): what only a pod finds out.
//!
//! It is the Job of a run with a script before the CLI's command. The script prints a line for each thing that it tried,
//! with a token before it; all other lines are the CLI's, which is asked for one word with the configured model.

use std::future::poll_fn;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::{Check, Level};
use crate::claude::{
    FailureKind, FailureSigns, Tally, describe_claude_failure, failure_kind, is_error_result,
};
use crate::cluster::{ApiError, ApiErrorKind, Cluster, LogQuery, ReadResult};
use crate::forensics::{
    ContainerPhase, Grace, Hold, PodProgress, PodVerdict, container_phase, hold_of_job_events, is_terminal,
    one_line, queue_hold,
};
use crate::manifest::{self, CLAUDE_CONTAINER, Manifest, Prepared, Sealed, SelfPod};
use crate::request::{Agent, Request, RunSecretMode};
use crate::run::start::claim::unique;
use crate::run::{cleanup, shared, timing};
use crate::stream::{LineSplitter, split_stamp};

/// What the CLI is asked.
const PROMPT: &str = "Reply with one word: ok";
/// The most of the log that is read.
const MOST_LOG: usize = 256 * 1024;
/// The most characters of a line that are shown.
const MOST_SHOWN: usize = 300;

/// Runs the Job and deletes it. Never fails, and ends within [`timing::HELLO_LIMIT`] and the time for the deletion.
pub(super) async fn check<C: Cluster>(cluster: &C, request: &Request, pod: &SelfPod) -> Vec<Check> {
    let token = format!("hello-{}", &unique()[..12]);
    let (request, prepared) = of_test(request, &token);
    if let Err(error) = shared::make_scoped_folders(&request, None).await {
        return vec![failed("k8s_hello_failed", error)];
    }
    let manifest = match manifest::build(&request, pod, &prepared, None) {
        Ok(manifest) => manifest,
        Err(error) => return vec![failed("k8s_hello_failed", error)],
    };
    let (job, sealed) = match create(cluster, &manifest, request.run_secret, &token).await {
        Ok(created) => created,
        Err(error) => {
            let text = format!("The test's Job cannot be created: {error}");
            return vec![failed("k8s_hello_failed", text)];
        }
    };
    let seen = watch(cluster, &job, &manifest.namespace).await;
    let mut checks = match seen {
        Err(start) => vec![start],
        Ok((phase, lines)) => Findings::of(&token, &lines).checks(phase.as_ref(), &request.config.model),
    };
    let uid = job.metadata.uid.as_deref();
    if let Err(error) = delete(cluster, &manifest, uid, &sealed).await {
        let text = format!("The test's Job {} could not be deleted: {error}", manifest.job_name);
        checks.push(Check::new("k8s_hello_left", Level::Warn, text).hint("Kubernetes deletes it by itself."));
    }
    checks
}

fn failed(code: &'static str, text: impl std::fmt::Display) -> Check {
    Check::new(code, Level::Error, text.to_string())
}

/// The run of which the test's Job is made. Kubernetes ends the Job and removes it where this process cannot.
fn of_test(request: &Request, token: &str) -> (Request, Prepared) {
    let env = &request.host_env;
    let url = env.get("PAPERCLIP_RUNTIME_API_URL").or_else(|| env.get("PAPERCLIP_API_URL"));
    let agent = Agent {
        id: "environment-test".to_owned(),
        company_id: "environment-test".to_owned(),
        name: "environment test".to_owned(),
    };
    let mut request = Request { run_id: token.to_owned(), agent, ..request.clone() };
    request.config.timeout_sec = timing::HELLO_LIMIT.as_secs_f64();
    request.config.ttl_seconds_after_finished = timing::HELLO_KEPT.as_secs() as i32;
    request.config.max_turns_per_run = Some(1);
    (request, Prepared::of_environment_test(url, PROMPT))
}

/// Creates Job and Secrets: sealed where this host may create Secrets, else as runs do there.
async fn create<C: Cluster>(
    cluster: &C,
    manifest: &Manifest,
    mode: RunSecretMode,
    token: &str,
) -> Result<(Job, Sealed), ApiError> {
    let ways: &[bool] = match mode {
        RunSecretMode::Off => &[false],
        RunSecretMode::Require => &[true],
        RunSecretMode::Auto => &[true, false],
    };
    let mut refused = ApiError::local(ApiErrorKind::Other, "create the test's Job", "no way to create it");
    for is_sealed in ways {
        let nonce: String = token.chars().filter(char::is_ascii_alphanumeric).collect();
        let sealed = if *is_sealed { manifest.sealed(&nonce) } else { manifest.unsealed() };
        let invalid = |error: manifest::ManifestError| {
            ApiError::local(ApiErrorKind::Invalid, "make the test's Job", error.to_string())
        };
        let mut sealed = sealed.map_err(invalid)?;
        manifest::run_first(&mut sealed.job, &script(token));
        let job = cluster.create_job(&manifest.namespace, &sealed.job).await?.job;
        let uid = job.metadata.uid.as_deref();
        match create_secrets(cluster, manifest, &sealed, uid).await {
            Ok(()) => return Ok((job, sealed)),
            Err(error) => {
                let _ = delete(cluster, manifest, uid, &sealed).await;
                let may_not = error.kind == ApiErrorKind::Forbidden;
                refused = error;
                if !may_not {
                    break;
                }
                tokio::time::sleep(timing::NAME_FREE_PAUSE).await;
            }
        }
    }
    Err(refused)
}

async fn create_secrets<C: Cluster>(
    cluster: &C,
    manifest: &Manifest,
    sealed: &Sealed,
    uid: Option<&str>,
) -> Result<(), ApiError> {
    for secret in &sealed.secrets {
        let object = manifest::run_secret_object(secret, None, &manifest.job_name, uid);
        cluster.create_secret(&manifest.namespace, &object).await?;
    }
    Ok(())
}

/// Deletes the Job; the cluster collects its Secrets with it, unless it is not known to own them.
async fn delete<C: Cluster>(
    cluster: &C,
    manifest: &Manifest,
    uid: Option<&str>,
    sealed: &Sealed,
) -> Result<(), ApiError> {
    let (namespace, name) = (&manifest.namespace, &manifest.job_name);
    let deleted = cleanup::delete_job(cluster, namespace, name, uid).await;
    if uid.is_none() {
        for secret in &sealed.secrets {
            let _ = cluster.delete_secret(namespace, &secret.name).await;
        }
    }
    deleted
}

/// How the pod's container ended, where it did in time, and what it printed; or why it did not start.
type Seen = (Option<ContainerPhase>, Vec<u8>);

async fn watch<C: Cluster>(cluster: &C, job: &Job, namespace: &str) -> Result<Seen, Check> {
    let deadline = Instant::now() + timing::HELLO_LIMIT;
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let mut held: Option<(Hold, Instant)> = None;
    let mut last = String::from("no pod was created");
    loop {
        let pods = cluster.list_pods(namespace, &format!("job-name={name}")).await;
        let over = Instant::now() >= deadline;
        let hold = match pods.as_deref() {
            Ok([pod, ..]) => {
                let progress = PodProgress::read(pod);
                last = progress.line;
                match progress.verdict {
                    PodVerdict::Held(hold) => Some(*hold),
                    PodVerdict::Ready | PodVerdict::Ended(_) => {
                        let phase = container_phase(pod, CLAUDE_CONTAINER);
                        let has_ended = matches!(phase, ContainerPhase::Terminated(_)) || is_terminal(pod);
                        if has_ended || over {
                            let log = log_of(cluster, pod, namespace).await?;
                            return Ok((has_ended.then_some(phase), log));
                        }
                        None
                    }
                }
            }
            Ok([]) => Some(hold_of_job(cluster, job, namespace).await),
            Err(error) if !error.is_transient() => {
                return Err(failed("k8s_hello_failed", format!("The test's pod cannot be read: {error}")));
            }
            Err(error) => {
                last = error.to_string();
                None
            }
        };
        held = match (hold, held.take()) {
            (None, _) => None,
            (Some(hold), Some((before, since))) if before.grace == hold.grace => Some((hold, since)),
            (Some(hold), _) => Some((hold, Instant::now())),
        };
        if let Some((Hold { text: Some(text), grace, .. }, since)) = &held
            && (over || since.elapsed() >= patience(*grace))
        {
            return Err(failed("k8s_hello_failed", format!("The pod of the test did not start: {text}")));
        }
        if over {
            let text = format!(
                "The pod of the test did not start within {} s: {last}",
                timing::HELLO_LIMIT.as_secs()
            );
            return Err(Check::new("k8s_hello_failed", Level::Warn, text)
                .hint("A large image or a queue may take longer; runs wait for podStartTimeoutSec and queueTimeoutSec."));
        }
        tokio::time::sleep(timing::HELLO_POLL).await;
    }
}

/// For how long something may keep the pod from starting: registries and volumes fail for a moment.
fn patience(grace: Grace) -> Duration {
    match grace {
        Grace::Final => Duration::ZERO,
        Grace::Queue => timing::HELLO_LIMIT,
        _ => timing::HELLO_PATIENCE,
    }
}

/// Why the Job has no pod.
async fn hold_of_job<C: Cluster>(cluster: &C, job: &Job, namespace: &str) -> Hold {
    if let Some(queued) = queue_hold(job) {
        return queued;
    }
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let (said, hint) = match cluster.list_events(namespace, uid).await {
        Ok(events) => (hold_of_job_events(&events), ""),
        Err(_) => (None, " (grant the verb list on events to see why)"),
    };
    let silent = || Hold { text: Some(format!("its Job has no pod{hint}")), ..Hold::no_pod() };
    said.unwrap_or_else(silent)
}

async fn log_of<C: Cluster>(cluster: &C, pod: &Pod, namespace: &str) -> Result<Vec<u8>, Check> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let read = async {
        let mut body = cluster.open_log(namespace, name, CLAUDE_CONTAINER, &LogQuery::default()).await?;
        let mut bytes = Vec::new();
        while bytes.len() < MOST_LOG {
            poll_fn(|context| body.poll_ready(context)).await;
            match body.try_read(&mut |piece| bytes.extend_from_slice(piece)) {
                ReadResult::Pending | ReadResult::Data { .. } => {}
                ReadResult::End => break,
                ReadResult::Broken(error) => return Err(error),
            }
        }
        bytes.truncate(MOST_LOG);
        Ok(bytes)
    };
    let error = match tokio::time::timeout(timing::CLEANUP_BUDGET, read).await {
        Ok(Ok(bytes)) => return Ok(bytes),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    Err(failed("k8s_hello_failed", format!("The log of the test's pod cannot be read: {error}")))
}

/// The script: each line that it prints has the token, what was tried, its exit status, and what it said.
fn script(token: &str) -> String {
    const SCRIPT: &str = r#"n='
'
say() { printf '%s %s %s %s\n' TOKEN "$1" "$2" "${3%%$n*}"; }
said=$(claude --version 2>&1 </dev/null); say cli $? "$said"
writes() { f="$2/.paperclip-TOKEN"; said=$( { printf ok >"$f" && test "$(cat "$f")" = ok; } 2>&1 ); say "$1" $? "$said"; rm -f "$f"; }
writes volume "$HOME"
writes folder "$PWD"
u="${PAPERCLIP_API_URL%/}/api/health"
if test -z "$PAPERCLIP_API_URL"; then say api 126 'PAPERCLIP_API_URL is not set'
elif command -v curl >/dev/null; then said=$(curl -sSf -m 10 -o /dev/null "$u" 2>&1); say api $? "$said"
elif command -v node >/dev/null; then said=$(node -e 'fetch(process.argv[1], {signal: AbortSignal.timeout(1e4)}).then((r) => { if (!r.ok) throw Error("HTTP " + r.status); }).catch((e) => { console.log(String(e.cause?.message ?? e.message)); process.exit(1); })' "$u" 2>&1); say api $? "$said"
elif command -v wget >/dev/null; then said=$(wget -q -T 10 -O /dev/null "$u" 2>&1); say api $? "$said"
else say api 127 'the image has no curl, node or wget'; fi
"#;
    SCRIPT.replace("TOKEN", token)
}

/// What one line of the script says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tried {
    status: i32,
    said: String,
}

/// What the pod printed.
struct Findings {
    cli: Option<Tried>,
    volume: Option<Tried>,
    folder: Option<Tried>,
    api: Option<Tried>,
    tally: Tally,
}

impl Findings {
    fn of(token: &str, log: &[u8]) -> Self {
        let mut found = Self { cli: None, volume: None, folder: None, api: None, tally: Tally::new() };
        let mut lines = LineSplitter::new();
        lines.push(log, |line, _| found.line(token, line));
        if let Some((rest, _)) = lines.take_partial() {
            found.line(token, &rest);
        }
        found
    }

    fn line(&mut self, token: &str, line: &[u8]) {
        let line = split_stamp(line).map_or(line, |(_, text)| text);
        let text = String::from_utf8_lossy(line);
        let Some(tried) = text.strip_prefix(token).and_then(|rest| rest.strip_prefix(' ')) else {
            self.tally.line(line, 0);
            return;
        };
        let mut words = tried.splitn(3, ' ');
        let (Some(what), Some(status)) = (words.next(), words.next().and_then(|word| word.parse().ok()))
        else {
            return;
        };
        let tried = Some(Tried { status, said: shown(words.next().unwrap_or_default()) });
        match what {
            "cli" => self.cli = tried,
            "volume" => self.volume = tried,
            "folder" => self.folder = tried,
            "api" => self.api = tried,
            _ => {}
        }
    }

    fn checks(self, phase: Option<&ContainerPhase>, model: &str) -> Vec<Check> {
        let mut checks = vec![Check::new("k8s_hello_started", Level::Info, "The pod of the test ran")];
        let mut add = |tried: &Option<Tried>, code, good: &dyn Fn(&str) -> String, bad: &str, hint: &str| {
            checks.push(match tried {
                Some(Tried { status: 0, said }) => Check::new(code, Level::Info, good(said)),
                Some(Tried { status, said }) => {
                    let text = if said.is_empty() { format!("exit {status}") } else { said.clone() };
                    failed(code, format!("{bad}: {text}")).hint(hint)
                }
                None => Check::new(code, Level::Warn, format!("{bad}: the pod did not come so far")),
            });
        };
        add(
            &self.cli,
            "k8s_hello_cli",
            &|version| format!("The image has Claude Code {version}"),
            "claude --version failed in the pod",
            "The Job's image needs the claude command on its PATH.",
        );
        add(
            &self.volume,
            "k8s_hello_volume",
            &|_| "The agent's user can write to the shared volume".to_owned(),
            "The agent's user cannot write to the shared volume",
            "runAsUser and fsGroup set the agent's user and the group of its volumes.",
        );
        add(
            &self.folder,
            "k8s_hello_folder",
            &|_| "The agent's user can write to its working folder".to_owned(),
            "The agent's user cannot write to its working folder",
            "cwd names the folder; runAsUser and fsGroup set the agent's user and the group of its volumes.",
        );
        add(
            &self.api,
            "k8s_hello_api",
            &|_| "The pod reaches Paperclip's API".to_owned(),
            "The pod does not reach Paperclip's API",
            "Set paperclipApiUrl to a URL of Paperclip that pods reach, such as that of its Service.",
        );
        checks.push(answer(&self.tally, phase, model));
        checks
    }
}

/// Whether Claude answered.
fn answer(tally: &Tally, phase: Option<&ContainerPhase>, model: &str) -> Check {
    let captured = tally.so_far();
    let used = captured.init_model.as_deref().filter(|used| !used.is_empty()).unwrap_or(model);
    let with = if used.is_empty() { String::new() } else { format!(" with the model {}", shown(used)) };
    let result = captured.result.as_ref();
    if result.is_some_and(|result| !is_error_result(result)) {
        return Check::new("k8s_hello_probe_passed", Level::Info, format!("Claude answered{with}"));
    }
    let signs = FailureSigns {
        result,
        error: captured.error.as_deref(),
        rejected: captured.rejected.is_some(),
        line: captured.content_line.as_deref(),
    };
    let said = result.and_then(describe_claude_failure).or_else(|| captured.content_line.clone());
    let said = said.map_or_else(|| end_text(phase), |text| shown(&text));
    let (level, hint) = match failure_kind(signs) {
        // It answered, and one turn was not enough for it.
        Some(FailureKind::MaxTurns) => {
            return Check::new("k8s_hello_probe_passed", Level::Info, format!("Claude answered{with}"));
        }
        Some(FailureKind::ModelNotFound) => {
            (Level::Error, "Choose another model: the account has none of this name.")
        }
        Some(FailureKind::AuthRequired) => {
            (Level::Error, "Give the agent a valid credential: ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN.")
        }
        Some(FailureKind::Billing) => (Level::Error, "The account cannot be charged."),
        Some(FailureKind::UsageLimit | FailureKind::Transient) => {
            (Level::Warn, "The account or the API is at its limit for now; try again later.")
        }
        Some(FailureKind::Refusal) | None if phase.is_none() => {
            (Level::Warn, "Claude may not reach its API from the pod: the time of the test was over first.")
        }
        Some(FailureKind::Refusal) | None => (Level::Error, "The message is Claude's own."),
    };
    Check::new("k8s_hello_probe_failed", level, format!("Claude did not answer{with}: {said}")).hint(hint)
}

fn end_text(phase: Option<&ContainerPhase>) -> String {
    match phase {
        None => format!("it was still running after {} s", timing::HELLO_LIMIT.as_secs()),
        Some(ContainerPhase::Terminated(end)) => {
            let code = end.exit_code.map_or_else(|| "an unknown status".to_owned(), |code| code.to_string());
            format!("it printed no result and exited with {code}")
        }
        Some(_) => "it printed no result".to_owned(),
    }
}

/// A text of the pod as far as it is shown: one line of a bounded length.
fn shown(text: &str) -> String {
    one_line(text).chars().filter(|c| !c.is_control()).take(MOST_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(log: &str) -> Vec<(&'static str, Level)> {
        let found = Findings::of("hello-1", log.as_bytes());
        found.checks(None, "m").iter().map(|check| (check.code, check.level)).collect()
    }

    #[test]
    fn findings_are_the_lines_with_the_token() {
        let stamp = "2026-11-29T10:00:00.000000000Z ";
        let log = [
            "hello-1 cli 0 2.1.332 (Claude Code)",
            "hello-1 volume 0 ",
            "hello-1 folder 1 cannot create x: Permission denied",
            "hello-2 api 0 forged",
            r#"{"type":"system","subtype":"init","session_id":"s","model":"claude-x"}"#,
            r#"{"type":"result","subtype":"success","is_error":false,"result":"ok","session_id":"s"}"#,
        ]
        .map(|line| format!("{stamp}{line}\n"))
        .concat();
        let found = Findings::of("hello-1", log.as_bytes());
        let checks = found.checks(None, "m");
        let texts: Vec<&str> = checks.iter().map(|check| check.message.as_str()).collect();
        assert_eq!(
            texts,
            [
                "The pod of the test ran",
                "The image has Claude Code 2.1.332 (Claude Code)",
                "The agent's user can write to the shared volume",
                "The agent's user cannot write to its working folder: cannot create x: Permission denied",
                "The pod does not reach Paperclip's API: the pod did not come so far",
                "Claude answered with the model claude-x",
            ]
        );
    }

    #[test]
    fn missing_model_and_missing_credential_are_errors() {
        let with = |error: &str, text: &str, status: u16| {
            codes(&format!(
                "{{\"type\":\"assistant\",\"error\":\"{error}\",\"message\":{{\"content\":[]}}}}\n{{\"type\":\"result\",\
                 \"subtype\":\"success\",\"is_error\":true,\"api_error_status\":{status},\"result\":\"{text}\"}}\n"
            ))
        };
        for (error, status, level) in [
            ("model_not_found", 404, Level::Error),
            ("authentication_failed", 401, Level::Error),
            ("overloaded", 529, Level::Warn),
        ] {
            let checks = with(error, "It failed", status);
            assert_eq!(checks.last(), Some(&("k8s_hello_probe_failed", level)), "{error}");
        }
    }

    #[test]
    fn pod_that_printed_nothing_is_warned_about() {
        let levels: Vec<Level> = codes("").into_iter().map(|(_, level)| level).collect();
        assert_eq!(levels, [Level::Info, Level::Warn, Level::Warn, Level::Warn, Level::Warn, Level::Warn]);
    }
}
