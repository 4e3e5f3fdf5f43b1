//! Halving over time, in integers.

use wc_types::{Millis, PartsPerMillion};

/// `2^(-1/2^k)` for k = 1 … 20, times 2^32, rounded to nearest.
///
/// # Source
/// Computed with 60 decimal digits. Any fraction of a half-life is a sum of these powers of two, so the factor for it is
/// a product of entries of this table.
const ROOTS_OF_HALF: [u64; 20] = [
    0xb504_f334,
    0xd744_fccb,
    0xeac0_c6e8,
    0xf525_7d15,
    0xfa83_b2db,
    0xfd3e_0c0d,
    0xfe9e_115c,
    0xff4e_cb59,
    0xffa7_5652,
    0xffd3_a752,
    0xffe9_d2b3,
    0xfff4_e91c,
    0xfffa_747f,
    0xfffd_3a3b,
    0xfffe_9d1d,
    0xffff_4e8e,
    0xffff_a747,
    0xffff_d3a3,
    0xffff_e9d2,
    0xffff_f4e9,
];

/// Returns `amount · 2^(-elapsed / half_life)`, rounded to nearest; the error is below two parts per million.
///
/// A half-life of zero is read as one millisecond.
pub(crate) fn halved(amount: PartsPerMillion, elapsed: Millis, half_life: Millis) -> PartsPerMillion {
    let half_life = half_life.0.max(1);
    let whole = elapsed.0 / half_life;
    if whole >= 32 {
        return PartsPerMillion(0);
    }
    // The fraction of a half-life in twenty bits; what is cut off is less than one part per million of a half-life.
    let fraction = (u128::from(elapsed.0 % half_life) << ROOTS_OF_HALF.len()) / u128::from(half_life);
    let mut factor: u64 = 1 << 32;
    for (place, root) in ROOTS_OF_HALF.iter().enumerate() {
        if fraction >> (ROOTS_OF_HALF.len() - 1 - place) & 1 == 1 {
            factor = (factor * root) >> 32;
        }
    }
    let scaled = (u64::from(amount.0) * factor) >> whole;
    let rounded = (scaled + (1 << 31)) >> 32;
    PartsPerMillion(u32::try_from(rounded).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HALF_LIFE: Millis = Millis(14 * 24 * 3_600_000);

    #[test]
    fn one_halves_and_halves_again() {
        for (half_lives, left) in
            [(0, 1_000_000), (1, 500_000), (2, 250_000), (3, 125_000), (10, 977), (32, 0), (9999, 0)]
        {
            let elapsed = Millis(HALF_LIFE.0 * half_lives);
            assert_eq!(halved(PartsPerMillion::ONE, elapsed, HALF_LIFE).0, left, "{half_lives} half-lives");
        }
        assert_eq!(halved(PartsPerMillion::ONE, Millis(u64::MAX), HALF_LIFE).0, 0);
        assert_eq!(halved(PartsPerMillion::ONE, Millis(5), Millis(0)).0, 31_250);
    }

    proptest! {
        #[test]
        fn integers_follow_the_exponential_within_two_millionths(
            amount in 0u32..=1_000_000,
            elapsed in 0u64..=HALF_LIFE.0 * 8,
        ) {
            let exact = f64::from(amount) * (-(elapsed as f64) / HALF_LIFE.0 as f64).exp2();
            let ours = halved(PartsPerMillion(amount), Millis(elapsed), HALF_LIFE).0;
            prop_assert!((f64::from(ours) - exact).abs() < 2.0, "{ours} is not {exact}");
        }

        #[test]
        fn time_only_lowers(amount in 0u32..=1_000_000, a in 0u64..1 << 33, b in 0u64..1 << 33) {
            let (early, late) = (a.min(b), a.max(b));
            let at = |elapsed| halved(PartsPerMillion(amount), Millis(elapsed), HALF_LIFE);
            prop_assert!(at(late) <= at(early));
        }
    }
}
