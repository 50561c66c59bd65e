//! What a session of the CLI depends on, as a run has it and as the host stored it.
//!
//! The CLI keeps a session as a file below its folder of settings, by the folder it works in. So a session can be resumed
//! only where both are the same, on the same volume, and it should be resumed only with the instructions, skills and MCP
//! servers that it began with.

use std::path::Path;

use serde_json::{Map, Value};

use crate::js_semantics;

/// What a session depends on besides its id, and the repository that it worked in. An empty value counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionPlace {
    /// The folder that the CLI works in.
    pub(crate) cwd: Option<String>,
    /// Id of the workspace.
    pub(crate) workspace_id: Option<String>,
    /// Address of the repository.
    pub(crate) repo_url: Option<String>,
    /// Branch, tag or commit.
    pub(crate) repo_ref: Option<String>,
    /// The hash over instructions and skills.
    pub(crate) prompt_bundle_key: Option<String>,
    /// Which MCP servers the CLI has; absent where it has none.
    pub(crate) mcp_server_identity: Option<String>,
    /// The namespace of the Job.
    pub(crate) namespace: Option<String>,
    /// The volume claim that is mounted at the CLI's home; absent where the home is lost with the pod.
    pub(crate) volume_claim: Option<String>,
    /// The CLI's folder of settings, where it is not that of its home.
    pub(crate) claude_home: Option<String>,
}

impl SessionPlace {
    /// The part of the host's session parameters.
    pub(crate) fn of_params(params: &Map<String, Value>) -> Self {
        let mut place = Self::default();
        for (key, value) in place.fields_mut() {
            *value = js_semantics::trimmed(params.get(key)).map(str::to_owned);
        }
        place
    }

    /// The session parameters of a session of this id.
    pub(crate) fn params(&self, session_id: &str) -> Map<String, Value> {
        let mut params = Map::new();
        params.insert("sessionId".to_owned(), session_id.into());
        for (key, value) in self.fields() {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                params.insert(key.to_owned(), value.into());
            }
        }
        params
    }

    /// Why a session that was stored for `stored` is not resumed here; `None` where it is. What was not stored,
    /// as by an older version, counts as the same, but for MCP servers: such a session had none.
    pub(crate) fn refuses(&self, stored: &Self) -> Option<String> {
        let differs = |was: &Option<String>, now: &Option<String>| was.is_some() && was != now;
        let name = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        if let (Some(was), Some(now)) = (&stored.cwd, &self.cwd)
            && Path::new(was).components().ne(Path::new(now).components())
        {
            return Some(format!("it was saved for the folder {was}, and this run works in {now}"));
        }
        if differs(&stored.prompt_bundle_key, &self.prompt_bundle_key) {
            return Some("the agent's instructions or skills have changed".to_owned());
        }
        if stored.mcp_server_identity != self.mcp_server_identity {
            return Some("the agent's MCP servers have changed".to_owned());
        }
        // With the namespace the other two were stored, or there were none.
        stored.namespace.as_ref()?;
        if stored.namespace != self.namespace || stored.volume_claim != self.volume_claim {
            let place = |place: &Self| {
                format!("volume claim {} in namespace {}", name(&place.volume_claim), name(&place.namespace))
            };
            return Some(format!("it lies on {}, and this run has {}", place(stored), place(self)));
        }
        (stored.claude_home != self.claude_home).then(|| "claudeHome has changed".to_owned())
    }

    fn fields(&self) -> [(&'static str, &Option<String>); 9] {
        [
            ("cwd", &self.cwd),
            ("workspaceId", &self.workspace_id),
            ("repoUrl", &self.repo_url),
            ("repoRef", &self.repo_ref),
            ("promptBundleKey", &self.prompt_bundle_key),
            ("mcpServerIdentity", &self.mcp_server_identity),
            ("namespace", &self.namespace),
            ("volumeClaim", &self.volume_claim),
            ("claudeHome", &self.claude_home),
        ]
    }

    fn fields_mut(&mut self) -> [(&'static str, &mut Option<String>); 9] {
        [
            ("cwd", &mut self.cwd),
            ("workspaceId", &mut self.workspace_id),
            ("repoUrl", &mut self.repo_url),
            ("repoRef", &mut self.repo_ref),
            ("promptBundleKey", &mut self.prompt_bundle_key),
            ("mcpServerIdentity", &mut self.mcp_server_identity),
            ("namespace", &mut self.namespace),
            ("volumeClaim", &mut self.volume_claim),
            ("claudeHome", &mut self.claude_home),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "52f5bda4-560b-4700-9b15-02e72f19ed68";

    fn place(params: Value) -> SessionPlace {
        SessionPlace::of_params(params.as_object().expect("an object"))
    }

    fn full() -> Value {
        json!({"cwd": "/w", "workspaceId": "w", "repoUrl": "u", "repoRef": "r", "promptBundleKey": "k",
            "mcpServerIdentity": "m", "namespace": "n", "volumeClaim": "c", "claudeHome": "h"})
    }

    #[test]
    fn params_are_read_back() {
        let here = place(full());
        let mut params = full();
        params["sessionId"] = ID.into();
        assert_eq!(Value::Object(here.params(ID)), params);
        assert_eq!(place(params), here);
        assert_eq!(place(json!({"cwd": " ", "namespace": 3})), SessionPlace::default());
        assert_eq!(Value::Object(SessionPlace::default().params(ID)), json!({"sessionId": ID}));
    }

    #[test]
    fn session_is_refused_where_it_cannot_work() {
        let here = place(full());
        for (key, was, why) in [
            ("cwd", "/w/sub", "it was saved for the folder /w/sub, and this run works in /w"),
            ("promptBundleKey", "other", "the agent's instructions or skills have changed"),
            ("mcpServerIdentity", "other", "the agent's MCP servers have changed"),
            (
                "namespace",
                "other",
                "it lies on volume claim c in namespace other, and this run has volume claim c in namespace n",
            ),
            (
                "volumeClaim",
                "",
                "it lies on volume claim none in namespace n, and this run has volume claim c in namespace n",
            ),
            ("claudeHome", "other", "claudeHome has changed"),
        ] {
            let mut stored = full();
            stored[key] = was.into();
            assert_eq!(here.refuses(&place(stored)).as_deref(), Some(why));
        }
        for (key, was) in
            [("workspaceId", "other"), ("repoUrl", "other"), ("repoRef", "other"), ("cwd", "/w/./")]
        {
            let mut stored = full();
            stored[key] = was.into();
            assert_eq!(here.refuses(&place(stored)), None, "{key}");
        }
        assert_eq!(here.refuses(&here), None);
    }

    #[test]
    fn session_that_an_older_version_stored_is_resumed() {
        let stored = place(json!({"cwd": "/w"}));
        let without_servers = SessionPlace { mcp_server_identity: None, ..place(full()) };
        assert_eq!(without_servers.refuses(&stored), None);
        assert_eq!(without_servers.refuses(&SessionPlace::default()), None);
        assert!(place(full()).refuses(&stored).is_some(), "it had no MCP servers");
    }
}
