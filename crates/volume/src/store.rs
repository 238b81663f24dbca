//! The list of volumes and who uses them.
//!
//! One lock guards the list; it is held over the database and over single system calls on directories, never over a copy.
//! References are not stored: the engine names them again from its containers when it starts.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kekkai_metadata::{Change, Database, Durability, Table};
use kekkai_types::{ContainerId, Timestamp, VolumeName};

use crate::error::VolumeError;
use crate::model::{
    ANONYMOUS_LABEL, CreateVolume, Document, PruneReport, PruneScope, Volume, VolumeFilter,
};
use crate::mount::{self, LocalMount};
use crate::populate::{self, Outcome, Placement};

/// The only driver.
const LOCAL: &str = "local";
/// Version of the rows written here.
const DOCUMENT_VERSION: u32 = 1;

#[derive(Debug)]
struct Entry {
    document: Document,
    /// Containers that have it.
    containers: BTreeSet<ContainerId>,
    /// Containers that run with it: while there are any, its file system stays mounted.
    active: BTreeSet<ContainerId>,
}

/// The volumes of one daemon.
#[derive(Debug)]
pub struct VolumeStore {
    root: PathBuf,
    trash: PathBuf,
    database: Arc<Database>,
    volumes: Mutex<BTreeMap<VolumeName, Entry>>,
}

