//! The schema, its versions, and how a connection is set up.
//!
//! `PRAGMA user_version` is the number of migrations applied. A migration is never edited after a release: a change is a new
//! one at the end. Documents have versions of their own, which their owners keep.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::error::MetadataError;
use crate::{Change, Table};

/// `PRAGMA application_id` of our files: "KKAI". Part of the format.
const APPLICATION_ID: i64 = 0x4b4b_4149;

/// The migrations; index + 1 is the version each leads to.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE containers  (key TEXT PRIMARY KEY NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE images      (key TEXT PRIMARY KEY NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE image_names (key TEXT PRIMARY KEY NOT NULL, target TEXT NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE layers      (key TEXT PRIMARY KEY NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE volumes     (key TEXT PRIMARY KEY NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE networks    (key TEXT PRIMARY KEY NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE settings    (key TEXT PRIMARY KEY NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
"];

/// The newest schema this build reads and writes.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// Takes the lock that keeps a second daemon out. It is the file's `flock`, so it goes with the process.
pub(crate) fn lock(path: &Path) -> Result<File, MetadataError> {
    let lock_path = sibling(path, ".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|source| MetadataError::Io {
            operation: "open",
            path: lock_path.clone(),
            source,
        })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(MetadataError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(MetadataError::Io {
            operation: "lock",
            path: lock_path,
            source,
        }),
    }
}

/// The file of SQLite's beside the database, e.g. `-wal`.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens the writer's connection and migrates.
pub(crate) fn open(path: &Path) -> Result<Connection, MetadataError> {
    // Created here and not by SQLite, so that its mode does not depend on the umask.
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| MetadataError::Io {
            operation: "open",
            path: path.to_owned(),
            source,
        })?;
    let mut connection = connect(path)?;
    migrate(&mut connection, path)?;
    sync_directory(path)?;
    Ok(connection)
}

/// A connection that may write.
pub(crate) fn connect(path: &Path) -> Result<Connection, MetadataError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(path, flags).map_err(|e| MetadataError::sqlite(path, e))?;
    let set_up = || -> rusqlite::Result<()> {
        tune(&connection)?;
        // The sync thread does both, off the path of whoever waits.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "synchronous", "NORMAL")
    };
    set_up().map_err(|e| MetadataError::sqlite(path, e))?;
    Ok(connection)
}

/// Keeps a connection small, and patient with somebody's `sqlite3` shell.
pub(crate) fn tune(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    // Negative: KiB. The tables are read once and written row by row; a large cache would be memory without use.
    connection.pragma_update(None, "cache_size", -128)?;
    connection.set_prepared_statement_cache_capacity(Table::ALL.len() * 2);
    Ok(())
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), MetadataError> {
    let sqlite = |e| MetadataError::sqlite(path, e);
    let pragma = |connection: &Connection, name: &str| -> rusqlite::Result<i64> {
        connection.pragma_query_value(None, name, |row| row.get(0))
    };
    let application = pragma(connection, "application_id").map_err(sqlite)?;
    let found = pragma(connection, "user_version").map_err(sqlite)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sqlite)?;
    let fresh = application == 0 && found == 0 && tables == 0;
    if application != APPLICATION_ID && !fresh {
        return Err(MetadataError::Foreign {
            path: path.to_owned(),
            found: application,
        });
    }
    if found > SCHEMA_VERSION {
        return Err(MetadataError::TooNew {
            path: path.to_owned(),
            found,
            known: SCHEMA_VERSION,
        });
    }
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(sqlite)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(MetadataError::Io {
            operation: "use write-ahead logging (shared memory is needed) in",
            path: path.to_owned(),
            source: std::io::Error::from(std::io::ErrorKind::Unsupported),
        });
    }
    if found < SCHEMA_VERSION {
        let applied = usize::try_from(found).unwrap_or(0);
        let mut run = || -> rusqlite::Result<()> {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for migration in &MIGRATIONS[applied..] {
                transaction.execute_batch(migration)?;
            }
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()
        };
        run().map_err(sqlite)?;
    }
    Ok(())
}

/// Makes the names of the database and its log durable; their contents are synced by whoever asks for it.
fn sync_directory(path: &Path) -> Result<(), MetadataError> {
    let directory = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(|source| MetadataError::Io {
            operation: "sync",
            path: directory.to_owned(),
            source,
        })
}

/// The statement that reads a whole table.
pub(crate) fn select(table: Table) -> String {
    let target = if table == Table::ImageNames {
        "target"
    } else {
        "''"
    };
    format!(
        "SELECT key, {target}, document FROM {} ORDER BY key",
        table.name()
    )
}

/// Applies one change inside the caller's transaction.
pub(crate) fn apply(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Put { table: Table::ImageNames, key, target, document } => connection
            .prepare_cached(
                "INSERT INTO image_names (key, target, document) VALUES (?1, ?2, ?3)
                 ON CONFLICT (key) DO UPDATE SET target = excluded.target, document = excluded.document",
            )?
            .execute((key, target, document))?,
        Change::Put { table, key, document, .. } => connection
            .prepare_cached(&format!(
                "INSERT INTO {} (key, document) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET document = excluded.document",
                table.name()
            ))?
            .execute((key, document))?,
        Change::Delete { table, key } => connection
            .prepare_cached(&format!("DELETE FROM {} WHERE key = ?1", table.name()))?
            .execute((key,))?,
    };
    Ok(())
}
