//! The variables of the agent's container, layer by layer.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::EnvVar;
use serde_json::Value;

use super::limits::{self, ManifestError};
use super::{HOME, PROMPT_DIR, Prepared, SelfPod, host_local, mcp};
use crate::js_semantics;
use crate::request::Request;

const API_KEY: &str = "PAPERCLIP_API_KEY";
const API_URL: &str = "PAPERCLIP_API_URL";
/// The directory for temporary files that the prompt of hosts speaks of. The container makes it.
const SCRATCH_DIR: &str = "/tmp/paperclip-scratch";
const SCRATCH_VARIABLES: [&str; 3] =
    ["PAPERCLIP_SCRATCH_DIR", "PAPERCLIP_RUN_SCRATCH_DIR", "PAPERCLIP_TASK_SCRATCH_DIR"];

/// The variables of the agent's container, and what could not become one.
pub(super) struct Env {
    pub(super) vars: Vec<EnvVar>,
    /// File name in [`PROMPT_DIR`] and contents, for values too large for a variable.
    pub(super) files: Vec<(&'static str, String)>,
    pub(super) notes: Vec<String>,
}

/// A value of the context that travels as JSON.
struct JsonValue {
    variable: &'static str,
    /// Replaces the variable when the value has to be a file: holds its path.
    file_variable: &'static str,
    file: &'static str,
    json: Option<String>,
}

/// Collects the variables. Later layers win; a variable keeps the position that its first layer gave it.
pub(super) fn collect(
    request: &Request,
    self_pod: &SelfPod,
    prepared: &Prepared,
) -> Result<Env, ManifestError> {
    let mut notes = Vec::new();
    let configured = configured(request, prepared, &mut notes);

    let mut layers = Layers::default();
    for (name, value) in &self_pod.inherited_env {
        // As the pod's author wrote it, with references to other variables.
        layers.set(name, value.as_str());
    }

    let inherited_url =
        self_pod.inherited_env.iter().rev().find(|(name, value)| name == API_URL && !value.is_empty());
    for (name, value) in &prepared.base_env {
        match inherited_url {
            Some((_, url)) if name == API_URL => layers.set(name, url.as_str()),
            _ => layers.set(name, escape(value)),
        }
    }

    let mut files = Vec::new();
    for variable in paperclip_variables(request, prepared) {
        let JsonValue { variable, file_variable, file, json } = match variable {
            Variable::Text(name, value) => {
                if let Some(value) = value {
                    layers.set(name, escape(&value).into_owned());
                }
                continue;
            }
            Variable::Json(json) => json,
        };
        let Some(json) = json else { continue };
        let value = escape(&json);
        if limits::env_fits(variable, &value) {
            layers.set(variable, value.into_owned());
            continue;
        }
        notes.push(format!(
            "{variable} is too large for a variable ({} bytes): {file_variable} names a file with it",
            json.len()
        ));
        layers.replace(variable, file_variable, format!("{PROMPT_DIR}/{file}"));
        files.push((file, json));
    }

    if let Some(home) = super::claude_home(request) {
        layers.set("CLAUDE_CONFIG_DIR", home);
    }
    for (name, value) in configured {
        layers.set(name, value);
    }
    layers.set("HOME", HOME);
    if host_local::HostLocal::new(request).gives_scratch() {
        for name in SCRATCH_VARIABLES {
            layers.set(name, SCRATCH_DIR);
        }
    }

    let pod_url = layers.vars.iter().find(|(name, _)| name == API_URL).map(|(_, url)| url.as_ref());
    let own_url = request.host_env.get(API_URL);
    files.extend(
        mcp::file(&request.mcp_servers, own_url, pod_url, &mut notes).map(|file| (mcp::MCP_FILE, file)),
    );

    for (name, value) in &layers.vars {
        limits::check_env(name, value)?;
    }
    let references = self_pod.inherited_env_value_from.iter().filter(|var| !layers.claims(&var.name));
    let references: Vec<EnvVar> = references.map(|var| EnvVar { value: None, ..var.clone() }).collect();
    let mut vars: Vec<EnvVar> =
        layers.vars.into_iter().map(|(name, value)| literal(&name, value.into_owned())).collect();
    vars.extend(references);
    Ok(Env { vars, files, notes })
}

/// A literal variable.
pub(super) fn literal(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), value_from: None }
}

