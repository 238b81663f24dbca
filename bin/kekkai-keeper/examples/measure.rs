//! Measures the keeper: round trips of `Start` and `Exec` of `true`, log throughput, memory.
//!
//! `cargo run --release -p kekkai-keeper-bin --example measure -- KEEPER ROOT [count]`: the keeper's program, and a
//! directory (on the disk that is to be measured) with `lower/bin/busybox`.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use kekkai_keeper::client::{KeeperClient, KeeperConfig};
use kekkai_keeper::log::{LogConfig, LogDriver};
use kekkai_keeper::protocol::{
    Event, ExecRequest, Request, Response, StartRequest, StdinMode, Target, Terminal,
};
use kekkai_runtime::{ContainerPlan, PlanOptions, RootfsSource, plan_container, plan_exec};
use kekkai_types::{ContainerId, ExecId, Signal};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

struct Rig {
    client: KeeperClient,
    exits: mpsc::Receiver<(Target, Instant)>,
    root: std::path::PathBuf,
    count: u32,
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (keeper, root) = (
        arguments.next().ok_or("which keeper?")?,
        arguments.next().ok_or("which root?")?,
    );
    let count: usize = arguments.next().map_or(Ok(300), |text| text.parse())?;
    let root = std::path::PathBuf::from(root);
    for name in ["exec", "spill", "logs", "upper", "work"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    let (sender, exits) = mpsc::channel();
    let config = KeeperConfig {
        exec_root: root.join("exec"),
        keeper_exe: keeper.into(),
        build: "measure".into(),
        spill_dir: root.join("spill"),
        failpoints: String::new(),
    };
    let handler = Arc::new(move |event| {
        if let Event::Exited { target, .. } = event {
            let _ = sender.send((target, Instant::now()));
        }
    });
    let begin = Instant::now();
    let client = KeeperClient::connect_or_start(config, handler)?;
    println!("keeper up in {:?}: {:?}", begin.elapsed(), client.info());
    let mut rig = Rig {
        client,
        exits,
        root,
        count: 0,
    };
    rig.starts(count, Duration::ZERO, "back to back")?;
    rig.starts(count.min(100), Duration::from_millis(100), "100 ms apart")?;
    rig.execs(count)?;
    for driver in [LogDriver::None, LogDriver::Local, LogDriver::JsonFile] {
        rig.throughput(driver)?;
    }
    rig.memory(200)?;
    println!(
        "shutdown: {:?}",
        rig.client.call(Request::Shutdown, Vec::new())?.response
    );
    Ok(())
}

fn percentiles(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{name}: min {:?} p50 {:?} p90 {:?} p99 {:?}",
        times[0],
        at(50),
        at(90),
        at(99)
    );
}

