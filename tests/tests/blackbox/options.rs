//! What a container is given: namespaces, capabilities, devices, mounts, limits, the files of /etc.

use kekkai_tests::Case;
use kekkai_tests::case::On;

/// A shell line that prints a cgroup value, v1 file or v2 file.
fn cgroup(controller: &str, v1: &str, v2: &str) -> String {
    format!("cat /sys/fs/cgroup/{controller}/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}")
}

/// What a privileged container gets is what this process may have: the machine itself may lack some.
fn host_capabilities() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:\t"))
        .unwrap()
        .to_owned()
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("options/capabilities", |c| {
            let caps = |flags: &str| {
                c.run(&format!("run --rm {flags} @box sh -c 'grep Cap /proc/self/status'")).ok().stdout
            };
            let default = caps("");
            assert!(default.contains("CapEff:\t00000000a80425fb") && default.contains("CapBnd:\t00000000a80425fb"), "{default}");
            assert!(default.contains("CapInh:\t0000000000000000") && default.contains("CapAmb:\t0000000000000000"), "{default}");
            assert!(caps("--cap-drop ALL").contains("CapEff:\t0000000000000000"));
            assert!(caps("--cap-drop all --cap-add net_admin").contains("CapEff:\t0000000000001000"));
            assert!(caps("--cap-add CAP_SYS_TIME --cap-drop MKNOD").contains("CapEff:\t00000000aa0425fb".replace("aa", "a2").as_str()));
            assert!(caps("-u alice").contains("CapEff:\t0000000000000000"));
            assert!(caps("-u alice").contains("CapBnd:\t00000000a80425fb"));
        }),
        Case::new("options/capability-unknown", |c| {
            c.run("run --rm --cap-add NOSUCH @box true").code(125).err_has("invalid CapAdd: unknown capability: \"CAP_NOSUCH\"");
        }),
        Case::new("options/privileged", |c| {
            c.run("run --rm --privileged @box sh -c 'grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; test -e /dev/kmsg && echo devices; mount | grep -c \" /proc .*rw\"'")
                .ok()
                .out_has(&format!("CapEff:\t{}\n", host_capabilities()))
                .out_has("Seccomp:\t0")
                .out_has("devices");
            c.run("run --rm --privileged @box sh -c 'mkdir /x && mount -t tmpfs none /x && echo mounted'").ok().out("mounted\n");
        }),
        Case::new("options/seccomp", |c| {
            c.run("run --rm @box grep Seccomp: /proc/self/status").ok().out("Seccomp:\t2\n");
            c.run("run --rm --security-opt seccomp=unconfined @box grep Seccomp: /proc/self/status").ok().out("Seccomp:\t0\n");
            // unshare(CLONE_NEWUSER) is among what the default profile refuses, mount of anything too.
            c.run("run --rm @box unshare -r true").code(1).err_has("Operation not permitted");
            c.run("run --rm --security-opt seccomp=unconfined @box unshare -r true").ok();
            c.run("run --rm --cap-add SYS_ADMIN @box unshare -m true").ok();
        }),
        Case::new("options/seccomp-profile", |c| {
            let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#;
            std::fs::write(c.share("profile.json"), profile).unwrap();
            c.run("run --rm --security-opt seccomp=@share/profile.json @box sh -c 'mkdir /x'").code(1).err_has("not supported");
            c.run("run --rm --security-opt seccomp=@share/none.json @box true").code(125).err_has("no such file");
            std::fs::write(c.share("bad.json"), "{").unwrap();
            c.run("run --rm --security-opt seccomp=@share/bad.json @box true").code(125).err_has("seccomp");
        }),
        Case::new("options/no-new-privileges", |c| {
            c.run("run --rm @box grep NoNewPrivs /proc/self/status").ok().out("NoNewPrivs:\t0\n");
            c.run("run --rm --security-opt no-new-privileges @box grep NoNewPrivs /proc/self/status").ok().out("NoNewPrivs:\t1\n");
        }),
        Case::new("options/security-opt-unknown", |c| {
            c.run("run --rm --security-opt nosuch=1 @box true").code(125).err_has("invalid --security-opt").err_has("nosuch");
        }),
        Case::new("options/masked-paths", |c| {
            c.run("run --rm @box sh -c 'cat /proc/kcore | wc -c; ls /proc/acpi 2>/dev/null | wc -l; ls /sys/firmware | wc -l; wc -c < /proc/keys'")
                .ok()
                .out("0\n0\n0\n0\n");
            c.run("run --rm @box sh -c 'echo 1 > /proc/sys/kernel/panic'").code(1).err_has("Read-only file system");
            c.run("run --rm @box sh -c 'test ! -e /proc/sysrq-trigger || echo h > /proc/sysrq-trigger 2>/dev/null && echo written'").check("not writable", |o| !o.stdout.contains("written") || !std::path::Path::new("/proc/sysrq-trigger").exists());
            c.run("run --rm @box sh -c 'touch /sys/x'").code(1).err_has("Read-only file system");
        }),
        Case::new("options/systempaths-unconfined", |c| {
            c.run("run --rm --security-opt systempaths=unconfined @box sh -c 'grep -c \" /proc/\" /proc/self/mounts'").code(1).out("0\n");
            assert_eq!(c.run("create --name @n --security-opt systempaths=unconfined @box true").ok().err("").text().len(), 64);
            assert_eq!(c.inspect("@n")["HostConfig"]["MaskedPaths"].as_array().map(Vec::len), Some(0));
        }),
        Case::new("options/devices-there", |c| {
            c.run("run --rm @box sh -c 'cd /dev; ls | sort | tr \"\\n\" \" \"'")
                .ok()
                .out("fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ");
            c.run("run --rm @box sh -c 'head -c 4 /dev/zero | wc -c; echo x > /dev/null; readlink /dev/ptmx; readlink /dev/fd; echo x > /dev/full'")
                .code(1)
                .out("4\npts/ptmx\n/proc/self/fd\n")
                .err_has("No space left");
        }),
        Case::new("options/devices-refused", |c| {
            c.run("run --rm @box sh -c 'mknod /tmp/mem c 1 1 && cat /tmp/mem'").code(1).err_has("Operation not permitted");
            c.run("run --rm @box sh -c 'mknod /tmp/null c 1 3 && echo x > /tmp/null'").ok();
        }),
        Case::new("options/device", |c| {
            c.run("run --rm --device /dev/kmsg @box sh -c 'test -c /dev/kmsg && echo there'").ok().out("there\n");
            c.run("run --rm --device /dev/zero:/dev/other:m @box sh -c 'test -c /dev/other && echo there; head -c 1 /dev/other'")
                .out_has("there\n");
            c.run("run --rm --device /dev/nosuch @box true").code(127).err_has("error gathering device information while adding custom device \"/dev/nosuch\"");
            c.run("run --rm --device /dev/null:/dev/x:q @box true").code(125).err_has("bad mode specified: q");
        }),
        Case::new("options/ulimit", |c| {
            c.run("run --rm --ulimit nofile=100:200 --ulimit core=0 @box sh -c 'ulimit -Sn; ulimit -Hn; ulimit -c'").ok().out("100\n200\n0\n");
            c.run("run --rm --ulimit nosuch=1 @box true").code(125).err_has("invalid ulimit type: nosuch");
            c.run("run --rm --ulimit nofile=9:3 @box true").code(125).err_has("ulimit soft limit must be less than or equal to hard limit: 9 > 3");
        }),
        Case::new("options/sysctl", |c| {
            c.run("run --rm --sysctl net.ipv4.ip_forward=0 --sysctl kernel.msgmax=9000 @box sh -c 'cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax'")
                .ok()
                .out("0\n9000\n");
            c.run("run --rm --sysctl kernel.panic=1 @box true").code(125).err_has("sysctl 'kernel.panic=1' is not allowed");
            // Docker's own default: anyone may bind low ports and ping.
            c.run("run --rm @box cat /proc/sys/net/ipv4/ip_unprivileged_port_start").ok().out("0\n");
            c.run("run --rm @box cat /proc/sys/net/ipv4/ping_group_range").ok().out("0\t2147483647\n");
        }),
        Case::new("options/shm-size", |c| {
            c.run("run --rm @box sh -c 'df -k /dev/shm | tail -1 | awk \"{print \\$2}\"'").ok().out("65536\n");
            c.run("run --rm --shm-size 16m @box sh -c 'df -k /dev/shm | tail -1 | awk \"{print \\$2}\"'").ok().out("16384\n");
            c.run("run --rm --shm-size bad @box true").code(125).err_has("invalid argument \"bad\" for \"--shm-size\" flag");
        }),
        Case::new("options/tmpfs", |c| {
            c.run("run --rm --tmpfs /t:size=1m,mode=700,exec @box sh -c 'grep \" /t \" /proc/mounts; stat -c %a /t'")
                .ok()
                .out_has("tmpfs /t tmpfs rw,nosuid,nodev,relatime,size=1024k,mode=700")
                .out_has("\n700\n");
            c.run("run --rm --tmpfs /t @box sh -c 'grep \" /t \" /proc/mounts'").ok().out_has("rw,nosuid,nodev,noexec,relatime");
            c.run("run --rm --mount type=tmpfs,dst=/t,tmpfs-size=2m,tmpfs-mode=1770 @box sh -c 'grep \" /t \" /proc/mounts'").ok().out_has("size=2048k").out_has("mode=1770");
        }),
        Case::new("options/read-only", |c| {
            c.run("run --rm --read-only @box touch /x").code(1).err_has("Read-only file system");
            c.run("run --rm --read-only --tmpfs /t @box sh -c 'touch /t/x /dev/shm/y && echo fine'").ok().out("fine\n");
        }),
        Case::new("options/bind", |c| {
            std::fs::create_dir(c.share("dir")).unwrap();
            std::fs::write(c.share("dir/file"), "from the host\n").unwrap();
            c.run("run --rm -v @share/dir:/mnt @box sh -c 'cat /mnt/file; echo back > /mnt/new'").ok().out("from the host\n");
            assert_eq!(std::fs::read_to_string(c.share("dir/new")).unwrap(), "back\n");
            c.run("run --rm -v @share/dir:/mnt:ro @box touch /mnt/x").code(1).err_has("Read-only file system");
            c.run("run --rm -v @share/dir/file:/one/file @box cat /one/file").ok().out("from the host\n");
            c.run("run --rm --mount type=bind,src=@share/dir,dst=/mnt,readonly @box sh -c 'cat /mnt/file; touch /mnt/x'").code(1).out("from the host\n");
        }),
        Case::new("options/bind-makes-the-source", |c| {
            c.run("run --rm -v @share/made:/mnt @box touch /mnt/x").ok();
            assert!(c.share("made/x").exists());
        }),
        Case::new("options/bind-source-missing", |c| {
            c.run("run --rm --mount type=bind,src=@share/none,dst=/mnt @box true")
                .code(125)
                .err_has(&c.fill("bind source path does not exist: @share/none"));
        }),
        Case::new("options/mount-bad", |c| {
            c.run("run --rm -v relative/path:/x @box true").code(125).err_has("includes invalid characters for a local volume name");
            c.run("run --rm -v /a:relative @box true").code(125).err_has("invalid volume specification");
            c.run("run --rm -v /a:/b:nosuch @box true").code(125).err_has_one(&["invalid mode: nosuch", "invalid volume specification", "unknown option: nosuch"]);
            c.run("run --rm --mount type=nosuch,dst=/x @box true").code(125).err_has("nosuch");
            c.run("run --rm --mount type=bind,src=/tmp @box true").code(125).err_has("target is required");
            c.run("run --rm -v /tmp:/x -v /var:/x @box true").code(125).err_has("Duplicate mount point: /x");
        }),
        Case::new("options/bind-recursive-read-only-etc", |c| {
            c.run("run --rm -v @share:/mnt:rslave @box sh -c 'grep \" /mnt \" /proc/self/mountinfo | grep -c master'").ok_or_skip_propagation();
        }).on(On::Ours),
        Case::new("options/memory", |c| {
            c.run(&format!("run --rm -m 64m @box sh -c '{}'", cgroup("memory", "memory.limit_in_bytes", "memory.max"))).ok().out("67108864\n");
            c.run(&format!("run --rm -m 64m --memory-reservation 32m @box sh -c '{}'", cgroup("memory", "memory.soft_limit_in_bytes", "memory.low"))).ok().out("33554432\n");
        }),
        Case::new("options/memory-enforced", |c| {
            // tail holds its whole input when there is no newline in it.
            c.run("run --name @n -m 32m --memory-swap 32m @box sh -c 'head -c 200000000 /dev/zero | tail'").fails();
            c.run("run --name @n2 -m 32m --memory-swap 32m @box tail /dev/zero").code(137);
            assert_eq!(c.inspect("@n2")["State"]["OOMKilled"], true);
        }),
        Case::new("options/memory-bad", |c| {
            c.run("run --rm -m 1m @box true").code(125).err_has("Minimum memory limit allowed is 6MB");
            c.run("run --rm -m 64m --memory-swap 32m @box true").code(125).err_has("Minimum memoryswap limit should be larger than memory limit");
            c.run("run --rm --memory-swap 32m @box true").code(125).err_has("You should always set the Memory limit when using Memoryswap limit");
            c.run("run --rm -m lots @box true").code(125).err_has("invalid argument \"lots\" for \"-m, --memory\" flag");
            c.run("run --rm -m 64m --memory-reservation 128m @box true").code(125).err_has("Minimum memory limit can not be less than memory reservation limit");
        }),
        Case::new("options/cpus", |c| {
            c.run(&format!("run --rm --cpus 0.5 @box sh -c '{}'", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us 2>/dev/null || tr \" \" \"\\n\" < /sys/fs/cgroup/cpu.max"))
                .ok()
                .out("50000\n100000\n");
            c.run(&format!("run --rm --cpu-shares 512 @box sh -c '{}'", cgroup("cpu", "cpu.shares", "cpu.weight"))).ok().check("512 or its weight", |o| ["512", "20", "59"].contains(&o.text()));
            c.run("run --rm --cpus 1000 @box true").code(125).err_has("Range of CPUs is from 0.01 to");
        }),
        Case::new("options/cpus-enforced", |c| {
            // A second of a busy loop at a tenth of a processor is about a tenth of a second of its time.
            let out = c.run("run --rm --cpus 0.1 @box sh -c '(timeout 1 sh -c \"while :; do :; done\"); cat /sys/fs/cgroup/cpu/cpu.stat 2>/dev/null || cat /sys/fs/cgroup/cpu.stat'").ok();
            let throttled: u64 = out.stdout.lines().find_map(|l| l.strip_prefix("nr_throttled ")).unwrap().parse().unwrap();
            assert!(throttled >= 3, "{}", out.stdout);
        }),
        Case::new("options/cpuset", |c| {
            c.run("run --rm --cpuset-cpus 0 @box grep Cpus_allowed_list /proc/self/status").ok().out("Cpus_allowed_list:\t0\n");
            c.run("run --rm --cpuset-cpus 999 @box true").code(125).err_has("Requested CPUs are not available");
            c.run("run --rm --cpuset-cpus x @box true").code(125).err_has("Invalid value x for cpuset cpus");
        }),
        Case::new("options/pids-limit", |c| {
            c.run(&format!("run --rm --pids-limit 20 @box sh -c '{}'", cgroup("pids", "pids.max", "pids.max"))).ok().out("20\n");
            c.run("run --rm --pids-limit 6 @box sh -c 'for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait'").fails().err_has_one(&["can't fork", "Resource temporarily unavailable"]);
        }),
        Case::new("options/blkio-weight-range", |c| {
            // Where the kernel has no weights, the daemon says so and goes on.
            let out = c.run("run --rm --blkio-weight 5 @box true");
            if out.code == 125 {
                out.err_has("Range of blkio weight is from 10 to 1000");
            } else {
                out.ok().err_has("does not support Block I/O weight");
            }
        }),
        Case::new("options/oom-score-adj", |c| {
            c.run("run --rm --oom-score-adj 500 @box cat /proc/self/oom_score_adj").ok().out("500\n");
            c.run("run --rm --oom-score-adj 5000 @box true").code(125).err_has("Invalid value 5000, range for oom score adj is [-1000, 1000]");
        }),
        Case::new("options/namespaces-of-the-host", |c| {
            let host = |ns: &str| std::fs::read_link(format!("/proc/self/ns/{ns}")).unwrap().to_string_lossy().into_owned();
            let inside = |flags: &str, ns: &str| c.run(&format!("run --rm {flags} @box readlink /proc/self/ns/{ns}")).ok().text().to_owned();
            for (flag, ns) in [("--pid host", "pid"), ("--ipc host", "ipc"), ("--uts host", "uts"), ("--network host", "net"), ("--cgroupns host", "cgroup")] {
                assert_eq!(inside(flag, ns), host(ns), "{flag}");
            }
            for ns in ["pid", "ipc", "uts", "net", "mnt"] {
                assert_ne!(inside("", ns), host(ns), "{ns}");
            }
            assert_ne!(inside("--cgroupns private", "cgroup"), host("cgroup"));
            assert_eq!(inside("", "user"), host("user"));
            assert_eq!(inside("--userns host", "user"), host("user"));
        }),
        Case::new("options/namespaces-of-a-container", |c| {
            c.run("run -d --name @n --ipc shareable @box sleep 60").ok();
            let of = |line: &str, ns: &str| c.run(&format!("{line} readlink /proc/self/ns/{ns}")).ok().text().to_owned();
            for (flag, ns) in [("--pid", "pid"), ("--ipc", "ipc"), ("--network", "net")] {
                assert_eq!(of(&format!("run --rm {flag} container:@n @box"), ns), of("exec @n", ns), "{flag}");
            }
            c.run("run --rm --pid container:@nnone @box true").code(125).err_has("No such container");
        }),
        Case::new("options/ipc-none-and-private", |c| {
            c.run("run --rm --ipc none @box sh -c 'ls -d /dev/shm; grep -c /dev/shm /proc/mounts'").fails().out_has("0\n");
            c.run("run -d --name @n --ipc private @box sleep 60").ok();
            c.run("run --rm --ipc container:@n @box true").code(125).err_has("non-shareable IPC");
            c.run("run --rm --ipc nosuch @box true").code(125).err_has("invalid IPC mode");
        }),
        Case::new("options/labels", |c| {
            std::fs::write(c.share("labels"), "fromfile=1\nboth=file\n").unwrap();
            c.run("create --name @n -l a=1 -l empty --label both=flag --label-file @share/labels @conf").ok();
            let labels = c.inspect("@n")["Config"]["Labels"].clone();
            assert_eq!(labels, serde_json::json!({"a": "1", "empty": "", "both": "flag", "fromfile": "1", "maker": "fixture"}));
        }),
        Case::new("options/annotation", |c| {
            c.run("create --name @n --annotation x.y=z @box true").ok();
            assert_eq!(c.inspect("@n")["HostConfig"]["Annotations"]["x.y"], "z");
        }),
        Case::new("options/etc-files", |c| {
            c.run("run --rm --add-host db:10.1.2.3 --add-host gw:host-gateway -h me @box cat /etc/hosts")
                .ok()
                .out_has("127.0.0.1\tlocalhost\n")
                .out_has("10.1.2.3\tdb\n")
                .out_has("\tgw\n")
                .out_has("\tme\n")
                .out_has("::1\tlocalhost ip6-localhost ip6-loopback\n");
            c.run("run --rm --dns 9.9.9.9 --dns-search example.org --dns-option ndots:3 @box cat /etc/resolv.conf")
                .ok()
                .out_has("nameserver 9.9.9.9\n")
                .out_has("search example.org\n")
                .out_has("options ndots:3\n");
            c.run("run --rm --dns nosuch @box true").code(125).err_has("IP address is not correctly formatted: nosuch");
            c.run("run --rm --add-host nocolon @box true").code(125).err_has("bad format for add-host: \"nocolon\"");
            c.run("run --rm @box sh -c 'echo 1.2.3.4 x >> /etc/hosts && grep -c 1.2.3.4 /etc/hosts'").ok().out("1\n");
        }),
        Case::new("options/stop-signal-and-timeout", |c| {
            c.run("run -d --name @n --stop-signal SIGUSR1 --stop-timeout 20 @box sh -c 'trap \"exit 8\" USR1; while :; do sleep 0.05; done'").ok();
            assert_eq!(c.inspect("@n")["Config"]["StopSignal"], "SIGUSR1");
            assert_eq!(c.inspect("@n")["Config"]["StopTimeout"], 20);
            std::thread::sleep(std::time::Duration::from_millis(300));
            c.run("stop @n").ok();
            assert_eq!(c.inspect("@n")["State"]["ExitCode"], 8);
            c.run("run --rm --stop-signal NOSUCH @box true").code(125).err_has("invalid signal: NOSUCH");
        }),
        Case::new("options/platform", |c| {
            c.run("run --rm --platform linux/amd64 @box uname -m").ok().out("x86_64\n");
            c.run("run --rm --pull never --platform linux/arm64 @box true").code(125);
        }),
        Case::new("options/unknown-flag", |c| {
            c.run("run --nosuchflag @box true").code(125).err_has("unknown flag: --nosuchflag").err_has("Usage:  ");
            c.run("run").code(1).err_has("requires at least 1 argument");
        }),
        Case::new("options/init-and-tty-and-user-together", |c| {
            c.run("run --rm -t --init -u alice -w /tmp -e A=b --read-only @box sh -c 'id -un; pwd; echo $A'").ok().out("alice\r\n/tmp\r\nb\r\n");
        }),
        Case::new("options/root-mount-is-private", |c| {
            c.run("run --rm @box sh -c 'grep \" / / \" /proc/self/mountinfo | head -1'").ok().out_has("overlay").check("no shared: tag", |o| !o.stdout.contains("shared:"));
        }),
        Case::new("options/no-leaked-descriptors", |c| {
            c.run("run --rm @box sh -c 'ls /proc/self/fd | wc -l; readlink /proc/1/fd/0'").ok().check("0, 1, 2 and ls's own", |o| o.stdout.starts_with("4\n"));
            c.run("run --rm @box sh -c 'ls -l /proc/1/fd'").ok().check("nothing above 2 but the listing's", |o| o.stdout.lines().filter(|l| l.contains("->")).count() <= 4);
        }),
        Case::new("options/umask-and-signals", |c| {
            c.run("run --rm @box sh -c umask").ok().out("0022\n");
            c.run("run --rm @box grep -E '^Sig(Blk|Ign)' /proc/self/status").ok().out("SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
        })
        // Docker's containers ignore what whoever started its daemon ignored.
        .on(On::Ours),
        Case::new("options/session", |c| {
            // A session and process group of its own, without the daemon's terminal.
            c.run("run --rm @box sh -c 'cut -d\" \" -f5-7 /proc/1/stat'").ok().out("1 1 0\n");
        }),
        Case::new("options/oom-kill-disable", |c| {
            c.run("create --name @n -m 64m --oom-kill-disable @box true").ok();
            let value = c.inspect("@n")["HostConfig"]["OomKillDisable"].clone();
            assert!(value == true || value.is_null() || value == false, "{value}");
        }),
    ]
}

/// Propagation depends on how the machine mounts its root.
trait Propagation {
    fn ok_or_skip_propagation(self);
}

impl Propagation for kekkai_tests::Out {
    fn ok_or_skip_propagation(self) {
        if self.code != 0 && self.code != 1 {
            self.err_has_one(&["not a shared or slave mount", "propagation"]);
        }
    }
}
