//! A registry in memory, for tests: it serves what it was given, and misbehaves where it is told to.
//!
//! Not for production: only behind the feature `testing`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kekkai_content::Sha256;
use kekkai_oci::image_documents::media;
use kekkai_types::Digest;
use tokio::net::TcpListener;

/// The body of an answer.
pub type Body = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;
/// Looks at a request first; `Some` answers it.
pub type Hook = Arc<dyn Fn(&Request<Incoming>) -> Option<Response<Body>> + Send + Sync>;

/// What the registry has.
#[derive(Default)]
struct Contents {
    /// `repository:tag` or `repository@digest`.
    manifests: HashMap<String, (String, Bytes)>,
    blobs: HashMap<String, Bytes>,
    hook: Option<Hook>,
    requests: Vec<String>,
}

/// A running registry; it ends with the runtime it was started on.
#[derive(Clone)]
pub struct TestRegistry {
    /// Where it listens.
    pub address: SocketAddr,
    contents: Arc<Mutex<Contents>>,
}

impl std::fmt::Debug for TestRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestRegistry")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A whole body.
pub fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed()
}

/// An answer with a status and a text.
pub fn answer(status: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body(text));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// A body that promises nothing and ends, or breaks, after `bytes`.
pub fn cut(bytes: Bytes) -> Body {
    let frames = vec![Ok(Frame::data(bytes)), Err(std::io::Error::other("cut"))];
    StreamBody::new(futures_util::stream::iter(frames)).boxed()
}

/// A body without an end.
pub fn endless() -> Body {
    let chunk = Bytes::from(vec![0; 64 << 10]);
    StreamBody::new(futures_util::stream::repeat_with(move || {
        Ok(Frame::data(chunk.clone()))
    }))
    .boxed()
}

impl TestRegistry {
    /// Starts an empty one on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When it cannot listen.
    #[expect(clippy::expect_used, reason = "a test that cannot go on ends")]
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let registry = Self {
            address: listener.local_addr().expect("address"),
            contents: Arc::default(),
        };
        let serving = registry.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let registry = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let registry = registry.clone();
                        async move { Ok::<_, Infallible>(registry.handle(&request)) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        registry
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `127.0.0.1:port/name`.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Lets `hook` see every request first.
    pub fn hook(
        &self,
        hook: impl Fn(&Request<Incoming>) -> Option<Response<Body>> + Send + Sync + 'static,
    ) {
        self.contents().hook = Some(Arc::new(hook));
    }

    /// Requests so far, `GET /v2/…`, and forgets them.
    #[must_use]
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.contents().requests)
    }

    /// Stores a blob.
    pub fn put_blob(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Sha256::of(&bytes);
        self.contents().blobs.insert(digest.to_string(), bytes);
        digest
    }

    /// Replaces what is served under a digest by other bytes.
    pub fn corrupt_blob(&self, digest: &Digest, bytes: impl Into<Bytes>) {
        self.contents()
            .blobs
            .insert(digest.to_string(), bytes.into());
    }

    /// Stores a manifest under its digest and, where there is one, a tag.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Digest {
        let bytes = bytes.into();
        let digest = Sha256::of(&bytes);
        let mut contents = self.contents();
        let stored = (media_type.to_owned(), bytes);
        contents
            .manifests
            .insert(format!("{repository}@{digest}"), stored.clone());
        if let Some(tag) = tag {
            contents
                .manifests
                .insert(format!("{repository}:{tag}"), stored);
        }
        digest
    }

    /// Stores an image of gzipped layers (given as plain tar streams) and returns its manifest's digest.
    ///
    /// # Panics
    /// Never: compressing in memory does not fail.
    #[expect(clippy::expect_used, reason = "writing to memory does not fail")]
    pub fn put_image(
        &self,
        repository: &str,
        tag: &str,
        platform: (&str, &str),
        layers: &[Vec<u8>],
    ) -> Digest {
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in layers {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(layer).expect("gzip");
            let blob = gzip.finish().expect("gzip");
            let size = blob.len();
            let digest = self.put_blob(blob);
            descriptors.push(format!(
                r#"{{"mediaType":"{}","digest":"{digest}","size":{size}}}"#,
                media::OCI_LAYER_GZIP
            ));
            diff_ids.push(format!("\"{}\"", Sha256::of(layer)));
        }
        let config = format!(
            r#"{{"os":"{}","architecture":"{}","config":{{"Cmd":["/x"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            platform.0,
            platform.1,
            diff_ids.join(",")
        );
        let size = config.len();
        let config = self.put_blob(config);
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{config}","size":{size}}},"layers":[{}]}}"#,
            media::OCI_MANIFEST,
            media::OCI_CONFIG,
            descriptors.join(",")
        );
        self.put_manifest(repository, Some(tag), media::OCI_MANIFEST, manifest)
    }

    fn handle(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let hook = {
            let mut contents = self.contents();
            contents
                .requests
                .push(format!("{} {path}", request.method()));
            contents.hook.clone()
        };
        if let Some(response) = hook.and_then(|hook| hook(request)) {
            return response;
        }
        self.serve(request, &path)
    }

    /// What it answers without any hook.
    #[must_use]
    pub fn serve(&self, request: &Request<Incoming>, path: &str) -> Response<Body> {
        let contents = self.contents();
        let error = |code: &str, message: &str| {
            answer(
                404,
                format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#),
            )
        };
        let Some(rest) = path.strip_prefix("/v2/") else {
            return answer(404, "");
        };
        if rest.is_empty() {
            return answer(200, "{}");
        }
        if let Some((repository, wanted)) = rest.split_once("/manifests/") {
            let separator = if wanted.contains(':') { '@' } else { ':' };
            return match contents
                .manifests
                .get(&format!("{repository}{separator}{wanted}"))
            {
                Some((media_type, bytes)) => {
                    let mut response = answer(200, bytes.clone());
                    if let Ok(value) = media_type.parse() {
                        response
                            .headers_mut()
                            .insert(http::header::CONTENT_TYPE, value);
                    }
                    response
                }
                None => error("MANIFEST_UNKNOWN", "manifest unknown"),
            };
        }
        if let Some((_, wanted)) = rest.split_once("/blobs/") {
            let Some(bytes) = contents.blobs.get(wanted) else {
                return error("BLOB_UNKNOWN", "blob unknown to registry");
            };
            let range = request
                .headers()
                .get(http::header::RANGE)
                .and_then(|value| value.to_str().ok());
            let from = range.and_then(|range| {
                range
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse::<usize>()
                    .ok()
            });
            return match from {
                Some(from) if from <= bytes.len() => answer(206, bytes.slice(from..)),
                _ => answer(200, bytes.clone()),
            };
        }
        error("NAME_UNKNOWN", "repository name not known to registry")
    }
}
