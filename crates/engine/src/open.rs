//! Opening an engine: its parts are opened in the order in which they need each other, then everything is recovered.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};

use kekkai_image::{ImageService, ImageServiceConfig, RegistryConfig};
use kekkai_keeper::client::{KeeperClient, KeeperConfig};
use kekkai_keeper::protocol::{Event as KeeperEvent, Request, Target, Task};
use kekkai_metadata::{Change, Database, Durability, Table};
use kekkai_network::{NetworkConfig, NetworkService};
use kekkai_snapshot::{OverlayConfig, OverlaySnapshotter, Snapshotter};
use kekkai_volume::VolumeStore;

use crate::EngineError;
use crate::config::EngineConfig;
use crate::directory::Directory;
use crate::events::EventBus;
use crate::host::HostFacts;
use crate::inner::Inner;
use crate::janitor::Janitor;
use crate::owner::Command;
use crate::recover::recover;

/// The setting under which the engine's id is kept.
const ENGINE_ID: &str = "engine.id";

fn unavailable(what: &str) -> impl FnOnce(String) -> EngineError {
    let what = what.to_owned();
    move |error| EngineError::Unavailable(format!("{what}: {error}"))
}

fn make_directory(path: &Path, mode: u32) -> Result<(), EngineError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(EngineError::io(format!("making {}", path.display())))
}

/// Opens everything. Must run on a tokio runtime.
pub(crate) async fn open(config: EngineConfig) -> Result<Arc<Inner>, EngineError> {
    let inner = tokio::task::spawn_blocking(move || open_blocking(config))
        .await
        .map_err(|error| EngineError::Internal(error.to_string()))??;
    let program = inner.config.keeper_binary.clone();
    if let Err(error) = inner.images.register_builtin(&program).await {
        tracing::warn!(%error, "registering the built-in image");
    }
    Ok(inner)
}

fn open_blocking(mut config: EngineConfig) -> Result<Arc<Inner>, EngineError> {
    if config.failpoints.is_empty() {
        // Passed on to the keeper as well, whose environment is its own.
        config.failpoints = std::env::var("KEKKAI_FAILPOINTS").unwrap_or_default();
    }
    if !config.failpoints.is_empty() {
        crate::failpoint::configure(&config.failpoints);
    }
    make_directory(&config.data_root, 0o711)?;
    make_directory(&config.data_root.join("containers"), 0o710)?;
    make_directory(&config.data_root.join("trash"), 0o700)?;
    make_directory(&config.exec_root, 0o711)?;
    make_directory(&config.exec_root.join("containers"), 0o711)?;
    let database = Arc::new(Database::open(&config.data_root.join("metadata.db"))?);
    let cgroups =
        kekkai_cgroups::detect().map_err(|error| unavailable("cgroups")(error.to_string()))?;
    let overlay = OverlaySnapshotter::open(OverlayConfig {
        data_root: config.data_root.clone(),
    })
    .map_err(|error| unavailable("storage")(error.to_string()))?;
    let snapshotter: Arc<dyn Snapshotter> = Arc::new(overlay);
    let images = ImageService::open(
        ImageServiceConfig {
            data_root: config.data_root.clone(),
            registries: RegistryConfig {
                mirrors: config.registry_mirrors.clone(),
                insecure: config.insecure_registries.clone(),
                user_agent: String::new(),
            },
            max_concurrent_downloads: config.max_concurrent_downloads,
        },
        Arc::clone(&database),
        Arc::clone(&snapshotter),
    )
    .map_err(|error| unavailable("images")(error.to_string()))?;
    let volumes = VolumeStore::open(
        &config.data_root.join("volumes"),
        &config.data_root.join("trash"),
        Arc::clone(&database),
    )
    .map_err(|error| unavailable("volumes")(error.to_string()))?;
    let network = open_network(&config, &database)?;
    let engine_id = engine_id(&database)?;
    let directory = Arc::new(Directory::default());
    let owner: Arc<OnceLock<Weak<Inner>>> = Arc::default();
    let (keeper, replaced) = connect_keeper(&config, &directory, &owner)?;
    let janitor = Janitor::start(cgroups.clone()).map_err(EngineError::io("starting a thread"))?;
    let mut facts = HostFacts::probe();
    let features = cgroups.features("");
    facts.swap_limit = features.swap;
    facts.blkio_weight = features.blkio_weight;
    facts.cgroup_version = features.version;
    let keeper_build = keeper.info().build;
    let keeper_build = match keeper_build.split_once(' ') {
        Some((version, commit)) => (version.to_owned(), commit.to_owned()),
        None => (keeper_build, String::new()),
    };
    let inner = Arc::new(Inner {
        facts,
        cgroups,
        database,
        snapshotter,
        images,
        volumes,
        network,
        keeper,
        directory,
        events: EventBus::default(),
        janitor,
        engine_id,
        keeper_build,
        held_capabilities: held_capabilities(),
        config,
    });
    // Set once, here; events that came before are covered by the list that recovery asks for.
    let _ = owner.set(Arc::downgrade(&inner));
    recover(&inner, replaced)?;
    Ok(inner)
}

