//! How long a complete launch takes, in the manner of `shared/floor/start.c`: with a network namespace from a pool, as
//! the engine starts containers. Run as root: `start [COUNT] [PAUSE_MS] [ROOTFS] [PREPARED]`; PREPARED 0 makes the cgroup
//! inline, 1 (the default) ahead, as the engine does at create.
//!
//! ROOTFS is an unpacked image with `/bin/busybox` (by default the floor program's `/tmp/floor/rootfs`).
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: it prints, and stops where it fails"
)]

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kekkai_cgroups::Cgroup;
use kekkai_oci::runtime::Spec;
use kekkai_runtime::{
    ContainerPlan, ExecTarget, LaunchFds, Launched, Parent, PlanOptions, RootfsSource, Stdio,
    launch_container, launch_exec, plan_container, plan_exec, prepare_cgroup,
};
use serde_json::json;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |index: usize, default: u64| {
        arguments
            .get(index)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let (count, pause) = (number(1, 200), Duration::from_millis(number(2, 100)));
    let rootfs = arguments
        .get(3)
        .cloned()
        .unwrap_or_else(|| "/tmp/floor/rootfs".into());
    let prepared = number(4, 1) == 1;
    let base = PathBuf::from(format!("/dev/shm/kekkai-bench-{}", std::process::id()));
    std::fs::create_dir(&base).unwrap();
    for name in ["hosts", "hostname", "resolv.conf"] {
        std::fs::write(base.join(name), "127.0.0.1 localhost\n").unwrap();
    }
    let mut times: [Vec<f64>; 5] = Default::default();
    for index in 0..count {
        let mut plan = plan(&base, &rootfs, index);
        if prepared {
            prepare_cgroup(&plan).unwrap();
            plan.set_cgroup_prepared(true);
        }
        let bytes = plan.to_bytes().unwrap();
        let netns = new_network();
        std::thread::sleep(pause);
        let begin = Instant::now();
        let plan = ContainerPlan::from_bytes(&bytes).unwrap();
        let decoded = begin.elapsed();
        let launched =
            launch_container(&plan, fds(Some(netns))).unwrap_or_else(|error| panic!("{error:?}"));
        let started = begin.elapsed();
        wait(&launched);
        let ended = begin.elapsed();
        drop(launched);
        let layout = kekkai_cgroups::detect().unwrap();
        Cgroup::new(&layout, plan.cgroup_path())
            .unwrap()
            .remove()
            .unwrap();
        let removed = begin.elapsed();
        for (list, time) in
            times
                .iter_mut()
                .zip([decoded, started, ended - started, ended, removed])
        {
            list.push(time.as_secs_f64() * 1e6);
        }
    }
    println!("{count} starts, {} ms between", pause.as_millis());
    for (name, list) in [
        "decode the plan",
        "=> START (job -> execve done)",
        "run + exit",
        "=> START + RUN true + reaped",
        "=> and cgroup removed",
    ]
    .iter()
    .zip(&mut times)
    {
        report(name, list);
    }
    exec(&base, &rootfs, count, pause);
    let layout = kekkai_cgroups::detect().unwrap();
    let _ = Cgroup::new(&layout, &format!("kekkai-bench-{}", std::process::id()))
        .unwrap()
        .remove();
    std::fs::remove_dir_all(&base).unwrap();
}

