//! `cp`, both ways, with Docker's rules for what a destination means.
//!
//! The rules: an existing directory receives the source under its own name (or its content, for `SRC/.`); an existing file
//! is replaced; a destination that does not exist becomes the source under a new name, and its parent must exist.

use std::path::{Component, Path, PathBuf};

use base64::Engine;
use kekkai_client::{Client, Query, Request, channel_body, reader_body};
use serde_json::Value as Json;

use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, switch};
use crate::cli::{Cli, Failure, output, terminal, units};

mod archive;

pub(crate) const FLAGS: &[Flag] = &[
    switch("archive", "Keep user and group ids").short('a'),
    switch("follow-link", "Follow a symbolic link named as the source").short('L'),
    switch(
        "quiet",
        "Do not show the progress. It is never shown without a terminal",
    )
    .short('q'),
];

/// Mode bits as Go's `fs.FileMode` sends them.
const GO_DIRECTORY: u64 = 1 << 31;
const GO_SYMLINK: u64 = 1 << 27;
const GO_IRREGULAR: u64 = (1 << 26) | (1 << 25) | (1 << 24) | (1 << 21) | (1 << 19);

/// A path, and the container it is in, if any.
fn split(argument: &str) -> (Option<&str>, &str) {
    if argument.starts_with('/') {
        return (None, argument);
    }
    match argument.split_once(':') {
        Some((container, path)) if !container.starts_with('.') => (Some(container), path),
        _ => (None, argument),
    }
}

pub(crate) async fn copy(cli: &Cli, matches: &Matches) -> Outcome {
    let (source, destination) = (matches.args[0].as_str(), matches.args[1].as_str());
    if source.is_empty() {
        return Err(Failure::new("source can not be empty"));
    }
    if destination.is_empty() {
        return Err(Failure::new("destination can not be empty"));
    }
    let quiet =
        matches.on("quiet") || (!matches.is_set("quiet") && !terminal::stdout_is_terminal());
    let follow = matches.on("follow-link");
    match (split(source), split(destination)) {
        ((Some(_), _), (Some(_), _)) => {
            Err(Failure::new("copying between containers is not supported"))
        }
        ((None, _), (None, _)) => Err(Failure::new("must specify at least one container source")),
        ((Some(container), path), (None, local)) => {
            let client = cli.client().await?;
            let size = from_container(client, container, path, local, follow).await?;
            if !quiet && local != "-" {
                done(size, local);
            }
            Ok(0)
        }
        ((None, local), (Some(container), path)) => {
            let client = cli.client().await?;
            let size = to_container(
                client,
                container,
                local,
                path,
                (follow, matches.on("archive")),
            )
            .await?;
            if !quiet {
                done(size, &format!("{container}:{path}"));
            }
            Ok(0)
        }
    }
}

fn done(size: u64, to: &str) {
    output::to_stderr(&format!(
        "Successfully copied {} to {to}\n",
        units::size3(i64::try_from(size).unwrap_or(i64::MAX))
    ));
}

/// What is at a path in a container.
#[derive(Debug)]
struct Stat {
    mode: u64,
    link_target: String,
}

impl Stat {
    fn is_directory(&self) -> bool {
        self.mode & GO_DIRECTORY != 0
    }
    fn is_link(&self) -> bool {
        self.mode & GO_SYMLINK != 0
    }
}

fn decode_stat(header: Option<&str>) -> Option<Stat> {
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(header?)
        .ok()?;
    let json: Json = serde_json::from_slice(&decoded).ok()?;
    Some(Stat {
        mode: json["mode"].as_u64()?,
        link_target: json["linkTarget"].as_str().unwrap_or("").to_owned(),
    })
}

async fn stat(client: &Client, container: &str, path: &str) -> Result<Stat, Failure> {
    let request = Request::new(http::Method::HEAD, "/containers/")
        .segment(container, "/archive")
        .query(Query::new().with("path", path));
    let reply = client.send(request).await.map_err(|error| {
        // An answer to HEAD has no body to take the words from.
        match error.status() {
            Some(404) => Failure::new(format!("Error response from daemon: Could not find the file {path} in container {container}")),
            _ => error.into(),
        }
    })?;
    let found = decode_stat(reply.header("x-docker-container-path-stat"));
    reply.done().await?;
    found.ok_or_else(|| Failure::new("unable to decode container path stat header"))
}

/// The directory and last name of a path; a trailing `/.` is the name `.`, a trailing slash adds `.`.
fn directory_and_name(path: &str) -> (String, String) {
    let clean = clean(path);
    let with_dot = if path.ends_with("/.") || path == "." || path.ends_with('/') && clean != "/" {
        format!("{clean}/.")
    } else {
        clean
    };
    match with_dot.rsplit_once('/') {
        Some(("", name)) => (String::from("/"), name.to_owned()),
        Some((directory, name)) => (directory.to_owned(), name.to_owned()),
        None => (String::from("."), with_dot),
    }
}

/// A path without `.`, `..` and double slashes, by name only.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let absolute = path.starts_with('/');
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.last().is_some_and(|last| *last != "..") {
                    parts.pop();
                } else if !absolute {
                    parts.push("..");
                }
            }
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => String::from("."),
        (false, false) => joined,
    }
}

