//! Descriptor tables that are inherited or shared across processes.

use std::os::fd::{FromRawFd, OwnedFd};

use crate::{Errno, Result, check};

/// Takes ownership of a descriptor that an earlier process of the same descriptor table left at this number.
/// The caller vouches that nothing else in this process owns it: the number comes from a table that records owners.
///
/// # Errors
/// `EBADF` if nothing is open there.
pub fn inherited(number: i32) -> Result<OwnedFd> {
    // SAFETY: reads flags.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into())?;
    // SAFETY: open, as was just seen, and owned by nobody, as the caller vouches. A wrong promise closes a descriptor
    // of someone else, which rustix and std turn into EBADF errors, not into memory unsafety.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor except these. For a process that starts with a table it did not fill, before any owned
/// descriptor exists.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_all_except(keep: &[i32]) -> Result<()> {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|number| u32::try_from(*number).ok())
        .collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 0u32;
    for number in keep.into_iter().chain([u32::MAX]) {
        if first < number {
            let last = if number == u32::MAX {
                u32::MAX
            } else {
                number - 1
            };
            // SAFETY: numbers that no owned descriptor of this process stands for, as the caller vouches.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
        first = number
            .checked_add(1)
            .ok_or(Errno::INVAL)
            .unwrap_or(u32::MAX);
    }
    Ok(())
}
