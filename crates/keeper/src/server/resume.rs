//! How a keeper begins: with what the state table says that a former one had.
//!
//! What must stay true: a descriptor that the table does not name is closed (a killed keeper had just opened it, and
//! what it was for is done again); a container notices nothing; an exit that was not told is told; a request that was
//! not answered is sent again by the client library, which learns of the new keeper by an event.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kekkai_sys::{Errno, fd};
use rustix::event::epoll;

use crate::failpoint;
use crate::log::LogWriter;
use crate::log::rotate::Chore;
use crate::protocol::Stream;
use crate::server::boot::Settings;
use crate::server::guardian::Shared;
use crate::server::keeper::{Keeper, Timer};
use crate::server::launcher::Job;
use crate::server::links::{Connection, Link, LinkKind, SessionLink};
use crate::server::pool::Purpose;
use crate::server::pump::{Command, MAX_THREADS, now};
use crate::server::session::Session;
use crate::server::state::{
    FAILPOINTS, FdNumber, LauncherRecord, LinkRecord, Phase, StateTable, TaskRecord,
};
use crate::server::tasks::Task;

/// Bytes of a task's stream that its sessions have not seen.
type Replay = (usize, Stream, Vec<u8>);

impl Keeper {
    /// A keeper that goes on from the state table.
    pub(crate) fn resume(
        settings: Settings,
        shared: Shared,
        generation: u32,
    ) -> Result<Self, Errno> {
        let table = StateTable::inherit(fd::inherited(shared.state)?);
        let launchers = table
            .header()
            .map(|header| header.launchers)
            .unwrap_or_default();
        let tasks = table.tasks().unwrap_or_default();
        let links = table.links();
        if let Ok(file) = table.file() {
            failpoint::arm(&settings.failpoints, file, FAILPOINTS);
        }
        failpoint::hit("resume.begin");
        close_strays(shared, &launchers, &tasks, &links)?;
        // The copy for the fail points was a stray too, opened just now: it is opened again.
        if let Ok(file) = table.file() {
            failpoint::rearm(file);
        }
        std::mem::forget(table);
        let mut keeper = Self::new(settings, &shared, generation)?;
        let numbers = keeper.adopt_launchers(&launchers);
        keeper.fill_pool();
        let (mut lost, mut replays) = (Vec::new(), Vec::new());
        for (slot, record) in tasks {
            keeper.adopt_task((slot, record), &numbers, &mut lost, &mut replays);
        }
        for (slot, record) in links {
            keeper.adopt_link(slot, record);
        }
        for (slot, stream, data) in replays {
            if let Some(task) = keeper.tasks.get(slot) {
                keeper.pump.command(&task.io, Command::Replay(stream, data));
            }
        }
        for slot in lost {
            keeper.start_lost(slot);
        }
        keeper.drop_idle_places();
        failpoint::hit("resume.adopted");
        keeper.probe_launchers();
        if generation > 0 {
            keeper.tell_resumed();
            // Children of the former keeper's failed starts are the guardian's now.
        }
        Ok(keeper)
    }

    /// Takes the launchers over; answers where each one's number stands.
    fn adopt_launchers(&mut self, records: &[LauncherRecord]) -> HashMap<u32, usize> {
        let mut places = HashMap::new();
        for record in records {
            let (Ok(pidfd), Ok(socket)) =
                (fd::inherited(record.pidfd), fd::inherited(record.socket))
            else {
                continue;
            };
            let before = self.launchers.len();
            self.add_launcher(record.number, record.pid, pidfd, socket);
            if self.launchers.len() > before {
                places.insert(record.number, before);
            }
        }
        places
    }

