//! `ps`, `inspect`, `info`, `version`, `events`: what is shown, filtered and formatted.

use kekkai_tests::Case;
use serde_json::json;
use std::time::Duration;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("ps/columns", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            let out = c.run("ps --filter name=@n").ok();
            let lines = out.lines();
            assert_eq!(lines.len(), 2);
            let words: Vec<&str> = lines[0]
                .split("  ")
                .map(str::trim)
                .filter(|w| !w.is_empty())
                .collect();
            assert_eq!(
                words,
                [
                    "CONTAINER ID",
                    "IMAGE",
                    "COMMAND",
                    "CREATED",
                    "STATUS",
                    "PORTS",
                    "NAMES"
                ]
            );
            assert!(
                lines[1].contains("kkt/box")
                    && lines[1].contains("\"sleep 60\"")
                    && lines[1].contains("Up "),
                "{}",
                lines[1]
            );
            assert!(lines[1].trim_end().ends_with(&c.name));
        }),
        Case::new("ps/all-and-quiet", |c| {
            let id = c.run("create --name @n @box true").ok().text().to_owned();
            c.run("ps -q --filter name=@n").ok().out("");
            c.run("ps -aq --filter name=@n")
                .ok()
                .out(&format!("{}\n", &id[..12]));
            c.run("ps -aq --no-trunc --filter name=@n")
                .ok()
                .out(&format!("{id}\n"));
            c.run("ps -a --filter name=@n --format '{{.Status}}'")
                .ok()
                .out("Created\n");
        }),
        Case::new("ps/status-words", |c| {
            c.run("run --name @n @box sh -c 'exit 3'").code(3);
            // dockerd's list lags behind the exit that it has told.
            c.until("Exited (3) … ago", || {
                let out = c
                    .run("ps -a --filter name=@n --format '{{.Status}}'")
                    .ok()
                    .stdout;
                out.starts_with("Exited (3) ") && out.ends_with(" ago\n")
            });
            c.run("run -d --name @n2 @box sleep 60").ok();
            c.run("ps --filter name=@n2 --format '{{.State}} {{.Status}}'")
                .ok()
                .check("running Up …", |o| o.stdout.starts_with("running Up "));
            c.run("pause @n2").ok();
            c.run("ps --filter name=@n2 --format '{{.Status}}'")
                .ok()
                .out_has("(Paused)");
        }),
        Case::new("ps/format", |c| {
            c.run("run -d --name @n --label one=1 --label two=2 @box sleep 60")
                .ok();
            c.run("ps --filter name=@n --format '{{.Names}} {{.Image}} {{.Label \"one\"}}'")
                .ok()
                .out(&c.fill("@n kkt/box 1\n"));
            c.run("ps --filter name=@n --format '{{.Labels}}'")
                .ok()
                .check("both", |o| {
                    o.text() == "one=1,two=2" || o.text() == "two=2,one=1"
                });
            c.run("ps --filter name=@n --format 'table {{.Names}}\\t{{.Command}}'")
                .ok()
                .check("a table", |o| {
                    o.stdout.starts_with("NAMES") && o.stdout.contains("COMMAND")
                });
            let json = c.run("ps --filter name=@n --format json").ok().json();
            assert_eq!(
                (&json["Names"], &json["State"], &json["Image"]),
                (
                    &c.name.as_str().into(),
                    &"running".into(),
                    &"kkt/box".into()
                )
            );
            c.run("ps --filter name=@n --format '{{upper .Names}} {{json .Image}}'")
                .ok()
                .out(&format!("{} \"kkt/box\"\n", c.name.to_uppercase()));
            c.run("ps --filter name=@n --format '{{.NoSuchField}}'")
                .code(1)
                .err_has("NoSuchField");
            c.run("ps --filter name=@n --format '{{'")
                .fails()
                .err_has("template");
        }),
        Case::new("ps/filters", |c| {
            c.run("run -d --name @na --label k=@n @box sleep 60").ok();
            c.run("run --name @nb --label k=@n @box sh -c 'exit 2'")
                .code(2);
            c.run("create --name @nc --label k=other @box true").ok();
            let names = |filters: &str| {
                let mut all: Vec<String> = c
                    .run(&format!(
                        "ps -a {filters} --filter name=@n --format '{{{{.Names}}}}'"
                    ))
                    .ok()
                    .lines()
                    .iter()
                    .map(|s| (*s).to_owned())
                    .collect();
                all.sort();
                all
            };
            let full = |s: &str| c.fill(s);
            assert_eq!(names("--filter label=k=@n"), [full("@na"), full("@nb")]);
            assert_eq!(
                names("--filter label=k"),
                [full("@na"), full("@nb"), full("@nc")]
            );
            assert_eq!(names("--filter status=running"), [full("@na")]);
            assert_eq!(names("--filter status=exited"), [full("@nb")]);
            assert_eq!(
                names("--filter status=exited --filter status=created"),
                [full("@nb"), full("@nc")]
            );
            assert_eq!(names("--filter exited=2"), [full("@nb")]);
            assert_eq!(names("--filter exited=0"), Vec::<String>::new());
            assert_eq!(names("--filter before=@nb"), [full("@na")]);
            assert_eq!(names("--filter since=@na"), [full("@nb"), full("@nc")]);
            assert_eq!(names("--filter ancestor=kkt/box").len(), 3);
            assert_eq!(names("--filter ancestor=kkt/conf").len(), 0);
            let id = c.inspect("@nb")["Id"].as_str().unwrap()[..10].to_owned();
            assert_eq!(names(&format!("--filter id={id}")), [full("@nb")]);
            c.run("ps --filter nosuch=1")
                .code(1)
                .err_has("invalid filter 'nosuch'");
            c.run("ps --filter status=nosuch")
                .code(1)
                .err_has("invalid filter 'status=nosuch'");
            c.run("ps -a --filter before=@nnone")
                .code(1)
                .err_has("No such container");
            c.run("ps -n 1 -q")
                .ok()
                .check("one", |o| o.lines().len() == 1);
            c.run("ps -lq").ok().check("one", |o| o.lines().len() == 1);
        }),
        Case::new("ps/filter-volume-and-network", |c| {
            c.run("create --name @n -v @nv:/data --network none @box true")
                .ok();
            c.run("ps -a --filter volume=@nv --format '{{.Names}}'")
                .ok()
                .out(&c.fill("@n\n"));
            c.run("ps -a --filter volume=/data --filter name=@n --format '{{.Names}}'")
                .ok()
                .out(&c.fill("@n\n"));
            c.run("ps -a --filter network=none --filter name=@n --format '{{.Names}} {{.Networks}} {{.Mounts}}'").ok().check("none and volume", |o| o.stdout.starts_with(&c.fill("@n none @n").as_str()[..10]));
        }),
        Case::new("ps/order-newest-first", |c| {
            for i in 0..3 {
                c.run(&format!("create --name @n-{i} @box true")).ok();
            }
            c.run("ps -a --filter name=@n- --format '{{.Names}}'")
                .ok()
                .out(&c.fill("@n-2\n@n-1\n@n-0\n"));
        }),
        Case::new("ps/command-truncated", |c| {
            c.run("create --name @n @box sh -c 'echo a rather long command line indeed'")
                .ok();
            c.run("ps -a --filter name=@n --format '{{.Command}}'")
                .ok()
                .out("\"sh -c 'echo a rathe…\"\n");
            c.run("ps -a --no-trunc --filter name=@n --format '{{.Command}}'")
                .ok()
                .out("\"sh -c 'echo a rather long command line indeed'\"\n");
        }),
        Case::new("ps/size", |c| {
            c.run("run --name @n @box sh -c 'head -c 5000 /dev/zero > /f'")
                .ok();
            c.run("ps -as --filter name=@n --format '{{.Size}}'")
                .ok()
                .check("own and virtual", |o| {
                    o.stdout.contains("kB (virtual ") || o.stdout.contains("B (virtual ")
                });
        }),
        Case::new("inspect/config", |c| {
            c.run("create --name @n -e A=1 -w /tmp -u alice -h me -l x=y --entrypoint sh -i -t @box -c 'echo hi'").ok();
            let value = c.inspect("@n");
            let config = &value["Config"];
            assert_eq!(config["Cmd"], json!(["-c", "echo hi"]));
            assert_eq!(config["Entrypoint"], json!(["sh"]));
            assert_eq!(
                config["Env"],
                json!([
                    "A=1",
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
                ])
            );
            assert_eq!(
                (&config["WorkingDir"], &config["User"], &config["Hostname"]),
                (&"/tmp".into(), &"alice".into(), &"me".into())
            );
            assert_eq!(
                (&config["Tty"], &config["OpenStdin"], &config["StdinOnce"]),
                (&true.into(), &true.into(), &true.into())
            );
            assert_eq!(config["Image"], "kkt/box");
            assert_eq!(
                (&value["Path"], &value["Args"]),
                (&"sh".into(), &json!(["-c", "echo hi"]))
            );
            assert_eq!(value["Name"], c.fill("/@n").as_str());
            assert!(value["Image"].as_str().unwrap().starts_with("sha256:"));
            assert_eq!(value["Platform"], "linux");
            assert_eq!(value["RestartCount"], 0);
            let created = value["Created"].as_str().unwrap();
            assert!(created.len() > 20 && created.ends_with('Z'), "{created}");
        }),
        Case::new("inspect/host-config", |c| {
            c.run("create --name @n -m 64m --cpus 1.5 --cpu-shares 100 --pids-limit 50 --restart on-failure:3 --cap-add NET_ADMIN --cap-drop MKNOD --read-only --init --shm-size 32m --tmpfs /t --dns 1.1.1.1 --add-host a:1.2.3.4 --ulimit nofile=10:20 --sysctl net.ipv4.ip_forward=1 -p 127.0.0.1:0:80/tcp --ipc private --group-add 5 --oom-score-adj 7 --security-opt no-new-privileges @box true").ok();
            let host = c.inspect("@n")["HostConfig"].clone();
            for (key, value) in [
                ("Memory", json!(67_108_864)),
                ("NanoCpus", json!(1_500_000_000u64)),
                ("CpuShares", json!(100)),
                ("PidsLimit", json!(50)),
                (
                    "RestartPolicy",
                    json!({"Name": "on-failure", "MaximumRetryCount": 3}),
                ),
                ("CapAdd", json!(["CAP_NET_ADMIN"])),
                ("CapDrop", json!(["CAP_MKNOD"])),
                ("ReadonlyRootfs", json!(true)),
                ("Init", json!(true)),
                ("ShmSize", json!(33_554_432)),
                ("Tmpfs", json!({"/t": ""})),
                ("Dns", json!(["1.1.1.1"])),
                ("ExtraHosts", json!(["a:1.2.3.4"])),
                (
                    "Ulimits",
                    json!([{"Name": "nofile", "Hard": 20, "Soft": 10}]),
                ),
                ("Sysctls", json!({"net.ipv4.ip_forward": "1"})),
                ("IpcMode", json!("private")),
                ("GroupAdd", json!(["5"])),
                ("OomScoreAdj", json!(7)),
                ("SecurityOpt", json!(["no-new-privileges"])),
                (
                    "PortBindings",
                    json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]}),
                ),
                ("Privileged", json!(false)),
                ("AutoRemove", json!(false)),
                ("NetworkMode", json!("bridge")),
            ] {
                assert_eq!(host[key], value, "{key}");
            }
            assert!(
                host["MaskedPaths"]
                    .as_array()
                    .unwrap()
                    .contains(&json!("/proc/kcore"))
            );
            assert!(
                host["ReadonlyPaths"]
                    .as_array()
                    .unwrap()
                    .contains(&json!("/proc/sys"))
            );
        }),
        Case::new("inspect/mounts", |c| {
            c.run("create --name @n -v @nv:/data:ro --mount type=bind,src=/tmp,dst=/b @box true")
                .ok();
            let mut mounts = c.inspect("@n")["Mounts"].as_array().unwrap().clone();
            mounts.sort_by_key(|m| m["Destination"].as_str().unwrap().to_owned());
            assert_eq!(mounts.len(), 2);
            assert_eq!(
                (
                    &mounts[0]["Type"],
                    &mounts[0]["Source"],
                    &mounts[0]["RW"],
                    &mounts[0]["Propagation"]
                ),
                (
                    &"bind".into(),
                    &"/tmp".into(),
                    &true.into(),
                    &"rprivate".into()
                )
            );
            assert_eq!(
                (
                    &mounts[1]["Type"],
                    &mounts[1]["Name"],
                    &mounts[1]["RW"],
                    &mounts[1]["Driver"]
                ),
                (
                    &"volume".into(),
                    &c.fill("@nv").as_str().into(),
                    &false.into(),
                    &"local".into()
                )
            );
        }),
        Case::new("inspect/format", |c| {
            c.run("create --name @n -e A=1 -l a=b @box true").ok();
            c.run("inspect -f '{{.Name}} {{.State.Status}}' @n")
                .ok()
                .out(&c.fill("/@n created\n"));
            c.run("inspect -f '{{range .Config.Env}}{{println .}}{{end}}' @n")
                .ok()
                .out_has("A=1\n");
            c.run("inspect -f '{{index .Config.Labels \"a\"}} {{len .Config.Cmd}}' @n")
                .ok()
                .out("b 1\n");
            c.run("inspect -f '{{json .Config.Cmd}}' @n")
                .ok()
                .out("[\"true\"]\n");
            c.run("inspect -f '{{if .State.Running}}up{{else}}down{{end}}' @n")
                .ok()
                .out("down\n");
            c.run("inspect -f '{{join .Config.Cmd \",\"}} {{.HostConfig.Memory}}' @n")
                .ok()
                .out("true 0\n");
            c.run("inspect -f '{{with .Config}}{{.Image}}{{end}}{{/* comment */}}' @n")
                .ok()
                .out("kkt/box\n");
            c.run("inspect -f '{{printf \"%s-%d\" .Name .RestartCount}}' @n")
                .ok()
                .out(&c.fill("/@n-0\n"));
            c.run("inspect -f '{{.Nope}}' @n").code(1).err_has("Nope");
            c.run("inspect -f json @n")
                .ok()
                .check("json", |o| o.json().is_object() || o.json().is_array());
        }),
        Case::new("inspect/several", |c| {
            c.run("create --name @na @box true").ok();
            c.run("create --name @nb @box true").ok();
            c.run("inspect @na @nb")
                .ok()
                .check("two", |o| o.json().as_array().map(Vec::len) == Some(2));
            c.run("inspect @na @nnone")
                .code(1)
                .err_has("No such object")
                .check("one", |o| o.json().as_array().map(Vec::len) == Some(1));
            c.run("inspect --size @na")
                .ok()
                .check("sizes", |o| o.json()[0]["SizeRootFs"].is_u64());
        }),
        Case::new("inspect/network", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            let settings = c.inspect("@n")["NetworkSettings"].clone();
            let bridge = &settings["Networks"]["bridge"];
            for key in [
                "IPAddress",
                "Gateway",
                "MacAddress",
                "NetworkID",
                "EndpointID",
            ] {
                assert!(!bridge[key].as_str().unwrap().is_empty(), "{key}");
            }
            assert!(bridge["IPPrefixLen"].as_u64().unwrap() > 0);
            assert_eq!(settings["IPAddress"], bridge["IPAddress"]);
            c.run("inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' @n")
                .ok()
                .out(&format!("{}\n", bridge["IPAddress"].as_str().unwrap()));
        }),
        Case::new("info/and-version", |c| {
            let info = c.run("info --format json").ok().json();
            assert_eq!(
                (&info["OSType"], &info["Architecture"]),
                (&"linux".into(), &"x86_64".into())
            );
            assert!(
                info["NCPU"].as_u64().unwrap() >= 1 && info["MemTotal"].as_u64().unwrap() > 1 << 20
            );
            assert!(info["ServerVersion"].as_str().is_some());
            c.run("info")
                .ok()
                .out_has("Server Version:")
                .out_has("Cgroup Version:")
                .out_has("Storage Driver:");
            c.run("info --format '{{.OSType}}'").ok().out("linux\n");
            c.run("version")
                .ok()
                .out_has("Client")
                .out_has("Server")
                .out_has("1.51");
            c.run("version --format '{{.Server.APIVersion}}'")
                .ok()
                .out("1.51\n");
            let version = c.run("version --format json").ok().json();
            assert_eq!(version["Server"]["MinAPIVersion"], "1.24");
        }),
        Case::new("events/of-a-run", |c| {
            let events = c.spawn("events --filter container=@n --format '{{.Action}}'");
            std::thread::sleep(Duration::from_millis(500));
            c.run("run --rm --name @n @box true").ok();
            c.wait_state("@n", "absent");
            std::thread::sleep(Duration::from_millis(400));
            events.signal(rustix::process::Signal::INT);
            let out = events.finish(Duration::from_secs(10));
            for (earlier, later) in [
                ("create\n", "start\n"),
                ("start\n", "die\n"),
                ("die\n", "destroy\n"),
            ] {
                let at = |word: &str| {
                    out.stdout
                        .find(word)
                        .unwrap_or_else(|| panic!("no {word:?} in {:?}", out.stdout))
                };
                assert!(at(earlier) < at(later), "{:?}", out.stdout);
            }
            assert!(out.stdout.contains("attach\n"), "{:?}", out.stdout);
        }),
        Case::new("events/since-until", |c| {
            let now = || {
                let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                time.unwrap().as_secs()
            };
            let before = now();
            c.run("create --name @n --label ev=@n @box true").ok();
            c.run("rename @n @nr").ok();
            c.run("rm @nr").ok();
            // Asked at once: a daemon keeps its last 256 events, and the other cases are making theirs.
            let after = now() + 2;
            let out = c.run(&format!("events --since {before} --until {after} --filter type=container --filter label=ev=@n")).ok();
            let lines = out.lines();
            assert!(
                lines.len() == 3
                    && lines[0].contains(" container create ")
                    && lines[1].contains(" container rename ")
                    && lines[1].contains("oldName=")
                    && lines[2].contains(" container destroy "),
                "{}",
                out.stdout
            );
        }),
        Case::new("events/kinds", |c| {
            let before = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs();
            c.run("run -d --name @n @box sh -c 'sleep 60'").ok();
            c.run("pause @n").ok();
            c.run("unpause @n").ok();
            c.run("exec @n true").ok();
            c.run("restart -t 0 @n").ok();
            c.run("kill @n").ok();
            c.run("rm @n").ok();
            c.run("tag @box @n:t").ok();
            c.run("rmi @n:t").ok();
            c.run("volume create @n").ok();
            c.run("volume rm @n").ok();
            std::thread::sleep(Duration::from_millis(1100));
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs();
            let out = c
                .run(&format!(
                    "events --since {before} --until {now} --format '{{{{.Type}}}} {{{{.Action}}}}'"
                ))
                .ok();
            for wanted in [
                "container create",
                "container start",
                "container pause",
                "container unpause",
                "container exec_create: true",
                "container exec_start: true",
                "container exec_die",
                "container kill",
                "container die",
                "container stop",
                "container restart",
                "container destroy",
                "image tag",
                "image untag",
                "volume create",
                "volume destroy",
                "network connect",
                "network disconnect",
            ] {
                assert!(
                    out.stdout.contains(wanted),
                    "no {wanted:?} in {}",
                    out.stdout
                );
            }
        }),
        Case::new("events/json", |c| {
            let before = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs();
            c.run("create --name @n -l a=b @conf").ok();
            std::thread::sleep(Duration::from_millis(1100));
            let out = c
                .run(&format!(
                    "events --since {before} --until {} --filter container=@n --format json",
                    before + 2
                ))
                .ok();
            let event: serde_json::Value = serde_json::from_str(out.lines()[0]).unwrap();
            assert_eq!(
                (&event["Type"], &event["Action"], &event["scope"]),
                (&"container".into(), &"create".into(), &"local".into())
            );
            assert_eq!(event["Actor"]["Attributes"]["a"], "b");
            assert_eq!(event["Actor"]["Attributes"]["image"], "kkt/conf");
            assert!(event["timeNano"].as_u64().unwrap() > 1 << 60);
        }),
        Case::new("cli/help", |c| {
            c.run("--help").ok().out_has("run").out_has("Usage:");
            c.run("run --help")
                .ok()
                .out_has("--rm")
                .out_has("--publish")
                .out_has("--memory");
            c.run("nosuchcommand")
                .code(1)
                .err_has_one(&["unknown command", "is not a"]);
            c.run("ps --nosuch")
                .fails()
                .err_has("unknown flag: --nosuch");
            c.run("container nosuch").check("says something", |o| {
                !o.stdout.is_empty() || !o.stderr.is_empty()
            });
        }),
        Case::new("cli/completions", |c| {
            for shell in ["bash", "zsh", "fish"] {
                c.run(&format!("completion {shell}"))
                    .ok()
                    .check("a script", |o| o.stdout.len() > 200);
            }
        }),
        Case::new("cli/no-daemon-there", |c| {
            c.run("-H unix:///nonexistent/socket ps")
                .fails()
                .err_has_one(&[
                    "Cannot connect to the Docker daemon at unix:///nonexistent/socket",
                    "Cannot connect to the Kekkai daemon at unix:///nonexistent/socket",
                    "failed to connect to the docker API at unix:///nonexistent/socket",
                ]);
        }),
    ]
}
