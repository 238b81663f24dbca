//! Requests to the endpoints of one repository: authentication, redirects, retries, and errors in Docker's words.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use kekkai_content::Sha256;
use kekkai_oci::image_documents::{Descriptor, media};
use kekkai_types::{Digest, Reference};

use crate::blob::BlobStream;
use crate::challenge::{self, Challenge};
use crate::config::{Endpoint, is_private};
use crate::manifest::MAX_MANIFEST;
use crate::transport::{Answer, Reach, Transport, TransportError};
use crate::url::{self, Base};
use crate::{Credentials, DistributionError, RegistryConfig, auth};

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;
/// Tries of one request, with pauses between.
const TRIES: u32 = 4;
/// The first pause; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause, even where the registry asks for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Bytes of an error's body that are looked at.
const MAX_ERROR: usize = 64 << 10;

/// What the manifests of this client may be.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// The registry client of a daemon. Connections are shared by all repositories.
#[derive(Debug, Clone)]
pub struct RegistryClient {
    pub(crate) config: Arc<RegistryConfig>,
    pub(crate) transport: Arc<Transport>,
}

/// One repository for one user, with the tokens it has been given.
#[derive(Debug, Clone)]
pub struct Repository(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    transport: Arc<Transport>,
    reference: Reference,
    credentials: Credentials,
    endpoints: Vec<State>,
    /// The endpoint that worked last.
    current: AtomicUsize,
}

#[derive(Debug)]
struct State {
    endpoint: Endpoint,
    /// Whether the registry itself is in a private network, so that it may send us there.
    private: AtomicBool,
    /// `Authorization` by scope.
    tokens: Mutex<HashMap<String, String>>,
}

/// A manifest as it came.
#[derive(Debug, Clone)]
pub struct FetchedManifest {
    /// What the registry calls it.
    pub media_type: String,
    /// The raw bytes.
    pub bytes: Bytes,
    /// Their digest.
    pub digest: Digest,
}

/// Why a request failed, before it is known what it was for.
#[derive(Debug)]
pub(crate) enum Failure {
    Transport {
        method: &'static str,
        url: String,
        error: TransportError,
    },
    Api(ApiError),
    Other(DistributionError),
}

/// An answer that is no success.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// `MANIFEST_UNKNOWN` and so on, or empty.
    pub(crate) code: String,
    pub(crate) message: String,
    retry_after: Option<Duration>,
}

impl ApiError {
    /// `manifest unknown: manifest unknown`.
    fn text(&self) -> String {
        format!(
            "{}: {}",
            self.code.to_ascii_lowercase().replace('_', " "),
            self.message
        )
    }

    fn of(
        status: StatusCode,
        retry_after: Option<Duration>,
        challenges: &[Challenge],
        body: &[u8],
    ) -> Self {
        for challenge in challenges {
            let Challenge::Bearer {
                error,
                error_description,
                ..
            } = challenge
            else {
                continue;
            };
            let (code, message) = match error.as_str() {
                "invalid_token" => ("UNAUTHORIZED", "authentication required"),
                "insufficient_scope" => ("DENIED", "requested access to the resource is denied"),
                _ => continue,
            };
            let message = if error_description.is_empty() {
                message
            } else {
                error_description
            };
            return Self {
                status,
                code: code.to_owned(),
                message: message.to_owned(),
                retry_after,
            };
        }
        let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let first = &json["errors"][0];
        let text = |value: &serde_json::Value| -> String {
            value
                .as_str()
                .unwrap_or("")
                .chars()
                .filter(|c| !c.is_control())
                .take(500)
                .collect()
        };
        let (mut code, mut message) = (text(&first["code"]), text(&first["message"]));
        if code.is_empty() {
            message = text(&json["details"]);
            if status == StatusCode::UNAUTHORIZED {
                code = "UNAUTHORIZED".to_owned();
            } else if status == StatusCode::TOO_MANY_REQUESTS {
                code = "TOOMANYREQUESTS".to_owned();
            }
        }
        if message.is_empty() {
            message = match code.as_str() {
                "UNAUTHORIZED" => "authentication required".to_owned(),
                "DENIED" => "requested access to the resource is denied".to_owned(),
                "TOOMANYREQUESTS" => "too many requests".to_owned(),
                other => other.to_ascii_lowercase().replace('_', " "),
            };
        }
        Self {
            status,
            code,
            message,
            retry_after,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) path: String,
    pub(crate) accept: &'static str,
    /// First byte wanted.
    pub(crate) from: u64,
}

impl RegistryClient {
    /// Makes a client.
    ///
    /// # Errors
    /// [`DistributionError::Config`] for a mirror or an insecure registry that means nothing.
    pub fn new(config: RegistryConfig) -> Result<Self, DistributionError> {
        config.validate()?;
        let transport = Arc::new(Transport::new(&config.user_agent));
        Ok(Self {
            config: Arc::new(config),
            transport,
        })
    }

