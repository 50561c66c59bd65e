//! The Job object.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
    SecurityContext, VolumeMount,
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
use super::volumes::{self, mount};
use super::{PROMPT_DIR, PROMPT_FILE, SelfPod};
use crate::request::Request;

/// Where the init container sees the prompt Secret.
const SECRET_DIR: &str = "/tmp/prompt-secret";
/// User and group everything in the pod runs as.
const UID: i64 = 1000;

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
}

/// Puts the Job together.
pub(super) fn assemble(parts: Parts<'_>) -> Job {
    let Parts { request, self_pod, job_name, namespace, image, labels, main_command, env, delivery } = parts;
    let config = &request.config;
    let secret = match delivery {
        Delivery::Secret(secret) => Some(secret),
        Delivery::Variable(_) => None,
    };
    let (volumes, volume_mounts) = volumes::volumes(self_pod, secret);
    let working_dir = super::working_dir(request);
    let resources = &config.resources;

    let claude = Container {
        name: CLAUDE_CONTAINER.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(config.image_pull_policy.clone()),
        working_dir: Some(working_dir.to_owned()),
        command: Some(shell(main_command)),
        env: Some(env),
        env_from: non_empty(&self_pod.inherited_env_from),
        volume_mounts: Some(volume_mounts),
        security_context: Some(security_context()),
        resources: Some(requirements(
            [&resources.requests_cpu, &resources.requests_memory],
            [&resources.limits_cpu, &resources.limits_memory],
        )),
        ..Container::default()
    };
    let pod = PodSpec {
        restart_policy: Some("Never".to_owned()),
        service_account_name: config.service_account_name.clone(),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(UID),
            run_as_group: Some(UID),
            fs_group: Some(UID),
            // A recursive change of ownership over a large shared volume would take minutes at each start.
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            ..PodSecurityContext::default()
        }),
        image_pull_secrets: non_empty(&self_pod.image_pull_secrets),
        dns_config: self_pod.dns_config.clone(),
        node_selector: Some(config.node_selector.iter().cloned().collect())
            .filter(|map: &BTreeMap<_, _>| !map.is_empty()),
        tolerations: non_empty(&config.tolerations),
        init_containers: Some(vec![write_prompt(delivery)]),
        containers: vec![claude],
        volumes: Some(volumes),
        ..PodSpec::default()
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
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(pod),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// The init container, which writes the prompt and its attachments to files.
fn write_prompt(delivery: &Delivery) -> Container {
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
        security_context: Some(security_context()),
        resources: Some(requirements(requests, limits)),
        ..Container::default()
    }
}

pub(super) fn shell(command: String) -> Vec<String> {
    vec!["sh".to_owned(), "-c".to_owned(), command]
}

fn security_context() -> SecurityContext {
    SecurityContext {
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        read_only_root_filesystem: Some(false),
        run_as_non_root: Some(true),
        run_as_user: Some(UID),
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
