//! Tiles: how a log's hashes and entries are cut into files of at most 256 that never change once full.
//!
//! ```text
//! tile/1/000          256 hashes of tree level 8: the roots of tile/0/000 … tile/0/255
//! tile/0/x001/067     256 hashes of tree level 0: leaves 273,152 …
//! tile/0/x001/068.p/9 its right neighbour, of which the log has nine hashes yet
//! tile/entries/x001/067   the leaves themselves, each behind its length in two bytes
//! ```
//!
//! A tile of level `L` holds hashes of tree level `8·L`; the levels in between are recomputed by hashing, once, when
//! the tile is [read](HashTile::read), so that a proof is a handful of look-ups. Every proof over a log can be made from
//! a [`TileSource`], and [`check_tile`] ties a tile from anywhere to the root of a checkpoint.
//!
//! # Source
//! C2SP `tlog-tiles`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use wc_types::{Class, Code};

use crate::merkle::{Hash, hash_node};
use crate::proof::{ProofError, subtree_proof, verify_inclusion};

/// Levels of the tree that one tile covers.
pub const TILE_HEIGHT: u8 = 8;
/// Hashes in a full tile.
pub const TILE_WIDTH: u16 = 256;
/// Highest level of a tile in a log whose size fits 64 bits. The format has room for 63; no log of ours gets there.
pub const TILE_LEVEL_MAX: u8 = 7;

/// Longest leaf that an entry bundle can hold.
pub const LEAF_BYTES_MAX: usize = 0xffff;

/// Text or bytes are not those of a tile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TileError {
    /// The text is not the path of a tile.
    #[error("not the path of a tile: {reason}")]
    Path {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A tile of hashes has another length than its width demands.
    #[error("{tile} has {bytes} bytes, not 32 for each of its hashes")]
    Length {
        /// Which.
        tile: Tile,
        /// Its length.
        bytes: usize,
    },
    /// A tile is not part of the log whose root was given.
    #[error("{tile} is not part of the log")]
    Foreign {
        /// Which.
        tile: Tile,
        /// Why.
        #[source]
        source: ProofError,
    },
    /// An entry bundle is cut short, or has something behind its last entry.
    #[error("{bundle} does not hold exactly {} entries", bundle.width())]
    Bundle {
        /// Which.
        bundle: Bundle,
    },
    /// A leaf is longer than [`LEAF_BYTES_MAX`].
    #[error("a leaf of {bytes} bytes is too long for an entry bundle")]
    LeafTooLong {
        /// Its length.
        bytes: usize,
    },
}

impl TileError {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Path { .. } => Code::new("WC-LEDGER-024", Class::Caller),
            Self::Length { .. } => Code::new("WC-LEDGER-025", Class::Peer),
            Self::Foreign { .. } => Code::new("WC-LEDGER-026", Class::Peer),
            Self::Bundle { .. } => Code::new("WC-LEDGER-027", Class::Peer),
            Self::LeafTooLong { .. } => Code::new("WC-LEDGER-028", Class::Ours),
        }
    }
}

/// The place of a tile and how many hashes it holds. Shown as its path, such as `tile/0/x001/x234/067.p/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

impl Tile {
    /// Returns the tile `index` of tile level `level` as a log of `size` entries has it, or `None` if that log has no
    /// hash in it yet.
    pub fn of_log(level: u8, index: u64, size: u64) -> Option<Self> {
        if level > TILE_LEVEL_MAX {
            return None;
        }
        let first = index.checked_mul(u64::from(TILE_WIDTH))?;
        let hashes = (size >> (level * TILE_HEIGHT)).checked_sub(first).filter(|&hashes| hashes > 0)?;
        Some(Self { level, index, width: hashes.min(u64::from(TILE_WIDTH)) as u16 })
    }

    /// Returns the tile level.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Returns the index in the level.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Returns the number of hashes, 1 to [`TILE_WIDTH`].
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Returns the tree level and the index of each hash in it, in order; the tile's bytes are these hashes one after
    /// the other.
    pub fn hashes(&self) -> impl Iterator<Item = (u8, u64)> + use<> {
        let (level, first) = (self.level * TILE_HEIGHT, self.index * u64::from(TILE_WIDTH));
        (0..u64::from(self.width)).map(move |place| (level, first + place))
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/{}/", self.level)?;
        write_place(f, self.index, self.width)
    }
}

