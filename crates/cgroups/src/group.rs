//! One cgroup, in all hierarchies of a layout.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kekkai_sys::Errno;
use rustix::fs::{CWD, OFlags};

use crate::{CgroupError, Layout, Limits, files, v1, v2};

/// How long [`Cgroup::remove`] waits for the last process to be gone.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long [`Cgroup::freeze`] waits for the kernel.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest path of a cgroup that is taken from outside.
const MAX_PATH: usize = 1024;
/// How deep the cgroups may be nested that a container made in its own.
const MAX_DEPTH: u32 = 64;

/// What a process needs to join a cgroup without waiting.
#[derive(Debug)]
pub enum Join {
    /// The `tasks` files of all hierarchies: the process, single-threaded, writes `0` to each.
    Tasks(Vec<OwnedFd>),
    /// The directory to clone into.
    Into(OwnedFd),
}

/// A cgroup by its path below the roots of the hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroup<'layout> {
    layout: &'layout Layout,
    path: String,
}

impl<'layout> Cgroup<'layout> {
    /// Names a cgroup: `kekkai/<id>`, with or without a leading slash. Nothing is made yet.
    ///
    /// # Errors
    /// [`CgroupError::Invalid`] for an empty path, `..`, or one that is too long.
    pub fn new(layout: &'layout Layout, path: &str) -> Result<Self, CgroupError> {
        let invalid = |reason| CgroupError::Invalid {
            field: "cgroup path",
            value: path.to_owned(),
            reason,
        };
        let clean = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect::<Vec<_>>();
        match () {
            () if path.len() > MAX_PATH => Err(invalid("it is too long")),
            () if clean.is_empty() => Err(invalid("it names the root")),
            () if clean.contains(&"..") || path.contains('\0') => {
                Err(invalid("it leaves the hierarchy"))
            }
            () => Ok(Self {
                layout,
                path: clean.join("/"),
            }),
        }
    }

