//! Tar headers: the 512-byte block, PAX records, sparse maps. Pure functions over bytes.
//!
//! POSIX.1-2001 `pax` and `ustar`, GNU tar's `L`, `K` and `S` entries, as GNU tar's manual describes them.

use crate::ArchiveError;

/// Size of a tar block.
pub(crate) const BLOCK: usize = 512;
/// Most extents of one sparse file.
const MAX_EXTENTS: usize = 1 << 20;

fn malformed(what: impl Into<String>) -> ArchiveError {
    ArchiveError::Malformed(what.into())
}

/// A stretch of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The fields of one block, undigested by extensions.
#[derive(Debug)]
pub(crate) struct RawHeader<'a>(pub(crate) &'a [u8; BLOCK]);

impl RawHeader<'_> {
    fn field(&self, from: usize, length: usize) -> &[u8] {
        &self.0[from..from + length]
    }

    fn text(&self, from: usize, length: usize) -> &[u8] {
        let field = self.field(from, length);
        &field[..field.iter().position(|b| *b == 0).unwrap_or(length)]
    }

    fn number(&self, from: usize, length: usize, what: &str) -> Result<i64, ArchiveError> {
        number(self.field(from, length)).ok_or_else(|| malformed(format!("{what} is no number")))
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }

    /// Verifies the checksum, unsigned as POSIX has it or signed as old implementations had.
    pub(crate) fn verify(&self) -> Result<(), ArchiveError> {
        let stored = self.number(148, 8, "checksum")?;
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (at, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stored == unsigned || stored == signed {
            Ok(())
        } else {
            Err(malformed("wrong header checksum"))
        }
    }

    pub(crate) fn kind(&self) -> u8 {
        self.0[156]
    }

    fn is_ustar(&self) -> bool {
        self.field(257, 6) == b"ustar\0"
    }

    fn is_gnu(&self) -> bool {
        self.field(257, 8) == b"ustar  \0"
    }

    pub(crate) fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = if self.is_ustar() {
            self.text(345, 155)
        } else {
            &[]
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub(crate) fn link(&self) -> Vec<u8> {
        self.text(157, 100).to_vec()
    }

    pub(crate) fn mode(&self) -> Result<u32, ArchiveError> {
        let mode = self.number(100, 8, "mode")?;
        // Some writers put the file type into it too.
        u32::try_from(mode & 0o7777).map_err(|_| malformed("mode"))
    }

    pub(crate) fn owner(&self) -> Result<(i64, i64), ArchiveError> {
        Ok((self.number(108, 8, "uid")?, self.number(116, 8, "gid")?))
    }

    pub(crate) fn size(&self) -> Result<u64, ArchiveError> {
        u64::try_from(self.number(124, 12, "size")?).map_err(|_| malformed("negative size"))
    }

    pub(crate) fn mtime(&self) -> Result<i64, ArchiveError> {
        self.number(136, 12, "mtime")
    }

    pub(crate) fn device(&self) -> Result<(u32, u32), ArchiveError> {
        let part = |from, what| {
            u32::try_from(self.number(from, 8, what)?)
                .map_err(|_| malformed(format!("{what} is out of range")))
        };
        if self.is_ustar() || self.is_gnu() {
            Ok((part(329, "device major")?, part(337, "device minor")?))
        } else {
            Ok((0, 0))
        }
    }

    /// The map of an old GNU sparse entry: extents of this block, whether more blocks follow, and the real size.
    pub(crate) fn gnu_sparse(&self) -> Result<(Vec<Extent>, bool, u64), ArchiveError> {
        let mut extents = Vec::new();
        sparse_slots(self.field(386, 96), &mut extents)?;
        let size = u64::try_from(self.number(483, 12, "real size")?)
            .map_err(|_| malformed("negative real size"))?;
        Ok((extents, self.0[482] != 0, size))
    }
}

/// Reads 24-byte slots of an old GNU sparse map.
fn sparse_slots(slots: &[u8], extents: &mut Vec<Extent>) -> Result<(), ArchiveError> {
    for slot in slots.chunks_exact(24) {
        if slot[0] == 0 {
            break;
        }
        let part = |bytes: &[u8]| {
            number(bytes)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(|| malformed("sparse map is no number"))
        };
        extents.push(Extent {
            offset: part(&slot[..12])?,
            length: part(&slot[12..])?,
        });
        if extents.len() > MAX_EXTENTS {
            return Err(ArchiveError::Limit {
                what: "extents of a sparse file",
                limit: MAX_EXTENTS as u64,
            });
        }
    }
    Ok(())
}

/// Reads a continuation block of an old GNU sparse map; tells whether another follows.
pub(crate) fn gnu_sparse_more(
    block: &[u8; BLOCK],
    extents: &mut Vec<Extent>,
) -> Result<bool, ArchiveError> {
    sparse_slots(&block[..504], extents)?;
    Ok(block[504] != 0)
}

/// A header number: octal text, or base 256 when the first bit is set (GNU tar; two's complement).
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative {
                byte & 0x7f
            } else {
                *byte
            };
            // The high bytes must be sign extension only.
            if (value >> 55) != 0 && (value >> 55) != -1 {
                return None;
            }
            value = (value << 8) | i64::from(byte);
        }
        return Some(value);
    }
    let text = field.trim_ascii_start();
    let end = text
        .iter()
        .position(|b| matches!(b, 0 | b' '))
        .unwrap_or(text.len());
    let mut value: i64 = 0;
    for byte in &text[..end] {
        if !(b'0'..=b'7').contains(byte) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(byte - b'0'))?;
    }
    Some(value)
}

