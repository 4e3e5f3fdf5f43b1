//! The coordinator's signed permission for one node to run some replicas.

use serde::{Deserialize, Serialize};

use crate::cid::Cid;
use crate::id::{CellId, JobId, LeaseId, NodeId};
use crate::time::Timestamp;
use crate::unit::Millis;

/// Most leases in one grant: what a node can hold ready for its slots without starving others.
pub const LEASES_MAX: usize = 256;
/// Most leases that one node may hold or have asked for; what it asks for beyond is forgotten. Bounds what a greedy node
/// takes away from others, and what a lost one costs.
pub const NODE_LEASES_MAX: u32 = 4096;

/// A numbered permission to run replicas of one stage on one node.
///
/// One grant carries many leases of the same stage, so that an array of small tasks costs one signature per batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The cell that grants.
    pub cell: CellId,
    /// The job.
    pub job: JobId,
    /// The job's manifest, which says what to run.
    pub manifest: Cid,
    /// Index of the stage in the manifest.
    pub stage: u16,
    /// The node that may run them; nobody else.
    pub node: NodeId,
    /// The replicas.
    pub leases: Vec<LeaseTerm>,
    /// Whether a commitment precedes the report: true when other nodes run the same tasks.
    pub commit_first: bool,
    /// For each earlier stage that this one reads, the record that lists its results.
    pub gathers: Vec<Gather>,
    /// When it was granted.
    pub issued_at: Timestamp,
    /// How long each lease lives without a heartbeat from its node.
    pub ttl: Millis,
}

/// One replica inside a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseTerm {
    /// Number of the lease; also the fence against late reports.
    pub lease: LeaseId,
    /// Index of the task in its stage.
    pub index: u32,
}

/// Where the results of an earlier stage are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gather {
    /// The earlier stage.
    pub stage: u16,
    /// CID of its [`GatherList`].
    pub list: Cid,
}

/// The accepted results of a whole stage, in task order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatherList {
    /// CID of each task's [`ResultRecord`](crate::outcome::ResultRecord).
    pub results: Vec<Cid>,
}
