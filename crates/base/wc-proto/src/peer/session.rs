//! A donor's session with its coordinator: one long-lived stream, messages both ways, in batches.
//!
//! ```text
//! agent                               coordinator
//!   Enrol ────────────────────────────►
//!   ◄──────────────────────────── Welcome | Refused
//!   Want ─────────────────────────────►            room for that many more leases
//!   ◄──────────────────────────── Grant
//!   Commit ───────────────────────────►            only if the grant says so
//!   ◄──────────────────────────── AskReveal
//!   Report ───────────────────────────►
//!   ◄──────────────────────────── Settled          durable; the agent may forget
//! ```

use serde::{Deserialize, Serialize};
use wc_types::charter::Founding;
use wc_types::directive::Directives;
use wc_types::grant::Grant;
use wc_types::manifest::Manifest;
use wc_types::node::Enrolment;
use wc_types::outcome::{Commitment, Outcome};
use wc_types::{Cid, LeaseId, Refusal, Signed};

/// From a donor's agent to its coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentMessage {
    /// The first message, and again when consent or capabilities change.
    Enrol {
        /// The node's signed terms.
        enrolment: Box<Signed<Enrolment>>,
        /// Leases it still holds from before the connection broke.
        held: Vec<LeaseId>,
    },
    /// There is room for this many more leases.
    Want {
        /// Leases.
        replicas: u32,
    },
    /// Commitments to results that are ready.
    Commit {
        /// Lease and commitment.
        items: Vec<(LeaseId, Commitment)>,
    },
    /// Results, revealed.
    Report {
        /// At most [`crate::limit::REPORTS_MAX`].
        reports: Vec<Report>,
    },
    /// Leases given back unstarted.
    Return {
        /// Leases.
        leases: Vec<LeaseId>,
    },
    /// Alive. Sent every `beat`, whatever else is sent.
    Beat {
        /// Leases it holds.
        held: Vec<LeaseId>,
        /// Load of the machine in parts per million, the largest of processor and memory (AGT-18).
        load_ppm: u32,
    },
    /// The donor paused or resumed.
    Paused {
        /// Whether it is paused now.
        paused: bool,
    },
    /// Whether somebody opens the TLS on the agent's way to the coordinator, with its owner's permission (NET-22): only
    /// whoever dialled sees the certificate. Sent when it is so, and whenever it changes.
    Inspected {
        /// Whether it is.
        inspected: bool,
    },
    /// The donor withdraws; nothing more will come.
    Leave,
}

/// One replica's outcome with what the coordinator needs to keep of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The node's signed word.
    pub outcome: Signed<Outcome>,
    /// Result record, standard output and files when they are together at most [`crate::limit::INLINE_BYTES_MAX`];
    /// empty otherwise, and the coordinator fetches them.
    pub blobs: Vec<InlineBlob>,
    /// Tail of standard error, for the submitter's logs; at most [`crate::limit::STDERR_BYTES_MAX`].
    #[serde(with = "serde_bytes")]
    pub stderr: Vec<u8>,
}

/// A small blob inside a message. Checked against its CID before it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlineBlob {
    /// Content id.
    pub cid: Cid,
    /// Content.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// From the coordinator to a donor's agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoordinatorMessage {
    /// The enrolment is durable; work may follow.
    Welcome {
        /// The cell's founding record, which carries its charter.
        founding: Box<Signed<Founding>>,
    },
    /// The enrolment, or a message, was refused; the session ends.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// What the coordinator orders the whole cell. Sent after the welcome, if it ever ordered anything, and with each order,
    /// beside the gossip that reaches everybody else.
    Directed {
        /// Everything that stands.
        directives: Box<Signed<Directives>>,
    },
    /// Replicas to run.
    Grant {
        /// The signed grant.
        grant: Box<Signed<Grant>>,
        /// The job's manifest, the first time this session sees the job.
        manifest: Option<Box<Signed<Manifest>>>,
    },
    /// The other replicas have committed: report now.
    AskReveal {
        /// Leases.
        leases: Vec<LeaseId>,
    },
    /// Stop these; a report would be superseded.
    Revoke {
        /// Leases.
        leases: Vec<LeaseId>,
    },
    /// Reports that are durable.
    Settled {
        /// Leases.
        leases: Vec<LeaseId>,
    },
}
