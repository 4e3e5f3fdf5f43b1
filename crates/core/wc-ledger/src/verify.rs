//! Checking a receipt file without a network and without believing whoever handed it over.
//!
//! ```text
//! founding ──digest──► cell id ──► origin and key of the checkpoint
//!     └─coordinator──► signs receipt ──► verdict ──► votes ◄── outcomes, each signed by its node
//!                                │           └──CID──┐
//!                                └──CID──► entry ────┴──► postings pay exactly the awards
//!                                            └──leaf──► path ──► root ◄── checkpoint note, signed by the cell
//! founding ──► hand-over ──► … ──► the key of the signers ─────────────────────────────────────────┘
//! ```
//!
//! Signatures of records are checked when the file is decoded: a [`Signed`] with a wrong one does not
//! exist. What is left to check here is who signed, and that the parts are parts of one story.

use std::collections::BTreeSet;

use data_encoding::BASE64;
use serde::Serialize;
use wc_types::charter::cell_id;
use wc_types::outcome::Ending;
use wc_types::receipt::{Receipt, ReceiptFile, Verdict, Vote};
use wc_types::{
    CanonicalError, CellId, Cid, Class, Code, LeaseId, MicroNcu, SignError, Signed, TaskId, Timestamp,
    from_canonical, record_cid,
};

use crate::chain::leaf_hash;
use crate::checkpoint::{Checkpoint, CheckpointError, cell_key, origin};
use crate::cosign::{Cosignature, CosignatureError, cosignatures};
use crate::issue::{VerdictFault, awarded, check_entry, check_verdict};
use crate::merkle::Hash;
use crate::note::{Note, NoteError};
use crate::price::{Work, price};
use crate::proof::{ProofError, verify_consistency, verify_inclusion};
use crate::threshold::handover::{ChainFault, verify_chain};

/// What the reader of a receipt knew before.
#[derive(Clone, Debug, Default)]
pub struct Anchors {
    /// Cells that the reader knows. Empty: any cell is taken, and the report says that this was assumed.
    pub cells: BTreeSet<CellId>,
    /// The last checkpoint of this cell that the reader saw.
    pub seen: Option<Seen>,
}

/// A checkpoint that was seen before, and the proof that ties it to that of the receipt.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The checkpoint; its signature was checked when it was seen.
    pub checkpoint: Checkpoint,
    /// Consistency proof between the smaller and the larger of the two logs; empty for logs of one size.
    pub consistency: Vec<Hash>,
}

/// One thing that a receipt proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Short stable name.
    pub name: &'static str,
    /// What was proved, in a sentence for people.
    pub proved: String,
}

/// What an accepted receipt file says and proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptReport {
    /// The cell.
    pub cell: CellId,
    /// CID of the job's manifest.
    pub manifest: Cid,
    /// The task.
    pub task: TaskId,
    /// CID of the accepted result record.
    pub result: Cid,
    /// Whether enough of those who agreed signed that the guest succeeded.
    pub success: bool,
    /// Replicas that the manifest asked for.
    pub replicas: u8,
    /// Replicas that had to agree.
    pub required: u8,
    /// Machines that agreed.
    pub agreeing: usize,
    /// Machines that did not.
    pub dissenting: usize,
    /// What the submitter paid.
    pub charged: MicroNcu,
    /// What the owners of those machines earned, in micro-NCU.
    pub awarded: u128,
    /// Index of the ledger entry.
    pub entry_index: u64,
    /// Number of entries under the checkpoint.
    pub tree_size: u64,
    /// Root of the log, in base64 as in the checkpoint.
    pub root: String,
    /// When the receipt was written, by the cell's clock.
    pub issued_at: Timestamp,
    /// Who cosigned the checkpoint.
    pub witnesses: Vec<Cosignature>,
    /// The checkpoint itself.
    pub checkpoint: Checkpoint,
    /// What was proved, in the order of proof.
    pub steps: Vec<Step>,
    /// What was not proved and rests on somebody's word.
    pub assumed: Vec<&'static str>,
}

