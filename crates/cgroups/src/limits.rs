//! The limits of a container, in neutral units.

use serde::{Deserialize, Serialize};

/// Limits of one cgroup. `None` and empty leave the kernel's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Hard memory limit in bytes; -1 is unlimited.
    pub memory: Option<i64>,
}
