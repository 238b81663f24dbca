//! Starting, ending, telling.

use std::os::fd::AsFd;

use kekkai_keeper::protocol::{Request, Response, StdinMode, Target};
use kekkai_keeper::{KeeperError, server::read_exit};
use kekkai_types::{ErrorClass, ExecId, ExitStatus, Signal};

use crate::needs_root;
use crate::support::{Options, Rig, eventually};

#[test]
fn exit_codes() {
    needs_root!();
    let rig = Rig::new();
    for (script, code) in [("exit 0", 0), ("exit 42", 42)] {
        let container = rig.run(script, &Options::default());
        assert_eq!(rig.wait_container(&container), code);
        let exit = read_exit(rig.exec_root(), container.id).unwrap();
        assert_eq!((exit.status.code(), exit.oom), (code, false));
        rig.forget(&container);
        rig.forget(&container);
    }
    let container = rig.run("sleep 100", &Options::default());
    rig.signal(Target::Container(container.id), Signal::KILL)
        .unwrap();
    assert_eq!(
        rig.wait(Target::Container(container.id)).status,
        ExitStatus::Signaled(9)
    );
    let refused = rig.signal(Target::Container(container.id), Signal::TERM);
    assert!(matches!(refused, Err(error) if error.class() == ErrorClass::Conflict));
    assert!(
        rig.client()
            .list()
            .unwrap()
            .iter()
            .any(|task| task.exit.is_some())
    );
}

#[test]
fn failures_have_dockers_words_and_codes() {
    needs_root!();
    let rig = Rig::new();
    for (command, code, words) in [
        ("nosuch", 127, "executable file not found in $PATH"),
        ("/etc", 126, "ermission denied"),
    ] {
        let container = rig.container(&[command], &Options::default());
        match rig.start(&container) {
            Err(KeeperError::Refused(failure)) => {
                assert_eq!(failure.exit_code, code, "{failure:?}");
                assert!(failure.message.contains(words), "{failure:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(rig.client().list().unwrap().is_empty());
    // What failed half-way is reaped.
    let (keeper, ..) = rig.pids();
    eventually("no zombies", || {
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"))
            .unwrap_or_default();
        let zombie = |pid: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| stat.contains(") Z "))
        };
        (!children.split_whitespace().any(zombie)).then_some(())
    });
}

#[test]
fn running_twice_is_a_conflict_and_restarting_is_not() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.run("echo one more; sleep 0.1", &Options::default());
    assert!(matches!(rig.start(&container), Err(error) if error.class() == ErrorClass::Conflict));
    rig.wait_container(&container);
    let target = Target::Container(container.id);
    assert!(matches!(
        rig.call(Request::Signal {
            target,
            signal: Signal::KILL
        }),
        Err(KeeperError::Refused(_))
    ));
    let session = rig.attach(target);
    rig.start(&container).unwrap();
    assert_eq!(session.read().stdout, b"one more\n");
    assert_eq!(rig.log(&container, "").matches("one more").count(), 2);
}

#[test]
fn out_of_memory_is_told() {
    needs_root!();
    let rig = Rig::new();
    let options = Options {
        memory: Some(8 << 20),
        ..Options::default()
    };
    let container = rig.run("x=a; while :; do x=$x$x; done", &options);
    let exit = rig.wait(Target::Container(container.id));
    assert!(
        exit.oom && exit.status == ExitStatus::Signaled(9),
        "{exit:?}"
    );
}

#[test]
fn exec_sessions() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.run("sleep 1000", &Options::default());
    let exec = ExecId::random();
    let session = rig.attach(Target::Exec(exec));
    rig.exec(
        &container,
        exec,
        &["sh", "-c", "echo in; echo err >&2; exit 5"],
        &Options::default(),
    )
    .unwrap();
    let streams = session.read();
    assert_eq!(
        (streams.stdout, streams.stderr),
        (b"in\n".to_vec(), b"err\n".to_vec())
    );
    assert_eq!(rig.wait(Target::Exec(exec)).status.code(), 5);
    assert_eq!(
        rig.call(Request::Forget {
            target: Target::Exec(exec)
        })
        .unwrap(),
        Response::Done
    );
    let exec = ExecId::random();
    let failed = rig.exec(&container, exec, &["nosuch"], &Options::default());
    assert!(matches!(failed, Err(KeeperError::Refused(failure)) if failure.exit_code == 127));
    // Input of an exec session.
    let exec = ExecId::random();
    let session = rig.attach(Target::Exec(exec));
    session.write(b"through\n");
    session.end_input();
    rig.exec(
        &container,
        exec,
        &["cat"],
        &Options {
            stdin: StdinMode::Once,
            ..Options::default()
        },
    )
    .unwrap();
    assert_eq!(session.read().stdout, b"through\n");
    // Pids of the container.
    match rig
        .call(Request::Pids {
            container: container.id,
        })
        .unwrap()
    {
        Response::Pids(pids) => assert!(!pids.is_empty()),
        other => panic!("{other:?}"),
    }
    let not_running = rig.exec(
        &rig.container(&["true"], &Options::default()),
        ExecId::random(),
        &["true"],
        &Options::default(),
    );
    assert!(matches!(not_running, Err(error) if error.class() == ErrorClass::Conflict));
}

