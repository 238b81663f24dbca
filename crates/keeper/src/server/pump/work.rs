//! One pump thread's work on one task: read, hand on, log.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::epoll;
use rustix::io::Errno;

use super::{Buffers, Command, FLUSH, IoKey, IoState, Note, Pump, READ, TURN, TaskIo, join, now};
use crate::failpoint;
use crate::protocol::Stream;
use crate::server::pending::Batch;
use crate::server::session::{Delivery, LinkKey, Session, hang_up};

/// One thread's work on one task.
pub(super) struct Work<'a> {
    pub(super) pump: &'a Pump,
    pub(super) io: &'a TaskIo,
    pub(super) key: IoKey,
    pub(super) state: &'a mut IoState,
    pub(super) buffers: &'a mut Buffers,
}

impl Work<'_> {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Log(log) => {
                self.state.kept =
                    [Stream::Stdout, Stream::Stderr].map(|stream| !log.pending(stream).is_empty());
                self.state.log = Some(log);
            }
            Command::Sources(sources) => {
                for source in sources {
                    let index = usize::from(source.stream == Stream::Stderr);
                    let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
                    let added = epoll::add(
                        &self.pump.epoll,
                        &*source.fd,
                        join(self.key, 1 << index),
                        flags,
                    );
                    self.state.sources[index] = Some(source);
                    if added.is_err() {
                        self.end_source(index);
                    }
                }
            }
            Command::Attach(session) => {
                let waiting = session.is_waiting();
                self.state.sessions.push(session);
                if waiting {
                    self.await_room(self.state.sessions.len() - 1);
                }
            }
            Command::Detach(link) => {
                if let Some(at) = self
                    .state
                    .sessions
                    .iter()
                    .position(|session| session.link == link)
                {
                    self.drop_session(at);
                }
            }
            Command::Watch(link, socket) => {
                self.state.watches.push((link, socket));
            }
            Command::Unwatch(link) => self.end_watch(link),
            Command::Cut => (0..2).for_each(|index| self.end_source(index)),
            Command::Replay(stream, data) => self.deliver(stream, &data),
            Command::Eof => {
                let readers = self
                    .state
                    .sessions
                    .iter_mut()
                    .filter(|session| session.stdout || session.stderr);
                readers.for_each(|session| session.ending = true);
            }
            Command::Finish => {
                // Those that join from now on wait for the next run.
                self.state
                    .sessions
                    .iter_mut()
                    .for_each(|session| session.ending = true);
                if let Some(log) = &mut self.state.log {
                    log.close();
                }
                self.end_watches();
            }
        }
    }

    /// Reads one stream; `true` if it gave as much as one turn allows.
    pub(super) fn read(&mut self, index: usize, turns: usize) -> bool {
        let Some(fd) = self.state.sources[index]
            .as_ref()
            .map(|source| Arc::clone(&source.fd))
        else {
            return false;
        };
        if self.buffers.read.is_empty() {
            self.buffers.read = vec![0; READ];
        }
        let mut buffer = std::mem::take(&mut self.buffers.read);
        let mut more = true;
        let mut ended = false;
        for _ in 0..turns {
            match rustix::io::read(&*fd, &mut buffer[..]) {
                Ok(0) | Err(Errno::IO) => ended = true,
                Ok(count) => {
                    self.take(index, &buffer[..count]);
                    if count == READ {
                        continue;
                    }
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(_) => ended = true,
            }
            more = false;
            break;
        }
        self.buffers.read = buffer;
        if ended {
            drop(fd);
            self.end_source(index);
        } else if !more {
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
            let _ = epoll::modify(&self.pump.epoll, &*fd, join(self.key, 1 << index), flags);
        }
        more
    }

    /// Hands output to the log, and then to the sessions: what a client has seen is in the log, even if this process
    /// is killed the next moment.
    fn take(&mut self, index: usize, data: &[u8]) {
        let stream = if index == 0 {
            Stream::Stdout
        } else {
            Stream::Stderr
        };
        self.log(index, stream, data);
        self.deliver(stream, data);
    }

    fn log(&mut self, index: usize, stream: Stream, data: &[u8]) {
        let Some(log) = &mut self.state.log else {
            return;
        };
        let chores = |chore| self.pump.chores.push(chore);
        let (key, kept) = (self.key.slot, &mut self.state.kept[index]);
        let store = self.pump.pending.as_ref().filter(|_| !log.is_none());
        let run = self.state.sources[index]
            .as_ref()
            .map_or(0, |source| source.run);
        if let (Some(store), Ok(position)) = (store, log.position()) {
            let batch = Batch {
                slot: u32::try_from(key).unwrap_or(u32::MAX),
                run,
                stream: u32::from(index != 0),
                log: position,
                pending: log.pending(stream).into(),
                data: data.into(),
            };
            store.take_up(self.buffers.number, &batch);
        }
        failpoint::hit("log.read");
        // Struck out before it is written, so that a crash in between loses it rather than doubles it.
        if let Some(store) = store.filter(|_| std::mem::take(kept)) {
            store.clear(key, index);
        }
        // A log that cannot be written must not stop the container; the next batch tries again.
        drop(log.append(&mut self.buffers.scratch, stream, data, now(), &chores));
        if let Some(store) = store.filter(|_| !log.pending(stream).is_empty()) {
            *kept = store.save(key, index, log.pending(stream));
            self.io.kept.fetch_or(*kept, Ordering::Relaxed);
        }
        failpoint::hit("log.written");
        if let Some(store) = store {
            store.put_down(self.buffers.number);
        }
        self.tell_watches();
    }

    fn deliver(&mut self, stream: Stream, data: &[u8]) {
        let mut at = 0;
        while at < self.state.sessions.len() {
            let session = &mut self.state.sessions[at];
            if !session.wants(stream) {
                at += 1;
                continue;
            }
            let waited = session.is_waiting();
            match session.deliver(stream, data, &self.pump.spill) {
                Delivery::Gone => {
                    self.drop_session(at);
                    continue;
                }
                Delivery::Waiting if !waited => self.await_room(at),
                Delivery::Waiting | Delivery::Sent => {}
            }
            at += 1;
        }
    }

    fn tell_watches(&mut self) {
        let mut gone = Vec::new();
        for (link, socket) in &self.state.watches {
            let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
            match rustix::net::send(socket.as_fd(), b"+", flags) {
                // A full socket holds a word already.
                Ok(_) | Err(Errno::AGAIN) => {}
                Err(_) => gone.push(*link),
            }
        }
        gone.into_iter().for_each(|link| self.end_watch(link));
    }

    fn end_watch(&mut self, link: LinkKey) {
        if let Some(at) = self
            .state
            .watches
            .iter()
            .position(|(known, _)| *known == link)
        {
            drop(self.state.watches.swap_remove(at));
            self.pump.note(Note::WatchOver(link));
        }
    }

    fn end_watches(&mut self) {
        for (link, socket) in std::mem::take(&mut self.state.watches) {
            drop(socket);
            self.pump.note(Note::WatchOver(link));
        }
    }

    fn end_source(&mut self, index: usize) {
        let Some(source) = self.state.sources[index].take() else {
            return;
        };
        let _ = epoll::delete(&self.pump.epoll, &*source.fd);
        let (stream, run) = (source.stream, source.run);
        drop(source);
        if let Some(store) = self
            .pump
            .pending
            .as_ref()
            .filter(|_| std::mem::take(&mut self.state.kept[index]))
        {
            store.clear(self.key.slot, index);
        }
        if let Some(log) = &mut self.state.log {
            let chores = |chore| self.pump.chores.push(chore);
            drop(log.end(&mut self.buffers.scratch, stream, now(), &chores));
        }
        self.tell_watches();
        self.pump.note(Note::StreamEnded(self.key, stream, run));
    }

    /// The process has ended: reads what it left in the pipes, but no more than they can hold, for a grandchild may
    /// be writing on.
    pub(super) fn drain(&mut self) {
        for index in 0..2 {
            for _ in 0..2 * TURN {
                if !self.read(index, 1) {
                    break;
                }
            }
        }
        self.pump.note(Note::Drained(self.key));
    }

    /// Asks to be called when a session's socket has room.
    fn await_room(&mut self, at: usize) {
        let session = &self.state.sessions[at];
        let flags = epoll::EventFlags::OUT | epoll::EventFlags::ONESHOT;
        let data = join(self.key, FLUSH);
        let added = match epoll::add(&self.pump.epoll, &*session.socket, data, flags) {
            Err(Errno::EXIST) => epoll::modify(&self.pump.epoll, &*session.socket, data, flags),
            result => result,
        };
        self.pump
            .note(Note::Backlog(session.link, session.backlog_file()));
        if added.is_err() {
            self.drop_session(at);
        }
    }

    pub(super) fn flush(&mut self) {
        let mut at = 0;
        while at < self.state.sessions.len() {
            let session = &mut self.state.sessions[at];
            if session.is_waiting() {
                match session.flush() {
                    Delivery::Gone => {
                        self.drop_session(at);
                        continue;
                    }
                    Delivery::Waiting => {
                        let flags = epoll::EventFlags::OUT | epoll::EventFlags::ONESHOT;
                        let _ = epoll::modify(
                            &self.pump.epoll,
                            &*session.socket,
                            join(self.key, FLUSH),
                            flags,
                        );
                    }
                    Delivery::Sent => {
                        let _ = epoll::delete(&self.pump.epoll, &*session.socket);
                        self.pump.note(Note::Backlog(session.link, None));
                    }
                }
            }
            at += 1;
        }
    }

    fn drop_session(&mut self, at: usize) {
        let session = self.state.sessions.remove(at);
        let _ = epoll::delete(&self.pump.epoll, &*session.socket);
        let link = session.link;
        hang_up(&session.socket);
        drop(session);
        self.pump.note(Note::SessionOver(link));
    }

    /// Ends the sessions that are to end and have everything.
    pub(super) fn settle(&mut self) {
        let done = |session: &Session| session.ending && !session.is_waiting();
        while let Some(at) = self.state.sessions.iter().position(done) {
            self.drop_session(at);
        }
    }
}
