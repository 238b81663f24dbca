//! From an OCI `Spec` to a plan: every field is used, checked or refused by name.

use kekkai_cgroups::{DeviceKind, DeviceRule, Limits};
use kekkai_oci::runtime::{
    Capabilities, Linux, LinuxCapabilities, LinuxDevice, LinuxDeviceType, LinuxNamespaceType,
    PosixRlimitType, Process, Spec,
};
use kekkai_sys::capability;

use super::mounts::{self, MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};
use super::{
    CapabilityPlan, CgroupPlan, ContainerPlan, DevicePlan, ExecPlan, MountKind, NamespacePlan,
    PLAN_VERSION, PlanOptions, ProcessPlan, RlimitPlan, RootPlan, RootfsSource, UserPlan,
};
use crate::{NamespaceKind, PlanError, seccomp};

/// The most entries of any list of a specification (arguments and environment have the kernel's own limit).
const MAX_ENTRIES: usize = 4096;
/// The kernel's limit for arguments and environment together is a fraction of the stack; this is far beyond.
const MAX_STRINGS: usize = 32 * 1024 * 1024;
/// The kernel's limit for host and domain names.
const MAX_HOSTNAME: usize = 64;

const S_IFIFO: u32 = 0o010_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

pub(super) fn container(
    spec: &Spec,
    rootfs: RootfsSource,
    options: &PlanOptions,
) -> Result<ContainerPlan, PlanError> {
    refuse_unfinished(spec)?;
    let linux = spec
        .linux()
        .as_ref()
        .ok_or(PlanError::Missing("linux section"))?;
    let process = spec
        .process()
        .as_ref()
        .ok_or(PlanError::Missing("process"))?;
    let namespaces = namespaces(linux)?;
    let has = |kind| {
        namespaces
            .iter()
            .any(|namespace: &NamespacePlan| namespace.kind == kind)
    };
    if !has(NamespaceKind::Mount) {
        return Err(PlanError::Unsupported(
            "running without a mount namespace".into(),
        ));
    }
    for (name, value) in [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            if !has(NamespaceKind::Uts) {
                return Err(invalid(
                    name,
                    value,
                    "unable to set it without a private UTS namespace",
                ));
            }
            if value.len() > MAX_HOSTNAME {
                return Err(invalid(name, value, "it is longer than 64 bytes"));
            }
        }
    }
    let mounts = spec
        .mounts()
        .iter()
        .flatten()
        .map(mounts::plan)
        .collect::<Result<Vec<_>, _>>()?;
    let seccomp = linux.seccomp().as_ref().map(seccomp::compile).transpose()?;
    let sets_up_dev = !mounts
        .iter()
        .any(|mount| mount.destination == "/dev" && matches!(mount.kind, MountKind::Bind { .. }));
    let devices = if sets_up_dev {
        Some(devices(linux)?)
    } else {
        None
    };
    let sysctls = sysctls(linux, &namespaces, spec.hostname().is_some())?;
    let mut process_plan = self::process(process, seccomp, options.user.as_deref())?;
    process_plan.groups.clone_from(&options.additional_groups);
    bounded("additional groups", options.additional_groups.len())?;
    bounded("mounts", mounts.len())?;
    let plan = ContainerPlan {
        version: PLAN_VERSION,
        id: options.id.clone(),
        rootfs,
        root: RootPlan {
            readonly: spec
                .root()
                .as_ref()
                .and_then(kekkai_oci::runtime::Root::readonly)
                .unwrap_or(false),
            propagation: root_propagation(linux.rootfs_propagation().as_deref())?,
        },
        namespaces,
        id_maps: None,
        hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
        domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
        mounts,
        devices,
        masked_paths: paths("masked path", linux.masked_paths().as_deref())?,
        readonly_paths: paths("read-only path", linux.readonly_paths().as_deref())?,
        sysctls,
        cgroup: cgroup(linux, &options.id)?,
        process: process_plan,
        additional_groups: options.additional_groups.clone(),
    };
    if plan.id.is_empty() {
        return Err(PlanError::Missing("container id"));
    }
    Ok(plan)
}

