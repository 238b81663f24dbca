//! Exec sessions: a process more in a running container.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kekkai_keeper::protocol::{
    AttachRequest, ExecRequest, Exit, Request, Response, StdinMode, Target, Terminal, TerminalSize,
};
use kekkai_oci::runtime::{Process, User};
use kekkai_runtime::{ContainerPlan, plan_exec};
use kekkai_types::{ContainerId, ExecId, Timestamp};
use tokio::sync::Notify;

use crate::EngineError;
use crate::attach::{keeper_error, open_session};
use crate::container::Container;
use crate::create::merge::overlay_env;
use crate::create::saga::plan_files;
use crate::failpoint;
use crate::inner::Inner;
use crate::model::{ExecCreate, ExecStart, ExecView, Lifecycle, StdStream};
use crate::plan;
use crate::spec_builder::{self, capabilities};
use crate::streams::{AttachStreams, Attached, DetachKeys, InputSink, OutputFrame, OutputStream};

/// How long the end of the output waits for the end of the process.
const RECORDED: Duration = Duration::from_millis(500);
/// How long an ended session can still be inspected.
const KEEP: Duration = Duration::from_secs(300);

/// One exec session.
#[derive(Debug)]
pub(crate) struct ExecSession {
    pub(crate) id: ExecId,
    pub(crate) container: ContainerId,
    pub(crate) created: Timestamp,
    pub(crate) request: Arc<ExecCreate>,
    /// Attach sessions that the keeper may still be sending to.
    pub(crate) sessions: AtomicUsize,
    end: Notify,
    state: Mutex<ExecState>,
}

#[derive(Debug, Clone, Copy, Default)]
struct ExecState {
    phase: ExecPhase,
    pid: u32,
    exit_code: Option<i32>,
    ended: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ExecPhase {
    #[default]
    Created,
    Starting,
    Running,
    Ended,
}

impl ExecSession {
    fn lock(&self) -> MutexGuard<'_, ExecState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.lock().phase != ExecPhase::Ended
    }

    /// Whether it is still of interest: it may run, or it ended a short while ago. One that was never started goes with
    /// its container.
    fn is_recent(&self, now: Timestamp, containers: &HashSet<ContainerId>) -> bool {
        let state = *self.lock();
        match state.ended {
            Some(ended) => now.since(ended) < KEEP,
            None => state.phase != ExecPhase::Created || containers.contains(&self.container),
        }
    }

    /// Resolves when its end is recorded; the last output can be read a moment earlier. One that closes its output and
    /// runs on is not waited for.
    pub(crate) async fn recorded(&self) {
        let ended = async {
            loop {
                let notified = self.end.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                if !self.is_alive() {
                    return;
                }
                notified.await;
            }
        };
        // Too late is only a worse answer.
        let _ = tokio::time::timeout(RECORDED, ended).await;
    }

    /// The keeper says that its process is gone.
    pub(crate) fn exited(&self, inner: &Inner, exit: &Exit) {
        {
            let mut state = self.lock();
            if state.phase == ExecPhase::Ended {
                return;
            }
            state.phase = ExecPhase::Ended;
            state.pid = 0;
            state.exit_code = Some(exit.status.code());
            state.ended = Some(Timestamp::from_unix_nanos(exit.at));
        }
        self.end.notify_waiters();
        if self.sessions.load(Ordering::Acquire) == 0 {
            inner.forget(Target::Exec(self.id));
        }
        if let Some(container) = inner.directory.get(self.container) {
            let extra = [
                ("execID", self.id.to_string()),
                ("exitCode", exit.status.code().to_string()),
            ];
            inner.container_event(&container, "exec_die", &extra);
        }
    }

    /// What is known of it now.
    pub(crate) fn view(&self) -> ExecView {
        let state = *self.lock();
        ExecView {
            id: self.id,
            container: self.container,
            request: Arc::clone(&self.request),
            running: matches!(state.phase, ExecPhase::Starting | ExecPhase::Running),
            exit_code: state.exit_code,
            pid: state.pid,
            created: self.created,
        }
    }

