//! The flags of `run` and `create`, turned into the body of `POST /containers/create`.
//!
//! Pure except for the files that flags name (`--env-file`, `--label-file`, a seccomp profile). What the daemon checks
//! anyway is not checked here.

mod flags;
mod mounts;
mod network;
mod ports;
mod resources;
mod variables;

use serde_json::{Map, Value as Json, json};

pub(crate) use flags::{
    CREATE_FLAGS, RUN_FLAGS, check_bytes, check_cpus, check_swap_bytes, check_uint16,
};
pub(crate) use resources::{nano_cpus, restart_policy};
pub(crate) use variables::environment_of;

use crate::cli::flags::Matches;

/// What `run` and `create` need to know beyond the body.
#[derive(Debug)]
pub(crate) struct ContainerRequest {
    /// The body.
    pub(crate) body: Map<String, Json>,
    /// `--name`.
    pub(crate) name: String,
    /// `--platform`.
    pub(crate) platform: String,
    /// The image as it was written.
    pub(crate) image: String,
    /// Connect to these streams.
    pub(crate) attach_stdin: bool,
    pub(crate) attach_stdout: bool,
    pub(crate) attach_stderr: bool,
    pub(crate) open_stdin: bool,
    pub(crate) tty: bool,
    pub(crate) auto_remove: bool,
}

/// Reads all flags. `proxies` are variables of the configuration's proxies.
pub(crate) fn parse(
    matches: &Matches,
    proxies: &[(String, String)],
) -> Result<ContainerRequest, String> {
    refuse_what_is_missing(matches)?;
    let auto_remove = matches.on("rm");
    let restart = resources::restart_policy(matches.text("restart"))?;
    if auto_remove && !matches!(restart["Name"].as_str(), Some("" | "no") | None) {
        return Err(String::from(
            "conflicting options: cannot specify both --restart and --rm",
        ));
    }
    let attach: Vec<String> = matches
        .list("attach")
        .iter()
        .map(|stream| stream.to_lowercase())
        .collect();
    let has = |stream: &str| attach.iter().any(|name| name == stream);
    let open_stdin = matches.on("interactive");
    let tty = matches.on("tty");
    let (image, command) = matches
        .args
        .split_first()
        .ok_or_else(|| String::from("an image is needed"))?;
    let mut request = ContainerRequest {
        body: Map::new(),
        name: matches.text("name").to_owned(),
        platform: matches.text("platform").to_owned(),
        image: image.clone(),
        attach_stdin: has("stdin") || open_stdin,
        attach_stdout: attach.is_empty() || has("stdout"),
        attach_stderr: attach.is_empty() || has("stderr"),
        open_stdin,
        tty,
        auto_remove,
    };
    let mut config = config(matches, command, proxies)?;
    config.insert("Image".to_owned(), Json::String(image.clone()));
    let (mut exposed, mut bindings) = (Map::new(), Map::new());
    for text in matches.list("publish") {
        ports::publish(text, &mut exposed, &mut bindings)?;
    }
    for text in matches.list("expose") {
        ports::expose(text, &mut exposed)?;
    }
    if !exposed.is_empty() {
        config.insert("ExposedPorts".to_owned(), Json::Object(exposed));
    }
    let (mode, endpoints) = network::networks(matches)?;
    let mut host = host_config(matches, &mode)?;
    host.insert("PortBindings".to_owned(), Json::Object(bindings));
    host.insert("RestartPolicy".to_owned(), restart);
    host.insert("AutoRemove".to_owned(), Json::Bool(auto_remove));
    volumes(matches, &mut config, &mut host)?;
    config.insert("HostConfig".to_owned(), Json::Object(host));
    if !endpoints.is_empty() {
        config.insert(
            "NetworkingConfig".to_owned(),
            json!({"EndpointsConfig": endpoints}),
        );
    }
    request.body = config;
    request.set_streams();
    Ok(request)
}

