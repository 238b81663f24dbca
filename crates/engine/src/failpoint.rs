//! Fail points: places where the crash suite makes the daemon die, fail or wait (`docs/failpoints.md` lists them).
//!
//! `KEKKAI_FAILPOINTS=name=kill,name=error,name=sleep(50)`; `kill` and `abort` end the process at once, `error` makes the
//! step fail once. Always compiled in: one relaxed load when none is set.

use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::EngineError;

/// Declares every point once: its constant and its name.
macro_rules! points {
    ($($constant:ident = $name:literal),+ $(,)?) => {
        $(pub(crate) const $constant: &str = $name;)+
        /// Every fail point, in the order in which a container meets them.
        pub const ALL: &[&str] = &[$($name),+];
    };
}

points! {
    CREATE_NAMED = "create.named",
    CREATE_VOLUMES = "create.volumes",
    CREATE_SNAPSHOT = "create.snapshot",
    CREATE_PLANNED = "create.planned",
    CREATE_ROW = "create.row",
    CREATE_BOUND = "create.bound",
    START_BEGIN = "start.begin",
    START_NETWORK = "start.network",
    START_FILES = "start.files",
    START_VOLUMES = "start.volumes",
    START_SENT = "start.sent",
    START_STARTED = "start.started",
    START_RECORDED = "start.recorded",
    EXEC_CREATED = "exec.created",
    EXEC_SENT = "exec.sent",
    EXEC_STARTED = "exec.started",
    STOP_SIGNALLED = "stop.signalled",
    EXIT_RECEIVED = "exit.received",
    EXIT_RECORDED = "exit.recorded",
    EXIT_NETWORK = "exit.network",
    EXIT_CLEANED = "exit.cleaned",
    RM_BEGIN = "rm.begin",
    RM_SNAPSHOT = "rm.snapshot",
    RM_VOLUMES = "rm.volumes",
    RM_FILES = "rm.files",
    RM_ROW = "rm.row",
    RM_DONE = "rm.done",
    RECOVER_LOADED = "recover.loaded",
    RECOVER_ADOPTED = "recover.adopted",
    RECOVER_SWEPT = "recover.swept",
}

#[derive(Debug, Clone)]
enum Action {
    Kill,
    Error,
    Sleep(Duration),
}

static ACTIVE: AtomicBool = AtomicBool::new(false);

fn table() -> &'static Mutex<Vec<(String, Action)>> {
    static TABLE: OnceLock<Mutex<Vec<(String, Action)>>> = OnceLock::new();
    TABLE.get_or_init(Mutex::default)
}

fn parse(text: &str) -> Vec<(String, Action)> {
    text.split(',')
        .filter_map(|entry| {
            let (name, action) = entry.trim().split_once('=')?;
            let action = match action {
                "kill" | "abort" => Action::Kill,
                "error" => Action::Error,
                other => {
                    let millis = other.strip_prefix("sleep(")?.strip_suffix(')')?.parse().ok()?;
                    Action::Sleep(Duration::from_millis(millis))
                }
            };
            Some((name.to_owned(), action))
        })
        .collect()
}

/// Sets the fail points, replacing earlier ones; the daemon passes `KEKKAI_FAILPOINTS`.
pub fn configure(text: &str) {
    let points = parse(text);
    ACTIVE.store(!points.is_empty(), Ordering::Relaxed);
    if let Ok(mut table) = table().lock() {
        *table = points;
    }
}

#[cold]
fn triggered(name: &'static str) -> Result<(), EngineError> {
    let action = {
        let Ok(mut table) = table().lock() else { return Ok(()) };
        let Some(at) = table.iter().position(|(point, _)| point == name) else { return Ok(()) };
        match &table[at].1 {
            Action::Error => table.remove(at).1,
            other => other.clone(),
        }
    };
    match action {
        Action::Kill => {
            // Death as by `kill -9`: no destructor runs, nothing is flushed.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            Ok(())
        }
        Action::Error => Err(EngineError::FailPoint(name)),
        Action::Sleep(time) => {
            std::thread::sleep(time);
            Ok(())
        }
    }
}

/// Does what is set for `name`; nothing, usually.
pub(crate) fn check(name: &'static str) -> Result<(), EngineError> {
    if ACTIVE.load(Ordering::Relaxed) { triggered(name) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        let points = parse("create.row=kill, start.sent=error,x=sleep(5),bad,worse=foo");
        assert_eq!(points.len(), 3);
        assert!(matches!(points[2].1, Action::Sleep(time) if time.as_millis() == 5));
    }

    #[test]
    fn names_are_unique() {
        let mut names = ALL.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
