//! Layers applied to a directory: what real ones need, and what hostile ones try.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use kekkai_archive::{Applied, ArchiveError, Entry, EntryKind, Limits, TarWriter, apply_layer};
use rustix::fs::{Mode, OFlags};

struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir(outer.path().join("root")).unwrap();
        Self(outer)
    }
    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join("root").join(path)
    }
    fn fd(&self) -> OwnedFd {
        rustix::fs::open(
            self.path(""),
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap()
    }
    fn apply(&self, tar: &[u8]) -> Result<Applied, ArchiveError> {
        apply_layer(self.fd().as_fd(), tar, Limits::default())
    }
    fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = [0u8; 256];
        let length = rustix::fs::lgetxattr(self.path(path), name, &mut value[..]).ok()?;
        Some(value[..length].to_vec())
    }
    fn is_whiteout(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path))
            .is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
    }
}

fn entry(kind: EntryKind, path: &str) -> Entry {
    Entry::new(kind, path)
}

fn link(kind: EntryKind, path: &str, target: &str) -> Entry {
    let mut entry = entry(kind, path);
    entry.link = target.as_bytes().to_vec();
    entry
}

/// Entries with their data.
type Items<'a> = Vec<(Entry, &'a [u8])>;

fn tar(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, data) in entries {
        let mut copy = Entry::new(entry.kind, "");
        copy.path.clone_from(&entry.path);
        copy.link.clone_from(&entry.link);
        (copy.mode, copy.uid, copy.gid, copy.mtime, copy.device) =
            (entry.mode, entry.uid, entry.gid, entry.mtime, entry.device);
        copy.xattrs.clone_from(&entry.xattrs);
        copy.size = data.len() as u64;
        writer.entry(&copy).unwrap();
        writer.data(data).unwrap();
    }
    writer.finish().unwrap()
}

fn file(path: &str) -> Entry {
    entry(EntryKind::File, path)
}

fn dir(path: &str) -> Entry {
    entry(EntryKind::Directory, path)
}

