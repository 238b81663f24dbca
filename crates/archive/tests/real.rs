//! Layers of real images, unpacked by us and by GNU tar, compared object by object.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use kekkai_archive::{Decoder, Limits, apply_layer};
use rustix::fs::{Mode, OFlags};

/// The layout of real images, if this machine has it.
fn layout() -> Option<PathBuf> {
    let path = std::env::var_os("KEKKAI_TEST_IMAGES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/images"),
        PathBuf::from,
    );
    path.join("index.json").exists().then_some(path)
}

fn layers(layout: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(layout.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let mut magic = [0; 2];
            File::open(path).unwrap().read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b]
        })
        .collect();
    found.sort_by_key(|path| fs::metadata(path).unwrap().len());
    found
}

#[test]
fn like_gnu_tar_on_real_layers() {
    let Some(layout) = layout() else {
        println!("skipped: no layout of real images");
        return;
    };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    // Enough of them to be worth it, and few enough to be quick: unlinking is slow on some disks.
    let most: u64 = std::env::var("KEKKAI_TEST_LAYER_BYTES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4 << 20);
    let mut compared = 0;
    for blob in layers(&layout)
        .into_iter()
        .filter(|path| fs::metadata(path).unwrap().len() < most)
        .take(if most > 4 << 20 { usize::MAX } else { 4 })
    {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (
            directory.path().join("ours"),
            directory.path().join("theirs"),
        );
        fs::create_dir(&ours).unwrap();
        fs::create_dir(&theirs).unwrap();
        let tar = Command::new("tar")
            .arg("--numeric-owner")
            .arg("--xattrs")
            .arg("--xattrs-include=*")
            .arg("-pxzf")
            .arg(&blob)
            .arg("-C")
            .arg(&theirs)
            .stderr(Stdio::null())
            .status();
        if !tar.is_ok_and(|status| status.success()) {
            println!("skipped: tar cannot read {blob:?}");
            continue;
        }
        let fd =
            rustix::fs::open(&ours, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let since = Instant::now();
        let decoder = Decoder::new(BufReader::new(File::open(&blob).unwrap())).unwrap();
        let applied = apply_layer(fd.as_fd(), decoder, Limits::default()).unwrap();
        println!(
            "{:?}: {} entries, {} bytes, {:?}",
            blob.file_name().unwrap(),
            applied.entries,
            applied.size,
            since.elapsed()
        );
        compare(&theirs, &ours);
        compared += 1;
    }
    assert!(compared > 0);
}

fn compare(theirs: &Path, ours: &Path) {
    let (a, b) = (
        fs::symlink_metadata(theirs).unwrap(),
        fs::symlink_metadata(ours).unwrap(),
    );
    let facts = |m: &fs::Metadata| {
        (
            m.mode(),
            m.uid(),
            m.gid(),
            m.rdev(),
            if m.is_dir() { 0 } else { m.nlink() },
        )
    };
    assert_eq!(facts(&a), facts(&b), "{ours:?}");
    // tar makes directories that have no entry now.
    if !a.is_dir() {
        assert_eq!((a.mtime(), a.len()), (b.mtime(), b.len()), "{ours:?}");
    }
    if a.is_dir() {
        let list = |path: &Path| {
            let mut names: Vec<_> = fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        // Layers with whiteouts are compared by their own test.
        let names: Vec<_> = list(theirs)
            .into_iter()
            .filter(|name| !name.to_string_lossy().starts_with(".wh."))
            .collect();
        for name in &names {
            compare(&theirs.join(name), &ours.join(name));
        }
        let whiteouts = list(theirs).len() - names.len();
        assert!(list(ours).len() <= names.len() + whiteouts, "{ours:?}");
    } else if a.is_symlink() {
        assert_eq!(fs::read_link(theirs).unwrap(), fs::read_link(ours).unwrap());
    } else if a.is_file() {
        assert!(
            fs::read(theirs).unwrap() == fs::read(ours).unwrap(),
            "{ours:?}"
        );
    }
    for name in ["security.capability", "user.test"] {
        let get = |path: &Path| {
            let mut value = [0u8; 256];
            rustix::fs::lgetxattr(path, name, &mut value[..])
                .ok()
                .map(|length| value[..length].to_vec())
        };
        assert_eq!(get(theirs), get(ours), "{ours:?} {name}");
    }
}
