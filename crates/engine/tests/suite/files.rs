//! Copying, volumes, mounts.

use bytes::Bytes;
use kekkai_engine::model::{
    ArchivePut, ContainerConfig, HostOptions, MountKind, MountRequest, RemoveOptions,
    TmpfsMountOptions,
};

use crate::support::{Bench, busybox, run, within};

async fn body(engine: &kekkai_engine::Engine, id: &str, path: &str) -> Vec<u8> {
    let (_, mut stream) = engine.archive_get(id, path).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = within(stream.recv()).await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    bytes
}

async fn put(
    engine: &kekkai_engine::Engine,
    id: &str,
    path: &str,
    tar: Vec<u8>,
) -> Result<(), kekkai_engine::EngineError> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move { sender.send(Ok(Bytes::from(tar))).await });
    within(engine.archive_put(id, path, ArchivePut::default(), receiver)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_in_and_out_running_and_stopped() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let engine = bench.engine();
    let mut request = busybox(&["sleep", "1000"]);
    request.host.binds = vec!["copyvol:/vol".into()];
    let id = engine.create(request).await.unwrap().id.to_string();
    for running in [false, true] {
        if running {
            engine.start(&id).await.unwrap();
        }
        let stat = engine.archive_stat(&id, "/etc/passwd").await.unwrap();
        assert_eq!((stat.name.as_str(), stat.mode & 0o777), ("passwd", 0o644));
        let tar = body(engine, &id, "/etc/passwd").await;
        assert!(String::from_utf8_lossy(&tar).contains("root:x:0:0"));
        put(engine, &id, "/tmp", tar.clone()).await.unwrap();
        assert_eq!(
            engine.archive_stat(&id, "/tmp/passwd").await.unwrap().size,
            stat.size
        );
        put(engine, &id, "/vol", tar).await.unwrap();
        let volume = engine.volume_inspect("copyvol").await.unwrap();
        assert!(
            volume.mountpoint.join("passwd").exists(),
            "running: {running}"
        );
        let missing = engine
            .archive_stat(&id, "/nosuch")
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(
            missing,
            format!("Could not find the file /nosuch in container {id}")
        );
        let wrong = put(engine, &id, "/etc/passwd", Vec::new())
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(wrong, "extraction point is not a directory");
        std::fs::remove_file(volume.mountpoint.join("passwd")).unwrap();
    }
    let options = RemoveOptions {
        force: true,
        ..Default::default()
    };
    engine.remove(&id, options).await.unwrap();
    engine.volume_remove("copyvol", false).await.unwrap();
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_binds_and_tmpfs() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let engine = bench.engine();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x"), "from the host\n").unwrap();
    let mut request = busybox(&[
        "sh",
        "-c",
        "cat /bind/x; echo no > /bind/y || echo read-only; ls /etc2 | grep passwd; touch /keep/z; df -m /t | tail -1 | awk '{print $2}'; ls -d /anon",
    ]);
    request.host = HostOptions {
        auto_remove: true,
        binds: vec![
            format!("{}:/bind:ro", directory.path().display()),
            "kept:/keep".into(),
            "etc2:/etc2".into(),
        ],
        mounts: vec![MountRequest {
            kind: "tmpfs".into(),
            target: "/t".into(),
            tmpfs: Some(TmpfsMountOptions {
                size_bytes: 3 << 20,
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    };
    request.config = ContainerConfig {
        volumes: vec!["/anon".into()],
        ..request.config
    };
    let before = engine.volume_list(Default::default()).await.unwrap().len();
    let (_, ran) = run(engine, request).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        ran.stdout, "from the host\nread-only\n3\n/anon\n",
        "{ran:?}"
    );
    // The named ones stay, the anonymous one is gone with its container.
    let after = engine.volume_list(Default::default()).await.unwrap();
    assert_eq!(after.len(), before + 2);
    assert!(
        after
            .iter()
            .find(|volume| volume.name == "kept")
            .unwrap()
            .mountpoint
            .join("z")
            .exists()
    );

    // An empty volume takes over what the image has there.
    let mut request = busybox(&["ls", "/etc"]);
    request.host.binds = vec!["copied:/etc".into()];
    let (id, ran) = run(engine, request).await;
    assert!(ran.stdout.contains("passwd"), "{ran:?}");
    let view = engine.inspect(&id, false).await.unwrap();
    assert_eq!(view.spec.mounts[0].kind, MountKind::Volume);
    assert!(
        engine
            .volume_inspect("copied")
            .await
            .unwrap()
            .mountpoint
            .join("passwd")
            .exists()
    );
    let in_use = engine.volume_remove("copied", false).await.unwrap_err();
    assert!(in_use.to_string().contains("volume is in use"), "{in_use}");
    bench.close().await;
}
