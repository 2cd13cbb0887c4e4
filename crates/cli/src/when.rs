//! Points in time and how long ago they were, as Docker says it.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A time that stratad gave, in nanoseconds since 1970; `None`: never.
pub(crate) fn at(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds == 0 { None } else { Timestamp::from_nanosecond(nanoseconds.into()).ok() }
}

/// `2 hours`: how long something took or takes.
pub(crate) fn duration(d: SignedDuration) -> String {
    let seconds = d.as_secs().max(0);
    let minutes = seconds / 60;
    // Hours are rounded, everything else is cut off.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// `2 hours ago`; empty if never.
pub(crate) fn ago(nanoseconds: i64, now: Timestamp) -> String {
    at(nanoseconds).map(|t| format!("{} ago", duration(now.duration_since(t)))).unwrap_or_default()
}

/// Local time as lists with `--format json` show it: `2026-11-21 07:24:09 +0000 UTC`.
pub(crate) fn local(nanoseconds: i64) -> String {
    at(nanoseconds)
        .map(|t| t.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string())
        .unwrap_or_default()
}

/// RFC 3339 in local time, without parts of a second.
pub(crate) fn rfc3339(nanoseconds: i64) -> String {
    at(nanoseconds)
        .map(|t| t.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
        .unwrap_or_default()
}

/// What `--since` and `--until` take: RFC 3339, a local date or time, seconds since 1970, or a duration before now
/// such as `1h30m`.
pub(crate) fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(t) = text.parse::<Timestamp>() {
        return Ok(t);
    }
    if let Some(t) =
        crate::units::decimal(text, 1_000_000_000).and_then(|n| Timestamp::from_nanosecond(n.into()).ok())
    {
        return Ok(t);
    }
    if let Some(t) = go_duration(text).and_then(|d| now.checked_sub(d).ok()) {
        return Ok(t);
    }
    let civil = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(|d| d.at(0, 0, 0, 0)))
        .map_err(|_| {
            format!("invalid time: '{text}'; give 2026-11-21T10:00:00Z, a date, seconds since 1970, or a duration such as 10m")
        })?;
    civil
        .to_zoned(TimeZone::system())
        .map(|z| z.timestamp())
        .map_err(|e| format!("invalid time: '{text}': {e}"))
}

/// A duration in Go's notation: `1h30m`, `1.5s`, `100ms`.
pub(crate) fn go_duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text.trim();
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let after = rest.get(number..)?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let unit = match after.get(..end)? {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        total = total.checked_add(crate::units::decimal(rest.get(..number)?, unit)?)?;
        rest = after.get(end..)?;
    }
    Some(SignedDuration::from_nanos(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_as_docker_says_them() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (45, "45 seconds"),
            (60, "About a minute"),
            (180, "3 minutes"),
            (3600, "About an hour"),
            (7199, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (365 * 86400, "12 months"),
            (731 * 86400, "2 years"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(SignedDuration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn times_are_read_in_every_form() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let read = |s: &str| parse(s, now).unwrap().to_string();
        assert_eq!(read("2026-11-21T09:00:00.5Z"), "2026-11-21T09:00:00.5Z");
        assert_eq!(read("10m"), "2026-11-21T09:50:00Z");
        assert_eq!(read("1h30m"), "2026-11-21T08:30:00Z");
        assert_eq!(read("0.5"), "1970-01-01T00:00:00.5Z");
        assert!(parse("2026-11-20", now).is_ok() && parse("2026-11-20T10:00:00", now).is_ok());
        assert!(parse("yesterday", now).is_err() && parse("", now).is_err());
    }
}
