use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A request as the host sends it, with the given fields replaced.
fn request(with: Value) -> Request {
    let mut request = json!({
        "runId": "run-1", "agent": {"id": "agent-1", "companyId": "company-1", "name": "Ann"},
        "runtime": {"sessionId": "", "sessionParams": null}, "config": {}, "context": {}, "tmpDir": "/tmp"});
    for (key, value) in with.as_object().unwrap() {
        request[key] = value.clone();
    }
    Request::parse(&request.to_string()).unwrap()
}

fn self_pod(with: Value) -> SelfPod {
    let mut pod = json!({"namespace": "paperclip", "image": "host:1"});
    for (key, value) in with.as_object().unwrap() {
        pod[key] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

fn prepared() -> Prepared {
    serde_json::from_value(json!({
        "baseEnv": {
            "PAPERCLIP_AGENT_ID": "agent-1", "PAPERCLIP_COMPANY_ID": "company-1", "PAPERCLIP_API_URL": "http://host:3100"},
        "bootstrapPrompt": "", "heartbeatPrompt": "You are agent agent-1 (Ann).", "skills": []}))
    .unwrap()
}

fn with_prompt(prompt: impl Into<String>) -> Prepared {
    Prepared { heartbeat_prompt: prompt.into(), ..prepared() }
}

fn build_json(with: Value) -> (Manifest, Value) {
    build_with(with, json!({}))
}

fn build_with(with: Value, pod: Value) -> (Manifest, Value) {
    let manifest = build(&request(with), &self_pod(pod), &prepared(), None).unwrap();
    let job = serde_json::to_value(&manifest.job).unwrap();
    (manifest, job)
}

fn at<'a>(job: &'a Value, path: &str) -> &'a Value {
    job.pointer(path).unwrap_or(&Value::Null)
}

const POD: &str = "/spec/template/spec";
const CLAUDE: &str = "/spec/template/spec/containers/0";
const INIT: &str = "/spec/template/spec/initContainers/0";

fn claude<'a>(job: &'a Value, field: &str) -> &'a Value {
    at(job, &format!("{CLAUDE}/{field}"))
}

/// The literal variables of the agent's container, in order.
fn env(manifest: &Manifest) -> Vec<(String, String)> {
    let pod = manifest.job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let vars = pod.containers[0].env.iter().flatten();
    vars.filter_map(|var| Some((var.name.clone(), var.value.clone()?))).collect()
}

fn var(manifest: &Manifest, name: &str) -> Option<String> {
    env(manifest).into_iter().find(|(seen, _)| seen == name).map(|(_, value)| value)
}

// ---- names

#[test]
fn job_name_is_stable_and_readable() {
    for (agent, run, want) in
        [("agent-1", "run-1", "ac-agent-1-run-1-0ec508"), ("--A b--", "RUN_é-9", "ac---ab-run-9-a594af")]
    {
        assert_eq!(job_name(agent, run), want);
    }
    let empty = job_name("é", "");
    assert!(empty.starts_with("ac---") && empty.len() == 11, "{empty}");
    assert_ne!(job_name("a", "run-1"), job_name("a", "run-2"));
    let (manifest, _) = build_json(json!({}));
    assert_eq!(manifest.job_name, "ac-agent-1-run-1-0ec508");
}

#[test]
fn agent_selector_has_agent_and_adapter() {
    assert_eq!(agent_selector("a1"), "paperclip.io/agent-id=a1,paperclip.io/adapter-type=claude_k8s");
}

// ---- the Job as a whole

#[test]
fn job_of_an_empty_configuration_is_exactly_this() {
    let (manifest, job) = build_json(json!({}));
    let labels = json!({
        "app.kubernetes.io/component": "agent-job",
        "app.kubernetes.io/managed-by": "paperclip",
        "paperclip.io/adapter-type": "claude_k8s",
        "paperclip.io/agent-id": "agent-1",
        "paperclip.io/company-id": "company-1",
        "paperclip.io/run-id": "run-1",
    });
    let security = json!({
        "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": false, "runAsNonRoot": true, "runAsUser": 1000,
        "allowPrivilegeEscalation": false});
    let want = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": "ac-agent-1-run-1-0ec508", "namespace": "paperclip", "labels": labels,
            "annotations": {"paperclip.io/adapter-type": "claude_k8s", "paperclip.io/agent-name": "Ann"}},
        "spec": {
            "backoffLimit": 0, "ttlSecondsAfterFinished": 300,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never", "automountServiceAccountToken": false,
                    "securityContext": {
                        "seccompProfile": {"type": "RuntimeDefault"},
                        "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000,
                        "fsGroupChangePolicy": "OnRootMismatch"},
                    "initContainers": [{
                        "name": "write-prompt", "image": "busybox:1.36", "imagePullPolicy": "IfNotPresent",
                        "command": ["sh", "-c", "printf '%s' \"$PROMPT_CONTENT\" > /tmp/prompt/prompt.txt"],
                        "env": [{"name": "PROMPT_CONTENT", "value": "You are agent agent-1 (Ann)."}],
                        "volumeMounts": [{"name": "prompt", "mountPath": "/tmp/prompt"}],
                        "securityContext": security,
                        "resources": {
                            "requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}}],
                    "containers": [{
                        "name": "claude", "image": "host:1", "imagePullPolicy": "IfNotPresent",
                        "workingDir": "/paperclip",
                        "command": ["sh", "-c",
                            "cat /tmp/prompt/prompt.txt | claude '--print' '-' '--output-format' 'stream-json' \
                             '--verbose' '--dangerously-skip-permissions'"],
                        "env": [
                            {"name": "PAPERCLIP_AGENT_ID", "value": "agent-1"},
                            {"name": "PAPERCLIP_COMPANY_ID", "value": "company-1"},
                            {"name": "PAPERCLIP_API_URL", "value": "http://host:3100"},
                            {"name": "PAPERCLIP_RUN_ID", "value": "run-1"},
                            {"name": "HOME", "value": "/paperclip"}],
                        "volumeMounts": [{"name": "prompt", "mountPath": "/tmp/prompt"}],
                        "securityContext": security,
                        "resources": {
                            "requests": {"cpu": "1000m", "memory": "2Gi"}, "limits": {"cpu": "4000m", "memory": "8Gi"}}}],
                    "volumes": [{"name": "prompt", "emptyDir": {}}]}}}});
    assert_eq!(job, want);
    assert_eq!(manifest.namespace, "paperclip");
    assert_eq!(manifest.image, "host:1");
    assert_eq!(manifest.prompt_secret, None);
    assert!(manifest.skipped_labels.is_empty() && manifest.notes.is_empty());
}

