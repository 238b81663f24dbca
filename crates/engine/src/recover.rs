//! The engine comes back: rows are read, the keeper is asked what really runs, what was half done is finished or undone,
//! and restart policies take hold.
//!
//! ```text
//!  row \ keeper │ running          │ exited             │ unknown
//!  created      │ adopt            │ what follows exit  │ created
//!  running …    │ adopt            │ what follows exit  │ exited 255 (Lost), then what follows exit
//!  exited       │ adopt            │ exited             │ exited
//!  removing     │ —                │ removed            │ removed
//!  any, --rm    │ adopt            │ removed            │ removed
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kekkai_keeper::protocol::{Exit, Request, Target, Task};
use kekkai_metadata::Table;
use kekkai_types::{ContainerId, Timestamp};
use tokio::sync::mpsc;

use crate::EngineError;
use crate::container::Container;
use crate::exec::ExecSession;
use crate::exit::facts;
use crate::failpoint;
use crate::inner::Inner;
use crate::janitor::Chore;
use crate::model::{ExitFacts, ExitReason, Lifecycle, MountKind, RestartPolicy, RunningFacts};
use crate::owner::{Cleanup, Command};
use crate::record::{ContainerRow, Phase, VERSION};

/// The exit code of a container whose end nobody saw.
const LOST: i32 = 255;

/// How long a start that is under way may take before it is given up, in steps.
const STARTING_TRIES: u32 = 250;
const STARTING_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

struct Restored {
    container: Arc<Container>,
    queue: mpsc::UnboundedReceiver<Command>,
    cleanup: Cleanup,
    boot: bool,
}

/// Whether a policy starts a stopped container when the engine starts.
fn starts_at_boot(policy: &RestartPolicy, code: i32, asked_to_stop: bool, count: u32) -> bool {
    match policy.name.as_str() {
        "always" => true,
        "unless-stopped" => !asked_to_stop,
        "on-failure" => {
            let limit = u32::try_from(policy.maximum_retry_count).unwrap_or(0);
            !asked_to_stop && code != 0 && (limit == 0 || count < limit)
        }
        _ => false,
    }
}

/// Brings everything back; `replaced` are tasks that a former keeper had. Called once, before the engine is used.
pub(crate) fn recover(inner: &Arc<Inner>, replaced: Vec<Task>) -> Result<(), EngineError> {
    let rows = inner.database.load(Table::Containers)?;
    let mut tasks = settled_tasks(inner)?;
    tasks.extend(replaced);
    let mut by_container: HashMap<ContainerId, Task> = HashMap::new();
    for task in &tasks {
        if let Target::Container(id) = task.target {
            by_container.insert(id, *task);
        }
    }
    let mut restored = Vec::new();
    for row in rows {
        let Ok(id) = row.key.parse::<ContainerId>() else {
            tracing::error!(key = row.key, "a container's row has no id for a key");
            continue;
        };
        match row.parse::<ContainerRow>(Table::Containers) {
            Ok(stored) if stored.version <= VERSION => {
                restored.push(restore(inner, id, stored, by_container.get(&id).copied()));
            }
            Ok(stored) => {
                tracing::error!(container = %id, version = stored.version, "a newer version wrote this container");
            }
            Err(error) => tracing::error!(container = %id, %error, "reading a container"),
        }
    }
    // Only where something comes back: a first start has nothing to lose.
    let point = |name| {
        if restored.is_empty() {
            Ok(())
        } else {
            failpoint::check(name)
        }
    };
    point(failpoint::RECOVER_LOADED)?;
    adopt_networks(inner, &restored)?;
    adopt_execs(inner, &tasks);
    adopt_storage(inner, &restored);
    point(failpoint::RECOVER_ADOPTED)?;
    sweep(inner, &restored, &tasks);
    point(failpoint::RECOVER_SWEPT)?;
    let now = restored.len();
    for one in restored {
        crate::owner::spawn(inner, &one.container, one.queue, one.cleanup);
        if one.boot {
            one.container.send(Command::Boot)?;
        }
    }
    tracing::info!(containers = now, kept = tasks.len(), "recovered");
    Ok(())
}

/// What the keeper keeps, once every start that a former daemon had asked for has come to an end.
fn settled_tasks(inner: &Inner) -> Result<Vec<Task>, EngineError> {
    let list = || {
        inner
            .keeper
            .list()
            .map_err(|error| EngineError::Unavailable(error.to_string()))
    };
    for _ in 0..STARTING_TRIES {
        let tasks = list()?;
        if tasks
            .iter()
            .all(|task| task.pid != 0 || task.exit.is_some())
        {
            return Ok(tasks);
        }
        std::thread::sleep(STARTING_PAUSE);
    }
    list()
}

