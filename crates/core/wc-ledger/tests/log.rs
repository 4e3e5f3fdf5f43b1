//! The published log: what tiles, checkpoints, witnesses and audits accept, and that nothing changed is accepted.

#[allow(dead_code, reason = "this test writes no receipts")]
#[path = "fixture/cell.rs"]
mod cell;
#[path = "fixture/group.rs"]
mod group;
#[path = "fixture/handover.rs"]
mod handover;

use std::collections::BTreeMap;
use std::sync::Arc;

use cell::{Cell, key};
use handover::handed_over;
use proptest::prelude::*;
use wc_ledger::{
    AuditFault, Audited, Auditor, Bundle, Checkpoint, Evidence, Finding, Hash, HashTile, Note, Tile,
    TileSource, WitnessFault, cell_key, check_tile, consider, consistency_proof, cosign, hash_from_tiles,
    hash_leaf, inclusion_proof, leaf_bytes, origin, root_at, verify_consistency, verify_inclusion,
};
use wc_types::entry::{EntryKind, Standing};
use wc_types::signers::Handover;
use wc_types::{CellId, Timestamp, to_canonical};

/// The files of a published log.
#[derive(Clone)]
struct Files {
    size: u64,
    root: Hash,
    files: BTreeMap<String, Vec<u8>>,
}

impl TileSource for Files {
    fn tile(&self, tile: Tile) -> Option<Arc<HashTile>> {
        HashTile::read(tile, self.files.get(&tile.to_string())?).ok().map(Arc::new)
    }
}

/// A cell whose log has `size` entries, with its entries.
fn grown(size: u64) -> (Cell, Vec<Vec<u8>>) {
    let mut cell = Cell::found();
    let mut leaves = vec![leaf_bytes(cell.last.as_ref().expect("founded"))];
    while cell.tree.size() < size {
        cell.pad(1);
        leaves.push(leaf_bytes(cell.last.as_ref().expect("padded")));
    }
    (cell, leaves)
}

fn tiles_of(size: u64) -> impl Iterator<Item = Tile> {
    (0..8).flat_map(move |level| (0..).map_while(move |index| Tile::of_log(level, index, size)))
}

fn files(cell: &Cell, leaves: &[Vec<u8>]) -> Files {
    let size = cell.tree.size();
    let mut files = BTreeMap::new();
    for tile in tiles_of(size) {
        let hashes = tile.hashes().map(|place| cell.hashes[&place]);
        files.insert(tile.to_string(), hashes.flatten().collect());
    }
    for bundle in (0..).map_while(|index| Bundle::of_log(index, size)) {
        let mut bytes = Vec::new();
        for index in bundle.leaves() {
            Bundle::write_leaf(&mut bytes, &leaves[index as usize]).expect("short");
        }
        files.insert(bundle.to_string(), bytes);
    }
    Files { size, root: cell.tree.root(), files }
}

fn audit(cell: &Cell, log: &Files) -> Result<u64, AuditFault> {
    audit_with(cell, &[], log).map(|audited| audited.entries)
}

fn audit_with(cell: &Cell, chain: &[Handover], log: &Files) -> Result<Audited, AuditFault> {
    let checkpoint = Checkpoint::new(&cell.id(), log.size, log.root);
    let mut auditor = Auditor::new(&cell.founding, chain, checkpoint, Timestamp(i64::MAX))?;
    while let Some(bundle) = auditor.next() {
        let read = |name: String| log.files[&name].clone();
        auditor.read(bundle, &read(bundle.to_string()), &read(bundle.tile().to_string()))?;
    }
    for tile in auditor.upper_tiles() {
        auditor.compare(tile, &log.files[&tile.to_string()])?;
    }
    auditor.finish()
}

#[test]
fn proofs_from_tiles_are_those_from_hashes() {
    for size in [1, 2, 255, 256, 257, 700] {
        let (cell, leaves) = grown(size);
        let log = files(&cell, &leaves);
        let source = |level, index| hash_from_tiles(&log, size, level, index);
        assert_eq!(root_at(size, source), Ok(log.root));
        for index in (0..size).step_by(7).chain([size - 1]) {
            let path = inclusion_proof(index, size, source).expect("all tiles are there");
            assert_eq!(Ok(&path), inclusion_proof(index, size, cell.source()).as_ref());
            verify_inclusion(&hash_leaf(&leaves[index as usize]), index, size, &path, &log.root)
                .expect("holds");
            let first = index + 1;
            let path = consistency_proof(first, size, source).expect("all tiles are there");
            let root = root_at(first, source).expect("all tiles are there");
            verify_consistency(first, size, &path, &root, &log.root).expect("holds");
        }
    }
}

