//! The MCP servers that the host gives a run and those of the agent itself, as the file that the CLI reads them from.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::env::leads_to_the_pod_itself;
use crate::request::McpServer;

/// The file in [`PROMPT_DIR`](super::PROMPT_DIR), readable by the agent's user only: it holds tokens.
pub(crate) const MCP_FILE: &str = "mcp.json";

/// The contents of the file, and what to say about servers that a pod cannot reach; `None` without servers.
///
/// `own_url` is where the host reaches its own API, `pod_url` where a pod does. A server below the former is given to the pod
/// below the latter, as is one on the host's loopback. Those `of_agent` are used as they are: loopback is then the pod's own,
/// where a sidecar may serve. Of one name that both give, the host's counts: what Paperclip grants is not replaced.
pub(super) fn file(
    servers: &[McpServer],
    of_agent: &Map<String, Value>,
    own_url: Option<&str>,
    pod_url: Option<&str>,
    notes: &mut Vec<String>,
) -> Option<String> {
    if servers.is_empty() && of_agent.is_empty() {
        return None;
    }
    // A reference to another variable means nothing in a file.
    let pod_url =
        pod_url.map(|url| url.trim_end_matches('/')).filter(|url| !url.is_empty() && !url.contains('$'));
    let mut config = Map::new();
    let mut taken = BTreeSet::new();
    for server in servers {
        let url = match (path_below(&server.url, own_url), pod_url) {
            (Some(path), Some(base)) => format!("{base}{path}"),
            _ => server.url.clone(),
        };
        let name = free_name(server, &mut taken);
        if loopback_path(&url).is_some() {
            notes.push(format!("MCP server \"{name}\" is at {url}, which leads a pod to itself"));
        }
        let headers = json!({"Authorization": format!("Bearer {}", server.token)});
        config.insert(name, json!({"type": "http", "url": url, "headers": headers}));
    }
    for (name, server) in of_agent {
        if taken.contains(name) {
            notes.push(format!(
                "MCP server \"{name}\" of mcpServers is left out: Paperclip gives the run one of this name"
            ));
        } else {
            config.insert(name.clone(), server.clone());
        }
    }
    Some(json!({"mcpServers": Value::Object(config)}).to_string())
}

/// The name, with the connection's id and then a number where another server has it.
fn free_name(server: &McpServer, taken: &mut BTreeSet<String>) -> String {
    let with_id = || {
        let id: String = server.connection_id.chars().take(8).collect();
        format!("{}-{id}", server.name)
    };
    let numbered = (2u32..).map(|number| format!("{}-{number}", with_id()));
    let mut names = [server.name.clone(), with_id()].into_iter().chain(numbered);
    let name = names.find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(name.clone());
    name
}

/// What follows the URL of the host's own API, or of the host's loopback, in a URL.
fn path_below<'a>(url: &'a str, own_url: Option<&str>) -> Option<&'a str> {
    let own = own_url.map(|own| own.trim_end_matches('/')).filter(|own| !own.is_empty());
    let below = own.and_then(|own| url.strip_prefix(own));
    below.filter(|path| path.is_empty() || path.starts_with(['/', '?'])).or_else(|| loopback_path(url))
}

/// What follows scheme, host and port in a URL whose host is the machine itself.
fn loopback_path(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let path = &rest[rest.find(['/', '?', '#']).unwrap_or(rest.len())..];
    leads_to_the_pod_itself(url).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, url: &str) -> McpServer {
        McpServer {
            name: name.to_owned(),
            url: url.to_owned(),
            token: "t-1".to_owned(),
            connection_id: "connection-1".to_owned(),
        }
    }

    #[test]
    fn run_without_servers_has_no_file() {
        assert_eq!(file(&[], &Map::new(), Some("http://own"), Some("http://pod"), &mut Vec::new()), None);
    }

    #[test]
    fn servers_have_their_token_and_a_name_each() {
        let servers = ["a", "b", "a", "a"].map(|name| server(name, "https://mcp.example/x"));
        let mut notes = Vec::new();
        let text = file(&servers, &Map::new(), None, None, &mut notes).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        let names: Vec<&String> = config["mcpServers"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["a", "b", "a-connecti", "a-connecti-2"]);
        assert_eq!(
            config["mcpServers"]["b"],
            json!({"type": "http", "url": "https://mcp.example/x", "headers": {"Authorization": "Bearer t-1"}})
        );
        assert_eq!(notes, [""; 0]);
    }

    #[test]
    fn servers_of_the_host_are_where_a_pod_reaches_them() {
        let own = Some("http://paperclip.example/base/");
        let pod = Some("http://paperclip:3100/");
        for (url, own, pod, want) in [
            ("http://paperclip.example/base/api/mcp", own, pod, "http://paperclip:3100/api/mcp"),
            ("http://paperclip.example/base", own, pod, "http://paperclip:3100"),
            ("http://paperclip.example/based/api", own, pod, "http://paperclip.example/based/api"),
            ("http://localhost:3100/api/mcp?x=1", own, pod, "http://paperclip:3100/api/mcp?x=1"),
            ("http://u@127.0.0.1:3100/api", None, pod, "http://paperclip:3100/api"),
            ("http://[::1]:3100/api", own, pod, "http://paperclip:3100/api"),
            ("https://other.example/mcp", own, pod, "https://other.example/mcp"),
            (
                "http://paperclip.example/base/api",
                own,
                Some("http://$(HOST)"),
                "http://paperclip.example/base/api",
            ),
            ("http://paperclip.example/base/api", own, None, "http://paperclip.example/base/api"),
        ] {
            let mut notes = Vec::new();
            let text = file(&[server("a", url)], &Map::new(), own, pod, &mut notes).unwrap();
            let config: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(config["mcpServers"]["a"]["url"], want, "{url}");
            assert_eq!(notes, [""; 0], "{url}");
        }
    }

    #[test]
    fn server_that_leads_a_pod_to_itself_is_noted() {
        for pod in [None, Some(""), Some("http://localhost:3100")] {
            let mut notes = Vec::new();
            file(&[server("a", "http://localhost:3100/api")], &Map::new(), None, pod, &mut notes).unwrap();
            assert_eq!(
                notes,
                ["MCP server \"a\" is at http://localhost:3100/api, which leads a pod to itself"],
                "{pod:?}"
            );
        }
    }

    #[test]
    fn servers_of_the_agent_stand_beside_those_of_the_host() {
        let of_agent = json!({
            "a": {"type": "http", "url": "https://own.example"},
            "beside": {"type": "http", "url": "http://localhost:9000/mcp"},
            "tool": {"command": "my-server", "args": ["--x"], "env": {"TOKEN": "${TOKEN}"}},
        });
        let mut notes = Vec::new();
        let text = file(
            &[server("a", "https://mcp.example/x")],
            of_agent.as_object().unwrap(),
            Some("http://own"),
            Some("http://pod"),
            &mut notes,
        );
        let config: Value = serde_json::from_str(&text.unwrap()).unwrap();
        let servers = &config["mcpServers"];
        assert_eq!(servers["a"]["url"], "https://mcp.example/x");
        assert_eq!([&servers["beside"], &servers["tool"]], [&of_agent["beside"], &of_agent["tool"]]);
        assert_eq!(
            notes,
            ["MCP server \"a\" of mcpServers is left out: Paperclip gives the run one of this name"]
        );
    }
}
