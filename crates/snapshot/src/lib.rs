//! Storage drivers: layers keyed by their own content (diffID) and the writable snapshots of containers over them.
//!
//! ```text
//!   stage(diffID, tar)  → layers/.stage-N/{fs,layer.json}      unpacked and verified, not visible
//!   publish(staged…)    → one syncfs, rename to layers/<hex>/, fsync of layers/
//!   prepare(key, chain) → snapshots/<key>/{upper,work-0}       over the layers, topmost first
//!   remove(key)         → rename into trash/, unlinked later, slowly
//! ```
//!
//! What must stay true: a layer directory under its final name is whole and was durable before it got the name; a
//! snapshot never writes into a layer; nothing is unlinked on a caller's path.

#![forbid(unsafe_code)]

mod ahead;
mod chain;
mod changes;
mod error;
mod layer;
mod overlay;
mod trash;

use std::fmt::Debug;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kekkai_types::{ChainId, DiffId};

pub use error::SnapshotError;
pub use overlay::{OverlayConfig, OverlaySnapshotter};

/// What to mount as a container's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayMount {
    /// Lower directories, topmost first; at least one, an empty directory for an image without layers.
    pub lower: Vec<PathBuf>,
    /// The writable directory.
    pub upper: PathBuf,
    /// The work directory, never used by another mount.
    pub work: PathBuf,
    /// Whether the kernel may skip syncing this upper (pitfall 13).
    pub volatile: bool,
}

/// A published layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Digest of its tar stream.
    pub diff_id: DiffId,
    /// Bytes of its regular files, as Docker counts an image's size.
    pub size: u64,
    /// Number of entries.
    pub entries: u64,
}

/// A layer that is unpacked and verified, and not yet visible. Dropping it throws it away.
#[derive(Debug)]
pub struct StagedLayer {
    /// What it will be.
    pub info: LayerInfo,
    pub(crate) layer: layer::Layer,
    pub(crate) directory: overlay::StageDirectory,
}

/// Bytes and inodes of a writable layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes allocated to it, apparent sizes of regular files summed as Docker's `SizeRw` does.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// How a path of a container differs from its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Docker's 0, `C`.
    Modified,
    /// Docker's 1, `A`.
    Added,
    /// Docker's 2, `D`.
    Deleted,
}

/// One line of `docker diff`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute path within the container.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// A storage driver. All methods block; async callers use `spawn_blocking`.
pub trait Snapshotter: Send + Sync + Debug {
    /// The layer, if it is published.
    fn layer(&self, layer: &DiffId) -> Option<LayerInfo>;

    /// Unpacks a layer's uncompressed tar stream and verifies its digest. Not visible until [`Snapshotter::publish`].
    /// The stream is read in large pieces, in another thread.
    fn stage(
        &self,
        expected: &DiffId,
        tar: &mut (dyn Read + Send),
    ) -> Result<StagedLayer, SnapshotError>;

    /// Makes staged layers durable and visible, with one sync for all. One that was published meanwhile is thrown away.
    fn publish(&self, layers: Vec<StagedLayer>) -> Result<(), SnapshotError>;

    /// Makes what the chain of `layers` (lowest first) needs besides its single layers (pitfall 17), and names the chain.
    fn assemble(&self, layers: &[DiffId]) -> Result<Option<ChainId>, SnapshotError>;

    /// Forgets layers that no chain in `keep` uses, and everything half-made; returns the bytes that will become free.
    fn retain_layers(&self, keep: &[Vec<DiffId>]) -> Result<u64, SnapshotError>;

    /// Takes a file or tree of the data root away: one rename now, unlinked later.
    fn discard(&self, path: &Path) -> Result<(), SnapshotError>;

    /// Makes the writable snapshot `key` (a container id) over `layers`, lowest first.
    fn prepare(
        &self,
        key: &str,
        layers: &[DiffId],
        volatile: bool,
    ) -> Result<OverlayMount, SnapshotError>;

    /// Recalls after a restart of the daemon a snapshot that an earlier process prepared.
    fn adopt(
        &self,
        key: &str,
        layers: &[DiffId],
        volatile: bool,
    ) -> Result<OverlayMount, SnapshotError>;

    /// What to mount for `key`.
    fn mounts(&self, key: &str) -> Result<OverlayMount, SnapshotError>;

    /// Gives `key` a new, empty work directory (before every start) and returns the mount with it.
    fn fresh_work(&self, key: &str) -> Result<OverlayMount, SnapshotError>;

    /// Mounts `key` detached, in no namespace; the mount goes with the descriptor. For a container that does not run.
    fn mount_detached(&self, key: &str) -> Result<OwnedFd, SnapshotError>;

    /// Mounts the layers themselves detached and read-only.
    fn mount_layers(&self, layers: &[DiffId]) -> Result<OwnedFd, SnapshotError>;

    /// Removes the snapshot: one rename. Removing what is not there is fine.
    fn remove(&self, key: &str) -> Result<(), SnapshotError>;

    /// Removes every snapshot whose key is not in `keep` (at start, after recovery).
    fn retain(&self, keep: &dyn Fn(&str) -> bool) -> Result<(), SnapshotError>;

    /// What the snapshot's writable layer holds.
    fn usage(&self, key: &str) -> Result<Usage, SnapshotError>;

    /// What the snapshot changed.
    fn diff(&self, key: &str) -> Result<Vec<Change>, SnapshotError>;
}
