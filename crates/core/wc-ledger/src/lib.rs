//! Who owes whom, and how can anyone check it?
//!
//! ```text
//! Verdict ──price──► postings ──► Entry ──► Book      balances; the sum over all holders is zero
//!                                   │
//!                                   └─leaf──► Tree ──► Checkpoint ──► signed Note      what the cell vouches for
//!                                               │
//!                                               └──► inclusion, consistency            what a stranger recomputes
//!
//! issue: Verdict + Entry ──► Receipt            verify: ReceiptFile ──► every step that was proved
//! anchor: Note ──► entry of an outside log (rekor) ──► AnchorFile      what even the cell cannot take back
//! ```
//!
//! The log is an RFC 6962 Merkle tree, its checkpoints are C2SP signed notes and its hashes are cut into C2SP tiles, so
//! that a third party can check a cell with tools that we did not write.
//!
//! **Invariants.** LEDGER-1: balances sum to zero and only the issuance is below it. LEDGER-2: an accepted task's
//! postings are exactly its awards. LEDGER-3: an entry names the entry before it. LEDGER-4: no receipt file is accepted
//! with any of its bytes changed.
#![forbid(unsafe_code)]

mod accepted;
pub mod anchor;
pub mod audit;
pub mod book;
pub mod chain;
pub mod checkpoint;
pub mod cosign;
pub mod earnings;
pub mod fade;
pub mod history;
pub mod issue;
pub mod merkle;
pub mod note;
mod pairs;
pub mod price;
pub mod proof;
pub mod rekor;
pub mod rules;
pub mod threshold;
pub mod tile;
pub mod verify;
pub mod witness;

pub use anchor::{AnchorFile, AnchorKey, AnchorReport, verify_anchor};
pub use audit::{AuditFault, Audited, Auditor};
pub use book::{Book, Fading, PostError, Totals};
pub use chain::{LinkFault, check_link, leaf_bytes, leaf_hash};
pub use checkpoint::{Checkpoint, CheckpointError, cell_key, origin};
pub use cosign::{Cosignature, CosignatureError, check_cosignature, cosign, cosignatures, witness_key_text};
pub use fade::{Acceleration, Retained};
pub use history::{Audit, HistoryFault, HistoryReport, Remembered};
pub use issue::{ReceiptParts, VerdictFault, award_postings, issue};
pub use merkle::{EMPTY_ROOT, Hash, Tree, hash_leaf, hash_node};
pub use note::{Note, NoteError, NoteSignature, VerifierKey};
pub use price::{Compute, Work, downgrade_refund, price};
pub use proof::{
    ProofError, consistency_proof, inclusion_proof, root_at, verify_consistency, verify_inclusion,
};
pub use rekor::{LogEntry, RekorError, TrustedRoot, verify_entry};
pub use rules::{RuleFault, check_postings};
pub use tile::{Bundle, HashTile, Tile, TileError, TileSource, check_tile, hash_from_tiles};
pub use verify::{Anchors, ReceiptFault, ReceiptReport, Seen, Step, decode_receipt, verify_receipt};
pub use witness::{Evidence, EvidenceError, Finding, WitnessFault, check_signers, consider};