pub(super) fn exec(process: &Process, container: &ContainerPlan) -> Result<ExecPlan, PlanError> {
    let mut plan = self::process(process, container.process.seccomp.clone(), None)?;
    plan.groups.clone_from(&container.additional_groups);
    // What the process leaves open is the container's, as with runc; and it never gets more freedom by saying nothing.
    let own = &container.process;
    plan.no_new_privileges |= own.no_new_privileges;
    plan.oom_score_adj = plan.oom_score_adj.or(own.oom_score_adj);
    plan.capabilities = plan.capabilities.or(own.capabilities);
    plan.apparmor = plan.apparmor.or_else(|| own.apparmor.clone());
    if plan.rlimits.is_empty() {
        plan.rlimits.clone_from(&own.rlimits);
    }
    let ptrace = 1u64 << capability::number("CAP_SYS_PTRACE").unwrap_or_default();
    let bounding = container
        .process
        .capabilities
        .map_or(u64::MAX, |capabilities| capabilities.bounding);
    Ok(ExecPlan {
        version: PLAN_VERSION,
        id: container.id.clone(),
        process: plan,
        cgroup: CgroupPlan {
            path: container.cgroup.path.clone(),
            limits: Limits::default(),
            prepared: false,
        },
        user_namespace: container.id_maps.is_some(),
        traceable: bounding & ptrace != 0,
    })
}

fn refuse_unfinished(spec: &Spec) -> Result<(), PlanError> {
    let linux = spec.linux().as_ref();
    let process = spec.process().as_ref();
    let hooks = spec
        .hooks()
        .as_ref()
        .is_some_and(|hooks| *hooks != kekkai_oci::runtime::Hooks::default());
    let asked = [
        (hooks, "hooks"),
        (spec.vm().is_some(), "vm"),
        (
            linux.is_some_and(|linux| linux.intel_rdt().is_some()),
            "intelRdt",
        ),
        (
            linux.is_some_and(|linux| linux.personality().is_some()),
            "personality",
        ),
        (
            linux.is_some_and(|linux| linux.memory_policy().is_some()),
            "memoryPolicy",
        ),
        (
            linux.is_some_and(|linux| linux.time_offsets().is_some()),
            "timeOffsets",
        ),
        (
            linux.is_some_and(|linux| {
                linux
                    .net_devices()
                    .as_ref()
                    .is_some_and(|devices| !devices.is_empty())
            }),
            "netDevices",
        ),
        (
            linux.is_some_and(|linux| {
                linux
                    .mount_label()
                    .as_ref()
                    .is_some_and(|label| !label.is_empty())
            }),
            "mountLabel",
        ),
        (
            process.is_some_and(|process| {
                process
                    .selinux_label()
                    .as_ref()
                    .is_some_and(|label| !label.is_empty())
            }),
            "selinuxLabel",
        ),
        (
            process.is_some_and(|process| process.io_priority().is_some()),
            "ioPriority",
        ),
        (
            process.is_some_and(|process| process.scheduler().is_some()),
            "scheduler",
        ),
        (
            process.is_some_and(|process| process.exec_cpu_affinity().is_some()),
            "execCPUAffinity",
        ),
    ];
    match asked.into_iter().find(|(asked, _)| *asked) {
        Some((_, name)) => Err(PlanError::Unsupported(format!(
            "{name} of the runtime specification"
        ))),
        None => Ok(()),
    }
}

fn namespaces(linux: &Linux) -> Result<Vec<NamespacePlan>, PlanError> {
    let mut plans: Vec<NamespacePlan> = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        let kind = match namespace.typ() {
            LinuxNamespaceType::Mount => NamespaceKind::Mount,
            LinuxNamespaceType::Pid => NamespaceKind::Pid,
            LinuxNamespaceType::Network => NamespaceKind::Network,
            LinuxNamespaceType::Ipc => NamespaceKind::Ipc,
            LinuxNamespaceType::Uts => NamespaceKind::Uts,
            LinuxNamespaceType::Cgroup => NamespaceKind::Cgroup,
            LinuxNamespaceType::User => {
                return Err(PlanError::Unsupported("user namespaces".into()));
            }
            LinuxNamespaceType::Time => {
                return Err(PlanError::Unsupported("time namespaces".into()));
            }
        };
        let path = namespace
            .path()
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned())
            .filter(|path| !path.is_empty());
        if plans.iter().any(|plan| plan.kind == kind) {
            return Err(invalid(
                "namespace",
                &format!("{kind:?}"),
                "it is named twice",
            ));
        }
        if kind == NamespaceKind::Mount && path.is_some() {
            return Err(PlanError::Unsupported("joining a mount namespace".into()));
        }
        plans.push(NamespacePlan { kind, path });
    }
    Ok(plans)
}

fn root_propagation(word: Option<&str>) -> Result<u64, PlanError> {
    Ok(match word {
        // As runc: nothing said means that the host's mounts come in and ours do not go out.
        None | Some("" | "slave" | "rslave") => MS_SLAVE | MS_REC,
        Some("private" | "rprivate") => MS_PRIVATE | MS_REC,
        Some("shared" | "rshared") => MS_SHARED | MS_REC,
        Some("unbindable" | "runbindable") => MS_UNBINDABLE | MS_REC,
        Some(other) => return Err(invalid("rootfsPropagation", other, "unknown")),
    })
}

