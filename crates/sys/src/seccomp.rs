//! Loading seccomp filters.

use crate::{Result, check};

/// One classic BPF instruction, `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump if true, relative.
    pub jt: u8,
    /// Jump if false, relative.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

#[repr(C)]
struct Program {
    length: libc::c_ushort,
    instructions: *const Instruction,
}

/// Loads a filter for the calling thread (`SECCOMP_SET_MODE_FILTER`) with `SECCOMP_FILTER_FLAG_*`.
///
/// # Errors
/// `EACCES` without `no_new_privs` or CAP_SYS_ADMIN, `EINVAL` for a bad program.
pub fn load(instructions: &[Instruction], flags: u32) -> Result<()> {
    let length = libc::c_ushort::try_from(instructions.len()).map_err(|_| crate::Errno::INVAL)?;
    let program = Program {
        length,
        instructions: instructions.as_ptr(),
    };
    // SAFETY: the kernel copies `length` instructions from a live slice.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })
    .map(drop)
}
