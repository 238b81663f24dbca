//! From `-v`, `--mount`, `--tmpfs`, `--volumes-from` and the image's volumes to resolved mounts. Pure, in dockerd's words.

use kekkai_types::VolumeName;

use crate::EngineError;
use crate::model::{ContainerConfig, HostOptions, MountKind, MountPoint, MountRequest};

const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

fn invalid<T>(text: impl Into<String>) -> Result<T, EngineError> {
    Err(EngineError::Invalid(text.into()))
}

/// A path without `.`, `..`, doubled and trailing slashes.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn point(kind: MountKind, destination: &str) -> MountPoint {
    MountPoint {
        kind,
        name: None,
        source: String::new(),
        destination: clean(destination),
        driver: if kind == MountKind::Volume {
            "local".to_owned()
        } else {
            String::new()
        },
        mode: String::new(),
        read_write: true,
        propagation: if kind == MountKind::Bind {
            "rprivate".to_owned()
        } else {
            String::new()
        },
        recursive: true,
        copy_up: kind == MountKind::Volume,
        anonymous: false,
        tmpfs_size: None,
        tmpfs_mode: None,
        subpath: None,
    }
}

/// A new anonymous volume's mount.
fn anonymous(destination: &str) -> MountPoint {
    let mut mount = point(MountKind::Volume, destination);
    // Container ids and anonymous volume names have the same shape: 64 random hexadecimal digits.
    mount.name = Some(kekkai_types::ContainerId::random().to_string());
    mount.anonymous = true;
    mount
}

fn check_volume_name(name: &str) -> Result<(), EngineError> {
    name.parse::<VolumeName>()
        .map(drop)
        .map_err(|error| match error {
            kekkai_types::ParseNameError::VolumeTooShort => {
                EngineError::Invalid(format!("create {name}: {error}"))
            }
            other => EngineError::Invalid(other.to_string()),
        })
}

/// The words of a bind's mode, checked for clashes.
struct Mode {
    read_write: bool,
    propagation: Option<String>,
    copy: Option<bool>,
}

fn mode(text: &str) -> Option<Mode> {
    let mut parsed = Mode {
        read_write: true,
        propagation: None,
        copy: None,
    };
    let (mut access, mut label, mut consistency) = (false, false, false);
    if text.is_empty() {
        return Some(parsed);
    }
    for word in text.split(',') {
        let seen = match word {
            "ro" | "rw" => {
                parsed.read_write = word == "rw";
                &mut access
            }
            "z" | "Z" => &mut label,
            "consistent" | "cached" | "delegated" | "default" => &mut consistency,
            "nocopy" | "copy" => {
                if parsed.copy.replace(word == "copy").is_some() {
                    return None;
                }
                continue;
            }
            word if PROPAGATIONS.contains(&word) => {
                if parsed.propagation.replace(word.to_owned()).is_some() {
                    return None;
                }
                continue;
            }
            _ => return None,
        };
        if std::mem::replace(seen, true) {
            return None;
        }
    }
    Some(parsed)
}

/// One `-v`.
pub(crate) fn bind(text: &str) -> Result<MountPoint, EngineError> {
    let bad = || EngineError::System(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, words) = match parts.as_slice() {
        [destination] if !destination.is_empty() => ("", *destination, ""),
        [source, destination] if !source.is_empty() && !destination.is_empty() => {
            (*source, *destination, "")
        }
        [source, destination, words] if !source.is_empty() && !destination.is_empty() => {
            (*source, *destination, *words)
        }
        _ => return Err(bad()),
    };
    let kind = if source.starts_with('/') {
        MountKind::Bind
    } else {
        MountKind::Volume
    };
    let detail = |why: String| {
        EngineError::System(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{}\": {why}",
            kind.as_str()
        ))
    };
    let Some(parsed) = mode(words) else {
        return Err(EngineError::System(format!("invalid mode: {words}")));
    };
    if !destination.starts_with('/') {
        return Err(detail(format!(
            "invalid mount path: '{destination}' mount path must be absolute"
        )));
    }
    if clean(destination) == "/" {
        return Err(detail(
            "invalid specification: destination can't be '/'".to_owned(),
        ));
    }
    if kind == MountKind::Bind && parsed.copy.is_some() {
        return Err(detail(
            "field VolumeOptions must not be specified".to_owned(),
        ));
    }
    if kind == MountKind::Volume && parsed.propagation.is_some() {
        return Err(detail("field BindOptions must not be specified".to_owned()));
    }
    let mut mount = if source.is_empty() {
        anonymous(destination)
    } else {
        point(kind, destination)
    };
    mount.read_write = parsed.read_write;
    words.clone_into(&mut mount.mode);
    match kind {
        MountKind::Bind => {
            mount.source = clean(source);
            if let Some(propagation) = parsed.propagation {
                mount.propagation = propagation;
            }
        }
        _ => {
            if !source.is_empty() {
                check_volume_name(source)?;
                mount.name = Some(source.to_owned());
            }
            mount.copy_up = parsed.copy.unwrap_or(true);
            if words.is_empty() {
                "z".clone_into(&mut mount.mode);
            }
        }
    }
    Ok(mount)
}