fn asserts_directory(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.") || path == "."
}

/// Where an archive goes, and how its first name changes.
#[derive(Debug, PartialEq, Eq)]
struct Placement {
    directory: String,
    /// The archive's first name, and the one it gets.
    rename: Option<(String, String)>,
}

/// What is known about a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Destination {
    Directory,
    File,
    Missing,
}

fn place(
    source_name: &str,
    source_is_directory: bool,
    path: &str,
    destination: Destination,
) -> Result<Placement, Failure> {
    let (directory, name) = directory_and_name(path);
    let renamed = |directory: String, name: String| Placement {
        directory,
        rename: Some((source_name.to_owned(), name)),
    };
    match destination {
        Destination::Directory => Ok(Placement {
            directory: path.to_owned(),
            rename: None,
        }),
        Destination::File if source_is_directory => Err(Failure::new("cannot copy directory")),
        Destination::File => Ok(renamed(directory, name)),
        Destination::Missing if source_is_directory => {
            let (directory, name) = directory_and_name(&clean(path));
            Ok(renamed(directory, name))
        }
        Destination::Missing if asserts_directory(path) => Err(Failure::new("no such directory")),
        Destination::Missing => Ok(renamed(directory, name)),
    }
}

async fn from_container(
    client: &Client,
    container: &str,
    path: &str,
    local: &str,
    follow: bool,
) -> Result<u64, Failure> {
    let mut path = path.to_owned();
    let mut rebase = None;
    if follow {
        let found = stat(client, container, &path).await?;
        if found.is_link() {
            let (directory, name) = directory_and_name(&path);
            let target = if found.link_target.starts_with('/') {
                found.link_target.clone()
            } else {
                clean(&format!("{directory}/{}", found.link_target))
            };
            rebase = (name != ".").then_some(name);
            path = target;
        }
    }
    if local != "-" {
        check_local_destination(local)?;
    }
    let request = Request::get("/containers/")
        .segment(container, "/archive")
        .query(Query::new().with("path", &path));
    let mut reply = client.send(request).await?;
    let found = decode_stat(reply.header("x-docker-container-path-stat"))
        .ok_or_else(|| Failure::new("unable to decode container path stat header"))?;
    if local == "-" {
        if terminal::stdout_is_terminal() {
            return Err(Failure::new(
                "refusing to copy a tar archive to a terminal: redirect the output",
            ));
        }
        let mut size = 0;
        while let Some(chunk) = reply.chunk().await? {
            size += chunk.len() as u64;
            output::print_bytes(&chunk)?;
        }
        return Ok(size);
    }
    let (_, source_name) = directory_and_name(&path);
    let target = Path::new(local);
    let destination = match std::fs::metadata(target) {
        Ok(data) if data.is_dir() => Destination::Directory,
        Ok(_) => Destination::File,
        Err(_) => Destination::Missing,
    };
    let mut placement = place(&source_name, found.is_directory(), local, destination)?;
    if placement.rename.is_none()
        && let Some(name) = rebase
        && source_name != name
    {
        placement.rename = Some((source_name, name));
    }
    let (sender, receiver) = std::sync::mpsc::sync_channel(16);
    let directory = PathBuf::from(&placement.directory);
    let rename = placement.rename;
    let unpacking =
        tokio::task::spawn_blocking(move || archive::unpack(receiver, &directory, rename.as_ref()));
    let mut size = 0;
    while let Some(chunk) = reply.chunk().await? {
        size += chunk.len() as u64;
        let sender = sender.clone();
        let sent = tokio::task::spawn_blocking(move || sender.send(chunk).is_ok())
            .await
            .unwrap_or(false);
        if !sent {
            break;
        }
    }
    drop(sender);
    unpacking
        .await
        .map_err(|error| Failure::new(error.to_string()))??;
    Ok(size)
}

fn check_local_destination(local: &str) -> Result<(), Failure> {
    let (directory, _) = directory_and_name(&clean(local));
    if !Path::new(&directory).is_dir() {
        return Err(Failure::new(format!(
            "invalid output path: directory {directory:?} does not exist"
        )));
    }
    if let Ok(data) = std::fs::metadata(local)
        && !data.is_dir()
        && !data.is_file()
    {
        return Err(Failure::new(format!(
            "invalid output path: {local:?} must be a directory or a regular file"
        )));
    }
    Ok(())
}

