use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::Toleration;
use serde_json::{Map, Value};

use super::error::RequestError;
use super::syntax;
use crate::js_semantics;
use crate::manifest::labels::RESERVED_LABEL_PREFIXES;

/// The longest time a setting may ask for, in seconds: Kubernetes keeps some of them in 32 bits.
const MAX_SECONDS: f64 = i32::MAX as f64;
/// The largest whole number a JavaScript number holds exactly.
const MAX_COUNT: f64 = 9_007_199_254_740_991.0;

/// Labels the Job controller puts on the pods by itself; it refuses a Job that brings its own.
const CONTROLLER_LABELS: [&str; 4] =
    ["job-name", "controller-uid", "batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid"];

/// The adapter's settings, resolved: every value is present, bounded and acceptable to Kubernetes.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// `timeoutSec`: seconds after which Kubernetes ends the Job; 0 = never. Finite, not negative.
    pub timeout_sec: f64,
    /// `graceSec`: seconds to wait past the deadline for the Job's end (60).
    pub grace_sec: f64,
    /// `retainJobs`: finished Jobs are not deleted (false).
    pub retain_jobs: bool,
    /// `reattachOrphanedJobs`: a live Job of the same agent, task and session is taken over (true).
    pub reattach_orphaned_jobs: bool,
    /// `hostShutdown`: what becomes of live Jobs when the host is told to stop (delete).
    pub host_shutdown: HostShutdown,
    /// `unschedulableGraceSec`: how long a pod may stay unschedulable before the run fails (zero).
    pub unschedulable_grace: Duration,
    /// `imagePullGraceSec`: for how long pulling an image may fail before the run does (60 s).
    pub image_pull_grace: Duration,
    /// `kubeconfig`: path of a kubeconfig file; without one the service account of the host's pod is used.
    pub kubeconfig: Option<String>,
    /// `namespace`: where Jobs run, a DNS-1123 label; without one the host's namespace.
    pub namespace: Option<String>,
    /// `secretRef`: the Secret the environment test looks for (`paperclip-secrets`).
    pub secret_ref: String,
    /// `instructionsFilePath`, trimmed: a Markdown file on the host, appended to the system prompt.
    pub instructions_file_path: Option<String>,
    /// `model`: Claude's model id; empty = the CLI's default.
    pub model: String,
    /// `effort`, else `thinkingEffort`; empty = the CLI's default.
    pub effort: String,
    /// `maxTurnsPerRun` when above 0.
    pub max_turns_per_run: Option<u64>,
    /// `dangerouslySkipPermissions`: the CLI asks no permissions (true: nobody is there to answer).
    pub dangerously_skip_permissions: bool,
    /// `extraArgs`: appended to the CLI's arguments. No NUL in them.
    pub extra_args: Vec<String>,
    /// `env`: variables for the agent, in the host's order. Valid names, no NUL. They still contain what the
    /// host mixed in; the manifest removes that.
    pub env: Vec<(String, String)>,
    /// `cwd`: the agent's directory when the context names none.
    pub cwd: Option<String>,
    /// `image`: the Job's image; without one the host's own.
    pub image: Option<String>,
    /// `imagePullPolicy`: `IfNotPresent` (default), `Always` or `Never`.
    pub image_pull_policy: String,
    /// `serviceAccountName` of the Job's pod, a DNS-1123 subdomain.
    pub service_account_name: Option<String>,
    /// `ttlSecondsAfterFinished`: seconds Kubernetes keeps a finished Job (300). Above 0.
    pub ttl_seconds_after_finished: i32,
    /// CPU and memory of the agent's container.
    pub resources: Resources,
    /// `nodeSelector`: label key and value, in the order given.
    pub node_selector: Vec<(String, String)>,
    /// `tolerations` of the Job's pod.
    pub tolerations: Vec<Toleration>,
    /// `labels`: further labels of Job and pod, in the order given; those with a reserved prefix are still
    /// among them.
    pub labels: Vec<(String, String)>,
    /// `enableRtk`: oversized tool output is cut (false).
    pub enable_rtk: bool,
    /// `rtkMaxOutputBytes`: where it is cut, in UTF-8 bytes (50,000). Above 0.
    pub rtk_max_output_bytes: u64,
    /// What the user should know about how the settings were read: one line each, without prefix or line end.
    pub notes: Vec<String>,
}

