//! Blobs as their users see them: the right names, whole or known to be partial, never rotten, never over the cap.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "shared/disk.rs"]
mod disk;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;
use wc_store::unixfs::cid_of_file;
use wc_store::{BlobError, Blobs, Durability, Store, StoreConfig};
use wc_types::cid::{CODEC_DAG_CBOR, CODEC_DAG_PB, CODEC_RAW, Cid, cid_of};

const MIB: u64 = 1 << 20;
const CHUNK: usize = 262_144;
use Durability::{Now, WithNextCommit};

/// A store whose clock ticks once per reading.
fn open(dir: &Path, cap_bytes: u64) -> Store {
    let ticks = AtomicI64::new(1);
    let clock = Arc::new(move || ticks.fetch_add(1, Ordering::Relaxed));
    Store::open(StoreConfig::new(dir, cap_bytes, clock)).unwrap()
}

fn pattern(count: usize, seed: u32) -> Vec<u8> {
    (0..count as u32)
        .map(|index| (index.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// Every block of `cid` that `source` has, fetched into `target` in rounds; returns how many blocks went over.
fn fetch(source: &Blobs, target: &Blobs, cid: &Cid) -> usize {
    let mut count = 0;
    loop {
        let missing = target.missing(cid, 50).unwrap();
        if missing.is_empty() {
            return count;
        }
        for block in missing {
            target.put_block_of(cid, &block, &source.block(&block).unwrap()).unwrap();
            count += 1;
        }
    }
}

/// The file of a blob inside the store.
fn file_of(store: &Store, cid: &Cid) -> PathBuf {
    let folders = fs::read_dir(store.dir().join("blobs")).unwrap().map(|entry| entry.unwrap().path());
    folders.map(|folder| folder.join(cid.to_string())).find(|path| path.exists()).unwrap()
}

fn files_in(store: &Store) -> usize {
    let folders = fs::read_dir(store.dir().join("blobs")).unwrap().map(|entry| entry.unwrap().path());
    folders.map(|folder| fs::read_dir(folder).unwrap().count()).sum()
}

#[test]
fn content_comes_back_under_the_name_ipfs_gives_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"), 1024 * MIB);
    let blobs = store.blobs();
    for count in [0, 1, 65_536, 65_537, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK, 175 * CHUNK + 9] {
        let content = pattern(count, 7);
        let stored = blobs.put_bytes(&content, WithNextCommit).unwrap();
        assert_eq!((stored.cid, stored.bytes), (cid_of_file(&content), count as u64));
        assert!(blobs.has(&stored.cid).unwrap());
        assert_eq!(blobs.read(&stored.cid, count as u64).unwrap(), content);
        assert_eq!(blobs.verify(&stored.cid).unwrap(), None);
        let mut some = vec![0; 1000];
        let read = blobs.read_at(&stored.cid, 300_000, &mut some).unwrap();
        assert_eq!(some[..read], content[300_000.min(count)..301_000.min(count)]);
        if count > 0 {
            let too_large = blobs.read(&stored.cid, count as u64 - 1).unwrap_err();
            assert!(matches!(too_large, BlobError::TooLarge { .. }), "{too_large}");
        }

        let path = dir.path().join(format!("{count}"));
        blobs.export(&stored.cid, &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(blobs.put_file(&path, Now).unwrap(), stored);
        blobs.link_or_export(&stored.cid, &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 10, "no temporary file is left");
    let before = blobs.usage();
    drop(store);
    let store = open(&dir.path().join("store"), 1024 * MIB);
    assert_eq!(store.blobs().usage(), before);
    for count in [0, 65_537, CHUNK + 1, 175 * CHUNK + 9] {
        assert!(store.blobs().has(&cid_of_file(&pattern(count, 7))).unwrap());
    }
}

#[test]
fn a_record_is_one_block_of_dag_cbor() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 16 * MIB);
    for count in [1, 70_000, 1 << 20] {
        let record = pattern(count, 1);
        let cid = store.blobs().put_record(&record, WithNextCommit).unwrap();
        assert_eq!(cid, cid_of(CODEC_DAG_CBOR, &record));
        assert_eq!(store.blobs().block(&cid).unwrap(), record);
        assert_eq!(store.blobs().read(&cid, MIB).unwrap(), record);
    }
    let error = store.blobs().put_record(&vec![0; (1 << 20) + 1], Now).unwrap_err();
    assert!(matches!(error, BlobError::TooLarge { .. }), "{error}");
}

#[test]
fn a_large_blob_moves_block_by_block() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&dir.path().join("source"), 256 * MIB);
    let target = open(&dir.path().join("target"), 256 * MIB);
    let content = pattern(180 * CHUNK + 77, 3);
    let cid = source.blobs().put_bytes(&content, WithNextCommit).unwrap().cid;
    assert_eq!(target.blobs().missing(&cid, 10).unwrap(), [cid]);
    // Root, two inner nodes, 181 leaves.
    assert_eq!(fetch(source.blobs(), target.blobs(), &cid), 184);
    assert_eq!(target.blobs().read(&cid, 256 * MIB).unwrap(), content);
    // What was fetched can be served on, inner nodes and leaves.
    let third = open(&dir.path().join("third"), 256 * MIB);
    fetch(target.blobs(), third.blobs(), &cid);
    assert_eq!(third.blobs().verify(&cid).unwrap(), None);
    target.journal().commit().unwrap();
}

