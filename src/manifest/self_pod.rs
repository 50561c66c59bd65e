//! What a Job inherits from the pod the host runs in.
//!
//! Taken over so that the agent's variables and files are those of the host's container. What differs, and why, is in
//! docs/pod.md.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, EnvVarSource, HostAlias, LocalObjectReference, NodeAffinity, Pod,
    PodDNSConfig, PodSpec, Toleration, TopologySpreadConstraint, Volume, VolumeMount,
};
use serde::{Deserialize, Serialize};

use super::HOME;
use super::labels::{ANNOTATION_DEFAULT_CONTAINER, CLAUDE_CONTAINER, HOST_CONTAINER, PROMPT_DIR};
use super::self_pod_info::SelfPodInfo;
use crate::expansion::{self, Known};

/// What a Job inherits from the pod the host runs in.
///
/// As JSON it is what 0.1.49 knows of a pod ([`SelfPodInfo`]), which is less.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "SelfPodInfo", into = "SelfPodInfo")]
pub struct SelfPod {
    /// The namespace of the pod.
    pub(crate) namespace: String,
    /// The image of the host's container.
    pub(crate) image: String,
    /// The pod's pull secrets that have a name.
    pub(crate) image_pull_secrets: Vec<LocalObjectReference>,
    /// How names are resolved.
    pub(crate) dns: Dns,
    /// The claim behind the mount at `/paperclip`.
    pub(crate) pvc_claim_name: Option<String>,
    /// The volume at `/paperclip`, under whatever name it has there; `None` where another pod cannot mount it.
    pub(super) home: Option<Inherited>,
    /// The other mounts that are inherited, in the container's order.
    pub(super) mounts: Vec<Inherited>,
    /// The container's variables, in its order: a later one of the same name counts.
    pub(super) env: Vec<EnvVar>,
    /// The container's `envFrom`.
    pub(super) env_from: Vec<EnvFromSource>,
    /// Whom the container runs as.
    pub(super) user: User,
    /// Where the pod may run.
    pub(super) scheduling: Scheduling,
    /// The service account of the pod.
    pub(super) service_account: Option<String>,
    /// Paths of mounts in which the server's own keys were found ([`SelfPod::note_keys`]).
    pub(super) key_mounts: BTreeSet<String>,
    /// What could not be inherited: one line each.
    pub(crate) notes: Vec<String>,
}

/// A mount and its volume.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Inherited {
    pub(super) volume: Volume,
    /// Its sub-path is resolved: no `subPathExpr`.
    pub(super) mount: VolumeMount,
}

/// How names are resolved.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Dns {
    pub(super) policy: Option<String>,
    pub(super) config: Option<PodDNSConfig>,
    pub(super) host_aliases: Vec<HostAlias>,
    /// Whether there are variables for each Service of the namespace.
    pub(super) service_links: Option<bool>,
}

/// Whom a container runs as; root counts as not set, because an agent never runs as root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) fs_group: Option<i64>,
    pub(super) supplemental_groups: Vec<i64>,
    /// Of `SELinux`: the files of the shared volume have it.
    pub(super) selinux_level: Option<String>,
}

/// Where a pod may run, and how urgent it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scheduling {
    pub(super) node_selector: BTreeMap<String, String>,
    pub(super) tolerations: Vec<Toleration>,
    pub(super) node_affinity: Option<NodeAffinity>,
    pub(super) priority_class_name: Option<String>,
    pub(super) runtime_class_name: Option<String>,
    pub(super) topology_spread: Vec<TopologySpreadConstraint>,
}

/// Why the host's own pod cannot be the model of a Job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelfPodError {
    /// The host's environment does not name its pod.
    #[error("claude_k8s: HOSTNAME env var not set — cannot introspect running pod")]
    NoHostname,
    /// What the host's environment names is not a pod.
    #[error(
        "claude_k8s: no pod in namespace {namespace} is called {} — set POD_NAME in Paperclip's container by the \
         downward API (valueFrom: fieldRef: fieldPath: metadata.name)",
        names.join(" or ")
    )]
    NotAPod {
        /// The namespace.
        namespace: String,
        /// What `POD_NAME` and `HOSTNAME` say.
        names: Vec<String>,
    },
    /// The API server returned a pod without a spec.
    #[error("claude_k8s: pod {hostname} has no spec")]
    NoSpec {
        /// The pod.
        hostname: String,
    },
    /// The pod has no container, or its container has no image.
    #[error("claude_k8s: pod {hostname} has no container image")]
    NoImage {
        /// The pod.
        hostname: String,
    },
}

