//! What a process is and may do: namespaces, users, capabilities, seccomp, errors, exec.

use kekkai_runtime::FailureKind;
use serde_json::json;

use crate::needs_root;
use crate::support::{Bundle, DEFAULT_CAPABILITIES, finish, kill, pipes, table, wait};

#[test]
fn says_hello() {
    needs_root!();
    assert_eq!(Bundle::new().args(&["echo", "hello"]).stdout(), "hello\n");
    assert_eq!(Bundle::new().script("exit 7").run().unwrap().code, 7);
    // The first process of a pid namespace is only killed from outside.
    assert_eq!(
        Bundle::new()
            .script("kill -9 $$; exit 4")
            .run()
            .unwrap()
            .code,
        4
    );
}

#[test]
fn has_namespaces_of_its_own() {
    needs_root!();
    let names = ["pid", "mnt", "uts", "ipc", "net"];
    let script = names
        .map(|name| format!("readlink /proc/self/ns/{name}"))
        .join("; ");
    let inside = Bundle::new()
        .script(&format!("{script}; hostname; echo $$; ps -o pid | wc -l"))
        .stdout();
    let lines: Vec<&str> = inside.lines().collect();
    for (name, line) in names.iter().zip(&lines) {
        let ours = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(ours.to_string_lossy(), *line);
    }
    assert_eq!(&lines[5..7], ["testhost", "1"]);
    // Heading, sh and ps; wc may have begun or not.
    assert!(["3", "4"].contains(&lines[7]), "{lines:?}");
}

#[test]
fn host_and_private_cgroup_namespaces() {
    needs_root!();
    let bundle = Bundle::new().script(
        "cat /proc/self/cgroup; ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/tasks 2>/dev/null; true",
    );
    let output = bundle.stdout();
    assert!(
        output.contains(&crate::support::cgroup(&bundle.id)),
        "{output}"
    );
    let mut bundle = bundle;
    bundle.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "cgroup"}));
    let output = bundle.stdout();
    assert!(
        output.contains(":pids:/\n") || output.contains("0::/\n"),
        "{output}"
    );
    assert!(!output.contains(&bundle.id), "{output}");
}

#[test]
fn joins_namespaces_of_another() {
    needs_root!();
    let first = Bundle::new().script("sleep 30");
    let (fds, _out, _err) = pipes();
    let running = first.start(fds).unwrap();
    let mut second =
        Bundle::new().script("hostname; readlink /proc/self/ns/net; ps | grep -c 'sleep 3[0]'");
    for namespace in second.spec["linux"]["namespaces"].as_array_mut().unwrap() {
        let kind = namespace["type"].as_str().unwrap().to_owned();
        let file = match kind.as_str() {
            "network" => "net",
            "mount" => continue,
            other => other,
        };
        namespace["path"] = json!(format!("/proc/{}/ns/{file}", running.pid));
    }
    second.spec["hostname"] = json!(null);
    let output = second.stdout();
    let net = std::fs::read_link(format!("/proc/{}/ns/net", running.pid)).unwrap();
    assert_eq!(output, format!("testhost\n{}\n1\n", net.display()));
    // By descriptor: a pidfd serves for any kind.
    let mut third = Bundle::new().script("ps | grep -c 'sleep 3[0]'");
    third.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|namespace| namespace["type"] != "ipc");
    let (mut fds, out, err) = pipes();
    let pidfd = running.pidfd.try_clone().unwrap();
    fds.namespaces.push(kekkai_runtime::JoinNamespace {
        kind: kekkai_runtime::NamespaceKind::Pid,
        fd: pidfd,
    });
    assert_eq!(finish(&third.start(fds).unwrap(), out, err).stdout, "1\n");
    kill(&running);
}

