//! What a route answers: a response, or a takeover of the whole connection.

use std::fmt;
use std::pin::Pin;

use ::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use ::http::{Response, StatusCode};
use bytes::Bytes;
use serde::Serialize;

use crate::http::{ApiError, Body, status_of};
use crate::server::Connection;

/// A route's answer.
#[derive(Debug)]
pub(crate) enum Reply {
    /// An ordinary response.
    Response(Response<Body>),
    /// The route writes and reads the connection itself from here on, its own response head included.
    Hijack(Hijack),
}

/// A connection that has been taken over.
pub(crate) struct Hijacked {
    /// The connection; nothing has been answered to the current request.
    pub(crate) connection: Connection,
    /// What the client sent after its request and we have read already.
    pub(crate) early: Bytes,
}

type Taker = Box<dyn FnOnce(Hijacked) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What to do with a connection that is taken over.
pub(crate) struct Hijack(Taker);

impl Hijack {
    pub(crate) async fn run(self, hijacked: Hijacked) {
        (self.0)(hijacked).await;
    }
}

impl fmt::Debug for Hijack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hijack")
    }
}

impl Reply {
    /// Takes the connection over.
    pub(crate) fn hijack<F, T>(taker: F) -> Self
    where
        F: FnOnce(Hijacked) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        Self::Hijack(Hijack(Box::new(move |hijacked| Box::pin(taker(hijacked)))))
    }

    fn with(status: StatusCode, content_type: Option<&'static str>, body: Body) -> Self {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        if let Some(content_type) = content_type {
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        Self::Response(response)
    }

    /// A value as JSON with a newline after it, as Go's encoder writes it.
    pub(crate) fn json_with(status: StatusCode, value: &impl Serialize) -> Result<Self, ApiError> {
        Ok(Self::with(
            status,
            Some("application/json"),
            Body::full(json_line(value)?),
        ))
    }

    /// A value as JSON with status 200.
    pub(crate) fn json(value: &impl Serialize) -> Result<Self, ApiError> {
        Self::json_with(StatusCode::OK, value)
    }

    /// No content (204).
    pub(crate) fn no_content() -> Self {
        Self::with(StatusCode::NO_CONTENT, None, Body::empty())
    }

    /// A bare status.
    pub(crate) fn status(status: StatusCode) -> Self {
        Self::with(status, None, Body::empty())
    }

    /// A body of some content type with status 200.
    pub(crate) fn body(content_type: &'static str, body: Body) -> Self {
        Self::with(StatusCode::OK, Some(content_type), body)
    }

    /// Plain text.
    pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self::with(status, Some("text/plain; charset=utf-8"), Body::full(text))
    }

    /// The answer to a failed request.
    pub(crate) fn error(error: &ApiError) -> Self {
        #[derive(Serialize)]
        struct Message<'a> {
            message: &'a str,
        }
        let status = status_of(error.class);
        if status == StatusCode::NOT_MODIFIED {
            return Self::status(status);
        }
        let body = json_line(&Message {
            message: &error.message,
        })
        .unwrap_or_default();
        Self::with(status, Some("application/json"), Body::full(body))
    }

    /// The same reply with a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Self::Response(response) = &mut self {
            response.headers_mut().insert(name, value);
        }
        self
    }
}

/// `value` as JSON with a newline.
pub(crate) fn json_line(value: &impl Serialize) -> Result<Bytes, ApiError> {
    let mut bytes = serde_json::to_vec(value)
        .map_err(|error| ApiError::internal(format!("encoding an answer: {error}")))?;
    bytes.push(b'\n');
    Ok(bytes.into())
}
