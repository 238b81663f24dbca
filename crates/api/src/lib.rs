//! Docker's Engine API over HTTP/1.1: wire types and routes in front of the engine.
//!
//! ```text
//! socket ─▶ server (accept, TLS, HTTP, takeover) ─▶ routes (one file per resource) ─▶ Engine
//!                                                     │            ▲
//!                                                     └── wire ────┘  JSON ⇄ domain types
//! ```
//!
//! What must stay true: wire types never leave this crate; a field that is set and not done is refused by name; every
//! error's status comes from its class by one function; everything that a client sends is bounded.

#![forbid(unsafe_code)]

mod http;
mod routes;
mod server;
mod stream;
mod wire;

pub use routes::{Api, ApiSettings};
pub use server::{ListenError, Listener, Server, TlsError, TlsFiles, server_config};

/// The newest version of Docker's API that is served.
pub const API_VERSION: &str = "1.51";

/// The oldest version of Docker's API that is served.
pub const MIN_API_VERSION: &str = "1.24";