#[test]
fn capabilities_seccomp_and_signals_are_dockers() {
    needs_root!();
    let status = table(&Bundle::new().args(&["cat", "/proc/self/status"]).stdout());
    for (key, value) in [
        ("CapEff", "00000000a80425fb"),
        ("CapPrm", "00000000a80425fb"),
        ("CapBnd", "00000000a80425fb"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("Seccomp", "2"),
        ("Seccomp_filters", "1"),
        ("NoNewPrivs", "0"),
        ("SigBlk", "0000000000000000"),
        ("SigIgn", "0000000000000000"),
        ("Umask", "0022"),
    ] {
        assert_eq!(status[key], value, "{key}");
    }
}

#[test]
fn no_new_privileges() {
    needs_root!();
    let mut bundle = Bundle::new()
        .args(&["cat", "/proc/self/status"])
        .set("/process/noNewPrivileges", json!(true));
    bundle.user = Some("daemon".into());
    let status = table(&bundle.stdout());
    assert_eq!(
        (status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()),
        ("1", "2")
    );
    assert_eq!(status["Uid"], "2\t2\t2\t2");
    assert_eq!(status["CapEff"], "0000000000000000");
    assert_eq!(status["CapBnd"], "00000000a80425fb");
}

#[test]
fn ambient_capabilities_reach_other_users() {
    needs_root!();
    let net = json!(["CAP_NET_BIND_SERVICE"]);
    let capabilities = json!({"bounding": net, "effective": net, "permitted": net, "inheritable": net, "ambient": net});
    let mut bundle = Bundle::new()
        .args(&["cat", "/proc/self/status"])
        .set("/process/capabilities", capabilities);
    bundle.user = Some("2".into());
    assert_eq!(table(&bundle.stdout())["CapEff"], "0000000000000400");
}

#[test]
fn seccomp_stops_what_docker_stops() {
    needs_root!();
    let script = "unshare() { busybox unshare \"$@\"; }; unshare -m true; echo $?; mount -t tmpfs x /tmp; echo $?";
    let output = Bundle::new().script(script).run().unwrap();
    assert_eq!(output.stdout, "1\n1\n");
    assert!(output.stderr.contains("ermitted"), "{output:?}");
    // CAP_SYS_ADMIN opens mount in the profile as well.
    let mut all = DEFAULT_CAPABILITIES.to_vec();
    all.push("CAP_SYS_ADMIN");
    let seccomp = serde_json::to_value(kekkai_runtime::seccomp::docker_default(&all)).unwrap();
    let bundle = Bundle::new()
        .script("mount -t tmpfs x /tmp && mount | grep -c ' /tmp '")
        .set("/linux/seccomp", seccomp);
    let bundle = bundle.set(
        "/process/capabilities",
        json!({"bounding": all, "effective": all, "permitted": all}),
    );
    assert_eq!(bundle.stdout(), "1\n");
}

#[test]
fn users_as_docker() {
    needs_root!();
    let who = |user: &str, groups: &[&str]| {
        let mut bundle =
            Bundle::new().script("id -u; id -g; cat /proc/self/status | grep Groups; echo $HOME");
        bundle.user = Some(user.into());
        bundle.groups = groups.iter().map(ToString::to_string).collect();
        bundle.run().map(|output| {
            output
                .stdout
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
                .join(" ")
        })
    };
    assert_eq!(who("", &[]).unwrap(), "0 0 Groups: 0 1 /root");
    assert_eq!(who("daemon", &[]).unwrap(), "2 2 Groups: 1 2 /home/daemon");
    assert_eq!(
        who("daemon:audio", &["777"]).unwrap(),
        "2 18 Groups: 18 777 /home/daemon"
    );
    assert_eq!(who("4242", &[]).unwrap(), "4242 0 Groups: 0 /");
    let error = who("nobody-here", &[]).unwrap_err();
    assert_eq!(
        error.message,
        "unable to find user nobody-here: no matching entries in passwd file"
    );
    assert_eq!((error.exit_code(), error.class().http_status()), (125, 400));
}

#[test]
fn programs_that_cannot_run() {
    needs_root!();
    let fails = |args: &[&str]| {
        let error = Bundle::new().args(args).run().unwrap_err();
        let message = error
            .message
            .strip_prefix("unable to start container process: error during container init: ");
        (
            error.exit_code(),
            message.unwrap_or(&error.message).to_owned(),
        )
    };
    assert_eq!(
        fails(&["nosuch"]),
        (
            127,
            "exec: \"nosuch\": executable file not found in $PATH".into()
        )
    );
    assert_eq!(
        fails(&[""]),
        (127, "exec: \"\": executable file not found in $PATH".into())
    );
    assert_eq!(
        fails(&["/nosuch"]),
        (
            127,
            "exec: \"/nosuch\": stat /nosuch: no such file or directory".into()
        )
    );
    assert_eq!(
        fails(&["/etc"]),
        (
            126,
            "exec: \"/etc\": is a directory: permission denied".into()
        )
    );
    assert_eq!(
        fails(&["/etc/passwd"]),
        (126, "exec: \"/etc/passwd\": permission denied".into())
    );
    assert_eq!(
        fails(&["./x"]),
        (
            127,
            "exec: \"./x\": stat ./x: no such file or directory".into()
        )
    );
    // What the kernel refuses after all was found is the container's own output.
    let bundle = Bundle::new().args(&["/x"]);
    std::fs::write(bundle.lower().join("x"), "garbage").unwrap();
    std::fs::set_permissions(
        bundle.lower().join("x"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let output = bundle.run().unwrap();
    assert_eq!(
        (output.code, output.stderr.as_str()),
        (255, "exec /x: exec format error\n")
    );
    let cwd = Bundle::new()
        .set("/process/cwd", json!("/etc/passwd"))
        .run()
        .unwrap_err();
    assert_eq!(cwd.message, "Cannot mkdir: /etc/passwd is not a directory");
}

#[test]
fn working_directory_is_made() {
    needs_root!();
    let mut bundle = Bundle::new()
        .script("pwd; stat -c '%u %a' .")
        .set("/process/cwd", json!("/new/deep"));
    bundle.user = Some("daemon".into());
    assert_eq!(bundle.stdout(), "/new/deep\n0 755\n");
}

#[test]
fn working_directory_in_a_volume() {
    needs_root!();
    let volume = tempfile::tempdir().unwrap();
    let bundle = Bundle::new()
        .mount("/data", "bind", volume.path().to_str().unwrap(), &["rbind"])
        .set("/process/cwd", json!("/data/sub"))
        .args(&["pwd"]);
    assert_eq!(bundle.stdout(), "/data/sub\n");
    assert!(volume.path().join("sub").is_dir());
}

/// As `docker run --privileged`.
#[test]
fn privileged() {
    needs_root!();
    let all = kekkai_sys::capability::NAMES.to_vec();
    let mut bundle = Bundle::new()
        .set(
            "/process/capabilities",
            json!({"bounding": all, "effective": all, "permitted": all}),
        )
        .set("/linux/seccomp", json!(null))
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]))
        .set(
            "/linux/resources/devices",
            json!([{"allow": true, "access": "rwm"}]),
        );
    for mount in bundle.spec["mounts"].as_array_mut().unwrap() {
        mount["options"]
            .as_array_mut()
            .unwrap()
            .retain(|option| option != "ro");
    }
    let script = "mount -t tmpfs x /tmp && echo mounted; grep -E 'CapEff|Seccomp:' /proc/self/status; \
                  mkdir /sys/fs/cgroup/pids/sub 2>/dev/null || mkdir /sys/fs/cgroup/sub; \
                  echo privileged > /proc/sys/kernel/hostname; hostname";
    let output = bundle.script(script).stdout();
    assert!(output.starts_with("mounted\nCapEff:\t0000"), "{output}");
    assert!(output.ends_with("Seccomp:\t0\nprivileged\n"), "{output}");
}

