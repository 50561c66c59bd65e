//! The variables of the agent's container, layer by layer.

use std::borrow::Cow;
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::EnvVar;
use serde_json::Value;

use super::limits::{self, ManifestError};
use super::{HOME, PROMPT_DIR, Prepared, SelfPod, host_local, mcp, server_only};
use crate::expansion::{escape, references};
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
    /// Names of those that the container has from the host's.
    pub(super) inherited: BTreeSet<String>,
    /// Names of the host's variables that only the server needs.
    pub(super) withheld: BTreeSet<String>,
    /// File name in [`PROMPT_DIR`] and contents, for values too large for a variable.
    pub(super) files: Vec<(&'static str, String)>,
    pub(super) notes: Vec<String>,
    /// Why the agent cannot reach the URL of the control plane, and the URL.
    pub(super) unreachable_url: Option<(&'static str, String)>,
}

/// A value of the context that travels as JSON.
struct JsonValue {
    variable: &'static str,
    /// Replaces the variable when the value has to be a file: holds its path.
    file_variable: &'static str,
    file: &'static str,
    json: Option<String>,
}

/// Collects the variables: those of the host's container in their order, then those of the run, then the configured ones.
/// Of a name given twice the last one counts; an earlier one is kept only where a variable between them refers to it.
pub(super) fn collect(
    request: &Request,
    self_pod: &SelfPod,
    prepared: &Prepared,
) -> Result<Env, ManifestError> {
    let mut notes = Vec::new();
    let configured = configured(request, prepared, &mut notes);

    let mut layers = Layers::default();
    let configured_url = request.config.paperclip_api_url.as_deref();
    let inherited_url = self_pod.env.iter().rev().find(|var| var.name == API_URL);
    let inherits_url = inherited_url.is_some_and(|var| var.value.as_deref() != Some(""));
    for (name, value) in &prepared.base_env {
        if name != API_URL || !inherits_url {
            layers.set(name, escape(value));
        }
    }
    if let Some(url) = configured_url {
        layers.set(API_URL, escape(url));
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
    // Before the configured ones, which may refer to it.
    layers.set("HOME", HOME);
    for (name, value) in configured {
        layers.append(name, value);
    }
    if host_local::HostLocal::new(request).gives_scratch() {
        for name in SCRATCH_VARIABLES {
            layers.append(name, SCRATCH_DIR);
        }
    }

    let own = layers.vars.iter().map(|(name, value)| literal(name, value.to_string()));
    let (of_host, withheld) = server_only::variables(request, self_pod);
    let inherited = of_host.iter().filter(|var| !layers.removed.contains(&var.name.as_str()));
    let vars = without_hidden(inherited.clone().cloned().chain(own).collect());
    for var in &vars {
        limits::check_env(&var.name, var.value.as_deref().unwrap_or_default())?;
    }
    let of_run = |name: &str| layers.vars.iter().any(|(own, _)| own == name);
    let pod_url = vars.iter().rev().find(|var| var.name == API_URL).and_then(|var| var.value.clone());
    let own_url = request.host_env.get(API_URL);
    files.extend(
        mcp::file(&request.mcp_servers, &request.config.mcp_servers, own_url, pod_url.as_deref(), &mut notes)
            .map(|file| (mcp::MCP_FILE, file)),
    );
    let own_name = request.host_env.get("HOSTNAME").unwrap_or_default();
    let unreachable_url = pod_url.and_then(|url| Some((why_unreachable(&url, own_name)?, url)));
    Ok(Env {
        withheld,
        inherited: inherited.map(|var| var.name.clone()).filter(|name| !of_run(name)).collect(),
        vars,
        files,
        notes,
        unreachable_url,
    })
}

/// Leaves out each variable that a later one of its name replaces for certain, unless one between them refers to it.
fn without_hidden(vars: Vec<EnvVar>) -> Vec<EnvVar> {
    let refers = |var: &EnvVar, name: &str| {
        var.value.as_deref().is_some_and(|value| references(value).any(|other| other == name))
    };
    let hidden = |at: usize| {
        let name = &vars[at].name;
        let later = &vars[at + 1..];
        let replaced = later.iter().position(|var| var.name == *name && is_certain(var));
        replaced.is_some_and(|by| !later[..=by].iter().any(|var| refers(var, name)))
    };
    let kept: Vec<bool> = (0..vars.len()).map(|at| !hidden(at)).collect();
    vars.into_iter().zip(kept).filter_map(|(var, kept)| kept.then_some(var)).collect()
}

/// Whether a variable has a value whatever the cluster holds: an optional reference may have none.
pub(super) fn is_certain(var: &EnvVar) -> bool {
    let Some(source) = &var.value_from else { return true };
    let secret = source.secret_key_ref.as_ref().and_then(|of| of.optional);
    let config_map = source.config_map_key_ref.as_ref().and_then(|of| of.optional);
    secret.or(config_map) != Some(true)
}

/// Why a pod cannot reach this URL, as far as it shows. `own_name` is that of the host's machine or pod.
fn why_unreachable(url: &str, own_name: &str) -> Option<&'static str> {
    if leads_to_the_pod_itself(url) {
        Some("leads from its pod to the pod itself")
    } else if is_of_host(url, own_name) {
        Some("is the name of Paperclip's own machine, which pods do not find")
    } else {
        None
    }
}

/// Whether a URL is empty, or names the machine that asks.
pub(super) fn leads_to_the_pod_itself(url: &str) -> bool {
    let host = host_of(url);
    host.is_empty()
        || host == "localhost"
        || host.ends_with(".localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}

/// Whether a URL has the bare name of a pod or machine, which the cluster's DNS does not have.
fn is_of_host(url: &str, name: &str) -> bool {
    !name.is_empty() && !name.contains('.') && host_of(url).eq_ignore_ascii_case(name)
}

/// The host of a URL, in lower case; an IPv6 address without its brackets.
fn host_of(url: &str) -> String {
    let url = url.trim();
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host.to_ascii_lowercase()
}

/// A literal variable.
pub(super) fn literal(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), value_from: None }
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
        } else if name == "HOME" {
            replaced.push(name.as_str());
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

/// The run's own variables: names are unique.
#[derive(Default)]
struct Layers<'a> {
    vars: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Names that must not come from the host's container either.
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

    /// Sets a variable behind all others, to which its value may refer.
    fn append(&mut self, name: &'a str, value: impl Into<Cow<'a, str>>) {
        self.vars.retain(|(seen, _)| seen != name);
        self.vars.push((Cow::Borrowed(name), value.into()));
    }

    /// Removes a variable and sets another.
    fn replace(&mut self, name: &'a str, by: &'a str, value: String) {
        self.vars.retain(|(seen, _)| seen != name);
        self.removed.push(name);
        self.set(by, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_url_leads_to_the_pod_itself() {
        for url in [
            "",
            " ",
            "http://localhost:3100",
            "https://LOCALHOST/x",
            "http://127.0.0.1",
            "http://127.9.8.7:1/x",
            "http://[::1]:3100",
            "http://0.0.0.0:3100/api",
            "localhost:3100",
            "http://user:pass@localhost/x",
            "http://app.localhost",
        ] {
            assert!(leads_to_the_pod_itself(url), "{url}");
        }
        for url in
            ["http://paperclip:3100", "https://10.0.0.1", "http://[fd00::1]", "http://localhost.example"]
        {
            assert!(!leads_to_the_pod_itself(url), "{url}");
        }
    }

    #[test]
    fn bare_name_of_the_host_is_not_found_by_pods() {
        for (url, name, unreachable) in [
            ("http://paperclip-0:3100", "paperclip-0", true),
            ("http://PAPERCLIP-0", "paperclip-0", true),
            ("http://paperclip:3100", "paperclip-0", false),
            ("http://paperclip-0.svc.example", "paperclip-0", false),
            ("http://host.example", "host.example", false),
            ("http://paperclip:3100", "", false),
        ] {
            assert_eq!(why_unreachable(url, name).is_some(), unreachable, "{url} {name}");
        }
    }
}
