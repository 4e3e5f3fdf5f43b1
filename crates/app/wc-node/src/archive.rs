//! What the coordinator keeps beside its journal so that it need not be replayed to be read: manifests, verdicts,
//! ledger entries, the hashes of the ledger's tree, logs.
//!
//! All of it follows from the facts. It is written after them, becomes durable with the next commit, and is written
//! again by replay when a crash came between.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use wc_ledger::merkle;
use wc_store::{Change, Store, StoreError, Table};
use wc_types::entry::{Entry, EntryKind, Holder};
use wc_types::manifest::Manifest;
use wc_types::receipt::Verdict;
use wc_types::{AccountId, Cid, JobId, NodeId, Sealed, Signed, TaskId, Timestamp, to_canonical};

use crate::coordinator::lock;

/// Log rows that one job may keep; further ones are dropped, and the last row says so.
pub(crate) const LOG_ROWS_MAX: u64 = 10_000;

/// Manifests kept decoded: a small job is read several times within milliseconds, and checking a signature is the dearest
/// part of reading it.
const RECENT_MANIFESTS: usize = 16;
/// Larger manifests are not kept decoded.
const RECENT_BYTES_MAX: usize = 64 << 10;

/// What was decided about one task, with the evidence.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// Index of its ledger entry.
    pub entry: u64,
    /// The signed outcomes, agreeing first.
    pub outcomes: Vec<Sealed>,
}

/// One row of a job's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LogRow {
    /// When it was received.
    pub at: Timestamp,
    /// Stage.
    pub stage: u16,
    /// Index.
    pub index: u32,
    /// Where it ran.
    pub node: NodeId,
    /// How it ended.
    pub ending: String,
    /// Tail of standard error.
    pub stderr: String,
}

/// A record on the shelf is missing or does not decode.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The store refused.
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    /// A row is not what it should be.
    #[error("a row of table {table} does not decode")]
    Corrupt {
        /// Which table.
        table: &'static str,
    },
}

/// The manifests that were asked for last.
type Recent = VecDeque<(JobId, Signed<Manifest>)>;

/// The tables.
#[derive(Clone)]
pub(crate) struct Archive {
    manifests: Table,
    recent: Arc<Mutex<Recent>>,
    verdicts: Table,
    entries: Table,
    tree: Table,
    logs: Table,
    /// Account and index of each entry that concerns it.
    accounts: Table,
    /// Who set something aside for a job.
    payers: Table,
    forgetting: Table,
}

fn task_key(task: &TaskId) -> [u8; 38] {
    let mut key = [0; 38];
    key[..32].copy_from_slice(&task.job.0);
    key[32..34].copy_from_slice(&task.stage.to_be_bytes());
    key[34..].copy_from_slice(&task.index.to_be_bytes());
    key
}

