//! Paths from outside, resolved beneath a directory descriptor as if it were `/`: absolute paths, `..` and symbolic
//! links stay inside, `/proc`'s magic links are refused.
//!
//! What must stay true: no function here ever resolves a name outside its root, whatever the directory tree holds and
//! whoever changes it meanwhile (`openat2(2)`, `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::{Errno, Result};

/// How often a resolution is tried again that the kernel gave up because something was renamed under it.
const MAX_RETRIES: u32 = 128;
/// The longest path from outside that is looked at, in bytes (the kernel's own limit).
pub const MAX_PATH: usize = 4096;

/// Opens a path beneath `root`, following symbolic links as a process with that root would. Add `NOFOLLOW` for the last
/// component itself.
///
/// # Errors
/// Those of `openat2(2)`; `ELOOP` for a magic link.
pub fn open(
    root: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd> {
    open_with(
        root,
        path.as_ref(),
        flags,
        mode,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// As [`open`], refusing every symbolic link in the path (`ELOOP`).
///
/// # Errors
/// Those of `openat2(2)`.
pub fn open_no_symlinks(
    root: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    open_with(root, path.as_ref(), flags, mode, resolve)
}

fn open_with(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new("/")
    } else {
        path
    };
    for _ in 0..MAX_RETRIES {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// A descriptor (`O_PATH`) of what a path beneath `root` names.
///
/// # Errors
/// As [`open`].
pub fn locate(root: BorrowedFd<'_>, path: impl AsRef<Path>) -> Result<OwnedFd> {
    open(root, path, OFlags::PATH, Mode::empty())
}

/// Makes a directory and its missing parents beneath `root`, and answers a descriptor (`O_PATH`) of it. Symbolic links
/// on the way are followed inside the root; `..` is resolved lexically for parts that do not exist yet.
///
/// # Errors
/// `ENOTDIR` where a file stands in the way, and those of `mkdirat(2)`.
pub fn mkdir_all(root: BorrowedFd<'_>, path: impl AsRef<Path>, mode: Mode) -> Result<OwnedFd> {
    let path = path.as_ref();
    match open(root, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => make_missing(root, path, mode),
        result => result,
    }
}

/// As [`mkdir_all`] for a path that was just seen to be missing.
///
/// # Errors
/// As [`mkdir_all`].
pub fn make_missing(root: BorrowedFd<'_>, path: impl AsRef<Path>, mode: Mode) -> Result<OwnedFd> {
    let path = path.as_ref();
    let directory = OFlags::PATH | OFlags::DIRECTORY;
    // Nearly always only the last part is missing.
    if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
        && let Ok(parent) = open(root, parent, directory, Mode::empty())
    {
        match rustix::fs::mkdirat(&parent, name, mode) {
            Ok(()) | Err(Errno::EXIST) => return open(root, path, directory, Mode::empty()),
            Err(error) => return Err(error),
        }
    }
    if path.as_os_str().len() > MAX_PATH {
        return Err(Errno::NAMETOOLONG);
    }
    let mut done = PathBuf::from("/");
    let mut current = open(root, &done, directory, Mode::empty())?;
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                match rustix::fs::mkdirat(&current, name, mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                done.push(name);
            }
            Component::ParentDir => {
                done.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
        }
        current = open(root, &done, directory, Mode::empty())?;
    }
    Ok(current)
}

/// Splits a path into its parent and its last name.
///
/// # Errors
/// `EINVAL` for a path without a last name (`/`, `..`).
pub fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    Ok((path.parent().unwrap_or(Path::new("/")), name))
}

/// Opens a file beneath `root`, making it (empty, `mode`) and its parents (0755) where missing, and answers a
/// descriptor (`O_PATH`) of it: a place to mount a file on.
///
/// # Errors
/// As [`open`] and [`mkdir_all`].
pub fn create_file(root: BorrowedFd<'_>, path: impl AsRef<Path>, mode: Mode) -> Result<OwnedFd> {
    let path = path.as_ref();
    match locate(root, path) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let (parent, name) = split(path)?;
    let parent = mkdir_all(root, parent, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags, mode) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    open(root, path, OFlags::PATH, Mode::empty())
}

/// Reads a regular file beneath `root`, at most `limit` bytes. Never waits for a FIFO.
///
/// # Errors
/// `EINVAL` for anything that is not a regular file, `EFBIG` beyond the limit.
pub fn read_file(root: BorrowedFd<'_>, path: impl AsRef<Path>, limit: usize) -> Result<Vec<u8>> {
    let file = open(
        root,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
    )?;
    let stat = rustix::fs::fstat(&file)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    read_all(file.as_fd(), limit)
}

/// Reads a descriptor to its end.
///
/// # Errors
/// `EFBIG` beyond the limit.
pub fn read_all(fd: BorrowedFd<'_>, limit: usize) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut buffer = [0u8; 8192];
    loop {
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) => return Ok(content),
            Ok(length) => content.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if content.len() > limit {
            return Err(Errno::FBIG);
        }
    }
}

/// Writes all of `content` in one go, as kernel files (sysctls, cgroup files) want it.
///
/// # Errors
/// Those of `write(2)`; `EIO` for a partial write.
pub fn write_once(fd: impl AsFd, content: &[u8]) -> Result<()> {
    loop {
        match rustix::io::write(&fd, content) {
            Ok(length) if length == content.len() => return Ok(()),
            Ok(_) => return Err(Errno::IO),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a name is a single component that may be used with the `*at` calls.
#[must_use]
pub fn is_single_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes != b"."
        && bytes != b".."
        && !bytes.contains(&b'/')
        && !bytes.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd =
            rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (dir, fd)
    }

    #[test]
    fn directories_are_made_inside_only() {
        let (dir, fd) = root();
        std::os::unix::fs::symlink("/elsewhere/../../../x", dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("x")).unwrap();
        mkdir_all(fd.as_fd(), "/../../a/b/../c", Mode::from_raw_mode(0o755)).unwrap();
        assert!(dir.path().join("a/c").is_dir());
        mkdir_all(fd.as_fd(), "/a/c/d/e", Mode::from_raw_mode(0o755)).unwrap();
        assert!(dir.path().join("a/c/d/e").is_dir());
        std::os::unix::fs::symlink("/x", dir.path().join("to-x")).unwrap();
        mkdir_all(fd.as_fd(), "/to-x/new", Mode::from_raw_mode(0o755)).unwrap();
        assert!(dir.path().join("x/new").is_dir());
        create_file(fd.as_fd(), "/to-x/deep/file", Mode::from_raw_mode(0o644)).unwrap();
        assert!(dir.path().join("x/deep/file").is_file());
    }

    #[test]
    fn magic_links_are_refused() {
        let (dir, fd) = root();
        std::os::unix::fs::symlink("/proc/self/root/etc", dir.path().join("escape")).unwrap();
        assert!(locate(fd.as_fd(), "escape/passwd").is_err());
        std::os::unix::fs::symlink("../../../../etc/passwd", dir.path().join("up")).unwrap();
        assert_eq!(read_file(fd.as_fd(), "up", 1 << 20), Err(Errno::NOENT));
    }

    #[test]
    fn fifos_do_not_block() {
        let (dir, fd) = root();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("p"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(read_file(fd.as_fd(), "p", 10), Err(Errno::INVAL));
    }
}
