//! The life of a task: its job, its process, its exit.
//!
//! ```text
//!   Pending ─start─▶ Starting ─launched─▶ Running ─pidfd─▶ Exited(untold) ─drained─▶ Exited(told) ─forget─▶ gone
//!      ▲                │ failed                                                        │ start again
//!      └── sessions ◀───┘ (gone without sessions)                     Starting ◀────────┘
//! ```

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kekkai_types::ExitStatus;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::failpoint;
use crate::log::rotate::Chore;
use crate::protocol::{Event, Exit, Failure, Response, StdinMode, Stream, Target, TerminalSize};
use crate::server::exit_file;
use crate::server::keeper::{Keeper, Timer, Token};
use crate::server::links::{LinkKind, ReplyTo};
use crate::server::pump::{Command, Source, TaskIo, now};
use crate::server::state::{Phase, TaskFds, TaskRecord};

/// After its process has ended, streams that others hold open end at last; as containerd does it.
const CUT: Duration = Duration::from_secs(2);
/// The sessions of a process that has closed its output end after this time, should it not exit.
const EOF: Duration = Duration::from_millis(100);
/// An exit is told after this time even if a disk holds its output up.
const PATIENCE: Duration = Duration::from_secs(3);

/// A task.
#[derive(Debug)]
pub(crate) struct Task {
    /// What the state table holds; its descriptors are those below.
    pub(crate) record: TaskRecord,
    pub(crate) io: Arc<TaskIo>,
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<Arc<OwnedFd>>,
    pub(crate) stderr: Option<Arc<OwnedFd>>,
    pub(crate) devpts: Option<OwnedFd>,
    pub(crate) rootfs: Option<OwnedFd>,
    /// Who waits for its start.
    pub(crate) reply: Option<ReplyTo>,
    /// A size that came before the terminal.
    pub(crate) size: Option<TerminalSize>,
    /// The process is a zombie that the guardian (or init) will reap.
    pub(crate) unreaped: bool,
    /// The run's streams have ended and its sessions know.
    pub(crate) finished: bool,
}

impl Task {
    pub(crate) fn new(record: TaskRecord, io: Arc<TaskIo>) -> Self {
        Self {
            record,
            io,
            pidfd: None,
            stdin: None,
            stdout: None,
            stderr: None,
            devpts: None,
            rootfs: None,
            reply: None,
            size: None,
            unreaped: false,
            finished: false,
        }
    }

    /// Whether this is a container's first process.
    pub(crate) fn is_container(&self) -> bool {
        matches!(self.record.target, Target::Container(_))
    }

    pub(crate) fn is_unreaped(&self) -> bool {
        self.unreaped && self.record.phase == Phase::Running
    }

    /// Where its input goes: the pipe, or the terminal.
    pub(crate) fn input_fd(&self) -> Option<BorrowedFd<'_>> {
        match (&self.stdin, &self.stdout) {
            (Some(pipe), _) => Some(pipe.as_fd()),
            (None, Some(master))
                if self.record.terminal && self.record.stdin_mode != StdinMode::Closed =>
            {
                Some(master.as_fd())
            }
            _ => None,
        }
    }

    fn numbers(&self) -> TaskFds {
        let of = |fd: &Option<OwnedFd>| fd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let shared = |fd: &Option<Arc<OwnedFd>>| fd.as_ref().map_or(-1, |fd| fd.as_raw_fd());
        TaskFds {
            pidfd: of(&self.pidfd),
            stdin: of(&self.stdin),
            stdout: shared(&self.stdout),
            stderr: shared(&self.stderr),
            devpts: of(&self.devpts),
            rootfs: of(&self.rootfs),
        }
    }
}

impl Keeper {
    /// Writes a task into the state table.
    pub(crate) fn record_task(&mut self, slot: usize) {
        if let Some(task) = self.tasks.get_mut(slot) {
            task.record.fds = task.numbers();
            drop(self.state.write_task(slot, Some(&task.record)));
        }
    }

