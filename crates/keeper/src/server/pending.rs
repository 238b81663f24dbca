//! The ends of lines that have not come yet, kept where a new keeper finds them.
//!
//! `<exec-root>/keeper.pending`: for each task's place 64 KiB (holes, mostly), half for stdout, half for stderr:
//! length u16 | CRC-32 u32 | bytes. Behind them for each pump thread what it has in hand, read from a pipe and not in the
//! log yet: a head of 64 bytes, then the unfinished line of before, then what was read. What must stay true: a record that is not whole is none; a place that is given up is
//! emptied, so that its next owner inherits nothing.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use crate::log::MAX_PART;
use crate::log::rotate::Identity;
use crate::server::state::MAX_TASKS;

const PLACE: u64 = 64 * 1024;
const HALF: u64 = PLACE / 2;

/// Where the threads' batches are: behind every task's place.
const HANDS: u64 = PLACE * MAX_TASKS as u64;
const HAND: u64 = 256 * 1024;
const HEAD: usize = 64;
/// What a valid head begins with.
const VALID: u32 = 0x4b4b_4a31;

/// What a thread has read from a pipe and is about to log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch<'a> {
    /// The task's place and run.
    pub(crate) slot: u32,
    pub(crate) run: u32,
    /// 0 for stdout, 1 for stderr.
    pub(crate) stream: u32,
    /// The log before it: which file, and how long.
    pub(crate) log: (Identity, u64),
    /// The unfinished line before it.
    pub(crate) pending: Cow<'a, [u8]>,
    pub(crate) data: Cow<'a, [u8]>,
}

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

    /// Notes what a thread has in hand, before it is logged.
    pub(crate) fn take_up(&self, thread: usize, batch: &Batch<'_>) {
        let place = HANDS + thread as u64 * HAND;
        let mut head = [0; HEAD];
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(0);
        let numbers = [
            VALID,
            batch.slot,
            batch.run,
            batch.stream,
            length(&batch.pending),
            length(&batch.data),
        ];
        for (place, number) in head.chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        head[24..32].copy_from_slice(&batch.log.1.to_le_bytes());
        head[32..48].copy_from_slice(&batch.log.0.to_bytes());
        // The head last: a kill in between leaves the old, invalid one.
        let body = place + HEAD as u64;
        let written = self
            .file
            .write_all_at(&batch.pending, body)
            .and_then(|()| {
                self.file
                    .write_all_at(&batch.data, body + batch.pending.len() as u64)
            })
            .and_then(|()| self.file.write_all_at(&head, place));
        drop(written);
    }

    /// It is logged.
    pub(crate) fn put_down(&self, thread: usize) {
        drop(
            self.file
                .write_all_at(&[0; 4], HANDS + thread as u64 * HAND),
        );
    }

    /// What a thread of a former keeper had in hand.
    pub(crate) fn in_hand(&self, thread: usize) -> Option<Batch<'static>> {
        let place = HANDS + thread as u64 * HAND;
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, place).ok()?;
        let number = |at: usize| {
            head.get(at * 4..)?
                .first_chunk::<4>()
                .map(|bytes| u32::from_le_bytes(*bytes))
        };
        let (pending, data) = (number(4)? as usize, number(5)? as usize);
        if number(0)? != VALID || pending > MAX_PART || data > 64 * 1024 {
            return None;
        }
        let mut bytes = vec![0; pending + data];
        self.file
            .read_exact_at(&mut bytes, place + HEAD as u64)
            .ok()?;
        let rest = bytes.split_off(pending);
        let length = u64::from_le_bytes(*head.get(24..)?.first_chunk::<8>()?);
        let identity = Identity::from_bytes(head.get(32..)?.first_chunk::<16>()?);
        Some(Batch {
            slot: number(1)?,
            run: number(2)?,
            stream: number(3)?,
            log: (identity, length),
            pending: bytes.into(),
            data: rest.into(),
        })
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
        assert_eq!(store.in_hand(2), None);
        let batch = Batch {
            slot: 3,
            run: 7,
            stream: 1,
            log: (Identity::of(&store.file.metadata().unwrap()), 99),
            pending: b"half".into(),
            data: vec![5; 64 * 1024].into(),
        };
        store.take_up(2, &batch);
        assert_eq!(store.in_hand(2).as_ref(), Some(&batch));
        store.put_down(2);
        assert_eq!(store.in_hand(2), None);
        store.save(3, 0, b"x");
        store.empty(3);
        assert!(store.load(3, 0).is_empty());
    }
}
