//! The crash suite: `kill -9` of daemon, keeper and guardian at every fail point of pull, create, start, exec, stop and
//! rm; then what must be restarted is restarted, and nothing acknowledged may be lost, nothing may be left over.
//!
//! One trial for each point. `KEKKAI_CRASH_SHARE=10` (CI) runs every tenth, 1 all of them (`just soak`); the points of
//! every share differ by `KEKKAI_CRASH_OFFSET`.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kekkai_tests::daemon::{Daemon, Options, binary};
use kekkai_tests::fixture::Fixtures;
use kekkai_tests::http::{self, Answer};
use kekkai_tests::registry::Registry;
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Whom a trial kills, and how.
#[derive(Clone, Debug)]
enum Kill {
    /// A fail point that the daemon dies at.
    Daemon(String),
    /// A fail point that the keeper or a launcher dies at.
    Keeper(String),
    /// A signal from outside while the steps run: which process, after how many milliseconds.
    Outside(&'static str, u64),
}

/// What a client was told, which is what must hold afterwards.
#[derive(Debug, Default)]
struct Acknowledged {
    pulled: bool,
    created: Option<String>,
    started: bool,
    executed: bool,
    stopped: bool,
    removed: bool,
    loaded: bool,
    image_removed: bool,
    /// The last refusal's words.
    said: String,
}

struct Arena {
    daemon: Daemon,
    registry: Arc<Registry>,
    port: u16,
    /// A docker-archive whose layer nobody has seen before.
    archive: Arc<[u8]>,
}

fn pid(raw: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(raw).ok()?)
}

impl Arena {
    fn start(fixtures: &Fixtures) -> Result<Self, Failed> {
        let registry = Arc::new(Registry::start(fixtures)?);
        let daemon = Daemon::start(Options::default())?;
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?
            .local_addr()?
            .port();
        let archive = fixtures
            .image("once-flaky:latest")
            .docker_archive(&["crashload:latest"])
            .into();
        Ok(Self {
            daemon,
            registry,
            port,
            archive,
        })
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
        http::request(&self.daemon.socket, method, path, body).ok()
    }

    fn inspect(&self, name: &str) -> Option<Value> {
        let answer = self.ask("GET", &format!("/containers/{name}/json"), None)?;
        (answer.status == 200).then(|| answer.json())
    }

    fn pull(&self, name: &str) -> bool {
        let host = self.registry.host();
        let answer = self.ask(
            "POST",
            &format!("/images/create?fromImage={host}/plain/{name}&tag=latest"),
            None,
        );
        answer.is_some_and(|a| {
            a.status == 200 && !String::from_utf8_lossy(&a.body).contains("errorDetail")
        })
    }

    fn image(&self, name: &str) -> String {
        format!("{}/plain/{name}:latest", self.registry.host())
    }

    fn run(&self, name: &str, script: &str) -> Result<(), Failed> {
        let body = json!({"Image": self.image("box"), "Cmd": ["sh", "-c", script]});
        let made = self
            .ask(
                "POST",
                &format!("/containers/create?name={name}"),
                Some(&body),
            )
            .ok_or("create: no answer")?;
        if made.status != 201 {
            return Err(format!("create of {name}: {} {}", made.status, made.message()).into());
        }
        let started = self
            .ask("POST", &format!("/containers/{name}/start"), None)
            .ok_or("start: no answer")?;
        if started.status != 204 {
            return Err(
                format!("start of {name}: {} {}", started.status, started.message()).into(),
            );
        }
        Ok(())
    }

    /// One life of a container, each step only if the one before was acknowledged. Errors are not failures here: the
    /// engine is being killed under our hands.
    fn steps(&self) -> Acknowledged {
        let mut ack = Acknowledged {
            pulled: self.pull("layers"),
            ..Acknowledged::default()
        };
        let load = http::request_bytes(
            &self.daemon.socket,
            "POST",
            "/images/load",
            Some(&self.archive),
            "application/x-tar",
        );
        let text = load
            .map(|a| String::from_utf8_lossy(&a.body).into_owned())
            .unwrap_or_default();
        ack.loaded = text.contains("Loaded image");
        if ack.loaded {
            let answer = self.ask("DELETE", "/images/crashload:latest", None);
            ack.image_removed = answer.is_some_and(|a| a.status == 200);
        }
        let port = format!("{}/tcp", 80);
        let body = json!({
            "Image": self.image("box"), "Cmd": ["sh", "-c", "echo hello; sleep 600"],
            "Volumes": {"/data": {}}, "ExposedPorts": {port.as_str(): {}},
            "HostConfig": {"PortBindings": {port.as_str(): [{"HostPort": self.port.to_string()}]}},
        });
        let Some(made) = self.ask("POST", "/containers/create?name=victim", Some(&body)) else {
            return ack;
        };
        if made.status != 201 {
            ack.said = made.message();
            return ack;
        }
        ack.created = made.json()["Id"].as_str().map(str::to_owned);
        let Some(answer) = self.ask("POST", "/containers/victim/start", None) else {
            return ack;
        };
        ack.started = answer.status == 204;
        if !ack.started {
            ack.said = answer.message();
            return ack;
        }
        let exec = json!({"Cmd": ["true"], "AttachStdout": true});
        if let Some(made) = self
            .ask("POST", "/containers/victim/exec", Some(&exec))
            .filter(|a| a.status == 201)
        {
            let id = made.json()["Id"].as_str().unwrap_or_default().to_owned();
            let start = json!({"Detach": false, "Tty": false});
            let answer = self.ask("POST", &format!("/exec/{id}/start"), Some(&start));
            ack.executed = answer.is_some_and(|a| a.status == 200);
        }
        let Some(answer) = self.ask("POST", "/containers/victim/stop?t=0", None) else {
            return ack;
        };
        ack.stopped = answer.status == 204;
        if !ack.stopped {
            return ack;
        }
        let Some(answer) = self.ask("DELETE", "/containers/victim?v=1", None) else {
            return ack;
        };
        ack.removed = answer.status == 204;
        ack
    }

