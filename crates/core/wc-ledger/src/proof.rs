//! Proofs over a log: this leaf is in that tree, and that tree is the beginning of this one.
//!
//! A proof is made from a source of hashes: `source(level, index)` is the root of the perfect subtree of `2^level`
//! leaves that begins at leaf `index · 2^level`. [`Tree::push_with`](crate::Tree::push_with) tells these hashes once,
//! and whoever stores them, in tiles or otherwise, can serve every proof. Checking a proof needs no source.
//!
//! # Source
//! RFC 6962 §2.1.1 and §2.1.2 for the making, RFC 9162 §2.1.3.2 and §2.1.4.2 for the checking.

use wc_types::{Class, Code};

use crate::merkle::{EMPTY_ROOT, Hash, hash_node};

/// A proof cannot be made, or does not prove what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// There is no such leaf, or no such earlier tree.
    #[error("position {position} is not in a log of {size} entries")]
    OutOfRange {
        /// Leaf, or size of the earlier tree.
        position: u64,
        /// Size of the tree.
        size: u64,
    },
    /// The source of hashes lacks one that it was told.
    #[error("hash {index} of level {level} is missing")]
    HashMissing {
        /// Level of the hash; leaves are level 0.
        level: u8,
        /// Index in its level.
        index: u64,
    },
    /// The proof has too few or too many hashes for its position.
    #[error("a path of {hashes} hashes does not fit position {position} of a log of {size} entries")]
    PathLength {
        /// Hashes in the proof.
        hashes: usize,
        /// Leaf, or size of the earlier tree.
        position: u64,
        /// Size of the tree.
        size: u64,
    },
    /// The hashes lead elsewhere: leaf, path or root was changed.
    #[error("the path does not lead to the root")]
    RootMismatch,
}

impl ProofError {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::OutOfRange { .. } => Code::new("WC-LEDGER-020", Class::Caller),
            Self::HashMissing { .. } => Code::new("WC-LEDGER-021", Class::Ours),
            Self::PathLength { .. } => Code::new("WC-LEDGER-022", Class::Peer),
            Self::RootMismatch => Code::new("WC-LEDGER-023", Class::Peer),
        }
    }
}

/// Returns the hashes that lead from leaf `index` to the root of the first `size` leaves, nearest first.
///
/// # Errors
/// [`ProofError::OutOfRange`] or [`ProofError::HashMissing`].
pub fn inclusion_proof(
    index: u64,
    size: u64,
    source: impl Fn(u8, u64) -> Option<Hash>,
) -> Result<Vec<Hash>, ProofError> {
    subtree_proof(0, index, size, source)
}

/// Returns the hashes that lead from the perfect subtree of `2^level` leaves that begins at leaf `index · 2^level` to
/// the root of the first `size` leaves, nearest first. [`verify_inclusion`] checks it as leaf `index` of a tree whose
/// leaves are the subtrees of that level, the last of which may be imperfect.
///
/// # Errors
/// [`ProofError::OutOfRange`] or [`ProofError::HashMissing`].
pub(crate) fn subtree_proof(
    level: u8,
    index: u64,
    size: u64,
    source: impl Fn(u8, u64) -> Option<Hash>,
) -> Result<Vec<Hash>, ProofError> {
    let perfect = if level < 64 { 1u64 << level } else { 0 };
    let first = index.checked_mul(perfect).filter(|first| size.checked_sub(*first) >= Some(perfect));
    let Some(first) = first.filter(|_| perfect > 0) else {
        return Err(ProofError::OutOfRange { position: index, size });
    };
    // Walk from the root to the subtree, keeping the half that we do not enter.
    let (mut start, mut width) = (0, size);
    let mut path = Vec::new();
    while width > perfect {
        let left = split(width);
        if first - start < left {
            path.push(subtree_root(start + left, width - left, &source)?);
            width = left;
        } else {
            path.push(subtree_root(start, left, &source)?);
            (start, width) = (start + left, width - left);
        }
    }
    path.reverse();
    Ok(path)
}

