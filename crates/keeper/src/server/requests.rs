//! What daemons ask for.
//!
//! What must stay true: a request is checked whole before it has an effect; a request that comes twice with one
//! sequence number (a new keeper makes clients send again) starts nothing twice.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kekkai_types::{ContainerId, ErrorClass, Signal};

use crate::failpoint;
use crate::protocol::{
    AttachRequest, Event, Failure, Request, Response, StdinMode, Target, Task as TaskView,
    TerminalSize, VERSION, decode_body,
};
use crate::server::keeper::{End, Keeper};
use crate::server::launcher::{Job, internal};
use crate::server::links::{Link, LinkKind, ReplyTo, SessionLink};
use crate::server::pool::Purpose;
use crate::server::pump::Command;
use crate::server::session::Session;
use crate::server::state::{Phase, TaskFds, TaskRecord};
use crate::server::tasks::Task;

/// The most sessions and watches of one task.
const MAX_LINKS: usize = 256;
pub(crate) fn fail(class: ErrorClass, message: impl Into<String>) -> Failure {
    Failure {
        class,
        exit_code: 125,
        message: message.into(),
    }
}

pub(crate) fn no_such(target: Target) -> Failure {
    fail(
        ErrorClass::NotFound,
        format!("the keeper knows no {target}"),
    )
}

impl Keeper {
    /// Does what a daemon asks.
    pub(crate) fn request(&mut self, from: &ReplyTo, version: u16, body: &[u8], fds: Vec<OwnedFd>) {
        failpoint::hit("keeper.request");
        let request: Request = match decode_body(version, body) {
            Ok(request) => request,
            Err(error) => {
                let failure = fail(ErrorClass::InvalidArgument, error.to_string());
                return self.reply(from, &Response::Failed(failure), &[]);
            }
        };
        let result = match request {
            Request::Hello { version, .. } => Ok(Some(self.hello(from, version))),
            Request::Start(request) => self.start(from, *request, fds).map(|()| None),
            Request::Exec(request) => self.exec(from, *request).map(|()| None),
            Request::Attach(request) => self.attach(from, request).map(|()| None),
            Request::Resize { target, size } => {
                self.resize(target, size).map(|()| Some(Response::Done))
            }
            Request::Signal { target, signal } => {
                self.signal(target, signal).map(|()| Some(Response::Done))
            }
            Request::List => Ok(Some(Response::Tasks(self.list()))),
            Request::Forget { target } => self.forget(target).map(|()| Some(Response::Done)),
            Request::WatchLog { container } => self.watch_log(from, container).map(|()| None),
            Request::Pids { container } => self.pids(from, container).map(|()| None),
            Request::Shutdown => self.shutdown().map(|()| Some(Response::Done)),
        };
        match result {
            Ok(Some(response)) => self.reply(from, &response, &[]),
            Ok(None) => {}
            Err(failure) => self.reply(from, &Response::Failed(failure), &[]),
        }
    }

    fn hello(&mut self, from: &ReplyTo, version: u16) -> Response {
        let version = version.min(VERSION);
        if let Some(Link {
            kind: LinkKind::Connection(connection),
            ..
        }) = self.links.get_mut(from.link)
        {
            connection.version = version;
            self.record_link(from.link);
        }
        Response::Hello {
            version,
            build: self.settings.build.clone(),
            keeper: std::process::id(),
            guardian: self.guardian,
            generation: self.generation,
        }
    }

    fn attach(&mut self, from: &ReplyTo, request: AttachRequest) -> Result<(), Failure> {
        let AttachRequest {
            target,
            stdin,
            stdout,
            stderr,
        } = request;
        let slot = self.link_place(target)?;
        // A client of an ended container waits for its next run.
        self.end_run(slot);
        let (ours, theirs) = pair()?;
        let ours = Arc::new(ours);
        let next = self
            .tasks
            .get(slot)
            .map_or(0, |task| match task.record.phase {
                Phase::Pending | Phase::Exited { .. } => task.record.run.wrapping_add(1),
                Phase::Starting { .. } | Phase::Running => task.record.run,
            });
        let session = SessionLink {
            socket: Arc::clone(&ours),
            run: next,
            task: Some(slot),
            stdin,
            stdout,
            stderr,
            ended: false,
            pending: Vec::new(),
            backlog: None,
        };
        let link = self
            .add_link(LinkKind::Session(session))
            .ok_or_else(too_many)?;
        failpoint::hit("attach.recorded");
        let serial = self.links.get(link).map_or(0, |link| link.serial);
        if let Some(task) = self.tasks.get(slot) {
            let session = Session::new((link, serial), ours, stdout, stderr);
            self.pump.command(&task.io, Command::Attach(session));
        }
        if self
            .tasks
            .get(slot)
            .is_some_and(|task| task.record.phase == Phase::Running)
        {
            self.resume_input(link);
        }
        self.reply(from, &Response::Attached, &[theirs.as_fd()]);
        Ok(())
    }

