//! The launchers as the keeper sees them: who is idle, what waits, who has died.
//!
//! What must stay true: a job goes to an idle launcher or waits in the queue; one idle launcher is held back, so that
//! there is always somebody who can make another when all others hang; a job whose launcher died is answered as failed,
//! and what it may have started half-way is killed by its cgroup.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use crate::failpoint;
use crate::protocol::{Kind, Response, VERSION};
use crate::server::keeper::{Keeper, Timer, Token};
use crate::server::launcher::{Done, Job, internal, spawn};
use crate::server::links::ReplyTo;
use crate::server::state::{LauncherRecord, Phase};
use crate::transport::{self, ReceiveError};
use rustix::event::epoll;

/// Launchers from the start on: two that work, and the one that is held back.
const LAUNCHERS: usize = 3;
/// A job that has waited so long gets another launcher.
const PATIENCE: Duration = Duration::from_millis(25);
/// Launchers that were made for a rush end after this time.
const RUSH: Duration = Duration::from_secs(10);
/// The most launchers, stuck ones included.
const MAX_LAUNCHERS: usize = 64;
/// The most jobs that wait.
const MAX_QUEUE: usize = 4096;

/// A launcher.
#[derive(Debug)]
pub(crate) struct Launcher {
    number: u32,
    pid: i32,
    pidfd: OwnedFd,
    pub(crate) socket: OwnedFd,
    /// The jobs that it has not answered, oldest first.
    pub(crate) jobs: Vec<(u64, Purpose)>,
}

/// What is done with a job's answer.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    /// Start the task in this slot.
    Start(usize),
    /// Answer with the pids.
    Pids(ReplyTo),
    /// Nothing.
    Nothing,
    /// Another launcher.
    Sibling,
    /// Whatever this launcher was sent before and has not answered, it has never received.
    Probe,
}

/// A job that waits for a launcher.
#[derive(Debug)]
pub(crate) struct QueuedJob {
    id: u64,
    purpose: Purpose,
    job: Job,
    fds: Vec<OwnedFd>,
}

impl Keeper {
    /// Makes the first launchers. The process is single-threaded still.
    pub(crate) fn fill_pool(&mut self) {
        while self.launchers.len() < LAUNCHERS {
            match spawn(false) {
                Ok(new) => {
                    let number = self.next_launcher;
                    self.add_launcher(number, new.pid, new.pidfd, new.socket);
                }
                Err(_) => break,
            }
        }
        self.record_launchers();
    }

    /// Takes a launcher in.
    pub(crate) fn add_launcher(&mut self, number: u32, pid: i32, pidfd: OwnedFd, socket: OwnedFd) {
        let jobs = Vec::new();
        self.next_launcher = self.next_launcher.max(number.wrapping_add(1));
        if self
            .watch(
                socket.as_fd(),
                Token::Launcher(number),
                epoll::EventFlags::IN,
            )
            .is_ok()
        {
            self.launchers.push(Launcher {
                number,
                pid,
                pidfd,
                socket,
                jobs,
            });
        }
    }

    /// Writes the launchers into the state table.
    pub(crate) fn record_launchers(&self) {
        let records: Vec<LauncherRecord> = self
            .launchers
            .iter()
            .map(|launcher| LauncherRecord {
                number: launcher.number,
                pid: launcher.pid,
                pidfd: launcher.pidfd.as_raw_fd(),
                socket: launcher.socket.as_raw_fd(),
            })
            .collect();
        drop(self.state.write_header(&records));
    }

    /// A number for a new job.
    pub(crate) fn job_id(&mut self) -> u64 {
        // Unlike any of a former keeper.
        let id = u64::from(self.generation) << 40 | self.next_job;
        self.next_job += 1;
        id
    }

    /// Hands a job to a launcher, now or later.
    pub(crate) fn submit_job(&mut self, id: u64, purpose: Purpose, job: Job, fds: Vec<OwnedFd>) {
        if self.queue.len() >= MAX_QUEUE {
            return self.job_failed(purpose, "too many starts are waiting");
        }
        self.queue.push_back(QueuedJob {
            id,
            purpose,
            job,
            fds,
        });
        self.dispatch_jobs();
    }

    fn dispatch_jobs(&mut self) {
        while !self.queue.is_empty() {
            let mut idle = self
                .launchers
                .iter()
                .enumerate()
                .filter(|(_, launcher)| launcher.jobs.is_empty());
            let (Some((at, _)), Some(_)) = (idle.next(), idle.next()) else {
                if !self.timers.iter().any(|(_, timer)| *timer == Timer::Grow) {
                    self.after(PATIENCE, Timer::Grow);
                }
                return;
            };
            let Some(job) = self.queue.pop_front() else {
                return;
            };
            self.send_job(at, job);
        }
    }

