//! What can go wrong with layers and snapshots.

use std::io;
use std::path::PathBuf;

use kekkai_types::{Classify, DiffId, ErrorClass};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No snapshot of this key.
    #[error("snapshot {0} does not exist")]
    NoSnapshot(String),
    /// A snapshot of this key exists.
    #[error("snapshot {0} already exists")]
    Exists(String),
    /// A layer is not there.
    #[error("layer {0} does not exist")]
    NoLayer(DiffId),
    /// The tar stream is not the one that was promised.
    #[error("wrong digest of the uncompressed layer: expected {expected}, got {actual}")]
    WrongDiffId {
        /// What the image's configuration says.
        expected: DiffId,
        /// What came.
        actual: DiffId,
    },
    /// The layer could not be unpacked.
    #[error("failed to register layer: {source}")]
    Unpack {
        /// Why.
        #[source]
        source: kekkai_archive::ArchiveError,
    },
    /// A hard link of a layer points to a file that neither it nor its parents have.
    #[error(
        "layer {layer}: hard link {path:?} to {target:?}: no such file in the layer or below it"
    )]
    MissingLink {
        /// The layer.
        layer: DiffId,
        /// The link.
        path: PathBuf,
        /// What it names.
        target: PathBuf,
    },
    /// A layer puts entries beneath a path that is no directory in the layers below it.
    #[error("layer {layer}: {path:?}: not a directory in the layers below")]
    NotADirectory {
        /// The layer.
        layer: DiffId,
        /// The directory it implies.
        path: PathBuf,
    },
    /// `layer.json` of a published layer cannot be read.
    #[error("damaged layer description {path:?}: {message}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// Too many layers for one mount.
    #[error("max depth exceeded: {0} layers")]
    TooManyLayers(usize),
    /// A system call failed.
    #[error("{operation} {path:?}: {}", kekkai_archive::words(source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

impl SnapshotError {
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.into();
        move |errno| Self::Io {
            operation,
            path,
            source: errno.into(),
        }
    }

    pub(crate) fn std(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}

impl Classify for SnapshotError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NoSnapshot(_) | Self::NoLayer(_) => ErrorClass::NotFound,
            Self::Exists(_) => ErrorClass::Conflict,
            _ => ErrorClass::Internal,
        }
    }
}
