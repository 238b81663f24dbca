//! Being connected to a process in a container: bytes both ways, signals, terminal size, detach keys.

use std::io;

use bytes::Bytes;
use kekkai_client::{Client, Demultiplexer, Hijacked, Query, Request, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::streams::{DetachKeys, Standard, StandardFd, Typed};
use crate::cli::terminal;

/// How much is read at once.
const READ_SIZE: usize = 32 * 1024;

/// Which streams are connected, and how.
#[derive(Debug)]
pub(crate) struct Wiring {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
    /// Keys that leave; only a terminal has them.
    pub(crate) detach_keys: DetachKeys,
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process closed its output.
    Finished,
    /// The user typed the detach keys.
    Detached,
}

/// The first failure words of a detached `attach`.
pub(crate) const DETACHED: &str = "read escape sequence";

/// Moves bytes until the output ends or the user leaves.
pub(crate) async fn pump(hijacked: Hijacked, mut wiring: Wiring) -> io::Result<End> {
    let _raw = (wiring.stdin && wiring.tty).then(terminal::RawMode::enter);
    let (mut reader, mut writer) = tokio::io::split(hijacked.io);
    let has_output = wiring.stdout || wiring.stderr;
    let tty = wiring.tty;
    let output = copy_output(&mut reader, tty);
    let input = async {
        if !wiring.stdin {
            return Ok(std::future::pending().await);
        }
        copy_input(&mut writer, tty, &mut wiring.detach_keys).await
    };
    tokio::pin!(output, input);
    tokio::select! {
        biased;
        result = &mut output => {
            result?;
            Ok(End::Finished)
        }
        result = &mut input => match result? {
            End::Detached => Ok(End::Detached),
            End::Finished if !has_output => Ok(End::Finished),
            End::Finished => {
                output.await?;
                Ok(End::Finished)
            }
        },
    }
}

/// Copies standard input to the connection and closes that half at its end.
async fn copy_input(
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
    tty: bool,
    keys: &mut DetachKeys,
) -> io::Result<End> {
    let stdin = StandardFd::new(Standard::Input);
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let count = stdin.read(&mut buffer).await?;
        if count == 0 {
            // The other side may be gone already; its output tells.
            let _ = writer.shutdown().await;
            return Ok(End::Finished);
        }
        let sent = if tty {
            match keys.feed(&buffer[..count]) {
                Typed::Send(bytes) => writer.write_all(&bytes).await,
                Typed::Detach(bytes) => {
                    let _ = writer.write_all(&bytes).await;
                    return Ok(End::Detached);
                }
            }
        } else {
            writer.write_all(&buffer[..count]).await
        };
        let flushed = match sent {
            Ok(()) => writer.flush().await,
            error => error,
        };
        if flushed.is_err() {
            // The process closed its input; what it says still matters.
            return Ok(End::Finished);
        }
    }
}

/// Copies what comes from the connection to standard output and error until it ends.
async fn copy_output(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
    tty: bool,
) -> io::Result<()> {
    let mut sink = Sink::new(tty);
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let count = match reader.read(&mut buffer).await {
            Ok(count) => count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
                ) =>
            {
                0
            }
            Err(error) => return Err(error),
        };
        if count == 0 {
            return Ok(());
        }
        sink.write(&buffer[..count]).await?;
    }
}

/// Standard output and error, fed with the raw or the multiplexed stream.
#[derive(Debug)]
pub(crate) struct Sink {
    raw: bool,
    demultiplexer: Demultiplexer,
    stdout: Option<StandardFd>,
    stderr: Option<StandardFd>,
}

impl Sink {
    pub(crate) fn new(raw: bool) -> Self {
        Self {
            raw,
            demultiplexer: Demultiplexer::default(),
            stdout: None,
            stderr: None,
        }
    }

