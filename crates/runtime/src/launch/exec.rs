//! Starting a process in a running container.
//!
//! The launcher itself points its children into the container's pid namespace, clones once, and points them back: no
//! process in between. The child enters the other namespaces of the container by its pidfd.
//!
//! What must stay true: into a container that may trace (CAP_SYS_PTRACE), the child is a fork, because from the clone
//! on the container's processes can look at it; the process joins the container's cgroup before anything else.

use std::os::fd::{AsFd, OwnedFd};

use kekkai_cgroups::{Cgroup, Join, Layout};
use kekkai_sys::clone::CloneFlags;
use kekkai_sys::{Errno, pidfd};

use super::container::{
    cgroup_failure, flag, in_pid_namespace, join_cgroups, layout, open_directory,
};
use super::failure::{At, Failure};
use super::process::{PreparedProcess, standard_streams};
use super::spawn::{Report, Way, parent_flag, spawn};
use super::{ExecTarget, LaunchFds, Launched, NamespaceKind, Stdio, user};
use crate::plan::ExecPlan;
use crate::{Console, Stage};

struct Prepare {
    process: PreparedProcess,
    tasks: Vec<OwnedFd>,
    target: OwnedFd,
    procfs: OwnedFd,
    root: OwnedFd,
}

pub(crate) fn launch(
    plan: &ExecPlan,
    target: &ExecTarget<'_>,
    fds: LaunchFds,
) -> Result<Launched, Failure> {
    if plan.user_namespace {
        return Err(Failure::new(
            Stage::Namespace,
            Errno::OPNOTSUPP,
            "user namespaces",
        ));
    }
    let root =
        open_directory(&format!("/proc/{}/root", target.pid)).at(Stage::Namespace, "root")?;
    // The pid may have been recycled since it was read: the pidfd says whether it was the right one all along.
    pidfd::send_signal(target.pidfd, 0).map_err(|errno| {
        Failure::worded(
            Stage::Namespace,
            errno,
            "container",
            "cannot exec in a stopped container",
        )
    })?;
    let identity = user::resolve(root.as_fd(), &plan.process.user, &plan.process.groups)?;
    let (tasks, into) = cgroup(plan, target)?;
    let found;
    let devpts = match (&fds.stdio, target.devpts) {
        (Stdio::Pipes { .. }, _) => None,
        (Stdio::Terminal { .. }, Some(devpts)) => Some(
            devpts
                .try_clone_to_owned()
                .map_err(|_| Failure::new(Stage::Terminal, Errno::MFILE, "dup"))?,
        ),
        (Stdio::Terminal { .. }, None) => {
            found = kekkai_sys::pty::find_devpts(root.as_fd())
                .at(Stage::Terminal, "/dev/pts of the container")?;
            Some(found)
        }
    };
    let (stdio, master) = standard_streams(fds.stdio, identity.uid, devpts.as_ref())?;
    let pidns = target
        .pidfd
        .try_clone_to_owned()
        .map_err(|_| Failure::new(Stage::Namespace, Errno::MFILE, "dup"))?;
    let prepare = Prepare {
        process: PreparedProcess::new(&plan.process, &plan.id, identity, stdio)?,
        tasks,
        procfs: open_directory("/proc").at(Stage::Prepare, "/proc")?,
        target: target
            .pidfd
            .try_clone_to_owned()
            .map_err(|_| Failure::new(Stage::Namespace, Errno::MFILE, "dup"))?,
        root,
    };
    let way = if plan.traceable {
        Way::Staged
    } else {
        Way::Straight
    };
    let flags = CloneFlags::NONE | parent_flag(fds.parent);
    let body = |report: &Report<'_>| match set_up(&prepare) {
        Err(failure) => failure,
        Ok(()) => prepare.process.enter(report),
    };
    let child = in_pid_namespace(Some(&pidns), || {
        spawn(way, flags, into.as_ref().map(AsFd::as_fd), &body)
    })?;
    let console = match (master, devpts) {
        (Some(master), Some(devpts)) => Some(Console { master, devpts }),
        _ => None,
    };
    Ok(Launched {
        pid: child.pid,
        pidfd: child.pidfd,
        console,
        rootfs: None,
    })
}

type Joining = (Vec<OwnedFd>, Option<OwnedFd>);

fn cgroup(plan: &ExecPlan, target: &ExecTarget<'_>) -> Result<Joining, Failure> {
    let layout = layout()?;
    let group = Cgroup::new(layout, &plan.cgroup.path).map_err(|error| cgroup_failure(&error))?;
    match group.join().map_err(|error| cgroup_failure(&error))? {
        Join::Tasks(tasks) => Ok((tasks, None)),
        Join::Into(directory) => Ok((
            Vec::new(),
            Some(occupied(layout, target).unwrap_or(directory)),
        )),
    }
}

/// On version 2 a container may have made cgroups of its own; its top one then holds no processes any more, and a new
/// one goes where the container's first process is.
fn occupied(layout: &Layout, target: &ExecTarget<'_>) -> Option<OwnedFd> {
    let Layout::V2(root) = layout else {
        return None;
    };
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", target.pid)).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    open_cgroup(&root.join(path))
}

fn open_cgroup(path: &std::path::Path) -> Option<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()
}

fn set_up(prepare: &Prepare) -> Result<(), Failure> {
    join_cgroups(&prepare.tasks)?;
    prepare.process.begin()?;
    prepare.process.set_oom_score()?;
    prepare.process.set_security_label(&prepare.procfs)?;
    let all = [
        NamespaceKind::Mount,
        NamespaceKind::Network,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Cgroup,
    ];
    let kinds = all
        .into_iter()
        .map(flag)
        .fold(0, |kinds, kind| kinds | kind);
    pidfd::enter_namespaces(&prepare.target, kinds).at(Stage::Namespace, "container")?;
    // Entering the mount namespace made its root ours already; this is the same directory, by the descriptor that the
    // user was looked up in.
    rustix::process::fchdir(&prepare.root).at(Stage::Namespace, "root")
}
