//! What a run reports before its Job is created: the prompt bundle and `onMeta`.

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use super::bundle::{BundleOrder, Bundled};
use super::guard::Orphan;
use crate::manifest::{self, Manifest, Prepared, PromptBundle};
use crate::request::Request;
use crate::run::context::RunContext;
use crate::run::{Host, RunError};

/// `Skills bundled (n): …` and the agent's instructions, then the bundle (`docs/contract.md`, "Skills and instructions").
pub(super) async fn prepare_bundle<C, H: Host>(
    run: &RunContext<C, H>,
    prepared: &Prepared,
) -> Result<PromptBundle, RunError> {
    let RunContext { request, host, log, .. } = run;
    log.out(format!("[paperclip] Skills bundled {}", skill_summary(prepared))).await;
    let mut instructions = None;
    if let Some(path) = &request.config.instructions_file_path {
        match tokio::fs::read(path).await {
            Ok(bytes) => instructions = Some(with_directive(&String::from_utf8_lossy(&bytes), path)),
            Err(error) => {
                log.err(format!(
                    "[paperclip] Warning: could not read agent instructions file \"{path}\": {}",
                    node_read_error(&error, path)
                ))
                .await;
            }
        }
    }
    let order = BundleOrder {
        company_id: request.agent.company_id.clone(),
        skills: prepared.skills.clone(),
        instructions_contents: instructions,
    };
    let Bundled { bundle, told } = host.bundle(order).await?;
    for (channel, text) in told {
        log.text(channel, text).await;
    }
    Ok(bundle)
}

/// `(2): a, b`, or `(0): none`.
fn skill_summary(prepared: &Prepared) -> String {
    let names: Vec<&str> = prepared.skills.iter().map(|skill| skill.runtime_name.as_str()).collect();
    let listed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("({}): {listed}", names.len())
}

/// Node's wording for the most common failures; operators search for it.
fn node_read_error(error: &std::io::Error, path: &str) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("ENOENT: no such file or directory, open '{path}'"),
        std::io::ErrorKind::PermissionDenied => format!("EACCES: permission denied, open '{path}'"),
        _ => error.to_string(),
    }
}

fn with_directive(text: &str, path: &str) -> String {
    let dir = path.rfind('/').map_or("./".to_owned(), |at| path[..=at].to_owned());
    format!(
        "{text}\nThe agent instructions above come from {path}. Resolve every relative file reference in them \
         against {dir}. For sibling instruction files such as ./HEARTBEAT.md, ./SOUL.md and ./TOOLS.md that \
         directory is authoritative: do not look for them in the parent agent directory."
    )
}

/// The object `onMeta` is called with; the host's own context is added to it in JavaScript.
fn meta_of(
    command: &str,
    namespace: &str,
    args: &[String],
    notes: &[String],
    prompt: &str,
    metrics: Option<Value>,
) -> Value {
    let mut meta = json!({
        "adapterType": manifest::ADAPTER_TYPE,
        "command": command,
        "cwd": namespace,
        "commandArgs": args,
        "commandNotes": notes,
        "prompt": prompt,
    });
    if let Some(metrics) = metrics {
        meta["promptMetrics"] = metrics;
    }
    meta
}

/// A timeout in log lines and notes: `60s`.
pub(super) fn seconds(value: f64) -> String {
    format!("{}s", crate::js_semantics::number(value))
}

/// What `onMeta` gets of a Job that is about to be created.
pub(super) fn of_created(request: &Request, prepared: &Prepared, manifest: &Manifest) -> Value {
    let notes = [
        format!("Image: {}", manifest.image),
        format!("Namespace: {}", manifest.namespace),
        format!("Timeout: {}", seconds(request.config.timeout_sec)),
        format!("Skills {}", skill_summary(prepared)),
    ];
    let mut meta = meta_of(
        &format!("kubectl job/{}", manifest.job_name),
        &manifest.namespace,
        &manifest.claude_args,
        &notes,
        &manifest.prompt,
        serde_json::to_value(manifest.prompt_metrics).ok(),
    );
    meta["env"] = literal_env(&manifest.job);
    meta
}

/// The variables of the agent's container that are written out in the manifest.
fn literal_env(job: &Job) -> Value {
    let containers =
        job.spec.iter().filter_map(|spec| spec.template.spec.as_ref()).flat_map(|pod| &pod.containers);
    containers
        .flat_map(|container| container.env.iter().flatten())
        .filter_map(|variable| Some((variable.name.clone(), json!(variable.value.as_ref()?))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// What `onMeta` gets of a Job that is reattached to.
pub(super) fn of_reattached(request: &Request, orphan: &Orphan) -> Value {
    let notes = [
        format!("Image: {}", orphan.image),
        format!("Namespace: {}", orphan.namespace),
        format!("Reattached from prior run: {}", orphan.prior_run()),
        format!("Timeout: {}", seconds(request.config.timeout_sec)),
    ];
    meta_of(&format!("kubectl job/{}", orphan.name), &orphan.namespace, &[], &notes, "", None)
}
