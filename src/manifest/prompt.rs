//! The prompt: its sections, and how it gets into the pod.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limits::{self, ManifestError};
use super::{PROMPT_FILE, PROMPT_SECRET_SUFFIX, RunSecret, serde_ext};
use crate::expansion::escape;
use crate::js_semantics;
use crate::request::Request;

/// From this size on (UTF-8 bytes) a prompt travels in a Secret. Linux allows a variable of 128 KiB; the difference is a
/// reserve for the variable's name and for escapes.
const SECRET_FROM: usize = 98_304;
/// The variable of the init container that holds a small prompt.
pub(super) const PROMPT_VARIABLE: &str = "PROMPT_CONTENT";

/// What the host's JavaScript helpers answered for one run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Prepared {
    /// `buildPaperclipEnv(agent)`, in its order.
    #[serde(deserialize_with = "serde_ext::ordered::deserialize")]
    pub(crate) base_env: Vec<(String, String)>,
    /// `renderTemplate` of the bootstrap template; empty without one. Used for new sessions only.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) bootstrap_prompt: String,
    /// `renderTemplate` of the main template or its default.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) heartbeat_prompt: String,
    /// The skills the agent is to have, in the host's order.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) skills: Vec<Skill>,
    /// Log lines about skills that the agent does without.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) warnings: Vec<String>,
    /// What the company's skill library holds, for the end of the instructions; may be empty.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) skill_library: String,
    /// The host's own section on what woke the agent; `None` where the host has none: then [`assemble`] makes one.
    pub(crate) wake_prompt: Option<BySession>,
    /// The host's own section on the task.
    pub(crate) task_prompt: Option<BySession>,
    /// The host's own form of `paperclipWake`; `None` where the host has none: then it is passed on as it is.
    pub(crate) wake_payload: Option<WakePayload>,
    /// How the task is to be worked on, such as `planning`.
    pub(crate) issue_work_mode: Option<String>,
    /// Which MCP servers the CLI has, as a value that differs where they do; empty without any.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) mcp_server_identity: String,
}

/// A section as a new session gets it, and as a resumed session does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct BySession {
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    fresh: String,
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    resumed: String,
}

impl BySession {
    fn of(&self, resumed: bool) -> &str {
        if resumed { &self.resumed } else { &self.fresh }
    }
}

/// The host's own form of `paperclipWake`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct WakePayload {
    /// `None`: there is nothing to say.
    pub(crate) json: Option<String>,
}

/// A skill the agent is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "RawSkill")]
pub struct Skill {
    /// The skill's key at the host.
    pub(crate) key: String,
    /// The name of its directory; the key when the host gives none.
    pub(crate) runtime_name: String,
    /// Its directory on the host's disk.
    pub(crate) source: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSkill {
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    key: String,
    runtime_name: Option<String>,
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    source: String,
}

impl From<RawSkill> for Skill {
    fn from(raw: RawSkill) -> Self {
        Self {
            runtime_name: raw.runtime_name.unwrap_or_else(|| raw.key.clone()),
            key: raw.key,
            source: raw.source,
        }
    }
}

impl Prepared {
    /// What the environment test knows without a host's helpers: where the agent would reach the control plane.
    pub(crate) fn of_environment_test(api_url: Option<&str>, prompt: &str) -> Self {
        let base_env = api_url.map(|url| ("PAPERCLIP_API_URL".to_owned(), url.to_owned()));
        Self {
            base_env: base_env.into_iter().collect(),
            heartbeat_prompt: prompt.to_owned(),
            ..Self::default()
        }
    }

    /// Reads the JSON of `{baseEnv, bootstrapPrompt, heartbeatPrompt, skills}` that JavaScript wrote; it may contain
    /// halves of surrogate pairs.
    ///
    /// # Errors
    ///
    /// When the text is not JSON or a field has the wrong type.
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_value(js_semantics::parse_json(json)?)
    }
}

/// Lengths of the prompt and its sections, in UTF-16 code units as JavaScript counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PromptMetrics {
    /// The whole prompt.
    pub(crate) prompt_chars: usize,
    /// The section that only new sessions get.
    pub(crate) bootstrap_prompt_chars: usize,
    /// The section on what woke the agent.
    pub(crate) wake_prompt_chars: usize,
    /// The section handed over by an earlier session.
    pub(crate) session_handoff_chars: usize,
    /// The section on the task, where the host has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task_context_chars: Option<usize>,
    /// The main section.
    pub(crate) heartbeat_prompt_chars: usize,
}

