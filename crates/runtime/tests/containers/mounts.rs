//! The file system of a container: mounts, masks, devices, and what tries to escape.

use std::os::unix::fs::symlink;

use serde_json::json;

use crate::needs_root;
use crate::support::{Bundle, kill, pipes};

#[test]
fn mount_table_is_dockers() {
    needs_root!();
    let output = Bundle::new()
        .args(&["cat", "/proc/self/mountinfo"])
        .stdout();
    let lines: Vec<String> = output
        .lines()
        .map(|line| {
            let (left, right) = line.split_once(" - ").unwrap();
            let left: Vec<&str> = left.split(' ').collect();
            format!(
                "{} {} {}",
                left[4],
                left[5],
                right.split(' ').next().unwrap()
            )
        })
        .collect();
    for wanted in [
        "/ rw,relatime overlay",
        "/proc rw,nosuid,nodev,noexec,relatime proc",
        "/dev rw,nosuid tmpfs",
        "/dev/pts rw,nosuid,noexec,relatime devpts",
        "/sys ro,nosuid,nodev,noexec,relatime sysfs",
        "/dev/mqueue rw,nosuid,nodev,noexec,relatime mqueue",
        "/dev/shm rw,nosuid,nodev,noexec,relatime tmpfs",
        "/proc/bus ro,nosuid,nodev,noexec,relatime proc",
        "/proc/sys ro,nosuid,nodev,noexec,relatime proc",
        "/proc/keys rw,nosuid tmpfs",
        "/proc/acpi ro,relatime tmpfs",
        "/sys/firmware ro,relatime tmpfs",
    ] {
        let name = wanted.split(' ').next().unwrap();
        if std::path::Path::new(name).exists() {
            assert!(
                lines.iter().any(|line| line == wanted),
                "{wanted} in\n{}",
                lines.join("\n")
            );
        }
    }
    if output.contains("/sys/fs/cgroup/pids") {
        assert!(
            lines
                .iter()
                .any(|line| line == "/sys/fs/cgroup/pids ro,nosuid,nodev,noexec,relatime cgroup"),
            "{lines:?}"
        );
    }
    // Nothing is shared with the host, and the host sees nothing.
    assert!(!output.contains("shared:"), "{output}");
    assert!(
        !std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains("kkrt")
    );
}

#[test]
fn devices_are_dockers() {
    needs_root!();
    let script = "cd /dev; for f in *; do stat -c '%N %F %a %t:%T' $f; done";
    let output = Bundle::new().script(script).stdout();
    for line in [
        "null character special file 666 1:3",
        "zero character special file 666 1:5",
        "full character special file 666 1:7",
        "random character special file 666 1:8",
        "urandom character special file 666 1:9",
        "tty character special file 666 5:0",
        "shm directory 1777 0:0",
    ] {
        assert!(
            output.lines().any(|found| found.replace('\'', "") == line),
            "{line} in\n{output}"
        );
    }
    for link in ["fd", "stdin", "stdout", "stderr", "ptmx"] {
        assert!(output.contains(link), "{link}");
    }
    let node = json!([{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640, "uid": 2, "gid": 18}]);
    let output = Bundle::new()
        .script("stat -c '%a %u %g %t:%T' /dev/net/tun")
        .set("/linux/devices", node)
        .stdout();
    assert_eq!(output, "640 2 18 a:c8\n");
}

#[test]
fn device_rules_are_enforced() {
    needs_root!();
    let script = "mknod /tmp/fuse c 10 229 && cat /tmp/fuse; echo $?; mknod /tmp/zero c 1 5 && head -c 3 /tmp/zero | wc -c";
    let output = Bundle::new().script(script).run().unwrap();
    assert_eq!(output.stdout, "1\n3\n", "{output:?}");
    assert!(
        output.stderr.contains("Operation not permitted"),
        "{output:?}"
    );
    let bundle = Bundle::new().script("mknod /tmp/fuse c 10 229 && (: < /tmp/fuse); echo $?");
    let bundle = bundle.set(
        "/linux/resources/devices",
        json!([{"allow": true, "access": "rwm"}]),
    );
    assert_eq!(bundle.stdout(), "0\n");
}

#[test]
fn masked_and_read_only_paths() {
    needs_root!();
    let script = "wc -c < /proc/keys; ls /sys/firmware | wc -l; echo x > /proc/sys/kernel/hostname; echo $?; touch /sys/x; echo $?";
    let output = Bundle::new().script(script).run().unwrap();
    assert_eq!(output.stdout, "0\n0\n1\n1\n");
    assert!(
        output.stderr.contains("Read-only file system"),
        "{output:?}"
    );
    // As --privileged / systempaths=unconfined: nothing is hidden.
    let bundle = Bundle::new().script("echo other > /proc/sys/kernel/hostname; hostname");
    let bundle = bundle
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]));
    assert_eq!(bundle.stdout(), "other\n");
}

