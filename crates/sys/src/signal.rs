//! Signals taken synchronously: blocked everywhere, waited for in one place. For small single-threaded processes
//! (the container's init, the guardian).

use std::ptr::null_mut;
use std::time::Duration;

use crate::clone::{default_disposition, set_mask};
use crate::{Errno, Result, check};

/// A signal that was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalInfo {
    /// Its number.
    pub signal: i32,
    /// The sender's pid, or the child's for SIGCHLD; 0 when the kernel sent it.
    pub pid: i32,
}

/// Gives every signal its default action and blocks none.
pub fn reset_all() {
    (1..=64).for_each(default_disposition);
    set_mask(0);
}

/// Blocks every signal that can be blocked for the calling thread, and answers the former mask.
pub fn block_all() -> u64 {
    set_mask(u64::MAX)
}

/// Sets the calling thread's mask of blocked signals (bit `n - 1` is signal `n`), and answers the former one.
pub fn set_blocked(mask: u64) -> u64 {
    set_mask(mask)
}

/// Ignores or restores a signal.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN refers to no code.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Waits for any blocked signal; `None` when the time is over.
///
/// # Errors
/// `EINTR` when a signal that is not blocked was handled.
pub fn wait(timeout: Option<Duration>) -> Result<Option<SignalInfo>> {
    let all = u64::MAX;
    // SAFETY: all zero is a valid siginfo.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let time = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos().cast_signed()),
    });
    let time = time
        .as_ref()
        .map_or(null_mut(), |time| (&raw const *time).cast_mut());
    // SAFETY: an 8-byte mask, a siginfo to write, a time to read or null.
    match check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const all,
            &raw mut info,
            time,
            8usize,
        )
    }) {
        Ok(signal) => {
            // SAFETY: for SIGCHLD and kill the pid field is set; for others it is part of the zeroed union.
            let pid = unsafe { info.si_pid() };
            Ok(Some(SignalInfo {
                signal: i32::try_from(signal).map_err(|_| Errno::INVAL)?,
                pid,
            }))
        }
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_a_child() {
        use crate::clone::{CloneFlags, spawn_copied};
        let parent = spawn_copied(CloneFlags::NONE, None, &mut || {
            block_all();
            let Ok(child) = spawn_copied(CloneFlags::NONE, None, &mut || 3) else {
                return 1;
            };
            match wait(Some(Duration::from_secs(5))) {
                Ok(Some(info)) if info.signal == libc::SIGCHLD && info.pid == child.pid => 0,
                _ => 2,
            }
        })
        .unwrap();
        assert_eq!(crate::pidfd::wait_exit(&parent).unwrap(), 0);
    }
}
