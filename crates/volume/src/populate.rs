//! Copy-up: an image's directory into an empty volume.

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::error::VolumeError;

/// How the directory of a copy under way is called.
pub(crate) const TEMPORARY: &str = ".new-";

pub(crate) fn populate(
    volume: &Path,
    root: BorrowedFd<'_>,
    path: &Path,
) -> Result<bool, VolumeError> {
    let _ = (volume, root);
    Err(VolumeError::TooDeep {
        path: path.to_owned(),
    })
}

/// The bytes that files beneath `path` take.
pub(crate) fn disk_usage(path: &Path) -> u64 {
    let _ = path;
    0
}
