//! The daemon's side of the connection to the keeper. No tokio: requests are sent by whoever calls, answers and events
//! arrive on one reader thread.
//!
//! What must stay true: every request is answered exactly once, by the keeper or by an error; a request that a restart
//! of the keeper swallowed is sent again, with the same sequence number and descriptors, so that nothing is started
//! twice; the connection renews itself until the last handle is dropped.

mod connect;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use kekkai_sys::Errno;
use rustix::event::{PollFd, PollFlags, poll};

use crate::KeeperError;
use crate::protocol::{
    DecodeError, Event, Kind, Request, Response, Task, decode_body, encode_body,
};
use crate::transport::{self, ReceiveError};

/// Where the keeper is and how it is started.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// The exec root: holds `keeper.sock`, `keeper.state` and `containers/<id>/exit`. Must exist.
    pub exec_root: PathBuf,
    /// The program `kekkai-keeper`.
    pub keeper_exe: PathBuf,
    /// Build id, shown in `Hello`.
    pub build: String,
    /// Where attach sessions whose client is slow spill to (unlinked files); a directory of the data root.
    pub spill_dir: PathBuf,
    /// Fail points for crash tests (`name=action,…`), handed to a keeper that is started; empty otherwise.
    pub failpoints: String,
}

/// A response and the descriptors that came with it.
#[derive(Debug)]
pub struct Answer {
    /// The response; never [`Response::Failed`], which is [`KeeperError::Refused`].
    pub response: Response,
    /// The attach session's or watch's socket.
    pub fds: Vec<OwnedFd>,
}

impl Answer {
    /// The one descriptor of an attach session or a watch.
    ///
    /// # Errors
    /// [`KeeperError::Decode`] if there is none.
    pub fn into_fd(self) -> Result<OwnedFd, KeeperError> {
        self.fds
            .into_iter()
            .next()
            .ok_or(KeeperError::Decode(DecodeError::Body))
    }
}

/// What the keeper says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeeperInfo {
    /// The protocol version of the connection.
    pub version: u16,
    /// The keeper's build id: that of the engine which started it.
    pub build: String,
    /// The keeper's process id.
    pub keeper: u32,
    /// The guardian's process id.
    pub guardian: u32,
    /// How often the keeper was restarted.
    pub generation: u32,
}

/// What is called with the answer: on the client's reader thread (it must not block), or on the caller's if the request
/// cannot be sent at all.
pub type Reply = Box<dyn FnOnce(Result<Answer, KeeperError>) + Send>;
/// What is called with each event, on the client's reader thread: it must not block.
pub type EventHandler = Arc<dyn Fn(Event) + Send + Sync>;

/// A connection to the keeper; clones share it. It is renewed by itself (starting a new keeper if need be) until the
/// last clone is dropped, or until the keeper has agreed to a [`Request::Shutdown`].
#[derive(Clone)]
pub struct KeeperClient {
    inner: Arc<Inner>,
}

struct Inner {
    config: KeeperConfig,
    state: Mutex<State>,
    /// Signalled when the reader has connected again.
    renewed: Condvar,
}

struct State {
    /// `None` while the connection is being renewed.
    socket: Option<Arc<OwnedFd>>,
    info: KeeperInfo,
    sequence: u64,
    /// What is not answered, oldest first.
    waiting: BTreeMap<u64, Pending>,
    /// The keeper was asked to end, and agreed: no other is started.
    ended: bool,
}

struct Pending {
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
    shutdown: bool,
    reply: Reply,
}

impl std::fmt::Debug for KeeperClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeeperClient")
            .field("exec_root", &self.inner.config.exec_root)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = state.socket.take() {
            // Wakes the reader, which finds nobody to read for.
            let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
        }
        for (_, pending) in std::mem::take(&mut state.waiting) {
            (pending.reply)(Err(KeeperError::Disconnected));
        }
    }
}

