//! The journal as its users see it: what was committed is there, what was not vanishes, and failure is said aloud.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "shared/disk.rs"]
mod disk;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use disk::SmallDisk;
use wc_store::{Batch, Change, JournalError, JournalWriter, SnapshotError, Store, StoreConfig, StoreError};

fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open(StoreConfig::new(dir, 64 << 20, Arc::new(|| 0)))
}

fn facts(from: u64, count: u64) -> Vec<Vec<u8>> {
    (from..from + count)
        .map(|seq| format!("fact {seq} {}", "x".repeat((seq % 300) as usize)).into_bytes())
        .collect()
}

fn replayed(store: &Store, from: u64) -> Vec<Vec<u8>> {
    store.journal().replay(from).unwrap().map(|row| row.unwrap().bytes).collect()
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The engine's newest log, and the length that is in use (the engine takes space for it in advance).
fn log_of(dir: &Path) -> (PathBuf, usize) {
    let logs = fs::read_dir(dir.join("db")).unwrap().map(|entry| entry.unwrap().path());
    let log = logs.filter(|path| path.extension().is_some_and(|e| e == "jnl")).max().unwrap();
    let bytes = fs::read(&log).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    (log, used)
}

/// A closed store with rows 1 to 20 committed five at a time, and 21 to 25 appended without a commit.
fn sample(dir: &Path) {
    let store = open(dir).unwrap();
    for first in [1, 6, 11, 16] {
        store.journal().append(first, &facts(first, 5)).unwrap();
        store.journal().commit().unwrap();
    }
    store.journal().append(21, &facts(21, 5)).unwrap();
}

#[test]
fn facts_come_back_in_order_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let store = open(dir.path()).unwrap();
    assert_eq!(store.journal().first_seq(), Some(1));
    assert_eq!(store.journal().next_seq(), Some(26));
    assert_eq!(store.journal().recovery().rows_unacknowledged, 5);
    assert_eq!(replayed(&store, 1), facts(1, 25));
    assert_eq!(replayed(&store, 18), facts(18, 8));
    assert_eq!(replayed(&store, 26), Vec::<Vec<u8>>::new());
    assert!(matches!(store.journal().replay(27), Err(JournalError::BeyondEnd { next_seq: 26, .. })));
}

#[test]
fn a_gap_or_a_repetition_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.journal().append(100, &facts(100, 2)).unwrap();
    for found in [0, 99, 100, 101, 103] {
        let error = store.journal().append(found, &facts(found, 1)).unwrap_err();
        assert!(matches!(error, JournalError::OutOfOrder { expected: 102, .. }), "{error}");
    }
    store.journal().append(102, &facts(102, 1)).unwrap();
    store.journal().commit().unwrap();
    assert_eq!(replayed(&store, 100), facts(100, 3));
    assert!(store.stopped().is_none());
}

#[test]
fn a_row_beyond_the_limit_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let rows = [vec![1], vec![0; wc_store::ROW_BYTES_MAX + 1]];
    assert!(matches!(store.journal().append(1, &rows), Err(JournalError::RowTooLarge { seq: 2, .. })));
    assert_eq!(store.journal().next_seq(), None);
}

#[test]
fn wherever_the_log_is_torn_committed_facts_are_there_or_the_loss_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    sample(&whole);
    let (log, used) = log_of(&whole);
    let (mut opened, mut refused) = (0, 0);
    for cut in (0..used + 40).step_by(37) {
        let torn = dir.path().join("torn");
        copy_dir(&whole, &torn);
        let file =
            fs::File::options().write(true).open(torn.join("db").join(log.file_name().unwrap())).unwrap();
        file.set_len(cut as u64).unwrap();
        match open(&torn) {
            Ok(store) => {
                opened += 1;
                let rows = replayed(&store, 1);
                // The uncommitted batch is one write: all of it or nothing.
                assert!(rows.len() == 20 || rows.len() == 25, "{} rows after a cut at {cut}", rows.len());
                assert_eq!(rows, facts(1, rows.len() as u64));
            }
            Err(StoreError::Journal(JournalError::CommittedRowsLost { committed: 21, found, .. })) => {
                refused += 1;
                assert!(found <= 16, "{found}");
            }
            Err(error) => panic!("a cut at {cut}: {error}"),
        }
        fs::remove_dir_all(&torn).unwrap();
    }
    assert!(opened > 5 && refused > 20, "{opened} opened, {refused} refused");
}

