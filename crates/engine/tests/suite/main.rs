//! The engine with all its parts, on real containers. Needs root and the built `kekkai-keeper`; every test has an engine
//! of its own: roots, cgroup parent, bridge, table, address range.

#![allow(
    clippy::unwrap_used,
    reason = "a test that fails should stop where it failed"
)]

mod failures;
mod files;
mod lifecycle;
mod options;
mod recovery;
mod sessions;
mod support;
