//! What a container's writable layer holds: its size, and how it changes the image.

use std::collections::HashSet;
use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::{Change, ChangeKind, SnapshotError, Usage};

/// Sums the files of `upper`, each inode once. A tree that changes meanwhile gives a sum of something in between.
pub(crate) fn usage(upper: &Path) -> Result<Usage, SnapshotError> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut stack = vec![upper.to_owned()];
    while let Some(directory) = stack.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Gone meanwhile, or deeper than a path can name.
            Err(_) if directory != upper => continue,
            Err(error) => return Err(SnapshotError::std("list", &directory)(error)),
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.nlink() > 1
                && !metadata.is_dir()
                && !seen.insert((metadata.dev(), metadata.ino()))
            {
                continue;
            }
            usage.inodes += 1;
            if metadata.is_dir() {
                stack.push(entry.path());
            } else {
                usage.bytes += metadata.len();
            }
        }
    }
    Ok(usage)
}

/// Compares `upper` with the tree `below` that it lies over. Sorted by path.
pub(crate) fn diff(upper: &Path, below: BorrowedFd<'_>) -> Result<Vec<Change>, SnapshotError> {
    let mut all = Vec::new();
    let mut stack = vec![PathBuf::new()];
    while let Some(directory) = stack.pop() {
        let path = upper.join(&directory);
        let entries: Vec<_> = fs::read_dir(&path)
            .and_then(Iterator::collect)
            .map_err(SnapshotError::std("list", &path))?;
        for entry in entries {
            let name = directory.join(entry.file_name());
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let was = exists(below, &name).map_err(SnapshotError::io("look below at", &name))?;
            let gone = metadata.file_type().is_char_device() && metadata.rdev() == 0;
            let kind = match (gone, was) {
                (true, None) => continue,
                (true, Some(_)) => ChangeKind::Deleted,
                (false, None) => ChangeKind::Added,
                (false, Some(_)) => ChangeKind::Modified,
            };
            if metadata.is_dir() {
                if was == Some(true) && is_opaque(&entry.path()) {
                    deleted_beneath(below, &name, &entry.path(), &mut all)?;
                }
                stack.push(name.clone());
            }
            all.push(Change {
                path: Path::new("/").join(name),
                kind,
            });
        }
    }
    all.sort_by(|a, b| {
        a.path
            .as_os_str()
            .as_bytes()
            .cmp(b.path.as_os_str().as_bytes())
    });
    Ok(all)
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0u8; 4];
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value[..])
        .is_ok_and(|length| &value[..length] == b"y")
}

/// Entries of an opaque directory that are below and no longer there.
fn deleted_beneath(
    below: BorrowedFd<'_>,
    name: &Path,
    path: &Path,
    all: &mut Vec<Change>,
) -> Result<(), SnapshotError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let failed = |errno| SnapshotError::io("list", name)(errno);
    let fd = rustix::fs::openat2(below, name, flags, Mode::empty(), resolve).map_err(failed)?;
    let mut entries = rustix::fs::Dir::new(fd).map_err(failed)?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(failed)?;
        let file = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
        if file != "." && file != ".." && fs::symlink_metadata(path.join(file)).is_err() {
            all.push(Change {
                path: Path::new("/").join(name).join(file),
                kind: ChangeKind::Deleted,
            });
        }
    }
    Ok(())
}

/// Whether `path` is below; and if so, whether as a directory.
fn exists(below: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<Option<bool>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(below, path, flags, Mode::empty(), ResolveFlags::BENEATH) {
        Ok(fd) => {
            let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
            Ok(Some(
                rustix::fs::FileType::from_raw_mode(stat.st_mode)
                    == rustix::fs::FileType::Directory,
            ))
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(errno) => Err(errno),
    }
}
