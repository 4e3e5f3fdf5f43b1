//! Lets go of what was kept of jobs that ended long ago, beside the loop.
//!
//! The cell decides when (a tick at the end of the charter's `retention`). Which jobs are still to be forgotten is noted
//! on disk first: a job of a million tasks takes a while, and a crash in between must not leave its results pinned.

use std::sync::mpsc;

use wc_store::Store;
use wc_types::{Cid, JobId};

use crate::archive::Archive;
use crate::flow::report;

/// The thread that forgets. It ends when this is dropped and the job at hand is done.
pub(crate) struct Forgetter {
    archive: Archive,
    wake: mpsc::SyncSender<()>,
}

impl Forgetter {
    /// Starts the thread; what an earlier run left unfinished comes first.
    ///
    /// # Errors
    /// When the system does not give us a thread.
    pub fn start(archive: Archive, store: Store) -> std::io::Result<Self> {
        // One wish to look is as good as many.
        let (wake, woken) = mpsc::sync_channel(1);
        let _ = wake.try_send(());
        let tables = archive.clone();
        std::thread::Builder::new().name("wc-forget".into()).spawn(move || {
            while woken.recv().is_ok() {
                if let Err(error) = forget_all(&tables, &store) {
                    tracing::warn!(%error, "old jobs cannot be forgotten; tried again with the next");
                }
            }
        })?;
        Ok(Self { archive, wake })
    }

    /// Notes a job to forget; the thread goes on from the note, in this run or in the next.
    pub fn note(&self, job: &JobId, records: &[Cid]) {
        if let Err(error) = self.archive.put_forgetting(job, records) {
            tracing::error!(%job, %error, "a job cannot be noted as forgotten; replay will note it again");
        }
    }

    /// Lets the thread look.
    pub fn wake(&self) {
        let _ = self.wake.try_send(());
    }
}

fn forget_all(archive: &Archive, store: &Store) -> Result<(), crate::archive::ArchiveError> {
    for (job, records) in archive.forgetting()? {
        archive.forget(&job, |result| report::unpin_result(store, &job, result))?;
        for record in &records {
            report::unpin_result(store, &job, record);
        }
        tracing::info!(%job, "the time for which its results are kept is over");
    }
    Ok(())
}
