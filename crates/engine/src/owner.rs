//! The task that owns one container: it alone moves the state, one command after the other.
//!
//! ```text
//!  Engine ──Command──▶ queue ──▶ Owner::run ──▶ start · signal · exit · remove
//!  keeper ──Exited───▶   │            │
//!                        └ deadlines: SIGKILL after a stop, the restart after a pause
//! ```
//!
//! Waiting for a process to end is never done inside a command: replies are kept and answered by the exit.

use std::sync::Arc;
use std::time::Duration;

use kekkai_keeper::protocol::{Exit, Request, Target};
use kekkai_metadata::Durability;
use kekkai_types::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::EngineError;
use crate::container::Container;
use crate::failpoint;
use crate::inner::Inner;
use crate::model::{Lifecycle, Move, RemoveOptions};

/// Where the outcome of a command goes.
pub(crate) type Reply = oneshot::Sender<Result<(), EngineError>>;

/// What an owner is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Start it. Legal when created, exited or restarting.
    Start { reply: Reply },
    /// Ask it to stop, kill it at the deadline; with `restart`, start it again. Legal always: what is stopped answers
    /// `NotModified`, or starts.
    Stop {
        signal: Option<Signal>,
        /// `None` waits for ever.
        timeout: Option<Duration>,
        restart: bool,
        reply: Reply,
    },
    /// Send a signal. Legal when it runs; ends a pending restart.
    Kill {
        signal: Signal,
        /// How the client called it, for messages.
        called: String,
        reply: Reply,
    },
    /// Freeze it. Legal when it runs.
    Pause { reply: Reply },
    /// Thaw it. Legal when it is frozen.
    Unpause { reply: Reply },
    /// Remove it. Legal when it does not run, or with `force`.
    Remove {
        options: RemoveOptions,
        reply: Reply,
    },
    /// Its process is gone: the keeper says so.
    Exited(Exit),
    /// Its policy wants it to run after the engine has started.
    Boot,
    /// The engine closes; the container goes on without an owner until the next daemon.
    Close,
}

/// What is left of an earlier run when an owner begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cleanup {
    /// Nothing.
    None,
    /// Nothing; it was just created, and what a start needs can be made ahead.
    Prepare,
    /// It ended while no daemon was there: what follows an exit is still to be done.
    AfterExit,
    /// It is to be removed.
    Remove,
}

#[derive(Debug, Clone, Copy)]
enum Deadline {
    /// The stop signal was not enough.
    Kill(Instant),
    /// The pause before a restart is over.
    Restart(Instant),
    /// A cgroup that was made for a start that does not come goes again: thousands of idle ones are a burden.
    Unprepare(Instant),
}

/// How long a created container's cgroup waits for the start.
const PREPARED: Duration = Duration::from_secs(3);

/// The state that only the owner sees.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) inner: Arc<Inner>,
    pub(crate) container: Arc<Container>,
    deadline: Option<Deadline>,
    /// Answered when the process has ended, as it was asked to.
    pub(crate) stops: Vec<Reply>,
    /// Answered when the process has ended.
    pub(crate) kills: Vec<Reply>,
    /// Answered when it runs again.
    pub(crate) restarts: Vec<Reply>,
    /// Answered when it is removed, which follows the end.
    pub(crate) removals: Vec<(RemoveOptions, Reply)>,
    /// Resolves when the cgroup of the last run is gone.
    pub(crate) cgroup_gone: Option<oneshot::Receiver<()>>,
    finished: bool,
}

/// Starts the owner task of a container.
pub(crate) fn spawn(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    queue: mpsc::UnboundedReceiver<Command>,
    cleanup: Cleanup,
) {
    let owner = Owner {
        inner: Arc::clone(inner),
        container: Arc::clone(container),
        deadline: None,
        stops: Vec::new(),
        kills: Vec::new(),
        restarts: Vec::new(),
        removals: Vec::new(),
        cgroup_gone: None,
        finished: false,
    };
    tokio::spawn(owner.run(queue, cleanup));
}

