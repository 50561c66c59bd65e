//! `podTemplate`: what an operator adds to the pods of Jobs, as a pod template.
//!
//! Checked here, so that a mistake is an error with the path of the field before anything is created; merged in
//! `manifest::overlay`.

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use serde_json::{Map, Value};

use super::config::{CONTROLLER_LABELS, check_label};
use super::error::RequestError;
use super::raw::Raw;
use super::syntax;
use crate::js_semantics;
use crate::manifest::labels::{
    CLAUDE_CONTAINER, INIT_CONTAINER, PROMPT_DIR, PROMPT_SECRET_VOLUME, PROMPT_VOLUME,
    RESERVED_ANNOTATION_PREFIX, RESERVED_LABEL_PREFIXES,
};

const KEY: &str = "podTemplate";

/// Variables that only the run sets.
const RUN_VARIABLES: [&str; 5] =
    ["HOME", "PAPERCLIP_AGENT_ID", "PAPERCLIP_COMPANY_ID", "PAPERCLIP_RUN_ID", "PAPERCLIP_API_KEY"];

/// Fields of the pod that would break a run, or that have a key of their own, and why they are refused.
const REFUSED_IN_POD: [(&str, &str); 5] = [
    ("serviceAccountName", "use the key serviceAccountName"),
    ("serviceAccount", "use the key serviceAccountName"),
    ("automountServiceAccountToken", "a pod gets a token when the key serviceAccountName is set"),
    ("activeDeadlineSeconds", "use the key timeoutSec"),
    ("ephemeralContainers", "Kubernetes adds these to running pods only"),
];

impl Raw<'_> {
    /// The pod template; `None` when there is none.
    pub(super) fn pod_template(&mut self) -> Result<Option<Box<PodTemplateSpec>>, RequestError> {
        let value = match self.get(KEY) {
            None => return Ok(None),
            Some(Value::String(text)) if js_semantics::trim(text).is_empty() => return Ok(None),
            Some(Value::String(text)) => from_text(text)?,
            Some(other @ Value::Object(_)) => other.clone(),
            Some(other) => {
                self.mistyped(KEY, other, "an object, or YAML or JSON text");
                return Ok(None);
            }
        };
        if value.is_null() {
            return Ok(None);
        }
        read(value).map(|template| Some(Box::new(template)))
    }
}

/// Reads YAML, of which JSON is a part. An error says where, and not what stands there: it may be a secret.
fn from_text(text: &str) -> Result<Value, RequestError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let at = error
            .location()
            .map_or_else(String::new, |at| format!(" (line {}, column {})", at.line(), at.column()));
        RequestError::hidden(KEY, format!("must be YAML or JSON{at}"))
    })
}

fn read(mut value: Value) -> Result<PodTemplateSpec, RequestError> {
    let Value::Object(top) = &value else {
        return Err(RequestError::hidden(KEY, "must be a pod template: an object with metadata and spec"));
    };
    if let Some(key) = top.keys().find(|key| !matches!(key.as_str(), "metadata" | "spec")) {
        return Err(refuse(key, "a pod template has metadata and spec"));
    }
    if let Some(path) = null(&value) {
        return Err(refuse(&path, "has no value"));
    }
    quantities_as_text(&mut value, "");
    let template: PodTemplateSpec = match serde_json::from_value(value.clone()) {
        Ok(template) => template,
        Err(_) => {
            let (path, why) = mistyped(&value);
            return Err(refuse(&path, &why));
        }
    };
    let known = serde_json::to_value(&template).unwrap_or_default();
    if let Some(path) = unknown(&value, &known) {
        return Err(refuse(&path, "is not a field of a pod template"));
    }
    check_metadata(top_object(&value, "metadata"))?;
    check_pod(top_object(&value, "spec"), &template)?;
    Ok(template)
}

fn top_object<'a>(value: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    value.get(key).and_then(Value::as_object)
}

/// An error that names the field. The value is not shown: it may be a secret.
fn refuse(path: &str, why: &str) -> RequestError {
    RequestError::hidden(format!("{KEY}.{path}"), why)
}

fn join(path: &str, key: &str) -> String {
    match (path.is_empty(), key.contains(['.', '/'])) {
        (true, _) => key.to_owned(),
        (false, true) => format!("{path}[{key:?}]"),
        (false, false) => format!("{path}.{key}"),
    }
}

