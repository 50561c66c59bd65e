//! What the host asks for: one run, its agent, its configuration.
//!
//! Configuration has two stages. The host's JSON is raw: every field may be missing or of the wrong type. It
//! is resolved exactly once, by [`Request::parse`]: after that every value has its type, is within its bounds and
//! acceptable to Kubernetes, so no later module checks a setting again.

mod config;
mod context;
mod error;
mod grants;
mod label;
mod pod_template;
mod raw;
mod resources;
mod session;
mod syntax;
mod template_limits;
mod tolerations;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::js_semantics;

pub(crate) use config::{ClaudeHome, Config, HostShutdown};
pub(crate) use context::Context;
pub use error::RequestError;
pub(crate) use grants::{Grants, VolumeMode};
pub(crate) use label::{MAX_LABEL_LEN, sanitize_label_value};
pub(crate) use session::SessionPlace;

/// One run as the host asked for it, resolved.
///
/// Its JSON has the fields `runId`, `agent {id, companyId, name}`, `runtime {sessionId, sessionParams}`,
/// `config`, `context`, `authToken`, `mcpServers` (each `{name, url, token, connectionId}`), `hasCards`, `hostEnv` (name → value), `homeDir` and `tmpDir`. Everything may be absent; an
/// absent string is empty.
#[derive(Clone)]
pub struct Request {
    /// The host's id of this run, raw.
    pub(crate) run_id: String,
    /// The agent that runs.
    pub(crate) agent: Agent,
    /// The Claude session to resume; empty when this run starts a new one.
    pub(crate) session_id: String,
    /// What the host stored beside that session.
    pub(crate) stored_session: SessionPlace,
    /// This is the run's second Job, after one that could not resume its session.
    pub(crate) afresh: bool,
    /// The adapter's settings.
    pub(crate) config: Config,
    /// What woke the agent and where it works.
    pub(crate) context: Context,
    /// The agent's token for the host's API, when the host issued one. Never empty.
    pub(crate) auth_token: Option<String>,
    /// The MCP servers that the host gives the run.
    pub(crate) mcp_servers: Vec<McpServer>,
    /// The host shows on a run's card what the run waits for.
    pub(crate) host_has_cards: bool,
    /// The environment of the host's process.
    pub(crate) host_env: HostEnv,
    /// `PAPERCLIP_K8S_RUN_SECRET` of the host's environment: whether what is secret of a run travels in a Secret.
    pub(crate) run_secret: RunSecretMode,
    /// What the operator grants to agents.
    pub(crate) grants: Grants,
}

/// Whether what is secret of a run travels in a Secret of its own, instead of standing in its Job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RunSecretMode {
    /// Where this host may create Secrets.
    #[default]
    Auto,
    /// A run fails where it may not.
    Require,
    /// Never, as in 0.1.49.
    Off,
}

impl RunSecretMode {
    const VARIABLE: &str = "PAPERCLIP_K8S_RUN_SECRET";

    fn of(env: &HostEnv) -> Result<Self, RequestError> {
        match js_semantics::trim(env.get(Self::VARIABLE).unwrap_or_default()) {
            "" | "auto" => Ok(Self::Auto),
            "require" => Ok(Self::Require),
            "off" => Ok(Self::Off),
            other => {
                let why = "must be one of auto, require, off";
                Err(RequestError::config(Self::VARIABLE, &Value::from(other), why))
            }
        }
    }
}

/// An MCP server of the host, over HTTP.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct McpServer {
    /// Its name for the agent.
    pub(crate) name: String,
    /// Where the host reaches it.
    pub(crate) url: String,
    /// The bearer token of this run.
    pub(crate) token: String,
    /// What distinguishes servers of one name.
    pub(crate) connection_id: String,
}

/// The agent a run belongs to. All three are the host's raw values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Agent {
    /// Unique id, normally a UUID.
    pub(crate) id: String,
    /// Id of the company that owns the agent.
    pub(crate) company_id: String,
    /// The name, for people.
    pub(crate) name: String,
}

/// The environment of the host's process, needed to see which configured variables are copies of it.
#[derive(Clone, Default)]
pub(crate) struct HostEnv {
    /// Every variable of the host's process.
    pub(crate) vars: BTreeMap<String, String>,
    /// The home directory of the host's user; empty when unknown.
    pub(crate) home_dir: String,
    /// The host's directory for temporary files; empty when unknown.
    pub(crate) tmp_dir: String,
}

impl HostEnv {
    /// The host's value of a variable.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str)
    }

    /// `PAPERCLIP_HOME`, else the folder that the host uses without it; `None` without a home directory.
    pub(crate) fn paperclip_home(&self) -> Option<String> {
        let given = self.get("PAPERCLIP_HOME").map(str::trim).filter(|home| !home.is_empty());
        match given {
            Some(home) => Some(home.to_owned()),
            None if self.home_dir.is_empty() => None,
            None => Some(format!("{}/.paperclip", self.home_dir)),
        }
    }
}

