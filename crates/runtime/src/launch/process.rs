//! The last part of every launch, the same for containers and exec sessions: from a set-up world to the program.
//!
//! What must stay true: the order. Everything that opens files comes before the limits; the seccomp filter comes before
//! the capabilities go unless `no_new_privs` is set (then it comes last); groups before the group before the user;
//! the program is looked for with the user's own rights. Everything is prepared in the parent, so that the child only
//! makes system calls.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use kekkai_sys::process::CStringArray;
use kekkai_sys::{Errno, capability, process, seccomp as filter};
use rustix::fs::{Access, AtFlags, CWD, Mode};

use super::failure::{At, Failure};
use super::spawn::Report;
use super::user::Identity;
use super::{Stdio, WindowSize};
use crate::Stage;
use crate::plan::{CapabilityPlan, ProcessPlan, RlimitPlan};

/// A process that only needs to be entered.
pub(crate) struct PreparedProcess {
    pub(crate) identity: Identity,
    pub(crate) stdio: [OwnedFd; 3],
    pub(crate) terminal: bool,
    arguments: CStringArray,
    environment: CStringArray,
    program: String,
    candidates: Vec<CString>,
    cwd: CString,
    capabilities: Option<CapabilityPlan>,
    rlimits: Vec<RlimitPlan>,
    filter: Option<(Vec<filter::Instruction>, u32)>,
    no_new_privileges: bool,
    umask: Mode,
    oom_score_adj: Option<i32>,
    /// The host's procfs, which the child cannot reach by name.
    host_proc: OwnedFd,
    /// What the process starts with: the launcher's own.
    own_oom_score: i32,
    apparmor: Option<String>,
    keyring: CString,
}

impl PreparedProcess {
    /// Prepares everything that needs memory. `stdio` are the three descriptors the process gets.
    pub(crate) fn new(
        plan: &ProcessPlan,
        id: &str,
        identity: Identity,
        stdio: [OwnedFd; 3],
    ) -> Result<Self, Failure> {
        let text = |text: &str| {
            CString::new(text).map_err(|_| Failure::new(Stage::Prepare, Errno::INVAL, text))
        };
        let mut environment = plan
            .env
            .iter()
            .map(|entry| text(entry))
            .collect::<Result<Vec<_>, _>>()?;
        if !plan.env.iter().any(|entry| {
            entry
                .strip_prefix("HOME=")
                .is_some_and(|home| !home.is_empty())
        }) {
            environment.retain(|entry| entry.as_bytes() != b"HOME=");
            environment.push(text(&format!("HOME={}", identity.home))?);
        }
        let arguments = plan
            .args
            .iter()
            .map(|argument| text(argument))
            .collect::<Result<Vec<_>, _>>()?;
        let permitted = capability::get().map_or(u64::MAX, |(_, permitted, _)| permitted);
        let capabilities = plan.capabilities.map(|sets| CapabilityPlan {
            bounding: sets.bounding,
            // What the engine itself does not have it cannot give: nested engines.
            effective: sets.effective & permitted,
            permitted: sets.permitted & permitted,
            inheritable: sets.inheritable & permitted,
            ambient: sets.ambient & permitted,
        });
        let program = plan.args.first().cloned().unwrap_or_default();
        Ok(Self {
            candidates: candidates(&program, &plan.env)?,
            program,
            arguments: CStringArray::new(arguments),
            environment: CStringArray::new(environment),
            cwd: text(&plan.cwd)?,
            capabilities,
            rlimits: plan.rlimits.clone(),
            filter: plan
                .seccomp
                .as_ref()
                .map(crate::seccomp::Program::to_kernel),
            no_new_privileges: plan.no_new_privileges,
            umask: Mode::from_raw_mode(plan.umask),
            oom_score_adj: plan.oom_score_adj,
            host_proc: super::container::open_directory("/proc").at(Stage::Prepare, "/proc")?,
            own_oom_score: own_oom_score(),
            apparmor: plan
                .apparmor
                .clone()
                .filter(|profile| profile != "unconfined"),
            keyring: text(&format!("_ses.{id}"))?,
            identity,
            stdio,
            terminal: plan.terminal,
        })
    }

