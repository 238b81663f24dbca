//! Where the crash suite makes a pull, a load or a removal die or fail. `kekkai_sys::failpoint` does it.

use crate::error::ImageError;

pub(crate) const PULL_RESOLVED: &str = "pull.resolved";
pub(crate) const PULL_BLOB: &str = "pull.blob-half";
pub(crate) const PULL_KEPT: &str = "pull.blob-committed";
pub(crate) const PULL_STAGED: &str = "pull.layer-unpacked";
pub(crate) const COMMIT_PUBLISHED: &str = "image.layers-published";
pub(crate) const COMMIT_ASSEMBLED: &str = "image.assembled";
pub(crate) const COMMIT_ROWS: &str = "image.rows";
pub(crate) const LOAD_SPOOLED: &str = "load.spooled";
pub(crate) const REMOVE_ROWS: &str = "rmi.rows";
pub(crate) const REMOVE_DONE: &str = "rmi.collected";

/// Every fail point of this crate, in the order in which an image meets them.
pub const ALL: &[&str] = &[
    PULL_RESOLVED,
    PULL_BLOB,
    PULL_KEPT,
    PULL_STAGED,
    LOAD_SPOOLED,
    COMMIT_PUBLISHED,
    COMMIT_ASSEMBLED,
    COMMIT_ROWS,
    REMOVE_ROWS,
    REMOVE_DONE,
];

/// Does what is set for `name`; nothing, usually.
pub(crate) fn check(name: &'static str) -> Result<(), ImageError> {
    kekkai_sys::failpoint::check(name).map_err(|failed| ImageError::FailPoint(failed.0))
}
