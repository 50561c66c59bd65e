//! What of the host's own pod only the server needs, and agents therefore do not get.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::api::core::v1::{EnvVar, Volume};

use super::SelfPod;
use super::env::literal;
use super::self_pod::Inherited;
use crate::expansion::references;
use crate::request::{HostEnv, Request};

/// Variables that only the server reads and that are, or lead to, its secrets: they sign agents' tokens and people's
/// sessions, open its database and its store of secrets, or prove to other services that it is the server. Taken from the
/// host's published files (2026.916.1).
pub(super) const VARIABLES: [&str; 22] = [
    "BETTER_AUTH_SECRET",
    "DATABASE_MIGRATION_URL",
    "DATABASE_URL",
    "PAPERCLIP_AGENT_JWT_SECRET",
    "PAPERCLIP_CLOUD_CONNECTOR_SEAL_PRIVATE_KEY",
    "PAPERCLIP_CLOUD_CONNECTOR_SIGN_PRIVATE_KEY",
    "PAPERCLIP_CLOUD_TENANT_SERVER_TOKEN",
    "PAPERCLIP_DECISION_SIGNING_SECRET",
    "PAPERCLIP_DEV_SERVER_STATUS_TOKEN",
    "PAPERCLIP_FEEDBACK_EXPORT_BACKEND_TOKEN",
    "PAPERCLIP_ID_CONNECTOR_SEAL_PRIVATE_KEY",
    "PAPERCLIP_ID_CONNECTOR_SIGN_PRIVATE_KEY",
    "PAPERCLIP_INTERNAL_SECRET",
    "PAPERCLIP_MANAGED_CONFIG",
    MASTER_KEY,
    MASTER_KEY_FILE,
    "PAPERCLIP_TELEMETRY_BACKEND_TOKEN",
    "PAPERCLIP_TEST_DATABASE_URL",
    "PAPERCLIP_TOOL_ACTION_SIGNING_SECRET",
    "PAPERCLIP_TOOL_OAUTH_CLIENT_SECRET",
    "PAPERCLIP_VERCEL_CONNECT_ACCESS_TOKEN",
    "PAPERCLIP_WORKSPACE_HANDOFF_SECRET",
];
const MASTER_KEY: &str = "PAPERCLIP_SECRETS_MASTER_KEY";
const MASTER_KEY_FILE: &str = "PAPERCLIP_SECRETS_MASTER_KEY_FILE";

/// Names of files that are the private key of a server, or the host's master key.
const KEY_FILES: [&str; 8] = [
    "key.pem",
    "master.key",
    "private.key",
    "privkey.pem",
    "server-key.pem",
    "server.key",
    "tls-key.pem",
    "tls.key",
];

/// Whether a file of this name is a key that only the server needs, or the value of a variable that only it reads.
pub(crate) fn is_key_file(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    KEY_FILES.contains(&name) || VARIABLES.contains(&name)
}

/// The file of the host's master key, where its environment names one.
pub(crate) fn master_key_file(env: &HostEnv) -> Option<&str> {
    env.get(MASTER_KEY_FILE).map(str::trim).filter(|path| !path.is_empty())
}

/// The Secret and the key in it that a variable's value is from.
fn secret_key(var: &EnvVar) -> Option<(&str, &str)> {
    let of = var.value_from.as_ref()?.secret_key_ref.as_ref()?;
    Some((&of.name, &of.key))
}

/// Variables that lead to a secret, and whose own value is none.
const LEADING: [&str; 2] = [MASTER_KEY_FILE, "PAPERCLIP_MANAGED_CONFIG"];

/// A shorter value may be another variable's by chance: a password that is the name of the product.
const LEAST_SECRET: usize = 12;

/// The values of these variables, as the host's process has them, and the passwords of those that are URLs.
fn secret_values(env: &HostEnv, withheld: &BTreeSet<String>) -> Vec<String> {
    let names = withheld.iter().filter(|name| !LEADING.contains(&name.as_str()));
    let values = names.filter_map(|name| env.get(name)).map(str::trim);
    let all = values.flat_map(|value| {
        let password = password_of(value);
        let decoded = password.map(percent_decoded);
        [Some(value.to_owned()), password.map(str::to_owned), decoded]
    });
    all.flatten().filter(|value| value.len() >= LEAST_SECRET).collect()
}

