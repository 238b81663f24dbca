//! `kill -9` of keeper, guardian, launchers and daemon: containers notice nothing, and nothing is lost or left over.

use kekkai_keeper::protocol::{Event, Request, Response, StdinMode, Target};
use kekkai_types::{ExecId, Signal};

use crate::needs_root;
use crate::support::{Options, Rig, eventually, kill};

#[test]
fn a_new_keeper_takes_everything_over() {
    needs_root!();
    let rig = Rig::new();
    let options = Options {
        stdin: StdinMode::Open,
        ..Options::default()
    };
    let container = rig.run("while read x; do echo got $x; done; exit 4", &options);
    let target = Target::Container(container.id);
    let session = rig.attach(target);
    session.write(b"one\n");
    session.read_until("got one");
    for round in 1..4 {
        let (keeper, ..) = rig.pids();
        kill(keeper);
        session.write(format!("round{round}\n").as_bytes());
        session.read_until(&format!("got round{round}"));
        let (_, _, generation) = rig.pids();
        assert_eq!(generation, round);
    }
    assert!(rig.events().contains(&Event::Resumed { generation: 3 }));
    let log = rig.log(&container, "round3");
    assert_eq!(log, "got one\ngot round1\ngot round2\ngot round3\n");
    rig.signal(target, Signal::KILL).unwrap();
    assert_eq!(rig.wait(target).status.code(), 137);
}

#[test]
fn an_exit_while_no_keeper_lives_is_known() {
    needs_root!();
    let rig = Rig::with_failpoints("resume.begin=sleep(400)");
    let container = rig.run("sleep 0.2; echo bye; exit 7", &Options::default());
    let (keeper, ..) = rig.pids();
    kill(keeper);
    assert_eq!(rig.wait_container(&container), 7);
    assert_eq!(rig.log(&container, "bye"), "bye\n");
}

#[test]
fn the_guardian_is_replaced() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.run(
        "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo $i; usleep 2000; done; exit 5",
        &Options::default(),
    );
    for round in 0..3 {
        let (keeper, guardian, _) = rig.pids();
        kill(guardian);
        eventually("a new guardian", || {
            let (_, now, _) = rig.pids();
            (now != guardian).then_some(())
        });
        let (next, now, _) = rig.pids();
        assert_eq!(now, keeper, "the keeper becomes the guardian");
        if round > 0 {
            kill(next);
        }
    }
    assert_eq!(rig.wait_container(&container), 5);
    let log = rig.log(&container, "\n1000\n");
    let expected: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    assert!(log == expected, "lost or doubled lines");
}

#[test]
fn keeper_and_guardian_at_once() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.run("trap '' PIPE; sleep 1.5; exit 6", &Options::default());
    let (keeper, guardian, _) = rig.pids();
    let running = rig.client().list().unwrap();
    // The guardian first: the keeper may not notice in time.
    for pid in [guardian, keeper] {
        let id = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
    }
    let task = eventually("a new keeper that knows it", || {
        rig.client()
            .list()
            .ok()?
            .into_iter()
            .find(|task| task.target == Target::Container(container.id))
    });
    assert_eq!(task.pid, running[0].pid);
    assert_eq!(rig.wait_container(&container), 6);
}

#[test]
fn launchers_die() {
    needs_root!();
    let rig = Rig::new();
    for _ in 0..3 {
        let (keeper, ..) = rig.pids();
        let children =
            std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
        let launchers: Vec<u32> = children
            .split_whitespace()
            .filter(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|name| name == "kekkai-launcher\n")
            })
            .map(|pid| pid.parse().unwrap())
            .collect();
        assert!(!launchers.is_empty());
        launchers.into_iter().for_each(kill);
        let container = eventually("a start", || {
            let container = rig.container(&["true"], &Options::default());
            rig.start(&container).ok().map(|_| container)
        });
        assert_eq!(rig.wait_container(&container), 0);
    }
}

#[test]
fn a_launcher_dies_with_a_job() {
    needs_root!();
    for point in ["launcher.received", "launcher.launched"] {
        let rig = Rig::with_failpoints(&format!("{point}=kill"));
        let container = rig.container(&["sleep", "1000"], &Options::default());
        let failed = rig.start(&container);
        assert!(failed.is_err(), "{failed:?}");
        // What was started half-way is killed, and the next start works.
        let again = eventually("a start", || {
            let again = rig.container(&["true"], &Options::default());
            rig.start(&again).ok().map(|_| again)
        });
        assert_eq!(rig.wait_container(&again), 0);
        let layout = kekkai_cgroups::detect().unwrap();
        let group =
            kekkai_cgroups::Cgroup::new(&layout, &crate::support::cgroup(container.id)).unwrap();
        eventually("an empty cgroup", || {
            group
                .pids()
                .map_or(true, |pids| pids.is_empty())
                .then_some(())
        });
        group.remove().unwrap();
    }
}

