//! Logs as containers write them.

use kekkai_keeper::log::{LogDriver, LogQuery, LogReader};
use kekkai_keeper::protocol::{Stream, Target};

use crate::needs_root;
use crate::support::{Options, Rig, eventually};

#[test]
fn json_file_is_dockers() {
    needs_root!();
    let rig = Rig::new();
    let options = Options {
        driver: LogDriver::JsonFile,
        ..Options::default()
    };
    let container = rig.run(
        "printf 'a\\tb\\n'; sleep 0.05; echo '<err>' >&2; sleep 0.05; printf unfinished",
        &options,
    );
    assert_eq!(rig.wait_container(&container), 0);
    let text = eventually("the log", || {
        let text = std::fs::read_to_string(&container.log.path).ok()?;
        (text.lines().count() == 3).then_some(text)
    });
    let starts = [
        r#"{"log":"a\u0009b\n","stream":"stdout","time":"2"#,
        r#"{"log":"\u003cerr\u003e\n","stream":"stderr","time":"2"#,
        r#"{"log":"unfinished","stream":"stdout","time":"2"#,
    ];
    for (line, start) in text.lines().zip(starts) {
        assert!(line.starts_with(start) && line.ends_with("Z\"}"), "{line}");
    }
    let entries: Vec<_> = LogReader::open(&container.log, LogQuery::default())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(entries[1].stream, Stream::Stderr);
    assert_eq!(entries[0].line, b"a\tb\n");
    assert!(entries.is_sorted_by_key(|entry| entry.at));
}

#[test]
fn rotation_keeps_the_last_files() {
    needs_root!();
    let rig = Rig::new();
    for (driver, compress) in [(LogDriver::Local, true), (LogDriver::JsonFile, false)] {
        let options = Options {
            driver,
            max_size: Some(100_000),
            max_file: 3,
            compress,
            ..Options::default()
        };
        let container = rig.run(
            "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo end",
            &options,
        );
        assert_eq!(rig.wait(Target::Container(container.id)).status.code(), 0);
        let text = rig.log(&container, "end");
        let numbers: Vec<u32> = text
            .lines()
            .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
            .collect();
        assert!(
            numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "a gap"
        );
        assert_eq!(numbers.last(), Some(&19_999));
        assert!(numbers[0] > 0, "nothing was rotated away");
        let tail = LogReader::open(
            &container.log,
            LogQuery {
                tail: Some(3),
                ..LogQuery::default()
            },
        )
        .unwrap();
        let tail: Vec<u8> = tail.flat_map(|entry| entry.unwrap().line).collect();
        assert_eq!(tail, b"line 19998\nline 19999\nend\n");
        eventually("the sweeping", || {
            let names = std::fs::read_dir(container.log.path.parent().unwrap()).unwrap();
            let names: Vec<String> = names
                .map(|name| name.unwrap().file_name().into_string().unwrap())
                .collect();
            let mine = names
                .iter()
                .filter(|name| name.starts_with(&container.id.short()))
                .count();
            (mine == 3).then_some(())
        });
    }
}
