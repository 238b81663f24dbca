//! One daemon per data root and per exec root: locks, and the file with the process id.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// Held for as long as the daemon lives; the kernel lets go of the locks whatever becomes of us.
#[derive(Debug)]
pub(super) struct Instance {
    _locks: [File; 2],
    pidfile: PathBuf,
}

impl Instance {
    /// Makes both roots and claims them.
    ///
    /// # Errors
    /// When another daemon has one of them, or the pid file is that of a living process.
    pub(super) fn claim(
        data_root: &Path,
        exec_root: &Path,
        pidfile: &Path,
    ) -> anyhow::Result<Self> {
        make_directory(data_root, 0o711)?;
        make_directory(exec_root, 0o711)?;
        let locks = [lock(data_root)?, lock(exec_root)?];
        write_pidfile(pidfile)
            .with_context(|| format!("failed to start daemon: pid file {}", pidfile.display()))?;
        Ok(Self {
            _locks: locks,
            pidfile: pidfile.to_owned(),
        })
    }

    /// Takes the pid file away; the locks go with the process.
    pub(super) fn release(&self) {
        // A file that is gone already is as good.
        let _ = std::fs::remove_file(&self.pidfile);
    }
}

fn make_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("creating {}", path.display()))
}

fn lock(root: &Path) -> anyhow::Result<File> {
    let path = root.join("daemon.lock");
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
        .with_context(|| format!("opening {}", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(Errno::WOULDBLOCK) => bail!("another kekkai daemon is using {}", root.display()),
        Err(error) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

fn write_pidfile(path: &Path) -> anyhow::Result<()> {
    let own = std::process::id();
    if let Ok(text) = std::fs::read_to_string(path)
        && let Ok(pid) = text.trim().parse::<u32>()
        && pid != own
        && is_daemon(pid)
    {
        bail!("process with PID {pid} is still running");
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
    let mut file: File = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?.into();
    write!(file, "{own}")?;
    Ok(())
}

/// Whether a process runs this program as a daemon: after a crash its number may have gone to somebody else.
fn is_daemon(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        line.split(|byte| *byte == 0)
            .nth(1)
            .is_some_and(|word| word == b"daemon")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let base = tempfile::tempdir().unwrap();
        let (data, exec) = (base.path().join("d"), base.path().join("e"));
        let pidfile = base.path().join("pid");
        let first = Instance::claim(&data, &exec, &pidfile).unwrap();
        let error = Instance::claim(&data, &base.path().join("e2"), &pidfile).unwrap_err();
        assert!(error.to_string().contains("another kekkai daemon is using"));
        first.release();
        drop(first);
        assert!(!pidfile.exists());
        std::fs::write(&pidfile, "1").unwrap();
        Instance::claim(&data, &exec, &pidfile).unwrap();
    }
}