impl ContainerRequest {
    /// In the background nobody is connected and standard input stays open.
    pub(crate) fn detach(&mut self) {
        (self.attach_stdin, self.attach_stdout, self.attach_stderr) = (false, false, false);
        self.set_streams();
    }

    /// Tells the daemon the size of our terminal.
    pub(crate) fn set_console_size(&mut self, (rows, columns): (u16, u16)) {
        if let Some(host) = self
            .body
            .get_mut("HostConfig")
            .and_then(Json::as_object_mut)
        {
            host.insert("ConsoleSize".to_owned(), json!([rows, columns]));
        }
    }

    fn set_streams(&mut self) {
        for (key, value) in [
            ("AttachStdin", self.attach_stdin),
            ("AttachStdout", self.attach_stdout),
            ("AttachStderr", self.attach_stderr),
            ("Tty", self.tty),
            ("OpenStdin", self.open_stdin),
            ("StdinOnce", self.open_stdin && self.attach_stdin),
        ] {
            self.body.insert(key.to_owned(), Json::Bool(value));
        }
    }
}

/// Options that Docker has and we do not: said by name.
fn refuse_what_is_missing(matches: &Matches) -> Result<(), String> {
    for flag in [
        "gpus",
        "use-api-socket",
        "cpu-count",
        "cpu-percent",
        "io-maxbandwidth",
    ] {
        if matches.is_set(flag) {
            return Err(format!("kekkai does not have --{flag} yet"));
        }
    }
    Ok(())
}

fn put_text(map: &mut Map<String, Json>, key: &str, value: &str) {
    if !value.is_empty() {
        map.insert(key.to_owned(), Json::String(value.to_owned()));
    }
}

fn put_list(map: &mut Map<String, Json>, key: &str, values: &[&str]) {
    // Docker's command line sends these even when they are empty, and `inspect` then shows `[]`, not `null`.
    if !values.is_empty() || matches!(key, "Dns" | "DnsOptions" | "DnsSearch") {
        map.insert(key.to_owned(), json!(values));
    }
}

fn put_number(map: &mut Map<String, Json>, key: &str, value: i64) {
    if value != 0 {
        map.insert(key.to_owned(), Json::from(value));
    }
}

fn config(
    matches: &Matches,
    command: &[String],
    proxies: &[(String, String)],
) -> Result<Map<String, Json>, String> {
    let mut config = Map::new();
    put_text(&mut config, "Hostname", matches.text("hostname"));
    put_text(&mut config, "Domainname", matches.text("domainname"));
    put_text(&mut config, "User", matches.text("user"));
    put_text(&mut config, "WorkingDir", matches.text("workdir"));
    put_text(&mut config, "StopSignal", matches.text("stop-signal"));
    let mut env = variables::environment_of(&matches.list("env-file"), &matches.list("env"))?;
    for (name, value) in proxies {
        if !env
            .iter()
            .any(|given| given.split('=').next() == Some(name))
        {
            env.push(format!("{name}={value}"));
        }
    }
    if !env.is_empty() {
        config.insert("Env".to_owned(), json!(env));
    }
    let labels = variables::labels_of(&matches.list("label-file"), &matches.list("label"))?;
    config.insert("Labels".to_owned(), Json::Object(labels));
    if !command.is_empty() {
        config.insert("Cmd".to_owned(), json!(command));
    }
    if matches.is_set("entrypoint") {
        // An empty entrypoint takes the image's away.
        config.insert("Entrypoint".to_owned(), json!([matches.text("entrypoint")]));
    }
    if matches.is_set("stop-timeout") {
        config.insert(
            "StopTimeout".to_owned(),
            Json::from(matches.int("stop-timeout")),
        );
    }
    if let Some(check) = health(matches)? {
        config.insert("Healthcheck".to_owned(), check);
    }
    Ok(config)
}

