//! A tar stream applied to a directory: an image's layer, or what `docker cp` brings.
//!
//! What must stay true: every object is made by its name in a directory whose descriptor [`Walker`] opened; an object
//! that is there is never written through but replaced; modes and times of directories are set last, because making
//! their entries changes them.

mod attributes;

use std::collections::BTreeSet;
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::reader::{Entry, EntryKind, Limits, TarReader};
use crate::remove::remove_tree;
use crate::walk::{
    Entered, Missing, Policy, Walker, descriptor_path, is_whiteout, normalize, set_opaque, split,
};
use crate::{ArchiveError, path_of};

/// What applying a layer found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries of the stream.
    pub entries: u64,
    /// Sizes of its files and symlinks, summed: what Docker calls the size of a layer.
    pub size: u64,
    /// Whether the stream has an entry for the root itself.
    pub root: bool,
    /// Directories that were made without an entry of their own, with mode 0755 and owner 0 (pitfall 17).
    pub implied: Vec<PathBuf>,
    /// Hard links whose target is not in the layer, and which were not made (pitfall 17).
    pub missing_links: Vec<MissingLink>,
}

/// A hard link that could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingLink {
    /// Its path.
    pub path: PathBuf,
    /// The file it should be another name of.
    pub target: PathBuf,
}

/// Applies the layer `tar` (not compressed) to the empty directory `root`, in overlayfs's form: whiteouts become
/// character devices 0:0, opaque directories get `trusted.overlay.opaque`. Reads `tar` to its end.
///
/// # Errors
/// The first thing that is wrong; the directory then holds whatever was unpacked before.
pub fn apply_layer<R: BufRead>(
    root: BorrowedFd<'_>,
    tar: R,
    limits: Limits,
) -> Result<Applied, ArchiveError> {
    let mut applier = Applier::new(root, tar, limits, Policy::Layer, Rules::default());
    applier.run()?;
    applier.reader.drain()?;
    Ok(Applied {
        entries: applier.reader.entries(),
        size: applier.size,
        root: applier.root_entry,
        implied: applier.implied.iter().map(|path| path_of(path)).collect(),
        missing_links: applier.missing_links,
    })
}

/// What `docker cp` may ask for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules {
    pub(crate) no_overwrite_dir_non_dir: bool,
    pub(crate) owner: Option<(u32, u32)>,
}

/// Applies `tar` to `directory` (a normal path without symlinks) of `root` for `docker cp`.
pub(crate) fn apply_copy<R: BufRead>(
    root: BorrowedFd<'_>,
    directory: &[u8],
    tar: R,
    limits: Limits,
    rules: Rules,
) -> Result<(), ArchiveError> {
    let mut applier = Applier::new(root, tar, limits, Policy::Copy, rules);
    applier.prefix = directory.to_vec();
    applier.run()?;
    applier.reader.drain()
}

/// Metadata of a directory that is set at the end.
#[derive(Debug)]
struct Deferred {
    path: Vec<u8>,
    mode: u32,
    times: Timestamps,
}

struct Applier<'a, R> {
    root: BorrowedFd<'a>,
    /// Put before every name of the stream.
    prefix: Vec<u8>,
    reader: TarReader<R>,
    policy: Policy,
    rules: Rules,
    /// The mode bits that open(2) and friends take away.
    umask: u32,
    parents: Walker<'a>,
    /// A second one for targets of hard links, so that the first keeps its place.
    targets: Walker<'a>,
    deferred: Vec<Deferred>,
    implied: BTreeSet<Vec<u8>>,
    missing_links: Vec<MissingLink>,
    /// Bytes held in the three above.
    memory: usize,
    inodes: u64,
    size: u64,
    root_entry: bool,
}

/// What stands where an entry wants to be.
enum Standing {
    Nothing,
    Directory,
    Whiteout,
    Other,
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec {
        tv_sec: entry.mtime.0,
        tv_nsec: entry.mtime.1.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// The process's umask. Reading it by umask(2) would change it for other threads meanwhile.
fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        // Unknown: as if everything were masked, which costs a chmod per file.
        .unwrap_or(0o777)
}

impl<'a, R: BufRead> Applier<'a, R> {
    fn new(root: BorrowedFd<'a>, tar: R, limits: Limits, policy: Policy, rules: Rules) -> Self {
        Self {
            root,
            prefix: Vec::new(),
            reader: TarReader::new(tar, limits),
            policy,
            rules,
            umask: umask(),
            parents: Walker::new(root, policy, &limits),
            targets: Walker::new(root, policy, &limits),
            deferred: Vec::new(),
            implied: BTreeSet::new(),
            missing_links: Vec::new(),
            memory: 0,
            inodes: 0,
            size: 0,
            root_entry: false,
        }
    }

