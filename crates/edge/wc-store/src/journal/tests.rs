//! Damage below the journal's own interface: rows changed in the engine behind its back.

use std::sync::atomic::AtomicI64;

use super::*;
use crate::{Store, StoreConfig, StoreError};

fn open(dir: &Path) -> Result<Store, StoreError> {
    let clock = AtomicI64::new(0);
    let clock = Arc::new(move || clock.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    Store::open(StoreConfig::new(dir, 1 << 20, clock))
}

fn rows(from: u64, count: u64) -> Vec<Vec<u8>> {
    (from..from + count).map(|seq| format!("fact {seq}").into_bytes()).collect()
}

/// Overwrites the stored value of a row; `None` removes it.
fn tamper(store: &Store, seq: u64, value: Option<Vec<u8>>) {
    let inner = &store.journal().inner;
    let mut batch = inner.shared.db.batch();
    match value {
        Some(value) => batch.insert(&inner.rows, seq.to_be_bytes(), value),
        None => batch.remove(&inner.rows, seq.to_be_bytes()),
    }
    batch.commit().unwrap();
}

#[test]
fn a_damaged_row_in_the_middle_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.journal().append(1, &rows(1, 10)).unwrap();
    store.journal().commit().unwrap();
    let mut value = seal(4, b"fact 4");
    value[6] ^= 1;
    tamper(&store, 4, Some(value));
    drop(store);

    let store = open(dir.path()).unwrap();
    let read: Vec<_> = store.journal().replay(1).unwrap().collect();
    assert_eq!(read.len(), 4, "the walk ends at the first error");
    assert!(matches!(read[3], Err(JournalError::Damaged { seq: 4 })));
}

#[test]
fn a_row_missing_from_the_middle_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.journal().append(1, &rows(1, 10)).unwrap();
    store.journal().commit().unwrap();
    tamper(&store, 7, None);
    let last = store.journal().replay(1).unwrap().last().unwrap();
    assert!(matches!(last, Err(JournalError::Missing { seq: 7 })));
}

#[test]
fn a_damaged_tail_that_was_never_committed_is_cut_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.journal().append(1, &rows(1, 5)).unwrap();
    store.journal().commit().unwrap();
    store.journal().append(6, &rows(6, 3)).unwrap();
    tamper(&store, 7, Some(b"torn".to_vec()));
    tamper(&store, 8, Some(Vec::new()));
    drop(store);

    let store = open(dir.path()).unwrap();
    let expected = Recovery {
        first_seq: Some(1),
        next_seq: Some(7),
        rows_cut: 2,
        rows_unacknowledged: 1,
        ..Recovery::default()
    };
    assert_eq!(store.journal().recovery(), expected);
    store.journal().append(7, &rows(7, 1)).unwrap();
    store.journal().commit().unwrap();
    assert!(store.journal().replay(1).unwrap().all(|row| row.is_ok()));
}

#[test]
fn a_damaged_tail_that_was_committed_is_never_cut() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.journal().append(1, &rows(1, 5)).unwrap();
    store.journal().commit().unwrap();
    tamper(&store, 5, Some(b"rotten".to_vec()));
    drop(store);
    let error = open(dir.path()).unwrap_err();
    let lost =
        matches!(error, StoreError::Journal(JournalError::CommittedRowsLost { committed: 6, found: 5, .. }));
    assert!(lost, "{error}");
}

#[test]
fn an_interrupted_truncation_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.journal().append(1, &rows(1, 10)).unwrap();
    store.journal().commit().unwrap();
    let inner = &store.journal().inner;
    let mut batch = inner.shared.db.batch();
    batch.insert(&inner.meta, BASE, 6u64.to_be_bytes());
    batch.remove(&inner.rows, 1u64.to_be_bytes());
    batch.commit().unwrap();
    drop(store);

    let store = open(dir.path()).unwrap();
    assert_eq!(store.journal().first_seq(), Some(6));
    assert_eq!(store.journal().inner.rows.iter().count(), 5);
    assert!(matches!(store.journal().replay(5), Err(JournalError::Truncated { from_seq: 5, first_seq: 6 })));
    assert_eq!(store.journal().replay(6).unwrap().count(), 5);
}

#[test]
fn a_damaged_mark_falls_back_to_the_slot_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mark");
    let mut mark = Mark::open(&path).unwrap();
    for next in 1..=4 {
        mark.advance(next).unwrap();
    }
    assert_eq!(Mark::open(&path).unwrap().next, 4);
    let slot = 1 - Mark::open(&path).unwrap().slot;
    mark.file.write_all_at(&[0xff], slot * MARK_SLOT_BYTES + 9).unwrap();
    let mut mark = Mark::open(&path).unwrap();
    assert_eq!(mark.next, 3);
    mark.advance(5).unwrap();
    assert_eq!(Mark::open(&path).unwrap().next, 5);
}
