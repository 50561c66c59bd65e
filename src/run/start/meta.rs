//! What `onMeta` gets: what an operator sees of a run before its Job is created.

use serde_json::{Value, json};

use super::guard::Orphan;
use super::prepare::skill_summary;
use super::redact::{self, REDACTED};
use crate::manifest::{self, CLAUDE_CONTAINER, Manifest, Prepared};
use crate::request::Request;

/// Shown instead of a value that the agent's container has from the host's.
const INHERITED: &str = "(inherited)";

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
        &redact::args(&manifest.claude_args),
        &notes,
        &manifest.prompt,
        serde_json::to_value(manifest.prompt_metrics).ok(),
    );
    meta["env"] = shown_env(manifest);
    meta
}

/// The variables of the agent's container: of those that it has from the host's, and of credentials, only the names.
fn shown_env(manifest: &Manifest) -> Value {
    let pod = manifest.job.spec.iter().filter_map(|spec| spec.template.spec.as_ref());
    let vars = pod
        .flat_map(|pod| &pod.containers)
        .filter(|container| container.name == CLAUDE_CONTAINER)
        .flat_map(|container| container.env.iter().flatten());
    vars.filter_map(|var| {
        let shown = if manifest.inherited.contains(&var.name) {
            INHERITED.to_owned()
        } else {
            let value = var.value.as_deref()?;
            if redact::is_secret_name(&var.name) { REDACTED.to_owned() } else { redact::text(value) }
        };
        Some((var.name.clone(), Value::from(shown)))
    })
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
