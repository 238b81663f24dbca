//! The client against registries that behave, that ask for names, and that lie.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use kekkai_content::Sha256;
use kekkai_distribution::testing::{TestRegistry, answer, cut, endless};
use kekkai_distribution::{Credentials, DistributionError, RegistryClient, RegistryConfig, Secret};
use kekkai_oci::image_documents::{Descriptor, media};
use kekkai_types::{Classify, Digest, ErrorClass, Reference};

fn client(config: RegistryConfig) -> RegistryClient {
    RegistryClient::new(config).unwrap()
}

fn plain() -> RegistryClient {
    client(RegistryConfig::default())
}

fn reference(text: &str) -> Reference {
    text.parse::<Reference>().unwrap().with_default_tag()
}

fn descriptor(digest: &Digest, size: usize) -> Descriptor {
    let json = format!(
        r#"{{"mediaType":"{}","digest":"{digest}","size":{size}}}"#,
        media::OCI_LAYER_GZIP
    );
    serde_json::from_str(&json).unwrap()
}

async fn read(
    client: &RegistryClient,
    name: &str,
    digest: &Digest,
    size: usize,
) -> Result<Bytes, DistributionError> {
    let repository = client.repository(&reference(name), None)?;
    repository
        .small_blob(&descriptor(digest, size), "filesystem layer", 1 << 20)
        .await
}

fn login(user: &str, password: &str) -> Credentials {
    Credentials {
        username: user.into(),
        password: Secret::new(password),
        ..Credentials::default()
    }
}

fn basic_only(registry: &TestRegistry) {
    registry.hook(|request| {
        // user:secret
        let fine = request
            .headers()
            .get(AUTHORIZATION)
            .is_some_and(|value| value == "Basic dXNlcjpzZWNyZXQ=");
        if fine {
            return None;
        }
        let mut response = answer(
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
        );
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, "Basic realm=\"test\"".parse().unwrap());
        Some(response)
    });
}

#[tokio::test]
async fn manifests_and_blobs() {
    let registry = TestRegistry::start().await;
    let digest = registry.put_image("a/b", "1", ("linux", "amd64"), &[vec![7; 3000]]);
    let client = plain();
    let name = reference(&registry.reference("a/b:1"));
    let repository = client.repository(&name, None).unwrap();
    let by_tag = repository.manifest(&name).await.unwrap();
    assert_eq!(
        (by_tag.digest.clone(), by_tag.media_type.as_str()),
        (digest.clone(), media::OCI_MANIFEST)
    );
    let by_digest = repository
        .manifest(&name.with_digest(digest))
        .await
        .unwrap();
    assert_eq!(by_digest.bytes, by_tag.bytes);
    // HTTPS was tried once; afterwards the endpoint that works is asked at once.
    assert_eq!(registry.take_requests().len(), 2);
    let blob = registry.put_blob(vec![1; 100_000]);
    assert_eq!(
        read(&client, &registry.reference("a/b"), &blob, 100_000)
            .await
            .unwrap()
            .len(),
        100_000
    );
}

