//! Environment variables of a container.

use crate::kinds::{CONFIG_MAP, SECRET};
use crate::store::Store;
use crate::util::{list_at, str_at};
use base64::Engine;
use serde_json::Value;

/// Variables in order; a later one of the same name wins.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Env(pub Vec<(String, String)>);

impl Env {
    /// The value of a variable.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Sets a variable in its place.
    pub(super) fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name.to_string(), value)),
        }
    }
}

/// Replaces `$(NAME)` by known variables; `$$` is a literal dollar sign.
pub(super) fn expand(text: &str, env: &Env) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

/// The bytes of a key of a Secret.
pub(super) fn secret_bytes(secret: &Value, key: &str) -> Option<Vec<u8>> {
    let text = secret["data"].get(key)?.as_str()?;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// The bytes of a key of a ConfigMap.
pub(super) fn config_bytes(map: &Value, key: &str) -> Option<Vec<u8>> {
    if let Some(text) = map["data"].get(key).and_then(Value::as_str) {
        return Some(text.as_bytes().to_vec());
    }
    let text = map["binaryData"].get(key)?.as_str()?;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// Builds the environment, or says what keeps the container from being created.
pub(super) fn build(store: &Store, pod: &Value, container: &Value) -> Result<Env, String> {
    let namespace = str_at(pod, "/metadata/namespace");
    let mut env = Env::default();
    for from in list_at(container, "/envFrom") {
        let prefix = str_at(from, "/prefix");
        let (kind, source, word) = match (from.get("secretRef"), from.get("configMapRef")) {
            (Some(s), _) if !s.is_null() => (&SECRET, s, "secret"),
            (_, Some(c)) if !c.is_null() => (&CONFIG_MAP, c, "configmap"),
            _ => continue,
        };
        let name = str_at(source, "/name");
        let Some(object) = store.get(kind, namespace, name) else {
            if source["optional"] == true {
                continue;
            }
            return Err(format!("{word} {name:?} not found"));
        };
        for key in object.value["data"].as_object().into_iter().flatten().map(|(k, _)| k) {
            let bytes = if word == "secret" {
                secret_bytes(&object.value, key)
            } else {
                config_bytes(&object.value, key)
            };
            let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
            env.set(&format!("{prefix}{key}"), text);
        }
    }
    for e in list_at(container, "/env") {
        let name = str_at(e, "/name");
        let value = match e.get("valueFrom").filter(|f| f.is_object()) {
            None => Some(expand(str_at(e, "/value"), &env)),
            Some(from) => referenced(store, pod, container, namespace, from)?,
        };
        if let Some(value) = value {
            env.set(name, value);
        }
    }
    Ok(env)
}

fn referenced(
    store: &Store,
    pod: &Value,
    container: &Value,
    namespace: &str,
    from: &Value,
) -> Result<Option<String>, String> {
    for (field, kind, word, title) in [
        ("secretKeyRef", &SECRET, "secret", "Secret"),
        ("configMapKeyRef", &CONFIG_MAP, "configmap", "ConfigMap"),
    ] {
        let Some(r) = from.get(field).filter(|r| r.is_object()) else {
            continue;
        };
        let (name, key) = (str_at(r, "/name"), str_at(r, "/key"));
        let optional = r["optional"] == true;
        let Some(object) = store.get(kind, namespace, name) else {
            return if optional { Ok(None) } else { Err(format!("{word} {name:?} not found")) };
        };
        let bytes = if word == "secret" {
            secret_bytes(&object.value, key)
        } else {
            config_bytes(&object.value, key)
        };
        return match bytes {
            Some(b) => Ok(Some(String::from_utf8_lossy(&b).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {key} in {title} {namespace}/{name}")),
        };
    }
    if let Some(path) = from.pointer("/fieldRef/fieldPath").and_then(Value::as_str) {
        return field(pod, path).map(Some).ok_or_else(|| format!("field label not supported: {path}"));
    }
    if let Some(r) = from.get("resourceFieldRef").filter(|r| r.is_object()) {
        let name = str_at(r, "/containerName");
        let mut all = ["/spec/containers", "/spec/initContainers"].iter().flat_map(|list| list_at(pod, list));
        let of = match name {
            "" => container,
            _ => all.find(|c| str_at(c, "/name") == name).ok_or(format!("container {name} not found"))?,
        };
        return Ok(Some(resource(of, str_at(r, "/resource"))));
    }
    Ok(None)
}

/// A field of the pod, as the downward API names it.
pub(super) fn field(pod: &Value, path: &str) -> Option<String> {
    for map in ["labels", "annotations"] {
        let head = format!("metadata.{map}['");
        if let Some(key) = path.strip_prefix(&head).and_then(|p| p.strip_suffix("']")) {
            let value = pod["metadata"][map].get(key).and_then(Value::as_str);
            return Some(value.unwrap_or("").to_string());
        }
    }
    let pointer = match path {
        "metadata.name"
        | "metadata.namespace"
        | "metadata.uid"
        | "spec.nodeName"
        | "spec.serviceAccountName"
        | "status.podIP"
        | "status.hostIP" => {
            format!("/{}", path.replace('.', "/"))
        }
        _ => return None,
    };
    Some(str_at(pod, &pointer).to_string())
}

fn resource(container: &Value, name: &str) -> String {
    let Some((group, key)) = name.split_once('.') else {
        return "0".to_string();
    };
    let text = str_at(&container["resources"], &format!("/{group}/{key}"));
    if key == "cpu" {
        let millis = match text.strip_suffix('m') {
            Some(m) => m.parse().unwrap_or(0.0),
            None => text.parse::<f64>().unwrap_or(1.0) * 1000.0,
        };
        return format!("{}", (millis / 1000.0).ceil() as i64);
    }
    let units = [
        ("Ki", 1u64 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("k", 1000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
    ];
    for (suffix, factor) in units {
        if let Some(n) = text.strip_suffix(suffix) {
            return (n.parse::<u64>().unwrap_or(0) * factor).to_string();
        }
    }
    text.parse::<u64>().unwrap_or(0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_to_variables_are_expanded() {
        let env = Env(vec![("A".into(), "1".into())]);
        assert_eq!(expand("$(A)-$$(A)-$(B)-$A-$", &env), "1-$(A)-$(B)-$A-$");
    }

    #[test]
    fn variables_come_from_their_sources() {
        let store = Store::default();
        store
            .create(&SECRET, json!({"metadata": {"name": "s", "namespace": "n"}, "data": {"k": "dg=="}}))
            .expect("created");
        store
            .create(&CONFIG_MAP, json!({"metadata": {"name": "c", "namespace": "n"}, "data": {"K": "w"}}))
            .expect("created");
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a/b": "l"}}});
        let build = |c: Value| build(&store, &pod, &c);
        let env = build(json!({
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "no", "optional": true}}],
            "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "B", "value": "$(A)$(P_K)"},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}},
                {"name": "D", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": true}}},
                {"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
            ],
            "resources": {"limits": {"memory": "2Gi"}},
        }))
        .expect("complete");
        assert_eq!(env.get("B"), Some("vw"));
        assert_eq!(env.get("C"), Some("l"));
        assert_eq!(env.get("D"), None);
        assert_eq!(env.get("E"), Some("2147483648"));
        let missing = |name: &str, key: &str| {
            build(json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}]}))
        };
        let of = |name: &str| {
            build(json!({"env": [{"name": "X", "valueFrom": {"resourceFieldRef": {
                "containerName": name, "resource": "limits.cpu"}}}]}))
        };
        assert_eq!(of("other"), Err("container other not found".to_string()));
        assert_eq!(missing("t", "k"), Err("secret \"t\" not found".to_string()));
        assert_eq!(missing("s", "z"), Err("couldn't find key z in Secret n/s".to_string()));
    }
}
