//! Whole command lines of `run`, and the bodies they make.

use super::*;

fn parsed(words: &[&str]) -> Result<ContainerRequest, String> {
    let words = words.iter().map(|word| (*word).to_owned());
    let matches = Matches::parse(RUN_FLAGS, words, false, String::from("run"))
        .map_err(|stop| format!("{stop:?}"))?;
    parse(&matches, &[])
}

#[test]
fn bodies() {
    let request = parsed(&[
        "-it",
        "--rm",
        "--name",
        "n",
        "-e",
        "A=1",
        "-m",
        "64m",
        "--cpus",
        "1.5",
        "-p",
        "8080:80",
        "-v",
        "/a:/b:ro",
        "-v",
        "/anon",
        "--entrypoint",
        "",
        "--network",
        "none",
        "alpine",
        "echo",
        "-n",
    ])
    .unwrap();
    let body = Json::Object(request.body.clone());
    assert_eq!(body["Cmd"], json!(["echo", "-n"]));
    assert_eq!(body["Entrypoint"], json!([""]));
    assert_eq!(body["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(body["HostConfig"]["NanoCpus"], 1_500_000_000);
    assert_eq!(body["HostConfig"]["NetworkMode"], "none");
    assert_eq!(body["HostConfig"]["Binds"], json!(["/a:/b:ro"]));
    assert_eq!(body["Volumes"], json!({"/anon": {}}));
    assert_eq!(
        (&body["StdinOnce"], &body["AttachStdin"], &body["Tty"]),
        (&json!(true), &json!(true), &json!(true))
    );
    assert!(body.get("NetworkingConfig").is_none());
    assert_eq!(
        parsed(&["--network", "container:x", "a"]).unwrap().body["HostConfig"]["NetworkMode"],
        "container:x"
    );
}

#[test]
fn conflicts() {
    assert_eq!(
        parsed(&["--rm", "--restart", "always", "a"]).unwrap_err(),
        "conflicting options: cannot specify both --restart and --rm"
    );
    assert_eq!(
        parsed(&["--no-healthcheck", "--health-cmd", "x", "a"]).unwrap_err(),
        "--no-healthcheck conflicts with --health-* options"
    );
    assert!(
        parsed(&["--gpus", "all", "a"])
            .unwrap_err()
            .contains("--gpus")
    );
    assert_eq!(
        parsed(&["--security-opt", "foo", "a"]).unwrap_err(),
        "Invalid --security-opt: \"foo\""
    );
    assert_eq!(
        parsed(&["--pid", "foo", "a"]).unwrap_err(),
        "--pid: invalid PID mode"
    );
}

#[test]
fn system_paths() {
    let request = parsed(&["--security-opt", "systempaths=unconfined", "a"]).unwrap();
    assert_eq!(request.body["HostConfig"]["MaskedPaths"], json!([]));
    assert!(request.body["HostConfig"].get("SecurityOpt").is_none());
}
