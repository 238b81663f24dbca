//! `docker cp`: a tree out of a root as a tar stream, and a tar stream into one.

use std::io::{BufRead, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::ArchiveError;

/// How [`unpack_into`] treats what is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Refuse to replace a directory by a file and a file by a directory (`noOverwriteDirNonDir`).
    pub no_overwrite_dir_non_dir: bool,
    /// Give everything to this user and group instead of the stream's (`copyUIDGID`).
    pub owner: Option<(u32, u32)>,
}

/// Writes `path` of `root`, with everything beneath it, as a tar stream whose entries begin with the path's base name, as
/// the API's `GET …/archive` gives it. A symlink is packed as a symlink unless the path ends with `/` or `/.`.
pub fn pack_path(root: BorrowedFd<'_>, path: &Path, writer: &mut dyn Write) -> Result<(), ArchiveError> {
    todo!()
}

/// Unpacks a tar stream (compressed or not) into the directory `path` of `root`. Symlinks in `path` and in the entries'
/// parents are followed within `root`. `root` may be a running container's `/proc/PID/root`.
pub fn unpack_into(
    root: BorrowedFd<'_>,
    path: &Path,
    tar: &mut dyn BufRead,
    options: &UnpackOptions,
) -> Result<(), ArchiveError> {
    todo!()
}
