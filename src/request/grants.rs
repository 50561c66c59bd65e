//! What the operator grants to agents: `PAPERCLIP_K8S_*` of the host's environment.
//!
//! An agent may be allowed to edit its own configuration, so no key of that configuration widens what is granted here
//! (docs/security.md).

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::HostEnv;
use super::config::Config;
use super::error::RequestError;
use super::template_limits;
use crate::js_semantics;

const KUBECONFIGS: &str = "PAPERCLIP_K8S_KUBECONFIGS";
const NAMESPACES: &str = "PAPERCLIP_K8S_NAMESPACES";
const SERVICE_ACCOUNTS: &str = "PAPERCLIP_K8S_SERVICE_ACCOUNTS";
const IMAGES: &str = "PAPERCLIP_K8S_IMAGES";
const POD_TEMPLATE: &str = "PAPERCLIP_K8S_POD_TEMPLATE";
const INSTRUCTIONS_DIRS: &str = "PAPERCLIP_K8S_INSTRUCTIONS_DIRS";
const INHERIT_ENV: &str = "PAPERCLIP_K8S_INHERIT_ENV";
const INHERIT_SECRET_MOUNTS: &str = "PAPERCLIP_K8S_INHERIT_SECRET_MOUNTS";
const VOLUME: &str = "PAPERCLIP_K8S_VOLUME";

/// What the operator grants. `None` is a list that is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants {
    /// `PAPERCLIP_K8S_KUBECONFIGS`: the only files that `kubeconfig` may name.
    pub(crate) kubeconfigs: Option<Vec<String>>,
    /// `PAPERCLIP_K8S_INSTRUCTIONS_DIRS`: folders beside the host's home for `instructionsFilePath`.
    pub(crate) instructions_dirs: Vec<String>,
    /// `PAPERCLIP_K8S_INHERIT_ENV`: variables that agents get although only the server needs them.
    pub(crate) inherit_env: Vec<String>,
    /// `PAPERCLIP_K8S_INHERIT_SECRET_MOUNTS`: mounts that agents get although they hold the server's keys.
    pub(crate) inherit_secret_mounts: Vec<String>,
    /// `PAPERCLIP_K8S_VOLUME`: how much of the shared volume agents get.
    pub(crate) volume: VolumeMode,
    namespaces: Option<Vec<String>>,
    service_accounts: Option<Vec<String>>,
    images: Option<Vec<String>>,
    pod_template: PodTemplateMode,
}

/// How much of the shared volume an agent gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum VolumeMode {
    /// All that the host's container has of it, as in 0.1.49.
    #[default]
    Whole,
    /// Claude's folder and the workspace, and the bundle to read.
    Scoped,
}

/// What `podTemplate` may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum PodTemplateMode {
    /// What reaches neither the node, nor Secrets, nor volumes of others.
    #[default]
    Restricted,
    /// Whatever the namespace admits.
    Any,
    /// Nothing.
    Off,
}

impl Grants {
    /// Reads the switches.
    pub(super) fn of(env: &HostEnv) -> Result<Self, RequestError> {
        Ok(Self {
            kubeconfigs: list(env, KUBECONFIGS, PATHS),
            instructions_dirs: list(env, INSTRUCTIONS_DIRS, PATHS).unwrap_or_default(),
            inherit_env: list(env, INHERIT_ENV, NAMES).unwrap_or_default(),
            inherit_secret_mounts: list(env, INHERIT_SECRET_MOUNTS, PATHS).unwrap_or_default(),
            volume: word(env, VOLUME, &[("whole", VolumeMode::Whole), ("scoped", VolumeMode::Scoped)])?,
            namespaces: list(env, NAMESPACES, NAMES),
            service_accounts: list(env, SERVICE_ACCOUNTS, NAMES),
            images: list(env, IMAGES, NAMES),
            pod_template: word(
                env,
                POD_TEMPLATE,
                &[
                    ("restricted", PodTemplateMode::Restricted),
                    ("any", PodTemplateMode::Any),
                    ("off", PodTemplateMode::Off),
                ],
            )?,
        })
    }

