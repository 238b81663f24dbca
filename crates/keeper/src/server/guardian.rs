//! The guardian: the keeper's parent, which shares its descriptor table, reaps what is orphaned, and makes a new keeper
//! when one dies.
//!
//! What must stay true: it owns no descriptor of its own beyond those in [`Shared`], and duplicates none (a duplicate
//! of a pipe's write end would be an end of file that never comes); it does as little as possible, so that it never
//! fails; the keeper runs in a copy of its memory, so that memory stays small.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use kekkai_sys::clone::{CloneFlags, spawn_copied};
use kekkai_sys::{process, signal};

use crate::server::boot::Settings;
use crate::server::keeper::{End, Keeper};
use crate::server::pump::now;
use crate::server::state::{FdNumber, StateTable};

/// The exit status by which a keeper says that it was asked to end.
const SHUTDOWN: i32 = 0;
/// A keeper that has lived for less is restarted after a pause.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// Descriptors that guardian and keeper know by number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared {
    /// The state table.
    pub(crate) state: FdNumber,
    /// The listening socket.
    pub(crate) listener: FdNumber,
    /// An eventfd: the guardian has reaped something.
    pub(crate) notes: FdNumber,
    /// Where a keeper says that it serves; whoever started the first one listens.
    pub(crate) ready: FdNumber,
}

impl Shared {
    /// All of them.
    pub(crate) fn numbers(&self) -> [FdNumber; 4] {
        [self.state, self.listener, self.notes, self.ready]
    }
}

/// The guardian's life. Ends with the exit status of the process.
pub(crate) fn guard(settings: &Settings, shared: Shared, first: u32) -> i32 {
    signal::block_all();
    let _ = process::set_child_subreaper(true);
    let _ = process::set_name(c"kekkai-guardian");
    let _ = process::set_dumpable(false);
    let Ok(table) = kekkai_sys::fd::inherited(shared.state).map(StateTable::inherit) else {
        return 1;
    };
    let Ok(notes) = kekkai_sys::fd::inherited(shared.notes) else {
        return 1;
    };
    let mut generation = first;
    let mut reaped = 0;
    let mut pause = Duration::from_millis(10);
    loop {
        let born = Instant::now();
        let spawned = spawn_copied(CloneFlags::FILES, None, &mut || {
            keep(settings, shared, generation)
        });
        let Ok(keeper) = spawned else {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(2));
            continue;
        };
        let pid = keeper.pid;
        // The keeper closes whatever its table does not name, this pidfd too. Closing it here could hit another
        // descriptor that has its number by then.
        std::mem::forget(keeper);
        let status = loop {
            match process::reap_any() {
                Ok(Some((ended, status))) if ended == pid => break status,
                Ok(Some((pid, status))) => {
                    // On kernels without PIDFD_INFO_EXIT this is how the keeper learns of it.
                    drop(table.note_reaped(reaped, pid, status, now()));
                    reaped += 1;
                    let _ = rustix::io::write(notes.as_fd(), &1_u64.to_ne_bytes());
                }
                // Every signal is blocked and taken here: only SIGCHLD means anything.
                Ok(None) | Err(_) => drop(signal::wait(Some(Duration::from_secs(60)))),
            }
        };
        if status == SHUTDOWN << 8 {
            return 0;
        }
        generation = generation.wrapping_add(1);
        if born.elapsed() < SHORT_LIFE {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(2));
        } else {
            pause = Duration::from_millis(10);
        }
    }
}

/// The keeper's life, in the guardian's child.
fn keep(settings: &Settings, shared: Shared, generation: u32) -> i32 {
    // Unwinding would close descriptors that the next keeper needs.
    std::panic::set_hook(Box::new(|info| {
        eprintln!("kekkai-keeper: {info}");
        process::exit_now(101);
    }));
    signal::block_all();
    let _ = process::set_name(c"kekkai-keeper");
    let _ = process::set_dumpable(false);
    let mut keeper = match Keeper::resume(settings.clone(), shared, generation) {
        Ok(keeper) => keeper,
        Err(error) => {
            eprintln!("kekkai-keeper: cannot begin: {error}");
            return 1;
        }
    };
    if let Ok(ready) = kekkai_sys::fd::inherited(shared.ready) {
        let _ = rustix::io::write(ready.as_fd(), b"+");
        // It stays open, so that its number is nobody else's.
        std::mem::forget(ready);
    }
    let end = keeper.run();
    // Nothing of it may be closed: this table is not ours alone.
    std::mem::forget(keeper);
    match end {
        End::Shutdown => SHUTDOWN,
        // The former guardian is gone: this process, whose children the containers are, takes its place.
        End::Promote => {
            let status = guard(settings, shared, generation.wrapping_add(1));
            settings.clean_up();
            status
        }
    }
}
