//! Exec sessions: create, start, resize, inspect.

use std::sync::Arc;

use ::http::StatusCode;
use bytes::Bytes;
use kekkai_engine::model::{ExecCreate, ExecStart, StdStream};
use kekkai_engine::{EngineError, OutputFrame};
use serde::Serialize;
use tokio::io::AsyncWriteExt;

use crate::http::{ApiError, Call, Reply};
use crate::routes::Api;
use crate::routes::attach::{Client, session};
use crate::routes::containers::terminal_size;
use crate::stream::Framing;

/// Makes an exec session.
pub(super) async fn create(api: Arc<Api>, mut call: Call, id: String) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Created {
        id: String,
    }
    let mut body = call.object().await?;
    let request = ExecCreate {
        attach_stdin: body.bool("AttachStdin")?,
        attach_stdout: body.bool("AttachStdout")?,
        attach_stderr: body.bool("AttachStderr")?,
        tty: body.bool("Tty")?,
        cmd: body.command("Cmd")?.unwrap_or_default(),
        env: body.strings("Env")?,
        user: body.nonempty("User")?,
        working_dir: body.nonempty("WorkingDir")?,
        privileged: body.bool("Privileged")?,
        detach_keys: body.nonempty("DetachKeys")?,
        console_size: body
            .console_size("ConsoleSize")?
            .filter(|_| call.version.at_least(42)),
    };
    if request.cmd.is_empty() {
        return Err(ApiError::invalid("No exec command specified"));
    }
    let exec = api.engine().exec_create(&id, request).await?;
    Reply::json_with(
        StatusCode::CREATED,
        &Created {
            id: exec.to_string(),
        },
    )
}

/// Starts an exec session and, unless it is detached, attaches the client to it.
pub(super) async fn start(api: Arc<Api>, mut call: Call, id: String) -> Result<Reply, ApiError> {
    let mut body = call.object().await?;
    let options = ExecStart {
        detach: body.bool("Detach")?,
        tty: body.bool("Tty")?,
        console_size: body
            .console_size("ConsoleSize")?
            .filter(|_| call.version.at_least(42)),
    };
    let client = Client::of(&call);
    match api.engine().exec_start(&id, options).await {
        Ok(Some(streams)) => Ok(session(&api, streams, &client)),
        Ok(None) => Ok(Reply::status(StatusCode::OK)),
        // The client learns of a command that cannot run as dockerd tells it: in the stream; the code by inspect.
        Err(error @ EngineError::StartFailed { .. }) if !options.detach => {
            let framing = Framing::for_terminal(options.tty);
            Ok(last_words(client.head(framing), framing, &error))
        }
        Err(error) => Err(error.into()),
    }
}

/// A session that consists of an error message.
fn last_words(head: String, framing: Framing, error: &EngineError) -> Reply {
    let frame = OutputFrame {
        stream: StdStream::Stdout,
        data: Bytes::from(format!("{error}\r\n")),
    };
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(
        framing
            .header(&frame)
            .as_ref()
            .map_or(&[], <[u8; 8]>::as_slice),
    );
    bytes.extend_from_slice(&frame.data);
    Reply::hijack(move |hijacked| async move {
        let mut connection = hijacked.connection;
        // A client that is gone already needs no last words.
        if connection.write_all(&bytes).await.is_ok() {
            let _ = connection.shutdown().await;
        }
    })
}

/// Tells an exec session's terminal its size.
pub(super) async fn resize(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    let (rows, columns) = terminal_size(&call)?;
    api.engine().exec_resize(&id, rows, columns).await?;
    Ok(Reply::status(StatusCode::OK))
}

#[derive(Serialize)]
struct ProcessOut<'a> {
    tty: bool,
    entrypoint: &'a str,
    arguments: &'a [String],
    privileged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ExecOut<'a> {
    #[serde(rename = "ID")]
    id: String,
    running: bool,
    exit_code: Option<i32>,
    process_config: ProcessOut<'a>,
    open_stdin: bool,
    open_stderr: bool,
    open_stdout: bool,
    can_remove: bool,
    #[serde(rename = "ContainerID")]
    container_id: String,
    detach_keys: &'a str,
    pid: u32,
}

/// Tells about an exec session.
pub(super) async fn inspect(api: Arc<Api>, id: String) -> Result<Reply, ApiError> {
    let view = api.engine().exec_inspect(&id).await?;
    let request = &*view.request;
    let (entrypoint, arguments) = request
        .cmd
        .split_first()
        .map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    Reply::json(&ExecOut {
        id: view.id.to_string(),
        running: view.running,
        exit_code: view.exit_code,
        process_config: ProcessOut {
            tty: request.tty,
            entrypoint,
            arguments,
            privileged: request.privileged,
            user: request.user.as_deref(),
        },
        open_stdin: request.attach_stdin,
        open_stderr: request.attach_stderr,
        open_stdout: request.attach_stdout,
        can_remove: false,
        container_id: view.container.to_string(),
        detach_keys: request.detach_keys.as_deref().unwrap_or(""),
        pid: view.pid,
    })
}