fn health(matches: &Matches) -> Result<Option<Json>, String> {
    const TIMES: &[(&str, &str)] = &[
        ("health-interval", "Interval"),
        ("health-timeout", "Timeout"),
        ("health-start-period", "StartPeriod"),
        ("health-start-interval", "StartInterval"),
    ];
    let nanos = |flag: &str| kekkai_types::parse_duration(matches.text(flag)).unwrap_or(0);
    let retries = matches.int("health-retries");
    let any = !matches.text("health-cmd").is_empty()
        || retries != 0
        || TIMES.iter().any(|(flag, _)| nanos(flag) != 0);
    if matches.on("no-healthcheck") {
        if any {
            return Err(String::from(
                "--no-healthcheck conflicts with --health-* options",
            ));
        }
        return Ok(Some(json!({"Test": ["NONE"]})));
    }
    if !any {
        return Ok(None);
    }
    let mut check = Map::new();
    if !matches.text("health-cmd").is_empty() {
        check.insert(
            "Test".to_owned(),
            json!(["CMD-SHELL", matches.text("health-cmd")]),
        );
    }
    for (flag, key) in TIMES {
        let value = nanos(flag);
        if value < 0 {
            return Err(format!("--{flag} cannot be negative"));
        }
        put_number(&mut check, key, value);
    }
    if retries < 0 {
        return Err(String::from("--health-retries cannot be negative"));
    }
    put_number(&mut check, "Retries", retries);
    Ok(Some(Json::Object(check)))
}

fn bytes(matches: &Matches, flag: &str) -> i64 {
    match matches.text(flag) {
        "" => 0,
        "-1" => -1,
        text => kekkai_types::size::parse_ram(text).unwrap_or(0),
    }
}

fn host_config(matches: &Matches, network_mode: &str) -> Result<Map<String, Json>, String> {
    let mut host = Map::new();
    check_modes(matches)?;
    put_text(&mut host, "NetworkMode", network_mode);
    for (flag, key) in [
        ("ipc", "IpcMode"),
        ("pid", "PidMode"),
        ("uts", "UTSMode"),
        ("userns", "UsernsMode"),
        ("cgroupns", "CgroupnsMode"),
        ("cgroup-parent", "CgroupParent"),
        ("runtime", "Runtime"),
        ("isolation", "Isolation"),
        ("volume-driver", "VolumeDriver"),
        ("cpuset-cpus", "CpusetCpus"),
        ("cpuset-mems", "CpusetMems"),
        ("cidfile", "ContainerIDFile"),
    ] {
        put_text(&mut host, key, matches.text(flag));
    }
    for (flag, key) in [
        ("cap-add", "CapAdd"),
        ("cap-drop", "CapDrop"),
        ("dns", "Dns"),
        ("dns-search", "DnsSearch"),
        ("group-add", "GroupAdd"),
        ("volumes-from", "VolumesFrom"),
        ("link", "Links"),
        ("device-cgroup-rule", "DeviceCgroupRules"),
    ] {
        put_list(&mut host, key, &matches.list(flag));
    }
    let mut resolver = matches.list("dns-option");
    resolver.extend(matches.list("dns-opt"));
    put_list(&mut host, "DnsOptions", &resolver);
    for (flag, key) in [
        ("privileged", "Privileged"),
        ("read-only", "ReadonlyRootfs"),
        ("publish-all", "PublishAllPorts"),
    ] {
        host.insert(key.to_owned(), Json::Bool(matches.on(flag)));
    }
    host.insert(
        "OomKillDisable".to_owned(),
        Json::Bool(matches.on("oom-kill-disable")),
    );
    if matches.is_set("init") {
        host.insert("Init".to_owned(), Json::Bool(matches.on("init")));
    }
    let hosts: Vec<String> = matches
        .list("add-host")
        .iter()
        .map(|text| network::add_host(text))
        .collect::<Result<_, _>>()?;
    if !hosts.is_empty() {
        host.insert("ExtraHosts".to_owned(), json!(hosts));
    }
    logging(matches, &mut host)?;
    limits(matches, &mut host)?;
    devices(matches, &mut host)?;
    security(matches, &mut host)?;
    for (flag, key) in [("sysctl", "Sysctls"), ("annotation", "Annotations")] {
        let map = variables::pairs(&matches.list(flag));
        if !map.is_empty() {
            host.insert(key.to_owned(), Json::Object(map));
        }
    }
    let storage = matches.list("storage-opt");
    if storage.iter().any(|option| !option.contains('=')) {
        return Err(String::from("invalid storage option"));
    }
    if !storage.is_empty() {
        host.insert(
            "StorageOpt".to_owned(),
            Json::Object(variables::pairs(&storage)),
        );
    }
    Ok(host)
}

