//! The time stamp that the kubelet puts in front of each log line with `timestamps=true`.

use std::borrow::Cow;
use std::fmt;

const NANOS: i64 = 1_000_000_000;

/// A time, in nanoseconds since 1970-01-01T00:00:00Z (from 1677 to 2262).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(i64);

impl Stamp {
    /// A stamp from nanoseconds since the epoch.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the epoch.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// The start of the stamp's second. `sinceTime` reaches the kubelet in whole seconds, and rounding up would lose
    /// lines.
    pub(crate) const fn floor_seconds(self) -> Self {
        Self(self.0.div_euclid(NANOS).saturating_mul(NANOS))
    }

    /// The start of the stamp's second as RFC 3339, for `sinceTime`: `2026-01-02T03:04:05Z`.
    pub(crate) fn floor_seconds_rfc3339(self) -> String {
        let seconds = self.0.div_euclid(NANOS);
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// Whether it is before another stamp by more than this many nanoseconds.
    pub(crate) const fn is_before_by(self, other: Self, nanos: i64) -> bool {
        other.0.saturating_sub(self.0) > nanos
    }

    /// The stamp moved back by whole seconds.
    pub(crate) const fn back_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_sub(seconds.saturating_mul(NANOS)))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.floor_seconds_rfc3339();
        write!(f, "{}.{:09}Z", whole.trim_end_matches('Z'), self.0.rem_euclid(NANOS))
    }
}

/// Divides a raw log line into its stamp and its text. `None` when the line does not begin with an RFC 3339 time (0 to 9
/// digits of a fraction, `Z` or an offset) and one space: the container did not write such a line.
pub(crate) fn split_stamp(line: &[u8]) -> Option<(Stamp, &[u8])> {
    let (date, rest) = line.split_at_checked(19)?;
    if date[4] != b'-' || date[7] != b'-' || date[10] != b'T' || date[13] != b':' || date[16] != b':' {
        return None;
    }
    let year = digits(&date[0..4])?;
    let month = digits(&date[5..7])?;
    let day = digits(&date[8..10])?;
    let hour = digits(&date[11..13])?;
    let minute = digits(&date[14..16])?;
    let second = digits(&date[17..19])?;
    if !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction, rest) = fraction(rest)?;
    let (offset, rest) = offset(rest)?;
    let text = rest.strip_prefix(b" ")?;
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some((Stamp(seconds.checked_mul(NANOS)?.checked_add(fraction)?), text))
}

/// The longest piece that container runtimes store of one line, in bytes.
pub(super) const PIECE: usize = 16 * 1024;

/// The raw log line with one stamp, at its beginning, as kubelets from 1.26 on (and the last releases of 1.23 to 1.25)
/// write it. Older kubelets put a stamp before every stored piece of a long line, into the middle of its text
/// (kubernetes#77603): these stamps are removed.
pub(crate) fn join_pieces(line: &[u8]) -> Cow<'_, [u8]> {
    if line.len() <= PIECE {
        return Cow::Borrowed(line);
    }
    let Some((mut stamp, mut text)) = split_stamp(line) else {
        return Cow::Borrowed(line);
    };
    let mut joined = Vec::new();
    while let Some((piece, rest)) = text.split_at_checked(PIECE) {
        // Pieces are stored one after the other: an older stamp is text of the container.
        let Some((later, rest)) = split_stamp(rest).filter(|(later, _)| *later >= stamp) else {
            break;
        };
        if joined.is_empty() {
            joined.extend_from_slice(&line[..line.len() - text.len()]);
        }
        joined.extend_from_slice(piece);
        (stamp, text) = (later, rest);
    }
    if joined.is_empty() {
        return Cow::Borrowed(line);
    }
    joined.extend_from_slice(text);
    Cow::Owned(joined)
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

/// Nanoseconds of `.123`, and what follows; a missing fraction is 0.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(text) = text.strip_prefix(b".") else {
        return Some((0, text));
    };
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 || count > 9 {
        return None;
    }
    let (fraction, rest) = text.split_at(count);
    let scale = (count..9).fold(1, |scale, _| scale * 10);
    Some((digits(fraction)? * scale, rest))
}

