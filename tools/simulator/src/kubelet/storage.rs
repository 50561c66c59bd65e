//! Local ephemeral storage: a pod that uses more than it may is evicted by its node.

use crate::util::{list_at, str_at};
use serde_json::Value;
use std::path::Path;

/// What a pod may use, and of what.
pub(super) struct Limits {
    /// `emptyDir` volumes with a `sizeLimit`: name, limit as it is written, bytes.
    volumes: Vec<(String, String, u64)>,
    /// Containers with a limit of `ephemeral-storage`: name, limit as it is written, bytes.
    containers: Vec<(String, String, u64)>,
    /// The names of all volumes that take storage of the pod, and of all containers.
    all: (Vec<String>, Vec<String>),
}

impl Limits {
    /// The limits of a pod, if it has any.
    pub(super) fn of(pod: &Value) -> Option<Self> {
        let limited = |list: &[Value], at: &str| -> Vec<(String, String, u64)> {
            list.iter()
                .filter_map(|v| {
                    let text = str_at(v, at);
                    Some((str_at(v, "/name").to_string(), text.to_string(), bytes(text)?))
                })
                .collect()
        };
        let names = |list: &[Value]| list.iter().map(|v| str_at(v, "/name").to_string()).collect();
        let volumes: Vec<Value> =
            list_at(pod, "/spec/volumes").iter().filter(|v| v["emptyDir"].is_object()).cloned().collect();
        let limits = Limits {
            all: (names(&volumes), names(list_at(pod, "/spec/containers"))),
            volumes: limited(list_at(pod, "/spec/volumes"), "/emptyDir/sizeLimit"),
            containers: limited(list_at(pod, "/spec/containers"), "/resources/limits/ephemeral-storage"),
        };
        (!limits.volumes.is_empty() || !limits.containers.is_empty()).then_some(limits)
    }

    /// The message of the eviction, if a limit is exceeded. `log_bytes` is how much a container has printed: a kubelet
    /// counts its log files, too.
    pub(super) fn exceeded(&self, dir: &Path, log_bytes: impl Fn(&str) -> u64) -> Option<String> {
        for (name, limit, most) in &self.volumes {
            if used(&dir.join("volumes").join(name)) > *most {
                return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. "));
            }
        }
        let container = |name: &str| used(&dir.join("root").join(name)) + log_bytes(name);
        // A kubelet checks the sum first, so the container is named only where others may use more than they do.
        let most: u64 = self.containers.iter().map(|(_, _, most)| most).sum();
        let (volumes, containers) = &self.all;
        let total = volumes.iter().map(|name| used(&dir.join("volumes").join(name))).sum::<u64>()
            + containers.iter().map(|name| container(name)).sum::<u64>();
        if most > 0 && total > most {
            let limit =
                if let [(_, only, _)] = self.containers.as_slice() { only.clone() } else { most.to_string() };
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
            ));
        }
        for (name, limit, most) in &self.containers {
            if container(name) > *most {
                return Some(format!(
                    "Container {name} exceeded its local ephemeral storage limit {limit:?}. "
                ));
            }
        }
        None
    }
}

/// The bytes of all files below a folder.
fn used(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => used(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// A quantity in bytes; none for what is not one, or is zero.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_are_bytes() {
        assert_eq!(bytes("20Mi"), Some(20 << 20));
        assert_eq!(bytes("3k"), Some(3_000));
        assert_eq!(bytes("7"), Some(7));
        assert_eq!((bytes("0"), bytes(""), bytes("1Pb")), (None, None, None));
    }

    #[test]
    fn exceeded_limit_is_named_as_a_kubelet_names_it() {
        let dir = std::env::temp_dir().join(format!("storage-{}", crate::util::hex(8)));
        std::fs::create_dir_all(dir.join("volumes/cache/deep")).expect("made");
        std::fs::write(dir.join("volumes/cache/deep/file"), vec![0; 2_000]).expect("written");
        let pod = |volume: &str, container: &str, other: &str| {
            json!({"spec": {
                "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": volume}}, {"name": "other", "emptyDir": {}}],
                "containers": [
                    {"name": "claude", "resources": {"limits": {"ephemeral-storage": container}}},
                    {"name": "other", "resources": {"limits": {"ephemeral-storage": other}}},
                ],
            }})
        };
        let exceeded = |volume, container, other| {
            let size = |name: &str| if name == "claude" { 3_000 } else { 0 };
            Limits::of(&pod(volume, container, other)).expect("limits").exceeded(&dir, size)
        };
        assert_eq!(exceeded("2k", "3k", "2k"), None);
        assert_eq!(
            exceeded("1k", "3k", "2k").as_deref(),
            Some("Usage of EmptyDir volume \"cache\" exceeds the limit \"1k\". ")
        );
        assert_eq!(
            exceeded("2k", "1Ki", "1M").as_deref(),
            Some("Container claude exceeded its local ephemeral storage limit \"1Ki\". ")
        );
        assert_eq!(
            exceeded("2k", "4k", "").as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 4k. ")
        );
        assert!(Limits::of(&json!({"spec": {"containers": [{"name": "claude"}]}})).is_none());
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
