//! Pod Security Standards, as far as the pods of this project can break them.

use crate::util::{list_at, str_at};
use serde_json::Value;
use std::collections::BTreeSet;

/// How strict a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level and the version that the label names.
struct Policy {
    level: Level,
    version: String,
}

impl Policy {
    fn of(namespace: &Value, mode: &str) -> Option<Self> {
        let label = |name: String| namespace["metadata"]["labels"].get(name).and_then(Value::as_str);
        let level = match label(format!("pod-security.kubernetes.io/{mode}"))? {
            "baseline" => Level::Baseline,
            "restricted" => Level::Restricted,
            _ => Level::Privileged,
        };
        let version = label(format!("pod-security.kubernetes.io/{mode}-version")).unwrap_or("latest");
        Some(Policy { level, version: version.to_string() })
    }

    fn name(&self) -> String {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        format!("{level}:{}", self.version)
    }

    fn violations(&self, spec: &Value) -> Option<String> {
        let found: Vec<String> = match self.level {
            Level::Privileged => Vec::new(),
            Level::Baseline => baseline(spec, false),
            Level::Restricted => [baseline(spec, true), restricted(spec)].concat(),
        };
        (!found.is_empty()).then(|| found.join(", "))
    }
}

/// Why a pod is refused, if it is.
pub(super) fn refusal(namespace: &Value, spec: &Value) -> Option<String> {
    let policy = Policy::of(namespace, "enforce")?;
    Some(format!("violates PodSecurity {:?}: {}", policy.name(), policy.violations(spec)?))
}

/// What the creator of a pod, or of what makes pods, is warned of.
pub(super) fn warning(namespace: &Value, spec: &Value) -> Option<String> {
    // Without a level of its own, what is enforced is warned of.
    let policy = Policy::of(namespace, "warn").or_else(|| Policy::of(namespace, "enforce"))?;
    Some(format!("would violate PodSecurity {:?}: {}", policy.name(), policy.violations(spec)?))
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().flat_map(|key| list_at(spec, &format!("/{key}")))
}

/// Names of the containers that break a rule.
fn bad(spec: &Value, rule: impl Fn(&Value) -> bool) -> Vec<&str> {
    containers(spec).filter(|c| rule(c)).map(|c| str_at(c, "/name")).collect()
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|i| format!("\"{}\"", i.as_ref())).collect();
    items.join(", ")
}

fn plural(word: &str, number: usize) -> String {
    if number == 1 { word.to_string() } else { format!("{word}s") }
}

fn named(word: &str, names: &[&str]) -> String {
    format!("{} {}", plural(word, names.len()), quoted(names))
}

/// The checks in the order of their ids; two of them are part of restricted ones.
fn baseline(spec: &Value, restricted: bool) -> Vec<String> {
    let mut out = Vec::new();
    if !restricted {
        out.extend(capabilities_added(spec));
    }
    let host: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|key| spec[*key] == true)
        .map(|key| format!("{key}=true"))
        .collect();
    if !host.is_empty() {
        out.push(format!("host namespaces ({})", host.join(", ")));
    }
    let paths: Vec<&str> = list_at(spec, "/volumes")
        .iter()
        .filter(|v| v.get("hostPath").is_some_and(Value::is_object))
        .map(|v| str_at(v, "/name"))
        .collect();
    if !restricted && !paths.is_empty() {
        out.push(format!("hostPath volumes ({})", named("volume", &paths)));
    }
    let privileged = bad(spec, |c| c["securityContext"]["privileged"] == true);
    if !privileged.is_empty() {
        out.push(format!(
            "privileged ({} must not set securityContext.privileged=true)",
            named("container", &privileged)
        ));
    }
    out
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The containers that add capabilities which are not allowed, and those capabilities.
fn added<'a>(spec: &'a Value, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let mut names = BTreeSet::new();
    let containers: Vec<&str> = containers(spec)
        .filter(|c| {
            let wrong: Vec<&str> = list_at(&c["securityContext"], "/capabilities/add")
                .iter()
                .filter_map(Value::as_str)
                .filter(|name| !allowed.contains(name))
                .collect();
            names.extend(wrong.iter().copied());
            !wrong.is_empty()
        })
        .map(|c| str_at(c, "/name"))
        .collect();
    (containers, names)
}

fn capabilities_added(spec: &Value) -> Option<String> {
    let (containers, names) = added(spec, &DEFAULT_CAPABILITIES);
    (!containers.is_empty()).then(|| {
        format!(
            "non-default capabilities ({} must not include {} in securityContext.capabilities.add)",
            named("container", &containers),
            quoted(names)
        )
    })
}

fn restricted(spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let escalating = bad(spec, |c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    if !escalating.is_empty() {
        out.push(format!(
            "allowPrivilegeEscalation != false ({} must set securityContext.allowPrivilegeEscalation=false)",
            named("container", &escalating)
        ));
    }
    out.extend(capabilities(spec));
    out.extend(volumes(spec));
    out.extend(non_root(spec));
    out.extend(root(spec));
    out.extend(seccomp(spec));
    out
}

fn capabilities(spec: &Value) -> Option<String> {
    let mut parts = Vec::new();
    let missing =
        bad(spec, |c| !list_at(&c["securityContext"], "/capabilities/drop").iter().any(|d| d == "ALL"));
    if !missing.is_empty() {
        parts.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            named("container", &missing)
        ));
    }
    let (adding, names) = added(spec, &["NET_BIND_SERVICE"]);
    if !adding.is_empty() {
        parts.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named("container", &adding),
            quoted(names)
        ));
    }
    (!parts.is_empty()).then(|| format!("unrestricted capabilities ({})", parts.join("; ")))
}