#[test]
fn everything_a_layer_has() {
    let tree = Tree::new();
    let mut suid = file("usr/bin/su");
    (suid.mode, suid.uid, suid.gid, suid.mtime) = (0o4755, 7, 8, (1_000_000_000, 0));
    // VFS_CAP_REVISION_2, effective, cap_net_raw.
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]
    .to_vec();
    suid.xattrs = vec![
        (b"security.capability".to_vec(), capability.clone()),
        (b"user.note".to_vec(), b"hello".to_vec()),
        (b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()),
    ];
    let mut sticky = dir("tmp/");
    (sticky.mode, sticky.mtime) = (0o1777, (1_100_000_000, 0));
    let mut setgid = dir("shared");
    (setgid.mode, setgid.gid) = (0o2775, 50);
    let mut device = entry(EntryKind::CharDevice, "dev/null");
    (device.mode, device.device) = (0o666, (1, 3));
    let mut block = entry(EntryKind::BlockDevice, "dev/loop");
    (block.mode, block.device) = (0o660, (7, 300));
    let mut root = dir("./");
    (root.mode, root.mtime) = (0o711, (5, 0));
    let mut long = file(&format!("long/{}/{}", "x".repeat(200), "y".repeat(200)));
    long.mode = 0o600;
    let mut old_symlink = link(EntryKind::Symlink, "lib", "usr/lib");
    (old_symlink.mtime, old_symlink.uid) = ((-5, 0), 9);
    let applied = tree
        .apply(&tar(&[
            (root, b""),
            (dir("usr"), b""),
            (dir("usr/bin"), b""),
            (suid, b"#!"),
            (sticky, b""),
            (file("tmp/in"), b""),
            (setgid, b""),
            (file("shared/file"), b"abc"),
            (dir("dev"), b""),
            (device, b""),
            (block, b""),
            (entry(EntryKind::Fifo, "dev/pipe"), b""),
            (link(EntryKind::HardLink, "usr/bin/su2", "usr/bin/su"), b""),
            (old_symlink, b""),
            (dir("usr/lib"), b""),
            (file("lib/through"), b"x"),
            (long, b"z"),
            (file("/absolute/name"), b"inside"),
        ]))
        .unwrap();
    let su = fs::metadata(tree.path("usr/bin/su")).unwrap();
    assert_eq!(
        (
            su.mode() & 0o7777,
            su.uid(),
            su.gid(),
            su.mtime(),
            su.nlink()
        ),
        (0o4755, 7, 8, 1_000_000_000, 2)
    );
    assert_eq!(
        tree.xattr("usr/bin/su", "security.capability").unwrap(),
        capability
    );
    assert_eq!(tree.xattr("usr/bin/su", "user.note").unwrap(), b"hello");
    assert_eq!(tree.xattr("usr/bin/su", "trusted.overlay.redirect"), None);
    let tmp = fs::metadata(tree.path("tmp")).unwrap();
    assert_eq!((tmp.mode() & 0o7777, tmp.mtime()), (0o1777, 1_100_000_000));
    let shared = fs::metadata(tree.path("shared")).unwrap();
    assert_eq!((shared.mode() & 0o7777, shared.gid()), (0o2775, 50));
    assert_eq!(fs::metadata(tree.path("shared/file")).unwrap().gid(), 0);
    let null = fs::metadata(tree.path("dev/null")).unwrap();
    assert_eq!(
        (
            null.mode() & 0o7777,
            rustix::fs::major(null.rdev()),
            rustix::fs::minor(null.rdev())
        ),
        (0o666, 1, 3)
    );
    assert_eq!(
        rustix::fs::minor(fs::metadata(tree.path("dev/loop")).unwrap().rdev()),
        300
    );
    assert!(
        fs::metadata(tree.path("dev/pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    let lib = fs::symlink_metadata(tree.path("lib")).unwrap();
    assert_eq!(
        (
            lib.uid(),
            lib.mtime(),
            fs::read_link(tree.path("lib")).unwrap().as_path()
        ),
        (9, -5, Path::new("usr/lib"))
    );
    assert_eq!(fs::read(tree.path("usr/lib/through")).unwrap(), b"x");
    assert_eq!(fs::read(tree.path("absolute/name")).unwrap(), b"inside");
    let root = fs::metadata(tree.path("")).unwrap();
    assert_eq!((root.mode() & 0o7777, root.mtime()), (0o711, 5));
    assert!(applied.root && applied.missing_links.is_empty());
    let x = PathBuf::from(format!("long/{}", "x".repeat(200)));
    assert_eq!(
        applied.implied,
        [PathBuf::from("absolute"), PathBuf::from("long"), x]
    );
    assert_eq!((applied.entries, applied.size), (18, 13 + 7));
}

#[test]
fn whiteouts_in_either_order() {
    let tree = Tree::new();
    let applied = tree
        .apply(&tar(&[
            (file("etc/.wh.gone"), b""),
            (file("a/.wh..wh..opq"), b""),
            (file("a/new"), b""),
            (file("b/new"), b""),
            (file("b/.wh..wh..opq"), b""),
            // Whiteout first, then the directory of that name; and the other way round; and one that is only implied.
            (file(".wh.first"), b""),
            (dir("first"), b""),
            (dir("second"), b""),
            (file(".wh.second"), b""),
            (file(".wh.third"), b""),
            (file("third/below"), b""),
            (file(".wh.plain"), b""),
            (file("plain"), b"new"),
            (file("plain2"), b"new"),
            (file(".wh.plain2"), b""),
            (file(".wh..wh.plnk/1.2"), b""),
            (file(".wh..wh.aufs"), b""),
        ]))
        .unwrap();
    assert!(tree.is_whiteout("etc/gone"));
    for opaque in ["a", "b", "first", "second", "third"] {
        assert_eq!(
            tree.xattr(opaque, "trusted.overlay.opaque").as_deref(),
            Some(&b"y"[..]),
            "{opaque}"
        );
    }
    assert_eq!(fs::read(tree.path("plain")).unwrap(), b"new");
    assert_eq!(fs::read(tree.path("plain2")).unwrap(), b"new");
    let mut names: Vec<_> = fs::read_dir(tree.path(""))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "a", "b", "etc", "first", "plain", "plain2", "second", "third"
        ]
    );
    assert_eq!(
        applied.implied,
        ["a", "b", "etc", "third"].map(PathBuf::from)
    );
}

