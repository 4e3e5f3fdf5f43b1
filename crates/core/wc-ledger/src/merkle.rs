//! The Merkle tree of a log, kept as its frontier: the roots of the perfect subtrees along the right edge.
//!
//! ```text
//! size 7 = 4 + 2 + 1       ┌──── root ────┐
//!                      ┌───┴───┐      ┌───┴──┐
//!            peaks:    ●       ·      ●      ●      one hash per one-bit of the size, largest subtree first
//! ```
//!
//! # Source
//! RFC 6962 §2.1; the prefixes keep a leaf from passing as a node.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};

/// A hash in the tree: SHA-256.
pub type Hash = [u8; 32];

/// Root of the tree without leaves: SHA-256 of nothing (RFC 6962 §2.1).
pub const EMPTY_ROOT: Hash = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
    0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// Returns the hash of a leaf: SHA-256 of 0x00 and its bytes.
pub fn hash_leaf(leaf: &[u8]) -> Hash {
    Sha256::new_with_prefix([0x00]).chain_update(leaf).finalize().into()
}

/// Returns the hash of a node: SHA-256 of 0x01 and its two children.
pub fn hash_node(left: &Hash, right: &Hash) -> Hash {
    let mut block = [0x01; 65];
    block[1..33].copy_from_slice(left);
    block[33..].copy_from_slice(right);
    Sha256::digest(block).into()
}

/// A Merkle tree that grows at the right, in memory of the logarithm of its size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Frontier", into = "Frontier")]
pub struct Tree {
    size: u64,
    peaks: Vec<Hash>,
}

impl Tree {
    /// Returns the tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the root: RFC 6962's Merkle Tree Hash of all leaves.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(&smallest) = peaks.next() else { return EMPTY_ROOT };
        peaks.fold(smallest, |right, left| hash_node(left, &right))
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        self.push_with(leaf, |_, _, _| {});
    }

    /// Appends a leaf and tells `completed` every perfect subtree that it completes: its level, its index in that level
    /// and its root. The leaf itself is level 0.
    ///
    /// What was told is all that [`inclusion_proof`](crate::inclusion_proof) and
    /// [`consistency_proof`](crate::consistency_proof) ever ask for, and none of it changes later.
    pub fn push_with(&mut self, leaf: Hash, mut completed: impl FnMut(u8, u64, &Hash)) {
        let mut hash = leaf;
        completed(0, self.size, &hash);
        // As in binary addition: each trailing one-bit of the size is a peak of the level that the carry reaches.
        for level in 0..self.size.trailing_ones() as u8 {
            let left = self.peaks.pop().expect("one peak per one-bit of the size");
            hash = hash_node(&left, &hash);
            completed(level + 1, self.size >> (level + 1), &hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }
}

/// The travelling form of a [`Tree`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Frontier {
    size: u64,
    /// The peaks, one after the other.
    peaks: ByteBuf,
}

impl From<Tree> for Frontier {
    fn from(tree: Tree) -> Self {
        Self { size: tree.size, peaks: ByteBuf::from(tree.peaks.concat()) }
    }
}

impl TryFrom<Frontier> for Tree {
    type Error = &'static str;

    fn try_from(frontier: Frontier) -> Result<Self, Self::Error> {
        let (peaks, rest) = frontier.peaks.as_chunks::<32>();
        if !rest.is_empty() || peaks.len() != frontier.size.count_ones() as usize || frontier.size == u64::MAX
        {
            return Err("a tree has one peak of 32 bytes per one-bit of its size");
        }
        Ok(Self { size: frontier.size, peaks: peaks.to_vec() })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use wc_types::{from_canonical, to_canonical};

    /// The eight leaves and the roots of the first n of them.
    ///
    /// # Source
    /// The reference tree of the certificate-transparency project (`merkletree/merkle_tree_test.cc`; also
    /// `transparency-dev/merkle`, `testonly/constants.go`).
    pub(crate) const CT_LEAVES: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    pub(crate) const CT_ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn roots_are_those_of_the_certificate_transparency_reference_tree() {
        let mut tree = Tree::new();
        for (size, expected) in CT_ROOTS.iter().enumerate() {
            assert_eq!(tree.size(), size as u64);
            assert_eq!(data_encoding::HEXLOWER.encode(&tree.root()), *expected, "size {size}");
            if let Some(leaf) = CT_LEAVES.get(size) {
                tree.push(hash_leaf(leaf));
            }
        }
    }

    #[test]
    fn every_completed_subtree_is_told_once() {
        let mut tree = Tree::new();
        let mut told = Vec::new();
        for _ in 0..8 {
            tree.push_with(hash_leaf(b"x"), |level, index, _| told.push((level, index)));
        }
        let expected = [
            (0, 0),
            (0, 1),
            (1, 0),
            (0, 2),
            (0, 3),
            (1, 1),
            (2, 0),
            (0, 4),
            (0, 5),
            (1, 2),
            (0, 6),
            (0, 7),
            (1, 3),
            (2, 1),
            (3, 0),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_tree_goes_on_growing_from_its_bytes() {
        let mut whole = Tree::new();
        for size in 0u64..70 {
            let bytes = to_canonical(&whole);
            assert!(bytes.len() < 32 * 8 + 24, "{} bytes at size {size}", bytes.len());
            let mut copy: Tree = from_canonical(&bytes).expect("survives its bytes");
            copy.push(hash_leaf(&size.to_be_bytes()));
            whole.push(hash_leaf(&size.to_be_bytes()));
            assert_eq!(copy.root(), whole.root());
        }
    }

    #[test]
    fn a_frontier_that_does_not_fit_its_size_is_refused() {
        for (size, peaks) in [(3, 32), (3, 65), (0, 32), (u64::MAX, 64 * 32)] {
            let bytes = to_canonical(&Frontier { size, peaks: ByteBuf::from(vec![7; peaks]) });
            assert!(from_canonical::<Tree>(&bytes).is_err(), "size {size}, {peaks} bytes");
        }
    }
}
