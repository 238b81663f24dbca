//! What the daemon and the keeper say to each other.
//!
//! One `SOCK_SEQPACKET` connection at `<exec-root>/keeper.sock` (mode 0600). A message is a header and a
//! postcard-encoded body; descriptors travel beside it (`SCM_RIGHTS`).
//!
//! ```text
//!   0        2         4      5       6          8            16
//!   | "KK"   | version | kind | flags | reserved | sequence   | body … (at most 64 KiB)
//! ```
//!
//! With [`FLAG_MEMFD`] the body is the content of a sealed memfd, the first descriptor of the message.
//!
//! Versions: both sides speak [`VERSION`] and the one before it. The client opens with [`Request::Hello`] in its own
//! version; the keeper answers in the lower one of the two and both go on in that. postcard is not self-describing, so
//! a variant or field is never changed or reordered: a new version appends variants at the end, and a changed body is
//! a new variant. A keeper that is more than one version away keeps its containers and is told apart by
//! [`crate::KeeperError::Version`].

use std::fmt;

use kekkai_types::{ContainerId, ErrorClass, ExecId, ExitStatus, Signal};
use serde::{Deserialize, Serialize};

use crate::log::LogConfig;

/// The version of the protocol that this code speaks.
pub const VERSION: u16 = 1;
/// The oldest version it still understands.
pub const OLDEST_VERSION: u16 = 1;
/// The longest message that is sent inline; a longer body travels as a sealed memfd.
pub const MAX_INLINE: usize = 64 * 1024;
/// The longest body that is accepted, inline or not.
pub const MAX_BODY: usize = 16 * 1024 * 1024;
/// The most descriptors that one message carries.
pub const MAX_FDS: usize = 8;
/// The header's length in bytes.
pub const HEADER: usize = 16;
/// Header flag: the body is in a memfd.
pub const FLAG_MEMFD: u8 = 1;

/// Nanoseconds since 1970 UTC (`CLOCK_REALTIME`).
pub type UnixNanos = i64;

/// A process that the keeper keeps: a container's first process, or an exec session's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Target {
    /// The container's first process.
    Container(ContainerId),
    /// The process of an exec session.
    Exec(ExecId),
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// What becomes of the process's standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdinMode {
    /// `/dev/null`.
    Closed,
    /// A pipe that stays open whoever comes and goes (`OpenStdin`).
    Open,
    /// A pipe that closes when the first attached client has closed its side (`StdinOnce`).
    Once,
}

/// Whether the process has a terminal, and of what size at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Terminal {
    /// Three pipes.
    None,
    /// A pseudo-terminal; `None` leaves the kernel's 0 × 0.
    Size(Option<TerminalSize>),
}

/// Namespaces that a new container joins, each with a descriptor of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Join {
    /// The network namespace, from the pool or another container's.
    Network,
    /// Another container's pid namespace.
    Pid,
    /// Another container's ipc namespace.
    Ipc,
    /// Another container's uts namespace.
    Uts,
    /// Another container's cgroup namespace.
    Cgroup,
    /// Another container's user namespace.
    User,
}

/// Start a container. Descriptors: those of `joins`, in that order (namespace files or pidfds).
///
/// Legal when the container is unknown, forgotten or exited; a running one is a `Conflict`. Sent again with the same
/// sequence number it answers for the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The container.
    pub container: ContainerId,
    /// `runtime::ContainerPlan::to_bytes`.
    #[serde(with = "crate::bytes")]
    pub plan: Vec<u8>,
    /// What the message's descriptors are.
    pub joins: Vec<Join>,
    /// Where its output is logged.
    pub log: LogConfig,
    /// Its standard input. With a terminal, `Closed` means that attached clients cannot type.
    pub stdin: StdinMode,
    /// Its terminal.
    pub terminal: Terminal,
    /// Its cgroup, relative to the mount of each hierarchy (`kekkai/<id>`): where out-of-memory kills are counted, and
    /// what is killed should its launcher die half-way. At most 512 bytes.
    pub cgroup: String,
}

