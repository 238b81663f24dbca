//! `<exec-root>/containers/<id>/exit`: how a container ended, stored before anybody is told.
//!
//! One line: `1 exited 3 oom=0 at=1795237261999999999`, the first number being the form's version.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kekkai_types::{ContainerId, ExitStatus};

use crate::protocol::Exit;

fn path(exec_root: &Path, container: ContainerId) -> PathBuf {
    exec_root
        .join("containers")
        .join(container.to_string())
        .join("exit")
}

/// Stores a container's exit. The engine has made the directory; where it has not, the directory is made.
pub(crate) fn store(exec_root: &Path, container: ContainerId, exit: &Exit) -> io::Result<()> {
    let path = path(exec_root, container);
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = match options.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(exec_root))?;
            options.open(&path)
        }
        result => result,
    };
    file?.write_all(format(exit).as_bytes())
}

fn format(exit: &Exit) -> String {
    let (kind, number) = match exit.status {
        ExitStatus::Exited(code) => ("exited", code),
        ExitStatus::Signaled(signal) => ("signaled", signal),
    };
    format!(
        "1 {kind} {number} oom={} at={}\n",
        u8::from(exit.oom),
        exit.at
    )
}

/// How a container ended, as the keeper stored it; `None` if it has not, or the file makes no sense.
#[must_use]
pub fn read_exit(exec_root: &Path, container: ContainerId) -> Option<Exit> {
    parse(&fs::read_to_string(path(exec_root, container)).ok()?)
}

fn parse(text: &str) -> Option<Exit> {
    let mut words = text.strip_suffix('\n')?.split(' ');
    let (version, kind, number) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
    let oom = words.next()?.strip_prefix("oom=")?;
    let at = words.next()?.strip_prefix("at=")?.parse().ok()?;
    let status = match (version, kind) {
        ("1", "exited") => ExitStatus::Exited(number),
        ("1", "signaled") => ExitStatus::Signaled(number),
        _ => return None,
    };
    Some(Exit {
        status,
        oom: oom == "1",
        at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let directory = tempfile::tempdir().unwrap();
        let container = ContainerId::random();
        assert_eq!(read_exit(directory.path(), container), None);
        for exit in [
            Exit {
                status: ExitStatus::Exited(3),
                oom: false,
                at: 5,
            },
            Exit {
                status: ExitStatus::Signaled(9),
                oom: true,
                at: i64::MAX,
            },
        ] {
            store(directory.path(), container, &exit).unwrap();
            assert_eq!(read_exit(directory.path(), container), Some(exit));
        }
        assert_eq!(parse("1 exited 3"), None);
    }
}
