//! What happened, as `docker events` tells it.

use std::sync::Arc;

use kekkai_types::Timestamp;

use super::Filters;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What kind of thing it happened to.
    pub kind: EventKind,
    /// What happened: `create`, `die`, `exec_create: sh -c true` …
    pub action: Arc<str>,
    /// Id of the thing (name, for volumes and images).
    pub actor: Arc<str>,
    /// Docker's attributes.
    pub attributes: Arc<[(String, String)]>,
    /// When.
    pub time: Timestamp,
}

/// What kind of thing an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A volume.
    Volume,
    /// A network.
    Network,
    /// The daemon itself.
    Daemon,
}

impl EventKind {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Daemon => "daemon",
        }
    }
}

/// Which events to give.
#[derive(Debug, Clone, Default)]
pub struct EventsRequest {
    /// From here on; only new ones when absent.
    pub since: Option<Timestamp>,
    /// Until here; for ever when absent.
    pub until: Option<Timestamp>,
    /// Conditions: `container image volume network daemon type event label scope`.
    pub filters: Filters,
}