    fn adopt_task(
        &mut self,
        (slot, record): (usize, TaskRecord),
        launchers: &HashMap<u32, usize>,
        lost: &mut Vec<usize>,
        replays: &mut Vec<Replay>,
    ) {
        let io = self.pump.add(slot);
        let fds = record.fds;
        let (target, phase) = (record.target, record.phase);
        let mut task = Task::new(record, Arc::clone(&io));
        task.pidfd = own(fds.pidfd);
        task.stdin = own(fds.stdin);
        task.stdout = own(fds.stdout).map(Arc::new);
        task.stderr = own(fds.stderr).map(Arc::new);
        task.devpts = own(fds.devpts);
        task.rootfs = own(fds.rootfs);
        if let Some(log) = task.record.log.clone() {
            let mut log = LogWriter::new(log);
            let run = task.record.run;
            for (number, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
                if let Some(store) = self.pump.pending() {
                    log.restore_pending(stream, store.load(slot, number));
                    io.kept
                        .fetch_or(!log.pending(stream).is_empty(), Ordering::Relaxed);
                }
            }
            self.replay(slot, run, &mut log, replays);
            self.pump.command(&io, Command::Log(Box::new(log)));
        }
        let orphan = phase == Phase::Running && task.pidfd.is_none();
        if orphan {
            task.pidfd = find_orphan(&task.record);
        }
        let gone = orphan && task.pidfd.is_none();
        self.index.insert(target, slot);
        self.tasks.restore(slot, task);
        match phase {
            Phase::Pending => {}
            Phase::Starting { job, launcher } => {
                let place = launcher.and_then(|number| launchers.get(&number)).copied();
                match place.and_then(|place| self.launchers.get_mut(place)) {
                    Some(launcher) => launcher.jobs.push((job, Purpose::Start(slot))),
                    None => self.forget_start(slot, lost),
                }
            }
            Phase::Running if gone => {
                // It ended while nobody watched; how is not to be known.
                self.exited(slot, kekkai_types::ExitStatus::Exited(255));
            }
            Phase::Running => {
                self.record_task(slot);
                self.watch_task(slot);
                let closed = self
                    .tasks
                    .get(slot)
                    .filter(|task| task.stdout.is_none() && task.stderr.is_none());
                if let Some(pid) = closed.map(|task| task.record.pid) {
                    self.after(Duration::from_millis(100), Timer::Eof(slot, pid));
                }
            }
            Phase::Exited { told, .. } => self.adopt_exited(slot, told),
        }
    }

    /// Logs what a killed keeper had read of this task and not put down, as if nothing of it was logged yet.
    fn replay(&mut self, slot: usize, run: u32, log: &mut LogWriter, replays: &mut Vec<Replay>) {
        let Some(store) = self.pump.pending() else {
            return;
        };
        for thread in 0..MAX_THREADS {
            let batch = store.in_hand(thread);
            let Some(batch) = batch.filter(|batch| batch.slot as usize == slot && batch.run == run)
            else {
                continue;
            };
            let (number, stream) = if batch.stream == 0 {
                (0, Stream::Stdout)
            } else {
                (1, Stream::Stderr)
            };
            if log.go_back(batch.log).unwrap_or(false) {
                log.restore_pending(stream, batch.pending.into_owned());
                let chores = |chore: Chore| chore.run();
                drop(log.append(&mut Vec::new(), stream, &batch.data, now(), &chores));
                store.save(slot, number, log.pending(stream));
            }
            store.put_down(thread);
            replays.push((slot, stream, batch.data.into_owned()));
        }
    }

    /// A start whose launcher is gone: it is done again, after what may have come of it is killed.
    fn forget_start(&mut self, slot: usize, lost: &mut Vec<usize>) {
        lost.push(slot);
        let cgroup = self
            .tasks
            .get(slot)
            .filter(|task| task.is_container())
            .map(|task| task.record.cgroup.clone());
        if let Some(cgroup) = cgroup.filter(|cgroup| !cgroup.is_empty()) {
            let id = self.job_id();
            self.submit_job(id, Purpose::Nothing, Job::Kill { cgroup }, Vec::new());
        }
    }

    fn adopt_exited(&mut self, slot: usize, told: bool) {
        let Some(task) = self.tasks.get(slot) else {
            return;
        };
        let pid = task.record.pid;
        let open = task.stdout.is_some() || task.stderr.is_some();
        let io = Arc::clone(&task.io);
        if open {
            self.watch_task(slot);
        } else if told && let Some(task) = self.tasks.get_mut(slot) {
            task.finished = true;
        }
        if told && open {
            self.after(Duration::from_secs(2), Timer::Cut(slot, pid));
        } else if !told {
            // The threads do not run yet: what is in the pipes is drained before it is told.
            if !open || self.pump.drain(&io) {
                self.after(Duration::from_millis(1), Timer::TellExit(slot, pid));
            } else {
                self.after(Duration::from_secs(3), Timer::TellExit(slot, pid));
            }
        }
    }

