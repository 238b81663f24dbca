//! Registry client: names a registry's host, authenticates, resolves manifests and streams blobs.
//!
//! What must stay true: every byte from a registry is bounded; credentials go only to the host (and its token server)
//! they are for; a redirect never leads a public registry's client into a private network; errors speak Docker's words,
//! since tools match on them. No store is known here: blobs are streams, whoever asks for them verifies and keeps them.

#![forbid(unsafe_code)]

mod auth;
mod blob;
mod challenge;
mod client;
mod config;
mod credentials;
mod error;
mod event;
mod manifest;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
mod transport;
mod url;

pub use blob::BlobStream;
pub use client::{FetchedManifest, RegistryClient, Repository};

pub use config::RegistryConfig;
pub use credentials::{Credentials, LoginOutcome, Secret};
pub use error::DistributionError;
pub use event::{ProgressSink, PullEvent, PullProgress, no_progress};
pub use manifest::{MAX_MANIFEST, Manifest, parse_manifest, select};
