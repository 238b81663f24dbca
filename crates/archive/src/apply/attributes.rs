//! Owner, mode, extended attributes and times of what was unpacked.

use std::io::BufRead;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Applier, Deferred, io, times};
use crate::ArchiveError;
use crate::reader::Entry;
use crate::walk::{Policy, descriptor_path};

impl<R: BufRead> Applier<'_, R> {
    /// Owner and attributes of a directory, given a descriptor for reading.
    pub(super) fn dress_directory(
        &self,
        fd: BorrowedFd<'_>,
        entry: &Entry,
        name: &[u8],
    ) -> Result<(), ArchiveError> {
        rustix::fs::fchown(
            fd,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )
        .map_err(self.parents.io("chown", name))?;
        self.set_xattrs(entry, name, |key, value| {
            rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty())
        })
    }

    pub(super) fn defer(&mut self, path: Vec<u8>, entry: &Entry) -> Result<(), ArchiveError> {
        let bytes = path.len() + size_of::<Deferred>();
        if self.memory + bytes > self.reader.limits().memory / 2 && !self.deferred.is_empty() {
            // Early, rather than unbounded: times of directories that still get entries will be off.
            self.set_deferred()?;
        }
        self.remember(bytes)?;
        self.deferred.push(Deferred {
            path,
            mode: entry.mode,
            times: times(entry),
        });
        Ok(())
    }

    /// Sets modes and times of directories, in the order of the stream so that the last entry of a path wins.
    pub(super) fn set_deferred(&mut self) -> Result<(), ArchiveError> {
        let resolve = match self.policy {
            Policy::Layer => {
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
            }
            Policy::Copy => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for directory in std::mem::take(&mut self.deferred) {
            self.memory = self
                .memory
                .saturating_sub(directory.path.len() + size_of::<Deferred>());
            let name: &[u8] = if directory.path.is_empty() {
                b"."
            } else {
                &directory.path
            };
            let fd = match rustix::fs::openat2(self.root, name, flags, Mode::empty(), resolve) {
                Ok(fd) => fd,
                // Replaced by a later entry, or by whoever else works in this root.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(io("open", name, errno)),
            };
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(directory.mode))
                .map_err(|e| io("chmod", name, e))?;
            rustix::fs::futimens(&fd, &directory.times).map_err(|e| io("set times of", name, e))?;
        }
        Ok(())
    }

    /// Owner, mode, attributes and times of a new file, in the order in which none undoes another.
    pub(super) fn dress(
        &self,
        fd: &OwnedFd,
        entry: &Entry,
        name: &[u8],
        made_with: u32,
    ) -> Result<(), ArchiveError> {
        let chown = (entry.uid, entry.gid) != (0, 0) || self.policy == Policy::Copy;
        if chown {
            rustix::fs::fchown(
                fd,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
            )
            .map_err(self.parents.io("chown", name))?;
        }
        if made_with & !self.umask != entry.mode {
            rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))
                .map_err(self.parents.io("chmod", name))?;
        }
        self.set_xattrs(entry, name, |key, value| {
            rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty())
        })?;
        rustix::fs::futimens(fd, &times(entry)).map_err(self.parents.io("set times of", name))
    }

    /// Attributes of an object that cannot be opened.
    pub(super) fn set_path_xattrs(&self, entry: &Entry, name: &[u8]) -> Result<(), ArchiveError> {
        if entry.xattrs.is_empty() {
            return Ok(());
        }
        let mut path = descriptor_path(self.parents.current()).into_bytes();
        path.push(b'/');
        path.extend_from_slice(name);
        self.set_xattrs(entry, name, |key, value| {
            rustix::fs::lsetxattr(&path[..], key, value, XattrFlags::empty())
        })
    }

    pub(super) fn set_xattrs(
        &self,
        entry: &Entry,
        name: &[u8],
        set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), ArchiveError> {
        for (key, value) in &entry.xattrs {
            // Overlayfs's own: a layer that brought them could show other files than it has.
            if key.starts_with(b"trusted.overlay.") {
                continue;
            }
            match set(key, value) {
                Ok(()) => {}
                // A file system without this kind of attribute; losing capabilities would change what programs can do.
                Err(Errno::OPNOTSUPP) if key != b"security.capability" => {}
                // `user.` attributes of anything but files and directories.
                Err(Errno::PERM) if key.starts_with(b"user.") => {}
                Err(errno) => {
                    return Err(self.parents.io("set extended attribute of", name)(errno));
                }
            }
        }
        Ok(())
    }
}
