//! Volumes of the `local` driver that have a file system of their own: `type=none,o=bind,device=DIR` and `type=tmpfs`.
//!
//! They are mounted on the volume's directory in the daemon's mount namespace while a container runs with them, so that
//! all of them see the same file system, and so that it survives a restart of the daemon.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kekkai_sys::mount::MountAttributes;
use kekkai_types::VolumeName;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};

use crate::error::VolumeError;

/// What is mounted on a volume's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalMount {
    kind: Kind,
    device: String,
    /// The options as they were given, for messages.
    options: String,
    attributes: Attributes,
    /// Options that are the file system's own.
    data: Vec<(String, Option<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bind { recursive: bool },
    Tmpfs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Attributes {
    read_only: bool,
    no_suid: bool,
    no_dev: bool,
    no_exec: bool,
    no_atime: bool,
}

impl LocalMount {
    /// Reads the driver's options; `None` when there are none.
    pub(crate) fn parse(
        name: &VolumeName,
        options: &BTreeMap<String, String>,
    ) -> Result<Option<LocalMount>, VolumeError> {
        if let Some(option) = options
            .keys()
            .find(|key| !matches!(key.as_str(), "type" | "device" | "o" | "size"))
        {
            return Err(VolumeError::InvalidOption {
                name: name.to_string(),
                option: option.clone(),
            });
        }
        if options.contains_key("size") {
            // Docker's quota, which needs a file system with project quotas.
            return Err(VolumeError::Unsupported {
                name: name.to_string(),
                kind: "local with a size".into(),
            });
        }
        if options.is_empty() {
            return Ok(None);
        }
        let get = |key: &'static str| {
            options
                .get(key)
                .filter(|value| !value.is_empty())
                .ok_or(VolumeError::MissingOption {
                    name: name.to_string(),
                    option: key,
                })
        };
        let device = get("device")?.clone();
        let kind = get("type")?.as_str();
        let given = options.get("o").map(String::as_str).unwrap_or_default();
        let mut mount = LocalMount {
            kind: Kind::Tmpfs,
            device,
            options: given.to_owned(),
            attributes: Attributes::default(),
            data: Vec::new(),
        };
        let mut bind = None;
        for option in given.split(',').filter(|o| !o.is_empty()) {
            match option {
                "bind" => bind = Some(false),
                "rbind" => bind = Some(true),
                "ro" => mount.attributes.read_only = true,
                "nosuid" => mount.attributes.no_suid = true,
                "nodev" => mount.attributes.no_dev = true,
                "noexec" => mount.attributes.no_exec = true,
                "noatime" => mount.attributes.no_atime = true,
                "rw" | "suid" | "dev" | "exec" | "atime" | "relatime" | "defaults" => {}
                other => mount.data.push(match other.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (other.to_owned(), None),
                }),
            }
        }
        mount.kind = match (kind, bind) {
            (_, Some(recursive)) => Kind::Bind { recursive },
            ("tmpfs", None) => Kind::Tmpfs,
            (other, None) => {
                return Err(VolumeError::Unsupported {
                    name: name.to_string(),
                    kind: other.to_owned(),
                });
            }
        };
        Ok(Some(mount))
    }

    /// Whether its content goes with the mount.
    pub(crate) fn is_tmpfs(&self) -> bool {
        self.kind == Kind::Tmpfs
    }

    /// Mounts it on `target`.
    pub(crate) fn mount(&self, target: &Path) -> Result<(), VolumeError> {
        self.try_mount(target).map_err(|errno| VolumeError::Mount {
            path: target.to_owned(),
            device: self.device.clone(),
            data: self.options.clone(),
            source: errno.into(),
        })
    }

    fn try_mount(&self, target: &Path) -> Result<(), Errno> {
        let mount: OwnedFd = match self.kind {
            Kind::Tmpfs => {
                let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
                fsconfig_set_string(&context, "source", self.device.as_str())?;
                for (key, value) in &self.data {
                    match value {
                        Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str())?,
                        None => fsconfig_set_flag(&context, key.as_str())?,
                    }
                }
                fsconfig_create(&context)?;
                fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, self.mount_flags())?
            }
            Kind::Bind { recursive } => {
                if !self.data.is_empty() {
                    return Err(Errno::INVAL);
                }
                let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                if recursive {
                    flags |= OpenTreeFlags::AT_RECURSIVE;
                }
                let mount = open_tree(CWD, self.device.as_str(), flags)?;
                let attributes = MountAttributes::new(self.mount_flags().bits().into(), 0, 0);
                if !attributes.is_empty() {
                    kekkai_sys::mount::set_attributes(mount.as_fd(), &attributes, recursive)?;
                }
                mount
            }
        };
        move_mount(
            &mount,
            "",
            CWD,
            target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
    }

    fn mount_flags(&self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        let wanted = [
            (self.attributes.read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
            (self.attributes.no_suid, MountAttrFlags::MOUNT_ATTR_NOSUID),
            (self.attributes.no_dev, MountAttrFlags::MOUNT_ATTR_NODEV),
            (self.attributes.no_exec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
            (self.attributes.no_atime, MountAttrFlags::MOUNT_ATTR_NOATIME),
        ];
        for (set, flag) in wanted {
            if set {
                flags |= flag;
            }
        }
        flags
    }
}

/// Whether something is mounted on the directory itself.
pub(crate) fn is_mounted(path: &Path) -> Result<bool, VolumeError> {
    /// `STATX_ATTR_MOUNT_ROOT`.
    const MOUNT_ROOT: u64 = 0x2000;
    match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MODE) {
        Ok(stat) => Ok(stat.stx_attributes.bits() & MOUNT_ROOT != 0),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(VolumeError::io("stat", path, errno)),
    }
}

/// Takes the mount off the directory; the file system itself goes with its last user.
pub(crate) fn unmount(path: &Path) -> Result<(), VolumeError> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(VolumeError::io("unmount", path, errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Option<LocalMount>, VolumeError> {
        let map = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        LocalMount::parse(&"data".parse().unwrap(), &map)
    }

    #[test]
    fn options() {
        assert_eq!(parse(&[]).unwrap(), None);
        let tmpfs = parse(&[
            ("type", "tmpfs"),
            ("device", "tmpfs"),
            ("o", "size=1m,nosuid,uid=7"),
        ])
        .unwrap()
        .unwrap();
        assert!(tmpfs.attributes.no_suid && !tmpfs.attributes.no_exec);
        assert_eq!(
            tmpfs.data,
            [
                ("size".into(), Some("1m".into())),
                ("uid".into(), Some("7".into()))
            ]
        );
        let bind = parse(&[("type", "none"), ("device", "/srv"), ("o", "rbind")])
            .unwrap()
            .unwrap();
        assert_eq!(bind.kind, Kind::Bind { recursive: true });
        let error = |options: &[(&str, &str)]| parse(options).unwrap_err().to_string();
        assert_eq!(
            error(&[("foo", "bar")]),
            "create data: invalid option: \"foo\""
        );
        assert_eq!(
            error(&[("type", "tmpfs")]),
            "create data: missing required option: \"device\""
        );
        assert_eq!(
            error(&[("device", "/x"), ("o", "bind")]),
            "create data: missing required option: \"type\""
        );
        assert!(
            error(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=1.2.3.4")])
                .contains("type nfs")
        );
    }
}
