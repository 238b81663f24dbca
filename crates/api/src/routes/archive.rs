//! `GET`, `HEAD` and `PUT /containers/{id}/archive`: files in and out as tar streams.

use std::io;
use std::sync::Arc;

use ::http::StatusCode;
use ::http::header::{HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use kekkai_engine::model::{ArchivePut, ArchiveStat, BYTE_STREAM_DEPTH, ByteStream};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::http::{ApiError, Body, Call, Reply};
use crate::routes::Api;

/// Says what the path is.
const PATH_STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatOut<'a> {
    name: &'a str,
    size: i64,
    mode: u32,
    mtime: String,
    link_target: &'a str,
}

fn path(call: &Call) -> Result<&str, ApiError> {
    call.query
        .nonempty("path")
        .ok_or_else(|| ApiError::invalid("bad parameter: path cannot be empty"))
}

fn with_stat(reply: Reply, stat: &ArchiveStat) -> Result<Reply, ApiError> {
    let json = serde_json::to_vec(&StatOut {
        name: &stat.name,
        size: stat.size,
        mode: stat.mode,
        mtime: stat.mtime.to_string(),
        link_target: &stat.link_target,
    })
    .map_err(|error| ApiError::internal(error.to_string()))?;
    let value = HeaderValue::try_from(STANDARD.encode(json))
        .map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(reply.header(PATH_STAT, value))
}

/// Tells what a path is.
pub(super) async fn head(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    let stat = api.engine().archive_stat(&id, path(&call)?).await?;
    with_stat(Reply::status(StatusCode::OK), &stat)
}

/// Gives a path as a tar stream.
pub(super) async fn get(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    let (stat, pieces) = api.engine().archive_get(&id, path(&call)?).await?;
    with_stat(
        Reply::body("application/x-tar", Body::channel(pieces)),
        &stat,
    )
}

/// Unpacks a tar stream into a directory.
pub(super) async fn put(api: Arc<Api>, mut call: Call, id: String) -> Result<Reply, ApiError> {
    let path = path(&call)?.to_owned();
    let options = ArchivePut {
        no_overwrite_dir_non_dir: call.query.bool("noOverwriteDirNonDir"),
        copy_uid_gid: call.query.bool("copyUIDGID"),
    };
    let body = byte_stream(&mut call);
    api.engine().archive_put(&id, &path, options, body).await?;
    Ok(Reply::status(StatusCode::OK))
}

/// Reads on for a while what nobody wants: a client that is still writing when its connection ends never sees the answer.
async fn drain(body: &mut hyper::body::Incoming) {
    /// As much as Go's server reads.
    const MOST: usize = 256 << 10;
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, bytes::Bytes::len);
        if read > MOST {
            return;
        }
    }
}

/// A request's body in pieces, read as fast as it is taken. A client that breaks off is an error in the stream, never
/// its good end.
fn byte_stream(call: &mut Call) -> ByteStream {
    let (sender, receiver) = mpsc::channel(BYTE_STREAM_DEPTH);
    if let Some(mut body) = call.take_body() {
        tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let piece = match frame.map(hyper::body::Frame::into_data) {
                    Ok(Ok(bytes)) => Ok(bytes),
                    Ok(Err(_trailers)) => continue,
                    Err(error) => Err(io::Error::other(error)),
                };
                let broken = piece.is_err();
                if broken {
                    // Nobody may be left to hear it.
                    let _ = sender.send(piece).await;
                    return;
                }
                if sender.send(piece).await.is_err() {
                    return drain(&mut body).await;
                }
            }
        });
    }
    receiver
}
