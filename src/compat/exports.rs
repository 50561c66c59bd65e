//! The exports for JavaScript: the helpers under the names that 0.1.49 gives them.
//!
//! Objects come in as JSON text, so that a property that is `undefined` is not there.
#![allow(unreachable_pub, reason = "JavaScript reaches these items, no Rust path does")]
#![cfg_attr(test, allow(dead_code, reason = "napi registers nothing in a test build"))]

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use napi::bindgen_prelude::{FnArgs, Object, Promise};
use napi::threadsafe_function::ThreadsafeFunction;
use napi::{Env, Error, Status};
use napi_derive::napi;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cluster::LogOrder;
use super::{api_error, dedup, login, parse};
use crate::claude;
use crate::forensics::{self, Expected, OrphanVerdict, TerminatedState};
use crate::js_semantics;
use crate::manifest::{self, Manifest, Prepared, PromptBundle, SelfPod, Skill};
use crate::node::{RunControl, promise, runner};
use crate::request::{self, MAX_LABEL_LEN, Request};
use crate::run::HostError;
use crate::run::bundle::{self, BundleSpec};

/// A callback with two texts that resolves to the text of its error, if any. Weak: it does not hold the process open.
type CallbackFunction = ThreadsafeFunction<
    FnArgs<(String, String)>,
    Promise<Option<String>>,
    FnArgs<(String, String)>,
    Status,
    /* callee handled */ false,
    /* weak */ true,
>;

/// Reads an argument that JavaScript wrote as JSON.
fn read<T: DeserializeOwned>(what: &str, json: &str) -> napi::Result<T> {
    js_semantics::parse_json(json)
        .and_then(serde_json::from_value)
        .map_err(|error| Error::from_reason(format!("{what}: {error}")))
}

fn written(value: impl serde::Serialize) -> napi::Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::from_reason(error.to_string()))
}

/// `parseClaudeStreamJson(stdout)`.
#[napi(catch_unwind, ts_return_type = "object")]
pub fn parse_claude_stream_json(stdout: String) -> napi::Result<Value> {
    written(parse::parse_claude_stream_json(&stdout))
}

/// `extractClaudeLoginUrl(text)`.
#[napi(catch_unwind)]
pub fn extract_claude_login_url(text: String) -> Option<String> {
    login::extract_claude_login_url(&text)
}

/// `detectClaudeLoginRequired({parsed, stdout, stderr})`, `parsed` as JSON.
#[napi(catch_unwind, ts_return_type = "object")]
pub fn detect_claude_login_required(parsed: String, stdout: String, stderr: String) -> napi::Result<Value> {
    let parsed: Option<Value> = read("parsed", &parsed)?;
    written(login::detect_claude_login_required(parsed.as_ref(), &stdout, &stderr))
}

/// `describeClaudeFailure(parsed)`, `parsed` as JSON.
#[napi(catch_unwind)]
pub fn describe_claude_failure(parsed: String) -> napi::Result<Option<String>> {
    Ok(claude::describe_claude_failure(&read("parsed", &parsed)?))
}

/// `isClaudeMaxTurnsResult(parsed)`, `parsed` as JSON.
#[napi(catch_unwind)]
pub fn is_claude_max_turns_result(parsed: String) -> napi::Result<bool> {
    let parsed: Option<Value> = read("parsed", &parsed)?;
    Ok(parse::is_claude_max_turns_result(parsed.as_ref()))
}

/// `isClaudeUnknownSessionError(parsed)`, `parsed` as JSON.
#[napi(catch_unwind)]
pub fn is_claude_unknown_session_error(parsed: String) -> napi::Result<bool> {
    Ok(claude::failure::is_claude_unknown_session_error(&read("parsed", &parsed)?))
}

/// `eventDedupKey(event)`, `event` as JSON.
#[napi(catch_unwind)]
pub fn event_dedup_key(event: String) -> napi::Result<Option<String>> {
    Ok(dedup::event_dedup_key(&read("event", &event)?))
}

/// Drops the JSON lines that it has passed on before.
#[napi]
#[derive(Default)]
pub struct LogLineDedupFilter {
    inner: dedup::LogLineDedupFilter,
}

#[napi]
impl LogLineDedupFilter {
    /// A filter that has seen nothing.
    #[napi(constructor, catch_unwind)]
    pub fn new() -> Self {
        Self::default()
    }

