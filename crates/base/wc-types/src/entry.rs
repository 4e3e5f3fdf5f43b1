//! A leaf of the ledger: something that happened, and the credit it moved.

use serde::{Deserialize, Serialize};

use crate::cid::Cid;
use crate::id::{AccountId, CellId, JobId, NodeId};
use crate::time::Timestamp;

/// Whose balance a posting changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// A person's account.
    Account(AccountId),
    /// Where credit comes from: its balance is minus everything that was ever issued. The only one below zero.
    Issuance,
    /// What a submitter set aside for a job that has not ended.
    Reserve(JobId),
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