    fn run(&mut self) -> Result<(), ArchiveError> {
        while let Some(mut entry) = self.reader.next_entry()? {
            let path = normalize(&entry.path, Policy::Layer)?;
            if let Some((uid, gid)) = self.rules.owner {
                (entry.uid, entry.gid) = (uid, gid);
            }
            if path.is_empty() {
                self.root_entry(&entry)?;
                continue;
            }
            let path = self.prefixed(path);
            let (parent, name) = split(&path);
            if self.policy == Policy::Layer {
                // Hard-link stores and other metadata of aufs; every reader of layers passes over them.
                if path.split(|b| *b == b'/').any(is_aufs_metadata) {
                    continue;
                }
                if let Some(hidden) = name.strip_prefix(b".wh.") {
                    self.whiteout(parent, hidden, &path)?;
                    continue;
                }
            }
            self.enter_parent(parent)?;
            // Docker counts what stat(2) calls the size, of everything but directories.
            let target = if entry.kind == EntryKind::Symlink {
                entry.link.len() as u64
            } else {
                0
            };
            self.size = self.size.saturating_add(entry.size).saturating_add(target);
            match entry.kind {
                EntryKind::Directory => self.directory(&entry, name)?,
                EntryKind::File => self.file(&entry, name)?,
                EntryKind::HardLink => self.hard_link(&entry.link, &path, name)?,
                EntryKind::Symlink => self.symlink(&entry, name)?,
                EntryKind::CharDevice => self.node(&entry, name, FileType::CharacterDevice)?,
                EntryKind::BlockDevice => self.node(&entry, name, FileType::BlockDevice)?,
                EntryKind::Fifo => self.node(&entry, name, FileType::Fifo)?,
            }
            self.inode()?;
        }
        self.retry_links()?;
        self.set_deferred()
    }

    fn prefixed(&self, path: Vec<u8>) -> Vec<u8> {
        if self.prefix.is_empty() {
            path
        } else {
            [&self.prefix[..], b"/", &path[..]].concat()
        }
    }

    /// Links whose target came after them.
    fn retry_links(&mut self) -> Result<(), ArchiveError> {
        use std::os::unix::ffi::OsStrExt;
        for link in std::mem::take(&mut self.missing_links) {
            let path = link.path.as_os_str().as_bytes().to_vec();
            let (parent, name) = split(&path);
            if self.parents.enter(parent, Missing::Report)? == Entered::There
                && matches!(self.standing(name)?, Standing::Nothing)
            {
                self.hard_link(link.target.as_os_str().as_bytes(), &path, name)?;
            }
        }
        Ok(())
    }

    fn inode(&mut self) -> Result<(), ArchiveError> {
        self.inodes += 1;
        let limit = self.reader.limits().entries;
        if self.inodes > limit {
            Err(ArchiveError::Limit {
                what: "entries",
                limit,
            })
        } else {
            Ok(())
        }
    }

    fn remember(&mut self, bytes: usize) -> Result<(), ArchiveError> {
        self.memory += bytes;
        let limit = self.reader.limits().memory;
        if self.memory > limit {
            Err(ArchiveError::Limit {
                what: "bytes of paths",
                limit: limit as u64,
            })
        } else {
            Ok(())
        }
    }

    fn enter_parent(&mut self, parent: &[u8]) -> Result<(), ArchiveError> {
        self.parents.enter(parent, Missing::Create)?;
        for made in std::mem::take(&mut self.parents.made) {
            self.inode()?;
            self.remember(made.len() + 64)?;
            self.implied.insert(made);
        }
        Ok(())
    }

    fn standing(&self, name: &[u8]) -> Result<Standing, ArchiveError> {
        match rustix::fs::statat(self.parents.current(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Standing::Directory,
                FileType::CharacterDevice if stat.st_rdev == 0 && self.policy == Policy::Layer => {
                    Standing::Whiteout
                }
                _ => Standing::Other,
            }),
            Err(Errno::NOENT) => Ok(Standing::Nothing),
            Err(errno) => Err(self.parents.io("stat", name)(errno)),
        }
    }

