//! Starting: one straight line. Network from the pool, three small files on a tmpfs, one request to the keeper. Nothing
//! here syncs, renames over or unlinks; what fails is undone in reverse.

use std::sync::Arc;

use kekkai_keeper::KeeperError;
use kekkai_keeper::protocol::{
    Join, Request, Response, StartRequest, StdinMode, Terminal, TerminalSize,
};
use kekkai_metadata::Durability;
use kekkai_network::EndpointRecord;
use kekkai_runtime::ContainerPlan;
use kekkai_types::{ErrorClass, Timestamp};

use crate::EngineError;
use crate::create::saga::{plan_files, volume_error};
use crate::failpoint;
use crate::janitor::Chore;
use crate::model::{
    ContainerSpec, EventKind, ExitFacts, ExitReason, MountKind, Move, RunningFacts, WaitCondition,
    WaitResult,
};
use crate::net;
use crate::owner::Owner;
use crate::plan;
use crate::undo::Undo;

/// What a process that runs has besides its pid.
struct Launched {
    facts: RunningFacts,
    endpoint: Option<Arc<EndpointRecord>>,
}

impl Owner {
    /// Starts the container; it must be in a state from which that is legal.
    pub(crate) async fn start(&mut self) -> Result<(), EngineError> {
        if let Some(gone) = self.cgroup_gone.take() {
            // The janitor answers in any case.
            let _ = gone.await;
        }
        self.container
            .transition(Move::Start)
            .map_err(|error| EngineError::Conflict(error.to_string()))?;
        match self.launch().await {
            Ok(launched) => {
                self.started(&launched);
                Ok(())
            }
            Err(error) => {
                self.start_failed(&error).await;
                Err(error)
            }
        }
    }

    async fn launch(&mut self) -> Result<Launched, EngineError> {
        failpoint::check(failpoint::START_BEGIN)?;
        let storage = Arc::clone(&self.container.storage);
        let _exclusive = storage.write().await;
        let requested = Timestamp::now();
        let mut laps = Laps::start();
        let (inner, container) = (Arc::clone(&self.inner), Arc::clone(&self.container));
        let (name, spec) = {
            let shared = container.lock();
            (Arc::clone(&shared.name), Arc::clone(&shared.spec))
        };
        let mut undo = Undo::default();

        let network = net::connect(&inner, &container, &name, &spec)?;
        let endpoint = network.record.map(Arc::new);
        if let Some(record) = &endpoint {
            let (inner, record) = (Arc::clone(&inner), Arc::clone(record));
            undo.push(move || net::release(&inner, &record));
        }
        laps.lap();
        failpoint::check(failpoint::START_NETWORK)?;

        if !std::mem::take(&mut container.lock().files_prepared) {
            crate::files::prepare(&inner, &container, &spec)?;
        }
        crate::files::write(&inner, &container, &spec, endpoint.as_deref(), requested)?;
        laps.lap();
        failpoint::check(failpoint::START_FILES)?;

        self.activate_mounts(&spec, &mut undo)?;
        failpoint::check(failpoint::START_VOLUMES)?;

        let (mut joins, mut fds): (Vec<_>, Vec<_>) =
            plan::joins(&inner, &spec)?.into_iter().unzip();
        if let Some(netns) = network.netns {
            joins.push(Join::Network);
            fds.push(netns);
        }
        let plan = self.plan(&spec)?;
        let cgroup = inner.cgroup_path(container.id, &spec);
        let request = StartRequest {
            container: container.id,
            plan: plan.to_vec(),
            joins,
            log: inner.log_config(container.id, &name, &spec)?,
            stdin: match (spec.config.open_stdin, spec.config.stdin_once) {
                (false, _) => StdinMode::Closed,
                (true, false) => StdinMode::Open,
                (true, true) => StdinMode::Once,
            },
            terminal: terminal(&spec),
            cgroup: cgroup.clone(),
        };
        {
            let inner = Arc::clone(&inner);
            undo.push(move || {
                inner.janitor.add(Chore::Cgroup {
                    path: cgroup,
                    done: None,
                })
            });
        }
        // Queued, not waited for: should we die now, the next daemon knows whose endpoint this is.
        container.lock().endpoint.clone_from(&endpoint);
        drop(container.persist(&inner.database, Durability::Process));
        failpoint::check(failpoint::START_SENT)?;
        laps.lap();
        let answer = inner
            .ask(Request::Start(Box::new(request)), fds)
            .await
            .map_err(|error| start_error(&error))?;
        let Response::Started { pid, at } = answer.response else {
            return Err(EngineError::Internal(
                "the keeper's answer to a start makes no sense".to_owned(),
            ));
        };
        undo.commit();
        laps.lap();
        tracing::debug!(container = %container.id, network_files_plan_keeper_us = ?laps.micros, "started");
        Ok(Launched {
            facts: RunningFacts {
                pid,
                started_at: Timestamp::from_unix_nanos(at),
            },
            endpoint,
        })
    }

