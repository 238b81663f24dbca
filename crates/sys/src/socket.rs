//! Messages with descriptors over Unix sockets (`SCM_RIGHTS`).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::{Errno, Result};

/// The most descriptors in one message; one launch needs far fewer.
pub const MAX_FDS: usize = 16;

/// A connected pair of `SOCK_SEQPACKET` sockets: every message arrives whole.
///
/// # Errors
/// `EMFILE`.
pub fn message_pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// A received message.
#[derive(Debug)]
pub struct Received {
    /// How many bytes of the buffer it filled; 0 is the end of the connection (or an empty message).
    pub length: usize,
    /// The descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// Whether the buffer was too small for the message.
    pub truncated: bool,
}

/// Sends one message with descriptors. Never raises SIGPIPE.
///
/// # Errors
/// `EPIPE`, `EAGAIN` on a full non-blocking socket, `EMSGSIZE`; `EINVAL` for more than [`MAX_FDS`].
pub fn send(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
    if fds.len() > MAX_FDS {
        return Err(Errno::INVAL);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match rustix::net::sendmsg(
            &socket,
            &[IoSlice::new(message)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Receives one message with its descriptors.
///
/// # Errors
/// `EAGAIN` on an empty non-blocking socket, `ECONNRESET`; `ENFILE` if descriptors were lost because there was no room
/// for them (those that arrived are closed).
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut parts = [IoSliceMut::new(&mut *buffer)];
        match rustix::net::recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::NFILE);
    }
    Ok(Received {
        length: message.bytes,
        fds,
        truncated: message.flags.contains(ReturnFlags::TRUNC),
    })
}

/// Pid, uid and gid of the process that connected a Unix socket.
///
/// # Errors
/// `ENOTCONN` and the like.
pub fn peer(socket: impl AsFd) -> Result<(i32, u32, u32)> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok((
        credentials.pid.as_raw_nonzero().get(),
        credentials.uid.as_raw(),
        credentials.gid.as_raw(),
    ))
}

/// How many bytes that were sent on a Unix stream socket its peer has not read yet, the kernel's overhead included
/// (`SIOCOUTQ`): 0 means that it has read everything.
///
/// # Errors
/// `ENOTTY` for something that is no socket.
pub fn unread_by_peer(socket: impl AsFd) -> Result<u32> {
    let mut length: libc::c_int = 0;
    // SAFETY: writes one integer.
    let result =
        unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut length) };
    crate::check(result.into())?;
    u32::try_from(length).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_travel() {
        let (a, b) = message_pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send(&a, b"take", &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut buffer = [0u8; 16];
        let received = receive(&b, &mut buffer).unwrap();
        assert_eq!(
            (received.length, received.fds.len(), received.truncated),
            (4, 1, false)
        );
        rustix::io::write(&received.fds[0], b"x").unwrap();
        drop(received);
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 1);
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 0);
    }

    #[test]
    fn long_messages_are_told() {
        let (a, b) = message_pair().unwrap();
        send(&a, &[1; 100], &[]).unwrap();
        assert!(receive(&b, &mut [0u8; 10]).unwrap().truncated);
    }

    #[test]
    fn what_the_peer_has_not_read() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(unread_by_peer(&a), Ok(0));
        rustix::io::write(&a, b"hello").unwrap();
        assert!(unread_by_peer(&a).unwrap() > 0);
        rustix::io::read(&b, &mut [0u8; 16]).unwrap();
        assert_eq!(unread_by_peer(&a), Ok(0));
    }
}
