//! `docker load`: docker-archives (`manifest.json`) and OCI layouts (`index.json`), compressed or not, from a stream.
//!
//! Every file of the archive is first spooled beneath the data root, because the documents that explain it may come
//! last; then the images are stored one after the other.
//!
//! What must stay true: nothing is used by a path of the archive, only by a map from its names to spooled files; a
//! digest in a name or a document is verified against the bytes; a failed load leaves nothing but images that were
//! whole before it failed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::PathBuf;

use kekkai_archive::{Decoder, EntryKind, Limits, TarReader};
use kekkai_content::{BlobWriter, Sha256};
use kekkai_distribution::{ProgressSink, PullEvent};
use kekkai_oci::image_documents::{Descriptor, ImageIndex, ImageManifest, media};
use kekkai_snapshot::StagedLayer;
use kekkai_types::{DiffId, Digest, Platform, Reference};
use serde::Deserialize;

use crate::error::ImageError;
use crate::model::LoadedImage;
use crate::store::{LARGEST_CONFIG, NewImage, Store, parse_config};

/// The largest JSON document of an archive.
const LARGEST_DOCUMENT: u64 = LARGEST_CONFIG as u64;
/// How many links or nested indexes are followed.
const DEEPEST: usize = 8;

/// One image of a docker-archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ArchiveItem {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// The files of an archive by name. Dropping it removes them.
struct Spool {
    directory: PathBuf,
    files: HashMap<String, PathBuf>,
    links: HashMap<String, String>,
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Left-overs are removed at the next start.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Loads every image of the archive.
pub(crate) fn load(
    store: &Store,
    input: impl BufRead,
    progress: &ProgressSink,
) -> Result<Vec<LoadedImage>, ImageError> {
    let spool = Spool::fill(store, input)?;
    crate::failpoint::check(crate::failpoint::LOAD_SPOOLED)?;
    let loaded = if spool.has("manifest.json") {
        load_archive(store, &spool, progress)
    } else if spool.has("index.json") {
        load_layout(store, &spool, progress)
    } else {
        Err(ImageError::Archive(
            "the archive is no image: it has neither manifest.json (docker-archive) nor index.json (OCI layout)".to_owned(),
        ))
    };
    // Blobs of images that failed, and of those that were there before, are nobody's.
    store.collect()?;
    loaded
}

fn io_error(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> ImageError {
    let operation = operation.into();
    move |source| ImageError::Io { operation, source }
}

impl Spool {
    fn fill(store: &Store, input: impl BufRead) -> Result<Self, ImageError> {
        let root = store.config.data_root.join("content/ingest");
        let name = format!("load-{}", kekkai_types::ExecId::random().short());
        let directory = root.join(name);
        std::fs::create_dir_all(&directory)
            .map_err(io_error(format!("create {}", directory.display())))?;
        let mut spool = Self {
            directory,
            files: HashMap::new(),
            links: HashMap::new(),
        };
        let mut tar = TarReader::new(
            BufReader::with_capacity(256 << 10, Decoder::new(input)?),
            Limits::default(),
        );
        while let Some(entry) = tar.next_entry()? {
            let name = normal(&entry.path);
            match entry.kind {
                EntryKind::File => {
                    let path = spool.directory.join(spool.files.len().to_string());
                    let mut file = File::create_new(&path)
                        .map_err(io_error(format!("create {}", path.display())))?;
                    loop {
                        let data = tar.data()?;
                        if data.is_empty() {
                            break;
                        }
                        file.write_all(data)
                            .map_err(io_error(format!("write {}", path.display())))?;
                        let length = data.len();
                        tar.consume(length)?;
                    }
                    spool.files.insert(name, path);
                }
                EntryKind::Symlink => {
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    let target = normal(
                        format!("{directory}/{}", String::from_utf8_lossy(&entry.link)).as_bytes(),
                    );
                    spool.links.insert(name, target);
                }
                EntryKind::HardLink => {
                    spool.links.insert(name, normal(&entry.link));
                }
                _ => {}
            }
        }
        Ok(spool)
    }

    fn find(&self, name: &str) -> Option<&PathBuf> {
        let mut name = normal(name.as_bytes());
        for _ in 0..DEEPEST {
            if let Some(path) = self.files.get(&name) {
                return Some(path);
            }
            name.clone_from(self.links.get(&name)?);
        }
        None
    }

    fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn open(&self, name: &str) -> Result<File, ImageError> {
        let path = self
            .find(name)
            .ok_or_else(|| ImageError::Archive(format!("the archive has no file {name:?}")))?;
        File::open(path).map_err(io_error(format!("open {}", path.display())))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        self.open(name)?
            .take(LARGEST_DOCUMENT + 1)
            .read_to_end(&mut bytes)
            .map_err(io_error(format!("read {name}")))?;
        if bytes.len() as u64 > LARGEST_DOCUMENT {
            return Err(ImageError::Archive(format!(
                "{name:?} is larger than {LARGEST_DOCUMENT} bytes"
            )));
        }
        Ok(bytes)
    }

    fn blob(&self, digest: &Digest) -> String {
        format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
    }

    /// A document of an OCI layout, verified.
    fn verified(&self, digest: &Digest, context: &'static str) -> Result<Vec<u8>, ImageError> {
        let bytes = self.document(&self.blob(digest))?;
        let actual = Sha256::of(&bytes);
        if actual == *digest {
            Ok(bytes)
        } else {
            Err(ImageError::WrongDigest {
                context,
                expected: digest.clone(),
                actual,
            })
        }
    }
}

/// A name without `.`, `..` and doubled slashes, relative to the archive's root.
fn normal(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn document<'a, T: Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::Archive(format!("{name}: {error}")))
}

fn load_archive(
    store: &Store,
    spool: &Spool,
    progress: &ProgressSink,
) -> Result<Vec<LoadedImage>, ImageError> {
    let bytes = spool.document("manifest.json")?;
    let items: Vec<ArchiveItem> = document("manifest.json", &bytes)?;
    let mut loaded = Vec::new();
    for item in items {
        let config = spool.document(&item.config)?;
        let id = Sha256::of(&config);
        let layers = parse_config(&id, &config)?.rootfs.diff_ids;
        if layers.len() != item.layers.len() {
            return Err(ImageError::Archive(format!(
                "invalid manifest, layers length mismatch: expected {}, got {}",
                layers.len(),
                item.layers.len()
            )));
        }
        let mut staged = Vec::new();
        for (layer, file) in layers.iter().zip(&item.layers) {
            stage(store, layer, spool.open(file)?, &mut staged, progress)?;
        }
        let names = item.repo_tags.unwrap_or_default();
        let names = names
            .iter()
            .map(|name| name.parse())
            .collect::<Result<Vec<Reference>, _>>()?;
        loaded.push(finish(
            store,
            NewImage {
                config,
                manifest: None,
                layer_blobs: Vec::new(),
                names,
            },
            staged,
        )?);
    }
    Ok(loaded)
}

fn load_layout(
    store: &Store,
    spool: &Spool,
    progress: &ProgressSink,
) -> Result<Vec<LoadedImage>, ImageError> {
    let bytes = spool.document("index.json")?;
    let index: ImageIndex = document("index.json", &bytes)?;
    let mut loaded = Vec::new();
    for descriptor in &index.manifests {
        let named = [
            "io.containerd.image.name",
            "org.opencontainers.image.ref.name",
        ];
        let name = named
            .iter()
            .find_map(|key| descriptor.annotations.get(*key));
        // A bare `1.0` is a tag of an image that the layout does not name.
        let names: Vec<Reference> = name
            .and_then(|name| name.parse::<Reference>().ok())
            .into_iter()
            .collect();
        let Some(manifest) = choose(spool, descriptor, 0)? else {
            continue;
        };
        loaded.push(load_manifest(store, spool, &manifest, names, progress)?);
    }
    if loaded.is_empty() {
        return Err(ImageError::Archive(format!(
            "the layout has no image for {}",
            Platform::host()
        )));
    }
    Ok(loaded)
}

/// The manifest for this host behind a descriptor of a manifest or an index.
fn choose(
    spool: &Spool,
    descriptor: &Descriptor,
    depth: usize,
) -> Result<Option<Digest>, ImageError> {
    if !media::is_index(&descriptor.media_type) {
        return Ok(media::is_manifest(&descriptor.media_type).then(|| descriptor.digest.clone()));
    }
    if depth >= DEEPEST {
        return Err(ImageError::Archive(
            "its indexes are nested too deep".to_owned(),
        ));
    }
    let bytes = spool.verified(&descriptor.digest, "index")?;
    let index: ImageIndex = document("index", &bytes)?;
    let host = Platform::host();
    let best = index
        .manifests
        .iter()
        // An archive may hold one platform of a larger index.
        .filter(|entry| spool.has(&spool.blob(&entry.digest)))
        .filter_map(|entry| {
            Some((
                entry
                    .platform
                    .as_ref()
                    .map_or(Some(u8::MAX), |p| p.platform().rank_for(&host))?,
                entry,
            ))
        })
        .min_by_key(|(rank, _)| *rank);
    match best {
        Some((_, entry)) => choose(spool, entry, depth + 1),
        None => Ok(None),
    }
}

fn load_manifest(
    store: &Store,
    spool: &Spool,
    digest: &Digest,
    names: Vec<Reference>,
    progress: &ProgressSink,
) -> Result<LoadedImage, ImageError> {
    let bytes = spool.verified(digest, "manifest")?;
    let manifest: ImageManifest = document("manifest", &bytes)?;
    let config = spool.verified(&manifest.config.digest, "image config")?;
    let layers = parse_config(&manifest.config.digest, &config)?
        .rootfs
        .diff_ids;
    if layers.len() != manifest.layers.len() {
        return Err(ImageError::Archive(format!(
            "the configuration has {} layers, the manifest {}",
            layers.len(),
            manifest.layers.len()
        )));
    }
    let lease = store.content.lease();
    lease.add(&store.content.put(&bytes)?);
    let mut staged = Vec::new();
    for (layer, descriptor) in layers.iter().zip(&manifest.layers) {
        lease.add(&descriptor.digest);
        let file = spool.open(&spool.blob(&descriptor.digest))?;
        if store.content.size(&descriptor.digest).is_none() {
            keep_blob(store, &file, &descriptor.digest)?;
        }
        stage(store, layer, file, &mut staged, progress)?;
    }
    let layer_blobs = manifest
        .layers
        .iter()
        .map(|descriptor| descriptor.digest.clone())
        .collect();
    let new = NewImage {
        config,
        manifest: Some(digest.clone()),
        layer_blobs,
        names,
    };
    finish(store, new, staged)
}

/// Copies a layer's blob into the store, verifying it, and rewinds.
fn keep_blob(store: &Store, mut file: &File, digest: &Digest) -> Result<(), ImageError> {
    let mut writer: BlobWriter = store.content.writer()?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = file
            .read(&mut buffer)
            .map_err(io_error("read the archive"))?;
        if length == 0 {
            break;
        }
        writer.write(&buffer[..length])?;
    }
    writer.commit(digest)?;
    file.rewind().map_err(io_error("read the archive"))
}

/// Unpacks a layer unless it is there.
fn stage(
    store: &Store,
    layer: &DiffId,
    file: File,
    staged: &mut Vec<StagedLayer>,
    progress: &ProgressSink,
) -> Result<(), ImageError> {
    if store.has_layer(layer) || staged.iter().any(|known| known.info.diff_id == *layer) {
        return Ok(());
    }
    let size = file.metadata().map(|metadata| metadata.len()).ok();
    progress(PullEvent::layer(layer.0.short(), "Loading layer").at(0, size));
    let mut tar = BufReader::with_capacity(
        256 << 10,
        Decoder::new(BufReader::with_capacity(256 << 10, file))?,
    );
    staged.push(store.snapshotter.stage(layer, &mut tar)?);
    progress(PullEvent::layer(layer.0.short(), "Loading layer").at(size.unwrap_or(0), size));
    Ok(())
}

fn finish(
    store: &Store,
    new: NewImage,
    staged: Vec<StagedLayer>,
) -> Result<LoadedImage, ImageError> {
    let names: Vec<Reference> = new
        .names
        .iter()
        .cloned()
        .map(Reference::with_default_tag)
        .collect();
    let familiar = names.iter().map(Reference::familiar).collect();
    let image = store.commit(NewImage { names, ..new }, staged)?;
    Ok(LoadedImage {
        id: image.id.clone(),
        names: familiar,
    })
}