/// The children of a value, with their paths.
fn children<'a>(value: &'a Value, path: &str) -> Vec<(String, &'a Value)> {
    match value {
        Value::Object(map) => map.iter().map(|(key, child)| (join(path, key), child)).collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, child)| (format!("{path}[{index}]"), child)).collect()
        }
        _ => Vec::new(),
    }
}

/// The path of the first null.
fn null(value: &Value) -> Option<String> {
    fn at(value: &Value, path: &str) -> Option<String> {
        if value.is_null() {
            return Some(path.to_owned());
        }
        children(value, path).into_iter().find_map(|(path, child)| at(child, &path))
    }
    at(value, "")
}

/// Kubernetes takes numbers for quantities; people write `cpu: 2`.
fn quantities_as_text(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) if matches!(key, "limits" | "requests" | "overhead") => {
            for amount in map.values_mut().filter(|amount| amount.is_number()) {
                *amount = Value::from(amount.to_string());
            }
        }
        Value::Object(map) => {
            for (key, child) in map {
                quantities_as_text(child, key);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| quantities_as_text(item, "")),
        Value::Number(number) if matches!(key, "sizeLimit" | "divisor") => {
            *value = Value::from(number.to_string());
        }
        _ => {}
    }
}

/// The path of the first field of a wrong type, and what is expected there.
fn mistyped(value: &Value) -> (String, String) {
    type Wrap<'a> = &'a dyn Fn(Value) -> Value;
    fn fails(value: Value) -> Option<String> {
        serde_json::from_value::<PodTemplateSpec>(value).err().map(|error| error.to_string())
    }
    fn at(value: &Value, path: &str, wrap: Wrap<'_>) -> (String, String) {
        let single = |path: &str, key: Option<&str>, child: &Value| -> Option<(String, String)> {
            let around = |child: Value| {
                wrap(match key {
                    Some(key) => Value::Object(Map::from_iter([(key.to_owned(), child)])),
                    None => Value::Array(vec![child]),
                })
            };
            fails(around(child.clone())).map(|_| at(child, path, &around))
        };
        let found = match value {
            Value::Object(map) => {
                map.iter().find_map(|(key, child)| single(&join(path, key), Some(key), child))
            }
            Value::Array(items) => {
                let mut items = items.iter().enumerate();
                items.find_map(|(index, child)| single(&format!("{path}[{index}]"), None, child))
            }
            _ => None,
        };
        found.unwrap_or_else(|| {
            let why = fails(wrap(value.clone())).unwrap_or_default();
            // The text after "expected" names a type; the text before it may quote a value.
            let expected =
                why.split("expected ").nth(1).map(|rest| rest.split(" at line").next().unwrap_or(rest));
            (
                path.to_owned(),
                expected.map_or_else(|| "has the wrong type".to_owned(), |what| format!("must be {what}")),
            )
        })
    }
    at(value, "", &|value| value)
}

/// The path of the first field that is in `value` and not in what was read of it.
fn unknown(value: &Value, read: &Value) -> Option<String> {
    fn at(value: &Value, read: &Value, path: &str) -> Option<String> {
        match (value, read) {
            (Value::Object(map), read) => map.iter().find_map(|(key, child)| {
                let path = join(path, key);
                match read.get(key) {
                    Some(read) => at(child, read, &path),
                    None => Some(path),
                }
            }),
            (Value::Array(items), Value::Array(read)) => {
                let mut pairs = items.iter().zip(read).enumerate();
                pairs.find_map(|(index, (child, read))| at(child, read, &format!("{path}[{index}]")))
            }
            _ => None,
        }
    }
    at(value, read, "")
}

fn check_metadata(metadata: Option<&Map<String, Value>>) -> Result<(), RequestError> {
    let Some(metadata) = metadata else { return Ok(()) };
    if let Some(key) = metadata.keys().find(|key| !matches!(key.as_str(), "labels" | "annotations")) {
        return Err(refuse(&format!("metadata.{key}"), "only labels and annotations can be set"));
    }
    for (key, value) in metadata.get("labels").and_then(Value::as_object).into_iter().flatten() {
        let path = join("metadata.labels", key);
        let reserved = RESERVED_LABEL_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
        if reserved || CONTROLLER_LABELS.contains(&key.as_str()) {
            return Err(refuse(&path, "this label is set by the adapter or by Kubernetes"));
        }
        check_label(&format!("{KEY}.metadata.labels"), key, value.as_str().unwrap_or_default())?;
    }
    for key in metadata.get("annotations").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        let path = join("metadata.annotations", key);
        if key.starts_with(RESERVED_ANNOTATION_PREFIX) {
            return Err(refuse(&path, "this annotation is set by the adapter"));
        }
        if !syntax::is_label_key(key) {
            return Err(refuse(&path, "is not the key of an annotation"));
        }
    }
    Ok(())
}

