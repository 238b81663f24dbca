//! What a process does to itself between its clone and its `execve`, and little else.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null;

use crate::{Errno, Result, check, last_errno};

/// A null-terminated array of C strings, as `execve` takes it, made before the clone.
#[derive(Debug)]
pub struct CStringArray {
    // Owns what the pointers point at; never changed after `new`.
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers refer to heap memory owned by the same value, which is never changed.
unsafe impl Send for CStringArray {}
// SAFETY: as above; there is no interior mutability.
unsafe impl Sync for CStringArray {}

impl CStringArray {
    /// Takes the strings.
    #[must_use]
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([null()])
            .collect();
        Self {
            _strings: strings,
            pointers,
        }
    }

    /// Converts strings.
    ///
    /// # Errors
    /// `EINVAL` for a zero byte inside.
    pub fn from_strings<'text>(strings: impl IntoIterator<Item = &'text str>) -> Result<Self> {
        let strings = strings
            .into_iter()
            .map(CString::new)
            .collect::<std::result::Result<Vec<_>, _>>();
        strings.map(Self::new).map_err(|_| Errno::INVAL)
    }
}

/// Executes a program. Returns only on failure.
#[must_use]
pub fn execute(path: &CStr, arguments: &CStringArray, environment: &CStringArray) -> Errno {
    // SAFETY: a C string and two null-terminated arrays of C strings.
    unsafe {
        libc::execve(
            path.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        )
    };
    last_errno()
}

/// Executes the program behind a descriptor. Returns only on failure.
#[must_use]
pub fn execute_fd(
    program: BorrowedFd<'_>,
    arguments: &CStringArray,
    environment: &CStringArray,
) -> Errno {
    // SAFETY: an empty path with AT_EMPTY_PATH and two null-terminated arrays of C strings.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// `ENOSYS` before Linux 5.9, `EINVAL` before 5.11.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: only flags change; descriptors stay open until the execve.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// Makes `fd` the standard descriptor `target` (0, 1 or 2) of the calling process, kept across `execve`.
///
/// # Errors
/// `EINVAL` for another target, `EBADF`.
pub fn set_standard_fd(fd: BorrowedFd<'_>, target: i32) -> Result<()> {
    if !(0..=2).contains(&target) {
        return Err(Errno::INVAL);
    }
    // SAFETY: replaces a standard descriptor, which no owned type in this process stands for.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }.into())?;
    if fd.as_raw_fd() == target {
        // dup2 onto itself leaves the flags alone.
        // SAFETY: changes a flag of a descriptor that was just seen to be open.
        check(unsafe { libc::fcntl(target, libc::F_SETFD, 0) }.into())?;
    }
    Ok(())
}

/// Makes the terminal behind `fd` the controlling terminal of this session leader.
///
/// # Errors
/// `EPERM` if this is no session leader or has a terminal already.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: an integer argument.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Joins a new session keyring of this name, so that the caller's keys are not reachable.
///
/// # Errors
/// `ENOSYS`, `EDQUOT`, `EPERM`: a caller that can do without ignores them.
pub fn join_session_keyring(name: &CStr) -> Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a C string.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

/// Sets a resource limit of the calling process. `u64::MAX` is infinity.
///
/// # Errors
/// `EPERM` for raising a hard limit, `EINVAL`.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    // SAFETY: the kernel reads two 64-bit numbers (`struct rlimit64`).
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            limit.as_ptr(),
            null::<u64>(),
        )
    })
    .map(drop)
}

/// Sets `no_new_privs` for the calling thread.
///
/// # Errors
/// None in practice.
pub fn set_no_new_privileges() -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}

/// Whether others may trace this process and read its memory and `/proc` files.
///
/// # Errors
/// None in practice.
pub fn set_dumpable(dumpable: bool) -> Result<()> {
    // SAFETY: integers only.
    check(
        unsafe {
            libc::prctl(
                libc::PR_SET_DUMPABLE,
                libc::c_ulong::from(dumpable),
                0,
                0,
                0,
            )
        }
        .into(),
    )
    .map(drop)
}

/// The signal this process gets when its parent dies; `None` for none.
///
/// # Errors
/// `EINVAL` for a number that is no signal.
pub fn set_parent_death_signal(signal: Option<i32>) -> Result<()> {
    let signal = libc::c_ulong::try_from(signal.unwrap_or(0)).map_err(|_| Errno::INVAL)?;
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) }.into()).map(drop)
}

/// Orphans among the descendants become children of this process.
///
/// # Errors
/// None in practice.
pub fn set_child_subreaper(subreaper: bool) -> Result<()> {
    // SAFETY: integers only.
    check(
        unsafe {
            libc::prctl(
                libc::PR_SET_CHILD_SUBREAPER,
                libc::c_ulong::from(subreaper),
                0,
                0,
                0,
            )
        }
        .into(),
    )
    .map(drop)
}

/// Sets the name of the calling thread (15 bytes count).
///
/// # Errors
/// None in practice.
pub fn set_name(name: &CStr) -> Result<()> {
    // SAFETY: a C string.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }.into()).map(drop)
}

/// Replaces the supplementary groups of the calling thread (the raw call: the C library would tell other threads).
///
/// # Errors
/// `EPERM` without CAP_SETGID, `EINVAL` for too many.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: as many group ids as the length says.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Sets real, effective and saved group id of the calling thread.
///
/// # Errors
/// `EPERM`; `EINVAL` for an id that is not mapped.
pub fn set_gid(gid: u32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// Sets real, effective and saved user id of the calling thread.
///
/// # Errors
/// `EPERM`; `EINVAL` for an id that is not mapped; `EAGAIN` at a process limit.
pub fn set_uid(uid: u32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Ends this process at once, without destructors or exit handlers.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: ends this process only.
    unsafe { libc::_exit(status) }
}

/// Reaps one child that has ended, if there is one: `(pid, wait status)`.
///
/// # Errors
/// `ECHILD` without children.
pub fn reap_any() -> Result<Option<(i32, i32)>> {
    let mut status = 0;
    // SAFETY: writes one integer.
    match check(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) }.into())?
    {
        0 => Ok(None),
        pid => Ok(Some((
            i32::try_from(pid).map_err(|_| Errno::INVAL)?,
            status,
        ))),
    }
}

/// Brings the loopback interface of the calling thread's network namespace up.
///
/// # Errors
/// `EPERM`.
pub fn bring_loopback_up() -> Result<()> {
    // SAFETY: an all-zero ifreq is valid, its name is short and zero-terminated, and the ioctls read or write it only.
    unsafe {
        let socket =
            check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into())?;
        let socket = <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(
            i32::try_from(socket).map_err(|_| Errno::INVAL)?,
        );
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as c_char;
        request.ifr_name[1] = b'o' as c_char;
        request.ifr_ifru.ifru_flags =
            libc::c_short::try_from(libc::IFF_UP).map_err(|_| Errno::INVAL)?;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request).into())
            .map(drop)
    }
}

/// Sets the NIS domain name of the calling thread's UTS namespace.
///
/// # Errors
/// `EPERM`, `EINVAL` when too long.
pub fn set_domain_name(name: &str) -> Result<()> {
    // SAFETY: as many bytes as the length says.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}
