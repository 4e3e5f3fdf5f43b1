//! Entries in a row: each names the one before it, and its canonical bytes are a leaf of the log.

use wc_types::cid::cid_digest;
use wc_types::entry::{Entry, EntryKind};
use wc_types::{CellId, Class, Code, Timestamp, record_cid, to_canonical};

use crate::merkle::{Hash, hash_leaf};

/// An entry does not continue its log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkFault {
    /// It is of another cell.
    #[error("entry {index} is of {actual}, its log is of {expected}")]
    OtherCell {
        /// Index that the entry claims.
        index: u64,
        /// The cell of the log.
        expected: CellId,
        /// The cell of the entry.
        actual: CellId,
    },
    /// It claims another place.
    #[error("entry claims index {actual} where {expected} is next")]
    WrongIndex {
        /// The next free index.
        expected: u64,
        /// The index that it claims.
        actual: u64,
    },
    /// It names another entry as the one before it (LED-03).
    #[error("entry {index} does not name the entry before it")]
    WrongPrevious {
        /// Index of the entry.
        index: u64,
    },
    /// It was decided before the entry before it: the cell's time does not run backwards.
    #[error("entry {index} is of {at}, the one before it of {before}")]
    Earlier {
        /// Index of the entry.
        index: u64,
        /// When the entry before it was decided.
        before: Timestamp,
        /// When it was.
        at: Timestamp,
    },
    /// The first entry, and only the first, is the founding of its cell.
    #[error("entry {index}: the founding of the cell is entry 0 and nothing else")]
    WrongFounding {
        /// Index of the entry.
        index: u64,
    },
}

impl LinkFault {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::OtherCell { .. } => Code::new("WC-LEDGER-010", Class::Peer),
            Self::WrongIndex { .. } => Code::new("WC-LEDGER-011", Class::Peer),
            Self::WrongPrevious { .. } => Code::new("WC-LEDGER-012", Class::Peer),
            Self::WrongFounding { .. } => Code::new("WC-LEDGER-013", Class::Peer),
            Self::Earlier { .. } => Code::new("WC-LEDGER-014", Class::Peer),
        }
    }
}

/// Returns the leaf of `entry`: its canonical DAG-CBOR bytes.
pub fn leaf_bytes(entry: &Entry) -> Vec<u8> {
    to_canonical(entry)
}

/// Returns the hash of the leaf of `entry`.
pub fn leaf_hash(entry: &Entry) -> Hash {
    hash_leaf(&leaf_bytes(entry))
}

/// Checks that `next` follows `previous`, or begins a log if there is none.
///
/// # Errors
/// [`LinkFault`].
///
/// # Source
/// LED-03; [`EntryKind::CellFounded`] is entry 0 and its record's digest is the cell's id.
pub fn check_link(previous: Option<&Entry>, next: &Entry) -> Result<(), LinkFault> {
    let index = next.index;
    let expected = previous.map_or(0, |previous| previous.index.saturating_add(1));
    if index != expected {
        return Err(LinkFault::WrongIndex { expected, actual: index });
    }
    if let Some(previous) = previous
        && previous.cell != next.cell
    {
        return Err(LinkFault::OtherCell { index, expected: previous.cell, actual: next.cell });
    }
    if next.previous != previous.map(record_cid) {
        return Err(LinkFault::WrongPrevious { index });
    }
    if let Some(previous) = previous.filter(|previous| previous.at > next.at) {
        return Err(LinkFault::Earlier { index, before: previous.at, at: next.at });
    }
    let founds = match &next.kind {
        EntryKind::CellFounded { founding } => {
            cid_digest(founding) == Some(next.cell.0) && previous.is_none()
        }
        EntryKind::NodeJoined { .. }
        | EntryKind::NodeStanding { .. }
        | EntryKind::SignersChanged { .. }
        | EntryKind::CellMet { .. }
        | EntryKind::JobAdmitted { .. }
        | EntryKind::TaskAccepted { .. }
        | EntryKind::JobEnded { .. }
        | EntryKind::CreditDecayed { .. }
        | EntryKind::CreditReversed { .. }
        | EntryKind::NodeLeft { .. }
        | EntryKind::CreditExpired { .. } => previous.is_some(),
    };
    if founds { Ok(()) } else { Err(LinkFault::WrongFounding { index }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wc_types::cid::{CODEC_DAG_CBOR, CODEC_RAW, cid_from_digest};
    use wc_types::entry::JobEnd;
    use wc_types::{Cid, JobId};

    const CELL: CellId = CellId([5; 32]);

    fn founding(digest: [u8; 32]) -> EntryKind {
        EntryKind::CellFounded { founding: cid_from_digest(CODEC_DAG_CBOR, digest) }
    }

    fn ended() -> EntryKind {
        EntryKind::JobEnded { job: JobId([1; 32]), end: JobEnd::Completed }
    }

    fn entry(index: u64, previous: Option<Cid>, kind: EntryKind) -> Entry {
        Entry { cell: CELL, index, previous, at: Timestamp(0), kind, postings: vec![] }
    }

    #[test]
    fn a_log_begins_with_its_founding_and_each_entry_names_the_one_before() {
        let first = entry(0, None, founding(CELL.0));
        let second = entry(1, Some(record_cid(&first)), ended());
        let third = entry(2, Some(record_cid(&second)), ended());
        assert_eq!(check_link(None, &first), Ok(()));
        assert_eq!(check_link(Some(&first), &second), Ok(()));
        assert_eq!(check_link(Some(&second), &third), Ok(()));
        assert_eq!(check_link(Some(&first), &third), Err(LinkFault::WrongIndex { expected: 1, actual: 2 }));
    }

    #[test]
    fn a_broken_link_names_what_is_broken() {
        let first = entry(0, None, founding(CELL.0));
        let cid = Some(record_cid(&first));
        let other = Entry { cell: CellId([6; 32]), ..entry(1, cid, ended()) };
        let earlier = Entry { at: Timestamp(-1), ..entry(1, cid, ended()) };
        let table = [
            (check_link(None, &entry(0, None, ended())), "WC-LEDGER-013"),
            (check_link(None, &entry(0, None, founding([6; 32]))), "WC-LEDGER-013"),
            (check_link(None, &entry(0, cid, founding(CELL.0))), "WC-LEDGER-012"),
            (check_link(Some(&first), &entry(1, cid, founding(CELL.0))), "WC-LEDGER-013"),
            (check_link(Some(&first), &entry(1, None, ended())), "WC-LEDGER-012"),
            (check_link(Some(&first), &other), "WC-LEDGER-010"),
            (check_link(Some(&first), &earlier), "WC-LEDGER-014"),
            (check_link(Some(&first), &entry(0, cid, ended())), "WC-LEDGER-011"),
        ];
        for (row, (verdict, code)) in table.into_iter().enumerate() {
            assert_eq!(verdict.expect_err("refused").code().name, code, "row {row}");
        }
    }

    #[test]
    fn a_founding_of_another_hash_function_is_refused_not_a_panic() {
        let hash = wc_types::cid::cid_of(CODEC_RAW, b"");
        let identity = Cid::new_v1(CODEC_RAW, *hash.hash());
        assert!(check_link(None, &entry(0, None, EntryKind::CellFounded { founding: identity })).is_err());
    }

    #[test]
    fn two_entries_that_differ_have_different_leaves() {
        let first = entry(0, None, founding(CELL.0));
        let later = Entry { at: Timestamp(1), ..first.clone() };
        assert_ne!(leaf_hash(&first), leaf_hash(&later));
        assert_eq!(leaf_hash(&first), hash_leaf(&leaf_bytes(&first)));
    }
}
