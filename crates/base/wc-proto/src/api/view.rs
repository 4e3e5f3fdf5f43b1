//! What people and their programs see. Stable names: `--json` prints these.

use serde::{Deserialize, Serialize};
use wc_types::directive::{Ban, Halt};
use wc_types::manifest::WorkClass;
use wc_types::node::{CaliberClass, Path, Reach};
use wc_types::{AccountId, CellId, Cid, JobId, LeaseId, NodeId, Timestamp};

/// Phase of a job as clients see it (WFL-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Its blobs are being fetched and checked.
    Staging,
    /// Waits for a node.
    Queued,
    /// Granted; no replica has said anything yet.
    Leased,
    /// Replicas run.
    Running,
    /// Results are in and being compared.
    Verifying,
    /// Every task has an accepted result.
    Verified,
    /// A task failed for good.
    Failed,
    /// Its submitter cancelled it.
    Cancelled,
}

impl Phase {
    /// Returns whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Verified | Self::Failed | Self::Cancelled)
    }
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// The job.
    pub job: JobId,
    /// Its name.
    pub name: String,
    /// CID of its manifest.
    pub manifest: Cid,
    /// Whose it is.
    pub submitter: AccountId,
    /// Where it stands.
    pub phase: Phase,
    /// Grows with every change.
    pub revision: u64,
    /// Its stages.
    pub stages: Vec<StageView>,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it failed.
    pub reason: Option<String>,
    /// Micro-NCU charged to the submitter.
    pub charged: u64,
    /// Micro-NCU awarded to donors.
    pub awarded: u64,
}

/// One stage of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageView {
    /// Its name.
    pub name: String,
    /// Replicas of each task.
    pub replicas: u8,
    /// All its tasks.
    pub tasks: u32,
    /// Not yet granted to anybody.
    pub pending: u32,
    /// Granted, not decided.
    pub active: u32,
    /// Accepted.
    pub accepted: u32,
    /// Failed for good.
    pub failed: u32,
    /// Live leases.
    pub leases: u32,
}

/// Why a job is not further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    /// The job.
    pub job: JobView,
    /// One sentence each, most important first.
    pub reasons: Vec<String>,
    /// What each node lacks for the first waiting task.
    pub nodes: Vec<NodeReason>,
}

/// Why one node does not run the first waiting task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReason {
    /// The node.
    pub node: NodeId,
    /// One sentence.
    pub reason: String,
    /// How its session reaches the coordinator, as far as that is known.
    #[serde(default)]
    pub path: Option<Path>,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// Stage.
    pub stage: u16,
    /// Index.
    pub index: u32,
    /// `pending`, `active`, `accepted` or `failed`.
    pub state: String,
    /// Its live replicas.
    pub replicas: Vec<ReplicaView>,
    /// CID of the accepted result.
    pub result: Option<Cid>,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// Its lease.
    pub lease: LeaseId,
    /// Where.
    pub node: NodeId,
    /// `granted`, `committed`, `reported`.
    pub state: String,
}

/// What one replica left for the submitter to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogView {
    /// Position in the job's log.
    pub position: u64,
    /// When it was received.
    pub at: Timestamp,
    /// Stage.
    pub stage: u16,
    /// Index.
    pub index: u32,
    /// Where it ran.
    pub node: NodeId,
    /// How it ended, in words.
    pub ending: String,
    /// Tail of standard error.
    pub stderr: String,
}

