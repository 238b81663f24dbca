//! A thread that clears away what ended containers leave: cgroups and run-time files. Nobody waits for it on a hot path.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use kekkai_cgroups::{Cgroup, Layout};
use tokio::sync::oneshot;

/// How often a cgroup is tried again whose last process is still going away.
const TRIES: u32 = 50;

/// Something to clear away.
#[derive(Debug)]
pub(crate) enum Chore {
    /// Remove a cgroup, relative to each hierarchy; then answer.
    Cgroup {
        path: String,
        done: Option<oneshot::Sender<()>>,
    },
    /// Remove a small directory tree on the exec root.
    Directory(PathBuf),
}

/// The handle of the thread. The thread ends with the last handle.
#[derive(Debug)]
pub(crate) struct Janitor {
    sender: mpsc::Sender<Chore>,
}

fn remove_cgroup(layout: &Layout, path: &str) {
    let cgroup = match Cgroup::new(layout, path) {
        Ok(cgroup) => cgroup,
        Err(error) => {
            tracing::warn!(%error, path, "naming a cgroup to remove");
            return;
        }
    };
    for attempt in 0..TRIES {
        match cgroup.remove() {
            Ok(()) => return,
            Err(error) if attempt + 1 == TRIES => tracing::warn!(%error, path, "removing a cgroup"),
            // What an exec session left behind dies with it; processes of a pid namespace are on their way out.
            Err(_) => {
                if attempt == 5
                    && let Err(error) = cgroup.kill()
                {
                    tracing::debug!(%error, path, "killing what is left in a cgroup");
                }
                std::thread::sleep(Duration::from_millis(if attempt < 10 { 1 } else { 20 }));
            }
        }
    }
}

impl Janitor {
    /// Starts the thread.
    pub(crate) fn start(layout: Layout) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Chore>();
        std::thread::Builder::new().name("janitor".to_owned()).stack_size(128 << 10).spawn(move || {
            for chore in receiver {
                match chore {
                    Chore::Cgroup { path, done } => {
                        remove_cgroup(&layout, &path);
                        if let Some(done) = done {
                            // Whoever asked may have gone.
                            let _ = done.send(());
                        }
                    }
                    Chore::Directory(path) => match std::fs::remove_dir_all(&path) {
                        Ok(()) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                        Err(error) => tracing::warn!(%error, path = %path.display(), "removing run-time files"),
                    },
                }
            }
        })?;
        Ok(Self { sender })
    }

    /// Queues a chore.
    pub(crate) fn add(&self, chore: Chore) {
        // The thread only ends after this handle has.
        let _ = self.sender.send(chore);
    }
}