    fn send_job(&mut self, at: usize, queued: QueuedJob) {
        let QueuedJob {
            id,
            purpose,
            job,
            fds,
        } = queued;
        let Some(number) = self.launchers.get(at).map(|launcher| launcher.number) else {
            return;
        };
        if let Purpose::Start(slot) = purpose {
            // A new keeper must know whom to ask.
            if let Some(task) = self.tasks.get_mut(slot) {
                task.record.phase = Phase::Starting {
                    job: id,
                    launcher: Some(number),
                };
            }
            self.record_task(slot);
        }
        let Some(launcher) = self.launchers.get_mut(at) else {
            return;
        };
        let Ok(body) = postcard::to_stdvec(&job) else {
            return self.job_failed(purpose, "bad job");
        };
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match transport::send(
            &launcher.socket,
            Kind::Request,
            VERSION,
            id,
            &body,
            &borrowed,
        ) {
            Ok(()) => launcher.jobs.push((id, purpose)),
            Err(error) => {
                let message = format!("cannot hand the job to a launcher: {error}");
                self.job_failed(purpose, &message);
            }
        }
    }

    /// A launcher has answered, or is gone.
    pub(crate) fn launcher_ready(&mut self, number: u32, buffer: &mut [u8]) {
        let Some(at) = self
            .launchers
            .iter()
            .position(|launcher| launcher.number == number)
        else {
            return;
        };
        let launcher = &mut self.launchers[at];
        // Looked at, not taken: should this keeper die before it has recorded what came, the next one finds it here.
        let message = match transport::peek(&launcher.socket, buffer) {
            Ok(message) => message,
            Err(ReceiveError::Empty) => return,
            Err(_) => return self.launcher_died(at),
        };
        let Ok(done) = postcard::from_bytes::<Done>(&message.body) else {
            return self.launcher_died(at);
        };
        let (fds, id) = (message.fds, message.header.sequence);
        failpoint::hit("start.launched");
        if let Some(job) = launcher.jobs.iter().position(|(known, _)| *known == id) {
            let (_, purpose) = launcher.jobs.remove(job);
            if matches!(purpose, Purpose::Probe) {
                let lost: Vec<_> = launcher.jobs.drain(..job).collect();
                for (_, purpose) in lost {
                    if let Purpose::Start(slot) = purpose {
                        self.start_lost(slot);
                    }
                }
            } else {
                self.job_done(purpose, done, fds);
            }
        }
        if let Some(launcher) = self
            .launchers
            .iter()
            .find(|launcher| launcher.number == number)
        {
            transport::discard(&launcher.socket);
        }
        self.dispatch_jobs();
    }

    fn job_done(&mut self, purpose: Purpose, done: Done, fds: Vec<OwnedFd>) {
        match (purpose, done) {
            (
                Purpose::Start(slot),
                Done::Launched {
                    pid,
                    master,
                    devpts,
                    rootfs,
                },
            ) => {
                self.launched(slot, pid, [true, master, devpts, rootfs], fds);
            }
            (Purpose::Start(slot), Done::Failed(failure)) => {
                self.reap_soon();
                self.start_failed(slot, failure);
            }
            (Purpose::Pids(reply), Done::Pids(pids)) => {
                self.reply(&reply, &Response::Pids(pids), &[])
            }
            (Purpose::Sibling, Done::Cloned { pid }) => {
                if let Ok([pidfd, socket]) = <[OwnedFd; 2]>::try_from(fds) {
                    let number = self.next_launcher;
                    self.add_launcher(number, pid, pidfd, socket);
                    self.record_launchers();
                    if !self.timers.iter().any(|(_, timer)| *timer == Timer::Shrink) {
                        self.after(RUSH, Timer::Shrink);
                    }
                }
            }
            (Purpose::Sibling | Purpose::Nothing | Purpose::Probe, _) => {}
            (purpose, _) => self.job_failed(purpose, "a launcher gave a wrong answer"),
        }
    }

    fn job_failed(&mut self, purpose: Purpose, message: &str) {
        match purpose {
            Purpose::Start(slot) => self.start_failed(slot, internal(message)),
            Purpose::Pids(reply) => self.reply(&reply, &Response::Failed(internal(message)), &[]),
            Purpose::Nothing | Purpose::Sibling | Purpose::Probe => {}
        }
    }

