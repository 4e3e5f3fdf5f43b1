//! Hundreds of worlds, one per seed. `WC_SIM_SEED=N` runs that one only, `WC_SIM_SEEDS=N` runs the first N.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use wc_tests::sim::{Ran, run};

/// Seeds that every run tries.
const SEEDS: u64 = 240;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_world_stays_sound_and_every_job_ends_once_it_heals() {
    let one = from_environment("WC_SIM_SEED");
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("WC_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let next = AtomicU64::new(seeds.start);
    let (worlds, wrong): (Mutex<Vec<Ran>>, Mutex<Vec<String>>) = Default::default();
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    match run(seed) {
                        Ok(ran) => worlds.lock().expect("no panic").push(ran),
                        Err(error) => wrong.lock().expect("no panic").push(error),
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic");
    assert!(
        wrong.is_empty(),
        "{} of {} seeds fail:\n{}",
        wrong.len(),
        seeds.end - seeds.start,
        wrong.join("\n\n")
    );
    let worlds = worlds.into_inner().expect("no panic");
    let sum = |of: fn(&Ran) -> u64| worlds.iter().map(of).sum::<u64>();
    println!(
        "{} worlds: {} facts, {} donors, {} jobs completed, {} tasks accepted, {} leases, {} quarantined, {} restarts; \
         credit faded in {} entries, was taken back in {}, expired in {}",
        worlds.len(),
        sum(|ran| ran.facts),
        sum(|ran| ran.donors as u64),
        sum(|ran| ran.completed as u64),
        sum(|ran| ran.accepted),
        sum(|ran| ran.granted),
        sum(|ran| ran.quarantined as u64),
        sum(|ran| ran.restarts as u64),
        sum(|ran| ran.faded[0]),
        sum(|ran| ran.faded[1]),
        sum(|ran| ran.faded[2]),
    );
}

#[test]
fn the_same_seed_makes_the_same_world() {
    assert_eq!(run(1), run(1));
}
