//! One request: method, path, parameters, headers, version, body.

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, Method, Request};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use kekkai_types::ErrorClass;
use serde_json::Value;

use crate::http::{ApiError, ApiVersion, Fields, JSON_BODY_LIMIT, MAXIMUM, Query, percent_decode};

/// One request.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// The path without the version, decoded and split at slashes; no empty parts.
    pub(crate) path: Vec<String>,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// The version that the path names, not checked yet.
    pub(crate) version: ApiVersion,
    body: Option<Incoming>,
}

impl Call {
    pub(crate) fn new(request: Request<Incoming>) -> Self {
        let (parts, body) = request.into_parts();
        let decoded = percent_decode(parts.uri.path(), false);
        let mut path: Vec<String> = decoded
            .split('/')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        let mut version = MAXIMUM;
        if let Some(named) = path
            .first()
            .and_then(|first| ApiVersion::from_segment(first))
        {
            version = named;
            path.remove(0);
        }
        Self {
            method: parts.method,
            path,
            query: Query::parse(parts.uri.query().unwrap_or("")),
            headers: parts.headers,
            version,
            body: Some(body),
        }
    }

    /// A header as text; empty when it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }

    /// The body, for routes that stream it; taken once.
    pub(crate) fn take_body(&mut self) -> Option<Incoming> {
        self.body.take()
    }

    /// Whether the client announced a body that is not empty.
    pub(crate) fn has_body(&self) -> bool {
        self.body
            .as_ref()
            .is_some_and(|body| !hyper::body::Body::is_end_stream(body))
    }

    /// The whole body, bounded.
    pub(crate) async fn bytes(&mut self) -> Result<Bytes, ApiError> {
        let Some(body) = self.body.take() else {
            return Ok(Bytes::new());
        };
        match Limited::new(body, JSON_BODY_LIMIT).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(ApiError::invalid(format!(
                "request body is larger than {JSON_BODY_LIMIT} bytes"
            ))),
            Err(error) => Err(ApiError::new(
                ErrorClass::InvalidArgument,
                format!("reading the request body: {error}"),
            )),
        }
    }

    /// The content type must be JSON where there is a body.
    fn check_content_type(&self) -> Result<(), ApiError> {
        let content_type = self.header(CONTENT_TYPE.as_str());
        if content_type.is_empty() && !self.has_body() {
            return Ok(());
        }
        let media_type = content_type.split(';').next().unwrap_or("").trim();
        if media_type.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        Err(ApiError::invalid(format!(
            "unsupported Content-Type header ({content_type}): must be 'application/json'"
        )))
    }

    /// The body as a JSON object; an absent body is an empty object.
    pub(crate) async fn object(&mut self) -> Result<Fields, ApiError> {
        self.check_content_type()?;
        if !self.has_body() {
            return Ok(Fields::empty());
        }
        self.required_object().await
    }

    /// The body as a JSON object; an absent body is an error.
    pub(crate) async fn required_object(&mut self) -> Result<Fields, ApiError> {
        self.check_content_type()?;
        let bytes = self.bytes().await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(ApiError::invalid(
                "invalid JSON: got EOF while reading request body",
            ));
        }
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        let value = <Value as serde::Deserialize>::deserialize(&mut reader)
            .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
        reader
            .end()
            .map_err(|_| ApiError::invalid("unexpected content after JSON"))?;
        Fields::from_value("", value).map(Option::unwrap_or_default)
    }
}
