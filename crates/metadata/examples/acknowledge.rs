//! For power-cut tests: `acknowledge write FILE` writes numbered rows from four threads with `Durability::PowerCut` and
//! prints each number once it is acknowledged; `acknowledge check FILE` reads such numbers from standard input and fails
//! when one of them is not in the database.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use kekkai_metadata::{Change, Database, Durability, MetadataError, Table};

fn write(database: &Database) -> Result<(), MetadataError> {
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| -> Result<(), MetadataError> {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let document = format!("\"{}\"", "x".repeat(number as usize % 3000));
                        // What needs no sync runs along, so that the log holds both.
                        database.submit(
                            vec![Change::put(Table::Settings, "last", number.to_string())],
                            Durability::Process,
                            Box::new(drop),
                        );
                        database.apply(
                            vec![Change::put(
                                Table::Containers,
                                format!("{number:08}"),
                                document,
                            )],
                            Durability::PowerCut,
                        )?;
                        // Its reader may be gone: so is the machine, then.
                        let _ = writeln!(std::io::stdout().lock(), "{number}");
                    }
                })
            })
            .collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().unwrap_or(Err(MetadataError::Closed)))
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, path] = arguments.as_slice() else {
        return Err("usage: acknowledge write|check FILE".into());
    };
    let database = Database::open(Path::new(path))?;
    if mode == "write" {
        return Ok(write(&database)?);
    }
    let there: std::collections::HashSet<String> = database
        .load(Table::Containers)?
        .into_iter()
        .map(|row| row.key)
        .collect();
    let mut acknowledged = 0;
    for line in std::io::stdin().lock().lines() {
        let Ok(number) = line?.trim().parse::<u32>() else {
            continue;
        };
        acknowledged += 1;
        if !there.contains(&format!("{number:08}")) {
            return Err(format!("{number} was acknowledged and is gone").into());
        }
    }
    println!("{acknowledged} acknowledged, {} there", there.len());
    Ok(())
}
