//! Whether the CLI asks for a login, and where.

use serde::Serialize;
use serde_json::Value;

use crate::claude::failure::error_messages;
use crate::js_semantics;

/// The address to log in at: the first one in the text that names claude, anthropic or auth, else the first.
pub(super) fn extract_claude_login_url(text: &str) -> Option<String> {
    let all = urls(text);
    let login = |url: &&str| ["claude", "anthropic", "auth"].iter().any(|word| url.contains(word));
    all.iter().copied().find(login).or(all.first().copied()).map(str::to_owned)
}

/// All `http(s)` addresses: the scheme and a run of at least two characters that end no address, the last of
/// which is neither `.` nor `:`.
fn urls(text: &str) -> Vec<&str> {
    let ends = |c: char| {
        js_semantics::is_space(c)
            || matches!(
                c,
                '\'' | '"' | '`' | '<' | '>' | '(' | ')' | '[' | ']' | '{' | '}' | ';' | ',' | '!' | '?'
            )
    };
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(colon) = memchr::memmem::find(&text.as_bytes()[from..], b"://") {
        let colon = from + colon;
        let after = colon + 3;
        from = after;
        // An `https` that ends at the colon; what was matched before is not matched again.
        let Some(start) = ["https", "http"].iter().find_map(|scheme| {
            let start = colon.checked_sub(scheme.len())?;
            text.get(start..colon)?.eq_ignore_ascii_case(scheme).then_some(start)
        }) else {
            continue;
        };
        let rest = &text[after..];
        let run = &rest[..rest.find(ends).unwrap_or(rest.len())];
        let address = run.trim_end_matches(['.', ':']);
        // One character in front of the last is asked for, whatever it is.
        if address.chars().nth(1).is_none() {
            continue;
        }
        from = after + address.len();
        found.push(&text[start..from]);
    }
    found
}

/// What `detectClaudeLoginRequired` returns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LoginCheck {
    /// Some line asks for a login.
    pub(super) requires_login: bool,
    /// An address found in the output, whether a login is asked for or not.
    pub(super) login_url: Option<String>,
}

/// Whether the CLI asks for a login, by what its result event and its output say.
pub(super) fn detect_claude_login_required(parsed: Option<&Value>, stdout: &str, stderr: &str) -> LoginCheck {
    const PHRASES: [&[&str]; 8] = [
        &["not", "logged", "in"],
        &["please", "log", "in"],
        &["please", "run", "claude", "login"],
        &["please", "run", "`claude", "login"],
        &["login", "required"],
        &["requires", "login"],
        &["unauthorized"],
        &["authentication", "required"],
    ];
    let asks = |text: &str| {
        text.split('\n').any(|line| {
            let line = js_semantics::trim(line);
            PHRASES.iter().any(|words| contains_words(line, words))
        })
    };
    let requires_login = parsed.is_some_and(|parsed| {
        asks(js_semantics::string_field(parsed, "result").unwrap_or_default())
            || error_messages(parsed).any(|text| asks(&text))
    }) || asks(stdout)
        || asks(stderr);
    let login_url = extract_claude_login_url(&format!("{stdout}\n{stderr}"));
    LoginCheck { requires_login, login_url }
}

/// Whether the words stand in the text, in any case of ASCII letters, with white space (at least one
/// character) between them and anything around them.
pub(super) fn contains_words(text: &str, words: &[&str]) -> bool {
    let Some((first, others)) = words.split_first() else {
        return true;
    };
    let Some(initial) = first.bytes().next() else {
        return false;
    };
    let bytes = text.as_bytes();
    memchr::memchr2_iter(initial, initial.to_ascii_uppercase(), bytes).any(|start| {
        let Some(mut rest) = strip_word(&text[start..], first) else {
            return false;
        };
        others.iter().all(|word| {
            let next = rest.trim_start_matches(js_semantics::is_space);
            match strip_word(next, word) {
                Some(after) if next.len() < rest.len() => {
                    rest = after;
                    true
                }
                _ => false,
            }
        })
    })
}

/// The text after the word it begins with, in any case of ASCII letters.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(word.len())?;
    head.eq_ignore_ascii_case(word).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn addresses() {
        for (text, url) in [
            ("nothing to see", None),
            ("http:// and https://a", None),
            ("https://.. x", None),
            ("go to https://console.anthropic.com/login/.", Some("https://console.anthropic.com/login/")),
            ("(see https://claude.ai/x?y=1)", Some("https://claude.ai/x")),
            ("see https://example.org/a, then", Some("https://example.org/a")),
            ("https://example.org/a https://example.org/auth", Some("https://example.org/auth")),
            ("https://example.org/AUTH http://b.example", Some("https://example.org/AUTH")),
            ("HTTPS://Example.org:", Some("HTTPS://Example.org")),
            ("xhttp://ab", Some("http://ab")),
            ("xttps://ab", None),
            ("http://http://ab", Some("http://http://ab")),
            ("http://:a", Some("http://:a")),
            ("http://é", None),
            ("http://éé…", Some("http://éé…")),
            ("http://a://bc.http://de", Some("http://a://bc.http://de")),
        ] {
            assert_eq!(extract_claude_login_url(text).as_deref(), url, "{text}");
        }
    }

    #[test]
    fn asking_for_a_login() {
        for phrase in [
            "Not  logged\tin",
            "please log in",
            "Please run `claude login`",
            "please run claude login now",
            "LOGIN REQUIRED",
            "this requires login",
            "401 Unauthorized",
            "authentication\u{a0}required",
        ] {
            let result = json!({"result": format!("first line\nError: {phrase}.")});
            let errors = json!({"errors": [{"message": phrase}]});
            assert!(detect_claude_login_required(Some(&result), "", "").requires_login, "{phrase}");
            assert!(detect_claude_login_required(Some(&errors), "", "").requires_login, "{phrase}");
            assert!(
                detect_claude_login_required(None, &format!("a\r\n{phrase}"), "").requires_login,
                "{phrase}"
            );
            assert!(detect_claude_login_required(None, "", phrase).requires_login, "{phrase}");
        }
        for phrase in
            ["notlogged in", "not logged\nin", "please login", "please run ``claude login", "authentication"]
        {
            let check = detect_claude_login_required(Some(&json!({"result": phrase})), "fine", "");
            assert_eq!(check, LoginCheck::default(), "{phrase}");
        }
        for (stdout, stderr) in [("at https://claude.ai/l", ""), ("", "at https://claude.ai/l")] {
            let check = detect_claude_login_required(None, stdout, stderr);
            assert_eq!(
                serde_json::to_value(check).unwrap(),
                json!({"requiresLogin": false, "loginUrl": "https://claude.ai/l"})
            );
        }
        let check = detect_claude_login_required(None, "Please log in: https://claude.ai/l", "");
        assert_eq!((check.requires_login, check.login_url.as_deref()), (true, Some("https://claude.ai/l")));
    }

    proptest! {
        #[test]
        fn any_text_is_checked_without_panic(text in "(\\PC|[\n\r\\\\\"{}:]){0,200}") {
            let check = detect_claude_login_required(None, &text, &text);
            prop_assert_eq!(check.login_url, extract_claude_login_url(&text));
        }

        #[test]
        fn any_address_found_is_in_the_text(text in "[hHtTpPsS:/.a é(]{0,40}") {
            if let Some(url) = extract_claude_login_url(&text) {
                prop_assert!(text.contains(&url) && url.len() > 8);
            }
        }
    }
}
