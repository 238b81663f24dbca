//! Tar streams and directories: layers applied to a directory, trees packed into a stream, decompression by magic bytes.
//!
//! What must stay true: nothing outside the directory whose descriptor was given is read or written, whatever the
//! stream or the tree says; every number and name from the stream is bounded; an error leaves at most a half-filled
//! directory, which the caller throws away.

#![forbid(unsafe_code)]

mod apply;
mod compress;
mod copy;
mod error;
mod header;
mod reader;
mod remove;
mod stat;
mod walk;
mod write;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

pub use apply::{Applied, MissingLink, apply_layer};
pub use compress::{Compression, Decoder};
pub use copy::{UnpackOptions, pack_path, unpack_into};
pub use error::{ArchiveError, words};
pub use reader::{Entry, EntryKind, Limits, TarReader};
pub use remove::remove_tree;
pub use stat::{PathStat, stat_path};
pub use walk::resolve_directory;
pub use write::TarWriter;

/// Bytes of a path, for an error message.
pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}
