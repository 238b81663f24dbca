//! An interpreter of the BPF that filters use, to ask a filter what it decides.

use super::Program;

/// What `program` returns for a call. Panics on anything that the kernel's checker would refuse.
pub(crate) fn interpret(
    program: &Program,
    arch: u32,
    number: u32,
    arguments: [u64; 6],
) -> (u32, usize) {
    let word = |offset: u32| match offset {
        0 => number,
        4 => arch,
        16..64 => {
            let argument = arguments[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) {
                argument as u32
            } else {
                (argument >> 32) as u32
            }
        }
        _ => panic!("load at {offset}"),
    };
    let (mut at, mut accumulator, mut steps) = (0, 0_u32, 0);
    loop {
        let (code, jt, jf, k) = program.instructions[at];
        at += 1;
        steps += 1;
        let mut jump = |taken: bool| at += usize::from(if taken { jt } else { jf });
        match code {
            0x20 => accumulator = word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x45 => jump(accumulator & k != 0),
            0x06 => return (k, steps),
            _ => panic!("instruction {code:#x}"),
        }
    }
}
