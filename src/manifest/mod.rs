//! From a request to the Job that carries it out.
//!
//! Pure: what the Job needs from outside has been read before. [`Request`] holds the settings,
//! [`SelfPod`] what the Job inherits from the host's own pod, [`Prepared`] what the host's JavaScript helpers
//! answered, and [`PromptBundle`] where the skills and instructions are. [`build`] makes the Job of them, or reports why
//! no pod could ever start from them.

mod claim;
mod env;
mod host_local;
mod job;
pub(crate) mod labels;
mod limits;
mod mcp;
mod prompt;
mod self_pod;
mod serde_ext;
mod volumes;

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::claude::EndToken;
use crate::claude::command::{self, BundlePaths, CliCommand};
use crate::request::{ClaudeHome, MAX_LABEL_LEN, Request, SessionPlace, sanitize_label_value};
pub(crate) use claim::{ClaimFacts, barred_for, barrier, claim, claim_facts, claim_name};
pub(crate) use labels::{ADAPTER_TYPE, CLAUDE_CONTAINER, LABEL_AGENT_ID, LABEL_RUN_ID, LABEL_SESSION_ID};
use labels::{
    ANNOTATION_END_TOKEN, ANNOTATION_JOB_NAME, ANNOTATION_SESSION, COMPONENT_JOB, LABEL_ADAPTER_TYPE,
    LABEL_COMPANY_ID, LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_TASK_ID, MANAGED_BY, RESERVED_LABEL_PREFIXES,
};
pub use limits::ManifestError;
pub(crate) use prompt::PromptMetrics;
pub use prompt::{Prepared, Skill};
pub use self_pod::{SelfPod, SelfPodError};

/// The agent's home directory in the pod, where the shared volume is mounted.
const HOME: &str = "/paperclip";
/// Where the init container writes the prompt, and what else is too large for a variable.
const PROMPT_DIR: &str = "/tmp/prompt";
/// The prompt's file in [`PROMPT_DIR`], and its key in the prompt Secret.
const PROMPT_FILE: &str = "prompt.txt";

/// The skills and instructions of one agent, in a directory that host and pod share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PromptBundle {
    /// Hash of the bundle's contents.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) bundle_key: String,
    /// The bundle's directory.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) root_dir: String,
    /// The directory passed with `--add-dir`.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) add_dir: String,
    /// The bundle's copy of the instructions; `null` when the agent has none.
    pub(crate) instructions_file_path: Option<String>,
}

impl PromptBundle {
    fn paths(&self) -> BundlePaths<'_> {
        BundlePaths { add_dir: &self.add_dir, instructions_file: self.instructions_file_path.as_deref() }
    }
}

/// A Job ready to be created, and what the run logs and reports about it.
#[derive(Clone)]
pub struct Manifest {
    /// The Job.
    pub job: Job,
    /// Its name, a DNS-1123 label of at most 43 characters.
    pub(crate) job_name: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// The image of the agent's container.
    pub(crate) image: String,
    /// The prompt, complete.
    pub(crate) prompt: String,
    /// The arguments of the Claude CLI, unquoted.
    pub(crate) claude_args: Vec<String>,
    /// What runs in the agent's container.
    pub(crate) command: CliCommand,
    /// Lengths of the prompt and its sections.
    pub(crate) prompt_metrics: PromptMetrics,
    /// The Secret the Job mounts; it must be created first. `None` when everything fits in variables.
    pub(crate) prompt_secret: Option<PromptSecret>,
    /// Label keys left out: ids without a usable character, and configured labels with a reserved prefix.
    pub(crate) skipped_labels: Vec<String>,
    /// What else the user should know about this Job: one line each, without prefix or line end. The notes of
    /// the configuration are not repeated.
    pub(crate) notes: Vec<String>,
}

/// What is too large for a variable and travels to the pod in a Secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PromptSecret {
    /// `{job_name}-prompt`.
    pub(crate) name: String,
    /// The Job's namespace.
    pub(crate) namespace: String,
    /// File name → contents. `prompt.txt` is always among them. At most 1 MiB in all.
    pub(crate) data: BTreeMap<String, String>,
}

// The Job's variables and the Secret's data hold tokens.
impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manifest")
            .field("job_name", &self.job_name)
            .field("namespace", &self.namespace)
            .field("image", &self.image)
            .field("prompt_metrics", &self.prompt_metrics)
            .field("prompt_secret", &self.prompt_secret)
            .field("skipped_labels", &self.skipped_labels)
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PromptSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptSecret")
            .field("name", &self.name)
            .field("namespace", &self.namespace)
            .field("keys", &self.data.keys())
            .finish()
    }
}