/// The values of all variables that only the server reads, as the host's process has them.
pub(crate) fn secrets_of_server(env: &HostEnv) -> Vec<String> {
    secret_values(env, &VARIABLES.iter().map(|name| (*name).to_owned()).collect())
}

/// The password in a URL, as it is written there.
fn password_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, _) = authority.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password)
}

/// What a part of a URL stands for.
fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut left) = (Vec::new(), text.as_bytes());
    while let Some((first, rest)) = left.split_first() {
        let digits =
            rest.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(decoded.unwrap_or(*first));
        left = if decoded.is_some() { &rest[2..] } else { rest };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The names of the variables whose value has one of these in it: copies that stand in the pod, in another Secret or
/// `ConfigMap`, or come from `envFrom`. A reference is none, because it becomes empty with what it refers to.
fn copies_of(secrets: &[String], env: &HostEnv, self_pod: &SelfPod) -> Vec<String> {
    let shows = |value: &str| secrets.iter().any(|secret| value.contains(secret.as_str()));
    let value = |var: &EnvVar| match &var.value_from {
        None => var.value.clone(),
        Some(_) => env.get(&var.name).map(str::to_owned),
    };
    let named = self_pod.env.iter().filter(|var| value(var).is_some_and(|value| shows(&value)));
    let others = env.vars.iter().filter(|(name, value)| {
        !self_pod.env_from.is_empty() && !self_pod.env.iter().any(|var| var.name == **name) && shows(value)
    });
    named.map(|var| var.name.clone()).chain(others.map(|(name, _)| name.clone())).collect()
}

/// The names of the variables that an agent does not get. What is in one of them it gets by no other name either.
fn withheld(request: &Request, self_pod: &SelfPod) -> BTreeSet<String> {
    let granted = |name: &str| request.grants.inherit_env.iter().any(|granted| granted == name);
    let mut withheld: BTreeSet<String> =
        VARIABLES.iter().filter(|name| !granted(name)).map(|name| (*name).to_owned()).collect();
    // A password that stands in a variable of its own, of which the URL of the database is made.
    let is_secret = |name: &str| self_pod.env.iter().any(|var| var.name == name && secret_key(var).is_some());
    loop {
        let holders: Vec<&EnvVar> = self_pod.env.iter().filter(|var| withheld.contains(&var.name)).collect();
        let parts = holders.iter().flat_map(|var| references(var.value.as_deref().unwrap_or_default()));
        let parts = parts.filter(|part| is_secret(part));
        let keys: Vec<(&str, &str)> = holders.iter().filter_map(|var| secret_key(var)).collect();
        let copies = self_pod.env.iter().filter(|var| secret_key(var).is_some_and(|key| keys.contains(&key)));
        let names = parts.chain(copies.map(|var| var.name.as_str())).map(str::to_owned);
        let secrets = secret_values(&request.host_env, &withheld);
        let names = names.chain(copies_of(&secrets, &request.host_env, self_pod));
        let more: Vec<String> = names.filter(|name| !withheld.contains(name) && !granted(name)).collect();
        if more.is_empty() {
            break;
        }
        withheld.extend(more);
    }
    // A Secret that is taken over whole has the same keys, under their own names.
    let named = |name: &str| self_pod.env.iter().any(|var| var.name == name);
    for from in &self_pod.env_from {
        let Some(secret) = &from.secret_ref else { continue };
        let keys = withheld_keys(self_pod, &withheld).into_iter().filter(|(of, _)| *of == secret.name);
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let names = keys.map(|(_, key)| format!("{prefix}{key}"));
        // Kubernetes makes no variable of a name that begins with a digit.
        let is_name = |name: &String| !name.starts_with(|first: char| first.is_ascii_digit());
        let names: Vec<String> =
            names.filter(|name| is_name(name) && !named(name) && !granted(name)).collect();
        withheld.extend(names);
    }
    withheld
}

/// The keys of Secrets that the withheld variables are made of.
fn withheld_keys<'a>(self_pod: &'a SelfPod, withheld: &BTreeSet<String>) -> Vec<(&'a str, &'a str)> {
    self_pod.env.iter().filter(|var| withheld.contains(&var.name)).filter_map(secret_key).collect()
}

