//! Requests, answers, and the client that keeps connections alive between them.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Body, ClientError, Endpoint, Hijacked, Transport, connection, empty_body, full_body};

/// The API version we speak first.
pub const API_VERSION: (u32, u32) = (1, 51);
/// The oldest version worth trying.
const OLDEST_VERSION: (u32, u32) = (1, 24);
/// The longest answer that is read into memory, in bytes.
const MAX_ANSWER: usize = 512 << 20;
/// The longest error answer, in bytes.
const MAX_ERROR: usize = 1 << 20;

/// Query parameters, escaped as they are added.
#[derive(Debug, Clone, Default)]
pub struct Query(String);

impl Query {
    /// No parameters.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        escape(name, &mut self.0);
        self.0.push('=');
        escape(value.as_ref(), &mut self.0);
        self
    }

    /// Adds one parameter, unless its value is empty.
    #[must_use]
    pub fn with_text(self, name: &str, value: &str) -> Self {
        if value.is_empty() {
            self
        } else {
            self.with(name, value)
        }
    }

    /// Adds `name=1` if `on`.
    #[must_use]
    pub fn with_flag(self, name: &str, on: bool) -> Self {
        if on { self.with(name, "1") } else { self }
    }
}

/// Percent-encodes for a query value or one path segment.
fn escape(text: &str, output: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            output.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(output, "%{byte:02X}");
        }
    }
}

/// One request, built up before it is sent.
#[derive(Debug)]
pub struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: RequestBody,
}

#[derive(Debug)]
enum RequestBody {
    Bytes(Bytes),
    Stream(Body),
}

impl Request {
    /// A request for `path`, which starts with a slash and has no version in it.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: RequestBody::Bytes(Bytes::new()),
        }
    }

    /// `GET path`.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// `POST path`.
    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// `DELETE path`.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// Appends `name`, escaped as one path segment, and then `rest` as it is.
    #[must_use]
    pub fn segment(mut self, name: &str, rest: &str) -> Self {
        escape(name, &mut self.path);
        self.path.push_str(rest);
        self
    }

    /// Appends an image name: slashes, colons and at signs stay.
    #[must_use]
    pub fn image(mut self, name: &str, rest: &str) -> Self {
        for (index, part) in name.split('/').enumerate() {
            if index > 0 {
                self.path.push('/');
            }
            for (index, part) in part.split_inclusive([':', '@']).enumerate() {
                let _ = index;
                let (text, end) = match part.char_indices().next_back() {
                    Some((at, last @ (':' | '@'))) => (&part[..at], Some(last)),
                    _ => (part, None),
                };
                escape(text, &mut self.path);
                self.path.extend(end);
            }
        }
        self.path.push_str(rest);
        self
    }

    /// Sets the query.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a query is built for one request"
    )]
    pub fn query(mut self, query: Query) -> Self {
        self.path.push_str(&query.0);
        self
    }

    /// Adds a header; one that cannot be written is left out.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Sends `value` as JSON.
    ///
    /// # Errors
    /// The value cannot be serialised.
    pub fn json(mut self, value: &impl Serialize) -> Result<Self, ClientError> {
        self.body = RequestBody::Bytes(serde_json::to_vec(value)?.into());
        self.headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        Ok(self)
    }

    /// Sends a stream.
    #[must_use]
    pub fn stream(mut self, content_type: &'static str, body: Body) -> Self {
        self.body = RequestBody::Stream(body);
        self.headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        self
    }
}

/// The client: an endpoint, the version agreed on, idle connections. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    version: Cell<(u32, u32)>,
    user_agent: HeaderValue,
    extra: Vec<(HeaderName, HeaderValue)>,
    idle: RefCell<Vec<SendRequest<Body>>>,
    /// The daemon's `Kekkai-Build` header, once any answer has been seen.
    build: RefCell<Option<String>>,
}

