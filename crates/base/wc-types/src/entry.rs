//! A leaf of the ledger: something that happened, and the credit it moved.

use serde::{Deserialize, Serialize};

use crate::cid::Cid;
use crate::id::{AccountId, CellId, JobId, NodeId};
use crate::time::Timestamp;
use crate::unit::{MicroNcu, PartsPerMillion};

/// Whose balance a posting changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// A person's account.
    Account(AccountId),
    /// Where credit comes from and where it goes when it fades: its balance is minus everything that is outstanding.
    /// The only one below zero.
    Issuance,
    /// What a submitter set aside for a job that has not ended.
    Reserve(JobId),
    /// What donors left behind for good (AGT-15).
    PublicGood,
}

/// A signed change of one balance, in micro-NCU. The postings of one entry sum to zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Posting {
    /// Whose balance.
    pub holder: Holder,
    /// Micro-NCU; positive is a gain.
    pub amount: i64,
}

/// What a node may do in its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Gets work.
    Good,
    /// Gets none: it disagreed with the majority too often (VER-07).
    Quarantined,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobEnd {
    /// Every task has an accepted result.
    Completed,
    /// A task failed for good.
    Failed,
    /// Its submitter cancelled it.
    Cancelled,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum EntryKind {
    /// The cell began; entry 0 and nothing else.
    CellFounded {
        /// CID of the founding record.
        founding: Cid,
    },
    /// A node joined, or joined again with other terms.
    NodeJoined {
        /// The node.
        node: NodeId,
        /// Its owner.
        owner: AccountId,
        /// CID of the enrolment record.
        enrolment: Cid,
    },
    /// A node's standing changed.
    NodeStanding {
        /// The node.
        node: NodeId,
        /// What it is now.
        standing: Standing,
    },
    /// Other machines sign the checkpoints from here on.
    SignersChanged {
        /// Number of the set.
        epoch: u64,
        /// CID of its [`SignerSet`](crate::signers::SignerSet).
        set: Cid,
    },
    /// The cell met an older one of its network, and is no island any more (NET-06). Each keeps its own log.
    CellMet {
        /// The older cell.
        parent: CellId,
        /// When that one was founded, by its founding record.
        founded_at: Timestamp,
    },
    /// A job was admitted; its reserve moved.
    JobAdmitted {
        /// The job.
        job: JobId,
        /// CID of its manifest.
        manifest: Cid,
    },
    /// A task's result was accepted; credit moved to those who agreed.
    TaskAccepted {
        /// The job.
        job: JobId,
        /// Stage of the task.
        stage: u16,
        /// Index of the task.
        index: u32,
        /// CID of the [`Verdict`](crate::receipt::Verdict).
        verdict: Cid,
    },
    /// A job ended; what was left of its reserve moved back.
    JobEnded {
        /// The job.
        job: JobId,
        /// How.
        end: JobEnd,
    },
    /// A day began, and what accounts hold above their floors faded (CRD-04). One day may take several entries.
    CreditDecayed {
        /// The day, counted from 1970-01-01 UTC.
        day: u32,
        /// How much faster than the charter's half-life; one is none (CRD-06).
        acceleration: PartsPerMillion,
        /// What each account had and could not fall below, in the order of the accounts' postings.
        accounts: Vec<Decay>,
    },
    /// A node was convicted: what it earned unchecked since its last agreed check is taken back from its owner.
    CreditReversed {
        /// The node.
        node: NodeId,
        /// Whom it earned for.
        owner: AccountId,
        /// When the first of that work was accepted.
        since: Timestamp,
        /// How many tasks.
        tasks: u64,
        /// What they earned.
        unverified: MicroNcu,
        /// What of it was no longer there to take.
        shortfall: MicroNcu,
    },
    /// A node said goodbye: its owner withdrew it.
    NodeLeft {
        /// The node.
        node: NodeId,
        /// Its owner.
        owner: AccountId,
        /// When the owner's credit expires, if no node of this owner is left.
        expires_at: Option<Timestamp>,
    },
    /// A withdrawn donor's credit went to the public good.
    CreditExpired {
        /// Whose.
        account: AccountId,
        /// When its last node left.
        withdrawn_at: Timestamp,
    },
}

/// What decay found in one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decay {
    /// The balance before.
    pub before: MicroNcu,
    /// What the account earned in the trailing 30 days; decay does not go below it (CRD-05).
    pub floor: MicroNcu,
}

/// One leaf. Canonical bytes are hashed into the log with the RFC 6962 leaf prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The cell whose log this is.
    pub cell: CellId,
    /// Position in the log, from 0.
    pub index: u64,
    /// CID of the entry before (LED-03); none for the first.
    pub previous: Option<Cid>,
    /// When the cell decided it.
    pub at: Timestamp,
    /// What happened.
    pub kind: EntryKind,
    /// Credit moved; sums to zero.
    pub postings: Vec<Posting>,
}
