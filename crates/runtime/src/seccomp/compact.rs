//! Makes a program smaller: equal returns are shared. The kernel translates every instruction at every load, so half the
//! size is a good part of the time that starting a container spends on its filter.
//!
//! What must stay true: the program decides as before; jumps only go forward and never further than `jt`/`jf` hold.

use std::collections::HashMap;

/// One instruction: code, jump if true, jump if false, operand.
type Instruction = (u16, u8, u8, u32);

const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_CLASS: u16 = 0x05;
const CLASS_MASK: u16 = 0x07;
/// How far a conditional jump reaches.
const REACH: usize = u8::MAX as usize;

/// Where an instruction goes next.
#[derive(Clone, Copy)]
enum Flow {
    Next,
    Always(usize),
    Either(usize, usize),
    Ends,
}

fn flow(at: usize, (code, jt, jf, k): Instruction) -> Flow {
    match code {
        RETURN => Flow::Ends,
        JUMP => Flow::Always(at + 1 + k as usize),
        _ if code & CLASS_MASK == JUMP_CLASS => {
            Flow::Either(at + 1 + usize::from(jt), at + 1 + usize::from(jf))
        }
        _ => Flow::Next,
    }
}

/// Shares returns and drops what is then never reached.
pub(super) fn compact(program: &[Instruction]) -> Vec<Instruction> {
    let mut flows: Vec<Flow> = program
        .iter()
        .enumerate()
        .map(|(at, one)| flow(at, *one))
        .collect();
    // From the end to the start: the last of equal returns that is in reach serves all before it. Distances only shrink
    // when instructions between are dropped.
    let mut shared: HashMap<u32, usize> = HashMap::new();
    for at in (0..flows.len()).rev() {
        if let Flow::Either(yes, no) = flows[at] {
            let mut share = |target: usize| match program.get(target) {
                Some(&(RETURN, _, _, value)) => {
                    let kept = shared.entry(value).or_insert(target);
                    if *kept - at - 1 > REACH {
                        *kept = target;
                    }
                    *kept
                }
                _ => target,
            };
            flows[at] = Flow::Either(share(yes), share(no));
        }
    }
    let mut reached = vec![false; program.len()];
    let mut waiting = vec![0];
    while let Some(at) = waiting.pop() {
        match reached.get_mut(at) {
            Some(seen) if !*seen => *seen = true,
            _ => continue,
        }
        match flows[at] {
            Flow::Next => waiting.push(at + 1),
            Flow::Always(target) => waiting.push(target),
            Flow::Either(yes, no) => waiting.extend([yes, no]),
            Flow::Ends => {}
        }
    }
    // The new place of every instruction: how many before it stay.
    let places: Vec<usize> = reached
        .iter()
        .scan(0, |count, stays| {
            let place = *count;
            *count += usize::from(*stays);
            Some(place)
        })
        .collect();
    let distance = |from: usize, to: usize| places[to] - places[from] - 1;
    let short = |from, to| u8::try_from(distance(from, to)).unwrap_or(u8::MAX);
    program
        .iter()
        .enumerate()
        .filter(|(at, _)| reached[*at])
        .map(|(at, &(code, jt, jf, k))| match flows[at] {
            Flow::Always(target) => (
                code,
                jt,
                jf,
                u32::try_from(distance(at, target)).unwrap_or(u32::MAX),
            ),
            Flow::Either(yes, no) => (code, short(at, yes), short(at, no), k),
            Flow::Next | Flow::Ends => (code, jt, jf, k),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_returns_are_shared() {
        let program = vec![
            (0x20, 0, 0, 0),
            (0x35, 2, 0, 10),
            (RETURN, 0, 0, 1),
            (RETURN, 0, 0, 7),
            (0x15, 0, 1, 12),
            (RETURN, 0, 0, 2),
            (RETURN, 0, 0, 1),
        ];
        let small = compact(&program);
        assert_eq!(
            small,
            [
                (0x20, 0, 0, 0),
                (0x35, 0, 2, 10),
                (0x15, 0, 1, 12),
                (RETURN, 0, 0, 2),
                (RETURN, 0, 0, 1)
            ]
        );
    }
}
