//! A daemon that dies and comes back.

use kekkai_engine::model::{ExecCreate, ExecStart, PortBinding, RestartPolicy, WaitCondition};

use crate::support::{Bench, busybox, collect, logs, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_survive_the_daemon() {
    let Some(mut bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let start = |name: &'static str, words: &[&str]| {
        let mut request = busybox(words);
        request.name = Some(name.into());
        request
    };
    let engine = bench.engine();
    let mut web = start("web", &["sh", "-c", "echo up; exec sleep 1000"]);
    web.host
        .port_bindings
        .insert("80".parse().unwrap(), vec![PortBinding::default()]);
    let brief = start("brief", &["sh", "-c", "sleep 0.7; echo ended; exit 9"]);
    let mut rm = start("rm", &["sleep", "0.7"]);
    rm.host.auto_remove = true;
    let mut always = start("always", &["sh", "-c", "sleep 0.7; exit 1"]);
    always.host.restart_policy = RestartPolicy {
        name: "unless-stopped".into(),
        ..Default::default()
    };
    let created = start("created", &["true"]);
    for request in [web, brief, rm, always] {
        let id = engine.create(request).await.unwrap().id.to_string();
        engine.start(&id).await.unwrap();
    }
    engine.create(created).await.unwrap();
    let before = engine.inspect("web", false).await.unwrap();
    bench.crash().await;
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    bench.reopen().await;

    let engine = bench.engine();
    let after = engine.inspect("web", false).await.unwrap();
    assert_eq!(after.state.pid, before.state.pid);
    assert_eq!(
        after.network.endpoints["bridge"].ip_address,
        before.network.endpoints["bridge"].ip_address
    );
    let key = "80/tcp".parse().unwrap();
    assert_eq!(after.network.ports[&key], before.network.ports[&key]);
    assert_eq!(logs(engine, "web").await.stdout, "up\n");
    let exec = ExecCreate {
        attach_stdout: true,
        cmd: vec!["echo".into(), "still".into()],
        ..Default::default()
    };
    let session = engine.exec_create("web", exec).await.unwrap().to_string();
    let mut streams = engine
        .exec_start(&session, ExecStart::default())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(within(collect(&mut streams.output)).await.stdout, "still\n");

    let brief = engine.inspect("brief", false).await.unwrap();
    assert_eq!(
        (brief.state.status.as_str(), brief.state.exit_code),
        ("exited", 9)
    );
    assert_eq!(logs(engine, "brief").await.stdout, "ended\n");
    let gone = async {
        while engine.inspect("rm", false).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    within(gone).await;
    let again = async {
        while engine.inspect("always", false).await.unwrap().restart_count == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    within(again).await;
    assert_eq!(
        engine
            .inspect("created", false)
            .await
            .unwrap()
            .state
            .status
            .as_str(),
        "created"
    );
    let wait = engine
        .wait("created", WaitCondition::NextExit)
        .await
        .unwrap();
    engine.start("created").await.unwrap();
    assert_eq!(within(wait.finished()).await.unwrap().code, 0);
    within(engine.stop(
        "web",
        kekkai_engine::model::StopOptions {
            timeout: Some(0),
            ..Default::default()
        },
    ))
    .await
    .unwrap();
    bench.close().await;
}
