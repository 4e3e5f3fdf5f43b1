use std::collections::BTreeMap;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use proptest::prelude::*;
use sha2::Sha256;

use super::*;
use crate::merkle::tests::{CT_LEAVES, CT_ROOTS};
use crate::merkle::{Tree, hash_leaf};

/// A log that keeps every hash it was told and every root it had.
struct Log {
    tree: Tree,
    hashes: BTreeMap<(u8, u64), Hash>,
    roots: Vec<Hash>,
}

impl Log {
    fn of<L: AsRef<[u8]>>(leaves: impl IntoIterator<Item = L>) -> Self {
        let mut log = Self { tree: Tree::new(), hashes: BTreeMap::new(), roots: vec![EMPTY_ROOT] };
        for leaf in leaves {
            let hashes = &mut log.hashes;
            log.tree.push_with(hash_leaf(leaf.as_ref()), |level, index, hash| {
                assert_eq!(hashes.insert((level, index), *hash), None, "told once");
            });
            log.roots.push(log.tree.root());
        }
        log
    }

    fn numbered(size: u64) -> Self {
        Self::of((0..size).map(u64::to_be_bytes))
    }

    fn source(&self) -> impl Fn(u8, u64) -> Option<Hash> {
        |level, index| self.hashes.get(&(level, index)).copied()
    }

    fn leaf(&self, index: u64) -> Hash {
        self.hashes[&(0, index)]
    }

    fn inclusion(&self, index: u64, size: u64) -> Vec<Hash> {
        inclusion_proof(index, size, self.source()).expect("proof")
    }

    fn consistency(&self, first: u64, second: u64) -> Vec<Hash> {
        consistency_proof(first, second, self.source()).expect("proof")
    }
}

fn hash(hex: &str) -> Hash {
    data_encoding::HEXLOWER.decode(hex.as_bytes()).expect("hex").try_into().expect("32 bytes")
}

