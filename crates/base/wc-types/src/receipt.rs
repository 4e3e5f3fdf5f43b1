//! What the cell decided about one task, and the file that lets anybody check it without a network.

use serde::{Deserialize, Serialize};

use crate::charter::Founding;
use crate::cid::Cid;
use crate::entry::Entry;
use crate::id::{AccountId, CellId, JobId, LeaseId, NodeId};
use crate::outcome::Outcome;
use crate::sign::Signed;
use crate::signers::Handover;
use crate::time::Timestamp;
use crate::unit::MicroNcu;

/// One replica's part in a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// Who ran it.
    pub node: NodeId,
    /// Who owns that machine and is paid.
    pub owner: AccountId,
    /// The lease it ran under.
    pub lease: LeaseId,
    /// CID of the signed outcome.
    pub outcome: Cid,
    /// Credit awarded; zero for dissent (CRD-10).
    pub awarded: MicroNcu,
}

/// How different the machines that agreed are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Different owners among those who agreed.
    pub owners: u8,
    /// Different /24 networks among those who agreed; unknown networks count as one.
    pub networks: u8,
    /// Different autonomous systems among those who agreed; unknown ones count as one.
    pub systems: u8,
}

/// The cell's decision about one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The job.
    pub job: JobId,
    /// Stage of the task.
    pub stage: u16,
    /// Index of the task in its stage.
    pub index: u32,
    /// CID of the accepted [`ResultRecord`](crate::outcome::ResultRecord).
    pub result: Cid,
    /// Replicas that the manifest asked for.
    pub replicas: u8,
    /// Replicas that had to agree: a majority of `replicas`.
    pub required: u8,
    /// Who agreed, in order of their leases.
    pub agreeing: Vec<Vote>,
    /// Who did not.
    pub dissenting: Vec<Vote>,
    /// How different those who agreed are.
    pub spread: Spread,
    /// What the submitter was charged; the sum of the awards less what the issuance paid.
    pub charged: MicroNcu,
}

/// The coordinator's signed statement that a verdict is on the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The cell.
    pub cell: CellId,
    /// CID of the job's manifest.
    pub manifest: Cid,
    /// The decision.
    pub verdict: Verdict,
    /// CID of the ledger entry.
    pub entry: Cid,
    /// When the receipt was written.
    pub issued_at: Timestamp,
}

/// Where an entry stands in the log of a signed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inclusion {
    /// Number of leaves under the checkpoint.
    pub tree_size: u64,
    /// Hashes from the leaf's sibling to the root (RFC 6962 §2.1.1), each 32 bytes.
    pub path: Vec<serde_bytes::ByteBuf>,
    /// The checkpoint: a C2SP signed note.
    pub checkpoint: String,
}

/// A receipt file: everything that a stranger needs to check one result offline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptFile {
    /// The cell's founding record, which names the key that signs its receipts.
    pub founding: Signed<Founding>,
    /// Hand-overs from the founding key to the key that signed the checkpoint, at most
    /// [`HANDOVERS_MAX`](crate::signers::HANDOVERS_MAX); none while the founding coordinator signs alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signers: Vec<Handover>,
    /// The receipt.
    pub receipt: Signed<Receipt>,
    /// The signed outcome of each vote, agreeing first, in the verdict's order.
    pub outcomes: Vec<Signed<Outcome>>,
    /// The ledger entry.
    pub entry: Entry,
    /// Its place in the log.
    pub inclusion: Inclusion,
}
