//! What a witness decides: whether a log's new checkpoint continues the one it cosigned last.
//!
//! ```text
//! last cosigned (size m, root a)  +  offered (size n, root b)  +  proof
//!     n > m, proof holds    ──► cosign, after the new head is durable
//!     n = m, a = b          ──► cosign again, with a newer time
//!     n = m, a ≠ b          ──► split view: two signed notes that cannot both be
//!     n > m, no such proof  ──► rewritten; the log's own root at m, with its proof, makes it provable to anybody
//!     n < m                 ──► shrunk: not yet proof of anything, and never cosigned
//! ```
//!
//! What a witness saw goes into [`Evidence`], a file that anybody can check offline.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use wc_types::charter::{Founding, cell_id};
use wc_types::signers::Handover;
use wc_types::{CanonicalError, CellId, Class, Code, SignError, Signed, from_canonical};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::merkle::Hash;
use crate::note::Note;
use crate::proof::verify_consistency;
use crate::threshold::handover::open_signed;

/// A checkpoint cannot be cosigned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessFault {
    /// It is not a checkpoint of the cell: another log, another key, a broken note.
    #[error("not a checkpoint of this cell")]
    Foreign(#[from] CheckpointError),
    /// The log is shorter than it was.
    #[error("the log shrank: it had {seen} entries and now claims {offered}")]
    Shrunk {
        /// Entries that were cosigned.
        seen: u64,
        /// Entries of the offered checkpoint.
        offered: u64,
    },
    /// Two different logs of one size.
    #[error("split view: two different logs of {size} entries are signed by the same cell")]
    Split {
        /// Their size.
        size: u64,
    },
    /// The longer log does not begin with the shorter.
    #[error("history was rewritten: the log of {offered} entries does not continue the one of {seen}")]
    Rewritten {
        /// Entries that were cosigned.
        seen: u64,
        /// Entries of the offered checkpoint.
        offered: u64,
    },
    /// Its signers did not take over from those that were seen: an old key signs again, or the chain forks.
    #[error(
        "other signers: {seen} hand-overs were seen, and the {offered} that are offered do not begin with them"
    )]
    Signers {
        /// Hand-overs of the checkpoint that was cosigned.
        seen: usize,
        /// Hand-overs of the offered one.
        offered: usize,
    },
}

impl WitnessFault {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Foreign(error) => error.code(),
            Self::Shrunk { .. } => Code::new("WC-LEDGER-121", Class::Peer),
            Self::Split { .. } => Code::new("WC-LEDGER-122", Class::Peer),
            Self::Rewritten { .. } => Code::new("WC-LEDGER-123", Class::Peer),
            Self::Signers { .. } => Code::new("WC-LEDGER-129", Class::Peer),
        }
    }
}

/// Checks that the signers of an offered checkpoint come after those whose checkpoint was cosigned last: whoever holds an
/// old key, the founding one included, must not lead a witness back.
///
/// # Errors
/// [`WitnessFault::Signers`].
pub fn check_signers(seen: &[Handover], offered: &[Handover]) -> Result<(), WitnessFault> {
    let fault = WitnessFault::Signers { seen: seen.len(), offered: offered.len() };
    let begins = offered.len() >= seen.len()
        && seen.iter().zip(offered).all(|(seen, offered)| seen.set.cid() == offered.set.cid());
    if begins { Ok(()) } else { Err(fault) }
}

/// Decides whether the checkpoint in `note` may be cosigned, and returns it if so.
///
/// - `chain`: the hand-overs from the founding key to the key that signed it
/// - `seen`: the checkpoint that was cosigned last; none before the first
/// - `consistency`: what the log says proves that it goes on from there
///
/// # Errors
/// [`WitnessFault`].
pub fn consider(
    founding: &Signed<Founding>,
    chain: &[Handover],
    seen: Option<&Checkpoint>,
    note: &Note,
    consistency: &[Hash],
) -> Result<Checkpoint, WitnessFault> {
    let offered = open_signed(founding, chain, note)?;
    let Some(seen) = seen else { return Ok(offered) };
    let (old, new) = (seen.size, offered.size);
    if new < old {
        return Err(WitnessFault::Shrunk { seen: old, offered: new });
    }
    if new == old {
        let same = offered.root == seen.root;
        return if same { Ok(offered) } else { Err(WitnessFault::Split { size: new }) };
    }
    match verify_consistency(old, new, consistency, &seen.root, &offered.root) {
        Ok(()) => Ok(offered),
        Err(_) => Err(WitnessFault::Rewritten { seen: old, offered: new }),
    }
}

