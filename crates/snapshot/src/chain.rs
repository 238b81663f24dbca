//! Layers that lean on their parents (pitfall 17): applied again over them, as one more directory.
//!
//! A layer may put entries into directories that it has no entry for, and make hard links to files it does not have.
//! Alone it gets such directories with default attributes, and no link. Where the layers below say otherwise, the layer
//! is made again for this chain: its files are hard links to the first copy, its implied directories are those below.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kekkai_archive::{ArchiveError, MissingLink};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use crate::SnapshotError;
use crate::layer::Layer;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);
/// Mode of a directory that was made without an entry.
const IMPLIED_MODE: u32 = 0o755;
/// Attributes that belong to overlayfs.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// The error about a hard link to nothing.
pub(crate) fn missing(layer: &Layer, link: &MissingLink) -> SnapshotError {
    SnapshotError::MissingLink {
        layer: layer.info.diff_id.clone(),
        path: link.path.clone(),
        target: link.target.clone(),
    }
}

/// Whether the layer over `below` must differ from the layer alone.
pub(crate) fn differs(layer: &Layer, below: BorrowedFd<'_>) -> Result<bool, SnapshotError> {
    if !layer.missing_links.is_empty() {
        return Ok(true);
    }
    for path in &layer.implied {
        match open_below(below, path, OFlags::DIRECTORY) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(SnapshotError::io("stat", path))?;
                let plain =
                    (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (IMPLIED_MODE, 0, 0);
                if !plain
                    || !xattrs(fd.as_fd())
                        .map_err(SnapshotError::io("list attributes of", path))?
                        .is_empty()
                {
                    return Ok(true);
                }
            }
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(true),
            Err(errno) => return Err(SnapshotError::io("open", path)(errno)),
        }
    }
    Ok(false)
}

fn open_below(below: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags;
    rustix::fs::openat2(below, path, flags, Mode::empty(), BENEATH)
}

/// The attributes of an open file, without overlayfs's own.
fn xattrs(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0u8; 64 << 10];
    let length = match rustix::fs::flistxattr(fd, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    let mut found = Vec::new();
    for name in names[..length]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(OVERLAY))
    {
        let mut value = vec![0u8; 64 << 10];
        let length = rustix::fs::fgetxattr(fd, name, &mut value[..])?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

/// Makes `layer`, unpacked in `source`, again in the empty directory `target`, over the tree `below`.
pub(crate) fn apply_over(
    layer: &Layer,
    source: &Path,
    below: BorrowedFd<'_>,
    target: &Path,
) -> Result<(), SnapshotError> {
    let mut work = Work {
        layer,
        source,
        below,
        target,
        implied: layer.implied.iter().map(PathBuf::as_path).collect(),
        places: HashMap::new(),
        times: Vec::new(),
    };
    work.attributes_of_source(Path::new(""), Path::new(""))?;
    work.directory(Path::new(""), Path::new(""))?;
    for link in &layer.missing_links {
        work.link(link)?;
    }
    // Deepest first; making entries has changed them until now.
    for (path, times) in work.times.iter().rev() {
        rustix::fs::utimensat(rustix::fs::CWD, path, times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(SnapshotError::io("set times of", path))?;
    }
    Ok(())
}

struct Work<'a> {
    layer: &'a Layer,
    source: &'a Path,
    below: BorrowedFd<'a>,
    target: &'a Path,
    implied: HashSet<&'a Path>,
    /// Where the layer's directories are in the new one, where that differs.
    places: HashMap<PathBuf, PathBuf>,
    times: Vec<(PathBuf, Timestamps)>,
}

fn times(stat: &Stat) -> Timestamps {
    let nanos = |value| i64::try_from(value).unwrap_or(0);
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: nanos(stat.st_atime_nsec),
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: nanos(stat.st_mtime_nsec),
        },
    }
}

fn wrong(error: ArchiveError) -> SnapshotError {
    SnapshotError::Unpack { source: error }
}

