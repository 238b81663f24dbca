//! `run` itself: exit codes, streams, what is inherited from the image, what is left afterwards.

use kekkai_tests::Case;
use rustix::process::Signal;
use std::time::Duration;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("run/echo", |c| {
            c.run("run --rm @box echo hi there")
                .ok()
                .out("hi there\n")
                .err("");
        }),
        Case::new("run/exit-code", |c| {
            for code in [0, 1, 3, 42, 255] {
                c.run(&format!("run --rm @box sh -c 'exit {code}'"))
                    .code(code)
                    .out("")
                    .err("");
            }
        }),
        Case::new("run/killed-by-signal", |c| {
            // The first process of a pid namespace is deaf to its own signals; a child is not, nor is one below init.
            c.run("run --rm @box sh -c 'kill -9 $$; echo deaf'")
                .ok()
                .out("deaf\n");
            c.run("run --rm --init @box sh -c 'kill -15 $$'").code(143);
            c.run("run --rm --init @box sh -c 'kill -9 $$'").code(137);
            let run = c.spawn("run --rm --name @n @box sleep 60");
            c.wait_state("@n", "running");
            c.run("kill @n").ok();
            run.finish(Duration::from_secs(20)).code(137);
        }),
        Case::new("run/streams-apart", |c| {
            c.run("run --rm @box sh -c 'echo out; echo err >&2; echo out2'")
                .ok()
                .out("out\nout2\n")
                .err("err\n");
        }),
        Case::new("run/no-newline-at-end", |c| {
            c.run("run --rm @box printf 'a b'").ok().out("a b");
        }),
        Case::new("run/binary-output", |c| {
            c.run(r"run --rm @box printf '\000\001\002x\n'")
                .ok()
                .out("\0\u{1}\u{2}x\n");
        }),
        Case::new("run/much-output", |c| {
            c.run("run --rm @box seq 1 100000")
                .ok()
                .check("100000 lines in order", |o| {
                    o.stdout
                        .lines()
                        .enumerate()
                        .all(|(i, l)| l == (i + 1).to_string())
                        && o.stdout.lines().count() == 100_000
                });
        }),
        Case::new("run/stdin", |c| {
            c.run_in("run --rm -i @box cat", b"one\ntwo\n")
                .ok()
                .out("one\ntwo\n");
            c.run_in("run --rm -i @box wc -c", &vec![b'x'; 3_000_000])
                .ok()
                .out("3000000\n");
        }),
        Case::new("run/stdin-not-given-without-i", |c| {
            c.run_in("run --rm @box cat", b"unseen\n").ok().out("");
        }),
        Case::new("run/stdin-ends-before-program", |c| {
            c.run_in(
                "run --rm -i @box sh -c 'cat; sleep 0.2; echo after'",
                b"in\n",
            )
            .ok()
            .out("in\nafter\n");
        }),
        Case::new("run/program-ignores-stdin", |c| {
            c.run_in("run --rm -i @box echo done", &vec![b'x'; 1_000_000])
                .ok()
                .out("done\n");
        }),
        Case::new("run/default-command", |c| {
            c.run("run --rm @hello").ok().out("Hello from a fixture!\n");
        }),
        Case::new("run/image-config", |c| {
            c.run("run --rm @conf").ok().out("default command\n");
            c.run("run --rm @conf 'id -un; pwd; echo $FROM_IMAGE $OVERRIDDEN'")
                .ok()
                .out("alice\n/work/dir\nyes image\n");
        }),
        Case::new("run/entrypoint", |c| {
            c.run("run --rm --entrypoint /bin/echo @conf a b")
                .ok()
                .out("a b\n");
            c.run("run --rm --entrypoint '' @conf /bin/echo only")
                .ok()
                .out("only\n");
            // A new entrypoint forgets the image's command.
            c.run("run --rm --entrypoint /bin/echo @conf")
                .ok()
                .out("\n");
        }),
        Case::new("run/env", |c| {
            c.run("run --rm -e A=1 -e B='two words' -e EMPTY= @box sh -c 'echo \"$A|$B|${EMPTY-unset}|${NOT-unset}\"'")
                .ok()
                .out("1|two words||unset\n");
            c.run("run --rm -e OVERRIDDEN=mine @conf 'echo $OVERRIDDEN'")
                .ok()
                .out("mine\n");
        }),
        Case::new("run/env-from-client", |c| {
            c.run_env(
                "run --rm -e GIVEN -e NOTGIVEN @box sh -c 'echo ${GIVEN-unset} ${NOTGIVEN-unset}'",
                &[("GIVEN", "here")],
            )
            .ok()
            .out("here unset\n");
        }),
        Case::new("run/env-file", |c| {
            std::fs::write(c.share("env"), "# comment\nX=from file\n\nY=2\nGIVEN\n").unwrap();
            c.run_env(
                "run --rm --env-file @share/env -e Y=3 @box sh -c 'echo \"$X|$Y|$GIVEN\"'",
                &[("GIVEN", "here")],
            )
            .ok()
            .out("from file|3|here\n");
        }),
        Case::new("run/env-default", |c| {
            c.run("run --rm -h myhost @box sh -c 'echo $HOSTNAME $HOME $PATH'")
                .ok()
                .out("myhost /root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
            c.run("run --rm @box sh -c 'echo ${TERM-unset}'")
                .ok()
                .out("unset\n");
            c.run("run --rm -t @box sh -c 'echo ${TERM-unset}'")
                .ok()
                .out("xterm\r\n");
        }),
        Case::new("run/workdir", |c| {
            c.run("run --rm -w /tmp @box pwd").ok().out("/tmp\n");
            c.run("run --rm -w /made/on/demand @box pwd")
                .ok()
                .out("/made/on/demand\n");
        }),
        Case::new("run/user", |c| {
            c.run("run --rm -u alice @box id")
                .ok()
                .out("uid=1000(alice) gid=1000(alice) groups=10(wheel),1000(alice),2000(extra)\n");
            c.run("run --rm -u 1234 @box sh -c 'id -u; id -g'")
                .ok()
                .out("1234\n0\n");
            c.run("run --rm -u 1234:5678 @box sh -c 'id -u; id -g; id -G'")
                .ok()
                .out("1234\n5678\n5678\n");
            c.run("run --rm -u alice:bin @box sh -c 'id -un; id -gn'")
                .ok()
                .out("alice\nbin\n");
            c.run("run --rm -u 1000 @box sh -c 'id -un; echo $HOME'")
                .ok()
                .out("alice\n/home/alice\n");
        }),
        Case::new("run/group-add", |c| {
            c.run("run --rm --group-add extra --group-add 777 @box id -G")
                .ok()
                .out("0 10 777 2000\n".replace("10 ", "").as_str());
        }),
        Case::new("run/hostname", |c| {
            c.run("run --rm -h box.example @box sh -c 'hostname; cat /etc/hostname; uname -n'")
                .ok()
                .out("box.example\nbox.example\nbox.example\n");
            c.run("run --rm --name @n @box sh -c 'hostname | wc -c'")
                .ok()
                .out("13\n");
            c.run("run --rm --hostname web --domainname example.org @box cat /etc/hosts")
                .ok()
                .out_has("web.example.org web");
        }),
        Case::new("run/detach", |c| {
            let id = c
                .run("run -d --name @n @box sleep 60")
                .ok()
                .check("a 64-digit id", |o| o.text().len() == 64);
            assert_eq!(c.inspect("@n")["Id"], id.text());
            assert_eq!(c.state("@n"), "running");
            c.run("rm -f @n").ok().out(&c.fill("@n\n"));
        }),
        Case::new("run/rm-removes", |c| {
            c.run("run --rm --name @n @box true").ok();
            c.wait_state("@n", "absent");
            c.run("run -d --rm --name @n @box sleep 0.2").ok();
            c.wait_state("@n", "absent");
        }),
        Case::new("run/rm-frees-the-name-at-once", |c| {
            for _ in 0..3 {
                c.run("run --rm --name @n @box true").ok();
            }
        }),
        Case::new("run/kept-without-rm", |c| {
            c.run("run --name @n @box sh -c 'echo kept > /file; exit 7'")
                .code(7);
            assert_eq!(c.inspect("@n")["State"]["ExitCode"], 7);
            c.run("start -a @n").code(7);
        }),
        Case::new("run/rm-and-anonymous-volume", |c| {
            let id = c.run("run --name @n -v /data @box true").ok();
            drop(id);
            let volume = c.inspect("@n")["Mounts"][0]["Name"]
                .as_str()
                .unwrap()
                .to_owned();
            c.run("rm -v @n").ok();
            c.run(&format!("volume inspect {volume}")).code(1);
        }),
        Case::new("run/cidfile", |c| {
            c.run("run --cidfile @share/cid --name @n @box true").ok();
            let id = std::fs::read_to_string(c.share("cid")).unwrap();
            assert_eq!(c.inspect("@n")["Id"], id.as_str());
            c.run("run --rm --cidfile @share/cid @box true")
                .code(125)
                .err_has("make sure the other container isn't running");
        }),
        Case::new("run/sig-proxy", |c| {
            let mut run = c.spawn("run --rm --name @n @box sh -c 'trap \"echo got; exit 9\" TERM; echo ready; while :; do sleep 0.05; done'");
            c.until("ready", || c.run("logs @n").stdout.contains("ready"));
            run.signal(Signal::TERM);
            c.until("the end", || run.child.try_wait().unwrap().is_some());
            run.finish(Duration::from_secs(20))
                .code(9)
                .out("ready\ngot\n");
        }),
        Case::new("run/sig-proxy-off", |c| {
            let run = c.spawn("run --sig-proxy=false --name @n @box sleep 30");
            c.wait_state("@n", "running");
            std::thread::sleep(Duration::from_millis(300));
            run.signal(Signal::TERM);
            run.finish(Duration::from_secs(20)).fails();
            assert_eq!(c.state("@n"), "running");
        }),
        Case::new("run/ctrl-c-reaches-the-program", |c| {
            let run = c.spawn("run --rm --name @n @box sh -c 'trap \"echo int; exit 5\" INT; echo ready; while :; do sleep 0.05; done'");
            c.until("ready", || c.run("logs @n").stdout.contains("ready"));
            run.signal(Signal::INT);
            run.finish(Duration::from_secs(20))
                .code(5)
                .out("ready\nint\n");
        }),
        Case::new("run/attach-only-some", |c| {
            c.run("run --rm -a stdout @box sh -c 'echo out; echo err >&2'")
                .ok()
                .out("out\n")
                .err("");
            c.run("run --rm -a stderr @box sh -c 'echo out; echo err >&2'")
                .ok()
                .out("")
                .err("err\n");
        }),
        Case::new("run/tty", |c| {
            c.run("run --rm -t @box sh -c 'echo a; tty; echo b >&2'")
                .ok()
                .out("a\r\n/dev/pts/0\r\nb\r\n")
                .err("");
            c.run("run --rm @box tty").code(1).out("not a tty\n");
        }),
        Case::new("run/init", |c| {
            c.run("run --rm --init @box sh -c 'cat /proc/1/comm; readlink -f /proc/1/exe'")
                .ok()
                .out_has("docker-init\n")
                .out_has("bin/docker-init\n");
            // Orphans are reaped: no zombie stays.
            c.run("run --rm --init @box sh -c '(sleep 0.1 & ) ; sleep 0.4; grep -l \"^State:.Z\" /proc/[0-9]*/status | wc -l'").ok().out("0\n");
            c.run("run --rm --init @box sh -c 'exit 6'").code(6);
        }),
        Case::new("run/pull-policy", |c| {
            c.run("run --rm --pull never @reg/plain/neverpulled echo x")
                .code(125)
                .err_has(
                    "No such image: @reg/plain/neverpulled:latest"
                        .replace("@reg", &c.world.registry.host())
                        .as_str(),
                );
            c.run("run --rm --pull sometimes @box true")
                .code(125)
                .err_has("invalid pull option: 'sometimes'");
        }),
        Case::new("run/pulls-what-is-missing", |c| {
            let tag = format!("{}/{}/hello:latest", c.world.registry.host(), c.name);
            c.run(&format!("run --rm {tag}"))
                .ok()
                .out("Hello from a fixture!\n")
                .err_has(&format!("Unable to find image '{tag}' locally"))
                .err_has("Status: Downloaded newer image for");
            c.run(&format!("run --rm {tag}"))
                .ok()
                .out("Hello from a fixture!\n")
                .err("");
            c.run(&format!("rmi {tag}")).ok();
        }),
        Case::new("run/quiet-pull", |c| {
            let tag = format!("{}/{}/box:latest", c.world.registry.host(), c.name);
            c.run(&format!("run --rm --quiet {tag} echo hi"))
                .ok()
                .out("hi\n")
                .err("");
            c.run(&format!("rmi {tag}")).ok();
        }),
        Case::new("run/detached-with-attach-conflicts", |c| {
            c.run("run -d -a stdout @box true")
                .fails()
                .err_has("conflicting options: cannot specify both --attach and --detach");
        }),
        Case::new("run/detach-with-rm-and-restart", |c| {
            c.run("run --rm --restart always @box true")
                .code(125)
                .err_has("conflicting options: cannot specify both --restart and --rm");
        }),
        Case::new("run/many-at-once", |c| {
            let runs: Vec<_> = (0..8)
                .map(|i| c.spawn(&format!("run --rm @box sh -c 'echo {i}; exit {i}'")))
                .collect();
            for (i, run) in runs.into_iter().enumerate() {
                run.finish(Duration::from_secs(90))
                    .code(i as i32)
                    .out(&format!("{i}\n"));
            }
        }),
        Case::new("run/big-environment", |c| {
            let big = "x".repeat(100_000);
            c.run(&format!(
                "run --rm -e BIG={big} @box sh -c 'echo ${{#BIG}}'"
            ))
            .ok()
            .out("100000\n");
        }),
        Case::new("run/arguments-kept-as-they-are", |c| {
            c.run_words(&[
                "run",
                "--rm",
                "@box",
                "printf",
                "%s|",
                "a b",
                "",
                "--rm",
                "-x",
                "é\"'$HOME",
            ])
            .ok()
            .out("a b||--rm|-x|é\"'$HOME|");
        }),
        Case::new("run/pid-1", |c| {
            c.run("run --rm @box sh -c 'echo $$'").ok().out("1\n");
        }),
        Case::new("run/dead-client-leaves-the-container", |c| {
            let run = c.spawn("run --name @n @box sh -c 'while :; do echo tick; sleep 0.05; done'");
            c.until("ticks", || c.run("logs @n").stdout.contains("tick"));
            run.signal(Signal::KILL);
            run.finish(Duration::from_secs(10)).code(137);
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(c.state("@n"), "running");
        }),
    ]
}
