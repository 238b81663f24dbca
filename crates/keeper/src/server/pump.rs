//! The threads that move output: from pipes and terminals into log files and attach sessions.
//!
//! ```text
//!   epoll (one shot per descriptor) ─┐
//!   queue + eventfd ─────────────────┴─▶ pump thread: takes one task's `TaskIo`, does what its bits say
//!                                        └─ notes + eventfd ─▶ control loop
//! ```
//!
//! What must stay true: one thread at a time works on a task (its `BUSY` bit), so that a hanging disk stops one thread
//! and one task; the control loop never takes a lock that is held while a disk is waited for; a descriptor is closed
//! only by the control loop, after it is struck out of the state table.

mod work;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;

use crate::log::LogWriter;
use crate::protocol::{Stream, UnixNanos};
use crate::server::chores::Chores;
use crate::server::pending::PendingStore;
use crate::server::pump::work::Work;
use crate::server::session::{LinkKey, Session};

/// How much is read at once. A pipe holds 64 KiB.
const READ: usize = 64 * 1024;
/// A task that has given so many full buffers waits behind the others.
const TURN: usize = 8;
/// The most threads: hanging disks take one each.
pub(crate) const MAX_THREADS: usize = 32;
const STACK: usize = 256 * 1024;
/// Buffers are given back after this long without work.
const IDLE: Duration = Duration::from_secs(2);

const OUT: u32 = 1;
const ERR: u32 = 2;
const FLUSH: u32 = 4;
const COMMAND: u32 = 8;
const DRAIN: u32 = 16;
const BUSY: u32 = 1 << 31;

/// What a pump thread tells the control loop.
#[derive(Debug)]
pub(crate) enum Note {
    /// A stream of this task's run with that number has ended.
    StreamEnded(IoKey, Stream, u32),
    /// What was in the pipes when the process ended is with log and sessions.
    Drained(IoKey),
    /// This session is over: everything is sent, or its client is gone.
    SessionOver(LinkKey),
    /// This session's waiting bytes are in this file (`None`: no longer).
    Backlog(LinkKey, Option<Arc<File>>),
    /// This watch's reader is gone.
    WatchOver(LinkKey),
}

/// What the control loop tells a task's pump.
#[derive(Debug)]
pub(crate) enum Command {
    /// It runs: read these.
    Sources(Vec<Source>),
    /// A client joins, with what waits for it from a former keeper.
    Attach(Session),
    /// A client has left.
    Detach(LinkKey),
    /// Somebody follows the log.
    Watch(LinkKey, Arc<OwnedFd>),
    /// And does so no more.
    Unwatch(LinkKey),
    /// The process is long gone: end the streams, whoever still holds them.
    Cut,
    /// The streams have ended although the process goes on: so do the sessions that read them.
    Eof,
    /// Hand these bytes to the sessions: a killed keeper had logged them, or not even that.
    Replay(Stream, Vec<u8>),
    /// Everything has ended: sessions are over when they are flushed, the log is closed.
    Finish,
    /// A new run with this log.
    Log(Box<LogWriter>),
}

/// A stream to read.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) stream: Stream,
    /// Which run of the task it belongs to.
    pub(crate) run: u32,
}

/// Names one task's output: the task's place, and a number that no other task of this keeper has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IoKey {
    pub(crate) slot: usize,
    number: u32,
}

/// One task's output.
#[derive(Debug)]
pub(crate) struct TaskIo {
    pub(crate) key: IoKey,
    /// The task is forgotten: this lives until its sessions have everything.
    retired: AtomicBool,
    /// Whether an unfinished line of it was ever kept in the store.
    pub(crate) kept: AtomicBool,
    bits: AtomicU32,
    commands: Mutex<Vec<Command>>,
    state: Mutex<IoState>,
}

#[derive(Debug, Default)]
struct IoState {
    sources: [Option<Source>; 2],
    log: Option<Box<LogWriter>>,
    sessions: Vec<Session>,
    watches: Vec<(LinkKey, Arc<OwnedFd>)>,
    /// Whether the store has an unfinished line of stdout, of stderr.
    kept: [bool; 2],
}

