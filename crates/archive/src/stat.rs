//! What the archive end points of the API say about a path.

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kekkai_types::Timestamp;
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use crate::reader::Limits;
use crate::walk::{Entered, Missing, Policy, Walker, normalize, split};
use crate::{ArchiveError, path_of};

/// The header `X-Docker-Container-Path-Stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The path's last component, as it was given.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `os.FileMode`: permission bits, and type bits in Go's places (directory 1<<31, symlink 1<<27, …).
    pub mode: u32,
    /// Last modification.
    pub mtime: Timestamp,
    /// Where a symlink leads, resolved within the root; empty for everything else.
    pub link_target: String,
}

/// A path of `docker cp`, taken apart.
pub(crate) struct Asked {
    /// Normal path.
    pub(crate) path: Vec<u8>,
    /// Whether it ends with `/` or `/.`: a symlink at its end is followed, and it must be a directory.
    pub(crate) directory: bool,
    /// What entries are named by: `.` for a path that ends with `/.`.
    pub(crate) base: Vec<u8>,
}

pub(crate) fn asked(path: &Path) -> Result<Asked, ArchiveError> {
    let bytes = path.as_os_str().as_bytes();
    let normal = normalize(bytes, Policy::Copy)?;
    let dot = bytes.ends_with(b"/.") || bytes == b".";
    let base = if dot {
        b".".to_vec()
    } else if normal.is_empty() {
        b"/".to_vec()
    } else {
        split(&normal).1.to_vec()
    };
    Ok(Asked {
        directory: dot || bytes.ends_with(b"/") || normal.is_empty(),
        path: normal,
        base,
    })
}

pub(crate) fn absent(path: &[u8], errno: Errno) -> ArchiveError {
    ArchiveError::Path {
        path: path_of(&[b"/", path].concat()),
        source: errno.into(),
    }
}

/// Looks at `path` within `root`; the last component is not followed unless the path ends with `/` or `/.`.
///
/// # Errors
/// [`ArchiveError::Path`] when there is nothing, or no directory where the path's end asks for one.
pub fn stat_path(root: BorrowedFd<'_>, path: &Path) -> Result<PathStat, ArchiveError> {
    let asked = asked(path)?;
    let mut walker = Walker::new(root, Policy::Copy, &Limits::default());
    let stat = look(&mut walker, &asked)?;
    let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    let link_target = if link {
        resolve(&mut walker, &asked.path)?
    } else {
        String::new()
    };
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Ok(PathStat {
        name: String::from_utf8_lossy(&asked.base).into_owned(),
        size: stat.st_size,
        mode: go_mode(stat.st_mode),
        mtime: Timestamp::from_unix_nanos(
            stat.st_mtime
                .saturating_mul(1_000_000_000)
                .saturating_add(nanos),
        ),
        link_target,
    })
}

/// Goes to the path's parent, or to the path itself where it must be a directory, and looks.
pub(crate) fn look(walker: &mut Walker<'_>, asked: &Asked) -> Result<Stat, ArchiveError> {
    let (parent, name): (&[u8], &[u8]) = if asked.directory {
        (&asked.path, b".")
    } else {
        split(&asked.path)
    };
    match walker.enter(parent, Missing::Report) {
        Ok(Entered::There) => {}
        Ok(Entered::Absent) => return Err(absent(&asked.path, Errno::NOENT)),
        Err(ArchiveError::Io { source, .. })
            if source.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) =>
        {
            return Err(absent(&asked.path, Errno::NOTDIR));
        }
        Err(error) => return Err(error),
    }
    rustix::fs::statat(walker.current(), name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| absent(&asked.path, errno))
}

/// Follows a symlink to its end within the root.
fn resolve(walker: &mut Walker<'_>, path: &[u8]) -> Result<String, ArchiveError> {
    let mut path = path.to_vec();
    for _ in 0..40 {
        if path.is_empty() {
            break;
        }
        let (parent, name) = split(&path);
        if walker.enter(parent, Missing::Report)? == Entered::Absent {
            break;
        }
        let real = walker.path();
        let target = match walker.read_link(name) {
            Ok(Some(target)) => target,
            Ok(None) => {
                path = [&real[..], b"/", name].concat();
                break;
            }
            Err(_) => break,
        };
        let next = if target.starts_with(b"/") {
            target
        } else {
            [&real[..], b"/", &target[..]].concat()
        };
        path = normalize(&next, Policy::Copy)?;
    }
    let path = normalize(&path, Policy::Copy)?;
    Ok(format!("/{}", String::from_utf8_lossy(&path)))
}

/// `st_mode` as Go's `os.FileMode` has it.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        FileType::RegularFile | FileType::Unknown => 0,
    };
    let bit = |from: u32, to: u32| if mode & from != 0 { to } else { 0 };
    (mode & 0o777) | kind | bit(0o4000, 1 << 23) | bit(0o2000, 1 << 22) | bit(0o1000, 1 << 20)
}
