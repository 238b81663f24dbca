//! Sockets of others: daemons, attach sessions, log watches.
//!
//! What must stay true: writing to them never waits; a daemon that does not read its events is cut off (it connects
//! again and asks); only the user that the keeper runs as may connect.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use kekkai_sys::Errno;
use rustix::event::epoll;
use rustix::net::{SocketFlags, accept_with};

use crate::log::rotate::Chore;
use crate::protocol::{Event, Kind, Response, VERSION, encode_body};
use crate::server::keeper::{Keeper, Token};
use crate::server::pump::Command;
use crate::server::session::LinkKey;
use crate::server::state::LinkRecord;
use crate::transport::{self, ReceiveError};

/// The most messages that wait for a daemon.
const MAX_WAITING: usize = 4096;
/// Messages that are taken from one daemon before the others have their turn.
const TURN: usize = 16;

/// Where an answer goes.
#[derive(Debug, Clone)]
pub(crate) struct ReplyTo {
    pub(crate) link: usize,
    pub(crate) serial: u16,
    pub(crate) sequence: u64,
}

/// Somebody's socket.
#[derive(Debug)]
pub(crate) struct Link {
    /// Tells links apart that had the same place one after the other.
    pub(crate) serial: u16,
    pub(crate) kind: LinkKind,
}

/// What it is for.
#[derive(Debug)]
pub(crate) enum LinkKind {
    Connection(Connection),
    Session(SessionLink),
    Watch {
        socket: Arc<OwnedFd>,
        task: Option<usize>,
    },
}

/// A daemon.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    pub(crate) version: u16,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    kind: Kind,
    sequence: u64,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// An attach session's control side.
#[derive(Debug)]
pub(crate) struct SessionLink {
    pub(crate) socket: Arc<OwnedFd>,
    /// `None`: the task is forgotten, the client has not read everything yet.
    pub(crate) task: Option<usize>,
    /// The task's run that it belongs to.
    pub(crate) run: u32,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// Whether the client has ended its input.
    pub(crate) ended: bool,
    /// Input that the process has not taken yet.
    pub(crate) pending: Vec<u8>,
    pub(crate) backlog: Option<Arc<File>>,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, version: u16) -> Self {
        Self {
            socket,
            version,
            waiting: VecDeque::new(),
        }
    }
}

impl Link {
    fn record(&self) -> LinkRecord {
        let place = |task: &Option<usize>| {
            task.and_then(|task| u32::try_from(task).ok())
                .unwrap_or(u32::MAX)
        };
        match &self.kind {
            LinkKind::Connection(connection) => LinkRecord::Connection {
                socket: connection.socket.as_raw_fd(),
                version: connection.version,
            },
            LinkKind::Session(session) => LinkRecord::Session {
                socket: session.socket.as_raw_fd(),
                task: place(&session.task),
                run: session.run,
                stdin: session.stdin,
                stdout: session.stdout,
                stderr: session.stderr,
                ended: session.ended,
                spill: session.backlog.as_ref().map_or(-1, |file| file.as_raw_fd()),
            },
            LinkKind::Watch { socket, task } => LinkRecord::Watch {
                socket: socket.as_raw_fd(),
                task: place(task),
            },
        }
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        match &self.kind {
            LinkKind::Connection(connection) => connection.socket.as_fd(),
            LinkKind::Session(session) => session.socket.as_fd(),
            LinkKind::Watch { socket, .. } => socket.as_fd(),
        }
    }

    /// The task that it belongs to.
    pub(crate) fn task(&self) -> Option<usize> {
        match &self.kind {
            LinkKind::Connection(_) => None,
            LinkKind::Session(session) => session.task,
            LinkKind::Watch { task, .. } => *task,
        }
    }
}