/// Start a process in a running container. No descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The running container.
    pub container: ContainerId,
    /// The new session.
    pub exec: ExecId,
    /// `runtime::ExecPlan::to_bytes`.
    #[serde(with = "crate::bytes")]
    pub plan: Vec<u8>,
    /// Its standard input.
    pub stdin: StdinMode,
    /// Its terminal.
    pub terminal: Terminal,
}

/// Join the streams of a process; legal before it is started, then no byte is lost.
///
/// The answer's descriptor is one end of a `SOCK_SEQPACKET` pair, see [`Frame`]. At most 256 sessions per target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The process.
    pub target: Target,
    /// Whether the client's packets go to standard input.
    pub stdin: bool,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted.
    pub stderr: bool,
}

/// What the daemon asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Opens every connection. The client library sends it by itself.
    Hello {
        /// The highest protocol version of the sender.
        version: u16,
        /// The sender's build id.
        build: String,
    },
    /// → [`Response::Started`].
    Start(Box<StartRequest>),
    /// → [`Response::Started`].
    Exec(Box<ExecRequest>),
    /// → [`Response::Attached`] and one descriptor.
    Attach(AttachRequest),
    /// Set the size of the target's terminal → [`Response::Done`].
    Resize {
        /// The process.
        target: Target,
        /// Its new size.
        size: TerminalSize,
    },
    /// Send a signal through the target's pidfd → [`Response::Done`]; an exited target is a `Conflict`.
    Signal {
        /// The process.
        target: Target,
        /// The signal.
        signal: Signal,
    },
    /// Everything that is kept → [`Response::Tasks`].
    List,
    /// Forget an exited (or never started) target, its sessions, and (for a container) its execs → [`Response::Done`].
    /// Idempotent: an unknown target is `Done` too; a running one is a `Conflict`.
    Forget {
        /// The process.
        target: Target,
    },
    /// → [`Response::Watching`] and one socket that turns readable (one packet) when the log has grown, and reads as
    /// ended when nothing more will come: at once, if the container does not run.
    WatchLog {
        /// The container.
        container: ContainerId,
    },
    /// The process ids in the container's cgroup, as the host sees them → [`Response::Pids`].
    Pids {
        /// The container.
        container: ContainerId,
    },
    /// End keeper and guardian if nothing runs → [`Response::Done`], or `Conflict`.
    Shutdown,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its status.
    pub status: ExitStatus,
    /// Whether the kernel killed a process of the container for lack of memory.
    pub oom: bool,
    /// When the keeper saw it.
    pub at: UnixNanos,
}

/// A process that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Which.
    pub target: Target,
    /// The container it belongs to: the target itself, or the exec session's.
    pub container: ContainerId,
    /// Its process id in the keeper's pid namespace; 0 while it is being started.
    pub pid: u32,
    /// When it was started; 0 while it is being started.
    pub started_at: UnixNanos,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub class: ErrorClass,
    /// The exit code that `docker run` would give: 125, 126, 127.
    pub exit_code: u8,
    /// Docker's (runc's) words.
    pub message: String,
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To `Hello`.
    Hello {
        /// The version in which the connection goes on.
        version: u16,
        /// The keeper's build id.
        build: String,
        /// The keeper's process id.
        keeper: u32,
        /// The guardian's process id.
        guardian: u32,
        /// How often the guardian has restarted the keeper.
        generation: u32,
    },
    /// It is done.
    Done,
    /// The process runs (its program has been executed).
    Started {
        /// Its process id in the keeper's pid namespace.
        pid: u32,
        /// When.
        at: UnixNanos,
    },
    /// The session's socket is the message's descriptor.
    Attached,
    /// The watch's socket is the message's descriptor.
    Watching,
    /// Everything that is kept.
    Tasks(Vec<Task>),
    /// Process ids.
    Pids(Vec<u32>),
    /// It failed.
    Failed(Failure),
    /// A restart of the keeper has swallowed the request: the client library sends it again by itself.
    Again,
}