fn volumes(spec: &Value) -> Option<String> {
    let known = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let mut types = BTreeSet::new();
    let mut names = Vec::new();
    for v in list_at(spec, "/volumes") {
        if known.iter().any(|key| v.get(key).is_some_and(|x| !x.is_null())) {
            continue;
        }
        names.push(str_at(v, "/name"));
        let own = v.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).find(|key| *key != "name");
        types.insert(own.unwrap_or("unknown"));
    }
    (!names.is_empty()).then(|| {
        format!(
            "restricted volume types ({} {} {} {})",
            named("volume", &names),
            if names.len() == 1 { "uses" } else { "use" },
            plural("restricted volume type", types.len()),
            quoted(types)
        )
    })
}

/// A value that a pod gives to all its containers, and each container to itself.
struct Setting<'a> {
    pod: &'a Value,
    path: &'a str,
}

impl<'a> Setting<'a> {
    fn new(spec: &'a Value, path: &'a str) -> Self {
        Setting { pod: spec, path }
    }

    fn at(&self, owner: &'a Value) -> Option<&'a Value> {
        owner.get("securityContext")?.pointer(self.path).filter(|v| !v.is_null())
    }

    /// Who sets a wrong value: `pod`, `container "a"`, or both.
    fn setters(&self, wrong: impl Fn(&Value) -> bool) -> Option<String> {
        let mut out = Vec::new();
        if self.at(self.pod).is_some_and(&wrong) {
            out.push("pod".to_string());
        }
        let containers = bad(self.pod, |c| self.at(c).is_some_and(&wrong));
        if !containers.is_empty() {
            out.push(named("container", &containers));
        }
        (!out.is_empty()).then(|| out.join(" and "))
    }

    /// The containers for which nobody sets a value.
    fn unset(&self) -> Vec<&'a str> {
        let pod = self.at(self.pod).is_some();
        bad(self.pod, |c| !pod && self.at(c).is_none())
    }
}

fn non_root(spec: &Value) -> Option<String> {
    let setting = Setting::new(spec, "/runAsNonRoot");
    let why = if let Some(setters) = setting.setters(|v| v == false) {
        format!("{setters} must not set securityContext.runAsNonRoot=false")
    } else {
        let unset = setting.unset();
        if unset.is_empty() {
            return None;
        }
        format!("pod or {} must set securityContext.runAsNonRoot=true", named("container", &unset))
    };
    Some(format!("runAsNonRoot != true ({why})"))
}

fn root(spec: &Value) -> Option<String> {
    let setters = Setting::new(spec, "/runAsUser").setters(|v| v == 0)?;
    Some(format!("runAsUser=0 ({setters} must not set runAsUser=0)"))
}

fn seccomp(spec: &Value) -> Option<String> {
    let setting = Setting::new(spec, "/seccompProfile/type");
    let wrong = |v: &Value| v != "RuntimeDefault" && v != "Localhost";
    let why = if let Some(setters) = setting.setters(wrong) {
        let values: BTreeSet<&str> = std::iter::once(spec)
            .chain(containers(spec))
            .filter_map(|owner| setting.at(owner))
            .filter(|v| wrong(v))
            .filter_map(Value::as_str)
            .collect();
        format!("{setters} must not set securityContext.seccompProfile.type to {}", quoted(values))
    } else {
        let unset = setting.unset();
        if unset.is_empty() {
            return None;
        }
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            named("container", &unset)
        )
    };
    Some(format!("seccompProfile ({why})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn namespace(mode: &str, level: &str) -> Value {
        json!({"metadata": {"labels": {format!("pod-security.kubernetes.io/{mode}"): level}}})
    }

    #[test]
    fn restricted_names_all_that_is_missing() {
        let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
        assert_eq!(
            refusal(&namespace("enforce", "restricted"), &spec).as_deref(),
            Some(
                "violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (containers \"i\", \"c\" must \
                 set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \"i\", \"c\" must \
                 set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or containers \"i\", \"c\" must \
                 set securityContext.runAsNonRoot=true), seccompProfile (pod or containers \"i\", \"c\" must set \
                 securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
            )
        );
        assert_eq!(refusal(&namespace("warn", "restricted"), &spec), None);
        assert!(
            warning(&namespace("enforce", "restricted"), &spec)
                .is_some_and(|w| w.starts_with("would violate"))
        );
    }

    #[test]
    fn restricted_admits_a_sealed_pod() {
        let sealed = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}}}],
            "volumes": [{"name": "v", "emptyDir": {}}]});
        assert_eq!(refusal(&namespace("enforce", "restricted"), &sealed), None);
    }

    #[test]
    fn baseline_refuses_what_reaches_the_host() {
        let spec = json!({"hostPID": true, "containers": [{"name": "c", "securityContext": {"privileged": true,
            "capabilities": {"add": ["SYS_ADMIN", "KILL"]}}}], "volumes": [{"name": "v", "hostPath": {"path": "/"}}]});
        assert_eq!(
            refusal(&namespace("enforce", "baseline"), &spec).as_deref(),
            Some(
                "violates PodSecurity \"baseline:latest\": non-default capabilities (container \"c\" must not include \
                 \"SYS_ADMIN\" in securityContext.capabilities.add), host namespaces (hostPID=true), hostPath volumes \
                 (volume \"v\"), privileged (container \"c\" must not set securityContext.privileged=true)"
            )
        );
        assert_eq!(refusal(&namespace("enforce", "privileged"), &spec), None);
    }
}
