//! The multiplexed stream of attach, exec and logs: frames of `[stream, 0, 0, 0, length big-endian]` and payload.
//!
//! The demultiplexer hands over payload as it comes, without waiting for whole frames: a frame may be longer than any
//! buffer we would want to hold.

use bytes::{Buf, Bytes};

/// Which of the container's streams some bytes belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard input, echoed (never seen in practice).
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The daemon tells of an error in the middle of the stream.
    SystemError,
}

/// Splits a byte stream into the payloads of its frames.
#[derive(Debug, Default)]
pub struct Demultiplexer {
    header: [u8; 8],
    header_length: usize,
    remaining: u32,
    stream: Option<Stream>,
}

impl Demultiplexer {
    /// Takes the next bytes and calls `output` for each piece of payload.
    ///
    /// # Errors
    /// A stream number that the protocol does not have, or `output`'s own error.
    pub fn feed(
        &mut self,
        mut input: Bytes,
        mut output: impl FnMut(Stream, Bytes) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        while input.has_remaining() {
            if let (Some(stream), true) = (self.stream, self.remaining > 0) {
                let take = usize::try_from(self.remaining)
                    .unwrap_or(usize::MAX)
                    .min(input.len());
                self.remaining -= u32::try_from(take).unwrap_or(self.remaining);
                output(stream, input.split_to(take))?;
                continue;
            }
            let take = (8 - self.header_length).min(input.len());
            self.header[self.header_length..self.header_length + take]
                .copy_from_slice(&input[..take]);
            input.advance(take);
            self.header_length += take;
            if self.header_length == 8 {
                self.header_length = 0;
                self.stream = Some(match self.header[0] {
                    0 => Stream::Stdin,
                    1 => Stream::Stdout,
                    2 => Stream::Stderr,
                    3 => Stream::SystemError,
                    other => {
                        return Err(std::io::Error::new(
                            std::io::ErrorKind::InvalidData,
                            format!("Unrecognized input header: {other}"),
                        ));
                    }
                });
                let [_, _, _, _, a, b, c, d] = self.header;
                self.remaining = u32::from_be_bytes([a, b, c, d]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_split_anywhere() {
        let wire =
            b"\x01\0\0\0\0\0\0\x03abc\x02\0\0\0\0\0\0\x02de\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01f";
        for step in 1..wire.len() {
            let mut demultiplexer = Demultiplexer::default();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for chunk in wire.chunks(step) {
                demultiplexer
                    .feed(Bytes::copy_from_slice(chunk), |stream, bytes| {
                        if stream == Stream::Stdout {
                            out.extend_from_slice(&bytes)
                        } else {
                            err.extend_from_slice(&bytes)
                        }
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!((out.as_slice(), err.as_slice()), (&b"abcf"[..], &b"de"[..]));
        }
    }

    #[test]
    fn unknown_stream_is_an_error() {
        let result = Demultiplexer::default()
            .feed(Bytes::from_static(b"\x09\0\0\0\0\0\0\x01x"), |_, _| Ok(()));
        assert!(result.is_err());
    }
}