#[test]
fn a_flipped_byte_never_loses_a_committed_fact_silently() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    sample(&whole);
    let (log, used) = log_of(&whole);
    let (mut same, mut refused) = (0, 0);
    for at in (0..used).step_by(53) {
        let bad = dir.path().join("bad");
        copy_dir(&whole, &bad);
        let path = bad.join("db").join(log.file_name().unwrap());
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 0x20;
        fs::write(&path, bytes).unwrap();
        match open(&bad) {
            Err(_) => refused += 1,
            Ok(store) => {
                let rows: Vec<_> = store.journal().replay(1).unwrap().collect();
                if rows.iter().all(Result::is_ok) {
                    same += 1;
                    let rows: Vec<_> = rows.into_iter().map(|row| row.unwrap().bytes).collect();
                    assert!(rows.len() >= 20, "{} rows after a flip at {at}", rows.len());
                    assert_eq!(rows, facts(1, rows.len() as u64), "a flip at {at}");
                } else {
                    refused += 1;
                }
            }
        }
        fs::remove_dir_all(&bad).unwrap();
    }
    assert!(refused > same, "{refused} refused, {same} unharmed");
}

#[test]
fn a_second_opener_is_told_which_directory_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path()).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    assert_eq!(error.code().name, "WC-STORE-001");
}

#[test]
fn the_newest_whole_snapshot_is_found_and_two_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(store.journal().latest_snapshot().unwrap(), None);
    store.journal().append(1, &facts(1, 50)).unwrap();
    for seq in [10, 20, 30] {
        store.journal().write_snapshot(seq, format!("state {seq}").as_bytes()).unwrap();
    }
    assert!(matches!(store.journal().write_snapshot(51, b""), Err(JournalError::BeyondEnd { .. })));
    let names = || fs::read_dir(dir.path().join("snapshots")).unwrap().count();
    assert_eq!(names(), 2);
    let found = store.journal().latest_snapshot().unwrap().unwrap();
    assert_eq!((found.seq, &found.bytes[..], found.damaged), (30, &b"state 30"[..], vec![]));

    let newest = dir.path().join("snapshots").join(format!("{:020}.snap", 30));
    let mut bytes = fs::read(&newest).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&newest, &bytes).unwrap();
    let found = store.journal().latest_snapshot().unwrap().unwrap();
    assert_eq!((found.seq, &found.bytes[..], found.damaged), (20, &b"state 20"[..], vec![30]));

    fs::write(dir.path().join("snapshots").join(format!("{:020}.snap", 20)), b"").unwrap();
    let error = store.journal().latest_snapshot().unwrap_err();
    assert!(matches!(error, JournalError::Snapshot(SnapshotError::AllDamaged { .. })), "{error}");
}

#[test]
fn a_snapshot_commits_the_facts_it_stands_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.journal().append(1, &facts(1, 5)).unwrap();
    assert_eq!(store.journal().committed(), 0);
    store.journal().write_snapshot(5, b"state").unwrap();
    assert_eq!(store.journal().committed(), 6);
}

