//! What a column of the table runs against: a daemon (the peers' dockerd, or one of ours) with the fixtures in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::daemon::{Daemon, Options, binary};
use crate::fixture::Fixtures;
use crate::registry::{Door, Registry, shared_folder};

/// Whose daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Docker's, of `../shared/peers`.
    Dockerd,
    /// Ours.
    Kekkai,
}

/// Whose command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cli {
    /// docker's.
    Docker,
    /// Ours.
    Kekkai,
}

/// A daemon with the fixtures in it, shared by all the cases of its columns.
#[derive(Debug)]
pub struct World {
    /// Whose daemon.
    pub target: Target,
    /// Its API socket.
    pub socket: PathBuf,
    /// A folder that daemon and test see under the same path.
    pub share: PathBuf,
    /// Serves the fixtures.
    pub registry: Registry,
    /// The fixtures themselves.
    pub fixtures: Fixtures,
    /// Our daemon, where it is ours. Locked only by what restarts it.
    pub daemon: Option<Mutex<Daemon>>,
    /// An empty configuration folder for the command lines.
    pub config: tempfile::TempDir,
}

/// Fixtures that every column has loaded before its first case, as `kkt/NAME`.
pub const PRELOADED: [&str; 4] = ["box", "hello", "conf", "layers"];

fn peers_root() -> PathBuf {
    std::env::var_os("PEERS_ROOT").map_or_else(|| "/srv/peers".into(), PathBuf::from)
}

/// Why Docker's daemon cannot be asked, or nothing.
pub fn dockerd_absence() -> Option<String> {
    if std::env::var_os("KEKKAI_TEST_NO_DOCKERD").is_some() {
        return Some("KEKKAI_TEST_NO_DOCKERD is set".into());
    }
    if shared_folder("peers").is_none() {
        return Some("there is no ../shared/peers beside the repository".into());
    }
    let ready = peers_root().join(".ready");
    (!ready.exists()).then(|| {
        format!(
            "{} is missing: ../shared/peers/setup has not run",
            ready.display()
        )
    })
}

/// Why the docker command line cannot be used, or nothing.
pub fn docker_cli_absence() -> Option<String> {
    let found = Command::new("docker")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    (!found).then(|| "no docker command line: apt-get install docker-cli (or docker.io)".into())
}

impl World {
    /// Brings the daemon up and puts the fixtures in.
    pub fn start(target: Target) -> Result<Self> {
        let fixtures = Fixtures::build()?;
        let registry = Registry::start(&fixtures)?;
        let config = tempfile::tempdir()?;
        let (socket, share, daemon) = match target {
            Target::Dockerd => {
                let script = shared_folder("peers")
                    .context("no ../shared/peers")?
                    .join("dockerd");
                // Its daemon must not hold this program's output open.
                let status = Command::new(script)
                    .arg("start")
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .status()?;
                if !status.success() {
                    bail!("the peers' dockerd did not come up");
                }
                let root = peers_root();
                let folder = |suffix: &str| PathBuf::from(format!("{}{suffix}", root.display()));
                let share = folder(".share").join(format!("kkt-{}", std::process::id()));
                std::fs::create_dir_all(&share)?;
                (folder(".run").join("docker.sock"), share, None)
            }
            Target::Kekkai => {
                let args = vec![
                    "--registry-mirror".into(),
                    format!("http://{}", registry.host()),
                ];
                let daemon = Daemon::start(Options {
                    args,
                    ..Options::default()
                })?;
                (
                    daemon.socket.clone(),
                    daemon.base.join("share"),
                    Some(Mutex::new(daemon)),
                )
            }
        };
        let world = Self {
            target,
            socket,
            share,
            registry,
            fixtures,
            daemon,
            config,
        };
        world.preload()?;
        Ok(world)
    }

