//! Reading a published log from its first entry to its last, and believing nothing but its checkpoint's signature.
//!
//! ```text
//! bundle ──► entries link, each posts what its kind may ──► leaf hashes ──► equal the tile of level 0
//!                                                    └──► equal every tile above ──► root of the checkpoint
//! ```

use wc_types::charter::{Founding, cell_id};
use wc_types::entry::{Entry, EntryKind};
use wc_types::signers::Handover;
use wc_types::{CanonicalError, CellId, Cid, Class, Code, Signed, Timestamp, from_canonical};

use crate::book::{Book, PostError};
use crate::chain::{LinkFault, check_link};
use crate::checkpoint::{Checkpoint, origin};
use crate::merkle::{Hash, Tree, hash_leaf};
use crate::tile::{Bundle, HashTile, TILE_HEIGHT, TILE_LEVEL_MAX, Tile, TileError};

/// A published log is not what its checkpoint says, or not a ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditFault {
    /// The checkpoint is of another log.
    #[error("the checkpoint is of {actual:?}, not of {expected:?}")]
    OtherLog {
        /// Origin of the cell's log.
        expected: String,
        /// Origin in the checkpoint.
        actual: String,
    },
    /// A tile or a bundle has not the shape of one.
    #[error("a file of the log is malformed")]
    Tile(#[from] TileError),
    /// A bundle came out of turn.
    #[error("{bundle} is not next; entry {next} is")]
    OutOfTurn {
        /// Which.
        bundle: Bundle,
        /// The next entry.
        next: u64,
    },
    /// A leaf is not an entry.
    #[error("leaf {index} is not an entry")]
    Entry {
        /// Its index.
        index: u64,
        /// What the decoder said.
        source: CanonicalError,
    },
    /// An entry does not continue its log.
    #[error("entry {index} does not continue the log")]
    Link {
        /// Its index.
        index: u64,
        /// Why not.
        source: LinkFault,
    },
    /// An entry is of a moment that has not come.
    #[error("entry {index} is of {at}, later than this reader's clock allows")]
    Future {
        /// Its index.
        index: u64,
        /// When it says that it was decided.
        at: Timestamp,
    },
    /// An entry's postings cannot be made.
    #[error("the postings of entry {index} cannot be made")]
    Postings {
        /// Its index.
        index: u64,
        /// Why not.
        source: PostError,
    },
    /// The log hands its signature over to others than the chain of signers does.
    #[error("entry {index} hands over to set {epoch} of signers, and {what}")]
    Signers {
        /// The entry.
        index: u64,
        /// Number of the set that it names.
        epoch: u64,
        /// What the chain says.
        what: &'static str,
    },
    /// The chain of signers has hand-overs that the log does not.
    #[error("the chain of signers leads to set {chain}, the log only to set {log}")]
    SignersAhead {
        /// Set at the end of the chain.
        chain: u64,
        /// Set that the log's last hand-over names; 0 for the founding coordinator.
        log: u64,
    },
    /// A tile holds another hash than the entries give.
    #[error("{tile} holds another hash for subtree {index} of level {level} than the entries give")]
    TileHash {
        /// Which tile.
        tile: Tile,
        /// Level in the tree.
        level: u8,
        /// Index in that level.
        index: u64,
    },
    /// Not every entry was read.
    #[error("{read} of {size} entries were read")]
    Unfinished {
        /// Entries that were read.
        read: u64,
        /// Entries under the checkpoint.
        size: u64,
    },
    /// The entries give another root than the checkpoint has.
    #[error("the {size} entries give another root than the checkpoint has")]
    Root {
        /// Entries under the checkpoint.
        size: u64,
    },
}

