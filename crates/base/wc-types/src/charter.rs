//! The governed numbers of a cell, and the record that founds it.

use serde::{Deserialize, Serialize};

use crate::cid::{Cid, cid_digest};
use crate::id::{AccountId, CellId, NodeId};
use crate::sign::Signed;
use crate::time::Timestamp;
use crate::unit::{Millis, PartsPerMillion};

/// Every number that a cell is governed by. Part of the founding record, so it is signed and replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Charter {
    /// The owner declares the cell's nodes trusted: T0 nodes may then run fewer than five replicas (VER-01).
    pub nodes_trusted: bool,
    /// Least replicas of a task that runs on T0 nodes which nobody declared trusted.
    pub t0_replicas_min: u8,
    /// How long a lease lives without a heartbeat (SCH-12).
    pub lease_ttl: Millis,
    /// Time between liveness beats of a node; two missed beats revoke its leases (E-22, E-67).
    pub beat: Millis,
    /// How long a node whose connection broke may take to come back before its leases are revoked.
    pub reconnect_grace: Millis,
    /// How long a majority that has committed waits for the slower replicas before it reveals.
    pub reveal_grace: Millis,
    /// Longest wall clock that a manifest may ask for.
    pub wall_clock_max: Millis,
    /// Most jobs of one submitter that may be unfinished at once.
    pub jobs_open_max: u32,
    /// Most tasks of one submitter that may be unfinished at once.
    pub tasks_open_max: u64,
    /// Units of fuel that earn one micro-NCU.
    pub fuel_per_micro_ncu: u64,
    /// A job older than this enters the ageing lane (E-18).
    pub ageing_after: Millis,
    /// Share of grants that the ageing lane gets while it has work.
    pub ageing_share: PartsPerMillion,
    /// Weights of the composite priority (SCH-20), in the order ncu, vote, size, age, cool.
    pub priority_weights: [PartsPerMillion; 5],
    /// The rules of credit beyond its price. A cell that was founded before there were any has none, and keeps the
    /// books that it was founded with: nothing decays, is reversed or expires there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub economy: Option<Economy>,
    /// How long the results, verdicts and logs of a job are kept after its end (DAT-10). What the ledger says stays. Not
    /// written when it is the default, so that cells that were founded without it keep their id.
    #[serde(default = "retention_default", skip_serializing_if = "is_retention_default")]
    pub retention: Millis,
}

/// Seven days: a submitter may be away for a week.
fn retention_default() -> Millis {
    Millis(7 * 24 * 3_600_000)
}

fn is_retention_default(retention: &Millis) -> bool {
    *retention == retention_default()
}

impl Default for Charter {
    fn default() -> Self {
        Self {
            nodes_trusted: false,
            t0_replicas_min: 5,
            lease_ttl: Millis(300_000),
            beat: Millis(5_000),
            reconnect_grace: Millis(3_000),
            reveal_grace: Millis(10_000),
            wall_clock_max: Millis(24 * 3_600_000),
            jobs_open_max: 10_000,
            tasks_open_max: 20_000_000,
            // One NCU is one TFLOP/s for one second (CRD-01). A unit of fuel is about one WebAssembly operation, so
            // 10^12 units are one NCU and 10^6 units one micro-NCU.
            fuel_per_micro_ncu: 1_000_000,
            ageing_after: Millis(7 * 3_600_000),
            ageing_share: PartsPerMillion(200_000),
            priority_weights: [
                PartsPerMillion(350_000),
                PartsPerMillion(250_000),
                PartsPerMillion(150_000),
                PartsPerMillion(150_000),
                PartsPerMillion(100_000),
            ],
            economy: Some(Economy::default()),
            retention: retention_default(),
        }
    }
}

/// How credit is earned, fades and ends. Every number is governed; `docs/credits.md` says what each does to a donor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Economy {
    /// Days in which credit above the floor halves (CRD-04).
    pub half_life_days: u16,
    /// How much faster credit fades with each day on which more than `outstanding_max` is outstanding (CRD-06, E-57).
    pub acceleration_step: PartsPerMillion,
    /// The most that acceleration adds up to; one is none.
    pub acceleration_max: PartsPerMillion,
    /// Share of the trailing 30 days' redemption above which decay begins to accelerate (CRD-06: 110 %).
    pub outstanding_max: PartsPerMillion,
    /// Share of the trailing 30 days' redemption below which it slows down again (CRD-06: 100 %).
    pub outstanding_min: PartsPerMillion,
    /// Share of what is outstanding that must have been redeemed in 30 days for the cell to count as one in which
    /// people spend. Below it decay does not accelerate: there is no demand that could be outbid.
    pub redemption_min: PartsPerMillion,
    /// Days after a donor's last machine has left until its credit goes to the public good (AGT-15).
    pub expiry_days: u16,
    /// Most fuel that a second of a core's time counts as, whatever a benchmark says.
    pub fuel_per_cpu_second_max: u64,
    /// Micro-NCU for a GiB·s of memory that was held; 0 is not priced.
    pub memory_gib_second: u64,
    /// Micro-NCU for a GiB·s of storage that was held; 0 is not priced.
    pub storage_gib_second: u64,
    /// Micro-NCU for a GiB of results that was produced for others to fetch; 0 is not priced.
    pub network_gib: u64,
    /// Part of the charge that comes back for each class of hardware that a redeeming donor goes below its own (CRD-08).
    pub downgrade_refund: PartsPerMillion,
}

impl Default for Economy {
    fn default() -> Self {
        Self {
            half_life_days: 45,
            acceleration_step: PartsPerMillion(100_000),
            // Ten days of the default step: half-life 22.5 days. Without a bound, a cell that stays above the limit
            // for a month would wipe out everything above the floor overnight.
            acceleration_max: PartsPerMillion(2_000_000),
            outstanding_max: PartsPerMillion(1_100_000),
            outstanding_min: PartsPerMillion(1_000_000),
            redemption_min: PartsPerMillion(10_000),
            expiry_days: 180,
            // What a fast core burns in WebAssembly: the ceiling of what a slower guest format may claim for it.
            fuel_per_cpu_second_max: 5_000_000_000,
            // Nobody but the node itself measures how long memory and storage were held, so they have no price yet.
            memory_gib_second: 0,
            storage_gib_second: 0,
            network_gib: 0,
            downgrade_refund: PartsPerMillion(300_000),
        }
    }
}

/// The record that founds a cell. Signed by its first coordinator; its digest is the cell's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founding {
    /// Name of the network that the cell belongs to; nodes of other networks are ignored.
    pub network: String,
    /// The first coordinator; signs this record, grants and receipts.
    pub coordinator: NodeId,
    /// Who runs it.
    pub owner: AccountId,
    /// The numbers in force.
    pub charter: Charter,
    /// When it was founded.
    pub founded_at: Timestamp,
}

/// Returns the id of the cell that a founding record founds.
pub fn cell_id(founding: &Signed<Founding>) -> CellId {
    cell_id_of(&founding.cid())
}

/// Returns the id of the cell whose founding record has this CID.
pub fn cell_id_of(founding: &Cid) -> CellId {
    CellId(cid_digest(founding).expect("records are hashed with SHA-256"))
}
