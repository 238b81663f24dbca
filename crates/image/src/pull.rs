//! Pulling: from a reference to a stored image.
//!
//! ```text
//!   manifest ─▶ configuration ─▶ for each missing layer, at once:
//!      registry ──chunks──▶ keep: blob hash, file ──chunks──▶ unpack: inflate, diffID hash, directory
//!   ─▶ one commit
//! ```
//!
//! What must stay true: digests of blobs and layers are verified before anything is visible; layers are taken in one
//! order by every pull, so that two pulls that share some wait for each other and never in a circle; dropping the
//! future ends the work and leaves nothing.

use std::collections::HashMap;
use std::io::{BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use kekkai_archive::Decoder;
use kekkai_distribution::{
    Credentials, FetchedManifest, Manifest, ProgressSink, PullEvent, RegistryClient, Repository,
    parse_manifest, select,
};
use kekkai_oci::image_documents::{Descriptor, ImageManifest, media};
use kekkai_snapshot::StagedLayer;
use kekkai_types::{DiffId, Digest, Platform, Reference};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore};
use tokio::task::JoinSet;

use crate::error::ImageError;
use crate::failpoint;
use crate::model::{Image, PullOutcome};
use crate::store::{LARGEST_CONFIG, MOST_LAYERS, NewImage, Store, parse_config};

/// Chunks between two stages of one layer. A chunk has at most a few dozen kilobytes.
const QUEUE: usize = 16;
/// A progress line at most every so many bytes of a layer.
const PROGRESS_STEP: u64 = 512 << 10;

/// Locks by name that vanish with their last user.
#[derive(Debug)]
struct Locks<K>(Mutex<HashMap<K, Arc<AsyncMutex<()>>>>);

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: std::hash::Hash + Eq + Clone> Locks<K> {
    async fn lock(&self, key: &K) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(key.clone()).or_default())
        };
        lock.lock_owned().await
    }
}

/// Where one pull takes from, puts to, and tells about.
#[derive(Clone)]
struct Job {
    store: Arc<Store>,
    repository: Repository,
    progress: ProgressSink,
}

/// What pulls share.
#[derive(Debug)]
pub(crate) struct Puller {
    pub(crate) client: RegistryClient,
    downloads: Arc<Semaphore>,
    references: Locks<(Reference, Platform)>,
    layers: Locks<DiffId>,
}

impl Puller {
    pub(crate) fn new(client: RegistryClient, max_concurrent_downloads: usize) -> Self {
        let downloads = Arc::new(Semaphore::new(max_concurrent_downloads.clamp(1, 64)));
        Self {
            client,
            downloads,
            references: Locks::default(),
            layers: Locks::default(),
        }
    }

    /// Pulls `reference` for `platform`.
    pub(crate) async fn pull(
        &self,
        store: &Arc<Store>,
        reference: &Reference,
        platform: &Platform,
        credentials: Option<Credentials>,
        progress: ProgressSink,
    ) -> Result<PullOutcome, ImageError> {
        let reference = reference.clone().with_default_tag();
        // The second of two equal pulls finds everything done.
        let _alone = self
            .references
            .lock(&(reference.clone(), platform.clone()))
            .await;
        let repository = self.client.repository(&reference, credentials)?;
        let named = repository.manifest(&reference).await?;
        let shown = match (reference.digest(), reference.tag()) {
            (None, Some(tag)) => tag.to_owned(),
            _ => named.digest.to_string(),
        };
        progress(PullEvent::layer(
            shown,
            format!("Pulling from {}", short_path(&reference)),
        ));
        let names = names(&reference, &named.digest);

        let current = up_to_date(store, &names, platform);
        let up_to_date = current.is_some();
        let image = match current {
            Some(image) => image,
            None => {
                let job = Job {
                    store: Arc::clone(store),
                    repository,
                    progress: Arc::clone(&progress),
                };
                self.fetch(&job, &reference, &named, names, platform)
                    .await?
            }
        };
        progress(PullEvent::message(format!("Digest: {}", named.digest)));
        let status = if up_to_date {
            "Image is up to date for"
        } else {
            "Downloaded newer image for"
        };
        progress(PullEvent::message(format!(
            "Status: {status} {}",
            reference.familiar()
        )));
        Ok(PullOutcome {
            image,
            digest: named.digest,
            up_to_date,
        })
    }

