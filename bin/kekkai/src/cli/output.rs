//! Writing to standard output and error in one call each, without Rust's locks and line buffers.

use rustix::io::Errno;

fn write_all(fd: impl std::os::fd::AsFd, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut poll = [rustix::event::PollFd::new(
                    &fd,
                    rustix::event::PollFlags::OUT,
                )];
                rustix::event::poll(&mut poll, None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Prints text as it is.
pub(crate) fn print(text: &str) -> std::io::Result<()> {
    write_all(std::io::stdout(), text.as_bytes())
}

/// Prints bytes as they are.
pub(crate) fn print_bytes(bytes: &[u8]) -> std::io::Result<()> {
    write_all(std::io::stdout(), bytes)
}

/// Prints a line.
pub(crate) fn line(text: &str) -> std::io::Result<()> {
    write_all(std::io::stdout(), format!("{text}\n").as_bytes())
}

/// Prints to standard error; there is nobody to tell when that fails.
pub(crate) fn to_stderr(text: &str) {
    let _ = write_all(std::io::stderr(), text.as_bytes());
}
