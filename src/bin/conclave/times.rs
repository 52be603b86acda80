//! Spans and times as people write them.

use std::time::{SystemTime, UNIX_EPOCH};

const UNITS: [(&str, u64); 5] = [("w", 7 * 86_400), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// `90d`, `24h`, `30m`, `45s`, or seconds.
pub(crate) fn span(text: &str) -> Result<u64, String> {
    let (digits, unit) =
        UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).unwrap_or((text, 1));
    let count: Option<u64> = digits.parse().ok();
    let seconds = count.and_then(|count| count.checked_mul(unit));
    seconds.ok_or_else(|| "a time span is such as 90d, 24h, 30m or 45s".to_owned())
}

/// `2027-01-31`, `2027-01-31 23:59:59` (UTC), or `+30d` from now on: seconds since 1970.
pub(crate) fn instant(text: &str) -> Result<u64, String> {
    let wrong = || "a time is such as 2027-01-31, \"2027-01-31 23:59:59\" (UTC), or +30d from now on".to_owned();
    if let Some(later) = text.strip_prefix('+') {
        return now().checked_add(span(later)?).ok_or_else(wrong);
    }
    let text = text.trim_end_matches("UTC").trim_end_matches('Z').trim_end();
    let (date, time) = text.split_once([' ', 'T']).unwrap_or((text, "0:0:0"));
    let numbers =
        |text: &str, between: char| -> Option<Vec<u64>> { text.split(between).map(|part| part.parse().ok()).collect() };
    let (Some(date), Some(time)) = (numbers(date, '-'), numbers(time, ':')) else { return Err(wrong()) };
    let (&[year, month, day], &[hour, minute, ref second @ ..]) = (&date[..], &time[..]) else { return Err(wrong()) };
    let second = match second {
        [] => 0,
        [second] => *second,
        _ => return Err(wrong()),
    };
    let valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !valid {
        return Err(wrong());
    }
    let years: u64 = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum();
    let months: u64 = (1..month).map(|month| days_in(year, month)).sum();
    Ok((((years + months + day - 1) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use conclave::hsm::governance::date;

    use super::*;

    #[test]
    fn times_are_read_as_they_are_shown() {
        for time in [0, 951_782_399, 951_782_400, 1_709_164_800, 4_102_444_799] {
            assert_eq!(instant(&date(time)), Ok(time), "{}", date(time));
        }
        assert_eq!(instant("2027-01-31"), Ok(1_801_353_600));
        assert_eq!(span("90d"), Ok(7_776_000));
        for wrong in ["", "1", "2027-02-29", "2027-13-01", "2027-01-01 24:00:00", "tomorrow", "+", "+1y", "-1d"] {
            assert!(instant(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "d", "-1", "1.5h", "99999999999999999999", "18446744073709551615w"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
