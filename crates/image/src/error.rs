//! What can go wrong with images, in Docker's words.

use kekkai_types::{Classify, Digest, ErrorClass};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image of this name or id. The text is the name in full (`alpine:latest`).
    #[error("No such image: {0}")]
    NotFound(String),
    /// A short id that fits several images.
    #[error("Multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// The image exists, of another platform.
    #[error(
        "image with reference {name} was found but does not provide the specified platform ({wanted})"
    )]
    WrongPlatform {
        /// The name.
        name: String,
        /// What was asked for.
        wanted: String,
    },
    /// The name is no reference.
    #[error("{0}")]
    Reference(#[from] kekkai_types::ParseReferenceError),
    /// Removing is refused because something uses the image; the text is Docker's.
    #[error("conflict: unable to {what} {subject} ({remedy}) - {why}")]
    InUse {
        /// `remove repository reference` or `delete`.
        what: &'static str,
        /// `"x"` in quotes, or a short id.
        subject: String,
        /// `must force`, `must be forced`, `cannot be forced`.
        remedy: &'static str,
        /// The rest.
        why: String,
    },
    /// A name that only a digest can be given.
    #[error("{0}")]
    Invalid(String),
    /// The configuration is not one of an image.
    #[error("image config {digest}: {detail}")]
    Config {
        /// Which.
        digest: Digest,
        /// What is wrong.
        detail: String,
    },
    /// What was loaded is no image archive.
    #[error("{0}")]
    Archive(String),
    /// Content that is not what it should be.
    #[error("{context} verification failed for digest {expected}: got {actual}")]
    WrongDigest {
        /// Which.
        context: &'static str,
        /// Promised.
        expected: Digest,
        /// Got.
        actual: Digest,
    },
    /// The registry.
    #[error(transparent)]
    Distribution(#[from] kekkai_distribution::DistributionError),
    /// The blob store.
    #[error(transparent)]
    Content(#[from] kekkai_content::ContentError),
    /// The layer store.
    #[error(transparent)]
    Snapshot(#[from] kekkai_snapshot::SnapshotError),
    /// A tar stream.
    #[error(transparent)]
    Tar(#[from] kekkai_archive::ArchiveError),
    /// The database.
    #[error(transparent)]
    Metadata(#[from] kekkai_metadata::MetadataError),
    /// Reading what a client sent, or a file of ours.
    #[error("{operation}: {}", kekkai_archive::words(source))]
    Io {
        /// What was tried.
        operation: String,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
    /// The same pull, run for another client, failed.
    #[error("{message}")]
    Shared {
        /// Its class.
        class: ErrorClass,
        /// Its text.
        message: String,
    },
    /// A fail point of the crash suite.
    #[error("fail point {0}")]
    FailPoint(&'static str),
    /// The work was given up (the daemon stops, or a thread died).
    #[error("the operation was cancelled")]
    Cancelled,
}

impl Classify for ImageError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound(_) | Self::WrongPlatform { .. } => ErrorClass::NotFound,
            Self::Ambiguous(_) | Self::Reference(_) | Self::Invalid(_) => {
                ErrorClass::InvalidArgument
            }
            Self::InUse { .. } => ErrorClass::Conflict,
            Self::Distribution(e) => e.class(),
            Self::Snapshot(e) => e.class(),
            Self::Shared { class, .. } => *class,
            Self::Config { .. }
            | Self::Archive(_)
            | Self::WrongDigest { .. }
            | Self::Content(_)
            | Self::Tar(_)
            | Self::Metadata(_)
            | Self::Io { .. }
            | Self::FailPoint(_)
            | Self::Cancelled => ErrorClass::Internal,
        }
    }
}