fn check_modes(matches: &Matches) -> Result<(), String> {
    let of_container = |mode: &str| {
        mode.strip_prefix("container:")
            .is_some_and(|name| !name.is_empty())
    };
    let pid = matches.text("pid");
    if !matches!(pid, "" | "host") && !of_container(pid) {
        return Err(String::from("--pid: invalid PID mode"));
    }
    for (flag, kind) in [("uts", "UTS"), ("userns", "USER")] {
        if !matches!(matches.text(flag), "" | "host") {
            return Err(format!("--{flag}: invalid {kind} mode"));
        }
    }
    if !matches!(matches.text("cgroupns"), "" | "host" | "private") {
        return Err(String::from("--cgroupns: invalid CGROUP mode"));
    }
    let swappiness = matches.int("memory-swappiness");
    if swappiness != -1 && !(0..=100).contains(&swappiness) {
        return Err(format!(
            "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
        ));
    }
    Ok(())
}

fn logging(matches: &Matches, host: &mut Map<String, Json>) -> Result<(), String> {
    let (driver, options) = (matches.text("log-driver"), matches.list("log-opt"));
    if driver == "none" && !options.is_empty() {
        return Err(String::from("invalid logging opts for driver none"));
    }
    if !driver.is_empty() || !options.is_empty() {
        host.insert(
            "LogConfig".to_owned(),
            json!({"Type": driver, "Config": variables::pairs(&options)}),
        );
    }
    Ok(())
}

fn limits(matches: &Matches, host: &mut Map<String, Json>) -> Result<(), String> {
    for (flag, key) in [
        ("memory", "Memory"),
        ("memory-reservation", "MemoryReservation"),
        ("memory-swap", "MemorySwap"),
        ("kernel-memory", "KernelMemory"),
        ("shm-size", "ShmSize"),
    ] {
        put_number(host, key, bytes(matches, flag));
    }
    for (flag, key) in [
        ("cpu-shares", "CpuShares"),
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
        ("cpu-rt-period", "CpuRealtimePeriod"),
        ("cpu-rt-runtime", "CpuRealtimeRuntime"),
        ("oom-score-adj", "OomScoreAdj"),
        ("pids-limit", "PidsLimit"),
        ("blkio-weight", "BlkioWeight"),
    ] {
        put_number(host, key, matches.int(flag));
    }
    if matches.int("memory-swappiness") != -1 {
        host.insert(
            "MemorySwappiness".to_owned(),
            Json::from(matches.int("memory-swappiness")),
        );
    }
    if matches.is_set("cpus") {
        put_number(
            host,
            "NanoCpus",
            resources::nano_cpus(matches.text("cpus"))?,
        );
    }
    type Reader = fn(&str) -> Result<Json, String>;
    let lists: [(&str, &str, Reader); 6] = [
        ("ulimit", "Ulimits", resources::ulimit),
        (
            "blkio-weight-device",
            "BlkioWeightDevice",
            resources::weight_device,
        ),
        (
            "device-read-bps",
            "BlkioDeviceReadBps",
            resources::rate_bytes,
        ),
        (
            "device-write-bps",
            "BlkioDeviceWriteBps",
            resources::rate_bytes,
        ),
        (
            "device-read-iops",
            "BlkioDeviceReadIOps",
            resources::rate_count,
        ),
        (
            "device-write-iops",
            "BlkioDeviceWriteIOps",
            resources::rate_count,
        ),
    ];
    for (flag, key, read) in lists {
        let values: Vec<Json> = matches
            .list(flag)
            .iter()
            .map(|text| read(text))
            .collect::<Result<_, _>>()?;
        host.insert(key.to_owned(), Json::Array(values));
    }
    Ok(())
}

