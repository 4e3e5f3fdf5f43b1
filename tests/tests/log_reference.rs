//! Our logs under the eyes of the reference implementation, and its logs under ours. Changed copies are refused by both.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use wc_ledger::{
    Bundle, Checkpoint, Hash, HashTile, Note, Tile, TileSource, Tree, VerifierKey, cell_key, check_tile,
    consistency_proof, cosign, hash_from_tiles, hash_leaf, inclusion_proof, root_at, verify_inclusion,
    witness_key_text,
};
use wc_node::{ArchiveError, LogSource, LogTree};
use wc_tests::reference::LogCheck;
use wc_types::{CellId, SigningKey};

const CELL: CellId = CellId([5; 32]);

fn key(name: u8) -> SigningKey {
    SigningKey::from_seed(&[name; 32])
}

/// A log of short records that remembers every hash.
#[derive(Default)]
struct Ours {
    tree: Tree,
    leaves: Vec<Vec<u8>>,
    hashes: HashMap<(u8, u64), Hash>,
}

impl Ours {
    fn grow(&mut self, size: u64) {
        while self.tree.size() < size {
            let leaf = format!("our record {}", self.tree.size()).into_bytes();
            let hashes = &mut self.hashes;
            self.tree.push_with(hash_leaf(&leaf), |level, index, hash| {
                hashes.insert((level, index), *hash);
            });
            self.leaves.push(leaf);
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(&CELL, self.tree.size(), self.tree.root())
    }
}

impl LogSource for Ours {
    fn leaf(&self, index: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        Ok(self.leaves.get(index as usize).cloned())
    }

    fn hash(&self, level: u8, index: u64) -> Result<Option<Hash>, ArchiveError> {
        Ok(self.hashes.get(&(level, index)).copied())
    }
}

/// Tiles on disk.
struct Dir<'a>(&'a Path);

impl TileSource for Dir<'_> {
    fn tile(&self, tile: Tile) -> Option<Arc<HashTile>> {
        let bytes = std::fs::read(self.0.join(tile.to_string())).ok()?;
        HashTile::read(tile, &bytes).ok().map(Arc::new)
    }
}

fn tiles_of(size: u64) -> impl Iterator<Item = Tile> {
    (0..8).flat_map(move |level| (0..).map_while(move |index| Tile::of_log(level, index, size)))
}

fn flip(path: &Path, place: usize) -> Vec<u8> {
    let bytes = std::fs::read(path).expect("there");
    let mut forged = bytes.clone();
    forged[place % bytes.len()] ^= 1;
    std::fs::write(path, forged).expect("writes");
    bytes
}

