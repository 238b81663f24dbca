//! Plans: what a launcher must do to start a container or an exec session, computed beforehand.
//!
//! What must stay true: a plan is plain data (no descriptors, no pids), so that it can be stored with the container and
//! sent to a launcher; it holds no secrets beyond the process's own environment; building one performs no I/O.

mod mounts;
mod types;

pub(crate) use types::*;

use std::path::PathBuf;

use kekkai_oci::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};

use crate::PlanError;

/// Version of the encoding of plans. A launcher of another version refuses them.
pub(crate) const PLAN_VERSION: u16 = 1;

/// Where the root file system of a container comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootfsSource {
    /// An overlay, mounted for this container alone; the host's mount table never sees it.
    Overlay {
        /// Read-only layers, topmost first.
        lower: Vec<PathBuf>,
        /// The container's own layer.
        upper: PathBuf,
        /// A work directory that no earlier mount has used (removing an old one costs a millisecond).
        work: PathBuf,
        /// Whether syncs may be skipped: only where the upper layer dies with the container (`--rm`).
        volatile: bool,
    },
    /// A directory that is used as it is.
    Directory(PathBuf),
}

/// What a plan needs that is not in the OCI specification.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// The container's id, used in error messages and for the session keyring. Required.
    pub id: String,
    /// The user as Docker writes it (`name`, `uid`, `name:group`, `uid:gid`, …), looked up in the container's own
    /// `/etc/passwd` and `/etc/group` at start. `None`: take `process.user` of the specification.
    pub user: Option<String>,
    /// Further groups by name or number (`--group-add`), looked up at start.
    pub additional_groups: Vec<String>,
}

/// Everything a launcher needs to start a container. Made by [`plan_container`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub(crate) version: u16,
    pub(crate) id: String,
    pub(crate) rootfs: RootfsSource,
    pub(crate) root: RootPlan,
    pub(crate) namespaces: Vec<NamespacePlan>,
    pub(crate) id_maps: Option<IdMaps>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) mounts: Vec<MountPlan>,
    pub(crate) devices: Option<Vec<DevicePlan>>,
    pub(crate) masked_paths: Vec<String>,
    pub(crate) readonly_paths: Vec<String>,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) cgroup: CgroupPlan,
    pub(crate) process: ProcessPlan,
    pub(crate) additional_groups: Vec<String>,
}

/// Everything a launcher needs to start a process in a running container. Made by [`plan_exec`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecPlan {
    pub(crate) version: u16,
    pub(crate) id: String,
    pub(crate) process: ProcessPlan,
    pub(crate) cgroup: CgroupPlan,
    pub(crate) user_namespace: bool,
    pub(crate) traceable: bool,
}

/// Turns an OCI specification into a plan. Pure.
///
/// # Errors
/// A missing or invalid part of the specification, or one that this runtime does not implement.
pub fn plan_container(
    spec: &Spec,
    rootfs: RootfsSource,
    options: &PlanOptions,
) -> Result<ContainerPlan, PlanError> {
    build::container(spec, rootfs, options)
}

/// Turns an OCI process into the plan of an exec session in `container`. Pure. `process.user.username`, where set, is
/// the user as Docker writes it (`name:group`); otherwise `uid` and `gid` count. The container's additional groups, its
/// seccomp program and its cgroup apply as well.
///
/// # Errors
/// A missing or invalid part of the process.
pub fn plan_exec(process: &Process, container: &ContainerPlan) -> Result<ExecPlan, PlanError> {
    build::exec(process, container)
}

mod build;

impl ContainerPlan {
    /// The bytes that travel to a launcher.
    ///
    /// # Errors
    /// [`PlanError::Encoding`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, PlanError> {
        postcard::to_stdvec(self).map_err(PlanError::Encoding)
    }

    /// The plan in bytes made by [`Self::to_bytes`].
    ///
    /// # Errors
    /// [`PlanError::Encoding`], [`PlanError::Version`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PlanError> {
        check_version(bytes)?;
        postcard::from_bytes(bytes).map_err(PlanError::Encoding)
    }

    /// Replaces the root file system: an overlay gets a fresh work directory at every start.
    pub fn set_rootfs(&mut self, rootfs: RootfsSource) {
        self.rootfs = rootfs;
    }

    /// Says whether [`crate::prepare_cgroup`] has been called for this very plan since the cgroup was last removed:
    /// the start then only joins it. (Where the cgroup is not there after all, the start makes it.)
    pub fn set_cgroup_prepared(&mut self, prepared: bool) {
        self.cgroup.prepared = prepared;
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The cgroup relative to the root of every hierarchy, without a leading slash: `kekkai/<id>`.
    pub fn cgroup_path(&self) -> &str {
        &self.cgroup.path
    }
}

impl ExecPlan {
    /// The bytes that travel to a launcher.
    ///
    /// # Errors
    /// [`PlanError::Encoding`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, PlanError> {
        postcard::to_stdvec(self).map_err(PlanError::Encoding)
    }

    /// The plan in bytes made by [`Self::to_bytes`].
    ///
    /// # Errors
    /// [`PlanError::Encoding`], [`PlanError::Version`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PlanError> {
        check_version(bytes)?;
        postcard::from_bytes(bytes).map_err(PlanError::Encoding)
    }
}

fn check_version(bytes: &[u8]) -> Result<(), PlanError> {
    let (found, _) = postcard::take_from_bytes::<u16>(bytes).map_err(PlanError::Encoding)?;
    match found {
        PLAN_VERSION => Ok(()),
        _ => Err(PlanError::Version {
            found,
            expected: PLAN_VERSION,
        }),
    }
}
