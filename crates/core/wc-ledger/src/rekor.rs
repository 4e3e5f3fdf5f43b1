//! Rekor, the transparency log outside of us: what it says of an entry, and whether that is true.
//!
//! ```text
//! TrustedRoot ──key of the log──┐
//!                               ▼
//! LogEntry ──► promise (v1) · checkpoint · inclusion ──► LogProof      this body is in that log
//!    └─body──► HashedRekord                                            digest, signature and key that were logged
//! ```
//!
//! Two protocols are read. **v1** (`hashedrekord` 0.0.1) signs a promise with a moment in it, and its log is sharded, so
//! an entry has a number of its own and a number in its shard. **v2** (`hashedrekord` 0.0.2) is a log of tiles: no promise
//! and no moment, and its checkpoints name their key as C2SP notes do. Nothing here asks a network or a clock.
//!
//! # Source
//! `sigstore/rekor` `openapi.yaml` and `types/hashedrekord` for v1; `sigstore/rekor-tiles` `CLIENTS.md` for v2;
//! `sigstore/protobuf-specs` for the JSON of entries and trusted roots; C2SP `signed-note`.

use wc_types::{Class, Code};

use crate::checkpoint::CheckpointError;
use crate::note::NoteError;
use crate::proof::ProofError;

mod body;
mod check;
mod entry;
mod key;
mod root;
mod tiles;

pub use body::{Api, HashedRekord, Signer, request_json};
pub use check::{CLOCK_SKEW_MAX, LogProof, verify_entry};
pub(crate) use entry::EntryOut;
pub use entry::{EntryProof, LogEntry};
pub(crate) use key::P256_PREFIX;
pub use key::{KeyAlgorithm, LogKey};
pub use root::{TrustedLog, TrustedRoot};
pub use tiles::{bundle_of, checkpoint_size, entry_from_tiles};

/// Longest entry or trusted root that is read, in bytes. A published trusted root has about 8 KiB.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// Something about an outside log is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RekorError {
    /// A document is not what its format says.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// Which document, or part of one.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A key is of no kind that we check.
    #[error("the key is neither ECDSA on P-256 nor Ed25519, as an SPKI in DER")]
    Key,
    /// The trusted root names no log.
    #[error("the trusted root names no log whose key can be used")]
    EmptyRoot,
    /// No trusted log has this id.
    #[error("the entry is of the log {log_id}, which the trusted root does not name")]
    UnknownLog {
        /// Id of the log, in hexadecimal.
        log_id: String,
    },
    /// The key of the log was not valid then.
    #[error("the key of {log} was not valid at {at}")]
    KeyNotValid {
        /// The log.
        log: String,
        /// The moment that was asked for, in words.
        at: String,
    },
    /// The log promises an entry of the future.
    #[error("the entry says that it was integrated at {integrated}, which is later than {now}")]
    Future {
        /// What the entry says.
        integrated: String,
        /// What the caller's clock says.
        now: String,
    },
    /// The signed entry timestamp is missing or not the log's.
    #[error("the signed entry timestamp {fault}")]
    Promise {
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The checkpoint is not a note.
    #[error("the log's checkpoint cannot be read")]
    Note(#[source] NoteError),
    /// The checkpoint's text is not one.
    #[error("the log's checkpoint cannot be read")]
    Checkpoint(#[source] CheckpointError),
    /// The checkpoint is not signed by the log.
    #[error("the log's checkpoint {fault}")]
    CheckpointSignature {
        /// What is wrong with it.
        fault: &'static str,
    },
    /// Two places that say the same thing differ.
    #[error("{what} contradict each other")]
    Contradiction {
        /// Which two.
        what: &'static str,
    },
    /// The entry is not in the tree of the checkpoint.
    #[error("the entry is not in the log")]
    Inclusion(#[source] ProofError),
    /// The body is of another kind or version.
    #[error("the entry is {kind} {version}, not a hashedrekord 0.0.1 or 0.0.2")]
    OtherKind {
        /// Its kind.
        kind: String,
        /// Its version.
        version: String,
    },
    /// The entry is about something else.
    #[error("the entry does not hold {what}")]
    NotOurs {
        /// What it should hold and does not.
        what: &'static str,
    },
    /// The signature over the checkpoint is not the anchor key's.
    #[error("the anchor's signature does not belong to its checkpoint and key")]
    Signature,
    /// The checkpoint that was anchored is not the cell's.
    #[error("the anchored checkpoint is not the cell's")]
    Anchored(#[source] CheckpointError),
}

impl RekorError {
    pub(crate) fn malformed(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed { what, reason: reason.into() }
    }

    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Malformed { .. } => Code::new("WC-LEDGER-190", Class::Peer),
            Self::Key => Code::new("WC-LEDGER-191", Class::Caller),
            Self::EmptyRoot => Code::new("WC-LEDGER-192", Class::Caller),
            Self::UnknownLog { .. } => Code::new("WC-LEDGER-193", Class::Peer),
            Self::KeyNotValid { .. } => Code::new("WC-LEDGER-194", Class::Peer),
            Self::Future { .. } => Code::new("WC-LEDGER-195", Class::Peer),
            Self::Promise { .. } => Code::new("WC-LEDGER-196", Class::Peer),
            Self::Note(_) | Self::Checkpoint(_) => Code::new("WC-LEDGER-197", Class::Peer),
            Self::CheckpointSignature { .. } => Code::new("WC-LEDGER-198", Class::Peer),
            Self::Contradiction { .. } => Code::new("WC-LEDGER-199", Class::Peer),
            Self::Inclusion(_) => Code::new("WC-LEDGER-200", Class::Peer),
            Self::OtherKind { .. } => Code::new("WC-LEDGER-201", Class::Peer),
            Self::NotOurs { .. } => Code::new("WC-LEDGER-202", Class::Peer),
            Self::Signature => Code::new("WC-LEDGER-203", Class::Peer),
            Self::Anchored(_) => Code::new("WC-LEDGER-204", Class::Peer),
        }
    }
}

/// Reads JSON of at most [`DOCUMENT_BYTES_MAX`] bytes.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, RekorError> {
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(RekorError::malformed(what, format!("it is longer than {DOCUMENT_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(bytes).map_err(|error| RekorError::malformed(what, error.to_string()))
}

/// Reads base64 that has one form only.
pub(crate) fn read_base64(what: &'static str, text: &str) -> Result<Vec<u8>, RekorError> {
    crate::note::decode_base64(text).ok_or_else(|| RekorError::malformed(what, "it is not base64"))
}

/// Reads 32 bytes in base64.
pub(crate) fn read_hash(what: &'static str, text: &str) -> Result<[u8; 32], RekorError> {
    read_base64(what, text)?.try_into().map_err(|_| RekorError::malformed(what, "it does not have 32 bytes"))
}
