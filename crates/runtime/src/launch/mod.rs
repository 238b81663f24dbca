//! Launching: from a plan to a process.
//!
//! What must stay true: the caller is a single-threaded launcher whose only business this is; between the clone and the
//! `execve` the child shares its memory (straight) or has a copy (staged), and in both cases the launcher waits.
//! Nothing of a failed launch stays behind except the cgroup, which the engine removes.

mod container;
mod devices;
mod exec;
mod failure;
mod mounts;
mod process;
mod small;
mod spawn;
mod user;

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use self::failure::{What, launch_error};
use crate::{ContainerPlan, ExecPlan, LaunchError};

/// The kinds of namespaces, in OCI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are OCI's")]
pub enum NamespaceKind {
    Mount,
    Pid,
    Network,
    Ipc,
    Uts,
    Cgroup,
    User,
    Time,
}

/// A namespace to join, by descriptor: either a namespace file (`/proc/PID/ns/net`) or a pidfd of a process in it.
/// It takes precedence over what the plan says about that kind.
#[derive(Debug)]
pub struct JoinNamespace {
    /// Which namespace of it.
    pub kind: NamespaceKind,
    /// A namespace file or a pidfd.
    pub fd: OwnedFd,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "rows and columns")]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

/// The three standard streams of the process.
#[derive(Debug)]
pub enum Stdio {
    /// Pipes or files; `None` is `/dev/null`. They are handed to the user of the process (`fchown`), so that
    /// `/dev/stdout` can be opened again.
    Pipes {
        /// Read end.
        stdin: Option<OwnedFd>,
        /// Write end.
        stdout: Option<OwnedFd>,
        /// Write end.
        stderr: Option<OwnedFd>,
    },
    /// A pseudo-terminal, whose master comes back in [`Launched::console`].
    Terminal {
        /// The size to start with; `None` leaves the kernel's 0×0.
        size: Option<WindowSize>,
    },
}

/// Whose child the new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The launcher's, which then must reap it.
    Caller,
    /// The launcher's parent's (`CLONE_PARENT`): the keeper reaps it, the launcher may die.
    CallersParent,
}

/// Descriptors and circumstances of one launch.
#[derive(Debug)]
pub struct LaunchFds {
    /// The standard streams.
    pub stdio: Stdio,
    /// The network namespace to start in, from the pool or of another container. `None`: as the plan says.
    pub netns: Option<OwnedFd>,
    /// Other namespaces to join (`--pid container:…`, `--ipc container:…`).
    pub namespaces: Vec<JoinNamespace>,
    /// Whose child the process becomes.
    pub parent: Parent,
}

/// A terminal's descriptors that outlive the launch.
#[derive(Debug)]
pub struct Console {
    /// The master side.
    pub master: OwnedFd,
    /// The container's devpts mount, for later exec sessions with a terminal.
    pub devpts: OwnedFd,
}

/// A process that runs the user's program.
#[derive(Debug)]
pub struct Launched {
    /// Its pid in the caller's pid namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// The terminal, if one was asked for.
    pub console: Option<Console>,
    /// What keeps the container's mounts up: its mount namespace (its root mount before Linux 6.11). Holding it until
    /// the exit is recorded keeps the exit itself from waiting for their end (an RCU grace period, the overlay's sync);
    /// the last close may then take long, so close it in a thread that may wait. `None` for exec sessions.
    pub rootfs: Option<OwnedFd>,
}

/// The container that an exec session enters.
#[derive(Debug)]
pub struct ExecTarget<'fd> {
    /// Pid of the container's first process.
    pub pid: i32,
    /// Its pidfd: what is really entered, so a recycled pid does no harm.
    pub pidfd: BorrowedFd<'fd>,
    /// [`Console::devpts`] of the container, if it was kept. `None`: the container's `/dev/pts` is opened beneath its
    /// root and verified to be a devpts.
    pub devpts: Option<BorrowedFd<'fd>>,
}

/// Starts a container: makes its cgroup, clones, sets everything up and executes the program. Returns when the program
/// runs (or has ended already).
///
/// # Errors
/// [`LaunchError`] in runc's words. Nothing but the cgroup is left behind.
pub fn launch_container(plan: &ContainerPlan, fds: LaunchFds) -> Result<Launched, LaunchError> {
    container::launch(plan, fds).map_err(|failure| launch_error(What::Container, failure))
}

/// Makes a container's cgroup with its limits ahead of the start, which costs some 0.4 ms on version 1: right after
/// `create`, in any process and thread that may block shortly. Tell the plan by [`ContainerPlan::set_cgroup_prepared`];
/// whoever removes the container removes the cgroup, started or not.
///
/// # Errors
/// [`LaunchError`] as the start would give it.
pub fn prepare_cgroup(plan: &ContainerPlan) -> Result<(), LaunchError> {
    container::prepare_cgroup(plan).map_err(|failure| launch_error(What::Container, failure))
}

/// Does what the first launch of a process would do besides (finding the cgroup hierarchies, making the mount namespace
/// that containers are cloned from): call it when a launcher starts, so that the first container is not the slow one.
/// What fails here is tried again, and told, at the first launch.
pub fn warm_up() {
    let _ = container::layout();
    let _ = small::is_available();
}

/// Starts a process in a running container.
///
/// # Errors
/// [`LaunchError`] in runc's words.
pub fn launch_exec(
    plan: &ExecPlan,
    target: &ExecTarget<'_>,
    fds: LaunchFds,
) -> Result<Launched, LaunchError> {
    exec::launch(plan, target, fds).map_err(|failure| launch_error(What::Exec, failure))
}
