//! The service: the one place that changes images.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kekkai_distribution::{Credentials, LoginOutcome, ProgressSink};
use kekkai_metadata::Database;
use kekkai_snapshot::Snapshotter;
use kekkai_types::{Digest, Platform, Reference};
use tokio::io::AsyncRead;

use crate::error::ImageError;
use crate::model::{
    HistoryLine, Image, ImageServiceConfig, ImageUser, ListFilter, LoadedImage, PruneReport, PullOutcome, RemoveOptions,
    RemovedItem,
};

/// All that is done with images. Clones share one state.
#[derive(Debug, Clone)]
pub struct ImageService {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ImageServiceConfig,
    database: Arc<Database>,
    snapshotter: Arc<dyn Snapshotter>,
}

impl ImageService {
    /// Opens the store beneath the data root and reads what the database knows; forgets what an interrupted pull left.
    /// Blocks. Must be called before any container is created, and before `Snapshotter::adopt`.
    pub fn open(config: ImageServiceConfig, database: Arc<Database>, snapshotter: Arc<dyn Snapshotter>) -> Result<Self, ImageError> {
        Ok(Self { inner: Arc::new(Inner { config, database, snapshotter }) })
    }

    /// Pulls `reference` (its tag defaults to `latest`) for `platform` (the host's by default). Equal pulls at the same
    /// time share the work. The events are those of Docker, except the error line, which is the returned error.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        credentials: Option<Credentials>,
        progress: ProgressSink,
    ) -> Result<PullOutcome, ImageError> {
        todo!()
    }

    /// Loads a docker-archive or an OCI layout from a tar stream, compressed or not.
    pub async fn load<R>(&self, reader: R, progress: ProgressSink) -> Result<Vec<LoadedImage>, ImageError>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        todo!()
    }

    /// Every image that passes the filter, newest first.
    #[must_use]
    pub fn list(&self, filter: &ListFilter) -> Vec<Arc<Image>> {
        todo!()
    }

    /// The image of a name (`alpine`, `alpine:3.20`, `alpine@sha256:…`), an id, or an unambiguous beginning of one.
    pub fn resolve(&self, name: &str) -> Result<Arc<Image>, ImageError> {
        todo!()
    }

    /// The image of an exact id.
    #[must_use]
    pub fn by_id(&self, id: &Digest) -> Option<Arc<Image>> {
        todo!()
    }

    /// The raw bytes of an image's configuration.
    pub fn config_bytes(&self, id: &Digest) -> Result<Bytes, ImageError> {
        todo!()
    }

    /// Points `target` (its tag defaults to `latest`) at the image `source` names.
    pub async fn tag(&self, source: &str, target: &Reference) -> Result<(), ImageError> {
        todo!()
    }

    /// Untags or deletes by Docker's rules. `users` tells which containers use an image.
    pub async fn remove(
        &self,
        name: &str,
        options: RemoveOptions,
        users: &(dyn Fn(&Digest) -> Vec<ImageUser> + Sync),
    ) -> Result<Vec<RemovedItem>, ImageError> {
        todo!()
    }

    /// How the image came to be, newest step first.
    pub fn history(&self, name: &str) -> Result<Vec<HistoryLine>, ImageError> {
        todo!()
    }

    /// Removes images that no container uses: the dangling ones, or with `all` every one that passes `filter`.
    pub async fn prune(
        &self,
        all: bool,
        filter: &ListFilter,
        users: &(dyn Fn(&Digest) -> Vec<ImageUser> + Sync),
    ) -> Result<PruneReport, ImageError> {
        todo!()
    }

    /// Asks the registry of `credentials.server_address` whether it takes them (`POST /auth`).
    pub async fn check_login(&self, credentials: &Credentials) -> Result<LoginOutcome, ImageError> {
        todo!()
    }

    /// Makes the built-in image `kekkai/hello:latest` from the program at `program` (the static `kekkai-keeper`), unless
    /// it is there already with this very program. Its one file is `/kekkai-hello`, its command is the same.
    pub async fn register_builtin(&self, program: &Path) -> Result<Arc<Image>, ImageError> {
        todo!()
    }
}