#[test]
fn read_only_root() {
    needs_root!();
    let bundle = Bundle::new().set("/root/readonly", json!(true));
    let bundle = bundle.mount("/scratch", "tmpfs", "tmpfs", &["size=1m", "mode=700"]);
    let output = bundle.script("touch /x; echo $?; touch /scratch/x && stat -c %a /scratch; touch /dev/shm/x && echo ok").run().unwrap();
    assert_eq!(output.stdout, "1\n700\nok\n", "{output:?}");
}

#[test]
fn binds_of_directories_and_files() {
    needs_root!();
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir(host.path().join("sub")).unwrap();
    std::fs::write(host.path().join("file"), "content").unwrap();
    let (dir, file) = (host.path().to_str().unwrap(), host.path().join("file"));
    let bundle = Bundle::new()
        .mount("/a/b/c", "bind", dir, &["rbind", "rprivate"])
        .mount(
            "/etc/passwd",
            "bind",
            file.to_str().unwrap(),
            &["rbind", "ro", "rprivate"],
        )
        .mount("/new/file", "bind", file.to_str().unwrap(), &["bind"]);
    let script = "cat /a/b/c/file /etc/passwd /new/file; echo more > /a/b/c/sub/new; echo x > /etc/passwd; echo $?; stat -c '%F %a' /a/b";
    let output = bundle.script(script).run().unwrap();
    assert_eq!(
        output.stdout, "contentcontentcontent1\ndirectory 755\n",
        "{output:?}"
    );
    assert_eq!(
        std::fs::read_to_string(host.path().join("sub/new")).unwrap(),
        "more\n"
    );
    let bundle = Bundle::new().mount("/x", "bind", "/no/such/source", &["rbind"]);
    let error = bundle.run().unwrap_err();
    assert!(
        error
            .message
            .contains("error mounting \"/no/such/source\" to rootfs at \"/x\""),
        "{}",
        error.message
    );
    for (source, destination) in [(dir, "/etc/passwd"), (file.to_str().unwrap(), "/etc")] {
        let error = Bundle::new()
            .mount(destination, "bind", source, &["rbind"])
            .run()
            .unwrap_err();
        assert!(
            error
                .message
                .contains("not a directory: Are you trying to mount a directory onto a file"),
            "{}",
            error.message
        );
        assert_eq!(error.exit_code(), 125);
    }
}

#[test]
fn recursively_read_only() {
    needs_root!();
    let host = tempfile::tempdir().unwrap();
    let sub = host.path().join("sub");
    std::fs::create_dir(&sub).unwrap();
    rustix::mount::mount(
        "tmpfs",
        &sub,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None::<&std::ffi::CStr>,
    )
    .unwrap();
    let run = |options: &[&str]| {
        let bundle = Bundle::new().mount("/m", "bind", host.path().to_str().unwrap(), options);
        bundle
            .script("touch /m/x 2>/dev/null; echo $?; touch /m/sub/x 2>/dev/null; echo $?")
            .stdout()
    };
    assert_eq!(run(&["rbind", "ro", "rprivate"]), "1\n0\n");
    assert_eq!(run(&["rbind", "rro", "rprivate"]), "1\n1\n");
    rustix::mount::unmount(&sub, rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
fn propagation_from_the_host() {
    needs_root!();
    use rustix::mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
    };
    let host = tempfile::tempdir().unwrap();
    let path = host.path();
    mount(
        "tmpfs",
        path,
        "tmpfs",
        MountFlags::empty(),
        None::<&std::ffi::CStr>,
    )
    .unwrap();
    mount_change(path, MountPropagationFlags::SHARED).unwrap();
    std::fs::create_dir(path.join("later")).unwrap();
    let see = |options: &[&str], propagation: &str| {
        let bundle = Bundle::new().mount("/m", "bind", path.to_str().unwrap(), options);
        let bundle = bundle
            .set("/linux/rootfsPropagation", json!(propagation))
            .script("sleep 30");
        let (fds, _out, _err) = pipes();
        let running = bundle.start(fds).unwrap();
        mount(
            "late",
            path.join("later"),
            "tmpfs",
            MountFlags::empty(),
            None::<&std::ffi::CStr>,
        )
        .unwrap();
        let seen = bundle
            .exec(
                &running,
                &["sh", "-c", "mount | grep -c 'late on /m/later'"],
                |_| {},
            )
            .unwrap()
            .stdout;
        unmount(path.join("later"), UnmountFlags::DETACH).unwrap();
        kill(&running);
        seen.trim() == "1"
    };
    assert!(see(&["rbind", "rslave"], "rslave"));
    assert!(see(&["rbind", "rshared"], "rshared"));
    assert!(!see(&["rbind", "rprivate"], ""));
    unmount(path, UnmountFlags::DETACH).unwrap();
}

#[test]
fn tmpfs_keeps_permissions_of_the_image() {
    needs_root!();
    let bundle = Bundle::new().mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "size=64k"]);
    std::fs::set_permissions(
        bundle.lower().join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    let output = bundle.script("stat -c %a /tmp; dd if=/dev/zero of=/tmp/big bs=1k count=100 2>/dev/null; stat -c %s /tmp/big").stdout();
    assert_eq!(output, "1777\n65536\n");
}

