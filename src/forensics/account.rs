//! What the Job says of the account that its CLI uses, and of where its sessions are.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar};

use super::words::one_line;
use crate::manifest::labels::{CLAUDE_CONTAINER, DATA_VOLUME};

/// Who serves the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Platform {
    /// AWS.
    Bedrock,
    /// Google.
    Vertex,
    /// Microsoft.
    Foundry,
}

/// What the Job says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Who serves the model, where it is not Anthropic.
    pub(crate) platform: Option<Platform>,
    /// Variables with a credential, with where each comes from. Never its value.
    credentials: Vec<(&'static str, String)>,
    /// The Secrets whose keys are all variables.
    all_of: Vec<String>,
    /// The agent's home, with its sessions and its login, is on a claimed volume.
    pub(crate) home_is_claimed: bool,
    /// The limit of the container's memory.
    pub(crate) memory_limit: Option<String>,
}

/// The variables with which the CLI authenticates, in the order in which it prefers them.
const CREDENTIALS: [&str; 4] =
    ["ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"];

impl Account {
    /// What this Job says.
    pub(crate) fn of(job: &Job) -> Self {
        let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        let Some(pod) = pod else { return Self::default() };
        let claude = pod.containers.iter().find(|container| container.name == CLAUDE_CONTAINER);
        let Some(claude) = claude else { return Self::default() };
        let volumes = pod.volumes.as_deref().unwrap_or_default();
        let secrets = claude.env_from.iter().flatten().filter_map(|source| source.secret_ref.as_ref());
        let limits = claude.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        Self {
            platform: platform(claude),
            credentials: CREDENTIALS
                .iter()
                .filter_map(|variable| Some((*variable, source(env(claude, variable)?)?)))
                .collect(),
            all_of: secrets.map(|secret| one_line(&secret.name)).collect(),
            home_is_claimed: volumes
                .iter()
                .any(|volume| volume.name == DATA_VOLUME && volume.persistent_volume_claim.is_some()),
            memory_limit: limits.and_then(|limits| limits.get("memory")).map(|limit| one_line(&limit.0)),
        }
    }

    /// Whether a variable with a credential is set.
    pub(crate) fn has(&self, variable: &str) -> bool {
        self.credentials.iter().any(|(known, _)| *known == variable)
    }

    /// Where the credential comes from, as a clause; `api_key_source` is what the CLI says that it uses.
    pub(crate) fn credential(&self, api_key_source: Option<&str>) -> Option<String> {
        let named = self.credentials.iter().find(|(variable, _)| Some(*variable) == api_key_source);
        // The CLI says `none` where it uses no API key.
        let other = || {
            let has_no_key = api_key_source == Some("none");
            self.credentials.iter().find(|(variable, _)| !(has_no_key && *variable == "ANTHROPIC_API_KEY"))
        };
        if let Some((variable, source)) = named.or_else(other) {
            return Some(format!("the credential is {source} (variable {variable})"));
        }
        if !self.all_of.is_empty() {
            return Some(format!(
                "the credential is a key of Secret {} (all its keys are variables), or the login in the agent's home",
                self.all_of.join(" or ")
            ));
        }
        self.home_is_claimed.then(|| {
            "no variable holds a credential: it is the login in the agent's home, /paperclip/.claude"
                .to_owned()
        })
    }
}

/// The last variable of that name: it is the one that counts in a pod.
fn env<'a>(container: &'a Container, name: &str) -> Option<&'a EnvVar> {
    container.env.iter().flatten().rfind(|var| var.name == name)
}

fn platform(claude: &Container) -> Option<Platform> {
    let value = |variable| env(claude, variable).and_then(|var| var.value.as_deref()).unwrap_or_default();
    let is_set = |variable| matches!(value(variable).trim(), "1" | "true");
    [
        (Platform::Bedrock, "CLAUDE_CODE_USE_BEDROCK"),
        (Platform::Vertex, "CLAUDE_CODE_USE_VERTEX"),
        (Platform::Foundry, "CLAUDE_CODE_USE_FOUNDRY"),
    ]
    .into_iter()
    .find(|(_, variable)| is_set(variable))
    .map(|(platform, _)| platform)
    .or_else(|| (!value("ANTHROPIC_BEDROCK_BASE_URL").trim().is_empty()).then_some(Platform::Bedrock))
}