impl Rig {
    fn plan(&mut self, args: &[&str]) -> Outcome<(ContainerId, ContainerPlan, String)> {
        let id = ContainerId::random();
        self.count += 1;
        let cgroup = format!("kekkai-test-measure/{}", id.short());
        let spec = serde_json::from_value(json!({
            "ociVersion": "1.2.1",
            "process": {"terminal": false, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}},
            "root": {"path": "rootfs", "readonly": false},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}
            ],
            "linux": {"cgroupsPath": format!("/{cgroup}"),
                "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"}],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "seccomp": serde_json::to_value(kekkai_runtime::seccomp::docker_default(&["CAP_CHOWN"]))?}
        }))?;
        let upper = self.root.join("upper").join(id.short());
        let work = self.root.join("work").join(id.short());
        std::fs::create_dir(&upper)?;
        std::fs::create_dir(&work)?;
        let rootfs = RootfsSource::Overlay {
            lower: vec![self.root.join("lower")],
            upper,
            work,
            volatile: true,
        };
        let options = PlanOptions {
            id: id.to_string(),
            ..PlanOptions::default()
        };
        Ok((id, plan_container(&spec, rootfs, &options)?, cgroup))
    }

    fn start(
        &mut self,
        args: &[&str],
        driver: LogDriver,
    ) -> Outcome<(ContainerId, ContainerPlan, Instant, Duration)> {
        let (container, plan, cgroup) = self.plan(args)?;
        let mut log = LogConfig::new(driver, self.root.join("logs").join(container.short()));
        log.compress = false;
        let request = StartRequest {
            container,
            plan: plan.to_bytes()?,
            joins: Vec::new(),
            log,
            stdin: StdinMode::Closed,
            terminal: Terminal::None,
            cgroup,
        };
        let begin = Instant::now();
        let answer = self
            .client
            .call(Request::Start(Box::new(request)), Vec::new())?;
        let took = begin.elapsed();
        let Response::Started { .. } = answer.response else {
            return Err("not started".into());
        };
        Ok((container, plan, begin, took))
    }

    fn wait(&self, wanted: Target) -> Outcome<Instant> {
        loop {
            let (target, at) = self.exits.recv_timeout(Duration::from_secs(120))?;
            if target == wanted {
                return Ok(at);
            }
        }
    }

    fn forget(&self, container: ContainerId) -> Outcome<()> {
        self.client.call(
            Request::Forget {
                target: Target::Container(container),
            },
            Vec::new(),
        )?;
        let layout = kekkai_cgroups::detect()?;
        kekkai_cgroups::Cgroup::new(
            &layout,
            &format!("kekkai-test-measure/{}", container.short()),
        )?
        .remove()?;
        Ok(())
    }

    fn starts(&mut self, count: usize, pause: Duration, name: &str) -> Outcome<()> {
        let (mut starts, mut exits) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (container, _, begin, took) =
                self.start(&["/bin/busybox", "true"], LogDriver::Local)?;
            exits.push(self.wait(Target::Container(container))? - begin);
            starts.push(took);
            self.forget(container)?;
            std::thread::sleep(pause);
        }
        percentiles(&format!("start {name}, until started"), starts);
        percentiles(&format!("start {name}, until exit told"), exits);
        Ok(())
    }

    fn execs(&mut self, count: usize) -> Outcome<()> {
        let (container, plan, ..) =
            self.start(&["/bin/busybox", "sleep", "1000"], LogDriver::Local)?;
        let process = serde_json::from_value(
            json!({"args": ["/bin/busybox", "true"], "cwd": "/", "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/bin"]}),
        )?;
        let bytes = plan_exec(&process, &plan)?.to_bytes()?;
        let (mut starts, mut exits) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let exec = ExecId::random();
            let (stdin, terminal) = (StdinMode::Closed, Terminal::None);
            let request = ExecRequest {
                container,
                exec,
                plan: bytes.clone(),
                stdin,
                terminal,
            };
            let begin = Instant::now();
            self.client
                .call(Request::Exec(Box::new(request)), Vec::new())?;
            starts.push(begin.elapsed());
            exits.push(self.wait(Target::Exec(exec))? - begin);
            self.client.call(
                Request::Forget {
                    target: Target::Exec(exec),
                },
                Vec::new(),
            )?;
        }
        percentiles("exec, until started", starts);
        percentiles("exec, until exit told", exits);
        self.end(container)
    }

    fn end(&self, container: ContainerId) -> Outcome<()> {
        let target = Target::Container(container);
        self.client.call(
            Request::Signal {
                target,
                signal: Signal::KILL,
            },
            Vec::new(),
        )?;
        self.wait(target)?;
        self.forget(container)
    }

    fn throughput(&mut self, driver: LogDriver) -> Outcome<()> {
        const BYTES: u64 = 1 << 30;
        let line = "x".repeat(100);
        let script = format!("busybox yes {line} | busybox head -c {BYTES}");
        let before = cpu(self.client.info().keeper);
        let (container, _, begin, _) =
            self.start(&["/bin/busybox", "sh", "-c", &script], driver)?;
        let took = self.wait(Target::Container(container))? - begin;
        let used = cpu(self.client.info().keeper) - before;
        println!(
            "log {driver:?}: {:.0} MB/s; the keeper used {used:.2} s of processor for 1 GiB, {:.0} MB/s of one core",
            BYTES as f64 / 1e6 / took.as_secs_f64(),
            BYTES as f64 / 1e6 / used
        );
        self.forget(container)?;
        for entry in std::fs::read_dir(self.root.join("logs"))? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    fn memory(&mut self, count: usize) -> Outcome<()> {
        let info = self.client.info();
        let launchers =
            std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", info.keeper))?;
        let mut pids: Vec<u32> = launchers
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect();
        pids.extend([info.keeper, info.guardian]);
        let tmpfs = || -> Outcome<u64> {
            use std::os::unix::fs::MetadataExt;
            Ok(std::fs::metadata(self.root.join("exec/keeper.state"))?.blocks() * 512)
        };
        let (before, files) = (pss(&pids), tmpfs()?);
        println!(
            "memory with nothing: PSS {before} KB in {} processes, keeper RSS {} KB",
            pids.len(),
            rss(info.keeper)
        );
        let state_before = files;
        let mut running = Vec::new();
        for _ in 0..count {
            running.push(
                self.start(&["/bin/busybox", "sleep", "1000"], LogDriver::Local)?
                    .0,
            );
        }
        std::thread::sleep(Duration::from_secs(3));
        let fds = std::fs::read_dir(format!("/proc/{}/fd", info.keeper))?.count();
        let state = std::fs::metadata(self.root.join("exec/keeper.state"))
            .map(|meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512)?
            .saturating_sub(state_before);
        println!(
            "memory with {count} idle containers: PSS {} KB, {:.1} KB each, state {} bytes each, {fds} descriptors, keeper RSS {} KB",
            pss(&pids),
            (pss(&pids) as f64 - before as f64) / count as f64,
            state / count as u64,
            rss(info.keeper),
        );
        for container in running {
            self.end(container)?;
        }
        println!(
            "memory afterwards: PSS {} KB, keeper RSS {} KB",
            pss(&pids),
            rss(info.keeper)
        );
        Ok(())
    }
}

fn field(path: &Path, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| {
        rest.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    })
    .unwrap_or(0)
}

fn pss(pids: &[u32]) -> u64 {
    pids.iter()
        .map(|pid| field(Path::new(&format!("/proc/{pid}/smaps_rollup")), "Pss"))
        .sum()
}

fn rss(pid: u32) -> u64 {
    field(Path::new(&format!("/proc/{pid}/status")), "VmRSS")
}

/// Seconds of processor time of a process.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}
