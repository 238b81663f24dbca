//! Bad input: the words, the exit code, and nothing left behind.

use kekkai_tests::case::On;
use kekkai_tests::daemon::{Daemon, Options};
use kekkai_tests::{Case, Ctx};
use serde_json::json;

/// No container of this name came into being.
fn nothing_left(c: &Ctx<'_>) {
    c.run("ps -aq --filter name=@n").ok().out("");
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("errors/command-not-found", |c| {
            c.run("run --rm --name @n @box nosuchcommand")
                .code(127)
                .err_has("exec: \"nosuchcommand\": executable file not found in $PATH");
            c.run("run --rm --name @n @box /no/such/path")
                .code(127)
                .err_has("/no/such/path")
                .err_has("no such file or directory");
            // runc learns of this one too late to say 127.
            c.run("run --rm --name @n @box /bin/badinterp")
                .err_has("no such file or directory")
                .check("127 or runc's 255", |o| [127, 255].contains(&o.code));
            nothing_left(c);
        }),
        Case::new("errors/not-executable", |c| {
            c.run("run --rm --name @n @box /etc/notexec")
                .code(126)
                .err_has("permission denied");
            c.run("run --rm --name @n @box /etc")
                .code(126)
                .err_has_one(&["is a directory", "permission denied"]);
            c.run("run --rm --name @n @box /bin/garbage")
                .err_has("exec format error")
                .check("126 or runc's 255", |o| [126, 255].contains(&o.code));
            nothing_left(c);
        }),
        Case::new("errors/detached-failures", |c| {
            c.run("run -d --name @n @box nosuchcommand")
                .code(127)
                .check("the id first", |o| o.text().len() == 64);
            assert_eq!(c.state("@n"), "created");
        }),
        Case::new("errors/bad-user", |c| {
            c.run("run --rm --name @n -u nosuch @box true")
                .code(125)
                .err_has("unable to find user nosuch: no matching entries in passwd file");
            c.run("run --rm --name @n -u root:nosuch @box true")
                .code(125)
                .err_has("unable to find group nosuch: no matching entries in group file");
            nothing_left(c);
        }),
        Case::new("errors/bad-workdir", |c| {
            c.run("run --rm --name @n -w relative @box true")
                .code(125)
                .err_has(
                    "the working directory 'relative' is invalid, it needs to be an absolute path",
                );
            c.run("run --rm --name @n -w /etc/passwd @box true")
                .fails()
                .err_has("not a directory");
            nothing_left(c);
        }),
        Case::new("errors/no-command", |c| {
            c.run("run --rm --entrypoint '' @conf")
                .code(125)
                .err_has_one(&["no command specified", "No command specified"]);
        }),
        Case::new("errors/invalid-reference", |c| {
            c.run("run --rm 'Not/Valid' true")
                .code(125)
                .err_has("invalid reference format");
            c.run("run --rm ''")
                .code(125)
                .err_has("invalid reference format");
            c.run("run --rm @box:bad:tag true")
                .code(125)
                .err_has("invalid reference format");
        }),
        Case::new("errors/unknown-image", |c| {
            c.run("run --rm --pull never nosuch-@n true")
                .code(125)
                .err_has("No such image: nosuch-");
            c.run("create --pull never nosuch-@n true")
                .code(1)
                .err_has("No such image");
            assert_eq!(
                c.api_json(
                    "POST",
                    "/v1.44/containers/create?name=@n",
                    &json!({"Image": "nosuch-@n", "Cmd": ["true"]})
                )
                .status,
                404
            );
            nothing_left(c);
        }),
        Case::new("errors/conflicting-options", |c| {
            for (flags, words) in [
                ("--network host -p 80:80 --pid nosuch", "invalid PID mode"),
                ("--uts nosuch", "invalid UTS mode"),
                ("--userns nosuch", "invalid USER mode"),
                ("--cgroupns nosuch", "invalid CGROUP mode"),
                (
                    "--cpus 1 --cpu-quota 5000",
                    "conflicting options: Nano CPUs and CPU Quota cannot both be set",
                ),
                (
                    "--health-cmd true --no-healthcheck",
                    "--no-healthcheck conflicts with --health-* options",
                ),
                (
                    "--uts host -h x",
                    "conflicting options: hostname and the UTS mode",
                ),
                (
                    "--memory 64m --memory-swappiness 200",
                    "invalid value: 200. valid memory swappiness range is 0-100",
                ),
                ("--restart always:x", "invalid restart policy"),
                ("--env-file /no/such/file", "no such file or directory"),
                ("--label-file /no/such/file", "no such file or directory"),
                ("--log-opt max-size", "invalid"),
            ] {
                let out = c.run(&format!("run --rm --name @n {flags} @box true"));
                // An option that is not there yet is refused by its own name: as good.
                if !(out.code == 125 && out.stderr.contains("not supported")) {
                    out.fails().err_has(words);
                }
            }
            nothing_left(c);
        }),
        Case::new("errors/api-bodies", |c| {
            let status =
                |path: &str, body: &serde_json::Value| c.api_json("POST", path, body).status;
            assert_eq!(status("/v1.44/containers/create", &json!({})), 400);
            assert_eq!(
                status(
                    "/v1.44/containers/create?name=bad%20name",
                    &json!({"Image": "@box"})
                ),
                400
            );
            assert_eq!(
                status(
                    "/v1.44/containers/create",
                    &json!({"Image": "@box", "HostConfig": {"Memory": -5}})
                ),
                400
            );
            assert_eq!(
                status(
                    "/v1.44/containers/create",
                    &json!({"Image": "@box", "HostConfig": {"Memory": 1000}})
                ),
                400
            );
            assert_eq!(
                status(
                    "/v1.44/containers/create",
                    &json!({"Image": "@box", "HostConfig": {"Memory": "text"}})
                ),
                400
            );
            let bad = kekkai_tests::http::request_bytes(
                &c.world.socket,
                "POST",
                "/v1.44/containers/create",
                Some(b"{not json"),
                "application/json",
            )
            .unwrap();
            assert_eq!(bad.status, 400);
            assert!(!bad.message().is_empty());
            let bad = kekkai_tests::http::request_bytes(
                &c.world.socket,
                "POST",
                "/v1.44/containers/create",
                Some(b"{}"),
                "text/plain",
            )
            .unwrap();
            assert_eq!(bad.status, 400);
            assert_eq!(c.api("GET", "/v1.44/nosuchroute").status, 404);
            assert_eq!(
                c.api("GET", "/v1.44/nosuchroute").message(),
                "page not found"
            );
            assert_eq!(c.api("GET", "/v1.23/_ping").status, 400);
            assert_eq!(c.api("GET", "/v1.99/info").status, 400);
            assert!(
                c.api("GET", "/v1.99/info")
                    .message()
                    .contains("client version 1.99 is too new. Maximum supported API version is")
            );
            assert!(
                String::from_utf8_lossy(&c.api("GET", "/v1.20/info").body).contains(
                    "client version 1.20 is too old. Minimum supported API version is 1.24"
                )
            );
            assert_eq!(
                c.api("GET", "/v1.44/containers/json?filters=notjson")
                    .status,
                400
            );
            assert_eq!(
                c.api(
                    "GET",
                    "/v1.44/containers/json?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D"
                )
                .status,
                400
            );
            assert_eq!(
                c.api("GET", "/v1.44/containers/@nnone/logs?stdout=1")
                    .status,
                404
            );
        })
        .on(On::Api),
        Case::new("api/ping-and-versions", |c| {
            let ping = c.api("GET", "/_ping");
            assert_eq!((ping.status, ping.body.as_slice()), (200, b"OK".as_slice()));
            assert_eq!(ping.header("api-version"), Some("1.51"));
            assert_eq!(ping.header("ostype"), Some("linux"));
            assert!(ping.header("docker-experimental").is_some());
            assert!(
                ping.header("cache-control")
                    .is_some_and(|v| v.contains("no-cache"))
            );
            assert_eq!(c.api("HEAD", "/_ping").status, 200);
            for version in ["v1.24", "v1.30", "v1.40", "v1.44", "v1.51"] {
                assert_eq!(
                    c.api("GET", &format!("/{version}/version")).status,
                    200,
                    "{version}"
                );
                assert_eq!(
                    c.api("GET", &format!("/{version}/containers/json")).status,
                    200,
                    "{version}"
                );
                assert_eq!(
                    c.api("GET", &format!("/{version}/info")).status,
                    200,
                    "{version}"
                );
            }
            assert_eq!(c.api("GET", "/version").json()["ApiVersion"], "1.51");
        })
        .on(On::Api),
        Case::new("api/create-and-list-fields", |c| {
            let made = c.api_json(
                "POST",
                "/v1.44/containers/create?name=@n",
                &json!({"Image": "@box", "Cmd": ["true"], "Labels": {"a": "b"}}),
            );
            assert_eq!(made.status, 201, "{}", made.message());
            assert_eq!(made.json()["Id"].as_str().unwrap().len(), 64);
            assert_eq!(made.json()["Warnings"], json!([]));
            let again = c.api_json(
                "POST",
                "/v1.44/containers/create?name=@n",
                &json!({"Image": "@box", "Cmd": ["true"]}),
            );
            assert_eq!(again.status, 409);
            let filter = format!("%7B%22name%22%3A%5B%22{}%22%5D%7D", c.name);
            let list = c
                .api(
                    "GET",
                    &format!("/v1.44/containers/json?all=1&filters={filter}"),
                )
                .json();
            let row = &list[0];
            for key in [
                "Id",
                "Names",
                "Image",
                "ImageID",
                "Command",
                "Created",
                "Ports",
                "Labels",
                "State",
                "Status",
                "HostConfig",
                "NetworkSettings",
                "Mounts",
            ] {
                assert!(row.get(key).is_some(), "no {key} in {row}");
            }
            assert!(row["Created"].is_u64());
            let full = c.api("GET", "/v1.44/containers/@n/json").json();
            for key in [
                "Id",
                "Created",
                "Path",
                "Args",
                "State",
                "Image",
                "ResolvConfPath",
                "HostnamePath",
                "HostsPath",
                "LogPath",
                "Name",
                "RestartCount",
                "Driver",
                "Platform",
                "MountLabel",
                "ProcessLabel",
                "AppArmorProfile",
                "ExecIDs",
                "HostConfig",
                "GraphDriver",
                "Mounts",
                "Config",
                "NetworkSettings",
            ] {
                assert!(full.get(key).is_some(), "no {key}");
            }
            for key in [
                "Status",
                "Running",
                "Paused",
                "Restarting",
                "OOMKilled",
                "Dead",
                "Pid",
                "ExitCode",
                "Error",
                "StartedAt",
                "FinishedAt",
            ] {
                assert!(full["State"].get(key).is_some(), "no State.{key}");
            }
        })
        .on(On::Api),
        Case::new("errors/unsupported-field-is-named", |c| {
            for (host, word) in [
                (json!({"Runtime": "nosuch"}), "runtime"),
                (json!({"CpuRealtimePeriod": 5}), "cpu"),
                (json!({"Isolation": "hyperv"}), "isolation"),
                (json!({"StorageOpt": {"size": "1G"}}), "storage"),
                (json!({"DeviceRequests": [{"Count": -1}]}), "device"),
            ] {
                let answer = c.api_json(
                    "POST",
                    "/v1.44/containers/create",
                    &json!({"Image": "@box", "HostConfig": host}),
                );
                assert!(
                    answer.status == 400 && answer.message().to_lowercase().contains(word),
                    "{host}: {} {}",
                    answer.status,
                    answer.message()
                );
            }
        })
        .on(On::Ours),
        Case::new("errors/no-space", |c| {
            let args = vec![
                "--registry-mirror".into(),
                format!("http://{}", c.world.registry.host()),
            ];
            let options = Options {
                args,
                data_size: Some("1m".into()),
                ..Options::default()
            };
            let mut daemon = Daemon::start(options).unwrap();
            let mut command = c.command("pull box");
            command.env("KEKKAI_HOST", format!("unix://{}", daemon.socket.display()));
            let out = kekkai_tests::command::Running::start(command, "pull box".into(), None)
                .finish(kekkai_tests::case::DEADLINE);
            out.code(1).err_has("no space left on device");
            assert_eq!(daemon.leftovers_when_empty(), Vec::<String>::new());
            // It still answers, and its disk is as empty as before.
            assert_eq!(
                kekkai_tests::http::request(&daemon.socket, "GET", "/images/json", None)
                    .unwrap()
                    .json(),
                json!([])
            );
            daemon.tear_down().unwrap();
        })
        .on(On::OurCli),
        Case::new("errors/no-permission-on-the-socket", |c| {
            // As nobody: setpriv is util-linux.
            let inner = c.command("ps");
            let mut command = std::process::Command::new("setpriv");
            command
                .args([
                    "--reuid",
                    "65534",
                    "--regid",
                    "65534",
                    "--clear-groups",
                    "--",
                ])
                .arg(inner.get_program())
                .args(inner.get_args());
            for (key, value) in inner.get_envs() {
                if let Some(value) = value {
                    command.env(key, value);
                }
            }
            command
                .env("HOME", "/nonexistent")
                .env("DOCKER_CONFIG", "/nonexistent");
            let out = kekkai_tests::command::Running::start(command, "ps as nobody".into(), None)
                .finish(kekkai_tests::case::DEADLINE);
            out.code(1).err_has("permission denied");
        })
        .on(On::Ours),
    ]
}
