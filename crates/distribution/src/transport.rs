//! Connections to registries: names resolved by hickory, TLS by rustls, HTTP/1.1 with connections kept for the next
//! request. Every request has its bounds in time.
//!
//! What must stay true: an address is checked and then connected to, with no second look-up between.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::is_private;
use crate::tls;
use crate::url::Base;

/// Time to resolve, connect and shake hands.
const CONNECT: Duration = Duration::from_secs(30);
/// Time until an answer's headers.
const HEADERS: Duration = Duration::from_secs(60);
/// Time without any byte of a body.
const SILENCE: Duration = Duration::from_secs(60);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// Unused connections kept for one server.
const MOST_IDLE: usize = 8;

/// Why there is no answer, in the words Go's client would use.
#[derive(Debug, Clone)]
pub(crate) struct TransportError {
    pub(crate) detail: String,
    /// Whether another try may help.
    pub(crate) temporary: bool,
    /// Refused by [`Reach::Public`].
    pub(crate) forbidden: bool,
}

/// Which addresses a request may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Any: the person named this host.
    Any,
    /// Only public ones: the host was named by somebody outside.
    Public,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Full<Bytes>>,
    peer: IpAddr,
    since: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Server {
    https: bool,
    host: String,
    port: u16,
    insecure: bool,
}

/// The connections.
#[derive(Debug)]
pub(crate) struct Transport {
    pool: Mutex<HashMap<Server, Vec<Idle>>>,
    verified: OnceLock<Arc<rustls::ClientConfig>>,
    unverified: OnceLock<Arc<rustls::ClientConfig>>,
    user_agent: String,
}

/// An answer whose connection goes back to the pool once its body has been read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: http::response::Parts,
    body: Incoming,
    back: Option<(SendRequest<Full<Bytes>>, Server)>,
    pub(crate) peer: IpAddr,
    transport: Arc<Transport>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl TransportError {
    fn new(detail: impl Into<String>, temporary: bool) -> Self {
        Self {
            detail: detail.into(),
            temporary,
            forbidden: false,
        }
    }
}

/// An I/O error in Go's words.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        _ => error.to_string(),
    }
}

