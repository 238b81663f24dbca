//! Starting a container.
//!
//! ```text
//!  parent: cgroup ─ overlay (detached) ─ user ─ bind sources ─ terminal ─ clone ─────────────────────────▶ running
//!  child:  join cgroup ─ namespaces ─ pivot ─ mounts ─ devices ─ masks ─ process::enter (limits … execve)
//! ```
//!
//! What must stay true: nothing on this path syncs, renames over, unlinks or waits for an RCU grace period; nothing but
//! the cgroup outlives a failure.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use kekkai_cgroups::{Cgroup, Join, Layout};
use kekkai_sys::clone::CloneFlags;
use kekkai_sys::{Errno, beneath, mount, pidfd, process};
use rustix::fs::{CWD, Mode, OFlags};

use super::failure::{At, Failure};
use super::mounts::{self, Prepared};
use super::process::{PreparedProcess, standard_streams};
use super::spawn::{Report, Way, parent_flag, spawn};
use super::{Console, LaunchFds, Launched, NamespaceKind, user};
use crate::Stage;
use crate::plan::{ContainerPlan, MountKind, RootfsSource};

/// `MS_REC | MS_PRIVATE`.
const OLD_ROOT_PROPAGATION: u64 = 1 << 14 | 1 << 18;

const MS_SLAVE: u64 = 1 << 19;

/// The kernel's flag of a namespace.
pub(crate) fn flag(kind: NamespaceKind) -> u64 {
    match kind {
        NamespaceKind::Mount => CloneFlags::NEW_MOUNT.bits(),
        NamespaceKind::Pid => CloneFlags::NEW_PID.bits(),
        NamespaceKind::Network => CloneFlags::NEW_NETWORK.bits(),
        NamespaceKind::Ipc => CloneFlags::NEW_IPC.bits(),
        NamespaceKind::Uts => CloneFlags::NEW_UTS.bits(),
        NamespaceKind::Cgroup => CloneFlags::NEW_CGROUP.bits(),
        NamespaceKind::User => CloneFlags::NEW_USER.bits(),
        NamespaceKind::Time => 0x80,
    }
}

/// The cgroup layout of this host, found once per launcher.
pub(crate) fn layout() -> Result<&'static Layout, Failure> {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    if let Some(layout) = LAYOUT.get() {
        return Ok(layout);
    }
    let found = kekkai_cgroups::detect().map_err(|error| cgroup_failure(&error))?;
    Ok(LAYOUT.get_or_init(|| found))
}

pub(crate) fn cgroup_failure(error: &kekkai_cgroups::CgroupError) -> Failure {
    let sentence = format!("unable to apply cgroup configuration: {error}");
    Failure::worded(
        Stage::Cgroup,
        Errno::from_raw_os_error(error.errno().max(1)),
        "cgroup",
        sentence,
    )
}

/// Everything the child needs, owned by the parent.
struct Prepare {
    root: OwnedFd,
    process: PreparedProcess,
    mounts: Vec<Prepared>,
    tasks: Vec<OwnedFd>,
    joins: Vec<(OwnedFd, u64)>,
    unshare_cgroup: bool,
    new_network: bool,
    /// Whether it is cloned from the namespace with one mount.
    small: bool,
}

pub(crate) fn launch(plan: &ContainerPlan, fds: LaunchFds) -> Result<Launched, Failure> {
    let namespaces = Namespaces::new(plan, &fds)?;
    let LaunchFds {
        stdio,
        netns,
        namespaces: joined,
        parent,
    } = fds;
    let root = mount_root(&plan.rootfs)?;
    let identity = user::resolve(root.as_fd(), &plan.process.user, &plan.process.groups)?;

    let layout = layout()?;
    let (tasks, into) = match join_handles(plan, layout)? {
        Join::Tasks(tasks) => (tasks, None),
        Join::Into(directory) => (Vec::new(), Some(directory)),
    };

    let mut prepared = mounts::prepare(plan, layout, namespaces.new_cgroup)?;
    let devpts = if plan.process.terminal {
        Some(prepare_devpts(plan, &mut prepared)?)
    } else {
        None
    };
    let (stdio, master) = standard_streams(stdio, identity.uid, devpts.as_ref())?;
    let prepare = Prepare {
        process: PreparedProcess::new(&plan.process, &plan.id, identity, stdio)?,
        root,
        mounts: prepared,
        tasks,
        joins: namespaces.joins(plan, netns, joined)?,
        unshare_cgroup: namespaces.new_cgroup,
        new_network: namespaces.clone.contains(CloneFlags::NEW_NETWORK),
        small: super::small::is_available(),
    };
    let pid_namespace = prepare
        .joins
        .iter()
        .find(|(_, kind)| *kind == flag(NamespaceKind::Pid))
        .map(|(fd, _)| fd);
    // Whoever is in that pid namespace already may be allowed to trace: the launcher's memory is not shown there.
    let way = if pid_namespace.is_some() {
        Way::Staged
    } else {
        Way::Straight
    };
    let flags = namespaces.clone | parent_flag(parent);
    let body = |report: &Report<'_>| run(plan, &prepare, report);
    let child = in_pid_namespace(pid_namespace, || {
        super::small::within(|| spawn(way, flags, into.as_ref().map(AsFd::as_fd), &body))
    })?;
    let console = match (master, devpts) {
        (Some(master), Some(devpts)) => Some(Console { master, devpts }),
        _ => None,
    };
    // With the namespace held, its mounts do not go down in the exit of the container's last process, which would wait
    // for an RCU grace period and for the overlay's sync. The root mount does half of that on older kernels.
    let mounts = pidfd::mount_namespace(child.pidfd.as_fd()).unwrap_or(prepare.root);
    Ok(Launched {
        pid: child.pid,
        pidfd: child.pidfd,
        console,
        rootfs: Some(mounts),
    })
}

