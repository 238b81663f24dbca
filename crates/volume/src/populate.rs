//! Copy-up: an image's directory into an empty volume.
//!
//! ```text
//!  <root>/path  --copy-->  <volume>/.new-XXXX  --exchanged with-->  <volume>/_data
//! ```
//!
//! The copy becomes visible whole, in one rename; a daemon that dies over it leaves a `.new-` directory, which the next one
//! throws away. Where something is mounted on `_data`, or a container has it open already, it is copied in place.
//! The source is looked up beneath the container's root and then only by descriptors and single names, never following
//! a link, so it cannot lead elsewhere whatever the image holds.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kekkai_sys::beneath;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RawMode, RenameFlags, SeekFrom, Stat, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::error::VolumeError;

/// How the directory of a copy under way is called.
pub(crate) const TEMPORARY: &str = ".new-";
/// Directories within directories that are copied; each costs two descriptors while it is open.
const MAX_DEPTH: usize = 256;
/// The longest list of names, and the longest value, that an extended attribute can have (the kernel's own limits).
const MAX_XATTR: usize = 64 * 1024;
const BUFFER: usize = 128 * 1024;

/// Where the copy is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Beside `_data`, then exchanged with it.
    Exchange,
    /// Into `_data` itself.
    InPlace,
}

/// A copy that is whole but not yet in its place.
#[derive(Debug)]
pub(crate) struct Copied {
    temporary: PathBuf,
}

/// Copies what is at `path` beneath `root` into the volume's directory. `None` when there was nothing to do, or when it was
/// done in place.
pub(crate) fn copy(
    volume: &Path,
    root: BorrowedFd<'_>,
    path: &Path,
    placement: Placement,
) -> Result<Outcome, VolumeError> {
    let data = volume.join("_data");
    if !is_empty(&data)? {
        return Ok(Outcome::Nothing);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let source = match beneath::open(root, path, flags, Mode::empty()) {
        Ok(source) => source,
        Err(Errno::NOENT) => return Ok(Outcome::Nothing),
        Err(Errno::NOTDIR) => {
            return Err(VolumeError::OverFile {
                path: path.to_owned(),
            });
        }
        Err(errno) => return Err(VolumeError::io("open in the image", path, errno)),
    };
    let target = match placement {
        Placement::InPlace => data,
        Placement::Exchange => {
            let temporary = volume.join(format!("{TEMPORARY}{}", crate::store::random_name()));
            rustix::fs::mkdir(&temporary, Mode::RWXU)
                .map_err(|e| VolumeError::io("create", &temporary, e))?;
            temporary
        }
    };
    let copied = copy_into(&source, &target, path);
    match (placement, copied) {
        (Placement::InPlace, result) => result.map(|()| Outcome::InPlace),
        (Placement::Exchange, Ok(())) => Ok(Outcome::Beside(Copied { temporary: target })),
        (Placement::Exchange, Err(error)) => {
            // What is left is swept at the next start.
            let _ = std::fs::remove_dir_all(&target);
            Err(error)
        }
    }
}

/// What became of a copy.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing to copy, or the volume is not empty.
    Nothing,
    /// Done.
    InPlace,
    /// To be put in its place.
    Beside(Copied),
}

impl Copied {
    /// Removes the copy.
    pub(crate) fn discard(self) -> Result<(), VolumeError> {
        std::fs::remove_dir_all(&self.temporary)
            .map_err(|e| VolumeError::io("remove", &self.temporary, e))
    }

    /// Puts the copy in place unless somebody has written into the volume since; says whether it did.
    pub(crate) fn put_in_place(self, volume: &Path) -> Result<bool, VolumeError> {
        let data = volume.join("_data");
        let empty = is_empty(&data)?;
        if empty {
            rustix::fs::renameat_with(CWD, &self.temporary, CWD, &data, RenameFlags::EXCHANGE)
                .map_err(|e| VolumeError::io("rename", &self.temporary, e))?;
        }
        // The empty directory from before, or the copy that nobody wants.
        self.discard()?;
        Ok(empty)
    }
}