    /// The plan's bytes: those of the creation for the first start, a recompiled or patched one afterwards.
    fn plan(&mut self, spec: &ContainerSpec) -> Result<Arc<[u8]>, EngineError> {
        let (cached, fresh) = {
            let mut shared = self.container.lock();
            (shared.plan.clone(), std::mem::take(&mut shared.fresh_work))
        };
        let prepared = std::mem::take(&mut self.container.lock().cgroup_prepared);
        if let (Some(bytes), true) = (&cached, fresh) {
            return Ok(Arc::clone(bytes));
        }
        let key = self.container.id.to_string();
        let snapshotter = &self.inner.snapshotter;
        let mount = snapshotter
            .fresh_work(&key)
            .map_err(|error| EngineError::System(error.to_string()))?;
        let root = plan::rootfs(mount);
        let internal = |error: kekkai_runtime::PlanError| EngineError::Internal(error.to_string());
        let compiled = match cached {
            Some(bytes) => {
                let mut compiled = ContainerPlan::from_bytes(&bytes).map_err(internal)?;
                compiled.set_rootfs(root);
                compiled.set_cgroup_prepared(prepared);
                compiled
            }
            None => {
                let files = plan_files(&self.inner, self.container.id, spec);
                plan::compile(&self.inner, self.container.id, spec, root, &files)?
            }
        };
        let bytes: Arc<[u8]> = Arc::from(compiled.to_bytes().map_err(internal)?);
        self.container.lock().plan = Some(Arc::clone(&bytes));
        Ok(bytes)
    }

    /// Volumes are mounted, missing bind sources made.
    fn activate_mounts(&self, spec: &ContainerSpec, undo: &mut Undo) -> Result<(), EngineError> {
        let id = self.container.id;
        for point in &spec.mounts {
            match (point.kind, &point.name) {
                (MountKind::Volume, Some(name)) => {
                    let Ok(name) = name.parse::<kekkai_types::VolumeName>() else {
                        continue;
                    };
                    self.inner
                        .volumes
                        .activate(&name, &id)
                        .map_err(|error| volume_error(&error))?;
                    let inner = Arc::clone(&self.inner);
                    undo.push(move || drop(inner.volumes.deactivate(&name, &id)));
                    if point.subpath.is_some() && !std::path::Path::new(&point.source).exists() {
                        return Err(EngineError::NotFound(format!(
                            "cannot access path {source}: lstat {source}: no such file or directory",
                            source = point.source
                        )));
                    }
                }
                (MountKind::Bind, _) if !std::path::Path::new(&point.source).exists() => {
                    std::fs::create_dir_all(&point.source).map_err(|error| {
                        EngineError::System(format!(
                            "error while creating mount source path '{source}': mkdir {source}: {error}",
                            source = point.source
                        ))
                    })?;
                }
                _ => {}
            }
        }
        if spec.host.ipc_mode == "shareable" {
            let directory = plan::shm_directory(&self.inner, id);
            crate::files::mount_shm(&directory, spec.host.shm_size)?;
            undo.push(move || crate::files::unmount_shm(&directory));
        }
        Ok(())
    }

    fn started(&mut self, launched: &Launched) {
        {
            let mut shared = self.container.lock();
            if let Err(error) = shared.transition(Move::Started(launched.facts)) {
                tracing::error!(%error, "marking a container as started");
            }
            shared.started_at = Some(launched.facts.started_at);
            shared.endpoint.clone_from(&launched.endpoint);
            shared.exit_code = 0;
            shared.error = Arc::from("");
            shared.oom_killed = false;
            shared.asked_to_stop = false;
        }
        if let Err(error) = failpoint::check(failpoint::START_STARTED) {
            tracing::warn!(%error, "after a start");
        }
        drop(
            self.container
                .persist(&self.inner.database, Durability::Process),
        );
        if let Err(error) = failpoint::check(failpoint::START_RECORDED) {
            tracing::warn!(%error, "after recording a start");
        }
        self.mount_events("mount");
        net::event(
            &self.inner,
            &self.container,
            &self.container.spec(),
            "connect",
        );
        self.inner.container_event(&self.container, "start", &[]);
    }

