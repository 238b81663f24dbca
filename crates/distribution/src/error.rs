//! What can go wrong between us and a registry, in Docker's words.

use kekkai_types::{Classify, Digest, ErrorClass, Platform};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum DistributionError {
    /// The registry does not have the manifest.
    #[error("manifest for {reference} not found: {detail}")]
    ManifestUnknown {
        /// As a person wrote it.
        reference: String,
        /// `manifest unknown: manifest unknown`, or what the registry said.
        detail: String,
    },
    /// The registry does not show the repository to us.
    #[error(
        "pull access denied for {repository}, repository does not exist or may require 'docker login': {detail}"
    )]
    AccessDenied {
        /// As a person wrote it.
        repository: String,
        /// What the registry said.
        detail: String,
    },
    /// The registry does not know the repository.
    #[error("repository {repository} not found: {detail}")]
    RepositoryUnknown {
        /// As a person wrote it.
        repository: String,
        /// What the registry said.
        detail: String,
    },
    /// The registry, or its token server, refused the credentials.
    #[error("{0}")]
    Unauthorized(String),
    /// Another error that the registry names.
    #[error("{0}")]
    Registry(String),
    /// The registry asks to slow down.
    #[error("toomanyrequests: {0}")]
    TooManyRequests(String),
    /// No image of this platform is in the index.
    #[error("no matching manifest for {0} in the manifest list entries")]
    NoPlatform(Platform),
    /// A manifest of schema 1.
    #[error(
        "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed: {0} must be pushed again in a newer format"
    )]
    Schema1(String),
    /// A manifest that is none of an image.
    #[error("{context}: {detail}")]
    Manifest {
        /// Which.
        context: String,
        /// What is wrong.
        detail: String,
    },
    /// Content that is not what it should be.
    #[error("{context} verification failed for digest {expected}: got {actual}")]
    WrongDigest {
        /// `manifest`, `filesystem layer`, `image config`.
        context: &'static str,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// Content longer than its descriptor or a bound allows.
    #[error("{context}: more than {limit} bytes")]
    TooLarge {
        /// What.
        context: String,
        /// The bound, bytes.
        limit: u64,
    },
    /// Content that ended early.
    #[error("{context}: unexpected EOF: {got} of {expected} bytes")]
    Truncated {
        /// What.
        context: String,
        /// Bytes promised.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// An answer that is no success.
    #[error("received unexpected HTTP status: {status}")]
    Status {
        /// `503 Service Unavailable`.
        status: String,
    },
    /// A redirect that is not followed.
    #[error("refusing to follow redirect from {from} to {to}: {why}")]
    Redirect {
        /// Host that redirects.
        from: String,
        /// Where it wants us to go.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// The registry was not reached, or the connection broke: `Get "https://…": dial tcp …: connect: connection refused`.
    #[error("{method} \"{url}\": {detail}")]
    Transport {
        /// `Get`, `Head`, `Post`.
        method: &'static str,
        /// Without secrets.
        url: String,
        /// Go's words for it.
        detail: String,
    },
    /// A configuration value that means nothing.
    #[error("invalid {what} {value:?}: {why}")]
    Config {
        /// `registry mirror`, `insecure registry`.
        what: &'static str,
        /// The text.
        value: String,
        /// Why.
        why: String,
    },
}

impl Classify for DistributionError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::ManifestUnknown { .. }
            | Self::RepositoryUnknown { .. }
            | Self::AccessDenied { .. }
            | Self::NoPlatform(_) => ErrorClass::NotFound,
            Self::Unauthorized(_) => ErrorClass::Unauthorized,
            Self::Schema1(_) | Self::Config { .. } => ErrorClass::InvalidArgument,
            Self::TooManyRequests(_)
            | Self::Registry(_)
            | Self::Manifest { .. }
            | Self::WrongDigest { .. }
            | Self::TooLarge { .. }
            | Self::Truncated { .. }
            | Self::Status { .. }
            | Self::Redirect { .. }
            | Self::Transport { .. } => ErrorClass::Internal,
        }
    }
}
