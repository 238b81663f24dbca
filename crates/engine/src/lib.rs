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

mod attach;
mod config;
mod container;
mod create;
mod directory;
mod engine;
mod error;
mod events;
mod exec;
mod exit;
pub mod failpoint;
mod files;
mod host;
mod inner;
mod janitor;
mod list;
pub mod model;
mod net;
mod open;
mod owner;
mod plan;
mod reconcile;
mod record;
mod recover;
mod remove;
mod restart;
mod spec_builder;
mod start;
mod streams;
mod system;
mod top;
mod transfer;
mod undo;
mod update;

pub use config::{BridgeConfig, EngineConfig};
pub use engine::{Engine, WaitHandle};
pub use error::EngineError;
pub use streams::{AttachStreams, InputSink, InputState, OutputFrame, OutputStream};