    /// First thing in the child: a session and a keyring of its own, and what is written to the host's `/proc`.
    pub(crate) fn begin(&self) -> Result<(), Failure> {
        rustix::process::setsid().at(Stage::Prepare, "setsid")?;
        // Without a keyring of its own the process would share ours; kernels or quotas that have none have no ours.
        let _ = process::join_session_keyring(&self.keyring);
        rustix::process::umask(Mode::empty());
        Ok(())
    }

    /// `/proc/self/oom_score_adj`, through the host's procfs. Lowering it needs CAP_SYS_RESOURCE: where that is
    /// refused, the current value stays if it is lower already, as with runc.
    pub(crate) fn set_oom_score(&self) -> Result<(), Failure> {
        let Some(wanted) = self
            .oom_score_adj
            .filter(|wanted| *wanted != self.own_oom_score)
        else {
            return Ok(());
        };
        let path = "self/oom_score_adj";
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.host_proc, path, flags, Mode::empty())
            .at(Stage::OomScore, path)?;
        match kekkai_sys::beneath::write_once(&file, wanted.to_string().as_bytes()) {
            Err(Errno::ACCESS) if wanted < self.own_oom_score => Ok(()),
            result => result.at(Stage::OomScore, wanted.to_string()),
        }
    }

    /// The profile that the `execve` switches to. Skipped where the kernel has no AppArmor.
    pub(crate) fn set_security_label(&self, procfs: &OwnedFd) -> Result<(), Failure> {
        let Some(profile) = &self.apparmor else {
            return Ok(());
        };
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        for path in ["thread-self/attr/apparmor/exec", "thread-self/attr/exec"] {
            match rustix::fs::openat(procfs, path, flags, Mode::empty()) {
                Err(Errno::NOENT) => {}
                opened => {
                    let file = opened.at(Stage::SecurityLabel, profile)?;
                    return kekkai_sys::beneath::write_once(
                        &file,
                        format!("exec {profile}").as_bytes(),
                    )
                    .at(Stage::SecurityLabel, profile);
                }
            }
        }
        Ok(())
    }

    /// Everything from the standard streams to the `execve`. Answers only a failure.
    pub(crate) fn enter(&self, report: &Report<'_>) -> Failure {
        match self.finalize() {
            Err(failure) => failure,
            Ok(program) => {
                report.executing();
                let errno = process::execute(program, &self.arguments, &self.environment);
                Failure::new(Stage::Execute, errno, program.to_string_lossy())
            }
        }
    }

    fn finalize(&self) -> Result<&CString, Failure> {
        for (target, fd) in (0..).zip(&self.stdio) {
            process::set_standard_fd(fd.as_fd(), target).at(Stage::Stdio, "standard streams")?;
        }
        if self.terminal {
            process::set_controlling_terminal(rustix::stdio::stdin())
                .at(Stage::Terminal, "controlling terminal")?;
        }
        process::close_on_exec_from(3).at(Stage::Stdio, "close_range")?;
        for limit in &self.rlimits {
            process::set_limit(limit.resource, limit.soft, limit.hard)
                .at(Stage::Limits, limit.resource.to_string())?;
        }
        rustix::process::umask(self.umask);
        if self.no_new_privileges {
            process::set_no_new_privileges().at(Stage::Seccomp, "no_new_privs")?;
        } else {
            self.load_filter()?;
        }
        self.become_user()?;
        let program = self.find_program()?;
        if self.no_new_privileges {
            self.load_filter()?;
        }
        Ok(program)
    }

    fn load_filter(&self) -> Result<(), Failure> {
        match &self.filter {
            Some((instructions, flags)) => {
                filter::load(instructions, *flags).at(Stage::Seccomp, "seccomp")
            }
            None => Ok(()),
        }
    }

    fn become_user(&self) -> Result<(), Failure> {
        if let Some(capabilities) = &self.capabilities {
            capability::limit_bounding(capabilities.bounding)
                .at(Stage::Capabilities, "bounding set")?;
            capability::keep_across_setuid(true).at(Stage::Capabilities, "keep capabilities")?;
        }
        // Root may enter what the user may not, and the other way round (NFS): whoever can does.
        let entered = match rustix::process::chdir(self.cwd.as_c_str()) {
            Err(Errno::ACCESS | Errno::PERM) => false,
            result => result
                .map(|()| true)
                .at(Stage::WorkingDirectory, self.cwd.to_string_lossy())?,
        };
        let identity = &self.identity;
        process::set_groups(&identity.groups).at(Stage::Identity, "setgroups")?;
        process::set_gid(identity.gid).at(Stage::Identity, format!("setgid {}", identity.gid))?;
        process::set_uid(identity.uid).at(Stage::Identity, format!("setuid {}", identity.uid))?;
        if let Some(capabilities) = &self.capabilities {
            capability::keep_across_setuid(false).at(Stage::Capabilities, "keep capabilities")?;
            capability::set(
                capabilities.effective,
                capabilities.permitted,
                capabilities.inheritable,
            )
            .at(Stage::Capabilities, "capset")?;
            capability::set_ambient(capabilities.ambient).at(Stage::Capabilities, "ambient set")?;
        }
        if !entered {
            rustix::process::chdir(self.cwd.as_c_str())
                .at(Stage::WorkingDirectory, self.cwd.to_string_lossy())?;
        }
        Ok(())
    }

    /// What Go's `exec.LookPath` does, in its words: runc uses it, and clients match on them.
    fn find_program(&self) -> Result<&CString, Failure> {
        let program = &self.program;
        if program.contains('/') {
            let path = self
                .candidates
                .first()
                .ok_or_else(|| Failure::new(Stage::Prepare, Errno::INVAL, program))?;
            return match check_program(path) {
                Ok(()) => Ok(path),
                Err((errno, true)) => Err(self.not_found(
                    errno,
                    &format!(
                        "stat {program}: {}",
                        super::failure::words(errno.raw_os_error())
                    ),
                )),
                // Docker tells 126 from the words "permission denied", which runc appends for directories.
                Err((Errno::ISDIR, false)) => {
                    Err(self.not_found(Errno::ISDIR, "is a directory: permission denied"))
                }
                Err((errno, false)) => {
                    Err(self.not_found(errno, &super::failure::words(errno.raw_os_error())))
                }
            };
        }
        for path in &self.candidates {
            if check_program(path).is_ok() {
                if !path.as_bytes().starts_with(b"/") {
                    return Err(self.not_found(
                        Errno::NOENT,
                        "cannot run executable found relative to current directory",
                    ));
                }
                return Ok(path);
            }
        }
        Err(self.not_found(Errno::NOENT, "executable file not found in $PATH"))
    }

    fn not_found(&self, errno: Errno, reason: &str) -> Failure {
        Failure::worded(
            Stage::FindProgram,
            errno,
            &self.program,
            format!("exec: {:?}: {reason}", self.program),
        )
    }
}

