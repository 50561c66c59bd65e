//! Takes what is secret out of a Job.
//!
//! A Job and its pod can be read with the built-in role `view`, stand in audit logs and backups, and outlive their run
//! with `retainJobs`. So the values of the agent's variables, the prompt and the configured arguments of the CLI are moved
//! into a Secret of the run, which the Job refers to.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    EnvVar, EnvVarSource, KeyToPath, ProjectedVolumeSource, SecretKeySelector, SecretProjection,
    SecretVolumeSource, Volume, VolumeProjection,
};

use super::env::literal;
use super::labels::{INIT_CONTAINER, PROMPT_DIR, PROMPT_SECRET_VOLUME, PROMPT_VOLUME};
use super::limits::{self, ManifestError};
use super::{CliCommand, EndToken, ExtraArgs, Manifest, RunSecret, job, name_secrets};
use crate::expansion::{self, Known, Piece};

/// The file with the configured arguments of the CLI.
const ARGS_FILE: &str = "args.sh";
/// Read by its owner only; the kubelet gives the pod's group the same right.
const FILE_MODE: i32 = 0o400;
/// Variables whose values say nothing secret, and that an operator wants to see. All others are sealed.
const HARMLESS: [&str; 19] = [
    "HOME",
    "LANG",
    "LC_ALL",
    "NODE_ENV",
    "TZ",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_VERTEX",
    "PAPERCLIP_AGENT_ID",
    "PAPERCLIP_COMPANY_ID",
    "PAPERCLIP_RUN_ID",
    "PAPERCLIP_TASK_ID",
    "PAPERCLIP_WAKE_PAYLOAD_FILE",
    "PAPERCLIP_WORKSPACES_FILE",
    "PAPERCLIP_RUNTIME_SERVICE_INTENTS_FILE",
    "PAPERCLIP_RUNTIME_SERVICES_FILE",
    "PAPERCLIP_WORKSPACE_ID",
    "PAPERCLIP_WORKSPACE_SOURCE",
    "PAPERCLIP_WORKSPACE_STRATEGY",
];

/// A Job, and the Secrets that it refers to.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) job: Job,
    /// To be created once the Job exists.
    pub(crate) secrets: Vec<RunSecret>,
}

impl Manifest {
    /// The Job without anything secret in it, and the Secrets with that. `nonce`, of `[a-z0-9]`, makes their names new: one
    /// that is there already is not of this Job.
    ///
    /// # Errors
    ///
    /// When a value is too large for a Secret, or the command for Linux.
    pub(crate) fn sealed(&self, nonce: &str) -> Result<Sealed, ManifestError> {
        let mut job = self.job.clone();
        let mut store = Store::new(format!("{}-run-{nonce}", self.job_name), &self.namespace);
        let mut files = self.files.clone();
        if let Some(args) = self.command.args_file() {
            files.insert(ARGS_FILE.to_owned(), args);
            let script = script(&self.command, self.end_token.as_ref());
            limits::check_command(&script)?;
            if let Some(claude) = job::claude(&mut job) {
                claude.command = Some(job::shell(script));
            }
        }
        for (file, text) in files {
            store.add_file(&file, text)?;
        }
        if let Some(claude) = job::claude(&mut job) {
            let has_env_from = claude.env_from.as_ref().is_some_and(|all| !all.is_empty());
            let env = claude.env.take().unwrap_or_default();
            claude.env = Some(self.sealed_env(env, has_env_from, &mut store)?);
            for mount in claude.volume_mounts.iter_mut().flatten() {
                if mount.name == PROMPT_VOLUME {
                    mount.read_only = Some(true);
                }
            }
        }
        if let Some(pod) = job.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()) {
            pod.init_containers.iter_mut().for_each(|all| all.retain(|each| each.name != INIT_CONTAINER));
            pod.init_containers.take_if(|all| all.is_empty());
            if let Some(volumes) = &mut pod.volumes {
                volumes.retain(|volume| volume.name != PROMPT_SECRET_VOLUME);
                for volume in volumes.iter_mut().filter(|volume| volume.name == PROMPT_VOLUME) {
                    *volume = store.volume();
                }
            }
        }
        name_secrets(&mut job, &store.secrets);
        Ok(Sealed { job, secrets: store.secrets })
    }

    /// The variables, of which the values are in `store`. Their order stays, and with it what a reference finds.
    fn sealed_env(
        &self,
        env: Vec<EnvVar>,
        has_env_from: bool,
        store: &mut Store,
    ) -> Result<Vec<EnvVar>, ManifestError> {
        let mut known: HashMap<String, Option<String>> = HashMap::new();
        let mut sealed = Vec::with_capacity(env.len());
        for var in env {
            let text = match (&var.value_from, &var.value) {
                (None, Some(text)) => text.clone(),
                _ => {
                    known.insert(var.name.clone(), None);
                    sealed.push(var);
                    continue;
                }
            };
            let value = expansion::expand(&text, |name| match known.get(name) {
                Some(Some(value)) => Known::Value(value.clone().into()),
                Some(None) => Known::Unknown,
                None if !name.is_empty() && (has_env_from || is_of_a_service(name)) => Known::Unknown,
                None => Known::Undefined,
            });
            known.insert(var.name.clone(), value.clone());
            match value {
                _ if HARMLESS.contains(&var.name.as_str()) => sealed.push(var),
                Some(value) if value.is_empty() => sealed.push(var),
                Some(value) => {
                    let source = store.add_value(&var.name, value)?;
                    sealed.push(EnvVar { name: var.name, value: None, value_from: Some(source) });
                }
                // What the host's pod says in clear is no secret of this run.
                None if self.inherited.contains(&var.name) => sealed.push(var),
                None => {
                    let parts = sealed_parts(&text, &mut sealed, store)?;
                    sealed.push(literal(&var.name, parts));
                }
            }
        }
        Ok(sealed)
    }
}

