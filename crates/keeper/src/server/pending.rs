//! The ends of lines that have not come yet, kept where a new keeper finds them.
//!
//! `<exec-root>/keeper.pending`: for each task's place 64 KiB (holes, mostly), half for stdout, half for stderr:
//! length u16 | CRC-32 u32 | bytes. What must stay true: a record that is not whole is none; a place that is given up is
//! emptied, so that its next owner inherits nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use crate::log::MAX_PART;

const PLACE: u64 = 64 * 1024;
const HALF: u64 = PLACE / 2;

/// The open file.
#[derive(Debug)]
pub(crate) struct PendingStore {
    file: File,
}

impl PendingStore {
    /// Opens or makes the file of an exec root.
    pub(crate) fn open(exec_root: &Path) -> io::Result<Self> {
        let path = exec_root.join("keeper.pending");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        Ok(Self { file })
    }

    fn place(slot: usize, stream: usize) -> u64 {
        slot as u64 * PLACE + stream as u64 * HALF
    }

    /// Keeps the end of a stream; whether that was possible.
    pub(crate) fn save(&self, slot: usize, stream: usize, bytes: &[u8]) -> bool {
        let Ok(length) = u16::try_from(bytes.len()) else {
            return false;
        };
        let mut record = Vec::with_capacity(6 + bytes.len());
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(&checksum(bytes).to_le_bytes());
        record.extend_from_slice(bytes);
        self.file
            .write_all_at(&record, Self::place(slot, stream))
            .is_ok()
    }

    /// Strikes it out.
    pub(crate) fn clear(&self, slot: usize, stream: usize) {
        drop(self.file.write_all_at(&[0; 6], Self::place(slot, stream)));
    }

    /// What is kept of a stream; empty for nothing.
    pub(crate) fn load(&self, slot: usize, stream: usize) -> Vec<u8> {
        let mut bytes = vec![0; 6 + MAX_PART];
        let count = self
            .file
            .read_at(&mut bytes, Self::place(slot, stream))
            .unwrap_or(0);
        let Some(([a, b, c, d, e, f], rest)) = bytes[..count].split_first_chunk::<6>() else {
            return Vec::new();
        };
        let kept = rest
            .get(..usize::from(u16::from_le_bytes([*a, *b])))
            .unwrap_or_default();
        if checksum(kept) == u32::from_le_bytes([*c, *d, *e, *f]) {
            kept.to_vec()
        } else {
            Vec::new()
        }
    }

    /// Empties a place and gives its memory back.
    pub(crate) fn empty(&self, slot: usize) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.file, flags, slot as u64 * PLACE, PLACE).is_err() {
            self.clear(slot, 0);
            self.clear(slot, 1);
        }
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_struck_out_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let store = PendingStore::open(directory.path()).unwrap();
        assert!(store.load(3, 0).is_empty());
        assert!(store.save(3, 0, b"half a li") && store.save(3, 1, &vec![7; MAX_PART - 1]));
        assert_eq!(store.load(3, 0), b"half a li");
        assert_eq!(store.load(3, 1).len(), MAX_PART - 1);
        store.clear(3, 0);
        assert!(store.load(3, 0).is_empty());
        store.file.write_all_at(b"x", 3 * PLACE + HALF + 9).unwrap();
        assert!(store.load(3, 1).is_empty());
        store.save(3, 0, b"x");
        store.empty(3);
        assert!(store.load(3, 0).is_empty());
    }
}
