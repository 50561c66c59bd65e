//! What a Job inherits from the pod the host runs in.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, LocalObjectReference, Pod, PodDNSConfig};
use serde::{Deserialize, Serialize};

use super::labels::HOST_CONTAINER;
use super::{HOME, serde_ext};

/// What a Job inherits from the pod the host runs in.
///
/// As JSON it has the same names in camel case; any of them may be missing.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SelfPod {
    /// The namespace of the pod.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) namespace: String,
    /// The image of the host's container.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) image: String,
    /// The pod's pull secrets that have a name.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) image_pull_secrets: Vec<LocalObjectReference>,
    /// The pod's DNS settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dns_config: Option<PodDNSConfig>,
    /// The claim behind the mount at `/paperclip`.
    pub(crate) pvc_claim_name: Option<String>,
    /// The mounts of Secrets, in the container's order.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) secret_volumes: Vec<SelfPodSecretVolume>,
    /// Variables with a literal value that is not empty, in order. As JSON an object.
    #[serde(with = "serde_ext::ordered")]
    pub(crate) inherited_env: Vec<(String, String)>,
    /// Variables that refer to something else, in order.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) inherited_env_value_from: Vec<EnvVar>,
    /// The container's `envFrom`.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) inherited_env_from: Vec<EnvFromSource>,
}

/// One mount of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SelfPodSecretVolume {
    /// The volume's name in the host's pod.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) volume_name: String,
    /// The Secret.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) secret_name: String,
    /// Where it is mounted.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    pub(crate) mount_path: String,
    /// Permission bits of its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) default_mode: Option<i32>,
    /// The part of the volume that is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sub_path: Option<String>,
}

/// Why the host's own pod cannot be the model of a Job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelfPodError {
    /// The host's environment does not name its pod.
    #[error("claude_k8s: HOSTNAME env var not set — cannot introspect running pod")]
    NoHostname,
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

impl SelfPod {
    /// Reads the host's pod, which has the name `hostname` and is in `namespace`.
    ///
    /// # Errors
    ///
    /// When the pod has no spec or its container no image.
    pub(crate) fn read(pod: &Pod, hostname: &str, namespace: &str) -> Result<Self, SelfPodError> {
        let spec = pod.spec.as_ref().ok_or_else(|| SelfPodError::NoSpec { hostname: hostname.to_owned() })?;
        let named = spec.containers.iter().find(|container| container.name == HOST_CONTAINER);
        let (container, image) = named
            .or(spec.containers.first())
            .and_then(|container| {
                Some((container, container.image.clone().filter(|image| !image.is_empty())?))
            })
            .ok_or_else(|| SelfPodError::NoImage { hostname: hostname.to_owned() })?;

        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        let volume = |name: &str| spec.volumes.iter().flatten().find(|volume| volume.name == name);
        let env = container.env.as_deref().unwrap_or_default();

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
            dns_config: spec.dns_config.clone(),
            pvc_claim_name: mounts
                .iter()
                .find(|mount| mount.mount_path == HOME)
                .and_then(|mount| volume(&mount.name)?.persistent_volume_claim.as_ref())
                .map(|claim| claim.claim_name.clone()),
            secret_volumes: mounts
                .iter()
                .filter_map(|mount| {
                    let secret = volume(&mount.name)?.secret.as_ref()?;
                    Some(SelfPodSecretVolume {
                        volume_name: mount.name.clone(),
                        secret_name: secret.secret_name.clone().filter(|name| !name.is_empty())?,
                        mount_path: mount.mount_path.clone(),
                        default_mode: secret.default_mode,
                        sub_path: mount.sub_path.clone().filter(|path| !path.is_empty()),
                    })
                })
                .collect(),
            inherited_env: inherited_env(env),
            inherited_env_value_from: env
                .iter()
                .filter(|var| !var.name.is_empty() && var.value_from.is_some())
                .map(|var| EnvVar { value: None, ..var.clone() })
                .collect(),
            inherited_env_from: container.env_from.clone().unwrap_or_default(),
        })
    }
}

/// The literal variables; of a name given twice the last value counts, as it does in the pod.
fn inherited_env(env: &[EnvVar]) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for var in env.iter().filter(|var| !var.name.is_empty() && var.value_from.is_none()) {
        let Some(value) = var.value.clone().filter(|value| !value.is_empty()) else { continue };
        match pairs.iter_mut().find(|(name, _)| *name == var.name) {
            Some(pair) => pair.1 = value,
            None => pairs.push((var.name.clone(), value)),
        }
    }
    pairs
}

// The variables hold secrets.
impl std::fmt::Debug for SelfPod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfPod")
            .field("namespace", &self.namespace)
            .field("image", &self.image)
            .field("pvc_claim_name", &self.pvc_claim_name)
            .field("secret_volumes", &self.secret_volumes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(pod: serde_json::Value) -> Result<SelfPod, SelfPodError> {
        SelfPod::read(&serde_json::from_value(pod).unwrap(), "host-0", "agents")
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
        assert_eq!(again, pod);
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
        assert_eq!(pod.inherited_env, [("Z".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())]);
        assert_eq!(serde_json::from_value::<SelfPod>(json!({})).unwrap(), SelfPod::default());
    }
}
