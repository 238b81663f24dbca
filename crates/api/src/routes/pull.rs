//! `POST /images/create` (pull) and `POST /images/load`: long work that streams its progress.
//!
//! What must stay true: a failure before the first line is an HTTP status; after it, an error line in the stream. A
//! client that goes away ends its pull (other clients' equal pulls go on, which the image service sees to).

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use kekkai_image::{Credentials, ProgressSink, PullEvent, Secret};
use kekkai_types::{Platform, Reference};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use crate::http::{ApiError, Body, Call, Reply, json_line};
use crate::routes::Api;
use crate::routes::images::publish;

/// Clients encode the header with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Numbers that may wait for a slow client before further ones are dropped; other lines never are.
const WAITING_NUMBERS: usize = 64;

/// Reads credentials in the form of Docker's `AuthConfig`.
pub(super) fn read_credentials(fields: &mut crate::http::Fields) -> Result<Credentials, ApiError> {
    let mut credentials = Credentials {
        username: fields.string("username")?,
        password: Secret::new(fields.string("password")?),
        identity_token: Secret::new(fields.string("identitytoken")?),
        registry_token: Secret::new(fields.string("registrytoken")?),
        server_address: fields.string("serveraddress")?,
    };
    let encoded = fields.string("auth")?;
    if credentials.username.is_empty()
        && let Some((user, password)) = decode_basic(&encoded)
    {
        credentials.username = user;
        credentials.password = Secret::new(password);
    }
    Ok(credentials)
}

fn decode_basic(encoded: &str) -> Option<(String, String)> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.trim_end_matches('\0').split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// The credentials in `X-Registry-Auth`. As dockerd does, one that cannot be read counts as none.
fn header_credentials(call: &Call) -> Option<Credentials> {
    let bytes = BASE64.decode(call.header("x-registry-auth")).ok()?;
    let value = serde_json::from_slice(&bytes).ok()?;
    let mut fields = crate::http::Fields::from_value("", value).ok()??;
    read_credentials(&mut fields)
        .ok()
        .filter(|credentials| !credentials.is_anonymous())
}

/// What the client names.
fn wanted(call: &Call) -> Result<Reference, ApiError> {
    let invalid = |error: kekkai_types::ParseReferenceError| ApiError::invalid(error.to_string());
    let image = call.query.get("fromImage");
    let tag = call.query.get("tag");
    let reference = Reference::parse_normalized(image).map_err(invalid)?;
    if tag.is_empty() {
        if reference.tag().is_none() && reference.digest().is_none() {
            return Err(ApiError::unsupported_field(
                "pulling all tags of a repository (no tag)",
            ));
        }
        return Ok(reference);
    }
    if tag.contains(':') {
        let digest = tag
            .parse()
            .map_err(|_| ApiError::invalid("invalid tag format"))?;
        return Ok(reference.with_digest(digest));
    }
    reference.with_tag(tag).map_err(invalid)
}

/// Pulls an image.
pub(super) async fn pull(api: Arc<Api>, call: Call) -> Result<Reply, ApiError> {
    if call.query.nonempty("fromSrc").is_some() {
        return Err(ApiError::not_implemented("importing an image (fromSrc)"));
    }
    for name in ["repo", "message", "changes"] {
        if call.query.nonempty(name).is_some() {
            return Err(ApiError::unsupported_field(name));
        }
    }
    let reference = wanted(&call)?;
    let platform = call
        .query
        .nonempty("platform")
        .map(str::parse::<Platform>)
        .transpose()
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    let credentials = header_credentials(&call);
    let (sink, lines) = progress();
    let work = async move {
        let images = api.engine().images();
        let outcome = images
            .pull(&reference, platform.as_ref(), credentials, sink)
            .await?;
        let mut attributes: Vec<(String, String)> = outcome
            .image
            .config
            .config
            .labels
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        attributes.push(("name".to_owned(), reference.familiar_repository()));
        publish(&api, "pull", &reference.familiar(), attributes);
        Ok(())
    };
    stream_work(work, lines).await
}

/// Loads images from an archive.
pub(super) async fn load(api: Arc<Api>, mut call: Call) -> Result<Reply, ApiError> {
    if call.query.nonempty("platform").is_some() {
        return Err(ApiError::unsupported_field("platform"));
    }
    let quiet = call.query.bool_or("quiet", true);
    let Some(body) = call.take_body() else {
        return Err(ApiError::invalid("the request has no body"));
    };
    let pieces = body
        .into_data_stream()
        .map(|piece| piece.map_err(io::Error::other));
    let reader = StreamReader::new(Box::pin(pieces));
    let (all, lines) = progress();
    let said = Arc::clone(&all);
    let sink: ProgressSink = Arc::new(move |event: PullEvent| {
        if event.stream || !quiet {
            all(event);
        }
    });
    let work = async move {
        for image in api.engine().images().load(reader, sink).await? {
            let id = image.id.to_string();
            publish(&api, "load", &id, vec![("name".to_owned(), id.clone())]);
            if image.names.is_empty() {
                said(PullEvent::stream(format!("Loaded image ID: {id}\n")));
            }
            for name in &image.names {
                said(PullEvent::stream(format!("Loaded image: {name}\n")));
            }
        }
        Ok(())
    };
    stream_work(work, lines).await
}

