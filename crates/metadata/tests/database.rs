//! The database as its users see it: durability, order, migrations, damage.

#![expect(
    clippy::unwrap_used,
    reason = "a test that fails should stop where it failed"
)]

use std::path::Path;
use std::process::Command;
use std::sync::mpsc;

use kekkai_metadata::{Change, Database, Durability, MetadataError, SCHEMA_VERSION, Table};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn keys(database: &Database, table: Table) -> Vec<String> {
    database
        .load(table)
        .unwrap()
        .into_iter()
        .map(|row| row.key)
        .collect()
}

#[test]
fn rows_come_back_after_reopening() {
    let dir = directory();
    let path = dir.path().join("metadata.db");
    let database = Database::open(&path).unwrap();
    for table in Table::ALL {
        database
            .apply(
                vec![Change::put(table, "k", "{\"a\":1}")],
                Durability::Process,
            )
            .unwrap();
        assert_eq!(keys(&database, table), ["k"]);
    }
    database
        .apply(
            vec![
                Change::put_image_name("docker.io/library/a:1", "sha256:1", "{}"),
                Change::delete(Table::Containers, "k"),
            ],
            Durability::PowerCut,
        )
        .unwrap();
    drop(database);
    assert!(
        !dir.path().join("metadata.db-wal").exists(),
        "closing empties the log"
    );
    let database = Database::open(&path).unwrap();
    assert!(keys(&database, Table::Containers).is_empty());
    let names = database.load(Table::ImageNames).unwrap();
    assert_eq!(
        (names[0].key.as_str(), names[0].target.as_str()),
        ("docker.io/library/a:1", "sha256:1")
    );
    assert_eq!(
        database.get(Table::Volumes, "k").unwrap().unwrap().document,
        "{\"a\":1}"
    );
}

#[test]
fn jobs_keep_their_order_and_are_whole() {
    let dir = directory();
    let database = Database::open(&dir.path().join("metadata.db")).unwrap();
    let (sender, receiver) = mpsc::channel();
    for n in 0..500u32 {
        let sender = sender.clone();
        let durability = if n % 3 == 0 {
            Durability::PowerCut
        } else {
            Durability::Process
        };
        let changes = vec![
            Change::put(Table::Settings, "last", n.to_string()),
            Change::put(Table::Containers, format!("{n:04}"), "{}"),
        ];
        database.submit(
            changes,
            durability,
            Box::new(move |outcome| sender.send(outcome.is_ok()).unwrap()),
        );
    }
    drop(sender);
    assert_eq!(receiver.iter().filter(|ok| *ok).count(), 500);
    assert_eq!(database.load(Table::Settings).unwrap()[0].document, "499");
    assert_eq!(keys(&database, Table::Containers).len(), 500);
}

#[test]
fn the_log_stays_bounded() {
    let dir = directory();
    let path = dir.path().join("metadata.db");
    let database = Database::open(&path).unwrap();
    let document = format!("\"{}\"", "x".repeat(100_000));
    for n in 0..1500 {
        database
            .apply(
                vec![Change::put(
                    Table::Containers,
                    format!("{}", n % 10),
                    document.as_str(),
                )],
                Durability::Process,
            )
            .unwrap();
    }
    let log = std::fs::metadata(dir.path().join("metadata.db-wal"))
        .unwrap()
        .len();
    assert!(log < 64 << 20, "{log}");
    drop(database);
    assert!(
        !dir.path().join("metadata.db-wal").exists(),
        "closing empties the log"
    );
}