/// Writes index and width: groups of three digits, all but the last behind an x; then the width of a partial tile.
fn write_place(f: &mut fmt::Formatter<'_>, index: u64, width: u16) -> fmt::Result {
    let mut unit = 1;
    while index / unit >= 1000 {
        unit *= 1000;
    }
    while unit > 1 {
        write!(f, "x{:03}/", index / unit % 1000)?;
        unit /= 1000;
    }
    write!(f, "{:03}", index % 1000)?;
    if width < TILE_WIDTH { write!(f, ".p/{width}") } else { Ok(()) }
}

/// Reads index and width, more loosely than they are written: who calls compares the texts.
fn read_place(text: &str) -> Result<(u64, u16), TileError> {
    let fault = |reason| TileError::Path { reason };
    let (index, width) = match text.split_once(".p/") {
        Some((index, width)) => (index, width.parse().map_err(|_| fault("expected a decimal width"))?),
        None => (text, TILE_WIDTH),
    };
    let index = index.split('/').try_fold(0u64, |index, group| {
        let digits = group.strip_prefix('x').unwrap_or(group);
        let value: u64 = digits.parse().map_err(|_| fault("expected groups of three digits"))?;
        let index = index.checked_mul(1000).and_then(|index| index.checked_add(value));
        index.ok_or(fault("the index is too large"))
    })?;
    if width == 0 || width > TILE_WIDTH { Err(fault("no log has such a tile")) } else { Ok((index, width)) }
}

impl FromStr for Tile {
    type Err = TileError;

    /// Reads exactly what [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, TileError> {
        let fault = |reason| TileError::Path { reason };
        let rest = text.strip_prefix("tile/").ok_or(fault("expected `tile/`"))?;
        let (level, rest) = rest.split_once('/').ok_or(fault("expected a level and an index"))?;
        let level: u8 = level.parse().map_err(|_| fault("expected a decimal level"))?;
        let (index, width) = read_place(rest)?;
        let bits = (u32::from(level) + 1) * u32::from(TILE_HEIGHT);
        if level > TILE_LEVEL_MAX || index > u64::MAX.checked_shr(bits).unwrap_or(0) {
            return Err(fault("no log has such a tile"));
        }
        let tile = Self { level, index, width };
        // One tile, one path: signs, leading zeros, a missing x and a full width written out are refused here.
        if tile.to_string() == text { Ok(tile) } else { Err(fault("not written the one way")) }
    }
}

/// The place of an entry bundle and how many leaves it holds. Shown as its path, such as `tile/entries/x001/067.p/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bundle {
    index: u64,
    width: u16,
}

impl Bundle {
    /// Returns bundle `index` as a log of `size` entries has it, or `None` if that log has no entry in it yet.
    pub fn of_log(index: u64, size: u64) -> Option<Self> {
        Tile::of_log(0, index, size).map(|tile| Self { index, width: tile.width })
    }

    /// Returns the index; the bundle's first leaf is 256 times that.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Returns the number of leaves, 1 to [`TILE_WIDTH`].
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Returns the indices of its leaves.
    pub fn leaves(&self) -> std::ops::Range<u64> {
        let first = self.index * u64::from(TILE_WIDTH);
        first..first + u64::from(self.width)
    }

    /// Returns the tile that holds the hashes of its leaves.
    pub fn tile(&self) -> Tile {
        Tile { level: 0, index: self.index, width: self.width }
    }

    /// Returns the leaves in the bytes of this bundle.
    ///
    /// # Errors
    /// [`TileError::Bundle`] unless there are exactly as many as its width says.
    pub fn read<'a>(&self, bytes: &'a [u8]) -> Result<Vec<&'a [u8]>, TileError> {
        let fault = || TileError::Bundle { bundle: *self };
        let mut leaves = Vec::with_capacity(usize::from(self.width));
        let mut rest = bytes;
        for _ in 0..self.width {
            let (length, behind) = rest.split_first_chunk::<2>().ok_or_else(fault)?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (leaf, behind) = behind.split_at_checked(length).ok_or_else(fault)?;
            leaves.push(leaf);
            rest = behind;
        }
        if rest.is_empty() { Ok(leaves) } else { Err(fault()) }
    }

    /// Appends a leaf to the bytes of a bundle.
    ///
    /// # Errors
    /// [`TileError::LeafTooLong`].
    pub fn write_leaf(bytes: &mut Vec<u8>, leaf: &[u8]) -> Result<(), TileError> {
        let length = u16::try_from(leaf.len()).map_err(|_| TileError::LeafTooLong { bytes: leaf.len() })?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(leaf);
        Ok(())
    }
}

impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tile/entries/")?;
        write_place(f, self.index, self.width)
    }
}

impl FromStr for Bundle {
    type Err = TileError;

    /// Reads exactly what [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, TileError> {
        let rest = text.strip_prefix("tile/entries/");
        let rest = rest.ok_or(TileError::Path { reason: "expected `tile/entries/`" })?;
        let (index, width) = read_place(rest)?;
        let bundle = Self { index, width };
        let fault = TileError::Path { reason: "not written the one way" };
        if index <= u64::MAX >> TILE_HEIGHT && bundle.to_string() == text { Ok(bundle) } else { Err(fault) }
    }
}

/// The hashes of a tile, with those between its level and the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashTile {
    tile: Tile,
    /// Row `k` holds the roots of the perfect subtrees of `2^k` of the tile's hashes.
    rows: [Vec<Hash>; TILE_HEIGHT as usize],
}

impl HashTile {
    /// Reads the bytes of `tile`: 32 for each hash, and nothing else. Whether they are those of a log is not known yet.
    ///
    /// # Errors
    /// [`TileError::Length`].
    pub fn read(tile: Tile, bytes: &[u8]) -> Result<Self, TileError> {
        let (hashes, rest) = bytes.as_chunks::<32>();
        if hashes.len() != usize::from(tile.width) || !rest.is_empty() {
            return Err(TileError::Length { tile, bytes: bytes.len() });
        }
        let mut rows: [Vec<Hash>; TILE_HEIGHT as usize] = Default::default();
        rows[0] = hashes.to_vec();
        for level in 1..usize::from(TILE_HEIGHT) {
            let below = &rows[level - 1];
            rows[level] =
                below.as_chunks::<2>().0.iter().map(|[left, right]| hash_node(left, right)).collect();
        }
        Ok(Self { tile, rows })
    }

    /// Returns which tile this is.
    pub fn tile(&self) -> Tile {
        self.tile
    }

    /// Returns its hashes.
    pub fn hashes(&self) -> &[Hash] {
        &self.rows[0]
    }
}

/// Where a log's tiles are read. Nothing that comes from here is believed before a root confirms it.
pub trait TileSource {
    /// Returns a tile of hashes, or `None` where it cannot be had.
    fn tile(&self, tile: Tile) -> Option<Arc<HashTile>>;
}

/// Returns the root of the perfect subtree of `2^level` leaves that begins at leaf `index · 2^level` of a log of `size`
/// entries: what proofs are made from.
pub fn hash_from_tiles(tiles: &impl TileSource, size: u64, level: u8, index: u64) -> Option<Hash> {
    let row = level % TILE_HEIGHT;
    // The tile has 2^(8 - row) hashes in that row.
    let bits = TILE_HEIGHT - row;
    let tile = Tile::of_log(level / TILE_HEIGHT, index >> bits, size)?;
    let place = usize::try_from(index & ((1 << bits) - 1)).ok()?;
    tiles.tile(tile)?.rows[usize::from(row)].get(place).copied()
}