/// The cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cell.
    pub cell: CellId,
    /// Its name for people, such as `wc-lan-1f2e3d4c`.
    #[serde(default)]
    pub name: String,
    /// Name of the network.
    pub network: String,
    /// Who coordinates.
    pub coordinator: NodeId,
    /// Whether the owner declares the nodes trusted.
    pub nodes_trusted: bool,
    /// Nodes that have joined.
    pub nodes: u32,
    /// Nodes that are connected.
    pub online: u32,
    /// Guests that can run at the same time.
    pub slots: u32,
    /// Jobs that have not ended.
    pub jobs_open: u32,
    /// Jobs that have.
    pub jobs_ended: u32,
    /// Entries on the ledger.
    pub ledger_size: u64,
    /// Root of the ledger, in hexadecimal.
    pub ledger_root: String,
    /// Facts in the journal.
    pub facts: u64,
    /// How often the journal was made durable since the coordinator started; one commit may cover many facts.
    pub commits: u64,
    /// SHA-256 of the cell's state, in hexadecimal.
    pub state_hash: String,
    /// Entries under the newest published checkpoint.
    pub published_size: u64,
    /// Witnesses that cosigned it.
    pub witnesses: Vec<NodeId>,
    /// What is wrong with the published log, in sentences.
    pub log_alarms: Vec<String>,
    /// When it was founded.
    pub founded_at: Timestamp,
    /// How its anchoring stands, if it anchors.
    #[serde(default)]
    pub anchoring: Option<AnchoringView>,
    /// Who signs its checkpoints.
    pub signers: SignersView,
    /// `island`, or `merged (global)` once it has met another cell of its network (NET-06).
    #[serde(default)]
    pub dht: String,
    /// The oldest cell that it has met, if that one is older than it (NET-07).
    #[serde(default)]
    pub parent_cluster_id: Option<CellId>,
    /// When they met.
    #[serde(default)]
    pub merged_at: Option<Timestamp>,
    /// Why nothing new is dispatched, if the coordinator has ordered so (INC-06).
    #[serde(default)]
    pub halt: Option<Halt>,
    /// Nodes that the cell does not work with (INC-07).
    #[serde(default)]
    pub bans: Vec<Ban>,
    /// Nodes of the network, of whatever cell, as far as the coordinator has heard (NET-07).
    #[serde(default)]
    pub node_count: u64,
    /// The other cells of its network that its coordinator knows, oldest first.
    #[serde(default)]
    pub others: Vec<OtherCellView>,
}

/// Another cell of the same network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherCellView {
    /// The cell.
    pub cell: CellId,
    /// Who coordinates it.
    pub coordinator: NodeId,
    /// When it was founded.
    pub founded_at: Timestamp,
    /// `connected`, or `unreachable`.
    pub state: String,
}

/// How a cell's anchoring stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchoringView {
    /// `level` when everything is anchored, `behind` while something waits, `overdue` after two intervals, `missed` after
    /// three (P1).
    pub state: String,
    /// The protocol, `rekor-v1` or `rekor-v2`.
    pub api: String,
    /// Where the log is.
    pub url: String,
    /// From one anchor to the next, in milliseconds.
    pub interval_ms: u64,
    /// Entries of the ledger that the newest anchor covers.
    pub anchored_size: u64,
    /// When it was made.
    pub anchored_at: Option<Timestamp>,
    /// Since when there is something that it does not cover.
    pub behind_since: Option<Timestamp>,
    /// Tries in a row of which nothing came.
    pub failures: u32,
    /// What was wrong with the last of them.
    pub last_failure: Option<String>,
    /// Anchors that an operator has to look at and clear.
    pub flagged: Vec<u64>,
}

/// One anchor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorView {
    /// Its number.
    pub id: u64,
    /// `anchored`, `flagged` (it does not verify; an operator has to look) or `cleared` (one has).
    pub state: String,
    /// Entries of the ledger that its checkpoint covers.
    pub checkpoint_size: u64,
    /// Root of its checkpoint, in hexadecimal.
    pub checkpoint_root: String,
    /// When it was made, or last tried.
    pub at: Timestamp,
    /// The protocol.
    pub api: String,
    /// Where the log is.
    pub log: String,
    /// Number of the entry in the log.
    pub log_index: Option<u64>,
    /// Id of the entry in the log; v1 only.
    pub entry_id: Option<String>,
    /// When the log took it in, by the log's signature; v1 only.
    pub integrated_at: Option<Timestamp>,
    /// Why it does not verify.
    pub reason: Option<String>,
}

