//! A Kekkai daemon of a test's own: roots on a tmpfs, a bridge, an address range, a firewall table and a cgroup parent
//! that no other has. What must stay true: only processes whose command line names this daemon's root are ever ended.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal, kill_process};

use crate::leftovers;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// What differs between daemons.
#[derive(Clone, Debug)]
pub struct Options {
    /// More arguments of `kekkai daemon`.
    pub args: Vec<String>,
    /// More environment, `KEKKAI_FAILPOINTS` for example.
    pub env: Vec<(String, String)>,
    /// Size of the tmpfs that holds data root and exec root.
    pub size: String,
    /// Size of a tmpfs of its own for the data root, for tests of a full disk.
    pub data_size: Option<String>,
    /// A folder on a disk for the data root, in place of the tmpfs; removed with the daemon.
    pub disk: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            args: Vec::new(),
            env: Vec::new(),
            size: "6g".into(),
            data_size: None,
            disk: None,
        }
    }
}

/// A daemon and everything it owns; dropped, all of it goes.
#[derive(Debug)]
pub struct Daemon {
    /// The directory (a tmpfs) that holds all of this daemon's files.
    pub base: PathBuf,
    /// Its `--data-root`.
    pub data: PathBuf,
    /// Its `--exec-root`.
    pub exec: PathBuf,
    /// Its API socket.
    pub socket: PathBuf,
    /// Its bridge.
    pub bridge: String,
    /// The bridge's own address, without prefix.
    pub gateway: Ipv4Addr,
    /// Its nf_tables table.
    pub table: String,
    /// Its cgroup parent.
    pub cgroup: String,
    options: Options,
    child: Option<Child>,
    torn_down: bool,
}

/// A built executable: beside this test's own, or in `$KEKKAI_TEST_BIN_DIR`.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("KEKKAI_TEST_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        // target/<triple>/<profile>/deps/blackbox-… or target/<triple>/<profile>/kekkai-bench
        None => {
            let own = std::env::current_exe()?;
            let folder = own.parent().context("no target folder")?;
            let in_deps = folder.file_name().is_some_and(|n| n == "deps");
            if in_deps {
                folder.parent().context("no target folder")?.to_owned()
            } else {
                folder.to_owned()
            }
        }
    };
    let path = folder.join(name);
    if !path.exists() {
        bail!(
            "{} is not built: cargo build -p kekkai -p kekkai-keeper",
            path.display()
        );
    }
    Ok(path)
}

