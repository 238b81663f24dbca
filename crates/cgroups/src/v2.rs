//! Version 2: one directory, controllers switched on from the root down.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::OFlags;

use crate::device_program;
use crate::{CgroupError, Limits, Throttle, files};

/// The controllers that are passed on to containers where the host has them.
const WANTED: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// Makes the cgroup, switching controllers on along the way.
pub(crate) fn create(root: &Path, path: &str) -> Result<(), CgroupError> {
    // The parents are ready if a sibling has been made before: try the cheap way first.
    let parent = Path::new(path)
        .parent()
        .and_then(Path::to_str)
        .unwrap_or_default();
    if !parent.is_empty() && is_ready(root, &root.join(parent)) {
        return files::mkdir(&root.join(path)).map(drop);
    }
    let mut current = root.to_owned();
    for part in path.split('/') {
        enable(root, &current);
        current.push(part);
        files::mkdir(&current)?;
    }
    Ok(())
}

fn is_ready(root: &Path, parent: &Path) -> bool {
    let Ok(enabled) = files::read(&parent.join("cgroup.subtree_control")) else {
        return false;
    };
    let Ok(available) = files::read(&root.join("cgroup.controllers")) else {
        return false;
    };
    let has = |list: &str, name: &str| list.split_whitespace().any(|known| known == name);
    WANTED
        .iter()
        .all(|name| !has(&available, name) || has(&enabled, name))
}

/// Switches on what can be: a controller that cannot is missed when a limit of it is written.
fn enable(root: &Path, directory: &Path) {
    let available = files::read(&directory.join("cgroup.controllers"))
        .or_else(|_| files::read(&root.join("cgroup.controllers")))
        .unwrap_or_default();
    let control = directory.join("cgroup.subtree_control");
    for name in WANTED
        .iter()
        .filter(|name| available.split_whitespace().any(|known| known == **name))
    {
        let _ = files::write(&control, &format!("+{name}"));
    }
}

