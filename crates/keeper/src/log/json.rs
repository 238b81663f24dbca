//! The record format of the `json-file` driver: Docker's, byte for byte.
//!
//! `{"log":"…\n","stream":"stdout","attrs":{…},"time":"2026-11-21T05:00:00.123456789Z"}` and a newline. Escapes are
//! those of dockerd's own encoder, which differ from today's `encoding/json`: only `\n` and `\r` have short forms
//! (a tab is `\u0009`), `<`, `>`, `&`, U+2028 and U+2029 are escaped, and a byte that is no UTF-8 becomes `\ufffd`.

use crate::log::entry::Line;
use crate::protocol::{Stream, UnixNanos};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// For each byte whether it is copied as it is.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x20;
    while byte < 0x80 {
        table[byte] = !matches!(byte as u8, b'\\' | b'"' | b'<' | b'>' | b'&');
        byte += 1;
    }
    table
};

/// Appends `text` with its special bytes escaped, without the quotes.
pub(crate) fn escape_into(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    loop {
        let plain = plain_prefix(rest);
        out.extend_from_slice(&rest[..plain]);
        rest = &rest[plain..];
        let Some(&byte) = rest.first() else { return };
        let used = match byte {
            b'\\' | b'"' => {
                out.extend_from_slice(&[b'\\', byte]);
                1
            }
            b'\n' => {
                out.extend_from_slice(b"\\n");
                1
            }
            b'\r' => {
                out.extend_from_slice(b"\\r");
                1
            }
            ..0x80 => {
                out.extend_from_slice(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    HEX[usize::from(byte >> 4)],
                    HEX[usize::from(byte & 15)],
                ]);
                1
            }
            0x80.. => escape_rune(out, rest),
        };
        rest = &rest[used..];
    }
}

/// How many bytes at the start need no escape. Whole blocks are checked without a branch per byte.
fn plain_prefix(text: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let mut at = 0;
    for block in text.chunks_exact(BLOCK) {
        let special = block.iter().fold(false, |special, &byte| {
            special
                | !(0x20..0x80).contains(&byte)
                | (byte == b'\\')
                | (byte == b'"')
                | (byte == b'<')
                | (byte == b'>')
                | (byte == b'&')
        });
        if special {
            break;
        }
        at += BLOCK;
    }
    at + text[at..]
        .iter()
        .position(|byte| !PLAIN[usize::from(*byte)])
        .unwrap_or(text.len() - at)
}

/// Appends the non-ASCII character at the start of `text`; returns how many bytes it took.
fn escape_rune(out: &mut Vec<u8>, text: &[u8]) -> usize {
    let window = &text[..text.len().min(4)];
    let valid = match std::str::from_utf8(window) {
        Ok(valid) => valid,
        // The prefix that was checked is UTF-8, so this never fails.
        Err(error) => std::str::from_utf8(&window[..error.valid_up_to()]).unwrap_or(""),
    };
    match valid.chars().next() {
        Some('\u{2028}') => out.extend_from_slice(b"\\u2028"),
        Some('\u{2029}') => out.extend_from_slice(b"\\u2029"),
        Some(rune) => out.extend_from_slice(&text[..rune.len_utf8()]),
        None => {
            out.extend_from_slice(b"\\ufffd");
            return 1;
        }
    }
    valid.chars().next().map_or(1, char::len_utf8)
}

/// `,"attrs":{…}` of a configuration as Go's `encoding/json` writes a map: sorted keys; empty for none.
pub(crate) fn encode_attributes(attributes: &[(String, String)]) -> Vec<u8> {
    let mut block = Vec::new();
    if attributes.is_empty() {
        return block;
    }
    block.extend_from_slice(b",\"attrs\":{");
    for (index, (key, value)) in attributes.iter().enumerate() {
        block.extend_from_slice(if index > 0 { b",\"" } else { b"\"" });
        escape_into(&mut block, key.as_bytes());
        block.extend_from_slice(b"\":\"");
        escape_into(&mut block, value.as_bytes());
        block.push(b'"');
    }
    block.push(b'}');
    block
}

/// Formats times as Go's `RFC3339Nano` in UTC, keeping the text of the present second.
#[derive(Debug, Default)]
pub(crate) struct TimeText {
    second: i64,
    text: Vec<u8>,
}

impl TimeText {
    /// Appends the time: `2006-01-02T15:04:05.999999999Z`, trailing zeros of the fraction dropped.
    pub(crate) fn append(&mut self, out: &mut Vec<u8>, at: UnixNanos) {
        let second = at.div_euclid(1_000_000_000);
        let mut nanos = at.rem_euclid(1_000_000_000);
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = civil(second).into_bytes();
        }
        out.extend_from_slice(&self.text);
        if nanos != 0 {
            let mut digits = [b'0'; 10];
            digits[0] = b'.';
            for digit in digits[1..].iter_mut().rev() {
                *digit = b'0' + u8::try_from(nanos % 10).unwrap_or(0);
                nanos /= 10;
            }
            let end = digits.iter().rposition(|digit| *digit != b'0').unwrap_or(0);
            out.extend_from_slice(&digits[..=end]);
        }
        out.push(b'Z');
    }
}

