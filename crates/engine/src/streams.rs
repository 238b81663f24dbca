//! The streams between a client and a process: frames out, bytes in.

use bytes::Bytes;

use crate::EngineError;
use crate::model::StdStream;

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFrame {
    /// Which stream wrote it; with a terminal always stdout.
    pub stream: StdStream,
    /// Its bytes; never empty.
    pub data: Bytes,
}

/// What an attach, an exec start or `logs` gives: output to read until `None`, and perhaps an input.
#[derive(Debug)]
pub struct AttachStreams {
    /// What the process writes.
    pub output: OutputStream,
    /// Where the client's input goes; absent when it was not asked for or the process has none.
    pub input: Option<InputSink>,
    /// The process has a terminal: the wire is raw, not multiplexed.
    pub tty: bool,
}

/// Output, in order. Dropping it ends the session; the container does not notice.
#[derive(Debug)]
pub struct OutputStream {
    pub(crate) receiver: tokio::sync::mpsc::Receiver<Result<OutputFrame, EngineError>>,
}

impl OutputStream {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<OutputFrame, EngineError>> {
        self.receiver.recv().await
    }
}

/// The way to a process's stdin.
#[derive(Debug)]
pub struct InputSink {
    _private: (),
}

/// What became of some input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputState {
    /// It was passed on.
    Open,
    /// The detach keys were typed: end the session, leave the process.
    Detached,
    /// The process does not read any more.
    Closed,
}

impl InputSink {
    /// Passes bytes on. Waits while the process is slow to read; never blocks anyone else.
    ///
    /// # Errors
    /// When the session is broken.
    pub async fn write(&mut self, _bytes: &[u8]) -> Result<InputState, EngineError> {
        Err(EngineError::Unavailable("attach is not there yet".to_owned()))
    }

    /// The client sends no more (end of file).
    pub async fn close(self) {}
}