/// Containers that meshes and clouds put beside an application, by name.
const PROXIES: [&str; 10] = [
    "istio-proxy",
    "linkerd-proxy",
    "linkerd-network-validator",
    "envoy",
    "consul-dataplane",
    "kuma-sidecar",
    "daprd",
    "cloud-sql-proxy",
    "cloudsql-proxy",
    "vault-agent",
];

/// Where service account tokens are mounted: never inherited.
const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io";

impl SelfPod {
    /// Reads the host's pod, which has the name `hostname` and is in `namespace`. `process_env` are the variables of the
    /// host's process, for sub-paths that are made of variables which only the cluster knows.
    ///
    /// # Errors
    ///
    /// When the pod has no spec or its container no image.
    pub(crate) fn read(
        pod: &Pod,
        hostname: &str,
        namespace: &str,
        process_env: &BTreeMap<String, String>,
    ) -> Result<Self, SelfPodError> {
        let spec = pod.spec.as_ref().ok_or_else(|| SelfPodError::NoSpec { hostname: hostname.to_owned() })?;
        let (container, image) = host_container(pod, spec)
            .and_then(|container| {
                Some((container, container.image.clone().filter(|image| !image.is_empty())?))
            })
            .ok_or_else(|| SelfPodError::NoImage { hostname: hostname.to_owned() })?;

        let mut notes = Vec::new();
        let (home, mounts) = mounts(pod, spec, container, process_env, &mut notes);
        let env = container.env.iter().flatten().filter(|var| !var.name.is_empty());
        let env = env.filter_map(|var| inherited_var(pod, container, var, &mut notes)).collect();
        let pvc_claim_name = home
            .as_ref()
            .and_then(|home: &Inherited| home.volume.persistent_volume_claim.as_ref())
            .map(|claim| claim.claim_name.clone());
        Ok(Self {
            namespace: namespace.to_owned(),
            image,
            image_pull_secrets: spec
                .image_pull_secrets
                .iter()
                .flatten()
                .filter(|secret| !secret.name.is_empty())
                .cloned()
                .collect(),
            dns: Dns {
                policy: spec.dns_policy.clone(),
                config: spec.dns_config.clone(),
                host_aliases: spec.host_aliases.clone().unwrap_or_default(),
                service_links: spec.enable_service_links,
            },
            pvc_claim_name,
            home,
            mounts,
            env,
            env_from: container.env_from.clone().unwrap_or_default(),
            user: user(spec, container),
            scheduling: scheduling(spec),
            service_account: spec.service_account_name.clone().filter(|name| !name.is_empty()),
            key_mounts: BTreeSet::new(),
            notes,
        })
    }

    /// The paths of the mounts that are inherited, but for that at `/paperclip`.
    pub(crate) fn mount_paths(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().map(|each| each.mount.mount_path.as_str())
    }

    /// Notes that a mount holds keys that only the server needs.
    pub(crate) fn note_keys(&mut self, mount_path: &str) {
        self.key_mounts.insert(mount_path.to_owned());
    }

    /// Whether a mount was noted to hold such keys.
    #[cfg(test)]
    pub(crate) fn holds_keys(&self, mount_path: &std::path::Path) -> bool {
        self.key_mounts.contains(&mount_path.display().to_string())
    }
}

/// The container of the host: by name, by the annotation that `kubectl` uses, by its mount, else the first that is not known
/// to be a proxy.
fn host_container<'a>(pod: &'a Pod, spec: &'a PodSpec) -> Option<&'a Container> {
    let named = |name: &str| spec.containers.iter().find(|container| container.name == name);
    let annotated = pod.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION_DEFAULT_CONTAINER));
    let mounts_home = |container: &&Container| {
        container.volume_mounts.iter().flatten().any(|mount| normalised(&mount.mount_path) == HOME)
    };
    named(HOST_CONTAINER)
        .or_else(|| named(annotated?))
        .or_else(|| spec.containers.iter().find(mounts_home))
        .or_else(|| spec.containers.iter().find(|container| !PROXIES.contains(&container.name.as_str())))
        .or_else(|| spec.containers.first())
}

/// A path without empty parts and without a slash at its end.
fn normalised(path: &str) -> String {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.fold(String::new(), |path, part| path + "/" + part)
}

