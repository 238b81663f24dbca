//! `exec`: a second program in a container.

use kekkai_tests::Case;
use kekkai_tests::case::On;
use serde_json::json;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("exec/echo-and-exit-code", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            c.run("exec @n sh -c 'echo out; echo err >&2; exit 7'")
                .code(7)
                .out("out\n")
                .err("err\n");
            c.run("exec @n true").ok();
            c.run("exec @n sh -c 'kill -9 $$'").code(137);
        }),
        Case::new("exec/stdin", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            c.run_in("exec -i @n cat", b"through\n")
                .ok()
                .out("through\n");
            c.run_in("exec -i @n wc -c", &vec![b'y'; 1_000_000])
                .ok()
                .out("1000000\n");
            c.run_in("exec @n cat", b"unseen\n").ok().out("");
        }),
        Case::new("exec/env-user-workdir", |c| {
            c.run("run -d --name @n -e BASE=1 @box sleep 60").ok();
            c.run("exec -e X=2 -u alice -w /tmp @n sh -c 'echo $BASE $X; id -un; pwd'")
                .ok()
                .out("1 2\nalice\n/tmp\n");
            c.run("exec @n sh -c 'echo $HOME'").ok().out("/root\n");
            std::fs::write(c.share("env"), "F=file\n").unwrap();
            c.run("exec --env-file @share/env @n sh -c 'echo $F'")
                .ok()
                .out("file\n");
        }),
        Case::new("exec/inherits-the-containers-config", |c| {
            c.run("run -d --name @n --entrypoint sleep -h here @conf 60")
                .ok();
            c.run("exec @n sh -c 'id -un; pwd; echo $FROM_IMAGE; hostname'")
                .ok()
                .out("alice\n/work/dir\nyes\nhere\n");
        }),
        Case::new("exec/sees-the-same-namespaces", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            c.run("exec @n sh -c 'for n in mnt pid net ipc uts; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n differs; done'").ok().out("");
            c.run("exec @n cat /proc/1/comm").ok().out("sleep\n");
        }),
        Case::new("exec/same-cgroup-and-limits", |c| {
            c.run("run -d --name @n -m 64m --pids-limit 30 --cap-drop ALL --security-opt no-new-privileges @box sleep 60").ok();
            c.run("exec @n sh -c 'diff /proc/1/cgroup /proc/self/cgroup && echo same'")
                .ok()
                .out("same\n");
            c.run("exec @n grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status")
                .ok()
                .out("CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n");
        }),
        Case::new("exec/privileged", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let all = status
                .lines()
                .find_map(|l| l.strip_prefix("CapBnd:\t"))
                .unwrap()
                .to_owned();
            c.run("exec --privileged @n grep CapEff /proc/self/status")
                .ok()
                .out(&format!("CapEff:\t{all}\n"));
        }),
        Case::new("exec/detached", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            c.run("exec -d @n sh -c 'echo done > /flag'").ok().out("");
            c.until("the flag", || c.run("exec @n cat /flag").code == 0);
        }),
        Case::new("exec/command-not-found", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            c.run("exec @n nosuchcommand")
                .code(127)
                .check("names it", |o| {
                    let all = format!("{}{}", o.stdout, o.stderr);
                    all.contains("exec: \"nosuchcommand\": executable file not found in $PATH")
                });
            c.run("exec @n /etc/notexec")
                .code(126)
                .check("says why", |o| {
                    format!("{}{}", o.stdout, o.stderr).contains("permission denied")
                });
            c.run("exec -u nosuchuser @n true")
                .fails()
                .check("names the user", |o| {
                    format!("{}{}", o.stdout, o.stderr).contains("nosuchuser")
                });
        }),
        Case::new("exec/needs-a-running-container", |c| {
            c.run("create --name @n @box true").ok();
            c.run("exec @n true").code(1).err_has("is not running");
            c.run("exec @nnone true")
                .code(1)
                .err_has("No such container");
        }),
        Case::new("exec/ends-with-the-container", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            let exec = c.spawn("exec @n sleep 50");
            c.until("two programs", || {
                c.run("top @n").stdout.matches("sleep").count() == 2
            });
            c.run("rm -f @n").ok();
            exec.finish(std::time::Duration::from_secs(20)).code(137);
        }),
        Case::new("exec/many-at-once", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            let runs: Vec<_> = (0..8)
                .map(|i| c.spawn(&format!("exec @n sh -c 'echo {i}; exit {i}'")))
                .collect();
            for (i, run) in runs.into_iter().enumerate() {
                run.finish(std::time::Duration::from_secs(60))
                    .code(i as i32)
                    .out(&format!("{i}\n"));
            }
        }),
        Case::new("exec/much-output", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            c.run("exec @n seq 1 50000").ok().check("all of it", |o| {
                o.lines().len() == 50_000 && o.stdout.ends_with("50000\n")
            });
        }),
        Case::new("exec/api", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            let made = c.api_json(
                "POST",
                "/v1.44/containers/@n/exec",
                &json!({"Cmd": ["sh", "-c", "exit 9"]}),
            );
            assert_eq!(made.status, 201);
            let id = made.json()["Id"].as_str().unwrap().to_owned();
            assert_eq!(id.len(), 64);
            let seen = c.api("GET", &format!("/v1.44/exec/{id}/json"));
            assert_eq!((seen.status, &seen.json()["Running"]), (200, &json!(false)));
            assert_eq!(seen.json()["ProcessConfig"]["entrypoint"], "sh");
            let started = c.api_json(
                "POST",
                &format!("/v1.44/exec/{id}/start"),
                &json!({"Detach": true}),
            );
            assert_eq!(started.status, 200);
            c.until("its end", || {
                c.api("GET", &format!("/v1.44/exec/{id}/json")).json()["ExitCode"] == 9
            });
            assert_eq!(c.api("GET", "/v1.44/exec/nosuch/json").status, 404);
            assert_eq!(
                c.api_json(
                    "POST",
                    &format!("/v1.44/exec/{id}/start"),
                    &json!({"Detach": true})
                )
                .status,
                409
            );
            assert_eq!(
                c.api_json("POST", "/v1.44/containers/@n/exec", &json!({"Cmd": []}))
                    .status,
                400
            );
            assert_eq!(
                c.api_json(
                    "POST",
                    "/v1.44/containers/@nnone/exec",
                    &json!({"Cmd": ["true"]})
                )
                .status,
                404
            );
        })
        .on(On::Api),
    ]
}
