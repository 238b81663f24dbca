//! The built specification against what dockerd 28.5 wrote for the same requests (its `config.json`, read on this
//! machine), apart from ids, paths, and what the runtime adds by itself.

use serde_json::{Value, json};

use super::*;
use crate::model::{ContainerConfig, HostOptions, MountKind, MountPoint, Resources, Ulimit};

fn spec(config: ContainerConfig, host: HostOptions, mounts: Vec<MountPoint>) -> ContainerSpec {
    ContainerSpec {
        image_id: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
        platform: kekkai_types::Platform::host(),
        config,
        host,
        endpoints: Default::default(),
        mounts,
        path: "sleep".into(),
        args: vec!["100".into()],
    }
}

fn inputs<'a>(spec: &'a ContainerSpec, etc: &'a [(String, String)]) -> SpecInputs<'a> {
    SpecInputs {
        spec,
        hostname: "9ced0b152055",
        cgroup_path: "kekkai/9ced",
        ipc: Ipc::Own,
        pid: Join::New,
        network: Join::New,
        uts: Join::New,
        cgroup: Join::Host,
        init: None,
        etc_files: etc,
        extra_files: &[],
        devices: &[],
        block_devices: &[],
        seccomp: None,
        no_new_privileges: false,
        writable_cgroups: false,
        apparmor: "",
        default_ulimits: &[],
        held_capabilities: None,
    }
}

fn point(kind: MountKind, source: &str, destination: &str) -> MountPoint {
    serde_json::from_value(json!({
        "kind": kind.as_str(), "source": source, "destination": destination, "read_write": true,
        "propagation": if kind == MountKind::Bind { "rprivate" } else { "" },
    }))
    .unwrap()
}