/// Returns the hashes that prove that the first `first` leaves of a tree of `second` are a tree that was seen before.
///
/// # Errors
/// [`ProofError::OutOfRange`] if `first` is larger than `second`, or [`ProofError::HashMissing`].
pub fn consistency_proof(
    first: u64,
    second: u64,
    source: impl Fn(u8, u64) -> Option<Hash>,
) -> Result<Vec<Hash>, ProofError> {
    if first > second {
        return Err(ProofError::OutOfRange { position: first, size: second });
    }
    if first == 0 || first == second {
        return Ok(Vec::new());
    }
    // Walk along the right edge of the earlier tree until a subtree is all of its own.
    let (mut start, mut width) = (0, second);
    let mut path = Vec::new();
    while first - start != width {
        let left = split(width);
        if first - start <= left {
            path.push(subtree_root(start + left, width - left, &source)?);
            width = left;
        } else {
            path.push(subtree_root(start, left, &source)?);
            (start, width) = (start + left, width - left);
        }
    }
    // A subtree that begins at leaf 0 is the earlier tree itself, whose root the verifier has.
    if start != 0 {
        path.push(subtree_root(start, width, &source)?);
    }
    path.reverse();
    Ok(path)
}

/// Checks that `leaf` is leaf `index` of the tree of `size` leaves whose root is `root`.
///
/// # Errors
/// [`ProofError`] other than [`ProofError::HashMissing`].
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    path: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange { position: index, size });
    }
    let misfit = ProofError::PathLength { hashes: path.len(), position: index, size };
    // Numbers of the node and of the last node of its level; both halve as we climb.
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return Err(misfit);
        }
        if node & 1 == 1 || node == last {
            hash = hash_node(sibling, &hash);
            // A last node without a sibling moves up as it is.
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            hash = hash_node(&hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(misfit);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::RootMismatch) }
}

/// Checks that the tree of `first` leaves under `first_root` is the beginning of that of `second` under `second_root`.
///
/// The empty tree is the beginning of every tree.
///
/// # Errors
/// [`ProofError`] other than [`ProofError::HashMissing`].
pub fn verify_consistency(
    first: u64,
    second: u64,
    path: &[Hash],
    first_root: &Hash,
    second_root: &Hash,
) -> Result<(), ProofError> {
    if first > second {
        return Err(ProofError::OutOfRange { position: first, size: second });
    }
    let misfit = ProofError::PathLength { hashes: path.len(), position: first, size: second };
    if first == second || first == 0 {
        if !path.is_empty() {
            return Err(misfit);
        }
        let expected = if first == 0 { &EMPTY_ROOT } else { second_root };
        return if first_root == expected { Ok(()) } else { Err(ProofError::RootMismatch) };
    }

    let (mut node, mut last) = (first - 1, second - 1);
    while node & 1 == 1 {
        (node, last) = (node >> 1, last >> 1);
    }
    // An earlier tree that is perfect is itself the first hash of the path.
    let (seed, rest) = if first.is_power_of_two() {
        (first_root, path)
    } else {
        path.split_first().ok_or_else(|| misfit.clone())?
    };
    let (mut earlier, mut later) = (*seed, *seed);
    for sibling in rest {
        if last == 0 {
            return Err(misfit);
        }
        if node & 1 == 1 || node == last {
            earlier = hash_node(sibling, &earlier);
            later = hash_node(sibling, &later);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            later = hash_node(&later, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(misfit);
    }
    if earlier == *first_root && later == *second_root { Ok(()) } else { Err(ProofError::RootMismatch) }
}

/// Returns the root of the first `size` leaves.
///
/// # Errors
/// [`ProofError::HashMissing`].
pub fn root_at(size: u64, source: impl Fn(u8, u64) -> Option<Hash>) -> Result<Hash, ProofError> {
    if size == 0 { Ok(EMPTY_ROOT) } else { subtree_root(0, size, &source) }
}

/// Returns the largest power of two below `width`, which is at least 2.
fn split(width: u64) -> u64 {
    1 << (63 - (width - 1).leading_zeros())
}

/// Returns the root of `width` leaves from leaf `start`, which is a multiple of the next power of two.
fn subtree_root(
    start: u64,
    width: u64,
    source: &impl Fn(u8, u64) -> Option<Hash>,
) -> Result<Hash, ProofError> {
    // The perfect subtrees from left to right, one per one-bit of the width, folded from the right.
    let mut right: Option<Hash> = None;
    let mut end = start + width;
    let mut left_over = width;
    while left_over != 0 {
        let level = left_over.trailing_zeros() as u8;
        end -= 1 << level;
        let index = end >> level;
        let hash = source(level, index).ok_or(ProofError::HashMissing { level, index })?;
        right = Some(right.map_or(hash, |right| hash_node(&hash, &right)));
        left_over &= left_over - 1;
    }
    Ok(right.expect("a subtree has a leaf"))
}

#[cfg(test)]
mod tests;
