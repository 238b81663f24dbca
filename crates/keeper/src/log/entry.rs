//! What a log consists of when it is read.

use std::path::PathBuf;

use kekkai_types::{Classify, ErrorClass};

use crate::protocol::{Stream, UnixNanos};

/// One line of output (or a part of one that was too long), as `docker logs` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// [`Stream::Stdout`] or [`Stream::Stderr`].
    pub stream: Stream,
    /// When the keeper read it.
    pub at: UnixNanos,
    /// The bytes, with the newline if the container wrote one here; a part of a longer line ends without.
    pub line: Vec<u8>,
    /// Labels, variables and tag that the log options chose (`logs --details`).
    pub attributes: Vec<(String, String)>,
}

/// One record on its way into a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    pub(crate) stream: Stream,
    pub(crate) at: UnixNanos,
    /// The bytes: what an earlier read gave, and what this one did.
    pub(crate) halves: [&'a [u8]; 2],
    /// The line goes on: no newline here.
    pub(crate) partial: bool,
}

/// Which entries are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only the last so many entries of those that exist at the start; `None` is all.
    pub tail: Option<u64>,
    /// Only entries at or after this time.
    pub since: Option<UnixNanos>,
    /// Only entries at or before this time; the reader ends at the first later one.
    pub until: Option<UnixNanos>,
}

/// Why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The driver keeps nothing that could be read (`none`).
    #[error("configured logging driver does not support reading")]
    Unreadable,
    /// A file operation failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl LogError {
    /// The class of this error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unreadable => ErrorClass::NotImplemented,
            Self::Io { .. } => ErrorClass::Internal,
        }
    }
}

impl Classify for LogError {
    fn class(&self) -> ErrorClass {
        self.class()
    }
}
