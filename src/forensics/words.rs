//! The cluster's words: as a part of a message, and to tell apart what Kubernetes gives one reason for.

use super::Cause;

/// Words, each with the cause that it stands for; the first that is found counts.
pub(super) type Words = [(&'static str, Cause)];

/// What the scheduler adds about preemption says nothing of why no node fits.
const PREEMPTION: &str = " preemption: ";

/// The cause that a text of the cluster tells. Names in it tell nothing: an image may be called `authentication`.
pub(super) fn by_words(words: &Words, text: &str) -> Option<Cause> {
    let text = without_names(&text.split(PREEMPTION).next().unwrap_or_default().to_ascii_lowercase());
    words.iter().find(|(word, _)| text.contains(word)).map(|(_, cause)| *cause)
}

/// The text without what stands in quotes or braces, as names and taints do, and without addresses, images and paths.
fn without_names(text: &str) -> String {
    let is_name = |word: &str| {
        let word = word.trim_end_matches([':', ',', ';', '.']);
        word.contains('/') && word.contains([':', '.'])
    };
    let mut out = String::with_capacity(text.len());
    for word in outside(text).split(' ').filter(|word| !is_name(word)) {
        out.push_str(word);
        out.push(' ');
    }
    out
}

/// The text without what stands in quotes or braces; these themselves stay. Behind a quote that is never closed all stays.
fn outside(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['"', '{']) {
        let close = if rest.as_bytes()[at] == b'"' { '"' } else { '}' };
        let (before, inside) = rest.split_at(at + 1);
        out.push_str(before);
        match inside.find(close) {
            Some(end) => {
                out.push(close);
                rest = &inside[end + 1..];
            }
            None => rest = inside,
        }
    }
    out + rest
}

/// The longest text of the cluster that goes into a message, in characters.
const MOST_CHARACTERS: usize = 1_000;

/// A text of the cluster as one line: control characters become spaces, and what is too long is cut.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::new();
    for (at, character) in text.trim().chars().enumerate() {
        if at == MOST_CHARACTERS {
            out.push('…');
            break;
        }
        out.push(if character.is_control() { ' ' } else { character });
    }
    out
}

/// Whether the cluster's words say more than its reason: `Job suspended` says no more than `JobSuspended`.
pub(super) fn say_more(words: &str, reason: &str) -> bool {
    let letters = |text: &str| -> String {
        text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let said = letters(words);
    !said.is_empty() && said != letters(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_repeat_their_reason_say_no_more() {
        for (words, reason, more) in [
            ("Job suspended", "JobSuspended", false),
            (" job-suspended.", "JobSuspended", false),
            ("", "JobSuspended", false),
            ("Job suspended by team-a", "JobSuspended", true),
            ("preempted", "JobSuspended", true),
            ("x", "", true),
        ] {
            assert_eq!(say_more(words, reason), more, "{words}");
        }
    }

    #[test]
    fn names_tell_nothing() {
        for (text, rest) in [
            (r#"secret "s" not found"#, r#"secret "" not found "#),
            ("had untolerated taint {volume: x}, ok", "had untolerated taint {}, ok "),
            ("resolve \"r/x:1\": r/x:1: not found", "resolve \"\": not found "),
            ("get https://r.io/denied/x: 404", "get 404 "),
            ("affinity/selector. 0/3 nodes", "affinity/selector. 0/3 nodes "),
            (r#"a "b c"#, r#"a "b c "#),
            ("{\"", "{\" "),
            ("", " "),
        ] {
            assert_eq!(without_names(text), rest);
        }
    }

    #[test]
    fn text_becomes_one_short_line() {
        assert_eq!(one_line(" a\r\nb\u{1b}[31m\0c "), "a  b [31m c");
        assert_eq!(one_line(&"é".repeat(2_000)).chars().count(), MOST_CHARACTERS + 1);
        assert_eq!(one_line("\n \t"), "");
    }
}
