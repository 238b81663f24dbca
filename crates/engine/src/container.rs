//! One container as the rest of the engine sees it: a handle with a short-locked state and a queue to its owner task.
//!
//! What must stay true: only the owner task calls `transition`; the lock is never held across an await or a call that
//! can wait; every row of one container is submitted under its lock, so that rows are written in the order of states.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kekkai_metadata::{Change, Database, Durability, MetadataError, Table};
use kekkai_network::EndpointRecord;
use kekkai_types::{ContainerId, DiffId, ExecId, Timestamp};
use tokio::sync::{RwLock, mpsc, oneshot};

use crate::EngineError;
use crate::model::{
    ContainerSpec, IllegalMove, Lifecycle, Move, RemoveOptions, StateView, Status, WaitCondition,
    WaitResult,
};
use crate::owner::Command;
use crate::record::{ContainerRow, Phase, StoredState, VERSION};
use crate::restart::RestartHistory;

/// Somebody who waits for a container's end.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) condition: WaitCondition,
    pub(crate) sender: oneshot::Sender<WaitResult>,
}

/// The state behind the lock.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: Arc<str>,
    pub(crate) spec: Arc<ContainerSpec>,
    lifecycle: Lifecycle,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) exit_code: i32,
    pub(crate) error: Arc<str>,
    pub(crate) oom_killed: bool,
    pub(crate) history: RestartHistory,
    pub(crate) asked_to_stop: bool,
    /// Whether the start that is under way was its restart policy's doing.
    started_by_policy: bool,
    pub(crate) endpoint: Option<Arc<EndpointRecord>>,
    pub(crate) waiters: Vec<Waiter>,
    /// The compiled plan of the next (or running) start.
    pub(crate) plan: Option<Arc<[u8]>>,
    /// Whether the files in /etc that do not depend on the address are written for the next start.
    pub(crate) files_prepared: bool,
    /// Whether the plan says that the cgroup is there already.
    pub(crate) cgroup_prepared: bool,
    /// Whether the work directory in the plan has not been used by any mount.
    pub(crate) fresh_work: bool,
    pub(crate) exec_ids: Vec<ExecId>,
    /// Its row is deleted: nothing is written any more.
    pub(crate) gone: bool,
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) created: Timestamp,
    pub(crate) layers: Arc<[DiffId]>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    shared: Mutex<Shared>,
    /// Attach sessions that the keeper may still be sending to.
    pub(crate) sessions: AtomicUsize,
    /// Held (shared) by copies that have mounted a stopped container's files, and for a moment by a start: two mounts
    /// of one upper directory are undefined.
    pub(crate) storage: Arc<RwLock<()>>,
}

/// What a new handle is made of.
#[derive(Debug)]
pub(crate) struct ContainerParts {
    pub(crate) id: ContainerId,
    pub(crate) name: Arc<str>,
    pub(crate) created: Timestamp,
    pub(crate) layers: Arc<[DiffId]>,
    pub(crate) spec: Arc<ContainerSpec>,
}

impl Container {
    /// A handle in state `Created`, and the queue for its owner.
    pub(crate) fn new(parts: ContainerParts) -> (Arc<Self>, mpsc::UnboundedReceiver<Command>) {
        let (commands, queue) = mpsc::unbounded_channel();
        let shared = Shared {
            name: parts.name,
            spec: parts.spec,
            lifecycle: Lifecycle::Created,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            error: Arc::from(""),
            oom_killed: false,
            history: RestartHistory::default(),
            asked_to_stop: false,
            started_by_policy: false,
            endpoint: None,
            waiters: Vec::new(),
            plan: None,
            files_prepared: false,
            cgroup_prepared: false,
            fresh_work: false,
            exec_ids: Vec::new(),
            gone: false,
        };
        let container = Self {
            id: parts.id,
            created: parts.created,
            layers: parts.layers,
            commands,
            shared: Mutex::new(shared),
            sessions: AtomicUsize::new(0),
            storage: Arc::default(),
        };
        (Arc::new(container), queue)
    }

