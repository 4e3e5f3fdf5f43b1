//! How fast the ledger's hot functions are. `cargo bench -p wc-ledger` prints one line each.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock; the crate itself does not")]

#[path = "../tests/fixture/cell.rs"]
mod cell;
#[allow(dead_code, reason = "shared with tests")]
#[path = "../tests/fixture/group.rs"]
mod group;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cell::Cell;
use wc_ledger::threshold::SignerKeys;
use wc_ledger::threshold::sign::Member;
use wc_ledger::{
    Anchors, Book, HashTile, Note, Tile, TileSource, Tree, cell_key, check_tile, consistency_proof,
    decode_receipt, hash_from_tiles, hash_leaf, inclusion_proof, leaf_hash, verify_consistency,
    verify_inclusion, verify_receipt,
};
use wc_types::to_canonical;

/// Leaves of the log that proofs are made in.
const LEAVES: u64 = 1 << 20;

/// Runs `work` in rounds of at least 20 ms for a second and prints the median time of one call.
fn measure(name: &str, mut work: impl FnMut()) {
    let mut calls = 1u32;
    let mut rounds: Vec<Duration> = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        let start = Instant::now();
        for _ in 0..calls {
            work();
        }
        let took = start.elapsed();
        if took < Duration::from_millis(20) {
            calls *= 2;
        } else {
            rounds.push(took / calls);
        }
    }
    rounds.sort_unstable();
    let median = rounds.get(rounds.len() / 2).copied().unwrap_or_default();
    let rate = if median.is_zero() { 0 } else { 1_000_000_000 / median.as_nanos() };
    println!("{name:<52} {median:>12.2?} {rate:>12} per second");
}

/// Entries of the log whose proofs are made from tiles.
const TILED: u64 = 10_000_000;

/// The tiles of a log, all in memory.
struct Cache(Vec<Vec<Arc<HashTile>>>);

impl TileSource for Cache {
    fn tile(&self, tile: Tile) -> Option<Arc<HashTile>> {
        self.0.get(usize::from(tile.level()))?.get(usize::try_from(tile.index()).ok()?).cloned()
    }
}

/// Proofs from cached tiles, at places all over the log.
fn tiles() {
    let mut tree = Tree::new();
    let mut levels: Vec<Vec<u8>> = vec![Vec::new(); 8];
    for leaf in 0..TILED {
        tree.push_with(hash_leaf(&leaf.to_be_bytes()), |level, _, hash| {
            if level.is_multiple_of(8) {
                levels[usize::from(level / 8)].extend_from_slice(hash);
            }
        });
    }
    let cache = Cache(
        (0u8..)
            .zip(&levels)
            .map(|(level, bytes)| {
                let tiles = (0..).map_while(|index| Tile::of_log(level, index, TILED));
                tiles
                    .zip(bytes.chunks(256 * 32))
                    .map(|(tile, bytes)| Arc::new(HashTile::read(tile, bytes).expect("whole tiles")))
                    .collect()
            })
            .collect(),
    );
    let (root, mut index) = (tree.root(), 0u64);
    let source = |level, index| hash_from_tiles(&cache, TILED, level, index);
    measure("inclusion proof from tiles: make, log of 10^7", || {
        index = (index + 7_368_787) % TILED;
        black_box(inclusion_proof(index, TILED, source)).expect("proof");
    });
    measure("consistency proof from tiles: make, log of 10^7", || {
        index = (index + 7_368_787) % TILED;
        black_box(consistency_proof(index + 1, TILED, source)).expect("proof");
    });
    let path = inclusion_proof(index, TILED, source).expect("proof");
    verify_inclusion(&hash_leaf(&index.to_be_bytes()), index, TILED, &path, &root).expect("holds");
    let first = cache.0[0][0].clone();
    let bytes = first.hashes().concat();
    measure("tile: read (hashes the levels between)", || {
        black_box(HashTile::read(first.tile(), black_box(&bytes))).expect("whole");
    });
    measure("tile: check against the root", || {
        black_box(check_tile(first.tile(), black_box(&bytes), TILED, &root, &cache)).expect("of this log");
    });
}

