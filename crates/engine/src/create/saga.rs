//! Creating a container: all checks first, then steps with undo.
//!
//! ```text
//!  check → image → merge → mounts │ name ⟲ · volumes ⟲ · snapshot ⟲ · log directory ⟲ · plan · row ⟲ · known, owner, event
//! ```

use std::path::Path;
use std::sync::Arc;

use kekkai_image::Image;
use kekkai_metadata::{Change, Durability, Table};
use kekkai_types::{ContainerId, ContainerName, Timestamp, VolumeName};
use kekkai_volume::CreateVolume;

use super::{check, merge, mounts, names};
use crate::EngineError;
use crate::container::{Container, ContainerParts};
use crate::failpoint;
use crate::inner::Inner;
use crate::model::{
    ContainerSpec, CreateContainer, Created, EventKind, HostOptions, MountKind, MountPoint,
};
use crate::plan::{self, PlanFiles};
use crate::record::{ContainerRow, StoredState, VERSION};
use crate::spec_builder::{MASKED_PATHS, READONLY_PATHS};
use crate::undo::Undo;

/// Where the built-in image's program finds what to tell.
pub(crate) const HELLO_FILE: &str = "/etc/kekkai-hello.json";

/// Creates a container.
pub(crate) async fn create(
    inner: Arc<Inner>,
    request: CreateContainer,
) -> Result<Created, EngineError> {
    let id = ContainerId::random();
    let (spec, image, warnings) = specify(&inner, id, request.clone())?;
    let mut undo = Undo::default();

    let name = reserve_name(&inner, id, request.name.as_deref())?;
    {
        let (inner, name) = (Arc::clone(&inner), Arc::clone(&name));
        undo.push(move || inner.directory.release(&name, id));
    }
    failpoint::check(failpoint::CREATE_NAMED)?;

    let mut spec = spec;
    announce(&inner, id, &name, &spec, &image, &mut undo)?;
    make_volumes(&inner, id, &mut spec, &image, &mut undo).await?;
    failpoint::check(failpoint::CREATE_VOLUMES)?;

    let key = id.to_string();
    let mount = inner
        .snapshotter
        .prepare(&key, &image.layers, spec.host.auto_remove)
        .map_err(|error| {
            EngineError::System(format!("preparing the container's file system: {error}"))
        })?;
    {
        let inner = Arc::clone(&inner);
        undo.push(move || {
            if let Err(error) = inner.snapshotter.remove(&key) {
                tracing::warn!(%error, container = key, "undoing a snapshot");
            }
        });
    }
    failpoint::check(failpoint::CREATE_SNAPSHOT)?;

    let log = inner.log_config(id, &name, &spec)?;
    if spec.host.log.driver != "none" {
        make_log_directory(&inner, &log.path, &mut undo)?;
    }

    let spec = Arc::new(spec);
    let (container, queue) = Container::new(ContainerParts {
        id,
        name,
        created: Timestamp::now(),
        layers: Arc::from(image.layers.clone()),
        spec: Arc::clone(&spec),
    });
    let files = plan_files(&inner, id, &spec);
    let compiled = plan::compile(&inner, id, &spec, plan::rootfs(mount), &files)?;
    let bytes = compiled
        .to_bytes()
        .map_err(|error| EngineError::Internal(error.to_string()))?;
    {
        let mut shared = container.lock();
        shared.plan = Some(Arc::from(bytes));
        shared.fresh_work = true;
    }
    failpoint::check(failpoint::CREATE_PLANNED)?;

    let durability = if spec.host.auto_remove {
        Durability::Process
    } else {
        Durability::PowerCut
    };
    if let Some(written) = container.persist(&inner.database, durability) {
        {
            let (inner, container) = (Arc::clone(&inner), Arc::clone(&container));
            undo.push(move || drop(container.delete_row(&inner.database, Durability::Process)));
        }
        written
            .await
            .map_err(|_| EngineError::Unavailable("the database is closed".to_owned()))??;
    }
    failpoint::check(failpoint::CREATE_ROW)?;

    inner.directory.insert(Arc::clone(&container));
    crate::owner::spawn(&inner, &container, queue, crate::owner::Cleanup::Prepare);
    undo.commit();
    failpoint::check(failpoint::CREATE_BOUND)?;
    inner.container_event(&container, "create", &[]);
    Ok(Created { id, warnings })
}

