//! Starting containers and exec sessions: from the request to the launcher's job.
//!
//! What must stay true: a start is in the state table, with the descriptors of its pipes, before its job is sent; the
//! same request twice is one start.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kekkai_types::{ContainerId, ErrorClass};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::failpoint;
use crate::log::{LogConfig, LogWriter};
use crate::protocol::{ExecRequest, Failure, Response, StartRequest, StdinMode, Target, Terminal};
use crate::server::keeper::Keeper;
use crate::server::launcher::{Job, JobStdio, internal};
use crate::server::links::ReplyTo;
use crate::server::pool::Purpose;
use crate::server::pump::Command;
use crate::server::requests::{fail, no_such};
use crate::server::state::{Phase, TaskFds, TaskRecord};

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

impl Keeper {
    pub(crate) fn start(
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

    pub(crate) fn exec(&mut self, from: &ReplyTo, request: ExecRequest) -> Result<(), Failure> {
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
