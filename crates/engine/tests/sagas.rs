//! Every step of create and start fails once. A program of its own, because fail points belong to a process.

#![allow(
    clippy::unwrap_used,
    reason = "a test that fails should stop where it failed"
)]

#[path = "suite/support.rs"]
#[expect(dead_code, reason = "shared with the suite, which uses all of it")]
mod support;

use kekkai_engine::model::{ListContainers, WaitCondition};

use crate::support::{Bench, busybox, within};

/// Afterwards nothing is left, and the same thing works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failed_step_is_undone() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let engine = bench.engine();
    let count = |directory: &str| {
        std::fs::read_dir(bench.config.data_root.join(directory))
            .map_or(0, |entries| entries.count())
    };
    let mut request = busybox(&["true"]);
    request.name = Some("saga".into());
    request.host.binds = vec!["/anonymous".into()];
    let points = kekkai_engine::failpoint::ALL;
    let create = points
        .iter()
        .filter(|name| name.starts_with("create.") && **name != "create.bound");
    for point in create {
        kekkai_engine::failpoint::configure(&format!("{point}=error"));
        let error = engine.create(request.clone()).await.unwrap_err();
        assert!(error.to_string().contains(point), "{error}");
        assert!(
            engine
                .list(ListContainers {
                    all: true,
                    ..Default::default()
                })
                .await
                .unwrap()
                .is_empty(),
            "{point}"
        );
        assert!(
            engine
                .volume_list(Default::default())
                .await
                .unwrap()
                .is_empty(),
            "{point}"
        );
        assert_eq!(count("snapshots"), 0, "{point}");
    }
    let id = engine.create(request).await.unwrap().id.to_string();
    for point in [
        "start.begin",
        "start.network",
        "start.files",
        "start.volumes",
        "start.sent",
    ] {
        kekkai_engine::failpoint::configure(&format!("{point}=error"));
        let error = engine.start("saga").await.unwrap_err();
        assert!(error.to_string().contains(point), "{error}");
        assert_eq!(
            engine
                .inspect("saga", false)
                .await
                .unwrap()
                .state
                .status
                .as_str(),
            "created"
        );
        assert!(
            engine
                .network_inspect("bridge")
                .await
                .unwrap()
                .containers
                .is_empty()
        );
    }
    kekkai_engine::failpoint::configure("");
    let wait = engine.wait("saga", WaitCondition::NextExit).await.unwrap();
    engine.start(&id).await.unwrap();
    assert_eq!(within(wait.finished()).await.unwrap().code, 0);
    bench.close().await;
}
