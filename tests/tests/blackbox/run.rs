//! `run`: exit codes, streams, what is inherited from the image.

use kekkai_tests::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("run/echo", |c| {
            c.run("run --rm @box echo hi there").ok().out("hi there\n").err("");
        }),
        Case::new("run/exit-code", |c| {
            c.run("run --rm @box sh -c 'exit 3'").code(3).out("").err("");
        }),
    ]
}