/// The host's variables as an agent gets them, and the names of those that it does not get.
///
/// A variable that is withheld stays with an empty value where that changes something: it hides what `envFrom` brings, and
/// is what a reference to it becomes.
pub(super) fn variables(request: &Request, self_pod: &SelfPod) -> (Vec<EnvVar>, BTreeSet<String>) {
    let withheld = withheld(request, self_pod);
    let from_elsewhere = !self_pod.env_from.is_empty();
    let kept = |var: &&EnvVar| !withheld.contains(&var.name);
    let referred: BTreeSet<&str> = self_pod
        .env
        .iter()
        .filter(kept)
        .flat_map(|var| references(var.value.as_deref().unwrap_or_default()))
        .collect();
    let named: BTreeSet<&str> = self_pod.env.iter().map(|var| var.name.as_str()).collect();
    let unnamed = withheld.iter().filter(|name| from_elsewhere && !named.contains(name.as_str()));
    let mut vars: Vec<EnvVar> = unnamed.map(|name| literal(name, String::new())).collect();
    for var in &self_pod.env {
        if kept(&var) {
            vars.push(var.clone());
        } else if from_elsewhere || referred.contains(var.name.as_str()) {
            vars.push(literal(&var.name, String::new()));
        }
    }
    let has = |name: &String| {
        named.contains(name.as_str())
            || (from_elsewhere && request.host_env.get(name).is_some_and(|value| !value.is_empty()))
    };
    let left_out = withheld.iter().filter(|name| has(name)).cloned().collect();
    (vars, left_out)
}

/// Whether an agent does not get this mount: it holds the server's keys.
pub(super) fn holds_key(request: &Request, self_pod: &SelfPod, inherited: &Inherited) -> bool {
    let Inherited { volume, mount } = inherited;
    let at = mount.mount_path.trim_end_matches('/');
    if request.grants.inherit_secret_mounts.iter().any(|granted| granted.trim_end_matches('/') == at) {
        return false;
    }
    if master_key_file(&request.host_env).is_some_and(|master| Path::new(master).starts_with(at)) {
        return true;
    }
    if self_pod.key_mounts.contains(&mount.mount_path) {
        return true;
    }
    let sub_path = mount.sub_path.as_deref().filter(|path| !path.is_empty());
    if shows_withheld(request, self_pod, volume, sub_path) {
        return true;
    }
    if let Some(file) = sub_path {
        return is_key_file(file);
    }
    let of_secret = volume.secret.iter().flat_map(|secret| &secret.items);
    let projected = volume.projected.iter().flat_map(|all| &all.sources).flatten();
    let of_projected = projected.filter_map(|source| source.secret.as_ref()).flat_map(|secret| &secret.items);
    of_secret.chain(of_projected).flatten().any(|item| is_key_file(&item.path))
}

/// Whether a volume has a file with what a withheld variable is made of, below `sub_path` where there is one.
fn shows_withheld(request: &Request, self_pod: &SelfPod, volume: &Volume, sub_path: Option<&str>) -> bool {
    let of_secret = volume.secret.iter().map(|secret| (secret.secret_name.as_deref(), secret.items.as_ref()));
    let projected = volume.projected.iter().flat_map(|all| &all.sources).flatten();
    let of_projected = projected.filter_map(|source| source.secret.as_ref());
    let of_projected = of_projected.map(|secret| (Some(secret.name.as_str()), secret.items.as_ref()));
    let secrets: Vec<_> = of_secret.chain(of_projected).collect();
    let withheld = withheld(request, self_pod);
    withheld_keys(self_pod, &withheld).into_iter().any(|(secret, key)| {
        secrets.iter().filter(|(name, _)| *name == Some(secret)).any(|(_, items)| {
            let path = match items.filter(|items| !items.is_empty()) {
                Some(items) => items.iter().find(|item| item.key == key).map(|item| item.path.as_str()),
                None => Some(key),
            };
            path.is_some_and(|path| sub_path.is_none_or(|sub| Path::new(path).starts_with(sub)))
        })
    })
}

