//! The engine: every operation that the API offers, on one cheap handle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kekkai_image::{ImageService, ImageUser};
use kekkai_keeper::protocol::{Request, Target, TerminalSize};
use kekkai_metadata::Durability;
use kekkai_types::{ContainerId, ContainerName, Digest, ExecId, Signal};
use tokio::sync::oneshot;

use crate::attach::keeper_error;
use crate::config::EngineConfig;
use crate::container::{Container, Waiter};
use crate::error::EngineError;
use crate::inner::Inner;
use crate::model::{
    ArchivePut, ArchiveStat, AttachOptions, ByteStream, Change, ChangeKind, ContainerView,
    CreateContainer, Created, EngineInfo, Event, EventKind, EventsRequest, ExecCreate, ExecStart,
    ExecView, Filters, Lifecycle, ListContainers, LogOptions, NetworkView, PruneReport,
    RemoveOptions, StopOptions, TopResult, UpdateContainer, VersionInfo, VolumeCreate, VolumeView,
    WaitCondition, WaitResult,
};
use crate::owner::{Command, Reply};
use crate::streams::{AttachStreams, OutputStream};
use crate::{attach, create, exec, list, open, system, top, transfer, update};

/// A running engine. Cloning is cheap; the last clone closes the database.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

fn internal(error: &tokio::task::JoinError) -> EngineError {
    EngineError::Internal(error.to_string())
}

/// A subscription to a container's end.
#[derive(Debug)]
pub struct WaitHandle {
    receiver: oneshot::Receiver<WaitResult>,
}

impl WaitHandle {
    /// Resolves when the condition holds.
    ///
    /// # Errors
    /// When the engine closes first.
    pub async fn finished(self) -> Result<WaitResult, EngineError> {
        self.receiver
            .await
            .map_err(|_| EngineError::Unavailable("the engine is shutting down".to_owned()))
    }
}