fn devices(matches: &Matches, host: &mut Map<String, Json>) -> Result<(), String> {
    let (cdi, plain): (Vec<&str>, Vec<&str>) = matches
        .list("device")
        .into_iter()
        .partition(|device| resources::is_cdi_device(device));
    if !cdi.is_empty() {
        return Err(format!(
            "kekkai does not have CDI devices yet: {}",
            cdi.join(", ")
        ));
    }
    let devices: Vec<Json> = plain
        .into_iter()
        .map(resources::device)
        .collect::<Result<_, _>>()?;
    host.insert("Devices".to_owned(), Json::Array(devices));
    Ok(())
}

/// The longest seccomp profile we send, in bytes.
const MAX_PROFILE: u64 = 4 << 20;

fn security(matches: &Matches, host: &mut Map<String, Json>) -> Result<(), String> {
    let mut options = Vec::new();
    for option in matches.list("security-opt") {
        if option == "systempaths=unconfined" {
            host.insert("MaskedPaths".to_owned(), json!([]));
            host.insert("ReadonlyPaths".to_owned(), json!([]));
            continue;
        }
        let (key, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
            Some((key, value)) => (key, value),
            None if option == "no-new-privileges" => {
                options.push(option.to_owned());
                continue;
            }
            None => return Err(format!("Invalid --security-opt: {option:?}")),
        };
        if key == "seccomp" && !matches!(value, "unconfined" | "builtin") {
            options.push(format!("seccomp={}", read_profile(value)?));
        } else {
            options.push(option.to_owned());
        }
    }
    if !options.is_empty() {
        host.insert("SecurityOpt".to_owned(), json!(options));
    }
    Ok(())
}

fn read_profile(path: &str) -> Result<String, String> {
    let failed =
        |why: &dyn std::fmt::Display| format!("opening seccomp profile ({path}) failed: {why}");
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failed(&format!("open {path}: no such file or directory")),
        _ => failed(&error),
    })?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_PROFILE), &mut text)
        .map_err(|error| failed(&error))?;
    let profile: Json = serde_json::from_str(&text)
        .map_err(|error| format!("compacting json for seccomp profile ({path}) failed: {error}"))?;
    Ok(profile.to_string())
}

fn volumes(
    matches: &Matches,
    config: &mut Map<String, Json>,
    host: &mut Map<String, Json>,
) -> Result<(), String> {
    let (mut binds, mut anonymous) = (Vec::new(), Map::new());
    for text in matches.list("volume") {
        match mounts::volume(text)? {
            mounts::Volume::Bind(bind) => binds.push(bind),
            mounts::Volume::Anonymous(path) => {
                anonymous.insert(path, json!({}));
            }
        }
    }
    if !anonymous.is_empty() {
        config.insert("Volumes".to_owned(), Json::Object(anonymous));
    }
    if !binds.is_empty() {
        host.insert("Binds".to_owned(), json!(binds));
    }
    let tmpfs: Map<String, Json> = matches
        .list("tmpfs")
        .into_iter()
        .map(mounts::tmpfs)
        .collect();
    if !tmpfs.is_empty() {
        host.insert("Tmpfs".to_owned(), Json::Object(tmpfs));
    }
    let list: Vec<Json> = matches
        .list("mount")
        .into_iter()
        .map(mounts::mount)
        .collect::<Result<_, _>>()?;
    if !list.is_empty() {
        host.insert("Mounts".to_owned(), Json::Array(list));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
