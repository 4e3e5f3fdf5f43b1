//! What may happen to a cell: the closed list of everything that is ever journaled.

use serde::{Deserialize, Serialize};
use wc_types::charter::Founding;
use wc_types::directive::Directives;
use wc_types::manifest::Manifest;
use wc_types::node::{Enrolment, Path};
use wc_types::outcome::{Commitment, Outcome};
use wc_types::signers::Handover;
use wc_types::{AccountId, Bytes, JobId, LeaseId, NodeId, Timestamp, Witnessed};

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// Position in the journal, from 0.
    pub seq: u64,
    /// When it happened, by the coordinator's clock.
    pub at: Timestamp,
    /// Fresh randomness, for whatever the cell decides by lot.
    #[serde(with = "serde_bytes")]
    pub seed: [u8; 32],
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// The cell began. Fact 0, and only once.
    Founded(Witnessed<Founding>),
    /// A node joined, or joined again. Its wants start from zero; leases that it holds stay its own.
    NodeJoined(Witnessed<Enrolment>),
    /// A node's beats were missed or its connection stayed away: its leases are revoked.
    NodeOffline {
        /// The node.
        node: NodeId,
    },
    /// A node said goodbye.
    NodeLeft {
        /// The node.
        node: NodeId,
    },
    /// A node's owner paused or resumed it. What it runs goes on; it gets nothing new.
    NodePaused {
        /// The node.
        node: NodeId,
        /// Whether it is paused now.
        paused: bool,
    },
    /// A node's session takes another path than the last that was told, or its first one.
    NodeReached {
        /// The node.
        node: NodeId,
        /// The path.
        path: Path,
    },
    /// The signers handed over to others; both have signed.
    SignersChanged(Box<Handover>),
    /// The coordinator of another cell of this network showed itself; this is the record that founded that cell.
    CellMet(Witnessed<Founding>),
    /// The coordinator ordered a halt or a ban, or lifted one; this is everything that it orders from now on.
    Directed(Box<Witnessed<Directives>>),
    /// Somebody submitted a job.
    JobSubmitted(Witnessed<Manifest>),
    /// A job's artifacts and inputs are here and pinned.
    JobStaged {
        /// The job.
        job: JobId,
        /// For each stage the most bytes that one task reads from lists of inputs, whose sizes the manifest does not say;
        /// empty when no stage has one.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        listed: Vec<Bytes>,
    },
    /// A job's artifacts or inputs cannot be had.
    StagingFailed {
        /// The job.
        job: JobId,
        /// What is missing, in a sentence.
        reason: String,
    },
    /// Somebody wants a job to end.
    JobCancelled {
        /// The job.
        job: JobId,
        /// Who asks.
        by: AccountId,
    },
    /// A node asks for so many replicas more than it asked for before; grants use the number up.
    WorkWanted {
        /// The node.
        node: NodeId,
        /// How many more.
        replicas: u32,
    },
    /// A node bound itself to results.
    Committed {
        /// The node.
        node: NodeId,
        /// The leases and what it is bound to.
        items: Vec<(LeaseId, Commitment)>,
    },
    /// Nodes told how their replicas ended. Reports of several nodes may share a fact.
    Reported {
        /// Their words.
        outcomes: Vec<Witnessed<Outcome>>,
    },
    /// A node gave back leases that it had not started. Nobody is blamed. It gets nothing more until it next asks for
    /// work, joins again or resumes; then it may get the same tasks again.
    Returned {
        /// The node.
        node: NodeId,
        /// The leases.
        leases: Vec<LeaseId>,
    },
    /// A deadline of [`Cell::next_deadline`](crate::Cell::next_deadline) passed.
    Tick,
}