    /// The task that a session or watch joins; made if the target is yet to be started.
    fn link_place(&mut self, target: Target) -> Result<usize, Failure> {
        if let (Some(task), Target::Exec(_)) = (self.task(target), target)
            && matches!(task.record.phase, Phase::Exited { .. })
        {
            return Err(fail(ErrorClass::Conflict, format!("{target} has ended")));
        }
        let container = match target {
            Target::Container(container) => container,
            // Not known before the start says so.
            Target::Exec(exec) => ContainerId::from_bytes(*exec.as_bytes()),
        };
        let slot = self.task_slot(target, container)?;
        let links = self
            .links
            .iter()
            .filter(|(_, link)| link.task() == Some(slot))
            .count();
        if links >= MAX_LINKS {
            return Err(too_many());
        }
        if self
            .tasks
            .get(slot)
            .is_some_and(|task| task.record.phase == Phase::Pending)
        {
            self.record_task(slot);
        }
        Ok(slot)
    }

    /// The place of a target, made if it is unknown.
    pub(crate) fn task_slot(
        &mut self,
        target: Target,
        container: ContainerId,
    ) -> Result<usize, Failure> {
        if let Some(slot) = self.index.get(&target) {
            return Ok(*slot);
        }
        let record = TaskRecord {
            run: 0,
            target,
            container,
            phase: Phase::Pending,
            request: 0,
            pid: 0,
            started_at: 0,
            stdin_mode: StdinMode::Closed,
            terminal: false,
            cgroup: String::new(),
            log: None,
            fds: TaskFds::default(),
        };
        // The place must be known before the output is made for it.
        let task = Task::new(record, self.pump.add(usize::MAX));
        let slot = match self.tasks.insert(task) {
            Ok(slot) => slot,
            Err(task) => {
                self.pump.retire(&task.io);
                return Err(too_many());
            }
        };
        if let Some(task) = self.tasks.get_mut(slot) {
            let placeless = std::mem::replace(&mut task.io, self.pump.add(slot));
            self.pump.retire(&placeless);
        }
        self.index.insert(target, slot);
        Ok(slot)
    }

    pub(crate) fn task(&self, target: Target) -> Option<&Task> {
        self.tasks.get(*self.index.get(&target)?)
    }

    fn resize(&mut self, target: Target, size: TerminalSize) -> Result<(), Failure> {
        let slot = *self.index.get(&target).ok_or_else(|| no_such(target))?;
        let task = self.tasks.get_mut(slot).ok_or_else(|| no_such(target))?;
        match (task.record.phase, &task.stdout) {
            (Phase::Running, Some(master)) if task.record.terminal => {
                kekkai_sys::pty::set_size(master.as_fd(), size.rows, size.columns)
                    .map_err(|error| internal(&format!("cannot resize the terminal: {error}")))
            }
            (Phase::Starting { .. } | Phase::Pending, _) => {
                task.size = Some(size);
                Ok(())
            }
            (Phase::Running, _) => Err(fail(
                ErrorClass::InvalidArgument,
                format!("{target} has no terminal"),
            )),
            (Phase::Exited { .. }, _) => Err(fail(
                ErrorClass::Conflict,
                format!("{target} is not running"),
            )),
        }
    }

    fn signal(&self, target: Target, signal: Signal) -> Result<(), Failure> {
        let task = self.task(target).ok_or_else(|| no_such(target))?;
        let not_running = || fail(ErrorClass::Conflict, format!("{target} is not running"));
        let (Phase::Running, Some(pidfd)) = (task.record.phase, &task.pidfd) else {
            return Err(not_running());
        };
        kekkai_sys::pidfd::send_signal(pidfd.as_fd(), signal.number()).map_err(
            |error| match error {
                kekkai_sys::Errno::SRCH => not_running(),
                error => internal(&format!("cannot send {signal}: {error}")),
            },
        )
    }

