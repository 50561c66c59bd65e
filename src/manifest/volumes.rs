//! Volumes of the pod and mounts of the agent's container.

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, PersistentVolumeClaimVolumeSource, SecretVolumeSource, Volume, VolumeMount,
};

use super::labels::{DATA_VOLUME, PROMPT_SECRET_VOLUME, PROMPT_VOLUME};
use super::{HOME, PROMPT_DIR, PromptSecret, SelfPod};

/// The longest name of a volume.
const MAX_NAME: usize = 63;

/// All volumes, and the mounts of the agent's container.
pub(super) fn volumes(self_pod: &SelfPod, secret: Option<&PromptSecret>) -> (Vec<Volume>, Vec<VolumeMount>) {
    let mut volumes = vec![Volume {
        name: PROMPT_VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }];
    let mut mounts = vec![mount(PROMPT_VOLUME, PROMPT_DIR)];

    if let Some(claim_name) = self_pod.pvc_claim_name.as_ref().filter(|name| !name.is_empty()) {
        let claim = PersistentVolumeClaimVolumeSource { claim_name: claim_name.clone(), read_only: None };
        volumes.push(Volume {
            name: DATA_VOLUME.to_owned(),
            persistent_volume_claim: Some(claim),
            ..Volume::default()
        });
        mounts.push(mount(DATA_VOLUME, HOME));
    }

    // A Secret that is mounted several times is one volume with several mounts. Two Secrets must not share a volume's
    // name, and none may have the name of one of our volumes.
    let mut given: Vec<(&str, &str, String)> = Vec::new();
    for source in &self_pod.secret_volumes {
        let (wanted, secret_name) = (source.volume_name.as_str(), source.secret_name.as_str());
        let known = given.iter().find(|(volume, secret, _)| (*volume, *secret) == (wanted, secret_name));
        let name = match known {
            Some((_, _, name)) => name.clone(),
            None => {
                let name = free_name(wanted, |name| volumes.iter().any(|volume| volume.name == name));
                volumes.push(secret_volume(&name, secret_name, source.default_mode, true));
                given.push((wanted, secret_name, name.clone()));
                name
            }
        };
        mounts.push(VolumeMount {
            read_only: Some(true),
            sub_path: source.sub_path.clone().filter(|path| !path.is_empty()),
            ..mount(&name, &source.mount_path)
        });
    }

    if let Some(secret) = secret {
        volumes.push(secret_volume(PROMPT_SECRET_VOLUME, &secret.name, None, false));
    }
    (volumes, mounts)
}

/// A mount of a whole volume.
pub(super) fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn secret_volume(name: &str, secret_name: &str, default_mode: Option<i32>, optional: bool) -> Volume {
    let source = SecretVolumeSource {
        secret_name: Some(secret_name.to_owned()),
        default_mode,
        optional: Some(optional),
        items: None,
    };
    Volume { name: name.to_owned(), secret: Some(source), ..Volume::default() }
}

/// The wanted name if it is free, else with the first number from 2 on that makes it free.
fn free_name(wanted: &str, taken: impl Fn(&str) -> bool) -> String {
    let blocked =
        |name: &str| [PROMPT_VOLUME, DATA_VOLUME, PROMPT_SECRET_VOLUME].contains(&name) || taken(name);
    if !blocked(wanted) {
        return wanted.to_owned();
    }
    let mut number = 2u32;
    loop {
        let suffix = format!("-{number}");
        let stem: String = wanted.chars().take(MAX_NAME - suffix.len()).collect();
        let name = format!("{stem}{suffix}");
        if !blocked(&name) {
            return name;
        }
        number += 1;
    }
}
