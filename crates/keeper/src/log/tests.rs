//! Writer and reader together: what Docker would have logged, damage, rotation under a reader's feet.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::log::rotate::Chore;
use crate::log::{LogConfig, LogDriver, LogEntry, LogQuery, LogReader, LogWriter};
use crate::protocol::Stream;

fn config(directory: &Path, driver: LogDriver) -> LogConfig {
    LogConfig {
        max_size: None,
        max_file: 1,
        compress: false,
        ..LogConfig::new(driver, directory.join("log"))
    }
}

/// Writes pieces, each with a time of its own, and ends both streams.
fn write(config: &LogConfig, pieces: &[(Stream, Vec<u8>)]) {
    let mut writer = LogWriter::new(config.clone());
    let mut scratch = Vec::new();
    let mut now = 1_000;
    for (stream, data) in pieces {
        writer
            .append(&mut scratch, *stream, data, now, &|chore| chore.run())
            .unwrap();
        now += 1_000;
    }
    for stream in [Stream::Stdout, Stream::Stderr] {
        writer
            .end(&mut scratch, stream, now, &|chore| chore.run())
            .unwrap();
    }
}

fn read(config: &LogConfig, query: LogQuery) -> Vec<LogEntry> {
    LogReader::open(config, query)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

/// Docker's copier, from its description: lines, cut into parts of 16 KiB.
fn expected(pieces: &[(Stream, Vec<u8>)], stream: Stream) -> Vec<Vec<u8>> {
    let all: Vec<u8> = pieces
        .iter()
        .filter(|(of, _)| *of == stream)
        .flat_map(|(_, data)| data.clone())
        .collect();
    let mut entries = Vec::new();
    let mut part = Vec::new();
    for byte in all {
        part.push(byte);
        // A part is full before the newline is looked for: sixteen KiB and a newline are two entries.
        if byte == b'\n' || part.len() == 16 * 1024 {
            entries.push(std::mem::take(&mut part));
        }
    }
    if !part.is_empty() {
        entries.push(part);
    }
    entries
}

fn lines(entries: &[LogEntry], stream: Stream) -> Vec<Vec<u8>> {
    entries
        .iter()
        .filter(|entry| entry.stream == stream)
        .map(|entry| entry.line.clone())
        .collect()
}

fn pieces() -> impl Strategy<Value = Vec<(Stream, Vec<u8>)>> {
    let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
    let text = prop_oneof![
        4 => "[a-z\"\\\\<>&\t\r\n ]{0,40}".prop_map(String::into_bytes),
        2 => "(\n|é|結|\u{2028}){0,9}".prop_map(String::into_bytes),
        1 => (16_300..16_500_usize, any::<bool>()).prop_map(|(length, end)| {
            let mut line = vec![b'x'; length];
            line.extend(end.then_some(b'\n'));
            line
        }),
        1 => (1..70_000_usize).prop_map(|length| (0..length).map(|n| if n % 331 == 0 { b'\n' } else { b'y' }).collect()),
    ];
    proptest::collection::vec((stream, text), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(pieces in pieces(), tail in 0..30_u64) {
        for driver in [LogDriver::Local, LogDriver::JsonFile] {
            let directory = tempfile::tempdir().unwrap();
            let config = config(directory.path(), driver);
            write(&config, &pieces);
            let entries = read(&config, LogQuery::default());
            for stream in [Stream::Stdout, Stream::Stderr] {
                let got = lines(&entries, stream);
                let wanted = expected(&pieces, stream);
                prop_assert_eq!(got.len(), wanted.len());
                // A character that is cut by the 16 KiB becomes U+FFFD in JSON, as in Docker.
                let plain = |entries: &[Vec<u8>]| -> Vec<Vec<u8>> {
                    let keep = |byte: &&u8| driver == LogDriver::Local || byte.is_ascii();
                    entries.iter().map(|entry| entry.iter().filter(keep).copied().collect()).collect()
                };
                prop_assert!(plain(&got) == plain(&wanted));
            }
            let last = read(&config, LogQuery { tail: Some(tail), ..LogQuery::default() });
            let from = entries.len().saturating_sub(usize::try_from(tail).unwrap());
            prop_assert_eq!(&last[..], &entries[from..]);
        }
    }

    #[test]
    fn damage_costs_only_what_it_hits(cut in 0..4000_usize, noise in proptest::collection::vec(any::<u8>(), 1..60), place in 0..4000_usize) {
        let text: Vec<(Stream, Vec<u8>)> = (0..100).map(|n| (Stream::Stdout, format!("entry {n}\n").into_bytes())).collect();
        for driver in [LogDriver::Local, LogDriver::JsonFile] {
            let directory = tempfile::tempdir().unwrap();
            let config = config(directory.path(), driver);
            write(&config, &text);
            let whole = read(&config, LogQuery::default());
            let mut bytes = std::fs::read(&config.path).unwrap();
            let record = bytes.len() / 100 + 40;
            // Overwritten in the middle.
            let place = place.min(bytes.len());
            let end = (place + noise.len()).min(bytes.len());
            bytes[place..end].copy_from_slice(&noise[..end - place]);
            std::fs::write(&config.path, &bytes).unwrap();
            let left = read(&config, LogQuery::default());
            prop_assert!(left.len() + noise.len() / 20 + 4 >= whole.len(), "{} of {}", left.len(), whole.len());
            // The tail of a damaged file ends with the same entries.
            let tail = read(&config, LogQuery { tail: Some(5), ..LogQuery::default() });
            prop_assert!(tail.len() <= 5);
            // Torn at the end, and written on by a new keeper.
            bytes.truncate(cut.min(bytes.len()));
            std::fs::write(&config.path, &bytes).unwrap();
            write(&config, &[(Stream::Stderr, b"after the crash\n".to_vec())]);
            let after = read(&config, LogQuery::default());
            prop_assert_eq!(&after.last().unwrap().line[..], b"after the crash\n");
            let kept = std::fs::metadata(&config.path).unwrap().len() as usize;
            prop_assert!(kept + record >= cut.min(bytes.len()), "more than the torn record was cut off");
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..3000), magic in any::<bool>()) {
        for driver in [LogDriver::Local, LogDriver::JsonFile] {
            let directory = tempfile::tempdir().unwrap();
            let config = config(directory.path(), driver);
            let mut file = if magic { crate::log::local::MAGIC.to_vec() } else { Vec::new() };
            file.extend(&bytes);
            std::fs::write(&config.path, &file).unwrap();
            read(&config, LogQuery::default());
            read(&config, LogQuery { tail: Some(3), ..LogQuery::default() });
            write(&config, &[(Stream::Stdout, b"x\n".to_vec())]);
            let entries = read(&config, LogQuery::default());
            prop_assert_eq!(&entries.last().unwrap().line[..], b"x\n");
        }
    }
}

#[test]
fn since_and_until() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), LogDriver::Local);
    let text: Vec<(Stream, Vec<u8>)> = (1..=9)
        .map(|n| (Stream::Stdout, format!("{n}\n").into_bytes()))
        .collect();
    write(&config, &text);
    let query = LogQuery {
        since: Some(3_000),
        until: Some(5_000),
        tail: None,
    };
    let mut reader = LogReader::open(&config, query).unwrap();
    let got: String = reader
        .by_ref()
        .map(|entry| String::from_utf8(entry.unwrap().line).unwrap())
        .collect();
    assert_eq!(got, "3\n4\n5\n");
    assert!(reader.is_done());
    let query = LogQuery {
        since: Some(8_000),
        until: None,
        tail: Some(5),
    };
    assert_eq!(read(&config, query).len(), 2);
}

