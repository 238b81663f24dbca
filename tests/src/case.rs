//! One row of the table, and what a row may do.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{Out, Running, split};
use crate::http::{self, Answer};
use crate::pty::Pty;
use crate::registry::Door;
use crate::world::{Cli, Target, World};

/// Where a row applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// In every column.
    All,
    /// Only where the daemon is ours: a difference we chose, documented in docs/api-compatibility.md.
    Ours,
    /// Only with our command line on our daemon.
    OurCli,
    /// Asked over the socket: once per daemon, whatever the command line.
    Api,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// `area/what` in lower case with dashes.
    pub name: &'static str,
    /// Which columns it runs in.
    pub on: On,
    /// Whether it needs the images of `../shared/images`.
    pub real_images: bool,
    /// The steps; a panic is the failure.
    pub steps: fn(&Ctx<'_>),
}

impl Case {
    /// A row of every column.
    pub const fn new(name: &'static str, steps: fn(&Ctx<'_>)) -> Self {
        Self {
            name,
            on: On::All,
            real_images: false,
            steps,
        }
    }
    /// The same, elsewhere.
    pub const fn on(mut self, on: On) -> Self {
        self.on = on;
        self
    }
    /// The same, with the real images.
    pub const fn real_images(mut self) -> Self {
        self.real_images = true;
        self
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A case's hands: names of its own, and a command line pointed at its world.
///
/// In every text given to it, `@n` is a name of this case's own, `@box @hello @conf @layers` are fixture images,
/// `@reg` is the registry's host and port, `@share` a folder of this case that daemon and test see alike.
#[derive(Debug)]
pub struct Ctx<'a> {
    /// The daemon and what is around it.
    pub world: &'a World,
    /// Whose command line.
    pub cli: Cli,
    /// The case's own name.
    pub name: String,
    share: PathBuf,
}

/// How long one command may take; dockerd under two busy cores is slow.
pub const DEADLINE: Duration = Duration::from_secs(90);

