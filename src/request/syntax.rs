//! What Kubernetes accepts as names, labels and quantities. Checked before anything is sent, so that the error can
//! name the setting instead of a field of a manifest that the user never sees.

/// A label's value: empty, or up to 63 of `[A-Za-z0-9._-]` with a letter or digit at both ends.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified_part(text)
}

/// A label's key: a name, with a DNS subdomain and `/` before it if wanted.
pub(crate) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        None => is_qualified_part(text),
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_qualified_part(name),
    }
}

/// A DNS-1123 label: up to 63 of `[a-z0-9-]`, a letter or digit at both ends.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= 63
        && bytes.iter().all(|b| inner(b) || *b == b'-')
        && bytes.first().is_some_and(inner)
        && bytes.last().is_some_and(inner)
}

/// A DNS-1123 subdomain: parts in the alphabet of [`is_dns_label`] joined by dots, up to 253 characters.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 253
        && text.split('.').map(str::as_bytes).all(|part| {
            part.iter().all(|b| inner(b) || *b == b'-')
                && part.first().is_some_and(inner)
                && part.last().is_some_and(inner)
        })
}

/// A variable's name that every supported version of Kubernetes takes: `[-._a-zA-Z][-._a-zA-Z0-9]*`, not `.`
/// and not beginning with `..`.
pub(crate) fn is_env_name(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
        && text != "."
        && !text.starts_with("..")
}

/// The amount a Kubernetes quantity stands for (cores, bytes), exact enough to compare two; `None` when the
/// text is not a quantity.
pub(crate) fn quantity(text: &str) -> Option<f64> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let bare = digits.strip_prefix(['+', '-']).unwrap_or(digits);
            if bare.is_empty() || bare.len() > 3 || !bare.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            10f64.powi(digits.parse().ok()?)
        }
    };
    // Rust reads `1.` and `.5` as Kubernetes does, and refuses `.` and `1.2.3`.
    let amount = number.parse::<f64>().ok()? * factor;
    amount.is_finite().then_some(if negative { -amount } else { amount })
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, test: impl Fn(&str) -> bool, yes: &[&str], no: &[&str]) {
        for text in yes {
            assert!(test(text), "{name} should take {text:?}");
        }
        for text in no {
            assert!(!test(text), "{name} should refuse {text:?}");
        }
    }

    #[test]
    fn names_are_accepted_as_kubernetes_accepts_them() {
        let (fits, long) = ("a".repeat(63), "a".repeat(64));
        check(
            "label value",
            is_label_value,
            &["", "a", "A.b_c-9", &fits],
            &["-a", "a.", "a b", "é", "a/b", &long],
        );
        check(
            "label key",
            is_label_key,
            &["a", "example.com/a_B", &format!("x.y/{fits}")],
            &["", "/a", "a/", "a/b/c", "Ex.com/a", "-", "x..y/a", &format!("x.y/{long}")],
        );
        check(
            "DNS label",
            is_dns_label,
            &["a", "a-b", "0", &fits],
            &["", "A", "a.b", "-a", "a-", "a_b", &long],
        );
        check("DNS subdomain", is_dns_subdomain, &["a", "a.b-c.0"], &["", "a..b", ".a", "a.", "a.-b", "A"]);
        check(
            "env name",
            is_env_name,
            &["A", "_a.b-c9", "-x"],
            &["", "9A", "A B", "A=B", "é", ".", "..", "..a"],
        );
    }

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, want) in [
            ("1", 1.0),
            ("0", 0.0),
            ("100m", 0.1),
            ("0.5", 0.5),
            (".5", 0.5),
            ("5.", 5.0),
            ("+2", 2.0),
            ("-2", -2.0),
            ("1k", 1000.0),
            ("1Ki", 1024.0),
            ("2Gi", 2_147_483_648.0),
            ("1e3", 1000.0),
            ("1E3", 1000.0),
            ("1E", 1e18),
            ("15e-1", 1.5),
            ("1e+2", 100.0),
        ] {
            let got = quantity(text).unwrap_or(f64::NAN);
            assert!((got - want).abs() <= want.abs() * 1e-12, "{text}: {got}");
        }
        for text in [
            "", " 1", "1 ", "1 Gi", "Gi", ".", "1.2.3", "1e", "1K", "1gi", "1GB", "--1", "1e1e1", "inf",
            "NaN", "１",
        ] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }
}