/// All checks and look-ups that have no effect.
fn specify(
    inner: &Inner,
    id: ContainerId,
    mut request: CreateContainer,
) -> Result<(ContainerSpec, Arc<Image>, Vec<String>), EngineError> {
    let warnings = check::check(&mut request, &inner.facts)?;
    if let Some(name) = request.name.as_deref().filter(|name| !name.is_empty()) {
        name.parse::<ContainerName>()
            .map_err(|error| EngineError::Invalid(error.to_string()))?;
    }
    let image = find_image(inner, &request)?;
    let mut config = merge::merge(request.config, &image.config.config)?;
    let mut host = request.host;
    complete_host(inner, &mut host);
    refer_to_ids(inner, &mut host)?;
    complete_names(inner, id, &mut config, &host);
    if let Some(mac) = config.mac_address.take().filter(|mac| !mac.is_empty()) {
        let endpoint = request.endpoints.entry("bridge".to_owned()).or_default();
        endpoint.mac_address.get_or_insert(mac);
    }
    let mut from = Vec::new();
    for text in &host.volumes_from {
        let (name, read_only) = mounts::volumes_from(text)?;
        let other = inner
            .directory
            .find(name)
            .map_err(|error| EngineError::Invalid(error.to_string()))?;
        from.push((other.spec(), read_only));
    }
    let inherited: Vec<mounts::Inherited<'_>> = from
        .iter()
        .map(|(spec, read_only)| mounts::Inherited {
            mounts: &spec.mounts,
            read_only: *read_only,
        })
        .collect();
    let points = mounts::resolve(&config, &host, &inherited, &|path| Path::new(path).exists())?;
    let (path, args) = merge::command(&config);
    let spec = ContainerSpec {
        image_id: image.id.clone(),
        platform: image.platform.clone(),
        config,
        host,
        endpoints: request.endpoints,
        mounts: points,
        path,
        args,
    };
    Ok((spec, image, warnings))
}

fn find_image(inner: &Inner, request: &CreateContainer) -> Result<Arc<Image>, EngineError> {
    if request.config.image.is_empty() {
        return Err(EngineError::Invalid("no image specified".to_owned()));
    }
    let image = inner
        .images
        .resolve(&request.config.image)
        .map_err(|error| match kekkai_types::Classify::class(&error) {
            kekkai_types::ErrorClass::NotFound => EngineError::NotFound(error.to_string()),
            kekkai_types::ErrorClass::InvalidArgument => EngineError::Invalid(error.to_string()),
            _ => EngineError::System(error.to_string()),
        })?;
    match &request.platform {
        Some(wanted) if image.platform.rank_for(wanted).is_none() => {
            Err(EngineError::NotFound(format!(
                "image with reference {} was found but does not provide the specified platform ({wanted})",
                request.config.image
            )))
        }
        _ => Ok(image),
    }
}

/// Fills in the daemon's defaults, as inspect shows them.
fn complete_host(inner: &Inner, host: &mut HostOptions) {
    let config = &inner.config;
    let or = |field: &mut String, default: &str| {
        if field.is_empty() {
            default.clone_into(field);
        }
    };
    if matches!(host.network_mode.as_str(), "" | "default") {
        let default = if inner.network.is_some() {
            "bridge"
        } else {
            "none"
        };
        default.clone_into(&mut host.network_mode);
    }
    or(&mut host.ipc_mode, &config.default_ipc_mode);
    let cgroupns = config.default_cgroupns_mode.as_deref();
    let by_version = if inner.facts.cgroup_version == 2 && !host.privileged {
        "private"
    } else {
        "host"
    };
    or(&mut host.cgroupns_mode, cgroupns.unwrap_or(by_version));
    or(&mut host.restart_policy.name, "no");
    or(&mut host.runtime, "kekkai");
    if host.log.driver.is_empty() {
        host.log.driver.clone_from(&config.default_log.driver);
        for (key, value) in &config.default_log.options {
            host.log
                .options
                .entry(key.clone())
                .or_insert_with(|| value.clone());
        }
    }
    if host.shm_size == 0 {
        host.shm_size = config.default_shm_size;
    }
    if !host.privileged {
        let list = |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect());
        if host.masked_paths.is_none() {
            host.masked_paths = list(&MASKED_PATHS);
        }
        if host.readonly_paths.is_none() {
            host.readonly_paths = list(&READONLY_PATHS);
        }
    }
}

