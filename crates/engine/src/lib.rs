//! The lifecycle of containers: everything between the API and the parts that do the work.
//!
//! ```text
//!  api ──▶ Engine ──command──▶ owner task of one container ──▶ keeper, network, snapshot, metadata
//!             ▲                         │
//!             └──── snapshot, events ◀──┘
//! ```
//!
//! What must stay true: one task owns one container, and only `Lifecycle::apply` moves its state; no lock is held
//! across an await or a call that can wait; the path of a start neither syncs, renames over, nor unlinks; whatever a
//! saga has done is undone when a later step fails; the wire types of the API never get here.

#![forbid(unsafe_code)]

mod config;
mod create;
mod engine;
mod error;
mod host;
pub mod model;
mod restart;
mod spec_builder;
mod streams;

pub use config::{BridgeConfig, EngineConfig};
pub use engine::{Engine, WaitHandle};
pub use error::EngineError;
pub use streams::{AttachStreams, InputSink, InputState, OutputFrame, OutputStream};
