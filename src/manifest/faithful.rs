//! Whether the agent's variables and files are those of the host's container, evaluated as a kubelet does.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, PodSpec, Volume};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::manifest::Prepared;

/// Objects of a namespace: kind and name → key → value.
type World = BTreeMap<(&'static str, String), BTreeMap<String, String>>;

/// What `$(NAME)` becomes, as `third_party/forked/golang/expansion` of Kubernetes has it.
fn expand(input: &str, defined: &BTreeMap<String, String>) -> String {
    let bytes = input.as_bytes();
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while at + 1 < bytes.len() {
        if bytes[at] != b'$' {
            at += 1;
            continue;
        }
        out.push_str(&input[copied..at]);
        let read = match bytes[at + 1] {
            b'$' => {
                out.push('$');
                1
            }
            b'(' => match input[at + 2..].find(')') {
                Some(end) => {
                    let name = &input[at + 2..at + 2 + end];
                    out.push_str(&defined.get(name).cloned().unwrap_or_else(|| format!("$({name})")));
                    end + 2
                }
                None => {
                    out.push_str("$(");
                    1
                }
            },
            _ => {
                out.push('$');
                0
            }
        };
        at += read + 1;
        copied = at;
    }
    out + &input[copied..]
}

/// A container's variables, or why the kubelet cannot create it.
fn variables(world: &World, container: &Container) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.clone().unwrap_or_default();
        let (kind, name, optional) = match (&from.secret_ref, &from.config_map_ref) {
            (Some(of), _) => ("secret", &of.name, of.optional),
            (_, Some(of)) => ("configmap", &of.name, of.optional),
            _ => continue,
        };
        match world.get(&(kind, name.clone())) {
            Some(data) => {
                env.extend(data.iter().map(|(key, value)| (format!("{prefix}{key}"), value.clone())));
            }
            None if optional == Some(true) => {}
            None => return Err(format!("{kind} {name} not found")),
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (value, None) => Some(expand(value.as_deref().unwrap_or_default(), &env)),
            (_, Some(source)) => {
                let (kind, name, key, optional) = match (&source.secret_key_ref, &source.config_map_key_ref) {
                    (Some(of), _) => ("secret", &of.name, &of.key, of.optional),
                    (_, Some(of)) => ("configmap", &of.name, &of.key, of.optional),
                    _ => return Err(format!("{} has no source", var.name)),
                };
                let found = world.get(&(kind, name.clone())).and_then(|data| data.get(key)).cloned();
                if found.is_none() && optional != Some(true) {
                    return Err(format!("{kind} {name}/{key} not found"));
                }
                found
            }
        };
        if let Some(value) = value {
            env.insert(var.name.clone(), value);
        }
    }
    Ok(env)
}

/// A file: from which object, which of its keys, with which mode.
type File = (String, String, Option<i32>);

/// The files of a container that come from Secrets and ConfigMaps, by path.
fn files(world: &World, pod: &PodSpec, container: &Container) -> Result<BTreeMap<String, File>, String> {
    let mut files = BTreeMap::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name);
        let volume = volume.ok_or_else(|| format!("no volume {}", mount.name))?;
        let root = mount.mount_path.trim_end_matches('/');
        for (path, file) in contents(world, volume)? {
            match mount.sub_path.as_deref().filter(|sub| !sub.is_empty()) {
                None => drop(files.insert(format!("{root}/{path}"), file)),
                Some(sub) if sub == path => drop(files.insert(root.to_owned(), file)),
                Some(_) => {}
            }
        }
    }
    Ok(files)
}