#[test]
fn all_parts_of_a_line_have_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), LogDriver::Local);
    write(
        &config,
        &[
            (Stream::Stdout, vec![b'a'; 20_000]),
            (Stream::Stdout, b"b\nc\n".to_vec()),
        ],
    );
    let times: Vec<i64> = read(&config, LogQuery::default())
        .iter()
        .map(|entry| entry.at)
        .collect();
    assert_eq!(times, [1_000, 1_000, 2_000]);
}

#[test]
fn attributes_come_back() {
    for driver in [LogDriver::Local, LogDriver::JsonFile] {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path(), driver);
        config.attributes = vec![
            ("k".to_owned(), "<v>".to_owned()),
            ("tag".to_owned(), "t".to_owned()),
        ];
        write(&config, &[(Stream::Stdout, b"x\n".to_vec())]);
        assert_eq!(
            read(&config, LogQuery::default())[0].attributes,
            config.attributes
        );
    }
}

#[test]
fn a_follower_sees_every_line_over_rotations() {
    for (driver, compress) in [
        (LogDriver::Local, true),
        (LogDriver::Local, false),
        (LogDriver::JsonFile, true),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path(), driver);
        (config.max_size, config.max_file, config.compress) = (Some(3_000), 200, compress);
        let mut reader = LogReader::open(&config, LogQuery::default()).unwrap();
        let mut writer = LogWriter::new(config.clone());
        let waiting: RefCell<Vec<Chore>> = RefCell::default();
        let mut scratch = Vec::new();
        let mut got = Vec::new();
        for number in 0..3_000_u32 {
            let line = format!("line {number}\n");
            writer
                .append(
                    &mut scratch,
                    Stream::Stdout,
                    line.as_bytes(),
                    i64::from(number),
                    &|chore| waiting.borrow_mut().push(chore),
                )
                .unwrap();
            // Compressions happen later than rotations, readings in between.
            if number % 97 == 0 {
                waiting.take().into_iter().for_each(Chore::run);
            }
            if number % 53 == 0 {
                got.extend(reader.by_ref().map(|entry| entry.unwrap().line));
            }
        }
        waiting.take().into_iter().for_each(Chore::run);
        got.extend(reader.by_ref().map(|entry| entry.unwrap().line));
        let wanted: Vec<Vec<u8>> = (0..3_000)
            .map(|number| format!("line {number}\n").into_bytes())
            .collect();
        assert!(
            got == wanted,
            "{driver:?} {compress}: {} of {}",
            got.len(),
            wanted.len()
        );
        let files: Vec<PathBuf> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(
            files
                .iter()
                .any(|path| path.extension().is_some_and(|end| end == "gz")),
            compress
        );
        assert!(
            files
                .iter()
                .all(|path| !path.to_string_lossy().contains("trash")),
            "{files:?}"
        );
        // From the front again, and the tail over several files.
        assert!(read(&config, LogQuery::default()).len() == 3_000);
        let tail = read(
            &config,
            LogQuery {
                tail: Some(500),
                ..LogQuery::default()
            },
        );
        assert_eq!((tail.len(), &tail[0].line[..]), (500, &b"line 2500\n"[..]));
    }
}