/// Kills the keeper at every step of start, exit and forget. The client sees nothing but a pause.
#[test]
fn every_step() {
    needs_root!();
    for point in [
        "keeper.request",
        "start.received",
        "start.recorded",
        "start.sent",
        "start.launched",
        "start.running",
        "start.answered",
        "attach.recorded",
        "log.read",
        "log.written",
        "exit.seen",
        "exit.reaped",
        "exit.drained",
        "exit.stored",
        "exit.told",
        "forget.before",
        "forget.after",
    ] {
        println!("{point}");
        let rig = Rig::with_failpoints(&format!("{point}=kill;resume.adopted=kill"));
        let options = Options {
            stdin: StdinMode::Once,
            ..Options::default()
        };
        let container = rig.container(&["sh", "-c", "cat; echo done; exit 3"], &options);
        let session = rig.attach(Target::Container(container.id));
        session.write(b"input\n");
        session.end_input();
        rig.start(&container)
            .unwrap_or_else(|error| panic!("{point}: {error}"));
        assert_eq!(rig.wait_container(&container), 3, "{point}");
        assert_eq!(
            String::from_utf8_lossy(&session.read().stdout),
            "input\ndone\n",
            "{point}"
        );
        assert_eq!(rig.log(&container, "done\n"), "input\ndone\n", "{point}");
        // An exec session and the end.
        let sleeper = rig.run("sleep 100", &Options::default());
        let exec = ExecId::random();
        rig.exec(&sleeper, exec, &["false"], &Options::default())
            .unwrap();
        assert_eq!(rig.wait(Target::Exec(exec)).status.code(), 1);
        rig.forget(&container);
        assert!(
            rig.client()
                .list()
                .unwrap()
                .iter()
                .all(|task| task.target != Target::Container(container.id))
        );
        assert!(rig.pids().2 > 0, "{point} was never met");
    }
}

#[test]
fn the_daemon_comes_and_goes() {
    needs_root!();
    let mut rig = Rig::new();
    let ends = rig.run("sleep 0.2; exit 8", &Options::default());
    let stays = rig.run("sleep 1000", &Options::default());
    rig.disconnect();
    std::thread::sleep(std::time::Duration::from_millis(400));
    rig.connect();
    assert_eq!(rig.wait_container(&ends), 8);
    let tasks = rig.client().list().unwrap();
    let task = tasks
        .iter()
        .find(|task| task.target == Target::Container(stays.id))
        .unwrap();
    assert!(task.exit.is_none() && task.pid > 0 && task.started_at > 0);
    assert!(
        rig.call(Request::Shutdown).is_err(),
        "it must not leave a container alone"
    );
    rig.signal(Target::Container(stays.id), Signal::KILL)
        .unwrap();
    assert_eq!(rig.wait_container(&stays), 137);
}

#[test]
fn half_a_line_survives_a_crash() {
    needs_root!();
    let rig = Rig::new();
    let options = Options {
        stdin: StdinMode::Open,
        ..Options::default()
    };
    let container = rig.run("printf 'your name: '; read x; echo hello $x", &options);
    let target = Target::Container(container.id);
    let session = rig.attach(target);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (keeper, ..) = rig.pids();
    kill(keeper);
    session.write(b"me\n");
    assert_eq!(rig.wait(target).status.code(), 0);
    assert_eq!(rig.log(&container, "hello"), "your name: hello me\n");
}

#[test]
fn slow_clients_survive_a_crash() {
    needs_root!();
    let rig = Rig::new();
    let container = rig.container(
        &["sh", "-c", "yes 0123456789 | head -c 3000000"],
        &Options::default(),
    );
    let session = rig.attach(Target::Container(container.id));
    rig.start(&container).unwrap();
    assert_eq!(rig.wait_container(&container), 0);
    let (keeper, ..) = rig.pids();
    kill(keeper);
    eventually("a new keeper", || (rig.pids().2 == 1).then_some(()));
    let streams = session.read();
    assert_eq!((streams.stdout.len(), streams.error.len()), (3_000_000, 0));
    assert!(matches!(rig.call(Request::List), Ok(Response::Tasks(_))));
}
