//! `/dev`: nodes, links and the console.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kekkai_sys::{Errno, beneath, mount};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};

use super::failure::{At, Failure};
use crate::Stage;
use crate::plan::DevicePlan;

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the nodes and the usual links. What exists stays (a device bound there by the user).
pub(crate) fn set_up(root: BorrowedFd<'_>, plans: &[DevicePlan]) -> Result<(), Failure> {
    let dev =
        beneath::mkdir_all(root, "/dev", Mode::from_raw_mode(0o755)).at(Stage::Device, "/dev")?;
    for plan in plans {
        make_node(root, &dev, plan).at(Stage::Device, &plan.path)?;
    }
    for (name, target) in LINKS {
        link(&dev, name, target).at(Stage::Device, name)?;
    }
    if beneath::locate(root, "proc/kcore").is_ok() {
        link(&dev, "core", "/proc/kcore").at(Stage::Device, "core")?;
    }
    Ok(())
}

fn make_node(root: BorrowedFd<'_>, dev: &OwnedFd, plan: &DevicePlan) -> Result<(), Errno> {
    let (parent, name) = beneath::split(Path::new(&plan.path))?;
    let other = match parent == Path::new("/dev") {
        true => None,
        false => Some(beneath::mkdir_all(
            root,
            parent,
            Mode::from_raw_mode(0o755),
        )?),
    };
    let parent = other.as_ref().unwrap_or(dev);
    let kind = FileType::from_raw_mode(plan.mode);
    let device = rustix::fs::makedev(plan.major, plan.minor);
    match rustix::fs::mknodat(
        parent,
        name,
        kind,
        Mode::from_raw_mode(plan.mode & 0o7777),
        device,
    ) {
        Err(Errno::EXIST) => return Ok(()),
        result => result?,
    }
    if plan.uid != 0 || plan.gid != 0 {
        let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
        rustix::fs::chownat(
            parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    Ok(())
}

fn link(dev: &OwnedFd, name: &str, target: &str) -> Result<(), Errno> {
    match rustix::fs::symlinkat(target, dev, name) {
        Err(Errno::EXIST) if name == "ptmx" => {
            // A node of the image's would be the host's ptmx. A directory is left alone.
            match rustix::fs::unlinkat(dev, name, AtFlags::empty()) {
                Ok(()) => rustix::fs::symlinkat(target, dev, name),
                Err(Errno::ISDIR) => Ok(()),
                Err(errno) => Err(errno),
            }
        }
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

/// Mounts the terminal on `/dev/console`, by descriptor from both sides.
pub(crate) fn set_console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<(), Failure> {
    let mount_console = || {
        let target = beneath::create_file(root, "/dev/console", Mode::from_raw_mode(0o666))?;
        // A link here would put the terminal anywhere in the container.
        let checked = beneath::open_no_symlinks(
            root,
            "/dev/console",
            OFlags::PATH | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        let (one, other) = (rustix::fs::fstat(&target)?, rustix::fs::fstat(&checked)?);
        if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino) {
            return Err(Errno::LOOP);
        }
        let tree = mount::clone_fd(slave, false)?;
        mount::attach(tree.as_fd(), checked.as_fd())
    };
    mount_console().at(Stage::Terminal, "/dev/console")
}
