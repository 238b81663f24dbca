//! What goes wrong with cgroups.

use std::path::{Path, PathBuf};

use kekkai_sys::Errno;
use kekkai_types::{Classify, ErrorClass};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// A file or directory of a hierarchy could not be used.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was tried: `mkdir`, `open`, `write`, …
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// A limit that the kernel refused.
    #[error("failed to write {value:?} to {}: {source}", path.display())]
    Limit {
        /// The value.
        value: String,
        /// The control file.
        path: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// A limit that this host cannot enforce.
    #[error("{limit} cannot be limited on this host: {reason}")]
    Unsupported {
        /// Which limit, in the words of Docker's options.
        limit: &'static str,
        /// Why.
        reason: String,
    },
    /// A cgroup path or a value that cannot be used.
    #[error("invalid {field} {value:?}: {reason}")]
    Invalid {
        /// What it was for.
        field: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No cgroup file system is mounted.
    #[error("no cgroup hierarchy is mounted")]
    NotMounted,
    /// Processes are still there.
    #[error("cgroup {path} is still in use")]
    Busy {
        /// The cgroup.
        path: String,
    },
}

impl CgroupError {
    /// The class that decides the HTTP status.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Limit { .. } | Self::Unsupported { .. } | Self::Invalid { .. } => {
                ErrorClass::InvalidArgument
            }
            Self::Busy { .. } => ErrorClass::Conflict,
            Self::File { .. } | Self::NotMounted => ErrorClass::Internal,
        }
    }

    /// The kernel's error number, 0 where there is none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::File { source, .. } | Self::Limit { source, .. } => source.raw_os_error(),
            _ => 0,
        }
    }

    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }
}

impl Classify for CgroupError {
    fn class(&self) -> ErrorClass {
        CgroupError::class(self)
    }
}
