//! Standard input: from attach sessions into a pipe or a terminal.
//!
//! What must stay true: a process that does not read its input stops only the session that writes; what a session has
//! sent before it hung up is delivered; a pipe that is to close with its first client (`Once`) closes exactly then.

use std::os::fd::AsFd;

use rustix::event::epoll;
use rustix::io::Errno;

use crate::protocol::{Frame, StdinMode};
use crate::server::keeper::{Keeper, Token};
use crate::server::links::{Link, LinkKind, SessionLink};
use crate::server::pump::Command;
use crate::server::state::Phase;

/// Packets that are taken from one session before the others have their turn.
const TURN: usize = 16;

/// What came of giving input to a process.
enum Taken {
    All,
    Some(usize),
    /// Nobody will ever read it.
    Nobody,
}

impl Keeper {
    fn session_mut(&mut self, slot: usize) -> Option<&mut SessionLink> {
        match self.links.get_mut(slot) {
            Some(Link {
                kind: LinkKind::Session(session),
                ..
            }) => Some(session),
            _ => None,
        }
    }

    /// A session has input, or has hung up.
    pub(crate) fn session_ready(
        &mut self,
        slot: usize,
        flags: epoll::EventFlags,
        buffer: &mut [u8],
    ) {
        let hung_up = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        for _ in 0..TURN {
            let Some(session) = self.session_mut(slot) else {
                return;
            };
            let task = session.task;
            let reading = session.stdin && !session.ended && session.pending.is_empty();
            let running = task
                .and_then(|task| self.tasks.get(task))
                .is_some_and(|task| task.record.phase == Phase::Running);
            if !reading || !running {
                if hung_up {
                    self.session_hung_up(slot);
                }
                return;
            }
            let Some(session) = self.session_mut(slot) else {
                return;
            };
            let size = Frame::MAX_PACKET.min(buffer.len());
            match rustix::net::recv(
                session.socket.as_fd(),
                &mut buffer[..size],
                rustix::net::RecvFlags::DONTWAIT,
            ) {
                Ok((0, _)) => {
                    self.input_ended(slot);
                    if hung_up {
                        self.session_hung_up(slot);
                    }
                    return;
                }
                Ok((count, _)) => self.input(slot, &buffer[..count]),
                Err(Errno::AGAIN | Errno::INTR) => {
                    if hung_up {
                        self.session_hung_up(slot);
                    }
                    return;
                }
                Err(_) => return self.session_hung_up(slot),
            }
        }
    }

    /// The client has gone away altogether: its input ends, its output has no reader.
    fn session_hung_up(&mut self, slot: usize) {
        let Some(Link {
            kind: LinkKind::Session(session),
            serial,
        }) = self.links.get(slot)
        else {
            return;
        };
        let (key, task) = ((slot, *serial), session.task);
        if !session.pending.is_empty() {
            // What it sent is delivered first; the socket is looked at again then.
            let _ = epoll::delete(
                &self.epoll,
                self.links
                    .get(slot)
                    .map_or(self.epoll.as_fd(), Link::socket),
            );
            return;
        }
        if session.stdin && !session.ended {
            self.input_ended(slot);
        }
        // The pump finds out by itself about a client of a forgotten task.
        if let Some(task) = task.and_then(|task| self.tasks.get(task)) {
            self.pump.command(&task.io, Command::Detach(key));
        }
        self.close_link(slot);
    }

    fn input(&mut self, slot: usize, data: &[u8]) {
        let Some(task) = self.session_mut(slot).and_then(|session| session.task) else {
            return;
        };
        match self.give(task, data) {
            Taken::All | Taken::Nobody => {}
            Taken::Some(count) => {
                if let Some(session) = self.session_mut(slot) {
                    session.pending = data[count..].to_vec();
                }
                self.rewatch_link(slot, epoll::EventFlags::empty());
                self.await_stdin(task);
            }
        }
    }

    /// Writes to the process what it will take.
    fn give(&self, task: usize, data: &[u8]) -> Taken {
        let Some(fd) = self.tasks.get(task).and_then(|task| task.input_fd()) else {
            return Taken::Nobody;
        };
        let mut rest = data;
        while !rest.is_empty() {
            match rustix::io::write(fd, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Taken::Some(data.len() - rest.len()),
                Err(_) => return Taken::Nobody,
            }
        }
        Taken::All
    }

    fn await_stdin(&mut self, slot: usize) {
        let token = Token::Stdin(u32::try_from(slot).unwrap_or(u32::MAX)).data();
        let Some(fd) = self.tasks.get(slot).and_then(|task| task.input_fd()) else {
            return;
        };
        let flags = epoll::EventFlags::OUT | epoll::EventFlags::ONESHOT;
        if epoll::add(&self.epoll, fd, token, flags) == Err(Errno::EXIST) {
            let _ = epoll::modify(&self.epoll, fd, token, flags);
        }
    }

    /// The process reads on: give it what waits.
    pub(crate) fn stdin_has_room(&mut self, slot: usize) {
        let waiting: Vec<usize> = self
            .sessions_of(slot)
            .into_iter()
            .filter(|link| {
                self.session_mut(*link)
                    .is_some_and(|session| !session.pending.is_empty())
            })
            .collect();
        for link in waiting {
            let Some(session) = self.session_mut(link) else {
                continue;
            };
            let data = std::mem::take(&mut session.pending);
            self.input(link, &data);
            let still = self
                .session_mut(link)
                .is_some_and(|session| !session.pending.is_empty());
            if !still {
                self.resume_input(link);
            }
        }
    }

    /// Reads a session's input (again).
    pub(crate) fn resume_input(&mut self, slot: usize) {
        let Some(session) = self.session_mut(slot) else {
            return;
        };
        if session.stdin && !session.ended && session.pending.is_empty() {
            let flags = epoll::EventFlags::IN;
            let Some(link) = self.links.get(slot) else {
                return;
            };
            let token = Token::Link(u32::try_from(slot).unwrap_or(u32::MAX), link.serial).data();
            if epoll::modify(&self.epoll, link.socket(), token, flags) == Err(Errno::NOENT) {
                let _ = epoll::add(&self.epoll, link.socket(), token, flags);
            }
        }
    }

    /// The client sends no more input.
    fn input_ended(&mut self, slot: usize) {
        let Some(session) = self.session_mut(slot) else {
            return;
        };
        session.ended = true;
        let task = session.task;
        self.record_link(slot);
        self.rewatch_link(slot, epoll::EventFlags::empty());
        let Some(task) = task else { return };
        if self
            .tasks
            .get(task)
            .is_some_and(|task| task.record.stdin_mode == StdinMode::Once)
        {
            self.close_stdin(task);
        }
    }

    /// The sessions of a task.
    pub(crate) fn sessions_of(&self, slot: usize) -> Vec<usize> {
        let is = |link: &Link| matches!(&link.kind, LinkKind::Session(session) if session.task == Some(slot));
        self.links
            .iter()
            .filter(|(_, link)| is(link))
            .map(|(number, _)| number)
            .collect()
    }
}
