//! Amounts that carry their unit. Arithmetic is checked; rounding is named at the call site.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $suffix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $raw);

        impl $name {
            /// Returns the sum, or `None` on overflow.
            pub fn checked_add(self, other: Self) -> Option<Self> {
                self.0.checked_add(other.0).map(Self)
            }

            /// Returns the sum, or the largest amount on overflow.
            pub fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// Returns the difference, or zero when `other` is larger.
            pub fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", self.0, $suffix)
            }
        }
    };
}

unit!(
    /// A number of bytes.
    Bytes, u64, " B"
);
unit!(
    /// Deterministic work of a WebAssembly guest, in units of the engine's fuel.
    Fuel, u64, " fuel"
);
unit!(
    /// A length of time in milliseconds.
    Millis, u64, " ms"
);
unit!(
    /// Credit: 1 NCU = 1,000,000 micro-NCU (GEN-10).
    MicroNcu, u64, " µNCU"
);
unit!(
    /// A ratio in parts per million; 1,000,000 is one. Carries trust scores and every governed fraction.
    PartsPerMillion, u32, " ppm"
);

impl PartsPerMillion {
    /// The ratio one.
    pub const ONE: Self = Self(1_000_000);

    /// Returns `amount * self`, rounded towards zero.
    pub fn of_floor(self, amount: u64) -> u64 {
        let product = u128::from(amount) * u128::from(self.0) / 1_000_000;
        u64::try_from(product).unwrap_or(u64::MAX)
    }
}
