//! `docker cp` in both directions, within roots that try to lead outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use kekkai_archive::{
    ArchiveError, EntryKind, Limits, TarReader, UnpackOptions, pack_path, stat_path, unpack_into,
};
use kekkai_types::{Classify, ErrorClass};
use rustix::fs::{Mode, OFlags};

struct Root(tempfile::TempDir);

impl Root {
    /// `root/` with some files, and `outside/` that nothing may reach.
    fn new() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(root.at("etc/conf.d")).unwrap();
        fs::create_dir_all(root.at("usr/lib")).unwrap();
        fs::write(root.at("etc/passwd"), "inside").unwrap();
        fs::write(root.at("etc/conf.d/a"), "a").unwrap();
        fs::hard_link(root.at("etc/passwd"), root.at("etc/passwd-")).unwrap();
        symlink("/etc/passwd", root.at("absolute")).unwrap();
        symlink("../../../../../etc", root.at("up")).unwrap();
        symlink("usr/lib", root.at("lib")).unwrap();
        symlink("nowhere", root.at("dangling")).unwrap();
        fs::create_dir(root.0.path().join("outside")).unwrap();
        root
    }
    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join("root").join(path)
    }
    fn fd(&self) -> OwnedFd {
        rustix::fs::open(
            self.at(""),
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap()
    }
    fn pack(&self, path: &str) -> Result<Vec<(String, EntryKind, String)>, ArchiveError> {
        let mut stream = Vec::new();
        pack_path(self.fd().as_fd(), Path::new(path), &mut stream)?;
        let mut reader = TarReader::new(&stream[..], Limits::default());
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            names.push((
                String::from_utf8(entry.path).unwrap(),
                entry.kind,
                String::from_utf8(entry.link).unwrap(),
            ));
        }
        Ok(names)
    }
    fn names(&self, path: &str) -> Vec<String> {
        self.pack(path)
            .unwrap()
            .into_iter()
            .map(|(name, _, _)| name)
            .collect()
    }
    fn unpack(&self, path: &str, tar: &[u8], options: UnpackOptions) -> Result<(), ArchiveError> {
        unpack_into(self.fd().as_fd(), Path::new(path), &mut &tar[..], &options)
    }
}

fn tar(items: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, text) in items {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o640);
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_000_000);
        let data = if *kind == tar::EntryType::Regular {
            text.as_bytes()
        } else {
            &[]
        };
        if *kind != tar::EntryType::Regular && !text.is_empty() {
            header.set_link_name_literal(text).unwrap();
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

const FILE: tar::EntryType = tar::EntryType::Regular;
const DIR: tar::EntryType = tar::EntryType::Directory;
const LINK: tar::EntryType = tar::EntryType::Symlink;
const HARD: tar::EntryType = tar::EntryType::Link;

#[test]
fn packs_as_docker_names_it() {
    let root = Root::new();
    assert_eq!(
        root.names("/etc"),
        [
            "etc/",
            "etc/conf.d/",
            "etc/conf.d/a",
            "etc/passwd",
            "etc/passwd-"
        ]
    );
    assert_eq!(
        root.names("etc/."),
        ["./", "./conf.d/", "./conf.d/a", "./passwd", "./passwd-"]
    );
    assert_eq!(root.names("/etc/passwd"), ["passwd"]);
    assert_eq!(root.names("/up/../etc/passwd"), ["passwd"]);
    let all = root.pack("/etc").unwrap();
    assert_eq!(
        all[4],
        (
            "etc/passwd-".to_owned(),
            EntryKind::HardLink,
            "etc/passwd".to_owned()
        )
    );
    // A symlink is itself, unless the path says directory.
    assert_eq!(
        root.pack("/lib").unwrap(),
        [("lib".to_owned(), EntryKind::Symlink, "usr/lib".to_owned())]
    );
    assert_eq!(root.names("/lib/"), ["lib/"]);
    assert_eq!(
        root.names("/up/passwd"),
        ["passwd"],
        "resolved within the root"
    );
    for missing in ["/nothing", "/etc/passwd/x", "/dangling/"] {
        let error = root.pack(missing).unwrap_err();
        assert!(
            matches!(error, ArchiveError::Path { .. }),
            "{missing}: {error}"
        );
    }
    assert_eq!(
        root.pack("/nothing").unwrap_err().class(),
        ErrorClass::NotFound
    );
}

#[test]
fn tells_about_a_path() {
    let root = Root::new();
    let stat = |path: &str| stat_path(root.fd().as_fd(), Path::new(path));
    let file = stat("/etc/passwd").unwrap();
    assert_eq!(
        (
            file.name.as_str(),
            file.size,
            file.mode,
            file.link_target.as_str()
        ),
        ("passwd", 6, 0o644, "")
    );
    assert!(file.mtime.unix_seconds() > 1_600_000_000);
    let directory = stat("/etc").unwrap();
    assert_eq!(directory.mode, 1 << 31 | 0o755);
    let link = stat("/absolute").unwrap();
    assert_eq!(
        (link.mode, link.link_target.as_str()),
        (1 << 27 | 0o777, "/etc/passwd")
    );
    assert_eq!(stat("/up").unwrap().link_target, "/etc");
    assert_eq!(stat("/lib/").unwrap().mode & 1 << 31, 1 << 31);
    assert_eq!(stat("/").unwrap().name, "/");
    assert!(stat("/nope").is_err());
}

#[test]
fn unpacks_within_the_root() {
    let root = Root::new();
    let archive = tar(&[
        (DIR, "new", ""),
        (FILE, "new/file", "text"),
        (FILE, "plain", "2"),
    ]);
    root.unpack("/up", &archive, UnpackOptions::default())
        .unwrap();
    let file = fs::metadata(root.at("etc/new/file")).unwrap();
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o7777, file.mtime()),
        (12, 34, 0o640, 1_000_000)
    );
    root.unpack(
        "/lib",
        &archive,
        UnpackOptions {
            owner: Some((5, 6)),
            ..UnpackOptions::default()
        },
    )
    .unwrap();
    let file = fs::metadata(root.at("usr/lib/plain")).unwrap();
    assert_eq!((file.uid(), file.gid()), (5, 6));
    // Compressed too.
    let zstd = zstd::encode_all(&archive[..], 1).unwrap();
    root.unpack("/usr", &zstd, UnpackOptions::default())
        .unwrap();
    assert_eq!(fs::read(root.at("usr/new/file")).unwrap(), b"text");
    // Through symlinks of the root, also absolute ones, and never out of it.
    let evil = tar(&[
        (LINK, "l", "/etc"),
        (FILE, "l/written", "x"),
        (LINK, "m", "../../../../outside"),
        (FILE, "s", "y"),
    ]);
    root.unpack("/usr", &evil, UnpackOptions::default())
        .unwrap();
    assert_eq!(fs::read(root.at("etc/written")).unwrap(), b"x");
    for bad in [
        tar(&[(LINK, "l", "../../../outside"), (FILE, "l/pwned", "x")]),
        tar(&[(LINK, "l", "/../../outside"), (FILE, "l/pwned", "x")]),
        tar(&[(FILE, "../pwned", "x")]),
        tar(&[(HARD, "h", "../../../../etc/hostname")]),
        tar(&[(HARD, "h", "/etc/hostname")]),
    ] {
        root.unpack("/usr", &bad, UnpackOptions::default())
            .unwrap_err();
        assert_eq!(
            fs::read_dir(root.0.path().join("outside")).unwrap().count(),
            0
        );
        assert!(!root.at("pwned").exists());
    }
    for bad in ["/nothing", "/etc/passwd", "/dangling"] {
        assert!(
            matches!(
                root.unpack(bad, &archive, UnpackOptions::default()),
                Err(ArchiveError::Path { .. })
            ),
            "{bad}"
        );
    }
}