impl Owner {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Command>, cleanup: Cleanup) {
        // The big futures are boxed: a container that idles should cost little.
        match cleanup {
            Cleanup::None => {}
            Cleanup::Prepare => self.prepare().await,
            Cleanup::AfterExit => Box::pin(self.finish_exit()).await,
            Cleanup::Remove => Box::pin(self.remove_now(true)).await,
        }
        while !self.finished {
            let deadline = match self.deadline {
                Some(Deadline::Kill(at) | Deadline::Restart(at) | Deadline::Unprepare(at)) => {
                    Some(at)
                }
                None => None,
            };
            let command = tokio::select! {
                biased;
                command = queue.recv() => command,
                () = sleep_until(deadline) => {
                    Box::pin(self.deadline_passed()).await;
                    continue;
                }
            };
            match command {
                Some(Command::Close) | None => return,
                Some(command) => Box::pin(self.execute(command)).await,
            }
        }
        // Whoever still waits in the queue learns that it is gone.
        queue.close();
        while let Ok(command) = queue.try_recv() {
            self.refuse(command);
        }
    }

    fn refuse(&self, command: Command) {
        let gone = || EngineError::NoSuchContainer(self.container.id.to_string());
        match command {
            Command::Start { reply }
            | Command::Stop { reply, .. }
            | Command::Kill { reply, .. }
            | Command::Pause { reply }
            | Command::Unpause { reply }
            | Command::Remove { reply, .. } => drop(reply.send(Err(gone()))),
            Command::Exited(_) | Command::Boot | Command::Close => {}
        }
    }

    async fn execute(&mut self, command: Command) {
        match command {
            Command::Start { reply } => {
                self.container.lock().history = Default::default();
                let outcome = self.start_checked().await;
                self.answer(reply, outcome);
            }
            Command::Stop {
                signal,
                timeout,
                restart,
                reply,
            } => self.stop(signal, timeout, restart, reply).await,
            Command::Kill {
                signal,
                called,
                reply,
            } => self.kill(signal, &called, reply).await,
            Command::Pause { reply } => {
                let outcome = self.pause().await;
                self.answer(reply, outcome);
            }
            Command::Unpause { reply } => {
                let outcome = self.unpause().await;
                self.answer(reply, outcome);
            }
            Command::Remove { options, reply } => self.remove(options, reply).await,
            Command::Exited(exit) => self.exited(exit).await,
            Command::Close => self.finish(),
            Command::Boot => {
                if let Err(error) = self.start_checked().await {
                    tracing::warn!(container = %self.container.id, %error, "starting by restart policy");
                }
            }
        }
    }

    /// A client that has gone away does not need its answer.
    fn answer(&self, reply: Reply, outcome: Result<(), EngineError>) {
        drop(reply.send(outcome));
    }

    /// The owner ends after the present command.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }

    pub(crate) fn restart_after(&mut self, pause: Duration) {
        self.deadline = Some(Deadline::Restart(Instant::now() + pause));
    }

    pub(crate) fn clear_deadline(&mut self) {
        self.deadline = None;
    }

    async fn deadline_passed(&mut self) {
        match self.deadline.take() {
            Some(Deadline::Kill(_)) => {
                self.signal(Signal::KILL).await;
                self.thaw_quietly().await;
            }
            Some(Deadline::Restart(_)) => {
                if let Err(error) = self.start_checked().await {
                    tracing::info!(container = %self.container.id, %error, "restart by policy failed");
                }
            }
            Some(Deadline::Unprepare(_)) => self.unprepare(),
            None => {}
        }
    }

    /// Makes the cgroup ahead of the start, which follows soon in a `run`. It saves some 0.4 ms there.
    async fn prepare(&mut self) {
        let Some(bytes) = self.container.lock().plan.clone() else {
            return;
        };
        let (inner, container) = (Arc::clone(&self.inner), Arc::clone(&self.container));
        let prepared = tokio::task::spawn_blocking(move || {
            let written = crate::files::prepare(&inner, &container, &container.spec()).is_ok();
            container.lock().files_prepared = written;
            let mut plan = kekkai_runtime::ContainerPlan::from_bytes(&bytes).ok()?;
            kekkai_runtime::prepare_cgroup(&plan).ok()?;
            plan.set_cgroup_prepared(true);
            plan.to_bytes().ok()
        })
        .await;
        // What cannot be made ahead fails again, and is told, at the start.
        if let Ok(Some(bytes)) = prepared {
            let mut shared = self.container.lock();
            shared.plan = Some(Arc::from(bytes));
            shared.cgroup_prepared = true;
            drop(shared);
            self.deadline = Some(Deadline::Unprepare(Instant::now() + PREPARED));
        }
    }

    /// Takes a cgroup away that was made ahead.
    pub(crate) fn unprepare(&mut self) {
        let plan = {
            let mut shared = self.container.lock();
            // The resolvers may change until then.
            shared.files_prepared = false;
            if !std::mem::take(&mut shared.cgroup_prepared) {
                return;
            }
            shared.plan.clone()
        };
        let patched = plan.and_then(|bytes| {
            let mut plan = kekkai_runtime::ContainerPlan::from_bytes(&bytes).ok()?;
            plan.set_cgroup_prepared(false);
            plan.to_bytes().ok()
        });
        self.container.lock().plan = patched.map(Arc::from);
        let path = self
            .inner
            .cgroup_path(self.container.id, &self.container.spec());
        let (done, gone) = oneshot::channel();
        self.inner.janitor.add(crate::janitor::Chore::Cgroup {
            path,
            done: Some(done),
        });
        self.cgroup_gone = Some(gone);
    }

    /// Starts if that is legal now.
    async fn start_checked(&mut self) -> Result<(), EngineError> {
        let conflict = |text: &str| Err(EngineError::Conflict(text.to_owned()));
        match self.container.lifecycle() {
            Lifecycle::Running(_) | Lifecycle::Stopping(_) | Lifecycle::Starting => {
                return Err(EngineError::NotModified);
            }
            Lifecycle::Paused(_) => {
                return conflict("cannot start a paused container, try unpause instead");
            }
            Lifecycle::Removing | Lifecycle::Dead => {
                return conflict("container is marked for removal and cannot be started");
            }
            Lifecycle::Created | Lifecycle::Exited(_) | Lifecycle::Restarting(_) => {}
        }
        self.clear_deadline();
        self.start().await
    }

    async fn stop(
        &mut self,
        signal: Option<Signal>,
        timeout: Option<Duration>,
        restart: bool,
        reply: Reply,
    ) {
        match self.container.lifecycle() {
            Lifecycle::Running(_) | Lifecycle::Paused(_) | Lifecycle::Stopping(_) => {}
            _ if restart => {
                self.clear_deadline();
                let outcome = self.start_checked().await;
                if outcome.is_ok() {
                    self.inner.container_event(&self.container, "restart", &[]);
                }
                return self.answer(reply, outcome);
            }
            Lifecycle::Restarting(_) => {
                self.cancel_restart();
                return self.answer(reply, Ok(()));
            }
            _ => return self.answer(reply, Err(EngineError::NotModified)),
        }
        self.container.lock().asked_to_stop = true;
        if restart {
            self.restarts.push(reply);
        } else {
            self.stops.push(reply);
        }
        let was_paused = matches!(self.container.lifecycle(), Lifecycle::Paused(_));
        let signal = signal.unwrap_or_else(|| self.stop_signal());
        if let Err(error) = self.container.transition(Move::Stop) {
            tracing::error!(%error, "stopping");
        }
        self.deadline = timeout.map(|timeout| Deadline::Kill(Instant::now() + timeout));
        self.signal(signal).await;
        if was_paused {
            self.thaw_quietly().await;
        }
        if let Err(error) = failpoint::check(failpoint::STOP_SIGNALLED) {
            tracing::warn!(%error, "after the stop signal");
        }
    }

    /// The container's stop signal.
    fn stop_signal(&self) -> Signal {
        let spec = self.container.spec();
        spec.config
            .stop_signal
            .as_deref()
            .and_then(|text| text.parse().ok())
            .unwrap_or(Signal::TERM)
    }

    pub(crate) fn cancel_restart(&mut self) {
        self.clear_deadline();
        let moved = {
            let mut shared = self.container.lock();
            shared.asked_to_stop = true;
            shared.transition(Move::CancelRestart)
        };
        if let Err(error) = moved {
            tracing::error!(%error, "cancelling a restart");
        }
        drop(
            self.container
                .persist(&self.inner.database, Durability::Process),
        );
    }

    async fn kill(&mut self, signal: Signal, called: &str, reply: Reply) {
        let lifecycle = self.container.lifecycle();
        let id = self.container.id;
        match lifecycle {
            Lifecycle::Restarting(_) => {
                self.cancel_restart();
                return self.answer(reply, Ok(()));
            }
            Lifecycle::Running(_) | Lifecycle::Paused(_) | Lifecycle::Stopping(_) => {}
            _ => {
                let text =
                    format!("cannot kill container: {called}: container {id} is not running");
                return self.answer(reply, Err(EngineError::Conflict(text)));
            }
        }
        let own_stop_signal = self.container.spec().config.stop_signal.is_some();
        // As dockerd: without a stop signal of its own, any signal counts as asking it to end.
        let asks_to_end =
            signal == Signal::KILL || !own_stop_signal || signal == self.stop_signal();
        if asks_to_end {
            self.container.lock().asked_to_stop = true;
        }
        let sent = self.signal(signal).await;
        if asks_to_end && matches!(lifecycle, Lifecycle::Paused(_)) {
            self.thaw_quietly().await;
        }
        if sent && signal == Signal::KILL {
            self.kills.push(reply);
        } else {
            self.answer(reply, Ok(()));
        }
    }

    /// Sends a signal through the keeper. What has ended meanwhile tells so by its exit.
    pub(crate) async fn signal(&self, signal: Signal) -> bool {
        let target = Target::Container(self.container.id);
        let extra = [("signal", signal.number().to_string())];
        match self
            .inner
            .ask(Request::Signal { target, signal }, Vec::new())
            .await
        {
            Ok(_) => {
                self.inner.container_event(&self.container, "kill", &extra);
                true
            }
            Err(error) => {
                tracing::debug!(container = %self.container.id, %error, "signalling");
                self.container.lifecycle().is_running()
            }
        }
    }

    async fn pause(&mut self) -> Result<(), EngineError> {
        let id = self.container.id;
        match self.container.lifecycle() {
            Lifecycle::Running(_) => {}
            Lifecycle::Paused(_) => {
                return Err(EngineError::Conflict(format!(
                    "Container {id} is already paused"
                )));
            }
            Lifecycle::Restarting(_) => {
                return Err(EngineError::Conflict(format!(
                    "Container {id} is restarting, wait until the container is running"
                )));
            }
            _ => {
                return Err(EngineError::Conflict(format!(
                    "container {id} is not running"
                )));
            }
        }
        self.freezer(true).await?;
        self.container
            .transition(Move::Pause)
            .map_err(|error| EngineError::Internal(error.to_string()))?;
        drop(
            self.container
                .persist(&self.inner.database, Durability::Process),
        );
        self.inner.container_event(&self.container, "pause", &[]);
        Ok(())
    }

    async fn unpause(&mut self) -> Result<(), EngineError> {
        let id = self.container.id;
        if !matches!(self.container.lifecycle(), Lifecycle::Paused(_)) {
            return Err(EngineError::System(format!("Container {id} is not paused")));
        }
        self.freezer(false).await?;
        self.container
            .transition(Move::Unpause)
            .map_err(|error| EngineError::Internal(error.to_string()))?;
        drop(
            self.container
                .persist(&self.inner.database, Durability::Process),
        );
        self.inner.container_event(&self.container, "unpause", &[]);
        Ok(())
    }

    async fn thaw_quietly(&self) {
        if let Err(error) = self.freezer(false).await {
            tracing::debug!(%error, "thawing");
        }
    }

    /// Freezes or thaws the container's cgroup.
    async fn freezer(&self, freeze: bool) -> Result<(), EngineError> {
        let path = self
            .inner
            .cgroup_path(self.container.id, &self.container.spec());
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || {
            let cgroup = kekkai_cgroups::Cgroup::new(&inner.cgroups, &path)?;
            if freeze {
                cgroup.freeze()
            } else {
                cgroup.thaw()
            }
        })
        .await
        .map_err(|error| EngineError::Internal(error.to_string()))?
        .map_err(|error| EngineError::System(error.to_string()))
    }

    async fn remove(&mut self, options: RemoveOptions, reply: Reply) {
        if let Some(conflict) = self
            .container
            .removal_conflict(&self.container.name(), options)
        {
            return self.answer(reply, Err(conflict));
        }
        if self.container.lifecycle().is_running() {
            self.container.lock().asked_to_stop = true;
            self.removals.push((options, reply));
            self.signal(Signal::KILL).await;
            self.thaw_quietly().await;
            return;
        }
        if matches!(self.container.lifecycle(), Lifecycle::Restarting(_)) {
            self.cancel_restart();
        }
        self.removals.push((options, reply));
        self.remove_now(options.volumes).await;
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
