//! The terminal: raw mode that is always undone, its size.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Standard input in raw mode; the former mode comes back when this is dropped.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Puts standard input into raw mode; `None` if it is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        let input = std::io::stdin();
        let before = tcgetattr(input.as_fd()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(input.as_fd(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.before);
    }
}

/// Runs `read` with the echo of standard input switched off.
pub(crate) fn without_echo<T>(read: impl FnOnce() -> T) -> T {
    let input = std::io::stdin();
    let Ok(before) = tcgetattr(input.as_fd()) else {
        return read();
    };
    let mut quiet = before.clone();
    quiet.local_modes.remove(rustix::termios::LocalModes::ECHO);
    let _ = tcsetattr(input.as_fd(), OptionalActions::Now, &quiet);
    let result = read();
    let _ = tcsetattr(input.as_fd(), OptionalActions::Now, &before);
    result
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    isatty(std::io::stdin().as_fd())
}

/// Whether standard output is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    isatty(std::io::stdout().as_fd())
}

/// Whether standard error is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    isatty(std::io::stderr().as_fd())
}

/// Rows and columns of the terminal on standard output, or (0, 0).
pub(crate) fn size() -> (u16, u16) {
    size_of(std::io::stdout().as_fd())
}

/// Rows and columns of a terminal, or (0, 0).
pub(crate) fn size_of(fd: BorrowedFd<'_>) -> (u16, u16) {
    tcgetwinsize(fd).map_or((0, 0), |size| (size.ws_row, size.ws_col))
}