/// Seconds east of UTC of `Z` or `+hh:mm`, and what follows.
fn offset(text: &[u8]) -> Option<(i64, &[u8])> {
    match text.split_first()? {
        (b'Z', rest) => Some((0, rest)),
        (sign @ (b'+' | b'-'), rest) => {
            let (zone, rest) = rest.split_at_checked(5)?;
            if zone[2] != b':' {
                return None;
            }
            let (hours, minutes) = (digits(&zone[0..2])?, digits(&zone[3..5])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            Some((if *sign == b'-' { -seconds } else { seconds }, rest))
        }
        _ => None,
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar. Years are counted from March, so that the leap day is the
/// last day of a year; 400 years are 146 097 days.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A line as a kubelet before 1.26 sends it.
    fn in_pieces(text: &[u8]) -> Vec<u8> {
        let mut line = Vec::new();
        for (number, piece) in text.chunks(PIECE).enumerate() {
            line.extend_from_slice(format!("2026-01-02T03:04:05.{number:09}Z ").as_bytes());
            line.extend_from_slice(piece);
        }
        line
    }

    #[test]
    fn stamps_inside_a_long_line_are_removed() {
        for bytes in [1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 5 * PIECE + 7] {
            let text: Vec<u8> = (0..bytes).map(|i| b'a' + (i % 26) as u8).collect();
            let whole = [b"2026-01-02T03:04:05.000000000Z ".as_slice(), &text].concat();
            assert!(*join_pieces(&in_pieces(&text)) == *whole, "{bytes}");
            assert!(matches!(join_pieces(&whole), Cow::Borrowed(_)), "a new kubelet's line of {bytes}");
        }
    }

    #[test]
    fn stamp_that_the_container_printed_stays() {
        let stamp = "2026-01-02T03:04:05.000000000Z ";
        let elsewhere = format!("{stamp}{}{stamp}tail", "x".repeat(PIECE - 1));
        let older = format!("{stamp}{}2025-01-02T03:04:05.000000000Z tail", "x".repeat(PIECE));
        for line in [elsewhere, older, "no stamp".repeat(PIECE)] {
            assert!(*join_pieces(line.as_bytes()) == *line.as_bytes());
        }
    }

    #[test]
    fn prefixes_of_the_kubelet_are_read() {
        let base = 1_767_323_045 * NANOS; // 2026-01-02T03:04:05Z
        for (line, nanos, text) in [
            ("2026-01-02T03:04:05.123456789Z hello", base + 123_456_789, "hello"),
            ("2026-01-02T03:04:05.1Z hello", base + 100_000_000, "hello"),
            ("2026-01-02T03:04:05Z hello", base, "hello"),
            ("2026-01-02T03:04:05.000000001Z ", base + 1, ""),
            ("2026-01-02T03:04:05Z  two", base, " two"),
            ("2026-01-02T05:34:05.5+02:30 x", base + 500_000_000, "x"),
            ("2026-01-01T22:04:05-05:00 x", base, "x"),
            ("1969-12-31T23:59:59.9Z x", -100_000_000, "x"),
            ("2024-02-29T00:00:00Z x", 1_709_164_800 * NANOS, "x"),
        ] {
            let (stamp, rest) = split_stamp(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((stamp.nanos(), rest), (nanos, text.as_bytes()), "{line}");
        }
    }

    #[test]
    fn anything_else_is_not_a_stamp() {
        for line in [
            "",
            "hello",
            "2026-01-02T03:04:05.123456789Z",
            "2026-01-02T03:04:05.1234567890Z x",
            "2026-01-02T03:04:05.Z x",
            "2026-01-02 03:04:05Z x",
            "2026-13-02T03:04:05Z x",
            "2026-02-29T03:04:05Z x",
            "2026-01-02T24:04:05Z x",
            "2026-01-02T03:04:60Z x",
            "2026-01-02T03:04:05+0200 x",
            "2026-01-02T03:04:05+24:00 x",
            "2026-01-02T03:04:05\tx",
            "9999-01-02T03:04:05Z x",
            "failed to watch file: too many open files",
            "unable to retrieve container logs for containerd://abc",
        ] {
            assert_eq!(split_stamp(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn floor_never_rounds_up() {
        let (stamp, _) = split_stamp(b"2026-03-01T00:00:00.999999999Z x").unwrap();
        assert_eq!(stamp.floor_seconds_rfc3339(), "2026-03-01T00:00:00Z");
        assert_eq!(stamp.floor_seconds().to_string(), "2026-03-01T00:00:00.000000000Z");
        assert_eq!(Stamp::from_nanos(-1).floor_seconds_rfc3339(), "1969-12-31T23:59:59Z");
    }

    proptest! {
        #[test]
        fn printed_stamp_reads_back(nanos in -9_000_000_000_000_000_000i64..9_000_000_000_000_000_000) {
            let stamp = Stamp::from_nanos(nanos);
            let line = format!("{stamp} text");
            prop_assert_eq!(split_stamp(line.as_bytes()), Some((stamp, &b"text"[..])));
            let floor = format!("{} ", stamp.floor_seconds_rfc3339());
            prop_assert_eq!(split_stamp(floor.as_bytes()), Some((stamp.floor_seconds(), &b""[..])));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = split_stamp(&bytes);
        }
    }
}
