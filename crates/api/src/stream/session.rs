//! An attached client: output to it, input from it, on a connection that left HTTP.
//!
//! What must stay true: output is taken from the engine as fast as it comes, however slow the client is; the client's
//! end of input ends the process's input only; a client that is gone ends its session and nothing else.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kekkai_engine::{AttachStreams, InputSink, InputState, OutputStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::http::{ApiVersion, Hijacked};
use crate::server::Connection;
use crate::stream::Framing;
use crate::stream::spill::Spill;

/// How often a silent session looks whether its client is still there.
const HANG_UP_CHECK: Duration = Duration::from_secs(20);

/// How long a finished session waits for the client to close, so that no unread input resets the connection before
/// the client has read the last output.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes of input read at once.
const INPUT_PIECE: usize = 16 << 10;

/// The head of an answer to a request with `Upgrade: tcp`.
pub(crate) fn upgrade_head(framing: Framing, version: ApiVersion) -> String {
    let content_type = framing.content_type(version);
    format!(
        "HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
}

/// The head of an answer to a request without an upgrade: the body is raw until the connection closes.
pub(crate) fn raw_head() -> String {
    "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n".to_owned()
}

/// How a client takes the head of a takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadReader {
    /// It may get the head and the first output in one piece.
    Careful,
    /// docker-py throws away what it reads beyond the head: output follows only after a pause.
    Greedy,
}

impl HeadReader {
    /// By the client's own name.
    pub(crate) fn of(user_agent: &str) -> Self {
        if user_agent.starts_with("docker-sdk-python/") || user_agent.starts_with("docker-py/") {
            Self::Greedy
        } else {
            Self::Careful
        }
    }
}

/// Time in which a greedy client gets to read the head. dockerd needs longer than this to have any output.
const HEAD_PAUSE: Duration = Duration::from_millis(5);

/// A session about to begin.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) head_reader: HeadReader,
    /// The response head, written first.
    pub(crate) head: String,
    pub(crate) streams: AttachStreams,
    pub(crate) framing: Framing,
    /// Where output waits for a slow client.
    pub(crate) spill_directory: PathBuf,
}

impl Session {
    /// Carries the streams until the output ends, the client detaches or leaves.
    pub(crate) async fn run(self, hijacked: Hijacked) {
        // Seen through a descriptor of its own because the connection is split in two below.
        let watch = std::os::fd::AsFd::as_fd(&hijacked.connection)
            .try_clone_to_owned()
            .ok();
        let (mut reader, mut writer) = tokio::io::split(hijacked.connection);
        let mut spill = Spill::new(&self.spill_directory);
        if writer.write_all(self.head.as_bytes()).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        if self.head_reader == HeadReader::Greedy {
            tokio::time::sleep(HEAD_PAUSE).await;
        }
        let AttachStreams { output, input, .. } = self.streams;
        let finished = tokio::select! {
            sent = send_output(&mut writer, output, self.framing, &mut spill) => sent.is_ok(),
            clean = receive_input(&mut reader, hijacked.early, input, watch.as_ref()) => clean,
        };
        if finished {
            finish(reader, writer, spill).await;
        }
    }
}

/// Writes output until it ends; what is written is flushed whenever nothing more waits.
async fn send_output(
    writer: &mut WriteHalf<Connection>,
    mut output: OutputStream,
    framing: Framing,
    spill: &mut Spill,
) -> io::Result<()> {
    let mut ended = false;
    loop {
        spill.refill().await?;
        if spill.is_empty() {
            writer.flush().await?;
            if ended {
                return Ok(());
            }
        }
        tokio::select! {
            frame = output.next(), if !ended => match frame {
                Some(Ok(frame)) => {
                    if let Some(header) = framing.header(&frame) {
                        // One write for a short line and its header.
                        if frame.data.len() <= 4096 {
                            let mut whole = BytesMut::with_capacity(8 + frame.data.len());
                            whole.extend_from_slice(&header);
                            whole.extend_from_slice(&frame.data);
                            spill.push(whole.freeze()).await?;
                            continue;
                        }
                        spill.push(Bytes::copy_from_slice(&header)).await?;
                    }
                    spill.push(frame.data).await?;
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "an attached output ended with an error");
                    ended = true;
                }
                None => ended = true,
            },
            written = writer.write(spill.front()), if !spill.front().is_empty() => {
                match written? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    count => spill.consume(count),
                }
            }
        }
    }
}

/// Passes input on. Returns true when the session ends in good order (detach keys), false when the client is gone;
/// after the client's end of input it only watches for that.
async fn receive_input(
    reader: &mut ReadHalf<Connection>,
    early: Bytes,
    mut input: Option<InputSink>,
    watch: Option<&std::os::fd::OwnedFd>,
) -> bool {
    let mut piece = early;
    let mut buffer = BytesMut::new();
    loop {
        if !piece.is_empty()
            && let Some(sink) = &mut input
        {
            match sink.write(&piece).await {
                Ok(InputState::Open) => {}
                Ok(InputState::Detached) => return true,
                // Further input has nowhere to go; it is read so that the client is not held up.
                Ok(InputState::Closed) => input = None,
                Err(error) => {
                    tracing::debug!(%error, "passing input on failed");
                    input = None;
                }
            }
        }
        buffer.clear();
        buffer.reserve(if input.is_some() { INPUT_PIECE } else { 512 });
        match reader.read_buf(&mut buffer).await {
            Ok(0) => break,
            Ok(_) => piece = buffer.split().freeze(),
            Err(_) => return false,
        }
    }
    if let Some(sink) = input {
        sink.close().await;
    }
    loop {
        tokio::time::sleep(HANG_UP_CHECK).await;
        if watch.is_some_and(crate::server::is_hung_up) {
            return false;
        }
    }
}

/// Writes what is left, ends our direction, and lets the client close first.
async fn finish(
    mut reader: ReadHalf<Connection>,
    mut writer: WriteHalf<Connection>,
    mut spill: Spill,
) {
    let last_words = async {
        loop {
            spill.refill().await?;
            if spill.is_empty() {
                break;
            }
            let count = writer.write(spill.front()).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            spill.consume(count);
        }
        writer.flush().await?;
        writer.shutdown().await?;
        let mut rest = [0; 1024];
        while reader.read(&mut rest).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // A client that does not close has had its time.
    let _ = tokio::time::timeout(LINGER, last_words).await;
}
