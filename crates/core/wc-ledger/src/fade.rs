//! How credit fades: half of what is above the floor in a governed number of days, in integers.

use wc_types::charter::Economy;
use wc_types::{MicroNcu, PartsPerMillion};

/// Fraction bits of a factor.
const FACTOR_BITS: u32 = 62;
/// Fraction bits of an exponent: half-lives per day.
const EXPONENT_BITS: u32 = 32;

/// `2^(-1/2^k)` for k = 1 … 32, times 2^62, rounded down: each is the square root of the one before it.
const ROOTS_OF_HALF: [u64; EXPONENT_BITS as usize] = roots_of_half();

const fn roots_of_half() -> [u64; EXPONENT_BITS as usize] {
    let mut roots = [0; EXPONENT_BITS as usize];
    let mut last: u64 = 1 << (FACTOR_BITS - 1);
    let mut place = 0;
    while place < roots.len() {
        last = ((last as u128) << FACTOR_BITS).isqrt() as u64;
        roots[place] = last;
        place += 1;
    }
    roots
}

/// What is left of an amount after one day.
///
/// The factor is `2^(-acceleration / half_life)` with an error below 3·10⁻¹⁰: the exponent is cut to 32 bits, which
/// makes the factor too large by at most `ln 2 · 2⁻³²`, and each of at most 32 products loses at most 2⁻⁶². Over 90 days that is
/// a relative error below 2·10⁻⁸. Rounding an amount down loses less than one micro-NCU a day, in the limit less than
/// `1 / (1 − 2^(−1/45))`, 66 micro-NCU. A test holds both against the exact curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained(u64);

impl Retained {
    /// Returns what one day leaves, for a half-life in days that is shortened by `acceleration`; one is none. A
    /// half-life of zero is read as one day.
    pub fn of_day(half_life_days: u16, acceleration: PartsPerMillion) -> Self {
        let day = u128::from(half_life_days.max(1)) * u128::from(PartsPerMillion::ONE.0);
        let exponent = (u128::from(acceleration.0) << EXPONENT_BITS) / day;
        let whole = u32::try_from(exponent >> EXPONENT_BITS).unwrap_or(u32::MAX);
        if whole >= FACTOR_BITS {
            return Self(0);
        }
        let mut factor: u64 = 1 << FACTOR_BITS;
        for (place, root) in (1u32..).zip(ROOTS_OF_HALF) {
            if exponent >> (EXPONENT_BITS - place) & 1 == 1 {
                factor = ((u128::from(factor) * u128::from(root)) >> FACTOR_BITS) as u64;
            }
        }
        Self(factor >> whole)
    }

    /// Returns what is left of `amount`, rounded down.
    pub fn of_floor(self, amount: u64) -> u64 {
        ((u128::from(amount) * u128::from(self.0)) >> FACTOR_BITS) as u64
    }

    /// Returns what is left of a balance that may not fall below `floor`. Never more than it was (E-57).
    pub fn above(self, before: MicroNcu, floor: MicroNcu) -> MicroNcu {
        MicroNcu(self.of_floor(before.0)).max(before.min(floor))
    }
}

/// How much faster than its half-life credit fades now, and whether that is still growing (CRD-06).
///
/// ```text
/// steady ──outstanding > 110 % of redemption──► rising by a step a day, up to the bound
///   ▲                                              │
///   └── falling by a step a day ◄──outstanding < 100 %, or nobody redeems
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acceleration {
    /// The factor in force; one is none.
    pub factor: PartsPerMillion,
    /// Whether it grows with each day.
    pub rising: bool,
}

impl Default for Acceleration {
    fn default() -> Self {
        Self { factor: PartsPerMillion::ONE, rising: false }
    }
}

