//! Client of the Engine API: where the daemon is, who may talk to it, one request after another, hijacked streams.
//!
//! What must stay true: nothing here prints, exits or starts a daemon; nothing is read from disk before it is needed;
//! no request costs a round trip of its own for version negotiation (the newest version is tried, and only a daemon that
//! refuses it is asked which one it has).

#![forbid(unsafe_code)]

mod body;
mod config;
mod connection;
mod context;
mod credentials;
mod endpoint;
mod error;
mod frames;
mod request;
mod tls;

pub use body::{Body, channel_body, empty_body, full_body, reader_body};
pub use config::{AuthEntry, ConfigFile, config_dir};
pub use connection::Hijacked;
pub use context::{Context, ContextStore};
pub use credentials::{CredentialStore, encode_registry_auth};
pub use endpoint::{DEFAULT_SOCKET, Endpoint, EndpointSource, Transport};
pub use error::ClientError;
pub use frames::{Demultiplexer, Stream};
pub use request::{API_VERSION, Client, Query, Reply, Request};
pub use tls::TlsFiles;
