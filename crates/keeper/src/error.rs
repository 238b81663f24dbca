//! What can go wrong between the daemon and the keeper.

use std::path::PathBuf;

use kekkai_types::{Classify, ErrorClass};

use crate::protocol::{DecodeError, Failure};

/// An error of the keeper or of the connection to it.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The keeper refused or failed the request; the failure carries Docker's words and exit code.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The connection broke and could not be renewed.
    #[error("the connection to the keeper is lost")]
    Disconnected,
    /// No keeper listens at this socket.
    #[error("cannot connect to the keeper at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The keeper's program could not be started, or did not come up.
    #[error("cannot start the keeper {}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The keeper speaks a protocol that is more than one version away.
    #[error("the running keeper speaks protocol {theirs}, this engine {ours}")]
    Version {
        /// The keeper's version.
        theirs: u16,
        /// Ours.
        ours: u16,
    },
    /// A message that makes no sense.
    #[error("bad message from the keeper")]
    Decode(#[from] DecodeError),
    /// A system call failed.
    #[error("{operation}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl KeeperError {
    /// The class of this error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Refused(failure) => failure.class,
            Self::Disconnected | Self::Connect { .. } => ErrorClass::Unavailable,
            Self::Spawn { .. } | Self::Version { .. } | Self::Decode(_) | Self::Io { .. } => {
                ErrorClass::Internal
            }
        }
    }

    /// For `map_err`: an I/O error with what was being done.
    pub(crate) fn io<E: Into<std::io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            operation,
            source: source.into(),
        }
    }
}

impl Classify for KeeperError {
    fn class(&self) -> ErrorClass {
        self.class()
    }
}