/// The launcher's own `oom_score_adj`, read once: it does not change it.
fn own_oom_score() -> i32 {
    static OWN: OnceLock<i32> = OnceLock::new();
    *OWN.get_or_init(|| {
        std::fs::read_to_string("/proc/self/oom_score_adj")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    })
}

/// Whether a path can be executed by the calling process; the flag says that it could not even be looked at.
fn check_program(path: &CString) -> Result<(), (Errno, bool)> {
    let stat = rustix::fs::stat(path.as_c_str()).map_err(|errno| (errno, true))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        return Err((Errno::ISDIR, false));
    }
    match rustix::fs::accessat(CWD, path.as_c_str(), Access::EXEC_OK, AtFlags::EACCESS) {
        // A filter of the user's may refuse the question itself: then the mode decides, as in Go.
        Err(Errno::NOSYS | Errno::PERM) if stat.st_mode & 0o111 != 0 => Ok(()),
        Err(Errno::NOSYS | Errno::PERM) => Err((Errno::ACCESS, false)),
        result => result.map_err(|errno| (errno, false)),
    }
}

/// Where a program may be: its own path, or in each directory of PATH.
fn candidates(program: &str, environment: &[String]) -> Result<Vec<CString>, Failure> {
    let text = |text: String| {
        CString::new(text).map_err(|_| Failure::new(Stage::Prepare, Errno::INVAL, program))
    };
    if program.contains('/') {
        return Ok(vec![text(program.to_owned())?]);
    }
    // The last of several wins, as in Go's environment.
    let path = environment
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default();
    if path.is_empty() || program.is_empty() {
        return Ok(Vec::new());
    }
    let join = |directory: &str| match directory.trim_end_matches('/') {
        "" if directory.is_empty() => program.to_owned(),
        directory => format!("{directory}/{program}"),
    };
    path.split(':')
        .map(|directory| text(join(directory)))
        .collect()
}

