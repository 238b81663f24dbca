//! A root file system of busybox, Docker's default specification, and a way to run a container and read what it says.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kekkai_cgroups::Cgroup;
use kekkai_oci::runtime::Spec;
use kekkai_runtime::{
    ContainerPlan, ExecTarget, LaunchError, LaunchFds, Launched, Parent, PlanOptions, RootfsSource,
    Stdio, launch_container, launch_exec, plan_container, plan_exec,
};
use serde_json::{Value, json};

/// Where busybox is found; Debian's `busybox-static` puts it there.
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// Says why a test cannot run here.
pub(crate) fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    let Some(busybox) = BUSYBOX.iter().find(|path| Path::new(path).exists()) else {
        return Some("no busybox: apt-get install busybox-static".into());
    };
    match std::process::Command::new(busybox).arg("true").status() {
        Ok(status) if status.success() => None,
        other => Some(format!("busybox does not run: {other:?}")),
    }
}

/// A bundle of directories for one container, removed with its cgroup at the end.
pub(crate) struct Bundle {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) spec: Value,
    pub(crate) user: Option<String>,
    pub(crate) groups: Vec<String>,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Bundle {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kkrt")
            .tempdir_in("/dev/shm")
            .unwrap();
        let id = format!(
            "t{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        for name in ["lower", "upper"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        fill(&dir.path().join("lower"));
        let spec = docker_spec(&id);
        Self {
            dir,
            id,
            spec,
            user: None,
            groups: Vec::new(),
        }
    }

    pub(crate) fn lower(&self) -> PathBuf {
        self.dir.path().join("lower")
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.dir.path().join("upper")
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.spec["process"]["args"] = json!(args);
        self
    }

    pub(crate) fn script(self, script: &str) -> Self {
        self.args(&["/bin/sh", "-c", script])
    }

    pub(crate) fn mount(
        mut self,
        destination: &str,
        typ: &str,
        source: &str,
        options: &[&str],
    ) -> Self {
        let mount =
            json!({"destination": destination, "type": typ, "source": source, "options": options});
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.spec.pointer_mut(parent).unwrap()[key] = value;
        self
    }

    pub(crate) fn plan(&self) -> ContainerPlan {
        self.try_plan().unwrap()
    }

    pub(crate) fn try_plan(&self) -> Result<ContainerPlan, kekkai_runtime::PlanError> {
        let spec: Spec = serde_json::from_value(self.spec.clone()).unwrap();
        let rootfs = RootfsSource::Overlay {
            lower: vec![self.lower()],
            upper: self.upper(),
            // A fresh one for every start, as the engine does.
            work: tempfile::Builder::new()
                .prefix("work")
                .tempdir_in(self.dir.path())
                .unwrap()
                .keep(),
            volatile: true,
        };
        let mut options = PlanOptions::default();
        options.id.clone_from(&self.id);
        options.user.clone_from(&self.user);
        options.additional_groups.clone_from(&self.groups);
        let plan = plan_container(&spec, rootfs, &options)?;
        // What is launched has always travelled.
        ContainerPlan::from_bytes(&plan.to_bytes()?)
    }

    pub(crate) fn start(&self, fds: LaunchFds) -> Result<Launched, LaunchError> {
        launch_container(&self.plan(), fds)
    }

    /// Runs to the end: exit code, stdout, stderr.
    pub(crate) fn run(&self) -> Result<Output, LaunchError> {
        let (fds, out, err) = pipes();
        let launched = self.start(fds)?;
        Ok(finish(&launched, out, err))
    }

    /// The output of a run that must succeed.
    pub(crate) fn stdout(&self) -> String {
        let output = self.run().unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(output.code, 0, "{output:?}");
        output.stdout
    }

    pub(crate) fn exec(
        &self,
        target: &Launched,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Result<Output, LaunchError> {
        let mut process = self.spec["process"].clone();
        process["args"] = json!(args);
        change(&mut process);
        let process = serde_json::from_value(process).unwrap();
        let plan = plan_exec(&process, &self.plan()).unwrap();
        let plan = kekkai_runtime::ExecPlan::from_bytes(&plan.to_bytes().unwrap()).unwrap();
        let (fds, out, err) = pipes();
        let target = ExecTarget {
            pid: target.pid,
            pidfd: target.pidfd.as_fd(),
            devpts: None,
        };
        Ok(finish(&launch_exec(&plan, &target, fds)?, out, err))
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let layout = kekkai_cgroups::detect().unwrap();
        let group = Cgroup::new(&layout, &cgroup(&self.id)).unwrap();
        let _ = group.kill();
        let _ = group.remove();
    }
}

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Every test has a cgroup of its own at the top, so that none removes another's parent.
pub(crate) fn cgroup(id: &str) -> String {
    format!("kekkai-test-{id}")
}

pub(crate) fn pipes() -> (LaunchFds, OwnedFd, OwnedFd) {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let ((out, stdout), (err, stderr)) = (pipe(), pipe());
    let stdio = Stdio::Pipes {
        stdin: None,
        stdout: Some(stdout),
        stderr: Some(stderr),
    };
    (
        LaunchFds {
            stdio,
            netns: None,
            namespaces: Vec::new(),
            parent: Parent::Caller,
        },
        out,
        err,
    )
}

pub(crate) fn finish(launched: &Launched, out: OwnedFd, err: OwnedFd) -> Output {
    let mut stdout = String::new();
    let mut stderr = String::new();
    File::from(out).read_to_string(&mut stdout).unwrap();
    File::from(err).read_to_string(&mut stderr).unwrap();
    Output {
        code: wait(launched),
        stdout,
        stderr,
    }
}

/// Reaps; the code as a shell tells it.
pub(crate) fn wait(launched: &Launched) -> i32 {
    let pid = rustix::process::Pid::from_raw(launched.pid).unwrap();
    let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        .unwrap()
        .unwrap();
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .unwrap()
}

pub(crate) fn kill(launched: &Launched) {
    let _ = kekkai_sys::pidfd::kill(launched.pidfd.as_fd());
    wait(launched);
}

fn fill(root: &Path) {
    for name in [
        "bin",
        "etc",
        "tmp",
        "proc",
        "dev",
        "sys",
        "root",
        "home/daemon",
    ] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    let busybox = BUSYBOX
        .iter()
        .find(|path| Path::new(path).exists())
        .unwrap();
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let applets = "sh ls cat echo id true false sleep mkdir touch mount umount readlink stat pwd hostname ps kill env printf \
                   dd head tail grep wc tty stty chmod ln rm mknod dirname seq test cut sort su chown sync ip taskset dnsdomainname";
    for applet in applets.split_whitespace() {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:2:2:daemon:/home/daemon:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), passwd).unwrap();
    std::fs::write(
        root.join("etc/group"),
        "root:x:0:\nbin:x:1:root,daemon\ndaemon:x:2:\naudio:x:18:\n",
    )
    .unwrap();
}

pub(crate) const DEFAULT_CAPABILITIES: [&str; 14] = [
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

/// What dockerd 28 makes of `docker run IMAGE`, without the files it binds.
pub(crate) fn docker_spec(id: &str) -> Value {
    let capabilities = DEFAULT_CAPABILITIES;
    let seccomp = kekkai_runtime::seccomp::docker_default(&capabilities);
    json!({
        "ociVersion": "1.2.1",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/",
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=testhost"],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "oomScoreAdj": 0
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "testhost",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]}
        ],
        "linux": {
            "cgroupsPath": format!("/{}", cgroup(id)),
            "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "seccomp": serde_json::to_value(seccomp).unwrap(),
            "maskedPaths": ["/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                "/sys/devices/virtual/powercap"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

/// Lines `key:<space>value` as a table.
pub(crate) fn table(text: &str) -> HashMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim().into(), value.trim().into()))
        .collect()
}
