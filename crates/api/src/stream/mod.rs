//! Byte streams between a client's connection and a process: framing, buffering, the life of a session.

mod frames;
mod session;
mod spill;

pub(crate) use frames::{Framing, frames_body};
pub(crate) use session::{HeadReader, Session, raw_head, upgrade_head};