#[test]
fn a_background_grandchild_does_not_hold_an_exec_up() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.run("sleep 1000", &Options::default());
    let exec = ExecId::random();
    let session = rig.attach(Target::Exec(exec));
    let begin = std::time::Instant::now();
    rig.exec(
        &container,
        exec,
        &["sh", "-c", "echo out; sleep 300 & exit 3"],
        &Options::default(),
    )
    .unwrap();
    assert_eq!(rig.wait(Target::Exec(exec)).status.code(), 3);
    assert!(begin.elapsed().as_secs() < 2);
    assert_eq!(session.read().stdout, b"out\n");
    assert!(begin.elapsed().as_secs() < 10);
}

#[test]
fn init_reaps_and_forwards() {
    needs_root!();
    let rig = Rig::new();
    let script = "trap 'echo got it; exit 9' TERM; (sleep 0.01 &) ; (sleep 0.01 &); echo ready; while :; do sleep 0.05; done";
    let container = rig.container(
        &["/bin/docker-init", "--", "sh", "-c", script],
        &Options::default(),
    );
    let target = Target::Container(container.id);
    let session = rig.attach(target);
    rig.start(&container).unwrap();
    session.read_until("ready");
    let exec = ExecId::random();
    eventually("no zombies", || {
        let exec = ExecId::random();
        let seen = rig.attach(Target::Exec(exec));
        rig.exec(
            &container,
            exec,
            &["sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status; true"],
            &Options::default(),
        )
        .unwrap();
        seen.read().stdout.is_empty().then_some(())
    });
    let _ = exec;
    rig.signal(target, Signal::TERM).unwrap();
    assert!(session.read_until("got it").contains("got it"));
    assert_eq!(rig.wait(target).status.code(), 9);
    for (args, code) in [
        (vec!["nosuch"], 127),
        (vec!["/etc"], 126),
        (vec!["sh", "-c", "kill -9 $$"], 137),
        (vec!["false"], 1),
    ] {
        let mut all = vec!["/bin/docker-init", "--"];
        all.extend(args);
        let container = rig.container(&all, &Options::default());
        rig.start(&container).unwrap();
        assert_eq!(rig.wait_container(&container), code, "{all:?}");
    }
    let _ = session.fd.as_fd();
}

#[test]
fn a_rush_of_starts() {
    needs_root!();
    let rig = Rig::new();
    let containers: Vec<_> = std::thread::scope(|scope| {
        let start = |_| {
            scope.spawn(|| {
                let of_one = (0..5).map(|_| {
                    let container = rig.container(&["sleep", "1000"], &Options::default());
                    rig.start(&container).unwrap();
                    container
                });
                of_one.collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..8).map(start).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(rig.client().list().unwrap().len(), 40);
    for container in &containers {
        rig.signal(Target::Container(container.id), Signal::KILL)
            .unwrap();
    }
    for container in &containers {
        assert_eq!(rig.wait_container(container), 137);
        rig.forget(container);
    }
    assert!(rig.client().list().unwrap().is_empty());
}

/// A start that hangs (its cgroup is frozen) holds up no other.
#[test]
fn stuck_launchers_are_replaced() {
    needs_root!();
    let rig = Rig::new();
    let sleeper = rig.run("sleep 1000", &Options::default());
    let layout = kekkai_cgroups::detect().unwrap();
    let group = kekkai_cgroups::Cgroup::new(&layout, &crate::support::cgroup(sleeper.id)).unwrap();
    group.freeze().unwrap();
    std::thread::scope(|scope| {
        let stuck: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| rig.exec(&sleeper, ExecId::random(), &["true"], &Options::default()))
            })
            .collect();
        for _ in 0..3 {
            let container = rig.run("exit 3", &Options::default());
            assert_eq!(rig.wait_container(&container), 3);
        }
        assert!(stuck.iter().any(|thread| !thread.is_finished()));
        group.thaw().unwrap();
        for thread in stuck {
            thread.join().unwrap().unwrap();
        }
    });
}
