//! Capabilities of the calling thread.

use crate::{Errno, Result, check};

/// Names in the kernel's order: the index is the number.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The number of a capability by its name (`CAP_SYS_ADMIN`).
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    NAMES
        .iter()
        .position(|known| *known == name)
        .and_then(|index| u32::try_from(index).ok())
}

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;

/// Sets the three sets (`capset(2)`).
///
/// # Errors
/// `EPERM` for capabilities that are not permitted.
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: word(effective, shift),
        permitted: word(permitted, shift),
        inheritable: word(inheritable, shift),
    };
    let data = [half(0), half(32)];
    // SAFETY: a header of version 3 and its two data structures.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// The (effective, permitted, inheritable) sets of the calling thread.
///
/// # Errors
/// None in practice.
pub fn get() -> Result<(u64, u64, u64)> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: a header of version 3 and room for its two data structures.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let [low, high] = data;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok((
        join(low.effective, high.effective),
        join(low.permitted, high.permitted),
        join(low.inheritable, high.inheritable),
    ))
}

fn word(set: u64, shift: u32) -> u32 {
    u32::try_from((set >> shift) & 0xffff_ffff).unwrap_or_default()
}

/// Drops everything from the bounding set that is not in `keep`. Capabilities that this kernel does not know are
/// skipped.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP.
pub fn limit_bounding(keep: u64) -> Result<()> {
    for capability in (0..64u32).filter(|capability| keep & (1 << capability) == 0) {
        // SAFETY: integers only.
        let result = unsafe {
            libc::prctl(
                libc::PR_CAPBSET_DROP,
                libc::c_ulong::from(capability),
                0,
                0,
                0,
            )
        };
        match check(result.into()) {
            Ok(_) => {}
            // Past the last capability of this kernel.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Replaces the ambient set.
///
/// # Errors
/// `EPERM` for a capability that is not both permitted and inheritable.
pub fn set_ambient(ambient: u64) -> Result<()> {
    // SAFETY: integers only.
    let result = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    match check(result.into()) {
        Ok(_) => {}
        Err(Errno::INVAL) if ambient == 0 => return Ok(()),
        Err(error) => return Err(error),
    }
    for capability in (0..64u32).filter(|capability| ambient & (1 << capability) != 0) {
        let capability = libc::c_ulong::from(capability);
        // SAFETY: integers only.
        let result = unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE,
                capability,
                0,
                0,
            )
        };
        check(result.into())?;
    }
    Ok(())
}

/// Whether permitted capabilities survive the change from root to another user (`PR_SET_KEEPCAPS`).
///
/// # Errors
/// None in practice.
pub fn keep_across_setuid(keep: bool) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(keep), 0, 0, 0) }.into())
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number("CAP_CHOWN"), Some(0));
        assert_eq!(number("CAP_SYS_ADMIN"), Some(21));
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(number("SYS_ADMIN"), None);
        assert!(get().is_ok());
    }
}