/// CPU and memory of the agent's container, as Kubernetes quantities. No request exceeds its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// `resources.requests.cpu` (1000m).
    pub requests_cpu: String,
    /// `resources.requests.memory` (2Gi).
    pub requests_memory: String,
    /// `resources.limits.cpu` (4000m).
    pub limits_cpu: String,
    /// `resources.limits.memory` (8Gi).
    pub limits_memory: String,
}

/// What becomes of live Jobs when the host is told to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostShutdown {
    /// They are deleted.
    #[default]
    Delete,
    /// They go on; the next host process can take them over.
    Leave,
}

impl Config {
    /// Resolves the host's raw settings.
    ///
    /// # Errors
    ///
    /// The first setting that has the right type and a value that can not work.
    pub fn resolve(raw: &Map<String, Value>) -> Result<Self, RequestError> {
        let mut raw = Raw { map: raw, notes: Vec::new() };

        let timeout_sec = raw.seconds("timeoutSec")?.unwrap_or(0.0);
        if timeout_sec.fract() > 0.0 {
            let whole = timeout_sec.ceil();
            raw.note(format!(
                "timeoutSec {timeout_sec}: Kubernetes counts whole seconds, the Job's deadline is {whole}"
            ));
        }
        let image = raw.text("image")?;
        if let Some(image) = &image
            && image.chars().any(|c| c.is_whitespace() || c.is_control())
        {
            return Err(raw.refuse("image", "an image name has no spaces"));
        }

        Ok(Self {
            timeout_sec,
            grace_sec: raw.seconds("graceSec")?.unwrap_or(60.0),
            retain_jobs: raw.flag("retainJobs", false),
            reattach_orphaned_jobs: raw.flag("reattachOrphanedJobs", true),
            host_shutdown: raw.choice(
                "hostShutdown",
                &[("delete", HostShutdown::Delete), ("leave", HostShutdown::Leave)],
            )?,
            unschedulable_grace: Duration::from_secs_f64(
                raw.seconds("unschedulableGraceSec")?.unwrap_or(0.0),
            ),
            image_pull_grace: raw
                .seconds("imagePullGraceSec")?
                .map_or(DEFAULT_IMAGE_PULL_GRACE, Duration::from_secs_f64),
            kubeconfig: raw.text("kubeconfig")?,
            namespace: raw.name(
                "namespace",
                syntax::is_dns_label,
                "a namespace is at most 63 of a-z, 0-9 and -, with a letter or digit at both ends",
            )?,
            secret_ref: raw
                .name("secretRef", syntax::is_dns_subdomain, SUBDOMAIN)?
                .unwrap_or_else(|| "paperclip-secrets".to_owned()),
            instructions_file_path: raw
                .text("instructionsFilePath")?
                .map(|path| js_semantics::trim(&path).to_owned())
                .filter(|path| !path.is_empty()),
            model: raw.text("model")?.unwrap_or_default(),
            effort: match raw.text("effort")? {
                Some(effort) => effort,
                None => raw.text("thinkingEffort")?.unwrap_or_default(),
            },
            // Below 0 is a habit of other tools for "no limit", and 0.1.49 took it so.
            max_turns_per_run: match raw.number("maxTurnsPerRun") {
                Some(turns) if turns > 0.0 => Some(raw.whole("maxTurnsPerRun", turns, MAX_COUNT)? as u64),
                _ => None,
            },
            dangerously_skip_permissions: raw.flag("dangerouslySkipPermissions", true),
            extra_args: raw.extra_args()?,
            env: raw.env()?,
            cwd: raw.text("cwd")?,
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
            notes: raw.notes,
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout_sec: 0.0,
            grace_sec: 60.0,
            retain_jobs: false,
            reattach_orphaned_jobs: true,
            host_shutdown: HostShutdown::Delete,
            unschedulable_grace: Duration::ZERO,
            image_pull_grace: DEFAULT_IMAGE_PULL_GRACE,
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
            ttl_seconds_after_finished: DEFAULT_TTL,
            resources: Resources::default(),
            node_selector: Vec::new(),
            tolerations: Vec::new(),
            labels: Vec::new(),
            enable_rtk: false,
            rtk_max_output_bytes: DEFAULT_RTK_BYTES,
            notes: Vec::new(),
        }
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            requests_cpu: "1000m".to_owned(),
            requests_memory: "2Gi".to_owned(),
            limits_cpu: "4000m".to_owned(),
            limits_memory: "8Gi".to_owned(),
        }
    }
}

