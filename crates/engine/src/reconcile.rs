//! After the connection to the keeper was lost and renewed: events may have been missed, so its list is compared with
//! what the engine believes.

use std::collections::HashMap;

use kekkai_keeper::protocol::{Exit, Target};
use kekkai_types::ExitStatus;

use crate::inner::Inner;
use crate::owner::Command;

/// What is told of a process that the keeper does not know any more and that left no exit behind.
const LOST: u8 = 255;

/// Tells every owner what it may have missed. Blocks.
pub(crate) fn reconcile(inner: &Inner) {
    let tasks = match inner.keeper.list() {
        Ok(tasks) => tasks,
        Err(error) => {
            tracing::error!(%error, "asking the keeper after a reconnect");
            return;
        }
    };
    let by_target: HashMap<Target, _> = tasks.iter().map(|task| (task.target, task)).collect();
    for container in inner.directory.all() {
        let Some(running) = container.lifecycle().running() else {
            continue;
        };
        let exit = match by_target.get(&Target::Container(container.id)) {
            Some(task) => task.exit,
            None => kekkai_keeper::server::read_exit(&inner.config.exec_root, container.id)
                .filter(|exit| exit.at >= running.started_at.unix_nanos())
                .or(Some(Exit {
                    status: ExitStatus::Exited(LOST),
                    oom: false,
                    at: kekkai_types::Timestamp::now().unix_nanos(),
                })),
        };
        if let Some(exit) = exit {
            // An owner that has ended has removed its container.
            let _ = container.send(Command::Exited(exit));
        }
    }
    for task in tasks {
        if let (Target::Exec(id), Some(exit)) = (task.target, task.exit)
            && let Some(session) = inner.directory.exec(id)
        {
            session.exited(inner, &exit);
        }
    }
}
