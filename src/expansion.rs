//! How Kubernetes replaces `$(NAME)` in the values of variables, in commands and in sub-paths.
//!
//! `$(NAME)` becomes the value of a variable that is defined before, and stays as it is where there is none; `$$` becomes
//! `$`, so `$$(NAME)` is the text `$(NAME)`. A variable that is set by a reference (`valueFrom`) is not read this way.

use std::borrow::Cow;

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Stays as it is.
    Text(Cow<'a, str>),
    /// `$(NAME)`: the variable's name.
    Reference(&'a str),
}

/// The pieces of a text, in order. Neighbouring texts are one piece.
pub(crate) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        push(&mut pieces, &rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            push(&mut pieces, "$");
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            pieces.push(Piece::Reference(name));
            rest = after;
        } else {
            push(&mut pieces, "$");
            rest = tail;
        }
    }
    push(&mut pieces, rest);
    pieces
}

fn push<'a>(pieces: &mut Vec<Piece<'a>>, text: &'a str) {
    if text.is_empty() {
        return;
    }
    match pieces.last_mut() {
        Some(Piece::Text(before)) => before.to_mut().push_str(text),
        _ => pieces.push(Piece::Text(Cow::Borrowed(text))),
    }
}

/// The names of the variables that a text refers to.
pub(crate) fn references(text: &str) -> impl Iterator<Item = &str> {
    pieces(text).into_iter().filter_map(|piece| match piece {
        Piece::Reference(name) => Some(name),
        Piece::Text(_) => None,
    })
}

/// What is known of a variable.
pub(crate) enum Known<'a> {
    /// Its value.
    Value(Cow<'a, str>),
    /// There is none of this name.
    Undefined,
    /// Only the cluster knows.
    Unknown,
}

/// The text with its references replaced; `None` when one of them is not known.
pub(crate) fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Known<'a>) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => out.push_str(&text),
            Piece::Reference(name) => match lookup(name) {
                Known::Value(value) => out.push_str(&value),
                Known::Undefined => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
                Known::Unknown => return None,
            },
        }
    }
    Some(out)
}

/// Protects text from Kubernetes, which also tears apart a multi-byte character that follows a `$`. A doubled `$` comes out
/// as one. Text without such a sequence stays unchanged.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let touched =
        bytes.windows(2).any(|pair| pair[0] == b'$' && (matches!(pair[1], b'$' | b'(') || pair[1] >= 0x80));
    if touched { Cow::Owned(text.replace('$', "$$")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Kubernetes makes of a value, by the documented rules of `third_party/forked/golang/expansion`, with one
    /// variable `V` defined.
    fn kubernetes(value: &str) -> String {
        let mut out = Vec::new();
        let mut rest = value.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match (byte, after.first()) {
                (b'$', Some(b'$')) => {
                    out.push(b'$');
                    rest = &after[1..];
                }
                (b'$', Some(b'(')) if after.starts_with(b"(V)") => {
                    out.extend(b"value");
                    rest = &after[3..];
                }
                (b'$', Some(b'(')) if after.contains(&b')') => {
                    let end = after.iter().position(|byte| *byte == b')').unwrap_or(0);
                    out.push(b'$');
                    out.extend(&after[..=end]);
                    rest = &after[end + 1..];
                }
                (b'$', Some(&next)) if next >= 0x80 => {
                    out.push(b'?');
                    rest = &after[1..];
                }
                _ => out.push(byte),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    fn with_v<'a>(name: &str) -> Known<'a> {
        if name == "V" { Known::Value("value".into()) } else { Known::Undefined }
    }

    #[test]
    fn escape_leaves_harmless_text_unchanged() {
        for text in ["", "plain", "costs $5", "$HOME", "$", "a$", "${X}"] {
            assert!(matches!(escape(text), Cow::Borrowed(_)), "{text}");
            assert_eq!(kubernetes(text), text);
        }
        assert_eq!(escape("$(V) $$ $5"), "$$(V) $$$$ $$5");
    }

    #[test]
    fn unknown_variable_leaves_a_text_unknown() {
        let lookup = |name: &str| if name == "U" { Known::Unknown } else { with_v(name) };
        assert_eq!(expand("$(V)/$(X)", lookup).as_deref(), Some("value/$(X)"));
        assert_eq!(expand("$(V)/$(U)", lookup), None);
        assert_eq!(expand("$$(U)", lookup).as_deref(), Some("$(U)"));
    }

    proptest! {
        #[test]
        fn escaped_text_survives_kubernetes(text in "([$()Vé]|[a-z])*") {
            prop_assert_eq!(kubernetes(&escape(&text)), text.as_str());
            prop_assert_eq!(expand(&escape(&text), with_v), Some(text));
        }

        #[test]
        fn text_is_expanded_as_kubernetes_does(text in "([$()V]|[a-z])*") {
            prop_assert_eq!(expand(&text, with_v), Some(kubernetes(&text)));
        }
    }
}