    /// Tells `mount` or `unmount` of each volume.
    pub(crate) fn mount_events(&self, action: &str) {
        let spec = self.container.spec();
        for point in spec
            .mounts
            .iter()
            .filter(|point| point.kind == MountKind::Volume)
        {
            let Some(name) = &point.name else { continue };
            let mut attributes = vec![
                ("container".to_owned(), self.container.id.to_string()),
                ("driver".to_owned(), point.driver.clone()),
            ];
            if action == "mount" {
                attributes.push(("destination".to_owned(), point.destination.clone()));
                attributes.push(("propagation".to_owned(), point.propagation.clone()));
                attributes.push(("read/write".to_owned(), point.read_write.to_string()));
                attributes.sort();
            }
            self.inner
                .events
                .publish(EventKind::Volume, action, name, attributes);
        }
    }

    async fn start_failed(&mut self, error: &EngineError) {
        let code = match error {
            EngineError::StartFailed { code, .. } => *code,
            _ => 128,
        };
        let at = Timestamp::now();
        {
            let mut shared = self.container.lock();
            if let Err(error) = shared.transition(Move::Exit(ExitFacts {
                code,
                at,
                reason: ExitReason::StartFailed,
            })) {
                tracing::error!(%error, "marking a start as failed");
            }
            shared.exit_code = code;
            shared.error = Arc::from(error.to_string());
            shared.endpoint = None;
        }
        drop(
            self.container
                .persist(&self.inner.database, Durability::Process),
        );
        let result = WaitResult {
            code: i64::from(code),
            error: None,
        };
        self.container.notify(
            &[WaitCondition::NotRunning, WaitCondition::NextExit],
            &result,
        );
        self.inner
            .forget(kekkai_keeper::protocol::Target::Container(
                self.container.id,
            ));
        for reply in self.restarts.drain(..) {
            // The client may have gone.
            let _ = reply.send(Err(EngineError::System(error.to_string())));
        }
        if self.container.spec().host.auto_remove {
            self.remove_now(true).await;
        }
    }
}

/// How long the steps of a start took, for the log of developers.
struct Laps {
    last: std::time::Instant,
    micros: Vec<u128>,
}

impl Laps {
    fn start() -> Self {
        Self {
            last: std::time::Instant::now(),
            micros: Vec::with_capacity(4),
        }
    }

    fn lap(&mut self) {
        let now = std::time::Instant::now();
        self.micros.push(now.duration_since(self.last).as_micros());
        self.last = now;
    }
}

fn terminal(spec: &ContainerSpec) -> Terminal {
    if !spec.config.tty {
        return Terminal::None;
    }
    Terminal::Size(
        spec.host
            .console_size
            .filter(|[rows, columns]| *rows > 0 && *columns > 0)
            .map(|[rows, columns]| TerminalSize { rows, columns }),
    )
}

/// The keeper's refusal in dockerd's words.
pub(crate) fn start_error(error: &KeeperError) -> EngineError {
    match error {
        KeeperError::Refused(failure) => {
            let code = if failure.exit_code == 125 {
                128
            } else {
                i32::from(failure.exit_code)
            };
            // dockerd looks users up by itself and says so without the runtime's prefix.
            let message = if failure.message.starts_with("unable to find ") {
                failure.message.clone()
            } else {
                format!("failed to create task for container: {}", failure.message)
            };
            let class = match failure.class {
                ErrorClass::InvalidArgument | ErrorClass::NotFound
                    if matches!(failure.exit_code, 126 | 127) =>
                {
                    ErrorClass::InvalidArgument
                }
                ErrorClass::Conflict => ErrorClass::Conflict,
                ErrorClass::NotImplemented => ErrorClass::NotImplemented,
                _ => ErrorClass::Internal,
            };
            EngineError::StartFailed {
                message,
                code,
                class,
            }
        }
        other => EngineError::StartFailed {
            message: format!("failed to create task for container: {other}"),
            code: 128,
            class: ErrorClass::Internal,
        },
    }
}
