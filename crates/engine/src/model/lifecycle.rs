//! The states of a container and the one function that moves between them.
//!
//! ```text
//! Created ─▶ Starting ─▶ Running ◀─▶ Paused
//!    │          │  ▲        │  ╲        │
//!    │          ▼  │        ▼   ▶ Stopping
//!    │        Exited ◀──────┴───────────┘
//!    │          │ ▲╲
//!    ▼          ▼ │ ▶ Restarting ─▶ Starting
//! Removing ◀────┴─┴────┘
//!    │ ╲
//!  gone  ▶ Dead ─▶ Removing
//! ```
//!
//! Nothing outside `Lifecycle::apply` changes a state; an illegal move names both states.

use kekkai_types::Timestamp;
use serde::{Deserialize, Serialize};

/// The state of a container, with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lifecycle {
    /// Made, never started.
    Created,
    /// On its way to run.
    Starting,
    /// Its process runs.
    Running(RunningFacts),
    /// Frozen.
    Paused(RunningFacts),
    /// Asked to stop, not gone yet.
    Stopping(RunningFacts),
    /// Its process is gone, or never came to be.
    Exited(ExitFacts),
    /// Waits to be started again by its policy.
    Restarting(ExitFacts),
    /// Going away; only the remove saga leaves this.
    Removing,
    /// Removal failed; tried again at start-up.
    Dead,
}

/// What is true of a process that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningFacts {
    /// Pid on the host.
    pub pid: u32,
    /// When it was started.
    pub started_at: Timestamp,
}

/// What is true of a process that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitFacts {
    /// Docker's exit code: 0…255, 128+n for a signal.
    pub code: i32,
    /// When it ended.
    pub at: Timestamp,
    /// Why.
    pub reason: ExitReason,
}

/// Why a container is not running any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// The process ended by itself.
    Exit,
    /// A signal ended it.
    Signal,
    /// The kernel's OOM killer ended it.
    Oom,
    /// It could not be started.
    StartFailed,
    /// Nobody saw it end (keeper lost, power cut).
    Lost,
}

/// What may happen to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Begin to start.
    Start,
    /// The process runs.
    Started(RunningFacts),
    /// Freeze.
    Pause,
    /// Thaw.
    Unpause,
    /// Asked to stop.
    Stop,
    /// The process is gone, or starting failed.
    Exit(ExitFacts),
    /// The policy wants it back.
    Restart,
    /// A restart was called off.
    CancelRestart,
    /// Begin to remove.
    Remove,
    /// Removal failed.
    RemoveFailed,
}

/// A move that is not allowed from where the container is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {asked} a container that is {from}")]
pub struct IllegalMove {
    /// Where it is.
    pub from: &'static str,
    /// What was asked.
    pub asked: &'static str,
}

impl Lifecycle {
    /// The state after `what`, or why it may not happen.
    ///
    /// # Errors
    /// `IllegalMove` when the diagram has no such edge.
    pub fn apply(&self, what: Move) -> Result<Self, IllegalMove> {
        Ok(match (self, what) {
            (Self::Created | Self::Exited(_) | Self::Restarting(_), Move::Start) => Self::Starting,
            (Self::Starting, Move::Started(facts)) => Self::Running(facts),
            (Self::Running(facts), Move::Pause) => Self::Paused(*facts),
            (Self::Paused(facts), Move::Unpause) => Self::Running(*facts),
            (Self::Running(facts) | Self::Paused(facts), Move::Stop) => Self::Stopping(*facts),
            (Self::Stopping(facts), Move::Stop) => Self::Stopping(*facts),
            (
                Self::Starting | Self::Running(_) | Self::Paused(_) | Self::Stopping(_),
                Move::Exit(exit),
            ) => Self::Exited(exit),
            (Self::Exited(exit), Move::Restart) => Self::Restarting(exit.clone()),
            (Self::Restarting(exit), Move::CancelRestart) => Self::Exited(exit.clone()),
            (
                Self::Created | Self::Starting | Self::Exited(_) | Self::Restarting(_) | Self::Dead,
                Move::Remove,
            ) => Self::Removing,
            (Self::Removing, Move::RemoveFailed) => Self::Dead,
            (from, what) => {
                return Err(IllegalMove {
                    from: from.word(),
                    asked: what.word(),
                });
            }
        })
    }

    /// Whether a process of this container exists.
    pub fn is_running(&self) -> bool {
        self.running().is_some()
    }

    /// The running process, if there is one.
    pub fn running(&self) -> Option<RunningFacts> {
        match self {
            Self::Running(facts) | Self::Paused(facts) | Self::Stopping(facts) => Some(*facts),
            _ => None,
        }
    }

    /// Our own word for the state, for messages.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Stopping(_) => "stopping",
            Self::Exited(_) => "exited",
            Self::Restarting(_) => "restarting",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }
}

impl Move {
    fn word(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Started(_) => "mark as started",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Stop => "stop",
            Self::Exit(_) => "mark as exited",
            Self::Restart => "restart",
            Self::CancelRestart => "cancel the restart of",
            Self::Remove => "remove",
            Self::RemoveFailed => "mark as dead",
        }
    }
}

/// Docker's word for a state (`State.Status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Never started.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// Waits for its policy.
    Restarting,
    /// Going away.
    Removing,
    /// Gone.
    Exited,
    /// Could not be removed.
    Dead,
}

impl Status {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moves() -> impl Strategy<Value = Move> {
        let running = (1..9_u32).prop_map(|pid| RunningFacts {
            pid,
            started_at: Timestamp::from_unix_nanos(1),
        });
        let exit = (0..256_i32).prop_map(|code| ExitFacts {
            code,
            at: Timestamp::from_unix_nanos(2),
            reason: ExitReason::Exit,
        });
        prop_oneof![
            Just(Move::Start),
            running.prop_map(Move::Started),
            Just(Move::Pause),
            Just(Move::Unpause),
            Just(Move::Stop),
            exit.prop_map(Move::Exit),
            Just(Move::Restart),
            Just(Move::CancelRestart),
            Just(Move::Remove),
            Just(Move::RemoveFailed),
        ]
    }

    /// The edges of `design/flow.md`, and the staying in `Stopping` when asked twice.
    fn allowed(from: &str, to: &str) -> bool {
        matches!(
            (from, to),
            ("created", "starting" | "removing")
                | ("starting", "running" | "exited" | "removing")
                | ("running", "paused" | "stopping" | "exited")
                | ("paused", "running" | "stopping" | "exited")
                | ("stopping", "stopping" | "exited")
                | ("exited", "starting" | "restarting" | "removing")
                | ("restarting", "starting" | "exited" | "removing")
                | ("removing", "dead")
                | ("dead", "removing")
        )
    }

    proptest! {
        #[test]
        fn only_drawn_edges(steps in prop::collection::vec(moves(), 0..200)) {
            let mut state = Lifecycle::Created;
            for step in steps {
                let asked = step.word();
                match state.apply(step) {
                    Ok(next) => {
                        prop_assert!(allowed(state.word(), next.word()), "{} to {}", state.word(), next.word());
                        // A process neither appears nor changes but by being started.
                        if let (Some(before), Some(after)) = (state.running(), next.running()) {
                            prop_assert_eq!(before, after);
                        }
                        prop_assert_eq!(next.is_running(), matches!(next.word(), "running" | "paused" | "stopping"));
                        state = next;
                    }
                    Err(error) => {
                        prop_assert_eq!(error.from, state.word());
                        prop_assert_eq!(error.asked, asked);
                    }
                }
            }
        }
    }
}
