//! What a cell's coordinator orders the whole cell: that nothing new is dispatched (INC-06), and whom the cell does not work
//! with (INC-07).
//!
//! One record says everything that stands, so whoever has the newest needs none of the earlier ones.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::charter::{Founding, cell_id};
use crate::id::{CellId, NodeId};
use crate::sign::Signed;
use crate::time::Timestamp;

/// Most bans that stand at the same time: with them the record fits a message of gossip.
pub const BANS_MAX: usize = 64;
/// Least characters of the reason for a halt (INC-06).
pub const REASON_CHARS_MIN: usize = 20;
/// Most bytes of it.
pub const REASON_BYTES_MAX: usize = 512;

/// Everything that a cell's coordinator orders. Signed with the key that the founding record names; stands until the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directives {
    /// The cell.
    pub cell: CellId,
    /// Grows with each record of the cell, and is at least the time of the order in seconds since 1970, so that it also grows
    /// where a coordinator has forgotten orders. Lower ones count for nothing once a higher one is known.
    pub seq: u64,
    /// When it was ordered.
    pub at: Timestamp,
    /// Nothing new is dispatched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halt: Option<Halt>,
    /// Nodes that the cell does not work with, in ascending order; at most [`BANS_MAX`].
    pub bans: Vec<Ban>,
}

/// An order to dispatch nothing new. What runs is finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halt {
    /// Why, for everybody to read.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
}

/// A node that the cell does not work with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ban {
    /// The node.
    pub node: NodeId,
    /// What it did.
    pub reason: BanReason,
    /// Since when.
    pub at: Timestamp,
}

/// Why a node is banned (INC-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BanReason {
    /// A guest left its sandbox there, or was let out.
    SandboxEscape,
    /// What it says of its hardware or software is not true.
    AttestationFailed,
    /// It says different things to different peers, or reports what it did not do.
    ByzantineBehavior,
    /// It is used for what the cell does not allow.
    AcceptableUseViolation,
    /// The law forbids to work with its owner.
    OfacCompliance,
}

impl BanReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::SandboxEscape,
        Self::AttestationFailed,
        Self::ByzantineBehavior,
        Self::AcceptableUseViolation,
        Self::OfacCompliance,
    ];

    /// Returns its name on the wire and on screen.
    pub fn name(self) -> &'static str {
        match self {
            Self::SandboxEscape => "SANDBOX_ESCAPE",
            Self::AttestationFailed => "ATTESTATION_FAILED",
            Self::ByzantineBehavior => "BYZANTINE_BEHAVIOR",
            Self::AcceptableUseViolation => "ACCEPTABLE_USE_VIOLATION",
            Self::OfacCompliance => "OFAC_COMPLIANCE",
        }
    }
}

impl fmt::Display for BanReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no reason for a ban.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no reason for a ban; those are SANDBOX_ESCAPE, ATTESTATION_FAILED, BYZANTINE_BEHAVIOR, ACCEPTABLE_USE_VIOLATION and OFAC_COMPLIANCE"
)]
pub struct UnknownBanReason {
    /// The text.
    pub text: String,
}

impl FromStr for BanReason {
    type Err = UnknownBanReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |reason: &Self| reason.name().eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(named).ok_or_else(|| UnknownBanReason { text: text.to_owned() })
    }
}

/// Why directives count for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectiveFlaw {
    /// They name another cell than the founding record founds.
    #[error("they are of another cell")]
    Cell,
    /// Not signed by the cell's coordinator.
    #[error("they are not signed by the cell's coordinator")]
    Signer,
    /// The reason for the halt is too short or too long.
    #[error("the reason for a halt has {REASON_CHARS_MIN} characters to {REASON_BYTES_MAX} bytes")]
    Reason,
    /// More bans than may stand.
    #[error("more than {BANS_MAX} bans")]
    TooMany,
    /// Bans out of order, twice, or of the coordinator itself.
    #[error("the bans are out of order, name a node twice, or name the coordinator")]
    Bans,
}

impl Directives {
    /// Returns whether the cell does not work with a node.
    pub fn is_banned(&self, node: &NodeId) -> bool {
        self.bans.binary_search_by_key(node, |ban| ban.node).is_ok()
    }

