//! Loading, naming and removing against a real layer store.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use kekkai_archive::{Entry, EntryKind, TarWriter};
use kekkai_content::Sha256;
use kekkai_image::{
    ImageService, ImageServiceConfig, ImageUser, ListFilter, RegistryConfig, RemoveOptions,
    RemovedItem, no_progress,
};
use kekkai_metadata::Database;
use kekkai_snapshot::{OverlayConfig, OverlaySnapshotter, Snapshotter};
use kekkai_types::{ContainerId, Digest};

struct Root {
    directory: tempfile::TempDir,
    service: ImageService,
    snapshotter: Arc<dyn Snapshotter>,
}

fn open(directory: tempfile::TempDir) -> Root {
    let data_root = directory.path().to_owned();
    let database = Arc::new(Database::open(&data_root.join("metadata.db")).unwrap());
    let snapshotter: Arc<dyn Snapshotter> = Arc::new(
        OverlaySnapshotter::open(OverlayConfig {
            data_root: data_root.clone(),
        })
        .unwrap(),
    );
    let config = ImageServiceConfig {
        data_root,
        registries: RegistryConfig::default(),
        max_concurrent_downloads: 3,
    };
    let service = ImageService::open(config, database, Arc::clone(&snapshotter)).unwrap();
    Root {
        directory,
        service,
        snapshotter,
    }
}

fn new() -> Root {
    open(tempfile::tempdir().unwrap())
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (name, data) in files {
        let mut entry = Entry::new(EntryKind::File, name);
        entry.size = data.len() as u64;
        tar.entry(&entry).unwrap();
        tar.data(data).unwrap();
    }
    tar.finish().unwrap()
}

/// A docker-archive of one image with one layer.
fn archive(content: &[u8], tags: &[&str]) -> (Vec<u8>, Digest) {
    let layer = tar(&[("file", content)]);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
        "config": {"Cmd": ["/file"]}, "rootfs": {"type": "layers", "diff_ids": [Sha256::of(&layer).to_string()]},
        "history": [{"created_by": "made"}]
    })
    .to_string();
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": tags, "Layers": ["l/layer.tar"]}])
            .to_string();
    let bytes = tar(&[
        ("config.json", config.as_bytes()),
        ("l/layer.tar", &layer),
        ("manifest.json", manifest.as_bytes()),
    ]);
    (bytes, Sha256::of(config.as_bytes()))
}

async fn load(
    root: &Root,
    bytes: Vec<u8>,
) -> Result<Vec<kekkai_image::LoadedImage>, kekkai_image::ImageError> {
    root.service.load(Cursor::new(bytes), no_progress()).await
}

fn nobody(_: &Digest) -> Vec<ImageUser> {
    Vec::new()
}

fn blobs(root: &Path) -> usize {
    std::fs::read_dir(root.join("content/blobs/sha256"))
        .unwrap()
        .count()
}

#[tokio::test]
async fn load_name_reopen_remove() {
    let root = new();
    let (bytes, id) = archive(b"one", &["app:1", "app:latest"]);
    let loaded = load(&root, bytes).await.unwrap();
    assert_eq!(loaded[0].id, id);
    assert_eq!(loaded[0].names, ["app:1", "app:latest"]);
    root.service
        .tag("app", &"other/app:x".parse().unwrap())
        .await
        .unwrap();
    let image = root.service.resolve(&id.short()[..6]).unwrap();
    assert_eq!(image.repo_tags, ["app:1", "app:latest", "other/app:x"]);
    assert_eq!((image.size, image.layers.len()), (3, 1));
    assert_eq!(root.service.history("app").unwrap()[0].size, 3);
    drop(image);

    let Root {
        directory,
        service,
        snapshotter,
    } = root;
    drop((service, snapshotter));
    let root = open(directory);
    let image = root.service.resolve("app:1").unwrap();
    assert!(root.snapshotter.layer(&image.layers[0]).is_some());

    let force = RemoveOptions { force: true };
    let items = root
        .service
        .remove(id.short(), force, &nobody)
        .await
        .unwrap();
    assert_eq!(
        items.len(),
        5,
        "three names, the image, its layer: {items:?}"
    );
    assert!(matches!(items[3], RemovedItem::Deleted(_)));
    assert!(root.service.list(&ListFilter::default()).is_empty());
    assert!(root.snapshotter.layer(&image.layers[0]).is_none());
    assert_eq!(blobs(root.directory.path()), 0);
}

