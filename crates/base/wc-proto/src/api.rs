//! Between a person's commands and a node: one request, one answer, over the node's local socket. Requests that
//! concern the cell ([`CellRequest`]) are passed on to its coordinator over the mesh, in the same words.

use serde::{Deserialize, Serialize};
use wc_types::charter::Founding;
use wc_types::directive::BanReason;
use wc_types::entry::Entry;
use wc_types::manifest::{BlobRef, Manifest, WorkClass};
use wc_types::outcome::ResultRecord;
use wc_types::receipt::{ReceiptFile, Verdict};
use wc_types::signers::{Handover, SignerOrder};
use wc_types::{AccountId, CellId, Cid, JobId, NodeId, Refusal, Signed, Timestamp};

pub mod view;

use view::{
    AccountView, AnchorView, AnchoringView, ClusterView, DonorView, ExplainView, JobView, LogView, NodeView,
    PeerView, TaskView, TracePage,
};

/// A request to one's own node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Passed to the cell's coordinator.
    Cell(CellRequest),
    /// Passed to the coordinator of one of the cells that this machine knows.
    CellOf {
        /// The cell.
        cell: CellId,
        /// What is asked.
        request: Box<CellRequest>,
    },
    /// What this machine is doing.
    DonorStatus,
    /// Freeze guests, take no more work.
    Pause,
    /// Take work again.
    Resume,
    /// Leave the cell, remove every trace that jobs left, and stop.
    Leave,
    /// Stop the node; nothing is removed.
    Stop,
    /// Who is connected.
    Peers,
    /// What the node's network side has been doing since a position. Asking keeps the recorder running for half a minute.
    Trace {
        /// First position that is wanted; none to begin with what happens next.
        from: Option<u64>,
    },
    /// Keep the file at this absolute path as a blob.
    PutFile {
        /// Path on this machine.
        path: String,
    },
    /// Keep a small record or file as a blob.
    PutBytes {
        /// Codec of the CID: raw or DAG-CBOR.
        codec: u64,
        /// Content.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// Fetch a blob if it is not here, and write it to this absolute path.
    Export {
        /// Content id.
        cid: Cid,
        /// Path on this machine. Written beside and renamed, so it is never half there.
        path: String,
    },
    /// Fetch a small blob.
    Read {
        /// Content id.
        cid: Cid,
    },
    /// An order to the whole cell. For the coordinator's own operator only, so it is not passed on.
    Order(Order),
    /// An operator has looked at a flagged anchor. For the coordinator's own operator only, so it is not passed on.
    ClearAnchor {
        /// Its number.
        id: u64,
    },
}

/// What the operator of a coordinator orders the whole cell (CLI-06).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Dispatch nothing new.
    Halt {
        /// Why, in at least twenty characters.
        reason: String,
    },
    /// End the halt.
    Resume,
    /// Do not work with a node.
    Ban {
        /// The node.
        node: NodeId,
        /// What it did.
        reason: BanReason,
    },
    /// Work with it again.
    Unban {
        /// The node.
        node: NodeId,
    },
}

/// A request about the cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CellRequest {
    /// A new job.
    Submit {
        /// The signed manifest.
        manifest: Box<Signed<Manifest>>,
        /// Who has its blobs; the node that passes it on adds itself.
        holders: Vec<NodeId>,
        /// Check only.
        dry_run: bool,
    },
    /// One job, by id or an unambiguous beginning of it.
    Job {
        /// Id or its beginning.
        job: String,
    },
    /// Wait until the job changes from what the caller has seen, or a few seconds pass.
    WatchJob {
        /// Id or its beginning.
        job: String,
        /// [`JobView::revision`] that the caller has seen.
        seen: u64,
    },
    /// The newest jobs.
    Jobs {
        /// At most this many.
        limit: u32,
    },
    /// Why a job is not further.
    Explain {
        /// Id or its beginning.
        job: String,
    },
    /// Stop a job. Signed by its submitter.
    Cancel(Box<Signed<Cancel>>),
    /// Accepted results.
    Results {
        /// Id or its beginning.
        job: String,
        /// Stage; the last one if none.
        stage: Option<u16>,
        /// First task.
        from: u32,
    },
    /// One task's replicas.
    Task {
        /// Id or its beginning.
        job: String,
        /// Stage.
        stage: u16,
        /// Index.
        index: u32,
    },
    /// What replicas wrote to standard error and how they ended.
    Logs {
        /// Id or its beginning.
        job: String,
        /// First position that is wanted.
        from: u64,
    },
    /// Receipts of accepted tasks.
    Receipts {
        /// Id or its beginning.
        job: String,
        /// Stage.
        stage: u16,
        /// First task.
        from: u32,
    },
    /// Change who signs checkpoints. Signed by the cell's owner.
    ChangeSigners(Box<Signed<SignerOrder>>),
    /// The newest published checkpoint, with a proof that it continues an earlier one.
    Checkpoint {
        /// Size of the earlier one; 0 for none.
        since: u64,
    },
    /// A witness's cosignature of a published checkpoint.
    Cosign {
        /// Size of that checkpoint.
        size: u64,
        /// The signature line of the note.
        line: String,
    },
    /// The cell.
    Cluster,
    /// Its nodes.
    Nodes,
    /// One of its nodes: none or one is the answer.
    Node {
        /// Which.
        node: NodeId,
    },
    /// A balance.
    Balance {
        /// Whose.
        account: AccountId,
    },
    /// An account as it stands, and what vouches for it.
    Account {
        /// Whose.
        account: AccountId,
        /// Size of the log that the caller has seen before; 0 for none.
        since: u64,
    },
    /// The hashes that lead from the log of `from` entries to that of `to`.
    Consistency {
        /// Size of the shorter log.
        from: u64,
        /// Size of the longer one.
        to: u64,
    },
    /// The newest entries that concern an account, newest first.
    Credits {
        /// Whose.
        account: AccountId,
        /// Entries before this one; the newest ones if none.
        before: Option<u64>,
        /// At most this many.
        limit: u32,
    },
    /// Every entry that concerns an account, oldest first, each with its path to a root.
    CreditProofs {
        /// Whose.
        account: AccountId,
        /// Entries from this one on.
        from: u64,
        /// Size of the log whose root the paths lead to.
        size: u64,
    },
    /// Its anchors, newest first.
    Anchors {
        /// Only those with lower numbers.
        before: Option<u64>,
    },
    /// One anchor as a file that anybody can check offline.
    Anchor {
        /// Its number.
        id: u64,
    },
}

