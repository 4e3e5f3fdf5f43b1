//! An account, its history, and the proofs that its owner checks them with.

use std::sync::Arc;
use std::time::Duration;

use wc_ledger::proof::{ProofError, consistency_proof, inclusion_proof};
use wc_proto::api::{AccountStatement, CreditJob, CreditRow, Response};
use wc_proto::limit::{FRAME_BYTES_MAX, PAGE_ROWS_MAX};
use wc_types::code::{Class, Code};
use wc_types::entry::{Entry, EntryKind};
use wc_types::{AccountId, JobId, Refusal, TaskId, to_canonical};

use crate::archive::ArchiveError;
use crate::brain::BrainError;
use crate::coordinator::Coordinator;
use crate::view;

/// Bytes of entries in one page; leaves room in a frame for the verdicts and paths beside them.
const PAGE_BYTES_MAX: usize = FRAME_BYTES_MAX / 4;
/// Entries in one page of proofs: each path has at most 64 hashes, and each verdict is below 4 KiB.
const PROOFS_PER_PAGE: usize = 1024;

/// Time that the signers have for a checkpoint of right now. After that the last one is told, which covers all but the
/// newest entries; whoever asks sees both sizes.
const SIGNED_WITHIN: Duration = Duration::from_secs(3);

const UNSIGNED: Code = Code::new("WC-NODE-076", Class::Exhausted);
const NOTHING_SIGNED: &str = "too few signers can be reached, and no checkpoint has been signed yet that an account could be checked against";