fn copy_into(source: &OwnedFd, target: &Path, path: &Path) -> Result<(), VolumeError> {
    let fail = |errno| VolumeError::io("copy into the volume", path, errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::open(target, flags, Mode::empty()).map_err(fail)?;
    let mut copier = Copier {
        target: target.as_fd(),
        path: PathBuf::new(),
        links: HashMap::new(),
        buffer: vec![0; BUFFER],
        depth: 0,
    };
    copier
        .directory(source.as_fd(), target.as_fd())
        .map_err(|failure| match failure {
            Failure::TooDeep(at) => VolumeError::TooDeep {
                path: path.join(at),
            },
            Failure::System(at, errno) => {
                VolumeError::io("copy into the volume", path.join(at), errno)
            }
        })
}

fn is_empty(directory: &Path) -> Result<bool, VolumeError> {
    let mut entries =
        std::fs::read_dir(directory).map_err(|e| VolumeError::io("read", directory, e))?;
    Ok(entries.next().is_none())
}

enum Failure {
    TooDeep(PathBuf),
    System(PathBuf, Errno),
}

struct Copier<'a> {
    /// The volume's directory, for hard links.
    target: BorrowedFd<'a>,
    /// Where we are beneath it.
    path: PathBuf,
    /// Files with several names: device and inode number, and the first name's path beneath the target.
    links: HashMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
    depth: usize,
}

impl Copier<'_> {
    fn failed(&self) -> impl Fn(Errno) -> Failure + use<> {
        let path = self.path.clone();
        move |errno| Failure::System(path.clone(), errno)
    }

    /// Copies the content, then the directory's own attributes.
    fn directory(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Failure> {
        if self.depth > MAX_DEPTH {
            return Err(Failure::TooDeep(self.path.clone()));
        }
        let entries = Dir::read_from(source).map_err(self.failed())?;
        for entry in entries {
            let entry = entry.map_err(self.failed())?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.path.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
            self.entry(source, target, name)?;
            self.path.pop();
        }
        let stat = rustix::fs::fstat(source).map_err(self.failed())?;
        let apply = || {
            rustix::fs::fchown(target, Some(uid(&stat)), Some(gid(&stat)))?;
            rustix::fs::fchmod(target, mode(&stat))?;
            copy_attributes(&Owner::Open(source), &Owner::Open(target))?;
            rustix::fs::futimens(target, &times(&stat))
        };
        apply().map_err(self.failed())
    }

    fn entry(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(), Failure> {
        let stat =
            rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed())?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return self.subdirectory(source, target, name);
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return rustix::fs::linkat(self.target, first, target, name, AtFlags::empty())
                    .map_err(self.failed());
            }
            self.links
                .insert((stat.st_dev, stat.st_ino), self.path.clone());
        }
        match kind {
            FileType::RegularFile => return self.file(source, target, name),
            FileType::Symlink => {
                let text =
                    rustix::fs::readlinkat(source, name, Vec::new()).map_err(self.failed())?;
                rustix::fs::symlinkat(text, target, name).map_err(self.failed())?;
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                rustix::fs::mknodat(target, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)
                    .map_err(self.failed())?;
            }
            // A socket is of no use without the process that listened on it.
            FileType::Socket | FileType::Directory | FileType::Unknown => return Ok(()),
        }
        let apply = || {
            rustix::fs::chownat(
                target,
                name,
                Some(uid(&stat)),
                Some(gid(&stat)),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
            if kind != FileType::Symlink {
                rustix::fs::chmodat(target, name, mode(&stat), AtFlags::empty())?;
            }
            copy_attributes(&Owner::entry(source, name), &Owner::entry(target, name))?;
            rustix::fs::utimensat(target, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)
        };
        apply().map_err(self.failed())
    }

    fn subdirectory(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(), Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |directory, name| rustix::fs::openat(directory, name, flags, Mode::empty());
        let inner = open(source, name).map_err(self.failed())?;
        rustix::fs::mkdirat(target, name, Mode::RWXU).map_err(self.failed())?;
        let made = open(target, name).map_err(self.failed())?;
        self.depth += 1;
        self.directory(inner.as_fd(), made.as_fd())?;
        self.depth -= 1;
        Ok(())
    }

    fn file(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(), Failure> {
        let failed = self.failed();
        // Not waiting: should a pipe have come in its place, opening it must not hang.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = rustix::fs::openat(source, name, flags, Mode::empty()).map_err(&failed)?;
        let stat = rustix::fs::fstat(&from).map_err(&failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(Errno::INVAL));
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to =
            rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR).map_err(&failed)?;
        let (from, to) = (File::from(from), File::from(to));
        self.content(&from, &to, u64::try_from(stat.st_size).unwrap_or(0))
            .map_err(&failed)?;
        let apply = || {
            // In this order: a change of owner takes away set-id bits and capabilities.
            rustix::fs::fchown(&to, Some(uid(&stat)), Some(gid(&stat)))?;
            rustix::fs::fchmod(&to, mode(&stat))?;
            copy_attributes(&Owner::Open(from.as_fd()), &Owner::Open(to.as_fd()))?;
            rustix::fs::futimens(&to, &times(&stat))
        };
        apply().map_err(&failed)
    }

    /// Copies what is data and leaves holes.
    fn content(&mut self, from: &File, to: &File, size: u64) -> Result<(), Errno> {
        let mut at = 0;
        while at < size {
            let (start, end) = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Ok(start) => (
                    start,
                    rustix::fs::seek(from, SeekFrom::Hole(start))?.min(size),
                ),
                Err(Errno::NXIO) => break,
                // A file system without holes.
                Err(Errno::INVAL) => (at, size),
                Err(errno) => return Err(errno),
            };
            self.range(from, to, start, end)?;
            at = end.max(start + 1);
        }
        rustix::fs::ftruncate(to, size)
    }

    fn range(&mut self, from: &File, to: &File, start: u64, end: u64) -> Result<(), Errno> {
        let mut at = start;
        // Within one file system the kernel may share the blocks instead of copying them.
        while at < end {
            let (mut source, mut target) = (at, at);
            let length = usize::try_from(end - at).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(
                from,
                Some(&mut source),
                to,
                Some(&mut target),
                length,
            ) {
                Ok(0) | Err(_) => break,
                Ok(copied) => at += copied as u64,
            }
        }
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            let read = from
                .read_at(&mut self.buffer[..length], at)
                .map_err(errno)?;
            if read == 0 {
                break;
            }
            to.write_all_at(&self.buffer[..read], at).map_err(errno)?;
            at += read as u64;
        }
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn uid(stat: &Stat) -> Uid {
    Uid::from_raw(stat.st_uid)
}