/// Two checkpoints of one cell that do not fit, as a file that anybody can check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The founding record, which names the key that signs both.
    pub founding: Signed<Founding>,
    /// The signed note that was cosigned first.
    pub seen: String,
    /// The signed note that came after it.
    pub offered: String,
    /// What the log that was offered says its root was at the size of the one that was seen; 32 bytes or none.
    pub prefix_root: ByteBuf,
    /// Its proof of that: consistency between those two sizes.
    pub path: Vec<ByteBuf>,
    /// The hand-overs to the key that signed the one that was seen first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen_signers: Vec<Handover>,
    /// The hand-overs to the key that signed the one after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offered_signers: Vec<Handover>,
}

/// What evidence shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The key signed two different logs of one size: proved.
    SplitView {
        /// Their size.
        size: u64,
    },
    /// The key signed a log and a longer one that begins differently: proved.
    Rewritten {
        /// Size of the shorter.
        seen: u64,
        /// Size of the longer.
        offered: u64,
    },
    /// The two may be of one log; somebody refused to show how.
    Inconclusive {
        /// Why nothing follows.
        reason: &'static str,
    },
}

/// A file is not evidence about any cell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The bytes are not an evidence file.
    #[error("not an evidence file")]
    Undecodable(#[source] CanonicalError),
    /// The founding record is not signed by the coordinator that it names.
    #[error("founding record")]
    Founding(#[source] SignError),
    /// A note in it is not a checkpoint of that cell.
    #[error("the checkpoint that was {which} is not one of this cell")]
    Checkpoint {
        /// `seen` or `offered`.
        which: &'static str,
        /// What is wrong with it.
        source: CheckpointError,
    },
}

impl EvidenceError {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Undecodable(_) => Code::new("WC-LEDGER-124", Class::Caller),
            Self::Founding(_) => Code::new("WC-LEDGER-125", Class::Peer),
            Self::Checkpoint { .. } => Code::new("WC-LEDGER-126", Class::Peer),
        }
    }
}

impl Evidence {
    /// Reads an evidence file.
    ///
    /// # Errors
    /// [`EvidenceError::Undecodable`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EvidenceError> {
        from_canonical(bytes).map_err(EvidenceError::Undecodable)
    }

    /// Returns the cell that it is about, and what it shows, from nothing but itself.
    ///
    /// # Errors
    /// [`EvidenceError`] if it is not about two checkpoints that this cell signed.
    pub fn check(&self) -> Result<(CellId, Finding), EvidenceError> {
        self.founding.signed_by(&self.founding.coordinator.0).map_err(EvidenceError::Founding)?;
        let read = |which, text: &str, chain: &[Handover]| {
            let checkpoint = Note::parse(text).map_err(CheckpointError::Note);
            checkpoint
                .and_then(|note| open_signed(&self.founding, chain, &note))
                .map_err(|source| EvidenceError::Checkpoint { which, source })
        };
        let seen = read("seen", &self.seen, &self.seen_signers)?;
        let offered = read("offered", &self.offered, &self.offered_signers)?;
        Ok((cell_id(&self.founding), self.finding(&seen, &offered)))
    }

    fn finding(&self, seen: &Checkpoint, offered: &Checkpoint) -> Finding {
        let inconclusive = |reason| Finding::Inconclusive { reason };
        if seen.size == offered.size {
            return if seen.root == offered.root {
                inconclusive("both notes are of the same log")
            } else {
                Finding::SplitView { size: seen.size }
            };
        }
        if offered.size < seen.size {
            return inconclusive("a shorter log may be the beginning of the longer, signed before it");
        }
        let Ok(prefix) = Hash::try_from(self.prefix_root.as_slice()) else {
            return inconclusive("the longer log does not say what it was at the size of the shorter");
        };
        let path: Result<Vec<Hash>, _> =
            self.path.iter().map(|hash| Hash::try_from(hash.as_slice())).collect();
        let proved = path.is_ok_and(|path| {
            verify_consistency(seen.size, offered.size, &path, &prefix, &offered.root).is_ok()
        });
        if !proved {
            return inconclusive("the longer log does not prove what it was at the size of the shorter");
        }
        if prefix == seen.root {
            return inconclusive("the longer log continues the shorter");
        }
        Finding::Rewritten { seen: seen.size, offered: offered.size }
    }
}
