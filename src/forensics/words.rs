//! The cluster's words: as a part of a message, and to tell apart what Kubernetes gives one reason for.

use super::Cause;

/// Words, each with the cause that it stands for; the first that is found counts.
pub(super) type Words = [(&'static str, Cause)];

/// What the scheduler adds about preemption says nothing of why no node fits.
const PREEMPTION: &str = " preemption: ";

/// The cause that a text of the cluster tells.
pub(super) fn by_words(words: &Words, text: &str) -> Option<Cause> {
    let text = text.split(PREEMPTION).next().unwrap_or_default().to_ascii_lowercase();
    words.iter().find(|(word, _)| text.contains(word)).map(|(_, cause)| *cause)
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
    fn text_becomes_one_short_line() {
        assert_eq!(one_line(" a\r\nb\u{1b}[31m\0c "), "a  b [31m c");
        assert_eq!(one_line(&"é".repeat(2_000)).chars().count(), MOST_CHARACTERS + 1);
        assert_eq!(one_line("\n \t"), "");
    }
}