/// A history cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CreditsError {
    /// The cell does not answer.
    #[error(transparent)]
    Brain(#[from] BrainError),
    /// The archive cannot be read.
    #[error("the ledger cannot be read")]
    Archive(#[from] ArchiveError),
    /// The checkpoint cannot be signed.
    #[error("{0}")]
    Checkpoint(Refusal),
    /// An entry of the index is not there.
    #[error("entry {index} of the ledger is missing")]
    Missing {
        /// The entry.
        index: u64,
    },
    /// A path cannot be made.
    #[error("a proof cannot be made")]
    Proof(#[from] ProofError),
}

/// Tells how an account stands.
pub(crate) async fn statement(
    coordinator: &Arc<Coordinator>,
    account: AccountId,
    since: u64,
) -> Result<Response, CreditsError> {
    let signed = tokio::time::timeout(SIGNED_WITHIN, coordinator.notary.account(coordinator, account)).await;
    let (found, checkpoint) = match signed {
        Ok(Ok(signed)) => signed,
        late => match (coordinator.notary.latest().filter(|last| last.size >= since), late) {
            (Some(last), _) => (coordinator.brain.query(move |cell, _| cell.account(&account)).await?, last),
            (None, Ok(Err(error))) => return Err(error),
            (None, _) => return Err(CreditsError::Checkpoint(Refusal::new(UNSIGNED, NOTHING_SIGNED))),
        },
    };
    let size = checkpoint.size;
    // Whoever has seen a longer log than this is told nothing, and will say so itself.
    let consistency = if since > 0 && since < size {
        consistency_proof(since, size, |level, index| hash(coordinator, level, index))?
    } else {
        Vec::new()
    };
    Ok(Response::Account(Box::new(AccountStatement {
        view: view::account(&found),
        founding: coordinator.founding.clone(),
        signers: checkpoint.signers.to_vec(),
        checkpoint: checkpoint.note,
        consistency: consistency.into_iter().map(|hash| hash.to_vec().into()).collect(),
    })))
}

/// Proves that the log of `to` entries begins with that of `from`.
pub(crate) fn consistency(
    coordinator: &Arc<Coordinator>,
    from: u64,
    to: u64,
) -> Result<Response, CreditsError> {
    let path = consistency_proof(from, to, |level, index| hash(coordinator, level, index))?;
    Ok(Response::Hashes(path.into_iter().map(|hash| hash.to_vec().into()).collect()))
}

/// Tells the newest entries that concern an account, newest first.
pub(crate) async fn history(
    coordinator: &Arc<Coordinator>,
    account: AccountId,
    before: Option<u64>,
    limit: u32,
) -> Result<Response, CreditsError> {
    let limit = (limit as usize).clamp(1, PAGE_ROWS_MAX / 10);
    let indices = coordinator.archive.account_entries_back(&account, before, limit + 1)?;
    let next = |last: u64| Some(last).filter(|_| indices.len() > limit);
    page(coordinator, indices.iter().copied().take(limit), None, next).await
}

/// Tells entries that concern an account, oldest first, with their paths to the root of the first `size` entries.
pub(crate) async fn proofs(
    coordinator: &Arc<Coordinator>,
    account: AccountId,
    from: u64,
    size: u64,
) -> Result<Response, CreditsError> {
    let indices = coordinator.archive.account_entries(&account, from, PROOFS_PER_PAGE + 1)?;
    let full = indices.len() > PROOFS_PER_PAGE;
    let within = indices.into_iter().take_while(|index| *index < size).take(PROOFS_PER_PAGE);
    page(coordinator, within, Some(size), |last| full.then(|| last.saturating_add(1))).await
}

/// Gathers rows until the page is full.
///
/// - `next`: where to go on behind the last row, when the page ends because there are no more indices
async fn page(
    coordinator: &Arc<Coordinator>,
    indices: impl Iterator<Item = u64>,
    size: Option<u64>,
    next: impl Fn(u64) -> Option<u64>,
) -> Result<Response, CreditsError> {
    let mut rows: Vec<CreditRow> = Vec::new();
    let mut bytes = 0;
    for index in indices {
        let entry = coordinator.archive.entry(index)?.ok_or(CreditsError::Missing { index })?;
        bytes += to_canonical(&entry).len();
        if bytes > PAGE_BYTES_MAX && !rows.is_empty() {
            let last = rows.last().map_or(0, |row| row.entry.index);
            // Forwards the row that did not fit begins the next page; backwards it is the one before the last.
            let next = Some(if size.is_some() { index } else { last });
            return Ok(Response::Credits { rows: named(coordinator, rows).await?, next });
        }
        rows.push(row(coordinator, entry, size)?);
    }
    let next = rows.last().and_then(|row| next(row.entry.index));
    Ok(Response::Credits { rows: named(coordinator, rows).await?, next })
}

fn row(coordinator: &Arc<Coordinator>, entry: Entry, size: Option<u64>) -> Result<CreditRow, CreditsError> {
    let verdict = match &entry.kind {
        EntryKind::TaskAccepted { job, stage, index, .. } => {
            let task = TaskId { job: *job, stage: *stage, index: *index };
            coordinator.archive.decision(&task)?.map(|decision| decision.verdict)
        }
        _ => None,
    };
    let path = match size {
        Some(size) => inclusion_proof(entry.index, size, |level, index| hash(coordinator, level, index))?,
        None => Vec::new(),
    };
    let path = path.into_iter().map(|hash| hash.to_vec().into()).collect();
    Ok(CreditRow { entry, verdict, job: None, path })
}

/// Says which job each row is about.
async fn named(
    coordinator: &Arc<Coordinator>,
    mut rows: Vec<CreditRow>,
) -> Result<Vec<CreditRow>, CreditsError> {
    let jobs: Vec<Option<JobId>> = rows.iter().map(|row| job_of(&row.entry.kind)).collect();
    let found = coordinator
        .brain
        .query(move |cell, _| {
            let job = |id: Option<JobId>| {
                let id = id?;
                let manifest = cell.manifest(&id)?;
                Some(CreditJob { job: id, name: manifest.name.clone(), class: manifest.class })
            };
            jobs.into_iter().map(job).collect::<Vec<_>>()
        })
        .await?;
    for (row, job) in rows.iter_mut().zip(found) {
        row.job = job;
    }
    Ok(rows)
}

fn job_of(kind: &EntryKind) -> Option<JobId> {
    match kind {
        EntryKind::JobAdmitted { job, .. }
        | EntryKind::TaskAccepted { job, .. }
        | EntryKind::JobEnded { job, .. } => Some(*job),
        EntryKind::CellFounded { .. }
        | EntryKind::NodeJoined { .. }
        | EntryKind::NodeStanding { .. }
        | EntryKind::CreditDecayed { .. }
        | EntryKind::CreditReversed { .. }
        | EntryKind::NodeLeft { .. }
        | EntryKind::SignersChanged { .. }
        | EntryKind::CellMet { .. }
        | EntryKind::CreditExpired { .. } => None,
    }
}

fn hash(coordinator: &Arc<Coordinator>, level: u8, index: u64) -> Option<[u8; 32]> {
    coordinator.archive.tree_hash(level, index).ok().flatten()
}
