//! A queue of bytes for a client that may be slow: a little memory, then an unlinked file, then the end.
//!
//! ```text
//! push ─▶ [ memory ] when the file is empty and memory has room
//!     └─▶ [  file  ] otherwise;  the file's beginning moves into memory as that runs empty
//! ```
//!
//! What must stay true: bytes come out in the order they went in; disk space is given back as it is read.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use rustix::fs::{FallocateFlags, Mode, OFlags};

/// Bytes that wait in memory before the file is used.
const MEMORY_LIMIT: usize = 256 << 10;

/// Bytes that may wait in the file; a client that is further behind is given up.
const FILE_LIMIT: u64 = 1 << 30;

/// Bytes that are read back from the file at once.
const REFILL: usize = 128 << 10;

/// Bytes on their way to a client.
#[derive(Debug)]
pub(crate) struct Spill {
    directory: PathBuf,
    memory: VecDeque<Bytes>,
    in_memory: usize,
    file: Option<Arc<File>>,
    /// What of the file has been read and written.
    read_at: u64,
    written_to: u64,
}

impl Spill {
    /// An empty queue whose file will be made in `directory`.
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            memory: VecDeque::new(),
            in_memory: 0,
            file: None,
            read_at: 0,
            written_to: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.read_at == self.written_to
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// `StorageFull` when the client is too far behind; else when the file cannot be written.
    pub(crate) async fn push(&mut self, bytes: Bytes) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.read_at == self.written_to
            && (self.memory.is_empty() || self.in_memory + bytes.len() <= MEMORY_LIMIT)
        {
            self.in_memory += bytes.len();
            self.memory.push_back(bytes);
            return Ok(());
        }
        if self.written_to - self.read_at + bytes.len() as u64 > FILE_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "the client is too far behind",
            ));
        }
        let (length, at) = (bytes.len() as u64, self.written_to);
        let file = self.file.clone();
        let directory = self.directory.clone();
        let file = blocking(move || {
            let file = match file {
                Some(file) => file,
                None => Arc::new(unlinked_file(&directory)?),
            };
            file.write_all_at(&bytes, at)?;
            Ok(file)
        })
        .await?;
        self.file = Some(file);
        self.written_to += length;
        Ok(())
    }

    /// Brings bytes into memory, if any wait in the file and none are there.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) async fn refill(&mut self) -> io::Result<()> {
        if !self.memory.is_empty() || self.read_at == self.written_to {
            return Ok(());
        }
        let Some(file) = self.file.clone() else {
            return Ok(());
        };
        let at = self.read_at;
        let length =
            usize::try_from(self.written_to - at).map_or(REFILL, |waiting| waiting.min(REFILL));
        let last = at + length as u64 == self.written_to;
        let bytes = blocking(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at)?;
            // A file system that cannot punch holes only keeps the space a little longer.
            let _ = if last {
                file.set_len(0).map_err(|_| rustix::io::Errno::IO)
            } else {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&file, punch, at, length as u64)
            };
            Ok(Bytes::from(bytes))
        })
        .await?;
        if last {
            (self.read_at, self.written_to) = (0, 0);
        } else {
            self.read_at += length as u64;
        }
        self.in_memory += bytes.len();
        self.memory.push_back(bytes);
        Ok(())
    }

    /// The first bytes in memory; empty when there are none.
    pub(crate) fn front(&self) -> &[u8] {
        self.memory.front().map_or(&[], |bytes| bytes.as_ref())
    }

    /// Takes `count` bytes off the front.
    pub(crate) fn consume(&mut self, count: usize) {
        if let Some(front) = self.memory.front_mut() {
            let count = count.min(front.len());
            front.advance(count);
            self.in_memory -= count;
            if front.is_empty() {
                self.memory.pop_front();
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

fn unlinked_file(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::EXCL;
    Ok(File::from(rustix::fs::open(
        directory,
        flags,
        Mode::from_raw_mode(0o600),
    )?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn order_is_kept_through_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(directory.path());
        let (mut pushed, mut popped) = (0_u32, 0_u32);
        let mut partial = Vec::new();
        for round in 0..40 {
            for _ in 0..(40 - round) * 20 {
                spill
                    .push(Bytes::from(pushed.to_be_bytes().repeat(256)))
                    .await
                    .unwrap();
                pushed += 1;
            }
            for _ in 0..round * 25 {
                spill.refill().await.unwrap();
                let take = spill.front().len().min(1000);
                partial.extend_from_slice(&spill.front()[..take]);
                spill.consume(take);
                while partial.len() >= 1024 {
                    assert_eq!(partial[..1024], popped.to_be_bytes().repeat(256));
                    partial.drain(..1024);
                    popped += 1;
                }
            }
        }
        while !spill.is_empty() {
            spill.refill().await.unwrap();
            let take = spill.front().len();
            partial.extend_from_slice(spill.front());
            spill.consume(take);
        }
        for chunk in partial.chunks_exact(1024) {
            assert_eq!(chunk, popped.to_be_bytes().repeat(256));
            popped += 1;
        }
        assert_eq!(popped, pushed);
        assert!(
            spill.in_memory == 0
                && std::fs::read_dir(directory.path())
                    .unwrap()
                    .next()
                    .is_none()
        );
    }
}
