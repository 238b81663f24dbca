//! The record format of the `local` driver. Ours: compact, walkable from both ends, and findable again after damage.
//!
//! ```text
//!   file    "KKLOG\x01\r\n" record …
//!   record  0xA7 | flags u8 | length u32 | time i64 | attributes … payload | length u32
//!                             `- of attributes and payload         `- the same number again, little endian as all
//!   flags   bits 0–1 stream (1 stdout, 2 stderr) · bit 2 the line went on (no newline here) · bit 3 attributes
//!   attributes (with bit 3)   u16 total, then for each: u8 key length, key, u16 value length, value
//! ```
//!
//! What must stay true: a record is either whole (both lengths agree, the mark and flags are possible) or not a record;
//! a file whose magic has another version is not read.

use crate::log::entry::Line;
use crate::protocol::{Stream, UnixNanos};

/// What every file begins with; the sixth byte is the version.
pub(crate) const MAGIC: &[u8; 8] = b"KKLOG\x01\r\n";
/// Bytes before the payload.
pub(crate) const HEAD: usize = 14;
/// Bytes after the payload.
pub(crate) const TAIL: usize = 4;
/// The longest payload: a line part is at most 16 KiB, attributes at most 2 KiB and their framing.
pub(crate) const MAX_PAYLOAD: usize = 32 * 1024;

const MARK: u8 = 0xA7;
const PARTIAL: u8 = 4;
const ATTRIBUTES: u8 = 8;

/// Names and values that the log options chose.
pub(crate) type Attributes = Vec<(String, String)>;

/// A record's head, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) stream: Stream,
    pub(crate) partial: bool,
    pub(crate) attributes: bool,
    pub(crate) length: usize,
    pub(crate) at: UnixNanos,
}

impl Head {
    /// The whole record's length.
    pub(crate) fn record(&self) -> usize {
        HEAD + self.length + TAIL
    }

    /// Reads the first [`HEAD`] bytes; `None` if they cannot begin a record.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let [MARK, flags, a, b, c, d, time @ ..] = bytes.first_chunk::<HEAD>()? else {
            return None;
        };
        let stream = match flags & 3 {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            _ => return None,
        };
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        if flags & !(3 | PARTIAL | ATTRIBUTES) != 0 || length > MAX_PAYLOAD {
            return None;
        }
        let at = i64::from_le_bytes(*time);
        Some(Self {
            stream,
            partial: flags & PARTIAL != 0,
            attributes: flags & ATTRIBUTES != 0,
            length,
            at,
        })
    }
}

/// The encoded attributes block of a configuration; empty for none.
pub(crate) fn encode_attributes(attributes: &[(String, String)]) -> Vec<u8> {
    let mut block = Vec::new();
    if attributes.is_empty() {
        return block;
    }
    block.extend_from_slice(&[0, 0]);
    for (key, value) in attributes {
        // The configuration bounds their sum far below these.
        let key = &key.as_bytes()[..key.len().min(255)];
        let value = &value.as_bytes()[..value.len().min(4096)];
        block.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
        block.extend_from_slice(key);
        block.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        block.extend_from_slice(value);
    }
    let total = u16::try_from(block.len() - 2).unwrap_or(u16::MAX);
    block[..2].copy_from_slice(&total.to_le_bytes());
    block
}

/// Attributes and line of a payload whose head says that it has attributes.
pub(crate) fn split_attributes(payload: &[u8]) -> Option<(Attributes, &[u8])> {
    let (total, rest) = payload.split_first_chunk::<2>()?;
    let (mut block, line) = rest.split_at_checked(usize::from(u16::from_le_bytes(*total)))?;
    let mut attributes = Vec::new();
    while let Some((key_length, rest)) = block.split_first() {
        let (key, rest) = rest.split_at_checked(usize::from(*key_length))?;
        let (value_length, rest) = rest.split_first_chunk::<2>()?;
        let (value, rest) =
            rest.split_at_checked(usize::from(u16::from_le_bytes(*value_length)))?;
        attributes.push((
            String::from_utf8_lossy(key).into_owned(),
            String::from_utf8_lossy(value).into_owned(),
        ));
        block = rest;
    }
    Some((attributes, line))
}

/// Appends one record to `out`. `attributes` is the block of [`encode_attributes`].
pub(crate) fn append(out: &mut Vec<u8>, line: &Line<'_>, attributes: &[u8]) {
    let Line {
        stream,
        at,
        halves: line,
        partial,
    } = *line;
    let length = attributes.len() + line[0].len() + line[1].len();
    let length_bytes = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let flags = stream as u8
        | if partial { PARTIAL } else { 0 }
        | if attributes.is_empty() { 0 } else { ATTRIBUTES };
    let mut head = [0; HEAD];
    head[0] = MARK;
    head[1] = flags;
    head[2..6].copy_from_slice(&length_bytes);
    head[6..].copy_from_slice(&at.to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(attributes);
    out.extend_from_slice(line[0]);
    out.extend_from_slice(line[1]);
    out.extend_from_slice(&length_bytes);
}

/// The whole record at the start of `bytes`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan<'a> {
    /// A whole record and its payload.
    Record(Head, &'a [u8]),
    /// It may become a record when more bytes follow.
    Short,
    /// No record begins here.
    Damaged,
}

/// Looks for a record at the start of `bytes`.
pub(crate) fn scan(bytes: &[u8]) -> Scan<'_> {
    if bytes.len() < HEAD {
        let possible = bytes.first().is_none_or(|mark| *mark == MARK);
        return if possible { Scan::Short } else { Scan::Damaged };
    }
    let Some(head) = Head::decode(bytes) else {
        return Scan::Damaged;
    };
    let Some(record) = bytes.get(..head.record()) else {
        return Scan::Short;
    };
    let (front, tail) = record.split_at(HEAD + head.length);
    if tail != &record[2..6] {
        return Scan::Damaged;
    }
    Scan::Record(head, &front[HEAD..])
}

/// How many bytes of `bytes` (after the file's magic) are whole records from the start on.
#[cfg(test)]
pub(crate) fn valid_prefix(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Scan::Record(head, _) = scan(&bytes[at..]) {
        at += head.record();
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let attributes = vec![
            ("a".to_owned(), "1".to_owned()),
            ("tag".to_owned(), "x y".to_owned()),
        ];
        let block = encode_attributes(&attributes);
        let mut out = Vec::new();
        let line = Line {
            stream: Stream::Stderr,
            at: 77,
            halves: [b"hel", b"lo"],
            partial: true,
        };
        append(&mut out, &line, &block);
        append(
            &mut out,
            &Line {
                stream: Stream::Stdout,
                at: 78,
                halves: [b"", b""],
                partial: false,
            },
            &[],
        );
        let Scan::Record(head, payload) = scan(&out) else {
            panic!("no record")
        };
        assert_eq!(
            (head.stream, head.partial, head.at),
            (Stream::Stderr, true, 77)
        );
        assert_eq!(
            split_attributes(payload).unwrap(),
            (attributes, &b"hello"[..])
        );
        let Scan::Record(second, payload) = scan(&out[head.record()..]) else {
            panic!("no record")
        };
        assert_eq!(
            (second.stream, second.partial, payload),
            (Stream::Stdout, false, &b""[..])
        );
        assert_eq!(valid_prefix(&out), out.len());
        for cut in 0..out.len() {
            let expected = if cut >= head.record() {
                head.record()
            } else {
                0
            };
            assert_eq!(valid_prefix(&out[..cut]), expected);
        }
    }
}
