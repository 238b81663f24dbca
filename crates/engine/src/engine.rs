//! The engine: every operation that the API offers, on one cheap handle.

use std::sync::Arc;

use kekkai_types::{ContainerId, ExecId};

use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::model::*;
use crate::streams::{AttachStreams, OutputStream};

/// A running engine. Cloning is cheap; the last clone closes the database.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: EngineConfig,
}

fn later<T>() -> Result<T, EngineError> {
    Err(EngineError::Unavailable("this part of the engine is being built".to_owned()))
}

#[expect(clippy::unused_async, reason = "the bodies follow")]
#[allow(unused_variables, missing_docs, clippy::needless_pass_by_value, reason = "signatures first; documented with their bodies")]
impl Engine {
    /// Opens the engine: loads its state, connects to (or starts) the keeper, recovers, applies restart policies.
    pub async fn open(config: EngineConfig) -> Result<Self, EngineError> {
        Ok(Self { inner: Arc::new(Inner { config }) })
    }
    /// The configuration it was opened with.
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }
    /// Ends the daemon's part: nothing is accepted any more, what is queued is written; containers go on.
    pub async fn close(&self) {}
    /// Stops every container by its signal and time-out (system shutdown), then the keeper.
    pub async fn stop_all(&self) -> Result<(), EngineError> { later() }

    // Containers. `name` is a name, an id or a unique prefix of one.
    pub async fn create(&self, request: CreateContainer) -> Result<Created, EngineError> { later() }
    pub async fn start(&self, name: &str) -> Result<(), EngineError> { later() }
    pub async fn stop(&self, name: &str, options: StopOptions) -> Result<(), EngineError> { later() }
    pub async fn restart(&self, name: &str, options: StopOptions) -> Result<(), EngineError> { later() }
    /// `signal`: name or number; `None` is KILL.
    pub async fn kill(&self, name: &str, signal: Option<&str>) -> Result<(), EngineError> { later() }
    pub async fn pause(&self, name: &str) -> Result<(), EngineError> { later() }
    pub async fn unpause(&self, name: &str) -> Result<(), EngineError> { later() }
    /// Answers at once whether the wait is legal; the future inside resolves at the condition. Subscribed when this returns.
    pub async fn wait(&self, name: &str, condition: WaitCondition) -> Result<WaitHandle, EngineError> { later() }
    pub async fn remove(&self, name: &str, options: RemoveOptions) -> Result<(), EngineError> { later() }
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<(), EngineError> { later() }
    pub async fn resize(&self, name: &str, rows: u16, columns: u16) -> Result<(), EngineError> { later() }
    pub async fn update(&self, name: &str, update: UpdateContainer) -> Result<Vec<String>, EngineError> { later() }
    pub async fn top(&self, name: &str, ps_args: &str) -> Result<TopResult, EngineError> { later() }
    pub async fn changes(&self, name: &str) -> Result<Vec<Change>, EngineError> { later() }
    pub async fn list(&self, request: ListContainers) -> Result<Vec<ContainerView>, EngineError> { later() }
    /// `size`: compute sizes too.
    pub async fn inspect(&self, name: &str, size: bool) -> Result<ContainerView, EngineError> { later() }
    pub async fn prune_containers(&self, filters: Filters) -> Result<PruneReport, EngineError> { later() }
    pub async fn attach(&self, name: &str, options: AttachOptions) -> Result<AttachStreams, EngineError> { later() }
    /// The second value: whether the container has a terminal (raw output).
    pub async fn logs(&self, name: &str, options: LogOptions) -> Result<(OutputStream, bool), EngineError> { later() }

    // Files.
    pub async fn archive_stat(&self, name: &str, path: &str) -> Result<ArchiveStat, EngineError> { later() }
    pub async fn archive_get(&self, name: &str, path: &str) -> Result<(ArchiveStat, ByteStream), EngineError> { later() }
    pub async fn archive_put(&self, name: &str, path: &str, options: ArchivePut, body: ByteStream) -> Result<(), EngineError> { later() }

    // Exec sessions. `id` is a full id or a unique prefix.
    pub async fn exec_create(&self, name: &str, request: ExecCreate) -> Result<ExecId, EngineError> { later() }
    /// `None` when detached.
    pub async fn exec_start(&self, id: &str, options: ExecStart) -> Result<Option<AttachStreams>, EngineError> { later() }
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecView, EngineError> { later() }
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<(), EngineError> { later() }

    // Volumes and networks.
    pub async fn volume_create(&self, request: VolumeCreate) -> Result<VolumeView, EngineError> { later() }
    pub async fn volume_list(&self, filters: Filters) -> Result<Vec<VolumeView>, EngineError> { later() }
    pub async fn volume_inspect(&self, name: &str) -> Result<VolumeView, EngineError> { later() }
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<(), EngineError> { later() }
    pub async fn volume_prune(&self, filters: Filters) -> Result<PruneReport, EngineError> { later() }
    pub async fn network_list(&self, filters: Filters) -> Result<Vec<NetworkView>, EngineError> { later() }
    pub async fn network_inspect(&self, name: &str) -> Result<NetworkView, EngineError> { later() }

    // The engine itself.
    pub async fn info(&self) -> Result<EngineInfo, EngineError> { later() }
    pub async fn version(&self) -> Result<VersionInfo, EngineError> { later() }
    /// Past events (since) and then new ones, until `until` or until the receiver is dropped.
    pub async fn events(&self, request: EventsRequest) -> Result<tokio::sync::mpsc::Receiver<Event>, EngineError> { later() }
    /// Tells an event that happened at the rim (`daemon reload` …).
    pub fn publish(&self, event: Event) {}
    /// The id of the container that `name` means.
    pub fn resolve(&self, name: &str) -> Result<ContainerId, EngineError> { later() }
}

/// A subscription to a container's end.
#[derive(Debug)]
pub struct WaitHandle {
    pub(crate) receiver: tokio::sync::oneshot::Receiver<WaitResult>,
}

impl WaitHandle {
    /// Resolves when the condition holds.
    ///
    /// # Errors
    /// When the engine closes first.
    pub async fn finished(self) -> Result<WaitResult, EngineError> {
        self.receiver.await.map_err(|_| EngineError::Unavailable("the engine is shutting down".to_owned()))
    }
}
