//! UTC times in the forms the Kubernetes API uses.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// Whole seconds since the Unix epoch.
pub(crate) fn now_secs() -> i64 {
    now_ns().div_euclid(1_000_000_000)
}

/// Now, as `2006-01-02T15:04:05Z`.
pub(crate) fn now() -> String {
    rfc3339(now_secs())
}

/// Seconds since the epoch as `2006-01-02T15:04:05Z`.
pub(crate) fn rfc3339(secs: i64) -> String {
    let mut out = String::with_capacity(20);
    push_civil(secs, &mut out);
    out.push('Z');
    out
}

/// Now with microseconds, as `2006-01-02T15:04:05.000000Z`.
pub(crate) fn now_micro() -> String {
    let ns = now_ns();
    let mut out = String::with_capacity(27);
    push_civil(ns.div_euclid(1_000_000_000), &mut out);
    out.push_str(&format!(".{:06}Z", ns.rem_euclid(1_000_000_000) / 1000));
    out
}

fn push_civil(secs: i64, out: &mut String) {
    let days = secs.div_euclid(86_400);
    let rest = secs.rem_euclid(86_400);
    let (y, m, d) = civil(days);
    out.push_str(&format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60));
}

/// Proleptic Gregorian date of a day number counted from 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

fn day_number(y: i64, m: i64, d: i64) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * (if m > 2 { m - 3 } else { m + 9 }) + 2) / 5 + d - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

/// Parses an RFC 3339 time to whole seconds since the epoch; a fraction is cut off.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let b = text.as_bytes();
    if b.len() < 20 || b[4] != b'-' || b[7] != b'-' || !matches!(b[10], b'T' | b't') {
        return None;
    }
    if b[13] != b':' || b[16] != b':' {
        return None;
    }
    let num = |from: usize, to: usize| -> Option<i64> {
        let part = text.get(from..to)?;
        part.bytes().all(|c| c.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let (y, mo, d) = (num(0, 4)?, num(5, 7)?, num(8, 10)?);
    let (h, mi, s) = (num(11, 13)?, num(14, 16)?, num(17, 19)?);
    if !(1..=12).contains(&mo) || !(1..=31).contains(&d) || h > 23 || mi > 59 || s > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    if let Some(frac) = rest.strip_prefix('.') {
        let digits = frac.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        rest = &frac[digits..];
    }
    let offset = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = match rest.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (oh, om) = rest.get(1..)?.split_once(':')?;
            sign * (oh.parse::<i64>().ok()? * 3600 + om.parse::<i64>().ok()? * 60)
        }
    };
    Some(day_number(y, mo, d) * 86_400 + h * 3600 + mi * 60 + s - offset)
}

/// Writes nanosecond stamps in the kubelet's fixed-width form, remembering the second.
#[derive(Default)]
pub(crate) struct Stamper {
    second: Option<i64>,
    prefix: String,
}

impl Stamper {
    /// Appends `2006-01-02T15:04:05.000000000Z ` to `out`.
    pub(crate) fn push(&mut self, ns: i64, out: &mut bytes::BytesMut) {
        let secs = ns.div_euclid(1_000_000_000);
        if self.second != Some(secs) {
            self.second = Some(secs);
            self.prefix.clear();
            push_civil(secs, &mut self.prefix);
            self.prefix.push('.');
        }
        out.extend_from_slice(self.prefix.as_bytes());
        let mut frac = ns.rem_euclid(1_000_000_000);
        let mut digits = *b"000000000Z ";
        for slot in digits[..9].iter_mut().rev() {
            *slot = b'0' + (frac % 10) as u8;
            frac /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_round_trips() {
        for secs in [0, 951_782_400, 1_709_164_800, 1_795_361_814, 4_102_444_799] {
            assert_eq!(parse_rfc3339(&rfc3339(secs)), Some(secs));
        }
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
    }

    #[test]
    fn fraction_is_floored_and_offsets_count() {
        assert_eq!(parse_rfc3339("1970-01-01T00:00:01.999Z"), Some(1));
        assert_eq!(parse_rfc3339("1970-01-01T02:00:01+02:00"), Some(1));
        assert_eq!(parse_rfc3339("1970-01-01 00:00:01Z"), None);
        assert_eq!(parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn stamp_is_fixed_width() {
        let mut out = bytes::BytesMut::new();
        Stamper::default().push(1_000_000_042, &mut out);
        assert_eq!(&out[..], b"1970-01-01T00:00:01.000000042Z ");
    }
}
