//! Reads a stream in a thread of its own, a little ahead, and hashes it there: inflating and hashing one layer take as
//! long as unpacking it, so the two are done at once.
//!
//! What must stay true: the buffers are few and are used again (fresh memory costs more than filling it); the hash is of
//! every byte up to the end, or there is none.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};

use kekkai_content::Sha256;
use kekkai_types::Digest;

/// Bytes of one buffer.
const BUFFER: usize = 256 << 10;
/// Buffers in all.
const BUFFERS: usize = 4;

/// The reading end.
pub(crate) struct Ahead {
    filled: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
}

/// The thread's end.
pub(crate) struct Source {
    filled: SyncSender<io::Result<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
}

/// Makes both ends.
pub(crate) fn pair() -> (Source, Ahead) {
    let (filled_in, filled) = sync_channel(BUFFERS);
    let (empty, empty_out) = channel();
    (
        Source {
            filled: filled_in,
            empty: empty_out,
        },
        Ahead {
            filled,
            empty,
            current: Vec::new(),
            position: 0,
        },
    )
}

impl Source {
    /// Reads `input` to its end. `None` when it broke, or when nobody reads on.
    pub(crate) fn run(self, input: &mut (dyn Read + Send)) -> Option<Digest> {
        let mut hash = Sha256::default();
        let mut made = 0;
        loop {
            let mut buffer = match self.empty.try_recv() {
                Ok(buffer) => buffer,
                Err(TryRecvError::Empty) if made < BUFFERS => {
                    made += 1;
                    Vec::with_capacity(BUFFER)
                }
                Err(TryRecvError::Empty) => self.empty.recv().ok()?,
                Err(TryRecvError::Disconnected) => return None,
            };
            buffer.resize(BUFFER, 0);
            let outcome = fill(input, &mut buffer);
            match outcome {
                Ok(0) => return Some(hash.finish()),
                Ok(length) => {
                    buffer.truncate(length);
                    hash.update(&buffer);
                    self.filled.send(Ok(buffer)).ok()?;
                }
                Err(error) => {
                    // The reading end reports it.
                    let _ = self.filled.send(Err(error));
                    return None;
                }
            }
        }
    }
}

/// Fills the buffer as far as the stream goes.
fn fill(input: &mut (dyn Read + Send), buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match input.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let data = self.fill_buf()?;
        let length = data.len().min(buffer.len());
        buffer[..length].copy_from_slice(&data[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len() {
            // The thread is gone when nothing is left to read; then nobody wants the buffer.
            let _ = self.empty.send(std::mem::take(&mut self.current));
            self.position = 0;
            self.current = match self.filled.recv() {
                Ok(filled) => filled?,
                Err(_) => Vec::new(),
            };
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, amount: usize) {
        self.position = (self.position + amount).min(self.current.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(
        input: &mut (dyn Read + Send),
        read: impl FnOnce(Ahead) -> io::Result<u64>,
    ) -> (Option<Digest>, io::Result<u64>) {
        let (source, ahead) = pair();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || source.run(input));
            let outcome = read(ahead);
            (thread.join().unwrap(), outcome)
        })
    }

    #[test]
    fn everything_arrives_and_is_hashed() {
        let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut copy = Vec::new();
        let (digest, outcome) =
            through(&mut &data[..], |mut ahead| io::copy(&mut ahead, &mut copy));
        assert_eq!(outcome.unwrap(), 3_000_000);
        assert!(copy == data);
        assert_eq!(digest.unwrap(), Sha256::of(&data));
        let (digest, _) = through(&mut io::empty(), |mut ahead| {
            io::copy(&mut ahead, &mut io::sink())
        });
        assert_eq!(digest.unwrap(), Sha256::of(b""));
    }

    #[test]
    fn a_broken_end_on_either_side() {
        struct Broken(u32);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 3 {
                    Err(io::Error::other("broken"))
                } else {
                    Ok(buffer.len())
                }
            }
        }
        let (digest, outcome) = through(&mut Broken(0), |mut ahead| {
            io::copy(&mut ahead, &mut io::sink())
        });
        assert!(digest.is_none());
        assert_eq!(outcome.unwrap_err().to_string(), "broken");
        let (digest, _) = through(&mut io::repeat(1), |ahead| {
            drop(ahead);
            Ok(0)
        });
        assert!(digest.is_none());
    }
}
