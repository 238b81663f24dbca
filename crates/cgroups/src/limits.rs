//! The limits of a container in the units of the OCI runtime specification, checked once.

use kekkai_oci::runtime::{LinuxDeviceType, LinuxResources, LinuxThrottleDevice};
use serde::{Deserialize, Serialize};

use crate::CgroupError;

/// Which device nodes a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Both.
    All,
    /// Block devices.
    Block,
    /// Character devices.
    Character,
}

/// One rule of the devices controller. Later rules win.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Whether it allows or denies.
    pub allow: bool,
    /// Which nodes.
    pub kind: DeviceKind,
    /// Major number; `None` is any.
    pub major: Option<u32>,
    /// Minor number; `None` is any.
    pub minor: Option<u32>,
    /// Any of `r`, `w`, `m` (make a node).
    pub access: String,
}

impl DeviceRule {
    /// Whether it is about every device and every access.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.kind == DeviceKind::All
            && self.major.is_none()
            && self.minor.is_none()
            && self.access.len() == 3
    }
}

/// A rate limit of one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "device numbers; bytes or operations per second"
)]
pub struct Throttle {
    pub major: u32,
    pub minor: u32,
    pub rate: u64,
}

/// Limits of one cgroup. `None` and empty leave the kernel's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes; -1 is unlimited.
    pub memory: Option<i64>,
    /// Memory and swap together in bytes; -1 is unlimited.
    pub memory_swap: Option<i64>,
    /// Soft limit in bytes.
    pub memory_reservation: Option<i64>,
    /// 0–100; v1 only.
    pub swappiness: Option<u64>,
    /// Whether tasks wait instead of being killed; v1 only.
    pub oom_kill_disable: bool,
    /// Relative weight, 2–262144, 1024 is the default.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds.
    pub cpu_burst: Option<u64>,
    /// Microseconds; v1 only.
    pub cpu_realtime_runtime: Option<i64>,
    /// Microseconds; v1 only.
    pub cpu_realtime_period: Option<u64>,
    /// Whether only idle time is used (1).
    pub cpu_idle: Option<i64>,
    /// A list of CPUs (`0-2,5`).
    pub cpuset_cpus: Option<String>,
    /// A list of memory nodes.
    pub cpuset_mems: Option<String>,
    /// Number of tasks; 0 and below is unlimited.
    pub pids: Option<i64>,
    /// 10–1000.
    pub blkio_weight: Option<u16>,
    /// Weights of single devices (major, minor, weight).
    pub blkio_weight_devices: Vec<(u32, u32, u16)>,
    /// Bytes per second.
    pub blkio_read_bps: Vec<Throttle>,
    /// Bytes per second.
    pub blkio_write_bps: Vec<Throttle>,
    /// Operations per second.
    pub blkio_read_iops: Vec<Throttle>,
    /// Operations per second.
    pub blkio_write_iops: Vec<Throttle>,
    /// Page size (`2MB`) and bytes.
    pub hugepages: Vec<(String, u64)>,
    /// Device rules in order.
    pub devices: Vec<DeviceRule>,
    /// Files of the unified hierarchy and what to write to them.
    pub unified: Vec<(String, String)>,
}

/// The longest list of CPUs, and the most entries of any list, that is taken from outside.
const MAX_LIST: usize = 4096;

impl Limits {
    /// Converts the `linux.resources` section of an OCI specification.
    ///
    /// # Errors
    /// [`CgroupError::Invalid`] for values that no kernel takes, [`CgroupError::Unsupported`] for sections that are not
    /// done (`network`, `rdma`, kernel memory).
    pub fn from_oci(resources: &LinuxResources) -> Result<Self, CgroupError> {
        let mut limits = Self::default();
        if resources
            .network()
            .as_ref()
            .is_some_and(|network| network.class_id().is_some() || network.priorities().is_some())
        {
            return Err(unsupported("network class", "not done"));
        }
        if resources
            .rdma()
            .as_ref()
            .is_some_and(|rdma| !rdma.is_empty())
        {
            return Err(unsupported("rdma", "not done"));
        }
        if let Some(memory) = resources.memory() {
            limits.memory = memory.limit().filter(|limit| *limit != 0);
            limits.memory_swap = memory.swap().filter(|limit| *limit != 0);
            limits.memory_reservation = memory.reservation().filter(|limit| *limit != 0);
            limits.swappiness = memory.swappiness();
            limits.oom_kill_disable = memory.disable_oom_killer().unwrap_or(false);
            if limits.swappiness.is_some_and(|value| value > 100) {
                return Err(invalid(
                    "memory swappiness",
                    limits.swappiness.unwrap_or_default(),
                    "it is between 0 and 100",
                ));
            }
        }
        limits.read_cpu(resources)?;
        limits.pids = resources
            .pids()
            .as_ref()
            .map(kekkai_oci::runtime::LinuxPids::limit)
            .filter(|limit| *limit != 0);
        limits.read_block_io(resources)?;
        for huge in resources.hugepage_limits().iter().flatten() {
            let limit = u64::try_from(huge.limit())
                .map_err(|_| invalid("hugepage limit", huge.limit(), "it is negative"))?;
            if huge.page_size().contains('/') {
                return Err(invalid("page size", huge.page_size(), "it is no size"));
            }
            limits.hugepages.push((huge.page_size().clone(), limit));
        }
        limits.read_devices(resources)?;
        for (file, value) in resources.unified().iter().flatten() {
            if file.contains('/') || !file.contains('.') {
                return Err(invalid("unified", file, "it is no control file"));
            }
            limits.unified.push((file.clone(), value.clone()));
        }
        limits.unified.sort();
        Ok(limits)
    }

