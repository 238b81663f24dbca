//! Mounting inside the new root.
//!
//! What must stay true: every destination is resolved beneath the root's descriptor without following magic links
//! (`kekkai_sys::beneath`), then mounted on by descriptor: a path is never looked up twice. Bind sources were cloned by
//! the parent before, so that nothing of the host is reachable by name here.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kekkai_cgroups::{Cgroup, Layout};
use kekkai_sys::mount::{self, FsContext, MountAttributes};
use kekkai_sys::{Errno, beneath};
use rustix::fs::{Mode, OFlags};

use super::failure::{At, Failure, words};
use crate::Stage;
use crate::plan::{ContainerPlan, MountKind, MountPlan};

/// `MS_REC` and the propagation types.
const MS_REC: u64 = 1 << 14;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SHARED: u64 = 1 << 20;
/// `PROC_SUPER_MAGIC`.
const PROC_MAGIC: u64 = 0x9fa0;
const DIRECTORY_MODE: u32 = 0o755;

/// What the parent prepared for one mount of the plan.
pub(crate) enum Prepared {
    /// A detached tree to attach, and whether it is a directory.
    Tree { tree: OwnedFd, directory: bool },
    /// Made in the child, in its namespaces.
    InChild,
    /// Version-1 hierarchies, and links for those with several controllers.
    CgroupV1 {
        hierarchies: Vec<(String, V1)>,
        links: Vec<(String, String)>,
    },
}

/// How one version-1 hierarchy gets into the container.
pub(crate) enum V1 {
    /// The container's own directory, bound.
    Bind(OwnedFd),
    /// Mounted anew, which shows the container's part only (private cgroup namespace).
    New(Vec<String>),
}

/// Clones the sources of all bind mounts and prepares what else needs the host.
pub(crate) fn prepare(
    plan: &ContainerPlan,
    layout: &Layout,
    private_cgroups: bool,
) -> Result<Vec<Prepared>, Failure> {
    plan.mounts
        .iter()
        .map(|mount| match &mount.kind {
            MountKind::Bind { source, recursive } => {
                bind(mount, source, *recursive, plan.root.propagation)
            }
            MountKind::Cgroup => cgroup(plan, mount, layout, private_cgroups),
            MountKind::FileSystem { .. } => Ok(Prepared::InChild),
        })
        .collect()
}

fn bind(
    plan: &MountPlan,
    source: &str,
    recursive: bool,
    root_propagation: u64,
) -> Result<Prepared, Failure> {
    let error = |errno: Errno| {
        let reason = words(errno.raw_os_error());
        let sentence = format!(
            "error mounting {source:?} to rootfs at {:?}: mount src={source}, dst={}: {reason}",
            plan.destination, plan.destination
        );
        Failure::worded(Stage::Source, errno, source, sentence)
    };
    let path = CString::new(source).map_err(|_| error(Errno::INVAL))?;
    let tree = mount::clone_path(&path, recursive).map_err(error)?;
    let stat = rustix::fs::fstat(&tree).map_err(error)?;
    let directory =
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
    set_propagation(tree.as_fd(), plan, root_propagation).map_err(error)?;
    let single = MountAttributes::new(plan.set, plan.clear, 0);
    if !single.is_empty() {
        mount::set_attributes(tree.as_fd(), &single, false).map_err(error)?;
    }
    let all = MountAttributes::new(plan.set_recursive, plan.clear_recursive, 0);
    if !all.is_empty() {
        mount::set_attributes(tree.as_fd(), &all, true).map_err(error)?;
    }
    Ok(Prepared::Tree { tree, directory })
}

/// A clone of a shared mount is its peer. The container's root propagation applies first, as if the mount had been made
/// inside, then what was asked for.
fn set_propagation(
    tree: BorrowedFd<'_>,
    plan: &MountPlan,
    root_propagation: u64,
) -> Result<(), Errno> {
    let change = |propagation: u64| {
        mount::set_attributes(
            tree,
            &MountAttributes::new(0, 0, propagation & !MS_REC),
            propagation & MS_REC != 0,
        )
    };
    let asked = plan.propagation;
    // Recursively private is the end of all sharing, whatever was before.
    if asked == MS_REC | MS_PRIVATE {
        return change(asked);
    }
    if root_propagation & MS_SHARED == 0 && asked != root_propagation {
        change(root_propagation | MS_REC)?;
    }
    if asked != 0 { change(asked) } else { Ok(()) }
}

