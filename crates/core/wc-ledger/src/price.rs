//! What validated work is worth.

use wc_types::charter::Charter;
use wc_types::node::CaliberClass;
use wc_types::{Fuel, MicroNcu, PartsPerMillion};

/// Bytes in a GiB.
const GIB: u128 = 1 << 30;

/// How a guest's computing was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    /// WebAssembly: deterministic, so replicas that agree on a result agree on it too.
    Fuel(Fuel),
    /// A virtual machine: time of its processors, and what this machine's verified benchmark burns in a second.
    CpuTime {
        /// Time, in microseconds of one core.
        micros: u64,
        /// Fuel that the machine's verified benchmark burns in a second of one core.
        fuel_per_second: u64,
    },
}

/// What accepted work used, in the dimensions of CRD-01. What nobody can validate is zero.
///
/// | dimension | today |
/// |---|---|
/// | compute | WebAssembly fuel, the least that any agreeing replica reported |
/// | network | bytes of the result, the least that any agreeing replica reported |
/// | memory  | zero: its size is measured, how long it was held is the node's word alone |
/// | storage | zero: likewise |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Computing.
    pub compute: Compute,
    /// Memory held over time, in byte-seconds.
    pub memory_byte_seconds: u64,
    /// Storage held over time, in byte-seconds.
    pub storage_byte_seconds: u64,
    /// Bytes produced for others to fetch.
    pub network_bytes: u64,
}

impl Work {
    /// Returns WebAssembly work with its result.
    pub fn wasm(fuel: Fuel, output_bytes: u64) -> Self {
        Self {
            compute: Compute::Fuel(fuel),
            memory_byte_seconds: 0,
            storage_byte_seconds: 0,
            network_bytes: output_bytes,
        }
    }
}

/// Returns what one accepted replica earns, in micro-NCU: the price of its dominant dimension.
///
/// Rounded down, and at least one: a task that was run, compared and found right leaves a visible entry in its donor's
/// account even when it did next to nothing. What rounding cuts off stays with the submitter, so a posting always
/// balances. A rate of zero prices no memory, storage or network; for fuel it is read as one.
///
/// # Source
/// CRD-01: 1 NCU is one TFLOP/s for one second; earn and spend use the dominant dimension (Ghodsi et al., "Dominant
/// Resource Fairness", NSDI 2011, §4). [`Charter::fuel_per_micro_ncu`] says how that becomes fuel.
pub fn price(work: &Work, charter: &Charter) -> MicroNcu {
    let mut most = compute(work.compute, charter);
    if let Some(economy) = &charter.economy {
        let held = |bytes: u64, rate: u64| u128::from(bytes) * u128::from(rate) / GIB;
        let others = [
            held(work.memory_byte_seconds, economy.memory_gib_second),
            held(work.storage_byte_seconds, economy.storage_gib_second),
            held(work.network_bytes, economy.network_gib),
        ];
        most = others.into_iter().fold(most, u128::max);
    }
    MicroNcu(u64::try_from(most).unwrap_or(u64::MAX).max(1))
}

/// Returns what comes back of a charge when a donor who gave hardware of class `donated` is served by class `used`:
/// `step` of the charge for each class below, and never more than the charge. A higher class is free.
///
/// # Source
/// CRD-08: the refund has the multiplier `1 + (donated − used) · 0.3`, which is one where nothing was lost. What exceeds
/// one is given back.
pub fn downgrade_refund(
    charged: MicroNcu,
    donated: CaliberClass,
    used: CaliberClass,
    step: PartsPerMillion,
) -> MicroNcu {
    let classes = (donated as u32).saturating_sub(used as u32);
    let share = PartsPerMillion(step.0.saturating_mul(classes)).min(PartsPerMillion::ONE);
    MicroNcu(share.of_floor(charged.0))
}

fn compute(compute: Compute, charter: &Charter) -> u128 {
    let fuel = match compute {
        Compute::Fuel(fuel) => u128::from(fuel.0),
        // Time counts as the fuel that the same core would have burnt, so the same work earns the same on any host.
        Compute::CpuTime { micros, fuel_per_second } => {
            let most = charter.economy.as_ref().map_or(0, |economy| economy.fuel_per_cpu_second_max);
            u128::from(micros) * u128::from(fuel_per_second.min(most)) / 1_000_000
        }
    };
    fuel / u128::from(charter.fuel_per_micro_ncu.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wc_types::charter::Economy;

    fn fuel(fuel: u64) -> Work {
        Work::wasm(Fuel(fuel), 0)
    }

    #[test]
    fn work_is_priced_by_fuel_and_rounded_down_to_at_least_one() {
        let charter = Charter::default();
        let table =
            [(0, 1), (1, 1), (999_999, 1), (1_999_999, 1), (2_000_000, 2), (1_000_000_000_000, 1_000_000)];
        for (burnt, expected) in table {
            assert_eq!(price(&fuel(burnt), &charter), MicroNcu(expected), "{burnt}");
        }
        assert_eq!(price(&fuel(u64::MAX), &charter), MicroNcu(u64::MAX / 1_000_000));
    }

    #[test]
    fn a_rate_of_zero_does_not_divide() {
        let charter = Charter { fuel_per_micro_ncu: 0, ..Charter::default() };
        assert_eq!(price(&fuel(7), &charter), MicroNcu(7));
    }

    #[test]
    fn cpu_time_earns_what_the_same_core_would_have_burnt_up_to_a_bound() {
        let charter = Charter::default();
        let earned = |micros, fuel_per_second| {
            let compute = Compute::CpuTime { micros, fuel_per_second };
            price(&Work { compute, ..fuel(0) }, &charter).0
        };
        assert_eq!(earned(1_000_000, 2_000_000_000), 2000);
        assert_eq!(earned(1_000_000, u64::MAX), 5000, "a benchmark beyond belief counts as a fast core");
        assert_eq!(earned(u64::MAX, 0), 1);
        assert_eq!(earned(u64::MAX, u64::MAX), u64::MAX / 200);
    }

    #[test]
    fn a_lower_class_than_was_donated_gives_three_tenths_of_the_charge_back_for_each_step() {
        use CaliberClass::{C0, C1, C2, C4};
        let refund =
            |donated, used| downgrade_refund(MicroNcu(1001), donated, used, PartsPerMillion(300_000)).0;
        let table = [(C1, C1, 0), (C1, C0, 300), (C4, C2, 600), (C4, C1, 900), (C4, C0, 1001), (C0, C4, 0)];
        for (donated, used, expected) in table {
            assert_eq!(refund(donated, used), expected, "{donated:?} to {used:?}");
        }
    }

    #[test]
    fn the_dominant_dimension_is_paid_and_an_unpriced_one_is_not() {
        let mut charter = Charter::default();
        let work = Work { network_bytes: 10 << 30, memory_byte_seconds: u64::MAX, ..fuel(5_000_000) };
        assert_eq!(price(&work, &charter), MicroNcu(5));
        charter.economy = Some(Economy { network_gib: 40, ..Economy::default() });
        assert_eq!(price(&work, &charter), MicroNcu(400));
        assert_eq!(price(&Work { network_bytes: 1 << 20, ..work }, &charter), MicroNcu(5));
        charter.economy = None;
        assert_eq!(price(&work, &charter), MicroNcu(5), "a cell without these rules prices fuel alone");
    }
}
