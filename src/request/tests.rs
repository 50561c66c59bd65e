use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::config::CONFIG_KEYS;
use super::resources::Resources;
use super::*;

/// The defaults, written out a second time: a changed one fails a test.
impl Default for Config {
    fn default() -> Self {
        Self {
            timeout_sec: 0.0,
            grace_sec: 60.0,
            retain_jobs: false,
            reattach_orphaned_jobs: true,
            host_shutdown: None,
            announce_harness: true,
            claude_home: ClaudeHome::Shared,
            unschedulable_grace: Duration::ZERO,
            image_pull_grace: Duration::from_secs(60),
            result_grace: Duration::from_secs(60),
            api_outage: Duration::from_secs(600),
            pod_start_timeout: Duration::from_secs(600),
            queue_timeout: None,
            kubeconfig: None,
            namespace: None,
            secret_ref: "paperclip-secrets".to_owned(),
            instructions_file_path: None,
            model: String::new(),
            effort: String::new(),
            max_turns_per_run: None,
            dangerously_skip_permissions: true,
            extra_args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            image: None,
            image_pull_policy: "IfNotPresent".to_owned(),
            service_account_name: None,
            ttl_seconds_after_finished: 300,
            resources: Resources::default(),
            node_selector: Vec::new(),
            tolerations: Vec::new(),
            labels: Vec::new(),
            enable_rtk: false,
            rtk_max_output_bytes: 50_000,
            inherit_scheduling: true,
            priority_class_name: None,
            runtime_class_name: None,
            image_pull_secrets: Vec::new(),
            pod_annotations: Vec::new(),
            termination_grace_period_seconds: None,
            run_as_user: None,
            fs_group: None,
            paperclip_api_url: None,
            pod_template: None,
            mcp_servers: serde_json::Map::new(),
            test_with_job: false,
            notes: Vec::new(),
        }
    }
}

fn parse(request: Value) -> Request {
    Request::parse(&request.to_string()).unwrap()
}

fn config(config: Value) -> Config {
    parse(json!({"config": config})).config
}

#[track_caller]
fn refused(config: Value, message: &str) {
    let request = json!({"config": config}).to_string();
    match Request::parse(&request) {
        Ok(_) => panic!("{request} should be refused"),
        Err(error) => assert_eq!(error.to_string(), format!("Invalid adapter config: {message}")),
    }
}

