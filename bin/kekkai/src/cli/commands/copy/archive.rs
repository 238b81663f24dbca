//! Packing local files into a tar stream and unpacking one, beneath a directory.
//!
//! What a container says is not trusted: no entry leaves the directory, be it by `..`, by an absolute path, by a hard link
//! or through a symbolic link that an earlier entry made.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

use bytes::{Buf, Bytes, BytesMut};
use rustix::fs::OFlags;
use tokio::sync::mpsc::Sender;

use super::is_inside;

/// How much of an archive is sent at once.
const CHUNK: usize = 128 * 1024;

/// The chunks of a channel as a reader.
struct ChannelReader {
    receiver: Receiver<Bytes>,
    current: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.recv() {
                Ok(chunk) => self.current = chunk,
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current[..count]);
        self.current.advance(count);
        Ok(count)
    }
}

/// Unpacks the archive that comes through `receiver` into `root`. The first name of each entry changes by `rename`.
pub(super) fn unpack(
    receiver: Receiver<Bytes>,
    root: &Path,
    rename: Option<&(String, String)>,
) -> io::Result<()> {
    let mut archive = tar::Archive::new(ChannelReader {
        receiver,
        current: Bytes::new(),
    });
    let mut directories: Vec<(PathBuf, u32, i64)> = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = renamed(&entry.path()?, rename);
        if !is_inside(&path) {
            return Err(io::Error::other(format!(
                "{}: outside of the destination",
                path.display()
            )));
        }
        let target = inside(root, &path)?;
        let header = entry.header();
        let mode = header.mode().unwrap_or(0o644) & 0o7777;
        let modified = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        match header.entry_type() {
            tar::EntryType::Directory => {
                make_directory(&target)?;
                directories.push((target, mode, modified));
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                replace(&target)?;
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0))
                    .open(&target)?;
                io::copy(&mut entry, &mut file)?;
                file.set_permissions(Permissions::from_mode(mode))?;
                set_modified(&file, modified)?;
            }
            tar::EntryType::Symlink => {
                let Some(link) = entry.link_name()? else {
                    continue;
                };
                replace(&target)?;
                std::os::unix::fs::symlink(link, &target)?;
            }
            tar::EntryType::Link => {
                let Some(link) = entry.link_name()? else {
                    continue;
                };
                let source = renamed(&link, rename);
                if !is_inside(&source) {
                    return Err(io::Error::other(format!(
                        "{}: hard link outside of the destination",
                        path.display()
                    )));
                }
                let source = inside(root, &source)?;
                replace(&target)?;
                std::fs::hard_link(source, &target)?;
            }
            kind @ (tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo) => {
                make_node(&target, kind, mode, entry.header())?;
            }
            _ => {}
        }
    }
    // The inner ones first, so that a directory's time is not changed by its children.
    for (path, mode, modified) in directories.iter().rev() {
        std::fs::set_permissions(path, Permissions::from_mode(*mode))?;
        set_modified(&File::open(path)?, *modified)?;
    }
    Ok(())
}

fn make_node(
    target: &Path,
    kind: tar::EntryType,
    mode: u32,
    header: &tar::Header,
) -> io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    replace(target)?;
    let file_type = match kind {
        tar::EntryType::Char => FileType::CharacterDevice,
        tar::EntryType::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let device = makedev(
        header.device_major()?.unwrap_or(0),
        header.device_minor()?.unwrap_or(0),
    );
    mknodat(CWD, target, file_type, Mode::from_raw_mode(mode), device)?;
    Ok(())
}

fn set_modified(file: &File, seconds: i64) -> io::Result<()> {
    let moment =
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    file.set_modified(moment)
}

fn renamed(path: &Path, rename: Option<&(String, String)>) -> PathBuf {
    let Some((old, new)) = rename else {
        return path.to_path_buf();
    };
    if old == "." {
        return Path::new(new).join(path.strip_prefix(".").unwrap_or(path));
    }
    match path.strip_prefix(old) {
        Ok(rest) if rest.as_os_str().is_empty() => PathBuf::from(new),
        Ok(rest) => Path::new(new).join(rest),
        Err(_) => path.to_path_buf(),
    }
}

