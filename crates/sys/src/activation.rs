//! Socket activation (`sd_listen_fds(3)`): descriptors that the service manager hands over.

use std::os::fd::{FromRawFd, OwnedFd};

use crate::{Result, check};

/// The first descriptor that the service manager passes (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;
/// More than any unit file names.
const MAX_FDS: i32 = 64;
const VARIABLES: [&str; 4] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
];

/// Takes the descriptors passed to this process, close-on-exec, and removes the variables that announce them, so that
/// no child takes them for its own. Empty where there are none or they are another process's. Call it once, first thing
/// in `main`, while the process has one thread.
///
/// # Errors
/// `EBADF` if the variables promise a descriptor that is not open.
pub fn listen_fds() -> Result<Vec<OwnedFd>> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<i64>().ok())
    };
    let for_us = number("LISTEN_PID") == Some(i64::from(std::process::id()));
    let count = number("LISTEN_FDS")
        .and_then(|count| i32::try_from(count).ok())
        .unwrap_or(0);
    for name in VARIABLES {
        // SAFETY: the caller has one thread, so nobody reads the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }
    if !for_us {
        return Ok(Vec::new());
    }
    (FIRST..FIRST + count.clamp(0, MAX_FDS))
        .map(|number| {
            // SAFETY: changes a flag; fails if nothing is open there.
            check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
            // SAFETY: open, as was just seen, and passed to us by number: nobody else owns it.
            Ok(unsafe { OwnedFd::from_raw_fd(number) })
        })
        .collect()
}
