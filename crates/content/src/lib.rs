//! Content-addressed blobs: `content/blobs/sha256/<hex>`, written through `content/ingest/`.
//!
//! ```text
//!   writer() → ingest/<n>     write…, hashing      commit(expected) → rename to blobs/sha256/<hex>
//! ```
//!
//! What must stay true: a file under `blobs/` holds the bytes of its name, was whole when it got the name, and is never
//! written again; a name is never renamed over (a file that is there already holds the same bytes). Making a blob
//! durable is the caller's: one `syncfs` for a whole image (pitfall 15).

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kekkai_types::{Classify, Digest, DigestAlgorithm, ErrorClass};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The blob is not there.
    #[error("blob {0} does not exist")]
    NotFound(Digest),
    /// The bytes are not those of the digest.
    #[error("wrong digest: expected {expected}, got {actual}")]
    WrongDigest {
        /// Promised.
        expected: Digest,
        /// Got.
        actual: Digest,
    },
    /// A digest of an algorithm that we do not compute.
    #[error("unsupported digest algorithm: {0}")]
    Algorithm(Digest),
    /// More bytes than the reader allowed.
    #[error("blob {digest} is larger than {limit} bytes")]
    TooLarge {
        /// Which.
        digest: Digest,
        /// The bound.
        limit: u64,
    },
    /// A system call failed.
    #[error("{operation} {path:?}: {}", kekkai_archive::words(source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

impl Classify for ContentError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound(_) => ErrorClass::NotFound,
            Self::Algorithm(_) => ErrorClass::InvalidArgument,
            Self::WrongDigest { .. } | Self::TooLarge { .. } | Self::Io { .. } => {
                ErrorClass::Internal
            }
        }
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContentError {
    let path = path.to_owned();
    move |source| ContentError::Io {
        operation,
        path,
        source,
    }
}

/// SHA-256, running.
#[derive(Clone)]
pub struct Sha256(ring::digest::Context);

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sha256")
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self(ring::digest::Context::new(&ring::digest::SHA256))
    }
}

impl Sha256 {
    /// Takes more bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of all bytes.
    #[must_use]
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Digest::from_sha256(&bytes)
    }

    /// The digest of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Digest {
        let mut hash = Self::default();
        hash.update(data);
        hash.finish()
    }

    /// The raw digest of `data`, as [`kekkai_types::ChainId::of`] wants it.
    #[must_use]
    pub fn raw(data: &[u8]) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, data).as_ref());
        bytes
    }
}

/// The store. Methods block.
#[derive(Debug)]
pub struct ContentStore {
    blobs: PathBuf,
    ingest: PathBuf,
    next: AtomicU64,
    leases: Arc<Mutex<HashMap<Digest, usize>>>,
}

/// Keeps blobs from being collected while it lives.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Mutex<HashMap<Digest, usize>>>,
    digests: Mutex<Vec<Digest>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lease {
    /// Covers one more blob, whether it exists yet or not.
    pub fn add(&self, digest: &Digest) {
        *locked(&self.leases).entry(digest.clone()).or_default() += 1;
        locked(&self.digests).push(digest.clone());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = locked(&self.leases);
        for digest in locked(&self.digests).drain(..) {
            if let Some(count) = leases.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    leases.remove(&digest);
                }
            }
        }
    }
}

/// A blob that is being written.
#[derive(Debug)]
pub struct BlobWriter {
    file: Option<File>,
    path: PathBuf,
    blobs: PathBuf,
    hash: Sha256,
    size: u64,
}

impl ContentStore {
    /// Opens or makes the store at `root`. Half-written blobs of an earlier process are removed.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn open(root: &Path) -> Result<Self, ContentError> {
        let store = Self {
            blobs: root.join("blobs/sha256"),
            ingest: root.join("ingest"),
            next: AtomicU64::new(0),
            leases: Arc::default(),
        };
        for path in [&store.blobs, &store.ingest] {
            fs::create_dir_all(path).map_err(failed("create", path))?;
        }
        for entry in fs::read_dir(&store.ingest).map_err(failed("list", &store.ingest))? {
            let entry = entry.map_err(failed("list", &store.ingest))?;
            let path = entry.path();
            // Users of the store may keep temporary directories there too.
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_directory {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(failed("remove", &path))?;
        }
        Ok(store)
    }

