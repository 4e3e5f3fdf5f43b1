//! An entry of v2 put together from the log's tiles: when the log says only that it has had the entry before.
//!
//! # Source
//! C2SP `tlog-tiles`: tiles of 256 hashes, one level of tiles for eight levels of the tree, and bundles of entries, each
//! with its length in two bytes before it.

use super::{Api, EntryProof, LogEntry, RekorError};
use crate::checkpoint::Checkpoint;
use crate::merkle::{Hash, hash_node};
use crate::note::Note;
use crate::proof::inclusion_proof;

const WHAT: &str = "the tiles of the log";
/// Hashes in a whole tile, and entries in a whole bundle.
const WIDTH: u64 = 256;

/// Returns the size of the log that a checkpoint names, which is not believed yet.
///
/// # Errors
/// [`RekorError::Note`] or [`RekorError::Checkpoint`].
pub fn checkpoint_size(checkpoint: &str) -> Result<u64, RekorError> {
    let note = Note::parse(checkpoint).map_err(RekorError::Note)?;
    Ok(Checkpoint::parse_text(note.text()).map_err(RekorError::Checkpoint)?.size)
}

/// Returns the number and the width of the bundle that holds entry `index` of a log of `size` entries.
///
/// # Errors
/// [`RekorError::Malformed`] if there is no such entry.
pub fn bundle_of(index: u64, size: u64) -> Result<(u64, u16), RekorError> {
    if index >= size {
        return Err(RekorError::malformed(WHAT, format!("entry {index} is not in a log of {size}")));
    }
    Ok((index / WIDTH, width_at(index / WIDTH, size)))
}

/// Puts the entry together: body from its bundle, path from tiles. Nothing of it is believed yet.
///
/// - `tile`: returns the bytes of a tile by its level, number and width
///
/// # Errors
/// [`RekorError`] when a part is missing or not what its place says.
pub fn entry_from_tiles(
    log_id: [u8; 32],
    index: u64,
    checkpoint: &str,
    bundle: &[u8],
    tile: impl Fn(u8, u64, u16) -> Option<Vec<u8>>,
) -> Result<LogEntry, RekorError> {
    let note = Note::parse(checkpoint).map_err(RekorError::Note)?;
    let text = Checkpoint::parse_text(note.text()).map_err(RekorError::Checkpoint)?;
    let (_, width) = bundle_of(index, text.size)?;
    let body = entry_of_bundle(bundle, width, index % WIDTH)?;
    let hashes = inclusion_proof(index, text.size, |level, index| subtree(level, index, text.size, &tile));
    let hashes = hashes.map_err(RekorError::Inclusion)?;
    Ok(LogEntry {
        body,
        kind: "hashedrekord".to_owned(),
        version: Api::V2.version().to_owned(),
        log_index: index,
        log_id,
        integrated_time_s: None,
        promise: None,
        proof: EntryProof {
            log_index: index,
            tree_size: text.size,
            root: text.root,
            hashes,
            checkpoint: checkpoint.to_owned(),
        },
    })
}

/// Returns how many of `count` places are in tile `number`.
fn width_at(number: u64, count: u64) -> u16 {
    u16::try_from(count.saturating_sub(number.saturating_mul(WIDTH)).min(WIDTH)).unwrap_or(0)
}

/// Returns the hash of the perfect subtree of 2^`level` leaves with this number.
fn subtree(
    level: u8,
    index: u64,
    size: u64,
    tile: &impl Fn(u8, u64, u16) -> Option<Vec<u8>>,
) -> Option<Hash> {
    let (tile_level, height) = (level / 8, level % 8);
    let first = index.checked_shl(u32::from(height))?;
    let number = first / WIDTH;
    let width = width_at(number, size.checked_shr(8 * u32::from(tile_level))?);
    let bytes = tile(tile_level, number, width)?;
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || hashes.len() != usize::from(width) {
        return None;
    }
    let from = usize::try_from(first % WIDTH).ok()?;
    let mut row = hashes.get(from..from + (1 << height))?.to_vec();
    while row.len() > 1 {
        row = row.chunks(2).map(|pair| hash_node(&pair[0], &pair[1])).collect();
    }
    row.pop()
}

/// Returns the entry at `place` of a bundle of `width` entries.
fn entry_of_bundle(bundle: &[u8], width: u16, place: u64) -> Result<Vec<u8>, RekorError> {
    let fault = || RekorError::malformed(WHAT, "the bundle is not as many entries as its name says");
    let (mut rest, mut found) = (bundle, None);
    for number in 0..u64::from(width) {
        let (length, after) = rest.split_first_chunk::<2>().ok_or_else(fault)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, after) = after.split_at_checked(length).ok_or_else(fault)?;
        if number == place {
            found = Some(entry.to_vec());
        }
        rest = after;
    }
    if rest.is_empty() { found.ok_or_else(fault) } else { Err(fault()) }
}
