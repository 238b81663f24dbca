//! From `kekkai-keeper --exec-root DIR …` to guardian and keeper.
//!
//! What must stay true: what runs is a sealed copy of the program (CVE-2019-5736); nothing of the caller's descriptors,
//! signals, terminal or environment is inherited; the first process exits with 0 only when the keeper serves.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use kekkai_sys::clone::{CloneFlags, spawn_copied};
use kekkai_sys::process::CStringArray;
use kekkai_sys::{Errno, fd, memfd, memory, process, signal};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use crate::failpoint;
use crate::server::guardian::{Shared, guard};
use crate::server::state::StateTable;

/// Variables that are looked at.
const FAILPOINTS: &str = "KEKKAI_FAILPOINTS";
/// See `sd_notify(3)`; with `serve` only.
const NOTIFY: &str = "NOTIFY_SOCKET";

const USAGE: &str = "usage: kekkai-keeper [serve] --exec-root DIR [--spill-dir DIR] [--build ID]
       kekkai-keeper --failpoints
The keeper starts and keeps the containers of a kekkai daemon, which starts it by itself. With `serve` it stays in the
foreground, for a unit of its own under systemd (Type=notify).";

/// What the keeper was started with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) exec_root: PathBuf,
    pub(crate) spill_dir: PathBuf,
    pub(crate) build: String,
    pub(crate) failpoints: String,
    /// Whether the first process becomes the guardian.
    foreground: bool,
}

impl Settings {
    fn parse() -> Result<Self, String> {
        let mut settings = Self {
            exec_root: PathBuf::new(),
            spill_dir: PathBuf::new(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            failpoints: std::env::var(FAILPOINTS).unwrap_or_default(),
            foreground: false,
        };
        let mut arguments = std::env::args_os().skip(1).peekable();
        settings.foreground = arguments.next_if(|argument| argument == "serve").is_some();
        while let Some(name) = arguments.next() {
            let name = name.to_string_lossy().into_owned();
            let value = arguments
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--exec-root" => settings.exec_root = value.into(),
                "--spill-dir" => settings.spill_dir = value.into(),
                "--build" => settings.build = value.to_string_lossy().into_owned(),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        if settings.spill_dir.as_os_str().is_empty() {
            settings.spill_dir.clone_from(&settings.exec_root);
        }
        if !settings.exec_root.is_absolute() || !settings.spill_dir.is_absolute() {
            return Err("--exec-root and --spill-dir must be absolute paths".to_owned());
        }
        Ok(settings)
    }

    fn socket(&self) -> PathBuf {
        self.exec_root.join("keeper.sock")
    }

    /// Removes what an ended keeper leaves.
    pub(crate) fn clean_up(&self) {
        drop(std::fs::remove_file(self.socket()));
        drop(std::fs::remove_file(self.exec_root.join("keeper.state")));
        drop(std::fs::remove_file(self.exec_root.join("keeper.pending")));
    }
}

/// The program `kekkai-keeper`.
pub fn run() -> ExitCode {
    memory::keep_small();
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument.as_bytes() == b"--failpoints")
    {
        failpoint::ALL.iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let settings = match Settings::parse() {
        Ok(settings) => settings,
        Err(message) => {
            eprintln!("kekkai-keeper: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match protect(&settings).and_then(|()| begin(&settings)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kekkai-keeper: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Goes on from a sealed copy of this program. Returns if it is one already.
fn protect(settings: &Settings) -> Result<(), Errno> {
    if memfd::is_protected()? {
        return Ok(());
    }
    let mut kept = Vec::new();
    if !settings.failpoints.is_empty() {
        kept.push(format!("{FAILPOINTS}={}", settings.failpoints));
    }
    if let Some(path) = std::env::var_os(NOTIFY)
        .and_then(|path| path.into_string().ok())
        .filter(|_| settings.foreground)
    {
        kept.push(format!("{NOTIFY}={path}"));
    }
    let environment = CStringArray::from_strings(kept.iter().map(String::as_str))?;
    Err(memfd::execute_protected(
        &memfd::own_arguments()?,
        &environment,
    ))
}

fn begin(settings: &Settings) -> Result<ExitCode, Errno> {
    fd::close_all_except(&[0, 1, 2])?;
    signal::reset_all();
    // Fails for a process group's leader only, which changes nothing that matters.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::chdir("/")?;
    process::set_dumpable(false)?;
    let (serving, ready) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    if settings.foreground {
        // No daemon starts another keeper while this one comes up.
        let lock = rustix::fs::open(
            settings.exec_root.join("keeper.lock"),
            OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
        if is_served(settings) {
            eprintln!(
                "kekkai-keeper: another keeper serves {}",
                settings.exec_root.display()
            );
            return Ok(ExitCode::FAILURE);
        }
        drop(serving);
        return Ok(ExitCode::from(
            u8::try_from(guardian(settings, &ready, Some(lock))).unwrap_or(1),
        ));
    }
    let guardian = spawn_copied(CloneFlags::NONE, None, &mut || {
        guardian(settings, &ready, None)
    })?;
    drop(ready);
    drop(guardian);
    let mut byte = [0];
    Ok(match rustix::io::read(&serving, &mut byte)? {
        0 => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

/// The guardian's life from its fork on.
fn guardian(settings: &Settings, ready: &OwnedFd, lock: Option<OwnedFd>) -> i32 {
    let (shared, keep) = match prepare(settings, ready) {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!(
                "kekkai-keeper: cannot prepare {}: {error}",
                settings.exec_root.display()
            );
            return 1;
        }
    };
    // These stay open for good; they are known by number from here on.
    std::mem::forget(keep);
    // Whoever connects from now on is served.
    drop(lock);
    if settings.foreground {
        notify_ready();
    }
    let status = guard(settings, shared, 0);
    settings.clean_up();
    status
}

/// Whether somebody listens at the socket.
fn is_served(settings: &Settings) -> bool {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    );
    let address = SocketAddrUnix::new(settings.socket());
    matches!((socket, address), (Ok(socket), Ok(address)) if rustix::net::connect(&socket, &address).is_ok())
}

/// Tells systemd that the socket listens.
fn notify_ready() {
    let Some(path) = std::env::var_os(NOTIFY) else {
        return;
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name),
        None => SocketAddrUnix::new(&path),
    };
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    if let (Ok(address), Ok(socket)) = (address, socket) {
        let _ = rustix::net::sendto(
            &socket,
            b"READY=1",
            rustix::net::SendFlags::NOSIGNAL,
            &address,
        );
    }
}

type Prepared = (Shared, (StateTable, OwnedFd, OwnedFd));

fn prepare(settings: &Settings, ready: &OwnedFd) -> std::io::Result<Prepared> {
    let table = StateTable::open(&settings.exec_root)?;
    if table.header().is_none() {
        drop(std::fs::remove_file(
            settings.exec_root.join("keeper.pending"),
        ));
    }
    table.disown()?;
    let path = settings.socket();
    // The caller holds the lock and has found that nobody listens there.
    drop(std::fs::remove_file(&path));
    let listener = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let old = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = bind(&listener, &SocketAddrUnix::new(&path)?);
    rustix::process::umask(old);
    bound?;
    listen(&listener, 128)?;
    let notes = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let shared = Shared {
        state: table.number(),
        listener: listener.as_raw_fd(),
        notes: notes.as_raw_fd(),
        ready: ready.as_raw_fd(),
    };
    Ok((shared, (table, listener, notes)))
}
