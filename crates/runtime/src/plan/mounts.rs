//! Mount options: from OCI's words to the kernel's numbers. Pure.

use kekkai_oci::runtime::Mount;
use kekkai_sys::mount::{
    ATTR_ATIME_MASK, ATTR_NOATIME, ATTR_NODEV, ATTR_NODIRATIME, ATTR_NOEXEC, ATTR_NOSUID,
    ATTR_NOSYMFOLLOW, ATTR_RDONLY, ATTR_RELATIME, ATTR_STRICTATIME, MAX_FSCONFIG_STRING,
};

use super::{MountKind, MountPlan};
use crate::PlanError;

/// `MS_REC`.
pub(super) const MS_REC: u64 = 1 << 14;
/// `MS_UNBINDABLE`.
pub(super) const MS_UNBINDABLE: u64 = 1 << 17;
/// `MS_PRIVATE`.
pub(super) const MS_PRIVATE: u64 = 1 << 18;
/// `MS_SLAVE`.
pub(super) const MS_SLAVE: u64 = 1 << 19;
/// `MS_SHARED`.
pub(super) const MS_SHARED: u64 = 1 << 20;

/// Files under `/proc` that a bind mount may replace; anything else there would let a container lie to itself about
/// its boundary.
const PROC_BINDS: [&str; 12] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/vm/overcommit_memory",
];

/// The most options of one mount.
const MAX_OPTIONS: usize = 128;

/// Plans one mount.
pub(super) fn plan(mount: &Mount) -> Result<MountPlan, PlanError> {
    let destination = destination(mount)?;
    let source = mount
        .source()
        .as_ref()
        .map(|source| source.to_string_lossy().into_owned());
    let mut parsed = Parsed::default();
    let options = mount.options().as_deref().unwrap_or_default();
    if options.len() > MAX_OPTIONS {
        return Err(invalid("mount", &destination, "it has too many options"));
    }
    options.iter().try_for_each(|option| parsed.add(option))?;
    let fstype = mount.typ().clone().unwrap_or_default();
    let is_bind = parsed.bind.is_some() || fstype == "bind";
    let kind = match fstype.as_str() {
        _ if is_bind => {
            let source = source.filter(|source| source.starts_with('/'));
            let source = source.ok_or_else(|| {
                invalid(
                    "mount source",
                    &destination,
                    "a bind mount needs an absolute path",
                )
            })?;
            if let Some((key, _)) = parsed.data.first() {
                return Err(PlanError::Unsupported(format!(
                    "option {key:?} of the bind mount {destination:?}"
                )));
            }
            MountKind::Bind {
                source,
                recursive: parsed.bind.unwrap_or(true),
            }
        }
        "cgroup" | "cgroup2" => MountKind::Cgroup,
        "" => {
            return Err(invalid(
                "mount",
                &destination,
                "it has neither a type nor the option bind",
            ));
        }
        _ => MountKind::FileSystem {
            source: source
                .filter(|source| !source.is_empty())
                .unwrap_or_else(|| fstype.clone()),
            fstype,
            options: parsed.data,
        },
    };
    check_proc(&destination, &kind)?;
    Ok(MountPlan {
        destination,
        kind,
        set: parsed.set,
        clear: parsed.clear,
        set_recursive: parsed.set_recursive,
        clear_recursive: parsed.clear_recursive,
        propagation: parsed.propagation,
    })
}

fn destination(mount: &Mount) -> Result<String, PlanError> {
    let text = mount.destination().to_str().ok_or_else(|| {
        invalid(
            "mount destination",
            &mount.destination().to_string_lossy(),
            "it is not UTF-8",
        )
    })?;
    // Relative destinations are taken from the root, as runc does for old configurations.
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    if text.contains('\0') || parts.is_empty() {
        return Err(invalid(
            "mount destination",
            text,
            "it must be a path other than '/'",
        ));
    }
    Ok(format!("/{}", parts.join("/")))
}

fn check_proc(destination: &str, kind: &MountKind) -> Result<(), PlanError> {
    let inside = destination.starts_with("/proc/");
    match kind {
        MountKind::Bind { .. } if destination == "/proc" => Err(invalid(
            "mount destination",
            destination,
            "only a proc file system can be mounted there",
        )),
        MountKind::Bind { .. } if inside && PROC_BINDS.contains(&destination) => Ok(()),
        MountKind::FileSystem { fstype, .. } if destination == "/proc" && fstype == "proc" => {
            Ok(())
        }
        _ if inside => Err(invalid(
            "mount destination",
            destination,
            "cannot be mounted because it is inside /proc",
        )),
        _ => Ok(()),
    }
}

fn invalid(field: &'static str, subject: &str, reason: &str) -> PlanError {
    PlanError::Invalid {
        field,
        subject: subject.to_owned(),
        reason: reason.to_owned(),
    }
}

#[derive(Default)]
struct Parsed {
    set: u64,
    clear: u64,
    set_recursive: u64,
    clear_recursive: u64,
    propagation: u64,
    /// `Some(recursive)` for bind mounts.
    bind: Option<bool>,
    data: Vec<(String, Option<String>)>,
}

