//! Directories beneath a root, entered component by component with their descriptors kept.
//!
//! What must stay true: a component is opened beneath its parent's descriptor, never following a symlink; symlinks are
//! read and resolved here, against the root. `..` is never given to the kernel. So no name leads outside, whatever else
//! happens to the tree meanwhile.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::reader::Limits;
use crate::{ArchiveError, path_of};

/// Symlinks followed in one path, as in the kernel.
const MAX_LINKS: usize = 40;
/// Mode of directories that the stream implies but does not have.
pub(crate) const IMPLIED_MODE: u32 = 0o755;
/// The extended attribute that makes a directory opaque to overlayfs, and its value.
pub(crate) const OPAQUE: (&str, &[u8]) = ("trusted.overlay.opaque", b"y");

/// Whose rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// A layer in a directory of its own: `..` above the root is an attack; whiteouts have a meaning.
    Layer,
    /// `docker cp` into a root: like chroot(2), `..` at the root stays there.
    Copy,
}

/// What to do about a directory that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Make it.
    Create,
    /// Say so.
    Report,
}

/// Where [`Walker::enter`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    /// In the directory.
    There,
    /// A directory on the way is missing.
    Absent,
}

/// `path` without empty and `.` components and with `..` resolved by its text; relative to the root, empty for the root.
pub(crate) fn normalize(path: &[u8], policy: Policy) -> Result<Vec<u8>, ArchiveError> {
    let mut normal: Vec<u8> = Vec::with_capacity(path.len());
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if normal.is_empty() && policy == Policy::Layer {
                    return Err(ArchiveError::Escape {
                        path: path_of(path),
                        why: "it leads outside by \"..\"".to_owned(),
                    });
                }
                let parent = normal.iter().rposition(|b| *b == b'/').unwrap_or(0);
                normal.truncate(parent);
            }
            name => {
                if !normal.is_empty() {
                    normal.push(b'/');
                }
                normal.extend_from_slice(name);
            }
        }
    }
    Ok(normal)
}

/// Parent and last component of a normal path that is not the root.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// A position in the tree.
#[derive(Debug)]
pub(crate) struct Walker<'a> {
    root: BorrowedFd<'a>,
    policy: Policy,
    depth: usize,
    stack: Vec<(Vec<u8>, OwnedFd)>,
    /// Normal paths of directories made on the way since the caller last looked.
    pub(crate) made: Vec<Vec<u8>>,
}