impl AuditFault {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::OtherLog { .. } => Code::new("WC-LEDGER-130", Class::Caller),
            Self::Tile(error) => error.code(),
            Self::OutOfTurn { .. } => Code::new("WC-LEDGER-131", Class::Caller),
            Self::Entry { .. } => Code::new("WC-LEDGER-132", Class::Peer),
            Self::Link { .. } => Code::new("WC-LEDGER-133", Class::Peer),
            Self::Postings { .. } => Code::new("WC-LEDGER-134", Class::Peer),
            Self::Future { .. } => Code::new("WC-LEDGER-187", Class::Peer),
            Self::TileHash { .. } => Code::new("WC-LEDGER-135", Class::Peer),
            Self::Unfinished { .. } => Code::new("WC-LEDGER-136", Class::Caller),
            Self::Root { .. } => Code::new("WC-LEDGER-137", Class::Peer),
            Self::Signers { .. } => Code::new("WC-LEDGER-138", Class::Peer),
            Self::SignersAhead { .. } => Code::new("WC-LEDGER-139", Class::Peer),
        }
    }
}

/// What an audit found, when it found no fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Entries that were read.
    pub entries: u64,
    /// Tiles and bundles that were compared.
    pub files: u64,
    /// Accounts that ever had a posting.
    pub accounts: u64,
    /// Everything that was ever issued, in micro-NCU.
    pub issued: i64,
    /// The last entry.
    pub last: Option<Entry>,
    /// Changes of signers in the log, each of which the chain has.
    pub handovers: u64,
    /// Whether the chain has one more, which the log will have: its entry is not under this checkpoint yet.
    pub handover_pending: bool,
    /// The oldest cell that this one says it met, and when (NET-07).
    pub parent: Option<(CellId, Timestamp)>,
}

/// An audit under way.
pub struct Auditor {
    cell: CellId,
    checkpoint: Checkpoint,
    latest: Timestamp,
    /// CIDs of the sets that the chain of signers leads over.
    sets: Vec<Cid>,
    handovers: u64,
    parent: Option<(CellId, Timestamp)>,
    tree: Tree,
    book: Book,
    last: Option<Entry>,
    /// Hashes of the levels that tiles hold, from level 8 on; those of level 0 are compared as they come.
    levels: Vec<Vec<Hash>>,
    files: u64,
}

impl Auditor {
    /// Begins an audit of the log of the cell that `founding` founds, under a checkpoint whose signature was checked.
    ///
    /// - `chain`: the hand-overs from the founding key to the key that signed it, checked, too
    /// - `latest`: no entry may be of a later moment
    ///
    /// # Errors
    /// [`AuditFault::OtherLog`].
    pub fn new(
        founding: &Signed<Founding>,
        chain: &[Handover],
        checkpoint: Checkpoint,
        latest: Timestamp,
    ) -> Result<Self, AuditFault> {
        let cell = cell_id(founding);
        let expected = origin(&cell);
        if checkpoint.origin != expected {
            return Err(AuditFault::OtherLog { expected, actual: checkpoint.origin });
        }
        Ok(Self {
            cell,
            checkpoint,
            latest,
            sets: chain.iter().map(|link| link.set.cid()).collect(),
            handovers: 0,
            parent: None,
            tree: Tree::new(),
            book: Book::new(founding.charter.economy.clone()),
            last: None,
            levels: vec![Vec::new(); usize::from(TILE_LEVEL_MAX)],
            files: 0,
        })
    }

    /// Returns the next bundle to read; `None` after the last.
    pub fn next(&self) -> Option<Bundle> {
        let size = self.checkpoint.size;
        Bundle::of_log(self.tree.size() >> TILE_HEIGHT, size).filter(|_| self.tree.size() < size)
    }

