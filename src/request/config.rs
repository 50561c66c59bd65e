//! The adapter's settings: their names, defaults and bounds.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LocalObjectReference, PodTemplateSpec, Toleration};
use serde_json::{Map, Value};

use super::error::RequestError;
use super::raw::{MAX_SECONDS, NUL, Raw};
use super::resources::Resources;
use super::syntax;
use crate::js_semantics;
use crate::manifest::labels::{RESERVED_ANNOTATION_PREFIX, RESERVED_LABEL_PREFIXES};

/// The largest whole number a JavaScript number holds exactly.
const MAX_COUNT: f64 = 9_007_199_254_740_991.0;

/// A kubelet tries again after 10 s, 30 s and 70 s: the second of these gets half a minute to succeed.
const DEFAULT_IMAGE_PULL_GRACE: Duration = Duration::from_secs(60);
/// What the CLI does after its result, such as hooks at the end of a session, takes seconds.
const DEFAULT_RESULT_GRACE: Duration = Duration::from_secs(60);
/// An upgrade of a control plane takes minutes.
const DEFAULT_API_OUTAGE: Duration = Duration::from_secs(600);
/// A large image takes minutes on a slow registry.
const DEFAULT_POD_START_TIMEOUT: Duration = Duration::from_secs(600);
const DEFAULT_SECRET: &str = "paperclip-secrets";
const DEFAULT_TTL: i32 = 300;
const DEFAULT_RTK_BYTES: u64 = 50_000;
const SUBDOMAIN: &str = "a name is at most 253 of a-z, 0-9, - and ., with a letter or digit at both ends of each part between dots";

/// Labels that the Job controller sets on the pods itself; the API server refuses a Job that has them.
pub(super) const CONTROLLER_LABELS: [&str; 4] =
    ["job-name", "controller-uid", "batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid"];

/// Every setting that is read here, in the order of docs/configuration.md. `Raw::get` accepts no other key, and
/// `__test__/unit/guards.test.js` compares the list with that page, the form and the documentation. The two prompt
/// templates and the skills are read in JavaScript (`js/prepare.js`).
pub(super) const CONFIG_KEYS: &[&str] = &[
    "model",
    "effort",
    "thinkingEffort",
    "maxTurnsPerRun",
    "instructionsFilePath",
    "dangerouslySkipPermissions",
    "extraArgs",
    "env",
    "cwd",
    "namespace",
    "image",
    "imagePullPolicy",
    "serviceAccountName",
    "kubeconfig",
    "resources",
    "resources.requests.cpu",
    "resources.requests.memory",
    "resources.limits.cpu",
    "resources.limits.memory",
    "nodeSelector",
    "labels",
    "tolerations",
    "ttlSecondsAfterFinished",
    "timeoutSec",
    "graceSec",
    "retainJobs",
    "reattachOrphanedJobs",
    "hostShutdown",
    "announceHarness",
    "claudeHome",
    "unschedulableGraceSec",
    "imagePullGraceSec",
    "resultGraceSec",
    "apiOutageSec",
    "podStartTimeoutSec",
    "queueTimeoutSec",
    "enableRtk",
    "rtkMaxOutputBytes",
    "secretRef",
    "inheritScheduling",
    "priorityClassName",
    "runtimeClassName",
    "imagePullSecrets",
    "podAnnotations",
    "terminationGracePeriodSeconds",
    "runAsUser",
    "fsGroup",
    "paperclipApiUrl",
    "podTemplate",
    "mcpServers",
    "testWithJob",
];