    /// Refuses settings that ask for more than is granted.
    pub(super) fn check(&self, config: &Config) -> Result<(), RequestError> {
        let closed = |key: &str, value: Option<&String>, list: Option<&Vec<String>>, variable: &str| match (
            value, list,
        ) {
            (Some(value), Some(list)) if !list.contains(value) => {
                let why = format!("is not on the operator's list {variable}");
                Err(RequestError::config(key, &Value::from(value.as_str()), why))
            }
            _ => Ok(()),
        };
        closed("namespace", config.namespace.as_ref(), self.namespaces.as_ref(), NAMESPACES)?;
        let (account, accounts) = (config.service_account_name.as_ref(), self.service_accounts.as_ref());
        closed("serviceAccountName", account, accounts, SERVICE_ACCOUNTS)?;
        self.check_image("image", config.image.as_deref())?;
        if self.limits_pod_template() {
            let mut annotations = config.pod_annotations.iter();
            if let Some((key, _)) = annotations.find(|(key, value)| template_limits::weakens(key, value)) {
                let why = format!("is not granted ({POD_TEMPLATE}=any in Paperclip's environment opens it)");
                return Err(RequestError::hidden(format!("podAnnotations[{key:?}]"), why));
            }
        }
        config.pod_template.as_deref().map_or(Ok(()), |template| self.check_template(template))
    }

    fn check_image(&self, key: &str, image: Option<&str>) -> Result<(), RequestError> {
        let (Some(image), Some(images)) = (image, &self.images) else { return Ok(()) };
        let allows = |entry: &String| match entry.strip_suffix('*') {
            Some(start) => image.starts_with(start),
            None => entry == image,
        };
        if images.iter().any(allows) {
            return Ok(());
        }
        let why = format!("is not on the operator's list {IMAGES}");
        Err(RequestError::config(key, &Value::from(image), why))
    }

    fn check_template(&self, template: &PodTemplateSpec) -> Result<(), RequestError> {
        match self.pod_template {
            PodTemplateMode::Off => {
                let why = format!("is not granted ({POD_TEMPLATE}=off in Paperclip's environment)");
                return Err(RequestError::hidden("podTemplate", why));
            }
            PodTemplateMode::Restricted => {
                if let Err(path) = template_limits::check(template) {
                    let why =
                        format!("is not granted ({POD_TEMPLATE}=any in Paperclip's environment opens it)");
                    return Err(RequestError::hidden(format!("podTemplate.{path}"), why));
                }
            }
            PodTemplateMode::Any => {}
        }
        for (path, image) in template_limits::images(template) {
            self.check_image(&format!("podTemplate.{path}"), Some(image))?;
        }
        Ok(())
    }

    /// Whether a pod gets no more than what `restricted` allows.
    pub(crate) fn limits_pod_template(&self) -> bool {
        self.pod_template != PodTemplateMode::Any
    }

    /// Whether the host's own service account is granted to agents by name.
    pub(crate) fn lists_service_account(&self, name: &str) -> bool {
        self.service_accounts.iter().flatten().any(|listed| listed == name)
    }
}

/// What separates the entries of a list of paths.
const PATHS: &[char] = &[':', '\n'];
/// What separates the entries of a list of names, which have no spaces.
const NAMES: &[char] = &[',', ' ', '\n', '\t'];

/// The entries of a list; `None` where the variable is not set or blank.
fn list(env: &HostEnv, variable: &str, separators: &[char]) -> Option<Vec<String>> {
    let text = js_semantics::trim(env.get(variable)?);
    let entries = text.split(separators).map(js_semantics::trim).filter(|entry| !entry.is_empty());
    (!text.is_empty()).then(|| entries.map(str::to_owned).collect())
}

