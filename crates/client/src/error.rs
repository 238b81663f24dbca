//! What can go wrong between us and a daemon.

use kekkai_types::ErrorClass;

/// An error of the Engine API client. The words are the ones people and tools know from Docker's command line.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the endpoint.
    #[error("Cannot connect to the Kekkai daemon at {host}. Is the kekkai daemon running?")]
    NotRunning {
        /// The endpoint as a URL.
        host: String,
    },
    /// The socket is there and we may not open it.
    #[error(
        "permission denied while trying to connect to the Kekkai daemon socket at {host}: be root or a member of the group \"{group}\""
    )]
    PermissionDenied {
        /// The endpoint as a URL.
        host: String,
        /// The group that owns the socket.
        group: String,
    },
    /// The connection failed for another reason.
    #[error("error during connect: {host}: {source}")]
    Connect {
        /// The endpoint as a URL.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// The daemon answered with an error.
    #[error("Error response from daemon: {message}")]
    Daemon {
        /// HTTP status.
        status: u16,
        /// The daemon's words.
        message: String,
    },
    /// The HTTP conversation broke.
    #[error("error during connect: {0}")]
    Http(#[from] hyper::Error),
    /// The request could not be formed.
    #[error("invalid request: {0}")]
    Request(#[from] http::Error),
    /// The answer was not what the API promises.
    #[error("unexpected answer from the daemon: {0}")]
    Json(#[from] serde_json::Error),
    /// A stream broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A host, context, certificate or configuration file is wrong.
    #[error("{0}")]
    Configuration(String),
    /// An answer exceeds what we are ready to hold in memory.
    #[error("the daemon's answer is longer than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
}

impl ClientError {
    /// The class, from the HTTP status where there is one.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotRunning { .. } | Self::Connect { .. } | Self::Http(_) | Self::Io(_) => {
                ErrorClass::Unavailable
            }
            Self::PermissionDenied { .. } => ErrorClass::Forbidden,
            Self::Request(_) | Self::Configuration(_) => ErrorClass::InvalidArgument,
            Self::Json(_) | Self::TooLong { .. } => ErrorClass::Internal,
            Self::Daemon { status, .. } => match status {
                400 => ErrorClass::InvalidArgument,
                401 => ErrorClass::Unauthorized,
                403 => ErrorClass::Forbidden,
                404 => ErrorClass::NotFound,
                409 => ErrorClass::Conflict,
                304 => ErrorClass::NotModified,
                501 => ErrorClass::NotImplemented,
                503 => ErrorClass::Unavailable,
                _ => ErrorClass::Internal,
            },
        }
    }

    /// The daemon's status, if it answered at all.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Daemon { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the daemon said that something does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}
