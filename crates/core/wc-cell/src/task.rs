//! One task between its first lease and its end.
//!
//! ```text
//! (pending: a number in its stage's range) ──first lease──► live ──majority──► accepted ──last lease ends──► gone
//!                                                            │ ▲
//!                                                            └─┘ a replica ends without a result, or no majority:
//!                                                                open again, until its retries are used up
//! ```
//! Only live tasks are objects. Before, a task is a number; after, it is thirty-two bytes in its stage's results.

use serde::{Deserialize, Serialize};
use wc_quorum::{Ballot, required};
use wc_scheduler::Lease;
use wc_types::cid::{CODEC_RAW, cid_digest, cid_from_digest};
use wc_types::{AccountId, Bytes, Cid, Fuel, LeaseId, NodeId, Sealed, Timestamp};

use crate::node::NodeNo;

/// Machines that may go away under one task before it fails: a task that takes machines down must not visit them all.
pub(crate) const LOSSES_MAX: u16 = 32;

/// A result that a node revealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// CID of the result record.
    pub(crate) record: Cid,
    pub(crate) success: bool,
    pub(crate) fuel: Fuel,
    pub(crate) output: Bytes,
    /// CID of the signed outcome.
    pub(crate) outcome: Cid,
    pub(crate) sealed: Sealed,
}

impl Report {
    /// Returns what this result is compared by: the record's CID, and under another codec for an unsuccessful one, so
    /// that nodes which agree on the bytes but not on how the guest ended do not agree.
    pub(crate) fn ballot(&self) -> Cid {
        match cid_digest(&self.record) {
            Some(digest) if !self.success => cid_from_digest(CODEC_RAW, digest),
            Some(_) | None => self.record,
        }
    }
}

/// One run of a task on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replica {
    pub(crate) lease: Lease,
    pub(crate) node: NodeNo,
    /// Who owned the node when the lease was granted, and is paid.
    pub(crate) owner: AccountId,
    pub(crate) report: Option<Box<Report>>,
}

/// Whether a node that failed a task may try it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bar {
    /// It may.
    Open,
    /// Only when there are too few others.
    Last,
    /// Never.
    Never,
}

/// Why a replica had no part in a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) node: NodeNo,
    pub(crate) bar: Bar,
    pub(crate) reason: String,
}

/// Where a task that wants another replica waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Opening {
    /// Among tasks that are tried again.
    Retry(u64),
    /// Among tasks that still lack some of their first replicas.
    Fresh(u64),
}

/// A live task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) replicas: Vec<Replica>,
    pub(crate) faults: Vec<Fault>,
    /// Attempts that count against the manifest's `retries_max`.
    pub(crate) failures: u8,
    /// Replicas whose machine went away.
    pub(crate) losses: u16,
    pub(crate) opening: Option<Opening>,
    /// Whether replicas that commit are asked to reveal at once.
    pub(crate) revealing: bool,
    pub(crate) reveal_due: Option<Timestamp>,
    /// Whether it has an accepted result and only waits for late replicas.
    pub(crate) accepted: bool,
}

impl Task {
    /// Returns how many replicas are bound to a result, revealed or not.
    pub(crate) fn bound(&self) -> usize {
        self.replicas.iter().filter(|replica| !matches!(replica.lease, Lease::Granted { .. })).count()
    }

    /// Returns whether a replica that may still commit is running.
    pub(crate) fn has_unbound(&self) -> bool {
        self.replicas.iter().any(|replica| matches!(replica.lease, Lease::Granted { .. }))
    }

    /// Returns whether enough replicas are bound that revealing can decide.
    pub(crate) fn has_bound_majority(&self, replicas: u8) -> bool {
        self.bound() >= usize::from(required(replicas))
    }

    pub(crate) fn replica(&self, lease: LeaseId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.lease.id() == lease)
    }

    pub(crate) fn replica_mut(&mut self, lease: LeaseId) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|replica| replica.lease.id() == lease)
    }

    /// Returns the ballots that were cast.
    pub(crate) fn ballots(&self, node: impl Fn(NodeNo) -> NodeId) -> Vec<Ballot> {
        let cast = self.replicas.iter().filter_map(|replica| {
            let report = replica.report.as_ref()?;
            Some(Ballot { lease: replica.lease.id(), node: node(replica.node), result: report.ballot() })
        });
        cast.collect()
    }
}