/// Names of other containers become ids, so that renaming them changes nothing.
fn refer_to_ids(inner: &Inner, host: &mut HostOptions) -> Result<(), EngineError> {
    for mode in [&mut host.pid_mode, &mut host.ipc_mode] {
        if let Some(name) = mode.strip_prefix("container:") {
            let other = inner
                .directory
                .find(name)
                .map_err(|error| EngineError::Invalid(error.to_string()))?;
            *mode = format!("container:{}", other.id);
        }
    }
    // A network of a container that is not there is only an error when it starts, as for dockerd.
    if let Some(other) = host
        .network_mode
        .strip_prefix("container:")
        .and_then(|name| inner.directory.find(name).ok())
    {
        host.network_mode = format!("container:{}", other.id);
    }
    Ok(())
}

/// Host and domain name as the container will see them.
fn complete_names(
    inner: &Inner,
    id: ContainerId,
    config: &mut crate::model::ContainerConfig,
    host: &HostOptions,
) {
    if config.hostname.as_deref().unwrap_or_default().is_empty() {
        let other = host
            .network_mode
            .strip_prefix("container:")
            .and_then(|name| inner.directory.find(name).ok());
        config.hostname = Some(match other {
            Some(other) => other.spec().config.hostname.clone().unwrap_or_default(),
            None if host.network_mode == "host" || host.uts_mode == "host" => {
                inner.facts.hostname.clone()
            }
            None => id.short(),
        });
    }
}

fn reserve_name(
    inner: &Inner,
    id: ContainerId,
    wanted: Option<&str>,
) -> Result<Arc<str>, EngineError> {
    if let Some(wanted) = wanted.filter(|name| !name.is_empty()) {
        let parsed: ContainerName =
            wanted
                .parse()
                .map_err(|error: kekkai_types::ParseNameError| {
                    EngineError::Invalid(error.to_string())
                })?;
        let name: Arc<str> = Arc::from(parsed.as_str());
        inner.directory.reserve(&name, id)?;
        return Ok(name);
    }
    for attempt in 0.. {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).map_err(|error| EngineError::Internal(error.to_string()))?;
        let name: Arc<str> = Arc::from(names::pick(u32::from_le_bytes(bytes), attempt));
        if inner.directory.reserve(&name, id).is_ok() {
            return Ok(name);
        }
    }
    Err(EngineError::Internal("no free name".to_owned()))
}

/// Writes the row before the first anonymous volume is made: should the daemon die in between, the next one knows
/// whose the volume was. Rows are written in order, so nobody waits for this one.
fn announce(
    inner: &Arc<Inner>,
    id: ContainerId,
    name: &Arc<str>,
    spec: &ContainerSpec,
    image: &Image,
    undo: &mut Undo,
) -> Result<(), EngineError> {
    if !spec.mounts.iter().any(|point| point.anonymous) {
        return Ok(());
    }
    let row = ContainerRow {
        version: VERSION,
        name: name.to_string(),
        created: Timestamp::now(),
        layers: image.layers.clone(),
        spec,
        state: StoredState::creating(),
    };
    let change = Change::put_json(Table::Containers, id.to_string(), &row)?;
    inner
        .database
        .submit(vec![change], Durability::Process, Box::new(log_failure));
    let inner = Arc::clone(inner);
    undo.push(move || {
        let change = Change::delete(Table::Containers, id.to_string());
        inner
            .database
            .submit(vec![change], Durability::Process, Box::new(log_failure));
    });
    Ok(())
}

fn log_failure(outcome: Result<(), kekkai_metadata::MetadataError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "announcing a container");
    }
}

