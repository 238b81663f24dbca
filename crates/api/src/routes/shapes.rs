//! Answers have dockerd's fields in dockerd's order: ours are laid beside what dockerd 28.5 answered (`fixtures/`).

use std::collections::BTreeMap;
use std::sync::Arc;

use kekkai_engine::model::*;
use kekkai_types::{ContainerId, Digest, Platform, Timestamp};
use serde::Serialize;
use serde_json::Value;

use super::inspect::InspectOut;
use super::list::Line;
use super::networks::NetworkOut;

/// Every key with its path, in order; the elements of a list count once.
fn keys(value: &Value, path: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name = if key.len() == 64 { "<id>" } else { key };
                let path = format!("{path}.{name}");
                keys(value, &path, into);
                into.push(path);
            }
        }
        Value::Array(list) => {
            if let Some(first) = list.first() {
                keys(first, &format!("{path}[]"), into);
            }
        }
        _ => {}
    }
}

fn assert_same_shape(ours: &impl Serialize, dockerds: &str, allowed: &[&str]) {
    let ours: Value = serde_json::from_slice(&serde_json::to_vec(ours).unwrap()).unwrap();
    let dockerds: Value = serde_json::from_str(dockerds).unwrap();
    let (mut left, mut right) = (Vec::new(), Vec::new());
    keys(&ours, "", &mut left);
    keys(&dockerds, "", &mut right);
    let keep = |path: &String| !allowed.iter().any(|prefix| path.starts_with(prefix));
    left.retain(keep);
    right.retain(keep);
    assert_eq!(left, right);
}

fn mount(kind: MountKind, name: Option<&str>) -> MountPoint {
    MountPoint {
        kind,
        name: name.map(str::to_owned),
        source: "/x".to_owned(),
        destination: "/y".to_owned(),
        driver: "local".to_owned(),
        mode: "z".to_owned(),
        read_write: true,
        propagation: String::new(),
        recursive: true,
        copy_up: true,
        anonymous: false,
        tmpfs_size: None,
        tmpfs_mode: None,
        subpath: None,
    }
}

fn spec() -> ContainerSpec {
    let port = "80/tcp".parse().unwrap();
    let config = ContainerConfig {
        exposed_ports: vec![port],
        env: vec!["A=b".to_owned()],
        cmd: Some(vec!["sleep".to_owned()]),
        labels: BTreeMap::from([("l".to_owned(), "m".to_owned())]),
        stop_signal: Some("TERM".to_owned()),
        stop_timeout: Some(3),
        ..ContainerConfig::default()
    };
    let host = HostOptions {
        binds: vec!["/x:/y".to_owned()],
        port_bindings: BTreeMap::from([(port, vec![PortBinding::default()])]),
        masked_paths: Some(Vec::new()),
        readonly_paths: Some(Vec::new()),
        ..HostOptions::default()
    };
    ContainerSpec {
        image_id: format!("sha256:{}", "0".repeat(64))
            .parse::<Digest>()
            .unwrap(),
        platform: Platform::host(),
        config,
        host,
        endpoints: BTreeMap::new(),
        mounts: vec![
            mount(MountKind::Volume, Some("v")),
            mount(MountKind::Bind, None),
        ],
        path: "sleep".to_owned(),
        args: vec!["100".to_owned()],
    }
}

fn view() -> ContainerView {
    let now = Timestamp::now();
    let bound = |ip: &str| BoundPort {
        host_ip: ip.parse().unwrap(),
        host_port: 18_123,
    };
    ContainerView {
        id: ContainerId::random(),
        name: "fx".into(),
        created: now,
        spec: Arc::new(spec()),
        state: StateView {
            lifecycle: Lifecycle::Running(RunningFacts {
                pid: 1,
                started_at: now,
            }),
            status: Status::Running,
            pid: 1,
            exit_code: 0,
            error: "".into(),
            oom_killed: false,
            started_at: Some(now),
            finished_at: None,
        },
        restart_count: 0,
        network: NetworkSettingsView {
            ports: BTreeMap::from([(
                "80/tcp".parse().unwrap(),
                vec![bound("0.0.0.0"), bound("::")],
            )]),
            endpoints: BTreeMap::from([("bridge".to_owned(), EndpointView::default())]),
            ..NetworkSettingsView::default()
        },
        paths: ContainerPaths::default(),
        exec_ids: Vec::new(),
        size: Some(ContainerSize {
            writable: 0,
            root_fs: 7,
        }),
    }
}

#[test]
fn inspect_of_a_container() {
    // The storage driver's own facts differ.
    let dockerds = include_str!("fixtures/inspect.json");
    assert_same_shape(&InspectOut::new(&view()), dockerds, &[".GraphDriver.Data."]);
}

#[test]
fn line_of_a_list() {
    let view = view();
    let lines = [Line::new(&view, Timestamp::now(), "alpine:3.20".to_owned())];
    assert_same_shape(&lines, include_str!("fixtures/list.json"), &[]);
}

#[test]
fn inspect_of_a_network() {
    let view = NetworkView {
        subnet: "172.17.0.0/16".to_owned(),
        gateway: "172.17.0.1".to_owned(),
        containers: BTreeMap::from([("0".repeat(64), NetworkMember::default())]),
        ..NetworkView::default()
    };
    let dockerds = include_str!("fixtures/network.json");
    assert_same_shape(&NetworkOut::new(&view, true), dockerds, &[".Options."]);
}
