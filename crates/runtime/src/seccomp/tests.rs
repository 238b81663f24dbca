use std::collections::{BTreeMap, BTreeSet};

use kekkai_oci::runtime::LinuxSeccomp;
use proptest::prelude::*;

use super::architecture::Architecture;
use super::interpret::interpret;
use super::*;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const DOCKER_CAPABILITIES: &[&str] = &["CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_SETUID"];

fn default_program(capabilities: &[&str]) -> Program {
    compile(&docker_default(capabilities)).unwrap()
}

fn decide(program: &Program, name: &str, arguments: [u64; 6]) -> u32 {
    interpret(
        program,
        X86_64,
        Architecture::X86_64.number(name).unwrap(),
        arguments,
    )
    .0
}

#[test]
fn default_profile_decides_as_docker_documents() {
    let program = default_program(DOCKER_CAPABILITIES);
    let no = [0; 6];
    for (name, arguments, want) in [
        ("read", no, ALLOW),
        ("execve", no, ALLOW),
        ("chroot", no, ALLOW),
        ("mount", no, EPERM),
        ("kexec_load", no, EPERM),
        ("keyctl", no, EPERM),
        ("io_uring_setup", no, EPERM),
        ("bpf", no, EPERM),
        ("clone3", no, ENOSYS),
        ("clone", [0x11, 0, 0, 0, 0, 0], ALLOW),
        ("clone", [0x1000_0011, 0, 0, 0, 0, 0], EPERM),
        ("clone", [0x0002_0000, 0, 0, 0, 0, 0], EPERM),
        ("socket", [2, 0, 0, 0, 0, 0], ALLOW),
        ("socket", [40, 0, 0, 0, 0, 0], EPERM),
        ("socket", [1 << 32 | 40, 0, 0, 0, 0, 0], ALLOW),
        ("personality", [0xffff_ffff, 0, 0, 0, 0, 0], ALLOW),
        ("personality", [0x0040_0000, 0, 0, 0, 0, 0], EPERM),
    ] {
        assert_eq!(
            decide(&program, name, arguments),
            want,
            "{name} {arguments:?}"
        );
    }
    assert_eq!(
        interpret(&program, X86_64, 9999, no).0,
        ENOSYS,
        "newer than the profile"
    );
    assert_eq!(
        interpret(&program, 0xdead, 0, no).0,
        0,
        "unknown architecture"
    );
    assert_eq!(interpret(&program, X86, 21, no).0, EPERM, "32-bit mount");
    assert_eq!(
        interpret(&program, X86, 102, [1, 0, 0, 0, 0, 0]).0,
        ALLOW,
        "socketcall"
    );
    assert_eq!(
        interpret(&program, X86_64, 0x4000_0000, no).0,
        ALLOW,
        "x32 read"
    );
    assert_eq!(
        interpret(&program, X86_64, 0x4000_0208, no).0,
        ALLOW,
        "x32 execve has its own number"
    );

    let admin = default_program(&["CAP_SYS_ADMIN"]);
    assert_eq!(decide(&admin, "mount", no), ALLOW);
    assert_eq!(decide(&admin, "clone3", no), ALLOW);
    assert_eq!(decide(&admin, "clone", [0x1000_0011, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(decide(&admin, "chroot", no), EPERM);
}

#[test]
fn dispatch_is_logarithmic() {
    let program = default_program(DOCKER_CAPABILITIES);
    let longest = (0..600)
        .map(|number| interpret(&program, X86_64, number, [0; 6]).1)
        .max()
        .unwrap();
    assert!(longest <= 24, "{longest} steps");
    assert!(
        program.instructions.len() < 1200,
        "{} instructions",
        program.instructions.len()
    );
}

/// The default profile, held against the sections that dockerd 28.5 wrote, where the peers' dockerd can be asked.
#[test]
fn default_profile_equals_dockerds() {
    let directory = std::env::var("KEKKAI_DOCKERD_SPECS").unwrap_or_default();
    let Ok(files) = std::fs::read_dir(&directory) else {
        eprintln!(
            "skipped: KEKKAI_DOCKERD_SPECS names no directory of config.json files written by dockerd"
        );
        return;
    };
    let mut compared = 0;
    for file in files {
        let path = file.unwrap().path();
        let spec: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let Ok(theirs) = serde_json::from_value::<LinuxSeccomp>(spec["linux"]["seccomp"].clone())
        else {
            continue;
        };
        let capabilities: Vec<String> =
            serde_json::from_value(spec["process"]["capabilities"]["bounding"].clone()).unwrap();
        let capabilities: Vec<&str> = capabilities.iter().map(String::as_str).collect();
        assert_eq!(
            calls(&docker_default(&capabilities)),
            calls(&theirs),
            "{}",
            path.display()
        );
        assert_eq!(
            compile(&theirs).unwrap(),
            default_program(&capabilities),
            "{}",
            path.display()
        );
        compared += 1;
    }
    assert!(compared > 0, "no specification in {directory}");
}

/// Every rule of a section by the call it is about.
fn calls(section: &LinuxSeccomp) -> BTreeMap<String, BTreeSet<String>> {
    let mut calls: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for call in section.syscalls().iter().flatten() {
        for name in call.names() {
            // dockerd writes `valueTwo: 0` or leaves it out; they mean the same.
            let arguments: Vec<_> = call
                .args()
                .iter()
                .flatten()
                .map(|a| (a.index(), a.value(), a.value_two().unwrap_or(0), a.op()))
                .collect();
            calls.entry(name.clone()).or_default().insert(format!(
                "{:?} {:?} {arguments:?}",
                call.action(),
                call.errno_ret()
            ));
        }
    }
    calls
}

#[test]
fn docker_profiles() {
    let profile = br#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        "syscalls": [
            {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["fork"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["bpf"], "action": "SCMP_ACT_KILL_PROCESS", "excludes": {"caps": ["CAP_BPF"]}}
        ]}"#;
    let program = compile(&from_docker_profile(profile, &[], "6.18.1-x").unwrap()).unwrap();
    let no = [0; 6];
    for (name, want) in [
        ("read", ALLOW),
        ("mount", EPERM),
        ("ptrace", ALLOW),
        ("fork", EPERM),
        ("bpf", 0x8000_0000),
        ("mprotect", EPERM),
    ] {
        assert_eq!(decide(&program, name, no), want, "{name}");
    }
    let old = compile(&from_docker_profile(profile, &["CAP_SYS_ADMIN"], "4.4").unwrap()).unwrap();
    assert_eq!(decide(&old, "ptrace", no), EPERM);
    assert_eq!(decide(&old, "mount", no), ALLOW);

    for bad in [
        &b"{"[..],
        br#"{"defaultAction": "SCMP_ACT_FOO"}"#,
        br#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
        br#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#,
        br#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
    ] {
        assert!(from_docker_profile(bad, &[], "6.1").is_err(), "{}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn a_denied_call_is_denied_through_the_multiplexer_too() {
    let profile = br#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["connect"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let program = compile(&from_docker_profile(profile, &[], "6.1").unwrap()).unwrap();
    assert_eq!(interpret(&program, X86, 102, [3, 0, 0, 0, 0, 0]).0, EPERM);
    assert_eq!(interpret(&program, X86, 102, [1, 0, 0, 0, 0, 0]).0, ALLOW);
    assert_eq!(
        interpret(&program, X86_64, 9999, [0; 6]).0,
        ALLOW,
        "an allowing profile stays open to newer calls"
    );
}

proptest! {
    /// Each operator decides as arithmetic does, on both word sizes.
    #[test]
    fn operators(operator in 1..=7_u8, value in any::<u64>(), other in any::<u64>(), argument in any::<u64>(), near in 0..4_u8) {
        let name = ["", "NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"][operator as usize];
        let argument = match near { 0 => argument, 1 => value, 2 => value.wrapping_add(1), _ => value & 0xffff_ffff };
        let datum = other & value;
        let profile = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [{{"names": ["read"],
                "action": "SCMP_ACT_ERRNO", "args": [{{"index": 3, "value": {value}, "valueTwo": {datum}, "op": "SCMP_CMP_{name}"}}]}}]}}"#
        );
        let program = compile(&from_docker_profile(profile.as_bytes(), &[], "6.1").unwrap()).unwrap();
        let holds = |argument: u64, value: u64, datum: u64| match operator {
            1 => argument != value,
            2 => argument < value,
            3 => argument <= value,
            4 => argument == value,
            5 => argument >= value,
            6 => argument > value,
            _ => argument & value == datum,
        };
        let want = |holds: bool| if holds { EPERM } else { ALLOW };
        let got = interpret(&program, X86_64, 0, [9, 9, 9, argument, 9, 9]).0;
        prop_assert_eq!(got, want(holds(argument, value, datum)));
        let low = |word: u64| word & 0xffff_ffff;
        let got = interpret(&program, X86, 3, [9, 9, 9, low(argument), 9, 9]).0;
        prop_assert_eq!(got, want(holds(low(argument), low(value), low(datum))));
    }
}