fn exec(base: &Path, rootfs: &str, count: u64, pause: Duration) {
    let plan = plan_of(base, rootfs, count, &["/bin/busybox", "sleep", "1000"]);
    let launched = launch_container(&plan, fds(Some(new_network()))).unwrap();
    let process = serde_json::from_value(process(&["/bin/busybox", "true"])).unwrap();
    let exec = plan_exec(&process, &plan).unwrap();
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..count {
        std::thread::sleep(pause);
        let begin = Instant::now();
        let target = ExecTarget {
            pid: launched.pid,
            pidfd: launched.pidfd.as_fd(),
            devpts: None,
        };
        let child = launch_exec(&exec, &target, fds(None)).unwrap();
        let started = begin.elapsed();
        wait(&child);
        for (list, time) in times.iter_mut().zip([started, begin.elapsed()]) {
            list.push(time.as_secs_f64() * 1e6);
        }
    }
    for (name, list) in ["=> EXEC (started)", "=> EXEC true, reaped"]
        .iter()
        .zip(&mut times)
    {
        report(name, list);
    }
    kekkai_sys::pidfd::kill(launched.pidfd.as_fd()).unwrap();
    wait(&launched);
    drop(launched);
    let layout = kekkai_cgroups::detect().unwrap();
    Cgroup::new(&layout, plan.cgroup_path())
        .unwrap()
        .remove()
        .unwrap();
}

fn report(name: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let at = |part: usize| {
        times
            .get(times.len() * part / 100)
            .or(times.last())
            .copied()
            .unwrap_or_default()
    };
    println!(
        "  {name:<32} min {:8.1}  p50 {:8.1}  p90 {:8.1}  p99 {:8.1} us",
        at(0),
        at(50),
        at(90),
        at(99)
    );
}

fn wait(launched: &Launched) {
    let pid = rustix::process::Pid::from_raw(launched.pid).unwrap();
    let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        .unwrap()
        .unwrap();
    assert!(
        status.exit_status() == Some(0) || status.signaled(),
        "{status:?}"
    );
}

fn fds(netns: Option<OwnedFd>) -> LaunchFds {
    let stdio = Stdio::Pipes {
        stdin: None,
        stdout: None,
        stderr: None,
    };
    LaunchFds {
        stdio,
        netns,
        namespaces: Vec::new(),
        parent: Parent::Caller,
    }
}

/// A network namespace of its own, made by a thread that ends.
fn new_network() -> OwnedFd {
    std::thread::spawn(|| {
        kekkai_sys::pidfd::unshare_namespaces(0x4000_0000).unwrap();
        OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
    })
    .join()
    .unwrap()
}

fn plan(base: &Path, rootfs: &str, index: u64) -> ContainerPlan {
    plan_of(base, rootfs, index, &["/bin/busybox", "true"])
}

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

fn process(args: &[&str]) -> serde_json::Value {
    json!({
        "terminal": false, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=bench"],
        "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
        "oomScoreAdj": 0
    })
}

fn plan_of(base: &Path, rootfs: &str, index: u64, args: &[&str]) -> ContainerPlan {
    let directory = |name: &str| {
        let path = base.join(format!("{name}{index}"));
        std::fs::create_dir(&path).unwrap();
        path
    };
    let file = |name: &str| base.join(name).to_str().unwrap().to_owned();
    let bind = |name: &str| json!({"destination": format!("/etc/{name}"), "type": "bind", "source": file(name), "options": ["rbind", "rprivate"]});
    let seccomp = kekkai_runtime::seccomp::docker_default(&CAPABILITIES);
    let spec = json!({
        "ociVersion": "1.2.1",
        "process": process(args),
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]},
            bind("resolv.conf"), bind("hostname"), bind("hosts")
        ],
        "linux": {
            "cgroupsPath": format!("/kekkai-bench-{}/{index}", std::process::id()),
            "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "seccomp": serde_json::to_value(seccomp).unwrap(),
            "maskedPaths": ["/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                "/sys/devices/virtual/powercap"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    });
    let spec: Spec = serde_json::from_value(spec).unwrap();
    let rootfs = RootfsSource::Overlay {
        lower: vec![rootfs.into()],
        upper: directory("u"),
        work: directory("w"),
        volatile: true,
    };
    let options = PlanOptions {
        id: format!("bench{index}"),
        ..PlanOptions::default()
    };
    plan_container(&spec, rootfs, &options).unwrap()
}
