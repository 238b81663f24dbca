//! A keeper of its own for every test, and a client to drive it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use kekkai_cgroups::Cgroup;
use kekkai_keeper::KeeperError;
use kekkai_keeper::client::{KeeperClient, KeeperConfig};
use kekkai_keeper::log::{LogConfig, LogDriver, LogQuery, LogReader};
use kekkai_keeper::protocol::{
    AttachRequest, Event, ExecRequest, Exit, Frame, Request, Response, StartRequest, StdinMode,
    Stream, Target, Terminal,
};
use kekkai_oci::runtime::Spec;
use kekkai_runtime::{ContainerPlan, PlanOptions, RootfsSource, plan_container, plan_exec};
use kekkai_types::{ContainerId, ExecId, Signal};
use serde_json::{Value, json};

const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];
/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Says why a test cannot run here.
pub(crate) fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    match BUSYBOX.iter().find(|path| Path::new(path).exists()) {
        Some(_) => None,
        None => Some("no busybox: apt-get install busybox-static".into()),
    }
}

/// Waits for a condition.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "it never came to pass: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

type Events = Arc<(Mutex<Vec<Event>>, Condvar)>;

/// A keeper, its exec root, and a client.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    client: Option<KeeperClient>,
    events: Events,
    config: KeeperConfig,
    made: Mutex<Vec<ContainerId>>,
}

/// What a container is started with.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) stdin: StdinMode,
    pub(crate) terminal: Terminal,
    pub(crate) driver: LogDriver,
    pub(crate) max_size: Option<u64>,
    pub(crate) max_file: u32,
    pub(crate) compress: bool,
    pub(crate) memory: Option<i64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            stdin: StdinMode::Closed,
            terminal: Terminal::None,
            driver: LogDriver::Local,
            max_size: None,
            max_file: 1,
            compress: false,
            memory: None,
        }
    }
}