#[test]
fn the_reference_accepts_our_log_as_it_grows_and_refuses_changed_copies() {
    let dir = tempfile::tempdir().expect("tempdir");
    let Some(go) = LogCheck::build(dir.path()) else { return };
    let log = dir.path().join("log");
    let tree = LogTree::open(&log).expect("opens");
    let vkey = cell_key(&CELL, key(1).public()).to_string();
    let witness = witness_key_text(&key(2).node_id());
    let log_text = log.to_str().expect("utf-8").to_owned();
    let read = |size: u64| {
        let printed = go.accepts(&["read", &log_text, &vkey, &witness], "");
        assert!(
            printed.starts_with(&format!("{size} entries")) && printed.ends_with("1 cosignatures"),
            "{printed}"
        );
    };
    let mut ours = Ours::default();
    let mut from = 0;
    for size in [1, 3, 255, 256, 257, 700, 66_000] {
        ours.grow(size);
        tree.extend(from, size, &ours).expect("writes");
        let note = ours.checkpoint().sign(&key(1)).expect("signs");
        let note = note.with(cosign(note.text(), &key(2), 1_700_000_000)).expect("fits");
        tree.publish(&note.to_string()).expect("publishes");
        read(size);
        tree.prune(from, size).expect("prunes");
        from = size;
        read(size);
        if size == 700 {
            for (name, place) in [
                ("checkpoint", 20),
                ("checkpoint", 90),
                ("checkpoint", 250),
                ("checkpoint", 420),
                ("tile/0/000", 5),
                ("tile/0/001", 8191),
                ("tile/0/002.p/188", 0),
                ("tile/1/000.p/2", 40),
                ("tile/entries/001", 9),
                ("tile/entries/002.p/188", 0),
            ] {
                let path = log.join(name);
                let bytes = flip(&path, place);
                let refused = go.run(&["read", &log_text, &vkey, &witness], "");
                assert!(!refused.status.success(), "{name} with byte {place} changed");
                std::fs::write(&path, bytes).expect("writes");
            }
            read(size);
        }
    }
    assert!(!log.join("tile/0/000.p").exists(), "partial tiles go when their full one is there");
    assert!(log.join("tile/0/257.p/208").exists());

    // Our proofs, made from the tiles on disk, under its verifier.
    let source = |level, index| hash_from_tiles(&Dir(&log), from, level, index);
    let text =
        |hashes: &[Hash]| hashes.iter().map(|hash| format!(" {}", BASE64.encode(hash))).collect::<String>();
    let root = text(&[ours.tree.root()]);
    let mut lines = String::new();
    for index in [0, 1, 255, 256, 40_000, 65_999] {
        let path = inclusion_proof(index, from, source).expect("tiles are there");
        let leaf = text(&[hash_leaf(&ours.leaves[index as usize])]);
        lines += &format!("record {from}{root} {index}{leaf}{}\n", text(&path));
    }
    for first in [1, 2, 256, 700, 32_768, 65_999] {
        let path = consistency_proof(first, from, source).expect("tiles are there");
        let earlier = root_at(first, source).expect("tiles are there");
        lines += &format!("tree {from}{root} {first}{}{}\n", text(&[earlier]), text(&path));
    }
    assert_eq!(go.accepts(&["proofs"], &lines), "12 proofs");
    for line in lines.lines() {
        let (front, last) = line.rsplit_once(' ').expect("fields");
        let mut hash = BASE64.decode(last.as_bytes()).expect("base64");
        hash[7] ^= 1;
        let forged = format!("{front} {}\n", BASE64.encode(&hash));
        assert!(!go.run(&["proofs"], &forged).status.success(), "{forged}");
    }
}

#[test]
fn we_accept_the_log_of_the_reference_and_refuse_changed_copies() {
    let dir = tempfile::tempdir().expect("tempdir");
    let Some(go) = LogCheck::build(dir.path()) else { return };
    for size in [1u64, 256, 700, 5_000] {
        let log = dir.path().join(format!("log-{size}"));
        std::fs::create_dir(&log).expect("creates");
        let log_text = log.to_str().expect("utf-8");
        let vkey = go.accepts(&["write", log_text, "example.org/reference", &size.to_string()], "");
        let vkey: VerifierKey = vkey.parse().expect("its key");
        let open = || {
            let text = std::fs::read_to_string(log.join("checkpoint")).ok()?;
            Checkpoint::open(&Note::parse(&text).ok()?, &vkey).ok()
        };
        let checkpoint = open().expect("its checkpoint opens");
        assert_eq!(checkpoint.size, size);
        let (root, source) = (checkpoint.root, Dir(&log));
        let check = |tile: Tile| {
            let bytes = std::fs::read(log.join(tile.to_string())).expect("its tile");
            check_tile(tile, &bytes, size, &root, &source)
        };
        for tile in tiles_of(size) {
            check(tile).expect("its tile is of its root");
        }
        let hash = |level, index| hash_from_tiles(&source, size, level, index);
        for bundle in (0..).map_while(|index| Bundle::of_log(index, size)) {
            let bytes = std::fs::read(log.join(bundle.to_string())).expect("its bundle");
            for (index, leaf) in bundle.leaves().zip(bundle.read(&bytes).expect("reads")) {
                assert_eq!(leaf, format!("record {index} of example.org/reference").as_bytes());
                let path = inclusion_proof(index, size, hash).expect("tiles are there");
                verify_inclusion(&hash_leaf(leaf), index, size, &path, &root).expect("holds");
            }
        }
        for tile in tiles_of(size) {
            let path = log.join(tile.to_string());
            let bytes = flip(&path, 11);
            assert!(check(tile).is_err(), "{tile} changed");
            std::fs::write(&path, bytes).expect("writes");
        }
        for place in 0..std::fs::metadata(log.join("checkpoint")).expect("there").len() as usize {
            let bytes = flip(&log.join("checkpoint"), place);
            assert_eq!(open(), None, "checkpoint with byte {place} changed");
            std::fs::write(log.join("checkpoint"), bytes).expect("writes");
        }
    }
}