impl KeeperClient {
    /// Connects to the exec root's keeper, starting one (under a lock) when none listens. Blocks for milliseconds.
    ///
    /// # Errors
    /// The program cannot be started, or the running keeper is too old or too new.
    pub fn connect_or_start(
        config: KeeperConfig,
        events: EventHandler,
    ) -> Result<Self, KeeperError> {
        let connected = connect::connect_or_start(&config)?;
        let socket = Arc::new(connected.socket);
        let mut seed = [0; 8];
        // Without random numbers a constant will do: it is to differ between clients that follow one another.
        let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        let state = State {
            socket: Some(Arc::clone(&socket)),
            info: connected.info,
            sequence: u64::from_le_bytes(seed) >> 1 | 1,
            waiting: BTreeMap::new(),
            ended: false,
        };
        let inner = Arc::new(Inner {
            config,
            state: Mutex::new(state),
            renewed: Condvar::new(),
        });
        let weak = Arc::downgrade(&inner);
        std::thread::Builder::new()
            .name("kekkai-keeper".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || read(&weak, socket, &events))
            .map_err(KeeperError::io("cannot start the keeper client's thread"))?;
        Ok(Self { inner })
    }

    /// Sends a request with its descriptors; `reply` is called exactly once.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the caller is through with it, as with the descriptors"
    )]
    pub fn submit(&self, request: Request, fds: Vec<OwnedFd>, reply: Reply) {
        let body = match encode_body(&request) {
            Ok(body) => body,
            Err(error) => return reply(Err(error.into())),
        };
        let mut state = self.inner.lock();
        if state.ended {
            drop(state);
            return reply(Err(KeeperError::Disconnected));
        }
        state.sequence += 1;
        let sequence = state.sequence;
        if let Some(socket) = state.socket.clone() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            // Under the lock, so that the reader cannot see the answer before the request is known. The socket is
            // full for as long as the keeper's loop takes to go round.
            match send(&socket, state.info.version, sequence, &body, &borrowed) {
                // A broken connection is renewed by the reader, which sends it then.
                Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
                Err(error) => {
                    drop(state);
                    return reply(Err(KeeperError::Io {
                        operation: "cannot send to the keeper",
                        source: error.into(),
                    }));
                }
            }
        }
        let shutdown = matches!(request, Request::Shutdown);
        state.waiting.insert(
            sequence,
            Pending {
                body,
                fds,
                shutdown,
                reply,
            },
        );
    }

    /// Sends a request and waits for the answer. Not for the reader thread's callbacks.
    ///
    /// # Errors
    /// Those of the keeper and of the connection.
    pub fn call(&self, request: Request, fds: Vec<OwnedFd>) -> Result<Answer, KeeperError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.submit(
            request,
            fds,
            Box::new(move |answer| drop(sender.send(answer))),
        );
        receiver.recv().map_err(|_| KeeperError::Disconnected)?
    }

    /// Everything that the keeper keeps.
    ///
    /// # Errors
    /// Those of [`KeeperClient::call`].
    pub fn list(&self) -> Result<Vec<Task>, KeeperError> {
        match self.call(Request::List, Vec::new())?.response {
            Response::Tasks(tasks) => Ok(tasks),
            _ => Err(KeeperError::Decode(DecodeError::Body)),
        }
    }

    /// What the keeper said about itself when the connection was made.
    #[must_use]
    pub fn info(&self) -> KeeperInfo {
        self.inner.lock().info.clone()
    }

    /// Waits until the connection stands; `false` if that takes longer than `limit`.
    #[must_use]
    pub fn wait_connected(&self, limit: Duration) -> bool {
        let state = self.inner.lock();
        let waited = self
            .inner
            .renewed
            .wait_timeout_while(state, limit, |state| state.socket.is_none());
        waited
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .socket
            .is_some()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send(
    socket: &OwnedFd,
    version: u16,
    sequence: u64,
    body: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    loop {
        match transport::send(socket, Kind::Request, version, sequence, body, fds) {
            Err(Errno::AGAIN) => {
                let mut wait = [PollFd::new(socket, PollFlags::OUT)];
                let _ = poll(&mut wait, None);
            }
            result => return result,
        }
    }
}

/// The reader thread: answers and events, and new connections when the old one breaks.
fn read(inner: &Weak<Inner>, mut socket: Arc<OwnedFd>, events: &EventHandler) {
    let mut buffer = vec![0; transport::BUFFER];
    loop {
        match transport::receive(&*socket, &mut buffer) {
            Ok(message) if message.header.kind == Kind::Response => {
                let Some(inner) = inner.upgrade() else { return };
                let response = decode_body::<Response>(message.header.version, &message.body);
                let sequence = message.header.sequence;
                if matches!(response, Ok(Response::Again)) {
                    send_again(&inner, Some(sequence));
                    continue;
                }
                let mut state = inner.lock();
                let pending = state.waiting.remove(&sequence);
                let shutdown = pending.as_ref().is_some_and(|pending| pending.shutdown);
                state.ended |= shutdown && matches!(response, Ok(Response::Done));
                drop(state);
                if let Some(pending) = pending {
                    (pending.reply)(match response {
                        Ok(Response::Failed(failure)) => Err(KeeperError::Refused(failure)),
                        Ok(response) => Ok(Answer {
                            response,
                            fds: message.fds,
                        }),
                        Err(error) => Err(error.into()),
                    });
                }
            }
            Ok(message) if message.header.kind == Kind::Event => {
                let Ok(event) = decode_body::<Event>(message.header.version, &message.body) else {
                    continue;
                };
                if let Event::Resumed { generation } = event {
                    let Some(inner) = inner.upgrade() else { return };
                    inner.lock().info.generation = generation;
                    send_again(&inner, None);
                }
                events(event);
            }
            Err(ReceiveError::Empty) => {
                let mut wait = [PollFd::new(&*socket, PollFlags::IN)];
                let _ = poll(&mut wait, None);
            }
            Ok(_) | Err(ReceiveError::Decode(_)) => {}
            Err(ReceiveError::Closed | ReceiveError::Io(_)) => match renew(inner) {
                Some((renewed, fresh)) => {
                    socket = renewed;
                    events(Event::Reconnected { fresh });
                    if let Some(inner) = inner.upgrade() {
                        send_again(&inner, None);
                    }
                }
                None => return,
            },
        }
    }
}

/// Sends what is not answered again: one request, or all in their order.
fn send_again(inner: &Inner, only: Option<u64>) {
    let state = inner.lock();
    let Some(socket) = state.socket.clone() else {
        return;
    };
    let version = state.info.version;
    for (sequence, pending) in state
        .waiting
        .iter()
        .filter(|(sequence, _)| only.is_none_or(|only| only == **sequence))
    {
        let fds: Vec<_> = pending.fds.iter().map(AsFd::as_fd).collect();
        if send(&socket, version, *sequence, &pending.body, &fds).is_err() {
            return;
        }
    }
}

/// Connects again, for as long as anybody holds the client. Answers the socket and whether the keeper is another one.
fn renew(inner: &Weak<Inner>) -> Option<(Arc<OwnedFd>, bool)> {
    let mut pause = Duration::from_millis(5);
    let (config, old) = {
        let inner = inner.upgrade()?;
        let mut state = inner.lock();
        state.socket = None;
        if state.ended {
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting
                .into_values()
                .for_each(|pending| (pending.reply)(Err(KeeperError::Disconnected)));
            return None;
        }
        (inner.config.clone(), state.info.guardian)
    };
    loop {
        if let Ok(connected) = connect::connect_or_start(&config) {
            let inner = inner.upgrade()?;
            let socket = Arc::new(connected.socket);
            let mut state = inner.lock();
            state.socket = Some(Arc::clone(&socket));
            let fresh = connected.info.generation == 0 && connected.info.guardian != old;
            state.info = connected.info;
            drop(state);
            inner.renewed.notify_all();
            return Some((socket, fresh));
        }
        if inner.strong_count() == 0 {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