impl Keeper {
    /// Takes in whoever waits at the listening socket.
    pub(crate) fn accept(&mut self) {
        while let Ok(socket) =
            accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            let ours = rustix::process::geteuid().as_raw();
            let allowed =
                kekkai_sys::socket::peer(&socket).is_ok_and(|(_, uid, _)| uid == ours || uid == 0);
            if allowed {
                // Without a free place the socket is closed, and the other side sees it.
                let _ = self.add_link(LinkKind::Connection(Connection::new(socket, VERSION)));
            }
        }
    }

    /// Takes a socket in: recorded, then watched.
    pub(crate) fn add_link(&mut self, kind: LinkKind) -> Option<usize> {
        self.serial = self.serial.wrapping_add(1);
        let slot = self
            .links
            .insert(Link {
                serial: self.serial,
                kind,
            })
            .ok()?;
        self.record_link(slot);
        if self.watch_link(slot).is_err() {
            self.close_link(slot);
            return None;
        }
        Some(slot)
    }

    /// Watches a link's socket.
    pub(crate) fn watch_link(&self, slot: usize) -> Result<(), Errno> {
        let Some(link) = self.links.get(slot) else {
            return Err(Errno::NOENT);
        };
        let flags = match &link.kind {
            LinkKind::Connection(_) | LinkKind::Watch { .. } => epoll::EventFlags::IN,
            // Input is read once the process runs; hanging up is told in any case.
            LinkKind::Session(_) => epoll::EventFlags::empty(),
        };
        self.watch(link.socket(), self.link_token(slot, link), flags)
    }

    fn link_token(&self, slot: usize, link: &Link) -> Token {
        Token::Link(u32::try_from(slot).unwrap_or(u32::MAX), link.serial)
    }

    /// Changes what a link is watched for.
    pub(crate) fn rewatch_link(&self, slot: usize, flags: epoll::EventFlags) {
        if let Some(link) = self.links.get(slot) {
            let _ = epoll::modify(
                &self.epoll,
                link.socket(),
                self.link_token(slot, link).data(),
                flags,
            );
        }
    }

    /// Writes a link into the state table.
    pub(crate) fn record_link(&self, slot: usize) {
        drop(
            self.state
                .write_link(slot, self.links.get(slot).map(Link::record).as_ref()),
        );
    }

    /// A session's waiting bytes are in this file now.
    pub(crate) fn record_backlog(&mut self, (slot, wanted): LinkKey, file: Option<Arc<File>>) {
        let Some(Link {
            kind: LinkKind::Session(session),
            serial,
        }) = self.links.get_mut(slot)
        else {
            return;
        };
        if *serial != wanted {
            return;
        }
        let old = std::mem::replace(&mut session.backlog, file);
        self.record_link(slot);
        if let Some(file) = old.and_then(Arc::into_inner) {
            self.chores.push(Chore::Close(file.into()));
        }
    }

    /// Closes a link, if it still has its place.
    pub(crate) fn close_link_of(&mut self, (slot, serial): LinkKey) {
        if self
            .links
            .get(slot)
            .is_some_and(|link| link.serial == serial)
        {
            self.close_link(slot);
        }
    }

    /// Strikes a link out and closes it.
    pub(crate) fn close_link(&mut self, slot: usize) {
        let Some(link) = self.links.remove(slot) else {
            return;
        };
        drop(self.state.write_link(slot, None));
        let _ = epoll::delete(&self.epoll, link.socket());
        if let LinkKind::Session(SessionLink {
            backlog: Some(file),
            ..
        }) = link.kind
            && let Some(file) = Arc::into_inner(file)
        {
            self.chores.push(Chore::Close(file.into()));
        }
    }

    /// Something happened at a link.
    pub(crate) fn link_ready(
        &mut self,
        slot: usize,
        serial: u16,
        flags: epoll::EventFlags,
        buffer: &mut [u8],
    ) {
        let Some(link) = self.links.get(slot).filter(|link| link.serial == serial) else {
            return;
        };
        match &link.kind {
            LinkKind::Connection(_) => self.connection_ready(slot, flags, buffer),
            LinkKind::Session(_) => self.session_ready(slot, flags, buffer),
            LinkKind::Watch { task, .. } => {
                // Nothing is ever sent to us here: the reader is gone.
                if let Some(task) = task.and_then(|task| self.tasks.get(task)) {
                    self.pump
                        .command(&task.io, Command::Unwatch((slot, serial)));
                }
                self.close_link(slot);
            }
        }
    }

    fn connection_ready(&mut self, slot: usize, flags: epoll::EventFlags, buffer: &mut [u8]) {
        if flags.contains(epoll::EventFlags::OUT) {
            self.send_waiting(slot);
        }
        for _ in 0..TURN {
            let Some(Link {
                serial,
                kind: LinkKind::Connection(connection),
            }) = self.links.get(slot)
            else {
                return;
            };
            let serial = *serial;
            match transport::receive(&connection.socket, buffer) {
                Ok(message) if message.header.kind == Kind::Request => {
                    let reply = ReplyTo {
                        link: slot,
                        serial,
                        sequence: message.header.sequence,
                    };
                    self.request(&reply, message.header.version, &message.body, message.fds);
                }
                Err(ReceiveError::Empty) => return,
                Ok(_) | Err(_) => return self.close_link(slot),
            }
        }
    }

    /// Answers a request, if its sender is still there.
    pub(crate) fn reply(&mut self, to: &ReplyTo, response: &Response, fds: &[BorrowedFd<'_>]) {
        if self
            .links
            .get(to.link)
            .is_some_and(|link| link.serial == to.serial)
            && let Ok(body) = encode_body(response)
        {
            self.send(to.link, Kind::Response, to.sequence, &body, fds);
        }
    }

    /// Tells every daemon.
    pub(crate) fn broadcast(&mut self, event: &Event) {
        let Ok(body) = encode_body(event) else { return };
        let connections: Vec<usize> = self
            .links
            .iter()
            .filter(|(_, link)| matches!(link.kind, LinkKind::Connection(_)))
            .map(|(slot, _)| slot)
            .collect();
        connections
            .into_iter()
            .for_each(|slot| self.send(slot, Kind::Event, 0, &body, &[]));
    }

    fn send(
        &mut self,
        slot: usize,
        kind: Kind,
        sequence: u64,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) {
        let Some(Link {
            kind: LinkKind::Connection(connection),
            ..
        }) = self.links.get_mut(slot)
        else {
            return;
        };
        if connection.waiting.is_empty() {
            match transport::send(
                &connection.socket,
                kind,
                connection.version,
                sequence,
                body,
                fds,
            ) {
                Ok(()) => return,
                Err(Errno::AGAIN) => {}
                Err(_) => return self.close_link(slot),
            }
        }
        let copies: Result<Vec<_>, _> = fds.iter().map(BorrowedFd::try_clone_to_owned).collect();
        let Ok(fds) = copies else {
            return self.close_link(slot);
        };
        if connection.waiting.len() >= MAX_WAITING {
            return self.close_link(slot);
        }
        connection.waiting.push_back(Waiting {
            kind,
            sequence,
            body: body.to_vec(),
            fds,
        });
        self.rewatch_link(slot, epoll::EventFlags::IN | epoll::EventFlags::OUT);
    }

    fn send_waiting(&mut self, slot: usize) {
        loop {
            let Some(Link {
                kind: LinkKind::Connection(connection),
                ..
            }) = self.links.get_mut(slot)
            else {
                return;
            };
            let Some(Waiting {
                kind,
                sequence,
                body,
                fds,
            }) = connection.waiting.front()
            else {
                break;
            };
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match transport::send(
                &connection.socket,
                *kind,
                connection.version,
                *sequence,
                body,
                &fds,
            ) {
                Ok(()) => drop(connection.waiting.pop_front()),
                Err(Errno::AGAIN) => return,
                Err(_) => return self.close_link(slot),
            }
        }
        self.rewatch_link(slot, epoll::EventFlags::IN);
    }
}