    fn read_cpu(&mut self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let Some(cpu) = resources.cpu() else {
            return Ok(());
        };
        self.cpu_shares = cpu.shares().filter(|value| *value != 0);
        self.cpu_quota = cpu.quota().filter(|value| *value != 0);
        self.cpu_period = cpu.period().filter(|value| *value != 0);
        self.cpu_burst = cpu.burst();
        self.cpu_realtime_runtime = cpu.realtime_runtime().filter(|value| *value != 0);
        self.cpu_realtime_period = cpu.realtime_period().filter(|value| *value != 0);
        self.cpu_idle = cpu.idle();
        self.cpuset_cpus = list("cpuset cpus", cpu.cpus().as_deref())?;
        self.cpuset_mems = list("cpuset mems", cpu.mems().as_deref())?;
        Ok(())
    }

    fn read_block_io(&mut self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let Some(io) = resources.block_io() else {
            return Ok(());
        };
        self.blkio_weight = io.weight().filter(|weight| *weight != 0);
        if self
            .blkio_weight
            .is_some_and(|weight| !(10..=1000).contains(&weight))
        {
            return Err(invalid(
                "blkio weight",
                self.blkio_weight.unwrap_or_default(),
                "it is between 10 and 1000",
            ));
        }
        for device in io.weight_device().iter().flatten() {
            let Some(weight) = device.weight() else {
                continue;
            };
            self.blkio_weight_devices.push((
                number(device.major())?,
                number(device.minor())?,
                weight,
            ));
        }
        let convert = |devices: &Option<Vec<LinuxThrottleDevice>>| {
            devices
                .iter()
                .flatten()
                .map(|device| {
                    Ok(Throttle {
                        major: number(device.major())?,
                        minor: number(device.minor())?,
                        rate: device.rate(),
                    })
                })
                .collect::<Result<Vec<_>, CgroupError>>()
        };
        self.blkio_read_bps = convert(io.throttle_read_bps_device())?;
        self.blkio_write_bps = convert(io.throttle_write_bps_device())?;
        self.blkio_read_iops = convert(io.throttle_read_iops_device())?;
        self.blkio_write_iops = convert(io.throttle_write_iops_device())?;
        Ok(())
    }

    fn read_devices(&mut self, resources: &LinuxResources) -> Result<(), CgroupError> {
        for device in resources.devices().iter().flatten() {
            let kind = match device.typ() {
                None | Some(LinuxDeviceType::A) => DeviceKind::All,
                Some(LinuxDeviceType::B) => DeviceKind::Block,
                Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceKind::Character,
                Some(LinuxDeviceType::P) => {
                    return Err(invalid("device type", "p", "a FIFO is not controlled"));
                }
            };
            let any_or =
                |value: Option<i64>| value.filter(|value| *value >= 0).map(number).transpose();
            let access = device.access().clone().unwrap_or_else(|| "rwm".to_owned());
            if access.is_empty()
                || access.len() > 3
                || !access.chars().all(|letter| "rwm".contains(letter))
            {
                return Err(invalid("device access", access, "it is made of r, w and m"));
            }
            self.devices.push(DeviceRule {
                allow: device.allow(),
                kind,
                major: any_or(device.major())?,
                minor: any_or(device.minor())?,
                access,
            });
        }
        match self.devices.len() {
            0..=MAX_LIST => Ok(()),
            count => Err(invalid("number of device rules", count, "too many")),
        }
    }
}

fn number(value: i64) -> Result<u32, CgroupError> {
    u32::try_from(value).map_err(|_| invalid("device number", value, "out of range"))
}

fn list(field: &'static str, value: Option<&str>) -> Result<Option<String>, CgroupError> {
    match value {
        None | Some("") => Ok(None),
        Some(text)
            if text.len() <= MAX_LIST
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || b",-:/".contains(&byte)) =>
        {
            Ok(Some(text.to_owned()))
        }
        Some(text) => Err(invalid(field, text, "it is a list like 0-2,5")),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "texts and numbers alike")]
fn invalid(field: &'static str, value: impl ToString, reason: &'static str) -> CgroupError {
    CgroupError::Invalid {
        field,
        value: value.to_string(),
        reason,
    }
}

fn unsupported(limit: &'static str, reason: &str) -> CgroupError {
    CgroupError::Unsupported {
        limit,
        reason: reason.to_owned(),
    }
}