fn cgroup(
    plan: &ContainerPlan,
    own: &MountPlan,
    layout: &Layout,
    private: bool,
) -> Result<Prepared, Failure> {
    let Layout::V1(known) = layout else {
        if private {
            return Ok(Prepared::InChild);
        }
        let group = Cgroup::new(layout, &plan.cgroup.path).map_err(|error| refused(&error))?;
        let directory = group.directories().into_iter().next().unwrap_or_default();
        return Ok(Prepared::Tree {
            tree: clone_cgroup(&directory, own)?,
            directory: true,
        });
    };
    let mut hierarchies = Vec::new();
    let mut links = Vec::new();
    for hierarchy in known {
        let name = hierarchy
            .mount
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if hierarchy.controllers.len() > 1 {
            links.extend(
                hierarchy
                    .controllers
                    .iter()
                    .filter(|one| **one != name)
                    .map(|one| (one.clone(), name.clone())),
            );
        }
        let part = if private {
            V1::New(hierarchy.controllers.clone())
        } else {
            V1::Bind(clone_cgroup(&hierarchy.mount.join(&plan.cgroup.path), own)?)
        };
        hierarchies.push((name, part));
    }
    Ok(Prepared::CgroupV1 { hierarchies, links })
}

/// A copy of the container's own cgroup directory that shares nothing with the host's mount of the hierarchy.
fn clone_cgroup(directory: &Path, plan: &MountPlan) -> Result<OwnedFd, Failure> {
    let subject = || directory.to_string_lossy().into_owned();
    let tree = mount::clone_path(&c_path(directory)?, false).at(Stage::Source, subject())?;
    let attributes = MountAttributes::new(plan.set, plan.clear, MS_PRIVATE);
    mount::set_attributes(tree.as_fd(), &attributes, false).at(Stage::Source, subject())?;
    Ok(tree)
}

fn refused(error: &kekkai_cgroups::CgroupError) -> Failure {
    Failure::worded(Stage::Cgroup, Errno::INVAL, "cgroup", error.to_string())
}

/// What mounting leaves for later steps.
pub(crate) struct Mounted {
    /// The container's own procfs, attached or not: sysctls and labels are written through it.
    pub(crate) procfs: OwnedFd,
}

/// Mounts everything of the plan, in order, beneath `root`.
pub(crate) fn mount_all(
    root: BorrowedFd<'_>,
    plans: &[MountPlan],
    prepared: &[Prepared],
) -> Result<Mounted, Failure> {
    let mut procfs = None;
    for (plan, prepared) in plans.iter().zip(prepared) {
        let mounted = match (prepared, &plan.kind) {
            (Prepared::Tree { tree, directory }, _) => {
                let target =
                    target(root, plan, *directory).map_err(|errno| described(plan, errno))?;
                check_not_proc(target.as_fd(), plan)?;
                mount::attach(tree.as_fd(), target.as_fd()).map(|()| None)
            }
            (Prepared::CgroupV1 { hierarchies, links }, _) => {
                cgroup_v1(root, plan, hierarchies, links).map(|()| None)
            }
            (
                Prepared::InChild,
                MountKind::FileSystem {
                    fstype,
                    source,
                    options,
                },
            ) => file_system(root, plan, fstype, source, options)
                .map(|fd| (fstype == "proc").then_some(fd)),
            (Prepared::InChild, _) => {
                file_system(root, plan, "cgroup2", "cgroup", &[]).map(|_| None)
            }
        };
        if let Some(fd) = mounted.map_err(|errno| described(plan, errno))? {
            procfs = Some(fd);
        }
    }
    let procfs = match procfs {
        Some(procfs) => procfs,
        None => FsContext::open(c"proc")
            .and_then(|context| context.mount(0))
            .at(Stage::Mount, "proc")?,
    };
    Ok(Mounted { procfs })
}

fn described(plan: &MountPlan, errno: Errno) -> Failure {
    let (source, kind) = match &plan.kind {
        MountKind::Bind { source, .. } => (source.as_str(), "bind"),
        MountKind::FileSystem { source, fstype, .. } => (source.as_str(), fstype.as_str()),
        MountKind::Cgroup => ("cgroup", "cgroup"),
    };
    let reason = words(errno.raw_os_error());
    let destination = &plan.destination;
    let mut sentence = format!(
        "error mounting {source:?} to rootfs at {destination:?}: mount src={source}, dst={destination}, type={kind}: {reason}"
    );
    if errno == Errno::NOTDIR || errno == Errno::ISDIR {
        sentence.push_str(
            ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type",
        );
    }
    Failure::worded(Stage::Mount, errno, destination, sentence)
}