/// Who signs the cell's checkpoints, and how that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignersView {
    /// Number of the set; 0 is the founding coordinator alone.
    pub epoch: u64,
    /// CID of the set's record, or of the founding record.
    pub set: Cid,
    /// Members that have to sign together.
    pub threshold: u16,
    /// The members.
    pub members: Vec<SignerView>,
    /// Entries under the last checkpoint that these signed; `None` when they have signed none, or one signs alone.
    pub signed_size: Option<u64>,
    /// Why no newer checkpoint can be signed, when it cannot.
    pub problem: Option<String>,
    /// A change of the signers that was ordered and is not finished.
    pub pending: Option<PendingSignersView>,
    /// Members of earlier sets that have not confirmed yet that their old shares are destroyed.
    pub untold: Vec<NodeId>,
}

/// A change of the signers that goes on by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingSignersView {
    /// Number of the set to be.
    pub epoch: u64,
    /// Its members that have to sign together.
    pub threshold: u16,
    /// Its members.
    pub members: Vec<NodeId>,
    /// Why it was not finished when it was last tried.
    pub reason: Option<String>,
}

/// One signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerView {
    /// The machine.
    pub node: NodeId,
    /// `signing`, `connected`, `slow`, `unreachable`, `refuses` or `wrong`.
    pub state: String,
    /// Why it did not sign when it was last asked.
    pub reason: Option<String>,
}

/// One node of the cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The node.
    pub node: NodeId,
    /// Its owner.
    pub owner: AccountId,
    /// `online`, `offline`, `paused`, `quarantined` or `left`.
    pub state: String,
    /// Guests at the same time.
    pub slots: u16,
    /// Live leases.
    pub leases: u32,
    /// Trust score in parts per million.
    pub trust_ppm: u32,
    /// Trust tier, `T0` to `T4`.
    pub tier: String,
    /// How its session reaches the coordinator, as far as that is known.
    #[serde(default)]
    pub path: Option<Path>,
    /// Tasks in which it agreed with the accepted result.
    pub agreed: u64,
    /// Tasks in which it did not.
    pub dissented: u64,
    /// Balance of its owner, in micro-NCU.
    pub owner_balance: i64,
    /// Classes that its owner consents to.
    pub consents: Vec<WorkClass>,
    /// Version of its agent.
    pub agent_version: String,
}

/// One account (CRD-03).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    /// Whose.
    pub identity_id: AccountId,
    /// What it may spend, in micro-NCU.
    pub balance_micro_ncu: u64,
    /// The last entry of the ledger that this takes into account.
    pub as_of_entry_id: Option<Cid>,
    /// When the cell last heard of anything.
    pub as_of_timestamp: Timestamp,
    /// Entries of the ledger.
    pub ledger_size: u64,
    /// Class of hardware that this credit was earned with of late.
    pub caliber_class: Option<CaliberClass>,
    /// Micro-NCU earned per day in the trailing 30 days.
    pub trailing_30d_earn_rate: u64,
    /// What decay does not take the balance below, in micro-NCU.
    pub decay_floor_micro_ncu: u64,
    /// When decay last took something from this account.
    pub last_decay_applied_at: Option<Timestamp>,
    /// When credit fades next in this cell; none if it never does.
    pub next_decay_at: Option<Timestamp>,
    /// How much faster than its half-life credit fades now, in parts per million.
    pub acceleration_ppm: u32,
    /// What accepted tasks ever paid it, in micro-NCU.
    pub earned: u64,
    /// What its jobs ever cost it, with what is set aside now, in micro-NCU.
    pub spent: u64,
    /// What decay, reversal and expiry ever took, in micro-NCU.
    pub lost: u64,
    /// When the credit expires, if the donor has withdrawn.
    pub expires_at: Option<Timestamp>,
}