    /// The program runs: `present` tells which descriptors came (pidfd, master, devpts, rootfs).
    pub(crate) fn launched(
        &mut self,
        slot: usize,
        pid: i32,
        present: [bool; 4],
        fds: Vec<OwnedFd>,
    ) {
        let mut fds = fds.into_iter();
        let mut next = |is: bool| if is { fds.next() } else { None };
        let [pidfd, master, devpts, rootfs] = present.map(&mut next);
        let Some(task) = self.tasks.get_mut(slot) else {
            return;
        };
        let Some(pidfd) = pidfd else { return };
        let at = now();
        task.record.pid = pid.unsigned_abs();
        task.record.started_at = at;
        task.record.phase = Phase::Running;
        task.pidfd = Some(pidfd);
        (task.devpts, task.rootfs) = (devpts, rootfs);
        if let Some(master) = master {
            let _ = rustix::io::ioctl_fionbio(&master, true);
            if let Some(size) = task.size.take() {
                let _ = kekkai_sys::pty::set_size(master.as_fd(), size.rows, size.columns);
            }
            task.stdout = Some(Arc::new(master));
        }
        self.record_task(slot);
        failpoint::hit("start.running");
        self.watch_task(slot);
        let Some(task) = self.tasks.get_mut(slot) else {
            return;
        };
        let pid = task.record.pid;
        if let Some(reply) = task.reply.take() {
            self.reply(&reply, &Response::Started { pid, at }, &[]);
        }
        failpoint::hit("start.answered");
        self.sessions_of(slot)
            .into_iter()
            .for_each(|link| self.resume_input(link));
    }

    /// Watches a running task's process and streams.
    pub(crate) fn watch_task(&mut self, slot: usize) {
        let Some(task) = self.tasks.get_mut(slot) else {
            return;
        };
        let run = task.record.run;
        let source =
            |fd: &Option<Arc<OwnedFd>>, stream| fd.clone().map(|fd| Source { fd, stream, run });
        let sources = [
            source(&task.stdout, Stream::Stdout),
            source(&task.stderr, Stream::Stderr),
        ];
        let io = Arc::clone(&task.io);
        self.pump.command(
            &io,
            Command::Sources(sources.into_iter().flatten().collect()),
        );
        if let Some(pidfd) = self.tasks.get(slot).and_then(|task| task.pidfd.as_ref()) {
            let token = Token::Exit(u32::try_from(slot).unwrap_or(u32::MAX));
            let _ = self.watch(pidfd.as_fd(), token, epoll::EventFlags::IN);
        }
    }

    /// It could not be started.
    pub(crate) fn start_failed(&mut self, slot: usize, failure: Failure) {
        let Some(task) = self.tasks.get_mut(slot) else {
            return;
        };
        let reply = task.reply.take();
        self.release(slot);
        // Clients that came for this start see it end.
        self.remove_task(slot);
        if let Some(reply) = reply {
            self.reply(&reply, &Response::Failed(failure), &[]);
        }
    }

    /// Strikes out and closes what a run held.
    pub(crate) fn release(&mut self, slot: usize) {
        let Some(task) = self.tasks.get_mut(slot) else {
            return;
        };
        let closing = [task.pidfd.take(), task.stdin.take(), task.devpts.take()];
        let rootfs = task.rootfs.take();
        let streams = (task.stdout.take(), task.stderr.take());
        let io = Arc::clone(&task.io);
        self.record_task(slot);
        if streams.0.is_some() || streams.1.is_some() {
            self.pump.command(&io, Command::Cut);
        }
        drop((closing, streams));
        if let Some(rootfs) = rootfs {
            self.chores.push(Chore::Close(rootfs));
        }
    }

    /// Closes a task's input pipe: its process reads the end.
    pub(crate) fn close_stdin(&mut self, slot: usize) {
        let Some(pipe) = self.tasks.get_mut(slot).and_then(|task| task.stdin.take()) else {
            return;
        };
        self.record_task(slot);
        drop(pipe);
    }