    /// A session that ran before this daemon was there.
    pub(crate) fn adopted(
        id: ExecId,
        container: ContainerId,
        pid: u32,
        tty: bool,
        started: Timestamp,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            container,
            created: started,
            request: Arc::new(ExecCreate {
                tty,
                ..Default::default()
            }),
            sessions: AtomicUsize::new(0),
            end: Notify::new(),
            state: Mutex::new(ExecState {
                phase: ExecPhase::Running,
                pid,
                ..Default::default()
            }),
        })
    }
}

fn words(request: &ExecCreate) -> String {
    let (program, arguments) = request
        .cmd
        .split_first()
        .map_or(("", &[][..]), |(program, rest)| (program.as_str(), rest));
    format!("{program} {}", arguments.join(" "))
}

fn check_running(container: &Container) -> Result<(), EngineError> {
    let id = container.id;
    match container.lifecycle() {
        Lifecycle::Running(_) | Lifecycle::Stopping(_) => Ok(()),
        Lifecycle::Paused(_) => Err(EngineError::Conflict(format!(
            "Container {id} is paused, unpause the container before exec"
        ))),
        Lifecycle::Restarting(_) => Err(EngineError::Conflict(format!(
            "Container {id} is restarting, wait until the container is running"
        ))),
        _ => Err(EngineError::Conflict(format!(
            "container {id} is not running"
        ))),
    }
}

/// Makes a session; nothing runs yet.
pub(crate) fn create(
    inner: &Inner,
    container: &Arc<Container>,
    request: ExecCreate,
) -> Result<ExecId, EngineError> {
    if request.cmd.is_empty() {
        return Err(EngineError::Invalid("No exec command specified".to_owned()));
    }
    check_running(container)?;
    if let Some(keys) = &request.detach_keys {
        DetachKeys::parse(keys)?;
    }
    if request
        .env
        .iter()
        .any(|entry| entry.is_empty() || entry.starts_with('='))
    {
        return Err(EngineError::Invalid(
            "invalid environment variable in an exec".to_owned(),
        ));
    }
    let now = Timestamp::now();
    let containers: HashSet<ContainerId> = inner
        .directory
        .all()
        .iter()
        .map(|container| container.id)
        .collect();
    inner
        .directory
        .retain_execs(|session| session.is_recent(now, &containers));
    let session = Arc::new(ExecSession {
        id: ExecId::random(),
        container: container.id,
        created: now,
        request: Arc::new(request),
        sessions: AtomicUsize::new(0),
        end: Notify::new(),
        state: Mutex::default(),
    });
    inner.directory.insert_exec(Arc::clone(&session));
    let known: Vec<ExecId> = {
        let shared = container.lock();
        shared.exec_ids.clone()
    };
    let gone: Vec<ExecId> = known
        .into_iter()
        .filter(|id| inner.directory.exec(*id).is_none())
        .collect();
    {
        let mut shared = container.lock();
        shared.exec_ids.retain(|id| !gone.contains(id));
        shared.exec_ids.push(session.id);
    }
    failpoint::check(failpoint::EXEC_CREATED)?;
    let action = format!("exec_create: {}", words(&session.request));
    inner.container_event(container, &action, &[("execID", session.id.to_string())]);
    Ok(session.id)
}

