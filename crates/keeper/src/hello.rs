//! The built-in image's program: says what was just done, and what it sees itself.
//!
//! The engine mounts one file with what it knows; without it the program tells what `/proc` shows. It runs as an
//! ordinary container process, with nothing but its own file in its root.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Where the engine mounts what it tells.
const FILES: &[&str] = &["/run/kekkai/hello.json", "/etc/kekkai-hello.json"];

/// The program `kekkai-hello`.
pub fn run() -> ExitCode {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let told = FILES
        .iter()
        .find_map(|file| serde_json::from_slice(&std::fs::read(file).ok()?).ok());
    let text = compose(
        &told.unwrap_or(Value::Null),
        &Seen::look(),
        i64::try_from(now).unwrap_or(0),
    );
    match std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What this process sees of itself.
struct Seen {
    pid: u32,
    host: String,
    user: u32,
    namespaces: Vec<(String, String)>,
    cgroup: String,
    seccomp: bool,
    capabilities: String,
    mounts: usize,
}

impl Seen {
    fn look() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|rest| rest.trim_start_matches(':').trim().to_owned())
                .unwrap_or_default()
        };
        let names = ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user", "time"];
        let namespace = |name: &str| {
            let link = std::fs::read_link(format!("/proc/self/ns/{name}")).ok()?;
            let number = link.to_string_lossy().split(['[', ']']).nth(1)?.to_owned();
            Some((name.to_owned(), number))
        };
        let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self {
            pid: std::process::id(),
            host: std::fs::read_to_string("/proc/sys/kernel/hostname")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            user: rustix::process::getuid().as_raw(),
            namespaces: names.into_iter().filter_map(namespace).collect(),
            cgroup: cgroup
                .lines()
                .next()
                .and_then(|line| line.rsplit(':').next())
                .unwrap_or("?")
                .to_owned(),
            seccomp: field("Seccomp") == "2",
            capabilities: field("CapEff"),
            mounts: std::fs::read_to_string("/proc/self/mountinfo")
                .map_or(0, |text| text.lines().count()),
        }
    }
}

fn compose(told: &Value, seen: &Seen, now: i64) -> String {
    let text = |key: &str| {
        told.get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let mut out = String::from(
        "\nHello from Kekkai! This text was printed by a process with a boundary drawn around it.\n\n",
    );
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "  {name:<12}{value}");
    };
    if told.is_object() {
        if let Some(image) = text("image") {
            let id: String = text("image_id")
                .unwrap_or("")
                .trim_start_matches("sha256:")
                .chars()
                .take(12)
                .collect();
            line(
                "image",
                &if id.is_empty() {
                    image.to_owned()
                } else {
                    format!("{image} ({id})")
                },
            );
        }
        if let Some(container) = text("container") {
            let short: String = container.chars().take(12).collect();
            line(
                "container",
                &text("name").map_or(short.clone(), |name| format!("{short}, named {name}")),
            );
        }
        match (text("network"), text("address")) {
            (Some(network), Some(address)) => {
                line("network", &format!("{network}, address {address}"))
            }
            (Some(network), None) => line("network", network),
            _ => {}
        }
        if let Some(cgroup) = text("cgroup") {
            line(
                "cgroup",
                &format!("{cgroup} on the host, {} in here", seen.cgroup),
            );
        }
    } else {
        line(
            "engine",
            "told nothing about this container (no file was mounted); this is what it sees itself:",
        );
        line("cgroup", &seen.cgroup);
    }
    line(
        "process",
        &format!(
            "pid {} in here, user {}, host name {}",
            seen.pid, seen.user, seen.host
        ),
    );
    let namespaces: Vec<String> = seen
        .namespaces
        .iter()
        .map(|(name, number)| format!("{name} {number}"))
        .collect();
    for (index, chunk) in namespaces.chunks(4).enumerate() {
        line(
            if index == 0 { "namespaces" } else { "" },
            &chunk.join(", "),
        );
    }
    let seccomp = if seen.seccomp {
        "a seccomp filter"
    } else {
        "no seccomp filter"
    };
    line(
        "confined by",
        &format!(
            "{seccomp}, capabilities {}, {} mounts",
            seen.capabilities, seen.mounts
        ),
    );
    if let Some(requested) = told
        .get("start_requested_ns")
        .or_else(|| told.get("requested_at"))
        .and_then(Value::as_i64)
    {
        line(
            "started in",
            &format!(
                "{} ms from the request to this program's first line",
                milliseconds(now - requested)
            ),
        );
    }
    out.push_str("\nNext:  kekkai run -it alpine sh\n\n");
    out
}

/// Nanoseconds as milliseconds with two places.
fn milliseconds(nanoseconds: i64) -> String {
    let hundredths = nanoseconds.max(0) / 10_000;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_and_without_the_file() {
        let told = serde_json::json!({
            "image": "kekkai/hello:latest", "image_id": "sha256:0123456789abcdef", "container": "c".repeat(64),
            "name": "calm_fox", "cgroup": "kekkai/cc", "network": "bridge", "address": "172.18.0.2",
            "start_requested_ns": 1_000_000_000_i64,
        });
        let text = compose(&told, &Seen::look(), 1_001_234_567);
        for part in [
            "kekkai/hello:latest (0123456789ab)",
            "named calm_fox",
            "172.18.0.2",
            "1.23 ms",
            "pid ",
            "namespaces",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let bare = compose(&Value::Null, &Seen::look(), 0);
        assert!(bare.contains("pid ") && !bare.contains(" ms "), "{bare}");
    }
}
