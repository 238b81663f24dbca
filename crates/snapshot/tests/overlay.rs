//! The overlay driver against the kernel: layers published, stacked, leaning on their parents, written over and removed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kekkai_archive::{Entry, EntryKind, TarWriter};
use kekkai_content::Sha256;
use kekkai_snapshot::{ChangeKind, OverlayConfig, OverlaySnapshotter, SnapshotError, Snapshotter};
use kekkai_types::DiffId;
use rustix::fs::{Mode, OFlags};

/// Overlayfs needs extended attributes and rights; without them there is nothing to test.
fn driver() -> Option<(tempfile::TempDir, OverlaySnapshotter)> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return None;
    }
    // tmpfs has no trusted attributes on some kernels; the build's own disk has.
    let directory = tempfile::Builder::new()
        .prefix("kkt-snapshot")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap();
    let driver = OverlaySnapshotter::open(OverlayConfig {
        data_root: directory.path().to_owned(),
    })
    .unwrap();
    Some((directory, driver))
}

type Item<'a> = (EntryKind, &'a str, &'a str, u32);

fn tar(items: &[Item<'_>]) -> (DiffId, Vec<u8>) {
    let mut writer = TarWriter::new(Vec::new());
    for (kind, path, text, mode) in items {
        let mut entry = Entry::new(*kind, path);
        entry.mode = *mode;
        if *kind == EntryKind::File {
            entry.size = text.len() as u64;
        } else {
            entry.link = text.as_bytes().to_vec();
        }
        writer.entry(&entry).unwrap();
        if *kind == EntryKind::File {
            writer.data(text.as_bytes()).unwrap();
        }
    }
    let data = writer.finish().unwrap();
    (DiffId(Sha256::of(&data)), data)
}

fn publish(driver: &OverlaySnapshotter, items: &[Item<'_>]) -> DiffId {
    let (id, data) = tar(items);
    let staged = driver.stage(&id, &mut &data[..]).unwrap();
    assert!(
        driver.layer(&id).is_none(),
        "visible before it was published"
    );
    driver.publish(vec![staged]).unwrap();
    assert!(driver.layer(&id).is_some());
    id
}

const DIR: EntryKind = EntryKind::Directory;
const FILE: EntryKind = EntryKind::File;

/// A merged tree, read through its detached mount.
struct Merged(std::os::fd::OwnedFd);

impl Merged {
    fn path(&self, path: &str) -> PathBuf {
        use std::os::fd::AsRawFd;
        Path::new(&format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(path)
    }
    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }
}

fn eventually(what: &str, check: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_container_over_two_layers() {
    let Some((directory, driver)) = driver() else {
        return;
    };
    let base = publish(
        &driver,
        &[
            (DIR, "./", "", 0o751),
            (DIR, "etc", "", 0o755),
            (FILE, "etc/a", "one", 0o644),
            (FILE, "gone", "x", 0o644),
            (DIR, "opaque", "", 0o755),
            (FILE, "opaque/old", "x", 0o644),
        ],
    );
    let top = publish(
        &driver,
        &[
            (DIR, "etc", "", 0o755),
            (FILE, "etc/a", "two", 0o600),
            (FILE, ".wh.gone", "", 0),
            (DIR, "opaque", "", 0o755),
            (FILE, "opaque/.wh..wh..opq", "", 0),
            (FILE, "opaque/new", "y", 0o644),
        ],
    );
    let layers = [base, top];
    driver.assemble(&layers).unwrap();
    let mount = driver.prepare("c1", &layers, false).unwrap();
    assert_eq!(mount.lower.len(), 2);
    assert!(matches!(
        driver.prepare("c1", &layers, false),
        Err(SnapshotError::Exists(_))
    ));
    assert_eq!(
        fs::metadata(&mount.upper).unwrap().permissions().mode() & 0o7777,
        0o751,
        "the root's mode is the image's"
    );
    assert_eq!(driver.mounts("c1").unwrap(), mount);
    // The first start uses the first work directory, every later one a new one.
    assert_eq!(driver.fresh_work("c1").unwrap(), mount);
    let second = driver.fresh_work("c1").unwrap();
    assert_ne!(second.work, mount.work);
    assert!(second.work.is_dir() && !mount.work.exists());

    let merged = Merged(driver.mount_detached("c1").unwrap());
    assert_eq!(merged.read("etc/a").as_deref(), Some("two"));
    assert_eq!(merged.read("gone"), None);
    assert_eq!(merged.read("opaque/old"), None);
    assert_eq!(merged.read("opaque/new").as_deref(), Some("y"));
    fs::write(merged.path("etc/b"), "12345").unwrap();
    fs::write(merged.path("etc/a"), "three").unwrap();
    fs::remove_file(merged.path("opaque/new")).unwrap();
    assert_eq!(driver.usage("c1").unwrap().bytes, 10);
    let changes: Vec<(String, ChangeKind)> = driver
        .diff("c1")
        .unwrap()
        .into_iter()
        .map(|change| (change.path.to_str().unwrap().to_owned(), change.kind))
        .collect();
    let expected = [
        ("/etc", ChangeKind::Modified),
        ("/etc/a", ChangeKind::Modified),
        ("/etc/b", ChangeKind::Added),
        ("/opaque", ChangeKind::Modified),
        ("/opaque/new", ChangeKind::Deleted),
    ];
    assert_eq!(
        changes,
        expected.map(|(path, kind)| (path.to_owned(), kind))
    );
    drop(merged);

    // A new daemon finds everything again.
    drop(driver);
    let driver = OverlaySnapshotter::open(OverlayConfig {
        data_root: directory.path().to_owned(),
    })
    .unwrap();
    assert!(layers.iter().all(|layer| driver.layer(layer).is_some()));
    assert!(matches!(
        driver.mounts("c1"),
        Err(SnapshotError::NoSnapshot(_))
    ));
    let adopted = driver.adopt("c1", &layers, false).unwrap();
    assert!(adopted.work.is_dir());
    let merged = Merged(driver.mount_detached("c1").unwrap());
    assert_eq!(merged.read("etc/a").as_deref(), Some("three"));
    drop(merged);
    driver.remove("c1").unwrap();
    driver.remove("c1").unwrap();
    assert!(!adopted.upper.exists());
    driver.prepare("orphan", &layers, true).unwrap();
    driver.retain(&|_| false).unwrap();
    eventually("the trash is emptied", || {
        fs::read_dir(directory.path().join("trash"))
            .unwrap()
            .count()
            == 0
    });
    assert_eq!(
        fs::read_dir(directory.path().join("snapshots"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn what_is_wrong_leaves_nothing() {
    let Some((directory, driver)) = driver() else {
        return;
    };
    let (id, data) = tar(&[(FILE, "a", "x", 0o644)]);
    let (other, _) = tar(&[(FILE, "b", "x", 0o644)]);
    assert!(matches!(
        driver.stage(&other, &mut &data[..]),
        Err(SnapshotError::WrongDiffId { .. })
    ));
    assert!(matches!(
        driver.stage(&id, &mut &data[..700]),
        Err(SnapshotError::Unpack { .. })
    ));
    drop(driver.stage(&id, &mut &data[..]).unwrap());
    assert!(driver.layer(&id).is_none());
    assert!(matches!(
        driver.prepare("c", std::slice::from_ref(&id), false),
        Err(SnapshotError::NoLayer(_))
    ));
    for key in ["", "..", "a/b", ".x"] {
        assert!(
            matches!(
                driver.prepare(key, &[], false),
                Err(SnapshotError::NoSnapshot(_))
            ),
            "{key}"
        );
    }
    // Trailing bytes count for the digest.
    let mut longer = data.clone();
    longer.extend([0; 5000]);
    assert!(matches!(
        driver.stage(&id, &mut &longer[..]),
        Err(SnapshotError::WrongDiffId { .. })
    ));
    driver
        .publish(vec![
            driver
                .stage(&DiffId(Sha256::of(&longer)), &mut &longer[..])
                .unwrap(),
        ])
        .unwrap();
    // Published twice: the first stays.
    let (one, two) = (
        driver.stage(&id, &mut &data[..]).unwrap(),
        driver.stage(&id, &mut &data[..]).unwrap(),
    );
    driver.publish(vec![one, two]).unwrap();
    eventually("the trash is emptied", || {
        fs::read_dir(directory.path().join("trash"))
            .unwrap()
            .count()
            == 0
    });
    let names = || {
        let mut names: Vec<_> = fs::read_dir(directory.path().join("layers"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names().len(), 3, "{:?}", names());
    // A damaged layer is as one that was never pulled.
    fs::write(
        directory
            .path()
            .join("layers")
            .join(id.0.hex())
            .join("layer.json"),
        "",
    )
    .unwrap();
    fs::create_dir(directory.path().join("layers/.stage-77")).unwrap();
    let again = OverlaySnapshotter::open(OverlayConfig {
        data_root: directory.path().to_owned(),
    })
    .unwrap();
    assert!(again.layer(&id).is_none());
    assert_eq!(names().len(), 2, "{:?}", names());
}

#[test]
fn layers_that_lean_on_their_parents() {
    let Some((directory, driver)) = driver() else {
        return;
    };
    let base = publish(
        &driver,
        &[
            (DIR, "usr", "", 0o755),
            (DIR, "usr/lib", "", 0o755),
            (EntryKind::Symlink, "lib", "usr/lib", 0o777),
            (DIR, "secret", "", 0o700),
            (FILE, "secret/base", "b", 0o600),
            (FILE, "usr/original", "content", 0o640),
            (DIR, "plain", "", 0o755),
        ],
    );
    // Implies `lib` (a symlink below), `secret` (mode 0700 below), `plain` (as below), `new`; links to what it lacks.
    let top = publish(
        &driver,
        &[
            (FILE, "lib/module", "m", 0o644),
            (FILE, "secret/top", "t", 0o600),
            (FILE, "plain/x", "p", 0o644),
            (FILE, "new/y", "n", 0o644),
            (EntryKind::HardLink, "alias", "usr/original", 0o644),
        ],
    );
    let plain = publish(&driver, &[(FILE, "plain/z", "z", 0o644)]);
    let chain = [base.clone(), top.clone(), plain.clone()];
    driver.assemble(&chain).unwrap();
    driver.assemble(&chain).unwrap();
    let merged = Merged(driver.mount_layers(&chain).unwrap());
    assert!(
        fs::symlink_metadata(merged.path("lib"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(merged.read("usr/lib/module").as_deref(), Some("m"));
    assert_eq!(
        fs::metadata(merged.path("secret")).unwrap().mode() & 0o777,
        0o700
    );
    assert_eq!(
        (
            merged.read("secret/base").as_deref(),
            merged.read("secret/top").as_deref()
        ),
        (Some("b"), Some("t"))
    );
    assert_eq!(
        (
            merged.read("plain/x").as_deref(),
            merged.read("plain/z").as_deref()
        ),
        (Some("p"), Some("z"))
    );
    assert_eq!(merged.read("new/y").as_deref(), Some("n"));
    let (alias, original) = (
        fs::metadata(merged.path("alias")).unwrap(),
        fs::metadata(merged.path("usr/original")).unwrap(),
    );
    assert_eq!(
        (alias.ino(), alias.nlink(), alias.mode() & 0o777),
        (original.ino(), 2, 0o640)
    );
    assert_eq!(merged.read("alias").as_deref(), Some("content"));
    drop(merged);
    let chains = || {
        let names = fs::read_dir(directory.path().join("layers"))
            .unwrap()
            .map(|e| e.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().starts_with("chain-"))
            .count()
    };
    assert_eq!(
        chains(),
        1,
        "the third layer looks the same over its parents"
    );

    // Over another base the same layer is another directory; over none a link to nothing is an error.
    let other = publish(
        &driver,
        &[
            (DIR, "lib", "", 0o711),
            (DIR, "usr", "", 0o755),
            (FILE, "usr/original", "other", 0o644),
        ],
    );
    let chain2 = [other.clone(), top.clone()];
    driver.assemble(&chain2).unwrap();
    assert_eq!(chains(), 2);
    let merged = Merged(driver.mount_layers(&chain2).unwrap());
    assert_eq!(
        fs::metadata(merged.path("lib")).unwrap().mode() & 0o777,
        0o711
    );
    assert_eq!(
        (
            merged.read("lib/module").as_deref(),
            merged.read("alias").as_deref()
        ),
        (Some("m"), Some("other"))
    );
    drop(merged);
    assert!(matches!(
        driver.assemble(std::slice::from_ref(&top)),
        Err(SnapshotError::MissingLink { .. })
    ));
    assert!(matches!(
        driver.assemble(&[plain.clone(), top.clone()]),
        Err(SnapshotError::MissingLink { .. })
    ));
    let file = publish(&driver, &[(FILE, "plain", "a file", 0o644)]);
    assert!(matches!(
        driver.assemble(&[file, plain.clone()]),
        Err(SnapshotError::NotADirectory { .. })
    ));

    driver.retain_layers(&[chain.to_vec()]).unwrap();
    assert_eq!(chains(), 1);
    assert!(driver.layer(&other).is_none() && driver.layer(&top).is_some());
    let again = OverlaySnapshotter::open(OverlayConfig {
        data_root: directory.path().to_owned(),
    })
    .unwrap();
    let merged = Merged(again.mount_layers(&chain).unwrap());
    assert_eq!(merged.read("usr/lib/module").as_deref(), Some("m"));
}

#[test]
fn a_layer_twice_and_no_layer() {
    let Some((_directory, driver)) = driver() else {
        return;
    };
    let a = publish(&driver, &[(FILE, "a", "1", 0o644), (FILE, ".wh.b", "", 0)]);
    let b = publish(&driver, &[(FILE, "a", "2", 0o644), (FILE, "b", "2", 0o644)]);
    let merged = Merged(
        driver
            .mount_layers(&[a.clone(), b.clone(), a.clone()])
            .unwrap(),
    );
    assert_eq!(
        (merged.read("a").as_deref(), merged.read("b")),
        (Some("1"), None)
    );
    let merged = Merged(driver.mount_layers(&[]).unwrap());
    assert_eq!(fs::read_dir(merged.path("")).unwrap().count(), 0);
    driver.prepare("scratch", &[], false).unwrap();
    let merged = Merged(driver.mount_detached("scratch").unwrap());
    fs::write(merged.path("x"), "x").unwrap();
    let fd = rustix::fs::openat(merged.0.as_fd(), "x", OFlags::RDONLY, Mode::empty());
    assert!(fd.is_ok());
}

/// Two hundred layers, whose paths no page of mount options would hold.
#[test]
fn many_layers() {
    let Some((_directory, driver)) = driver() else {
        return;
    };
    let layers: Vec<DiffId> = (0..200)
        .map(|n| publish(&driver, &[(FILE, &format!("f{n}"), &n.to_string(), 0o644)]))
        .collect();
    driver.prepare("deep", &layers, true).unwrap();
    let merged = Merged(driver.mount_detached("deep").unwrap());
    assert_eq!(fs::read_dir(merged.path("")).unwrap().count(), 200);
    assert!(matches!(
        driver.prepare("deeper", &vec![layers[0].clone(); 501], false),
        Err(SnapshotError::TooManyLayers(501))
    ));
}
