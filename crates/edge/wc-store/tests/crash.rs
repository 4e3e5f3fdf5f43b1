//! A process that is killed at a random moment: what it acknowledged is there, what it did not is known to be partial.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use wc_store::unixfs::cid_of_file;
use wc_store::{Durability, Store, StoreConfig};
use wc_types::cid::Cid;

const CAP_BYTES: u64 = 1 << 30;
const DIR: &str = "WC_STORE_TEST_CRASH_DIR";

fn open(dir: &Path) -> Store {
    Store::open(StoreConfig::new(dir, CAP_BYTES, Arc::new(|| 0))).unwrap()
}

/// Chunks that all differ, cheap enough to make in a debug build.
fn content(seed: u64) -> Vec<u8> {
    let count = [100, 70_000, 262_145, 3_000_000, 20_000_000][seed as usize % 5] + seed as usize % 89;
    let mut bytes = vec![seed as u8; count];
    for (index, chunk) in bytes.chunks_mut(262_144).enumerate() {
        let mark = [seed.to_le_bytes(), index.to_le_bytes()].concat();
        let room = chunk.len().min(mark.len());
        chunk[..room].copy_from_slice(&mark[..room]);
    }
    bytes
}

/// The child: facts, blobs in both durabilities and a fetch, said aloud only when acknowledged. It never ends.
#[test]
fn the_process_to_be_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = open(Path::new(&dir));
    let first = store.journal().next_seq().unwrap_or(1);
    let say = |text: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).unwrap();
    };
    for seq in first.. {
        store.journal().append(seq, &[format!("fact {seq}")]).unwrap();
        let bytes = content(seq);
        if seq % 3 == 0 {
            let cid = store.blobs().put_bytes(&bytes, Durability::Now).unwrap().cid;
            say(format!("blob {cid}\n"));
        } else if seq % 3 == 1 {
            let cid = store.blobs().put_reader(&bytes[..], Durability::WithNextCommit).unwrap().cid;
            store.journal().commit().unwrap();
            say(format!("blob {cid}\n"));
        } else {
            // A fetch, leaf by leaf.
            let layout = wc_store::unixfs::Layout::of(bytes.len() as u64);
            if let Ok(layout) = layout {
                let leaves = bytes.chunks(262_144).map(wc_types::cid::sha256).collect();
                let tree = wc_store::unixfs::Tree::build(layout, leaves);
                store.blobs().put_block(&tree.cid(), &tree.root_block).unwrap();
                for leaf in bytes.chunks(262_144) {
                    let cid = wc_types::cid::cid_of(wc_types::cid::CODEC_RAW, leaf);
                    store.blobs().put_block(&cid, leaf).unwrap();
                }
            }
        }
        store.journal().commit().unwrap();
        say(format!("fact {seq}\n"));
    }
}

#[test]
fn a_killed_process_leaves_every_blob_whole_or_known_to_be_partial() {
    let dir = tempfile::tempdir().unwrap();
    let (mut facts, mut blobs) = (0u64, std::collections::HashSet::new());
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_process_to_be_killed", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let delay = Duration::from_millis(60 + round * 97 % 400);
        let reader = std::thread::spawn(move || out.lines().map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(delay);
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            if let Some(seq) = line.strip_prefix("fact ") {
                facts = seq.parse().unwrap();
            } else if let Some(cid) = line.strip_prefix("blob ") {
                blobs.insert(Cid::try_from(cid).unwrap());
            }
        }

        let store = open(dir.path());
        let rows: Vec<_> =
            store.journal().replay(1).map_or(Vec::new(), |rows| rows.map(Result::unwrap).collect());
        assert!(rows.len() as u64 >= facts, "{} rows of {facts} acknowledged", rows.len());
        assert!(rows.iter().all(|row| row.bytes == format!("fact {}", row.seq).into_bytes()));
        for cid in &blobs {
            assert!(store.blobs().has(cid).unwrap(), "{cid} was acknowledged");
            assert_eq!(store.blobs().verify(cid).unwrap(), None, "{cid}");
        }
        let (mut partial, mut present_bytes) = (0, 0);
        for seed in 1..=facts + 2 {
            let bytes = content(seed);
            let cid = cid_of_file(&bytes);
            let Some(stat) = store.blobs().stat(&cid).unwrap() else { continue };
            present_bytes += stat.bytes;
            if stat.complete {
                assert_eq!(store.blobs().read(&cid, CAP_BYTES).unwrap(), bytes);
            } else {
                partial += 1;
                assert!(!store.blobs().missing(&cid, 1).unwrap().is_empty());
            }
        }
        assert!(partial <= 1 + round, "{partial} partial blobs");
        let usage = store.blobs().usage();
        assert!(usage.used_bytes >= present_bytes, "{usage:?} {present_bytes}");
        let left = std::fs::read_dir(dir.path().join("blobs/tmp")).unwrap().count();
        assert_eq!(left, 0, "temporary files are removed at the start");
    }
    assert!(facts >= 5, "only {facts} facts in all rounds: the test is too slow to mean anything");
}
