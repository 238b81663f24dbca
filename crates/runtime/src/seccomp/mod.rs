//! Seccomp: Docker's default profile, profiles in Docker's JSON, and the compiler from an OCI seccomp section to BPF.
//!
//! ```text
//!  docker_default(caps) ─┐
//!  from_docker_profile ──┴─▶ LinuxSeccomp (OCI) ── compile ──▶ Program (classic BPF)
//! ```
//!
//! What must stay true: a filter decides exactly as libseccomp's would for the same section, with runc's rule that a
//! system call newer than all that the profile names answers ENOSYS; dispatch on the number is a balanced tree.

mod architecture;
mod compact;
mod compile;
mod default;
#[cfg(test)]
mod docker;
#[cfg(test)]
mod interpret;
mod profile;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub(crate) use compile::compile;
pub use default::docker_default;
pub use profile::from_docker_profile;

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// `struct sock_filter` values: code, jt, jf, k.
    pub(crate) instructions: Vec<(u16, u8, u8, u32)>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u32,
}

impl Program {
    /// The program as the kernel takes it, and its flags.
    pub(crate) fn to_kernel(&self) -> (Vec<kekkai_sys::seccomp::Instruction>, u32) {
        let convert = |&(code, jt, jf, k): &(u16, u8, u8, u32)| kekkai_sys::seccomp::Instruction {
            code,
            jt,
            jf,
            k,
        };
        (self.instructions.iter().map(convert).collect(), self.flags)
    }
}