/// The prompt and its lengths.
pub(super) struct Prompt {
    pub(super) text: String,
    pub(super) metrics: PromptMetrics,
}

/// Puts the sections together: those that the host renders itself where it does, and then trimmed as the host's own adapters
/// do it.
pub(super) fn assemble(request: &Request, prepared: &Prepared) -> Prompt {
    let resumed = !request.session_id.is_empty();
    let bootstrap = if resumed { "" } else { js_semantics::trim(&prepared.bootstrap_prompt) };
    let of_host = prepared.wake_prompt.as_ref().map(|wake| wake.of(resumed).to_owned());
    let trims = of_host.is_some();
    let wake = of_host.unwrap_or_else(|| wake_section(request));
    let handoff = request.context.text("paperclipSessionHandoffMarkdown").unwrap_or_default();
    let task = prepared.task_prompt.as_ref().map(|task| task.of(resumed));
    // A resumed session has read the main section before: the reason why it was woken is enough.
    let main = if resumed && !wake.is_empty() { "" } else { prepared.heartbeat_prompt.as_str() };

    let sections = [bootstrap, wake.as_str(), handoff, task.unwrap_or_default(), main]
        .map(|section| if trims { js_semantics::trim(section) } else { section });
    let used: Vec<&str> =
        sections.into_iter().filter(|section| !js_semantics::trim(section).is_empty()).collect();
    let text = used.join("\n\n");
    let [bootstrap, wake, handoff, task_context, main] = sections.map(js_semantics::utf16_len);
    let metrics = PromptMetrics {
        prompt_chars: js_semantics::utf16_len(&text),
        bootstrap_prompt_chars: bootstrap,
        wake_prompt_chars: wake,
        session_handoff_chars: handoff,
        task_context_chars: task.map(|_| task_context),
        heartbeat_prompt_chars: main,
    };
    Prompt { text, metrics }
}

/// Why the agent was woken, and the comments that did it.
fn wake_section(request: &Request) -> String {
    let Some(wake) = request.context.object("paperclipWake") else { return String::new() };
    let reason = js_semantics::trimmed(wake.get("reason")).map(|reason| format!("Wake reason: {reason}"));
    let comments = wake.get("comments").and_then(|comments| comments.as_array()).into_iter().flatten();
    let comments = comments.filter_map(|comment| js_semantics::trimmed(comment.as_object()?.get("body")));
    let parts: Vec<String> =
        reason.into_iter().chain(comments.map(|body| format!("Comment: {body}"))).collect();
    parts.join("\n\n")
}

/// How the prompt, and what else is too large for a variable, gets into the pod.
pub(super) enum Delivery {
    /// As the value of [`PROMPT_VARIABLE`] in the init container, escaped for Kubernetes.
    Variable(String),
    /// As files of a Secret that the init container mounts.
    Secret(RunSecret),
}

impl Delivery {
    /// The Secret, if there is one.
    pub(super) fn into_secret(self) -> Option<RunSecret> {
        match self {
            Self::Variable(_) => None,
            Self::Secret(secret) => Some(secret),
        }
    }
}

/// Chooses the delivery: a variable for a small prompt without files, else a Secret with the prompt and the `files`.
pub(super) fn deliver(
    prompt: &str,
    files: Vec<(&'static str, String)>,
    job_name: &str,
    namespace: &str,
) -> Result<Delivery, ManifestError> {
    let value = escape(prompt);
    let fits = prompt.len() < SECRET_FROM && limits::env_fits(PROMPT_VARIABLE, &value);
    if files.is_empty() && fits && !prompt.contains('\0') {
        return Ok(Delivery::Variable(value.into_owned()));
    }
    let mut data = BTreeMap::from([(PROMPT_FILE.to_owned(), prompt.to_owned())]);
    data.extend(files.into_iter().map(|(file, contents)| (file.to_owned(), contents)));
    for value in data.values() {
        limits::check_secret([value].into_iter())?;
    }
    Ok(Delivery::Secret(RunSecret {
        name: format!("{job_name}{PROMPT_SECRET_SUFFIX}"),
        namespace: namespace.to_owned(),
        data,
    }))
}