/// As `docker run --pid host --ipc host --uts host --network host`.
#[test]
fn namespaces_of_the_host() {
    needs_root!();
    let mut bundle = Bundle::new().set("/hostname", json!(null));
    bundle.spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
    let script = "for n in pid uts ipc net; do readlink /proc/self/ns/$n; done; test -d /proc/2 && echo sees";
    let output = bundle.script(script).stdout();
    for name in ["pid", "uts", "ipc", "net"] {
        let ours = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(
            output.contains(&*ours.to_string_lossy()),
            "{name}: {output}"
        );
    }
    assert!(output.ends_with("sees\n"), "{output}");
}

#[test]
fn many_at_once() {
    needs_root!();
    let threads = (0..8).map(|index: i32| {
        std::thread::spawn(move || {
            for _ in 0..5 {
                assert_eq!(
                    Bundle::new()
                        .script(&format!("echo {index}; exit {index}"))
                        .run()
                        .unwrap()
                        .code,
                    index
                );
            }
        })
    });
    threads
        .collect::<Vec<_>>()
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn no_descriptor_leaks() {
    needs_root!();
    let bundle = Bundle::new()
        .mount("/data", "bind", "/srv", &["rbind"])
        .args(&["ls", "/proc/self/fd"]);
    // 3 is the directory that ls itself reads.
    assert_eq!(bundle.stdout(), "0\n1\n2\n3\n");
    let (fds, _out, _err) = pipes();
    let sleeping = Bundle::new().script("sleep 20");
    let running = sleeping.start(fds).unwrap();
    // The launcher wakes up inside the execve, a moment before the kernel closes what is close-on-exec.
    let count = || {
        std::fs::read_dir(format!("/proc/{}/fd", running.pid))
            .unwrap()
            .count()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while count() != 3 && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(count(), 3);
    kill(&running);
}

#[test]
fn launcher_keeps_no_descriptors() {
    needs_root!();
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let child =
        kekkai_sys::clone::spawn_copied(kekkai_sys::clone::CloneFlags::NONE, None, &mut || {
            let bundle = Bundle::new();
            bundle.run().unwrap();
            let _ = Bundle::new().args(&["nosuch"]).run();
            let before = count();
            for _ in 0..5 {
                bundle_again(&["true"]);
                let _ = Bundle::new().args(&["nosuch"]).run();
            }
            i32::from(count() != before)
        })
        .unwrap();
    assert_eq!(kekkai_sys::pidfd::wait_exit(&child).unwrap(), 0);
}

fn bundle_again(args: &[&str]) {
    Bundle::new().args(args).run().unwrap();
}

#[test]
fn sysctls_and_names() {
    needs_root!();
    let bundle = Bundle::new()
        .script("cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax; hostname; dnsdomainname; cat /proc/sys/kernel/domainname")
        .set("/linux/sysctl", json!({"net.core.somaxconn": "512", "kernel.msgmax": "9999"}))
        .set("/domainname", json!("example.test"));
    assert!(bundle.stdout().starts_with("512\n9999\ntesthost\n"));
    let missing = Bundle::new()
        .set("/linux/sysctl", json!({"net.ipv4.nosuch": "1"}))
        .run()
        .unwrap_err();
    assert!(
        missing.message.contains("open sysctl net.ipv4.nosuch file"),
        "{missing:?}"
    );
    let refused = Bundle::new()
        .set("/linux/sysctl", json!({"kernel.panic": "1"}))
        .try_plan()
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("not in a separate kernel namespace"),
        "{refused}"
    );
}

#[test]
fn rlimits_and_oom_score() {
    needs_root!();
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    let bundle = Bundle::new()
        .script("ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj")
        .set("/process/rlimits", limits)
        .set("/process/oomScoreAdj", json!(321));
    assert_eq!(bundle.stdout(), "123\n456\n0\n321\n");
    let too_high = json!([{"type": "RLIMIT_NOFILE", "soft": 1u64 << 40, "hard": 1u64 << 40}]);
    let error = Bundle::new()
        .set("/process/rlimits", too_high)
        .run()
        .unwrap_err();
    assert!(
        error
            .message
            .contains("error setting rlimit type 7: operation not permitted"),
        "{}",
        error.message
    );
}

#[test]
fn exec_joins_everything() {
    needs_root!();
    let bundle = Bundle::new().script("sleep 30");
    let (fds, _out, _err) = pipes();
    let running = bundle.start(fds).unwrap();
    let exec = |args: &[&str]| bundle.exec(&running, args, |_| {});
    let names = ["pid", "mnt", "uts", "ipc", "net", "cgroup"];
    for name in names {
        let theirs = std::fs::read_link(format!("/proc/{}/ns/{name}", running.pid)).unwrap();
        let output = exec(&["readlink", &format!("/proc/self/ns/{name}")]).unwrap();
        assert_eq!(output.stdout.trim(), theirs.to_string_lossy(), "{name}");
    }
    let output = exec(&[
        "sh",
        "-c",
        "hostname; ps | grep -c 'sleep 3[0]'; cat /proc/self/cgroup; pwd; ls /proc/self/fd",
    ])
    .unwrap();
    assert!(output.stdout.starts_with("testhost\n1\n"), "{output:?}");
    assert!(output.stdout.contains(&bundle.id), "{output:?}");
    assert!(output.stdout.ends_with("/\n0\n1\n2\n3\n"), "{output:?}");
    let status = table(&exec(&["cat", "/proc/self/status"]).unwrap().stdout);
    assert_eq!(
        (status["CapEff"].as_str(), status["Seccomp"].as_str()),
        ("00000000a80425fb", "2")
    );
    let user = bundle
        .exec(&running, &["id", "-u"], |process| {
            process["user"]["username"] = json!("daemon")
        })
        .unwrap();
    assert_eq!(user.stdout, "2\n");
    assert_eq!(exec(&["sh", "-c", "exit 9"]).unwrap().code, 9);
    let error = exec(&["nosuch"]).unwrap_err();
    assert_eq!(error.message, "unable to start container process: error during container init: exec: \"nosuch\": executable file not found in $PATH".replace("error during container init: ", ""));
    assert_eq!(error.kind, FailureKind::NotFound);
    let error = bundle
        .exec(&running, &["true"], |process| {
            process["cwd"] = json!("/nosuch")
        })
        .unwrap_err();
    assert_eq!(
        error.message,
        "unable to start container process: chdir to cwd (\"/nosuch\") set in config.json failed: no such file or directory"
    );
    kill(&running);
    let error = exec(&["true"]).unwrap_err();
    assert_eq!(error.kind, FailureKind::Other, "{error:?}");
}

#[test]
fn exec_has_the_containers_limits() {
    needs_root!();
    let bundle = Bundle::new()
        .script("sleep 30")
        .set("/process/noNewPrivileges", json!(true))
        .set("/process/oomScoreAdj", json!(77))
        .set(
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}]),
        );
    let (fds, _out, _err) = pipes();
    let running = bundle.start(fds).unwrap();
    let script = "grep NoNewPrivs /proc/self/status; cat /proc/self/oom_score_adj; ulimit -n";
    let output = bundle.exec(&running, &["sh", "-c", script], |process| {
        for key in ["noNewPrivileges", "oomScoreAdj", "rlimits", "capabilities"] {
            process.as_object_mut().unwrap().remove(key);
        }
    });
    assert_eq!(output.unwrap().stdout, "NoNewPrivs:\t1\n77\n99\n");
    kill(&running);
}