/// What the keeper tells unasked, to every connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A process has ended. Its status has been stored and its output handed to its sessions before.
    Exited {
        /// Which.
        target: Target,
        /// The container it belongs to.
        container: ContainerId,
        /// How.
        exit: Exit,
    },
    /// The keeper was restarted by its guardian and has taken over everything. The client library sends the unanswered
    /// requests again by itself (`Start` and `Exec` are recognised by their sequence number).
    Resumed {
        /// How often the guardian has restarted the keeper.
        generation: u32,
    },
    /// Made by the client library: the connection was lost and renewed; events may have been missed, so ask `List`.
    Reconnected {
        /// Whether this is a new keeper (the former one and its guardian are gone). It has adopted those containers
        /// of the former one that still live: they have lost their streams, but exits are told.
        fresh: bool,
    },
}

/// Streams of [`Frame`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Stream {
    /// Standard output, or the terminal's output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// A text of the keeper itself: why the session ends early (its backlog passed the bound).
    Error = 3,
}

/// One packet of an attach session, keeper to client: the stream's number, then at most [`Frame::MAX_PAYLOAD`] bytes.
///
/// The session ends (end of file) when the process has ended and all its output is through, after the exit was told as
/// an event; for a process that closes its output and goes on, a tenth of a second after that. Packets from the client to the keeper
/// are plain bytes for standard input, at most [`Frame::MAX_PAYLOAD`] each; `shutdown(SHUT_WR)` ends the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Whose bytes.
    pub stream: Stream,
    /// The bytes; never empty.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The longest payload in bytes. Room for `MAX_PACKET` bytes receives any packet.
    pub const MAX_PAYLOAD: usize = 32 * 1024;
    /// The longest packet.
    pub const MAX_PACKET: usize = Self::MAX_PAYLOAD + 1;

    /// Reads a received packet; `None` for one that makes no sense.
    #[must_use]
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let (number, payload) = packet.split_first()?;
        let stream = match number {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            3 => Stream::Error,
            _ => return None,
        };
        Some(Self { stream, payload })
    }
}

/// Which of the three kinds a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Daemon to keeper.
    Request = 0,
    /// Keeper to daemon, with the request's sequence number.
    Response = 1,
    /// Keeper to daemon; the sequence number is 0.
    Event = 2,
}

/// A message's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The protocol version of the body.
    pub version: u16,
    /// What it is.
    pub kind: Kind,
    /// Flags, see [`FLAG_MEMFD`].
    pub flags: u8,
    /// Joins a response to its request.
    pub sequence: u64,
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than a header, or without its magic.
    #[error("not a message of this protocol")]
    NotAMessage,
    /// A version that is not understood.
    #[error("unknown protocol version {0}")]
    Version(u16),
    /// A body longer than [`MAX_BODY`].
    #[error("message body of {0} bytes is too long")]
    TooLong(u64),
    /// A body that does not decode, or with bytes left over.
    #[error("bad message body")]
    Body,
}

impl Header {
    const MAGIC: [u8; 2] = *b"KK";

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..2].copy_from_slice(&Self::MAGIC);
        bytes[2..4].copy_from_slice(&self.version.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags;
        bytes[8..].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    /// Splits a packet into header and inline body.
    ///
    /// # Errors
    /// [`DecodeError::NotAMessage`].
    pub fn decode(packet: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let (head, body) = packet
            .split_first_chunk::<HEADER>()
            .ok_or(DecodeError::NotAMessage)?;
        let kind = match head[4] {
            0 => Kind::Request,
            1 => Kind::Response,
            2 => Kind::Event,
            _ => return Err(DecodeError::NotAMessage),
        };
        if head[..2] != Self::MAGIC || head[5] & !FLAG_MEMFD != 0 {
            return Err(DecodeError::NotAMessage);
        }
        let [.., a, b, c, d, e, f, g, h] = *head;
        let header = Self {
            version: u16::from_le_bytes([head[2], head[3]]),
            kind,
            flags: head[5],
            sequence: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        };
        Ok((header, body))
    }
}

/// The body of a value in the encoding of `version`.
///
/// # Errors
/// [`DecodeError::Body`] for a value that cannot be encoded, which none of this module's is.
pub fn encode_body<T: Serialize>(value: &T) -> Result<Vec<u8>, DecodeError> {
    postcard::to_stdvec(value).map_err(|_| DecodeError::Body)
}

