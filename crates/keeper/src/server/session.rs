//! One attached client's output: straight into its socket, or into a file when it reads too slowly.
//!
//! What must stay true: sending never waits; bytes reach the client in order and none is lost until the bound is
//! passed, and then the client is told so in an error frame; the file's offset is where reading goes on, so that a new
//! keeper that takes the descriptor over goes on there.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use crate::protocol::{Frame, Stream};

/// A link's place and serial number.
pub(crate) type LinkKey = (usize, u16);

/// The most bytes that wait for one client. Beyond it the session ends with an error frame.
pub(crate) const MAX_BACKLOG: u64 = 1 << 30;
/// Bytes of a frame's head in the file: length of the payload, and the stream.
const HEAD: usize = 5;

/// How far a delivery got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Everything is in the socket.
    Sent,
    /// Something waits in the file: call [`Session::flush`] when the socket has room.
    Waiting,
    /// The client is gone.
    Gone,
}

/// The output side of an attach session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) link: LinkKey,
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// Whether it ends as soon as everything is sent.
    pub(crate) ending: bool,
    backlog: Option<Backlog>,
    overflowed: bool,
}

#[derive(Debug)]
struct Backlog {
    file: Arc<File>,
    /// Where the next frame is written.
    end: u64,
    /// Where the next frame is read.
    at: u64,
}

impl Session {
    pub(crate) fn new(link: LinkKey, socket: Arc<OwnedFd>, stdout: bool, stderr: bool) -> Self {
        Self {
            link,
            socket,
            stdout,
            stderr,
            ending: false,
            backlog: None,
            overflowed: false,
        }
    }

    /// Takes over a former keeper's file.
    pub(crate) fn restore(&mut self, file: Arc<File>) -> io::Result<()> {
        let end = file.metadata()?.len();
        let at = rustix::fs::tell(&*file)?;
        self.backlog = Some(Backlog { file, end, at });
        Ok(())
    }

    pub(crate) fn wants(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
            Stream::Error => true,
        }
    }

    /// The file of the waiting bytes, to be recorded.
    pub(crate) fn backlog_file(&self) -> Option<Arc<File>> {
        self.backlog
            .as_ref()
            .map(|backlog| Arc::clone(&backlog.file))
    }

    /// Whether bytes wait.
    pub(crate) fn is_waiting(&self) -> bool {
        self.backlog.is_some()
    }

    /// Hands the client these bytes of a stream.
    pub(crate) fn deliver(&mut self, stream: Stream, data: &[u8], spill: &Path) -> Delivery {
        if self.overflowed {
            return Delivery::Waiting;
        }
        let mut rest = data;
        while !rest.is_empty() {
            let (payload, after) = rest.split_at(rest.len().min(Frame::MAX_PAYLOAD));
            if self.backlog.is_some() {
                break;
            }
            match send(&self.socket, stream, payload) {
                Ok(true) => rest = after,
                Ok(false) => match open_backlog(spill) {
                    Ok(backlog) => self.backlog = Some(backlog),
                    Err(_) => return self.give_up(),
                },
                Err(_) => return Delivery::Gone,
            }
        }
        let Some(backlog) = &mut self.backlog else {
            return Delivery::Sent;
        };
        for payload in rest.chunks(Frame::MAX_PAYLOAD) {
            if backlog.push(stream, payload).is_err() {
                return self.give_up();
            }
        }
        Delivery::Waiting
    }

    /// Sends what waits, as far as the socket has room.
    pub(crate) fn flush(&mut self) -> Delivery {
        while let Some(backlog) = &mut self.backlog {
            let frame = match backlog.front() {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    self.backlog = None;
                    break;
                }
                Err(_) => return Delivery::Gone,
            };
            match send(&self.socket, frame.0, &frame.1) {
                Ok(true) if backlog.pop(frame.1.len()).is_ok() => {}
                Ok(false) => return Delivery::Waiting,
                _ => return Delivery::Gone,
            }
        }
        // After its error frame a session that lost bytes ends.
        if self.overflowed {
            Delivery::Gone
        } else {
            Delivery::Sent
        }
    }

    /// No more bytes can be kept: the client gets what was kept, and then an error instead of a silent gap.
    fn give_up(&mut self) -> Delivery {
        const MESSAGE: &[u8] =
            b"output was lost: the client reads too slowly and the backlog is full";
        self.overflowed = true;
        match &mut self.backlog {
            Some(backlog) => drop(backlog.push_unbounded(Stream::Error, MESSAGE)),
            None => drop(send(&self.socket, Stream::Error, MESSAGE)),
        }
        if self.backlog.is_some() {
            Delivery::Waiting
        } else {
            Delivery::Gone
        }
    }
}