/// The path under `root`, none of whose parents is a symbolic link below `root`.
fn inside(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut target = root.to_path_buf();
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        target.push(part);
        if parts.peek().is_none() {
            break;
        }
        match std::fs::symlink_metadata(&target) {
            Ok(data) if data.is_dir() => {}
            Ok(_) => {
                return Err(io::Error::other(format!(
                    "{}: not a directory",
                    target.display()
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir(&target)?,
            Err(error) => return Err(error),
        }
    }
    Ok(target)
}

fn make_directory(target: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(target) {
        Ok(data) if data.is_dir() => Ok(()),
        // The destination itself may be a link to a directory.
        Ok(data)
            if data.is_symlink() && std::fs::metadata(target).is_ok_and(|data| data.is_dir()) =>
        {
            Err(io::Error::other(format!(
                "{}: a symbolic link stands where a directory should be",
                target.display()
            )))
        }
        Ok(_) => Err(io::Error::other(format!(
            "cannot overwrite non-directory {:?} with directory",
            target.display()
        ))),
        Err(_) => std::fs::create_dir(target),
    }
}

/// Takes away what stands where a file should be.
fn replace(target: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(target) {
        Ok(data) if data.is_dir() => Err(io::Error::other(format!(
            "cannot overwrite directory {:?} with non-directory",
            target.display()
        ))),
        Ok(_) => std::fs::remove_file(target),
        Err(_) => Ok(()),
    }
}

/// Sends what is written in chunks.
struct ChannelWriter {
    sender: Sender<io::Result<Bytes>>,
    buffer: BytesMut,
    total: u64,
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        self.total += bytes.len() as u64;
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        self.sender
            .blocking_send(Ok(chunk))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

/// Packs `source` under the name `name` and sends the archive. Returns its length.
pub(super) fn pack(
    source: &Path,
    name: &str,
    sender: &Sender<io::Result<Bytes>>,
) -> io::Result<u64> {
    let writer = ChannelWriter {
        sender: sender.clone(),
        buffer: BytesMut::with_capacity(CHUNK * 2),
        total: 0,
    };
    let mut builder = tar::Builder::new(writer);
    builder.follow_symlinks(false);
    let mut links = std::collections::HashMap::new();
    let result = append(&mut builder, source, Path::new(name), &mut links).and_then(|()| {
        let mut writer = builder.into_inner()?;
        writer.flush()?;
        Ok(writer.total)
    });
    if let Err(error) = &result
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        // Break the request off, so that the daemon does not take half an archive for a whole one.
        let _ = sender.blocking_send(Err(io::Error::other(error.to_string())));
    }
    result
}

/// Inodes with several names, and the first of these.
type Links = std::collections::HashMap<(u64, u64), PathBuf>;

fn append(
    builder: &mut tar::Builder<ChannelWriter>,
    source: &Path,
    name: &Path,
    links: &mut Links,
) -> io::Result<()> {
    let data = std::fs::symlink_metadata(source)?;
    let kind = data.file_type();
    if kind.is_socket() {
        // There is no such thing in an archive.
        return Ok(());
    }
    if kind.is_file() && data.nlink() > 1 {
        if let Some(first) = links.get(&(data.dev(), data.ino())) {
            let mut header = tar::Header::new_gnu();
            header.set_metadata(&data);
            header.set_entry_type(tar::EntryType::Link);
            header.set_size(0);
            return builder.append_link(&mut header, name, first);
        }
        links.insert((data.dev(), data.ino()), name.to_path_buf());
    }
    if !kind.is_dir() {
        return builder.append_path_with_name(source, name);
    }
    builder.append_dir(name, source)?;
    let mut children: Vec<_> = std::fs::read_dir(source)?.collect::<Result<_, _>>()?;
    children.sort_by_key(std::fs::DirEntry::file_name);
    for child in children {
        append(builder, &child.path(), &name.join(child.file_name()), links)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(
        source: &Path,
        name: &str,
        root: &Path,
        rename: Option<&(String, String)>,
    ) -> io::Result<()> {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
        let (chunks, unpacked) = std::sync::mpsc::sync_channel(1024);
        let (source, name) = (source.to_path_buf(), name.to_owned());
        let packing = std::thread::spawn(move || pack(&source, &name, &sender));
        while let Some(chunk) = receiver.blocking_recv() {
            chunks.send(chunk?).unwrap();
        }
        drop(chunks);
        packing.join().unwrap()?;
        unpack(unpacked, root, rename)
    }

    #[test]
    fn there_and_back() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        let source = from.path().join("src");
        std::fs::create_dir_all(source.join("d")).unwrap();
        std::fs::write(source.join("d/f"), "x").unwrap();
        std::fs::hard_link(source.join("d/f"), source.join("hard")).unwrap();
        std::os::unix::fs::symlink("d/f", source.join("link")).unwrap();
        std::fs::set_permissions(source.join("d/f"), Permissions::from_mode(0o751)).unwrap();
        let rename = (String::from("src"), String::from("new"));
        round_trip(&source, "src", to.path(), Some(&rename)).unwrap();
        let new = to.path().join("new");
        assert_eq!(std::fs::read_to_string(new.join("link")).unwrap(), "x");
        assert_eq!(
            std::fs::metadata(new.join("hard")).unwrap().ino(),
            std::fs::metadata(new.join("d/f")).unwrap().ino()
        );
        assert_eq!(
            std::fs::metadata(new.join("d/f")).unwrap().mode() & 0o7777,
            0o751
        );
    }

    #[test]
    fn hostile_archives_stay_inside() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let try_entries = |make: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
            let mut builder = tar::Builder::new(Vec::new());
            make(&mut builder);
            let bytes = builder.into_inner().unwrap();
            let (sender, receiver) = std::sync::mpsc::sync_channel(1);
            sender.send(Bytes::from(bytes)).unwrap();
            drop(sender);
            unpack(receiver, root.path(), None)
        };
        let file = |builder: &mut tar::Builder<Vec<u8>>, name: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, &b"x"[..]).unwrap();
        };
        assert!(try_entries(&|builder| file(builder, "../escape")).is_err());
        let target = outside.path().to_path_buf();
        let through_link = try_entries(&|builder| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, "l", &target).unwrap();
            file(builder, "l/escape");
        });
        assert!(through_link.is_err());
        assert!(!outside.path().join("escape").exists());
    }
}
