//! Which configured variables make sense on the host only.
//!
//! Before a run the host adds variables to `config.env` that are valid on its machine only: directories for temporary
//! files, wrappers on its `PATH`, sockets, copies of its credentials. In a pod their targets do not exist. They are
//! distinguished from what a user configured by name where only the host uses the name, else by value.

use serde_json::Value;

use crate::js_semantics;
use crate::request::{HostEnv, Request};

/// The variables that name the directory for temporary files.
const TMP_VARIABLES: [&str; 3] = ["TMPDIR", "TEMP", "TMP"];

/// What the host sets besides `GIT_CONFIG_KEY_0` and the like where its own programs `git` and `gh` fetch credentials for
/// each call (`githubAuthenticationMode` is `managed`). Without these programs it is what keeps git from working.
const OF_MANAGED_GITHUB: [&str; 18] = [
    "GH_TOKEN",
    "GITHUB_TOKEN",
    "GH_ENTERPRISE_TOKEN",
    "GITHUB_ENTERPRISE_TOKEN",
    "PAPERCLIP_GIT_TOKEN",
    "GIT_AUTHOR_NAME",
    "GIT_AUTHOR_EMAIL",
    "GIT_COMMITTER_NAME",
    "GIT_COMMITTER_EMAIL",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_TERMINAL_PROMPT",
    "GIT_ASKPASS",
    "SSH_ASKPASS",
    "GIT_SSH_COMMAND",
    "SSH_AUTH_SOCK",
];

/// What is known of the host's machine.
pub(super) struct HostLocal<'a> {
    env: &'a HostEnv,
    /// `managed`: credentials come from the host's own programs; `host`: from its own machine.
    github: Option<&'a str>,
    /// Whether the host gives runs a directory for temporary files.
    gives_scratch: bool,
    /// Directories that exist only there, without a slash at the end.
    roots: Vec<&'a str>,
    /// The variables for temporary files that the host says it has set.
    applied: Vec<&'a str>,
}

impl<'a> HostLocal<'a> {
    pub(super) fn new(request: &'a Request) -> Self {
        let scratch = request
            .context
            .object("paperclipScratch")
            .filter(|scratch| scratch.get("type").and_then(Value::as_str) == Some("heartbeat_run"));
        let configured =
            request.config.env.iter().filter(|(name, _)| is_scratch(name)).map(|(_, value)| value.as_str());
        let gives_scratch = scratch.is_some() || configured.clone().next().is_some();
        let roots = configured
            .chain(scratch.and_then(|scratch| js_semantics::text(scratch.get("dir"))))
            .chain([request.host_env.tmp_dir.as_str()])
            .map(|dir| dir.trim_end_matches('/'))
            // `/` would contain everything, a relative path nothing.
            .filter(|dir| dir.starts_with('/'))
            .collect();
        let applied = scratch.and_then(|scratch| scratch.get("tempKeysApplied")).and_then(Value::as_array);
        let applied = applied.into_iter().flatten().filter_map(Value::as_str).collect();
        let github = request.context.text("githubAuthenticationMode");
        Self { env: &request.host_env, github, gives_scratch, roots, applied }
    }

    /// Whether this variable makes sense on the host only.
    pub(super) fn holds(&self, name: &str, value: &str) -> bool {
        let copied = || self.env.get(name) == Some(value);
        if is_scratch(name)
            || name.starts_with("PAPERCLIP_GITHUB_")
            || name == "PAPERCLIP_GIT_METADATA_ROOTS"
            || name.starts_with("PAPERCLIP_RUNNER_NETWORK_")
            || self.github.is_some() && name == "GH_CONFIG_DIR"
            || self.github == Some("managed") && is_of_managed_github(name)
        {
            true
        } else if TMP_VARIABLES.contains(&name) {
            self.applied.contains(&name) || copied() || self.contains(value)
        } else if matches!(name, "PATH" | "BASH_ENV" | "ZDOTDIR") {
            value.split(':').any(|part| self.contains(part))
        } else if name == "SSH_AUTH_SOCK"
            || ["GH_", "GITHUB_", "GIT_"].iter().any(|prefix| name.starts_with(prefix))
        {
            copied()
        } else {
            false
        }
    }

    /// Whether the host gives runs a directory for temporary files, so that its prompt speaks of one.
    pub(super) fn gives_scratch(&self) -> bool {
        self.gives_scratch
    }

    fn contains(&self, path: &str) -> bool {
        self.roots
            .iter()
            .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }
}

fn is_scratch(name: &str) -> bool {
    name == "PAPERCLIP_TMPDIR" || (name.starts_with("PAPERCLIP_") && name.contains("SCRATCH"))
}

fn is_of_managed_github(name: &str) -> bool {
    OF_MANAGED_GITHUB.contains(&name)
        || ["GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_"].iter().any(|prefix| name.starts_with(prefix))
}
