//! The Job object.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, EnvVar, LocalObjectReference, PodSecurityContext, PodSpec,
    PodTemplateSpec, ResourceRequirements, SELinuxOptions, SeccompProfile, SecurityContext, Toleration,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::env::literal;
use super::labels::{
    ADAPTER_TYPE, ANNOTATION_AGENT_NAME, CLAUDE_CONTAINER, INIT_CONTAINER, LABEL_ADAPTER_TYPE,
    PROMPT_SECRET_VOLUME, PROMPT_VOLUME,
};
use super::mcp;
use super::prompt::{Delivery, PROMPT_VARIABLE};
use super::self_pod::Scheduling;
use super::volumes::{self, mount};
use super::{PROMPT_DIR, PROMPT_FILE, ScopedFolder, SelfPod};
use crate::expansion::escape;
use crate::request::{Config, Request};

/// Where the init container sees the prompt Secret.
const SECRET_DIR: &str = "/tmp/prompt-secret";
/// User and group of a pod whose model names none: those of the host's image.
const DEFAULT_ID: i64 = 1000;

/// What the Job is made of.
pub(super) struct Parts<'a> {
    pub(super) request: &'a Request,
    pub(super) self_pod: &'a SelfPod,
    pub(super) job_name: &'a str,
    pub(super) namespace: &'a str,
    pub(super) image: &'a str,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) main_command: String,
    pub(super) env: Vec<EnvVar>,
    pub(super) delivery: &'a Delivery,
    /// What the agent gets of the shared volume, where that is not all of it.
    pub(super) folders: Option<&'a [ScopedFolder]>,
}

