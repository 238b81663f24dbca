//! Copying files in and out of a container. A running one is entered through its root's descriptor; a stopped one is
//! mounted detached, in no namespace, with its volumes and binds.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kekkai_archive::{ArchiveError, UnpackOptions, pack_path, stat_path, unpack_into};
use kekkai_types::ErrorClass;
use rustix::fs::{Mode, OFlags};
use tokio::sync::{OwnedRwLockReadGuard, mpsc};

use crate::EngineError;
use crate::container::Container;
use crate::create::mounts::clean;
use crate::inner::Inner;
use crate::model::{ArchivePut, ArchiveStat, BYTE_STREAM_DEPTH, ByteStream, Lifecycle, MountKind};

/// Bytes in one piece of a stream.
const PIECE: usize = 64 * 1024;
/// The longest passwd file that is read to find a user.
const MAX_PASSWD: usize = 1 << 20;

/// A container, and how the client called it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) container: Arc<Container>,
    pub(crate) called: String,
}

fn archive_error(target: &Target, path: &str, error: &ArchiveError) -> EngineError {
    match kekkai_types::Classify::class(error) {
        ErrorClass::NotFound => EngineError::NotFound(format!(
            "Could not find the file {path} in container {}",
            target.called
        )),
        ErrorClass::InvalidArgument => EngineError::Invalid(error.to_string()),
        ErrorClass::Conflict => EngineError::Conflict(error.to_string()),
        _ => EngineError::System(error.to_string()),
    }
}

fn check_path(path: &str) -> Result<(), EngineError> {
    if path.is_empty() {
        return Err(EngineError::Invalid(
            "bad parameter: path cannot be empty".to_owned(),
        ));
    }
    Ok(())
}

/// The root of a container's files. Blocks.
fn root(inner: &Inner, container: &Container) -> Result<OwnedFd, EngineError> {
    let lifecycle = container.lifecycle();
    if matches!(lifecycle, Lifecycle::Removing | Lifecycle::Dead) {
        return Err(EngineError::Conflict(format!(
            "container {} is marked for removal",
            container.id
        )));
    }
    if let Some(running) = lifecycle.running() {
        let path = format!("/proc/{}/root", running.pid);
        let opened = rustix::fs::open(
            &path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        // The process may have ended while we opened: then this is no longer its directory.
        match opened {
            Ok(root) if container.lifecycle().running() == Some(running) => return Ok(root),
            _ if container.lifecycle().running() == Some(running) => {
                return Err(EngineError::System(format!(
                    "entering container {}",
                    container.id
                )));
            }
            _ => {}
        }
    }
    container.lock().fresh_work = false;
    let root = inner
        .snapshotter
        .mount_detached(&container.id.to_string())
        .map_err(|error| EngineError::System(error.to_string()))?;
    let spec = container.spec();
    for point in spec
        .mounts
        .iter()
        .filter(|point| point.kind != MountKind::Tmpfs)
    {
        if let Err(error) = mount_on(root.as_fd(), &point.source, &point.destination) {
            tracing::debug!(container = %container.id, destination = point.destination, %error, "mounting for a copy");
        }
    }
    Ok(root)
}

/// Mounts a directory or file of the host within a detached tree.
fn mount_on(root: std::os::fd::BorrowedFd<'_>, source: &str, destination: &str) -> io::Result<()> {
    let source = std::ffi::CString::new(source)?;
    let tree = kekkai_sys::mount::clone_path(&source, true).map_err(io::Error::from)?;
    let target = match kekkai_sys::beneath::open(root, destination, OFlags::PATH, Mode::empty()) {
        Ok(target) => target,
        // The place is made at the first start; here it may be too early for that.
        Err(_) if rustix::fs::fstat(&tree).is_ok_and(|stat| is_directory(&stat)) => {
            kekkai_sys::beneath::mkdir_all(root, destination, Mode::from_raw_mode(0o755))
                .map_err(io::Error::from)?
        }
        Err(_) => kekkai_sys::beneath::create_file(root, destination, Mode::from_raw_mode(0o644))
            .map_err(io::Error::from)?,
    };
    kekkai_sys::mount::attach(tree.as_fd(), target.as_fd()).map_err(io::Error::from)
}

fn is_directory(stat: &rustix::fs::Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| EngineError::Internal(error.to_string()))?
}

fn stat_in(target: &Target, root: &OwnedFd, path: &str) -> Result<ArchiveStat, EngineError> {
    let stat = stat_path(root.as_fd(), Path::new(path))
        .map_err(|error| archive_error(target, path, &error))?;
    Ok(ArchiveStat {
        name: stat.name,
        size: stat.size,
        mode: stat.mode,
        mtime: stat.mtime,
        link_target: stat.link_target,
    })
}

/// Keeps a stopped container from being started while its files are mounted here.
async fn hold(container: &Container) -> Option<OwnedRwLockReadGuard<()>> {
    if container.lifecycle().is_running() {
        return None;
    }
    Some(Arc::clone(&container.storage).read_owned().await)
}

/// What is at a path of a container.
pub(crate) async fn stat(
    inner: Arc<Inner>,
    target: Target,
    path: String,
) -> Result<ArchiveStat, EngineError> {
    check_path(&path)?;
    let held = hold(&target.container).await;
    blocking(move || {
        let root = root(&inner, &target.container)?;
        let stat = stat_in(&target, &root, &path);
        drop((root, held));
        stat
    })
    .await
}