/// Makes the Job of a request.
///
/// # Errors
///
/// When no pod could start from it, because Linux or Kubernetes has a limit: see [`ManifestError`].
pub fn build(
    request: &Request,
    self_pod: &SelfPod,
    prepared: &Prepared,
    bundle: Option<&PromptBundle>,
) -> Result<Manifest, ManifestError> {
    let config = &request.config;
    let job_name = job_name_of(request);
    let namespace = config.namespace.clone().unwrap_or_else(|| self_pod.namespace.clone());
    let image = config.image.clone().unwrap_or_else(|| self_pod.image.clone());

    let (labels, skipped_labels) = labels(request);
    let claude_args = command::claude_args(
        request,
        bundle.map(PromptBundle::paths),
        &format!("{PROMPT_DIR}/{}", mcp::MCP_FILE),
    );
    let command = CliCommand::new(request, &claude_args, &format!("{PROMPT_DIR}/{PROMPT_FILE}"));
    let main_command = command.piped();
    limits::check_command(&main_command)?;
    let prompt::Prompt { text: prompt, metrics: prompt_metrics } = prompt::assemble(request, prepared);
    let env::Env { vars, files, notes } = env::collect(request, self_pod, prepared)?;

    let delivery = prompt::deliver(&prompt, files, &job_name, &namespace)?;
    let job = job::assemble(job::Parts {
        request,
        self_pod,
        job_name: &job_name,
        namespace: &namespace,
        image: &image,
        labels,
        main_command,
        env: vars,
        delivery: &delivery,
    });

    Ok(Manifest {
        job,
        job_name,
        namespace,
        image,
        prompt,
        claude_args,
        command,
        prompt_metrics,
        prompt_secret: delivery.into_secret(),
        skipped_labels,
        notes,
    })
}

impl Manifest {
    /// Puts the CLI under a shell that forwards SIGTERM to it and, as its last act, prints a line with this token. The
    /// token is also an annotation of the Job, where a host finds it that takes the Job over.
    ///
    /// # Errors
    ///
    /// When the command has become too large for Linux.
    pub(crate) fn supervise(&mut self, token: &EndToken) -> Result<(), ManifestError> {
        let command = self.command.supervised(token);
        limits::check_command(&command)?;
        let pod = self.job.spec.as_mut().and_then(|spec| spec.template.spec.as_mut());
        for container in pod.into_iter().flat_map(|pod| &mut pod.containers) {
            if container.name == CLAUDE_CONTAINER {
                container.command = Some(job::shell(command.clone()));
            }
        }
        let annotations = self.job.metadata.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION_END_TOKEN.to_owned(), token.as_str().to_owned());
        Ok(())
    }
}

/// What the session of a Job depends on, and the session that it resumes; empty where it begins a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct JobSession {
    /// The session.
    pub(crate) resumed: String,
    /// What it depends on.
    pub(crate) place: SessionPlace,
}

impl JobSession {
    /// What a Job says of itself; `None` for one of an older version.
    pub(crate) fn of_job(job: &Job) -> Option<Self> {
        let text = job.metadata.annotations.as_ref()?.get(ANNOTATION_SESSION)?;
        let Ok(serde_json::Value::Object(params)) = serde_json::from_str(text) else { return None };
        let resumed = params.get("sessionId").and_then(serde_json::Value::as_str).unwrap_or_default();
        Some(Self { resumed: resumed.to_owned(), place: SessionPlace::of_params(&params) })
    }
}

impl Manifest {
    /// Writes into the Job what its session depends on, for a host that takes the Job over.
    pub(crate) fn remember_session(&mut self, session: &JobSession) {
        let text = serde_json::Value::Object(session.place.params(&session.resumed)).to_string();
        let annotations = self.job.metadata.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION_SESSION.to_owned(), text);
    }
}

/// The token of a Job's last line; `None` for a Job whose pod prints none, such as one of an older version.
pub(crate) fn end_token(job: &Job) -> Option<EndToken> {
    EndToken::parse(job.metadata.annotations.as_ref()?.get(ANNOTATION_END_TOKEN)?)
}

/// The name of the Job of one run of one agent: the same ids give the same name, other ids another.
///
/// A DNS-1123 label of at most 43 characters, `ac-{agent}-{run}-{hash}`: a readable part of each id, and the
/// first six hex digits of the SHA-256 of `{agent_id}:{run_id}`. Both ids are the raw ones.
pub(crate) fn job_name(agent_id: &str, run_id: &str) -> String {
    let digest = Sha256::digest(format!("{agent_id}:{run_id}"));
    let hash: String = digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect();
    format!("ac-{}-{}-{hash}", slug(agent_id), slug(run_id))
}

