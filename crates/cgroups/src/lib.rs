//! Control groups, version 1 (every controller its own hierarchy, hybrid hosts included) and version 2 (unified).
//!
//! ```text
//!  detect() ─▶ Layout ─▶ Cgroup::new(&layout, "kekkai/<id>") ─▶ create(&limits) ─▶ join_handles() ─▶ … ─▶ remove()
//! ```
//!
//! What must stay true: every function works beneath the hierarchy roots of the [`Layout`] it is given, so that tests
//! use directories of their own and nothing outside the named cgroup is touched; a limit that this host cannot enforce
//! is an error, never ignored; nothing on the start path waits for an RCU grace period (on v1 a process joins by
//! writing `0` to `tasks` itself, on v2 it is cloned into the cgroup). Drivers: cgroupfs; systemd's is not done.

#![forbid(unsafe_code)]

mod device_program;
mod error;
mod files;
mod group;
mod layout;
mod limits;
mod stats;
mod v1;
mod v2;

pub use error::CgroupError;
pub use group::{Cgroup, Join};
pub use layout::{Features, Hierarchy, Layout, detect};
pub use limits::{DeviceKind, DeviceRule, Limits, Throttle};
pub use stats::{CpuStats, MemoryStats, PidsStats, Stats};
