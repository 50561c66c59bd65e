//! Defaults and checks for submitted objects.

use crate::kinds::Kind;
use crate::status::{ApiError, ApiResult, FieldError};
use crate::util::{default, int_at, list_at, obj, str_at};
use base64::Engine;
use serde_json::{Value, json};
use std::collections::HashSet;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

fn dns_label(s: &str) -> bool {
    let b = s.as_bytes();
    let word = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    b.first().is_some_and(word) && b.last().is_some_and(word) && b.iter().all(|c| word(c) || *c == b'-')
}

fn dns_subdomain(s: &str) -> bool {
    s.split('.').all(dns_label)
}

fn qualified_part(s: &str) -> bool {
    let b = s.as_bytes();
    b.first().is_some_and(u8::is_ascii_alphanumeric)
        && b.last().is_some_and(u8::is_ascii_alphanumeric)
        && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

fn check_name(path: &str, name: &str, label: bool, out: &mut Vec<FieldError>) {
    let (max, ok, detail) =
        if label { (63, dns_label(name), LABEL) } else { (253, dns_subdomain(name), SUBDOMAIN) };
    if name.len() > max {
        let text = format!("must be no more than {max} bytes");
        out.push(FieldError::invalid(path, name, &text));
    }
    if !ok {
        out.push(FieldError::invalid(path, name, detail));
    }
}

fn check_labels(path: &str, labels: &Value, values: bool, out: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        let (prefix, name) = match key.rsplit_once('/') {
            Some((p, n)) => (Some(p), n),
            None => (None, key.as_str()),
        };
        if prefix.is_some_and(|p| !dns_subdomain(p)) {
            let text = format!("prefix part {SUBDOMAIN}");
            out.push(FieldError::invalid(path, key, &text));
        }
        if name.len() > 63 {
            out.push(FieldError::invalid(path, key, "name part must be no more than 63 bytes"));
        }
        if !qualified_part(name) {
            out.push(FieldError::invalid(path, key, QUALIFIED));
        }
        let value = value.as_str().unwrap_or("");
        if values && value.len() > 63 {
            out.push(FieldError::invalid(path, value, "must be no more than 63 bytes"));
        }
        if values && !value.is_empty() && !qualified_part(value) {
            out.push(FieldError::invalid(path, value, LABEL_VALUE));
        }
    }
}

/// Keys count in lower case, and all of it has a limit.
fn check_annotations(path: &str, annotations: &Value, out: &mut Vec<FieldError>) {
    const MOST: usize = 256 * 1024;
    let Some(map) = annotations.as_object() else { return };
    let lower = map.iter().map(|(key, value)| (key.to_ascii_lowercase(), value.clone())).collect();
    check_labels(path, &Value::Object(lower), false, out);
    let size: usize = map.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MOST {
        out.push(FieldError::too_long(path, MOST));
    }
}

