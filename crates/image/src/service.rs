//! The service: the one place that changes images.

use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kekkai_distribution::{Credentials, LoginOutcome, ProgressSink, PullEvent, RegistryClient};
use kekkai_metadata::Database;
use kekkai_snapshot::Snapshotter;
use kekkai_types::{Digest, Platform, Reference};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::ImageError;
use crate::model::{
    HistoryLine, Image, ImageServiceConfig, ImageUser, ListFilter, LoadedImage, PruneReport,
    PullOutcome, RemoveOptions, RemovedItem,
};
use crate::pull::{Puller, blocking};
use crate::store::{LARGEST_CONFIG, Store};
use crate::{builtin, catalog, load};

/// All that is done with images. Clones share one state.
#[derive(Debug, Clone)]
pub struct ImageService {
    store: Arc<Store>,
    puller: Arc<Puller>,
}

impl ImageService {
    /// Opens the store beneath the data root and reads what the database knows; forgets what an interrupted pull left.
    /// Blocks. Must be called before any container is created, and before `Snapshotter::adopt`.
    ///
    /// # Errors
    /// A database or a data root that cannot be read, a registry configuration that means nothing.
    pub fn open(
        config: ImageServiceConfig,
        database: Arc<Database>,
        snapshotter: Arc<dyn Snapshotter>,
    ) -> Result<Self, ImageError> {
        let client = RegistryClient::new(config.registries.clone())?;
        let puller = Arc::new(Puller::new(client, config.max_concurrent_downloads));
        Ok(Self {
            store: Arc::new(Store::open(config, database, snapshotter)?),
            puller,
        })
    }

