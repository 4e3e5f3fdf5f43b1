//! What a machine did so far, as far as its score needs to know.

use serde::{Deserialize, Serialize};
use wc_types::entry::Standing;
use wc_types::{Millis, PartsPerMillion, Timestamp};

use crate::decay::halved;

const DAY: u64 = 24 * 3_600_000;
const ONE: u64 = PartsPerMillion::ONE.0 as u64;

/// Work units that the consistency of a machine is taken over (VER-06).
pub const WINDOW: u32 = 200;
/// A record of fewer units than this is divided by this, so that one lucky unit is not yet a clean record. VER-06 does
/// not say what a short record is worth; twenty units bound the error of the share to about a fifth.
pub const UNITS_MIN: u32 = 20;
/// Time in which the mark of a disagreement halves (VER-06).
pub const FAILURE_HALF_LIFE: Millis = Millis(14 * DAY);
/// Two disagreements no further apart than this are a quarantine (VER-07).
pub const STRIKE_WINDOW: Millis = Millis(14 * DAY);
/// Age below which the score is capped (VER-06).
pub const CAP_AGE: Millis = Millis(7 * DAY);
/// The cap in the first days (VER-06).
pub const CAP_SCORE: PartsPerMillion = PartsPerMillion(500_000);
/// Age that counts in full (VER-06).
pub const FULL_AGE: Millis = Millis(30 * DAY);
/// How far a task without any majority moves the mark of each of its nodes towards one.
///
/// VER-03 wants a penalty for all of them but proves nothing about any: one of them may be right, and a submitter can
/// provoke it with a guest that is not deterministic. A tenth costs a clean machine a tenth of its score, halves like
/// any mark, and never quarantines.
pub const NO_MAJORITY_WEIGHT: PartsPerMillion = PartsPerMillion(100_000);

/// Weights of consistency, attestation and age in the score (VER-06).
const WEIGHTS: [u64; 3] = [500_000, 300_000, 200_000];
const LIMBS: usize = (WINDOW as usize).div_ceil(64);

/// One machine's record. About fifty bytes, however long it worked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRecord {
    joined_at: Timestamp,
    /// One bit per unit, the newest lowest; one means that it agreed.
    agreed: [u64; LIMBS],
    /// Units in the window, at most [`WINDOW`].
    units: u32,
    /// Disagreements with a majority, ever.
    strikes: u32,
    struck_at: Option<Timestamp>,
    /// The mark of recent failures as it stood at `marked_at`.
    mark: PartsPerMillion,
    marked_at: Timestamp,
    quarantined: bool,
}

impl TrustRecord {
    /// Returns the empty record of a machine that joined at `joined_at`.
    pub fn new(joined_at: Timestamp) -> Self {
        Self {
            joined_at,
            agreed: [0; LIMBS],
            units: 0,
            strikes: 0,
            struck_at: None,
            mark: PartsPerMillion(0),
            marked_at: joined_at,
            quarantined: false,
        }
    }

    /// Notes that the machine agreed, or disagreed, with the majority of a task.
    ///
    /// A disagreement with a majority is proven: the mark jumps to one (VER-06), so the score falls to zero and comes
    /// back by half in fourteen days. The second one inside fourteen days quarantines (VER-07).
    pub fn record(&mut self, agreed: bool, at: Timestamp) {
        self.shift_in(agreed);
        if agreed {
            return;
        }
        if self.struck_at.is_some_and(|before| at.since(before) <= STRIKE_WINDOW) {
            self.quarantined = true;
        }
        self.strikes = self.strikes.saturating_add(1);
        self.struck_at = Some(at);
        self.mark = PartsPerMillion::ONE;
        self.marked_at = at;
    }

    /// Notes that a task of this machine found no majority: the unit counts as not agreed, the mark rises by
    /// [`NO_MAJORITY_WEIGHT`] of what is left of it, and it is no strike.
    pub fn mark_no_majority(&mut self, at: Timestamp) {
        self.shift_in(false);
        let mark = self.mark(at);
        let rise = NO_MAJORITY_WEIGHT.of_floor(ONE - u64::from(mark.0).min(ONE));
        self.mark = PartsPerMillion(mark.0.saturating_add(u32::try_from(rise).unwrap_or(0)));
        self.marked_at = at;
    }

    /// Returns the Trust Score.
    ///
    /// `T = clamp(0.5·consistency + 0.3·attestation + 0.2·age) · (1 − mark)`, at most [`CAP_SCORE`] in the first
    /// [`CAP_AGE`]. Every step rounds down: a machine is never believed further than it earned.
    ///
    /// - `attestation`: what its evidence is worth, see [`Evidence::attestation`](crate::Evidence::attestation)
    ///
    /// # Source
    /// VER-06.
    pub fn score(&self, attestation: PartsPerMillion, at: Timestamp) -> PartsPerMillion {
        let age = self.age(at);
        let age_share =
            (u128::from(age.0) * u128::from(ONE) / u128::from(FULL_AGE.0)).min(u128::from(ONE)) as u64;
        let attestation = u64::from(attestation.0).min(ONE);
        let parts = [u64::from(self.consistency().0), attestation, age_share];
        let sum: u64 = WEIGHTS.iter().zip(parts).map(|(weight, part)| weight * part).sum();
        let believed = (sum / ONE).min(ONE);
        let kept = ONE - u64::from(self.mark(at).0).min(ONE);
        let score = PartsPerMillion(u32::try_from(believed * kept / ONE).unwrap_or(0));
        if age < CAP_AGE { score.min(CAP_SCORE) } else { score }
    }

    /// Returns whether the machine gets work. A quarantine does not pass with time: VER-07 wants new attestation.
    pub fn standing(&self) -> Standing {
        if self.quarantined { Standing::Quarantined } else { Standing::Good }
    }

    /// Returns how long ago the machine joined.
    pub fn age(&self, at: Timestamp) -> Millis {
        at.since(self.joined_at)
    }

    /// Returns how many work units it did, at most [`WINDOW`].
    #[cfg(test)]
    fn units(&self) -> u32 {
        self.units
    }

    /// Returns how often it disagreed with a majority, ever.
    #[cfg(test)]
    fn strikes(&self) -> u32 {
        self.strikes
    }

    /// Returns the share of recent units that agreed, rounded down.
    fn consistency(&self) -> PartsPerMillion {
        let agreed: u32 = self.agreed.iter().map(|limb| limb.count_ones()).sum();
        let units = self.units.max(UNITS_MIN);
        PartsPerMillion(u32::try_from(u64::from(agreed) * ONE / u64::from(units)).unwrap_or(0))
    }

    /// Returns the mark of recent failures.
    fn mark(&self, at: Timestamp) -> PartsPerMillion {
        halved(self.mark, at.since(self.marked_at), FAILURE_HALF_LIFE)
    }

    fn shift_in(&mut self, agreed: bool) {
        let mut carry = u64::from(agreed);
        for limb in &mut self.agreed {
            let next = *limb >> 63;
            *limb = *limb << 1 | carry;
            carry = next;
        }
        // Bits beyond the window fall off the last limb.
        self.agreed[LIMBS - 1] &= (1 << (WINDOW as usize % 64)) - 1;
        self.units = (self.units + 1).min(WINDOW);
    }
}

#[cfg(test)]
mod tests;
