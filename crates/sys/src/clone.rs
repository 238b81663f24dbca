//! New processes, in the two ways that launching needs.
//!
//! [`spawn_shared`] runs a function in a child that shares the caller's memory, on a stack of its own, while the calling
//! thread sleeps until the child executes a program or exits (`CLONE_VM | CLONE_VFORK`: never one without the other).
//! It costs the same however large the caller is. [`spawn_copied`] is a fork: the caller goes on at once.
//!
//! What must stay true: the function of a shared child behaves like a coroutine of the caller. What it writes to memory
//! the caller sees; descriptors it opens or closes are its own table's, so it must not store or drop descriptors of the
//! caller's structures. Signals are blocked from before the clone until the child has default dispositions.

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::OnceLock;

use crate::{Errno, Result, check, last_errno};

/// Flags of a clone: namespaces to make, and whose child it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CloneFlags(u64);

impl CloneFlags {
    /// No new namespace; the child is the caller's.
    pub const NONE: Self = Self(0);
    /// `CLONE_NEWNS`.
    pub const NEW_MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    /// `CLONE_NEWPID`.
    pub const NEW_PID: Self = Self(libc::CLONE_NEWPID as u64);
    /// `CLONE_NEWUTS`.
    pub const NEW_UTS: Self = Self(libc::CLONE_NEWUTS as u64);
    /// `CLONE_NEWIPC`.
    pub const NEW_IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    /// `CLONE_NEWNET`.
    pub const NEW_NETWORK: Self = Self(libc::CLONE_NEWNET as u64);
    /// `CLONE_NEWCGROUP`.
    pub const NEW_CGROUP: Self = Self(libc::CLONE_NEWCGROUP as u64);
    /// `CLONE_NEWUSER`: only for [`spawn_copied`], since the parent has to write the mappings.
    pub const NEW_USER: Self = Self(libc::CLONE_NEWUSER as u64);
    /// `CLONE_PARENT`: the child is the caller's parent's, with the caller's own exit signal.
    pub const PARENT: Self = Self(libc::CLONE_PARENT as u64);
    /// `CLONE_FILES`: one descriptor table with the caller; only for [`spawn_copied`].
    pub const FILES: Self = Self(libc::CLONE_FILES as u64);

