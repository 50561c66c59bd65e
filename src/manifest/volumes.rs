//! Volumes of the pod and mounts of the agent's container.

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, SecretVolumeSource, Volume, VolumeMount};

use super::labels::{DATA_VOLUME, PROMPT_SECRET_VOLUME, PROMPT_VOLUME};
use super::self_pod::Inherited;
use super::{PROMPT_DIR, RunSecret, ScopedFolder, SelfPod, scope, server_only};
use crate::request::Request;

/// The longest name of a volume.
const MAX_NAME: usize = 63;

/// All volumes, and the mounts of the agent's container. What another namespace than the host's lacks is left out there.
/// `folders`: what the agent gets of the shared volume, where that is not all of it.
pub(super) fn volumes(
    request: &Request,
    self_pod: &SelfPod,
    folders: Option<&[ScopedFolder]>,
    secret: Option<&RunSecret>,
) -> (Vec<Volume>, Vec<VolumeMount>) {
    let foreign = request.config.namespace.as_ref().is_some_and(|name| *name != self_pod.namespace);
    let mut volumes = vec![Volume {
        name: PROMPT_VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }];
    let mut mounts = vec![mount(PROMPT_VOLUME, PROMPT_DIR)];

    if let (Some(home), Some(folders)) = (&self_pod.home, folders) {
        let (of_home, in_home) = scope::home(home, folders);
        volumes.extend(of_home);
        mounts.extend(in_home);
    } else if let Some(Inherited { volume, mount }) = &self_pod.home {
        volumes.push(Volume { name: DATA_VOLUME.to_owned(), ..volume.clone() });
        mounts.push(VolumeMount { name: DATA_VOLUME.to_owned(), ..mount.clone() });
    }

    // A volume that is mounted several times is one volume with several mounts. Two volumes must not share a name, and none
    // may have the name of one of ours.
    let mut given: Vec<(&Volume, String)> = Vec::new();
    let kept = self_pod.mounts.iter().filter(|each| !server_only::holds_key(request, self_pod, each));
    for Inherited { volume, mount } in kept {
        let known = given.iter().find(|(known, _)| *known == volume);
        let name = match known {
            Some((_, name)) => name.clone(),
            None => {
                let name = free_name(&volume.name, |name| volumes.iter().any(|volume| volume.name == name));
                let mut copy = Volume { name: name.clone(), ..volume.clone() };
                if foreign {
                    make_optional(&mut copy);
                }
                volumes.push(copy);
                given.push((volume, name.clone()));
                name
            }
        };
        mounts.push(VolumeMount { name, read_only: Some(true), ..mount.clone() });
    }

    if let Some(secret) = secret {
        let source = SecretVolumeSource {
            secret_name: Some(secret.name.clone()),
            optional: Some(false),
            ..SecretVolumeSource::default()
        };
        let name = PROMPT_SECRET_VOLUME.to_owned();
        volumes.push(Volume { name, secret: Some(source), ..Volume::default() });
    }
    (volumes, mounts)
}

/// Lets a pod start without the objects of this volume.
fn make_optional(volume: &mut Volume) {
    if let Some(secret) = &mut volume.secret {
        secret.optional = Some(true);
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.optional = Some(true);
    }
    for source in volume.projected.iter_mut().flat_map(|all| &mut all.sources).flatten() {
        if let Some(secret) = &mut source.secret {
            secret.optional = Some(true);
        }
        if let Some(config_map) = &mut source.config_map {
            config_map.optional = Some(true);
        }
    }
}

/// A mount of a whole volume.
pub(super) fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
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
