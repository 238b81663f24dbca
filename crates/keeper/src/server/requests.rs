//! What daemons ask for.
//!
//! What must stay true: a request is checked whole before it has an effect; a request that comes twice with one
//! sequence number (a new keeper makes clients send again) starts nothing twice.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kekkai_types::{ContainerId, ErrorClass, Signal};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::failpoint;
use crate::log::{LogConfig, LogWriter};
use crate::protocol::{
    AttachRequest, Event, ExecRequest, Failure, Request, Response, StartRequest, StdinMode, Target,
    Task as TaskView, Terminal, TerminalSize, VERSION, decode_body,
};
use crate::server::keeper::{End, Keeper};
use crate::server::launcher::{Job, JobStdio, internal};
use crate::server::links::{Link, LinkKind, ReplyTo, SessionLink};
use crate::server::pool::Purpose;
use crate::server::pump::Command;
use crate::server::session::Session;
use crate::server::state::{Phase, TaskFds, TaskRecord};
use crate::server::tasks::Task;

/// The most sessions and watches of one task.
const MAX_LINKS: usize = 256;
/// The longest cgroup path.
const MAX_CGROUP: usize = 512;

/// What is common to the start of a container and of an exec session.
struct Start {
    target: Target,
    container: ContainerId,
    stdin: StdinMode,
    terminal: Terminal,
    cgroup: String,
    log: Option<LogConfig>,
}

