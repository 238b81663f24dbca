//! Launchers: single-threaded processes that start containers, so that the control loop never waits for one.
//!
//! ```text
//!   keeper ──Job──▶ launcher ──vfork, CLONE_PARENT──▶ container (the keeper's child)
//!          ◀─Done──
//! ```
//!
//! What must stay true: a launcher may hang in a job for as long as it likes (a frozen cgroup, a dead mount); it has a
//! descriptor table of its own and nothing of the keeper's in it; it is made by a single-threaded process only (the
//! keeper before its threads, or another launcher), because a fork of a threaded one may inherit a held lock.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use kekkai_runtime::{
    ContainerPlan, ExecPlan, ExecTarget, JoinNamespace, LaunchError, LaunchFds, Launched,
    NamespaceKind, Parent, Stdio, WindowSize, launch_container, launch_exec,
};
use kekkai_sys::clone::{CloneFlags, spawn_copied};
use kekkai_sys::{Errno, fd, process, socket};
use kekkai_types::ErrorClass;
use serde::{Deserialize, Serialize};

use crate::failpoint;
use crate::protocol::{Failure, Join, Kind, TerminalSize, VERSION};
use crate::transport;

/// What a launcher does.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Descriptors: stdio pipes (those that are), then the joined namespaces.
    Container {
        #[serde(with = "crate::bytes")]
        plan: Vec<u8>,
        stdio: JobStdio,
        joins: Vec<Join>,
    },
    /// Descriptors: stdio pipes, the container's pidfd, its devpts if `devpts`.
    Exec {
        #[serde(with = "crate::bytes")]
        plan: Vec<u8>,
        stdio: JobStdio,
        pid: i32,
        devpts: bool,
    },
    /// Kill everything in a cgroup.
    Kill { cgroup: String },
    /// List the processes of a cgroup.
    Pids { cgroup: String },
    /// Make another launcher; its socket comes back.
    Clone,
}

/// The standard streams of a job.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum JobStdio {
    Pipes { stdin: bool },
    Terminal(Option<TerminalSize>),
}

/// What a launcher answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Done {
    /// Descriptors: pidfd, then those that are named here.
    Launched {
        pid: i32,
        master: bool,
        devpts: bool,
        rootfs: bool,
    },
    /// It could not be started.
    Failed(Failure),
    /// For [`Job::Pids`] (empty for [`Job::Kill`]).
    Pids(Vec<u32>),
    /// For [`Job::Clone`]. Descriptors: pidfd, socket.
    Cloned { pid: i32 },
}

/// A new launcher.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) socket: OwnedFd,
}

/// Makes a launcher. The caller must be single-threaded. With `sibling` it becomes the child of the caller's parent.
pub(crate) fn spawn(sibling: bool) -> Result<Spawned, Errno> {
    let (ours, theirs) = socket::message_pair()?;
    let flags = if sibling {
        CloneFlags::PARENT
    } else {
        CloneFlags::NONE
    };
    let number = theirs.as_raw_fd();
    let child = spawn_copied(flags, None, &mut || {
        // Standard error stays for a last word.
        let mut keep = vec![0, 1, 2, number];
        keep.extend(failpoint::table());
        if fd::close_all_except(&keep).is_err() {
            return 1;
        }
        let _ = process::set_name(c"kekkai-launcher");
        let _ = process::set_dumpable(false);
        serve(number)
    })?;
    drop(theirs);
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok(Spawned {
        pid: child.pid,
        pidfd: child.pidfd,
        socket: ours,
    })
}

/// A launcher's life: job after job until the keeper's side closes.
fn serve(number: i32) -> i32 {
    // The fork's copy of the owner is never dropped: this process ends by `_exit`.
    let Ok(socket) = fd::inherited(number) else {
        return 1;
    };
    kekkai_sys::signal::block_all();
    let mut buffer = vec![0; transport::BUFFER];
    loop {
        let message = match transport::receive(&socket, &mut buffer) {
            Ok(message) => message,
            Err(transport::ReceiveError::Closed) => return 0,
            Err(_) => return 1,
        };
        failpoint::hit("launcher.received");
        let sequence = message.header.sequence;
        let (done, fds) = match postcard::from_bytes::<Job>(&message.body) {
            Ok(job) => perform(job, message.fds),
            Err(_) => (Done::Failed(internal("bad job")), Vec::new()),
        };
        failpoint::hit("launcher.launched");
        let Ok(body) = postcard::to_stdvec(&done) else {
            return 1;
        };
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if transport::send(&socket, Kind::Response, VERSION, sequence, &body, &borrowed).is_err() {
            return 1;
        }
    }
}

fn perform(job: Job, fds: Vec<OwnedFd>) -> (Done, Vec<OwnedFd>) {
    let result = match job {
        Job::Container { plan, stdio, joins } => start(&plan, stdio, &joins, fds),
        Job::Exec {
            plan,
            stdio,
            pid,
            devpts,
        } => exec(&plan, stdio, pid, devpts, fds),
        Job::Kill { cgroup } => {
            kill(&cgroup);
            return (Done::Pids(Vec::new()), Vec::new());
        }
        Job::Pids { cgroup } => return (Done::Pids(pids(&cgroup)), Vec::new()),
        Job::Clone => {
            return match spawn(true) {
                Ok(new) => (Done::Cloned { pid: new.pid }, vec![new.pidfd, new.socket]),
                Err(error) => (Done::Failed(internal(&error.to_string())), Vec::new()),
            };
        }
    };
    match result {
        Ok(launched) => launched_answer(launched),
        Err(failure) => (Done::Failed(failure), Vec::new()),
    }
}

