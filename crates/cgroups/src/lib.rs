//! Control groups, version 1 (every controller its own hierarchy) and version 2 (unified).
//!
//! What must stay true: every function takes the directory it works on, so that tests use directories of their own and
//! nothing outside the given parent is touched; a limit that this host cannot enforce is an error, never ignored; no
//! function waits for an RCU grace period on the start path (a process joins by writing `0` to `tasks` itself on v1, by
//! `CLONE_INTO_CGROUP` on v2).

#![forbid(unsafe_code)]

mod limits;
pub use limits::Limits;
