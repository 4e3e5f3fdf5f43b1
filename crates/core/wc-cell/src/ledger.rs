//! The cell's side of the ledger: entries in their order, balances, and the Merkle log.

use serde::{Deserialize, Serialize};
use wc_ledger::{Book, Hash, Tree, hash_leaf, leaf_bytes};
use wc_types::cid::{CODEC_DAG_CBOR, cid_of};
use wc_types::entry::{Entry, EntryKind, Posting};
use wc_types::{CellId, Cid, Timestamp};

/// Everything that was ever posted, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    pub(crate) book: Book,
    tree: Tree,
    previous: Option<Cid>,
}

impl Ledger {
    /// Posts an entry and returns it, or posts nothing if the book refuses it.
    pub(crate) fn post(
        &mut self,
        cell: CellId,
        at: Timestamp,
        kind: EntryKind,
        postings: Vec<Posting>,
    ) -> Option<Entry> {
        let entry = Entry { cell, index: self.tree.size(), previous: self.previous, at, kind, postings };
        self.book.apply(&entry).ok()?;
        let leaf = leaf_bytes(&entry);
        self.previous = Some(cid_of(CODEC_DAG_CBOR, &leaf));
        self.tree.push(hash_leaf(&leaf));
        Some(entry)
    }

    /// Returns the CID of the last entry.
    pub(crate) fn last(&self) -> Option<Cid> {
        self.previous
    }

    /// Returns how many entries there are.
    pub(crate) fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Returns the root of the log.
    pub(crate) fn root(&self) -> Hash {
        self.tree.root()
    }
}
