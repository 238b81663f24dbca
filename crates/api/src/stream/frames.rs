//! Docker's stream formats: raw bytes for a terminal, else pieces with a header of eight bytes.
//!
//! ```text
//!  0      1 2 3   4 5 6 7              8 …
//! ┌──────┬───────┬────────────────────┬─────────┐
//! │stream│ 0 0 0 │ length, big endian │ payload │
//! └──────┴───────┴────────────────────┴─────────┘
//! ```

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{FutureExt, stream};
use kekkai_engine::{OutputFrame, OutputStream};

use crate::http::{ApiVersion, Body};

/// How output is put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Bytes as they are.
    Raw,
    /// Each piece with its header.
    Multiplexed,
}

/// Bytes of log output that are gathered into one piece of the body.
const GATHER: usize = 64 << 10;

impl Framing {
    /// Raw for a terminal.
    pub(crate) fn for_terminal(tty: bool) -> Self {
        if tty { Self::Raw } else { Self::Multiplexed }
    }

    /// The content type; clients before 1.42 know one only.
    pub(crate) fn content_type(self, version: ApiVersion) -> &'static str {
        match self {
            Self::Multiplexed if version.at_least(42) => {
                "application/vnd.docker.multiplexed-stream"
            }
            Self::Multiplexed | Self::Raw => "application/vnd.docker.raw-stream",
        }
    }

    /// The header of a frame; `None` when there is none.
    pub(crate) fn header(self, frame: &OutputFrame) -> Option<[u8; 8]> {
        match self {
            Self::Raw => None,
            Self::Multiplexed => {
                let length = u32::try_from(frame.data.len())
                    .unwrap_or(u32::MAX)
                    .to_be_bytes();
                Some([
                    frame.stream.number(),
                    0,
                    0,
                    0,
                    length[0],
                    length[1],
                    length[2],
                    length[3],
                ])
            }
        }
    }

    fn put(self, frame: &OutputFrame, into: &mut BytesMut) {
        if let Some(header) = self.header(frame) {
            into.put_slice(&header);
        }
        into.put_slice(&frame.data);
    }
}

/// A response body of all that `output` gives. What is there already goes out in one piece.
pub(crate) fn frames_body(output: OutputStream, framing: Framing) -> Body {
    Body::stream(stream::unfold(Some(output), move |state| async move {
        let mut output = state?;
        let mut gathered = BytesMut::new();
        let mut next = output.next().await;
        loop {
            match next {
                Some(Ok(frame)) => framing.put(&frame, &mut gathered),
                Some(Err(error)) => {
                    tracing::warn!(%error, "reading a container's output failed");
                    let broken: io::Result<Bytes> = Err(io::Error::other(error.to_string()));
                    return Some((broken, None));
                }
                None if gathered.is_empty() => return None,
                None => return Some((Ok(gathered.freeze()), None)),
            }
            if gathered.len() >= GATHER {
                break;
            }
            match output.next().now_or_never() {
                Some(ready) => next = ready,
                None => break,
            }
        }
        Some((Ok(gathered.freeze()), Some(output)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kekkai_engine::model::StdStream;

    #[test]
    fn header_of_a_frame() {
        let frame = OutputFrame {
            stream: StdStream::Stderr,
            data: Bytes::from_static(b"hi\n"),
        };
        assert_eq!(
            Framing::Multiplexed.header(&frame),
            Some([2, 0, 0, 0, 0, 0, 0, 3])
        );
        assert_eq!(Framing::Raw.header(&frame), None);
    }
}
