//! Fail points: places where a crash suite makes a program die, fail or wait.
//!
//! `name=kill,name=error,name=sleep(50)`; `kill` and `abort` end the process at once, `error` makes the step fail once.
//! Always compiled in: one relaxed load when none is set. Each crate keeps the list of its own names.

use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The error that an `error` action gives: the name of the fail point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed(pub &'static str);

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
                    let millis = other
                        .strip_prefix("sleep(")?
                        .strip_suffix(')')?
                        .parse()
                        .ok()?;
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
fn triggered(name: &'static str) -> Result<(), Failed> {
    let action = {
        let Ok(mut table) = table().lock() else {
            return Ok(());
        };
        let Some(at) = table.iter().position(|(point, _)| point == name) else {
            return Ok(());
        };
        match &table[at].1 {
            Action::Error => table.remove(at).1,
            other => other.clone(),
        }
    };
    match action {
        Action::Kill => {
            // Death as by `kill -9`: no destructor runs, nothing is flushed.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            Ok(())
        }
        Action::Error => Err(Failed(name)),
        Action::Sleep(time) => {
            std::thread::sleep(time);
            Ok(())
        }
    }
}

/// Does what is set for `name`; nothing, usually.
///
/// # Errors
/// [`Failed`] where `error` was set for this point.
pub fn check(name: &'static str) -> Result<(), Failed> {
    if ACTIVE.load(Ordering::Relaxed) {
        triggered(name)
    } else {
        Ok(())
    }
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
}