fn check_pod(spec: Option<&Map<String, Value>>, template: &PodTemplateSpec) -> Result<(), RequestError> {
    let (Some(fields), Some(pod)) = (spec, &template.spec) else { return Ok(()) };
    for (field, why) in REFUSED_IN_POD {
        if fields.contains_key(field) {
            return Err(refuse(&format!("spec.{field}"), why));
        }
    }
    if pod.restart_policy.as_deref().is_some_and(|policy| policy != "Never") {
        return Err(refuse("spec.restartPolicy", "is Never: a run is started once"));
    }
    for (index, volume) in pod.volumes.iter().flatten().enumerate() {
        let path = format!("spec.volumes[{index}].name");
        if [PROMPT_VOLUME, PROMPT_SECRET_VOLUME].contains(&volume.name.as_str()) {
            return Err(refuse(&path, "this volume is the adapter's"));
        }
        if !syntax::is_dns_label(&volume.name) {
            return Err(refuse(&path, "is not the name of a volume"));
        }
    }
    for (index, container) in pod.containers.iter().enumerate() {
        let path = format!("spec.containers[{index}]");
        check_container(&path, container)?;
        if container.name == CLAUDE_CONTAINER {
            check_claude(&path, container)?;
        } else if container.image.is_none() {
            return Err(refuse(&format!("{path}.image"), "is missing"));
        }
    }
    for (index, container) in pod.init_containers.iter().flatten().enumerate() {
        let path = format!("spec.initContainers[{index}]");
        check_container(&path, container)?;
        if [CLAUDE_CONTAINER, INIT_CONTAINER].contains(&container.name.as_str()) {
            return Err(refuse(&format!("{path}.name"), "this name is the adapter's"));
        }
        if container.image.is_none() {
            return Err(refuse(&format!("{path}.image"), "is missing"));
        }
    }
    Ok(())
}

fn check_container(path: &str, container: &Container) -> Result<(), RequestError> {
    if !syntax::is_dns_label(&container.name) {
        return Err(refuse(&format!("{path}.name"), "must be the name of a container"));
    }
    for (index, var) in container.env.iter().flatten().enumerate() {
        if var.name.is_empty() || var.name.contains(['=', '\0']) {
            return Err(refuse(&format!("{path}.env[{index}].name"), "is not the name of a variable"));
        }
        if var.value.as_deref().is_some_and(|value| value.contains('\0')) {
            return Err(refuse(&format!("{path}.env[{index}].value"), super::raw::NUL));
        }
    }
    Ok(())
}

