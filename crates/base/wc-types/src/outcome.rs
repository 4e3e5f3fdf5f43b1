//! What one replica did: the result that is compared, and the node's signed word about it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cid::Cid;
use crate::id::{CellId, JobId, LeaseId, NodeId, TaskId};
use crate::manifest::BlobRef;
use crate::time::Timestamp;
use crate::unit::{Bytes, Fuel};

/// How a guest ended, in words that are the same on every machine that runs the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Exit {
    /// Exit status zero and every declared output present.
    Success,
    /// Another exit status.
    Code(i32),
    /// A WebAssembly trap, named as the engine names it.
    Trap(String),
    /// Used more work than the manifest allows.
    FuelExhausted,
    /// Asked for more memory than the manifest allows.
    MemoryExceeded,
    /// Wrote more, or other, than the manifest allows; the text names what.
    OutputRefused(String),
    /// The artifact is not a module that this engine runs.
    ModuleInvalid,
}

impl Exit {
    /// Returns whether the task succeeded.
    pub fn is_success(&self) -> bool {
        *self == Self::Success
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("success"),
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Trap(kind) => write!(f, "trap: {kind}"),
            Self::FuelExhausted => f.write_str("out of fuel: it did more work than the manifest allows"),
            Self::MemoryExceeded => f.write_str("out of memory: it asked for more than the manifest allows"),
            Self::OutputRefused(what) => write!(f, "output refused: {what}"),
            Self::ModuleInvalid => {
                f.write_str("module invalid: the artifact is not one that this engine runs")
            }
        }
    }
}

/// What a task produced. Its CID is what replicas are compared by, so it holds nothing that may differ between honest
/// machines: no times, no machine names, no standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultRecord {
    /// How the guest ended.
    pub exit: Exit,
    /// Standard output.
    pub stdout: BlobRef,
    /// Files under `/out`, by path.
    pub outputs: BTreeMap<String, BlobRef>,
}

/// What a replica used, as its sandbox measured it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Deterministic work.
    pub fuel: Fuel,
    /// CPU time, in microseconds.
    pub cpu_micros: u64,
    /// Time from start to end, in microseconds.
    pub wall_micros: u64,
    /// Largest memory of the guest.
    pub memory_peak: Bytes,
    /// Standard output and files together.
    pub output: Bytes,
}

/// Longest text of a [`Failure`], in bytes: it is journaled, and shown to the submitter.
pub const FAILURE_BYTES_MAX: usize = 512;

/// Why a replica has no result. These are failures of a machine, not of the guest, so the task is tried elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Failure {
    /// An input or the artifact could not be fetched; the text names it.
    InputMissing(String),
    /// The sandbox could not start or broke; the text says how.
    SandboxUnavailable(String),
    /// Ran longer than the manifest's wall clock on this machine.
    WallClockExceeded,
    /// The donor took the machine back.
    Preempted,
    /// The grant asks for what this machine does not consent to or cannot do.
    Refused(String),
}

impl Failure {
    /// Returns the text, if it has one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::InputMissing(text) | Self::SandboxUnavailable(text) | Self::Refused(text) => Some(text),
            Self::WallClockExceeded | Self::Preempted => None,
        }
    }

    /// Returns the failure with its text cut to [`FAILURE_BYTES_MAX`], between characters.
    pub fn cut(mut self) -> Self {
        if let Self::InputMissing(text) | Self::SandboxUnavailable(text) | Self::Refused(text) = &mut self {
            text.truncate(text.floor_char_boundary(FAILURE_BYTES_MAX));
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InputMissing(what) => write!(f, "an input is missing: {what}"),
            Self::SandboxUnavailable(what) => write!(f, "no sandbox: {what}"),
            Self::WallClockExceeded => f.write_str("ran longer than allowed"),
            Self::Preempted => f.write_str("its owner took the machine back"),
            Self::Refused(what) => write!(f, "refused: {what}"),
        }
    }
}

/// How a replica ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ending {
    /// It has a result.
    Result {
        /// CID of the [`ResultRecord`].
        record: Cid,
        /// Whether the record's exit is [`Exit::Success`], so that deciding needs no bytes.
        success: bool,
    },
    /// It has none.
    Failed(Failure),
}

/// One node's word about one replica. Only ever handled signed by that node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The cell that granted the lease.
    pub cell: CellId,
    /// The job.
    pub job: JobId,
    /// Stage of the task.
    pub stage: u16,
    /// Index of the task in its stage.
    pub index: u32,
    /// The lease it ran under.
    pub lease: LeaseId,
    /// The node that ran it; also the key that signs.
    pub node: NodeId,
    /// How it ended.
    pub ending: Ending,
    /// What it used.
    pub usage: Usage,
    /// Blinds the commitment that came before.
    #[serde(with = "serde_bytes")]
    pub salt: [u8; 16],
    /// When it ended, by the node's clock.
    pub ended_at: Timestamp,
}

impl Outcome {
    /// Returns the task this outcome is about.
    pub fn task(&self) -> TaskId {
        TaskId { job: self.job, stage: self.stage, index: self.index }
    }

    /// Returns the result's CID, if there is a result.
    pub fn result(&self) -> Option<&Cid> {
        match &self.ending {
            Ending::Result { record, .. } => Some(record),
            Ending::Failed(_) => None,
        }
    }
}

/// The promise that a node makes before it may learn what others found: SHA-256 of result CID, salt and node id. A
/// copied commitment opens for nobody but its author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Commitment(#[serde(with = "serde_bytes")] pub [u8; 32]);

impl Commitment {
    /// Commits `node` to `result`.
    pub fn new(result: &Cid, salt: &[u8; 16], node: &NodeId) -> Self {
        let mut hash = Sha256::new();
        hash.update(result.to_bytes());
        hash.update(salt);
        hash.update(node.0);
        Self(hash.finalize().into())
    }

    /// Returns whether `outcome` opens this commitment.
    pub fn opens(&self, outcome: &Outcome) -> bool {
        outcome.result().is_some_and(|result| *self == Self::new(result, &outcome.salt, &outcome.node))
    }
}