fn contents(world: &World, volume: &Volume) -> Result<Vec<(String, File)>, String> {
    let volume = serde_json::to_value(volume).unwrap();
    if let Some(projected) = volume.get("projected") {
        let mut files = Vec::new();
        for source in projected["sources"].as_array().unwrap() {
            let mut source = source.clone();
            if let Some(name) =
                source.get_mut("secret").and_then(|secret| secret.as_object_mut()?.remove("name"))
            {
                source["secret"]["secretName"] = name;
            }
            for kind in ["secret", "configMap"] {
                if source.get(kind).is_some() && projected["defaultMode"].is_i64() {
                    source[kind]["defaultMode"] = projected["defaultMode"].clone();
                }
            }
            source["name"] = json!("projected");
            files.extend(contents(world, &serde_json::from_value(source).unwrap())?);
        }
        return Ok(files);
    }
    if let Some(bundle) = volume.get("clusterTrustBundle") {
        let text = |key: &str| bundle[key].as_str().unwrap().to_owned();
        return Ok(vec![(text("path"), (text("name"), "bundle".to_owned(), None))]);
    }
    let (kind, source, name) = match (volume.get("secret"), volume.get("configMap")) {
        (Some(secret), _) => ("secret", secret, &secret["secretName"]),
        (_, Some(map)) => ("configmap", map, &map["name"]),
        _ => return Ok(Vec::new()),
    };
    let name = name.as_str().unwrap().to_owned();
    let Some(data) = world.get(&(kind, name.clone())) else {
        return if source["optional"] == true { Ok(Vec::new()) } else { Err(format!("no {name}")) };
    };
    let mode = source["defaultMode"].as_i64().map(|mode| mode as i32);
    let Some(items) = source["items"].as_array() else {
        let file = |key: &String| (key.clone(), (name.clone(), key.clone(), mode));
        return Ok(data.keys().map(file).collect());
    };
    let mut files = Vec::new();
    for item in items {
        let (key, path) = (item["key"].as_str().unwrap(), item["path"].as_str().unwrap());
        let mode = item["mode"].as_i64().map(|mode| mode as i32).or(mode);
        if data.contains_key(key) {
            files.push((path.to_owned(), (name.clone(), key.to_owned(), mode)));
        } else if source["optional"] != true {
            return Err(format!("{name} has no {key}"));
        }
    }
    Ok(files)
}

fn world() -> World {
    let data = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    World::from([
        (("secret", "s".to_owned()), data(&[("A", "s-a $(B)"), ("B", "s$$b"), ("k", "it's")])),
        (("secret", "t".to_owned()), data(&[("C", ""), ("X_A", "t")])),
        (("configmap", "m".to_owned()), data(&[("A", "m-a"), ("D", "m-d"), ("k", "$")])),
    ])
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["A", "B", "C", "D", "X_A", "HOME", "PAPERCLIP_RUN_ID"]).prop_map(str::to_owned)
}

/// Values with references, escapes and their fragments.
fn value() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "$(A)", "$(B)", "$(C)", "$(D)", "$(X_A)", "$(NOPE)", "$(HOME)", "$", "$$", "(", ")", "x", "é", " ",
        "$()",
    ]);
    prop::collection::vec(part, 0..5)
        .prop_map(|parts| parts.concat())
        // A kubelet tears such a character apart, so that no host runs with it.
        .prop_filter("a host can have it", |text| !text.contains("$é"))
}

fn variable() -> impl Strategy<Value = Value> {
    let source = prop::sample::select(vec![
        json!({"secretKeyRef": {"name": "s", "key": "A"}}),
        json!({"secretKeyRef": {"name": "s", "key": "k", "optional": true}}),
        json!({"secretKeyRef": {"name": "none", "key": "A", "optional": true}}),
        json!({"configMapKeyRef": {"name": "m", "key": "k"}}),
        json!({"configMapKeyRef": {"name": "m", "key": "none", "optional": true}}),
    ]);
    prop_oneof![
        3 => (name(), value()).prop_map(|(name, value)| json!({"name": name, "value": value})),
        1 => name().prop_map(|name| json!({"name": name})),
        2 => (name(), source).prop_map(|(name, source)| json!({"name": name, "valueFrom": source})),
    ]
}

fn env_from() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"secretRef": {"name": "s"}}),
        json!({"secretRef": {"name": "t"}}),
        json!({"prefix": "X_", "configMapRef": {"name": "m"}}),
        json!({"configMapRef": {"name": "m"}}),
        json!({"secretRef": {"name": "none", "optional": true}}),
    ])
}

