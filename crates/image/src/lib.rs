//! Images: names, pull, load, history, removal, and the image that is built in.
//!
//! What must stay true: an image is listed only when its configuration, its manifest and all of its layers are whole and
//! durable; its id is the digest of its configuration; names move in one transaction; removing touches rows first and
//! content later.

#![forbid(unsafe_code)]

mod builtin;
mod catalog;
mod error;
pub mod failpoint;
mod load;
mod model;
mod pull;
mod remove;
mod service;
mod store;

pub use error::ImageError;
pub use kekkai_distribution::{
    Credentials, LoginOutcome, ProgressSink, PullEvent, PullProgress, RegistryConfig, Secret,
    no_progress,
};
pub use model::{
    BUILTIN_NAME, HistoryLine, Image, ImageServiceConfig, ImageUser, ListFilter, LoadedImage,
    PruneReport, PullOutcome, RemoveOptions, RemovedItem,
};
pub use service::ImageService;
