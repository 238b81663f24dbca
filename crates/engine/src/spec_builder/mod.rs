//! From a container's specification to the OCI runtime specification, as Docker makes it. Pure: everything that must be
//! looked up on the host (devices, paths, namespaces of others) comes in as a value, so that results are compared as text.

pub(crate) mod capabilities;
mod mounts;
mod resources;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;

use kekkai_oci::runtime::{
    Linux, LinuxCapabilities, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType, Process, Root, Spec, User,
};

use crate::create::merge::overlay_env;
use crate::model::ContainerSpec;

pub(crate) use resources::{BlockDevice, DeviceNode, limits_of};

/// Docker's masked paths.
pub(crate) const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Docker's read-only paths.
pub(crate) const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where System V IPC and /dev/shm come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ipc {
    /// `none`: a namespace without /dev/shm.
    None,
    /// A namespace and a tmpfs of its own.
    Own,
    /// Another's namespace (`None`: a new one) with the host directory that is mounted on /dev/shm.
    Shared {
        /// The host directory.
        shm: String,
        /// What to join.
        namespace: Join,
    },
}

/// Which namespace of one kind a process gets; another container's is a new one here, and joined by descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Join {
    /// A new one.
    New,
    /// The host's: not in the specification.
    Host,
}

/// Everything that the specification is made of.
#[derive(Debug)]
pub(crate) struct SpecInputs<'a> {
    pub(crate) spec: &'a ContainerSpec,
    /// Host name inside.
    pub(crate) hostname: &'a str,
    /// Relative to the root of each hierarchy: `kekkai/<id>`.
    pub(crate) cgroup_path: &'a str,
    pub(crate) ipc: Ipc,
    pub(crate) pid: Join,
    pub(crate) network: Join,
    pub(crate) uts: Join,
    pub(crate) cgroup: Join,
    /// Path of the init program on the host, if one runs first.
    pub(crate) init: Option<&'a str>,
    /// `/etc/…` inside and its source on the host.
    pub(crate) etc_files: &'a [(String, String)],
    /// Further files, mounted read-only.
    pub(crate) extra_files: &'a [(String, String)],
    /// Requested (or, privileged, all) devices, looked up.
    pub(crate) devices: &'a [DeviceNode],
    /// Devices named by block I/O limits, looked up.
    pub(crate) block_devices: &'a [BlockDevice],
    /// The filter; none when unconfined.
    pub(crate) seccomp: Option<LinuxSeccomp>,
    pub(crate) no_new_privileges: bool,
    pub(crate) writable_cgroups: bool,
    /// AppArmor profile; empty when there is none.
    pub(crate) apparmor: &'a str,
    /// Ulimits of the daemon for those that are not given.
    pub(crate) default_ulimits: &'a [crate::model::Ulimit],
    /// Capabilities that the engine itself has.
    pub(crate) held_capabilities: Option<u64>,
}

/// Whether `name` (`nofile`) is a resource limit.
pub(crate) fn is_rlimit(name: &str) -> bool {
    rlimit(name).is_some()
}

fn rlimit(name: &str) -> Option<PosixRlimitType> {
    format!("RLIMIT_{}", name.to_ascii_uppercase()).parse().ok()
}

fn capability_sets(inputs: &SpecInputs<'_>) -> LinuxCapabilities {
    let host = &inputs.spec.host;
    capability_sets_of(&capabilities::effective(
        host.privileged,
        &host.cap_add,
        &host.cap_drop,
        inputs.held_capabilities,
    ))
}