#[test]
fn settings_reach_their_fields() {
    let tolerations = json!([{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]);
    let pod = |field: &str| format!("{POD}/{field}");
    for (config, path, want) in [
        (json!({"timeoutSec": 90}), "/spec/activeDeadlineSeconds".into(), json!(90)),
        (json!({"timeoutSec": 0.2}), "/spec/activeDeadlineSeconds".into(), json!(1)),
        (json!({"timeoutSec": 0}), "/spec/activeDeadlineSeconds".into(), json!(null)),
        (json!({"ttlSecondsAfterFinished": 60}), "/spec/ttlSecondsAfterFinished".into(), json!(60)),
        (json!({"ttlSecondsAfterFinished": 0}), "/spec/ttlSecondsAfterFinished".into(), json!(300)),
        (json!({"namespace": "agents"}), "/metadata/namespace".into(), json!("agents")),
        (json!({"serviceAccountName": "runner"}), pod("serviceAccountName"), json!("runner")),
        (json!({"nodeSelector": {"disk": "ssd"}}), pod("nodeSelector"), json!({"disk": "ssd"})),
        (
            json!({"nodeSelector": "disk=ssd\n# no\n\nzone = a"}),
            pod("nodeSelector"),
            json!({"disk": "ssd", "zone": "a"}),
        ),
        (json!({"nodeSelector": r#"{"disk":"ssd"}"#}), pod("nodeSelector"), json!({"disk": "ssd"})),
        (json!({"nodeSelector": ""}), pod("nodeSelector"), json!(null)),
        (json!({"tolerations": tolerations}), pod("tolerations"), tolerations.clone()),
        (json!({"tolerations": tolerations.to_string()}), pod("tolerations"), tolerations.clone()),
        (json!({"tolerations": []}), pod("tolerations"), json!(null)),
        (json!({"image": "own:2"}), format!("{CLAUDE}/image"), json!("own:2")),
        (json!({"imagePullPolicy": "Always"}), format!("{CLAUDE}/imagePullPolicy"), json!("Always")),
        (json!({"cwd": "/work"}), format!("{CLAUDE}/workingDir"), json!("/work")),
        (
            json!({"resources.requests.cpu": "500m", "resources.limits.memory": "4Gi"}),
            format!("{CLAUDE}/resources"),
            json!({"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"cpu": "4000m", "memory": "4Gi"}}),
        ),
    ] {
        let (_, job) = build_json(json!({"config": config}));
        assert_eq!(at(&job, &path), &want, "{config}");
    }
    let (manifest, _) = build_json(json!({"config": {"namespace": "agents", "image": "own:2"}}));
    assert_eq!((manifest.namespace.as_str(), manifest.image.as_str()), ("agents", "own:2"));
}

#[test]
fn fields_of_the_own_pod_are_inherited() {
    for (pod, path, want) in [
        (json!({"imagePullSecrets": [{"name": "r"}]}), "imagePullSecrets", json!([{"name": "r"}])),
        (json!({"imagePullSecrets": []}), "imagePullSecrets", json!(null)),
        (
            json!({"dnsConfig": {"nameservers": ["1.1.1.1"]}}),
            "dnsConfig",
            json!({"nameservers": ["1.1.1.1"]}),
        ),
        (
            json!({"inheritedEnvFrom": [{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "m"}}]}),
            "containers/0/envFrom",
            json!([{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "m"}}]),
        ),
        (json!({"inheritedEnvFrom": []}), "containers/0/envFrom", json!(null)),
    ] {
        let (_, job) = build_with(json!({}), pod.clone());
        assert_eq!(at(&job, &format!("{POD}/{path}")), &want, "{pod}");
    }
}

#[test]
fn workspace_cwd_wins_over_the_configured_one() {
    let both = json!({"context": {"paperclipWorkspace": {"cwd": "/ws"}}, "config": {"cwd": "/work"}});
    assert_eq!(claude(&build_json(both).1, "workingDir"), "/ws");
    let empty = json!({"context": {"paperclipWorkspace": {"cwd": ""}}, "config": {"cwd": "/work"}});
    assert_eq!(claude(&build_json(empty).1, "workingDir"), "/work");
}

// ---- labels

#[test]
fn task_and_session_become_labels() {
    for (with, task, session) in [
        (json!({"context": {"taskId": "t 1", "issueId": "i"}}), json!("t1"), json!(null)),
        (json!({"context": {"issueId": "i"}}), json!("i"), json!(null)),
        (json!({"runtime": {"sessionId": "s"}}), json!(null), json!("s")),
        (
            json!({"runtime": {"sessionId": "s", "sessionParams": {"sessionId": "p"}}}),
            json!(null),
            json!("p"),
        ),
        (json!({}), json!(null), json!(null)),
    ] {
        let (_, job) = build_json(with.clone());
        assert_eq!(at(&job, "/metadata/labels/paperclip.io~1task-id"), &task, "{with}");
        assert_eq!(at(&job, "/metadata/labels/paperclip.io~1session-id"), &session, "{with}");
    }
}

#[test]
fn ids_without_usable_characters_give_no_label() {
    let (manifest, job) = build_json(json!({"runId": "é", "agent": {"id": "me@x y", "companyId": "--"}}));
    let labels = at(&job, "/metadata/labels");
    assert_eq!(labels["paperclip.io/agent-id"], "mexy");
    assert_eq!(labels.get("paperclip.io/run-id"), None);
    assert_eq!(labels.get("paperclip.io/company-id"), None);
    assert_eq!(manifest.skipped_labels, ["paperclip.io/run-id", "paperclip.io/company-id"]);
    assert_eq!(at(&job, "/spec/template/metadata/labels"), labels);
}

#[test]
fn configured_labels_are_added_unless_reserved() {
    let (manifest, job) = build_json(json!({"config": {"labels":
        "team=a\npaperclip.io/run-id=stolen\nexample.com/x=\napp.kubernetes.io/name=no value!"}}));
    let labels = at(&job, "/metadata/labels");
    assert_eq!((&labels["team"], &labels["example.com/x"]), (&json!("a"), &json!("")));
    assert_eq!(labels["paperclip.io/run-id"], "run-1");
    assert_eq!(manifest.skipped_labels, ["paperclip.io/run-id", "app.kubernetes.io/name"]);
}

// ---- environment

#[test]
fn full_context_sets_every_variable_in_order() {
    let (manifest, _) = build_json(json!({
        "authToken": "token",
        "context": {
            "taskId": " t ", "wakeReason": "assigned", "wakeCommentId": null, "commentId": "c",
            "approvalId": "a", "approvalStatus": "granted", "paperclipWake": {"z": 1, "a": [true]},
            "paperclipWorkspace": {
                "cwd": "/w", "source": "git", "strategy": "worktree", "workspaceId": "w1", "repoUrl": "https://r",
                "repoRef": "main", "branchName": "b", "worktreePath": "/w/t", "agentHome": "/home"},
            "issueIds": ["i1", " ", 5, " i2"], "paperclipWorkspaces": [{"id": 1}],
            "paperclipRuntimeServiceIntents": ["x"], "paperclipRuntimeServices": [null],
            "paperclipRuntimePrimaryUrl": " http://p "}}));
    let want = [
        ("PAPERCLIP_AGENT_ID", "agent-1"),
        ("PAPERCLIP_COMPANY_ID", "company-1"),
        ("PAPERCLIP_API_URL", "http://host:3100"),
        ("PAPERCLIP_RUN_ID", "run-1"),
        ("PAPERCLIP_TASK_ID", "t"),
        ("PAPERCLIP_WAKE_REASON", "assigned"),
        ("PAPERCLIP_WAKE_COMMENT_ID", "c"),
        ("PAPERCLIP_APPROVAL_ID", "a"),
        ("PAPERCLIP_APPROVAL_STATUS", "granted"),
        ("PAPERCLIP_WAKE_PAYLOAD_JSON", r#"{"z":1,"a":[true]}"#),
        ("PAPERCLIP_WORKSPACE_CWD", "/w"),
        ("PAPERCLIP_WORKSPACE_SOURCE", "git"),
        ("PAPERCLIP_WORKSPACE_STRATEGY", "worktree"),
        ("PAPERCLIP_WORKSPACE_ID", "w1"),
        ("PAPERCLIP_WORKSPACE_REPO_URL", "https://r"),
        ("PAPERCLIP_WORKSPACE_REPO_REF", "main"),
        ("PAPERCLIP_WORKSPACE_BRANCH", "b"),
        ("PAPERCLIP_WORKSPACE_WORKTREE_PATH", "/w/t"),
        ("AGENT_HOME", "/home"),
        ("PAPERCLIP_LINKED_ISSUE_IDS", "i1, i2"),
        ("PAPERCLIP_WORKSPACES_JSON", r#"[{"id":1}]"#),
        ("PAPERCLIP_RUNTIME_SERVICE_INTENTS_JSON", r#"["x"]"#),
        ("PAPERCLIP_RUNTIME_SERVICES_JSON", "[null]"),
        ("PAPERCLIP_RUNTIME_PRIMARY_URL", "http://p"),
        ("PAPERCLIP_API_KEY", "token"),
        ("HOME", "/paperclip"),
    ];
    let want: Vec<_> = want.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(env(&manifest), want);
}

#[test]
fn empty_context_sets_no_variable() {
    let (manifest, _) = build_json(json!({"context": {
        "wakeReason": " ", "wakeCommentId": "", "commentId": "hidden", "paperclipWake": {}, "issueIds": [" "],
        "paperclipWorkspaces": [], "paperclipRuntimeServices": {"a": 1}, "paperclipWorkspace": ["cwd"]}}));
    let names: Vec<_> = env(&manifest).into_iter().map(|(name, _)| name).collect();
    let base =
        ["PAPERCLIP_AGENT_ID", "PAPERCLIP_COMPANY_ID", "PAPERCLIP_API_URL", "PAPERCLIP_RUN_ID", "HOME"];
    assert_eq!(names, base);
    for (wake, want) in [(json!([]), Some("[]")), (json!("x"), None), (json!(null), None)] {
        let (manifest, _) = build_json(json!({"context": {"paperclipWake": wake}}));
        assert_eq!(var(&manifest, "PAPERCLIP_WAKE_PAYLOAD_JSON").as_deref(), want);
    }
}

#[test]
fn later_layers_win_and_come_later() {
    let pod = json!({
        "inheritedEnv": {
            "FIRST": "pod", "PAPERCLIP_RUN_ID": "pod", "ANTHROPIC_AUTH_TOKEN": "pod", "HOME": "/root",
            "PAPERCLIP_API_URL": "http://pod"},
        "inheritedEnvValueFrom": [
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "USER_SET", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]});
    let config =
        json!({"env": {"FIRST": "user", "USER_SET": "", "PAPERCLIP_AGENT_ID": "user", "HOME": "/user"}});
    let (manifest, job) = build_with(json!({"config": config}), pod);
    let want = [
        ("ANTHROPIC_AUTH_TOKEN", "pod"),
        ("PAPERCLIP_API_URL", "http://pod"),
        ("PAPERCLIP_AGENT_ID", "agent-1"),
        ("PAPERCLIP_COMPANY_ID", "company-1"),
        ("PAPERCLIP_RUN_ID", "run-1"),
        ("HOME", "/paperclip"),
        ("FIRST", "user"),
        ("USER_SET", ""),
    ];
    let left_out = "PAPERCLIP_AGENT_ID, HOME of config.env left out: the run has its own";
    assert!(manifest.notes.iter().any(|note| note == left_out), "{:?}", manifest.notes);
    let want: Vec<_> = want.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(env(&manifest), want);
    assert_eq!(
        claude(&job, "env")[2],
        json!({"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}),
        "in its place, and of two the last"
    );
    let inherited: Vec<&str> = manifest.inherited.iter().map(String::as_str).collect();
    assert_eq!(inherited, ["ANTHROPIC_AUTH_TOKEN", "KEY", "PAPERCLIP_API_URL"]);
}

#[test]
fn token_of_the_run_wins_over_a_configured_one() {
    let config = json!({"env": {"PAPERCLIP_API_KEY": "configured"}});
    let (manifest, _) = build_json(json!({"config": config, "authToken": "token"}));
    assert_eq!(var(&manifest, "PAPERCLIP_API_KEY").as_deref(), Some("token"));
    assert_eq!(manifest.notes, ["PAPERCLIP_API_KEY of config.env left out: the run has its own token"]);
    let (manifest, _) = build_json(json!({"config": config, "authToken": ""}));
    assert_eq!(var(&manifest, "PAPERCLIP_API_KEY").as_deref(), Some("configured"));
}

// The host adds variables of its machine to config.env.
#[test]
fn host_local_variables_stay_on_the_host() {
    let host_env = json!({
        "TMP": "/var/own", "GH_TOKEN": "server", "GIT_AUTHOR_NAME": "server", "SSH_AUTH_SOCK": "/run/agent",
        "LANG": "C"});
    for (name, value, kept) in [
        ("TMPDIR", "/tmp", false),
        ("TEMP", "/tmp/run-1", false),
        ("TMP", "/var/own", false),
        ("TMP", "/var/other", true),
        ("TMPDIR", "/tmpfs", true),
        ("TMPDIR", "/paperclip/tmp", true),
        ("PAPERCLIP_TMPDIR", "/anything", false),
        ("PAPERCLIP_RUN_SCRATCH_DIR", "/anything", false),
        ("PAPERCLIP_SCRATCH", "x", false),
        ("MY_SCRATCH_DIR", "/tmp/x", true),
        ("PAPERCLIP_GIT_METADATA_ROOTS", "/x", false),
        ("PAPERCLIP_RUNNER_NETWORK_MODE", "x", false),
        ("PAPERCLIP_WORKSPACE_CWD", "/tmp/x", true),
        ("PATH", "/usr/bin:/tmp/shims/bin", false),
        ("PATH", "/usr/bin:/opt/tmp", true),
        ("BASH_ENV", "/tmp/env.sh", false),
        ("BASH_ENV", "/paperclip/env.sh", true),
        ("ZDOTDIR", "/tmp", false),
        ("GH_TOKEN", "server", false),
        ("GH_TOKEN", "mine", true),
        ("GITHUB_TOKEN", "mine", true),
        ("GIT_AUTHOR_NAME", "server", false),
        ("GIT_AUTHOR_NAME", "me", true),
        ("SSH_AUTH_SOCK", "/run/agent", false),
        ("SSH_AUTH_SOCK", "/run/mine", true),
        ("LANG", "C", true),
        ("OTHER", "/tmp/x", true),
    ] {
        let config = json!({"env": {name: value}});
        let (manifest, _) = build_json(json!({"config": config, "hostEnv": host_env, "tmpDir": "/tmp/"}));
        let is_value = var(&manifest, name).as_deref() == Some(value);
        assert_eq!(is_value, kept, "{name}={value}");
        let note = format!("1 variable(s) of config.env left out, they hold only on the host: {name}");
        assert_eq!(manifest.notes, if kept { vec![] } else { vec![note] });
    }
}

#[test]
fn variables_of_the_run_win_over_configured_ones() {
    let env = json!({
        "PAPERCLIP_RUN_ID": "x", "PAPERCLIP_TASK_ID": "x", "PAPERCLIP_WAKE_REASON": "mine", "PAPERCLIP_AGENT_ID": "x",
        "PAPERCLIP_WAKE_PAYLOAD_JSON": "{}", "PAPERCLIP_API_URL": "http://service", "PAPERCLIP_OTHER": "kept",
        "AGENT_HOME": "/mine"});
    let context = json!({"taskId": "t", "paperclipWake": {"reason": "r"}, "paperclipWorkspace": {"agentHome": "/home"}});
    let (manifest, _) = build_json(json!({"config": {"env": env}, "context": context}));
    for (name, want) in [
        ("PAPERCLIP_RUN_ID", "run-1"),
        ("PAPERCLIP_TASK_ID", "t"),
        ("PAPERCLIP_AGENT_ID", "agent-1"),
        ("PAPERCLIP_WAKE_PAYLOAD_JSON", r#"{"reason":"r"}"#),
        // What the run does not have, and what a pod may have to reach in another way.
        ("PAPERCLIP_WAKE_REASON", "mine"),
        ("PAPERCLIP_API_URL", "http://service"),
        ("PAPERCLIP_OTHER", "kept"),
        ("AGENT_HOME", "/mine"),
    ] {
        assert_eq!(var(&manifest, name).as_deref(), Some(want), "{name}");
    }
    assert_eq!(
        manifest.notes,
        [
            "PAPERCLIP_RUN_ID, PAPERCLIP_TASK_ID, PAPERCLIP_AGENT_ID, PAPERCLIP_WAKE_PAYLOAD_JSON of config.env left \
          out: the run has its own"
        ]
    );
}

#[test]
fn variables_of_the_hosts_github_programs_stay_there() {
    let of_host = json!({
        "GH_CONFIG_DIR": "/home/paperclip/.config/gh", "PAPERCLIP_GITHUB_HOST_HOME": "/home/paperclip",
        "PAPERCLIP_GITHUB_AUTH_MODE": "host", "GH_TOKEN": "mine"});
    let of_broker = json!({
        "GH_TOKEN": "", "GITHUB_TOKEN": "", "GH_ENTERPRISE_TOKEN": "", "GITHUB_ENTERPRISE_TOKEN": "",
        "PAPERCLIP_GIT_TOKEN": "", "GIT_AUTHOR_NAME": "", "GIT_AUTHOR_EMAIL": "", "GIT_COMMITTER_NAME": "",
        "GIT_COMMITTER_EMAIL": "", "GIT_CONFIG_COUNT": "", "GIT_CONFIG_KEY_0": "", "GIT_CONFIG_VALUE_0": "",
        "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS": "", "GIT_SSH_COMMAND": "ssh -F /dev/null",
        "SSH_AUTH_SOCK": "", "PAPERCLIP_GITHUB_OPERATION_ACTIVE": "", "PAPERCLIP_GITHUB_BROKER_URL": "http://h",
        "PAPERCLIP_GITHUB_BROKER_TOKEN": "t"});
    let left = |env: &Value, mode: Value| {
        let context = json!({"githubAuthenticationMode": mode});
        let (manifest, _) = build_json(json!({"config": {"env": env}, "context": context}));
        let names = env.as_object().unwrap().keys().filter(|name| var(&manifest, name).is_some());
        names.cloned().collect::<Vec<_>>()
    };
    assert_eq!(left(&of_broker, json!("managed")), [""; 0]);
    assert_eq!(left(&of_host, json!("host")), ["GH_TOKEN"]);
    assert_eq!(left(&of_host, json!(null)), ["GH_CONFIG_DIR", "GH_TOKEN"]);
    let own = json!({"GIT_AUTHOR_NAME": "me", "GIT_SSH_COMMAND": "ssh -i /k"});
    assert_eq!(left(&own, json!(null)), ["GIT_AUTHOR_NAME", "GIT_SSH_COMMAND"]);
}

#[test]
fn directory_for_temporary_files_is_one_of_the_pod() {
    let scratch = json!({"paperclipScratch": {"type": "heartbeat_run", "dir": "/data/s"}});
    for (with, given) in [
        (json!({}), false),
        (json!({"context": scratch}), true),
        (json!({"config": {"env": {"PAPERCLIP_RUN_SCRATCH_DIR": "/data/s"}}}), true),
    ] {
        let (manifest, _) = build_json(with.clone());
        for name in ["PAPERCLIP_SCRATCH_DIR", "PAPERCLIP_RUN_SCRATCH_DIR", "PAPERCLIP_TASK_SCRATCH_DIR"] {
            let want = given.then_some("/tmp/paperclip-scratch");
            assert_eq!(var(&manifest, name).as_deref(), want, "{name} {with}");
        }
    }
}

#[test]
fn scratch_directories_come_from_variables_and_context() {
    let env = json!({"PAPERCLIP_SCRATCH_DIR": "/data/s/1", "TMPDIR": "/data/s/1", "ZDOTDIR": "/data/s/2", "TEMP": "/keep"});
    let (manifest, _) = build_json(json!({"config": {"env": env}}));
    assert_eq!(var(&manifest, "TMPDIR"), None);
    assert_eq!(var(&manifest, "ZDOTDIR").as_deref(), Some("/data/s/2"));
    let context = json!({"paperclipScratch": {"type": "heartbeat_run", "dir": "/data/s/2", "tempKeysApplied": ["TEMP"]}});
    let (manifest, _) = build_json(json!({"config": {"env": env}, "context": context}));
    assert_eq!((var(&manifest, "ZDOTDIR"), var(&manifest, "TEMP")), (None, None));
    assert_eq!(
        manifest.notes,
        [
            "4 variable(s) of config.env left out, they hold only on the host: PAPERCLIP_SCRATCH_DIR, TMPDIR, ZDOTDIR, TEMP"
        ]
    );
    // Without a known directory no path is inside one, and `/` does not count as one.
    for tmp_dir in ["", "/"] {
        let (manifest, _) = build_json(json!({"config": {"env": {"PATH": "/usr/bin"}}, "tmpDir": tmp_dir}));
        assert_eq!(var(&manifest, "PATH").as_deref(), Some("/usr/bin"));
    }
}

#[test]
fn data_is_escaped_and_references_are_not() {
    let context = json!({"wakeReason": "$(HOME) costs $$5", "taskId": "$5"});
    let (manifest, _) = build_with(
        json!({"context": context, "config": {"env": {"REF": "$(HOME)/x"}}}),
        json!({"inheritedEnv": {"URL": "http://$(HOST)"}}),
    );
    assert_eq!(var(&manifest, "PAPERCLIP_WAKE_REASON").as_deref(), Some("$$(HOME) costs $$$$5"));
    assert_eq!(var(&manifest, "PAPERCLIP_TASK_ID").as_deref(), Some("$5"));
    assert_eq!(var(&manifest, "REF").as_deref(), Some("$(HOME)/x"));
    assert_eq!(var(&manifest, "URL").as_deref(), Some("http://$(HOST)"));

    let manifest =
        build(&request(json!({})), &self_pod(json!({})), &with_prompt("x$$ y $(A) $é"), None).unwrap();
    let job = serde_json::to_value(&manifest.job).unwrap();
    assert_eq!(at(&job, &format!("{INIT}/env/0/value")), "x$$$$ y $$(A) $$é");
    assert_eq!(manifest.prompt, "x$$ y $(A) $é");
}

// ---- prompt

#[test]
fn prompt_has_its_sections_for_new_and_resumed_sessions() {
    let wake = json!({"reason": " why ", "comments": [{"body": " one "}, {"body": " "}, "no", {"body": 1}, {"body": "two"}]});
    let woken = "Wake reason: why\n\nComment: one\n\nComment: two";
    let session = json!({"sessionId": "s"});
    for (with, want) in [
        (json!({}), "boot\n\n main ".to_owned()),
        (json!({"context": {"paperclipWake": wake}}), format!("boot\n\n{woken}\n\n main ")),
        (
            json!({"context": {"paperclipSessionHandoffMarkdown": " hand "}}),
            "boot\n\nhand\n\n main ".to_owned(),
        ),
        (json!({"runtime": session}), " main ".to_owned()),
        (json!({"runtime": session, "context": {"paperclipWake": wake}}), woken.to_owned()),
        (
            json!({"runtime": session, "context": {"paperclipWake": wake, "paperclipSessionHandoffMarkdown": "hand"}}),
            format!("{woken}\n\nhand"),
        ),
        (
            json!({"runtime": session, "context": {"paperclipWake": {"issue": {"title": "x"}}}}),
            " main ".to_owned(),
        ),
        (json!({"context": {"paperclipWake": [wake]}}), "boot\n\n main ".to_owned()),
        (json!({"context": {"paperclipWake": {"comments": {"body": "x"}}}}), "boot\n\n main ".to_owned()),
    ] {
        let prepared =
            Prepared { bootstrap_prompt: "\n boot ".into(), heartbeat_prompt: " main ".into(), ..prepared() };
        let manifest = build(&request(with.clone()), &self_pod(json!({})), &prepared, None).unwrap();
        assert_eq!(manifest.prompt, want, "{with}");
    }
}

#[test]
fn sections_of_the_host_come_in_its_order_and_trimmed() {
    let prepared = || {
        let json = json!({
            "bootstrapPrompt": " boot ", "heartbeatPrompt": " main ",
            "wakePrompt": {"fresh": " woken ", "resumed": "woken again"},
            "taskPrompt": {"fresh": "task\n", "resumed": "short task"},
        });
        Prepared::parse(&json.to_string()).unwrap()
    };
    let context = json!({"paperclipSessionHandoffMarkdown": " hand ", "paperclipWake": {"reason": "ours"}});
    let fresh = request(json!({"context": context}));
    let resumed = request(json!({"context": context, "runtime": {"sessionId": "s-1"}}));
    let built = |request: &Request, prepared: &Prepared| {
        build(request, &self_pod(json!({})), prepared, None).unwrap()
    };
    assert_eq!(built(&fresh, &prepared()).prompt, "boot\n\nwoken\n\nhand\n\ntask\n\nmain");
    assert_eq!(built(&resumed, &prepared()).prompt, "woken again\n\nhand\n\nshort task");

    let silent = Prepared { wake_prompt: Some(prompt::BySession::default()), ..prepared() };
    assert_eq!(built(&resumed, &silent).prompt, "hand\n\nshort task\n\nmain");
    assert_eq!(
        serde_json::to_value(built(&resumed, &silent).prompt_metrics).unwrap(),
        json!({"promptChars": 22, "bootstrapPromptChars": 0, "wakePromptChars": 0,
               "sessionHandoffChars": 4, "taskContextChars": 10, "heartbeatPromptChars": 4})
    );
}

#[test]
fn wake_payload_and_work_mode_of_the_host_become_variables() {
    let given = json!({"context": {"paperclipWake": {"reason": "ours", "empty": null}}});
    let variables = |prepared: &str| {
        let prepared = Prepared::parse(prepared).unwrap();
        let manifest = build(&request(given.clone()), &self_pod(json!({})), &prepared, None).unwrap();
        (var(&manifest, "PAPERCLIP_WAKE_PAYLOAD_JSON"), var(&manifest, "PAPERCLIP_ISSUE_WORK_MODE"))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(variables("{}"), (some(r#"{"reason":"ours","empty":null}"#), None));
    let of_host = r#"{"wakePayload":{"json":"{\"reason\":\"ours\"}"},"issueWorkMode":"planning"}"#;
    assert_eq!(variables(of_host), (some(r#"{"reason":"ours"}"#), some("planning")));
    assert_eq!(variables(r#"{"wakePayload":{"json":null},"issueWorkMode":null}"#), (None, None));
}

#[test]
fn lengths_count_utf16_units() {
    let context = json!({"paperclipWake": {"reason": "é😀"}, "paperclipSessionHandoffMarkdown": "abc"});
    let prepared =
        Prepared { bootstrap_prompt: " ab ".into(), heartbeat_prompt: " 😀 ".into(), ..prepared() };
    let manifest =
        build(&request(json!({"context": context})), &self_pod(json!({})), &prepared, None).unwrap();
    assert_eq!(
        serde_json::to_value(manifest.prompt_metrics).unwrap(),
        json!({"promptChars": 2 + 2 + 16 + 2 + 3 + 2 + 4, "bootstrapPromptChars": 2, "wakePromptChars": 16,
               "sessionHandoffChars": 3, "heartbeatPromptChars": 4})
    );
}

#[test]
fn prepared_is_read_from_javascripts_json() {
    let prepared = Prepared::parse(
        r#"{"baseEnv":{"Z":"1","A":"2","N":3},"bootstrapPrompt":null,"heartbeatPrompt":"cut \ud83d",
            "skills":[{"key":"k","runtimeName":"r","source":"/s","required":true},{"key":"k2","runtimeName":null}]}"#,
    )
    .unwrap();
    assert_eq!(prepared.base_env, [("Z".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())]);
    assert_eq!(prepared.heartbeat_prompt, "cut \u{fffd}");
    let names: Vec<_> = prepared.skills.iter().map(|skill| skill.runtime_name.as_str()).collect();
    assert_eq!(names, ["r", "k2"]);
    assert_eq!(Prepared::parse("{}").unwrap(), Prepared::default());
}

// ---- arguments

const BASE: [&str; 6] =
    ["--print", "-", "--output-format", "stream-json", "--verbose", "--dangerously-skip-permissions"];

#[test]
fn cli_gets_its_arguments_in_order() {
    let bundle = |instructions: Option<&str>| PromptBundle {
        add_dir: "/b".into(),
        instructions_file_path: instructions.map(str::to_owned),
        ..PromptBundle::default()
    };
    let resumed = json!({"sessionId": "s"});
    let path = json!({"instructionsFilePath": " /i.md "});
    for (with, bundle, want) in [
        (json!({}), None, vec![]),
        (json!({"config": {"model": "m"}}), None, vec!["--model", "m"]),
        (json!({"config": {"effort": "low"}}), None, vec!["--effort", "low"]),
        (json!({"config": {"thinkingEffort": "low"}}), None, vec!["--effort", "low"]),
        (json!({"config": {"maxTurnsPerRun": 7}}), None, vec!["--max-turns", "7"]),
        (json!({"config": {"maxTurnsPerRun": 0}}), None, vec![]),
        (json!({"config": path}), None, vec!["--append-system-prompt-file", "/i.md"]),
        (
            json!({"config": path}),
            Some(bundle(Some("/b/i.md"))),
            vec!["--append-system-prompt-file", "/b/i.md", "--add-dir", "/b"],
        ),
        (
            json!({"config": path}),
            Some(bundle(None)),
            vec!["--append-system-prompt-file", "/i.md", "--add-dir", "/b"],
        ),
        (json!({}), Some(bundle(None)), vec!["--add-dir", "/b"]),
        (
            json!({"config": {"model": "m", "effort": "e", "maxTurnsPerRun": 1, "extraArgs": ["--x", "y z"]}}),
            Some(bundle(None)),
            vec!["--model", "m", "--effort", "e", "--max-turns", "1", "--add-dir", "/b", "--x", "y z"],
        ),
    ] {
        let manifest =
            build(&request(with.clone()), &self_pod(json!({})), &prepared(), bundle.as_ref()).unwrap();
        assert_eq!(manifest.claude_args, [&BASE[..], &want].concat(), "{with}");
    }
    for (config, want) in [
        (
            json!({"instructionsFilePath": "/i.md"}),
            &["--resume", "s", "--dangerously-skip-permissions", "--add-dir", "/b"][..],
        ),
        (json!({"dangerouslySkipPermissions": false}), &["--resume", "s", "--add-dir", "/b"]),
    ] {
        let request = request(json!({"runtime": resumed, "config": config}));
        let manifest =
            build(&request, &self_pod(json!({})), &prepared(), Some(&bundle(Some("/b/i.md")))).unwrap();
        assert_eq!(manifest.claude_args, [&BASE[..5], want].concat());
    }
}

#[test]
fn command_quotes_arguments_and_installs_the_filter() {
    let (_, job) =
        build_json(json!({"config": {"extraArgs": ["it's", ""], "dangerouslySkipPermissions": false}}));
    assert_eq!(
        claude(&job, "command/2"),
        "cat /tmp/prompt/prompt.txt | claude '--print' '-' '--output-format' 'stream-json' '--verbose' 'it'\\''s' ''"
    );
    let (_, job) = build_json(json!({"config": {"enableRtk": true, "rtkMaxOutputBytes": 1000}}));
    let command = claude(&job, "command/2").as_str().unwrap();
    let setup = crate::claude::rtk_setup_commands(1000);
    assert!(
        command.starts_with(&format!("{setup} && cat /tmp/prompt/prompt.txt | claude '--print'")),
        "{command}"
    );
}

// ---- volumes

#[test]
fn claim_of_the_own_pod_is_mounted() {
    let (_, job) = build_with(json!({}), json!({"pvcClaimName": "shared"}));
    let volumes = json!([
        {"name": "prompt", "emptyDir": {}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "shared"}}]);
    assert_eq!(at(&job, &format!("{POD}/volumes")), &volumes);
    let mounts =
        json!([{"name": "prompt", "mountPath": "/tmp/prompt"}, {"name": "data", "mountPath": "/paperclip"}]);
    assert_eq!(claude(&job, "volumeMounts"), &mounts);
    for none in [json!(null), json!("")] {
        let (_, job) = build_with(json!({}), json!({"pvcClaimName": none}));
        assert_eq!(at(&job, &format!("{POD}/volumes")).as_array().unwrap().len(), 1);
    }
}

// docs/contract.md, "Deliberate differences": one volume per Secret and name, subPath kept, no name twice.
#[test]
fn secret_volumes_are_one_each_and_named_uniquely() {
    let mount = |volume: &str, secret: &str, path: &str| json!({"volumeName": volume, "secretName": secret, "mountPath": path, "defaultMode": 256});
    let mut part = mount("tls", "tls-secret", "/ca.crt");
    part["subPath"] = json!("ca.crt");
    let long = "v".repeat(63);
    let (manifest, job) = build_with(
        json!({}),
        json!({"secretVolumes": [
            mount("tls", "tls-secret", "/tls"), part, mount("data", "a", "/a"), mount("data", "b", "/b"),
            mount("prompt-secret", "c", "/c"), mount("tls", "other", "/d"), mount("data", "b", "/b2"),
            mount("data-2", "e", "/e"), mount(&long, "f", "/f"), mount(&long, "g", "/g")]}),
    );
    let volumes = at(&job, &format!("{POD}/volumes")).as_array().unwrap();
    let got: Vec<_> = volumes[1..]
        .iter()
        .map(|volume| (volume["name"].as_str().unwrap(), volume["secret"]["secretName"].as_str().unwrap()))
        .collect();
    let cut = format!("{}-2", &long[..61]);
    let want = [
        ("tls", "tls-secret"),
        ("data-2", "a"),
        ("data-3", "b"),
        ("prompt-secret-2", "c"),
        ("tls-2", "other"),
        ("data-2-2", "e"),
        (long.as_str(), "f"),
        (cut.as_str(), "g"),
    ];
    assert_eq!(got, want);
    assert_eq!(
        volumes[1]["secret"],
        json!({"secretName": "tls-secret", "defaultMode": 256, "optional": true})
    );
    let mounts = claude(&job, "volumeMounts").as_array().unwrap();
    assert_eq!(mounts[1], json!({"name": "tls", "mountPath": "/tls", "readOnly": true}));
    assert_eq!(
        mounts[2],
        json!({"name": "tls", "mountPath": "/ca.crt", "subPath": "ca.crt", "readOnly": true})
    );
    assert_eq!(mounts[7], json!({"name": "data-3", "mountPath": "/b2", "readOnly": true}));
    assert_eq!(mounts.len(), 11);
    let (again, _) = build_with(json!({}), json!({}));
    assert_eq!(again.job_name, manifest.job_name);
}

// ---- large prompts and large variables

// docs/contract.md, "Deliberate differences": Linux allows 128 KiB per variable, so a prompt moves to a Secret well
// before that.
#[test]
fn large_prompt_travels_in_a_secret() {
    let build = |prompt: String| {
        build(&request(json!({})), &self_pod(json!({})), &with_prompt(prompt), None).unwrap()
    };
    assert_eq!(build("x".repeat(98_303)).prompt_secret, None);
    // One dollar that Kubernetes would replace doubles them all: here the escaped text no longer fits.
    assert!(build("$$".repeat(40_000)).prompt_secret.is_some());
    assert!(build("NUL \0".into()).prompt_secret.is_some());

    let prompt = "é".repeat(98_304 / 2);
    let manifest = build(prompt.clone());
    let secret = manifest.prompt_secret.clone().unwrap();
    assert_eq!(secret.name, "ac-agent-1-run-1-0ec508-prompt");
    assert_eq!(secret.namespace, "paperclip");
    assert_eq!(secret.data, BTreeMap::from([("prompt.txt".to_owned(), prompt)]));
    let job = serde_json::to_value(&manifest.job).unwrap();
    let init = at(&job, INIT);
    assert_eq!(
        init["command"],
        json!(["sh", "-c", "cp /tmp/prompt-secret/prompt.txt /tmp/prompt/prompt.txt"])
    );
    assert_eq!(init.get("env"), None);
    assert_eq!(
        init["volumeMounts"],
        json!([{"name": "prompt", "mountPath": "/tmp/prompt"},
               {"name": "prompt-secret", "mountPath": "/tmp/prompt-secret", "readOnly": true}])
    );
    assert_eq!(
        at(&job, &format!("{POD}/volumes/1")),
        &json!({"name": "prompt-secret", "secret": {"secretName": "ac-agent-1-run-1-0ec508-prompt", "optional": false}})
    );
    assert_eq!(claude(&job, "volumeMounts"), &json!([{"name": "prompt", "mountPath": "/tmp/prompt"}]));
}

#[test]
fn mcp_servers_of_the_host_are_a_file_of_the_secret() {
    let server = json!({"name": "tools", "url": "http://localhost:3100/api/mcp", "token": "secret-token",
        "connectionId": "c"});
    let (manifest, job) = build_json(json!({"mcpServers": [server, {"name": "", "url": "x"}, null]}));
    let at_file = ["--mcp-config", "/tmp/prompt/mcp.json", "--strict-mcp-config"];
    assert!(manifest.claude_args.windows(3).any(|words| words == at_file), "{:?}", manifest.claude_args);
    let secret = manifest.prompt_secret.unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&secret.data["mcp.json"]).unwrap(),
        json!({"mcpServers": {"tools": {"type": "http", "url": "http://host:3100/api/mcp",
            "headers": {"Authorization": "Bearer secret-token"}}}})
    );
    assert!(!job.to_string().contains("secret-token"));
    let init = at(&job, &format!("{INIT}/command/2")).as_str().unwrap().to_owned();
    assert!(init.ends_with("/mcp.json /tmp/prompt/mcp.json && chmod 600 /tmp/prompt/mcp.json"), "{init}");

    let of_agent = json!({"own": {"type": "http", "url": "http://localhost:9000"}});
    let (manifest, job) = build_json(json!({"config": {"mcpServers": of_agent}}));
    assert!(manifest.claude_args.windows(3).any(|words| words == at_file), "{:?}", manifest.claude_args);
    let secret = manifest.prompt_secret.unwrap();
    let file = serde_json::from_str::<Value>(&secret.data["mcp.json"]).unwrap();
    assert_eq!(file, json!({"mcpServers": of_agent}));
    assert!(!job.to_string().contains("localhost:9000"));

    let (manifest, _) = build_json(json!({"mcpServers": []}));
    assert!(!manifest.claude_args.contains(&"--mcp-config".to_owned()));
    assert_eq!(manifest.prompt_secret, None);
}

#[test]
fn large_json_variables_become_files() {
    let large = "x".repeat(131_072);
    let (manifest, job) = build_with(
        json!({"context": {
            "paperclipWake": {"big": large}, "paperclipWorkspaces": [large], "paperclipRuntimeServiceIntents": [large],
            "paperclipRuntimeServices": [large]}}),
        json!({
            "inheritedEnv": {"PAPERCLIP_WORKSPACES_JSON": "old"},
            "inheritedEnvValueFrom": [{"name": "PAPERCLIP_WAKE_PAYLOAD_JSON", "valueFrom": {}}]}),
    );
    let secret = manifest.prompt_secret.clone().unwrap();
    let mut copies = vec!["prompt.txt".to_owned()];
    for (variable, file) in [
        ("PAPERCLIP_RUNTIME_SERVICE_INTENTS", "runtime-service-intents.json"),
        ("PAPERCLIP_RUNTIME_SERVICES", "runtime-services.json"),
        ("PAPERCLIP_WAKE_PAYLOAD", "wake-payload.json"),
        ("PAPERCLIP_WORKSPACES", "workspaces.json"),
    ] {
        let vars = claude(&job, "env").as_array().unwrap();
        assert!(!vars.iter().any(|var| var["name"] == format!("{variable}_JSON")), "{variable}");
        assert_eq!(var(&manifest, &format!("{variable}_FILE")), Some(format!("/tmp/prompt/{file}")));
        assert!(serde_json::from_str::<Value>(&secret.data[file]).is_ok());
        let size = secret.data[file].len();
        let note = format!(
            "{variable}_JSON is too large for a variable ({size} bytes): {variable}_FILE names a file with it"
        );
        assert!(manifest.notes.contains(&note), "{:?}", manifest.notes);
        copies.push(file.to_owned());
    }
    // When there is a Secret, it holds the prompt too, even a small one.
    assert_eq!(secret.data["prompt.txt"], manifest.prompt);
    let copies: Vec<_> =
        copies.iter().map(|file| format!("cp /tmp/prompt-secret/{file} /tmp/prompt/{file}")).collect();
    assert_eq!(at(&job, &format!("{INIT}/command/2")), &json!(copies.join(" && ")));
}

#[test]
fn job_that_no_pod_could_start_from_is_refused() {
    let large = "x".repeat(131_072);
    let fails = |with: Value, pod: Value, prompt: &str| {
        build(&request(with), &self_pod(pod), &with_prompt(prompt), None).unwrap_err().to_string()
    };
    assert_eq!(
        fails(json!({"config": {"env": {"BIG": large}}}), json!({}), ""),
        "Environment variable BIG is too large: 131076 bytes as NAME=value, Linux allows 131071 for one variable"
    );
    assert!(
        fails(json!({}), json!({"inheritedEnv": {"POD": large}}), "").contains("variable POD is too large")
    );
    assert!(
        fails(json!({"context": {"issueIds": [large]}}), json!({}), "")
            .contains("PAPERCLIP_LINKED_ISSUE_IDS")
    );
    assert!(
        fails(json!({"config": {"extraArgs": [large]}}), json!({}), "")
            .starts_with("The agent's command is too large: ")
    );
    assert_eq!(
        fails(json!({}), json!({}), &"x".repeat(1_048_577)),
        "The prompt Secret is too large: 1048577 bytes, Kubernetes allows 1048576"
    );
    assert_eq!(
        fails(json!({"runtime": {"sessionId": "a\0"}}), json!({}), ""),
        "The agent's command contains a NUL character"
    );
}

// docs/contract.md, "Deliberate differences": the Secret's label is the run's label, not its raw id.
#[test]
fn secret_has_the_run_label_and_hides_its_contents() {
    let request = request(json!({"runId": "run é 1"}));
    let manifest = build(&request, &self_pod(json!({})), &with_prompt("x".repeat(100_000)), None).unwrap();
    let secret = manifest.prompt_secret.clone().unwrap();
    let object =
        run_secret_object(&secret, request.run_label().as_deref(), &manifest.job_name, Some("uid-1"));
    assert_eq!(
        serde_json::to_value(object).unwrap(),
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {
                "name": format!("{}-prompt", manifest.job_name), "namespace": "paperclip",
                "labels": {
                    "app.kubernetes.io/managed-by": "paperclip", "paperclip.io/adapter-type": "claude_k8s",
                    "paperclip.io/run-id": "run1"},
                "annotations": {"paperclip.io/job-name": manifest.job_name},
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": manifest.job_name,
                    "uid": "uid-1", "blockOwnerDeletion": false}]},
            "immutable": true,
            "stringData": {"prompt.txt": manifest.prompt}})
    );
    let unlabelled = run_secret_object(&secret, None, "j", None).metadata;
    assert!(!unlabelled.labels.unwrap().contains_key(LABEL_RUN_ID));
    assert_eq!(unlabelled.owner_references, None);
    assert!(!format!("{secret:?}").contains("xxx"), "contents are not printed");
}

// ---- properties

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{0,12}", "[a-zA-Z0-9 $(){}'\"\\\\=-]{0,20}", Just(String::new())]
}

/// Short texts, and now and then one that no variable holds.
fn bulky() -> impl Strategy<Value = String> {
    prop_oneof![9 => text(), 1 => (100_000usize..140_000).prop_map(|length| "$$".repeat(length / 2))]
}

fn env_map() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        "[A-Z_]{1,4}",
        prop::sample::select(vec![
            "HOME",
            "PATH",
            "TMPDIR",
            "PAPERCLIP_API_KEY",
            "PAPERCLIP_WAKE_PAYLOAD_JSON"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::btree_map(name, text(), 0..5).prop_map(|map| json!(map))
}

proptest! {
    #[test]
    fn any_ids_make_a_valid_job_name(agent in "\\PC{0,40}|[-A-Za-z0-9_]{0,40}", run in "\\PC{0,40}|[-0-9a-f]{0,40}") {
        let name = job_name(&agent, &run);
        prop_assert!(name.len() <= 43, "{}", name);
        prop_assert!(name.starts_with("ac-") && name.ends_with(|c: char| c.is_ascii_hexdigit()));
        prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{}", name);
        prop_assert_eq!(name, job_name(&agent, &run));
    }

    #[test]
    fn any_request_makes_a_startable_job_or_an_error(
        agent in text(), run in text(), session in text(), token in text(), reason in bulky(), wake in bulky(),
        prompt in bulky(), env in env_map(), pod_env in env_map(), arg in text(),
        references in prop::collection::vec("[A-Z]{1,2}", 0..3),
    ) {
        let request = request(json!({
            "runId": run, "agent": {"id": agent, "name": agent}, "runtime": {"sessionId": session}, "authToken": token,
            "config": {"env": env, "extraArgs": [arg]},
            "context": {"wakeReason": reason, "paperclipWake": {"reason": wake}, "paperclipWorkspaces": [wake]}}));
        let references: Vec<_> = references.iter().map(|name| json!({"name": name, "valueFrom": {}})).collect();
        let pod = self_pod(json!({"inheritedEnv": pod_env, "inheritedEnvValueFrom": references}));
        let manifest = match build(&request, &pod, &with_prompt(prompt), None) {
            Ok(manifest) => manifest,
            Err(ManifestError::EnvTooLarge { name, .. }) => {
                prop_assert_eq!(name, "PAPERCLIP_WAKE_REASON");
                return Ok(());
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        let spec = manifest.job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        let init = spec.init_containers.as_ref().unwrap()[0].env.iter().flatten();
        let vars: Vec<_> = spec.containers[0].env.iter().flatten().collect();
        let literals: Vec<_> = vars.iter().filter(|var| var.value.is_some()).collect();
        prop_assert!(!literals.is_empty());
        for var in vars.iter().copied().chain(init) {
            if let Some(value) = &var.value {
                prop_assert!(var.name.len() + 1 + value.len() < 131_072, "{}", var.name);
            }
        }
        for value in manifest.job.metadata.labels.iter().flatten().filter(|(key, _)| *key != LABEL_AGENT_ID) {
            prop_assert_eq!(sanitize_label_value(value.1, 63), Some(value.1.clone()));
        }
        prop_assert_eq!(spec.init_containers.as_ref().unwrap()[0].env.is_none(), manifest.prompt_secret.is_some());
    }
}

#[test]
fn supervised_job_differs_in_command_and_annotation_only() {
    let token = EndToken::parse("0123456789abcdef0123456789abcdef").unwrap();
    let (mut manifest, plain) = build_json(json!({"config": {"extraArgs": ["$(HOME)", "it's"]}}));
    assert_eq!(end_token(&manifest.job), None);
    manifest.supervise(&token).unwrap();
    assert_eq!(end_token(&manifest.job), Some(token.clone()));
    let mut job = serde_json::to_value(&manifest.job).unwrap();
    assert_eq!(at(&job, "/metadata/annotations/paperclip.io~1end-token"), token.as_str());
    let command = claude(&job, "command").clone();
    assert_eq!((&command[0], &command[1]), (&json!("sh"), &json!("-c")));
    let script = command[2].as_str().unwrap();
    assert!(script.contains("\nclaude '--print' '-' "), "{script}");
    assert!(script.contains(" \"$HOME\" 'it'\\''s' < /tmp/prompt/prompt.txt &\n"), "{script}");
    job["metadata"]["annotations"].as_object_mut().unwrap().remove("paperclip.io/end-token");
    *job.pointer_mut(&format!("{CLAUDE}/command")).unwrap() = claude(&plain, "command").clone();
    assert_eq!(job, plain);

    // What the shell adds counts against Linux' limit, too.
    let (mut large, _) = build_json(json!({"config": {"extraArgs": ["x".repeat(131_072 - 200)]}}));
    assert!(matches!(large.supervise(&token), Err(ManifestError::CommandTooLarge { .. })));
}

// ---- what a template adds

#[test]
fn added_container_cannot_become_root() {
    let containers = json!([{"name": "side", "image": "i"}, {"name": "claude", "tty": true}]);
    let spec = json!({"containers": containers, "initContainers": [{"name": "first", "image": "i"}]});
    let built = |mode: &str| {
        let env = json!({"PAPERCLIP_K8S_POD_TEMPLATE": mode});
        build_json(json!({"config": {"podTemplate": {"spec": spec}}, "hostEnv": env})).1
    };
    let escalation = |job: &Value| -> Vec<Value> {
        let lists = ["containers", "initContainers"].map(|list| at(job, &format!("{POD}/{list}")).clone());
        let all = lists.iter().flat_map(|list| list.as_array().unwrap());
        all.map(|one| one["securityContext"]["allowPrivilegeEscalation"].clone()).collect()
    };
    assert_eq!(escalation(&built("")), [json!(false), json!(false), json!(false), json!(false)]);
    assert_eq!(
        escalation(&built("any")),
        [json!(false), Value::Null, json!(false), Value::Null],
        "the operator has opened it"
    );
}

#[test]
fn agent_is_neither_privileged_nor_root_nor_on_the_node() {
    // Paperclip's own container has all of that, and the agent asks for it by its keys.
    let own = json!({"name": "paperclip", "image": "i", "securityContext": {"privileged": true, "runAsUser": 0, "runAsGroup": 0,
        "capabilities": {"add": ["SYS_ADMIN"]}, "allowPrivilegeEscalation": true}});
    let spec = json!({"containers": [own], "hostNetwork": true, "hostPID": true, "hostIPC": true,
        "volumes": [{"name": "node", "hostPath": {"path": "/"}}],
        "securityContext": {"runAsUser": 0, "runAsGroup": 0, "fsGroup": 0, "runAsNonRoot": false}});
    let pod = serde_json::from_value(json!({"spec": spec})).unwrap();
    let own = SelfPod::read(&pod, "p", "n", &BTreeMap::new()).unwrap();
    for config in [json!({}), json!({"runAsUser": 0, "fsGroup": 0})] {
        let made = build(&request(json!({"config": config})), &own, &prepared(), None).unwrap();
        let job = serde_json::to_value(&made.job).unwrap();
        for host in ["hostNetwork", "hostPID", "hostIPC", "nodeName"] {
            assert_eq!(at(&job, &format!("{POD}/{host}")), &Value::Null, "{host}");
        }
        let of_pod = at(&job, &format!("{POD}/securityContext"));
        assert_eq!(of_pod["runAsNonRoot"], true);
        for id in ["runAsUser", "runAsGroup", "fsGroup"] {
            assert!(of_pod[id].as_i64().unwrap() > 0, "{id}: {of_pod}");
        }
        let own = claude(&job, "securityContext");
        assert_eq!(own["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(own["allowPrivilegeEscalation"], false);
        assert!(own.get("privileged").is_none_or(|privileged| privileged == false), "{own}");
        assert!(!at(&job, &format!("{POD}/volumes")).to_string().contains("hostPath"), "{job}");
    }
    for config in [json!({"runAsUser": -1}), json!({"fsGroup": -1})] {
        let request = json!({"agent": {"id": "a"}, "config": config}).to_string();
        assert!(Request::parse(&request).is_err(), "{config}");
    }
}

#[test]
fn account_of_paperclip_is_not_an_agent_s_unless_listed() {
    let spec =
        json!({"serviceAccountName": "paperclip", "containers": [{"name": "paperclip", "image": "i"}]});
    let pod = serde_json::from_value(json!({"spec": spec})).unwrap();
    let own = SelfPod::read(&pod, "p", "n", &BTreeMap::new()).unwrap();
    let built = |config: Value, list: Option<&str>| {
        let env = list.map_or(json!({}), |list| json!({"PAPERCLIP_K8S_SERVICE_ACCOUNTS": list}));
        let made = build(&request(json!({"config": config, "hostEnv": env})), &own, &prepared(), None)?;
        let job = serde_json::to_value(&made.job).unwrap();
        Ok::<_, ManifestError>(at(&job, &format!("{POD}/automountServiceAccountToken")).clone())
    };
    assert_eq!(built(json!({}), None).unwrap(), false, "there is no token without the key");
    assert_eq!(built(json!({"serviceAccountName": "agent"}), None).unwrap(), Value::Null);
    let error = built(json!({"serviceAccountName": "paperclip"}), None).unwrap_err().to_string();
    assert!(error.contains("is the account of Paperclip's own pod"), "{error}");
    assert_eq!(
        built(json!({"serviceAccountName": "paperclip"}), Some("agent, paperclip")).unwrap(),
        Value::Null
    );
}

#[test]
fn relative_folder_of_a_workspace_is_refused() {
    for cwd in ["work", "./x", "~/x", " /w"] {
        let request = json!({"context": {"paperclipWorkspace": {"cwd": cwd}}}).to_string();
        let request = Request::parse(&request).unwrap();
        let built = build(&request, &self_pod(json!({})), &prepared(), None);
        assert!(matches!(built, Err(ManifestError::RelativeFolder { .. })), "{cwd}");
    }
}
