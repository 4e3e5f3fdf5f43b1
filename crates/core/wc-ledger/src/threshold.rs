//! Signing together: t of n machines hold shares of one Ed25519 key, and fewer than t can do nothing with theirs.
//!
//! ```text
//! generate   order ─► KeyGeneration ─commitments─► Dealing ─sealed shares─► KeyShare        once per set, each member
//! sign       Member ─nonce commitments─► Assembly ─request─► Member ─shares─► Assembly ─► signature
//! handover   founding ─► set 1 ─► set 2 ─► … ─► the key that checkpoints verify under       what a stranger walks
//! growth     last head that a member signed ─► the head that it is asked to sign
//! ```
//!
//! The signature is an ordinary Ed25519 one, so a checkpoint needs no special verifier. A set of one holds its key whole
//! and goes through the same calls; the mathematics of shares begins at two.
//!
//! Nothing here draws a random number: each step that needs one takes a [`Seed`], which is used up. Messages are
//! canonical records of [`wc_types::signers`]; whose they are is for the transport to say, except in a key generation,
//! where they are relayed and therefore signed.
//!
//! **Nonces are never used twice.** [`Nonces`](sign::Nonces) cannot be copied, printed, stored or read back; signing takes them by
//! value. Whoever dies between committing and signing has forgotten them, and a new commitment is asked for.
//!
//! # Source
//! RFC 9591, FROST(Ed25519, SHA-512), by the crate `frost-ed25519`; RFC 9180 for sealed shares, by the crate `hpke`.
//! Why sets are chained instead of reshared: `docs/adr/0005-threshold-signing.md`.

use std::convert::Infallible;
use std::fmt;

use frost_ed25519::Identifier;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use wc_types::charter::Founding;
use wc_types::signers::{Signer, SignerSet};
use wc_types::{Cid, Class, Code, NodeId, Signed};
use zeroize::Zeroizing;

pub mod generate;
pub mod growth;
pub mod handover;
pub mod sign;

/// What came of a message of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ThresholdFault {
    /// The set cannot be.
    #[error("these signers cannot be a set: {reason}")]
    Terms {
        /// Why not.
        reason: &'static str,
    },
    /// A node is not among the members.
    #[error("{node} is not one of the signers")]
    NotMember {
        /// The node.
        node: NodeId,
    },
    /// A member has sent nothing.
    #[error("the {what} of {node} is missing")]
    Missing {
        /// The member.
        node: NodeId,
        /// What it owes.
        what: &'static str,
    },
    /// Members sent something that an honest member does not send.
    #[error("the {what} of {} cannot be right", names(nodes))]
    Culprits {
        /// Who.
        nodes: Vec<NodeId>,
        /// What is wrong.
        what: &'static str,
    },
    /// Fewer members take part than have to.
    #[error("{have} signers take part, where {need} have to")]
    TooFew {
        /// How many do.
        have: usize,
        /// How many have to.
        need: usize,
    },
    /// A request does not fit what this member has promised or may sign.
    #[error("this member does not sign: {reason}")]
    Declined {
        /// Why not.
        reason: &'static str,
    },
    /// A kept share is not one.
    #[error("the kept share of the signing key is damaged: {reason}")]
    Damaged {
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl ThresholdFault {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Terms { .. } => Code::new("WC-LEDGER-140", Class::Caller),
            Self::NotMember { .. } => Code::new("WC-LEDGER-141", Class::Caller),
            Self::Missing { .. } => Code::new("WC-LEDGER-142", Class::Peer),
            Self::Culprits { .. } => Code::new("WC-LEDGER-143", Class::Peer),
            Self::TooFew { .. } => Code::new("WC-LEDGER-144", Class::Exhausted),
            Self::Declined { .. } => Code::new("WC-LEDGER-145", Class::Peer),
            Self::Damaged { .. } => Code::new("WC-LEDGER-146", Class::Host),
        }
    }

    /// Returns who is to blame, if somebody is.
    pub fn culprits(&self) -> &[NodeId] {
        match self {
            Self::Culprits { nodes, .. } => nodes,
            Self::Missing { node, .. } => std::slice::from_ref(node),
            Self::Terms { .. }
            | Self::NotMember { .. }
            | Self::TooFew { .. }
            | Self::Declined { .. }
            | Self::Damaged { .. } => &[],
        }
    }

    pub(crate) fn culprit(node: NodeId, what: &'static str) -> Self {
        Self::Culprits { nodes: vec![node], what }
    }
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

/// Randomness for one step. Drawn from the operating system by the caller, used once and wiped.
pub struct Seed(Zeroizing<[u8; 32]>);

impl Seed {
    /// Takes thirty-two fresh random bytes. The same bytes twice would give away the share of whoever uses them.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the numbers that follow from the seed.
    fn randomness(self) -> Randomness {
        Randomness(ChaCha20Rng::from_seed(*self.0))
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// A seeded generator in the two generations of traits that the libraries below speak.
struct Randomness(ChaCha20Rng);

impl rand_core::TryRng for Randomness {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Randomness {}

/// A set of signers as everybody may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerKeys {
    /// CID of the set's record, or of the founding record.
    pub id: Cid,
    /// Number of the set; 0 is the founding coordinator alone.
    pub epoch: u64,
    /// Members that have to sign together.
    pub threshold: u16,
    /// Members, in ascending order.
    pub members: Vec<Signer>,
    /// The key that their signatures verify under.
    pub group: [u8; 32],
}

impl SignerKeys {
    /// Returns the first set: the coordinator that founded the cell, with its own key.
    pub fn founding(founding: &Signed<Founding>) -> Self {
        let node = founding.coordinator;
        Self {
            id: founding.cid(),
            epoch: 0,
            threshold: 1,
            members: vec![Signer { node, share: node.0 }],
            group: node.0,
        }
    }

    /// Returns the set of a record whose CID is `id`.
    fn of(id: Cid, set: &SignerSet) -> Self {
        Self {
            id,
            epoch: set.epoch,
            threshold: set.threshold,
            members: set.members.clone(),
            group: set.group,
        }
    }

    /// Returns the place of a member among the members.
    fn place(&self, node: &NodeId) -> Option<usize> {
        self.members.iter().position(|member| member.node == *node)
    }

    /// Returns whether the node is a member.
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.place(node).is_some()
    }

    /// Returns whether one key, held whole, signs.
    pub fn is_alone(&self) -> bool {
        self.members.len() == 1
    }
}

/// Returns the number of the member at `place` in the arithmetic of shares. A set has at most sixteen members.
fn identifier(place: usize) -> Identifier {
    let number = u16::try_from(place + 1).expect("a set has at most sixteen members");
    Identifier::try_from(number).expect("one and above are identifiers")
}

#[cfg(test)]
mod tests;