#[test]
fn later_entries_replace_earlier_ones() {
    let tree = Tree::new();
    let mut last = dir("d");
    last.mode = 0o700;
    tree.apply(&tar(&[
        (file("f"), b"one"),
        (link(EntryKind::HardLink, "g", "f"), b""),
        (file("f"), b"two"),
        (dir("d"), b""),
        (file("d/x"), b""),
        (file("d"), b"file"),
        (last, b""),
        (link(EntryKind::Symlink, "s", "f"), b""),
        (file("s"), b"not through"),
    ]))
    .unwrap();
    assert_eq!(fs::read(tree.path("f")).unwrap(), b"two");
    assert_eq!(fs::read(tree.path("g")).unwrap(), b"one");
    assert_eq!(
        fs::metadata(tree.path("d")).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert!(!tree.path("d/x").exists());
    assert_eq!(fs::read(tree.path("s")).unwrap(), b"not through");
    assert!(fs::symlink_metadata(tree.path("s")).unwrap().is_file());
}

#[test]
fn links_without_targets_are_told() {
    let tree = Tree::new();
    let applied = tree
        .apply(&tar(&[
            (link(EntryKind::HardLink, "early", "late"), b""),
            (file("late"), b"x"),
            (link(EntryKind::HardLink, "bin/b", "bin/a"), b""),
        ]))
        .unwrap();
    assert_eq!(fs::metadata(tree.path("early")).unwrap().nlink(), 2);
    assert_eq!(applied.missing_links.len(), 1);
    assert_eq!(applied.missing_links[0].path, Path::new("bin/b"));
    assert_eq!(applied.missing_links[0].target, Path::new("bin/a"));
}

#[test]
fn nothing_gets_out() {
    let tree = Tree::new();
    let outside = tree.0.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "s").unwrap();
    let absolute = outside.to_str().unwrap().to_owned();
    let cases: Vec<(&str, Items<'_>)> = vec![
        ("dotdot", vec![(file("../outside/pwned"), b"x")]),
        ("dotdot inside", vec![(file("a/../../outside/pwned"), b"x")]),
        ("dotdot directory", vec![(dir("../outside/pwned"), b"")]),
        (
            "symlinked parent",
            vec![
                (link(EntryKind::Symlink, "l", "../outside"), b""),
                (file("l/pwned"), b"x"),
            ],
        ),
        (
            "absolute symlinked parent",
            vec![
                (link(EntryKind::Symlink, "l", &absolute), b""),
                (file("l/pwned"), b"x"),
            ],
        ),
        (
            "two symlinks",
            vec![
                (dir("d"), b""),
                (link(EntryKind::Symlink, "d/up", ".."), b""),
                (link(EntryKind::Symlink, "l", "d/up/../outside"), b""),
                (file("l/pwned"), b"x"),
            ],
        ),
        (
            "directory over a symlink",
            vec![
                (link(EntryKind::Symlink, "l", "../outside"), b""),
                (dir("l/pwned"), b""),
            ],
        ),
        (
            "whiteout through a symlink",
            vec![
                (link(EntryKind::Symlink, "l", "../outside"), b""),
                (file("l/.wh.secret"), b""),
            ],
        ),
        (
            "opaque through a symlink",
            vec![
                (link(EntryKind::Symlink, "l", "../outside"), b""),
                (file("l/.wh..wh..opq"), b""),
            ],
        ),
        (
            "whiteout of dotdot",
            vec![
                (file("a/.wh..."), b""),
                (file("a/.wh..."), b""),
                (file(".wh..."), b""),
                (file("a/.wh..a/../../../outside/pwned"), b""),
            ],
        ),
        (
            "whiteout of the parent",
            vec![
                (file("a/.wh..."), b""),
                (file("a/.wh..."), b""),
                (file("a/.wh.."), b""),
            ],
        ),
        (
            "hard link outside",
            vec![(link(EntryKind::HardLink, "h", "../outside/secret"), b"")],
        ),
        (
            "hard link through a symlink",
            vec![
                (link(EntryKind::Symlink, "l", "../outside"), b""),
                (link(EntryKind::HardLink, "h", "l/secret"), b""),
            ],
        ),
        ("root as a file", vec![(file("."), b"x")]),
        (
            "symlink over the root",
            vec![(link(EntryKind::Symlink, "./", &absolute), b"")],
        ),
        (
            "loop",
            vec![
                (link(EntryKind::Symlink, "l", "l"), b""),
                (file("l/x"), b""),
            ],
        ),
        (
            "magic link",
            vec![
                (link(EntryKind::Symlink, "l", "/proc/self/cwd"), b""),
                (file("l/pwned"), b"x"),
            ],
        ),
    ];
    for (what, entries) in cases {
        let inner = Tree::new();
        fs::rename(inner.path(""), tree.path("case")).ok();
        fs::create_dir_all(tree.path("")).unwrap();
        let outcome = tree.apply(&tar(&entries));
        let error = outcome.expect_err(what);
        assert!(!error.to_string().is_empty());
        let names: Vec<_> = fs::read_dir(&outside)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["secret"], "{what}");
        let secret = fs::metadata(outside.join("secret")).unwrap();
        assert_eq!((secret.nlink(), secret.len()), (1, 1), "{what}");
        fs::remove_dir_all(tree.path("")).unwrap();
        fs::create_dir(tree.path("")).unwrap();
    }
    // A hard link by an absolute name means a file of the image, never one of the host.
    let absolute_secret = format!("{absolute}/secret");
    let applied = tree
        .apply(&tar(&[(
            link(EntryKind::HardLink, "h", &absolute_secret),
            b"",
        )]))
        .unwrap();
    assert_eq!(applied.missing_links.len(), 1);
    assert!(!tree.path("h").exists());
}