/// Protects text from Kubernetes, which replaces `$(NAME)` in a variable's value by the value of that variable and `$$`
/// by `$`, and tears apart a multi-byte character that follows a `$`. A doubled `$` comes out as one. Text without such
/// a sequence stays unchanged.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let touched =
        bytes.windows(2).any(|pair| pair[0] == b'$' && (matches!(pair[1], b'$' | b'(') || pair[1] >= 0x80));
    if touched { Cow::Owned(text.replace('$', "$$")) } else { Cow::Borrowed(text) }
}

/// Names of the variables that the run itself has, and that nothing configured may replace. The URL of the control plane is
/// not among them: the one that the host knows is not always the one that a pod reaches.
fn of_run<'a>(request: &Request, prepared: &'a Prepared) -> Vec<&'a str> {
    let of_context =
        paperclip_variables(request, prepared).into_iter().filter_map(|variable| match variable {
            Variable::Text(name, value) => value.map(|_| name),
            Variable::Json(JsonValue { variable, json, .. }) => json.map(|_| variable),
        });
    let of_agent = prepared.base_env.iter().map(|(name, _)| name.as_str());
    of_agent
        .chain(of_context)
        .filter(|name| name.starts_with("PAPERCLIP_") && *name != API_URL && *name != API_KEY)
        .collect()
}

/// The configured variables that are meant for the pod.
fn configured<'a>(
    request: &'a Request,
    prepared: &Prepared,
    notes: &mut Vec<String>,
) -> Vec<(&'a str, &'a str)> {
    let local = host_local::HostLocal::new(request);
    let of_run = of_run(request, prepared);
    let (mut kept, mut dropped, mut replaced) = (Vec::new(), Vec::new(), Vec::new());
    for (name, value) in &request.config.env {
        if name == API_KEY && request.auth_token.is_some() {
            notes.push(format!("{API_KEY} of config.env left out: the run has its own token"));
        } else if of_run.contains(&name.as_str()) {
            replaced.push(name.as_str());
        } else if local.holds(name, value) {
            dropped.push(name.as_str());
        } else {
            kept.push((name.as_str(), value.as_str()));
        }
    }
    if !replaced.is_empty() {
        notes.push(format!("{} of config.env left out: the run has its own", replaced.join(", ")));
    }
    if !dropped.is_empty() {
        let (count, names) = (dropped.len(), dropped.join(", "));
        notes
            .push(format!("{count} variable(s) of config.env left out, they hold only on the host: {names}"));
    }
    kept
}