/// The value of a body.
///
/// # Errors
/// An unknown version, or bytes that are no such value.
pub fn decode_body<'a, T: Deserialize<'a>>(version: u16, body: &'a [u8]) -> Result<T, DecodeError> {
    if !(OLDEST_VERSION..=VERSION).contains(&version) {
        return Err(DecodeError::Version(version));
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(DecodeError::Body),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(id) => write!(f, "container {id}"),
            Self::Exec(id) => write!(f, "exec {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::{LogConfig, LogDriver};

    fn requests() -> Vec<Request> {
        let container = ContainerId::random();
        let log = LogConfig::new(LogDriver::JsonFile, "/x/y".into());
        vec![
            Request::Hello {
                version: 1,
                build: "b".into(),
            },
            Request::Start(Box::new(StartRequest {
                container,
                plan: vec![0, 255, 3],
                joins: vec![Join::Network, Join::Pid],
                log,
                stdin: StdinMode::Once,
                terminal: Terminal::Size(Some(TerminalSize {
                    rows: 1,
                    columns: 2,
                })),
                cgroup: "kekkai/x".into(),
            })),
            Request::Attach(AttachRequest {
                target: Target::Exec(ExecId::random()),
                stdin: true,
                stdout: false,
                stderr: true,
            }),
            Request::Signal {
                target: Target::Container(container),
                signal: Signal::KILL,
            },
            Request::List,
            Request::Shutdown,
        ]
    }

    #[test]
    fn round_trips() {
        for request in requests() {
            let body = encode_body(&request).unwrap();
            assert_eq!(decode_body::<Request>(VERSION, &body).unwrap(), request);
            assert_eq!(
                decode_body::<Request>(VERSION + 1, &body),
                Err(DecodeError::Version(VERSION + 1))
            );
            let mut longer = body.clone();
            longer.push(0);
            assert_eq!(
                decode_body::<Request>(VERSION, &longer),
                Err(DecodeError::Body)
            );
            for cut in 0..body.len() {
                assert!(decode_body::<Request>(VERSION, &body[..cut]).is_err());
            }
        }
        let exit = Exit {
            status: ExitStatus::Signaled(9),
            oom: true,
            at: -1,
        };
        let event = Event::Exited {
            target: Target::Container(ContainerId::random()),
            container: ContainerId::random(),
            exit,
        };
        assert_eq!(
            decode_body::<Event>(VERSION, &encode_body(&event).unwrap()).unwrap(),
            event
        );
    }

    /// The bytes of version 1, so that a change is noticed.
    #[test]
    fn version_one_stays_what_it_is() {
        assert_eq!(encode_body(&Request::List).unwrap(), [6]);
        assert_eq!(encode_body(&Request::Shutdown).unwrap(), [10]);
        assert_eq!(encode_body(&Response::Done).unwrap(), [1]);
        assert_eq!(encode_body(&Response::Again).unwrap(), [8]);
        assert_eq!(
            encode_body(&Event::Resumed { generation: 3 }).unwrap(),
            [1, 3]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), first in 0..12_u8) {
            drop(decode_body::<Request>(VERSION, &bytes));
            drop(decode_body::<Response>(VERSION, &bytes));
            drop(decode_body::<Event>(VERSION, &bytes));
            let _ = Frame::parse(&bytes);
            drop(Header::decode(&bytes));
            let mut with_kind = vec![first];
            with_kind.extend(&bytes);
            drop(decode_body::<Request>(VERSION, &with_kind));
        }

        #[test]
        fn damaged_requests_are_survived(which in 0..6_usize, place in 0..400_usize, byte in any::<u8>()) {
            let mut body = encode_body(&requests()[which]).unwrap();
            let place = place % body.len();
            body[place] = byte;
            drop(decode_body::<Request>(VERSION, &body));
        }

        #[test]
        fn headers_round_trip(version in any::<u16>(), sequence in any::<u64>(), memfd in any::<bool>()) {
            let header = Header { version, kind: Kind::Event, flags: u8::from(memfd), sequence };
            let bytes = header.encode();
            prop_assert_eq!(Header::decode(&bytes), Ok((header, &[][..])));
        }
    }
}