/// A value that refers to variables which only the cluster knows: what stands between the references becomes variables
/// of its own.
fn sealed_parts(text: &str, sealed: &mut Vec<EnvVar>, store: &mut Store) -> Result<String, ManifestError> {
    let mut out = String::new();
    for piece in expansion::pieces(text) {
        match piece {
            Piece::Reference(name) => out.push_str(&format!("$({name})")),
            Piece::Text(text) => {
                let number = sealed.iter().filter(|var| var.name.starts_with(PART)).count() + 1;
                let name = format!("{PART}{number}");
                let source = store.add_value(&name, text.into_owned())?;
                out.push_str(&format!("$({name})"));
                sealed.push(EnvVar { name, value: None, value_from: Some(source) });
            }
        }
    }
    Ok(out)
}

/// What variables for parts of a value are called, with a number.
const PART: &str = "PAPERCLIP_SEALED_";

/// Whether Kubernetes may have a variable of this name for a Service.
fn is_of_a_service(name: &str) -> bool {
    name.contains("_SERVICE_") || name.contains("_PORT")
}

fn script(command: &CliCommand, token: Option<&EndToken>) -> String {
    let path = format!("{PROMPT_DIR}/{ARGS_FILE}");
    match token {
        Some(token) => command.supervised(token, ExtraArgs::File(&path)),
        None => command.piped(ExtraArgs::File(&path)),
    }
}

/// The Secrets of a run while they are filled: as few as their limit allows.
struct Store {
    name: String,
    namespace: String,
    secrets: Vec<RunSecret>,
    /// Secret and key of each file.
    files: Vec<(usize, String)>,
}

impl Store {
    fn new(name: String, namespace: &str) -> Self {
        Self { name, namespace: namespace.to_owned(), secrets: Vec::new(), files: Vec::new() }
    }

    /// Puts a value under a key that no other has into the first Secret that has room for it.
    fn add(&mut self, key: &str, value: String) -> Result<usize, ManifestError> {
        limits::check_secret([&value].into_iter())?;
        let fits = |secret: &RunSecret| {
            limits::check_secret(secret.data.values().chain([&value])).is_ok()
                && !secret.data.contains_key(key)
        };
        let at = match self.secrets.iter().position(fits) {
            Some(at) => at,
            None => {
                let number = self.secrets.len() + 1;
                let name = if number == 1 { self.name.clone() } else { format!("{}-{number}", self.name) };
                self.secrets.push(RunSecret {
                    name,
                    namespace: self.namespace.clone(),
                    data: BTreeMap::new(),
                });
                number - 1
            }
        };
        self.secrets[at].data.insert(key.to_owned(), value);
        Ok(at)
    }

    fn add_file(&mut self, file: &str, text: String) -> Result<(), ManifestError> {
        let at = self.add(file, text)?;
        self.files.push((at, file.to_owned()));
        Ok(())
    }

    fn add_value(&mut self, variable: &str, value: String) -> Result<EnvVarSource, ManifestError> {
        let taken = |key: &str| self.secrets.iter().any(|secret| secret.data.contains_key(key));
        let wanted = format!("env.{}", key_part(variable));
        let (mut key, mut number) = (wanted.clone(), 2);
        while taken(&key) {
            key = format!("{wanted}.{number}");
            number += 1;
        }
        let at = self.add(&key, value)?;
        let selector = SecretKeySelector { name: self.secrets[at].name.clone(), key, optional: None };
        Ok(EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() })
    }

    /// The volume with the files.
    fn volume(&self) -> Volume {
        let items = |at: usize| {
            let files = self.files.iter().filter(move |(of, _)| *of == at);
            files
                .map(|(_, file)| KeyToPath { key: file.clone(), path: file.clone(), mode: None })
                .collect::<Vec<_>>()
        };
        let mut with_files = (0..self.secrets.len()).filter(|at| !items(*at).is_empty());
        let name = PROMPT_VOLUME.to_owned();
        match (with_files.next(), with_files.next()) {
            (Some(only), None) => Volume {
                name,
                secret: Some(SecretVolumeSource {
                    secret_name: Some(self.secrets[only].name.clone()),
                    items: Some(items(only)),
                    default_mode: Some(FILE_MODE),
                    optional: None,
                }),
                ..Volume::default()
            },
            _ => Volume {
                name,
                projected: Some(ProjectedVolumeSource {
                    default_mode: Some(FILE_MODE),
                    sources: Some(
                        (0..self.secrets.len())
                            .filter(|at| !items(*at).is_empty())
                            .map(|at| VolumeProjection {
                                secret: Some(SecretProjection {
                                    name: self.secrets[at].name.clone(),
                                    items: Some(items(at)),
                                    optional: None,
                                }),
                                ..VolumeProjection::default()
                            })
                            .collect(),
                    ),
                }),
                ..Volume::default()
            },
        }
    }
}

/// A variable's name as far as a Secret's key can hold it.
fn key_part(variable: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    variable.chars().take(200).map(allowed).collect()
}
