//! Requests about containers: list, wait, stop, logs, attach, remove, prune, update.

use std::collections::BTreeMap;

use kekkai_types::Timestamp;

use super::{Resources, RestartPolicy};

/// Docker's filters: a key with the values that satisfy it. Unknown keys are refused by the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(pub BTreeMap<String, Vec<String>>);

impl Filters {
    /// The values of `key`; empty when it is not filtered by.
    pub fn get(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether there is no filter at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListContainers {
    /// Stopped ones too.
    pub all: bool,
    /// At most this many of the newest (implies `all`).
    pub limit: Option<usize>,
    /// Compute sizes.
    pub size: bool,
    /// Conditions.
    pub filters: Filters,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// Not running (at once if it does not run).
    #[default]
    NotRunning,
    /// The next exit.
    NextExit,
    /// Gone: name, ports and address are free.
    Removed,
}

/// What `wait` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitResult {
    /// The exit code.
    pub code: i64,
    /// Why it could not be removed, if that was waited for.
    pub error: Option<String>,
}

/// How to stop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// Signal, name or number; the container's when absent.
    pub signal: Option<String>,
    /// Seconds until SIGKILL; the container's (or 10) when absent, negative waits for ever.
    pub timeout: Option<i64>,
}

/// How to remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it first.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
    /// A legacy link only (refused).
    pub link: bool,
}

/// Which stream a frame belongs to; the numbers are Docker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StdStream {
    /// 0
    Stdin,
    /// 1
    Stdout,
    /// 2
    Stderr,
}

impl StdStream {
    /// Docker's number in a stream header.
    pub fn number(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

/// What to attach to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the wire's own shape: independent switches"
)]
pub struct AttachOptions {
    /// What was written before, too.
    pub logs: bool,
    /// What will be written.
    pub stream: bool,
    /// Send input.
    pub stdin: bool,
    /// Receive stdout.
    pub stdout: bool,
    /// Receive stderr.
    pub stderr: bool,
    /// Keys that detach, Docker's notation; the daemon's default when absent.
    pub detach_keys: Option<String>,
}

/// Which log lines to give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the wire's own shape: independent switches"
)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// Lines of stdout.
    pub stdout: bool,
    /// Lines of stderr.
    pub stderr: bool,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Only the last lines; all when absent.
    pub tail: Option<u64>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// Each line begins with the log's extra attributes.
    pub details: bool,
}

/// What to change in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpdateContainer {
    /// Limits; zero means unchanged.
    pub resources: Resources,
    /// The policy; unchanged when absent.
    pub restart_policy: Option<RestartPolicy>,
}

/// What a prune took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Ids or names.
    pub deleted: Vec<String>,
    /// Bytes.
    pub space_reclaimed: u64,
}
