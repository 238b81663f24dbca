//! Places where a crash suite can make the keeper or a launcher die or hesitate.
//!
//! Always compiled in, honoured only if `KEKKAI_FAILPOINTS` was set when the keeper was started:
//! `name=kill;name=sleep(250)` (commas will do as well; `abort` is the same as `kill`). Each fires once per keeper and
//! guardian pair: what has fired is written to the state table first, so that a restarted keeper gets past it.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Every fail point, in the order in which a start meets them.
pub const ALL: &[&str] = &[
    "keeper.request",
    "start.received",
    "start.recorded",
    "start.sent",
    "launcher.received",
    "launcher.launched",
    "start.launched",
    "start.running",
    "start.answered",
    "attach.recorded",
    "exit.seen",
    "exit.reaped",
    "exit.drained",
    "exit.stored",
    "exit.told",
    "log.read",
    "log.written",
    "log.rotated",
    "forget.before",
    "forget.after",
    "resume.begin",
    "resume.adopted",
];

/// What happens at a fail point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `SIGKILL` to the process itself.
    Kill,
    /// A pause.
    Sleep(Duration),
}

struct Armed {
    points: Vec<(usize, Action)>,
    /// One byte for each of [`ALL`], not 0 once it has fired; at `offset` of the state table.
    fired: Mutex<std::fs::File>,
    offset: u64,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

/// Reads a specification; entries of other programs' fail points are passed over.
#[must_use]
pub fn parse(specification: &str) -> Vec<(usize, Action)> {
    let mut points = Vec::new();
    for entry in specification.split([',', ';']) {
        let Some((name, action)) = entry.trim().split_once('=') else {
            continue;
        };
        let Some(index) = ALL.iter().position(|known| *known == name.trim()) else {
            continue;
        };
        let action = match action.trim() {
            "kill" | "abort" => Action::Kill,
            other => match other
                .strip_prefix("sleep(")
                .and_then(|rest| rest.strip_suffix(')'))
                .map(str::parse)
            {
                Some(Ok(milliseconds)) => Action::Sleep(Duration::from_millis(milliseconds)),
                _ => continue,
            },
        };
        points.push((index, action));
    }
    points
}

/// Arms the points of a specification for this process and those it forks.
pub(crate) fn arm(specification: &str, fired: std::fs::File, offset: u64) {
    let points = parse(specification);
    if !points.is_empty() {
        drop(ARMED.set(Armed {
            points,
            fired: Mutex::new(fired),
            offset,
        }));
    }
}

/// Replaces the table's descriptor, after the old one was closed behind our back.
pub(crate) fn rearm(fired: std::fs::File) {
    if let Some(armed) = ARMED.get() {
        let old = std::mem::replace(
            &mut *armed.fired.lock().unwrap_or_else(PoisonError::into_inner),
            fired,
        );
        std::mem::forget(old);
    }
}

/// The table's descriptor, if any point is armed.
pub(crate) fn table() -> Option<i32> {
    let armed = ARMED.get()?;
    Some(
        armed
            .fired
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_raw_fd(),
    )
}

/// Does what the fail point is armed for, which is nothing outside of tests.
pub(crate) fn hit(name: &str) {
    if let Some(armed) = ARMED.get() {
        armed.hit(name);
    }
}

impl Armed {
    fn hit(&self, name: &str) {
        let Some((index, action)) = self.points.iter().find(|(index, _)| ALL[*index] == name)
        else {
            return;
        };
        let place = self.offset + *index as u64;
        let mut fired = [0];
        let table = self.fired.lock().unwrap_or_else(PoisonError::into_inner);
        if table
            .read_at(&mut fired, place)
            .is_ok_and(|count| count == 1)
            && fired != [0]
        {
            return;
        }
        if table.write_all_at(&[1], place).is_err() {
            return;
        }
        drop(table);
        match action {
            Action::Sleep(time) => std::thread::sleep(*time),
            Action::Kill => {
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications() {
        let index = ALL.iter().position(|name| *name == "exit.seen").unwrap();
        assert_eq!(parse("exit.seen=kill;other=kill"), [(index, Action::Kill)]);
        assert_eq!(
            parse("exit.seen=sleep(20),x"),
            [(index, Action::Sleep(Duration::from_millis(20)))]
        );
        assert!(parse("exit.seen=boom").is_empty());
    }
}