#[tokio::test]
async fn words_of_errors() {
    let registry = TestRegistry::start().await;
    registry.put_image("known", "1", ("linux", "amd64"), &[]);
    let at = registry.address;
    let client = plain();
    let get = async |name: &str| {
        let reference = reference(name);
        client
            .repository(&reference, None)
            .unwrap()
            .manifest(&reference)
            .await
            .unwrap_err()
    };
    let error = get(&format!("{at}/known:nope")).await;
    assert_eq!(
        error.to_string(),
        format!("manifest for {at}/known:nope not found: manifest unknown: manifest unknown")
    );
    assert_eq!(error.class(), ErrorClass::NotFound);

    registry.hook(|_| Some(answer(403, r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#)));
    let error = get(&format!("{at}/secret")).await;
    assert_eq!(
        error.to_string(),
        format!(
            "pull access denied for {at}/secret, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
        )
    );
    registry.hook(|_| Some(answer(429, "slow down")));
    assert_eq!(
        get(&format!("{at}/x")).await.to_string(),
        "toomanyrequests: too many requests"
    );
    registry.hook(|_| Some(answer(418, "<html>")));
    assert_eq!(
        get(&format!("{at}/x")).await.to_string(),
        "received unexpected HTTP status: 418 I'm a teapot"
    );

    // Nobody listens there any more.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(
        get(&format!("{free}/x")).await.to_string(),
        format!("Get \"http://{free}/v2/\": dial tcp {free}: connect: connection refused")
    );
    let error = get("registry.invalid/x").await.to_string();
    assert!(
        error
            .starts_with("Get \"https://registry.invalid/v2/\": dial tcp: lookup registry.invalid"),
        "{error}"
    );
    // A server without TLS that is not declared insecure: only by its other name is it remote.
    let error = get(&format!("{}:{}/x", "0.0.0.0", at.port()))
        .await
        .to_string();
    assert_eq!(
        error,
        format!(
            "Get \"https://0.0.0.0:{}/v2/\": http: server gave HTTP response to HTTPS client",
            at.port()
        )
    );
}

#[tokio::test]
async fn passing_failures_are_tried_again() {
    let registry = TestRegistry::start().await;
    registry.put_image("x", "latest", ("linux", "amd64"), &[]);
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    registry.hook(move |_| (counting.fetch_add(1, Ordering::Relaxed) < 2).then(|| answer(503, "")));
    let name = reference(&registry.reference("x"));
    plain()
        .repository(&name, None)
        .unwrap()
        .manifest(&name)
        .await
        .unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_cut_blob_goes_on_where_it_was_cut() {
    let registry = TestRegistry::start().await;
    let data: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let blob = registry.put_blob(data.clone());
    let first = Bytes::from(data[..50_000].to_vec());
    let cuts = AtomicUsize::new(0);
    registry.hook(move |request| {
        let ranged = request.headers().contains_key(http::header::RANGE);
        (!ranged && cuts.fetch_add(1, Ordering::Relaxed) < 1)
            .then(|| http::Response::new(cut(first.clone())))
    });
    let client = plain();
    let got = read(&client, &registry.reference("x"), &blob, data.len())
        .await
        .unwrap();
    assert!(got == data);
    assert_eq!(registry.take_requests().len(), 2);
}

#[tokio::test]
async fn what_lies_is_refused() {
    let registry = TestRegistry::start().await;
    let at = registry.reference("x");
    let client = plain();
    let blob = registry.put_blob("right");
    registry.corrupt_blob(&blob, "wrong");
    assert!(matches!(
        read(&client, &at, &blob, 5).await,
        Err(DistributionError::WrongDigest { .. })
    ));
    // Longer than promised, and without an end.
    assert!(matches!(
        read(&client, &at, &blob, 3).await,
        Err(DistributionError::TooLarge { .. })
    ));
    registry.hook(|_| Some(http::Response::new(endless())));
    assert!(matches!(
        read(&client, &at, &blob, 5).await,
        Err(DistributionError::TooLarge { .. })
    ));
    let name = reference(&at);
    let repository = client.repository(&name, None).unwrap();
    let error = repository.manifest(&name).await.unwrap_err();
    assert!(
        matches!(error, DistributionError::TooLarge { .. }),
        "{error}"
    );
    registry.hook(|_| None);
    // Shorter, again and again.
    registry.corrupt_blob(&blob, "r");
    assert!(matches!(
        read(&client, &at, &blob, 5).await,
        Err(DistributionError::Truncated { expected: 5, .. })
    ));
    // Another manifest than the digest says.
    let other = Sha256::of(b"other");
    registry.hook(|request| {
        request
            .uri()
            .path()
            .contains("/manifests/")
            .then(|| answer(200, "{}"))
    });
    let wanted = name.with_digest(other);
    assert!(matches!(
        repository.manifest(&wanted).await,
        Err(DistributionError::WrongDigest { .. })
    ));
    registry.hook(|_| {
        let mut response = answer(200, "{}");
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            media::DOCKER_SCHEMA1_SIGNED.parse().unwrap(),
        );
        Some(response)
    });
    let error = repository.manifest(&name).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("schema 1 support has been removed"),
        "{error}"
    );
}

#[tokio::test]
async fn redirects() {
    let (registry, storage) = (TestRegistry::start().await, TestRegistry::start().await);
    let blob = registry.put_blob("the bytes");
    let to = |target: String| {
        move |request: &http::Request<hyper::body::Incoming>| {
            let path = request.uri().path().to_owned();
            path.contains("/blobs/").then(|| {
                let mut response = answer(307, "");
                response
                    .headers_mut()
                    .insert(LOCATION, target.replace("PATH", &path).parse().unwrap());
                response
            })
        }
    };
    storage.put_blob("the bytes");
    let leaked = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&leaked);
    storage.hook(move |request| {
        seen.fetch_add(
            usize::from(request.headers().contains_key(AUTHORIZATION)),
            Ordering::Relaxed,
        );
        None
    });
    registry.hook(to(format!("http://{}PATH?signature=x", storage.address)));
    let at = registry.reference("x");
    let name = reference(&at);
    let client = plain();
    let with_token = Credentials {
        registry_token: Secret::new("t0ken"),
        ..Credentials::default()
    };
    let repository = client.repository(&name, Some(with_token)).unwrap();
    let got = repository
        .small_blob(&descriptor(&blob, 9), "filesystem layer", 100)
        .await
        .unwrap();
    assert_eq!(got, "the bytes");
    assert_eq!(leaked.load(Ordering::Relaxed), 0);
    // In circles, and to other schemes.
    registry.hook(to(format!("http://{}PATH", registry.address)));
    let error = read(&client, &at, &blob, 9).await.unwrap_err();
    assert!(
        error.to_string().contains("stopped after 10 redirects"),
        "{error}"
    );
    for bad in ["file:///etc/passwd", "ftp://example/x", ""] {
        registry.hook(to(bad.to_owned()));
        let error = read(&client, &at, &blob, 9).await.unwrap_err();
        assert!(
            matches!(error, DistributionError::Redirect { .. }) || bad.is_empty(),
            "{bad}: {error}"
        );
    }
}

