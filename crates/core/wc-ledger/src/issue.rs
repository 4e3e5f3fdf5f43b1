//! Receipts: the cell's signed statement that a verdict is on the ledger, written only if the numbers agree.

use std::collections::{BTreeMap, BTreeSet};

use wc_types::entry::{Entry, EntryKind, Holder, Posting};
use wc_types::receipt::{Receipt, Verdict};
use wc_types::{CellId, Cid, Class, Code, LeaseId, Timestamp, record_cid};

use crate::book::net;

/// A verdict contradicts itself or its ledger entry. No receipt is written for it, and none is accepted (VER-11).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerdictFault {
    /// `required` is not a majority of `replicas`.
    #[error("{required} of {replicas} replicas is not a majority; {majority} would be")]
    RequiredWrong {
        /// What the verdict says.
        required: u8,
        /// Replicas that were asked for.
        replicas: u8,
        /// Their majority.
        majority: u8,
    },
    /// Fewer agreed than had to, or not more than dissented.
    #[error("{agreeing} agreed and {dissenting} did not, where {required} must agree")]
    TooFew {
        /// Votes for the result.
        agreeing: usize,
        /// Votes against it.
        dissenting: usize,
        /// Votes that it needs.
        required: u8,
    },
    /// A node or a lease votes twice, or votes are not in the order of their leases.
    #[error("vote under {lease}: {what}")]
    VoteRepeated {
        /// The lease of the vote.
        lease: LeaseId,
        /// What is repeated.
        what: &'static str,
    },
    /// A dissenting vote is paid (CRD-10).
    #[error("dissent under {lease} is paid")]
    DissentPaid {
        /// The lease of the vote.
        lease: LeaseId,
    },
    /// Those who agreed are not paid alike.
    #[error("{awarded} µNCU are awarded under {lease}, and {others} to others that agreed")]
    Uneven {
        /// The lease of the vote.
        lease: LeaseId,
        /// What it is awarded.
        awarded: u64,
        /// What another is.
        others: u64,
    },
    /// The verdict counts other owners than its votes name.
    #[error("verdict counts {claimed} owners among {actual} different ones that agreed")]
    SpreadWrong {
        /// What the verdict says.
        claimed: u8,
        /// What its votes say.
        actual: usize,
    },
    /// The submitter is charged more than the awards.
    #[error("charged {charged} µNCU for awards of {awarded}")]
    Overcharged {
        /// What the submitter is charged.
        charged: u64,
        /// Sum of the awards.
        awarded: u128,
    },
    /// An award does not fit a balance.
    #[error("awards of {awarded} µNCU do not fit a balance")]
    TooMuch {
        /// Sum of the awards.
        awarded: u128,
    },
    /// The entry is of another cell, another task or another verdict.
    #[error("ledger entry {index} does not record this verdict: {reason}")]
    OtherEntry {
        /// Index of the entry.
        index: u64,
        /// What is different.
        reason: &'static str,
    },
    /// The entry moves other credit than the verdict awards.
    #[error("ledger entry {index} does not post exactly what the verdict awards")]
    OtherPostings {
        /// Index of the entry.
        index: u64,
    },
}

impl VerdictFault {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::RequiredWrong { .. } => Code::new("WC-LEDGER-050", Class::Ours),
            Self::TooFew { .. } => Code::new("WC-LEDGER-051", Class::Ours),
            Self::VoteRepeated { .. } => Code::new("WC-LEDGER-052", Class::Ours),
            Self::DissentPaid { .. } => Code::new("WC-LEDGER-053", Class::Ours),
            Self::Uneven { .. } => Code::new("WC-LEDGER-059", Class::Ours),
            Self::SpreadWrong { .. } => Code::new("WC-LEDGER-054", Class::Ours),
            Self::Overcharged { .. } => Code::new("WC-LEDGER-055", Class::Ours),
            Self::TooMuch { .. } => Code::new("WC-LEDGER-058", Class::Ours),
            Self::OtherEntry { .. } => Code::new("WC-LEDGER-056", Class::Ours),
            Self::OtherPostings { .. } => Code::new("WC-LEDGER-057", Class::Ours),
        }
    }
}

/// What a receipt is made of.
#[derive(Clone, Debug)]
pub struct ReceiptParts<'a> {
    /// The cell.
    pub cell: CellId,
    /// CID of the job's manifest.
    pub manifest: Cid,
    /// The decision.
    pub verdict: Verdict,
    /// The ledger entry that records it.
    pub entry: &'a Entry,
    /// The moment of writing.
    pub issued_at: Timestamp,
}

/// Returns the receipt of a verdict, ready to be signed.
///
/// # Errors
/// [`VerdictFault`] if the verdict has no majority, if its entry does not name it, or if the postings are not exactly
/// its awards.
///
/// # Source
/// VER-11: charged = Σ awarded + fee, with no fee in this version; a discrepancy is refused before signing.
pub fn issue(parts: ReceiptParts<'_>) -> Result<Receipt, VerdictFault> {
    let ReceiptParts { cell, manifest, verdict, entry, issued_at } = parts;
    check_verdict(&verdict)?;
    check_entry(&cell, &verdict, entry)?;
    Ok(Receipt { cell, manifest, verdict, entry: record_cid(entry), issued_at })
}

