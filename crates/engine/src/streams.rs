//! The streams between a client and a process: frames out, bytes in.
//!
//! A session is one `SOCK_SEQPACKET` socket of the keeper, shared by both directions. Whoever is slow only fills its own
//! socket: the keeper keeps what does not fit, the container and its log do not notice.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use kekkai_keeper::protocol::{Frame, Stream, Target};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::EngineError;
use crate::container::Container;
use crate::exec::ExecSession;
use crate::inner::Inner;
use crate::model::StdStream;

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFrame {
    /// Which stream wrote it; with a terminal always stdout.
    pub stream: StdStream,
    /// Its bytes; never empty.
    pub data: Bytes,
}

/// What an attach or an exec start gives: output to read until `None`, and perhaps an input.
#[derive(Debug)]
pub struct AttachStreams {
    /// What the process writes.
    pub output: OutputStream,
    /// Where the client's input goes; absent when it was not asked for or the process has none.
    pub input: Option<InputSink>,
    /// The process has a terminal: the wire is raw, not multiplexed.
    pub tty: bool,
}

/// Output, in order. Dropping it ends the session; the container does not notice.
#[derive(Debug)]
pub struct OutputStream {
    /// Given out before anything else.
    first: VecDeque<OutputFrame>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Nothing (more).
    Ended,
    /// Made by a task of ours (logs), perhaps followed by a session.
    Task {
        receiver: mpsc::Receiver<Result<OutputFrame, EngineError>>,
        then: Option<Arc<Session>>,
    },
    /// A session of the keeper.
    Session(Arc<Session>),
}

impl OutputStream {
    /// What a task makes.
    pub(crate) fn of_task(receiver: mpsc::Receiver<Result<OutputFrame, EngineError>>) -> Self {
        Self {
            first: VecDeque::new(),
            source: Source::Task {
                receiver,
                then: None,
            },
        }
    }

    /// What a task makes, then what a session gives.
    pub(crate) fn of_task_then(
        receiver: mpsc::Receiver<Result<OutputFrame, EngineError>>,
        then: Option<Arc<Session>>,
    ) -> Self {
        Self {
            first: VecDeque::new(),
            source: Source::Task { receiver, then },
        }
    }

    /// What a session gives.
    pub(crate) fn of_session(session: Arc<Session>) -> Self {
        Self {
            first: VecDeque::new(),
            source: Source::Session(session),
        }
    }

    /// One frame only.
    pub(crate) fn of_frame(frame: OutputFrame) -> Self {
        Self {
            first: VecDeque::from([frame]),
            source: Source::Ended,
        }
    }

    /// The next piece; `None` at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<OutputFrame, EngineError>> {
        if let Some(frame) = self.first.pop_front() {
            return Some(Ok(frame));
        }
        loop {
            match &mut self.source {
                Source::Ended => return None,
                Source::Task { receiver, then } => match receiver.recv().await {
                    Some(item) => return Some(item),
                    None => {
                        self.source = match then.take() {
                            Some(session) => Source::Session(session),
                            None => Source::Ended,
                        };
                    }
                },
                Source::Session(session) => match session.receive().await {
                    Ok(Some(frame)) => return Some(Ok(frame)),
                    Ok(None) => {
                        // Clients ask for the exit code as soon as the stream has ended.
                        if let Attached::Exec(exec) = &session.of {
                            exec.recorded().await;
                        }
                        self.source = Source::Ended;
                    }
                    Err(error) => {
                        self.source = Source::Ended;
                        return Some(Err(error));
                    }
                },
            }
        }
    }
}

/// Watches a socket on the runtime.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types that may change their descriptor; OwnedFd cannot"
)]
pub(crate) fn async_fd(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, Interest::READABLE | Interest::WRITABLE)
}

/// One attach session with the keeper.
#[derive(Debug)]
pub(crate) struct Session {
    socket: AsyncFd<OwnedFd>,
    inner: Arc<Inner>,
    of: Attached,
}

/// Whose session it is. Sessions are counted there, so that the keeper is not told to forget what it still sends.
#[derive(Debug, Clone)]
pub(crate) enum Attached {
    Container(Arc<Container>),
    Exec(Arc<ExecSession>),
}

impl Attached {
    fn count(&self) -> &AtomicUsize {
        match self {
            Self::Container(container) => &container.sessions,
            Self::Exec(session) => &session.sessions,
        }
    }

    /// What the keeper may forget once nobody listens.
    fn ended(&self) -> Option<Target> {
        match self {
            Self::Container(container) => {
                let shared = container.lock();
                let ended =
                    shared.gone || matches!(shared.lifecycle(), crate::model::Lifecycle::Exited(_));
                ended.then_some(Target::Container(container.id))
            }
            Self::Exec(session) => (!session.is_alive()).then_some(Target::Exec(session.id)),
        }
    }
}