#[test]
fn a_partial_blob_serves_what_it_has_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&dir.path().join("source"), 16 * MIB);
    let target = open(&dir.path().join("target"), 16 * MIB);
    let cid = source.blobs().put_bytes(&pattern(8 * CHUNK, 5), Now).unwrap().cid;
    target.blobs().put_block(&cid, &source.blobs().block(&cid).unwrap()).unwrap();
    let leaves = target.blobs().missing(&cid, 100).unwrap();
    assert_eq!(leaves.len(), 8);
    target.blobs().put_block(&leaves[3], &source.blobs().block(&leaves[3]).unwrap()).unwrap();
    assert!(target.blobs().block(&leaves[3]).is_ok());
    assert!(matches!(target.blobs().block(&leaves[4]), Err(BlobError::NotFound { .. })));
    let stat = target.blobs().stat(&cid).unwrap().unwrap();
    assert_eq!((stat.bytes, stat.bytes_present, stat.complete), (8 * CHUNK as u64, CHUNK as u64, false));
    assert!(matches!(target.blobs().read(&cid, MIB * 16), Err(BlobError::Incomplete { .. })));
    // A block that comes twice is no error; a block of something else is.
    assert!(
        !target.blobs().put_block_of(&cid, &leaves[3], &source.blobs().block(&leaves[3]).unwrap()).unwrap()
    );
    let other = cid_of(CODEC_RAW, b"other");
    let error = target.blobs().put_block_of(&cid, &other, b"other").unwrap_err();
    assert!(matches!(error, BlobError::NotMissing { .. }), "{error}");
}

#[test]
fn bytes_that_are_not_what_the_name_says_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 16 * MIB);
    let cid = cid_of(CODEC_RAW, b"right");
    let error = store.blobs().put_block(&cid, b"wrong").unwrap_err();
    assert!(matches!(error, BlobError::Mismatch { .. }), "{error}");
    assert!(!store.blobs().has(&cid).unwrap());
    assert!(store.blobs().put_block(&cid, b"right").unwrap());

    let junk = cid_of(CODEC_DAG_PB, b"junk");
    assert!(matches!(store.blobs().put_block(&junk, b"junk"), Err(BlobError::Unixfs { .. })));
    // An empty UnixFS directory, which is valid elsewhere.
    let folder = cid_of(CODEC_DAG_PB, &[0x0a, 0x02, 0x08, 0x01]);
    assert!(matches!(store.blobs().put_block(&folder, &[0x0a, 2, 8, 1]), Err(BlobError::Unixfs { .. })));
    let version_0 = Cid::try_from("QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn").unwrap();
    for cid in [version_0, cid_of(0x0129, b"dag-json")] {
        assert!(matches!(store.blobs().has(&cid), Err(BlobError::UnsupportedCid { .. })), "{cid}");
    }
    assert_eq!(store.blobs().usage().blobs, 1);
}

#[test]
fn a_root_whose_leaf_has_another_length_never_becomes_a_file() {
    // Two leaves of 100 bytes under a root that claims 262,144 and 100.
    use wc_store::unixfs::{Layout, Tree};
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 16 * MIB);
    let leaves = [pattern(100, 1), pattern(100, 2)];
    let layout = Layout::of(CHUNK as u64 + 100).unwrap();
    let tree = Tree::build(layout, leaves.iter().map(|leaf| wc_types::cid::sha256(leaf)).collect());
    store.blobs().put_block(&tree.cid(), &tree.root_block).unwrap();
    let error =
        store.blobs().put_block_of(&tree.cid(), &cid_of(CODEC_RAW, &leaves[0]), &leaves[0]).unwrap_err();
    assert!(matches!(error, BlobError::Unixfs { .. }), "{error}");
    assert!(!store.blobs().has(&tree.cid()).unwrap());
}

