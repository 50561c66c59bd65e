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
mod overlay;
mod prompt;
mod scope;
mod seal;
mod self_pod;
mod self_pod_info;
mod serde_ext;
mod server_only;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::claude::EndToken;
use crate::claude::command::{self, BundlePaths, CliCommand, ExtraArgs};
use crate::request::{ClaudeHome, MAX_LABEL_LEN, Request, SessionPlace, sanitize_label_value};
pub(crate) use claim::{ClaimFacts, barred_for, barrier, claim, claim_facts, claim_name};
pub(crate) use labels::{
    ADAPTER_TYPE, CLAUDE_CONTAINER, LABEL_AGENT_ID, LABEL_COMPANY_ID, LABEL_RUN_ID, LABEL_SESSION_ID,
};
use labels::{
    ANNOTATION_END_TOKEN, ANNOTATION_JOB_NAME, ANNOTATION_RUN_SECRETS, ANNOTATION_SESSION, COMPONENT_JOB,
    LABEL_ADAPTER_TYPE, LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_TASK_ID, MANAGED_BY, PROMPT_DIR,
    RESERVED_LABEL_PREFIXES,
};
pub use limits::ManifestError;
pub(crate) use prompt::PromptMetrics;
pub use prompt::{Prepared, Skill};
pub(crate) use scope::{ScopedFolder, scoped_folders};
pub(crate) use seal::Sealed;
pub use self_pod::{SelfPod, SelfPodError};
pub(crate) use server_only::{is_key_file, master_key_file, secrets_of_server};

/// The agent's home directory in the pod, where the shared volume is mounted.
const HOME: &str = "/paperclip";
/// The prompt's file in [`PROMPT_DIR`], and its key in the run's Secret.
const PROMPT_FILE: &str = "prompt.txt";
/// What follows the Job's name in that of a Secret which is there because the prompt is large.
pub(crate) const PROMPT_SECRET_SUFFIX: &str = "-prompt";

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
    command: CliCommand,
    /// The token of the pod's last line, once the CLI is supervised.
    end_token: Option<EndToken>,
    /// Names of the variables that the agent's container has from the host's.
    pub(crate) inherited: BTreeSet<String>,
    /// File name in [`PROMPT_DIR`] → contents: the prompt, and what is too large for a variable.
    files: BTreeMap<String, String>,
    /// Lengths of the prompt and its sections.
    pub(crate) prompt_metrics: PromptMetrics,
    /// The Secret the Job mounts. `None` when everything fits in variables.
    pub(crate) prompt_secret: Option<RunSecret>,
    /// Label keys left out: ids without a usable character, and configured labels with a reserved prefix.
    pub(crate) skipped_labels: Vec<String>,
    /// What else the user should know about this Job: one line each, without prefix or line end. The notes of
    /// the configuration are not repeated.
    pub(crate) notes: Vec<String>,
    /// What will not work, as `notes`.
    pub(crate) warnings: Vec<String>,
}

/// What travels to the pod in a Secret of the run.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RunSecret {
    /// `{job_name}-prompt`, or `{job_name}-run-{nonce}` of a sealed Job.
    pub(crate) name: String,
    /// The Job's namespace.
    pub(crate) namespace: String,
    /// Key → contents. At most 1 MiB in all.
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