/// Writes the limits.
pub(crate) fn apply(directory: &Path, limits: &Limits) -> Result<(), CgroupError> {
    refuse(limits)?;
    let write =
        |name: &str, value: String, limit| files::write_limit(&directory.join(name), &value, limit);
    if let Some(swap) = swap_alone(limits)? {
        // Raising the swap limit is always possible; it is written before a lower memory limit forces swapping.
        write("memory.swap.max", swap, "swap")?;
    }
    if let Some(memory) = limits.memory {
        write("memory.max", max_or(memory), "memory")?;
    }
    if let Some(reservation) = limits.memory_reservation {
        write("memory.low", max_or(reservation), "memory reservation")?;
    }
    if let Some(shares) = limits.cpu_shares {
        write(
            "cpu.weight",
            weight_of_shares(shares).to_string(),
            "CPU shares",
        )?;
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        let quota = limits
            .cpu_quota
            .filter(|quota| *quota > 0)
            .map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        write(
            "cpu.max",
            format!("{quota} {}", limits.cpu_period.unwrap_or(100_000)),
            "CPU time",
        )?;
    }
    if let Some(burst) = limits.cpu_burst {
        write("cpu.max.burst", burst.to_string(), "CPU bursts")?;
    }
    if let Some(idle) = limits.cpu_idle {
        write("cpu.idle", idle.to_string(), "idle CPU time")?;
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        write("cpuset.cpus", cpus.clone(), "the set of CPUs")?;
    }
    if let Some(mems) = &limits.cpuset_mems {
        write("cpuset.mems", mems.clone(), "the set of memory nodes")?;
    }
    if let Some(pids) = limits.pids {
        write(
            "pids.max",
            if pids > 0 {
                pids.to_string()
            } else {
                "max".to_owned()
            },
            "the number of processes",
        )?;
    }
    io(directory, limits)?;
    for (size, limit) in &limits.hugepages {
        write(
            &format!("hugetlb.{size}.max"),
            limit.to_string(),
            "huge pages",
        )?;
    }
    if !limits.devices.is_empty() {
        let cgroup = files::open(directory, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(CgroupError::file("open", directory))?;
        device_program::attach(cgroup.as_fd(), &limits.devices)
            .map_err(CgroupError::file("attach a device program to", directory))?;
    }
    for (name, value) in &limits.unified {
        write(name, value.clone(), "unified cgroup files")?;
    }
    Ok(())
}

fn refuse(limits: &Limits) -> Result<(), CgroupError> {
    let only_v1 = [
        (limits.swappiness.is_some(), "swappiness"),
        (limits.oom_kill_disable, "the OOM killer"),
        (
            limits.cpu_realtime_runtime.is_some() || limits.cpu_realtime_period.is_some(),
            "real-time CPU time",
        ),
    ];
    match only_v1.into_iter().find(|(asked, _)| *asked) {
        Some((_, limit)) => Err(CgroupError::Unsupported {
            limit,
            reason: "cgroup version 2 does not have it".into(),
        }),
        None => Ok(()),
    }
}

/// Version 2 counts swap alone, Docker and OCI count it together with memory.
fn swap_alone(limits: &Limits) -> Result<Option<String>, CgroupError> {
    let invalid = |value: i64, reason| CgroupError::Invalid {
        field: "memory swap",
        value: value.to_string(),
        reason,
    };
    match (limits.memory_swap, limits.memory) {
        (None, _) => Ok(None),
        (Some(-1), _) => Ok(Some("max".to_owned())),
        (Some(swap), Some(memory)) if memory > 0 && swap >= memory => {
            Ok(Some((swap - memory).to_string()))
        }
        (Some(swap), Some(memory)) if memory > 0 => {
            Err(invalid(swap, "it is smaller than the memory limit"))
        }
        (Some(swap), _) => Err(invalid(swap, "it needs a memory limit")),
    }
}

/// Maps 2..=262144 (1024 by default) onto 1..=10000 (100 by default), by the quadratic in log₂ that runc and crun use
/// since the linear one made 1024 shares far too little.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            #[allow(clippy::cast_precision_loss, reason = "at most 262144")]
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 10000"
            )]
            let weight = 10f64.powf(exponent).ceil() as u64;
            weight
        }
    }
}

fn io(directory: &Path, limits: &Limits) -> Result<(), CgroupError> {
    let bfq = directory.join("io.bfq.weight");
    if let Some(weight) = limits.blkio_weight {
        if bfq.exists() {
            files::write(&bfq, &weight.to_string())?;
        } else {
            // 10..=1000 onto 1..=10000, as runc.
            let weight = 1 + (u64::from(weight) - 10) * 9999 / 990;
            files::write_limit(
                &directory.join("io.weight"),
                &format!("default {weight}"),
                "block I/O weight",
            )?;
        }
    }
    for (major, minor, weight) in &limits.blkio_weight_devices {
        files::write_limit(
            &bfq,
            &format!("{major}:{minor} {weight}"),
            "block I/O weight",
        )?;
    }
    let throttles: [(&str, &[Throttle]); 4] = [
        ("rbps", &limits.blkio_read_bps),
        ("wbps", &limits.blkio_write_bps),
        ("riops", &limits.blkio_read_iops),
        ("wiops", &limits.blkio_write_iops),
    ];
    for (key, list) in throttles {
        for Throttle { major, minor, rate } in list {
            files::write_limit(
                &directory.join("io.max"),
                &format!("{major}:{minor} {key}={rate}"),
                "block I/O rate",
            )?;
        }
    }
    Ok(())
}

fn max_or(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 100, 10_000]);
    }

    #[test]
    fn swap() {
        let limits = |memory, memory_swap| Limits {
            memory,
            memory_swap,
            ..Limits::default()
        };
        assert_eq!(
            swap_alone(&limits(Some(100), Some(150)))
                .unwrap()
                .as_deref(),
            Some("50")
        );
        assert_eq!(
            swap_alone(&limits(Some(100), Some(-1))).unwrap().as_deref(),
            Some("max")
        );
        assert!(swap_alone(&limits(Some(100), Some(50))).is_err());
    }
}
