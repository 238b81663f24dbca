//! Which build this executable is: the linker's build id (a hash of the content) and the file's modification time.
//!
//! The daemon sends it in the header `Kekkai-Build`; the CLI compares it with its own and replaces an older daemon that
//! a CLI had started by itself (design/pitfalls.md 21). The text is `<mtime seconds>.<nanoseconds>-<hash in hex>`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

/// The ELF note type that holds the build id (`NT_GNU_BUILD_ID`).
const NT_GNU_BUILD_ID: u32 = 3;

/// The build id of the running executable, or of its size when the linker wrote none.
pub(crate) fn current() -> String {
    let Ok(mut file) = File::open("/proc/self/exe") else {
        return String::from("0.0-unknown");
    };
    let (seconds, nanos, size) = file.metadata().map_or((0, 0, 0), |data| {
        (data.mtime(), data.mtime_nsec(), data.size())
    });
    let mut head = [0u8; 4096];
    let read = file.read(&mut head).unwrap_or(0);
    let hash = gnu_build_id(&head[..read]).map_or_else(
        || format!("size{size}"),
        |bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    );
    format!("{seconds}.{nanos:09}-{hash}")
}

/// Whether `ours` was made after `theirs` from other content.
pub(crate) fn is_newer(ours: &str, theirs: &str) -> bool {
    let split = |text: &str| -> Option<(u64, u64, String)> {
        let (time, hash) = text.split_once('-')?;
        let (seconds, nanos) = time.split_once('.')?;
        Some((seconds.parse().ok()?, nanos.parse().ok()?, hash.to_owned()))
    };
    match (split(ours), split(theirs)) {
        (Some(ours), Some(theirs)) => ours.2 != theirs.2 && (ours.0, ours.1) > (theirs.0, theirs.1),
        _ => false,
    }
}

/// Finds the GNU build id among the notes in the first page of an ELF file.
fn gnu_build_id(head: &[u8]) -> Option<&[u8]> {
    let name = head.windows(4).position(|window| window == b"GNU\0")?;
    let mut at = name;
    loop {
        let header = head.get(at.checked_sub(12)?..at)?;
        let word = |offset: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(
                header.get(offset..offset + 4)?.try_into().ok()?,
            ))
        };
        if word(0)? == 4 && word(8)? == NT_GNU_BUILD_ID {
            let length = usize::try_from(word(4)?).ok()?;
            return (length <= 64)
                .then(|| head.get(at + 4..at + 4 + length))
                .flatten();
        }
        at += 4 + head
            .get(at + 4..)?
            .windows(4)
            .position(|window| window == b"GNU\0")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_executable_has_an_id_and_is_not_newer_than_itself() {
        let id = current();
        assert!(
            id.split_once('-').is_some_and(|(_, hash)| !hash.is_empty()),
            "{id}"
        );
        assert!(!is_newer(&id, &id));
    }

    #[test]
    fn newer_means_later_and_different() {
        assert!(is_newer("2.0-b", "1.9-a"));
        assert!(!is_newer("2.0-a", "1.9-a"));
        assert!(!is_newer("1.0-b", "2.0-a"));
    }
}
