//! The clone itself, straight or staged, and how a failure of the child comes back.
//!
//! ```text
//!  straight: parent sleeps ── child writes `Report` in shared memory ── execve or exit ── parent reads it
//!  staged:   parent reads a pipe ── child writes a byte or a failure into it ── execve closes it (CLOEXEC)
//! ```
//!
//! What must stay true: the child's body is the only code that runs in the child, and it never returns normally: it
//! executes a program or answers a [`Failure`].

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kekkai_sys::Errno;
use kekkai_sys::clone::{Child, ChildStack, CloneFlags, spawn_copied, spawn_shared};
use rustix::pipe::PipeFlags;

use super::failure::{At, Failure};
use crate::{Parent, Stage};

/// How a child is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Shared memory, the parent sleeps.
    Straight,
    /// A fork: nothing of the launcher's memory is shared with a process that others may trace.
    Staged,
}

/// Where the child says that everything is done but the `execve`.
pub(crate) struct Report<'a> {
    executing: &'a Cell<bool>,
    pipe: Option<BorrowedFd<'a>>,
}

/// First byte on the pipe of a staged child.
const EXECUTING: u8 = b'E';
const FAILED: u8 = b'F';
/// The largest failure that is read from a child.
const MAX_REPORT: usize = 64 * 1024;

impl Report<'_> {
    /// From here on, the process counts as started: what fails is its own output and exit code, as with runc.
    pub(crate) fn executing(&self) {
        self.executing.set(true);
        if let Some(pipe) = self.pipe {
            let _ = rustix::io::write(pipe, &[EXECUTING]);
        }
    }
}

thread_local! {
    /// The stack of straight children, kept so that its touched pages are reused.
    static STACK: RefCell<Option<ChildStack>> = const { RefCell::new(None) };
}

/// Makes the child and waits until it executes a program or fails. A failed child is reaped if it is ours.
pub(crate) fn spawn(
    way: Way,
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    body: &dyn Fn(&Report<'_>) -> Failure,
) -> Result<Child, Failure> {
    let result = match way {
        Way::Straight => straight(flags, cgroup, body),
        Way::Staged => staged(flags, cgroup, body),
    };
    result.map_err(|(failure, child)| {
        if let Some(child) = child.filter(|_| !flags.contains(CloneFlags::PARENT)) {
            let _ = kekkai_sys::pidfd::wait_exit(&child);
        }
        failure
    })
}

type Spawned = Result<Child, (Failure, Option<Child>)>;

fn straight(
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    body: &dyn Fn(&Report<'_>) -> Failure,
) -> Spawned {
    let executing = Cell::new(false);
    let failure = Cell::new(None);
    let child = STACK.with_borrow_mut(|stack| {
        let stack = match stack {
            Some(stack) => stack,
            None => stack.insert(ChildStack::new()?),
        };
        spawn_shared(stack, flags, cgroup, &mut || {
            let failed = body(&Report {
                executing: &executing,
                pipe: None,
            });
            if executing.get() {
                return cannot_execute(&failed);
            }
            failure.set(Some(failed));
            1
        })
    });
    let child = child
        .at(Stage::Clone, format!("{:#x}", flags.bits()))
        .map_err(|failure| (failure, None))?;
    match (failure.into_inner(), executing.get()) {
        (Some(failure), _) => Err((failure, Some(child))),
        (None, true) => Ok(child),
        (None, false) => Err((died(), Some(child))),
    }
}

fn staged(
    flags: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    body: &dyn Fn(&Report<'_>) -> Failure,
) -> Spawned {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .at(Stage::Prepare, "pipe")
        .map_err(|failure| (failure, None))?;
    let executing = Cell::new(false);
    let child = spawn_copied(flags, cgroup, &mut || {
        let failed = body(&Report {
            executing: &executing,
            pipe: Some(writer.as_fd()),
        });
        if executing.get() {
            return cannot_execute(&failed);
        }
        let mut report = vec![FAILED];
        report.extend(postcard::to_stdvec(&failed).unwrap_or_default());
        let _ = rustix::io::write(&writer, &report);
        1
    });
    drop(writer);
    let child = child
        .at(Stage::Clone, format!("{:#x}", flags.bits()))
        .map_err(|failure| (failure, None))?;
    match read_report(&reader) {
        Ok(()) => Ok(child),
        Err(failure) => Err((failure, Some(child))),
    }
}

fn read_report(reader: &OwnedFd) -> Result<(), Failure> {
    let report = kekkai_sys::beneath::read_all(reader.as_fd(), MAX_REPORT)
        .at(Stage::Protocol, "the child's report")?;
    match report.split_first() {
        Some((&EXECUTING, _)) => Ok(()),
        Some((&FAILED, failure)) => Err(postcard::from_bytes(failure).unwrap_or_else(|_| died())),
        _ => Err(died()),
    }
}

/// The container has started as far as its owner is concerned: it says why it ends, where its output goes.
fn cannot_execute(failure: &Failure) -> i32 {
    let line = format!(
        "exec {}: {}\n",
        failure.subject,
        super::failure::words(failure.errno)
    );
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
    255
}

fn died() -> Failure {
    let words = "container init was killed before it could start (memory limit too low?)";
    Failure::worded(Stage::Protocol, Errno::NOMEM, "", words)
}

/// The clone flag for whose child it becomes.
pub(crate) fn parent_flag(parent: Parent) -> CloneFlags {
    match parent {
        Parent::Caller => CloneFlags::NONE,
        Parent::CallersParent => CloneFlags::PARENT,
    }
}
