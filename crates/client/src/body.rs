//! Request bodies: nothing, bytes, or a stream that is read while it is sent.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use tokio::io::AsyncRead;

/// The one body type of all requests.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// How much of a file is read at once.
const READ_SIZE: usize = 128 * 1024;

fn never(error: Infallible) -> std::io::Error {
    match error {}
}

/// No body.
#[must_use]
pub fn empty_body() -> Body {
    Empty::new().map_err(never).boxed_unsync()
}

/// A body that is already in memory.
pub fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(never).boxed_unsync()
}

/// A body read from `reader` until its end, sent in chunks.
pub fn reader_body(reader: impl AsyncRead + Send + 'static) -> Body {
    let stream = tokio_util::io::ReaderStream::with_capacity(reader, READ_SIZE)
        .map(|chunk| chunk.map(Frame::data));
    StreamBody::new(stream).boxed_unsync()
}

/// A body fed through a channel: an error sent there breaks the request off.
#[must_use]
pub fn channel_body(receiver: tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>) -> Body {
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver
            .recv()
            .await
            .map(|chunk| (chunk.map(Frame::data), receiver))
    });
    StreamBody::new(stream).boxed_unsync()
}
