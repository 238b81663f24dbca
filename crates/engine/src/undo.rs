//! Undoing what a saga has done when a later step fails: steps are undone in reverse, whatever the reason (error, panic,
//! or a task that is dropped half-way).

use std::fmt;

/// The steps that would have to be undone.
#[derive(Default)]
pub(crate) struct Undo {
    steps: Vec<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undo")
            .field("steps", &self.steps.len())
            .finish()
    }
}

impl Undo {
    /// Remembers how to undo what has just been done. Undoing must not fail the caller: it logs.
    pub(crate) fn push(&mut self, step: impl FnOnce() + Send + 'static) {
        self.steps.push(Box::new(step));
    }

    /// Everything is done; nothing will be undone.
    pub(crate) fn commit(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        while let Some(step) = self.steps.pop() {
            step();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn undoes_in_reverse_unless_committed() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let saga = |commit: bool| {
            let mut undo = Undo::default();
            for step in 0..3 {
                let log = Arc::clone(&log);
                undo.push(move || log.lock().unwrap().push(step));
            }
            if commit {
                undo.commit();
            }
        };
        saga(true);
        assert!(log.lock().unwrap().is_empty());
        saga(false);
        assert_eq!(*log.lock().unwrap(), [2, 1, 0]);
    }
}
