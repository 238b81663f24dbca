//! Anonymous files: sealed messages, and running this very program from a copy that no container can write to
//! (CVE-2019-5736).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use crate::process::{CStringArray, execute_fd};
use crate::{Errno, Result, mount};

/// An anonymous file with this content that nobody can change any more.
///
/// # Errors
/// `ENOMEM`, `EMFILE`.
pub fn sealed(name: &CStr, content: &[u8]) -> Result<OwnedFd> {
    let file = create(name, false)?;
    let mut rest = content;
    while !rest.is_empty() {
        let length = rustix::io::write(&file, rest)?;
        rest = rest.get(length..).unwrap_or_default();
    }
    seal(&file)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file)
}

/// The content of a sealed file made by [`sealed`]. Refuses files that are not sealed or larger than `limit`.
///
/// # Errors
/// `EINVAL`, `EFBIG`.
pub fn read_sealed(file: impl AsFd, limit: usize) -> Result<Vec<u8>> {
    let wanted = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    if !rustix::fs::fcntl_get_seals(&file)?.contains(wanted) {
        return Err(Errno::INVAL);
    }
    let size = usize::try_from(rustix::fs::fstat(&file)?.st_size).map_err(|_| Errno::FBIG)?;
    if size > limit {
        return Err(Errno::FBIG);
    }
    let mut content = vec![0u8; size];
    let mut done = 0;
    while let Some(rest) = content.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(&file, rest, done as u64)? {
            0 => return Err(Errno::IO),
            length => done += length,
        }
    }
    Ok(content)
}

/// Whether this process runs from a sealed anonymous file or a read-only mount.
///
/// # Errors
/// Those of opening `/proc/self/exe`.
pub fn is_protected() -> Result<bool> {
    let own = open_self()?;
    if let Ok(seals) = rustix::fs::fcntl_get_seals(&own) {
        return Ok(seals.contains(SealFlags::WRITE));
    }
    Ok(rustix::fs::fstatvfs(&own)?
        .f_flag
        .contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Executes this program again, with the given arguments and environment, from a sealed copy in memory; where that is
/// forbidden (`vm.memfd_noexec=2`), from a read-only detached mount. Returns only on failure.
#[must_use]
pub fn execute_protected(arguments: &CStringArray, environment: &CStringArray) -> Errno {
    match sealed_self().map(|file| execute_fd(file.as_fd(), arguments, environment)) {
        Ok(Errno::ACCESS | Errno::PERM) | Err(_) => {}
        Ok(error) => return error,
    }
    match readonly_self() {
        Ok(file) => execute_fd(file.as_fd(), arguments, environment),
        Err(error) => error,
    }
}

/// A sealed, executable copy of this program.
///
/// # Errors
/// `EACCES` where executable memfds are forbidden, `ENOMEM`.
pub fn sealed_self() -> Result<OwnedFd> {
    let own = open_self()?;
    let copy = create(c"kekkai", true)?;
    let mut left = usize::try_from(rustix::fs::fstat(&own)?.st_size).map_err(|_| Errno::FBIG)?;
    while left > 0 {
        match rustix::fs::sendfile(&copy, &own, None, left)? {
            0 => return Err(Errno::IO),
            length => left = left.saturating_sub(length),
        }
    }
    seal(&copy)?;
    Ok(copy)
}

fn readonly_self() -> Result<OwnedFd> {
    let path = rustix::fs::readlink(c"/proc/self/exe", Vec::new())?;
    let tree = mount::clone_path(&path, false)?;
    mount::set_attributes(
        tree.as_fd(),
        &mount::MountAttributes::new(mount::ATTR_RDONLY, 0, 0),
        false,
    )?;
    Ok(tree)
}

fn open_self() -> Result<OwnedFd> {
    rustix::fs::open(
        c"/proc/self/exe",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn create(name: &CStr, executable: bool) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let wanted = if executable {
        MemfdFlags::EXEC
    } else {
        MemfdFlags::NOEXEC_SEAL
    };
    match rustix::fs::memfd_create(name, flags | wanted) {
        // Linux before 6.3 does not know the two flags.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        result => result,
    }
}

fn seal(file: &OwnedFd) -> Result<()> {
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(file, seals)
}

/// Arguments of this process, for [`execute_protected`].
///
/// # Errors
/// `EINVAL` for an argument with a zero byte (which cannot be).
pub fn own_arguments() -> Result<CStringArray> {
    use std::os::unix::ffi::OsStringExt;
    let arguments = std::env::args_os()
        .map(|argument| CString::new(argument.into_vec()).map_err(|_| Errno::INVAL));
    arguments.collect::<Result<Vec<_>>>().map(CStringArray::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_content() {
        let file = sealed(c"test", b"hello").unwrap();
        assert_eq!(read_sealed(&file, 10).unwrap(), b"hello");
        assert_eq!(read_sealed(&file, 3), Err(Errno::FBIG));
        assert!(rustix::io::write(&file, b"x").is_err());
        let open =
            rustix::fs::memfd_create(c"open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
                .unwrap();
        assert_eq!(read_sealed(&open, 10), Err(Errno::INVAL));
    }

    #[test]
    fn copy_of_self_is_sealed() {
        let copy = sealed_self().unwrap();
        assert!(
            rustix::fs::fcntl_get_seals(&copy)
                .unwrap()
                .contains(SealFlags::WRITE)
        );
    }
}
