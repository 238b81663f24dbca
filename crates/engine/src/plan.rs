//! From a container to the plan that the keeper's launcher carries out: looks up on the host what the pure spec builder
//! needs, then compiles. Done at create, and again by a new daemon.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use kekkai_keeper::protocol::Join as KeeperJoin;
use kekkai_runtime::{ContainerPlan, PlanOptions, RootfsSource, plan_container, seccomp};
use kekkai_snapshot::OverlayMount;
use kekkai_types::ContainerId;

use crate::EngineError;
use crate::create::check::{Security, Sharing, security, sharing};
use crate::inner::Inner;
use crate::model::ContainerSpec;
use crate::spec_builder::{self, BlockDevice, DeviceNode, Ipc, Join, SpecInputs, capabilities};

/// The most device nodes that a directory or `--privileged` may bring.
const MOST_DEVICES: usize = 4096;

/// What else is mounted beside the user's and the default mounts.
#[derive(Debug, Default)]
pub(crate) struct PlanFiles {
    /// `/etc/hosts` and its like: path inside, path on the host.
    pub(crate) etc: Vec<(String, String)>,
    /// Read-only files: path inside, path on the host.
    pub(crate) extra: Vec<(String, String)>,
}

/// How a snapshot is mounted, in the runtime's words.
pub(crate) fn rootfs(mount: OverlayMount) -> RootfsSource {
    RootfsSource::Overlay {
        lower: mount.lower,
        upper: mount.upper,
        work: mount.work,
        volatile: mount.volatile,
    }
}

fn device_numbers(metadata: &std::fs::Metadata) -> (u32, u32) {
    let device = metadata.rdev();
    (rustix::fs::major(device), rustix::fs::minor(device))
}

fn device_node(host: &Path, inside: &str, access: &str) -> Option<DeviceNode> {
    let metadata = std::fs::metadata(host).ok()?;
    let kind = metadata.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return None;
    }
    let (major, minor) = device_numbers(&metadata);
    Some(DeviceNode {
        path: inside.to_owned(),
        block: kind.is_block_device(),
        major,
        minor,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}

/// All nodes beneath a directory of devices, without what every container has for itself.
fn device_tree(directory: &Path, inside: &str, access: &str, found: &mut Vec<DeviceNode>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let (name, Ok(kind)) = (entry.file_name(), entry.file_type()) else {
            continue;
        };
        let name = name.to_string_lossy();
        if found.len() >= MOST_DEVICES {
            return;
        }
        let path = format!("{inside}/{name}");
        if kind.is_dir() {
            if !matches!(
                name.as_ref(),
                "pts" | "shm" | "fd" | "mqueue" | ".lxc" | ".lxd-mounts" | ".udev"
            ) {
                device_tree(&entry.path(), &path, access, found);
            }
        } else if name != "console"
            && let Some(node) = device_node(&entry.path(), &path, access)
        {
            found.push(node);
        }
    }
}

fn devices(spec: &ContainerSpec) -> Result<Vec<DeviceNode>, EngineError> {
    let mut found = Vec::new();
    if spec.host.privileged {
        device_tree(Path::new("/dev"), "/dev", "rwm", &mut found);
    }
    for wanted in &spec.host.resources.devices {
        let host = Path::new(&wanted.path_on_host);
        let inside = if wanted.path_in_container.is_empty() {
            &wanted.path_on_host
        } else {
            &wanted.path_in_container
        };
        let access = if wanted.cgroup_permissions.is_empty() {
            "rwm"
        } else {
            &wanted.cgroup_permissions
        };
        if !access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
            return Err(EngineError::Invalid(format!(
                "invalid device mode: {access}"
            )));
        }
        let trouble = |why: &str| {
            EngineError::System(format!(
                "error gathering device information while adding custom device \"{}\": {why}",
                wanted.path_on_host
            ))
        };
        let metadata = std::fs::metadata(host).map_err(|_| trouble("no such file or directory"))?;
        if metadata.is_dir() {
            let before = found.len();
            device_tree(host, inside, access, &mut found);
            if found.len() == before {
                return Err(trouble("no device nodes found"));
            }
        } else {
            let node =
                device_node(host, inside, access).ok_or_else(|| trouble("not a device node"))?;
            found.retain(|other| other.path != node.path);
            found.push(node);
        }
    }
    Ok(found)
}

fn block_devices(spec: &ContainerSpec) -> Result<Vec<BlockDevice>, EngineError> {
    let resources = &spec.host.resources;
    let lists = [
        &resources.blkio_weight_device,
        &resources.blkio_device_read_bps,
        &resources.blkio_device_write_bps,
        &resources.blkio_device_read_iops,
        &resources.blkio_device_write_iops,
    ];
    lists
        .into_iter()
        .flatten()
        .map(|rate| {
            let metadata = std::fs::metadata(&rate.path).map_err(|_| {
                EngineError::System(format!("stat {}: no such file or directory", rate.path))
            })?;
            let (major, minor) = device_numbers(&metadata);
            Ok(BlockDevice {
                path: rate.path.clone(),
                major,
                minor,
            })
        })
        .collect()
}

/// The namespaces of other containers that a container joins when it starts, opened.
pub(crate) fn joins(
    inner: &Inner,
    spec: &ContainerSpec,
) -> Result<Vec<(KeeperJoin, OwnedFd)>, EngineError> {
    let mut joins = Vec::new();
    for (mode, join, file, what) in [
        (&spec.host.pid_mode, KeeperJoin::Pid, "pid", "PID"),
        (&spec.host.ipc_mode, KeeperJoin::Ipc, "ipc", "IPC"),
    ] {
        if let Some(Sharing::Container(name)) = sharing(mode) {
            joins.push((join, namespace(inner, name, file, what)?));
        }
    }
    Ok(joins)
}