fn launched_answer(launched: Launched) -> (Done, Vec<OwnedFd>) {
    let (master, devpts) = launched
        .console
        .map(|console| (console.master, console.devpts))
        .unzip();
    let done = Done::Launched {
        pid: launched.pid,
        master: master.is_some(),
        devpts: devpts.is_some(),
        rootfs: launched.rootfs.is_some(),
    };
    let fds = [Some(launched.pidfd), master, devpts, launched.rootfs]
        .into_iter()
        .flatten()
        .collect();
    (done, fds)
}

fn start(
    plan: &[u8],
    stdio: JobStdio,
    joins: &[Join],
    fds: Vec<OwnedFd>,
) -> Result<Launched, Failure> {
    let plan = ContainerPlan::from_bytes(plan).map_err(|error| internal(&error.to_string()))?;
    let mut fds = fds.into_iter();
    let stdio = take_stdio(stdio, &mut fds)?;
    let mut netns = None;
    let mut namespaces = Vec::new();
    for join in joins {
        let fd = fds
            .next()
            .ok_or_else(|| internal("a descriptor is missing"))?;
        let kind = match join {
            Join::Network => {
                netns = Some(fd);
                continue;
            }
            Join::Pid => NamespaceKind::Pid,
            Join::Ipc => NamespaceKind::Ipc,
            Join::Uts => NamespaceKind::Uts,
            Join::Cgroup => NamespaceKind::Cgroup,
            Join::User => NamespaceKind::User,
        };
        namespaces.push(JoinNamespace { kind, fd });
    }
    let fds = LaunchFds {
        stdio,
        netns,
        namespaces,
        parent: Parent::CallersParent,
    };
    launch_container(&plan, fds).map_err(|error| failure(&error))
}

fn exec(
    plan: &[u8],
    stdio: JobStdio,
    pid: i32,
    devpts: bool,
    fds: Vec<OwnedFd>,
) -> Result<Launched, Failure> {
    let plan = ExecPlan::from_bytes(plan).map_err(|error| internal(&error.to_string()))?;
    let mut fds = fds.into_iter();
    let stdio = take_stdio(stdio, &mut fds)?;
    let pidfd = fds
        .next()
        .ok_or_else(|| internal("a descriptor is missing"))?;
    let devpts = if devpts { fds.next() } else { None };
    let target = ExecTarget {
        pid,
        pidfd: pidfd.as_fd(),
        devpts: devpts.as_ref().map(AsFd::as_fd),
    };
    let fds = LaunchFds {
        stdio,
        netns: None,
        namespaces: Vec::new(),
        parent: Parent::CallersParent,
    };
    launch_exec(&plan, &target, fds).map_err(|error| failure(&error))
}

fn take_stdio(stdio: JobStdio, fds: &mut impl Iterator<Item = OwnedFd>) -> Result<Stdio, Failure> {
    let missing = || internal("a descriptor is missing");
    Ok(match stdio {
        JobStdio::Pipes { stdin } => Stdio::Pipes {
            stdin: if stdin {
                Some(fds.next().ok_or_else(missing)?)
            } else {
                None
            },
            stdout: Some(fds.next().ok_or_else(missing)?),
            stderr: Some(fds.next().ok_or_else(missing)?),
        },
        JobStdio::Terminal(size) => Stdio::Terminal {
            size: size.map(|size| WindowSize {
                rows: size.rows,
                columns: size.columns,
            }),
        },
    })
}

/// Kills what is in a cgroup, until nothing is; a second at most.
fn kill(cgroup: &str) {
    let Ok(layout) = kekkai_cgroups::detect() else {
        return;
    };
    let Ok(cgroup) = kekkai_cgroups::Cgroup::new(&layout, cgroup) else {
        return;
    };
    for _ in 0..100 {
        if cgroup.pids().map_or(true, |pids| pids.is_empty()) {
            return;
        }
        drop(cgroup.kill());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn pids(cgroup: &str) -> Vec<u32> {
    let Ok(layout) = kekkai_cgroups::detect() else {
        return Vec::new();
    };
    let pids = kekkai_cgroups::Cgroup::new(&layout, cgroup)
        .and_then(|cgroup| cgroup.pids())
        .unwrap_or_default();
    pids.into_iter()
        .filter_map(|pid| u32::try_from(pid).ok())
        .collect()
}

fn failure(error: &LaunchError) -> Failure {
    Failure {
        class: error.class(),
        exit_code: error.exit_code(),
        message: error.message.clone(),
    }
}

/// A failure of our own.
pub(crate) fn internal(message: &str) -> Failure {
    Failure {
        class: ErrorClass::Internal,
        exit_code: 125,
        message: message.to_owned(),
    }
}
