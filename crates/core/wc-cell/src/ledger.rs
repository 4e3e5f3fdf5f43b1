//! The cell's side of the ledger: entries in their order, balances, and the Merkle log.

use serde::{Deserialize, Serialize};
use wc_ledger::Book;
use wc_types::entry::{Entry, EntryKind, Posting};
use wc_types::{CellId, Cid, Timestamp, record_cid};

/// Everything that was ever posted, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    pub(crate) book: Book,
    next: u64,
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
        let entry = Entry { cell, index: self.next, previous: self.previous, at, kind, postings };
        self.book.apply(&entry).ok()?;
        self.previous = Some(record_cid(&entry));
        self.next += 1;
        Some(entry)
    }

    /// Returns how many entries there are.
    pub(crate) fn size(&self) -> u64 {
        self.next
    }
}
