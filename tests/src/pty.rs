//! A pseudo-terminal with an expect of its own: what a person at a keyboard sees and types.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

#[derive(Debug, Default)]
struct Screen {
    bytes: Vec<u8>,
    closed: bool,
}

/// A command on a terminal of its own.
#[derive(Debug)]
pub struct Pty {
    master: OwnedFd,
    writer: File,
    child: Child,
    screen: Arc<(Mutex<Screen>, Condvar)>,
    /// Everything before this was already expected.
    read: usize,
    command: String,
}

impl Pty {
    /// Starts the command as leader of a session whose terminal this is. `setsid --ctty` (util-linux) does what only
    /// unsafe code could do here.
    pub fn start(command: &Command, words: &str, rows: u16, columns: u16) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size)?;
        let name = ptsname(&master, Vec::new())?;
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .open(name.to_str()?)
                .context("opening the slave")
        };
        let mut leader = Command::new("setsid");
        leader
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => leader.env(key, value),
                None => leader.env_remove(key),
            };
        }
        leader.env("TERM", "xterm");
        leader.stdin(open()?).stdout(open()?).stderr(open()?);
        let child = leader.spawn().context("spawning setsid")?;
        let screen = Arc::new((Mutex::new(Screen::default()), Condvar::new()));
        let (shared, mut reader) = (screen.clone(), File::from(master.try_clone()?));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                // EIO is how a master says that the last slave is closed.
                let n = reader.read(&mut buffer).unwrap_or(0);
                let mut screen = shared.0.lock().expect("no panics under this lock");
                screen.bytes.extend_from_slice(&buffer[..n]);
                screen.closed = n == 0;
                shared.1.notify_all();
                if n == 0 {
                    break;
                }
            }
        });
        let writer = File::from(master.try_clone()?);
        Ok(Self {
            master,
            writer,
            child,
            screen,
            read: 0,
            command: words.to_owned(),
        })
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        self.writer
            .write_all(text.as_bytes())
            .unwrap_or_else(|e| panic!("typing into `{}`: {e}", self.command));
    }

    /// Waits for the text after everything expected so far; gives what stood before it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        self.expect_within(text, Duration::from_secs(30))
    }

    /// `expect` with a deadline of its own.
    #[track_caller]
    pub fn expect_within(&mut self, text: &str, deadline: Duration) -> String {
        let until = Instant::now() + deadline;
        let mut screen = self.screen.0.lock().expect("no panics under this lock");
        loop {
            let new = &screen.bytes[self.read..];
            if let Some(at) = new.windows(text.len()).position(|w| w == text.as_bytes()) {
                let before = String::from_utf8_lossy(&new[..at]).into_owned();
                self.read += at + text.len();
                return before;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || screen.closed {
                let seen = String::from_utf8_lossy(new).into_owned();
                let why = if screen.closed {
                    "the terminal closed"
                } else {
                    "nothing more came"
                };
                drop(screen);
                panic!(
                    "`{}`: expected {text:?}, but {why}; seen since the last: {seen:?}",
                    self.command
                );
            }
            screen = self
                .screen
                .1
                .wait_timeout(screen, left)
                .expect("no panics under this lock")
                .0;
        }
    }

    /// Everything seen so far.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(
            &self
                .screen
                .0
                .lock()
                .expect("no panics under this lock")
                .bytes,
        )
        .into_owned()
    }

    /// Resizes the terminal, which sends SIGWINCH to its foreground group.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).expect("our own terminal");
    }

    /// Whether the terminal is in raw mode (no echo, no line editing).
    pub fn is_raw(&self) -> bool {
        use rustix::termios::LocalModes;
        let modes = rustix::termios::tcgetattr(&self.master)
            .expect("our own terminal")
            .local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits for the command's end; gives its exit code.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            }
            if Instant::now() > until {
                let seen = self.seen();
                drop(self.child.kill());
                panic!("`{}` did not end; seen: {seen:?}", self.command);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
