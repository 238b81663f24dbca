//! Tar streams and directories: layers applied to a directory, trees packed into a stream, decompression by magic bytes.
//!
//! What must stay true: nothing outside the directory whose descriptor was given is read or written, whatever the
//! stream or the tree says; every number and name from the stream is bounded; an error leaves at most a half-filled
//! directory, which the caller throws away.

#![forbid(unsafe_code)]

mod error;

pub use error::ArchiveError;

mod stat;
mod copy;

pub use copy::{UnpackOptions, pack_path, unpack_into};
pub use stat::{PathStat, stat_path};