    /// Reads a bundle and compares the tile of hashes beside it.
    ///
    /// # Errors
    /// [`AuditFault`]; the audit is over then.
    pub fn read(&mut self, bundle: Bundle, entries: &[u8], hashes: &[u8]) -> Result<(), AuditFault> {
        if self.next() != Some(bundle) {
            return Err(AuditFault::OutOfTurn { bundle, next: self.tree.size() });
        }
        let tile = HashTile::read(bundle.tile(), hashes)?;
        for ((index, leaf), expected) in bundle.leaves().zip(bundle.read(entries)?).zip(tile.hashes()) {
            let entry: Entry = from_canonical(leaf).map_err(|source| AuditFault::Entry { index, source })?;
            check_link(self.last.as_ref(), &entry).map_err(|source| AuditFault::Link { index, source })?;
            if entry.cell != self.cell {
                let source = LinkFault::OtherCell { index, expected: self.cell, actual: entry.cell };
                return Err(AuditFault::Link { index, source });
            }
            if entry.at > self.latest {
                return Err(AuditFault::Future { index, at: entry.at });
            }
            self.book.apply(&entry).map_err(|source| AuditFault::Postings { index, source })?;
            self.check_signers(&entry)?;
            if let EntryKind::CellMet { parent, .. } = &entry.kind {
                self.parent = Some((*parent, entry.at));
            }
            self.last = Some(entry);
            let hash = hash_leaf(leaf);
            if hash != *expected {
                return Err(AuditFault::TileHash { tile: bundle.tile(), level: 0, index });
            }
            let levels = &mut self.levels;
            self.tree.push_with(hash, |level, _, hash| {
                let held = level.is_multiple_of(TILE_HEIGHT) && level > 0;
                if let Some(hashes) = levels.get_mut(usize::from(level / TILE_HEIGHT).wrapping_sub(1))
                    && held
                {
                    hashes.push(*hash);
                }
            });
        }
        self.files += 2;
        Ok(())
    }

    /// Compares a change of signers with the chain, link by link.
    fn check_signers(&mut self, entry: &Entry) -> Result<(), AuditFault> {
        let EntryKind::SignersChanged { epoch, set } = &entry.kind else { return Ok(()) };
        let fault = |what| Err(AuditFault::Signers { index: entry.index, epoch: *epoch, what });
        let next = usize::try_from(self.handovers).ok().and_then(|place| self.sets.get(place));
        self.handovers += 1;
        match next {
            None => fault("the chain of signers ends before: an older key has signed this checkpoint"),
            Some(_) if *epoch != self.handovers => fault("another set is next"),
            Some(next) if next != set => fault("the chain of signers leads to another set"),
            Some(_) => Ok(()),
        }
    }

    /// Returns the tiles above level 0, to be compared once all bundles are read.
    pub fn upper_tiles(&self) -> Vec<Tile> {
        let size = self.checkpoint.size;
        let row = |level| (0..).map_while(move |index| Tile::of_log(level, index, size));
        (1..=TILE_LEVEL_MAX).flat_map(row).collect()
    }

    /// Compares a tile above level 0.
    ///
    /// # Errors
    /// [`AuditFault`].
    pub fn compare(&mut self, tile: Tile, hashes: &[u8]) -> Result<(), AuditFault> {
        let read = HashTile::read(tile, hashes)?;
        for ((level, index), hash) in tile.hashes().zip(read.hashes()) {
            let row = self.levels.get(usize::from(tile.level()).wrapping_sub(1));
            let ours = row.and_then(|row| row.get(usize::try_from(index).ok()?));
            if ours != Some(hash) {
                return Err(AuditFault::TileHash { tile, level, index });
            }
        }
        self.files += 1;
        Ok(())
    }

    /// Ends the audit.
    ///
    /// # Errors
    /// [`AuditFault::Unfinished`], [`AuditFault::Root`] or [`AuditFault::SignersAhead`].
    pub fn finish(self) -> Result<Audited, AuditFault> {
        let (read, size) = (self.tree.size(), self.checkpoint.size);
        if read != size {
            return Err(AuditFault::Unfinished { read, size });
        }
        if self.tree.root() != self.checkpoint.root {
            return Err(AuditFault::Root { size });
        }
        let chain = self.sets.len() as u64;
        if chain > self.handovers.saturating_add(1) {
            return Err(AuditFault::SignersAhead { chain, log: self.handovers });
        }
        Ok(Audited {
            handovers: self.handovers,
            parent: self.parent,
            handover_pending: chain > self.handovers,
            entries: size,
            files: self.files,
            accounts: self.book.accounts().count() as u64,
            issued: self.book.balance(&wc_types::entry::Holder::Issuance).saturating_neg(),
            last: self.last,
        })
    }
}
