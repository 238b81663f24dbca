//! Tar streams written: ustar headers, with PAX records where a field does not fit.

use std::io::Write;

use crate::ArchiveError;
use crate::header::BLOCK;
use crate::reader::{Entry, EntryKind};

impl Entry {
    /// An entry of root's, with nothing else said about it.
    #[must_use]
    pub fn new(kind: EntryKind, path: &str) -> Self {
        Self {
            kind,
            path: path.as_bytes().to_vec(),
            link: Vec::new(),
            mode: if kind == EntryKind::Directory {
                0o755
            } else {
                0o644
            },
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: 0,
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}

/// Writes entries one after the other.
#[derive(Debug)]
pub struct TarWriter<W> {
    output: W,
    /// Data that the current entry still lacks.
    remaining: u64,
    padding: usize,
}

/// Largest values of the octal fields of 8 and of 12 bytes.
const MAX_OCTAL_8: u64 = 0o7_777_777;
const MAX_OCTAL_12: u64 = 0o77_777_777_777;

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(text.as_bytes());
}

/// Splits a long path at a slash into ustar's prefix and name.
fn split_ustar(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((&[], path));
    }
    // The last byte of a directory's name is a slash that must stay with it.
    let from = path.len().checked_sub(101)?;
    let slash = (from..path.len() - 1).find(|at| path[*at] == b'/')?;
    (slash <= 155 && slash > 0).then(|| (&path[..slash], &path[slash + 1..]))
}

fn pax_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn type_byte(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::CharDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }
}

fn finish_block(block: &mut [u8; BLOCK]) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

impl<W: Write> TarWriter<W> {
    /// Writes to `output`.
    pub fn new(output: W) -> Self {
        Self {
            output,
            remaining: 0,
            padding: 0,
        }
    }

    /// Begins an entry. A file's `size` bytes follow by [`TarWriter::data`]. Times are written in whole seconds.
    ///
    /// # Errors
    /// [`ArchiveError::Write`].
    pub fn entry(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        self.end_entry()?;
        let mut path = entry.path.clone();
        if entry.kind == EntryKind::Directory && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let mut records = Vec::new();
        let mut block = [0u8; BLOCK];
        match split_ustar(&path) {
            Some((prefix, name)) => {
                block[..name.len()].copy_from_slice(name);
                block[345..345 + prefix.len()].copy_from_slice(prefix);
            }
            None => {
                block[..100].copy_from_slice(&path[..100]);
                pax_record(&mut records, b"path", &path);
            }
        }
        if entry.link.len() > 100 {
            block[157..257].copy_from_slice(&entry.link[..100]);
            pax_record(&mut records, b"linkpath", &entry.link);
        } else {
            block[157..157 + entry.link.len()].copy_from_slice(&entry.link);
        }
        let mut number = |field: &mut [u8], value: u64, most: u64, key: &[u8]| {
            if value > most {
                pax_record(&mut records, key, value.to_string().as_bytes());
            }
            octal(field, if value > most { 0 } else { value });
        };
        let size = if entry.kind == EntryKind::File {
            entry.size
        } else {
            0
        };
        octal(&mut block[100..108], u64::from(entry.mode & 0o7777));
        number(&mut block[108..116], entry.uid.into(), MAX_OCTAL_8, b"uid");
        number(&mut block[116..124], entry.gid.into(), MAX_OCTAL_8, b"gid");
        number(&mut block[124..136], size, MAX_OCTAL_12, b"size");
        match u64::try_from(entry.mtime.0) {
            Ok(seconds) => number(&mut block[136..148], seconds, MAX_OCTAL_12, b"mtime"),
            Err(_) => {
                octal(&mut block[136..148], 0);
                pax_record(&mut records, b"mtime", entry.mtime.0.to_string().as_bytes());
            }
        }
        octal(&mut block[329..337], u64::from(entry.device.0));
        octal(&mut block[337..345], u64::from(entry.device.1));
        for (name, value) in &entry.xattrs {
            pax_record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        block[156] = type_byte(entry.kind);
        finish_block(&mut block);
        if !records.is_empty() {
            self.extended(&records)?;
        }
        self.write(&block)?;
        self.remaining = size;
        self.padding = padding(size);
        Ok(())
    }

    fn extended(&mut self, records: &[u8]) -> Result<(), ArchiveError> {
        let mut block = [0u8; BLOCK];
        block[..12].copy_from_slice(b"PaxHeaders.0");
        octal(&mut block[100..108], 0o644);
        octal(&mut block[108..116], 0);
        octal(&mut block[116..124], 0);
        octal(&mut block[124..136], records.len() as u64);
        octal(&mut block[136..148], 0);
        block[156] = b'x';
        finish_block(&mut block);
        self.write(&block)?;
        self.write(records)?;
        self.write(&[0u8; BLOCK][..padding(records.len() as u64)])
    }

    fn write(&mut self, data: &[u8]) -> Result<(), ArchiveError> {
        self.output.write_all(data).map_err(ArchiveError::Write)
    }

    /// Writes data of the current entry; what exceeds its size is left out.
    ///
    /// # Errors
    /// [`ArchiveError::Write`].
    pub fn data(&mut self, data: &[u8]) -> Result<(), ArchiveError> {
        let most = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(data.len());
        self.write(&data[..most])?;
        self.remaining -= most as u64;
        Ok(())
    }

    /// Bytes that the current entry still lacks.
    pub fn lacks(&self) -> u64 {
        self.remaining
    }

    fn end_entry(&mut self) -> Result<(), ArchiveError> {
        // A file that became shorter while it was read is filled up with zeros.
        let zeros = [0u8; 4096];
        while self.remaining > 0 {
            let step = usize::try_from(self.remaining)
                .unwrap_or(usize::MAX)
                .min(zeros.len());
            self.write(&zeros[..step])?;
            self.remaining -= step as u64;
        }
        let padding = std::mem::take(&mut self.padding);
        self.write(&zeros[..padding])
    }

    /// Writes the end of the stream and gives the output back.
    ///
    /// # Errors
    /// [`ArchiveError::Write`].
    pub fn finish(mut self) -> Result<W, ArchiveError> {
        self.end_entry()?;
        self.write(&[0u8; 2 * BLOCK])?;
        self.output.flush().map_err(ArchiveError::Write)?;
        Ok(self.output)
    }
}

/// Zeros after `size` bytes of data.
fn padding(size: u64) -> usize {
    usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, TarReader};

