//! The two engines under measurement: the peers' dockerd behind the docker CLI, a Kekkai daemon of our own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use kekkai_tests::daemon::{Daemon, Options as DaemonOptions, binary};
use kekkai_tests::{Registry, http};

/// An engine and how it is spoken to.
#[derive(Debug)]
pub(crate) struct Engine {
    /// `docker` or `kekkai`.
    pub(crate) name: &'static str,
    /// Its API socket.
    pub(crate) socket: PathBuf,
    /// Our daemon, where it is ours.
    pub(crate) daemon: Option<Daemon>,
}

/// What containers are made of: alpine where `../shared/images` is there, else the busybox fixture.
pub(crate) const IMAGE: &str = "kkbench/alpine";

impl Engine {
    /// The peers' dockerd.
    pub(crate) fn docker(registry: &Registry) -> Result<Self> {
        if let Some(why) =
            kekkai_tests::world::dockerd_absence().or_else(kekkai_tests::world::docker_cli_absence)
        {
            bail!("no Docker to measure against: {why} (--no-docker measures Kekkai alone)");
        }
        let script = kekkai_tests::registry::shared_folder("peers")
            .context("no ../shared/peers")?
            .join("dockerd");
        let status = Command::new(script)
            .arg("start")
            .stdout(std::process::Stdio::null())
            .status()?;
        if !status.success() {
            bail!("the peers' dockerd did not come up");
        }
        let root = std::env::var("PEERS_ROOT").unwrap_or_else(|_| "/srv/peers".into());
        let engine = Self {
            name: "docker",
            socket: format!("{root}.run/docker.sock").into(),
            daemon: None,
        };
        engine.provide(registry)?;
        Ok(engine)
    }

    /// A Kekkai daemon with everything at its defaults but the roots. Its data root is on the machine's disk, as an
    /// installed one's is; Docker's is too.
    pub(crate) fn kekkai(registry: &Registry) -> Result<Self> {
        let mirror = format!("http://{}", registry.host());
        let args = vec![
            "--registry-mirror".into(),
            mirror,
            "--log-level".into(),
            "info".into(),
        ];
        let disk = Some(PathBuf::from(format!(
            "/var/tmp/kekkai-bench-{}",
            std::process::id()
        )));
        let daemon = Daemon::start(DaemonOptions {
            args,
            disk,
            ..DaemonOptions::default()
        })?;
        let engine = Self {
            name: "kekkai",
            socket: daemon.socket.clone(),
            daemon: Some(daemon),
        };
        engine.provide(registry)?;
        Ok(engine)
    }

    fn provide(&self, registry: &Registry) -> Result<()> {
        let (name, tag) = if registry.has_real_images {
            ("library/alpine", "3.20")
        } else {
            ("plain/box", "latest")
        };
        let pulled = format!("{}/{name}:{tag}", registry.host());
        self.ask(
            "POST",
            &format!(
                "/images/create?fromImage={}/{name}&tag={tag}",
                registry.host()
            ),
            200,
        )?;
        self.ask(
            "POST",
            &format!("/images/{pulled}/tag?repo={IMAGE}&tag=latest"),
            201,
        )?;
        drop(http::request(
            &self.socket,
            "DELETE",
            &format!("/images/{pulled}"),
            None,
        ));
        Ok(())
    }

    /// One request that must answer this status.
    pub(crate) fn ask(&self, method: &str, path: &str, status: u16) -> Result<http::Answer> {
        let answer = http::request(&self.socket, method, path, None)?;
        if answer.status != status {
            bail!(
                "{}: {method} {path}: {} {}",
                self.name,
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
        }
        Ok(answer)
    }

    /// The engine's own command line with these words.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let host = format!("unix://{}", self.socket.display());
        let mut command = if self.daemon.is_some() {
            let mut command = Command::new(binary("kekkai").unwrap_or_else(|_| "kekkai".into()));
            command.env("KEKKAI_HOST", host);
            command
        } else {
            let mut command = Command::new("docker");
            command.env("DOCKER_HOST", host);
            command
        };
        command
            .env("HOME", "/nonexistent")
            .env("DOCKER_CONFIG", "/nonexistent")
            .args(words);
        command
    }

    /// Removes every container whose name begins with `kkbench`.
    pub(crate) fn sweep(&self) -> Result<()> {
        let filters = "%7B%22name%22%3A%5B%22kkbench%22%5D%7D";
        let listed = self
            .ask(
                "GET",
                &format!("/containers/json?all=1&filters={filters}"),
                200,
            )?
            .json();
        let ids: Vec<String> = listed
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| Some(c["Id"].as_str()?.to_owned()))
            .collect();
        // Eight at a time: Docker takes 0.3 s for each.
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let ids = &ids;
                scope.spawn(move || {
                    for id in ids.iter().skip(worker).step_by(8) {
                        drop(http::request(
                            &self.socket,
                            "DELETE",
                            &format!("/containers/{id}?force=1&v=1"),
                            None,
                        ));
                    }
                });
            }
        });
        Ok(())
    }

    /// Pids of every process that is the engine's own: daemon, keeper, guardian, launchers; dockerd, containerd, shims.
    pub(crate) fn processes(&self) -> Vec<u32> {
        if let Some(daemon) = &self.daemon {
            let mut all: Vec<u32> = daemon.helpers().into_iter().map(|(pid, _)| pid).collect();
            all.extend(daemon.pid());
            return all;
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<u32>().ok())
            else {
                continue;
            };
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let words = ["dockerd", "containerd", "containerd-shim", "docker-proxy"];
            if words.iter().any(|w| name.trim_end().starts_with(w)) {
                found.push(pid);
            }
        }
        found
    }

    /// Version words for the report.
    pub(crate) fn version(&self) -> String {
        let server = http::request(&self.socket, "GET", "/version", None)
            .map(|a| a.json())
            .unwrap_or_default();
        let cli = self
            .command(&["--version"])
            .output()
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
        format!(
            "{} {} (command line: {})",
            self.name,
            server["Version"].as_str().unwrap_or("?"),
            cli.unwrap_or_default()
        )
    }
}