fn hash_key(level: u8, index: u64) -> [u8; 9] {
    let mut key = [level; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn account_key(account: &AccountId, index: u64) -> [u8; 40] {
    let mut key = [0; 40];
    key[..32].copy_from_slice(&account.0);
    key[32..].copy_from_slice(&index.to_be_bytes());
    key
}

fn log_key(job: &JobId, position: u64) -> [u8; 40] {
    let mut key = [0; 40];
    key[..32].copy_from_slice(&job.0);
    key[32..].copy_from_slice(&position.to_be_bytes());
    key
}

fn index_of(row: Result<(Vec<u8>, Vec<u8>), StoreError>) -> Result<u64, ArchiveError> {
    let (key, _) = row?;
    let index = key.get(32..).and_then(|index| index.try_into().ok());
    index.map(u64::from_be_bytes).ok_or(ArchiveError::Corrupt { table: "accounts" })
}

impl Archive {
    /// Opens the tables.
    pub fn open(store: &Store) -> Result<Self, StoreError> {
        Ok(Self {
            manifests: store.table("manifests")?,
            recent: Arc::default(),
            verdicts: store.table("verdicts")?,
            entries: store.table("entries")?,
            tree: store.table("tree")?,
            logs: store.table("logs")?,
            accounts: store.table("accounts")?,
            payers: store.table("payers")?,
            forgetting: store.table("forgetting")?,
        })
    }

    /// Keeps a manifest.
    pub fn put_manifest(&self, job: &JobId, manifest: &Signed<Manifest>) -> Result<(), ArchiveError> {
        let bytes = to_canonical(manifest.sealed());
        self.manifests.put(&job.0, &bytes)?;
        if bytes.len() <= RECENT_BYTES_MAX {
            let mut recent = lock(&self.recent);
            recent.truncate(RECENT_MANIFESTS - 1);
            recent.push_front((*job, manifest.clone()));
        }
        Ok(())
    }

    /// Returns a job's manifest.
    pub fn manifest(&self, job: &JobId) -> Result<Option<Signed<Manifest>>, ArchiveError> {
        if let Some((_, manifest)) = lock(&self.recent).iter().find(|(recent, _)| recent == job) {
            return Ok(Some(manifest.clone()));
        }
        let Some(bytes) = self.manifests.get(&job.0)? else { return Ok(None) };
        wc_types::from_canonical(&bytes).map(Some).map_err(|_| ArchiveError::Corrupt { table: "manifests" })
    }

    /// Keeps what was decided about a task.
    pub fn put_decision(&self, decision: &Decision) -> Result<(), ArchiveError> {
        let verdict = &decision.verdict;
        let task = TaskId { job: verdict.job, stage: verdict.stage, index: verdict.index };
        Ok(self.verdicts.put(&task_key(&task), &to_canonical(decision))?)
    }

    /// Returns what was decided about a task.
    pub fn decision(&self, task: &TaskId) -> Result<Option<Decision>, ArchiveError> {
        let Some(bytes) = self.verdicts.get(&task_key(task))? else { return Ok(None) };
        wc_proto::frame::decode(&bytes).map(Some).map_err(|_| ArchiveError::Corrupt { table: "verdicts" })
    }

    /// Appends entries to the ledger: the leaf, its hash, and every inner hash that it completes.
    pub fn put_entries(&self, entries: &[Entry]) -> Result<(), ArchiveError> {
        let mut rows = Vec::with_capacity(entries.len());
        let mut hashes = std::collections::BTreeMap::new();
        for entry in entries {
            let leaf = to_canonical(entry);
            let mut hash = merkle::hash_leaf(&leaf);
            rows.push((entry.index.to_be_bytes(), leaf));
            let (mut level, mut index) = (0u8, entry.index);
            hashes.insert((level, index), hash);
            while index % 2 == 1 {
                let left = match hashes.get(&(level, index - 1)) {
                    Some(left) => *left,
                    None => {
                        self.tree_hash(level, index - 1)?.ok_or(ArchiveError::Corrupt { table: "tree" })?
                    }
                };
                hash = merkle::hash_node(&left, &hash);
                (level, index) = (level + 1, index / 2);
                hashes.insert((level, index), hash);
            }
        }
        self.index_accounts(entries)?;
        self.entries.apply(rows.into_iter().map(|(key, value)| Change::Put { key: key.to_vec(), value }))?;
        self.tree.apply(hashes.into_iter().map(|((level, index), hash)| Change::Put {
            key: hash_key(level, index).to_vec(),
            value: hash.to_vec(),
        }))?;
        Ok(())
    }

    /// Returns the canonical bytes of an entry: its leaf.
    pub fn entry_bytes(&self, index: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        Ok(self.entries.get(&index.to_be_bytes())?)
    }

    /// Notes whom entries concern: whoever they pay or take from, and whoever's reserve pays.
    fn index_accounts(&self, entries: &[Entry]) -> Result<(), ArchiveError> {
        let mut changes = Vec::new();
        let mut payers = std::collections::BTreeMap::new();
        for entry in entries {
            let mut note = |account: &AccountId| {
                let key = account_key(account, entry.index).to_vec();
                changes.push(Change::Put { key, value: Vec::new() });
            };
            for posting in &entry.postings {
                match (&posting.holder, &entry.kind) {
                    (Holder::Account(account), EntryKind::JobAdmitted { job, .. }) => {
                        note(account);
                        payers.insert(*job, *account);
                    }
                    (Holder::Account(account), _) => note(account),
                    (Holder::Reserve(job), EntryKind::TaskAccepted { .. }) => {
                        let payer = match payers.get(job) {
                            Some(payer) => Some(*payer),
                            None => self
                                .payers
                                .get(&job.0)?
                                .and_then(|bytes| bytes.try_into().ok())
                                .map(AccountId),
                        };
                        if let Some(payer) = payer {
                            payers.insert(*job, payer);
                            note(&payer);
                        }
                    }
                    (Holder::Reserve(_) | Holder::Issuance | Holder::PublicGood, _) => {}
                }
            }
        }
        let payers = payers.into_iter();
        self.payers
            .apply(payers.map(|(job, payer)| Change::Put { key: job.0.to_vec(), value: payer.0.to_vec() }))?;
        Ok(self.accounts.apply(changes)?)
    }

    /// Returns the indices of at most `limit` entries that concern an account, oldest first from `from` on.
    pub fn account_entries(
        &self,
        account: &AccountId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<u64>, ArchiveError> {
        let rows = self.accounts.between(&account_key(account, from), &account_key(account, u64::MAX));
        rows.take(limit).map(index_of).collect()
    }

    /// Returns the indices of at most `limit` entries that concern an account, newest first before `before`.
    pub fn account_entries_back(
        &self,
        account: &AccountId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<u64>, ArchiveError> {
        let end = account_key(account, before.unwrap_or(u64::MAX));
        let rows = self.accounts.between(&account_key(account, 0), &end).rev();
        rows.take(limit).map(index_of).collect()
    }

    /// Returns an entry.
    pub fn entry(&self, index: u64) -> Result<Option<Entry>, ArchiveError> {
        let Some(bytes) = self.entries.get(&index.to_be_bytes())? else { return Ok(None) };
        wc_proto::frame::decode(&bytes).map(Some).map_err(|_| ArchiveError::Corrupt { table: "entries" })
    }

    /// Returns the hash of a complete subtree of 2^level leaves.
    pub fn tree_hash(&self, level: u8, index: u64) -> Result<Option<[u8; 32]>, ArchiveError> {
        let Some(bytes) = self.tree.get(&hash_key(level, index))? else { return Ok(None) };
        bytes.as_slice().try_into().map(Some).map_err(|_| ArchiveError::Corrupt { table: "tree" })
    }

    /// Keeps a log row at `position`, unless the job's log is full.
    pub fn put_log(&self, job: &JobId, position: u64, row: &LogRow) -> Result<(), ArchiveError> {
        if position < LOG_ROWS_MAX {
            self.logs.put(&log_key(job, position), &to_canonical(row))?;
        }
        Ok(())
    }

    /// Returns log rows from `position` on: as many as fit into `bytes_max` as they are kept, but one if there is any.
    pub fn logs(
        &self,
        job: &JobId,
        position: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, LogRow)>, ArchiveError> {
        let mut rows = Vec::new();
        let mut room = bytes_max;
        for position in position..LOG_ROWS_MAX {
            let Some(bytes) = self.logs.get(&log_key(job, position))? else { break };
            if !rows.is_empty() && bytes.len() > room {
                break;
            }
            room = room.saturating_sub(bytes.len());
            let row = wc_proto::frame::decode(&bytes).map_err(|_| ArchiveError::Corrupt { table: "logs" })?;
            rows.push((position, row));
        }
        Ok(rows)
    }

    /// Notes that a job is to be forgotten, with the records that were kept for it.
    pub fn put_forgetting(&self, job: &JobId, records: &[Cid]) -> Result<(), ArchiveError> {
        Ok(self.forgetting.put(&job.0, &to_canonical(&records))?)
    }

    /// Returns the jobs that are to be forgotten, with their records.
    pub fn forgetting(&self) -> Result<Vec<(JobId, Vec<Cid>)>, ArchiveError> {
        let corrupt = || ArchiveError::Corrupt { table: "forgetting" };
        let decode = |row: Result<(Vec<u8>, Vec<u8>), StoreError>| {
            let (job, records) = row?;
            let job = JobId(job.try_into().map_err(|_| corrupt())?);
            Ok((job, wc_proto::frame::decode(&records).map_err(|_| corrupt())?))
        };
        self.forgetting.range(&[]).map(decode).collect()
    }

    /// Hands every result of a job to `let_go`, then removes its verdicts, its log and its manifest, and at last the
    /// note that it is to be forgotten.
    pub fn forget(&self, job: &JobId, mut let_go: impl FnMut(&Cid)) -> Result<(), ArchiveError> {
        for row in self.verdicts.range(&job.0) {
            let (key, bytes) = row?;
            let decision: Decision =
                wc_proto::frame::decode(&bytes).map_err(|_| ArchiveError::Corrupt { table: "verdicts" })?;
            let_go(&decision.verdict.result);
            self.verdicts.remove(&key)?;
        }
        for row in self.logs.range(&job.0) {
            self.logs.remove(&row?.0)?;
        }
        self.manifests.remove(&job.0)?;
        lock(&self.recent).retain(|(recent, _)| recent != job);
        Ok(self.forgetting.remove(&job.0)?)
    }

    /// Returns how many log rows the job has.
    pub fn log_rows(&self, job: &JobId) -> Result<u64, ArchiveError> {
        // Rows are contiguous from 0: find the end by doubling, then halving.
        let has = |position: u64| -> Result<bool, ArchiveError> {
            Ok(self.logs.get(&log_key(job, position))?.is_some())
        };
        let (mut low, mut high) = (0, 1);
        while high < LOG_ROWS_MAX && has(high - 1)? {
            low = high;
            high *= 2;
        }
        while low < high {
            let middle = low.midpoint(high);
            if has(middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