impl<'a> Ctx<'a> {
    /// Hands for a new case.
    pub fn new(world: &'a World, cli: Cli) -> Self {
        let name = format!(
            "kkt{}x{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let share = world.share().join(&name);
        std::fs::create_dir_all(&share).expect("a folder in our own share");
        Self {
            world,
            cli,
            name,
            share,
        }
    }

    /// Fills in the `@` words.
    pub fn fill(&self, text: &str) -> String {
        text.replace("@box", "kkt/box")
            .replace("@hello", "kkt/hello")
            .replace("@conf", "kkt/conf")
            .replace("@layers", "kkt/layers")
            .replace("@regbasic", &self.world.registry.host_of(Door::Basic))
            .replace("@regtoken", &self.world.registry.host_of(Door::Token))
            .replace("@reganon", &self.world.registry.host_of(Door::Anonymous))
            .replace("@reg", &self.world.registry.host())
            .replace("@share", &self.share.to_string_lossy())
            .replace("@n", &self.name)
    }

    /// The command for a line, not started.
    pub fn command(&self, line: &str) -> Command {
        let mut command = self.world.command(self.cli).expect("a command line");
        command.args(split(&self.fill(line)));
        command
    }

    fn words(&self, line: &str) -> String {
        let cli = if self.cli == Cli::Docker {
            "docker"
        } else {
            "kekkai"
        };
        format!("{cli} {}", self.fill(line))
    }

    /// Runs a line with no input and waits for its end.
    pub fn run(&self, line: &str) -> Out {
        Running::start(self.command(line), self.words(line), None).finish(DEADLINE)
    }

    /// Runs a line with this input.
    pub fn run_in(&self, line: &str, stdin: &[u8]) -> Out {
        Running::start(self.command(line), self.words(line), Some(stdin)).finish(DEADLINE)
    }

    /// Runs words as they are, for arguments that quoting would garble.
    pub fn run_words(&self, words: &[&str]) -> Out {
        let mut command = self.world.command(self.cli).expect("a command line");
        command.args(words.iter().map(|w| self.fill(w)));
        Running::start(command, format!("{words:?}"), None).finish(DEADLINE)
    }

    /// Runs a line with more environment for the command line itself.
    pub fn run_env(&self, line: &str, env: &[(&str, &str)]) -> Out {
        let mut command = self.command(line);
        command.envs(env.iter().map(|(k, v)| (*k, self.fill(v))));
        Running::start(command, self.words(line), None).finish(DEADLINE)
    }

    /// Starts a line; the caller decides when it ends.
    pub fn spawn(&self, line: &str) -> Running {
        Running::start(self.command(line), self.words(line), None)
    }

    /// Starts a line with a pipe for its input that stays open.
    pub fn spawn_piped(&self, line: &str) -> Running {
        Running::start_piped(self.command(line), self.words(line))
    }

    /// Starts a line on a terminal of 24 × 80.
    pub fn pty(&self, line: &str) -> Pty {
        Pty::start(&self.command(line), &self.words(line), 24, 80).expect("a pseudo-terminal")
    }

    /// `inspect` of one object: its first element.
    #[track_caller]
    pub fn inspect(&self, what: &str) -> Value {
        let mut value = self.run(&format!("inspect {what}")).ok().json();
        value[0].take()
    }

    /// The Engine API: method and path (version prefix and all).
    pub fn api(&self, method: &str, path: &str) -> Answer {
        http::request(&self.world.socket, method, &self.fill(path), None).expect("an answer")
    }

    /// The Engine API with a JSON body.
    pub fn api_json(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = serde_json::from_str(&self.fill(&body.to_string())).expect("still JSON");
        http::request(&self.world.socket, method, &self.fill(path), Some(&body)).expect("an answer")
    }

    /// A path in the folder that daemon and test share.
    pub fn share(&self, name: &str) -> PathBuf {
        self.share.join(name)
    }

    /// Whether the daemon is ours.
    pub fn ours(&self) -> bool {
        self.world.target == Target::Kekkai
    }

    /// Asks again until the answer is yes; fails with these words after 20 s.
    #[track_caller]
    pub fn until(&self, what: &str, mut yes: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !yes() {
            assert!(Instant::now() < until, "never happened: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether a container has that `State.Status`.
    pub fn state(&self, container: &str) -> String {
        let answer = self.api("GET", &format!("/containers/{container}/json"));
        answer.json()["State"]["Status"]
            .as_str()
            .unwrap_or("absent")
            .to_owned()
    }

    /// Waits until a container has that `State.Status` (`absent` when there is none).
    #[track_caller]
    pub fn wait_state(&self, container: &str, state: &str) {
        self.until(&format!("{container} is {state}"), || {
            self.state(container) == state
        });
    }

    /// Removes what carries this case's name.
    pub fn clean_up(&self) {
        let ask = |method: &str, path: &str| http::request(&self.world.socket, method, path, None);
        let named = |v: &Value| {
            v.as_str()
                .is_some_and(|s| s.trim_start_matches('/').starts_with(&self.name))
        };
        let filter = format!("%7B%22name%22%3A%5B%22{}%22%5D%7D", self.name);
        if let Ok(answer) = ask("GET", &format!("/containers/json?all=1&filters={filter}")) {
            for container in answer.json().as_array().into_iter().flatten() {
                if container["Names"]
                    .as_array()
                    .is_some_and(|n| n.iter().any(named))
                {
                    let id = container["Id"].as_str().unwrap_or_default();
                    drop(ask("DELETE", &format!("/containers/{id}?force=1&v=1")));
                }
            }
        }
        if let Ok(answer) = ask("GET", &format!("/volumes?filters={filter}")) {
            for volume in answer.json()["Volumes"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|v| named(&v["Name"]))
            {
                drop(ask(
                    "DELETE",
                    &format!(
                        "/volumes/{}?force=1",
                        volume["Name"].as_str().unwrap_or_default()
                    ),
                ));
            }
        }
        if let Ok(answer) = ask("GET", "/images/json") {
            for image in answer.json().as_array().into_iter().flatten() {
                for tag in image["RepoTags"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|t| named(t))
                {
                    drop(ask(
                        "DELETE",
                        &format!("/images/{}?force=1", tag.as_str().unwrap_or_default()),
                    ));
                }
            }
        }
        drop(std::fs::remove_dir_all(&self.share));
    }
}
