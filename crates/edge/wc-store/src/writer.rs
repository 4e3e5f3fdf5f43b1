//! A thread that commits: whatever arrived while the last commit ran shares the next one.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::journal::{Journal, JournalError};

/// Batches that may wait; a full queue holds the sender back.
pub const QUEUE_BATCHES_MAX: usize = 4096;
/// Batches that share one commit at most, so that the first does not wait for a queue that never empties.
const COMMIT_BATCHES_MAX: usize = 4096;

/// Called on the writer's thread when the batch is durable, or when it is certain that it was not acknowledged.
pub type Done = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

/// Rows for the journal, and whom to tell.
pub struct Batch {
    /// Number of the first row.
    pub first_seq: u64,
    /// The rows.
    pub rows: Vec<Vec<u8>>,
    /// Called once, in the order of submission; must be quick (send on a channel, wake a task).
    pub done: Done,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("first_seq", &self.first_seq).field("rows", &self.rows.len()).finish()
    }
}

/// Owns the thread that appends and commits. Dropping it commits what was submitted, then joins the thread.
#[derive(Debug)]
pub struct JournalWriter {
    queue: Option<SyncSender<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl JournalWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system does not give us a thread.
    pub fn start(journal: Journal) -> std::io::Result<Self> {
        let (queue, batches) = sync_channel(QUEUE_BATCHES_MAX);
        let thread =
            std::thread::Builder::new().name("journal".into()).spawn(move || run(&journal, &batches))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Hands over a batch; waits while the queue is full.
    pub fn submit(&self, batch: Batch) {
        if let Some(queue) = &self.queue
            && let Err(refused) = queue.send(batch)
        {
            gone(refused.0);
        }
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic on that thread was a `done` that panicked; its message is printed already.
            let _ = thread.join();
        }
    }
}

fn gone(batch: Batch) {
    (batch.done)(Err(JournalError::Stopped { cause: "the writer's thread has ended".into() }));
}

fn run(journal: &Journal, batches: &Receiver<Batch>) {
    let mut waiting: Vec<Done> = Vec::new();
    while let Ok(first) = batches.recv() {
        for batch in std::iter::once(first).chain(batches.try_iter()).take(COMMIT_BATCHES_MAX) {
            match journal.append(batch.first_seq, &batch.rows) {
                Ok(()) => waiting.push(batch.done),
                Err(error) => (batch.done)(Err(error)),
            }
        }
        if waiting.is_empty() {
            continue;
        }
        match journal.commit() {
            Ok(()) => waiting.drain(..).for_each(|done| done(Ok(()))),
            Err(error) => {
                let cause: std::sync::Arc<str> = match error {
                    JournalError::Stopped { cause } => cause,
                    other => crate::journal::chain(&other).into(),
                };
                for done in waiting.drain(..) {
                    done(Err(JournalError::Stopped { cause: cause.clone() }));
                }
            }
        }
    }
}