/// Refuses values of types the server could not decode.
pub(crate) fn check_types(kind: &Kind, v: &Value) -> ApiResult<()> {
    let decode = |what: &str, place: &str| {
        ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: json: cannot unmarshal {what} into Go struct field {place}",
            kind.kind, kind.version, kind.kind
        ))
    };
    let name_of = |v: &Value| match v {
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        _ => "string",
    };
    let text = |v: Option<&Value>, place: &str| match v {
        None | Some(Value::Null | Value::String(_)) => Ok(()),
        Some(other) => Err(decode(name_of(other), &format!("{place} of type string"))),
    };
    let texts = |v: Option<&Value>, place: &str| match v {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(map)) => map.values().try_for_each(|x| text(Some(x), place)),
        Some(other) => Err(decode(name_of(other), &format!("{place} of type map[string]string"))),
    };
    if !v.is_object() {
        return Err(decode(name_of(v), "value"));
    }
    let meta = &v["metadata"];
    text(meta.get("name"), "ObjectMeta.metadata.name")?;
    texts(meta.get("labels"), "ObjectMeta.metadata.labels")?;
    texts(meta.get("annotations"), "ObjectMeta.metadata.annotations")?;
    let template = pod_template(kind);
    texts(v.pointer(&format!("{template}/metadata/labels")), "ObjectMeta.spec.template.metadata.labels")?;
    if matches!(kind.kind, "Secret") {
        texts(v.get("data"), "Secret.data")?;
        texts(v.get("stringData"), "Secret.stringData")?;
        for (key, value) in v["data"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or("");
            if base64::engine::general_purpose::STANDARD.decode(value).is_err() {
                return Err(decode(
                    "string",
                    &format!("Secret.data.{key}: illegal base64 data at input byte 0"),
                ));
            }
        }
    }
    if matches!(kind.kind, "Job" | "Pod") {
        let spec = format!("{template}/spec");
        texts(v.pointer(&format!("{spec}/nodeSelector")), "PodSpec.spec.nodeSelector")?;
        for group in ["containers", "initContainers"] {
            for c in list_at(v, &format!("{spec}/{group}")) {
                text(c.get("image"), "Container.image")?;
                for item in list_at(c, "/command") {
                    text(Some(item), "Container.command")?;
                }
                for item in list_at(c, "/args") {
                    text(Some(item), "Container.args")?;
                }
                for e in list_at(c, "/env") {
                    text(e.get("value"), "EnvVar.spec.template.spec.containers.env.value")?;
                }
            }
        }
        for key in
            ["backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "parallelism", "completions"]
        {
            if let Some(x) = v["spec"].get(key)
                && !x.is_null()
                && x.as_i64().is_none()
            {
                return Err(decode(name_of(x), &format!("JobSpec.spec.{key} of type int32")));
            }
        }
    }
    Ok(())
}

/// JSON pointer of the pod-shaped part of an object.
pub(crate) fn pod_template(kind: &Kind) -> &'static str {
    if kind.kind == "Job" { "/spec/template" } else { "" }
}

