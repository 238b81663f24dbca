//! What is stored of a container: one JSON document per row of `containers`.
//!
//! `version` grows when an older reader would misunderstand the document; fields that are added have a default.

use kekkai_network::EndpointRecord;
use kekkai_types::{DiffId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::{ContainerSpec, ExitReason};

/// The version written here.
pub(crate) const VERSION: u32 = 1;

/// A container as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRow<Spec = ContainerSpec> {
    pub(crate) version: u32,
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    /// The image's layers, lowest first: the image itself may go before the container does.
    pub(crate) layers: Vec<DiffId>,
    pub(crate) spec: Spec,
    pub(crate) state: StoredState,
}

/// The part that changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredState {
    pub(crate) phase: Phase,
    #[serde(default)]
    pub(crate) pid: u32,
    #[serde(default)]
    pub(crate) started_at: Option<Timestamp>,
    #[serde(default)]
    pub(crate) finished_at: Option<Timestamp>,
    #[serde(default)]
    pub(crate) exit_code: i32,
    #[serde(default)]
    pub(crate) reason: Option<ExitReason>,
    #[serde(default)]
    pub(crate) error: String,
    #[serde(default)]
    pub(crate) oom_killed: bool,
    #[serde(default)]
    pub(crate) restart_count: u32,
    /// Somebody stopped it: `unless-stopped` leaves it so.
    #[serde(default)]
    pub(crate) asked_to_stop: bool,
    #[serde(default)]
    pub(crate) endpoint: Option<EndpointRecord>,
}

impl StoredState {
    /// That of a container that is being made.
    pub(crate) fn creating() -> Self {
        Self {
            phase: Phase::Creating,
            pid: 0,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            reason: None,
            error: String::new(),
            oom_killed: false,
            restart_count: 0,
            asked_to_stop: false,
            endpoint: None,
        }
    }
}

/// Where it was when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Half made: whatever it has is taken away by the next daemon.
    Creating,
    Created,
    Starting,
    Running,
    Paused,
    Restarting,
    Exited,
    Removing,
    Dead,
}