/// The capabilities that this process may pass on.
fn held_capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let text = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(text.trim(), 16).ok()
}

fn engine_id(database: &Database) -> Result<String, EngineError> {
    if let Some(row) = database.get(Table::Settings, ENGINE_ID)? {
        return Ok(row.document);
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| EngineError::Internal(error.to_string()))?;
    // A version 4 UUID, as dockerd's id is one.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let id = format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    );
    database.apply(
        vec![Change::put(Table::Settings, ENGINE_ID, id.clone())],
        Durability::PowerCut,
    )?;
    Ok(id)
}

fn open_network(
    config: &EngineConfig,
    database: &Database,
) -> Result<Option<NetworkService>, EngineError> {
    let bridge = &config.bridge;
    if !bridge.enabled {
        return Ok(None);
    }
    let defaults = NetworkConfig::default();
    let bip =
        match &bridge.address {
            Some(text) => Some(text.parse().map_err(
                |error: kekkai_network::ParseSubnetError| EngineError::Invalid(error.to_string()),
            )?),
            None => None,
        };
    if bridge.fixed_cidr.is_some() {
        return Err(EngineError::Unsupported("fixed-cidr".to_owned()));
    }
    let host_binding = match bridge.default_bind_ip {
        Some(std::net::IpAddr::V4(address)) => address,
        Some(std::net::IpAddr::V6(_)) => {
            return Err(EngineError::Unsupported(
                "an IPv6 address in --ip".to_owned(),
            ));
        }
        None => defaults.host_binding,
    };
    let wanted = NetworkConfig {
        bridge: bridge.name.clone(),
        bip,
        mtu: bridge.mtu.unwrap_or(defaults.mtu),
        table: bridge.table.clone(),
        inter_container: bridge.inter_container,
        masquerade: bridge.masquerade,
        ip_forward: bridge.ip_forward,
        host_binding,
        foreign_forward: bridge.coexist,
        pool: kekkai_network::PoolSize {
            min: bridge.pool_size,
            max: defaults.pool.max.max(bridge.pool_size),
        },
        ..defaults
    };
    let service = NetworkService::open(wanted, database)
        .map_err(|error| unavailable("the network")(error.to_string()))?;
    Ok(Some(service))
}

/// Connects to the keeper. The tasks are those of a keeper that was replaced: their ends may not be recorded yet.
fn connect_keeper(
    config: &EngineConfig,
    directory: &Arc<Directory>,
    owner: &Arc<OnceLock<Weak<Inner>>>,
) -> Result<(KeeperClient, Vec<Task>), EngineError> {
    let keeper = KeeperConfig {
        exec_root: config.exec_root.clone(),
        keeper_exe: config.keeper_binary.clone(),
        build: format!("{} {}", config.version, config.git_commit),
        spill_dir: config.data_root.join("trash"),
        failpoints: config.failpoints.clone(),
    };
    let (directory, owner) = (Arc::clone(directory), Arc::clone(owner));
    let handle = tokio::runtime::Handle::current();
    let events = move |event: KeeperEvent| match event {
        KeeperEvent::Exited {
            target: Target::Container(id),
            exit,
            ..
        } => {
            if let Some(container) = directory.get(id) {
                // An owner that has ended has removed its container.
                let _ = container.send(Command::Exited(exit));
            }
        }
        KeeperEvent::Exited {
            target: Target::Exec(id),
            exit,
            ..
        } => {
            if let (Some(session), Some(inner)) =
                (directory.exec(id), owner.get().and_then(Weak::upgrade))
            {
                session.exited(&inner, &exit);
            }
        }
        KeeperEvent::Resumed { generation } => {
            tracing::warn!(generation, "the keeper was restarted by its guardian")
        }
        KeeperEvent::Reconnected { fresh } => {
            tracing::warn!(fresh, "reconnected to the keeper");
            if let Some(inner) = owner.get().and_then(Weak::upgrade) {
                handle.spawn_blocking(move || crate::reconcile::reconcile(&inner));
            }
        }
    };
    let trouble = |error: kekkai_keeper::KeeperError| unavailable("the keeper")(error.to_string());
    let (build, events) = (keeper.build.clone(), Arc::new(events));
    let client = KeeperClient::connect_or_start(keeper.clone(), Arc::clone(&events) as _)
        .map_err(trouble)?;
    let tasks = client.list().map_err(trouble)?;
    if client.info().build == build || tasks.iter().any(|task| task.exit.is_none()) {
        return Ok((client, Vec::new()));
    }
    // One of another build keeps nothing that runs: its plans may be encoded otherwise, so ours takes its place.
    for task in &tasks {
        client
            .call(
                Request::Forget {
                    target: task.target,
                },
                Vec::new(),
            )
            .map_err(trouble)?;
    }
    tracing::info!(
        keeper = client.info().build,
        ours = build,
        "replacing the keeper"
    );
    match client.call(Request::Shutdown, Vec::new()) {
        Ok(_) | Err(kekkai_keeper::KeeperError::Disconnected) => {}
        Err(error) => return Err(trouble(error)),
    }
    drop(client);
    Ok((
        KeeperClient::connect_or_start(keeper, events as _).map_err(trouble)?,
        tasks,
    ))
}
