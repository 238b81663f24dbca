//! The types that the engine sees.

use std::path::PathBuf;
use std::sync::Arc;

use kekkai_distribution::RegistryConfig;
use kekkai_oci::image_documents::ImageConfig;
use kekkai_types::{ContainerId, DiffId, Digest, Platform, Timestamp};

/// The name of the image that needs no network.
pub const BUILTIN_NAME: &str = "kekkai/hello:latest";

/// How the service is set up.
#[derive(Debug, Clone)]
pub struct ImageServiceConfig {
    /// The engine's data root; blobs live in `content/` beneath it.
    pub data_root: PathBuf,
    /// Mirrors and insecure registries.
    pub registries: RegistryConfig,
    /// Layers downloaded at once per pull; Docker's default is 3.
    pub max_concurrent_downloads: usize,
}

/// One image. Cheap to share; a snapshot of what is known now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of its configuration.
    pub id: Digest,
    /// The configuration, parsed. Its raw bytes: [`crate::ImageService::config_bytes`].
    pub config: Arc<ImageConfig>,
    /// Digests of its uncompressed layers, lowest first.
    pub layers: Vec<DiffId>,
    /// Sizes of these layers, bytes.
    pub layer_sizes: Vec<u64>,
    /// `alpine:3.20`, sorted.
    pub repo_tags: Vec<String>,
    /// `alpine@sha256:…`, sorted.
    pub repo_digests: Vec<String>,
    /// Sum of its layers' sizes.
    pub size: u64,
    /// When it was made, as its configuration says.
    pub created: Option<Timestamp>,
    /// When a name was last put on it.
    pub last_tagged: Timestamp,
    /// What it runs on.
    pub platform: Platform,
    /// The manifest it came with, if it came with one.
    pub manifest: Option<Digest>,
}

impl Image {
    /// Whether no name points to it.
    #[must_use]
    pub fn is_dangling(&self) -> bool {
        self.repo_tags.is_empty()
    }
}

/// What a pull did.
#[derive(Debug, Clone)]
pub struct PullOutcome {
    /// The image.
    pub image: Arc<Image>,
    /// Digest of the manifest or index that the reference named.
    pub digest: Digest,
    /// Whether the name pointed to it already.
    pub up_to_date: bool,
}

/// What a load found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// The image.
    pub id: Digest,
    /// Names it was given, familiar form.
    pub names: Vec<String>,
}

/// A container that uses an image, as the engine tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// The container.
    pub container: ContainerId,
    /// Whether it runs (or is paused or restarting).
    pub running: bool,
    /// The image as it was named when the container was created.
    pub image_name: String,
}

/// `DELETE /images/{name}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Untag and delete although stopped containers use it or several names point to it.
    pub force: bool,
}

/// One line of what a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemovedItem {
    /// `Untagged: alpine:3.20` or `Untagged: alpine@sha256:…`.
    Untagged(String),
    /// `Deleted: sha256:…`, an image or a layer's chain.
    Deleted(String),
}

/// What pruning freed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// What was removed.
    pub removed: Vec<RemovedItem>,
    /// Bytes that are, or soon will be, free.
    pub space_reclaimed: u64,
}

/// Which images a list shows. Empty shows all. Several values of one kind are alternatives, kinds add up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// `reference=`: patterns on the familiar name, with `*`, `?`, `[…]`.
    pub references: Vec<String>,
    /// `dangling=`.
    pub dangling: Option<bool>,
    /// `label=`: `key` or `key=value`; all must match.
    pub labels: Vec<String>,
    /// `before=`: made before that image.
    pub before: Option<Timestamp>,
    /// `since=`: made after that image.
    pub since: Option<Timestamp>,
    /// `until=`: made before that time.
    pub until: Option<Timestamp>,
}

/// One line of `docker history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryLine {
    /// The image's id on the newest line, `<missing>` on the others.
    pub id: String,
    /// When the step was done.
    pub created: Option<Timestamp>,
    /// The command.
    pub created_by: String,
    /// Names, on the newest line.
    pub tags: Vec<String>,
    /// Size of the layer it made, bytes.
    pub size: u64,
    /// A comment.
    pub comment: String,
}
