//! What all parts of an engine share.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use kekkai_cgroups::Layout;
use kekkai_image::{ImageService, ImageUser};
use kekkai_keeper::KeeperError;
use kekkai_keeper::client::{Answer, KeeperClient};
use kekkai_keeper::log::{LogConfig, LogContext};
use kekkai_keeper::protocol::{Request, Target};
use kekkai_metadata::Database;
use kekkai_network::NetworkService;
use kekkai_snapshot::Snapshotter;
use kekkai_types::{ContainerId, Digest};
use kekkai_volume::VolumeStore;
use tokio::sync::oneshot;

use crate::EngineError;
use crate::config::EngineConfig;
use crate::container::Container;
use crate::directory::Directory;
use crate::events::EventBus;
use crate::host::HostFacts;
use crate::janitor::Janitor;
use crate::model::{ContainerSpec, EventKind};

/// What all parts of an engine share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) facts: HostFacts,
    pub(crate) cgroups: Layout,
    pub(crate) database: Arc<Database>,
    pub(crate) snapshotter: Arc<dyn Snapshotter>,
    pub(crate) images: ImageService,
    pub(crate) volumes: VolumeStore,
    pub(crate) network: Option<NetworkService>,
    pub(crate) keeper: KeeperClient,
    pub(crate) directory: Arc<Directory>,
    pub(crate) events: EventBus,
    pub(crate) janitor: Janitor,
    pub(crate) engine_id: String,
    pub(crate) keeper_build: (String, String),
    /// Capabilities that the daemon itself may give.
    pub(crate) held_capabilities: Option<u64>,
}

impl Inner {
    /// Asks the keeper; the answer comes on its reader thread.
    pub(crate) async fn ask(
        &self,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<Answer, KeeperError> {
        let (sender, receiver) = oneshot::channel();
        self.keeper.submit(
            request,
            fds,
            Box::new(move |answer| drop(sender.send(answer))),
        );
        receiver.await.map_err(|_| KeeperError::Disconnected)?
    }

    /// Lets the keeper forget a process whose end is recorded; nobody waits for it.
    pub(crate) fn forget(&self, target: Target) {
        self.keeper.submit(
            Request::Forget { target },
            Vec::new(),
            Box::new(|answer| {
                if let Err(error) = answer {
                    tracing::debug!(%error, "forgetting an ended process");
                }
            }),
        );
    }

    /// The run-time directory of a container, on the exec root's tmpfs.
    pub(crate) fn run_directory(&self, id: ContainerId) -> PathBuf {
        self.config
            .exec_root
            .join("containers")
            .join(id.to_string())
    }

    /// The durable directory of a container: its logs.
    pub(crate) fn data_directory(&self, id: ContainerId) -> PathBuf {
        self.config
            .data_root
            .join("containers")
            .join(id.to_string())
    }

    /// The cgroup of a container, relative to each hierarchy.
    pub(crate) fn cgroup_path(&self, id: ContainerId, spec: &ContainerSpec) -> String {
        let wanted = spec.host.resources.cgroup_parent.trim_matches('/');
        let parent = if wanted.is_empty() {
            self.config.cgroup_parent.trim_matches('/')
        } else {
            wanted
        };
        format!("{parent}/{id}")
    }

    /// Where and how a container logs.
    pub(crate) fn log_config(
        &self,
        id: ContainerId,
        name: &str,
        spec: &ContainerSpec,
    ) -> Result<LogConfig, EngineError> {
        let directory = self.data_directory(id);
        let path = match spec.host.log.driver.as_str() {
            "json-file" => directory.join(format!("{id}-json.log")),
            _ => directory.join("container.log"),
        };
        let context = LogContext {
            id: id.to_string(),
            name: name.to_owned(),
            image_id: spec.image_id.to_string(),
            image_name: spec.config.image.clone(),
            labels: spec.config.labels.clone(),
            env: spec.config.env.clone(),
        };
        LogConfig::from_docker(
            &spec.host.log.driver,
            &spec.host.log.options,
            path,
            &context,
        )
        .map_err(|error| {
            let class = kekkai_types::Classify::class(&error);
            match class {
                kekkai_types::ErrorClass::InvalidArgument => {
                    EngineError::Invalid(error.to_string())
                }
                _ => EngineError::System(error.to_string()),
            }
        })
    }

    /// Tells an event about a container, with Docker's attributes.
    pub(crate) fn container_event(
        &self,
        container: &Container,
        action: &str,
        extra: &[(&str, String)],
    ) {
        let (name, spec) = {
            let shared = container.lock();
            (Arc::clone(&shared.name), Arc::clone(&shared.spec))
        };
        let mut attributes: Vec<(String, String)> = spec
            .config
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        attributes.extend(
            extra
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone())),
        );
        attributes.push(("image".to_owned(), spec.config.image.clone()));
        attributes.push(("name".to_owned(), name.to_string()));
        attributes.sort();
        self.events.publish(
            EventKind::Container,
            action,
            &container.id.to_string(),
            attributes,
        );
    }

    /// Which containers use an image.
    pub(crate) fn image_users(&self, image: &Digest) -> Vec<ImageUser> {
        self.directory
            .all()
            .into_iter()
            .filter_map(|container| {
                let shared = container.lock();
                (&shared.spec.image_id == image).then(|| ImageUser {
                    container: container.id,
                    running: shared.state_view().running(),
                    image_name: shared.spec.config.image.clone(),
                })
            })
            .collect()
    }
}