impl Engine {
    /// Opens the engine: loads its state, connects to (or starts) the keeper, recovers, applies restart policies.
    ///
    /// # Errors
    /// Whatever keeps it from working: the database, the keeper, the bridge.
    pub async fn open(config: EngineConfig) -> Result<Self, EngineError> {
        let inner = open::open(config).await?;
        Ok(Self { inner })
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// The images.
    pub fn images(&self) -> &ImageService {
        &self.inner.images
    }

    /// Which containers use an image.
    pub fn image_users(&self, image: &Digest) -> Vec<ImageUser> {
        self.inner.image_users(image)
    }

    /// Ends the daemon's part: what is queued is written; containers go on.
    pub async fn close(&self) {
        let inner = Arc::clone(&self.inner);
        let flushed = tokio::task::spawn_blocking(move || {
            if let Some(network) = &inner.network
                && let Err(error) = network.close()
            {
                tracing::warn!(%error, "closing the network");
            }
            // An empty job that waits for everything before it.
            inner.database.apply(Vec::new(), Durability::PowerCut)
        })
        .await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "closing the database");
        }
        for container in self.inner.directory.all() {
            // One that is being removed has no owner any more.
            let _ = container.send(Command::Close);
        }
    }

    /// Stops every container by its signal and time-out (system shutdown), then the keeper.
    ///
    /// # Errors
    /// When a container could not be stopped, or the keeper does not end.
    pub async fn stop_all(&self) -> Result<(), EngineError> {
        let mut waiting = Vec::new();
        for container in self.inner.directory.all() {
            let lifecycle = container.lifecycle();
            if !lifecycle.is_running() && !matches!(lifecycle, Lifecycle::Restarting(_)) {
                continue;
            }
            let asked = container.lock().asked_to_stop;
            let command = self.stop_command(&container, &StopOptions::default())?;
            let (reply, stopped) = oneshot::channel();
            container.send(command(reply))?;
            waiting.push((container, asked, stopped));
        }
        for (container, asked, stopped) in waiting {
            let stopped = async { stopped.await.unwrap_or(Err(EngineError::NotModified)) };
            match tokio::time::timeout(
                self.inner.config.shutdown_grace + Duration::from_secs(60),
                stopped,
            )
            .await
            {
                Ok(Ok(()) | Err(EngineError::NotModified)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(container = %container.id, %error, "stopping for shutdown")
                }
                Err(_) => tracing::warn!(container = %container.id, "did not stop in time"),
            }
            // The host goes down, not the user's wish: `unless-stopped` brings it back.
            container.lock().asked_to_stop = asked;
            drop(container.persist(&self.inner.database, Durability::Process));
        }
        self.close().await;
        self.inner
            .ask(Request::Shutdown, Vec::new())
            .await
            .map(drop)
            .map_err(|error| keeper_error(&error))
    }

    /// Sends a command to a container's owner and waits for the outcome.
    async fn ask(
        &self,
        container: &Container,
        command: impl FnOnce(Reply) -> Command,
    ) -> Result<(), EngineError> {
        let (reply, outcome) = oneshot::channel();
        let sent = container.send(command(reply));
        sent?;
        outcome
            .await
            .map_err(|_| EngineError::NoSuchContainer(container.id.to_string()))?
    }

    /// The container that `name` means: a name, an id, or a unique prefix of one.
    fn find(&self, name: &str) -> Result<Arc<Container>, EngineError> {
        self.inner.directory.find(name)
    }

    /// The id of the container that `name` means.
    ///
    /// # Errors
    /// None, or several.
    pub fn resolve(&self, name: &str) -> Result<ContainerId, EngineError> {
        Ok(self.find(name)?.id)
    }

    /// Creates a container. It exists, as durable as promised, when this returns.
    ///
    /// # Errors
    /// Anything wrong with the request, in dockerd's words; then nothing is left behind.
    pub async fn create(&self, request: CreateContainer) -> Result<Created, EngineError> {
        // A task of its own: a client that goes away must not leave half a container.
        let inner = Arc::clone(&self.inner);
        tokio::spawn(create::saga::create(inner, request))
            .await
            .map_err(|error| internal(&error))?
    }

    /// Starts a container. Its program has been executed when this returns.
    ///
    /// # Errors
    /// `NotModified` when it runs already; `StartFailed` with Docker's exit code.
    pub async fn start(&self, name: &str) -> Result<(), EngineError> {
        let container = self.find(name)?;
        self.ask(&container, |reply| Command::Start { reply }).await
    }

    fn stop_command(
        &self,
        container: &Container,
        options: &StopOptions,
    ) -> Result<impl FnOnce(Reply) -> Command + use<>, EngineError> {
        let spec = container.spec();
        let running = container.lifecycle().is_running();
        let signal = match options
            .signal
            .as_deref()
            .filter(|signal| !signal.is_empty())
        {
            // What does not run is not looked at any closer, as in dockerd.
            Some(text) if running => Some(
                text.parse::<Signal>()
                    .map_err(|_| EngineError::Invalid(format!("invalid signal: {text}")))?,
            ),
            _ => None,
        };
        let seconds = options
            .timeout
            .or(spec.config.stop_timeout)
            .unwrap_or(self.inner.config.default_stop_timeout);
        let timeout = u64::try_from(seconds).ok().map(Duration::from_secs);
        Ok(move |reply| Command::Stop {
            signal,
            timeout,
            restart: false,
            reply,
        })
    }

    /// Asks a container to stop, kills it after the time-out, and returns when it has ended.
    ///
    /// # Errors
    /// `NotModified` when it does not run.
    pub async fn stop(&self, name: &str, options: StopOptions) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let command = self.stop_command(&container, &options)?;
        self.ask(&container, command).await
    }

    /// Stops and starts a container; starts one that does not run.
    ///
    /// # Errors
    /// Those of stop and start.
    pub async fn restart(&self, name: &str, options: StopOptions) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let command = self.stop_command(&container, &options)?;
        self.ask(&container, |reply| match command(reply) {
            Command::Stop {
                signal,
                timeout,
                reply,
                ..
            } => Command::Stop {
                signal,
                timeout,
                restart: true,
                reply,
            },
            other => other,
        })
        .await
    }

    /// Sends a signal, KILL when `None`. After KILL it returns when the container has ended.
    ///
    /// # Errors
    /// No such signal; not running.
    pub async fn kill(&self, name: &str, signal: Option<&str>) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let signal = match signal.filter(|text| !text.is_empty()) {
            Some(text) => text.parse::<Signal>().map_err(|_| {
                EngineError::Invalid(format!(
                    "cannot kill container: {name}: invalid signal: {text}"
                ))
            })?,
            None => Signal::KILL,
        };
        self.ask(&container, |reply| Command::Kill {
            signal,
            called: name.to_owned(),
            reply,
        })
        .await
    }

    /// Freezes a container.
    ///
    /// # Errors
    /// Not running, or frozen already.
    pub async fn pause(&self, name: &str) -> Result<(), EngineError> {
        let container = self.find(name)?;
        self.ask(&container, |reply| Command::Pause { reply }).await
    }

    /// Thaws a container.
    ///
    /// # Errors
    /// Not frozen.
    pub async fn unpause(&self, name: &str) -> Result<(), EngineError> {
        let container = self.find(name)?;
        self.ask(&container, |reply| Command::Unpause { reply })
            .await
    }

    /// Subscribes to a container's end; subscribed when this returns.
    ///
    /// # Errors
    /// No such container.
    pub async fn wait(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<WaitHandle, EngineError> {
        let container = self.find(name)?;
        let (sender, receiver) = oneshot::channel();
        let mut shared = container.lock();
        // Clients that have gone away leave their subscriptions behind.
        shared.waiters.retain(|waiter| !waiter.sender.is_closed());
        let at_once = match condition {
            WaitCondition::NotRunning => !matches!(
                shared.lifecycle(),
                Lifecycle::Starting
                    | Lifecycle::Running(_)
                    | Lifecycle::Paused(_)
                    | Lifecycle::Stopping(_)
                    | Lifecycle::Restarting(_)
            ),
            WaitCondition::NextExit => false,
            WaitCondition::Removed => shared.gone,
        };
        if at_once {
            // The receiver is right below.
            let _ = sender.send(WaitResult {
                code: i64::from(shared.exit_code),
                error: None,
            });
        } else {
            shared.waiters.push(Waiter { condition, sender });
        }
        Ok(WaitHandle { receiver })
    }

    /// Removes a container. Its name, ports and address are free when this returns.
    ///
    /// # Errors
    /// It runs, and `force` is not set.
    pub async fn remove(&self, name: &str, options: RemoveOptions) -> Result<(), EngineError> {
        if options.link {
            return Err(EngineError::Unsupported("removing a link".to_owned()));
        }
        let container = self.find(name)?;
        if let Some(conflict) = container.removal_conflict(name, options) {
            return Err(conflict);
        }
        self.ask(&container, |reply| Command::Remove { options, reply })
            .await
    }

    /// Renames a container.
    ///
    /// # Errors
    /// A bad name, or one in use.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<(), EngineError> {
        if new_name.is_empty() || name.is_empty() {
            return Err(EngineError::Invalid(
                "Neither old nor new names may be empty".to_owned(),
            ));
        }
        let container = self.find(name)?;
        let new: ContainerName = new_name.parse().map_err(|error| {
            EngineError::Invalid(format!("Error when allocating new name: {error}"))
        })?;
        if container.name().as_ref() == new.as_str() {
            return Err(EngineError::Invalid(
                "Renaming a container with the same name as its current name".to_owned(),
            ));
        }
        let old = self
            .inner
            .directory
            .rename(&container, &new)
            .map_err(|error| match error {
                EngineError::NameInUse { .. } => {
                    EngineError::Conflict(format!("Error when allocating new name: {error}"))
                }
                other => other,
            })?;
        if let Some(written) = container.persist(&self.inner.database, Durability::PowerCut) {
            written
                .await
                .map_err(|_| EngineError::Unavailable("the database is closed".to_owned()))??;
        }
        self.inner
            .container_event(&container, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// Not running, or without a terminal.
    pub async fn resize(&self, name: &str, rows: u16, columns: u16) -> Result<(), EngineError> {
        let container = self.find(name)?;
        self.check_running(&container)?;
        let request = Request::Resize {
            target: Target::Container(container.id),
            size: TerminalSize { rows, columns },
        };
        self.inner
            .ask(request, Vec::new())
            .await
            .map_err(|error| keeper_error(&error))?;
        let size = [("height", rows.to_string()), ("width", columns.to_string())];
        self.inner.container_event(&container, "resize", &size);
        Ok(())
    }

    fn check_running(&self, container: &Container) -> Result<(), EngineError> {
        if container.lifecycle().is_running() {
            return Ok(());
        }
        Err(EngineError::Conflict(format!(
            "container {} is not running",
            container.id
        )))
    }

    /// Changes limits and restart policy. Answers warnings.
    ///
    /// # Errors
    /// Values that cannot be, or that the kernel refuses.
    pub async fn update(
        &self,
        name: &str,
        update: UpdateContainer,
    ) -> Result<Vec<String>, EngineError> {
        let container = self.find(name)?;
        update::update(Arc::clone(&self.inner), container, update).await
    }

    /// The processes of a container, in the columns of `ps` with these arguments (`-ef` when empty).
    ///
    /// # Errors
    /// Not running, or arguments that we do not know.
    pub async fn top(&self, name: &str, ps_args: &str) -> Result<TopResult, EngineError> {
        let container = self.find(name)?;
        self.check_running(&container)?;
        if matches!(container.lifecycle(), Lifecycle::Restarting(_)) {
            return Err(EngineError::Conflict(format!(
                "Container {} is restarting, wait until the container is running",
                container.id
            )));
        }
        let (inner, of, arguments) = (
            Arc::clone(&self.inner),
            Arc::clone(&container),
            ps_args.to_owned(),
        );
        let result = tokio::task::spawn_blocking(move || {
            let path = inner.cgroup_path(of.id, &of.spec());
            let pids = kekkai_cgroups::Cgroup::new(&inner.cgroups, &path)
                .and_then(|cgroup| cgroup.pids())
                .map_err(|error| EngineError::System(error.to_string()))?;
            let pids: Vec<u32> = pids
                .into_iter()
                .filter_map(|pid| u32::try_from(pid).ok())
                .collect();
            top::top(&pids, &arguments)
        })
        .await
        .map_err(|error| internal(&error))??;
        self.inner.container_event(&container, "top", &[]);
        Ok(result)
    }

    /// How a container's files differ from its image's.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub async fn changes(&self, name: &str) -> Result<Vec<Change>, EngineError> {
        let container = self.find(name)?;
        let inner = Arc::clone(&self.inner);
        let changes =
            tokio::task::spawn_blocking(move || inner.snapshotter.diff(&container.id.to_string()))
                .await
                .map_err(|error| internal(&error))?
                .map_err(|error| EngineError::System(error.to_string()))?;
        Ok(changes
            .into_iter()
            .map(|change| Change {
                kind: match change.kind {
                    kekkai_snapshot::ChangeKind::Modified => ChangeKind::Modified,
                    kekkai_snapshot::ChangeKind::Added => ChangeKind::Added,
                    kekkai_snapshot::ChangeKind::Deleted => ChangeKind::Deleted,
                },
                path: change.path.to_string_lossy().into_owned(),
            })
            .collect())
    }

    /// Containers, newest first.
    ///
    /// # Errors
    /// A filter that makes no sense.
    pub async fn list(&self, request: ListContainers) -> Result<Vec<ContainerView>, EngineError> {
        let mut views = list::list(&self.inner, &request)?;
        if request.size {
            let inner = Arc::clone(&self.inner);
            views = tokio::task::spawn_blocking(move || {
                for view in &mut views {
                    view.size = Some(list::size(&inner, view));
                }
                views
            })
            .await
            .map_err(|error| internal(&error))?;
        }
        Ok(views)
    }

    /// One container; `size` measures it too.
    ///
    /// # Errors
    /// No such container.
    pub async fn inspect(&self, name: &str, size: bool) -> Result<ContainerView, EngineError> {
        let container = self.find(name)?;
        let mut view = list::view(&self.inner, &container);
        list::add_paths(&self.inner, &mut view);
        if size {
            let inner = Arc::clone(&self.inner);
            view = tokio::task::spawn_blocking(move || {
                view.size = Some(list::size(&inner, &view));
                view
            })
            .await
            .map_err(|error| internal(&error))?;
        }
        Ok(view)
    }

    /// Removes every stopped container that satisfies the filters.
    ///
    /// # Errors
    /// A filter that makes no sense.
    pub async fn prune_containers(&self, filters: Filters) -> Result<PruneReport, EngineError> {
        let mut report = PruneReport::default();
        for view in system::prunable(&self.inner, &filters)? {
            let inner = Arc::clone(&self.inner);
            let of = view.clone();
            let size = tokio::task::spawn_blocking(move || list::size(&inner, &of).writable)
                .await
                .map_err(|error| internal(&error))?;
            match self
                .remove(&view.id.to_string(), RemoveOptions::default())
                .await
            {
                Ok(()) => {
                    report.deleted.push(view.id.to_string());
                    report.space_reclaimed += size;
                }
                Err(error) => tracing::info!(container = %view.id, %error, "not pruned"),
            }
        }
        let attributes = vec![("reclaimed".to_owned(), report.space_reclaimed.to_string())];
        self.inner
            .events
            .publish(EventKind::Container, "prune", "", attributes);
        Ok(report)
    }

    /// Joins a container's streams; legal before it starts, then no byte is lost.
    ///
    /// # Errors
    /// Paused, restarting, or going away.
    pub async fn attach(
        &self,
        name: &str,
        options: AttachOptions,
    ) -> Result<AttachStreams, EngineError> {
        attach::attach(&self.inner, self.find(name)?, options).await
    }

    /// A container's log; the second value tells whether it has a terminal (raw output).
    ///
    /// # Errors
    /// A log driver that cannot be read.
    pub async fn logs(
        &self,
        name: &str,
        options: LogOptions,
    ) -> Result<(OutputStream, bool), EngineError> {
        attach::logs(&self.inner, self.find(name)?, options)
    }

    fn target(&self, name: &str) -> Result<transfer::Target, EngineError> {
        Ok(transfer::Target {
            container: self.find(name)?,
            called: name.to_owned(),
        })
    }

    /// What is at a path of a container.
    ///
    /// # Errors
    /// Nothing there.
    pub async fn archive_stat(&self, name: &str, path: &str) -> Result<ArchiveStat, EngineError> {
        transfer::stat(Arc::clone(&self.inner), self.target(name)?, path.to_owned()).await
    }

    /// A path of a container as a tar stream.
    ///
    /// # Errors
    /// Nothing there.
    pub async fn archive_get(
        &self,
        name: &str,
        path: &str,
    ) -> Result<(ArchiveStat, ByteStream), EngineError> {
        transfer::get(Arc::clone(&self.inner), self.target(name)?, path.to_owned()).await
    }

    /// Unpacks a tar stream into a directory of a container.
    ///
    /// # Errors
    /// No such directory, a read-only one, or a stream that is wrong.
    pub async fn archive_put(
        &self,
        name: &str,
        path: &str,
        options: ArchivePut,
        body: ByteStream,
    ) -> Result<(), EngineError> {
        transfer::put(
            Arc::clone(&self.inner),
            self.target(name)?,
            path.to_owned(),
            options,
            body,
        )
        .await
    }

    /// Makes an exec session.
    ///
    /// # Errors
    /// The container does not run, or there is no command.
    pub async fn exec_create(
        &self,
        name: &str,
        request: ExecCreate,
    ) -> Result<ExecId, EngineError> {
        exec::create(&self.inner, &self.find(name)?, request)
    }

    /// Starts an exec session; `None` when detached.
    ///
    /// # Errors
    /// It ran already, or could not be started (attached, that is told in the stream).
    pub async fn exec_start(
        &self,
        id: &str,
        options: ExecStart,
    ) -> Result<Option<AttachStreams>, EngineError> {
        let session = self.inner.directory.find_exec(id)?;
        let inner = Arc::clone(&self.inner);
        // A task of its own: a client that goes away must not leave a session half started.
        tokio::spawn(async move { exec::start(&inner, session, options).await })
            .await
            .map_err(|error| internal(&error))?
    }

    /// One moment of an exec session.
    ///
    /// # Errors
    /// No such session.
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecView, EngineError> {
        Ok(self.inner.directory.find_exec(id)?.view())
    }

    /// Sets the size of an exec session's terminal.
    ///
    /// # Errors
    /// Not running, or without a terminal.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<(), EngineError> {
        let session = self.inner.directory.find_exec(id)?;
        exec::resize(&self.inner, &session, rows, columns).await
    }

    /// Runs a blocking look at the engine's state.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|error| internal(&error))?
    }

    /// Makes a volume, or finds the one of that name.
    ///
    /// # Errors
    /// A bad name or driver.
    pub async fn volume_create(&self, request: VolumeCreate) -> Result<VolumeView, EngineError> {
        self.blocking(move |inner| system::volume_create(inner, request))
            .await
    }

    /// Volumes by name.
    ///
    /// # Errors
    /// A filter that makes no sense.
    pub async fn volume_list(&self, filters: Filters) -> Result<Vec<VolumeView>, EngineError> {
        self.blocking(move |inner| system::volume_list(inner, &filters))
            .await
    }

    /// One volume.
    ///
    /// # Errors
    /// No such volume.
    pub async fn volume_inspect(&self, name: &str) -> Result<VolumeView, EngineError> {
        system::volume_inspect(&self.inner, name)
    }

    /// Removes a volume; `force` ignores one that is not there.
    ///
    /// # Errors
    /// In use.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<(), EngineError> {
        let name = name.to_owned();
        self.blocking(move |inner| system::volume_remove(inner, &name, force))
            .await
    }

    /// Removes volumes that nobody uses.
    ///
    /// # Errors
    /// A filter that makes no sense.
    pub async fn volume_prune(&self, filters: Filters) -> Result<PruneReport, EngineError> {
        self.blocking(move |inner| system::volume_prune(inner, &filters))
            .await
    }

    /// The networks.
    ///
    /// # Errors
    /// A filter that makes no sense.
    pub async fn network_list(&self, filters: Filters) -> Result<Vec<NetworkView>, EngineError> {
        system::network_list(&self.inner, &filters)
    }

    /// One network.
    ///
    /// # Errors
    /// No such network.
    pub async fn network_inspect(&self, name: &str) -> Result<NetworkView, EngineError> {
        system::network_inspect(&self.inner, name)
    }

    /// What `info` says.
    ///
    /// # Errors
    /// When the engine is closing.
    pub async fn info(&self) -> Result<EngineInfo, EngineError> {
        self.blocking(|inner| Ok(system::info(inner))).await
    }

    /// What `version` says.
    ///
    /// # Errors
    /// None at present.
    pub async fn version(&self) -> Result<VersionInfo, EngineError> {
        Ok(system::version(&self.inner))
    }

    /// Past events (since) and then new ones, until `until` or until the receiver is dropped.
    ///
    /// # Errors
    /// None at present: dockerd ignores filters that it does not know.
    pub async fn events(
        &self,
        request: EventsRequest,
    ) -> Result<tokio::sync::mpsc::Receiver<Event>, EngineError> {
        Ok(self.inner.events.subscribe(&request))
    }

    /// Tells an event that happened at the rim (image pull, tag, untag, delete, load; daemon reload).
    pub fn publish(&self, event: Event) {
        self.inner.events.publish_event(event);
    }

    /// Labels of the daemon.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.inner.config.labels
    }
}

/// For tests and for uninstalling.
impl Engine {
    /// Removes the bridge, the table, and rules in foreign chains. No container may run.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn destroy_network(&self) -> Result<(), EngineError> {
        match &self.inner.network {
            Some(network) => network
                .destroy()
                .map_err(|error| crate::net::network_error(&error)),
            None => Ok(()),
        }
    }
}