#[test]
fn a_symlink_that_was_there_is_not_followed() {
    // The directory is empty when a layer is applied; this is what a bug elsewhere would meet.
    let tree = Tree::new();
    fs::create_dir(tree.0.path().join("outside")).unwrap();
    symlink("../outside", tree.path("l")).unwrap();
    tree.apply(&tar(&[(file("l/pwned"), b"x")])).unwrap_err();
    assert!(!tree.0.path().join("outside/pwned").exists());
}

#[test]
fn bounds() {
    let limited = |limits: Limits, entries: &[(Entry, &[u8])]| {
        let tree = Tree::new();
        apply_layer(tree.fd().as_fd(), &tar(entries)[..], limits).map(|_| ())
    };
    let limit = Limits::default();
    let two = [(file("a"), &b"x"[..]), (file("b"), b"y")];
    assert!(limited(limit, &two).is_ok());
    assert!(matches!(
        limited(
            Limits {
                entries: 1,
                ..limit
            },
            &two
        ),
        Err(ArchiveError::Limit {
            what: "entries",
            ..
        })
    ));
    assert!(matches!(
        limited(
            Limits {
                bytes: 1000,
                ..limit
            },
            &two
        ),
        Err(ArchiveError::Limit { what: "bytes", .. })
    ));
    let deep = [
        (file(&"d/".repeat(300)), &b""[..]),
        (file(&format!("{}x", "d/".repeat(300))), b""),
    ];
    assert!(matches!(
        limited(limit, &deep),
        Err(ArchiveError::Limit { .. })
    ));
    let long = [(file(&"d".repeat(5000)), &b""[..])];
    assert!(matches!(
        limited(limit, &long),
        Err(ArchiveError::Limit { .. })
    ));
    let mut fat = file("fat");
    fat.xattrs.push((b"user.fat".to_vec(), vec![0; 2 << 20]));
    assert!(matches!(
        limited(limit, &[(fat, b"")]),
        Err(ArchiveError::Limit { .. })
    ));
    // A path component longer than the file system takes is an error of the entry.
    assert!(limited(limit, &[(file(&"n".repeat(300)), b"")]).is_err());
}

#[test]
fn damaged_streams() {
    let whole = tar(&[(file("a"), &[7; 2000]), (file("b"), b"x")]);
    let tree = Tree::new();
    for cut in [100, 512, 700, 1500, 2560 + 100] {
        let outcome = tree.apply(&whole[..cut]);
        if cut != 512 * 5 {
            assert!(
                matches!(outcome, Err(ArchiveError::Truncated)),
                "{cut}: {outcome:?}"
            );
        }
    }
    let mut wrong = whole.clone();
    wrong[0] ^= 1;
    assert!(matches!(
        tree.apply(&wrong),
        Err(ArchiveError::Malformed(_))
    ));
    assert!(tree.apply(b"this is no tar stream").is_err());
    assert!(tree.apply(&[b'x'; 1024]).is_err());
    // No end blocks, as Go accepts it; and an empty stream.
    assert!(tree.apply(&whole[..whole.len() - 1024]).is_ok());
    assert!(tree.apply(b"").is_ok());
}