/// One `--mount`. `exists` tells whether a bind's source is there.
pub(crate) fn request(
    request: &MountRequest,
    exists: &dyn Fn(&str) -> bool,
) -> Result<MountPoint, EngineError> {
    let kind = match request.kind.as_str() {
        "bind" => MountKind::Bind,
        "volume" => MountKind::Volume,
        "tmpfs" => MountKind::Tmpfs,
        "image" => {
            return Err(EngineError::Unsupported(
                "a mount of type \"image\"".to_owned(),
            ));
        }
        other => {
            return invalid(format!(
                "invalid mount config for type \"{other}\": mount type unknown"
            ));
        }
    };
    for (name, present, of) in [
        ("BindOptions", request.bind.is_some(), MountKind::Bind),
        ("VolumeOptions", request.volume.is_some(), MountKind::Volume),
        ("TmpfsOptions", request.tmpfs.is_some(), MountKind::Tmpfs),
    ] {
        if present && kind != of {
            return invalid(format!(
                "{name} must not be specified on mount type \"{}\"",
                kind.as_str()
            ));
        }
    }
    let bad = |why: String| {
        EngineError::Invalid(format!(
            "invalid mount config for type \"{}\": {why}",
            kind.as_str()
        ))
    };
    if request.target.is_empty() {
        return Err(bad("field Target must not be empty".to_owned()));
    }
    if !request.target.starts_with('/') {
        return Err(bad(format!(
            "invalid mount path: '{}' mount path must be absolute",
            request.target
        )));
    }
    if clean(&request.target) == "/" {
        return Err(bad(
            "invalid specification: destination can't be '/'".to_owned()
        ));
    }
    let mut mount = match kind {
        MountKind::Volume if request.source.is_empty() => anonymous(&request.target),
        _ => point(kind, &request.target),
    };
    mount.read_write = !request.read_only;
    match kind {
        MountKind::Bind => bind_request(&mut mount, request, exists, &bad)?,
        MountKind::Volume => volume_request(&mut mount, request, &bad)?,
        MountKind::Tmpfs => tmpfs_request(&mut mount, request, &bad)?,
    }
    Ok(mount)
}

fn bind_request(
    mount: &mut MountPoint,
    request: &MountRequest,
    exists: &dyn Fn(&str) -> bool,
    bad: &dyn Fn(String) -> EngineError,
) -> Result<(), EngineError> {
    if request.source.is_empty() {
        return Err(bad("field Source must not be empty".to_owned()));
    }
    if !request.source.starts_with('/') {
        return Err(bad(format!(
            "invalid mount path: '{}' mount path must be absolute",
            request.source
        )));
    }
    mount.source = clean(&request.source);
    let options = request.bind.clone().unwrap_or_default();
    if !options.propagation.is_empty() {
        if !PROPAGATIONS.contains(&options.propagation.as_str()) {
            return Err(bad(format!(
                "invalid propagation mode: {}",
                options.propagation
            )));
        }
        mount.propagation = options.propagation;
    }
    if options.read_only_force_recursive || options.read_only_non_recursive {
        if mount.read_write {
            return Err(bad(
                "mount must be read-only for a recursive read-only option".to_owned(),
            ));
        }
        if options.read_only_non_recursive {
            "ro-non-recursive".clone_into(&mut mount.mode);
        }
    }
    mount.recursive = !options.non_recursive;
    if !options.create_mountpoint && !exists(&mount.source) {
        return Err(bad(format!(
            "bind source path does not exist: {}",
            mount.source
        )));
    }
    Ok(())
}

