//! The end of a process: recorded, told to those who wait, and only then cleared away.

use std::sync::Arc;
use std::time::Duration;

use kekkai_keeper::protocol::{Exit, Target};
use kekkai_metadata::Durability;
use kekkai_types::{ExitStatus, Timestamp};
use tokio::sync::oneshot;

use crate::container::Shared;
use crate::failpoint;
use crate::janitor::Chore;
use crate::model::{ExitFacts, ExitReason, MountKind, Move, WaitCondition, WaitResult};
use crate::net;
use crate::owner::Owner;
use crate::plan;
use crate::restart::{LastRun, RestartDecision, decide};

/// An exit in the engine's terms.
pub(crate) fn facts(exit: &Exit) -> ExitFacts {
    let reason = match exit.status {
        _ if exit.oom => ExitReason::Oom,
        ExitStatus::Exited(_) => ExitReason::Exit,
        ExitStatus::Signaled(_) => ExitReason::Signal,
    };
    ExitFacts {
        code: exit.status.code(),
        at: Timestamp::from_unix_nanos(exit.at),
        reason,
    }
}

fn point(name: &'static str) {
    if let Err(error) = failpoint::check(name) {
        // Nobody is there to fail for: the process has ended, whatever happens here.
        tracing::warn!(%error, "on exit");
    }
}

impl Owner {
    /// The keeper says that the process is gone.
    pub(crate) async fn exited(&mut self, exit: Exit) {
        point(failpoint::EXIT_RECEIVED);
        let exit = facts(&exit);
        let Some(running) = self.container.lifecycle().running() else {
            return;
        };
        if exit.at < running.started_at {
            // Told again from before the present start.
            return;
        }
        let lasted = exit.at.since(running.started_at);
        let decision;
        {
            let mut shared = self.container.lock();
            if let Err(error) = shared.transition(Move::Exit(exit.clone())) {
                tracing::error!(%error, "marking a container as exited");
            }
            shared.exit_code = exit.code;
            shared.finished_at = Some(exit.at);
            shared.oom_killed = exit.reason == ExitReason::Oom;
            // In the same breath: nobody may see `exited` of a container that its policy starts again.
            decision = self.settle(&mut shared, lasted);
        }
        self.after_exit(lasted, decision, true).await;
    }

    /// The end of a run that an earlier daemon did not finish.
    pub(crate) async fn finish_exit(&mut self) {
        let decision = self.settle(&mut self.container.lock(), Duration::ZERO);
        self.after_exit(Duration::ZERO, decision, false).await;
    }

    /// Decides what follows an exit that is in the state already, and moves to `Restarting` where that is it.
    fn settle(&self, shared: &mut Shared, lasted: Duration) -> RestartDecision {
        let run = LastRun {
            code: shared.exit_code,
            lasted,
            asked_to_stop: shared.asked_to_stop,
        };
        let decision = if self.restarts.is_empty() && self.removals.is_empty() {
            decide(&shared.spec.host.restart_policy, run, shared.history)
        } else {
            RestartDecision::Stay
        };
        if let RestartDecision::Again(history) = decision {
            shared.history = history;
            if let Err(error) = shared.transition(Move::Restart) {
                tracing::error!(%error, "marking a container as restarting");
            }
        }
        decision
    }

    /// What follows an exit. `live`: it happened while this daemon ran.
    async fn after_exit(&mut self, lasted: Duration, decision: RestartDecision, live: bool) {
        self.clear_deadline();
        let (code, spec) = {
            let shared = self.container.lock();
            (shared.exit_code, Arc::clone(&shared.spec))
        };
        let result = WaitResult {
            code: i64::from(code),
            error: None,
        };
        self.container.notify(
            &[WaitCondition::NotRunning, WaitCondition::NextExit],
            &result,
        );

        let stays = matches!(decision, RestartDecision::Stay);
        let goes =
            spec.host.auto_remove && stays && self.restarts.is_empty() || !self.removals.is_empty();
        if !goes {
            drop(
                self.container
                    .persist(&self.inner.database, Durability::Process),
            );
        }
        point(failpoint::EXIT_RECORDED);
        if live {
            if self.container.lock().oom_killed {
                self.inner.container_event(&self.container, "oom", &[]);
            }
            if !self.stops.is_empty() || !self.restarts.is_empty() {
                self.inner.container_event(&self.container, "stop", &[]);
            }
            let extra = [
                ("execDuration", lasted.as_secs().to_string()),
                ("exitCode", code.to_string()),
            ];
            self.inner.container_event(&self.container, "die", &extra);
        }
        self.clear_run(&spec);
        for reply in self.stops.drain(..).chain(self.kills.drain(..)) {
            // The client may have gone.
            let _ = reply.send(Ok(()));
        }
        if !self.removals.is_empty() {
            let volumes = self.removals.iter().any(|(options, _)| options.volumes);
            self.remove_now(volumes).await;
        } else if !self.restarts.is_empty() {
            self.start_again().await;
        } else if goes {
            self.remove_now(true).await;
        } else if let RestartDecision::Again(history) = decision {
            self.restart_after(history.pause);
        }
    }

    /// Gives back what the run had: endpoint, cgroup, volumes, shared memory, the keeper's memory of it.
    fn clear_run(&mut self, spec: &crate::model::ContainerSpec) {
        let endpoint = self.container.lock().endpoint.take();
        if let Some(record) = endpoint {
            net::release(&self.inner, &record);
        }
        net::event(&self.inner, &self.container, spec, "disconnect");
        point(failpoint::EXIT_NETWORK);
        let (done, gone) = oneshot::channel();
        let path = self.inner.cgroup_path(self.container.id, spec);
        self.inner.janitor.add(Chore::Cgroup {
            path,
            done: Some(done),
        });
        self.cgroup_gone = Some(gone);
        let has_volumes = spec
            .mounts
            .iter()
            .any(|point| point.kind == MountKind::Volume);
        for name in spec
            .mounts
            .iter()
            .filter_map(|point| point.name.as_ref()?.parse().ok())
        {
            if let Err(error) = self.inner.volumes.deactivate(&name, &self.container.id) {
                tracing::warn!(%error, volume = %name, "releasing a volume");
            }
        }
        if has_volumes {
            self.mount_events("unmount");
        }
        if spec.host.ipc_mode == "shareable" {
            crate::files::unmount_shm(&plan::shm_directory(&self.inner, self.container.id));
        }
        if !self.container.has_sessions() {
            self.inner.forget(Target::Container(self.container.id));
        }
        point(failpoint::EXIT_CLEANED);
    }

    /// The second half of `restart`.
    async fn start_again(&mut self) {
        let outcome = Box::pin(self.start()).await;
        if let Err(error) = outcome {
            for reply in self.restarts.drain(..) {
                let _ = reply.send(Err(crate::EngineError::System(error.to_string())));
            }
            return;
        }
        for reply in self.restarts.drain(..) {
            // The client may have gone.
            let _ = reply.send(Ok(()));
        }
        self.inner.container_event(&self.container, "restart", &[]);
    }
}