/// The adapter's settings, resolved: every value is present, bounded and acceptable to Kubernetes.
#[derive(Clone, PartialEq)]
pub(crate) struct Config {
    /// `timeoutSec`: seconds after which Kubernetes ends the Job; 0 = never. Finite, not negative.
    pub(crate) timeout_sec: f64,
    /// `graceSec`: seconds to wait past the deadline for the Job's end (60).
    pub(crate) grace_sec: f64,
    /// `retainJobs`: finished Jobs are not deleted (false).
    pub(crate) retain_jobs: bool,
    /// `reattachOrphanedJobs`: a live Job of the same agent, task and session is taken over (true).
    pub(crate) reattach_orphaned_jobs: bool,
    /// `hostShutdown`: what happens to live Jobs when the host receives SIGTERM; without it they are left where the host
    /// has taken the event that lets it continue with them, else deleted.
    pub(crate) host_shutdown: Option<HostShutdown>,
    /// `announceHarness`: the host is given an event that names the CLI (true).
    pub(crate) announce_harness: bool,
    /// `unschedulableGraceSec`: how long a pod may stay unschedulable before the run fails (zero).
    pub(crate) unschedulable_grace: Duration,
    /// `imagePullGraceSec`: for how long pulling an image may fail before the run does (60 s, and at most
    /// `podStartTimeoutSec`).
    pub(crate) image_pull_grace: Duration,
    /// `resultGraceSec`: how long the CLI may stay silent after its result before its Job is deleted (60 s). Above 0.
    pub(crate) result_grace: Duration,
    /// `apiOutageSec`: how long the API may be away in mid-run before the run's end is called unknown (600 s). Above 0.
    pub(crate) api_outage: Duration,
    /// `podStartTimeoutSec`: how long a pod may make no progress on its way to running, and its Job be without
    /// a pod (600 s). Above 0.
    pub(crate) pod_start_timeout: Duration,
    /// `queueTimeoutSec`: how long a Job may be suspended, or its pod gated; without it for as long as the queue takes.
    /// Above 0.
    pub(crate) queue_timeout: Option<Duration>,
    /// `claudeHome`: whose the CLI's folder of settings, sessions and credentials is (shared).
    pub(crate) claude_home: ClaudeHome,
    /// `kubeconfig`: path of a kubeconfig file; without one the service account of the host's pod is used.
    pub(crate) kubeconfig: Option<String>,
    /// `namespace`: where Jobs run, a DNS-1123 label; without one the host's namespace.
    pub(crate) namespace: Option<String>,
    /// `secretRef`: the Secret with the API keys whose existence the environment test checks (`paperclip-secrets`). No
    /// run reads it: a Job inherits its variables from the host's own pod.
    pub(crate) secret_ref: String,
    /// `instructionsFilePath`, trimmed: a Markdown file on the host, appended to the system prompt.
    pub(crate) instructions_file_path: Option<String>,
    /// `model`: Claude's model id; empty = the CLI's default.
    pub(crate) model: String,
    /// `effort`, else `thinkingEffort`; empty = the CLI's default.
    pub(crate) effort: String,
    /// `maxTurnsPerRun` when above 0.
    pub(crate) max_turns_per_run: Option<u64>,
    /// `dangerouslySkipPermissions`: the CLI asks for no permission (true: a pod has no one to answer).
    pub(crate) dangerously_skip_permissions: bool,
    /// `extraArgs`: appended to the CLI's arguments. No NUL in them.
    pub(crate) extra_args: Vec<String>,
    /// `env`: variables for the agent, in the host's order. Valid names, no NUL. Those that the host added are still
    /// among them; the manifest removes them.
    pub(crate) env: Vec<(String, String)>,
    /// `cwd`: the agent's directory when the context names none.
    pub(crate) cwd: Option<String>,
    /// `image`: the Job's image; without one the host's image.
    pub(crate) image: Option<String>,
    /// `imagePullPolicy`: `IfNotPresent` (default), `Always` or `Never`.
    pub(crate) image_pull_policy: String,
    /// `serviceAccountName` of the Job's pod, a DNS-1123 subdomain.
    pub(crate) service_account_name: Option<String>,
    /// `ttlSecondsAfterFinished`: seconds Kubernetes keeps a finished Job (300). Above 0.
    pub(crate) ttl_seconds_after_finished: i32,
    /// CPU and memory of the agent's container.
    pub(crate) resources: Resources,
    /// `nodeSelector`: label key and value, in the order given.
    pub(crate) node_selector: Vec<(String, String)>,
    /// `tolerations` of the Job's pod.
    pub(crate) tolerations: Vec<Toleration>,
    /// `labels`: further labels of Job and pod, in the order given; those with a reserved prefix are still
    /// among them.
    pub(crate) labels: Vec<(String, String)>,
    /// `enableRtk`: oversized tool output is cut (false).
    pub(crate) enable_rtk: bool,
    /// `rtkMaxOutputBytes`: where it is cut, in UTF-8 bytes (50,000). Above 0.
    pub(crate) rtk_max_output_bytes: u64,
    /// `inheritScheduling`: the Job's pod may run where the host's own pod may (true).
    pub(crate) inherit_scheduling: bool,
    /// `priorityClassName` of the Job's pod.
    pub(crate) priority_class_name: Option<String>,
    /// `runtimeClassName` of the Job's pod.
    pub(crate) runtime_class_name: Option<String>,
    /// `imagePullSecrets`: beside those of the host's own pod.
    pub(crate) image_pull_secrets: Vec<LocalObjectReference>,
    /// `podAnnotations`: annotations of the Job's pod, in the order given.
    pub(crate) pod_annotations: Vec<(String, String)>,
    /// `terminationGracePeriodSeconds` of the Job's pod, above 0; without it Kubernetes' 30 s.
    pub(crate) termination_grace_period_seconds: Option<i64>,
    /// `runAsUser`: the agent's user, above 0; without it that of the host's container.
    pub(crate) run_as_user: Option<i64>,
    /// `fsGroup`: the group of the pod's volumes, above 0; without it that of the host's own pod.
    pub(crate) fs_group: Option<i64>,
    /// `paperclipApiUrl`: where the agent reaches the control plane, an `http` or `https` URL.
    pub(crate) paperclip_api_url: Option<String>,
    /// `podTemplate`: merged over the Job's pod. Nothing in it breaks a run.
    pub(crate) pod_template: Option<Box<PodTemplateSpec>>,
    /// `mcpServers`: MCP servers of the agent by name, as the CLI's own files have them. Each has a `url` or a `command`.
    pub(crate) mcp_servers: Map<String, Value>,
    /// `testWithJob`: the environment test runs a Job (false). No run reads it.
    pub(crate) test_with_job: bool,
    /// What the user should know about how the settings were read: one line each, without prefix or line end.
    pub(crate) notes: Vec<String>,
}