#[test]
fn every_tile_of_a_log_belongs_to_its_root_and_to_no_other() {
    for size in [1, 5, 256, 300, 700] {
        let (cell, leaves) = grown(size);
        let log = files(&cell, &leaves);
        for tile in tiles_of(size) {
            let bytes = &log.files[&tile.to_string()];
            check_tile(tile, bytes, size, &log.root, &log).expect("a tile of this log");
            assert!(check_tile(tile, bytes, size, &[9; 32], &log).is_err(), "another root");
            for cut in [0, 1, 31, bytes.len() - 1, bytes.len() - 32] {
                assert!(
                    check_tile(tile, &bytes[..cut], size, &log.root, &log).is_err(),
                    "{tile} cut to {cut}"
                );
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            assert!(check_tile(tile, &longer, size, &log.root, &log).is_err());
        }
    }
}

#[test]
fn an_audit_accepts_a_log_and_no_changed_byte_of_it() {
    for size in [1, 2, 40, 256, 600] {
        let (cell, leaves) = grown(size);
        assert_eq!(audit(&cell, &files(&cell, &leaves)), Ok(size));
    }
    let (cell, leaves) = grown(12);
    let log = files(&cell, &leaves);
    for (name, bytes) in &log.files {
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut forged = log.clone();
                forged.files.get_mut(name).expect("there")[place] ^= 1 << bit;
                assert!(audit(&cell, &forged).is_err(), "{name} byte {place} bit {bit}");
            }
        }
        for cut in 0..bytes.len() {
            let mut forged = log.clone();
            forged.files.get_mut(name).expect("there").truncate(cut);
            assert!(audit(&cell, &forged).is_err(), "{name} cut to {cut}");
        }
    }
}

#[test]
fn an_audit_finds_entries_that_do_not_follow_even_under_a_right_root() {
    // A coordinator that signs whatever it hashes: the same entry twice, and one of another cell.
    let (cell, leaves) = grown(4);
    let mut twice = leaves.clone();
    twice[3] = leaves[2].clone();
    let mut other = Cell::found_by(key(66));
    other.pad(3);
    let mut foreign = leaves.clone();
    foreign[3] = leaf_bytes(other.last.as_ref().expect("padded"));
    for leaves in [twice, foreign] {
        let mut forged = Cell::found();
        forged.tree = wc_ledger::Tree::new();
        forged.hashes.clear();
        for leaf in &leaves {
            let hashes = &mut forged.hashes;
            forged.tree.push_with(hash_leaf(leaf), |level, index, hash| {
                hashes.insert((level, index), *hash);
            });
        }
        let fault = audit(&cell, &files(&forged, &leaves)).expect_err("refused");
        assert!(matches!(fault, AuditFault::Link { index: 3, .. }), "{fault:?}");
    }
}

#[test]
fn no_changed_bit_of_a_checkpoint_is_accepted_as_another() {
    let (cell, _) = grown(9);
    let key = cell_key(&cell.id(), cell.coordinator.public());
    let note = cell.checkpoint().sign(&cell.coordinator).expect("signs").to_string().into_bytes();
    for place in 0..note.len() {
        for bit in 0..8 {
            let mut forged = note.clone();
            forged[place] ^= 1 << bit;
            let Ok(text) = String::from_utf8(forged) else { continue };
            let opened = Note::parse(&text).ok().and_then(|note| Checkpoint::open(&note, &key).ok());
            assert_eq!(opened, None, "byte {place} bit {bit}");
        }
    }
    for cut in 0..note.len() {
        let text = String::from_utf8_lossy(&note[..cut]).into_owned();
        assert!(Note::parse(&text).ok().and_then(|note| Checkpoint::open(&note, &key).ok()).is_none());
    }
}

fn signed(cell: &Cell) -> Note {
    cell.checkpoint().sign(&cell.coordinator).expect("signs")
}