    /// The repository of `reference`.
    ///
    /// # Errors
    /// [`DistributionError::Config`].
    pub fn repository(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Repository, DistributionError> {
        let endpoints = self.config.endpoints(reference.domain())?;
        let state = |endpoint| State {
            endpoint,
            private: AtomicBool::new(false),
            tokens: Mutex::default(),
        };
        Ok(Repository(Arc::new(Inner {
            transport: Arc::clone(&self.transport),
            reference: reference.clone(),
            credentials: credentials.unwrap_or_default(),
            endpoints: endpoints.into_iter().map(state).collect(),
            current: AtomicUsize::new(0),
        })))
    }

    /// Closes connections that nobody uses.
    pub fn close_idle(&self) {
        self.transport.forget_idle();
    }
}

impl Repository {
    /// Fetches the manifest of a tag or a digest. Its digest is verified where it was asked for by digest.
    ///
    /// # Errors
    /// In Docker's words, see [`DistributionError`].
    pub async fn manifest(
        &self,
        reference: &Reference,
    ) -> Result<FetchedManifest, DistributionError> {
        let wanted = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_owned(),
            (None, None) => "latest".to_owned(),
        };
        let ask = Ask {
            path: format!("/v2/{}/manifests/{wanted}", self.0.reference.path()),
            accept: ACCEPTED,
            from: 0,
        };
        let answer = self.0.ask(&ask).await?;
        let media_type = answer
            .head
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map_or(String::new(), |value| {
                value.split(';').next().unwrap_or("").trim().to_owned()
            });
        let too_large = || DistributionError::TooLarge {
            context: format!("manifest of {}", reference.familiar()),
            limit: MAX_MANIFEST,
        };
        if content_length(&answer).is_some_and(|length| length > MAX_MANIFEST) {
            return Err(too_large());
        }
        let body = answer
            .collect(MAX_MANIFEST)
            .await
            .map_err(|error| self.0.transport_error(&ask, error))?;
        let bytes = body.map_err(|_| too_large())?;
        let digest = Sha256::of(&bytes);
        if let Some(expected) = reference.digest()
            && *expected != digest
        {
            return Err(DistributionError::WrongDigest {
                context: "manifest",
                expected: expected.clone(),
                actual: digest,
            });
        }
        if media_type == media::DOCKER_SCHEMA1 || media_type == media::DOCKER_SCHEMA1_SIGNED {
            return Err(DistributionError::Schema1(reference.familiar()));
        }
        Ok(FetchedManifest {
            media_type,
            bytes,
            digest,
        })
    }

    /// Opens a blob. A connection that breaks is taken up again where it broke.
    ///
    /// # Errors
    /// As [`Repository::manifest`].
    pub async fn blob(&self, descriptor: &Descriptor) -> Result<BlobStream, DistributionError> {
        BlobStream::open(self.clone(), descriptor.digest.clone(), descriptor.size).await
    }

