//! What 0.1.49 knows of the host's pod, as its helpers take and give it (docs/contract.md, "Exported helpers").

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, LocalObjectReference, PersistentVolumeClaimVolumeSource, PodDNSConfig,
    SecretVolumeSource, Volume, VolumeMount,
};
use serde::{Deserialize, Serialize};

use super::self_pod::{Dns, Inherited, SelfPod};
use super::{HOME, serde_ext};

/// As JSON it has the same names in camel case; any of them may be missing.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SelfPodInfo {
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    namespace: String,
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    image: String,
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    image_pull_secrets: Vec<LocalObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns_config: Option<PodDNSConfig>,
    /// The claim behind the mount at `/paperclip`.
    pvc_claim_name: Option<String>,
    /// The mounts of Secrets, in the container's order.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    secret_volumes: Vec<SecretVolume>,
    /// Variables with a literal value that is not empty, in order. As JSON an object.
    #[serde(with = "serde_ext::ordered")]
    inherited_env: Vec<(String, String)>,
    /// Variables that refer to something else, in order.
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    inherited_env_value_from: Vec<EnvVar>,
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    inherited_env_from: Vec<EnvFromSource>,
}

/// One mount of a Secret.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SecretVolume {
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    volume_name: String,
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    secret_name: String,
    #[serde(deserialize_with = "serde_ext::null_as_default")]
    mount_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_mode: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_path: Option<String>,
}

impl From<SelfPod> for SelfPodInfo {
    fn from(pod: SelfPod) -> Self {
        let secret_volumes = pod.mounts.iter().filter_map(|Inherited { volume, mount }| {
            let secret = volume.secret.as_ref()?;
            Some(SecretVolume {
                volume_name: volume.name.clone(),
                secret_name: secret.secret_name.clone()?,
                mount_path: mount.mount_path.clone(),
                default_mode: secret.default_mode,
                sub_path: mount.sub_path.clone(),
            })
        });
        Self {
            secret_volumes: secret_volumes.collect(),
            inherited_env: literals(&pod.env),
            inherited_env_value_from: pod
                .env
                .iter()
                .filter(|var| var.value_from.is_some())
                .cloned()
                .collect(),
            namespace: pod.namespace,
            image: pod.image,
            image_pull_secrets: pod.image_pull_secrets,
            dns_config: pod.dns.config,
            pvc_claim_name: pod.pvc_claim_name,
            inherited_env_from: pod.env_from,
        }
    }
}

/// The literal variables that are not empty; of a name given twice the last value counts.
fn literals(env: &[EnvVar]) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for var in env.iter().filter(|var| var.value_from.is_none()) {
        let Some(value) = var.value.clone().filter(|value| !value.is_empty()) else { continue };
        match pairs.iter_mut().find(|(name, _)| *name == var.name) {
            Some(pair) => pair.1 = value,
            None => pairs.push((var.name.clone(), value)),
        }
    }
    pairs
}

impl From<SelfPodInfo> for SelfPod {
    fn from(info: SelfPodInfo) -> Self {
        let claim = info.pvc_claim_name.filter(|name| !name.is_empty());
        // A name that is given both ways has the literal value.
        let given = |name: &str| info.inherited_env.iter().any(|(given, _)| given == name);
        let references = info.inherited_env_value_from.iter().filter(|var| !given(&var.name));
        let references: Vec<_> = references.map(|var| EnvVar { value: None, ..var.clone() }).collect();
        let literals = info.inherited_env.into_iter();
        let literals = literals.map(|(name, value)| EnvVar { name, value: Some(value), value_from: None });
        Self {
            env: literals.chain(references).collect(),
            namespace: info.namespace,
            image: info.image,
            image_pull_secrets: info.image_pull_secrets,
            dns: Dns { config: info.dns_config, ..Dns::default() },
            home: claim.clone().map(claim_at_home),
            pvc_claim_name: claim,
            mounts: info.secret_volumes.into_iter().map(Inherited::from).collect(),
            env_from: info.inherited_env_from,
            ..Self::default()
        }
    }
}

fn claim_at_home(claim_name: String) -> Inherited {
    let claim = PersistentVolumeClaimVolumeSource { claim_name, read_only: None };
    Inherited {
        volume: Volume { persistent_volume_claim: Some(claim), ..Volume::default() },
        mount: VolumeMount { mount_path: HOME.to_owned(), ..VolumeMount::default() },
    }
}

impl From<SecretVolume> for Inherited {
    fn from(source: SecretVolume) -> Self {
        let secret = SecretVolumeSource {
            secret_name: Some(source.secret_name),
            default_mode: source.default_mode,
            optional: Some(true),
            items: None,
        };
        Self {
            volume: Volume { name: source.volume_name, secret: Some(secret), ..Volume::default() },
            mount: VolumeMount {
                mount_path: source.mount_path,
                read_only: Some(true),
                sub_path: source.sub_path.filter(|path| !path.is_empty()),
                ..VolumeMount::default()
            },
        }
    }
}
