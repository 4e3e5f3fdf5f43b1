//! Station 10: what was decided, in a file that anybody can check offline.

use std::sync::Arc;

use wc_ledger::issue::{ReceiptParts, issue};
use wc_ledger::proof::inclusion_proof;
use wc_types::receipt::{Inclusion, ReceiptFile};
use wc_types::{JobId, Sealed, SignError, Signed, TaskId};

use crate::archive::ArchiveError;
use crate::clock;
use crate::coordinator::Coordinator;
use crate::signers::notary::Checkpoint;

/// A receipt cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReceiptError {
    /// A part of it cannot be read.
    #[error("a part of the receipt cannot be read")]
    Archive(#[from] ArchiveError),
    /// A part of it is missing.
    #[error("the {part} of the receipt is missing")]
    Missing {
        /// Which part.
        part: &'static str,
    },
    /// The parts contradict each other; refusing is better than signing.
    #[error("the parts of the receipt contradict each other: {reason}")]
    Inconsistent {
        /// How.
        reason: String,
    },
    /// A kept outcome does not verify.
    #[error("a kept outcome does not verify")]
    Outcome(#[from] SignError),
}

/// Writes the receipt of one accepted task; `None` if it has not been accepted, or the checkpoint does not cover it yet.
pub(crate) fn write(
    coordinator: &Arc<Coordinator>,
    task: &TaskId,
    checkpoint: &Checkpoint,
) -> Result<Option<ReceiptFile>, ReceiptError> {
    let decision = coordinator.archive.decision(task)?.filter(|decision| decision.entry < checkpoint.size);
    let Some(decision) = decision else { return Ok(None) };
    let manifest =
        coordinator.archive.manifest(&task.job)?.ok_or(ReceiptError::Missing { part: "manifest" })?;
    let entry =
        coordinator.archive.entry(decision.entry)?.ok_or(ReceiptError::Missing { part: "ledger entry" })?;
    let parts = ReceiptParts {
        cell: coordinator.cell,
        manifest: manifest.cid(),
        verdict: decision.verdict,
        entry: &entry,
        issued_at: clock::now(),
    };
    let receipt = issue(parts).map_err(|error| ReceiptError::Inconsistent { reason: error.to_string() })?;
    // A checkpoint that witnesses have cosigned says more than a fresh one.
    let cosigned = coordinator.publication.cosigned(entry.index);
    let cosigned = cosigned.map(|published| Checkpoint {
        size: published.checkpoint.size,
        note: published.note.to_string(),
        signers: published.signers,
    });
    let checkpoint = cosigned.as_ref().unwrap_or(checkpoint);
    let path = inclusion_proof(entry.index, checkpoint.size, |level, index| {
        coordinator.archive.tree_hash(level, index).ok().flatten()
    })
    .map_err(|error| ReceiptError::Inconsistent { reason: error.to_string() })?;
    let outcomes = decision.outcomes.into_iter().map(Sealed::open).collect::<Result<_, _>>()?;
    Ok(Some(ReceiptFile {
        founding: coordinator.founding.clone(),
        signers: checkpoint.signers.to_vec(),
        receipt: Signed::seal(receipt, &coordinator.key),
        outcomes,
        entry,
        inclusion: Inclusion {
            tree_size: checkpoint.size,
            path: path.into_iter().map(|hash| hash.to_vec().into()).collect(),
            checkpoint: checkpoint.note.clone(),
        },
    }))
}

/// Returns how many entries a checkpoint needs to cover the first of the receipts of a page, and all of them.
pub(crate) fn needed(
    coordinator: &Arc<Coordinator>,
    job: JobId,
    stage: u16,
    from: u32,
    tasks: u32,
    limit: usize,
) -> Result<(u64, u64), ReceiptError> {
    let (mut some, mut all, mut found) = (u64::MAX, 0, 0);
    for index in from..tasks {
        if found >= limit {
            break;
        }
        if let Some(decision) = coordinator.archive.decision(&TaskId { job, stage, index })? {
            (some, all) = (some.min(decision.entry + 1), all.max(decision.entry + 1));
            found += 1;
        }
    }
    Ok((some.min(all), all))
}

/// Writes at most `limit` receipts of a stage, from task `from` on, and says where to go on. Tasks that were accepted after
/// the checkpoint are left out: their receipts can be had once a newer one is signed.
pub(crate) fn page(
    coordinator: &Arc<Coordinator>,
    job: JobId,
    stage: u16,
    from: u32,
    tasks: u32,
    limit: usize,
    checkpoint: &Checkpoint,
) -> Result<(Vec<ReceiptFile>, Option<u32>), ReceiptError> {
    let mut receipts = Vec::new();
    for index in from..tasks {
        if receipts.len() >= limit {
            return Ok((receipts, Some(index)));
        }
        receipts.extend(write(coordinator, &TaskId { job, stage, index }, checkpoint)?);
    }
    Ok((receipts, None))
}
