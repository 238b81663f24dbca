//! Removing: one rename, one row deleted, the rest in the background. `removed` is only told when name, ports and
//! address are free.

use kekkai_keeper::protocol::Target;
use kekkai_metadata::Durability;

use crate::EngineError;
use crate::failpoint;
use crate::janitor::Chore;
use crate::model::{EventKind, MountKind, Move, WaitCondition, WaitResult};
use crate::owner::Owner;

impl Owner {
    /// Removes the container, which does not run, and answers everyone who waits for that.
    pub(crate) async fn remove_now(&mut self, volumes: bool) {
        self.clear_deadline();
        if let Err(error) = self.container.transition(Move::Remove) {
            let text = error.to_string();
            for (_, reply) in self.removals.drain(..) {
                let _ = reply.send(Err(EngineError::Conflict(text.clone())));
            }
            return;
        }
        let code = i64::from(self.container.lock().exit_code);
        match self.remove_steps(volumes).await {
            Ok(()) => {
                self.container.notify(
                    &[
                        WaitCondition::Removed,
                        WaitCondition::NextExit,
                        WaitCondition::NotRunning,
                    ],
                    &WaitResult { code, error: None },
                );
                for (_, reply) in self.removals.drain(..) {
                    // The client may have gone.
                    let _ = reply.send(Ok(()));
                }
                self.finish();
            }
            Err(error) => {
                tracing::error!(container = %self.container.id, %error, "removing");
                {
                    let mut shared = self.container.lock();
                    if let Err(error) = shared.transition(Move::RemoveFailed) {
                        tracing::error!(%error, "marking a container as dead");
                    }
                    shared.error = std::sync::Arc::from(error.to_string());
                }
                drop(
                    self.container
                        .persist(&self.inner.database, Durability::Process),
                );
                let text = error.to_string();
                self.container.notify(
                    &[WaitCondition::Removed],
                    &WaitResult {
                        code,
                        error: Some(text.clone()),
                    },
                );
                for (_, reply) in self.removals.drain(..) {
                    let _ = reply.send(Err(EngineError::System(text.clone())));
                }
            }
        }
    }

    async fn remove_steps(&mut self, volumes: bool) -> Result<(), EngineError> {
        let (inner, container) = (
            std::sync::Arc::clone(&self.inner),
            std::sync::Arc::clone(&self.container),
        );
        let (id, spec, name) = (container.id, container.spec(), container.name());
        let transient = spec.host.auto_remove;
        failpoint::check(failpoint::RM_BEGIN)?;
        self.unprepare();
        if !transient {
            // A crash from here on is finished by recovery; an `--rm` container is removed by it in any case.
            drop(container.persist(&inner.database, Durability::Process));
        }
        inner.snapshotter.remove(&id.to_string()).map_err(|error| {
            EngineError::System(format!("removing the container's file system: {error}"))
        })?;
        failpoint::check(failpoint::RM_SNAPSHOT)?;

        for point in spec
            .mounts
            .iter()
            .filter(|point| point.kind == MountKind::Volume)
        {
            let Some(volume) = point.name.as_ref().and_then(|name| name.parse().ok()) else {
                continue;
            };
            inner.volumes.unreference(&volume, &id);
            if volumes && point.anonymous {
                match inner.volumes.remove(volume.as_str(), true) {
                    Ok(Some(removed)) => inner.events.publish(
                        EventKind::Volume,
                        "destroy",
                        volume.as_str(),
                        vec![("driver".to_owned(), removed.driver)],
                    ),
                    Ok(None) => {}
                    // In use by another container (`--volumes-from`): it stays.
                    Err(error) => {
                        tracing::debug!(%error, volume = %volume, "removing an anonymous volume")
                    }
                }
            }
        }
        failpoint::check(failpoint::RM_VOLUMES)?;

        inner.janitor.add(Chore::Directory(inner.run_directory(id)));
        inner
            .janitor
            .add(Chore::Directory(inner.data_directory(id)));
        failpoint::check(failpoint::RM_FILES)?;

        let deleted = container.delete_row(&inner.database, Durability::Process);
        if !transient {
            deleted
                .await
                .map_err(|_| EngineError::Unavailable("the database is closed".to_owned()))??;
        }
        failpoint::check(failpoint::RM_ROW)?;

        if !container.has_sessions() {
            inner.forget(Target::Container(id));
        }
        inner.directory.remove(id);
        inner.directory.release(&name, id);
        inner.container_event(&container, "destroy", &[]);
        failpoint::check(failpoint::RM_DONE)
    }
}
