//! The client against a daemon of a few lines: what is asked, how often, and what becomes of the answers.

#![allow(clippy::unwrap_used, reason = "helpers of tests stop where they fail")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kekkai_client::{Client, ClientError, Endpoint, EndpointSource, Request, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Answers each request with what `answer` makes of its head; remembers the first lines. `None` closes the connection.
struct FakeDaemon {
    path: PathBuf,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
    _directory: tempfile::TempDir,
}

impl FakeDaemon {
    fn start(answer: impl Fn(&str) -> Option<String> + Send + Sync + Clone + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (log, count) = (seen.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *count.lock().unwrap() += 1;
                tokio::spawn(converse(stream, log.clone(), answer.clone()));
            }
        });
        Self {
            path,
            seen,
            connections,
            _directory: directory,
        }
    }

    fn client(&self) -> Client {
        Client::new(endpoint(&self.path), &[])
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn endpoint(path: &Path) -> Endpoint {
    Endpoint {
        transport: Transport::Unix(path.to_path_buf()),
        url: format!("unix://{}", path.display()),
        source: EndpointSource::Chosen,
    }
}

async fn converse(
    mut stream: UnixStream,
    log: Arc<Mutex<Vec<String>>>,
    answer: impl Fn(&str) -> Option<String>,
) {
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let line = text.lines().next().unwrap().to_owned();
        log.lock().unwrap().push(line.clone());
        let Some(reply) = answer(&line) else { return };
        stream.write_all(reply.as_bytes()).await.unwrap();
        if reply.starts_with("HTTP/1.1 101") {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            stream.write_all(&rest).await.unwrap();
            return;
        }
    }
}

fn reply(status: &str, body: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/json\r\n\r\n{body}",
        body.len()
    ))
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let daemon = FakeDaemon::start(|_| reply("200 OK", "{\"a\":1}"));
    let client = daemon.client();
    for _ in 0..3 {
        let answer: serde_json::Value = client
            .send(Request::get("/info"))
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(answer["a"], 1);
    }
    assert_eq!(*daemon.connections.lock().unwrap(), 1);
    assert_eq!(daemon.seen()[0], "GET /v1.51/info HTTP/1.1");
}

#[tokio::test]
async fn an_older_daemon_is_asked_again_in_its_version() {
    let daemon = FakeDaemon::start(|line| {
        if line.contains("/v1.51/") {
            reply(
                "400 Bad Request",
                r#"{"message":"client version 1.51 is too new. Maximum supported API version is 1.41"}"#,
            )
        } else {
            reply("200 OK", "{}")
        }
    });
    let client = daemon.client();
    client
        .send(Request::get("/info"))
        .await
        .unwrap()
        .done()
        .await
        .unwrap();
    client
        .send(Request::get("/version"))
        .await
        .unwrap()
        .done()
        .await
        .unwrap();
    let lines = daemon.seen();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].contains("/v1.41/info") && lines[2].contains("/v1.41/version"));
    assert_eq!(client.version(), (1, 41));
}

#[tokio::test]
async fn errors_keep_the_daemon_s_words() {
    let daemon = FakeDaemon::start(|line| {
        if line.contains("json") {
            reply("404 Not Found", r#"{"message":"No such container: x"}"#)
        } else {
            reply("500 Internal Server Error", "plain words\n")
        }
    });
    let client = daemon.client();
    let error = client
        .send(Request::get("/containers/x/json"))
        .await
        .unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(
        error.to_string(),
        "Error response from daemon: No such container: x"
    );
    let error = client.send(Request::get("/other")).await.unwrap_err();
    assert_eq!(error.to_string(), "Error response from daemon: plain words");
}

#[tokio::test]
async fn a_closed_idle_connection_is_replaced() {
    let daemon = FakeDaemon::start(|line| {
        // The second request of a connection meets silence, as when a daemon was restarted.
        if line.contains("/gone") {
            None
        } else {
            reply("200 OK", "{}")
        }
    });
    let client = daemon.client();
    client
        .send(Request::get("/a"))
        .await
        .unwrap()
        .done()
        .await
        .unwrap();
    // Closed by the other side while we do nothing.
    assert!(client.send(Request::get("/gone")).await.is_err());
    client
        .send(Request::get("/b"))
        .await
        .unwrap()
        .done()
        .await
        .unwrap();
}

#[tokio::test]
async fn hijacked_streams_end_their_input_separately() {
    let daemon = FakeDaemon::start(|_| {
        Some(String::from(
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
        ))
    });
    let client = daemon.client();
    let mut hijacked = client
        .hijack(Request::post("/containers/x/attach"))
        .await
        .unwrap();
    assert_eq!(
        hijacked.content_type.as_deref(),
        Some("application/vnd.docker.raw-stream")
    );
    hijacked.io.write_all(b"hello").await.unwrap();
    hijacked.io.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    hijacked.io.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, b"hello");
}

#[tokio::test]
async fn nobody_there_and_no_permission_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let client = Client::new(endpoint(&directory.path().join("none")), &[]);
    assert!(matches!(
        client.warm_up().await,
        Err(ClientError::NotRunning { .. })
    ));
}
