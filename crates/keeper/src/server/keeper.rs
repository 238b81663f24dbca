//! The control loop: one thread, one epoll, no call that waits for a container, a mount or a disk.
//!
//! What must stay true: whatever is relied on is in the state table first; a descriptor is struck out of the table
//! before it is closed; exits are stored before they are told.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kekkai_sys::Errno;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::protocol::Target;
use crate::server::boot::Settings;
use crate::server::chores::Chores;
use crate::server::guardian::Shared;
use crate::server::links::Link;
use crate::server::pending::PendingStore;
use crate::server::pool::{Launcher, QueuedJob};
use crate::server::pump::{IoKey, Note, Pump};
use crate::server::slots::Slots;
use crate::server::state::{MAX_LINKS, MAX_TASKS, StateTable};
use crate::server::tasks::Task;
use crate::transport;

/// Pump threads from the start on.
const PUMPS: usize = 2;
/// How long all pump threads may be at work before there is another.
const STUFFED: Duration = Duration::from_millis(200);

/// How the keeper's life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Asked to, with nothing to keep.
    Shutdown,
    /// The guardian is gone: this process becomes the guardian of a new keeper.
    Promote,
}

/// Whose event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Listener,
    Guardian,
    GuardianNotes,
    Notes,
    /// A launcher's socket, by the launcher's number.
    Launcher(u32),
    /// A task's pidfd.
    Exit(u32),
    /// A task's standard input has room.
    Stdin(u32),
    /// A link's socket, with the link's serial number.
    Link(u32, u16),
}

impl Token {
    pub(crate) fn data(self) -> epoll::EventData {
        let (kind, slot, serial) = match self {
            Self::Listener => (0, 0, 0),
            Self::Guardian => (1, 0, 0),
            Self::GuardianNotes => (2, 0, 0),
            Self::Notes => (3, 0, 0),
            Self::Launcher(number) => (4, number, 0),
            Self::Exit(slot) => (5, slot, 0),
            Self::Stdin(slot) => (6, slot, 0),
            Self::Link(slot, serial) => (7, slot, serial),
        };
        epoll::EventData::new_u64(u64::from(slot) << 32 | u64::from(serial) << 8 | kind)
    }

    fn parse(data: u64) -> Option<Self> {
        let slot = u32::try_from(data >> 32).ok()?;
        let serial = u16::try_from(data >> 8 & 0xffff).ok()?;
        Some(match data & 0xff {
            0 => Self::Listener,
            1 => Self::Guardian,
            2 => Self::GuardianNotes,
            3 => Self::Notes,
            4 => Self::Launcher(slot),
            5 => Self::Exit(slot),
            6 => Self::Stdin(slot),
            7 => Self::Link(slot, serial),
            _ => return None,
        })
    }
}

/// What is to be done later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// End the streams of an exited task; with the pid of that run.
    Cut(usize, u32),
    /// End the sessions of a process that has closed its output and goes on; with the pid of that run.
    Eof(usize, u32),
    /// Tell an exit although its output is not drained: a disk hangs.
    TellExit(usize, u32),
    /// Look for children that nobody knows.
    Reap,
    /// Kill children that nobody knows.
    KillUnknown,
    /// Jobs have waited: make another launcher.
    Grow,
    /// Launchers were made for a rush.
    Shrink,
    /// All pump threads were at work.
    Stuffed,
    /// Try to become the guardian again.
    Promote,
}

/// Everything the control loop owns.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) settings: Settings,
    pub(crate) generation: u32,
    pub(crate) guardian: u32,
    pub(crate) guardian_pidfd: OwnedFd,
    pub(crate) state: StateTable,
    pub(crate) epoll: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) guardian_notes: OwnedFd,
    pub(crate) tasks: Slots<Task>,
    pub(crate) index: HashMap<Target, usize>,
    pub(crate) links: Slots<Link>,
    pub(crate) serial: u16,
    pub(crate) launchers: Vec<Launcher>,
    pub(crate) next_launcher: u32,
    pub(crate) queue: VecDeque<QueuedJob>,
    pub(crate) next_job: u64,
    pub(crate) pump: Arc<Pump>,
    pub(crate) chores: Chores,
    pub(crate) timers: Vec<(Instant, Timer)>,
    pub(crate) layout: Option<kekkai_cgroups::Layout>,
    pub(crate) end: Option<End>,
}

impl Keeper {
    /// A keeper without tasks. The calling process is single-threaded still.
    pub(crate) fn new(settings: Settings, shared: &Shared, generation: u32) -> Result<Self, Errno> {
        let guardian = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        let guardian_pidfd = kekkai_sys::pidfd::open(guardian)?;
        let chores = Chores::default();
        let pending = PendingStore::open(&settings.exec_root).ok();
        let pump = Pump::new(settings.spill_dir.clone(), pending, chores.clone())?;
        let state = StateTable::inherit(kekkai_sys::fd::inherited(shared.state)?);
        let keeper = Self {
            generation,
            guardian: guardian.unsigned_abs(),
            guardian_pidfd,
            state,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            listener: kekkai_sys::fd::inherited(shared.listener)?,
            guardian_notes: kekkai_sys::fd::inherited(shared.notes)?,
            tasks: Slots::new(MAX_TASKS),
            index: HashMap::new(),
            links: Slots::new(MAX_LINKS),
            serial: 0,
            launchers: Vec::new(),
            next_launcher: 0,
            queue: VecDeque::new(),
            next_job: 1,
            pump,
            chores,
            timers: Vec::new(),
            layout: kekkai_cgroups::detect().ok(),
            end: None,
            settings,
        };
        for (fd, token) in [
            (keeper.listener.as_fd(), Token::Listener),
            (keeper.guardian_pidfd.as_fd(), Token::Guardian),
            (keeper.guardian_notes.as_fd(), Token::GuardianNotes),
            (keeper.pump.notes_fd().as_fd(), Token::Notes),
        ] {
            keeper.watch(fd, token, epoll::EventFlags::IN)?;
        }
        // The listener's credentials are those of the last caller of listen: whoever asks finds this process.
        rustix::net::listen(&keeper.listener, 128)?;
        Ok(keeper)
    }