impl VolumeStore {
    /// Opens the volumes under `root` (`<data>/volumes`), finishing what was half done. What is removed is renamed into
    /// `trash`, on the same file system; unlinking it is the caller's business.
    pub fn open(
        root: &Path,
        trash: &Path,
        database: Arc<Database>,
    ) -> Result<VolumeStore, VolumeError> {
        for (directory, mode) in [(root, 0o711), (trash, 0o700)] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(directory)
                .map_err(|e| VolumeError::io("create", directory, e))?;
        }
        let store = VolumeStore {
            root: root.to_owned(),
            trash: trash.to_owned(),
            database,
            volumes: Mutex::new(BTreeMap::new()),
        };
        store.load()?;
        Ok(store)
    }

    /// Makes a volume, or returns the one that has this name already.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "what callers have at hand is theirs to give"
    )]
    pub fn create(&self, request: CreateVolume) -> Result<Volume, VolumeError> {
        self.create_for(&request, None)
    }

    fn create_for(
        &self,
        request: &CreateVolume,
        container: Option<&ContainerId>,
    ) -> Result<Volume, VolumeError> {
        let mut labels = request.labels.clone();
        if request.anonymous {
            labels.insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
        let name = match &request.name {
            Some(name) => name.clone(),
            None => random_name(),
        };
        let driver = if request.driver.is_empty() {
            LOCAL.to_owned()
        } else {
            request.driver.clone()
        };
        if driver != LOCAL {
            return Err(VolumeError::Driver {
                name: name.to_string(),
                driver,
            });
        }
        let mut volumes = self.lock();
        if let Some(entry) = volumes.get(&name) {
            // As in Docker: the same options or none at all name the existing volume.
            if !request.options.is_empty() && request.options != entry.document.options {
                return Err(VolumeError::Conflict {
                    name: name.to_string(),
                });
            }
            return Ok(self.describe(&name, entry));
        }
        LocalMount::parse(&name, &request.options)?;
        let document = Document {
            version: DOCUMENT_VERSION,
            driver,
            created: Timestamp::now(),
            options: request.options.clone(),
            labels,
            made_for: container.copied().filter(|_| request.anonymous),
        };
        let change = Change::put_json(Table::Volumes, name.as_str(), &document)?;
        self.database.apply(vec![change], request.durability)?;
        if let Err(error) = self.make_directory(&name, request.durability) {
            let _ = std::fs::remove_dir(self.root.join(name.as_str()));
            // Should this fail too, the row without a directory is dropped at the next start.
            let _ = self.database.apply(
                vec![Change::delete(Table::Volumes, name.as_str())],
                Durability::Process,
            );
            return Err(error);
        }
        let entry = Entry {
            document,
            containers: BTreeSet::new(),
            active: BTreeSet::new(),
        };
        let volume = self.describe(&name, &entry);
        volumes.insert(name, entry);
        Ok(volume)
    }

    /// The volume of this name, made if there is none (`-v name:/path`), with `container` among its users at once, so that
    /// nobody can remove it in between.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "what callers have at hand is theirs to give"
    )]
    pub fn ensure(
        &self,
        request: CreateVolume,
        container: &ContainerId,
    ) -> Result<Volume, VolumeError> {
        loop {
            let volume = self.create_for(&request, Some(container))?;
            match self.reference(&volume.name, container) {
                Ok(()) => return self.inspect(volume.name.as_str()),
                // Somebody removed it in this moment; an anonymous one has a name nobody else knows.
                Err(VolumeError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// One volume by its whole name.
    pub fn inspect(&self, name: &str) -> Result<Volume, VolumeError> {
        let not_found = || VolumeError::NotFound(name.to_owned());
        let parsed: VolumeName = name.parse().map_err(|_| not_found())?;
        let volumes = self.lock();
        volumes
            .get(&parsed)
            .map(|entry| self.describe(&parsed, entry))
            .ok_or_else(not_found)
    }

    /// The volumes that fit, by name.
    #[must_use]
    pub fn list(&self, filter: &VolumeFilter) -> Vec<Volume> {
        let volumes = self.lock();
        volumes
            .iter()
            .map(|(name, entry)| self.describe(name, entry))
            .filter(|v| filter.matches(v))
            .collect()
    }

    /// Notes that a container has the volume. Idempotent.
    pub fn reference(&self, name: &VolumeName, container: &ContainerId) -> Result<(), VolumeError> {
        let mut volumes = self.lock();
        let entry = volumes
            .get_mut(name)
            .ok_or_else(|| VolumeError::NotFound(name.to_string()))?;
        entry.containers.insert(*container);
        Ok(())
    }

    /// Notes that a container no longer has the volume. Idempotent, also when the volume is gone. Call it before the
    /// container's row is deleted.
    pub fn unreference(&self, name: &VolumeName, container: &ContainerId) {
        let mut volumes = self.lock();
        let Some(entry) = volumes.get_mut(name) else {
            return;
        };
        entry.containers.remove(container);
        if entry.document.made_for == Some(*container) {
            entry.document.made_for = None;
            if let Ok(change) = Change::put_json(Table::Volumes, name.as_str(), &entry.document) {
                // Not waited for: the writer keeps the order, so it is written before the container's row is deleted.
                self.database
                    .submit(vec![change], Durability::Process, Box::new(drop));
            }
        }
    }

    /// Removes the anonymous volumes of containers that never came to be: a daemon died between making the volume and
    /// writing the container's row. `exists` says whether a container has one. For the start, after every container has
    /// named its references.
    pub fn sweep_unfinished(
        &self,
        exists: impl Fn(&ContainerId) -> bool,
    ) -> Result<Vec<VolumeName>, VolumeError> {
        let unfinished: Vec<VolumeName> = self
            .lock()
            .iter()
            .filter(|(_, entry)| entry.containers.is_empty())
            .filter(|(_, entry)| {
                entry
                    .document
                    .made_for
                    .is_some_and(|container| !exists(&container))
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in &unfinished {
            self.remove(name.as_str(), true)?;
        }
        Ok(unfinished)
    }

    /// The directory to mount into a container that starts; mounts the volume's own file system on it if it has one. Undone
    /// by [`VolumeStore::deactivate`]. For running containers it is called again after a restart of the daemon.
    pub fn activate(
        &self,
        name: &VolumeName,
        container: &ContainerId,
    ) -> Result<PathBuf, VolumeError> {
        let mut volumes = self.lock();
        let entry = volumes
            .get_mut(name)
            .ok_or_else(|| VolumeError::NotFound(name.to_string()))?;
        let data = self.data(name);
        if let Some(local) = LocalMount::parse(name, &entry.document.options)?
            && entry.active.is_empty()
            && !mount::is_mounted(&data)?
        {
            local.mount(&data)?;
        }
        entry.active.insert(*container);
        Ok(data)
    }

    /// Notes that a container has stopped; the last one unmounts the volume's own file system.
    pub fn deactivate(
        &self,
        name: &VolumeName,
        container: &ContainerId,
    ) -> Result<(), VolumeError> {
        let mut volumes = self.lock();
        let Some(entry) = volumes.get_mut(name) else {
            return Ok(());
        };
        let was_active = entry.active.remove(container);
        if was_active && entry.active.is_empty() && !entry.document.options.is_empty() {
            mount::unmount(&self.data(name))?;
        }
        Ok(())
    }

    /// Copies what the image has at `path`, beneath the directory `root`, into the volume if that is empty: content, owners,
    /// modes, times, extended attributes and hard links. Says whether it copied. A path that is no directory copies nothing.
    pub fn populate(
        &self,
        name: &VolumeName,
        root: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<bool, VolumeError> {
        let directory = self.root.join(name.as_str());
        let placement = {
            let volumes = self.lock();
            let entry = volumes
                .get(name)
                .ok_or_else(|| VolumeError::NotFound(name.to_string()))?;
            match LocalMount::parse(name, &entry.document.options)? {
                // What was copied there would be gone with the mount, before the container starts.
                Some(local) if local.is_tmpfs() => return Ok(false),
                Some(local) => {
                    if entry.active.is_empty() && !mount::is_mounted(&self.data(name))? {
                        local.mount(&self.data(name))?;
                    }
                    Placement::InPlace
                }
                None if entry.active.is_empty() => Placement::Exchange,
                None => Placement::InPlace,
            }
        };
        let outcome = populate::copy(&directory, root, path, placement);
        // Under the lock nobody starts with the directory while it is exchanged.
        let volumes = self.lock();
        let unused = volumes
            .get(name)
            .is_none_or(|entry| entry.active.is_empty());
        let has_mount = volumes
            .get(name)
            .is_some_and(|entry| !entry.document.options.is_empty());
        if has_mount && unused {
            mount::unmount(&self.data(name))?;
        }
        match outcome? {
            Outcome::Nothing => Ok(false),
            Outcome::InPlace => Ok(true),
            Outcome::Beside(copied) if unused => copied.put_in_place(&directory),
            // A container has started with the empty directory meanwhile: it keeps it, as if it had been first.
            Outcome::Beside(copied) => copied.discard().map(|()| false),
        }
    }

    /// Removes a volume that no container has. `force` ignores one that is not there.
    pub fn remove(&self, name: &str, force: bool) -> Result<Option<Volume>, VolumeError> {
        let missing = || {
            if force {
                Ok(None)
            } else {
                Err(VolumeError::NotFound(name.to_owned()))
            }
        };
        let Ok(parsed) = name.parse::<VolumeName>() else {
            return missing();
        };
        let mut volumes = self.lock();
        match volumes.get(&parsed) {
            None => missing(),
            Some(entry) => {
                let volume = self.describe(&parsed, entry);
                self.remove_unused(&mut volumes, &parsed)?;
                Ok(Some(volume))
            }
        }
    }

    /// Removes the volumes that no container has.
    pub fn prune(
        &self,
        scope: PruneScope,
        filter: &VolumeFilter,
    ) -> Result<PruneReport, VolumeError> {
        let mut report = PruneReport::default();
        for volume in self.list(filter) {
            if !volume.containers.is_empty()
                || (scope == PruneScope::Anonymous && !volume.is_anonymous())
            {
                continue;
            }
            let size = self.size(&volume.name);
            match self.remove(volume.name.as_str(), true) {
                Ok(Some(_)) => {
                    report.deleted.push(volume.name);
                    report.reclaimed += size;
                }
                // Used or removed by somebody since it was listed.
                Ok(None) | Err(VolumeError::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }

    /// The bytes of a volume's files; what cannot be read counts as nothing.
    #[must_use]
    pub fn size(&self, name: &VolumeName) -> u64 {
        populate::total_size(&self.data(name))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Entry>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self, name: &VolumeName) -> PathBuf {
        self.root.join(name.as_str()).join("_data")
    }

    fn describe(&self, name: &VolumeName, entry: &Entry) -> Volume {
        Volume {
            name: name.clone(),
            driver: entry.document.driver.clone(),
            mountpoint: self.data(name),
            created: entry.document.created,
            options: entry.document.options.clone(),
            labels: entry.document.labels.clone(),
            containers: entry.containers.iter().copied().collect(),
        }
    }

    fn load(&self) -> Result<(), VolumeError> {
        let mut volumes = self.lock();
        let mut changes = Vec::new();
        for row in self.database.load(Table::Volumes)? {
            let document: Document = row.parse(Table::Volumes)?;
            match row.key.parse::<VolumeName>() {
                Ok(name) if self.data(&name).is_dir() => {
                    self.sweep(&name);
                    volumes.insert(
                        name,
                        Entry {
                            document,
                            containers: BTreeSet::new(),
                            active: BTreeSet::new(),
                        },
                    );
                }
                // Half made or half removed; see the module's header.
                _ => changes.push(Change::delete(Table::Volumes, row.key)),
            }
        }
        let entries =
            std::fs::read_dir(&self.root).map_err(|e| VolumeError::io("read", &self.root, e))?;
        for entry in entries.flatten() {
            let Some(name) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<VolumeName>().ok())
            else {
                continue;
            };
            if volumes.contains_key(&name) || !self.data(&name).is_dir() {
                continue;
            }
            let document = adopted(&name, &entry);
            changes.push(Change::put_json(Table::Volumes, name.as_str(), &document)?);
            volumes.insert(
                name,
                Entry {
                    document,
                    containers: BTreeSet::new(),
                    active: BTreeSet::new(),
                },
            );
        }
        if !changes.is_empty() {
            self.database.apply(changes, Durability::Process)?;
        }
        Ok(())
    }

    /// Throws away copies that a dead daemon had begun.
    fn sweep(&self, name: &VolumeName) {
        let directory = self.root.join(name.as_str());
        let Ok(entries) = std::fs::read_dir(&directory) else {
            return;
        };
        for entry in entries.flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(populate::TEMPORARY)
            {
                // Left for the next start when it fails: it is in nobody's way.
                let _ = self.throw_away(&entry.path());
            }
        }
    }

    fn make_directory(&self, name: &VolumeName, durability: Durability) -> Result<(), VolumeError> {
        let directory = self.root.join(name.as_str());
        let make = |path: &Path, mode: u32| {
            std::fs::DirBuilder::new()
                .mode(mode)
                .create(path)
                .map_err(|e| VolumeError::io("create", path, e))
        };
        match make(&directory, 0o701) {
            Err(VolumeError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        let data = directory.join("_data");
        make(&data, 0o755)?;
        // The mode above is subject to our umask; what containers see is not.
        std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(|e| VolumeError::io("set the mode of", &data, e))?;
        if durability == Durability::PowerCut {
            for path in [&directory, &self.root] {
                std::fs::File::open(path)
                    .and_then(|d| d.sync_all())
                    .map_err(|e| VolumeError::io("sync", path, e))?;
            }
        }
        Ok(())
    }

    fn remove_unused(
        &self,
        volumes: &mut BTreeMap<VolumeName, Entry>,
        name: &VolumeName,
    ) -> Result<(), VolumeError> {
        if let Some(entry) = volumes.get(name)
            && !(entry.containers.is_empty() && entry.active.is_empty())
        {
            let users = entry
                .containers
                .union(&entry.active)
                .map(ToString::to_string)
                .collect();
            return Err(VolumeError::InUse {
                name: name.to_string(),
                containers: users,
            });
        }
        let data = self.data(name);
        if mount::is_mounted(&data).unwrap_or(false) {
            mount::unmount(&data)?;
        }
        self.throw_away(&self.root.join(name.as_str()))?;
        volumes.remove(name);
        self.database.apply(
            vec![Change::delete(Table::Volumes, name.as_str())],
            Durability::Process,
        )?;
        Ok(())
    }

    fn throw_away(&self, path: &Path) -> Result<(), VolumeError> {
        let target = self.trash.join(format!("volume-{}", random_name()));
        match std::fs::rename(path, &target) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(VolumeError::io("move into the trash", path, e))
            }
            _ => Ok(()),
        }
    }
}

/// The document of a directory that has no row.
fn adopted(name: &VolumeName, entry: &std::fs::DirEntry) -> Document {
    let anonymous =
        name.as_str().len() == 64 && name.as_str().bytes().all(|b| b.is_ascii_hexdigit());
    let created = entry
        .metadata()
        .and_then(|m| m.modified())
        .ok()
        .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
        .and_then(|d| i64::try_from(d.as_nanos()).ok())
        .map_or_else(Timestamp::now, Timestamp::from_unix_nanos);
    Document {
        version: DOCUMENT_VERSION,
        driver: LOCAL.to_owned(),
        created,
        options: BTreeMap::new(),
        labels: anonymous
            .then(|| (ANONYMOUS_LABEL.to_owned(), String::new()))
            .into_iter()
            .collect(),
        made_for: None,
    }
}

/// 64 random hexadecimal digits, as Docker names what nobody named.
pub(crate) fn random_name() -> VolumeName {
    // A container's identifier has exactly this form, and is a volume's name by its alphabet.
    let text = ContainerId::random().to_string();
    match text.parse() {
        Ok(name) => name,
        Err(error) => unreachable!("hexadecimal digits are a volume's name: {error}"),
    }
}
