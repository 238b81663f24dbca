//! Rows, blobs and layers of images kept in step.
//!
//! ```text
//!   blobs and staged layers ──publish (one sync)──▶ rows, one transaction ──▶ catalog
//! ```
//!
//! What must stay true: a row is written after everything it needs is durable, and deleted before any of it goes;
//! changes happen one at a time; every method blocks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kekkai_content::{ContentError, ContentStore, Sha256};
use kekkai_metadata::{Change, Database, Durability, Table};
use kekkai_oci::image_documents::ImageConfig;
use kekkai_snapshot::{Snapshotter, StagedLayer};
use kekkai_types::{ChainId, DiffId, Digest, Reference, Timestamp};

use crate::catalog::{Catalog, ImageRecord};
use crate::error::ImageError;
use crate::failpoint;
use crate::model::{
    Image, ImageServiceConfig, ImageUser, ListFilter, PruneReport, RemoveOptions, RemovedItem,
};
use crate::remove;

/// The largest configuration we take, bytes.
pub(crate) const LARGEST_CONFIG: usize = 8 << 20;
/// The most layers of an image; overlayfs takes 500.
pub(crate) const MOST_LAYERS: usize = 500;

/// An image about to be stored.
#[derive(Debug)]
pub(crate) struct NewImage {
    /// Its configuration, as it came.
    pub(crate) config: Vec<u8>,
    /// Its manifest's blob, if it has one.
    pub(crate) manifest: Option<Digest>,
    /// The blobs that its layers came in, where they are kept.
    pub(crate) layer_blobs: Vec<Digest>,
    /// Names to put on it.
    pub(crate) names: Vec<Reference>,
}

/// The images of one data root.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) config: ImageServiceConfig,
    pub(crate) content: ContentStore,
    pub(crate) snapshotter: Arc<dyn Snapshotter>,
    database: Arc<Database>,
    catalog: RwLock<Catalog>,
    changing: Mutex<()>,
    /// Layers of pulls that run: found or published, and not in any row yet.
    pins: Mutex<HashMap<u64, Vec<DiffId>>>,
    next_pin: AtomicU64,
}

/// Keeps layers from being collected while it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    store: Arc<Store>,
    number: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.store.pins().remove(&self.number);
    }
}

