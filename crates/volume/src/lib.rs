//! Volumes: directories (or file systems mounted on them) that outlive containers.
//!
//! ```text
//! <data>/volumes/<name>/_data      what containers see; owner and mode are the users'
//! <data>/volumes/<name>/.new-*     a copy-up under way; swept at start
//! <data>/trash/volume-*            removed; somebody else unlinks it
//! ```
//!
//! The list of volumes is in the database. The row is written before the directory is made and deleted after the directory
//! is renamed away, so a row without a directory is always something half done and never data. A directory without a row is
//! taken in as a volume: data is never thrown away because a database was lost.

#![forbid(unsafe_code)]

mod error;
mod model;
mod mount;
mod populate;
mod store;

pub use error::VolumeError;
pub use model::{ANONYMOUS_LABEL, CreateVolume, PruneReport, PruneScope, Volume, VolumeFilter};
pub use store::VolumeStore;