#[test]
fn a_block_that_rotted_is_dropped_reported_and_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&dir.path().join("source"), 64 * MIB);
    let store = open(&dir.path().join("store"), 64 * MIB);
    let content = pattern(6 * CHUNK, 9);
    let cid = source.blobs().put_bytes(&content, Now).unwrap().cid;
    store.blobs().put_bytes(&content, Now).unwrap();
    let single = store.blobs().put_bytes(&content[..100_000], Now).unwrap().cid;
    let leaf = cid_of(CODEC_RAW, &content[2 * CHUNK..3 * CHUNK]);
    for path in [file_of(&store, &cid), file_of(&store, &single)] {
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[0xff; 3], 2 * CHUNK as u64 % 90_000).unwrap();
        file.write_all_at(&[0xff; 3], (2 * CHUNK as u64 + 5).min(file.metadata().unwrap().len() - 3))
            .unwrap();
    }
    assert!(matches!(store.blobs().block(&single), Err(BlobError::Corrupt { .. })));
    assert!(!store.blobs().has(&single).unwrap());

    let error = store.blobs().block(&leaf).unwrap_err();
    assert!(
        matches!(error, BlobError::Corrupt { cid: bad, ref root } if bad == leaf && **root == cid),
        "{error}"
    );
    assert!(!store.blobs().has(&cid).unwrap());
    // Hashing what is there found the other damaged leaf as well.
    assert!(store.blobs().missing(&cid, 10).unwrap().contains(&leaf));
    assert!(fetch(source.blobs(), store.blobs(), &cid) <= 2);
    assert_eq!(store.blobs().verify(&cid).unwrap(), None);
    assert_eq!(store.blobs().read(&cid, 64 * MIB).unwrap(), content);
}

#[test]
fn verify_finds_the_first_bad_block() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 64 * MIB);
    let content = pattern(6 * CHUNK, 9);
    let cid = store.blobs().put_bytes(&content, WithNextCommit).unwrap().cid;
    let path = file_of(&store, &cid);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::File::options().write(true).open(path).unwrap().write_all_at(b"!!!", 4 * CHUNK as u64).unwrap();
    let leaf = cid_of(CODEC_RAW, &content[4 * CHUNK..5 * CHUNK]);
    assert_eq!(store.blobs().verify(&cid).unwrap(), Some(leaf));
    assert_eq!(store.blobs().missing(&cid, 10).unwrap(), [leaf]);
    assert!(store.blobs().put_block(&leaf, &content[4 * CHUNK..5 * CHUNK]).unwrap());
    assert_eq!(store.blobs().verify(&cid).unwrap(), None);
}

#[test]
fn the_least_recently_used_goes_first_and_pins_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 4 * MIB);
    let blobs = store.blobs();
    let put = |seed| blobs.put_bytes(&pattern(MIB as usize, seed), WithNextCommit).unwrap().cid;
    let (a, b, c, d) = (put(1), put(2), put(3), put(4));
    blobs.read(&a, MIB).unwrap();
    blobs.pin(&b, "job one").unwrap();
    let e = put(5);
    assert_eq!([a, b, c, d, e].map(|cid| blobs.has(&cid).unwrap()), [true, true, false, true, true]);
    put(6);
    assert_eq!([a, b, d, e].map(|cid| blobs.has(&cid).unwrap()), [true, true, false, true]);
    assert_eq!(blobs.usage().pinned_bytes, MIB);
    // Two owners: the pin holds until both let go. Letting go twice is letting go once.
    blobs.pin(&b, "job two").unwrap();
    blobs.unpin(&b, "job one").unwrap();
    blobs.unpin(&b, "job one").unwrap();
    blobs.unpin(&b, "nobody").unwrap();
    (7..12).map(put).for_each(|cid| assert!(blobs.has(&cid).unwrap()));
    assert!(blobs.has(&b).unwrap());
    assert!(matches!(blobs.remove(&b), Err(BlobError::Pinned { .. })));
    blobs.unpin(&b, "job two").unwrap();
    (12..16).map(put).for_each(|cid| assert!(blobs.has(&cid).unwrap()));
    assert!(!blobs.has(&b).unwrap());
    assert_eq!(blobs.usage().used_bytes, 4 * MIB);
    assert_eq!(blobs.usage().pinned_bytes, 0);
    assert_eq!(files_in(&store), 4);
}

