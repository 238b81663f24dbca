//! Users and groups, looked up in the container's own files, beneath its root.
//!
//! What must stay true: the files are read through `openat2` beneath the root, never waited for (a FIFO is refused) and
//! bounded. The words of the errors are Docker's.

use std::os::fd::BorrowedFd;

use kekkai_sys::{Errno, beneath};

use super::failure::Failure;
use crate::Stage;
use crate::plan::UserPlan;

/// The largest passwd or group file that is read.
const MAX_FILE: usize = 8 * 1024 * 1024;
/// The largest id that Docker accepts by number.
const MAX_ID: u32 = i32::MAX as u32;
/// The kernel's limit of supplementary groups.
const MAX_GROUPS: usize = 65_536;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Looks a user up. `additional` are further groups by name or number.
pub(crate) fn resolve(
    root: BorrowedFd<'_>,
    user: &UserPlan,
    additional: &[String],
) -> Result<Identity, Failure> {
    let passwd = read(root, "etc/passwd");
    let needs_groups = !additional.is_empty() || matches!(user, UserPlan::Named(_));
    let group = if needs_groups {
        read(root, "etc/group")
    } else {
        String::new()
    };
    let mut identity = match user {
        UserPlan::Ids { uid, gid, groups } => Identity {
            uid: *uid,
            gid: *gid,
            groups: groups.clone(),
            home: entries(&passwd)
                .find(|entry| number(entry, 2) == Some(*uid))
                .and_then(|entry| entry.get(5).map(ToString::to_string))
                .unwrap_or_default(),
        },
        UserPlan::Named(name) => named(name, &passwd, &group)?,
    };
    for name in additional {
        let found = entries(&group)
            .find(|entry| {
                entry.first() == Some(&name.as_str()) || entry.get(2).is_some_and(|id| id == name)
            })
            .and_then(|entry| number(&entry, 2))
            .or_else(|| name.parse().ok().filter(|id| *id <= MAX_ID));
        identity
            .groups
            .push(found.ok_or_else(|| unknown("group", name, "group"))?);
    }
    if identity.home.is_empty() {
        "/".clone_into(&mut identity.home);
    }
    identity.groups.truncate(MAX_GROUPS);
    Ok(identity)
}

fn named(given: &str, passwd: &str, group: &str) -> Result<Identity, Failure> {
    let (user, wanted_group) = given.split_once(':').unwrap_or((given, ""));
    let as_number = |text: &str| text.parse::<u64>().ok();
    let mut identity = Identity {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        home: String::new(),
    };
    let mut name = String::new();
    if user.is_empty() {
        // ":group" and "" are root, as in Docker.
        if let Some(entry) = entries(passwd).find(|entry| number(entry, 2) == Some(0)) {
            take(&mut identity, &mut name, &entry);
        }
    } else {
        let matches = |entry: &Vec<&str>| {
            entry.first() == Some(&user) || entry.get(2).is_some_and(|id| *id == user)
        };
        match (entries(passwd).find(matches), as_number(user)) {
            (Some(entry), _) => take(&mut identity, &mut name, &entry),
            (None, Some(id)) => identity.uid = in_range(id)?,
            (None, None) => return Err(unknown("user", user, "passwd")),
        }
    }
    if wanted_group.is_empty() {
        let member = |entry: &Vec<&str>| {
            entry
                .get(3)
                .is_some_and(|list| list.split(',').any(|member| member == name))
        };
        let of_name = entries(group).filter(|entry| !name.is_empty() && member(entry));
        identity.groups = of_name
            .filter_map(|entry| number(&entry, 2))
            .take(MAX_GROUPS)
            .collect();
    } else {
        let matches = |entry: &Vec<&str>| {
            entry.first() == Some(&wanted_group)
                || entry.get(2).is_some_and(|id| *id == wanted_group)
        };
        identity.gid = match (entries(group).find(matches), as_number(wanted_group)) {
            (Some(entry), _) => {
                number(&entry, 2).ok_or_else(|| unknown("group", wanted_group, "group"))?
            }
            (None, Some(id)) => in_range(id)?,
            (None, None) => return Err(unknown("group", wanted_group, "group")),
        };
    }
    // dockerd puts the primary group in front of the supplementary ones.
    identity.groups.insert(0, identity.gid);
    Ok(identity)
}

fn take(identity: &mut Identity, name: &mut String, entry: &[&str]) {
    identity.uid = number(entry, 2).unwrap_or_default();
    identity.gid = number(entry, 3).unwrap_or_default();
    identity.home = entry.get(5).map(ToString::to_string).unwrap_or_default();
    *name = entry.first().map(ToString::to_string).unwrap_or_default();
}

fn in_range(id: u64) -> Result<u32, Failure> {
    let words = "uids and gids must be in range 0-2147483647";
    u32::try_from(id)
        .ok()
        .filter(|id| *id <= MAX_ID)
        .ok_or_else(|| Failure::worded(Stage::User, Errno::INVAL, id.to_string(), words))
}

fn unknown(what: &str, name: &str, file: &str) -> Failure {
    let words = format!("unable to find {what} {name}: no matching entries in {file} file");
    Failure::worded(Stage::User, Errno::INVAL, name, words)
}

/// A missing or unreadable file has no entries: numbers still work then, as in Docker.
fn read(root: BorrowedFd<'_>, path: &str) -> String {
    beneath::read_file(root, path, MAX_FILE)
        .map(|content| String::from_utf8_lossy(&content).into_owned())
        .unwrap_or_default()
}

fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').collect())
}

fn number(entry: &[&str], index: usize) -> Option<u32> {
    entry.get(index)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn resolve_in(user: &str, additional: &[&str]) -> Result<Identity, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\n# comment\ndaemon:x:2:2:d:/sbin:/x\n\nbroken\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        let group = "root:x:0:root\nbin:x:1:root,bin,daemon\nadm:x:4:daemon\naudio:x:18:\n";
        std::fs::write(dir.path().join("etc/group"), group).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let additional: Vec<String> = additional.iter().map(ToString::to_string).collect();
        resolve(root.as_fd(), &UserPlan::Named(user.into()), &additional)
            .map_err(|failure| failure.detail.unwrap())
    }

    fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<Identity, String> {
        Ok(Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        })
    }

    #[test]
    fn as_docker_does() {
        assert_eq!(resolve_in("", &[]), identity(0, 0, &[0, 0, 1], "/root"));
        assert_eq!(
            resolve_in("daemon", &[]),
            identity(2, 2, &[2, 1, 4], "/sbin")
        );
        assert_eq!(resolve_in("2", &[]), identity(2, 2, &[2, 1, 4], "/sbin"));
        assert_eq!(resolve_in("12345", &[]), identity(12345, 0, &[0], "/"));
        assert_eq!(resolve_in("12345:77", &[]), identity(12345, 77, &[77], "/"));
        assert_eq!(
            resolve_in("daemon:adm", &["audio", "777"]),
            identity(2, 4, &[4, 18, 777], "/sbin")
        );
    }

    #[test]
    fn words() {
        assert_eq!(
            resolve_in("x", &[]).unwrap_err(),
            "unable to find user x: no matching entries in passwd file"
        );
        assert_eq!(
            resolve_in("root:x", &[]).unwrap_err(),
            "unable to find group x: no matching entries in group file"
        );
        assert_eq!(
            resolve_in("root", &["x"]).unwrap_err(),
            "unable to find group x: no matching entries in group file"
        );
        assert_eq!(
            resolve_in("99999999999", &[]).unwrap_err(),
            "uids and gids must be in range 0-2147483647"
        );
    }
}