/// These capabilities as bounding, effective and permitted ones; nothing is inheritable or ambient.
pub(crate) fn capability_sets_of(names: &[&str]) -> LinuxCapabilities {
    let set = capabilities::set(names);
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

/// The environment of the container's processes.
pub(crate) fn environment(spec: &ContainerSpec, hostname: &str) -> Vec<String> {
    let mut base = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if spec.config.tty {
        base.push("TERM=xterm".to_owned());
    }
    overlay_env(base, &spec.config.env)
}

fn process(inputs: &SpecInputs<'_>) -> Process {
    let (spec, host) = (inputs.spec, &inputs.spec.host);
    let mut args = Vec::with_capacity(spec.args.len() + 3);
    if inputs.init.is_some() {
        args.extend(["/sbin/docker-init".to_owned(), "--".to_owned()]);
    }
    args.push(spec.path.clone());
    args.extend_from_slice(&spec.args);
    let directory = spec
        .config
        .working_dir
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/");
    let given = &host.resources.ulimits;
    let defaults = inputs
        .default_ulimits
        .iter()
        .filter(|limit| given.iter().all(|other| other.name != limit.name));
    let rlimits: Vec<PosixRlimit> = given
        .iter()
        .chain(defaults)
        .filter_map(|limit| {
            let unlimited = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
            PosixRlimitBuilder::default()
                .typ(rlimit(&limit.name)?)
                .soft(unlimited(limit.soft))
                .hard(unlimited(limit.hard))
                .build()
                .ok()
        })
        .collect();
    let mut process = Process::default();
    process
        .set_terminal(Some(spec.config.tty))
        .set_user(User::default())
        .set_args(Some(args))
        .set_env(Some(environment(spec, inputs.hostname)))
        .set_cwd(PathBuf::from(directory))
        .set_capabilities(Some(capability_sets(inputs)))
        .set_rlimits((!rlimits.is_empty()).then_some(rlimits))
        .set_no_new_privileges(Some(inputs.no_new_privileges))
        .set_apparmor_profile((!inputs.apparmor.is_empty()).then(|| inputs.apparmor.to_owned()))
        .set_oom_score_adj(Some(host.oom_score_adj));
    process
}

fn namespaces(inputs: &SpecInputs<'_>) -> Vec<LinuxNamespace> {
    let ipc = match &inputs.ipc {
        Ipc::None | Ipc::Own => &Join::New,
        Ipc::Shared { namespace, .. } => namespace,
    };
    let mut list = Vec::new();
    for (kind, join) in [
        (LinuxNamespaceType::Mount, &Join::New),
        (LinuxNamespaceType::Network, &inputs.network),
        (LinuxNamespaceType::Uts, &inputs.uts),
        (LinuxNamespaceType::Pid, &inputs.pid),
        (LinuxNamespaceType::Ipc, ipc),
        (LinuxNamespaceType::Cgroup, &inputs.cgroup),
    ] {
        if *join == Join::New {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind).set_path(None);
            list.push(namespace);
        }
    }
    list
}

fn linux(inputs: &SpecInputs<'_>) -> Linux {
    let host = &inputs.spec.host;
    let sysctls: HashMap<String, String> = host
        .sysctls
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let paths = |given: &Option<Vec<String>>, defaults: &[&str]| match given {
        Some(paths) => paths.clone(),
        None if host.privileged => Vec::new(),
        None => defaults.iter().map(|path| (*path).to_owned()).collect(),
    };
    let propagation =
        inputs
            .spec
            .mounts
            .iter()
            .fold("", |most, mount| match mount.propagation.as_str() {
                "shared" | "rshared" => "shared",
                "slave" | "rslave" if most.is_empty() => "rslave",
                _ => most,
            });
    let mut linux = Linux::default();
    linux
        .set_sysctl(Some(sysctls))
        .set_resources(Some(resources::build(inputs)))
        .set_cgroups_path(Some(PathBuf::from(inputs.cgroup_path)))
        .set_namespaces(Some(namespaces(inputs)))
        .set_devices(Some(
            inputs.devices.iter().map(DeviceNode::to_oci).collect(),
        ))
        .set_seccomp(inputs.seccomp.clone())
        .set_rootfs_propagation((!propagation.is_empty()).then(|| propagation.to_owned()))
        .set_masked_paths(Some(paths(&host.masked_paths, &MASKED_PATHS)))
        .set_readonly_paths(Some(paths(&host.readonly_paths, &READONLY_PATHS)))
        .set_mount_label(None);
    linux
}

/// The runtime specification.
pub(crate) fn build(inputs: &SpecInputs<'_>) -> Spec {
    let spec = inputs.spec;
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"))
        .set_readonly(Some(spec.host.readonly_rootfs));
    let own_uts = inputs.uts != Join::Host;
    let domainname = spec
        .config
        .domainname
        .clone()
        .filter(|name| own_uts && !name.is_empty());
    let annotations: HashMap<String, String> = spec
        .host
        .annotations
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut built = Spec::default();
    built
        .set_version("1.2.1".to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts::build(inputs)))
        .set_process(Some(process(inputs)))
        .set_hostname(own_uts.then(|| inputs.hostname.to_owned()))
        .set_domainname(domainname)
        .set_annotations((!annotations.is_empty()).then_some(annotations))
        .set_linux(Some(linux(inputs)));
    built
}
