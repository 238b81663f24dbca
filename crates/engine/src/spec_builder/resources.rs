//! Devices and limits.

use std::path::PathBuf;

use kekkai_oci::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory,
    LinuxPids, LinuxResources, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDevice,
    LinuxWeightDeviceBuilder,
};

use super::SpecInputs;
use crate::model::{DeviceRate, HostOptions};

/// A device of the host, looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceNode {
    /// Path inside.
    pub(crate) path: String,
    /// Block device; character device otherwise.
    pub(crate) block: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Some of `rwm`.
    pub(crate) access: String,
}

impl DeviceNode {
    fn kind(&self) -> LinuxDeviceType {
        if self.block {
            LinuxDeviceType::B
        } else {
            LinuxDeviceType::C
        }
    }

    pub(super) fn to_oci(&self) -> LinuxDevice {
        let mut device = LinuxDevice::default();
        device
            .set_path(PathBuf::from(&self.path))
            .set_typ(self.kind())
            .set_major(i64::from(self.major))
            .set_minor(i64::from(self.minor))
            .set_file_mode(Some(self.mode))
            .set_uid(Some(self.uid))
            .set_gid(Some(self.gid));
        device
    }
}

/// The numbers of a block device that a limit names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockDevice {
    pub(crate) path: String,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

fn rule(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(kind)
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// `/dev/{zero,null,urandom,random,tty,console}`, as Docker's default specification allows them; the runtime adds what
/// every container needs besides.
const ALWAYS: [(i64, i64); 6] = [(1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1)];

fn devices(inputs: &SpecInputs<'_>) -> Vec<LinuxDeviceCgroup> {
    let host = &inputs.spec.host;
    let mut rules = vec![rule(false, None, None, None, "rwm")];
    if host.privileged {
        rules.push(rule(true, None, None, None, "rwm"));
        return rules;
    }
    for (major, minor) in ALWAYS {
        rules.push(rule(
            true,
            Some(LinuxDeviceType::C),
            Some(major),
            Some(minor),
            "rwm",
        ));
    }
    for node in inputs.devices {
        let (major, minor) = (i64::from(node.major), i64::from(node.minor));
        rules.push(rule(
            true,
            Some(node.kind()),
            Some(major),
            Some(minor),
            &node.access,
        ));
    }
    for text in &host.resources.device_cgroup_rules {
        // Checked at creation: `c 42:* rwm`.
        let mut parts = text.split(' ');
        let (Some(kind), Some(numbers), Some(access)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (major, minor) = numbers.split_once(':').unwrap_or((numbers, "*"));
        let kind = match kind {
            "b" => LinuxDeviceType::B,
            "c" => LinuxDeviceType::C,
            _ => LinuxDeviceType::A,
        };
        rules.push(rule(
            true,
            Some(kind),
            major.parse().ok(),
            minor.parse().ok(),
            access,
        ));
    }
    rules
}

fn positive(value: i64) -> Option<i64> {
    (value != 0).then_some(value)
}

fn unsigned(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value != 0)
}

fn throttle(rates: &[DeviceRate], known: &[BlockDevice]) -> Option<Vec<LinuxThrottleDevice>> {
    let list: Vec<LinuxThrottleDevice> = rates
        .iter()
        .filter_map(|rate| {
            let device = known.iter().find(|device| device.path == rate.path)?;
            LinuxThrottleDeviceBuilder::default()
                .major(device.major)
                .minor(device.minor)
                .rate(rate.rate)
                .build()
                .ok()
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

fn block_io(inputs: &SpecInputs<'_>) -> LinuxBlockIo {
    let wanted = &inputs.spec.host.resources;
    let known = inputs.block_devices;
    let weights: Vec<LinuxWeightDevice> = wanted
        .blkio_weight_device
        .iter()
        .filter_map(|rate| {
            let device = known.iter().find(|device| device.path == rate.path)?;
            LinuxWeightDeviceBuilder::default()
                .major(device.major)
                .minor(device.minor)
                .weight(u16::try_from(rate.rate).ok()?)
                .build()
                .ok()
        })
        .collect();
    let mut block = LinuxBlockIo::default();
    block
        .set_weight((wanted.blkio_weight != 0).then_some(wanted.blkio_weight))
        .set_weight_device((!weights.is_empty()).then_some(weights))
        .set_throttle_read_bps_device(throttle(&wanted.blkio_device_read_bps, known))
        .set_throttle_write_bps_device(throttle(&wanted.blkio_device_write_bps, known))
        .set_throttle_read_iops_device(throttle(&wanted.blkio_device_read_iops, known))
        .set_throttle_write_iops_device(throttle(&wanted.blkio_device_write_iops, known));
    block
}

/// The limits of the container's cgroup.
pub(super) fn build(inputs: &SpecInputs<'_>) -> LinuxResources {
    let mut resources = limits_of(&inputs.spec.host);
    resources
        .set_devices(Some(devices(inputs)))
        .set_block_io(Some(block_io(inputs)));
    resources
}

/// The limits that can be changed while a container runs.
pub(crate) fn limits_of(host: &HostOptions) -> LinuxResources {
    let wanted = &host.resources;
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(positive(wanted.memory))
        .set_reservation(positive(wanted.memory_reservation))
        .set_swap(positive(wanted.memory_swap))
        .set_swappiness(
            wanted
                .memory_swappiness
                .and_then(|value| u64::try_from(value).ok()),
        )
        .set_disable_oom_killer(wanted.oom_kill_disable.filter(|disable| *disable));
    let (quota, period) = if wanted.nano_cpus > 0 {
        // 100 ms periods, as Docker has it: 10⁹ nano-CPUs are 100,000 µs per period.
        (Some((wanted.nano_cpus / 10_000).max(1_000)), Some(100_000))
    } else {
        (positive(wanted.cpu_quota), unsigned(wanted.cpu_period))
    };
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(unsigned(wanted.cpu_shares))
        .set_quota(quota)
        .set_period(period)
        .set_cpus((!wanted.cpuset_cpus.is_empty()).then(|| wanted.cpuset_cpus.clone()))
        .set_mems((!wanted.cpuset_mems.is_empty()).then(|| wanted.cpuset_mems.clone()));
    let pids = wanted.pids_limit.filter(|limit| *limit > 0).map(|limit| {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        pids
    });
    let mut block = LinuxBlockIo::default();
    block.set_weight((wanted.blkio_weight != 0).then_some(wanted.blkio_weight));
    let mut resources = LinuxResources::default();
    resources
        .set_devices(None)
        .set_memory(Some(memory))
        .set_cpu(Some(cpu))
        .set_pids(pids)
        .set_block_io(Some(block));
    resources
}
