//! The journal, replayed from its first fact, and compared with everything that was kept beside it.
//!
//! The journal is the state. Snapshots, ledger entries, the hashes of the log and the balances only follow from it, so a
//! difference means that somebody, or a failing disk, changed one of them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wc_cell::{Cell, Command, Fact, RestoreError};
use wc_ledger::proof::root_at;
use wc_ledger::threshold::handover::open_kept;
use wc_ledger::{Book, Note, Tree, leaf_hash};
use wc_store::{JournalError, Row, Snapshot, SnapshotError, Store, StoreConfig, StoreError};
use wc_types::cid::sha256;
use wc_types::entry::{Entry, Holder};
use wc_types::signers::Handover;
use wc_types::{CellId, from_canonical, to_canonical};

use crate::archive::{Archive, ArchiveError};
use crate::clock;
use crate::logtree::{LogTree, LogTreeError};
use crate::view::hex;

/// Facts between two reports of progress.
const PROGRESS_FACTS: u64 = 4096;
/// Differences that are told; a store that was replaced differs everywhere.
const DIFFERENCES_MAX: usize = 20;

/// The journal cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// There is nothing to replay here.
    #[error("{dir} has no journal: only the machine that coordinates a cell keeps one")]
    NoJournal {
        /// Where.
        dir: String,
    },
    /// The store cannot be used.
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    /// A row is damaged, missing or cannot be read; the cause names it.
    #[error("the journal cannot be read")]
    Journal(#[from] JournalError),
    /// A row is not a fact of this version.
    #[error("row {seq} of the journal is not a fact: {reason}")]
    Fact {
        /// Its number.
        seq: u64,
        /// What the decoder said.
        reason: String,
    },
    /// What is kept beside the journal cannot be read.
    #[error("what is kept beside the journal cannot be read")]
    Archive(#[from] ArchiveError),
    /// The published ledger cannot be read.
    #[error("the published ledger cannot be read")]
    Published(#[from] LogTreeError),
}

impl ReplayError {
    /// Returns what to do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoJournal { .. } => "give the coordinator's directory with --data-dir",
            Self::Store(StoreError::Locked { .. }) => {
                "stop the node of this data directory first: 'worldcompute node stop'"
            }
            Self::Store(StoreError::Damaged { .. } | StoreError::Engine { .. })
            | Self::Journal(_)
            | Self::Fact { .. } => "keep a copy of the data directory as it is, and restore it from a backup",
            Self::Store(_) | Self::Archive(_) | Self::Published(_) => return None,
        })
    }
}

/// What a replay came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayReport {
    /// The cell.
    pub cell: CellId,
    /// Facts that were replayed.
    pub facts: u64,
    /// Time that reading, decoding and applying them took.
    pub replayed_in: Duration,
    /// Ledger entries that followed from them.
    pub entries: u64,
    /// Root of the ledger, in hexadecimal.
    pub ledger_root: String,
    /// SHA-256 of the state, in hexadecimal.
    pub state_hash: String,
    /// Accounts that ever had a posting.
    pub accounts: u64,
    /// What accounts, reserves and the public good hold together, in micro-NCU.
    pub outstanding: i64,
    /// The fact of the newest snapshot, if there is one of this release.
    pub snapshot: Option<u64>,
    /// Entries under the published checkpoint; none if nothing was published.
    pub published: Option<u64>,
    /// Files of the published ledger that were compared: every one that is there, those of earlier checkpoints included.
    pub published_files: u64,
    /// What is not as the journal says, in sentences; empty when everything is.
    pub differences: Vec<String>,
    /// Differences beyond those that are told.
    pub untold: u64,
}

impl ReplayReport {
    fn differs(&mut self, what: String) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(what);
        } else {
            self.untold += 1;
        }
    }
}

