//! `docker cp`: a tree out of a root as a tar stream, and a tar stream into one.
//!
//! What must stay true: as in [`crate::walk`], nothing outside the root is reached, although whoever runs in it may
//! change the tree at the same time.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::apply::{Rules, apply_copy};
use crate::compress::Decoder;
use crate::reader::{Entry, EntryKind, Limits};
use crate::stat::{absent, asked, look};
use crate::walk::{Entered, Missing, Policy, Walker, normalize};
use crate::write::TarWriter;
use crate::{ArchiveError, path_of};

/// Bytes read at once.
const READ: usize = 128 * 1024;
/// Directories open at once.
const MAX_DEPTH: usize = 400;

/// How [`unpack_into`] treats what is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Refuse to replace a directory by a file and a file by a directory (`noOverwriteDirNonDir`).
    pub no_overwrite_dir_non_dir: bool,
    /// Give everything to this user and group instead of the stream's (`copyUIDGID`).
    pub owner: Option<(u32, u32)>,
}

/// Writes `path` of `root`, with everything beneath it, as a tar stream whose entries begin with the path's base name, as
/// the API's `GET …/archive` gives it. A symlink is packed as a symlink unless the path ends with `/` or `/.`.
///
/// # Errors
/// [`ArchiveError::Path`] when there is no such path; then nothing was written.
pub fn pack_path(
    root: BorrowedFd<'_>,
    path: &Path,
    writer: &mut dyn Write,
) -> Result<(), ArchiveError> {
    let asked = asked(path)?;
    let mut walker = Walker::new(root, Policy::Copy, &Limits::default());
    let stat = look(&mut walker, &asked)?;
    let mut packer = Packer {
        tar: TarWriter::new(writer),
        links: HashMap::new(),
        buffer: vec![0; READ],
    };
    let name: &[u8] = if asked.directory {
        b"."
    } else {
        crate::walk::split(&asked.path).1
    };
    packer.tree(walker.current(), name, &asked.base, &stat)?;
    packer.tar.finish()?;
    Ok(())
}

/// Unpacks a tar stream (compressed or not) into the directory `path` of `root`. Symlinks in `path` and in the entries'
/// parents are followed within `root`. `root` may be a running container's `/proc/PID/root`.
///
/// # Errors
/// [`ArchiveError::Path`] when `path` is no directory; else the first thing that is wrong, with the rest not unpacked.
pub fn unpack_into(
    root: BorrowedFd<'_>,
    path: &Path,
    tar: &mut dyn BufRead,
    options: &UnpackOptions,
) -> Result<(), ArchiveError> {
    use std::os::unix::ffi::OsStrExt;
    let normal = normalize(path.as_os_str().as_bytes(), Policy::Copy)?;
    let limits = Limits::default();
    let mut walker = Walker::new(root, Policy::Copy, &limits);
    match walker.enter(&normal, Missing::Report) {
        Ok(Entered::There) => {}
        Ok(Entered::Absent) => return Err(absent(&normal, Errno::NOENT)),
        Err(ArchiveError::Io { source, .. })
            if source.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) =>
        {
            return Err(absent(&normal, Errno::NOTDIR));
        }
        Err(error) => return Err(error),
    }
    // Entries are resolved against the directory, and absolute symlinks against the root: one prefix, one root.
    let prefix = walker.path();
    let rules = Rules {
        no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
        owner: options.owner,
    };
    apply_copy(root, &prefix, Decoder::new(tar)?, limits, rules)
}

struct Packer<'w> {
    tar: TarWriter<&'w mut dyn Write>,
    /// First names of files with several.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

/// A directory that is being packed.
struct Level {
    fd: OwnedFd,
    /// Names left, last first.
    names: Vec<Vec<u8>>,
    path: Vec<u8>,
}

fn open_error(path: &[u8], errno: Errno) -> ArchiveError {
    ArchiveError::Io {
        operation: "open",
        path: path_of(path),
        source: errno.into(),
    }
}