    async fn fetch(
        &self,
        job: &Job,
        reference: &Reference,
        named: &FetchedManifest,
        names: Vec<Reference>,
        platform: &Platform,
    ) -> Result<Arc<Image>, ImageError> {
        let (store, repository) = (&job.store, &job.repository);
        let lease = Arc::new(store.content.lease());
        let familiar = reference.familiar();
        let (chosen, manifest) = match parse_manifest(&familiar, &named.media_type, &named.bytes)? {
            Manifest::Image(manifest) => (named.clone(), manifest),
            Manifest::Index(index) => {
                lease.add(&named.digest);
                let descriptor = select(&index, platform)?;
                let chosen = repository
                    .manifest(&reference.with_digest(descriptor.digest.clone()))
                    .await?;
                match parse_manifest(&familiar, &chosen.media_type, &chosen.bytes)? {
                    Manifest::Image(manifest) => (chosen, manifest),
                    Manifest::Index(_) => {
                        return Err(ImageError::Invalid(format!(
                            "{familiar}: an index within an index"
                        )));
                    }
                }
            }
        };
        lease.add(&chosen.digest);
        check_layers(&familiar, &manifest)?;
        let config = repository
            .small_blob(&manifest.config, "image config", LARGEST_CONFIG as u64)
            .await?;
        let parsed = parse_config(&manifest.config.digest, &config)?;
        let layers = parsed.rootfs.diff_ids;
        failpoint::check(failpoint::PULL_RESOLVED)?;
        if layers.len() != manifest.layers.len() {
            return Err(ImageError::Config {
                digest: manifest.config.digest,
                detail: format!(
                    "it has {} layers, the manifest {}",
                    layers.len(),
                    manifest.layers.len()
                ),
            });
        }

        let mut order = layers.clone();
        order.sort();
        order.dedup();
        let mut held = Vec::with_capacity(order.len());
        for layer in &order {
            held.push(self.layers.lock(layer).await);
        }
        let pin = {
            let (store, layers) = (Arc::clone(store), layers.clone());
            blocking(move || Ok(store.pin(&layers))).await?
        };
        let staged = self.layers(job, &layers, &manifest.layers, &lease).await?;

        let store = Arc::clone(store);
        let documents = [named.bytes.clone(), chosen.bytes.clone()];
        let layer_blobs = manifest
            .layers
            .iter()
            .map(|descriptor| descriptor.digest.clone())
            .collect();
        let new = NewImage {
            config: config.to_vec(),
            manifest: Some(chosen.digest),
            layer_blobs,
            names,
        };
        blocking(move || {
            for document in &documents {
                store.content.put(document)?;
            }
            let image = store.commit(new, staged);
            // Held until here, whatever becomes of the future that waits for this.
            drop((lease, pin, held));
            if image.is_err() {
                // Its layers may be published already.
                store.collect()?;
            }
            image
        })
        .await
    }

    /// Stages every layer that is not published.
    async fn layers(
        &self,
        job: &Job,
        layers: &[DiffId],
        descriptors: &[Descriptor],
        lease: &Arc<kekkai_content::Lease>,
    ) -> Result<Vec<StagedLayer>, ImageError> {
        let mut begun: Vec<(&DiffId, &Descriptor)> = Vec::new();
        for (layer, descriptor) in layers.iter().zip(descriptors) {
            let id = descriptor.digest.short().to_owned();
            lease.add(&descriptor.digest);
            if job.store.has_layer(layer) || begun.iter().any(|(known, _)| *known == layer) {
                (job.progress)(PullEvent::layer(id, "Already exists"));
                continue;
            }
            begun.push((layer, descriptor));
            (job.progress)(PullEvent::layer(id, "Pulling fs layer"));
        }
        let mut tasks = JoinSet::new();
        for &(layer, descriptor) in &begun {
            let job = job.clone();
            let (downloads, layer, descriptor) = (
                Arc::clone(&self.downloads),
                layer.clone(),
                descriptor.clone(),
            );
            tasks.spawn(async move {
                // The semaphore is never closed.
                let _permit = downloads
                    .acquire()
                    .await
                    .map_err(|_| ImageError::Cancelled)?;
                one_layer(job, layer, descriptor).await
            });
        }
        let mut staged = Vec::with_capacity(begun.len());
        while let Some(done) = tasks.join_next().await {
            staged.push(done.map_err(|_| ImageError::Cancelled)??);
        }
        Ok(staged)
    }
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ImageError::Cancelled)?
}

/// `library/alpine` for Docker Hub, without its domain elsewhere too, as Docker shows it.
fn short_path(reference: &Reference) -> &str {
    reference.path()
}

/// The names that a pull of `reference` gives.
fn names(reference: &Reference, digest: &Digest) -> Vec<Reference> {
    let mut names = vec![reference.with_digest(digest.clone())];
    if let (None, Some(tag)) = (reference.digest(), reference.tag()) {
        names.extend(reference.with_tag(tag));
    }
    names
}

/// The image that all `names` point to already, if it is of this platform.
fn up_to_date(store: &Store, names: &[Reference], platform: &Platform) -> Option<Arc<Image>> {
    let catalog = store.catalog();
    let mut targets = names.iter().map(|name| catalog.named(name));
    let first = targets.next()??;
    if !targets.all(|other| other == Some(first)) {
        return None;
    }
    let image = catalog.get(first)?;
    let whole = image.layers.iter().all(|layer| store.has_layer(layer));
    (image.platform.rank_for(platform).is_some() && whole).then(|| Arc::clone(image))
}