/// Where a variable's value comes from.
fn source(var: &EnvVar) -> Option<String> {
    let Some(from) = &var.value_from else {
        return var.value.as_ref().filter(|value| !value.is_empty()).map(|_| "set by value".to_owned());
    };
    let (kind, object, key) = from
        .secret_key_ref
        .as_ref()
        .map(|secret| ("Secret", &secret.name, &secret.key))
        .or_else(|| from.config_map_key_ref.as_ref().map(|map| ("ConfigMap", &map.name, &map.key)))?;
    Some(format!("key {} of {kind} {}", one_line(key), one_line(object)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn account(claude: Value) -> Account {
        let mut container = json!({"name": "claude"});
        container.as_object_mut().unwrap().extend(claude.as_object().unwrap().clone());
        let containers = json!([{"name": "sidecar", "env": [{"name": "CLAUDE_CODE_USE_VERTEX", "value": "1"}]}, container]);
        let job = json!({"spec": {"template": {"spec": {"containers": containers,
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}}}});
        Account::of(&serde_json::from_value(job).unwrap())
    }

    fn secret(variable: &str) -> Value {
        json!({"name": variable, "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}})
    }

    #[test]
    fn credential_is_named_by_its_secret_and_key() {
        let key = "ANTHROPIC_API_KEY";
        let token = "CLAUDE_CODE_OAUTH_TOKEN";
        for (claude, source, expected) in [
            (
                json!({"env": [secret(key)]}),
                Some(key),
                "the credential is key k of Secret keys (variable ANTHROPIC_API_KEY)",
            ),
            (
                json!({"env": [secret(key)]}),
                None,
                "the credential is key k of Secret keys (variable ANTHROPIC_API_KEY)",
            ),
            (
                json!({"env": [secret(key), {"name": token, "value": "private"}]}),
                Some("none"),
                "the credential is set by value (variable CLAUDE_CODE_OAUTH_TOKEN)",
            ),
            (
                json!({"env": [{"name": key, "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}),
                Some(key),
                "the credential is key k of ConfigMap m (variable ANTHROPIC_API_KEY)",
            ),
            (
                json!({"envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "map"}}]}),
                Some(key),
                "the credential is a key of Secret all (all its keys are variables), or the login in the agent's home",
            ),
            (
                json!({}),
                Some("none"),
                "no variable holds a credential: it is the login in the agent's home, /paperclip/.claude",
            ),
        ] {
            let text = account(claude.clone()).credential(source).unwrap();
            assert_eq!(text, expected, "{claude}");
            assert!(!text.contains("private"));
        }
        assert_eq!(Account::default().credential(None), None, "a Job that was not seen says nothing");
    }

    #[test]
    fn platform_is_that_of_the_variables() {
        let of = |name: &str, value: &str| account(json!({"env": [{"name": name, "value": value}]})).platform;
        for (name, value, expected) in [
            ("CLAUDE_CODE_USE_BEDROCK", "1", Some(Platform::Bedrock)),
            ("CLAUDE_CODE_USE_BEDROCK", "true", Some(Platform::Bedrock)),
            ("CLAUDE_CODE_USE_BEDROCK", "0", None),
            ("CLAUDE_CODE_USE_VERTEX", "1", Some(Platform::Vertex)),
            ("CLAUDE_CODE_USE_FOUNDRY", "1", Some(Platform::Foundry)),
            ("ANTHROPIC_BEDROCK_BASE_URL", "https://bedrock", Some(Platform::Bedrock)),
            ("ANTHROPIC_BASE_URL", "https://gateway", None),
        ] {
            assert_eq!(of(name, value), expected, "{name}={value}");
        }
    }

    #[test]
    fn home_and_memory_are_those_of_the_pod() {
        let seen = account(json!({"resources": {"limits": {"memory": "4Gi"}}}));
        assert!(seen.home_is_claimed && !seen.has("ANTHROPIC_API_KEY"));
        assert_eq!(seen.memory_limit.as_deref(), Some("4Gi"));
        assert_eq!(Account::of(&Job::default()), Account::default());
    }
}