    /// Whether all of `other` is set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The kernel's bits.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl std::ops::BitOr for CloneFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for CloneFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// A new process.
#[derive(Debug)]
pub struct Child {
    /// Its pid in the caller's pid namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

/// Size of a child's stack. Setting up a container stays far below it; untouched pages cost nothing.
const STACK_SIZE: usize = 512 * 1024;
/// Unmapped page below the stack, so that an overflow is a fault and not a silent overwrite.
const GUARD_SIZE: usize = 4096;

/// A stack for shared children. Keep it: its touched pages are reused by the next launch.
#[derive(Debug)]
pub struct ChildStack {
    base: *mut c_void,
}

// SAFETY: the mapping is owned by this value and reached through it only.
unsafe impl Send for ChildStack {}

impl ChildStack {
    /// Maps a stack.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        // SAFETY: a fresh anonymous mapping; no existing memory is touched.
        let base = unsafe {
            libc::mmap(
                null_mut(),
                STACK_SIZE + GUARD_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let stack = Self { base };
        // SAFETY: the first page of the mapping that was just made.
        check(unsafe { libc::mprotect(base, GUARD_SIZE, libc::PROT_NONE) }.into())?;
        Ok(stack)
    }

    fn lowest(&self) -> *mut c_void {
        self.base.wrapping_byte_add(GUARD_SIZE)
    }
}

impl Drop for ChildStack {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nobody else refers to.
        unsafe { libc::munmap(self.base, STACK_SIZE + GUARD_SIZE) };
    }
}

/// `struct clone_args` of `clone3(2)`.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Runs `run` in a child that shares the caller's memory; returns when the child has executed a program or exited.
/// `run`'s value is the exit status if it returns; a panic in it exits with 255. `cgroup`, a directory of the unified
/// hierarchy, is where the child starts (`CLONE_INTO_CGROUP`).
///
/// The signal mask of the child is empty and all dispositions are default when `run` begins.
///
/// # Errors
/// Those of `clone3(2)`; `EINVAL` for flags that need a copied child. `ENOSYS` where `cgroup` is given and the kernel
/// (or a filter around us) has no `clone3`.
pub fn spawn_shared(
    stack: &mut ChildStack,
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    run: &mut dyn FnMut() -> i32,
) -> Result<Child> {
    if flags.0 & (CloneFlags::NEW_USER.0 | CloneFlags::FILES.0) != 0 {
        return Err(Errno::INVAL);
    }
    let ignored = ignored_signals();
    let mut entry_data = Entry {
        run,
        ignored,
        clear: false,
    };
    let _blocked = BlockedSignals::new()?;
    let mut pidfd: libc::c_int = -1;
    let mut args = arguments(flags, cgroup, &mut pidfd);
    args.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    args.stack = stack.lowest() as u64;
    args.stack_size = STACK_SIZE as u64;
    let data: *mut Entry<'_> = &raw mut entry_data;
    // SAFETY: `args` is a valid clone_args with a stack of our own that nothing else uses (`&mut`); the thread sleeps
    // until the child is done with `data`, because of CLONE_VFORK.
    let result = unsafe { clone3_on_stack(&args, entry, data.cast()) };
    if result >= 0 {
        return child_of(result, pidfd);
    }
    let error = Errno::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL));
    if !matches!(error, Errno::NOSYS | Errno::PERM) || cgroup.is_some() {
        return Err(error);
    }
    entry_data.clear = true;
    let data: *mut Entry<'_> = &raw mut entry_data;
    let signal = if flags.contains(CloneFlags::PARENT) {
        0
    } else {
        libc::SIGCHLD
    };
    let old_flags = flags.0 | (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64;
    let old_flags = i32::try_from(old_flags).map_err(|_| Errno::INVAL)? | signal;
    // SAFETY: as above; `clone` takes the top of the stack.
    let pid = check(
        unsafe {
            libc::clone(
                old_entry,
                stack.lowest().byte_add(STACK_SIZE),
                old_flags,
                data.cast(),
                &raw mut pidfd,
            )
        }
        .into(),
    )?;
    child_of(pid, pidfd)
}

/// Runs `run` in a forked child, which has a copy of the caller's memory; returns at once. As in [`spawn_shared`], the
/// child's mask is empty and its dispositions are default.
///
/// # Errors
/// Those of `clone3(2)` and `clone(2)`.
pub fn spawn_copied(
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    run: &mut dyn FnMut() -> i32,
) -> Result<Child> {
    let ignored = ignored_signals();
    let _blocked = BlockedSignals::new()?;
    let mut pidfd: libc::c_int = -1;
    let args = arguments(flags, cgroup, &mut pidfd);
    // SAFETY: no CLONE_VM, so this is a fork: the child goes on with a copy of this stack.
    let mut result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    if result == -1 && matches!(last_errno(), Errno::NOSYS | Errno::PERM) && cgroup.is_none() {
        let signal = if flags.contains(CloneFlags::PARENT) {
            0
        } else {
            libc::SIGCHLD as u64
        };
        let old_flags = flags.0 | libc::CLONE_PIDFD as u64 | signal;
        // SAFETY: as above, by the older call.
        result = unsafe {
            libc::syscall(
                libc::SYS_clone,
                old_flags,
                0usize,
                &raw mut pidfd,
                0usize,
                0usize,
            )
        };
    }
    if result == 0 {
        let mut entry_data = Entry {
            run,
            ignored,
            clear: true,
        };
        run_child(&mut entry_data);
    }
    child_of(check(result)?, pidfd)
}

fn arguments(
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    pidfd: &mut libc::c_int,
) -> CloneArgs {
    let mut args = CloneArgs {
        flags: flags.0 | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut *pidfd) as u64,
        // clone3 refuses an exit signal with CLONE_PARENT: the caller's own is inherited.
        exit_signal: if flags.contains(CloneFlags::PARENT) {
            0
        } else {
            libc::SIGCHLD as u64
        },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or_default();
    }
    args
}

fn child_of(pid: libc::c_long, pidfd: libc::c_int) -> Result<Child> {
    let pid = i32::try_from(pid).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel stored a new descriptor there (CLONE_PIDFD), which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

struct Entry<'run> {
    run: &'run mut dyn FnMut() -> i32,
    ignored: &'static [libc::c_int],
    /// Whether every disposition must be reset, not only the ignored ones (no CLONE_CLEAR_SIGHAND).
    clear: bool,
}

