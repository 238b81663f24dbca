//! The daemon's side of the connection to the keeper. No tokio: requests are sent by whoever calls, answers and events
//! arrive on one reader thread.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::KeeperError;
use crate::protocol::{Event, Request, Response, Task};

/// Where the keeper is and how it is started.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// The exec root: holds `keeper.sock`, `keeper.state` and `containers/<id>/exit`.
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

/// What is called with the answer, on the client's reader thread: it must not block.
pub type Reply = Box<dyn FnOnce(Result<Answer, KeeperError>) + Send>;
/// What is called with each event, on the client's reader thread: it must not block.
pub type EventHandler = Arc<dyn Fn(Event) + Send + Sync>;

/// A connection to the keeper; clones share it. It is renewed by itself (starting a new keeper if need be) until the
/// last clone is dropped.
#[derive(Clone)]
pub struct KeeperClient {
    inner: Arc<Inner>,
}

struct Inner {
    config: KeeperConfig,
}

impl std::fmt::Debug for KeeperClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeeperClient")
            .field("exec_root", &self.inner.config.exec_root)
            .finish_non_exhaustive()
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
        let _ = (&config, events);
        Err(KeeperError::Connect {
            path: config.exec_root.join("keeper.sock"),
            source: io::ErrorKind::Unsupported.into(),
        })
    }

    /// Sends a request with its descriptors; `reply` is called exactly once.
    pub fn submit(&self, request: Request, fds: Vec<OwnedFd>, reply: Reply) {
        let _ = (request, fds);
        reply(Err(KeeperError::Disconnected));
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
            _ => Err(KeeperError::Decode(crate::protocol::DecodeError::Body)),
        }
    }
}