#[test]
fn what_cannot_fit_is_refused_with_numbers_and_evicts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 4 * MIB);
    let blobs = store.blobs();
    let a = blobs.put_bytes(&pattern(MIB as usize, 1), Now).unwrap().cid;
    let b = blobs.put_bytes(&pattern(2 * MIB as usize, 2), Now).unwrap().cid;
    blobs.pin(&b, "me").unwrap();
    let error = blobs.put_bytes(&pattern(3 * MIB as usize, 3), Now).unwrap_err();
    let BlobError::CapExceeded { needed_bytes, free_bytes, cap_bytes } = error else { panic!("{error}") };
    assert!(needed_bytes > 0 && free_bytes == 2 * MIB && cap_bytes == 4 * MIB);
    assert!(blobs.has(&b).unwrap());
    let root = cid_of_file(&vec![0; 3 * MIB as usize]);
    assert!(!blobs.has(&root).unwrap());
    assert_eq!(
        blobs.usage().used_bytes,
        blobs.usage().blobs.min(1) * 2 * MIB + MIB * u64::from(blobs.has(&a).unwrap())
    );
    for owner in ["", &"x".repeat(129)] {
        assert!(matches!(blobs.pin(&a, owner), Err(BlobError::Owner { .. })));
    }
}

#[test]
fn a_pin_may_come_before_the_content_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(MIB as usize, 1);
    let cid = cid_of_file(&content);
    let store = open(dir.path(), 2 * MIB);
    store.blobs().pin(&cid, "me").unwrap();
    store.blobs().put_bytes(&content, WithNextCommit).unwrap();
    assert_eq!(store.blobs().usage().pinned_bytes, MIB);
    store.journal().commit().unwrap();
    drop(store);
    let store = open(dir.path(), 2 * MIB);
    assert_eq!(store.blobs().usage().pinned_bytes, MIB);
    for seed in 2..6 {
        store.blobs().put_bytes(&pattern(MIB as usize, seed), WithNextCommit).unwrap();
    }
    assert!(store.blobs().stat(&cid).unwrap().unwrap().pinned);
    assert_eq!(store.blobs().read(&cid, MIB).unwrap(), content);
}

#[test]
fn a_smaller_cap_is_reached_by_collecting() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 8 * MIB);
    for seed in 0..8 {
        store.blobs().put_bytes(&pattern(MIB as usize, seed), WithNextCommit).unwrap();
    }
    drop(store);
    let store = open(dir.path(), 3 * MIB);
    let collected = store.blobs().collect().unwrap();
    assert_eq!((collected.blobs, collected.bytes), (5, 5 * MIB));
    assert!(store.blobs().has(&cid_of_file(&pattern(MIB as usize, 7))).unwrap());
}

#[test]
fn a_stream_that_breaks_leaves_nothing() {
    struct Breaks(usize);
    impl std::io::Read for Breaks {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = buffer.len().min(self.0);
            self.0 -= count;
            if count == 0 { Err(std::io::Error::other("the peer went away")) } else { Ok(count) }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 64 * MIB);
    for count in [10, CHUNK, CHUNK + 1, 40 * CHUNK] {
        assert!(matches!(store.blobs().put_reader(Breaks(count), Now), Err(BlobError::Io { .. })));
    }
    assert_eq!(store.blobs().usage().used_bytes, 0);
    assert_eq!(files_in(&store), 0);
}

#[test]
fn a_full_disk_refuses_blobs_and_the_journal_goes_on() {
    let Some(disk) = disk::SmallDisk::mount(8 * MIB) else { return };
    let store = open(disk.path(), 64 * MIB);
    let content = pattern(20 * MIB as usize, 1);
    let error = store.blobs().put_bytes(&content, Now).unwrap_err();
    assert!(matches!(error, BlobError::Io { .. }), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let source = open(dir.path(), 64 * MIB);
    let cid = source.blobs().put_bytes(&content, WithNextCommit).unwrap().cid;
    let root = source.blobs().block(&cid).unwrap();
    let error = store.blobs().put_block(&cid, &root).unwrap_err();
    assert!(matches!(error, BlobError::Io { .. }), "a fetch is refused before its first leaf: {error}");
    assert_eq!(store.blobs().usage().used_bytes, 0);
    assert_eq!(files_in(&store), 0);
    store.journal().append(1, &[b"fact"]).unwrap();
    store.journal().commit().unwrap();
    disk.grow(64 * MIB);
    assert_eq!(fetch(source.blobs(), store.blobs(), &cid), 81);
    assert_eq!(store.blobs().verify(&cid).unwrap(), None);
}

#[test]
fn several_threads_fill_one_blob() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&dir.path().join("source"), 256 * MIB);
    let target = open(&dir.path().join("target"), 256 * MIB);
    let content = pattern(200 * CHUNK, 11);
    let cid = source.blobs().put_bytes(&content, WithNextCommit).unwrap().cid;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| fetch(source.blobs(), target.blobs(), &cid));
        }
    });
    assert_eq!(target.blobs().read(&cid, 256 * MIB).unwrap(), content);
}

