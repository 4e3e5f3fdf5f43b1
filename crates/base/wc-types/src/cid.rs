//! Content ids as IPFS computes them: CIDv1 over SHA-256.

pub use cid::Cid;
use multihash::Multihash;
use sha2::{Digest, Sha256};

/// Multicodec of plain bytes.
pub const CODEC_RAW: u64 = 0x55;
/// Multicodec of UnixFS nodes in protobuf (files larger than one chunk).
pub const CODEC_DAG_PB: u64 = 0x70;
/// Multicodec of canonical DAG-CBOR (every record of ours).
pub const CODEC_DAG_CBOR: u64 = 0x71;
/// Multihash code of SHA-256.
pub const HASH_SHA2_256: u64 = 0x12;

/// Returns SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Returns the CIDv1 of `codec` whose SHA-256 digest is `digest`.
pub fn cid_from_digest(codec: u64, digest: [u8; 32]) -> Cid {
    let hash = Multihash::wrap(HASH_SHA2_256, &digest).expect("32 bytes fit a 64-byte multihash");
    Cid::new_v1(codec, hash)
}

/// Returns the CIDv1 of `bytes` under `codec`.
pub fn cid_of(codec: u64, bytes: &[u8]) -> Cid {
    cid_from_digest(codec, sha256(bytes))
}

/// Returns the SHA-256 digest inside `cid`, or `None` for any other hash function (GEN-10: v1 is SHA-256 only).
pub fn cid_digest(cid: &Cid) -> Option<[u8; 32]> {
    (cid.hash().code() == HASH_SHA2_256).then(|| cid.hash().digest().try_into().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_blob_has_the_cid_that_ipfs_prints() {
        // `ipfs add --cid-version 1 --raw-leaves` of an empty file, as published in the IPFS documentation.
        let cid = cid_of(CODEC_RAW, b"");
        assert_eq!(cid.to_string(), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
        assert_eq!(cid_digest(&cid), Some(sha256(b"")));
    }
}
