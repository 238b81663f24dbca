//! Volumes as the engine uses them.

#![expect(
    clippy::unwrap_used,
    reason = "a test that fails should stop where it failed"
)]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use kekkai_metadata::{Change, Database, Durability, Table};
use kekkai_types::{ContainerId, ErrorClass, VolumeName};
use kekkai_volume::{CreateVolume, PruneScope, VolumeError, VolumeFilter, VolumeStore};

struct Lab {
    directory: tempfile::TempDir,
    database: Arc<Database>,
}

impl Lab {
    fn new() -> Lab {
        let directory = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&directory.path().join("metadata.db")).unwrap());
        Lab {
            directory,
            database,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn open(&self) -> VolumeStore {
        VolumeStore::open(
            &self.path("volumes"),
            &self.path("trash"),
            Arc::clone(&self.database),
        )
        .unwrap()
    }

    fn image(&self) -> fs::File {
        fs::create_dir_all(self.path("image")).unwrap();
        fs::File::open(self.path("image")).unwrap()
    }
}

fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

fn named(text: &str) -> CreateVolume {
    CreateVolume::named(name(text))
}

fn with_options(text: &str, options: &[(&str, &str)]) -> CreateVolume {
    let options = options
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    CreateVolume {
        options,
        ..named(text)
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

#[test]
fn volumes_live_across_restarts() {
    let lab = Lab::new();
    let store = lab.open();
    let labels = [("a".to_owned(), "b".to_owned())].into();
    let made = store
        .create(CreateVolume {
            labels,
            ..named("data")
        })
        .unwrap();
    assert_eq!(made.mountpoint, lab.path("volumes/data/_data"));
    assert_eq!(
        fs::metadata(&made.mountpoint).unwrap().permissions().mode() & 0o7777,
        0o755
    );
    fs::write(made.mountpoint.join("f"), "x").unwrap();
    assert_eq!(
        store.create(named("data")).unwrap(),
        made,
        "an existing one is returned"
    );
    let anonymous = store
        .create(CreateVolume::anonymous(Durability::Process))
        .unwrap();
    assert_eq!(anonymous.name.as_str().len(), 64);
    assert!(anonymous.is_anonymous() && !made.is_anonymous());
    drop(store);

    let store = lab.open();
    assert_eq!(store.inspect("data").unwrap(), made);
    assert_eq!(store.list(&VolumeFilter::default()).len(), 2);
    assert!(made.mountpoint.join("f").exists());
}

#[test]
fn errors_are_dockers() {
    let lab = Lab::new();
    let store = lab.open();
    let error = store.inspect("nosuch").unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.class()),
        ("get nosuch: no such volume", ErrorClass::NotFound)
    );
    assert!(store.inspect("../etc").is_err());
    assert!(store.remove("nosuch", false).is_err());
    assert_eq!(store.remove("nosuch", true).unwrap(), None);
    let driver = store
        .create(CreateVolume {
            driver: "foo".into(),
            ..named("x1")
        })
        .unwrap_err();
    assert_eq!(
        driver.to_string(),
        "create x1: error looking up volume plugin foo: plugin \"foo\" not found"
    );
    assert!(store.create(with_options("x2", &[("foo", "bar")])).is_err());
    assert!(
        store
            .create(with_options("x2", &[("type", "nfs"), ("device", ":/x")]))
            .is_err()
    );
    assert!(store.list(&VolumeFilter::default()).is_empty());

    let user = ContainerId::random();
    let volume = store.ensure(named("used"), &user).unwrap();
    assert_eq!(volume.containers, [user]);
    for force in [false, true] {
        let error = store.remove("used", force).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("remove used: volume is in use - [{user}]")
        );
        assert_eq!(error.class(), ErrorClass::Conflict);
    }
    store.unreference(&volume.name, &user);
    assert!(store.remove("used", false).unwrap().is_some());
    assert!(!lab.path("volumes/used").exists());
    assert_eq!(fs::read_dir(lab.path("trash")).unwrap().count(), 1);
}