    /// Checks what the decoder cannot: that these are the words of the cell's coordinator, and keep to the rules. The
    /// signature was checked when the record was decoded.
    ///
    /// # Errors
    /// [`DirectiveFlaw`] says why they count for nothing.
    pub fn check(directives: &Signed<Self>, founding: &Signed<Founding>) -> Result<(), DirectiveFlaw> {
        let coordinator = founding.coordinator;
        if directives.cell != cell_id(founding) {
            return Err(DirectiveFlaw::Cell);
        }
        if founding.signed_by(&coordinator.0).is_err() || directives.signed_by(&coordinator.0).is_err() {
            return Err(DirectiveFlaw::Signer);
        }
        let fits = |halt: &Halt| {
            halt.reason.chars().count() >= REASON_CHARS_MIN && halt.reason.len() <= REASON_BYTES_MAX
        };
        if !directives.halt.as_ref().is_none_or(fits) {
            return Err(DirectiveFlaw::Reason);
        }
        if directives.bans.len() > BANS_MAX {
            return Err(DirectiveFlaw::TooMany);
        }
        if directives.bans.is_sorted_by(|before, after| before.node < after.node)
            && !directives.is_banned(&coordinator)
        {
            Ok(())
        } else {
            Err(DirectiveFlaw::Bans)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charter::Charter;
    use crate::sign::SigningKey;

    fn founding(key: &SigningKey) -> Signed<Founding> {
        let record = Founding {
            network: "lab".to_owned(),
            coordinator: key.node_id(),
            owner: key.account_id(),
            charter: Charter::default(),
            founded_at: Timestamp(1),
        };
        Signed::seal(record, key)
    }

    fn ban(number: u8) -> Ban {
        Ban { node: NodeId([number; 32]), reason: BanReason::ByzantineBehavior, at: Timestamp(2) }
    }

    #[test]
    fn directives_that_break_a_rule_count_for_nothing() {
        let key = SigningKey::from_seed(&[1; 32]);
        let founding = founding(&key);
        let halt = |reason: &str| Some(Halt { reason: reason.to_owned(), at: Timestamp(2) });
        let whole = Directives {
            cell: cell_id(&founding),
            seq: 1,
            at: Timestamp(2),
            halt: halt("a worm was seen in the lab"),
            bans: vec![ban(1), ban(2)],
        };
        type Change = Box<dyn Fn(&mut Directives)>;
        let own = key.node_id();
        let table: Vec<(Change, Result<(), DirectiveFlaw>)> = vec![
            (Box::new(|_| {}), Ok(())),
            (Box::new(|it| it.cell = CellId([9; 32])), Err(DirectiveFlaw::Cell)),
            (
                Box::new(|it| it.halt.as_mut().unwrap().reason = "too short".to_owned()),
                Err(DirectiveFlaw::Reason),
            ),
            (Box::new(|it| it.halt.as_mut().unwrap().reason = "x".repeat(513)), Err(DirectiveFlaw::Reason)),
            (Box::new(|it| it.bans = (0..65).map(ban).collect()), Err(DirectiveFlaw::TooMany)),
            (Box::new(|it| it.bans.reverse()), Err(DirectiveFlaw::Bans)),
            (Box::new(|it| it.bans = vec![ban(1), ban(1)]), Err(DirectiveFlaw::Bans)),
            (Box::new(move |it| it.bans = vec![Ban { node: own, ..ban(1) }]), Err(DirectiveFlaw::Bans)),
        ];
        for (row, (change, expected)) in table.into_iter().enumerate() {
            let mut directives = whole.clone();
            change(&mut directives);
            let sealed = Signed::seal(directives, &key);
            assert_eq!(Directives::check(&sealed, &founding), expected, "row {row}");
        }
        let other = SigningKey::from_seed(&[2; 32]);
        assert_eq!(
            Directives::check(&Signed::seal(whole.clone(), &other), &founding),
            Err(DirectiveFlaw::Signer)
        );
        assert!(whole.is_banned(&NodeId([2; 32])) && !whole.is_banned(&NodeId([3; 32])));
    }

    #[test]
    fn a_reason_is_read_as_it_is_written() {
        for reason in BanReason::ALL {
            assert_eq!(reason.name().parse(), Ok(reason));
            assert_eq!(crate::to_canonical(&reason), crate::to_canonical(&reason.name()));
        }
        assert_eq!("sandbox_escape".parse(), Ok(BanReason::SandboxEscape));
        assert!("BAD_MOOD".parse::<BanReason>().is_err());
    }
}