/// The plan of the container that runs, compiled anew when a former daemon had it.
fn container_plan(inner: &Inner, container: &Container) -> Result<ContainerPlan, EngineError> {
    let internal = |error: kekkai_runtime::PlanError| EngineError::Internal(error.to_string());
    if let Some(bytes) = container.lock().plan.clone() {
        return ContainerPlan::from_bytes(&bytes).map_err(internal);
    }
    let spec = container.spec();
    let mount = inner
        .snapshotter
        .mounts(&container.id.to_string())
        .map_err(|error| EngineError::System(error.to_string()))?;
    let files = plan_files(inner, container.id, &spec);
    // An exec takes only limits, capabilities and filter from it: namespaces are those of the process.
    let compiled = plan::compile(inner, container.id, &spec, plan::rootfs(mount), &files)?;
    let bytes = compiled.to_bytes().map_err(internal)?;
    container.lock().plan = Some(Arc::from(bytes));
    Ok(compiled)
}

fn process(inner: &Inner, container: &Container, request: &ExecCreate) -> Process {
    let spec = container.spec();
    let hostname = spec.config.hostname.clone().unwrap_or_default();
    let mut environment = spec_builder::environment(&spec, &hostname);
    if request.tty && !environment.iter().any(|entry| entry.starts_with("TERM=")) {
        environment.push("TERM=xterm".to_owned());
    }
    let environment = overlay_env(environment, &request.env);
    let or = |own: &Option<String>, default: &Option<String>| {
        own.clone()
            .filter(|text| !text.is_empty())
            .or_else(|| default.clone().filter(|text| !text.is_empty()))
    };
    let directory =
        or(&request.working_dir, &spec.config.working_dir).unwrap_or_else(|| "/".to_owned());
    let mut user = User::default();
    user.set_username(or(&request.user, &spec.config.user));
    let mut process = Process::default();
    process
        .set_terminal(Some(request.tty))
        .set_user(user)
        .set_args(Some(request.cmd.clone()))
        .set_env(Some(environment))
        .set_cwd(PathBuf::from(directory))
        .set_capabilities(None)
        .set_rlimits(None)
        .set_no_new_privileges(Some(no_new_privileges(inner, &spec.host)))
        .set_oom_score_adj(None);
    let host = &spec.host;
    let names = capabilities::effective(
        host.privileged || request.privileged,
        &host.cap_add,
        &host.cap_drop,
        inner.held_capabilities,
    );
    process.set_capabilities(Some(spec_builder::capability_sets_of(&names)));
    process
}

/// Whether the container's processes may gain no privileges.
fn no_new_privileges(inner: &Inner, host: &crate::model::HostOptions) -> bool {
    let wanted = crate::create::check::security(&host.security_opt)
        .ok()
        .and_then(|options| options.no_new_privileges);
    wanted.unwrap_or(inner.config.no_new_privileges)
}

/// Starts a session. Attached, a failed launch is told in the stream, as dockerd does; the code is in the session.
pub(crate) async fn start(
    inner: &Arc<Inner>,
    session: Arc<ExecSession>,
    options: ExecStart,
) -> Result<Option<AttachStreams>, EngineError> {
    let container = inner
        .directory
        .get(session.container)
        .ok_or_else(|| EngineError::NoSuchExec(session.id.to_string()))?;
    check_running(&container)?;
    {
        let mut state = session.lock();
        if state.phase != ExecPhase::Created {
            return Err(EngineError::Conflict(format!(
                "exec command {} has already run",
                session.id
            )));
        }
        state.phase = ExecPhase::Starting;
    }
    let outcome = launch(inner, &session, &container, options).await;
    if let Err(error) = &outcome {
        let code = match error {
            EngineError::StartFailed { code, .. } => *code,
            _ => 126,
        };
        {
            let mut state = session.lock();
            state.phase = ExecPhase::Ended;
            state.exit_code = Some(code);
            state.ended = Some(Timestamp::now());
        }
        inner.forget(Target::Exec(session.id));
        if let (EngineError::StartFailed { message, .. }, false) = (error, options.detach) {
            let frame = OutputFrame {
                stream: StdStream::Stdout,
                data: Bytes::from(format!("{message}\r\n")),
            };
            let output = OutputStream::of_frame(frame);
            return Ok(Some(AttachStreams {
                output,
                input: None,
                tty: session.request.tty,
            }));
        }
    }
    outcome
}

