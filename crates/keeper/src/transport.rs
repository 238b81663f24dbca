//! Messages of the protocol over a `SOCK_SEQPACKET` socket: one packet each, long bodies as sealed memfds.
//!
//! Used by client and keeper, and between keeper and launchers. What must stay true: nothing longer than the
//! protocol's bounds is accepted; a memfd that is not sealed is refused, for its owner could change it while we read.

use std::borrow::Cow;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kekkai_sys::{Errno, memfd, socket};

use crate::protocol::{
    DecodeError, FLAG_MEMFD, HEADER, Header, Kind, MAX_BODY, MAX_FDS, MAX_INLINE,
};

/// The size of a buffer that receives any message.
pub(crate) const BUFFER: usize = HEADER + MAX_INLINE;

/// Why nothing sensible was received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// The other side has closed.
    #[error("the connection is closed")]
    Closed,
    /// The socket is non-blocking and empty.
    #[error("nothing to receive")]
    Empty,
    /// The packet is no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The system call failed.
    #[error("cannot receive")]
    Io(#[source] Errno),
}

/// A received message.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) header: Header,
    pub(crate) body: Cow<'a, [u8]>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Sends a message.
///
/// # Errors
/// Those of `sendmsg(2)`: `EAGAIN` for a full non-blocking socket; `EMSGSIZE` for a body over the bound.
pub(crate) fn send(
    socket: impl AsFd,
    kind: Kind,
    version: u16,
    sequence: u64,
    body: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    if body.len() > MAX_BODY {
        return Err(Errno::MSGSIZE);
    }
    let mut header = Header {
        version,
        kind,
        flags: 0,
        sequence,
    };
    if body.len() <= MAX_INLINE {
        let mut packet = Vec::with_capacity(HEADER + body.len());
        packet.extend_from_slice(&header.encode());
        packet.extend_from_slice(body);
        return socket::send(socket, &packet, fds).map(drop);
    }
    header.flags = FLAG_MEMFD;
    let file = memfd::sealed(c"kekkai-message", body)?;
    let mut all = vec![file.as_fd()];
    all.extend_from_slice(fds);
    socket::send(socket, &header.encode(), &all).map(drop)
}

/// Receives a message into `buffer`, which has [`BUFFER`] bytes.
///
/// # Errors
/// See [`ReceiveError`]. Descriptors of a refused message are closed.
pub(crate) fn receive<'a>(
    socket: impl AsFd,
    buffer: &'a mut [u8],
) -> Result<Message<'a>, ReceiveError> {
    parse(socket::receive(socket, buffer), buffer)
}

/// As [`receive`], but leaves the message where it is (the descriptors are duplicates), until [`discard`].
///
/// # Errors
/// As [`receive`].
pub(crate) fn peek<'a>(
    socket: impl AsFd,
    buffer: &'a mut [u8],
) -> Result<Message<'a>, ReceiveError> {
    parse(peek_raw(socket, buffer), buffer)
}

fn peek_raw(socket: impl AsFd, buffer: &mut [u8]) -> Result<socket::Received, Errno> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(socket::MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let rights = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let fds = rights.flatten().collect();
    let truncated = message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(socket::Received {
        length: message.bytes,
        fds,
        truncated,
    })
}

/// Takes the message that was looked at out of the socket. Its descriptors are not received again.
pub(crate) fn discard(socket: impl AsFd) {
    let _ = rustix::net::recv(socket, &mut [0; 1], rustix::net::RecvFlags::DONTWAIT);
}

fn parse(
    received: Result<socket::Received, Errno>,
    buffer: &[u8],
) -> Result<Message<'_>, ReceiveError> {
    let received = match received {
        Ok(received) if received.length == 0 => return Err(ReceiveError::Closed),
        Ok(received) => received,
        Err(Errno::AGAIN) => return Err(ReceiveError::Empty),
        Err(Errno::CONNRESET | Errno::PIPE) => return Err(ReceiveError::Closed),
        Err(error) => return Err(ReceiveError::Io(error)),
    };
    if received.truncated {
        return Err(DecodeError::TooLong(BUFFER as u64 + 1).into());
    }
    let (header, inline) = Header::decode(&buffer[..received.length])?;
    let mut fds = received.fds;
    let body = if header.flags & FLAG_MEMFD == 0 {
        Cow::Borrowed(inline)
    } else {
        if fds.is_empty() || !inline.is_empty() {
            return Err(DecodeError::NotAMessage.into());
        }
        let file = fds.remove(0);
        let body = memfd::read_sealed(&file, MAX_BODY).map_err(|error| match error {
            Errno::FBIG => DecodeError::TooLong(MAX_BODY as u64 + 1),
            _ => DecodeError::NotAMessage,
        })?;
        Cow::Owned(body)
    };
    if fds.len() > MAX_FDS {
        return Err(DecodeError::NotAMessage.into());
    }
    Ok(Message { header, body, fds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_bodies() {
        let (a, b) = socket::message_pair().unwrap();
        let mut buffer = vec![0; BUFFER];
        for length in [0, 1, MAX_INLINE, MAX_INLINE + 1, 3 << 20] {
            let body = vec![7; length];
            send(&a, Kind::Request, 1, 42, &body, &[a.as_fd()]).unwrap();
            let message = receive(&b, &mut buffer).unwrap();
            assert_eq!(
                (message.header.sequence, message.header.kind),
                (42, Kind::Request)
            );
            assert_eq!((&*message.body, message.fds.len()), (&body[..], 1));
        }
        send(&a, Kind::Request, 1, 43, b"x", &[a.as_fd()]).unwrap();
        send(&a, Kind::Request, 1, 44, b"y", &[]).unwrap();
        for _ in 0..2 {
            let message = peek(&b, &mut buffer).unwrap();
            assert_eq!((message.header.sequence, message.fds.len()), (43, 1));
        }
        discard(&b);
        assert_eq!(receive(&b, &mut buffer).unwrap().header.sequence, 44);
        assert_eq!(
            send(&a, Kind::Request, 1, 1, &vec![0; MAX_BODY + 1], &[]),
            Err(Errno::MSGSIZE)
        );
        drop(a);
        assert!(matches!(
            receive(&b, &mut buffer),
            Err(ReceiveError::Closed)
        ));
    }

    #[test]
    fn foreign_packets_are_refused() {
        let (a, b) = socket::message_pair().unwrap();
        let mut buffer = vec![0; BUFFER];
        let mut open = Header {
            version: 1,
            kind: Kind::Event,
            flags: FLAG_MEMFD,
            sequence: 0,
        }
        .encode();
        socket::send(&a, &open, &[]).unwrap();
        assert!(matches!(
            receive(&b, &mut buffer),
            Err(ReceiveError::Decode(_))
        ));
        // A descriptor that is no sealed memfd.
        socket::send(&a, &open, &[a.as_fd()]).unwrap();
        assert!(matches!(
            receive(&b, &mut buffer),
            Err(ReceiveError::Decode(_))
        ));
        open[0] = b'X';
        socket::send(&a, &open, &[]).unwrap();
        assert!(matches!(
            receive(&b, &mut buffer),
            Err(ReceiveError::Decode(DecodeError::NotAMessage))
        ));
    }
}
