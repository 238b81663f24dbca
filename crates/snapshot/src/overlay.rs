//! The overlay driver: plain directories, stacked by overlayfs.
//!
//! ```text
//! layers/<diffid>/{fs,layer.json}   layers/chain-<chainid>/fs   layers/.stage-N/
//! snapshots/<key>/{upper,work-N}    trash/N
//! ```

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kekkai_archive::{Limits, apply_layer};
use kekkai_content::Sha256;
use kekkai_sys::mount::FsContext;
use kekkai_types::{ChainId, DiffId};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::layer::Layer;
use crate::trash::Trash;
use crate::{
    Change, LayerInfo, OverlayMount, SnapshotError, Snapshotter, StagedLayer, Usage, ahead, chain,
    changes,
};

/// Most layers of one mount, as overlayfs has it.
const MAX_LAYERS: usize = 500;

/// Where the driver keeps things.
#[derive(Debug, Clone)]
pub struct OverlayConfig {
    /// The engine's data root: `layers/`, `snapshots/` and `trash/` are made beneath it.
    pub data_root: PathBuf,
}

/// Overlayfs over directories.
#[derive(Debug)]
pub struct OverlaySnapshotter {
    layers_path: PathBuf,
    snapshots_path: PathBuf,
    trash: Arc<Trash>,
    next_stage: AtomicU64,
    state: Mutex<State>,
    /// Held while chains are made, so that two images do not make the same one.
    assembling: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    layers: HashMap<DiffId, Arc<Layer>>,
    /// Layers that had to be applied over their parents, by chain.
    chains: HashSet<ChainId>,
    snapshots: HashMap<String, Snapshot>,
}

#[derive(Debug)]
struct Snapshot {
    lower: Arc<[PathBuf]>,
    volatile: bool,
    /// Number of the current work directory.
    work: u64,
    /// Whether a mount may have used it.
    used: bool,
}

/// A directory under a temporary name; goes into the trash unless it is renamed first.
#[derive(Debug)]
pub(crate) struct StageDirectory {
    path: PathBuf,
    trash: Arc<Trash>,
}

impl Drop for StageDirectory {
    fn drop(&mut self) {
        // What cannot be moved now is moved at the next start.
        let _ = self.trash.throw(&self.path);
    }
}

fn c_string(path: &Path) -> Result<CString, SnapshotError> {
    CString::new(path.as_os_str().to_owned().into_vec())
        .map_err(|_| SnapshotError::io("name", path)(Errno::INVAL))
}

pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<(), SnapshotError> {
    fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .map_err(SnapshotError::std("create", path))
}

pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, SnapshotError> {
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(SnapshotError::io("open", path))
}

/// Mounts directories over each other, read-only and detached; `lower` is topmost first.
pub(crate) fn mount_read_only(lower: &[PathBuf], empty: &Path) -> Result<OwnedFd, SnapshotError> {
    let top = lower.first().map_or(empty, PathBuf::as_path);
    let failed = SnapshotError::io("mount overlay over", top);
    let mount = || -> Result<OwnedFd, Errno> {
        let context = FsContext::open(c"overlay")?;
        let set = |path: &Path| -> Result<(), Errno> {
            let text =
                CString::new(path.as_os_str().to_owned().into_vec()).map_err(|_| Errno::INVAL)?;
            context.set("lowerdir+", &text)
        };
        for path in lower {
            set(path)?;
        }
        // Overlayfs wants two lower directories where there is no upper one, and no directory twice.
        for number in lower.len()..2 {
            set(&empty.join(number.to_string()))?;
        }
        context.mount(kekkai_sys::mount::ATTR_RDONLY)
    };
    mount().map_err(failed)
}