const OPEN: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl<'a> Walker<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>, policy: Policy, limits: &Limits) -> Self {
        Self {
            root,
            policy,
            depth: limits.depth,
            stack: Vec::new(),
            made: Vec::new(),
        }
    }

    /// The current directory. An `O_PATH` descriptor unless it is the root.
    pub(crate) fn current(&self) -> BorrowedFd<'_> {
        self.stack.last().map_or(self.root, |(_, fd)| fd.as_fd())
    }

    /// Forgets the descriptors, because something on the way may have been replaced.
    pub(crate) fn reset(&mut self) {
        self.stack.clear();
    }

    /// The current directory's path.
    pub(crate) fn path(&self) -> Vec<u8> {
        let mut path = Vec::new();
        for (name, _) in &self.stack {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        path
    }

    fn child(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// Goes to the directory `path` (normal, see [`normalize`]).
    pub(crate) fn enter(&mut self, path: &[u8], missing: Missing) -> Result<Entered, ArchiveError> {
        if path.is_empty() {
            self.stack.clear();
            return Ok(Entered::There);
        }
        let mut common = 0;
        let mut rest = path.split(|b| *b == b'/').peekable();
        while let Some(name) = rest.peek() {
            if self.stack.get(common).is_none_or(|(have, _)| have != name) {
                break;
            }
            common += 1;
            rest.next();
        }
        self.stack.truncate(common);
        // (component, whether it comes from a symlink's target)
        let mut queue: VecDeque<(Vec<u8>, bool)> =
            rest.map(|name| (name.to_vec(), false)).collect();
        let mut links = 0;
        while let Some((name, from_link)) = queue.pop_front() {
            if name == b".." {
                if self.stack.pop().is_none() && self.policy == Policy::Layer {
                    return Err(ArchiveError::Escape {
                        path: path_of(path),
                        why: "a symlink on the way leads outside".to_owned(),
                    });
                }
                continue;
            }
            if self.stack.len() >= self.depth {
                return Err(ArchiveError::Limit {
                    what: "components of a path",
                    limit: self.depth as u64,
                });
            }
            match rustix::fs::openat(self.current(), &name[..], OPEN, Mode::empty()) {
                Ok(fd) => self.stack.push((name, fd)),
                Err(Errno::NOENT) if from_link => return self.dead_link(path, missing),
                Err(Errno::NOENT) => {
                    if missing == Missing::Report {
                        return Ok(Entered::Absent);
                    }
                    let fd = self.make(&name)?;
                    self.stack.push((name, fd));
                }
                Err(Errno::NOTDIR | Errno::LOOP) => match self.read_link(&name)? {
                    Some(target) => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(self.io("resolve", &name)(Errno::LOOP));
                        }
                        if target.starts_with(b"/") {
                            self.stack.clear();
                        }
                        for part in target.split(|b| *b == b'/').rev() {
                            if !matches!(part, b"" | b".") {
                                queue.push_front((part.to_vec(), true));
                            }
                        }
                    }
                    None => {
                        if !self.replace_whiteout(&name, missing)? {
                            return Err(self.io("enter", &name)(Errno::NOTDIR));
                        }
                        queue.push_front((name, from_link));
                    }
                },
                Err(errno) => return Err(self.io("open", &name)(errno)),
            }
        }
        Ok(Entered::There)
    }

    fn dead_link(&self, path: &[u8], missing: Missing) -> Result<Entered, ArchiveError> {
        if missing == Missing::Report {
            return Ok(Entered::Absent);
        }
        match self.policy {
            Policy::Layer => Err(ArchiveError::Escape {
                path: path_of(path),
                why: "it goes through a symlink that leads to no directory of this layer"
                    .to_owned(),
            }),
            Policy::Copy => Err(ArchiveError::Path {
                path: path_of(path),
                source: Errno::NOENT.into(),
            }),
        }
    }

    fn make(&mut self, name: &[u8]) -> Result<OwnedFd, ArchiveError> {
        rustix::fs::mkdirat(self.current(), name, Mode::from_raw_mode(IMPLIED_MODE))
            .map_err(self.io("mkdir", name))?;
        let fd = rustix::fs::openat(self.current(), name, OPEN, Mode::empty())
            .map_err(self.io("open", name))?;
        let path = self.child(name);
        self.made.push(path);
        Ok(fd)
    }

    /// The target of the symlink `name`; `None` when it is none.
    pub(crate) fn read_link(&self, name: &[u8]) -> Result<Option<Vec<u8>>, ArchiveError> {
        match rustix::fs::readlinkat(self.current(), name, Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::INVAL) => Ok(None),
            Err(errno) => Err(self.io("readlink", name)(errno)),
        }
    }

    /// A whiteout of this layer where a directory is needed now: the directory is new, and hides what is below.
    fn replace_whiteout(&mut self, name: &[u8], missing: Missing) -> Result<bool, ArchiveError> {
        if self.policy != Policy::Layer
            || missing == Missing::Report
            || !is_whiteout(self.current(), name)?
        {
            return Ok(false);
        }
        rustix::fs::unlinkat(self.current(), name, AtFlags::empty())
            .map_err(self.io("unlink", name))?;
        let fd = self.make(name)?;
        set_opaque(fd.as_fd()).map_err(self.io("set opaque", name))?;
        Ok(true)
    }

    /// Turns an error on `name` in the current directory into ours.
    pub(crate) fn io<'n>(
        &self,
        operation: &'static str,
        name: &'n [u8],
    ) -> impl FnOnce(Errno) -> ArchiveError + use<'n> {
        let path = self.child(name);
        move |errno| ArchiveError::Io {
            operation,
            path: path_of(&path),
            source: errno.into(),
        }
    }
}

/// Follows `path` within `root` to a directory and returns that directory's path without symlinks, relative to the root;
/// `None` when something on the way is missing.
///
/// # Errors
/// [`ArchiveError::Io`] with `ENOTDIR` when something on the way is no directory.
pub fn resolve_directory(
    root: BorrowedFd<'_>,
    path: &std::path::Path,
) -> Result<Option<std::path::PathBuf>, ArchiveError> {
    use std::os::unix::ffi::OsStrExt;
    let mut walker = Walker::new(root, Policy::Copy, &Limits::default());
    let normal = normalize(path.as_os_str().as_bytes(), Policy::Copy)?;
    match walker.enter(&normal, Missing::Report)? {
        Entered::There => Ok(Some(path_of(&walker.path()))),
        Entered::Absent => Ok(None),
    }
}

/// Whether `name` in `directory` is overlayfs's whiteout: a character device 0:0.
pub(crate) fn is_whiteout(directory: BorrowedFd<'_>, name: &[u8]) -> Result<bool, ArchiveError> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0,
        ),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(ArchiveError::Io {
            operation: "stat",
            path: path_of(name),
            source: errno.into(),
        }),
    }
}

/// A path that names what an `O_PATH` descriptor is open on.
pub(crate) fn descriptor_path(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Makes the directory hide what is below it.
pub(crate) fn set_opaque(directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::fs::setxattr(
        descriptor_path(directory),
        OPAQUE.0,
        OPAQUE.1,
        rustix::fs::XattrFlags::empty(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let layer = |path: &[u8]| normalize(path, Policy::Layer);
        assert_eq!(layer(b"./a//b/./c/").unwrap(), b"a/b/c");
        assert_eq!(layer(b"/etc/x").unwrap(), b"etc/x");
        assert_eq!(layer(b"a/../b").unwrap(), b"b");
        assert_eq!(layer(b"./").unwrap(), b"");
        assert!(layer(b"../x").is_err());
        assert!(layer(b"a/../../x").is_err());
        assert_eq!(normalize(b"../../x", Policy::Copy).unwrap(), b"x");
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
    }
}
