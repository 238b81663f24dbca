//! Limits that are really enforced.

use serde_json::json;

use crate::needs_root;
use crate::support::Bundle;

#[test]
fn memory() {
    needs_root!();
    let limit = json!({"limit": 16 << 20, "swap": 16 << 20});
    let bundle = Bundle::new()
        .set("/linux/resources/memory", limit)
        .script("head -c 64m /dev/zero | tail | wc -c");
    let output = bundle.run().unwrap();
    assert_ne!(output.stdout, "67108864\n", "{output:?}");
    let layout = kekkai_cgroups::detect().unwrap();
    let group = kekkai_cgroups::Cgroup::new(&layout, &crate::support::cgroup(&bundle.id)).unwrap();
    assert!(group.oom_kills() > 0);
    assert_eq!(group.stats().memory.limit, Some(16 << 20));
}

#[test]
fn too_little_memory_to_start() {
    needs_root!();
    let bundle = Bundle::new().set(
        "/linux/resources/memory",
        json!({"limit": 16384, "swap": 16384}),
    );
    // Either it cannot start or it is killed at once; never is the launcher killed.
    match bundle.run() {
        Ok(output) => assert_ne!(output.code, 0),
        Err(error) => assert_eq!(error.exit_code(), 125, "{error:?}"),
    }
}

#[test]
fn processes() {
    needs_root!();
    let bundle = Bundle::new().set("/linux/resources/pids", json!({"limit": 5}));
    let output = bundle
        .script("for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait")
        .run()
        .unwrap();
    assert!(output.stderr.contains("fork"), "{output:?}");
}

#[test]
fn cpu_time() {
    needs_root!();
    let bundle = Bundle::new().set(
        "/linux/resources/cpu",
        json!({"quota": 10000, "period": 100_000, "shares": 512}),
    );
    let bundle = bundle.script("sleep 0.1; i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done");
    assert_eq!(bundle.run().unwrap().code, 0);
    let layout = kekkai_cgroups::detect().unwrap();
    let group = kekkai_cgroups::Cgroup::new(&layout, &crate::support::cgroup(&bundle.id)).unwrap();
    assert!(
        group.stats().cpu.throttled_periods > 0,
        "{:?}",
        group.stats()
    );
}

#[test]
fn cpus() {
    needs_root!();
    let bundle = Bundle::new().set("/linux/resources/cpu", json!({"cpus": "0"}));
    assert_eq!(
        bundle
            .script("grep Cpus_allowed_list /proc/self/status")
            .stdout(),
        "Cpus_allowed_list:\t0\n"
    );
    let error = Bundle::new()
        .set("/linux/resources/cpu", json!({"cpus": "4000"}))
        .run()
        .unwrap_err();
    assert!(error.message.contains("cpuset.cpus"), "{}", error.message);
    assert_eq!(error.class().http_status(), 400);
}

#[test]
fn exec_is_limited_too() {
    needs_root!();
    let bundle = Bundle::new()
        .set("/linux/resources/pids", json!({"limit": 4}))
        .script("sleep 30");
    let (fds, _out, _err) = crate::support::pipes();
    let running = bundle.start(fds).unwrap();
    let output = bundle
        .exec(
            &running,
            &["sh", "-c", "for i in 1 2 3 4 5; do sleep 1 & done; wait"],
            |_| {},
        )
        .unwrap();
    assert!(output.stderr.contains("fork"), "{output:?}");
    crate::support::kill(&running);
}
