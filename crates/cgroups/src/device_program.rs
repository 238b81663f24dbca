//! Device rules as an eBPF program (version 2 has no files for them).
//!
//! The program walks the rules from the last to the first, since later rules win, and answers with the first that
//! matches; no rule means no access.

use std::os::fd::{AsFd, BorrowedFd};

use kekkai_sys::Result;
use kekkai_sys::bpf::{Instruction, attach_device_program, load_device_program};

use crate::limits::{DeviceKind, DeviceRule};

const LOAD_WORD: u8 = 0x61;
const MOVE_IMMEDIATE: u8 = 0xb7;
const MOVE_REGISTER_32: u8 = 0xbc;
const AND_IMMEDIATE_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// `BPF_DEVCG_ACC_*` and `BPF_DEVCG_DEV_*`.
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

pub(crate) fn attach(cgroup: BorrowedFd<'_>, rules: &[DeviceRule]) -> Result<()> {
    let program = load_device_program(&compile(rules))?;
    attach_device_program(cgroup, program.as_fd())
}

const fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: destination | source << 4,
        offset,
        immediate,
    }
}

fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    // r2 = type, r3 = access, r4 = major, r5 = minor; r1 is free afterwards.
    let mut program = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(AND_IMMEDIATE_32, 2, 0, 0, 0xffff),
        op(LOAD_WORD, 3, 1, 0, 0),
        op(SHIFT_RIGHT_32, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        if rule.is_for_all() {
            answer(&mut program, rule.allow);
            return program;
        }
        compile_rule(&mut program, rule);
    }
    answer(&mut program, false);
    program
}

fn compile_rule(program: &mut Vec<Instruction>, rule: &DeviceRule) {
    let access = rule.access.chars().fold(0, |bits, letter| {
        bits | match letter {
            'm' => MAKE,
            'r' => READ,
            _ => WRITE,
        }
    });
    let mut tests = Vec::new();
    match rule.kind {
        DeviceKind::All => {}
        DeviceKind::Block => tests.push(op(JUMP_NOT_EQUAL, 2, 0, 0, BLOCK)),
        DeviceKind::Character => tests.push(op(JUMP_NOT_EQUAL, 2, 0, 0, CHARACTER)),
    }
    if access != MAKE | READ | WRITE {
        tests.push(op(MOVE_REGISTER_32, 1, 3, 0, 0));
        tests.push(op(AND_IMMEDIATE_32, 1, 0, 0, access));
        // Allowing needs all that is asked for; denying any of it.
        tests.push(if rule.allow {
            op(JUMP_NOT_EQUAL_REGISTER, 1, 3, 0, 0)
        } else {
            op(JUMP_EQUAL, 1, 0, 0, 0)
        });
    }
    for (register, value) in [(4, rule.major), (5, rule.minor)] {
        if let Some(value) = value {
            tests.push(op(JUMP_NOT_EQUAL, register, 0, 0, value.cast_signed()));
        }
    }
    // Every failed test jumps behind this rule's answer, which is two instructions long.
    let length = tests.len();
    for (index, test) in tests.iter_mut().enumerate() {
        if matches!(
            test.code,
            JUMP_NOT_EQUAL | JUMP_EQUAL | JUMP_NOT_EQUAL_REGISTER
        ) {
            test.offset = i16::try_from(length - index - 1 + 2).unwrap_or(i16::MAX);
        }
    }
    program.extend(tests);
    answer(program, rule.allow);
}

fn answer(program: &mut Vec<Instruction>, allow: bool) {
    program.push(op(MOVE_IMMEDIATE, 0, 0, 0, i32::from(allow)));
    program.push(op(EXIT, 0, 0, 0, 0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_takes_it() {
        let rule = |allow, kind, major, minor, access: &str| DeviceRule {
            allow,
            kind,
            major,
            minor,
            access: access.into(),
        };
        let rules = [
            rule(false, DeviceKind::All, None, None, "rwm"),
            rule(true, DeviceKind::Character, Some(1), Some(3), "rwm"),
            rule(true, DeviceKind::Character, None, None, "m"),
            rule(false, DeviceKind::Character, Some(10), Some(229), "rw"),
        ];
        match load_device_program(&compile(&rules)) {
            Ok(_) => {}
            Err(kekkai_sys::Errno::PERM) => println!("skipped: may not load BPF programs"),
            Err(error) => panic!("{error}"),
        }
    }
}
