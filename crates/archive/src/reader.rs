//! Entries of a tar stream, one after the other, with their extensions applied.
//!
//! What must stay true: a size that an extension states counts for the one entry it precedes and for nothing between
//! (the desynchronisation that has given several tar readers a CVE); nothing is kept of an entry that was passed.

use std::io::BufRead;

use crate::ArchiveError;
use crate::header::{BLOCK, Extent, Pax, RawHeader, check_extents, gnu_sparse_more, pax_map};

/// Bounds on a stream from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries, and directories made for them.
    pub entries: u64,
    /// Bytes of the whole tar stream.
    pub bytes: u64,
    /// Bytes of one PAX or long-name header. Go's reader stops at the same.
    pub extension: u64,
    /// Bytes of a path.
    pub path: usize,
    /// Components of a path. Each costs a descriptor while the path is current.
    pub depth: usize,
    /// Bytes of paths remembered until the end.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 20_000_000,
            bytes: 1 << 42,
            extension: 1 << 20,
            path: 4095,
            depth: 256,
            memory: 64 << 20,
        }
    }
}

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A second name of a file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry. Its data is read through [`TarReader`].
#[derive(Debug)]
pub struct Entry {
    /// What it makes.
    pub kind: EntryKind,
    /// Its name as it stands in the stream, without trailing slashes of a directory.
    pub path: Vec<u8>,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Permission bits, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification: seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Size of the file it makes, bytes. 0 for everything else.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where its data belongs, for a sparse file.
    pub(crate) sparse: Option<Vec<Extent>>,
}

/// Reads entries from a stream that is not compressed.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    limits: Limits,
    /// Data of the current entry that was not read yet.
    remaining: u64,
    /// Zeros after it.
    padding: u64,
    entries: u64,
    bytes: u64,
    finished: bool,
}

impl<R: BufRead> TarReader<R> {
    /// Reads from `input` within `limits`.
    pub fn new(input: R, limits: Limits) -> Self {
        Self {
            input,
            limits,
            remaining: 0,
            padding: 0,
            entries: 0,
            bytes: 0,
            finished: false,
        }
    }