fn volume_request(
    mount: &mut MountPoint,
    request: &MountRequest,
    bad: &dyn Fn(String) -> EngineError,
) -> Result<(), EngineError> {
    if !request.source.is_empty() {
        check_volume_name(&request.source)?;
        mount.name = Some(request.source.clone());
    }
    "z".clone_into(&mut mount.mode);
    let options = request.volume.clone().unwrap_or_default();
    mount.copy_up = !options.no_copy;
    if !matches!(options.driver.as_str(), "" | "local") {
        return Err(EngineError::NotFound(format!(
            "create {}: error looking up volume plugin {driver}: plugin \"{driver}\" not found",
            request.source,
            driver = options.driver
        )));
    }
    if !options.subpath.is_empty() {
        if options.subpath.starts_with('/') || options.subpath.split('/').any(|part| part == "..") {
            return Err(bad(
                "subpath must be a relative path within the volume".to_owned()
            ));
        }
        mount.subpath = Some(options.subpath);
    }
    Ok(())
}

fn tmpfs_request(
    mount: &mut MountPoint,
    request: &MountRequest,
    bad: &dyn Fn(String) -> EngineError,
) -> Result<(), EngineError> {
    if !request.source.is_empty() {
        return Err(bad("field Source must not be specified".to_owned()));
    }
    let options = request.tmpfs.clone().unwrap_or_default();
    let mut words = Vec::new();
    for option in &options.options {
        match option
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .as_slice()
        {
            [flag @ ("exec" | "noexec")] => words.push((*flag).to_owned()),
            [key @ ("uid" | "gid"), value] => words.push(format!("{key}={value}")),
            other => return Err(bad(format!("invalid option: {}", other.join("=")))),
        }
    }
    if options.size_bytes > 0 {
        mount.tmpfs_size = Some(options.size_bytes);
    }
    if options.mode != 0 {
        mount.tmpfs_mode = Some(options.mode);
    }
    mount.mode = words.join(",");
    Ok(())
}

/// One `--tmpfs`.
fn tmpfs(destination: &str, options: &str) -> Result<MountPoint, EngineError> {
    if !destination.starts_with('/') {
        return invalid(format!(
            "invalid mount path: '{destination}' mount path must be absolute"
        ));
    }
    if clean(destination) == "/" {
        return invalid("invalid specification: destination can't be '/'");
    }
    let mut mount = point(MountKind::Tmpfs, destination);
    for word in options.split(',').filter(|word| !word.is_empty()) {
        let key = word.split_once('=').map_or(word, |(key, _)| key);
        let known = matches!(
            key,
            "size"
                | "mode"
                | "uid"
                | "gid"
                | "nr_inodes"
                | "nr_blocks"
                | "mpol"
                | "ro"
                | "rw"
                | "exec"
                | "noexec"
                | "suid"
                | "nosuid"
                | "dev"
                | "nodev"
                | "atime"
                | "noatime"
                | "diratime"
                | "nodiratime"
                | "relatime"
                | "norelatime"
                | "strictatime"
                | "nostrictatime"
                | "sync"
                | "async"
                | "dirsync"
                | "remount"
                | "bind"
                | "rbind"
                | "mand"
                | "nomand"
                | "private"
                | "rprivate"
                | "shared"
                | "rshared"
                | "slave"
                | "rslave"
                | "unbindable"
                | "runbindable"
                | "defaults"
        );
        if !known {
            return Err(EngineError::System(format!(
                "invalid tmpfs option {word:?}"
            )));
        }
        if word == "ro" {
            mount.read_write = false;
        }
    }
    options.clone_into(&mut mount.mode);
    Ok(mount)
}

/// The mounts of another container that `--volumes-from` takes over.
#[derive(Debug)]
pub(crate) struct Inherited<'a> {
    pub(crate) mounts: &'a [MountPoint],
    /// `ro` makes all of them read-only.
    pub(crate) read_only: bool,
}

/// `container[:mode]` of `--volumes-from`.
pub(crate) fn volumes_from(text: &str) -> Result<(&str, bool), EngineError> {
    let (name, words) = text.split_once(':').unwrap_or((text, ""));
    match words {
        "" | "rw" | "z" | "Z" | "rw,z" | "rw,Z" | "z,rw" => Ok((name, false)),
        "ro" | "ro,z" | "z,ro" => Ok((name, true)),
        other => invalid(format!("invalid mode: {other}")),
    }
}