impl Client {
    /// A client of the daemon at `endpoint`; nothing is opened yet. `headers` go with every request (`HttpHeaders`).
    #[must_use]
    pub fn new(endpoint: Endpoint, headers: &[(String, String)]) -> Self {
        let extra = headers
            .iter()
            .filter_map(|(name, value)| {
                Some((
                    HeaderName::try_from(name).ok()?,
                    HeaderValue::try_from(value).ok()?,
                ))
            })
            .filter(|(name, _)| name != header::USER_AGENT)
            .collect();
        Self {
            shared: Rc::new(Shared {
                endpoint,
                version: Cell::new(API_VERSION),
                user_agent: HeaderValue::from_static(concat!(
                    "Kekkai-Client/",
                    env!("CARGO_PKG_VERSION"),
                    " (linux)"
                )),
                extra,
                idle: RefCell::new(Vec::new()),
                build: RefCell::new(None),
            }),
        }
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// The API version in use.
    #[must_use]
    pub fn version(&self) -> (u32, u32) {
        self.shared.version.get()
    }

    /// Uses this version (`DOCKER_API_VERSION`).
    pub fn set_version(&self, version: (u32, u32)) {
        self.shared.version.set(version);
    }

    /// The daemon's build id, known after the first answer; `None` from a daemon that is not ours.
    #[must_use]
    pub fn daemon_build(&self) -> Option<String> {
        self.shared.build.borrow().clone()
    }

    /// Opens one connection ahead of its use.
    ///
    /// # Errors
    /// Nobody listens, or we may not connect.
    pub async fn warm_up(&self) -> Result<(), ClientError> {
        let sender = connection::open(&self.shared.endpoint).await?;
        self.shared.idle.borrow_mut().push(sender);
        Ok(())
    }

    /// Forgets idle connections (the daemon was replaced).
    pub fn disconnect(&self) {
        self.shared.idle.borrow_mut().clear();
    }

    async fn connection(&self) -> Result<(SendRequest<Body>, bool), ClientError> {
        loop {
            let idle = self.shared.idle.borrow_mut().pop();
            match idle {
                Some(sender) if sender.is_closed() => {}
                Some(mut sender) => {
                    if sender.ready().await.is_ok() {
                        return Ok((sender, true));
                    }
                }
                None => return Ok((connection::open(&self.shared.endpoint).await?, false)),
            }
        }
    }

    fn http_request(
        &self,
        request: &Request,
        body: Body,
        upgrade: bool,
    ) -> Result<http::Request<Body>, ClientError> {
        let (major, minor) = self.shared.version.get();
        let (base, host) = match &self.shared.endpoint.transport {
            Transport::Unix(_) => ("", Cow::Borrowed("api.kekkai")),
            Transport::Tcp {
                host,
                port,
                base_path,
                ..
            } => (base_path.as_str(), Cow::Owned(format!("{host}:{port}"))),
        };
        let uri = format!("{base}/v{major}.{minor}{}", request.path);
        let mut message = http::Request::builder()
            .method(request.method.clone())
            .uri(uri)
            .body(body)?;
        let headers = message.headers_mut();
        headers.extend(request.headers.clone());
        headers.extend(self.shared.extra.iter().cloned());
        headers.insert(
            header::HOST,
            HeaderValue::try_from(host.as_ref()).map_err(http::Error::from)?,
        );
        headers.insert(header::USER_AGENT, self.shared.user_agent.clone());
        if upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        }
        Ok(message)
    }

