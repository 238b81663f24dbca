//! The compiler: one balanced tree of comparisons for each architecture, whose leaves return an action or look at the
//! arguments first.
//!
//! What must stay true: the program ends in a return on every path; a jump never exceeds what `jt`/`jf` hold (a longer
//! one goes through `BPF_JA`); an unconditional rule for a call outweighs conditional ones, as in libseccomp.

use std::collections::BTreeMap;

use kekkai_oci::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::Program;
use super::architecture::{Architecture, X32_BIT};
use super::compact::compact;
use crate::PlanError;

/// One instruction: code, jump if true, jump if false, operand.
type Instruction = (u16, u8, u8, u32);

// Classic BPF (`linux/bpf_common.h`).
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const AUDIT_ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

// `SECCOMP_RET_*`.
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The kernel's limit, `BPF_MAXINSNS`.
const LONGEST: usize = 4096;

/// What happens to one system call of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    Always(u32),
    /// The first rule whose conditions all hold decides, otherwise the default.
    Filtered(Vec<Rule>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    conditions: Vec<Condition>,
    action: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    index: u32,
    operator: LinuxSeccompOperator,
    value: u64,
    /// For `MASKED_EQ`, `value` is the mask and this is what must remain.
    datum: u64,
}

/// Compiles `section`.
///
/// # Errors
/// Unknown or unsupported actions, an argument index above 5, a filter longer than the kernel takes.
pub(crate) fn compile(section: &LinuxSeccomp) -> Result<Program, PlanError> {
    let default = action(section.default_action(), section.default_errno_ret())?;
    let mut architectures = vec![Architecture::X86_64];
    for arch in section.architectures().iter().flatten() {
        architectures.extend(Architecture::from_oci(*arch)?);
    }
    architectures.sort_unstable();
    architectures.dedup();
    let calls = section.syscalls().as_deref().unwrap_or_default();
    let beyond = match section.default_action() {
        LinuxSeccompAction::ScmpActAllow
        | LinuxSeccompAction::ScmpActLog
        | LinuxSeccompAction::ScmpActTrace => None,
        _ => Some(ERRNO | ENOSYS),
    };

    let mut bodies: Vec<(u32, Vec<Instruction>)> = Vec::new();
    let tree_of = |architecture: Architecture| -> Result<Vec<Instruction>, PlanError> {
        let intervals = intervals(architecture, calls, default, beyond)?;
        Ok(tree(&intervals, default, architecture.wide()))
    };
    let narrow = tree_of(Architecture::X86_64)?;
    let x32 = if architectures.contains(&Architecture::X32) {
        tree_of(Architecture::X32)?
    } else {
        vec![(RETURN, 0, 0, KILL_THREAD)]
    };
    let mut native = vec![(LOAD, 0, 0, NUMBER)];
    branch(&mut native, (AT_LEAST, X32_BIT), x32, narrow);
    bodies.push((Architecture::X86_64.audit(), native));
    if architectures.contains(&Architecture::X86) {
        let mut body = vec![(LOAD, 0, 0, NUMBER)];
        body.extend(tree_of(Architecture::X86)?);
        bodies.push((Architecture::X86.audit(), body));
    }

    let mut instructions = vec![(LOAD, 0, 0, AUDIT_ARCH)];
    let mut rest = vec![(RETURN, 0, 0, KILL_THREAD)];
    for (audit, body) in bodies.into_iter().rev() {
        let mut section = Vec::new();
        branch(&mut section, (EQUAL, audit), body, rest);
        rest = section;
    }
    instructions.extend(rest);
    let instructions = compact(&instructions);
    if instructions.len() > LONGEST {
        return Err(PlanError::Invalid {
            field: "linux.seccomp",
            subject: format!("{} instructions", instructions.len()),
            reason: format!("the kernel takes at most {LONGEST}"),
        });
    }
    Ok(Program {
        instructions,
        flags: flags(section),
    })
}

/// `SECCOMP_FILTER_FLAG_*`; without any, speculation mitigations stay off as runc leaves them.
fn flags(section: &LinuxSeccomp) -> u32 {
    const SPEC_ALLOW: u32 = 1 << 2;
    match section.flags() {
        None => SPEC_ALLOW,
        Some(flags) => flags.iter().fold(0, |all, flag| {
            all | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 1 << 5,
            }
        }),
    }
}

