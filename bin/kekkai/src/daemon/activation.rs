//! Sockets that systemd has opened for us (`LISTEN_FDS`).

use std::os::fd::OwnedFd;

use anyhow::Context;

/// The first descriptor that systemd hands over.
const FIRST: i32 = 3;

/// Most sockets that are taken over.
const MOST: i32 = 64;

/// Takes the descriptors that were passed to this very process; none without socket activation. To be called before
/// anything else opens a descriptor.
///
/// # Errors
/// When the environment announces descriptors that are not there.
pub(super) fn take_listeners() -> anyhow::Result<Vec<OwnedFd>> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<i64>().ok())
    };
    let ours = number("LISTEN_PID") == Some(i64::from(std::process::id()));
    let count = number("LISTEN_FDS")
        .filter(|_| ours)
        .and_then(|count| i32::try_from(count).ok())
        .unwrap_or(0);
    let mut sockets = Vec::new();
    for fd in FIRST..FIRST + count.clamp(0, MOST) {
        let socket = kekkai_sys::fd::inherited(fd)
            .with_context(|| format!("socket activation: descriptor {fd}"))?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)
            .context("socket activation")?;
        sockets.push(socket);
    }
    Ok(sockets)
}