/// A variable as the agent's container can have it; `None` for one that cannot be carried over.
fn inherited_var(pod: &Pod, container: &Container, var: &EnvVar, notes: &mut Vec<String>) -> Option<EnvVar> {
    let name = &var.name;
    let Some(source) = &var.value_from else {
        return Some(EnvVar { value: Some(var.value.clone().unwrap_or_default()), ..var.clone() });
    };
    let mut left_out = |why: &str| {
        notes.push(format!("{name} of Paperclip's container left out: {why}"));
        None
    };
    if let Some(field) = &source.field_ref {
        // The Job's pod has neither the labels nor the annotations of the host's.
        if let Some(value) = metadata_value(pod, &field.field_path) {
            let value = expansion::escape(&value).into_owned();
            return Some(EnvVar { name: name.clone(), value: Some(value), value_from: None });
        }
    } else if let Some(resource) = &source.resource_field_ref {
        let of = resource.container_name.as_deref().filter(|of| !of.is_empty());
        if of.is_some_and(|of| of != container.name) {
            return left_out("it is a resource of another container");
        }
        let mut resource = resource.clone();
        resource.container_name = of.map(|_| CLAUDE_CONTAINER.to_owned());
        let source = EnvVarSource { resource_field_ref: Some(resource), ..EnvVarSource::default() };
        return Some(EnvVar { name: name.clone(), value: None, value_from: Some(source) });
    } else if source.secret_key_ref.is_none() && source.config_map_key_ref.is_none() {
        return left_out("its source is of a kind that this version does not know");
    }
    Some(EnvVar { value: None, ..var.clone() })
}

/// The value of a label or annotation that a field path names; `None` for any other path.
fn metadata_value(pod: &Pod, path: &str) -> Option<String> {
    let key = |map: &str| {
        let head = format!("metadata.{map}['");
        path.strip_prefix(&head)?.strip_suffix("']").map(str::to_owned)
    };
    let value = |all: &Option<BTreeMap<String, String>>, key: &str| {
        all.as_ref().and_then(|all| all.get(key)).cloned().unwrap_or_default()
    };
    key("labels")
        .map(|key| value(&pod.metadata.labels, &key))
        .or_else(|| key("annotations").map(|key| value(&pod.metadata.annotations, &key)))
}

/// The mount at `/paperclip` and the others that are inherited.
fn mounts(
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    process_env: &BTreeMap<String, String>,
    notes: &mut Vec<String>,
) -> (Option<Inherited>, Vec<Inherited>) {
    let values = OwnValues::new(pod, container, process_env);
    let (mut home, mut mounts) = (None, Vec::new());
    for mount in container.volume_mounts.iter().flatten() {
        let Some(volume) = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name) else {
            continue;
        };
        let is_home = normalised(&mount.mount_path) == HOME;
        if normalised(&mount.mount_path) == PROMPT_DIR {
            notes.push(format!(
                "the mount at {} of Paperclip's container left out: the run has its own files there",
                mount.mount_path
            ));
            continue;
        }
        let usable = if is_home {
            can_be_shared(volume).then(|| volume.clone())
        } else {
            inherited(volume, mount, notes)
        };
        let Some(volume) = usable else {
            if is_home {
                notes.push(format!(
                    "the volume at {HOME} in Paperclip's pod is one that no other pod can mount: the agent has an \
                     empty {HOME}, and no session of it can be resumed"
                ));
            }
            continue;
        };
        let Some(sub_path) = sub_path(mount, &values) else {
            notes.push(format!(
                "the mount at {} of Paperclip's container left out: its subPathExpr {} cannot be resolved",
                mount.mount_path,
                mount.sub_path_expr.as_deref().unwrap_or_default()
            ));
            continue;
        };
        let mount_path = if is_home { HOME.to_owned() } else { mount.mount_path.clone() };
        let mount = VolumeMount {
            mount_path,
            sub_path,
            sub_path_expr: None,
            mount_propagation: None,
            ..mount.clone()
        };
        let inherited = Inherited { volume, mount };
        if is_home {
            home = Some(inherited);
        } else {
            mounts.push(inherited);
        }
    }
    (home, mounts)
}

/// Whether two pods that mount this volume see the same files.
fn can_be_shared(volume: &Volume) -> bool {
    volume.empty_dir.is_none()
        && volume.ephemeral.is_none()
        && volume.secret.is_none()
        && volume.config_map.is_none()
        && volume.downward_api.is_none()
        && volume.projected.is_none()
        && volume.git_repo.is_none()
        && volume.image.is_none()
        // Without any source it is of a kind that this version does not know; the API server never stores that.
        && *volume != Volume { name: volume.name.clone(), ..Volume::default() }
}

