//! Pulling from a registry in memory: what arrives, what is refused, and that a failure leaves nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kekkai_archive::{Entry, EntryKind, TarWriter};
use kekkai_content::Sha256;
use kekkai_distribution::testing::{TestRegistry, answer, cut};
use kekkai_image::{
    ImageError, ImageService, ImageServiceConfig, ListFilter, ProgressSink, PullEvent,
    RegistryConfig, RemoveOptions, no_progress,
};
use kekkai_metadata::Database;
use kekkai_oci::image_documents::media;
use kekkai_snapshot::{OverlayConfig, OverlaySnapshotter, Snapshotter};
use kekkai_types::{Classify, Digest, ErrorClass, Reference};

struct Root {
    directory: tempfile::TempDir,
    service: ImageService,
    snapshotter: Arc<dyn Snapshotter>,
}

fn root() -> Root {
    let directory = tempfile::Builder::new()
        .prefix("kkt-image")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap();
    let data_root = directory.path().to_owned();
    let database = Arc::new(Database::open(&data_root.join("metadata.db")).unwrap());
    let driver = OverlaySnapshotter::open(OverlayConfig {
        data_root: data_root.clone(),
    })
    .unwrap();
    let snapshotter: Arc<dyn Snapshotter> = Arc::new(driver);
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

fn count(path: &Path) -> usize {
    fs::read_dir(path).map_or(0, |entries| {
        entries
            .filter(|entry| {
                entry
                    .as_ref()
                    .is_ok_and(|entry| entry.file_name() != ".empty")
            })
            .count()
    })
}

impl Root {
    async fn pull(&self, name: &str) -> Result<kekkai_image::PullOutcome, ImageError> {
        self.service
            .pull(
                &name.parse::<Reference>().unwrap(),
                None,
                None,
                no_progress(),
            )
            .await
    }

    /// Nothing half-made, and nothing at all.
    fn assert_empty(&self, what: &str) {
        let at = |path: &str| self.directory.path().join(path);
        assert!(
            self.service.list(&ListFilter::default()).is_empty(),
            "{what}"
        );
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let left = (
                count(&at("layers")),
                count(&at("content/ingest")),
                count(&at("trash")),
            );
            if left == (0, 0, 0) {
                return;
            }
            assert!(Instant::now() < until, "{what}: {left:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (name, data) in files {
        let mut entry = Entry::new(EntryKind::File, name);
        entry.size = data.len() as u64;
        tar.entry(&entry).unwrap();
        tar.data(data).unwrap();
    }
    tar.finish().unwrap()
}

fn evil(kind: EntryKind, path: &str, link: &str) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    let mut entry = Entry::new(kind, path);
    entry.link = link.as_bytes().to_vec();
    tar.entry(&entry).unwrap();
    tar.finish().unwrap()
}

fn recorder() -> (ProgressSink, Arc<Mutex<Vec<PullEvent>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    (
        Arc::new(move |event| seen.lock().unwrap().push(event)),
        events,
    )
}

fn amd64() -> (&'static str, &'static str) {
    (
        "linux",
        if std::env::consts::ARCH == "aarch64" {
            "arm64"
        } else {
            "amd64"
        },
    )
}

/// A manifest over given blobs, with any config.
fn manifest(registry: &TestRegistry, config: &str, layers: &[(&str, Bytes)]) -> String {
    let size = config.len();
    let config = registry.put_blob(config.to_owned());
    let layers: Vec<String> = layers
        .iter()
        .map(|(kind, blob)| {
            let size = blob.len();
            format!(
                r#"{{"mediaType":"{kind}","digest":"{}","size":{size}}}"#,
                registry.put_blob(blob.clone())
            )
        })
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{config}","size":{size}}},"layers":[{}]}}"#,
        media::DOCKER_MANIFEST,
        media::DOCKER_CONFIG,
        layers.join(",")
    )
}