#[test]
fn tables_are_ordered_and_change_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let table = store.table("receipts").unwrap();
    table.put(b"b/2", b"two").unwrap();
    table
        .apply([
            Change::Put { key: b"b/1".to_vec(), value: b"one".to_vec() },
            Change::Put { key: b"a/9".to_vec(), value: b"nine".to_vec() },
            Change::Remove { key: b"b/2".to_vec() },
            Change::Put { key: b"b/3".to_vec(), value: b"three".to_vec() },
        ])
        .unwrap();
    assert_eq!(table.get(b"b/2").unwrap(), None);
    let found: Vec<_> = table.range(b"b/").map(|entry| entry.unwrap().0).collect();
    assert_eq!(found, [b"b/1".to_vec(), b"b/3".to_vec()]);
    assert_eq!(store.table("other").unwrap().get(b"b/1").unwrap(), None);
    store.journal().append(1, &facts(1, 1)).unwrap();
    store.journal().commit().unwrap();
    drop((table, store));
    let store = open(dir.path()).unwrap();
    let table = store.table("receipts").unwrap();
    assert_eq!(table.get(b"b/3").unwrap().as_deref(), Some(&b"three"[..]));
    table.clear().unwrap();
    assert_eq!(table.range(b"").count(), 0);
    for name in ["", "Upper", "a/b", "ü", &"x".repeat(65)] {
        assert!(matches!(store.table(name), Err(StoreError::TableName { .. })), "{name:?}");
    }
}

#[test]
fn batches_that_wait_share_a_commit_and_hear_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let writer = JournalWriter::start(store.journal().clone()).unwrap();
    let (told, answers) = channel();
    for seq in 1..=500u64 {
        let told = told.clone();
        let done =
            Box::new(move |result: Result<(), JournalError>| told.send((seq, result.is_ok())).unwrap());
        writer.submit(Batch { first_seq: seq, rows: facts(seq, 1), done });
    }
    let told_again = told.clone();
    let done =
        Box::new(move |result: Result<(), JournalError>| told_again.send((7, result.is_ok())).unwrap());
    writer.submit(Batch { first_seq: 7, rows: facts(7, 1), done });
    drop(writer);
    drop(told);
    let mut answers: Vec<_> = answers.iter().collect();
    answers.retain(|answer| *answer != (7, false));
    assert_eq!(answers, (1..=500).map(|seq| (seq, true)).collect::<Vec<_>>());
    assert_eq!(store.journal().committed(), 501);
    assert_eq!(replayed(&store, 1).len(), 500);
}

#[test]
fn a_full_disk_stops_the_journal_and_loses_nothing_acknowledged() {
    let Some(disk) = SmallDisk::mount(8 << 20) else { return };
    let store = open(disk.path()).unwrap();
    let mut acknowledged = 0;
    let mut first_error = None;
    for first in (1..).step_by(10) {
        let rows: Vec<_> = (first..first + 10).map(|seq| vec![seq as u8; 10_000]).collect();
        match store.journal().append(first, &rows).and_then(|()| store.journal().commit()) {
            Ok(()) => acknowledged = first + 9,
            Err(error) => {
                first_error = Some(error);
                break;
            }
        }
    }
    let error = first_error.unwrap();
    assert!(matches!(error, JournalError::Failed { .. }), "{error}");
    let cause = store.stopped().unwrap().to_string();
    assert!(cause.contains("No space left") || cause.contains("StorageFull"), "{cause}");
    for _ in 0..2 {
        let next = store.journal().next_seq().unwrap();
        let append = store.journal().append(next, &[b"more"]).unwrap_err();
        assert_eq!(append.to_string(), format!("journal stopped: {cause}"));
        assert_eq!(store.journal().commit().unwrap_err().to_string(), format!("journal stopped: {cause}"));
        assert!(matches!(store.table("x").and_then(|t| t.put(b"k", b"v")), Err(StoreError::Stopped { .. })));
    }
    assert!(acknowledged > 100, "{acknowledged} rows before the disk was full");
    drop(store);

    // The administrator makes room; everything acknowledged is there.
    disk.grow(64 << 20);
    let store = open(disk.path()).unwrap();
    let rows: Vec<_> = store.journal().replay(1).unwrap().map(Result::unwrap).collect();
    assert!(rows.len() as u64 >= acknowledged, "{} of {acknowledged}", rows.len());
    assert!(rows.iter().all(|row| row.bytes == vec![row.seq as u8; 10_000]));
    let next = store.journal().next_seq().unwrap();
    store.journal().append(next, &[b"more"]).unwrap();
    store.journal().commit().unwrap();
}
