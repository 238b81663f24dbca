//! Harness of the black-box suites: fixture images, a small registry, daemons to test, command lines to test them with.
//!
//! A case is written once, against the words a user types, and runs three times: the docker CLI on the peers' dockerd,
//! the docker CLI on our socket, our own CLI on our socket. What must stay true: nothing in here links against the
//! product, every daemon has roots, names, pools and tables of its own, and what a run made is gone when it ends.

#![forbid(unsafe_code)]

pub mod case;
pub mod command;
pub mod daemon;
pub mod fixture;
pub mod http;
pub mod leftovers;
pub mod pty;
pub mod registry;
pub mod runner;
pub mod world;

pub use case::{Case, Ctx};
pub use command::Out;
pub use daemon::Daemon;
pub use registry::Registry;
pub use world::{Cli, Target, World};