async fn launch(
    inner: &Arc<Inner>,
    session: &Arc<ExecSession>,
    container: &Arc<Container>,
    options: ExecStart,
) -> Result<Option<AttachStreams>, EngineError> {
    let request = &session.request;
    let target = Target::Exec(session.id);
    let base = container_plan(inner, container)?;
    let planned = plan_exec(&process(inner, container, request), &base)
        .map_err(|error| EngineError::Invalid(error.to_string()))?;
    let bytes = planned
        .to_bytes()
        .map_err(|error| EngineError::Internal(error.to_string()))?;
    let wants_stdin = request.attach_stdin && !options.detach;
    let stream = if options.detach {
        None
    } else {
        let attach = AttachRequest {
            target,
            stdin: wants_stdin,
            stdout: request.attach_stdout,
            stderr: request.attach_stderr,
        };
        Some(open_session(inner, attach, Attached::Exec(Arc::clone(session))).await?)
    };
    let size = options
        .console_size
        .or(request.console_size)
        .filter(|[rows, columns]| *rows > 0 && *columns > 0);
    let terminal = if request.tty {
        Terminal::Size(size.map(|[rows, columns]| TerminalSize { rows, columns }))
    } else {
        Terminal::None
    };
    failpoint::check(failpoint::EXEC_SENT)?;
    let action = format!("exec_start: {}", words(request));
    inner.container_event(container, &action, &[("execID", session.id.to_string())]);
    let wanted = ExecRequest {
        container: container.id,
        exec: session.id,
        plan: bytes,
        stdin: if wants_stdin {
            StdinMode::Once
        } else {
            StdinMode::Closed
        },
        terminal,
    };
    let answer = inner
        .ask(Request::Exec(Box::new(wanted)), Vec::new())
        .await
        .map_err(|error| exec_error(&error))?;
    if let Response::Started { pid, .. } = answer.response {
        let mut state = session.lock();
        // A short process may have ended before this answer was read.
        if state.phase == ExecPhase::Starting {
            state.phase = ExecPhase::Running;
            state.pid = pid;
        }
    }
    failpoint::check(failpoint::EXEC_STARTED)?;
    let Some(stream) = stream else {
        return Ok(None);
    };
    let keys = request
        .detach_keys
        .as_deref()
        .unwrap_or(&inner.config.detach_keys);
    let detach = if request.tty {
        DetachKeys::parse(keys)?
    } else {
        DetachKeys::default()
    };
    let input = wants_stdin.then(|| InputSink::new(Arc::clone(&stream), detach));
    Ok(Some(AttachStreams {
        output: OutputStream::of_session(stream),
        input,
        tty: request.tty,
    }))
}

/// The keeper's refusal of an exec, as `docker exec` shows it.
fn exec_error(error: &kekkai_keeper::KeeperError) -> EngineError {
    match crate::start::start_error(error) {
        EngineError::StartFailed {
            message,
            code,
            class,
        } => {
            let bare = message
                .strip_prefix("failed to create task for container: ")
                .unwrap_or(&message);
            let message = if bare.starts_with("unable to find ") {
                bare.to_owned()
            } else {
                format!("OCI runtime exec failed: exec failed: {bare}")
            };
            let code = if code == 128 { 126 } else { code };
            EngineError::StartFailed {
                message,
                code,
                class,
            }
        }
        other => other,
    }
}

/// Sets the size of a session's terminal.
pub(crate) async fn resize(
    inner: &Inner,
    session: &ExecSession,
    rows: u16,
    columns: u16,
) -> Result<(), EngineError> {
    let request = Request::Resize {
        target: Target::Exec(session.id),
        size: TerminalSize { rows, columns },
    };
    inner
        .ask(request, Vec::new())
        .await
        .map(drop)
        .map_err(|error| keeper_error(&error))
}
