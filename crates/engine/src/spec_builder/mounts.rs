//! The mounts of a container, in the order in which they are made: the kernel's file systems, then the user's by depth,
//! then the three files in /etc.

use std::path::PathBuf;

use kekkai_oci::runtime::Mount;

use super::{Ipc, SpecInputs};
use crate::model::{MountKind, MountPoint};

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(destination))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(
            options.iter().map(|option| (*option).to_owned()).collect(),
        ));
    mount
}

fn defaults(inputs: &SpecInputs<'_>) -> Vec<Mount> {
    let host = &inputs.spec.host;
    let cgroup: &[&str] = if host.privileged || inputs.writable_cgroups {
        &["nosuid", "noexec", "nodev"]
    } else {
        &["ro", "nosuid", "noexec", "nodev"]
    };
    let sys: &[&str] = if host.privileged {
        &["nosuid", "noexec", "nodev"]
    } else {
        &["nosuid", "noexec", "nodev", "ro"]
    };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("/sys", "sysfs", "sysfs", sys),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", cgroup),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
    ];
    match &inputs.ipc {
        Ipc::None => {}
        Ipc::Own => {
            let size = format!("size={}", host.shm_size);
            mounts.push(mount(
                "/dev/shm",
                "tmpfs",
                "shm",
                &["nosuid", "noexec", "nodev", "mode=1777", &size],
            ));
        }
        Ipc::Shared { shm, .. } => {
            mounts.push(mount("/dev/shm", "bind", shm, &["rbind", "rprivate"]))
        }
    }
    mounts
}

/// The user's mount as the specification has it.
fn user(point: &MountPoint) -> Mount {
    match point.kind {
        MountKind::Tmpfs => {
            let mut options: Vec<String> = ["noexec", "nosuid", "nodev", "rprivate"]
                .map(str::to_owned)
                .to_vec();
            for word in point.mode.split(',').filter(|word| !word.is_empty()) {
                let opposite = match word {
                    "exec" => "noexec",
                    "suid" => "nosuid",
                    "dev" => "nodev",
                    "noexec" | "nosuid" | "nodev" | "rprivate" | "rw" | "defaults" => continue,
                    _ => "",
                };
                options.retain(|option| option != opposite);
                if opposite.is_empty() {
                    options.push(word.to_owned());
                }
            }
            if !point.read_write && !options.iter().any(|option| option == "ro") {
                options.push("ro".to_owned());
            }
            if let Some(size) = point.tmpfs_size {
                options.push(format!("size={size}"));
            }
            if let Some(mode) = point.tmpfs_mode {
                options.push(format!("mode={mode:o}"));
            }
            let words: Vec<&str> = options.iter().map(String::as_str).collect();
            mount(&point.destination, "tmpfs", "tmpfs", &words)
        }
        MountKind::Bind | MountKind::Volume => {
            let mut options = vec![if point.recursive { "rbind" } else { "bind" }];
            if !point.read_write {
                let top_only = point.mode == "ro-non-recursive" || !point.recursive;
                options.push(if top_only { "ro" } else { "rro" });
            }
            if !point.propagation.is_empty() {
                options.push(&point.propagation);
            }
            mount(&point.destination, "bind", &point.source, &options)
        }
    }
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

/// All mounts. The user's replace a default one of the same destination, and all below /dev when they mount /dev.
pub(super) fn build(inputs: &SpecInputs<'_>) -> Vec<Mount> {
    let points = &inputs.spec.mounts;
    let replaced = |destination: &str| {
        points.iter().any(|point| {
            point.destination == destination
                || point.destination == "/dev" && destination.starts_with("/dev/")
        })
    };
    let mut mounts: Vec<Mount> = defaults(inputs)
        .into_iter()
        .filter(|mount| !replaced(&mount.destination().to_string_lossy()))
        .collect();
    if let Some(init) = inputs.init {
        mounts.push(mount("/sbin/docker-init", "bind", init, &["bind", "ro"]));
    }
    let mut sorted: Vec<&MountPoint> = points.iter().collect();
    sorted.sort_by_key(|point| depth(&point.destination));
    mounts.extend(sorted.into_iter().map(user));
    let read_only = inputs.spec.host.readonly_rootfs;
    for (destination, source) in inputs.etc_files {
        if !points.iter().any(|point| point.destination == *destination) {
            let options: &[&str] = if read_only {
                &["rbind", "rro", "rprivate"]
            } else {
                &["rbind", "rprivate"]
            };
            mounts.push(mount(destination, "bind", source, options));
        }
    }
    for (destination, source) in inputs.extra_files {
        mounts.push(mount(destination, "bind", source, &["bind", "ro"]));
    }
    mounts
}