/// A namespace of a running container.
pub(crate) fn namespace(
    inner: &Inner,
    name: &str,
    file: &str,
    what: &str,
) -> Result<OwnedFd, EngineError> {
    let other = inner.directory.find(name)?;
    let stopped = || {
        EngineError::Conflict(format!(
            "cannot join {what} namespace of a non running container: {}",
            other.id
        ))
    };
    let running = other.lifecycle().running().ok_or_else(stopped)?;
    let path = format!("/proc/{}/ns/{file}", running.pid);
    let opened = std::fs::File::open(&path).map_err(EngineError::io(format!("opening {path}")))?;
    // It may have ended while we opened: then the number may be another's.
    if other.lifecycle().running() != Some(running) {
        return Err(stopped());
    }
    Ok(opened.into())
}

/// Where a shareable container's /dev/shm is on the host.
pub(crate) fn shm_directory(inner: &Inner, id: ContainerId) -> String {
    inner
        .run_directory(id)
        .join("shm")
        .to_string_lossy()
        .into_owned()
}

fn ipc(inner: &Inner, id: ContainerId, spec: &ContainerSpec) -> Result<Ipc, EngineError> {
    Ok(match spec.host.ipc_mode.as_str() {
        "none" => Ipc::None,
        "shareable" => Ipc::Shared {
            shm: shm_directory(inner, id),
            namespace: Join::New,
        },
        "host" => Ipc::Shared {
            shm: "/dev/shm".to_owned(),
            namespace: Join::Host,
        },
        mode => match sharing(mode) {
            Some(Sharing::Container(name)) => {
                let other = inner.directory.find(name)?;
                let shm = match other.spec().host.ipc_mode.as_str() {
                    "shareable" => shm_directory(inner, other.id),
                    "host" => "/dev/shm".to_owned(),
                    _ => {
                        return Err(EngineError::Invalid(format!(
                            "cannot join IPC of a non-shareable container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                            other.id
                        )));
                    }
                };
                Ipc::Shared {
                    shm,
                    namespace: Join::New,
                }
            }
            _ => Ipc::Own,
        },
    })
}

fn filter(
    inner: &Inner,
    spec: &ContainerSpec,
    options: &Security<'_>,
) -> Result<Option<kekkai_oci::runtime::LinuxSeccomp>, EngineError> {
    let host = &spec.host;
    let names = capabilities::effective(
        host.privileged,
        &host.cap_add,
        &host.cap_drop,
        inner.held_capabilities,
    );
    match options.seccomp {
        Some("unconfined") => Ok(None),
        None if host.privileged => Ok(None),
        None | Some("" | "builtin" | "default") => Ok(Some(seccomp::docker_default(&names))),
        Some(profile) => {
            seccomp::from_docker_profile(profile.as_bytes(), &names, &inner.facts.kernel)
                .map(Some)
                .map_err(|error| {
                    EngineError::System(format!("Decoding seccomp profile failed: {error}"))
                })
        }
    }
}

/// Compiles the plan. Namespaces of other containers are not in it: their descriptors travel beside it at every start.
pub(crate) fn compile(
    inner: &Inner,
    id: ContainerId,
    spec: &ContainerSpec,
    root: RootfsSource,
    files: &PlanFiles,
) -> Result<ContainerPlan, EngineError> {
    let host = &spec.host;
    let security = security(&host.security_opt)?;
    let pid = match sharing(&host.pid_mode) {
        Some(Sharing::Host) => Join::Host,
        _ => Join::New,
    };
    let network = if host.network_mode == "host" {
        Join::Host
    } else {
        Join::New
    };
    let uts = if host.uts_mode == "host" {
        Join::Host
    } else {
        Join::New
    };
    let cgroup = if host.cgroupns_mode == "host" {
        Join::Host
    } else {
        Join::New
    };
    let init_program = inner.config.keeper_binary.to_string_lossy();
    let init = host.init.unwrap_or(inner.config.default_init)
        && matches!(sharing(&host.pid_mode), Some(Sharing::Own));
    let apparmor = match security.apparmor {
        _ if !inner.facts.apparmor => "",
        Some("unconfined") => "unconfined",
        Some(profile) => profile,
        None if host.privileged => "unconfined",
        None => "",
    };
    let cgroup_path = inner.cgroup_path(id, spec);
    let inputs = SpecInputs {
        spec,
        hostname: spec.config.hostname.as_deref().unwrap_or_default(),
        cgroup_path: &cgroup_path,
        ipc: ipc(inner, id, spec)?,
        pid,
        network,
        uts,
        cgroup,
        init: init.then_some(init_program.as_ref()),
        etc_files: &files.etc,
        extra_files: &files.extra,
        devices: &devices(spec)?,
        block_devices: &block_devices(spec)?,
        seccomp: filter(inner, spec, &security)?,
        no_new_privileges: security
            .no_new_privileges
            .unwrap_or(inner.config.no_new_privileges),
        writable_cgroups: security.writable_cgroups,
        apparmor,
        default_ulimits: &inner.config.default_ulimits,
        held_capabilities: inner.held_capabilities,
    };
    let built = spec_builder::build(&inputs);
    let options = PlanOptions {
        id: id.to_string(),
        user: spec.config.user.clone().filter(|user| !user.is_empty()),
        additional_groups: host.group_add.clone(),
    };
    plan_container(&built, root, &options).map_err(|error| match error.class() {
        kekkai_types::ErrorClass::InvalidArgument => EngineError::Invalid(error.to_string()),
        kekkai_types::ErrorClass::NotImplemented => EngineError::Invalid(error.to_string()),
        _ => EngineError::Internal(error.to_string()),
    })
}
