//! Attach, exec, logs, events.

use kekkai_engine::InputState;
use kekkai_engine::model::{
    AttachOptions, EventsRequest, ExecCreate, ExecStart, Filters, LogOptions, RemoveOptions,
    StdStream,
};
use kekkai_types::Timestamp;

use crate::support::{Bench, busybox, collect, logs, until_logged, within};

async fn sleeper(bench: &Bench, name: &str) -> String {
    let mut request = busybox(&["sleep", "1000"]);
    request.name = Some(name.into());
    let id = bench.engine().create(request).await.unwrap().id.to_string();
    bench.engine().start(&id).await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stdin_reaches_the_process_and_its_end_too() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let engine = bench.engine();
    let mut request = busybox(&["sh", "-c", "cat; echo done >&2"]);
    request.config.open_stdin = true;
    request.config.stdin_once = true;
    request.host.auto_remove = true;
    let id = engine.create(request).await.unwrap().id.to_string();
    let options = AttachOptions {
        stream: true,
        stdin: true,
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let mut streams = engine.attach(&id, options).await.unwrap();
    engine.start(&id).await.unwrap();
    let mut input = streams.input.take().unwrap();
    let text = "line\n".repeat(20_000);
    let writer = tokio::spawn(async move {
        assert_eq!(
            input.write(text.as_bytes()).await.unwrap(),
            InputState::Open
        );
        input.close().await;
    });
    let ran = within(collect(&mut streams.output)).await;
    writer.await.unwrap();
    assert_eq!(ran.stdout.len(), 100_000);
    assert_eq!(ran.stderr, "done\n");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_runs_beside_the_container() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let engine = bench.engine();
    let id = sleeper(&bench, "box").await;
    let exec = |words: &[&str]| ExecCreate {
        attach_stdout: true,
        attach_stderr: true,
        cmd: words.iter().map(|word| (*word).to_owned()).collect(),
        env: vec!["X=y".into()],
        ..Default::default()
    };
    let session = engine
        .exec_create(
            "box",
            exec(&["sh", "-c", "echo $X $HOSTNAME; echo e >&2; exit 7"]),
        )
        .await
        .unwrap();
    let mut streams = engine
        .exec_start(&session.to_string(), ExecStart::default())
        .await
        .unwrap()
        .unwrap();
    let ran = within(collect(&mut streams.output)).await;
    assert_eq!(ran.stdout, format!("y {}\n", &id[..12]));
    assert_eq!(ran.stderr, "e\n");
    let ended = async {
        loop {
            let view = engine.exec_inspect(&session.to_string()).await.unwrap();
            if let Some(code) = view.exit_code {
                return code;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(within(ended).await, 7);
    let again = engine
        .exec_start(&session.to_string(), ExecStart::default())
        .await
        .unwrap_err();
    assert!(again.to_string().contains("has already run"), "{again}");

    let missing = engine
        .exec_create("box", exec(&["nosuch"]))
        .await
        .unwrap()
        .to_string();
    let mut streams = engine
        .exec_start(&missing, ExecStart::default())
        .await
        .unwrap()
        .unwrap();
    let ran = within(collect(&mut streams.output)).await;
    assert!(
        ran.stdout
            .contains("exec: \"nosuch\": executable file not found in $PATH"),
        "{ran:?}"
    );
    assert_eq!(
        engine.exec_inspect(&missing).await.unwrap().exit_code,
        Some(127)
    );

    let mut request = exec(&["sh", "-c", "tty; stty size"]);
    request.tty = true;
    request.attach_stdin = true;
    let session = engine
        .exec_create("box", request)
        .await
        .unwrap()
        .to_string();
    let start = ExecStart {
        tty: true,
        console_size: Some([11, 22]),
        ..Default::default()
    };
    let mut streams = engine.exec_start(&session, start).await.unwrap().unwrap();
    assert!(streams.tty && streams.input.is_some());
    let ran = within(collect(&mut streams.output)).await;
    assert_eq!(ran.stdout, "/dev/pts/0\r\n11 22\r\n");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_follow_tail_and_timestamps() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let engine = bench.engine();
    let mut request = busybox(&[
        "sh",
        "-c",
        "for i in 1 2 3; do echo $i; done; read x; echo late",
    ]);
    request.config.open_stdin = true;
    let id = engine.create(request).await.unwrap().id.to_string();
    let attach = AttachOptions {
        stream: true,
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let mut streams = engine.attach(&id, attach).await.unwrap();
    engine.start(&id).await.unwrap();
    let mut seen = String::new();
    while seen != "1\n2\n3\n" {
        let frame = within(streams.output.next()).await.unwrap().unwrap();
        assert_eq!(frame.stream, StdStream::Stdout);
        seen.push_str(&String::from_utf8_lossy(&frame.data));
    }
    until_logged(engine, &id, "3").await;
    let options = LogOptions {
        stdout: true,
        follow: true,
        tail: Some(2),
        timestamps: true,
        ..Default::default()
    };
    let (mut output, tty) = engine.logs(&id, options).await.unwrap();
    assert!(!tty);
    let first = within(output.next()).await.unwrap().unwrap();
    streams
        .input
        .as_mut()
        .unwrap()
        .write(b"go\n")
        .await
        .unwrap();
    let ran = within(collect(&mut output)).await;
    let text = format!("{}{}", String::from_utf8_lossy(&first.data), ran.stdout);
    let lines: Vec<(&str, &str)> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    assert_eq!(
        lines.iter().map(|(_, text)| *text).collect::<Vec<_>>(),
        ["2", "3", "late"]
    );
    assert!(
        lines
            .iter()
            .all(|(time, _)| time.len() == 30 && time.parse::<Timestamp>().is_ok()),
        "{lines:?}"
    );
    assert_eq!(logs(engine, &id).await.stdout, "1\n2\n3\nlate\n");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_tell_a_whole_life() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let engine = bench.engine();
    let since = Some(Timestamp::now());
    let id = sleeper(&bench, "life").await;
    engine.kill("life", None).await.unwrap();
    engine
        .remove("life", RemoveOptions::default())
        .await
        .unwrap();
    let filters = Filters([("type".to_owned(), vec!["container".to_owned()])].into());
    let mut events = engine
        .events(EventsRequest {
            since,
            until: None,
            filters,
        })
        .await
        .unwrap();
    let mut actions = Vec::new();
    while actions.last().map(String::as_str) != Some("destroy") {
        let event = within(events.recv()).await.unwrap();
        assert_eq!(event.actor.as_ref(), id);
        assert!(
            event
                .attributes
                .iter()
                .any(|(key, value)| key == "name" && value == "life")
        );
        actions.push(event.action.to_string());
    }
    assert_eq!(actions, ["create", "start", "kill", "die", "destroy"]);
    bench.close().await;
}
