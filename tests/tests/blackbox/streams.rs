//! Attach, detach, terminals, logs.

use std::io::Write;
use std::time::Duration;

use kekkai_tests::Case;
use kekkai_tests::case::On;
use rustix::process::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("logs/all-and-tail", |c| {
            c.run("run --name @n @box sh -c 'for i in 1 2 3 4 5; do echo line $i; done; echo err >&2'").ok();
            c.run("logs @n")
                .ok()
                .out("line 1\nline 2\nline 3\nline 4\nline 5\n")
                .err("err\n");
            c.run("logs --tail 0 @n").ok().out("").err("");
            c.run("logs -n 3 @n").ok().check("three of six lines", |o| {
                o.lines().len() + o.stderr.lines().count() == 3
            });
            c.run("logs --tail all @n")
                .ok()
                .check("all", |o| o.lines().len() == 5);
        }),
        Case::new("logs/timestamps", |c| {
            c.run("run --name @n @box echo hi").ok();
            let out = c.run("logs -t @n").ok();
            let (time, rest) = out.stdout.split_once(' ').unwrap();
            assert_eq!(rest, "hi\n");
            // RFC 3339 with nine digits of a second.
            assert!(
                time.len() == 30 && time.ends_with('Z') && time.as_bytes()[19] == b'.',
                "{time}"
            );
        }),
        Case::new("logs/since-until", |c| {
            c.run("run --name @n @box sh -c 'echo early; sleep 1.2; echo late'")
                .ok();
            let stamp = c
                .run("logs -t @n")
                .ok()
                .stdout
                .lines()
                .nth(1)
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .to_owned();
            c.run(&format!("logs --since {stamp} @n"))
                .ok()
                .out("late\n");
            let first = c
                .run("logs -t @n")
                .ok()
                .stdout
                .split(' ')
                .next()
                .unwrap()
                .to_owned();
            c.run(&format!("logs --until {first} @n"))
                .ok()
                .check("at most the first", |o| !o.stdout.contains("late"));
            c.run("logs --since 1h @n").ok().out("early\nlate\n");
            c.run("logs --until 1h @n").ok().out("");
            c.run("logs --since nosuch @n")
                .code(1)
                .err_has("invalid value for \"since\"");
        }),
        Case::new("logs/follow-ends-with-the-container", |c| {
            c.run("run -d --name @n @box sh -c 'for i in 1 2 3; do echo $i; sleep 0.2; done'")
                .ok();
            c.run("logs -f @n").ok().out("1\n2\n3\n");
            c.run("logs -f @n").ok().out("1\n2\n3\n");
        }),
        Case::new("logs/follow-with-tail", |c| {
            c.run("run -d --name @n @box sh -c 'echo a; echo b; sleep 0.6; echo c'")
                .ok();
            c.until("b", || c.run("logs @n").stdout.contains('b'));
            c.run("logs -f --tail 1 @n").ok().out("b\nc\n");
        }),
        Case::new("logs/follow-reader-vanishes", |c| {
            c.run("run -d --name @n @box sh -c 'i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo done; sleep 60'").ok();
            let follow = c.spawn("logs -f @n");
            std::thread::sleep(Duration::from_millis(200));
            follow.signal(Signal::KILL);
            follow.finish(Duration::from_secs(10)).code(137);
            c.until("done", || c.run("logs --tail 1 @n").stdout == "done\n");
        }),
        Case::new("logs/tty-is-one-stream", |c| {
            c.run("run -t --name @n @box sh -c 'echo out; echo err >&2'")
                .ok();
            c.run("logs @n").ok().out("out\r\nerr\r\n").err("");
        }),
        Case::new("logs/partial-and-long-lines", |c| {
            c.run("run --name @n @box sh -c 'head -c 100000 /dev/zero | tr \"\\\\0\" x; echo; printf end'").ok();
            let out = c.run("logs @n").ok();
            assert_eq!(out.stdout.len(), 100_000 + 1 + 3);
            assert!(out.stdout.ends_with("x\nend"));
        }),
        Case::new("logs/both-runs", |c| {
            c.run("run --name @n @box echo one").ok();
            c.run("start -a @n").ok();
            c.run("logs @n").ok().out("one\none\n");
        }),
        Case::new("logs/json-file-driver", |c| {
            c.run("run --name @n --log-driver json-file --log-opt max-size=10k --log-opt max-file=3 @box sh -c 'seq 1 3000'").ok();
            let inspect = c.inspect("@n");
            assert_eq!(inspect["HostConfig"]["LogConfig"]["Type"], "json-file");
            assert_eq!(
                inspect["HostConfig"]["LogConfig"]["Config"]["max-file"],
                "3"
            );
            let out = c.run("logs @n").ok();
            // Rotated: the newest is there, the oldest gone.
            assert!(
                out.stdout.ends_with("2999\n3000\n") && !out.stdout.starts_with("1\n2\n"),
                "{}",
                &out.stdout[..40.min(out.stdout.len())]
            );
            c.run("logs --tail 2 @n").ok().out("2999\n3000\n");
        }),
        Case::new("logs/local-driver", |c| {
            c.run("run --name @n --log-driver local @box sh -c 'seq 1 500; echo err >&2'")
                .ok();
            c.run("logs --tail 2 @n").ok();
            c.run("logs @n")
                .ok()
                .check("500 lines", |o| o.lines().len() == 500)
                .err("err\n");
            assert_eq!(c.inspect("@n")["HostConfig"]["LogConfig"]["Type"], "local");
        }),
        Case::new("logs/none-driver", |c| {
            c.run("run --name @n --log-driver none @box echo shown")
                .ok()
                .out("shown\n");
            c.run("logs @n")
                .code(1)
                .err_has("configured logging driver does not support reading");
        }),
        Case::new("logs/driver-invalid", |c| {
            c.run("run --name @n --log-driver nosuch @box true")
                .code(125)
                .err_has("nosuch");
            c.run("run --name @n2 --log-driver json-file --log-opt nosuch=1 @box true")
                .code(125)
                .err_has("unknown log opt 'nosuch' for json-file log driver");
        }),
        Case::new("logs/default-driver-is-local", |c| {
            c.run("create --name @n @box true").ok();
            assert_eq!(c.inspect("@n")["HostConfig"]["LogConfig"]["Type"], "local");
        })
        .on(On::Ours),
        Case::new("logs/of-a-created-one", |c| {
            c.run("create --name @n @box true").ok();
            c.run("logs @n").ok().out("").err("");
        }),
        Case::new("attach/sees-output-and-exit-code", |c| {
            c.run("run -d --name @n @box sh -c 'sleep 0.7; echo seen; exit 3'")
                .ok();
            c.run("attach @n").code(3).out("seen\n");
        }),
        Case::new("attach/stdin", |c| {
            c.run("run -d -i --name @n @box sh -c 'read a; echo got $a; exit 2'")
                .ok();
            let mut attach = c.spawn_piped("attach @n");
            attach
                .child
                .stdin
                .as_mut()
                .unwrap()
                .write_all(b"typed\n")
                .unwrap();
            c.until("its end", || attach.child.try_wait().unwrap().is_some());
            attach
                .finish(Duration::from_secs(5))
                .code(2)
                .out("got typed\n");
        }),
        Case::new("attach/two-at-once", |c| {
            c.run("run -d --name @n @box sh -c 'sleep 1; echo both; sleep 0.2'")
                .ok();
            let one = c.spawn("attach @n");
            let two = c.spawn("attach @n");
            one.finish(Duration::from_secs(20)).ok().out("both\n");
            two.finish(Duration::from_secs(20)).ok().out("both\n");
        }),
        Case::new("attach/no-stdin", |c| {
            c.run("run -d -i --name @n @box sh -c 'sleep 0.8; echo out'")
                .ok();
            c.run_in("attach --no-stdin @n", b"ignored\n")
                .ok()
                .out("out\n");
        }),
        Case::new("attach/of-a-stopped-one", |c| {
            c.run("create --name @n @box true").ok();
            c.run("attach @n")
                .code(1)
                .err_has("cannot attach to a stopped container");
        }),
        Case::new("attach/paused", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            c.run("pause @n").ok();
            c.run("attach @n")
                .code(1)
                .err_has("cannot attach to a paused container");
        }),
        Case::new("attach/slow-reader-blocks-nobody", |c| {
            let mut child = c.command("run --name @n @box sh -c 'seq 1 300000; echo the end >&2'");
            let mut child = child
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            // Nobody reads; the program must reach its end all the same.
            c.wait_state("@n", "exited");
            child.kill().unwrap();
            child.wait().unwrap();
            c.run("logs --tail 1 @n").ok();
        })
        .on(On::Ours),
        Case::new("stdin/closed-with-the-client", |c| {
            // StdinOnce: the program sees the end of its input when the one client goes.
            let mut run = c.spawn_piped("run -i --name @n @box sh -c 'cat; echo eof'");
            run.child.stdin.as_mut().unwrap().write_all(b"a\n").unwrap();
            c.until("echoed", || c.run("logs @n").stdout == "a\n");
            drop(run.child.stdin.take());
            run.finish(Duration::from_secs(20)).ok().out("a\neof\n");
        }),
        Case::new("stdin/kept-open-when-detached", |c| {
            c.run("run -d -i --name @n @box cat").ok();
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(c.state("@n"), "running");
        }),
        Case::new("tty/interactive-shell", |c| {
            let mut pty = c.pty("run --rm -it --name @n @box sh");
            pty.expect("# ");
            assert!(pty.is_raw(), "the terminal is in raw mode while attached");
            pty.send("echo $((6*7))\n");
            pty.expect("42");
            pty.expect("# ");
            pty.send("exit 5\n");
            assert_eq!(pty.wait(), 5);
            assert!(!pty.is_raw(), "the terminal is as it was");
        }),
        Case::new("tty/size-and-resize", |c| {
            let mut pty = c.pty("run --rm -it @box sh");
            pty.expect("# ");
            // The client may set the size a moment after the start.
            std::thread::sleep(Duration::from_millis(300));
            pty.send("stty size\n");
            pty.expect("24 80");
            pty.resize(50, 132);
            std::thread::sleep(Duration::from_millis(400));
            pty.send("stty size\n");
            pty.expect("50 132");
            pty.send("exit\n");
            assert_eq!(pty.wait(), 0);
        }),
        Case::new("tty/ctrl-c-and-ctrl-d", |c| {
            let mut pty = c.pty("run --rm -it @box sh");
            pty.expect("# ");
            pty.send("sleep 60\n");
            std::thread::sleep(Duration::from_millis(500));
            pty.send("\x03");
            pty.expect("# ");
            pty.send("echo $?\n");
            pty.expect("130");
            pty.expect("# ");
            pty.send("\x04");
            assert_eq!(pty.wait(), 0);
        }),
        Case::new("tty/detach-keys-and-attach", |c| {
            let mut pty = c.pty("run -it --name @n @box sh");
            pty.expect("# ");
            pty.send("X=kept\n");
            pty.expect("# ");
            pty.send("\x10\x11");
            assert_eq!(pty.wait(), 0);
            assert_eq!(c.state("@n"), "running");
            let mut pty = c.pty("attach @n");
            std::thread::sleep(Duration::from_millis(300));
            pty.send("echo $X\n");
            pty.expect("kept\r\n");
            pty.send("exit 6\n");
            assert_eq!(pty.wait(), 6);
            c.wait_state("@n", "exited");
        }),
        Case::new("tty/other-detach-keys", |c| {
            let mut pty = c.pty("run -it --detach-keys ctrl-a,x --name @n @box sh");
            pty.expect("# ");
            pty.send("\x10\x11");
            std::thread::sleep(Duration::from_millis(300));
            pty.send("\x01x");
            assert_eq!(pty.wait(), 0);
            assert_eq!(c.state("@n"), "running");
            c.run("run --rm -it --detach-keys nosuch-key @box true")
                .fails();
        }),
        Case::new("tty/needs-a-terminal", |c| {
            c.run("run --rm -it @box true")
                .check("refused or no input", |o| o.code == 1 || o.code == 0);
            c.run_in("run --rm -it @box true", b"").code(1).err_has_one(&["the input device is not a TTY", "cannot attach stdin to a TTY-enabled container because stdin is not a terminal"]);
        }),
        Case::new("tty/exec", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            let mut pty = c.pty("exec -it @n sh");
            pty.expect("# ");
            pty.send("tty; stty size\n");
            pty.expect("/dev/pts/");
            pty.expect("24 80");
            pty.send("exit 4\n");
            assert_eq!(pty.wait(), 4);
            assert_eq!(c.state("@n"), "running");
        }),
        Case::new("tty/exec-detach-keys", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            let mut pty = c.pty("exec -it @n sh");
            pty.expect("# ");
            pty.send("\x10\x11");
            assert_ne!(pty.wait(), 127);
            c.run("top @n").ok().out_has("sh");
        }),
        Case::new("tty/start-interactive", |c| {
            c.run("create -it --name @n @box sh").ok();
            let mut pty = c.pty("start -ai @n");
            pty.send("echo back$((1+1))\n");
            pty.expect("back2");
            pty.send("exit 3\n");
            assert_eq!(pty.wait(), 3);
        }),
    ]
}
