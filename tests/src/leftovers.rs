//! Looks for what a daemon may have left on the machine, and removes what only the harness may remove.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Pid and command line of every process whose command line names `path`, this one aside.
pub fn processes_of(path: &Path) -> Vec<(u32, String)> {
    let needle = path.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if pid != std::process::id()
            && line.contains(&needle)
            && line.contains("kekkai")
            && !is_client(&line)
        {
            found.push((pid, line));
        }
    }
    found
}

/// A command line tool that is pointed at the socket, not a part of the engine.
fn is_client(line: &str) -> bool {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    program.ends_with("docker") || (program.ends_with("/kekkai") && words.next() != Some("daemon"))
}

/// A process's parent.
pub fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may hold spaces and parentheses; what follows its last one does not.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Mount points at or below `base`, deepest first.
pub fn mount_points_below(base: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = text
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|p| p.starts_with(base))
        .collect();
    points.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    points
}

/// The same, as words of a report, without those expected.
pub fn mounts_below(base: &Path, expected: &[&PathBuf]) -> Vec<String> {
    mount_points_below(base)
        .into_iter()
        .filter(|p| !expected.contains(&p))
        .map(|p| format!("mount {}", p.display()))
        .collect()
}

/// Every cgroup directory of that name in any hierarchy.
fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for point in mounts
        .lines()
        .filter(|l| l.contains(" - cgroup"))
        .filter_map(|l| l.split(' ').nth(4))
    {
        let path = Path::new(point).join(name);
        if path.exists() {
            found.push(path);
        }
    }
    found
}

fn folders_in(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

/// Cgroups of containers that still stand below the parent. A name that does not look like a container's (64 hex
/// digits somewhere) is the engine's own and lives as long as it.
pub fn cgroups_inside(parent: &str) -> Vec<String> {
    let long_hex = |p: &PathBuf| {
        let name = p
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        name.len() >= 64 && name.bytes().filter(u8::is_ascii_hexdigit).count() >= 64
    };
    let below = cgroups_named(parent)
        .into_iter()
        .flat_map(|p| folders_in(&p));
    below
        .filter(long_hex)
        .map(|p| format!("cgroup {}", p.display()))
        .collect()
}

/// Ends what still runs in the parent cgroup and below: containers whose engine a test has killed.
pub fn kill_cgroups(parent: &str) {
    fn kill(path: &Path) {
        let members = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        for pid in members
            .lines()
            .filter_map(|l| rustix::process::Pid::from_raw(l.parse().ok()?))
        {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        for folder in folders_in(path) {
            kill(&folder);
        }
    }
    for path in cgroups_named(parent) {
        kill(&path);
    }
}

/// Removes the parent cgroup and everything below, which no process is in any more.
pub fn remove_cgroups(parent: &str) {
    fn remove(path: &Path) {
        for folder in folders_in(path) {
            remove(&folder);
        }
        drop(std::fs::remove_dir(path));
    }
    for path in cgroups_named(parent) {
        remove(&path);
    }
}

/// Interfaces that still hang on a bridge and belong to nothing.
pub fn ports_of_bridge(bridge: &str) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/sys/class/net/{bridge}/brif"))
        .into_iter()
        .flatten()
        .flatten();
    // Pooled network namespaces die with the keeper that holds them, a moment later.
    let names: Vec<String> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    if !names.is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let still = |n: &&String| Path::new("/sys/class/net").join(n).exists();
    names
        .iter()
        .filter(still)
        .map(|n| format!("interface {n} on {bridge}"))
        .collect()
}

fn quiet(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|s| s.success())
}

/// Removes an interface, if it is there.
pub fn remove_link(name: &str) {
    if Path::new("/sys/class/net").join(name).exists() && !quiet("ip", &["link", "delete", name]) {
        eprintln!("could not remove the interface {name}");
    }
}

/// Removes an nf_tables table in the families an engine uses, if it is there.
pub fn remove_table(name: &str) {
    for family in ["inet", "ip", "ip6", "bridge"] {
        quiet("nft", &["delete", "table", family, name]);
    }
}

/// Removes the two accept rules that an engine keeps in Docker's chains for its bridge, where its daemon was killed
/// before it could.
pub fn remove_foreign_rules(bridge: &str) {
    for chain in ["DOCKER-USER", "FORWARD"] {
        let listed = Command::new("nft")
            .args(["-a", "list", "chain", "ip", "filter", chain])
            .output();
        let text = listed.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        let name = format!("\"{bridge}\"");
        for line in text
            .unwrap_or_default()
            .lines()
            .filter(|l| l.contains(&name))
        {
            if let Some((_, handle)) = line.rsplit_once("# handle ") {
                let words = [
                    "delete",
                    "rule",
                    "ip",
                    "filter",
                    chain,
                    "handle",
                    handle.trim(),
                ];
                quiet("nft", &words);
            }
        }
    }
}

/// Names in a folder, as words of a report.
pub fn entries(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|e| format!("{}", e.path().display())).collect()
}