/// Sends what is written in pieces.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(
            &mut self.piece,
            Vec::with_capacity(PIECE),
        ));
        self.sender
            .blocking_send(Ok(piece))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A path of a container as a tar stream.
pub(crate) async fn get(
    inner: Arc<Inner>,
    target: Target,
    path: String,
) -> Result<(ArchiveStat, ByteStream), EngineError> {
    check_path(&path)?;
    let container = Arc::clone(&target.container);
    let held = hold(&container).await;
    let (of, at, within) = (target, path.clone(), Arc::clone(&inner));
    let (root, stat) = blocking(move || {
        let root = root(&within, &of.container)?;
        let stat = stat_in(&of, &root, &at)?;
        Ok((root, stat))
    })
    .await?;
    inner.container_event(&container, "archive-path", &[]);
    let (sender, receiver) = mpsc::channel(BYTE_STREAM_DEPTH);
    tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces {
            sender,
            piece: Vec::with_capacity(PIECE),
        };
        let outcome = pack_path(root.as_fd(), Path::new(&path), &mut pieces)
            .map_err(|error| io::Error::other(error.to_string()))
            .and_then(|()| pieces.flush());
        if let Err(error) = outcome
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            // Tells the client that the stream is cut.
            drop(pieces.sender.blocking_send(Err(error)));
        }
        drop((root, held));
    });
    Ok((stat, receiver))
}

/// Reads what comes in pieces.
struct Incoming {
    receiver: ByteStream,
    piece: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let taken = self.piece.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&self.piece.split_to(taken));
        Ok(taken)
    }
}

/// Whether a path may be written to, by the mount it lies on.
fn check_writable(container: &Container, path: &str) -> Result<(), EngineError> {
    let (spec, path) = (container.spec(), clean(path));
    let beneath =
        |destination: &str| path == destination || path.starts_with(&format!("{destination}/"));
    let deepest = spec
        .mounts
        .iter()
        .filter(|point| beneath(&point.destination))
        .max_by_key(|point| point.destination.len());
    match deepest {
        Some(point) if !point.read_write => Err(EngineError::Forbidden(
            "mounted volume is marked read-only".to_owned(),
        )),
        None if spec.host.readonly_rootfs => Err(EngineError::Forbidden(
            "container rootfs is marked read-only".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// The user and group that the container runs as, looked up in its own passwd.
fn owner(container: &Container, root: &OwnedFd) -> Result<(u32, u32), EngineError> {
    let spec = container.spec();
    let text = spec.config.user.clone().unwrap_or_default();
    if text.is_empty() {
        return Ok((0, 0));
    }
    let (user, group) = text.split_once(':').unwrap_or((&text, ""));
    let file = |path: &str| {
        let bytes =
            kekkai_sys::beneath::read_file(root.as_fd(), path, MAX_PASSWD).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let find = |path: &str, name: &str| {
        file(path).lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let matches = fields.first() == Some(&name) || fields.get(2) == Some(&name);
            matches
                .then(|| {
                    (
                        fields.get(2)?.parse().ok(),
                        fields.get(3).and_then(|gid| gid.parse().ok()),
                    )
                        .into()
                })
                .flatten()
        })
    };
    let missing = |what: &str, name: &str| {
        EngineError::Invalid(format!(
            "unable to find {what} {name}: no matching entries in {what} file"
        ))
    };
    let found: Option<(Option<u32>, Option<u32>)> = find("etc/passwd", user);
    let uid = found
        .and_then(|(uid, _)| uid)
        .or_else(|| user.parse().ok())
        .ok_or_else(|| missing("user", user))?;
    let gid = if group.is_empty() {
        found.and_then(|(_, gid)| gid).unwrap_or(0)
    } else {
        let found: Option<(Option<u32>, Option<u32>)> = find("etc/group", group);
        found
            .and_then(|(gid, _)| gid)
            .or_else(|| group.parse().ok())
            .ok_or_else(|| missing("group", group))?
    };
    Ok((uid, gid))
}

/// Unpacks a tar stream into a directory of a container.
pub(crate) async fn put(
    inner: Arc<Inner>,
    target: Target,
    path: String,
    options: ArchivePut,
    body: ByteStream,
) -> Result<(), EngineError> {
    check_path(&path)?;
    let container = Arc::clone(&target.container);
    check_writable(&container, &path)?;
    let held = hold(&container).await;
    let (of, within) = (target, Arc::clone(&inner));
    blocking(move || {
        let _held = held;
        let root = root(&within, &of.container)?;
        let options = UnpackOptions {
            no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
            owner: if options.copy_uid_gid {
                Some(owner(&of.container, &root)?)
            } else {
                None
            },
        };
        let stat = stat_path(
            root.as_fd(),
            Path::new(&format!("{}/", path.trim_end_matches('/'))),
        );
        if stat.is_err() {
            // Tells apart what is missing and what is no directory, as dockerd does.
            stat_in(&of, &root, &path)?;
            return Err(EngineError::Invalid(
                "extraction point is not a directory".to_owned(),
            ));
        }
        let mut reader = BufReader::with_capacity(
            PIECE,
            Incoming {
                receiver: body,
                piece: Bytes::new(),
            },
        );
        unpack_into(root.as_fd(), Path::new(&path), &mut reader, &options)
            .map_err(|error| archive_error(&of, &path, &error))
    })
    .await?;
    inner.container_event(&container, "extract-to-dir", &[]);
    Ok(())
}