#[test]
fn exec_into_a_container_that_may_trace() {
    needs_root!();
    let mut all = DEFAULT_CAPABILITIES.to_vec();
    all.push("CAP_SYS_PTRACE");
    let capabilities = json!({"bounding": all, "effective": all, "permitted": all});
    let bundle = Bundle::new()
        .script("sleep 30")
        .set("/process/capabilities", capabilities);
    let (fds, _out, _err) = pipes();
    let running = bundle.start(fds).unwrap();
    assert_eq!(
        bundle
            .exec(&running, &["echo", "staged"], |_| {})
            .unwrap()
            .stdout,
        "staged\n"
    );
    let error = bundle.exec(&running, &["nosuch"], |_| {}).unwrap_err();
    assert_eq!(
        (error.exit_code(), error.kind),
        (127, FailureKind::NotFound)
    );
    kill(&running);
}

#[test]
fn a_child_of_the_callers_parent() {
    needs_root!();
    // Keeper → launcher → container: the container must be the keeper's child. We are the keeper here, except that a
    // test's threads share us; so another process plays it.
    let keeper =
        kekkai_sys::clone::spawn_copied(kekkai_sys::clone::CloneFlags::NONE, None, &mut || {
            let bundle = Bundle::new().script("exit 5");
            let (mine, theirs) = kekkai_sys::socket::message_pair().unwrap();
            let launcher = kekkai_sys::clone::spawn_copied(
                kekkai_sys::clone::CloneFlags::NONE,
                None,
                &mut || {
                    let (mut fds, _out, _err) = pipes();
                    fds.parent = kekkai_runtime::Parent::CallersParent;
                    let launched = bundle.start(fds).unwrap();
                    kekkai_sys::socket::send(&theirs, &launched.pid.to_le_bytes(), &[]).unwrap();
                    0
                },
            )
            .unwrap();
            kekkai_sys::pidfd::wait_exit(&launcher).unwrap();
            let mut buffer = [0u8; 4];
            kekkai_sys::socket::receive(&mine, &mut buffer).unwrap();
            let pidfd = kekkai_sys::pidfd::open(i32::from_le_bytes(buffer)).unwrap();
            let child = kekkai_sys::clone::Child {
                pid: i32::from_le_bytes(buffer),
                pidfd,
            };
            i32::from(kekkai_sys::pidfd::wait_exit(&child) != Ok(5 << 8))
        })
        .unwrap();
    assert_eq!(kekkai_sys::pidfd::wait_exit(&keeper).unwrap(), 0);
}