#[tokio::test]
async fn basic_authentication() {
    let registry = TestRegistry::start().await;
    let digest = registry.put_image("x", "latest", ("linux", "amd64"), &[]);
    basic_only(&registry);
    let name = reference(&registry.reference("x"));
    let client = plain();
    let pull = async |credentials| {
        client
            .repository(&name, credentials)
            .unwrap()
            .manifest(&name)
            .await
    };
    assert_eq!(
        pull(Some(login("user", "secret"))).await.unwrap().digest,
        digest
    );
    let error = pull(Some(login("user", "wrong"))).await.unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.class()),
        (
            "unauthorized: authentication required",
            ErrorClass::Unauthorized
        )
    );
    let error = pull(None).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "Head \"http://{}/v2/x/manifests/latest\": no basic auth credentials",
            registry.address
        )
    );

    let server = registry.address.to_string();
    let check = async |user: &str, password: &str| {
        client
            .check_login(&Credentials {
                server_address: server.clone(),
                ..login(user, password)
            })
            .await
    };
    assert_eq!(
        check("user", "secret").await.unwrap().status,
        "Login Succeeded"
    );
    let error = check("user", "wrong").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("login attempt to http://{server}/v2/ failed with status: 401 Unauthorized")
    );
    assert_eq!(error.class(), ErrorClass::Unauthorized);
}

