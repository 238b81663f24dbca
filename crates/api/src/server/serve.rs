//! The accept loops and the life of one connection.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use ::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

use crate::http::{Body, Call, Hijack, Hijacked, Reply};
use crate::routes::{self, Api};
use crate::server::{Connection, Listener};

/// Pause after an accept failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The API, ready to be served on any number of sockets.
#[derive(Debug, Clone)]
pub struct Server {
    api: Arc<Api>,
}

impl Server {
    /// Serves `api`.
    #[must_use]
    pub fn new(api: Api) -> Self {
        Self { api: Arc::new(api) }
    }

    /// Accepts clients until `stop` becomes true. Connections that are open then end with the runtime.
    pub async fn serve(&self, listener: Listener, mut stop: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok(pending) => {
                    let api = Arc::clone(&self.api);
                    tokio::spawn(async move {
                        match pending.establish().await {
                            Ok(connection) => serve_connection(api, connection).await,
                            Err(error) => {
                                tracing::debug!(%error, "a client did not get through the TLS handshake")
                            }
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, address = listener.address(), "cannot accept a client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Where a request puts the takeover of its connection, for the task that drives the connection.
#[derive(Debug, Default)]
struct Slot(Mutex<(Option<Hijack>, Option<Waker>)>);

impl Slot {
    fn put(&self, hijack: Hijack) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.0 = Some(hijack);
        if let Some(waker) = slot.1.take() {
            waker.wake();
        }
    }

    fn poll_take(&self, waker: &Waker) -> Option<Hijack> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.0.is_none() {
            slot.1 = Some(waker.clone());
        }
        slot.0.take()
    }
}

struct Handler {
    api: Arc<Api>,
    slot: Arc<Slot>,
}

impl Service<Request<Incoming>> for Handler {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (api, slot) = (Arc::clone(&self.api), Arc::clone(&self.slot));
        Box::pin(async move {
            match routes::answer(api, Call::new(request)).await {
                Reply::Response(response) => Ok(response),
                Reply::Hijack(hijack) => {
                    slot.put(hijack);
                    // The connection is taken from under this future, which never needs to answer.
                    std::future::pending().await
                }
            }
        })
    }
}

async fn serve_connection(api: Arc<Api>, connection: Connection) {
    let slot = Arc::new(Slot::default());
    let handler = Handler {
        api,
        slot: Arc::clone(&slot),
    };
    let mut http = hyper::server::conn::http1::Builder::new()
        .title_case_headers(true)
        .serve_connection(TokioIo::new(connection), handler);
    let hijack = std::future::poll_fn(|cx| {
        let done = Pin::new(&mut http).poll(cx);
        if let Some(hijack) = slot.poll_take(cx.waker()) {
            return Poll::Ready(Ok(Some(hijack)));
        }
        done.map_ok(|()| None)
    })
    .await;
    match hijack {
        Ok(Some(hijack)) => {
            let parts = http.into_parts();
            hijack
                .run(Hijacked {
                    connection: parts.io.into_inner(),
                    early: parts.read_buf,
                })
                .await;
        }
        Ok(None) => {}
        Err(error) => log_end(&error),
    }
}

/// Clients that leave in the middle are no fault of ours.
fn log_end(error: &hyper::Error) {
    let gone = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|e| {
            matches!(
                e.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            )
        });
    if gone || error.is_incomplete_message() || error.is_canceled() {
        tracing::trace!(%error, "a client left");
    } else {
        tracing::debug!(%error, "a connection ended with an error");
    }
}
