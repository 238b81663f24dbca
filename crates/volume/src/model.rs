//! A volume, what is asked to make one, and the filters of lists.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kekkai_metadata::Durability;
use kekkai_types::{ContainerId, Timestamp, VolumeName};

/// The label that marks a volume nobody named; its value is empty. Docker's, because clients filter on it.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// What is asked to make a volume.
#[derive(Clone, Debug)]
pub struct CreateVolume {
    /// Its name; `None` makes one up and marks the volume as anonymous when `anonymous` is set.
    pub name: Option<VolumeName>,
    /// Whether nobody named it: a container's `-v /path` or its image's `VOLUME`.
    pub anonymous: bool,
    /// The driver; empty means `local`, the only one.
    pub driver: String,
    /// The driver's options: `type`, `device`, `o`.
    pub options: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What its creation must survive: `PowerCut`, except for an anonymous volume of a `--rm` container.
    pub durability: Durability,
}

impl CreateVolume {
    /// A plain volume of this name, as `-v name:/path` makes it.
    #[must_use]
    pub fn named(name: VolumeName) -> CreateVolume {
        CreateVolume {
            name: Some(name),
            anonymous: false,
            driver: String::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            durability: Durability::PowerCut,
        }
    }

    /// A volume nobody named.
    #[must_use]
    pub fn anonymous(durability: Durability) -> CreateVolume {
        CreateVolume {
            name: None,
            anonymous: true,
            driver: String::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            durability,
        }
    }
}

/// A volume as it is listed and inspected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// Its driver, `local`.
    pub driver: String,
    /// The directory that containers see.
    pub mountpoint: PathBuf,
    /// When it was made.
    pub created: Timestamp,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The containers that have it, running or not.
    pub containers: Vec<ContainerId>,
}

impl Volume {
    /// Whether nobody named it.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS_LABEL)
    }
}

/// Which volumes are listed. Values of one kind are alternatives, except labels, which must all fit.
#[derive(Clone, Debug, Default)]
pub struct VolumeFilter {
    /// Part of the name.
    pub names: Vec<String>,
    /// The whole name of the driver.
    pub drivers: Vec<String>,
    /// A label, and its value when one is given.
    pub labels: Vec<(String, Option<String>)>,
    /// A label that must not be there, or not with this value.
    pub without_labels: Vec<(String, Option<String>)>,
    /// Whether no container has it.
    pub dangling: Option<bool>,
}

fn has_label(labels: &BTreeMap<String, String>, wanted: &(String, Option<String>)) -> bool {
    labels
        .get(&wanted.0)
        .is_some_and(|value| wanted.1.as_ref().is_none_or(|v| v == value))
}

impl VolumeFilter {
    /// Whether the volume is wanted.
    #[must_use]
    pub fn matches(&self, volume: &Volume) -> bool {
        (self.names.is_empty()
            || self
                .names
                .iter()
                .any(|part| volume.name.as_str().contains(part.as_str())))
            && (self.drivers.is_empty() || self.drivers.contains(&volume.driver))
            && self
                .labels
                .iter()
                .all(|label| has_label(&volume.labels, label))
            && !self
                .without_labels
                .iter()
                .any(|label| has_label(&volume.labels, label))
            && self
                .dangling
                .is_none_or(|dangling| dangling == volume.containers.is_empty())
    }
}

/// Which unused volumes `prune` removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneScope {
    /// Those nobody named.
    Anonymous,
    /// All of them.
    All,
}

/// What `prune` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// The volumes it removed.
    pub deleted: Vec<VolumeName>,
    /// The bytes they took.
    pub reclaimed: u64,
}

/// A volume's row. `version` lets a later Kekkai tell what it reads.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Document {
    pub(crate) version: u32,
    pub(crate) driver: String,
    pub(crate) created: Timestamp,
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// The container that an anonymous volume was made for. Taken away when that container lets go of it, so that what is
    /// left with a container that never came to be can be told from what a removed one has left on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made_for: Option<ContainerId>,
}