    /// Fetches a small blob whole and verifies it.
    ///
    /// # Errors
    /// [`DistributionError::TooLarge`] above `limit`; else as [`Repository::blob`].
    pub async fn small_blob(
        &self,
        descriptor: &Descriptor,
        context: &'static str,
        limit: u64,
    ) -> Result<Bytes, DistributionError> {
        if descriptor.size > limit {
            return Err(DistributionError::TooLarge {
                context: context.to_owned(),
                limit,
            });
        }
        let mut stream = self.blob(descriptor).await?;
        let mut all = Vec::with_capacity(usize::try_from(descriptor.size).unwrap_or(0));
        while let Some(chunk) = stream.next().await? {
            all.extend_from_slice(&chunk);
        }
        let actual = Sha256::of(&all);
        if actual != descriptor.digest {
            return Err(DistributionError::WrongDigest {
                context,
                expected: descriptor.digest.clone(),
                actual,
            });
        }
        Ok(all.into())
    }
}

pub(crate) fn content_length(answer: &Answer) -> Option<u64> {
    answer
        .head
        .headers
        .get(http::header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

impl Inner {
    pub(crate) fn repository_path(&self) -> &str {
        self.reference.path()
    }

    fn at(&self, current: usize) -> &State {
        &self.endpoints[current.min(self.endpoints.len() - 1)]
    }

    /// A broken body, as an error of the whole request.
    pub(crate) fn transport_error(&self, ask: &Ask, error: TransportError) -> DistributionError {
        let base = &self.at(self.current.load(Ordering::Relaxed)).endpoint.base;
        DistributionError::Transport {
            method: "Get",
            url: base.url(&ask.path),
            detail: error.detail,
        }
    }

    /// Asks one endpoint after the other.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Answer, DistributionError> {
        let start = self.current.load(Ordering::Relaxed);
        let mut last = None;
        for (at, state) in self.endpoints.iter().enumerate().skip(start) {
            match self.ask_one(state, ask).await {
                Ok(answer) => {
                    self.current.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(failure) => {
                    let has_next = at + 1 < self.endpoints.len();
                    let go_on =
                        state.endpoint.mirror || matches!(failure, Failure::Transport { .. });
                    let error = self.translate(failure);
                    if !(has_next && go_on) {
                        return Err(error);
                    }
                    tracing::debug!(registry = %state.endpoint.base.authority(), %error, "asking the next endpoint");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| DistributionError::Config {
            what: "registry",
            value: self.reference.domain().to_owned(),
            why: "no endpoint".to_owned(),
        }))
    }

    /// Asks one endpoint, again where that may help.
    async fn ask_one(&self, state: &State, ask: &Ask) -> Result<Answer, Failure> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let failure = match self.ask_once(state, ask).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let wait = match &failure {
                // A connection that was never made is the person's business: a wrong name, a registry that is down.
                Failure::Transport { error, .. }
                    if error.temporary && !error.detail.starts_with("dial") =>
                {
                    pause
                }
                Failure::Api(error) if error.status.is_server_error() => {
                    error.retry_after.unwrap_or(pause)
                }
                Failure::Api(error) if error.status == StatusCode::TOO_MANY_REQUESTS => {
                    match error.retry_after {
                        Some(wait) => wait,
                        None => return Err(failure),
                    }
                }
                _ => return Err(failure),
            };
            if attempt >= TRIES || wait > LONGEST_PAUSE || state.endpoint.mirror {
                return Err(failure);
            }
            tokio::time::sleep(wait).await;
            pause *= 2;
        }
        unreachable!("the loop returns")
    }

    async fn ask_once(&self, state: &State, ask: &Ask) -> Result<Answer, Failure> {
        let scope = format!("repository:{}:pull", self.reference.path());
        let credentials = if state.endpoint.mirror {
            Credentials::default()
        } else {
            self.credentials.clone()
        };
        let mut authorized = false;
        loop {
            let (answer, at_home) = self.follow(state, ask, &scope).await?;
            let status = answer.head.status;
            if status.is_success() {
                return Ok(answer);
            }
            let challenges = challenges(&answer);
            // Another server's challenge, after a redirect, is none of ours to answer.
            if status == StatusCode::UNAUTHORIZED
                && at_home
                && !authorized
                && !challenges.is_empty()
            {
                authorized = true;
                // The body is short; read, it lets the connection be used again.
                answer.beginning(MAX_ERROR).await;
                let reach = self.reach(state);
                let context = ("Head", state.endpoint.base.url(&ask.path));
                let party = auth::Party {
                    transport: &self.transport,
                    endpoint: &state.endpoint,
                    reach,
                    credentials: &credentials,
                };
                let granted = party.authorize(&challenges, &scope, &context).await?;
                state
                    .tokens
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(scope.clone(), granted);
                continue;
            }
            return Err(Failure::Api(api_error(answer, &challenges).await));
        }
    }

    fn reach(&self, state: &State) -> Reach {
        if state.endpoint.insecure || state.private.load(Ordering::Relaxed) {
            Reach::Any
        } else {
            Reach::Public
        }
    }

    /// Sends the request and follows redirects; tells whether the answer is the registry's own.
    async fn follow(
        &self,
        state: &State,
        ask: &Ask,
        scope: &str,
    ) -> Result<(Answer, bool), Failure> {
        let home = &state.endpoint.base;
        let bad = |why| {
            Failure::Other(DistributionError::Config {
                what: "registry",
                value: home.authority(),
                why,
            })
        };
        let mut uri: Uri = home
            .url(&ask.path)
            .parse()
            .map_err(|_| bad("invalid URL".to_owned()))?;
        for _ in 0..=MAX_REDIRECTS {
            let server = Base::of_uri(&uri).ok_or_else(|| bad("invalid URL".to_owned()))?;
            let at_home = server.same_server(home);
            let mut request = Request::builder()
                .method(Method::GET)
                .uri(uri.clone())
                .header(ACCEPT, ask.accept);
            if ask.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.from));
            }
            if at_home
                && let Some(token) = state
                    .tokens
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get(scope)
            {
                request = request.header(AUTHORIZATION, token);
            }
            let request = request
                .body(Full::new(Bytes::new()))
                .map_err(|error| bad(error.to_string()))?;
            let reach = if at_home {
                Reach::Any
            } else {
                self.reach(state)
            };
            let answer = self
                .transport
                .send(request, state.endpoint.insecure, reach)
                .await
                .map_err(|error| {
                    if error.forbidden {
                        return Failure::Other(DistributionError::Redirect {
                            from: home.authority(),
                            to: url::for_people(&uri),
                            why: "it leads into a private network",
                        });
                    }
                    // First contact is a ping for Docker, and so it is called.
                    let url = if at_home {
                        home.url("/v2/")
                    } else {
                        url::for_people(&uri)
                    };
                    Failure::Transport {
                        method: "Get",
                        url,
                        error,
                    }
                })?;
            if at_home && is_private(answer.peer) {
                state.private.store(true, Ordering::Relaxed);
            }
            if !matches!(answer.head.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((answer, at_home));
            }
            let location = answer
                .head
                .headers
                .get(LOCATION)
                .and_then(|value| value.to_str().ok())
                .unwrap_or("");
            let refused = |why| {
                Failure::Other(DistributionError::Redirect {
                    from: server.authority(),
                    to: location.split('?').next().unwrap_or("").to_owned(),
                    why,
                })
            };
            let next = url::join(&uri, location).ok_or_else(|| refused("it is no HTTP address"))?;
            let target = Base::of_uri(&next).ok_or_else(|| refused("it is no HTTP address"))?;
            if server.https && !target.https && !state.endpoint.insecure {
                return Err(refused("it leads from HTTPS to HTTP"));
            }
            uri = next;
        }
        Err(Failure::Other(DistributionError::Redirect {
            from: home.authority(),
            to: url::for_people(&uri),
            why: "stopped after 10 redirects",
        }))
    }

    /// A failure in the words that Docker's daemon has for it.
    pub(crate) fn translate(&self, failure: Failure) -> DistributionError {
        let api = match failure {
            Failure::Other(error) => return error,
            Failure::Transport { method, url, error } => {
                return DistributionError::Transport {
                    method,
                    url,
                    detail: error.detail,
                };
            }
            Failure::Api(api) => api,
        };
        match api.code.as_str() {
            "DENIED" => DistributionError::AccessDenied {
                repository: self.reference.familiar_repository(),
                detail: api.text(),
            },
            "MANIFEST_UNKNOWN" => DistributionError::ManifestUnknown {
                reference: self.reference.familiar(),
                detail: api.text(),
            },
            "NAME_UNKNOWN" => DistributionError::RepositoryUnknown {
                repository: self.reference.familiar_repository(),
                detail: api.text(),
            },
            "UNAUTHORIZED" => DistributionError::Unauthorized(api.text()),
            "TOOMANYREQUESTS" => DistributionError::TooManyRequests(api.message),
            "" if api.status == StatusCode::NOT_FOUND => DistributionError::ManifestUnknown {
                reference: self.reference.familiar(),
                detail: "manifest unknown: manifest unknown".to_owned(),
            },
            "" => DistributionError::Status {
                status: api.status.to_string(),
            },
            _ => DistributionError::Registry(api.text()),
        }
    }
}

pub(crate) fn challenges(answer: &Answer) -> Vec<Challenge> {
    let headers = answer.head.headers.get_all(WWW_AUTHENTICATE);
    headers
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenge::parse)
        .collect()
}

pub(crate) async fn api_error(answer: Answer, challenges: &[Challenge]) -> ApiError {
    let status = answer.head.status;
    let retry_after = answer
        .head
        .headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let body = answer.beginning(MAX_ERROR).await;
    ApiError::of(
        status,
        retry_after.map(Duration::from_secs),
        challenges,
        &body,
    )
}