fn volume() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"secret": {"secretName": "s"}}),
        json!({"secret": {"secretName": "s", "defaultMode": 256, "items": [{"key": "A", "path": "a/b"}]}}),
        json!({"secret": {"secretName": "s", "items": [{"key": "k", "path": "k.pem", "mode": 288}]}}),
        json!({"secret": {"secretName": "none", "optional": true}}),
        json!({"secret": {"secretName": "t", "optional": true, "items": [{"key": "none", "path": "x"}]}}),
        json!({"configMap": {"name": "m", "defaultMode": 420}}),
        json!({"configMap": {"name": "m", "items": [{"key": "k", "path": "k.pem"}]}}),
        json!({"projected": {"defaultMode": 288, "sources": [
            {"secret": {"name": "s", "items": [{"key": "A", "path": "a/b"}]}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {"serviceAccountToken": {"path": "token"}},
            {"clusterTrustBundle": {"name": "corp", "path": "corp/ca.pem"}},
            {"configMap": {"name": "m", "items": [{"key": "k", "path": "k.pem"}]}}]}}),
        json!({"projected": {"sources": [{"secret": {"name": "none", "optional": true}}, {"configMap": {"name": "m"}}]}}),
        json!({"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
    ])
}

fn mount() -> impl Strategy<Value = (usize, Option<&'static str>)> {
    (0..4usize, prop::sample::select(vec![None, Some("k.pem"), Some("A"), Some("a/b")]))
}

prop_compose! {
    fn own_pod()(
        env in prop::collection::vec(variable(), 0..9),
        env_from in prop::collection::vec(env_from(), 0..3),
        volumes in prop::collection::vec(volume(), 4),
        mounts in prop::collection::vec(mount(), 0..5),
    ) -> Pod {
        let volumes: Vec<Value> = volumes.into_iter().enumerate().map(|(at, mut volume)| {
            volume["name"] = json!(["data", "prompt", "v", "v-2"][at]);
            volume
        }).collect();
        let mounts: Vec<Value> = mounts.into_iter().enumerate().map(|(at, (volume, sub))| json!({
            "name": volumes[volume]["name"], "mountPath": format!("/etc/m{at}"), "subPath": sub.unwrap_or_default(),
        })).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "paperclip-0", "namespace": "n"},
            "spec": {
                "volumes": volumes,
                "containers": [{"name": "paperclip", "image": "i", "env": env, "envFrom": env_from, "volumeMounts": mounts}]},
        })).unwrap()
    }
}

/// The variables that the run sets, whatever the host's container has (docs/pod.md).
const OF_THE_RUN: [&str; 7] = [
    "HOME",
    "PAPERCLIP_AGENT_ID",
    "PAPERCLIP_COMPANY_ID",
    "PAPERCLIP_RUN_ID",
    "PAPERCLIP_WAKE_REASON",
    "PAPERCLIP_API_KEY",
    "OF_CONFIG",
];

fn agent_of(job: &Job) -> (&PodSpec, &Container) {
    let pod = job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    (pod, pod.containers.iter().find(|container| container.name == CLAUDE_CONTAINER).unwrap())
}