/// The threads and what they share.
#[derive(Debug)]
pub(crate) struct Pump {
    epoll: OwnedFd,
    wake: OwnedFd,
    queue: Mutex<VecDeque<Arc<TaskIo>>>,
    tasks: Mutex<HashMap<u32, Arc<TaskIo>>>,
    notes: Mutex<Vec<Note>>,
    notes_wake: OwnedFd,
    spill: PathBuf,
    pending: Option<PendingStore>,
    chores: Chores,
    numbers: AtomicU32,
    threads: AtomicUsize,
    /// How many threads there ever were.
    spawned: AtomicUsize,
    busy: AtomicUsize,
    stopping: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> UnixNanos {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl Pump {
    /// The shared part; no thread runs yet.
    pub(crate) fn new(
        spill: PathBuf,
        pending: Option<PendingStore>,
        chores: Chores,
    ) -> Result<Arc<Self>, Errno> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let pump = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            wake: eventfd(0, flags | EventfdFlags::SEMAPHORE)?,
            queue: Mutex::default(),
            tasks: Mutex::default(),
            notes: Mutex::default(),
            notes_wake: eventfd(0, flags)?,
            spill,
            pending,
            chores,
            numbers: AtomicU32::new(1),
            threads: AtomicUsize::new(0),
            spawned: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        };
        epoll::add(
            &pump.epoll,
            &pump.wake,
            epoll::EventData::new_u64(u64::MAX),
            epoll::EventFlags::IN,
        )?;
        Ok(Arc::new(pump))
    }

    /// Starts another thread.
    pub(crate) fn spawn(self: &Arc<Self>) -> std::io::Result<()> {
        let pump = Arc::clone(self);
        self.threads.fetch_add(1, Ordering::Relaxed);
        let number = self.spawned.fetch_add(1, Ordering::Relaxed) % MAX_THREADS;
        let thread = std::thread::Builder::new()
            .name("kekkai-pump".into())
            .stack_size(STACK);
        thread
            .spawn(move || pump.work(number))
            .map(drop)
            .inspect_err(|_| {
                self.threads.fetch_sub(1, Ordering::Relaxed);
            })
    }

    /// Whether every thread is at work while more waits: the control loop then starts another after a while.
    pub(crate) fn is_stuffed(&self) -> bool {
        let threads = self.threads.load(Ordering::Relaxed);
        threads < MAX_THREADS && self.busy.load(Ordering::Relaxed) >= threads
    }

    /// Ends all threads; `false` if one does not end in time.
    pub(crate) fn quiesce(&self, limit: Duration) -> bool {
        self.stopping.store(true, Ordering::SeqCst);
        let deadline = std::time::Instant::now() + limit;
        while self.threads.load(Ordering::SeqCst) > 0 {
            self.signal();
            if std::time::Instant::now() > deadline {
                self.stopping.store(false, Ordering::SeqCst);
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// What turns readable when there are notes.
    pub(crate) fn notes_fd(&self) -> &OwnedFd {
        &self.notes_wake
    }

    /// Takes the notes.
    pub(crate) fn take_notes(&self) -> Vec<Note> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.notes_wake, &mut count);
        std::mem::take(&mut *lock(&self.notes))
    }

    /// A new task's output.
    pub(crate) fn add(&self, slot: usize) -> Arc<TaskIo> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let io = Arc::new(TaskIo {
            key: IoKey { slot, number },
            retired: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            bits: AtomicU32::new(0),
            commands: Mutex::default(),
            state: Mutex::default(),
        });
        lock(&self.tasks).insert(number, Arc::clone(&io));
        io
    }

    /// Finishes a task's output for good; it is forgotten when its sessions have everything.
    pub(crate) fn retire(&self, io: &Arc<TaskIo>) {
        lock(&io.commands).extend([Command::Cut, Command::Finish]);
        io.retired.store(true, Ordering::Release);
        self.poke(io, COMMAND);
    }

    /// The store of unfinished lines.
    pub(crate) fn pending(&self) -> Option<&PendingStore> {
        self.pending.as_ref()
    }

    /// Gives a task's pump a command.
    pub(crate) fn command(&self, io: &Arc<TaskIo>, command: Command) {
        lock(&io.commands).push(command);
        self.poke(io, COMMAND);
    }

    /// Asks for [`Note::Drained`]. Answers at once with `true`, and without a note, if nothing is to drain.
    pub(crate) fn drain(&self, io: &Arc<TaskIo>) -> bool {
        if io
            .bits
            .compare_exchange(0, BUSY, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            let state = lock(&io.state);
            let empty = state.sources.iter().flatten().all(|source| {
                rustix::io::ioctl_fionread(&*source.fd).is_ok_and(|count| count == 0)
            });
            drop(state);
            if io
                .bits
                .compare_exchange(BUSY, 0, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                self.enqueue(io);
            }
            if empty {
                return true;
            }
        }
        self.poke(io, DRAIN);
        false
    }

