//! The kernel's interfaces that `rustix` does not wrap, or wraps as unsafe: the only crate of the project with unsafe.
//!
//! What must stay true: every public function is safe to call with any argument; descriptors are owned or borrowed
//! types and close-on-exec; errors are [`Errno`] values (no allocation, so that they can be made between a clone and an
//! `execve`); nothing here knows what a container is.

#![allow(unsafe_code, reason = "this is the crate for it")]
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod activation;
pub mod beneath;
pub mod bpf;
pub mod capability;
pub mod clone;
pub mod failpoint;
pub mod fd;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod pidfd;
pub mod process;
pub mod pty;
pub mod seccomp;
pub mod signal;
pub mod socket;

pub use rustix::io::Errno;

/// The result of a system call.
pub type Result<T> = std::result::Result<T, Errno>;

/// The error that `libc` left in `errno`.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Turns the result of a `libc` call that answers -1 on failure into a `Result`.
pub(crate) fn check(result: libc::c_long) -> Result<libc::c_long> {
    if result == -1 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}
