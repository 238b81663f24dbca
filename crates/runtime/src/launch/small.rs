//! A mount namespace with one mount, from which containers are cloned.
//!
//! Cloning a mount namespace copies every mount, and leaving the old root detaches every copy: some 3 µs for each mount
//! of the host, at every start, and an RCU grace period, which is milliseconds on a busy machine. So a launcher that can keeps a second mount namespace with nothing in it, does all that
//! needs the host's files in the host's, and steps into the small one only for the clone.
//!
//! There the container's root simply covers the empty one.
//!
//! What must stay true: the launcher is in the host's mount namespace, with the root it began with, whenever
//! [`within`] is not running its argument. The child gets everything of the host by descriptor.

use std::os::fd::OwnedFd;

use kekkai_sys::mount::{self, FsContext};
use kekkai_sys::{Errno, pidfd};
use rustix::fs::{CWD, Mode, OFlags};

use super::failure::{At, Failure};
use crate::Stage;

/// `CLONE_NEWNS`.
const MOUNT_NAMESPACE: u64 = 0x2_0000;
/// `MS_REC | MS_PRIVATE`.
const PRIVATE: u64 = 1 << 14 | 1 << 18;

struct Pair {
    host: OwnedFd,
    small: OwnedFd,
}

thread_local! {
    /// Made at the first launch; `None` where it cannot be (another thread shares our root, we are in a chroot).
    static PAIR: Option<Pair> = make();
}

/// Whether there is a small namespace to clone from.
pub(crate) fn is_available() -> bool {
    PAIR.with(Option::is_some)
}

/// Runs `clone` in the small namespace, or where it is not to be had in the host's.
pub(crate) fn within<T>(clone: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    PAIR.with(|pair| {
        let Some(pair) = pair else { return clone() };
        pidfd::enter_namespaces(&pair.small, MOUNT_NAMESPACE).at(Stage::Namespace, "mount")?;
        let result = clone();
        pidfd::enter_namespaces(&pair.host, MOUNT_NAMESPACE).at(Stage::Namespace, "mount")?;
        result
    })
}

fn make() -> Option<Pair> {
    let root = identity().ok()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(c"/", flags, Mode::empty()).ok()?;
    let host = own_namespace().ok()?;
    let made = make_small();
    // Whatever became of it, back to the host's.
    let back = pidfd::enter_namespaces(&host, MOUNT_NAMESPACE);
    match (made, back) {
        (Ok(small), Ok(())) if identity() == Ok(root) => Some(Pair { host, small }),
        (_, Ok(())) if identity() == Ok(root) => None,
        // Entering a namespace makes its root ours. In a chroot that is another one: back into it, and no more of this.
        _ => {
            let back =
                rustix::process::fchdir(&directory).and_then(|()| rustix::process::chroot(c"."));
            debug_assert!(back.is_ok(), "{back:?}");
            None
        }
    }
}

/// What tells our root directory from others: device, inode and mount.
fn identity() -> Result<(u64, u64, u64), Errno> {
    let flags = rustix::fs::StatxFlags::BASIC_STATS | rustix::fs::StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(CWD, c"/", rustix::fs::AtFlags::empty(), flags)?;
    Ok((
        u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
        stat.stx_ino,
        stat.stx_mnt_id,
    ))
}

fn own_namespace() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(c"/proc/thread-self/ns/mnt", flags, Mode::empty())
}

fn make_small() -> Result<OwnedFd, Errno> {
    let context = FsContext::open(c"tmpfs")?;
    context.set("size", c"4k")?;
    context.set("mode", c"555")?;
    let root = context.mount(mount::ATTR_RDONLY | mount::ATTR_NOSUID | mount::ATTR_NODEV)?;
    pidfd::unshare_namespaces(MOUNT_NAMESPACE)?;
    let small = own_namespace()?;
    mount::set_root_propagation(PRIVATE)?;
    mount::become_root(std::os::fd::AsFd::as_fd(&root))?;
    Ok(small)
}