    /// The daemon is up, whatever has happened to it.
    fn revive(&mut self) -> Result<(), Failed> {
        self.daemon.set_env(Vec::new());
        if self.daemon.has_ended() {
            self.daemon.launch()?;
        }
        Ok(())
    }

    /// Everything acknowledged holds, the bystander never noticed, and after removal nothing is left.
    fn judge(&mut self, ack: &Acknowledged, bystander: &Value) -> Result<(), Failed> {
        let now = self.inspect("bystander").ok_or("the bystander is gone")?;
        if now["State"]["Pid"] != bystander["State"]["Pid"] || now["State"]["Running"] != true {
            return Err(format!(
                "the bystander was {} and is {}",
                bystander["State"], now["State"]
            )
            .into());
        }
        let process = format!("/proc/{}", now["State"]["Pid"]);
        if !PathBuf::from(&process).exists() {
            return Err("the bystander is said to run but its process is gone".into());
        }
        // Its output goes on arriving.
        let lines = |a: &Self| {
            a.ask("GET", "/containers/bystander/logs?stdout=1", None)
                .map_or(0, |l| l.body.len())
        };
        let (before, until) = (lines(self), Instant::now() + Duration::from_secs(5));
        while lines(self) <= before {
            if Instant::now() > until {
                return Err("the bystander's log stands still".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let victim = self.inspect("victim");
        if let (Some(id), None, false) = (&ack.created, &victim, ack.removed || ack.stopped) {
            return Err(format!("the acknowledged container {id} is lost ({ack:?})").into());
        }
        if ack.removed && victim.is_some() {
            return Err("an acknowledged removal came undone".into());
        }
        if let Some(victim) = &victim {
            let state = &victim["State"];
            let running = state["Running"] == true;
            if ack.started && !ack.stopped && !running && state["Status"] != "exited" {
                return Err(format!("acknowledged start, but {state} ({ack:?})").into());
            }
            if ack.stopped && running {
                return Err(format!("acknowledged stop, but {state}").into());
            }
            if running && !PathBuf::from(format!("/proc/{}", state["Pid"])).exists() {
                return Err(format!("said to run, but there is no such process: {state}").into());
            }
            if state["Dead"] == true {
                return Err(format!("dead: {state}").into());
            }
        }
        if ack.pulled
            && self
                .ask(
                    "GET",
                    &format!("/images/{}/json", self.image("layers")),
                    None,
                )
                .is_none_or(|a| a.status != 200)
        {
            return Err("an acknowledged image is lost".into());
        }
        let loaded = self
            .ask("GET", "/images/crashload:latest/json", None)
            .is_some_and(|a| a.status == 200);
        if ack.loaded && ack.image_removed == loaded && ack.image_removed {
            return Err(format!("the loaded image is {loaded} ({ack:?})").into());
        }
        drop(self.ask("DELETE", "/images/crashload:latest?force=1", None));
        // The engine still does its work: the same again, undisturbed.
        drop(self.ask("DELETE", "/containers/victim?force=1&v=1", None));
        let again = self.steps();
        if !again.removed {
            return Err(format!("afterwards the same steps fail: {again:?}").into());
        }
        drop(self.ask("DELETE", &format!("/images/{}", self.image("layers")), None));
        Ok(())
    }

    /// Removes everything; says what stays.
    fn empty(&mut self) -> Vec<String> {
        let listed = self
            .ask("GET", "/containers/json?all=1", None)
            .map(|a| a.json())
            .unwrap_or_default();
        for container in listed.as_array().into_iter().flatten() {
            let id = container["Id"].as_str().unwrap_or_default();
            drop(self.ask("DELETE", &format!("/containers/{id}?force=1&v=1"), None));
        }
        let mut left = self.daemon.leftovers_when_empty();
        let volumes = self
            .ask("GET", "/volumes", None)
            .map(|a| a.json())
            .unwrap_or_default();
        left.extend(
            volumes["Volumes"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|v| format!("volume {}", v["Name"])),
        );
        let network = self
            .ask("GET", "/networks/bridge", None)
            .map(|a| a.json())
            .unwrap_or_default();
        left.extend(
            network["Containers"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(id, _)| format!("endpoint of {id}")),
        );
        let rules = Command::new("nft")
            .args(["list", "table", "inet", &self.daemon.table])
            .output();
        let rules = rules
            .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
            .unwrap_or_default();
        if rules.contains(&format!(" {} ", self.port)) {
            left.push(format!(
                "port {} is still published in nf_tables",
                self.port
            ));
        }
        left
    }
}

fn trial(fixtures: &Fixtures, kill: &Kill) -> Result<(), Failed> {
    let mut arena = Arena::start(fixtures)?;
    let outcome = play(&mut arena, kill);
    let tail = arena.daemon.log_tail(15);
    let left = if outcome.is_ok() {
        arena.empty()
    } else {
        Vec::new()
    };
    let down = arena.daemon.tear_down();
    outcome.map_err(|e| {
        format!(
            "{}\n--- the daemon's log ends:\n{tail}",
            e.message().unwrap_or("failed")
        )
    })?;
    let left: Vec<String> = left.into_iter().chain(down?).collect();
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("left over:\n  {}", left.join("\n  ")).into())
    }
}

fn play(arena: &mut Arena, kill: &Kill) -> Result<(), Failed> {
    if let Kill::Keeper(point) = kill {
        // The keeper takes its fail points from the daemon that starts it.
        arena.daemon.system_stop()?;
        arena
            .daemon
            .set_env(vec![("KEKKAI_FAILPOINTS".into(), format!("{point}=kill"))]);
        arena.daemon.launch()?;
    }
    if !arena.pull("box") {
        return Err("the fixture cannot be pulled".into());
    }
    let script = "while :; do echo tick; sleep 0.05; done";
    if let Err(first) = arena.run("bystander", script) {
        // A keeper's point of starting is met by the first start there is, which is this one: it must say so, and the
        // next must work.
        if !matches!(kill, Kill::Keeper(_)) {
            return Err(first);
        }
        std::thread::sleep(Duration::from_millis(200));
        arena.revive()?;
        drop(arena.ask("DELETE", "/containers/bystander?force=1", None));
        arena.run("bystander", script)?;
    }
    let bystander = arena
        .inspect("bystander")
        .ok_or("the bystander cannot be inspected")?;
    let ack = match kill {
        Kill::Daemon(point) => {
            // Killed, not ended: the next start has something to recover, for the points of recovery.
            arena.daemon.end(Signal::KILL)?;
            arena
                .daemon
                .set_env(vec![("KEKKAI_FAILPOINTS".into(), format!("{point}=kill"))]);
            // A point of recovery ends the daemon before it answers.
            let ack = if arena.daemon.launch().is_ok() {
                arena.steps()
            } else {
                Acknowledged::default()
            };
            std::thread::sleep(Duration::from_millis(100));
            if !arena.daemon.has_ended() {
                return Err("the fail point was never met".into());
            }
            ack
        }
        Kill::Keeper(_) => arena.steps(),
        Kill::Outside(whom, after) => {
            let target = match *whom {
                "daemon" => arena.daemon.pid(),
                "keeper" => arena.daemon.keeper_pid(),
                _ => arena.daemon.guardian_pid(),
            };
            let target = target
                .and_then(pid)
                .ok_or_else(|| format!("no {whom} to kill"))?;
            let after = Duration::from_millis(*after);
            let killer = std::thread::spawn(move || {
                std::thread::sleep(after);
                kill_process(target, Signal::KILL).ok();
            });
            let ack = arena.steps();
            killer.join().map_err(|_| "the killer panicked")?;
            std::thread::sleep(Duration::from_millis(100));
            ack
        }
    };
    arena.revive()?;
    // A new keeper takes over within moments; until then answers may be errors.
    let until = Instant::now() + Duration::from_secs(10);
    while arena
        .inspect("bystander")
        .is_none_or(|b| b["State"]["Running"] != true)
        && Instant::now() < until
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    arena.judge(&ack, &bystander)
}

/// What happens while no daemon is there is known to the next one: exit codes, logs, removals, restarts.
fn away(fixtures: &Fixtures) -> Result<(), Failed> {
    let mut arena = Arena::start(fixtures)?;
    let outcome = (|| -> Result<(), Failed> {
        if !arena.pull("box") {
            return Err("the fixture cannot be pulled".into());
        }
        let image = arena.image("box");
        let make = |name: &str, script: &str, host: Value| -> Result<(), Failed> {
            let body = json!({"Image": image, "Cmd": ["sh", "-c", script], "HostConfig": host});
            let path = format!("/containers/create?name={name}");
            let made = arena
                .ask("POST", &path, Some(&body))
                .map_or(0, |a| a.status);
            let path = format!("/containers/{name}/start");
            let started = arena.ask("POST", &path, None).map_or(0, |a| a.status);
            if (made, started) == (201, 204) {
                Ok(())
            } else {
                Err(format!("{name}: {made} {started}").into())
            }
        };
        make(
            "ends",
            "echo before; sleep 1; echo after; exit 7",
            json!({}),
        )?;
        make("stays", "sleep 600", json!({}))?;
        make("vanishes", "sleep 1", json!({"AutoRemove": true}))?;
        make(
            "returns",
            "echo again; sleep 1; exit 1",
            json!({"RestartPolicy": {"Name": "always"}}),
        )?;
        let stays = arena.inspect("stays").ok_or("no answer")?["State"]["Pid"].clone();
        arena.daemon.end(Signal::KILL)?;
        std::thread::sleep(Duration::from_millis(1500));
        arena.daemon.launch()?;
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let state = |name: &str| {
                arena
                    .inspect(name)
                    .map(|c| c["State"].clone())
                    .unwrap_or_default()
            };
            let logs = |name: &str| {
                let path = format!("/containers/{name}/logs?stdout=1");
                arena
                    .ask("GET", &path, None)
                    .map(|a| String::from_utf8_lossy(&a.body).into_owned())
                    .unwrap_or_default()
            };
            let (ends, text) = (state("ends"), logs("ends"));
            let fine = ends["Status"] == "exited"
                && ends["ExitCode"] == 7
                && text.contains("before")
                && text.contains("after")
                && state("stays")["Pid"] == stays
                && state("stays")["Running"] == true
                && arena.inspect("vanishes").is_none()
                && logs("returns").matches("again").count() >= 2;
            if fine {
                return Ok(());
            }
            if Instant::now() > until {
                let seen = json!({"ends": ends, "log": text, "stays": state("stays"), "vanishes": state("vanishes"), "returns": [state("returns"), logs("returns")]});
                return Err(format!("after the daemon's return: {seen}").into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    })();
    let left = if outcome.is_ok() {
        arena.empty()
    } else {
        Vec::new()
    };
    let down = arena.daemon.tear_down()?;
    outcome?;
    let left: Vec<String> = left.into_iter().chain(down).collect();
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("left over:\n  {}", left.join("\n  ")).into())
    }
}

/// The names a binary prints for its `--failpoints`.
fn points(program: &str, words: &[&str]) -> Vec<String> {
    let Ok(path) = binary(program) else {
        return Vec::new();
    };
    let out = Command::new(path).args(words).arg("--failpoints").output();
    let text = out
        .map(|o| {
            if o.status.success() {
                o.stdout
            } else {
                Vec::new()
            }
        })
        .unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(str::to_owned)
        .collect()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let mut kills = Vec::new();
    kills.extend(points("kekkai", &["daemon"]).into_iter().map(Kill::Daemon));
    kills.extend(points("kekkai-keeper", &[]).into_iter().map(Kill::Keeper));
    for whom in ["daemon", "keeper", "guardian"] {
        kills.extend([0, 2, 5, 10, 20, 40, 80].map(|after| Kill::Outside(whom, after)));
    }
    let number = |name: &str, default: usize| {
        std::env::var(name)
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(default)
    };
    let (share, offset) = (
        number("KEKKAI_CRASH_SHARE", 10).max(1),
        number("KEKKAI_CRASH_OFFSET", 0),
    );
    let fixtures = match Fixtures::build() {
        Ok(fixtures) => Arc::new(fixtures),
        Err(error) => {
            eprintln!("skipped: {error:#}");
            return ExitCode::SUCCESS;
        }
    };
    let mut trials = Vec::new();
    let shared = fixtures.clone();
    trials.push(Trial::test("while-the-daemon-is-away", move || {
        away(&shared)
    }));
    for (i, kill) in kills.into_iter().enumerate() {
        let name = match &kill {
            Kill::Daemon(point) => format!("daemon-at-{point}"),
            Kill::Keeper(point) => format!("keeper-at-{point}"),
            Kill::Outside(whom, after) => format!("{whom}-after-{after}ms"),
        };
        let fixtures = fixtures.clone();
        let trial = Trial::test(name, move || trial(&fixtures, &kill));
        trials.push(trial.with_ignored_flag((i + offset) % share != 0));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
