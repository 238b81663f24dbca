//! Standard streams: pipes, terminals, several clients, slow ones, vanished ones.

use std::time::{Duration, Instant};

use kekkai_keeper::protocol::{Request, StdinMode, Stream, Target, Terminal, TerminalSize};
use kekkai_types::{ExecId, Signal};

use crate::needs_root;
use crate::support::{Options, Rig, eventually};

#[test]
fn attach_before_start_loses_no_byte() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.container(
        &["sh", "-c", "echo first; echo second >&2"],
        &Options::default(),
    );
    let sessions = [
        rig.attach(Target::Container(container.id)),
        rig.attach(Target::Container(container.id)),
    ];
    rig.start(&container).unwrap();
    for session in sessions {
        let streams = session.read();
        assert_eq!(
            (streams.stdout, streams.stderr),
            (b"first\n".to_vec(), b"second\n".to_vec())
        );
    }
    assert_eq!(rig.wait_container(&container), 0);
}

#[test]
fn echo_into_cat_ends() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.container(
        &["cat"],
        &Options {
            stdin: StdinMode::Once,
            ..Options::default()
        },
    );
    let session = rig.attach(Target::Container(container.id));
    session.write(b"x\n");
    session.end_input();
    rig.start(&container).unwrap();
    assert_eq!(session.read().stdout, b"x\n");
    assert_eq!(rig.wait_container(&container), 0);
}

#[test]
fn much_input_arrives_whole() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.container(
        &["sh", "-c", "sleep 0.2; wc -c"],
        &Options {
            stdin: StdinMode::Once,
            ..Options::default()
        },
    );
    let session = rig.attach(Target::Container(container.id));
    rig.start(&container).unwrap();
    session.write(&vec![b'a'; 5_000_000]);
    // Hanging up altogether ends the input too, but not before what was sent is delivered.
    let watcher = rig.attach(Target::Container(container.id));
    drop(session);
    assert_eq!(watcher.read().stdout, b"5000000\n");
}

#[test]
fn open_stdin_survives_its_clients() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.run(
        "read a; echo 1:$a; read b; echo 2:$b",
        &Options {
            stdin: StdinMode::Open,
            ..Options::default()
        },
    );
    let target = Target::Container(container.id);
    let session = rig.attach(target);
    session.write(b"one\n");
    session.read_until("1:one");
    session.end_input();
    drop(session);
    let session = rig.attach(target);
    session.write(b"two\n");
    session.read_until("2:two");
    assert_eq!(rig.wait(target).status.code(), 0);
}

#[test]
fn slow_reader_holds_nothing_up_and_gets_everything() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.container(
        &[
            "sh",
            "-c",
            "head -c 30000000 /dev/zero | tr '\\000' 'a'; echo; echo end",
        ],
        &Options::default(),
    );
    let target = Target::Container(container.id);
    let slow = rig.attach(target);
    let vanished = rig.attach(target);
    rig.start(&container).unwrap();
    drop(vanished);
    assert_eq!(rig.wait(target).status.code(), 0);
    // The container is over, nobody has read a byte; even forgetting it keeps what waits.
    rig.forget(&container);
    let streams = slow.read();
    assert_eq!(streams.stdout.len(), 30_000_005);
    assert!(streams.stdout.ends_with(b"\nend\n") && streams.error.is_empty());
}

#[test]
fn terminals() {
    needs_root!();
    let rig = Rig::new();
    let size = TerminalSize {
        rows: 33,
        columns: 101,
    };
    let options = Options {
        stdin: StdinMode::Open,
        terminal: Terminal::Size(Some(size)),
        ..Options::default()
    };
    let container = rig.container(&["sh"], &options);
    let target = Target::Container(container.id);
    let session = rig.attach(target);
    rig.start(&container).unwrap();
    session.write(b"stty size; tty\n");
    let text = session.read_until("/dev/");
    assert!(text.contains("33 101"), "{text}");
    rig.call(Request::Resize {
        target,
        size: TerminalSize {
            rows: 20,
            columns: 50,
        },
    })
    .unwrap();
    session.write(b"stty size\n");
    session.read_until("20 50");
    // An exec session with a terminal of its own.
    let exec = ExecId::random();
    let inner = rig.attach(Target::Exec(exec));
    rig.exec(
        &container,
        exec,
        &["sh", "-c", "tty; read x; echo got $x"],
        &options,
    )
    .unwrap();
    inner.read_until("/dev/pts/1");
    inner.write(b"line\n");
    inner.read_until("got line");
    assert_eq!(rig.wait(Target::Exec(exec)).status.code(), 0);
    session.write(b"exit 6\n");
    let rest = session.read();
    assert!(rest.stderr.is_empty());
    assert_eq!(rig.wait(target).status.code(), 6);
}