async fn to_container(
    client: &Client,
    container: &str,
    local: &str,
    path: &str,
    (follow, keep_ids): (bool, bool),
) -> Result<u64, Failure> {
    let mut target = path.to_owned();
    let mut found = stat(client, container, &target).await;
    if let Ok(link) = &found
        && link.is_link()
    {
        let (directory, _) = directory_and_name(&target);
        target = if link.link_target.starts_with('/') {
            link.link_target.clone()
        } else {
            clean(&format!("{directory}/{}", link.link_target))
        };
        found = stat(client, container, &target).await;
    }
    if let Ok(found) = &found
        && found.mode & GO_IRREGULAR != 0
    {
        return Err(Failure::new(format!(
            "destination \"{container}:{path}\" must be a directory or a regular file"
        )));
    }
    let destination = match &found {
        Ok(found) if found.is_directory() => Destination::Directory,
        Ok(_) => Destination::File,
        Err(failure) if failure.text().contains("Could not find the file") => Destination::Missing,
        Err(failure) => return Err(Failure::new(failure.text())),
    };
    let query = |directory: &str| {
        let query = Query::new()
            .with("path", directory)
            .with("noOverwriteDirNonDir", "true");
        if keep_ids {
            query.with("copyUIDGID", "true")
        } else {
            query
        }
    };
    let put = |directory: &str, body| {
        Request::new(http::Method::PUT, "/containers/")
            .segment(container, "/archive")
            .query(query(directory))
            .stream("application/x-tar", body)
    };
    if local == "-" {
        if destination != Destination::Directory {
            return Err(Failure::new(format!(
                "destination \"{container}:{path}\" must be a directory"
            )));
        }
        client
            .send(put(&target, reader_body(tokio::io::stdin())))
            .await?
            .done()
            .await?;
        return Ok(0);
    }
    let (source, name) = local_source(local, follow)?;
    let is_directory =
        source.is_dir() && (follow || asserts_directory(local) || !source.is_symlink());
    let placement = place(&name, is_directory, &target, destination)?;
    let new_name = placement.rename.map_or(name, |(_, new)| new);
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let packing = tokio::task::spawn_blocking(move || archive::pack(&source, &new_name, &sender));
    let sent = async {
        client
            .send(put(&placement.directory, channel_body(receiver)))
            .await?
            .done()
            .await
    };
    let (sent, packed) = futures_util::join!(sent, packing);
    let packed = packed.map_err(|error| Failure::new(error.to_string()))?;
    sent?;
    Ok(packed?)
}

/// The file to send and the name it has in the archive.
fn local_source(local: &str, follow: bool) -> Result<(PathBuf, String), Failure> {
    let missing = |error: std::io::Error| {
        let why = match error.kind() {
            std::io::ErrorKind::NotFound => String::from("no such file or directory"),
            std::io::ErrorKind::PermissionDenied => String::from("permission denied"),
            _ => error.to_string(),
        };
        let shown = std::path::absolute(local).unwrap_or_else(|_| PathBuf::from(local));
        Failure::new(format!("lstat {}: {why}", shown.display()))
    };
    let bare = if local.len() > 1 {
        local.trim_end_matches('/')
    } else {
        local
    };
    let data = std::fs::symlink_metadata(bare).map_err(missing)?;
    let (_, mut name) = directory_and_name(local);
    if local.ends_with('/') && !local.ends_with("/.") && local != "/" {
        // A trailing slash only asserts that it is a directory.
        if !std::fs::metadata(bare).map_err(missing)?.is_dir() {
            return Err(Failure::new(format!("{local}: not a directory")));
        }
        (_, name) = directory_and_name(bare);
    }
    if name == ".." {
        let absolute = std::fs::canonicalize(bare).map_err(missing)?;
        name = absolute.file_name().map_or_else(
            || String::from("."),
            |name| name.to_string_lossy().into_owned(),
        );
    }
    let source = if data.file_type().is_symlink() && (follow || asserts_directory(local)) {
        std::fs::canonicalize(bare).map_err(missing)?
    } else {
        PathBuf::from(bare)
    };
    Ok((source, name))
}

/// Whether a path in an archive stays inside: no root, no `..`.
fn is_inside(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        assert_eq!(split("c:/x"), (Some("c"), "/x"));
        assert_eq!(split("/a:b"), (None, "/a:b"));
        assert_eq!(split("./a:b"), (None, "./a:b"));
        assert_eq!(split("-"), (None, "-"));
    }

    #[test]
    fn names() {
        let name = |path: &str| directory_and_name(path);
        assert_eq!(name("/a/b"), ("/a".into(), "b".into()));
        assert_eq!(name("/a/."), ("/a".into(), ".".into()));
        assert_eq!(name("/a/b/"), ("/a/b".into(), ".".into()));
        assert_eq!(name("b"), (".".into(), "b".into()));
        assert_eq!(name("/a"), ("/".into(), "a".into()));
        assert_eq!(clean("/a/../b//c/."), "/b/c");
    }

    #[test]
    fn placements() {
        let place = |directory, path: &str, destination| place("src", directory, path, destination);
        assert_eq!(
            place(true, "/d", Destination::Directory).unwrap().rename,
            None
        );
        assert!(place(true, "/f", Destination::File).is_err());
        let renamed = place(false, "/d/f", Destination::Missing).unwrap();
        assert_eq!(
            renamed,
            Placement {
                directory: "/d".into(),
                rename: Some(("src".into(), "f".into()))
            }
        );
        assert!(place(false, "/d/", Destination::Missing).is_err());
        let renamed = place(true, "/d/n/", Destination::Missing).unwrap();
        assert_eq!(
            renamed,
            Placement {
                directory: "/d".into(),
                rename: Some(("src".into(), "n".into()))
            }
        );
    }
}