fn check_layers(familiar: &str, manifest: &ImageManifest) -> Result<(), ImageError> {
    if !media::is_config(&manifest.config.media_type) {
        return Err(ImageError::Invalid(format!(
            "{familiar}: encountered unknown type {}; it is no image that can be run",
            manifest.config.media_type
        )));
    }
    if manifest.layers.len() > MOST_LAYERS {
        return Err(ImageError::Invalid(format!(
            "{familiar}: it has more than {MOST_LAYERS} layers"
        )));
    }
    match manifest
        .layers
        .iter()
        .find(|layer| !media::is_layer(&layer.media_type))
    {
        Some(layer) => Err(ImageError::Invalid(format!(
            "{familiar}: unsupported layer type {:?}",
            layer.media_type
        ))),
        None => Ok(()),
    }
}

async fn one_layer(
    job: Job,
    layer: DiffId,
    descriptor: Descriptor,
) -> Result<StagedLayer, ImageError> {
    let Job {
        store,
        repository,
        progress,
    } = job;
    let id = descriptor.digest.short().to_owned();
    if store.content.size(&descriptor.digest) == Some(descriptor.size) {
        let digest = descriptor.digest.clone();
        let from_store = Arc::clone(&store);
        progress(PullEvent::layer(id.clone(), "Extracting").at(0, Some(descriptor.size)));
        let wanted = layer.clone();
        let staged =
            blocking(move || unpack(&from_store, &wanted, from_store.content.reader(&digest)?))
                .await;
        match staged {
            Ok(staged) => {
                progress(PullEvent::layer(id, "Pull complete"));
                return Ok(staged);
            }
            // The blob we kept is damaged; a fresh one replaces it.
            Err(_) => {
                store.content.remove_damaged(&descriptor.digest)?;
            }
        }
    }

    let mut stream = repository.blob(&descriptor).await?;
    let (to_keep, kept) = channel::<Bytes>(QUEUE);
    let (to_unpack, unpacked) = channel::<Bytes>(QUEUE);
    let keeping = {
        let (store, digest) = (Arc::clone(&store), descriptor.digest.clone());
        tokio::task::spawn_blocking(move || keep(&store, &digest, kept, &to_unpack))
    };
    let unpacking = {
        let (store, layer) = (Arc::clone(&store), layer.clone());
        tokio::task::spawn_blocking(move || {
            unpack(
                &store,
                &layer,
                Chunks {
                    channel: unpacked,
                    rest: Bytes::new(),
                },
            )
        })
    };

    let mut got = 0;
    let mut told = 0;
    let downloaded = async {
        while let Some(chunk) = stream.next().await? {
            got += chunk.len() as u64;
            if to_keep.send(chunk).await.is_err() {
                // The stage behind ended with an error that says more.
                return Ok(());
            }
            if told == 0 || got - told >= PROGRESS_STEP {
                told = got;
                progress(
                    PullEvent::layer(id.clone(), "Downloading").at(got, Some(descriptor.size)),
                );
            }
        }
        Ok::<(), ImageError>(())
    }
    .await;
    drop(to_keep);
    if downloaded.is_ok() {
        progress(PullEvent::layer(id.clone(), "Verifying Checksum"));
        progress(PullEvent::layer(id.clone(), "Download complete"));
        progress(
            PullEvent::layer(id.clone(), "Extracting").at(descriptor.size, Some(descriptor.size)),
        );
    }
    let kept = keeping.await.map_err(|_| ImageError::Cancelled)?;
    let staged = unpacking.await.map_err(|_| ImageError::Cancelled)?;
    // What broke first explains the rest.
    downloaded?;
    kept?;
    let staged = staged?;
    failpoint::check(failpoint::PULL_STAGED)?;
    progress(PullEvent::layer(id, "Pull complete"));
    Ok(staged)
}

/// Writes and hashes a blob as it comes and passes it on. The unpacking stage may stop listening: its error is reported
/// by itself, and the blob is whole all the same.
fn keep(
    store: &Store,
    digest: &Digest,
    mut from: Receiver<Bytes>,
    to: &Sender<Bytes>,
) -> Result<(), ImageError> {
    let mut writer = store.content.writer()?;
    let mut listening = true;
    while let Some(chunk) = from.blocking_recv() {
        writer.write(&chunk)?;
        failpoint::check(failpoint::PULL_BLOB)?;
        if listening {
            listening = to.blocking_send(chunk).is_ok();
        }
    }
    let actual = writer.digest();
    if actual != *digest {
        return Err(ImageError::WrongDigest {
            context: "filesystem layer",
            expected: digest.clone(),
            actual,
        });
    }
    writer.commit(digest)?;
    failpoint::check(failpoint::PULL_KEPT)
}

fn unpack(
    store: &Store,
    layer: &DiffId,
    input: impl Read + Send,
) -> Result<StagedLayer, ImageError> {
    let mut decoder = Decoder::new(BufReader::with_capacity(128 << 10, input))?;
    Ok(store.snapshotter.stage(layer, &mut decoder)?)
}

/// The bytes of a channel.
struct Chunks {
    channel: Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.channel.blocking_recv() {
                Some(chunk) => self.rest = chunk,
                None => return Ok(0),
            }
        }
        let length = self.rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest[..length]);
        self.rest.advance(length);
        Ok(length)
    }
}