    /// Hands a task with its `BUSY` bit held to a thread.
    fn enqueue(&self, io: &Arc<TaskIo>) {
        lock(&self.queue).push_back(Arc::clone(io));
        self.signal();
    }

    fn poke(&self, io: &Arc<TaskIo>, bits: u32) {
        if io.bits.fetch_or(bits | BUSY, Ordering::AcqRel) & BUSY == 0 {
            self.enqueue(io);
        }
    }

    fn signal(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn note(&self, note: Note) {
        let mut notes = lock(&self.notes);
        notes.push(note);
        if notes.len() == 1 {
            let _ = rustix::io::write(&self.notes_wake, &1_u64.to_ne_bytes());
        }
    }

    fn work(self: Arc<Self>, number: usize) {
        let mut buffers = Buffers {
            number,
            ..Buffers::default()
        };
        let mut events = Vec::with_capacity(1);
        while !self.stopping.load(Ordering::SeqCst) {
            events.clear();
            let idle = rustix::event::Timespec {
                tv_sec: 2,
                tv_nsec: 0,
            };
            debug_assert_eq!(IDLE.as_secs(), 2);
            let timeout = buffers.any().then_some(&idle);
            // One event at a time, so that no event waits behind a disk.
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
                Ok(0) => {
                    buffers = Buffers {
                        number,
                        ..Buffers::default()
                    }
                }
                Ok(_) => {}
                Err(_) => continue,
            }
            for event in &events {
                let data = event.data.u64();
                let io = if data == u64::MAX {
                    let mut one = [0; 8];
                    let _ = rustix::io::read(&self.wake, &mut one);
                    lock(&self.queue).pop_front()
                } else {
                    let (number, bits) = split(data);
                    let io = lock(&self.tasks).get(&number).cloned();
                    io.filter(|io| io.bits.fetch_or(bits | BUSY, Ordering::AcqRel) & BUSY == 0)
                };
                if let Some(io) = io {
                    self.busy.fetch_add(1, Ordering::Relaxed);
                    self.run(&io, &mut buffers);
                    self.busy.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        self.threads.fetch_sub(1, Ordering::SeqCst);
    }

    /// Works on a task whose `BUSY` bit this thread holds.
    fn run(&self, io: &Arc<TaskIo>, buffers: &mut Buffers) {
        loop {
            let bits = io.bits.fetch_and(BUSY, Ordering::AcqRel);
            let mut again = 0;
            {
                let mut state = lock(&io.state);
                let mut work = Work {
                    pump: self,
                    io,
                    key: io.key,
                    state: &mut state,
                    buffers,
                };
                let commands = std::mem::take(&mut *lock(&io.commands));
                commands
                    .into_iter()
                    .for_each(|command| work.command(command));
                for (bit, index) in [(OUT, 0), (ERR, 1)] {
                    if bits & bit != 0 && work.read(index, TURN) {
                        again |= bit;
                    }
                }
                if bits & FLUSH != 0 {
                    work.flush();
                }
                if bits & DRAIN != 0 {
                    work.drain();
                }
                work.settle();
                if io.retired.load(Ordering::Acquire) && state.sessions.is_empty() {
                    lock(&self.tasks).remove(&io.key.number);
                }
            }
            if again != 0 {
                // There is more, but others have their turn first.
                io.bits.fetch_or(again, Ordering::AcqRel);
                return self.enqueue(io);
            }
            if io
                .bits
                .compare_exchange(BUSY, 0, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                return;
            }
        }
    }
}

/// The epoll data of a task's descriptor.
fn join(key: IoKey, bit: u32) -> epoll::EventData {
    epoll::EventData::new_u64(u64::from(key.number) << 32 | u64::from(bit))
}

fn split(data: u64) -> (u32, u32) {
    (
        u32::try_from(data >> 32).unwrap_or(0),
        u32::try_from(data & 0xffff_ffff).unwrap_or(0),
    )
}

/// A thread's buffers, given back when it is idle.
#[derive(Debug, Default)]
struct Buffers {
    /// The thread's number.
    number: usize,
    read: Vec<u8>,
    scratch: Vec<u8>,
}

impl Buffers {
    fn any(&self) -> bool {
        self.read.capacity() + self.scratch.capacity() > 0
    }
}
