//! Attaching to a container, and reading its log.

use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kekkai_keeper::log::{LogConfig, LogEntry, LogError, LogQuery, LogReader};
use kekkai_keeper::protocol::{AttachRequest, Request, Stream, Target};
use kekkai_types::{ErrorClass, Timestamp};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::EngineError;
use crate::container::{Container, Waiter};
use crate::inner::Inner;
use crate::model::{AttachOptions, Lifecycle, LogOptions, StdStream, WaitCondition, WaitResult};
use crate::streams::{
    AttachStreams, Attached, DetachKeys, InputSink, OutputFrame, OutputStream, Session,
};

/// How much of a log is gathered in one frame.
const FRAME: usize = 32 * 1024;
/// How many frames of a log may wait for a slow reader.
const DEPTH: usize = 4;

/// An error of the keeper that is not about starting.
pub(crate) fn keeper_error(error: &kekkai_keeper::KeeperError) -> EngineError {
    match kekkai_types::Classify::class(error) {
        ErrorClass::Conflict => EngineError::Conflict(error.to_string()),
        ErrorClass::NotFound => EngineError::NotFound(error.to_string()),
        ErrorClass::InvalidArgument => EngineError::Invalid(error.to_string()),
        _ => EngineError::System(error.to_string()),
    }
}

/// Joins the streams of a process that the keeper keeps (or will keep).
pub(crate) async fn open_session(
    inner: &Arc<Inner>,
    request: AttachRequest,
    of: Attached,
) -> Result<Arc<Session>, EngineError> {
    let mut answer = inner
        .ask(Request::Attach(request), Vec::new())
        .await
        .map_err(|error| keeper_error(&error))?;
    let socket = answer
        .fds
        .pop()
        .ok_or_else(|| EngineError::Internal("an attach without a socket".to_owned()))?;
    Session::new(socket, Arc::clone(inner), of)
}

/// Attaches to a container.
pub(crate) async fn attach(
    inner: &Arc<Inner>,
    container: Arc<Container>,
    options: AttachOptions,
) -> Result<AttachStreams, EngineError> {
    let id = container.id;
    match container.lifecycle() {
        Lifecycle::Paused(_) => {
            return Err(EngineError::Conflict(format!(
                "container {id} is paused, unpause the container before attach"
            )));
        }
        Lifecycle::Restarting(_) => {
            return Err(EngineError::Conflict(format!(
                "container {id} is restarting, wait until the container is running"
            )));
        }
        Lifecycle::Removing | Lifecycle::Dead => {
            return Err(EngineError::Conflict(format!(
                "container {id} is marked for removal"
            )));
        }
        _ => {}
    }
    let spec = container.spec();
    let keys = options
        .detach_keys
        .as_deref()
        .unwrap_or(&inner.config.detach_keys);
    let detach = if spec.config.tty {
        DetachKeys::parse(keys)?
    } else {
        DetachKeys::default()
    };
    let session = if options.stream {
        let request = AttachRequest {
            target: Target::Container(id),
            stdin: options.stdin && spec.config.open_stdin,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        Some(open_session(inner, request, Attached::Container(Arc::clone(&container))).await?)
    } else {
        None
    };
    let input = match &session {
        Some(session) if options.stdin && spec.config.open_stdin => {
            Some(InputSink::new(Arc::clone(session), detach))
        }
        _ => None,
    };
    let output = if options.logs {
        let wanted = LogOptions {
            stdout: options.stdout,
            stderr: options.stderr,
            ..Default::default()
        };
        let config = inner.log_config(id, &container.name(), &spec)?;
        OutputStream::of_task_then(
            read_log(Arc::clone(inner), Arc::clone(&container), config, wanted)?,
            session,
        )
    } else {
        match session {
            Some(session) => OutputStream::of_session(session),
            None => {
                return Err(EngineError::Invalid(
                    "attach needs stream or logs".to_owned(),
                ));
            }
        }
    };
    inner.container_event(&container, "attach", &[]);
    Ok(AttachStreams {
        output,
        input,
        tty: spec.config.tty,
    })
}

fn log_error(error: &LogError) -> EngineError {
    match error.class() {
        ErrorClass::NotImplemented => EngineError::System(error.to_string()),
        _ => EngineError::System(error.to_string()),
    }
}

/// Reads a container's log. The second value tells whether it had a terminal.
pub(crate) fn logs(
    inner: &Arc<Inner>,
    container: Arc<Container>,
    options: LogOptions,
) -> Result<(OutputStream, bool), EngineError> {
    if !options.stdout && !options.stderr {
        return Err(EngineError::Invalid(
            "Bad parameters: you must choose at least one stream".to_owned(),
        ));
    }
    let spec = container.spec();
    let config = inner.log_config(container.id, &container.name(), &spec)?;
    let tty = spec.config.tty;
    Ok((
        OutputStream::of_task(read_log(Arc::clone(inner), container, config, options)?),
        tty,
    ))
}

type Frames = mpsc::Receiver<Result<OutputFrame, EngineError>>;

fn read_log(
    inner: Arc<Inner>,
    container: Arc<Container>,
    config: LogConfig,
    options: LogOptions,
) -> Result<Frames, EngineError> {
    let query = LogQuery {
        tail: options.tail,
        since: options.since.map(Timestamp::unix_nanos),
        until: options.until.map(Timestamp::unix_nanos),
    };
    if config.driver_name() == "none" {
        return Err(EngineError::System(
            "configured logging driver does not support reading".to_owned(),
        ));
    }
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        // Watched before the first read: nothing that is written in between is missed. Should the container end before
        // the keeper gets to know of the watch, its end is what ends the following.
        let ended = end_of(&container);
        let watch = match (options.follow, &ended) {
            (true, Some(_)) => watch(&inner, &container).await,
            _ => None,
        };
        let mut ended = ended;
        let opened = tokio::task::spawn_blocking(move || LogReader::open(&config, query)).await;
        let mut reader = match opened {
            Ok(Ok(reader)) => reader,
            Ok(Err(error)) => return drop(sender.send(Err(log_error(&error))).await),
            Err(_) => return,
        };
        let mut watch = watch;
        loop {
            let last_round = watch.is_none();
            let (output, wanted) = (sender.clone(), options.clone());
            let read = tokio::task::spawn_blocking(move || {
                let outcome = pump(&mut reader, &wanted, &output);
                (reader, outcome)
            });
            let Ok((returned, outcome)) = read.await else {
                return;
            };
            reader = returned;
            match outcome {
                Ok(true) if !last_round && !reader.is_done() => {}
                Ok(_) => return,
                Err(error) => return drop(sender.send(Err(error)).await),
            }
            let grown = match &watch {
                Some(socket) => tokio::select! {
                    grown = growth(socket) => grown,
                    () = over(&mut ended) => false,
                    () = sender.closed() => return,
                },
                None => return,
            };
            if !grown {
                // Nothing more will come: one last look, then it is over.
                watch = None;
            }
        }
    });
    Ok(receiver)
}

