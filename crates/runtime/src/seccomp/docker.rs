//! Our filters beside those that Docker's own runtime loads (`testdata/seccomp`): every call of every architecture must
//! be decided the same way.

use super::interpret::interpret;
use super::*;

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

fn load(bytes: &[u8]) -> Program {
    let instructions = bytes.chunks_exact(8).map(|part| {
        let word = |at: usize| u16::from_le_bytes([part[at], part[at + 1]]);
        let operand = u32::from_le_bytes([part[4], part[5], part[6], part[7]]);
        (word(0), part[2], part[3], operand)
    });
    Program {
        instructions: instructions.collect(),
        flags: 0,
    }
}

/// Values that conditions of the profile distinguish, and their neighbours.
fn arguments() -> Vec<u64> {
    let mut values: Vec<u64> = (0..64).map(|bit| 1u64 << bit).collect();
    values.extend(0..48);
    values.extend([
        0x0002_0000,
        0x0002_0008,
        0x8,
        0xffff_ffff,
        0x0040_0000,
        u64::MAX,
    ]);
    values.extend([
        0x7e02_0000,
        0x7e02_0011,
        0x1000_0011,
        1 << 32 | 8,
        1 << 32 | 40,
        1 << 32,
    ]);
    values
}

fn compare(theirs: &[u8], capabilities: &[&str]) {
    let theirs = load(theirs);
    let ours = compile(&docker_default(capabilities)).unwrap();
    let mut different = Vec::new();
    for (name, arch, base) in [
        ("x86_64", X86_64, 0),
        ("x32", X86_64, 0x4000_0000),
        ("x86", X86, 0),
    ] {
        let numbers = (0..700u32).chain([1000, 0x3fff_ffff, 0x7fff_ffff, 0xffff_ffff]);
        for number in numbers.map(|number| number | base) {
            let decide = |arguments| {
                let one = interpret(&theirs, arch, number, arguments).0;
                let other = interpret(&ours, arch, number, arguments).0;
                (one, other)
            };
            // One argument at a time suffices: no rule of the profile looks at two.
            for index in 0..3 {
                for value in arguments() {
                    let mut arguments = [0u64; 6];
                    arguments[index] = value;
                    let (one, other) = decide(arguments);
                    if one != other {
                        different.push(format!(
                            "{name} {number} {arguments:x?}: docker {one:#x}, ours {other:#x}"
                        ));
                    }
                }
            }
        }
    }
    different.sort();
    assert!(
        different.is_empty(),
        "{} differences:\n{}",
        different.len(),
        different[..different.len().min(60)].join("\n")
    );
}

#[test]
fn unknown_architectures_die() {
    let ours = compile(&docker_default(&DEFAULT)).unwrap();
    let theirs = load(include_bytes!("../../testdata/seccomp/default.bpf"));
    for arch in [0, 0xc000_00b7, 0x4000_0028] {
        assert_eq!(
            interpret(&ours, arch, 0, [0; 6]).0,
            interpret(&theirs, arch, 0, [0; 6]).0
        );
    }
}

#[test]
fn default_capabilities() {
    compare(
        include_bytes!("../../testdata/seccomp/default.bpf"),
        &DEFAULT,
    );
}

#[test]
fn no_capabilities() {
    compare(include_bytes!("../../testdata/seccomp/none.bpf"), &[]);
}

#[test]
fn all_capabilities() {
    compare(
        include_bytes!("../../testdata/seccomp/all.bpf"),
        &kekkai_sys::capability::NAMES,
    );
}

#[test]
fn single_capabilities() {
    let with = |more: &[&'static str]| -> Vec<&'static str> {
        DEFAULT.iter().chain(more).copied().collect()
    };
    compare(
        include_bytes!("../../testdata/seccomp/sysadmin.bpf"),
        &with(&["CAP_SYS_ADMIN"]),
    );
    compare(
        include_bytes!("../../testdata/seccomp/ptrace.bpf"),
        &with(&["CAP_SYS_PTRACE"]),
    );
    let many = [
        "CAP_SYS_MODULE",
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_SYSLOG",
        "CAP_SYS_TIME",
        "CAP_SYS_NICE",
        "CAP_SYS_PACCT",
        "CAP_SYS_RAWIO",
        "CAP_SYS_TTY_CONFIG",
        "CAP_SYS_BOOT",
        "CAP_DAC_READ_SEARCH",
    ];
    compare(
        include_bytes!("../../testdata/seccomp/many.bpf"),
        &with(&many),
    );
}

#[test]
fn ours_is_a_third_of_the_size() {
    let ours = compile(&docker_default(&DEFAULT)).unwrap();
    let theirs = load(include_bytes!("../../testdata/seccomp/default.bpf"));
    println!(
        "docker {}, ours {}",
        theirs.instructions.len(),
        ours.instructions.len()
    );
    assert!(ours.instructions.len() * 3 < theirs.instructions.len());
}