    /// A lease on nothing yet.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease {
            leases: Arc::clone(&self.leases),
            digests: Mutex::default(),
        }
    }

    /// Where the blob is, or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        // The store holds SHA-256 only; another algorithm has a name that never exists here.
        match digest.algorithm() {
            DigestAlgorithm::Sha256 => self.blobs.join(digest.hex()),
            DigestAlgorithm::Sha512 => self.blobs.join(format!("sha512-{}", digest.hex())),
        }
    }

    /// The blob's size, if it is there.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest))
            .ok()
            .map(|metadata| metadata.len())
    }

    /// Opens the blob for reading.
    ///
    /// # Errors
    /// [`ContentError::NotFound`].
    pub fn reader(&self, digest: &Digest) -> Result<File, ContentError> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ContentError::NotFound(digest.clone()),
            _ => ContentError::Io {
                operation: "open",
                path,
                source,
            },
        })
    }

    /// Reads a small blob whole and verifies it.
    ///
    /// # Errors
    /// [`ContentError::TooLarge`] above `limit` bytes, [`ContentError::WrongDigest`] for damage on the disk.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ContentError> {
        let mut data = Vec::new();
        self.reader(digest)?
            .take(limit + 1)
            .read_to_end(&mut data)
            .map_err(failed("read", &self.path(digest)))?;
        if data.len() as u64 > limit {
            return Err(ContentError::TooLarge {
                digest: digest.clone(),
                limit,
            });
        }
        verify(digest, &data)?;
        Ok(data)
    }

    /// Begins a blob.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn writer(&self) -> Result<BlobWriter, ContentError> {
        let path = self
            .ingest
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("create", &path))?;
        Ok(BlobWriter {
            file: Some(file),
            path,
            blobs: self.blobs.clone(),
            hash: Sha256::default(),
            size: 0,
        })
    }

    /// Stores a small blob and returns its digest.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn put(&self, data: &[u8]) -> Result<Digest, ContentError> {
        let digest = Sha256::of(data);
        if self.size(&digest) == Some(data.len() as u64) {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        writer.write(data)?;
        writer.commit(&digest)?;
        Ok(digest)
    }

    /// Removes the blob unless a lease covers it; returns the bytes that become free.
    ///
    /// # Errors
    /// [`ContentError::Io`]. A blob that is not there is no error.
    pub fn remove(&self, digest: &Digest) -> Result<u64, ContentError> {
        let leases = locked(&self.leases);
        if leases.contains_key(digest) {
            return Ok(0);
        }
        let size = self.size(digest).unwrap_or(0);
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Ok(()) => Ok(size),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(ContentError::Io {
                operation: "remove",
                path,
                source,
            }),
        }
    }

    /// Removes a blob whose bytes turned out to be wrong, leased or not: whoever needs it must store it again.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn remove_damaged(&self, digest: &Digest) -> Result<(), ContentError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ContentError::Io {
                operation: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Every blob with its size.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn list(&self) -> Result<Vec<(Digest, u64)>, ContentError> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.blobs).map_err(failed("list", &self.blobs))? {
            let entry = entry.map_err(failed("list", &self.blobs))?;
            let name = entry.file_name();
            let digest = name
                .to_str()
                .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if let Some(digest) = digest {
                all.push((
                    digest,
                    entry
                        .metadata()
                        .map_err(failed("stat", &entry.path()))?
                        .len(),
                ));
            }
        }
        Ok(all)
    }

    /// Takes away every blob that neither `used` nor a lease wants; returns the bytes. `take` is given the files; it may
    /// unlink them, or move them to where they are unlinked later.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn collect(
        &self,
        used: &dyn Fn(&Digest) -> bool,
        take: &dyn Fn(&Path) -> io::Result<()>,
    ) -> Result<u64, ContentError> {
        let mut freed = 0;
        for (digest, size) in self.list()? {
            if used(&digest) {
                continue;
            }
            // Held, so that no lease is taken on it meanwhile.
            let leases = locked(&self.leases);
            if leases.contains_key(&digest) {
                continue;
            }
            let path = self.path(&digest);
            take(&path).map_err(failed("remove", &path))?;
            freed += size;
        }
        Ok(freed)
    }
}