/// What would keep the CLI from running, or from being that of this run.
fn check_claude(path: &str, claude: &Container) -> Result<(), RequestError> {
    let command = "the adapter starts the CLI: use the key extraArgs";
    for (field, is_set, why) in [
        ("command", claude.command.is_some(), command),
        ("args", claude.args.is_some(), command),
        ("restartPolicy", claude.restart_policy.is_some(), "a run is started once"),
        ("terminationMessagePath", claude.termination_message_path.is_some(), "the adapter reads it"),
    ] {
        if is_set {
            return Err(refuse(&format!("{path}.{field}"), why));
        }
    }
    for (index, var) in claude.env.iter().flatten().enumerate() {
        if RUN_VARIABLES.contains(&var.name.as_str()) {
            return Err(refuse(&format!("{path}.env[{index}].name"), "this variable is set by the run"));
        }
    }
    for (index, mount) in claude.volume_mounts.iter().flatten().enumerate() {
        let at = mount.mount_path.trim_end_matches('/');
        if at == PROMPT_DIR || at.starts_with(&format!("{PROMPT_DIR}/")) {
            return Err(refuse(&format!("{path}.volumeMounts[{index}].mountPath"), "the prompt is there"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(value: Value) -> String {
        read(value).unwrap_err().to_string()
    }

    #[test]
    fn yaml_json_and_object_say_the_same() {
        let yaml = "spec:\n  containers:\n  - name: claude\n    resources: {limits: {nvidia.com/gpu: 1}}\n";
        let want = json!({"spec": {"containers": [
            {"name": "claude", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}});
        for text in [yaml.to_owned(), want.to_string()] {
            let read = read(from_text(&text).unwrap()).unwrap();
            assert_eq!(serde_json::to_value(read).unwrap(), want);
        }
    }

    #[test]
    fn error_names_the_path_and_hides_the_value() {
        for (template, want) in [
            (
                json!({"template": {}}),
                "podTemplate.template = (hidden): a pod template has metadata and spec",
            ),
            (
                json!({"spec": {"foo": 1}}),
                "podTemplate.spec.foo = (hidden): is not a field of a pod template",
            ),
            (
                json!({"spec": {"containers": [{"name": "x", "image": "i"}, {"name": "y", "image": "i", "env": [{"name": "A", "vale": "s3cret"}]}]}}),
                "podTemplate.spec.containers[1].env[0].vale = (hidden): is not a field of a pod template",
            ),
            (
                json!({"spec": {"volumes": [{"name": "a", "emptyDir": {"medium": 5}}]}}),
                "podTemplate.spec.volumes[0].emptyDir.medium = (hidden): must be a string",
            ),
            (json!({"spec": {"hostNetwork": null}}), "podTemplate.spec.hostNetwork = (hidden): has no value"),
            (
                json!({"metadata": {"annotations": {"a.b/c": 1}}}),
                "podTemplate.metadata.annotations[\"a.b/c\"] = (hidden): must be a string",
            ),
        ] {
            let got = error(template);
            assert_eq!(got, format!("Invalid adapter config: {want}"));
        }
        let text = from_text("spec: [s3cret\n").unwrap_err().to_string();
        assert!(
            text.starts_with("Invalid adapter config: podTemplate = (hidden): must be YAML or JSON (line "),
            "{text}"
        );
        assert!(!text.contains("s3cret"));
    }

    #[test]
    fn what_would_break_a_run_is_refused_by_name() {
        let claude = |with: Value| {
            let mut container = json!({"name": "claude"});
            container.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
            json!({"spec": {"containers": [container]}})
        };
        for (template, path) in [
            (claude(json!({"command": ["sh"]})), "spec.containers[0].command"),
            (claude(json!({"args": ["x"]})), "spec.containers[0].args"),
            (claude(json!({"env": [{"name": "HOME", "value": "/x"}]})), "spec.containers[0].env[0].name"),
            (
                claude(json!({"volumeMounts": [{"name": "x", "mountPath": "/tmp/prompt/"}]})),
                "spec.containers[0].volumeMounts[0].mountPath",
            ),
            (json!({"spec": {"restartPolicy": "OnFailure"}}), "spec.restartPolicy"),
            (json!({"spec": {"serviceAccountName": "x"}}), "spec.serviceAccountName"),
            (json!({"spec": {"automountServiceAccountToken": true}}), "spec.automountServiceAccountToken"),
            (json!({"spec": {"activeDeadlineSeconds": 1}}), "spec.activeDeadlineSeconds"),
            (json!({"spec": {"containers": [{"image": "i"}]}}), "spec.containers[0].name"),
            (json!({"spec": {"containers": [{"name": "side"}]}}), "spec.containers[0].image"),
            (
                json!({"spec": {"initContainers": [{"name": "claude", "image": "i"}]}}),
                "spec.initContainers[0].name",
            ),
            (json!({"spec": {"volumes": [{"name": "prompt", "emptyDir": {}}]}}), "spec.volumes[0].name"),
            (json!({"metadata": {"name": "x"}}), "metadata.name"),
            (
                json!({"metadata": {"labels": {"paperclip.io/run-id": "x"}}}),
                "metadata.labels[\"paperclip.io/run-id\"]",
            ),
            (json!({"metadata": {"labels": {"job-name": "x"}}}), "metadata.labels.job-name"),
            (
                json!({"metadata": {"annotations": {"paperclip.io/end-token": "x"}}}),
                "metadata.annotations[\"paperclip.io/end-token\"]",
            ),
        ] {
            let got = error(template);
            assert!(
                got.starts_with(&format!("Invalid adapter config: podTemplate.{path} = ")),
                "{path}: {got}"
            );
        }
    }
}
