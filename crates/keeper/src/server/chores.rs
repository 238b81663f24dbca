//! A thread for what may wait for a disk and nobody waits for: unlinking, compressing, last closes.
//!
//! What must stay true: handing a chore over never waits; one that hangs (a dead NFS mount) holds up no other for long:
//! another thread takes over.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::log::rotate::Chore;

/// The most threads.
const MAX_THREADS: usize = 16;
/// A chore that has waited so long gets another thread.
const PATIENCE: Duration = Duration::from_secs(2);
/// A thread without work ends after this time.
const IDLE: Duration = Duration::from_secs(5);
/// Stack of a thread; compression is the deepest.
pub(crate) const STACK: usize = 512 * 1024;

#[derive(Debug, Default)]
struct Queue {
    chores: VecDeque<(Instant, Chore)>,
    threads: usize,
    idle: usize,
    stopping: bool,
}

/// The queue of chores; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chores {
    shared: Arc<(Mutex<Queue>, Condvar)>,
}

impl Chores {
    /// Hands a chore over.
    pub(crate) fn push(&self, chore: Chore) {
        let mut queue = self.lock();
        let waiting = queue
            .chores
            .front()
            .is_some_and(|(since, _)| since.elapsed() > PATIENCE);
        queue.chores.push_back((Instant::now(), chore));
        if queue.threads == 0 || (waiting && queue.idle == 0 && queue.threads < MAX_THREADS) {
            let chores = self.clone();
            let thread = std::thread::Builder::new()
                .name("kekkai-chores".into())
                .stack_size(STACK);
            if thread.spawn(move || chores.work()).is_ok() {
                queue.threads += 1;
            }
        }
        drop(queue);
        self.shared.1.notify_one();
    }

    /// Waits until nothing is left to do and all threads have ended; `false` if that takes longer than `limit`.
    pub(crate) fn quiesce(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let mut queue = self.lock();
            queue.stopping = queue.threads > 0 && Instant::now() <= deadline;
            if !queue.stopping {
                return queue.threads == 0;
            }
            drop(queue);
            self.shared.1.notify_all();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn work(&self) {
        loop {
            let mut queue = self.lock();
            while queue.chores.is_empty() {
                queue.idle += 1;
                let (back, timeout) = self
                    .shared
                    .1
                    .wait_timeout(queue, IDLE)
                    .unwrap_or_else(PoisonError::into_inner);
                queue = back;
                queue.idle -= 1;
                if (timeout.timed_out() || queue.stopping) && queue.chores.is_empty() {
                    queue.threads -= 1;
                    return;
                }
            }
            let Some((_, chore)) = queue.chores.pop_front() else {
                continue;
            };
            drop(queue);
            chore.run();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