/// A container that was made (and perhaps started).
#[derive(Clone)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) plan: ContainerPlan,
    pub(crate) log: LogConfig,
    pub(crate) options: Options,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with_failpoints("")
    }

    pub(crate) fn with_failpoints(failpoints: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kkkeeper")
            .tempdir_in("/dev/shm")
            .unwrap();
        for name in ["exec", "spill", "logs", "lower"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        fill(&dir.path().join("lower"));
        let config = KeeperConfig {
            exec_root: dir.path().join("exec"),
            keeper_exe: env!("CARGO_BIN_EXE_kekkai-keeper").into(),
            build: "test".into(),
            spill_dir: dir.path().join("spill"),
            failpoints: failpoints.into(),
        };
        let mut rig = Self {
            dir,
            client: None,
            events: Events::default(),
            config,
            made: Mutex::default(),
        };
        rig.connect();
        rig
    }

    /// A new daemon, so to speak.
    pub(crate) fn connect(&mut self) {
        let events = Arc::clone(&self.events);
        let handler = Arc::new(move |event| {
            events.0.lock().unwrap().push(event);
            events.1.notify_all();
        });
        self.client = Some(KeeperClient::connect_or_start(self.config.clone(), handler).unwrap());
    }

    pub(crate) fn disconnect(&mut self) {
        self.client = None;
    }

    pub(crate) fn client(&self) -> &KeeperClient {
        self.client.as_ref().unwrap()
    }

    pub(crate) fn exec_root(&self) -> &Path {
        &self.config.exec_root
    }

    pub(crate) fn call(&self, request: Request) -> Result<Response, KeeperError> {
        self.client()
            .call(request, Vec::new())
            .map(|answer| answer.response)
    }

    /// The keeper's and guardian's pids now, by way of a connection of its own.
    pub(crate) fn pids(&self) -> (u32, u32, u32) {
        let client = KeeperClient::connect_or_start(self.config.clone(), Arc::new(|_| {})).unwrap();
        let info = client.info();
        (info.keeper, info.guardian, info.generation)
    }

    /// Makes a container, without starting it.
    pub(crate) fn container(&self, args: &[&str], options: &Options) -> Container {
        let id = ContainerId::random();
        self.made.lock().unwrap().push(id);
        let upper = self.dir.path().join(format!("upper-{}", id.short()));
        std::fs::create_dir(&upper).unwrap();
        let mut spec = docker_spec(&cgroup(id));
        spec["process"]["args"] = json!(args);
        spec["process"]["terminal"] = json!(options.terminal != Terminal::None);
        if let Some(memory) = options.memory {
            spec["linux"]["resources"]["memory"] = json!({ "limit": memory, "swap": memory });
        }
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let rootfs = RootfsSource::Overlay {
            lower: vec![self.dir.path().join("lower")],
            upper,
            work: self.work(),
            volatile: true,
        };
        let plan_options = PlanOptions {
            id: id.to_string(),
            ..PlanOptions::default()
        };
        let plan = plan_container(&spec, rootfs, &plan_options).unwrap();
        let mut log = LogConfig::new(
            options.driver,
            self.dir.path().join("logs").join(id.short()),
        );
        (log.max_size, log.max_file, log.compress) =
            (options.max_size, options.max_file, options.compress);
        Container {
            id,
            plan,
            log,
            options: options.clone(),
        }
    }

    fn work(&self) -> PathBuf {
        tempfile::Builder::new()
            .prefix("work")
            .tempdir_in(self.dir.path())
            .unwrap()
            .keep()
    }

    pub(crate) fn start(&self, container: &Container) -> Result<u32, KeeperError> {
        let upper = self
            .dir
            .path()
            .join(format!("upper-{}", container.id.short()));
        let lower = vec![self.dir.path().join("lower")];
        let mut plan = container.plan.clone();
        plan.set_rootfs(RootfsSource::Overlay {
            lower,
            upper,
            work: self.work(),
            volatile: true,
        });
        let request = StartRequest {
            container: container.id,
            plan: plan.to_bytes().unwrap(),
            joins: Vec::new(),
            log: container.log.clone(),
            stdin: container.options.stdin,
            terminal: container.options.terminal,
            cgroup: cgroup(container.id),
        };
        match self.call(Request::Start(Box::new(request)))? {
            Response::Started { pid, at } => {
                assert!(at > 0);
                Ok(pid)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Makes and starts a container that runs a shell script.
    pub(crate) fn run(&self, script: &str, options: &Options) -> Container {
        let container = self.container(&["/bin/sh", "-c", script], options);
        self.start(&container).unwrap();
        container
    }

    pub(crate) fn exec(
        &self,
        container: &Container,
        exec: ExecId,
        args: &[&str],
        options: &Options,
    ) -> Result<u32, KeeperError> {
        let mut process = docker_spec("")["process"].clone();
        process["args"] = json!(args);
        process["terminal"] = json!(options.terminal != Terminal::None);
        let plan = plan_exec(&serde_json::from_value(process).unwrap(), &container.plan).unwrap();
        let request = ExecRequest {
            container: container.id,
            exec,
            plan: plan.to_bytes().unwrap(),
            stdin: options.stdin,
            terminal: options.terminal,
        };
        match self.call(Request::Exec(Box::new(request)))? {
            Response::Started { pid, .. } => Ok(pid),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn attach(&self, target: Target) -> Session {
        let request = AttachRequest {
            target,
            stdin: true,
            stdout: true,
            stderr: true,
        };
        Session {
            fd: self
                .client()
                .call(Request::Attach(request), Vec::new())
                .unwrap()
                .into_fd()
                .unwrap(),
        }
    }

    pub(crate) fn signal(&self, target: Target, signal: Signal) -> Result<Response, KeeperError> {
        self.call(Request::Signal { target, signal })
    }

    /// Waits for an exit, as told by event or by list.
    pub(crate) fn wait(&self, target: Target) -> Exit {
        eventually("an exit", || {
            let seen = self
                .events
                .0
                .lock()
                .unwrap()
                .iter()
                .find_map(|event| match event {
                    Event::Exited {
                        target: ended,
                        exit,
                        ..
                    } if *ended == target => Some(*exit),
                    _ => None,
                });
            seen.or_else(|| {
                std::thread::sleep(Duration::from_millis(20));
                let tasks = self.client().list().unwrap();
                tasks
                    .iter()
                    .find(|task| task.target == target)
                    .and_then(|task| task.exit)
            })
        })
    }

    pub(crate) fn wait_container(&self, container: &Container) -> i32 {
        self.wait(Target::Container(container.id)).status.code()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.0.lock().unwrap().clone()
    }

    /// Everything in a container's log, once it contains `end` (or at once, if that is empty).
    pub(crate) fn log(&self, container: &Container, end: &str) -> String {
        eventually("a log", || {
            let reader = LogReader::open(&container.log, LogQuery::default()).unwrap();
            let bytes: Vec<u8> = reader.flat_map(|entry| entry.unwrap().line).collect();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            text.contains(end).then_some(text)
        })
    }

    pub(crate) fn forget(&self, container: &Container) {
        assert_eq!(
            self.call(Request::Forget {
                target: Target::Container(container.id)
            })
            .unwrap(),
            Response::Done
        );
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.client.is_none() {
            self.connect();
        }
        let tasks = self.client().list().unwrap();
        for task in &tasks {
            drop(self.signal(task.target, Signal::KILL));
        }
        let layout = kekkai_cgroups::detect().unwrap();
        for task in &tasks {
            if !std::thread::panicking() {
                self.wait(task.target);
            }
            drop(self.call(Request::Forget {
                target: task.target,
            }));
        }
        for id in self.made.get_mut().unwrap() {
            drop(Cgroup::new(&layout, &cgroup(*id)).unwrap().remove());
        }
        let info = self.client().info();
        let ended = self.call(Request::Shutdown);
        if std::thread::panicking() {
            println!(
                "keeper.log: {}",
                std::fs::read_to_string(self.exec_root().join("keeper.log")).unwrap_or_default()
            );
            return;
        }
        assert_eq!(ended.unwrap(), Response::Done);
        eventually("the guardian's end", || {
            (!Path::new(&format!("/proc/{}", info.guardian)).exists()).then_some(())
        });
        eventually("the socket's end", || {
            (!self.exec_root().join("keeper.sock").exists()).then_some(())
        });
        self.client = None;
    }
}

/// The client's end of an attach session.
pub(crate) struct Session {
    pub(crate) fd: OwnedFd,
}

/// What a session gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) error: Vec<u8>,
}

impl Session {
    /// The next frame; `None` at the end.
    pub(crate) fn frame(&self) -> Option<(Stream, Vec<u8>)> {
        let mut buffer = vec![0; Frame::MAX_PACKET];
        let received = kekkai_sys::socket::receive(&self.fd, &mut buffer).unwrap();
        if received.length == 0 {
            return None;
        }
        let frame = Frame::parse(&buffer[..received.length]).unwrap();
        Some((frame.stream, frame.payload.to_vec()))
    }

    /// Everything up to the end.
    pub(crate) fn read(&self) -> Streams {
        let mut streams = Streams::default();
        while let Some((stream, payload)) = self.frame() {
            match stream {
                Stream::Stdout => streams.stdout.extend(payload),
                Stream::Stderr => streams.stderr.extend(payload),
                Stream::Error => streams.error.extend(payload),
            }
        }
        streams
    }

    /// Reads until the output contains `end`.
    pub(crate) fn read_until(&self, end: &str) -> String {
        let mut text = String::new();
        while !text.contains(end) {
            let (_, payload) = self
                .frame()
                .unwrap_or_else(|| panic!("ended with {text:?}, without {end:?}"));
            text.push_str(&String::from_utf8_lossy(&payload));
        }
        text
    }

    pub(crate) fn write(&self, data: &[u8]) {
        for part in data.chunks(Frame::MAX_PAYLOAD) {
            assert_eq!(
                kekkai_sys::socket::send(&self.fd, part, &[]).unwrap(),
                part.len()
            );
        }
    }

    pub(crate) fn end_input(&self) {
        rustix::net::shutdown(self.fd.as_fd(), rustix::net::Shutdown::Write).unwrap();
    }
}

/// Kills a process and waits until it is gone.
pub(crate) fn kill(pid: u32) {
    let id = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
    eventually("a process's end", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

pub(crate) fn cgroup(id: ContainerId) -> String {
    format!("kekkai-test-keeper-{}", id.short())
}

fn fill(root: &Path) {
    for name in ["bin", "etc", "tmp", "proc", "dev", "sys", "root"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    let busybox = BUSYBOX
        .iter()
        .find(|path| Path::new(path).exists())
        .unwrap();
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    std::fs::copy(
        env!("CARGO_BIN_EXE_kekkai-keeper"),
        root.join("bin/docker-init"),
    )
    .unwrap();
    let applets = "sh ls cat echo id true false sleep mkdir touch stat pwd hostname ps kill env printf dd head tail grep wc \
                   tty stty seq yes usleep setsid trap tr";
    for applet in applets.split_whitespace() {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
}

fn docker_spec(cgroup: &str) -> Value {
    let capabilities = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_KILL",
        "CAP_SETUID",
        "CAP_SETGID",
    ];
    json!({
        "ociVersion": "1.2.1",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/",
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities}
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "testhost",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}
        ],
        "linux": {
            "cgroupsPath": format!("/{cgroup}"),
            "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]}
        }
    })
}
