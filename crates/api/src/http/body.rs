//! Response bodies: nothing, one piece, one piece that is still being made, or a stream.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

type Later = Pin<Box<dyn Future<Output = Bytes> + Send>>;
type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The body of a response. The head is sent as soon as the body is asked and has nothing yet, so a client of `wait`
/// and `events` knows at once that it is being served.
pub(crate) struct Body(Kind);

enum Kind {
    Empty,
    Full(Bytes),
    Later(Later),
    Channel(mpsc::Receiver<io::Result<Bytes>>),
    Stream(Pieces),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self(Kind::Empty)
    }

    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Full(bytes.into()))
    }

    /// A body that is one piece, known when `future` is done; dropped with the connection.
    pub(crate) fn later(future: impl Future<Output = Bytes> + Send + 'static) -> Self {
        Self(Kind::Later(Box::pin(future)))
    }

    pub(crate) fn channel(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self(Kind::Channel(pieces))
    }

    pub(crate) fn stream(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self(Kind::Stream(Box::pin(pieces)))
    }

    /// The length, where it is known beforehand.
    pub(crate) fn len(&self) -> Option<usize> {
        match &self.0 {
            Kind::Empty => Some(0),
            Kind::Full(bytes) => Some(bytes.len()),
            Kind::Later(_) | Kind::Channel(_) | Kind::Stream(_) => None,
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("len", &self.len()).finish()
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Later(future) => match future.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(bytes) => {
                    self.0 = Kind::Empty;
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
            },
            Kind::Channel(pieces) => pieces
                .poll_recv(cx)
                .map(|piece| piece.map(|bytes| bytes.map(Frame::data))),
            Kind::Stream(pieces) => pieces
                .as_mut()
                .poll_next(cx)
                .map(|piece| piece.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        self.len().map_or_else(SizeHint::default, |length| {
            SizeHint::with_exact(length as u64)
        })
    }
}