    fn adopt_link(&mut self, slot: usize, record: LinkRecord) {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let kind = match record {
            LinkRecord::Connection { socket, version } => {
                own(socket).map(|socket| LinkKind::Connection(Connection::new(socket, version)))
            }
            LinkRecord::Watch { socket, task } => own(socket).and_then(|socket| {
                let socket = Arc::new(socket);
                let place = task as usize;
                let task = self.tasks.get(place).filter(|task| !task.finished)?;
                self.pump.command(
                    &task.io,
                    Command::Watch((slot, serial), Arc::clone(&socket)),
                );
                Some(LinkKind::Watch {
                    socket,
                    task: Some(place),
                })
            }),
            LinkRecord::Session { .. } => self.adopt_session((slot, serial), record),
        };
        let Some(kind) = kind else {
            drop(self.state.write_link(slot, None));
            return;
        };
        self.links.restore(slot, Link { serial, kind });
        self.record_link(slot);
        if self.watch_link(slot).is_err() {
            return self.close_link(slot);
        }
        let place = self.links.get(slot).and_then(Link::task);
        let running = place
            .and_then(|place| self.tasks.get(place))
            .is_some_and(|task| task.record.phase == Phase::Running);
        if running {
            self.resume_input(slot);
        } else if matches!(record, LinkRecord::Connection { .. }) {
            self.rewatch_link(slot, epoll::EventFlags::IN);
        }
    }

    fn adopt_session(&mut self, key: (usize, u16), record: LinkRecord) -> Option<LinkKind> {
        let LinkRecord::Session {
            socket,
            task,
            run,
            stdin,
            stdout,
            stderr,
            ended,
            spill,
        } = record
        else {
            return None;
        };
        let socket = Arc::new(own(socket)?);
        let backlog: Option<Arc<std::fs::File>> = own(spill).map(|file| Arc::new(file.into()));
        let mut session = Session::new(key, Arc::clone(&socket), stdout, stderr);
        if let Some(file) = &backlog {
            session.restore(Arc::clone(file)).ok()?;
        }
        let place = Some(task as usize).filter(|place| self.tasks.get(*place).is_some());
        match place.and_then(|place| self.tasks.get(place)) {
            Some(task) => {
                session.ending = task.finished && run <= task.record.run;
                self.pump.command(&task.io, Command::Attach(session));
            }
            None => {
                // Its task is forgotten: it lives on until it has everything.
                session.ending = true;
                let io = self.pump.add(usize::MAX);
                self.pump.command(&io, Command::Attach(session));
                self.pump.retire(&io);
            }
        }
        let pending = Vec::new();
        Some(LinkKind::Session(SessionLink {
            socket,
            task: place,
            run,
            stdin,
            stdout,
            stderr,
            ended,
            pending,
            backlog,
        }))
    }

    /// Gives up places that waited for sessions which are gone.
    fn drop_idle_places(&mut self) {
        let idle = |slot: usize, task: &Task| {
            task.record.phase == Phase::Pending
                && !self.links.iter().any(|(_, link)| link.task() == Some(slot))
        };
        let slots: Vec<usize> = self
            .tasks
            .iter()
            .filter(|(slot, task)| idle(*slot, task))
            .map(|(slot, _)| slot)
            .collect();
        slots.into_iter().for_each(|slot| self.remove_task(slot));
    }
}

fn own(number: FdNumber) -> Option<OwnedFd> {
    if number < 0 {
        None
    } else {
        fd::inherited(number).ok()
    }
}

/// Closes what a former keeper had open and had not recorded.
fn close_strays(
    shared: Shared,
    launchers: &[LauncherRecord],
    tasks: &[(usize, TaskRecord)],
    links: &[(usize, LinkRecord)],
) -> Result<(), Errno> {
    let mut keep = vec![0, 1, 2];
    keep.extend(shared.numbers());
    keep.extend(
        launchers
            .iter()
            .flat_map(|launcher| [launcher.pidfd, launcher.socket]),
    );
    for (_, task) in tasks {
        let fds = task.fds;
        keep.extend([
            fds.pidfd, fds.stdin, fds.stdout, fds.stderr, fds.devpts, fds.rootfs,
        ]);
    }
    for (_, link) in links {
        match *link {
            LinkRecord::Connection { socket, .. } | LinkRecord::Watch { socket, .. } => {
                keep.push(socket)
            }
            LinkRecord::Session { socket, spill, .. } => keep.extend([socket, spill]),
        }
    }
    fd::close_all_except(&keep)
}

/// The process of a container whose keeper and guardian both died: it must have the recorded pid and be in the
/// container's cgroup still.
fn find_orphan(record: &TaskRecord) -> Option<OwnedFd> {
    let pid = i32::try_from(record.pid).ok().filter(|pid| *pid > 0)?;
    let pidfd = kekkai_sys::pidfd::open(pid).ok()?;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let wanted = format!("/{}", record.cgroup.trim_start_matches('/'));
    let inside = !record.cgroup.is_empty() && cgroups.lines().any(|line| line.ends_with(&wanted));
    inside.then_some(pidfd)
}
