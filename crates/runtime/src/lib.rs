//! The container runtime as a library: an OCI `Spec` becomes a [`ContainerPlan`] (pure, at create), and a plan becomes
//! a running process (in a launcher, at start).
//!
//! ```text
//!  oci Spec ──plan_container──▶ ContainerPlan ──postcard──▶ launcher ──launch_container──▶ Launched { pid, pidfd, … }
//!  oci Process ──plan_exec────▶ ExecPlan      ──postcard──▶ launcher ──launch_exec───────▶ Launched
//! ```
//!
//! What must stay true: planning does no I/O and looks at nothing but its arguments; everything that can be computed
//! beforehand is (C strings, mount operations, the seccomp program, capability sets). Launching is called in a
//! single-threaded process, may sleep for as long as the child does (a frozen cgroup, a dead NFS source), and leaves
//! nothing behind when it fails. This crate never sees an async runtime and has no unsafe code: that is `kekkai-sys`.

#![forbid(unsafe_code)]

mod error;
mod launch;
mod plan;
pub mod seccomp;

pub use error::{FailureKind, LaunchError, PlanError, Stage};
pub use launch::{
    Console, ExecTarget, JoinNamespace, LaunchFds, Launched, NamespaceKind, Parent, Stdio,
    WindowSize,
};
pub use launch::{launch_container, launch_exec, prepare_cgroup, warm_up};
pub use plan::{ContainerPlan, ExecPlan, PlanOptions, RootfsSource, plan_container, plan_exec};