impl OverlaySnapshotter {
    /// Opens or makes the directories, reads what is published, throws away what is half-made, and starts the thread that
    /// empties the trash.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]. A damaged layer is thrown away, as if it had never been pulled.
    pub fn open(config: OverlayConfig) -> Result<Self, SnapshotError> {
        let root = config.data_root;
        let driver = Self {
            layers_path: root.join("layers"),
            snapshots_path: root.join("snapshots"),
            trash: Arc::new(Trash::open(root.join("trash"))?),
            next_stage: AtomicU64::new(0),
            state: Mutex::default(),
            assembling: Mutex::default(),
        };
        for path in [&driver.layers_path, &driver.snapshots_path] {
            fs::create_dir_all(path).map_err(SnapshotError::std("create", path))?;
        }
        for number in 0..2 {
            let path = driver.empty().join(number.to_string());
            fs::create_dir_all(&path).map_err(SnapshotError::std("create", path))?;
        }
        driver.read_layers()?;
        Ok(driver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds empty directories `0` and `1`, for mounts that need more lower ones than there are layers.
    fn empty(&self) -> PathBuf {
        self.layers_path.join(".empty")
    }

    fn read_layers(&self) -> Result<(), SnapshotError> {
        let list = SnapshotError::std("list", &self.layers_path);
        let entries: Vec<_> = fs::read_dir(&self.layers_path)
            .and_then(Iterator::collect)
            .map_err(list)?;
        let mut state = self.state();
        for entry in entries {
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            if name == ".empty" {
                continue;
            }
            if let Some(chain) = name
                .strip_prefix("chain-")
                .and_then(|hex| format!("sha256:{hex}").parse().ok())
            {
                state.chains.insert(chain);
                continue;
            }
            match Layer::read(&path.join("layer.json")) {
                Ok(layer) if layer.info.diff_id.0.hex() == name => {
                    state
                        .layers
                        .insert(layer.info.diff_id.clone(), Arc::new(layer));
                }
                _ => self.trash.throw(&path)?,
            }
        }
        Ok(())
    }

    fn stage_directory(&self) -> Result<StageDirectory, SnapshotError> {
        loop {
            let number = self.next_stage.fetch_add(1, Ordering::Relaxed);
            let path = self.layers_path.join(format!(".stage-{number}"));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    return Ok(StageDirectory {
                        path,
                        trash: Arc::clone(&self.trash),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(SnapshotError::std("create", path)(error)),
            }
        }
    }

    fn layer_path(&self, layer: &DiffId) -> PathBuf {
        self.layers_path.join(layer.0.hex()).join("fs")
    }

    fn chain_path(&self, chain: &ChainId) -> PathBuf {
        self.layers_path
            .join(format!("chain-{}", chain.0.hex()))
            .join("fs")
    }

    /// The directories of a chain, topmost first.
    fn lower(&self, layers: &[DiffId]) -> Result<Vec<PathBuf>, SnapshotError> {
        if layers.len() > MAX_LAYERS {
            return Err(SnapshotError::TooManyLayers(layers.len()));
        }
        let state = self.state();
        let mut lower: Vec<PathBuf> = Vec::with_capacity(layers.len());
        for (at, id) in layers.iter().enumerate() {
            let layer = state
                .layers
                .get(id)
                .ok_or_else(|| SnapshotError::NoLayer(id.clone()))?;
            let chain = if layer.leans() {
                ChainId::of(&layers[..=at], Sha256::raw)
            } else {
                None
            };
            lower.push(match chain.filter(|chain| state.chains.contains(chain)) {
                Some(chain) => self.chain_path(&chain),
                None => self.layer_path(id),
            });
        }
        lower.reverse();
        // Overlayfs refuses a directory twice. A layer that recurs higher up hides itself below: the topmost counts.
        let mut seen = HashSet::new();
        lower.retain(|path| seen.insert(path.clone()));
        Ok(lower)
    }

    /// The same for a writable mount, which needs at least one.
    fn lower_of_snapshot(&self, layers: &[DiffId]) -> Result<Arc<[PathBuf]>, SnapshotError> {
        let mut lower = self.lower(layers)?;
        if lower.is_empty() {
            lower.push(self.empty().join("0"));
        }
        Ok(lower.into())
    }

    fn snapshot_path(&self, key: &str) -> Result<PathBuf, SnapshotError> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if key.is_empty() || key.starts_with('.') || key.len() > 128 || !key.bytes().all(fine) {
            return Err(SnapshotError::NoSnapshot(key.to_owned()));
        }
        Ok(self.snapshots_path.join(key))
    }

    fn mount_of(&self, key: &str, snapshot: &Snapshot) -> OverlayMount {
        let path = self.snapshots_path.join(key);
        OverlayMount {
            lower: snapshot.lower.to_vec(),
            upper: path.join("upper"),
            work: path.join(format!("work-{}", snapshot.work)),
            volatile: snapshot.volatile,
        }
    }

    /// Moves a finished stage to its name; `false` when the name is taken.
    fn rename_stage(&self, stage: &StageDirectory, name: &str) -> Result<bool, SnapshotError> {
        let target = self.layers_path.join(name);
        match rustix::fs::renameat_with(CWD, &stage.path, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(SnapshotError::io("publish", target)(errno)),
        }
    }

    /// Writes everything that was written so far to the disk.
    fn sync(&self) -> Result<(), SnapshotError> {
        let directory = open_directory(&self.layers_path)?;
        rustix::fs::syncfs(&directory).map_err(SnapshotError::io("sync", &self.layers_path))
    }

    fn sync_names(&self) -> Result<(), SnapshotError> {
        let directory = open_directory(&self.layers_path)?;
        rustix::fs::fsync(&directory).map_err(SnapshotError::io("sync", &self.layers_path))
    }

    /// Gives the upper directory the root's mode, owner and times: those of the topmost layer that has any.
    fn dress_root(&self, upper: &Path, layers: &[DiffId]) -> Result<(), SnapshotError> {
        let source = {
            let state = self.state();
            layers
                .iter()
                .rev()
                .find(|id| state.layers.get(*id).is_some_and(|layer| layer.root))
                .cloned()
        };
        let Some(source) = source else {
            return Ok(());
        };
        let metadata =
            fs::metadata(self.layer_path(&source)).map_err(SnapshotError::std("stat", upper))?;
        if (metadata.uid(), metadata.gid()) != (0, 0) {
            std::os::unix::fs::chown(upper, Some(metadata.uid()), Some(metadata.gid()))
                .map_err(SnapshotError::std("chown", upper))?;
        }
        if metadata.mode() & 0o7777 != 0o755 {
            fs::set_permissions(upper, fs::Permissions::from_mode(metadata.mode() & 0o7777))
                .map_err(SnapshotError::std("chmod", upper))?;
        }
        Ok(())
    }
}

impl Snapshotter for OverlaySnapshotter {
    fn layer(&self, layer: &DiffId) -> Option<LayerInfo> {
        self.state()
            .layers
            .get(layer)
            .map(|layer| layer.info.clone())
    }

    fn stage(
        &self,
        expected: &DiffId,
        tar: &mut (dyn Read + Send),
    ) -> Result<StagedLayer, SnapshotError> {
        let stage = self.stage_directory()?;
        let root = stage.path.join("fs");
        make_directory(&root, 0o755)?;
        let directory = open_directory(&root)?;
        let (source, ahead) = ahead::pair();
        let (applied, digest) = std::thread::scope(|scope| {
            let reader = std::thread::Builder::new().name("layer".to_owned());
            let reader = reader
                .spawn_scoped(scope, move || source.run(tar))
                .map_err(SnapshotError::std("start a thread for", &root))?;
            // Moved in, so that the thread stops when this ends early.
            let applied = apply_layer(directory.as_fd(), ahead, Limits::default());
            let digest = reader.join().unwrap_or(None);
            Ok((applied, digest))
        })?;
        let applied = applied.map_err(|source| SnapshotError::Unpack { source })?;
        // Without a digest the stream broke, and unpacking has failed above.
        let actual = DiffId(digest.ok_or(SnapshotError::Unpack {
            source: kekkai_archive::ArchiveError::Truncated,
        })?);
        if actual != *expected {
            return Err(SnapshotError::WrongDiffId {
                expected: expected.clone(),
                actual,
            });
        }
        let layer = Layer::new(actual, applied);
        layer.write(&stage.path.join("layer.json"))?;
        Ok(StagedLayer {
            info: layer.info.clone(),
            layer,
            directory: stage,
        })
    }

    fn publish(&self, layers: Vec<StagedLayer>) -> Result<(), SnapshotError> {
        // Also without layers: the caller's blobs are made durable by the same call.
        self.sync()?;
        for staged in layers {
            let id = staged.layer.info.diff_id.clone();
            if self.rename_stage(&staged.directory, id.0.hex())? {
                self.state().layers.insert(id, Arc::new(staged.layer));
            }
        }
        self.sync_names()
    }

    fn assemble(&self, layers: &[DiffId]) -> Result<Option<ChainId>, SnapshotError> {
        let _one = self
            .assembling
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut made = false;
        for at in 1..layers.len() {
            let layer = self.state().layers.get(&layers[at]).cloned();
            let layer = layer.ok_or_else(|| SnapshotError::NoLayer(layers[at].clone()))?;
            if !layer.leans() {
                continue;
            }
            let Some(chain) = ChainId::of(&layers[..=at], Sha256::raw) else {
                continue;
            };
            if self.state().chains.contains(&chain) {
                continue;
            }
            let below = mount_read_only(&self.lower(&layers[..at])?, &self.empty())?;
            if !chain::differs(&layer, below.as_fd())? {
                continue;
            }
            let stage = self.stage_directory()?;
            let target = stage.path.join("fs");
            make_directory(&target, 0o755)?;
            chain::apply_over(
                &layer,
                &self.layer_path(&layers[at]),
                below.as_fd(),
                &target,
            )?;
            self.sync()?;
            self.rename_stage(&stage, &format!("chain-{}", chain.0.hex()))?;
            self.state().chains.insert(chain);
            made = true;
        }
        if let Some(layer) = layers
            .first()
            .and_then(|id| self.state().layers.get(id).cloned())
            && let Some(link) = layer.missing_links.first()
        {
            return Err(chain::missing(&layer, link));
        }
        if made {
            self.sync_names()?;
        }
        Ok(ChainId::of(layers, Sha256::raw))
    }

    fn retain_layers(&self, keep: &[Vec<DiffId>]) -> Result<u64, SnapshotError> {
        let _one = self
            .assembling
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut layers = HashSet::new();
        let mut chains = HashSet::new();
        for image in keep {
            for at in 0..image.len() {
                layers.insert(image[at].clone());
                let leans = self
                    .state()
                    .layers
                    .get(&image[at])
                    .is_some_and(|layer| layer.leans());
                if leans && let Some(chain) = ChainId::of(&image[..=at], Sha256::raw) {
                    chains.insert(chain);
                }
            }
        }
        let mut state = self.state();
        let mut freed = 0_u64;
        let mut gone = Vec::new();
        state.chains.retain(|chain| {
            let kept = chains.contains(chain);
            if !kept {
                gone.push(format!("chain-{}", chain.0.hex()));
            }
            kept
        });
        state.layers.retain(|id, layer| {
            let kept = layers.contains(id);
            if !kept {
                freed = layer.info.size.saturating_add(freed);
                gone.push(id.0.hex().to_owned());
            }
            kept
        });
        drop(state);
        for name in gone {
            self.trash.throw(&self.layers_path.join(name))?;
        }
        Ok(freed)
    }

    fn discard(&self, path: &Path) -> Result<(), SnapshotError> {
        self.trash.throw(path)
    }

    fn prepare(
        &self,
        key: &str,
        layers: &[DiffId],
        volatile: bool,
    ) -> Result<OverlayMount, SnapshotError> {
        let lower = self.lower_of_snapshot(layers)?;
        let path = self.snapshot_path(key)?;
        match fs::DirBuilder::new().mode(0o710).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(SnapshotError::Exists(key.to_owned()));
            }
            Err(error) => return Err(SnapshotError::std("create", path)(error)),
        }
        let upper = path.join("upper");
        let fill = || {
            make_directory(&upper, 0o755)?;
            make_directory(&path.join("work-0"), 0o700)?;
            self.dress_root(&upper, layers)
        };
        if let Err(error) = fill() {
            self.trash.throw(&path)?;
            return Err(error);
        }
        let snapshot = Snapshot {
            lower,
            volatile,
            work: 0,
            used: false,
        };
        let mount = self.mount_of(key, &snapshot);
        self.state().snapshots.insert(key.to_owned(), snapshot);
        Ok(mount)
    }

