//! The mount API of Linux 5.2 and later: file systems configured through descriptors, mounts made detached.
//!
//! What must stay true: nothing here takes the path of a mount point from outside; callers pass descriptors obtained
//! through [`crate::beneath`].

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::{Errno, Result, check};

/// `MOUNT_ATTR_RDONLY`.
pub const ATTR_RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub const ATTR_NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const ATTR_NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub const ATTR_NOEXEC: u64 = 0x8;
/// `MOUNT_ATTR__ATIME`: the mask of the three below; must be cleared when one of them is set.
pub const ATTR_ATIME_MASK: u64 = 0x70;
/// `MOUNT_ATTR_RELATIME`.
pub const ATTR_RELATIME: u64 = 0x0;
/// `MOUNT_ATTR_NOATIME`.
pub const ATTR_NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`.
pub const ATTR_STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR_NODIRATIME`.
pub const ATTR_NODIRATIME: u64 = 0x80;
/// `MOUNT_ATTR_NOSYMFOLLOW`.
pub const ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

/// The longest string that `fsconfig` takes, without its terminating zero.
pub const MAX_FSCONFIG_STRING: usize = 255;

/// A file system being configured.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Opens a context for a file system type.
    ///
    /// # Errors
    /// `ENODEV` for an unknown type, `EPERM` without the right to mount.
    pub fn open(fstype: &CStr) -> Result<Self> {
        rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).map(Self)
    }

    /// Sets `key=value`.
    ///
    /// # Errors
    /// `EINVAL` for an option the file system does not know.
    pub fn set(&self, key: &str, value: &CStr) -> Result<()> {
        rustix::mount::fsconfig_set_string(&self.0, key, value)
    }

    /// Sets an option without a value.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_flag(&self, key: &str) -> Result<()> {
        rustix::mount::fsconfig_set_flag(&self.0, key)
    }

    /// Sets an option that takes a directory by descriptor (overlay's layers, Linux 6.13).
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_fd(&self, key: &str, fd: BorrowedFd<'_>) -> Result<()> {
        rustix::mount::fsconfig_set_fd(&self.0, key, fd)
    }

    /// Makes the superblock and a detached mount of it with `MOUNT_ATTR_*` attributes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn mount(&self, attributes: u64) -> Result<OwnedFd> {
        rustix::mount::fsconfig_create(&self.0)?;
        let attributes = u32::try_from(attributes).map_err(|_| Errno::INVAL)?;
        let attributes = MountAttrFlags::from_bits_retain(attributes);
        rustix::mount::fsmount(&self.0, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    }

    /// What the kernel says about the last failure (its log of this context), one line each.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = String::new();
        let mut buffer = [0u8; 1024];
        while let Ok(length @ 1..) = rustix::io::read(&self.0, &mut buffer) {
            // Each message starts with a level letter and a space.
            let message =
                String::from_utf8_lossy(buffer.get(2..length).unwrap_or_default()).into_owned();
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(message.trim_end());
        }
        text
    }
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE` or 0.
    pub propagation: u64,
    user_namespace: u64,
}

impl MountAttributes {
    /// Attributes to set and to clear, and a propagation type (0: leave it).
    #[must_use]
    pub fn new(set: u64, clear: u64, propagation: u64) -> Self {
        Self {
            set,
            clear,
            propagation,
            user_namespace: 0,
        }
    }

    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0 && self.propagation == 0
    }
}

/// Changes the mount behind a descriptor, and with `recursive` every mount below it.
///
/// # Errors
/// Those of `mount_setattr(2)`; `EPERM` where an attribute is locked.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: &MountAttributes,
    recursive: bool,
) -> Result<()> {
    set_attributes_at(mount, c"", attributes, recursive)
}

fn set_attributes_at(
    dir: BorrowedFd<'_>,
    path: &CStr,
    attributes: &MountAttributes,
    recursive: bool,
) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: a valid path and a structure of the size that is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const *attributes,
            size_of::<MountAttributes>(),
        )
    })
    .map(drop)
}

/// Changes the propagation of every mount of this mount namespace, or only of the root mount.
///
/// # Errors
/// Those of `mount(2)`.
pub fn set_root_propagation(propagation: u64) -> Result<()> {
    // SAFETY: three null pointers, which the kernel does not look at for a propagation change.
    check(
        unsafe {
            libc::mount(
                std::ptr::null(),
                c"/".as_ptr(),
                std::ptr::null(),
                propagation,
                std::ptr::null(),
            )
        }
        .into(),
    )
    .map(drop)
}

/// A detached copy of the mount (a tree of mounts with `recursive`) at a path on the host.
///
/// # Errors
/// `ENOENT`, `EACCES`, …
pub fn clone_path(path: &CStr, recursive: bool) -> Result<OwnedFd> {
    rustix::mount::open_tree(rustix::fs::CWD, path, clone_flags(recursive))
}

/// A detached copy of the mount, from the file or directory that a descriptor refers to.
///
/// # Errors
/// As [`clone_path`]; `EINVAL` for a descriptor of a mount in another namespace.
pub fn clone_fd(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    rustix::mount::open_tree(
        fd,
        c"",
        clone_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH,
    )
}

fn clone_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags | OpenTreeFlags::AT_RECURSIVE
    } else {
        flags
    }
}

/// Attaches a detached mount on the file or directory behind `target`.
///
/// # Errors
/// `ENOTDIR` where one is a file and the other a directory, `ENOENT` for a removed target.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags)
}

/// Attaches a detached mount on an entry of a directory that only the caller can change: nothing is resolved beyond the
/// one name, which must not be a path.
///
/// # Errors
/// As [`attach`]; `EINVAL` for a path.
pub fn attach_in(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &str) -> Result<()> {
    if !crate::beneath::is_single_name(name.as_ref()) {
        return Err(Errno::INVAL);
    }
    rustix::mount::move_mount(
        mount,
        c"",
        directory,
        name,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// Makes `root`, a detached mount, the root of this (fresh) mount namespace and drops what was there before.
/// The working directory is the new root afterwards.
///
/// # Errors
/// Those of `move_mount(2)`, `pivot_root(2)` and `umount2(2)`.
pub fn become_root(root: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(root, c"", rustix::fs::CWD, c"/", flags)?;
    rustix::process::fchdir(root)?;
    // The old root ends up stacked on the new one, from where it is detached with all that is below it.
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

/// Makes `root`, a detached mount, the root of this process by mounting it over the root of a mount namespace in which
/// there is nothing to be seen beneath it (an empty, read-only directory). What [`become_root`] does for a namespace
/// full of mounts, without waiting for an RCU grace period and without a walk through all processes: whoever gets to the
/// top of the namespace (`setns`, `..`) is led to the mount on top, and what is under it is empty.
///
/// # Errors
/// Those of `move_mount(2)` and `chroot(2)`.
pub fn cover_root(root: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(root, c"", rustix::fs::CWD, c"/", flags)?;
    rustix::process::fchdir(root)?;
    rustix::process::chroot(c".")
}

/// Mounts an overlay detached. `lower` is topmost first; paths too long for `fsconfig` go by descriptor. Kernels before
/// 6.8 cannot take layers one by one: there it is mounted the old way, for a moment visible on top of `upper`.
///
/// # Errors
/// The step's errno with the kernel's own words, where it gives some.
pub fn overlay(
    lower: &[CString],
    upper: &CStr,
    work: &CStr,
    volatile: bool,
) -> std::result::Result<OwnedFd, (Errno, String)> {
    let old_way = || overlay_the_old_way(lower, upper, work, volatile);
    let context = match FsContext::open(c"overlay") {
        Err(Errno::NOSYS) => return old_way().map_err(|error| (error, String::new())),
        result => result.map_err(|error| (error, String::new()))?,
    };
    match context
        .set("source", c"overlay")
        .and_then(|()| set_layers(&context, lower))
    {
        // "Unknown parameter": nothing has been mounted yet.
        Err(Errno::INVAL) => old_way().map_err(|error| (error, context.log())),
        Err(error) => Err((error, context.log())),
        Ok(()) => {
            overlay_on(&context, upper, work, volatile).map_err(|error| (error, context.log()))
        }
    }
}

fn set_layers(context: &FsContext, lower: &[CString]) -> Result<()> {
    lower
        .iter()
        .try_for_each(|layer| set_directory(context, "lowerdir+", layer))
}

/// `mount(2)` takes one page of options, so the layers go by short names of their descriptors.
fn overlay_the_old_way(
    lower: &[CString],
    upper: &CStr,
    work: &CStr,
    volatile: bool,
) -> Result<OwnedFd> {
    let open = |path: &CStr| {
        rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let layers = lower
        .iter()
        .map(|layer| open(layer))
        .collect::<Result<Vec<_>>>()?;
    let (upper_fd, work_fd) = (open(upper)?, open(work)?);
    let names: Vec<String> = layers.iter().map(name).collect();
    let volatile = if volatile { ",volatile" } else { "" };
    let options = format!(
        "lowerdir={},upperdir={},workdir={}{volatile}",
        names.join(":"),
        name(&upper_fd),
        name(&work_fd)
    );
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    // SAFETY: five C strings that live until the call is over.
    let result = unsafe {
        libc::mount(
            c"overlay".as_ptr(),
            upper.as_ptr(),
            c"overlay".as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    };
    check(result.into())?;
    let clone = clone_path(upper, false);
    rustix::mount::unmount(upper, rustix::mount::UnmountFlags::DETACH)?;
    let clone = clone?;
    const PRIVATE: u64 = 1 << 18;
    set_attributes(clone.as_fd(), &MountAttributes::new(0, 0, PRIVATE), false)?;
    Ok(clone)
}

fn overlay_on(context: &FsContext, upper: &CStr, work: &CStr, volatile: bool) -> Result<OwnedFd> {
    set_directory(context, "upperdir", upper)?;
    set_directory(context, "workdir", work)?;
    if volatile {
        context.set_flag("volatile")?;
    }
    context.mount(0)
}

fn set_directory(context: &FsContext, key: &str, path: &CStr) -> Result<()> {
    if path.to_bytes().len() <= MAX_FSCONFIG_STRING {
        return context.set(key, path);
    }
    let fd = rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    match context.set_fd(key, fd.as_fd()) {
        Err(Errno::INVAL) => {
            let name = CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd()))
                .map_err(|_| Errno::INVAL)?;
            context.set(key, &name)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_mounting_an_overlay() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root");
            return;
        }
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = |name: &str| CString::new(dir.path().join(name).to_str().unwrap()).unwrap();
        for name in ["one", "two", "upper", "work", "upper2", "work2"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("one/file"), "top").unwrap();
        std::fs::write(dir.path().join("two/file"), "bottom").unwrap();
        let lower = [path("one"), path("two")];
        let read = |mount: OwnedFd| {
            let content = crate::beneath::read_file(mount.as_fd(), "file", 100).unwrap();
            rustix::fs::mkdirat(&mount, "new", Mode::from_raw_mode(0o755)).unwrap();
            String::from_utf8(content).unwrap()
        };
        let mounted = overlay(&lower, &path("upper"), &path("work"), true).unwrap();
        assert_eq!(read(mounted), "top");
        assert!(dir.path().join("upper/new").exists());
        let mounted = overlay_the_old_way(&lower, &path("upper2"), &path("work2"), true).unwrap();
        assert_eq!(read(mounted), "top");
        assert!(dir.path().join("upper2/new").exists());
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(dir.path().to_str().unwrap()), "{table}");
    }
}