#[test]
fn replaces_or_refuses() {
    let root = Root::new();
    let careful = UnpackOptions {
        no_overwrite_dir_non_dir: true,
        owner: None,
    };
    let over_directory = tar(&[(FILE, "conf.d", "x")]);
    let error = root.unpack("/etc", &over_directory, careful).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot overwrite directory"),
        "{error}"
    );
    let over_file = tar(&[(DIR, "passwd", "")]);
    let error = root.unpack("/etc", &over_file, careful).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot overwrite non-directory"),
        "{error}"
    );
    assert_eq!(fs::read(root.at("etc/passwd")).unwrap(), b"inside");
    // A file is replaced, not written through: its other name keeps the old text.
    root.unpack("/etc", &tar(&[(FILE, "passwd", "new")]), careful)
        .unwrap();
    assert_eq!(fs::read(root.at("etc/passwd")).unwrap(), b"new");
    assert_eq!(fs::read(root.at("etc/passwd-")).unwrap(), b"inside");
    root.unpack("/", &tar(&[(FILE, "absolute", "own")]), careful)
        .unwrap();
    assert!(fs::symlink_metadata(root.at("absolute")).unwrap().is_file());
    root.unpack("/etc", &over_directory, UnpackOptions::default())
        .unwrap();
    assert!(root.at("etc/conf.d").is_file());
}

#[test]
fn a_tree_survives_the_round_trip() {
    let root = Root::new();
    fs::write(root.at("etc/large"), vec![7u8; 3_000_000]).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.at("etc/fifo"),
        rustix::fs::FileType::Fifo,
        Mode::RUSR,
        0,
    )
    .unwrap();
    let mut stream = Vec::new();
    pack_path(root.fd().as_fd(), Path::new("/etc"), &mut stream).unwrap();
    let other = Root::new();
    other
        .unpack("/usr", &stream, UnpackOptions::default())
        .unwrap();
    assert_eq!(
        fs::read(other.at("usr/etc/large")).unwrap().len(),
        3_000_000
    );
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(
        &fs::metadata(other.at("usr/etc/fifo")).unwrap().file_type()
    ));
    assert_eq!(
        fs::metadata(other.at("usr/etc/passwd")).unwrap().ino(),
        fs::metadata(other.at("usr/etc/passwd-")).unwrap().ino()
    );
}