fn default_pod_spec(spec: &mut Value) {
    for (key, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
    ] {
        default(spec, key, value);
    }
    for group in ["initContainers", "containers"] {
        for c in spec[group].as_array_mut().into_iter().flatten() {
            let image = str_at(c, "/image").to_string();
            let tag = image.rsplit('/').next().unwrap_or("");
            let latest = tag.ends_with(":latest") || !tag.contains(':') && !tag.contains('@');
            default(c, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
            default(c, "terminationMessagePath", "/dev/termination-log");
            default(c, "terminationMessagePolicy", "File");
            default(c, "resources", json!({}));
        }
    }
    for v in spec["volumes"].as_array_mut().into_iter().flatten() {
        for key in ["secret", "configMap"] {
            if v.get(key).is_some_and(Value::is_object) {
                default(&mut v[key], "defaultMode", 420);
            }
        }
    }
    for key in ["containers", "initContainers", "volumes"] {
        if spec.get(key).is_some_and(Value::is_null) {
            crate::util::remove(spec, key);
        }
    }
}

/// A pod that limits a resource and asks for nothing asks for the limit; a template does not.
fn default_requests(spec: &mut Value) {
    for group in ["initContainers", "containers"] {
        for c in spec[group].as_array_mut().into_iter().flatten() {
            let limits = c["resources"]["limits"].as_object().cloned().unwrap_or_default();
            for (key, value) in limits {
                default(obj(obj(c, "resources"), "requests"), &key, value);
            }
        }
    }
}

/// Fills in what the server fills in.
pub(crate) fn set_defaults(kind: &Kind, v: &mut Value) {
    match kind.kind {
        "Secret" => {
            let extra = crate::util::remove(v, "stringData");
            for (key, text) in extra.as_ref().and_then(Value::as_object).into_iter().flatten() {
                let bytes = text.as_str().unwrap_or("").as_bytes();
                obj(v, "data")[key.as_str()] = base64::engine::general_purpose::STANDARD.encode(bytes).into();
            }
            default(v, "type", "Opaque");
        }
        "PersistentVolumeClaim" => {
            let spec = obj(v, "spec");
            default(spec, "volumeMode", "Filesystem");
        }
        "LimitRange" => crate::admission::limit_range_defaults(v),
        "ResourceQuota" => v["status"] = json!({}),
        "Namespace" => {
            let name = str_at(v, "/metadata/name").to_string();
            obj(obj(v, "metadata"), "labels")["kubernetes.io/metadata.name"] = name.into();
            obj(v, "spec")["finalizers"] = json!(["kubernetes"]);
            v["status"] = json!({"phase": "Active"});
        }
        "Pod" => {
            obj(v, "metadata")["generation"] = 1.into();
            let spec = obj(v, "spec");
            default_pod_spec(spec);
            default_requests(spec);
            default(spec, "serviceAccountName", "default");
            default(spec, "enableServiceLinks", true);
            default(spec, "priority", 0);
            let qos = qos_class(spec);
            let gated = !list_at(spec, "/schedulingGates").is_empty();
            v["status"] = json!({"phase": "Pending", "qosClass": qos});
            if gated {
                let text = "Scheduling is blocked due to non-empty scheduling gates";
                crate::ops::set_condition(&mut v["status"], "PodScheduled", false, "SchedulingGated", text);
                crate::ops::observe(v, "PodScheduled");
            }
        }
        "Job" => {
            let uid = crate::util::uuid();
            let name = str_at(v, "/metadata/name").to_string();
            let meta = obj(v, "metadata");
            meta["uid"] = uid.as_str().into();
            meta["generation"] = 1.into();
            let spec = obj(v, "spec");
            for (key, value) in [
                ("parallelism", json!(1)),
                ("completions", json!(1)),
                ("backoffLimit", json!(6)),
                ("completionMode", json!("NonIndexed")),
                ("suspend", json!(false)),
                ("manualSelector", json!(false)),
                ("podReplacementPolicy", json!("TerminatingOrFailed")),
            ] {
                default(spec, key, value);
            }
            spec["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
            let template = obj(spec, "template");
            let labels = obj(obj(template, "metadata"), "labels");
            for (key, value) in [
                ("batch.kubernetes.io/controller-uid", &uid),
                ("batch.kubernetes.io/job-name", &name),
                ("controller-uid", &uid),
                ("job-name", &name),
            ] {
                labels[key] = value.as_str().into();
            }
            let pod = obj(template, "spec");
            let had_policy = pod.get("restartPolicy").is_some_and(Value::is_string);
            default_pod_spec(pod);
            if !had_policy {
                pod["restartPolicy"] = "Always".into();
            }
            v["status"] = json!({});
        }
        _ => {}
    }
}

fn qos_class(spec: &Value) -> &'static str {
    let resources: Vec<&Value> = list_at(spec, "/containers").iter().map(|c| &c["resources"]).collect();
    let some = |r: &&Value, key: &str| r.get(key).and_then(Value::as_object).is_some_and(|m| !m.is_empty());
    let same = resources.iter().all(|r| {
        ["cpu", "memory"].iter().all(|k| {
            let limit = r.pointer(&format!("/limits/{k}"));
            let request = r.pointer(&format!("/requests/{k}"));
            limit.is_some() && (request.is_none() || request == limit)
        })
    });
    if resources.iter().all(|r| !some(r, "limits") && !some(r, "requests")) {
        "BestEffort"
    } else if same {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Checks an object after defaulting.
pub(crate) fn validate(kind: &Kind, v: &Value) -> ApiResult<()> {
    let mut out = Vec::new();
    let name = str_at(v, "/metadata/name");
    if name.is_empty() {
        out.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        check_name("metadata.name", name, kind.kind == "Namespace", &mut out);
    }
    check_labels("metadata.labels", &v["metadata"]["labels"], true, &mut out);
    check_annotations("metadata.annotations", &v["metadata"]["annotations"], &mut out);
    match kind.kind {
        "Pod" => pod_spec("spec", &v["spec"], false, &mut out),
        "Job" => job(v, &mut out),
        "Secret" | "ConfigMap" => keyed_data(v, &mut out),
        _ => {}
    }
    if out.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, name, &out)) }
}

fn keyed_data(v: &Value, out: &mut Vec<FieldError>) {
    let mut size = 0;
    for (key, value) in v["data"].as_object().into_iter().flatten() {
        size += value.as_str().map_or(0, str::len);
        let ok = !key.is_empty()
            && key.len() <= 253
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !ok {
            out.push(FieldError::invalid(
                format!("data[{key}]"),
                key,
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            ));
        }
    }
    let bytes = if v.get("type").is_some() { size / 4 * 3 } else { size };
    if bytes > 1 << 20 {
        out.push(FieldError::invalid("data", "", "Too long: may not be more than 1048576 bytes"));
    }
}

