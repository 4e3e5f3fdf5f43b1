//! What a member checks before it signs a checkpoint: that the log only grew since the last one that it signed.

use wc_types::signers::SignedHead;
use wc_types::{CellId, Class, Code};

use crate::checkpoint::{Checkpoint, CheckpointError, origin};
use crate::merkle::Hash;
use crate::proof::{ProofError, verify_consistency};

/// A member does not sign this checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrowthFault {
    /// It is not the text of a checkpoint.
    #[error("what is to be signed is not a checkpoint")]
    NotACheckpoint(#[from] CheckpointError),
    /// It is of another log, or says more than size and root.
    #[error("the checkpoint is not a plain one of this cell")]
    NotOurs,
    /// A larger log was signed before.
    #[error("a checkpoint of {signed} entries was signed before; this one has {asked}")]
    Smaller {
        /// Size that was signed.
        signed: u64,
        /// Size that is asked for.
        asked: u64,
    },
    /// The log that was signed before is not the beginning of this one.
    #[error("the log of {asked} entries does not continue the one that was signed at {signed}")]
    Rewritten {
        /// Size that was signed.
        signed: u64,
        /// Size that is asked for.
        asked: u64,
        /// Why not.
        source: ProofError,
    },
}

impl GrowthFault {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::NotACheckpoint(error) => error.code(),
            Self::NotOurs => Code::new("WC-LEDGER-148", Class::Peer),
            Self::Smaller { .. } => Code::new("WC-LEDGER-149", Class::Peer),
            Self::Rewritten { .. } => Code::new("WC-LEDGER-150", Class::Peer),
        }
    }
}

/// Returns the head to remember, durably, before `text` is signed.
///
/// - `last`: the head that this member signed last; none if it has signed none
/// - `proof`: consistency proof from there; empty for the same size, or if there is no last
///
/// # Errors
/// [`GrowthFault`].
pub fn check_growth(
    cell: &CellId,
    last: Option<&SignedHead>,
    text: &str,
    proof: &[Hash],
) -> Result<SignedHead, GrowthFault> {
    let checkpoint = Checkpoint::parse_text(text)?;
    if checkpoint.origin != origin(cell) || !checkpoint.extensions.is_empty() {
        return Err(GrowthFault::NotOurs);
    }
    let next = SignedHead { size: checkpoint.size, root: checkpoint.root };
    let Some(last) = last else { return Ok(next) };
    let (signed, asked) = (last.size, next.size);
    if asked < signed {
        return Err(GrowthFault::Smaller { signed, asked });
    }
    verify_consistency(signed, asked, proof, &last.root, &next.root)
        .map_err(|source| GrowthFault::Rewritten { signed, asked, source })?;
    Ok(next)
}
