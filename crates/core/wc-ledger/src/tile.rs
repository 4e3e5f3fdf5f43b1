//! Tiles: how a log's hashes are cut into files of at most 256 that never change once full.
//!
//! A tile of level `L` holds hashes of tree level `8·L`; the levels in between are recomputed by hashing.
//!
//! # Source
//! C2SP `tlog-tiles`.

use std::fmt;
use std::str::FromStr;

use wc_types::{Class, Code};

/// Levels of the tree that one tile covers.
pub const TILE_HEIGHT: u8 = 8;
/// Hashes in a full tile.
pub const TILE_WIDTH: u16 = 256;
/// Highest level of a tile in a log whose size fits 64 bits. The format has room for 63; no log of ours gets there.
pub const TILE_LEVEL_MAX: u8 = 7;

/// The text is not the path of a tile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the path of a tile: {reason}")]
pub struct TileError {
    /// What is wrong with it.
    pub reason: &'static str,
}

impl TileError {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        Code::new("WC-LEDGER-024", Class::Caller)
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

    /// Returns the tile of a log of `size` entries that holds the hash of tree level `level` at `index`, if `level` is
    /// one that tiles hold and the log has that hash.
    pub fn holding(level: u8, index: u64, size: u64) -> Option<Self> {
        if !level.is_multiple_of(TILE_HEIGHT) {
            return None;
        }
        Self::of_log(level / TILE_HEIGHT, index / u64::from(TILE_WIDTH), size)
            .filter(|tile| index % u64::from(TILE_WIDTH) < u64::from(tile.width))
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
        // Groups of three digits, all but the last behind an x.
        let mut unit = 1;
        while self.index / unit >= 1000 {
            unit *= 1000;
        }
        while unit > 1 {
            write!(f, "x{:03}/", self.index / unit % 1000)?;
            unit /= 1000;
        }
        write!(f, "{:03}", self.index % 1000)?;
        if self.width < TILE_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

impl FromStr for Tile {
    type Err = TileError;

    /// Reads exactly what [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, TileError> {
        let fault = |reason| TileError { reason };
        let rest = text.strip_prefix("tile/").ok_or(fault("expected `tile/`"))?;
        let (level, rest) = rest.split_once('/').ok_or(fault("expected a level and an index"))?;
        let level: u8 = level.parse().map_err(|_| fault("expected a decimal level"))?;
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, width.parse().map_err(|_| fault("expected a decimal width"))?),
            None => (rest, TILE_WIDTH),
        };
        let index = index.split('/').try_fold(0u64, |index, group| {
            let digits = group.strip_prefix('x').unwrap_or(group);
            let value: u64 = digits.parse().map_err(|_| fault("expected groups of three digits"))?;
            index
                .checked_mul(1000)
                .and_then(|index| index.checked_add(value))
                .ok_or(fault("the index is too large"))
        })?;
        let bits = (u32::from(level) + 1) * u32::from(TILE_HEIGHT);
        if level > TILE_LEVEL_MAX
            || index > u64::MAX.checked_shr(bits).unwrap_or(0)
            || width == 0
            || width > TILE_WIDTH
        {
            return Err(fault("no log has such a tile"));
        }
        let tile = Self { level, index, width };
        // One tile, one path: signs, leading zeros, a missing x and a full width written out are refused here.
        if tile.to_string() == text { Ok(tile) } else { Err(fault("not written the one way")) }
    }
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
                    assert_eq!(Tile::holding(level, index, size), Some(tile));
                }
            }
        }
        assert!(stored.is_empty());
        assert_eq!(Tile::holding(0, size, size), None);
        assert_eq!(Tile::holding(1, 0, size), None);
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
