//! How fast bytes come to rest: journal commits beside the bare disk, blobs beside bare hashing and bare writing.
//!
//! `cargo bench -p wc-store --bench store [-- DIR]` writes under `DIR` (the current directory by default, because
//! temporary directories are often in memory) and removes what it wrote.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wc_store::{Batch, Durability, JournalWriter, Store, StoreConfig};
use wc_types::cid::sha256;

const ROW_BYTES: usize = 1024;
const BLOB_BYTES: usize = 1 << 30;
const ROUND: Duration = Duration::from_secs(3);

fn main() {
    let base = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let base = PathBuf::from(base.unwrap_or_else(|| ".".to_owned()));
    let dir = tempfile::tempdir_in(&base).expect("the directory can be written");
    println!("{:<58} {:>12} {:>14}", "", "per second", "median, µs");
    journal(dir.path());
    println!("\n{:<58} {:>12}", "", "MB/s");
    blobs(dir.path());
}

fn open(dir: &Path) -> Store {
    Store::open(StoreConfig::new(dir, 16 << 30, Arc::new(|| 0))).expect("a fresh store opens")
}

fn row(label: &str, count: u64, elapsed: Duration, mut each: Vec<Duration>) {
    each.sort_unstable();
    let median = each.get(each.len() / 2).map_or(String::new(), |d| format!("{:.0}", d.as_secs_f64() * 1e6));
    println!("{label:<58} {:>12.0} {median:>14}", count as f64 / elapsed.as_secs_f64());
}

/// Runs `step` until the round is over.
fn rounds(mut step: impl FnMut(u64)) -> (u64, Duration, Vec<Duration>) {
    let start = Instant::now();
    let mut each = Vec::new();
    while start.elapsed() < ROUND {
        let before = Instant::now();
        step(each.len() as u64);
        each.push(before.elapsed());
    }
    (each.len() as u64, start.elapsed(), each)
}

fn journal(dir: &Path) {
    let bytes = vec![7u8; ROW_BYTES];
    let file = File::create(dir.join("raw")).expect("a file");
    let (count, elapsed, each) = rounds(|at| {
        file.write_all_at(&bytes, at * ROW_BYTES as u64).expect("room");
        file.sync_data().expect("sync");
    });
    row("bare file: append 1 KiB + fdatasync", count, elapsed, each);

    let store = open(&dir.join("one"));
    let (count, elapsed, each) = rounds(|at| {
        store.journal().append(at, std::slice::from_ref(&bytes)).expect("room");
        store.journal().commit().expect("sync");
    });
    row("journal: one 1 KiB row per commit, commits", count, elapsed, each);
    drop(store);

    // A log that was there before the start has no space taken in advance.
    let store = open(&dir.join("one"));
    let first = store.journal().next_seq().expect("rows are there");
    let (count, elapsed, each) = rounds(|at| {
        store.journal().append(first + at, std::slice::from_ref(&bytes)).expect("room");
        store.journal().commit().expect("sync");
    });
    row("journal: the same after a restart, commits", count, elapsed, each);
    drop(store);

    let store = open(&dir.join("many"));
    let rows = vec![bytes.clone(); 256];
    let (count, elapsed, each) = rounds(|at| {
        store.journal().append(at * 256, &rows).expect("room");
        store.journal().commit().expect("sync");
    });
    row("journal: 256 rows per commit, rows", count * 256, elapsed, each);
    let read = Instant::now();
    let rows = store.journal().replay(0).expect("rows").filter(|row| row.is_ok()).count();
    row("journal: replay, rows", rows as u64, read.elapsed(), Vec::new());
    drop(store);

    let store = open(&dir.join("writer"));
    let writer = JournalWriter::start(store.journal().clone()).expect("a thread");
    let told = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut seq = 0;
    while start.elapsed() < ROUND {
        let told = Arc::clone(&told);
        let done = Box::new(move |result: Result<(), wc_store::JournalError>| {
            result.expect("committed");
            told.fetch_add(1, Ordering::Relaxed);
        });
        writer.submit(Batch { first_seq: seq, rows: vec![bytes.clone()], done });
        seq += 1;
    }
    drop(writer);
    row(
        "writer: single rows from one thread, acknowledged rows",
        told.load(Ordering::Relaxed),
        start.elapsed(),
        Vec::new(),
    );
    drop(store);
}

