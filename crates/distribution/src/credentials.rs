//! Who one is to a registry. Secrets hide themselves from logs.

use std::fmt;

/// Text that no log may show.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "Secret(none)"
        } else {
            "Secret(…)"
        })
    }
}

/// What the client sent in `X-Registry-Auth` (or `POST /auth`). Empty fields are absent ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name for basic authentication and token requests.
    pub username: String,
    /// The password.
    pub password: Secret,
    /// OAuth2 refresh token that a login gave.
    pub identity_token: Secret,
    /// A bearer token to be sent as it is.
    pub registry_token: Secret,
    /// The registry they are for, as the client named it (`https://index.docker.io/v1/`, `localhost:5000`).
    pub server_address: String,
}

impl Credentials {
    /// Whether there is nothing in them.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.username.is_empty() && self.identity_token.is_empty() && self.registry_token.is_empty()
    }
}

/// What `POST /auth` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginOutcome {
    /// `Login Succeeded`.
    pub status: String,
    /// A token to keep instead of the password, or empty.
    pub identity_token: Secret,
}
