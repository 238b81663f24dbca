//! The daemon that starts by itself: root types a command, no daemon runs and no host was given.
//!
//! ```text
//! connect ──ok──▶ (a daemon we started, older than us? stop it, start again) ──▶ go on
//!    └─ nobody ──▶ lock ──▶ connect again ──nobody──▶ systemd unit, else a child of its own session ──▶ wait for the socket
//! ```
//!
//! What must stay true (design/pitfalls.md 21): only one starter at a time; the child has its own session, `/`, umask 022,
//! default signals, a minimal environment and a log file; never when a host or context was chosen; a daemon that somebody
//! else started is never touched.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kekkai_client::{Client, ClientError};
use rustix::fs::{FlockOperation, flock};

use super::Failure;
use crate::build_id;

/// Run-time files of the default daemon.
const RUN_DIRECTORY: &str = "/run/kekkai";
const LOG_FILE: &str = "/run/kekkai/daemon.log";
/// `PID INODE.MTIME BUILD` of a daemon that a command started.
const STARTED_FILE: &str = "/run/kekkai/auto-started";
const LOCK_FILE: &str = "/run/kekkai/auto-start.lock";
/// The running executable.
const EXECUTABLE: &str = "/proc/self/exe";
/// Where systemd says that it runs the host, and where units are installed.
const SYSTEMD: &str = "/run/systemd/system";
const UNITS: &[&str] = &[
    "/etc/systemd/system/kekkai.service",
    "/usr/local/lib/systemd/system/kekkai.service",
    "/usr/lib/systemd/system/kekkai.service",
    "/lib/systemd/system/kekkai.service",
];
/// How long a daemon may take until its socket answers.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long an older daemon may take to leave.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Connects to the default daemon, starting or replacing it where that is due.
pub(super) async fn connect(client: &Client) -> Result<(), Failure> {
    let is_root = rustix::process::geteuid().is_root();
    if is_root && let Some(old) = started_by_older_build() {
        replace(client, &old).await?;
    }
    match client.warm_up().await {
        Err(ClientError::NotRunning { .. }) if is_root => start(client).await,
        other => Ok(other?),
    }
}

/// A daemon that an earlier build of ours started by itself.
struct Started {
    pid: i32,
}

/// Reads who started the daemon. Two system calls when nobody did, three when it was we.
fn started_by_older_build() -> Option<Started> {
    let mut text = String::new();
    File::open(STARTED_FILE)
        .ok()?
        .take(4096)
        .read_to_string(&mut text)
        .ok()?;
    let mut fields = text.split_whitespace();
    let pid: i32 = fields.next()?.parse().ok()?;
    let (file, build) = (fields.next()?, fields.next()?);
    if executable_mark().is_some_and(|mark| mark == file) {
        return None;
    }
    build_id::is_newer(&build_id::current(), build).then_some(Started { pid })
}

/// Tells our executable from another without reading it.
fn executable_mark() -> Option<String> {
    let data = std::fs::metadata(EXECUTABLE).ok()?;
    Some(format!(
        "{}:{}.{}.{}",
        data.dev(),
        data.ino(),
        data.mtime(),
        data.mtime_nsec()
    ))
}

fn lock() -> Result<File, Failure> {
    let directory = Path::new(RUN_DIRECTORY);
    if !directory.is_dir() {
        std::fs::create_dir_all(directory)?;
        std::fs::set_permissions(
            directory,
            std::os::unix::fs::PermissionsExt::from_mode(0o711),
        )?;
    }
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(LOCK_FILE)?;
    flock(&file, FlockOperation::LockExclusive).map_err(std::io::Error::from)?;
    Ok(file)
}

/// Ends an older daemon, so that [`start`] starts ours. Containers go on meanwhile.
async fn replace(client: &Client, old: &Started) -> Result<(), Failure> {
    let _lock = lock()?;
    // Somebody may have replaced it while we waited.
    let Some(now) = started_by_older_build().filter(|now| now.pid == old.pid) else {
        return Ok(());
    };
    let _ = std::fs::remove_file(STARTED_FILE);
    if !is_our_daemon(now.pid) {
        return Ok(());
    }
    let Some(pid) = rustix::process::Pid::from_raw(now.pid) else {
        return Ok(());
    };
    // The descriptor makes sure that it is this process we wait for.
    let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return Ok(());
    };
    super::output::to_stderr(
        "Replacing the daemon that an older kekkai had started; containers keep running\n",
    );
    let _ = rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::TERM);
    let limit = rustix::event::Timespec {
        tv_sec: STOP_LIMIT.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut polls = [rustix::event::PollFd::new(
        &handle,
        rustix::event::PollFlags::IN,
    )];
    let _ = rustix::event::poll(&mut polls, Some(&limit));
    client.disconnect();
    Ok(())
}

/// Whether the process of this id is a `kekkai daemon`, and the one that wrote the default pid file.
fn is_our_daemon(pid: i32) -> bool {
    let from_file = std::fs::read_to_string(format!("{RUN_DIRECTORY}/daemon.pid")).ok();
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_daemon = arguments.split(|byte| *byte == 0).nth(1) == Some(b"daemon");
    is_daemon && from_file.is_some_and(|text| text.trim().parse() == Ok(pid))
}