/// Makes the container's cgroup and sets its limits, ahead of the start.
pub(crate) fn prepare_cgroup(plan: &ContainerPlan) -> Result<(), Failure> {
    let group =
        Cgroup::new(layout()?, &plan.cgroup.path).map_err(|error| cgroup_failure(&error))?;
    group
        .create(&plan.cgroup.limits)
        .map_err(|error| cgroup_failure(&error))?;
    // Opening the files once makes the kernel set them up: the start finds them ready.
    group
        .join()
        .map(drop)
        .map_err(|error| cgroup_failure(&error))
}

/// What the child joins the cgroup by. One that was prepared is taken as it is, if it still is there in whole.
fn join_handles(plan: &ContainerPlan, layout: &Layout) -> Result<Join, Failure> {
    let group = Cgroup::new(layout, &plan.cgroup.path).map_err(|error| cgroup_failure(&error))?;
    if plan.cgroup.prepared {
        match (group.join(), layout) {
            (Ok(Join::Tasks(tasks)), Layout::V1(all)) if tasks.len() == all.len() => {
                return Ok(Join::Tasks(tasks));
            }
            (Ok(Join::Into(directory)), _) => return Ok(Join::Into(directory)),
            _ => {}
        }
    }
    group
        .create(&plan.cgroup.limits)
        .map_err(|error| cgroup_failure(&error))?;
    group.join().map_err(|error| cgroup_failure(&error))
}

