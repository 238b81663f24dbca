//! The daemon at work: sockets, engine, signals, leaving.
//!
//! ```text
//! claim roots ─▶ listen ─▶ open the engine ─▶ serve, READY=1 ─▶ SIGTERM, or a system stop ─▶ STOPPING=1, close
//! ```
//!
//! Clients may connect before the engine is open; they are answered when it is.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use kekkai_api::{Api, ApiSettings, Listener, Server};
use kekkai_engine::Engine;
use kekkai_engine::model::{Event, EventKind};
use sd_notify::NotifyState;
use serde_json::{Map, Value};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::directives::{Source, merge};
use super::instance::Instance;
use super::logging::{self, LevelHandle};
use super::settings::{Host, Settings};
use crate::build_id;

/// Threads that run the API and the owner tasks. Two suffice: what blocks runs elsewhere.
const WORKERS: usize = 2;

/// Most threads for blocking work.
const BLOCKING_THREADS: usize = 64;

/// Time after which an idle thread for blocking work ends and gives its memory back.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Stack of a thread. Only what is touched costs memory.
const STACK: usize = 2 << 20;

/// Time that answers in progress have when the daemon leaves.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

/// Serves until a signal or a client ends it.
pub(super) fn run(
    settings: Settings,
    flags: &Map<String, Value>,
    file: &Source,
    inherited: Vec<OwnedFd>,
) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the daemon needs to run as root");
    }
    kekkai_sys::memory::tune(i32::try_from(WORKERS).unwrap_or(1));
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    raise_descriptor_limit();
    let instance = Instance::claim(
        &settings.engine.data_root,
        &settings.engine.exec_root,
        &settings.pidfile,
    )?;
    let level = logging::start(&settings.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .thread_stack_size(STACK)
        .thread_name("kekkai")
        .enable_all()
        .build()
        .context("starting the threads")?;
    let outcome = runtime.block_on(
        Daemon {
            settings,
            flags,
            file,
            level,
        }
        .run(inherited),
    );
    instance.release();
    // Threads that still wait for a disk are left behind.
    runtime.shutdown_timeout(LAST_ANSWERS);
    outcome
}

/// Each client and each container takes descriptors: the hard limit is ours to use.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused the old limit holds.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

struct Daemon<'a> {
    settings: Settings,
    flags: &'a Map<String, Value>,
    file: &'a Source,
    level: LevelHandle,
}

/// What makes the daemon leave, in either way with the containers running.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Daemon<'_> {
    async fn run(self, inherited: Vec<OwnedFd>) -> anyhow::Result<()> {
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        let mut hangup = signal(SignalKind::hangup())?;
        let listeners = self.listen(inherited)?;
        let (stop_system, mut system_stopped) = mpsc::channel(1);
        let opened = tokio::select! {
            opened = Engine::open(self.settings.engine.clone()) => opened.context("opening the engine"),
            () = signals.leave() => Err(anyhow::anyhow!("told to leave before the engine was open")),
        };
        let engine = opened.inspect_err(|_| self.remove_sockets())?;
        let server = Server::new(Api::new(engine.clone(), self.api_settings(stop_system)));
        let (stop, stopped) = watch::channel(false);
        for listener in listeners {
            tracing::info!(address = listener.address(), "API listens");
            let server = server.clone();
            let stopped = stopped.clone();
            tokio::spawn(async move { server.serve(listener, stopped).await });
        }
        notify(&[NotifyState::Ready]);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "daemon is ready");
        kekkai_sys::memory::trim();
        loop {
            tokio::select! {
                _ = signals.leave() => break,
                _ = system_stopped.recv() => break,
                _ = hangup.recv() => self.reload(&engine),
            }
        }
        notify(&[NotifyState::Stopping]);
        tracing::info!("daemon leaves");
        // Nobody listens any more is no reason to stay.
        let _ = stop.send(true);
        tokio::select! {
            () = engine.close() => {}
            _ = signals.leave() => tracing::warn!("told to leave a second time: not waiting for the engine"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.remove_sockets();
        Ok(())
    }

    fn api_settings(&self, stop_system: mpsc::Sender<()>) -> ApiSettings {
        ApiSettings {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build_id: build_id::current(),
            debug: self.settings.log.level >= tracing::level_filters::LevelFilter::DEBUG,
            spill_directory: self.settings.engine.data_root.clone(),
            stop_system,
        }
    }

    fn listen(&self, inherited: Vec<OwnedFd>) -> anyhow::Result<Vec<Listener>> {
        let tls = self
            .settings
            .tls
            .as_ref()
            .map(kekkai_api::server_config)
            .transpose()?;
        let mut inherited = Some(inherited);
        let mut listeners = Vec::new();
        for host in &self.settings.hosts {
            match host {
                Host::Unix(path) => listeners.push(Listener::unix(path, self.socket_group()?)?),
                Host::Tcp(address) => {
                    if tls.is_none() {
                        tracing::warn!(%address, "the API is open without TLS: whoever reaches it controls this host");
                    }
                    listeners.push(Listener::tcp(*address, tls.clone())?);
                }
                Host::Inherited => {
                    let sockets = inherited.take().unwrap_or_default();
                    if sockets.is_empty() {
                        bail!(
                            "no sockets found via socket activation: make sure the service was started by systemd"
                        );
                    }
                    for socket in sockets {
                        listeners.push(Listener::inherited(socket, tls.clone())?);
                    }
                }
            }
        }
        Ok(listeners)
    }

    /// The group of unix sockets: the one that was named must exist, the default one may.
    fn socket_group(&self) -> anyhow::Result<Option<u32>> {
        match &self.settings.group {
            Some(name) => Ok(Some(
                group_id(name).with_context(|| format!("group {name} not found"))?,
            )),
            None => Ok(group_id("kekkai")),
        }
    }

    fn remove_sockets(&self) {
        for host in &self.settings.hosts {
            if let Host::Unix(path) = host {
                // Somebody may have been quicker.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Reads the file again. What can be changed while running is changed, the rest is told.
    fn reload(&self, engine: &Engine) {
        notify(&[NotifyState::Reloading]);
        match merge(self.flags, self.file).and_then(Settings::read) {
            Ok(new) => {
                if let Err(error) = self.level.modify(|level| *level = new.log.level) {
                    tracing::warn!(%error, "cannot change the log level");
                }
                tracing::info!(
                    "configuration was read again: the log level is in force, all else from the next start on"
                );
                engine.publish(Event {
                    kind: EventKind::Daemon,
                    action: "reload".into(),
                    actor: daemon_name().into(),
                    attributes: vec![("name".to_owned(), daemon_name())].into(),
                    time: kekkai_types::Timestamp::now(),
                });
            }
            Err(error) => tracing::error!("configuration is not reloaded: {error:#}"),
        }
        notify(&[NotifyState::Ready]);
    }
}

impl Signals {
    async fn leave(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn daemon_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Tells systemd, where it listens.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}

/// A group's id by its name or number, from the host's own file: no name service is linked in.
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string(PathBuf::from("/etc/group")).unwrap_or_default();
    let of = |line: &str| {
        let mut parts = line.split(':');
        (parts.next() == Some(name)).then(|| parts.nth(1)?.parse().ok())?
    };
    groups.lines().find_map(of).or_else(|| name.parse().ok())
}