fn restore(inner: &Arc<Inner>, id: ContainerId, row: ContainerRow, task: Option<Task>) -> Restored {
    let auto_remove = row.spec.host.auto_remove;
    let removing = matches!(
        row.state.phase,
        Phase::Creating | Phase::Removing | Phase::Dead
    );
    let (container, queue) = Container::restored(id, row);
    let name = container.name();
    if let Err(error) = inner.directory.reserve(&name, id) {
        tracing::error!(container = %id, %error, "two containers have one name");
    }
    inner.directory.insert(Arc::clone(&container));
    let mut cleanup = Cleanup::None;
    {
        let mut shared = container.lock();
        let was_running =
            shared.lifecycle().is_running() || *shared.lifecycle() == Lifecycle::Starting;
        match task {
            Some(Task {
                exit: None,
                pid,
                started_at,
                ..
            }) if pid != 0 => {
                let started_at = Timestamp::from_unix_nanos(started_at);
                shared.started_at = Some(started_at);
                let running = RunningFacts { pid, started_at };
                let frozen = is_frozen(inner, id, &shared.spec);
                shared.recovered(if frozen {
                    Lifecycle::Paused(running)
                } else {
                    Lifecycle::Running(running)
                });
            }
            Some(Task {
                exit: Some(exit),
                started_at,
                ..
            }) if was_running || !is_recorded(&shared, &exit) => {
                shared.started_at = Some(Timestamp::from_unix_nanos(started_at));
                ended(&mut shared, facts(&exit));
                cleanup = Cleanup::AfterExit;
            }
            _ if *shared.lifecycle() == Lifecycle::Starting => {
                // Died between the row and the launch: as if it had never been asked to start.
                shared.endpoint = None;
                let before = match shared.finished_at {
                    Some(at) => Lifecycle::Exited(ExitFacts {
                        code: shared.exit_code,
                        at,
                        reason: ExitReason::Exit,
                    }),
                    None => Lifecycle::Created,
                };
                shared.recovered(before);
            }
            _ if was_running => {
                let recorded = read_exit_file(inner, id);
                let lost = ExitFacts {
                    code: LOST,
                    at: Timestamp::now(),
                    reason: ExitReason::Lost,
                };
                ended(&mut shared, recorded.map_or(lost, |exit| facts(&exit)));
                cleanup = Cleanup::AfterExit;
            }
            _ => {}
        }
        if removing || (auto_remove && !shared.lifecycle().is_running()) {
            cleanup = Cleanup::Remove;
        }
    }
    let boot = {
        let shared = container.lock();
        let view = shared.state_view();
        cleanup == Cleanup::None
            && matches!(shared.lifecycle(), Lifecycle::Exited(_))
            && shared.started_at.is_some()
            && starts_at_boot(
                &shared.spec.host.restart_policy,
                view.exit_code,
                shared.asked_to_stop,
                shared.history.count,
            )
    };
    Restored {
        container,
        queue,
        cleanup,
        boot,
    }
}

fn is_recorded(shared: &crate::container::Shared, exit: &Exit) -> bool {
    shared.finished_at == Some(Timestamp::from_unix_nanos(exit.at))
}

fn ended(shared: &mut crate::container::Shared, exit: ExitFacts) {
    shared.exit_code = exit.code;
    shared.finished_at = Some(exit.at);
    shared.oom_killed = exit.reason == ExitReason::Oom;
    shared.recovered(Lifecycle::Exited(exit));
}

fn is_frozen(inner: &Inner, id: ContainerId, spec: &crate::model::ContainerSpec) -> bool {
    let path = inner.cgroup_path(id, spec);
    kekkai_cgroups::Cgroup::new(&inner.cgroups, &path)
        .and_then(|cgroup| cgroup.is_frozen())
        .unwrap_or(false)
}

/// The exit that the keeper wrote before it told anybody, if it is there.
fn read_exit_file(inner: &Inner, id: ContainerId) -> Option<Exit> {
    kekkai_keeper::server::read_exit(&inner.config.exec_root, id)
}

fn adopt_networks(inner: &Inner, restored: &[Restored]) -> Result<(), EngineError> {
    let Some(network) = &inner.network else {
        return Ok(());
    };
    let running: Vec<_> = restored
        .iter()
        .filter_map(|one| {
            let shared = one.container.lock();
            let endpoint = shared.endpoint.as_deref().cloned();
            endpoint.filter(|_| shared.lifecycle().is_running())
        })
        .collect();
    for error in network
        .adopt(&running)
        .map_err(|error| EngineError::Unavailable(error.to_string()))?
    {
        tracing::warn!(%error, "taking over a published port");
    }
    Ok(())
}

