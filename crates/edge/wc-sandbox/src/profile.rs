//! The deterministic profile: one engine configuration, one clock, one source of randomness, the same on every host.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Strategy};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock};
use wc_types::cid::sha256;

use crate::limits::Metering;

/// Raised whenever the same module could give other bytes or another fuel count than before.
const PROFILE_REVISION: u32 = 1;

/// Nanoseconds that pass in the guest each time it reads a clock: time moves, so loops that wait for it end.
const CLOCK_STEP_NANOS: u64 = 1_000_000;

/// Stack of guest code. Part of the profile: where a recursion overflows must not depend on the host.
const WASM_STACK_BYTES: usize = 1 << 20;

/// Memory that a finished task's slot keeps mapped, to be cleared by writing zeros: cheaper than giving pages back and
/// faulting them in again for small guests.
const KEEP_RESIDENT_BYTES: usize = 128 << 10;

/// What of the profile a donor can choose; part of the fingerprint of compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Profile {
    pub metering: Metering,
    /// Make the bits of every NaN the same on every host; costs floating-point guests much (ADR 0003).
    pub canonical_nans: bool,
}

/// Returns the engine every worker uses to compile and to run.
pub(crate) fn engine(profile: Profile) -> wasmtime::Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    // One task at a time: these count what one component may be made of.
    pool.total_core_instances(64)
        .total_component_instances(16)
        .total_memories(16)
        .total_tables(64)
        .total_stacks(4)
        .max_core_instance_size(8 << 20)
        .max_component_instance_size(8 << 20)
        .max_core_instances_per_component(64)
        .max_memories_per_component(16)
        .max_tables_per_component(64)
        .max_tables_per_module(16)
        .max_memories_per_module(4)
        .table_elements(200_000)
        .max_memory_size(4 << 30)
        .max_unused_warm_slots(16)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .async_stack_keep_resident(KEEP_RESIDENT_BYTES)
        .pagemap_scan(Enabled::No);

    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .consume_fuel(profile.metering == Metering::Fuel)
        .epoch_interruption(false)
        .cranelift_nan_canonicalization(profile.canonical_nans)
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        .wasm_component_model(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(2 * WASM_STACK_BYTES)
        .parallel_compilation(false)
        .native_unwind_info(false)
        .memory_init_cow(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// Returns a name for everything that decides whether a compiled artifact fits `engine`.
pub(crate) fn fingerprint(engine: &Engine, profile: Profile) -> String {
    let mut hasher = DefaultHasher::new();
    PROFILE_REVISION.hash(&mut hasher);
    profile.hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// A clock that starts at zero and moves one step per reading.
#[derive(Clone, Default)]
pub(crate) struct SteppingClock {
    nanos: Arc<AtomicU64>,
}

impl SteppingClock {
    fn read_nanos(&self) -> u64 {
        self.nanos.fetch_add(CLOCK_STEP_NANOS, Ordering::Relaxed)
    }
}

impl HostMonotonicClock for SteppingClock {
    fn resolution(&self) -> u64 {
        CLOCK_STEP_NANOS
    }

    fn now(&self) -> u64 {
        self.read_nanos()
    }
}

impl HostWallClock for SteppingClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(CLOCK_STEP_NANOS)
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.read_nanos())
    }
}

/// SHA-256 in counter mode over the task's seed: the same bytes for the same task everywhere.
pub(crate) struct SeededBytes {
    seed: [u8; 32],
    block: [u8; 32],
    used: usize,
    counter: u64,
}

impl SeededBytes {
    /// Returns the stream of `seed` for one `purpose`; streams of different purposes are unrelated.
    pub fn new(seed: &[u8; 32], purpose: &str) -> Self {
        let mut input = seed.to_vec();
        input.extend_from_slice(purpose.as_bytes());
        Self { seed: sha256(&input), block: [0; 32], used: 32, counter: 0 }
    }

    fn fill(&mut self, target: &mut [u8]) {
        for byte in target {
            if self.used == self.block.len() {
                let mut input = [0; 40];
                input[..32].copy_from_slice(&self.seed);
                input[32..].copy_from_slice(&self.counter.to_le_bytes());
                self.block = sha256(&input);
                self.counter += 1;
                self.used = 0;
            }
            *byte = self.block[self.used];
            self.used += 1;
        }
    }

    /// Returns the next sixteen bytes as a number.
    pub fn next_u128(&mut self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }
}

impl rand_core::TryRng for SeededBytes {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Infallible> {
        self.fill(target);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_however_they_are_read() {
        let mut whole = [0; 100];
        SeededBytes::new(&[7; 32], "random").fill(&mut whole);
        let mut parts = [0; 100];
        let mut stream = SeededBytes::new(&[7; 32], "random");
        let (head, tail) = parts.split_at_mut(33);
        stream.fill(head);
        stream.fill(tail);
        assert_eq!(whole, parts);
        let mut other = [0; 100];
        SeededBytes::new(&[7; 32], "insecure").fill(&mut other);
        assert_ne!(whole, other);
    }

    #[test]
    fn every_choice_changes_the_fingerprint() {
        let print = |metering, canonical_nans| {
            let profile = Profile { metering, canonical_nans };
            fingerprint(&engine(profile).expect("engine"), profile)
        };
        assert_ne!(print(Metering::Fuel, true), print(Metering::None, true));
        assert_ne!(print(Metering::Fuel, true), print(Metering::Fuel, false));
        assert_eq!(print(Metering::Fuel, true), print(Metering::Fuel, true));
    }
}
