//! What can go wrong with an archive.

use std::io;
use std::path::PathBuf;

use kekkai_types::{Classify, ErrorClass};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream is no tar stream, or a damaged one.
    #[error("invalid tar stream: {0}")]
    Malformed(String),
    /// The stream ended in the middle of an entry.
    #[error("unexpected EOF in tar stream")]
    Truncated,
    /// Reading the stream failed (damaged compression, broken connection).
    #[error("reading archive: {}", words(.0))]
    Read(#[source] io::Error),
    /// Writing the stream failed.
    #[error("writing archive: {}", words(.0))]
    Write(#[source] io::Error),
    /// An entry's name, or what it goes through, leads outside.
    #[error("{path:?}: refused: {why}")]
    Escape {
        /// The entry's name.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// A bound is exceeded.
    #[error("archive exceeds a limit: {what} over {limit}")]
    Limit {
        /// `entries`, `bytes of files`, …
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// Compressed in a way we do not read.
    #[error("{0} compression is not supported")]
    Compression(&'static str),
    /// An entry type we do not know.
    #[error("{path:?}: unsupported tar entry type {kind:?}")]
    EntryType {
        /// The entry's name.
        path: PathBuf,
        /// The type byte.
        kind: char,
    },
    /// A file would replace a directory, or a directory a file, and that was forbidden.
    #[error("cannot overwrite {0}")]
    Overwrite(String),
    /// A path that is not there.
    #[error("{path:?}: {}", words(source))]
    Path {
        /// Within the root.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A system call on an entry failed.
    #[error("{operation} {path:?}: {}", words(source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The entry.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

impl Classify for ArchiveError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Path { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ErrorClass::NotFound
            }
            Self::Path { .. }
            | Self::Overwrite(_)
            | Self::Malformed(_)
            | Self::Truncated
            | Self::Escape { .. } => ErrorClass::InvalidArgument,
            Self::Limit { .. } | Self::Compression(_) | Self::EntryType { .. } => {
                ErrorClass::InvalidArgument
            }
            Self::Read(_) | Self::Write(_) | Self::Io { .. } => ErrorClass::Internal,
        }
    }
}

/// An I/O error as Go and C say it (`no space left on device`), which tools match on.
#[must_use]
pub fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let Some((words, _)) = text
        .split_once(" (os error ")
        .filter(|_| error.raw_os_error().is_some())
    else {
        return text;
    };
    let mut characters = words.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_the_usual_words() {
        let full = io::Error::from_raw_os_error(28);
        assert_eq!(words(&full), "no space left on device");
        assert_eq!(words(&io::Error::other("Odd (os error")), "Odd (os error");
    }
}