impl Backlog {
    fn push(&mut self, stream: Stream, payload: &[u8]) -> io::Result<()> {
        if self.end - self.at >= MAX_BACKLOG {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.push_unbounded(stream, payload)
    }

    fn push_unbounded(&mut self, stream: Stream, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(HEAD + payload.len());
        frame.extend_from_slice(&length.to_le_bytes());
        frame.push(stream as u8);
        frame.extend_from_slice(payload);
        self.file.write_all_at(&frame, self.end)?;
        self.end += frame.len() as u64;
        Ok(())
    }

    fn front(&self) -> io::Result<Option<(Stream, Vec<u8>)>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, self.at)?;
        let [a, b, c, d, number] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let frame =
            Frame::parse(std::slice::from_ref(&number)).ok_or(io::ErrorKind::InvalidData)?;
        if length > Frame::MAX_PAYLOAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let stream = frame.stream;
        let mut payload = vec![0; length];
        self.file
            .read_exact_at(&mut payload, self.at + HEAD as u64)?;
        Ok(Some((stream, payload)))
    }

    fn pop(&mut self, payload: usize) -> io::Result<()> {
        self.at += (HEAD + payload) as u64;
        rustix::fs::seek(&*self.file, rustix::fs::SeekFrom::Start(self.at))?;
        Ok(())
    }
}

/// Makes a session's socket ready to be closed: a Unix socket that is closed with something unread in it resets its
/// peer, which then loses what it has not read itself.
pub(crate) fn hang_up(socket: &OwnedFd) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
    let flags = rustix::net::RecvFlags::DONTWAIT;
    while rustix::net::recv(socket, &mut [0; 1], flags).is_ok_and(|(_, length)| length > 0) {}
}

/// Sends one frame; `false` when the socket is full.
fn send(socket: &OwnedFd, stream: Stream, payload: &[u8]) -> io::Result<bool> {
    let head = [stream as u8];
    let parts = [IoSlice::new(&head), IoSlice::new(payload)];
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match sendmsg(
            socket.as_fd(),
            &parts,
            &mut SendAncillaryBuffer::default(),
            flags,
        ) {
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A file that nobody else sees: in the spill directory, or in memory where that cannot be.
fn open_backlog(directory: &Path) -> io::Result<Backlog> {
    use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = match open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file,
        Err(_) => memfd_create("kekkai-backlog", MemfdFlags::CLOEXEC)?,
    };
    Ok(Backlog {
        file: Arc::new(file.into()),
        end: 0,
        at: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_reader_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = kekkai_sys::socket::message_pair().unwrap();
        let mut session = Session::new((0, 0), Arc::new(ours), true, false);
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(
            session.deliver(Stream::Stdout, &data, directory.path()),
            Delivery::Waiting
        );
        let mut got = Vec::new();
        let mut buffer = vec![0; Frame::MAX_PACKET];
        let mut restored = false;
        while got.len() < data.len() {
            let count = kekkai_sys::socket::receive(&theirs, &mut buffer)
                .unwrap()
                .length;
            let frame = Frame::parse(&buffer[..count]).unwrap();
            assert_eq!(frame.stream, Stream::Stdout);
            got.extend_from_slice(frame.payload);
            session.flush();
            if !restored && got.len() > 1_000_000 {
                // As a new keeper would.
                restored = true;
                let file = session.backlog_file().unwrap();
                session = Session::new((0, 0), Arc::clone(&session.socket), true, false);
                session.restore(file).unwrap();
            }
        }
        assert!(got == data);
        assert!(!session.is_waiting());
    }

    #[test]
    fn hanging_up_with_unread_input_resets_nobody() {
        let (ours, theirs) = kekkai_sys::socket::message_pair().unwrap();
        kekkai_sys::socket::send(&theirs, b"unread", &[]).unwrap();
        let mut session = Session::new((0, 0), Arc::new(ours), true, true);
        assert_eq!(
            session.deliver(Stream::Stdout, b"x", Path::new("/")),
            Delivery::Sent
        );
        hang_up(&session.socket);
        drop(session);
        let mut buffer = [0; 8];
        assert_eq!(
            kekkai_sys::socket::receive(&theirs, &mut buffer)
                .unwrap()
                .length,
            2
        );
        assert_eq!(
            kekkai_sys::socket::receive(&theirs, &mut buffer)
                .unwrap()
                .length,
            0
        );
    }

    #[test]
    fn vanished_reader() {
        let (ours, theirs) = kekkai_sys::socket::message_pair().unwrap();
        drop(theirs);
        let mut session = Session::new((0, 0), Arc::new(ours), true, true);
        assert_eq!(
            session.deliver(Stream::Stderr, b"x", Path::new("/")),
            Delivery::Gone
        );
    }
}
