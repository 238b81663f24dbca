//! The one error that routes return, and the one place where a class becomes a status.

use ::http::StatusCode;
use kekkai_types::ErrorClass;

/// What a client is told when its request fails.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    /// What kind of failure, which alone chooses the status.
    pub(crate) class: ErrorClass,
    /// dockerd's words where tools match on them.
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::InvalidArgument, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Internal, message)
    }

    /// A path that no route has.
    pub(crate) fn page_not_found() -> Self {
        Self::new(ErrorClass::NotFound, "page not found")
    }

    /// A part of the API that this engine does not have, by its name.
    pub(crate) fn not_implemented(what: &str) -> Self {
        Self::new(
            ErrorClass::NotImplemented,
            format!("{what} is not supported by Kekkai yet"),
        )
    }

    /// A field or parameter that is set to something other than its default and is not done.
    pub(crate) fn unsupported_field(name: &str) -> Self {
        Self::invalid(format!(
            "{name} is not supported by Kekkai yet; leave it at its default"
        ))
    }
}

/// The HTTP status of an error class.
pub(crate) fn status_of(class: ErrorClass) -> StatusCode {
    StatusCode::from_u16(class.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl From<kekkai_engine::EngineError> for ApiError {
    fn from(error: kekkai_engine::EngineError) -> Self {
        Self::new(error.class(), with_sources(&error))
    }
}

impl From<kekkai_image::ImageError> for ApiError {
    fn from(error: kekkai_image::ImageError) -> Self {
        Self::new(kekkai_types::Classify::class(&error), with_sources(&error))
    }
}

/// An error's words with those of its causes, each said once.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = source.source();
    }
    text
}