    #[test]
    fn what_is_written_is_read_back() {
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(90));
        let longer = format!("a/{}", "x".repeat(300));
        let mut writer = TarWriter::new(Vec::new());
        for (path, uid, mtime) in [
            ("a", 0, 5),
            (long.as_str(), 3_000_000, -7),
            (longer.as_str(), 1, 1 << 40),
        ] {
            let mut entry = Entry::new(EntryKind::File, path);
            (entry.size, entry.uid, entry.mtime.0) = (3, uid, mtime);
            entry.xattrs.push((b"user.x".to_vec(), b"\0\n=".to_vec()));
            writer.entry(&entry).unwrap();
            writer.data(b"abc").unwrap();
        }
        let mut link = Entry::new(EntryKind::Symlink, "l");
        link.link = vec![b't'; 200];
        writer.entry(&link).unwrap();
        let stream = writer.finish().unwrap();
        assert_eq!(stream.len() % BLOCK, 0);

        let mut reader = TarReader::new(&stream[..], Limits::default());
        for (path, uid, mtime) in [
            ("a", 0, 5),
            (long.as_str(), 3_000_000, -7),
            (longer.as_str(), 1, 1 << 40),
        ] {
            let entry = reader.next_entry().unwrap().unwrap();
            assert_eq!(
                (entry.path, entry.uid, entry.mtime.0),
                (path.as_bytes().to_vec(), uid, mtime)
            );
            assert_eq!(entry.xattrs, [(b"user.x".to_vec(), b"\0\n=".to_vec())]);
            assert_eq!(reader.data().unwrap(), b"abc");
        }
        assert_eq!(reader.next_entry().unwrap().unwrap().link, vec![b't'; 200]);
        assert!(reader.next_entry().unwrap().is_none());
        // The tar crate reads it too.
        let mut other = tar::Archive::new(&stream[..]);
        assert_eq!(
            other
                .entries()
                .unwrap()
                .map(|e| e.unwrap().path().unwrap().as_os_str().len())
                .sum::<usize>(),
            1 + 211 + 302 + 1
        );
    }
}