/// Whether `data` is what `digest` names.
///
/// # Errors
/// [`ContentError::WrongDigest`], or [`ContentError::Algorithm`] for one that is not computed here.
pub fn verify(digest: &Digest, data: &[u8]) -> Result<(), ContentError> {
    if digest.algorithm() != DigestAlgorithm::Sha256 {
        return Err(ContentError::Algorithm(digest.clone()));
    }
    let actual = Sha256::of(data);
    if actual == *digest {
        Ok(())
    } else {
        Err(ContentError::WrongDigest {
            expected: digest.clone(),
            actual,
        })
    }
}

impl BlobWriter {
    /// Appends.
    ///
    /// # Errors
    /// [`ContentError::Io`], e.g. no space.
    pub fn write(&mut self, data: &[u8]) -> Result<(), ContentError> {
        self.hash.update(data);
        self.size += data.len() as u64;
        match &mut self.file {
            Some(file) => file.write_all(data).map_err(failed("write", &self.path)),
            None => Ok(()),
        }
    }

    /// Bytes so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of all bytes so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.hash.clone().finish()
    }

    /// Gives the blob its name, if its bytes are those of `expected`. Not durable yet.
    ///
    /// # Errors
    /// [`ContentError::WrongDigest`]; nothing is kept then.
    pub fn commit(mut self, expected: &Digest) -> Result<(), ContentError> {
        if expected.algorithm() != DigestAlgorithm::Sha256 {
            return Err(ContentError::Algorithm(expected.clone()));
        }
        let actual = self.digest();
        if actual != *expected {
            return Err(ContentError::WrongDigest {
                expected: expected.clone(),
                actual,
            });
        }
        let target = self.blobs.join(expected.hex());
        match rustix::fs::renameat_with(CWD, &self.path, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.file = None;
                Ok(())
            }
            // Somebody else was faster; the bytes are the same. Ours goes when `self` is dropped.
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed("rename", &target)(errno.into())),
        }
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // What stays is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn only_the_right_bytes_get_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = ContentStore::open(directory.path()).unwrap();
        let digest = store.put(b"hello").unwrap();
        assert_eq!(
            digest.to_string(),
            "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
        assert_eq!(store.read(&digest, 5).unwrap(), b"hello");
        assert!(matches!(
            store.read(&digest, 4),
            Err(ContentError::TooLarge { .. })
        ));
        let mut writer = store.writer().unwrap();
        writer.write(b"other").unwrap();
        assert!(matches!(
            writer.commit(&digest),
            Err(ContentError::WrongDigest { .. })
        ));
        // A second copy of the same bytes is thrown away.
        let mut writer = store.writer().unwrap();
        writer.write(b"hello").unwrap();
        writer.commit(&digest).unwrap();
        assert_eq!((names(&store.ingest), names(&store.blobs)), (0, 1));
        fs::write(store.path(&digest), "hellO").unwrap();
        assert!(matches!(
            store.read(&digest, 5),
            Err(ContentError::WrongDigest { .. })
        ));
    }

    #[test]
    fn leases_and_collection() {
        let directory = tempfile::tempdir().unwrap();
        let store = ContentStore::open(directory.path()).unwrap();
        let (a, b, c) = (
            store.put(b"a").unwrap(),
            store.put(b"bb").unwrap(),
            store.put(b"ccc").unwrap(),
        );
        let lease = store.lease();
        lease.add(&b);
        assert_eq!(
            store
                .collect(&|digest| *digest == a, &|path| fs::remove_file(path))
                .unwrap(),
            3
        );
        assert!(store.size(&a).is_some() && store.size(&b).is_some() && store.size(&c).is_none());
        drop(lease);
        assert_eq!(
            store
                .collect(&|digest| *digest == a, &|path| fs::remove_file(path))
                .unwrap(),
            2
        );
        assert!(matches!(store.reader(&b), Err(ContentError::NotFound(_))));
    }

    #[test]
    fn leftovers_go_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let store = ContentStore::open(directory.path()).unwrap();
        std::mem::forget(store.writer().unwrap());
        fs::create_dir_all(store.ingest.join("load-1/x")).unwrap();
        assert_eq!(names(&store.ingest), 2);
        let store = ContentStore::open(directory.path()).unwrap();
        assert_eq!(names(&store.ingest), 0);
    }
}
