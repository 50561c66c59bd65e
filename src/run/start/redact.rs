//! What an operator sees of a run instead of credentials.

use serde_json::Value;

/// Shown instead of a credential.
pub(super) const REDACTED: &str = "***REDACTED***";

/// Words that make the name of a variable or option that of a credential.
const WORDS: [&str; 13] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "apikey",
    "auth",
    "bearer",
    "cookie",
    "private",
    "key",
    "pat",
];
/// How credentials of well-known services begin.
const PREFIXES: [&str; 16] = [
    "sk-",
    "rk-",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xapp-",
    "AKIA",
    "ASIA",
    "AIza",
    "npm_",
];

/// Whether a variable or option of this name holds a credential.
pub(super) fn is_secret_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let mut parts = lower.split(|c: char| !c.is_ascii_alphanumeric());
    parts.any(|part| WORDS.contains(&part) || part == "tokens" || part == "keys" || part.ends_with("token"))
        || ["apikey", "accesskey", "secretkey", "privatekey", "password", "secret"]
            .iter()
            .any(|word| lower.replace(['-', '_', '.'], "").contains(word))
}

/// The arguments of a command, without credentials.
pub(super) fn args(args: &[String]) -> Vec<String> {
    let mut shown = Vec::with_capacity(args.len());
    let mut is_value_of_secret = false;
    for arg in args {
        let is_option = arg.starts_with('-');
        shown.push(match arg.split_once('=') {
            _ if is_value_of_secret && !is_option => REDACTED.to_owned(),
            Some((name, _)) if is_option && is_secret_name(name) => format!("{name}={REDACTED}"),
            Some((name, value)) if is_option => format!("{name}={}", text(value)),
            _ => text(arg),
        });
        is_value_of_secret = is_option && !arg.contains('=') && is_secret_name(arg);
    }
    shown
}

/// A text without what looks like a credential in it.
pub(super) fn text(text: &str) -> String {
    if let Ok(mut json @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str::<Value>(text) {
        let before = json.clone();
        redact_json(&mut json, false);
        return if json == before { text.to_owned() } else { json.to_string() };
    }
    let is_separator =
        |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '&' | '(' | ')' | '<' | '>');
    let mut shown = String::with_capacity(text.len());
    let mut after_bearer = false;
    for piece in text.split_inclusive(is_separator) {
        let word = piece.trim_end_matches(is_separator);
        let rest = &piece[word.len()..];
        if after_bearer && !word.is_empty() {
            shown.push_str(REDACTED);
        } else {
            shown.push_str(&redacted_word(word));
        }
        after_bearer = word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic");
        shown.push_str(rest);
    }
    shown
}

fn redacted_word(word: &str) -> String {
    if let Some((scheme, rest)) = word.split_once("://")
        && let Some((user, host)) = rest.split_once('@')
        && !user.contains('/')
    {
        return format!("{scheme}://{REDACTED}@{host}");
    }
    if let Some((name, value)) = word.split_once(['=', ':'])
        && !value.is_empty()
        && !value.starts_with("//")
        && (is_secret_name(name) || is_credential(value))
    {
        return format!("{}{REDACTED}", &word[..=name.len()]);
    }
    if is_credential(word) { REDACTED.to_owned() } else { word.to_owned() }
}

fn is_credential(word: &str) -> bool {
    let is_jwt = word.starts_with("eyJ") && word.matches('.').count() == 2;
    is_jwt
        || word.starts_with("-----BEGIN")
        || PREFIXES.iter().any(|prefix| word.len() >= prefix.len() + 8 && word.starts_with(prefix))
}

/// Replaces values under names of credentials, and all of `env` and `headers`, as MCP servers have them.
fn redact_json(value: &mut Value, all: bool) {
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                redact_json(child, all || is_secret_name(name) || matches!(name.as_str(), "env" | "headers"));
            }
        }
        Value::Array(items) => {
            let words: Vec<String> =
                items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect();
            if !all && words.len() == items.len() {
                *items = args(&words).into_iter().map(Value::from).collect();
            } else {
                items.iter_mut().for_each(|item| redact_json(item, all));
            }
        }
        Value::String(shown) if all => REDACTED.clone_into(shown),
        Value::String(shown) => *shown = text(shown),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_look_like_credentials_are_redacted() {
        let shown =
            |words: &[&str]| args(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).join(" ");
        for (words, want) in [
            (vec!["--api-key", "abc", "x"], "--api-key *** x"),
            (vec!["--api-key=abc"], "--api-key=***"),
            (vec!["--auth-token", "--verbose"], "--auth-token --verbose"),
            (vec!["sk-ant-0123456789"], "***"),
            (vec!["--x", "ghp_0123456789"], "--x ***"),
            (vec!["--header", "Authorization: Bearer abc"], "--header Authorization: Bearer ***"),
            (vec!["https://user:pw@host/x"], "https://***@host/x"),
            (vec!["postgres://u:p@h/d?x=1"], "postgres://***@h/d?x=1"),
            (vec!["PASSWORD=abc"], "PASSWORD=***"),
            (vec!["eyJhbGciOiJI.eyJzdWIi.c2ln"], "***"),
            (
                vec![
                    "--mcp-config",
                    r#"{"mcpServers":{"a":{"command":"x","args":["--token","t","-v"],"env":{"A":"b"}}}}"#,
                ],
                r#"--mcp-config {"mcpServers":{"a":{"command":"x","args":["--token","***","-v"],"env":{"A":"***"}}}}"#,
            ),
            (vec!["--model", "claude-x", "--max-turns", "5"], "--model claude-x --max-turns 5"),
            (vec!["--add-dir", "/paperclip/x", "--resume", "0b7c"], "--add-dir /paperclip/x --resume 0b7c"),
            (vec![r#"{"a": 1}"#, "http://host:1/x"], r#"{"a": 1} http://host:1/x"#),
        ] {
            assert_eq!(shown(&words).replace(REDACTED, "***"), want);
        }
    }

    #[test]
    fn variable_of_a_credential_is_known_by_its_name() {
        for name in [
            "PAPERCLIP_API_KEY",
            "GH_TOKEN",
            "DB_PASSWORD",
            "authToken",
            "x-api-key",
            "SECRET",
            "AWS_ACCESS_KEY_ID",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in
            ["PAPERCLIP_RUN_ID", "HOME", "PATH", "--model", "--keyboard-layout", "PAPERCLIP_WAKE_REASON"]
        {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