    /// Makes `name` by `make`, which fails with `EEXIST` where something stands; that is removed first then.
    fn replacing<T>(
        &mut self,
        name: &[u8],
        operation: &'static str,
        make: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Result<T, ArchiveError> {
        match make(self.parents.current()) {
            Err(Errno::EXIST) => {}
            made => return made.map_err(self.parents.io(operation, name)),
        }
        if self.rules.no_overwrite_dir_non_dir
            && matches!(self.standing(name)?, Standing::Directory)
        {
            let name = String::from_utf8_lossy(name);
            return Err(ArchiveError::Overwrite(format!(
                "directory {name:?} with non-directory {name:?}"
            )));
        }
        remove_tree(self.parents.current(), name, &mut || ())
            .map_err(self.parents.io("replace", name))?;
        self.targets.reset();
        make(self.parents.current()).map_err(self.parents.io(operation, name))
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        if entry.kind != EntryKind::Directory {
            return Err(ArchiveError::Escape {
                path: path_of(&entry.path),
                why: "it would replace the root".to_owned(),
            });
        }
        // A copy into a directory leaves that directory as it is, as Docker does.
        if self.policy == Policy::Copy {
            return Ok(());
        }
        self.root_entry = true;
        self.dress_directory(self.root, entry, b"/")?;
        self.defer(Vec::new(), entry)
    }

    fn directory(&mut self, entry: &Entry, name: &[u8]) -> Result<(), ArchiveError> {
        // The path in the tree, which is not the entry's where that goes through a symlink.
        let mut real = self.parents.path();
        if !real.is_empty() {
            real.push(b'/');
        }
        real.extend_from_slice(name);
        let mode = Mode::from_raw_mode(0o755);
        match rustix::fs::mkdirat(self.parents.current(), name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => match self.standing(name)? {
                Standing::Directory => {
                    self.implied.remove(&real);
                }
                standing => {
                    if self.rules.no_overwrite_dir_non_dir {
                        let name = String::from_utf8_lossy(name);
                        return Err(ArchiveError::Overwrite(format!(
                            "non-directory {name:?} with directory {name:?}"
                        )));
                    }
                    let directory = self.parents.current();
                    rustix::fs::unlinkat(directory, name, AtFlags::empty())
                        .map_err(self.parents.io("replace", name))?;
                    rustix::fs::mkdirat(directory, name, mode)
                        .map_err(self.parents.io("mkdir", name))?;
                    if matches!(standing, Standing::Whiteout) {
                        let fd = self.open_directory(name)?;
                        set_opaque(fd.as_fd()).map_err(self.parents.io("set opaque", name))?;
                    }
                }
            },
            Err(errno) => return Err(self.parents.io("mkdir", name)(errno)),
        }
        if (entry.uid, entry.gid) != (0, 0)
            || !entry.xattrs.is_empty()
            || self.policy == Policy::Copy
        {
            let fd = self.open_directory(name)?;
            self.dress_directory(fd.as_fd(), entry, name)?;
        }
        self.defer(real, entry)
    }

    fn open_directory(&self, name: &[u8]) -> Result<OwnedFd, ArchiveError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.parents.current(), name, flags, Mode::empty())
            .map_err(self.parents.io("open", name))
    }

    fn file(&mut self, entry: &Entry, name: &[u8]) -> Result<(), ArchiveError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = entry.mode & 0o777;
        let fd = self.replacing(name, "create", |parent| {
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode))
        })?;
        match &entry.sparse {
            None => self.write_plain(&fd, name)?,
            Some(extents) => {
                for extent in extents {
                    self.write_extent(&fd, extent.offset, extent.length, name)?;
                }
                rustix::fs::ftruncate(&fd, entry.size)
                    .map_err(self.parents.io("truncate", name))?;
            }
        }
        self.dress(&fd, entry, name, mode)
    }

    fn write_plain(&mut self, fd: &OwnedFd, name: &[u8]) -> Result<(), ArchiveError> {
        loop {
            let data = self.reader.data()?;
            if data.is_empty() {
                return Ok(());
            }
            let written = loop {
                match rustix::io::write(fd, data) {
                    Err(Errno::INTR) => {}
                    outcome => break outcome.map_err(self.parents.io("write", name))?,
                }
            };
            self.reader.consume(written)?;
        }
    }

    fn write_extent(
        &mut self,
        fd: &OwnedFd,
        mut offset: u64,
        mut left: u64,
        name: &[u8],
    ) -> Result<(), ArchiveError> {
        while left > 0 {
            let data = self.reader.data()?;
            if data.is_empty() {
                return Err(ArchiveError::Truncated);
            }
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
            let written = rustix::io::pwrite(fd, &data[..most], offset)
                .map_err(self.parents.io("write", name))?;
            self.reader.consume(written)?;
            offset += written as u64;
            left -= written as u64;
        }
        Ok(())
    }

    fn hard_link(&mut self, link: &[u8], path: &[u8], name: &[u8]) -> Result<(), ArchiveError> {
        let target = normalize(link, Policy::Layer).map_err(|_| ArchiveError::Escape {
            path: path_of(path),
            why: format!("its hard link {:?} leads outside", path_of(link)),
        })?;
        if target.is_empty() {
            return Err(ArchiveError::Escape {
                path: path_of(path),
                why: "a hard link to the root".to_owned(),
            });
        }
        let target = self.prefixed(target);
        if target == path {
            return Ok(());
        }
        let (target_parent, target_name) = split(&target);
        let there = self.targets.enter(target_parent, Missing::Report)? == Entered::There
            && !(self.policy == Policy::Layer && is_whiteout(self.targets.current(), target_name)?);
        if there {
            // Named before `replacing`, which may reset `targets`: the descriptor stays open.
            let from =
                rustix::io::dup(self.targets.current()).map_err(self.parents.io("link", name))?;
            let linked = self.replacing(name, "link", |to| {
                rustix::fs::linkat(&from, target_name, to, name, AtFlags::empty())
            });
            match linked {
                Err(ArchiveError::Io { source, .. })
                    if source.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
                outcome => return outcome,
            }
        }
        if self.policy == Policy::Copy {
            let source = Errno::NOENT.into();
            return Err(ArchiveError::Io {
                operation: "link",
                path: path_of(&target),
                source,
            });
        }
        self.remember(path.len() + target.len() + 64)?;
        self.missing_links.push(MissingLink {
            path: path_of(path),
            target: path_of(&target),
        });
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, name: &[u8]) -> Result<(), ArchiveError> {
        if entry.link.is_empty() {
            return Err(ArchiveError::Malformed("a symlink to nothing".to_owned()));
        }
        self.replacing(name, "symlink", |parent| {
            rustix::fs::symlinkat(&entry.link[..], parent, name)
        })?;
        let parent = self.parents.current();
        if (entry.uid, entry.gid) != (0, 0) || self.policy == Policy::Copy {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::chownat(
                parent,
                name,
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(self.parents.io("chown", name))?;
        }
        self.set_path_xattrs(entry, name)?;
        rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.parents.io("set times of", name))
    }

    fn node(&mut self, entry: &Entry, name: &[u8], kind: FileType) -> Result<(), ArchiveError> {
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let mode = entry.mode & 0o777;
        self.replacing(name, "mknod", |parent| {
            rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(mode), device)
        })?;
        let parent = self.parents.current();
        if (entry.uid, entry.gid) != (0, 0) || self.policy == Policy::Copy {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::chownat(
                parent,
                name,
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(self.parents.io("chown", name))?;
        }
        if mode & !self.umask != entry.mode {
            // Through a descriptor: chmod by name would follow a symlink that somebody put there meanwhile.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(parent, name, flags, Mode::empty())
                .map_err(self.parents.io("open", name))?;
            rustix::fs::chmod(descriptor_path(fd.as_fd()), Mode::from_raw_mode(entry.mode))
                .map_err(self.parents.io("chmod", name))?;
        }
        self.set_path_xattrs(entry, name)?;
        rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.parents.io("set times of", name))
    }

    /// `.wh.NAME`: NAME of the layers below is gone; `.wh..wh..opq`: everything below in this directory is.
    fn whiteout(&mut self, parent: &[u8], hidden: &[u8], path: &[u8]) -> Result<(), ArchiveError> {
        self.enter_parent(parent)?;
        if hidden == b".wh..opq" {
            return set_opaque(self.parents.current()).map_err(self.parents.io("set opaque", b"."));
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(ArchiveError::Escape {
                path: path_of(path),
                why: "a whiteout of no name".to_owned(),
            });
        }
        self.inode()?;
        match rustix::fs::mknodat(
            self.parents.current(),
            hidden,
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        ) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => match self.standing(hidden)? {
                // The layer's own directory of that name stays and hides the one below, in either order (pitfall 17).
                Standing::Directory => {
                    let fd = self.open_directory(hidden)?;
                    set_opaque(fd.as_fd()).map_err(self.parents.io("set opaque", hidden))
                }
                // A file hides what is below by being there.
                Standing::Whiteout | Standing::Other | Standing::Nothing => Ok(()),
            },
            Err(errno) => Err(self.parents.io("make whiteout of", hidden)(errno)),
        }
    }
}

fn is_aufs_metadata(component: &[u8]) -> bool {
    component.starts_with(b".wh..wh.") && component != b".wh..wh..opq"
}

fn io(operation: &'static str, path: &[u8], errno: Errno) -> ArchiveError {
    ArchiveError::Io {
        operation,
        path: path_of(path),
        source: errno.into(),
    }
}