#[tokio::test]
async fn bearer_tokens() {
    let (registry, tokens) = (TestRegistry::start().await, TestRegistry::start().await);
    let digest = registry.put_image("team/app", "latest", ("linux", "amd64"), &[vec![1; 10]]);
    let realm = format!("http://{}/token?fixed=1", tokens.address);
    registry.hook(move |request| {
        let fine = request
            .headers()
            .get(AUTHORIZATION)
            .is_some_and(|value| value == "Bearer granted");
        if fine {
            return None;
        }
        let mut response = answer(401, "");
        let challenge =
            format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:team/app:pull\"");
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, challenge.parse().unwrap());
        Some(response)
    });
    tokens.hook(|request| {
        let query = request.uri().query().unwrap_or("");
        let user = request
            .headers()
            .get(AUTHORIZATION)
            .map(|value| value.to_str().unwrap().to_owned());
        Some(match (request.method().as_str(), user.as_deref()) {
            ("GET", Some("Basic dXNlcjpzZWNyZXQ=")) => {
                assert!(query.starts_with("fixed=1&service=reg"), "{query}");
                let kept = if query.contains("offline_token=true") {
                    r#","refresh_token":"keep""#
                } else {
                    ""
                };
                answer(200, format!(r#"{{"token":"granted"{kept}}}"#))
            }
            ("GET", None) => answer(200, r#"{"access_token":"anonymous"}"#),
            ("POST", None) => answer(200, r#"{"access_token":"granted"}"#),
            _ => answer(401, r#"{"details":"incorrect username or password"}"#),
        })
    });
    let name = reference(&registry.reference("team/app"));
    let client = plain();
    let pull = async |credentials| {
        client
            .repository(&name, credentials)
            .unwrap()
            .manifest(&name)
            .await
    };
    assert_eq!(
        pull(Some(login("user", "secret"))).await.unwrap().digest,
        digest
    );
    let identity = Credentials {
        identity_token: Secret::new("keep"),
        ..Credentials::default()
    };
    assert_eq!(pull(Some(identity)).await.unwrap().digest, digest);
    assert_eq!(tokens.take_requests(), ["GET /token", "POST /token"]);
    // One token serves all requests of a pull.
    let repository = client
        .repository(&name, Some(login("user", "secret")))
        .unwrap();
    repository.manifest(&name).await.unwrap();
    repository.manifest(&name).await.unwrap();
    assert_eq!(tokens.take_requests().len(), 1);
    let error = pull(Some(login("user", "wrong")))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("unauthorized: incorrect username or password"),
        "{error}"
    );
    assert!(pull(None).await.is_err());

    let check = |user: &str, password: &str| {
        let credentials = Credentials {
            server_address: format!("http://{}", registry.address),
            ..login(user, password)
        };
        let client = client.clone();
        async move { client.check_login(&credentials).await }
    };
    let outcome = check("user", "secret").await.unwrap();
    assert_eq!(
        (outcome.status.as_str(), outcome.identity_token.expose()),
        ("Login Succeeded", "keep")
    );
    let error = check("user", "wrong").await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "Get \"http://{}/v2/\": unauthorized: incorrect username or password",
            registry.address
        )
    );
}

#[tokio::test]
async fn mirrors_come_first_and_may_fail() {
    let (mirror, second) = (TestRegistry::start().await, TestRegistry::start().await);
    let digest = second.put_image("library/alpine", "3", ("linux", "amd64"), &[]);
    let config = RegistryConfig {
        mirrors: vec![
            format!("http://{}", mirror.address),
            format!("http://{}/", second.address),
        ],
        ..RegistryConfig::default()
    };
    let client = client(config);
    let name = reference("alpine:3");
    let repository = client
        .repository(&name, Some(login("user", "secret")))
        .unwrap();
    assert_eq!(repository.manifest(&name).await.unwrap().digest, digest);
    assert_eq!(
        mirror.take_requests(),
        ["GET /v2/library/alpine/manifests/3"]
    );
    // The one that worked is asked first from now on.
    repository.manifest(&name).await.unwrap();
    assert!(mirror.take_requests().is_empty());
    // Other domains have no mirrors.
    mirror.put_image("library/alpine", "3", ("linux", "amd64"), &[]);
    let other = reference(&second.reference("library/alpine:3"));
    client
        .repository(&other, None)
        .unwrap()
        .manifest(&other)
        .await
        .unwrap();
    assert!(mirror.take_requests().is_empty());
}
