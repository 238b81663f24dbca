//! The engine's state in one SQLite database (WAL), with one writer thread.
//!
//! ```text
//!  any thread --submit--> queue --> writer thread: BEGIN; changes of every waiting job; COMMIT (no fsync)
//!                                        |  Durability::Process: reply here (survives kill -9: the bytes are the kernel's)
//!                                        v
//!                                   sync thread: fdatasync of the WAL once for all that wait, then reply (Durability::PowerCut);
//!                                                checkpoints, on a connection of its own
//! ```
//!
//! What must stay true: a reply is sent only after what it acknowledges is as durable as was asked; jobs are applied in the
//! order of `submit`; one job is applied whole or not at all; the hot path (`Process`) never waits for a disk.
//! The crate knows rows and documents (JSON text), never their meaning: the crates that own them do the parsing.

#![forbid(unsafe_code)]

mod error;
mod schema;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use rusqlite::{Connection, OpenFlags};

pub use crate::error::MetadataError;
pub use crate::schema::SCHEMA_VERSION;
use crate::writer::Writer;

/// What a change must survive before its reply is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The death of every process of ours: handed to the kernel, not synced.
    Process,
    /// The death of the machine: on the disk. Concurrent jobs share one sync.
    PowerCut,
}

/// The tables. Each has a text key and a JSON document; [`Table::ImageNames`] has a target besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Key: container id.
    Containers,
    /// Key: image id (digest of its config).
    Images,
    /// Key: normalised reference; target: the digest it names.
    ImageNames,
    /// Key: diffID or chainID.
    Layers,
    /// Key: volume name.
    Volumes,
    /// Key: network id.
    Networks,
    /// Key: name of the setting; the document is its value, any text.
    Settings,
}

impl Table {
    /// Every table, in the order of the schema.
    pub const ALL: [Table; 7] = [
        Table::Containers,
        Table::Images,
        Table::ImageNames,
        Table::Layers,
        Table::Volumes,
        Table::Networks,
        Table::Settings,
    ];

    /// The table's name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Table::Containers => "containers",
            Table::Images => "images",
            Table::ImageNames => "image_names",
            Table::Layers => "layers",
            Table::Volumes => "volumes",
            Table::Networks => "networks",
            Table::Settings => "settings",
        }
    }
}

/// One change of one row. A job is a list of them, applied whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes the row, replacing one of the same key.
    Put {
        /// The table.
        table: Table,
        /// The primary key.
        key: String,
        /// The digest a name points to; empty except in [`Table::ImageNames`].
        target: String,
        /// The document, JSON text.
        document: String,
    },
    /// Deletes the row; that it is already gone is not an error.
    Delete {
        /// The table.
        table: Table,
        /// The primary key.
        key: String,
    },
}

impl Change {
    /// Writes a row whose document is already JSON text.
    #[must_use]
    pub fn put(table: Table, key: impl Into<String>, document: impl Into<String>) -> Change {
        Change::Put {
            table,
            key: key.into(),
            target: String::new(),
            document: document.into(),
        }
    }

    /// Writes a row, serialising its document. Fails only when `document` cannot be JSON (a map with keys that are not text).
    pub fn put_json<T: serde::Serialize>(
        table: Table,
        key: impl Into<String>,
        document: &T,
    ) -> Result<Change, MetadataError> {
        let key = key.into();
        match serde_json::to_string(document) {
            Ok(text) => Ok(Change::put(table, key, text)),
            Err(source) => Err(MetadataError::Encode {
                table: table.name(),
                key,
                source,
            }),
        }
    }

    /// Points an image name at a digest.
    #[must_use]
    pub fn put_image_name(
        reference: impl Into<String>,
        target: impl Into<String>,
        document: impl Into<String>,
    ) -> Change {
        Change::Put {
            table: Table::ImageNames,
            key: reference.into(),
            target: target.into(),
            document: document.into(),
        }
    }

    /// Deletes a row.
    #[must_use]
    pub fn delete(table: Table, key: impl Into<String>) -> Change {
        Change::Delete {
            table,
            key: key.into(),
        }
    }
}

