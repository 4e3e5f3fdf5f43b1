//! What validated work is worth.

use wc_types::charter::Charter;
use wc_types::{Fuel, MicroNcu};

/// Returns what one accepted replica earns, in micro-NCU.
///
/// Fuel divided by the charter's rate, rounded down, and at least one: a task that was run, compared and found right
/// leaves a visible entry in its donor's account even when it did next to nothing. What rounding cuts off stays with
/// the submitter, so a posting always balances. A rate of zero is read as one.
///
/// # Source
/// CRD-01: 1 NCU is one TFLOP/s for one second. [`Charter::fuel_per_micro_ncu`] says how that becomes fuel.
pub fn price(fuel: Fuel, charter: &Charter) -> MicroNcu {
    MicroNcu((fuel.0 / charter.fuel_per_micro_ncu.max(1)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_priced_by_fuel_and_rounded_down_to_at_least_one() {
        let charter = Charter::default();
        let table =
            [(0, 1), (1, 1), (999_999, 1), (1_999_999, 1), (2_000_000, 2), (1_000_000_000_000, 1_000_000)];
        for (fuel, expected) in table {
            assert_eq!(price(Fuel(fuel), &charter), MicroNcu(expected), "{fuel}");
        }
        assert_eq!(price(Fuel(u64::MAX), &charter), MicroNcu(u64::MAX / 1_000_000));
    }

    #[test]
    fn a_rate_of_zero_does_not_divide() {
        let charter = Charter { fuel_per_micro_ncu: 0, ..Charter::default() };
        assert_eq!(price(Fuel(7), &charter), MicroNcu(7));
    }
}
