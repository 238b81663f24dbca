//! The writer thread, which commits, and the sync thread, which makes commits durable and checkpoints.
//!
//! Why the sync is not SQLite's own (`synchronous=FULL`): it would hold up every start and exit behind somebody's pull.
//! Why syncing the log from outside is enough: in WAL mode a commit is its frames in the log, each with a checksum of all
//! before it; once those bytes are on the disk, recovery finds them. If a checkpoint has moved them meanwhile, it had synced
//! them itself (`synchronous=NORMAL`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use crate::error::MetadataError;
use crate::{Change, Durability, Reply, schema};

/// Jobs that share one commit. Bounded so that the first of a flood does not wait for the last.
const MAX_GROUP: usize = 256;
/// Bytes of documents after which the log is checkpointed in the background.
const CHECKPOINT_BYTES: usize = 1 << 20;
/// Bytes written since the log was last emptied after which the writer itself waits for a checkpoint, so that the log is bounded.
const RESTART_BYTES: usize = 32 << 20;
/// What one row costs in the log at least: it rewrites whole pages.
const ROW_OVERHEAD: usize = 8192;

struct Job {
    changes: Vec<Change>,
    durability: Durability,
    reply: Reply,
}

enum SyncTask {
    Sync(Vec<Reply>),
    Checkpoint,
}

/// The two threads.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts both threads. `connection` is the migrated one.
    pub(crate) fn start(connection: Connection, path: &Path) -> Result<Writer, MetadataError> {
        let wal_path = schema::sibling(path, "-wal");
        // The log exists only after the first write or read in WAL mode.
        connection
            .execute_batch("BEGIN IMMEDIATE; COMMIT")
            .map_err(|e| MetadataError::sqlite(path, e))?;
        let log = std::fs::OpenOptions::new()
            .write(true)
            .open(&wal_path)
            .map_err(|source| MetadataError::Io {
                operation: "open",
                path: wal_path.clone(),
                source,
            })?;
        let checkpointer = schema::connect(path)?;
        let spawn_error = |source| MetadataError::Io {
            operation: "start a thread for",
            path: path.to_owned(),
            source,
        };

        let (sync_sender, sync_receiver) = channel();
        let syncer = Syncer {
            log,
            wal_path,
            connection: checkpointer,
        };
        let sync_thread = std::thread::Builder::new()
            .name("metadata-sync".into())
            .stack_size(256 * 1024)
            .spawn(move || syncer.run(&sync_receiver))
            .map_err(spawn_error)?;

        let (sender, receiver) = channel();
        let mut committer = Committer {
            connection,
            path: path.to_owned(),
            sync: sync_sender,
            since_checkpoint: 0,
            since_restart: 0,
        };
        let thread = std::thread::Builder::new()
            .name("metadata-write".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                committer.run(&receiver);
                let Committer {
                    connection, sync, ..
                } = committer;
                drop(sync);
                // The sync thread's connection goes first, so that ours is the last one: its close empties the log.
                let _ = sync_thread.join();
                let _ = connection.close();
            })
            .map_err(spawn_error)?;
        Ok(Writer {
            queue: Some(sender),
            thread: Some(thread),
        })
    }

    pub(crate) fn submit(&self, changes: Vec<Change>, durability: Durability, reply: Reply) {
        let job = Job {
            changes,
            durability,
            reply,
        };
        let Some(queue) = &self.queue else {
            return (job.reply)(Err(MetadataError::Closed));
        };
        if let Err(refused) = queue.send(job) {
            (refused.0.reply)(Err(MetadataError::Closed));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Committer {
    connection: Connection,
    path: PathBuf,
    sync: Sender<SyncTask>,
    since_checkpoint: usize,
    since_restart: usize,
}

impl Committer {
    fn run(&mut self, queue: &Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut group = vec![first];
            while group.len() < MAX_GROUP
                && let Ok(job) = queue.try_recv()
            {
                group.push(job);
            }
            self.commit_group(group);
            self.checkpoint_if_due();
        }
    }

    fn commit_group(&mut self, mut group: Vec<Job>) {
        match self.commit(&group) {
            Ok(()) => self.acknowledge(group),
            Err(error) => match (group.pop(), group.is_empty()) {
                (Some(job), true) => (job.reply)(Err(error)),
                // One job's failure is not the others': each on its own, in order.
                (last, _) => {
                    for job in group.into_iter().chain(last) {
                        self.commit_group(vec![job]);
                    }
                }
            },
        }
    }

    fn commit(&mut self, group: &[Job]) -> Result<(), MetadataError> {
        let mut bytes = 0;
        let mut write = || -> rusqlite::Result<()> {
            let transaction = self
                .connection
                .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for change in group.iter().flat_map(|job| &job.changes) {
                bytes += ROW_OVERHEAD + size(change);
                schema::apply(&transaction, change)?;
            }
            transaction.commit()
        };
        write().map_err(|e| MetadataError::sqlite(&self.path, e))?;
        self.since_checkpoint += bytes;
        self.since_restart += bytes;
        Ok(())
    }

    fn acknowledge(&self, group: Vec<Job>) {
        let mut to_sync = Vec::new();
        for job in group {
            match job.durability {
                Durability::Process => (job.reply)(Ok(())),
                Durability::PowerCut => to_sync.push(job.reply),
            }
        }
        if to_sync.is_empty() {
            return;
        }
        if let Err(refused) = self.sync.send(SyncTask::Sync(to_sync))
            && let SyncTask::Sync(replies) = refused.0
        {
            for reply in replies {
                reply(Err(MetadataError::Closed));
            }
        }
    }

    fn checkpoint_if_due(&mut self) {
        if self.since_checkpoint > CHECKPOINT_BYTES {
            self.since_checkpoint = 0;
            // Only fails when the thread is gone; the log is then bounded by the branch below.
            let _ = self.sync.send(SyncTask::Checkpoint);
        }
        if self.since_restart > RESTART_BYTES {
            self.since_restart = 0;
            let _ = checkpoint(&self.connection, "RESTART");
        }
    }
}

struct Syncer {
    log: File,
    wal_path: PathBuf,
    connection: Connection,
}

impl Syncer {
    fn run(&self, queue: &Receiver<SyncTask>) {
        while let Ok(first) = queue.recv() {
            let mut replies = Vec::new();
            let mut due = false;
            let mut next = Some(first);
            while let Some(task) = next {
                match task {
                    SyncTask::Sync(more) => replies.extend(more),
                    SyncTask::Checkpoint => due = true,
                }
                next = if replies.len() < MAX_GROUP {
                    queue.try_recv().ok()
                } else {
                    None
                };
            }
            if !replies.is_empty() {
                self.sync(replies);
            }
            if due {
                // Not being able to now (a reader, no space) only means a longer log.
                let _ = checkpoint(&self.connection, "PASSIVE");
            }
        }
    }

    fn sync(&self, replies: Vec<Reply>) {
        let outcome = self.log.sync_data();
        for reply in replies {
            reply(match &outcome {
                Ok(()) => Ok(()),
                Err(error) => Err(MetadataError::Io {
                    operation: "sync",
                    path: self.wal_path.clone(),
                    source: error
                        .raw_os_error()
                        .map_or_else(|| error.kind().into(), std::io::Error::from_raw_os_error),
                }),
            });
        }
    }
}

fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}

fn size(change: &Change) -> usize {
    match change {
        Change::Put {
            key,
            target,
            document,
            ..
        } => key.len() + target.len() + document.len(),
        Change::Delete { key, .. } => key.len(),
    }
}
