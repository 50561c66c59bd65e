//! When an account's usage limit is lifted, as the CLI says it in words.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

/// The moment that a text such as `resets 5pm (America/New_York)`, `will reset at Oct 9, 3:30am (UTC)` or `limit
/// reached|1771390800` names, seen from `now`: the next one with that time of day. `None` where it names none, or no time
/// zone that is known.
pub(crate) fn reset_time(text: &str, now: Timestamp) -> Option<Timestamp> {
    stamp(text).or_else(|| text.match_indices("reset").find_map(|(at, _)| clock(&text[at..], now)))
}

/// Seconds since 1970 after a `|`.
fn stamp(text: &str) -> Option<Timestamp> {
    let (before, after) = text.split_once('|')?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    if !before.to_ascii_lowercase().contains("limit") || digits.len() < 9 {
        return None;
    }
    moment(digits.parse().ok()?)
}

/// The moment that a number of seconds since 1970 stands for, or one of milliseconds: no seconds are that many before the
/// year 33658.
pub(crate) fn moment(number: i64) -> Option<Timestamp> {
    const MILLISECONDS: i64 = 1_000_000_000_000;
    if number >= MILLISECONDS {
        return Timestamp::from_millisecond(number).ok();
    }
    Timestamp::from_second(number).ok()
}

/// What follows the word.
fn clock(text: &str, now: Timestamp) -> Option<Timestamp> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let (when, zone) = rest.split_once('(')?;
    let (zone, _) = zone.split_once(')')?;
    let mut words = when.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    let zone = time_zone(zone.trim())?;
    let today = now.to_zoned(zone.clone()).date();
    let mut date = None;
    let mut time = None;
    while let Some(word) = words.next() {
        let word = word.to_ascii_lowercase();
        if word == "at" || word == "on" {
            continue;
        }
        if let Some(month) = month(&word) {
            date = Some((month, words.next()?.parse::<i8>().ok()?));
            continue;
        }
        // `5 pm` is two words.
        let half =
            words.clone().next().map(str::to_ascii_lowercase).filter(|next| next == "am" || next == "pm");
        time = Some(time_of_day(&format!("{word}{}", half.unwrap_or_default()))?);
        break;
    }
    let time = time?;
    let at = |date: Date| date.to_datetime(time).to_zoned(zone.clone()).ok().map(|at| at.timestamp());
    let Some((month, day)) = date else {
        return at(today).filter(|at| *at > now).or_else(|| at(today.checked_add(1.day()).ok()?));
    };
    let in_year = |year: i16| at(Date::new(year, month, day).ok()?);
    // A date without a year that is long past is one of next year.
    let half_a_year = now.checked_sub(4380.hours()).ok()?;
    in_year(today.year()).filter(|at| *at > half_a_year).or_else(|| in_year(today.year() + 1))
}

fn time_zone(name: &str) -> Option<TimeZone> {
    let is_utc = ["utc", "gmt"].iter().any(|utc| name.eq_ignore_ascii_case(utc));
    if is_utc { Some(TimeZone::UTC) } else { TimeZone::get(name).ok() }
}

/// The number of a month that is named by at least three letters.
fn month(word: &str) -> Option<i8> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let at = MONTHS.iter().position(|month| word.starts_with(month))?;
    i8::try_from(at + 1).ok()
}

/// A time of day such as `5pm`, `3:30am` or `17:00`.
fn time_of_day(word: &str) -> Option<Time> {
    if let Some((hour, minute)) = word.split_once(':')
        && minute.len() == 2
        && minute.bytes().all(|digit| digit.is_ascii_digit())
    {
        return Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok();
    }
    let (clock, half) = word.split_at_checked(word.len().checked_sub(2)?)?;
    let (hour, minute) = clock.split_once(':').unwrap_or((clock, "0"));
    let (hour, minute) = (hour.parse::<i8>().ok()?, minute.parse::<i8>().ok()?);
    if !(1..=12).contains(&hour) {
        return None;
    }
    let hour = match half {
        "am" => hour % 12,
        "pm" => hour % 12 + 12,
        _ => return None,
    };
    Time::new(hour, minute, 0, 0).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: &str = "2026-11-29T16:00:00Z";

    #[test]
    fn moment_is_the_next_one_with_that_time_of_day() {
        for (text, expected) in [
            ("You've hit your limit · resets 5pm (America/New_York)", "2026-11-29T22:00:00Z"),
            ("Your limit will reset at 11am (America/New_York).", "2026-11-30T16:00:00Z"),
            ("session limit · resets 3:30am (UTC)", "2026-11-30T03:30:00Z"),
            ("resets 17:05 (Europe/Berlin)", "2026-11-29T16:05:00Z"),
            ("resets Dec 1, 0:30 (UTC)", "2026-12-01T00:30:00Z"),
            ("resets at 4:01 pm (utc)", "2026-11-29T16:01:00Z"),
            ("resets 12am (UTC)", "2026-11-30T00:00:00Z"),
            ("resets 12pm (Asia/Kolkata)", "2026-11-30T06:30:00Z"),
            ("resets Dec 1, 9am (Europe/Berlin)", "2026-12-01T08:00:00Z"),
            ("resets December 1 at 9:15am (UTC)", "2026-12-01T09:15:00Z"),
            ("resets Jan 2, 9am (UTC)", "2027-01-02T09:00:00Z"),
            ("Claude AI usage limit reached|1796000000", "2026-11-30T00:53:20Z"),
            ("Claude AI usage limit reached|1796000000000", "2026-11-30T00:53:20Z"),
        ] {
            let expected: Timestamp = expected.parse().unwrap();
            assert_eq!(reset_time(text, NOW.parse().unwrap()), Some(expected), "{text}");
        }
    }

    #[test]
    fn clock_change_of_the_zone_is_respected() {
        // The night in which New York's clocks go back: 5 pm is an hour later in UTC than on the day before.
        let at = reset_time("resets 5pm (America/New_York)", "2026-10-31T22:00:00Z".parse().unwrap());
        assert_eq!(at, Some("2026-11-01T22:00:00Z".parse().unwrap()));
        let before = reset_time("resets 5pm (America/New_York)", "2026-10-31T20:00:00Z".parse().unwrap());
        assert_eq!(before, Some("2026-10-31T21:00:00Z".parse().unwrap()));
    }

    #[test]
    fn text_without_a_moment_names_none() {
        for text in [
            "",
            "resets soon",
            "resets 5pm",
            "resets 5pm (Nowhere/Else)",
            "resets 13pm (UTC)",
            "resets 0am (UTC)",
            "resets 5:61pm (UTC)",
            "resets 5 (UTC)",
            "resets 24:00 (UTC)",
            "resets -1:30 (UTC)",
            "resets Feb 30, 5pm (UTC)",
            "resets at (UTC)",
            "a|123456789",
            "limit reached|12",
            "limit reached|99999999999999999999",
        ] {
            assert_eq!(reset_time(text, NOW.parse().unwrap()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(reset|resets at|limit)?\\PC{0,40}", seconds in -1_000_000_000i64..9_000_000_000) {
            let now = Timestamp::from_second(seconds).unwrap();
            let _ = reset_time(&text, now);
            let _ = reset_time(&format!("resets {text} (Europe/Berlin)"), now);
        }
    }
}