/// The volume of a mount as another pod may have it: files of Secrets, ConfigMaps and trust bundles. Tokens of service
/// accounts are the host's own, and what the downward API says of its pod is not so of another.
fn inherited(volume: &Volume, mount: &VolumeMount, notes: &mut Vec<String>) -> Option<Volume> {
    let path = normalised(&mount.mount_path);
    if path == TOKEN_DIR || path.starts_with(&format!("{TOKEN_DIR}/")) {
        return None;
    }
    let mut left_out = || {
        let line = format!(
            "files at {} of Paperclip's container left out: they describe Paperclip's own pod",
            mount.mount_path
        );
        if !notes.contains(&line) {
            notes.push(line);
        }
    };
    if volume.downward_api.is_some() {
        left_out();
        return None;
    }
    let mut volume = volume.clone();
    if let Some(sources) = volume.projected.as_mut().and_then(|projected| projected.sources.as_mut()) {
        if sources.iter().any(|source| source.downward_api.is_some()) {
            left_out();
        }
        sources.retain(|source| {
            source.secret.is_some() || source.config_map.is_some() || source.cluster_trust_bundle.is_some()
        });
        return (!sources.is_empty()).then_some(volume);
    }
    let secret = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref());
    let named = secret.is_some_and(|name| !name.is_empty());
    (named || volume.config_map.is_some()).then_some(volume)
}

/// The sub-path of a mount, `None` in it where it has none; `None` when it cannot be resolved.
#[expect(clippy::option_option, reason = "a sub-path that is absent, and one that is not known")]
fn sub_path(mount: &VolumeMount, values: &OwnValues<'_>) -> Option<Option<String>> {
    match mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => expansion::expand(text, |name| values.lookup(name)).map(Some),
        None => Some(mount.sub_path.clone().filter(|path| !path.is_empty())),
    }
}

/// The values of the variables of the host's container.
struct OwnValues<'a> {
    known: HashMap<&'a str, Option<String>>,
    process_env: &'a BTreeMap<String, String>,
}

impl<'a> OwnValues<'a> {
    fn new(pod: &'a Pod, container: &'a Container, process_env: &'a BTreeMap<String, String>) -> Self {
        let mut values = Self { known: HashMap::new(), process_env };
        for var in container.env.iter().flatten() {
            let value = match &var.value_from {
                None => {
                    expansion::expand(var.value.as_deref().unwrap_or_default(), |name| values.lookup(name))
                }
                Some(source) => source.field_ref.as_ref().and_then(|field| own_field(pod, &field.field_path)),
            };
            let value = value.or_else(|| process_env.get(&var.name).cloned());
            values.known.insert(&var.name, value);
        }
        values
    }

    fn lookup(&self, name: &str) -> Known<'static> {
        match self.known.get(name) {
            Some(Some(value)) => Known::Value(Cow::Owned(value.clone())),
            Some(None) => Known::Unknown,
            // From `envFrom`, or one of a Service.
            None => match self.process_env.get(name) {
                Some(value) => Known::Value(Cow::Owned(value.clone())),
                None => Known::Undefined,
            },
        }
    }
}

/// A field of the host's pod.
fn own_field(pod: &Pod, path: &str) -> Option<String> {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    match path {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        "spec.nodeName" => spec?.node_name.clone(),
        "spec.serviceAccountName" => spec?.service_account_name.clone(),
        "status.podIP" => status?.pod_ip.clone(),
        "status.hostIP" => status?.host_ip.clone(),
        other => metadata_value(pod, other),
    }
}

fn user(spec: &PodSpec, container: &Container) -> User {
    let pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let id = |own: Option<i64>, pod: Option<i64>| own.or(pod).filter(|id| *id > 0);
    User {
        uid: id(own.and_then(|own| own.run_as_user), pod.and_then(|pod| pod.run_as_user)),
        gid: id(own.and_then(|own| own.run_as_group), pod.and_then(|pod| pod.run_as_group)),
        fs_group: id(None, pod.and_then(|pod| pod.fs_group)),
        supplemental_groups: pod.and_then(|pod| pod.supplemental_groups.clone()).unwrap_or_default(),
        selinux_level: own
            .and_then(|own| own.se_linux_options.as_ref())
            .or_else(|| pod?.se_linux_options.as_ref())
            .and_then(|options| options.level.clone())
            .filter(|level| !level.is_empty()),
    }
}

