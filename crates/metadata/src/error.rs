//! What can go wrong with the database, each with the file or row it happened to.

use std::path::{Path, PathBuf};

use kekkai_types::ErrorClass;
use rusqlite::ErrorCode;

/// An operation on the database failed.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The file is damaged. Nothing was changed.
    #[error("database {} is damaged: {detail}; restore it from a copy, or move it away to start empty", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// SQLite's words.
        detail: String,
    },
    /// The file is an SQLite database of another program.
    #[error("{} is not a database of Kekkai (application id {found:#x})", path.display())]
    Foreign {
        /// The database file.
        path: PathBuf,
        /// Its `PRAGMA application_id`.
        found: i64,
    },
    /// A newer Kekkai wrote the file.
    #[error("database {} has schema version {found}, and this version of Kekkai knows up to {known}: use a newer Kekkai", path.display())]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// The version it has.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// Another daemon has it open.
    #[error("database {} is in use by another daemon", path.display())]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// There is no space left for it.
    #[error("no space left for database {}", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// SQLite failed otherwise.
    #[error("database {}", path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },
    /// The file system failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A row's document is not what its owner expects.
    #[error("unreadable document in table {table}, row {key}")]
    Document {
        /// The table.
        table: &'static str,
        /// The row's key.
        key: String,
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
    /// A document cannot be written as JSON.
    #[error("document for table {table}, row {key} cannot be JSON")]
    Encode {
        /// The table.
        table: &'static str,
        /// The row's key.
        key: String,
        /// The serialiser's error.
        #[source]
        source: serde_json::Error,
    },
    /// The database is being closed, or its thread has died.
    #[error("the database is closed")]
    Closed,
}

impl MetadataError {
    /// How the error reads to a client.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            MetadataError::InUse { .. } | MetadataError::Closed => ErrorClass::Unavailable,
            _ => ErrorClass::Internal,
        }
    }

    /// Sorts SQLite's error into ours.
    pub(crate) fn sqlite(path: &Path, source: rusqlite::Error) -> MetadataError {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => MetadataError::Corrupt {
                path,
                detail: source.to_string(),
            },
            Some(ErrorCode::DiskFull) => MetadataError::Full { path },
            _ => MetadataError::Sqlite { path, source },
        }
    }
}