/// A receipt file is not what it should be. Nothing in it is to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptFault {
    /// The bytes are not a receipt file, or a signature in it is wrong.
    #[error("not a receipt file")]
    Undecodable(#[source] CanonicalError),
    /// The founding record is not signed by the coordinator that it names.
    #[error("founding record")]
    Founding(#[source] SignError),
    /// The reader does not know this cell.
    #[error("receipt is of {cell}, which is not among the known cells")]
    CellUnknown {
        /// The cell.
        cell: CellId,
    },
    /// The receipt is not signed by the cell's coordinator.
    #[error("receipt")]
    Signer(#[source] SignError),
    /// The receipt is of another cell than the founding record.
    #[error("receipt is of {actual}, the founding record is of {expected}")]
    OtherCell {
        /// Cell of the founding record.
        expected: CellId,
        /// Cell of the receipt.
        actual: CellId,
    },
    /// The verdict contradicts itself or its ledger entry.
    #[error("verdict")]
    Verdict(#[source] VerdictFault),
    /// There is not one outcome per vote.
    #[error("{outcomes} outcomes for {votes} votes")]
    VoteCount {
        /// Votes in the verdict.
        votes: usize,
        /// Outcomes in the file.
        outcomes: usize,
    },
    /// An outcome is not signed by the node of its vote.
    #[error("outcome under {lease}")]
    OutcomeSigner {
        /// Lease of the vote.
        lease: LeaseId,
        /// What is wrong.
        source: SignError,
    },
    /// An outcome is not the one that its vote counts.
    #[error("outcome under {lease} {what}")]
    OtherOutcome {
        /// Lease of the vote.
        lease: LeaseId,
        /// What is different.
        what: &'static str,
    },
    /// Those who agreed are paid more than the least that any of them reported is worth.
    #[error("each is awarded {awarded} µNCU for work that is worth {worth}")]
    Overpaid {
        /// What each is awarded.
        awarded: u64,
        /// The price of that work by the charter.
        worth: u64,
    },
    /// The receipt names another ledger entry.
    #[error("receipt names another ledger entry than the file holds")]
    OtherEntry,
    /// The entry is not under the checkpoint.
    #[error("place in the log")]
    Inclusion(#[source] ProofError),
    /// The chain from the founding key to the key of the checkpoint does not hold.
    #[error("signers of the checkpoint")]
    Signers(#[source] ChainFault),
    /// A hash of the path has not 32 bytes.
    #[error("hash {place} of the path has {bytes} bytes, not 32")]
    PathHash {
        /// Place in the path.
        place: usize,
        /// Length of the hash.
        bytes: usize,
    },
    /// The checkpoint is not one of this cell.
    #[error("checkpoint")]
    Checkpoint(#[source] CheckpointError),
    /// A witness's line on the checkpoint does not verify.
    #[error("cosignature on the checkpoint")]
    Cosignature(#[source] CosignatureError),
    /// The checkpoint carries a line that nothing in the file can confirm: neither the cell's one signature nor that of
    /// a witness that is named by its key. In a published checkpoint such lines are ignored; in a receipt every byte
    /// counts.
    #[error("checkpoint carries a signature of {name:?} that nothing in the receipt confirms")]
    CheckpointSignatures {
        /// The name on the line.
        name: String,
    },
    /// The checkpoint is of a log of another size than the path.
    #[error("checkpoint is of {checkpoint} entries, the path of {path}")]
    CheckpointSize {
        /// Size in the checkpoint.
        checkpoint: u64,
        /// Size in the path.
        path: u64,
    },
    /// The checkpoint that was seen before is of another log.
    #[error("the checkpoint seen before is of {origin:?}")]
    SeenElsewhere {
        /// Its origin.
        origin: String,
    },
    /// History was rewritten: this checkpoint and the one that was seen before are not of one log.
    #[error(
        "the log was rewritten: its checkpoint of {tree_size} entries does not fit the one seen at {seen_size}"
    )]
    Rewritten {
        /// Size of the log in the receipt.
        tree_size: u64,
        /// Size of the log that was seen before.
        seen_size: u64,
        /// Why they do not fit.
        source: ProofError,
    },
}

impl ReceiptFault {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Undecodable(_) => Code::new("WC-LEDGER-060", Class::Caller),
            Self::Founding(_) => Code::new("WC-LEDGER-061", Class::Peer),
            Self::CellUnknown { .. } => Code::new("WC-LEDGER-062", Class::Caller),
            Self::Signer(_) => Code::new("WC-LEDGER-063", Class::Peer),
            Self::OtherCell { .. } => Code::new("WC-LEDGER-064", Class::Peer),
            Self::Verdict(fault) => Code::new(fault.code().name, Class::Peer),
            Self::VoteCount { .. } => Code::new("WC-LEDGER-065", Class::Peer),
            Self::OutcomeSigner { .. } => Code::new("WC-LEDGER-066", Class::Peer),
            Self::OtherOutcome { .. } => Code::new("WC-LEDGER-067", Class::Peer),
            Self::Overpaid { .. } => Code::new("WC-LEDGER-076", Class::Peer),
            Self::OtherEntry => Code::new("WC-LEDGER-068", Class::Peer),
            Self::Signers(fault) => fault.code(),
            Self::Inclusion(_) => Code::new("WC-LEDGER-069", Class::Peer),
            Self::PathHash { .. } => Code::new("WC-LEDGER-070", Class::Peer),
            Self::Checkpoint(_) => Code::new("WC-LEDGER-071", Class::Peer),
            Self::Cosignature(error) => error.code(),
            Self::CheckpointSignatures { .. } => Code::new("WC-LEDGER-072", Class::Peer),
            Self::CheckpointSize { .. } => Code::new("WC-LEDGER-073", Class::Peer),
            Self::SeenElsewhere { .. } => Code::new("WC-LEDGER-074", Class::Caller),
            Self::Rewritten { .. } => Code::new("WC-LEDGER-075", Class::Peer),
        }
    }
}

/// Reads a receipt file: canonical bytes of at most [`RECORD_BYTES_MAX`](wc_types::canonical::RECORD_BYTES_MAX), every
/// signature of its records right.
///
/// # Errors
/// [`ReceiptFault::Undecodable`].
pub fn decode_receipt(bytes: &[u8]) -> Result<ReceiptFile, ReceiptFault> {
    from_canonical(bytes).map_err(ReceiptFault::Undecodable)
}

/// Checks a receipt file and returns what it proves, step by step.
///
/// # Errors
/// The first [`ReceiptFault`].
///
/// # Source
/// VER-11, VER-12, VER-13; issue invariant LEDGER-4: no file is accepted with any of its bytes changed.
pub fn verify_receipt(file: &ReceiptFile, anchors: &Anchors) -> Result<ReceiptReport, ReceiptFault> {
    let mut steps = Vec::new();
    let mut proved = |name, proved| steps.push(Step { name, proved });

    let coordinator = file.founding.coordinator;
    file.founding.signed_by(&coordinator.0).map_err(ReceiptFault::Founding)?;
    let cell = cell_id(&file.founding);
    if !anchors.cells.is_empty() && !anchors.cells.contains(&cell) {
        return Err(ReceiptFault::CellUnknown { cell });
    }
    proved(
        "founding",
        format!("{cell} is the digest of a founding record signed by its coordinator {coordinator}"),
    );

    let receipt = &file.receipt;
    receipt.signed_by(&coordinator.0).map_err(ReceiptFault::Signer)?;
    if receipt.cell != cell {
        return Err(ReceiptFault::OtherCell { expected: cell, actual: receipt.cell });
    }
    proved("receipt", format!("receipt {} is signed by that coordinator", receipt.cid()));

    let verdict = &receipt.verdict;
    let task = TaskId { job: verdict.job, stage: verdict.stage, index: verdict.index };
    check_verdict(verdict).map_err(ReceiptFault::Verdict)?;
    let success = check_outcomes(receipt, file, &cell, task)? >= usize::from(verdict.required);
    let (agreeing, dissenting) = (verdict.agreeing.len(), verdict.dissenting.len());
    check_price(file, verdict)?;
    proved(
        "votes",
        format!(
            "{} different machines each signed an outcome of {task} for this cell",
            agreeing + dissenting
        ),
    );
    proved(
        "quorum",
        format!(
            "{agreeing} of {} replicas found result {}, where {} had to; {dissenting} found another",
            verdict.replicas, verdict.result, verdict.required
        ),
    );

    let entry = &file.entry;
    if record_cid(entry) != receipt.entry {
        return Err(ReceiptFault::OtherEntry);
    }
    check_entry(&cell, verdict, entry).map_err(ReceiptFault::Verdict)?;
    let awarded = awarded(verdict);
    proved(
        "credit",
        format!(
            "ledger entry {} names this verdict, sums to zero and pays {awarded} µNCU for it, {} of them the submitter's: \
             the same to all who agreed, and no more than the charter allows for the least that they reported",
            entry.index, verdict.charged.0
        ),
    );

    let signers = verify_chain(&file.founding, &file.signers).map_err(ReceiptFault::Signers)?;
    if signers.epoch > 0 {
        proved(
            "signers",
            format!(
                "{} hand-overs, each signed by the key before it, lead from the coordinator's key to that of {} of {} \
                 signers",
                signers.epoch,
                signers.threshold,
                signers.members.len()
            ),
        );
    }

    let note = Note::parse(&file.inclusion.checkpoint).map_err(note_fault)?;
    let checkpoint =
        Checkpoint::open(&note, &cell_key(&cell, signers.group)).map_err(ReceiptFault::Checkpoint)?;
    let witnesses = check_lines(&note, &checkpoint.origin)?;
    let (size, path_size) = (checkpoint.size, file.inclusion.tree_size);
    if size != path_size {
        return Err(ReceiptFault::CheckpointSize { checkpoint: size, path: path_size });
    }
    let root = BASE64.encode(&checkpoint.root);
    proved("checkpoint", format!("the cell's key signed a log of {size} entries with root {root}"));
    if !witnesses.is_empty() {
        let names: Vec<String> = witnesses.iter().map(|one| one.witness.to_string()).collect();
        let names = names.join(", ");
        proved(
            "witnesses",
            format!("{} cosigned it as continuing all they saw before: {names}", witnesses.len()),
        );
    }

    let path = path_hashes(file)?;
    verify_inclusion(&leaf_hash(entry), entry.index, size, &path, &checkpoint.root)
        .map_err(ReceiptFault::Inclusion)?;
    proved("inclusion", format!("{} hashes lead from entry {} to that root", path.len(), entry.index));

    let mut assumed = vec![
        "whose the machines are, and so whom the credit went to, is the coordinator's word",
        "how many replicas the manifest asked for, and how different their networks are, is the coordinator's word",
        "that the job is one of that manifest is the coordinator's word: the job's id is a digest of manifest, submitter \
         and moment, and the file names the first only",
        "times are those of the clocks that signed them",
    ];
    match &anchors.seen {
        Some(seen) => {
            check_seen(seen, &cell, &checkpoint)?;
            let seen_size = seen.checkpoint.size;
            proved(
                "history",
                format!("that log and the one seen before at {seen_size} entries are one history"),
            );
        }
        None => {
            assumed.push("no earlier checkpoint was given, so a log that was rewritten since would not show")
        }
    }
    assumed.push(if witnesses.is_empty() {
        "no witness cosigned the checkpoint, so the cell may show others another log"
    } else {
        "whether a witness is independent of the cell is not written in its key"
    });
    if anchors.cells.is_empty() {
        assumed.push("no list of known cells was given, so anybody may have founded this one");
    }

    Ok(ReceiptReport {
        cell,
        manifest: receipt.manifest,
        task,
        result: verdict.result,
        success,
        replicas: verdict.replicas,
        required: verdict.required,
        agreeing,
        dissenting,
        charged: verdict.charged,
        awarded,
        entry_index: entry.index,
        tree_size: size,
        root,
        issued_at: receipt.issued_at,
        witnesses,
        checkpoint,
        steps,
        assumed,
    })
}

/// Checks each vote against its signed outcome and returns how many of those who agreed say that the guest succeeded.
fn check_outcomes(
    receipt: &Signed<Receipt>,
    file: &ReceiptFile,
    cell: &CellId,
    task: TaskId,
) -> Result<usize, ReceiptFault> {
    let verdict = &receipt.verdict;
    let votes = verdict.agreeing.len() + verdict.dissenting.len();
    if file.outcomes.len() != votes {
        return Err(ReceiptFault::VoteCount { votes, outcomes: file.outcomes.len() });
    }
    let agreeing = verdict.agreeing.iter().map(|vote| (vote, true));
    let dissenting = verdict.dissenting.iter().map(|vote| (vote, false));
    let mut successes = 0;
    for ((vote, agrees), outcome) in agreeing.chain(dissenting).zip(&file.outcomes) {
        let Vote { node, lease, .. } = *vote;
        let other = |what| ReceiptFault::OtherOutcome { lease, what };
        outcome.signed_by(&node.0).map_err(|source| ReceiptFault::OutcomeSigner { lease, source })?;
        if outcome.cid() != vote.outcome {
            return Err(other("is not the one that its vote names"));
        }
        if outcome.node != node || outcome.lease != lease {
            return Err(other("is of another node or lease"));
        }
        if outcome.cell != *cell || outcome.task() != task {
            return Err(other("is of another cell or task"));
        }
        let Ending::Result { record, success } = outcome.ending else {
            return Err(other("has no result and cannot vote"));
        };
        if (record == verdict.result) != agrees {
            return Err(other("is counted on the wrong side"));
        }
        successes += usize::from(agrees && success);
    }
    Ok(successes)
}

/// Checks that nobody is paid more than the price of the least that any of those who agreed reported. It may be less: the
/// manifest, which is not in the file, may allow less fuel.
fn check_price(file: &ReceiptFile, verdict: &Verdict) -> Result<(), ReceiptFault> {
    let usage = || file.outcomes.iter().take(verdict.agreeing.len()).map(|outcome| outcome.usage);
    let fuel = usage().map(|usage| usage.fuel).min().unwrap_or_default();
    let output = usage().map(|usage| usage.output.0).min().unwrap_or_default();
    let worth = price(&Work::wasm(fuel, output), &file.founding.charter).0;
    let awarded = verdict.agreeing.first().map_or(0, |vote| vote.awarded.0);
    if awarded > worth { Err(ReceiptFault::Overpaid { awarded, worth }) } else { Ok(()) }
}

/// Checks that the log that was seen before and the log of the receipt are beginnings of one another.
fn check_seen(seen: &Seen, cell: &CellId, checkpoint: &Checkpoint) -> Result<(), ReceiptFault> {
    if seen.checkpoint.origin != origin(cell) {
        return Err(ReceiptFault::SeenElsewhere { origin: seen.checkpoint.origin.clone() });
    }
    let (early, late) = if seen.checkpoint.size <= checkpoint.size {
        (&seen.checkpoint, checkpoint)
    } else {
        (checkpoint, &seen.checkpoint)
    };
    verify_consistency(early.size, late.size, &seen.consistency, &early.root, &late.root).map_err(|source| {
        ReceiptFault::Rewritten { tree_size: checkpoint.size, seen_size: seen.checkpoint.size, source }
    })
}

/// Checks that every signature line of a receipt's checkpoint is confirmed by the receipt: the cell's own, once, and
/// those of witnesses.
fn check_lines(note: &Note, signer: &str) -> Result<Vec<Cosignature>, ReceiptFault> {
    let (witnesses, others) = cosignatures(note, signer).map_err(ReceiptFault::Cosignature)?;
    let mut own = note.signatures().iter().filter(|line| line.name == signer);
    match others.first().copied().or_else(|| own.nth(1)) {
        Some(line) => Err(ReceiptFault::CheckpointSignatures { name: line.name.clone() }),
        None => Ok(witnesses),
    }
}

fn path_hashes(file: &ReceiptFile) -> Result<Vec<Hash>, ReceiptFault> {
    let hash = |(place, bytes): (usize, &serde_bytes::ByteBuf)| {
        bytes.as_slice().try_into().map_err(|_| ReceiptFault::PathHash { place, bytes: bytes.len() })
    };
    file.inclusion.path.iter().enumerate().map(hash).collect()
}

fn note_fault(error: NoteError) -> ReceiptFault {
    ReceiptFault::Checkpoint(CheckpointError::Note(error))
}