    async fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout
            .get_or_insert_with(|| StandardFd::new(Standard::Output))
            .write_all(bytes)
            .await
    }

    /// Writes the next piece of the stream to where it belongs.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.raw {
            return self.stdout(bytes).await;
        }
        // Neighbouring frames of one stream are written together.
        let mut runs: Vec<(Stream, Vec<u8>)> = Vec::new();
        self.demultiplexer
            .feed(Bytes::copy_from_slice(bytes), |stream, payload| {
                match runs.last_mut() {
                    Some((last, run)) if *last == stream => run.extend_from_slice(&payload),
                    _ => runs.push((stream, payload.to_vec())),
                }
                Ok(())
            })?;
        for (stream, run) in runs {
            match stream {
                Stream::Stdin | Stream::Stdout => self.stdout(&run).await?,
                Stream::Stderr => {
                    self.stderr
                        .get_or_insert_with(|| StandardFd::new(Standard::Error))
                        .write_all(&run)
                        .await?;
                }
                Stream::SystemError => {
                    let text = String::from_utf8_lossy(&run).into_owned();
                    return Err(io::Error::other(format!(
                        "error from daemon in stream: {text}"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Signals that are passed on. Not those that stop a process at once or that belong to ourselves.
const FORWARDED: &[i32] = &[
    1, 2, 3, 6, 10, 12, 14, 15, 16, 18, 20, 21, 22, 24, 25, 26, 27, 28, 29, 30,
];

/// Passes every signal on to the container, for ever. With a terminal, its size is not a signal to pass on.
pub(crate) async fn forward_signals(client: &Client, container: &str, tty: bool) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<i32>(64);
    let local = tokio::task::LocalSet::new();
    for number in FORWARDED
        .iter()
        .copied()
        .filter(|number| !(tty && *number == 28))
    {
        let Ok(mut stream) = signal(SignalKind::from_raw(number)) else {
            continue;
        };
        let sender = sender.clone();
        local.spawn_local(async move {
            while stream.recv().await.is_some() {
                if sender.send(number).await.is_err() {
                    break;
                }
            }
        });
    }
    let forward = async {
        while let Some(number) = receiver.recv().await {
            let query = Query::new().with("signal", number.to_string());
            let request = Request::post("/containers/")
                .segment(container, "/kill")
                .query(query);
            // A container that has just ended cannot be told; its end is seen elsewhere.
            if let Ok(reply) = client.send(request).await {
                let _ = reply.done().await;
            }
        }
    };
    local.run_until(forward).await;
}

/// Where a terminal's size is told: a container or an exec.
#[derive(Debug, Clone)]
pub(crate) enum Resized {
    Container(String),
    Exec(String),
}

async fn resize(client: &Client, target: &Resized, extra: u16) -> bool {
    let (rows, columns) = terminal::size();
    if rows == 0 && columns == 0 {
        return true;
    }
    let (rows, columns) = (rows.saturating_add(extra), columns.saturating_add(extra));
    let query = Query::new()
        .with("h", rows.to_string())
        .with("w", columns.to_string());
    let request = match target {
        Resized::Container(id) => Request::post("/containers/")
            .segment(id, "/resize")
            .query(query),
        Resized::Exec(id) => Request::post("/exec/").segment(id, "/resize").query(query),
    };
    match client.send(request).await {
        Ok(reply) => reply.done().await.is_ok(),
        Err(_) => false,
    }
}

/// Changes the terminal's size for a moment, so that a program that runs already paints its screen again.
pub(crate) async fn provoke_repaint(client: &Client, target: &Resized) {
    resize(client, target, 1).await;
}

/// Tells the terminal's size now and whenever it changes, for ever.
pub(crate) async fn follow_size(client: &Client, target: &Resized) {
    let changes = signal(SignalKind::window_change());
    // The process may not be there yet.
    for attempt in 0..10u64 {
        if resize(client, target, 0).await {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5 * (attempt + 1))).await;
    }
    let Ok(mut changes) = changes else {
        return std::future::pending().await;
    };
    while changes.recv().await.is_some() {
        resize(client, target, 0).await;
    }
}

/// The ports of a container as `ps` shows them: neighbours joined, published ones with their address.
pub(crate) fn displayed_ports(ports: &[serde_json::Value]) -> String {
    use super::{number, text};
    struct Group<'a> {
        ip: &'a str,
        protocol: &'a str,
        first: i64,
        last: i64,
    }
    let host = |ip: &str, port: &str| {
        if ip.contains(':') {
            format!("[{ip}]:{port}")
        } else {
            format!("{ip}:{port}")
        }
    };
    let show = |group: &Group<'_>| {
        let range = if group.first == group.last {
            group.first.to_string()
        } else {
            format!("{}-{}", group.first, group.last)
        };
        if group.ip.is_empty() {
            format!("{range}/{}", group.protocol)
        } else {
            format!("{}->{range}/{}", host(group.ip, &range), group.protocol)
        }
    };
    let mut sorted: Vec<&serde_json::Value> = ports.iter().collect();
    sorted.sort_by_key(|port| {
        (
            number(port, "PrivatePort"),
            text(port, "IP").to_owned(),
            number(port, "PublicPort"),
            text(port, "Type").to_owned(),
        )
    });
    let (mut shown, mut mapped, mut open): (Vec<String>, Vec<String>, Vec<Group<'_>>) =
        Default::default();
    for port in sorted {
        let (ip, private, public) = (
            text(port, "IP"),
            number(port, "PrivatePort"),
            number(port, "PublicPort"),
        );
        let protocol = text(port, "Type");
        if !ip.is_empty() && public != private {
            mapped.push(format!(
                "{}->{private}/{protocol}",
                host(ip, &public.to_string())
            ));
            continue;
        }
        match open
            .iter_mut()
            .find(|group| group.ip == ip && group.protocol == protocol)
        {
            None => open.push(Group {
                ip,
                protocol,
                first: private,
                last: private,
            }),
            Some(group) if group.last + 1 == private => group.last = private,
            Some(group) => {
                shown.push(show(group));
                (group.first, group.last) = (private, private);
            }
        }
    }
    shown.extend(open.iter().map(show));
    shown.extend(mapped);
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_as_ps_shows_them() {
        let ports = [
            json!({"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8089, "Type": "tcp"}),
            json!({"IP": "::", "PrivatePort": 80, "PublicPort": 8089, "Type": "tcp"}),
        ];
        assert_eq!(
            displayed_ports(&ports),
            "0.0.0.0:8089->80/tcp, [::]:8089->80/tcp"
        );
        let ports = [
            json!({"PrivatePort": 81, "Type": "tcp"}),
            json!({"PrivatePort": 80, "Type": "tcp"}),
            json!({"PrivatePort": 53, "Type": "udp"}),
            json!({"IP": "1.2.3.4", "PrivatePort": 90, "PublicPort": 90, "Type": "tcp"}),
            json!({"IP": "1.2.3.4", "PrivatePort": 91, "PublicPort": 91, "Type": "tcp"}),
        ];
        assert_eq!(
            displayed_ports(&ports),
            "53/udp, 80-81/tcp, 1.2.3.4:90-91->90-91/tcp"
        );
    }
}