    /// Kills children that are neither launchers nor tasks: those that a dead launcher had started and not told of.
    pub(crate) fn kill_unknown(&mut self) {
        let starting =
            |(_, purpose): &(u64, Purpose)| matches!(purpose, Purpose::Start(_) | Purpose::Sibling);
        if self
            .launchers
            .iter()
            .any(|launcher| launcher.jobs.iter().any(starting))
        {
            // One that is being started now would look the same.
            return self.after(Duration::from_millis(100), Timer::KillUnknown);
        }
        let own = std::process::id();
        let children =
            std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        for pid in children
            .split_whitespace()
            .filter_map(|pid| pid.parse::<i32>().ok())
        {
            let launcher = self.launchers.iter().any(|launcher| launcher.pid == pid);
            let task = self
                .tasks
                .iter()
                .any(|(_, task)| i32::try_from(task.record.pid) == Ok(pid));
            if let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|_| !launcher && !task) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        self.reap_soon();
    }

    /// A launcher is gone: its job has failed, and half of it may have happened.
    fn launcher_died(&mut self, at: usize) {
        let launcher = self.launchers.remove(at);
        let _ = epoll::delete(&self.epoll, &launcher.socket);
        self.record_launchers();
        self.reap_soon();
        let mut kills = Vec::new();
        if launcher
            .jobs
            .iter()
            .any(|(_, purpose)| matches!(purpose, Purpose::Start(_)))
        {
            self.after(Duration::from_millis(1), Timer::KillUnknown);
        }
        for (_, purpose) in launcher.jobs {
            if let Purpose::Start(slot) = &purpose
                && let Some(task) = self.tasks.get(*slot)
                && matches!(task.record.phase, Phase::Starting { .. })
                && task.is_container()
            {
                kills.push(task.record.cgroup.clone());
            }
            self.job_failed(purpose, "the launcher died");
        }
        if self.launchers.is_empty() {
            // Only a single-threaded process may fork: the guardian makes a new keeper, which makes new launchers.
            kekkai_sys::process::exit_now(70);
        }
        if self.launchers.len() < LAUNCHERS {
            self.clone_launcher(0);
        }
        for cgroup in kills {
            let id = self.job_id();
            self.submit_job(id, Purpose::Nothing, Job::Kill { cgroup }, Vec::new());
        }
        self.dispatch_jobs();
    }

    /// Jobs have waited: the launcher that is held back makes another.
    pub(crate) fn grow_pool(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        if self.launchers.len() < MAX_LAUNCHERS
            && let Some(at) = self
                .launchers
                .iter()
                .position(|launcher| launcher.jobs.is_empty())
        {
            self.clone_launcher(at);
        }
        self.after(PATIENCE, Timer::Grow);
    }

    fn clone_launcher(&mut self, at: usize) {
        let id = self.job_id();
        self.send_job(
            at,
            QueuedJob {
                id,
                purpose: Purpose::Sibling,
                job: Job::Clone,
                fds: Vec::new(),
            },
        );
    }

    /// Lets a launcher that was made for a rush go.
    pub(crate) fn shrink_pool(&mut self) {
        if self.launchers.len() <= LAUNCHERS {
            return;
        }
        if self.queue.is_empty()
            && let Some(at) = self
                .launchers
                .iter()
                .rposition(|launcher| launcher.jobs.is_empty())
        {
            // Its socket closes: it ends, and is reaped.
            let launcher = self.launchers.remove(at);
            let _ = epoll::delete(&self.epoll, &launcher.socket);
            self.record_launchers();
            drop(launcher);
            self.reap_soon();
        }
        self.after(RUSH, Timer::Shrink);
    }

    /// Finds out which of the jobs that a former keeper gave out were never received.
    pub(crate) fn probe_launchers(&mut self) {
        for at in 0..self.launchers.len() {
            if !self.launchers[at].jobs.is_empty() {
                let id = self.job_id();
                let job = Job::Pids {
                    cgroup: String::new(),
                };
                self.send_job(
                    at,
                    QueuedJob {
                        id,
                        purpose: Purpose::Probe,
                        job,
                        fds: Vec::new(),
                    },
                );
            }
        }
    }

    /// Looks for children that nobody knows, soon and once more: those of failed starts.
    pub(crate) fn reap_soon(&mut self) {
        for milliseconds in [20, 1000] {
            if self.timers.len() < 1024 {
                self.after(Duration::from_millis(milliseconds), Timer::Reap);
            }
        }
    }
}
