//! What was removed: renamed into `trash/` at once, unlinked by a thread of its own that leaves the disk to others.
//!
//! What must stay true: `throw` costs one rename; a process that dies loses nothing, the next one goes on.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::SnapshotError;

/// Unlinks between two pauses.
const BATCH: u32 = 32;
/// Longest pause: where an unlink discards blocks at once, a batch takes long, and a pause as long is enough.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Time between being woken and starting, so that whoever removed one container after another is served at once.
const REST: Duration = Duration::from_millis(200);

/// The directory and its thread.
#[derive(Debug)]
pub(crate) struct Trash {
    path: PathBuf,
    next: AtomicU64,
    wake: mpsc::Sender<()>,
}

impl Trash {
    /// Opens or makes the directory and starts on what is in it.
    pub(crate) fn open(path: PathBuf) -> Result<Self, SnapshotError> {
        fs::create_dir_all(&path).map_err(SnapshotError::std("create", &path))?;
        let (wake, woken) = mpsc::channel();
        let directory = path.clone();
        std::thread::Builder::new()
            .name("trash".to_owned())
            .stack_size(256 << 10)
            .spawn(move || empty(&directory, &woken))
            .map_err(SnapshotError::std("start a thread for", &path))?;
        // So that names differ from those of an earlier process.
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let trash = Self {
            path,
            next: AtomicU64::new(u64::try_from(since.as_nanos()).unwrap_or(0)),
            wake,
        };
        trash.wake();
        Ok(trash)
    }

    fn wake(&self) {
        // The thread lives as long as this sender.
        let _ = self.wake.send(());
    }

    /// Takes `path` away. That it is not there is fine.
    pub(crate) fn throw(&self, path: &Path) -> Result<(), SnapshotError> {
        loop {
            let target = self
                .path
                .join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
            match rustix::fs::renameat_with(CWD, path, CWD, &target, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    self.wake();
                    return Ok(());
                }
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(SnapshotError::io("remove", path)(errno)),
            }
        }
    }
}

fn empty(path: &Path, woken: &mpsc::Receiver<()>) {
    // For this thread alone; a kernel that refuses leaves it as it was.
    let _ = rustix::process::setpriority_process(None, 19);
    while woken.recv().is_ok() {
        std::thread::sleep(REST);
        // One look serves all who woke us.
        while woken.try_recv().is_ok() {}
        // A failure (a mount that is still in use, say) is tried again at the next wake-up or start.
        let _ = empty_once(path);
    }
}

fn empty_once(path: &Path) -> rustix::io::Result<()> {
    let directory = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let Ok(entries) = fs::read_dir(path) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let mut done = 0;
        let mut since = Instant::now();
        let name = entry.file_name().into_vec();
        let _ = kekkai_archive::remove_tree(directory.as_fd(), &name, &mut || {
            done += 1;
            if done % BATCH == 0 {
                std::thread::sleep(since.elapsed().min(LONGEST_PAUSE));
                since = Instant::now();
            }
        });
    }
    Ok(())
}
