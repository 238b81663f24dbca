//! Finding the keeper, or starting it.
//!
//! What must stay true: at most one keeper per exec root: whoever finds none takes a lock, looks again, and starts one;
//! the keeper gets nothing of the daemon's environment, terminal or descriptors.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::KeeperError;
use crate::client::{KeeperConfig, KeeperInfo};
use crate::protocol::{Kind, OLDEST_VERSION, Request, Response, VERSION, decode_body, encode_body};
use crate::transport::{self, ReceiveError};

/// A connection that has said hello.
pub(crate) struct Connected {
    pub(crate) socket: OwnedFd,
    pub(crate) info: KeeperInfo,
}

/// Connects, starting a keeper if none listens.
pub(crate) fn connect_or_start(config: &KeeperConfig) -> Result<Connected, KeeperError> {
    match dial(config) {
        Err(KeeperError::Connect { .. }) => {}
        result => return result,
    }
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(config.exec_root.join("keeper.lock"))
        .map_err(KeeperError::io("cannot open keeper.lock"))?;
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(KeeperError::io("cannot lock keeper.lock"))?;
    match dial(config) {
        Err(KeeperError::Connect { .. }) => {}
        result => return result,
    }
    start(config)?;
    dial(config)
}

fn dial(config: &KeeperConfig) -> Result<Connected, KeeperError> {
    let path = config.exec_root.join("keeper.sock");
    let failed = |source: io::Error| KeeperError::Connect {
        path: path.clone(),
        source,
    };
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| failed(error.into()))?;
    let address = SocketAddrUnix::new(&path).map_err(|error| failed(error.into()))?;
    connect(&socket, &address).map_err(|error| failed(error.into()))?;
    let hello = Request::Hello {
        version: VERSION,
        build: config.build.clone(),
    };
    transport::send(
        &socket,
        Kind::Request,
        OLDEST_VERSION,
        0,
        &encode_body(&hello)?,
        &[],
    )
    .map_err(|error| failed(error.into()))?;
    let mut buffer = vec![0; transport::BUFFER];
    loop {
        let message = match transport::receive(&socket, &mut buffer) {
            Ok(message) => message,
            Err(ReceiveError::Decode(error)) => return Err(error.into()),
            // It went away between our connecting and its answer.
            Err(ReceiveError::Closed | ReceiveError::Empty) => {
                return Err(failed(io::ErrorKind::ConnectionReset.into()));
            }
            Err(ReceiveError::Io(error)) => return Err(failed(error.into())),
        };
        if message.header.kind == Kind::Event {
            // A restart told to all. If it was before our request was read, that is still to come; if after, the
            // answer was lost with the former keeper.
            transport::send(
                &socket,
                Kind::Request,
                OLDEST_VERSION,
                0,
                &encode_body(&hello)?,
                &[],
            )
            .map_err(|error| failed(error.into()))?;
            continue;
        }
        return match decode_body(message.header.version, &message.body)? {
            Response::Hello { version, .. } if !(OLDEST_VERSION..=VERSION).contains(&version) => {
                Err(KeeperError::Version {
                    theirs: version,
                    ours: VERSION,
                })
            }
            Response::Hello {
                version,
                build,
                keeper,
                guardian,
                generation,
            } => Ok(Connected {
                socket,
                info: KeeperInfo {
                    version,
                    build,
                    keeper,
                    guardian,
                    generation,
                },
            }),
            Response::Failed(failure) => Err(KeeperError::Refused(failure)),
            _ => Err(KeeperError::Decode(crate::protocol::DecodeError::Body)),
        };
    }
}

/// Starts a keeper and waits until it serves.
fn start(config: &KeeperConfig) -> Result<(), KeeperError> {
    let failed = |source: io::Error| KeeperError::Spawn {
        path: config.keeper_exe.clone(),
        source,
    };
    let log = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(config.exec_root.join("keeper.log"))
        .map_err(failed)?;
    let mut command = Command::new(&config.keeper_exe);
    command
        .arg("--exec-root")
        .arg(&config.exec_root)
        .arg("--spill-dir")
        .arg(&config.spill_dir)
        .arg("--build")
        .arg(&config.build)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    if !config.failpoints.is_empty() {
        command.env("KEKKAI_FAILPOINTS", &config.failpoints);
    }
    // The started process ends at once when its guardian and keeper stand.
    let status = command.status().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    Err(failed(io::Error::other(format!(
        "{status}; see keeper.log in the exec root"
    ))))
}