#[test]
fn filters_and_prune() {
    let lab = Lab::new();
    let store = lab.open();
    let user = ContainerId::random();
    let labels = [("tier".to_owned(), "db".to_owned())].into();
    store
        .create(CreateVolume {
            labels,
            ..named("db-data")
        })
        .unwrap();
    store.ensure(named("web-data"), &user).unwrap();
    let anonymous = store
        .create(CreateVolume::anonymous(Durability::Process))
        .unwrap();
    fs::write(anonymous.mountpoint.join("f"), vec![1; 5000]).unwrap();
    fs::hard_link(
        anonymous.mountpoint.join("f"),
        anonymous.mountpoint.join("g"),
    )
    .unwrap();
    let used = store
        .ensure(CreateVolume::anonymous(Durability::Process), &user)
        .unwrap();
    let found = |filter: VolumeFilter| {
        store
            .list(&filter)
            .into_iter()
            .map(|v| v.name.to_string())
            .collect::<Vec<_>>()
    };
    let everything = VolumeFilter::default;
    assert_eq!(
        found(VolumeFilter {
            names: vec!["data".into()],
            ..everything()
        }),
        ["db-data", "web-data"]
    );
    let label = ("tier".to_owned(), Some("db".to_owned()));
    assert_eq!(
        found(VolumeFilter {
            labels: vec![label.clone()],
            ..everything()
        }),
        ["db-data"]
    );
    assert_eq!(
        found(VolumeFilter {
            without_labels: vec![label.clone()],
            ..everything()
        })
        .len(),
        3
    );
    assert!(
        found(VolumeFilter {
            drivers: vec!["nfs".into()],
            ..everything()
        })
        .is_empty()
    );
    assert_eq!(
        found(VolumeFilter {
            dangling: Some(true),
            names: vec!["data".into()],
            ..everything()
        }),
        ["db-data"]
    );

    let report = store.prune(PruneScope::Anonymous, &everything()).unwrap();
    assert_eq!(
        (report.deleted, report.reclaimed),
        (vec![anonymous.name], 5000)
    );
    let spared = VolumeFilter {
        without_labels: vec![label],
        ..everything()
    };
    assert!(
        store
            .prune(PruneScope::All, &spared)
            .unwrap()
            .deleted
            .is_empty()
    );
    assert_eq!(
        store.prune(PruneScope::All, &everything()).unwrap().deleted,
        [name("db-data")]
    );
    assert_eq!(found(everything()).len(), 2);
    assert!(used.mountpoint.exists());
}

#[test]
fn what_was_half_done_is_finished() {
    let lab = Lab::new();
    let store = lab.open();
    store.create(named("kept")).unwrap();
    let gone = store.create(named("gone")).unwrap();
    drop(store);
    // The daemon died between the directory and the row, either way.
    fs::remove_dir_all(gone.mountpoint.parent().unwrap()).unwrap();
    fs::create_dir_all(lab.path("volumes/orphan/_data")).unwrap();
    fs::write(lab.path("volumes/orphan/_data/precious"), "x").unwrap();
    fs::create_dir_all(lab.path("volumes/kept/.new-1234/x")).unwrap();
    let store = lab.open();
    let names: Vec<_> = store
        .list(&VolumeFilter::default())
        .into_iter()
        .map(|v| v.name.to_string())
        .collect();
    assert_eq!(names, ["kept", "orphan"]);
    assert!(lab.path("volumes/orphan/_data/precious").exists());
    assert!(!lab.path("volumes/kept/.new-1234").exists());
    drop(store);
    // A document that cannot be read stops the start instead of losing the volume.
    lab.database
        .apply(
            vec![Change::put(Table::Volumes, "kept", "{")],
            Durability::Process,
        )
        .unwrap();
    let error = VolumeStore::open(
        &lab.path("volumes"),
        &lab.path("trash"),
        Arc::clone(&lab.database),
    )
    .unwrap_err();
    assert!(error.to_string().contains("row kept"), "{error}");
}

fn xattr(path: &Path, attribute: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 100];
    let length = rustix::fs::lgetxattr(path, attribute, value.as_mut_slice()).ok()?;
    Some(value[..length].to_vec())
}