/// All mounts of a container. Precedence and duplicates are dockerd's: `-v` and `--mount` beat `--volumes-from`, which
/// beats the image's volumes.
pub(crate) fn resolve(
    config: &ContainerConfig,
    host: &HostOptions,
    inherited: &[Inherited<'_>],
    exists: &dyn Fn(&str) -> bool,
) -> Result<Vec<MountPoint>, EngineError> {
    if !matches!(host.volume_driver.as_str(), "" | "local") {
        return Err(EngineError::NotFound(format!(
            "error looking up volume plugin {driver}: plugin \"{driver}\" not found",
            driver = host.volume_driver
        )));
    }
    let mut explicit: Vec<MountPoint> = Vec::new();
    let mut add = |mount: MountPoint| {
        if explicit
            .iter()
            .any(|other| other.destination == mount.destination)
        {
            return invalid(format!("Duplicate mount point: {}", mount.destination));
        }
        explicit.push(mount);
        Ok(())
    };
    for text in &host.binds {
        add(bind(text)?)?;
    }
    for wanted in &host.mounts {
        add(request(wanted, exists)?)?;
    }
    for (destination, options) in &host.tmpfs {
        add(tmpfs(destination, options)?)?;
    }
    let mut mounts = explicit;
    for other in inherited {
        for mount in other
            .mounts
            .iter()
            .filter(|mount| mount.kind != MountKind::Tmpfs)
        {
            if mounts
                .iter()
                .all(|have| have.destination != mount.destination)
            {
                let mut taken = mount.clone();
                taken.read_write &= !other.read_only;
                taken.anonymous = false;
                taken.copy_up = false;
                mounts.push(taken);
            }
        }
    }
    for volume in &config.volumes {
        let destination = clean(volume);
        if destination == "/" {
            return invalid("invalid specification: destination can't be '/'");
        }
        if mounts.iter().all(|have| have.destination != destination) {
            mounts.push(anonymous(&destination));
        }
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        bind(text).unwrap_err().to_string()
    }

    /// Each text is what dockerd 28.5 answered to the same request.
    #[test]
    fn words_of_dockerd() {
        assert_eq!(
            refused("/a:b"),
            "invalid volume specification: '/a:b': invalid mount config for type \"bind\": invalid mount path: 'b' mount path must be absolute"
        );
        assert_eq!(refused("v1:/x:ro,rw"), "invalid mode: ro,rw");
        assert_eq!(refused(":/x"), "invalid volume specification: ':/x'");
        assert_eq!(
            refused("x:/y"),
            "create x: volume name is too short, names should be at least two alphanumeric characters"
        );
        assert!(refused("a/b:/y").starts_with(
            "create a/b: \"a/b\" includes invalid characters for a local volume name"
        ));
        assert_eq!(
            refused("/tmp:/x:nocopy"),
            "invalid volume specification: '/tmp:/x:nocopy': invalid mount config for type \"bind\": field VolumeOptions must not be specified"
        );
    }

    #[test]
    fn binds() {
        let mount = bind("/tmp/../etc/:/x//y:ro,rshared").unwrap();
        assert_eq!(
            (mount.source.as_str(), mount.destination.as_str()),
            ("/etc", "/x/y")
        );
        assert!(!mount.read_write);
        assert_eq!(mount.propagation, "rshared");
        assert!(bind("/data").unwrap().anonymous);
        assert_eq!(bind("vol:/x").unwrap().name.as_deref(), Some("vol"));
    }

    #[test]
    fn precedence() {
        let config = ContainerConfig {
            volumes: vec!["/a".into(), "/b/".into()],
            ..Default::default()
        };
        let host = HostOptions {
            binds: vec!["/tmp:/b".into()],
            ..Default::default()
        };
        let mounts = resolve(&config, &host, &[], &|_| true).unwrap();
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].kind, MountKind::Bind);
        let host = HostOptions {
            binds: vec!["/tmp:/b".into(), "vv:/b/".into()],
            ..Default::default()
        };
        assert_eq!(
            resolve(&config, &host, &[], &|_| true)
                .unwrap_err()
                .to_string(),
            "Duplicate mount point: /b"
        );
    }
}