// `env` and `extraArgs` may hold secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("notes", &self.notes).finish_non_exhaustive()
    }
}

/// A kubelet tries again after 10 s, 30 s and 70 s; the second of these is given half a minute to succeed.
const DEFAULT_IMAGE_PULL_GRACE: Duration = Duration::from_secs(60);
const DEFAULT_TTL: i32 = 300;
const DEFAULT_RTK_BYTES: u64 = 50_000;
const SUBDOMAIN: &str = "a name is at most 253 of a-z, 0-9, - and ., with a letter or digit at both ends of each part between dots";
const NUL: &str = "a NUL character can be in no argument, path or variable";

/// The raw settings and what there is to say about them.
struct Raw<'a> {
    map: &'a Map<String, Value>,
    notes: Vec<String>,
}

impl<'a> Raw<'a> {
    fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// The setting, unless it is absent or null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// An error about the setting `key`, with its value.
    fn refuse(&self, key: &str, why: &str) -> RequestError {
        RequestError::config(key, self.map.get(key).unwrap_or(&Value::Null), why)
    }

    /// Says that a setting of the wrong type does not count.
    fn mistyped(&mut self, key: &str, value: &Value, expected: &str) {
        self.note(format!("config.{key} ignored: it is {}, not {expected}", kind(value)));
    }