    /// Pulls `reference` (its tag defaults to `latest`) for `platform` (the host's by default). Equal pulls at the same
    /// time share the work. The events are those of Docker, except the error line, which is the returned error.
    ///
    /// # Errors
    /// In Docker's words, see [`ImageError`].
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        credentials: Option<Credentials>,
        progress: ProgressSink,
    ) -> Result<PullOutcome, ImageError> {
        let asked = platform;
        let platform = platform.cloned().unwrap_or_else(Platform::host);
        let outcome = self
            .puller
            .pull(
                &self.store,
                reference,
                &platform,
                credentials,
                Arc::clone(&progress),
            )
            .await;
        self.puller.client.close_idle();
        if let (Ok(outcome), Some(asked)) = (&outcome, asked)
            && outcome.image.platform.rank_for(asked).is_none()
        {
            // An image of one platform is taken as it is, with a word about it, as Docker does.
            progress(PullEvent::message(format!(
                "WARNING: image with reference {} was found but its platform ({}) does not match the specified platform ({asked})",
                reference.clone().with_default_tag().familiar(),
                outcome.image.platform
            )));
        }
        if outcome.is_err() {
            // What a failed pull fetched is nobody's.
            let store = Arc::clone(&self.store);
            blocking(move || store.collect()).await?;
        }
        outcome
    }

    /// Loads a docker-archive or an OCI layout from a tar stream, compressed or not.
    ///
    /// # Errors
    /// [`ImageError::Archive`] for what is no image archive, and what storing an image may say.
    pub async fn load<R>(
        &self,
        reader: R,
        progress: ProgressSink,
    ) -> Result<Vec<LoadedImage>, ImageError>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let store = Arc::clone(&self.store);
        let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(16);
        let loading = tokio::task::spawn_blocking(move || {
            load::load(
                &store,
                BufReader::with_capacity(
                    128 << 10,
                    Incoming {
                        receiver,
                        rest: Bytes::new(),
                    },
                ),
                &progress,
            )
        });
        let mut reader = reader;
        loop {
            let mut chunk = bytes::BytesMut::with_capacity(128 << 10);
            let message = match reader.read_buf(&mut chunk).await {
                Ok(0) => break,
                Ok(_) => Ok(chunk.freeze()),
                Err(error) => Err(error),
            };
            let failed = message.is_err();
            if sender.send(message).await.is_err() || failed {
                break;
            }
        }
        drop(sender);
        loading.await.map_err(|_| ImageError::Cancelled)?
    }

    /// Every image that passes the filter, newest first.
    #[must_use]
    pub fn list(&self, filter: &ListFilter) -> Vec<Arc<Image>> {
        self.store.catalog().list(filter)
    }

    /// How many images there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.store.catalog().images().count()
    }

    /// The image of a name (`alpine`, `alpine:3.20`, `alpine@sha256:…`), an id, or an unambiguous beginning of one.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`], [`ImageError::Reference`].
    pub fn resolve(&self, name: &str) -> Result<Arc<Image>, ImageError> {
        self.store.resolve(name)
    }

    /// The image of an exact id.
    #[must_use]
    pub fn by_id(&self, id: &Digest) -> Option<Arc<Image>> {
        self.store.catalog().get(id).cloned()
    }

    /// The raw bytes of an image's configuration.
    ///
    /// # Errors
    /// [`ImageError::Content`].
    pub fn config_bytes(&self, id: &Digest) -> Result<Bytes, ImageError> {
        Ok(self.store.content.read(id, LARGEST_CONFIG as u64)?.into())
    }

    /// Points `target` (its tag defaults to `latest`) at the image `source` names.
    ///
    /// # Errors
    /// Those of [`ImageService::resolve`]; [`ImageError::Invalid`] for a target with a digest.
    pub async fn tag(&self, source: &str, target: &Reference) -> Result<(), ImageError> {
        let (store, source, target) = (Arc::clone(&self.store), source.to_owned(), target.clone());
        blocking(move || store.tag(&source, &target)).await
    }

    /// Untags or deletes by Docker's rules. `users` tells which containers use an image.
    ///
    /// # Errors
    /// [`ImageError::InUse`] in Docker's words.
    pub async fn remove(
        &self,
        name: &str,
        options: RemoveOptions,
        users: &(dyn Fn(&Digest) -> Vec<ImageUser> + Sync),
    ) -> Result<Vec<RemovedItem>, ImageError> {
        let known = self.users(users);
        let (store, name) = (Arc::clone(&self.store), name.to_owned());
        blocking(move || store.remove(&name, options, &|id| of(&known, id))).await
    }

    /// How the image came to be, newest step first.
    ///
    /// # Errors
    /// Those of [`ImageService::resolve`].
    pub fn history(&self, name: &str) -> Result<Vec<HistoryLine>, ImageError> {
        Ok(catalog::history(&*self.store.resolve(name)?))
    }

    /// Removes images that no container uses: the dangling ones, or with `all` every one that passes `filter`.
    ///
    /// # Errors
    /// A database or a data root that fails.
    pub async fn prune(
        &self,
        all: bool,
        filter: &ListFilter,
        users: &(dyn Fn(&Digest) -> Vec<ImageUser> + Sync),
    ) -> Result<PruneReport, ImageError> {
        let known = self.users(users);
        let (store, filter) = (Arc::clone(&self.store), filter.clone());
        blocking(move || store.prune(all, &filter, &|id| of(&known, id))).await
    }

    /// Who uses which image now, as a value that may travel to another thread.
    fn users(
        &self,
        users: &(dyn Fn(&Digest) -> Vec<ImageUser> + Sync),
    ) -> Vec<(Digest, Vec<ImageUser>)> {
        let catalog = self.store.catalog();
        let mut ids: Vec<Digest> = catalog.images().map(|image| image.id.clone()).collect();
        ids.extend(catalog.hidden());
        drop(catalog);
        ids.into_iter().map(|id| (id.clone(), users(&id))).collect()
    }

    /// Asks the registry of `credentials.server_address` whether it takes them (`POST /auth`).
    ///
    /// # Errors
    /// [`ImageError::Distribution`].
    pub async fn check_login(&self, credentials: &Credentials) -> Result<LoginOutcome, ImageError> {
        Ok(self.puller.client.check_login(credentials).await?)
    }

    /// Makes the built-in image `kekkai/hello:latest` from the program at `program` (the static `kekkai-keeper`), unless
    /// it is there already with this very program. Its one file is `/kekkai-hello`, its command is the same.
    ///
    /// # Errors
    /// A program that cannot be read, and what storing an image may say.
    pub async fn register_builtin(&self, program: &Path) -> Result<Arc<Image>, ImageError> {
        let (store, program) = (Arc::clone(&self.store), program.to_owned());
        blocking(move || builtin::register(&store, &program)).await
    }
}

fn of(known: &[(Digest, Vec<ImageUser>)], id: &Digest) -> Vec<ImageUser> {
    known
        .iter()
        .find(|(known, _)| known == id)
        .map(|(_, users)| users.clone())
        .unwrap_or_default()
}

/// What a client sends, for a thread that may block.
struct Incoming {
    receiver: tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>,
    rest: Bytes,
}

impl std::io::Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        use bytes::Buf;
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.rest = chunk?,
                None => return Ok(0),
            }
        }
        let length = self.rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest[..length]);
        self.rest.advance(length);
        Ok(length)
    }
}