/// `2006-01-02T15:04:05` of a Unix time in seconds (proleptic Gregorian calendar).
fn civil(second: i64) -> String {
    let days = second.div_euclid(86_400);
    let time = second.rem_euclid(86_400);
    // Days since 0000-03-01, in eras of 400 years.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

/// Unix nanoseconds of an RFC 3339 time in UTC as [`TimeText`] writes it.
pub(crate) fn parse_time(text: &str) -> Option<UnixNanos> {
    let text = text.strip_suffix('Z')?;
    let (main, fraction) = text.split_once('.').unwrap_or((text, ""));
    let bytes = main.as_bytes();
    if bytes.len() != 19 || fraction.len() > 9 || !main.is_ascii() {
        return None;
    }
    let number = |range: std::ops::Range<usize>| main[range].parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let mut nanos = if fraction.is_empty() {
        0
    } else {
        fraction.parse::<i64>().ok()?
    };
    for _ in fraction.len()..9 {
        nanos *= 10;
    }
    (days * 86_400 + hour * 3600 + minute * 60 + second)
        .checked_mul(1_000_000_000)?
        .checked_add(nanos)
}

/// Appends one record. `attributes` is the block of [`encode_attributes`].
pub(crate) fn append(out: &mut Vec<u8>, time: &mut TimeText, line: &Line<'_>, attributes: &[u8]) {
    let Line {
        stream,
        at,
        halves: line,
        partial,
    } = *line;
    out.extend_from_slice(b"{\"log\":\"");
    if line[0].is_empty() {
        escape_into(out, line[1]);
    } else {
        // A character may straddle the two halves.
        escape_into(out, &line.concat());
    }
    if !partial {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(if stream == Stream::Stderr {
        b"\",\"stream\":\"stderr\""
    } else {
        b"\",\"stream\":\"stdout\""
    });
    out.extend_from_slice(attributes);
    out.extend_from_slice(b",\"time\":\"");
    time.append(out, at);
    out.extend_from_slice(b"\"}\n");
}

/// One line of a `json-file`, as far as it is read.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Record<'a> {
    #[serde(default, borrow)]
    pub(crate) log: std::borrow::Cow<'a, str>,
    #[serde(default, borrow)]
    pub(crate) stream: std::borrow::Cow<'a, str>,
    #[serde(default)]
    pub(crate) attrs: std::collections::BTreeMap<String, String>,
    #[serde(borrow)]
    pub(crate) time: std::borrow::Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_escapes() {
        for (text, expected) in [
            (&b"plain"[..], "plain"),
            (b"a\"b\\c", "a\\\"b\\\\c"),
            (b"\t\x01\x7f", "\\u0009\\u0001\x7f"),
            (b"\r\n", "\\r\\n"),
            (b"<&>", "\\u003c\\u0026\\u003e"),
            ("é結\u{2028}\u{2029}".as_bytes(), "é結\\u2028\\u2029"),
            (b"\xff\xfex\xe7\xb5", "\\ufffd\\ufffdx\\ufffd\\ufffd"),
            ("\u{fffd}".as_bytes(), "\u{fffd}"),
        ] {
            let mut out = Vec::new();
            escape_into(&mut out, text);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn times() {
        let mut text = TimeText::default();
        for (at, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_500_000_000_120_000_000, "2017-07-14T02:40:00.12Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_795_237_261_999_999_999, "2026-11-21T05:01:01.999999999Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
        ] {
            let mut out = Vec::new();
            text.append(&mut out, at);
            let out = String::from_utf8(out).unwrap();
            assert_eq!(out, expected);
            assert_eq!(parse_time(&out), Some(at));
        }
    }

    #[test]
    fn whole_record() {
        let attributes = encode_attributes(&[
            ("a".to_owned(), "<1>".to_owned()),
            ("b".to_owned(), "2".to_owned()),
        ]);
        let mut out = Vec::new();
        let line = Line {
            stream: Stream::Stderr,
            at: 1,
            halves: [b"\xe7\xb5", b"\x90 x"],
            partial: false,
        };
        append(&mut out, &mut TimeText::default(), &line, &attributes);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"log\":\"結 x\\n\",\"stream\":\"stderr\",\"attrs\":{\"a\":\"\\u003c1\\u003e\",\"b\":\"2\"},\
             \"time\":\"1970-01-01T00:00:00.000000001Z\"}\n"
        );
    }
}
