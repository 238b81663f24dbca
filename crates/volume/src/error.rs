//! What can go wrong with volumes, in Docker's words where tools match on them.

use std::path::PathBuf;

use kekkai_metadata::MetadataError;
use kekkai_types::ErrorClass;

/// An operation on volumes failed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// There is no such volume.
    #[error("get {0}: no such volume")]
    NotFound(String),
    /// Containers use it.
    #[error("remove {name}: volume is in use - [{}]", containers.join(", "))]
    InUse {
        /// The volume.
        name: String,
        /// The containers, by identifier.
        containers: Vec<String>,
    },
    /// There is no such driver.
    #[error(
        "create {name}: error looking up volume plugin {driver}: plugin \"{driver}\" not found"
    )]
    Driver {
        /// The volume.
        name: String,
        /// The driver asked for.
        driver: String,
    },
    /// The volume exists with another driver.
    #[error("create {name}: conflict: volume name must be unique")]
    Conflict {
        /// The volume.
        name: String,
    },
    /// The driver does not know the option.
    #[error("create {name}: invalid option: \"{option}\"")]
    InvalidOption {
        /// The volume.
        name: String,
        /// The option.
        option: String,
    },
    /// One option needs another.
    #[error("create {name}: missing required option: \"{option}\"")]
    MissingOption {
        /// The volume.
        name: String,
        /// The option that is missing.
        option: &'static str,
    },
    /// The kind of file system is not done.
    #[error("create {name}: volumes of type {kind} are not supported (bind and tmpfs are)")]
    Unsupported {
        /// The volume.
        name: String,
        /// The type asked for.
        kind: String,
    },
    /// A volume's file system could not be mounted.
    #[error("error while mounting volume '{}': failed to mount local volume: mount {device}:{}, data: {data}: {source}", path.display(), path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// What.
        device: String,
        /// With which options.
        data: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The image's directory has more nesting than is copied.
    #[error("copying {} into the volume: directories are nested too deep", path.display())]
    TooDeep {
        /// The path in the image.
        path: PathBuf,
    },
    /// The image has a file where the volume is to be.
    #[error("source {} is not directory", path.display())]
    OverFile {
        /// The path in the image.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl VolumeError {
    /// How the error reads to a client.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            VolumeError::NotFound(_) | VolumeError::Driver { .. } => ErrorClass::NotFound,
            VolumeError::InUse { .. } | VolumeError::Conflict { .. } => ErrorClass::Conflict,
            VolumeError::InvalidOption { .. }
            | VolumeError::MissingOption { .. }
            | VolumeError::Unsupported { .. } => ErrorClass::InvalidArgument,
            VolumeError::Metadata(error) => error.class(),
            VolumeError::Mount { .. }
            | VolumeError::OverFile { .. }
            | VolumeError::TooDeep { .. }
            | VolumeError::Io { .. } => ErrorClass::Internal,
        }
    }

    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<std::io::Error>,
    ) -> VolumeError {
        VolumeError::Io {
            operation,
            path: path.into(),
            source: source.into(),
        }
    }
}
