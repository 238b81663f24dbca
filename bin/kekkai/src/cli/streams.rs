//! Standard input and output without threads and without changing the modes of descriptors that others share.
//!
//! A shared descriptor must not become non-blocking, so each read and write first asks poll(2), and waits with epoll where
//! it has to. Regular files, which epoll refuses, are read and written directly.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A pipe that poll(2) calls writable takes at least this much without blocking (PIPE_BUF).
const SAFE_WRITE: usize = 4096;

/// Which of the process's own descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standard {
    Input,
    Output,
    Error,
}

impl Standard {
    fn fd(self) -> BorrowedFd<'static> {
        match self {
            Self::Input => rustix::stdio::stdin(),
            Self::Output => rustix::stdio::stdout(),
            Self::Error => rustix::stdio::stderr(),
        }
    }
}

/// One of the standard descriptors, ready for waiting.
#[derive(Debug)]
pub(crate) struct StandardFd {
    fd: BorrowedFd<'static>,
    waiter: Option<AsyncFd<BorrowedFd<'static>>>,
}

impl StandardFd {
    /// Prepares a descriptor. Needs a runtime.
    pub(crate) fn new(which: Standard) -> Self {
        let fd = which.fd();
        let interest = if which == Standard::Input {
            Interest::READABLE
        } else {
            Interest::WRITABLE
        };
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; a borrowed descriptor of 'static lifetime stays open"
        )]
        // Regular files answer EPERM: they are always ready.
        let waiter = AsyncFd::with_interest(fd, interest).ok();
        Self { fd, waiter }
    }

    fn is_ready(&self, flags: PollFlags) -> bool {
        let mut polls = [PollFd::from_borrowed_fd(self.fd.as_fd(), flags)];
        matches!(poll(&mut polls, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(count) if count > 0)
    }

    async fn wait(&self, flags: PollFlags) -> io::Result<()> {
        let Some(waiter) = &self.waiter else {
            return Ok(());
        };
        while !self.is_ready(flags) {
            let mut guard = if flags.contains(PollFlags::IN) {
                waiter.readable().await?
            } else {
                waiter.writable().await?
            };
            if self.is_ready(flags) {
                break;
            }
            guard.clear_ready();
        }
        Ok(())
    }

    /// Reads what there is; 0 at the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN).await?;
            match rustix::io::read(self.fd, &mut *buffer) {
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => tokio::task::yield_now().await,
                // A terminal that hung up has nothing more to say.
                Err(Errno::IO) => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes everything.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.wait(PollFlags::OUT).await?;
            let limit = if self.waiter.is_some() {
                SAFE_WRITE
            } else {
                usize::MAX
            };
            match rustix::io::write(self.fd, &bytes[..bytes.len().min(limit)]) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => tokio::task::yield_now().await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Finds the detach sequence in what is typed.
#[derive(Debug)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

/// What became of typed bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Send these.
    Send(Vec<u8>),
    /// Send these, and then the sequence was complete.
    Detach(Vec<u8>),
}

impl DetachKeys {
    /// Ctrl-P Ctrl-Q.
    const DEFAULT: &'static [u8] = &[16, 17];

    /// Reads `ctrl-a,b,@`; empty means the default.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self {
                keys: Self::DEFAULT.to_vec(),
                matched: 0,
            });
        }
        let mut keys = Vec::new();
        for key in text.split(',') {
            let mut chars = key.chars();
            let byte = match (chars.next(), chars.next()) {
                (Some(c), None) if c.is_ascii() => u32::from(c),
                _ => match key.strip_prefix("ctrl-").map(str::as_bytes) {
                    Some([c @ b'a'..=b'z']) => u32::from(c - b'a' + 1),
                    Some([b'@']) => 0,
                    Some([b'[']) => 27,
                    Some([b'\\']) => 28,
                    Some([b']']) => 29,
                    Some([b'^']) => 30,
                    Some([b'_']) => 31,
                    _ => return Err(format!("Unknown character: '{key}'")),
                },
            };
            keys.push(u8::try_from(byte).map_err(|_| format!("Unknown character: '{key}'"))?);
        }
        Ok(Self { keys, matched: 0 })
    }

    /// Takes typed bytes. A beginning of the sequence is held back until it fails to go on.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Typed {
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return Typed::Detach(out);
                }
                continue;
            }
            if self.matched > 0 {
                out.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
                if *byte == self.keys[0] {
                    self.matched = 1;
                    continue;
                }
            }
            out.push(*byte);
        }
        Typed::Send(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_sequences() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.feed(b"ab\x10"), Typed::Send(b"ab".to_vec()));
        assert_eq!(keys.feed(b"\x11x"), Typed::Detach(Vec::new()));
        assert_eq!(keys.feed(b"\x10z"), Typed::Send(b"\x10z".to_vec()));
        assert_eq!(keys.feed(b"\x10\x10\x11"), Typed::Detach(b"\x10".to_vec()));
        let mut keys = DetachKeys::parse("ctrl-x,ctrl-@,q").unwrap();
        assert_eq!(keys.feed(b"\x18\0q"), Typed::Detach(Vec::new()));
        assert!(DetachKeys::parse("ctrl-é").is_err());
        assert!(DetachKeys::parse("abc").is_err());
    }
}