    /// A handle as it was stored. What really runs is told by the keeper, later.
    pub(crate) fn restored(
        id: ContainerId,
        row: ContainerRow,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Command>) {
        let (container, queue) = Self::new(ContainerParts {
            id,
            name: Arc::from(row.name),
            created: row.created,
            layers: Arc::from(row.layers),
            spec: Arc::new(row.spec),
        });
        let state = row.state;
        {
            let mut shared = container.lock();
            shared.started_at = state.started_at;
            shared.finished_at = state.finished_at;
            shared.exit_code = state.exit_code;
            shared.error = Arc::from(state.error);
            shared.oom_killed = state.oom_killed;
            shared.history.count = state.restart_count;
            shared.asked_to_stop = state.asked_to_stop;
            shared.endpoint = state.endpoint.map(Arc::new);
            let exit = crate::model::ExitFacts {
                code: state.exit_code,
                at: state.finished_at.unwrap_or_default(),
                reason: state.reason.unwrap_or(crate::model::ExitReason::Lost),
            };
            shared.lifecycle = match state.phase {
                Phase::Creating | Phase::Created => Lifecycle::Created,
                Phase::Starting => Lifecycle::Starting,
                Phase::Running | Phase::Paused => Lifecycle::Running(crate::model::RunningFacts {
                    pid: state.pid,
                    started_at: state.started_at.unwrap_or_default(),
                }),
                Phase::Restarting | Phase::Exited => Lifecycle::Exited(exit),
                Phase::Removing | Phase::Dead => Lifecycle::Dead,
            };
        }
        (container, queue)
    }

    /// The state. Held for moments only.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present state.
    pub(crate) fn lifecycle(&self) -> Lifecycle {
        self.lock().lifecycle.clone()
    }

    /// The specification.
    pub(crate) fn spec(&self) -> Arc<ContainerSpec> {
        Arc::clone(&self.lock().spec)
    }

    /// The name.
    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.lock().name)
    }

    /// Moves the state; only the owner may.
    pub(crate) fn transition(&self, what: Move) -> Result<(), IllegalMove> {
        self.lock().transition(what)
    }

    /// Sends a command to the owner.
    pub(crate) fn send(&self, command: Command) -> Result<(), EngineError> {
        self.commands
            .send(command)
            .map_err(|_| EngineError::NoSuchContainer(self.id.to_string()))
    }

    /// Writes the row; the receiver answers once it is as durable as asked. `None` when there is no row any more.
    pub(crate) fn persist(
        &self,
        database: &Database,
        durability: Durability,
    ) -> Option<oneshot::Receiver<Result<(), MetadataError>>> {
        let (sender, receiver) = oneshot::channel();
        let shared = self.lock();
        if shared.gone {
            return None;
        }
        let row = ContainerRow {
            version: VERSION,
            name: shared.name.to_string(),
            created: self.created,
            layers: self.layers.to_vec(),
            spec: &*shared.spec,
            state: shared.stored(),
        };
        match Change::put_json(Table::Containers, self.id.to_string(), &row) {
            Ok(change) => database.submit(
                vec![change],
                durability,
                Box::new(move |outcome| drop(sender.send(outcome))),
            ),
            Err(error) => drop(sender.send(Err(error))),
        }
        Some(receiver)
    }

    /// Deletes the row; nothing is written for this container afterwards.
    pub(crate) fn delete_row(
        &self,
        database: &Database,
        durability: Durability,
    ) -> oneshot::Receiver<Result<(), MetadataError>> {
        let (sender, receiver) = oneshot::channel();
        let mut shared = self.lock();
        shared.gone = true;
        database.submit(
            vec![Change::delete(Table::Containers, self.id.to_string())],
            durability,
            Box::new(move |outcome| drop(sender.send(outcome))),
        );
        receiver
    }

    /// Answers those who wait for one of `conditions`.
    pub(crate) fn notify(&self, conditions: &[WaitCondition], result: &WaitResult) {
        let ready: Vec<Waiter> = {
            let mut shared = self.lock();
            let (ready, rest) = shared
                .waiters
                .drain(..)
                .partition(|waiter| conditions.contains(&waiter.condition));
            shared.waiters = rest;
            ready
        };
        for waiter in ready {
            // The client may have gone.
            let _ = waiter.sender.send(result.clone());
        }
    }

    /// Whether the keeper may still be sending output of it to somebody.
    pub(crate) fn has_sessions(&self) -> bool {
        self.sessions.load(Ordering::Acquire) > 0
    }

    /// Why it cannot be removed as it is, in dockerd's words; `called` is how the client called it.
    pub(crate) fn removal_conflict(
        &self,
        called: &str,
        options: RemoveOptions,
    ) -> Option<EngineError> {
        let shared = self.lock();
        let why = match &shared.lifecycle {
            Lifecycle::Paused(_) if !options.force => {
                "container is paused and must be unpaused first"
            }
            Lifecycle::Running(_) | Lifecycle::Stopping(_) | Lifecycle::Starting
                if !options.force =>
            {
                "container is running: stop the container before removing or force remove"
            }
            _ => return None,
        };
        Some(EngineError::Conflict(format!(
            "cannot remove container \"{called}\": {why}"
        )))
    }
}

