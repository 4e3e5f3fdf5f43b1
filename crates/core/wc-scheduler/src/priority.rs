//! Which job goes first: the composite score of SCH-20 in parts per million.
//!
//! `P = 0.35·S_ncu + 0.25·S_vote + 0.15·S_size + 0.15·S_age + 0.10·S_cool`, the weights governed by the charter. The
//! constants that the catalogue gives in "NCU" are hours of the 1-TFLOP/s unit, so 3,600 NCU each (erratum E-16).

use wc_types::{MicroNcu, Millis, PartsPerMillion};

use crate::fixed::{Fixed, half_to_the, sqrt, tanh};

/// One hour of the 1-TFLOP/s unit.
const NCU_HOUR: u128 = 3_600_000_000;
/// Balance that is worth half of the signal: 100 NCU-hours, until the cell has a median balance (E-17).
const BALANCE_HALF: u128 = 100 * NCU_HOUR;
/// Request that halves the signal: 10 NCU-hours.
const SIZE_HALF: u128 = 10 * NCU_HOUR;
/// Recent use that halves the signal: 50 NCU-hours.
const COOL_HALF: u128 = 50 * NCU_HOUR;
/// Wait that is worth half of the signal: 4 hours.
const AGE_HALF_MS: u128 = 4 * 3_600_000;

/// What a job's place in the queue depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Balance of the submitter.
    pub balance: MicroNcu,
    /// Votes for the job minus votes against it.
    pub votes_net: i64,
    /// Verified people who voted in the last 30 days.
    pub voters: u64,
    /// What the job is expected to cost.
    pub requested: MicroNcu,
    /// How long it has waited.
    pub waited: Millis,
    /// What the submitter used in the last 24 hours.
    pub used_recently: MicroNcu,
}

/// Returns the composite score: higher goes first.
///
/// - `weights`: in the order ncu, vote, size, age, cool, as in the charter
pub fn composite(signals: &Signals, weights: &[PartsPerMillion; 5]) -> PartsPerMillion {
    let falling = |amount: u128, half: u128| half_to_the(Fixed::ratio(amount, half)).to_ppm();
    let rising = |amount: u128, half: u128| 1_000_000 - falling(amount, half);
    let values = [
        rising(signals.balance.0.into(), BALANCE_HALF),
        vote(signals.votes_net, signals.voters),
        falling(signals.requested.0.into(), SIZE_HALF),
        rising(signals.waited.0.into(), AGE_HALF_MS),
        falling(signals.used_recently.0.into(), COOL_HALF),
    ];
    let sum: u64 =
        weights.iter().zip(values).map(|(weight, value)| u64::from(weight.0) * u64::from(value)).sum();
    PartsPerMillion(u32::try_from((sum + 500_000) / 1_000_000).unwrap_or(u32::MAX))
}

/// `0.5 + 0.5·tanh(2·net / √voters)`; one half without voters.
fn vote(net: i64, voters: u64) -> u32 {
    if voters == 0 {
        return 500_000;
    }
    let slope = Fixed::ratio(u128::from(net.unsigned_abs()) << 33, sqrt(voters).0.into());
    let half = tanh(slope).to_ppm() / 2;
    if net < 0 { 500_000 - half } else { 500_000 + half }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wc_types::charter::Charter;

    fn score(signals: Signals) -> f64 {
        f64::from(composite(&signals, &Charter::default().priority_weights).0) / 1e6
    }

    fn ncu_hours(hours: u64) -> MicroNcu {
        MicroNcu(hours * 3_600_000_000)
    }

    fn hours(hours: u64) -> Millis {
        Millis(hours * 3_600_000)
    }

    #[test]
    fn the_worked_checks_of_sch_21_hold() {
        let a = Signals { balance: ncu_hours(200), requested: ncu_hours(1), ..Signals::default() };
        let b = Signals {
            requested: ncu_hours(100),
            votes_net: 500,
            voters: 10_000,
            waited: hours(8),
            ..Signals::default()
        };
        let c = Signals { requested: ncu_hours(5), waited: hours(24), ..Signals::default() };
        for (name, signals, expected) in [("a", a, 0.627), ("b", b, 0.463), ("c", c, 0.479)] {
            let actual = score(signals);
            assert!((actual - expected).abs() <= 0.001, "{name}: {actual} instead of {expected}");
        }
    }

    #[test]
    fn votes_against_count_as_much_as_votes_for() {
        assert_eq!(vote(0, 100), 500_000);
        assert_eq!(vote(7, 100) + vote(-7, 100), 1_000_000);
        assert_eq!(vote(i64::MIN, 1), 0);
        assert_eq!(vote(i64::MAX, u64::MAX), 1_000_000);
    }

    proptest! {
        #[test]
        fn the_score_is_a_ratio_and_follows_the_formula(
            balance in 0u64..1 << 50, requested in 0u64..1 << 50, waited in 0u64..1 << 40,
            used in 0u64..1 << 50, votes in -1_000_000i64..1_000_000, voters in 1u64..1_000_000,
        ) {
            let signals = Signals {
                balance: MicroNcu(balance), requested: MicroNcu(requested), waited: Millis(waited),
                used_recently: MicroNcu(used), votes_net: votes, voters,
            };
            let half = |x: u64, h: u128| (-(x as f64) / h as f64).exp2();
            let expected = 0.35 * (1.0 - half(balance, BALANCE_HALF))
                + 0.25 * (0.5 + 0.5 * (2.0 * votes as f64 / (voters as f64).sqrt()).tanh())
                + 0.15 * half(requested, SIZE_HALF)
                + 0.15 * (1.0 - half(waited, AGE_HALF_MS))
                + 0.10 * half(used, COOL_HALF);
            let actual = score(signals);
            prop_assert!((actual - expected).abs() < 1e-5, "{} {}", actual, expected);
        }
    }
}