#[tokio::test]
async fn a_removed_image_stays_for_a_stopped_container() {
    let root = new();
    let (bytes, id) = archive(b"two", &["app:1"]);
    load(&root, bytes).await.unwrap();
    let layer = root.service.resolve("app:1").unwrap().layers[0].clone();
    let user = |_: &Digest| {
        vec![ImageUser {
            container: ContainerId::random(),
            running: false,
            image_name: "app:1".into(),
        }]
    };
    root.service
        .remove("app:1", RemoveOptions { force: true }, &user)
        .await
        .unwrap();
    assert!(root.service.resolve("app:1").is_err());
    assert!(root.snapshotter.layer(&layer).is_some());

    let Root {
        directory,
        service,
        snapshotter,
    } = root;
    drop((service, snapshotter));
    let root = open(directory);
    assert!(root.service.by_id(&id).is_none());
    assert!(root.snapshotter.layer(&layer).is_some());
    root.service
        .prune(false, &ListFilter::default(), &nobody)
        .await
        .unwrap();
    assert!(root.snapshotter.layer(&layer).is_none());
}

#[tokio::test]
async fn what_is_no_image_leaves_nothing() {
    let root = new();
    let (good, _) = archive(b"three", &["a:1"]);
    let wrong_layer = {
        let config = serde_json::json!({"os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "0".repeat(64))]}})
        .to_string();
        let manifest = r#"[{"Config": "c", "RepoTags": ["a:1"], "Layers": ["l"]}]"#;
        tar(&[
            ("c", config.as_bytes()),
            ("l", &tar(&[("f", b"x")])),
            ("manifest.json", manifest.as_bytes()),
        ])
    };
    let layout = |digest: &str| {
        let index = format!(
            r#"{{"schemaVersion": 2, "manifests": [{{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "{digest}", "size": 2}}]}}"#
        );
        tar(&[
            ("index.json", index.as_bytes()),
            (&format!("blobs/{}", digest.replace(':', "/")), b"{}"),
        ])
    };
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("text", b"hello".to_vec()),
        ("no documents", tar(&[("x", b"y")])),
        ("cut", good[..good.len() / 2].to_vec()),
        ("bad json", tar(&[("manifest.json", b"[{")])),
        (
            "no config",
            tar(&[(
                "manifest.json",
                br#"[{"Config": "../../etc/passwd", "Layers": []}]"#,
            )]),
        ),
        ("wrong layer", wrong_layer),
        (
            "wrong manifest",
            layout(&format!("sha256:{}", "1".repeat(64))),
        ),
        ("empty manifest", layout(&Sha256::of(b"{}").to_string())),
    ] {
        let error = load(&root, bytes).await.expect_err(what).to_string();
        assert!(!error.is_empty(), "{what}");
        assert!(
            root.service.list(&ListFilter::default()).is_empty(),
            "{what}"
        );
        assert_eq!(blobs(root.directory.path()), 0, "{what}");
        let left = std::fs::read_dir(root.directory.path().join("content/ingest"))
            .unwrap()
            .count();
        assert_eq!(left, 0, "{what}");
    }
}

#[tokio::test]
async fn the_builtin_image() {
    let root = new();
    let program = root.directory.path().join("program");
    std::fs::write(&program, b"#!/bin/sh").unwrap();
    let first = root.service.register_builtin(&program).await.unwrap();
    let second = root.service.register_builtin(&program).await.unwrap();
    assert_eq!(first.id, second.id);
    assert_eq!(first.repo_tags, ["kekkai/hello:latest"]);
    assert_eq!(first.size, 9);
    // After an upgrade the old one is out of sight, and goes with the next removal.
    std::fs::write(&program, b"#!/bin/sh -e").unwrap();
    let third = root.service.register_builtin(&program).await.unwrap();
    assert_ne!(first.id, third.id);
    let all = root.service.list(&ListFilter::default());
    assert_eq!(all.len(), 1);
    assert!(root.snapshotter.layer(&first.layers[0]).is_some());
    root.service
        .prune(false, &ListFilter::default(), &|_| Vec::new())
        .await
        .unwrap();
    assert!(root.snapshotter.layer(&first.layers[0]).is_none());
}