fn devices(linux: &Linux) -> Result<Vec<DevicePlan>, PlanError> {
    let node = |path: &str, major, minor| DevicePlan {
        path: path.into(),
        mode: S_IFCHR | 0o666,
        major,
        minor,
        uid: 0,
        gid: 0,
    };
    let mut plans = vec![
        node("/dev/null", 1, 3),
        node("/dev/random", 1, 8),
        node("/dev/full", 1, 7),
        node("/dev/tty", 5, 0),
        node("/dev/zero", 1, 5),
        node("/dev/urandom", 1, 9),
    ];
    bounded("devices", linux.devices().as_ref().map_or(0, Vec::len))?;
    for device in linux.devices().iter().flatten() {
        let plan = device_plan(device)?;
        match plans.iter_mut().find(|known| known.path == plan.path) {
            Some(known) => *known = plan,
            None => plans.push(plan),
        }
    }
    Ok(plans)
}

fn device_plan(device: &LinuxDevice) -> Result<DevicePlan, PlanError> {
    let path = device.path().to_string_lossy().into_owned();
    if !path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(invalid("device path", &path, "it must be absolute"));
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => S_IFCHR,
        LinuxDeviceType::P => S_IFIFO,
        LinuxDeviceType::A => {
            return Err(invalid(
                "device type",
                &path,
                "a node is a block or character device or a FIFO",
            ));
        }
    };
    let number = |value: i64| {
        u32::try_from(value).map_err(|_| invalid("device number", &path, "out of range"))
    };
    Ok(DevicePlan {
        mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
        major: number(device.major())?,
        minor: number(device.minor())?,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        path,
    })
}

/// What every container may do with devices besides what its specification says, as runc has it: make nodes, and use
/// the harmless ones, terminals and `/dev/net/tun`.
fn default_device_rules() -> Vec<DeviceRule> {
    let rule = |kind, major: Option<u32>, minor: Option<u32>, access: &str| DeviceRule {
        allow: true,
        kind,
        major,
        minor,
        access: access.to_owned(),
    };
    let node = |major, minor| rule(DeviceKind::Character, Some(major), minor, "rwm");
    vec![
        rule(DeviceKind::Character, None, None, "m"),
        rule(DeviceKind::Block, None, None, "m"),
        node(1, Some(3)),
        node(1, Some(8)),
        node(1, Some(7)),
        node(5, Some(0)),
        node(1, Some(5)),
        node(1, Some(9)),
        node(136, None),
        node(5, Some(2)),
        node(10, Some(200)),
    ]
}

fn cgroup(linux: &Linux, id: &str) -> Result<CgroupPlan, PlanError> {
    let path = match linux.cgroups_path() {
        Some(path) => path.to_string_lossy().trim_matches('/').to_owned(),
        None => format!("kekkai/{id}"),
    };
    if path.contains(':') {
        return Err(PlanError::Unsupported("the systemd cgroup driver".into()));
    }
    if path.is_empty()
        || path
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Err(invalid("cgroupsPath", &path, "it leaves the hierarchy"));
    }
    let mut limits = match linux.resources() {
        Some(resources) => Limits::from_oci(resources)
            .map_err(|error| invalid("resources", "linux.resources", &error.to_string()))?,
        None => Limits::default(),
    };
    let allows_all = limits
        .devices
        .iter()
        .rfind(|rule| rule.is_for_all())
        .is_some_and(|rule| rule.allow);
    let denies = limits
        .devices
        .iter()
        .any(|rule| !rule.allow && !rule.is_for_all());
    if !allows_all || denies {
        if !limits.devices.iter().any(DeviceRule::is_for_all) {
            let all = DeviceRule {
                allow: false,
                kind: DeviceKind::All,
                major: None,
                minor: None,
                access: "rwm".into(),
            };
            limits.devices.insert(0, all);
        }
        for rule in default_device_rules() {
            if !limits.devices.contains(&rule) {
                limits.devices.push(rule);
            }
        }
    }
    Ok(CgroupPlan {
        path,
        limits,
        prepared: false,
    })
}