/// The descriptors of a job's standard streams, and the form they have.
struct Stdio {
    form: JobStdio,
    theirs: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

fn fail(class: ErrorClass, message: impl Into<String>) -> Failure {
    Failure {
        class,
        exit_code: 125,
        message: message.into(),
    }
}

fn no_such(target: Target) -> Failure {
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

    fn start(
        &mut self,
        from: &ReplyTo,
        request: StartRequest,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        failpoint::hit("start.received");
        let StartRequest {
            container,
            plan,
            joins,
            log,
            stdin,
            terminal,
            cgroup,
        } = request;
        let attributes: usize = log
            .attributes
            .iter()
            .map(|(key, value)| key.len() + value.len() + 8)
            .sum();
        if fds.len() != joins.len()
            || cgroup.len() > MAX_CGROUP
            || attributes > LogConfig::MAX_ATTRIBUTES
            || log.path.as_os_str().len() > LogConfig::MAX_PATH
        {
            return Err(fail(
                ErrorClass::InvalidArgument,
                "the start request is out of bounds",
            ));
        }
        let target = Target::Container(container);
        let Some(slot) = self.begin(
            from,
            Start {
                target,
                container,
                stdin,
                terminal,
                cgroup,
                log: Some(log),
            },
        )?
        else {
            return Ok(());
        };
        let stdio = self.make_stdio(slot, stdin, terminal)?;
        let mut all = stdio.theirs;
        all.extend(fds);
        self.send_start(
            slot,
            Job::Container {
                plan,
                stdio: stdio.form,
                joins,
            },
            all,
        );
        Ok(())
    }

    fn exec(&mut self, from: &ReplyTo, request: ExecRequest) -> Result<(), Failure> {
        let ExecRequest {
            container,
            exec,
            plan,
            stdin,
            terminal,
        } = request;
        let not_running = || {
            fail(
                ErrorClass::Conflict,
                format!("container {container} is not running"),
            )
        };
        let running = self
            .task(Target::Container(container))
            .filter(|task| task.record.phase == Phase::Running);
        let running = running.ok_or_else(not_running)?;
        let pidfd = running.pidfd.as_ref().ok_or_else(not_running)?;
        let io_error =
            |error: std::io::Error| internal(&format!("cannot copy a descriptor: {error}"));
        let mut context = vec![pidfd.try_clone().map_err(io_error)?];
        if let Some(devpts) = &running.devpts {
            context.push(devpts.try_clone().map_err(io_error)?);
        }
        let devpts = running.devpts.is_some();
        let pid = i32::try_from(running.record.pid).map_err(|_| not_running())?;
        let cgroup = running.record.cgroup.clone();
        let target = Target::Exec(exec);
        let Some(slot) = self.begin(
            from,
            Start {
                target,
                container,
                stdin,
                terminal,
                cgroup,
                log: None,
            },
        )?
        else {
            return Ok(());
        };
        let stdio = self.make_stdio(slot, stdin, terminal)?;
        let mut all = stdio.theirs;
        all.extend(context);
        self.send_start(
            slot,
            Job::Exec {
                plan,
                stdio: stdio.form,
                pid,
                devpts,
            },
            all,
        );
        Ok(())
    }

    /// Prepares a task's place for a start; `None` if this start is known already.
    fn begin(&mut self, from: &ReplyTo, start: Start) -> Result<Option<usize>, Failure> {
        let slot = self.task_slot(start.target, start.container)?;
        let Some(task) = self.tasks.get_mut(slot) else {
            return Err(no_such(start.target));
        };
        let again = task.record.request == from.sequence;
        let (pid, at) = (task.record.pid, task.record.started_at);
        match task.record.phase {
            Phase::Starting { .. } if again => {
                task.reply = Some(from.clone());
                return Ok(None);
            }
            Phase::Running | Phase::Exited { .. } if again => {
                self.reply(from, &Response::Started { pid, at }, &[]);
                return Ok(None);
            }
            Phase::Starting { .. } | Phase::Running => {
                return Err(fail(
                    ErrorClass::Conflict,
                    format!("{} is running already", start.target),
                ));
            }
            // Everybody learns of the former end before the new start.
            Phase::Exited { .. } => self.end_run(slot),
            Phase::Pending => {}
        }
        let Some(task) = self.tasks.get_mut(slot) else {
            return Err(no_such(start.target));
        };
        task.reply = Some(from.clone());
        task.size = None;
        task.finished = false;
        task.record = TaskRecord {
            run: task.record.run.wrapping_add(1),
            target: start.target,
            container: start.container,
            phase: Phase::Pending,
            request: from.sequence,
            pid: 0,
            started_at: 0,
            stdin_mode: start.stdin,
            terminal: start.terminal != Terminal::None,
            cgroup: start.cgroup,
            log: start.log.clone(),
            fds: TaskFds::default(),
        };
        let io = Arc::clone(&task.io);
        if let Some(log) = start.log {
            self.pump
                .command(&io, Command::Log(Box::new(LogWriter::new(log))));
        }
        Ok(Some(slot))
    }

    /// Makes the pipes of a start. On failure the task's place is given up.
    fn make_stdio(
        &mut self,
        slot: usize,
        stdin: StdinMode,
        terminal: Terminal,
    ) -> Result<Stdio, Failure> {
        let made = match terminal {
            Terminal::Size(size) => Ok(Stdio {
                form: JobStdio::Terminal(size),
                theirs: Vec::new(),
                stdin: None,
                stdout: None,
                stderr: None,
            }),
            Terminal::None => make_pipes(stdin != StdinMode::Closed),
        };
        match made {
            Ok(mut stdio) => {
                if let Some(task) = self.tasks.get_mut(slot) {
                    task.stdin = stdio.stdin.take();
                    task.stdout = stdio.stdout.take().map(Arc::new);
                    task.stderr = stdio.stderr.take().map(Arc::new);
                }
                Ok(stdio)
            }
            Err(error) => {
                self.remove_task(slot);
                Err(internal(&format!("cannot make pipes: {error}")))
            }
        }
    }

    fn send_start(&mut self, slot: usize, job: Job, fds: Vec<OwnedFd>) {
        let id = self.job_id();
        if let Some(task) = self.tasks.get_mut(slot) {
            task.record.phase = Phase::Starting {
                job: id,
                launcher: None,
            };
        }
        self.record_task(slot);
        failpoint::hit("start.recorded");
        self.submit_job(id, Purpose::Start(slot), job, fds);
        failpoint::hit("start.sent");
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
    fn task_slot(&mut self, target: Target, container: ContainerId) -> Result<usize, Failure> {
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

    fn task(&self, target: Target) -> Option<&Task> {
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

fn make_pipes(stdin: bool) -> Result<Stdio, kekkai_sys::Errno> {
    let mut theirs = Vec::new();
    let stdin = if stdin {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        theirs.push(reader);
        Some(writer)
    } else {
        None
    };
    let mut output = || {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        theirs.push(writer);
        Ok::<_, kekkai_sys::Errno>(reader)
    };
    let (stdout, stderr) = (output()?, output()?);
    Ok(Stdio {
        form: JobStdio::Pipes {
            stdin: stdin.is_some(),
        },
        theirs,
        stdin,
        stdout: Some(stdout),
        stderr: Some(stderr),
    })
}
