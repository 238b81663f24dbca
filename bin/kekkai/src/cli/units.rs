//! Durations, times and sizes in the words people know from `docker ps`.

use kekkai_types::size;

/// `3 minutes`, `About an hour`, `2 weeks`.
pub(crate) fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "rounded to hours for people"
    )]
    let hours = (seconds as f64 / 3600.0 + 0.5) as i64;
    match seconds {
        ..1 => String::from("Less than a second"),
        1 => String::from("1 second"),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => String::from("About a minute"),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => String::from("About an hour"),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// Seconds since 1970, now.
pub(crate) fn now() -> i64 {
    kekkai_types::Timestamp::now().unix_seconds()
}

/// `3 minutes ago` for a moment in seconds since 1970.
pub(crate) fn ago(then: i64) -> String {
    format!("{} ago", human_duration(now() - then))
}

/// `2026-11-21 05:17:41 +0000 UTC`: Go's default form of a time, in the local zone.
pub(crate) fn local_time(seconds: i64) -> String {
    let Ok(timestamp) = jiff::Timestamp::from_second(seconds) else {
        return String::new();
    };
    timestamp
        .to_zoned(jiff::tz::TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S %z %Z")
        .to_string()
}

/// RFC 3339 in the local zone without a fraction.
pub(crate) fn local_rfc3339(seconds: i64) -> String {
    let Ok(timestamp) = jiff::Timestamp::from_second(seconds) else {
        return String::new();
    };
    zone_letter(
        timestamp
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%dT%H:%M:%S%:z")
            .to_string(),
    )
}

/// RFC 3339 in the local zone with nine digits of a second.
pub(crate) fn local_rfc3339_nanos(nanos: i64) -> String {
    let Ok(timestamp) = jiff::Timestamp::from_nanosecond(i128::from(nanos)) else {
        return String::new();
    };
    zone_letter(
        timestamp
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%dT%H:%M:%S.%9f%:z")
            .to_string(),
    )
}

/// Go writes `Z` for UTC.
fn zone_letter(text: String) -> String {
    match text.strip_suffix("+00:00") {
        Some(rest) => format!("{rest}Z"),
        None => text,
    }
}

/// What `--since` and `--until` send: `seconds.nanoseconds`, local time where no zone is given.
pub(crate) fn timestamp_argument(text: &str) -> Result<String, String> {
    use kekkai_types::Timestamp;
    if text.is_empty() {
        return Ok(String::new());
    }
    let bad = || format!("failed to parse value as time or duration: {text:?}");
    let has_zone = text.ends_with('Z')
        || text
            .rsplit_once('T')
            .is_some_and(|(_, time)| time.contains(['+', '-']));
    let is_local_date = !has_zone && text.len() >= 10 && text.as_bytes().get(4) == Some(&b'-');
    let moment = if is_local_date {
        let padded = match (text.contains('T'), text.matches(':').count()) {
            (false, _) => format!("{text}T00:00:00"),
            (true, 0) => format!("{text}:00:00"),
            (true, 1) => format!("{text}:00"),
            (true, _) => text.to_owned(),
        };
        let civil: jiff::civil::DateTime = padded.parse().map_err(|_| bad())?;
        let zoned = civil
            .to_zoned(jiff::tz::TimeZone::system())
            .map_err(|_| bad())?;
        Timestamp::from_unix_nanos(
            i64::try_from(zoned.timestamp().as_nanosecond()).map_err(|_| bad())?,
        )
    } else {
        Timestamp::parse_relative(text, Timestamp::now()).map_err(|_| bad())?
    };
    let nanos = moment.unix_nanos();
    Ok(format!(
        "{}.{:09}",
        nanos.div_euclid(1_000_000_000),
        nanos.rem_euclid(1_000_000_000)
    ))
}

/// `7.8MB`, three digits.
pub(crate) fn size3(bytes: i64) -> String {
    sign(bytes) + &size::human_size_with_precision(bytes.unsigned_abs(), 3)
}

/// `7.836MB`, four digits.
pub(crate) fn size4(bytes: i64) -> String {
    sign(bytes) + &size::human_size(bytes.unsigned_abs())
}

/// `7.473MiB`.
pub(crate) fn binary_size(bytes: u64) -> String {
    size::bytes_size(bytes)
}

fn sign(bytes: i64) -> String {
    String::from(if bytes < 0 { "-" } else { "" })
}

/// The first `limit` characters, the last of them an ellipsis if some are left out.
pub(crate) fn ellipsis(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let kept: String = text.chars().take(limit.saturating_sub(1)).collect();
    kept + "…"
}

/// An id without its algorithm, twelve digits.
pub(crate) fn short_id(id: &str) -> String {
    let bare = id.split_once(':').map_or(id, |(_, rest)| rest);
    bare.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (2 * 365 * 86400, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), words);
        }
    }

    #[test]
    fn shortening() {
        assert_eq!(ellipsis("abcdef", 6), "abcdef");
        assert_eq!(ellipsis("abcdefg", 6), "abcde…");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }

    #[test]
    fn times() {
        assert!(timestamp_argument("nonsense").is_err());
        assert_eq!(timestamp_argument("12.5").unwrap(), "12.500000000");
        assert_eq!(
            timestamp_argument("1970-01-01T00:00:10Z").unwrap(),
            "10.000000000"
        );
    }
}