/// One of some words; the first is the default.
fn word<T: Copy>(env: &HostEnv, variable: &str, words: &[(&str, T)]) -> Result<T, RequestError> {
    let text = js_semantics::trim(env.get(variable).unwrap_or_default());
    if text.is_empty() {
        return Ok(words[0].1);
    }
    match words.iter().find(|(word, _)| *word == text) {
        Some((_, meaning)) => Ok(*meaning),
        None => {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Err(RequestError::config(
                variable,
                &Value::from(text),
                format!("must be one of {}", words.join(", ")),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::request::Request;

    fn error(config: serde_json::Value, env: serde_json::Value) -> Option<String> {
        let request = json!({"agent": {"id": "a"}, "config": config, "hostEnv": env}).to_string();
        Request::parse(&request).err().map(|error| error.to_string())
    }

    #[test]
    fn closed_list_refuses_what_is_not_on_it() {
        for (key, granted, other, variable) in [
            ("namespace", "agents", "kube-system", "PAPERCLIP_K8S_NAMESPACES"),
            ("serviceAccountName", "agent", "admin", "PAPERCLIP_K8S_SERVICE_ACCOUNTS"),
            ("image", "registry/agent:1", "evil:1", "PAPERCLIP_K8S_IMAGES"),
        ] {
            let env = json!({variable: format!("other, {granted}")});
            assert_eq!(error(json!({key: granted}), env.clone()), None);
            assert_eq!(error(json!({}), env.clone()), None);
            assert_eq!(error(json!({key: other}), json!({variable: " "})), None, "blank is not set");
            let want = format!(
                "Invalid adapter config: {key} = \"{other}\": is not on the operator's list {variable}"
            );
            assert_eq!(error(json!({key: other}), env), Some(want.clone()));
            assert_eq!(error(json!({key: other}), json!({variable: "-"})), Some(want), "a list of nothing");
        }
    }

    #[test]
    fn image_list_takes_a_prefix_and_covers_sidecars() {
        let env = json!({"PAPERCLIP_K8S_IMAGES": "registry/agents/*"});
        assert_eq!(error(json!({"image": "registry/agents/a:1"}), env.clone()), None);
        let template = json!({"spec": {"containers": [{"name": "side", "image": "evil"}]}});
        let got = error(json!({"podTemplate": template}), env).unwrap();
        assert!(got.contains("podTemplate.spec.containers[0].image = \"evil\""), "{got}");
    }

    #[test]
    fn template_that_brings_secrets_back_is_refused() {
        let side = |with: serde_json::Value| {
            let mut side = json!({"name": "side", "image": "i"});
            side.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
            side
        };
        let containers = [
            side(
                json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]}),
            ),
            side(
                json!({"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}}]}),
            ),
            side(json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "c"}}]})),
            side(json!({"lifecycle": {"postStart": {"httpGet": {"port": 80, "host": "169.254.169.254"}}}})),
            side(json!({"lifecycle": {"preStop": {"tcpSocket": {"port": 80, "host": "db"}}}})),
            side(json!({"volumeMounts": [{"name": "prompt", "mountPath": "/x", "subPathExpr": "$(A)"}]})),
            side(json!({"volumeMounts": [{"name": "home", "mountPath": "/x"}]})),
            side(json!({"volumeDevices": [{"name": "v", "devicePath": "/x"}]})),
            side(json!({"securityContext": {"windowsOptions": {"hostProcess": true}}})),
            side(json!({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}})),
            side(json!({"securityContext": {"runAsNonRoot": false, "runAsUser": 7}})),
            side(json!({"env": [{"$patch": "delete", "name": "BETTER_AUTH_SECRET"}]})),
        ];
        let of_containers = containers.into_iter().flat_map(|container| {
            [json!({"containers": [container]}), json!({"initContainers": [container]})]
        });
        let claude = |with: serde_json::Value| {
            let mut claude = side(with);
            claude["name"] = "claude".into();
            json!({"containers": [claude]})
        };
        let volume = |source: serde_json::Value| {
            let mut volume = json!({"name": "v"});
            volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
            json!({"volumes": [volume]})
        };
        let specs = [
            claude(json!({"envFrom": [{"secretRef": {"name": "s"}}]})),
            claude(json!({"env": [{"name": "PAPERCLIP_API_KEY", "value": "forged"}]})),
            claude(json!({"volumeMounts": [{"name": "data", "mountPath": "/all"}]})),
            claude(json!({"command": ["sh"]})),
            claude(json!({"terminationMessagePath": "/paperclip/x"})),
            volume(json!({"projected": {"sources": [{"configMap": {"name": "c"}}]}})),
            volume(json!({"projected": {"sources": [{"clusterTrustBundle": {"name": "b", "path": "p"}}]}})),
            volume(json!({"projected": {"sources": [
                {"podCertificate": {"signerName": "s", "keyType": "ED25519", "credentialBundlePath": "p"}}]}})),
            volume(json!({"csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": true}})),
            volume(json!({"flexVolume": {"driver": "d"}})),
            volume(
                json!({"ephemeral": {"volumeClaimTemplate": {"spec": {"volumeAttributesClassName": "c"}}}}),
            ),
            json!({"volumes": [{"name": "prompt-secret", "emptyDir": {}}]}),
            json!({"ephemeralContainers": [{"name": "e", "image": "i"}]}),
            json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "of-another"}]}),
            json!({"serviceAccountName": "admin"}),
            json!({"automountServiceAccountToken": true}),
            json!({"hostUsers": false}),
            json!({"hostnameOverride": "paperclip"}),
            json!({"securityContext": {"sysctls": []}}),
        ];
        for spec in of_containers.chain(specs) {
            let got = error(json!({"podTemplate": {"spec": spec}}), json!({})).unwrap_or_default();
            assert!(got.contains("podTemplate."), "{spec}: {got}");
        }
        for metadata in [
            json!({"finalizers": ["example.com/stay"]}),
            json!({"ownerReferences": []}),
            json!({"name": "x"}),
        ] {
            let got = error(json!({"podTemplate": {"metadata": metadata}}), json!({})).unwrap_or_default();
            assert!(got.contains("podTemplate.metadata."), "{metadata}: {got}");
        }
    }

    #[test]
    fn template_text_that_grows_or_nests_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..7 {
            let of = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{of}]\n"));
        }
        let nested = |levels: usize| format!("spec: {}{}", "[".repeat(levels), "]".repeat(levels));
        for text in [bomb, nested(200), nested(100_000), "{a: ".repeat(100_000)] {
            let got = error(json!({"podTemplate": text}), json!({})).unwrap_or_default();
            assert!(got.contains("podTemplate"), "{}: {got}", &text[..20]);
        }
    }

    #[test]
    fn switches_among_the_variables_of_an_agent_open_nothing() {
        let config = json!({
            "env": {"PAPERCLIP_K8S_POD_TEMPLATE": "any", "PAPERCLIP_K8S_NAMESPACES": "kube-system"},
            "namespace": "kube-system",
            "podTemplate": {"spec": {"hostNetwork": true}},
        });
        assert!(error(config.clone(), json!({})).unwrap().contains("podTemplate.spec.hostNetwork"));
        let list = json!({"PAPERCLIP_K8S_NAMESPACES": "agents", "PAPERCLIP_K8S_POD_TEMPLATE": "any"});
        assert!(error(config, list).unwrap().contains("PAPERCLIP_K8S_NAMESPACES"));
    }

    #[test]
    fn pod_template_switch_opens_and_closes() {
        let node = json!({"podTemplate": {"spec": {"hostNetwork": true}}});
        let harmless = json!({"podTemplate": {"spec": {"hostname": "x"}}});
        let mode = |mode: &str| json!({"PAPERCLIP_K8S_POD_TEMPLATE": mode});
        let refused = error(node.clone(), json!({})).unwrap();
        assert!(refused.contains("podTemplate.spec.hostNetwork = (hidden): is not granted"), "{refused}");
        assert_eq!(error(harmless.clone(), json!({})), None);
        assert_eq!(error(node, mode("any")), None);
        let annotation = "container.apparmor.security.beta.kubernetes.io/claude";
        let unconfined = json!({"podAnnotations": {annotation: "unconfined"}});
        for closed in [json!({}), mode("off")] {
            let refused = error(unconfined.clone(), closed).unwrap();
            assert!(refused.contains(&format!("podAnnotations[{annotation:?}] = (hidden)")), "{refused}");
        }
        assert_eq!(error(unconfined, mode("any")), None);
        assert!(error(harmless.clone(), mode("off")).unwrap().contains("PAPERCLIP_K8S_POD_TEMPLATE=off"));
        assert!(error(harmless, mode("all")).unwrap().contains("must be one of restricted, any, off"));
        assert!(error(json!({}), json!({"PAPERCLIP_K8S_VOLUME": "half"})).unwrap().contains("whole, scoped"));
    }
}