/// The filter's return value for an OCI action.
fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, PlanError> {
    let data = || {
        let errno = errno.unwrap_or(EPERM);
        u16::try_from(errno)
            .map(u32::from)
            .map_err(|_| PlanError::Invalid {
                field: "linux.seccomp.syscalls.errnoRet",
                subject: errno.to_string(),
                reason: "it has at most 16 bits".to_owned(),
            })
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno => ERRNO | data()?,
        LinuxSeccompAction::ScmpActTrace => TRACE | data()?,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(PlanError::Unsupported(
                "the seccomp action SCMP_ACT_NOTIFY".to_owned(),
            ));
        }
    })
}

/// Decisions by number, sorted, without gaps: each reaches up to the next one's start.
fn intervals(
    architecture: Architecture,
    calls: &[LinuxSyscall],
    default: u32,
    beyond: Option<u32>,
) -> Result<Vec<(u32, Decision)>, PlanError> {
    let mut decisions: BTreeMap<u32, Decision> = BTreeMap::new();
    let mut last = None;
    for call in calls {
        let action = action(call.action(), call.errno_ret())?;
        let alternatives = alternatives(call.args().as_deref().unwrap_or_default())?;
        for name in call.names() {
            let number = architecture.number(name);
            last = last.max(number);
            if action == default {
                continue;
            }
            if let Some(number) = number {
                for conditions in &alternatives {
                    decide(
                        &mut decisions,
                        number,
                        Rule {
                            conditions: conditions.clone(),
                            action,
                        },
                    );
                }
            }
            if let Some((number, selector)) = architecture.multiplexed(name)
                && alternatives == [Vec::new()]
            {
                let selected = Condition {
                    index: 0,
                    operator: LinuxSeccompOperator::ScmpCmpEq,
                    value: selector.into(),
                    datum: 0,
                };
                decide(
                    &mut decisions,
                    number,
                    Rule {
                        conditions: vec![selected],
                        action,
                    },
                );
            }
        }
    }

    let first = if architecture == Architecture::X32 {
        X32_BIT
    } else {
        0
    };
    let mut intervals: Vec<(u32, Decision)> = Vec::with_capacity(decisions.len());
    let mut push = |start: u32, decision: Decision| {
        if intervals
            .last()
            .is_none_or(|(_, previous)| *previous != decision)
        {
            intervals.push((start, decision));
        }
    };
    let mut next = first;
    for (number, decision) in decisions {
        if number > next {
            push(next, Decision::Always(default));
        }
        push(number, decision);
        next = number + 1;
    }
    match (last, beyond) {
        (Some(last), Some(beyond)) => {
            if last >= next {
                push(next, Decision::Always(default));
            }
            push(last + 1, Decision::Always(beyond));
        }
        _ => push(next, Decision::Always(default)),
    }
    Ok(intervals)
}

/// Adds a rule to what is decided about a call. An unconditional rule replaces conditional ones and is never replaced.
fn decide(decisions: &mut BTreeMap<u32, Decision>, number: u32, rule: Rule) {
    let unconditional = rule.conditions.is_empty();
    let action = rule.action;
    match decisions.get_mut(&number) {
        Some(Decision::Always(_)) => {}
        Some(Decision::Filtered(rules)) if !unconditional => {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        _ => {
            let decision = if unconditional {
                Decision::Always(action)
            } else {
                Decision::Filtered(vec![rule])
            };
            decisions.insert(number, decision);
        }
    }
}

/// The conditions of a rule: all must hold. Where one argument is named twice they are alternatives instead, as runc
/// has it.
fn alternatives(arguments: &[LinuxSeccompArg]) -> Result<Vec<Vec<Condition>>, PlanError> {
    let mut conditions = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let index = u32::try_from(argument.index())
            .ok()
            .filter(|index| *index < 6)
            .ok_or_else(|| PlanError::Invalid {
                field: "linux.seccomp.syscalls.args.index",
                subject: argument.index().to_string(),
                reason: "a system call has six arguments".to_owned(),
            })?;
        conditions.push(Condition {
            index,
            operator: argument.op(),
            value: argument.value(),
            datum: argument.value_two().unwrap_or(0),
        });
    }
    let twice = |condition: &Condition| {
        conditions
            .iter()
            .filter(|other| other.index == condition.index)
            .count()
            > 1
    };
    if conditions.iter().any(twice) {
        Ok(conditions
            .into_iter()
            .map(|condition| vec![condition])
            .collect())
    } else {
        Ok(vec![conditions])
    }
}