impl fmt::Debug for RunSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunSecret")
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

    check_account(request, self_pod, &namespace)?;
    let cwd = working_dir(request);
    if !cwd.starts_with('/') {
        return Err(ManifestError::RelativeFolder { path: cwd.to_owned() });
    }
    let folders = scoped_folders(request, bundle)?;
    let (labels, skipped_labels) = labels(request);
    let claude_args = command::claude_args(
        request,
        bundle.map(PromptBundle::paths),
        &format!("{PROMPT_DIR}/{}", mcp::MCP_FILE),
    );
    let env::Env { vars, inherited, withheld, files, mut notes, unreachable_url } =
        env::collect(request, self_pod, prepared)?;
    let is_defined = |name: &str| vars.iter().any(|var| var.name == name && env::is_certain(var));
    let command = CliCommand::new(request, &claude_args, &format!("{PROMPT_DIR}/{PROMPT_FILE}"), is_defined);
    let main_command = command.piped(ExtraArgs::Inline);
    limits::check_command(&main_command)?;
    let prompt::Prompt { text: prompt, metrics: prompt_metrics } = prompt::assemble(request, prepared);
    let mut warnings = Vec::new();
    if let Some((why, url)) = unreachable_url {
        warnings
            .push(format!("PAPERCLIP_API_URL of the agent is \"{url}\", which {why}: set paperclipApiUrl"));
    }
    notes.extend(self_pod.notes.iter().cloned());
    let mounts = self_pod.mounts.iter().filter(|each| server_only::holds_key(request, self_pod, each));
    let mounts: Vec<&str> = mounts.map(|each| each.mount.mount_path.as_str()).collect();
    notes.extend(server_only::note(&withheld, &mounts));
    let mut contents = BTreeMap::from([(PROMPT_FILE.to_owned(), prompt.clone())]);
    contents.extend(files.iter().map(|(file, text)| ((*file).to_owned(), text.clone())));

    let delivery = prompt::deliver(&prompt, files, &job_name, &namespace)?;
    let mut job = job::assemble(job::Parts {
        request,
        self_pod,
        job_name: &job_name,
        namespace: &namespace,
        image: &image,
        labels,
        main_command,
        env: vars,
        delivery: &delivery,
        folders: folders.as_deref(),
    });
    if let (Some(overlay), Some(spec)) = (config.pod_template.as_deref(), &mut job.spec) {
        overlay::merge(&mut spec.template, overlay);
        if request.grants.limits_pod_template() {
            overlay::forbid_escalation(&mut spec.template);
        }
    }

    Ok(Manifest {
        job,
        end_token: None,
        inherited,
        files: contents,
        warnings,
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

/// Refuses the host's own service account, unless the operator lists it: it may create pods and Secrets.
fn check_account(request: &Request, self_pod: &SelfPod, namespace: &str) -> Result<(), ManifestError> {
    match &request.config.service_account_name {
        Some(name)
            if self_pod.service_account.as_ref() == Some(name)
                && namespace == self_pod.namespace
                && !request.grants.lists_service_account(name) =>
        {
            Err(ManifestError::HostAccount { name: name.clone() })
        }
        _ => Ok(()),
    }
}

impl Manifest {
    /// Puts the CLI under a shell that forwards SIGTERM to it and, as its last act, prints a line with this token. The
    /// token is also an annotation of the Job, where a host finds it that takes the Job over.
    ///
    /// # Errors
    ///
    /// When the command has become too large for Linux.
    pub(crate) fn supervise(&mut self, token: &EndToken) -> Result<(), ManifestError> {
        let command = self.command.supervised(token, ExtraArgs::Inline);
        limits::check_command(&command)?;
        if let Some(claude) = job::claude(&mut self.job) {
            claude.command = Some(job::shell(command));
        }
        self.end_token = Some(token.clone());
        let annotations = self.job.metadata.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION_END_TOKEN.to_owned(), token.as_str().to_owned());
        Ok(())
    }

    /// The Job as it is, with what is secret in it, and the Secret that it mounts, if any: for clusters where this host may
    /// not create a Secret for each run.
    ///
    /// # Errors
    ///
    /// When what does not fit into variables does not fit into one Secret either.
    pub(crate) fn unsealed(&self) -> Result<Sealed, ManifestError> {
        let mut job = self.job.clone();
        let secrets: Vec<RunSecret> = self.prompt_secret.iter().cloned().collect();
        for secret in &secrets {
            limits::check_secret(secret.data.values())?;
        }
        name_secrets(&mut job, &secrets);
        Ok(Sealed { job, secrets })
    }
}

/// Puts a script before what runs in the agent's container.
pub(crate) fn run_first(job: &mut Job, script: &str) {
    let command = job::claude(job).and_then(|claude| claude.command.as_mut());
    if let Some(command) = command.and_then(|command| command.last_mut()) {
        command.insert_str(0, &crate::expansion::escape(script));
    }
}

/// Notes the Secrets of a run at its Job.
fn name_secrets(job: &mut Job, secrets: &[RunSecret]) {
    if secrets.is_empty() {
        return;
    }
    let names: Vec<&str> = secrets.iter().map(|secret| secret.name.as_str()).collect();
    let annotations = job.metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_RUN_SECRETS.to_owned(), names.join(","));
}

/// The names of the Secrets of a Job's run. A Job can be changed by others: only names that begin with the Job's own count.
pub(crate) fn secrets_of(job: &Job) -> Vec<String> {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let names = job.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION_RUN_SECRETS));
    let names = names.into_iter().flat_map(|names| names.split(','));
    let is_own = |secret: &&str| {
        let rest = secret.strip_prefix(name).filter(|_| !name.is_empty());
        rest.is_some_and(|rest| rest == PROMPT_SECRET_SUFFIX || rest.starts_with("-run-"))
    };
    names.filter(is_own).map(str::to_owned).collect()
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

/// A Secret of a run to create. Kubernetes collects it with the Job that has `job_uid`.
///
/// `run_label` is the run's id as a label value ([`Request::run_label`]), so that the API server accepts it whatever ids
/// the host uses. The Job's name is an annotation, for people.
pub(crate) fn run_secret_object(
    secret: &RunSecret,
    run_label: Option<&str>,
    job_name: &str,
    job_uid: Option<&str>,
) -> Secret {
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
            owner_references: job_uid.map(|uid| {
                vec![OwnerReference {
                    api_version: "batch/v1".to_owned(),
                    kind: "Job".to_owned(),
                    name: job_name.to_owned(),
                    uid: uid.to_owned(),
                    block_owner_deletion: Some(false),
                    controller: None,
                }]
            }),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
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
mod faithful;
#[cfg(test)]
mod tests;