/// A PAX size counts for the entry that follows, and for no other header between.
#[test]
fn pax_size_does_not_desynchronise() {
    let mut stream = Vec::new();
    let header = |kind: u8, name: &[u8], size: usize| {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_size(size as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let padded = |data: &[u8]| {
        let mut data = data.to_vec();
        data.resize(data.len().next_multiple_of(512), 0);
        data
    };
    // PAX says 1024; the long name between has 10 bytes of its own; the header of the file lies about 0.
    stream.extend(header(b'x', b"p", 13));
    stream.extend(padded(b"13 size=1024\n"));
    stream.extend(header(b'L', b"././@LongLink", 10));
    stream.extend(padded(b"real-name\0"));
    stream.extend(header(b'0', b"short", 0));
    let mut hidden = header(b'0', b"smuggled", 0);
    hidden.extend([0; 512]);
    stream.extend(&hidden);
    stream.extend(header(b'0', b"after", 0));
    stream.extend([0; 1024]);
    let tree = Tree::new();
    tree.apply(&stream).unwrap();
    assert_eq!(fs::metadata(tree.path("real-name")).unwrap().len(), 1024);
    assert!(tree.path("after").exists() && !tree.path("smuggled").exists());
}

/// Sizes at the edge of what a number holds.
#[test]
fn impossible_sizes() {
    for size in [
        "18446744073709551615",
        "9223372036854775808",
        "-1",
        "9223372036854775807",
    ] {
        let record = format!("size={size}\n");
        let length = record.len() + 3;
        let record = format!("{length} {record}");
        let mut stream = Vec::new();
        for (kind, name, data) in [(b'x', "p", record.as_bytes()), (b'0', "file", &b"abc"[..])] {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_entry_type(tar::EntryType::new(kind));
            header.set_cksum();
            stream.extend(header.as_bytes());
            let mut data = data.to_vec();
            data.resize(512, 0);
            stream.extend(data);
        }
        assert!(Tree::new().apply(&stream).is_err(), "{size}");
    }
}

#[test]
fn sparse_files_of_gnu_tar() {
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let source = tempfile::tempdir().unwrap();
        let path = source.path().join("holes");
        let file = fs::File::create(&path).unwrap();
        for n in 0..40u64 {
            rustix::io::pwrite(&file, format!("data {n}").as_bytes(), n * 1_000_000).unwrap();
        }
        file.set_len(50_000_000).unwrap();
        fs::write(source.path().join("plain"), "after").unwrap();
        let output = Command::new("tar")
            .arg("-C")
            .arg(source.path())
            .args(format)
            .args(["--sparse", "-cf", "-", "holes", "plain"])
            .output();
        let Ok(output) = output else {
            println!("skipped: no tar program");
            return;
        };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.stdout.len() < 2_000_000, "tar found no holes");
        let tree = Tree::new();
        let applied = tree.apply(&output.stdout).unwrap();
        assert!(
            fs::read(&path).unwrap() == fs::read(tree.path("holes")).unwrap(),
            "{format:?}"
        );
        assert!(fs::metadata(tree.path("holes")).unwrap().blocks() < 2000);
        assert_eq!(fs::read(tree.path("plain")).unwrap(), b"after");
        assert_eq!(applied.size, 50_000_005);
    }
}

/// The whole of a real tree, packed by GNU tar, and compared object by object.
#[test]
fn like_gnu_tar() {
    let source = Path::new("/usr/share/zoneinfo");
    if !source.exists() {
        println!("skipped: no {source:?}");
        return;
    }
    for format in ["gnu", "posix", "ustar"] {
        let Ok(output) = Command::new("tar")
            .args([
                "-C",
                "/usr/share",
                "--format",
                format,
                "-cf",
                "-",
                "zoneinfo",
            ])
            .output()
        else {
            println!("skipped: no tar program");
            return;
        };
        let tree = Tree::new();
        tree.apply(&output.stdout).unwrap();
        compare(source, &tree.path("zoneinfo"));
    }
}

fn compare(left: &Path, right: &Path) {
    let (a, b) = (
        fs::symlink_metadata(left).unwrap(),
        fs::symlink_metadata(right).unwrap(),
    );
    assert_eq!(
        (a.mode(), a.uid(), a.gid(), a.mtime()),
        (b.mode(), b.uid(), b.gid(), b.mtime()),
        "{left:?}"
    );
    if a.is_dir() {
        let list = |path: &Path| {
            let mut names: Vec<_> = fs::read_dir(path)
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        assert_eq!(list(left), list(right));
        for name in list(left) {
            compare(&left.join(&name), &right.join(&name));
        }
    } else if a.is_symlink() {
        assert_eq!(fs::read_link(left).unwrap(), fs::read_link(right).unwrap());
    } else {
        assert!(
            fs::read(left).unwrap() == fs::read(right).unwrap(),
            "{left:?}"
        );
    }
}

#[test]
fn names_that_are_no_text() {
    let mut odd = file("x");
    odd.path = b"\xff\xfe/n\nl".to_vec();
    let tree = Tree::new();
    tree.apply(&tar(&[(odd, b"1")])).unwrap();
    let name = CString::new(&b"\xff\xfe/n\nl"[..]).unwrap();
    let fd = rustix::fs::openat(tree.fd(), &name, OFlags::RDONLY, Mode::empty()).unwrap();
    drop(fd);
}