/// Lines of progress that the client has not read yet.
struct Lines {
    receiver: mpsc::UnboundedReceiver<(Bytes, bool)>,
    numbers: Arc<AtomicUsize>,
}

impl Lines {
    fn taken(&self, (line, is_number): (Bytes, bool)) -> Bytes {
        if is_number {
            self.numbers.fetch_sub(1, Ordering::Relaxed);
        }
        line
    }

    async fn recv(&mut self) -> Option<Bytes> {
        let line = self.receiver.recv().await?;
        Some(self.taken(line))
    }

    fn try_recv(&mut self) -> Option<Bytes> {
        let line = self.receiver.try_recv().ok()?;
        Some(self.taken(line))
    }
}

/// A sink for progress and the lines that come out of it.
fn progress() -> (ProgressSink, Lines) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let numbers = Arc::new(AtomicUsize::new(0));
    let waiting = Arc::clone(&numbers);
    let sink: ProgressSink = Arc::new(move |event: PullEvent| {
        let is_number = event.progress.is_some();
        if is_number && waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_NUMBERS {
            waiting.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        if let Ok(line) = json_line(&Line::new(&event)) {
            // A client that is gone needs no progress.
            let _ = sender.send((line, is_number));
        }
    });
    (sink, Lines { receiver, numbers })
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    detail: Option<Detail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

#[derive(Serialize)]
struct Detail {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
}

impl<'a> Line<'a> {
    fn new(event: &'a PullEvent) -> Self {
        if event.stream {
            return Self {
                stream: Some(&event.status),
                status: None,
                detail: None,
                progress: None,
                id: None,
            };
        }
        let numbers = event.progress.as_ref();
        // dockerd writes an empty detail for a layer's words, none for words about the whole.
        let of_layer = event.id.is_some() && !event.status.starts_with("Pulling from ");
        let detail = of_layer.then(|| Detail {
            current: numbers.map(|numbers| numbers.current),
            total: numbers.and_then(|numbers| numbers.total),
        });
        Self {
            stream: None,
            status: Some(&event.status),
            detail,
            progress: numbers.map(kekkai_image::PullProgress::bar),
            id: event.id.as_deref(),
        }
    }
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    #[serde(rename = "errorDetail")]
    detail: ErrorDetail<'a>,
    error: &'a str,
}

#[derive(Serialize)]
struct ErrorDetail<'a> {
    message: &'a str,
}

/// What comes next of some work with progress.
enum Next {
    Line(Bytes),
    Ended(Result<(), ApiError>),
}

type Work = std::pin::Pin<Box<dyn Future<Output = Result<(), ApiError>> + Send>>;

/// Work on its way, and its lines. The work lives in the response's body: it ends with its client.
struct Streamed {
    work: Option<Work>,
    lines: Lines,
}

impl Streamed {
    async fn next(&mut self) -> Option<Next> {
        let work = self.work.as_mut()?;
        tokio::select! {
            biased;
            Some(line) = self.lines.recv() => Some(Next::Line(line)),
            outcome = pin!(work) => {
                self.work = None;
                Some(Next::Ended(outcome))
            }
        }
    }

    /// Lines that were told before the work ended.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        while let Some(line) = self.lines.try_recv() {
            rest.extend_from_slice(&line);
        }
        rest
    }

    async fn next_piece(&mut self) -> Option<Bytes> {
        match self.next().await? {
            Next::Line(line) => Some(line),
            Next::Ended(outcome) => {
                let mut rest = self.rest();
                if let Err(error) = outcome {
                    tracing::debug!(%error, "streamed work failed");
                    let message = &error.message;
                    let line = ErrorLine {
                        detail: ErrorDetail { message },
                        error: message,
                    };
                    rest.extend_from_slice(&json_line(&line).unwrap_or_default());
                }
                Some(rest.into())
            }
        }
    }
}

/// Answers with the lines of `work`; with its error as a status if it fails before the first line.
async fn stream_work(
    work: impl Future<Output = Result<(), ApiError>> + Send + 'static,
    lines: Lines,
) -> Result<Reply, ApiError> {
    let mut streamed = Streamed {
        work: Some(Box::pin(work)),
        lines,
    };
    let first = match streamed.next().await {
        Some(Next::Line(line)) => line,
        Some(Next::Ended(outcome)) => {
            let rest = streamed.rest();
            outcome?;
            rest.into()
        }
        None => Bytes::new(),
    };
    let pieces = stream::unfold(
        (Some(first), streamed),
        |(first, mut streamed)| async move {
            let piece = match first {
                Some(first) => first,
                None => streamed.next_piece().await?,
            };
            Some((Ok::<_, io::Error>(piece), (None, streamed)))
        },
    );
    Ok(Reply::body("application/json", Body::stream(pieces)))
}
