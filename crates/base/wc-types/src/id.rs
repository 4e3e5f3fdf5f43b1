//! One type per kind of identity, in one list.
//!
//! Keys are named by whose they are: a [`NodeId`] is a machine, an [`AccountId`] is a person (donor or submitter, the
//! same key spends what it earns). Content ids are derived from bytes, never drawn at random.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes that precede an Ed25519 public key inside a libp2p peer id: identity multihash of 36 bytes, then the protobuf
/// fields `Type = Ed25519` and `Data = 32 bytes` (erratum E-11).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The text or the bytes are not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind}: {reason}")]
pub struct IdError {
    /// The kind of id that was expected, such as `node id`.
    pub kind: &'static str,
    /// What is wrong with the text.
    pub reason: &'static str,
}

fn peer_id_text(key: &[u8; 32]) -> String {
    let mut bytes = [0u8; 38];
    bytes[..6].copy_from_slice(&PEER_ID_PREFIX);
    bytes[6..].copy_from_slice(key);
    bs58::encode(bytes).into_string()
}

fn peer_id_parse(kind: &'static str, text: &str) -> Result<[u8; 32], IdError> {
    let mut bytes = [0u8; 38];
    match bs58::decode(text).onto(&mut bytes) {
        Ok(38) if bytes[..6] == PEER_ID_PREFIX => {
            let mut key = [0u8; 32];
            key.copy_from_slice(&bytes[6..]);
            Ok(key)
        }
        Ok(_) => Err(IdError { kind, reason: "expected the peer id of an Ed25519 key (12D3KooW…)" }),
        Err(_) => Err(IdError { kind, reason: "expected base58 text of a 38-byte peer id" }),
    }
}

macro_rules! key_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        ///
        /// Thirty-two bytes of an Ed25519 public key; shown as the libp2p peer id of that key.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(#[serde(with = "serde_bytes")] pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&peer_id_text(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                peer_id_parse($kind, text).map(Self)
            }
        }
    };
}

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        ///
        /// Thirty-two bytes of SHA-256; shown in lower-case base32 behind a prefix that names the kind.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(#[serde(with = "serde_bytes")] pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(&data_encoding::BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let digits = text
                    .strip_prefix($prefix)
                    .ok_or(IdError { kind: $kind, reason: concat!("expected the prefix `", $prefix, "`") })?;
                let bytes = data_encoding::BASE32_NOPAD
                    .decode(digits.to_ascii_uppercase().as_bytes())
                    .map_err(|_| IdError { kind: $kind, reason: "expected 52 base32 digits after the prefix" })?;
                let digest = bytes
                    .try_into()
                    .map_err(|_| IdError { kind: $kind, reason: "expected 52 base32 digits after the prefix" })?;
                Ok(Self(digest))
            }
        }
    };
}

key_id!(
    /// A person's account: donors earn on it, submitters spend from it. Separate from the key of any machine (E-56).
    AccountId,
    "account id"
);
digest_id!(
    /// A cell: the digest of its founding record.
    CellId, "cell_", "cell id"
);
digest_id!(
    /// A submitted job: SHA-256 of manifest CID, submitter and submission time (JOB-10).
    JobId, "job_", "job id"
);
key_id!(
    /// A machine: the public key whose peer id the mesh uses.
    NodeId,
    "node id"
);

impl NodeId {
    /// Returns the 38 bytes of this node's libp2p peer id.
    pub fn to_peer_id_bytes(self) -> [u8; 38] {
        let mut bytes = [0u8; 38];
        bytes[..6].copy_from_slice(&PEER_ID_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        bytes
    }

    /// Returns the node behind a libp2p peer id, if that id is of an Ed25519 key.
    pub fn from_peer_id_bytes(bytes: &[u8]) -> Option<Self> {
        let key = bytes.strip_prefix(&PEER_ID_PREFIX)?;
        Some(Self(key.try_into().ok()?))
    }
}

/// The number of a lease inside its cell. Grows with every grant and never repeats, so it also fences: a report under a
/// number that is no longer live is superseded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease_{}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One task: the unit of scheduling, verification and credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The job it belongs to.
    pub job: JobId,
    /// Index of its stage in the manifest.
    pub stage: u16,
    /// Index inside the stage's array; 0 for a single task.
    pub index: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.job, self.stage, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_reads_as_the_libp2p_peer_id_of_its_key() {
        let node = NodeId([7; 32]);
        let text = node.to_string();
        assert!(text.starts_with("12D3KooW"), "{text}");
        assert_eq!(text.parse::<NodeId>(), Ok(node));
        assert_eq!(NodeId::from_peer_id_bytes(&node.to_peer_id_bytes()), Some(node));
        assert!("12D3KooW".parse::<NodeId>().is_err());
    }

    #[test]
    fn a_digest_id_survives_its_text_and_rejects_other_kinds() {
        let job = JobId([9; 32]);
        assert_eq!(job.to_string().parse::<JobId>(), Ok(job));
        assert!(CellId([9; 32]).to_string().parse::<JobId>().is_err());
    }
}