#[test]
fn a_reader_waits_for_a_log_that_is_not_there_yet() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), LogDriver::Local);
    let mut reader = LogReader::open(
        &config,
        LogQuery {
            tail: Some(10),
            ..LogQuery::default()
        },
    )
    .unwrap();
    assert!(reader.next().is_none());
    write(&config, &[(Stream::Stdout, b"now\n".to_vec())]);
    assert_eq!(reader.next().unwrap().unwrap().line, b"now\n");
    assert!(reader.next().is_none());
}

#[test]
fn none_keeps_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), LogDriver::None);
    write(&config, &[(Stream::Stdout, b"x\n".to_vec())]);
    assert!(!config.path.exists());
    assert!(LogReader::open(&config, LogQuery::default()).is_err());
}

#[test]
fn a_full_disk_leaves_a_whole_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path(), LogDriver::Local);
    config.path = "/dev/full".into();
    let mut writer = LogWriter::new(config);
    let mut scratch = Vec::new();
    assert!(
        writer
            .append(&mut scratch, Stream::Stdout, b"x\n", 1, &|_| {})
            .is_err()
    );
    assert!(
        writer
            .append(&mut scratch, Stream::Stdout, b"y\n", 2, &|_| {})
            .is_err()
    );
}

/// Megabytes per second of formatting and writing; run in release with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    for driver in [LogDriver::Local, LogDriver::JsonFile] {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path(), driver);
        (config.max_size, config.max_file) = (Some(100 << 20), 2);
        let mut writer = LogWriter::new(config);
        let line = format!("{}\n", "x".repeat(100));
        let data: Vec<u8> = line.bytes().cycle().take(64 * 1024).collect();
        let mut scratch = Vec::new();
        let begin = std::time::Instant::now();
        for turn in 0..16_384_i64 {
            writer
                .append(
                    &mut scratch,
                    Stream::Stdout,
                    &data,
                    turn * 1_000_000,
                    &|chore| chore.run(),
                )
                .unwrap();
        }
        println!(
            "{driver:?}: {:.0} MB/s",
            1_073.7 / begin.elapsed().as_secs_f64()
        );
    }
}