    /// The bounds.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many entries came so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The next entry; `None` at the end. What the last one had left is skipped.
    ///
    /// # Errors
    /// [`ArchiveError`] for a damaged stream, or one that exceeds a limit.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        if self.finished {
            return Ok(None);
        }
        let mut pax = Pax::default();
        let (mut long_path, mut long_link) = (None, None);
        let mut extensions = 0u32;
        loop {
            self.skip()?;
            let mut block = [0u8; BLOCK];
            if !self.read_block(&mut block)? {
                if extensions > 0 {
                    return Err(ArchiveError::Truncated);
                }
                self.finished = true;
                return Ok(None);
            }
            let header = RawHeader(&block);
            if header.is_zero() {
                return self.end(extensions);
            }
            header.verify()?;
            let size = header.size()?;
            match header.kind() {
                b'x' => pax.parse(&self.extension(size)?)?,
                // Global records are comments in practice (git archive); Docker ignores them too.
                b'g' => {
                    self.extension(size)?;
                    continue;
                }
                b'L' => long_path = Some(until_nul(self.extension(size)?)),
                b'K' => long_link = Some(until_nul(self.extension(size)?)),
                _ => {
                    return self
                        .entry(&block, size, pax, long_path, long_link)
                        .map(Some);
                }
            }
            extensions += 1;
            if extensions > 16 {
                return Err(ArchiveError::Malformed(
                    "too many extended headers in a row".to_owned(),
                ));
            }
        }
    }

    /// A first block of zeros was read: the end, if another follows or nothing at all.
    fn end(&mut self, extensions: u32) -> Result<Option<Entry>, ArchiveError> {
        if extensions > 0 {
            return Err(ArchiveError::Malformed(
                "an extended header without its entry".to_owned(),
            ));
        }
        let mut block = [0u8; BLOCK];
        if self.read_block(&mut block)? && !RawHeader(&block).is_zero() {
            return Err(ArchiveError::Malformed("data after the end".to_owned()));
        }
        self.finished = true;
        Ok(None)
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        header_size: u64,
        mut pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, ArchiveError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(ArchiveError::Limit {
                what: "entries",
                limit: self.limits.entries,
            });
        }
        let header = RawHeader(block);
        let mut path = pax
            .path
            .take()
            .or(long_path)
            .unwrap_or_else(|| header.path());
        let link = pax
            .link
            .take()
            .or(long_link)
            .unwrap_or_else(|| header.link());
        let data_size = pax.size.unwrap_or(header_size);
        if i64::try_from(data_size).is_err() {
            return Err(ArchiveError::Malformed("a size beyond any file".to_owned()));
        }
        let slashed = path.ends_with(b"/");
        let kind = match header.kind() {
            // Before POSIX a directory was a file whose name ends with a slash.
            0 if slashed => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                return Err(ArchiveError::EntryType {
                    path: crate::path_of(&path),
                    kind: char::from(other),
                });
            }
        };
        // Only files have data, whatever the size field says.
        let data_size = if kind == EntryKind::File {
            data_size
        } else {
            0
        };
        self.remaining = data_size;
        self.padding = data_size.wrapping_neg() % BLOCK as u64;
        let (mut size, mut sparse) = (data_size, None);
        if kind == EntryKind::File && (header.kind() == b'S' || pax.sparse.is_sparse()) {
            if let Some(name) = pax.sparse.name.take() {
                path = name;
            }
            let (extents, real_size) = self.sparse_map(&header, &pax)?;
            if check_extents(&extents, real_size)? != self.remaining {
                return Err(ArchiveError::Malformed(
                    "sparse map and data differ in size".to_owned(),
                ));
            }
            size = real_size;
            sparse = Some(extents);
        }
        if path.len() > self.limits.path || link.len() > self.limits.path {
            return Err(ArchiveError::Limit {
                what: "bytes of a path",
                limit: self.limits.path as u64,
            });
        }
        let owner = header.owner()?;
        let id = |value: i64| {
            // The largest one means "unchanged" to chown(2).
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| ArchiveError::Malformed(format!("owner {value} is out of range")))
        };
        Ok(Entry {
            kind,
            path,
            link,
            mode: header.mode()?,
            uid: id(pax.uid.unwrap_or(owner.0))?,
            gid: id(pax.gid.unwrap_or(owner.1))?,
            mtime: match pax.mtime {
                Some(time) => time,
                None => (header.mtime()?, 0),
            },
            size,
            device: if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
                header.device()?
            } else {
                (0, 0)
            },
            xattrs: pax.xattrs,
            sparse,
        })
    }

    fn sparse_map(
        &mut self,
        header: &RawHeader<'_>,
        pax: &Pax,
    ) -> Result<(Vec<Extent>, u64), ArchiveError> {
        if header.kind() == b'S' {
            let (mut extents, mut more, real_size) = header.gnu_sparse()?;
            while more {
                let mut block = [0u8; BLOCK];
                if !self.read_block(&mut block)? {
                    return Err(ArchiveError::Truncated);
                }
                more = gnu_sparse_more(&block, &mut extents)?;
            }
            return Ok((extents, real_size));
        }
        let real_size = pax
            .sparse
            .real_size
            .ok_or_else(|| ArchiveError::Malformed("sparse file without its size".to_owned()))?;
        if pax.sparse.major == 0 {
            return Ok((pax.sparse.extents.clone(), real_size));
        }
        if (pax.sparse.major, pax.sparse.minor) != (1, 0) {
            return Err(ArchiveError::Malformed(
                "unknown version of a sparse file".to_owned(),
            ));
        }
        // The map is at the beginning of the data, in whole blocks.
        let mut data = Vec::new();
        loop {
            if self.remaining < BLOCK as u64 {
                return Err(ArchiveError::Malformed(
                    "sparse map without an end".to_owned(),
                ));
            }
            let mut block = [0u8; BLOCK];
            if !self.read_block(&mut block)? {
                return Err(ArchiveError::Truncated);
            }
            self.remaining -= BLOCK as u64;
            data.extend_from_slice(&block);
            // Looking again after every block would take quadratic time for a large map.
            let worth = data.len() == BLOCK
                || data.len().is_power_of_two()
                || self.remaining < BLOCK as u64;
            if (worth || map_is_whole(&data))
                && let Some(extents) = pax_map(&data)?
            {
                return Ok((extents, real_size));
            }
            if data.len() > 48 << 20 {
                return Err(ArchiveError::Limit {
                    what: "bytes of a sparse map",
                    limit: 48 << 20,
                });
            }
        }
    }

    /// Data of the current entry that is at hand; empty at its end.
    ///
    /// # Errors
    /// [`ArchiveError::Truncated`] when the stream ends first.
    pub fn data(&mut self) -> Result<&[u8], ArchiveError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let data = self.input.fill_buf().map_err(ArchiveError::Read)?;
        if data.is_empty() {
            return Err(ArchiveError::Truncated);
        }
        let most = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(data.len());
        Ok(&data[..most])
    }

    /// Passes `amount` bytes that [`TarReader::data`] showed.
    ///
    /// # Errors
    /// [`ArchiveError::Limit`] when the whole stream is too long.
    pub fn consume(&mut self, amount: usize) -> Result<(), ArchiveError> {
        self.input.consume(amount);
        self.remaining = self.remaining.saturating_sub(amount as u64);
        self.count(amount)
    }

    fn count(&mut self, amount: usize) -> Result<(), ArchiveError> {
        self.bytes += amount as u64;
        if self.bytes > self.limits.bytes {
            return Err(ArchiveError::Limit {
                what: "bytes",
                limit: self.limits.bytes,
            });
        }
        Ok(())
    }

    /// Passes the rest of the current entry.
    fn skip(&mut self) -> Result<(), ArchiveError> {
        let mut left = self.remaining + self.padding;
        self.remaining = 0;
        self.padding = 0;
        while left > 0 {
            let have = self.input.fill_buf().map_err(ArchiveError::Read)?.len();
            if have == 0 {
                return Err(ArchiveError::Truncated);
            }
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(have);
            self.input.consume(step);
            self.count(step)?;
            left -= step as u64;
        }
        Ok(())
    }

    /// Reads to the end of the stream, so that whoever hashes it has seen it whole.
    ///
    /// # Errors
    /// As [`TarReader::consume`].
    pub fn drain(&mut self) -> Result<(), ArchiveError> {
        loop {
            let have = self.input.fill_buf().map_err(ArchiveError::Read)?.len();
            if have == 0 {
                return Ok(());
            }
            self.input.consume(have);
            self.count(have)?;
        }
    }

    /// Fills `block`; `false` at the end of the stream.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, ArchiveError> {
        let mut filled = 0;
        while filled < BLOCK {
            let data = self.input.fill_buf().map_err(ArchiveError::Read)?;
            if data.is_empty() {
                return if filled == 0 {
                    Ok(false)
                } else {
                    Err(ArchiveError::Truncated)
                };
            }
            let step = data.len().min(BLOCK - filled);
            block[filled..filled + step].copy_from_slice(&data[..step]);
            self.input.consume(step);
            filled += step;
        }
        self.count(BLOCK)?;
        Ok(true)
    }

    /// The data of an extended header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > self.limits.extension {
            return Err(ArchiveError::Limit {
                what: "bytes of an extended header",
                limit: self.limits.extension,
            });
        }
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        let mut all = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        loop {
            let data = self.data()?;
            if data.is_empty() {
                return Ok(all);
            }
            let step = data.len();
            all.extend_from_slice(data);
            self.consume(step)?;
        }
    }
}

/// Whether `data` has as many lines as its first one promises.
fn map_is_whole(data: &[u8]) -> bool {
    let Some(first) = data.iter().position(|b| *b == b'\n') else {
        return false;
    };
    let Some(count) = std::str::from_utf8(&data[..first])
        .ok()
        .and_then(|text| text.parse::<usize>().ok())
    else {
        return true;
    };
    // Zeros fill the last block, so a whole map ends with one or exactly with the block.
    let lines = if data.ends_with(b"\0") || data.ends_with(b"\n") {
        data.iter().filter(|b| **b == b'\n').count()
    } else {
        0
    };
    lines > count.saturating_mul(2)
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|b| *b == 0) {
        name.truncate(end);
    }
    name
}