enum Variable {
    Text(&'static str, Option<String>),
    Json(JsonValue),
}

/// The variables that describe the run to the agent, in the order of docs/contract.md, "Job manifest".
fn paperclip_variables(request: &Request, prepared: &Prepared) -> Vec<Variable> {
    let context = &request.context;
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let text = |name, key| Variable::Text(name, owned(context.text(key)));
    let workspace = |name, key| Variable::Text(name, owned(context.workspace_text(key)));
    let list = |variable, file_variable, file, key| {
        let list = context.get(key).and_then(Value::as_array).filter(|list| !list.is_empty());
        let json = list.and_then(|list| serde_json::to_string(list).ok());
        Variable::Json(JsonValue { variable, file_variable, file, json })
    };

    let wake = match &prepared.wake_payload {
        Some(of_host) => of_host.json.clone(),
        None => {
            let wake = context.get("paperclipWake").filter(|wake| wake.is_object() || wake.is_array());
            wake.map(Value::to_string).filter(|json| json != "{}")
        }
    };
    let issues = context.get("issueIds").and_then(Value::as_array).into_iter().flatten();
    let issues: Vec<&str> =
        issues.filter_map(Value::as_str).filter(|id| !js_semantics::trim(id).is_empty()).collect();

    vec![
        Variable::Text("PAPERCLIP_RUN_ID", Some(request.run_id.clone())),
        Variable::Text("PAPERCLIP_TASK_ID", owned(context.task_id())),
        Variable::Text("PAPERCLIP_ISSUE_WORK_MODE", prepared.issue_work_mode.clone()),
        text("PAPERCLIP_WAKE_REASON", "wakeReason"),
        Variable::Text("PAPERCLIP_WAKE_COMMENT_ID", owned(context.first_text("wakeCommentId", "commentId"))),
        text("PAPERCLIP_APPROVAL_ID", "approvalId"),
        text("PAPERCLIP_APPROVAL_STATUS", "approvalStatus"),
        Variable::Json(JsonValue {
            variable: "PAPERCLIP_WAKE_PAYLOAD_JSON",
            file_variable: "PAPERCLIP_WAKE_PAYLOAD_FILE",
            file: "wake-payload.json",
            json: wake,
        }),
        workspace("PAPERCLIP_WORKSPACE_CWD", "cwd"),
        workspace("PAPERCLIP_WORKSPACE_SOURCE", "source"),
        workspace("PAPERCLIP_WORKSPACE_STRATEGY", "strategy"),
        workspace("PAPERCLIP_WORKSPACE_ID", "workspaceId"),
        workspace("PAPERCLIP_WORKSPACE_REPO_URL", "repoUrl"),
        workspace("PAPERCLIP_WORKSPACE_REPO_REF", "repoRef"),
        workspace("PAPERCLIP_WORKSPACE_BRANCH", "branchName"),
        workspace("PAPERCLIP_WORKSPACE_WORKTREE_PATH", "worktreePath"),
        workspace("AGENT_HOME", "agentHome"),
        Variable::Text("PAPERCLIP_LINKED_ISSUE_IDS", Some(issues.join(",")).filter(|ids| !ids.is_empty())),
        list(
            "PAPERCLIP_WORKSPACES_JSON",
            "PAPERCLIP_WORKSPACES_FILE",
            "workspaces.json",
            "paperclipWorkspaces",
        ),
        list(
            "PAPERCLIP_RUNTIME_SERVICE_INTENTS_JSON",
            "PAPERCLIP_RUNTIME_SERVICE_INTENTS_FILE",
            "runtime-service-intents.json",
            "paperclipRuntimeServiceIntents",
        ),
        list(
            "PAPERCLIP_RUNTIME_SERVICES_JSON",
            "PAPERCLIP_RUNTIME_SERVICES_FILE",
            "runtime-services.json",
            "paperclipRuntimeServices",
        ),
        text("PAPERCLIP_RUNTIME_PRIMARY_URL", "paperclipRuntimePrimaryUrl"),
        Variable::Text(API_KEY, request.auth_token.clone()),
    ]
}

/// Literal variables: names are unique, the first occurrence decides the position, the last one the value.
#[derive(Default)]
struct Layers<'a> {
    vars: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Names that must not come back from the pod's references either.
    removed: Vec<&'a str>,
}

impl<'a> Layers<'a> {
    fn set(&mut self, name: &'a str, value: impl Into<Cow<'a, str>>) {
        let value = value.into();
        match self.vars.iter_mut().find(|(seen, _)| seen == name) {
            Some(var) => var.1 = value,
            None => self.vars.push((Cow::Borrowed(name), value)),
        }
    }

    /// Removes a variable and sets another.
    fn replace(&mut self, name: &'a str, by: &'a str, value: String) {
        self.vars.retain(|(seen, _)| seen != name);
        self.removed.push(name);
        self.set(by, value);
    }

    fn claims(&self, name: &str) -> bool {
        self.removed.contains(&name) || self.vars.iter().any(|(seen, _)| seen == name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Kubernetes makes of a value, by the documented rules of `third_party/forked/golang/expansion`, with one
    /// variable `V` defined.
    fn expand(value: &str) -> String {
        let mut out = Vec::new();
        let mut rest = value.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match (byte, after.first()) {
                (b'$', Some(b'$')) => {
                    out.push(b'$');
                    rest = &after[1..];
                }
                (b'$', Some(b'(')) if after.starts_with(b"(V)") => {
                    out.extend(b"value");
                    rest = &after[3..];
                }
                (b'$', Some(&next)) if next >= 0x80 => {
                    out.push(b'?');
                    rest = &after[1..];
                }
                _ => out.push(byte),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn escape_leaves_harmless_text_unchanged() {
        for text in ["", "plain", "costs $5", "$HOME", "$", "a$", "${X}"] {
            assert!(matches!(escape(text), Cow::Borrowed(_)), "{text}");
            assert_eq!(expand(text), text);
        }
        assert_eq!(escape("$(V) $$ $5"), "$$(V) $$$$ $$5");
    }

    proptest! {
        #[test]
        fn escaped_text_survives_kubernetes(text in "([$()Vé]|[a-z])*") {
            prop_assert_eq!(expand(&escape(&text)), text);
        }
    }
}