    fn preload(&self) -> Result<()> {
        // By the API: a column must not depend on the command line it is about to judge.
        for name in PRELOADED {
            let path = format!(
                "/images/create?fromImage={}/plain/{name}&tag=latest",
                self.registry.host()
            );
            let answer = crate::http::request(&self.socket, "POST", &path, None)?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            if answer.status != 200 || text.contains("errorDetail") {
                bail!(
                    "pulling the fixture {name}: {} {text}\n{}",
                    answer.status,
                    self.log_tail()
                );
            }
            let pulled = format!("{}/plain/{name}:latest", self.registry.host());
            let path = format!("/images/{pulled}/tag?repo=kkt/{name}&tag=latest");
            let answer = crate::http::request(&self.socket, "POST", &path, None)?;
            if answer.status != 201 {
                bail!(
                    "tagging the fixture {name}: {} {}",
                    answer.status,
                    answer.message()
                );
            }
            drop(crate::http::request(
                &self.socket,
                "DELETE",
                &format!("/images/{pulled}"),
                None,
            )?);
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let Some(daemon) = &self.daemon else {
            return String::new();
        };
        daemon.lock().map(|d| d.log_tail(20)).unwrap_or_default()
    }

    /// A command line pointed at this world, without arguments yet.
    pub fn command(&self, cli: Cli) -> Result<Command> {
        let host = format!("unix://{}", self.socket.display());
        let mut command = match cli {
            Cli::Docker => Command::new("docker"),
            Cli::Kekkai => Command::new(binary("kekkai")?),
        };
        command
            .env_remove("DOCKER_CONTEXT")
            .env_remove("KEKKAI_HOST")
            .env_remove("DOCKER_HOST");
        command.env(
            if cli == Cli::Docker {
                "DOCKER_HOST"
            } else {
                "KEKKAI_HOST"
            },
            host,
        );
        command
            .env("DOCKER_CONFIG", self.config.path())
            .env("HOME", self.config.path());
        command.env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
        Ok(command)
    }

    /// Takes everything down; gives what was left over that should not be.
    pub fn tear_down(self) -> Vec<String> {
        let ask = |method: &str, path: &str| crate::http::request(&self.socket, method, path, None);
        if let Some(daemon) = &self.daemon {
            let mut left = Vec::new();
            let mut daemon = daemon
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let listed = ask("GET", "/containers/json?all=1")
                .map(|a| a.json())
                .unwrap_or_default();
            for container in listed.as_array().into_iter().flatten() {
                let id = container["Id"].as_str().unwrap_or_default();
                left.push(format!(
                    "container {} {}",
                    container["Names"], container["Status"]
                ));
                drop(ask("DELETE", &format!("/containers/{id}?force=1&v=1")));
            }
            let volumes = ask("GET", "/volumes").map(|a| a.json()).unwrap_or_default();
            for volume in volumes["Volumes"].as_array().into_iter().flatten() {
                left.push(format!("volume {}", volume["Name"]));
            }
            left.extend(daemon.leftovers_when_empty());
            match daemon.tear_down() {
                Ok(more) => left.extend(more),
                Err(error) => left.push(format!("tear-down: {error:#}")),
            }
            return left;
        }
        for name in PRELOADED {
            drop(ask("DELETE", &format!("/images/kkt/{name}:latest")));
        }
        // What failed cases pulled.
        let images = ask("GET", "/images/json?digests=1")
            .map(|a| a.json())
            .unwrap_or_default();
        let hosts = [Door::Open, Door::Basic, Door::Token, Door::Anonymous]
            .map(|d| self.registry.host_of(d));
        for image in images.as_array().into_iter().flatten() {
            let names = [&image["RepoTags"], &image["RepoDigests"]]
                .into_iter()
                .filter_map(|v| v.as_array())
                .flatten();
            for name in names
                .filter_map(|n| n.as_str())
                .filter(|n| hosts.iter().any(|h| n.starts_with(h.as_str())))
            {
                drop(ask("DELETE", &format!("/images/{name}")));
            }
        }
        drop(std::fs::remove_dir_all(&self.share));
        Vec::new()
    }

    /// Whether the real images of `../shared/images` are served by this world's registry.
    pub fn has_real_images(&self) -> bool {
        self.registry.has_real_images
    }

    /// The folder both sides see.
    pub fn share(&self) -> &Path {
        &self.share
    }
}