fn config(layers: &[Digest]) -> String {
    let layers: Vec<String> = layers.iter().map(|layer| format!("\"{layer}\"")).collect();
    let (os, arch) = amd64();
    format!(
        r#"{{"os":"{os}","architecture":"{arch}","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        layers.join(",")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_three_layers() {
    let registry = TestRegistry::start().await;
    let layers = [
        layer(&[("a", b"1"), ("b", &[7; 900_000])]),
        layer(&[("a", b"2")]),
        layer(&[(".wh.b", b"")]),
    ];
    let digest = registry.put_image("app", "1", amd64(), &layers);
    let root = root();
    let (sink, events) = recorder();
    let name: Reference = registry.reference("app:1").parse().unwrap();
    let outcome = root
        .service
        .pull(&name, None, None, sink.clone())
        .await
        .unwrap();
    assert!(!outcome.up_to_date);
    assert_eq!(
        (outcome.digest.clone(), outcome.image.manifest.clone()),
        (digest.clone(), Some(digest.clone()))
    );
    assert_eq!(outcome.image.repo_tags, [registry.reference("app:1")]);
    assert_eq!(
        outcome.image.repo_digests,
        [format!("{}@{digest}", registry.reference("app"))]
    );
    assert_eq!(
        (outcome.image.size, outcome.image.layer_sizes.clone()),
        (900_002, vec![900_001, 1, 0])
    );
    let merged = root
        .snapshotter
        .mount_layers(&outcome.image.layers)
        .unwrap();
    let path = {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}", merged.as_raw_fd())
    };
    assert_eq!(fs::read(Path::new(&path).join("a")).unwrap(), b"2");
    assert!(!Path::new(&path).join("b").exists());

    let events = std::mem::take(&mut *events.lock().unwrap());
    assert_eq!(
        (events[0].id.as_deref(), events[0].status.as_str()),
        (Some("1"), "Pulling from app")
    );
    for layer in 1..4 {
        assert_eq!(events[layer].status, "Pulling fs layer");
        let id = events[layer].id.clone();
        let mut words: Vec<&str> = events
            .iter()
            .filter(|event| event.id == id)
            .map(|event| event.status.as_str())
            .collect();
        words.dedup();
        assert_eq!(
            words,
            [
                "Pulling fs layer",
                "Downloading",
                "Verifying Checksum",
                "Download complete",
                "Extracting",
                "Pull complete"
            ]
        );
    }
    let last: Vec<String> = events[events.len() - 2..]
        .iter()
        .map(|event| event.status.clone())
        .collect();
    assert_eq!(
        last,
        [
            format!("Digest: {digest}"),
            format!(
                "Status: Downloaded newer image for {}",
                registry.reference("app:1")
            )
        ]
    );

    // Again: one request. Under another name: no layer.
    let _ = registry.take_requests();
    let (sink, events) = recorder();
    assert!(
        root.service
            .pull(&name, None, None, sink)
            .await
            .unwrap()
            .up_to_date
    );
    assert_eq!(registry.take_requests(), ["GET /v2/app/manifests/1"]);
    assert_eq!(
        events.lock().unwrap().last().unwrap().status,
        format!("Status: Image is up to date for {name}")
    );
    registry.put_image("other", "latest", amd64(), &layers);
    let (sink, events) = recorder();
    let other: Reference = registry.reference("other").parse().unwrap();
    root.service.pull(&other, None, None, sink).await.unwrap();
    assert_eq!(
        events
            .lock()
            .unwrap()
            .iter()
            .filter(|event| event.status == "Already exists")
            .count(),
        3
    );
    let image = root
        .pull(&format!("{}@{digest}", registry.reference("app")))
        .await
        .unwrap()
        .image;
    assert_eq!(image.repo_tags.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_every_compression() {
    let registry = TestRegistry::start().await;
    let (plain, other) = (layer(&[("plain", b"1")]), layer(&[("zstd", b"2")]));
    let zstd = Bytes::from(zstd::encode_all(&other[..], 3).unwrap());
    let config = config(&[Sha256::of(&plain), Sha256::of(&other)]);
    let text = manifest(
        &registry,
        &config,
        &[
            (media::DOCKER_LAYER, plain.into()),
            (media::OCI_LAYER_ZSTD, zstd),
        ],
    );
    registry.put_manifest("x", Some("latest"), media::DOCKER_MANIFEST, text);
    assert_eq!(
        root()
            .pull(&registry.reference("x"))
            .await
            .unwrap()
            .image
            .layers
            .len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_leaves_nothing() {
    let registry = TestRegistry::start().await;
    let good = layer(&[("good", &[5; 300_000])]);
    let put = |name: &str, layers: &[Vec<u8>]| registry.put_image(name, "latest", amd64(), layers);
    put(
        "dotdot",
        &[good.clone(), evil(EntryKind::File, "../evil", "")],
    );
    put(
        "hardlink",
        &[
            good.clone(),
            evil(EntryKind::HardLink, "h", "../../../etc/passwd"),
        ],
    );
    put(
        "nolink",
        &[good.clone(), evil(EntryKind::HardLink, "h", "/etc/passwd")],
    );
    put(
        "notar",
        &[good.clone(), b"this is no tar stream at all".repeat(100)],
    );
    let cut_tar = good[..good.len() / 2].to_vec();
    put("cut-tar", &[cut_tar]);
    let at = |kind: &'static str| (kind, Bytes::from_static(b"BZh91AY&SY and so on"));
    for (name, kind) in [
        ("bzip2", media::OCI_LAYER_GZIP),
        ("bzip2-plain", media::OCI_LAYER),
    ] {
        let config = config(&[Sha256::of(b"x")]);
        let text = manifest(&registry, &config, &[at(kind)]);
        registry.put_manifest(name, Some("latest"), media::DOCKER_MANIFEST, text);
    }
    let gzip = |data: &[u8]| {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let mut corrupt = gzip(&good);
    let middle = corrupt.len() / 2;
    corrupt[middle] ^= 0xff;
    let one = |name: &str, blob: Vec<u8>, diff_id: Digest| {
        let text = manifest(
            &registry,
            &config(&[diff_id]),
            &[(media::OCI_LAYER_GZIP, blob.into())],
        );
        registry.put_manifest(name, Some("latest"), media::DOCKER_MANIFEST, text);
    };
    one("corrupt-gzip", corrupt, Sha256::of(&good));
    one(
        "cut-gzip",
        gzip(&good)[..gzip(&good).len() - 20].to_vec(),
        Sha256::of(&good),
    );
    one("wrong-diffid", gzip(&good), Sha256::of(b"another"));
    let swapped = gzip(&layer(&[("swapped", b"x")]));
    one("wrong-digest", swapped.clone(), Sha256::of(&good));
    let mut bad = swapped.clone();
    *bad.last_mut().unwrap() ^= 1;
    registry.corrupt_blob(&Sha256::of(&swapped), bad);
    let text = manifest(
        &registry,
        &config(&[]),
        &[(media::OCI_LAYER_GZIP, gzip(&good).into())],
    );
    registry.put_manifest("mismatch", Some("latest"), media::DOCKER_MANIFEST, text);
    let text = manifest(&registry, "{\"rootfs\":{}", &[]);
    registry.put_manifest("bad-config", Some("latest"), media::DOCKER_MANIFEST, text);
    registry.put_manifest(
        "huge",
        Some("latest"),
        media::OCI_MANIFEST,
        vec![b' '; 5 << 20],
    );
    registry.put_manifest("no-json", Some("latest"), media::OCI_MANIFEST, "{");
    let index = r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","size":1,"platform":{"os":"plan9","architecture":"mips"}}]}"#;
    registry.put_manifest("platform", Some("latest"), media::OCI_INDEX, index);

    for (name, words) in [
        ("dotdot", "refused"),
        ("hardlink", "refused"),
        ("nolink", "no such file in the layer or below it"),
        ("notar", "failed to register layer"),
        ("cut-tar", "failed to register layer: unexpected EOF"),
        ("bzip2", "bzip2 compression is not supported"),
        ("bzip2-plain", "bzip2 compression is not supported"),
        ("corrupt-gzip", "failed to register layer"),
        ("cut-gzip", "failed to register layer"),
        ("wrong-diffid", "wrong digest of the uncompressed layer"),
        (
            "wrong-digest",
            "filesystem layer verification failed for digest sha256:",
        ),
        ("mismatch", "layers"),
        ("bad-config", "image config"),
        ("huge", "more than 4194304 bytes"),
        ("no-json", "manifest"),
        ("platform", "no matching manifest for linux/"),
        ("nothing", "manifest unknown: manifest unknown"),
    ] {
        let root = root();
        let started = Instant::now();
        let error = root.pull(&registry.reference(name)).await.expect_err(name);
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{name} took {:?}",
            started.elapsed()
        );
        root.assert_empty(name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pull_is_taken_up_by_the_next() {
    let registry = TestRegistry::start().await;
    registry.put_image(
        "app",
        "latest",
        amd64(),
        &[layer(&[("a", &[1; 500_000])]), layer(&[("b", b"2")])],
    );
    let root = root();
    registry.hook(|request| {
        request
            .uri()
            .path()
            .contains("/blobs/")
            .then(|| answer(404, ""))
    });
    assert_eq!(
        root.pull(&registry.reference("app"))
            .await
            .unwrap_err()
            .class(),
        ErrorClass::NotFound
    );
    root.assert_empty("404");
    registry.hook(|request| {
        let blob = request.uri().path().contains("/blobs/");
        blob.then(|| http::Response::new(cut(Bytes::from_static(b"\x1f\x8b\x08 and then nothing"))))
    });
    root.pull(&registry.reference("app")).await.unwrap_err();
    root.assert_empty("cut");
    registry.hook(|_| None);
    root.pull(&registry.reference("app")).await.unwrap();
    // Removed, everything is gone at once or soon; and it can be pulled again.
    let items = root
        .service
        .remove(
            &registry.reference("app"),
            RemoveOptions::default(),
            &|_| Vec::new(),
        )
        .await
        .unwrap();
    assert_eq!(items.len(), 5, "{items:?}");
    root.assert_empty("removed");
    assert_eq!(
        count(&root.directory.path().join("content/blobs/sha256")),
        0
    );
    root.pull(&registry.reference("app")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_download_once() {
    let registry = TestRegistry::start().await;
    let shared = layer(&[("shared", &[9; 400_000])]);
    for n in 0..6u8 {
        registry.put_image(
            &format!("app{n}"),
            "latest",
            amd64(),
            &[shared.clone(), layer(&[("own", &[n])])],
        );
    }
    let root = Arc::new(root());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..24 {
        let (root, name) = (
            Arc::clone(&root),
            registry.reference(&format!("app{}", n % 6)),
        );
        tasks.spawn(async move { root.pull(&name).await.map(|_| ()) });
    }
    // Meanwhile others collect what looks unused.
    for _ in 0..20 {
        root.service
            .prune(false, &ListFilter::default(), &|_| Vec::new())
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(root.service.list(&ListFilter::default()).len(), 6);
    let requests = registry.take_requests();
    let mut blobs: Vec<&String> = requests
        .iter()
        .filter(|request| request.contains("/blobs/"))
        .collect();
    blobs.sort();
    let all = blobs.len();
    blobs.dedup();
    assert_eq!(all, blobs.len(), "a blob was fetched twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_nothing() {
    let registry = TestRegistry::start().await;
    registry.put_image(
        "app",
        "latest",
        amd64(),
        &[layer(&[("a", &[1; 3_000_000])])],
    );
    registry.hook(|request| {
        let blob =
            request.uri().path().contains("/blobs/") && !request.uri().path().contains("config");
        blob.then(|| http::Response::new(kekkai_distribution::testing::endless()))
    });
    let root = root();
    let pull = tokio::time::timeout(
        Duration::from_millis(300),
        root.pull(&registry.reference("app")),
    )
    .await;
    assert!(pull.is_err() || pull.is_ok_and(|outcome| outcome.is_err()));
    root.assert_empty("cancelled");
}