#[test]
fn a_witness_cosigns_growth_and_nothing_else() {
    let (mut cell, _) = grown(9);
    let first = signed(&cell);
    let seen = consider(&cell.founding, &[], None, &first, &[]).expect("the first it sees");
    assert_eq!(consider(&cell.founding, &[], Some(&seen), &first, &[]), Ok(seen.clone()), "the same again");

    cell.pad(20);
    let path = cell.consistency(9);
    consider(&cell.founding, &[], Some(&seen), &signed(&cell), &path).expect("growth");
    let no_proof = consider(&cell.founding, &[], Some(&seen), &signed(&cell), &[]).expect_err("refused");
    assert_eq!(no_proof, WitnessFault::Rewritten { seen: 9, offered: 29 });

    let now = cell.checkpoint();
    let shrunk = consider(&cell.founding, &[], Some(&now), &first, &[]).expect_err("refused");
    assert_eq!(shrunk, WitnessFault::Shrunk { seen: 29, offered: 9 });
    let split = Checkpoint { root: [7; 32], ..now.clone() }.sign(&cell.coordinator).expect("signs");
    let split = consider(&cell.founding, &[], Some(&now), &split, &[]).expect_err("refused");
    assert_eq!(split, WitnessFault::Split { size: 29 });

    let stranger = now.sign(&key(66)).expect("signs");
    assert!(matches!(
        consider(&cell.founding, &[], Some(&now), &stranger, &[]),
        Err(WitnessFault::Foreign(_))
    ));
    let elsewhere = Checkpoint { origin: origin(&CellId([1; 32])), ..now.clone() };
    let elsewhere = elsewhere.sign(&cell.coordinator).expect("signs");
    assert!(matches!(
        consider(&cell.founding, &[], Some(&now), &elsewhere, &[]),
        Err(WitnessFault::Foreign(_))
    ));
}

fn evidence(cell: &Cell, seen: &Note, offered: &Note, prefix_root: &[u8], path: &[Hash]) -> Evidence {
    Evidence {
        founding: cell.founding.clone(),
        seen: seen.to_string(),
        offered: offered.to_string(),
        prefix_root: prefix_root.to_vec().into(),
        path: path.iter().map(|hash| hash.to_vec().into()).collect(),
        seen_signers: Vec::new(),
        offered_signers: Vec::new(),
    }
}

/// Two logs of one cell that part after `common` entries.
fn forked(common: u64, seen: u64, offered: u64) -> (Cell, Note, Cell) {
    let mut one = Cell::found();
    one.pad(common - 1);
    let mut other = Cell::found();
    other.pad(common - 1);
    one.pad(seen - common);
    // Another entry than the first log's in the same place.
    let quarantined = EntryKind::NodeStanding { node: key(2).node_id(), standing: Standing::Quarantined };
    other.append(quarantined, vec![]);
    other.pad(offered - common - 1);
    let note = signed(&one);
    (one, note, other)
}

#[test]
fn evidence_of_a_rewritten_log_convinces_a_stranger() {
    for (common, seen, offered) in [(3, 8, 20), (5, 9, 12), (1, 2, 3), (4, 16, 17)] {
        let (_, note, fork) = forked(common, seen, offered);
        let prefix = root_at(seen, fork.source()).expect("all hashes");
        let path = consistency_proof(seen, offered, fork.source()).expect("all hashes");
        let proof = evidence(&fork, &note, &signed(&fork), &prefix, &path);
        let copy = Evidence::decode(&to_canonical(&proof)).expect("survives its bytes");
        let (cell, finding) = copy.check().expect("about this cell");
        assert_eq!((cell, finding), (fork.id(), Finding::Rewritten { seen, offered }));
        // Without the log's own word on what it was, nothing follows.
        let silent = evidence(&fork, &note, &signed(&fork), &[], &path);
        assert!(matches!(silent.check().expect("reads").1, Finding::Inconclusive { .. }));
    }
    let (one, note, other) = forked(3, 8, 8);
    let proof = evidence(&one, &note, &signed(&other), &[], &[]);
    assert_eq!(proof.check().expect("reads").1, Finding::SplitView { size: 8 });
}

#[test]
fn evidence_against_an_honest_log_cannot_be_made() {
    let (mut cell, _) = grown(9);
    let seen = signed(&cell);
    cell.pad(20);
    let path = cell.consistency(9);
    let root = root_at(9, cell.source()).expect("all hashes");
    let honest = evidence(&cell, &seen, &signed(&cell), &root, &path);
    assert!(matches!(honest.check().expect("reads").1, Finding::Inconclusive { .. }));
    let bytes = to_canonical(&honest);
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut forged = bytes.clone();
            forged[place] ^= 1 << bit;
            let proves = Evidence::decode(&forged).ok().and_then(|evidence| evidence.check().ok());
            let inconclusive =
                proves.is_none_or(|(_, finding)| matches!(finding, Finding::Inconclusive { .. }));
            assert!(inconclusive, "byte {place} bit {bit}");
        }
    }
    // Somebody else's signature is no evidence against this cell.
    let forged = cell.checkpoint().sign(&key(66)).expect("signs");
    assert!(evidence(&cell, &seen, &forged, &root, &path).check().is_err());
}