/// What the log says of what an agent does not get.
pub(super) fn note(variables: &BTreeSet<String>, mounts: &[&str]) -> Option<String> {
    let mut parts: Vec<String> = variables.iter().cloned().collect();
    parts.extend(mounts.iter().map(|path| format!("the mount at {path}")));
    (!parts.is_empty()).then(|| {
        format!(
            "Not given to the agent, because only the server needs it: {} (exceptions: PAPERCLIP_K8S_INHERIT_ENV, \
             PAPERCLIP_K8S_INHERIT_SECRET_MOUNTS)",
            parts.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use crate::manifest::{Manifest, Prepared, SelfPod, build};
    use crate::request::Request;

    fn manifest(container: Value, volumes: Value, host_env: Value) -> Manifest {
        let mut own = json!({"name": "paperclip", "image": "i"});
        own.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        let pod = serde_json::from_value(json!({"spec": {"containers": [own], "volumes": volumes}})).unwrap();
        let self_pod = SelfPod::read(&pod, "p", "n", &BTreeMap::new()).unwrap();
        let request = json!({"runId": "r", "agent": {"id": "a", "companyId": "c"}, "hostEnv": host_env});
        build(&Request::parse(&request.to_string()).unwrap(), &self_pod, &Prepared::default(), None).unwrap()
    }

    fn claude(manifest: &Manifest) -> Value {
        let job = serde_json::to_value(&manifest.job).unwrap();
        job["spec"]["template"]["spec"]["containers"][0].clone()
    }

    fn env(manifest: &Manifest) -> BTreeMap<String, Value> {
        let vars = claude(manifest)["env"].as_array().unwrap().clone();
        vars.into_iter()
            .map(|var| {
                let value = var.get("value").or(var.get("valueFrom")).cloned().unwrap_or_default();
                (var["name"].as_str().unwrap().to_owned(), value)
            })
            .collect()
    }

    fn secret(name: &str, key: &str) -> Value {
        json!({"name": name, "valueFrom": {"secretKeyRef": {"name": "s", "key": key}}})
    }

    #[test]
    fn secrets_of_the_server_are_not_inherited() {
        let vars = json!([
            secret("PAPERCLIP_AGENT_JWT_SECRET", "jwt"),
            {"name": "BETTER_AUTH_SECRET", "value": "b"},
            secret("DB_PASSWORD", "db"),
            {"name": "DB_HOST", "value": "db"},
            {"name": "DATABASE_URL", "value": "postgres://u:$(DB_PASSWORD)@$(DB_HOST)/p"},
            {"name": "COPY", "value": "x-$(BETTER_AUTH_SECRET)"},
            secret("ANTHROPIC_API_KEY", "a"),
            {"name": "AWS_SECRET_ACCESS_KEY", "value": "aws"},
        ]);
        let made = manifest(json!({"env": vars}), json!([]), json!({}));
        let env = env(&made);
        for name in ["PAPERCLIP_AGENT_JWT_SECRET", "DATABASE_URL", "DB_PASSWORD"] {
            assert!(!env.contains_key(name), "{name}");
        }
        assert_eq!(env["BETTER_AUTH_SECRET"], "", "what a reference to it becomes");
        for name in ["ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_HOST", "COPY"] {
            assert!(env.contains_key(name), "{name}");
        }
        let note = "Not given to the agent, because only the server needs it: BETTER_AUTH_SECRET, DATABASE_URL, DB_PASSWORD, \
                    PAPERCLIP_AGENT_JWT_SECRET (exceptions: PAPERCLIP_K8S_INHERIT_ENV, PAPERCLIP_K8S_INHERIT_SECRET_MOUNTS)";
        assert_eq!(made.notes, [note]);
    }

    #[test]
    fn secrets_of_the_server_from_env_from_are_hidden() {
        let from = json!({"envFrom": [{"secretRef": {"name": "all"}}]});
        let host = json!({"BETTER_AUTH_SECRET": "b"});
        let made = manifest(from, json!([]), host);
        let env = env(&made);
        assert_eq!(env["BETTER_AUTH_SECRET"], "");
        assert_eq!(env["PAPERCLIP_AGENT_JWT_SECRET"], "", "the Secret may get this key later");
        assert!(made.notes[0].contains("needs it: BETTER_AUTH_SECRET (exceptions"), "{:?}", made.notes);
    }

    #[test]
    fn secret_of_the_server_by_another_name_is_not_inherited() {
        let container = json!({
            "env": [
                secret("PAPERCLIP_AGENT_JWT_SECRET", "jwt"),
                secret("OLD_JWT", "jwt"),
                secret("DB_PASSWORD", "db"),
                secret("PGPASSWORD", "db"),
                {"name": "DATABASE_URL", "value": "postgres://u:$(DB_PASSWORD)@h/p"},
                secret("ANTHROPIC_API_KEY", "a"),
            ],
            "envFrom": [{"secretRef": {"name": "s"}}, {"prefix": "P_", "secretRef": {"name": "s"}},
                        {"secretRef": {"name": "other"}}],
        });
        let made = manifest(container, json!([]), json!({"jwt": "j"}));
        let env = env(&made);
        for name in ["OLD_JWT", "PGPASSWORD", "jwt", "P_jwt", "db", "P_db"] {
            assert_eq!(env[name], "", "{name}");
        }
        assert!(env["ANTHROPIC_API_KEY"].is_object() && !env.contains_key("a"), "a provider's key stays");
        let note =
            "needs it: DATABASE_URL, DB_PASSWORD, OLD_JWT, PAPERCLIP_AGENT_JWT_SECRET, PGPASSWORD, jwt (";
        assert!(made.notes[0].contains(note), "{:?}", made.notes);
    }

    #[test]
    fn value_of_the_server_in_another_variable_is_not_inherited() {
        let other =
            |name: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": "other", "key": name}}});
        let container = json!({
            "env": [
                secret("DATABASE_URL", "url"),
                secret("BETTER_AUTH_SECRET", "auth"),
                {"name": "PAPERCLIP_TOOL_OAUTH_CLIENT_SECRET", "value": "short"},
                {"name": "PGPASSWORD", "value": "p@ss word of the db"},
                {"name": "CONNECTION", "value": "host=db password=p@ss word of the db"},
                {"name": "OTHER_URL", "value": "mysql://u:p%40ss%20word%20of%20the%20db@h"},
                other("SESSION_KEY"),
                {"name": "FROM_MAP", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                other("ANTHROPIC_API_KEY"),
                {"name": "REFERENCE", "value": "x-$(BETTER_AUTH_SECRET)"},
                {"name": "SHORT", "value": "short"},
                {"name": "KEY_FILE", "value": "/keys/master.key"},
                {"name": "GRANTED", "value": "signs-all-sessions"},
            ],
            "envFrom": [{"secretRef": {"name": "unknown"}}],
            "volumeMounts": [{"name": "files", "mountPath": "/files"}],
        });
        let volumes = json!([{"name": "files", "secret": {"secretName": "other",
            "items": [{"key": "SESSION_KEY", "path": "harmless"}]}}]);
        let host = json!({
            "DATABASE_URL": "postgres://u:p%40ss%20word%20of%20the%20db@h/p",
            "BETTER_AUTH_SECRET": " signs-all-sessions\n",
            "PAPERCLIP_TOOL_OAUTH_CLIENT_SECRET": "short",
            "PAPERCLIP_SECRETS_MASTER_KEY_FILE": "/keys/master.key",
            "SESSION_KEY": "signs-all-sessions",
            "FROM_MAP": "{\"key\": \"signs-all-sessions\"}",
            "ANTHROPIC_API_KEY": "of-the-provider",
            "REFERENCE": "x-signs-all-sessions",
            "OF_ENV_FROM": "signs-all-sessions",
            "PATH": "/bin",
            "PAPERCLIP_K8S_INHERIT_ENV": "GRANTED",
        });
        let made = manifest(container, volumes, host);
        let env = env(&made);
        for name in ["PGPASSWORD", "CONNECTION", "OTHER_URL", "SESSION_KEY", "FROM_MAP", "OF_ENV_FROM"] {
            assert_eq!(env[name], "", "{name}");
        }
        for name in ["ANTHROPIC_API_KEY", "REFERENCE", "SHORT", "KEY_FILE", "GRANTED"] {
            assert_ne!(env[name], "", "{name}");
        }
        assert!(!env.contains_key("PATH"));
        assert_eq!(claude(&made)["volumeMounts"].as_array().unwrap().len(), 1, "the same key as a file");
        assert!(made.notes[0].contains("OF_ENV_FROM, OTHER_URL, "), "{:?}", made.notes);
    }

    #[test]
    fn password_of_a_url_is_found() {
        for (url, password) in [
            ("postgres://u:p@h/d", Some("p")),
            ("postgres://u:a:b@c@h:1/d?x=y@z", Some("a:b@c")),
            ("postgres://u@h/d", None),
            ("postgres://h/d:x@y", None),
            ("not a url", None),
        ] {
            assert_eq!(super::password_of(url), password, "{url}");
        }
        for (text, decoded) in
            [("a%40b", "a@b"), ("%", "%"), ("%4", "%4"), ("%zz%20", "%zz "), ("%c3%a9", "\u{e9}")]
        {
            assert_eq!(super::percent_decoded(text), decoded);
        }
    }

    #[test]
    fn secret_of_the_server_as_a_file_is_not_inherited() {
        let container = json!({
            "env": [secret("PAPERCLIP_AGENT_JWT_SECRET", "jwt"), secret("ANTHROPIC_API_KEY", "a")],
            "volumeMounts": [
                {"name": "all", "mountPath": "/all"},
                {"name": "all", "mountPath": "/one", "subPath": "jwt"},
                {"name": "all", "mountPath": "/provider", "subPath": "a"},
                {"name": "renamed", "mountPath": "/renamed"},
                {"name": "projected", "mountPath": "/projected"},
                {"name": "chosen", "mountPath": "/chosen"},
                {"name": "named", "mountPath": "/named"},
            ],
        });
        let items = |key: &str, path: &str| json!({"secretName": "s", "items": [{"key": key, "path": path}]});
        let volumes = json!([
            {"name": "all", "secret": {"secretName": "s"}},
            {"name": "renamed", "secret": items("jwt", "harmless")},
            {"name": "projected", "projected": {"sources": [{"secret": {"name": "s"}}]}},
            {"name": "chosen", "secret": items("a", "key")},
            {"name": "named", "secret": {"secretName": "t", "items": [{"key": "x", "path": "BETTER_AUTH_SECRET"}]}},
        ]);
        let made = manifest(container, volumes, json!({}));
        let job = claude(&made);
        let mounts = job["volumeMounts"].as_array().unwrap().iter();
        let mounts: Vec<&str> = mounts.map(|mount| mount["mountPath"].as_str().unwrap()).collect();
        assert_eq!(mounts, ["/tmp/prompt", "/provider", "/chosen"]);
    }

    #[test]
    fn operator_grants_a_variable_and_a_mount() {
        let container = json!({
            "env": [{"name": "DATABASE_URL", "value": "d"}],
            "volumeMounts": [{"name": "tls", "mountPath": "/tls"}],
        });
        let volumes = json!([{"name": "tls", "secret": {"secretName": "t", "items": [{"key": "k", "path": "tls.key"}]}}]);
        let grants = json!({"PAPERCLIP_K8S_INHERIT_ENV": "DATABASE_URL", "PAPERCLIP_K8S_INHERIT_SECRET_MOUNTS": "/tls/"});
        let made = manifest(container, volumes, grants);
        assert_eq!(env(&made)["DATABASE_URL"], "d");
        assert_eq!(claude(&made)["volumeMounts"][1]["mountPath"], "/tls");
        assert!(made.notes.is_empty(), "{:?}", made.notes);
    }

    #[test]
    fn mounts_with_keys_of_the_server_are_not_inherited() {
        let container = json!({"volumeMounts": [
            {"name": "keys", "mountPath": "/keys"},
            {"name": "tls", "mountPath": "/tls"},
            {"name": "tls", "mountPath": "/ca.crt", "subPath": "ca.crt"},
            {"name": "tls", "mountPath": "/k", "subPath": "tls.key"},
            {"name": "ssh", "mountPath": "/ssh"},
        ]});
        let volumes = json!([
            {"name": "keys", "secret": {"secretName": "m"}},
            {"name": "tls", "projected": {"sources": [{"secret": {"name": "t", "items": [{"key": "k", "path": "tls.key"}]}}]}},
            {"name": "ssh", "secret": {"secretName": "ssh"}},
        ]);
        let made = manifest(container, volumes, json!({"PAPERCLIP_SECRETS_MASTER_KEY_FILE": "/keys/master"}));
        let job = claude(&made);
        let mounts: Vec<&str> = job["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["mountPath"].as_str().unwrap())
            .collect();
        assert_eq!(mounts, ["/tmp/prompt", "/ca.crt", "/ssh"]);
        assert!(
            made.notes[0].contains("the mount at /keys, the mount at /tls, the mount at /k ("),
            "{:?}",
            made.notes
        );
    }
}
