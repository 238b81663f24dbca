//! Exec sessions.

use kekkai_types::{ContainerId, ExecId, Timestamp};

/// A process to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the wire's own shape: independent switches"
)]
pub struct ExecCreate {
    /// Send input.
    pub attach_stdin: bool,
    /// Receive stdout.
    pub attach_stdout: bool,
    /// Receive stderr.
    pub attach_stderr: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// Added to the container's environment.
    pub env: Vec<String>,
    /// `user[:group]`; the container's when absent.
    pub user: Option<String>,
    /// The container's when absent.
    pub working_dir: Option<String>,
    /// All capabilities.
    pub privileged: bool,
    /// Keys that detach.
    pub detach_keys: Option<String>,
    /// Height and width of the terminal.
    pub console_size: Option<[u16; 2]>,
}

/// How to start an exec session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecStart {
    /// Do not attach.
    pub detach: bool,
    /// What the client believes about the terminal (checked as dockerd does).
    pub tty: bool,
    /// Height and width of the terminal.
    pub console_size: Option<[u16; 2]>,
}

/// One moment of an exec session.
#[derive(Debug, Clone)]
pub struct ExecView {
    /// Its id.
    pub id: ExecId,
    /// Its container.
    pub container: ContainerId,
    /// What was asked for.
    pub request: std::sync::Arc<ExecCreate>,
    /// It runs.
    pub running: bool,
    /// Its exit code, once there is one.
    pub exit_code: Option<i32>,
    /// Pid on the host; 0 before the start.
    pub pid: u32,
    /// When it was made.
    pub created: Timestamp,
}
