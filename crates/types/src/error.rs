//! Error classes: what an error means to a caller, whatever its text.
//!
//! Statuses of the API and exit codes are derived from the class in one place each, never from a message.

use std::fmt;

/// What kind of failure an error is, in the terms of Docker's Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ErrorClass {
    /// The request is wrong in itself (400).
    InvalidArgument,
    /// Credentials are missing or wrong (401).
    Unauthorized,
    /// The caller may not do this (403).
    Forbidden,
    /// The named object does not exist (404).
    NotFound,
    /// The object's state forbids the operation (409).
    Conflict,
    /// The object is in the wanted state already (304).
    NotModified,
    /// The operation is not done by this engine (501).
    NotImplemented,
    /// The engine cannot do it now; later it may (503).
    Unavailable,
    /// Something failed that the caller could not have avoided (500).
    Internal,
}

impl ErrorClass {
    /// The HTTP status that Docker's Engine API uses for this class.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::NotModified => 304,
            Self::InvalidArgument => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::Unavailable => 503,
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidArgument => "invalid argument",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::NotModified => "not modified",
            Self::NotImplemented => "not implemented",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal error",
        })
    }
}

/// Errors that know their class.
pub trait Classify {
    /// The class of this error.
    fn class(&self) -> ErrorClass;
}