fn pairs(want: &[(&str, &str)]) -> Vec<(String, String)> {
    want.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn empty_request_has_every_default() {
    let request = parse(json!({}));
    assert_eq!((request.run_id.as_str(), request.session_id.as_str()), ("", ""));
    assert_eq!(request.agent, Agent::default());
    assert_eq!(request.auth_token, None);
    assert!(request.config == Config::default());
    assert_eq!(request.task_label(), None);
    assert_eq!(request.agent_label(), None);
}

#[test]
fn whole_request_is_read_and_prints_no_token() {
    let request = parse(json!({
        "runId": "run 1", "agent": {"id": "a@1", "companyId": "c", "name": "Ann"},
        "runtime": {"sessionId": "s1", "sessionParams": null}, "config": null, "context": [],
        "authToken": "t", "hostEnv": {"PATH": "/bin", "N": 1}, "tmpDir": "/tmp"}));
    assert_eq!(request.run_label().as_deref(), Some("run1"));
    assert_eq!(request.agent_label().as_deref(), Some("a1"));
    assert_eq!(request.session_label().as_deref(), Some("s1"));
    assert_eq!(request.auth_token.as_deref(), Some("t"));
    assert_eq!(request.host_env.get("PATH"), Some("/bin"));
    assert_eq!(request.host_env.get("N"), None);
    assert_eq!(request.host_env.tmp_dir, "/tmp");
    assert!(!format!("{request:?}").contains("\"t\""), "tokens are not printed");
}

#[test]
fn session_params_win_over_the_session_id() {
    for (runtime, want) in [
        (json!({"sessionId": "old", "sessionParams": {"sessionId": "new"}}), "new"),
        (json!({"sessionId": "old", "sessionParams": {"sessionId": ""}}), "old"),
        (json!({"sessionId": "old", "sessionParams": {"sessionId": 7}}), "old"),
        (json!({"sessionId": "old", "sessionParams": []}), "old"),
        (json!({"sessionId": null}), ""),
        (json!(null), ""),
    ] {
        assert_eq!(parse(json!({"runtime": runtime})).session_id, want, "{runtime}");
    }
}

// docs/contract.md, "Deliberate differences": one task id for label and environment.
#[test]
fn task_id_falls_back_to_the_issue_id() {
    for (context, want) in [
        (json!({"taskId": "t", "issueId": "i"}), Some("t")),
        (json!({"taskId": "", "issueId": "i"}), Some("i")),
        (json!({"taskId": "  ", "issueId": "i"}), Some("i")),
        (json!({"taskId": 5, "issueId": " i "}), Some("i")),
        (json!({"taskId": null}), None),
        (json!({"issueId": "é"}), None),
    ] {
        assert_eq!(parse(json!({"context": context})).task_label().as_deref(), want, "{context}");
    }
}

#[test]
fn context_fields_are_trimmed_and_blank_ones_absent() {
    let context = parse(json!({"context": {
        "a": " x ", "blank": " ", "n": 1, "nothing": null,
        "paperclipWorkspace": {"cwd": " /w ", "source": " s "}}}))
    .context;
    assert_eq!(context.text("a"), Some("x"));
    assert_eq!(context.text("blank"), None);
    assert_eq!(context.first_text("nothing", "a"), Some("x"));
    assert_eq!(context.first_text("blank", "a"), None);
    assert_eq!(context.first_text("n", "a"), None);
    assert_eq!(context.workspace_cwd(), Some(" /w "));
    assert_eq!(context.workspace_text("source"), Some("s"));
}

#[test]
fn text_that_is_not_a_json_object_is_refused() {
    assert_eq!(Request::parse("[]").unwrap_err().to_string(), "The run request is not a JSON object");
    let error = Request::parse("{").unwrap_err().to_string();
    assert!(error.starts_with("The run request is not valid JSON: "), "{error}");
}

#[test]
fn half_a_surrogate_pair_in_the_context_is_accepted() {
    let request = Request::parse(r#"{"context":{"wakeReason":"cut \ud83d"}}"#).unwrap();
    assert_eq!(request.context.text("wakeReason"), Some("cut \u{fffd}"));
}

#[test]
fn settings_of_the_right_type_are_taken() {
    let got = config(json!({
        "timeoutSec": 90, "graceSec": 0.5, "retainJobs": true, "reattachOrphanedJobs": false,
        "hostShutdown": "leave", "announceHarness": false, "claudeHome": "agent", "unschedulableGraceSec": 1.5, "imagePullGraceSec": 7, "resultGraceSec": 90,
        "apiOutageSec": 45, "podStartTimeoutSec": 0.5, "queueTimeoutSec": 30, "kubeconfig": "/k", "namespace": "agents-1",
        "secretRef": "my.secret", "instructionsFilePath": "  /i.md\n", "model": "m", "effort": "high",
        "maxTurnsPerRun": 12, "dangerouslySkipPermissions": false, "extraArgs": ["--a", "", "b c"],
        "cwd": "/w", "image": "r/i:1", "imagePullPolicy": "Always", "serviceAccountName": "sa",
        "ttlSecondsAfterFinished": 60, "enableRtk": true, "rtkMaxOutputBytes": 1000}));
    let want = Config {
        timeout_sec: 90.0,
        grace_sec: 0.5,
        retain_jobs: true,
        reattach_orphaned_jobs: false,
        host_shutdown: Some(HostShutdown::Leave),
        announce_harness: false,
        claude_home: ClaudeHome::Agent,
        unschedulable_grace: Duration::from_millis(1500),
        image_pull_grace: Duration::from_secs(7),
        result_grace: Duration::from_secs(90),
        api_outage: Duration::from_secs(45),
        pod_start_timeout: Duration::from_millis(500),
        queue_timeout: Some(Duration::from_secs(30)),
        kubeconfig: Some("/k".into()),
        namespace: Some("agents-1".into()),
        secret_ref: "my.secret".into(),
        instructions_file_path: Some("/i.md".into()),
        model: "m".into(),
        effort: "high".into(),
        max_turns_per_run: Some(12),
        dangerously_skip_permissions: false,
        extra_args: vec!["--a".into(), String::new(), "b c".into()],
        cwd: Some("/w".into()),
        image: Some("r/i:1".into()),
        image_pull_policy: "Always".into(),
        service_account_name: Some("sa".into()),
        ttl_seconds_after_finished: 60,
        enable_rtk: true,
        rtk_max_output_bytes: 1000,
        ..Config::default()
    };
    assert!(got == want, "{:?}", got.notes);
}

#[test]
fn empty_texts_and_nulls_are_unset() {
    let got = config(json!({
        "namespace": "", "image": "", "imagePullPolicy": "", "hostShutdown": "", "serviceAccountName": null,
        "tolerations": "  ", "labels": "", "nodeSelector": " \n ", "instructionsFilePath": " ", "secretRef": "",
        "resources.limits.cpu": "", "resources": {"limits": {"cpu": "", "memory": null}}, "timeoutSec": null,
        "env": null, "extraArgs": null}));
    assert!(got == Config::default(), "{:?}", got.notes);
}

#[test]
fn settings_of_a_wrong_type_fall_back_and_are_noted() {
    let got = config(json!({
        "timeoutSec": "90", "retainJobs": "true", "namespace": 5, "model": ["m"], "extraArgs": "--a",
        "tolerations": {"key": "k"}, "labels": [1], "nodeSelector": {"disk": true, "zone": "a"}, "env": "A=1",
        "resources.requests.cpu": 2, "hostShutdown": false, "maxTurnsPerRun": true}));
    let want =
        Config { node_selector: pairs(&[("zone", "a")]), notes: got.notes.clone(), ..Config::default() };
    assert!(got == want);
    for note in [
        "config.timeoutSec ignored: it is a string, not a number",
        "config.retainJobs ignored: it is a string, not true or false",
        "config.namespace ignored: it is a number, not a string",
        "config.extraArgs ignored: it is a string, not an array of strings",
        "config.nodeSelector.disk ignored: it is a boolean, not a string",
        "config.env ignored: it is a string, not an object",
    ] {
        assert!(got.notes.iter().any(|got| got == note), "{note}: {:?}", got.notes);
    }
    assert_eq!(got.notes.len(), 12);
}

// docs/contract.md, "Deliberate differences": the host's form sends thinkingEffort, and 0 for a number field that was
// not filled in.
#[test]
fn effort_has_two_names_and_effort_wins() {
    assert_eq!(config(json!({"thinkingEffort": "low"})).effort, "low");
    assert_eq!(config(json!({"effort": "", "thinkingEffort": "low"})).effort, "low");
    assert_eq!(config(json!({"effort": "high", "thinkingEffort": "low"})).effort, "high");
}

#[test]
fn zero_of_an_unfilled_form_field_is_unset() {
    let got = config(json!({
        "ttlSecondsAfterFinished": 0, "maxTurnsPerRun": 0, "rtkMaxOutputBytes": 0, "timeoutSec": 0,
        "unschedulableGraceSec": 0}));
    let note = "ttlSecondsAfterFinished 0 counts as unset: finished Jobs are kept for 300 s";
    assert!(got == Config { notes: vec![note.into()], ..Config::default() }, "{:?}", got.notes);

    let got = config(json!({"rtkMaxOutputBytes": 0, "enableRtk": true}));
    assert_eq!(got.rtk_max_output_bytes, 50_000);
    assert_eq!(got.notes, ["rtkMaxOutputBytes 0 counts as unset: tool output is cut at 50000 bytes"]);
    assert_eq!(config(json!({"maxTurnsPerRun": -1})).max_turns_per_run, None);
}

#[test]
fn tolerations_are_an_array_or_its_json_text() {
    let array = json!([{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
                       {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5, "value": null}]);
    let text = config(json!({"tolerations": array.to_string()})).tolerations;
    assert_eq!(text, config(json!({"tolerations": array})).tolerations);
    assert_eq!(
        serde_json::to_value(&text).unwrap(),
        json!([{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
               {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}])
    );
    assert!(config(json!({"tolerations": []})).tolerations.is_empty());
    assert!(config(json!({"tolerations": "[]"})).tolerations.is_empty());
}

// docs/contract.md, "Deliberate differences": the form stores dotted keys, people write nested objects.
#[test]
fn resources_are_flat_or_nested_and_flat_wins() {
    let got = config(json!({
        "resources.requests.cpu": "250m",
        "resources": {"requests": {"cpu": "9", "memory": "512Mi"}, "limits": {"memory": "1Gi", "cpu": 2}}}));
    let want = Resources {
        requests_cpu: "250m".into(),
        requests_memory: "512Mi".into(),
        limits_cpu: "4000m".into(),
        limits_memory: "1Gi".into(),
    };
    assert_eq!(got.resources, want);
    assert_eq!(got.notes.len(), 1, "{:?}", got.notes);
}

#[test]
fn default_resources_give_way_to_a_configured_value() {
    let got = config(json!({"resources.requests.cpu": "6", "resources.limits.memory": "1Gi"}));
    let want = Resources {
        requests_cpu: "6".into(),
        requests_memory: "1Gi".into(),
        limits_cpu: "6".into(),
        limits_memory: "1Gi".into(),
    };
    assert_eq!(got.resources, want);
    assert_eq!(
        got.notes,
        [
            "resources.requests.cpu 6 is above the default limit 4000m: resources.limits.cpu is 6 too",
            "resources.limits.memory 1Gi is below the default request 2Gi: resources.requests.memory is 1Gi too",
        ]
    );
    let equal = config(json!({"resources.requests.cpu": "100m", "resources.limits.cpu": "0.1"}));
    assert!(equal.notes.is_empty());
}

#[test]
fn key_values_are_an_object_its_json_or_lines() {
    let want = pairs(&[("disk", "ssd"), ("zone", "a=b"), ("empty", "")]);
    // `a=b` is not a label value, so the shape is tested with labels that are not sent to Kubernetes.
    let reserved = |entries: &[(String, String)]| -> Vec<(String, String)> {
        entries.iter().map(|(key, value)| (format!("paperclip.io/{key}"), value.clone())).collect()
    };
    let want = reserved(&want);
    let object: Map<String, Value> = want.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let lines = "# comment\r\n paperclip.io/disk = hdd \r\n\n\tpaperclip.io/zone=a=b\npaperclip.io/empty=\n\
                 paperclip.io/disk=ssd";
    for labels in [json!(object), json!(Value::from(object.clone()).to_string()), json!(lines)] {
        let got = config(json!({"labels": labels}));
        assert_eq!(got.labels, want, "{labels}");
        assert!(got.notes.is_empty(), "{:?}", got.notes);
    }
    let got = config(json!({"nodeSelector": "disk=ssd\n=x\nnonsense"}));
    assert_eq!(got.node_selector, pairs(&[("disk", "ssd")]));
    assert_eq!(got.notes.len(), 2);
    assert_eq!(config(json!({"nodeSelector": "[1]"})).node_selector, []);
}

#[test]
fn env_keeps_order_and_empty_strings() {
    let got = config(json!({"env": {"Z": "1", "A": "", "N": 5, "O": {"type": "plain"}}}));
    assert_eq!(got.env, pairs(&[("Z", "1"), ("A", "")]));
    assert_eq!(got.notes.len(), 2);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn settings_that_cannot_work_are_refused_by_name() {
    let seconds = "must be between 0 and 2147483647 seconds";
    let subdomain = "a name is at most 253 of a-z, 0-9, - and ., with a letter or digit at both ends of each part \
                     between dots";
    let label_key = "a label's key is at most 63 letters, digits, -, _ and ., with a letter or digit at both ends \
                     and optionally a DNS name and / before it";
    let label_value =
        "a label's value is at most 63 letters, digits, -, _ and ., with a letter or digit at both ends";
    let quantity = "must be a Kubernetes quantity such as 500m, 0.5, 512Mi or 2Gi, not negative";
    let nul = "a NUL character can be in no argument, path or variable";
    let no_array = "must be a JSON array of tolerations";
    let annotation = "an annotation's key is at most 63 letters, digits, -, _ and ., optionally with a DNS name and / before \
                      it, and not one of paperclip.io";
    for (config, message) in [
        (
            json!({"podAnnotations": {"paperclip.io/end-token": "x"}}),
            format!("podAnnotations = \"paperclip.io/end-token\": {annotation}"),
        ),
        (json!({"timeoutSec": -1}), format!("timeoutSec = -1: {seconds}")),
        (json!({"graceSec": -0.5}), format!("graceSec = -0.5: {seconds}")),
        (json!({"timeoutSec": 1e300}), format!("timeoutSec = 1e+300: {seconds}")),
        (json!({"unschedulableGraceSec": -3}), format!("unschedulableGraceSec = -3: {seconds}")),
        (json!({"imagePullGraceSec": -1}), format!("imagePullGraceSec = -1: {seconds}")),
        (json!({"resultGraceSec": -1}), format!("resultGraceSec = -1: {seconds}")),
        (json!({"apiOutageSec": -1}), format!("apiOutageSec = -1: {seconds}")),
        (json!({"podStartTimeoutSec": -1}), format!("podStartTimeoutSec = -1: {seconds}")),
        (json!({"queueTimeoutSec": -1}), format!("queueTimeoutSec = -1: {seconds}")),
        (
            json!({"ttlSecondsAfterFinished": -1}),
            "ttlSecondsAfterFinished = -1: must be a whole number between 0 and 2147483647".into(),
        ),
        (
            json!({"ttlSecondsAfterFinished": 1.5}),
            "ttlSecondsAfterFinished = 1.5: must be a whole number between 0 and 2147483647".into(),
        ),
        (
            json!({"maxTurnsPerRun": 2.5}),
            "maxTurnsPerRun = 2.5: must be a whole number between 0 and 9007199254740991".into(),
        ),
        (
            json!({"rtkMaxOutputBytes": -5}),
            "rtkMaxOutputBytes = -5: must be a whole number between 0 and 9007199254740991".into(),
        ),
        (
            json!({"imagePullPolicy": "Sometimes"}),
            "imagePullPolicy = \"Sometimes\": must be one of IfNotPresent, Always, Never".into(),
        ),
        (json!({"hostShutdown": "stay"}), "hostShutdown = \"stay\": must be one of delete, leave".into()),
        (
            json!({"namespace": "My NS"}),
            "namespace = \"My NS\": a namespace is at most 63 of a-z, 0-9 and -, with a letter or digit at both ends"
                .into(),
        ),
        (json!({"serviceAccountName": "Sa"}), format!("serviceAccountName = \"Sa\": {subdomain}")),
        (json!({"secretRef": "a/b"}), format!("secretRef = \"a/b\": {subdomain}")),
        (json!({"cwd": "work"}), "cwd = \"work\": must be an absolute path".into()),
        (
            json!({"paperclipApiUrl": "http://a b"}),
            "paperclipApiUrl = \"http://a b\": must have no spaces".into(),
        ),
        (json!({"image": "a b"}), "image = \"a b\": an image name has no spaces".into()),
        (json!({"labels": {"a b": "c"}}), format!("labels = \"a b\": {label_key}")),
        (json!({"labels": "a=b c"}), format!("labels.a = \"b c\": {label_value}")),
        (
            json!({"labels": {"job-name": "x"}}),
            "labels = \"job-name\": Kubernetes' Job controller sets this label by itself".into(),
        ),
        (json!({"nodeSelector": {"k": "-"}}), format!("nodeSelector.k = \"-\": {label_value}")),
        (json!({"resources.limits.cpu": "lots"}), format!("resources.limits.cpu = \"lots\": {quantity}")),
        (
            json!({"resources": {"requests": {"memory": "-1Gi"}}}),
            format!("resources.requests.memory = \"-1Gi\": {quantity}"),
        ),
        (
            json!({"resources.limits.memory": "512m"}),
            "resources.limits.memory = \"512m\": must be whole bytes, such as 512Mi: m is a thousandth of a byte".into(),
        ),
        (
            json!({"resources.requests.cpu": "2", "resources.limits.cpu": "500m"}),
            "resources.requests.cpu = \"2\": must not exceed resources.limits.cpu (500m)".into(),
        ),
        (json!({"extraArgs": ["a", "b\0"]}), format!("extraArgs[1] = \"b\\u0000\": {nul}")),
        (json!({"model": "\0"}), format!("model = \"\\u0000\": {nul}")),
        (
            json!({"env": {"A B": "x"}}),
            "env = \"A B\": a variable's name is made of letters, digits, _, - and ., and begins with no digit".into(),
        ),
        (json!({"env": {"KEY": "s3cret\0"}}), format!("env.KEY = (hidden): {nul}")),
        (json!({"tolerations": "{}"}), format!("tolerations = \"{{}}\": {no_array}")),
        (
            json!({"tolerations": "gpu"}),
            format!("tolerations = \"gpu\": {no_array} (expected value at line 1 column 1)"),
        ),
        (json!({"tolerations": ["gpu"]}), "tolerations[0] = \"gpu\": must be an object".into()),
        (json!({"tolerations": [{"key": 1}]}), "tolerations[0].key = 1: must be a string".into()),
        (
            json!({"tolerations": [{"key": "k"}, {"key": "k", "operator": "In"}]}),
            "tolerations[1].operator = \"In\": must be Exists or Equal".into(),
        ),
        (
            json!({"tolerations": [{"key": "k", "effect": "noschedule"}]}),
            "tolerations[0].effect = \"noschedule\": must be NoSchedule, PreferNoSchedule or NoExecute".into(),
        ),
        (
            json!({"tolerations": [{"value": "v"}]}),
            "tolerations[0].operator = \"\": must be Exists when there is no key".into(),
        ),
        (
            json!({"tolerations": [{"key": "k!", "operator": "Exists"}]}),
            "tolerations[0].key = \"k!\": must be the key of a taint".into(),
        ),
        (
            json!({"tolerations": [{"key": "k", "operator": "Exists", "value": "v"}]}),
            "tolerations[0].value = \"v\": must be absent with the operator Exists".into(),
        ),
        (
            json!({"tolerations": [{"key": "k", "value": "v v"}]}),
            "tolerations[0].value = \"v v\": must be the value of a taint".into(),
        ),
        (
            json!({"tolerations": [{"key": "k", "tolerationSeconds": 5}]}),
            "tolerations[0].tolerationSeconds = 5: has a meaning only with the effect NoExecute".into(),
        ),
        (
            json!({"tolerations": [{"key": "k", "effect": "NoExecute", "tolerationSeconds": 1.5}]}),
            "tolerations[0].tolerationSeconds = 1.5: must be a whole number of seconds".into(),
        ),
        (
            json!({"tolerations": [{"key": "k", "effects": "NoExecute"}]}),
            "tolerations[0].effects = \"NoExecute\": known are key, operator, value, effect and tolerationSeconds".into(),
        ),
    ] {
        refused(config, &message);
    }
}

// The debug assertion in `Raw::get` holds the other direction: no key is read that is not in the list.
#[test]
fn every_config_key_is_read() {
    for key in CONFIG_KEYS {
        let (key, value) = match *key {
            "resources" => ("resources.limits.cpu", json!({"resources": {"limits": {"cpu": [[]]}}})),
            key => (key, json!({key: [[]]})),
        };
        let mentioned = match Request::parse(&json!({"config": value}).to_string()) {
            Ok(request) => request.config.notes.join(" "),
            Err(error) => error.to_string(),
        };
        assert!(mentioned.contains(key), "{key}: {mentioned:?}");
    }
}

#[test]
fn long_refused_values_are_shortened() {
    let error = Request::parse(&json!({"config": {"namespace": "é".repeat(500)}}).to_string()).unwrap_err();
    assert!(
        error.to_string().contains(&format!("namespace = \"{}…: a namespace", "é".repeat(79))),
        "{error}"
    );
}

#[test]
fn fractions_of_a_deadline_are_noted() {
    let got = config(json!({"timeoutSec": 1.5}));
    assert_eq!(got.timeout_sec, 1.5);
    assert_eq!(got.notes, ["timeoutSec 1.5: Kubernetes counts whole seconds, the Job's deadline is 2"]);
}

/// Every setting that is read here, and some that are not.
fn keys() -> Vec<&'static str> {
    [CONFIG_KEYS, &["paperclipRuntimeSkills", "promptTemplate", "unknown"]].concat()
}

/// Any JSON, with a bias towards what settings look like.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2i64..5000).prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        "[a-z]{1,8}(=[a-z]{0,4})?".prop_map(Value::from),
        "[0-9.]{1,4}[a-zA-Z]{0,2}".prop_map(Value::from),
        prop::sample::select(vec![
            "delete",
            "leave",
            "Always",
            "[]",
            "[{\"operator\":\"Exists\"}]",
            "Exists",
            "\0"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![
            "\\PC{0,6}",
            prop::sample::select(vec![
                "requests", "limits", "cpu", "memory", "key", "operator", "effect", "value"
            ])
            .prop_map(str::to_owned),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_config_is_resolved_or_refused(
        settings in prop::collection::vec((prop::sample::select(keys()), any_json()), 0..8),
    ) {
        let config: Map<String, Value> = settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        match Config::resolve(&config) {
            Ok(config) => {
                prop_assert!(config.timeout_sec >= 0.0 && config.grace_sec >= 0.0);
                prop_assert!(config.ttl_seconds_after_finished > 0 && config.rtk_max_output_bytes > 0);
                for (key, value) in &config.node_selector {
                    prop_assert!(syntax::is_label_key(key) && syntax::is_label_value(value));
                }
                for (name, value) in &config.env {
                    prop_assert!(syntax::is_env_name(name) && !value.contains('\0'));
                }
            }
            Err(RequestError::Config { key, .. }) => {
                prop_assert!(keys().iter().any(|known| key.starts_with(known)), "{}", key);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn any_json_is_a_request_or_refused(json in any_json(), text in "\\PC{0,40}") {
        let _ = Request::parse(&json.to_string());
        let _ = Request::parse(&text);
        let _ = Request::parse(&json!({"runtime": json, "agent": json, "hostEnv": json, "context": json}).to_string());
    }
}

#[test]
fn limit_of_zero_counts_as_unset() {
    let got = config(json!({"resultGraceSec": 0, "apiOutageSec": 0}));
    assert_eq!(
        got.notes,
        ["resultGraceSec 0 counts as unset: 60 s", "apiOutageSec 0 counts as unset: 600 s"]
    );
    assert!(got == Config { notes: got.notes.clone(), ..Config::default() });
}

#[test]
fn mcp_servers_are_an_object_or_its_text_also_as_in_a_file() {
    let servers = json!({"a": {"type": "http", "url": "https://mcp.example"}, "b": {"command": "serve"}});
    for value in [
        servers.clone(),
        json!({"mcpServers": servers}),
        Value::from(servers.to_string()),
        Value::from(json!({"mcpServers": servers}).to_string()),
    ] {
        assert_eq!(Value::Object(config(json!({"mcpServers": value})).mcp_servers), servers);
    }
    for none in [json!(""), json!(" \n"), json!({}), Value::Null] {
        assert!(config(json!({"mcpServers": none})).mcp_servers.is_empty());
    }
}

#[test]
fn mcp_server_without_url_or_command_is_refused() {
    for (value, key) in [
        (json!("{"), "mcpServers"),
        (json!([1]), "mcpServers"),
        (json!({"a": "secret-x"}), "mcpServers.a"),
        (json!({"a": {"url": " ", "headers": {"X": "secret-x"}}}), "mcpServers.a"),
        (json!({"a\n": {"url": "https://secret-x"}}), "mcpServers"),
    ] {
        let request = json!({"config": {"mcpServers": value}}).to_string();
        let Err(error) = Request::parse(&request) else { panic!("{request}") };
        let error = error.to_string();
        assert!(error.contains(key) && !error.contains("secret-x"), "{error}");
    }
}

/// A value of a setting that is of another type than the setting, or is an odd text.
fn odd_values() -> Vec<Value> {
    vec![
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(1.5),
        json!(1e308),
        json!("true"),
        json!("yes"),
        json!("1"),
        json!("30s"),
        json!("NaN"),
        json!("null"),
        json!(" x "),
        json!("a,b"),
        json!("a\nb"),
        json!("[\"a\"]"),
        json!("{\"a\": \"b\"}"),
        json!("{\"a\": {\"url\": \"u\"}}"),
        json!("{"),
        json!("é"),
        json!("\u{202e}"),
        json!(["a"]),
        json!([1]),
        json!([null]),
        json!([[]]),
        json!({"a": "b"}),
        json!({"a": 1}),
        json!({"a": null}),
        json!({"a": {}}),
        json!({"requests": 1}),
        json!({"requests": {"cpu": true}}),
        json!({"limits": {"gpu": "1"}}),
        json!({"limit": {"cpu": "1"}}),
    ]
}

#[test]
fn no_odd_value_of_a_setting_is_silently_ignored() {
    for key in CONFIG_KEYS {
        let of_default = |value: &Value| match *key {
            "dangerouslySkipPermissions"
            | "reattachOrphanedJobs"
            | "announceHarness"
            | "inheritScheduling" => *value == json!(true),
            "retainJobs" | "enableRtk" | "testWithJob" => *value == json!(false),
            "timeoutSec" | "unschedulableGraceSec" | "queueTimeoutSec" | "rtkMaxOutputBytes" => {
                *value == json!(0)
            }
            "maxTurnsPerRun" => [json!(0), json!(-1)].contains(value),
            // YAML's null.
            "podTemplate" => *value == json!("null"),
            "resources" => *value == json!({"a": null}),
            _ => false,
        };
        for value in odd_values() {
            let request = json!({"config": {*key: value}}).to_string();
            match Request::parse(&request) {
                Err(RequestError::Config { key: named, .. }) => {
                    assert!(named.starts_with(key), "{key} = {value}: {named}");
                }
                Err(other) => panic!("{key} = {value}: {other}"),
                Ok(Request { config, .. }) => {
                    assert!(config != Config::default() || of_default(&value), "{key} = {value} is ignored");
                }
            }
        }
    }
}

#[test]
fn what_resources_hold_besides_cpu_and_memory_is_noted() {
    for (resources, note) in [
        (json!("2Gi"), "config.resources ignored: it is a string, not an object with requests and limits"),
        (json!({"limit": {}}), "config.resources.limit ignored: known are requests and limits"),
        (
            json!({"limits": "2Gi"}),
            "config.resources.limits ignored: it is a string, not an object with cpu and memory",
        ),
        (
            json!({"limits": {"nvidia.com/gpu": 1}}),
            "config.resources.limits.nvidia.com/gpu ignored: known are cpu and memory, others go into podTemplate",
        ),
    ] {
        assert_eq!(config(json!({"resources": resources})).notes, [note]);
    }
}

#[test]
fn annotation_key_is_checked_in_lower_case() {
    let annotations = json!({"Example.com/Key": "x"});
    assert_eq!(
        config(json!({"podAnnotations": annotations})).pod_annotations,
        pairs(&[("Example.com/Key", "x")])
    );
    let reserved = json!({"config": {"podAnnotations": {"Paperclip.io/run-id": "x"}}}).to_string();
    assert!(Request::parse(&reserved).is_err());
}
