//! Options of `run` that are really in force, seen from inside.

use kekkai_engine::model::{HostOptions, PortBinding, Resources, Ulimit};

use crate::support::{Bench, busybox, run};

async fn shell(
    bench: &Bench,
    script: &str,
    change: impl FnOnce(&mut kekkai_engine::model::CreateContainer),
) -> String {
    let mut request = busybox(&["sh", "-c", script]);
    request.host.auto_remove = true;
    change(&mut request);
    let (_, ran) = run(bench.engine(), request).await;
    assert_eq!(ran.stderr, "", "{script}");
    ran.stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_and_isolation() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let out = shell(
        &bench,
        "hostname; cat /etc/hostname; id -u; id -g; pwd; echo $PATH; echo $$",
        |r| {
            r.config.hostname = Some("here".into());
            r.config.user = Some("daemon".into());
            r.config.working_dir = Some("/new/place".into());
        },
    )
    .await;
    assert_eq!(
        out,
        "here\nhere\n1\n1\n/new/place\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n1\n"
    );
    let caps = |text: &str| text.split_whitespace().last().unwrap().to_owned();
    let bound =
        |r: &mut kekkai_engine::model::CreateContainer| r.host.cap_drop = vec!["ALL".into()];
    assert_eq!(
        caps(&shell(&bench, "grep CapBnd /proc/self/status", |_| {}).await),
        "00000000a80425fb"
    );
    assert_eq!(
        caps(&shell(&bench, "grep CapEff /proc/self/status", bound).await),
        "0000000000000000"
    );
    assert_eq!(
        shell(&bench, "grep -c ^Seccomp:.*2 /proc/self/status", |_| {}).await,
        "1\n"
    );
    let unconfined = |r: &mut kekkai_engine::model::CreateContainer| {
        r.host.security_opt = vec!["seccomp=unconfined".into(), "no-new-privileges".into()];
    };
    assert_eq!(
        shell(
            &bench,
            "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | awk '{print $2}'",
            unconfined
        )
        .await,
        "1\n0\n"
    );
    let out = shell(&bench, "cat /proc/1/cmdline | tr '\\0' ' '; touch /x 2>/dev/null || echo ro; echo /dev/sd* > /dev/null; ls /dev/null", |r| {
        r.host.init = Some(true);
        r.host.readonly_rootfs = true;
    })
    .await;
    assert!(out.starts_with("/sbin/docker-init -- sh -c"), "{out}");
    assert!(out.ends_with("ro\n/dev/null\n"), "{out}");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_in_the_cgroup() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let script = "ulimit -n; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max \
                  /sys/fs/cgroup/cpu/cpu.cfs_quota_us; cat /proc/sys/net/ipv4/ip_default_ttl; df -m /dev/shm | tail -1 | awk '{print $2}'";
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        println!("skipped: cgroup v1 paths");
        return;
    }
    let out = shell(&bench, script, |r| {
        r.host.resources = Resources {
            memory: 64 << 20,
            pids_limit: Some(33),
            nano_cpus: 500_000_000,
            ulimits: vec![Ulimit {
                name: "nofile".into(),
                soft: 111,
                hard: 222,
            }],
            ..Default::default()
        };
        r.host
            .sysctls
            .insert("net.ipv4.ip_default_ttl".into(), "77".into());
        r.host.shm_size = 5 << 20;
    })
    .await;
    assert_eq!(out, "111\n67108864\n33\n50000\n77\n5\n");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_and_ports() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let engine = bench.engine();
    assert_eq!(
        shell(&bench, "ls /sys/class/net", |r| r.host.network_mode =
            "none".into())
        .await,
        "lo\n"
    );
    let host = shell(
        &bench,
        "cat /etc/hostname; ls /sys/class/net | grep -c .",
        |r| r.host.network_mode = "host".into(),
    )
    .await;
    assert!(!host.starts_with("1\n"), "{host}");

    let mut request = busybox(&["httpd", "-f", "-p", "80", "-h", "/etc"]);
    request.name = Some("web".into());
    let bindings = vec![PortBinding {
        host_ip: "127.0.0.1".into(),
        host_port: String::new(),
    }];
    request
        .host
        .port_bindings
        .insert("80".parse().unwrap(), bindings);
    request.host.ipc_mode = "shareable".into();
    engine.create(request).await.unwrap();
    engine.start("web").await.unwrap();
    let view = engine.inspect("web", false).await.unwrap();
    let port = view.network.ports[&"80/tcp".parse().unwrap()][0].host_port;
    let answer = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut tries = 0;
        let mut stream = loop {
            match std::net::TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(_) if tries < 100 => {
                    tries += 1;
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                Err(error) => panic!("{error}"),
            }
        };
        stream.write_all(b"GET /passwd HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
    .await
    .unwrap();
    assert!(answer.contains("root:x:0:0"), "{answer}");
    let address = &view.network.endpoints["bridge"].ip_address;
    // Others reach it by its address, share its network, its pids, its shared memory.
    let out = shell(
        &bench,
        &format!("wget -qO- http://{address}/hostname"),
        |_| {},
    )
    .await;
    assert_eq!(out.trim(), &view.id.to_string()[..12]);
    let joined = |r: &mut kekkai_engine::model::CreateContainer| {
        r.host = HostOptions {
            auto_remove: true,
            network_mode: "container:web".into(),
            pid_mode: "container:web".into(),
            ipc_mode: "container:web".into(),
            ..Default::default()
        };
    };
    let out = shell(
        &bench,
        "wget -qO- http://127.0.0.1/hostname; cat /proc/1/cmdline | tr '\\0' ' '; touch /dev/shm/x",
        joined,
    )
    .await;
    assert!(out.contains("httpd -f"), "{out}");
    let networks = engine.network_inspect("bridge").await.unwrap();
    assert_eq!(networks.containers.len(), 1);
    bench.close().await;
}