    /// The complete lines of the text so far that were not passed on before.
    #[napi(catch_unwind)]
    pub fn filter(&mut self, chunk: String) -> String {
        self.inner.filter(&chunk)
    }

    /// The unfinished line, unless it was passed on before.
    #[napi(catch_unwind)]
    pub fn flush(&mut self) -> String {
        self.inner.flush()
    }
}

/// `buildJobManifest({ctx, selfPod, promptBundle})`: the request of `execute`, the self pod, the answers of the
/// host's helpers and the bundle, all as JSON.
#[napi(catch_unwind, ts_return_type = "object")]
pub fn build_job_manifest(
    request: String,
    self_pod: String,
    prepared: String,
    bundle: String,
) -> napi::Result<Value> {
    let reason = |error: &dyn std::fmt::Display| Error::from_reason(error.to_string());
    let request = Request::parse(&request).map_err(|error| reason(&error))?;
    let self_pod: SelfPod = read("selfPod", &self_pod)?;
    let prepared: Prepared = read("prepared", &prepared)?;
    let bundle: Option<PromptBundle> = read("promptBundle", &bundle)?;
    let manifest =
        manifest::build(&request, &self_pod, &prepared, bundle.as_ref()).map_err(|error| reason(&error))?;
    let Manifest {
        job,
        job_name,
        namespace,
        prompt,
        claude_args,
        prompt_metrics,
        prompt_secret,
        skipped_labels,
        ..
    } = manifest;
    let secret = prompt_secret
        .map(|secret| json!({"name": secret.name, "namespace": secret.namespace, "data": secret.data}));
    Ok(json!({
        "job": written(job)?,
        "jobName": job_name,
        "namespace": namespace,
        "prompt": prompt,
        "claudeArgs": claude_args,
        "promptMetrics": written(prompt_metrics)?,
        "promptSecret": secret,
        "skippedLabels": skipped_labels,
    }))
}

/// `buildRtkSetupCommands(maxOutputBytes)`.
#[napi(catch_unwind)]
pub fn build_rtk_setup_commands(max_output_bytes: f64) -> String {
    // A cast saturates: what is negative or not a number cuts everything, as it would in the filter.
    claude::rtk_setup_commands(max_output_bytes as u64)
}

/// `sanitizeLabelValue(value, maxLen)`.
#[napi(catch_unwind)]
pub fn sanitize_label_value(value: String, max_len: Option<u32>) -> Option<String> {
    let most = max_len.and_then(|most| usize::try_from(most).ok()).unwrap_or(MAX_LABEL_LEN);
    request::sanitize_label_value(&value, most)
}

/// `shouldAbortForCancellation(runStatus)`.
#[napi(catch_unwind)]
pub fn should_abort_for_cancellation(run_status: Option<String>) -> bool {
    forensics::should_abort_for_cancellation(run_status.as_deref())
}

/// `buildPartialRunError(exitCode, model, stdout, podState)`, `podState` as JSON.
#[napi(catch_unwind)]
pub fn build_partial_run_error(
    exit_code: Option<i32>,
    model: String,
    stdout: String,
    pod_state: String,
) -> napi::Result<String> {
    let state: Option<TerminatedState> = read("podState", &pod_state)?;
    Ok(parse::build_partial_run_error(exit_code, &model, &stdout, &forensics::pod_cause(state.as_ref())))
}

/// `classifyOrphan(job, {taskId, sessionId})`, `job` as JSON.
#[napi(catch_unwind)]
pub fn classify_orphan(
    job: String,
    task_id: Option<String>,
    session_id: Option<String>,
) -> napi::Result<String> {
    let job: Job = read("job", &job)?;
    let expected = Expected { task_id: task_id.as_deref(), session_id: session_id.as_deref() };
    Ok(verdict_name(forensics::classify_orphan(&job, &expected)).to_owned())
}

/// The verdict's name in 0.1.49.
const fn verdict_name(verdict: OrphanVerdict) -> &'static str {
    match verdict {
        OrphanVerdict::Reattach => "reattach",
        OrphanVerdict::BlockTaskUnknown => "block_task_unknown",
        OrphanVerdict::BlockTaskMismatch => "block_task_mismatch",
        OrphanVerdict::BlockSessionMismatch => "block_session_mismatch",
    }
}