/// # Source
/// The inclusion paths and consistency proofs of the certificate-transparency reference tree
/// (`merkletree/merkle_tree_test.cc`; leaves are numbered from 0 here).
#[test]
fn proofs_are_those_of_the_certificate_transparency_reference_tree() {
    let log = Log::of(CT_LEAVES);
    let inclusion: [(u64, u64, &[&str]); 5] = [
        (0, 1, &[]),
        (
            0,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            &[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
        (
            1,
            5,
            &[
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];
    for (index, size, expected) in inclusion {
        let expected: Vec<Hash> = expected.iter().map(|hex| hash(hex)).collect();
        assert_eq!(log.inclusion(index, size), expected, "leaf {index} of {size}");
        let root = hash(CT_ROOTS[size as usize]);
        assert_eq!(verify_inclusion(&log.leaf(index), index, size, &expected, &root), Ok(()));
    }

    let consistency: [(u64, u64, &[&str]); 4] = [
        (1, 1, &[]),
        (
            1,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            &[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            &[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];
    for (first, second, expected) in consistency {
        let expected: Vec<Hash> = expected.iter().map(|hex| hash(hex)).collect();
        assert_eq!(log.consistency(first, second), expected, "{first} in {second}");
        let roots = (hash(CT_ROOTS[first as usize]), hash(CT_ROOTS[second as usize]));
        assert_eq!(verify_consistency(first, second, &expected, &roots.0, &roots.1), Ok(()));
    }
}

#[test]
fn another_implementation_gives_the_same_roots_and_proofs() {
    let log = Log::numbered(64);
    let mut theirs = MemoryBackedTree::<Sha256, [u8; 8]>::new();
    for size in 1..=64u64 {
        theirs.push((size - 1).to_be_bytes());
        assert_eq!(theirs.root().as_bytes().as_slice(), log.roots[size as usize], "root of {size}");
        for index in 0..size {
            let proof = theirs.prove_inclusion(index as usize);
            assert_eq!(proof.as_bytes(), log.inclusion(index, size).concat(), "leaf {index} of {size}");
        }
        for first in 1..size {
            let proof = theirs.prove_consistency((size - first) as usize);
            assert_eq!(proof.as_bytes(), log.consistency(first, size).concat(), "{first} in {size}");
        }
    }
}

#[test]
fn every_leaf_of_every_small_tree_is_proved_at_its_own_place_only() {
    let log = Log::numbered(64);
    for size in 1..=64 {
        let root = log.roots[size as usize];
        for index in 0..size {
            let path = log.inclusion(index, size);
            assert!(path.len() <= 64 - (size - 1).leading_zeros() as usize);
            for claimed in 0..=size {
                let verdict = verify_inclusion(&log.leaf(index), claimed, size, &path, &root);
                assert_eq!(verdict.is_ok(), claimed == index, "leaf {index} as {claimed} of {size}");
            }
            let shorter = &path[..path.len().saturating_sub(1)];
            let longer = [path.as_slice(), &[root]].concat();
            if !path.is_empty() {
                assert!(verify_inclusion(&log.leaf(index), index, size, shorter, &root).is_err());
            }
            assert!(verify_inclusion(&log.leaf(index), index, size, &longer, &root).is_err());
        }
    }
}

#[test]
fn every_small_tree_is_the_beginning_of_every_larger_one() {
    let log = Log::numbered(64);
    for second in 0..=64u64 {
        for first in 0..=second {
            let path = log.consistency(first, second);
            let (early, late) = (log.roots[first as usize], log.roots[second as usize]);
            assert_eq!(
                verify_consistency(first, second, &path, &early, &late),
                Ok(()),
                "{first} in {second}"
            );
            assert!(verify_consistency(first, second, &path, &[9; 32], &late).is_err());
            if first != 0 {
                assert!(verify_consistency(first, second, &path, &early, &[9; 32]).is_err());
            }
            let longer = [path.as_slice(), &[late]].concat();
            assert!(verify_consistency(first, second, &longer, &early, &late).is_err());
            if !path.is_empty() {
                assert!(verify_consistency(first, second, &path[1..], &early, &late).is_err());
            }
            assert!(first == second || verify_consistency(second, first, &path, &late, &early).is_err());
        }
    }
}

#[test]
fn a_position_outside_the_log_has_no_proof() {
    let log = Log::numbered(5);
    assert_eq!(inclusion_proof(5, 5, log.source()), Err(ProofError::OutOfRange { position: 5, size: 5 }));
    assert_eq!(inclusion_proof(0, 0, log.source()), Err(ProofError::OutOfRange { position: 0, size: 0 }));
    assert_eq!(consistency_proof(6, 5, log.source()), Err(ProofError::OutOfRange { position: 6, size: 5 }));
    assert_eq!(inclusion_proof(0, 9, log.source()), Err(ProofError::HashMissing { level: 0, index: 8 }));
    let missing = inclusion_proof(u64::MAX - 1, u64::MAX, log.source());
    assert!(matches!(missing, Err(ProofError::HashMissing { .. })));
    let names = [
        ProofError::OutOfRange { position: 0, size: 0 },
        ProofError::HashMissing { level: 0, index: 0 },
        ProofError::PathLength { hashes: 0, position: 0, size: 0 },
        ProofError::RootMismatch,
    ]
    .map(|error| error.code().name);
    assert_eq!(names, ["WC-LEDGER-020", "WC-LEDGER-021", "WC-LEDGER-022", "WC-LEDGER-023"]);
}

proptest! {
    #[test]
    fn a_tampered_inclusion_proof_fails(size in 1u64..5000, at in any::<u64>(), place in any::<u16>(), bit in 0u8..=255) {
        let log = Log::numbered(size);
        let index = at % size;
        let (leaf, root) = (log.leaf(index), log.tree.root());
        let path = log.inclusion(index, size);
        prop_assert_eq!(verify_inclusion(&leaf, index, size, &path, &root), Ok(()));
        let flip = |hash: &Hash| {
            let mut changed = *hash;
            changed[usize::from(bit / 8)] ^= 1 << (bit % 8);
            changed
        };
        prop_assert!(verify_inclusion(&flip(&leaf), index, size, &path, &root).is_err());
        prop_assert!(verify_inclusion(&leaf, index, size, &path, &flip(&root)).is_err());
        if !path.is_empty() {
            let place = usize::from(place) % path.len();
            let mut changed = path.clone();
            changed[place] = flip(&path[place]);
            prop_assert!(verify_inclusion(&leaf, index, size, &changed, &root).is_err());
        }
    }

    #[test]
    fn a_rewritten_history_is_not_consistent(size in 2u64..3000, at in any::<u64>(), place in any::<u64>()) {
        let log = Log::numbered(size);
        let first = 1 + at % (size - 1);
        let forged = Log::of((0..size).map(|leaf| if leaf == place % first { [7; 8] } else { leaf.to_be_bytes() }));
        let honest = log.consistency(first, size);
        let early = log.roots[first as usize];
        prop_assert_eq!(verify_consistency(first, size, &honest, &early, &log.tree.root()), Ok(()));
        for path in [&honest, &forged.consistency(first, size)] {
            prop_assert!(verify_consistency(first, size, path, &early, &forged.tree.root()).is_err());
        }
    }

    #[test]
    fn no_bytes_make_the_verifiers_panic(
        positions in (any::<u64>(), any::<u64>()),
        path in prop::collection::vec(any::<Hash>(), 0..130),
    ) {
        let root = [1; 32];
        let _ = verify_inclusion(&root, positions.0, positions.1, &path, &root);
        let _ = verify_consistency(positions.0, positions.1, &path, &root, &root);
    }
}