fn job(v: &Value, out: &mut Vec<FieldError>) {
    let spec = &v["spec"];
    for key in
        ["backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "parallelism", "completions"]
    {
        if let Some(n) = int_at(spec, &format!("/{key}")).filter(|n| *n < 0) {
            out.push(FieldError::invalid(
                format!("spec.{key}"),
                &n.to_string(),
                "must be greater than or equal to 0",
            ));
        }
    }
    check_labels("spec.template.labels", &spec["template"]["metadata"]["labels"], true, out);
    check_annotations("spec.template.annotations", &spec["template"]["metadata"]["annotations"], out);
    pod_spec("spec.template.spec", &spec["template"]["spec"], true, out);
}

fn pod_spec(path: &str, spec: &Value, in_job: bool, out: &mut Vec<FieldError>) {
    let mut volumes = HashSet::new();
    for (i, v) in list_at(spec, "/volumes").iter().enumerate() {
        let at = format!("{path}.volumes[{i}].name");
        let name = str_at(v, "/name");
        if name.is_empty() {
            out.push(FieldError::required(at, ""));
        } else if !volumes.insert(name) {
            out.push(FieldError::duplicate(at, name));
        } else {
            check_name(&at, name, true, out);
        }
        if let Some(secret) = v.get("secret")
            && str_at(secret, "/secretName").is_empty()
        {
            out.push(FieldError::required(format!("{path}.volumes[{i}].secret.secretName"), ""));
        }
    }
    if list_at(spec, "/containers").is_empty() {
        out.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut names = HashSet::new();
    for group in ["containers", "initContainers"] {
        for (i, c) in list_at(spec, &format!("/{group}")).iter().enumerate() {
            container(&format!("{path}.{group}[{i}]"), c, &volumes, &mut names, out);
        }
    }
    check_labels(&format!("{path}.nodeSelector"), &spec["nodeSelector"], true, out);
    let dns = str_at(spec, "/dnsPolicy");
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    if !policies.contains(&dns) {
        out.push(FieldError::not_supported(format!("{path}.dnsPolicy"), dns, &policies));
    }
    let policy = str_at(spec, "/restartPolicy");
    let known: &[&str] = if in_job { &["OnFailure", "Never"] } else { &["Always", "OnFailure", "Never"] };
    if !known.contains(&policy) {
        let at = format!("{path}.restartPolicy");
        out.push(if in_job && policy == "Always" {
            FieldError::required(at, "valid values: \"OnFailure\", \"Never\"")
        } else {
            FieldError::not_supported(at, policy, known)
        });
    }
}

fn container<'a>(
    path: &str,
    c: &'a Value,
    volumes: &HashSet<&str>,
    names: &mut HashSet<&'a str>,
    out: &mut Vec<FieldError>,
) {
    let name = str_at(c, "/name");
    let at = format!("{path}.name");
    if name.is_empty() {
        out.push(FieldError::required(at, ""));
    } else if !names.insert(name) {
        out.push(FieldError::duplicate(at, name));
    } else {
        check_name(&at, name, true, out);
    }
    if str_at(c, "/image").trim().is_empty() {
        out.push(FieldError::required(format!("{path}.image"), ""));
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    let policy = str_at(c, "/imagePullPolicy");
    if !policies.contains(&policy) {
        out.push(FieldError::not_supported(format!("{path}.imagePullPolicy"), policy, &policies));
    }
    for (i, e) in list_at(c, "/env").iter().enumerate() {
        let name = str_at(e, "/name");
        if name.is_empty() {
            out.push(FieldError::required(format!("{path}.env[{i}].name"), ""));
        } else if name.contains('=') || name.contains('\0') {
            out.push(FieldError::invalid(
                format!("{path}.env[{i}].name"),
                name,
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            ));
        }
        let from = e.get("valueFrom").is_some_and(Value::is_object);
        if from && !str_at(e, "/value").is_empty() {
            out.push(FieldError::invalid(
                format!("{path}.env[{i}].valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            ));
        }
    }
    let mut paths = HashSet::new();
    for (i, m) in list_at(c, "/volumeMounts").iter().enumerate() {
        let volume = str_at(m, "/name");
        let mount = str_at(m, "/mountPath");
        if volume.is_empty() {
            let at = format!("{path}.volumeMounts[{i}].name");
            out.push(FieldError::required(at, ""));
        } else if !volumes.contains(volume) {
            let at = format!("{path}.volumeMounts[{i}].name");
            out.push(FieldError::not_found(at, volume));
        }
        let at = format!("{path}.volumeMounts[{i}].mountPath");
        if mount.is_empty() {
            out.push(FieldError::required(at, ""));
        } else if !paths.insert(mount) {
            out.push(FieldError::invalid(at, mount, "must be unique"));
        }
    }
}

/// Checks what may not change.
pub(crate) fn validate_update(kind: &Kind, old: &Value, new: &Value) -> ApiResult<()> {
    let name = str_at(new, "/metadata/name");
    let mut out = Vec::new();
    let mut frozen = |path: &str| {
        if old.pointer(path) != new.pointer(path) {
            let dotted = path[1..].replace('/', ".");
            out.push(FieldError::invalid(dotted, "", "field is immutable"));
        }
    };
    match kind.kind {
        "Job" => {
            // The template of a suspended Job that never started may change where it is scheduled.
            for path in ["/spec/template", "/spec/selector", "/spec/completions"] {
                frozen(path);
            }
        }
        "Secret" => {
            frozen("/type");
            if old["immutable"] == true {
                frozen("/data");
            }
        }
        "Pod" => {
            for group in ["containers", "initContainers"] {
                let strip = |v: &Value| {
                    let mut list = v["spec"][group].clone();
                    for c in list.as_array_mut().into_iter().flatten() {
                        crate::util::remove(c, "image");
                    }
                    list
                };
                if strip(old) != strip(new) {
                    out.push(FieldError::invalid(
                        "spec",
                        "",
                        "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
                    ));
                    break;
                }
            }
        }
        _ => {}
    }
    if out.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, name, &out)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{JOB, SECRET};

    fn job_json() -> Value {
        json!({"metadata": {"name": "j", "namespace": "n"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "c", "image": "i:1", "command": ["true"]}],
        }}}})
    }

    fn verdict(change: impl FnOnce(&mut Value)) -> String {
        let mut v = job_json();
        change(&mut v);
        if let Err(e) = check_types(&JOB, &v) {
            return e.message;
        }
        set_defaults(&JOB, &mut v);
        validate(&JOB, &v).map_or_else(|e| e.message, |()| String::new())
    }

    #[test]
    fn invalid_jobs_are_refused() {
        assert_eq!(verdict(|_| ()), "");
        assert!(verdict(|v| v["metadata"]["name"] = json!("A")).contains("RFC 1123 subdomain"));
        assert!(verdict(|v| v["metadata"]["labels"] = json!({"a": "-x"})).contains("a valid label"));
        assert!(
            verdict(|v| v["spec"]["template"]["spec"]["restartPolicy"] = Value::Null)
                .contains("spec.template.spec.restartPolicy: Required value")
        );
        assert!(
            verdict(|v| v["spec"]["template"]["spec"]["volumes"] =
                json!([{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]))
            .contains("volumes[1].name: Duplicate value: \"a\"")
        );
        assert!(
            verdict(|v| {
                v["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
                    json!([{"name": "x", "mountPath": "/x"}]);
            })
            .contains("volumeMounts[0].name: Not found: \"x\"")
        );
        assert!(
            verdict(|v| {
                v["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "x", "value": 1}]);
            })
            .contains("cannot unmarshal number")
        );
    }

    #[test]
    fn invalid_secrets_and_changes_are_refused() {
        let mut s = json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}});
        set_defaults(&SECRET, &mut s);
        assert_eq!(s["data"]["k"], "dg==");
        assert!(s.get("stringData").is_none());
        let mut changed = job_json();
        changed["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other");
        let e = validate_update(&JOB, &job_json(), &changed).expect_err("frozen");
        assert!(e.code == 422 && e.message.contains("field is immutable"));
    }
}
