//! What a `podTemplate` may ask for where the operator has not opened it: nothing that reaches the node, a Secret or
//! ConfigMap, or a volume that is not the pod's own. A field that is not known here is not granted.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

const POD: &[&str] = &[
    "affinity",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostname",
    "imagePullSecrets",
    "initContainers",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "securityContext",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];

const CONTAINER: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeMounts",
    "workingDir",
];

const SECURITY: &[&str] = &[
    "allowPrivilegeEscalation",
    "appArmorProfile",
    "capabilities",
    "fsGroup",
    "fsGroupChangePolicy",
    "privileged",
    "readOnlyRootFilesystem",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seccompProfile",
    "supplementalGroups",
    "supplementalGroupsPolicy",
];

/// Kinds of volumes whose contents are the pod's own.
const VOLUMES: &[&str] = &["downwardAPI", "emptyDir", "ephemeral", "image", "name", "projected"];

/// What an empty claim consists of.
const CLAIM: &[&str] = &["accessModes", "resources", "storageClassName", "volumeMode"];

/// Annotations that stand for fields of a security context.
const PROFILE_ANNOTATIONS: &[&str] = &[
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
];

/// The path of the first field that is not granted.
pub(super) fn check(template: &PodTemplateSpec) -> Result<(), String> {
    let template = serde_json::to_value(template).unwrap_or_default();
    let annotations = template.pointer("/metadata/annotations").and_then(Value::as_object);
    for (key, value) in annotations.into_iter().flatten() {
        if weakens(key, value.as_str().unwrap_or_default()) {
            return Err(format!("metadata.annotations[{key:?}]"));
        }
    }
    let Some(pod) = template.get("spec").and_then(Value::as_object) else { return Ok(()) };
    known(pod, POD, "spec")?;
    security(pod.get("securityContext"), "spec.securityContext")?;
    for (volume, path) in items(pod, "volumes", "spec") {
        known(volume, VOLUMES, &path)?;
        check_ephemeral(volume, &path)?;
        let sources = volume.get("projected").and_then(Value::as_object);
        for (source, path) in
            sources.map(|all| items(all, "sources", &format!("{path}.projected"))).unwrap_or_default()
        {
            known(source, &["downwardAPI"], &path)?;
        }
    }
    let own: Vec<&Value> =
        items(pod, "volumes", "spec").iter().filter_map(|(volume, _)| volume.get("name")).collect();
    for list in ["containers", "initContainers"] {
        for (container, path) in items(pod, list, "spec") {
            check_container(container, &path, &own)?;
        }
    }
    Ok(())
}

/// An ephemeral volume is empty: one with a source would be a copy of another claim, one with a name that volume itself,
/// and controllers fill a claim by its annotations.
fn check_ephemeral(volume: &Map<String, Value>, path: &str) -> Result<(), String> {
    let Some(template) = volume.get("ephemeral").and_then(|all| all.get("volumeClaimTemplate")) else {
        return Ok(());
    };
    let path = format!("{path}.ephemeral.volumeClaimTemplate");
    for (part, allowed) in [("metadata", &["labels"][..]), ("spec", CLAIM)] {
        if let Some(fields) = template.get(part).and_then(Value::as_object) {
            known(fields, allowed, &format!("{path}.{part}"))?;
        }
    }
    Ok(())
}

/// Whether an annotation takes a container's security profile away, as Kubernetes' older versions had it.
pub(super) fn weakens(key: &str, value: &str) -> bool {
    PROFILE_ANNOTATIONS.iter().any(|of| key.starts_with(of)) && value != "runtime/default"
}

