//! Sizes as people write and read them, in go-units' forms: memory in powers of 1024 (`512m`), displayed sizes in
//! powers of 1000 (`7.8MB`) or 1024 (`7.629MiB`).

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid size: '{0}'")]
pub struct ParseSizeError(String);

/// Bytes of a memory size: a number, optionally with a fraction, and a unit `b k m g t p` with optional `b` or `ib`,
/// in any case. Units are powers of 1024.
///
/// # Errors
/// When the text is none, negative, or does not fit.
pub fn parse_ram(text: &str) -> Result<i64, ParseSizeError> {
    let bad = || ParseSizeError(text.to_owned());
    let at = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')
        .map_or(0, |at| at + 1);
    let (number, unit) = text.split_at(at);
    let number = number.strip_suffix(' ').unwrap_or(number);
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(bad());
    }
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1 << shift).ok_or_else(bad);
    }
    let value = number.parse::<f64>().map_err(|_| bad())? * f64::from(2_f32).powi(shift);
    // 2^63 as a float; everything below it fits.
    if !value.is_finite() || value >= 9_223_372_036_854_775_808.0 {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked above; a fraction of a byte is dropped"
    )]
    Ok(value as i64)
}

/// `value` with `digits` significant digits in C's `%g` form, as go-units prints sizes.
fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let mut decimals = digits;
    let mut bound = 1.0;
    while decimals > 0 && value >= bound {
        bound *= 10.0;
        decimals -= 1;
    }
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn scaled(mut value: f64, base: f64, units: &[&str]) -> (f64, usize) {
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    (value, unit)
}

/// `bytes` as Docker shows sizes of images: powers of 1000, four significant digits (`7.8MB`, `1.234GB`).
#[must_use]
pub fn human_size(bytes: u64) -> String {
    human_size_with_precision(bytes, 4)
}

/// As [`human_size`] with this many significant digits; lists use 3.
#[must_use]
pub fn human_size_with_precision(bytes: u64, digits: usize) -> String {
    const UNITS: &[&str] = &["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let (value, unit) = scaled(bytes as f64, 1000.0, UNITS);
    format!("{}{}", significant(value, digits), UNITS[unit])
}

/// `bytes` as Docker shows memory: powers of 1024, four significant digits (`7.629MiB`).
#[must_use]
pub fn bytes_size(bytes: u64) -> String {
    const UNITS: &[&str] = &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let (value, unit) = scaled(bytes as f64, 1024.0, UNITS);
    format!("{}{}", significant(value, 4), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram() {
        for (text, bytes) in [
            ("0", 0),
            ("32", 32),
            ("32b", 32),
            ("32 kb", 32 << 10),
            ("1.5m", 3 << 19),
            ("64M", 64 << 20),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(parse_ram(text), Ok(bytes), "{text}");
        }
        for bad in ["", "m", "-1m", "1x", "1 . 5m", "1e30p", "9999999p", "1..2m"] {
            assert!(parse_ram(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shown() {
        assert_eq!(human_size(7_800_000), "7.8MB");
        assert_eq!(human_size(1_234_567_890), "1.235GB");
        assert_eq!(human_size(0), "0B");
        assert_eq!(human_size(999), "999B");
        assert_eq!(human_size_with_precision(77_842_123, 3), "77.8MB");
        assert_eq!(human_size_with_precision(117_842_123, 3), "118MB");
        assert_eq!(bytes_size(8_000_000), "7.629MiB");
        assert_eq!(bytes_size(1 << 30), "1GiB");
    }
}