fn gid(stat: &Stat) -> Gid {
    Gid::from_raw(stat.st_gid)
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & (0o7777 as RawMode))
}

fn times(stat: &Stat) -> Timestamps {
    let timespec = |seconds, nanos: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    Timestamps {
        last_access: timespec(stat.st_atime, stat.st_atime_nsec),
        last_modification: timespec(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Whose extended attributes are meant.
enum Owner<'a> {
    Open(BorrowedFd<'a>),
    /// An entry of the directory behind a descriptor, by a path whose last part is not followed.
    Entry(PathBuf),
}

impl Owner<'_> {
    fn entry(directory: BorrowedFd<'_>, name: &CStr) -> Owner<'static> {
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        Owner::Entry(Path::new(&path).join(std::ffi::OsStr::from_bytes(name.to_bytes())))
    }

    fn list(&self, names: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Owner::Open(fd) => rustix::fs::flistxattr(fd, names),
            Owner::Entry(path) => rustix::fs::llistxattr(path, names),
        }
    }

    fn value(&self, name: &[u8], value: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Owner::Open(fd) => rustix::fs::fgetxattr(fd, name, value),
            Owner::Entry(path) => rustix::fs::lgetxattr(path, name, value),
        }
    }

    fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Owner::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Owner::Entry(path) => rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()),
        }
    }
}

fn copy_attributes(from: &Owner<'_>, to: &Owner<'_>) -> Result<(), Errno> {
    let mut names = vec![0; MAX_XATTR];
    let length = match from.list(&mut names) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        Ok(length) => length,
        Err(errno) => return Err(errno),
    };
    let mut value = vec![0; MAX_XATTR];
    for name in names[..length]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
    {
        // The layers' own marks are not the image's content.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let length = from.value(name, &mut value)?;
        match to.set(name, &value[..length]) {
            // The volume's file system has none of this kind, as Docker accepts too.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The bytes of the files beneath `path`, each counted once, as Docker counts a volume's size.
pub(crate) fn total_size(path: &Path) -> u64 {
    let mut seen = HashSet::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(directory) => add_sizes(directory.as_fd(), 0, &mut seen),
        Err(_) => 0,
    }
}

fn add_sizes(directory: BorrowedFd<'_>, depth: usize, seen: &mut HashSet<(u64, u64)>) -> u64 {
    if depth > MAX_DEPTH {
        return 0;
    }
    let Ok(entries) = Dir::read_from(directory) else {
        return 0;
    };
    let mut total = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(inner) = rustix::fs::openat(directory, name, flags, Mode::empty()) {
                total += add_sizes(inner.as_fd(), depth + 1, seen);
            }
        } else if stat.st_nlink < 2 || seen.insert((stat.st_dev, stat.st_ino)) {
            total += u64::try_from(stat.st_size).unwrap_or(0);
        }
    }
    total
}
