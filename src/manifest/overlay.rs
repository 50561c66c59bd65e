//! Merges an operator's pod template (`podTemplate`) over the Job's, as `kubectl apply` merges: objects by field,
//! containers, variables, volumes and mounts by their key. Tolerations and `envFrom` are appended; other lists replace
//! ours.

use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};

/// Merges `overlay` over `template`. What would break a run was refused when the setting was read.
pub(super) fn merge(template: &mut PodTemplateSpec, overlay: &PodTemplateSpec) {
    let mut overlay = overlay.clone();
    if let (Some(ours), Some(theirs)) = (&mut template.spec, &mut overlay.spec) {
        make_way(ours, theirs);
    }
    template.merge_from(overlay);
}

/// Keeps the processes of every container from becoming more than its user is: the image of one that the template adds is
/// the agent's choice, and can hold a program that makes who starts it root.
pub(super) fn forbid_escalation(template: &mut PodTemplateSpec) {
    let Some(pod) = &mut template.spec else { return };
    for container in pod.containers.iter_mut().chain(pod.init_containers.iter_mut().flatten()) {
        let context = container.security_context.get_or_insert_default();
        context.allow_privilege_escalation.get_or_insert(false);
    }
}

/// Resolves what the generic merge does not know: a volume, mount or variable is replaced as a whole, because two sources
/// of one would be refused.
fn make_way(ours: &mut PodSpec, theirs: &mut PodSpec) {
    append(&mut ours.tolerations, &mut theirs.tolerations);
    for volume in theirs.volumes.iter().flatten() {
        ours.volumes.iter_mut().for_each(|all| all.retain(|known| known.name != volume.name));
    }
    for container in &mut theirs.containers {
        if let Some(own) = ours.containers.iter_mut().find(|own| own.name == container.name) {
            make_way_in(own, container);
        }
    }
}

fn make_way_in(ours: &mut Container, theirs: &mut Container) {
    append(&mut ours.env_from, &mut theirs.env_from);
    for var in theirs.env.take().into_iter().flatten() {
        let env = ours.env.get_or_insert_default();
        env.retain(|known| known.name != var.name);
        env.push(var);
    }
    let path = |path: &str| path.trim_end_matches('/').to_owned();
    for mount in theirs.volume_mounts.iter().flatten() {
        let at = path(&mount.mount_path);
        ours.volume_mounts.iter_mut().for_each(|all| all.retain(|known| path(&known.mount_path) != at));
    }
}

/// Moves what `theirs` has to the end of `ours`.
fn append<T>(ours: &mut Option<Vec<T>>, theirs: &mut Option<Vec<T>>) {
    if let Some(theirs) = theirs.take() {
        ours.get_or_insert_default().extend(theirs);
    }
}
