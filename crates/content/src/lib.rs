//! Content-addressed blobs on disk.
#![forbid(unsafe_code)]
use kekkai_types::{Classify, Digest, ErrorClass};
use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The blob is not there.
    #[error("blob {0} does not exist")]
    NotFound(Digest),
    /// The bytes are not those of the digest.
    #[error("wrong digest: expected {expected}, got {actual}")]
    WrongDigest {
        /// Promised.
        expected: Digest,
        /// Got.
        actual: Digest,
    },
    /// A system call failed.
    #[error("{operation} {path:?}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
}

impl Classify for ContentError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound(_) => ErrorClass::NotFound,
            Self::WrongDigest { .. } | Self::Io { .. } => ErrorClass::Internal,
        }
    }
}
