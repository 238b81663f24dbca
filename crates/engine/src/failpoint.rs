//! Fail points: places where the crash suite makes the daemon die, fail or wait (`docs/failpoints.md` lists them).
//!
//! `KEKKAI_FAILPOINTS=name=kill,name=error,name=sleep(50)`; `kill` and `abort` end the process at once, `error` makes the
//! step fail once. Always compiled in: one relaxed load when none is set.

use crate::EngineError;

/// Declares every point once: its constant and its name.
macro_rules! points {
    ($($constant:ident = $name:literal),+ $(,)?) => {
        $(pub(crate) const $constant: &str = $name;)+
        /// Every fail point of the engine, in the order in which a container meets them.
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

pub use kekkai_image::failpoint::ALL as OF_IMAGES;
pub use kekkai_sys::failpoint::configure;

/// Does what is set for `name`; nothing, usually.
pub(crate) fn check(name: &'static str) -> Result<(), EngineError> {
    kekkai_sys::failpoint::check(name).map_err(|failed| EngineError::FailPoint(failed.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names = ALL.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