fn adopt_execs(inner: &Inner, tasks: &[Task]) {
    for task in tasks {
        let Target::Exec(id) = task.target else {
            continue;
        };
        let Some(container) = inner.directory.get(task.container) else {
            continue;
        };
        let session = ExecSession::adopted(
            id,
            task.container,
            task.pid,
            task.terminal,
            Timestamp::from_unix_nanos(task.started_at),
        );
        inner.directory.insert_exec(Arc::clone(&session));
        container.lock().exec_ids.push(id);
        if let Some(exit) = &task.exit {
            session.exited(inner, exit);
        }
    }
}

fn adopt_storage(inner: &Inner, restored: &[Restored]) {
    for one in restored {
        let container = &one.container;
        let spec = container.spec();
        let key = container.id.to_string();
        let running = container.lifecycle().is_running();
        if one.cleanup != Cleanup::Remove
            && let Err(error) =
                inner
                    .snapshotter
                    .adopt(&key, &container.layers, spec.host.auto_remove)
        {
            tracing::error!(container = key, %error, "the container's file system is damaged");
        }
        let volumes = spec
            .mounts
            .iter()
            .filter(|point| point.kind == MountKind::Volume);
        for name in volumes.filter_map(|point| point.name.as_ref()?.parse().ok()) {
            if let Err(error) = inner.volumes.reference(&name, &container.id) {
                tracing::warn!(container = key, volume = %name, %error, "a container's volume");
            }
            if running && let Err(error) = inner.volumes.activate(&name, &container.id) {
                tracing::warn!(container = key, volume = %name, %error, "a running container's volume");
            }
        }
    }
}

/// Clears away what belongs to no container: snapshots, logs, run-time files, cgroups, the keeper's memories.
fn sweep(inner: &Inner, restored: &[Restored], tasks: &[Task]) {
    let known: HashSet<ContainerId> = restored.iter().map(|one| one.container.id).collect();
    let is_known = |name: &str| name.parse().is_ok_and(|id| known.contains(&id));
    let is_unknown_id = |name: &str| {
        name.parse::<ContainerId>()
            .is_ok_and(|id| !known.contains(&id))
    };
    if let Err(error) = inner.snapshotter.retain(&is_known) {
        tracing::warn!(%error, "sweeping snapshots");
    }
    // What a create had made when it was cut off, before its row was there.
    match inner.volumes.sweep_unfinished(|id| known.contains(id)) {
        Ok(volumes) if volumes.is_empty() => {}
        Ok(volumes) => tracing::info!(
            ?volumes,
            "removed volumes of containers that never came to be"
        ),
        Err(error) => tracing::warn!(%error, "sweeping volumes"),
    }
    for directory in [
        inner.config.data_root.join("containers"),
        inner.config.exec_root.join("containers"),
    ] {
        let entries = std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries.filter(|entry| is_unknown_id(&entry.file_name().to_string_lossy())) {
            inner.janitor.add(Chore::Directory(entry.path()));
        }
    }
    let running: HashSet<ContainerId> = restored
        .iter()
        .filter(|one| one.container.lifecycle().is_running())
        .map(|one| one.container.id)
        .collect();
    for id in cgroups(inner) {
        if !running.contains(&id) {
            let parent = inner.config.cgroup_parent.trim_matches('/');
            inner.janitor.add(Chore::Cgroup {
                path: format!("{parent}/{id}"),
                done: None,
            });
        }
    }
    for task in tasks {
        if !known.contains(&task.container) && task.exit.is_some() {
            inner.forget(task.target);
        } else if !known.contains(&task.container) {
            tracing::warn!(container = %task.container, pid = task.pid, "the keeper has a container that nobody knows");
            inner.keeper.submit(
                Request::Signal {
                    target: task.target,
                    signal: kekkai_types::Signal::KILL,
                },
                Vec::new(),
                Box::new(drop),
            );
        }
    }
}

/// The containers that have a cgroup beneath our parent, in any hierarchy.
fn cgroups(inner: &Inner) -> HashSet<ContainerId> {
    let Ok(parent) = kekkai_cgroups::Cgroup::new(&inner.cgroups, &inner.config.cgroup_parent)
    else {
        return HashSet::new();
    };
    let entries = parent
        .directories()
        .into_iter()
        .flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten());
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot() {
        let policy = |name: &str, count| RestartPolicy {
            name: name.into(),
            maximum_retry_count: count,
        };
        assert!(starts_at_boot(&policy("always", 0), 0, true, 0));
        assert!(!starts_at_boot(&policy("unless-stopped", 0), 0, true, 0));
        assert!(starts_at_boot(&policy("unless-stopped", 0), 137, false, 0));
        assert!(!starts_at_boot(&policy("on-failure", 3), 0, false, 0));
        assert!(!starts_at_boot(&policy("on-failure", 3), 1, false, 3));
        assert!(!starts_at_boot(&policy("no", 0), 1, false, 0));
    }
}