fn with_secrets(mut world: World, secrets: &[RunSecret]) -> World {
    world.extend(secrets.iter().map(|secret| (("secret", secret.name.clone()), secret.data.clone())));
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn agent_has_the_variables_and_files_of_the_host(pod in own_pod(), wake in "[$()A-D é']{0,8}", configured in value()) {
        let world = world();
        let spec = pod.spec.as_ref().unwrap();
        let Ok(host) = variables(&world, &spec.containers[0]) else { return Ok(()) };
        let Ok(host_files) = files(&world, spec, &spec.containers[0]) else { return Ok(()) };

        let self_pod = SelfPod::read(&pod, "paperclip-0", "n", &BTreeMap::new()).unwrap();
        let request = Request::parse(&json!({
            "runId": "run-1", "agent": {"id": "a", "companyId": "c", "name": "n"}, "authToken": "tok$(A)",
            "config": {"env": {"OF_CONFIG": configured}, "extraArgs": ["--x", "$(A)"]},
            "context": {"wakeReason": wake},
        }).to_string()).unwrap();
        let prepared = Prepared {
            base_env: [("PAPERCLIP_AGENT_ID", "a"), ("PAPERCLIP_COMPANY_ID", "c")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            heartbeat_prompt: "prompt $(A) $$".to_owned(),
            ..Prepared::default()
        };
        let manifest = build(&request, &self_pod, &prepared, None).unwrap();
        let mut seen: Vec<BTreeMap<String, String>> = Vec::new();
        for sealed in [manifest.unsealed().unwrap(), manifest.sealed("nonce").unwrap()] {
            let world = with_secrets(world.clone(), &sealed.secrets);
            let (pod, claude) = agent_of(&sealed.job);
            let agent = variables(&world, claude).map_err(TestCaseError::fail)?;
            let without = |env: &BTreeMap<String, String>| -> BTreeMap<String, String> {
                // Hidden, because `envFrom` may bring it.
                let of_the_server = |name: &str| server_only::VARIABLES.contains(&name);
                let of_the_run = |name: &str| {
                    OF_THE_RUN.contains(&name) || name.starts_with("PAPERCLIP_SEALED_") || of_the_server(name)
                };
                env.iter().filter(|(name, _)| !of_the_run(name)).map(|(k, v)| (k.clone(), v.clone())).collect()
            };
            prop_assert_eq!(without(&agent), without(&host));
            prop_assert_eq!(agent["HOME"].as_str(), "/paperclip");
            prop_assert_eq!(agent["PAPERCLIP_RUN_ID"].as_str(), "run-1");
            prop_assert_eq!(agent["PAPERCLIP_API_KEY"].as_str(), "tok$(A)");
            let reason = wake.trim();
            prop_assert_eq!(agent.get("PAPERCLIP_WAKE_REASON").map_or("", String::as_str), reason);

            let mut agent_files = files(&world, pod, claude).map_err(TestCaseError::fail)?;
            agent_files.retain(|path, _| !path.starts_with("/tmp/prompt/"));
            prop_assert_eq!(&agent_files, &host_files);
            seen.push(agent.into_iter().filter(|(name, _)| !name.starts_with("PAPERCLIP_SEALED_")).collect());
        }
        prop_assert_eq!(&seen[0], &seen[1], "sealing changes nothing");
    }

    #[test]
    fn sealed_job_holds_no_value_of_the_run(
        values in prop::collection::vec("marked-[a-z0-9]{12}[$() 'é]{0,3}", 8), reference in prop::bool::ANY,
    ) {
        let tail = if reference { "$(FROM)$(NOPE)" } else { "" };
        let request = Request::parse(&json!({
            "runId": "run-1", "agent": {"id": "a", "companyId": "c", "name": "n"}, "authToken": values[0],
            "config": {
                "env": {"ONE": values[1], "TWO": format!("{}{tail}", values[2])},
                "extraArgs": ["--mcp-config", json!({"token": values[3]}).to_string()]},
            "context": {"wakeReason": values[4], "paperclipWake": {"reason": values[5]}},
        }).to_string()).unwrap();
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{
            "name": "paperclip", "image": "i", "envFrom": [{"secretRef": {"name": "t"}}],
            "env": [{"name": "LITERAL", "value": values[6]}, {"name": "AFTER", "value": "x-$(LITERAL)"}],
        }]}})).unwrap();
        let self_pod = SelfPod::read(&pod, "p", "n", &BTreeMap::new()).unwrap();
        let prepared = Prepared { heartbeat_prompt: values[7].clone(), ..Prepared::default() };
        let mut manifest = build(&request, &self_pod, &prepared, None).unwrap();
        manifest.supervise(&EndToken::parse("0123456789abcdef0123456789abcdef").unwrap()).unwrap();
        let sealed = manifest.sealed("nonce").unwrap();
        let job = serde_json::to_string(&sealed.job).unwrap();
        for value in &values {
            prop_assert!(!job.contains(&value[..19]), "{} in {}", value, job);
        }
        prop_assert_eq!(secrets_of(&sealed.job), vec!["ac-a-run-1-3f9a2b-run-nonce".replace("3f9a2b", &manifest.job_name[manifest.job_name.len() - 6..])]);
    }
}

fn small(with: Value) -> Manifest {
    let mut request = json!({"runId": "r", "agent": {"id": "a", "companyId": "c", "name": "n"}});
    request.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    let request = Request::parse(&request.to_string()).unwrap();
    let pod = SelfPod { namespace: "n".to_owned(), image: "i".to_owned(), ..SelfPod::default() };
    let prepared = Prepared { heartbeat_prompt: "the prompt".to_owned(), ..Prepared::default() };
    build(&request, &pod, &prepared, None).unwrap()
}

