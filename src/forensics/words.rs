//! The cluster's words in a message: one line, and of bounded length.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_one_short_line() {
        assert_eq!(one_line(" a\r\nb\u{1b}[31m\0c "), "a  b [31m c");
        assert_eq!(one_line(&"é".repeat(2_000)).chars().count(), MOST_CHARACTERS + 1);
        assert_eq!(one_line("\n \t"), "");
    }
}
