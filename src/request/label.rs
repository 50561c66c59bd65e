//! Label values.

/// The longest label value Kubernetes takes, in characters (all of them ASCII).
pub(crate) const MAX_LABEL_LEN: usize = 63;

/// Makes a Kubernetes label value out of any text.
///
/// Characters outside `[a-zA-Z0-9._-]` are removed, the rest is cut to `max_len` characters, and then both
/// ends lose what is not a letter or digit. Case is kept. `None` when nothing is left.
pub(crate) fn sanitize_label_value(value: &str, max_len: usize) -> Option<String> {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let cut: String = value.chars().filter(allowed).take(max_len).collect();
    let label = cut.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    (!label.is_empty()).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::syntax;
    use super::*;

    #[test]
    fn label_keeps_allowed_characters_and_is_cut_before_trimming() {
        let uuid = "0c5d5a1e-6b1f-4c7e-9d7e-2f9a8b7c6d5e";
        let long = "a".repeat(80);
        let cut_before_strip = format!("{}-b", "a".repeat(62));
        for (value, want) in [
            ("agent-1", Some("agent-1")),
            (uuid, Some(uuid)),
            ("Keep.Case_9", Some("Keep.Case_9")),
            ("me@example.com", Some("meexample.com")),
            ("two words", Some("twowords")),
            ("--x--", Some("x")),
            ("._-é-_.", None),
            ("---", None),
            ("", None),
            ("   ", None),
            (long.as_str(), Some(&long[..63])),
            (cut_before_strip.as_str(), Some(&cut_before_strip[..62])),
        ] {
            assert_eq!(sanitize_label_value(value, MAX_LABEL_LEN).as_deref(), want, "{value}");
        }
        assert_eq!(sanitize_label_value("abcdef", 3).as_deref(), Some("abc"));
        assert_eq!(sanitize_label_value("ab-def", 3).as_deref(), Some("ab"));
        assert_eq!(sanitize_label_value("abc", 0), None);
    }

    proptest! {
        #[test]
        fn any_text_becomes_a_valid_label_or_none(value in "\\PC*|[-._a-zA-Z0-9 ]{0,100}") {
            if let Some(label) = sanitize_label_value(&value, MAX_LABEL_LEN) {
                prop_assert!(!label.is_empty() && syntax::is_label_value(&label), "{label}");
                // One form only: sanitising again changes nothing.
                prop_assert_eq!(sanitize_label_value(&label, MAX_LABEL_LEN), Some(label));
            } else {
                prop_assert!(!value.chars().take(63).any(|c| c.is_ascii_alphanumeric()));
            }
        }
    }
}