/// The three standard descriptors, and the terminal's master and slave where there is one.
pub(crate) fn standard_streams(
    stdio: Stdio,
    uid: u32,
    devpts: Option<&OwnedFd>,
) -> Result<([OwnedFd; 3], Option<OwnedFd>), Failure> {
    match stdio {
        Stdio::Pipes {
            stdin,
            stdout,
            stderr,
        } => {
            let mut null: Option<OwnedFd> = None;
            let mut take = |fd: Option<OwnedFd>| match (fd, &null) {
                (Some(fd), _) => give(fd, uid),
                (None, Some(null)) => null
                    .try_clone()
                    .map_err(|_| Failure::new(Stage::Stdio, Errno::MFILE, "dup")),
                (None, None) => {
                    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
                    let opened = rustix::fs::open("/dev/null", flags, Mode::empty())
                        .at(Stage::Stdio, "/dev/null")?;
                    null = opened.try_clone().ok();
                    Ok(opened)
                }
            };
            Ok(([take(stdin)?, take(stdout)?, take(stderr)?], None))
        }
        Stdio::Terminal { size } => {
            let devpts = devpts.ok_or_else(|| {
                Failure::new(Stage::Terminal, Errno::NODEV, "no devpts is mounted")
            })?;
            let (master, slave) = kekkai_sys::pty::open_pair(devpts.as_fd())
                .at(Stage::Terminal, "open a terminal")?;
            if let Some(WindowSize { rows, columns }) = size {
                kekkai_sys::pty::set_size(&master, rows, columns)
                    .at(Stage::Terminal, "set its size")?;
            }
            let slave = give(slave, uid)?;
            let copy = || {
                slave
                    .try_clone()
                    .map_err(|_| Failure::new(Stage::Terminal, Errno::MFILE, "dup"))
            };
            Ok(([copy()?, copy()?, slave], Some(master)))
        }
    }
}

/// Makes the user the owner, so that `/dev/stdout` can be opened again. The host's `/dev/null` is left alone.
fn give(fd: OwnedFd, uid: u32) -> Result<OwnedFd, Failure> {
    let stat = rustix::fs::fstat(&fd).at(Stage::Stdio, "standard streams")?;
    let is_null = stat.st_rdev == rustix::fs::makedev(1, 3);
    if stat.st_uid != uid && !is_null {
        match rustix::fs::fchown(&fd, Some(rustix::fs::Uid::from_raw(uid)), None) {
            // A file on a read-only or foreign file system keeps its owner, as with runc.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(Failure::new(Stage::Stdio, errno, "standard streams")),
        }
    }
    Ok(fd)
}
