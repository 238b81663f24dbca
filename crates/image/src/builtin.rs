//! The image that is built in: one static program, no network (pitfall 26).
//!
//! What must stay true: the same program gives the same image, byte for byte, whenever and wherever it is made.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kekkai_archive::{Entry, EntryKind, TarWriter};
use kekkai_content::Sha256;
use kekkai_oci::image_documents::{ContainerConfig, HistoryEntry, ImageConfig, RootFs};
use kekkai_types::{DiffId, Platform, Reference};

use crate::error::ImageError;
use crate::model::{BUILTIN_NAME, Image};
use crate::store::{NewImage, Store};

/// The program's name inside, which is how it knows what to do.
const PROGRAM: &str = "kekkai-hello";

/// Makes the image from the program at `path`, unless it is there.
pub(crate) fn register(store: &Store, path: &Path) -> Result<Arc<Image>, ImageError> {
    let program = std::fs::read(path).map_err(|source| ImageError::Io {
        operation: format!("read {}", path.display()),
        source,
    })?;
    let layer = layer(&program)?;
    let diff_id = DiffId(Sha256::of(&layer));
    let config = configuration(&diff_id)?;
    let name: Reference = BUILTIN_NAME.parse()?;
    let id = Sha256::of(&config);
    let before = {
        let catalog = store.catalog();
        let named = catalog.named(&name).cloned();
        if let (Some(image), Some(named)) = (catalog.get(&id), &named)
            && *named == id
        {
            return Ok(Arc::clone(image));
        }
        named
    };
    let staged = match store.has_layer(&diff_id) {
        true => Vec::new(),
        false => vec![store.snapshotter.stage(&diff_id, &mut layer.as_slice())?],
    };
    let image = store.commit(
        NewImage {
            config,
            manifest: None,
            layer_blobs: Vec::new(),
            names: vec![name],
        },
        staged,
    )?;
    // The image of the program before an upgrade is of no use to anybody but its containers.
    if let Some(old) = before {
        store.hide(&old)?;
    }
    Ok(image)
}

/// A layer of the program and the directories that every container mounts on.
fn layer(program: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut tar = TarWriter::new(Vec::with_capacity(program.len() + 4096));
    for directory in ["dev", "etc", "proc", "run", "sys", "tmp"] {
        let mut entry = Entry::new(EntryKind::Directory, directory);
        entry.mode = if directory == "tmp" { 0o1777 } else { 0o755 };
        tar.entry(&entry)?;
    }
    let mut entry = Entry::new(EntryKind::File, PROGRAM);
    entry.mode = 0o755;
    entry.size = program.len() as u64;
    tar.entry(&entry)?;
    tar.data(program)?;
    Ok(tar.finish()?)
}

fn configuration(diff_id: &DiffId) -> Result<Vec<u8>, ImageError> {
    let host = Platform::host();
    let config = ImageConfig {
        architecture: host.architecture,
        os: host.os,
        created: Some("1970-01-01T00:00:00Z".to_owned()),
        config: ContainerConfig {
            env: vec!["PATH=/".to_owned()],
            cmd: Some(vec![format!("/{PROGRAM}")]),
            working_dir: "/".to_owned(),
            labels: BTreeMap::from([(
                "org.opencontainers.image.title".to_owned(),
                "Kekkai's built-in image".to_owned(),
            )]),
            ..ContainerConfig::default()
        },
        rootfs: RootFs {
            diff_ids: vec![diff_id.clone()],
            ..RootFs::default()
        },
        history: vec![HistoryEntry {
            created: Some("1970-01-01T00:00:00Z".to_owned()),
            created_by: format!("the program {PROGRAM}"),
            ..HistoryEntry::default()
        }],
        ..ImageConfig::default()
    };
    serde_json::to_vec(&config).map_err(|error| ImageError::Invalid(error.to_string()))
}