#[test]
fn images_cannot_lead_mounts_outside() {
    needs_root!();
    let host = tempfile::tempdir().unwrap();
    let source = host.path().to_str().unwrap();
    // Symbolic links of the image, relative and absolute, stay inside.
    let bundle = Bundle::new()
        .mount("/link/x", "bind", source, &["rbind"])
        .script("mount | grep -c ' /etc/x '; ls -d /etc/x");
    symlink("../../../../../etc", bundle.lower().join("link")).unwrap();
    assert_eq!(bundle.stdout(), "1\n/etc/x\n");
    assert!(!std::path::Path::new("/etc/x").exists());
    // Magic links are not followed.
    let bundle = Bundle::new().mount("/esc/x", "bind", source, &["rbind"]);
    symlink("/proc/self/cwd/etc", bundle.lower().join("esc")).unwrap();
    assert!(bundle.run().is_err());
    // A link into /proc would replace what the boundary rests on.
    let bundle = Bundle::new().mount("/self", "bind", source, &["rbind"]);
    symlink("/proc/sys", bundle.lower().join("self")).unwrap();
    let error = bundle.run().unwrap_err();
    assert!(error.message.contains("inside /proc"), "{}", error.message);
    // /proc itself as a link.
    let bundle = Bundle::new();
    std::fs::remove_dir(bundle.lower().join("proc")).unwrap();
    symlink("/tmp", bundle.lower().join("proc")).unwrap();
    assert!(bundle.run().is_err());
}

#[test]
fn a_null_device_of_the_image_is_not_trusted() {
    needs_root!();
    // /dev is not mounted by us here, so /dev/null is what the image says: a link to something to be masked with.
    let mut bundle = Bundle::new();
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    symlink(
        "/proc/sys/kernel/core_pattern",
        bundle.lower().join("dev/null"),
    )
    .unwrap();
    let error = bundle.run().unwrap_err();
    assert!(
        matches!(
            error.stage,
            kekkai_runtime::Stage::Mask | kekkai_runtime::Stage::Device
        ),
        "{error:?}"
    );
}

#[test]
fn old_root_is_gone() {
    needs_root!();
    let output = Bundle::new()
        .script("ls -a /; cat /proc/self/mountinfo | wc -l; ls /..")
        .stdout();
    assert!(
        !output.contains("lost+found") && !output.contains("srv"),
        "{output}"
    );
}

#[test]
fn a_directory_as_root() {
    needs_root!();
    let bundle = Bundle::new().script("echo hi > /x; cat /x");
    let spec = serde_json::from_value(bundle.spec.clone()).unwrap();
    let mut options = kekkai_runtime::PlanOptions::default();
    options.id.clone_from(&bundle.id);
    let rootfs = kekkai_runtime::RootfsSource::Directory(bundle.lower());
    let plan = kekkai_runtime::plan_container(&spec, rootfs, &options).unwrap();
    let (fds, out, err) = pipes();
    let launched = kekkai_runtime::launch_container(&plan, fds).unwrap();
    assert_eq!(crate::support::finish(&launched, out, err).stdout, "hi\n");
    assert_eq!(
        std::fs::read_to_string(bundle.lower().join("x")).unwrap(),
        "hi\n"
    );
}

/// Getting to the top of the mount namespace, by the oldest trick there is, leads back to the container's root.
#[test]
fn no_way_up() {
    needs_root!();
    let bundle = Bundle::new().script(
        "mkdir /jail /jail/bin; cp /bin/busybox /jail/bin/; ln -s busybox /jail/bin/sh; \
         chroot /jail /bin/sh -c 'cd /; cd ../../../..; busybox ls -a .' >/dev/null; ls /; ls -d /../../bin; \
         grep -c . /proc/self/mountinfo; readlink /proc/self/root; readlink /proc/self/cwd",
    );
    std::os::unix::fs::symlink("busybox", bundle.lower().join("bin/chroot")).unwrap();
    std::os::unix::fs::symlink("busybox", bundle.lower().join("bin/cp")).unwrap();
    let output = bundle.stdout();
    assert!(
        output.contains("home\n") && output.ends_with("/\n/\n"),
        "{output}"
    );
    // From outside: setns lands in the container's root, too, and a user namespace can be made (no chroot is seen).
    let sleeping = Bundle::new()
        .script("sleep 30")
        .set("/linux/seccomp", json!(null));
    let (fds, _out, _err) = pipes();
    let running = sleeping.start(fds).unwrap();
    let output = sleeping.exec(
        &running,
        &["sh", "-c", "ls /; busybox unshare -U true && echo unshared"],
        |_| {},
    );
    let output = output.unwrap().stdout;
    assert!(
        output.contains("home\n") && output.ends_with("unshared\n"),
        "{output}"
    );
    kill(&running);
}