#[test]
fn level_of_selinux_is_inherited_in_the_own_namespace() {
    let options = |namespace: Value| {
        let request = json!({"runId": "r", "agent": {"id": "a", "companyId": "c", "name": "n"},
            "config": {"namespace": namespace}});
        let own: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "image": "i"}],
            "securityContext": {"seLinuxOptions": {"level": "s0:c1,c2", "type": "spc_t"}}}}))
        .unwrap();
        let own = SelfPod::read(&own, "p", "n", &BTreeMap::new()).unwrap();
        let request = Request::parse(&request.to_string()).unwrap();
        let job = build(&request, &own, &Prepared::default(), None).unwrap().job;
        let (pod, _) = agent_of(&job);
        pod.security_context.clone().unwrap().se_linux_options
    };
    let level = options(json!(null)).unwrap();
    assert_eq!(serde_json::to_value(level).unwrap(), json!({"level": "s0:c1,c2"}), "no type");
    assert_eq!(options(json!("n")).unwrap().level.as_deref(), Some("s0:c1,c2"));
    assert_eq!(options(json!("elsewhere")), None);
}

#[test]
fn sealed_job_mounts_the_prompt_and_has_no_init_container() {
    let Sealed { job, secrets } = small(json!({})).sealed("x1").unwrap();
    let (pod, claude) = agent_of(&job);
    assert_eq!(pod.init_containers, None);
    assert_eq!(secrets.len(), 1);
    assert_eq!(secrets[0].data["prompt.txt"], "the prompt");
    assert_eq!(
        serde_json::to_value(&pod.volumes).unwrap(),
        json!([{"name": "prompt", "secret": {
            "secretName": secrets[0].name, "defaultMode": 256, "items": [{"key": "prompt.txt", "path": "prompt.txt"}]}}])
    );
    assert_eq!(
        serde_json::to_value(&claude.volume_mounts).unwrap(),
        json!([{"name": "prompt", "mountPath": "/tmp/prompt", "readOnly": true}])
    );
    let names: Vec<&str> = claude.env.iter().flatten().map(|var: &EnvVar| var.name.as_str()).collect();
    assert_eq!(names, ["PAPERCLIP_RUN_ID", "HOME"]);
}

#[test]
fn more_than_one_mebibyte_travels_in_two_secrets() {
    let large = |text: &str| text.repeat(700_000);
    let manifest = small(
        json!({"context": {"paperclipWake": {"big": large("x")}, "paperclipWorkspaces": [large("y")]}}),
    );
    let Sealed { job, secrets } = manifest.sealed("x1").unwrap();
    let names: Vec<String> = secrets.iter().map(|secret| secret.name.clone()).collect();
    assert_eq!(names, [format!("{}-run-x1", manifest.job_name), format!("{}-run-x1-2", manifest.job_name)]);
    assert_eq!(secrets_of(&job), names);
    for secret in &secrets {
        assert!(secret.data.values().map(String::len).sum::<usize>() <= 1_048_576);
    }
    let (pod, _) = agent_of(&job);
    let sources = serde_json::to_value(&pod.volumes).unwrap();
    let sources = sources[0]["projected"]["sources"].as_array().unwrap();
    let paths: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| source["secret"]["items"].as_array().unwrap())
        .map(|item| item["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, BTreeSet::from(["prompt.txt", "wake-payload.json", "workspaces.json"]));
    assert!(manifest.unsealed().is_err(), "one Secret does not hold it");
}

#[test]
fn only_secrets_of_the_job_itself_are_named() {
    let mut job = small(json!({})).sealed("x1").unwrap().job;
    let name = job.metadata.name.clone().unwrap();
    let listed = format!("{name}-run-x1,{name}-prompt,other-run-x1,{name},{name}x-run-1,paperclip-secrets");
    job.metadata.annotations.as_mut().unwrap().insert("paperclip.io/run-secrets".to_owned(), listed);
    assert_eq!(secrets_of(&job), [format!("{name}-run-x1"), format!("{name}-prompt")]);
}