    fn adopt(
        &self,
        key: &str,
        layers: &[DiffId],
        volatile: bool,
    ) -> Result<OverlayMount, SnapshotError> {
        let path = self.snapshot_path(key)?;
        let lower = self.lower_of_snapshot(layers)?;
        let entries: Vec<_> = fs::read_dir(&path)
            .and_then(Iterator::collect)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => SnapshotError::NoSnapshot(key.to_owned()),
                _ => SnapshotError::std("list", &path)(error),
            })?;
        let number = |entry: &fs::DirEntry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix("work-")?
                .parse::<u64>()
                .ok()
        };
        let work = entries.iter().filter_map(number).max().unwrap_or(0);
        let snapshot = Snapshot {
            lower,
            volatile,
            work,
            used: true,
        };
        let mount = self.mount_of(key, &snapshot);
        self.state().snapshots.insert(key.to_owned(), snapshot);
        Ok(mount)
    }

    fn mounts(&self, key: &str) -> Result<OverlayMount, SnapshotError> {
        let state = self.state();
        let snapshot = state
            .snapshots
            .get(key)
            .ok_or_else(|| SnapshotError::NoSnapshot(key.to_owned()))?;
        Ok(self.mount_of(key, snapshot))
    }

    fn fresh_work(&self, key: &str) -> Result<OverlayMount, SnapshotError> {
        let mut state = self.state();
        let snapshot = state
            .snapshots
            .get_mut(key)
            .ok_or_else(|| SnapshotError::NoSnapshot(key.to_owned()))?;
        if !snapshot.used {
            snapshot.used = true;
            return Ok(self.mount_of(key, snapshot));
        }
        let path = self.snapshots_path.join(key);
        make_directory(&path.join(format!("work-{}", snapshot.work + 1)), 0o700)?;
        self.trash
            .throw(&path.join(format!("work-{}", snapshot.work)))?;
        snapshot.work += 1;
        Ok(self.mount_of(key, snapshot))
    }

    fn mount_detached(&self, key: &str) -> Result<OwnedFd, SnapshotError> {
        let mount = self.fresh_work(key)?;
        let lower: Vec<CString> = mount
            .lower
            .iter()
            .map(|path| c_string(path))
            .collect::<Result<_, _>>()?;
        kekkai_sys::mount::overlay(
            &lower,
            &c_string(&mount.upper)?,
            &c_string(&mount.work)?,
            mount.volatile,
        )
        .map_err(|(errno, _)| SnapshotError::io("mount overlay over", &mount.upper)(errno))
    }

    fn mount_layers(&self, layers: &[DiffId]) -> Result<OwnedFd, SnapshotError> {
        mount_read_only(&self.lower(layers)?, &self.empty())
    }

    fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        let path = self.snapshot_path(key)?;
        self.state().snapshots.remove(key);
        self.trash.throw(&path)
    }

    fn retain(&self, keep: &dyn Fn(&str) -> bool) -> Result<(), SnapshotError> {
        let list = SnapshotError::std("list", &self.snapshots_path);
        let entries: Vec<_> = fs::read_dir(&self.snapshots_path)
            .and_then(Iterator::collect)
            .map_err(list)?;
        for entry in entries {
            let name = entry.file_name();
            if !name.to_str().is_some_and(keep) {
                self.trash.throw(&entry.path())?;
            }
        }
        Ok(())
    }

    fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        changes::usage(&self.mounts(key)?.upper)
    }

    fn diff(&self, key: &str) -> Result<Vec<Change>, SnapshotError> {
        let mount = self.mounts(key)?;
        let below = mount_read_only(&mount.lower, &self.empty())?;
        changes::diff(&mount.upper, below.as_fd())
    }
}