impl Transport {
    pub(crate) fn new(user_agent: &str) -> Self {
        let user_agent = if user_agent.is_empty() {
            format!("kekkai/{}", env!("CARGO_PKG_VERSION"))
        } else {
            user_agent.to_owned()
        };
        Self {
            pool: Mutex::default(),
            verified: OnceLock::new(),
            unverified: OnceLock::new(),
            user_agent,
        }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<Server, Vec<Idle>>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one request and returns the head of the answer. `request` has an absolute URL.
    pub(crate) async fn send(
        self: &Arc<Self>,
        mut request: Request<Full<Bytes>>,
        insecure: bool,
        reach: Reach,
    ) -> Result<Answer, TransportError> {
        let base = Base::of_uri(request.uri())
            .ok_or_else(|| TransportError::new("unsupported protocol scheme", false))?;
        let server = Server {
            https: base.https,
            host: base.host.clone(),
            port: base.port,
            insecure,
        };
        let headers = request.headers_mut();
        headers.insert(
            http::header::HOST,
            base.authority()
                .parse()
                .map_err(|_| TransportError::new("invalid host name", false))?,
        );
        if let Ok(agent) = self.user_agent.parse() {
            headers.insert(http::header::USER_AGENT, agent);
        }
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        *request.uri_mut() = path
            .parse::<Uri>()
            .map_err(|_| TransportError::new("invalid URL", false))?;
        // A kept connection may have been closed meanwhile; nothing is lost by asking again on a new one.
        while let Some((mut sender, peer)) = self.take_idle(&server, reach) {
            match timeout(HEADERS, sender.send_request(request.clone())).await {
                Ok(Ok(response)) => return Ok(self.answer(response, sender, server, peer)),
                Ok(Err(_)) => {}
                Err(_) => {
                    return Err(TransportError::new(
                        "net/http: timeout awaiting response headers",
                        true,
                    ));
                }
            }
        }
        let (mut sender, peer) = timeout(CONNECT, self.connect(&server, reach))
            .await
            .map_err(|_| {
                TransportError::new(
                    format!("dial tcp {}:{}: i/o timeout", server.host, server.port),
                    true,
                )
            })??;
        match timeout(HEADERS, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(self.answer(response, sender, server, peer)),
            Ok(Err(error)) => Err(hyper_error(&error)),
            Err(_) => Err(TransportError::new(
                "net/http: timeout awaiting response headers",
                true,
            )),
        }
    }

    fn answer(
        self: &Arc<Self>,
        response: Response<Incoming>,
        sender: SendRequest<Full<Bytes>>,
        server: Server,
        peer: IpAddr,
    ) -> Answer {
        let (head, body) = response.into_parts();
        Answer {
            head,
            body,
            back: Some((sender, server)),
            peer,
            transport: Arc::clone(self),
        }
    }

    fn take_idle(
        &self,
        server: &Server,
        reach: Reach,
    ) -> Option<(SendRequest<Full<Bytes>>, IpAddr)> {
        let mut pool = self.idle();
        let idle = pool.get_mut(server)?;
        idle.retain(|idle| idle.since.elapsed() < IDLE && !idle.sender.is_closed());
        let at = idle
            .iter()
            .rposition(|idle| reach == Reach::Any || !is_private(idle.peer))?;
        let taken = idle.swap_remove(at);
        Some((taken.sender, taken.peer))
    }

    /// Closes connections that nobody needs any more.
    pub(crate) fn forget_idle(&self) {
        self.idle().clear();
    }

    async fn connect(
        &self,
        server: &Server,
        reach: Reach,
    ) -> Result<(SendRequest<Full<Bytes>>, IpAddr), TransportError> {
        let addresses = resolve(&server.host).await?;
        let mut last = TransportError::new(
            format!("dial tcp: lookup {}: no such host", server.host),
            false,
        );
        for address in addresses {
            if reach == Reach::Public && is_private(address) {
                last = TransportError {
                    detail: format!("{address} is a private address"),
                    temporary: false,
                    forbidden: true,
                };
                continue;
            }
            let socket = SocketAddr::new(address, server.port);
            match TcpStream::connect(socket).await {
                Ok(stream) => {
                    // Small requests wait for nothing.
                    let _ = stream.set_nodelay(true);
                    return Ok((self.shake_hands(server, stream).await?, address));
                }
                Err(error) => {
                    last =
                        TransportError::new(format!("dial tcp {socket}: {}", words(&error)), true)
                }
            }
        }
        Err(last)
    }

    async fn shake_hands(
        &self,
        server: &Server,
        stream: TcpStream,
    ) -> Result<SendRequest<Full<Bytes>>, TransportError> {
        let stream: Box<dyn Stream> = if server.https {
            let config = if server.insecure {
                self.unverified.get_or_init(tls::unverified)
            } else {
                self.verified.get_or_init(tls::verified)
            };
            let name = ServerName::try_from(server.host.clone()).map_err(|_| {
                TransportError::new(format!("{:?} is no server name", server.host), false)
            })?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
            let connected = connector.connect(name, stream).await;
            Box::new(connected.map_err(|error| TransportError {
                detail: tls::words(&error),
                temporary: false,
                forbidden: false,
            })?)
        } else {
            Box::new(stream)
        };
        let (sender, connection) = http1::Builder::new()
            .max_headers(100)
            .max_buf_size(256 << 10)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| hyper_error(&error))?;
        // It ends when the sender is dropped; its errors reach whoever waits for the answer.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}

fn hyper_error(error: &hyper::Error) -> TransportError {
    use std::error::Error as _;
    let io = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    let detail = match io {
        Some(io) => words(io),
        None if error.is_incomplete_message() => "EOF".to_owned(),
        None if error.is_parse() => {
            "net/http: HTTP/1.x transport connection broken: malformed HTTP response".to_owned()
        }
        None => error.to_string(),
    };
    TransportError::new(detail, !error.is_parse() && !error.is_user())
}

/// Every address of a name, in the order to try them.
async fn resolve(host: &str) -> Result<Vec<IpAddr>, TransportError> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    // Whatever the files say, as everywhere (RFC 6761, 6.3).
    if host == "localhost" {
        return Ok(vec![
            IpAddr::from([127, 0, 0, 1]),
            std::net::Ipv6Addr::LOCALHOST.into(),
        ]);
    }
    let failed = |detail: String, temporary| {
        TransportError::new(format!("dial tcp: lookup {host}: {detail}"), temporary)
    };
    // Made anew each time: the host's files may have changed, and connections are kept, so look-ups are rare.
    let resolver = hickory_resolver::TokioResolver::builder_tokio()
        .and_then(hickory_resolver::ResolverBuilder::build)
        .map_err(|error| failed(error.to_string(), false))?;
    // A name with a dot is a full one: the search list is for short names.
    let name = if host.contains('.') && !host.ends_with('.') {
        format!("{host}.")
    } else {
        host.to_owned()
    };
    match resolver.lookup_ip(name).await {
        Ok(found) => {
            let (four, six): (Vec<IpAddr>, Vec<IpAddr>) = found.iter().partition(IpAddr::is_ipv4);
            Ok([four, six].concat())
        }
        Err(error) if error.is_no_records_found() => Err(failed("no such host".to_owned(), false)),
        Err(error) => Err(failed(error.to_string(), true)),
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            let frame = timeout(SILENCE, self.body.frame())
                .await
                .map_err(|_| TransportError::new("i/o timeout", true))?;
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(hyper_error(&error)),
                None => {
                    self.give_back();
                    return Ok(None);
                }
            }
        }
    }

    /// The whole body, unless it is longer than `limit`.
    pub(crate) async fn collect(
        mut self,
        limit: u64,
    ) -> Result<Result<Bytes, Self>, TransportError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if (all.len() + chunk.len()) as u64 > limit {
                return Ok(Err(self));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(Ok(all.into()))
    }

    /// At most `limit` bytes of the body, whatever happens.
    pub(crate) async fn beginning(mut self, limit: usize) -> Bytes {
        let mut all = Vec::new();
        while let Ok(Some(chunk)) = self.chunk().await {
            let room = limit - all.len();
            all.extend_from_slice(&chunk[..room.min(chunk.len())]);
            if all.len() >= limit {
                break;
            }
        }
        all.into()
    }

    fn give_back(&mut self) {
        if let Some((sender, server)) = self.back.take() {
            let mut pool = self.transport.idle();
            let idle = pool.entry(server).or_default();
            if idle.len() < MOST_IDLE && !sender.is_closed() {
                idle.push(Idle {
                    sender,
                    peer: self.peer,
                    since: Instant::now(),
                });
            }
        }
    }
}
