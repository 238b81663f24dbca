//! What cannot be done is told in dockerd's words, and leaves nothing behind.

use kekkai_engine::EngineError;
use kekkai_engine::model::{RestartPolicy, WaitCondition};
use kekkai_types::ErrorClass;

use crate::support::{Bench, busybox, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_that_fail() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let engine = bench.engine();
    for (words, code, text) in [
        (
            &["nosuch"][..],
            127,
            "exec: \"nosuch\": executable file not found in $PATH",
        ),
        (
            &["/etc/passwd"],
            126,
            "exec: \"/etc/passwd\": permission denied",
        ),
        (
            &["/etc"],
            126,
            "exec: \"/etc\": is a directory: permission denied",
        ),
    ] {
        let id = engine.create(busybox(words)).await.unwrap().id.to_string();
        let error = engine.start(&id).await.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.class(), ErrorClass::InvalidArgument);
        let view = engine.inspect(&id, false).await.unwrap();
        assert_eq!(
            (view.state.exit_code, view.state.status.as_str()),
            (code, "created")
        );
        assert!(view.state.error.contains(text));
    }
    let mut request = busybox(&["true"]);
    request.config.user = Some("nosuch".into());
    let id = engine.create(request).await.unwrap().id.to_string();
    let error = engine.start(&id).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "unable to find user nosuch: no matching entries in passwd file"
    );
    assert_eq!(
        engine.inspect(&id, false).await.unwrap().state.exit_code,
        128
    );

    // With --rm it goes away, and whoever waits for that is told.
    let mut request = busybox(&["nosuch"]);
    request.host.auto_remove = true;
    let id = engine.create(request).await.unwrap().id.to_string();
    let wait = engine.wait(&id, WaitCondition::Removed).await.unwrap();
    engine.start(&id).await.unwrap_err();
    assert_eq!(within(wait.finished()).await.unwrap().code, 127);
    assert!(matches!(
        engine.inspect(&id, false).await,
        Err(EngineError::NoSuchContainer(_))
    ));
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_images() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let engine = bench.engine();
    let mut request = busybox(&["true"]);
    request.name = Some("/taken".into());
    let id = engine.create(request.clone()).await.unwrap().id;
    let error = engine.create(request).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Conflict. The container name \"/taken\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
        )
    );
    assert_eq!(error.class(), ErrorClass::Conflict);
    let mut request = busybox(&["true"]);
    request.config.image = "nosuch".into();
    let error = engine.create(request).await.unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.class()),
        ("No such image: nosuch:latest", ErrorClass::NotFound)
    );
    let short = &id.to_string()[..4];
    assert_eq!(engine.resolve(short).unwrap(), id);
    assert!(
        engine
            .image_users(&engine.images().resolve("busybox").unwrap().id)
            .len()
            == 1
    );
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_policies() {
    let Some(bench) = Bench::open().await else {
        return;
    };
    if bench.load("busybox:latest").await.is_none() {
        return;
    }
    let engine = bench.engine();
    let mut request = busybox(&["false"]);
    request.name = Some("again".into());
    request.host.restart_policy = RestartPolicy {
        name: "on-failure".into(),
        maximum_retry_count: 2,
    };
    engine.create(request).await.unwrap();
    engine.start("again").await.unwrap();
    let settled = async {
        loop {
            let view = engine.inspect("again", false).await.unwrap();
            if view.restart_count == 2 && view.state.status.as_str() == "exited" {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    within(settled).await;
    let mut request = busybox(&["false"]);
    request.name = Some("always".into());
    request.host.restart_policy = RestartPolicy {
        name: "always".into(),
        ..Default::default()
    };
    engine.create(request).await.unwrap();
    engine.start("always").await.unwrap();
    let restarting = async {
        while engine.inspect("always", false).await.unwrap().restart_count < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    within(restarting).await;
    within(engine.stop("always", Default::default()))
        .await
        .unwrap();
    assert_eq!(
        engine
            .inspect("always", false)
            .await
            .unwrap()
            .state
            .status
            .as_str(),
        "exited"
    );
    bench.close().await;
}