impl Shared {
    /// Moves the state; only the owner may.
    pub(crate) fn transition(&mut self, what: Move) -> Result<(), IllegalMove> {
        let by_policy = matches!(self.lifecycle, Lifecycle::Restarting(_));
        self.lifecycle = self.lifecycle.apply(what)?;
        self.started_by_policy = by_policy && self.lifecycle == Lifecycle::Starting;
        Ok(())
    }

    /// The present state.
    pub(crate) fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Sets what the keeper says is true, whatever was stored. Recovery only.
    pub(crate) fn recovered(&mut self, lifecycle: Lifecycle) {
        self.lifecycle = lifecycle;
    }

    /// Docker's view of the state.
    pub(crate) fn state_view(&self) -> StateView {
        let never_started = self.started_at.is_none();
        let status = match &self.lifecycle {
            Lifecycle::Created => Status::Created,
            // A start that failed leaves a container that has never run as it was, for dockerd.
            // As dockerd has it: a start by the restart policy is part of the restart.
            Lifecycle::Starting if self.started_by_policy => Status::Restarting,
            Lifecycle::Starting | Lifecycle::Exited(_) if never_started => Status::Created,
            Lifecycle::Starting | Lifecycle::Exited(_) => Status::Exited,
            Lifecycle::Running(_) | Lifecycle::Stopping(_) => Status::Running,
            Lifecycle::Paused(_) => Status::Paused,
            Lifecycle::Restarting(_) => Status::Restarting,
            Lifecycle::Removing => Status::Removing,
            Lifecycle::Dead => Status::Dead,
        };
        let running = self.lifecycle.running();
        StateView {
            lifecycle: self.lifecycle.clone(),
            status,
            pid: running.map_or(0, |facts| facts.pid),
            exit_code: if running.is_some() { 0 } else { self.exit_code },
            error: Arc::clone(&self.error),
            oom_killed: self.oom_killed,
            started_at: self.started_at,
            finished_at: self.finished_at,
        }
    }

    fn stored(&self) -> StoredState {
        let (phase, reason) = match &self.lifecycle {
            Lifecycle::Created => (Phase::Created, None),
            Lifecycle::Starting => (Phase::Starting, None),
            Lifecycle::Running(_) | Lifecycle::Stopping(_) => (Phase::Running, None),
            Lifecycle::Paused(_) => (Phase::Paused, None),
            Lifecycle::Exited(exit) => (Phase::Exited, Some(exit.reason)),
            Lifecycle::Restarting(exit) => (Phase::Restarting, Some(exit.reason)),
            Lifecycle::Removing => (Phase::Removing, None),
            Lifecycle::Dead => (Phase::Dead, None),
        };
        StoredState {
            phase,
            pid: self.lifecycle.running().map_or(0, |facts| facts.pid),
            started_at: self.started_at,
            finished_at: self.finished_at,
            exit_code: self.exit_code,
            reason,
            error: self.error.to_string(),
            oom_killed: self.oom_killed,
            restart_count: self.history.count,
            asked_to_stop: self.asked_to_stop,
            endpoint: self.endpoint.as_deref().cloned(),
        }
    }
}