impl Store {
    /// Reads what the database knows and forgets layers and blobs that no image needs.
    pub(crate) fn open(
        config: ImageServiceConfig,
        database: Arc<Database>,
        snapshotter: Arc<dyn Snapshotter>,
    ) -> Result<Self, ImageError> {
        let content = ContentStore::open(&config.data_root.join("content"))?;
        let mut catalog = Catalog::default();
        for row in database.load(Table::Images)? {
            let record: ImageRecord = row.parse(Table::Images)?;
            let id = parse_digest(&row.key)?;
            match content.read(&id, LARGEST_CONFIG as u64) {
                Ok(bytes) => catalog.put(&id, record, Arc::new(parse_config(&id, &bytes)?)),
                // An image without its configuration is none; a new pull makes it whole.
                Err(ContentError::NotFound(_) | ContentError::WrongDigest { .. }) => {
                    tracing::warn!(image = %id, "the configuration is damaged or gone; the image is forgotten");
                    database.apply(
                        vec![Change::delete(Table::Images, row.key)],
                        Durability::PowerCut,
                    )?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        for row in database.load(Table::ImageNames)? {
            let id = parse_digest(&row.target)?;
            match row.key.parse::<Reference>() {
                Ok(name) if catalog.get(&id).is_some() => catalog.name(name, &id),
                _ => database.apply(
                    vec![Change::delete(Table::ImageNames, row.key)],
                    Durability::PowerCut,
                )?,
            }
        }
        let store = Self {
            config,
            content,
            snapshotter,
            database,
            catalog: RwLock::new(catalog),
            changing: Mutex::new(()),
            pins: Mutex::default(),
            next_pin: AtomicU64::new(0),
        };
        store.collect()?;
        Ok(store)
    }

    pub(crate) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pins(&self) -> MutexGuard<'_, HashMap<u64, Vec<DiffId>>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `layers` from being collected. Waits for a collection that runs, so that what is there now stays there.
    pub(crate) fn pin(self: &Arc<Self>, layers: &[DiffId]) -> Pin {
        let _changing = self.changing();
        let number = self.next_pin.fetch_add(1, Ordering::Relaxed);
        self.pins().insert(number, layers.to_vec());
        Pin {
            store: Arc::clone(self),
            number,
        }
    }

    /// The image of a name, an id, or the beginning of one.
    pub(crate) fn resolve(&self, text: &str) -> Result<Arc<Image>, ImageError> {
        let catalog = self.catalog();
        let (id, _) = catalog.resolve(text)?;
        catalog
            .get(id)
            .cloned()
            .ok_or_else(|| ImageError::NotFound(text.to_owned()))
    }

    /// Makes an image visible: publishes `staged`, assembles its chain, writes its rows. Layers that are not in `staged`
    /// must be published already.
    pub(crate) fn commit(
        &self,
        new: NewImage,
        staged: Vec<StagedLayer>,
    ) -> Result<Arc<Image>, ImageError> {
        let id = Sha256::of(&new.config);
        let config = Arc::new(parse_config(&id, &new.config)?);
        let layers = &config.rootfs.diff_ids;
        // A collection between storing and the rows would take blobs and layers away again.
        let _changing = self.changing();
        self.content.put(&new.config)?;
        self.snapshotter.publish(staged)?;
        failpoint::check(failpoint::COMMIT_PUBLISHED)?;
        self.snapshotter.assemble(layers)?;
        failpoint::check(failpoint::COMMIT_ASSEMBLED)?;
        let layer_sizes = layers
            .iter()
            .map(|layer| self.snapshotter.layer(layer).map(|info| info.size))
            .collect::<Option<Vec<u64>>>()
            .ok_or_else(|| ImageError::Config {
                digest: id.clone(),
                detail: "a layer is missing".to_owned(),
            })?;
        let before = self.catalog().record(&id).cloned();
        let record = ImageRecord {
            manifest: new
                .manifest
                .or_else(|| before.as_ref().and_then(|record| record.manifest.clone())),
            layer_blobs: if new.layer_blobs.is_empty() {
                before
                    .as_ref()
                    .map(|record| record.layer_blobs.clone())
                    .unwrap_or_default()
            } else {
                new.layer_blobs
            },
            layer_sizes,
            last_tagged: match before {
                Some(record) if new.names.is_empty() => record.last_tagged,
                _ => Timestamp::now(),
            },
            hidden: false,
        };
        let mut changes = vec![Change::put_json(Table::Images, id.to_string(), &record)?];
        changes.extend(new.names.iter().map(|name| put_name(name, &id)));
        self.database.apply(changes, Durability::PowerCut)?;
        failpoint::check(failpoint::COMMIT_ROWS)?;
        let mut catalog = self.catalog_mut();
        catalog.put(&id, record, config);
        for name in new.names {
            catalog.name(name, &id);
        }
        catalog.get(&id).cloned().ok_or(ImageError::Cancelled)
    }

    /// Points `target` at the image that `source` names.
    pub(crate) fn tag(&self, source: &str, target: &Reference) -> Result<(), ImageError> {
        if target.digest().is_some() {
            return Err(ImageError::Invalid(
                "refusing to create a tag with a digest reference".to_owned(),
            ));
        }
        let target = target.clone().with_default_tag();
        let _changing = self.changing();
        let id = self.resolve(source)?.id.clone();
        self.database
            .apply(vec![put_name(&target, &id)], Durability::PowerCut)?;
        self.catalog_mut().name(target, &id);
        Ok(())
    }

    /// Untags or deletes by Docker's rules.
    pub(crate) fn remove(
        &self,
        text: &str,
        options: RemoveOptions,
        users: &dyn Fn(&Digest) -> Vec<ImageUser>,
    ) -> Result<Vec<RemovedItem>, ImageError> {
        let _changing = self.changing();
        let plan = remove::plan(&self.catalog(), text, options, users)?;
        let used = plan.delete.as_ref().is_some_and(|id| !users(id).is_empty());
        let items = self.carry_out(&plan, used)?;
        failpoint::check(failpoint::REMOVE_ROWS)?;
        self.forget_hidden(users)?;
        if plan.delete.is_some() {
            self.collect_locked()?;
        }
        failpoint::check(failpoint::REMOVE_DONE)?;
        Ok(items)
    }

    /// Forgets hidden images that no container uses any more.
    fn forget_hidden(&self, users: &dyn Fn(&Digest) -> Vec<ImageUser>) -> Result<(), ImageError> {
        let hidden = self.catalog().hidden();
        for id in hidden {
            if users(&id).is_empty() {
                self.database.apply(
                    vec![Change::delete(Table::Images, id.to_string())],
                    Durability::PowerCut,
                )?;
                self.catalog_mut().remove_hidden(&id);
            }
        }
        Ok(())
    }

    /// Takes a nameless image out of sight; it goes for good when it is known that no container uses it.
    pub(crate) fn hide(&self, id: &Digest) -> Result<(), ImageError> {
        let _changing = self.changing();
        if self
            .catalog()
            .get(id)
            .is_none_or(|image| !image.is_dangling())
        {
            return Ok(());
        }
        let plan = remove::RemovalPlan {
            untag: Vec::new(),
            delete: Some(id.clone()),
        };
        self.carry_out(&plan, true)?;
        Ok(())
    }

    /// Carries a plan out. An image that is still `used` becomes a hidden one.
    fn carry_out(
        &self,
        plan: &remove::RemovalPlan,
        used: bool,
    ) -> Result<Vec<RemovedItem>, ImageError> {
        let mut changes: Vec<Change> = plan
            .untag
            .iter()
            .map(|name| Change::delete(Table::ImageNames, name.to_string()))
            .collect();
        let mut items: Vec<RemovedItem> = plan
            .untag
            .iter()
            .map(|name| RemovedItem::Untagged(name.familiar()))
            .collect();
        let mut layers = Vec::new();
        let mut hidden = None;
        if let Some(id) = &plan.delete {
            let catalog = self.catalog();
            if used && let (Some(record), Some(image)) = (catalog.record(id), catalog.get(id)) {
                let record = ImageRecord {
                    hidden: true,
                    ..record.clone()
                };
                changes.push(Change::put_json(Table::Images, id.to_string(), &record)?);
                hidden = Some((record, Arc::clone(&image.config)));
            } else {
                changes.push(Change::delete(Table::Images, id.to_string()));
            }
            drop(catalog);
            items.push(RemovedItem::Deleted(id.to_string()));
            layers = self
                .catalog()
                .get(id)
                .map(|image| image.layers.clone())
                .unwrap_or_default();
        }
        self.database.apply(changes, Durability::PowerCut)?;
        let mut catalog = self.catalog_mut();
        for name in &plan.untag {
            catalog.unname(name);
        }
        if let Some(id) = &plan.delete {
            catalog.remove(id);
            if let Some((record, config)) = hidden {
                catalog.put(id, record, config);
            }
            let kept = catalog.chains();
            let unused = (1..=layers.len())
                .rev()
                .map(|depth| &layers[..depth])
                .filter(|chain| !kept.iter().any(|kept| kept.starts_with(chain)));
            let chains = unused.filter_map(|chain| ChainId::of(chain, Sha256::raw));
            items.extend(chains.map(|chain| RemovedItem::Deleted(chain.to_string())));
        }
        Ok(items)
    }

    /// Removes images that no container uses and `filter` lets pass; without `all` only those without a tag.
    pub(crate) fn prune(
        &self,
        all: bool,
        filter: &ListFilter,
        users: &dyn Fn(&Digest) -> Vec<ImageUser>,
    ) -> Result<PruneReport, ImageError> {
        let _changing = self.changing();
        let mut report = PruneReport::default();
        let images = self.catalog().list(filter);
        for image in images {
            if !(all || image.is_dangling()) || !users(&image.id).is_empty() {
                continue;
            }
            let plan = remove::RemovalPlan {
                untag: self.catalog().names_of(&image.id),
                delete: Some(image.id.clone()),
            };
            report.removed.extend(self.carry_out(&plan, false)?);
        }
        self.forget_hidden(users)?;
        report.space_reclaimed = self.collect_locked()?;
        Ok(report)
    }

    /// Forgets layers and blobs that no image needs; returns bytes.
    pub(crate) fn collect(&self) -> Result<u64, ImageError> {
        let _changing = self.changing();
        self.collect_locked()
    }

    fn collect_locked(&self) -> Result<u64, ImageError> {
        let (chains, blobs) = {
            let catalog = self.catalog();
            let mut chains = catalog.chains();
            chains.extend(self.pins().values().cloned());
            (chains, catalog.blobs())
        };
        let freed = self.snapshotter.retain_layers(&chains)?;
        self.content
            .collect(&|digest| blobs.contains(digest), &|path| {
                self.snapshotter
                    .discard(path)
                    .map_err(std::io::Error::other)
            })?;
        Ok(freed)
    }

    /// Whether the layer is published.
    pub(crate) fn has_layer(&self, layer: &DiffId) -> bool {
        self.snapshotter.layer(layer).is_some()
    }
}

fn put_name(name: &Reference, id: &Digest) -> Change {
    Change::put_image_name(name.to_string(), id.to_string(), "{}")
}

fn parse_digest(text: &str) -> Result<Digest, ImageError> {
    text.parse()
        .map_err(|error| ImageError::Invalid(format!("image {text:?} in the database: {error}")))
}

/// Parses a configuration and checks what everything else relies on.
pub(crate) fn parse_config(id: &Digest, bytes: &[u8]) -> Result<ImageConfig, ImageError> {
    let wrong = |detail: String| ImageError::Config {
        digest: id.clone(),
        detail,
    };
    if bytes.len() > LARGEST_CONFIG {
        return Err(wrong(format!("it has more than {LARGEST_CONFIG} bytes")));
    }
    let config: ImageConfig =
        serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    if config.rootfs.kind != "layers" {
        return Err(wrong(format!(
            "unsupported rootfs type {:?}",
            config.rootfs.kind
        )));
    }
    if config.rootfs.diff_ids.len() > MOST_LAYERS {
        return Err(wrong(format!("it has more than {MOST_LAYERS} layers")));
    }
    Ok(config)
}
