//! The flags of `run` and `create`, and the checks that each value meets while it is read.

use kekkai_types::size;

use super::{mounts, network, resources, variables};
use crate::cli::flags::{Flag, int, list, many, one, switch, text};

/// The flags that `run` has beyond `create`'s.
macro_rules! run_only {
    () => {
        [
            switch(
                "detach",
                "Run in the background and print the container's id",
            )
            .short('d'),
            text(
                "detach-keys",
                "Keys that leave the container running in the background",
            ),
            switch("sig-proxy", "Pass signals on to the process").default("true"),
        ]
    };
}

const COMMON: [Flag; 103] = [
    list("add-host", "Add a line to /etc/hosts (host:ip)").check(network::check_add_host),
    many("annotation", "map", "Add an annotation for the OCI runtime").default("map[]"),
    list("attach", "Connect to STDIN, STDOUT or STDERR")
        .short('a')
        .check(check_stream),
    one(
        "blkio-weight",
        "uint16",
        "Weight of block I/O, 10 to 1000; 0 switches it off",
    )
    .default("0")
    .check(check_uint16),
    list("blkio-weight-device", "Weight of block I/O on one device")
        .default("[]")
        .check(resources::check_weight_device),
    list("cap-add", "Add Linux capabilities"),
    list("cap-drop", "Take Linux capabilities away"),
    text("cgroup-parent", "Parent of the container's cgroup"),
    text(
        "cgroupns",
        "Cgroup namespace: 'host' for the host's, 'private' for one of its own, '' for the daemon's default",
    ),
    text("cidfile", "Write the container's id into this file"),
    int("cpu-period", "Period of the CPU quota, in microseconds"),
    int("cpu-quota", "CPU time in each period, in microseconds"),
    int(
        "cpu-rt-period",
        "Period of the real-time CPU quota, in microseconds",
    ),
    int(
        "cpu-rt-runtime",
        "Real-time CPU time in each period, in microseconds",
    ),
    int("cpu-shares", "Share of CPU time against other containers").short('c'),
    one("cpus", "decimal", "Number of CPUs").check(check_cpus),
    text("cpuset-cpus", "CPUs to run on (0-3, 0,1)"),
    text("cpuset-mems", "Memory nodes to use (0-3, 0,1)"),
    list("device", "Give a device of the host to the container"),
    list(
        "device-cgroup-rule",
        "Add a rule to the cgroup's list of devices",
    )
    .check(resources::check_device_rule),
    list(
        "device-read-bps",
        "Most bytes read from a device each second",
    )
    .default("[]")
    .check(resources::check_rate_bytes),
    list("device-read-iops", "Most reads from a device each second")
        .default("[]")
        .check(resources::check_rate_count),
    list(
        "device-write-bps",
        "Most bytes written to a device each second",
    )
    .default("[]")
    .check(resources::check_rate_bytes),
    list("device-write-iops", "Most writes to a device each second")
        .default("[]")
        .check(resources::check_rate_count),
    switch(
        "disable-content-trust",
        "Skip the verification of image signatures",
    )
    .default("true"),
    list("dns", "DNS servers").check(network::check_dns),
    list("dns-opt", "Options of the resolver").hidden(),
    list("dns-option", "Options of the resolver"),
    list("dns-search", "Domains to search"),
    text("domainname", "NIS domain name"),
    text("entrypoint", "Use this instead of the image's ENTRYPOINT"),
    list("env", "Set environment variables")
        .short('e')
        .check(variables::check_env),
    list("env-file", "Read environment variables from a file"),
    list("expose", "Expose a port or a range of ports"),
    one("gpus", "gpu-request", "GPUs for the container"),
    list("group-add", "Groups of the process beside its own"),
    text("health-cmd", "Command that checks the container's health"),
    one(
        "health-interval",
        "duration",
        "Time between two checks (ms|s|m|h)",
    )
    .default("0s")
    .check(check_duration),
    int("health-retries", "Failures in a row that make it unhealthy"),
    one(
        "health-start-interval",
        "duration",
        "Time between two checks while it starts (ms|s|m|h)",
    )
    .default("0s")
    .check(check_duration),
    one(
        "health-start-period",
        "duration",
        "Time in which failures do not count (ms|s|m|h)",
    )
    .default("0s")
    .check(check_duration),
    one(
        "health-timeout",
        "duration",
        "Most time one check may take (ms|s|m|h)",
    )
    .default("0s")
    .check(check_duration),
    switch("help", "Print usage"),
    text("hostname", "The container's host name").short('h'),
    switch(
        "init",
        "Run a small init that passes on signals and reaps processes",
    ),
    switch(
        "interactive",
        "Keep STDIN open even when nobody is attached",
    )
    .short('i'),
    text("ip", "IPv4 address, for example 172.30.100.104"),
    text("ip6", "IPv6 address, for example 2001:db8::33"),
    text("ipc", "IPC namespace to use"),
    text("isolation", "Isolation technology (Windows)"),
    one("kernel-memory", "bytes", "Limit of kernel memory").check(check_bytes),
    list("label", "Set labels")
        .short('l')
        .check(variables::check_label),
    list("label-file", "Read labels from a file, one a line"),
    list("link", "Link to another container"),
    list("link-local-ip", "Link-local addresses"),
    text("log-driver", "Driver for the container's output"),
    list("log-opt", "Options of the log driver"),
    text("mac-address", "MAC address, for example 92:d0:c6:0a:29:33"),
    one("memory", "bytes", "Limit of memory")
        .short('m')
        .check(check_bytes),
    one(
        "memory-reservation",
        "bytes",
        "Memory to keep below when the host runs short",
    )
    .check(check_bytes),
    one(
        "memory-swap",
        "bytes",
        "Limit of memory and swap together; '-1' for no limit on swap",
    )
    .check(check_swap_bytes),
    int("memory-swappiness", "Readiness to swap, 0 to 100").default("-1"),
    many("mount", "mount", "Mount a directory, a volume or a tmpfs").check(mounts::check_mount),
    text("name", "Name of the container"),
    many("network", "network", "Network to connect to").check(network::check_network),
    many("net", "network", "Network to connect to")
        .check(network::check_network)
        .hidden(),
    list("network-alias", "Further name on the network"),
    list("net-alias", "Further name on the network").hidden(),
    switch("no-healthcheck", "Ignore the image's HEALTHCHECK"),
    switch("oom-kill-disable", "Do not kill when memory runs out"),
    int(
        "oom-score-adj",
        "How readily the kernel kills it when memory runs out (-1000 to 1000)",
    ),
    text("pid", "PID namespace to use"),
    int("pids-limit", "Most processes (-1 for no limit)"),
    text("platform", "Platform of the image (os[/arch[/variant]])"),
    switch("privileged", "Give the container all of root's rights"),
    list("publish", "Publish ports on the host").short('p'),
    switch("publish-all", "Publish all exposed ports on free ports").short('P'),
    text(
        "pull",
        "Pull the image first (\"always\", \"missing\", \"never\")",
    )
    .default("\"missing\""),
    switch("quiet", "Do not show the pull").short('q'),
    switch("read-only", "Mount the root file system read-only"),
    text("restart", "When to start it again after it exits").default("\"no\""),
    switch(
        "rm",
        "Remove the container and its anonymous volumes when it exits",
    ),
    text("runtime", "OCI runtime to use"),
    list("security-opt", "Security options"),
    one("shm-size", "bytes", "Size of /dev/shm").check(check_bytes),
    text("stop-signal", "Signal that asks it to stop"),
    int("stop-timeout", "Seconds between that signal and the kill"),
    list("storage-opt", "Options of the storage driver"),
    many("sysctl", "map", "Kernel parameters of its namespaces")
        .default("map[]")
        .check(variables::check_sysctl),
    list("tmpfs", "Mount a tmpfs"),
    switch("tty", "Give it a terminal").short('t'),
    many("ulimit", "ulimit", "Resource limits of the process")
        .default("[]")
        .check(resources::check_ulimit),
    switch(
        "use-api-socket",
        "Give it the engine's socket and credentials",
    ),
    text("user", "User name or UID (<name|uid>[:<group|gid>])").short('u'),
    text("userns", "User namespace to use"),
    text("uts", "UTS namespace to use"),
    list("volume", "Mount a directory or a volume").short('v'),
    text("volume-driver", "Driver for its volumes"),
    list("volumes-from", "Mount the volumes of another container"),
    text("workdir", "Working directory inside").short('w'),
    int("cpu-count", "Number of CPUs (Windows)").hidden(),
    int("cpu-percent", "Percentage of CPU time (Windows)").hidden(),
    text(
        "io-maxbandwidth",
        "Limit of I/O on the system drive (Windows)",
    )
    .hidden(),
];

