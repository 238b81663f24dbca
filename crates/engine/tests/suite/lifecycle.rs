//! From create to remove.

use kekkai_engine::model::{RemoveOptions, StopOptions};

use crate::support::{Bench, Ran, busybox, logs, run, until_logged, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn create_start_logs_wait_remove() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let engine = bench.engine();
    let (id, ran) = run(
        engine,
        busybox(&["sh", "-c", "echo out; echo err >&2; exit 3"]),
    )
    .await;
    assert_eq!(
        ran,
        Ran {
            code: 3,
            stdout: "out\n".into(),
            stderr: "err\n".into()
        }
    );
    let logged = logs(engine, &id).await;
    assert_eq!(
        (logged.stdout.as_str(), logged.stderr.as_str()),
        ("out\n", "err\n")
    );
    let view = engine.inspect(&id, false).await.unwrap();
    assert_eq!(view.state.exit_code, 3);
    assert_eq!(view.state.status.as_str(), "exited");
    // Again: a second start of the same container.
    engine.start(&id).await.unwrap();
    let code = within(
        engine
            .wait(&id, Default::default())
            .await
            .unwrap()
            .finished(),
    )
    .await
    .unwrap()
    .code;
    assert_eq!(code, 3);
    assert_eq!(logs(engine, &id).await.stdout, "out\nout\n");
    engine.remove(&id, RemoveOptions::default()).await.unwrap();
    assert!(engine.inspect(&id, false).await.is_err());
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn builtin_image_runs_and_removes_itself() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    let engine = bench.engine();
    let mut request = busybox(&[]);
    request.config.image = "kekkai/hello".into();
    request.config.cmd = None;
    request.host.auto_remove = true;
    let (id, ran) = run(engine, request).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains(&id[..12]), "{}", ran.stdout);
    assert!(engine.inspect(&id, false).await.is_err());
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_kill_restart_pause() {
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
        "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done",
    ]);
    request.name = Some("web".into());
    engine.create(request).await.unwrap();
    engine.start("web").await.unwrap();
    until_logged(engine, "web", "ready").await;
    assert!(matches!(
        engine.start("web").await,
        Err(kekkai_engine::EngineError::NotModified)
    ));
    engine.pause("web").await.unwrap();
    assert_eq!(
        engine
            .inspect("web", false)
            .await
            .unwrap()
            .state
            .status
            .as_str(),
        "paused"
    );
    engine.unpause("web").await.unwrap();
    within(engine.stop("web", StopOptions::default()))
        .await
        .unwrap();
    assert_eq!(
        engine.inspect("web", false).await.unwrap().state.exit_code,
        5
    );
    engine.start("web").await.unwrap();
    within(engine.restart(
        "web",
        StopOptions {
            timeout: Some(1),
            ..Default::default()
        },
    ))
    .await
    .unwrap();
    assert!(engine.inspect("web", false).await.unwrap().state.running());
    let top = engine.top("web", "").await.unwrap();
    assert!(top.processes[0][7].starts_with("sh -c trap"), "{top:?}");
    within(engine.kill("web", None)).await.unwrap();
    assert_eq!(
        engine.inspect("web", false).await.unwrap().state.exit_code,
        137
    );
    engine.rename("web", "web2").await.unwrap();
    engine
        .remove("web2", RemoveOptions::default())
        .await
        .unwrap();
    bench.close().await;
}