impl Packer<'_> {
    fn tree(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<(), ArchiveError> {
        let mut stack = Vec::new();
        if let Some(level) = self.object(parent, name, path, stat)? {
            stack.push(level);
        }
        while let Some(level) = stack.last_mut() {
            let Some(name) = level.names.pop() else {
                stack.pop();
                continue;
            };
            let path = [
                &level.path[..],
                if level.path.ends_with(b"/") {
                    b""
                } else {
                    b"/"
                },
                &name,
            ]
            .concat();
            let stat = match rustix::fs::statat(&level.fd, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Removed since the directory was listed.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(open_error(&path, errno)),
            };
            if stack.len() >= MAX_DEPTH {
                return Err(ArchiveError::Limit {
                    what: "components of a path",
                    limit: MAX_DEPTH as u64,
                });
            }
            let Some(level) = stack.last() else { break };
            if let Some(below) = self.object(level.fd.as_fd(), &name, &path, &stat)? {
                stack.push(below);
            }
        }
        Ok(())
    }

    /// Packs one object; for a directory returns what is beneath.
    fn object(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<Option<Level>, ArchiveError> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink,
            FileType::Fifo => EntryKind::Fifo,
            FileType::CharacterDevice => EntryKind::CharDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            // Tar has no sockets; Docker leaves them out too.
            FileType::Socket | FileType::Unknown => return Ok(None),
        };
        let mut entry = Entry::new(kind, "");
        entry.path = path.to_vec();
        entry.mode = stat.st_mode & 0o7777;
        (entry.uid, entry.gid) = (stat.st_uid, stat.st_gid);
        entry.mtime = (stat.st_mtime, 0);
        if kind != EntryKind::Directory && stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                entry.kind = EntryKind::HardLink;
                entry.link.clone_from(first);
                self.tar.entry(&entry)?;
                return Ok(None);
            }
            self.links.insert(key, path.to_vec());
        }
        match kind {
            EntryKind::File => self.file(parent, name, entry, stat)?,
            EntryKind::Directory => return self.directory(parent, name, &entry).map(Some),
            EntryKind::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new())
                    .map_err(|e| open_error(path, e))?;
                entry.link = target.into_bytes();
                self.tar.entry(&entry)?;
            }
            _ => {
                entry.device = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
                self.tar.entry(&entry)?;
            }
        }
        Ok(None)
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        mut entry: Entry,
        stat: &Stat,
    ) -> Result<(), ArchiveError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(open_error(&entry.path, errno)),
        };
        let mut capability = [0u8; 64];
        if let Ok(length) = rustix::fs::fgetxattr(&fd, "security.capability", &mut capability[..]) {
            entry.xattrs.push((
                b"security.capability".to_vec(),
                capability[..length].to_vec(),
            ));
        }
        entry.size = u64::try_from(stat.st_size).unwrap_or(0);
        self.tar.entry(&entry)?;
        while self.tar.lacks() > 0 {
            let length =
                rustix::io::read(&fd, &mut self.buffer[..]).map_err(|errno| ArchiveError::Io {
                    operation: "read",
                    path: path_of(&entry.path),
                    source: errno.into(),
                })?;
            if length == 0 {
                break;
            }
            self.tar.data(&self.buffer[..length])?;
        }
        Ok(())
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
    ) -> Result<Level, ArchiveError> {
        self.tar.entry(entry)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::empty())
            .map_err(|e| open_error(&entry.path, e))?;
        let mut names = Vec::new();
        let mut entries = Dir::read_from(&fd).map_err(|e| open_error(&entry.path, e))?;
        while let Some(found) = entries.read() {
            let found = found.map_err(|e| open_error(&entry.path, e))?;
            let name = found.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Level {
            fd,
            names,
            path: entry.path.clone(),
        })
    }
}