    /// The path, without a leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn layout(&self) -> &Layout {
        self.layout
    }

    pub(crate) fn v1_file(&self, controller: &str, name: &str) -> Option<PathBuf> {
        self.layout
            .v1_mount(controller)
            .map(|mount| mount.join(&self.path).join(name))
    }

    /// The directories of this cgroup, one per hierarchy.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        match self.layout {
            Layout::V1(hierarchies) => hierarchies
                .iter()
                .map(|hierarchy| hierarchy.mount.join(&self.path))
                .collect(),
            Layout::V2(root) => vec![root.join(&self.path)],
        }
    }

    /// Makes the cgroup with its missing parents and sets its limits. One that exists is reused.
    ///
    /// # Errors
    /// [`CgroupError::Limit`] and [`CgroupError::Unsupported`] for limits; the cgroup exists then and must be removed.
    pub fn create(&self, limits: &Limits) -> Result<(), CgroupError> {
        match self.layout {
            Layout::V1(hierarchies) => {
                v1::check_controllers(hierarchies, limits)?;
                hierarchies
                    .iter()
                    .try_for_each(|hierarchy| v1::create(hierarchy, &self.path))?;
            }
            Layout::V2(root) => v2::create(root, &self.path)?,
        }
        self.update(limits)
    }

    /// Sets limits of a cgroup that exists; `None` leaves what is there.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn update(&self, limits: &Limits) -> Result<(), CgroupError> {
        match self.layout {
            Layout::V1(hierarchies) => {
                v1::check_controllers(hierarchies, limits)?;
                hierarchies
                    .iter()
                    .try_for_each(|hierarchy| v1::apply(hierarchy, &self.path, limits))
            }
            Layout::V2(root) => v2::apply(&root.join(&self.path), limits),
        }
    }

    /// What a new process needs to join. Version-1 hierarchies where the cgroup does not exist are left out.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn join(&self) -> Result<Join, CgroupError> {
        match self.layout {
            Layout::V1(hierarchies) => {
                let mut tasks = Vec::with_capacity(hierarchies.len());
                for hierarchy in hierarchies {
                    let file = hierarchy.mount.join(&self.path).join("tasks");
                    match files::open(&file, OFlags::WRONLY) {
                        Ok(fd) => tasks.push(fd),
                        Err(Errno::NOENT) => {}
                        Err(error) => return Err(CgroupError::file("open", &file)(error)),
                    }
                }
                Ok(Join::Tasks(tasks))
            }
            Layout::V2(root) => {
                let directory = root.join(&self.path);
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                files::open(&directory, flags)
                    .map(Join::Into)
                    .map_err(CgroupError::file("open", &directory))
            }
        }
    }

    /// The hierarchy that tells about processes: any will do, all have the same.
    fn process_directory(&self) -> Result<PathBuf, CgroupError> {
        match self.layout {
            Layout::V1(_) => [
                "pids",
                "freezer",
                "devices",
                "memory",
                "cpu",
                "name=systemd",
            ]
            .iter()
            .find_map(|controller| self.layout.v1_mount(controller))
            .map(|mount| mount.join(&self.path))
            .ok_or(CgroupError::NotMounted),
            Layout::V2(root) => Ok(root.join(&self.path)),
        }
    }

    /// The processes of this cgroup and of those below it, as pids of the caller's pid namespace.
    ///
    /// # Errors
    /// [`CgroupError::File`]; `ENOENT` when it does not exist.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        collect_pids(&self.process_directory()?, &mut pids, 0)?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Stops every process, and waits until the kernel says that they stand.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when that takes longer than five seconds; the cgroup is thawed again then.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.set_frozen(true)
    }

    /// Lets every process go on.
    ///
    /// # Errors
    /// [`CgroupError::File`], [`CgroupError::Limit`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        self.write_frozen(frozen)?;
        while self.is_frozen()? != frozen {
            if Instant::now() > deadline {
                if frozen {
                    self.write_frozen(false)?;
                }
                return Err(CgroupError::Busy {
                    path: self.path.clone(),
                });
            }
            std::thread::sleep(Duration::from_millis(1));
            // A process that was cloned meanwhile is missed by the v1 freezer until it is asked again.
            if frozen && matches!(self.layout, Layout::V1(_)) {
                self.write_frozen(true)?;
            }
        }
        Ok(())
    }

    fn write_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        match self.layout {
            Layout::V1(_) => {
                let file = self.freezer_file()?;
                files::write(&file, if frozen { "FROZEN" } else { "THAWED" })
            }
            Layout::V2(root) => files::write(
                &root.join(&self.path).join("cgroup.freeze"),
                if frozen { "1" } else { "0" },
            ),
        }
    }

    fn freezer_file(&self) -> Result<PathBuf, CgroupError> {
        self.v1_file("freezer", "freezer.state")
            .ok_or_else(|| CgroupError::Unsupported {
                limit: "pausing",
                reason: "the freezer controller is not mounted".into(),
            })
    }

    /// Whether every process stands.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        match self.layout {
            Layout::V1(_) => Ok(files::read(&self.freezer_file()?)?.trim() == "FROZEN"),
            Layout::V2(root) => {
                let events = files::read(&root.join(&self.path).join("cgroup.events"))?;
                Ok(files::value_of(&events, "frozen") == Some(1))
            }
        }
    }

    /// Kills every process, frozen ones too. Returns before they are gone.
    ///
    /// # Errors
    /// [`CgroupError::File`]; a cgroup that does not exist is no error.
    pub fn kill(&self) -> Result<(), CgroupError> {
        if let Layout::V2(root) = self.layout {
            match files::write(&root.join(&self.path).join("cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                // Before Linux 5.14 there is no such file.
                Err(CgroupError::Limit {
                    source: Errno::NOENT,
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        // A process that forks faster than we read is caught by freezing first.
        let frozen = self.write_frozen(true).is_ok();
        let pids = match self.pids() {
            Err(CgroupError::File {
                source: Errno::NOENT,
                ..
            }) => Ok(Vec::new()),
            other => other,
        };
        for pid in pids.iter().flatten() {
            if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if frozen {
            let _ = self.write_frozen(false);
        }
        pids.map(drop)
    }

    /// Removes the cgroup and those that the container made in it. Waits a while for dying processes to be gone; blocks
    /// for up to two seconds.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when processes are left. A cgroup that does not exist is no error.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        let mut pause = Duration::from_micros(200);
        let mut left = self.directories();
        loop {
            left.retain(|directory| remove_tree(directory, 0) == Err(Errno::BUSY));
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(CgroupError::Busy {
                    path: self.path.clone(),
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Whether it exists in any hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.directories()
            .iter()
            .any(|directory| directory.exists())
    }
}

fn collect_pids(directory: &Path, pids: &mut Vec<i32>, depth: u32) -> Result<(), CgroupError> {
    let text = files::read(&directory.join("cgroup.procs"))?;
    pids.extend(
        text.lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    if depth < MAX_DEPTH {
        for child in children(directory) {
            match collect_pids(&child, pids, depth + 1) {
                // Removed while we looked.
                Err(CgroupError::File {
                    source: Errno::NOENT | Errno::NODEV,
                    ..
                }) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes a directory; its children only if the kernel says that there are some.
fn remove_tree(directory: &Path, depth: u32) -> Result<(), Errno> {
    let remove = || match rustix::fs::unlinkat(CWD, directory, rustix::fs::AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    };
    match remove() {
        Err(Errno::BUSY | Errno::NOTEMPTY) if depth < MAX_DEPTH => {
            let children = children(directory);
            if children.is_empty() {
                return Err(Errno::BUSY);
            }
            for child in children {
                remove_tree(&child, depth + 1)?;
            }
            remove()
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect;

    #[test]
    fn paths_stay_inside() {
        let layout = Layout::V2(PathBuf::from("/nowhere"));
        assert_eq!(
            Cgroup::new(&layout, "/kekkai//a/./b/").unwrap().path(),
            "kekkai/a/b"
        );
        for bad in ["", "/", "a/../../b", "..", "a\0b"] {
            assert!(Cgroup::new(&layout, bad).is_err(), "{bad:?}");
        }
    }

    /// A cgroup of our own on this very machine, removed at the end.
    #[test]
    fn life_of_a_cgroup() {
        let Ok(layout) = detect() else {
            println!("skipped: no cgroups here");
            return;
        };
        let parent = format!("kekkai-test-{}", std::process::id());
        let group = Cgroup::new(&layout, &format!("{parent}/one")).unwrap();
        let limits = Limits {
            memory: Some(64 << 20),
            pids: Some(10),
            cpu_shares: Some(512),
            ..Limits::default()
        };
        if let Err(CgroupError::File {
            source: Errno::ACCESS | Errno::PERM | Errno::ROFS,
            ..
        }) = group.create(&limits)
        {
            println!("skipped: may not make cgroups");
            return;
        }
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        for directory in group.directories() {
            std::fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        assert_eq!(group.pids().unwrap(), [i32::try_from(child.id()).unwrap()]);
        assert_eq!(group.stats().pids.limit, Some(10));
        assert_eq!(group.stats().memory.limit, Some(64 << 20));
        group.freeze().unwrap();
        assert!(group.is_frozen().unwrap());
        group.thaw().unwrap();
        assert!(!group.is_frozen().unwrap());
        group
            .update(&Limits {
                memory: Some(32 << 20),
                ..Limits::default()
            })
            .unwrap();
        assert_eq!(group.stats().memory.limit, Some(32 << 20));
        group.freeze().unwrap();
        group.kill().unwrap();
        child.wait().unwrap();
        std::fs::create_dir(group.directories()[0].join("nested")).unwrap();
        group.remove().unwrap();
        assert!(!group.exists());
        Cgroup::new(&layout, &parent).unwrap().remove().unwrap();
    }

    #[test]
    fn nonsense_limits_are_refused() {
        let Ok(layout @ Layout::V1(_)) = detect() else {
            return;
        };
        let parent = format!("kekkai-test-bad-{}", std::process::id());
        let group = Cgroup::new(&layout, &format!("{parent}/one")).unwrap();
        let error = group
            .create(&Limits {
                cpuset_cpus: Some("4000".into()),
                ..Limits::default()
            })
            .unwrap_err();
        assert!(
            matches!(error, CgroupError::Limit { .. } | CgroupError::File { .. }),
            "{error}"
        );
        group.remove().unwrap();
        Cgroup::new(&layout, &parent).unwrap().remove().unwrap();
    }
}