/// `describePodTerminatedError(podName, phase, containerStatuses)`; of the statuses the `terminated` state of
/// the container `claude`, as JSON.
#[napi(catch_unwind)]
pub fn describe_pod_terminated_error(
    pod_name: String,
    phase: String,
    terminated: String,
) -> napi::Result<String> {
    let state: Option<TerminatedState> = read("terminated", &terminated)?;
    Ok(forensics::describe_pod_terminated_error(&pod_name, &phase, state.as_ref()))
}

/// `describeTruncationCause(state)`, `state` as JSON.
#[napi(catch_unwind)]
pub fn describe_truncation_cause(state: String) -> napi::Result<String> {
    let state: Option<TerminatedState> = read("state", &state)?;
    Ok(forensics::describe_truncation_cause(state.as_ref()))
}

/// The part of `isK8s404(err)` that looks at the message.
#[napi(catch_unwind)]
pub fn is_not_found_message(message: String) -> bool {
    api_error::is_not_found_message(&message)
}

/// What `prepareClaudePromptBundle` is given, and the environment that it reads.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BundleOrder {
    company_id: String,
    paperclip_home: Option<String>,
    user_home: String,
    instance_id: Option<String>,
    skills: Vec<Skill>,
    instructions: Option<String>,
}

/// Makes a prompt bundle; resolves to `{bundle, warnings}`. `link` resolves to the text of its error, if any.
#[napi(catch_unwind, ts_return_type = "Promise<object>")]
pub fn prepare_prompt_bundle(
    env: &Env,
    order: String,
    #[napi(ts_arg_type = "(source: string, target: string) => Promise<string | undefined>")]
    link: CallbackFunction,
) -> napi::Result<Object<'_>> {
    let BundleOrder { company_id, paperclip_home, user_home, instance_id, skills, instructions } =
        read("order", &order)?;
    let spec = BundleSpec {
        company_id,
        paperclip_home,
        user_home,
        instance_id,
        skills,
        instructions,
        copies: false,
    };
    let link = Arc::new(link);
    promise(env, async move {
        let link = |source: String, target: String| {
            let link = link.clone();
            async move {
                let lost = |error: Error| HostError(error.reason.clone());
                let call = link.call_async_catch((source, target).into());
                call.await.map_err(lost)?.await.map_err(lost)?.map_or(Ok(()), |text| Err(HostError(text)))
            }
        };
        let (bundle, warnings) = bundle::prepare(spec, link).await.map_err(|error| error.to_string())?;
        Ok(json!({"bundle": bundle, "warnings": warnings}))
    })
}

/// `getSelfPodInfo(kubeconfigPath)`, for the `config` and `hostEnv` of a request as JSON.
#[napi(catch_unwind, ts_return_type = "Promise<object>")]
pub fn get_self_pod_info(env: &Env, request: String) -> napi::Result<Object<'_>> {
    promise(env, async move {
        let request = Request::parse(&request).map_err(|error| error.to_string())?;
        let pod = runner().self_pod(&request).await.map_err(|error| error.to_string())?;
        serde_json::to_value(pod).map_err(|error| error.to_string())
    })
}

/// Follows a container's log to the end of one body; rejects when it breaks off or `control` is cancelled.
#[napi(catch_unwind, ts_return_type = "Promise<void>")]
pub fn stream_pod_logs_once<'env>(
    env: &'env Env,
    order: String,
    control: &RunControl,
    #[napi(ts_arg_type = "(stream: string, chunk: string) => Promise<string | undefined>")]
    log: CallbackFunction,
) -> napi::Result<Object<'env>> {
    let order: LogOrder = read("order", &order)?;
    let over = control.over();
    let log = Arc::new(log);
    promise(env, async move {
        let log = |text: String| {
            let log = log.clone();
            async move {
                // A host that rejects a chunk still gets the next one.
                if let Ok(call) = log.call_async_catch(("stdout".to_owned(), text).into()).await {
                    let _ = call.await;
                }
            }
        };
        tokio::select! {
            ended = runner().stream_log_once(&order, log) => ended.map_err(|error| error.to_string()),
            () = over => Err("given up".to_owned()),
        }
    })
}
