//! The architectures of an x86-64 machine as seccomp sees them, and their system call numbers.

use std::str::FromStr;

use kekkai_oci::runtime::Arch;

use crate::PlanError;

/// `__X32_SYSCALL_BIT`: what tells x32 calls from x86-64 ones; both have the same `AUDIT_ARCH`.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// An architecture that a filter can be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Architecture {
    X86_64,
    X32,
    X86,
}

/// x32 calls that have a number of their own, in order from 512 (`arch/x86/entry/syscalls/syscall_64.tbl`).
const X32_ONLY: &[&str] = &[
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

/// x86-64 calls that x32 does not have.
const NOT_X32: &[&str] = &[
    "uselib",
    "_sysctl",
    "create_module",
    "get_kernel_syms",
    "query_module",
    "nfsservctl",
    "set_thread_area",
    "get_thread_area",
    "epoll_ctl_old",
    "epoll_wait_old",
    "vserver",
];

impl Architecture {
    /// The architecture of this OCI name; `None` for those that this machine can never run.
    ///
    /// # Errors
    /// A name that is of no use on any machine we build for.
    pub(super) fn from_oci(arch: Arch) -> Result<Option<Self>, PlanError> {
        match arch {
            Arch::ScmpArchNative | Arch::ScmpArchX86_64 => Ok(Some(Self::X86_64)),
            Arch::ScmpArchX86 => Ok(Some(Self::X86)),
            Arch::ScmpArchX32 => Ok(Some(Self::X32)),
            _ => Ok(None),
        }
    }

    /// `AUDIT_ARCH_*`, what `seccomp_data.arch` says.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
        }
    }

    /// Whether arguments are compared with all of their 64 bits. x32 calls pass 64-bit registers, but libseccomp counts it
    /// as a 32-bit architecture.
    pub(super) fn wide(self) -> bool {
        self == Self::X86_64
    }

    /// The number of the call of this name, if this architecture has it.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        match self {
            Self::X86 => syscalls::x86::Sysno::from_str(name)
                .ok()
                .map(|number| number as u32),
            Self::X86_64 => syscalls::x86_64::Sysno::from_str(name)
                .ok()
                .map(|number| number as u32),
            Self::X32 => {
                if let Some(index) = X32_ONLY.iter().position(|only| *only == name) {
                    return u32::try_from(index)
                        .ok()
                        .map(|index| X32_BIT | (512 + index));
                }
                if NOT_X32.contains(&name) {
                    return None;
                }
                Self::X86_64.number(name).map(|number| X32_BIT | number)
            }
        }
    }

    /// The 32-bit multiplexer that also makes the call of this name, and the selector in its first argument.
    pub(super) fn multiplexed(self, name: &str) -> Option<(u32, u32)> {
        if self != Self::X86 {
            return None;
        }
        let socket = [
            "socket",
            "bind",
            "connect",
            "listen",
            "accept",
            "getsockname",
            "getpeername",
            "socketpair",
            "send",
            "recv",
            "sendto",
            "recvfrom",
            "shutdown",
            "setsockopt",
            "getsockopt",
            "sendmsg",
            "recvmsg",
            "accept4",
            "recvmmsg",
            "sendmmsg",
        ];
        if let Some(index) = socket.iter().position(|call| *call == name) {
            return Some((self.number("socketcall")?, u32::try_from(index).ok()? + 1));
        }
        let selector = match name {
            "semop" => 1,
            "semget" => 2,
            "semctl" => 3,
            "semtimedop" => 4,
            "msgsnd" => 11,
            "msgrcv" => 12,
            "msgget" => 13,
            "msgctl" => 14,
            "shmat" => 21,
            "shmdt" => 22,
            "shmget" => 23,
            "shmctl" => 24,
            _ => return None,
        };
        Some((self.number("ipc")?, selector))
    }
}
