//! Moments and durations in the forms that Docker's API and Go programs use.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Why a text is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid timestamp {0:?}: want RFC 3339, seconds since 1970, or a duration")]
pub struct ParseTimestampError(String);

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("time: invalid duration {0:?}")]
pub struct ParseDurationError(String);

/// A moment, in nanoseconds since 1970 UTC. Written as RFC 3339 with nanoseconds and `Z`, trailing zeros taken off, as
/// Go does. The zero moment of Go (`0001-01-01T00:00:00Z`) is [`Timestamp::ZERO`]: "never".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// "Never": Go's zero time.
    pub const ZERO: Self = Self(i64::MIN);

    /// The moment so many nanoseconds after 1970.
    #[must_use]
    pub fn from_unix_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Now, by the system's clock.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// Nanoseconds since 1970; for [`Timestamp::ZERO`] those of the year 1, clamped to what fits.
    #[must_use]
    pub fn unix_nanos(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, as lists of the API tell `Created`; Go's `-62135596800` for "never".
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        if self.is_zero() {
            -62_135_596_800
        } else {
            self.0.div_euclid(1_000_000_000)
        }
    }

    /// Whether this is "never".
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// The time from `earlier` to this moment; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 with exactly nine digits of a second, as `docker logs -t` shows it.
    #[must_use]
    pub fn to_fixed_rfc3339(self) -> String {
        self.format(true)
    }

    /// The moment that a client means by `since` or `until`: seconds since 1970 with an optional fraction, RFC 3339
    /// with or without a zone or a time, or a Go duration before `now`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse_relative(text: &str, now: Self) -> Result<Self, ParseTimestampError> {
        let bad = || ParseTimestampError(text.to_owned());
        if let Ok(before) = parse_duration(text)
            && text.ends_with(|c: char| c.is_ascii_alphabetic())
        {
            return Ok(Self(now.0.saturating_sub(before)));
        }
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        if let Ok(seconds) = seconds.parse::<i64>() {
            if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
                return Err(bad());
            }
            let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
            return seconds
                .checked_mul(1_000_000_000)
                .and_then(|s| s.checked_add(nanos))
                .map(Self)
                .ok_or_else(bad);
        }
        if let Ok(moment) = text.parse::<Self>() {
            return Ok(moment);
        }
        // Forms without a zone are meant in UTC here; Docker takes the client's zone and sends seconds.
        let zoned = if text.contains('T') {
            let colons = text
                .split('T')
                .nth(1)
                .map_or(0, |time| time.matches(':').count());
            match colons {
                0 => format!("{text}:00:00Z"),
                1 => format!("{text}:00Z"),
                _ => format!("{text}Z"),
            }
        } else {
            format!("{text}T00:00:00Z")
        };
        zoned.parse().map_err(|_| bad())
    }

    fn format(self, fixed: bool) -> String {
        if self.is_zero() {
            return "0001-01-01T00:00:00Z".to_owned();
        }
        let seconds = self.0.div_euclid(1_000_000_000);
        let nanos = self.0.rem_euclid(1_000_000_000);
        let (days, day_seconds) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (day_seconds / 3600, day_seconds / 60 % 60, day_seconds % 60);
        let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
        if fixed {
            text.push_str(&format!(".{nanos:09}"));
        } else if nanos != 0 {
            let fraction = format!("{nanos:09}");
            text.push('.');
            text.push_str(fraction.trim_end_matches('0'));
        }
        text.push('Z');
        text
    }
}

/// Year, month and day of a day counted from 1970-01-01 in the proleptic Gregorian calendar.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

impl Default for Timestamp {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format(false))
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// RFC 3339 with any zone.
    fn from_str(text: &str) -> Result<Self, ParseTimestampError> {
        if text.starts_with("0001-01-01T00:00:00") {
            return Ok(Self::ZERO);
        }
        let bad = || ParseTimestampError(text.chars().take(80).collect());
        let moment: jiff::Timestamp = text.parse().map_err(|_| bad())?;
        i64::try_from(moment.as_nanosecond())
            .map(Self)
            .map_err(|_| bad())
    }
}