/// What PAX records said about the next entry.
#[derive(Debug, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<i64>,
    pub(crate) gid: Option<i64>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: SparseKeys,
}

/// `GNU.sparse.*`.
#[derive(Debug, Default)]
pub(crate) struct SparseKeys {
    /// Version 0.0 repeats offset and numbytes; 0.1 has them in one map.
    pub(crate) extents: Vec<Extent>,
    pub(crate) pending_offset: Option<u64>,
    pub(crate) listed: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) real_size: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
}

fn decimal(value: &[u8], key: &str) -> Result<u64, ArchiveError> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| !text.starts_with('+'))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| malformed(format!("PAX record {key} is no number")))
}

/// `seconds[.fraction]`, possibly negative.
fn time(value: &[u8]) -> Result<(i64, u32), ArchiveError> {
    let bad = || malformed("PAX time is no number");
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let mut nanos = 0u32;
    for at in 0..9 {
        nanos = nanos * 10
            + fraction
                .as_bytes()
                .get(at)
                .map_or(0, |b| u32::from(b - b'0'));
    }
    if whole.starts_with('-') && nanos > 0 {
        return Ok((
            seconds.checked_sub(1).ok_or_else(bad)?,
            1_000_000_000 - nanos,
        ));
    }
    Ok((seconds, nanos))
}

