//! Capabilities by name, and which of them a container has.

use kekkai_oci::runtime::{Capabilities, Capability};

/// Those that a container has without asking, as in Docker.
pub(crate) const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// All that Linux 6.x has, by number.
pub(crate) use kekkai_sys::capability::NAMES as ALL;

/// `net_admin` → `CAP_NET_ADMIN`; `all` → `ALL`. The error is the name that nobody knows.
pub(crate) fn normalize(name: &str) -> Result<String, String> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(upper);
    }
    let full = if upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    };
    if ALL.contains(&full.as_str()) {
        Ok(full)
    } else {
        Err(full)
    }
}

/// The container's capabilities. Names are normalised; those beyond `held` (what the engine itself may give, `None` =
/// everything) are left out of "all", as dockerd does.
pub(crate) fn effective(
    privileged: bool,
    add: &[String],
    drop: &[String],
    held: Option<u64>,
) -> Vec<&'static str> {
    let available = |number: usize| held.is_none_or(|mask| mask >> number & 1 == 1);
    let everything = || {
        ALL.iter()
            .enumerate()
            .filter(|(number, _)| available(*number))
            .map(|(_, name)| *name)
    };
    if privileged {
        return everything().collect();
    }
    let contains = |list: &[String], name: &str| list.iter().any(|item| item == name);
    let (add_all, drop_all) = (contains(add, "ALL"), contains(drop, "ALL"));
    let start: Vec<&'static str> = match (add_all, drop_all) {
        (true, _) => everything().filter(|name| !contains(drop, name)).collect(),
        (false, true) => Vec::new(),
        (false, false) => DEFAULT
            .iter()
            .copied()
            .filter(|name| !contains(drop, name))
            .collect(),
    };
    let mut list = start;
    for name in ALL {
        if contains(add, name) && !list.contains(&name) {
            list.push(name);
        }
    }
    list
}

/// As the specification wants them.
pub(super) fn set(names: &[&str]) -> Capabilities {
    names
        .iter()
        .filter_map(|name| name.strip_prefix("CAP_")?.parse::<Capability>().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_name_is_known_to_the_specification() {
        assert_eq!(set(&ALL).len(), ALL.len());
    }

    #[test]
    fn combinations() {
        assert_eq!(effective(false, &[], &[], None), DEFAULT);
        assert_eq!(effective(true, &[], &strings(&["ALL"]), None).len(), 41);
        assert_eq!(
            effective(false, &strings(&["CAP_CHOWN"]), &strings(&["ALL"]), None),
            ["CAP_CHOWN"]
        );
        assert_eq!(
            effective(false, &strings(&["ALL"]), &strings(&["CAP_BPF"]), None).len(),
            40
        );
        assert!(!effective(true, &[], &[], Some(!(1 << 24))).contains(&"CAP_SYS_RESOURCE"));
        assert_eq!(normalize("cap_net_admin").unwrap(), "CAP_NET_ADMIN");
        assert_eq!(normalize("foo").unwrap_err(), "CAP_FOO");
    }
}
