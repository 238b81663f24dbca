//! Copying files in and out.

use bytes::Bytes;

/// Docker's `X-Docker-Container-Path-Stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveStat {
    /// Last part of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `os.FileMode` bits (directory is bit 31 …), as the wire wants them.
    pub mode: u32,
    /// Last change.
    pub mtime: kekkai_types::Timestamp,
    /// Where a symbolic link points, resolved inside the container; empty otherwise.
    pub link_target: String,
}

/// How to unpack an archive into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchivePut {
    /// Refuse to replace a directory by a file and the reverse.
    pub no_overwrite_dir_non_dir: bool,
    /// Keep the owners of the archive.
    pub copy_uid_gid: bool,
}

/// A body that comes in pieces, of an archive going in or out. The sender stops when the receiver is dropped.
pub type ByteStream = tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>;

/// How many pieces may wait in a `ByteStream`.
pub const BYTE_STREAM_DEPTH: usize = 8;