/// How long the log may still be written after the container's end was told.
const AFTERMATH: std::time::Duration = std::time::Duration::from_millis(500);

/// Resolves some time after the container has ended.
async fn over(ended: &mut Option<oneshot::Receiver<WaitResult>>) {
    if let Some(end) = ended {
        // Whoever would tell may be gone as well.
        let _ = end.await;
        *ended = None;
    }
    tokio::time::sleep(AFTERMATH).await;
}

/// A subscription to the container's end; `None` when it does not run.
fn end_of(container: &Container) -> Option<oneshot::Receiver<WaitResult>> {
    let mut shared = container.lock();
    if !shared.lifecycle().is_running() && *shared.lifecycle() != Lifecycle::Starting {
        return None;
    }
    let (sender, receiver) = oneshot::channel();
    shared.waiters.retain(|waiter| !waiter.sender.is_closed());
    shared.waiters.push(Waiter {
        condition: WaitCondition::NextExit,
        sender,
    });
    Some(receiver)
}

/// The keeper's signal that a container's log grows; `None` when it does not run.
async fn watch(inner: &Inner, container: &Container) -> Option<AsyncFd<std::os::fd::OwnedFd>> {
    let mut answer = inner
        .ask(
            Request::WatchLog {
                container: container.id,
            },
            Vec::new(),
        )
        .await
        .ok()?;
    let socket = answer.fds.pop()?;
    rustix::io::ioctl_fionbio(&socket, true).ok()?;
    crate::streams::async_fd(socket).ok()
}

/// Waits until the log has grown; `false` when it will not any more.
async fn growth(socket: &AsyncFd<std::os::fd::OwnedFd>) -> bool {
    loop {
        let Ok(mut guard) = socket.readable().await else {
            return false;
        };
        let outcome = guard.try_io(|socket| {
            let mut buffer = [0; 64];
            let (received, _) = rustix::net::recv(
                socket.as_fd(),
                &mut buffer[..],
                rustix::net::RecvFlags::DONTWAIT,
            )?;
            Ok(received)
        });
        match outcome {
            Err(_would_block) => {}
            Ok(Ok(received)) => return received > 0,
            Ok(Err(_)) => return false,
        }
    }
}

/// Sends what is there now. `false`: nobody listens any more.
fn pump(
    reader: &mut LogReader,
    options: &LogOptions,
    output: &mpsc::Sender<Result<OutputFrame, EngineError>>,
) -> Result<bool, EngineError> {
    let mut gathered = BytesMut::new();
    let mut current = StdStream::Stdout;
    let send = |stream, gathered: &mut BytesMut| {
        let data: Bytes = gathered.split().freeze();
        data.is_empty()
            || output
                .blocking_send(Ok(OutputFrame { stream, data }))
                .is_ok()
    };
    while let Some(entry) = reader.next_entry().map_err(|error| log_error(&error))? {
        let stream = match entry.stream {
            Stream::Stdout if options.stdout => StdStream::Stdout,
            Stream::Stderr if options.stderr => StdStream::Stderr,
            _ => continue,
        };
        if (stream != current || gathered.len() >= FRAME) && !send(current, &mut gathered) {
            return Ok(false);
        }
        current = stream;
        append(&mut gathered, &entry, options);
    }
    Ok(send(current, &mut gathered))
}

fn append(gathered: &mut BytesMut, entry: &LogEntry, options: &LogOptions) {
    if options.timestamps {
        gathered.extend_from_slice(
            Timestamp::from_unix_nanos(entry.at)
                .to_fixed_rfc3339()
                .as_bytes(),
        );
        gathered.extend_from_slice(b" ");
    }
    if options.details {
        let words: Vec<String> = entry
            .attributes
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        gathered.extend_from_slice(words.join(",").as_bytes());
        gathered.extend_from_slice(b" ");
    }
    gathered.extend_from_slice(&entry.line);
}
