//! The keeper: one small process that starts the containers and keeps what must outlive the daemon.
//!
//! ```text
//!   daemon ──SOCK_SEQPACKET── keeper ──SEQPACKET── launcher ×2 (vfork containers, CLONE_PARENT)
//!                               │  \__ pump threads: pipes and ptys → log files, attach sessions
//!                            guardian (subreaper, same descriptor table; restarts a crashed keeper)
//! ```
//!
//! What must stay true: the control loop makes no call that can wait for a container, a mount or a disk; exit statuses
//! are stored before they are told; no foreign data is parsed here (plans come from our own engine, postcard-encoded);
//! no tokio, TLS or SQLite is ever linked in.
//!
//! The daemon's side is [`client`]; what the two say to each other is [`protocol`]; the container logs are [`log`].

#![forbid(unsafe_code)]

mod bytes;
pub mod client;
pub mod error;
pub mod failpoint;
pub mod hello;
pub mod init;
pub mod log;
pub mod protocol;
pub mod server;
mod transport;

pub use error::KeeperError;
