//! The index of blobs: names of its entries, and what a row says.

use wc_types::cid::{CODEC_DAG_CBOR, CODEC_DAG_PB, CODEC_RAW, Cid, cid_digest, cid_from_digest};

use crate::blob::BlobError;
use crate::unixfs::{Digest, Place};

/// Codec and digest: what a CID is to us.
pub(crate) type Key = [u8; 33];

pub(crate) const ROW: u8 = b'r';
pub(crate) const LEAVES: u8 = b'l';
pub(crate) const PART: u8 = b'p';
pub(crate) const PIN: u8 = b'n';
pub(crate) const ACCESS: u8 = b'a';

/// How a blob is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// In the engine.
    Inline,
    /// A file that is not known to be whole after a restart.
    Partial,
    /// A file that was synced whole.
    Complete,
}

/// A blob's entry in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) form: Form,
    pub(crate) bytes: u64,
    pub(crate) accessed: i64,
}

impl Row {
    pub(crate) fn encode(self) -> [u8; 17] {
        let mut bytes = [0; 17];
        bytes[0] = match self.form {
            Form::Inline => 0,
            Form::Partial => 1,
            Form::Complete => 2,
        };
        bytes[1..9].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[9..].copy_from_slice(&self.accessed.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 17] = bytes.try_into().ok()?;
        let form = match bytes[0] {
            0 => Form::Inline,
            1 => Form::Partial,
            2 => Form::Complete,
            _ => return None,
        };
        let word = |from: usize| std::array::from_fn(|at| bytes[from + at]);
        Some(Self { form, bytes: u64::from_le_bytes(word(1)), accessed: i64::from_le_bytes(word(9)) })
    }
}

pub(crate) fn key_of(cid: &Cid) -> Result<Key, BlobError> {
    let known = [CODEC_RAW, CODEC_DAG_PB, CODEC_DAG_CBOR].contains(&cid.codec());
    match cid_digest(cid) {
        // The comparison refuses CIDv0, which has the same codec and digest.
        Some(digest) if known && cid_from_digest(cid.codec(), digest) == *cid => {
            Ok(key_from(cid.codec(), digest))
        }
        _ => Err(BlobError::UnsupportedCid { cid: *cid }),
    }
}

pub(crate) fn key_from(codec: u64, digest: Digest) -> Key {
    let mut key = [0; 33];
    key[0] = codec as u8;
    key[1..].copy_from_slice(&digest);
    key
}

pub(crate) fn cid_of_key(key: &Key) -> Cid {
    cid_from_digest(u64::from(key[0]), digest(key))
}

pub(crate) fn digest(key: &Key) -> Digest {
    std::array::from_fn(|at| key[1 + at])
}

pub(crate) fn index_key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut name = vec![kind];
    parts.iter().for_each(|part| name.extend_from_slice(part));
    name
}

/// Sorts by time: the sign bit is flipped so that early times come first.
pub(crate) fn access_key(accessed: i64, key: &Key) -> Vec<u8> {
    index_key(ACCESS, &[&(accessed as u64 ^ 1 << 63).to_be_bytes(), key])
}

pub(crate) fn part_key(codec: u64, block: &Digest, root: &Key) -> Vec<u8> {
    index_key(PART, &[&[codec as u8], block, &root[1..]])
}

pub(crate) fn encode_place(place: Place) -> [u8; 5] {
    let mut bytes = [place.level; 5];
    bytes[1..].copy_from_slice(&place.ordinal.to_be_bytes());
    bytes
}

pub(crate) fn decode_place(bytes: &[u8]) -> Option<Place> {
    let (level, ordinal) = bytes.split_first()?;
    Some(Place { level: *level, ordinal: u32::from_be_bytes(ordinal.try_into().ok()?) })
}