#[test]
fn the_same_content_by_two_ways_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&dir.path().join("source"), 64 * MIB);
    let store = open(&dir.path().join("store"), 64 * MIB);
    let content = pattern(5 * CHUNK, 13);
    let cid = source.blobs().put_bytes(&content, WithNextCommit).unwrap().cid;
    store.blobs().put_block(&cid, &source.blobs().block(&cid).unwrap()).unwrap();
    let leaf = store.blobs().missing(&cid, 1).unwrap()[0];
    store.blobs().put_block(&leaf, &source.blobs().block(&leaf).unwrap()).unwrap();
    store.blobs().put_bytes(&content, WithNextCommit).unwrap();
    store.blobs().put_bytes(&content, Now).unwrap();
    assert_eq!(store.blobs().usage().used_bytes, 5 * CHUNK as u64);
    assert_eq!(store.blobs().missing(&cid, 10).unwrap(), []);
    // A file of equal chunks is one leaf, written in every place.
    let zeros = vec![0; 7 * CHUNK];
    let cid = source.blobs().put_bytes(&zeros, WithNextCommit).unwrap().cid;
    assert_eq!(fetch(source.blobs(), store.blobs(), &cid), 2);
    assert_eq!(store.blobs().read(&cid, 64 * MIB).unwrap(), zeros);
}

#[test]
fn a_start_removes_what_nobody_knows_and_forgets_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 64 * MIB);
    let kept = store.blobs().put_bytes(&pattern(CHUNK + 1, 1), Now).unwrap().cid;
    let gone = store.blobs().put_bytes(&pattern(CHUNK + 1, 2), Now).unwrap().cid;
    let cut = store.blobs().put_bytes(&pattern(CHUNK + 1, 3), Now).unwrap().cid;
    let (gone_path, cut_path) = (file_of(&store, &gone), file_of(&store, &cut));
    drop(store);
    let blobs = dir.path().join("blobs");
    fs::write(blobs.join("tmp/9.tmp"), b"half").unwrap();
    fs::create_dir_all(blobs.join("00")).unwrap();
    fs::write(blobs.join("00/notes"), b"?").unwrap();
    fs::write(gone_path.with_file_name(cid_of(CODEC_RAW, b"unknown").to_string()), b"?").unwrap();
    fs::remove_file(&gone_path).unwrap();
    fs::set_permissions(&cut_path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::File::options().write(true).open(&cut_path).unwrap().set_len(1000).unwrap();
    let store = open(dir.path(), 64 * MIB);
    assert_eq!(files_in(&store), 1);
    assert!(store.blobs().has(&kept).unwrap());
    assert!(store.blobs().stat(&gone).unwrap().is_none());
    assert!(store.blobs().stat(&cut).unwrap().is_none());
    assert_eq!(store.blobs().usage().used_bytes, CHUNK as u64 + 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_subset_of_blocks_in_any_order_can_be_resumed(
        count in CHUNK + 1..12 * CHUNK,
        seed in any::<u32>(),
        order in proptest::collection::vec(any::<u16>(), 1..14),
        restart in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let source = open(&dir.path().join("source"), 64 * MIB);
        let content = pattern(count, seed);
        let cid = source.blobs().put_bytes(&content, WithNextCommit).unwrap().cid;
        let path = dir.path().join("target");
        let mut target = open(&path, 64 * MIB);
        target.blobs().put_block(&cid, &source.blobs().block(&cid).unwrap()).unwrap();
        let leaves = target.blobs().missing(&cid, 1000).unwrap();
        prop_assert_eq!(leaves.len(), count.div_ceil(CHUNK));
        let mut sent = std::collections::HashSet::new();
        for pick in &order {
            let leaf = leaves[usize::from(*pick) % leaves.len()];
            target.blobs().put_block_of(&cid, &leaf, &source.blobs().block(&leaf).unwrap()).unwrap();
            sent.insert(leaf);
        }
        if restart {
            drop(target);
            target = open(&path, 64 * MIB);
        }
        prop_assert_eq!(target.blobs().has(&cid).unwrap(), sent.len() == leaves.len());
        let expected: Vec<Cid> = leaves.iter().copied().filter(|leaf| !sent.contains(leaf)).collect();
        prop_assert_eq!(target.blobs().missing(&cid, 1000).unwrap(), expected);
        prop_assert_eq!(fetch(source.blobs(), target.blobs(), &cid), leaves.len() - sent.len());
        prop_assert_eq!(target.blobs().read(&cid, 64 * MIB).unwrap(), content);
    }
}