impl Daemon {
    /// Makes the roots and starts the daemon in them.
    pub fn start(options: Options) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        let base = PathBuf::from(format!("/run/kekkai-test-{id}"));
        std::fs::create_dir_all(&base)?;
        let size = std::ffi::CString::new(format!("size={},mode=755", options.size))?;
        rustix::mount::mount(
            "kekkai-test",
            &base,
            "tmpfs",
            MountFlags::empty(),
            Some(size.as_c_str()),
        )?;
        let data = options.disk.clone().unwrap_or_else(|| base.join("data"));
        let exec = base.join("run");
        for folder in [&data, &exec, &base.join("share"), &base.join("config")] {
            std::fs::create_dir_all(folder)?;
        }
        if let Some(size) = &options.data_size {
            let size = std::ffi::CString::new(format!("size={size},mode=755"))?;
            rustix::mount::mount(
                "kekkai-test",
                &data,
                "tmpfs",
                MountFlags::empty(),
                Some(size.as_c_str()),
            )?;
        }
        std::fs::write(base.join("config/daemon.json"), "{}\n")?;
        // Linux gives an interface's name 15 bytes. The address range is one nobody else on the machine routes.
        let short = format!(
            "{:x}{}",
            std::process::id(),
            id.rsplit('-').next().unwrap_or_default()
        );
        let gateway = free_subnet(number)?;
        let mut daemon = Self {
            socket: exec.join("kekkai.sock"),
            base,
            data,
            exec,
            bridge: format!("kkt{short}"),
            gateway,
            table: format!("kekkai_test_{}", id.replace('-', "_")),
            cgroup: format!("kekkai-test-{id}"),
            options,
            child: None,
            torn_down: false,
        };
        daemon.launch()?;
        Ok(daemon)
    }

    /// The command that starts the daemon, without redirections.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(binary("kekkai")?);
        command.arg("daemon");
        let pair = |c: &mut Command, flag: &str, value: &Path| {
            c.arg(flag).arg(value);
        };
        pair(&mut command, "--data-root", &self.data);
        pair(&mut command, "--exec-root", &self.exec);
        pair(&mut command, "--pidfile", &self.base.join("daemon.pid"));
        pair(
            &mut command,
            "--config-file",
            &self.base.join("config/daemon.json"),
        );
        command
            .arg("--host")
            .arg(format!("unix://{}", self.socket.display()));
        command
            .arg("--bridge")
            .arg(&self.bridge)
            .arg("--bip")
            .arg(format!("{}/24", self.gateway));
        command
            .arg("--nft-table")
            .arg(&self.table)
            .arg("--cgroup-parent")
            .arg(&self.cgroup);
        if !self.options.args.iter().any(|a| a == "--log-level") {
            command.arg("--log-level").arg("debug");
        }
        command.args(&self.options.args);
        command.envs(self.options.env.iter().map(|(k, v)| (k, v)));
        // A cargo test's environment is not a daemon's.
        command.env_remove("DOCKER_HOST").env_remove("KEKKAI_HOST");
        Ok(command)
    }

    /// Starts the daemon process and waits until it answers.
    pub fn launch(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = self.command()?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = command.spawn().context("spawning kekkai daemon")?;
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if crate::http::request(&self.socket, "GET", "/_ping", None)
                .is_ok_and(|a| a.status == 200)
            {
                self.child = Some(child);
                return Ok(());
            }
            if let Some(status) = child.try_wait()? {
                bail!(
                    "kekkai daemon ended at once ({status}); its log ends:\n{}",
                    self.log_tail(30)
                );
            }
            if Instant::now() > until {
                drop(child.kill());
                drop(child.wait());
                bail!(
                    "kekkai daemon does not answer; its log ends:\n{}",
                    self.log_tail(30)
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where the daemon's log goes; not on the tmpfs where that is being measured.
    fn log(&self) -> PathBuf {
        self.options
            .disk
            .as_ref()
            .unwrap_or(&self.base)
            .join("daemon.log")
    }

    /// The last lines of the daemon's log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Sets the environment of the next launch.
    pub fn set_env(&mut self, env: Vec<(String, String)>) {
        self.options.env = env;
    }

    /// The daemon's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends the daemon a signal and waits for its end.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        // ESRCH: it ended by itself, which is as good.
        kill_process(Pid::from_child(&child), signal).ok();
        let until = Instant::now() + Duration::from_secs(30);
        while child.try_wait()?.is_none() {
            if Instant::now() > until {
                drop(child.kill());
                drop(child.wait());
                bail!(
                    "the daemon did not end within 30 s of {signal:?}; its log ends:\n{}",
                    self.log_tail(30)
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether the daemon has ended by itself (a fail point killed it); reaps it.
    pub fn has_ended(&mut self) -> bool {
        let ended = self
            .child
            .as_mut()
            .is_none_or(|c| c.try_wait().ok().flatten().is_some());
        if ended {
            self.child = None;
        }
        ended
    }

    /// Our processes besides the daemon: keeper, guardian, launchers. They are known by the exec root on their command
    /// line (or, failing that, by the socket they listen on).
    pub fn helpers(&self) -> Vec<(u32, String)> {
        let daemon = self.pid();
        leftovers::processes_of(&self.exec)
            .into_iter()
            .filter(|(pid, _)| Some(*pid) != daemon)
            .collect()
    }

    /// The keeper: the process that listens on `keeper.sock`.
    pub fn keeper_pid(&self) -> Option<u32> {
        use std::os::fd::AsFd;
        let address = rustix::net::SocketAddrUnix::new(self.exec.join("keeper.sock")).ok()?;
        let flags = rustix::net::SocketFlags::CLOEXEC;
        for kind in [
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketType::STREAM,
        ] {
            let Ok(socket) =
                rustix::net::socket_with(rustix::net::AddressFamily::UNIX, kind, flags, None)
            else {
                continue;
            };
            if rustix::net::connect(&socket, &address).is_ok() {
                let credentials = rustix::net::sockopt::socket_peercred(socket.as_fd()).ok()?;
                return Some(credentials.pid.as_raw_nonzero().get() as u32);
            }
        }
        None
    }

    /// The guardian: the keeper's parent.
    pub fn guardian_pid(&self) -> Option<u32> {
        let parent = leftovers::parent_of(self.keeper_pid()?)?;
        (parent > 1).then_some(parent)
    }

    /// What `kekkai system stop` does: containers, keeper, guardian and daemon end, in that order.
    pub fn system_stop(&mut self) -> Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        let answer = crate::http::request(&self.socket, "POST", "/kekkai/v1/system/stop", None);
        if !answer.as_ref().is_ok_and(|a| a.status == 204) {
            let said = answer.map(|a| format!("{} {}", a.status, a.message()));
            self.end(Signal::TERM)?;
            bail!("POST /kekkai/v1/system/stop: {said:?}");
        }
        let until = Instant::now() + Duration::from_secs(15);
        while !(self.has_ended() && self.helpers().is_empty()) {
            if Instant::now() > until {
                self.end(Signal::TERM)?;
                bail!("15 s after `system stop` the engine still runs");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Stops daemon, keeper and guardian, whatever state they are in, then says what is left over.
    pub fn tear_down(&mut self) -> Result<Vec<String>> {
        self.torn_down = true;
        let mut left = Vec::new();
        if let Err(error) = self.system_stop() {
            left.push(format!("{error:#}"));
        }
        // What `system stop` should have ended. The guardian would start another keeper, so it is ended first.
        let mut helpers = self.helpers();
        left.extend(
            helpers
                .iter()
                .map(|(pid, line)| format!("process {pid}: {line}")),
        );
        let guardian = self.guardian_pid();
        helpers.sort_by_key(|(pid, _)| Some(*pid) != guardian);
        for (pid, _) in &helpers {
            if let Some(pid) = Pid::from_raw(*pid as i32) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
        let until = Instant::now() + Duration::from_secs(5);
        while !self.helpers().is_empty() && Instant::now() < until {
            for (pid, _) in self.helpers() {
                Pid::from_raw(pid as i32).map(|p| kill_process(p, Signal::KILL).ok());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        left.extend(leftovers::mounts_below(
            &self.base,
            &[&self.base, &self.data],
        ));
        left.extend(leftovers::cgroups_inside(&self.cgroup));
        left.extend(leftovers::ports_of_bridge(&self.bridge));
        leftovers::kill_cgroups(&self.cgroup);
        std::thread::sleep(Duration::from_millis(20));
        leftovers::remove_cgroups(&self.cgroup);
        leftovers::remove_link(&self.bridge);
        leftovers::remove_table(&self.table);
        leftovers::remove_foreign_rules(&self.bridge);
        if std::env::var_os("KEKKAI_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.base.display());
            return Ok(left);
        }
        for mount in leftovers::mount_points_below(&self.base) {
            rustix::mount::unmount(&mount, UnmountFlags::DETACH).ok();
        }
        drop(std::fs::remove_dir_all(&self.base));
        if let Some(disk) = &self.options.disk {
            drop(std::fs::remove_dir_all(disk));
        }
        Ok(left)
    }

    /// What containers that no longer exist left behind. The daemon runs and lists no container; its background
    /// unlinking gets a moment.
    pub fn leftovers_when_empty(&self) -> Vec<String> {
        let look = || {
            let mut left = Vec::new();
            for folder in ["containers", "snapshots", "trash", "content/ingest"] {
                left.extend(leftovers::entries(&self.data.join(folder)));
            }
            left.extend(leftovers::entries(&self.exec.join("containers")));
            left.extend(leftovers::cgroups_inside(&self.cgroup));
            left.extend(leftovers::mounts_below(
                &self.base,
                &[&self.base, &self.data],
            ));
            left
        };
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let left = look();
            if left.is_empty() || Instant::now() > until {
                return left;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.torn_down {
            drop(self.tear_down());
        }
    }
}

/// A /24 of 10.0.0.0/8 that no interface of this machine is in; kept apart from other test processes by their pid.
fn free_subnet(number: u32) -> Result<Ipv4Addr> {
    let routes = std::fs::read_to_string("/proc/net/route")?;
    let taken: Vec<u32> = routes
        .lines()
        .skip(1)
        .filter_map(|l| u32::from_str_radix(l.split_whitespace().nth(1)?, 16).ok())
        .map(u32::swap_bytes)
        .collect();
    let start = std::process::id().wrapping_mul(64).wrapping_add(number);
    for i in 0..10_000u32 {
        let n = start.wrapping_add(i) % 10_000;
        let net = u32::from(Ipv4Addr::new(10, 200 + (n / 250) as u8, (n % 250) as u8, 0));
        if !taken.iter().any(|t| t & 0xffff_ff00 == net) {
            return Ok(Ipv4Addr::from(net | 1));
        }
    }
    bail!("no free /24 in 10.200.0.0/13")
}
