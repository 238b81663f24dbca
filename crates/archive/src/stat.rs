//! What the archive end points of the API say about a path.

use std::os::fd::BorrowedFd;
use std::path::Path;

use kekkai_types::Timestamp;

use crate::ArchiveError;

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

/// Looks at `path` within `root`; the last component is not followed unless the path ends with `/` or `/.`.
pub fn stat_path(root: BorrowedFd<'_>, path: &Path) -> Result<PathStat, ArchiveError> {
    todo!()
}