impl Work<'_> {
    /// `path` of the layer, made at `place` of the new one; both directories exist.
    fn directory(&mut self, path: &Path, place: &Path) -> Result<(), SnapshotError> {
        let source = self.source.join(path);
        let entries: Vec<_> = fs::read_dir(&source)
            .and_then(Iterator::collect)
            .map_err(SnapshotError::std("list", &source))?;
        for entry in entries {
            let path = path.join(entry.file_name());
            let place = place.join(entry.file_name());
            let metadata = entry
                .metadata()
                .map_err(SnapshotError::std("stat", entry.path()))?;
            if !metadata.is_dir() {
                let target = self.target.join(&place);
                fs::hard_link(entry.path(), &target).map_err(SnapshotError::std("link", target))?;
                continue;
            }
            let place = if self.implied.contains(path.as_path()) {
                self.implied_at(&path, &place)?
            } else {
                None
            }
            .map_or_else(|| self.own_at(&path, &place).map(|()| place.clone()), Ok)?;
            self.places.insert(path.clone(), place.clone());
            self.directory(&path, &place)?;
        }
        Ok(())
    }

    /// A directory that the layer has an entry for, or that is not below either.
    fn own_at(&mut self, path: &Path, place: &Path) -> Result<(), SnapshotError> {
        let target = self.target.join(place);
        match fs::create_dir(&target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_directory(&target) => {
            }
            made => made.map_err(SnapshotError::std("create", &target))?,
        }
        self.attributes_of_source(path, place)
    }

    fn attributes_of_source(&mut self, path: &Path, place: &Path) -> Result<(), SnapshotError> {
        let source = crate::overlay::open_directory(&self.source.join(path))?;
        self.attributes(source.as_fd(), place)?;
        self.keep_opaque(source.as_fd(), place)
    }

    /// A directory that is implied: the one below, wherever symlinks lead. `None` when there is none.
    fn implied_at(&mut self, path: &Path, place: &Path) -> Result<Option<PathBuf>, SnapshotError> {
        let found = match kekkai_archive::resolve_directory(self.below, place) {
            Err(ArchiveError::Io { source, .. })
                if source.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) =>
            {
                return Err(SnapshotError::NotADirectory {
                    layer: self.layer.info.diff_id.clone(),
                    path: path.to_owned(),
                });
            }
            found => found.map_err(wrong)?,
        };
        let Some(real) = found else {
            return Ok(None);
        };
        self.as_below(&real)?;
        let source = crate::overlay::open_directory(&self.source.join(path))?;
        self.keep_opaque(source.as_fd(), &real)?;
        Ok(Some(real))
    }

    /// Makes the directory `path` and those above it as they are below.
    fn as_below(&mut self, path: &Path) -> Result<(), SnapshotError> {
        let mut so_far = PathBuf::new();
        for component in path.components() {
            so_far.push(component);
            let target = self.target.join(&so_far);
            if is_directory(&target) {
                continue;
            }
            fs::create_dir(&target).map_err(SnapshotError::std("create", &target))?;
            let below = open_below(self.below, &so_far, OFlags::DIRECTORY)
                .map_err(SnapshotError::io("open", &so_far))?;
            self.attributes(below.as_fd(), &so_far)?;
        }
        Ok(())
    }

    /// Gives the directory at `place` what `source` has.
    fn attributes(&mut self, source: BorrowedFd<'_>, place: &Path) -> Result<(), SnapshotError> {
        let target = self.target.join(place);
        let stat = rustix::fs::fstat(source).map_err(SnapshotError::io("stat", place))?;
        dress(source, &stat, &target)?;
        self.times.push((target, times(&stat)));
        Ok(())
    }

    fn keep_opaque(&self, source: BorrowedFd<'_>, place: &Path) -> Result<(), SnapshotError> {
        let mut value = [0u8; 8];
        let target = self.target.join(place);
        match rustix::fs::fgetxattr(source, "trusted.overlay.opaque", &mut value[..]) {
            Ok(length) => rustix::fs::lsetxattr(
                &target,
                "trusted.overlay.opaque",
                &value[..length],
                XattrFlags::empty(),
            )
            .map_err(SnapshotError::io("set opaque", target)),
            Err(_) => Ok(()),
        }
    }

    /// A hard link whose target is below: the target becomes part of this layer, so that both stay one file.
    fn link(&mut self, link: &MissingLink) -> Result<(), SnapshotError> {
        let not_there = || missing(self.layer, link);
        let (Some(parent), Some(name)) = (link.target.parent(), link.target.file_name()) else {
            return Err(not_there());
        };
        let real = kekkai_archive::resolve_directory(self.below, parent)
            .map_err(wrong)?
            .ok_or_else(not_there)?;
        let target = real.join(name);
        let copy = self.target.join(&target);
        if fs::symlink_metadata(&copy).is_err() {
            let stat = open_below(self.below, &real, OFlags::DIRECTORY)
                .and_then(|fd| rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW))
                .map_err(|_| missing(self.layer, link))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(missing(self.layer, link));
            }
            self.as_below(&real)?;
            let from = open_below(self.below, &target, OFlags::empty())
                .map_err(SnapshotError::io("open", &target))?;
            let mut input = fs::File::from(from);
            let mut output =
                fs::File::create_new(&copy).map_err(SnapshotError::std("create", &copy))?;
            io::copy(&mut input, &mut output).map_err(SnapshotError::std("copy", &copy))?;
            dress(input.as_fd(), &stat, &copy)?;
            rustix::fs::futimens(&output, &times(&stat))
                .map_err(SnapshotError::io("set times of", &copy))?;
        }
        let Some(name) = link.path.file_name() else {
            return Err(missing(self.layer, link));
        };
        let parent = link.path.parent().unwrap_or(Path::new(""));
        let place = self
            .places
            .get(parent)
            .map_or(parent, PathBuf::as_path)
            .join(name);
        let path = self.target.join(place);
        fs::hard_link(&copy, &path).map_err(SnapshotError::std("link", path))
    }
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Owner, mode and attributes of `source` for `target`, in the order in which none undoes another.
fn dress(source: BorrowedFd<'_>, stat: &Stat, target: &Path) -> Result<(), SnapshotError> {
    std::os::unix::fs::lchown(target, Some(stat.st_uid), Some(stat.st_gid))
        .map_err(SnapshotError::std("chown", target))?;
    rustix::fs::chmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))
        .map_err(SnapshotError::io("chmod", target))?;
    for (name, value) in xattrs(source).map_err(SnapshotError::io("list attributes of", target))? {
        let name = std::ffi::OsStr::from_bytes(&name);
        rustix::fs::lsetxattr(target, name, &value, XattrFlags::empty())
            .map_err(SnapshotError::io("set attribute of", target))?;
    }
    Ok(())
}
