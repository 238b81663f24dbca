//! The real keeper with real containers of a busybox root. Needs root and `busybox-static`; without them every test says
//! `skipped`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that fails should stop where it failed, in helpers too"
)]

mod crash;
mod exits;
mod logs;
mod streams;
mod support;

/// Leaves the test where containers cannot run.
macro_rules! needs_root {
    () => {
        if let Some(reason) = crate::support::why_not() {
            println!("skipped: {reason}");
            return;
        }
    };
}
pub(crate) use needs_root;