async fn start(client: &Client) -> Result<(), Failure> {
    let _lock = lock()?;
    // Somebody else may have started it while we waited.
    if client.warm_up().await.is_ok() {
        return Ok(());
    }
    let by_systemd =
        Path::new(SYSTEMD).is_dir() && UNITS.iter().any(|unit| Path::new(unit).exists());
    if by_systemd {
        let status = Command::new("systemctl")
            .args(["start", "kekkai.service"])
            .stdin(Stdio::null())
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => {
                return Err(Failure::new(format!(
                    "could not start the daemon: systemctl start kekkai.service: {status}; see journalctl -u kekkai"
                )));
            }
            Err(error) => {
                return Err(Failure::new(format!(
                    "could not start the daemon: systemctl: {error}"
                )));
            }
        }
        return wait_for_socket(client, None).await;
    }
    let mut child = spawn()?;
    let mark = executable_mark().unwrap_or_else(|| String::from("-"));
    std::fs::write(
        STARTED_FILE,
        format!("{} {mark} {}\n", child.id(), build_id::current()),
    )?;
    wait_for_socket(client, Some(&mut child)).await
}

/// Starts `kekkai daemon` as a process of its own.
fn spawn() -> Result<std::process::Child, Failure> {
    let executable = std::fs::read_link(EXECUTABLE)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(LOG_FILE)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let mut command = Command::new(&executable);
    command
        .arg(START_WORD)
        .current_dir("/")
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "TZ",
    ] {
        if let Some(value) = super::environment(name) {
            command.env(name, value);
        }
    }
    command.spawn().map_err(|error| {
        Failure::new(format!(
            "could not start {} daemon: {error}",
            executable.display()
        ))
    })
}

/// The first argument of the process that becomes the daemon.
pub(crate) const START_WORD: &str = "__start-daemon";

/// Gets rid of what the user's terminal gave us, then becomes `kekkai daemon`. Returns only if that fails.
pub(crate) fn become_daemon() -> std::process::ExitCode {
    // A freshly spawned process leads no group, so this works; if it were a leader, it would have a group of its own.
    let _ = rustix::process::setsid();
    kekkai_sys::signal::reset_all();
    // Descriptors that the user's shell left open would live as long as the daemon.
    let _ = kekkai_sys::process::close_on_exec_from(3);
    leave_cgroups();
    // By its path, which is what process lists show; by the link if the file was replaced meanwhile.
    let path = std::fs::read_link(EXECUTABLE)
        .ok()
        .filter(|path| path.exists());
    let path = path.unwrap_or_else(|| EXECUTABLE.into());
    let error = Command::new(path).arg0("kekkai").arg("daemon").exec();
    super::output::to_stderr(&format!("kekkai: could not become the daemon: {error}\n"));
    std::process::ExitCode::FAILURE
}

/// The cgroup of a daemon that started by itself, in the hierarchies where processes are only named.
const DAEMON_CGROUP: &str = "kekkai-daemon";

/// Leaves the cgroups of the user's session, which end with it: for one of our own, and for the root where limits are set.
///
/// Where that is not allowed the daemon stays where it is.
fn leave_cgroups() {
    let Ok(mine) = std::fs::read_to_string("/proc/self/cgroup") else {
        return;
    };
    for line in mine.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if path == "/" {
            continue;
        }
        let unified = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            ""
        } else {
            "unified"
        };
        let directory = match controllers {
            "" => Path::new("/sys/fs/cgroup")
                .join(unified)
                .join(DAEMON_CGROUP),
            "name=systemd" => Path::new("/sys/fs/cgroup/systemd").join(DAEMON_CGROUP),
            other => Path::new("/sys/fs/cgroup").join(other),
        };
        if directory.ends_with(DAEMON_CGROUP) {
            let _ = std::fs::create_dir(&directory);
        }
        let _ = std::fs::write(directory.join("cgroup.procs"), "0");
    }
}

/// Waits until the daemon answers; with a child, notices when it dies.
async fn wait_for_socket(
    client: &Client,
    mut child: Option<&mut std::process::Child>,
) -> Result<(), Failure> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        match client.warm_up().await {
            Ok(()) => return Ok(()),
            Err(ClientError::NotRunning { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(child) = child.as_deref_mut()
            && let Ok(Some(status)) = child.try_wait()
        {
            let _ = std::fs::remove_file(STARTED_FILE);
            return Err(Failure::new(format!(
                "the daemon did not start ({status}); {LOG_FILE} says:\n{}",
                log_tail()
            )));
        }
        if started.elapsed() > START_LIMIT {
            return Err(Failure::new(format!(
                "the daemon did not answer within {} seconds; see {LOG_FILE}",
                START_LIMIT.as_secs()
            )));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(20));
    }
}

/// The last lines of the log.
fn log_tail() -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(LOG_FILE)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(2048)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        Ok(lines[lines.len().saturating_sub(10)..].join("\n"))
    };
    read().unwrap_or_default()
}