fn scheduling(spec: &PodSpec) -> Scheduling {
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Scheduling {
        node_selector: spec.node_selector.clone().unwrap_or_default(),
        tolerations: spec
            .tolerations
            .iter()
            .flatten()
            .filter(|each| !is_added_by_default(each))
            .cloned()
            .collect(),
        node_affinity: spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone()),
        priority_class_name: text(&spec.priority_class_name),
        runtime_class_name: text(&spec.runtime_class_name),
        // The API server has merged these keys into the selector already, and refuses a pod that has both.
        topology_spread: spec
            .topology_spread_constraints
            .iter()
            .flatten()
            .map(|each| TopologySpreadConstraint { match_label_keys: None, ..each.clone() })
            .collect(),
    }
}

/// Whether every pod gets this toleration from the API server.
fn is_added_by_default(toleration: &Toleration) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    matches!(key, "node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable")
        && toleration.toleration_seconds == Some(300)
}

// The variables hold secrets.
impl std::fmt::Debug for SelfPod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfPod")
            .field("namespace", &self.namespace)
            .field("image", &self.image)
            .field("home", &self.home)
            .field("mounts", &self.mounts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(pod: serde_json::Value) -> Result<SelfPod, SelfPodError> {
        SelfPod::read(&serde_json::from_value(pod).unwrap(), "host-0", "agents", &BTreeMap::new())
    }

    #[test]
    fn job_inherits_image_env_volumes_and_dns() {
        let pod = read(json!({"spec": {
            "imagePullSecrets": [{"name": "registry"}, {"name": ""}, {}],
            "dnsConfig": {"nameservers": ["10.0.0.10"]},
            "containers": [
                {"name": "sidecar", "image": "other"},
                {"name": "paperclip", "image": "host:1",
                 "env": [
                    {"name": "B", "value": "1"},
                    {"name": "EMPTY", "value": ""},
                    {"name": "NONE"},
                    {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "A", "value": "2"},
                    {"name": "B", "value": "3"}],
                 "envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "map"}}],
                 "volumeMounts": [
                    {"name": "tls", "mountPath": "/tls"},
                    {"name": "store", "mountPath": "/paperclip/"},
                    {"name": "store", "mountPath": "/paperclip"},
                    {"name": "tls", "mountPath": "/ca.crt", "subPath": "ca.crt"},
                    {"name": "token", "mountPath": "/token"},
                    {"name": "nameless", "mountPath": "/nameless"},
                    {"name": "unknown", "mountPath": "/unknown"}]}],
            "volumes": [
                {"name": "store", "persistentVolumeClaim": {"claimName": "shared"}},
                {"name": "tls", "secret": {"secretName": "tls-secret", "defaultMode": 256}},
                {"name": "nameless", "secret": {}},
                {"name": "token", "projected": {"sources": []}}]}}))
        .unwrap();
        assert_eq!(
            serde_json::to_value(&pod).unwrap(),
            json!({
                "namespace": "agents",
                "image": "host:1",
                "imagePullSecrets": [{"name": "registry"}],
                "dnsConfig": {"nameservers": ["10.0.0.10"]},
                "pvcClaimName": "shared",
                "secretVolumes": [
                    {"volumeName": "tls", "secretName": "tls-secret", "mountPath": "/tls", "defaultMode": 256},
                    {"volumeName": "tls", "secretName": "tls-secret", "mountPath": "/ca.crt", "defaultMode": 256,
                     "subPath": "ca.crt"}],
                "inheritedEnv": {"B": "3", "A": "2"},
                "inheritedEnvValueFrom": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                "inheritedEnvFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "map"}}],
            })
        );
        let again: SelfPod = serde_json::from_value(serde_json::to_value(&pod).unwrap()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&pod).unwrap());
    }

    #[test]
    fn pod_without_optional_fields_is_read() {
        let pod =
            read(json!({"spec": {"containers": [{"name": "first", "image": "i"}, {"name": "second"}]}}))
                .unwrap();
        assert_eq!(pod, SelfPod { namespace: "agents".into(), image: "i".into(), ..SelfPod::default() });
        assert_eq!(serde_json::to_value(&pod).unwrap()["pvcClaimName"], json!(null));
    }

    #[test]
    fn mount_that_is_not_a_claim_gives_no_claim() {
        let pod = read(json!({"spec": {
            "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/paperclip"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}]}}));
        assert_eq!(pod.unwrap().pvc_claim_name, None);
    }

    #[test]
    fn mount_in_the_place_of_the_prompt_is_left_out() {
        let pod = read(json!({"spec": {
            "containers": [{"name": "c", "image": "i", "volumeMounts": [
                {"name": "own", "mountPath": "/tmp/prompt/"}, {"name": "own", "mountPath": "/tmp/prompts"}]}],
            "volumes": [{"name": "own", "configMap": {"name": "m"}}]}}))
        .unwrap();
        assert_eq!(pod.mount_paths().collect::<Vec<_>>(), ["/tmp/prompts"]);
        let why = "of Paperclip's container left out: the run has its own files there";
        assert_eq!(pod.notes, [format!("the mount at /tmp/prompt/ {why}")]);
    }

    #[test]
    fn level_of_selinux_is_read_and_nothing_else_of_it() {
        let level = |pod: serde_json::Value, own: serde_json::Value| {
            let spec = json!({"securityContext": {"seLinuxOptions": pod}, "containers": [
                {"name": "c", "image": "i", "securityContext": {"seLinuxOptions": own}}]});
            read(json!({ "spec": spec })).unwrap().user.selinux_level
        };
        let of = |level: &str| json!({"level": level, "type": "spc_t"});
        for (pod, own, expected) in [
            (json!(null), json!(null), None),
            (of("s0:c1,c2"), json!(null), Some("s0:c1,c2")),
            (of("s0:c1,c2"), of("s0:c3,c4"), Some("s0:c3,c4")),
            (json!({"type": "container_t"}), json!(null), None),
        ] {
            assert_eq!(level(pod.clone(), own.clone()).as_deref(), expected, "{pod} {own}");
        }
    }

    #[test]
    fn files_about_the_own_pod_are_left_out_of_a_projection() {
        let pod = read(json!({"spec": {
            "containers": [{"name": "c", "image": "i", "volumeMounts": [
                {"name": "mixed", "mountPath": "/etc/mixed"}, {"name": "mixed", "mountPath": "/etc/mixed"},
                {"name": "info", "mountPath": "/etc/info"}, {"name": "token", "mountPath": "/token"}]}],
            "volumes": [
                {"name": "mixed", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "m"}},
                    {"downwardAPI": {"items": []}}]}},
                {"name": "info", "downwardAPI": {"items": []}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]}}))
        .unwrap();
        let why = "of Paperclip's container left out: they describe Paperclip's own pod";
        assert_eq!(pod.notes, [format!("files at /etc/mixed {why}"), format!("files at /etc/info {why}")]);
        assert_eq!(pod.mounts.len(), 2);
        assert_eq!(
            serde_json::to_value(&pod.mounts[0].volume).unwrap(),
            json!({"name": "mixed", "projected": {"sources": [{"configMap": {"name": "m"}}]}})
        );
    }

    #[test]
    fn pod_without_spec_or_image_is_refused() {
        for (pod, want) in [
            (json!({}), "claude_k8s: pod host-0 has no spec"),
            (json!({"spec": {"containers": []}}), "claude_k8s: pod host-0 has no container image"),
            (
                json!({"spec": {"containers": [{"name": "a"}]}}),
                "claude_k8s: pod host-0 has no container image",
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "paperclip", "image": ""}]}}),
                "claude_k8s: pod host-0 has no container image",
            ),
        ] {
            assert_eq!(read(pod).unwrap_err().to_string(), want);
        }
        assert_eq!(
            SelfPodError::NoHostname.to_string(),
            "claude_k8s: HOSTNAME env var not set — cannot introspect running pod"
        );
    }

    #[test]
    fn partial_json_falls_back_to_defaults() {
        let pod: SelfPod = serde_json::from_value(json!({
            "image": "i", "dnsConfig": null, "pvcClaimName": null, "inheritedEnv": {"Z": "1", "A": "2"},
            "secretVolumes": null, "someNewField": 1}))
        .unwrap();
        assert_eq!(pod.image, "i");
        let names: Vec<_> = pod.env.iter().map(|var| var.name.as_str()).collect();
        assert_eq!(names, ["Z", "A"]);
        assert_eq!(serde_json::from_value::<SelfPod>(json!({})).unwrap(), SelfPod::default());
    }
}