    fn list(&self) -> Vec<TaskView> {
        let view = |task: &Task| TaskView {
            target: task.record.target,
            container: task.record.container,
            pid: task.record.pid,
            started_at: task.record.started_at,
            exit: match task.record.phase {
                Phase::Exited { exit, .. } => Some(exit),
                _ => None,
            },
            terminal: task.record.terminal,
        };
        self.tasks
            .iter()
            .filter(|(_, task)| task.record.phase != Phase::Pending)
            .map(|(_, task)| view(task))
            .collect()
    }

    fn forget(&mut self, target: Target) -> Result<(), Failure> {
        failpoint::hit("forget.before");
        let Some(slot) = self.index.get(&target).copied() else {
            return Ok(());
        };
        let Some(task) = self.tasks.get(slot) else {
            return Ok(());
        };
        let container = task.record.container;
        if matches!(task.record.phase, Phase::Running | Phase::Starting { .. }) {
            return Err(fail(ErrorClass::Conflict, format!("{target} is running")));
        }
        let mut slots = vec![slot];
        if let Target::Container(_) = target {
            let of_it = |task: &Task| {
                task.record.container == container
                    && matches!(task.record.phase, Phase::Exited { .. })
            };
            slots.extend(
                self.tasks
                    .iter()
                    .filter(|(number, task)| *number != slot && of_it(task))
                    .map(|(number, _)| number),
            );
        }
        for slot in slots {
            self.release(slot);
            self.remove_task(slot);
        }
        failpoint::hit("forget.after");
        Ok(())
    }

    fn watch_log(&mut self, from: &ReplyTo, container: ContainerId) -> Result<(), Failure> {
        let target = Target::Container(container);
        let (ours, theirs) = pair()?;
        // As in Docker, only a running container is followed; one that is not has said everything.
        let ended = self
            .task(target)
            .is_none_or(|task| match task.record.phase {
                Phase::Starting { .. } | Phase::Running => false,
                Phase::Exited { .. } => task.stdout.is_none() && task.stderr.is_none(),
                Phase::Pending => true,
            });
        if ended {
            // Nothing more will come: the reader sees the end at once.
            drop(ours);
        } else {
            let slot = self.link_place(target)?;
            let ours = Arc::new(ours);
            let kind = LinkKind::Watch {
                socket: Arc::clone(&ours),
                task: Some(slot),
            };
            let link = self.add_link(kind).ok_or_else(too_many)?;
            let serial = self.links.get(link).map_or(0, |link| link.serial);
            if let Some(task) = self.tasks.get(slot) {
                self.pump
                    .command(&task.io, Command::Watch((link, serial), ours));
            }
        }
        self.reply(from, &Response::Watching, &[theirs.as_fd()]);
        Ok(())
    }

    fn pids(&mut self, from: &ReplyTo, container: ContainerId) -> Result<(), Failure> {
        let target = Target::Container(container);
        let task = self.task(target).ok_or_else(|| no_such(target))?;
        if task.record.phase != Phase::Running {
            return Err(fail(
                ErrorClass::Conflict,
                format!("{target} is not running"),
            ));
        }
        let cgroup = task.record.cgroup.clone();
        let id = self.job_id();
        self.submit_job(
            id,
            Purpose::Pids(from.clone()),
            Job::Pids { cgroup },
            Vec::new(),
        );
        Ok(())
    }

    fn shutdown(&mut self) -> Result<(), Failure> {
        let busy =
            |task: &Task| matches!(task.record.phase, Phase::Running | Phase::Starting { .. });
        let count = self.tasks.iter().filter(|(_, task)| busy(task)).count();
        if count > 0 {
            return Err(fail(
                ErrorClass::Conflict,
                format!("{count} processes are running"),
            ));
        }
        self.end = Some(End::Shutdown);
        Ok(())
    }

    /// Tells every daemon that a new keeper goes on.
    pub(crate) fn tell_resumed(&mut self) {
        let generation = self.generation;
        self.broadcast(&Event::Resumed { generation });
    }
}

fn too_many() -> Failure {
    fail(ErrorClass::Unavailable, "the keeper's tables are full")
}

/// A pair of sockets whose first end is non-blocking: ours.
fn pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    let error = |error| internal(&format!("cannot make a socket pair: {error}"));
    let (ours, theirs) = kekkai_sys::socket::message_pair().map_err(error)?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(error)?;
    Ok((ours, theirs))
}
