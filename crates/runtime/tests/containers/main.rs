//! Real containers of a busybox root on this machine. They need root and `busybox-static`; without them every test says
//! `skipped`.

#![allow(
    clippy::unwrap_used,
    reason = "a test that fails should stop where it failed"
)]

mod limits;
mod mounts;
mod process;
mod support;
mod terminal;

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