#[test]
fn environment_is_the_containers() {
    needs_root!();
    let output = Bundle::new().args(&["env"]).stdout();
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "HOME=/root",
            "HOSTNAME=testhost",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        ]
    );
    let big = "x".repeat(100_000);
    let bundle = Bundle::new()
        .script("echo ${#BIG}")
        .set("/process/env", json!([format!("BIG={big}"), "PATH=/bin"]));
    assert_eq!(bundle.stdout(), "100000\n");
}

#[test]
fn stdio_belongs_to_the_user() {
    needs_root!();
    let mut bundle = Bundle::new()
        .script("echo again > /dev/stdout; echo err > /dev/stderr; cat; readlink /proc/self/fd/0");
    bundle.user = Some("daemon".into());
    let (fds, out, err) = pipes();
    let output = finish(&bundle.start(fds).unwrap(), out, err);
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("again\n/dev/null\n", "err\n")
    );
}

#[test]
fn reaping_is_left_to_the_parent() {
    needs_root!();
    let (fds, out, err) = pipes();
    let bundle = Bundle::new().script("sleep 0.05");
    let running = bundle.start(fds).unwrap();
    drop((out, err));
    assert_eq!(wait(&running), 0);
    let status = kekkai_sys::pidfd::exit_status(std::os::fd::AsFd::as_fd(&running.pidfd));
    assert!(
        matches!(status, Ok(Some(0)) | Err(kekkai_sys::Errno::OPNOTSUPP)),
        "{status:?}"
    );
}