/// The images that a template names, with their paths.
pub(super) fn images(template: &PodTemplateSpec) -> Vec<(String, &str)> {
    let Some(pod) = &template.spec else { return Vec::new() };
    let containers =
        pod.containers.iter().enumerate().map(|(at, one)| (format!("spec.containers[{at}]"), one));
    let init = pod.init_containers.iter().flatten().enumerate();
    let init = init.map(|(at, one)| (format!("spec.initContainers[{at}]"), one));
    let of_containers = containers
        .chain(init)
        .filter_map(|(path, one)| Some((format!("{path}.image"), one.image.as_deref()?)));
    let volumes = pod.volumes.iter().flatten().enumerate();
    let of_volumes = volumes.filter_map(|(at, volume)| {
        Some((format!("spec.volumes[{at}].image"), volume.image.as_ref()?.reference.as_deref()?))
    });
    of_containers.chain(of_volumes).collect()
}

fn check_container(container: &Map<String, Value>, path: &str, own: &[&Value]) -> Result<(), String> {
    known(container, CONTAINER, path)?;
    security(container.get("securityContext"), &format!("{path}.securityContext"))?;
    for (var, path) in items(container, "env", path) {
        if let Some(source) = var.get("valueFrom").and_then(Value::as_object) {
            known(source, &["fieldRef", "resourceFieldRef"], &format!("{path}.valueFrom"))?;
        }
    }
    for (from, path) in items(container, "envFrom", path) {
        known(from, &["prefix"], &path)?;
    }
    for (mount, path) in items(container, "volumeMounts", path) {
        // The adapter's volumes hold other agents' files and the run's Secret.
        if !mount.get("name").is_some_and(|name| own.contains(&name)) {
            return Err(format!("{path}.name"));
        }
        if mount.get("mountPropagation").is_some_and(|mode| mode != "None") {
            return Err(format!("{path}.mountPropagation"));
        }
    }
    for (port, path) in items(container, "ports", path) {
        known(port, &["containerPort", "name", "protocol"], &path)?;
    }
    // The kubelet asks for it, from the node.
    let hooks = ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"];
    let mut hosts = hooks.iter().filter_map(|hook| Some((container.get(*hook)?, format!("{path}.{hook}"))));
    hosts.find_map(|(hook, path)| host_of(hook, &path)).map_or(Ok(()), Err)
}

/// The path of a host that a probe or hook names.
fn host_of(hook: &Value, path: &str) -> Option<String> {
    hook.as_object()?.iter().find_map(|(key, value)| {
        let path = format!("{path}.{key}");
        if key == "host" { Some(path) } else { host_of(value, &path) }
    })
}

/// What a security context may say: less than the adapter's own, or the same.
fn security(context: Option<&Value>, path: &str) -> Result<(), String> {
    let Some(context) = context.and_then(Value::as_object) else { return Ok(()) };
    known(context, SECURITY, path)?;
    let refused = |key: &str, value: &Value| match key {
        "allowPrivilegeEscalation" | "privileged" => *value != Value::Bool(false),
        "runAsNonRoot" => *value != Value::Bool(true),
        "runAsUser" | "runAsGroup" | "fsGroup" => value.as_i64().is_none_or(|id| id <= 0),
        "supplementalGroups" => value.as_array().is_none_or(|all| all.iter().any(|id| *id == 0)),
        "seccompProfile" | "appArmorProfile" => value.get("type").is_none_or(|kind| kind != "RuntimeDefault"),
        "capabilities" => {
            let list = |key: &str| value.get(key).and_then(Value::as_array);
            // The template's list replaces the adapter's.
            list("add").is_some_and(|added| !added.is_empty())
                || list("drop").is_some_and(|dropped| !dropped.iter().any(|one| one == "ALL"))
        }
        _ => false,
    };
    match context.iter().find(|(key, value)| refused(key, value)) {
        Some((key, _)) => Err(format!("{path}.{key}")),
        None => Ok(()),
    }
}

/// Refuses a field that is not on the list.
fn known(object: &Map<String, Value>, allowed: &[&str], path: &str) -> Result<(), String> {
    match object.keys().find(|key| !allowed.contains(&key.as_str())) {
        Some(key) => Err(format!("{path}.{key}")),
        None => Ok(()),
    }
}