impl Session {
    /// Takes over a session's socket.
    pub(crate) fn new(
        socket: OwnedFd,
        inner: Arc<Inner>,
        of: Attached,
    ) -> Result<Arc<Self>, EngineError> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| EngineError::Io {
            action: "preparing a session".to_owned(),
            source: error.into(),
        })?;
        let socket = async_fd(socket).map_err(EngineError::io("watching a session"))?;
        of.count().fetch_add(1, Ordering::AcqRel);
        Ok(Arc::new(Self { socket, inner, of }))
    }

    async fn receive(&self) -> Result<Option<OutputFrame>, EngineError> {
        loop {
            let mut guard = self
                .socket
                .readable()
                .await
                .map_err(EngineError::io("waiting for output"))?;
            // The buffer is only made once there is something to read: many sessions idle.
            let outcome = guard.try_io(|socket| {
                let mut buffer = Vec::with_capacity(Frame::MAX_PACKET);
                let (_, received) = rustix::net::recv(
                    socket.as_fd(),
                    rustix::buffer::spare_capacity(&mut buffer),
                    RecvFlags::DONTWAIT,
                )?;
                buffer.truncate(received);
                Ok(buffer)
            });
            let mut packet = match outcome {
                Err(_would_block) => continue,
                // The keeper closed its end with input of ours unread. The error is told once; the output that was
                // sent before is still to be read.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                Ok(Err(error)) => {
                    return Err(EngineError::Io {
                        action: "reading output".to_owned(),
                        source: error,
                    });
                }
                Ok(Ok(packet)) => packet,
            };
            if packet.is_empty() {
                return Ok(None);
            }
            let Some(frame) = Frame::parse(&packet) else {
                return Err(EngineError::Internal(
                    "the keeper's frame makes no sense".to_owned(),
                ));
            };
            let stream = match frame.stream {
                Stream::Stdout => StdStream::Stdout,
                Stream::Stderr => StdStream::Stderr,
                Stream::Error => {
                    let text = String::from_utf8_lossy(frame.payload).into_owned();
                    return Err(EngineError::System(text));
                }
            };
            packet.shrink_to_fit();
            return Ok(Some(OutputFrame {
                stream,
                data: Bytes::from(packet).slice(1..),
            }));
        }
    }

    async fn send(&self, mut bytes: &[u8]) -> Result<bool, EngineError> {
        while !bytes.is_empty() {
            let piece = &bytes[..bytes.len().min(Frame::MAX_PAYLOAD)];
            let mut guard = self
                .socket
                .writable()
                .await
                .map_err(EngineError::io("waiting to send input"))?;
            let outcome = guard.try_io(|socket| {
                Ok(rustix::net::send(
                    socket.as_fd(),
                    piece,
                    SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                )?)
            });
            match outcome {
                Err(_would_block) => {}
                Ok(Ok(_)) => bytes = &bytes[piece.len()..],
                Ok(Err(error))
                    if matches!(
                        error.kind(),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    return Ok(false);
                }
                Ok(Err(source)) => {
                    return Err(EngineError::Io {
                        action: "sending input".to_owned(),
                        source,
                    });
                }
            }
        }
        Ok(true)
    }

    fn shut_input(&self) {
        if let Err(error) = rustix::net::shutdown(self.socket.as_fd(), Shutdown::Write) {
            tracing::debug!(%error, "ending a session's input");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let was_last = self.of.count().fetch_sub(1, Ordering::AcqRel) == 1;
        if was_last && let Some(target) = self.of.ended() {
            self.inner.forget(target);
        }
    }
}

/// The way to a process's stdin.
#[derive(Debug)]
pub struct InputSink {
    session: Arc<Session>,
    detach: DetachKeys,
}

/// What became of some input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputState {
    /// It was passed on.
    Open,
    /// The detach keys were typed: end the session, leave the process.
    Detached,
    /// The process does not read any more.
    Closed,
}

impl InputSink {
    pub(crate) fn new(session: Arc<Session>, detach: DetachKeys) -> Self {
        Self { session, detach }
    }

    /// Passes bytes on. Waits while the process is slow to read; never blocks anyone else.
    ///
    /// # Errors
    /// When the session is broken.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<InputState, EngineError> {
        let (passed, detached) = self.detach.scan(bytes);
        if !self.session.send(&passed).await? {
            return Ok(InputState::Closed);
        }
        Ok(if detached {
            InputState::Detached
        } else {
            InputState::Open
        })
    }

    /// The client sends no more (end of file).
    pub async fn close(self) {
        self.session.shut_input();
    }
}

/// Recognises the detach keys in a stream of bytes; what turns out not to be them is passed on.
#[derive(Debug, Clone, Default)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// `ctrl-p,ctrl-q`, `a,b` …; empty recognises nothing.
    ///
    /// # Errors
    /// A word that is no key, in dockerd's words.
    pub(crate) fn parse(text: &str) -> Result<Self, EngineError> {
        let mut keys = Vec::new();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let bytes = word.as_bytes();
            let key = match (bytes, word.strip_prefix("ctrl-").map(str::as_bytes)) {
                ([single], _) => *single,
                (_, Some([letter @ b'a'..=b'z'])) => letter - b'a' + 1,
                (_, Some([b'@'])) => 0,
                (_, Some([b'['])) => 27,
                (_, Some([b'\\'])) => 28,
                (_, Some([b']'])) => 29,
                (_, Some([b'^'])) => 30,
                (_, Some([b'_'])) => 31,
                (b"DEL", _) => 127,
                _ => {
                    return Err(EngineError::Invalid(format!(
                        "Invalid detach keys ({text}) provided"
                    )));
                }
            };
            keys.push(key);
        }
        Ok(Self { keys, matched: 0 })
    }

    /// What to pass on of `bytes`, and whether the keys are complete.
    fn scan(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (bytes.to_vec(), false);
        }
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.keys[self.matched] == *byte {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(self.keys[0] == *byte);
            if self.matched == 0 {
                passed.push(*byte);
            } else if self.keys.len() == 1 {
                self.matched = 0;
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys() {
        let mut keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys.scan(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.scan(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.scan(b"\x10b"), (b"\x10\x10b".to_vec(), false));
        assert_eq!(keys.scan(b"x\x10\x11y"), (b"x".to_vec(), true));
        let mut one = DetachKeys::parse("a").unwrap();
        assert_eq!(one.scan(b"xa"), (b"x".to_vec(), true));
        assert!(DetachKeys::parse("ctrl-1").is_err());
        assert_eq!(
            DetachKeys::parse("").unwrap().scan(b"abc"),
            (b"abc".to_vec(), false)
        );
    }
}
