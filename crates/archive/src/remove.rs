//! Removes trees, beneath descriptors, without recursion.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// Most directories open at once. A deeper one is moved up first: a container can make trees deeper than a process may
/// have descriptors.
const DEEPEST: usize = 100;

/// Removes `name` in `parent` and everything beneath it; `unlinked` is called after every unlink (to pause, or count).
/// Missing is fine. A tree that changes meanwhile gives `ENOTEMPTY`; mounts in it give `EBUSY`.
///
/// # Errors
/// The first system call that fails.
pub fn remove_tree(
    parent: BorrowedFd<'_>,
    name: &[u8],
    unlinked: &mut dyn FnMut(),
) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => {
            unlinked();
            return Ok(());
        }
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    // One level: the directory's descriptor, and its name in the level above.
    let mut stack: Vec<(OwnedFd, CString)> = Vec::new();
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let Some(first) = open(parent, &name)? else {
        return Ok(());
    };
    stack.push((first, name));
    let mut moved = 0;
    while let Some((directory, _)) = stack.last() {
        let mut below = None;
        // Reopened each time: entries unlinked so far are gone, so the scan starts with what is left.
        let mut entries = Dir::read_from(directory)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) => unlinked(),
                Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
                        Ok(()) => unlinked(),
                        Err(Errno::NOTEMPTY | Errno::EXIST) => {
                            below = Some(name.to_owned());
                            break;
                        }
                        Err(Errno::NOENT) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                Err(errno) => return Err(errno),
            }
        }
        if let Some(name) = below {
            if stack.len() >= DEEPEST {
                move_up(&stack, &name, &mut moved)?;
                continue;
            }
            if let Some(fd) = open(directory.as_fd(), &name)? {
                stack.push((fd, name));
            }
            continue;
        }
        let Some((_, name)) = stack.pop() else { break };
        let above = stack.last().map_or(parent, |(fd, _)| fd.as_fd());
        match rustix::fs::unlinkat(above, &name, AtFlags::REMOVEDIR) {
            Ok(()) => unlinked(),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Moves `name` of the deepest directory to the first one, where it will be met again.
fn move_up(
    stack: &[(OwnedFd, CString)],
    name: &CString,
    moved: &mut u64,
) -> rustix::io::Result<()> {
    let (Some((first, _)), Some((deepest, _))) = (stack.first(), stack.last()) else {
        return Ok(());
    };
    loop {
        *moved += 1;
        let target = format!(".kekkai-moved-{moved}");
        match rustix::fs::renameat_with(deepest, name, first, &target, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            outcome => return outcome,
        }
    }
}

fn open(parent: BorrowedFd<'_>, name: &std::ffi::CStr) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_a_tree_and_not_what_it_links_to() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        std::fs::create_dir_all(at("tree/a/b/c")).unwrap();
        std::fs::create_dir_all(at("tree/a/empty")).unwrap();
        for n in 0..300 {
            std::fs::write(at(&format!("tree/a/b/{n}")), "x").unwrap();
        }
        std::fs::write(at("kept"), "x").unwrap();
        std::os::unix::fs::symlink(at("kept"), at("tree/a/link")).unwrap();
        std::os::unix::fs::symlink("/", at("tree/root")).unwrap();
        let fd = rustix::fs::open(
            directory.path(),
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap();
        let mut count = 0;
        remove_tree(fd.as_fd(), b"tree", &mut || count += 1).unwrap();
        remove_tree(fd.as_fd(), b"tree", &mut || count += 1).unwrap();
        assert!(!at("tree").exists() && at("kept").exists());
        assert_eq!(count, 300 + 5 + 2);
        remove_tree(fd.as_fd(), b"kept", &mut || ()).unwrap();
        assert!(!at("kept").exists());
    }

    #[test]
    fn removes_a_tree_deeper_than_descriptors_or_paths_go() {
        let directory = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(
            directory.path(),
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap();
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(&fd, "deep", mode).unwrap();
        let mut at = open(fd.as_fd(), c"deep").unwrap().unwrap();
        for _ in 0..700 {
            rustix::fs::mkdirat(&at, "directory", mode).unwrap();
            rustix::fs::openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, mode).unwrap();
            at = open(at.as_fd(), c"directory").unwrap().unwrap();
        }
        let mut count = 0;
        remove_tree(fd.as_fd(), b"deep", &mut || count += 1).unwrap();
        assert_eq!(count, 1401);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