/// The name of the Job that carries a request out: that of the run's second Job has an end of its own.
pub(crate) fn job_name_of(request: &Request) -> String {
    let end = if request.afresh { "-f" } else { "" };
    job_name(&request.agent.id, &request.run_id) + end
}

/// The folder that the CLI works in.
pub(crate) fn working_dir(request: &Request) -> &str {
    request.context.workspace_cwd().or(request.config.cwd.as_deref()).unwrap_or(HOME)
}

/// The CLI's folder of settings, sessions and credentials, where the agent has one of its own. It is on the shared volume.
pub(crate) fn claude_home(request: &Request) -> Option<String> {
    (request.config.claude_home == ClaudeHome::Agent).then(|| {
        let digest = Sha256::digest(&request.agent.id);
        let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        format!("{HOME}/.claude-agents/{}-{hash}", slug(&request.agent.id))
    })
}

/// The readable part of an id: up to 16 of `[a-z0-9-]`, not ending in a dash. May be empty or begin with one.
fn slug(id: &str) -> String {
    let lower = id.to_lowercase();
    let kept = lower.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-');
    kept.take(16).collect::<String>().trim_end_matches('-').to_owned()
}

/// The label selector that finds all Jobs of one agent.
pub(crate) fn agent_selector(agent_label: &str) -> String {
    format!("{LABEL_AGENT_ID}={agent_label},{LABEL_ADAPTER_TYPE}={ADAPTER_TYPE}")
}

/// Selects the Jobs of this adapter and their pods: both carry these labels.
pub(crate) fn watch_selector() -> String {
    format!("{LABEL_ADAPTER_TYPE}={ADAPTER_TYPE},{LABEL_MANAGED_BY}={MANAGED_BY}")
}

/// The Secret to create for a Job, without an owner: that is added once the Job exists.
///
/// `run_label` is the run's id as a label value ([`Request::run_label`]), so that the API server accepts it whatever ids
/// the host uses. The Job's name is an annotation, for people who find a Secret without an owner.
pub(crate) fn prompt_secret_object(secret: &PromptSecret, run_label: Option<&str>, job_name: &str) -> Secret {
    let mut labels = BTreeMap::from([
        (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
        (LABEL_ADAPTER_TYPE.to_owned(), ADAPTER_TYPE.to_owned()),
    ]);
    labels.extend(run_label.map(|label| (LABEL_RUN_ID.to_owned(), label.to_owned())));
    Secret {
        metadata: ObjectMeta {
            name: Some(secret.name.clone()),
            namespace: Some(secret.namespace.clone()),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([(ANNOTATION_JOB_NAME.to_owned(), job_name.to_owned())])),
            ..ObjectMeta::default()
        },
        string_data: Some(secret.data.clone()),
        ..Secret::default()
    }
}

/// The labels of Job and pod, and the keys left out.
fn labels(request: &Request) -> (BTreeMap<String, String>, Vec<String>) {
    let mut labels = BTreeMap::from([
        (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
        (LABEL_COMPONENT.to_owned(), COMPONENT_JOB.to_owned()),
        (LABEL_ADAPTER_TYPE.to_owned(), ADAPTER_TYPE.to_owned()),
        // A run without a usable agent id is refused before this point.
        (LABEL_AGENT_ID.to_owned(), request.agent_label().unwrap_or_else(|| request.agent.id.clone())),
    ]);
    let mut skipped = Vec::new();

    let company = sanitize_label_value(&request.agent.company_id, MAX_LABEL_LEN);
    for (key, label) in [(LABEL_RUN_ID, request.run_label()), (LABEL_COMPANY_ID, company)] {
        match label {
            Some(label) => drop(labels.insert(key.to_owned(), label)),
            None => skipped.push(key.to_owned()),
        }
    }
    for (key, label) in [(LABEL_TASK_ID, request.task_label()), (LABEL_SESSION_ID, request.session_label())] {
        labels.extend(label.map(|label| (key.to_owned(), label)));
    }
    for (key, value) in &request.config.labels {
        if RESERVED_LABEL_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
            skipped.push(key.clone());
        } else {
            labels.insert(key.clone(), value.clone());
        }
    }
    (labels, skipped)
}

#[cfg(test)]
mod tests;