    /// A string that is not empty.
    fn text(&mut self, key: &str) -> Result<Option<String>, RequestError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.contains('\0') => Err(self.refuse(key, NUL)),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(other) => {
                self.mistyped(key, other, "a string");
                Ok(None)
            }
        }
    }

    fn name(
        &mut self,
        key: &str,
        valid: fn(&str) -> bool,
        why: &str,
    ) -> Result<Option<String>, RequestError> {
        match self.text(key)? {
            Some(name) if !valid(&name) => Err(self.refuse(key, why)),
            name => Ok(name),
        }
    }

    /// One of some words; the first is the default.
    fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Result<T, RequestError> {
        let word = self.text(key)?;
        match choices.iter().find(|(name, _)| word.as_deref().is_none_or(|word| word == *name)) {
            Some((_, choice)) => Ok(*choice),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                Err(self.refuse(key, &format!("must be one of {}", names.join(", "))))
            }
        }
    }

    fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.get(key) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.mistyped(key, other, "true or false");
                default
            }
        }
    }

    fn number(&mut self, key: &str) -> Option<f64> {
        let value = self.get(key)?;
        let number = value.as_f64().filter(|number| number.is_finite());
        if number.is_none() {
            self.mistyped(key, value, "a number");
        }
        number
    }

    fn seconds(&mut self, key: &str) -> Result<Option<f64>, RequestError> {
        match self.number(key) {
            Some(seconds) if !(0.0..=MAX_SECONDS).contains(&seconds) => {
                Err(self.refuse(key, &format!("must be between 0 and {MAX_SECONDS} seconds")))
            }
            seconds => Ok(seconds),
        }
    }

    /// A whole number from 0 to `max`.
    fn whole(&self, key: &str, number: f64, max: f64) -> Result<f64, RequestError> {
        if number.fract() == 0.0 && (0.0..=max).contains(&number) {
            Ok(number)
        } else {
            Err(self.refuse(key, &format!("must be a whole number between 0 and {max}")))
        }
    }

    // A form stores 0 for a number field nobody touched. Taken literally it would have Kubernetes delete the
    // Job in the moment it finishes, with its log unread.
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

    fn resources(&mut self) -> Result<Resources, RequestError> {
        let default = Resources::default();
        let (requests_cpu, limits_cpu) =
            self.request_and_limit("cpu", &default.requests_cpu, &default.limits_cpu)?;
        let (requests_memory, limits_memory) =
            self.request_and_limit("memory", &default.requests_memory, &default.limits_memory)?;
        Ok(Resources { requests_cpu, requests_memory, limits_cpu, limits_memory })
    }

    /// Request and limit of one resource. Kubernetes refuses a request above its limit: two configured values
    /// that contradict each other are an error, a default gives way to a configured value.
    fn request_and_limit(
        &mut self,
        resource: &str,
        default_request: &str,
        default_limit: &str,
    ) -> Result<(String, String), RequestError> {
        let (request_key, limit_key) =
            (format!("resources.requests.{resource}"), format!("resources.limits.{resource}"));
        let request = self.quantity(&request_key, "requests", resource)?;
        let limit = self.quantity(&limit_key, "limits", resource)?;
        let amount = |text: &str| syntax::quantity(text).unwrap_or(0.0);
        // 0.1 and 100m are the same amount, but not the same floating-point number.
        let exceeds = |request: &str, limit: &str| amount(request) > amount(limit) * (1.0 + 1e-9);
        Ok(match (request, limit) {
            (Some(request), Some(limit)) => {
                if exceeds(&request, &limit) {
                    let why = format!("must not exceed {limit_key} ({limit})");
                    return Err(RequestError::config(request_key, &Value::from(request), why));
                }
                (request, limit)
            }
            (Some(request), None) if exceeds(&request, default_limit) => {
                self.note(format!("{request_key} {request} is above the default limit {default_limit}: {limit_key} is {request} too"));
                (request.clone(), request)
            }
            (None, Some(limit)) if exceeds(default_request, &limit) => {
                self.note(format!("{limit_key} {limit} is below the default request {default_request}: {request_key} is {limit} too"));
                (limit.clone(), limit)
            }
            (request, limit) => (
                request.unwrap_or_else(|| default_request.to_owned()),
                limit.unwrap_or_else(|| default_limit.to_owned()),
            ),
        })
    }

    /// A quantity under its dotted key (the form stores it so), else nested in `resources` (hand-written
    /// settings).
    fn quantity(&mut self, key: &str, group: &str, resource: &str) -> Result<Option<String>, RequestError> {
        let flat = self.text(key)?;
        let nested = js_semantics::object(self.get("resources"))
            .and_then(|resources| js_semantics::object(resources.get(group)))
            .and_then(|group| group.get(resource))
            .filter(|value| !value.is_null());
        let text = match (flat, nested) {
            (Some(text), _) => text,
            (None, None) => return Ok(None),
            (None, Some(Value::String(text))) if text.is_empty() => return Ok(None),
            (None, Some(Value::String(text))) => text.clone(),
            (None, Some(other)) => {
                self.mistyped(key, other, "a string such as \"500m\" or \"2Gi\"");
                return Ok(None);
            }
        };
        match syntax::quantity(&text) {
            Some(amount) if amount >= 0.0 => Ok(Some(text)),
            _ => {
                let why = "must be a Kubernetes quantity such as 500m, 0.5, 512Mi or 2Gi, not negative";
                Err(RequestError::config(key, &Value::from(text), why))
            }
        }
    }

    fn node_selector(&mut self) -> Result<Vec<(String, String)>, RequestError> {
        let selector = self.key_values("nodeSelector");
        for (key, value) in &selector {
            check_label("nodeSelector", key, value)?;
        }
        Ok(selector)
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

    /// Keys and values from an object, the JSON text of one, or lines of `key=value`.
    fn key_values(&mut self, key: &str) -> Vec<(String, String)> {
        match self.get(key) {
            None => Vec::new(),
            Some(Value::Object(map)) => self.string_entries(key, map),
            Some(Value::String(text)) => match serde_json::from_str(text) {
                Ok(Value::Object(map)) => self.string_entries(key, &map),
                _ => self.lines(key, text),
            },
            Some(other) => {
                self.mistyped(key, other, "an object or lines of key=value");
                Vec::new()
            }
        }
    }

    fn string_entries(&mut self, key: &str, map: &Map<String, Value>) -> Vec<(String, String)> {
        let mut entries = Vec::with_capacity(map.len());
        for (name, value) in map {
            match value.as_str() {
                Some(text) => entries.push((name.clone(), text.to_owned())),
                None => self.mistyped(&format!("{key}.{name}"), value, "a string"),
            }
        }
        entries
    }

    fn lines(&mut self, key: &str, text: &str) -> Vec<(String, String)> {
        let mut entries: Vec<(String, String)> = Vec::new();
        for line in text.split('\n').map(js_semantics::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // The line is trimmed, so a name before `=` has at least one character that is no space.
            let Some((name, value)) = line.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                let shown: String = line.chars().take(60).collect();
                self.note(format!("config.{key}: line {shown:?} ignored, it is not key=value"));
                continue;
            };
            let (name, value) = (js_semantics::trim(name), js_semantics::trim(value).to_owned());
            match entries.iter_mut().find(|(seen, _)| seen == name) {
                Some(entry) => entry.1 = value,
                None => entries.push((name.to_owned(), value)),
            }
        }
        entries
    }

    fn tolerations(&mut self) -> Result<Vec<Toleration>, RequestError> {
        const KEY: &str = "tolerations";
        let parsed;
        let items = match self.get(KEY) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(Value::String(text)) if js_semantics::trim(text).is_empty() => return Ok(Vec::new()),
            Some(Value::String(text)) => match serde_json::from_str(text) {
                Ok(Value::Array(items)) => {
                    parsed = items;
                    &parsed
                }
                Ok(_) => return Err(self.refuse(KEY, "must be a JSON array of tolerations")),
                Err(error) => {
                    return Err(self.refuse(KEY, &format!("must be a JSON array of tolerations ({error})")));
                }
            },
            Some(other) => {
                self.mistyped(KEY, other, "an array or the JSON text of one");
                return Ok(Vec::new());
            }
        };
        items.iter().enumerate().map(|(index, item)| toleration(index, item)).collect()
    }
}

