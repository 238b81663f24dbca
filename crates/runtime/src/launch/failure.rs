//! Failures on their way from the child to the caller, and their wording.
//!
//! In the child a [`Failure`] is a stage, an errno and a subject. It becomes a [`LaunchError`] in the launcher, worded
//! as runc and Docker word it, with the kind that dockerd derives from the words.

use kekkai_sys::Errno;
use serde::{Deserialize, Serialize};

use crate::{FailureKind, LaunchError, Stage};

/// What the child reports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) errno: i32,
    pub(crate) subject: String,
    /// The sentence, where the stage alone does not make it.
    pub(crate) detail: Option<String>,
}

impl Failure {
    pub(crate) fn new(stage: Stage, errno: Errno, subject: impl Into<String>) -> Self {
        Self {
            stage,
            errno: errno.raw_os_error(),
            subject: subject.into(),
            detail: None,
        }
    }

    pub(crate) fn worded(
        stage: Stage,
        errno: Errno,
        subject: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            stage,
            errno: errno.raw_os_error(),
            subject: subject.into(),
            detail: Some(detail.into()),
        }
    }
}

/// Adds the stage and the subject to an errno.
pub(crate) trait At<T> {
    fn at(self, stage: Stage, subject: impl Into<String>) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, stage: Stage, subject: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(stage, errno, subject))
    }
}

/// The C library's words for an errno, in lower case as Go prints them.
pub(crate) fn words(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    // EACCES → "permission denied", but "I/O" keeps its capitals.
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            format!(
                "{}{}",
                first.to_lowercase(),
                text.get(first.len_utf8()..).unwrap_or_default()
            )
        }
        _ => text.to_owned(),
    }
}

/// Whether a container or an exec session was to be started: runc words them differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Container,
    Exec,
}

pub(crate) fn launch_error(what: What, failure: Failure) -> LaunchError {
    let Failure {
        stage,
        errno,
        subject,
        detail,
    } = failure;
    let reason = words(errno);
    let sentence = detail.unwrap_or_else(|| match stage {
        Stage::Cgroup => format!("unable to apply cgroup configuration: {subject}: {reason}"),
        Stage::Rootfs => format!("error mounting the root file system {subject}: {reason}"),
        Stage::Source => format!("error mounting {subject:?}: {reason}"),
        Stage::Mount => format!("error mounting {subject}: {reason}"),
        Stage::PivotRoot => {
            format!("error jailing process inside rootfs: pivot_root {subject}: {reason}")
        }
        Stage::Device => format!("error creating device nodes: {subject}: {reason}"),
        Stage::Mask => format!("can't mask path {subject:?}: {reason}"),
        Stage::Hostname => format!("sethostname {subject}: {reason}"),
        Stage::Sysctl => format!("open sysctl {subject} file: {reason}"),
        Stage::Limits => format!(
            "error setting rlimits for ready process: error setting rlimit type {subject}: {reason}"
        ),
        Stage::OomScore => format!("failed to set oom_score_adj {subject}: {reason}"),
        Stage::SecurityLabel => format!("unable to apply apparmor profile {subject:?}: {reason}"),
        Stage::Seccomp => format!("error loading seccomp filter into kernel: {reason}"),
        Stage::Capabilities => format!("unable to apply caps: {subject}: {reason}"),
        Stage::WorkingDirectory => {
            format!("chdir to cwd ({subject:?}) set in config.json failed: {reason}")
        }
        Stage::Terminal => format!("setting up the terminal: {subject}: {reason}"),
        Stage::Namespace => format!("unable to join namespace {subject}: {reason}"),
        Stage::Clone => format!("unable to start the init process: clone {subject}: {reason}"),
        _ => format!("{subject}: {reason}"),
    });
    let kind = kind(stage, errno);
    let message = match (stage, what) {
        // dockerd finds these before it asks for a task, so it does not say more.
        (Stage::User, _) => sentence,
        (_, What::Container) if stage >= Stage::Namespace => {
            format!("unable to start container process: error during container init: {sentence}")
        }
        _ => format!("unable to start container process: {sentence}"),
    };
    LaunchError {
        stage,
        errno,
        subject,
        kind,
        message,
    }
}

/// dockerd looks for words; the stage and the errno say the same.
fn kind(stage: Stage, errno: i32) -> FailureKind {
    let inside = matches!(
        stage,
        Stage::FindProgram
            | Stage::Execute
            | Stage::WorkingDirectory
            | Stage::Sysctl
            | Stage::Mount
            | Stage::Device
            | Stage::Source
    );
    match Errno::from_raw_os_error(errno.max(1)) {
        _ if stage == Stage::User => FailureKind::InvalidRequest,
        Errno::NOENT | Errno::NOTDIR if stage == Stage::FindProgram => FailureKind::NotFound,
        Errno::NOENT if inside => FailureKind::NotFound,
        Errno::ACCESS | Errno::ISDIR if inside => FailureKind::NotExecutable,
        _ if inside || matches!(stage, Stage::Limits | Stage::Cgroup) => {
            FailureKind::InvalidRequest
        }
        _ => FailureKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_docker() {
        let failure = Failure::worded(
            Stage::FindProgram,
            Errno::NOENT,
            "x",
            "exec: \"x\": executable file not found in $PATH",
        );
        let error = launch_error(What::Container, failure);
        assert_eq!(
            error.message,
            "unable to start container process: error during container init: exec: \"x\": executable file not found in $PATH"
        );
        assert_eq!(error.exit_code(), 127);
        assert_eq!(words(13), "permission denied");
        assert_eq!(words(5), "input/output error");
    }
}
