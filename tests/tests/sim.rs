//! Hundreds of worlds, one per seed. `cargo xtask sim --seed N --seeds COUNT` runs some of them and shows a row for each;
//! it says which in `WC_SIM_SEED` and `WC_SIM_SEEDS`.

use std::collections::BTreeMap;
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
    let chosen = from_environment("WC_SIM_SEED");
    let count = from_environment("WC_SIM_SEEDS").unwrap_or(if chosen.is_some() { 1 } else { SEEDS });
    let first = chosen.unwrap_or(0);
    let seeds = first..first.saturating_add(count);
    let next = AtomicU64::new(seeds.start);
    let (worlds, wrong): (Mutex<BTreeMap<u64, Ran>>, Mutex<Vec<String>>) = Default::default();
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
                        Ok(ran) => drop(worlds.lock().expect("no panic").insert(seed, ran)),
                        Err(error) => wrong.lock().expect("no panic").push(error),
                    }
                }
            });
        }
    });
    let (worlds, wrong) = (worlds.into_inner().expect("no panic"), wrong.into_inner().expect("no panic"));
    if chosen.is_some() {
        show(&worlds);
    }
    assert!(
        wrong.is_empty(),
        "{} of {} seeds fail:\n{}",
        wrong.len(),
        seeds.end - seeds.start,
        wrong.join("\n\n")
    );
    let sum = |of: fn(&Ran) -> u64| worlds.values().map(of).sum::<u64>();
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

/// Prints a row for each world; `cargo xtask sim` picks the rows out by how they begin.
fn show(worlds: &BTreeMap<u64, Ran>) {
    println!(
        "sim| {:>12} {:>8} {:>6} {:>9} {:>8} {:>8} {:>11} {:>8}  state",
        "seed", "facts", "donors", "completed", "accepted", "leases", "quarantined", "restarts"
    );
    for (seed, ran) in worlds {
        let state: String = ran.hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        println!(
            "sim| {seed:>12} {:>8} {:>6} {:>9} {:>8} {:>8} {:>11} {:>8}  {state}",
            ran.facts, ran.donors, ran.completed, ran.accepted, ran.granted, ran.quarantined, ran.restarts
        );
    }
}

#[test]
fn the_same_seed_makes_the_same_world() {
    assert_eq!(run(1), run(1));
}