/// The agent's id in the host's JSON, also where the settings in it cannot work; empty without one.
pub(crate) fn agent_id(json: &str) -> String {
    let raw = js_semantics::parse_json(json).unwrap_or_default();
    raw.pointer("/agent/id").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The servers that have a name and a URL.
fn mcp_servers(raw: Option<&Value>) -> Vec<McpServer> {
    let servers = raw.and_then(Value::as_array).into_iter().flatten();
    let servers = servers.filter_map(|server| {
        let server = js_semantics::object(Some(server))?;
        let field = |key: &str| js_semantics::text(server.get(key)).map(str::to_owned);
        Some(McpServer {
            name: field("name")?,
            url: field("url")?,
            token: field("token").unwrap_or_default(),
            connection_id: field("connectionId").unwrap_or_default(),
        })
    });
    servers.collect()
}

impl Request {
    /// Reads and resolves the host's JSON.
    ///
    /// # Errors
    ///
    /// When the text is not a JSON object, or when a setting has the right type but a value that cannot work. A setting
    /// of the wrong type falls back to its default, and `Config::notes` says so.
    pub fn parse(json: &str) -> Result<Self, RequestError> {
        let Value::Object(raw) = js_semantics::parse_json(json).map_err(RequestError::Json)? else {
            return Err(RequestError::NotAnObject);
        };
        let runtime = js_semantics::object(raw.get("runtime"));
        let agent = js_semantics::object(raw.get("agent"));
        let field = |map: Option<&Map<String, Value>>, key: &str| {
            map.and_then(|map| js_semantics::text(map.get(key))).unwrap_or_default().to_owned()
        };

        let stored = runtime.and_then(|runtime| js_semantics::object(runtime.get("sessionParams")));
        let resumed = stored.and_then(|params| js_semantics::text(params.get("sessionId")));
        let session_id = resumed.map_or_else(|| field(runtime, "sessionId"), str::to_owned);

        let vars = js_semantics::object(raw.get("hostEnv")).into_iter().flatten();
        let vars = vars.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));

        let host_env = HostEnv {
            vars: vars.collect(),
            home_dir: field(Some(&raw), "homeDir"),
            tmp_dir: field(Some(&raw), "tmpDir"),
        };
        let grants = Grants::of(&host_env)?;
        let config = Config::resolve(js_semantics::object(raw.get("config")).unwrap_or(&Map::new()))?;
        grants.check(&config)?;
        Ok(Self {
            grants,
            run_secret: RunSecretMode::of(&host_env)?,
            run_id: field(Some(&raw), "runId"),
            agent: Agent {
                id: field(agent, "id"),
                company_id: field(agent, "companyId"),
                name: field(agent, "name"),
            },
            session_id,
            stored_session: stored.map(SessionPlace::of_params).unwrap_or_default(),
            afresh: false,
            config,
            context: Context::new(js_semantics::object(raw.get("context")).cloned().unwrap_or_default()),
            auth_token: js_semantics::text(raw.get("authToken")).map(str::to_owned),
            mcp_servers: mcp_servers(raw.get("mcpServers")),
            host_has_cards: raw.get("hasCards").and_then(Value::as_bool) == Some(true),
            host_env,
        })
    }

    /// The same request for a Job that begins a new session.
    pub(crate) fn without_session(&self) -> Self {
        Self { session_id: String::new(), ..self.clone() }
    }

    /// The same request for the run's second Job, which begins a new session and has this much of the run's time.
    pub(crate) fn started_afresh(&self, spent: Duration) -> Self {
        let mut request = Self { afresh: true, ..self.without_session() };
        if request.config.timeout_sec > 0.0 {
            request.config.timeout_sec = (request.config.timeout_sec - spent.as_secs_f64()).max(1.0);
        }
        request
    }

    /// The task's id as a label value; `None` without a task or when nothing usable is left of its id.
    pub(crate) fn task_label(&self) -> Option<String> {
        sanitize_label_value(self.context.task_id()?, MAX_LABEL_LEN)
    }

    /// The resumed session's id as a label value; `None` for a new session.
    pub(crate) fn session_label(&self) -> Option<String> {
        sanitize_label_value(&self.session_id, MAX_LABEL_LEN)
    }

    /// The run's id as a label value. Jobs are distinguished by this form, never by the raw id.
    pub(crate) fn run_label(&self) -> Option<String> {
        sanitize_label_value(&self.run_id, MAX_LABEL_LEN)
    }

    /// The agent's id as a label value. Without one its Jobs could not be found again, so no run may start.
    pub(crate) fn agent_label(&self) -> Option<String> {
        sanitize_label_value(&self.agent.id, MAX_LABEL_LEN)
    }
}

// Tokens and configured variables are secrets: no panic message or log may contain them.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("run_id", &self.run_id)
            .field("agent", &self.agent)
            .field("session_id", &self.session_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HostEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostEnv").field("tmp_dir", &self.tmp_dir).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