/// Appends `if (A operator k) { yes } else { no }`; both must end in a return.
fn branch(
    program: &mut Vec<Instruction>,
    (operator, k): (u16, u32),
    yes: Vec<Instruction>,
    no: Vec<Instruction>,
) {
    match u8::try_from(no.len()) {
        Ok(skip) => program.push((operator, skip, 0, k)),
        Err(_) => {
            program.push((operator, 0, 1, k));
            // A filter has at most 4096 instructions, so its length fits.
            program.push((JUMP, 0, 0, u32::try_from(no.len()).unwrap_or(u32::MAX)));
        }
    }
    program.extend(no);
    program.extend(yes);
}

/// The tree for sorted intervals, with the call's number in the accumulator.
fn tree(intervals: &[(u32, Decision)], default: u32, wide: bool) -> Vec<Instruction> {
    match intervals {
        [] => vec![(RETURN, 0, 0, default)],
        [(_, decision)] => leaf(decision, default, wide),
        _ => {
            let (low, high) = intervals.split_at(intervals.len() / 2);
            let mut program = Vec::new();
            branch(
                &mut program,
                (AT_LEAST, high[0].0),
                tree(high, default, wide),
                tree(low, default, wide),
            );
            program
        }
    }
}

fn leaf(decision: &Decision, default: u32, wide: bool) -> Vec<Instruction> {
    let mut program = Vec::new();
    match decision {
        Decision::Always(action) => program.push((RETURN, 0, 0, *action)),
        Decision::Filtered(rules) => {
            for rule in rules {
                let mut code = vec![(RETURN, 0, 0, rule.action)];
                for condition in rule.conditions.iter().rev() {
                    let mut test = check(*condition, wide, code.len());
                    test.append(&mut code);
                    code = test;
                }
                program.append(&mut code);
            }
            program.push((RETURN, 0, 0, default));
        }
    }
    program
}

/// Code that falls through where the condition holds and otherwise jumps over the `rest` instructions that follow it.
fn check(condition: Condition, wide: bool, rest: usize) -> Vec<Instruction> {
    // Six conditions of at most six instructions each: a jump always fits.
    let fail = |after: u8| u8::try_from(rest).unwrap_or(u8::MAX).saturating_add(after);
    let low_at = ARGUMENTS + 8 * condition.index;
    let halves = |value: u64| ((value >> 32) as u32, (value & 0xffff_ffff) as u32);
    let (high, low) = halves(condition.value);
    let load_high = (LOAD, 0, 0, low_at + 4);
    let load_low = (LOAD, 0, 0, low_at);
    // The last comparison, of the low halves: (operator, holds if true).
    let (operator, truth) = match condition.operator {
        LinuxSeccompOperator::ScmpCmpEq | LinuxSeccompOperator::ScmpCmpMaskedEq => (EQUAL, true),
        LinuxSeccompOperator::ScmpCmpNe => (EQUAL, false),
        LinuxSeccompOperator::ScmpCmpGt => (GREATER, true),
        LinuxSeccompOperator::ScmpCmpLe => (GREATER, false),
        LinuxSeccompOperator::ScmpCmpGe => (AT_LEAST, true),
        LinuxSeccompOperator::ScmpCmpLt => (AT_LEAST, false),
    };
    let last = |k: u32| {
        if truth {
            (operator, 0, fail(0), k)
        } else {
            (operator, fail(0), 0, k)
        }
    };
    if condition.operator == LinuxSeccompOperator::ScmpCmpMaskedEq {
        let (datum_high, datum_low) = halves(condition.datum);
        let mut code = Vec::new();
        if wide {
            code.extend([
                load_high,
                (AND, 0, 0, high),
                (EQUAL, 0, fail(3), datum_high),
            ]);
        }
        code.extend([load_low, (AND, 0, 0, low), last(datum_low)]);
        return code;
    }
    let mut code = Vec::new();
    if wide {
        code.push(load_high);
        match condition.operator {
            LinuxSeccompOperator::ScmpCmpEq => code.push((EQUAL, 0, fail(2), high)),
            LinuxSeccompOperator::ScmpCmpNe => code.push((EQUAL, 0, 2, high)),
            // Greater high halves decide at once, and so do smaller ones; equal ones leave it to the low halves.
            LinuxSeccompOperator::ScmpCmpGt | LinuxSeccompOperator::ScmpCmpGe => {
                code.extend([(GREATER, 3, 0, high), (EQUAL, 0, fail(2), high)]);
            }
            _ => code.extend([(GREATER, fail(3), 0, high), (EQUAL, 0, 2, high)]),
        }
    }
    code.extend([load_low, last(low)]);
    code
}