async fn make_volumes(
    inner: &Arc<Inner>,
    id: ContainerId,
    spec: &mut ContainerSpec,
    image: &Image,
    undo: &mut Undo,
) -> Result<(), EngineError> {
    let requests: Vec<_> = spec.host.mounts.clone();
    for point in spec
        .mounts
        .iter_mut()
        .filter(|point| point.kind == MountKind::Volume)
    {
        let Some(name) = point.name.clone() else {
            continue;
        };
        let name: VolumeName = name
            .parse()
            .map_err(|error: kekkai_types::ParseNameError| {
                EngineError::Invalid(error.to_string())
            })?;
        let wanted = requests
            .iter()
            .find(|request| mounts::clean(&request.target) == point.destination);
        let options = wanted
            .and_then(|request| request.volume.clone())
            .unwrap_or_default();
        let is_new = inner.volumes.inspect(name.as_str()).is_err();
        let request = CreateVolume {
            anonymous: point.anonymous,
            labels: options.labels.clone(),
            options: options.driver_options.clone(),
            durability: if spec.host.auto_remove {
                Durability::Process
            } else {
                Durability::PowerCut
            },
            ..CreateVolume::named(name.clone())
        };
        let volume = inner
            .volumes
            .ensure(request, &id)
            .map_err(|error| volume_error(&error))?;
        {
            let (inner, name, anonymous) =
                (Arc::clone(inner), name.clone(), point.anonymous && is_new);
            undo.push(move || {
                inner.volumes.unreference(&name, &id);
                if anonymous && let Err(error) = inner.volumes.remove(name.as_str(), true) {
                    tracing::warn!(%error, volume = %name, "undoing a volume");
                }
            });
        }
        if is_new {
            let attributes = vec![("driver".to_owned(), volume.driver.clone())];
            inner
                .events
                .publish(EventKind::Volume, "create", name.as_str(), attributes);
        }
        point.driver.clone_from(&volume.driver);
        let directory = volume.mountpoint.clone();
        point.source = directory.to_string_lossy().into_owned();
        if point.copy_up && point.subpath.is_none() {
            populate(inner, &name, point, image).await?;
        }
        if let Some(subpath) = &point.subpath {
            point.source = directory.join(subpath).to_string_lossy().into_owned();
        }
    }
    Ok(())
}

/// Fills an empty volume with what the image has at that place.
async fn populate(
    inner: &Arc<Inner>,
    name: &VolumeName,
    point: &MountPoint,
    image: &Image,
) -> Result<(), EngineError> {
    let is_empty =
        std::fs::read_dir(&point.source).is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty || image.layers.is_empty() {
        return Ok(());
    }
    let (inner, name, destination) = (Arc::clone(inner), name.clone(), point.destination.clone());
    let layers = image.layers.clone();
    tokio::task::spawn_blocking(move || {
        let root = inner
            .snapshotter
            .mount_layers(&layers)
            .map_err(|error| EngineError::System(error.to_string()))?;
        inner
            .volumes
            .populate(
                &name,
                std::os::fd::AsFd::as_fd(&root),
                Path::new(&destination),
            )
            .map(drop)
            .map_err(|error| volume_error(&error))
    })
    .await
    .map_err(|error| EngineError::Internal(error.to_string()))?
}

/// A volume's error as the engine's.
pub(crate) fn volume_error(error: &kekkai_volume::VolumeError) -> EngineError {
    use kekkai_types::ErrorClass;
    match error.class() {
        ErrorClass::NotFound => EngineError::NotFound(error.to_string()),
        ErrorClass::InvalidArgument => EngineError::Invalid(error.to_string()),
        ErrorClass::Conflict => EngineError::Conflict(error.to_string()),
        ErrorClass::NotImplemented => EngineError::Unsupported(error.to_string()),
        _ => EngineError::System(error.to_string()),
    }
}

fn make_log_directory(inner: &Arc<Inner>, log: &Path, undo: &mut Undo) -> Result<(), EngineError> {
    let Some(directory) = log.parent() else {
        return Ok(());
    };
    std::fs::create_dir_all(directory)
        .map_err(EngineError::io(format!("making {}", directory.display())))?;
    let (inner, directory) = (Arc::clone(inner), directory.to_owned());
    undo.push(move || {
        inner
            .janitor
            .add(crate::janitor::Chore::Directory(directory))
    });
    Ok(())
}

/// The files that are mounted into a container beside its mounts.
pub(crate) fn plan_files(inner: &Inner, id: ContainerId, spec: &ContainerSpec) -> PlanFiles {
    let owner = spec
        .host
        .network_mode
        .strip_prefix("container:")
        .and_then(|other| other.parse().ok())
        .unwrap_or(id);
    let directory = inner.run_directory(owner);
    let file = |inside: &str, name: &str| {
        (
            inside.to_owned(),
            directory.join(name).to_string_lossy().into_owned(),
        )
    };
    let mut files = PlanFiles {
        etc: vec![
            file("/etc/resolv.conf", "resolv.conf"),
            file("/etc/hostname", "hostname"),
            file("/etc/hosts", "hosts"),
        ],
        extra: Vec::new(),
    };
    if is_builtin(spec) {
        let source = inner
            .run_directory(id)
            .join("hello.json")
            .to_string_lossy()
            .into_owned();
        files.extra.push((HELLO_FILE.to_owned(), source));
    }
    files
}

/// Whether this is the built-in image's program.
pub(crate) fn is_builtin(spec: &ContainerSpec) -> bool {
    spec.path == "/kekkai-hello"
}
