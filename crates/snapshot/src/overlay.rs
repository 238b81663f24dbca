//! The overlay driver.
use std::os::fd::OwnedFd;
use std::io::BufRead;
use std::path::PathBuf;
use kekkai_types::{ChainId, DiffId};
use crate::{Change, LayerInfo, OverlayMount, SnapshotError, Snapshotter, StagedLayer, Usage};

/// Where the driver keeps things.
#[derive(Debug, Clone)]
pub struct OverlayConfig {
    /// The engine's data root: `layers/`, `snapshots/` and `trash/` are made beneath it.
    pub data_root: PathBuf,
}

/// Overlayfs over directories.
#[derive(Debug)]
pub struct OverlaySnapshotter {
}

#[derive(Debug)]
pub(crate) struct StageDirectory;

impl OverlaySnapshotter {
    /// Opens or makes the directories and reads what is published. Starts the thread that empties the trash.
    pub fn open(config: OverlayConfig) -> Result<Self, SnapshotError> { todo!() }
}

impl Snapshotter for OverlaySnapshotter {
    fn layer(&self, layer: &DiffId) -> Option<LayerInfo> { todo!() }
    fn stage(&self, expected: &DiffId, tar: &mut dyn BufRead) -> Result<StagedLayer, SnapshotError> { todo!() }
    fn publish(&self, layers: Vec<StagedLayer>) -> Result<(), SnapshotError> { todo!() }
    fn assemble(&self, layers: &[DiffId]) -> Result<Option<ChainId>, SnapshotError> { todo!() }
    fn retain_layers(&self, keep: &[Vec<DiffId>]) -> Result<u64, SnapshotError> { todo!() }
    fn prepare(&self, key: &str, layers: &[DiffId], volatile: bool) -> Result<OverlayMount, SnapshotError> { todo!() }
    fn adopt(&self, key: &str, layers: &[DiffId], volatile: bool) -> Result<OverlayMount, SnapshotError> { todo!() }
    fn mounts(&self, key: &str) -> Result<OverlayMount, SnapshotError> { todo!() }
    fn fresh_work(&self, key: &str) -> Result<OverlayMount, SnapshotError> { todo!() }
    fn mount_detached(&self, key: &str) -> Result<OwnedFd, SnapshotError> { todo!() }
    fn mount_layers(&self, layers: &[DiffId]) -> Result<OwnedFd, SnapshotError> { todo!() }
    fn remove(&self, key: &str) -> Result<(), SnapshotError> { todo!() }
    fn retain(&self, keep: &dyn Fn(&str) -> bool) -> Result<(), SnapshotError> { todo!() }
    fn usage(&self, key: &str) -> Result<Usage, SnapshotError> { todo!() }
    fn diff(&self, key: &str) -> Result<Vec<Change>, SnapshotError> { todo!() }
}