/// Whose the CLI's folder of settings, sessions and credentials is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaudeHome {
    /// All agents have `.claude` of their common home.
    Shared,
    /// Each agent has one of its own on the shared volume.
    Agent,
}

/// What happens to live Jobs when the host receives SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostShutdown {
    /// They are deleted.
    Delete,
    /// They continue; the next host process can take them over.
    Leave,
}

impl Config {
    /// Resolves the host's raw settings.
    ///
    /// # Errors
    ///
    /// The first setting that has the right type and a value that cannot work.
    pub(crate) fn resolve(raw: &Map<String, Value>) -> Result<Self, RequestError> {
        let mut raw = Raw::new(raw);
        let timeout_sec = raw.timeout_sec()?;
        let image = raw.image()?;
        let pod_start_timeout = raw.limit("podStartTimeoutSec", DEFAULT_POD_START_TIMEOUT)?;
        Ok(Self {
            timeout_sec,
            grace_sec: raw.seconds("graceSec")?.unwrap_or(60.0),
            retain_jobs: raw.flag("retainJobs", false),
            reattach_orphaned_jobs: raw.flag("reattachOrphanedJobs", true),
            host_shutdown: raw.choice_if_set(
                "hostShutdown",
                &[("delete", HostShutdown::Delete), ("leave", HostShutdown::Leave)],
            )?,
            announce_harness: raw.flag("announceHarness", true),
            claude_home: raw
                .choice("claudeHome", &[("shared", ClaudeHome::Shared), ("agent", ClaudeHome::Agent)])?,
            unschedulable_grace: Duration::from_secs_f64(
                raw.seconds("unschedulableGraceSec")?.unwrap_or(0.0),
            ),
            image_pull_grace: raw
                .seconds("imagePullGraceSec")?
                .map_or(DEFAULT_IMAGE_PULL_GRACE.min(pod_start_timeout), Duration::from_secs_f64),
            result_grace: raw.limit("resultGraceSec", DEFAULT_RESULT_GRACE)?,
            api_outage: raw.limit("apiOutageSec", DEFAULT_API_OUTAGE)?,
            pod_start_timeout,
            queue_timeout: raw.queue_timeout()?,
            kubeconfig: raw.text("kubeconfig")?,
            namespace: raw.name(
                "namespace",
                syntax::is_dns_label,
                "a namespace is at most 63 of a-z, 0-9 and -, with a letter or digit at both ends",
            )?,
            secret_ref: raw
                .name("secretRef", syntax::is_dns_subdomain, SUBDOMAIN)?
                .unwrap_or_else(|| DEFAULT_SECRET.to_owned()),
            instructions_file_path: raw
                .text("instructionsFilePath")?
                .map(|path| js_semantics::trim(&path).to_owned())
                .filter(|path| !path.is_empty()),
            model: raw.text("model")?.unwrap_or_default(),
            effort: match raw.text("effort")? {
                Some(effort) => effort,
                None => raw.text("thinkingEffort")?.unwrap_or_default(),
            },
            max_turns_per_run: raw.max_turns_per_run()?,
            dangerously_skip_permissions: raw.flag("dangerouslySkipPermissions", true),
            extra_args: raw.extra_args()?,
            env: raw.env()?,
            cwd: raw.cwd()?,
            image,
            image_pull_policy: raw
                .choice(
                    "imagePullPolicy",
                    &[("IfNotPresent", "IfNotPresent"), ("Always", "Always"), ("Never", "Never")],
                )?
                .to_owned(),
            service_account_name: raw.name("serviceAccountName", syntax::is_dns_subdomain, SUBDOMAIN)?,
            ttl_seconds_after_finished: raw.ttl()?,
            resources: raw.resources()?,
            node_selector: raw.node_selector()?,
            tolerations: raw.tolerations()?,
            labels: raw.labels()?,
            enable_rtk: raw.flag("enableRtk", false),
            rtk_max_output_bytes: raw.rtk_max_output_bytes()?,
            inherit_scheduling: raw.flag("inheritScheduling", true),
            priority_class_name: raw.name("priorityClassName", syntax::is_dns_subdomain, SUBDOMAIN)?,
            runtime_class_name: raw.name("runtimeClassName", syntax::is_dns_subdomain, SUBDOMAIN)?,
            image_pull_secrets: raw.image_pull_secrets()?,
            pod_annotations: raw.pod_annotations()?,
            termination_grace_period_seconds: raw
                .positive("terminationGracePeriodSeconds", "Kubernetes' 30 s")?,
            run_as_user: raw.positive("runAsUser", "that of Paperclip's container")?,
            fs_group: raw.positive("fsGroup", "that of Paperclip's pod")?,
            paperclip_api_url: raw.paperclip_api_url()?,
            pod_template: raw.pod_template()?,
            mcp_servers: raw.mcp_servers()?,
            test_with_job: raw.flag("testWithJob", false),
            notes: raw.notes,
        })
    }
}

