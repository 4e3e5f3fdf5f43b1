//! Between a cell's coordinator and a machine that signs checkpoints with it: requests one way, answers the other.
//!
//! ```text
//! coordinator                          signer
//!   Begin ───────────────────────────►       the owner's order
//!   ◄─────────────────────── Commitment
//!   Commitments (of all) ────────────►
//!   ◄─────────────────────────── Shares      one for each other member, sealed to it
//!   Shares (for this one) ───────────►
//!   ◄──────────────────────────── Ready      its share is durable
//!
//!   Commit ──────────────────────────►       the chain of signers, and what for
//!   ◄──────────────────────── Committed      nonces that live as long as this stream
//!   Sign ────────────────────────────►
//!   ◄─────────────────────────── Signed      what it promised is durable
//!
//!   Commit ──────────────────────────►       (what for: a checkpoint)
//!   ◄──────────────────────── Committed      what it remembers
//!   Agree ───────────────────────────►       the log as it stands, which nobody has signed yet
//!   ◄─────────────────────────── Agreed      it continues what this one remembers
//!   Remember ────────────────────────►       a checkpoint that others signed
//!   ◄─────────────────────── Remembered      it is durable: nothing else is signed by this one
//!
//!   Learn ───────────────────────────►       the chain of signers
//!   ◄────────────────────────── Learned      what it held of earlier sets is destroyed
//! ```
//!
//! One stream is one key generation, one signature, one memory or one piece of news; `Agree` and `Remember` can each be left
//! out. Secrets between its messages live in memory only; a stream that breaks forgets them.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use wc_types::charter::Founding;
use wc_types::signers::{
    Handover, KeyCommitment, NonceCommitment, SealedShare, SignatureShare, SignedHead, SignerOrder,
    SignerSet, SigningRequest,
};
use wc_types::{NodeId, Refusal, Signed};

/// What a signature is for. The message that is signed follows from it, or is checked against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// The signers in force sign a checkpoint.
    Checkpoint,
    /// The signers to be show that they can sign: over the CID of the set's record.
    Accept {
        /// The set.
        set: Box<SignerSet>,
        /// The owner's order.
        order: Box<Signed<SignerOrder>>,
    },
    /// The signers in force hand over: over the CID of the set's record.
    HandOver {
        /// The set.
        set: Box<SignerSet>,
        /// The owner's order.
        order: Box<Signed<SignerOrder>>,
        /// The signature with which the new set showed that it can.
        accepted: ByteArray<64>,
    },
}

/// From a coordinator to a signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignerRequest {
    /// Take part in making a key.
    Begin {
        /// The cell.
        founding: Box<Signed<Founding>>,
        /// The hand-overs to the signers in force.
        chain: Vec<Handover>,
        /// The owner's order.
        order: Box<Signed<SignerOrder>>,
    },
    /// What all members committed to.
    Commitments {
        /// One each.
        commitments: Vec<Signed<KeyCommitment>>,
    },
    /// What the others sealed for this one.
    Shares {
        /// One from each.
        shares: Vec<Signed<SealedShare>>,
    },
    /// Take part in one signature.
    Commit {
        /// The cell.
        founding: Box<Signed<Founding>>,
        /// The hand-overs to the signers in force.
        chain: Vec<Handover>,
        /// What for.
        purpose: Purpose,
    },
    /// Sign.
    Sign {
        /// The message and who takes part.
        request: SigningRequest,
        /// For a checkpoint: consistency proof from the head that this signer signed last.
        consistency: Vec<ByteArray<32>>,
    },
    /// Say whether you would sign this, without signing it.
    Agree {
        /// Text of a checkpoint.
        checkpoint: String,
        /// Consistency proof from the head that this signer remembers.
        consistency: Vec<ByteArray<32>>,
    },
    /// Others signed this: sign nothing from now on that does not continue it.
    Remember {
        /// The signed checkpoint.
        note: String,
        /// Consistency proof from the head that this signer remembers.
        consistency: Vec<ByteArray<32>>,
    },
    /// Others sign now: destroy what you hold of earlier sets.
    Learn {
        /// The cell.
        founding: Box<Signed<Founding>>,
        /// The hand-overs to the signers in force.
        chain: Vec<Handover>,
    },
}

/// From a signer to a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignerAnswer {
    /// Its first message of a key generation.
    Commitment {
        /// Signed, to be shown to all.
        commitment: Box<Signed<KeyCommitment>>,
    },
    /// Its second.
    Shares {
        /// One for each other member.
        shares: Vec<Signed<SealedShare>>,
    },
    /// It has its share, and keeps it.
    Ready {
        /// The set as it sees it.
        set: Box<SignerSet>,
    },
    /// It takes part.
    Committed {
        /// To nonces that it keeps until the stream ends.
        commitment: NonceCommitment,
        /// The head of the log that it signed last, or that others told it they had.
        head: Option<SignedHead>,
    },
    /// It signed.
    Signed {
        /// Its part.
        share: SignatureShare,
    },
    /// The log continues what it remembers.
    Agreed,
    /// The checkpoint is remembered.
    Remembered,
    /// It knows the signers in force, and holds no share of any other.
    Learned {
        /// Shares that it still had to destroy.
        destroyed: u32,
    },
    /// It does not go on.
    Refused {
        /// Why not.
        refusal: Refusal,
        /// Whom it blames, if somebody is to blame.
        culprits: Vec<NodeId>,
    },
}