    /// A task's process has ended, or so its pidfd says.
    pub(crate) fn process_ended(&mut self, slot: usize) {
        let Some(task) = self.tasks.get_mut(slot) else {
            return;
        };
        let (Phase::Running, Some(pidfd)) = (task.record.phase, &task.pidfd) else {
            return;
        };
        failpoint::hit("exit.seen");
        let status = match waitid(
            WaitId::PidFd(pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        ) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => {
                    Some(ExitStatus::Exited(u8::try_from(code & 0xff).unwrap_or(255)))
                }
                (None, signal) => Some(ExitStatus::Signaled(
                    u8::try_from(signal.unwrap_or(9)).unwrap_or(9),
                )),
            },
            Ok(None) | Err(Errno::INTR) => return,
            // Not this keeper's child: a former keeper started it, the guardian (or init) reaps it.
            Err(_) => {
                let pid = i32::try_from(task.record.pid).unwrap_or(0);
                let told = kekkai_sys::pidfd::exit_status(pidfd.as_fd());
                let status = told
                    .ok()
                    .flatten()
                    .or_else(|| self.state.reaped(pid, task.record.started_at));
                status.map(ExitStatus::from_wait_status)
            }
        };
        match status {
            Some(status) => self.exited(slot, status),
            None => {
                // A zombie still. Being reaped shows as a hang-up, which needs no flag.
                task.unreaped = true;
                let token = Token::Exit(u32::try_from(slot).unwrap_or(u32::MAX)).data();
                let _ = epoll::modify(&self.epoll, pidfd, token, epoll::EventFlags::empty());
            }
        }
    }

    /// A process has ended with this status: note it, let its output through, then tell.
    pub(crate) fn exited(&mut self, slot: usize, status: ExitStatus) {
        failpoint::hit("exit.reaped");
        let Some(task) = self.tasks.get_mut(slot) else {
            return;
        };
        let oom = match (&self.layout, task.record.target) {
            (Some(layout), Target::Container(_)) => {
                kekkai_cgroups::Cgroup::new(layout, &task.record.cgroup)
                    .is_ok_and(|cgroup| cgroup.oom_kills() > 0)
            }
            _ => false,
        };
        let exit = Exit {
            status,
            oom,
            at: now(),
        };
        task.unreaped = false;
        task.record.phase = Phase::Exited { exit, told: false };
        let closing = (task.pidfd.take(), task.stdin.take());
        let (io, pid) = (Arc::clone(&task.io), task.record.pid);
        self.record_task(slot);
        drop(closing);
        if self.pump.drain(&io) {
            self.tell_exit(slot);
        } else {
            self.after(PATIENCE, Timer::TellExit(slot, pid));
        }
    }

    /// What the process had written is with log and sessions.
    pub(crate) fn drained(&mut self, slot: usize) {
        if let Some(Phase::Exited { told: false, .. }) =
            self.tasks.get(slot).map(|task| task.record.phase)
        {
            failpoint::hit("exit.drained");
            self.tell_exit(slot);
        }
    }

    pub(crate) fn tell_exit_late(&mut self, slot: usize, pid: u32) {
        if self
            .tasks
            .get(slot)
            .is_some_and(|task| task.record.pid == pid)
        {
            self.drained(slot);
        }
    }

    /// Stores an exit and tells it.
    pub(crate) fn tell_exit(&mut self, slot: usize) {
        let Some(task) = self.tasks.get(slot) else {
            return;
        };
        let Phase::Exited { exit, told: false } = task.record.phase else {
            return;
        };
        let (target, container, pid) = (task.record.target, task.record.container, task.record.pid);
        if let Target::Container(container) = target {
            // A full tmpfs must not keep the exit from being told: the state table has it too.
            drop(exit_file::store(&self.exec_root(), container, &exit));
        }
        failpoint::hit("exit.stored");
        self.broadcast(&Event::Exited {
            target,
            container,
            exit,
        });
        failpoint::hit("exit.told");
        let Some(task) = self.tasks.get_mut(slot) else {
            return;
        };
        task.record.phase = Phase::Exited { exit, told: true };
        let rootfs = task.rootfs.take();
        let open = task.stdout.is_some() || task.stderr.is_some();
        self.record_task(slot);
        if let Some(rootfs) = rootfs {
            // The last close of a mount may wait for its disk.
            self.chores.push(Chore::Close(rootfs));
        }
        if open {
            self.after(CUT, Timer::Cut(slot, pid));
        } else {
            self.finish(slot);
        }
    }

    /// A stream has ended: close it.
    pub(crate) fn stream_ended(&mut self, slot: usize, stream: Stream, run: u32) {
        let Some(task) = self
            .tasks
            .get_mut(slot)
            .filter(|task| task.record.run == run)
        else {
            return;
        };
        let closing = match stream {
            Stream::Stderr => task.stderr.take(),
            Stream::Stdout | Stream::Error => task.stdout.take(),
        };
        let over = task.stdout.is_none() && task.stderr.is_none();
        let (phase, pid) = (task.record.phase, task.record.pid);
        self.record_task(slot);
        drop(closing);
        match phase {
            Phase::Exited { told: true, .. } if over => self.finish(slot),
            // Most likely it is about to exit. Sessions end after its exit is told, so that whoever has read to the
            // end can ask for the status.
            Phase::Running if over => self.after(EOF, Timer::Eof(slot, pid)),
            _ => {}
        }
    }

    /// A process has closed its output some time ago.
    pub(crate) fn output_closed(&mut self, slot: usize, pid: u32) {
        let Some(task) = self.tasks.get(slot).filter(|task| task.record.pid == pid) else {
            return;
        };
        if task.record.phase == Phase::Running {
            self.pump.command(&Arc::clone(&task.io), Command::Eof);
        }
    }

    /// Everything of a run is over: sessions and watches end.
    fn finish(&mut self, slot: usize) {
        let Some(task) = self.tasks.get_mut(slot) else {
            return;
        };
        task.finished = true;
        let devpts = task.devpts.take();
        let io = Arc::clone(&task.io);
        self.record_task(slot);
        drop(devpts);
        self.pump.command(&io, Command::Finish);
    }

    /// Ends an exited run for good before another one begins.
    pub(crate) fn end_run(&mut self, slot: usize) {
        let Some(task) = self.tasks.get(slot) else {
            return;
        };
        if matches!(task.record.phase, Phase::Exited { .. }) && !task.finished {
            self.tell_exit(slot);
            self.release(slot);
            self.finish(slot);
        }
    }

    /// A start's job was never received: whoever waits for it is asked to send it again.
    pub(crate) fn start_lost(&mut self, slot: usize) {
        let Some(task) = self.tasks.get_mut(slot) else {
            return;
        };
        let reply = task.reply.take();
        task.record.phase = Phase::Pending;
        task.record.request = 0;
        self.release(slot);
        if let Some(reply) = reply {
            self.reply(&reply, &Response::Again, &[]);
        }
    }

    /// Ends the streams of a process that is long gone.
    pub(crate) fn cut(&mut self, slot: usize, pid: u32) {
        let Some(task) = self.tasks.get(slot).filter(|task| task.record.pid == pid) else {
            return;
        };
        if matches!(task.record.phase, Phase::Exited { .. }) {
            self.pump.command(&Arc::clone(&task.io), Command::Cut);
        }
    }

    /// Takes a task that does not run, and whose descriptors are released, out of the tables. Its sessions live on
    /// until they have everything.
    pub(crate) fn remove_task(&mut self, slot: usize) {
        let Some(task) = self.tasks.remove(slot) else {
            return;
        };
        let links: Vec<usize> = self
            .links
            .iter()
            .filter(|(_, link)| link.task() == Some(slot))
            .map(|(number, _)| number)
            .collect();
        for number in links {
            match self.links.get_mut(number).map(|link| &mut link.kind) {
                Some(LinkKind::Session(session)) => session.task = None,
                Some(LinkKind::Watch { task, .. }) => *task = None,
                Some(LinkKind::Connection(_)) | None => {}
            }
            self.record_link(number);
        }
        drop(self.state.write_task(slot, None));
        self.index.remove(&task.record.target);
        if let Some(store) = self
            .pump
            .pending()
            .filter(|_| task.io.kept.load(Ordering::Relaxed))
        {
            store.empty(slot);
        }
        self.pump.retire(&task.io);
    }

    /// Reaps children that nobody knows: those of starts that failed half-way.
    pub(crate) fn reap_unknown(&mut self) {
        // Each look answers one zombie; a known one is reaped by its pidfd.
        for _ in 0..64 {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if !matches!(waitid(WaitId::All, options), Ok(Some(_))) {
                return;
            }
            match kekkai_sys::process::reap_any() {
                Ok(Some((pid, status))) => {
                    let known = self.tasks.iter().find(|(_, task)| {
                        task.record.phase == Phase::Running
                            && i32::try_from(task.record.pid) == Ok(pid)
                    });
                    if let Some((slot, _)) = known {
                        self.exited(slot, ExitStatus::from_wait_status(status));
                    }
                }
                _ => return,
            }
        }
    }
}