#[test]
fn signals_and_hangups() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.run(
        "trap 'echo usr; exit 3' USR1; while :; do sleep 0.02; done",
        &Options::default(),
    );
    let target = Target::Container(container.id);
    let session = rig.attach(target);
    eventually("the trap", || {
        drop(rig.signal(target, "USR1".parse::<Signal>().unwrap()));
        let exit = rig
            .client()
            .list()
            .unwrap()
            .iter()
            .find(|task| task.target == target)?
            .exit;
        exit.filter(|exit| exit.status.code() == 3)
    });
    assert_eq!(session.frame(), Some((Stream::Stdout, b"usr\n".to_vec())));
    assert_eq!(session.frame(), None);
}

#[test]
fn the_log_watch_tells_of_growth_and_of_the_end() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.run("sleep 0.2; echo a; sleep 0.2", &Options::default());
    let watch = rig
        .client()
        .call(
            Request::WatchLog {
                container: container.id,
            },
            Vec::new(),
        )
        .unwrap()
        .into_fd()
        .unwrap();
    let begin = Instant::now();
    let mut buffer = [0; 16];
    assert_eq!(
        kekkai_sys::socket::receive(&watch, &mut buffer)
            .unwrap()
            .length,
        1
    );
    assert_eq!(rig.log(&container, "a"), "a\n");
    while kekkai_sys::socket::receive(&watch, &mut buffer)
        .unwrap()
        .length
        > 0
    {}
    assert!(begin.elapsed() > Duration::from_millis(200));
    assert_eq!(rig.wait_container(&container), 0);
    // Of an ended container nothing more comes.
    let watch = rig
        .client()
        .call(
            Request::WatchLog {
                container: container.id,
            },
            Vec::new(),
        )
        .unwrap()
        .into_fd()
        .unwrap();
    assert_eq!(
        kekkai_sys::socket::receive(&watch, &mut buffer)
            .unwrap()
            .length,
        0
    );
}

#[test]
fn output_survives_input_that_nobody_reads() {
    needs_root!();
    let rig = Rig::new();
    for _ in 0..10 {
        let container = rig.container(
            &["echo", "done"],
            &Options {
                stdin: StdinMode::Once,
                ..Options::default()
            },
        );
        let session = rig.attach(Target::Container(container.id));
        session.write(&[b'z'; 100_000]);
        rig.start(&container).unwrap();
        assert_eq!(rig.wait_container(&container), 0);
        rig.forget(&container);
        assert_eq!(session.read().stdout, b"done\n");
    }
}

#[test]
fn a_log_watch_of_what_does_not_run_ends_at_once() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.container(&["true"], &Options::default());
    let watch = || {
        rig.client()
            .call(
                Request::WatchLog {
                    container: container.id,
                },
                Vec::new(),
            )
            .unwrap()
            .into_fd()
            .unwrap()
    };
    assert_eq!(
        kekkai_sys::socket::receive(watch(), &mut [0; 4])
            .unwrap()
            .length,
        0
    );
    rig.start(&container).unwrap();
    rig.wait_container(&container);
    rig.forget(&container);
    assert_eq!(
        kekkai_sys::socket::receive(watch(), &mut [0; 4])
            .unwrap()
            .length,
        0
    );
}

#[test]
fn closing_the_output_ends_the_sessions() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.container(
        &[
            "sh",
            "-c",
            "echo bye; exec >/dev/null 2>&1; exec sleep 1000",
        ],
        &Options::default(),
    );
    let session = rig.attach(Target::Container(container.id));
    rig.start(&container).unwrap();
    assert_eq!(session.read().stdout, b"bye\n");
    assert!(rig.client().list().unwrap()[0].exit.is_none());
}

#[test]
fn a_session_ends_after_the_exit_was_told() {
    needs_root!();
    let rig = Rig::new();
    for _ in 0..20 {
        let container = rig.container(&["false"], &Options::default());
        let session = rig.attach(Target::Container(container.id));
        rig.start(&container).unwrap();
        session.read();
        let task = rig
            .client()
            .list()
            .unwrap()
            .into_iter()
            .find(|task| task.target == Target::Container(container.id));
        assert_eq!(task.unwrap().exit.unwrap().status.code(), 1);
    }
}
