//! Canonical bytes: one value, one encoding, one CID.
//!
//! Records are DAG-CBOR: definite lengths, map keys sorted by length then bytes, shortest integers, no floats (none of
//! our records has one). Decoding is strict: bytes that do not re-encode to themselves are refused, so a record cannot
//! have two identities.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_ipld_dagcbor::DecodeError;

use crate::cid::{CODEC_DAG_CBOR, Cid, cid_of};

/// The largest record, in bytes. Equal to the largest block that common IPFS tools exchange.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// The bytes are not one canonical record of the expected type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CanonicalError {
    /// Longer than [`RECORD_BYTES_MAX`].
    #[error("record of {bytes} bytes is larger than {RECORD_BYTES_MAX}")]
    TooLarge {
        /// Length that was offered.
        bytes: usize,
    },
    /// Not DAG-CBOR of this type.
    #[error("record does not decode as {kind}: {reason}")]
    Malformed {
        /// Rust name of the expected type.
        kind: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// Decodes, but is not the one canonical encoding of its value.
    #[error("record of {kind} is not canonical")]
    NotCanonical {
        /// Rust name of the expected type.
        kind: &'static str,
    },
}

fn kind_of<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    name.rsplit("::").next().unwrap_or(name)
}

/// Returns the canonical bytes of `value`.
pub fn to_canonical<T: Serialize>(value: &T) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).expect("records hold only integers, text, bytes, lists, maps and links")
}

/// Returns the value whose canonical encoding is exactly `bytes`.
///
/// # Errors
/// [`CanonicalError`] when the bytes are too long, do not decode, or are another encoding of the same value.
pub fn from_canonical<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CanonicalError> {
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(CanonicalError::TooLarge { bytes: bytes.len() });
    }
    let value: T = serde_ipld_dagcbor::from_slice(bytes)
        .map_err(|error| CanonicalError::Malformed { kind: kind_of::<T>(), reason: decode_reason(error) })?;
    if to_canonical(&value) != bytes {
        return Err(CanonicalError::NotCanonical { kind: kind_of::<T>() });
    }
    Ok(value)
}

/// Returns what a decoder of DAG-CBOR says, in words: its own are those of its source code.
pub fn decode_reason<E: std::fmt::Debug>(error: DecodeError<E>) -> String {
    match error {
        // What our own types say about a value is a sentence already.
        DecodeError::Msg(reason) => reason,
        DecodeError::Eof { name, .. } | DecodeError::RequireLength { name, .. } => {
            format!("it ends in the middle of a {name}")
        }
        DecodeError::Mismatch { name, .. } | DecodeError::Unsupported { name, .. } => {
            format!("there is something else where a {name} is expected")
        }
        DecodeError::RequireUtf8 { name } => format!("a {name} is not UTF-8"),
        DecodeError::LengthOverflow { name, .. }
        | DecodeError::CastOverflow { name }
        | DecodeError::ArithmeticOverflow { name, .. } => format!("a {name} is out of range"),
        DecodeError::LengthMismatch { name, expect, value } => {
            format!("a {name} has {value} items, not {expect}")
        }
        DecodeError::DepthOverflow { .. } => "it is nested too deeply".to_owned(),
        DecodeError::TrailingData => "there are bytes behind its end".to_owned(),
        DecodeError::IndefiniteSize => "a list or a map does not say how long it is".to_owned(),
        DecodeError::NonMinimal { name, .. } => format!("a {name} is written longer than it has to be"),
        DecodeError::UnorderedKey => "the keys of a map are not in order".to_owned(),
        DecodeError::RequireBorrowed { .. } | DecodeError::Read(_) => "it cannot be read".to_owned(),
    }
}

/// Returns the CID of `value`: CIDv1, DAG-CBOR, SHA-256 of the canonical bytes.
pub fn record_cid<T: Serialize>(value: &T) -> Cid {
    cid_of(CODEC_DAG_CBOR, &to_canonical(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn keys_are_sorted_by_length_then_bytes() {
        let map: BTreeMap<&str, u8> = [("bb", 1), ("a", 2), ("c", 3)].into();
        assert_eq!(to_canonical(&map), [0xa3, 0x61, b'a', 2, 0x61, b'c', 3, 0x62, b'b', b'b', 1]);
    }

    #[test]
    fn what_does_not_decode_is_told_in_words() {
        for bytes in
            [&b""[..], b"\xa1", b"\x63abc", b"\xa1\x61", b"\xa2\x61a\x01", b"\xff", b"\xa0\x00", b"\xbf\xff"]
        {
            let error = from_canonical::<BTreeMap<String, u8>>(bytes).expect_err("no map").to_string();
            assert!(!error.contains(['{', '(', '}']), "{error}");
        }
    }

    #[test]
    fn a_second_encoding_of_the_same_value_is_refused() {
        // 0x18 0x01 is the integer 1 in two bytes; canonical is 0x01.
        assert!(from_canonical::<u8>(&[0x01]).is_ok());
        assert!(from_canonical::<u8>(&[0x18, 0x01]).is_err());
        // Map with keys in the wrong order.
        assert!(from_canonical::<BTreeMap<String, u8>>(&[0xa2, 0x61, b'c', 3, 0x61, b'a', 2]).is_err());
        assert!(from_canonical::<u8>(&[0x01, 0x01]).is_err(), "trailing bytes");
    }
}