#[test]
fn a_published_checkpoint_with_lines_of_strangers_is_still_read() {
    let (cell, _) = grown(4);
    let stranger = Note::sign(cell.checkpoint().to_text(), "witness.example", &key(3)).expect("signs");
    let note = signed(&cell)
        .with(stranger.signatures()[0].clone())
        .and_then(|note| note.with(cosign(note.text(), &key(4), 5)))
        .expect("fits");
    let key = cell_key(&cell.id(), cell.coordinator.public());
    assert_eq!(Checkpoint::open(&note, &key), Ok(cell.checkpoint()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_changed_bit_of_a_tile_is_accepted(
        size in 1u64..600, at in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let (cell, leaves) = grown(size);
        let log = files(&cell, &leaves);
        let tiles: Vec<Tile> = tiles_of(size).collect();
        let tile = tiles[at.index(tiles.len())];
        let mut bytes = log.files[&tile.to_string()].clone();
        let place = byte.index(bytes.len());
        bytes[place] ^= 1 << bit;
        prop_assert!(check_tile(tile, &bytes, size, &log.root, &log).is_err());
        // Not even when the source of the other hashes is forged in the same way.
        let mut forged = log.clone();
        forged.files.insert(tile.to_string(), bytes.clone());
        prop_assert!(check_tile(tile, &bytes, size, &log.root, &forged).is_err());
    }

    #[test]
    fn no_changed_bit_of_a_proof_from_tiles_is_accepted(
        size in 2u64..600, index in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let (cell, leaves) = grown(size);
        let log = files(&cell, &leaves);
        let index = index.index(size as usize) as u64;
        let source = |level, index| hash_from_tiles(&log, size, level, index);
        let mut path = inclusion_proof(index, size, source).expect("all tiles are there");
        let at = byte.index(path.len() * 32);
        path[at / 32][at % 32] ^= 1 << bit;
        let leaf = hash_leaf(&leaves[index as usize]);
        prop_assert!(verify_inclusion(&leaf, index, size, &path, &log.root).is_err());
    }

    #[test]
    fn foreign_bytes_never_make_a_reader_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600), size in 1u64..100_000, index in 0u64..400,
    ) {
        if let Some(bundle) = Bundle::of_log(index, size) {
            let _ = bundle.read(&bytes);
            let _ = HashTile::read(bundle.tile(), &bytes);
        }
        let _ = Evidence::decode(&bytes);
    }
}

#[test]
fn a_log_is_signed_by_those_to_whom_it_says_it_was_handed_over() {
    let mut cell = Cell::found();
    let (chain, _) = handed_over(&cell.founding, &cell.coordinator);
    let mut leaves = vec![leaf_bytes(cell.last.as_ref().expect("founded"))];
    let mut append = |cell: &mut Cell, kind: EntryKind| {
        leaves.push(leaf_bytes(&cell.append(kind, vec![])));
        files(cell, &leaves)
    };
    let changed = |link: &Handover| EntryKind::SignersChanged { epoch: link.set.epoch, set: link.set.cid() };
    let none =
        append(&mut cell, EntryKind::NodeStanding { node: key(2).node_id(), standing: Standing::Good });
    let code = |cell: &Cell, chain: &[Handover], log: &Files| {
        audit_with(cell, chain, log).err().map(|fault| fault.code().name)
    };
    assert_eq!(code(&cell, &[], &none), None);
    let pending = audit_with(&cell, &chain[..1], &none).expect("the entry comes with the next checkpoint");
    assert_eq!((pending.handovers, pending.handover_pending), (0, true));
    assert_eq!(code(&cell, &chain, &none), Some("WC-LEDGER-139"), "two hand-overs that are not in the log");

    let one = append(&mut cell, changed(&chain[0]));
    assert_eq!(
        code(&cell, &[], &one),
        Some("WC-LEDGER-138"),
        "the founding key signs what it has given away"
    );
    let sound = audit_with(&cell, &chain[..1], &one).expect("as the chain says");
    assert_eq!((sound.handovers, sound.handover_pending), (1, false));
    assert!(audit_with(&cell, &chain, &one).expect("the second is on its way").handover_pending);

    // The owner orders another first set, and the keys before it sign that, too.
    let other = [chain[1].clone(), chain[0].clone()];
    assert_eq!(code(&cell, &other, &one), Some("WC-LEDGER-138"), "another set");
    let two = append(&mut cell, changed(&chain[1]));
    assert_eq!(code(&cell, &chain[..1], &two), Some("WC-LEDGER-138"), "the first set signs again");
    assert_eq!(audit_with(&cell, &chain, &two).expect("sound").handovers, 2);
    let again = append(&mut cell, changed(&chain[0]));
    assert_eq!(code(&cell, &chain, &again), Some("WC-LEDGER-138"), "back to the first set");
}