/// Runs `clone` with new children of this process going into a pid namespace. The process itself stays.
pub(crate) fn in_pid_namespace<T>(
    namespace: Option<&OwnedFd>,
    clone: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let Some(namespace) = namespace else {
        return clone();
    };
    let own = rustix::fs::open(
        "/proc/self/ns/pid",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .at(Stage::Namespace, "pid")?;
    pidfd::enter_namespaces(namespace, flag(NamespaceKind::Pid)).at(Stage::Namespace, "pid")?;
    let result = clone();
    pidfd::enter_namespaces(&own, flag(NamespaceKind::Pid)).at(Stage::Namespace, "pid")?;
    result
}

fn mount_root(source: &RootfsSource) -> Result<OwnedFd, Failure> {
    match source {
        RootfsSource::Directory(path) => {
            let subject = path.to_string_lossy();
            let tree = mount::clone_path(&mounts::c_path(path)?, true)
                .at(Stage::Rootfs, subject.as_ref())?;
            // The kernel does not pivot to a shared mount.
            let attributes = mount::MountAttributes::new(0, 0, MS_SLAVE);
            mount::set_attributes(tree.as_fd(), &attributes, true).at(Stage::Rootfs, subject)?;
            Ok(tree)
        }
        RootfsSource::Overlay {
            lower,
            upper,
            work,
            volatile,
        } => {
            let lower = lower
                .iter()
                .map(|layer| mounts::c_path(layer))
                .collect::<Result<Vec<_>, _>>()?;
            mount::overlay(
                &lower,
                &mounts::c_path(upper)?,
                &mounts::c_path(work)?,
                *volatile,
            )
            .map_err(|(errno, log)| {
                let reason = super::failure::words(errno.raw_os_error());
                let sentence = format!(
                    "error mounting the overlay {}: {reason} {log}",
                    upper.display()
                );
                Failure::worded(
                    Stage::Rootfs,
                    errno,
                    upper.to_string_lossy(),
                    sentence.trim_end(),
                )
            })
        }
    }
}

/// The working directory is made if it is missing, in a volume too. What is wrong with one that cannot be made is found
/// out when it is entered, except what Docker says before.
fn ensure_cwd(root: BorrowedFd<'_>, cwd: &str) -> Result<(), Failure> {
    match beneath::mkdir_all(root, cwd, Mode::from_raw_mode(0o755)) {
        Ok(_) | Err(Errno::ROFS | Errno::LOOP) => Ok(()),
        Err(Errno::NOTDIR | Errno::EXIST) => Err(Failure::worded(
            Stage::User,
            Errno::NOTDIR,
            cwd,
            format!("Cannot mkdir: {cwd} is not a directory"),
        )),
        Err(errno) => Err(Failure::new(Stage::WorkingDirectory, errno, cwd)),
    }
}

/// Mounts the container's devpts detached, so that the terminal exists before the container does.
fn prepare_devpts(plan: &ContainerPlan, prepared: &mut [Prepared]) -> Result<OwnedFd, Failure> {
    let place = plan.mounts.iter().position(
        |mount| matches!(&mount.kind, MountKind::FileSystem { fstype, .. } if fstype == "devpts"),
    );
    let (index, options, attributes) = match place
        .and_then(|index| Some((index, plan.mounts.get(index)?)))
    {
        Some((index, mount)) => match &mount.kind {
            MountKind::FileSystem { options, .. } => (Some(index), options.as_slice(), mount.set),
            _ => (None, [].as_slice(), 0),
        },
        None => (None, [].as_slice(), 0),
    };
    let values = options
        .iter()
        .map(|(key, value)| {
            Ok((
                key.as_str(),
                value.as_deref().map(std::ffi::CString::new).transpose()?,
            ))
        })
        .collect::<Result<Vec<_>, std::ffi::NulError>>()
        .map_err(|_| Failure::new(Stage::Terminal, Errno::INVAL, "devpts options"))?;
    let options: Vec<_> = values
        .iter()
        .map(|(key, value)| (*key, value.as_deref()))
        .collect();
    let devpts =
        kekkai_sys::pty::devpts(&options, attributes).at(Stage::Terminal, "mount devpts")?;
    if let Some(place) = index.and_then(|index| prepared.get_mut(index)) {
        let tree = devpts
            .try_clone()
            .map_err(|_| Failure::new(Stage::Terminal, Errno::MFILE, "dup"))?;
        *place = Prepared::Tree {
            tree,
            directory: true,
        };
    }
    Ok(devpts)
}

/// Which namespaces are made how.
struct Namespaces {
    clone: CloneFlags,
    new_cgroup: bool,
}

impl Namespaces {
    fn new(plan: &ContainerPlan, fds: &LaunchFds) -> Result<Self, Failure> {
        let mut clone = CloneFlags::NONE;
        let mut new_cgroup = false;
        for namespace in &plan.namespaces {
            let given = fds
                .namespaces
                .iter()
                .any(|join| join.kind == namespace.kind)
                || namespace.kind == NamespaceKind::Network && fds.netns.is_some();
            if given || namespace.path.is_some() {
                continue;
            }
            match namespace.kind {
                NamespaceKind::Mount => clone |= CloneFlags::NEW_MOUNT,
                NamespaceKind::Pid => clone |= CloneFlags::NEW_PID,
                NamespaceKind::Network => clone |= CloneFlags::NEW_NETWORK,
                NamespaceKind::Ipc => clone |= CloneFlags::NEW_IPC,
                NamespaceKind::Uts => clone |= CloneFlags::NEW_UTS,
                NamespaceKind::Cgroup => new_cgroup = true,
                NamespaceKind::User | NamespaceKind::Time => {
                    return Err(Failure::new(
                        Stage::Namespace,
                        Errno::OPNOTSUPP,
                        format!("{:?}", namespace.kind),
                    ));
                }
            }
        }
        Ok(Self { clone, new_cgroup })
    }

    /// The namespaces to join, with the kernel's flags.
    fn joins(
        &self,
        plan: &ContainerPlan,
        netns: Option<OwnedFd>,
        joined: Vec<super::JoinNamespace>,
    ) -> Result<Vec<(OwnedFd, u64)>, Failure> {
        let mut joins: Vec<(OwnedFd, u64)> = joined
            .into_iter()
            .map(|join| (join.fd, flag(join.kind)))
            .collect();
        joins.extend(netns.map(|fd| (fd, flag(NamespaceKind::Network))));
        for namespace in &plan.namespaces {
            let Some(path) = &namespace.path else {
                continue;
            };
            if joins.iter().any(|(_, kind)| *kind == flag(namespace.kind)) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let fd =
                rustix::fs::open(path.as_str(), flags, Mode::empty()).at(Stage::Namespace, path)?;
            joins.push((fd, flag(namespace.kind)));
        }
        Ok(joins)
    }
}

/// The child, from its first instruction to the program.
fn run(plan: &ContainerPlan, prepare: &Prepare, report: &Report<'_>) -> Failure {
    match set_up(plan, prepare) {
        Err(failure) => failure,
        Ok(()) => prepare.process.enter(report),
    }
}

pub(crate) fn join_cgroups(tasks: &[OwnedFd]) -> Result<(), Failure> {
    for file in tasks {
        // A single thread that moves itself does not take the lock that waits for an RCU grace period.
        beneath::write_once(file, b"0").at(Stage::Cgroup, "tasks")?;
    }
    Ok(())
}

fn set_up(plan: &ContainerPlan, prepare: &Prepare) -> Result<(), Failure> {
    join_cgroups(&prepare.tasks)?;
    prepare.process.begin()?;
    prepare.process.set_oom_score()?;
    for (fd, kind) in prepare
        .joins
        .iter()
        .filter(|(_, kind)| *kind != flag(NamespaceKind::Pid))
    {
        pidfd::enter_namespaces(fd, *kind).at(Stage::Namespace, format!("{kind:#x}"))?;
    }
    if prepare.unshare_cgroup {
        pidfd::unshare_namespaces(flag(NamespaceKind::Cgroup)).at(Stage::Namespace, "cgroup")?;
    }
    if prepare.new_network {
        process::bring_loopback_up().at(Stage::Namespace, "loopback")?;
    }
    if prepare.small {
        mount::cover_root(prepare.root.as_fd()).at(Stage::PivotRoot, &plan.id)?;
    } else {
        // The copies of the host's mounts are gone in a moment; until then nothing may go out. (A shared mount could
        // not be pivoted away from, either; the new root becomes shared at the end, where that was asked for.)
        mount::set_root_propagation(OLD_ROOT_PROPAGATION).at(Stage::Propagation, "/")?;
        mount::become_root(prepare.root.as_fd()).at(Stage::PivotRoot, &plan.id)?;
    }
    let root = prepare.root.as_fd();
    let mounted = mounts::mount_all(root, &plan.mounts, &prepare.mounts)?;
    ensure_cwd(root, &plan.process.cwd)?;
    if let Some(devices) = &plan.devices {
        super::devices::set_up(root, devices)?;
    }
    if prepare.process.terminal {
        super::devices::set_console(root, prepare.process.stdio[2].as_fd())?;
    }
    if let Some(hostname) = &plan.hostname {
        rustix::system::sethostname(hostname.as_bytes()).at(Stage::Hostname, hostname)?;
    }
    if let Some(domainname) = &plan.domainname {
        process::set_domain_name(domainname).at(Stage::Hostname, domainname)?;
    }
    write_sysctls(plan, &mounted.procfs)?;
    prepare.process.set_security_label(&mounted.procfs)?;
    mounts::make_read_only(root, &plan.readonly_paths)?;
    mounts::mask(root, &plan.masked_paths)?;
    finish_root(plan, prepare)
}

fn finish_root(plan: &ContainerPlan, prepare: &Prepare) -> Result<(), Failure> {
    const MS_SHARED: u64 = 1 << 20;
    let shared = plan.root.propagation & MS_SHARED;
    let readonly = if plan.root.readonly {
        mount::ATTR_RDONLY
    } else {
        0
    };
    let attributes = mount::MountAttributes::new(readonly, 0, shared);
    if attributes.is_empty() {
        return Ok(());
    }
    mount::set_attributes(prepare.root.as_fd(), &attributes, false).at(Stage::Rootfs, "/")
}

/// Sysctls are written through the container's own procfs, before its `/proc/sys` becomes read-only.
fn write_sysctls(plan: &ContainerPlan, procfs: &OwnedFd) -> Result<(), Failure> {
    for (path, value) in &plan.sysctls {
        let name = path.replace('/', ".");
        let file = beneath::open_no_symlinks(
            procfs.as_fd(),
            format!("sys/{path}"),
            OFlags::WRONLY,
            Mode::empty(),
        )
        .at(Stage::Sysctl, &name)?;
        beneath::write_once(&file, value.as_bytes()).map_err(|errno| {
            let reason = super::failure::words(errno.raw_os_error());
            let sentence = format!("failed to write sysctl {name} = {value:?}: {reason}");
            Failure::worded(Stage::Sysctl, errno, &name, sentence)
        })?;
    }
    Ok(())
}

/// Opens a directory on the host by path, for exec.
pub(crate) fn open_directory(path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