/// This machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DonorView {
    /// The node.
    pub node: NodeId,
    /// Its owner.
    pub owner: AccountId,
    /// `searching`, `relaying`, `coordinating`, `idle`, `working`, `paused` or `leaving`.
    pub state: String,
    /// The cell, once found.
    pub cell: Option<CellId>,
    /// The coordinator, once found.
    pub coordinator: Option<NodeId>,
    /// Where others can dial it.
    pub addresses: Vec<String>,
    /// How it is reached.
    pub reach: ReachView,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Guests running or frozen now.
    pub guests: u32,
    /// Guests at the same time.
    pub slots: u16,
    /// Replicas run since the start.
    pub replicas_run: u64,
    /// Replicas settled since the start.
    pub replicas_settled: u64,
    /// The cells that it knows, the home cell first, and how much it did for each.
    #[serde(default)]
    pub cells: Vec<DonorCellView>,
    /// Balance of the owner, in micro-NCU, when the coordinator can be asked.
    pub owner_balance: Option<i64>,
    /// Trust score in parts per million, when the coordinator can be asked.
    pub trust_ppm: Option<u32>,
    /// How bytes travel between this machine and the coordinator, if they are connected.
    #[serde(default)]
    pub path: Option<Path>,
    /// Who reads along on the way to the coordinator, with the owner's permission (NET-22).
    pub inspected: Option<String>,
    /// Processor use of the machine, parts per million.
    pub cpu_ppm: u32,
    /// Memory use of the machine, parts per million.
    pub memory_ppm: u32,
    /// Bytes of blobs kept.
    pub stored_bytes: u64,
    /// Most bytes of blobs kept.
    pub storage_cap: u64,
    /// Classes consented to.
    pub consents: Vec<WorkClass>,
    /// What this machine witnesses, if it does.
    pub witness: Option<WitnessView>,
    /// What stands between a guest and this machine.
    pub defences: Vec<DefenceView>,
    /// Version of the agent.
    pub agent_version: String,
}

/// A cell that this machine knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DonorCellView {
    /// The cell.
    pub cell: CellId,
    /// Who coordinates it.
    pub coordinator: NodeId,
    /// Whether it is the home cell, whose work comes first.
    pub home: bool,
    /// `working` when this machine takes work from it, `connected` when its coordinator is there, or `unreachable`.
    pub state: String,
    /// Why it dispatches nothing new, if it has ordered so (INC-06).
    #[serde(default)]
    pub halt: Option<Halt>,
    /// Leases held now.
    pub leases: u64,
    /// Replicas run since the start.
    pub replicas_run: u64,
    /// Replicas settled since the start.
    pub replicas_settled: u64,
}

/// What this machine witnesses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessView {
    /// Its verifier key, as C2SP tools read it.
    pub key: String,
    /// Entries under the checkpoint that it cosigned last.
    pub size: u64,
    /// When.
    pub cosigned_at: Option<Timestamp>,
    /// What it refused to cosign.
    pub alarms: Vec<AlarmView>,
    /// Why it cosigns nothing, when something on this machine is damaged, and what to do.
    pub problem: Option<String>,
}

/// A checkpoint that a witness refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmView {
    /// Stable code of what was wrong.
    pub code: String,
    /// What was wrong, in a sentence.
    pub message: String,
    /// When it was first seen.
    pub at: Timestamp,
    /// File that proves it, on this machine.
    pub evidence: Option<String>,
}

/// One defence of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefenceView {
    /// Its name, such as `seccomp`.
    pub name: String,
    /// Whether workers run with it.
    pub active: bool,
    /// What it does, or why it is missing here.
    pub detail: String,
}

/// One connected peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// The peer.
    pub node: NodeId,
    /// Where it is.
    pub address: String,
    /// `quic`, `tcp`, `wss` or `relay`.
    pub transport: String,
    /// Whether we dialled it.
    pub outbound: bool,
    /// How bytes travel to it.
    pub reach: Reach,
    /// Last round trip, in microseconds.
    pub rtt_micros: Option<u64>,
    /// Version of its agent.
    pub agent_version: String,
    /// `here`, or `paused` by its owner's word.
    #[serde(default)]
    pub presence: String,
    /// Who reads along on the way, with the owner's permission (NET-22).
    pub inspected: Option<String>,
    /// Why nothing better carries the connection (NET-20).
    pub fallback: Option<String>,
    /// Every connection with it; what is above is said of the best one.
    pub paths: Vec<PathView>,
}

