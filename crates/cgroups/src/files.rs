//! Control files: small, read whole and written in one call.

use std::os::fd::OwnedFd;
use std::path::Path;

use kekkai_sys::{Errno, beneath};
use rustix::fs::{CWD, Mode, OFlags};

use crate::CgroupError;

/// The largest control file that is read. `cgroup.procs` of a container with 10⁵ processes stays below it.
const MAX_FILE: usize = 4 * 1024 * 1024;

pub(crate) fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        CWD,
        path,
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}

/// Writes a value that the kernel may refuse as a limit.
pub(crate) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    open(path, OFlags::WRONLY)
        .and_then(|file| beneath::write_once(file, value.as_bytes()))
        .map_err(|source| CgroupError::Limit {
            value: value.to_owned(),
            path: path.to_owned(),
            source,
        })
}

/// Writes a limit whose file may be missing because the host lacks the feature.
pub(crate) fn write_limit(
    path: &Path,
    value: &str,
    limit: &'static str,
) -> Result<(), CgroupError> {
    match write(path, value) {
        Err(CgroupError::Limit {
            source: Errno::NOENT,
            path,
            ..
        }) => Err(CgroupError::Unsupported {
            limit,
            reason: format!("{} does not exist", path.display()),
        }),
        result => result,
    }
}

pub(crate) fn read(path: &Path) -> Result<String, CgroupError> {
    use std::os::fd::AsFd;
    let content = open(path, OFlags::RDONLY)
        .and_then(|file| beneath::read_all(file.as_fd(), MAX_FILE))
        .map_err(CgroupError::file("read", path))?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// The number in a file that holds one; `max` and absent files are `None`.
pub(crate) fn read_number(path: &Path) -> Option<u64> {
    read(path).ok()?.trim().parse().ok()
}

/// The value of `key` in a file of `key value` lines.
pub(crate) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

/// Makes a directory and its missing parents below `root`.
pub(crate) fn make(root: &Path, path: &str) -> Result<bool, CgroupError> {
    let full = root.join(path);
    match mkdir(&full) {
        Ok(made) => return Ok(made),
        Err(CgroupError::File {
            source: Errno::NOENT,
            ..
        }) => {}
        Err(error) => return Err(error),
    }
    let mut current = root.to_owned();
    let mut made = false;
    for part in path.split('/') {
        current.push(part);
        made = mkdir(&current)?;
    }
    Ok(made)
}

/// Makes one directory; `false` if it was there.
pub(crate) fn mkdir(path: &Path) -> Result<bool, CgroupError> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(CgroupError::file("mkdir", path)(error)),
    }
}