/// Checks that every hash of `bytes` is the one that the log of `size` entries under `root` has there, and returns
/// them. The hashes that lead from the tile to the root come from `tiles` and need not be believed.
///
/// # Errors
/// [`TileError::Length`] or [`TileError::Foreign`].
pub fn check_tile(
    tile: Tile,
    bytes: &[u8],
    size: u64,
    root: &Hash,
    tiles: &impl TileSource,
) -> Result<HashTile, TileError> {
    let read = HashTile::read(tile, bytes)?;
    let foreign = |source| TileError::Foreign { tile, source };
    // The tile's perfect subtrees, one for each one-bit of its width; a full tile is one of the level above.
    let mut place = 0u64;
    for bit in (0..=TILE_HEIGHT).rev().filter(|bit| tile.width >> bit & 1 == 1) {
        let level = tile.level * TILE_HEIGHT + bit;
        let index = (tile.index * u64::from(TILE_WIDTH) + place) >> bit;
        let hash = if bit == TILE_HEIGHT {
            let last = &read.rows[usize::from(TILE_HEIGHT - 1)];
            hash_node(&last[0], &last[1])
        } else {
            read.rows[usize::from(bit)][usize::try_from(place >> bit).unwrap_or(usize::MAX)]
        };
        let source = |level, index| hash_from_tiles(tiles, size, level, index);
        let path = subtree_proof(level, index, size, source).map_err(foreign)?;
        let nodes = size.div_ceil(1 << level);
        verify_inclusion(&hash, index, nodes, &path, root).map_err(foreign)?;
        place += 1 << bit;
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{Tree, hash_leaf};
    use proptest::prelude::*;

    #[test]
    fn the_worked_examples_of_the_specification_hold() {
        let tile = Tile::of_log(0, 1_234_067, u64::MAX).expect("exists");
        assert_eq!(tile.to_string(), "tile/0/x001/x234/067");
        // "A tree of size 70,000 will be represented by 273 full level 0 tiles, one partial level 0 tile of width 112,
        // one full level 1 tile, one partial level 1 tile of width 17, and one partial level 2 tile of width 1."
        let of = |level| -> Vec<u16> {
            (0..).map_while(|index| Tile::of_log(level, index, 70_000)).map(|tile| tile.width()).collect()
        };
        assert_eq!((of(0).len(), of(0)[272], of(0)[273]), (274, 256, 112));
        assert_eq!((of(1), of(2), of(3)), (vec![256, 17], vec![1], vec![]));
        // "A tree of size 256 will be represented by a full level 0 tile and a partial level 1 tile of width 1."
        assert_eq!(Tile::of_log(0, 0, 256).map(|tile| tile.to_string()).as_deref(), Some("tile/0/000"));
        assert_eq!(Tile::of_log(1, 0, 256).map(|tile| tile.to_string()).as_deref(), Some("tile/1/000.p/1"));
    }

    #[test]
    fn only_the_one_way_to_write_a_tile_is_read() {
        let refused = [
            "",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/00/000",
            "tile/+0/000",
            "tile/8/000",
            "tile/0/x000/001",
            "tile/0/x001/x002",
            "tile/0/001/002",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/000.p/-1",
            "tile/0/-01",
            "tile/0/000/",
            "/tile/0/000",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
            "tile/7/001",
            "tile/0/xé01/001",
            "tile/entries/000",
        ];
        for text in refused {
            assert!(text.parse::<Tile>().is_err(), "{text:?}");
        }
        assert_eq!("x".parse::<Tile>().expect_err("refused").code().name, "WC-LEDGER-024");
    }

    #[test]
    fn tiles_of_a_log_hold_every_hash_of_their_levels_once() {
        let size = 70_000;
        let mut tree = Tree::new();
        let mut stored = std::collections::BTreeSet::new();
        for leaf in 0..size {
            tree.push_with(hash_leaf(&u64::to_be_bytes(leaf)), |level, index, _| {
                if level.is_multiple_of(TILE_HEIGHT) {
                    stored.insert((level, index));
                }
            });
        }
        for level in 0..=TILE_LEVEL_MAX {
            for tile in (0..).map_while(|index| Tile::of_log(level, index, size)) {
                for (level, index) in tile.hashes() {
                    assert!(stored.remove(&(level, index)), "{tile} holds {level}/{index}");
                }
            }
        }
        assert!(stored.is_empty());
    }

    proptest! {
        #[test]
        fn a_tile_survives_its_path(level in 0u8..=7, at in any::<u64>(), size in any::<u64>()) {
            let hashes = size >> (level * TILE_HEIGHT);
            let index = (at % hashes.max(1)) / u64::from(TILE_WIDTH);
            if let Some(tile) = Tile::of_log(level, index, size) {
                prop_assert_eq!(tile.to_string().parse::<Tile>(), Ok(tile));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "(tile/[0-9]{0,2}/)?[x0-9/.p]{0,40}") {
            if let Ok(tile) = text.parse::<Tile>() {
                prop_assert_eq!(tile.to_string(), text);
                prop_assert_eq!(tile.hashes().count(), usize::from(tile.width()));
            }
        }
    }
}
