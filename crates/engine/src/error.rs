//! What can go wrong in the engine, in dockerd's words where tools match on them.
//!
//! The class decides the HTTP status; the text is what the user reads.

use kekkai_types::{ContainerId, ErrorClass};

/// An engine operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No container has this name, id or unique prefix.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// The prefix fits several containers.
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousId(String),
    /// No exec session has this id.
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    /// No network has this name or id.
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    /// The name is taken.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The name, without slash.
        name: String,
        /// Who has it.
        holder: ContainerId,
    },
    /// The request is wrong in itself; dockerd's words.
    #[error("{0}")]
    Invalid(String),
    /// An option that this engine does not have yet; never silently ignored.
    #[error("{0} is not supported by this version of kekkai")]
    Unsupported(String),
    /// The request is wrong and dockerd answers 500 all the same; its words.
    #[error("{0}")]
    System(String),
    /// The container's state forbids it; dockerd's words.
    #[error("{0}")]
    Conflict(String),
    /// It may not be done; dockerd's words.
    #[error("{0}")]
    Forbidden(String),
    /// It is as wanted already (already started, already stopped).
    #[error("container is already in the wanted state")]
    NotModified,
    /// Something named in the request does not exist; dockerd's words.
    #[error("{0}")]
    NotFound(String),
    /// The process could not be started; the container is `Exited` with `code`.
    #[error("{message}")]
    StartFailed {
        /// Stage and reason, as runc words it.
        message: String,
        /// 125 the engine, 126 not executable, 127 not found.
        code: i32,
        /// 400 for what the user's command did wrong, 500 otherwise.
        class: ErrorClass,
    },
    /// Reading or writing one of the engine's files.
    #[error("{action}: {source}")]
    Io {
        /// What was done to which path.
        action: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Metadata(#[from] kekkai_metadata::MetadataError),
    /// The engine is on its way out, or lost a part of itself.
    #[error("{0}")]
    Unavailable(String),
    /// A fail point of the crash suite.
    #[error("fail point {0}")]
    FailPoint(&'static str),
    /// A defect of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

impl EngineError {
    /// What kind of failure this is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoSuchContainer(_)
            | Self::NoSuchExec(_)
            | Self::NoSuchNetwork(_)
            | Self::NotFound(_) => ErrorClass::NotFound,
            Self::AmbiguousId(_) | Self::Invalid(_) | Self::Unsupported(_) => {
                ErrorClass::InvalidArgument
            }
            Self::NameInUse { .. } | Self::Conflict(_) => ErrorClass::Conflict,
            Self::NotModified => ErrorClass::NotModified,
            Self::Forbidden(_) => ErrorClass::Forbidden,
            Self::StartFailed { class, .. } => *class,
            Self::Metadata(error) => error.class(),
            Self::Unavailable(_) => ErrorClass::Unavailable,
            Self::System(_) | Self::Io { .. } | Self::FailPoint(_) | Self::Internal(_) => {
                ErrorClass::Internal
            }
        }
    }

    /// An I/O failure with what was being done.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