/// One connection with a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathView {
    /// Where it leads; a circuit's address names its relay.
    pub address: String,
    /// `quic`, `tcp`, `wss` or `relay`.
    pub transport: String,
    /// Whether we dialled it.
    pub outbound: bool,
    /// Milliseconds since its last round trip; `None` before the first.
    pub round_trip_age_ms: Option<u64>,
}

/// How a node is reached (NET-16, NET-25).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachView {
    /// Whether another peer reached this node and completed a round trip on that path in the last minute.
    pub reachable: bool,
    /// This node's ends of those paths.
    pub reachable_via: Vec<String>,
    /// Whether strangers get through to it without a relay, as far as evidence goes.
    pub open: bool,
    /// What stands between it and the internet: `direct`, `full-cone`, …, `symmetric` or `unknown`.
    pub nat: String,
    /// Addresses that are its own by its operator's word, a router's, or because somebody dialled it back there.
    pub external: Vec<String>,
    /// Reservations on relays that are asked for or held, then those that ended last.
    pub reservations: Vec<ReservationView>,
    /// What it does as a relay, if it is one.
    pub relay: Option<RelayView>,
    /// Nodes known by their announcements.
    pub known_nodes: u64,
    /// Relays among them.
    pub known_relays: u64,
    /// Attempts to replace circuits by direct paths.
    pub punches: Vec<PunchView>,
}

/// One reservation on a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationView {
    /// The relay.
    pub relay: NodeId,
    /// Where it was asked.
    pub address: String,
    /// `requesting`, `active`, `renewing`, `failed` or `lost`.
    pub state: String,
    /// Where others reach this node through it.
    pub circuits: Vec<String>,
    /// Seconds for which it has been held or asked for; `None` once it is over.
    pub for_s: Option<u64>,
    /// Why it ended.
    pub cause: Option<String>,
}

/// A relay's own account since its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayView {
    /// Whether it offers itself: it does once it has an external address.
    pub offered: bool,
    /// Nodes that hold a reservation now.
    pub reservations: u64,
    /// Reservations that were made, renewals not counted.
    pub reservations_accepted: u64,
    /// Reservations that were refused.
    pub reservations_denied: u64,
    /// Circuits that are open now.
    pub circuits: u64,
    /// Circuits that were opened.
    pub circuits_accepted: u64,
    /// Circuits that were refused.
    pub circuits_denied: u64,
    /// Bytes read from peers.
    pub carried_bytes: u64,
}

/// Attempts to punch holes from behind one kind of NAT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PunchView {
    /// The kind that this node was behind.
    pub nat: String,
    /// Attempts that ended.
    pub attempts: u64,
    /// Those that led to a direct path.
    pub successes: u64,
}

/// A page of what a node's network side has been doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracePage {
    /// In order.
    pub records: Vec<TraceRecord>,
    /// Where to go on.
    pub next: u64,
    /// Records that were wanted and are gone: the reader was too slow.
    pub missed: u64,
}

/// Something that a node's network side did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceRecord {
    /// A line of its log, debugging included.
    Log {
        /// When.
        at: Timestamp,
        /// `ERROR` to `DEBUG`.
        level: String,
        /// Which part of the program.
        target: String,
        /// What it said, with its fields.
        text: String,
    },
    /// A dial that ended.
    Dial {
        /// When.
        at: Timestamp,
        /// The dial.
        dial: DialView,
    },
    /// A change: connected, disconnected, listening, …
    Change {
        /// When.
        at: Timestamp,
        /// What, as one word.
        event: String,
        /// The rest, in words.
        detail: String,
    },
}

/// How one dial ended (NET-24).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialView {
    /// Where to.
    pub target_multiaddr: String,
    /// `quic`, `tcp`, `wss` or `relay`; none for an address that this build cannot dial.
    pub transport: Option<String>,
    /// `success`, `timeout`, `transport_error` or `denied`.
    pub outcome: String,
    /// Why it failed.
    pub root_cause: Option<String>,
    /// What was done about the failure.
    pub follow_up: Option<String>,
    /// Who showed a certificate that is not the peer's.
    pub intercepted_by: Option<String>,
}