crate::serde_as_string!(Timestamp);

/// Nanoseconds of a Go duration such as `1h30m`, `1.5s`, `-10ms`; `0` needs no unit.
///
/// # Errors
/// When the text is none, as Go words it.
pub fn parse_duration(text: &str) -> Result<i64, ParseDurationError> {
    let bad = || ParseDurationError(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = 0_f64;
    let mut exact = 0_i64;
    while !rest.is_empty() {
        let number_end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let nanos: i64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(bad()),
        };
        match number.parse::<i64>() {
            Ok(whole) => {
                exact = whole
                    .checked_mul(nanos)
                    .and_then(|n| exact.checked_add(n))
                    .ok_or_else(bad)?
            }
            #[expect(clippy::cast_precision_loss, reason = "a fraction was written")]
            Err(_) => total += number.parse::<f64>().map_err(|_| bad())? * nanos as f64,
        }
        rest = next;
    }
    if total >= 9.2e18 {
        return Err(bad());
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
    let sum = exact.checked_add(total.round() as i64).ok_or_else(bad)?;
    Ok(if negative { -sum } else { sum })
}

/// A duration as Go prints it: `1h30m0s`, `1.5s`, `100ms`, `0s`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |value: u128, unit: u128, name: &str| {
        let (whole, part) = (value / unit, value % unit);
        if part == 0 {
            return format!("{whole}{name}");
        }
        let width = unit.ilog10() as usize;
        let digits = format!("{part:0width$}");
        format!("{whole}.{}{name}", digits.trim_end_matches('0'))
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(nanos, 1_000_000, "ms"),
        _ => {
            let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000 % 60);
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000, "s");
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, _) => format!("{minutes}m{seconds}"),
                _ => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shown_as_go_does() {
        assert_eq!(
            Timestamp::from_unix_nanos(0).to_string(),
            "1970-01-01T00:00:00Z"
        );
        assert_eq!(
            Timestamp::from_unix_nanos(1_700_000_000_120_000_000).to_string(),
            "2023-11-14T22:13:20.12Z"
        );
        assert_eq!(
            Timestamp::from_unix_nanos(5).to_fixed_rfc3339(),
            "1970-01-01T00:00:00.000000005Z"
        );
        assert_eq!(Timestamp::ZERO.to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(Timestamp::ZERO.to_string().parse(), Ok(Timestamp::ZERO));
    }

    #[test]
    fn since_and_until() {
        let now = Timestamp::from_unix_nanos(1_700_000_000_000_000_000);
        for (text, nanos) in [
            ("1699999999", 1_699_999_999_000_000_000),
            ("1699999999.5", 1_699_999_999_500_000_000),
            ("10m", 1_699_999_400_000_000_000),
            ("2023-11-14T22:13:20Z", 1_700_000_000_000_000_000),
            ("2023-11-14T22:13", 1_699_999_980_000_000_000),
            ("2023-11-14", 1_699_920_000_000_000_000),
            ("2023-11-14T23:13:20+01:00", 1_700_000_000_000_000_000),
        ] {
            assert_eq!(
                Timestamp::parse_relative(text, now).unwrap().unix_nanos(),
                nanos,
                "{text}"
            );
        }
        for bad in ["", "x", "1.x", "2023-13-01"] {
            assert!(Timestamp::parse_relative(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1h1m1.5s"), Ok(3_661_500_000_000));
        assert_eq!(parse_duration("-2ms"), Ok(-2_000_000));
        for bad in ["", "1", "s", "1x", "1h1", "99999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(format_duration(Duration::from_secs(5400)), "1h30m0s");
        assert_eq!(format_duration(Duration::from_millis(1500)), "1.5s");
        assert_eq!(format_duration(Duration::from_micros(1500)), "1.5ms");
    }

    proptest! {
        #[test]
        fn moments_round_trip(nanos in -6_000_000_000_000_000_000_i64..9_000_000_000_000_000_000) {
            let moment = Timestamp::from_unix_nanos(nanos);
            prop_assert_eq!(moment.to_string().parse::<Timestamp>().unwrap(), moment);
        }
    }
}