/// The place to mount on, made if it is missing.
fn target(root: BorrowedFd<'_>, plan: &MountPlan, directory: bool) -> Result<OwnedFd, Errno> {
    if directory {
        beneath::mkdir_all(root, &plan.destination, Mode::from_raw_mode(DIRECTORY_MODE))
    } else {
        let target = beneath::create_file(root, &plan.destination, Mode::from_raw_mode(0o644))?;
        let mode = rustix::fs::fstat(&target)?.st_mode;
        match rustix::fs::FileType::from_raw_mode(mode) {
            rustix::fs::FileType::Directory => Err(Errno::NOTDIR),
            _ => Ok(target),
        }
    }
}

/// A symbolic link of the image may lead a harmless destination into `/proc`, where bind mounts could hide what the
/// security of the container rests on. Those that are allowed by name were checked when planning.
fn check_not_proc(target: BorrowedFd<'_>, plan: &MountPlan) -> Result<(), Failure> {
    if plan.destination.starts_with("/proc/") {
        return Ok(());
    }
    if is_procfs(target).at(Stage::Mount, &plan.destination)? {
        let sentence = format!(
            "{:?} cannot be mounted because it is inside /proc",
            plan.destination
        );
        return Err(Failure::worded(
            Stage::Mount,
            Errno::PERM,
            &plan.destination,
            sentence,
        ));
    }
    Ok(())
}

fn is_procfs(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(u64::try_from(rustix::fs::fstatfs(fd)?.f_type).ok() == Some(PROC_MAGIC))
}

/// A new file system of the plan, attached. Answers its mount.
fn file_system(
    root: BorrowedFd<'_>,
    plan: &MountPlan,
    fstype: &str,
    source: &str,
    options: &[(String, Option<String>)],
) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(DIRECTORY_MODE);
    let existing = beneath::locate(root, &plan.destination);
    let existed = existing.is_ok();
    let target = match fstype {
        // A link here would be an image's attempt to have /proc and /sys elsewhere and be trusted nevertheless.
        "proc" | "sysfs" => {
            if !existed {
                beneath::make_missing(root, &plan.destination, mode)?;
            }
            beneath::open_no_symlinks(
                root,
                &plan.destination,
                OFlags::PATH | OFlags::DIRECTORY,
                Mode::empty(),
            )?
        }
        _ => match existing {
            Ok(existing) => existing,
            Err(Errno::NOENT) => beneath::make_missing(root, &plan.destination, mode)?,
            Err(errno) => return Err(errno),
        },
    };
    if fstype != "proc" && is_procfs(target.as_fd())? {
        return Err(Errno::PERM);
    }
    let context = context_of(fstype, source)?;
    let mut has_mode = false;
    for (key, value) in options {
        has_mode |= key == "mode";
        match value {
            Some(value) => context.set(
                key,
                &CString::new(value.as_str()).map_err(|_| Errno::INVAL)?,
            )?,
            None => context.set_flag(key)?,
        }
    }
    if fstype == "tmpfs" && existed && !has_mode {
        // As runc: a tmpfs over a directory of the image keeps that directory's permissions.
        let permissions = rustix::fs::fstat(&target)?.st_mode & 0o7777;
        context.set(
            "mode",
            &CString::new(format!("{permissions:o}")).map_err(|_| Errno::INVAL)?,
        )?;
    }
    let mounted = context.mount(plan.set)?;
    mount::attach(mounted.as_fd(), target.as_fd())?;
    if plan.propagation != 0 {
        let attributes = MountAttributes::new(0, 0, plan.propagation & !MS_REC);
        mount::set_attributes(mounted.as_fd(), &attributes, plan.propagation & MS_REC != 0)?;
    }
    Ok(mounted)
}

fn context_of(fstype: &str, source: &str) -> Result<FsContext, Errno> {
    let context = FsContext::open(&CString::new(fstype).map_err(|_| Errno::INVAL)?)?;
    context.set("source", &CString::new(source).map_err(|_| Errno::INVAL)?)?;
    Ok(context)
}