    async fn exchange(
        &self,
        mut request: Request,
        upgrade: bool,
    ) -> Result<(http::Response<Incoming>, SendRequest<Body>), ClientError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (body, retry) = match &mut request.body {
                RequestBody::Bytes(bytes) if bytes.is_empty() => (empty_body(), true),
                RequestBody::Bytes(bytes) => (full_body(bytes.clone()), true),
                RequestBody::Stream(body) => (std::mem::replace(body, empty_body()), false),
            };
            let message = self.http_request(&request, body, upgrade)?;
            let (mut sender, reused) = self.connection().await?;
            match sender.send_request(message).await {
                Ok(response) => {
                    if let Some(build) = response
                        .headers()
                        .get("kekkai-build")
                        .and_then(|value| value.to_str().ok())
                    {
                        let mut known = self.shared.build.borrow_mut();
                        if known.is_none() {
                            *known = Some(build.to_owned());
                        }
                    }
                    if response.status() == StatusCode::BAD_REQUEST && retry && attempts < 4 {
                        let error = self.error_of(response, sender).await;
                        if self.negotiate(&error).await {
                            continue;
                        }
                        return Err(error);
                    }
                    return Ok((response, sender));
                }
                // An idle connection that the daemon closed in the meantime says nothing about the daemon. What may have
                // been acted on is sent again only where that does no harm.
                Err(error)
                    if reused
                        && retry
                        && attempts < 4
                        && (error.is_canceled()
                            || (request.method == Method::GET
                                && (error.is_closed() || error.is_incomplete_message()))) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// After "client version is too new": takes the version the daemon has. Says whether to try again.
    async fn negotiate(&self, error: &ClientError) -> bool {
        let ClientError::Daemon { message, .. } = error else {
            return false;
        };
        let Some(rest) = message.split("Maximum supported API version is ").nth(1) else {
            return false;
        };
        let Some(version) = parse_version(rest.trim().trim_end_matches('.')) else {
            return false;
        };
        if version >= self.shared.version.get() || version < OLDEST_VERSION {
            return false;
        }
        self.shared.version.set(version);
        true
    }

    async fn error_of(
        &self,
        response: http::Response<Incoming>,
        sender: SendRequest<Body>,
    ) -> ClientError {
        let status = response.status();
        let mut reply = Reply {
            response,
            connection: Some((self.clone(), sender)),
        };
        let text = match reply.take_bytes(MAX_ERROR).await {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => return error,
        };
        let message = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|value| {
                value
                    .get("message")
                    .and_then(|message| message.as_str())
                    .map(str::to_owned)
            })
            .unwrap_or_else(|| {
                let text = text.trim();
                if text.is_empty() {
                    status.canonical_reason().unwrap_or("").to_owned()
                } else {
                    text.to_owned()
                }
            });
        ClientError::Daemon {
            status: status.as_u16(),
            message: message.trim_end().to_owned(),
        }
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// No connection, or an answer with status 400 and above.
    pub async fn send(&self, request: Request) -> Result<Reply, ClientError> {
        let (response, sender) = self.exchange(request, false).await?;
        if response.status().as_u16() >= 400 {
            return Err(self.error_of(response, sender).await);
        }
        Ok(Reply {
            response,
            connection: Some((self.clone(), sender)),
        })
    }

    /// Sends a request whose answer turns the connection into a raw stream.
    ///
    /// # Errors
    /// As [`Client::send`]; also a daemon that answers without upgrading.
    pub async fn hijack(&self, request: Request) -> Result<Hijacked, ClientError> {
        let (response, sender) = self.exchange(request, true).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            if response.status().as_u16() >= 400 {
                return Err(self.error_of(response, sender).await);
            }
            return Err(ClientError::Configuration(format!(
                "unable to upgrade to tcp, received {}",
                response.status().as_u16()
            )));
        }
        let content_type = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let upgraded = hyper::upgrade::on(response).await?;
        Ok(Hijacked {
            content_type,
            io: TokioIo::new(upgraded),
        })
    }
}

/// Reads `1.51`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The head of an answer, and its body when asked for.
#[derive(Debug)]
pub struct Reply {
    response: http::Response<Incoming>,
    connection: Option<(Client, SendRequest<Body>)>,
}

impl Reply {
    /// HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.response.body_mut().frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
                None => {
                    if let Some((client, sender)) = self.connection.take()
                        && !sender.is_closed()
                    {
                        client.shared.idle.borrow_mut().push(sender);
                    }
                    return Ok(None);
                }
            }
        }
    }

    async fn take_bytes(&mut self, limit: usize) -> Result<Bytes, ClientError> {
        let Some(first) = self.chunk().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = self.chunk().await? else {
            return Ok(first);
        };
        let mut all = BytesMut::from(first);
        all.extend_from_slice(&second);
        while let Some(chunk) = self.chunk().await? {
            if all.len() + chunk.len() > limit {
                return Err(ClientError::TooLong { limit });
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }

    /// The whole body.
    ///
    /// # Errors
    /// The connection broke, or the body is longer than 512 MiB.
    pub async fn bytes(mut self) -> Result<Bytes, ClientError> {
        self.take_bytes(MAX_ANSWER).await
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// As [`Reply::bytes`]; also a body that is something else.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        Ok(serde_json::from_slice(&self.bytes().await?)?)
    }

    /// Reads the body and forgets it, so that the connection can be used again.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn done(mut self) -> Result<(), ClientError> {
        while self.chunk().await?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_escaped() {
        let request = Request::get("/containers/")
            .segment("a b/c", "/json")
            .query(
                Query::new()
                    .with("filters", "{\"a\":1}")
                    .with_flag("all", true)
                    .with_flag("size", false),
            );
        assert_eq!(
            request.path,
            "/containers/a%20b%2Fc/json?filters=%7B%22a%22%3A1%7D&all=1"
        );
        let request = Request::get("/images/").image("reg:5000/a b:t@sha256:0", "/json");
        assert_eq!(request.path, "/images/reg:5000/a%20b:t@sha256:0/json");
    }

    #[test]
    fn versions() {
        assert_eq!(parse_version("1.48"), Some((1, 48)));
        assert_eq!(parse_version("x"), None);
    }
}