/// A submitter's wish to stop its job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// The job.
    pub job: JobId,
    /// Its submitter; also the key that signs.
    pub submitter: AccountId,
    /// When.
    pub at: Timestamp,
}

/// A published checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedCheckpoint {
    /// The cell's founding record.
    pub founding: Signed<Founding>,
    /// The hand-overs from the founding key to the key that signed.
    pub signers: Vec<Handover>,
    /// The checkpoint: a C2SP signed note, with cosignatures.
    pub note: String,
    /// CID of the last entry under it.
    pub head: Option<Cid>,
    /// Root of the log at the earlier size, by the log's own word; empty if it was not longer.
    #[serde(with = "serde_bytes")]
    pub since_root: Vec<u8>,
    /// Consistency proof from the earlier size, each hash 32 bytes.
    pub consistency: Vec<serde_bytes::ByteBuf>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Done; there is nothing to say.
    Done,
    /// Not done.
    Refused(Vec<Refusal>),
    /// The job was accepted, or would be.
    Submitted {
        /// The job.
        job: JobId,
        /// CID of its manifest.
        manifest: Cid,
    },
    /// One job.
    Job(Box<JobView>),
    /// Jobs.
    Jobs(Vec<JobView>),
    /// Why.
    Explain(ExplainView),
    /// Accepted results, in task order.
    Results {
        /// Task index, the file's own name for `each` inputs, and the result.
        rows: Vec<ResultRow>,
        /// Where to go on, if there is more.
        next: Option<u32>,
    },
    /// One task.
    Task(TaskView),
    /// Log rows.
    Logs(Vec<LogView>),
    /// Receipts, in task order.
    Receipts {
        /// The files.
        receipts: Vec<ReceiptFile>,
        /// Where to go on, if there is more.
        next: Option<u32>,
    },
    /// The newest published checkpoint.
    Checkpoint(Box<PublishedCheckpoint>),
    /// The cell.
    Cluster(Box<ClusterView>),
    /// Its nodes.
    Nodes(Vec<NodeView>),
    /// This machine.
    Donor(Box<DonorView>),
    /// Connected peers.
    Peers(Vec<PeerView>),
    /// What the network side has been doing.
    Trace(TracePage),
    /// A kept blob.
    Blob(BlobRef),
    /// Content of a blob.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Micro-NCU.
    Balance(i64),
    /// Anchors, newest first.
    Anchors {
        /// How anchoring stands, if the cell anchors.
        anchoring: Option<AnchoringView>,
        /// A page of them.
        rows: Vec<AnchorView>,
        /// Where to go on, if there is more.
        next: Option<u64>,
    },
    /// Hashes of a proof, each 32 bytes.
    Hashes(Vec<serde_bytes::ByteBuf>),
    /// An account.
    Account(Box<AccountStatement>),
    /// Entries that concern an account.
    Credits {
        /// The entries.
        rows: Vec<CreditRow>,
        /// Where to go on, if there is more.
        next: Option<u64>,
    },
}

/// An account as it stands, and what vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountStatement {
    /// The account.
    pub view: AccountView,
    /// The cell's founding record: its key and its rules.
    pub founding: Signed<Founding>,
    /// The hand-overs from the founding key to the key that signed the checkpoint.
    pub signers: Vec<Handover>,
    /// The signed checkpoint of the log as it stands: a C2SP note.
    pub checkpoint: String,
    /// Hashes that lead from the log that the caller has seen to this one; empty where nothing needs proof.
    pub consistency: Vec<serde_bytes::ByteBuf>,
}

/// One entry that concerns an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditRow {
    /// The entry.
    pub entry: Entry,
    /// What was decided, for an entry that accepts a task.
    pub verdict: Option<Verdict>,
    /// Name and class of the job, if it is about one.
    pub job: Option<CreditJob>,
    /// Hashes from the entry's leaf to the root; empty where none were asked for.
    pub path: Vec<serde_bytes::ByteBuf>,
}

/// The job that an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditJob {
    /// The job.
    pub job: JobId,
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: WorkClass,
}

/// One accepted result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRow {
    /// Index of the task.
    pub index: u32,
    /// CID of the record.
    pub cid: Cid,
    /// The record.
    pub record: ResultRecord,
}