impl Pax {
    /// Reads the records `length key=value\n` of one extended header.
    pub(crate) fn parse(&mut self, mut data: &[u8]) -> Result<(), ArchiveError> {
        while !data.is_empty() {
            // Some writers pad with zeros.
            if data.iter().all(|b| *b == 0) {
                break;
            }
            let space = data
                .iter()
                .take(20)
                .position(|b| *b == b' ')
                .ok_or_else(|| malformed("PAX record without length"))?;
            let length = decimal(&data[..space], "length")?;
            let length = usize::try_from(length).map_err(|_| malformed("PAX record too long"))?;
            if length <= space + 2 || length > data.len() || data[length - 1] != b'\n' {
                return Err(malformed("PAX record with wrong length"));
            }
            let record = &data[space + 1..length - 1];
            let equals = record
                .iter()
                .position(|b| *b == b'=')
                .ok_or_else(|| malformed("PAX record without ="))?;
            self.record(&record[..equals], &record[equals + 1..])?;
            data = &data[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        let no_nul = |value: &[u8]| {
            if value.contains(&0) {
                Err(malformed("NUL in a PAX path"))
            } else {
                Ok(value.to_vec())
            }
        };
        let signed = |value: &[u8]| {
            std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .ok_or_else(|| malformed("PAX owner is no number"))
        };
        // An empty value takes the record back.
        match key {
            b"path" => {
                self.path = if value.is_empty() {
                    None
                } else {
                    Some(no_nul(value)?)
                }
            }
            b"linkpath" => {
                self.link = if value.is_empty() {
                    None
                } else {
                    Some(no_nul(value)?)
                }
            }
            b"size" => {
                self.size = if value.is_empty() {
                    None
                } else {
                    Some(decimal(value, "size")?)
                }
            }
            b"uid" => {
                self.uid = if value.is_empty() {
                    None
                } else {
                    Some(signed(value)?)
                }
            }
            b"gid" => {
                self.gid = if value.is_empty() {
                    None
                } else {
                    Some(signed(value)?)
                }
            }
            b"mtime" => {
                self.mtime = if value.is_empty() {
                    None
                } else {
                    Some(time(value)?)
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) || name.len() > 255 {
                        return Err(malformed("name of an extended attribute"));
                    }
                    self.xattrs.retain(|(have, _)| have != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.record(name, value)?;
                }
            }
        }
        Ok(())
    }
}

impl SparseKeys {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        let short = |value: u64| u32::try_from(value).map_err(|_| malformed("GNU.sparse version"));
        match key {
            b"major" => self.major = short(decimal(value, "GNU.sparse.major")?)?,
            b"minor" => self.minor = short(decimal(value, "GNU.sparse.minor")?)?,
            b"name" => {
                if value.contains(&0) {
                    return Err(malformed("NUL in a PAX path"));
                }
                self.name = Some(value.to_vec());
            }
            b"size" | b"realsize" => self.real_size = Some(decimal(value, "GNU.sparse.size")?),
            b"numblocks" => self.listed = true,
            b"offset" => {
                let offset = decimal(value, "GNU.sparse.offset")?;
                if let Some(lonely) = self.pending_offset.replace(offset) {
                    return Err(malformed(format!("sparse offset {lonely} without length")));
                }
            }
            b"numbytes" => {
                let offset = self
                    .pending_offset
                    .take()
                    .ok_or_else(|| malformed("sparse length without offset"))?;
                self.push(offset, decimal(value, "GNU.sparse.numbytes")?)?;
            }
            b"map" => {
                self.listed = true;
                self.extents.clear();
                let numbers: Result<Vec<u64>, _> = value
                    .split(|b| *b == b',')
                    .filter(|part| !part.is_empty())
                    .map(|part| decimal(part, "GNU.sparse.map"))
                    .collect();
                let numbers = numbers?;
                if numbers.len() % 2 != 0 {
                    return Err(malformed("sparse map with an odd count"));
                }
                for pair in numbers.chunks_exact(2) {
                    self.push(pair[0], pair[1])?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, offset: u64, length: u64) -> Result<(), ArchiveError> {
        self.extents.push(Extent { offset, length });
        if self.extents.len() > MAX_EXTENTS {
            return Err(ArchiveError::Limit {
                what: "extents of a sparse file",
                limit: MAX_EXTENTS as u64,
            });
        }
        Ok(())
    }

    /// Whether the entry is a sparse file of version 0.0, 0.1 or 1.0.
    pub(crate) fn is_sparse(&self) -> bool {
        self.major == 1 || self.listed
    }
}

/// Checks that extents are in order, apart, and within the file; returns the bytes of data they stand for.
pub(crate) fn check_extents(extents: &[Extent], real_size: u64) -> Result<u64, ArchiveError> {
    let (mut end, mut data) = (0u64, 0u64);
    for extent in extents {
        if extent.offset < end {
            return Err(malformed("sparse map out of order"));
        }
        end = extent
            .offset
            .checked_add(extent.length)
            .filter(|end| *end <= real_size)
            .ok_or_else(|| malformed("sparse map beyond the end of the file"))?;
        data += extent.length;
    }
    Ok(data)
}

/// The map of a PAX sparse 1.0 file: decimal lines at the beginning of its data. `None` while `data` is too short to tell.
pub(crate) fn pax_map(data: &[u8]) -> Result<Option<Vec<Extent>>, ArchiveError> {
    let mut lines = data.split_inclusive(|b| *b == b'\n');
    let mut next = || -> Result<Option<u64>, ArchiveError> {
        match lines.next() {
            Some(line) if line.ends_with(b"\n") => {
                Ok(Some(decimal(&line[..line.len() - 1], "sparse map")?))
            }
            _ => Ok(None),
        }
    };
    let Some(count) = next()? else {
        return Ok(None);
    };
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count <= MAX_EXTENTS)
        .ok_or(ArchiveError::Limit {
            what: "extents of a sparse file",
            limit: MAX_EXTENTS as u64,
        })?;
    let mut extents = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let (Some(offset), Some(length)) = (next()?, next()?) else {
            return Ok(None);
        };
        extents.push(Extent { offset, length });
    }
    Ok(Some(extents))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes, there is an answer.
        #[test]
        fn no_bytes_make_it_panic(
            block in proptest::collection::vec(any::<u8>(), BLOCK),
            text in "([0-9]{1,3} )?(size|mtime|uid|path|GNU.sparse.(map|offset|numbytes|major|size))=[-0-9.,]{0,22}\n",
        ) {
            let block: [u8; BLOCK] = block.try_into().unwrap();
            let header = RawHeader(&block);
            let _ = (header.verify(), header.mode(), header.owner(), header.size(), header.mtime(), header.device());
            let _ = (header.path(), header.link(), header.gnu_sparse(), pax_map(&block));
            let _ = gnu_sparse_more(&block, &mut Vec::new());
            let mut pax = Pax::default();
            let length = text.len() + 3;
            let _ = pax.parse(format!("{length} {text}").as_bytes());
            let _ = Pax::default().parse(&block);
            let _ = check_extents(&pax.sparse.extents, pax.sparse.real_size.unwrap_or(u64::MAX));
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"    644 "), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"00x0644\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 8]), Some(-1));
        assert_eq!(
            number(&[
                0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
            ]),
            None
        );
        assert_eq!(number(b"777777777777"), Some(0o777_777_777_777));
    }

    #[test]
    fn pax_records() {
        let mut pax = Pax::default();
        pax.parse(b"12 path=abc\n20 mtime=-1.5000000\n26 SCHILY.xattr.user.a=\0=\n\0\0\0")
            .unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"abc"[..]));
        assert_eq!(pax.mtime, Some((-2, 500_000_000)));
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"\0=".to_vec())]);
        for bad in [
            &b"5 a=b\n"[..],
            b"6 a=b\n7",
            b"99 path=x\n",
            b"path=x\n",
            b"9 path=x ",
            b"18 size=-12345678\n",
            b"11 path=a\0\n",
        ] {
            assert!(
                Pax::default().parse(bad).is_err(),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    #[test]
    fn sparse_maps() {
        assert_eq!(pax_map(b"1\n0\n").unwrap(), None);
        assert_eq!(
            pax_map(b"1\n0\n5\n\0\0").unwrap().unwrap(),
            [Extent {
                offset: 0,
                length: 5
            }]
        );
        assert!(pax_map(b"99999999999\n").is_err());
        let extent = |offset, length| Extent { offset, length };
        assert_eq!(
            check_extents(&[extent(0, 5), extent(10, 5)], 15).unwrap(),
            10
        );
        assert!(check_extents(&[extent(0, 5), extent(4, 5)], 15).is_err());
        assert!(check_extents(&[extent(0, 16)], 15).is_err());
        assert!(check_extents(&[extent(u64::MAX, 2)], u64::MAX).is_err());
    }
}