    pub(crate) fn watch(
        &self,
        fd: BorrowedFd<'_>,
        token: Token,
        flags: epoll::EventFlags,
    ) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, token.data(), flags)
    }

    /// Starts the threads and goes round until the end.
    pub(crate) fn run(&mut self) -> End {
        for _ in 0..PUMPS {
            drop(self.pump.spawn());
        }
        let mut events = Vec::with_capacity(64);
        let mut buffer = vec![0; transport::BUFFER];
        loop {
            if let Some(end) = self.end {
                return end;
            }
            if self.pump.is_stuffed()
                && !self
                    .timers
                    .iter()
                    .any(|(_, timer)| *timer == Timer::Stuffed)
            {
                self.after(STUFFED, Timer::Stuffed);
            }
            events.clear();
            let timeout = self.timeout();
            if epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()).is_err() {
                continue;
            }
            for event in &events {
                if let Some(token) = Token::parse(event.data.u64()) {
                    self.dispatch(token, event.flags, &mut buffer);
                }
            }
            self.run_timers();
        }
    }

    fn dispatch(&mut self, token: Token, flags: epoll::EventFlags, buffer: &mut [u8]) {
        match token {
            Token::Listener => self.accept(),
            Token::Guardian => self.guardian_died(),
            Token::GuardianNotes => self.guardian_reaped(),
            Token::Notes => self.take_notes(),
            Token::Launcher(number) => self.launcher_ready(number, buffer),
            Token::Exit(slot) => self.process_ended(slot as usize),
            Token::Stdin(slot) => self.stdin_has_room(slot as usize),
            Token::Link(slot, serial) => self.link_ready(slot as usize, serial, flags, buffer),
        }
    }

    /// Does something once the time has passed.
    pub(crate) fn after(&mut self, time: Duration, timer: Timer) {
        self.timers.push((Instant::now() + time, timer));
    }

    fn timeout(&self) -> Option<Timespec> {
        let next = self.timers.iter().map(|(at, _)| *at).min()?;
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_micros(100);
        Timespec::try_from(left).ok()
    }

    fn run_timers(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.timers)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.timers = later;
        let due: Vec<(Instant, Timer)> = due;
        for (_, timer) in due {
            match timer {
                Timer::Cut(slot, pid) => self.cut(slot, pid),
                Timer::TellExit(slot, pid) => self.tell_exit_late(slot, pid),
                Timer::Eof(slot, pid) => self.output_closed(slot, pid),
                Timer::Reap => self.reap_unknown(),
                Timer::KillUnknown => self.kill_unknown(),
                Timer::Grow => self.grow_pool(),
                Timer::Shrink => self.shrink_pool(),
                Timer::Promote => self.guardian_died(),
                Timer::Stuffed if self.pump.is_stuffed() => drop(self.pump.spawn()),
                Timer::Stuffed => {}
            }
        }
    }

    fn take_notes(&mut self) {
        for note in self.pump.take_notes() {
            match note {
                Note::StreamEnded(io, stream, run) if self.is_current(io) => {
                    self.stream_ended(io.slot, stream, run)
                }
                Note::Drained(io) if self.is_current(io) => self.drained(io.slot),
                Note::StreamEnded(..) | Note::Drained(_) => {}
                Note::SessionOver(link) | Note::WatchOver(link) => self.close_link_of(link),
                Note::Backlog(link, file) => self.record_backlog(link, file),
            }
        }
    }

    /// Whether a task's output is that of the task that has its place now.
    fn is_current(&self, io: IoKey) -> bool {
        self.tasks
            .get(io.slot)
            .is_some_and(|task| task.io.key == io)
    }

    /// The guardian is gone: end the threads, so that this process may fork, and take its place.
    fn guardian_died(&mut self) {
        let _ = epoll::delete(&self.epoll, &self.guardian_pidfd);
        let limit = Duration::from_secs(1);
        if self.pump.quiesce(limit) && self.chores.quiesce(limit) {
            self.end = Some(End::Promote);
            return;
        }
        // A thread waits for a disk. Go on without a guardian until it is through.
        for _ in 0..PUMPS {
            drop(self.pump.spawn());
        }
        self.after(Duration::from_secs(5), Timer::Promote);
    }

    fn guardian_reaped(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.guardian_notes, &mut count);
        let waiting: Vec<usize> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.is_unreaped())
            .map(|(slot, _)| slot)
            .collect();
        waiting
            .into_iter()
            .for_each(|slot| self.process_ended(slot));
    }

    /// The directory of the exec root.
    pub(crate) fn exec_root(&self) -> PathBuf {
        self.settings.exec_root.clone()
    }
}