/// Puts the Job together.
pub(super) fn assemble(parts: Parts<'_>) -> Job {
    let Parts { request, self_pod, job_name, namespace, image, labels, main_command, env, delivery, folders } =
        parts;
    let config = &request.config;
    let secret = match delivery {
        Delivery::Secret(secret) => Some(secret),
        Delivery::Variable(_) => None,
    };
    let (volumes, volume_mounts) = volumes::volumes(request, self_pod, folders, secret);
    let uid = config.run_as_user.or(self_pod.user.uid).unwrap_or(DEFAULT_ID);
    let working_dir = super::working_dir(request);
    let resources = &config.resources;

    let claude = Container {
        name: CLAUDE_CONTAINER.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(config.image_pull_policy.clone()),
        working_dir: Some(working_dir.to_owned()),
        command: Some(shell(main_command)),
        env: Some(env),
        env_from: non_empty(&self_pod.env_from),
        volume_mounts: Some(volume_mounts),
        security_context: Some(security_context(uid)),
        resources: Some(requirements(
            [&resources.requests_cpu, &resources.requests_memory],
            [&resources.limits_cpu, &resources.limits_memory],
        )),
        ..Container::default()
    };
    let pod = PodSpec {
        init_containers: Some(vec![write_prompt(delivery, uid)]),
        containers: vec![claude],
        volumes: Some(volumes),
        ..pod(config, self_pod, uid)
    };
    Job {
        metadata: ObjectMeta {
            name: Some(job_name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels.clone()),
            annotations: Some(BTreeMap::from([
                (LABEL_ADAPTER_TYPE.to_owned(), ADAPTER_TYPE.to_owned()),
                (ANNOTATION_AGENT_NAME.to_owned(), request.agent.name.clone()),
            ])),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: (config.timeout_sec > 0.0).then(|| config.timeout_sec.ceil() as i64),
            ttl_seconds_after_finished: Some(config.ttl_seconds_after_finished),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    annotations: Some(config.pod_annotations.iter().cloned().collect())
                        .filter(|map: &BTreeMap<_, _>| !map.is_empty()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// The pod without its containers and volumes.
fn pod(config: &Config, self_pod: &SelfPod, uid: i64) -> PodSpec {
    let inherited = Scheduling::default();
    let inherited = if config.inherit_scheduling { &self_pod.scheduling } else { &inherited };
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        service_account_name: config.service_account_name.clone(),
        // The namespace's default account may be the host's.
        automount_service_account_token: config.service_account_name.is_none().then_some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(uid),
            run_as_group: Some(self_pod.user.gid.unwrap_or(DEFAULT_ID)),
            fs_group: Some(config.fs_group.or(self_pod.user.fs_group).unwrap_or(DEFAULT_ID)),
            supplemental_groups: non_empty(&self_pod.user.supplemental_groups),
            se_linux_options: selinux(config, self_pod),
            seccomp_profile: Some(seccomp()),
            // A recursive change of ownership over a large shared volume would take minutes at each start.
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            ..PodSecurityContext::default()
        }),
        image_pull_secrets: non_empty(&pull_secrets(self_pod, config)),
        dns_policy: self_pod.dns.policy.clone(),
        dns_config: self_pod.dns.config.clone(),
        host_aliases: non_empty(&self_pod.dns.host_aliases),
        enable_service_links: self_pod.dns.service_links,
        node_selector: Some(node_selector(config, inherited)).filter(|map| !map.is_empty()),
        // Who chooses the nodes chooses them alone.
        affinity: inherited
            .node_affinity
            .clone()
            .filter(|_| config.node_selector.is_empty())
            .map(|node| Affinity { node_affinity: Some(node), ..Affinity::default() }),
        tolerations: non_empty(&tolerations(config, inherited)),
        priority_class_name: config
            .priority_class_name
            .clone()
            .or_else(|| inherited.priority_class_name.clone()),
        runtime_class_name: config
            .runtime_class_name
            .clone()
            .or_else(|| inherited.runtime_class_name.clone()),
        topology_spread_constraints: non_empty(&inherited.topology_spread),
        termination_grace_period_seconds: config.termination_grace_period_seconds,
        ..PodSpec::default()
    }
}

/// The level with which the server's files can be read; another namespace has levels of its own. Never the type or the role,
/// which may permit the server more than an agent.
fn selinux(config: &Config, self_pod: &SelfPod) -> Option<SELinuxOptions> {
    let is_own = config.namespace.as_ref().is_none_or(|name| *name == self_pod.namespace);
    let level = self_pod.user.selinux_level.clone().filter(|_| is_own)?;
    Some(SELinuxOptions { level: Some(level), ..SELinuxOptions::default() })
}

/// The init container, which writes the prompt and its attachments to files.
fn write_prompt(delivery: &Delivery, uid: i64) -> Container {
    let prompt_mount = mount(PROMPT_VOLUME, PROMPT_DIR);
    let (command, env, volume_mounts) = match delivery {
        Delivery::Variable(value) => (
            format!("printf '%s' \"${PROMPT_VARIABLE}\" > {PROMPT_DIR}/{PROMPT_FILE}"),
            Some(vec![literal(PROMPT_VARIABLE, value.clone())]),
            vec![prompt_mount],
        ),
        Delivery::Secret(secret) => {
            // The prompt first: the command for a prompt alone is the one of 0.1.49. The file names are constants of
            // ours, so they need no quoting.
            let others = secret.data.keys().map(String::as_str).filter(|file| *file != PROMPT_FILE);
            let copies: Vec<String> = std::iter::once(PROMPT_FILE)
                .chain(others)
                .map(|file| {
                    let copy = format!("cp {SECRET_DIR}/{file} {PROMPT_DIR}/{file}");
                    let holds_tokens = file == mcp::MCP_FILE;
                    if holds_tokens { format!("{copy} && chmod 600 {PROMPT_DIR}/{file}") } else { copy }
                })
                .collect();
            let secret_mount =
                VolumeMount { read_only: Some(true), ..mount(PROMPT_SECRET_VOLUME, SECRET_DIR) };
            (copies.join(" && "), None, vec![prompt_mount, secret_mount])
        }
    };
    let (requests, limits) = (["10m", "16Mi"], ["100m", "64Mi"]);
    Container {
        name: INIT_CONTAINER.to_owned(),
        image: Some("busybox:1.36".to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(shell(command)),
        env,
        volume_mounts: Some(volume_mounts),
        security_context: Some(security_context(uid)),
        resources: Some(requirements(requests, limits)),
        ..Container::default()
    }
}

/// A shell that runs this script, whatever Kubernetes would replace in it.
pub(super) fn shell(script: String) -> Vec<String> {
    let script = match escape(&script) {
        std::borrow::Cow::Owned(escaped) => escaped,
        std::borrow::Cow::Borrowed(_) => script,
    };
    vec!["sh".to_owned(), "-c".to_owned(), script]
}

/// The agent's container of a Job.
pub(super) fn claude(job: &mut Job) -> Option<&mut Container> {
    let pod = job.spec.as_mut()?.template.spec.as_mut()?;
    pod.containers.iter_mut().find(|container| container.name == CLAUDE_CONTAINER)
}

fn pull_secrets(self_pod: &SelfPod, config: &Config) -> Vec<LocalObjectReference> {
    let mut secrets = self_pod.image_pull_secrets.clone();
    secrets.extend(
        config.image_pull_secrets.iter().filter(|own| !self_pod.image_pull_secrets.contains(own)).cloned(),
    );
    secrets
}

fn node_selector(config: &Config, inherited: &Scheduling) -> BTreeMap<String, String> {
    if config.node_selector.is_empty() {
        return inherited.node_selector.clone();
    }
    config.node_selector.iter().cloned().collect()
}

fn tolerations(config: &Config, inherited: &Scheduling) -> Vec<Toleration> {
    let mut tolerations = config.tolerations.clone();
    tolerations
        .extend(inherited.tolerations.iter().filter(|each| !config.tolerations.contains(each)).cloned());
    tolerations
}

/// The system calls that the container runtime allows by default, as the Pod Security Standard `restricted` wants it.
pub(super) fn seccomp() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}

pub(super) fn security_context(uid: i64) -> SecurityContext {
    SecurityContext {
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        read_only_root_filesystem: Some(false),
        run_as_non_root: Some(true),
        run_as_user: Some(uid),
        allow_privilege_escalation: Some(false),
        ..SecurityContext::default()
    }
}

/// CPU and memory: requests, then limits.
fn requirements(requests: [&str; 2], limits: [&str; 2]) -> ResourceRequirements {
    let amounts = |[cpu, memory]: [&str; 2]| {
        BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu.to_owned())),
            ("memory".to_owned(), Quantity(memory.to_owned())),
        ])
    };
    ResourceRequirements { requests: Some(amounts(requests)), limits: Some(amounts(limits)), claims: None }
}

/// A copy of the list, unless it is empty: to tools that compare manifests an absent field and an empty list differ.
fn non_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}