/// Replays the journal of a store that no node is using, and compares.
///
/// - `dir`: the store's directory
/// - `log`: the directory of the published ledger
/// - `progress`: told how many facts of how many are done
///
/// # Errors
/// [`ReplayError`] where the journal itself cannot be read; a difference is no error but part of the report.
pub fn replay(
    dir: &Path,
    log: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<ReplayReport, ReplayError> {
    let no_journal = || ReplayError::NoJournal { dir: dir.display().to_string() };
    if !dir.is_dir() {
        return Err(no_journal());
    }
    let store = Store::open(StoreConfig::new(dir.to_owned(), u64::MAX, Arc::new(|| clock::now().0)))?;
    let total = store.journal().next_seq().ok_or_else(no_journal)?;
    let archive = Archive::open(&store)?;
    let mut checks = Checks::new(archive);
    let snapshot = checks.newest_snapshot(&store)?;
    checks.mark(&store);
    let (mut cell, mut commands) = (Cell::empty(), Vec::new());
    let mut rows = store.journal().replay(0)?;
    let mut done = 0;
    loop {
        let begun = Instant::now();
        let mut batch = Vec::new();
        let mut at_snapshot = false;
        for row in rows.by_ref() {
            let Row { seq, bytes } = row?;
            let fact: Fact = wc_proto::frame::decode(&bytes)
                .map_err(|error| ReplayError::Fact { seq, reason: error.to_string() })?;
            cell.apply(&fact, &mut commands);
            batch.append(&mut commands);
            done += 1;
            at_snapshot = snapshot.as_ref().is_some_and(|snapshot| snapshot.seq == seq);
            if done % PROGRESS_FACTS == 0 || at_snapshot {
                break;
            }
        }
        checks.report.replayed_in += begun.elapsed();
        let ended = !at_snapshot && done % PROGRESS_FACTS != 0 || done >= total;
        for command in batch {
            if let Command::Publish { entries } = command {
                entries.iter().try_for_each(|entry| checks.entry(entry, &cell))?;
            }
        }
        if let Some(snapshot) = snapshot.as_ref().filter(|_| at_snapshot) {
            checks.snapshot(&cell, snapshot.seq, &snapshot.bytes);
        }
        progress(done, total);
        if ended {
            break;
        }
    }
    if log.is_dir() {
        checks.published(&cell, &LogTree::open(log)?)?;
    }
    checks.finish(&cell, done)
}

/// What is compared on the way.
struct Checks {
    archive: Archive,
    /// The log as it follows from the journal.
    tree: Tree,
    /// Balances as they follow from the entries that are kept.
    book: Book,
    report: ReplayReport,
}

impl Checks {
    fn new(archive: Archive) -> Self {
        let report = ReplayReport {
            cell: CellId([0; 32]),
            facts: 0,
            replayed_in: Duration::ZERO,
            entries: 0,
            ledger_root: String::new(),
            state_hash: String::new(),
            accounts: 0,
            outstanding: 0,
            snapshot: None,
            published: None,
            published_files: 0,
            differences: Vec::new(),
            untold: 0,
        };
        Self { archive, tree: Tree::new(), book: Book::new(None), report }
    }

    /// Returns the newest snapshot that is whole, and names those that are not: a start would pass over them.
    fn newest_snapshot(&mut self, store: &Store) -> Result<Option<Snapshot>, ReplayError> {
        let (snapshot, damaged) = match store.journal().latest_snapshot() {
            Ok(Some(snapshot)) => {
                let damaged = snapshot.damaged.clone();
                (Some(snapshot), damaged)
            }
            Ok(None) => (None, Vec::new()),
            Err(JournalError::Snapshot(SnapshotError::AllDamaged { damaged, .. })) => (None, damaged),
            Err(error) => return Err(error.into()),
        };
        for seq in damaged {
            self.report.differs(format!("the snapshot after fact {seq} is damaged"));
        }
        Ok(snapshot)
    }

    /// Looks at the note of how far commits have come, without which facts lost from the end would not show.
    fn mark(&mut self, store: &Store) {
        if store.journal().recovery().mark_damaged {
            self.report.differs("journal.mark is damaged: facts lost from the end might not show".to_owned());
        } else if store.journal().committed() == 0 {
            self.report.differs(
                "journal.mark remembers no commit: facts lost from the end would not show".to_owned(),
            );
        }
    }

    /// Compares the published ledger, file by file.
    fn published(&mut self, cell: &Cell, tree: &LogTree) -> Result<(), ReplayError> {
        let size = self.checkpoint(cell, tree)?;
        let report = &mut self.report;
        report.published_files = tree.compare(size, &self.archive, |what| report.differs(what))?;
        Ok(())
    }

    /// Compares what lies beside the tiles, and returns of how many entries the tiles have to be there.
    fn checkpoint(&mut self, cell: &Cell, tree: &LogTree) -> Result<u64, ReplayError> {
        let (Some(text), Some(founding)) = (tree.file("checkpoint")?, cell.founding()) else { return Ok(0) };
        let record = to_canonical(founding.sealed());
        if tree.file("founding")?.is_none_or(|kept| kept != record) {
            self.report.differs("founding of the published ledger is not what the journal says".to_owned());
        }
        let chain = match tree.file("signers")? {
            None => Some(Vec::new()),
            Some(bytes) => from_canonical::<Vec<Handover>>(&bytes).ok(),
        };
        let known = chain.filter(|chain| cell.signers().starts_with(chain));
        if known.is_none() {
            self.report.differs("signers of the published ledger are not those of the journal".to_owned());
        }
        let note = String::from_utf8(text).ok().and_then(|text| Note::parse(&text).ok());
        let opened = note.and_then(|note| open_kept(founding, cell.signers(), &note).ok());
        let Some((checkpoint, _)) = opened else {
            let what = "checkpoint of the published ledger is not one that the cell's signers signed";
            self.report.differs(what.to_owned());
            return Ok(0);
        };
        let size = checkpoint.size;
        if size > cell.ledger_size() {
            let ours = cell.ledger_size();
            self.report.differs(format!("the published ledger has {size} entries, the journal gives {ours}"));
            return Ok(ours);
        }
        self.report.published = Some(size);
        let hash = |level, index| self.archive.tree_hash(level, index).ok().flatten();
        if root_at(size, hash).as_ref() != Ok(&checkpoint.root) {
            self.report.differs(format!(
                "checkpoint of the published ledger: its root of {size} entries is not that of the journal"
            ));
        }
        Ok(size)
    }

    /// Compares a kept entry and the hashes that it completes with the entry that follows from the journal.
    fn entry(&mut self, entry: &Entry, cell: &Cell) -> Result<(), ArchiveError> {
        let index = entry.index;
        if index == 0 {
            self.book = Book::new(cell.charter().and_then(|charter| charter.economy.clone()));
        }
        match self.archive.entry(index) {
            Ok(Some(kept)) if kept == *entry => {
                if let Err(error) = self.book.apply(&kept) {
                    self.report.differs(format!("entry {index} cannot be posted: {error}"));
                }
            }
            Ok(Some(_)) => self.report.differs(format!("entry {index} is not what the journal says")),
            Ok(None) => self.report.differs(format!("entry {index} is missing")),
            Err(ArchiveError::Corrupt { .. }) => {
                self.report.differs(format!("entry {index} does not decode"));
            }
            Err(error) => return Err(error),
        }
        let mut hashes = Vec::new();
        self.tree.push_with(leaf_hash(entry), |level, position, hash| hashes.push((level, position, *hash)));
        for (level, position, hash) in hashes {
            if self.archive.tree_hash(level, position)? != Some(hash) {
                let what =
                    format!("hash {position} of level {level} of the log is not what the journal says");
                self.report.differs(what);
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, cell: &Cell, seq: u64, bytes: &[u8]) {
        match Cell::restore(bytes) {
            Ok(_) => {}
            // A start replays the journal instead, as this does.
            Err(RestoreError::Version { .. }) => return,
            Err(error) => {
                self.report.differs(format!("the snapshot after fact {seq} cannot be restored: {error}"));
                return;
            }
        }
        self.report.snapshot = Some(seq);
        if sha256(bytes) != cell.state_hash() {
            self.report
                .differs(format!("the snapshot after fact {seq} is not the state that the journal gives"));
        }
    }

    fn finish(mut self, cell: &Cell, facts: u64) -> Result<ReplayReport, ReplayError> {
        let report = &mut self.report;
        if self.archive.entry(cell.ledger_size())?.is_some() {
            report.differs(format!("entry {} is more than the journal gives", cell.ledger_size()));
        }
        for (account, balance) in cell.balances() {
            report.accounts += 1;
            let kept = self.book.balance(&Holder::Account(account));
            if u64::try_from(kept) != Ok(balance.0) {
                let what = format!("{account} holds {} µNCU, its kept entries add up to {kept}", balance.0);
                report.differs(what);
            }
        }
        if self.book.total() != 0 {
            report.differs(format!("the balances sum to {} µNCU, not to zero", self.book.total()));
        }
        if self.tree.root() != cell.ledger_root() {
            report.differs("the root of the log is not that of its entries".to_owned());
        }
        report.cell = cell.id();
        report.facts = facts;
        report.entries = cell.ledger_size();
        report.ledger_root = hex(&cell.ledger_root());
        report.state_hash = hex(&cell.state_hash());
        report.outstanding = self.book.balance(&Holder::Issuance).saturating_neg();
        Ok(self.report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_store_that_is_in_use_asks_for_the_node_to_be_stopped() {
        let dir = || std::path::PathBuf::from("store");
        let hint = |error: StoreError| ReplayError::Store(error).hint().unwrap_or_default();
        assert!(hint(StoreError::Locked { dir: dir() }).contains("node stop"));
        let damaged = hint(StoreError::Damaged { dir: dir(), why: "a block".to_owned() });
        assert!(damaged.contains("backup") && !damaged.contains("node stop"), "{damaged}");
    }
}