/// The objects of a list, with their paths.
fn items<'a>(
    object: &'a Map<String, Value>,
    list: &str,
    path: &str,
) -> Vec<(&'a Map<String, Value>, String)> {
    let items = object.get(list).and_then(Value::as_array).into_iter().flatten().enumerate();
    items.filter_map(|(at, item)| Some((item.as_object()?, format!("{path}.{list}[{at}]")))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_json(spec: Value) -> Result<(), String> {
        check(&serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    fn side(with: Value) -> Value {
        let mut container = json!({"name": "side", "image": "i"});
        container.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        json!({"containers": [container]})
    }

    #[test]
    fn pod_that_reaches_node_secrets_or_volumes_is_refused() {
        let volume = |source: Value| {
            let mut volume = json!({"name": "v"});
            volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
            json!({"volumes": [volume]})
        };
        for (spec, path) in [
            (json!({"hostNetwork": true}), "spec.hostNetwork"),
            (json!({"hostPID": true}), "spec.hostPID"),
            (json!({"hostIPC": true}), "spec.hostIPC"),
            (json!({"hostUsers": true}), "spec.hostUsers"),
            (json!({"nodeName": "control-plane"}), "spec.nodeName"),
            (json!({"securityContext": {"runAsUser": 0}}), "spec.securityContext.runAsUser"),
            (json!({"securityContext": {"runAsNonRoot": false}}), "spec.securityContext.runAsNonRoot"),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}),
                "spec.securityContext.sysctls",
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
                "spec.securityContext.seccompProfile",
            ),
            (volume(json!({"hostPath": {"path": "/"}})), "spec.volumes[0].hostPath"),
            (volume(json!({"secret": {"secretName": "paperclip"}})), "spec.volumes[0].secret"),
            (volume(json!({"configMap": {"name": "other"}})), "spec.volumes[0].configMap"),
            (
                volume(json!({"persistentVolumeClaim": {"claimName": "other"}})),
                "spec.volumes[0].persistentVolumeClaim",
            ),
            (
                volume(json!({"ephemeral": {"volumeClaimTemplate": {"spec": {
                    "dataSource": {"kind": "PersistentVolumeClaim", "name": "paperclip"}}}}})),
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.dataSource",
            ),
            (
                volume(json!({"ephemeral": {"volumeClaimTemplate": {"spec": {
                    "dataSourceRef": {"kind": "VolumeSnapshot", "name": "s"}}}}})),
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.dataSourceRef",
            ),
            (
                volume(
                    json!({"ephemeral": {"volumeClaimTemplate": {"spec": {"volumeName": "pv-of-another"}}}}),
                ),
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.volumeName",
            ),
            (
                volume(json!({"ephemeral": {"volumeClaimTemplate": {"spec": {"selector": {}}}}})),
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.selector",
            ),
            (
                volume(json!({"ephemeral": {"volumeClaimTemplate": {
                    "metadata": {"annotations": {"k8s.io/CloneRequest": "paperclip"}}, "spec": {}}}})),
                "spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.annotations",
            ),
            (json!({"securityContext": {"runAsGroup": 0}}), "spec.securityContext.runAsGroup"),
            (json!({"securityContext": {"fsGroup": 0}}), "spec.securityContext.fsGroup"),
            (
                json!({"securityContext": {"supplementalGroups": [7, 0]}}),
                "spec.securityContext.supplementalGroups",
            ),
            (volume(json!({"nfs": {"path": "/", "server": "s"}})), "spec.volumes[0].nfs"),
            (volume(json!({"csi": {"driver": "secrets-store"}})), "spec.volumes[0].csi"),
            (
                volume(json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})),
                "spec.volumes[0].projected.sources[0].serviceAccountToken",
            ),
            (
                volume(json!({"projected": {"sources": [{"secret": {"name": "s"}}]}})),
                "spec.volumes[0].projected.sources[0].secret",
            ),
        ] {
            assert_eq!(check_json(spec), Err(path.to_owned()));
        }
    }

    #[test]
    fn container_that_reaches_node_secrets_or_volumes_is_refused() {
        for (spec, path) in [
            (
                side(json!({"securityContext": {"privileged": true}})),
                "spec.containers[0].securityContext.privileged",
            ),
            (
                side(json!({"securityContext": {"allowPrivilegeEscalation": true}})),
                "spec.containers[0].securityContext.allowPrivilegeEscalation",
            ),
            (
                side(json!({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}})),
                "spec.containers[0].securityContext.capabilities",
            ),
            (
                side(json!({"securityContext": {"capabilities": {"drop": []}}})),
                "spec.containers[0].securityContext.capabilities",
            ),
            (
                side(json!({"securityContext": {"procMount": "Unmasked"}})),
                "spec.containers[0].securityContext.procMount",
            ),
            (
                side(json!({"envFrom": [{"secretRef": {"name": "s"}}]})),
                "spec.containers[0].envFrom[0].secretRef",
            ),
            (
                side(
                    json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
                ),
                "spec.containers[0].env[0].valueFrom.secretKeyRef",
            ),
            (
                side(json!({"volumeMounts": [{"name": "data", "mountPath": "/x"}]})),
                "spec.containers[0].volumeMounts[0].name",
            ),
            (
                side(json!({"volumeDevices": [{"name": "v", "devicePath": "/x"}]})),
                "spec.containers[0].volumeDevices",
            ),
            (
                side(json!({"ports": [{"containerPort": 80, "hostPort": 80}]})),
                "spec.containers[0].ports[0].hostPort",
            ),
            (
                side(json!({"livenessProbe": {"httpGet": {"port": 80, "host": "169.254.169.254"}}})),
                "spec.containers[0].livenessProbe.httpGet.host",
            ),
            (
                json!({"initContainers": [{"name": "i", "image": "i", "securityContext": {"privileged": true}}]}),
                "spec.initContainers[0].securityContext.privileged",
            ),
        ] {
            assert_eq!(check_json(spec), Err(path.to_owned()));
        }
    }

    #[test]
    fn annotation_that_takes_a_profile_away_is_refused() {
        let check = |key: &str, value: &str| {
            let template = json!({"metadata": {"annotations": {key: value}}});
            check(&serde_json::from_value(template).unwrap())
        };
        let apparmor = "container.apparmor.security.beta.kubernetes.io/claude";
        assert_eq!(check(apparmor, "unconfined"), Err(format!("metadata.annotations[{apparmor:?}]")));
        assert!(check("seccomp.security.alpha.kubernetes.io/pod", "localhost/x").is_err());
        assert_eq!(check(apparmor, "runtime/default"), Ok(()));
        assert_eq!(check("example.com/a", "unconfined"), Ok(()));
    }

    #[test]
    fn sidecar_with_volume_of_its_own_is_granted() {
        let spec = json!({
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "securityContext": {"runAsUser": 2000, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [
                {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
                {"name": "disk", "ephemeral": {"volumeClaimTemplate": {
                    "metadata": {"labels": {"a": "b"}},
                    "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
                             "resources": {"requests": {"storage": "1Gi"}}}}}}],
            "containers": [
                {"name": "claude", "env": [{"name": "A", "value": "b"}], "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]},
                {"name": "side", "image": "i", "ports": [{"containerPort": 1}],
                 "securityContext": {"privileged": false, "capabilities": {"drop": ["ALL"]}},
                 "volumeMounts": [{"name": "tmp", "mountPath": "/t"}],
                 "readinessProbe": {"httpGet": {"port": 1}}}],
        });
        assert_eq!(check_json(spec), Ok(()));
    }
}