/// A tmpfs with one directory per hierarchy.
fn cgroup_v1(
    root: BorrowedFd<'_>,
    plan: &MountPlan,
    hierarchies: &[(String, V1)],
    links: &[(String, String)],
) -> Result<(), Errno> {
    let target = beneath::mkdir_all(root, &plan.destination, Mode::from_raw_mode(DIRECTORY_MODE))?;
    let context = context_of("tmpfs", "tmpfs")?;
    context.set("mode", c"755")?;
    let top = context.mount(plan.set & !mount::ATTR_RDONLY)?;
    mount::attach(top.as_fd(), target.as_fd())?;
    for (name, part) in hierarchies {
        rustix::fs::mkdirat(&top, name.as_str(), Mode::from_raw_mode(DIRECTORY_MODE))?;
        match part {
            V1::Bind(tree) => {
                mount::attach_in(tree.as_fd(), top.as_fd(), name)?;
            }
            V1::New(controllers) => {
                let context = context_of("cgroup", "cgroup")?;
                for controller in controllers {
                    match controller.strip_prefix("name=") {
                        Some(name) => {
                            context.set("name", &CString::new(name).map_err(|_| Errno::INVAL)?)?;
                            context.set_flag("none")?;
                        }
                        None => context.set_flag(controller)?,
                    }
                }
                let mounted = context.mount(plan.set)?;
                mount::attach_in(mounted.as_fd(), top.as_fd(), name)?;
            }
        }
    }
    for (link, name) in links {
        rustix::fs::symlinkat(name.as_str(), &top, link.as_str())?;
    }
    Ok(())
}

/// Hides paths: files behind `/dev/null`, directories behind an empty read-only tmpfs. `null` is a verified null
/// device of the container's own `/dev`.
pub(crate) fn mask(root: BorrowedFd<'_>, paths: &[String]) -> Result<(), Failure> {
    let mut null: Option<OwnedFd> = None;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let target = match beneath::open_no_symlinks(root, path, OFlags::PATH, Mode::empty()) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(errno) => return Err(Failure::new(Stage::Mask, errno, path)),
        };
        mask_one(root, &target, &mut null, &mut empty).at(Stage::Mask, path)?;
    }
    Ok(())
}

fn mask_one(
    root: BorrowedFd<'_>,
    target: &OwnedFd,
    null: &mut Option<OwnedFd>,
    empty: &mut Option<OwnedFd>,
) -> Result<(), Errno> {
    let mode = rustix::fs::fstat(target)?.st_mode;
    if rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::Directory {
        // One file system for all of them: the first is the file system, the others are clones.
        match empty {
            Some(first) => mount::attach(
                mount::clone_fd(first.as_fd(), false)?.as_fd(),
                target.as_fd(),
            ),
            None => {
                let context = context_of("tmpfs", "tmpfs")?;
                context.set("size", c"4k")?;
                context.set("nr_inodes", c"1")?;
                context.set_flag("ro")?;
                let first = empty.insert(context.mount(mount::ATTR_RDONLY)?);
                mount::attach(first.as_fd(), target.as_fd())
            }
        }
    } else {
        let null = match null {
            Some(null) => null,
            None => null.insert(open_null(root)?),
        };
        mount::attach(
            mount::clone_fd(null.as_fd(), false)?.as_fd(),
            target.as_fd(),
        )
    }
}

/// `/dev/null` of the container, refused if it is anything else (CVE-2025-31133).
fn open_null(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let null = beneath::open_no_symlinks(root, "dev/null", OFlags::PATH, Mode::empty())?;
    let stat = rustix::fs::fstat(&null)?;
    let is_device =
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
    if is_device && stat.st_rdev == rustix::fs::makedev(1, 3) {
        Ok(null)
    } else {
        Err(Errno::NODEV)
    }
}

/// Makes paths read-only by mounting them on themselves.
pub(crate) fn make_read_only(root: BorrowedFd<'_>, paths: &[String]) -> Result<(), Failure> {
    for path in paths {
        let target = match beneath::open_no_symlinks(root, path, OFlags::PATH, Mode::empty()) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(errno) => return Err(Failure::new(Stage::Mask, errno, path)),
        };
        let remount = || {
            let tree = mount::clone_fd(target.as_fd(), true)?;
            mount::set_attributes(
                tree.as_fd(),
                &MountAttributes::new(mount::ATTR_RDONLY, 0, 0),
                false,
            )?;
            mount::attach(tree.as_fd(), target.as_fd())
        };
        remount().at(Stage::Mask, path)?;
    }
    Ok(())
}

/// Host paths of the root file system as C strings.
pub(crate) fn c_path(path: &Path) -> Result<CString, Failure> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Failure::new(Stage::Rootfs, Errno::INVAL, path.to_string_lossy()))
}