impl Acceleration {
    /// Returns the acceleration of the next day.
    ///
    /// - `outstanding`: what accounts and reserves hold together
    /// - `redeemed`: what submitters paid with in the trailing 30 days
    ///
    /// Where less than [`Economy::redemption_min`] of what is outstanding is redeemed, nobody outbids anybody, and
    /// plain decay bounds what is outstanding to about 65 days of earnings: it does not accelerate there. Otherwise one submitter with one paid task
    /// in a cell that gives everything away would double everybody's decay.
    pub fn next(self, outstanding: u64, redeemed: u64, economy: &Economy) -> Self {
        let exceeds = |share: PartsPerMillion| {
            u128::from(outstanding) * 1_000_000 > u128::from(redeemed) * u128::from(share.0)
        };
        let spends = u128::from(redeemed) * 1_000_000
            >= u128::from(outstanding) * u128::from(economy.redemption_min.0)
            && redeemed > 0;
        let rising =
            spends && (exceeds(economy.outstanding_max) || (self.rising && exceeds(economy.outstanding_min)));
        let (now, step) = (self.factor.0, economy.acceleration_step.0);
        let factor = if rising {
            now.saturating_add(step).min(economy.acceleration_max.0)
        } else {
            now.saturating_sub(step)
        };
        Self { factor: PartsPerMillion(factor.max(PartsPerMillion::ONE.0)), rising }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NCU: u64 = 1_000_000;

    fn plain() -> Retained {
        Retained::of_day(45, PartsPerMillion::ONE)
    }

    fn after(days: u32, mut amount: u64) -> u64 {
        for _ in 0..days {
            amount = plain().above(MicroNcu(amount), MicroNcu(0)).0;
        }
        amount
    }

    #[test]
    fn a_thousand_ncu_are_five_hundred_after_forty_five_days() {
        let left = after(45, 1000 * NCU);
        assert!(left.abs_diff(500 * NCU) <= 10 * NCU, "{left}");
        // Far closer than the requirement asks for.
        assert!(left.abs_diff(500 * NCU) <= 66, "{left}");
    }

    #[test]
    fn ninety_days_follow_the_exact_curve() {
        for start in [NCU, 1000 * NCU, u64::MAX / 4] {
            for days in 1..=90 {
                let exact = start as f64 * (-f64::from(days) / 45.0).exp2();
                let ours = after(days, start) as f64;
                assert!(
                    (ours - exact).abs() <= exact * 2e-8 + 66.0,
                    "{start} after {days} days: {ours}, not {exact}"
                );
            }
        }
    }

    #[test]
    fn what_is_earned_does_not_fade_below_the_floor_and_never_grows() {
        let retained = plain();
        let above = |before, floor| retained.above(MicroNcu(before), MicroNcu(floor)).0;
        assert_eq!(above(1000, 0), 984);
        assert_eq!(above(1000, 990), 990, "the floor holds");
        assert_eq!(above(1000, 1000), 1000);
        assert_eq!(above(1000, 5000), 1000, "a floor above the balance raises nothing (E-57)");
        assert_eq!(above(1, 0), 0, "the last micro-NCU goes too");
        assert_eq!(above(0, 7), 0);
    }

    #[test]
    fn acceleration_shortens_the_half_life() {
        let twice = Retained::of_day(45, PartsPerMillion(2_000_000));
        let slow = plain();
        let two_days = slow.of_floor(slow.of_floor(1 << 40));
        assert!(twice.of_floor(1 << 40).abs_diff(two_days) < 1000);
        assert_eq!(Retained::of_day(0, PartsPerMillion::ONE).of_floor(8), 4);
        assert_eq!(Retained::of_day(0, PartsPerMillion(u32::MAX)).of_floor(u64::MAX), 0);
    }

    fn run(days: u32, outstanding: u64, redeemed: u64) -> Acceleration {
        let economy = Economy::default();
        (0..days).fold(Acceleration::default(), |now, _| now.next(outstanding, redeemed, &economy))
    }

    #[test]
    fn decay_accelerates_while_more_is_outstanding_than_is_redeemed() {
        assert_eq!(run(1, 1100, 1000), Acceleration::default(), "110 % is not yet above 110 %");
        let three = run(3, 1101, 1000);
        assert_eq!((three.factor.0, three.rising), (1_300_000, true));
        assert_eq!(run(40, 1101, 1000).factor, Economy::default().acceleration_max);
        // It goes on below 110 % until it is below 100 %, then it slows down.
        let economy = Economy::default();
        let between = three.next(1050, 1000, &economy);
        assert_eq!(between.factor.0, 1_400_000);
        let below = between.next(999, 1000, &economy);
        assert_eq!((below.factor.0, below.rising), (1_300_000, false));
        assert_eq!(
            below.next(1050, 1000, &economy).factor.0,
            1_200_000,
            "and does not start again before 110 %"
        );
    }

    #[test]
    fn a_cell_in_which_nobody_spends_does_not_accelerate() {
        assert_eq!(run(30, 1_000_000, 0), Acceleration::default());
        assert_eq!(run(30, 1_000_000, 9_999), Acceleration::default(), "less than 1 % is nobody");
        assert_eq!(run(30, 1_000_000, 10_000).factor.0, 2_000_000);
        assert_eq!(run(30, 0, 0), Acceleration::default());
    }

    proptest! {
        #[test]
        fn decay_never_raises(before in any::<u64>(), floor in any::<u64>(), speed in any::<u32>(), days in any::<u16>()) {
            let after = Retained::of_day(days, PartsPerMillion(speed)).above(MicroNcu(before), MicroNcu(floor)).0;
            prop_assert!(after <= before);
            prop_assert!(after >= before.min(floor));
        }
    }
}
