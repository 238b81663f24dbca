//! From `create` to `rm`: every move a container can make, and the ones it cannot.

use std::time::{Duration, Instant};

use kekkai_tests::Case;
use kekkai_tests::case::On;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("lifecycle/create-start-wait-rm", |c| {
            let id = c
                .run("create --name @n @box sh -c 'echo ran; exit 4'")
                .ok()
                .text()
                .to_owned();
            assert_eq!(id.len(), 64);
            assert_eq!(c.state("@n"), "created");
            c.run("start @n").ok().out(&c.fill("@n\n"));
            c.run("wait @n").ok().out("4\n");
            assert_eq!(c.state("@n"), "exited");
            c.run("logs @n").ok().out("ran\n");
            c.run(&format!("rm {}", &id[..12]))
                .ok()
                .out(&format!("{}\n", &id[..12]));
            assert_eq!(c.state("@n"), "absent");
        }),
        Case::new("lifecycle/start-attached", |c| {
            c.run("create --name @n -i @box sh -c 'cat; exit 2'").ok();
            c.run_in("start -ai @n", b"in\n").code(2).out("in\n");
        }),
        Case::new("lifecycle/start-again-keeps-files", |c| {
            c.run("run --name @n @box sh -c 'echo x >> /log; wc -l < /log'")
                .ok()
                .out("1\n");
            c.run("start -a @n").ok().out("2\n");
            c.run("start -a @n").ok().out("3\n");
        }),
        Case::new("lifecycle/start-running-is-no-error", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            c.run("start @n").ok().out(&c.fill("@n\n"));
            assert_eq!(c.api("POST", "/v1.44/containers/@n/start").status, 304);
        }),
        Case::new("lifecycle/start-several", |c| {
            c.run("create --name @na @box true").ok();
            c.run("create --name @nb @box true").ok();
            c.run("start @na @nb").ok().out(&c.fill("@na\n@nb\n"));
            c.run("wait @na @nb").ok().out("0\n0\n");
        }),
        Case::new("lifecycle/stop-by-signal", |c| {
            c.run(
                "run -d --name @n @box sh -c 'trap \"exit 3\" TERM; while :; do sleep 0.05; done'",
            )
            .ok();
            std::thread::sleep(Duration::from_millis(300));
            c.run("stop @n").ok().out(&c.fill("@n\n"));
            assert_eq!(c.inspect("@n")["State"]["ExitCode"], 3);
            // Stopping what is stopped is no error.
            c.run("stop @n").ok();
            assert_eq!(c.api("POST", "/v1.44/containers/@n/stop").status, 304);
        }),
        Case::new("lifecycle/stop-kills-after-time-out", |c| {
            c.run("run -d --name @n @box sh -c 'trap \"\" TERM; while :; do sleep 0.05; done'")
                .ok();
            std::thread::sleep(Duration::from_millis(300));
            let before = Instant::now();
            c.run("stop -t 1 @n").ok();
            assert!(
                before.elapsed() >= Duration::from_millis(900),
                "{:?}",
                before.elapsed()
            );
            assert_eq!(c.inspect("@n")["State"]["ExitCode"], 137);
        }),
        Case::new("lifecycle/stop-with-signal", |c| {
            c.run(
                "run -d --name @n @box sh -c 'trap \"exit 9\" HUP; while :; do sleep 0.05; done'",
            )
            .ok();
            std::thread::sleep(Duration::from_millis(300));
            c.run("stop -s HUP @n").ok();
            assert_eq!(c.inspect("@n")["State"]["ExitCode"], 9);
        }),
        Case::new("lifecycle/kill", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            c.run("kill @n").ok().out(&c.fill("@n\n"));
            c.run("wait @n").ok().out("137\n");
            c.run("kill @n").code(1).err_has("is not running");
        }),
        Case::new("lifecycle/kill-with-signal", |c| {
            c.run("run -d --name @n @box sh -c 'trap \"echo usr1\" USR1; echo ready; while :; do sleep 0.05; done'").ok();
            c.until("ready", || c.run("logs @n").stdout.contains("ready"));
            // One after the other: a shell may run one trap for two signals.
            for (done, signal) in ["USR1", "SIGUSR1", "10"].into_iter().enumerate() {
                c.run(&format!("kill -s {signal} @n")).ok();
                c.until(signal, || {
                    c.run("logs @n").stdout.matches("usr1").count() == done + 1
                });
            }
            c.run("kill -s NOSUCH @n")
                .code(1)
                .err_has("invalid signal: NOSUCH");
            assert_eq!(c.state("@n"), "running");
        }),
        Case::new("lifecycle/restart", |c| {
            c.run("run -d --name @n --stop-timeout 0 @box sh -c 'echo start; sleep 60'")
                .ok();
            c.until("started", || c.run("logs @n").stdout == "start\n");
            let first = c.inspect("@n")["State"]["Pid"].clone();
            c.run("restart -t 0 @n").ok().out(&c.fill("@n\n"));
            c.until("started again", || {
                c.run("logs @n").stdout == "start\nstart\n"
            });
            assert_ne!(c.inspect("@n")["State"]["Pid"], first);
        }),
        Case::new("lifecycle/restart-of-a-stopped-one", |c| {
            c.run("run --name @n @box sh -c 'echo once'").ok();
            c.run("restart @n").ok();
            c.until("twice", || c.run("logs @n").stdout == "once\nonce\n");
        }),
        Case::new("lifecycle/pause", |c| {
            c.run("run -d --name @n @box sh -c 'while :; do echo tick; sleep 0.02; done'")
                .ok();
            c.run("pause @n").ok().out(&c.fill("@n\n"));
            assert_eq!(c.state("@n"), "paused");
            let state = c.inspect("@n")["State"].clone();
            assert_eq!(
                (&state["Running"], &state["Paused"]),
                (&true.into(), &true.into())
            );
            std::thread::sleep(Duration::from_millis(200));
            let ticks = c.run("logs @n").stdout.len();
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(c.run("logs @n").stdout.len(), ticks);
            c.run("pause @n").code(1).err_has("is already paused");
            c.run("exec @n true").code(1).err_has("is paused");
            c.run("unpause @n").ok().out(&c.fill("@n\n"));
            c.until("ticking again", || c.run("logs @n").stdout.len() > ticks);
            c.run("unpause @n").code(1).err_has("is not paused");
        }),
        Case::new("lifecycle/pause-of-a-stopped-one", |c| {
            c.run("create --name @n @box true").ok();
            c.run("pause @n").code(1).err_has("is not running");
        }),
        Case::new("lifecycle/stop-of-a-paused-one", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            c.run("pause @n").ok();
            c.run("stop -t 1 @n").ok();
            assert_eq!(c.state("@n"), "exited");
        }),
        Case::new("lifecycle/rm-running", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            c.run("rm @n").code(1).err_has(
                "container is running: stop the container before removing or force remove",
            );
            assert_eq!(c.api("DELETE", "/v1.44/containers/@n").status, 409);
            c.run("rm -f @n").ok().out(&c.fill("@n\n"));
            c.run("rm @n")
                .code(1)
                .err_has(&c.fill("No such container: @n"));
            // Docker's command line is content when there is nothing to force.
            c.run("rm -f @n").ok();
        }),
        Case::new("lifecycle/rename", |c| {
            c.run("create --name @n @box true").ok();
            c.run("rename @n @nnew").ok().out("");
            assert_eq!(c.inspect("@nnew")["Name"], c.fill("/@nnew").as_str());
            assert_eq!(c.state("@n"), "absent");
            c.run("create --name @n @box true").ok();
            c.run("rename @n @nnew")
                .code(1)
                .err_has("is already in use by container");
            c.run("rename @n 'bad name'")
                .code(1)
                .err_has("bad name), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
            c.run("rename @nnone @nx")
                .code(1)
                .err_has("No such container");
        }),
        Case::new("lifecycle/name-in-use", |c| {
            let id = c.run("create --name @n @box true").ok().text().to_owned();
            c.run("create --name @n @box true")
                .code(1)
                .err_has(&format!("Conflict. The container name \"/{}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name.", c.name));
            c.run("run --rm --name @n @box true")
                .code(125)
                .err_has("is already in use by container");
        }),
        Case::new("lifecycle/name-invalid", |c| {
            c.run("create --name 'no spaces' @box true").code(1).err_has("Invalid container name (no spaces), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
            c.run("run --name -x @box true")
                .code(125)
                .err_has("Invalid container name");
        }),
        Case::new("lifecycle/generated-name", |c| {
            let id = c.run("create @box true").ok().text().to_owned();
            let name = c.inspect(&id)["Name"].as_str().unwrap().to_owned();
            c.run(&format!("rm {id}")).ok();
            assert!(name.starts_with('/') && name.contains('_'), "{name}");
        }),
        Case::new("lifecycle/id-prefix", |c| {
            let id = c.run("create --name @n @box true").ok().text().to_owned();
            assert_eq!(c.inspect(&id[..10])["Id"], id.as_str());
            c.run(&format!("start {}", &id[..7]))
                .ok()
                .out(&format!("{}\n", &id[..7]));
        }),
        Case::new("lifecycle/wait-while-running", |c| {
            c.run("run -d --name @n @box sh -c 'sleep 0.5; exit 11'")
                .ok();
            c.run("wait @n").ok().out("11\n");
            c.run("wait @nnone").code(1).err_has("No such container");
        }),
        Case::new("lifecycle/wait-of-a-created-one-returns-at-once", |c| {
            c.run("create --name @n @box true").ok();
            c.run("wait @n").ok().out("0\n");
        }),
        Case::new("lifecycle/restart-policy-on-failure", |c| {
            c.run("run -d --name @n --restart on-failure:2 @box sh -c 'echo try; exit 1'")
                .ok();
            c.until("given up", || {
                // One look: between two runs a container may show a state of its own.
                let seen = c.inspect("@n");
                seen["State"]["Status"] == "exited" && seen["RestartCount"] == 2
            });
            c.run("logs @n").ok().out("try\ntry\ntry\n");
        }),
        Case::new("lifecycle/restart-policy-on-failure-success", |c| {
            c.run("run -d --name @n --restart on-failure @box sh -c 'echo once'")
                .ok();
            c.wait_state("@n", "exited");
            std::thread::sleep(Duration::from_millis(400));
            assert_eq!(c.inspect("@n")["RestartCount"], 0);
        }),
        Case::new("lifecycle/restart-policy-always", |c| {
            c.run("run -d --name @n --restart always @box sh -c 'echo again; sleep 0.05'")
                .ok();
            c.until("three runs", || {
                c.run("logs @n").stdout.lines().count() >= 3
            });
            c.run("stop -t 0 @n").ok();
            std::thread::sleep(Duration::from_millis(600));
            assert_eq!(c.state("@n"), "exited");
        }),
        Case::new("lifecycle/restart-policy-unless-stopped", |c| {
            c.run("run -d --name @n --restart unless-stopped --init @box sleep 60")
                .ok();
            c.run("exec @n kill -KILL 1").check("any", |_| true);
            c.run("kill -s TERM @n").ok();
            // A kill is not a stop: the policy brings it back... unless it was the user's own word.
            c.until("settled", || {
                ["running", "exited"].contains(&c.state("@n").as_str())
            });
            c.run("rm -f @n").ok();
        }),
        Case::new("lifecycle/restart-policy-invalid", |c| {
            c.run("run -d --restart nosuch @box true")
                .code(125)
                .err_has("invalid restart policy");
            c.run("run -d --restart always:3 @box true").code(125).err_has("invalid restart policy: maximum retry count can only be used with 'on-failure'");
            c.run("run -d --restart on-failure:x @box true")
                .code(125)
                .err_has("maximum retry count must be an integer");
        }),
        Case::new("lifecycle/killed-is-not-restarted", |c| {
            c.run("run -d --name @n --restart always @box sleep 60")
                .ok();
            c.run("kill @n").ok();
            c.wait_state("@n", "exited");
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(c.state("@n"), "exited");
        }),
        Case::new("lifecycle/prune", |c| {
            c.run("create --name @na --label prune=@n @box true").ok();
            c.run("run --name @nb --label prune=@n @box true").ok();
            c.run("run -d --name @nc --label prune=@n @box sleep 60")
                .ok();
            let out = c.run("container prune -f --filter label=prune=@n").ok();
            assert!(
                out.stdout.starts_with("Deleted Containers:\n")
                    && out.stdout.contains("Total reclaimed space: "),
                "{}",
                out.stdout
            );
            assert_eq!(
                [c.state("@na"), c.state("@nb"), c.state("@nc")],
                ["absent", "absent", "running"]
            );
            c.run_in("container prune", b"n\n")
                .check("asks first", |o| {
                    o.stdout
                        .contains("WARNING! This will remove all stopped containers.")
                        || o.stderr
                            .contains("WARNING! This will remove all stopped containers.")
                });
        }),
        Case::new("lifecycle/update-of-state-fields", |c| {
            c.run("run --name @n @box sh -c 'exit 5'").code(5);
            let state = c.inspect("@n")["State"].clone();
            assert_eq!(state["Status"], "exited");
            for (key, value) in [
                ("Running", false),
                ("Paused", false),
                ("Restarting", false),
                ("OOMKilled", false),
                ("Dead", false),
            ] {
                assert_eq!(state[key], value, "{key}");
            }
            assert_eq!(
                (&state["Pid"], &state["ExitCode"], &state["Error"]),
                (&0.into(), &5.into(), &"".into())
            );
            for key in ["StartedAt", "FinishedAt"] {
                let time = state[key].as_str().unwrap();
                assert!(
                    time.starts_with("20") && time.ends_with('Z') && time.contains('T'),
                    "{key} {time}"
                );
            }
        }),
        Case::new("lifecycle/start-failure-is-kept", |c| {
            c.run("create --name @n @box nosuchcommand").ok();
            c.run("start @n")
                .code(1)
                .err_has("executable file not found in $PATH");
            let state = c.inspect("@n")["State"].clone();
            assert_eq!(state["ExitCode"], 127);
            assert_eq!(state["Status"], "created");
            assert!(
                state["Error"]
                    .as_str()
                    .unwrap()
                    .contains("executable file not found"),
                "{state}"
            );
        }),
        Case::new("lifecycle/port-and-top-need-the-container", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            c.run("top @n").ok().check("a header and the program", |o| {
                o.lines().len() == 2
                    && o.stdout.starts_with("UID ")
                    && o.stdout.contains("sleep 60")
            });
            c.run("top @n -o pid,comm")
                .ok()
                .check("columns asked for", |o| {
                    o.stdout.starts_with("PID") && o.stdout.contains("sleep")
                });
            c.run("port @n").ok().out("");
            c.run("stop -t 0 @n").ok();
            c.run("top @n").code(1).err_has("is not running");
        }),
        Case::new("lifecycle/long-forms", |c| {
            c.run("container create --name @n @box sh -c 'echo long'")
                .ok();
            c.run("container start -a @n").ok().out("long\n");
            c.run("container logs @n").ok().out("long\n");
            c.run("container inspect @n").ok();
            c.run("container ls -aq --no-trunc --filter name=@n")
                .ok()
                .check("an id", |o| o.text().len() == 64);
            c.run("container rm @n").ok();
        }),
        Case::new("lifecycle/start-unknown", |c| {
            c.run("start @nnone")
                .code(1)
                .err_has("No such container: @nnone".replace("@n", &c.name).as_str());
            for verb in [
                "stop", "restart", "kill", "pause", "rm", "logs", "top", "port",
            ] {
                c.run(&format!("{verb} @nnone"))
                    .code(1)
                    .err_has("No such container");
            }
            c.run("inspect @nnone")
                .code(1)
                .out("[]\n")
                .err_has("No such object: @nnone".replace("@n", &c.name).as_str());
        }),
        Case::new("lifecycle/api-statuses", |c| {
            assert_eq!(c.api("POST", "/v1.44/containers/@nnone/start").status, 404);
            assert_eq!(c.api("DELETE", "/v1.44/containers/@nnone").status, 404);
            assert_eq!(c.api("POST", "/v1.44/containers/@nnone/kill").status, 404);
            c.run("create --name @n @box sleep 60").ok();
            assert_eq!(c.api("POST", "/v1.44/containers/@n/kill").status, 409);
            assert_eq!(c.api("POST", "/v1.44/containers/@n/pause").status, 409);
            assert_eq!(c.api("POST", "/v1.44/containers/@n/unpause").status, 500);
            assert_eq!(c.api("POST", "/v1.44/containers/@n/start").status, 204);
            assert_eq!(
                c.api("POST", "/v1.44/containers/@n/kill?signal=NOSUCH")
                    .status,
                400
            );
            assert_eq!(c.api("DELETE", "/v1.44/containers/@n?force=1").status, 204);
        })
        .on(On::Api),
    ]
}
