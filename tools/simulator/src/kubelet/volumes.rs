//! Volumes as directories.

use super::env::{Env, config_bytes, expand, field, secret_bytes};
use super::paths::{Mount, Mounts, below};
use crate::kinds::{CONFIG_MAP, PVC, SECRET};
use crate::store::Store;
use crate::util::{int_at, list_at, str_at};
use serde_json::Value;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Creates the directories of a pod's volumes, or says which one cannot be set up and why.
pub(super) fn set_up(store: &Store, dir: &Path, pod_dir: &Path, pod: &Value) -> Result<(), String> {
    let namespace = str_at(pod, "/metadata/namespace");
    for v in list_at(pod, "/spec/volumes") {
        let name = str_at(v, "/name");
        let fail = |why: String| {
            if why.starts_with("persistentvolumeclaim") {
                why
            } else {
                format!("MountVolume.SetUp failed for volume {name:?} : {why}")
            }
        };
        let place = place(dir, pod_dir, pod, v);
        std::fs::create_dir_all(&place).map_err(|e| fail(e.to_string()))?;
        let files = contents(store, namespace, pod, v).map_err(fail)?;
        for (path, bytes, mode) in files {
            write(&place, &path, &bytes, mode).map_err(|e| fail(e.to_string()))?;
        }
    }
    Ok(())
}

fn place(dir: &Path, pod_dir: &Path, pod: &Value, volume: &Value) -> PathBuf {
    let claim = str_at(volume, "/persistentVolumeClaim/claimName");
    if claim.is_empty() {
        pod_dir.join("volumes").join(str_at(volume, "/name"))
    } else {
        claim_dir(dir, str_at(pod, "/metadata/namespace"), claim)
    }
}

/// The directory shared by all pods that mount a claim.
pub(crate) fn claim_dir(dir: &Path, namespace: &str, claim: &str) -> PathBuf {
    dir.join("pvc").join(namespace).join(claim)
}

fn write(root: &Path, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let file = below(root, path);
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // The file may be there from before a retry, and read-only.
    let _ = std::fs::remove_file(&file);
    std::fs::write(&file, bytes)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode))
}

type File = (String, Vec<u8>, u32);

fn contents(store: &Store, namespace: &str, pod: &Value, v: &Value) -> Result<Vec<File>, String> {
    if let Some(claim) = v.pointer("/persistentVolumeClaim/claimName").and_then(Value::as_str) {
        return match store.get(&PVC, namespace, claim) {
            Some(_) => Ok(Vec::new()),
            None => Err(format!("persistentvolumeclaim {claim:?} not found")),
        };
    }
    if let Some(s) = v.get("secret").filter(|s| s.is_object()) {
        return keyed(store, namespace, s, str_at(s, "/secretName"), true, None);
    }
    if let Some(c) = v.get("configMap").filter(|c| c.is_object()) {
        return keyed(store, namespace, c, str_at(c, "/name"), false, None);
    }
    if v.get("downwardAPI").is_some_and(Value::is_object) {
        return Ok(described(pod, v));
    }
    let mut out = Vec::new();
    let mode = int_at(v, "/projected/defaultMode");
    for source in list_at(v, "/projected/sources") {
        if let Some(s) = source.get("secret").filter(|s| s.is_object()) {
            out.extend(keyed(store, namespace, s, str_at(s, "/name"), true, mode)?);
        } else if let Some(c) = source.get("configMap").filter(|c| c.is_object()) {
            out.extend(keyed(store, namespace, c, str_at(c, "/name"), false, mode)?);
        } else if let Some(t) = source.get("serviceAccountToken") {
            out.push((str_at(t, "/path").to_string(), b"embedded".to_vec(), 0o644));
        } else {
            out.extend(described(pod, source));
        }
    }
    Ok(out)
}

/// The files of the downward API.
fn described(pod: &Value, source: &Value) -> Vec<File> {
    let file = |item: &Value| {
        let value = field(pod, str_at(item, "/fieldRef/fieldPath")).unwrap_or_default();
        (str_at(item, "/path").to_string(), value.into_bytes(), 0o644)
    };
    list_at(source, "/downwardAPI/items").iter().map(file).collect()
}

fn keyed(
    store: &Store,
    namespace: &str,
    source: &Value,
    name: &str,
    secret: bool,
    mode: Option<i64>,
) -> Result<Vec<File>, String> {
    let kind = if secret { &SECRET } else { &CONFIG_MAP };
    let optional = source["optional"] == true;
    let Some(object) = store.get(kind, namespace, name) else {
        return if optional { Ok(Vec::new()) } else { Err(format!("{} {name:?} not found", kind.singular)) };
    };
    let bytes = |key: &str| {
        if secret { secret_bytes(&object.value, key) } else { config_bytes(&object.value, key) }
    };
    let mode = int_at(source, "/defaultMode").or(mode).unwrap_or(0o644);
    let mode_of = |m: Option<i64>| u32::try_from(m.unwrap_or(mode) & 0o777).unwrap_or(0o644);
    let items = list_at(source, "/items");
    if items.is_empty() {
        let keys = ["data", "binaryData"]
            .into_iter()
            .filter_map(|k| object.value[k].as_object())
            .flat_map(|m| m.keys());
        return Ok(keys.filter_map(|k| Some((k.clone(), bytes(k)?, mode_of(None)))).collect());
    }
    let mut out = Vec::new();
    for item in items {
        let key = str_at(item, "/key");
        match bytes(key) {
            Some(b) => out.push((str_at(item, "/path").to_string(), b, mode_of(int_at(item, "/mode")))),
            None if optional => {}
            None => return Err(format!("references non-existent {} key: {key}", kind.singular)),
        }
    }
    Ok(out)
}

/// The mounts of one container. Creates sub-paths that do not exist.
pub(super) fn mounts(dir: &Path, pod_dir: &Path, pod: &Value, container: &Value, env: &Env) -> Mounts {
    let volumes = list_at(pod, "/spec/volumes");
    let list = list_at(container, "/volumeMounts")
        .iter()
        .filter_map(|m| {
            let volume = volumes.iter().find(|v| v["name"] == m["name"])?;
            let root = place(dir, pod_dir, pod, volume);
            let expression = str_at(m, "/subPathExpr");
            let sub = if expression.is_empty() { str_at(m, "/subPath") } else { &expand(expression, env) };
            let target = below(&root, sub);
            if !target.exists() {
                let _ = std::fs::create_dir_all(&target);
            }
            let path = str_at(m, "/mountPath").trim_end_matches('/').to_string();
            Some(Mount { path, target })
        })
        .collect();
    Mounts::new(list)
}
