//! Pseudo-terminals from a devpts of our own. Nothing is opened by a path that a container could have changed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::termios::Winsize;

use crate::{Errno, Result, beneath, check, mount::FsContext};

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS_MAGIC: u64 = 0x1cd1;

/// A detached devpts of its own.
///
/// # Errors
/// `EPERM` without the right to mount.
pub fn devpts(options: &[(&str, Option<&std::ffi::CStr>)], attributes: u64) -> Result<OwnedFd> {
    let context = FsContext::open(c"devpts")?;
    for (key, value) in options {
        match value {
            Some(value) => context.set(key, value)?,
            None => context.set_flag(key)?,
        }
    }
    context.mount(attributes)
}

/// A new terminal (master, slave) in the devpts whose root is `devpts`.
///
/// # Errors
/// `ENOSPC` when no terminal is free, `ENODEV` if it is no devpts.
pub fn open_pair(devpts: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd)> {
    if u64::try_from(rustix::fs::fstatfs(devpts)?.f_type).ok() != Some(DEVPTS_MAGIC) {
        return Err(Errno::NODEV);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::openat(devpts, c"ptmx", flags, Mode::empty())?;
    let unlock: libc::c_int = 0;
    // SAFETY: reads one integer.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: answers a new descriptor, which is then owned here.
    let slave = unsafe {
        let fd = check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags).into())?;
        <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(
            i32::try_from(fd).map_err(|_| Errno::INVAL)?,
        )
    };
    Ok((master, slave))
}

/// The devpts at `/dev/pts` beneath `root`, verified to be one.
///
/// # Errors
/// `ENODEV` if something else is there.
pub fn find_devpts(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let devpts = beneath::open_no_symlinks(root, "dev/pts", flags, Mode::empty())?;
    if u64::try_from(rustix::fs::fstatfs(&devpts)?.f_type).ok() != Some(DEVPTS_MAGIC) {
        return Err(Errno::NODEV);
    }
    Ok(devpts)
}

/// Sets the size of a terminal.
///
/// # Errors
/// `ENOTTY`.
pub fn set_size(terminal: impl AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pair_of_a_detached_devpts() {
        let Ok(devpts) = devpts(&[("ptmxmode", Some(c"0666"))], 0) else {
            println!("skipped: may not mount");
            return;
        };
        let (master, slave) = open_pair(devpts.as_fd()).unwrap();
        set_size(&master, 24, 80).unwrap();
        rustix::io::write(&slave, b"hello").unwrap();
        let mut buffer = [0u8; 16];
        assert_eq!(rustix::io::read(&master, &mut buffer).unwrap(), 5);
    }
}
