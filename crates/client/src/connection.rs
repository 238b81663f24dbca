//! One connection to the daemon, and what becomes of it when it is hijacked.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::{Body, ClientError, Endpoint, Transport};

/// A byte stream to the daemon.
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Unix($stream) => $call,
            Socket::Tcp($stream) => $call,
            Socket::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, buffers))
    }
    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

/// Opens a connection and starts its driver.
pub(crate) async fn open(endpoint: &Endpoint) -> Result<http1::SendRequest<Body>, ClientError> {
    let failed = |source: io::Error| connect_error(endpoint, source);
    let socket = match &endpoint.transport {
        Transport::Unix(path) => Socket::Unix(UnixStream::connect(path).await.map_err(failed)?),
        Transport::Tcp {
            host, port, tls, ..
        } => {
            let stream = connect_tcp(host, *port).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            match tls {
                None => Socket::Tcp(stream),
                Some(files) => {
                    let name = rustls::pki_types::ServerName::try_from(host.clone())
                        .map_err(|error| ClientError::Configuration(format!("{host}: {error}")))?;
                    let connector = tokio_rustls::TlsConnector::from(files.client_config()?);
                    Socket::Tls(Box::new(
                        connector.connect(name, stream).await.map_err(failed)?,
                    ))
                }
            }
        }
    };
    let (sender, connection) = http1::Builder::new()
        .handshake(TokioIo::new(socket))
        .await?;
    tokio::spawn(async move {
        // Whoever uses the connection sees the error; there is nobody else to tell.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

/// Connects to a host by address or name. Names go through hickory, not through the C library.
async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    if let Ok(address) = host.parse::<std::net::IpAddr>() {
        return TcpStream::connect(std::net::SocketAddr::new(address, port)).await;
    }
    let resolver = hickory_resolver::TokioResolver::builder_tokio()
        .map_err(io::Error::other)?
        .build()
        .map_err(io::Error::other)?;
    let mut last = io::Error::new(
        io::ErrorKind::NotFound,
        format!("lookup {host}: no such host"),
    );
    for address in resolver
        .lookup_ip(host)
        .await
        .map_err(io::Error::other)?
        .iter()
    {
        match TcpStream::connect(std::net::SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_error(endpoint: &Endpoint, source: io::Error) -> ClientError {
    let host = endpoint.url.clone();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning { host }
        }
        io::ErrorKind::PermissionDenied => {
            let group = match &endpoint.transport {
                Transport::Unix(path) => socket_group(path),
                Transport::Tcp { .. } => None,
            };
            ClientError::PermissionDenied {
                host,
                group: group.unwrap_or_else(|| String::from("kekkai")),
            }
        }
        _ => ClientError::Connect { host, source },
    }
}

/// The name of the group that owns the socket, from /etc/group.
fn socket_group(path: &std::path::Path) -> Option<String> {
    let gid = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(path).ok()?);
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    });
    name.filter(|name| name != "root")
}

/// A connection that stopped speaking HTTP: raw bytes both ways.
#[derive(Debug)]
pub struct Hijacked {
    /// The content type the daemon announced (`application/vnd.docker.raw-stream` or `…multiplexed-stream`).
    pub content_type: Option<String>,
    /// The stream. Shutting down its write side is the end of standard input.
    pub io: TokioIo<hyper::upgrade::Upgraded>,
}
