//! Powers, hyperbolic tangents and roots without floats, the same on every machine.
//!
//! Numbers are unsigned with 32 fractional bits ([`Fixed`]). Every function is within 1e-8 of the real one over its
//! whole range (checked against `f64` in the tests, which ask for 1e-8; ranking needs 1e-5).

/// An unsigned number with 32 fractional bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fixed(pub(crate) u64);

impl Fixed {
    /// The number one.
    pub(crate) const ONE: Self = Self(1 << 32);
    /// log2(e), rounded to nearest.
    const LOG2_E: u64 = 6_196_328_019;

    /// Returns `numerator / denominator`, saturating; a zero denominator counts as one.
    pub(crate) fn ratio(numerator: u128, denominator: u128) -> Self {
        let scaled = numerator.checked_shl(32).filter(|scaled| scaled >> 32 == numerator);
        let quotient = match scaled {
            Some(scaled) => scaled / denominator.max(1),
            None => numerator / (denominator >> 32).max(1),
        };
        Self(u64::try_from(quotient).unwrap_or(u64::MAX))
    }

    /// Returns the number in parts per million, rounded to nearest.
    pub(crate) fn to_ppm(self) -> u32 {
        let ppm = (u128::from(self.0) * 1_000_000 + (1 << 31)) >> 32;
        u32::try_from(ppm).unwrap_or(u32::MAX)
    }
}

/// Returns 2 to the power of minus `x`.
///
/// # Source
/// Splits off the whole part as a shift; the rest is the Taylor series of exp at `-fraction * ln 2`, whose terms fall
/// below 2^-40 before the fourteenth.
pub(crate) fn half_to_the(x: Fixed) -> Fixed {
    // ln(2) with 48 fractional bits, rounded to nearest.
    const LN_2: i128 = 195_103_586_505_167;
    let whole = x.0 >> 32;
    if whole >= 34 {
        return Fixed(0);
    }
    let fraction = i128::from(x.0 & 0xFFFF_FFFF);
    let t = (fraction * LN_2) >> 32;
    let one = 1i128 << 48;
    let mut sum = one;
    for term in (1..=13).rev() {
        sum = one - ((t * sum / term) >> 48);
    }
    let value = u64::try_from((sum + (1 << 15)) >> 16).unwrap_or(0);
    Fixed(value >> whole)
}

/// Returns the hyperbolic tangent of `x`.
pub(crate) fn tanh(x: Fixed) -> Fixed {
    // exp(-2x) = 2^(-2x * log2(e)); beyond 16 the tangent is one to all bits.
    if x.0 >= 16 << 32 {
        return Fixed::ONE;
    }
    let exponent = (u128::from(x.0) * 2 * u128::from(Fixed::LOG2_E)) >> 32;
    let e = half_to_the(Fixed(u64::try_from(exponent).unwrap_or(u64::MAX))).0;
    Fixed::ratio(u128::from(Fixed::ONE.0 - e), u128::from(Fixed::ONE.0 + e))
}

/// Returns the square root of a whole number.
pub(crate) fn sqrt(n: u64) -> Fixed {
    Fixed(u64::try_from((u128::from(n) << 64).isqrt()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn real(x: Fixed) -> f64 {
        x.0 as f64 / 4_294_967_296.0
    }

    #[test]
    fn the_ends_of_the_range_are_exact() {
        assert_eq!(half_to_the(Fixed(0)), Fixed::ONE);
        assert_eq!(half_to_the(Fixed::ONE), Fixed(1 << 31));
        assert_eq!(half_to_the(Fixed(u64::MAX)), Fixed(0));
        assert_eq!(tanh(Fixed(0)), Fixed(0));
        assert_eq!(tanh(Fixed(u64::MAX)), Fixed::ONE);
        assert_eq!(sqrt(0), Fixed(0));
        assert_eq!(sqrt(10_000), Fixed(100 << 32));
        assert_eq!(Fixed::ratio(u128::MAX, 0), Fixed(u64::MAX));
    }

    proptest! {
        #[test]
        fn powers_are_within_their_bound(bits in 0u64..(40 << 32)) {
            let x = Fixed(bits);
            prop_assert!((real(half_to_the(x)) - (-real(x)).exp2()).abs() < 1e-8);
        }

        #[test]
        fn tangents_are_within_their_bound(bits in 0u64..(20 << 32)) {
            let x = Fixed(bits);
            prop_assert!((real(tanh(x)) - real(x).tanh()).abs() < 1e-8);
        }

        #[test]
        fn roots_are_within_their_bound(n in 0u64..1 << 50) {
            prop_assert!((real(sqrt(n)) - (n as f64).sqrt()).abs() < 1e-8);
        }

        #[test]
        fn ratios_never_panic(n in any::<u128>(), d in any::<u128>()) {
            let _ = Fixed::ratio(n, d);
        }
    }
}
