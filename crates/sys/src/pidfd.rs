//! Process descriptors: waiting, exit statuses for anyone (`PIDFD_INFO_EXIT`, Linux 6.15), descriptors of others.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal};

use crate::clone::Child;
use crate::{Errno, Result, check};

/// A pidfd for a pid.
///
/// # Errors
/// `ESRCH` if there is no such process.
pub fn open(pid: i32) -> Result<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid).ok_or(Errno::INVAL)?, PidfdFlags::empty())
}

/// Sends a signal by number (1–64; real-time ones too).
///
/// # Errors
/// `ESRCH` once the process is gone, `EINVAL` for a number that is no signal.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    if !(0..=64).contains(&signal) {
        return Err(Errno::INVAL);
    }
    // SAFETY: plain integers and a null siginfo.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::c_void>(),
            0,
        )
    })
    .map(drop)
}

/// Kills a process.
///
/// # Errors
/// As [`send_signal`].
pub fn kill(pidfd: BorrowedFd<'_>) -> Result<()> {
    send_signal(pidfd, Signal::KILL.as_raw())
}

/// A duplicate of descriptor `fd` of another process.
///
/// # Errors
/// `EBADF`, `EPERM`, `ESRCH`.
pub fn get_fd(pidfd: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd> {
    rustix::process::pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty())
}

/// `struct pidfd_info`, version 0 (64 bytes).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

/// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: u32 = 0xc000_0000 | (64 << 16) | (0xff << 8) | 11;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// The wait status of a process that has been reaped, told to anyone who holds a pidfd of it. `None` while it runs or
/// is a zombie.
///
/// # Errors
/// `EOPNOTSUPP` on kernels before 6.15.
pub fn exit_status(pidfd: BorrowedFd<'_>) -> Result<Option<i32>> {
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the kernel writes at most the 64 bytes that the request's number names.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    match check(result.into()) {
        Ok(_) if info.mask & PIDFD_INFO_EXIT != 0 => Ok(Some(info.exit_code)),
        Ok(_) => Ok(None),
        // A live process whose kernel knows the request answers without EXIT; ESRCH: reaped before we asked, and the
        // pidfd was made when no exit information was kept.
        Err(Errno::NOTTY | Errno::INVAL | Errno::OPNOTSUPP) => Err(Errno::OPNOTSUPP),
        Err(error) => Err(error),
    }
}

/// `_IO(PIDFS_IOCTL_MAGIC, 3)`.
const PIDFD_GET_MNT_NAMESPACE: u32 = (0xff << 8) | 3;

/// The mount namespace of a live process (Linux 6.11).
///
/// # Errors
/// `ESRCH` once it has exited; `ENOTTY` on older kernels.
pub fn mount_namespace(pidfd: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: no argument; the answer is a new descriptor (close-on-exec), owned here.
    unsafe {
        let result = libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_MNT_NAMESPACE as _, 0);
        let number = i32::try_from(check(result.into())?).map_err(|_| Errno::INVAL)?;
        Ok(<OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number))
    }
}

/// Reaps a child and answers its wait status, retrying on signals.
///
/// # Errors
/// `ECHILD` if it is not ours to reap.
pub fn wait_exit(child: &Child) -> Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: writes one integer.
        match check(unsafe { libc::waitpid(child.pid, &raw mut status, libc::__WALL) }.into()) {
            Ok(_) => return Ok(status),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Enters namespaces of the process behind a pidfd, or the one behind a namespace file. `kinds` are `CLONE_NEW*`.
///
/// # Errors
/// Those of `setns(2)`.
pub fn enter_namespaces(fd: impl AsFd, kinds: u64) -> Result<()> {
    let kinds = libc::c_int::try_from(kinds).map_err(|_| Errno::INVAL)?;
    // SAFETY: changes the calling thread's namespaces; memory is not touched.
    check(unsafe { libc::setns(fd.as_fd().as_raw_fd(), kinds) }.into()).map(drop)
}

/// Leaves the given namespaces (`CLONE_NEW*`) for new ones.
///
/// # Errors
/// Those of `unshare(2)`; `EINVAL` for other flags than namespaces.
pub fn unshare_namespaces(kinds: u64) -> Result<()> {
    const ALLOWED: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWCGROUP
        | 0x80;
    let kinds = libc::c_int::try_from(kinds).map_err(|_| Errno::INVAL)?;
    if kinds & !ALLOWED != 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: namespaces only; the descriptor table and memory stay shared as they were.
    check(unsafe { libc::unshare(kinds) }.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone::{CloneFlags, spawn_copied};

    #[test]
    fn exit_status_after_reaping() {
        let child = spawn_copied(CloneFlags::NONE, None, &mut || 5).unwrap();
        wait_exit(&child).unwrap();
        match exit_status(child.pidfd.as_fd()) {
            Ok(status) => assert_eq!(status, Some(5 << 8)),
            Err(Errno::OPNOTSUPP) => println!("skipped: this kernel has no PIDFD_INFO_EXIT"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn signals_are_checked() {
        let own = open(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(send_signal(own.as_fd(), 65), Err(Errno::INVAL));
        assert_eq!(send_signal(own.as_fd(), 0), Ok(()));
    }
}
