//! The whole state as bytes, and back.

use wc_types::canonical::decode_reason;
use wc_types::cid::sha256;

use crate::cell::Cell;

/// Version of the snapshot's encoding. A snapshot of another version is not read; the journal is replayed instead.
const VERSION: u16 = 5;

/// The bytes are not a snapshot of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// They do not decode.
    #[error("snapshot does not decode: {reason}")]
    Malformed {
        /// What the decoder said.
        reason: String,
    },
    /// The balances in them do not sum to zero, or an account is below zero (invariant CELL-1).
    #[error("snapshot has balances that do not sum to zero")]
    Unbalanced,
    /// Another release wrote them.
    #[error("snapshot has version {version}, this release reads {VERSION}")]
    Version {
        /// The version found.
        version: u16,
    },
}

impl RestoreError {
    /// Returns the stable code of this error.
    pub fn code(&self) -> wc_types::Code {
        match self {
            Self::Malformed { .. } => wc_types::Code::new("WC-CELL-001", wc_types::Class::Host),
            Self::Unbalanced => wc_types::Code::new("WC-CELL-003", wc_types::Class::Host),
            Self::Version { .. } => wc_types::Code::new("WC-CELL-002", wc_types::Class::Host),
        }
    }
}

impl Cell {
    /// Returns the whole state as bytes, equal for equal states.
    pub fn snapshot(&self) -> Vec<u8> {
        serde_ipld_dagcbor::to_vec(&(VERSION, self)).expect("the state holds only what DAG-CBOR can say")
    }

    /// Returns the state that a snapshot holds. The snapshot is this coordinator's own: its checksum was checked, its
    /// signatures were when they came.
    ///
    /// # Errors
    /// [`RestoreError`] when the bytes are no snapshot, or one of another release.
    pub fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let malformed = |reason: String| RestoreError::Malformed { reason };
        // The version first: the state of another release need not decode as one of this.
        let head: Result<(u16, serde::de::IgnoredAny), _> = serde_ipld_dagcbor::from_slice(bytes);
        let (version, _) = head.map_err(|error| malformed(decode_reason(error)))?;
        if version != VERSION {
            return Err(RestoreError::Version { version });
        }
        let (_, cell): (u16, Self) =
            serde_ipld_dagcbor::from_slice(bytes).map_err(|error| malformed(decode_reason(error)))?;
        let book = &cell.ledger.book;
        if book.total() != 0 || book.accounts().any(|(_, totals)| totals.balance < 0) {
            return Err(RestoreError::Unbalanced);
        }
        Ok(cell)
    }

    /// Returns a digest of the whole state: equal for equal journals on any machine.
    pub fn state_hash(&self) -> [u8; 32] {
        sha256(&self.snapshot())
    }
}
