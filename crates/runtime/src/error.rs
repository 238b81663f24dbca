//! Errors of planning and launching. A [`LaunchError`] crosses process boundaries (child → launcher → keeper →
//! engine), so it is plain data that serialises.
//!
//! What must stay true: `message` is worded as runc words the same failure, because Docker's clients and scripts match
//! on those words; `kind` alone decides the exit code.

use kekkai_types::{Classify, ErrorClass};
use serde::{Deserialize, Serialize};

/// Why a `Spec` cannot be planned. All are the caller's fault except [`PlanError::Encoding`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A part of the specification that must be there is not.
    #[error("the specification has no {0}")]
    Missing(&'static str),
    /// A value that cannot be used; `subject` names the field or the value.
    #[error("invalid {field} {subject:?}: {reason}")]
    Invalid {
        /// The field of the specification, in OCI's words.
        field: &'static str,
        /// The offending value.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A field that this runtime does not implement. Nothing is silently ignored.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A plan could not be encoded or decoded.
    #[error("the plan cannot be encoded")]
    Encoding(#[source] postcard::Error),
    /// A plan made by another version of this program.
    #[error("the plan has version {found}, this program reads {expected}")]
    Version {
        /// What the bytes say.
        found: u16,
        /// What this program writes.
        expected: u16,
    },
}

impl PlanError {
    /// The class that decides the HTTP status and the exit code.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Missing(_) | Self::Invalid { .. } => ErrorClass::InvalidArgument,
            Self::Unsupported(_) => ErrorClass::NotImplemented,
            Self::Encoding(_) | Self::Version { .. } => ErrorClass::Internal,
        }
    }
}

impl Classify for PlanError {
    fn class(&self) -> ErrorClass {
        PlanError::class(self)
    }
}

/// The step of a launch that failed, in the order in which they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "the names are the documentation: each is one step of the launch"
)]
pub enum Stage {
    Prepare,
    User,
    Cgroup,
    Rootfs,
    Source,
    Terminal,
    Clone,
    Namespace,
    Keyring,
    Propagation,
    PivotRoot,
    Mount,
    Device,
    Mask,
    Hostname,
    Sysctl,
    Stdio,
    Limits,
    OomScore,
    SecurityLabel,
    Seccomp,
    Identity,
    Capabilities,
    WorkingDirectory,
    FindProgram,
    Execute,
    Protocol,
}

/// What kind of failure it was, as far as exit codes are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureKind {
    /// The program does not exist: 127.
    NotFound,
    /// The program exists and cannot be executed: 126.
    NotExecutable,
    /// The request itself is wrong (unknown user, bad mount source, sysctl refused): 125, HTTP 400.
    InvalidRequest,
    /// Everything else: 125, HTTP 500.
    Other,
}

/// Why a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct LaunchError {
    /// The step that failed.
    pub stage: Stage,
    /// `errno` of the failed system call; 0 when the failure is not one.
    pub errno: i32,
    /// What the step was about: a path, a user, a key.
    pub subject: String,
    /// The kind, which decides the exit code.
    pub kind: FailureKind,
    /// The sentence as runc words it, starting with `unable to start container process: ` for steps inside the
    /// container. The engine puts Docker's `failed to create task for container: …` in front.
    pub message: String,
}

impl LaunchError {
    /// The exit code that `docker run` gives for this failure: 125, 126 or 127.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            FailureKind::NotFound => 127,
            FailureKind::NotExecutable => 126,
            FailureKind::InvalidRequest | FailureKind::Other => 125,
        }
    }

    /// The class that decides the HTTP status: dockerd answers 400 where the user's command or mount is at fault.
    pub fn class(&self) -> ErrorClass {
        match self.kind {
            FailureKind::NotFound | FailureKind::NotExecutable | FailureKind::InvalidRequest => {
                ErrorClass::InvalidArgument
            }
            FailureKind::Other => ErrorClass::Internal,
        }
    }
}

impl Classify for LaunchError {
    fn class(&self) -> ErrorClass {
        LaunchError::class(self)
    }
}