#[test]
fn copy_up_copies_everything() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let image = lab.image();
    let source = lab.path("image/srv/data");
    fs::create_dir_all(source.join("sub/deep")).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    fs::hard_link(source.join("file"), source.join("sub/deep/same")).unwrap();
    symlink("/etc/passwd", source.join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        source.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from(0o640),
        0,
    )
    .unwrap();
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        source.join("null"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from(0o666),
        null,
    )
    .unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 64 << 20).unwrap();
    sparse.set_len((64 << 20) + 4096).unwrap();
    std::os::unix::fs::chown(source.join("sub"), Some(7), Some(8)).unwrap();
    std::os::unix::fs::chown(source.join("file"), Some(9), Some(10)).unwrap();
    fs::set_permissions(source.join("file"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o1770)).unwrap();
    std::os::unix::fs::chown(&source, Some(33), Some(33)).unwrap();
    rustix::fs::lsetxattr(
        source.join("file"),
        "user.note",
        b"hi",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::lsetxattr(
        source.join("file"),
        "security.capability",
        &capability,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    // The image's path leads there by a link that is absolute within the image.
    symlink("/srv", lab.path("image/alias")).unwrap();

    let store = lab.open();
    let volume = store.create(named("data")).unwrap();
    assert!(
        store
            .populate(&volume.name, image.as_fd(), Path::new("/alias/data"))
            .unwrap()
    );
    let target = &volume.mountpoint;
    let stat = |path: &str| fs::symlink_metadata(target.join(path)).unwrap();
    assert_eq!((stat(".").uid(), stat(".").mode() & 0o7777), (33, 0o1770));
    assert_eq!((stat("sub").uid(), stat("sub").gid()), (7, 8));
    assert_eq!(
        (stat("file").uid(), stat("file").mode() & 0o7777),
        (9, 0o4755)
    );
    assert_eq!(stat("file").ino(), stat("sub/deep/same").ino());
    assert_eq!(
        stat("file").mtime_nsec(),
        fs::metadata(source.join("file")).unwrap().mtime_nsec()
    );
    assert_eq!(
        fs::read_link(target.join("link")).unwrap(),
        Path::new("/etc/passwd")
    );
    assert!(stat("pipe").file_type().is_fifo() && stat("pipe").mode() & 0o777 == 0o640);
    assert!(stat("null").file_type().is_char_device() && stat("null").rdev() == null);
    assert_eq!(stat("sparse").len(), (64 << 20) + 4096);
    assert!(
        stat("sparse").blocks() < 100,
        "holes stay holes: {}",
        stat("sparse").blocks()
    );
    assert_eq!(xattr(&target.join("file"), "user.note").unwrap(), b"hi");
    assert_eq!(
        xattr(&target.join("file"), "security.capability").unwrap(),
        capability
    );
    assert_eq!(
        fs::read_dir(lab.path("volumes/data")).unwrap().count(),
        1,
        "no copy is left beside it"
    );

    assert!(
        !store
            .populate(&volume.name, image.as_fd(), Path::new("/alias/data"))
            .unwrap(),
        "not empty any more"
    );
    let other = store.create(named("other")).unwrap();
    assert!(
        !store
            .populate(&other.name, image.as_fd(), Path::new("/nosuch"))
            .unwrap()
    );
    let file = store
        .populate(&other.name, image.as_fd(), Path::new("/srv/data/file"))
        .unwrap_err();
    assert_eq!(file.to_string(), "source /srv/data/file is not directory");
    // A container that runs with it keeps its directory.
    let user = ContainerId::random();
    let before = fs::metadata(store.activate(&other.name, &user).unwrap())
        .unwrap()
        .ino();
    assert!(
        store
            .populate(&other.name, image.as_fd(), Path::new("/srv/data/sub"))
            .unwrap()
    );
    assert_eq!(fs::metadata(&other.mountpoint).unwrap().ino(), before);
    assert!(other.mountpoint.join("deep/same").exists());
}

#[test]
fn copy_up_stays_in_the_image() {
    let lab = Lab::new();
    let image = lab.image();
    let outside = lab.path("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("secret"), "x").unwrap();
    symlink(&outside, lab.path("image/absolute")).unwrap();
    symlink("../../../../..", lab.path("image/up")).unwrap();
    fs::create_dir_all(lab.path("image/data")).unwrap();
    symlink(&outside, lab.path("image/data/inner")).unwrap();
    let store = lab.open();
    let volume = store.create(named("data")).unwrap();
    assert!(
        !store
            .populate(&volume.name, image.as_fd(), Path::new("/absolute"))
            .unwrap()
    );
    let up = Path::new("/up").join(outside.strip_prefix("/").unwrap());
    assert!(!store.populate(&volume.name, image.as_fd(), &up).unwrap());
    assert!(
        !store
            .populate(
                &volume.name,
                image.as_fd(),
                Path::new("/../../../..")
                    .join(outside.strip_prefix("/").unwrap())
                    .as_path()
            )
            .unwrap()
    );
    assert!(
        store
            .populate(&volume.name, image.as_fd(), Path::new("/data"))
            .unwrap()
    );
    assert!(
        volume
            .mountpoint
            .join("inner")
            .symlink_metadata()
            .unwrap()
            .is_symlink()
    );
    let mut deep = lab.path("image/deep");
    for _ in 0..300 {
        deep.push("d");
    }
    fs::create_dir_all(deep).unwrap();
    let other = store.create(named("other")).unwrap();
    let error = store
        .populate(&other.name, image.as_fd(), Path::new("/deep"))
        .unwrap_err();
    assert!(matches!(error, VolumeError::TooDeep { .. }), "{error}");
    assert_eq!(fs::read_dir(lab.path("volumes/other")).unwrap().count(), 1);
}

#[test]
fn volumes_with_file_systems_of_their_own() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let device = lab.path("device");
    fs::create_dir_all(&device).unwrap();
    fs::write(device.join("f"), "x").unwrap();
    let store = lab.open();
    let (a, b) = (ContainerId::random(), ContainerId::random());

    let tmpfs = store
        .create(with_options(
            "memory",
            &[
                ("type", "tmpfs"),
                ("device", "tmpfs"),
                ("o", "size=1m,uid=7,noexec"),
            ],
        ))
        .unwrap();
    let path = store.activate(&tmpfs.name, &a).unwrap();
    fs::write(path.join("g"), "x").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().uid(), 7);
    assert!(
        fs::write(path.join("large"), vec![0; 2 << 20]).is_err(),
        "its size is kept"
    );
    assert_eq!(store.activate(&tmpfs.name, &b).unwrap(), path);
    store.deactivate(&tmpfs.name, &a).unwrap();
    assert!(path.join("g").exists(), "another runs with it");
    drop(store);
    let store = lab.open();
    store.activate(&tmpfs.name, &b).unwrap();
    assert!(path.join("g").exists(), "a restart of the daemon keeps it");
    store.deactivate(&tmpfs.name, &b).unwrap();
    assert!(!path.join("g").exists());

    let device_path = device.to_str().unwrap();
    let bind = store
        .create(with_options(
            "bound",
            &[("type", "none"), ("device", device_path), ("o", "bind,ro")],
        ))
        .unwrap();
    let path = store.activate(&bind.name, &a).unwrap();
    assert!(path.join("f").exists());
    assert!(fs::write(path.join("h"), "x").is_err(), "read-only");
    assert!(matches!(
        store.remove("bound", false),
        Err(VolumeError::InUse { .. })
    ));
    store.deactivate(&bind.name, &a).unwrap();
    assert!(!path.join("f").exists() && device.join("f").exists());
    store.remove("bound", false).unwrap();
    assert!(device.join("f").exists(), "what was bound stays");

    let missing = store
        .create(with_options(
            "missing",
            &[("type", "none"), ("device", "/nosuch/dir"), ("o", "bind")],
        ))
        .unwrap();
    let error = store.activate(&missing.name, &a).unwrap_err().to_string();
    assert!(
        error.starts_with("error while mounting volume '") && error.contains("mount /nosuch/dir:"),
        "{error}"
    );
    store.remove("missing", false).unwrap();
}

#[test]
fn volumes_of_containers_that_never_came_to_be_are_swept() {
    let lab = Lab::new();
    let store = lab.open();
    let (removed, there, never) = (
        ContainerId::random(),
        ContainerId::random(),
        ContainerId::random(),
    );
    let anonymous = || CreateVolume::anonymous(Durability::Process);
    let kept = store.ensure(anonymous(), &removed).unwrap().name;
    store.unreference(&kept, &removed);
    let used = store.ensure(anonymous(), &there).unwrap().name;
    let unfinished = store.ensure(anonymous(), &never).unwrap().name;
    let named_one = store.ensure(named("named"), &never).unwrap().name;
    drop(store);
    let store = lab.open();
    store.reference(&used, &there).unwrap();
    assert_eq!(
        store.sweep_unfinished(|id| *id == there).unwrap(),
        std::slice::from_ref(&unfinished)
    );
    for name in [kept, used, named_one] {
        assert!(store.inspect(name.as_str()).is_ok(), "{name}");
    }
    assert!(store.inspect(unfinished.as_str()).is_err());
}