/// The sysctls of a container must belong to a namespace of its own; anything else would change the host.
fn sysctls(
    linux: &Linux,
    namespaces: &[NamespacePlan],
    hostname: bool,
) -> Result<Vec<(String, String)>, PlanError> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let has = |kind| namespaces.iter().any(|namespace| namespace.kind == kind);
    let mut plans = Vec::new();
    for (given, value) in linux.sysctl().iter().flatten() {
        // Either separator may be used; where the first is a slash, dots belong to the name.
        let first = given
            .find(['.', '/'])
            .and_then(|index| given.as_bytes().get(index));
        let path = if first == Some(&b'/') {
            given.clone()
        } else {
            given
                .replace('.', "\0")
                .replace('/', ".")
                .replace('\0', "/")
        };
        let key = path.replace('/', ".");
        let separate = match key.as_str() {
            _ if IPC.contains(&key.as_str()) || key.starts_with("fs.mqueue.") => {
                has(NamespaceKind::Ipc)
            }
            _ if key.starts_with("net.") => has(NamespaceKind::Network),
            "kernel.domainname" => has(NamespaceKind::Uts),
            "kernel.hostname" if hostname => {
                return Err(invalid(
                    "sysctl",
                    given,
                    "it conflicts with the OCI \"hostname\" field",
                ));
            }
            "kernel.hostname" => has(NamespaceKind::Uts),
            _ => false,
        };
        if !separate {
            return Err(invalid(
                "sysctl",
                given,
                "it is not in a separate kernel namespace",
            ));
        }
        if path
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..")
        {
            return Err(invalid("sysctl", given, "it is no name of a sysctl"));
        }
        plans.push((path, value.clone()));
    }
    bounded("sysctls", plans.len())?;
    plans.sort();
    Ok(plans)
}

fn paths(field: &'static str, paths: Option<&[String]>) -> Result<Vec<String>, PlanError> {
    let paths = paths.unwrap_or_default();
    bounded(field, paths.len())?;
    match paths
        .iter()
        .find(|path| !path.starts_with('/') || path.contains('\0'))
    {
        Some(path) => Err(invalid(field, path, "it is not absolute")),
        None => Ok(paths.to_vec()),
    }
}

fn process(
    process: &Process,
    seccomp: Option<seccomp::Program>,
    user: Option<&str>,
) -> Result<ProcessPlan, PlanError> {
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(PlanError::Missing("process.args"));
    }
    let env = process.env().clone().unwrap_or_default();
    let size: usize = args.iter().chain(&env).map(String::len).sum();
    if size > MAX_STRINGS || args.iter().chain(&env).any(|text| text.contains('\0')) {
        return Err(invalid(
            "process",
            "args and env",
            "they are too long or contain a zero byte",
        ));
    }
    let cwd = process.cwd().to_string_lossy().into_owned();
    if !cwd.starts_with('/') || cwd.contains('\0') {
        return Err(invalid("cwd", &cwd, "it needs to be an absolute path"));
    }
    let oci_user = process.user();
    let user = user
        .map(str::to_owned)
        .or_else(|| oci_user.username().clone().filter(|name| !name.is_empty()));
    let user = match user {
        Some(name) => UserPlan::Named(name),
        None => UserPlan::Ids {
            uid: oci_user.uid(),
            gid: oci_user.gid(),
            groups: oci_user.additional_gids().clone().unwrap_or_default(),
        },
    };
    let rlimits = process.rlimits().iter().flatten().map(|limit| RlimitPlan {
        resource: resource(limit.typ()),
        soft: limit.soft(),
        hard: limit.hard(),
    });
    Ok(ProcessPlan {
        args,
        env,
        cwd,
        user,
        groups: Vec::new(),
        capabilities: process.capabilities().as_ref().map(capabilities),
        rlimits: rlimits.collect(),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        apparmor: process
            .apparmor_profile()
            .clone()
            .filter(|profile| !profile.is_empty()),
        oom_score_adj: process.oom_score_adj(),
        umask: oci_user.umask().unwrap_or(0o022) & 0o777,
        terminal: process.terminal().unwrap_or(false),
        seccomp,
    })
}

fn capabilities(sets: &LinuxCapabilities) -> CapabilityPlan {
    let mask = |set: &Option<Capabilities>| {
        set.iter().flatten().fold(0u64, |mask, name| {
            // A capability that we have no number for is one this kernel cannot grant: dockerd warns and goes on.
            capability::number(&format!(
                "CAP_{}",
                name.to_string().trim_start_matches("CAP_")
            ))
            .map_or(mask, |number| mask | 1 << number)
        })
    };
    CapabilityPlan {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        permitted: mask(sets.permitted()),
        inheritable: mask(sets.inheritable()),
        ambient: mask(sets.ambient()),
    }
}

/// `RLIMIT_*` of the generic architectures.
fn resource(typ: PosixRlimitType) -> u32 {
    match typ {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

fn bounded(field: &'static str, count: usize) -> Result<(), PlanError> {
    match count {
        0..=MAX_ENTRIES => Ok(()),
        _ => Err(invalid(field, &count.to_string(), "there are too many")),
    }
}

fn invalid(field: &'static str, subject: &str, reason: &str) -> PlanError {
    PlanError::Invalid {
        field,
        subject: subject.to_owned(),
        reason: reason.to_owned(),
    }
}