fn options(built: &Value, destination: &str) -> Value {
    built["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|mount| mount["destination"] == destination)
        .unwrap()["options"]
        .clone()
}

#[test]
fn ordinary_container() {
    let host = HostOptions {
        shm_size: 67_108_864,
        resources: Resources {
            memory: 104_857_600,
            memory_swap: 209_715_200,
            nano_cpus: 500_000_000,
            pids_limit: Some(50),
            ulimits: vec![Ulimit {
                name: "nofile".into(),
                soft: 100,
                hard: 200,
            }],
            ..Default::default()
        },
        ..Default::default()
    };
    let config = ContainerConfig {
        tty: true,
        env: vec!["PATH=/bin".into()],
        ..Default::default()
    };
    let mut read_only = point(MountKind::Bind, "/tmp", "/hosttmp");
    read_only.read_write = false;
    let mut tmpfs = point(MountKind::Tmpfs, "", "/t");
    tmpfs.mode = "size=1m".into();
    let spec = spec(
        config,
        host,
        vec![
            read_only,
            point(MountKind::Volume, "/v/_data", "/vol"),
            tmpfs,
        ],
    );
    let etc = [("/etc/hosts".to_owned(), "/run/x/hosts".to_owned())];
    let mut wanted = inputs(&spec, &etc);
    wanted.init = Some("/usr/bin/kekkai-keeper");
    let built = serde_json::to_value(build(&wanted)).unwrap();

    assert_eq!(
        built["process"]["args"],
        json!(["/sbin/docker-init", "--", "sleep", "100"])
    );
    assert_eq!(
        built["process"]["env"],
        json!(["PATH=/bin", "HOSTNAME=9ced0b152055", "TERM=xterm"])
    );
    assert_eq!(built["process"]["cwd"], "/");
    assert_eq!(
        built["process"]["rlimits"],
        json!([{"type": "RLIMIT_NOFILE", "hard": 200, "soft": 100}])
    );
    assert_eq!(
        built["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len(),
        14
    );
    assert!(
        built["process"]["capabilities"]
            .get("ambient")
            .is_none_or(Value::is_null)
    );
    assert_eq!(built["hostname"], "9ced0b152055");
    let destinations: Vec<&str> = built["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    assert_eq!(
        destinations,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/sys",
            "/sys/fs/cgroup",
            "/dev/mqueue",
            "/dev/shm",
            "/sbin/docker-init",
            "/hosttmp",
            "/vol",
            "/t",
            "/etc/hosts"
        ]
    );
    assert_eq!(
        options(&built, "/dev/shm"),
        json!(["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"])
    );
    assert_eq!(
        options(&built, "/t"),
        json!(["noexec", "nosuid", "nodev", "rprivate", "size=1m"])
    );
    assert_eq!(
        options(&built, "/hosttmp"),
        json!(["rbind", "rro", "rprivate"])
    );
    assert_eq!(options(&built, "/vol"), json!(["rbind"]));
    assert_eq!(
        options(&built, "/sys/fs/cgroup"),
        json!(["ro", "nosuid", "noexec", "nodev"])
    );
    let linux = &built["linux"];
    assert_eq!(
        linux["namespaces"],
        json!([{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"}])
    );
    assert_eq!(linux["maskedPaths"].as_array().unwrap().len(), 12);
    assert_eq!(linux["readonlyPaths"].as_array().unwrap().len(), 5);
    assert_eq!(
        linux["resources"]["memory"],
        json!({"limit": 104_857_600, "swap": 209_715_200})
    );
    assert_eq!(
        linux["resources"]["cpu"],
        json!({"quota": 50_000, "period": 100_000})
    );
    assert_eq!(linux["resources"]["pids"], json!({"limit": 50}));
    assert_eq!(
        linux["resources"]["devices"][0],
        json!({"allow": false, "access": "rwm"})
    );
    assert_eq!(linux["cgroupsPath"], "kekkai/9ced");
}

#[test]
fn privileged_container_of_the_host() {
    let host = HostOptions {
        privileged: true,
        readonly_rootfs: true,
        ..Default::default()
    };
    let spec = spec(ContainerConfig::default(), host, Vec::new());
    let etc = [("/etc/hosts".to_owned(), "/run/x/hosts".to_owned())];
    let mut wanted = inputs(&spec, &etc);
    wanted.ipc = Ipc::Shared {
        shm: "/dev/shm".into(),
        namespace: Join::Host,
    };
    wanted.pid = Join::Host;
    wanted.uts = Join::Host;
    wanted.network = Join::Host;
    wanted.cgroup = Join::New;
    let built = serde_json::to_value(build(&wanted)).unwrap();
    assert_eq!(
        built["linux"]["namespaces"],
        json!([{"type": "mount"}, {"type": "cgroup"}])
    );
    assert_eq!(built["linux"]["maskedPaths"], json!([]));
    assert_eq!(built["root"]["readonly"], true);
    assert_eq!(
        options(&built, "/sys"),
        json!(["nosuid", "noexec", "nodev"])
    );
    assert_eq!(options(&built, "/dev/shm"), json!(["rbind", "rprivate"]));
    assert_eq!(
        options(&built, "/etc/hosts"),
        json!(["rbind", "rro", "rprivate"])
    );
    assert_eq!(
        built["process"]["capabilities"]["effective"]
            .as_array()
            .unwrap()
            .len(),
        41
    );
    assert_eq!(
        built["linux"]["resources"]["devices"],
        json!([{"allow": false, "access": "rwm"}, {"allow": true, "access": "rwm"}])
    );
    assert!(built.get("hostname").is_none_or(Value::is_null));
}

#[test]
fn user_mounts_replace_defaults() {
    let spec = spec(
        ContainerConfig::default(),
        HostOptions::default(),
        vec![
            point(MountKind::Bind, "/x", "/a/b"),
            point(MountKind::Bind, "/dev", "/dev"),
            point(MountKind::Bind, "/y", "/a"),
        ],
    );
    let built = serde_json::to_value(build(&inputs(&spec, &[]))).unwrap();
    let destinations: Vec<&str> = built["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    assert_eq!(
        destinations,
        ["/proc", "/sys", "/sys/fs/cgroup", "/dev", "/a", "/a/b"]
    );
}