/// The flags of `create`.
pub(crate) const CREATE_FLAGS: &[Flag] = &COMMON;

/// The flags of `run`.
pub(crate) const RUN_FLAGS: &[Flag] = &{
    let [detach, keys, proxy] = run_only!();
    let mut all = [detach; COMMON.len() + 3];
    let mut at = 0;
    while at < COMMON.len() {
        all[at] = COMMON[at];
        at += 1;
    }
    all[at] = detach;
    all[at + 1] = keys;
    all[at + 2] = proxy;
    all
};

fn check_stream(text: &str) -> Result<(), String> {
    match text.to_lowercase().as_str() {
        "stdin" | "stdout" | "stderr" => Ok(()),
        _ => Err(String::from("valid streams are STDIN, STDOUT and STDERR")),
    }
}

pub(crate) fn check_bytes(text: &str) -> Result<(), String> {
    size::parse_ram(text)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

pub(crate) fn check_swap_bytes(text: &str) -> Result<(), String> {
    if text == "-1" {
        Ok(())
    } else {
        check_bytes(text)
    }
}

pub(crate) fn check_uint16(text: &str) -> Result<(), String> {
    match text.parse::<u16>() {
        Ok(_) => Ok(()),
        Err(error) => {
            let why = match error.kind() {
                std::num::IntErrorKind::PosOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Err(format!("strconv.ParseUint: parsing {text:?}: {why}"))
        }
    }
}

pub(crate) fn check_cpus(text: &str) -> Result<(), String> {
    resources::nano_cpus(text).map(|_| ())
}

fn check_duration(text: &str) -> Result<(), String> {
    kekkai_types::parse_duration(text)
        .map(|_| ())
        .map_err(|_| format!("time: invalid duration {text:?}"))
}
