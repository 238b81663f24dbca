//! Listening and serving: sockets, TLS, HTTP/1.1 connections and their takeover.
//!
//! ```text
//! Listener ─accept─▶ Connection ─hyper─▶ routes ─▶ Reply::Response ─▶ written by hyper, next request
//!                                            └──▶ Reply::Hijack   ─▶ the connection leaves hyper for good
//! ```
//!
//! What must stay true: a connection that fails or stalls touches no other; a request is dropped when its client goes.

mod connection;
mod listener;
mod serve;
mod tls;

pub(crate) use connection::{Connection, is_hung_up};
pub use listener::{ListenError, Listener};
pub use serve::Server;
pub use tls::{TlsError, TlsFiles, server_config};
