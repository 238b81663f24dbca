//! The names of a log's files: rotation by renaming, and what follows it in the background.
//!
//! ```text
//!   container.log ─▶ container.log.1 ─▶ container.log.2 … ─▶ container.log.trash-… ─▶ unlinked (chore)
//!                        └─ (chore) container.log.gz-… ─▶ container.log.<where it is by then>.gz
//! ```
//!
//! What must stay true: rotating only renames to names that do not exist, so nothing is freed where output waits;
//! at every instant each kept file has one of its two names; a crash leaves at most a `trash-` or `gz-` file, which the
//! next rotation sweeps up.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Work that may wait for a disk and nobody waits for.
#[derive(Debug)]
pub(crate) enum Chore {
    /// Unlink a file.
    Unlink(PathBuf),
    /// Compress a rotated file.
    Compress(Compress),
    /// Close a descriptor whose last close may take long (a mount, a deleted file).
    Close(OwnedFd),
}

impl Chore {
    /// Does it. Errors are swallowed: a file that stays is swept up later or is read uncompressed.
    pub(crate) fn run(self) {
        match self {
            Self::Unlink(path) => drop(fs::remove_file(path)),
            Self::Compress(job) => drop(job.run()),
            Self::Close(fd) => drop(fd),
        }
    }
}

/// Tells files apart for as long as a log is kept: a number alone is used again by the next file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    inode: u64,
    /// Nanoseconds since 1970; 0 where the file system does not know.
    born: u64,
}

impl Identity {
    pub(crate) fn of(meta: &fs::Metadata) -> Self {
        let born = meta
            .created()
            .ok()
            .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        Self {
            inode: meta.ino(),
            born: born
                .and_then(|since| u64::try_from(since.as_nanos()).ok())
                .unwrap_or(0),
        }
    }

    /// Whether both are known to be the same file.
    pub(crate) fn is(self, other: Self) -> bool {
        self == other && self.inode != 0
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.born) << 64 | u128::from(self.inode)).to_le_bytes()
    }

    pub(crate) fn from_bytes(bytes: &[u8; 16]) -> Self {
        let number = u128::from_le_bytes(*bytes);
        let half = |number: u128| u64::try_from(number & u128::from(u64::MAX)).unwrap_or(0);
        Self {
            inode: half(number),
            born: half(number >> 64),
        }
    }
}

/// Shared by a log's writer and its compressions: how often it was rotated. Locked while names change.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    generation: Mutex<u64>,
}

impl Rotation {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One [`Rotation`] per path in this process: a restarted container's writer shares it with compressions of before.
pub(crate) fn rotation_of(path: &Path) -> Arc<Rotation> {
    static KNOWN: Mutex<Vec<(PathBuf, Weak<Rotation>)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|(_, rotation)| rotation.strong_count() > 0);
    if let Some(rotation) = known
        .iter()
        .find(|(known, _)| known == path)
        .and_then(|(_, rotation)| rotation.upgrade())
    {
        return rotation;
    }
    let rotation = Arc::new(Rotation::default());
    known.push((path.to_owned(), Arc::downgrade(&rotation)));
    rotation
}

/// `path` with something appended to its last component.
pub(crate) fn with_suffix(path: &Path, suffix: impl std::fmt::Display) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix.to_string());
    name.into()
}

/// Moves every file one name on. `keep` is how many files stay, the (then missing) current one included.
pub(crate) fn rotate(
    path: &Path,
    keep: u32,
    compress: bool,
    rotation: &Arc<Rotation>,
    chores: &dyn Fn(Chore),
) -> io::Result<()> {
    let mut generation = rotation.lock();
    sweep(path, chores);
    *generation += 1;
    let stamp = format!(".trash-{}-{generation}", std::process::id());
    let last = keep.max(1) - 1;
    for number in (0..=last).rev() {
        let suffixes: &[&str] = if number == 0 { &[""] } else { &["", ".gz"] };
        for suffix in suffixes {
            let from = if number == 0 {
                path.to_owned()
            } else {
                with_suffix(path, format_args!(".{number}{suffix}"))
            };
            let to = if number == last {
                with_suffix(path, format_args!("{stamp}{suffix}"))
            } else {
                with_suffix(path, format_args!(".{}{suffix}", number + 1))
            };
            match fs::rename(&from, &to) {
                Ok(()) if number == last => chores(Chore::Unlink(to)),
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    if compress && last > 0 {
        let rotation = Arc::clone(rotation);
        chores(Chore::Compress(Compress {
            path: path.to_owned(),
            keep,
            born: *generation,
            rotation,
        }));
    }
    Ok(())
}

/// Hands what a crash left behind to the chores. Called under the rotation's lock, and a compression under way holds
/// its file open under a name of this process, which is spared.
fn sweep(path: &Path, chores: &dyn Fn(Chore)) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mine = format!("-{}-", std::process::id());
    for entry in entries.flatten() {
        let file = entry.file_name();
        let Some(rest) = file
            .as_encoded_bytes()
            .strip_prefix(name.as_encoded_bytes())
        else {
            continue;
        };
        let left_over = rest.starts_with(b".trash-") || rest.starts_with(b".gz-");
        if left_over && !String::from_utf8_lossy(rest).contains(&mine) {
            chores(Chore::Unlink(entry.path()));
        }
    }
}

/// Compresses the file that was rotated away when the generation became `born`.
#[derive(Debug)]
pub(crate) struct Compress {
    path: PathBuf,
    keep: u32,
    born: u64,
    rotation: Arc<Rotation>,
}

impl Compress {
    /// The number that the file has now, if it is still kept.
    fn number(&self, generation: u64) -> Option<u64> {
        let number = generation - self.born + 1;
        (number < u64::from(self.keep)).then_some(number)
    }

    fn run(self) -> io::Result<()> {
        let source = {
            let generation = self.rotation.lock();
            let Some(number) = self.number(*generation) else {
                return Ok(());
            };
            File::open(with_suffix(&self.path, format_args!(".{number}")))?
        };
        let temporary = with_suffix(
            &self.path,
            format_args!(".gz-{}-{}", std::process::id(), self.born),
        );
        let result = self.write(&source, &temporary);
        if result.is_err() {
            drop(fs::remove_file(&temporary));
        }
        result
    }

    fn write(&self, source: &File, temporary: &Path) -> io::Result<()> {
        let target = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(temporary)?;
        let extra = Identity::of(&source.metadata()?).to_bytes();
        let mut encoder = flate2::GzBuilder::new()
            .extra(extra)
            .write(target, flate2::Compression::new(4));
        let mut source = source;
        io::copy(&mut source, &mut encoder)?;
        encoder.finish()?.flush()?;
        let generation = self.rotation.lock();
        let Some(number) = self.number(*generation) else {
            drop(generation);
            return fs::remove_file(temporary);
        };
        let plain = with_suffix(&self.path, format_args!(".{number}"));
        let trash = with_suffix(
            &self.path,
            format_args!(".trash-{}-gz{}", std::process::id(), self.born),
        );
        fs::rename(
            temporary,
            with_suffix(&self.path, format_args!(".{number}.gz")),
        )?;
        fs::rename(plain, &trash)?;
        drop(generation);
        fs::remove_file(trash)
    }
}