extern "C" fn entry(data: *mut c_void) -> ! {
    // SAFETY: `data` is the `Entry` of the sleeping caller, used by nobody else until we are done.
    run_child(unsafe { &mut *data.cast::<Entry<'_>>() })
}

extern "C" fn old_entry(data: *mut c_void) -> libc::c_int {
    entry(data)
}

fn run_child(entry: &mut Entry<'_>) -> ! {
    let status = catch_unwind(AssertUnwindSafe(|| {
        if entry.clear {
            (1..=64).for_each(default_disposition);
        } else {
            entry.ignored.iter().copied().for_each(default_disposition);
        }
        set_mask(0);
        (entry.run)()
    }))
    .unwrap_or(255);
    // SAFETY: ends this process only, without running the exit handlers of the memory it may share.
    unsafe { libc::_exit(status) }
}

/// Gives a signal its default action. Errors (SIGKILL, SIGSTOP, the C library's own) do not matter.
pub(crate) fn default_disposition(signal: libc::c_int) {
    /// `struct sigaction` of the kernel; all zero is SIG_DFL with no flags.
    #[repr(C)]
    struct KernelAction([u64; 4]);
    let action = KernelAction([0; 4]);
    // SAFETY: SIG_DFL refers to no code.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            &raw const action,
            null_mut::<c_void>(),
            8usize,
        )
    };
}

/// Sets the calling thread's signal mask and returns the old one.
pub(crate) fn set_mask(mask: u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: two 8-byte masks. The raw call, because the C library would keep its own signals unblocked.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut old,
            8usize,
        )
    };
    old
}

/// All signals blocked until dropped.
struct BlockedSignals(u64);

impl BlockedSignals {
    fn new() -> Result<Self> {
        Ok(Self(set_mask(u64::MAX)))
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        set_mask(self.0);
    }
}

/// The signals that this process ignored when it first asked. They alone survive an `execve`; Rust's runtime ignores
/// SIGPIPE. Looked up once: a launcher does not change its dispositions.
fn ignored_signals() -> &'static [libc::c_int] {
    static IGNORED: OnceLock<Vec<libc::c_int>> = OnceLock::new();
    IGNORED.get_or_init(|| {
        let ignored = |signal: &libc::c_int| {
            let mut action = [0u64; 4];
            // SAFETY: reads the disposition into a buffer of the kernel's size.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    *signal,
                    null_mut::<c_void>(),
                    action.as_mut_ptr(),
                    8usize,
                )
            };
            result == 0 && action[0] == libc::SIG_IGN as u64
        };
        (1..=64).filter(ignored).collect()
    })
}

/// `clone3` whose child calls `entry(data)` on the stack in `args`. Answers a pid or a negative errno.
///
/// # Safety
/// `args` must be valid, with a stack that nothing else uses, and `entry` must never return.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3_on_stack(
    args: &CloneArgs,
    entry: extern "C" fn(*mut c_void) -> !,
    data: *mut c_void,
) -> libc::c_long {
    let result: libc::c_long;
    // SAFETY: the parent sees an ordinary system call; the child has a new, aligned stack and never comes back.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") entry,
            in("r13") data,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// As on x86-64.
///
/// # Safety
/// As on x86-64.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3_on_stack(
    args: &CloneArgs,
    entry: extern "C" fn(*mut c_void) -> !,
    data: *mut c_void,
) -> libc::c_long {
    let result: libc::c_long;
    // SAFETY: the parent sees an ordinary system call; the child has a new, aligned stack and never comes back.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") args => result,
            in("x1") size_of::<CloneArgs>(),
            in("x20") data,
            in("x21") entry,
        );
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pidfd::wait_exit;

    #[test]
    fn shared_child_writes_our_memory() {
        let mut stack = ChildStack::new().unwrap();
        let mut seen = 0;
        let child = spawn_shared(&mut stack, CloneFlags::NONE, None, &mut || {
            seen = 42;
            7
        })
        .unwrap();
        assert_eq!(wait_exit(&child).unwrap() >> 8, 7);
        assert_eq!(seen, 42);
    }

    #[test]
    fn copied_child_does_not() {
        let mut seen = 0;
        let child = spawn_copied(CloneFlags::NONE, None, &mut || {
            seen = 42;
            9
        })
        .unwrap();
        assert_eq!(wait_exit(&child).unwrap() >> 8, 9);
        assert_eq!(seen, 0);
    }

    #[test]
    fn panic_in_child_stays_there() {
        let mut stack = ChildStack::new().unwrap();
        let child = spawn_shared(&mut stack, CloneFlags::NONE, None, &mut || {
            std::panic::resume_unwind(Box::new(1))
        })
        .unwrap();
        assert_eq!(wait_exit(&child).unwrap() >> 8, 255);
    }
}