/// Returns the postings that pay a verdict: each award to the owner of the machine, the charge out of the job's reserve
/// and the rest out of the issuance. Awards of one owner are one posting.
///
/// # Errors
/// [`VerdictFault::Overcharged`], or [`VerdictFault::TooMuch`] if an amount exceeds 63 bits.
pub fn award_postings(verdict: &Verdict) -> Result<Vec<Posting>, VerdictFault> {
    let posting = |(holder, change)| match i64::try_from(change) {
        Ok(amount) => Ok(Posting { holder, amount }),
        Err(_) => Err(VerdictFault::TooMuch { awarded: awarded(verdict) }),
    };
    award_changes(verdict)?.into_iter().map(posting).collect()
}

/// Returns the change of each holder that a verdict awards, in order of holders.
fn award_changes(verdict: &Verdict) -> Result<Vec<(Holder, i128)>, VerdictFault> {
    let mut changes: BTreeMap<Holder, i128> = BTreeMap::new();
    for vote in &verdict.agreeing {
        *changes.entry(Holder::Account(vote.owner)).or_default() += i128::from(vote.awarded.0);
    }
    let charged = verdict.charged.0;
    let awarded = awarded(verdict);
    if u128::from(charged) > awarded {
        return Err(VerdictFault::Overcharged { charged, awarded });
    }
    changes.insert(Holder::Reserve(verdict.job), -i128::from(charged));
    // At most 2^64 votes of 2^64 each; in truth at most a few hundred.
    changes.insert(Holder::Issuance, i128::from(charged) - i128::try_from(awarded).unwrap_or(i128::MAX));
    changes.retain(|_, change| *change != 0);
    Ok(changes.into_iter().collect())
}

/// Returns the sum of the awards.
pub(crate) fn awarded(verdict: &Verdict) -> u128 {
    verdict.agreeing.iter().map(|vote| u128::from(vote.awarded.0)).sum()
}

/// Checks that a verdict is one: a majority of different nodes, each counted once, dissent unpaid, agreement paid alike.
pub(crate) fn check_verdict(verdict: &Verdict) -> Result<(), VerdictFault> {
    let Verdict { replicas, required, .. } = *verdict;
    // More than half (VER-01), as the cell's own quorum counts it.
    let majority = replicas / 2 + 1;
    if required != majority {
        return Err(VerdictFault::RequiredWrong { required, replicas, majority });
    }
    let (agreeing, dissenting) = (verdict.agreeing.len(), verdict.dissenting.len());
    if agreeing < usize::from(required) || agreeing <= dissenting {
        return Err(VerdictFault::TooFew { agreeing, dissenting, required });
    }
    let (mut nodes, mut leases) = (BTreeSet::new(), BTreeSet::new());
    for vote in verdict.agreeing.iter().chain(&verdict.dissenting) {
        let repeated = |what| VerdictFault::VoteRepeated { lease: vote.lease, what };
        if !nodes.insert(vote.node) {
            return Err(repeated("its node votes twice"));
        }
        if !leases.insert(vote.lease) {
            return Err(repeated("its lease votes twice"));
        }
    }
    for side in [&verdict.agreeing, &verdict.dissenting] {
        if let Some(pair) = side.windows(2).find(|pair| pair[0].lease > pair[1].lease) {
            return Err(VerdictFault::VoteRepeated {
                lease: pair[1].lease,
                what: "votes are not in order of leases",
            });
        }
    }
    if let Some(vote) = verdict.dissenting.iter().find(|vote| vote.awarded.0 != 0) {
        return Err(VerdictFault::DissentPaid { lease: vote.lease });
    }
    let others = verdict.agreeing.first().map_or(0, |vote| vote.awarded.0);
    if let Some(vote) = verdict.agreeing.iter().find(|vote| vote.awarded.0 != others) {
        return Err(VerdictFault::Uneven { lease: vote.lease, awarded: vote.awarded.0, others });
    }
    let owners = verdict.agreeing.iter().map(|vote| vote.owner).collect::<BTreeSet<_>>().len();
    if usize::from(verdict.spread.owners) != owners {
        return Err(VerdictFault::SpreadWrong { claimed: verdict.spread.owners, actual: owners });
    }
    award_changes(verdict).map(drop)
}

/// Checks that `entry` records `verdict` and pays exactly what it awards.
pub(crate) fn check_entry(cell: &CellId, verdict: &Verdict, entry: &Entry) -> Result<(), VerdictFault> {
    let other = |reason| VerdictFault::OtherEntry { index: entry.index, reason };
    if entry.cell != *cell {
        return Err(other("it is of another cell"));
    }
    let EntryKind::TaskAccepted { job, stage, index, verdict: named } = &entry.kind else {
        return Err(other("it does not accept a task"));
    };
    if (*job, *stage, *index) != (verdict.job, verdict.stage, verdict.index) {
        return Err(other("it accepts another task"));
    }
    if *named != record_cid(verdict) {
        return Err(other("it names another verdict"));
    }
    if net(&entry.postings) == award_changes(verdict)? {
        Ok(())
    } else {
        Err(VerdictFault::OtherPostings { index: entry.index })
    }
}