/// Reads one toleration and checks it by the rules of the API server.
fn toleration(index: usize, item: &Value) -> Result<Toleration, RequestError> {
    let here = format!("tolerations[{index}]");
    let Some(map) = item.as_object() else {
        return Err(RequestError::config(here, item, "must be an object"));
    };
    let mut toleration = Toleration::default();
    for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        let refuse = |why: &str| RequestError::config(format!("{here}.{name}"), value, why);
        let text = || value.as_str().map(str::to_owned).ok_or_else(|| refuse("must be a string"));
        match name.as_str() {
            "key" => toleration.key = Some(text()?),
            "operator" => toleration.operator = Some(text()?),
            "value" => toleration.value = Some(text()?),
            "effect" => toleration.effect = Some(text()?),
            "tolerationSeconds" => {
                let seconds = value.as_i64().ok_or_else(|| refuse("must be a whole number of seconds"))?;
                toleration.toleration_seconds = Some(seconds);
            }
            _ => return Err(refuse("known are key, operator, value, effect and tolerationSeconds")),
        }
    }

    let field = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, operator, value, effect) = (
        field(&toleration.key),
        field(&toleration.operator),
        field(&toleration.value),
        field(&toleration.effect),
    );
    let refuse = |name: &str, value: &str, why: &str| {
        Err(RequestError::config(format!("{here}.{name}"), &Value::from(value), why))
    };
    if !matches!(operator.as_str(), "" | "Exists" | "Equal") {
        return refuse("operator", &operator, "must be Exists or Equal");
    }
    if !matches!(effect.as_str(), "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return refuse("effect", &effect, "must be NoSchedule, PreferNoSchedule or NoExecute");
    }
    if key.is_empty() && operator != "Exists" {
        return refuse("operator", &operator, "must be Exists when there is no key");
    }
    if !key.is_empty() && !syntax::is_label_key(&key) {
        return refuse("key", &key, "must be the key of a taint");
    }
    if operator == "Exists" && !value.is_empty() {
        return refuse("value", &value, "must be absent with the operator Exists");
    }
    if !syntax::is_label_value(&value) {
        return refuse("value", &value, "must be the value of a taint");
    }
    if let Some(seconds) = toleration.toleration_seconds
        && effect != "NoExecute"
    {
        let why = "has a meaning only with the effect NoExecute";
        return Err(RequestError::config(format!("{here}.tolerationSeconds"), &Value::from(seconds), why));
    }
    Ok(toleration)
}

fn check_label(setting: &str, key: &str, value: &str) -> Result<(), RequestError> {
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

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
