//! How a command ends badly: words for standard error, and an exit status.

use kekkai_client::ClientError;

/// An error that ends a command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What to print; `None` when everything has been said.
    pub(crate) message: Option<String>,
    /// The exit status.
    pub(crate) code: u8,
}

/// The exit status of a usage error, and of `run` when the engine refused.
pub(crate) const ENGINE_FAILED: u8 = 125;

impl Failure {
    /// An ordinary error: exit status 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: Some(message.into()),
            code: 1,
        }
    }

    /// Nothing more to say.
    pub(crate) fn silent(code: u8) -> Self {
        Self {
            message: None,
            code,
        }
    }

    /// The same words under another exit status.
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// The words, or nothing.
    pub(crate) fn text(&self) -> &str {
        self.message.as_deref().unwrap_or("")
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // As if SIGPIPE had ended us.
            return Self::silent(141);
        }
        Self::new(error.to_string())
    }
}

/// Several messages of one command, each on its line.
pub(crate) fn join(messages: &[String]) -> Result<u8, Failure> {
    if messages.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(messages.join("\n")))
    }
}