fn mb(label: &str, elapsed: Duration) {
    println!("{label:<58} {:>12.0}", BLOB_BYTES as f64 / 1e6 / elapsed.as_secs_f64());
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = run();
    (value, start.elapsed())
}

fn blobs(dir: &Path) {
    let content: Vec<u8> = (0..BLOB_BYTES as u64 / 8)
        .flat_map(|index| index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    let ((), elapsed) =
        timed(|| content.chunks(262_144).map(sha256).for_each(|digest| assert_ne!(digest, [0; 32])));
    mb("bare SHA-256 of 1 GiB, one thread", elapsed);
    let path = dir.join("plain");
    let ((), elapsed) = timed(|| {
        let mut file = File::create(&path).expect("a file");
        content.chunks(262_144).for_each(|chunk| file.write_all(chunk).expect("room"));
    });
    mb("bare write of 1 GiB, not synced", elapsed);

    let store = open(&dir.join("source"));
    let (stored, elapsed) =
        timed(|| store.blobs().put_file(&path, Durability::WithNextCommit).expect("room"));
    mb("blob: put a file of 1 GiB", elapsed);
    let ((), elapsed) = timed(|| store.sync().expect("sync"));
    mb("blob: sync it", elapsed);
    let (bad, elapsed) = timed(|| store.blobs().verify(&stored.cid).expect("readable"));
    assert_eq!(bad, None);
    mb("blob: verify, one thread", elapsed);
    let out = dir.join("out");
    let ((), elapsed) = timed(|| store.blobs().export(&stored.cid, &out).expect("room"));
    mb("blob: export", elapsed);
    let ((), elapsed) = timed(|| store.blobs().link_or_export(&stored.cid, &out).expect("room"));
    mb("blob: link_or_export", elapsed);

    let target = open(&dir.join("target"));
    target.blobs().put_block(&stored.cid, &store.blobs().block(&stored.cid).expect("here")).expect("room");
    for node in target.blobs().missing(&stored.cid, 1000).expect("readable") {
        target
            .blobs()
            .put_block_of(&stored.cid, &node, &store.blobs().block(&node).expect("here"))
            .expect("room");
    }
    let leaves = target.blobs().missing(&stored.cid, usize::MAX).expect("readable");
    let (_, elapsed) = timed(|| {
        let blocks = content.chunks(262_144).zip(&leaves);
        for (block, leaf) in blocks {
            target.blobs().put_block_of(&stored.cid, leaf, block).expect("room");
        }
    });
    assert!(target.blobs().has(&stored.cid).expect("readable"));
    mb("blob: put 4,096 blocks (verified), one thread", elapsed);
    let (_, elapsed) =
        timed(|| leaves.iter().for_each(|leaf| drop(store.blobs().block(leaf).expect("here"))));
    mb("blob: serve 4,096 blocks (verified), one thread", elapsed);
    target.sync().expect("sync");
    drop(target);
    let target = open(&dir.join("target"));
    let mut first = [0; 16];
    target.blobs().read_at(&stored.cid, 0, &mut first).expect("here");
    (&content[..]).read_exact(&mut [0; 16]).expect("here");
    assert_eq!(first[..], content[..16]);

    let small: Vec<[u8; 200]> =
        (0..50_000u32).map(|n| std::array::from_fn(|at| n.to_le_bytes()[at % 4])).collect();
    let (_, elapsed) = timed(|| {
        for bytes in &small {
            store.blobs().put_bytes(bytes, Durability::WithNextCommit).expect("room");
        }
        store.sync().expect("sync");
    });
    println!(
        "{:<58} {:>12.0} per second",
        "blob: put 200 bytes, 50,000 times, one sync",
        50_000.0 / elapsed.as_secs_f64()
    );
}