impl Parsed {
    fn add(&mut self, option: &str) -> Result<(), PlanError> {
        if let Some((attribute, on)) = attribute(option) {
            self.change(attribute, on, false);
            return Ok(());
        }
        if let Some((attribute, on)) = option
            .strip_prefix('r')
            .and_then(attribute)
            .filter(|_| is_recursive_name(option))
        {
            self.change(attribute, on, true);
            return Ok(());
        }
        match option {
            "defaults" => {}
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "private" => self.propagation = MS_PRIVATE,
            "rprivate" => self.propagation = MS_PRIVATE | MS_REC,
            "slave" => self.propagation = MS_SLAVE,
            "rslave" => self.propagation = MS_SLAVE | MS_REC,
            "shared" => self.propagation = MS_SHARED,
            "rshared" => self.propagation = MS_SHARED | MS_REC,
            "unbindable" => self.propagation = MS_UNBINDABLE,
            "runbindable" => self.propagation = MS_UNBINDABLE | MS_REC,
            "tmpcopyup" | "idmap" | "ridmap" | "remount" => {
                return Err(PlanError::Unsupported(format!("mount option {option:?}")));
            }
            // A devpts of the mount API always is a new instance.
            "newinstance" => {}
            "async" | "nomand" | "mand" | "loud" => {}
            _ => {
                let (key, value) = match option.split_once('=') {
                    Some((key, value)) => (key, Some(value.to_owned())),
                    None => (option, None),
                };
                if key.is_empty() || option.len() > MAX_FSCONFIG_STRING || option.contains('\0') {
                    return Err(invalid("mount option", option, "it is empty or too long"));
                }
                self.data.push((key.to_owned(), value));
            }
        }
        Ok(())
    }

    fn change(&mut self, attribute: u64, on: bool, recursive: bool) {
        let (set, clear) = match recursive {
            false => (&mut self.set, &mut self.clear),
            true => (&mut self.set_recursive, &mut self.clear_recursive),
        };
        let is_atime = attribute & ATTR_ATIME_MASK != 0 || attribute == ATTR_RELATIME;
        match (is_atime, on) {
            // One of three values in one field: the field is cleared and the value set.
            (true, true) => {
                *set = *set & !ATTR_ATIME_MASK | attribute;
                *clear |= ATTR_ATIME_MASK;
            }
            (true, false) => {
                *set &= !ATTR_ATIME_MASK;
                *clear |= ATTR_ATIME_MASK;
            }
            (false, true) => {
                *set |= attribute;
                *clear &= !attribute;
            }
            (false, false) => {
                *set &= !attribute;
                *clear |= attribute;
            }
        }
    }
}

/// Options with a recursive twin begin with another `r`; `ro` and `rw` themselves and `relatime` do not count.
fn is_recursive_name(option: &str) -> bool {
    !matches!(option, "ro" | "rw" | "relatime")
}

/// Whether an option is a mount attribute, and whether it sets or clears it.
fn attribute(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "ro" => (ATTR_RDONLY, true),
        "rw" => (ATTR_RDONLY, false),
        "nosuid" => (ATTR_NOSUID, true),
        "suid" => (ATTR_NOSUID, false),
        "nodev" => (ATTR_NODEV, true),
        "dev" => (ATTR_NODEV, false),
        "noexec" => (ATTR_NOEXEC, true),
        "exec" => (ATTR_NOEXEC, false),
        "noatime" => (ATTR_NOATIME, true),
        "atime" => (ATTR_NOATIME, false),
        "strictatime" => (ATTR_STRICTATIME, true),
        "nostrictatime" => (ATTR_STRICTATIME, false),
        "relatime" => (ATTR_RELATIME, true),
        "norelatime" => (ATTR_RELATIME, false),
        "nodiratime" => (ATTR_NODIRATIME, true),
        "diratime" => (ATTR_NODIRATIME, false),
        "nosymfollow" => (ATTR_NOSYMFOLLOW, true),
        "symfollow" => (ATTR_NOSYMFOLLOW, false),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(destination: &str, typ: &str, source: &str, options: &[&str]) -> Mount {
        let mut mount = Mount::default();
        mount
            .set_destination(destination.into())
            .set_typ(Some(typ.into()))
            .set_source(Some(source.into()));
        mount.set_options(Some(options.iter().map(ToString::to_string).collect()));
        mount
    }

    #[test]
    fn dev() {
        let options = ["nosuid", "strictatime", "mode=755", "size=65536k"];
        let plan = plan(&mount("/dev/", "tmpfs", "tmpfs", &options)).unwrap();
        assert_eq!(plan.destination, "/dev");
        assert_eq!(plan.set, ATTR_NOSUID | ATTR_STRICTATIME);
        let MountKind::FileSystem { options, .. } = plan.kind else {
            panic!("not a file system")
        };
        assert_eq!(options[1], ("size".to_owned(), Some("65536k".to_owned())));
    }

    #[test]
    fn binds() {
        let plan = plan(&mount(
            "a/../b",
            "bind",
            "/src",
            &["rbind", "rro", "rprivate", "ro"],
        ))
        .unwrap();
        assert_eq!(plan.destination, "/b");
        assert_eq!(
            (plan.set, plan.set_recursive, plan.propagation),
            (ATTR_RDONLY, ATTR_RDONLY, MS_PRIVATE | MS_REC)
        );
        assert!(matches!(
            plan.kind,
            MountKind::Bind {
                recursive: true,
                ..
            }
        ));
    }

    #[test]
    fn proc_is_protected() {
        for bad in ["/proc/sys", "/proc/../proc/self", "/proc"] {
            assert!(
                plan(&mount(bad, "bind", "/src", &["bind"])).is_err(),
                "{bad}"
            );
        }
        assert!(plan(&mount("/proc/meminfo", "bind", "/src", &["bind"])).is_ok());
        assert!(plan(&mount("/proc", "proc", "proc", &[])).is_ok());
        assert!(plan(&mount("/", "tmpfs", "x", &[])).is_err());
    }
}