/// One row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The primary key.
    pub key: String,
    /// The digest a name points to; empty except in [`Table::ImageNames`].
    pub target: String,
    /// The document, JSON text.
    pub document: String,
}

impl Row {
    /// Parses the document; the error names the table and the key.
    pub fn parse<T: serde::de::DeserializeOwned>(&self, table: Table) -> Result<T, MetadataError> {
        serde_json::from_str(&self.document).map_err(|source| MetadataError::Document {
            table: table.name(),
            key: self.key.clone(),
            source,
        })
    }
}

/// Called once, on the writer or sync thread, with the outcome of a job. It must not block.
pub type Reply = Box<dyn FnOnce(Result<(), MetadataError>) + Send>;

/// The open database. Dropping it applies what is queued, checkpoints, and ends the threads.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    writer: Writer,
    /// Keeps a second daemon out; goes last.
    _lock: std::fs::File,
}

impl Database {
    /// Opens or creates the database at `path`, brings its schema up to date, and starts the threads.
    ///
    /// Errors: [`MetadataError::InUse`] when another process has it open through this crate, [`MetadataError::TooNew`] when a
    /// newer Kekkai wrote it, [`MetadataError::Foreign`] and [`MetadataError::Corrupt`] when it is not ours or damaged.
    pub fn open(path: &Path) -> Result<Database, MetadataError> {
        let lock = schema::lock(path)?;
        let connection = schema::open(path)?;
        let writer = Writer::start(connection, path)?;
        Ok(Database {
            path: path.to_owned(),
            writer,
            _lock: lock,
        })
    }

    /// Queues a job. `reply` is called once it is as durable as `durability` asks, or has failed.
    pub fn submit(&self, changes: Vec<Change>, durability: Durability, reply: Reply) {
        self.writer.submit(changes, durability, reply);
    }

    /// The blocking form of [`Database::submit`].
    pub fn apply(&self, changes: Vec<Change>, durability: Durability) -> Result<(), MetadataError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit(
            changes,
            durability,
            Box::new(move |outcome| {
                // The receiver waits below; it is only gone when the caller's thread is.
                let _ = sender.send(outcome);
            }),
        );
        receiver.recv().unwrap_or(Err(MetadataError::Closed))
    }

    /// Reads a whole table, ordered by key. It sees every change that was acknowledged. Meant for the start: each call has a
    /// connection of its own, so that nothing of it stays in memory, nor keeps the log from being emptied at the end.
    pub fn load(&self, table: Table) -> Result<Vec<Row>, MetadataError> {
        let connection = self.read_only()?;
        self.read_table(&connection, table)
    }

    /// Reads one row.
    pub fn get(&self, table: Table, key: &str) -> Result<Option<Row>, MetadataError> {
        Ok(self.load(table)?.into_iter().find(|row| row.key == key))
    }

    /// Reads and parses a whole table.
    pub fn load_json<T: serde::de::DeserializeOwned>(
        &self,
        table: Table,
    ) -> Result<Vec<(String, T)>, MetadataError> {
        self.load(table)?
            .into_iter()
            .map(|row| {
                let document = row.parse(table)?;
                Ok((row.key, document))
            })
            .collect()
    }

    fn read_only(&self) -> Result<Connection, MetadataError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)
            .map_err(|e| MetadataError::sqlite(&self.path, e))?;
        schema::tune(&connection).map_err(|e| MetadataError::sqlite(&self.path, e))?;
        Ok(connection)
    }

    fn read_table(&self, connection: &Connection, table: Table) -> Result<Vec<Row>, MetadataError> {
        let read = || -> rusqlite::Result<Vec<Row>> {
            let mut statement = connection.prepare(&schema::select(table))?;
            let rows = statement.query_map([], |row| {
                Ok(Row {
                    key: row.get(0)?,
                    target: row.get(1)?,
                    document: row.get(2)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(|e| MetadataError::sqlite(&self.path, e))
    }
}
