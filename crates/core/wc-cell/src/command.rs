//! What the cell wants done in the world. Performing one twice is harmless.

use wc_types::entry::{Entry, JobEnd};
use wc_types::grant::Grant;
use wc_types::receipt::Verdict;
use wc_types::{Cid, JobId, LeaseId, NodeId, Refusal, Sealed};

/// Something to do, caused by the fact that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Answer whoever submitted or cancelled by this fact.
    Answer {
        /// Why not; empty when it was done.
        refusals: Vec<Refusal>,
        /// The job it is about, when there is one. A duplicate names the job that exists.
        job: Option<JobId>,
    },
    /// Make artifacts and inputs local and pinned, then say `JobStaged` or `StagingFailed`.
    Stage {
        /// The job.
        job: JobId,
    },
    /// Sign and send.
    Grant(Grant),
    /// Ask a node to reveal what it committed to.
    AskReveal {
        /// The node.
        node: NodeId,
        /// Its leases.
        leases: Vec<LeaseId>,
    },
    /// Tell a node that it need not go on.
    Revoke {
        /// The node.
        node: NodeId,
        /// Its leases.
        leases: Vec<LeaseId>,
    },
    /// Tell a node that its reports under these leases are durable and done with, however they were judged.
    Settled {
        /// The node.
        node: NodeId,
        /// Its leases.
        leases: Vec<LeaseId>,
    },
    /// Store and pin a canonical record for a job.
    Keep {
        /// The job.
        job: JobId,
        /// Canonical bytes of the record.
        record: Vec<u8>,
    },
    /// Append to the ledger, in order.
    Publish {
        /// The entries.
        entries: Vec<Entry>,
    },
    /// Let go of the results, verdicts and logs of a job: the time for which they are kept is over.
    Forget {
        /// The job.
        job: JobId,
        /// Records that were kept for it.
        records: Vec<Cid>,
    },
    /// Keep what a receipt is made of.
    Decide {
        /// The decision.
        verdict: Verdict,
        /// Index of its ledger entry.
        entry: u64,
        /// The signed outcome of each vote, agreeing first, in the verdict's order.
        outcomes: Vec<Sealed>,
    },
    /// A job ended.
    JobEnded {
        /// The job.
        job: JobId,
        /// How.
        end: JobEnd,
        /// Why, when it was not completed.
        reason: Option<String>,
    },
}