fn main() {
    let mut tree = Tree::new();
    let mut leaf = 0u64;
    measure("tree: push one leaf hash", || {
        leaf += 1;
        tree.push(hash_leaf(&leaf.to_be_bytes()));
    });
    measure("tree: root of about a million leaves", || {
        black_box(tree.root());
    });

    // Hashes by level, as a store would keep them.
    let mut levels: Vec<Vec<[u8; 32]>> = vec![Vec::new(); 64];
    let mut tree = Tree::new();
    for leaf in 0..LEAVES - 1 {
        tree.push_with(hash_leaf(&leaf.to_be_bytes()), |level, _, hash| {
            levels[usize::from(level)].push(*hash)
        });
    }
    let source = |level: u8, index: u64| levels[usize::from(level)].get(index as usize).copied();
    let (index, size, root) = (LEAVES / 3, tree.size(), tree.root());
    let path = inclusion_proof(index, size, source).expect("all hashes are there");
    measure("inclusion proof: make, log of 2^20 - 1 entries", || {
        black_box(inclusion_proof(black_box(index), size, source)).expect("proof");
    });
    let hash = levels[0][index as usize];
    measure("inclusion proof: check", || {
        verify_inclusion(black_box(&hash), index, size, &path, &root).expect("holds");
    });

    drop(levels);
    tiles();

    let mut cell = Cell::found();
    let accepted = cell.accept(3, "AAB", 20, 15);
    let entry = accepted.entry.clone();
    cell.pad(1000);
    let file = cell.file(accepted);
    let bytes = to_canonical(&file);
    println!("receipt file of R = 3: {} bytes", bytes.len());
    measure("receipt: decode and verify", || {
        let file = decode_receipt(black_box(&bytes)).expect("decodes");
        black_box(verify_receipt(&file, &Anchors::default())).expect("verifies");
    });
    measure("receipt: decode (checks 5 signatures)", || {
        black_box(decode_receipt(black_box(&bytes))).expect("decodes");
    });
    measure("receipt: verify what was decoded", || {
        black_box(verify_receipt(black_box(&file), &Anchors::default())).expect("verifies");
    });
    let (early, late) = (cell.checkpoint(), {
        cell.pad(1000);
        cell.checkpoint()
    });
    let proof = cell.consistency(early.size);
    measure("consistency proof: check, 1,000 entries later", || {
        verify_consistency(early.size, late.size, black_box(&proof), &early.root, &late.root).expect("holds");
    });
    let note = Note::parse(&file.inclusion.checkpoint).expect("parses");
    let key = cell_key(&cell.id(), cell.coordinator.public());
    measure("note: verify", || {
        black_box(&note).verify(&key).expect("signed");
    });
    measure("note: parse", || {
        black_box(Note::parse(black_box(&file.inclusion.checkpoint))).expect("parses");
    });
    measure("checkpoint: sign", || {
        black_box(cell.checkpoint().sign(&cell.coordinator)).expect("signs");
    });
    let text = cell.checkpoint().to_text();
    let founding = SignerKeys::founding(&cell.founding);
    let alone = [Member::alone(founding.clone(), &cell.coordinator).expect("its own key")];
    measure("checkpoint: sign, 1 of 1", || {
        black_box(group::together(&alone, text.as_bytes(), 1));
    });
    for (threshold, names) in
        [(2, &[100u8, 51, 52][..]), (3, &[100, 51, 52, 53, 54]), (4, &[100, 51, 52, 53, 54, 55, 56])]
    {
        let count = names.len();
        measure(&format!("signers: make the key of {threshold} of {count}, all in turn"), || {
            black_box(group::group(&cell.founding, &founding, threshold, names, 1));
        });
        let (_, members) = group::group(&cell.founding, &founding, threshold, names, 1);
        measure(&format!("checkpoint: sign, {threshold} of {count}, all in turn"), || {
            black_box(group::together(&members, text.as_bytes(), 1));
        });
    }
    measure("entry: leaf hash", || {
        black_box(leaf_hash(black_box(&entry)));
    });

    let mut book = cell.book.clone();
    let refund = |book: &mut Book| {
        // The reserve that the entry draws on, given back so that it can be drawn on again.
        let mut back = entry.clone();
        back.postings.iter_mut().for_each(|posting| posting.amount = -posting.amount);
        book.apply(&back).expect("posts");
    };
    refund(&mut book);
    println!("postings in the entry: {}", entry.postings.len());
    measure("book: apply an entry, and undo it", || {
        book.apply(black_box(&entry)).expect("posts");
        refund(&mut book);
    });
}