/// A child writes and tells each number it was acknowledged; killed at an arbitrary instant, all of them must be there.
#[test]
fn kill_loses_nothing_acknowledged() {
    const ROLE: &str = "KEKKAI_METADATA_TEST_WRITER";
    if let Some(path) = std::env::var_os(ROLE) {
        let database = Database::open(Path::new(&path)).unwrap();
        for n in 0u32.. {
            database
                .apply(
                    vec![Change::put(Table::Containers, format!("{n:08}"), "{}")],
                    Durability::Process,
                )
                .unwrap();
            std::io::Write::write_all(&mut std::io::stderr(), format!("{n}\n").as_bytes()).unwrap();
        }
    }
    let dir = directory();
    let path = dir.path().join("metadata.db");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["kill_loses_nothing_acknowledged", "--exact", "--nocapture"])
        .env(ROLE, &path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = String::new();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap());
    while told.lines().count() < 300 {
        std::io::BufRead::read_line(&mut lines, &mut told).unwrap();
    }
    child.kill().unwrap();
    std::io::Read::read_to_string(&mut lines, &mut told).unwrap();
    child.wait().unwrap();
    let database = Database::open(&path).unwrap();
    let there = keys(&database, Table::Containers);
    let acknowledged: Vec<u32> = told.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(acknowledged.len() >= 299);
    for n in acknowledged {
        assert!(
            there.binary_search(&format!("{n:08}")).is_ok(),
            "{n} was acknowledged and is gone"
        );
    }
}

#[test]
fn a_second_daemon_is_refused() {
    let dir = directory();
    let path = dir.path().join("metadata.db");
    let _database = Database::open(&path).unwrap();
    assert!(matches!(
        Database::open(&path),
        Err(MetadataError::InUse { .. })
    ));
}

#[test]
fn newer_foreign_and_damaged_files_are_refused_untouched() {
    let dir = directory();
    let newer = dir.path().join("newer.db");
    drop(Database::open(&newer).unwrap());
    let connection = rusqlite::Connection::open(&newer).unwrap();
    connection
        .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
        .unwrap();
    drop(connection);
    assert!(
        matches!(Database::open(&newer), Err(MetadataError::TooNew { found, .. }) if found == SCHEMA_VERSION + 1)
    );

    let foreign = dir.path().join("foreign.db");
    rusqlite::Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE cookies (x)")
        .unwrap();
    assert!(matches!(
        Database::open(&foreign),
        Err(MetadataError::Foreign { .. })
    ));

    let garbage = dir.path().join("garbage.db");
    let text = "this is no database ".repeat(500);
    std::fs::write(&garbage, &text).unwrap();
    let error = Database::open(&garbage).unwrap_err();
    assert!(matches!(error, MetadataError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("garbage.db"));
    assert_eq!(std::fs::read_to_string(&garbage).unwrap(), text);
}

#[test]
fn a_damaged_page_is_told_when_it_is_read() {
    let dir = directory();
    let path = dir.path().join("metadata.db");
    let database = Database::open(&path).unwrap();
    for n in 0..300 {
        let document = format!("\"{}\"", "x".repeat(3000));
        database
            .apply(
                vec![Change::put(Table::Containers, format!("{n}"), document)],
                Durability::Process,
            )
            .unwrap();
    }
    drop(database);
    let mut bytes = std::fs::read(&path).unwrap();
    for byte in &mut bytes[20 * 4096..200 * 4096] {
        *byte = 0xa5;
    }
    std::fs::write(&path, bytes).unwrap();
    let error = Database::open(&path)
        .and_then(|database| database.load(Table::Containers))
        .unwrap_err();
    assert!(matches!(error, MetadataError::Corrupt { .. }), "{error:?}");
}

#[test]
fn the_sqlite_shell_reads_it() {
    let dir = directory();
    let path = dir.path().join("metadata.db");
    let database = Database::open(&path).unwrap();
    database
        .apply(
            vec![Change::put(Table::Volumes, "data", "{}")],
            Durability::Process,
        )
        .unwrap();
    match Command::new("sqlite3")
        .arg(&path)
        .arg("SELECT key FROM volumes")
        .output()
    {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "data\n"),
        Err(error) => println!("skipped: sqlite3: {error}"),
    }
}
