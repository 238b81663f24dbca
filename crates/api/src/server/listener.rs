//! Sockets to listen on: unix paths, TCP with or without TLS, and descriptors handed over by systemd.
//!
//! What must stay true: a unix socket is never open to more people than it ends up being, not for an instant; the
//! socket of a living daemon is never taken away.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Gid, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::server::Connection;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Time that a client has for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another daemon answers on this path.
    #[error("can't create unix socket {0}: address already in use by a running daemon")]
    InUse(PathBuf),
    /// The kernel refuses.
    #[error("failed to listen on {address}")]
    Io {
        /// What was to be listened on.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl ListenError {
    fn io(address: &str) -> impl Fn(io::Error) -> Self + use<> {
        let address = address.to_owned();
        move |source| Self::Io {
            address: address.clone(),
            source,
        }
    }
}

/// A listening socket.
pub struct Listener {
    socket: Socket,
    /// For logs: `unix:///run/kekkai/kekkai.sock`.
    address: String,
}

enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener, Option<TlsAcceptor>),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Listener {
    /// Listens on a path, mode 0660, owned by `group` where it exists.
    ///
    /// # Errors
    /// When a daemon answers there already, or the kernel refuses.
    pub fn unix(path: &Path, group: Option<u32>) -> Result<Self, ListenError> {
        let address = format!("unix://{}", path.display());
        let error = ListenError::io(&address);
        remove_stale(path)?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(&error)?;
        }
        let listen = || -> rustix::io::Result<OwnedFd> {
            let name = SocketAddrUnix::new(path)?;
            let socket = rustix::net::socket_with(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                None,
            )?;
            // The file gets the mode of the socket's inode, so nobody else can connect before the owner is set.
            rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
            rustix::net::bind(&socket, &name)?;
            if let Some(group) = group {
                rustix::fs::chown(path, None, Some(Gid::from_raw(group)))?;
            }
            rustix::fs::chmod(path, Mode::from_raw_mode(0o660))?;
            rustix::net::listen(&socket, BACKLOG)?;
            Ok(socket)
        };
        let socket = listen().map_err(io::Error::from).map_err(&error)?;
        let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))
            .map_err(&error)?;
        Ok(Self {
            socket: Socket::Unix(listener),
            address,
        })
    }

    /// Listens on TCP; with TLS when it is configured.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn tcp(address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Result<Self, ListenError> {
        let shown = format!("tcp://{address}");
        let error = ListenError::io(&shown);
        let socket = std::net::TcpListener::bind(address).map_err(&error)?;
        Self::from_tcp(socket, tls, shown)
    }

    fn from_tcp(
        socket: std::net::TcpListener,
        tls: Option<Arc<ServerConfig>>,
        address: String,
    ) -> Result<Self, ListenError> {
        let error = ListenError::io(&address);
        socket.set_nonblocking(true).map_err(&error)?;
        let socket = TcpListener::from_std(socket).map_err(&error)?;
        Ok(Self {
            socket: Socket::Tcp(socket, tls.map(TlsAcceptor::from)),
            address,
        })
    }

    /// A listening socket that somebody else made (socket activation).
    ///
    /// # Errors
    /// When it is no stream socket of a family that we serve.
    pub fn inherited(fd: OwnedFd, tls: Option<Arc<ServerConfig>>) -> Result<Self, ListenError> {
        let address = "fd://".to_owned();
        let error = ListenError::io(&address);
        let family = rustix::net::sockopt::socket_domain(&fd).map_err(|e| error(e.into()))?;
        if family == AddressFamily::UNIX {
            let socket = std::os::unix::net::UnixListener::from(fd);
            socket.set_nonblocking(true).map_err(&error)?;
            let listener = UnixListener::from_std(socket).map_err(&error)?;
            return Ok(Self {
                socket: Socket::Unix(listener),
                address,
            });
        }
        Self::from_tcp(std::net::TcpListener::from(fd), tls, address)
    }

    /// What is listened on, as `--host` names it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for a client. What remains to be done for this client alone (a TLS handshake) is in the second step.
    pub(crate) async fn accept(&self) -> io::Result<Pending> {
        match &self.socket {
            Socket::Unix(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| Pending::Ready(Connection::Unix(stream))),
            Socket::Tcp(listener, tls) => {
                let (stream, _) = listener.accept().await?;
                // Small frames of interactive sessions must not wait for each other.
                stream.set_nodelay(true)?;
                rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
                Ok(match tls {
                    None => Pending::Ready(Connection::Tcp(stream)),
                    Some(acceptor) => Pending::Handshake(acceptor.clone(), stream),
                })
            }
        }
    }
}

/// A client that has connected.
pub(crate) enum Pending {
    Ready(Connection),
    Handshake(TlsAcceptor, tokio::net::TcpStream),
}

impl Pending {
    /// The connection, ready for HTTP.
    pub(crate) async fn establish(self) -> io::Result<Connection> {
        match self {
            Self::Ready(connection) => Ok(connection),
            Self::Handshake(acceptor, stream) => {
                let stream =
                    tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
                Ok(Connection::Tls(Box::new(stream)))
            }
        }
    }
}

/// Removes a socket that nobody listens on; refuses one that answers, and leaves what is no socket alone.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let error = ListenError::io(&format!("unix://{}", path.display()));
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(ListenError::InUse(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            use std::os::unix::fs::FileTypeExt;
            let kind = std::fs::symlink_metadata(path).map_err(&error)?.file_type();
            if !kind.is_socket() {
                return Err(error(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "a file that is no socket is there",
                )));
            }
            std::fs::remove_file(path).map_err(&error)
        }
    }
}