// `env` and `extraArgs` may hold secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("notes", &self.notes).finish_non_exhaustive()
    }
}

/// Settings with rules of their own.
impl Raw<'_> {
    fn timeout_sec(&mut self) -> Result<f64, RequestError> {
        let seconds = self.seconds("timeoutSec")?.unwrap_or(0.0);
        if seconds.fract() > 0.0 {
            let whole = seconds.ceil();
            self.note(format!(
                "timeoutSec {seconds}: Kubernetes counts whole seconds, the Job's deadline is {whole}"
            ));
        }
        Ok(seconds)
    }

    fn queue_timeout(&mut self) -> Result<Option<Duration>, RequestError> {
        let seconds = self.seconds("queueTimeoutSec")?.filter(|seconds| *seconds > 0.0);
        Ok(seconds.map(Duration::from_secs_f64))
    }

    /// A time limit. A form stores 0 for a field that was not filled in, and every wait of a run has a limit.
    fn limit(&mut self, key: &str, default: Duration) -> Result<Duration, RequestError> {
        Ok(match self.seconds(key)? {
            Some(seconds) if seconds > 0.0 => Duration::from_secs_f64(seconds),
            Some(_) => {
                self.note(format!("{key} 0 counts as unset: {} s", default.as_secs()));
                default
            }
            None => default,
        })
    }

    fn cwd(&mut self) -> Result<Option<String>, RequestError> {
        match self.text("cwd")? {
            Some(cwd) if !cwd.starts_with('/') => Err(self.refuse("cwd", "must be an absolute path")),
            cwd => Ok(cwd),
        }
    }

    fn image(&mut self) -> Result<Option<String>, RequestError> {
        let image = self.text("image")?;
        if let Some(image) = &image
            && image.chars().any(|c| c.is_whitespace() || c.is_control())
        {
            return Err(self.refuse("image", "an image name has no spaces"));
        }
        Ok(image)
    }

    fn max_turns_per_run(&mut self) -> Result<Option<u64>, RequestError> {
        const KEY: &str = "maxTurnsPerRun";
        // Below 0 is the habit of other tools for "no limit", and 0.1.49 took it as that.
        match self.number(KEY) {
            Some(turns) if turns > 0.0 => Ok(Some(self.whole(KEY, turns, MAX_COUNT)? as u64)),
            _ => Ok(None),
        }
    }

    // A form stores 0 for a number field that was not filled in. Taken literally, Kubernetes would delete the Job the
    // moment it finishes, with its log unread.
    fn ttl(&mut self) -> Result<i32, RequestError> {
        const KEY: &str = "ttlSecondsAfterFinished";
        let Some(seconds) = self.number(KEY) else { return Ok(DEFAULT_TTL) };
        let seconds = self.whole(KEY, seconds, MAX_SECONDS)?;
        if seconds == 0.0 {
            self.note(format!("{KEY} 0 counts as unset: finished Jobs are kept for {DEFAULT_TTL} s"));
            return Ok(DEFAULT_TTL);
        }
        Ok(seconds as i32)
    }

    fn rtk_max_output_bytes(&mut self) -> Result<u64, RequestError> {
        const KEY: &str = "rtkMaxOutputBytes";
        let Some(bytes) = self.number(KEY) else { return Ok(DEFAULT_RTK_BYTES) };
        let bytes = self.whole(KEY, bytes, MAX_COUNT)?;
        if bytes == 0.0 {
            if self.get("enableRtk") == Some(&Value::Bool(true)) {
                self.note(format!(
                    "{KEY} 0 counts as unset: tool output is cut at {DEFAULT_RTK_BYTES} bytes"
                ));
            }
            return Ok(DEFAULT_RTK_BYTES);
        }
        Ok(bytes as u64)
    }

    fn extra_args(&mut self) -> Result<Vec<String>, RequestError> {
        let Some(value) = self.get("extraArgs") else { return Ok(Vec::new()) };
        let Some(items) = value.as_array() else {
            self.mistyped("extraArgs", value, "an array of strings");
            return Ok(Vec::new());
        };
        let mut args = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match item.as_str() {
                Some(arg) if arg.contains('\0') => {
                    return Err(RequestError::config(format!("extraArgs[{index}]"), item, NUL));
                }
                Some(arg) => args.push(arg.to_owned()),
                None => self.mistyped(&format!("extraArgs[{index}]"), item, "a string"),
            }
        }
        Ok(args)
    }

    fn env(&mut self) -> Result<Vec<(String, String)>, RequestError> {
        let Some(value) = self.get("env") else { return Ok(Vec::new()) };
        let Some(map) = value.as_object() else {
            self.mistyped("env", value, "an object");
            return Ok(Vec::new());
        };
        let mut env = Vec::with_capacity(map.len());
        for (name, value) in map {
            let Some(text) = value.as_str() else {
                self.mistyped(&format!("env.{name}"), value, "a string");
                continue;
            };
            if !syntax::is_env_name(name) {
                let why =
                    "a variable's name is made of letters, digits, _, - and ., and begins with no digit";
                return Err(RequestError::config("env", &Value::from(name.as_str()), why));
            }
            if text.contains('\0') {
                return Err(RequestError::hidden(format!("env.{name}"), NUL));
            }
            env.push((name.clone(), text.to_owned()));
        }
        Ok(env)
    }

    fn node_selector(&mut self) -> Result<Vec<(String, String)>, RequestError> {
        let selector = self.key_values("nodeSelector");
        for (key, value) in &selector {
            check_label("nodeSelector", key, value)?;
        }
        Ok(selector)
    }

    fn image_pull_secrets(&mut self) -> Result<Vec<LocalObjectReference>, RequestError> {
        const KEY: &str = "imagePullSecrets";
        let names: Vec<String> = match self.get(KEY) {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => match serde_json::from_str(text) {
                Ok(Value::Array(items)) => self.secret_names(KEY, &items),
                _ => text.split([',', '\n']).map(|name| js_semantics::trim(name).to_owned()).collect(),
            },
            Some(Value::Array(items)) => self.secret_names(KEY, items),
            Some(other) => {
                self.mistyped(KEY, other, "an array of names");
                return Ok(Vec::new());
            }
        };
        let names = names.into_iter().filter(|name| !name.is_empty());
        names
            .map(|name| {
                if syntax::is_dns_subdomain(&name) {
                    Ok(LocalObjectReference { name })
                } else {
                    Err(RequestError::config(KEY, &Value::from(name), SUBDOMAIN))
                }
            })
            .collect()
    }

    /// Names, or objects with one, as Kubernetes writes them.
    fn secret_names(&mut self, key: &str, items: &[Value]) -> Vec<String> {
        let mut names = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match item.as_str().or_else(|| item.get("name")?.as_str()) {
                Some(name) => names.push(name.to_owned()),
                None => self.mistyped(&format!("{key}[{index}]"), item, "the name of a Secret"),
            }
        }
        names
    }

    fn pod_annotations(&mut self) -> Result<Vec<(String, String)>, RequestError> {
        const KEY: &str = "podAnnotations";
        let annotations = self.key_values(KEY);
        for (key, _) in &annotations {
            // Kubernetes checks the key of an annotation in lower case.
            let lower = key.to_ascii_lowercase();
            if !syntax::is_label_key(&lower) || lower.starts_with(RESERVED_ANNOTATION_PREFIX) {
                let why = "an annotation's key is at most 63 letters, digits, -, _ and ., optionally with a DNS name and \
                           / before it, and not one of paperclip.io";
                return Err(RequestError::config(KEY, &Value::from(key.as_str()), why));
            }
        }
        Ok(annotations)
    }

    /// A whole number above 0. A form stores 0 for a field that was not filled in.
    fn positive(&mut self, key: &str, default: &str) -> Result<Option<i64>, RequestError> {
        let Some(number) = self.number(key) else { return Ok(None) };
        let number = self.whole(key, number, MAX_SECONDS)?;
        if number == 0.0 {
            self.note(format!("{key} 0 counts as unset: it is {default}"));
            return Ok(None);
        }
        Ok(Some(number as i64))
    }

    fn paperclip_api_url(&mut self) -> Result<Option<String>, RequestError> {
        const KEY: &str = "paperclipApiUrl";
        let url =
            self.text(KEY)?.map(|url| js_semantics::trim(&url).to_owned()).filter(|url| !url.is_empty());
        match url {
            Some(url) if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) => {
                Err(self.refuse(KEY, "must begin with http:// or https://"))
            }
            Some(url) if url.chars().any(|c| js_semantics::is_space(c) || c.is_control()) => {
                Err(self.refuse(KEY, "must have no spaces"))
            }
            url => Ok(url),
        }
    }

    /// Servers by name, from an object or its JSON text, also within `mcpServers` as in the CLI's files. What stands there
    /// may be secret, so errors give names only.
    fn mcp_servers(&mut self) -> Result<Map<String, Value>, RequestError> {
        const KEY: &str = "mcpServers";
        let value = match self.get(KEY) {
            None => return Ok(Map::new()),
            Some(Value::String(text)) if js_semantics::trim(text).is_empty() => return Ok(Map::new()),
            Some(Value::String(text)) => {
                serde_json::from_str(text).map_err(|_| RequestError::hidden(KEY, "must be a JSON object"))?
            }
            Some(other) => other.clone(),
        };
        let Value::Object(mut servers) = value else {
            return Err(RequestError::hidden(KEY, "must be an object with a server for each name"));
        };
        if let Some(Value::Object(_)) = servers.get(KEY)
            && servers.len() == 1
            && let Some(Value::Object(within)) = servers.remove(KEY)
        {
            servers = within;
        }
        for (name, server) in &servers {
            let has = |key: &str| {
                server
                    .get(key)
                    .and_then(Value::as_str)
                    .is_some_and(|text| !js_semantics::trim(text).is_empty())
            };
            if name.is_empty() || name.chars().any(char::is_control) {
                return Err(RequestError::hidden(KEY, "a server's name has no control characters"));
            }
            if !has("url") && !has("command") {
                let why = "a server has a url (with the type http or sse) or a command";
                return Err(RequestError::hidden(format!("{KEY}.{name}"), why));
            }
        }
        Ok(servers)
    }

    fn labels(&mut self) -> Result<Vec<(String, String)>, RequestError> {
        let labels = self.key_values("labels");
        for (key, value) in &labels {
            if RESERVED_LABEL_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
                continue;
            }
            check_label("labels", key, value)?;
            if CONTROLLER_LABELS.contains(&key.as_str()) {
                let why = "Kubernetes' Job controller sets this label by itself";
                return Err(RequestError::config("labels", &Value::from(key.as_str()), why));
            }
        }
        Ok(labels)
    }
}

pub(super) fn check_label(setting: &str, key: &str, value: &str) -> Result<(), RequestError> {
    if !syntax::is_label_key(key) {
        let why = "a label's key is at most 63 letters, digits, -, _ and ., with a letter or digit at both ends and \
                   optionally a DNS name and / before it";
        return Err(RequestError::config(setting, &Value::from(key), why));
    }
    if !syntax::is_label_value(value) {
        let why =
            "a label's value is at most 63 letters, digits, -, _ and ., with a letter or digit at both ends";
        return Err(RequestError::config(format!("{setting}.{key}"), &Value::from(value), why));
    }
    Ok(())
}
